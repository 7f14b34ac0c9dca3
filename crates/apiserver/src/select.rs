//! Label and field selectors of a request.
//!
//! Source: upstream's `apimachinery/pkg/labels` and `pkg/fields`; error texts are theirs.

use api::Status;
use api::selector::{FieldSelector, Selector};

use crate::resource::ResourceDef;

/// A parsed label selector; the empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Selector);

/// Labels sorted by key.
struct Sorted<'a>(&'a [(Box<str>, Box<str>)]);

impl api::selector::Labels for Sorted<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        self.0.get(at).map(|(_, v)| &**v)
    }

    fn each(&self, see: &mut dyn FnMut(&str, &str)) {
        self.0.iter().for_each(|(k, v)| see(k, v));
    }
}

impl Labels {
    /// Parses a selector; errors are 400s with upstream's text.
    pub fn parse(s: &str) -> Result<Labels, Status> {
        Selector::parse(s).map(Labels).map_err(Status::bad_request)
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.0.is_everything()
    }

    /// Whether labels, sorted by key, match.
    pub fn matches(&self, labels: &[(Box<str>, Box<str>)]) -> bool {
        self.0.matches(&Sorted(labels))
    }
}

/// What a field selector compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `metadata.name`
    Name,
    /// `metadata.namespace`
    Namespace,
    /// The n-th of the resource's selectable fields.
    Custom(usize),
}

/// What a field selector says of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// What is compared.
    pub field: Field,
    /// With what: sorted.
    pub values: Vec<String>,
    /// `=` with each rather than `!=`.
    pub equal: bool,
}

impl Term {
    fn admits(&self, value: &str) -> bool {
        let among = || {
            self.values
                .binary_search_by(|v| v.as_str().cmp(value))
                .is_ok()
        };
        if self.equal {
            self.values.len() == 1 && among()
        } else {
            !among()
        }
    }
}

/// A parsed field selector; the empty one matches everything. However long it was, it has two terms for a field at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<Term>);

impl Fields {
    /// Parses a selector for a resource, with its words for what it does not know.
    pub fn parse_for(s: &str, def: &ResourceDef) -> Result<Fields, Status> {
        // Kinds with fields of their own list all that they know, and clusters' kinds leave out the namespace.
        if !def.namespaced && !def.selectable_fields.is_empty() {
            let parsed = FieldSelector::parse(s).map_err(Status::bad_request)?;
            if parsed.terms.iter().any(|t| t.field == "metadata.namespace") {
                return Err(Status::bad_request(
                    "field label not supported: metadata.namespace",
                ));
            }
        }
        let own = def.kind == "ResourceSlice";
        Fields::parse(s, def.selectable_fields).map_err(|mut e| {
            if own && let Some(label) = e.message.split('"').nth(1) {
                e.message = format!(
                    "field label not supported for {}/{}, Kind={}: {label}",
                    def.group, def.version, def.kind
                );
            }
            if def.kind == "Job"
                && let Some(label) = e.message.strip_prefix("field label not supported: ")
            {
                e.message = format!(
                    "field label {} not supported for Job",
                    api::text::go_quote(label)
                );
            }
            e
        })
    }

