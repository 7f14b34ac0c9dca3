//! CRI configurations of sandboxes and containers. Pure: what the node contributes comes in as [`Host`].

use std::collections::BTreeMap;

use crate::cri::proto::{self, Int64Value, NamespaceMode, SecurityProfile};
use crate::pod::resources::{self, milli_to_quota, milli_to_shares};
use crate::pod::{Capabilities, Container, Pod, Profile, SeLinuxOptions, SecurityContext};

use super::state::{
    CONTAINER_NAME, DELETION_GRACE, HASH, POD_NAME, POD_NAMESPACE, POD_UID, PORTS, PRE_STOP,
    RESTART_COUNT, TERMINATION_GRACE, TERMINATION_PATH, TERMINATION_POLICY,
};

/// Paths of /proc and /sys that containers must not read.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths of /proc that containers must not write.
const READONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What the node contributes to configurations.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "plain data")]
pub struct Host {
    pub log_root: String,
    pub seccomp_root: String,
    pub seccomp_default: bool,
    /// Memory of the machine in bytes.
    pub memory: i64,
    /// Sizes of huge pages the machine has: the resource, and the runtime's name of the size.
    pub huge_pages: Vec<(String, String)>,
    pub cfs_quota: bool,
    /// CFS period in microseconds.
    pub cfs_period: i64,
}

/// Why a container cannot be configured; the text is the status message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// The user an image declares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "plain data")]
pub struct ImageUser {
    pub uid: Option<i64>,
    pub name: String,
}

/// `<namespace>_<name>_<uid>` below the log root.
pub fn log_directory(host: &Host, pod: &Pod) -> String {
    let m = &pod.metadata;
    format!("{}/{}_{}_{}", host.log_root, m.namespace, m.name, m.uid)
}

/// The pod's host name: spec.hostname, else its name; cut to 63 characters as upstream cuts it.
pub fn hostname(pod: &Pod) -> String {
    let name = if let Some(o) = &pod.spec.hostname_override {
        o
    } else if pod.spec.hostname.is_empty() {
        &pod.metadata.name
    } else {
        &pod.spec.hostname
    };
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_string()
}

/// The sandbox of a pod.
pub fn sandbox(
    pod: &Pod,
    attempt: u32,
    dns: proto::DnsConfig,
    cgroup_parent: String,
    domain: &str,
    host: &Host,
) -> proto::PodSandboxConfig {
    let m = &pod.metadata;
    let mut labels = m.labels.clone();
    labels.insert(POD_NAME.into(), m.name.clone());
    labels.insert(POD_NAMESPACE.into(), m.namespace.clone());
    labels.insert(POD_UID.into(), m.uid.clone());
    let mut port_mappings = Vec::new();
    for p in pod
        .spec
        .containers
        .iter()
        .chain(pod.spec.init_containers.iter().filter(|c| c.is_sidecar()))
        .flat_map(|c| &c.ports)
    {
        port_mappings.push(proto::PortMapping {
            protocol: match p.protocol.as_str() {
                "UDP" => proto::Protocol::Udp,
                "SCTP" => proto::Protocol::Sctp,
                _ => proto::Protocol::Tcp,
            } as i32,
            container_port: p.container_port,
            host_port: if pod.spec.host_network {
                p.container_port
            } else {
                p.host_port
            },
            host_ip: p.host_ip.clone(),
        });
    }
    let privileged = pod.all_containers().any(|c| {
        c.security_context
            .as_ref()
            .is_some_and(|s| s.privileged == Some(true))
    });
    let psc = pod.spec.security_context.clone().unwrap_or_default();
    let mut name = String::new();
    if !pod.spec.host_network {
        name = hostname(pod);
        if pod.spec.set_hostname_as_fqdn == Some(true) && !pod.spec.subdomain.is_empty() {
            name = format!("{name}.{}.{}.svc.{domain}", pod.spec.subdomain, m.namespace);
        }
    }
    let quantity = |v: Option<i64>| v.map(|value| Int64Value { value });
    proto::PodSandboxConfig {
        metadata: Some(proto::PodSandboxMetadata {
            name: m.name.clone(),
            uid: m.uid.clone(),
            namespace: m.namespace.clone(),
            attempt,
        }),
        hostname: name,
        log_directory: log_directory(host, pod),
        dns_config: Some(dns),
        port_mappings,
        labels,
        annotations: m.annotations.clone(),
        linux: Some(proto::LinuxPodSandboxConfig {
            cgroup_parent,
            security_context: Some(proto::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(pod)),
                selinux_options: psc.se_linux_options.as_ref().map(selinux),
                run_as_user: quantity(psc.run_as_user),
                run_as_group: quantity(psc.run_as_group),
                supplemental_groups: psc
                    .fs_group
                    .into_iter()
                    .chain(psc.supplemental_groups.iter().copied())
                    .collect(),
                supplemental_groups_policy: groups_policy(
                    psc.supplemental_groups_policy.as_deref(),
                ),
                privileged,
                seccomp: Some(SecurityProfile {
                    profile_type: proto::ProfileType::RuntimeDefault as i32,
                    localhost_ref: String::new(),
                }),
                ..Default::default()
            }),
            sysctls: psc
                .sysctls
                .iter()
                .map(|s| (s.name.clone(), s.value.clone()))
                .collect(),
            overhead: None,
            resources: Some(linux_resources(
                resources::pod_request(pod, "cpu").milli(),
                resources::pod_limit(pod, "cpu").map_or(0, |q| q.milli()),
                resources::pod_limit(pod, "memory").map_or(0, |q| q.value()),
                host,
            )),
        }),
    }
}

