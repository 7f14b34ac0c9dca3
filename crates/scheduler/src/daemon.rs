//! kube-scheduler as a process: flags to configuration, secure port, leader election.

use std::sync::Arc;

use client::events::{Format, Recorder};
use client::leader::{Election, Filled, LeaderConfig, lead};
use client::{Client, Options, secure_port};
use component::Shutdown;
use component::flags::{CommandLine, Flags};
use component::health::Latch;
use component::metrics::Registry;
use component::serve::Standard;
use component::support::{Instead, Support};

use crate::config::{Config, ConfigError, Connection};
use crate::metrics::Metrics;
use crate::shell;

/// Why the scheduler could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag's value cannot be used.
    #[error("{0}")]
    Flag(String),
    /// The configuration file cannot be read or is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The apiserver's address or credentials cannot be used.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The secure port.
    #[error(transparent)]
    Port(#[from] secure_port::Error),
    /// Another instance took over.
    #[error(transparent)]
    Lost(#[from] client::leader::Lost),
}

/// The command line.
pub fn command_line() -> CommandLine {
    CommandLine::new(
        "kube-scheduler",
        "The Kubernetes scheduler assigns Pods to Nodes: for each Pod it finds the Nodes that satisfy its constraints, ranks them and binds the Pod to the best.",
    )
    .honour(secure_port::FLAGS)
    .honour(&[
        "config",
        "kube-api-burst",
        "kube-api-qps",
        "kubeconfig",
        "leader-elect",
        "leader-elect-lease-duration",
        "leader-elect-renew-deadline",
        "leader-elect-resource-name",
        "leader-elect-resource-namespace",
        "leader-elect-retry-period",
        "master",
        "pod-max-in-unschedulable-pods-duration",
    ])
    .only("leader-elect-resource-lock", &["leases"])
    .ignore(
        "protobuf is spoken where the apiserver does",
        &["kube-api-content-type"],
    )
    .ignore(
        "a port that is taken ends the process",
        &["permit-address-sharing", "permit-port-sharing"],
    )
    .refuse(
        "the TLS library's own order is used",
        &["tls-curve-preferences"],
    )
    .refuse("no file is written", &["write-config-to"])
}

/// The file, and above it the flags. As upstream, flags of the connection count only without a file that names one.
fn config(flags: &Flags) -> Result<Config, Error> {
    let mut config = match flags.path("config") {
        None => Config::default(),
        Some(path) => Config::load(&path)?,
    };
    let is_set = |name: &str| flags.path("config").is_none() || flags.is_set(name);
    if flags.is_set("pod-max-in-unschedulable-pods-duration") {
        config.times.max_unschedulable = flags.duration("pod-max-in-unschedulable-pods-duration");
    }
    let election = &mut config.election;
    if is_set("leader-elect") {
        election.elect = flags.bool("leader-elect");
    }
    for (name, place) in [
        ("leader-elect-lease-duration", &mut election.lease_duration),
        ("leader-elect-renew-deadline", &mut election.renew_deadline),
        ("leader-elect-retry-period", &mut election.retry_period),
    ] {
        if is_set(name) {
            *place = flags.duration(name);
        }
    }
    for (name, place) in [
        ("leader-elect-resource-name", &mut election.name),
        ("leader-elect-resource-namespace", &mut election.namespace),
    ] {
        if is_set(name) {
            *place = flags.string(name).to_owned();
        }
    }
    Ok(config)
}

/// Runs until `shutdown`, or until the lease is lost.
pub async fn run(flags: &Flags, shutdown: Shutdown) -> Result<(), Error> {
    let config = config(flags)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let absent: Vec<&str> = crate::plugins::PLUGINS
        .iter()
        .filter(|d| matches!(d.support, Support::Absent(Instead::Warned(_))))
        .map(|d| d.name)
        .collect();
    tracing::warn!(plugins = %absent.join(","), "Plugins that upstream runs by default are not there");
    let named = config.connection.clone();
    let connection = named.filter(|c| !c.kubeconfig.is_empty());
    let connection = connection.unwrap_or_else(|| Connection {
        kubeconfig: flags.string("kubeconfig").to_owned(),
        qps: flags.float("kube-api-qps") as f32,
        burst: u32::try_from(flags.int("kube-api-burst")).unwrap_or(100),
    });
    let options = Options {
        user_agent: component::version::user_agent("kube-scheduler"),
        qps: connection.qps,
        burst: connection.burst,
        ..Options::default()
    };
    let client = Client::from_flags(
        &connection.kubeconfig,
        flags.string("master"),
        options.clone(),
    )
    .await?;

    let registry = Registry::new();
    registry.features(&flags.features().map_err(Error::Flag)?);
    let metrics = Arc::new(Metrics::new(&registry));
    let (synced, election) = (Latch::default(), Election::default());
    let settings = config.election.clone();
    let (elects, lease_duration) = (settings.elect, settings.lease_duration);
    let filled = Filled {
        name: "sched-handler-sync",
        not_yet: "handlers are not fully synchronized",
    };
    let elected = elects.then_some((settings.name.as_str(), lease_duration));
    let handler = Standard {
        checks: election.checks(elected, &synced, filled, &shutdown),
        metrics: registry.clone(),
        rest: None,
    };
    secure_port::serve(
        flags,
        "kube-scheduler",
        &options,
        Arc::new(handler),
        &registry,
        &shutdown,
    )
    .await?;

    // Calls for leases and events must not wait behind bindings.
    let own = client.with_options(Options {
        qps: 0.0,
        ..options.clone()
    })?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let identity = format!(
        "{host}_{:016x}{:016x}",
        rand::random::<u64>(),
        rand::random::<u64>()
    );
    let (recorder, events) = Recorder::new(
        own.clone(),
        Format::Events,
        "default-scheduler",
        format!("default-scheduler-{host}"),
        shutdown.token.clone(),
    );
    shutdown.spawn(events);
    // `events.k8s.io` wants an action, which elections have none of.
    let (election_recorder, events) = Recorder::new(
        own.clone(),
        Format::Core,
        "default-scheduler",
        "",
        shutdown.token.clone(),
    );
    shutdown.spawn(events);

    let deps = shell::Dependencies {
        client,
        recorder,
        metrics,
        random: Box::new(rand::random),
        synced,
    };
    if !elects {
        shell::run(config, deps, shutdown.token.clone()).await;
        return Ok(());
    }
    let election = LeaderConfig {
        lease_duration,
        election,
        renew_deadline: settings.renew_deadline,
        retry_period: settings.retry_period,
        ..LeaderConfig::new(settings.namespace, settings.name, identity)
    };
    election
        .check()
        .map_err(|why| Error::Flag(format!("leaderElection: {why}")))?;
    // The lease has a connection of its own: whatever the scheduler sends does not hold it up.
    let elector = own.for_leases(election.renew_deadline).await?;
    lead(
        elector,
        election,
        election_recorder,
        shutdown.token.clone(),
        |stop| shell::run(config, deps, stop),
    )
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use component::flags::Outcome;

    use super::*;

    fn of(args: &[&str]) -> Config {
        match command_line().parse(args.iter().copied()).unwrap() {
            Outcome::Run(f) => config(&f).unwrap(),
            Outcome::Print(t) => panic!("{t}"),
        }
    }

    #[test]
    fn flags_of_the_election_override_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.yaml");
        std::fs::write(
            &file,
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nleaderElection: {leaderElect: false, leaseDuration: 40s, resourceName: mine}\n",
        )
        .unwrap();
        let config = format!("--config={}", file.display());
        let e = of(&[&config]).election;
        assert_eq!(
            (e.elect, e.lease_duration.as_secs(), e.name.as_str()),
            (false, 40, "mine")
        );
        let e = of(&[
            &config,
            "--leader-elect=true",
            "--leader-elect-resource-name=x",
        ])
        .election;
        assert_eq!(
            (e.elect, e.lease_duration.as_secs(), e.name.as_str()),
            (true, 40, "x")
        );
        let e = of(&["--leader-elect-lease-duration=20s"]).election;
        assert_eq!(
            (e.elect, e.lease_duration.as_secs(), e.name.as_str()),
            (true, 20, "kube-scheduler")
        );
    }
}
