//! Matching of node selector terms, label selectors, taints and tolerations.

use std::collections::BTreeMap;

use crate::view::{LabelSelector, NodeSelector, NodeSelectorTerm, Taint, Toleration};

/// Whether all requirements of a term hold. A term without requirements matches nothing.
pub fn term_matches(
    term: &NodeSelectorTerm,
    name: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    term.matches(Some(name), labels)
}

/// Whether one of the terms matches. No terms match nothing.
pub fn selector_matches(s: &NodeSelector, name: &str, labels: &BTreeMap<String, String>) -> bool {
    s.matches(Some(name), labels)
}

/// Whether a label selector matches. `None` matches nothing, an empty one everything.
pub fn labels_match(s: Option<&LabelSelector>, labels: &BTreeMap<String, String>) -> bool {
    s.is_some_and(|s| {
        s.match_labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            && s.match_expressions
                .iter()
                .all(|r| r.matches(labels.get(&r.key).map(String::as_str)))
    })
}

/// Whether a toleration covers a taint (API: `Toleration.ToleratesTaint`).
pub fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    if !t.effect.is_empty() && t.effect != taint.effect {
        return false;
    }
    if !t.key.is_empty() && t.key != taint.key {
        return false;
    }
    match t.operator.as_str() {
        "" | "Equal" => t.value == taint.value,
        "Exists" => true,
        "Gt" | "Lt" => {
            let (Ok(have), Ok(want)) = (taint.value.parse::<i64>(), t.value.parse::<i64>()) else {
                return false;
            };
            if t.operator == "Gt" {
                have > want
            } else {
                have < want
            }
        }
        _ => false,
    }
}

/// The first taint of these effects that no toleration covers.
pub fn untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    effects: &[&str],
) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|t| effects.contains(&t.effect.as_str()))
        .find(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Requirement;

    fn r(key: &str, operator: &str, values: &[&str]) -> Requirement {
        Requirement {
            key: key.into(),
            operator: operator.into(),
            values: values.iter().map(|s| (*s).to_owned()).collect(),
        }
    }

    #[test]
    fn operators() {
        let labels: BTreeMap<String, String> = [("zone", "a"), ("cores", "8")]
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        for (req, want) in [
            (r("zone", "In", &["a", "b"]), true),
            (r("zone", "In", &["b"]), false),
            (r("none", "In", &["b"]), false),
            (r("zone", "NotIn", &["a"]), false),
            (r("none", "NotIn", &["a"]), true),
            (r("zone", "Exists", &[]), true),
            (r("zone", "DoesNotExist", &[]), false),
            (r("cores", "Gt", &["7"]), true),
            (r("cores", "Gt", &["8"]), false),
            (r("cores", "Lt", &["9"]), true),
            (r("zone", "Gt", &["1"]), false),
            (r("zone", "Bogus", &["a"]), false),
        ] {
            let term = NodeSelectorTerm {
                match_expressions: vec![req.clone()],
                match_fields: vec![],
            };
            assert_eq!(term_matches(&term, "n", &labels), want, "{req:?}");
        }
        assert!(!term_matches(&NodeSelectorTerm::default(), "n", &labels));
        let by_name = NodeSelectorTerm {
            match_fields: vec![r("metadata.name", "In", &["n"])],
            ..Default::default()
        };
        assert!(term_matches(&by_name, "n", &labels) && !term_matches(&by_name, "m", &labels));
    }

    #[test]
    fn tolerations() {
        let taint = Taint {
            key: "k".into(),
            value: "v".into(),
            effect: "NoSchedule".into(),
        };
        let t = |key: &str, operator: &str, value: &str, effect: &str| Toleration {
            key: key.into(),
            operator: operator.into(),
            value: value.into(),
            effect: effect.into(),
        };
        for (toleration, want) in [
            (t("k", "", "v", ""), true),
            (t("k", "Equal", "v", "NoSchedule"), true),
            (t("k", "Equal", "w", ""), false),
            (t("k", "Exists", "", ""), true),
            (t("k", "Exists", "", "NoExecute"), false),
            (t("", "Exists", "", ""), true),
            (t("", "Equal", "w", ""), false),
            (t("l", "Exists", "", ""), false),
        ] {
            assert_eq!(tolerates(&toleration, &taint), want, "{toleration:?}");
        }
    }
}
