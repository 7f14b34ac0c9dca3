//! Whether a pod bound to this node may run here: the scheduler's node checks once more, against what runs now. Pure.
//!
//! Reasons and messages are upstream's. Absent on purpose: preemption by critical pods; they are admitted by the same
//! rules as others.

use crate::node::NodeView;
use crate::pod::quantity::Quantity;
use crate::pod::{Map, Pod, Requirement, resources};

/// Why a pod is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `OutOfcpu`, `NodeAffinity`, ….
    pub reason: String,
    /// Details.
    pub message: String,
}

fn predicate(name: &str, why: &str) -> Refusal {
    Refusal {
        reason: name.into(),
        message: format!("Predicate {name} failed: {why}"),
    }
}

/// Decides on `pod`, given the active `others`, the node and what it can allocate.
pub fn admit(
    pod: &Pod,
    others: &[std::sync::Arc<Pod>],
    node: Option<&NodeView>,
    node_name: &str,
    allocatable: &Map,
) -> Result<(), Refusal> {
    if pod.spec.os.as_ref().is_some_and(|o| o.name != "linux") {
        return Err(Refusal {
            reason: "PodOSNotSupported".into(),
            message: "Failed to admit pod as the OS field doesn't match node OS".into(),
        });
    }
    if pod
        .metadata
        .labels
        .get("kubernetes.io/os")
        .is_some_and(|o| o != "linux")
    {
        return Err(Refusal {
            reason: "PodOSSelectorNodeLabelDoesNotMatch".into(),
            message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"
                .into(),
        });
    }
    fits(pod, others, allocatable)?;
    if let Some(node) = node
        && !matches_node(pod, &node.metadata.labels, node_name)
    {
        return Err(predicate(
            "NodeAffinity",
            "node(s) didn't match Pod's node affinity/selector",
        ));
    }
    if !pod.spec.node_name.is_empty() && pod.spec.node_name != node_name {
        return Err(predicate(
            "NodeName",
            "node(s) didn't match the requested node name",
        ));
    }
    if ports_conflict(pod, others) {
        return Err(predicate(
            "NodePorts",
            "node(s) didn't have free ports for the requested pod ports",
        ));
    }
    if !pod.is_static()
        && let Some(taints) = node.and_then(|n| n.spec.taints.as_ref())
        && taints
            .iter()
            .any(|t| t.effect == "NoExecute" && !tolerates(pod, t))
    {
        return Err(predicate(
            "TaintToleration",
            "node(s) had taints that the pod didn't tolerate",
        ));
    }
    Ok(())
}

fn fits(pod: &Pod, others: &[std::sync::Arc<Pod>], allocatable: &Map) -> Result<(), Refusal> {
    let of = |name: &str| {
        allocatable
            .get(name)
            .and_then(|q| Quantity::parse(q))
            .unwrap_or_default()
    };
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    let out = |name: &str, requested: i64, used: i64, capacity: i64| Refusal {
        reason: format!("OutOf{name}"),
        message: format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    };
    if count + 1 > of("pods").value() {
        return Err(out("pods", 1, count, of("pods").value()));
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        let number = |q: Quantity| if name == "cpu" { q.milli() } else { q.value() };
        let requested = number(resources::pod_request(pod, name));
        if requested == 0 {
            continue;
        }
        let used = others.iter().fold(0i64, |s, p| {
            s.saturating_add(number(resources::pod_request(p, name)))
        });
        let capacity = number(of(name));
        if requested > capacity.saturating_sub(used) {
            return Err(out(name, requested, used, capacity));
        }
    }
    Ok(())
}

fn requirement(r: &Requirement, value: Option<&String>) -> bool {
    let number = |s: &str| s.parse::<i64>().ok();
    match r.operator.as_str() {
        "In" => value.is_some_and(|v| r.values.contains(v)),
        "NotIn" => value.is_none_or(|v| !r.values.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" | "Lt" => match (
            value.and_then(|v| number(v)),
            r.values.first().and_then(|v| number(v)),
        ) {
            (Some(a), Some(b)) => (r.operator == "Gt" && a > b) || (r.operator == "Lt" && a < b),
            _ => false,
        },
        _ => false,
    }
}

fn matches_node(pod: &Pod, labels: &Map, name: &str) -> bool {
    if pod
        .spec
        .node_selector
        .iter()
        .any(|(k, v)| labels.get(k) != Some(v))
    {
        return false;
    }
    let affinity = pod
        .spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|a| {
        a.required_during_scheduling_ignored_during_execution
            .as_ref()
    }) else {
        return true;
    };
    let name = name.to_string();
    required.node_selector_terms.iter().any(|t| {
        !(t.match_expressions.is_empty() && t.match_fields.is_empty())
            && t.match_expressions
                .iter()
                .all(|r| requirement(r, labels.get(&r.key)))
            && t.match_fields
                .iter()
                .all(|r| requirement(r, (r.key == "metadata.name").then_some(&name)))
    })
}

