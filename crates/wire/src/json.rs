//! Schema-checked JSON.
//!
//! The decoder reads text and schema together, once. Its messages are those of Go's `encoding/json` as upstream uses it:
//! a syntax error anywhere wins; values of the wrong type are skipped and the first of them is reported at the end, an
//! error of a value with a syntax of its own (quantity, time) at once; unknown and duplicate fields are collected last.
//! Text is walked without recursion, except along the schema; but trees are dropped, copied and printed recursively, so
//! threads that hold what others sent need a stack for [`MAX_DEPTH`] levels.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Number, Value};

use crate::Error;
use crate::print;
use crate::quantity::Quantity;
use crate::schema::{Field, Message, Type, flag};
use crate::time;

/// Deepest nesting of arrays and objects. Source: upstream's `sigs.k8s.io/json`.
pub const MAX_DEPTH: u32 = 10_000;

/// Most objects in one tree, those included that Go prints though they were not given. An object of a few bytes takes
/// more than half a kilobyte as a tree; what fits into a request and makes sense has far fewer.
pub const MAX_OBJECTS: u32 = 100_000;

/// Roughly the length of a tree as JSON, and how deep it nests: 0 for a scalar. Walks without recursion.
pub fn extent(value: &Value) -> (usize, u32) {
    enum Open<'a> {
        Array(std::slice::Iter<'a, Value>),
        Object(serde_json::map::Iter<'a>),
    }
    let mut open: Vec<Open<'_>> = Vec::new();
    let (mut bytes, mut deepest) = (0usize, 0);
    let mut next = Some(value);
    while let Some(value) = next {
        bytes += match value {
            Value::Null | Value::Bool(_) => 4,
            Value::Number(_) => 8,
            Value::String(s) => s.len() + 2,
            Value::Array(items) => {
                open.push(Open::Array(items.iter()));
                2 + items.len()
            }
            Value::Object(map) => {
                open.push(Open::Object(map.iter()));
                2 + 4 * map.len()
            }
        };
        deepest = deepest.max(open.len());
        next = None;
        while let Some(innermost) = open.last_mut() {
            next = match innermost {
                Open::Array(items) => items.next(),
                Open::Object(members) => members.next().map(|(key, value)| {
                    bytes += key.len();
                    value
                }),
            };
            if next.is_some() {
                break;
            }
            open.pop();
        }
    }
    (bytes, u32::try_from(deepest).unwrap_or(u32::MAX))
}

/// How many strict errors are kept. Source: upstream's `sigs.k8s.io/json`.
pub const MAX_STRICT: usize = 100;

/// How many bytes of strict errors are written, repeated ones included, before no more are looked for.
const MAX_STRICT_BYTES: usize = 1024 * 1024;

/// Whether unknown and duplicate fields are looked for (`fieldValidation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Dropped silently; `strict_errors` stays empty.
    Ignore,
    /// Dropped and collected in `strict_errors` (both `Warn` and `Strict`; the caller decides what they mean).
    Collect,
}

/// A decoded object.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The object in printed form.
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.x"`, in upstream's order.
    pub strict_errors: Vec<String>,
}

/// Decodes and checks JSON text against a schema.
///
/// # Errors
/// [`Error::Syntax`] for text that is not JSON, [`Error::Type`] for values that do not fit, [`Error::Mismatch`] for
/// quantities, times and the like that cannot be read.
pub fn decode(
    bytes: &[u8],
    msg: &'static Message,
    strictness: Strictness,
) -> Result<Decoded, Error> {
    let mut check = Check::new(strictness == Strictness::Collect);
    let mut parser = Parser { bytes, at: 0 };
    let top = Kind {
        ty: Type::Message(msg),
        go: "",
    };
    check.top = Some(msg);
    let value = parser.typed(&top, &mut check, 0);
    let value = match value {
        Ok(v) => v,
        // What aborts the walk yields to a syntax error further on.
        Err(e) if !matches!(e, Error::Syntax(_)) => {
            valid(bytes)?;
            return Err(e);
        }
        Err(e) => return Err(e),
    };
    parser.end()?;
    if let Some(e) = check.saved {
        return Err(e);
    }
    let value = value.unwrap_or_else(|| Value::Object(filled(msg, &mut 0)));
    Ok(Decoded {
        value,
        strict_errors: check.strict,
    })
}

/// Parses JSON text without a schema: duplicate keys, the last wins; nulls are kept.
pub fn parse(bytes: &[u8]) -> Result<Value, Error> {
    let mut parser = Parser { bytes, at: 0 };
    let value = parser.untyped(&mut Check::new(false), 0)?;
    parser.end()?;
    Ok(value)
}

/// [`parse`] with the duplicate keys as `duplicate field "a.b"`.
pub fn parse_strict(bytes: &[u8]) -> Result<(Value, Vec<String>), Error> {
    let mut parser = Parser { bytes, at: 0 };
    let mut check = Check::new(true);
    let value = parser.untyped(&mut check, 0)?;
    parser.end()?;
    Ok((value, check.strict))
}

/// Whether the text is JSON.
pub fn valid(bytes: &[u8]) -> Result<(), Error> {
    let mut parser = Parser { bytes, at: 0 };
    parser.skip(0)?;
    parser.end()
}

/// Checks and normalises a tree that came from elsewhere (a patch, a webhook), as [`decode`] does text. Keys are visited
/// in sorted order.
pub fn normalize(
    value: Value,
    msg: &'static Message,
    strictness: Strictness,
) -> Result<Decoded, Error> {
    let mut check = Check::new(strictness == Strictness::Collect);
    check.top = Some(msg);
    let top = Kind {
        ty: Type::Message(msg),
        go: "",
    };
    let value = tree(value, &top, &mut check, 0)?;
    if let Some(e) = check.saved {
        return Err(e);
    }
    let value = value.unwrap_or_else(|| Value::Object(filled(msg, &mut 0)));
    Ok(Decoded {
        value,
        strict_errors: check.strict,
    })
}

/// A type with its name in Go; empty for the type's own name.
struct Kind<'a> {
    ty: Type,
    go: &'a str,
}

