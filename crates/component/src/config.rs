//! Component configuration files: `KubeSchedulerConfiguration` and its like, YAML or JSON.
//!
//! A kind is a list of its fields, each with how far it is there. A field that is not in the list is an error, one that
//! is absent or there in part is warned of or refused when it asks for something, and only those that are there reach the
//! type that is decoded. `null` is as good as absent, as in Go.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::support::{Instead, Support};

/// Why a configuration file was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error("failed to read {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is not YAML, or a value has the wrong type.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: String,
        /// Where and what.
        message: String,
    },
    /// Fields that the kind does not have, or that are given twice.
    #[error("{path}: strict decoding error: {}", fields.join(", "))]
    Unknown {
        /// The file.
        path: String,
        /// `unknown field "a.b"`, ….
        fields: Vec<String>,
    },
    /// A field that is absent and matters.
    #[error("{path}: {field}: {value} is not supported: {reason}")]
    Refused {
        /// The file.
        path: String,
        /// Its path in the file.
        field: String,
        /// As given.
        value: String,
        /// Why.
        reason: &'static str,
    },
    /// Another kind or version than the daemon reads.
    #[error(
        "{path}: no kind {kind:?} is registered for version {api_version:?}; expected {expected}"
    )]
    Kind {
        /// The file.
        path: String,
        /// As found.
        api_version: String,
        /// As found.
        kind: String,
        /// `kind in version, …`
        expected: String,
    },
}

/// One field of a kind, with everything below it, or with what the fields of longer paths do not say.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Keys joined by dots; `[]` behind a key stands for the items of its list.
    pub path: &'static str,
    /// How far it is there.
    pub support: Support,
    /// JSON of the value that asks for nothing, if that is another than none at all: false, 0, an empty text, list or map.
    pub default: &'static str,
}

impl Field {
    /// A field that is read.
    pub const fn full(path: &'static str) -> Field {
        Field::new(path, Support::Full)
    }

    /// A field whose values that ask for nothing are the empty ones.
    pub const fn new(path: &'static str, support: Support) -> Field {
        Field {
            path,
            support,
            default: "",
        }
    }

    /// With another value that asks for nothing.
    pub const fn default(self, default: &'static str) -> Field {
        Field { default, ..self }
    }

    /// Whether a value asks for something.
    fn asks(&self, value: &Value) -> bool {
        let empty = match value {
            Value::Null => true,
            Value::Bool(b) => self.default.is_empty() && !b,
            // Durations are texts, or numbers of nanoseconds; 0 is their default in either.
            Value::Number(n) => {
                let duration = self.default.starts_with('"');
                (self.default.is_empty() || duration) && n.as_f64() == Some(0.0)
            }
            Value::String(s) => matches!(s.as_str(), "" | "0s" | "0"),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.values().all(|v| !self.asks(v)),
        };
        !empty && serde_json::from_str::<Value>(self.default).ok().as_ref() != Some(value)
    }
}

/// Largest file, in bytes: the parser looks at each level of nesting for each token.
const MAX_CONFIG: usize = 128 << 10;

/// A kind of configuration file.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// The kind.
    pub kind: &'static str,
    /// `GROUP/VERSION`, as far as it is read.
    pub versions: &'static [&'static str],
    /// All its fields but `apiVersion` and `kind`.
    pub fields: &'static [Field],
}

/// A file that was read.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// What it says.
    pub value: T,
    /// What it asks for and does not get; to be logged once.
    pub warnings: Vec<String>,
}

