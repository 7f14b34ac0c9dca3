//! The images that come with Keelson, built from files of this machine, without a registry.
//!
//! - `keelson.local/pause:1`, the first process of every pod;
//! - `keelson.local/busybox:1`, from the static busybox of this machine;
//! - `keelson.local/hello:1` and `:2`, the sample web server, to roll from one to the other;
//! - `keelson.local/NAME:VERSION` for each daemon, for static pods and the kube-proxy DaemonSet.
//!
//! An image of a dynamically linked program holds the libraries that `ldd` names. The same inputs give the same bytes.

mod archive;

use crate::cluster::{Cluster, Store, write_file};
use crate::run;
use anyhow::{Context, Result};
pub use archive::{Image, Layer};
use std::path::{Path, PathBuf};
use std::process::Command;

const DAEMONS: [&str; 5] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];

/// The image name of a daemon.
pub fn daemon_image(daemon: &str) -> String {
    format!("keelson.local/{daemon}:v{}", env!("CARGO_PKG_VERSION"))
}

/// A program beside the daemons or beside keelson itself.
fn own_program(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let beside_me = std::env::current_exe()
        .ok()
        .and_then(|p| p.parent().map(|d| d.join(name)));
    [Some(cluster.binary(name)), beside_me]
        .into_iter()
        .flatten()
        .find(|p| p.is_file())
        .with_context(|| {
            format!(
                "{} is not built; `make build` builds it",
                cluster.binary(name).display()
            )
        })
}