impl Kind<'_> {
    /// The element of a list or map.
    fn element(&self) -> Kind<'_> {
        let ty = match self.ty {
            Type::List(t) | Type::WrappedList(t) | Type::Map(t) => *t,
            t => t,
        };
        let go = match self.go.strip_prefix("[]") {
            Some(rest) => rest,
            None => match self.go.strip_prefix("map[").and_then(|r| r.split_once(']')) {
                Some((_, rest)) => rest,
                None => "",
            },
        };
        Kind {
            ty,
            go: go.trim_start_matches('*'),
        }
    }

    fn name(&self) -> String {
        if !self.go.is_empty() {
            return self.go.to_owned();
        }
        match self.ty {
            Type::Bool => "bool".into(),
            Type::I32 => "int32".into(),
            Type::I64 => "int64".into(),
            Type::U32 => "uint32".into(),
            Type::U64 => "uint64".into(),
            Type::F64 => "float64".into(),
            Type::String => "string".into(),
            Type::Bytes => "[]uint8".into(),
            Type::Message(m) => format!("{}.{}", m.package, m.name),
            Type::List(t) | Type::WrappedList(t) => format!("[]{}", Kind { ty: *t, go: "" }.name()),
            Type::Map(t) => format!("map[string]{}", Kind { ty: *t, go: "" }.name()),
            _ => "interface {}".into(),
        }
    }
}

/// What a walk has found wrong, and where it is.
struct Check {
    strict: Vec<String>,
    seen: BTreeSet<String>,
    collect: bool,
    /// How many bytes of strict errors may still be written.
    room: usize,
    /// How many objects there may still be.
    objects: u32,
    /// The first value of the wrong type.
    saved: Option<Error>,
    /// JSON names of the fields above, as errors show them.
    stack: Vec<&'static str>,
    /// The innermost struct.
    structure: Option<&'static Message>,
    top: Option<&'static Message>,
    /// The path with list positions and map keys, kept only to collect.
    path: String,
}

impl Check {
    fn new(collect: bool) -> Check {
        Check {
            strict: Vec::new(),
            seen: BTreeSet::new(),
            collect,
            room: MAX_STRICT_BYTES,
            objects: MAX_OBJECTS,
            saved: None,
            stack: Vec::new(),
            structure: None,
            top: None,
            path: String::new(),
        }
    }

    fn save(&mut self, found: &str, kind: &Kind<'_>) {
        if self.saved.is_none() {
            self.saved = Some(Error::Type(self.cannot(found, &kind.name())));
        }
    }

    fn cannot(&self, found: &str, into: &str) -> String {
        match self.structure {
            Some(s) if !self.stack.is_empty() => format!(
                "json: cannot unmarshal {found} into Go struct field {}.{} of type {into}",
                s.name,
                self.stack.join("."),
            ),
            _ => format!("json: cannot unmarshal {found} into Go value of type {into}"),
        }
    }

    fn strict(&mut self, what: &str, key: &str) {
        if !self.collect || self.strict.len() >= MAX_STRICT || self.room == 0 {
            return;
        }
        self.room = self.room.saturating_sub(self.path.len() + key.len());
        let path = if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        };
        let text = format!("{what} field {}", time::quote(&path));
        if self.seen.insert(text.clone()) {
            self.strict.push(text);
        }
    }

    /// Counts objects, of which there may not be more than [`MAX_OBJECTS`].
    fn objects(&mut self, n: u32) -> Result<(), Error> {
        self.objects = self.objects.checked_sub(n).ok_or(Error::Objects)?;
        Ok(())
    }

    /// An element, or what Go has for a null or refused one.
    fn or_zero(&mut self, element: Option<Value>, ty: &Type) -> Result<Value, Error> {
        if let Some(element) = element {
            return Ok(element);
        }
        let mut made = 0;
        let value = zero(ty, &mut made);
        self.objects(made)?;
        Ok(value)
    }

    /// Adds what Go prints of a struct though it was not given.
    fn fill(&mut self, map: &mut Map<String, Value>, msg: &'static Message) -> Result<(), Error> {
        if fills(msg) {
            let mut made = 0;
            fill_at(map, msg, 0, &mut made);
            self.objects(made)?;
        }
        Ok(())
    }

    /// Appends a key to the path; returns the length to go back to.
    fn enter(&mut self, key: &str) -> usize {
        let len = self.path.len();
        if self.collect {
            if !self.path.is_empty() {
                self.path.push('.');
            }
            self.path.push_str(key);
        }
        len
    }

    fn enter_index(&mut self, i: usize) -> usize {
        let len = self.path.len();
        if self.collect {
            self.path.push('[');
            self.path.push_str(&i.to_string());
            self.path.push(']');
        }
        len
    }

    fn leave(&mut self, len: usize) {
        self.path.truncate(len);
    }
}

