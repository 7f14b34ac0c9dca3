//! Label and field selectors, with upstream's syntax and messages (`apimachinery/pkg/labels`, `…/fields`).

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use crate::field::{ErrorList, Path};
use crate::validate;

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `in`
    In,
    /// `notin`
    NotIn,
    /// `=`
    Equals,
    /// `==`
    DoubleEquals,
    /// `!=`
    NotEquals,
    /// the key alone
    Exists,
    /// `!key`
    DoesNotExist,
    /// `>`
    GreaterThan,
    /// `<`
    LessThan,
}

/// One condition on labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: String,
    operator: Operator,
    /// Sorted.
    values: Vec<String>,
}

/// Something that can be asked for a label.
pub trait Labels {
    /// The value of a label.
    fn get(&self, key: &str) -> Option<&str>;

    /// Each label with its value.
    fn each(&self, see: &mut dyn FnMut(&str, &str));
}

impl Labels for BTreeMap<String, String> {
    fn get(&self, key: &str) -> Option<&str> {
        BTreeMap::get(self, key).map(String::as_str)
    }

    fn each(&self, see: &mut dyn FnMut(&str, &str)) {
        self.iter().for_each(|(k, v)| see(k, v));
    }
}

impl Labels for BTreeMap<&str, &str> {
    fn get(&self, key: &str) -> Option<&str> {
        BTreeMap::get(self, key).copied()
    }

    fn each(&self, see: &mut dyn FnMut(&str, &str)) {
        self.iter().for_each(|(k, v)| see(k, v));
    }
}

impl Labels for std::collections::HashMap<String, String> {
    fn get(&self, key: &str) -> Option<&str> {
        std::collections::HashMap::get(self, key).map(String::as_str)
    }

    fn each(&self, see: &mut dyn FnMut(&str, &str)) {
        self.iter().for_each(|(k, v)| see(k, v));
    }
}

impl Labels for serde_json::Map<String, Value> {
    fn get(&self, key: &str) -> Option<&str> {
        serde_json::Map::get(self, key).and_then(Value::as_str)
    }

    fn each(&self, see: &mut dyn FnMut(&str, &str)) {
        for (k, v) in self {
            if let Some(v) = v.as_str() {
                see(k, v);
            }
        }
    }
}

/// Sorted pairs, searched in turn: small sets of labels.
impl Labels for [(String, String)] {
    fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    fn each(&self, see: &mut dyn FnMut(&str, &str)) {
        self.iter().for_each(|(k, v)| see(k, v));
    }
}

/// The `metadata.labels` of an object, or no labels.
impl Labels for Value {
    fn get(&self, key: &str) -> Option<&str> {
        self.as_object().and_then(|m| Labels::get(m, key))
    }

    fn each(&self, see: &mut dyn FnMut(&str, &str)) {
        if let Some(m) = self.as_object() {
            Labels::each(m, see);
        }
    }
}

fn key_error(path: &Path, key: &str, errors: &mut ErrorList) {
    let messages = validate::qualified_name(key);
    if !messages.is_empty() {
        errors.invalid(path, key, &messages.join("; "));
    }
}

