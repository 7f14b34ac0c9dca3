//! Other clusters on the machine: each `down` and `up` is about its own state directory.

use crate::cluster::{Cluster, seconds, wait_for};
use std::path::Path;

const OTHER: &str = "/var/tmp/keelson-e2e-other";
/// As long as names may be.
const NAME: &str = "ke2e-second-cluster-with-a-name-of-forty";

fn processes(cluster: &Cluster) -> Vec<i32> {
    let daemons = [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
        "containerd",
    ];
    daemons
        .iter()
        .map(|d| cluster.daemon("node-1", d).unwrap().pid)
        .collect()
}

pub fn are_left_alone(cluster: &Cluster) {
    assert_eq!(NAME.len(), 40);
    let before = processes(cluster);
    let home = cluster.file("");
    let home_text = home.to_string_lossy();
    let other = |args: &[&str]| {
        let mut words = vec!["--state-dir", OTHER];
        words.extend(args);
        cluster.try_keelson(&words)
    };
    let bin_dir = format!("--bin-dir={}", cluster.bin_dir().display());

    // There is nothing to end, whatever the name.
    for args in [&["down"][..], &["down", "--name", "ke2e"]] {
        let said = other(args).unwrap();
        assert!(said.contains("There is no cluster in"), "{said}");
    }
    // A copy of a state directory is not the cluster.
    std::fs::create_dir_all(OTHER).unwrap();
    for file in ["cluster.json", "identity.json"] {
        std::fs::copy(home.join(file), Path::new(OTHER).join(file)).unwrap();
    }
    let error = other(&["down"]).unwrap_err();
    assert!(error.contains("is a copy of"), "{error}");
    // Nor is what names it without being it.
    std::fs::remove_file(Path::new(OTHER).join("identity.json")).unwrap();
    other(&["down"]).unwrap();
    assert_eq!(processes(cluster), before);
    cluster.keelson(&["status"]);

    // Its name and its addresses are taken.
    let error = other(&["up", "--name=ke2e", "--subnet=10.89.78.0/24", &bin_dir]).unwrap_err();
    assert!(
        error.contains("a cluster named ke2e runs already"),
        "{error}"
    );
    assert!(error.contains(home_text.trim_end_matches('/')), "{error}");
    let error = other(&["up", "--name=ke2e-b", "--subnet=10.89.77.0/24", &bin_dir]).unwrap_err();
    assert!(
        error.contains("the machine uses addresses of 10.89.77.0/24 already"),
        "{error}"
    );

    // With others of its own a second one comes and goes.
    let name = format!("--name={NAME}");
    let up = ["up", &name, "--subnet=10.89.78.0/24", "--nodes=1", &bin_dir];
    let begun = other(&up);
    let seen = other(&["status"]);
    let ended = other(&["down"]);
    begun.unwrap();
    assert!(seen.unwrap().contains(NAME));
    ended.unwrap();
    assert!(!Path::new(OTHER).exists());
    assert_eq!(processes(cluster), before);
    wait_for("the first cluster is well", seconds(30), || {
        cluster.try_keelson(&["status"])
    });
}