fn groups_policy(p: Option<&str>) -> i32 {
    (if p == Some("Strict") {
        proto::SupplementalGroupsPolicy::Strict
    } else {
        proto::SupplementalGroupsPolicy::Merge
    }) as i32
}

fn selinux(o: &SeLinuxOptions) -> proto::SELinuxOption {
    proto::SELinuxOption {
        user: o.user.clone(),
        role: o.role.clone(),
        r#type: o.kind.clone(),
        level: o.level.clone(),
    }
}

/// The namespaces a pod shares with the node or among its containers.
pub fn namespaces(pod: &Pod) -> proto::NamespaceOption {
    let node = |on: bool| {
        (if on {
            NamespaceMode::Node
        } else {
            NamespaceMode::Pod
        }) as i32
    };
    proto::NamespaceOption {
        network: node(pod.spec.host_network),
        ipc: node(pod.spec.host_ipc),
        pid: if pod.spec.host_pid {
            NamespaceMode::Node
        } else if pod.spec.share_process_namespace == Some(true) {
            NamespaceMode::Pod
        } else {
            NamespaceMode::Container
        } as i32,
        target_id: String::new(),
        userns_options: None,
    }
}

fn linux_resources(
    cpu_request: i64,
    cpu_limit: i64,
    memory_limit: i64,
    host: &Host,
) -> proto::LinuxContainerResources {
    let mut r = proto::LinuxContainerResources {
        cpu_shares: milli_to_shares(cpu_request),
        memory_limit_in_bytes: memory_limit,
        ..Default::default()
    };
    if host.cfs_quota {
        r.cpu_period = host.cfs_period;
        r.cpu_quota = if host.cfs_period == 100_000 {
            milli_to_quota(cpu_limit)
        } else if cpu_limit == 0 {
            0
        } else {
            (cpu_limit.saturating_mul(host.cfs_period) / 1000).max(1000)
        };
    }
    r
}

/// The kernel resources of a container.
pub fn container_resources(
    pod: &Pod,
    c: &Container,
    host: &Host,
) -> Result<proto::LinuxContainerResources, ConfigError> {
    let unknown = |k: &&String| {
        k.starts_with("hugepages-") && !host.huge_pages.iter().any(|(name, _)| name == *k)
    };
    if let Some(name) = c.resources.limits.keys().find(unknown) {
        return Err(ConfigError(format!(
            "resource {name} of container {}: the node has no pages of this size",
            c.name
        )));
    }
    let cpu_request = resources::request(c, "cpu").map_or(0, |q| q.milli());
    let cpu_limit = resources::limit(c, "cpu").map_or(0, |q| q.milli());
    let memory = resources::limit(c, "memory").map_or(0, |q| q.value());
    let mut r = linux_resources(cpu_request, cpu_limit, memory, host);
    r.oom_score_adj = resources::oom_score_adj(pod, c, host.memory);
    // Each size has a limit, so that a container without one gets none.
    let of_pod = pod.spec.resources.as_ref();
    r.hugepage_limits = host
        .huge_pages
        .iter()
        .map(|(name, page_size)| {
            let limit = resources::limit(c, name).or_else(|| {
                let q = of_pod.and_then(|r| r.limits.get(name))?;
                crate::pod::quantity::Quantity::parse(q)
            });
            proto::HugepageLimit {
                page_size: page_size.clone(),
                limit: limit.map_or(0, |q| u64::try_from(q.value()).unwrap_or(0)),
            }
        })
        .collect();
    Ok(r)
}