impl Requirement {
    /// A checked requirement; `path` is where errors lie, [`Path::root`] for selectors in a query.
    pub fn new(
        key: &str,
        operator: Operator,
        mut values: Vec<String>,
        path: &Path,
    ) -> Result<Requirement, String> {
        let mut errors = ErrorList::new();
        key_error(&path.child("key"), key, &mut errors);
        let at = path.child("values");
        let shown = || Value::Array(values.iter().map(|v| Value::String(v.clone())).collect());
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                errors.invalid(
                    &at,
                    shown(),
                    "for 'in', 'notin' operators, values set can't be empty",
                );
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals
                if values.len() != 1 =>
            {
                errors.invalid(
                    &at,
                    shown(),
                    "exact-match compatibility requires one single value",
                );
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                errors.invalid(
                    &at,
                    shown(),
                    "values set must be empty for exists and does not exist",
                );
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    errors.invalid(
                        &at,
                        shown(),
                        "for 'Gt', 'Lt' operators, exactly one value is required",
                    );
                }
                for (i, v) in values.iter().enumerate() {
                    if v.parse::<i64>().is_err() {
                        errors.invalid(
                            &at.index(i),
                            v.as_str(),
                            "for 'Gt', 'Lt' operators, the value must be an integer",
                        );
                    }
                }
            }
            _ => {}
        }
        for (i, v) in values.iter().enumerate() {
            let messages = validate::label_value(v);
            if !messages.is_empty() {
                errors.invalid(&at.index(i).key(key), v.as_str(), &messages.join("; "));
            }
        }
        if errors.is_empty() {
            values.sort_unstable();
            values.dedup();
            Ok(Requirement {
                key: key.to_owned(),
                operator,
                values,
            })
        } else {
            Err(errors.aggregate())
        }
    }

    /// The label it asks for.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it compares.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// What it compares with, sorted.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether labels satisfy it.
    pub fn matches<L: Labels + ?Sized>(&self, labels: &L) -> bool {
        self.admits(labels.get(&self.key))
    }

    /// Whether it needs the label to be there.
    fn needs(&self) -> bool {
        !matches!(
            self.operator,
            Operator::NotIn | Operator::NotEquals | Operator::DoesNotExist
        )
    }

    fn admits(&self, value: Option<&str>) -> bool {
        let among = |v: &str| {
            let found = self.values.binary_search_by(|x| x.as_str().cmp(v));
            found.is_ok()
        };
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(among),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(among),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let left = value.and_then(|v| v.parse::<i64>().ok());
                let right = self.values.first().and_then(|v| v.parse::<i64>().ok());
                match (left, right) {
                    (Some(l), Some(r)) if self.operator == Operator::GreaterThan => l > r,
                    (Some(l), Some(r)) => l < r,
                    _ => false,
                }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// All of some requirements; none matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    requirements: Vec<Requirement>,
    /// What more than [`FEW`] requirements come to.
    merged: Merged,
    nothing: bool,
}

/// As many requirements are looked at one after the other.
const FEW: usize = 16;

/// Requirements of which no two say the same of a label in other words: a selector of a request may have a hundred thousand,
/// for each of as many objects. Empty when there are few.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Merged {
    /// Sorted by key.
    all: Vec<Requirement>,
    /// Those that need their label to be there.
    needing: usize,
}

impl Merged {
    /// Of requirements that are sorted by key.
    fn of(requirements: &[Requirement]) -> Merged {
        let mut merged = Merged::default();
        if requirements.len() <= FEW {
            return merged;
        }
        for same in requirements.chunk_by(|a, b| a.key == b.key) {
            let mut allowed: Option<Vec<String>> = None;
            let mut forbidden = Vec::new();
            let (mut exists, mut absent) = (false, false);
            let (mut above, mut below): (Option<i64>, Option<i64>) = (None, None);
            for r in same {
                let number = || r.values.first().and_then(|v| v.parse::<i64>().ok());
                match r.operator {
                    Operator::In | Operator::Equals | Operator::DoubleEquals => {
                        match &mut allowed {
                            None => allowed = Some(r.values.clone()),
                            Some(a) => a.retain(|v| r.values.binary_search(v).is_ok()),
                        }
                    }
                    Operator::NotIn | Operator::NotEquals => forbidden.extend_from_slice(&r.values),
                    Operator::Exists => exists = true,
                    Operator::DoesNotExist => absent = true,
                    Operator::GreaterThan => above = above.max(number()),
                    Operator::LessThan => {
                        below = [below, number()].into_iter().flatten().min();
                    }
                }
            }
            forbidden.sort_unstable();
            forbidden.dedup();
            let forbidden = (!forbidden.is_empty()).then_some(forbidden);
            let one = |n: i64| vec![n.to_string()];
            let all = [
                (Operator::In, allowed),
                (Operator::NotIn, forbidden),
                (Operator::Exists, exists.then(Vec::new)),
                (Operator::DoesNotExist, absent.then(Vec::new)),
                (Operator::GreaterThan, above.map(one)),
                (Operator::LessThan, below.map(one)),
            ];
            for (operator, values) in all {
                if let (Some(values), Some(first)) = (values, same.first()) {
                    merged.all.push(Requirement {
                        key: first.key.clone(),
                        operator,
                        values,
                    });
                }
            }
        }
        merged.needing = merged.all.iter().filter(|r| r.needs()).count();
        merged
    }

