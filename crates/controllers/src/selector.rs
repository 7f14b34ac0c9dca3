//! Label selectors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `metav1.LabelSelector`. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// All must be there with these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// All must hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// `metav1.LabelSelectorRequirement`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`.
    pub operator: String,
    /// For `In` and `NotIn`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

impl std::fmt::Display for LabelSelector {
    /// As Go prints it, for messages.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("&LabelSelector{MatchLabels:map[string]string{")?;
        for (k, v) in &self.match_labels {
            write!(f, "{k}: {v},")?;
        }
        f.write_str("},MatchExpressions:[]LabelSelectorRequirement{")?;
        for r in &self.match_expressions {
            let values = r.values.join(" ");
            write!(
                f,
                "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
                r.key, r.operator
            )?;
        }
        f.write_str("},}")
    }
}

impl LabelSelector {
    /// Whether the labels satisfy the selector. An unknown operator matches nothing.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels
            .iter()
            .all(|(k, v)| labels.get(k) == Some(v))
            && self.match_expressions.iter().all(|r| {
                let value = labels.get(&r.key);
                match r.operator.as_str() {
                    "In" => value.is_some_and(|v| r.values.contains(v)),
                    "NotIn" => value.is_none_or(|v| !r.values.contains(v)),
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    _ => false,
                }
            })
    }

    /// Whether nothing is required.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let case = |op: &str, key: &str, values: &[&str]| {
            let r = Requirement {
                key: key.into(),
                operator: op.into(),
                values: values.iter().map(|v| (*v).to_owned()).collect(),
            };
            LabelSelector {
                match_expressions: vec![r],
                ..LabelSelector::default()
            }
            .matches(&labels)
        };
        assert!(
            case("In", "a", &["1", "2"]) && !case("In", "a", &["2"]) && !case("In", "b", &["1"])
        );
        assert!(
            case("NotIn", "a", &["2"]) && !case("NotIn", "a", &["1"]) && case("NotIn", "b", &["1"])
        );
        assert!(case("Exists", "a", &[]) && !case("Exists", "b", &[]));
        assert!(case("DoesNotExist", "b", &[]) && !case("DoesNotExist", "a", &[]));
        assert!(!case("Like", "a", &["1"]));
        assert!(LabelSelector::default().matches(&labels));
    }
}
