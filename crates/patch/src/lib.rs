//! Patches: JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge patch, server-side apply.
//!
//! All work on trees in printed form (see `wire`); the caller checks the result against the schema with
//! `wire::json::normalize`.

mod json;
mod merge;
pub mod ssa;
mod strategic;

use serde_json::Value;
use wire::schema::Message;

pub use json::MAX_OPERATIONS;

/// Why a patch is refused. The text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch cannot be read (400, `BadRequest`).
    #[error("{0}")]
    BadRequest(String),
    /// The patch cannot be applied to this object (422). Upstream shows clients not this text but `the server rejected
    /// our request due to an error in our request`, reason `Invalid`, with empty details.
    #[error("{0}")]
    Unprocessable(String),
    /// Too many operations (413, `RequestEntityTooLarge`), without upstream's `Request entity too large: ` in front.
    #[error("{0}")]
    TooLarge(String),
    /// A directive or a list that strategic merge cannot handle (500, no reason).
    #[error("{0}")]
    Internal(String),
}

/// Applies RFC 6902 operations, at most [`MAX_OPERATIONS`]; copies may add 3 MiB together.
pub fn json_patch(doc: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    json::apply(doc, patch)
}

/// Applies RFC 7386.
pub fn merge_patch(doc: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    merge::apply(doc, patch)
}

/// Applies a strategic merge patch with its directives (`$patch`, `$deleteFromPrimitiveList`, `$setElementOrder`,
/// `$retainKeys`).
pub fn strategic_merge(
    doc: &Value,
    patch: &[u8],
    msg: &'static Message,
) -> Result<Value, PatchError> {
    strategic::apply(doc, patch, msg)
}

/// A patch as Go's `%v` prints it; empty for one that cannot be read.
pub fn shown(patch: &[u8]) -> String {
    wire::json::parse(patch)
        .map(|v| strategic::show(&v))
        .unwrap_or_default()
}

/// Duplicate fields in a patch, for `fieldValidation` of `Warn` and `Strict`: `duplicate field "a.b"`, and for JSON
/// patches also unknown members, each with `json patch ` in front. Empty for a patch that cannot be read.
pub fn strict_errors(patch: &[u8], json_patch: bool) -> Vec<String> {
    if json_patch {
        return json::strict_errors(patch);
    }
    wire::json::parse_strict(patch)
        .map(|(_, errors)| errors)
        .unwrap_or_default()
}

pub(crate) use wire::json::go_kind as kind;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_shown_as_go_prints_them() {
        let patch = br#"{"b":[1,"x",null],"a":{"c":true}}"#;
        assert_eq!(shown(patch), "map[a:map[c:true] b:[1 x <nil>]]");
        assert_eq!(shown(b"{"), "");
    }
}
