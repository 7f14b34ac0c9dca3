//! `keelson up`: starts a cluster, or repairs the one that is there. Every step does only what is not done yet.

use crate::args::{Args, duration};
use crate::cgroup::Hierarchies;
use crate::cluster::{Cluster, ControlPlane, Node, NodeState, choice, write_file};
use crate::configs::{self, Abilities};
use crate::identity::{self, Identity};
use crate::rest::Api;
use crate::steps::Steps;
use crate::supervise;
use crate::units;
use crate::{certs, host, images, net, objects, preflight, static_pods};
use anyhow::{Context, Result, bail};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Settings of the machine that kubelets change, kept so that `down` can put them back.
pub const SYSCTLS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

pub fn main(dir: PathBuf, mut args: Args) -> Result<ExitCode> {
    let existing = Cluster::find(&dir)?;
    let fresh = existing.is_none();
    let mut cluster = existing.unwrap_or_else(|| Cluster::new(dir));
    apply_options(&mut cluster, &mut args, fresh)?;
    if fresh {
        cluster.identity = Some(new_identity(&cluster)?);
    }
    let timeout = match args.option("timeout")? {
        Some(text) => duration(&text)?,
        None => Duration::from_secs(120),
    };
    args.end()?;
    let steps = Steps::new();
    say!(
        "{} cluster {} with {} nodes",
        if fresh { "Starting" } else { "Checking" },
        cluster.name,
        cluster.nodes.len()
    );
    bring_up(&cluster, &steps, timeout)?;
    say!(
        "\nReady after {1:.1} s. The kubeconfig is {2}.\n\n\
         Try next:\n  \
         export KUBECONFIG={2}\n  \
         kubectl get nodes -o wide\n  \
         kubectl create deployment hello --image=keelson.local/hello:1 --replicas=4\n  \
         kubectl expose deployment hello --port=80 --target-port=8080\n  \
         {0} exec node-1 curl -s http://$(kubectl get service hello -o jsonpath='{{.spec.clusterIP}}')\n  \
         kubectl set image deployment/hello hello=keelson.local/hello:2\n  \
         {0} status",
        call_again(&cluster.dir),
        steps.seconds(),
        cluster.admin_kubeconfig().display(),
    );
    Ok(ExitCode::SUCCESS)
}

/// An identity for a new cluster, in a directory that holds nothing which `down` could take for its own.
fn new_identity(cluster: &Cluster) -> Result<Identity> {
    let dir = &cluster.dir;
    if let Some(old) = Identity::read(dir)? {
        bail!(
            "{} holds what is left of the cluster {}; `keelson down` removes it",
            dir.display(),
            old.name
        );
    }
    let mut identity = Identity::random(&cluster.name, dir)?;
    for name in super::down::OWN {
        if std::fs::symlink_metadata(dir.join(name)).is_err() {
            continue;
        }
        // `keelson images build` needs no cluster.
        if name != "images" {
            bail!(
                "{} holds \"{name}\" and no cluster; choose an empty directory with --state-dir",
                dir.display()
            );
        }
        identity.kept.push(name.into());
    }
    Ok(identity)
}

/// How this program is called for this cluster from the user's shell.
fn call_again(dir: &Path) -> String {
    let own = std::env::current_exe().unwrap_or_default();
    let same = |path: PathBuf| path.canonicalize().is_ok_and(|p| p == own);
    let mut call = if crate::run::find_program("keelson").is_some_and(same) {
        "keelson".to_string()
    } else {
        own.display().to_string()
    };
    if crate::cluster::state_dir(None).is_ok_and(|d| d != dir) {
        call.push_str(&format!(" --state-dir {}", dir.display()));
    }
    call
}

