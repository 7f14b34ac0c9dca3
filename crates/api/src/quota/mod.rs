//! What quotas count: how much of what an object is charged for, which quotas it falls under, and sums of such amounts. The
//! apiserver's admission and the controller that keeps quotas current measure with the same code.
//!
//! Invariants: nothing here knows the time, a cache or a request; what cannot be read as a quantity counts as nothing (the
//! apiserver lets none through); sums saturate; no object costs more than it is long, however many names it has.
//!
//! Not there: a ResourceClaim does not count as the extended resources of its device classes (`requests.NAME` counts what
//! pods request).

pub mod claim;
pub mod device;
pub mod pod;
pub mod scope;
pub mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::quantity::{Format, Quantity};
use scope::{Scope, Test};

/// `ResourceList`: an amount per name.
pub type Amounts = BTreeMap<String, Quantity>;

/// `ResourceList` as it is written.
pub type Texts = BTreeMap<String, String>;

/// A whole number of things.
pub fn count(n: usize) -> Quantity {
    Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi)
}

/// Adds to each name.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, q) in more {
        match sum.get_mut(name) {
            Some(s) => *s += *q,
            None => {
                sum.insert(name.clone(), *q);
            }
        }
    }
}

/// Raises each name to at least the other's.
pub fn raise(sum: &mut Amounts, more: &Amounts) {
    for (name, q) in more {
        if sum.get(name).is_none_or(|s| s < q) {
            sum.insert(name.clone(), *q);
        }
    }
}

/// What `new` has beyond `old`, without what is nothing.
#[must_use]
pub fn growth(new: &Amounts, old: &Amounts) -> Amounts {
    let grown = new.iter().map(|(name, q)| {
        let before = old.get(name).copied().unwrap_or_default();
        (name.clone(), *q - before)
    });
    grown.filter(|(_, q)| q.sign() > 0).collect()
}

/// Written amounts. What is no quantity is nothing.
pub fn read(texts: &Texts) -> Amounts {
    let parse = |q: &String| Quantity::parse(q).unwrap_or_default();
    texts.iter().map(|(n, q)| (n.clone(), parse(q))).collect()
}

/// Whether written amounts are the same, whatever their units.
pub fn same(a: &Texts, b: &Texts) -> bool {
    a == b || read(a) == read(b)
}

/// Reads `null` as the default value.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Reads a `ResourceList`.
pub(crate) fn amounts<'de, D: Deserializer<'de>>(d: D) -> Result<Amounts, D::Error> {
    let all = Option::<BTreeMap<String, Amount>>::deserialize(d)?.unwrap_or_default();
    Ok(all.into_iter().map(|(n, a)| (n, a.0)).collect())
}

/// A quantity, or nothing where there is none.
struct Amount(Quantity);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Amount, D::Error> {
        struct Any;
        impl Any {
            fn text(text: &str) -> Amount {
                Amount(Quantity::parse(text).unwrap_or_default())
            }
        }
        impl Visitor<'_> for Any {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity")
            }

            fn visit_str<E>(self, text: &str) -> Result<Amount, E> {
                Ok(Any::text(text))
            }

            fn visit_i64<E>(self, n: i64) -> Result<Amount, E> {
                Ok(Any::text(&n.to_string()))
            }

            fn visit_u64<E>(self, n: u64) -> Result<Amount, E> {
                Ok(Any::text(&n.to_string()))
            }

            fn visit_f64<E>(self, n: f64) -> Result<Amount, E> {
                Ok(Any::text(&n.to_string()))
            }

            fn visit_unit<E>(self) -> Result<Amount, E> {
                Ok(Amount(Quantity::ZERO))
            }
        }
        d.deserialize_any(Any)
    }
}

/// The part of `metadata` that caches need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// UID.
    pub uid: String,
    /// Opaque version.
    pub resource_version: String,
}

/// The metadata of objects that are measured.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Meta {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    namespace: String,
    #[serde(deserialize_with = "nullable")]
    uid: String,
    #[serde(deserialize_with = "nullable")]
    resource_version: String,
    deletion_timestamp: Option<String>,
    deletion_grace_period_seconds: Option<i64>,
}

