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

/// What this node has and allows.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "plain data")]
pub struct Host<'a> {
    pub node: Option<&'a NodeView>,
    pub name: &'a str,
    pub allocatable: &'a Map,
    pub allowed_unsafe_sysctls: &'a [String],
    pub app_armor: bool,
}

/// Decides on `pod`, given the active `others` and the node.
pub fn admit(pod: &Pod, others: &[std::sync::Arc<Pod>], host: &Host<'_>) -> Result<(), Refusal> {
    let (node, node_name) = (host.node, host.name);
    sysctls(pod, host.allowed_unsafe_sysctls)?;
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
    fits(pod, others, host.allocatable)?;
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
    if !host.app_armor && wants_app_armor(pod) {
        return Err(Refusal {
            reason: "AppArmor".into(),
            message: "Cannot enforce AppArmor: AppArmor is not enabled on the host".into(),
        });
    }
    Ok(())
}

/// Sysctls outside the safe set must be allowed by the node; safe ones need a namespace of the pod's own.
fn sysctls(pod: &Pod, allowed: &[String]) -> Result<(), Refusal> {
    const SAFE: [&str; 12] = [
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
    ];
    let forbidden = |why: String| Refusal {
        reason: "SysctlForbidden".into(),
        message: format!("forbidden sysctl: {why}"),
    };
    for s in pod.spec.security_context.iter().flat_map(|s| &s.sysctls) {
        let name = s.name.replace('/', ".");
        let known = SAFE.contains(&name.as_str())
            || allowed.iter().any(|a| match a.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => *a == name,
            });
        if !known {
            return Err(forbidden(format!("{name:?} not allowlisted")));
        }
        let shared = if name.starts_with("net.") {
            pod.spec.host_network.then_some("net")
        } else {
            pod.spec.host_ipc.then_some("ipc")
        };
        if let Some(ns) = shared {
            return Err(forbidden(format!(
                "{name:?} not allowed with host {ns} enabled"
            )));
        }
    }
    Ok(())
}

fn wants_app_armor(pod: &Pod) -> bool {
    let confined = |p: Option<&crate::pod::Profile>| p.is_some_and(|p| p.kind != "Unconfined");
    let of_pod = pod.spec.security_context.as_ref();
    confined(of_pod.and_then(|s| s.app_armor_profile.as_ref()))
        || pod.all_containers().any(|c| {
            let own = c.security_context.as_ref();
            confined(own.and_then(|s| s.app_armor_profile.as_ref()))
        })
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
    let huge = allocatable.keys().filter(|n| n.starts_with("hugepages-"));
    for name in ["cpu", "memory", "ephemeral-storage"]
        .into_iter()
        .chain(huge.map(String::as_str))
    {
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
    selects(required, labels, name)
}

/// Whether a node of this name, with these labels, satisfies one of the terms.
fn selects(required: &crate::pod::NodeSelector, labels: &Map, name: &str) -> bool {
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
        let host = Host {
            node: Some(&node),
            name: "n",
            allocatable: &allocatable,
            allowed_unsafe_sysctls: &["kernel.msg*".to_string()],
            app_armor: false,
        };
        admit(&pod(spec), &others, &host)
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
    fn sysctls_and_profiles_the_node_cannot_give_are_refused() {
        let with = |extra: &str, name: &str| {
            format!(
                r#"{{{extra}"securityContext":{{"sysctls":[{{"name":"{name}","value":"1"}}]}}}}"#
            )
        };
        let why = |spec: &str| check(spec, &[], "{}").unwrap_err().message;
        assert!(check(&with("", "net.ipv4.tcp_syncookies"), &[], "{}").is_ok());
        assert!(check(&with("", "kernel.msgmax"), &[], "{}").is_ok());
        assert_eq!(
            why(&with("", "kernel/sem")),
            "forbidden sysctl: \"kernel.sem\" not allowlisted"
        );
        assert_eq!(
            why(&with("\"hostNetwork\":true,", "net.ipv4.tcp_syncookies")),
            "forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host net enabled"
        );
        let profile = |kind: &str| {
            format!(r#"{{"securityContext":{{"appArmorProfile":{{"type":"{kind}"}}}}}}"#)
        };
        assert!(check(&profile("Unconfined"), &[], "{}").is_ok());
        assert_eq!(
            why(&profile("RuntimeDefault")),
            "Cannot enforce AppArmor: AppArmor is not enabled on the host"
        );
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
        let e = check(&term("In", r#"["4"]"#), &[], node).unwrap_err();
        assert_eq!(e.reason, "NodeAffinity");
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
