//! Stored protobuf to JSON without a tree.
//!
//! Each struct is scanned once to find where its fields start, and printed in the order of the Go struct. Nothing is
//! allocated but the output, unless the fields are out of tag order.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::Error;
use crate::print;
use crate::proto::{
    self, Cursor, IntOrStr, Wire, canonical, in_order, map_entry, moment, only_field, zero_wire,
};
use crate::schema::{Message, Type, flag};
use crate::time;

/// What differs from the stored bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// `metadata.resourceVersion`, which stored objects do not carry.
    pub resource_version: Option<&'a str>,
}

const MAX_FIELDS: usize = 64;
const MAX_DEPTH: u16 = 100;

/// Appends the object as Go's `encoding/json` prints it, `kind` and `apiVersion` first, no trailing newline. With empty
/// `api_version` and `kind` these are left out, as upstream does for the items of a list.
pub fn proto_to_json(
    raw: &[u8],
    msg: &'static Message,
    api_version: &str,
    kind: &str,
    options: &Options<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    out.push(b'{');
    let start = out.len();
    if !kind.is_empty() {
        out.extend_from_slice(b"\"kind\":");
        print::string(kind, out);
    }
    if !api_version.is_empty() {
        if out.len() > start {
            out.push(b',');
        }
        out.extend_from_slice(b"\"apiVersion\":");
        print::string(api_version, out);
    }
    fields(raw, msg, options.resource_version, start, out, 0)?;
    out.push(b'}');
    Ok(())
}

/// Prints the fields between the braces; `start` is where the first of them lies.
fn fields(
    raw: &[u8],
    msg: &'static Message,
    version: Option<&str>,
    start: usize,
    out: &mut Vec<u8>,
    depth: u16,
) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Depth);
    }
    // The remaining bytes at the first occurrence of each field, by position in the struct.
    let mut at: [usize; MAX_FIELDS] = [usize::MAX; MAX_FIELDS];
    let mut cursor = Cursor::new(raw);
    let mut last = 0;
    loop {
        let offset = raw.len() - cursor.rest.len();
        let Some((tag, wire)) = cursor.next()? else {
            break;
        };
        if msg
            .by_tag(tag)
            .is_some_and(|f| proto::empty_run(&f.ty, wire))
        {
            continue;
        }
        if tag == last
            && msg
                .by_tag(tag)
                .is_none_or(|f| matches!(f.ty, Type::List(_) | Type::Map(_)))
        {
            continue;
        }
        if tag <= last {
            let fixed = canonical(raw, msg, depth)?;
            debug_assert!(in_order(&fixed, msg) == Ok(true));
            return fields(&fixed, msg, version, start, out, depth + 1);
        }
        last = tag;
        if let Some(slot) = msg.position(tag).and_then(|i| at.get_mut(i)) {
            *slot = offset;
        }
    }
    for (i, field) in msg.fields.iter().enumerate() {
        let found = at.get(i).copied().unwrap_or(usize::MAX);
        if field.is(flag::INLINE)
            && let Type::Message(m) = field.ty
        {
            let inner = match raw.get(found..) {
                Some(rest) => match Cursor::new(rest).next()? {
                    Some((_, wire)) => wire.bytes()?,
                    None => &[],
                },
                None => &[],
            };
            fields(inner, m, None, start, out, depth + 1)?;
            continue;
        }
        let is_version = version.is_some() && field.json == "resourceVersion";
        let mut cursor = Cursor::new(raw.get(found..).unwrap_or_default());
        let first = cursor.next()?.map(|(_, wire)| wire);
        let print = if is_version {
            version.is_some_and(|v| !v.is_empty())
        } else {
            match first {
                Some(wire)
                    if !field.is(flag::POINTER) && field.is(flag::OMITEMPTY | flag::OMITZERO) =>
                {
                    !left_out(field, wire)?
                }
                Some(_) => true,
                // A struct is printed even with omitempty; anything else that is absent only without it.
                None if field.is(flag::POINTER) => !field.is(flag::OMITEMPTY),
                None => {
                    !field.is(flag::OMITEMPTY | flag::OMITZERO)
                        || (matches!(
                            field.ty,
                            Type::Message(_)
                                | Type::Time
                                | Type::MicroTime
                                | Type::Quantity
                                | Type::IntOrString
                                | Type::RawExtension
                        ) && !field.is(flag::OMITZERO)
                            && field.tag > 0)
                }
            }
        };
        if !print {
            continue;
        }
        if out.len() > start {
            out.push(b',');
        }
        out.push(b'"');
        // Field names need no escapes, but `$ref` and the like pass through unharmed too.
        out.extend_from_slice(field.json.as_bytes());
        out.extend_from_slice(b"\":");
        if is_version {
            print::string(version.unwrap_or_default(), out);
            continue;
        }
        let tag = field.tag;
        match (first, &field.ty) {
            (None, Type::List(_) | Type::WrappedList(_) | Type::Map(_) | Type::Bytes) => {
                out.extend_from_slice(b"null")
            }
            (None, _) if field.is(flag::POINTER) => out.extend_from_slice(b"null"),
            (None, ty) => value(zero_wire(ty), ty, None, out, depth)?,
            (Some(wire), Type::List(elem)) => list(wire, cursor, tag, elem, out, depth)?,
            (Some(wire), Type::Map(elem)) => map(wire, cursor, tag, elem, out, depth)?,
            (Some(wire), ty) => {
                let nested = if depth == 0 && tag == 1 && field.json == "metadata" {
                    version
                } else {
                    None
                };
                value(wire, ty, nested, out, depth)?;
            }
        }
    }
    Ok(())
}

