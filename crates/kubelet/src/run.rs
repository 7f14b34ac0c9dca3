//! Puts a kubelet together and runs it until the shutdown.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, RwLock, Weak};
use std::time::Duration;

use client::{Client, Recorder};
use component::Shutdown;
use component::serve::{Body, Handler, Open, Peer, text};
use http::{Request, Response};
use hyper::body::Incoming;

use crate::cgroups::Cgroups;
use crate::config::Settings;
use crate::cri::{CriClient, Runtime};
use crate::images::Images;
use crate::node::manager::NodeManager;
use crate::node::{Machine, reserved};
use crate::pleg::Pleg;
use crate::pod::Pod;
use crate::pod::quantity::Quantity;
use crate::pod::resources::{self, Qos};
use crate::prober::{Emit, Prober, Wake};
use crate::server::auth::KubeletGate;
use crate::server::{ReadOnly, Server, logs};
use crate::shared::{ServiceView, Shared};
use crate::source::Sources;
use crate::status::manager::StatusManager;
use crate::volumes::objects::ObjectCache;
use crate::volumes::tokens::TokenCache;
use crate::worker::{Workers, without_panics};
use crate::{cri, gc};

/// How often logs and dead containers are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(10);
/// How often images are looked at.
const IMAGE_GC: Duration = Duration::from_secs(300);

/// Said of a node whose control groups are of the first version.
const CGROUP_V1: &str = "cgroup v1 detected. cgroup v1 support is deprecated and will be removed in a future release. Please migrate to cgroup v2. More information at https://git.k8s.io/enhancements/keps/sig-node/5573-remove-cgroup-v1";

/// What a kubelet is given from outside.
#[derive(Default)]
pub struct Dependencies {
    /// The apiserver; `None` runs static pods alone.
    pub client: Option<Client>,
    /// The runtime; `None` dials the configured endpoint.
    pub runtime: Option<Arc<dyn Runtime>>,
    /// Metrics.
    pub metrics: component::metrics::Registry,
}