/// The field of a key, and the Go names of the inlined structs on the way.
fn lookup(msg: &'static Message, key: &str) -> Option<(&'static Field, [Option<&'static str>; 2])> {
    let (field, direct) = msg.lookup(key)?;
    let mut via = [None, None];
    if !direct {
        let mut at = msg;
        for slot in &mut via {
            let step = at.fields.iter().find(|f| {
                f.is(flag::INLINE) && matches!(f.ty, Type::Message(m) if m.field(key).is_some_and(|x| std::ptr::eq(x, field)))
            });
            let Some(step) = step else { break };
            *slot = Some(step.go);
            let Type::Message(m) = step.ty else { break };
            at = m;
        }
    }
    Some((field, via))
}

/// Whether a decoded value is what `omitempty` leaves out.
fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

/// The value of a field that may have been read before: Go reads a second map or struct into the first.
fn again(before: Option<Value>, value: Option<Value>, ty: &Type) -> Option<Value> {
    match (before, value) {
        (Some(Value::Object(mut first)), Some(Value::Object(second))) => {
            for (key, value) in second {
                let of = match ty {
                    Type::Message(m) => m.field(&key).map(|f| &f.ty),
                    _ => None,
                };
                let value = match of {
                    Some(ty) => again(first.remove(&key), Some(value), ty),
                    None => Some(value),
                };
                if let Some(v) = value {
                    first.insert(key, v);
                }
            }
            Some(Value::Object(first))
        }
        (_, value) => value,
    }
}

/// Stores a decoded field: what Go's encoder would leave out is left out.
fn store(map: &mut Map<String, Value>, field: &Field, value: Option<Value>) {
    let keep = value.filter(|v| {
        field.is(flag::POINTER)
            || !field.is(flag::OMITEMPTY | flag::OMITZERO)
            || match field.ty {
                // These are structs in Go, which omitempty does not leave out.
                Type::Message(_) | Type::Quantity | Type::IntOrString | Type::RawExtension => {
                    !(field.is(flag::OMITZERO) && empty(v))
                }
                _ => !empty(v),
            }
    });
    match keep {
        Some(v) => {
            map.insert(field.json.to_owned(), v);
        }
        None => {
            map.remove(field.json);
        }
    }
}

/// Adds what Go's encoder prints even when it was not given: scalars and structs without a pointer.
pub fn fill(map: &mut Map<String, Value>, msg: &'static Message) {
    fill_at(map, msg, 0, &mut 0);
}

/// [`fill`], counting the objects made.
fn fill_at(map: &mut Map<String, Value>, msg: &'static Message, depth: u32, made: &mut u32) {
    if depth > 50 {
        return;
    }
    for field in msg.fields {
        if field.is(flag::INLINE) {
            if let Type::Message(m) = field.ty {
                fill_at(map, m, depth + 1, made);
            }
            continue;
        }
        if field.is(flag::POINTER | flag::OMITZERO) {
            continue;
        }
        let value = match field.ty {
            Type::Message(m) => {
                if map.contains_key(field.json) {
                    continue;
                }
                let mut inner = Map::new();
                *made += 1;
                fill_at(&mut inner, m, depth + 1, made);
                Value::Object(inner)
            }
            // Tables without tags are of custom resources, where nothing is filled in.
            _ if field.tag == 0 => continue,
            _ if field.is(flag::OMITEMPTY) => continue,
            Type::Bool => Value::Bool(false),
            Type::I32 | Type::I64 | Type::U32 | Type::U64 | Type::F64 => Value::Number(0.into()),
            Type::String => Value::String(String::new()),
            Type::Quantity => Value::String("0".to_owned()),
            Type::IntOrString => Value::Number(0.into()),
            Type::Duration => Value::String("0s".to_owned()),
            _ => continue,
        };
        // Asked first, because an entry would copy the key.
        if !map.contains_key(field.json) {
            map.insert(field.json.to_owned(), value);
        }
    }
}

fn filled(msg: &'static Message, made: &mut u32) -> Map<String, Value> {
    let mut map = Map::new();
    *made += 1;
    if !msg.open {
        fill_at(&mut map, msg, 0, made);
    }
    map
}

/// Whether [`fill`] applies: types of custom resources have pruning but no zero values.
fn fills(msg: &'static Message) -> bool {
    !msg.open && !msg.tags.is_empty()
}

fn int_fits(ty: &Type, n: &Number) -> bool {
    match ty {
        Type::I32 => n.as_i64().is_some_and(|i| i32::try_from(i).is_ok()),
        Type::I64 => n.as_i64().is_some(),
        Type::U32 => n.as_u64().is_some_and(|u| u32::try_from(u).is_ok()),
        Type::U64 => n.as_u64().is_some(),
        _ => true,
    }
}

/// What a JSON value is called in Go's type errors.
pub fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A scalar of some type from a JSON scalar; `literal` is the text of a number.
fn scalar(
    value: Value,
    literal: &str,
    kind: &Kind<'_>,
    check: &mut Check,
) -> Result<Option<Value>, Error> {
    let found = go_kind(&value);
    Ok(match (&kind.ty, value) {
        (Type::Any | Type::RawExtension | Type::FieldsV1 | Type::Json, v) => {
            Some(v).filter(|v| !v.is_null())
        }
        (Type::Quantity, Value::Null) => Some(Value::String("0".to_owned())),
        (Type::IntOrString, Value::Null) => Some(Value::Number(0.into())),
        (_, Value::Null) => None,
        (Type::Bool, v @ Value::Bool(_)) => Some(v),
        (Type::String, v @ Value::String(_)) => Some(v),
        (Type::Quantity, Value::String(s)) => {
            let text = Quantity::canonical(s.trim()).map_err(|e| Error::Mismatch(e.to_string()))?;
            if text == s.as_str() {
                Some(Value::String(s))
            } else {
                Some(Value::String(text.into_owned()))
            }
        }
        (Type::Quantity, v @ (Value::Number(_) | Value::Bool(_))) => {
            let text = if literal.is_empty() {
                v.to_string()
            } else {
                literal.to_owned()
            };
            let text = Quantity::canonical(&text)
                .map_err(|e| Error::Mismatch(e.to_string()))?
                .into_owned();
            Some(Value::String(text))
        }
        (Type::Quantity, _) => {
            return Err(Error::Mismatch(
                crate::quantity::QuantityError::Format.to_string(),
            ));
        }
        (Type::IntOrString, v @ Value::String(_)) => Some(v),
        (Type::IntOrString, Value::Number(n)) => {
            if !int_fits(&Type::I32, &n) {
                let found = format!("number {}", number_text(literal, &n));
                return Err(Error::Mismatch(check.cannot(&found, "int32")));
            }
            Some(Value::Number(n))
        }
        (Type::IntOrString, _) => {
            return Err(Error::Mismatch(check.cannot(found, "int32")));
        }
        (Type::Time, Value::String(s)) => {
            let m = time::parse_rfc3339(&s).map_err(Error::Mismatch)?;
            if m.seconds == time::ZERO_SECONDS {
                None
            } else {
                Some(Value::String(m.rfc3339()))
            }
        }
        (Type::MicroTime, Value::String(s)) => {
            let m = time::parse_rfc3339_micro(&s).map_err(Error::Mismatch)?;
            if m.seconds == time::ZERO_SECONDS && m.nanos < 1000 {
                None
            } else {
                Some(Value::String(m.rfc3339_micro()))
            }
        }
        (Type::Duration, Value::String(s)) => {
            let nanos = time::parse_duration(&s).map_err(Error::Mismatch)?;
            Some(Value::String(time::format_duration(nanos)))
        }
        (Type::Time | Type::MicroTime | Type::Duration, _) => {
            return Err(Error::Mismatch(check.cannot(found, "string")));
        }
        (Type::I32 | Type::I64 | Type::U32 | Type::U64, Value::Number(n)) => {
            let plain = literal.is_empty() || !literal.contains(['.', 'e', 'E']);
            if plain && int_fits(&kind.ty, &n) {
                Some(Value::Number(n))
            } else {
                check.save(&format!("number {}", number_text(literal, &n)), kind);
                None
            }
        }
        (Type::F64, Value::Number(n)) => Some(Value::Number(n)),
        (Type::Bytes, Value::String(s)) => match BASE64.decode(s.as_bytes()) {
            Ok(_) => Some(Value::String(s)),
            Err(_) => {
                // Go skips line breaks.
                let joined: String = s.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
                match BASE64.decode(joined.as_bytes()) {
                    Ok(_) => Some(Value::String(joined)),
                    Err(e) => {
                        let at = match e {
                            base64::DecodeError::InvalidByte(at, _)
                            | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                            _ => joined.len(),
                        };
                        if check.saved.is_none() {
                            check.saved = Some(Error::Type(format!(
                                "illegal base64 data at input byte {at}"
                            )));
                        }
                        None
                    }
                }
            }
        },
        (Type::SchemaOrBool(_), v @ Value::Bool(_)) => Some(v),
        (Type::SchemaOrBool(_), _) => {
            return Err(Error::Mismatch(
                "boolean or JSON schema expected".to_owned(),
            ));
        }
        _ => {
            check.save(found, kind);
            None
        }
    })
}

fn number_text(literal: &str, n: &Number) -> String {
    if literal.is_empty() {
        n.to_string()
    } else {
        literal.to_owned()
    }
}

/// The struct that a `JSONSchemaPropsOr…` may hold.
fn schema_of(ty: &Type) -> Option<&'static Message> {
    match ty {
        Type::SchemaOrArray(m) | Type::SchemaOrBool(m) | Type::SchemaOrStrings(m) => Some(m),
        _ => None,
    }
}