/// Everything that goes into one container's configuration besides the pod.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "plain data")]
pub struct Inputs {
    pub restart_count: i32,
    pub image_ref: String,
    pub image_user: ImageUser,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<proto::Mount>,
    /// Container whose process namespace an ephemeral container joins.
    pub target: Option<String>,
}

/// The configuration of one container. Checks runAsNonRoot, so it holds on every start.
pub fn container(
    pod: &Pod,
    c: &Container,
    i: &Inputs,
    host: &Host,
) -> Result<proto::ContainerConfig, ConfigError> {
    let effective = effective_security(pod, c);
    verify_non_root(pod, c, &effective, &i.image_user)?;
    let mut annotations = BTreeMap::new();
    annotations.insert(HASH.to_string(), c.hash());
    annotations.insert(RESTART_COUNT.to_string(), i.restart_count.to_string());
    annotations.insert(
        TERMINATION_PATH.to_string(),
        c.termination_message_path.clone(),
    );
    annotations.insert(
        TERMINATION_POLICY.to_string(),
        c.termination_message_policy.clone(),
    );
    if let Some(g) = pod.metadata.deletion_grace_period_seconds {
        annotations.insert(DELETION_GRACE.to_string(), g.to_string());
    }
    annotations.insert(
        TERMINATION_GRACE.to_string(),
        pod.spec.termination_grace_period_seconds.to_string(),
    );
    if let Some(json) = c
        .lifecycle
        .as_ref()
        .and_then(|l| l.pre_stop.as_ref())
        .and_then(|h| serde_json::to_string(h).ok())
    {
        annotations.insert(PRE_STOP.to_string(), json);
    }
    if !c.ports.is_empty()
        && let Ok(json) = serde_json::to_string(&c.ports)
    {
        annotations.insert(PORTS.to_string(), json);
    }
    let labels = BTreeMap::from([
        (POD_NAME.to_string(), pod.metadata.name.clone()),
        (POD_NAMESPACE.to_string(), pod.metadata.namespace.clone()),
        (POD_UID.to_string(), pod.metadata.uid.clone()),
        (CONTAINER_NAME.to_string(), c.name.clone()),
    ]);
    let mut security = security_context(pod, c, &effective, &i.image_user, host)?;
    if let (Some(target), Some(ns)) = (&i.target, security.namespace_options.as_mut())
        && ns.pid == NamespaceMode::Container as i32
    {
        ns.pid = NamespaceMode::Target as i32;
        ns.target_id = target.clone();
    }
    Ok(proto::ContainerConfig {
        metadata: Some(proto::ContainerMetadata {
            name: c.name.clone(),
            attempt: u32::try_from(i.restart_count).unwrap_or(0),
        }),
        image: Some(proto::ImageSpec {
            image: i.image_ref.clone(),
            user_specified_image: c.image.clone(),
            ..Default::default()
        }),
        command: super::env::expand_all(&c.command, &i.env).map_err(ConfigError)?,
        args: super::env::expand_all(&c.args, &i.env).map_err(ConfigError)?,
        working_dir: c.working_dir.clone(),
        envs: i
            .env
            .iter()
            .map(|(k, v)| proto::KeyValue {
                key: k.clone(),
                value: v.clone().into_bytes(),
            })
            .collect(),
        mounts: i.mounts.clone(),
        labels,
        annotations,
        log_path: format!("{}/{}.log", c.name, i.restart_count),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        linux: Some(proto::LinuxContainerConfig {
            resources: Some(container_resources(pod, c, host)?),
            security_context: Some(security),
        }),
        ..Default::default()
    })
}