/// Why a kubelet cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The runtime's endpoint.
    #[error("container runtime: {0}")]
    Runtime(#[from] cri::CriError),
    /// A directory.
    #[error("{0}: {1}")]
    Directory(String, std::io::Error),
    /// The serving certificate.
    #[error("serving certificate: {0}")]
    Tls(#[from] component::tls::TlsError),
    /// Authentication or authorization.
    #[error("{0}")]
    Auth(String),
    /// A port.
    #[error("listening on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
}

/// Runs a kubelet until `shutdown`; containers go on running after it.
pub async fn run(
    settings: Settings,
    deps: Dependencies,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    for w in &settings.warnings {
        tracing::warn!("{w}");
    }
    // Upstream's defaults evict too: who sets nothing is told as well.
    tracing::warn!(
        "No pod is evicted when the node runs out of memory or disk: hard thresholds set what is allocatable and the node's conditions, soft ones have no effect"
    );
    for dir in [
        settings.root_dir.clone(),
        settings.root_dir.join("pods"),
        settings.cert_dir.clone(),
        settings.pod_logs_dir.clone(),
    ] {
        std::fs::create_dir_all(&dir)
            .map_err(|e| RunError::Directory(dir.display().to_string(), e))?;
    }
    let stop = shutdown.token.clone();
    let rt: Arc<dyn Runtime> = match deps.runtime {
        Some(r) => r,
        None => Arc::new(CriClient::new(
            &settings.runtime_endpoint,
            settings.runtime_timeout,
        )?),
    };
    let image_rt: Arc<dyn Runtime> = if settings.image_endpoint == settings.runtime_endpoint {
        rt.clone()
    } else {
        Arc::new(CriClient::new(
            &settings.image_endpoint,
            settings.runtime_timeout,
        )?)
    };
    let version = wait_for_runtime(&*rt, &stop).await;
    let Some(version) = version else {
        return Ok(());
    };
    tracing::info!(runtime = %version, node = %settings.node_name, "container runtime found");

    let recorder = match &deps.client {
        Some(c) => {
            let (r, work) = Recorder::new(
                c.clone(),
                client::events::Format::Core,
                "kubelet",
                settings.node_name.clone(),
                stop.clone(),
            );
            shutdown.spawn(work);
            r
        }
        None => Recorder::none(),
    };
    let services = deps.client.clone().map(|c| {
        let (i, work) = client::Informer::<ServiceView>::new(
            c,
            client::resource::SERVICES.clone(),
            client::Selector::all(),
            stop.clone(),
        );
        shutdown.spawn(work);
        i
    });

    // The parts that call back to workers are made before the workers are.
    let workers_slot: Arc<OnceLock<Weak<Workers>>> = Arc::default();
    let slot = workers_slot.clone();
    let wake: Wake = Arc::new(move |uid: &str| {
        if let Some(w) = slot.get().and_then(Weak::upgrade) {
            w.wake(uid);
        }
    });
    let emitter = recorder.clone();
    let emit: Emit = Arc::new(
        move |pod: &Pod, container: &str, warning, reason, message| {
            let list = if pod.spec.containers.iter().any(|c| c.name == container) {
                "containers"
            } else {
                "initContainers"
            };
            let object = client::ObjectReference {
                kind: "Pod".into(),
                namespace: pod.metadata.namespace.clone(),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
                api_version: "v1".into(),
                resource_version: pod.metadata.resource_version.clone(),
                field_path: format!("spec.{list}{{{container}}}"),
            };
            let kind = if warning {
                client::EventType::Warning
            } else {
                client::EventType::Normal
            };
            emitter.event(object, kind, reason, message);
        },
    );
    let machine = Machine::read(&settings.root_dir);
    let host_ips = crate::node::addresses(&settings.node_ips);
    let shared = Arc::new(Shared {
        images: Images::new(image_rt.clone(), settings.parallel_pulls),
        cgroups: Cgroups::new(&settings),
        status: StatusManager::new(deps.client.clone()),
        prober: Prober::new(rt.clone(), emit, wake.clone()),
        objects: deps
            .client
            .clone()
            .map(|c| ObjectCache::new(c, wake.clone(), stop.clone())),
        tokens: deps.client.clone().map(TokenCache::new),
        claims: deps.client.clone().map(crate::volumes::claims::Claims::new),
        client: deps.client.clone(),
        recorder,
        rt,
        image_rt,
        services,
        machine,
        node: RwLock::new(None),
        network: RwLock::new(Ok(())),
        host_ips,
        metrics: deps.metrics,
        stop: stop.clone(),
        settings,
    });
    let s = &shared.settings;
    set_up_cgroups(&shared);
    let workers = Workers::new(shared.clone());
    let _ = workers_slot.set(Arc::downgrade(&workers));
    shared.node_event(false, "Starting", "Starting kubelet.");
    if shared.machine.cgroup_v1 {
        shared.node_event(true, "CgroupV1", CGROUP_V1);
    }

    let statuses = shared.clone();
    let token = stop.clone();
    shutdown.spawn(async move { statuses.status.run(token).await });

    running_metrics(&shared, &workers);
    let pleg = Pleg::new(shared.clone());
    let pleg_ok: Arc<dyn Fn() -> Result<(), String> + Send + Sync> = {
        let p = pleg.clone();
        Arc::new(move || p.healthy())
    };
    if let Some(c) = &deps.client {
        let m = Arc::new(NodeManager::new(
            shared.clone(),
            heartbeats(c, &shared.settings).await,
            version,
            pleg_ok.clone(),
        ));
        shutdown.spawn_until_cancelled(async move {
            without_panics("keeping the node", || m.clone().run()).await;
        });
    }
    let sources = Arc::new(Sources::new(shared.clone(), workers.clone()));
    {
        let (sources, shared) = (sources.clone(), shared.clone());
        shutdown.spawn_until_cancelled(async move {
            let follow = || sources.run(|pods| balance(&shared, pods));
            without_panics("following pods", follow).await;
        });
    }
    start_pleg(&shared, &workers, &sources, &pleg, &shutdown);
    {
        let (shared, workers) = (shared.clone(), workers.clone());
        shutdown.spawn_until_cancelled(async move {
            without_panics("housekeeping", || housekeeping(&shared, &workers)).await;
        });
    }
    {
        let shared = shared.clone();
        shutdown.spawn_until_cancelled(async move {
            let mut images = gc::images::ImageGc::default();
            loop {
                if let Err(e) = images.run(&shared).await {
                    tracing::debug!(error = %e, "image collection failed");
                }
                tokio::time::sleep(IMAGE_GC).await;
            }
        });
    }
    serve(&shared, &workers, pleg_ok, &shutdown).await?;
    tracing::info!(port = s.port, "kubelet is running");
    shutdown.cancelled().await;
    Ok(())
}

/// Gauges of what runs, read when asked for.
fn running_metrics(shared: &Arc<Shared>, workers: &Arc<Workers>) {
    let m = &shared.metrics;
    m.gauge(
        "kubelet_node_name",
        "[ALPHA] The node's name. The count is always 1.",
        &["node"],
    )
    .with(&[&shared.settings.node_name])
    .set(1.0);
    #[expect(clippy::cast_precision_loss, reason = "a metric")]
    let float = |n: usize| n as f64;
    let w = Arc::downgrade(workers);
    m.gauge_fn(
        "kubelet_active_pods",
        "[ALPHA] The number of pods the kubelet considers active.",
        move || w.upgrade().map_or(0.0, |w| float(w.pods(true).len())),
    );
    let (w, s) = (Arc::downgrade(workers), Arc::downgrade(shared));
    m.gauge_fn(
        "kubelet_running_pods",
        "[ALPHA] Number of pods that have a running pod sandbox",
        move || {
            let (Some(w), Some(s)) = (w.upgrade(), s.upgrade()) else {
                return 0.0;
            };
            let runs = |uid: &str| s.status.get(uid).is_some_and(|s| s.phase == "Running");
            float(
                w.pods(true)
                    .iter()
                    .filter(|p| runs(&p.metadata.uid))
                    .count(),
            )
        },
    );
}

/// A version without what distributions add: all of a semantic version, the leading numbers of any other.
fn plain_version(text: &str) -> &str {
    let text = text.trim_start_matches('v');
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (numbers, rest) = text.split_at(end.unwrap_or(text.len()));
    let numbers = numbers.trim_end_matches('.');
    let semantic = numbers.split('.').count() == 3
        && rest.starts_with(['-', '+'])
        && rest
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.'));
    if semantic { text } else { numbers }
}

async fn wait_for_runtime(
    rt: &dyn Runtime,
    stop: &tokio_util::sync::CancellationToken,
) -> Option<String> {
    let mut told = false;
    loop {
        match rt.version().await {
            Ok(v) => {
                return Some(format!(
                    "{}://{}",
                    v.runtime_name,
                    plain_version(&v.runtime_version)
                ));
            }
            Err(e) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(error = %e, "waiting for the container runtime");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
        }
    }
}

fn set_up_cgroups(shared: &Shared) {
    let s = &shared.settings;
    let m = &shared.machine;
    let milli = (Quantity::whole(m.cpus) - reserved(s, "cpu")).milli();
    let memory = if s.enforce_pods {
        (Quantity::whole(m.memory) - reserved(s, "memory")).value()
    } else {
        0
    };
    match shared.cgroups.setup(milli, memory) {
        Err(e) => {
            tracing::error!(error = %e, "making the cgroups of pods failed");
            shared.node_event(
                true,
                "FailedNodeAllocatableEnforcement",
                format!("Failed to update Node Allocatable Limits: {e}"),
            );
        }
        Ok(true) => shared.node_event(
            false,
            "NodeAllocatableEnforced",
            "Updated Node Allocatable limit across pods",
        ),
        Ok(false) if s.enforce_pods => tracing::warn!(
            "enforceNodeAllocatable has no effect: the limits of all pods together are set with cgroupsPerQOS and the cgroupfs driver only"
        ),
        Ok(false) => {}
    }
}

/// Gives the burstable class the cpu its pods ask for.
fn balance(shared: &Shared, pods: &[Arc<Pod>]) {
    let milli = pods
        .iter()
        .filter(|p| p.qos() == Qos::Burstable && !p.is_finished())
        .fold(0i64, |s, p| {
            s.saturating_add(resources::pod_request(p, "cpu").milli())
        });
    if let Err(e) = shared.cgroups.balance(milli) {
        tracing::debug!(error = %e, "setting the burstable class's shares failed");
    }
}

fn start_pleg(
    shared: &Arc<Shared>,
    workers: &Arc<Workers>,
    sources: &Arc<Sources>,
    pleg: &Arc<Pleg>,
    shutdown: &Shutdown,
) {
    let (connected_tx, connected) = tokio::sync::watch::channel(false);
    let endpoint = shared.settings.runtime_endpoint.clone();
    let (wake, stop) = (pleg.wake.clone(), shutdown.token.clone());
    shutdown.spawn(async move { cri::events::follow(endpoint, wake, connected_tx, stop).await });

    let collecting: Arc<std::sync::Mutex<BTreeSet<String>>> = Arc::default();
    let (p, w, sh, so) = (
        pleg.clone(),
        workers.clone(),
        shared.clone(),
        sources.clone(),
    );
    let changed = {
        let (w, sh) = (workers.clone(), shared.clone());
        let sweeps: Arc<gc::Sweeps> = Arc::default();
        move |uid: &str| {
            w.wake(uid);
            if w.contains(uid) && sweeps.begin(uid) {
                let (w, sh, uid) = (w.clone(), sh.clone(), uid.to_string());
                let sweeps = sweeps.clone();
                tokio::spawn(async move {
                    loop {
                        // What ran may have been what the pod's worker counted on, and no relist may have seen it.
                        if gc::sweep(&sh, &uid).await {
                            w.wake(&uid);
                        }
                        if !sweeps.again(&uid) {
                            break;
                        }
                    }
                });
            }
        }
    };
    let me = pleg.clone();
    let relisted = move || {
        if !so.ready() {
            return;
        }
        for uid in me.uids() {
            if w.contains(&uid) {
                continue;
            }
            let Ok(mut busy) = collecting.lock() else {
                continue;
            };
            if !busy.insert(uid.clone()) {
                continue;
            }
            let (sh, w, c) = (sh.clone(), w.clone(), collecting.clone());
            tokio::spawn(async move {
                // A moment for a pod whose source was read but whose worker is about to start.
                tokio::time::sleep(Duration::from_secs(2)).await;
                if !w.contains(&uid) {
                    gc::orphan(&sh, &uid).await;
                }
                if let Ok(mut c) = c.lock() {
                    c.remove(&uid);
                }
            });
        }
    };
    shutdown.spawn_until_cancelled(async move {
        let relist = || p.run(connected.clone(), &changed, &relisted);
        without_panics("relisting", relist).await;
    });

    let (sh, w, so, p) = (
        shared.clone(),
        workers.clone(),
        sources.clone(),
        pleg.clone(),
    );
    shutdown.spawn_until_cancelled(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(30)).await;
            if so.ready() {
                let uids = p.uids();
                let (sh, w) = (sh.clone(), w.clone());
                let _ = tokio::task::spawn_blocking(move || {
                    gc::leftovers(&sh, &|uid| w.contains(uid) || uids.contains(uid))
                })
                .await;
            }
        }
    });
}