fn is_open(ty: &Type) -> bool {
    matches!(
        ty,
        Type::Any | Type::RawExtension | Type::FieldsV1 | Type::Json
    )
}

/// One tree value, normalised; `None` where Go would leave the zero value.
fn tree(
    value: Value,
    kind: &Kind<'_>,
    check: &mut Check,
    depth: u32,
) -> Result<Option<Value>, Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Syntax("exceeded max depth".to_owned()));
    }
    if is_open(&kind.ty) {
        return Ok(Some(value).filter(|v| !v.is_null()));
    }
    match value {
        Value::Object(object) => match kind.ty {
            Type::Message(msg) => Ok(Some(Value::Object(tree_struct(object, msg, check, depth)?))),
            Type::Map(_) => {
                let element = kind.element();
                let mut out = Map::new();
                check.objects(1)?;
                for (key, value) in object {
                    let at = check.enter(&key);
                    let value = tree(value, &element, check, depth + 1)?;
                    check.leave(at);
                    out.insert(key, check.or_zero(value, &element.ty)?);
                }
                Ok(Some(Value::Object(out)))
            }
            ty => match schema_of(&ty) {
                Some(msg) => Ok(Some(Value::Object(tree_struct(object, msg, check, depth)?))),
                None => scalar(Value::Object(Map::new()), "", kind, check),
            },
        },
        Value::Array(items) => match kind.ty {
            Type::List(_) | Type::WrappedList(_) => {
                tree_list(items, &kind.element(), check, depth).map(Some)
            }
            Type::SchemaOrArray(m) => tree_list(
                items,
                &Kind {
                    ty: Type::Message(m),
                    go: "",
                },
                check,
                depth,
            )
            .map(Some),
            Type::SchemaOrStrings(_) => tree_list(
                items,
                &Kind {
                    ty: Type::String,
                    go: "",
                },
                check,
                depth,
            )
            .map(Some),
            _ => scalar(Value::Array(Vec::new()), "", kind, check),
        },
        other => scalar(other, "", kind, check),
    }
}

fn tree_list(
    items: Vec<Value>,
    element: &Kind<'_>,
    check: &mut Check,
    depth: u32,
) -> Result<Value, Error> {
    let mut out = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let at = check.enter_index(i);
        let item = tree(item, element, check, depth + 1)?;
        check.leave(at);
        out.push(check.or_zero(item, &element.ty)?);
    }
    Ok(Value::Array(out))
}

fn tree_struct(
    object: Map<String, Value>,
    msg: &'static Message,
    check: &mut Check,
    depth: u32,
) -> Result<Map<String, Value>, Error> {
    let mut out = Map::new();
    check.objects(1)?;
    for (key, value) in object {
        if msg.type_meta && (key == "kind" || key == "apiVersion") {
            type_meta(&mut out, key, value, msg, check);
            continue;
        }
        match lookup(msg, &key) {
            Some((field, via)) => {
                let at = check.enter(&key);
                let (depth_of_stack, structure) = push_context(check, msg, field, via);
                let value = tree(
                    value,
                    &Kind {
                        ty: field.ty,
                        go: field.go_type,
                    },
                    check,
                    depth + 1,
                )?;
                check.stack.truncate(depth_of_stack);
                check.structure = structure;
                check.leave(at);
                store(&mut out, field, value);
            }
            None if msg.open => {
                out.insert(key, value);
            }
            None => check.strict("unknown", &key),
        }
    }
    check.fill(&mut out, msg)?;
    Ok(out)
}

fn type_meta(
    out: &mut Map<String, Value>,
    key: String,
    value: Value,
    msg: &'static Message,
    check: &mut Check,
) {
    match value {
        Value::String(s) => {
            if !s.is_empty() {
                out.insert(key, Value::String(s));
            }
        }
        Value::Null => {}
        other => {
            let found = match other {
                Value::Bool(_) => "bool",
                Value::Number(_) => "number",
                Value::Array(_) => "array",
                _ => "object",
            };
            let structure = check.structure.replace(msg);
            let len = check.stack.len();
            check.stack.push("TypeMeta");
            check
                .stack
                .push(if key == "kind" { "kind" } else { "apiVersion" });
            check.save(
                found,
                &Kind {
                    ty: Type::String,
                    go: "string",
                },
            );
            check.stack.truncate(len);
            check.structure = structure;
        }
    }
}