/// The container's security settings with the pod's where it has none.
fn effective_security(pod: &Pod, c: &Container) -> SecurityContext {
    let mut sc = c.security_context.clone().unwrap_or_default();
    if let Some(p) = &pod.spec.security_context {
        sc.run_as_user = sc.run_as_user.or(p.run_as_user);
        sc.run_as_group = sc.run_as_group.or(p.run_as_group);
        sc.run_as_non_root = sc.run_as_non_root.or(p.run_as_non_root);
        sc.se_linux_options = sc.se_linux_options.or_else(|| p.se_linux_options.clone());
        sc.seccomp_profile = sc.seccomp_profile.or_else(|| p.seccomp_profile.clone());
        sc.app_armor_profile = sc.app_armor_profile.or_else(|| p.app_armor_profile.clone());
    }
    sc
}

fn verify_non_root(
    pod: &Pod,
    c: &Container,
    sc: &SecurityContext,
    user: &ImageUser,
) -> Result<(), ConfigError> {
    if sc.run_as_non_root != Some(true) {
        return Ok(());
    }
    let m = &pod.metadata;
    let pod_text = format!("\"{}_{}({})\"", m.name, m.namespace, m.uid);
    let fail = |what: String| {
        Err(ConfigError(format!(
            "{what} (pod: {pod_text}, container: {})",
            c.name
        )))
    };
    match (sc.run_as_user, user.uid) {
        (Some(0), _) => fail("container's runAsUser breaks non-root policy".into()),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => fail("container has runAsNonRoot and image will run as root".into()),
        (None, None) if !user.name.is_empty() => fail(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root",
            user.name
        )),
        _ => Ok(()),
    }
}

fn seccomp(p: Option<&Profile>, host: &Host) -> Result<SecurityProfile, ConfigError> {
    use proto::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let (kind, localhost_ref) = match p.map(|p| {
        (
            p.kind.as_str(),
            p.localhost_profile.as_deref().unwrap_or_default(),
        )
    }) {
        None if host.seccomp_default => (RuntimeDefault, String::new()),
        None | Some(("Unconfined", _)) => (Unconfined, String::new()),
        Some(("RuntimeDefault", _)) => (RuntimeDefault, String::new()),
        Some(("Localhost", "")) => {
            return Err(ConfigError(
                "localhostProfile must be set if seccompProfile type is Localhost.".into(),
            ));
        }
        Some(("Localhost", path))
            if path.starts_with('/') || path.split('/').any(|s| s == "..") =>
        {
            return Err(ConfigError(format!(
                "localhostProfile \"{path}\" must be a path below the node's seccomp directory"
            )));
        }
        Some(("Localhost", path)) => (Localhost, format!("{}/{path}", host.seccomp_root)),
        Some((other, _)) => {
            return Err(ConfigError(format!(
                "unknown seccompProfile type \"{other}\""
            )));
        }
    };
    Ok(SecurityProfile {
        profile_type: kind as i32,
        localhost_ref,
    })
}

fn apparmor(pod: &Pod, c: &Container, p: Option<&Profile>) -> Option<SecurityProfile> {
    use proto::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let key = format!("container.apparmor.security.beta.kubernetes.io/{}", c.name);
    let (kind, localhost) = match p {
        Some(p) => (
            p.kind.as_str(),
            p.localhost_profile.clone().unwrap_or_default(),
        ),
        None => match pod.metadata.annotations.get(&key)?.as_str() {
            "runtime/default" => ("RuntimeDefault", String::new()),
            "unconfined" => ("Unconfined", String::new()),
            other => ("Localhost", other.strip_prefix("localhost/")?.to_string()),
        },
    };
    let profile_type = match kind {
        "RuntimeDefault" => RuntimeDefault,
        "Unconfined" => Unconfined,
        "Localhost" => Localhost,
        _ => return None,
    } as i32;
    Some(SecurityProfile {
        profile_type,
        localhost_ref: localhost,
    })
}

