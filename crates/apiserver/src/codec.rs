//! Between stored bytes and objects of a served version.
//!
//! Stored objects carry neither resourceVersion nor selfLink; the resourceVersion of an object is the revision of its
//! last write. A version without a conversion reads the stored protobuf with its own schema, so that reads need no tree.

use api::Status;
use bytes::Bytes;
use serde_json::{Map, Value};
use storage::Revision;
use wire::envelope;

use crate::resource::{ResourceDef, StorageDef};

/// `apps/v1`, `v1`.
pub fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// The protobuf message within stored bytes.
pub fn stored_raw(value: &[u8]) -> Result<&[u8], Status> {
    envelope::unwrap(value).map(|u| u.raw).map_err(damaged)
}

fn damaged(e: impl std::fmt::Display) -> Status {
    Status::internal(format!("unable to decode stored object: {e}"))
}

/// The object's metadata for writing.
pub fn meta_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let map = object.as_object_mut()?;
    map.entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
}

/// A string of the metadata, empty if absent.
pub fn meta_str<'a>(object: &'a Value, key: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|m| m.get(key))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Sets a string of the metadata; empty removes it.
pub fn set_meta(object: &mut Value, key: &str, value: &str) {
    if let Some(m) = meta_mut(object) {
        if value.is_empty() {
            m.remove(key);
        } else {
            m.insert(key.to_owned(), Value::String(value.to_owned()));
        }
    }
}

/// Takes the field managers off what is never stored: reviews and the bodies of actions have no use for them.
pub fn unmanage(object: &mut Value) {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
}

/// Sets `apiVersion` and `kind`.
pub fn set_kind(object: &mut Value, api_version: &str, kind: &str) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), Value::String(api_version.to_owned()));
        map.insert("kind".into(), Value::String(kind.to_owned()));
    }
}

/// The storage of a resource that has one.
pub fn storage(def: &ResourceDef) -> Result<&StorageDef, Status> {
    def.storage.as_ref().ok_or_else(Status::method_not_allowed)
}

/// Reads stored bytes as an object of the served version.
pub fn decode(def: &ResourceDef, bytes: &[u8], revision: Revision) -> Result<Value, Status> {
    let storage = storage(def)?;
    let mut object: Value = if storage.json {
        wire::json::parse(bytes).map_err(damaged)?
    } else {
        let schema = if def.conversion.is_some() {
            storage.schema
        } else {
            def.schema
        };
        wire::proto::tree(stored_raw(bytes)?, schema).map_err(damaged)?
    };
    if let Some(c) = def.conversion {
        (c.from_storage)(&mut object);
    }
    set_kind(
        &mut object,
        &group_version(&def.group, &def.version),
        &def.kind,
    );
    set_meta(&mut object, "resourceVersion", &revision.to_string());
    Ok(object)
}

/// The bytes to store for an object of the served version. Takes resourceVersion and selfLink off the object: the former
/// is known anew once it is stored.
pub fn encode(def: &ResourceDef, object: &mut Value) -> Result<Bytes, Status> {
    let storage = storage(def)?;
    if let Some(m) = meta_mut(object) {
        m.remove("resourceVersion");
        m.remove("selfLink");
    }
    let mut converted;
    let (object, schema) = match def.conversion {
        Some(c) => {
            converted = object.clone();
            (c.to_storage)(&mut converted);
            (&mut converted, storage.schema)
        }
        None => (object, def.schema),
    };
    if storage.json {
        set_kind(object, &storage.api_version, &storage.kind);
        let mut out = Vec::new();
        wire::json::encode_any(object, &mut out);
        return Ok(out.into());
    }
    let raw = wire::proto::value_to_vec(object, schema)
        .map_err(|e| Status::internal(format!("unable to encode object: {e}")))?;
    Ok(envelope::wrap(&storage.api_version, &storage.kind, &raw).into())
}

/// The scalars of an object down to the second level, without labels, lists and whatever lies deeper: what field selectors
/// look at, at a fraction of a whole decoding. Only for stored protobuf of a version without conversion.
pub fn shallow(def: &ResourceDef, bytes: &[u8]) -> Option<Value> {
    let storage = def.storage.as_ref()?;
    if storage.json || def.conversion.is_some() {
        return None;
    }
    let found: Shallow = wire::proto::from_slice(stored_raw(bytes).ok()?, def.schema).ok()?;
    Some(found.0)
}

/// See [`shallow`].
struct Shallow(Value);

impl<'de> serde::Deserialize<'de> for Shallow {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Shallow, D::Error> {
        serde::de::DeserializeSeed::deserialize(Level(0), d).map(Shallow)
    }
}

#[derive(Clone, Copy)]
struct Level(u8);

impl<'de> serde::de::DeserializeSeed<'de> for Level {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> serde::de::Visitor<'de> for Level {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }

    fn visit_newtype_struct<D: serde::Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        if self.0 >= 2 {
            while map
                .next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?
                .is_some()
            {}
            return Ok(Value::Null);
        }
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Level(self.0 + 1))?;
            if !value.is_null() {
                out.insert(key, value);
            }
        }
        Ok(Value::Object(out))
    }
}