/// Whether Go leaves out a field without a pointer that has `omitempty` or `omitzero`.
fn left_out(field: &crate::schema::Field, wire: Wire<'_>) -> Result<bool, Error> {
    Ok(match (&field.ty, wire) {
        // An element is there, whatever it holds.
        (Type::List(_) | Type::Map(_), _) => false,
        (_, Wire::Varint(0) | Wire::Fixed32(0)) => true,
        // Negative zero prints, since Go compares with zero only by value: -0 == 0 is left out as well.
        (_, Wire::Fixed64(v)) => f64::from_bits(v) == 0.0,
        (Type::String | Type::Bytes | Type::WrappedList(_), Wire::Len(b)) => b.is_empty(),
        (Type::Time | Type::MicroTime, Wire::Len(b)) => {
            field.is(flag::OMITZERO) && moment(b)?.is_none()
        }
        (Type::Message(m), Wire::Len(b)) if field.is(flag::OMITZERO) => proto::zero(b, m)?,
        _ => false,
    })
}

fn list(
    first: Wire<'_>,
    mut cursor: Cursor<'_>,
    tag: u32,
    elem: &Type,
    out: &mut Vec<u8>,
    depth: u16,
) -> Result<(), Error> {
    out.push(b'[');
    let start = out.len();
    let mut next = Some((tag, first));
    while let Some((t, wire)) = next {
        if t != tag {
            break;
        }
        let packed = matches!(
            elem,
            Type::Bool | Type::I32 | Type::I64 | Type::U32 | Type::U64 | Type::F64
        );
        match wire {
            Wire::Len(b) if packed => {
                let mut rest = Cursor::new(b);
                while let Some(wire) = rest.packed(matches!(elem, Type::F64))? {
                    if out.len() > start {
                        out.push(b',');
                    }
                    value(wire, elem, None, out, depth)?;
                }
            }
            wire => {
                if out.len() > start {
                    out.push(b',');
                }
                value(wire, elem, None, out, depth)?;
            }
        }
        next = cursor.next()?;
    }
    out.push(b']');
    Ok(())
}

fn map(
    first: Wire<'_>,
    mut cursor: Cursor<'_>,
    tag: u32,
    elem: &Type,
    out: &mut Vec<u8>,
    depth: u16,
) -> Result<(), Error> {
    // Stored maps are sorted; others are sorted here, the last of equal keys winning.
    let mut probe = cursor;
    let mut previous = map_entry(first.bytes()?)?.0;
    let mut sorted = true;
    while let Some((t, wire)) = probe.next()? {
        if t != tag {
            break;
        }
        let key = map_entry(wire.bytes()?)?.0;
        if key <= previous {
            sorted = false;
            break;
        }
        previous = key;
    }
    out.push(b'{');
    let start = out.len();
    let entry = |key: &str, wire: Option<Wire<'_>>, out: &mut Vec<u8>| -> Result<(), Error> {
        if out.len() > start {
            out.push(b',');
        }
        print::string(key, out);
        out.push(b':');
        match (wire, elem) {
            (None, Type::Bytes | Type::List(_) | Type::Map(_)) => {
                out.extend_from_slice(b"null");
                Ok(())
            }
            (wire, elem) => value(
                wire.unwrap_or_else(|| zero_wire(elem)),
                elem,
                None,
                out,
                depth,
            ),
        }
    };
    let mut next = Some((tag, first));
    if sorted {
        while let Some((t, wire)) = next {
            if t != tag {
                break;
            }
            let (key, wire) = map_entry(wire.bytes()?)?;
            entry(key, wire, out)?;
            next = cursor.next()?;
        }
    } else {
        let mut all = std::collections::BTreeMap::new();
        while let Some((t, wire)) = next {
            if t != tag {
                break;
            }
            let (key, wire) = map_entry(wire.bytes()?)?;
            all.insert(key, wire);
            next = cursor.next()?;
        }
        for (key, wire) in all {
            entry(key, wire, out)?;
        }
    }
    out.push(b'}');
    Ok(())
}

