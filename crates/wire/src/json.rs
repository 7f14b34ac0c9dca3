//! Schema-checked JSON.

use serde_json::Value;

use crate::Error;
use crate::schema::Message;

/// Whether unknown and duplicate fields are looked for (`fieldValidation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Dropped silently; `strict_errors` stays empty.
    Ignore,
    /// Dropped and collected in `strict_errors` (both `Warn` and `Strict`; the caller decides what they mean).
    Collect,
}

/// A decoded object.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The object in printed form.
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.x"`, in upstream's order.
    pub strict_errors: Vec<String>,
}

/// Decodes and checks JSON text against a schema.
pub fn decode(
    bytes: &[u8],
    msg: &'static Message,
    strictness: Strictness,
) -> Result<Decoded, Error> {
    let _ = (bytes, msg, strictness);
    Err(Error::Protobuf("not implemented"))
}

/// Checks and normalises a tree that came from elsewhere (a patch, a webhook), as [`decode`] does text.
pub fn normalize(
    value: Value,
    msg: &'static Message,
    strictness: Strictness,
) -> Result<Decoded, Error> {
    let _ = (value, msg, strictness);
    Err(Error::Protobuf("not implemented"))
}

/// Appends the object as Go prints it: fields in the order of the struct, `kind` and `apiVersion` first, no trailing
/// newline.
pub fn encode(value: &Value, msg: &'static Message, out: &mut Vec<u8>) -> Result<(), Error> {
    let _ = (value, msg, out);
    Err(Error::Protobuf("not implemented"))
}

/// Appends any tree as Go prints a map: keys sorted, `<`, `>`, `&`, U+2028 and U+2029 escaped.
pub fn encode_any(value: &Value, out: &mut Vec<u8>) {
    let _ = (value, out);
}
