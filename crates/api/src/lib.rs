//! Facts and vocabulary of the Kubernetes API: schema data, the resource table, quantities, selectors, Status errors,
//! field errors. No I/O.

pub mod cron;
pub mod defaults;
pub mod duration;
pub mod field;
pub mod intstr;
pub mod meta;
pub mod quant;
pub mod quantity;
pub mod quota;
pub mod reader;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod status;
pub mod text;
pub mod time;
pub mod validate;
pub mod view;
pub mod volumes;

pub use status::Status;
