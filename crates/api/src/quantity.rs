//! Quantities: `100m`, `1.5Gi`. The encodings need them, so they live in [`wire::quantity`].

pub use wire::quantity::{Format, Quantity, QuantityError};
