//! What the parts of one running kubelet share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use client::{Client, EventType, ObjectReference, Recorder};
use tokio_util::sync::CancellationToken;

use crate::cgroups::Cgroups;
use crate::config::Settings;
use crate::cri::Runtime;
use crate::images::Images;
use crate::node::{Machine, NodeView};
use crate::pod::{Map, Pod};
use crate::prober::Prober;
use crate::runtime::config::Host;
use crate::runtime::dns::{self, Resolv};
use crate::runtime::env::{Context, Data, ServiceInfo, service_variables};
use crate::status::manager::StatusManager;
use crate::volumes::objects::{Kind, ObjectCache};
use crate::volumes::tokens::TokenCache;

/// A service as the kubelet reads it.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "fields of core/v1 Service")]
pub struct ServiceView {
    pub metadata: client::ObjectMeta,
    pub spec: ServiceSpec,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "fields of core/v1 ServiceSpec")]
pub struct ServiceSpec {
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    pub ports: Option<Vec<ServicePort>>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "fields of core/v1 ServicePort")]
pub struct ServicePort {
    pub name: String,
    pub port: i32,
    pub protocol: String,
}

client::views!(ServiceView);

/// Shared by everything in one kubelet.
pub struct Shared {
    /// The configuration.
    pub settings: Settings,
    /// The apiserver; `None` when the kubelet runs alone.
    pub client: Option<Client>,
    /// Events.
    pub recorder: Recorder,
    /// Containers and sandboxes.
    pub rt: Arc<dyn Runtime>,
    /// Images.
    pub image_rt: Arc<dyn Runtime>,
    /// Pulls.
    pub images: Images,
    /// Cgroups.
    pub cgroups: Cgroups,
    /// Statuses.
    pub status: StatusManager,
    /// Probes.
    pub prober: Prober,
    /// Config maps and secrets.
    pub objects: Option<ObjectCache>,
    /// Service account tokens.
    pub tokens: Option<TokenCache>,
    /// What claims gave pods.
    pub claims: Option<crate::volumes::claims::Claims>,
    /// Services, for variables.
    pub services: Option<client::Informer<ServiceView>>,
    /// The machine.
    pub machine: Machine,
    /// The node as the apiserver has it.
    pub node: RwLock<Option<Arc<NodeView>>>,
    /// Condition of the runtime's network: `Err` with why it is not ready.
    pub network: RwLock<Result<(), String>>,
    /// Addresses of the node.
    pub host_ips: Vec<String>,
    /// Metrics.
    pub metrics: component::metrics::Registry,
    /// End of everything.
    pub stop: CancellationToken,
}

impl Shared {
    /// What configurations need to know of the node.
    pub fn host(&self) -> Host {
        Host {
            log_root: self.settings.pod_logs_dir.display().to_string(),
            seccomp_root: self.settings.root_dir.join("seccomp").display().to_string(),
            seccomp_default: self.settings.seccomp_default,
            memory: self.machine.memory,
            huge_pages: self
                .machine
                .huge_pages
                .iter()
                .map(|p| (p.resource(), p.page_size()))
                .collect(),
            cfs_quota: self.settings.cfs_quota,
            cfs_period: i64::try_from(self.settings.cfs_period.as_micros()).unwrap_or(100_000),
        }
    }

    /// The node's resolver configuration, read now.
    pub fn resolv(&self) -> Option<Resolv> {
        let path = self.settings.resolv_conf.as_ref()?;
        Some(dns::parse(
            &std::fs::read_to_string(path).unwrap_or_default(),
        ))
    }

    /// What the node can give to pods.
    pub fn allocatable(&self) -> Map {
        crate::node::allocatable(&self.settings, &self.machine)
    }