fn push_context(
    check: &mut Check,
    msg: &'static Message,
    field: &'static Field,
    via: [Option<&'static str>; 2],
) -> (usize, Option<&'static Message>) {
    let len = check.stack.len();
    for go in via.into_iter().flatten() {
        check.stack.push(go);
    }
    check.stack.push(field.json);
    (len, check.structure.replace(msg))
}

/// What Go has for a null or refused element.
fn zero(ty: &Type, made: &mut u32) -> Value {
    match ty {
        Type::Bool => Value::Bool(false),
        Type::I32 | Type::I64 | Type::U32 | Type::U64 | Type::F64 | Type::IntOrString => {
            Value::Number(0.into())
        }
        Type::String => Value::String(String::new()),
        Type::Quantity => Value::String("0".to_owned()),
        Type::Duration => Value::String("0s".to_owned()),
        Type::Message(m) => Value::Object(filled(m, made)),
        _ => Value::Null,
    }
}

// --- text

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
}

fn quote_char(c: u8) -> String {
    match c {
        b'\'' => "'\\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        0x07 => "'\\a'".to_owned(),
        0x08 => "'\\b'".to_owned(),
        0x0c => "'\\f'".to_owned(),
        0x0b => "'\\v'".to_owned(),
        c => {
            let q = time::quote(&char::from(c).to_string());
            format!("'{}'", q.trim_start_matches('"').trim_end_matches('"'))
        }
    }
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn fail<T>(&self, context: &str) -> Result<T, Error> {
        Err(Error::Syntax(match self.peek() {
            Some(c) => format!("invalid character {} {context}", quote_char(c)),
            // Go's scanner ends every text with a space, which fits in no number, word or escape.
            None if context != "in string literal"
                && (context.starts_with("in ") || context.starts_with("after decimal")) =>
            {
                format!("invalid character ' ' {context}")
            }
            None => "unexpected end of JSON input".to_owned(),
        }))
    }

    fn end(&mut self) -> Result<(), Error> {
        self.space();
        if self.at < self.bytes.len() {
            self.fail("after top-level value")
        } else {
            Ok(())
        }
    }

    fn literal(&mut self, word: &'static str) -> Result<(), Error> {
        for want in word.bytes() {
            if self.peek() != Some(want) {
                return self.fail(&format!(
                    "in literal {word} (expecting '{}')",
                    char::from(want)
                ));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Result<&'a str, Error> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => {
                self.digits();
            }
            _ => return self.fail("in numeric literal"),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return self.fail("after decimal point in numeric literal");
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return self.fail("in exponent of numeric literal");
            }
        }
        let text = self.bytes.get(start..self.at).unwrap_or_default();
        Ok(std::str::from_utf8(text).unwrap_or_default())
    }

    /// A string; the opening quote is next. Bytes that are not UTF-8 become U+FFFD, as in Go.
    fn string(&mut self) -> Result<std::borrow::Cow<'a, str>, Error> {
        self.at += 1;
        let start = self.at;
        let rest = self.bytes.get(start..).unwrap_or_default();
        let plain = rest
            .iter()
            .take_while(|b| !matches!(b, b'"' | b'\\' | 0..=0x1f))
            .count();
        if rest.get(plain) == Some(&b'"') {
            self.at += plain + 1;
            return Ok(String::from_utf8_lossy(
                rest.get(..plain).unwrap_or_default(),
            ));
        }
        let mut out: Vec<u8> = rest.get(..plain).unwrap_or_default().to_vec();
        self.at += plain;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    let text = String::from_utf8(out)
                        .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
                    return Ok(text.into());
                }
                Some(b'\\') => {
                    self.at += 1;
                    let c = self.peek();
                    match c {
                        Some(b'"' | b'\\' | b'/') => out.extend(c),
                        Some(b'b') => out.push(8),
                        Some(b'f') => out.push(12),
                        Some(b'n') => out.push(b'\n'),
                        Some(b'r') => out.push(b'\r'),
                        Some(b't') => out.push(b'\t'),
                        Some(b'u') => {
                            self.at += 1;
                            let c = self.unicode()?;
                            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                            continue;
                        }
                        _ => return self.fail("in string escape code"),
                    }
                    self.at += 1;
                }
                Some(0..=0x1f) | None => return self.fail("in string literal"),
                Some(b) => {
                    out.push(b);
                    self.at += 1;
                }
            }
        }
    }

    fn hex4(&mut self) -> Result<u32, Error> {
        let mut v = 0;
        for _ in 0..4 {
            let Some(d) = self.peek().and_then(|c| char::from(c).to_digit(16)) else {
                return self.fail("in \\u hexadecimal character escape");
            };
            v = v << 4 | d;
            self.at += 1;
        }
        Ok(v)
    }

    fn unicode(&mut self) -> Result<char, Error> {
        let first = self.hex4()?;
        if (0xd800..0xdc00).contains(&first) && self.bytes.get(self.at..self.at + 2) == Some(b"\\u")
        {
            let back = self.at;
            self.at += 2;
            let second = self.hex4()?;
            if (0xdc00..0xe000).contains(&second) {
                let c = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    /// The elements of an array; `each` reads one.
    fn array(
        &mut self,
        depth: u32,
        mut each: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.open(depth as usize)?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        let mut i = 0;
        loop {
            each(self, i)?;
            i += 1;
            if !self.more(b']')? {
                return Ok(());
            }
        }
    }

    /// The members of an object; `each` reads the value of a key.
    fn object(
        &mut self,
        depth: u32,
        mut each: impl FnMut(&mut Self, std::borrow::Cow<'a, str>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.open(depth as usize)?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let key = self.key()?;
            each(self, key)?;
            if !self.more(b'}')? {
                return Ok(());
            }
        }
    }

    /// A scalar and, for numbers, its text.
    fn simple(&mut self) -> Result<(Value, &'a str), Error> {
        Ok(match self.peek() {
            Some(b'"') => (Value::String(self.string()?.into_owned()), ""),
            Some(b't') => {
                self.literal("true")?;
                (Value::Bool(true), "")
            }
            Some(b'f') => {
                self.literal("false")?;
                (Value::Bool(false), "")
            }
            Some(b'n') => {
                self.literal("null")?;
                (Value::Null, "")
            }
            Some(b'-' | b'0'..=b'9') => {
                let text = self.number()?;
                (Value::Number(to_number(text)), text)
            }
            _ => return self.fail("looking for beginning of value"),
        })
    }

    /// Steps into an array or object whose opening sign is next, `depth` levels below the top.
    fn open(&mut self, depth: usize) -> Result<(), Error> {
        if depth >= MAX_DEPTH as usize {
            return self.fail("exceeded max depth");
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    /// The key of an object's member, up to its colon.
    fn key(&mut self) -> Result<std::borrow::Cow<'a, str>, Error> {
        self.space();
        if self.peek() != Some(b'"') {
            return self.fail("looking for beginning of object key string");
        }
        let key = self.string()?;
        self.space();
        if self.peek() != Some(b':') {
            return self.fail("after object key");
        }
        self.at += 1;
        Ok(key)
    }

    /// Whether another element follows; otherwise the closing sign was read.
    fn more(&mut self, close: u8) -> Result<bool, Error> {
        self.space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(c) if c == close => {
                self.at += 1;
                Ok(false)
            }
            _ if close == b'}' => self.fail("after object key:value pair"),
            _ => self.fail("after array element"),
        }
    }

    fn skip(&mut self, depth: u32) -> Result<(), Error> {
        // The closing signs of what is open.
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.space();
            let close = match self.peek() {
                Some(b'{') => b'}',
                Some(b'[') => b']',
                Some(b'"') => {
                    self.string()?;
                    0
                }
                _ => {
                    self.simple()?;
                    0
                }
            };
            if close != 0 {
                self.open(depth as usize + open.len())?;
                if self.peek() == Some(close) {
                    self.at += 1;
                } else {
                    open.push(close);
                    if close == b'}' {
                        self.key()?;
                    }
                    continue;
                }
            }
            loop {
                let Some(close) = open.last().copied() else {
                    return Ok(());
                };
                if self.more(close)? {
                    if close == b'}' {
                        self.key()?;
                    }
                    break;
                }
                open.pop();
            }
        }
    }

    /// Any value; duplicate keys are noted.
    fn untyped(&mut self, check: &mut Check, depth: u32) -> Result<Value, Error> {
        /// What is open, with the path's length outside of its current element.
        enum Open<'a> {
            Array(Vec<Value>, usize),
            Object(Map<String, Value>, std::borrow::Cow<'a, str>, usize),
        }
        fn member<'a>(
            parser: &mut Parser<'a>,
            check: &mut Check,
            map: Map<String, Value>,
        ) -> Result<Open<'a>, Error> {
            let key = parser.key()?;
            if check.collect && map.contains_key(&*key) {
                check.strict("duplicate", &key);
            }
            let at = check.enter(&key);
            Ok(Open::Object(map, key, at))
        }
        let mut open: Vec<Open<'a>> = Vec::new();
        loop {
            self.space();
            let mut value = match self.peek() {
                Some(b'{') => {
                    self.open(depth as usize + open.len())?;
                    if self.peek() != Some(b'}') {
                        check.objects(1)?;
                        open.push(member(self, check, Map::new())?);
                        continue;
                    }
                    self.at += 1;
                    Value::Object(Map::new())
                }
                Some(b'[') => {
                    self.open(depth as usize + open.len())?;
                    if self.peek() != Some(b']') {
                        open.push(Open::Array(Vec::new(), check.enter_index(0)));
                        continue;
                    }
                    self.at += 1;
                    Value::Array(Vec::new())
                }
                _ => self.simple()?.0,
            };
            loop {
                match open.pop() {
                    None => return Ok(value),
                    Some(Open::Array(mut items, at)) => {
                        check.leave(at);
                        items.push(value);
                        if self.more(b']')? {
                            let at = check.enter_index(items.len());
                            open.push(Open::Array(items, at));
                            break;
                        }
                        value = Value::Array(items);
                    }
                    Some(Open::Object(mut map, key, at)) => {
                        check.leave(at);
                        map.insert(key.into_owned(), value);
                        if self.more(b'}')? {
                            open.push(member(self, check, map)?);
                            break;
                        }
                        value = Value::Object(map);
                    }
                }
            }
        }
    }

    fn typed(
        &mut self,
        kind: &Kind<'_>,
        check: &mut Check,
        depth: u32,
    ) -> Result<Option<Value>, Error> {
        self.space();
        if is_open(&kind.ty) {
            // Upstream keeps such values as text and does not look for duplicates in them.
            let mut unchecked = Check::new(false);
            unchecked.objects = check.objects;
            let value = self.untyped(&mut unchecked, depth)?;
            check.objects = unchecked.objects;
            return Ok(Some(value).filter(|v| !v.is_null()));
        }
        match self.peek() {
            Some(b'{') => match kind.ty {
                Type::Message(msg) => self.structure(msg, check, depth).map(Some),
                Type::Map(_) => self.map(&kind.element(), check, depth).map(Some),
                ty => match schema_of(&ty) {
                    Some(msg) => self.structure(msg, check, depth).map(Some),
                    None => {
                        self.skip(depth)?;
                        scalar(Value::Object(Map::new()), "", kind, check)
                    }
                },
            },
            Some(b'[') => match kind.ty {
                Type::List(_) | Type::WrappedList(_) => {
                    self.list(&kind.element(), check, depth).map(Some)
                }
                Type::SchemaOrArray(m) => self
                    .list(
                        &Kind {
                            ty: Type::Message(m),
                            go: "",
                        },
                        check,
                        depth,
                    )
                    .map(Some),
                Type::SchemaOrStrings(_) => self
                    .list(
                        &Kind {
                            ty: Type::String,
                            go: "",
                        },
                        check,
                        depth,
                    )
                    .map(Some),
                _ => {
                    self.skip(depth)?;
                    scalar(Value::Array(Vec::new()), "", kind, check)
                }
            },
            _ => {
                let (value, literal) = self.simple()?;
                scalar(value, literal, kind, check)
            }
        }
    }

    fn list(&mut self, element: &Kind<'_>, check: &mut Check, depth: u32) -> Result<Value, Error> {
        let mut items = Vec::new();
        self.array(depth, |p, i| {
            let at = check.enter_index(i);
            let item = p.typed(element, check, depth + 1)?;
            check.leave(at);
            items.push(check.or_zero(item, &element.ty)?);
            Ok(())
        })?;
        Ok(Value::Array(items))
    }

    fn map(&mut self, element: &Kind<'_>, check: &mut Check, depth: u32) -> Result<Value, Error> {
        let mut map = Map::new();
        check.objects(1)?;
        self.object(depth, |p, key| {
            if check.collect && map.contains_key(&*key) {
                check.strict("duplicate", &key);
            }
            let at = check.enter(&key);
            let value = p.typed(element, check, depth + 1)?;
            check.leave(at);
            map.insert(key.into_owned(), check.or_zero(value, &element.ty)?);
            Ok(())
        })?;
        Ok(Value::Object(map))
    }

    fn structure(
        &mut self,
        msg: &'static Message,
        check: &mut Check,
        depth: u32,
    ) -> Result<Value, Error> {
        let mut out = Map::new();
        check.objects(1)?;
        let mut seen: Vec<&'static Field> = Vec::new();
        let mut seen_meta = (false, false);
        self.object(depth, |p, key| {
            if msg.type_meta && (key == "kind" || key == "apiVersion") {
                let slot = if key == "kind" {
                    &mut seen_meta.0
                } else {
                    &mut seen_meta.1
                };
                if std::mem::replace(slot, true) {
                    check.strict("duplicate", &key);
                }
                let value = p.untyped(&mut Check::new(false), depth + 1)?;
                type_meta(&mut out, key.into_owned(), value, msg, check);
                return Ok(());
            }
            match lookup(msg, &key) {
                Some((field, via)) => {
                    if check.collect {
                        if seen.iter().any(|f| std::ptr::eq(*f, field)) {
                            check.strict("duplicate", &key);
                        } else {
                            seen.push(field);
                        }
                    }
                    let at = check.enter(&key);
                    let (len, structure) = push_context(check, msg, field, via);
                    let value = p.typed(
                        &Kind {
                            ty: field.ty,
                            go: field.go_type,
                        },
                        check,
                        depth + 1,
                    )?;
                    check.stack.truncate(len);
                    check.structure = structure;
                    check.leave(at);
                    let before = out.remove(field.json).filter(|b| b.is_object());
                    store(&mut out, field, again(before, value, &field.ty));
                    Ok(())
                }
                None if msg.open => {
                    if check.collect && out.contains_key(&*key) {
                        check.strict("duplicate", &key);
                    }
                    let at = check.enter(&key);
                    let value = p.untyped(check, depth + 1)?;
                    check.leave(at);
                    out.insert(key.into_owned(), value);
                    Ok(())
                }
                None => {
                    check.strict("unknown", &key);
                    p.skip(depth + 1)
                }
            }
        })?;
        check.fill(&mut out, msg)?;
        Ok(Value::Object(out))
    }
}

