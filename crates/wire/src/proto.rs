//! Protobuf as a serde format, driven by a [`Message`] table.
//!
//! Decoding borrows from the input, skips what the target ignores by length, and reports zero values the way JSON
//! would: a field with `omitempty` that is zero is not reported, so `Option` targets agree with the JSON decoder.
//! Input whose fields are not in tag order, or which repeats a singular field, is brought into canonical form first;
//! strings are then not borrowed. Encoding is byte for byte what upstream's generated code writes: fields in tag order,
//! scalars and structs without a pointer always present, map keys sorted.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::value::{BorrowedStrDeserializer, StrDeserializer, StringDeserializer};
use serde::de::{self, Deserialize, DeserializeSeed, IntoDeserializer, Visitor};
use serde::ser::Serialize;
use serde_json::{Map, Value};

use crate::Error;
use crate::json::MAX_OBJECTS;
use crate::quantity::Quantity;
use crate::schema::{Field, Message, Type, flag};
use crate::time::{self, Moment};

/// Deepest nesting of messages.
const MAX_DEPTH: u16 = 100;

/// What follows a field header.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wire<'b> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Len(&'b [u8]),
}

impl<'b> Wire<'b> {
    pub(crate) fn bytes(self) -> Result<&'b [u8], Error> {
        match self {
            Wire::Len(b) => Ok(b),
            _ => Err(Error::Protobuf("wrong wireType")),
        }
    }

    pub(crate) fn varint(self) -> Result<u64, Error> {
        match self {
            Wire::Varint(v) => Ok(v),
            _ => Err(Error::Protobuf("wrong wireType")),
        }
    }

    pub(crate) fn str(self) -> Result<&'b str, Error> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Error::Utf8)
    }
}

/// Reads fields off the front of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'b> {
    pub(crate) rest: &'b [u8],
}

impl<'b> Cursor<'b> {
    pub(crate) fn new(rest: &'b [u8]) -> Self {
        Cursor { rest }
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Error> {
        const SHORT: Error = Error::Truncated;
        let (&first, rest) = self.rest.split_first().ok_or(SHORT)?;
        if first < 0x80 {
            self.rest = rest;
            return Ok(u64::from(first));
        }
        let mut value = 0u64;
        for (i, &b) in self.rest.iter().enumerate().take(10) {
            if i == 9 && b > 1 {
                return Err(Error::Protobuf("integer overflow"));
            }
            value |= u64::from(b & 0x7f) << (7 * i);
            if b < 0x80 {
                self.rest = self.rest.get(i + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 {
            SHORT
        } else {
            Error::Protobuf("integer overflow")
        })
    }

    /// The next element of a packed run.
    pub(crate) fn packed(&mut self, float: bool) -> Result<Option<Wire<'b>>, Error> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        Ok(Some(if float {
            Wire::Fixed64(u64::from_le_bytes(
                self.take(8)?.try_into().unwrap_or_default(),
            ))
        } else {
            Wire::Varint(self.varint()?)
        }))
    }

    fn take(&mut self, n: usize) -> Result<&'b [u8], Error> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(Error::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    /// The next field's tag and payload; `None` at the end. Groups are passed over.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Wire<'b>)>, Error> {
        while !self.rest.is_empty() {
            let header = self.varint()?;
            let tag = u32::try_from(header >> 3).map_err(|_| Error::Protobuf("illegal tag"))?;
            if tag == 0 {
                return Err(Error::Protobuf("illegal tag 0"));
            }
            let wire = match header & 7 {
                0 => Wire::Varint(self.varint()?),
                1 => {
                    let b = self.take(8)?;
                    Wire::Fixed64(u64::from_le_bytes(b.try_into().unwrap_or_default()))
                }
                2 => {
                    let n = usize::try_from(self.varint()?)
                        .map_err(|_| Error::Protobuf("invalid length"))?;
                    Wire::Len(self.take(n)?)
                }
                5 => {
                    let b = self.take(4)?;
                    Wire::Fixed32(u32::from_le_bytes(b.try_into().unwrap_or_default()))
                }
                3 => {
                    self.skip_group(tag)?;
                    continue;
                }
                _ => return Err(Error::Protobuf("illegal wireType")),
            };
            return Ok(Some((tag, wire)));
        }
        Ok(None)
    }

    /// Skips to the end of a (deprecated) group, without recursion.
    fn skip_group(&mut self, tag: u32) -> Result<(), Error> {
        let mut open = vec![tag];
        while let Some(&innermost) = open.last() {
            let header = self.varint()?;
            let tag = u32::try_from(header >> 3).map_err(|_| Error::Protobuf("illegal tag"))?;
            match header & 7 {
                0 => {
                    self.varint()?;
                }
                1 => {
                    self.take(8)?;
                }
                2 => {
                    let n = usize::try_from(self.varint()?)
                        .map_err(|_| Error::Protobuf("invalid length"))?;
                    self.take(n)?;
                }
                3 => {
                    if open.len() >= usize::from(MAX_DEPTH) {
                        return Err(Error::Depth);
                    }
                    open.push(tag);
                }
                4 => {
                    if tag != innermost {
                        return Err(Error::Protobuf("unexpected end of group"));
                    }
                    open.pop();
                }
                5 => {
                    self.take(4)?;
                }
                _ => return Err(Error::Protobuf("illegal wireType")),
            }
        }
        Ok(())
    }
}

/// Whether several occurrences of the field are elements rather than overwrites.
fn repeats(ty: &Type) -> bool {
    matches!(ty, Type::List(_) | Type::Map(_))
}

/// Whether the known fields stand in tag order and singular ones occur once.
pub(crate) fn in_order(bytes: &[u8], msg: &'static Message) -> Result<bool, Error> {
    let mut cursor = Cursor::new(bytes);
    let mut last = 0;
    while let Some((tag, _)) = cursor.next()? {
        if tag < last || (tag == last && !msg.by_tag(tag).is_none_or(|f| repeats(&f.ty))) {
            return Ok(false);
        }
        last = tag;
    }
    Ok(true)
}

