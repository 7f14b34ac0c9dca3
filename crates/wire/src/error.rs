//! Why bytes or values are refused.

/// An error of a decoder or encoder. Its text is what upstream's decoders say, without the caller's prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is not JSON or YAML; the message has upstream's form.
    #[error("{0}")]
    Syntax(String),
    /// A value has the wrong type for its field; the message has the form of Go's `encoding/json`.
    #[error("{0}")]
    Type(String),
    /// The protobuf bytes end early.
    #[error("unexpected EOF")]
    Truncated,
    /// The protobuf bytes are malformed.
    #[error("proto: {0}")]
    Protobuf(&'static str),
    /// Nesting beyond the limit (10,000 levels of JSON, 100 of protobuf).
    #[error("exceeded max depth")]
    Depth,
    /// More objects than [`crate::json::MAX_OBJECTS`].
    #[error("more than {} objects", crate::json::MAX_OBJECTS)]
    Objects,
    /// A string field holds bytes that are not UTF-8.
    #[error("proto: string field contains invalid UTF-8")]
    Utf8,
    /// The target type or the value does not fit the schema.
    #[error("{0}")]
    Mismatch(String),
    /// The bytes do not begin with the storage envelope.
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    NotEnvelope,
}

impl serde::de::Error for Error {
    fn custom<T: std::fmt::Display>(msg: T) -> Self {
        Error::Mismatch(msg.to_string())
    }
}

impl serde::ser::Error for Error {
    fn custom<T: std::fmt::Display>(msg: T) -> Self {
        Error::Mismatch(msg.to_string())
    }
}