    /// The context of variables and fields of a pod.
    pub fn context(&self, pod: &Pod, pod_ips: &[String]) -> Context {
        let services: Vec<ServiceInfo> = self
            .services
            .iter()
            .flat_map(|s| s.store().list())
            .map(|s| ServiceInfo {
                namespace: s.metadata.namespace.clone(),
                name: s.metadata.name.clone(),
                cluster_ip: s.spec.cluster_ip.clone(),
                ports: s
                    .spec
                    .ports
                    .iter()
                    .flatten()
                    .map(|p| (p.name.clone(), p.port, p.protocol.clone()))
                    .collect(),
            })
            .collect();
        Context {
            node_name: self.settings.node_name.clone(),
            host_ips: self.host_ips.clone(),
            pod_ips: pod_ips.to_vec(),
            allocatable: self.allocatable(),
            services: if self.services.is_some() {
                service_variables(
                    &services,
                    &pod.metadata.namespace,
                    pod.spec.enable_service_links.unwrap_or(true),
                )
            } else {
                BTreeMap::new()
            },
        }
    }

    /// The directory of a pod's data.
    pub fn pod_dir(&self, pod: &Pod) -> PathBuf {
        self.settings.pod_dir(&pod.metadata.uid)
    }

    /// Records an event about a pod.
    pub fn event(&self, pod: &Pod, warning: bool, reason: &str, message: impl Into<String>) {
        self.recorder
            .event(reference(pod, ""), kind(warning), reason, message);
    }

    /// Records an event about a container of a pod.
    pub fn container_event(
        &self,
        pod: &Pod,
        container: &str,
        warning: bool,
        reason: &str,
        message: impl Into<String>,
    ) {
        let list = if pod.spec.containers.iter().any(|c| c.name == container) {
            "containers"
        } else if pod.spec.init_containers.iter().any(|c| c.name == container) {
            "initContainers"
        } else {
            "ephemeralContainers"
        };
        self.recorder.event(
            reference(pod, &format!("spec.{list}{{{container}}}")),
            kind(warning),
            reason,
            message,
        );
    }

    /// Records an event about this node.
    pub fn node_event(&self, warning: bool, reason: &str, message: impl Into<String>) {
        let name = &self.settings.node_name;
        let object = ObjectReference {
            kind: "Node".into(),
            name: name.clone(),
            uid: name.clone(),
            ..Default::default()
        };
        self.recorder.event(object, kind(warning), reason, message);
    }

    /// A config map or secret; absent ones and a missing apiserver are told apart.
    pub async fn object(
        &self,
        what: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Data>, String> {
        match &self.objects {
            Some(o) => o.get(what, namespace, name).await,
            None => Err(format!("no apiserver to read {name:?} from")),
        }
    }
}

fn kind(warning: bool) -> EventType {
    if warning {
        EventType::Warning
    } else {
        EventType::Normal
    }
}

/// The reference of a pod in events; a static pod's uid is its hash, as upstream's.
fn reference(pod: &Pod, field: &str) -> ObjectReference {
    ObjectReference {
        kind: "Pod".into(),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        api_version: "v1".into(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path: field.into(),
    }
}

#[async_trait::async_trait]
impl crate::volumes::Sources for Shared {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Data>, String> {
        self.object(Kind::ConfigMap, namespace, name).await
    }
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Data>, String> {
        self.object(Kind::Secret, namespace, name).await
    }
    async fn token(
        &self,
        pod: &Pod,
        audience: &str,
        seconds: i64,
    ) -> Result<(String, std::time::Instant), String> {
        match &self.tokens {
            Some(t) if !pod.is_static() => t.get(pod, audience, seconds).await,
            Some(_) => Err("static pods cannot have service account tokens".into()),
            None => Err("no apiserver to ask for a token".into()),
        }
    }
    async fn claim(
        &self,
        pod: &Pod,
        name: &str,
        ephemeral: bool,
    ) -> Result<crate::volumes::claims::Claimed, String> {
        let Some(claims) = self.claims.as_ref().filter(|_| !pod.is_static()) else {
            return Err("static pods cannot have claims".into());
        };
        let node = self.node.read().ok().and_then(|n| n.clone());
        let none = crate::pod::Map::default();
        let labels = node.as_ref().map_or(&none, |n| &n.metadata.labels);
        let node = (self.settings.node_name.as_str(), labels);
        claims.get(pod, name, ephemeral, node).await
    }
}