/// The struct inside a type, where nested fields have an order.
pub(crate) fn inner(ty: &Type) -> Option<&'static Message> {
    match ty {
        Type::Message(m) => Some(m),
        Type::List(t) => inner(t),
        _ => None,
    }
}

/// The message with its fields in tag order, singular fields merged, in every nested message. Unknown fields are dropped.
pub(crate) fn canonical(bytes: &[u8], msg: &'static Message, depth: u16) -> Result<Vec<u8>, Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Depth);
    }
    let mut all: Vec<(u32, Wire<'_>)> = Vec::new();
    let mut cursor = Cursor::new(bytes);
    while let Some(entry) = cursor.next()? {
        all.push(entry);
    }
    all.sort_by_key(|(tag, _)| *tag);
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(&(tag, wire)) = all.get(i) {
        i += 1;
        let Some(field) = msg.by_tag(tag) else {
            continue;
        };
        if let Type::Map(Type::Message(m)) = field.ty {
            let Wire::Len(entry) = wire else { continue };
            let (key, value) = map_entry(entry)?;
            let mut fixed = Vec::new();
            put_bytes(1, key.as_bytes(), &mut fixed);
            let value = match value {
                Some(v) => v.bytes()?,
                None => &[],
            };
            put_bytes(2, &canonical(value, m, depth + 1)?, &mut fixed);
            put_bytes(tag, &fixed, &mut out);
            continue;
        }
        if repeats(&field.ty) {
            match (wire, inner(&field.ty)) {
                (Wire::Len(b), Some(m)) => put_bytes(tag, &canonical(b, m, depth + 1)?, &mut out),
                _ => put_wire(tag, wire, &mut out),
            }
            continue;
        }
        // A singular field: the last scalar wins, messages are concatenated, which merges them.
        let mut merged: Cow<'_, [u8]> =
            Cow::Borrowed(if let Wire::Len(b) = wire { b } else { &[] });
        let mut last = wire;
        while let Some(&(t, w)) = all.get(i) {
            if t != tag {
                break;
            }
            i += 1;
            last = w;
            if let (Wire::Len(b), Type::Message(_)) = (w, &field.ty) {
                merged.to_mut().extend_from_slice(b);
            }
        }
        match (last, &field.ty) {
            (Wire::Len(_), Type::Message(m)) => {
                put_bytes(tag, &canonical(&merged, m, depth + 1)?, &mut out)
            }
            _ => put_wire(tag, last, &mut out),
        }
    }
    Ok(out)
}

fn put_wire(tag: u32, wire: Wire<'_>, out: &mut Vec<u8>) {
    match wire {
        Wire::Varint(v) => put_uint(tag, v, out),
        Wire::Fixed64(v) => {
            put_varint(u64::from(tag) << 3 | 1, out);
            out.extend_from_slice(&v.to_le_bytes());
        }
        Wire::Fixed32(v) => {
            put_varint(u64::from(tag) << 3 | 5, out);
            out.extend_from_slice(&v.to_le_bytes());
        }
        Wire::Len(b) => put_bytes(tag, b, out),
    }
}

/// The key and value of a map entry; a missing key is empty.
pub(crate) fn map_entry(entry: &[u8]) -> Result<(&str, Option<Wire<'_>>), Error> {
    let mut cursor = Cursor::new(entry);
    let mut key = "";
    let mut value = None;
    while let Some((tag, wire)) = cursor.next()? {
        match tag {
            1 => key = wire.str()?,
            2 => value = Some(wire),
            _ => {}
        }
    }
    Ok((key, value))
}

/// The moment in a `Timestamp` message; `None` for the zero time.
pub(crate) fn moment(bytes: &[u8]) -> Result<Option<Moment>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut cursor = Cursor::new(bytes);
    let (mut seconds, mut nanos) = (0i64, 0u32);
    while let Some((tag, wire)) = cursor.next()? {
        match tag {
            1 => seconds = wire.varint()? as i64,
            2 => nanos = wire.varint()? as u32 % 1_000_000_000,
            _ => {}
        }
    }
    if seconds == time::ZERO_SECONDS && nanos == 0 {
        return Ok(None);
    }
    Ok(Some(Moment { seconds, nanos }.clamped()))
}

/// The bytes of field `tag` in a message of one field; `None` if absent.
pub(crate) fn only_field(bytes: &[u8], tag: u32) -> Result<Option<&[u8]>, Error> {
    let mut cursor = Cursor::new(bytes);
    let mut found = None;
    while let Some((t, wire)) = cursor.next()? {
        if t == tag {
            found = Some(wire.bytes()?);
        }
    }
    Ok(found)
}

/// What an `IntOrString` holds.
pub(crate) enum IntOrStr<'b> {
    Int(i32),
    Str(&'b str),
}

pub(crate) fn int_or_string(bytes: &[u8]) -> Result<IntOrStr<'_>, Error> {
    let mut cursor = Cursor::new(bytes);
    let (mut kind, mut int, mut text) = (0, 0, "");
    while let Some((tag, wire)) = cursor.next()? {
        match tag {
            1 => kind = wire.varint()?,
            2 => int = wire.varint()? as i32,
            3 => text = wire.str()?,
            _ => {}
        }
    }
    Ok(if kind == 1 {
        IntOrStr::Str(text)
    } else {
        IntOrStr::Int(int)
    })
}

