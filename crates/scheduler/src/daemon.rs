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

use crate::config::{self, Config, ConfigError, Connection};
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

/// Where the apiserver is and how fast it may be called: what a file that names one says, the flags otherwise.
fn connection(flags: &Flags, config: &Config) -> (String, Options) {
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
    (connection.kubeconfig, options)
}

/// For calls that must not wait behind bindings.
fn unlimited(options: &Options) -> Options {
    Options {
        qps: 0.0,
        ..options.clone()
    }
}

fn leader(
    settings: config::Election,
    identity: String,
    election: Election,
) -> Result<LeaderConfig, Error> {
    let config = LeaderConfig {
        lease_duration: settings.lease_duration,
        election,
        renew_deadline: settings.renew_deadline,
        retry_period: settings.retry_period,
        ..LeaderConfig::new(settings.namespace, settings.name, identity)
    };
    config
        .check()
        .map_err(|why| Error::Flag(format!("leaderElection: {why}")))?;
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
    let (kubeconfig, options) = connection(flags, &config);
    let client = Client::from_flags(&kubeconfig, flags.string("master"), options.clone()).await?;

    let registry = Registry::new();
    registry.features(&flags.features().map_err(Error::Flag)?);
    let metrics = Arc::new(Metrics::new(&registry));
    let (synced, election) = (Latch::default(), Election::default());
    let settings = config.election.clone();
    let elects = settings.elect;
    let filled = Filled {
        name: "sched-handler-sync",
        not_yet: "handlers are not fully synchronized",
    };
    let elected = elects.then_some((settings.name.as_str(), settings.lease_duration));
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

    let own = client.with_options(unlimited(&options))?;
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
    let election = leader(settings, identity, election)?;
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

    fn of_args(args: &[&str]) -> Config {
        config(&flags(args)).unwrap()
    }

    fn flags(args: &[&str]) -> Flags {
        match command_line().parse(args.iter().copied()).unwrap() {
            Outcome::Run(f) => f,
            Outcome::Print(t) => panic!("{t}"),
        }
    }

    #[test]
    fn the_rate_is_that_of_the_flags_or_of_a_file_that_names_a_server() {
        let dir = tempfile::tempdir().unwrap();
        let with = |name: &str, connection: &str| {
            let file = dir.path().join(name);
            let text = format!(
                "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nclientConnection: {connection}\n"
            );
            std::fs::write(&file, text).unwrap();
            format!("--config={}", file.display())
        };
        let named = with("named", "{kubeconfig: /file, qps: 7, burst: 8}");
        let nameless = with("nameless", "{qps: 7, burst: 8}");
        let rate = [
            "--kubeconfig=/flag",
            "--kube-api-qps=3",
            "--kube-api-burst=4",
        ];
        for (config, path, qps, burst) in [
            (None, "/flag", 3.0, 4),
            (Some(&nameless), "/flag", 3.0, 4),
            (Some(&named), "/file", 7.0, 8),
        ] {
            let mut args = rate.to_vec();
            args.extend(config.map(String::as_str));
            let flags = flags(&args);
            let (kubeconfig, options) = connection(&flags, &super::config(&flags).unwrap());
            assert_eq!(
                (kubeconfig.as_str(), options.qps, options.burst),
                (path, qps, burst)
            );
            assert!(options.user_agent.starts_with("kube-scheduler/"));
            let own = unlimited(&options);
            assert_eq!((own.qps, own.burst), (0.0, burst));
            assert_eq!(own.user_agent, options.user_agent);
        }
    }

    #[test]
    fn the_times_of_the_election_are_used_and_have_to_fit() {
        let args = [
            "--leader-elect-lease-duration=30s",
            "--leader-elect-renew-deadline=20s",
            "--leader-elect-retry-period=5s",
            "--leader-elect-resource-name=n",
            "--leader-elect-resource-namespace=ns",
        ];
        let of = |settings| leader(settings, "me".into(), Election::default());
        let c = of(of_args(&args).election).unwrap();
        assert_eq!(
            [c.lease_duration, c.renew_deadline, c.retry_period].map(|d| d.as_secs()),
            [30, 20, 5]
        );
        assert_eq!(
            (c.name.as_str(), c.namespace.as_str(), c.identity.as_str()),
            ("n", "ns", "me")
        );
        let e = of(of_args(&["--leader-elect-renew-deadline=15s"]).election);
        let why = "leaderElection: leaseDuration must be greater than renewDeadline";
        assert_eq!(e.unwrap_err().to_string(), why);
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
        let e = of_args(&[&config]).election;
        assert_eq!(
            (e.elect, e.lease_duration.as_secs(), e.name.as_str()),
            (false, 40, "mine")
        );
        let e = of_args(&[
            &config,
            "--leader-elect=true",
            "--leader-elect-resource-name=x",
        ])
        .election;
        assert_eq!(
            (e.elect, e.lease_duration.as_secs(), e.name.as_str()),
            (true, 40, "x")
        );
        let e = of_args(&["--leader-elect-lease-duration=20s"]).election;
        assert_eq!(
            (e.elect, e.lease_duration.as_secs(), e.name.as_str()),
            (true, 20, "kube-scheduler")
        );
    }
}
