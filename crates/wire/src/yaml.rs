//! YAML, as `sigs.k8s.io/yaml` reads and writes it: through JSON.
//!
//! Reading: the events of libyaml's parser become nodes, and these a tree by go-yaml's rules: YAML 1.1, aliases within
//! bounds, merge keys (`<<`), keys turned into strings. Writing: keys sorted, lists not indented, strings quoted only
//! where another type or syntax would be read.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};

use base64::Engine as _;
use libyaml_safer::{EventData, Parser};
use serde_json::{Map, Number, Value};

use crate::Error;
use crate::json::{Decoded, MAX_DEPTH, MAX_OBJECTS, MAX_STRICT, Strictness};
use crate::schema::Message;

/// How deep flow collections (`[`, `{`) may be around all values together: libyaml looks at each level of them for each
/// token. Text as long as a body may have some twenty levels around every value.
const MAX_FLOW: usize = 64 * 1024 * 1024;

/// How many directives (`%TAG`) may stand before a document: libyaml compares each with all others.
const MAX_DIRECTIVES: usize = 100;

/// How many bytes of tags the values of a document may have together: each has the whole of a prefix which `%TAG` made
/// short.
const MAX_TAGS: usize = 16 * 1024 * 1024;

/// How many bytes of text may come from aliases, which the limit on their number does not bound.
const MAX_ALIASED: usize = 3 * 1024 * 1024;

/// The byte order mark.
const MARK: &[u8; 3] = b"\xef\xbb\xbf";

/// Below this indent, nested values are printed in flow style: each level of block style is two spaces on each line.
const MAX_INDENT: usize = 200;

/// Decodes YAML text of type `msg`, with the checks of [`crate::json::decode`].
pub fn decode(
    bytes: &[u8],
    msg: &'static Message,
    strictness: Strictness,
) -> Result<Decoded, Error> {
    let (value, duplicates) = to_value_strict(bytes)?;
    normalize(value, &duplicates, msg, strictness)
}

/// Checks and normalises what [`to_value_strict`] gave, as [`decode`] does text.
pub fn normalize(
    value: Value,
    duplicates: &[String],
    msg: &'static Message,
    strictness: Strictness,
) -> Result<Decoded, Error> {
    let mut decoded = crate::json::normalize(value, msg, strictness)?;
    if strictness == Strictness::Collect && !duplicates.is_empty() {
        decoded.strict_errors.insert(0, list_errors(duplicates));
    }
    Ok(decoded)
}

/// Several errors as go-yaml's one.
pub fn list_errors(errors: &[String]) -> String {
    format!("yaml: unmarshal errors:\n  {}", errors.join("\n  "))
}

/// The JSON tree of the first document of YAML text, without a schema; of no text, null. Errors are `yaml: line 1: …`;
/// callers add the prefix that the upstream function of their place has (`error converting YAML to JSON: `).
pub fn to_value(bytes: &[u8]) -> Result<Value, Error> {
    to_value_strict(bytes).map(|(value, _)| value)
}

/// [`to_value`] with the keys that stand twice in a mapping, as `line 7: key "a" already set in map`.
pub fn to_value_strict(bytes: &[u8]) -> Result<(Value, Vec<String>), Error> {
    check_directives(check_utf8(bytes)?)?;
    let Some(document) = Document::read(bytes)? else {
        return Ok((Value::Null, Vec::new()));
    };
    let mut builder = Builder {
        document: &document,
        open: BTreeSet::new(),
        decoded: 0,
        aliased: 0,
        room: MAX_ALIASED,
        objects: MAX_OBJECTS,
        duplicates: Vec::new(),
    };
    let value = builder.value(document.root, 0)?;
    Ok((value, builder.duplicates))
}

fn yaml_error(message: impl std::fmt::Display) -> Error {
    Error::Syntax(format!("yaml: {message}"))
}

/// Refuses what is not UTF-8, as libyaml's reader words it.
fn check_utf8(bytes: &[u8]) -> Result<&str, Error> {
    let e = match std::str::from_utf8(bytes) {
        Ok(text) => return Ok(text),
        Err(e) => e,
    };
    let at = bytes.get(e.valid_up_to()).copied().unwrap_or_default();
    Err(yaml_error(match e.error_len() {
        None => "incomplete UTF-8 octet sequence",
        Some(_) if at & 0xc0 == 0x80 || at >= 0xf8 => "invalid leading UTF-8 octet",
        Some(_) => "invalid trailing UTF-8 octet",
    }))
}

/// Refuses documents with many directives. Lines end where they end for libyaml.
fn check_directives(text: &str) -> Result<(), Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = 0;
    for line in text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']) {
        match line.trim_ascii().as_bytes().first() {
            Some(b'%') => found += 1,
            Some(b'#') | None => {}
            Some(_) => break,
        }
        if found > MAX_DIRECTIVES {
            return Err(yaml_error("document contains excessive directives"));
        }
    }
    Ok(())
}

/// The message as go-yaml words it: lines of errors of the scanner count from one, of the parser from zero, and the first
/// line is not named.
fn go_message(e: &libyaml_safer::Error) -> Error {
    let scanner = u64::from(e.kind() == libyaml_safer::ErrorKind::Scanner);
    let line = |mark: Option<libyaml_safer::Mark>| mark.map_or(0, |m| m.line);
    let at = match line(e.problem_mark()) {
        0 => line(e.context_mark()),
        n => n + scanner,
    };
    yaml_error(match at {
        0 => e.problem().to_owned(),
        n => format!("line {n}: {}", e.problem()),
    })
}

enum Content {
    Scalar {
        value: String,
        tag: Tag,
        /// Plain, so that its type is guessed.
        plain: bool,
    },
    Alias {
        name: String,
        of: usize,
    },
    Sequence(Vec<usize>),
    /// Keys and values in turn.
    Mapping(Vec<usize>),
}

/// What a tag says of a scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    None,
    /// One of YAML's own that asks for a type: the word behind `tag:yaml.org,2002:`.
    Known(&'static str),
    /// A string is a string whatever else it is called.
    Other,
}