/// Whether JSON would leave a field out that has `omitempty` or `omitzero` and this value.
pub(crate) fn omitted(field: &Field, wire: Wire<'_>) -> Result<bool, Error> {
    if repeats(&field.ty) {
        // An element is there, whatever it holds, unless it is a packed run of none.
        return Ok(empty_run(&field.ty, wire));
    }
    if field.is(flag::POINTER) || !field.is(flag::OMITEMPTY | flag::OMITZERO) {
        // A null is never reported.
        return Ok(match (&field.ty, wire) {
            (Type::Time | Type::MicroTime, Wire::Len(b)) => moment(b)?.is_none(),
            _ => false,
        });
    }
    Ok(match (&field.ty, wire) {
        (_, Wire::Varint(0) | Wire::Fixed64(0) | Wire::Fixed32(0)) => true,
        (Type::String | Type::Bytes | Type::WrappedList(_), Wire::Len(b)) => b.is_empty(),
        (Type::Time | Type::MicroTime, Wire::Len(b)) => moment(b)?.is_none(),
        (Type::RawExtension | Type::FieldsV1 | Type::Json, Wire::Len(b)) => {
            only_field(b, 1)?.is_none_or(<[u8]>::is_empty)
        }
        (Type::Message(m), Wire::Len(b)) if field.is(flag::OMITZERO) => zero(b, m)?,
        _ => false,
    })
}

/// Whether every field is zero.
pub(crate) fn zero(bytes: &[u8], msg: &'static Message) -> Result<bool, Error> {
    let mut cursor = Cursor::new(bytes);
    while let Some((tag, wire)) = cursor.next()? {
        let Some(field) = msg.by_tag(tag) else {
            continue;
        };
        let is = match (&field.ty, wire) {
            _ if field.is(flag::POINTER) || repeats(&field.ty) => false,
            (_, Wire::Varint(0) | Wire::Fixed64(0) | Wire::Fixed32(0)) => true,
            (Type::String, Wire::Len(b)) => b.is_empty(),
            (Type::Time | Type::MicroTime, Wire::Len(b)) => moment(b)?.is_none(),
            (Type::Message(m), Wire::Len(b)) => zero(b, m)?,
            _ => false,
        };
        if !is {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Decodes protobuf bytes of type `msg` into any serde type, borrowing strings from `bytes`. Fields the target ignores
/// are skipped by length. JSON in a field that is read may nest 128 levels.
pub fn from_slice<'de, T: Deserialize<'de>>(
    bytes: &'de [u8],
    msg: &'static Message,
) -> Result<T, Error> {
    read(bytes, msg, false)
}

/// [`from_slice`] of a tree or of what holds trees: JSON in it may nest as deep as in [`crate::json`]. The thread needs the
/// stack for it.
pub fn tree<'de, T: Deserialize<'de>>(bytes: &'de [u8], msg: &'static Message) -> Result<T, Error> {
    read(bytes, msg, true)
}

/// Refuses bytes that make a tree of more than [`MAX_OBJECTS`] objects.
pub fn check_objects(bytes: &[u8], msg: &'static Message) -> Result<(), Error> {
    /// An object that is not empty takes that many bytes.
    const LEAST: usize = 4;
    if bytes.len() / LEAST < MAX_OBJECTS as usize {
        return Ok(());
    }
    count_objects(bytes, msg, 0, &mut { MAX_OBJECTS })
}

fn count_objects(
    bytes: &[u8],
    msg: &'static Message,
    depth: u16,
    left: &mut u32,
) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Depth);
    }
    *left = left.checked_sub(1).ok_or(Error::Objects)?;
    let mut cursor = Cursor::new(bytes);
    while let Some((tag, wire)) = cursor.next()? {
        let Wire::Len(inside) = wire else { continue };
        match msg.by_tag(tag).map(|f| f.ty) {
            Some(Type::Map(Type::Message(m))) => {
                if let (_, Some(Wire::Len(value))) = map_entry(inside)? {
                    count_objects(value, m, depth + 1, left)?;
                }
            }
            Some(Type::SchemaOrArray(m) | Type::SchemaOrBool(m) | Type::SchemaOrStrings(m)) => {
                let mut cursor = Cursor::new(inside);
                while let Some((_, wire)) = cursor.next()? {
                    if let Wire::Len(schema) = wire {
                        count_objects(schema, m, depth + 1, left)?;
                    }
                }
            }
            Some(ty) => {
                if let Some(m) = inner(&ty) {
                    count_objects(inside, m, depth + 1, left)?;
                }
            }
            None => {}
        }
    }
    Ok(())
}

fn read<'de, T: Deserialize<'de>>(
    bytes: &'de [u8],
    msg: &'static Message,
    deep: bool,
) -> Result<T, Error> {
    let base = Base {
        bytes: Some(bytes),
        depth: 0,
        deep,
    };
    match T::deserialize(ValueDe {
        ty: Type::Message(msg),
        wire: Wire::Len(bytes),
        base,
    }) {
        Err(Error::Protobuf(DISORDER)) => {}
        other => return other,
    }
    let fixed = canonical(bytes, msg, 0)?;
    let base = Base {
        bytes: None,
        depth: 0,
        deep,
    };
    T::deserialize(ValueDe {
        ty: Type::Message(msg),
        wire: Wire::Len(&fixed),
        base,
    })
}

/// The whole object as a tree in printed form, with `kind` and `apiVersion`.
pub fn to_object(
    raw: &[u8],
    msg: &'static Message,
    api_version: &str,
    kind: &str,
) -> Result<Value, Error> {
    let mut value: Value = tree(raw, msg)?;
    if let Value::Object(map) = &mut value {
        map.insert(
            "apiVersion".to_owned(),
            Value::String(api_version.to_owned()),
        );
        map.insert("kind".to_owned(), Value::String(kind.to_owned()));
    }
    Ok(value)
}

const DISORDER: &str = "fields out of order";

/// Where the borrowed input lies, if strings may be borrowed, and how deep the decoder is.
#[derive(Clone, Copy)]
struct Base<'de> {
    bytes: Option<&'de [u8]>,
    depth: u16,
    /// Whether JSON in a field may nest as deep as in a body.
    deep: bool,
}