    /// The work is that of the labels, not of the requirements.
    fn matches<L: Labels + ?Sized>(&self, labels: &L) -> bool {
        let (mut met, mut broken) = (0, false);
        labels.each(&mut |key, value| {
            let at = self.all.partition_point(|r| r.key.as_str() < key);
            let of = self.all.iter().skip(at).take_while(|r| r.key == key);
            for r in of {
                broken |= !r.admits(Some(value));
                met += usize::from(r.needs());
            }
        });
        !broken && met == self.needing
    }
}

impl Selector {
    /// Matches every object.
    pub fn everything() -> Selector {
        Selector::default()
    }

    /// Matches no object.
    pub fn nothing() -> Selector {
        Selector {
            nothing: true,
            ..Selector::default()
        }
    }

    /// The requirements, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether it matches every object.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// All of these.
    pub fn of(mut requirements: Vec<Requirement>) -> Selector {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Selector {
            merged: Merged::of(&requirements),
            requirements,
            nothing: false,
        }
    }

    /// Exactly these labels (a Service's or ReplicationController's selector), unchecked.
    pub fn from_set<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Selector {
        Selector::of(
            labels
                .into_iter()
                .map(|(k, v)| Requirement {
                    key: k.to_owned(),
                    operator: Operator::Equals,
                    values: vec![v.to_owned()],
                })
                .collect(),
        )
    }

    /// Reads `a=b,c!=d,e in (x,y),!f,g`. The error is upstream's message.
    pub fn parse(text: &str) -> Result<Selector, String> {
        Parser {
            tokens: lex(text),
            at: 0,
        }
        .parse()
    }

    /// Whether labels satisfy all requirements.
    pub fn matches<L: Labels + ?Sized>(&self, labels: &L) -> bool {
        if self.nothing {
            return false;
        }
        if self.merged.all.is_empty() {
            return self.requirements.iter().all(|r| r.matches(labels));
        }
        self.merged.matches(labels)
    }

