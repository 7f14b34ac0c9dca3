//! What surrounds protobuf objects: the storage and transport envelope, and watch frames.

use crate::Error;

/// The prefix of every enveloped object.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// `runtime.Unknown` without copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Unknown<'a> {
    /// `apps/v1`; empty if absent.
    pub api_version: &'a str,
    /// `Deployment`; empty if absent.
    pub kind: &'a str,
    /// The object's own bytes.
    pub raw: &'a [u8],
    /// Empty for none.
    pub content_encoding: &'a str,
    /// Empty for protobuf.
    pub content_type: &'a str,
}

/// The envelope of a whole object.
pub fn wrap(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let _ = (api_version, kind, raw);
    Vec::new()
}

/// What an envelope holds.
pub fn unwrap(bytes: &[u8]) -> Result<Unknown<'_>, Error> {
    let _ = bytes;
    Err(Error::NotEnvelope)
}

/// Whether the bytes begin with the envelope's prefix.
pub fn is_envelope(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// A protobuf watch frame: 4 bytes of length, big-endian, and `metav1.WatchEvent` with an enveloped object.
/// `enveloped` is [`wrap`]'s result.
pub fn watch_frame(event_type: &str, enveloped: &[u8]) -> Vec<u8> {
    let _ = (event_type, enveloped);
    Vec::new()
}

/// The type and enveloped object of a `metav1.WatchEvent` (without the length).
pub fn watch_event(bytes: &[u8]) -> Result<(&str, &[u8]), Error> {
    let _ = bytes;
    Err(Error::NotEnvelope)
}