/// A number as upstream keeps it in untyped data: an integer if it is written as one and fits, else a float.
fn to_number(text: &str) -> Number {
    if !text.contains(['.', 'e', 'E']) {
        if let Ok(i) = text.parse::<i64>() {
            return i.into();
        }
        if let Ok(u) = text.parse::<u64>() {
            return u.into();
        }
    }
    let f: f64 = text.parse().unwrap_or(0.0);
    Number::from_f64(f)
        .unwrap_or_else(|| Number::from_f64(f64::MAX.copysign(f)).unwrap_or_else(|| 0.into()))
}

// --- printing

/// Appends the object as Go prints it: fields in the order of the struct, `kind` and `apiVersion` first, no trailing
/// newline. Keys the table does not know are left out, unless it is open.
pub fn encode(value: &Value, msg: &'static Message, out: &mut Vec<u8>) -> Result<(), Error> {
    put(value, &Type::Message(msg), out, 0)
}

/// Appends any tree as Go prints a map: keys sorted, `<`, `>`, `&`, U+2028 and U+2029 escaped.
pub fn encode_any(value: &Value, out: &mut Vec<u8>) {
    print::value(value, out);
}

/// Appends a patched object as upstream's patch library prints it: what the patch left alone as Go prints it, what it went
/// through with sorted keys.
pub fn encode_patched(value: &Value, old: &Value, msg: &'static Message, out: &mut Vec<u8>) {
    put_patched(value, Some(old), Some(&Type::Message(msg)), 0, out);
}

