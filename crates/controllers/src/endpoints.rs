//! endpoints-controller: the deprecated Endpoints object of each Service with a selector.
//!
//! At most 1000 addresses, the ready ones first; more are cut off and said so in an annotation. Absent: mirroring of
//! Endpoints that users write into EndpointSlices.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::resource::{ENDPOINTS, PODS, SERVICES};
use client::{
    Change, DeleteOptions, EventType, ObjectKey, ObjectMeta, ObjectReference, Store, views,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Context;
use crate::endpoint_pods::{
    HEADLESS, TRIGGER_TIME, address, enqueue, hostname, is_backend, is_headless, ports, selected,
};
use crate::views::{EndpointPort, Pod, Service, TargetRef};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MOST: usize = 1000;

/// `v1.Endpoints`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Endpoints {
    metadata: ObjectMeta,
    subsets: Vec<Subset>,
}

views!(Endpoints);

/// `v1.EndpointSubset`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    /// Ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// Not ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_ready_addresses: Vec<Address>,
    /// Shared by all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
}

/// `v1.EndpointAddress`
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Address {
    /// IP.
    pub ip: String,
    /// Host name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<Target>,
}

/// The pod behind an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Target {
    /// `Pod`
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

impl From<TargetRef> for Target {
    fn from(t: TargetRef) -> Target {
        Target {
            kind: t.kind,
            namespace: t.namespace,
            name: t.name,
            uid: t.uid,
        }
    }
}

/// `v1.EndpointPort`
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// Name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Number.
    pub port: i32,
    /// Protocol.
    pub protocol: String,
    /// Application protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

impl From<EndpointPort> for Port {
    fn from(p: EndpointPort) -> Port {
        Port {
            name: p.name,
            port: p.port.unwrap_or(0),
            protocol: p.protocol,
            app_protocol: p.app_protocol,
        }
    }
}

