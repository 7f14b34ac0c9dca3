//! The controllers of kube-controller-manager: one file (or folder) per controller and one line in [`list::CONTROLLERS`].
//!
//! A controller is a pure function from what the caches show to a plan, and a shell that runs the plan. Invariants:
//! caches are shared, one watch per resource; nothing is polled; every write goes through the public API as the
//! controller's own service account when `--use-service-account-credentials` is set.

pub mod children;
pub mod config;
pub mod context;
pub mod daemon;
pub mod discovery;
pub mod expectations;
pub mod history;
pub mod list;
pub mod metrics;
pub mod selector;
pub mod views;

pub mod attach;
pub mod attributes_class;
pub mod bootstrap;
pub mod certificates;
pub mod clusterrole_aggregation;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
pub mod endpoint_pods;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslice_mirroring;
pub mod ephemeral_volume;
pub mod expand;
pub mod garbage;
pub mod hpa;
pub mod job;
pub mod legacy_tokens;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod pod_gc;
pub mod replicaset;
pub mod replication;
pub mod resource_claims;
pub mod resourcequota;
pub mod root_ca;
pub mod selinux;
pub mod service_account;
pub mod service_account_tokens;
pub mod service_cidrs;
pub mod statefulset;
pub mod storage_protection;
pub mod taint_eviction;
pub mod ttl;
pub mod ttl_after_finished;
pub mod volumes;

use std::sync::Arc;

use client::events::Format;
use client::leader::{LeaderConfig, Lost, lead};
use client::{Client, Informers, Recorder};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::Config;
pub use context::Context;

/// What [`run`] needs from outside.
pub struct Dependencies {
    /// Calls as the controller manager itself: caches, leases, tokens.
    pub client: Client,
    /// Whether each controller acts as its own service account.
    pub service_account_credentials: bool,
    /// The lease to hold while working; `None` to work at once.
    pub leader: Option<LeaderConfig>,
    /// The queues' counters.
    pub queues: metrics::Queues,
    /// Told when all caches are filled.
    pub synced: component::health::Latch,
}

/// Runs the enabled controllers until `shutdown`.
///
/// # Errors
/// [`Lost`] when the lease was lost: the process must end, since another may be working.
pub async fn run(
    config: Config,
    deps: Dependencies,
    shutdown: CancellationToken,
) -> Result<(), Lost> {
    let config = Arc::new(config);
    let Some(leader) = deps.leader.clone() else {
        work(config, &deps, shutdown).await;
        return Ok(());
    };
    let stop = CancellationToken::new();
    let (recorder, writing) = Recorder::new(
        deps.client.clone(),
        Format::Core,
        "kube-controller-manager",
        "",
        stop.clone(),
    );
    let writing = tokio::spawn(writing);
    let client = match deps.client.for_leases(leader.renew_deadline).await {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(%error, "The lease shares the controllers' connections");
            deps.client.clone()
        }
    };
    let deps = &deps;
    let result = lead(client, leader, recorder, shutdown, move |held| {
        work(config, deps, held)
    })
    .await;
    stop.cancel();
    let _ = writing.await;
    result
}

async fn work(config: Arc<Config>, deps: &Dependencies, shutdown: CancellationToken) {
    let informers = Informers::new(deps.client.clone(), shutdown.clone());
    deps.queues.informers(&informers);
    let tasks = TaskTracker::new();
    let mut scopes = Vec::new();
    for c in list::CONTROLLERS
        .iter()
        .filter(|c| c.is_enabled(&config.controllers))
    {
        let Some(start) = c.start else {
            continue;
        };
        let client = if deps.service_account_credentials && !c.service_account.is_empty() {
            deps.client
                .as_service_account("kube-system", c.service_account)
        } else {
            deps.client.clone()
        };
        let agent = format!(
            "{}/{}",
            component::version::user_agent("kube-controller-manager"),
            c.name
        );
        let client = client.named(&agent);
        let (recorder, writing) = Recorder::new(
            client.named(&agent),
            Format::Core,
            c.service_account,
            "",
            shutdown.clone(),
        );
        tasks.spawn(writing);
        tracing::info!(controller = c.name, "Starting controller");
        let scope = informers.scope();
        scopes.push(scope.clone());
        start(Context {
            client,
            // A resource that cannot be watched stops the controllers that need it, and no others.
            informers: scope,
            recorder,
            config: config.clone(),
            shutdown: shutdown.clone(),
            tasks: tasks.clone(),
            queues: deps.queues.clone(),
        });
    }
    let filled = async {
        for scope in scopes {
            scope.synced().await;
        }
        deps.synced.set();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = filled => {}
    }
    tasks.close();
    tasks.wait().await;
    informers.ended().await;
}