fn security_context(
    pod: &Pod,
    c: &Container,
    sc: &SecurityContext,
    user: &ImageUser,
    host: &Host,
) -> Result<proto::LinuxContainerSecurityContext, ConfigError> {
    let psc = pod.spec.security_context.clone().unwrap_or_default();
    let caps = |c: &Capabilities| proto::Capability {
        add_capabilities: c.add.clone(),
        drop_capabilities: c.drop.clone(),
        add_ambient_capabilities: Vec::new(),
    };
    let unmasked = sc.proc_mount.as_deref() == Some("Unmasked");
    let paths = |p: &[&str]| {
        if unmasked {
            Vec::new()
        } else {
            p.iter().map(|s| s.to_string()).collect()
        }
    };
    Ok(proto::LinuxContainerSecurityContext {
        capabilities: sc.capabilities.as_ref().map(caps),
        privileged: sc.privileged == Some(true),
        namespace_options: Some(namespaces(pod)),
        selinux_options: sc.se_linux_options.as_ref().map(selinux),
        run_as_user: sc
            .run_as_user
            .or(user.uid)
            .map(|value| Int64Value { value }),
        run_as_group: sc.run_as_group.map(|value| Int64Value { value }),
        run_as_username: if sc.run_as_user.is_some() {
            String::new()
        } else {
            user.name.clone()
        },
        readonly_rootfs: sc.read_only_root_filesystem == Some(true),
        supplemental_groups: psc
            .fs_group
            .into_iter()
            .chain(psc.supplemental_groups.iter().copied())
            .collect(),
        supplemental_groups_policy: groups_policy(psc.supplemental_groups_policy.as_deref()),
        no_new_privs: sc.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READONLY),
        seccomp: Some(seccomp(sc.seccomp_profile.as_ref(), host)?),
        apparmor: apparmor(pod, c, sc.app_armor_profile.as_ref()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: &str) -> Pod {
        serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"p","namespace":"ns","uid":"u","labels":{{"app":"x"}}}},"spec":{spec}}}"#
        ))
        .unwrap()
    }

    fn host() -> Host {
        Host {
            log_root: "/var/log/pods".into(),
            seccomp_root: "/s".into(),
            memory: 8 << 30,
            huge_pages: vec![("hugepages-2Mi".into(), "2MB".into())],
            cfs_quota: true,
            cfs_period: 100_000,
            ..Default::default()
        }
    }

    fn one(container: &str) -> Result<proto::ContainerConfig, ConfigError> {
        let p = pod(&format!(
            r#"{{"containers":[{{"name":"c","image":"i:1",{container}}}]}}"#
        ));
        let user = ImageUser {
            uid: Some(0),
            name: String::new(),
        };
        self::container(
            &p,
            &p.spec.containers[0],
            &Inputs {
                image_user: user,
                image_ref: "sha256:1".into(),
                ..Default::default()
            },
            &host(),
        )
    }

    #[test]
    fn sandbox_is_labelled_as_upstream_labels_it() {
        let p = pod(
            r#"{"hostname":"h","containers":[{"name":"c","ports":[{"containerPort":80,"hostPort":8080,"protocol":"UDP"}]}],
                "securityContext":{"fsGroup":7,"sysctls":[{"name":"net.core.somaxconn","value":"9"}]}}"#,
        );
        let s = sandbox(
            &p,
            3,
            Default::default(),
            "/kubepods/besteffort/podu".into(),
            "cluster.local",
            &host(),
        );
        assert_eq!(s.labels["io.kubernetes.pod.uid"], "u");
        assert_eq!(s.labels["app"], "x");
        assert_eq!(s.log_directory, "/var/log/pods/ns_p_u");
        assert_eq!(s.hostname, "h");
        assert_eq!(
            (s.port_mappings[0].host_port, s.port_mappings[0].protocol),
            (8080, 1)
        );
        let l = s.linux.unwrap();
        assert_eq!(l.sysctls["net.core.somaxconn"], "9");
        assert_eq!(l.security_context.unwrap().supplemental_groups, [7]);
        assert_eq!(s.metadata.unwrap().attempt, 3);
    }

    #[test]
    fn container_resources_and_annotations() {
        let c = one(r#""resources":{"requests":{"cpu":"250m"},"limits":{"cpu":"500m","memory":"64Mi"}},"lifecycle":{"preStop":{"sleep":{"seconds":3}}}"#).unwrap();
        let r = c.linux.unwrap().resources.unwrap();
        assert_eq!(
            (
                r.cpu_shares,
                r.cpu_quota,
                r.cpu_period,
                r.memory_limit_in_bytes
            ),
            (256, 50_000, 100_000, 64 << 20)
        );
        assert_eq!(
            c.annotations["io.kubernetes.container.preStopHandler"],
            r#"{"sleep":{"seconds":3}}"#
        );
        assert_eq!(c.annotations["io.kubernetes.container.restartCount"], "0");
        assert_eq!(c.log_path, "c/0.log");
    }

    #[test]
    fn huge_pages_are_limited_and_unknown_sizes_refused() {
        let limits = |c: &str| {
            let c = one(c).unwrap().linux.unwrap().resources.unwrap();
            let all = c.hugepage_limits.into_iter();
            all.map(|l| (l.page_size, l.limit)).collect::<Vec<_>>()
        };
        assert_eq!(
            limits(r#""resources":{"limits":{"hugepages-2Mi":"4Mi"}}"#),
            [("2MB".to_string(), 4 << 20)]
        );
        assert_eq!(limits(r#""resources":{}"#), [("2MB".to_string(), 0)]);
        let e = one(r#""resources":{"limits":{"hugepages-1Gi":"1Gi"}}"#).unwrap_err();
        assert!(e.0.contains("hugepages-1Gi"), "{e}");
    }

    /// CVE-2023-2431: a Localhost profile without a path must not run unconfined.
    #[test]
    fn empty_localhost_seccomp_profile_fails_closed() {
        let unset = "localhostProfile must be set if seccompProfile type is Localhost.";
        for (sc, why) in [
            (r#"{"type":"Localhost"}"#, unset),
            (r#"{"type":"Localhost","localhostProfile":""}"#, unset),
            (
                r#"{"type":"Localhost","localhostProfile":"../x"}"#,
                "localhostProfile \"../x\" must be a path below the node's seccomp directory",
            ),
        ] {
            let e = one(&format!(r#""securityContext":{{"seccompProfile":{sc}}}"#)).unwrap_err();
            assert_eq!(e.0, why, "{sc}");
        }
        let c = one(r#""securityContext":{"seccompProfile":{"type":"Localhost","localhostProfile":"a/b.json"}}"#).unwrap();
        assert_eq!(
            c.linux
                .unwrap()
                .security_context
                .unwrap()
                .seccomp
                .unwrap()
                .localhost_ref,
            "/s/a/b.json"
        );
    }

    /// CVE-2019-11245: runAsNonRoot is checked on every start, whatever image user applies.
    #[test]
    fn run_as_non_root_holds() {
        let e = one(r#""securityContext":{"runAsNonRoot":true}"#).unwrap_err();
        assert_eq!(
            e.0,
            "container has runAsNonRoot and image will run as root (pod: \"p_ns(u)\", container: c)"
        );
        let e = one(r#""securityContext":{"runAsNonRoot":true,"runAsUser":0}"#).unwrap_err();
        assert_eq!(
            e.0,
            "container's runAsUser breaks non-root policy (pod: \"p_ns(u)\", container: c)"
        );
        let c = one(r#""securityContext":{"runAsNonRoot":true,"runAsUser":5,"allowPrivilegeEscalation":false}"#).unwrap();
        let sc = c.linux.unwrap().security_context.unwrap();
        assert_eq!(sc.run_as_user.unwrap().value, 5);
        assert!(sc.no_new_privs);
        // The first start and every later one run as the image's user, and refuse one that is root.
        let p = pod(
            r#"{"containers":[{"name":"c","image":"i:1","securityContext":{"runAsNonRoot":true}}]}"#,
        );
        for restart_count in [0, 1, 7] {
            let start = |uid: i64| {
                let inputs = Inputs {
                    restart_count,
                    image_user: ImageUser {
                        uid: Some(uid),
                        name: String::new(),
                    },
                    ..Default::default()
                };
                self::container(&p, &p.spec.containers[0], &inputs, &host())
            };
            let c = start(1000).unwrap();
            let sc = c.linux.unwrap().security_context.unwrap();
            assert_eq!(sc.run_as_user.unwrap().value, 1000, "start {restart_count}");
            let root = start(0).unwrap_err().0;
            let why = "container has runAsNonRoot and image will run as root";
            assert!(root.starts_with(why), "start {restart_count}: {root}");
        }
    }
}
