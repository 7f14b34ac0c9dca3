//! Protobuf as a serde format, driven by a [`Message`] table.

use serde::de::Deserialize;
use serde::ser::Serialize;

use crate::Error;
use crate::schema::Message;

/// Decodes protobuf bytes of type `msg` into any serde type, borrowing strings from `bytes`. Fields the target ignores
/// are skipped by length.
pub fn from_slice<'de, T: Deserialize<'de>>(
    bytes: &'de [u8],
    msg: &'static Message,
) -> Result<T, Error> {
    let _ = (bytes, msg);
    Err(Error::Protobuf("not implemented"))
}

/// Encodes any serde type as protobuf of type `msg`, byte for byte as upstream.
pub fn to_vec<T: Serialize + ?Sized>(value: &T, msg: &'static Message) -> Result<Vec<u8>, Error> {
    let value = serde_json::to_value(value).map_err(|e| Error::Mismatch(e.to_string()))?;
    value_to_vec(&value, msg)
}

/// [`to_vec`] for a tree, without copying it.
pub fn value_to_vec(value: &serde_json::Value, msg: &'static Message) -> Result<Vec<u8>, Error> {
    let _ = (value, msg);
    Err(Error::Protobuf("not implemented"))
}