impl<'de> Base<'de> {
    fn deeper(self) -> Result<Self, Error> {
        if self.depth >= MAX_DEPTH {
            return Err(Error::Depth);
        }
        Ok(Base {
            depth: self.depth + 1,
            ..self
        })
    }

    /// The same bytes with the lifetime of the input.
    fn borrow(self, part: &[u8]) -> Option<&'de [u8]> {
        let base = self.bytes?;
        let at = (part.as_ptr() as usize).checked_sub(base.as_ptr() as usize)?;
        base.get(at..at.checked_add(part.len())?)
    }

    fn str<V: Visitor<'de>>(self, s: &str, visitor: V) -> Result<V::Value, Error> {
        match self.borrow(s.as_bytes()).map(std::str::from_utf8) {
            Some(Ok(s)) => visitor.visit_borrowed_str(s),
            _ => visitor.visit_str(s),
        }
    }
}

/// One value with its type.
struct ValueDe<'de, 'b> {
    ty: Type,
    wire: Wire<'b>,
    base: Base<'de>,
}

fn json_error(e: &serde_json::Error) -> Error {
    Error::Mismatch(e.to_string())
}

/// A value with nothing but white space behind it.
fn whole<'de, R: serde_json::de::Read<'de>, V: Visitor<'de>>(
    mut json: serde_json::Deserializer<R>,
    visitor: V,
) -> Result<V::Value, Error> {
    use serde::Deserializer as _;
    let value = json.deserialize_any(visitor).map_err(|e| json_error(&e))?;
    json.end().map_err(|e| json_error(&e))?;
    Ok(value)
}

impl<'de> ValueDe<'de, '_> {
    fn raw_json<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let bytes = self.wire.bytes()?;
        let raw = only_field(bytes, 1)?.unwrap_or_default();
        if raw.is_empty() {
            return visitor.visit_unit();
        }
        use serde::Deserializer as _;
        if self.base.deep {
            return crate::json::parse(raw)?
                .deserialize_any(visitor)
                .map_err(|e| json_error(&e));
        }
        match self.base.borrow(raw) {
            Some(raw) => whole(serde_json::Deserializer::from_slice(raw), visitor),
            None => whole(serde_json::Deserializer::from_reader(raw), visitor),
        }
    }
}

