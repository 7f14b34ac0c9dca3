//! What a pod asks of the node: requests, limits, QoS class, and the kernel values that follow from them.

use std::collections::BTreeMap;

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
    let one = |c| BTreeMap::from([("", of(c))]);
    totals(pod, one).remove("").unwrap_or_default()
}

/// Sums by name: containers and sidecars together, or the largest init step beside the sidecars before it. Each amount is
/// looked at once, since a pod may have thousands of containers which each ask for something else.
fn totals<'a>(
    pod: &'a Pod,
    of: impl Fn(&'a Container) -> BTreeMap<&'a str, Quantity>,
) -> BTreeMap<&'a str, Quantity> {
    let mut sum: BTreeMap<&str, Quantity> = BTreeMap::new();
    let add = |sum: &mut BTreeMap<&'a str, Quantity>, name, q| {
        let all = sum.entry(name).or_default();
        *all = *all + q;
    };
    for c in &pod.spec.containers {
        for (name, q) in of(c) {
            add(&mut sum, name, q);
        }
    }
    let mut sidecars: BTreeMap<&str, Quantity> = BTreeMap::new();
    let mut init: BTreeMap<&str, Quantity> = BTreeMap::new();
    for c in &pod.spec.init_containers {
        for (name, q) in of(c) {
            let step = sidecars.get(name).copied().unwrap_or_default() + q;
            let most = init.entry(name).or_default();
            *most = (*most).max(step);
            if c.is_sidecar() {
                sidecars.insert(name, step);
                add(&mut sum, name, q);
            }
        }
    }
    for (name, q) in init {
        let all = sum.entry(name).or_default();
        *all = (*all).max(q);
    }
    sum
}

fn limits_of(c: &Container) -> BTreeMap<&str, Quantity> {
    parsed(&c.resources.limits).collect()
}

/// The limit stands in where only that is given.
fn requests_of(c: &Container) -> BTreeMap<&str, Quantity> {
    let limits = parsed(&c.resources.limits);
    limits.chain(parsed(&c.resources.requests)).collect()
}

fn parsed(map: &Map) -> impl Iterator<Item = (&str, Quantity)> {
    map.iter()
        .filter_map(|(name, q)| Some((name.as_str(), Quantity::parse(q)?)))
}

/// [`pod_request`] of every resource that is named.
pub fn pod_requests(pod: &Pod) -> BTreeMap<&str, Quantity> {
    let mut all = totals(pod, requests_of);
    if let Some(r) = &pod.spec.resources {
        all.extend(parsed(&r.limits).chain(parsed(&r.requests)));
    }
    for (name, q) in parsed(&pod.spec.overhead) {
        let sum = all.entry(name).or_default();
        *sum = *sum + q;
    }
    all
}

/// [`pod_limit`] of every resource that has one.
pub fn pod_limits(pod: &Pod) -> BTreeMap<&str, Quantity> {
    let mut limited: BTreeMap<&str, usize> = BTreeMap::new();
    let containers = || pod.spec.init_containers.iter().chain(&pod.spec.containers);
    for (name, _) in containers().flat_map(limits_of).filter(|(_, q)| q.0 > 0) {
        *limited.entry(name).or_default() += 1;
    }
    let count = containers().count();
    let mut all = totals(pod, limits_of);
    all.retain(|name, _| limited.get(name) == Some(&count));
    all.extend(pod.spec.resources.iter().flat_map(|r| parsed(&r.limits)));
    for (name, q) in parsed(&pod.spec.overhead) {
        if let Some(sum) = all.get_mut(name) {
            *sum = *sum + q;
        }
    }
    all
}

/// The huge pages in some lists of a pod and its containers: the size of the pages and the amount, in bytes.
pub fn huge_pages(
    pod: &Pod,
    list: fn(&super::Resources) -> &Map,
) -> impl Iterator<Item = (i64, i64)> {
    let containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
    let all = pod
        .spec
        .resources
        .iter()
        .chain(containers.map(|c| &c.resources));
    all.flat_map(move |r| parsed(list(r)))
        .filter_map(|(name, q)| Some((page_of(name)?, q.value())))
}

/// The bytes of a page by the resource's name.
fn page_of(resource: &str) -> Option<i64> {
    let size = resource.strip_prefix("hugepages-")?;
    Quantity::parse(size).map(Quantity::value)
}

/// How many bytes of huge pages a pod may use, by the size of the pages.
pub fn huge_page_limits(pod: &Pod) -> BTreeMap<i64, i64> {
    let mut all = totals(pod, limits_of);
    all.extend(pod.spec.resources.iter().flat_map(|r| parsed(&r.limits)));
    all.into_iter()
        .filter_map(|(name, q)| Some((page_of(name)?, q.value())))
        .collect()
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

    /// Nothing quadratic: all names at once come to what each does alone, and thousands of them cost no more than their sum.
    #[test]
    fn many_containers_of_many_resources() {
        let mut p = pod(r#""initContainers":[
                {"name":"s","restartPolicy":"Always","resources":{"requests":{"x/0":"1","x/1":"2"},"limits":{"x/1":"2"}}},
                {"name":"i","resources":{"requests":{"x/0":"9"},"limits":{"x/1":"7","x/2":"3"}}}],
               "containers":[{"name":"c","resources":{"requests":{"x/0":"3"},"limits":{"x/1":"4","hugepages-2Mi":"4Mi"}}}],
               "overhead":{"x/1":"5","x/3":"1"}"#);
        let (requests, limits) = (pod_requests(&p), pod_limits(&p));
        for name in ["x/0", "x/1", "x/2", "x/3", "hugepages-2Mi"] {
            let sum = requests.get(name).copied().unwrap_or_default();
            assert_eq!(sum, pod_request(&p, name), "{name}");
            assert_eq!(limits.get(name).copied(), pod_limit(&p, name), "{name}");
        }
        assert_eq!(huge_page_limits(&p), BTreeMap::from([(2 << 20, 4 << 20)]));
        let one = p.spec.containers[0].clone();
        p.spec.init_containers = (0..20_000)
            .map(|i| {
                let mut c = one.clone();
                c.restart_policy = Some("Always".into());
                c.resources.requests = [(format!("y/{i}"), "1".to_string())].into();
                c
            })
            .collect();
        assert_eq!(pod_requests(&p).len(), 20_000 + 4);
    }
}