fn value(
    wire: Wire<'_>,
    ty: &Type,
    version: Option<&str>,
    out: &mut Vec<u8>,
    depth: u16,
) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Depth);
    }
    match ty {
        Type::Bool => out.extend_from_slice(if wire.varint()? != 0 {
            b"true"
        } else {
            b"false"
        }),
        Type::I32 => print::integer(i64::from(wire.varint()? as i32), out),
        Type::I64 => print::integer(wire.varint()? as i64, out),
        Type::U32 => print::unsigned(u64::from(wire.varint()? as u32), out),
        Type::U64 => print::unsigned(wire.varint()?, out),
        Type::F64 => match wire {
            Wire::Fixed64(v) => print::float(f64::from_bits(v), out),
            _ => return Err(Error::Protobuf("wrong wireType")),
        },
        Type::String => print::string(wire.str()?, out),
        Type::Bytes => {
            let bytes = wire.bytes()?;
            out.push(b'"');
            let at = out.len();
            let len = bytes.len().div_ceil(3) * 4;
            out.resize(at + len, 0);
            let written = out
                .get_mut(at..)
                .and_then(|slot| BASE64.encode_slice(bytes, slot).ok())
                .unwrap_or(0);
            out.truncate(at + written);
            out.push(b'"');
        }
        Type::Message(m) => {
            out.push(b'{');
            let start = out.len();
            let bytes = wire.bytes()?;
            fields(bytes, m, version, start, out, depth + 1)?;
            out.push(b'}');
        }
        Type::WrappedList(elem) => {
            let mut cursor = Cursor::new(wire.bytes()?);
            match cursor.next()? {
                Some((1, first)) => list(first, cursor, 1, elem, out, depth + 1)?,
                _ => out.extend_from_slice(b"[]"),
            }
        }
        Type::List(_) | Type::Map(_) => return Err(Error::Protobuf("nested repetition")),
        Type::Time => match moment(wire.bytes()?)? {
            Some(m) => {
                let _ = write!(Text(out), "\"{}\"", m.rfc3339());
            }
            None => out.extend_from_slice(b"null"),
        },
        Type::MicroTime => match moment(wire.bytes()?)? {
            Some(m) => {
                let _ = write!(Text(out), "\"{}\"", m.rfc3339_micro());
            }
            None => out.extend_from_slice(b"null"),
        },
        Type::Quantity => match only_field(wire.bytes()?, 1)? {
            Some(s) if !s.is_empty() => {
                print::string(std::str::from_utf8(s).map_err(|_| Error::Utf8)?, out)
            }
            _ => out.extend_from_slice(b"\"0\""),
        },
        Type::IntOrString => match proto::int_or_string(wire.bytes()?)? {
            IntOrStr::Int(i) => print::integer(i64::from(i), out),
            IntOrStr::Str(s) => print::string(s, out),
        },
        Type::RawExtension | Type::FieldsV1 | Type::Json => match only_field(wire.bytes()?, 1)? {
            Some(raw) if !raw.is_empty() => {
                std::str::from_utf8(raw).map_err(|_| Error::Utf8)?;
                print::compact(raw, out);
            }
            _ => out.extend_from_slice(b"null"),
        },
        Type::Duration => {
            let mut cursor = Cursor::new(wire.bytes()?);
            let mut nanos = 0;
            while let Some((tag, wire)) = cursor.next()? {
                if tag == 1 {
                    nanos = wire.varint()? as i64;
                }
            }
            print::string(&time::format_duration(nanos), out);
        }
        Type::SchemaOrArray(m) => {
            let bytes = wire.bytes()?;
            match only_field(bytes, 1)? {
                Some(schema) => value(Wire::Len(schema), &Type::Message(m), None, out, depth + 1)?,
                None => {
                    let mut cursor = Cursor::new(bytes);
                    match cursor.next()? {
                        Some((2, first)) => {
                            list(first, cursor, 2, &Type::Message(m), out, depth + 1)?
                        }
                        _ => out.extend_from_slice(b"null"),
                    }
                }
            }
        }
        Type::SchemaOrBool(m) => {
            let bytes = wire.bytes()?;
            let mut cursor = Cursor::new(bytes);
            let mut schema = None;
            while let Some((tag, wire)) = cursor.next()? {
                if tag == 2 {
                    schema = Some(wire);
                }
            }
            match schema {
                Some(wire) => value(wire, &Type::Message(m), None, out, depth + 1)?,
                None if proto::allows(bytes)? => out.extend_from_slice(b"true"),
                None => out.extend_from_slice(b"false"),
            }
        }
        Type::SchemaOrStrings(m) => {
            let bytes = wire.bytes()?;
            let mut cursor = Cursor::new(bytes);
            match cursor.next()? {
                Some((2, first)) => list(first, cursor, 2, &Type::String, out, depth + 1)?,
                Some((1, schema)) => value(schema, &Type::Message(m), None, out, depth + 1)?,
                _ => out.extend_from_slice(b"null"),
            }
        }
        Type::Any => return Err(Error::Protobuf("field has no protobuf form")),
    }
    Ok(())
}

