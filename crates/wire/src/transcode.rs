//! Stored protobuf to JSON without a tree.

use crate::Error;
use crate::schema::Message;

/// What differs from the stored bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// `metadata.resourceVersion`, which stored objects do not carry.
    pub resource_version: Option<&'a str>,
}

/// Appends the object as Go's `encoding/json` prints it, `kind` and `apiVersion` first, no trailing newline.
pub fn proto_to_json(
    raw: &[u8],
    msg: &'static Message,
    api_version: &str,
    kind: &str,
    options: &Options<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let _ = (raw, msg, api_version, kind, options, out);
    Err(Error::Protobuf("not implemented"))
}

/// The same object with `metadata.resourceVersion` set, spliced in at its place. `raw` is a message whose `metadata` is
/// tag 1.
pub fn with_resource_version(
    raw: &[u8],
    msg: &'static Message,
    rv: &str,
) -> Result<Vec<u8>, Error> {
    let _ = (raw, msg, rv);
    Err(Error::Protobuf("not implemented"))
}
