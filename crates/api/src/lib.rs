//! Facts and vocabulary of the Kubernetes API: schema data, the resource table, quantities, selectors, Status errors,
//! field errors. No I/O.

pub mod field;
pub mod reader;
pub mod resources;
pub mod schema;
pub mod status;
pub mod text;

pub use status::Status;