impl Tag {
    fn of(tag: Option<&str>) -> Tag {
        const KNOWN: [&str; 8] = [
            "binary",
            "str",
            "bool",
            "int",
            "float",
            "null",
            "timestamp",
            "merge",
        ];
        match tag {
            None | Some("") => Tag::None,
            Some(tag) => tag
                .strip_prefix("tag:yaml.org,2002:")
                .and_then(|word| KNOWN.into_iter().find(|known| *known == word))
                .map_or(Tag::Other, Tag::Known),
        }
    }
}

struct Node {
    content: Content,
    /// From zero.
    line: u64,
}

/// The nodes of a document.
struct Document {
    nodes: Vec<Node>,
    root: usize,
}

impl Document {
    /// Reads the first document, if there is one.
    fn read(bytes: &[u8]) -> Result<Option<Document>, Error> {
        // The parser takes the first byte of U+F000 to U+FFFF for that of a byte order mark.
        let marked = (bytes.first() == Some(&MARK[0]) && !bytes.starts_with(MARK))
            .then(|| [MARK, bytes].concat());
        let input = marked.as_deref().unwrap_or(bytes);
        let mut parser = Parser::new();
        parser.set_input(input);
        let mut nodes: Vec<Node> = Vec::new();
        let mut anchors: HashMap<String, usize> = HashMap::new();
        // The collections that are open.
        let mut open: Vec<usize> = Vec::new();
        let mut flow: usize = 0;
        let mut tags: usize = 0;
        loop {
            // The parser panics where it has no answer, as for a tag that a comma ends.
            let event = catch_unwind(AssertUnwindSafe(|| parser.parse()))
                .map_err(|_| yaml_error("the parser does not know what stands here"))?
                .map_err(|e| go_message(&e))?;
            if let EventData::Scalar { tag: Some(tag), .. }
            | EventData::SequenceStart { tag: Some(tag), .. }
            | EventData::MappingStart { tag: Some(tag), .. } = &event.data
            {
                tags += tag.len();
                if tags > MAX_TAGS {
                    return Err(yaml_error("document contains excessive tags"));
                }
            }
            flow += open.len();
            if flow > MAX_FLOW {
                return Err(yaml_error("document contains excessive nesting"));
            }
            let line = event.start_mark.line;
            let (content, anchor) = match event.data {
                EventData::StreamStart { .. } | EventData::DocumentStart { .. } => continue,
                EventData::StreamEnd | EventData::DocumentEnd { .. } => {
                    return Ok((!nodes.is_empty()).then_some(Document { nodes, root: 0 }));
                }
                EventData::SequenceEnd | EventData::MappingEnd => {
                    open.pop();
                    continue;
                }
                EventData::Alias { anchor } => {
                    let Some(of) = anchors.get(&anchor).copied() else {
                        return Err(yaml_error(format!("unknown anchor '{anchor}' referenced")));
                    };
                    (Content::Alias { name: anchor, of }, None)
                }
                EventData::Scalar {
                    anchor,
                    tag,
                    value,
                    plain_implicit,
                    ..
                } => {
                    let content = Content::Scalar {
                        value,
                        tag: Tag::of(tag.as_deref()),
                        plain: plain_implicit,
                    };
                    (content, anchor)
                }
                EventData::SequenceStart { anchor, .. } => (Content::Sequence(Vec::new()), anchor),
                EventData::MappingStart { anchor, .. } => (Content::Mapping(Vec::new()), anchor),
            };
            let id = nodes.len();
            if let Some(parent) = open.last().and_then(|p| nodes.get_mut(*p))
                && let Content::Sequence(children) | Content::Mapping(children) =
                    &mut parent.content
            {
                children.push(id);
            }
            if matches!(content, Content::Sequence(_) | Content::Mapping(_)) {
                if open.len() >= MAX_DEPTH as usize {
                    let at = match line {
                        0 => String::new(),
                        n => format!("line {}: ", n + 1),
                    };
                    return Err(yaml_error(format!("{at}exceeded max depth of {MAX_DEPTH}")));
                }
                open.push(id);
            }
            if let Some(a) = anchor {
                anchors.insert(a, id);
            }
            nodes.push(Node { content, line });
        }
    }
}

/// How much of a document may come from aliases, by its size. Source: go-yaml's `allowedAliasRatio`.
fn allowed_ratio(decoded: u32) -> f64 {
    const LOW: u32 = 400_000;
    const HIGH: u32 = 4_000_000;
    match decoded {
        n if n <= LOW => 0.99,
        n if n >= HIGH => 0.10,
        n => 0.99 - 0.89 * (f64::from(n - LOW) / f64::from(HIGH - LOW)),
    }
}

/// Makes a tree of nodes.
struct Builder<'d> {
    document: &'d Document,
    /// Aliases that are being followed.
    open: BTreeSet<usize>,
    decoded: u32,
    aliased: u32,
    /// How many bytes of text may still come from aliases.
    room: usize,
    /// How many objects there may still be.
    objects: u32,
    /// The first keys that stand twice.
    duplicates: Vec<String>,
}

