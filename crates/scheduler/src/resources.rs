//! Amounts of resources: what pods ask for and nodes have.
//!
//! CPU is counted in milli-cores, everything else in whole units (bytes, items), each rounded up as upstream's
//! `Quantity.MilliValue` and `Value` do.

use std::collections::BTreeMap;

use wire::quantity::Quantity;

use crate::view::{Container, PodSpec};

/// What scoring assumes for a container that requests no CPU, in milli-cores.
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// What scoring assumes for a container that requests no memory, in bytes.
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// An amount per resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Milli-cores.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral: i64,
    /// The number of pods (allocatable only).
    pub pods: i64,
    /// Extended resources and hugepages by name.
    pub scalars: BTreeMap<String, i64>,
}

fn whole(q: &str) -> i64 {
    Quantity::parse(q).map(|q| q.value()).unwrap_or(0)
}

fn milli(q: &str) -> i64 {
    Quantity::parse(q).map(|q| q.milli_value()).unwrap_or(0)
}

impl Amounts {
    /// From a ResourceList. Quantities that do not parse count as zero: the apiserver lets none through.
    pub fn from_list(list: &BTreeMap<String, String>) -> Amounts {
        let mut out = Amounts::default();
        for (name, q) in list {
            match name.as_str() {
                "cpu" => out.cpu = milli(q),
                "memory" => out.memory = whole(q),
                "ephemeral-storage" => out.ephemeral = whole(q),
                "pods" => out.pods = whole(q),
                _ => {
                    out.scalars.insert(name.clone(), whole(q));
                }
            }
        }
        out
    }

    /// Adds another amount.
    pub fn add(&mut self, other: &Amounts) {
        self.cpu = self.cpu.saturating_add(other.cpu);
        self.memory = self.memory.saturating_add(other.memory);
        self.ephemeral = self.ephemeral.saturating_add(other.ephemeral);
        for (k, v) in &other.scalars {
            let e = self.scalars.entry(k.clone()).or_default();
            *e = e.saturating_add(*v);
        }
    }

    /// Raises each amount to at least the other's.
    pub fn max(&mut self, other: &Amounts) {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral = self.ephemeral.max(other.ephemeral);
        for (k, v) in &other.scalars {
            let e = self.scalars.entry(k.clone()).or_default();
            *e = (*e).max(*v);
        }
    }
}

fn container(c: &Container, non_zero: bool) -> Amounts {
    let empty = BTreeMap::new();
    let list = c.resources.as_ref().map_or(&empty, |r| &r.requests);
    let mut a = Amounts::from_list(list);
    if non_zero {
        if !list.contains_key("cpu") {
            a.cpu = DEFAULT_MILLI_CPU;
        }
        if !list.contains_key("memory") {
            a.memory = DEFAULT_MEMORY;
        }
    }
    a
}

/// What a pod requests: the larger of its running containers together and its greediest init step (sidecars started
/// before a step count with it, KEP-753), pod-level resources over both (KEP-2837), plus overhead. With `non_zero`,
/// containers without CPU or memory requests count with the scoring defaults.
pub fn pod_requests(spec: &PodSpec, non_zero: bool) -> Amounts {
    let mut running = Amounts::default();
    for c in &spec.containers {
        running.add(&container(c, non_zero));
    }
    let mut sidecars = Amounts::default();
    let mut init = Amounts::default();
    for c in &spec.init_containers {
        let own = container(c, non_zero);
        if c.restart_policy.as_deref() == Some("Always") {
            running.add(&own);
            sidecars.add(&own);
            init.max(&sidecars);
        } else {
            let mut step = sidecars.clone();
            step.add(&own);
            init.max(&step);
        }
    }
    running.max(&init);
    if let Some(pod) = &spec.resources {
        let level = Amounts::from_list(&pod.requests);
        if pod.requests.contains_key("cpu") {
            running.cpu = level.cpu;
        }
        if pod.requests.contains_key("memory") {
            running.memory = level.memory;
        }
        for (k, v) in level.scalars {
            running.scalars.insert(k, v);
        }
    }
    running.add(&Amounts::from_list(&spec.overhead));
    running.pods = 0;
    running
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Resources;

    fn c(cpu: &str, memory: &str, sidecar: bool) -> Container {
        let mut requests = BTreeMap::new();
        if !cpu.is_empty() {
            requests.insert("cpu".to_owned(), cpu.to_owned());
        }
        if !memory.is_empty() {
            requests.insert("memory".to_owned(), memory.to_owned());
        }
        Container {
            resources: Some(Resources { requests }),
            restart_policy: sidecar.then(|| "Always".to_owned()),
            ..Container::default()
        }
    }

    #[test]
    fn init_steps_and_sidecars() {
        let spec = PodSpec {
            containers: vec![c("100m", "1Gi", false), c("1", "", false)],
            init_containers: vec![c("2", "", false), c("500m", "", true), c("1", "3Gi", false)],
            ..PodSpec::default()
        };
        // Running: 100m + 1000m + sidecar 500m = 1600m; steps: 2000m, 500m, 500m + 1000m.
        let a = pod_requests(&spec, false);
        assert_eq!((a.cpu, a.memory), (2000, 3 << 30));
    }

    #[test]
    fn scoring_defaults_fill_what_is_missing() {
        let spec = PodSpec {
            containers: vec![c("", "", false), c("1", "", false)],
            ..PodSpec::default()
        };
        let a = pod_requests(&spec, true);
        assert_eq!((a.cpu, a.memory), (1100, 2 * DEFAULT_MEMORY));
        assert_eq!(pod_requests(&spec, false).memory, 0);
    }
}
