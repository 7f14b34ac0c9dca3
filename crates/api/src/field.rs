//! Field paths and field errors: the vocabulary of validation.
//!
//! Source: upstream's `apimachinery/pkg/util/validation/field`. The text of an error is
//! `<path>: <kind>: <value>: <detail>`, the value as Go's JSON-like printing gives it.

use std::fmt;

use serde_json::Value;

use crate::status::StatusCause;

/// A path such as `spec.containers[0].image` or `metadata.labels[app]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// The path of one top-level field; dots in it are kept.
    pub fn new(name: &str) -> Path {
        // An empty name prints like an index without one.
        Path(if name.is_empty() { "[]" } else { name }.to_owned())
    }

    /// No field: an error about the whole object.
    pub fn root() -> Path {
        Path(String::new())
    }

    /// `self.name`.
    #[must_use]
    pub fn child(&self, name: &str) -> Path {
        if self.0.is_empty() {
            Path(name.to_owned())
        } else {
            Path([&self.0, ".", name].concat())
        }
    }

    /// `self[i]`.
    #[must_use]
    pub fn index(&self, i: usize) -> Path {
        Path(format!("{}[{i}]", self.0))
    }

    /// `self[key]`.
    #[must_use]
    pub fn key(&self, key: &str) -> Path {
        Path([&self.0, "[", key, "]"].concat())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_str("<nil>")
        } else {
            f.write_str(&self.0)
        }
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `Required value`
    Required,
    /// `Invalid value`
    Invalid,
    /// `Unsupported value`
    NotSupported,
    /// `Duplicate value`
    Duplicate,
    /// `Forbidden`
    Forbidden,
    /// `Not found`
    NotFound,
    /// `Too long`
    TooLong,
    /// `Too many`
    TooMany,
    /// `Internal error`
    Internal,
    /// `Invalid value` of the wrong type
    TypeInvalid,
}

impl Kind {
    fn text(self) -> &'static str {
        match self {
            Kind::Required => "Required value",
            Kind::Invalid | Kind::TypeInvalid => "Invalid value",
            Kind::NotSupported => "Unsupported value",
            Kind::Duplicate => "Duplicate value",
            Kind::Forbidden => "Forbidden",
            Kind::NotFound => "Not found",
            Kind::TooLong => "Too long",
            Kind::TooMany => "Too many",
            Kind::Internal => "Internal error",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Kind::Required => "FieldValueRequired",
            Kind::Invalid => "FieldValueInvalid",
            Kind::NotSupported => "FieldValueNotSupported",
            Kind::Duplicate => "FieldValueDuplicate",
            Kind::Forbidden => "FieldValueForbidden",
            Kind::NotFound => "FieldValueNotFound",
            Kind::TooLong => "FieldValueTooLong",
            Kind::TooMany => "FieldValueTooMany",
            Kind::Internal => "InternalError",
            Kind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One field error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Where.
    pub path: Path,
    /// What.
    pub kind: Kind,
    /// `<value>: <detail>` or the part of it that the kind shows.
    body: String,
}

impl Error {
    fn new(path: &Path, kind: Kind, body: String) -> Error {
        Error {
            path: path.clone(),
            kind,
            body,
        }
    }

    /// The message without the path, as `StatusCause.message` has it.
    pub fn message(&self) -> String {
        let body = &self.body;
        if body.is_empty() {
            self.kind.text().to_owned()
        } else {
            format!("{}: {body}", self.kind.text())
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message())
    }
}

/// A value as upstream prints it in an error: strings quoted as Go's `%q`, numbers and booleans plain, `null` for absence,
/// and everything else as JSON.
pub fn show(value: &Value) -> String {
    match value {
        Value::String(s) => crate::text::go_quote(s),
        other => other.to_string(),
    }
}

/// The most bytes of errors that a list takes: an answer repeats what is wrong, often with the value it is in.
const MAX_BYTES: usize = 1024 * 1024;

fn detailed(shown: &str, detail: &str) -> String {
    if detail.is_empty() {
        shown.to_owned()
    } else {
        format!("{shown}: {detail}")
    }
}

/// The errors of one object, in the order of discovery. Once they are a megabyte together, the list is full and further
/// ones are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorList {
    errors: Vec<Error>,
    bytes: usize,
}

impl ErrorList {
    /// No errors.
    pub fn new() -> ErrorList {
        ErrorList::default()
    }

    /// Whether there is nothing to report.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// Whether no more errors are taken. Checks that repeat a long value for each of its parts stop here.
    pub fn full(&self) -> bool {
        self.bytes >= MAX_BYTES
    }

    /// The number of errors.
    pub fn len(&self) -> usize {
        self.errors.len()
    }