impl<'d> Builder<'d> {
    fn node(&self, id: usize) -> Option<&'d Node> {
        self.document.nodes.get(id)
    }

    fn value(&mut self, id: usize, depth: u32) -> Result<Value, Error> {
        self.count()?;
        let Some(node) = self.node(id) else {
            return Ok(Value::Null);
        };
        match &node.content {
            Content::Scalar { value, tag, plain } => {
                if !self.open.is_empty() {
                    self.room = self.room.checked_sub(value.len()).ok_or_else(excessive)?;
                }
                scalar(value, *tag, *plain)
            }
            Content::Alias { name, of } => self.follow(id, name, |b| b.value(*of, deeper(depth)?)),
            Content::Sequence(items) => {
                let depth = deeper(depth)?;
                let mut out = Vec::with_capacity(items.len());
                for item in items {
                    out.push(self.value(*item, depth)?);
                }
                Ok(Value::Array(out))
            }
            Content::Mapping(items) => {
                self.objects = self.objects.checked_sub(1).ok_or(Error::Objects)?;
                let mut out = Map::new();
                self.fill(items, &mut out, deeper(depth)?)?;
                Ok(Value::Object(out))
            }
        }
    }

    fn count(&mut self) -> Result<(), Error> {
        self.decoded = self.decoded.saturating_add(1);
        if !self.open.is_empty() {
            self.aliased += 1;
        }
        if self.aliased > 100
            && self.decoded > 1000
            && f64::from(self.aliased) / f64::from(self.decoded) > allowed_ratio(self.decoded)
        {
            return Err(excessive());
        }
        Ok(())
    }

    fn follow<T>(
        &mut self,
        alias: usize,
        name: &str,
        f: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if !self.open.insert(alias) {
            return Err(yaml_error(format!("anchor '{name}' value contains itself")));
        }
        let done = f(self);
        self.open.remove(&alias);
        done
    }

    fn fill(
        &mut self,
        items: &[usize],
        out: &mut Map<String, Value>,
        depth: u32,
    ) -> Result<(), Error> {
        for pair in items.chunks(2) {
            let &[key, value] = pair else { continue };
            if self.is_merge(key) {
                self.merge(value, out, depth)?;
                continue;
            }
            let shown = self.value(key, depth)?;
            let (text, quoted) = match shown {
                Value::String(s) => {
                    let q = crate::time::quote(&s);
                    (s, q)
                }
                Value::Bool(b) => (b.to_string(), b.to_string()),
                Value::Number(n) => {
                    let text = match n.as_f64() {
                        Some(f) if n.is_f64() => short_float(f),
                        _ => n.to_string(),
                    };
                    (text.clone(), text)
                }
                Value::Null => {
                    return Err(Error::Syntax(format!(
                        "unsupported map key of type: %!s(<nil>), key: <nil>, value: {}",
                        self.value(value, depth)?
                    )));
                }
                Value::Array(_) | Value::Object(_) => {
                    return Err(yaml_error(format!("invalid map key: {}", go_value(&shown))));
                }
            };
            let line = self.node(value).map_or(0, |n| n.line);
            let value = self.value(value, depth)?;
            if self.duplicates.len() < MAX_STRICT && out.contains_key(&text) {
                self.duplicates.push(format!(
                    "line {}: key {quoted} already set in map",
                    line + 1
                ));
            }
            out.insert(text, value);
        }
        Ok(())
    }

    fn is_merge(&self, key: usize) -> bool {
        matches!(self.node(key).map(|n| &n.content), Some(Content::Scalar { value, tag, plain })
            if value == "<<" && (*plain || *tag == Tag::Known("merge")))
    }

    /// What `<<` stands for replaces what stands before it, as in go-yaml.
    fn merge(
        &mut self,
        value: usize,
        out: &mut Map<String, Value>,
        depth: u32,
    ) -> Result<(), Error> {
        let wrong = || yaml_error("map merge requires map or sequence of maps as the value");
        match self.node(value).map(|n| &n.content) {
            Some(Content::Mapping(items)) => {
                self.count()?;
                self.fill(items, out, depth)
            }
            Some(Content::Alias { name, of }) => match self.node(*of).map(|n| &n.content) {
                Some(Content::Mapping(items)) => {
                    self.count()?;
                    self.follow(value, name, |b| {
                        b.count()?;
                        b.fill(items, out, deeper(depth)?)
                    })
                }
                _ => Err(wrong()),
            },
            Some(Content::Sequence(items)) => {
                for item in items.iter().rev() {
                    match self.node(*item).map(|n| &n.content) {
                        Some(Content::Sequence(_) | Content::Scalar { .. }) | None => {
                            return Err(wrong());
                        }
                        _ => self.merge(*item, out, depth)?,
                    }
                }
                Ok(())
            }
            _ => Err(wrong()),
        }
    }
}

fn excessive() -> Error {
    yaml_error("document contains excessive aliasing")
}

/// Aliases nest what the parser did not see nested.
fn deeper(depth: u32) -> Result<u32, Error> {
    if depth > MAX_DEPTH {
        return Err(yaml_error(format!("exceeded max depth of {MAX_DEPTH}")));
    }
    Ok(depth + 1)
}

/// A float as go prints it with 32 bits of precision.
fn short_float(f: f64) -> String {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "upstream prints with this precision"
    )]
    let f = f as f32;
    let text = f.to_string();
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

/// A value as `%#v` prints what go-yaml makes of it.
fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".into(),
        Value::String(s) => crate::time::quote(s),
        Value::Array(items) => {
            let all: Vec<String> = items.iter().map(go_value).collect();
            format!("[]interface {{}}{{{}}}", all.join(", "))
        }
        Value::Object(map) => {
            let all: Vec<String> = map
                .iter()
                .map(|(k, v)| format!("{}:{}", crate::time::quote(k), go_value(v)))
                .collect();
            format!("map[interface {{}}]interface {{}}{{{}}}", all.join(", "))
        }
        other => other.to_string(),
    }
}

fn scalar(text: &str, tag: Tag, plain: bool) -> Result<Value, Error> {
    match tag {
        Tag::None if plain => resolve(text).map(|(v, _)| v),
        Tag::Known("binary") => {
            let joined: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
            let data = base64::engine::general_purpose::STANDARD
                .decode(joined)
                .map_err(|_| yaml_error("!!binary value contains invalid base64 data"))?;
            Ok(Value::String(String::from_utf8_lossy(&data).into_owned()))
        }
        Tag::Known(wanted @ ("bool" | "int" | "float" | "null" | "timestamp")) => {
            let (value, found) = resolve(text)?;
            if found == wanted || (wanted == "float" && found == "int") {
                return Ok(value);
            }
            Err(yaml_error(format!(
                "cannot decode !!{found} `{text}` as a !!{wanted}"
            )))
        }
        _ => Ok(Value::String(text.to_owned())),
    }
}

