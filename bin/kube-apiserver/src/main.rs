//! kube-apiserver: flags in, `apiserver::run` out. What is here is only the choice and the wiring of parts.

mod kubelet;
mod ranges;
mod tokens;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use apiserver::{Config, Core, Dependencies};
use auth::authz::node::{NodeGraph, PodView, ScheduledView};
use auth::authz::rbac::Kind;
use component::tls::{self, Tls};
use component::{Flags, Shutdown};
use ranges::Ranges;
use storage::{Listen, StorageConfig};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Trees as deep as `wire::json::MAX_DEPTH` are dropped and printed recursively. Only what is touched takes memory.
const STACK: usize = 128 * 1024 * 1024;

fn main() -> std::process::ExitCode {
    let flags = apiserver::flags::command_line().parse_or_exit();
    component::logging::init(&flags.logging());
    for warning in &flags.warnings {
        tracing::warn!("{warning}");
    }
    component::files::raise_limit();
    let run = || -> Result<()> {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_stack_size(STACK)
            .on_thread_park(component::memory::before_sleep)
            .build()
            .context("cannot start the runtime")?
            .block_on(serve(&flags))
    };
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            eprintln!("Error: {e:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// The store that the flags ask for: etcd where servers are named, the embedded one otherwise.
fn store_config(flags: &Flags) -> StorageConfig {
    let servers = flags.strings("etcd-servers");
    if servers.is_empty() {
        let dir = flags
            .path("data-dir")
            .unwrap_or_else(|| "/var/lib/keelson/apiserver".into());
        let retention = flags.duration("etcd-compaction-interval");
        return StorageConfig::Embedded {
            listen: vec![Listen::Unix(dir.join("etcd.sock"))],
            dir,
            options: storage::embedded::Options {
                retention,
                ..Default::default()
            },
        };
    }
    StorageConfig::Etcd(storage::etcd::EtcdConfig {
        servers: servers.to_vec(),
        ca_file: flags.path("etcd-cafile"),
        cert_file: flags.path("etcd-certfile"),
        key_file: flags.path("etcd-keyfile"),
    })
}

/// The address other machines reach this server at: the flag, or the one of the default route.
fn advertise(flags: &Flags) -> Result<IpAddr> {
    if let Some(ip) = flags
        .ip("advertise-address")
        .filter(|ip| !ip.is_unspecified())
    {
        return Ok(ip);
    }
    if let Some(ip) = flags.ip("bind-address").filter(|ip| !ip.is_unspecified()) {
        return Ok(ip);
    }
    // No packet is sent: the socket only asks the kernel for the route.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("192.0.2.1:9").ok();
    let ip = socket.local_addr()?.ip();
    if ip.is_unspecified() {
        bail!("no default route to find an address by; set --advertise-address");
    }
    Ok(ip)
}

async fn serve(flags: &Flags) -> Result<()> {
    // A wrong flag ends here, before anything is opened or made.
    let ranges = Ranges::new(flags)?;
    let max_in_flight = ranges::in_flight(flags)?;
    let features = flags.features().map_err(|e| anyhow!(e))?;
    let enable = flags.strings("enable-admission-plugins");
    let disable = flags.strings("disable-admission-plugins");
    admission::chain::Chain::check(enable, disable)?;
    let limited = match flags.path("admission-control-config-file") {
        Some(path) => admission::config::load(&path)?,
        None => Vec::new(),
    };
    let advertise = advertise(flags)?;
    let publish = flags.string("endpoint-reconciler-type") != "none";
    if publish {
        ranges.check_family(advertise)?;
    }
    let authentication_info = authentication_info(flags)?;
    let kubelet_tls = kubelet::client(flags)?;
    let tls = tls(flags, advertise, &ranges.addresses)?;

    let shutdown = Shutdown::on_signals()?;
    let stop = shutdown.token.clone();
    let store = storage::open(store_config(flags))
        .await
        .context("cannot open the store")?;
    let store = storage::rooted(store, flags.string("etcd-prefix"));
    let core = Core::new(store.clone(), stop.clone());
    let reader = core.reader();

    let mut auth = auth::setup::new(flags, reader).map_err(|e| anyhow!(e))?;
    let used_tokens = std::mem::replace(&mut auth.used, tokio::sync::mpsc::channel(1).1);
    let authenticator = auth.authenticator.clone();
    let authorizer = auth.authorizer.clone();

    let resources = registry::resources(&registry::Config {
        store: store.clone(),
        service_cidrs: ranges.addresses.clone(),
        node_ports: ranges.ports.clone(),
        allow_privileged: flags.bool("allow-privileged"),
        event_ttl_seconds: i64::try_from(flags.duration("event-ttl").as_secs()).unwrap_or(3600),
        kubelet_address_types: flags.strings("kubelet-preferred-address-types").to_vec(),
        tokens: tokens::issuer(&auth),
        authenticator: Some(Arc::new(auth.tokens.clone())),
        audiences: auth.policy.api_audiences.clone(),
    });
    core.add(resources);

    observe(&core, &auth)?;
    let deps = admission::chain::Deps {
        not_ready_seconds: flags.int("default-not-ready-toleration-seconds"),
        unreachable_seconds: flags.int("default-unreachable-toleration-seconds"),
        authorizer: authorizer.clone(),
        quotas: Some(apiserver::quotas(&core)),
        limited,
    };
    let missing = admission::chain::Chain::missing(disable);
    tracing::warn!(plugins = %missing.join(","), "Admission plugins that upstream runs by default are not there");
    let chain = admission::chain::Chain::new(enable, disable, &deps)?;

    let port = flags.port("secure-port");
    let bind = flags
        .ip("bind-address")
        .unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let serving = component::metrics::Registry::new();
    tls.register(&serving);
    let config = Config {
        bind: SocketAddr::new(bind, port),
        advertise: SocketAddr::new(advertise, port).to_string(),
        request_timeout: match flags.duration("request-timeout") {
            Duration::ZERO => Duration::from_secs(60),
            d => d,
        },
        max_in_flight,
        features,
        max_streams: flags.int("http2-max-streams-per-connection"),
        ..Config::default()
    };
    let dependencies = Dependencies {
        core,
        authenticator,
        authorizer,
        admission: chain.into_plugins(),
        kubelet_tls,
        hooks: registry::bootstrap::hooks(&registry::bootstrap::Config {
            store,
            service_cidrs: ranges.addresses,
            node_ports: ranges.ports,
            // Endpoints must not lead to a loopback address.
            advertise: (publish && !advertise.is_loopback()).then_some(advertise),
            secure_port: port,
            authentication_info,
            used_tokens: Arc::new(Mutex::new(Some(used_tokens))),
        }),
        extra_paths: tokens::paths(&auth, flags, &config.advertise),
        extra_metrics: vec![Arc::new(move || serving.render())],
    };
    tokio::spawn(component::memory::keep_small(stop.clone()));
    apiserver::run(config, dependencies, tls, stop).await?;
    Ok(())
}

/// The serving certificates. Without files a self-signed one is made in `--cert-dir`, for the names that clients use.
fn tls(flags: &Flags, advertise: IpAddr, services: &[(IpAddr, u8)]) -> Result<Tls> {
    let mut names = vec![advertise.to_string()];
    names.extend(
        [
            "kubernetes.default.svc",
            "kubernetes.default",
            "kubernetes",
            "localhost",
            "127.0.0.1",
        ]
        .map(str::to_owned),
    );
    let kubernetes = services
        .first()
        .map(|(ip, len)| registry::bootstrap::first_address(*ip, *len));
    names.extend(kubernetes.map(|ip| ip.to_string()));
    let tls = Tls::new(&tls::Options {
        cert_file: flags.path("tls-cert-file"),
        key_file: flags.path("tls-private-key-file"),
        cert_dir: flags.path("cert-dir"),
        pair_name: "apiserver".into(),
        self_signed_sans: names,
        sni: flags.strings("tls-sni-cert-key").to_vec(),
        client_ca_files: ["client-ca-file", "requestheader-client-ca-file"]
            .iter()
            .filter_map(|f| flags.path(f))
            .collect(),
        min_version: flags.string("tls-min-version").to_owned(),
        cipher_suites: flags.strings("tls-cipher-suites").to_vec(),
        http2: !flags.bool("disable-http2-serving"),
    })?;
    Ok(tls)
}

/// What aggregated servers read in `extension-apiserver-authentication`: whom to trust, and by which headers.
fn authentication_info(flags: &Flags) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for (flag, key) in [
        ("client-ca-file", "client-ca-file"),
        (
            "requestheader-client-ca-file",
            "requestheader-client-ca-file",
        ),
    ] {
        if let Some(path) = flags.path(flag) {
            let pem = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            out.insert(key.to_owned(), pem);
        }
    }
    if out.contains_key("requestheader-client-ca-file") {
        for key in [
            "requestheader-allowed-names",
            "requestheader-extra-headers-prefix",
            "requestheader-group-headers",
            "requestheader-uid-headers",
            "requestheader-username-headers",
        ] {
            out.insert(key.to_owned(), serde_json::to_string(flags.strings(key))?);
        }
    }
    Ok(out)
}

/// Keeps the authorizers' indexes current with the caches, and tells of guards that are stored, by whomever, and do nothing.
fn observe(core: &Arc<Core>, auth: &auth::setup::Auth) -> Result<()> {
    const GUARDS: &str = "admissionregistration.k8s.io";
    let idle = registry::builtin::BUILTINS
        .iter()
        .filter(|b| b.group == GUARDS && !b.support.is_there());
    for line in idle {
        core.observe(
            GUARDS,
            line.resource,
            Arc::new(move |_, name, seen| {
                if seen.is_some() {
                    tracing::warn!(
                        resource = line.resource,
                        name,
                        "Stored and without effect: {}",
                        line.support.text()
                    );
                }
            }),
        )
        .map_err(|s| anyhow!(s.message))?;
    }
    for kind in Kind::ALL {
        let index = auth.rbac.clone();
        core.observe(
            "rbac.authorization.k8s.io",
            kind.resource(),
            Arc::new(move |namespace, name, seen| {
                let object = seen.and_then(|s| s.value().ok());
                index.changed(kind, namespace, name, object.as_ref());
            }),
        )
        .map_err(|s| anyhow!(s.message))?;
    }
    for (group, resource) in NodeGraph::RESOURCES {
        let graph = auth.nodes.clone();
        core.observe(
            group,
            resource,
            Arc::new(move |namespace, name, seen| match seen {
                Some(s) if resource == "pods" => {
                    // Most of what a pod refers to matters only once it has a node.
                    if s.view::<ScheduledView>().is_ok_and(|v| v.is_scheduled())
                        && let Ok(view) = s.view::<PodView>()
                    {
                        graph.set_pod(&view);
                    }
                }
                Some(s) => graph.changed(resource, namespace, name, s.value().ok().as_ref()),
                None => graph.changed(resource, namespace, name, None),
            }),
        )
        .map_err(|s| anyhow!(s.message))?;
    }
    Ok(())
}