impl<'de> de::Deserializer<'de> for ValueDe<'de, '_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.ty {
            Type::Bool => visitor.visit_bool(self.wire.varint()? != 0),
            Type::I32 => visitor.visit_i64(i64::from(self.wire.varint()? as i32)),
            Type::I64 => visitor.visit_i64(self.wire.varint()? as i64),
            Type::U32 => visitor.visit_u64(u64::from(self.wire.varint()? as u32)),
            Type::U64 => visitor.visit_u64(self.wire.varint()?),
            Type::F64 => match self.wire {
                Wire::Fixed64(v) => visitor.visit_f64(f64::from_bits(v)),
                _ => Err(Error::Protobuf("wrong wireType")),
            },
            Type::String => self.base.str(self.wire.str()?, visitor),
            Type::Bytes => visitor.visit_string(BASE64.encode(self.wire.bytes()?)),
            Type::Message(msg) => {
                let bytes = self.wire.bytes()?;
                let base = self.base.deeper()?;
                if base.bytes.is_some() && !in_order(bytes, msg)? {
                    return Err(Error::Protobuf(DISORDER));
                }
                visitor.visit_map(StructDe::new(bytes, msg, base))
            }
            Type::WrappedList(elem) => {
                let bytes = self.wire.bytes()?;
                let mut cursor = Cursor::new(bytes);
                visitor.visit_seq(RunDe {
                    cursor: &mut cursor,
                    first: None,
                    tag: 1,
                    elem: *elem,
                    base: self.base,
                    packed: &[],
                })
            }
            // A lone element: reached only through a target that takes single values of repeated fields.
            Type::List(elem) => {
                let mut cursor = Cursor::new(&[]);
                visitor.visit_seq(RunDe {
                    cursor: &mut cursor,
                    first: Some(self.wire),
                    tag: 0,
                    elem: *elem,
                    base: self.base,
                    packed: &[],
                })
            }
            Type::Map(elem) => {
                let mut cursor = Cursor::new(&[]);
                visitor.visit_map(EntriesDe {
                    cursor: &mut cursor,
                    first: Some(self.wire),
                    tag: 0,
                    elem: *elem,
                    base: self.base,
                    value: None,
                })
            }
            Type::Time => match moment(self.wire.bytes()?)? {
                Some(m) => visitor.visit_string(m.rfc3339()),
                None => visitor.visit_unit(),
            },
            Type::MicroTime => match moment(self.wire.bytes()?)? {
                Some(m) => visitor.visit_string(m.rfc3339_micro()),
                None => visitor.visit_unit(),
            },
            Type::Quantity => {
                let bytes = self.wire.bytes()?;
                match only_field(bytes, 1)? {
                    Some(s) if !s.is_empty() => self
                        .base
                        .str(std::str::from_utf8(s).map_err(|_| Error::Utf8)?, visitor),
                    _ => visitor.visit_borrowed_str("0"),
                }
            }
            Type::IntOrString => match int_or_string(self.wire.bytes()?)? {
                IntOrStr::Int(i) => visitor.visit_i64(i64::from(i)),
                IntOrStr::Str(s) => self.base.str(s, visitor),
            },
            Type::RawExtension | Type::FieldsV1 | Type::Json => self.raw_json(visitor),
            Type::Duration => {
                let mut cursor = Cursor::new(self.wire.bytes()?);
                let mut nanos = 0;
                while let Some((tag, wire)) = cursor.next()? {
                    if tag == 1 {
                        nanos = wire.varint()? as i64;
                    }
                }
                visitor.visit_string(time::format_duration(nanos))
            }
            Type::SchemaOrArray(msg) => {
                let bytes = self.wire.bytes()?;
                let base = self.base.deeper()?;
                if let Some(schema) = only_field_of(bytes, 1)? {
                    return ValueDe {
                        ty: Type::Message(msg),
                        wire: Wire::Len(schema),
                        base,
                    }
                    .deserialize_any(visitor);
                }
                let elem = Type::Message(msg);
                let mut cursor = Cursor::new(bytes);
                visitor.visit_seq(RunDe {
                    cursor: &mut cursor,
                    first: None,
                    tag: 2,
                    elem,
                    base,
                    packed: &[],
                })
            }
            Type::SchemaOrBool(msg) => {
                let bytes = self.wire.bytes()?;
                let base = self.base.deeper()?;
                if let Some(schema) = only_field_of(bytes, 2)? {
                    return ValueDe {
                        ty: Type::Message(msg),
                        wire: Wire::Len(schema),
                        base,
                    }
                    .deserialize_any(visitor);
                }
                visitor.visit_bool(allows(bytes)?)
            }
            Type::SchemaOrStrings(msg) => {
                let bytes = self.wire.bytes()?;
                let base = self.base.deeper()?;
                if let Some(schema) = only_field_of(bytes, 1)? {
                    return ValueDe {
                        ty: Type::Message(msg),
                        wire: Wire::Len(schema),
                        base,
                    }
                    .deserialize_any(visitor);
                }
                let mut cursor = Cursor::new(bytes);
                visitor.visit_seq(RunDe {
                    cursor: &mut cursor,
                    first: None,
                    tag: 2,
                    elem: Type::String,
                    base,
                    packed: &[],
                })
            }
            Type::Any => Err(Error::Protobuf("field has no protobuf form")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.ty {
            Type::Time | Type::MicroTime if moment(self.wire.bytes()?)?.is_none() => {
                visitor.visit_none()
            }
            Type::RawExtension | Type::FieldsV1 | Type::Json
                if only_field(self.wire.bytes()?, 1)?.is_none_or(<[u8]>::is_empty) =>
            {
                visitor.visit_none()
            }
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let _ = name;
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.ty {
            Type::String => {
                let de: StrDeserializer<'_, Error> = self.wire.str()?.into_deserializer();
                visitor.visit_enum(de)
            }
            _ => {
                let _ = (name, variants);
                Err(Error::Mismatch("only strings become enums".to_owned()))
            }
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match (self.ty, self.wire) {
            (Type::Bytes | Type::String, Wire::Len(b)) => match self.base.borrow(b) {
                Some(b) => visitor.visit_borrowed_bytes(b),
                None => visitor.visit_bytes(b),
            },
            // The JSON text itself.
            (Type::RawExtension | Type::FieldsV1 | Type::Json, Wire::Len(b)) => {
                let raw = only_field(b, 1)?.unwrap_or_default();
                match self.base.borrow(raw) {
                    Some(b) => visitor.visit_borrowed_bytes(b),
                    None => visitor.visit_bytes(raw),
                }
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string unit unit_struct seq tuple tuple_struct map
        struct identifier
    }
}

/// [`only_field`] without keeping a later one.
fn only_field_of(bytes: &[u8], tag: u32) -> Result<Option<&[u8]>, Error> {
    let mut cursor = Cursor::new(bytes);
    while let Some((t, wire)) = cursor.next()? {
        if t == tag {
            return wire.bytes().map(Some);
        }
    }
    Ok(None)
}

pub(crate) fn allows(bytes: &[u8]) -> Result<bool, Error> {
    let mut cursor = Cursor::new(bytes);
    let mut allows = false;
    while let Some((t, wire)) = cursor.next()? {
        if t == 1 {
            allows = wire.varint()? != 0;
        }
    }
    Ok(allows)
}

/// The fields of a struct, those of inlined structs among them.
struct StructDe<'de, 'b> {
    cursor: Cursor<'b>,
    msg: &'static Message,
    base: Base<'de>,
    /// Where to go on after an inlined struct.
    outer: [Option<(Cursor<'b>, &'static Message)>; 3],
    /// The field whose value comes next.
    pending: Option<(&'static Field, u32, Wire<'b>)>,
}

impl<'de, 'b> StructDe<'de, 'b> {
    fn new(bytes: &'b [u8], msg: &'static Message, base: Base<'de>) -> Self {
        StructDe {
            cursor: Cursor::new(bytes),
            msg,
            base,
            outer: [None; 3],
            pending: None,
        }
    }

    fn push(&mut self, bytes: &'b [u8], msg: &'static Message) -> Result<(), Error> {
        if self.base.bytes.is_some() && !in_order(bytes, msg)? {
            return Err(Error::Protobuf(DISORDER));
        }
        let slot = self
            .outer
            .iter_mut()
            .find(|s| s.is_none())
            .ok_or(Error::Depth)?;
        *slot = Some((self.cursor, self.msg));
        self.cursor = Cursor::new(bytes);
        self.msg = msg;
        Ok(())
    }

    fn pop(&mut self) -> bool {
        match self
            .outer
            .iter_mut()
            .rev()
            .find(|s| s.is_some())
            .and_then(Option::take)
        {
            Some((cursor, msg)) => {
                self.cursor = cursor;
                self.msg = msg;
                true
            }
            None => false,
        }
    }
}

impl<'de> de::MapAccess<'de> for StructDe<'de, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        loop {
            let Some((tag, wire)) = self.cursor.next()? else {
                if self.pop() {
                    continue;
                }
                return Ok(None);
            };
            let Some(field) = self.msg.by_tag(tag) else {
                continue;
            };
            if field.is(flag::INLINE)
                && let Type::Message(m) = field.ty
            {
                self.push(wire.bytes()?, m)?;
                continue;
            }
            if omitted(field, wire)? {
                continue;
            }
            self.pending = Some((field, tag, wire));
            let key: BorrowedStrDeserializer<'static, Error> =
                BorrowedStrDeserializer::new(field.json);
            return seed.deserialize(key).map(Some);
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some((field, tag, wire)) = self.pending.take() else {
            return Err(Error::Protobuf("value without key"));
        };
        match field.ty {
            Type::List(_) | Type::Map(_) => seed.deserialize(FieldDe {
                cursor: &mut self.cursor,
                ty: field.ty,
                tag,
                wire,
                base: self.base,
            }),
            ty => seed.deserialize(ValueDe {
                ty,
                wire,
                base: self.base,
            }),
        }
    }
}

/// A repeated field: the first occurrence is read, the others follow in the cursor.
struct FieldDe<'de, 'b, 'c> {
    cursor: &'c mut Cursor<'b>,
    ty: Type,
    tag: u32,
    wire: Wire<'b>,
    base: Base<'de>,
}

impl<'de> de::Deserializer<'de> for FieldDe<'de, '_, '_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let FieldDe {
            cursor,
            ty,
            tag,
            wire,
            base,
        } = self;
        let out = match ty {
            Type::List(elem) => {
                let mut run = RunDe {
                    cursor,
                    first: Some(wire),
                    tag,
                    elem: *elem,
                    base,
                    packed: &[],
                };
                let out = visitor.visit_seq(&mut run)?;
                run.drain()?;
                out
            }
            Type::Map(elem) => {
                let mut run = EntriesDe {
                    cursor,
                    first: Some(wire),
                    tag,
                    elem: *elem,
                    base,
                    value: None,
                };
                let out = visitor.visit_map(&mut run)?;
                run.drain()?;
                out
            }
            ty => return ValueDe { ty, wire, base }.deserialize_any(visitor),
        };
        Ok(out)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let _ = name;
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        skip_run(self.cursor, self.tag)?;
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier
    }
}