impl Meta {
    fn identity(&self) -> Identity {
        Identity {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            uid: self.uid.clone(),
            resource_version: self.resource_version.clone(),
        }
    }
}

/// An object that counts for more than one of its kind.
pub trait Countable: DeserializeOwned + Send + Sync + 'static {
    /// Whose amounts these are.
    fn identity(&self) -> Identity;

    /// What it counts for.
    fn measure(&self) -> Measured;
}

/// What an object counts for, and under which scopes: all that quotas need of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// As long as it is stored.
    pub stored: Amounts,
    /// As long as it lives.
    pub alive: Amounts,
    /// How long it lives.
    pub life: Life,
    /// What scopes look at.
    pub scope: Scope,
}

/// How long an object lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Life {
    /// As long as it is stored.
    #[default]
    Stored,
    /// Until after this second: it should be gone by then, and its owner is not charged for what holds it up.
    Until(i64),
    /// No more.
    Ended,
}

impl Measured {
    /// Whether it lives.
    pub fn is_alive(&self, now: i64) -> bool {
        match self.life {
            Life::Stored => true,
            Life::Until(second) => now <= second,
            Life::Ended => false,
        }
    }

    /// What it counts for.
    pub fn usage(&self, now: i64) -> Amounts {
        let mut out = self.stored.clone();
        if self.is_alive(now) {
            add(&mut out, &self.alive);
        }
        out
    }
}

/// How the objects of a resource are measured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Evaluator {
    /// Pods.
    Pods,
    /// Services.
    Services,
    /// PersistentVolumeClaims.
    Claims,
    /// ResourceClaims.
    Devices,
    /// Anything else: by their number.
    Count {
        /// `count/RESOURCE.GROUP`
        name: String,
        /// The name that quotas had for them before; empty where they had none.
        alias: &'static str,
    },
}

/// What is not stored, and events.
const IGNORED: [(&str, &str); 10] = [
    ("", "bindings"),
    ("", "componentstatuses"),
    ("", "events"),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
    ("events.k8s.io", "events"),
];

/// Names that quotas had for counts before `count/RESOURCE`; all are core resources.
const ALIASES: [&str; 4] = [
    "configmaps",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
];

/// The resources that are measured.
const MEASURED: [(&str, &str, Evaluator); 4] = [
    ("", "pods", Evaluator::Pods),
    ("", "services", Evaluator::Services),
    ("", "persistentvolumeclaims", Evaluator::Claims),
    (device::GROUP, "resourceclaims", Evaluator::Devices),
];

/// `count/RESOURCE.GROUP`
pub fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() {
        format!("count/{resource}")
    } else {
        format!("count/{resource}.{group}")
    }
}

impl Evaluator {
    /// The evaluator of a resource; `None` for those that no quota counts.
    pub fn of(group: &str, resource: &str) -> Option<Evaluator> {
        if IGNORED.contains(&(group, resource)) {
            return None;
        }
        let measured = MEASURED.iter().find(|m| (m.0, m.1) == (group, resource));
        Some(match measured {
            Some((_, _, evaluator)) => evaluator.clone(),
            None => Evaluator::Count {
                name: count_name(group, resource),
                alias: ALIASES
                    .into_iter()
                    .find(|a| group.is_empty() && *a == resource)
                    .unwrap_or_default(),
            },
        })
    }

    /// Whether it measures what a quota names.
    pub fn tracks(&self, name: &str) -> bool {
        match self {
            Evaluator::Pods => pod::tracks(name),
            Evaluator::Services => service::tracks(name),
            Evaluator::Claims => claim::tracks(name),
            Evaluator::Devices => device::tracks(name),
            Evaluator::Count { name: own, alias } => {
                own == name || !alias.is_empty() && *alias == name
            }
        }
    }