    /// Whether an object's `metadata.labels` satisfy it.
    pub fn matches_object(&self, object: &Value) -> bool {
        match object.pointer("/metadata/labels") {
            Some(labels) => self.matches(labels),
            None => self.matches(&serde_json::Map::new()),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{r}")?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Error,
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

fn special(b: u8) -> bool {
    matches!(b, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

fn token(s: &str) -> Option<Token> {
    Some(match s {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "in" => Token::In,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "notin" => Token::NotIn,
        "(" => Token::Open,
        _ => return None,
    })
}

fn lex(text: &str) -> Vec<(Token, String)> {
    let b = text.as_bytes();
    let mut at = 0;
    let mut out = Vec::new();
    loop {
        while matches!(b.get(at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            at += 1;
        }
        let start = at;
        // As upstream, a NUL byte ends the input.
        let Some(&c) = b.get(at).filter(|c| **c != 0) else {
            break;
        };
        if special(c) {
            let mut last = None;
            while b.get(at).copied().is_some_and(special) {
                at += 1;
                match token(text.get(start..at).unwrap_or_default()) {
                    Some(t) => last = Some((t, at)),
                    None if last.is_some() => break,
                    None => {}
                }
            }
            match last {
                Some((t, end)) => {
                    at = end;
                    out.push((t, text.get(start..end).unwrap_or_default().to_owned()));
                }
                None => {
                    let seen = text.get(start..at).unwrap_or_default();
                    out.push((
                        Token::Error,
                        format!("error expected: keyword found '{seen}'"),
                    ));
                }
            }
            continue;
        }
        while b
            .get(at)
            .is_some_and(|c| !special(*c) && !matches!(c, b' ' | b'\t' | b'\r' | b'\n' | 0))
        {
            at += 1;
        }
        let word = text.get(start..at).unwrap_or_default();
        out.push((token(word).unwrap_or(Token::Identifier), word.to_owned()));
    }
    out.push((Token::End, String::new()));
    out
}

struct Parser {
    tokens: Vec<(Token, String)>,
    at: usize,
}

impl Parser {
    fn look(&self, values: bool) -> (Token, &str) {
        let (t, s) = self
            .tokens
            .get(self.at)
            .map_or((Token::End, ""), |(t, s)| (*t, s.as_str()));
        if values && matches!(t, Token::In | Token::NotIn) {
            (Token::Identifier, s)
        } else {
            (t, s)
        }
    }

    fn take(&mut self, values: bool) -> (Token, String) {
        let (t, s) = self.look(values);
        let out = (t, s.to_owned());
        self.at += 1;
        out
    }

    fn parse(mut self) -> Result<Selector, String> {
        let mut all = Vec::new();
        loop {
            match self.look(true) {
                (Token::Identifier | Token::Not, _) => {
                    all.push(
                        self.requirement()
                            .map_err(|e| format!("unable to parse requirement: {e}"))?,
                    );
                    match self.take(true) {
                        (Token::End, _) => return Ok(Selector::of(all)),
                        (Token::Comma, _) => {
                            let (t, s) = self.look(true);
                            if !matches!(t, Token::Identifier | Token::Not) {
                                return Err(format!("found '{s}', expected: identifier after ','"));
                            }
                        }
                        (_, s) => {
                            return Err(format!("found '{s}', expected: ',' or 'end of string'"));
                        }
                    }
                }
                (Token::End, _) => return Ok(Selector::of(all)),
                (_, s) => {
                    return Err(format!(
                        "found '{s}', expected: !, identifier, or 'end of string'"
                    ));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let root = Path::root();
        let (mut t, mut key) = self.take(true);
        let negated = t == Token::Not;
        if negated {
            (t, key) = self.take(true);
        }
        if t != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let mut errors = ErrorList::new();
        key_error(&root, &key, &mut errors);
        if !errors.is_empty() {
            return Err(errors.aggregate());
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, Vec::new(), &root);
        }
        if matches!(self.look(true).0, Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, Vec::new(), &root);
        }
        let (t, s) = self.take(false);
        let operator = match t {
            Token::In => Operator::In,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            Token::NotIn => Operator::NotIn,
            Token::NotEquals => Operator::NotEquals,
            _ => {
                return Err(format!(
                    "found '{s}', expected: in, notin, =, ==, !=, gt, lt"
                ));
            }
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => self.exact()?,
        };
        Requirement::new(&key, operator, values, &root)
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        let (t, s) = self.take(true);
        if t != Token::Open {
            return Err(format!("found '{s}' expected: '('"));
        }
        let (t, first) = self.look(true);
        let first = first.to_owned();
        match t {
            Token::Identifier | Token::Comma => {
                let values = self.identifiers()?;
                if self.take(true).0 != Token::Close {
                    return Err(format!("found '{first}', expected: ')'"));
                }
                Ok(values)
            }
            Token::Close => {
                self.take(true);
                Ok(vec![String::new()])
            }
            _ => Err(format!("found '{first}', expected: ',', ')' or identifier")),
        }
    }

    fn identifiers(&mut self) -> Result<Vec<String>, String> {
        let mut out: Vec<String> = Vec::new();
        loop {
            match self.take(true) {
                (Token::Identifier, s) => {
                    out.push(s);
                    match self.look(true) {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => break,
                        (_, s) => return Err(format!("found '{s}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if out.is_empty() {
                        out.push(String::new());
                    }
                    match self.look(true).0 {
                        Token::Close => {
                            out.push(String::new());
                            break;
                        }
                        Token::Comma => out.push(String::new()),
                        _ => {}
                    }
                }
                (_, s) => return Err(format!("found '{s}', expected: ',', or identifier")),
            }
        }
        out.sort_unstable();
        out.dedup();
        Ok(out)
    }

    fn exact(&mut self) -> Result<Vec<String>, String> {
        if matches!(self.look(true).0, Token::End | Token::Comma) {
            return Ok(vec![String::new()]);
        }
        match self.take(true) {
            (Token::Identifier, s) => Ok(vec![s]),
            (_, s) => Err(format!("found '{s}', expected: identifier")),
        }
    }
}

/// `metav1.LabelSelector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LabelSelector {
    /// All of these labels.
    pub match_labels: BTreeMap<String, String>,
    /// And all of these.
    pub match_expressions: Vec<LabelSelectorRequirement>,
}

/// `metav1.LabelSelectorRequirement`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LabelSelectorRequirement {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`
    pub operator: String,
    /// What it is compared with.
    pub values: Vec<String>,
}

impl LabelSelector {
    /// From a field of an object; `None` for a missing one (which matches nothing).
    pub fn from_value(value: Option<&Value>) -> Option<LabelSelector> {
        value
            .filter(|v| !v.is_null())
            .and_then(|v| LabelSelector::deserialize(v).ok())
    }

    /// The selector. The error is upstream's message.
    pub fn selector(&self) -> Result<Selector, String> {
        let root = Path::root();
        let mut all = Vec::new();
        for (k, v) in &self.match_labels {
            all.push(Requirement::new(
                k,
                Operator::Equals,
                vec![v.clone()],
                &root,
            )?);
        }
        for e in &self.match_expressions {
            let operator = match e.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            all.push(Requirement::new(&e.key, operator, e.values.clone(), &root)?);
        }
        Ok(Selector::of(all))
    }

    /// Everything wrong with it as a field of an object. `allow_invalid_values` is for updates of objects that had them.
    pub fn validate(&self, path: &Path, allow_invalid_values: bool) -> ErrorList {
        let mut errors = ErrorList::new();
        let at = path.child("matchLabels");
        for (k, v) in &self.match_labels {
            validate_label(k, v, &at, &mut errors);
        }
        for (i, e) in self.match_expressions.iter().enumerate() {
            let at = path.child("matchExpressions").index(i);
            match e.operator.as_str() {
                "In" | "NotIn" => {
                    if e.values.is_empty() {
                        errors.required(
                            &at.child("values"),
                            "must be specified when `operator` is 'In' or 'NotIn'",
                        );
                    }
                }
                "Exists" | "DoesNotExist" => {
                    if !e.values.is_empty() {
                        errors.forbidden(
                            &at.child("values"),
                            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                        );
                    }
                }
                other => errors.invalid(
                    &at.child("operator"),
                    other,
                    "not a valid selector operator",
                ),
            }
            for message in validate::qualified_name(&e.key) {
                errors.invalid(&at.child("key"), e.key.as_str(), &message);
            }
            if !allow_invalid_values {
                for (j, v) in e.values.iter().enumerate() {
                    for message in validate::label_value(v) {
                        errors.invalid(&at.child("values").index(j), v.as_str(), &message);
                    }
                }
            }
        }
        errors
    }
}

/// The checks of one label.
pub fn validate_label(key: &str, value: &str, path: &Path, errors: &mut ErrorList) {
    for message in validate::qualified_name(key) {
        errors.invalid(path, key, &message);
    }
    for message in validate::label_value(value) {
        errors.invalid(path, value, &message);
    }
}

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldTerm {
    /// `metadata.name`
    pub field: String,
    /// Whether the value must differ.
    pub not: bool,
    /// The value.
    pub value: String,
}

/// A field selector: all of some terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    /// Sorted by their text.
    pub terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Reads `metadata.name=a,status.phase!=Running`; `\`, `,` and `=` in values are escaped with `\`. The error is
    /// upstream's message.
    pub fn parse(text: &str) -> Result<FieldSelector, String> {
        let mut parts = Vec::new();
        let mut start = 0;
        let mut escaped = false;
        for (i, c) in text.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                ',' => {
                    parts.push(text.get(start..i).unwrap_or_default());
                    start = i + 1;
                }
                _ => {}
            }
        }
        parts.push(text.get(start..).unwrap_or_default());
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            let found = part.char_indices().find_map(|(i, _)| {
                let rest = part.get(i..)?;
                ["!=", "==", "="]
                    .iter()
                    .find(|op| rest.starts_with(**op))
                    .map(|op| (i, *op))
            });
            let Some((at, op)) = found else {
                return Err(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                ));
            };
            terms.push(FieldTerm {
                field: part.get(..at).unwrap_or_default().to_owned(),
                not: op == "!=",
                value: unescape(part.get(at + op.len()..).unwrap_or_default())?,
            });
        }
        Ok(FieldSelector { terms })
    }

    /// The value that a field must have, if exactly one is asked for.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|t| t.field == field && !t.not)
            .map(|t| t.value.as_str())
    }

    /// Whether the fields satisfy it; `get` gives the value of a field, empty if it has none.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> &'a str) -> bool {
        self.terms
            .iter()
            .all(|t| (get(&t.field) == t.value) != t.not)
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, t) in self.terms.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let value = t
                .value
                .replace('\\', "\\\\")
                .replace(',', "\\,")
                .replace('=', "\\=");
            write!(f, "{}{}{value}", t.field, if t.not { "!=" } else { "=" })?;
        }
        Ok(())
    }
}

fn unescape(s: &str) -> Result<String, String> {
    let mut out = String::with_capacity(s.len());
    let mut escaped = false;
    for c in s.chars() {
        if escaped {
            if !matches!(c, '\\' | ',' | '=') {
                return Err(format!(
                    "invalid field selector: invalid escape sequence: \\{c}"
                ));
            }
            out.push(c);
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if matches!(c, ',' | '=') {
            return Err(format!(
                "invalid field selector: unescaped character in value: {}",
                c as u32
            ));
        } else {
            out.push(c);
        }
    }
    if escaped {
        return Err("invalid field selector: invalid escape sequence: \\".to_owned());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    proptest::proptest! {
        #[test]
        fn many_requirements_mean_what_each_means(
            asked in proptest::collection::vec((0usize..9, 0u8..4, proptest::collection::vec(0u8..5, 1..4)), 0..60),
            have in proptest::collection::btree_map(0u8..5, 0u8..5, 0..5),
        ) {
            use Operator::*;
            let all = [In, NotIn, Equals, DoubleEquals, NotEquals, Exists, DoesNotExist, GreaterThan, LessThan];
            let requirements: Vec<Requirement> = asked
                .into_iter()
                .map(|(op, key, values)| {
                    let count = match all[op] {
                        In | NotIn => values.len(),
                        Exists | DoesNotExist => 0,
                        _ => 1,
                    };
                    let values = values.iter().take(count).map(u8::to_string).collect();
                    Requirement::new(&format!("k{key}"), all[op], values, &Path::root()).unwrap()
                })
                .collect();
            let labels: BTreeMap<String, String> =
                have.iter().map(|(k, v)| (format!("k{k}"), v.to_string())).collect();
            let plain = requirements.iter().all(|r| r.matches(&labels));
            proptest::prop_assert_eq!(Selector::of(requirements).matches(&labels), plain);
        }
    }

    /// A hundred thousand requirements for as many objects: each object costs what its labels do.
    #[test]
    fn a_long_selector_costs_an_object_its_labels() {
        let mut text: Vec<String> = (0..50_000).map(|n| format!("a!={n}")).collect();
        text.extend((0..50_000).map(|n| format!("!b{n}")));
        let s = Selector::parse(&text.join(",")).unwrap();
        for n in 0..100_000 {
            let value = n.to_string();
            let one = BTreeMap::from([("a", value.as_str()), ("c", "")]);
            assert_eq!(s.matches(&one), n >= 50_000);
        }
        assert!(!s.matches(&labels(&[("b7", "")])));
    }

    #[test]
    fn parse_and_match() {
        let s = Selector::parse("a=b, c!=d,e in (x,y),!f,g,h>1").unwrap();
        assert_eq!(s.to_string(), "a=b,c!=d,e in (x,y),!f,g,h>1");
        assert!(s.matches(&labels(&[("a", "b"), ("e", "y"), ("g", ""), ("h", "2")])));
        assert!(!s.matches(&labels(&[("a", "b"), ("e", "y"), ("g", ""), ("h", "1")])));
        assert!(!s.matches(&labels(&[
            ("a", "b"),
            ("e", "y"),
            ("g", ""),
            ("h", "2"),
            ("f", "")
        ])));
        assert!(Selector::parse("").unwrap().is_everything());
        assert!(
            Selector::parse("x in (,a)")
                .unwrap()
                .matches(&labels(&[("x", "")]))
        );
        assert!(
            Selector::parse("x in ()")
                .unwrap()
                .matches(&labels(&[("x", "")]))
        );
        assert!(
            Selector::parse("in in (in,notin)")
                .unwrap()
                .matches(&labels(&[("in", "in")]))
        );
        assert!(!Selector::nothing().matches(&labels(&[])));
    }

    #[test]
    fn parse_errors() {
        for (text, error) in [
            ("a=b,", "found '', expected: identifier after ','"),
            (
                ",",
                "found ',', expected: !, identifier, or 'end of string'",
            ),
            (
                "a b",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            (
                "a in b",
                "unable to parse requirement: found 'b' expected: '('",
            ),
            (
                "a in (b",
                "unable to parse requirement: found '', expected: ',' or ')'",
            ),
            (
                "!",
                "unable to parse requirement: found '', expected: identifier",
            ),
            ("a=b=c", "found '=', expected: ',' or 'end of string'"),
            (
                "h>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            assert_eq!(Selector::parse(text).unwrap_err(), error, "{text}");
        }
        let e = Selector::parse("a/b/c=1").unwrap_err();
        assert!(
            e.starts_with(
                "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a valid label key"
            ),
            "{e}"
        );
        let e = Selector::parse("a=@").unwrap_err();
        assert!(e.starts_with("unable to parse requirement: values[0][a]: Invalid value: \"@\": a valid label must"), "{e}");
    }

    #[test]
    fn fields() {
        let s = FieldSelector::parse("metadata.name=a,status.phase!=Run\\,ning").unwrap();
        assert_eq!(s.exact("metadata.name"), Some("a"));
        assert!(s.matches(|f| if f == "metadata.name" { "a" } else { "Failed" }));
        assert!(!s.matches(|f| if f == "metadata.name" {
            "a"
        } else {
            "Run,ning"
        }));
        assert_eq!(s.to_string(), "metadata.name=a,status.phase!=Run\\,ning");
        assert_eq!(
            FieldSelector::parse("abc").unwrap_err(),
            "invalid selector: 'abc'; can't understand 'abc'"
        );
        assert_eq!(
            FieldSelector::parse("a=b=c").unwrap_err(),
            "invalid field selector: unescaped character in value: 61"
        );
    }

    #[test]
    fn label_selector() {
        let s: LabelSelector = serde_json::from_value(serde_json::json!({
            "matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["d"]}]
        }))
        .unwrap();
        assert_eq!(s.selector().unwrap().to_string(), "a=b,c notin (d)");
        let bad: LabelSelector = serde_json::from_value(
            serde_json::json!({"matchExpressions": [{"key": "c", "operator": "Huh"}]}),
        )
        .unwrap();
        assert_eq!(
            bad.selector().unwrap_err(),
            "\"Huh\" is not a valid label selector operator"
        );
        assert_eq!(
            bad.validate(&Path::new("s"), false).aggregate(),
            "s.matchExpressions[0].operator: Invalid value: \"Huh\": not a valid selector operator"
        );
    }
}