/// A plain scalar by YAML 1.1, and the name of its type.
fn resolve(s: &str) -> Result<(Value, &'static str), Error> {
    match s {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Ok((Value::Bool(true), "bool"));
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Ok((Value::Bool(false), "bool"));
        }
        "" | "~" | "null" | "Null" | "NULL" => return Ok((Value::Null, "null")),
        // JSON has no such numbers.
        ".nan" | ".NaN" | ".NAN" => {
            return Err(Error::Syntax("json: unsupported value: NaN".into()));
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Err(Error::Syntax("json: unsupported value: +Inf".into()));
        }
        "-.inf" | "-.Inf" | "-.INF" => {
            return Err(Error::Syntax("json: unsupported value: -Inf".into()));
        }
        _ => {}
    }
    if s.as_bytes()
        .first()
        .is_some_and(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'))
        && numeric(s)
    {
        let plain: String = s.chars().filter(|c| *c != '_').collect();
        let (sign, body) = match plain.strip_prefix('-') {
            Some(rest) => (-1i128, rest),
            None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
        };
        let radix = |prefix: &[&str], radix: u32| {
            prefix
                .iter()
                .find_map(|p| body.strip_prefix(p))
                .and_then(|d| i128::from_str_radix(d, radix).ok())
        };
        let int = radix(&["0b", "0B"], 2)
            .or_else(|| radix(&["0x", "0X"], 16))
            .or_else(|| radix(&["0o", "0O"], 8))
            .or_else(|| {
                if body.len() > 1 {
                    radix(&["0"], 8)
                } else {
                    None
                }
            })
            .or_else(|| body.parse().ok());
        if let Some(n) = int.map(|n| n * sign) {
            if let Ok(n) = i64::try_from(n) {
                return Ok((Value::Number(n.into()), "int"));
            }
            if let Ok(n) = u64::try_from(n) {
                return Ok((Value::Number(n.into()), "int"));
            }
        }
        if let Some(n) = plain.parse().ok().and_then(Number::from_f64) {
            return Ok((Value::Number(n), "float"));
        }
    }
    let kind = if timestamp(s) { "timestamp" } else { "str" };
    Ok((Value::String(s.to_owned()), kind))
}

/// Appends the object as upstream prints YAML.
pub fn encode(value: &Value, msg: &'static Message, out: &mut Vec<u8>) -> Result<(), Error> {
    // The printed form decides which zero values are shown.
    let mut json = Vec::new();
    crate::json::encode(value, msg, &mut json)?;
    let value = crate::json::parse(&json)?;
    encode_any(&value, out);
    Ok(())
}

/// Appends any tree as YAML.
pub fn encode_any(value: &Value, out: &mut Vec<u8>) {
    block(value, 0, false, out);
}

fn indent(n: usize, out: &mut Vec<u8>) {
    out.resize(out.len() + n, b' ');
}

/// Writes a value that begins on the current line, which is indented by `n`; `inline` when something precedes it there.
fn block(value: &Value, n: usize, inline: bool, out: &mut Vec<u8>) {
    match value {
        Value::Object(_) | Value::Array(_) if n > MAX_INDENT => {
            if !inline {
                indent(n, out);
            }
            flow(value, out);
            out.push(b'\n');
        }
        Value::Object(map) if !map.is_empty() => {
            let mut keys: Vec<(&String, &Value)> = map.iter().collect();
            keys.sort_by(|(a, _), (b, _)| natural(a, b));
            for (i, (key, value)) in keys.into_iter().enumerate() {
                if i > 0 || !inline {
                    indent(n, out);
                }
                if !simple_key(key) {
                    out.extend_from_slice(b"? ");
                    scalar_string(key, Some(n), out);
                    if out.last() != Some(&b'\n') {
                        out.push(b'\n');
                    }
                    indent(n, out);
                    out.extend_from_slice(b": ");
                    beside(value, n, out);
                    continue;
                }
                scalar_string(key, None, out);
                out.push(b':');
                match value {
                    Value::Object(m) if !m.is_empty() => {
                        out.push(b'\n');
                        block(value, n + 2, false, out);
                    }
                    Value::Array(a) if !a.is_empty() => {
                        out.push(b'\n');
                        block(value, n, false, out);
                    }
                    _ => {
                        out.push(b' ');
                        leaf(value, n, out);
                    }
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                if i > 0 || !inline {
                    indent(n, out);
                }
                out.extend_from_slice(b"- ");
                beside(item, n, out);
            }
        }
        _ => {
            leaf(value, n, out);
        }
    }
}

/// Writes a value behind the indicator that stands at `n` on the current line.
fn beside(value: &Value, n: usize, out: &mut Vec<u8>) {
    match value {
        Value::Object(m) if !m.is_empty() => block(value, n + 2, true, out),
        Value::Array(a) if !a.is_empty() => block(value, n + 2, true, out),
        _ => leaf(value, n, out),
    }
}

/// Writes a value on the current line, all strings quoted.
fn flow(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            out.push(b'{');
            for (i, (key, value)) in map.iter().enumerate() {
                if i > 0 {
                    out.extend_from_slice(b", ");
                }
                if !simple_key(key) {
                    out.extend_from_slice(b"? ");
                }
                double(key, None, out);
                out.extend_from_slice(b": ");
                flow(value, out);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (i, value) in items.iter().enumerate() {
                if i > 0 {
                    out.extend_from_slice(b", ");
                }
                flow(value, out);
            }
            out.push(b']');
        }
        Value::String(s) => double(s, None, out),
        other => crate::print::value(other, out),
    }
}

/// What ends a line in YAML 1.1 (4.2).
const BREAKS: [char; 5] = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];

/// Whether a key may stand before its colon on one line, as libyaml decides. Readers look for that colon no further than
/// 1,024 signs (YAML 1.1, 7.4), and the longest printed form of 128 bytes is half of that.
fn simple_key(key: &str) -> bool {
    key.len() <= 128 && !key.contains(BREAKS)
}

fn leaf(value: &Value, n: usize, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Number(x) => crate::print::number(x, out),
        Value::String(s) => scalar_string(s, Some(n), out),
        Value::Array(_) => out.extend_from_slice(b"[]"),
        Value::Object(_) => out.extend_from_slice(b"{}"),
    }
    if out.last() != Some(&b'\n') {
        out.push(b'\n');
    }
}