/// Rotates logs of running containers.
async fn housekeeping(shared: &Arc<Shared>, workers: &Arc<Workers>) {
    let s = &shared.settings;
    loop {
        tokio::time::sleep(HOUSEKEEPING).await;
        for pod in workers.pods(true) {
            let Some(status) = shared.status.get(&pod.metadata.uid) else {
                continue;
            };
            let dir = crate::runtime::config::log_directory(&shared.host(), &pod);
            for c in status
                .container_statuses
                .iter()
                .chain(&status.init_container_statuses)
                .filter(|c| c.state.running.is_some())
            {
                let path = std::path::Path::new(&dir)
                    .join(&c.name)
                    .join(format!("{}.log", c.restart_count));
                let id = c
                    .container_id
                    .strip_prefix(crate::runtime::ID_PREFIX)
                    .unwrap_or_default();
                if let Err(e) =
                    logs::rotate(&*shared.rt, id, &path, s.log_max_size, s.log_max_files).await
                {
                    tracing::warn!(log = %path.display(), error = %e, "rotating a log failed");
                }
            }
        }
    }
}

/// `/healthz` of the open port on loopback.
struct Health(Arc<dyn Fn() -> Result<(), String> + Send + Sync>);

#[async_trait::async_trait]
impl Handler for Health {
    async fn handle(&self, _: &Peer, request: Request<Incoming>) -> Response<Body> {
        match (request.uri().path(), (self.0)()) {
            ("/healthz" | "/healthz/ping" | "/healthz/log" | "/healthz/syncloop", Ok(())) => {
                text(200, "ok")
            }
            ("/healthz" | "/healthz/syncloop", Err(e)) => text(500, format!("{e}\n")),
            _ => text(404, "404 page not found\n"),
        }
    }
}

