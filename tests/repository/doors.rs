//! Doors: which crates may depend on which, from `cargo metadata`. Dependencies of tests only are free.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Crates of the workspace by their folder name (`keelson-api` is `api`), with what they depend on: other crates of the
/// workspace by folder name, crates from outside by their own.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let out = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(super::root())
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    let short = |name: &str| name.strip_prefix("keelson-").unwrap_or(name).to_string();
    let mut all = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let of_tests = |d: &&Value| d["kind"] == "dev";
        let names = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|d| !of_tests(d));
        let names = names.map(|d| short(d["name"].as_str().unwrap())).collect();
        // A program and its crate may share a name; what either depends on counts.
        let name = short(package["name"].as_str().unwrap());
        let known: &mut BTreeSet<String> = all.entry(name).or_default();
        known.extend::<BTreeSet<String>>(names);
    }
    for name in DAEMONS
        .iter()
        .copied()
        .flatten()
        .chain(&["wire", "api", "component", "client"])
    {
        assert!(all.contains_key(*name), "there is no crate {name}");
    }
    all
}

/// Everything of the workspace that a crate depends on, directly or through others.
fn reaches(all: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from.to_string()];
    while let Some(name) = open.pop() {
        for next in all.get(&name).into_iter().flatten() {
            if all.contains_key(next) && seen.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    seen
}

/// Crates that belong to one daemon each.
const DAEMONS: [&[&str]; 5] = [
    &[
        "apiserver",
        "registry",
        "extensions",
        "admission",
        "storage",
    ],
    &["controllers"],
    &["scheduler"],
    // A program has the name of its daemon's crate in one case, `kubelet`; both are meant.
    &["kubelet"],
    &["proxy"],
];

#[test]
fn no_daemon_depends_on_another() {
    let all = dependencies();
    for own in DAEMONS {
        for name in own {
            let reached = reaches(&all, name);
            for other in DAEMONS.iter().filter(|o| *o != &own).copied().flatten() {
                assert!(
                    !reached.contains(*other),
                    "{name} depends on {other}, the crate of another daemon"
                );
            }
        }
    }
}

#[test]
fn only_the_apiservers_side_knows_the_store() {
    let allowed = [
        "storage",
        "apiserver",
        "registry",
        "extensions",
        "admission",
        "kube-apiserver",
        "testkit",
        "tests",
    ];
    for (name, needs) in dependencies() {
        if needs.contains("storage") {
            assert!(
                allowed.contains(&name.as_str()),
                "{name} depends on storage"
            );
        }
        let engines: Vec<&String> = needs
            .iter()
            .filter(|n| {
                n.contains("etcd") || ["fjall", "redb", "heed", "sled"].contains(&n.as_str())
            })
            .collect();
        assert!(
            engines.is_empty() || name == "storage",
            "{name} depends on {engines:?}"
        );
    }
}

#[test]
fn wire_knows_no_kubernetes_type_and_api_no_io() {
    let all = dependencies();
    assert!(
        reaches(&all, "wire").is_empty(),
        "wire depends on {:?}",
        reaches(&all, "wire")
    );
    for foreign in ["k8s-openapi", "kube", "tokio", "hyper"] {
        assert!(!all["wire"].contains(foreign), "wire depends on {foreign}");
    }
    for foreign in ["kube", "tokio", "hyper", "rustls", "reqwest", "tonic"] {
        assert!(!all["api"].contains(foreign), "api depends on {foreign}");
    }
    let allowed = BTreeSet::from(["wire".to_string()]);
    assert!(
        reaches(&all, "api").is_subset(&allowed),
        "api depends on {:?}",
        reaches(&all, "api")
    );
}

#[test]
fn component_knows_no_resource() {
    let all = dependencies();
    for foreign in ["api", "k8s-openapi", "kube", "registry", "client"] {
        assert!(
            !all["component"].contains(foreign),
            "component depends on {foreign}"
        );
    }
}

/// CVE-2020-8555, CVE-2025-13281: controllers fetch nothing on a user's word, so there is no body to give back. They have
/// no HTTP client besides the one that speaks to the apiserver.
#[test]
fn cve_2020_8555_controllers_speak_to_the_apiserver_only() {
    let all = dependencies();
    for foreign in [
        "reqwest",
        "ureq",
        "kube",
        "tonic",
        "hyper-util",
        "tokio-rustls",
        "rustls",
    ] {
        assert!(
            !all["controllers"].contains(foreign),
            "controllers depends on {foreign}"
        );
    }
    let mut folders = vec![super::root().join("crates/controllers/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for connection in [
                "hyper::client",
                "TcpStream",
                "UnixStream",
                "UdpSocket",
                "probe::get",
            ] {
                assert!(
                    !text.contains(connection),
                    "{} uses {connection}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn programs_are_thin() {
    // Parts of the apiserver's side that must not know each other are put together in its program.
    let limits = [
        ("kube-apiserver", 1000),
        ("kube-controller-manager", 80),
        ("kube-scheduler", 80),
        ("kube-proxy", 80),
        ("kubelet", 80),
    ];
    for (name, limit) in limits {
        let folder = super::root().join("bin").join(name).join("src");
        let lines: usize = std::fs::read_dir(&folder)
            .unwrap()
            .flatten()
            .map(|f| std::fs::read_to_string(f.path()).unwrap().lines().count())
            .sum();
        assert!(
            lines <= limit,
            "bin/{name} has {lines} lines; a program only parses flags and calls run()"
        );
    }
}