/// The order of keys of go-yaml 2: digits by value, letters after other signs. Total, without which sorting may panic.
fn natural(a: &str, b: &str) -> Ordering {
    fn number(s: &str) -> &str {
        s.split_at(s.bytes().take_while(u8::is_ascii_digit).count())
            .0
    }
    let same = a.chars().zip(b.chars()).take_while(|(x, y)| x == y);
    let (before, a) = a.split_at(same.map(|(c, _)| c.len_utf8()).sum());
    let b = b.strip_prefix(before).unwrap_or_default();
    let (Some(x), Some(y)) = (a.chars().next(), b.chars().next()) else {
        return a.len().cmp(&b.len());
    };
    let (na, nb) = (number(a), number(b));
    match (x.is_alphabetic(), y.is_alphabetic()) {
        (true, true) => return x.cmp(&y),
        (false, false) => {}
        // A number that goes on is greater than one that ended: with go-yaml's "12" < "1x" there is no order, for
        // "1x" < "2" < "12".
        (lx, ly) if before.ends_with(|c: char| c.is_ascii_digit()) && na.len() + nb.len() > 0 => {
            return ly.cmp(&lx);
        }
        (lx, ly) => return lx.cmp(&ly),
    }
    // Zeros count within a number, not where it begins.
    let mut digits = before.bytes().rev().take_while(u8::is_ascii_digit);
    let within = digits.any(|c| c != b'0');
    let value = |run| match within {
        true => run,
        false => str::trim_start_matches(run, '0'),
    };
    let (va, vb) = (value(na), value(nb));
    (va.len(), va, na.len(), x).cmp(&(vb.len(), vb, nb.len(), y))
}

/// Whether go-yaml would read a plain scalar as something other than this string.
fn resolves(s: &str) -> bool {
    const WORDS: &[&str] = &[
        "", "~", "null", "Null", "NULL", "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE",
        "on", "On", "ON", "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off",
        "OFF", ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf",
        "-.Inf", "-.INF", "<<",
    ];
    if WORDS.contains(&s) {
        return true;
    }
    let Some(&first) = s.as_bytes().first() else {
        return true;
    };
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return false;
    }
    timestamp(s) || numeric(s) || base60(s)
}

fn numeric(s: &str) -> bool {
    let plain: String = s.chars().filter(|c| *c != '_').collect();
    let body = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    for (prefix, radix) in [
        ("0b", 2),
        ("0B", 2),
        ("0x", 16),
        ("0X", 16),
        ("0o", 8),
        ("0O", 8),
    ] {
        if let Some(d) = body.strip_prefix(prefix) {
            return !d.is_empty() && d.chars().all(|c| c.is_digit(radix));
        }
    }
    // [-+]?(\\.[0-9]+|[0-9]+(\\.[0-9]*)?)([eE][-+]?[0-9]+)?
    let (mantissa, exponent) = match body.find(['e', 'E']) {
        Some(at) => (
            body.get(..at).unwrap_or(""),
            Some(body.get(at + 1..).unwrap_or("")),
        ),
        None => (body, None),
    };
    let (whole, fraction) = mantissa
        .split_once('.')
        .map_or((mantissa, None), |(w, f)| (w, Some(f)));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let mantissa_ok = digits(whole)
        && fraction.is_none_or(digits)
        && (!whole.is_empty() || fraction.is_some_and(|f| !f.is_empty()));
    let exponent_ok = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['+', '-']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    mantissa_ok && exponent_ok
}

