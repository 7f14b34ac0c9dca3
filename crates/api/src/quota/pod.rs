//! What a pod counts for: as long as it is stored, one of `count/pods`; as long as it lives, one of `pods` and what it requests
//! and is limited to.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;

use super::scope::Scope;
use super::{
    Amounts, Countable, Identity, Life, Measured, Meta, add, amounts, count, nullable, raise,
};
use crate::quantity::Quantity;
use crate::validate;

const COUNT: &str = "count/pods";
const HUGE_PAGES: &str = "hugepages-";
const REQUESTS: &str = "requests.";
/// Stands before the name of a device class where that is requested as a resource.
const DEVICE_CLASS: &str = "deviceclass.resource.kubernetes.io/";

/// What is counted by fixed names.
const RESOURCES: [&str; 11] = [
    COUNT,
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];

/// What each container must name when a quota does. There will be no more: it is kept for who relies on it.
const REQUIRED: [&str; 6] = [
    "cpu",
    "limits.cpu",
    "limits.memory",
    "memory",
    "requests.cpu",
    "requests.memory",
];

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a resource is one of devices or the like, which quotas name `requests.NAME`.
fn is_extended(name: &str) -> bool {
    let extended = !is_native(name)
        && !name.starts_with(REQUESTS)
        && validate::qualified_name(&format!("{REQUESTS}{name}")).is_empty();
    extended || name.starts_with(DEVICE_CLASS)
}

/// Whether pods count for what a quota names.
pub fn tracks(name: &str) -> bool {
    let asked = name.strip_prefix(REQUESTS);
    RESOURCES.contains(&name)
        || name.starts_with(HUGE_PAGES)
        || asked.is_some_and(|n| {
            n.starts_with(HUGE_PAGES) || n.starts_with(DEVICE_CLASS) || !is_native(name)
        })
}