/// Moves past further fields of the same tag.
fn skip_run(cursor: &mut Cursor<'_>, tag: u32) -> Result<(), Error> {
    loop {
        let mut ahead = *cursor;
        match ahead.next()? {
            Some((t, _)) if t == tag => *cursor = ahead,
            _ => return Ok(()),
        }
    }
}

/// The elements of a repeated field, unpacked or packed.
struct RunDe<'de, 'b, 'c> {
    cursor: &'c mut Cursor<'b>,
    first: Option<Wire<'b>>,
    tag: u32,
    elem: Type,
    base: Base<'de>,
    packed: &'b [u8],
}

/// Whether this is a packed run without elements.
pub(crate) fn empty_run(ty: &Type, wire: Wire<'_>) -> bool {
    matches!((ty, wire), (Type::List(elem), Wire::Len([])) if packable(elem))
}

fn packable(ty: &Type) -> bool {
    matches!(
        ty,
        Type::Bool | Type::I32 | Type::I64 | Type::U32 | Type::U64 | Type::F64
    )
}

impl<'b> RunDe<'_, 'b, '_> {
    fn element(&mut self) -> Result<Option<Wire<'b>>, Error> {
        loop {
            let mut packed = Cursor::new(self.packed);
            if let Some(wire) = packed.packed(matches!(self.elem, Type::F64))? {
                self.packed = packed.rest;
                return Ok(Some(wire));
            }
            let wire = match self.first.take() {
                Some(w) => w,
                None => {
                    let mut ahead = *self.cursor;
                    match ahead.next()? {
                        Some((t, w)) if t == self.tag => {
                            *self.cursor = ahead;
                            w
                        }
                        _ => return Ok(None),
                    }
                }
            };
            match wire {
                Wire::Len(b) if packable(&self.elem) => self.packed = b,
                w => return Ok(Some(w)),
            }
        }
    }

    fn drain(&mut self) -> Result<(), Error> {
        skip_run(self.cursor, self.tag)
    }
}

impl<'de> de::SeqAccess<'de> for RunDe<'de, '_, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        match self.element()? {
            Some(wire) => seed
                .deserialize(ValueDe {
                    ty: self.elem,
                    wire,
                    base: self.base,
                })
                .map(Some),
            None => Ok(None),
        }
    }
}

/// The entries of a map field.
struct EntriesDe<'de, 'b, 'c> {
    cursor: &'c mut Cursor<'b>,
    first: Option<Wire<'b>>,
    tag: u32,
    elem: Type,
    base: Base<'de>,
    value: Option<Option<Wire<'b>>>,
}

impl EntriesDe<'_, '_, '_> {
    fn drain(&mut self) -> Result<(), Error> {
        skip_run(self.cursor, self.tag)
    }
}

/// What a map entry without a value holds.
pub(crate) fn zero_wire(ty: &Type) -> Wire<'static> {
    match ty {
        Type::Bool | Type::I32 | Type::I64 | Type::U32 | Type::U64 => Wire::Varint(0),
        Type::F64 => Wire::Fixed64(0),
        _ => Wire::Len(&[]),
    }
}

impl<'de> de::MapAccess<'de> for EntriesDe<'de, '_, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let wire = match self.first.take() {
            Some(w) => w,
            None => {
                let mut ahead = *self.cursor;
                match ahead.next()? {
                    Some((t, w)) if t == self.tag => {
                        *self.cursor = ahead;
                        w
                    }
                    _ => return Ok(None),
                }
            }
        };
        let (key, value) = map_entry(wire.bytes()?)?;
        self.value = Some(value);
        match self.base.borrow(key.as_bytes()).map(std::str::from_utf8) {
            Some(Ok(key)) => {
                let de: BorrowedStrDeserializer<'de, Error> = BorrowedStrDeserializer::new(key);
                seed.deserialize(de).map(Some)
            }
            _ => {
                let de: StringDeserializer<Error> = key.to_owned().into_deserializer();
                seed.deserialize(de).map(Some)
            }
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let wire = self
            .value
            .take()
            .flatten()
            .unwrap_or_else(|| zero_wire(&self.elem));
        seed.deserialize(ValueDe {
            ty: self.elem,
            wire,
            base: self.base,
        })
    }
}