/// The shared libraries of a program; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let out = Command::new("ldd")
        .arg(program)
        .output()
        .context("run ldd (Debian: apt-get install libc-bin)")?;
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        let path = match line.split_once("=>") {
            Some((_, right)) => right.trim(),
            None => line.trim(),
        };
        if let Some(path) = path
            .split_whitespace()
            .next()
            .filter(|p| p.starts_with('/'))
        {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

/// A layer with programs at the given places, and all their libraries.
fn programs(places: &[(PathBuf, &str)]) -> Result<Layer> {
    let mut layer = Layer::default();
    for (program, place) in places {
        layer.file(
            place,
            &std::fs::read(program).with_context(|| format!("read {}", program.display()))?,
            0o755,
        );
        for library in libraries(program)? {
            let content =
                std::fs::read(&library).with_context(|| format!("read {}", library.display()))?;
            layer.file(&library.to_string_lossy(), &content, 0o755);
        }
    }
    Ok(layer)
}

fn busybox_layer() -> Result<Layer> {
    let program = run::find_program("busybox")
        .context("busybox is not installed (Debian: apt-get install busybox-static)")?;
    let mut layer = programs(&[(program.clone(), "/bin/busybox")])?;
    for applet in run::output(Command::new(&program).arg("--list"))?.lines() {
        if applet != "busybox" {
            layer.link(&format!("/bin/{applet}"), "busybox");
        }
    }
    layer.file(
        "/etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        0o644,
    );
    layer.file("/etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644);
    layer.directory("/tmp", 0o1777);
    layer.directory("/root", 0o700);
    Ok(layer)
}

/// The sample images.
fn samples(cluster: &Cluster) -> Result<Vec<Image>> {
    let base = busybox_layer()?;
    let hello = programs(&[(own_program(cluster, "hello")?, "/hello")])?;
    let pause = programs(&[(own_program(cluster, "pause")?, "/pause")])?;
    let image = |name: &str, layers: Vec<Layer>, command: &str, environment: Vec<String>| Image {
        name: name.into(),
        layers,
        entrypoint: vec![command.into()],
        environment,
    };
    let versioned = |n: u8| {
        image(
            &format!("keelson.local/hello:{n}"),
            vec![base.clone(), hello.clone()],
            "/hello",
            vec![format!("VERSION={n}")],
        )
    };
    let mut busybox = image(
        "keelson.local/busybox:1",
        vec![base.clone()],
        "",
        Vec::new(),
    );
    busybox.entrypoint.clear();
    Ok(vec![
        image(
            crate::configs::PAUSE_IMAGE,
            vec![pause],
            "/pause",
            Vec::new(),
        ),
        busybox,
        versioned(1),
        versioned(2),
    ])
}

/// The programs that kube-proxy runs.
fn proxy_tools(layer: &mut Layer) -> Result<()> {
    for (tool, place) in [
        ("xtables-nft-multi", "/usr/sbin/xtables-nft-multi"),
        ("nft", "/usr/sbin/nft"),
        ("conntrack", "/usr/sbin/conntrack"),
    ] {
        let program = run::find_program(tool).with_context(|| {
            format!("{tool} is not installed (Debian: apt-get install iptables nftables conntrack)")
        })?;
        layer.merge(programs(&[(program, place)])?);
    }
    for name in [
        "iptables",
        "iptables-restore",
        "iptables-save",
        "ip6tables",
        "ip6tables-restore",
        "ip6tables-save",
    ] {
        layer.link(&format!("/usr/sbin/{name}"), "xtables-nft-multi");
    }
    for dir in [
        "/usr/lib/x86_64-linux-gnu/xtables",
        "/usr/lib/aarch64-linux-gnu/xtables",
    ] {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            layer.file(&path.to_string_lossy(), &std::fs::read(&path)?, 0o644);
        }
    }
    Ok(())
}

/// The image of one daemon.
fn daemon(cluster: &Cluster, name: &str) -> Result<Image> {
    let program = match name {
        "etcd" => run::find_program(name)
            .context("etcd is not installed (Debian: apt-get install etcd-server)")?,
        _ => own_program(cluster, name)?,
    };
    let place = format!("/usr/local/bin/{name}");
    let mut layer = programs(&[(program, place.as_str())])?;
    if name == "kube-proxy" {
        proxy_tools(&mut layer)?;
    }
    Ok(Image {
        name: daemon_image(name),
        layers: vec![layer],
        entrypoint: vec![place],
        environment: Vec::new(),
    })
}

/// What the archive depends on: size and time of change of every input.
fn fingerprint(inputs: &[PathBuf]) -> String {
    let mut text = String::from(env!("CARGO_PKG_VERSION"));
    for path in inputs {
        use std::os::unix::fs::MetadataExt;
        if let Ok(m) = std::fs::metadata(path) {
            text.push_str(&format!(
                "\n{} {} {}.{}",
                path.display(),
                m.size(),
                m.mtime(),
                m.mtime_nsec()
            ));
        }
    }
    text
}

fn build(
    cluster: &Cluster,
    name: &str,
    inputs: &[PathBuf],
    images: impl FnOnce() -> Result<Vec<Image>>,
) -> Result<PathBuf> {
    let path = cluster.images_dir().join(format!("{name}.tar"));
    let key = cluster.images_dir().join(format!("{name}.key"));
    let wanted = fingerprint(inputs);
    if path.is_file() && std::fs::read_to_string(&key).is_ok_and(|k| k == wanted) {
        return Ok(path);
    }
    write_file(&path, &archive::write(&images()?)?, 0o644)?;
    write_file(&key, wanted.as_bytes(), 0o644)?;
    Ok(path)
}

/// Builds the archive of the sample images, unless it is there already; its path.
pub fn build_samples(cluster: &Cluster) -> Result<PathBuf> {
    let mut inputs = vec![
        own_program(cluster, "hello")?,
        own_program(cluster, "pause")?,
    ];
    inputs.extend(run::find_program("busybox"));
    build(cluster, "samples", &inputs, || samples(cluster)).context("build the sample images")
}

fn build_of(cluster: &Cluster, archive: &str, daemons: &[&str]) -> Result<PathBuf> {
    let mut inputs = Vec::new();
    for name in daemons {
        inputs.extend(match *name {
            "etcd" => run::find_program("etcd"),
            _ => Some(own_program(cluster, name)?),
        });
    }
    let images = || daemons.iter().map(|name| daemon(cluster, name)).collect();
    build(cluster, archive, &inputs, images)
}

/// Builds the archive of all daemons' images, and etcd's where it is installed, unless it is there already; its path.
pub fn build_daemons(cluster: &Cluster) -> Result<PathBuf> {
    let mut names = DAEMONS.to_vec();
    if run::find_program("etcd").is_some() {
        names.push("etcd");
    }
    build_of(cluster, "daemons", &names).context("build the daemons' images")
}

/// Builds the archive of what this cluster's static pods need, unless it is there already; its path.
pub fn build_control_plane(cluster: &Cluster) -> Result<PathBuf> {
    let mut names = vec![
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
    ];
    if cluster.store == Store::Etcd {
        names.push("etcd");
    }
    build_of(cluster, "control-plane", &names).context("build the control plane's images")
}

fn ctr(cluster: &Cluster, node: &str) -> Command {
    let mut command = Command::new("ctr");
    command
        .arg("--address")
        .arg(cluster.containerd_socket(node))
        .args(["--namespace", "k8s.io"]);
    command
}

/// Puts the images of an archive on a node, unless this very archive has been put there before.
pub fn import(cluster: &Cluster, node: &str, archive: &Path) -> Result<()> {
    let name = archive.file_stem().unwrap_or_default().to_string_lossy();
    let mark = cluster
        .node_dir(node)
        .join(format!("containerd/keelson-{name}.imported"));
    let wanted = fingerprint(&[archive.to_path_buf()]);
    if std::fs::read_to_string(&mark).is_ok_and(|m| m == wanted) {
        return Ok(());
    }
    import_always(cluster, node, archive)?;
    write_file(&mark, wanted.as_bytes(), 0o644)
}

/// Puts the images of an archive on a node; what containerd says.
pub fn import_always(cluster: &Cluster, node: &str, archive: &Path) -> Result<String> {
    run::output(ctr(cluster, node).args(["images", "import"]).arg(archive))
        .with_context(|| format!("put the images of {} on {node}", archive.display()))
}

/// The names of the images on a node.
pub fn list(cluster: &Cluster, node: &str) -> Result<Vec<String>> {
    let out = run::output(ctr(cluster, node).args(["images", "list", "--quiet"]))?;
    Ok(out
        .lines()
        .filter(|l| !l.starts_with("sha256:"))
        .map(str::to_string)
        .collect())
}