    /// The errors in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Error> {
        self.errors.iter()
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: ErrorList) {
        for error in other.errors {
            self.push(error);
        }
    }

    /// Adds one error made by another list or by hand.
    pub fn push(&mut self, error: Error) {
        if !self.full() {
            self.bytes += error.path.0.len() + error.body.len();
            self.errors.push(error);
        }
    }

    fn add(&mut self, path: &Path, kind: Kind, body: impl FnOnce() -> String) {
        if !self.full() {
            self.push(Error::new(path, kind, body()));
        }
    }

    /// `Required value[: detail]`
    pub fn required(&mut self, path: &Path, detail: &str) {
        self.add(path, Kind::Required, || detail.to_owned());
    }

    /// `Invalid value: <value>: <detail>`
    pub fn invalid(&mut self, path: &Path, value: impl Into<Value>, detail: &str) {
        self.add(path, Kind::Invalid, || {
            detailed(&show(&value.into()), detail)
        });
    }

    /// `Invalid value: <shown>: <detail>` of a value that is already printed, for structs whose fields have Go's names or
    /// order; without `detail` only the value.
    pub fn invalid_shown(&mut self, path: &Path, shown: &str, detail: &str) {
        self.add(path, Kind::Invalid, || detailed(shown, detail));
    }

    /// `Invalid value: <detail>`: the value is left out.
    pub fn invalid_omitted(&mut self, path: &Path, detail: &str) {
        self.add(path, Kind::Invalid, || detail.to_owned());
    }

    /// `Unsupported value: <shown>: supported values: <supported>`, both already printed.
    pub fn not_supported_shown(&mut self, path: &Path, shown: &str, supported: &str) {
        self.add(path, Kind::NotSupported, || {
            format!("{shown}: supported values: {supported}")
        });
    }

    /// `Duplicate value: <value>: <detail>`
    pub fn duplicate_shown(&mut self, path: &Path, shown: &str, detail: &str) {
        self.add(path, Kind::Duplicate, || detailed(shown, detail));
    }

    /// `Not found: <value>: <detail>`
    pub fn not_found_because(&mut self, path: &Path, value: impl Into<Value>, detail: &str) {
        self.add(path, Kind::NotFound, || {
            format!("{}: {detail}", show(&value.into()))
        });
    }

    /// `Unsupported value: <value>: supported values: "a", "b"` in the order given.
    pub fn not_supported(&mut self, path: &Path, value: impl Into<Value>, supported: &[&str]) {
        self.add(path, Kind::NotSupported, || {
            let v = show(&value.into());
            if supported.is_empty() {
                return v;
            }
            let list: Vec<String> = supported.iter().map(|s| crate::text::go_quote(s)).collect();
            format!("{v}: supported values: {}", list.join(", "))
        });
    }

    /// `Duplicate value: <value>`
    pub fn duplicate(&mut self, path: &Path, value: impl Into<Value>) {
        self.add(path, Kind::Duplicate, || show(&value.into()));
    }

    /// `Forbidden: <detail>`
    pub fn forbidden(&mut self, path: &Path, detail: &str) {
        self.add(path, Kind::Forbidden, || detail.to_owned());
    }

    /// `Not found: <value>`
    pub fn not_found(&mut self, path: &Path, value: impl Into<Value>) {
        self.add(path, Kind::NotFound, || show(&value.into()));
    }

    /// `Too long: may not be more than N bytes` (the value is not repeated).
    pub fn too_long(&mut self, path: &Path, max: usize) {
        let unit = if max == 1 { "byte" } else { "bytes" };
        self.add(path, Kind::TooLong, || {
            format!("may not be more than {max} {unit}")
        });
    }

    /// `Too many: <actual>: must have at most <max> items`
    pub fn too_many(&mut self, path: &Path, actual: usize, max: usize) {
        let unit = if max == 1 { "item" } else { "items" };
        self.add(path, Kind::TooMany, || {
            format!("{actual}: must have at most {max} {unit}")
        });
    }

    /// `Internal error: <detail>`
    pub fn internal(&mut self, path: &Path, detail: &str) {
        self.add(path, Kind::Internal, || detail.to_owned());
    }

    /// One message: the only error as it is, several as `[a, b]`; repeated messages are shown once.
    pub fn aggregate(&self) -> String {
        let mut seen = std::collections::HashSet::new();
        let all: Vec<String> = self
            .errors
            .iter()
            .map(ToString::to_string)
            .filter(|m| seen.insert(m.clone()))
            .collect();
        match all.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        }
    }

    /// The causes of a Status, one per error.
    pub fn causes(&self) -> Vec<StatusCause> {
        self.errors
            .iter()
            .map(|e| StatusCause {
                reason: e.kind.reason().into(),
                message: e.message(),
                field: e.path.to_string(),
            })
            .collect()
    }
}