// --- encoding

#[inline]
pub(crate) fn put_varint(mut v: u64, out: &mut Vec<u8>) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// A field of a number.
#[inline]
pub fn put_uint(tag: u32, v: u64, out: &mut Vec<u8>) {
    put_varint(u64::from(tag) << 3, out);
    put_varint(v, out);
}

/// A length-delimited field.
#[inline]
pub fn put_bytes(tag: u32, b: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(tag) << 3 | 2, out);
    put_varint(b.len() as u64, out);
    out.extend_from_slice(b);
}

/// Writes what `body` appends as a length-delimited field.
#[inline]
fn put_nested(
    tag: u32,
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    put_varint(u64::from(tag) << 3 | 2, out);
    let at = out.len();
    // One byte is enough for most lengths; longer ones shift the body.
    out.push(0);
    body(out)?;
    let len = out.len() - at - 1;
    if len < 0x80 {
        if let Some(slot) = out.get_mut(at) {
            *slot = len as u8;
        }
        return Ok(());
    }
    let mut prefix = [0u8; 10];
    let mut n = 0;
    let mut v = len;
    for slot in &mut prefix {
        n += 1;
        if v < 0x80 {
            *slot = v as u8;
            break;
        }
        *slot = v as u8 | 0x80;
        v >>= 7;
    }
    out.resize(out.len() + n - 1, 0);
    out.copy_within(at + 1..at + 1 + len, at + n);
    for (slot, b) in out.iter_mut().skip(at).zip(prefix.iter().take(n)) {
        *slot = *b;
    }
    Ok(())
}

/// Encodes any serde type as protobuf of type `msg`, byte for byte as upstream.
///
/// # Errors
/// A value whose shape does not fit the table.
pub fn to_vec<T: Serialize + ?Sized>(value: &T, msg: &'static Message) -> Result<Vec<u8>, Error> {
    let value = serde_json::to_value(value).map_err(|e| Error::Mismatch(e.to_string()))?;
    value_to_vec(&value, msg)
}

/// [`to_vec`] for a tree, without copying it. Keys the table does not know are left out.
pub fn value_to_vec(value: &Value, msg: &'static Message) -> Result<Vec<u8>, Error> {
    let Value::Object(map) = value else {
        return Err(mismatch(&Type::Message(msg), value));
    };
    let mut out = Vec::with_capacity(1024);
    put_struct(Some(map), msg, &mut out, 0)?;
    Ok(out)
}

fn mismatch(ty: &Type, value: &Value) -> Error {
    struct Short<'a>(&'a Value);
    impl fmt::Display for Short<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(match self.0 {
                Value::Null => "null",
                Value::Bool(_) => "a bool",
                Value::Number(_) => "a number",
                Value::String(_) => "a string",
                Value::Array(_) => "an array",
                Value::Object(_) => "an object",
            })
        }
    }
    let name = match ty {
        Type::Message(m) => m.name,
        _ => "a field",
    };
    Error::Mismatch(format!("{} does not fit {name}", Short(value)))
}

fn put_struct(
    map: Option<&Map<String, Value>>,
    msg: &'static Message,
    out: &mut Vec<u8>,
    depth: u16,
) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Depth);
    }
    for (tag, at) in msg.tags {
        let Some(field) = msg.fields.get(usize::from(*at)) else {
            continue;
        };
        if field.is(flag::INLINE)
            && let Type::Message(m) = field.ty
        {
            put_nested(*tag, out, |out| put_struct(map, m, out, depth + 1))?;
            continue;
        }
        let value = map.and_then(|m| m.get(field.json)).filter(|v| !v.is_null());
        match (value, &field.ty) {
            (Some(Value::Array(items)), Type::List(elem)) => {
                for item in items {
                    put_value(*tag, item, elem, out, depth)?;
                }
            }
            (Some(Value::Object(entries)), Type::Map(elem)) => {
                for (key, value) in entries {
                    put_nested(*tag, out, |out| {
                        put_bytes(1, key.as_bytes(), out);
                        put_value(2, value, elem, out, depth)
                    })?;
                }
            }
            (None, Type::List(_) | Type::Map(_) | Type::Bytes | Type::WrappedList(_)) => {}
            (None, _) if field.is(flag::POINTER) => {}
            (None, ty) => put_zero(*tag, ty, out, depth)?,
            (Some(value), ty) => put_value(*tag, value, ty, out, depth)?,
        }
    }
    Ok(())
}

/// A field without a pointer that has no value.
fn put_zero(tag: u32, ty: &Type, out: &mut Vec<u8>, depth: u16) -> Result<(), Error> {
    match ty {
        Type::Bool | Type::I32 | Type::I64 | Type::U32 | Type::U64 => put_uint(tag, 0, out),
        Type::F64 => {
            put_varint(u64::from(tag) << 3 | 1, out);
            out.extend_from_slice(&[0; 8]);
        }
        Type::Message(m) => put_nested(tag, out, |out| put_struct(None, m, out, depth + 1))?,
        Type::Quantity => put_bytes(tag, b"\x0a\x010", out),
        Type::IntOrString => put_bytes(tag, &[0x08, 0, 0x10, 0, 0x1a, 0], out),
        Type::Duration => put_bytes(tag, &[0x08, 0], out),
        Type::SchemaOrBool(_) => put_bytes(tag, &[0x08, 0], out),
        Type::Any => {}
        _ => put_bytes(tag, b"", out),
    }
    Ok(())
}

fn integer(value: &Value, ty: &Type) -> Result<u64, Error> {
    let Value::Number(n) = value else {
        return Err(mismatch(ty, value));
    };
    if let Some(i) = n.as_i64() {
        return Ok(i as u64);
    }
    if let Some(u) = n.as_u64() {
        return Ok(u);
    }
    match n.as_f64() {
        Some(f) if f.fract() == 0.0 && f.abs() < 9e18 => Ok(f as i64 as u64),
        _ => Err(mismatch(ty, value)),
    }
}