fn apply_options(cluster: &mut Cluster, args: &mut Args, fresh: bool) -> Result<()> {
    let must_be_fresh = |flag: &str, same: bool| -> Result<()> {
        if !fresh && !same {
            bail!("--{flag} cannot be changed while the cluster exists; `keelson down` removes it");
        }
        Ok(())
    };
    if let Some(name) = args.option("name")? {
        must_be_fresh("name", name == cluster.name)?;
        cluster.rename(name)?;
    }
    if let Some(text) = args.option("store")? {
        let store = choice("store", &text, "embedded, etcd")?;
        must_be_fresh("store", store == cluster.store)?;
        cluster.store = store;
    }
    if let Some(text) = args.option("control-plane")? {
        let how = choice("control-plane", &text, "processes, static-pods")?;
        must_be_fresh("control-plane", how == cluster.control_plane)?;
        cluster.control_plane = how;
    }
    if let Some(text) = args.option("subnet")? {
        let bytes = parse_subnet(&text)?;
        must_be_fresh("subnet", bytes == cluster.subnet)?;
        cluster.subnet = bytes;
    }
    if let Some(text) = args.option("proxy-mode")? {
        cluster.proxy_mode = choice("proxy-mode", &text, "nftables, iptables")?;
    }
    if let Some(text) = args.option("bin-dir")? {
        cluster.bin_dir = std::path::absolute(text)?;
    }
    let wanted: usize = match args.option("nodes")? {
        Some(text) => match text.parse() {
            Ok(n @ 1..=50) => n,
            _ => bail!("--nodes {text}: choose a number from 1 to 50"),
        },
        None if fresh => 3,
        None => cluster.nodes.len().max(1),
    };
    if wanted < cluster.nodes.len() {
        bail!(
            "the cluster has {} nodes already; `keelson node remove NAME` removes one",
            cluster.nodes.len()
        );
    }
    while cluster.nodes.len() < wanted {
        cluster.add_node(None)?;
    }
    Ok(())
}

/// Private ranges only: nothing of a cluster may look like an address of somebody else.
fn parse_subnet(text: &str) -> Result<[u8; 3]> {
    let head = text
        .strip_suffix(".0/24")
        .with_context(|| format!("--subnet {text}: write it like 10.89.0.0/24"))?;
    let bytes: Vec<u8> = head
        .split('.')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("--subnet {text}"))?;
    match bytes.as_slice() {
        [10, 96 | 244, _] => bail!(
            "--subnet {text} overlaps with the addresses of services or pods (10.96.0.0/16, 10.244.0.0/16)"
        ),
        [10, b, c] => Ok([10, *b, *c]),
        [172, b @ 16..=31, c] => Ok([172, *b, *c]),
        [192, 168, c] => Ok([192, 168, *c]),
        _ => bail!(
            "--subnet {text} is not private; choose one in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"
        ),
    }
}