/// The client of the node's status and lease, which nothing else that this kubelet sends may hold up.
async fn heartbeats(client: &Client, s: &crate::config::Settings) -> Client {
    // Source: upstream's heartbeat client.
    let lease = Duration::from_secs(u64::try_from(s.lease_seconds).unwrap_or(40).max(1));
    match client.for_leases(lease.min(s.status_frequency)).await {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(%error, "Heartbeats share the connections of the rest");
            client.clone()
        }
    }
}

async fn serve(
    shared: &Arc<Shared>,
    workers: &Arc<Workers>,
    healthy: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    shutdown: &Shutdown,
) -> Result<(), RunError> {
    let s = &shared.settings;
    let listen = async |addr: SocketAddr| {
        tokio::net::TcpListener::bind(addr)
            .await
            .map_err(|e| RunError::Listen(addr, e))
    };
    if s.healthz_port > 0 {
        let l = listen(SocketAddr::new(s.healthz_address, s.healthz_port)).await?;
        shutdown.spawn(component::serve::serve(
            l,
            None,
            Arc::new(Open),
            Arc::new(Health(healthy.clone())),
            shutdown.clone(),
        ));
    }
    let server = Arc::new(Server::new(shared.clone(), workers.clone(), healthy));
    if s.read_only_port > 0 {
        let l = listen(SocketAddr::new(s.address, s.read_only_port)).await?;
        shutdown.spawn(component::serve::serve(
            l,
            None,
            Arc::new(Open),
            Arc::new(ReadOnly(server.clone())),
            shutdown.clone(),
        ));
    }
    if s.enable_server {
        let tls = component::tls::Tls::new(&s.tls)?;
        tls.register(&shared.metrics);
        let gate = KubeletGate::new(s, shared.client.as_ref())
            .await
            .map_err(RunError::Auth)?;
        let l = listen(SocketAddr::new(s.address, s.port)).await?;
        shutdown.spawn(component::serve::serve(
            l,
            Some(tls),
            Arc::new(gate),
            server,
            shutdown.clone(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_without_additions() {
        for (given, want) in [
            ("v1.7.2", "1.7.2"),
            ("1.6.20~ds1", "1.6.20"),
            ("2.1.0-rc.0", "2.1.0-rc.0"),
            ("1.7", "1.7"),
            ("", ""),
        ] {
            assert_eq!(plain_version(given), want);
        }
    }
}
