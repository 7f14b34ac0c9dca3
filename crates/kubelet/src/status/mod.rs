//! The pod's status: made from what the runtime has ([`generate`], pure) and sent to the apiserver ([`manager`]).

pub mod generate;
pub mod manager;