impl Kind {
    /// Reads the file as `T`, which need not know `apiVersion` and `kind`. A file may have 128 KiB; YAML aliases
    /// are bounded by the parser.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load<T: DeserializeOwned>(&self, path: &Path) -> Result<Loaded<T>, ConfigError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Io {
            path: shown.clone(),
            source,
        })?;
        self.parse(&shown, &text)
    }

    /// As [`Kind::load`], from a text; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse<T: DeserializeOwned>(
        &self,
        path: &str,
        text: &str,
    ) -> Result<Loaded<T>, ConfigError> {
        let failed = |message: String| ConfigError::Parse {
            path: path.to_owned(),
            message,
        };
        if text.len() > MAX_CONFIG {
            return Err(failed(format!(
                "the file is larger than {} KiB",
                MAX_CONFIG >> 10
            )));
        }
        // serde_yaml's own tree refuses repeated keys; serde_json's would let the last one win.
        let tree: serde_yaml::Value =
            serde_yaml::from_str(text).map_err(|e| failed(e.to_string()))?;
        let mut doc: Value = serde_json::to_value(tree).map_err(|e| failed(e.to_string()))?;
        let mut take = |key: &str| match doc.as_object_mut().and_then(|o| o.remove(key)) {
            Some(Value::String(s)) => s,
            _ => String::new(),
        };
        let (api_version, kind) = (take("apiVersion"), take("kind"));
        if kind != self.kind || !self.versions.contains(&api_version.as_str()) {
            let expected: Vec<String> = self
                .versions
                .iter()
                .map(|v| format!("{} in {v}", self.kind))
                .collect();
            return Err(ConfigError::Kind {
                path: path.to_owned(),
                api_version,
                kind,
                expected: expected.join(", "),
            });
        }
        let warnings = check(path, &mut doc, self.fields)?;
        let mut fields = Vec::new();
        let value = serde_ignored::deserialize(doc, |p| {
            fields.push(format!("unknown field {:?}", p.to_string()));
        })
        .map_err(|e| failed(e.to_string()))?;
        if !fields.is_empty() {
            return Err(ConfigError::Unknown {
                path: path.to_owned(),
                fields,
            });
        }
        Ok(Loaded { value, warnings })
    }
}

/// Takes everything out of a document that asks for nothing or is absent, and tells what it asked for in vain.
///
/// # Errors
/// A field that is not in the list, or one that is absent and refused.
pub fn check(path: &str, doc: &mut Value, fields: &[Field]) -> Result<Vec<String>, ConfigError> {
    let mut found = Found::default();
    walk(doc, "", fields, &mut found);
    if !found.unknown.is_empty() {
        return Err(ConfigError::Unknown {
            path: path.to_owned(),
            fields: found.unknown,
        });
    }
    if let Some((field, value, reason)) = found.refused {
        return Err(ConfigError::Refused {
            path: path.to_owned(),
            field,
            value,
            reason,
        });
    }
    Ok(found.warnings)
}

#[derive(Default)]
struct Found {
    unknown: Vec<String>,
    /// The first.
    refused: Option<(String, String, &'static str)>,
    warnings: Vec<String>,
}

/// Configuration files are small and their depth is bounded by the parser.
fn walk(value: &mut Value, at: &str, fields: &[Field], found: &mut Found) {
    match value {
        Value::Object(map) => map.retain(|key, value| {
            if value.is_null() {
                return false;
            }
            let path = if at.is_empty() {
                key.clone()
            } else {
                format!("{at}.{key}")
            };
            keep(value, &path, fields, found)
        }),
        Value::Array(items) => {
            for item in items {
                walk(item, at, fields, found);
            }
        }
        _ => {}
    }
}

/// Whether the value stays in the document.
fn keep(value: &mut Value, path: &str, fields: &[Field], found: &mut Found) -> bool {
    if let Some(field) = fields.iter().find(|f| f.path == path) {
        return keep_field(value, field, found);
    }
    let below = |end: &str| {
        let start = format!("{path}{end}");
        fields
            .iter()
            .any(|f| f.path.starts_with(&start))
            .then_some(start)
    };
    // What has another type than the kind's is left for decoding to complain about.
    if below(".").is_some() {
        walk(value, path, fields, found);
        return value.as_object().is_none_or(|o| !o.is_empty());
    }
    if let Some(items) = below("[]") {
        if value.is_array() {
            walk(value, &items, fields, found);
        }
        return true;
    }
    found.unknown.push(format!("unknown field {path:?}"));
    true
}

fn keep_field(value: &mut Value, field: &Field, found: &mut Found) -> bool {
    let path = field.path;
    let Support::Absent(instead) = field.support else {
        if let Support::Partial(missing) = field.support
            && field.asks(value)
        {
            found
                .warnings
                .push(format!("{path} works only in part: {missing}"));
        }
        strip(value);
        return true;
    };
    if field.asks(value) {
        match instead {
            Instead::Warned(why) => found.warnings.push(format!("{path} has no effect: {why}")),
            Instead::Refused(why) if found.refused.is_none() => {
                found.refused = Some((path.to_owned(), value.to_string(), why));
            }
            Instead::Refused(_) => {}
        }
    }
    false
}

/// Removes members that are null.
fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// The fields of a list that a type does not decode though they are there: for tests, which want none.
pub fn not_decoded<T: DeserializeOwned>(fields: &[Field]) -> Vec<&'static str> {
    let unknown = |path: &str| {
        let mut doc = Value::Null;
        for key in path.rsplit('.') {
            let (key, list) = match key.strip_suffix("[]") {
                Some(k) => (k, true),
                None => (key, false),
            };
            let inner = if list { Value::Array(vec![doc]) } else { doc };
            doc = Value::Object([(key.to_owned(), inner)].into_iter().collect());
        }
        let mut ignored = false;
        let decoded = serde_ignored::deserialize::<_, _, T>(doc, |_| ignored = true);
        // What fails to decode for another reason is known, at least.
        ignored || decoded.is_err_and(|e| e.to_string().starts_with("unknown field"))
    };
    fields
        .iter()
        .filter(|f| f.support.is_there() && unknown(f.path))
        .map(|f| f.path)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{refused, warned};