    /// Parses a selector over `metadata.name`, `metadata.namespace` and `selectable`.
    /// Kinds that select by nothing else mostly have no words of their own for what they do not know.
    pub fn parse(s: &str, selectable: &[&str]) -> Result<Fields, Status> {
        let parsed = FieldSelector::parse(s).map_err(Status::bad_request)?;
        let mut out: Vec<Term> = Vec::new();
        for t in parsed.terms {
            let (key, value, equal) = (t.field.as_str(), t.value, !t.not);
            let field = match key {
                "metadata.name" => Field::Name,
                "metadata.namespace" => Field::Namespace,
                other => match selectable.iter().position(|f| *f == other) {
                    Some(i) => Field::Custom(i),
                    None if other.is_empty() && value.is_empty() => continue,
                    None if selectable.is_empty() => {
                        return Err(Status::bad_request(format!(
                            "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                            api::text::go_quote(other)
                        )));
                    }
                    None => {
                        return Err(Status::bad_request(format!(
                            "field label not supported: {other}"
                        )));
                    }
                },
            };
            match out
                .iter_mut()
                .find(|t| t.field == field && t.equal == equal)
            {
                Some(t) => t.values.push(value),
                None => out.push(Term {
                    field,
                    values: vec![value],
                    equal,
                }),
            }
        }
        for t in &mut out {
            t.values.sort_unstable();
            t.values.dedup();
        }
        Ok(Fields(out))
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name that `metadata.name=` requires, if it does.
    pub fn required_name(&self) -> Option<&str> {
        self.0
            .iter()
            .find(|t| t.equal && t.field == Field::Name)
            .and_then(|t| Some(t.values.first()?.as_str()))
    }

    /// The first resource field that must equal a value, for indexes.
    pub fn required_custom(&self) -> Option<(usize, &str)> {
        self.0.iter().find_map(|t| match t.field {
            Field::Custom(i) if t.equal => Some((i, t.values.first()?.as_str())),
            _ => None,
        })
    }

    /// Whether an object matches; `custom` gives the values in the order of the selectable fields.
    pub fn matches(&self, namespace: &str, name: &str, custom: impl Fn(usize) -> String) -> bool {
        self.0.iter().all(|t| match t.field {
            Field::Name => t.admits(name),
            Field::Namespace => t.admits(namespace),
            Field::Custom(i) => t.admits(&custom(i)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Vec<(Box<str>, Box<str>)> {
        let mut v: Vec<_> = pairs
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect();
        v.sort();
        v
    }

    #[test]
    fn label_selectors_match() {
        let l = labels(&[("app", "web"), ("tier", "2"), ("x.io/y", "z")]);
        for (s, want) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=3", true),
            ("app in (web, db),!gone", true),
            ("app notin (web)", false),
            ("missing notin (web)", true),
            ("tier>1,tier<3", true),
            ("tier>2", false),
            ("x.io/y", true),
            ("!x.io/y", false),
            ("app=", false),
        ] {
            assert_eq!(Labels::parse(s).expect(s).matches(&l), want, "{s}");
        }
    }

    #[test]
    fn label_selector_errors_are_upstreams() {
        let e = Labels::parse("a b c").expect_err("three words");
        assert_eq!(
            e.message,
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"
        );
    }

    #[test]
    fn a_long_field_selector_is_a_short_one() {
        let all: Vec<String> = (0..50_000)
            .map(|n| format!("metadata.name!=n{n}"))
            .collect();
        let f = Fields::parse(&all.join(","), &[]).expect("valid");
        assert_eq!(f.0.len(), 1);
        assert!(f.matches("", "x", |_| String::new()));
        assert!(!f.matches("", "n49999", |_| String::new()));
    }

    #[test]
    fn field_selectors_match_and_refuse() {
        let f = Fields::parse("metadata.name=a,spec.nodeName!=n\\,1", &["spec.nodeName"])
            .expect("valid");
        assert!(f.matches("ns", "a", |_| "n2".into()));
        assert!(!f.matches("ns", "a", |_| "n,1".into()));
        assert!(!f.matches("ns", "b", |_| String::new()));
        let none = Fields::parse("metadata.name=a,metadata.name=b", &[]).expect("valid");
        assert!(
            !none.matches("", "a", |_| String::new()) && !none.matches("", "b", |_| String::new())
        );
        let same = Fields::parse("metadata.name=a,metadata.name==a", &[]).expect("valid");
        assert!(same.matches("", "a", |_| String::new()));
        let e = Fields::parse("spec.bogus=x", &["spec.nodeName"]).expect_err("unknown");
        assert_eq!(e.message, "field label not supported: spec.bogus");
    }
}