/// Everything but the farewell. Also used by `node add` and `node start`.
pub fn bring_up(cluster: &Cluster, steps: &Steps, timeout: Duration) -> Result<()> {
    let hierarchies = Hierarchies::detect()?;
    let since = Instant::now();
    if let Some(other) = identity::name_in_use(
        &hierarchies,
        &cluster.name,
        &cluster.group().to_string_lossy(),
    ) {
        bail!("{other}; choose another name with --name");
    }
    let abilities = preflight::check(cluster)?;
    steps.done("this machine has what is needed", since);
    std::fs::create_dir_all(&cluster.dir)
        .with_context(|| format!("make {}", cluster.dir.display()))?;
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&cluster.dir, PermissionsExt::from_mode(0o755))?;
    }
    // First of all: what is made from here on is found by it.
    if let Some(identity) = &cluster.identity {
        identity.write()?;
    }
    cluster.save()?;
    keep_sysctls(cluster)?;
    for dir in [
        cluster.run_dir(),
        cluster.units_dir(),
        cluster.logs_dir(),
        cluster.images_dir(),
    ] {
        std::fs::create_dir_all(dir)?;
    }

    let since = Instant::now();
    certs::ensure(cluster)?;
    steps.done("certificates and kubeconfigs", since);

    let since = Instant::now();
    host::prepare(cluster)?;
    net::ensure_switch(cluster)?;
    let running: Vec<&Node> = cluster
        .nodes
        .iter()
        .filter(|n| n.state != NodeState::Stopped)
        .collect();
    each(&running, |node| {
        prepare_node(cluster, &hierarchies, &abilities, node)
    })?;
    net::connect_pods(cluster)?;
    steps.done(
        &format!("namespaces and network of {} nodes", running.len()),
        since,
    );

    let since = Instant::now();
    supervise::ensure_running(cluster, &hierarchies)?;
    units::write(cluster, &units::wanted(cluster)?)?;
    supervise::request(cluster, "reload")?;
    steps.done("supervisor, control plane and containerd started", since);

    let since = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let names: Vec<String> = running.iter().map(|n| n.name.clone()).collect();
    std::thread::scope(|scope| -> Result<()> {
        let loading = scope.spawn(|| -> Result<()> {
            let samples = images::build_samples(cluster)?;
            each(&names, |name| {
                let socket = cluster.containerd_socket(name);
                wait_for_socket(&socket, Duration::from_secs(20)).with_context(|| {
                    format!("containerd on {name} does not start; see `keelson logs containerd --node {name}`")
                })?;
                images::import(cluster, name, &samples)?;
                let first = cluster.nodes.first().is_some_and(|n| n.name == *name);
                if first && cluster.control_plane == ControlPlane::StaticPods {
                    images::import(cluster, name, &images::build_control_plane(cluster)?)?;
                    // Only now: a kubelet that does not find an image waits long before it looks again.
                    static_pods::write(cluster)?;
                }
                Ok(())
            })?;
            steps.done("sample images on the nodes", since);
            Ok(())
        });
        let api = runtime.block_on(async {
            let api = Api::new(cluster)?;
            api.wait_ready(timeout).await?;
            steps.done("the apiserver is ready", since);
            objects::ensure_rbac(&api).await?;
            let mut actual = cluster.clone();
            for node in &mut actual.nodes {
                let range = objects::ensure_node(&api, cluster, node).await?;
                if range != cluster.pod_range(node) {
                    node.pod_range = Some(range);
                }
                write_file(&cluster.registered_mark(&node.name), b"", 0o644)?;
            }
            follow_ranges(cluster, &actual, &abilities)?;
            anyhow::Ok(api)
        })?;
        units::write(cluster, &units::wanted(cluster)?)?;
        supervise::request(cluster, "reload")?;
        let expected: HashSet<String> = cluster
            .nodes
            .iter()
            .filter(|n| n.state == NodeState::Running)
            .map(|n| n.name.clone())
            .collect();
        runtime.block_on(wait_nodes(&api, steps, expected, timeout))?;
        loading
            .join()
            .unwrap_or_else(|_| Err(anyhow::anyhow!("loading the images was interrupted")))
    })
}

/// Where nodes have other ranges of pod addresses than planned, makes the routes and CNI follow.
fn follow_ranges(planned: &Cluster, actual: &Cluster, abilities: &Abilities) -> Result<()> {
    if planned.nodes == actual.nodes {
        return Ok(());
    }
    actual.save()?;
    for node in actual
        .nodes
        .iter()
        .filter(|n| n.state != NodeState::Stopped)
    {
        configs::write(actual, node, abilities)?;
    }
    net::connect_pods(actual)
}

/// A node's namespaces, cable, control group and configuration files.
pub fn prepare_node(
    cluster: &Cluster,
    hierarchies: &Hierarchies,
    abilities: &Abilities,
    node: &Node,
) -> Result<()> {
    net::ensure_node(cluster, node)?;
    host::ensure(cluster, node)?;
    hierarchies.create(&cluster.group().join(&node.name))?;
    configs::write(cluster, node, abilities)
}

/// Does something for several nodes at once; the first error.
pub fn each<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let tasks: Vec<_> = items
            .iter()
            .map(|item| scope.spawn(|| work(item)))
            .collect();
        let results: Vec<Result<()>> = tasks
            .into_iter()
            .map(|t| {
                t.join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("interrupted")))
            })
            .collect();
        results.into_iter().collect()
    })
}