/// `[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\\.[0-9_]*)?`
fn base60(s: &str) -> bool {
    if !s.contains(':') {
        return false;
    }
    let body = s.strip_prefix(['+', '-']).unwrap_or(s);
    let body = match body.split_once('.') {
        Some((b, f)) if f.bytes().all(|c| c.is_ascii_digit() || c == b'_') => b,
        Some(_) => return false,
        None => body,
    };
    let mut parts = body.split(':');
    let first = parts.next().unwrap_or("");
    first.bytes().next().is_some_and(|b| b.is_ascii_digit())
        && first.bytes().all(|b| b.is_ascii_digit() || b == b'_')
        && parts.all(|p| matches!(p.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']))
}

/// A date or RFC 3339 time, which YAML 1.1 reads as a timestamp.
fn timestamp(s: &str) -> bool {
    let b = s.as_bytes();
    let digits = b.iter().take_while(|c| c.is_ascii_digit()).count();
    if digits != 4 || b.get(4) != Some(&b'-') {
        return false;
    }
    let mut parts = s.splitn(3, '-');
    let (Some(_), Some(month), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let small = |p: &str| matches!(p.len(), 1 | 2) && p.bytes().all(|c| c.is_ascii_digit());
    if !small(month) {
        return false;
    }
    if small(rest) {
        // Only the full form is a date.
        return month.len() == 2 && rest.len() == 2;
    }
    let day = rest.bytes().take_while(u8::is_ascii_digit).count();
    if !matches!(day, 1 | 2) {
        return false;
    }
    let time = rest.get(day..).unwrap_or("");
    let time = time.strip_prefix(['T', 't', ' ']).unwrap_or("");
    let hour = time.bytes().take_while(u8::is_ascii_digit).count();
    matches!(hour, 1 | 2)
        && time.get(hour..).is_some_and(|t| {
            t.starts_with(':')
                && t.bytes().all(|c| {
                    c.is_ascii_digit() || matches!(c, b':' | b'.' | b'Z' | b'+' | b'-' | b' ')
                })
        })
}

/// What libyaml's analysis says of a scalar.
struct Shape {
    plain: bool,
    single: bool,
    block: bool,
}

fn shape(s: &str) -> Shape {
    let chars: Vec<char> = s.chars().collect();
    let (Some(&first), Some(&last)) = (chars.first(), chars.last()) else {
        return Shape {
            plain: false,
            single: true,
            block: false,
        };
    };
    let mut indicator = s.starts_with("---") || s.starts_with("...");
    let mut special = false;
    let mut breaks = false;
    let (mut space_break, mut break_space, mut trailing_space_line) = (false, false, false);
    let blank_or_end = |c: Option<&char>| {
        matches!(
            c,
            None | Some(' ' | '\t' | '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
        )
    };
    let mut preceded_by_white = true;
    for (i, &c) in chars.iter().enumerate() {
        let followed_by_white = blank_or_end(chars.get(i + 1));
        if i == 0 {
            match c {
                '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"'
                | '%' | '@' | '`' => indicator = true,
                '?' | ':' => indicator |= followed_by_white,
                '-' if followed_by_white => indicator = true,
                _ => {}
            }
        } else {
            match c {
                ':' => indicator |= followed_by_white,
                '#' if preceded_by_white => indicator = true,
                _ => {}
            }
        }
        let is_break = matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
        let printable = matches!(c, '\n' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
            && c != '\u{feff}';
        if !printable {
            special = true;
        }
        breaks |= is_break;
        if is_break && i > 0 && chars.get(i - 1) == Some(&' ') {
            space_break = true;
            trailing_space_line = true;
        }
        if c == ' '
            && i > 0
            && matches!(
                chars.get(i - 1),
                Some('\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
            )
        {
            break_space = true;
        }
        preceded_by_white = blank_or_end(Some(&c));
    }
    let is_break = |c: char| matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut out = Shape {
        plain: true,
        single: true,
        block: true,
    };
    if first == ' ' || last == ' ' || is_break(first) || is_break(last) {
        out.plain = false;
    }
    if last == ' ' {
        out.block = false;
    }
    if break_space {
        out.plain = false;
        out.single = false;
    }
    if space_break || special {
        out.plain = false;
        out.single = false;
        if special || trailing_space_line {
            out.block = false;
        }
    }
    if breaks {
        out.plain = false;
    }
    if indicator {
        out.plain = false;
    }
    out
}

/// A string; `at` is the indent of its line, `None` for keys, which stay on one line.
fn scalar_string(s: &str, at: Option<usize>, out: &mut Vec<u8>) {
    let shape = shape(s);
    // Other line breaks are escaped; upstream may choose another style, which reads the same.
    let odd = s.chars().any(|c| c != '\n' && BREAKS.contains(&c));
    if s.contains('\n')
        && shape.block
        && !odd
        && let Some(n) = at
    {
        literal(s, n, out);
        return;
    }
    if resolves(s) || s.contains('\n') || odd {
        double(s, at, out);
    } else if shape.plain {
        words(
            s,
            at,
            |c, out| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            out,
        );
    } else if shape.single {
        out.push(b'\'');
        let quoted = |c: char, out: &mut Vec<u8>| {
            if c == '\'' {
                out.push(b'\'');
            }
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        };
        words(s, at, quoted, out);
        out.push(b'\'');
    } else {
        double(s, at, out);
    }
}

/// Columns after which a scalar goes on in a new line at the next single space.
const WIDTH: usize = 80;

/// The column of what is written next; `at` is the indent of a scalar that may be folded, the others need none.
fn column(at: Option<usize>, out: &[u8]) -> usize {
    if at.is_none() {
        return 0;
    }
    let line = out.rsplit(|b| *b == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(line).chars().count()
}

/// Writes a one-line scalar, folded at spaces beyond [`WIDTH`].
fn words(s: &str, at: Option<usize>, put: impl Fn(char, &mut Vec<u8>), out: &mut Vec<u8>) {
    let chars: Vec<char> = s.chars().collect();
    let mut column = column(at, out);
    let mut spaces = false;
    for (i, &c) in chars.iter().enumerate() {
        if c == ' ' {
            if let Some(n) = at
                && !spaces
                && column > WIDTH
                && i > 0
                && i + 1 < chars.len()
                && chars.get(i + 1) != Some(&' ')
            {
                out.push(b'\n');
                indent(n + 2, out);
                column = n + 2;
            } else {
                put(c, out);
                column += 1;
            }
            spaces = true;
        } else {
            let start = out.len();
            put(c, out);
            // A quote is written twice.
            column += 1 + out.len() - start - c.len_utf8();
            spaces = false;
        }
    }
}

fn literal(s: &str, n: usize, out: &mut Vec<u8>) {
    out.push(b'|');
    if s.starts_with([' ', '\n']) {
        out.push(b'2');
    }
    if !s.ends_with('\n') {
        out.push(b'-');
    } else if s.ends_with("\n\n") || s == "\n" {
        out.push(b'+');
    }
    out.push(b'\n');
    let body = s.strip_suffix('\n').unwrap_or(s);
    for line in body.split('\n') {
        if !line.is_empty() {
            indent(n + 2, out);
            out.extend_from_slice(line.as_bytes());
        }
        out.push(b'\n');
    }
}

fn double(s: &str, at: Option<usize>, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut column = column(at, out);
    let mut spaces = false;
    let last = s.len().saturating_sub(1);
    for (i, c) in s.char_indices() {
        let escape: Option<&str> = match c {
            '"' => Some("\\\""),
            '\\' => Some("\\\\"),
            '\0' => Some("\\0"),
            '\u{7}' => Some("\\a"),
            '\u{8}' => Some("\\b"),
            '\t' => Some("\\t"),
            '\n' => Some("\\n"),
            '\u{b}' => Some("\\v"),
            '\u{c}' => Some("\\f"),
            '\r' => Some("\\r"),
            '\u{1b}' => Some("\\e"),
            '\u{85}' => Some("\\N"),
            '\u{2028}' => Some("\\L"),
            '\u{2029}' => Some("\\P"),
            _ => None,
        };
        let start = out.len();
        match escape {
            Some(e) => out.extend_from_slice(e.as_bytes()),
            None if (c as u32) < 0x20 || matches!(c as u32, 0x7f..=0x9f) => {
                out.extend_from_slice(format!("\\x{:02X}", c as u32).as_bytes());
            }
            None if matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}') => {
                out.extend_from_slice(format!("\\u{:04X}", c as u32).as_bytes());
            }
            None if c == ' ' => {
                if let Some(n) = at
                    && !spaces
                    && column > WIDTH
                    && i > 0
                    && i < last
                {
                    out.push(b'\n');
                    indent(n + 2, out);
                    column = n + 2;
                    if s.as_bytes().get(i + 1) == Some(&b' ') {
                        out.push(b'\\');
                        column += 1;
                    }
                } else {
                    out.push(b' ');
                    column += 1;
                }
                spaces = true;
                continue;
            }
            None => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                column += 1;
                spaces = false;
                continue;
            }
        }
        column += out.len() - start;
        spaces = false;
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Sorting panics where it finds that an order is none, and whoever writes an object chooses its keys.
    #[test]
    fn keys_are_in_a_total_order_whatever_they_are() {
        let mut all = vec![String::new()];
        for length in 1..5 {
            let longer: Vec<String> = all
                .iter()
                .filter(|s| s.len() + 1 == length)
                .flat_map(|s| "019a-".chars().map(move |c| format!("{s}{c}")))
                .collect();
            all.extend(longer);
        }
        assert_eq!(all.len(), 781);
        all.sort_by(|a, b| natural(a, b));
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                assert_eq!(natural(a, b), i.cmp(&j), "{a:?} {b:?}");
            }
        }
        for ordered in [
            ["a9", "a10", "b"],
            ["19", "20", "108"],
            ["1", "01", "2"],
            ["-", "0", "a"],
            ["v1", "v1.2", "v1a"],
            ["v1-x", "v1a", "v11"],
            [
                "18446744073709551616",
                "18446744073709551617",
                "99999999999999999999",
            ],
            [
                "00000000018446744073709551617",
                "18446744073709551618",
                "99999999999999999999",
            ],
        ] {
            let mut sorted = ordered;
            sorted.reverse();
            sorted.sort_by(|a, b| natural(a, b));
            assert_eq!(sorted, ordered);
        }
    }

    #[test]
    fn plain_scalars_by_yaml_1_1() {
        let text = "a: yes\nb: \"yes\"\nc: 0644\nd: '0644'\ne: 0x1F\nf: 1e3\ng: ~\nh: 2020-01-01\ni: 1_000\nj: [on, \"on\", 'n', -1, +2, .5]\n1: x\ntrue: y1\nk: |\n  no\nl: v1\nm: 12:30\n";
        assert_eq!(
            to_value(text.as_bytes()).unwrap(),
            json!({"a": true, "b": "yes", "c": 420, "d": "0644", "e": 31, "f": 1000.0, "g": null, "h": "2020-01-01",
                "i": 1000, "j": [true, "on", "n", -1, 2, 0.5], "1": "x", "true": "y1", "k": "no\n", "l": "v1", "m": "12:30"})
        );
    }

    #[test]
    fn json_is_yaml() {
        let text = br#"{"a":{"b":[1,"no",null,true]},"c":"0644"}"#;
        assert_eq!(
            to_value(text).unwrap(),
            json!({"a": {"b": [1, "no", null, true]}, "c": "0644"})
        );
    }

    #[test]
    fn anchors_and_merges() {
        let text = "base: &b {x: 1, z: 2}\nc:\n  <<: *b\n  z: 3\nd: *b\n";
        assert_eq!(
            to_value(text.as_bytes()).unwrap(),
            json!({"base": {"x": 1, "z": 2}, "c": {"x": 1, "z": 3}, "d": {"x": 1, "z": 2}})
        );
    }

    #[test]
    fn errors_and_documents() {
        assert_eq!(
            to_value(b"a: [1\n").unwrap_err().to_string(),
            "yaml: line 1: did not find expected ',' or ']'"
        );
        assert_eq!(to_value(b"").unwrap(), Value::Null);
        assert_eq!(to_value(b"a: 1\n---\nb: 2\n").unwrap(), json!({"a": 1}));
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let before = format!("*a{}", i - 1);
            bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![before; 10].join(",")));
        }
        for (text, error) in [
            (bomb.as_str(), "yaml: document contains excessive aliasing"),
            (
                "a: b: c",
                "yaml: mapping values are not allowed in this context",
            ),
            (
                "a:\n\tb: 1\n",
                "yaml: line 2: found character that cannot start any token",
            ),
            (
                "a:\n  b: 1\n c: 2\n",
                "yaml: line 2: did not find expected key",
            ),
            ("a: *b", "yaml: unknown anchor 'b' referenced"),
            ("a: &a [*a]", "yaml: anchor 'a' value contains itself"),
            ("a: .inf", "json: unsupported value: +Inf"),
            ("a: !!int x", "yaml: cannot decode !!str `x` as a !!int"),
            (
                "<<: 1",
                "yaml: map merge requires map or sequence of maps as the value",
            ),
            (
                "? [a]\n: b\n",
                "yaml: invalid map key: []interface {}{\"a\"}",
            ),
        ] {
            assert_eq!(
                to_value(text.as_bytes()).unwrap_err().to_string(),
                error,
                "{text}"
            );
        }
        for n in [10_001, 100_000] {
            assert_eq!(
                to_value("[".repeat(n).as_bytes()).unwrap_err().to_string(),
                "yaml: exceeded max depth of 10000"
            );
        }
        let (value, twice) = to_value_strict(b"a: 1\nb:\n  c: 1\n  c: 2\n").unwrap();
        assert_eq!(value, json!({"a": 1, "b": {"c": 2}}));
        assert_eq!(twice, ["line 4: key \"c\" already set in map"]);
    }

    #[test]
    fn any_letter_can_be_the_first() {
        for text in ["\u{f900}: 1", "\u{ffee}: 1", "\u{feff}a: 1", "\u{eeee}: 1"] {
            let value = to_value(text.as_bytes()).unwrap();
            let key = value.as_object().unwrap().keys().next().unwrap().clone();
            assert_eq!(key, text.trim_start_matches('\u{feff}').replace(": 1", ""));
        }
    }

    #[test]
    fn what_the_parser_panics_at_is_an_error() {
        for text in ["[!t,a]", "{a: !t,b: c}"] {
            let error = to_value(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("the parser does not know"), "{error}");
        }
    }

    #[test]
    fn cve_2019_11253_what_costs_more_than_its_length_is_refused() {
        let long = "x".repeat(100_000);
        for (text, error) in [
            // Each token within the brackets costs as much as there are brackets.
            (
                format!("{}{}", "[".repeat(9_000), "a,".repeat(10_000)),
                "yaml: document contains excessive nesting",
            ),
            // Few aliases, but of a long text.
            (
                format!("a: &a {long}\nb: [{}]\n", "*a,".repeat(90)),
                "yaml: document contains excessive aliasing",
            ),
            (
                format!("{}---\na: 1\n", "%TAG !a! tag:a,\n".repeat(200)),
                "yaml: document contains excessive directives",
            ),
            // Lines end with other signs too, and a mark may stand before the first.
            (
                format!("\u{feff}{}---\ra: 1\n", "%TAG !a! tag:a,\r".repeat(200)),
                "yaml: document contains excessive directives",
            ),
            // A short tag stands for a long one.
            (
                format!("%TAG !a! {long}\n---\n[{}]\n", "!a!b c,".repeat(1_000)),
                "yaml: document contains excessive tags",
            ),
            (
                format!("%TAG !a! {long}\n---\n[{}]\n", "!a!b [],".repeat(1_000)),
                "yaml: document contains excessive tags",
            ),
            (
                format!("[{}]", "{a: 1},".repeat(MAX_OBJECTS as usize + 1)),
                "more than 100000 objects",
            ),
        ] {
            assert_eq!(to_value(text.as_bytes()).unwrap_err().to_string(), error);
        }
        let (_, twice) = to_value_strict("a: 1\n".repeat(1000).as_bytes()).unwrap();
        assert_eq!(twice.len(), MAX_STRICT);
    }

    #[test]
    fn deep_values_are_printed_in_flow_style() {
        let depth = 400;
        let text = format!("{}1{}", "{\"a: #\": [".repeat(depth), "]}".repeat(depth));
        let value = to_value(text.as_bytes()).unwrap();
        let mut out = Vec::new();
        encode_any(&value, &mut out);
        assert!(out.len() < 20 * text.len(), "{}", out.len());
        assert_eq!(to_value(&out).unwrap(), value);
    }

    #[test]
    fn keys_that_are_long_or_of_several_lines_are_read_back() {
        let printed = |value: &Value| {
            let mut out = Vec::new();
            encode_any(value, &mut out);
            assert_eq!(&to_value(&out).unwrap(), value);
            String::from_utf8(out).unwrap()
        };
        let (most, long) = ("k".repeat(128), "k".repeat(129));
        let many = "word ".repeat(40);
        let cases = [
            (json!({ most.as_str(): 1 }), format!("{most}: 1\n")),
            (json!({ long.as_str(): 1 }), format!("? {long}\n: 1\n")),
            (
                json!({"o": { long.as_str(): {"a": [1, [2]], "b": {}} }}),
                format!("o:\n  ? {long}\n  : a:\n    - 1\n    - - 2\n    b: {{}}\n"),
            ),
            (
                json!([{ long.as_str(): ["x", {"a": 1, "b": "u\nv"}], "b": [] }]),
                format!(
                    "- b: []\n  ? {long}\n  : - x\n    - a: 1\n      b: |-\n        u\n        v\n"
                ),
            ),
            (
                json!({ many.trim(): 1 }),
                format!(
                    "? {}\n  {}\n  {}\n: 1\n",
                    "word ".repeat(16).trim(),
                    "word ".repeat(16).trim(),
                    "word ".repeat(8).trim()
                ),
            ),
            (
                json!({ "é".repeat(65): [] }),
                format!("? {}\n: []\n", "é".repeat(65)),
            ),
            (
                json!({"a\nb": 1, "a\nb\n\n": {"z": "u\nv"}}),
                "? |-\n  a\n  b\n: 1\n? |+\n  a\n  b\n\n: z: |-\n    u\n    v\n".to_owned(),
            ),
            (
                json!({"\n": 1, " a\nb": "\n a"}),
                "? |2+\n\n: 1\n? |2-\n   a\n  b\n: |2-\n\n   a\n".to_owned(),
            ),
            (
                json!({"a\u{85}b": 1, "\t\n": 1}),
                "? \"\\t\\n\"\n: 1\n? \"a\\Nb\"\n: 1\n".to_owned(),
            ),
        ];
        for (value, text) in cases {
            assert_eq!(printed(&value), text);
        }
        // The longest form of the longest key that stands on one line, and keys beyond what readers look through.
        for key in ["\u{1}".repeat(128), "\u{1}".repeat(129), "k".repeat(70_000)] {
            let mut value = json!({ key.as_str(): {key.as_str(): [{ key.as_str(): "x" }]} });
            for _ in 0..MAX_INDENT {
                printed(&value);
                value = json!([value]);
            }
        }
    }

    #[test]
    fn long_lines_are_folded() {
        let word = "abcdefghi ".repeat(12);
        let value = json!({"k": word.trim_end(), "l": format!("{}: x", word.trim_end())});
        let mut out = Vec::new();
        encode_any(&value, &mut out);
        let text = String::from_utf8(out).unwrap();
        let eight = "abcdefghi ".repeat(8);
        let four = "abcdefghi ".repeat(4);
        assert_eq!(
            text,
            format!(
                "k: {}\n  {}\nl: '{}\n  {}: x'\n",
                eight.trim_end(),
                four.trim_end(),
                eight.trim_end(),
                four.trim_end()
            )
        );
        assert_eq!(to_value(text.as_bytes()).unwrap(), value);
    }

    #[test]
    fn strings_that_need_quotes() {
        let value = json!({"a": "yes", "b": "0644", "c": "a: b", "d": "x", "e": "- x", "f": "", "g": "l1\nl2",
            "h": "l1\nl2\n", "i": " x", "j": "a #b", "k": "1e3", "l": "2020-01-01", "m": "null", "n10": 1, "n9": 1,
            "o": "'q'", "p": "a\tb\n", "q": [[1], {"z": {}}]});
        let mut out = Vec::new();
        encode_any(&value, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "a: \"yes\"\nb: \"0644\"\nc: 'a: b'\nd: x\ne: '- x'\nf: \"\"\ng: |-\n  l1\n  l2\nh: |\n  l1\n  l2\ni: ' x'\nj: 'a #b'\nk: \"1e3\"\nl: \"2020-01-01\"\nm: \"null\"\nn9: 1\nn10: 1\no: '''q'''\np: \"a\\tb\\n\"\nq:\n- - 1\n- z: {}\n"
        );
        assert_eq!(to_value(text.as_bytes()).unwrap(), value);
    }
}