fn host_ports(pod: &Pod) -> Vec<(String, String, i32)> {
    pod.spec
        .containers
        .iter()
        .chain(pod.spec.init_containers.iter().filter(|c| c.is_sidecar()))
        .flat_map(|c| &c.ports)
        .map(|p| {
            let port = if pod.spec.host_network && p.host_port == 0 {
                p.container_port
            } else {
                p.host_port
            };
            let ip = if p.host_ip.is_empty() {
                "0.0.0.0"
            } else {
                &p.host_ip
            };
            let protocol = if p.protocol.is_empty() {
                "TCP"
            } else {
                &p.protocol
            };
            (ip.to_string(), protocol.to_string(), port)
        })
        .filter(|p| p.2 > 0)
        .collect()
}

fn ports_conflict(pod: &Pod, others: &[std::sync::Arc<Pod>]) -> bool {
    let mine = host_ports(pod);
    if mine.is_empty() {
        return false;
    }
    let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
    others.iter().flat_map(|p| host_ports(p)).any(|o| {
        mine.iter()
            .any(|m| m.1 == o.1 && m.2 == o.2 && (m.0 == o.0 || any(&m.0) || any(&o.0)))
    })
}

fn tolerates(pod: &Pod, taint: &crate::config::Taint) -> bool {
    pod.spec.tolerations.iter().any(|t| {
        (t.effect.is_empty() || t.effect == taint.effect)
            && (t.key.is_empty() && t.operator == "Exists" || t.key == taint.key)
            && (t.operator == "Exists" || t.value == taint.value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn pod(spec: &str) -> Pod {
        serde_json::from_str(&format!(r#"{{"metadata":{{"name":"p"}},"spec":{spec}}}"#)).unwrap()
    }

    fn check(spec: &str, others: &[&str], node: &str) -> Result<(), Refusal> {
        let node: NodeView = serde_json::from_str(node).unwrap();
        let others: Vec<Arc<Pod>> = others.iter().map(|o| Arc::new(pod(o))).collect();
        let allocatable = Map::from([
            ("cpu".into(), "2".into()),
            ("memory".into(), "1Gi".into()),
            ("pods".into(), "3".into()),
        ]);
        admit(&pod(spec), &others, Some(&node), "n", &allocatable)
    }

    #[test]
    fn what_does_not_fit_is_refused_in_upstreams_words() {
        let big = r#"{"containers":[{"name":"a","resources":{"requests":{"cpu":"1500m"}}}]}"#;
        assert_eq!(check(big, &[], "{}"), Ok(()));
        let e = check(big, &[big], "{}").unwrap_err();
        assert_eq!(e.reason, "OutOfcpu");
        assert_eq!(
            e.message,
            "Node didn't have enough resource: cpu, requested: 1500, used: 1500, capacity: 2000"
        );
        assert_eq!(
            check("{}", &["{}", "{}", "{}"], "{}").unwrap_err().reason,
            "OutOfpods"
        );
        let e = check(
            r#"{"containers":[{"name":"a","resources":{"requests":{"memory":"2Gi"}}}]}"#,
            &[],
            "{}",
        )
        .unwrap_err();
        assert_eq!(e.reason, "OutOfmemory");
    }

    #[test]
    fn selector_affinity_ports_and_taints() {
        let node = r#"{"metadata":{"name":"n","labels":{"disk":"ssd","n":"5"}}}"#;
        assert!(check(r#"{"nodeSelector":{"disk":"ssd"}}"#, &[], node).is_ok());
        let e = check(r#"{"nodeSelector":{"disk":"hdd"}}"#, &[], node).unwrap_err();
        assert_eq!(
            e.message,
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
        );
        let term = |op: &str, values: &str| {
            format!(
                r#"{{"affinity":{{"nodeAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":{{"nodeSelectorTerms":[{{"matchExpressions":[{{"key":"n","operator":"{op}","values":{values}}}]}}]}}}}}}}}"#
            )
        };
        assert!(check(&term("Gt", r#"["4"]"#), &[], node).is_ok());
        assert!(check(&term("In", r#"["4"]"#), &[], node).is_err());
        let port =
            r#"{"containers":[{"name":"a","ports":[{"containerPort":80,"hostPort":8080}]}]}"#;
        assert_eq!(check(port, &[port], node).unwrap_err().reason, "NodePorts");
        let udp = r#"{"containers":[{"name":"a","ports":[{"containerPort":80,"hostPort":8080,"protocol":"UDP"}]}]}"#;
        assert!(check(port, &[udp], node).is_ok());
        let tainted =
            r#"{"metadata":{"name":"n"},"spec":{"taints":[{"key":"k","effect":"NoExecute"}]}}"#;
        assert_eq!(
            check("{}", &[], tainted).unwrap_err().reason,
            "TaintToleration"
        );
        assert!(check(r#"{"tolerations":[{"operator":"Exists"}]}"#, &[], tainted).is_ok());
    }
}