fn wait_for_socket(path: &std::path::Path, timeout: Duration) -> Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Ok(()),
            Err(e) if Instant::now() > deadline => {
                return Err(e).with_context(|| format!("connect to {}", path.display()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

async fn wait_nodes(
    api: &Api,
    steps: &Steps,
    mut missing: HashSet<String>,
    timeout: Duration,
) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let since = Instant::now();
    let ready = api
        .watch("/api/v1/nodes", timeout, |_, node| {
            let name = node
                .pointer("/metadata/name")
                .and_then(serde_json::Value::as_str)
                .unwrap_or_default();
            if objects::is_ready(node) && missing.remove(name) {
                steps.done(&format!("{name} is Ready"), since);
            }
            missing.is_empty()
        })
        .await?;
    if !ready {
        let mut names: Vec<String> = missing.into_iter().collect();
        names.sort();
        bail!(
            "not Ready after {} s: {}; `keelson status` shows which daemons run, `keelson logs kubelet --node {}` why a node is not Ready",
            timeout.as_secs(),
            names.join(", "),
            names.first().map_or("", String::as_str)
        );
    }
    Ok(())
}

fn keep_sysctls(cluster: &Cluster) -> Result<()> {
    let path = cluster.dir.join("sysctls.json");
    if path.exists() {
        return Ok(());
    }
    let values: Vec<(String, String)> = SYSCTLS
        .iter()
        .filter_map(|name| {
            Some((
                name.to_string(),
                std::fs::read_to_string(format!("/proc/sys/{name}"))
                    .ok()?
                    .trim()
                    .to_string(),
            ))
        })
        .collect();
    write_file(&path, &serde_json::to_vec(&values)?, 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_subnets_are_taken() {
        assert_eq!(parse_subnet("10.89.7.0/24").unwrap(), [10, 89, 7]);
        let (public, taken, form) = (
            "is not private",
            "overlaps with the addresses of services or pods",
            "write it like 10.89.0.0/24",
        );
        for (bad, why) in [
            ("8.8.8.0/24", public),
            ("10.96.0.0/24", taken),
            ("10.244.1.0/24", taken),
            ("172.40.0.0/24", public),
            ("10.89.0.0/16", form),
            ("10.89.0.1/24", form),
            ("x", form),
        ] {
            let error = parse_subnet(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_new_cluster_needs_a_directory_without_anything_like_it() {
        let dir = std::env::temp_dir().join(format!("keelson-new-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("images")).unwrap();
        std::fs::write(dir.join("notes"), "").unwrap();
        let mut cluster = Cluster::new(dir.clone());
        let identity = new_identity(&cluster).unwrap();
        assert_eq!(identity.kept, ["images"]);
        identity.write().unwrap();
        cluster.identity = Some(identity);
        let error = new_identity(&cluster).unwrap_err().to_string();
        assert!(error.contains("keelson down"), "{error}");
        std::fs::remove_file(dir.join("identity.json")).unwrap();
        std::fs::create_dir(dir.join("nodes")).unwrap();
        let error = new_identity(&cluster).unwrap_err().to_string();
        assert!(error.contains("holds \"nodes\""), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    fn options(words: &[&str]) -> Args {
        Args::new(words.iter().map(|w| w.to_string()).collect())
    }

    #[test]
    fn what_a_running_cluster_is_built_on_cannot_be_changed() {
        let mut cluster = Cluster::new("/x".into());
        apply_options(
            &mut cluster,
            &mut options(&["--nodes=2", "--store=etcd"]),
            true,
        )
        .unwrap();
        assert_eq!(cluster.nodes.len(), 2);
        apply_options(
            &mut cluster,
            &mut options(&["--store=etcd", "--proxy-mode=iptables"]),
            false,
        )
        .unwrap();
        let error =
            apply_options(&mut cluster, &mut options(&["--store=embedded"]), false).unwrap_err();
        assert!(error.to_string().contains("keelson down"), "{error}");
        for (option, fresh, why) in [
            ("--nodes=1", false, "the cluster has 2 nodes already"),
            ("--store=x", true, "--store x"),
        ] {
            let error = apply_options(&mut cluster, &mut options(&[option]), fresh);
            let error = error.unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