fn put_value(
    tag: u32,
    value: &Value,
    ty: &Type,
    out: &mut Vec<u8>,
    depth: u16,
) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Depth);
    }
    let text = || value.as_str().ok_or_else(|| mismatch(ty, value));
    match ty {
        Type::Bool => match value {
            Value::Bool(b) => put_uint(tag, u64::from(*b), out),
            Value::Null => put_uint(tag, 0, out),
            _ => return Err(mismatch(ty, value)),
        },
        Type::I32 | Type::I64 | Type::U32 | Type::U64 => {
            put_uint(
                tag,
                if value.is_null() {
                    0
                } else {
                    integer(value, ty)?
                },
                out,
            );
        }
        Type::F64 => {
            put_varint(u64::from(tag) << 3 | 1, out);
            out.extend_from_slice(&value.as_f64().unwrap_or(0.0).to_le_bytes());
        }
        Type::String => match value {
            Value::String(s) => put_bytes(tag, s.as_bytes(), out),
            Value::Null => put_bytes(tag, b"", out),
            _ => return Err(mismatch(ty, value)),
        },
        Type::Bytes => {
            if value.is_null() {
                return Ok(());
            }
            let bytes = BASE64
                .decode(text()?)
                .map_err(|e| Error::Mismatch(e.to_string()))?;
            put_bytes(tag, &bytes, out);
        }
        Type::Message(m) => match value {
            Value::Object(map) => {
                put_nested(tag, out, |out| put_struct(Some(map), m, out, depth + 1))?
            }
            Value::Null => put_nested(tag, out, |out| put_struct(None, m, out, depth + 1))?,
            _ => return Err(mismatch(ty, value)),
        },
        Type::List(_) => return Err(mismatch(ty, value)),
        Type::WrappedList(elem) => match value {
            Value::Array(items) => put_nested(tag, out, |out| {
                for item in items {
                    put_value(1, item, elem, out, depth + 1)?;
                }
                Ok(())
            })?,
            Value::Null => put_bytes(tag, b"", out),
            _ => return Err(mismatch(ty, value)),
        },
        Type::Map(_) => return Err(mismatch(ty, value)),
        Type::Time | Type::MicroTime => {
            if value.is_null() {
                put_bytes(tag, b"", out);
                return Ok(());
            }
            let m = time::parse_rfc3339(text()?).map_err(Error::Mismatch)?;
            let nanos = if matches!(ty, Type::Time) {
                0
            } else {
                m.nanos / 1000 * 1000
            };
            if m.seconds == time::ZERO_SECONDS && nanos == 0 {
                put_bytes(tag, b"", out);
                return Ok(());
            }
            put_nested(tag, out, |out| {
                put_uint(1, m.seconds as u64, out);
                put_uint(2, u64::from(nanos), out);
                Ok(())
            })?;
        }
        Type::Quantity => {
            let q = match value {
                Value::String(s) => {
                    Quantity::canonical(s).map_err(|e| Error::Mismatch(e.to_string()))?
                }
                Value::Number(n) => Cow::Owned(
                    Quantity::parse(&n.to_string())
                        .map_err(|e| Error::Mismatch(e.to_string()))?
                        .to_string(),
                ),
                Value::Null => Cow::Borrowed("0"),
                _ => return Err(mismatch(ty, value)),
            };
            put_nested(tag, out, |out| {
                put_bytes(1, q.as_bytes(), out);
                Ok(())
            })?;
        }
        Type::IntOrString => put_nested(tag, out, |out| {
            match value {
                Value::String(s) => {
                    put_uint(1, 1, out);
                    put_uint(2, 0, out);
                    put_bytes(3, s.as_bytes(), out);
                }
                Value::Null => out.extend_from_slice(&[0x08, 0, 0x10, 0, 0x1a, 0]),
                _ => {
                    put_uint(1, 0, out);
                    put_uint(2, integer(value, ty)?, out);
                    put_bytes(3, b"", out);
                }
            }
            Ok(())
        })?,
        Type::RawExtension | Type::FieldsV1 | Type::Json => {
            if value.is_null() && !matches!(ty, Type::Json) {
                put_bytes(tag, b"", out);
                return Ok(());
            }
            put_nested(tag, out, |out| {
                put_nested(1, out, |out| {
                    crate::print::value(value, out);
                    Ok(())
                })
            })?;
        }
        Type::Duration => {
            let nanos = if value.is_null() {
                0
            } else {
                time::parse_duration(text()?).map_err(Error::Mismatch)?
            };
            put_nested(tag, out, |out| {
                put_uint(1, nanos as u64, out);
                Ok(())
            })?;
        }
        Type::SchemaOrArray(m) => put_nested(tag, out, |out| match value {
            Value::Array(items) => {
                for item in items {
                    put_value(2, item, &Type::Message(m), out, depth + 1)?;
                }
                Ok(())
            }
            _ => put_value(1, value, &Type::Message(m), out, depth + 1),
        })?,
        Type::SchemaOrBool(m) => put_nested(tag, out, |out| match value {
            Value::Bool(b) => {
                put_uint(1, u64::from(*b), out);
                Ok(())
            }
            _ => {
                put_uint(1, 1, out);
                put_value(2, value, &Type::Message(m), out, depth + 1)
            }
        })?,
        Type::SchemaOrStrings(m) => put_nested(tag, out, |out| match value {
            Value::Array(items) => {
                for item in items {
                    put_value(2, item, &Type::String, out, depth + 1)?;
                }
                Ok(())
            }
            _ => put_value(1, value, &Type::Message(m), out, depth + 1),
        })?,
        Type::Any => {}
    }
    Ok(())
}
