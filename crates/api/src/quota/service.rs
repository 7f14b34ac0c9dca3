//! What a Service counts for.

use serde::Deserialize;

use super::{Countable, Identity, Measured, count, nullable};

const COUNT: &str = "count/services";
const SERVICES: &str = "services";
const NODE_PORTS: &str = "services.nodeports";
const LOAD_BALANCERS: &str = "services.loadbalancers";

/// Whether services count for what a quota names.
pub fn tracks(name: &str) -> bool {
    [COUNT, SERVICES, NODE_PORTS, LOAD_BALANCERS].contains(&name)
}

/// The fields that matter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    #[serde(deserialize_with = "nullable")]
    metadata: super::Meta,
    #[serde(deserialize_with = "nullable")]
    spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "type", deserialize_with = "nullable")]
    kind: String,
    #[serde(deserialize_with = "nullable")]
    ports: Vec<Port>,
    allocate_load_balancer_node_ports: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Port {
    #[serde(deserialize_with = "nullable")]
    node_port: i64,
}

impl Countable for Service {
    fn identity(&self) -> Identity {
        self.metadata.identity()
    }

    /// Node ports are counted by what is asked for: they are given out later.
    fn measure(&self) -> Measured {
        let spec = &self.spec;
        let named = || spec.ports.iter().filter(|p| p.node_port != 0).count();
        let (node_ports, balancers) = match spec.kind.as_str() {
            "NodePort" => (spec.ports.len(), 0),
            "LoadBalancer" if spec.allocate_load_balancer_node_ports == Some(false) => (named(), 1),
            "LoadBalancer" => (spec.ports.len(), 1),
            _ => (0, 0),
        };
        let stored = [
            (COUNT, 1),
            (SERVICES, 1),
            (NODE_PORTS, node_ports),
            (LOAD_BALANCERS, balancers),
        ];
        Measured {
            stored: stored.map(|(n, q)| (n.to_owned(), count(q))).into(),
            ..Measured::default()
        }
    }
}