/// The subsets, and whether some were cut off.
pub fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<Subset>, bool) {
    let v6 = match service.spec.ip_families.first() {
        Some(f) => f == "IPv6",
        None => service.spec.cluster_ip.contains(':'),
    };
    let mut groups: BTreeMap<Vec<Port>, (Vec<Address>, Vec<Address>)> = BTreeMap::new();
    for pod in pods.iter().filter(|p| is_backend(p)) {
        let publish = service.spec.publish_not_ready_addresses;
        if pod.metadata.is_deleting() && !publish {
            continue;
        }
        let Some(ip) = address(pod, v6) else { continue };
        let mut found: Vec<Port> = ports(service, pod).into_iter().map(Port::from).collect();
        if found.is_empty() && !(service.spec.ports.is_empty() && is_headless(service)) {
            continue;
        }
        found.sort();
        let a = Address {
            ip: ip.to_owned(),
            hostname: hostname(service, pod).unwrap_or_default(),
            node_name: (!pod.spec.node_name.is_empty()).then(|| pod.spec.node_name.clone()),
            target_ref: Some(Target {
                kind: "Pod".into(),
                namespace: pod.metadata.namespace.clone(),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        };
        let group = groups.entry(found).or_default();
        if publish || pod.is_ready() {
            group.0.push(a)
        } else {
            group.1.push(a)
        }
    }
    let total: usize = groups.values().map(|(a, b)| a.len() + b.len()).sum();
    let ready: usize = groups.values().map(|g| g.0.len()).sum();
    let mut ready_room = ready.min(MOST);
    let mut other_room = MOST - ready_room;
    let mut out = Vec::new();
    for (ports, (mut addresses, mut not_ready)) in groups {
        addresses.sort();
        not_ready.sort();
        addresses.truncate(ready_room);
        ready_room -= addresses.len();
        not_ready.truncate(other_room);
        other_room -= not_ready.len();
        if !addresses.is_empty() || !not_ready.is_empty() {
            out.push(Subset {
                addresses,
                not_ready_addresses: not_ready,
                ports,
            });
        }
    }
    (out, total > MOST)
}

fn labels(s: &Service) -> BTreeMap<String, String> {
    let mut l = s.metadata.labels.clone();
    l.remove(HEADLESS);
    if is_headless(s) {
        l.insert(HEADLESS.into(), String::new());
    }
    l.insert(MANAGED_BY.into(), MANAGER.into());
    l
}

struct Controller {
    ctx: Context,
    services: Store<Service>,
    pods: Store<Pod>,
    endpoints: Store<Endpoints>,
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let services = ctx.informer::<Service>(&SERVICES);
    let pods = ctx.informer::<Pod>(&PODS);
    let endpoints = ctx.informer::<Endpoints>(&ENDPOINTS);
    let queue = ctx.queue("endpoint");
    let q = queue.clone();
    services.on_change(move |change| q.add(ObjectKey::of(&**change.object())));
    let (q, store) = (queue.clone(), services.store());
    pods.on_change(move |change| enqueue(change, &store, &q));
    let (q, store) = (queue.clone(), services.store());
    endpoints.on_change(move |change| {
        let e = change.object();
        let leftover = e
            .metadata
            .labels
            .get(MANAGED_BY)
            .is_some_and(|m| m == MANAGER)
            && store.get(&e.metadata.namespace, &e.metadata.name).is_none();
        if matches!(change, Change::Deleted(_)) || leftover {
            q.add(ObjectKey::of(&**e));
        }
    });
    let it = Arc::new(Controller {
        services: services.store(),
        pods: pods.store(),
        endpoints: endpoints.store(),
        ctx: ctx.clone(),
    });
    let workers = ctx.config.concurrent("endpoint", 5);
    ctx.run(queue, workers, move |key| {
        let it = it.clone();
        async move { it.sync(&key).await }
    });
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Option<std::time::Duration>, client::Error> {
        let api = self.ctx.client.namespaced(&ENDPOINTS, &key.namespace);
        let have = self.endpoints.get_key(key);
        let Some(service) = self.services.get_key(key) else {
            let ours = have.filter(|e| {
                e.metadata
                    .labels
                    .get(MANAGED_BY)
                    .is_some_and(|m| m == MANAGER)
            });
            return match ours {
                None => Ok(None),
                Some(e) => match api
                    .delete(&key.name, &DeleteOptions::uid(e.metadata.uid.as_str()))
                    .await
                {
                    Ok(()) => Ok(None),
                    Err(e) if e.is_not_found() || e.is_conflict() => Ok(None),
                    Err(e) => Err(e),
                },
            };
        };
        if service.spec.selector.is_empty() || service.spec.kind == "ExternalName" {
            return Ok(None);
        }
        let pods = selected(&service, &self.pods);
        let (subsets, cut) = subsets(&service, &pods);
        let labels = labels(&service);
        let mut annotations = have
            .as_ref()
            .map(|e| e.metadata.annotations.clone())
            .unwrap_or_default();
        let was_cut = annotations.remove(OVER_CAPACITY).is_some();
        if let Some(e) = &have
            && e.subsets == subsets
            && e.metadata.labels == labels
            && was_cut == cut
        {
            return Ok(None);
        }
        if cut {
            annotations.insert(OVER_CAPACITY.into(), "truncated".into());
        }
        let trigger = pods
            .iter()
            .filter_map(|p| {
                crate::views::condition(&p.status.conditions, "Ready")?.last_transition_time
            })
            .chain(service.metadata.creation_timestamp)
            .max();
        annotations.extend(trigger.map(|t| (TRIGGER_TIME.to_owned(), client::view::print_time(t))));
        let mut body = json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": key.name, "namespace": key.namespace, "labels": labels, "annotations": annotations},
            "subsets": subsets,
        });
        let written = match &have {
            None => api.create::<serde::de::IgnoredAny, _>(&body).await,
            Some(e) => {
                if let Some(m) = body.get_mut("metadata").and_then(Value::as_object_mut) {
                    m.insert(
                        "resourceVersion".into(),
                        e.metadata.resource_version.as_str().into(),
                    );
                }
                api.update(&key.name, &body).await
            }
        };
        match written {
            Ok(_) => Ok(None),
            Err(e) if e.is_namespace_terminating() => Ok(None),
            Err(e) if e.is_conflict() || e.is_already_exists() || e.is_not_found() => {
                Ok(Some(std::time::Duration::from_millis(200)))
            }
            Err(e) => {
                let (reason, what) = if have.is_some() {
                    ("FailedToUpdateEndpoint", "update")
                } else {
                    ("FailedToCreateEndpoint", "create")
                };
                let message = format!("Failed to {what} endpoint {key}: {e}");
                self.ctx.recorder.event(
                    ObjectReference::of(&SERVICES, &*service),
                    EventType::Warning,
                    reason,
                    message,
                );
                Err(e)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_and_not_ready_and_cut_off() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "s"}, "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80, "protocol": "TCP"}]},
        }))
        .unwrap();
        let pod = |i: usize, ready: &str| {
            Arc::new(
                serde_json::from_value::<Pod>(json!({
                    "metadata": {"name": format!("p{i}")},
                    "status": {"podIP": format!("10.1.{}.{}", i / 250, i % 250), "conditions": [{"type": "Ready", "status": ready}]},
                }))
                .unwrap(),
            )
        };
        let (s, cut) = subsets(&service, &[pod(1, "True"), pod(2, "False")]);
        assert_eq!(
            (
                s.len(),
                s[0].addresses.len(),
                s[0].not_ready_addresses.len(),
                cut
            ),
            (1, 1, 1, false)
        );
        assert_eq!(
            (
                s[0].addresses[0].ip.as_str(),
                s[0].not_ready_addresses[0].ip.as_str()
            ),
            ("10.1.0.1", "10.1.0.2")
        );
        assert_eq!(
            s[0].ports,
            [Port {
                port: 80,
                protocol: "TCP".into(),
                ..Port::default()
            }]
        );
        let many: Vec<_> = (0..1100)
            .map(|i| pod(i, if i < 200 { "False" } else { "True" }))
            .collect();
        let (s, cut) = subsets(&service, &many);
        assert_eq!(
            (s[0].addresses.len(), s[0].not_ready_addresses.len(), cut),
            (900, 100, true)
        );
    }
}