/// Down to this level of a patched object it is compared whether the patch left something alone. Each level compares
/// anew what lies below it.
const COMPARED: u32 = 32;

fn put_patched(
    value: &Value,
    old: Option<&Value>,
    ty: Option<&Type>,
    depth: u32,
    out: &mut Vec<u8>,
) {
    if let Some(ty) = ty.filter(|_| depth < COMPARED && old == Some(value)) {
        let len = out.len();
        if put(value, ty, out, 0).is_ok() {
            return;
        }
        out.truncate(len);
    }
    match value {
        Value::Object(map) => {
            out.push(b'{');
            let sorted: std::collections::BTreeMap<&String, &Value> = map.iter().collect();
            for (i, (key, value)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                print::string(key, out);
                out.push(b':');
                let of = match ty {
                    Some(Type::Message(m)) => m.field(key).map(|f| &f.ty),
                    Some(Type::Map(t)) => Some(*t),
                    _ => None,
                };
                put_patched(value, old.and_then(|o| o.get(key)), of, depth + 1, out);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (i, value) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                let of = match ty {
                    Some(Type::List(t) | Type::WrappedList(t)) => Some(*t),
                    _ => None,
                };
                put_patched(value, old.and_then(|o| o.get(i)), of, depth + 1, out);
            }
            out.push(b']');
        }
        scalar => print::value(scalar, out),
    }
}

/// What upstream's converter from untyped trees says of the first value that does not fit; `None` where all fit. It is
/// asked where [`normalize`] has refused a tree that a strategic merge made.
pub fn restore_error(value: &Value, msg: &'static Message) -> Option<String> {
    restore(value, &Type::Message(msg))
}

