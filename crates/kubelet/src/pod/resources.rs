//! What a pod asks of the node: requests, limits, QoS class, and the kernel values that follow from them.

use super::quantity::Quantity;
use super::{Container, Map, Pod};

/// Quality of service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Every container has equal requests and limits for cpu and memory.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None.
    BestEffort,
}

impl Qos {
    /// As in `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

fn get(map: &Map, name: &str) -> Option<Quantity> {
    map.get(name).and_then(|q| Quantity::parse(q))
}

/// A container's request: the limit stands in where only that is given.
pub fn request(c: &Container, name: &str) -> Option<Quantity> {
    get(&c.resources.requests, name).or_else(|| get(&c.resources.limits, name))
}

/// A container's limit.
pub fn limit(c: &Container, name: &str) -> Option<Quantity> {
    get(&c.resources.limits, name)
}

/// The QoS class of a pod.
pub fn qos(pod: &Pod) -> Qos {
    let mut any = false;
    let mut guaranteed = true;
    let containers: Vec<(&Map, &Map)> = match &pod.spec.resources {
        Some(r) if !r.requests.is_empty() || !r.limits.is_empty() => vec![(&r.requests, &r.limits)],
        _ => pod
            .spec
            .init_containers
            .iter()
            .chain(&pod.spec.containers)
            .map(|c| (&c.resources.requests, &c.resources.limits))
            .collect(),
    };
    for (requests, limits) in containers {
        for name in ["cpu", "memory"] {
            let l = get(limits, name).filter(|q| q.0 > 0);
            let r = get(requests, name).filter(|q| q.0 > 0);
            if l.is_some() || r.is_some() {
                any = true;
            }
            match (r.or(l), l) {
                (Some(r), Some(l)) if r == l => {}
                _ => guaranteed = false,
            }
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// Sum of a pod's requests for `name`: containers and sidecars together, or the largest init step, plus overhead.
pub fn pod_request(pod: &Pod, name: &str) -> Quantity {
    if let Some(q) = pod
        .spec
        .resources
        .as_ref()
        .and_then(|r| get(&r.requests, name).or_else(|| get(&r.limits, name)))
    {
        return q + get(&pod.spec.overhead, name).unwrap_or_default();
    }
    aggregate(pod, |c| request(c, name).unwrap_or_default())
        + get(&pod.spec.overhead, name).unwrap_or_default()
}

/// Sum of a pod's limits for `name`; `None` when some container has none.
pub fn pod_limit(pod: &Pod, name: &str) -> Option<Quantity> {
    if let Some(q) = pod
        .spec
        .resources
        .as_ref()
        .and_then(|r| get(&r.limits, name))
    {
        return Some(q + get(&pod.spec.overhead, name).unwrap_or_default());
    }
    if pod
        .spec
        .init_containers
        .iter()
        .chain(&pod.spec.containers)
        .any(|c| limit(c, name).is_none_or(|q| q.0 <= 0))
    {
        return None;
    }
    Some(
        aggregate(pod, |c| limit(c, name).unwrap_or_default())
            + get(&pod.spec.overhead, name).unwrap_or_default(),
    )
}

fn aggregate(pod: &Pod, of: impl Fn(&Container) -> Quantity) -> Quantity {
    let mut sum = pod
        .spec
        .containers
        .iter()
        .fold(Quantity::default(), |s, c| s + of(c));
    let mut sidecars = Quantity::default();
    let mut init = Quantity::default();
    for c in &pod.spec.init_containers {
        if c.is_sidecar() {
            sidecars = sidecars + of(c);
            init = init.max(sidecars);
        } else {
            init = init.max(sidecars + of(c));
        }
    }
    sum = sum + sidecars;
    sum.max(init)
}

/// Shares of the cgroup v1 cpu controller for a number of millicores (2..=262144).
pub fn milli_to_shares(milli: i64) -> i64 {
    if milli == 0 {
        2
    } else {
        (milli.saturating_mul(1024) / 1000).clamp(2, 262_144)
    }
}

/// CFS quota in microseconds per 100 ms for a number of millicores; zero for no limit, at least 1000.
pub fn milli_to_quota(milli: i64) -> i64 {
    if milli == 0 {
        0
    } else {
        milli.saturating_mul(100).max(1000)
    }
}

/// The OOM score adjustment of a container: -997 guaranteed or critical, 1000 best effort, else by its memory request.
///
/// Range of the middle case is 3..=999, so that it never reaches the two others (upstream's rule).
pub fn oom_score_adj(pod: &Pod, c: &Container, memory_capacity: i64) -> i64 {
    if pod.spec.priority.is_some_and(|p| p >= 2_000_001_000)
        || pod.is_static() && pod.spec.priority_class_name == "system-node-critical"
    {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = request(c, "memory").unwrap_or_default().value();
            let capacity = memory_capacity.max(1);
            let adj = 1000 - request.saturating_mul(1000) / capacity;
            if adj < 1000 - 997 {
                3
            } else if adj == 1000 {
                999
            } else {
                adj
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: &str) -> Pod {
        serde_json::from_str(&format!(r#"{{"spec":{{{containers}}}}}"#)).unwrap()
    }

    #[test]
    fn qos_classes() {
        let best = pod(r#""containers":[{"name":"a"}]"#);
        assert_eq!(qos(&best), Qos::BestEffort);
        let burst = pod(r#""containers":[{"name":"a","resources":{"requests":{"cpu":"1"}}}]"#);
        assert_eq!(qos(&burst), Qos::Burstable);
        let both =
            pod(r#""containers":[{"name":"a","resources":{"limits":{"cpu":"1","memory":"1Gi"}}}]"#);
        assert_eq!(qos(&both), Qos::Guaranteed);
        let mixed = pod(
            r#""containers":[{"name":"a","resources":{"limits":{"cpu":"1","memory":"1Gi"}}},{"name":"b"}]"#,
        );
        assert_eq!(qos(&mixed), Qos::Burstable);
    }

    #[test]
    fn requests_take_the_larger_of_init_and_main() {
        let p = pod(r#""initContainers":[
                {"name":"s","restartPolicy":"Always","resources":{"requests":{"cpu":"100m"}}},
                {"name":"i","resources":{"requests":{"cpu":"2"}}}],
               "containers":[{"name":"a","resources":{"requests":{"cpu":"1"}}}],"overhead":{"cpu":"50m"}"#);
        assert_eq!(pod_request(&p, "cpu").milli(), 2150);
        assert_eq!(pod_limit(&p, "cpu"), None);
    }

    #[test]
    fn kernel_values() {
        assert_eq!(milli_to_shares(0), 2);
        assert_eq!(milli_to_shares(100), 102);
        assert_eq!(milli_to_shares(2000), 2048);
        assert_eq!(milli_to_quota(0), 0);
        assert_eq!(milli_to_quota(5), 1000);
        assert_eq!(milli_to_quota(1500), 150_000);
        let p = pod(r#""containers":[{"name":"a","resources":{"requests":{"memory":"4Gi"}}}]"#);
        let c = &p.spec.containers[0];
        assert_eq!(oom_score_adj(&p, c, 16 << 30), 750);
        assert_eq!(oom_score_adj(&p, c, 4 << 30), 3);
        let p = pod(r#""containers":[{"name":"a","resources":{"requests":{"cpu":"1"}}}]"#);
        assert_eq!(oom_score_adj(&p, &p.spec.containers[0], 16 << 30), 999);
    }
}
