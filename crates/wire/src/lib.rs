//! Schema tables and the encodings driven by them: protobuf as a serde format, schema-checked JSON and YAML, transcoding
//! from stored protobuf to JSON without a tree, and the envelopes around objects.
//!
//! Knows no Kubernetes type: tables are passed in as [`schema::Message`].
//!
//! A `serde_json::Value` made here has the *printed form*: what Go's `encoding/json` prints for the same object. Fields
//! with `omitempty` that are zero are absent; scalars and structs without a pointer and without `omitempty` are present
//! even when zero (`"resources": {}`); nulls are absent. Encoders accept values in any form and write the printed form.

pub mod envelope;
pub mod error;
pub mod json;
pub mod print;
pub mod proto;
pub mod quantity;
pub mod schema;
pub mod time;
pub mod transcode;
pub mod yaml;

pub use error::Error;
