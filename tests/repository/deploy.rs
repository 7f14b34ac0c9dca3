//! What is in `deploy/`: a unit and a manifest for every daemon, and units that give a daemon no more than it needs.

use std::collections::BTreeMap;

/// What every daemon's unit says.
const EVERY: &[(&str, &str)] = &[
    ("Type", "exec"),
    ("Restart", "always"),
    ("RestartSec", "1"),
    ("TimeoutStopSec", "30"),
    ("LimitNOFILE", "1048576"),
    ("LockPersonality", "yes"),
    ("NoNewPrivileges", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("SystemCallArchitectures", "native"),
];

/// Of those that touch nothing of the machine but the network and files.
const CONFINED: &[(&str, &str)] = &[
    ("DevicePolicy", "closed"),
    ("MemoryDenyWriteExecute", "yes"),
    ("PrivateTmp", "yes"),
    ("ProtectClock", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectHome", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectProc", "invisible"),
    ("ProtectSystem", "strict"),
    ("ReadOnlyPaths", "/etc/kubernetes"),
    ("RestrictNamespaces", "yes"),
    ("UMask", "0077"),
];

/// Of the control plane, which needs no privilege at all.
const UNPRIVILEGED: &[(&str, &str)] = &[
    ("AmbientCapabilities", ""),
    ("CapabilityBoundingSet", ""),
    ("PrivateDevices", "yes"),
    ("ProcSubset", "pid"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelTunables", "yes"),
    ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
    (
        "SystemCallFilter",
        "@system-service | ~@privileged @resources",
    ),
];

/// What a daemon's unit says beside these.
const OWN: &[(&str, &[(&str, &str)])] = &[
    (
        "kube-apiserver",
        &[
            ("DynamicUser", "no"),
            ("StateDirectory", "kube-apiserver"),
            ("StateDirectoryMode", "0700"),
            ("User", "kube-apiserver"),
        ],
    ),
    (
        "kube-controller-manager",
        &[("User", "kube-controller-manager")],
    ),
    ("kube-scheduler", &[("User", "kube-scheduler")]),
    (
        "kube-proxy",
        &[
            (
                "CapabilityBoundingSet",
                "CAP_NET_ADMIN CAP_NET_RAW CAP_SYS_MODULE",
            ),
            ("ReadWritePaths", "/proc/sys/net /run"),
            (
                "RestrictAddressFamilies",
                "AF_INET AF_INET6 AF_UNIX AF_NETLINK",
            ),
            ("User", "root"),
        ],
    ),
    (
        // It shares the machine's mounts, mounts what pods ask for from anywhere and hands out devices.
        "kubelet",
        &[
            (
                "CapabilityBoundingSet",
                "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_MKNOD CAP_NET_ADMIN \
                 CAP_NET_RAW CAP_SETGID CAP_SETUID CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_RESOURCE CAP_SYSLOG",
            ),
            ("Delegate", "yes"),
            ("KillMode", "process"),
            ("OOMScoreAdjust", "-999"),
            ("ProtectClock", "no"),
            ("ProtectHome", "no"),
            (
                "RestrictAddressFamilies",
                "AF_INET AF_INET6 AF_UNIX AF_NETLINK",
            ),
            ("UMask", "0022"),
            ("User", "root"),
        ],
    ),
];

/// The settings of a unit's `[Service]` section; those that are given several times are joined.
fn service(unit: &str) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::<String, String>::new();
    let mut section = "";
    for line in unit.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section == "[Service]" && !line.is_empty() && !line.starts_with(['#', ';']) {
            let (key, value) = line.split_once('=').unwrap();
            settings
                .entry(key.to_owned())
                .and_modify(|v| *v = format!("{v} | {value}"))
                .or_insert_with(|| value.to_owned());
        }
    }
    settings
}

#[test]
fn units_say_exactly_what_a_daemon_may_do() {
    for (daemon, own) in OWN {
        let path = super::root().join(format!("deploy/systemd/{daemon}.service"));
        let mut settings = service(&std::fs::read_to_string(path).unwrap());
        let start = settings.remove("ExecStart").unwrap();
        assert!(
            start.starts_with(&format!("/usr/local/bin/{daemon} ")),
            "{daemon}: {start}"
        );
        assert_eq!(
            settings.remove("EnvironmentFile"),
            Some(format!("-/etc/default/{daemon}"))
        );
        let mut wanted = EVERY.to_vec();
        if *daemon != "kubelet" {
            wanted.extend(CONFINED);
        }
        if daemon.starts_with("kube-") && *daemon != "kube-proxy" {
            wanted.extend(UNPRIVILEGED);
        }
        wanted.extend(*own);
        let wanted: BTreeMap<String, String> = wanted
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        assert_eq!(settings, wanted, "{daemon}.service");
    }
}

#[test]
fn a_setting_given_twice_is_seen() {
    let settings =
        service("[Service]\nProtectHome=yes\n# ProtectClock=yes\nProtectHome=no\n[Install]\nA=b\n");
    let twice = ("ProtectHome".to_owned(), "yes | no".to_owned());
    assert_eq!(settings, BTreeMap::from([twice]));
}

#[test]
fn every_manifest_is_the_pod_of_its_daemon() {
    for (manifest, kind, program) in [
        ("static-pods/kube-apiserver", "Pod", "kube-apiserver"),
        (
            "static-pods/kube-controller-manager",
            "Pod",
            "kube-controller-manager",
        ),
        ("static-pods/kube-scheduler", "Pod", "kube-scheduler"),
        ("static-pods/etcd", "Pod", "etcd"),
        ("kube-proxy", "DaemonSet", "kube-proxy"),
    ] {
        let path = super::root().join(format!("deploy/{manifest}.yaml"));
        let text = std::fs::read_to_string(&path).unwrap();
        let documents: Vec<serde_json::Value> = text
            .split("\n---\n")
            .map(|d| serde_yaml::from_str(d).unwrap())
            .collect();
        let object = documents
            .iter()
            .find(|d| d["kind"] == kind)
            .unwrap_or_else(|| panic!("{manifest} holds no {kind}"));
        let spec = match kind {
            "Pod" => &object["spec"],
            _ => &object["spec"]["template"]["spec"],
        };
        let container = &spec["containers"][0];
        assert_eq!(spec["hostNetwork"], true, "{manifest}");
        let first = &container["command"][0];
        assert!(
            first
                .as_str()
                .is_some_and(|c| c.rsplit('/').next() == Some(program)),
            "{manifest} runs {first}"
        );
    }
}