fn restore(value: &Value, ty: &Type) -> Option<String> {
    let found = match value {
        Value::Null => return None,
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    };
    let no = |kind: &str| Some(format!("unrecognized type: {kind}"));
    match (ty, value) {
        (Type::Message(m), Value::Object(map)) => fields_of(m)
            .into_iter()
            .find_map(|f| restore(map.get(f.json)?, &f.ty)),
        (Type::Message(_), _) => Some(format!("cannot restore struct from: {found}")),
        (Type::Map(t), Value::Object(map)) => map.values().find_map(|v| restore(v, t)),
        (Type::Map(_), _) => Some(format!("cannot restore map from {found}")),
        (Type::List(t) | Type::WrappedList(t), Value::Array(items)) => {
            items.iter().find_map(|v| restore(v, t))
        }
        (Type::List(_) | Type::WrappedList(_), _) => {
            Some(format!("cannot restore slice from {found}"))
        }
        (Type::Bytes, Value::String(_)) => {
            let mut check = Check::new(false);
            let kind = Kind { ty: *ty, go: "" };
            let _ = scalar(value.clone(), "", &kind, &mut check);
            check
                .saved
                .map(|e| format!("error decoding from json: {e}"))
        }
        (Type::Bytes, _) => Some(format!("cannot restore slice from {found}")),
        (Type::Bool, Value::Bool(_))
        | (Type::String, Value::String(_))
        | (Type::I32 | Type::I64 | Type::U32 | Type::U64 | Type::F64, Value::Number(_)) => None,
        (Type::Bool, _) => no("bool"),
        (Type::String, _) => no("string"),
        (Type::I32, _) => no("int32"),
        (Type::I64, _) => no("int64"),
        (Type::U32, _) => no("uint32"),
        (Type::U64, _) => no("uint64"),
        (Type::F64, _) => no("float64"),
        _ => {
            let kind = Kind { ty: *ty, go: "" };
            let mut check = Check::new(false);
            tree(value.clone(), &kind, &mut check, 0)
                .err()
                .map(|e| e.to_string())
        }
    }
}

/// The fields of a struct, those of inlined structs in their place.
fn fields_of(msg: &'static Message) -> Vec<&'static Field> {
    msg.fields
        .iter()
        .flat_map(|f| match f.ty {
            Type::Message(m) if f.is(flag::INLINE) => fields_of(m),
            _ => vec![f],
        })
        .collect()
}

fn put(value: &Value, ty: &Type, out: &mut Vec<u8>, depth: u32) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Depth);
    }
    match (ty, value) {
        (Type::Message(m), Value::Object(map)) => put_struct(Some(map), m, out, depth),
        (Type::Message(m), Value::Null) => put_struct(None, m, out, depth),
        (Type::List(t) | Type::WrappedList(t), Value::Array(items)) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                put(item, t, out, depth + 1)?;
            }
            out.push(b']');
            Ok(())
        }
        (Type::Map(t), Value::Object(map)) => {
            out.push(b'{');
            for (i, (key, item)) in map.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                print::string(key, out);
                out.push(b':');
                put(item, t, out, depth + 1)?;
            }
            out.push(b'}');
            Ok(())
        }
        (
            Type::SchemaOrArray(m) | Type::SchemaOrBool(m) | Type::SchemaOrStrings(m),
            Value::Object(map),
        ) => put_struct(Some(map), m, out, depth),
        (Type::SchemaOrArray(m), Value::Array(items)) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                put(item, &Type::Message(m), out, depth + 1)?;
            }
            out.push(b']');
            Ok(())
        }
        (_, value) => {
            print::value(value, out);
            Ok(())
        }
    }
}

fn put_struct(
    map: Option<&Map<String, Value>>,
    msg: &'static Message,
    out: &mut Vec<u8>,
    depth: u32,
) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Depth);
    }
    out.push(b'{');
    let start = out.len();
    if msg.type_meta
        && let Some(map) = map
    {
        for key in ["kind", "apiVersion"] {
            if let Some(Value::String(s)) = map.get(key)
                && !s.is_empty()
            {
                if out.len() > start {
                    out.push(b',');
                }
                print::string(key, out);
                out.push(b':');
                print::string(s, out);
            }
        }
    }
    if msg.open {
        // Custom resources print as maps: sorted, whether in the schema or not.
        for (key, value) in map.into_iter().flatten() {
            if msg.type_meta && (key == "kind" || key == "apiVersion") {
                continue;
            }
            if out.len() > start {
                out.push(b',');
            }
            print::string(key, out);
            out.push(b':');
            match msg.field(key) {
                Some(f) => put(value, &f.ty, out, depth + 1)?,
                None => print::value(value, out),
            }
        }
    } else {
        put_fields(map, msg, start, out, depth)?;
    }
    out.push(b'}');
    Ok(())
}

fn put_fields(
    map: Option<&Map<String, Value>>,
    msg: &'static Message,
    start: usize,
    out: &mut Vec<u8>,
    depth: u32,
) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Depth);
    }
    for field in msg.fields {
        if field.is(flag::INLINE)
            && let Type::Message(m) = field.ty
        {
            put_fields(map, m, start, out, depth + 1)?;
            continue;
        }
        let value = map.and_then(|m| m.get(field.json)).filter(|v| !v.is_null());
        let structure = matches!(
            field.ty,
            Type::Message(_)
                | Type::Time
                | Type::MicroTime
                | Type::Quantity
                | Type::IntOrString
                | Type::RawExtension
        );
        let print = match value {
            Some(v) => {
                field.is(flag::POINTER)
                    || !field.is(flag::OMITEMPTY | flag::OMITZERO)
                    || (structure && !field.is(flag::OMITZERO))
                    || !empty(v)
            }
            None if field.is(flag::POINTER) => !field.is(flag::OMITEMPTY),
            // Tables without tags are of custom resources, where only what is there is printed.
            None => {
                field.tag > 0
                    && (!field.is(flag::OMITEMPTY | flag::OMITZERO)
                        || (structure && !field.is(flag::OMITZERO)))
            }
        };
        if !print {
            continue;
        }
        if out.len() > start {
            out.push(b',');
        }
        print::string(field.json, out);
        out.push(b':');
        match value {
            Some(v) => put(v, &field.ty, out, depth + 1)?,
            None if field.is(flag::POINTER) => out.extend_from_slice(b"null"),
            None => match field.ty {
                Type::Message(m) => put_struct(None, m, out, depth + 1)?,
                ty => print::value(&zero(&ty, &mut 0), out),
            },
        }
    }
    Ok(())
}
