//! What surrounds protobuf objects: the storage and transport envelope, list and watch framing.

use crate::Error;
use crate::proto::{Cursor, put_bytes, put_uint, put_varint};

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

fn varint_len(v: u64) -> usize {
    (64 - (v | 1).leading_zeros() as usize).div_ceil(7)
}

fn field_len(n: usize) -> usize {
    1 + varint_len(n as u64) + n
}

/// The envelope of a whole object.
pub fn wrap(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + api_version.len() + kind.len() + 24);
    wrap_into(api_version, kind, raw, &mut out);
    out
}

/// [`wrap`] into a buffer.
pub fn wrap_into(api_version: &str, kind: &str, raw: &[u8], out: &mut Vec<u8>) {
    wrap_start(api_version, kind, raw.len(), out);
    out.extend_from_slice(raw);
    out.extend_from_slice(WRAP_END);
}

/// What follows the object's bytes in an envelope.
pub const WRAP_END: &[u8] = &[0x1a, 0, 0x22, 0];

/// The part of an envelope before the object's bytes, of which there will be `raw_len`; [`WRAP_END`] goes after them.
pub fn wrap_start(api_version: &str, kind: &str, raw_len: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC);
    put_varint(1 << 3 | 2, out);
    put_varint(
        (field_len(api_version.len()) + field_len(kind.len())) as u64,
        out,
    );
    put_bytes(1, api_version.as_bytes(), out);
    put_bytes(2, kind.as_bytes(), out);
    put_varint(2 << 3 | 2, out);
    put_varint(raw_len as u64, out);
}

/// What an envelope holds.
pub fn unwrap(bytes: &[u8]) -> Result<Unknown<'_>, Error> {
    let body = bytes.strip_prefix(&MAGIC[..]).ok_or(Error::NotEnvelope)?;
    let mut out = Unknown::default();
    let mut cursor = Cursor::new(body);
    while let Some((tag, wire)) = cursor.next()? {
        match tag {
            1 => {
                let mut meta = Cursor::new(wire.bytes()?);
                while let Some((tag, wire)) = meta.next()? {
                    match tag {
                        1 => out.api_version = wire.str()?,
                        2 => out.kind = wire.str()?,
                        _ => {}
                    }
                }
            }
            2 => out.raw = wire.bytes()?,
            3 => out.content_encoding = wire.str()?,
            4 => out.content_type = wire.str()?,
            _ => {}
        }
    }
    Ok(out)
}

/// Whether the bytes begin with the envelope's prefix.
pub fn is_envelope(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// A protobuf watch frame: 4 bytes of length, big-endian, and `metav1.WatchEvent` with an enveloped object.
/// `enveloped` is [`wrap`]'s result.
pub fn watch_frame(event_type: &str, enveloped: &[u8]) -> Vec<u8> {
    let object = field_len(enveloped.len());
    let len = field_len(event_type.len()) + field_len(object);
    let mut out = Vec::with_capacity(len + 4);
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    put_bytes(1, event_type.as_bytes(), &mut out);
    put_varint(2 << 3 | 2, &mut out);
    put_varint(object as u64, &mut out);
    put_bytes(1, enveloped, &mut out);
    out
}

/// The type and enveloped object of a `metav1.WatchEvent` (without the length).
pub fn watch_event(bytes: &[u8]) -> Result<(&str, &[u8]), Error> {
    let mut cursor = Cursor::new(bytes);
    let (mut kind, mut object): (&str, &[u8]) = ("", &[]);
    while let Some((tag, wire)) = cursor.next()? {
        match tag {
            1 => kind = wire.str()?,
            2 => object = crate::proto::only_field(wire.bytes()?, 1)?.unwrap_or_default(),
            _ => {}
        }
    }
    Ok((kind, object))
}

/// `metav1.ListMeta` of a protobuf list. `remaining` is the estimate of items not sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListHead<'a> {
    /// The list's version.
    pub resource_version: &'a str,
    /// The token of the next page; empty for none.
    pub continue_: &'a str,
    /// `remainingItemCount`
    pub remaining: Option<i64>,
}

impl ListHead<'_> {
    /// Appends field 1 (`metadata`) of a list.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut meta = Vec::with_capacity(64);
        put_bytes(1, b"", &mut meta);
        put_bytes(2, self.resource_version.as_bytes(), &mut meta);
        put_bytes(3, self.continue_.as_bytes(), &mut meta);
        if let Some(n) = self.remaining {
            put_uint(4, n as u64, &mut meta);
        }
        put_bytes(1, &meta, out);
    }
}

/// Appends one item (its own bytes, no envelope) as an element of field 2 (`items`) of a list.
pub fn list_item(raw: &[u8], out: &mut Vec<u8>) {
    put_bytes(2, raw, out);
}

/// The bytes [`list_item`] appends for an item of this length.
pub fn list_item_len(raw_len: usize) -> usize {
    field_len(raw_len)
}

/// The items of a protobuf list (field 2) and its `metadata.resourceVersion` and `metadata.continue`.
pub fn list_parts(raw: &[u8]) -> Result<(Vec<&[u8]>, &str, &str), Error> {
    let mut items = Vec::new();
    let (mut version, mut token) = ("", "");
    let mut cursor = Cursor::new(raw);
    while let Some((tag, wire)) = cursor.next()? {
        match tag {
            1 => {
                let mut meta = Cursor::new(wire.bytes()?);
                while let Some((tag, wire)) = meta.next()? {
                    match tag {
                        2 => version = wire.str()?,
                        3 => token = wire.str()?,
                        _ => {}
                    }
                }
            }
            2 => items.push(wire.bytes()?),
            _ => {}
        }
    }
    Ok((items, version, token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelope_round_trip() {
        let bytes = wrap("apps/v1", "Deployment", b"abc");
        assert_eq!(&bytes[..6], b"k8s\0\x0a\x15");
        let u = unwrap(&bytes).unwrap();
        assert_eq!(
            (u.api_version, u.kind, u.raw),
            ("apps/v1", "Deployment", &b"abc"[..])
        );
        assert_eq!(unwrap(b"k8s\x01").unwrap_err(), Error::NotEnvelope);
        assert!(unwrap(b"k8s\0\x0a\xff").is_err());
    }

    #[test]
    fn watch_round_trip() {
        let object = wrap("v1", "Pod", &[7; 300]);
        let frame = watch_frame("ADDED", &object);
        let len = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
        assert_eq!(len, frame.len() - 4);
        assert_eq!(watch_event(&frame[4..]).unwrap(), ("ADDED", &object[..]));
    }

    #[test]
    fn list_round_trip() {
        let mut out = Vec::new();
        ListHead {
            resource_version: "7",
            continue_: "c",
            remaining: Some(3),
        }
        .write(&mut out);
        let at = out.len();
        list_item(&[1; 200], &mut out);
        assert_eq!(out.len() - at, list_item_len(200));
        list_item(b"", &mut out);
        let (items, version, token) = list_parts(&out).unwrap();
        assert_eq!((items.len(), version, token), (2, "7", "c"));
    }
}