/// The fields that matter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    #[serde(deserialize_with = "nullable")]
    metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    spec: Spec,
    #[serde(deserialize_with = "nullable")]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(deserialize_with = "nullable")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    init_containers: Vec<Container>,
    #[serde(deserialize_with = "amounts")]
    overhead: Amounts,
    #[serde(deserialize_with = "nullable")]
    resources: Resources,
    active_deadline_seconds: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    priority_class_name: String,
    #[serde(deserialize_with = "nullable")]
    affinity: Affinity,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    resources: Resources,
    #[serde(deserialize_with = "nullable")]
    restart_policy: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Resources {
    #[serde(deserialize_with = "amounts")]
    requests: Amounts,
    #[serde(deserialize_with = "amounts")]
    limits: Amounts,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Affinity {
    #[serde(deserialize_with = "nullable")]
    pod_affinity: Terms,
    #[serde(deserialize_with = "nullable")]
    pod_anti_affinity: Terms,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Terms {
    #[serde(deserialize_with = "nullable")]
    required_during_scheduling_ignored_during_execution: Vec<Term>,
    #[serde(deserialize_with = "nullable")]
    preferred_during_scheduling_ignored_during_execution: Vec<Weighted>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Weighted {
    #[serde(deserialize_with = "nullable")]
    pod_affinity_term: Term,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Term {
    #[serde(deserialize_with = "nullable")]
    namespaces: Vec<String>,
    /// One that is empty selects all namespaces.
    namespace_selector: Option<serde::de::IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    #[serde(deserialize_with = "nullable")]
    phase: String,
    #[serde(deserialize_with = "nullable")]
    qos_class: String,
    #[serde(deserialize_with = "nullable")]
    conditions: Vec<Condition>,
    #[serde(deserialize_with = "nullable")]
    container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "nullable")]
    init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type", deserialize_with = "nullable")]
    kind: String,
    #[serde(deserialize_with = "nullable")]
    reason: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerStatus {
    #[serde(deserialize_with = "nullable")]
    name: String,
    resources: Option<Resources>,
    #[serde(deserialize_with = "amounts")]
    allocated_resources: Amounts,
}

/// Requests or limits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Requests,
    Limits,
}

impl Resources {
    fn side(&self, side: Side) -> &Amounts {
        match side {
            Side::Requests => &self.requests,
            Side::Limits => &self.limits,
        }
    }
}

impl Container {
    fn is_sidecar(&self) -> bool {
        self.restart_policy == "Always"
    }
}

/// What a pod can ask for as a whole.
fn is_for_pods(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with(HUGE_PAGES)
}

impl Terms {
    fn cross_namespaces(&self) -> bool {
        let preferred = &self.preferred_during_scheduling_ignored_during_execution;
        self.required_during_scheduling_ignored_during_execution
            .iter()
            .chain(preferred.iter().map(|w| &w.pod_affinity_term))
            .any(|t| !t.namespaces.is_empty() || t.namespace_selector.is_some())
    }
}

impl Pod {
    /// Whether it has a deadline.
    pub fn is_terminating(&self) -> bool {
        self.spec.active_deadline_seconds.is_some_and(|s| s >= 0)
    }

    /// Whether the pod as a whole asks for something.
    fn has_own_resources(&self) -> bool {
        let own = &self.spec.resources;
        let mut names = own.requests.keys().chain(own.limits.keys());
        names.any(|n| is_for_pods(n))
    }

    fn is_best_effort(&self) -> bool {
        if !self.status.qos_class.is_empty() {
            return self.status.qos_class == "BestEffort";
        }
        let none = |r: &Resources| {
            let all = r.requests.iter().chain(&r.limits);
            let mut computing = all.filter(|(n, _)| *n == "cpu" || *n == "memory");
            computing.all(|(_, q)| q.is_zero())
        };
        let (spec, own) = (&self.spec, &self.spec.resources);
        if !own.requests.is_empty() || !own.limits.is_empty() {
            return none(own);
        }
        let mut containers = spec.containers.iter().chain(&spec.init_containers);
        containers.all(|c| none(&c.resources))
    }

    fn life(&self) -> Life {
        if self.status.phase == "Failed" || self.status.phase == "Succeeded" {
            return Life::Ended;
        }
        let ends = self.metadata.deletion_timestamp.as_deref();
        let ends = ends.and_then(crate::time::seconds);
        match (ends, self.metadata.deletion_grace_period_seconds) {
            (Some(ends), Some(grace)) => Life::Until(ends.saturating_add(grace)),
            _ => Life::Stored,
        }
    }

    /// What a container asks for: while it is resized, the most of what is wanted, set aside and in force; when that cannot
    /// be, what is set aside and in force.
    fn of_container(&self, c: &Container, status: Option<&ContainerStatus>, side: Side) -> Amounts {
        let wanted = c.resources.side(side);
        let Some((status, actual)) = status.and_then(|s| Some((s, s.resources.as_ref()?))) else {
            return wanted.clone();
        };
        let mut conditions = self.status.conditions.iter();
        let infeasible =
            conditions.any(|c| c.kind == "PodResizePending" && c.reason == "Infeasible");
        let mut out = actual.side(side).clone();
        if side == Side::Requests {
            raise(&mut out, &status.allocated_resources);
        }
        if !infeasible {
            raise(&mut out, wanted);
        }
        out
    }

    /// What the pod asks for: its containers and sidecars together, or its greediest init container with the sidecars
    /// before it; what it says for itself counts instead; overhead on top, for limits where there are any.
    fn effective(&self, side: Side) -> Amounts {
        let statuses = self.status.container_statuses.iter();
        let statuses: HashMap<&str, &ContainerStatus> = statuses
            .chain(&self.status.init_container_statuses)
            .map(|s| (s.name.as_str(), s))
            .collect();
        let mut sum = Amounts::new();
        for c in &self.spec.containers {
            let status = statuses.get(c.name.as_str()).copied();
            add(&mut sum, &self.of_container(c, status, side));
        }
        let (mut sidecars, mut init) = (Amounts::new(), Amounts::new());
        for c in &self.spec.init_containers {
            let status = statuses.get(c.name.as_str()).copied();
            let status = status.filter(|_| c.is_sidecar());
            let own = self.of_container(c, status, side);
            // What only the sidecars before it ask for was looked at when they came.
            let mut here = own.clone();
            for (name, q) in &mut here {
                if let Some(before) = sidecars.get(name) {
                    *q = *before + *q;
                }
            }
            if c.is_sidecar() {
                add(&mut sum, &own);
                sidecars.extend(here.clone());
            }
            raise(&mut init, &here);
        }
        raise(&mut sum, &init);
        for (name, q) in self.spec.resources.side(side) {
            if is_for_pods(name) {
                sum.insert(name.clone(), *q);
            }
        }
        match side {
            Side::Requests => add(&mut sum, &self.spec.overhead),
            Side::Limits => {
                for (name, q) in &self.spec.overhead {
                    if let Some(limit) = sum.get_mut(name) {
                        *limit += *q;
                    }
                }
            }
        }
        sum
    }

    /// Which containers say nothing of what quotas want said.
    pub fn silent(&self) -> Silent {
        if self.has_own_resources() {
            return Silent::default();
        }
        let spec = &self.spec;
        let containers = spec.containers.iter().chain(&spec.init_containers);
        let says = |c: &Container, name: &str| {
            let (requests, limits) = (&c.resources.requests, &c.resources.limits);
            match name.strip_prefix("limits.") {
                Some(limit) => limits.contains_key(limit),
                None => requests.contains_key(name.strip_prefix(REQUESTS).unwrap_or(name)),
            }
        };
        let mut out = BTreeMap::new();
        for c in containers {
            for name in REQUIRED.into_iter().filter(|n| !says(c, n)) {
                let names: &mut BTreeSet<String> = out.entry(name).or_default();
                names.insert(c.name.clone());
            }
        }
        Silent(out)
    }
}

/// By what quotas want said, the containers that do not say it.
#[derive(Clone, Debug, Default)]
pub struct Silent(BTreeMap<&'static str, BTreeSet<String>>);

impl Silent {
    /// What must be said more for a quota that names these resources.
    pub fn missing<'a>(&self, named: impl Iterator<Item = &'a str>) -> Option<String> {
        let wanted: BTreeSet<&str> = named.filter(|n| self.0.contains_key(n)).collect();
        let each = wanted.iter().filter_map(|n| {
            let containers: Vec<&str> = self.0.get(n)?.iter().map(String::as_str).collect();
            Some(format!("{n} for: {}", containers.join(",")))
        });
        let each: Vec<String> = each.collect();
        (!each.is_empty()).then(|| format!("must specify {}", each.join("; ")))
    }
}

/// The names under which requests and limits are counted.
fn computing(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut out = Amounts::from([("pods".to_owned(), count(1))]);
    let mut put = |name: String, q: &Quantity| {
        out.insert(name, *q);
    };
    for (name, q) in requests {
        match name.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => put(name.clone(), q),
            n if n.starts_with(HUGE_PAGES) => put(name.clone(), q),
            n if is_extended(n) => {}
            _ => continue,
        }
        put(format!("{REQUESTS}{name}"), q);
    }
    for (name, q) in limits {
        if let "cpu" | "memory" | "ephemeral-storage" = name.as_str() {
            put(format!("limits.{name}"), q);
        }
    }
    out
}

impl Countable for Pod {
    fn identity(&self) -> Identity {
        self.metadata.identity()
    }

    fn measure(&self) -> Measured {
        let life = self.life();
        let alive = if life == Life::Ended {
            Amounts::new()
        } else {
            computing(
                &self.effective(Side::Requests),
                &self.effective(Side::Limits),
            )
        };
        let affinity = &self.spec.affinity;
        Measured {
            stored: Amounts::from([(COUNT.to_owned(), count(1))]),
            alive,
            life,
            scope: Scope::Pod {
                terminating: self.is_terminating(),
                best_effort: self.is_best_effort(),
                priority_class: self.spec.priority_class_name.clone(),
                cross_namespace: affinity.pod_affinity.cross_namespaces()
                    || affinity.pod_anti_affinity.cross_namespaces(),
            },
        }
    }
}
