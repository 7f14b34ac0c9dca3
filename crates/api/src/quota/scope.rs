//! Scopes: which objects a quota is about.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::nullable;
use crate::field::Path;
use crate::selector::{self, Labels, Operator};

const PRIORITY_CLASS: &str = "PriorityClass";
const ATTRIBUTES_CLASS: &str = "VolumeAttributesClass";

/// `ScopedResourceSelectorRequirement`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Requirement {
    /// `Terminating`, `PriorityClass`, ….
    #[serde(deserialize_with = "nullable")]
    pub scope_name: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    #[serde(deserialize_with = "nullable")]
    pub operator: String,
    /// For `In` and `NotIn`.
    #[serde(deserialize_with = "nullable")]
    pub values: Vec<String>,
}

/// What scopes look at in an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// It has no scope.
    #[default]
    None,
    /// A pod.
    Pod {
        /// It has a deadline.
        terminating: bool,
        /// Nothing is set aside for it.
        best_effort: bool,
        /// Empty for none.
        priority_class: String,
        /// It wants to be near or far from pods of other namespaces.
        cross_namespace: bool,
    },
    /// A claim, with all attribute classes it has or is to have.
    Claim(BTreeSet<String>),
}

/// A scope of a quota, ready to be held against many objects.
#[derive(Clone, Debug)]
pub struct Test {
    /// As it is written.
    pub requirement: Requirement,
    /// For scopes with values.
    values: Result<selector::Requirement, String>,
}

/// The label that stands for a scope.
struct Label<'a>(&'a str, Option<&'a str>);

impl Labels for Label<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.1.filter(|_| key == self.0)
    }

    fn each(&self, see: &mut dyn FnMut(&str, &str)) {
        if let Some(value) = self.1 {
            see(self.0, value);
        }
    }
}

impl Test {
    /// A scope of `spec.scopes`.
    pub fn exists(scope: &str) -> Test {
        Test::new(&Requirement {
            scope_name: scope.to_owned(),
            operator: "Exists".to_owned(),
            values: Vec::new(),
        })
    }

    /// A scope with an operator.
    pub fn new(requirement: &Requirement) -> Test {
        let r = requirement;
        let operator = match r.operator.as_str() {
            "In" => Ok(Operator::In),
            "NotIn" => Ok(Operator::NotIn),
            "Exists" => Ok(Operator::Exists),
            "DoesNotExist" => Ok(Operator::DoesNotExist),
            o => Err(format!("{o:?} is not a valid scope selector operator")),
        };
        let values = operator.and_then(|o| {
            selector::Requirement::new(&r.scope_name, o, r.values.clone(), &Path::root())
        });
        Test {
            values: values.map_err(|e| format!("failed to parse and convert selector: {e}")),
            requirement: requirement.clone(),
        }
    }

    /// Whether an object has the scope.
    ///
    /// # Errors
    /// When what the quota says of its values cannot be read.
    pub fn matches(&self, scope: &Scope) -> Result<bool, &str> {
        let exists = self.requirement.operator == "Exists";
        let of_value = |value: Option<&str>| {
            let values = self.values.as_ref().map_err(String::as_str)?;
            Ok(values.matches(&Label(&self.requirement.scope_name, value)))
        };
        match (scope, self.requirement.scope_name.as_str()) {
            (Scope::Pod { terminating, .. }, "Terminating") => Ok(*terminating),
            (Scope::Pod { terminating, .. }, "NotTerminating") => Ok(!terminating),
            (Scope::Pod { best_effort, .. }, "BestEffort") => Ok(*best_effort),
            (Scope::Pod { best_effort, .. }, "NotBestEffort") => Ok(!best_effort),
            (Scope::Pod { priority_class, .. }, PRIORITY_CLASS) => {
                let class = Some(priority_class.as_str()).filter(|c| !c.is_empty());
                if exists {
                    return Ok(class.is_some());
                }
                of_value(class)
            }
            (
                Scope::Pod {
                    cross_namespace, ..
                },
                "CrossNamespacePodAffinity",
            ) => Ok(*cross_namespace),
            (Scope::Claim(classes), ATTRIBUTES_CLASS) => {
                if exists {
                    return Ok(!classes.is_empty());
                }
                if classes.is_empty() {
                    return of_value(None);
                }
                for class in classes {
                    if of_value(Some(class))? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            _ => Ok(false),
        }
    }
}