/// Formatting into bytes.
struct Text<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.0.extend_from_slice(s.as_bytes());
        Ok(())
    }
}

/// The same object with `metadata.resourceVersion` set, spliced in at its place. `raw` is a message whose `metadata` is
/// tag 1, with an `ObjectMeta` (tag 6) or `ListMeta` (tag 2) in it.
pub fn with_resource_version(
    raw: &[u8],
    msg: &'static Message,
    rv: &str,
) -> Result<Vec<u8>, Error> {
    let Some(Type::Message(meta_msg)) = msg.field("metadata").map(|f| f.ty) else {
        return Err(Error::Mismatch(format!("{} has no metadata", msg.name)));
    };
    let Some(version_tag) = meta_msg.field("resourceVersion").map(|f| f.tag) else {
        return Err(Error::Mismatch(format!(
            "{} has no resourceVersion",
            meta_msg.name
        )));
    };
    let mut cursor = Cursor::new(raw);
    let mut out = Vec::with_capacity(raw.len() + rv.len() + 8);
    let mut done = false;
    loop {
        let before = cursor.rest;
        let Some((tag, wire)) = cursor.next()? else {
            break;
        };
        let whole = before
            .get(..before.len() - cursor.rest.len())
            .unwrap_or_default();
        if tag != 1 || done {
            out.extend_from_slice(whole);
            continue;
        }
        done = true;
        let meta = wire.bytes()?;
        let mut inner = Cursor::new(meta);
        // Where the field lies, or where it belongs.
        let (mut from, mut to) = (meta.len(), meta.len());
        loop {
            let start = meta.len() - inner.rest.len();
            let Some((t, _)) = inner.next()? else { break };
            if t == version_tag {
                (from, to) = (start, meta.len() - inner.rest.len());
                break;
            }
            if t > version_tag {
                (from, to) = (start, start);
                break;
            }
        }
        let mut field = Vec::with_capacity(rv.len() + 3);
        proto::put_bytes(version_tag, rv.as_bytes(), &mut field);
        let len = meta.len() - (to - from) + field.len();
        proto::put_varint(1 << 3 | 2, &mut out);
        proto::put_varint(len as u64, &mut out);
        out.extend_from_slice(meta.get(..from).unwrap_or_default());
        out.extend_from_slice(&field);
        out.extend_from_slice(meta.get(to..).unwrap_or_default());
    }
    if !done {
        let mut field = Vec::with_capacity(rv.len() + 3);
        proto::put_bytes(version_tag, rv.as_bytes(), &mut field);
        let mut head = Vec::with_capacity(raw.len() + field.len() + 4);
        proto::put_bytes(1, &field, &mut head);
        head.extend_from_slice(&out);
        return Ok(head);
    }
    Ok(out)
}
