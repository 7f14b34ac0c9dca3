//! replicationcontroller-controller: keeps as many pods as a ReplicationController asks for.
//!
//! A ReplicationController is read as a ReplicaSet whose selector is a map of labels, and kept by the same code
//! ([`crate::replicaset`]).

use std::collections::BTreeMap;

use client::resource::REPLICATION_CONTROLLERS;
use client::{ObjectMeta, View};
use serde::Deserialize;
use serde_json::Value;

use crate::Context;
use crate::replicaset::{Replicated, keep};
use crate::selector::LabelSelector;
use crate::views::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};

/// `v1.ReplicationController`, as a ReplicaSet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Wire")]
pub struct ReplicationController(pub ReplicaSet);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    metadata: ObjectMeta,
    spec: WireSpec,
    status: ReplicaSetStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireSpec {
    replicas: Option<i32>,
    min_ready_seconds: i32,
    selector: BTreeMap<String, String>,
    template: Value,
}

impl From<Wire> for ReplicationController {
    fn from(wire: Wire) -> ReplicationController {
        ReplicationController(ReplicaSet {
            metadata: wire.metadata,
            spec: ReplicaSetSpec {
                replicas: wire.spec.replicas,
                min_ready_seconds: wire.spec.min_ready_seconds,
                selector: LabelSelector {
                    match_labels: wire.spec.selector,
                    ..LabelSelector::default()
                },
                template: wire.spec.template,
            },
            status: wire.status,
        })
    }
}

impl AsRef<ReplicaSet> for ReplicationController {
    fn as_ref(&self) -> &ReplicaSet {
        &self.0
    }
}

impl View for ReplicationController {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn namespace(&self) -> &str {
        self.0.namespace()
    }
    fn resource_version(&self) -> &str {
        self.0.resource_version()
    }
    fn uid(&self) -> &str {
        self.0.uid()
    }
}

impl Replicated for ReplicationController {
    const TELLS_TERMINATING: bool = false;
}

/// Starts the controller.
pub fn start(ctx: Context) {
    keep::<ReplicationController>(ctx, &REPLICATION_CONTROLLERS, "replicationmanager");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replication_controller_is_read_as_a_replica_set() {
        let value = serde_json::json!({
            "metadata": {"name": "r", "uid": "u"},
            "spec": {"replicas": 2, "selector": {"matchLabels": "x"}, "template": {"spec": {"nodeName": "n"}}},
            "status": {"replicas": 1, "observedGeneration": 3},
        });
        let schema = api::schema::message("v1", "ReplicationController").unwrap();
        let bytes = wire::proto::value_to_vec(&value, schema).unwrap();
        let of_json: ReplicationController = serde_json::from_value(value).unwrap();
        let of_proto: ReplicationController = wire::proto::from_slice(&bytes, schema).unwrap();
        for rc in [of_json, of_proto] {
            let rs = rc.0;
            assert_eq!(rs.spec.replicas, Some(2));
            // A label of that name is a label.
            let labels = BTreeMap::from([("matchLabels".to_owned(), "x".to_owned())]);
            assert!(rs.spec.selector.matches(&labels));
            assert!(!rs.spec.selector.matches(&BTreeMap::new()));
            assert_eq!((rs.status.replicas, rs.status.observed_generation), (1, 3));
        }
    }
}
