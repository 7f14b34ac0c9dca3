//! Patches: JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge patch, server-side apply.

use serde_json::Value;
use wire::schema::Message;

/// Why a patch is refused. The text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch cannot be read (400).
    #[error("{0}")]
    BadRequest(String),
    /// The patch cannot be applied to this object (422).
    #[error("{0}")]
    Unprocessable(String),
    /// Too many operations (413).
    #[error("{0}")]
    TooLarge(String),
}

/// Applies RFC 6902 operations.
pub fn json_patch(doc: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let _ = (doc, patch);
    Err(PatchError::BadRequest("not implemented".into()))
}

/// Applies RFC 7386.
pub fn merge_patch(doc: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let _ = (doc, patch);
    Err(PatchError::BadRequest("not implemented".into()))
}

/// Applies a strategic merge patch with its directives.
pub fn strategic_merge(
    doc: &Value,
    patch: &[u8],
    msg: &'static Message,
) -> Result<Value, PatchError> {
    let _ = (doc, patch, msg);
    Err(PatchError::BadRequest("not implemented".into()))
}