    /// What an object counts for.
    ///
    /// # Errors
    /// When it has not the form of its kind.
    pub fn measure(&self, object: &Value) -> Result<Measured, serde_json::Error> {
        Ok(match self {
            Evaluator::Pods => pod::Pod::deserialize(object)?.measure(),
            Evaluator::Services => service::Service::deserialize(object)?.measure(),
            Evaluator::Claims => claim::Claim::deserialize(object)?.measure(),
            Evaluator::Devices => device::ResourceClaim::deserialize(object)?.measure(),
            Evaluator::Count { .. } => self.one(),
        })
    }

    /// What an object counts for of which nothing is known but that it is there.
    pub fn one(&self) -> Measured {
        let names: Vec<&str> = match self {
            Evaluator::Count { name, alias } => vec![name, alias],
            _ => Vec::new(),
        };
        let names = names.into_iter().filter(|n| !n.is_empty());
        Measured {
            stored: names.map(|n| (n.to_owned(), count(1))).collect(),
            ..Measured::default()
        }
    }
}

/// The resources, as group and plural, whose objects count for what a quota names.
pub fn counted_by(name: &str) -> Vec<(String, String)> {
    let owned = |group: &str, resource: &str| (group.to_owned(), resource.to_owned());
    if let Some(resource) = name.strip_prefix("count/") {
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        return match Evaluator::of(group, resource) {
            Some(e) if e.tracks(name) => vec![owned(group, resource)],
            _ => Vec::new(),
        };
    }
    if ALIASES.contains(&name) {
        return vec![owned("", name)];
    }
    let measured = MEASURED.iter().filter(|(_, _, e)| e.tracks(name));
    measured.map(|(g, r, _)| owned(g, r)).collect()
}

/// A ResourceQuota.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Quota {
    /// Metadata.
    #[serde(deserialize_with = "nullable")]
    pub metadata: Name,
    /// What is wanted.
    #[serde(deserialize_with = "nullable")]
    pub spec: QuotaSpec,
    /// What is counted.
    #[serde(deserialize_with = "nullable")]
    pub status: QuotaStatus,
}

/// Of a quota's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Name {
    /// Name.
    pub name: String,
}

/// `ResourceQuotaSpec`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QuotaSpec {
    /// Limits by name.
    #[serde(deserialize_with = "nullable")]
    pub hard: Texts,
    /// Scopes that objects must have.
    #[serde(deserialize_with = "nullable")]
    pub scopes: Vec<String>,
    /// Scopes with values.
    #[serde(deserialize_with = "nullable")]
    pub scope_selector: ScopeSelector,
}

/// `ScopeSelector`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ScopeSelector {
    /// All must hold.
    #[serde(deserialize_with = "nullable")]
    pub match_expressions: Vec<scope::Requirement>,
}

/// `ResourceQuotaStatus`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct QuotaStatus {
    /// The limits in force.
    #[serde(deserialize_with = "nullable")]
    pub hard: Texts,
    /// What is used of them.
    #[serde(deserialize_with = "nullable")]
    pub used: Texts,
}

impl Quota {
    /// All its scopes.
    pub fn scopes(&self) -> Vec<Test> {
        let plain = self.spec.scopes.iter().map(|s| Test::exists(s));
        let selected = self.spec.scope_selector.match_expressions.iter();
        plain.chain(selected.map(Test::new)).collect()
    }
}

/// What the objects that an evaluator measured use of the named resources, under scopes. A scope that cannot be evaluated
/// holds for nothing.
pub fn usage<'a>(
    objects: impl IntoIterator<Item = &'a Measured>,
    names: &BTreeSet<&str>,
    scopes: &[Test],
    now: i64,
) -> Amounts {
    let mut used: Amounts = names.iter().map(|n| ((*n).to_owned(), count(0))).collect();
    for object in objects {
        let matches = scopes.iter().try_fold(true, |all, s| {
            Ok::<_, &str>(s.matches(&object.scope)? && all)
        });
        if matches != Ok(true) {
            continue;
        }
        let alive = object.is_alive(now).then_some(&object.alive);
        for (name, q) in object.stored.iter().chain(alive.into_iter().flatten()) {
            if let Some(sum) = used.get_mut(name) {
                *sum += *q;
            }
        }
    }
    used
}

#[cfg(test)]
mod tests;