    #[derive(Debug, serde::Deserialize, Default)]
    #[serde(default)]
    struct C {
        a: u32,
        b: Inner,
        items: Vec<Inner>,
    }
    #[derive(Debug, serde::Deserialize, Default)]
    #[serde(default)]
    struct Inner {
        c: String,
        half: u32,
    }

    #[derive(serde::Deserialize, Default)]
    #[serde(default, deny_unknown_fields)]
    #[allow(dead_code, reason = "decoded only")]
    struct Strict {
        a: u32,
    }

    const KIND: Kind = Kind {
        kind: "C",
        versions: &["x/v1"],
        fields: &[
            Field::full("a"),
            Field::full("b.c"),
            Field::new("b.slow", warned("nothing is slow")),
            Field::new("b.half", Support::Partial("the other half")),
            Field::new("guard", refused("nothing is guarded")),
            Field::new("mode", refused("one mode")).default("\"none\""),
            Field::new("on", refused("always on")).default("true"),
            Field::full("items[].c"),
            Field::new("items[].d", refused("no d")),
        ],
    };

    fn read(text: &str) -> Result<Loaded<C>, String> {
        KIND.parse("f", &format!("apiVersion: x/v1\nkind: C\n{text}"))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn strict() {
        let ok = read("a: 3\nb: {c: d}\nitems: [{c: e}]\n").unwrap().value;
        assert_eq!(
            (ok.a, ok.b.c.as_str(), ok.items[0].c.as_str()),
            (3, "d", "e")
        );
        assert_eq!(
            read("b: {z: 1}\ny: 2\n").unwrap_err(),
            "f: strict decoding error: unknown field \"b.z\", unknown field \"y\""
        );
        let e = KIND
            .parse::<C>("f", "apiVersion: x/v2\nkind: C\n")
            .unwrap_err();
        assert!(
            e.to_string()
                .contains("no kind \"C\" is registered for version \"x/v2\""),
            "{e}"
        );
        assert!(read("a: 1\na: 2\n").is_err());
        assert!(read("b: 3\n").is_err() && read("items: x\n").is_err());
    }

    #[test]
    fn null_is_absent() {
        let ok = read("a: null\nb: null\nguard: null\nitems: [{c: null}]\n").unwrap();
        assert_eq!((ok.value.a, ok.value.b.c.as_str()), (0, ""));
        assert!(ok.warnings.is_empty());
    }

    #[test]
    fn what_is_absent_is_told() {
        let ok = read("b: {slow: true}\nguard: {}\nmode: none\non: true\n").unwrap();
        assert_eq!(ok.warnings, ["b.slow has no effect: nothing is slow"]);
        let ok = read("b: {half: 2}\n").unwrap();
        assert_eq!(ok.value.b.half, 2);
        assert_eq!(ok.warnings, ["b.half works only in part: the other half"]);
        for (text, message) in [
            (
                "guard: {x: 1}",
                "f: guard: {\"x\":1} is not supported: nothing is guarded",
            ),
            (
                "mode: strict",
                "f: mode: \"strict\" is not supported: one mode",
            ),
            ("on: false", "f: on: false is not supported: always on"),
            (
                "items: [{}, {d: 1}]",
                "f: items[].d: 1 is not supported: no d",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), message);
        }
        for text in ["guard: {x: 0, y: {}}", "mode: \"\"", "guard: 0s"] {
            assert!(read(text).unwrap().warnings.is_empty(), "{text}");
        }
    }

    #[test]
    fn a_type_that_lacks_a_field_is_found() {
        assert!(not_decoded::<C>(KIND.fields).is_empty());
        assert_eq!(
            not_decoded::<Inner>(KIND.fields),
            ["a", "b.c", "b.half", "items[].c"]
        );
        assert_eq!(
            not_decoded::<Strict>(KIND.fields),
            ["b.c", "b.half", "items[].c"]
        );
    }
}
