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

    /// These amounts together with those of the same names in `before`.
    fn on_top_of(&self, before: &Amounts) -> Amounts {
        let scalars = self.scalars.iter().map(|(name, own)| {
            let below = before.scalars.get(name).copied().unwrap_or_default();
            (name.clone(), own.saturating_add(below))
        });
        Amounts {
            cpu: self.cpu.saturating_add(before.cpu),
            memory: self.memory.saturating_add(before.memory),
            ephemeral: self.ephemeral.saturating_add(before.ephemeral),
            pods: self.pods,
            scalars: scalars.collect(),
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
        // What only the sidecars before it ask for was looked at when they came: there may be thousands, each with a name
        // of its own.
        init.max(&own.on_top_of(&sidecars));
        if c.restart_policy.as_deref() == Some("Always") {
            running.add(&own);
            sidecars.add(&own);
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

    /// Nothing quadratic: each sidecar asks for something else.
    #[test]
    fn many_sidecars_of_many_resources() {
        const MANY: i64 = 30_000;
        let own = |i: i64| {
            let requests = [(format!("x/{i}"), (i + 1).to_string())].into();
            Container {
                resources: Some(Resources { requests }),
                restart_policy: Some("Always".to_owned()),
                ..Container::default()
            }
        };
        let mut spec = PodSpec {
            init_containers: (0..MANY).map(own).collect(),
            ..PodSpec::default()
        };
        spec.init_containers.push(own(7));
        spec.init_containers.push(Container {
            restart_policy: None,
            ..own(9)
        });
        let a = pod_requests(&spec, false);
        assert_eq!(a.scalars.len(), MANY as usize);
        assert_eq!((a.scalars["x/7"], a.scalars["x/8"]), (16, 9));
        assert_eq!(a.scalars["x/9"], 20);
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
