//! Security contexts of pods and containers, and the annotations that came before their fields.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::pod_spec::visit_containers;
use super::volumes::descending_path;
use super::{Errors, Path, shown};
use crate::check::{dns1123_subdomain, each_int, unix_id};
use crate::value::Tree;

const SYSCTL: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

fn id(e: &mut Errors, path: &Path, v: &Value, key: &str) {
    if let Some(n) = v.int_opt(key) {
        each_int(e, &path.child(key), n, unix_id(n));
    }
}

fn one_of(e: &mut Errors, path: &Path, v: &Value, key: &str, allowed: &[&str]) {
    if let Some(s) = v.text_opt(key)
        && !allowed.contains(&s)
    {
        e.not_supported(&path.child(key), s, allowed);
    }
}

/// `securityContext` of a pod; `spec` holds the host fields.
pub fn pod(e: &mut Errors, path: &Path, spec: &Value) {
    let sc = spec.at("securityContext");
    id(e, path, sc, "fsGroup");
    id(e, path, sc, "runAsUser");
    id(e, path, sc, "runAsGroup");
    for (i, g) in sc
        .list("supplementalGroups")
        .iter()
        .filter_map(Value::as_i64)
        .enumerate()
    {
        each_int(e, &path.child("supplementalGroups").index(i), g, unix_id(g));
    }
    if spec.flag("shareProcessNamespace") && spec.flag("hostPID") {
        e.invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    sysctls(e, &path.child("sysctls"), spec);
    one_of(
        e,
        path,
        sc,
        "fsGroupChangePolicy",
        &["Always", "OnRootMismatch"],
    );
    seccomp(e, &path.child("seccompProfile"), sc.at("seccompProfile"));
    windows_options(e, &path.child("windowsOptions"), sc.at("windowsOptions"));
    app_armor(e, &path.child("appArmorProfile"), sc.at("appArmorProfile"));
    one_of(
        e,
        path,
        sc,
        "supplementalGroupsPolicy",
        &["Merge", "Strict"],
    );
    one_of(
        e,
        path,
        sc,
        "seLinuxChangePolicy",
        &["MountOption", "Recursive"],
    );
}

fn sysctl_name(name: &str) -> bool {
    name.len() <= 253
        && name.split(['.', '/']).all(|s| {
            let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            let b = s.as_bytes();
            b.first().copied().is_some_and(edge)
                && b.last().copied().is_some_and(edge)
                && b.iter().all(|&c| edge(c) || c == b'-' || c == b'_')
        })
}

fn sysctl_namespace(name: &str) -> &'static str {
    // Both `.` and `/` may separate the parts; the first separator in the name decides.
    let dotted = match name.find(['.', '/']).and_then(|i| name.as_bytes().get(i)) {
        Some(b'/') => name.replace('.', "\u{0}").replace('/', "."),
        _ => name.to_owned(),
    };
    const IPC: [&str; 3] = ["kernel.shm", "kernel.msg", "fs.mqueue."];
    if dotted == "kernel.sem" || IPC.iter().any(|p| dotted.starts_with(p)) {
        "ipc"
    } else if dotted.starts_with("net.") {
        "net"
    } else {
        ""
    }
}

fn sysctls(e: &mut Errors, path: &Path, spec: &Value) {
    let mut seen = BTreeSet::new();
    for (i, s) in spec.list("securityContext.sysctls").iter().enumerate() {
        let p = path.index(i).child("name");
        let name = s.text("name");
        if name.is_empty() {
            e.required(&p, "");
        } else if !sysctl_name(name) {
            e.invalid(&p, name, SYSCTL);
        } else if seen.contains(name) {
            e.duplicate(&p, name);
        }
        match sysctl_namespace(name) {
            "net" if spec.flag("hostNetwork") => {
                e.invalid(&p, name, "may not be specified when 'hostNetwork' is true")
            }
            "ipc" if spec.flag("hostIPC") => {
                e.invalid(&p, name, "may not be specified when 'hostIPC' is true")
            }
            _ => {}
        }
        seen.insert(name);
    }
}

/// `securityContext` of a container. `host_users` is false when the pod has a user namespace of its own.
pub fn container(e: &mut Errors, path: &Path, sc: &Value, host_users: bool) {
    if sc.is_null() {
        return;
    }
    id(e, path, sc, "runAsUser");
    id(e, path, sc, "runAsGroup");
    if let Some(m) = sc.text_opt("procMount") {
        let p = path.child("procMount");
        if m != "Default" && m != "Unmasked" {
            e.not_supported(&p, m, &["Default", "Unmasked"]);
        }
        if host_users && m == "Unmasked" {
            e.invalid(&p, m, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(e, &path.child("seccompProfile"), sc.at("seccompProfile"));
    if sc.flag_opt("allowPrivilegeEscalation") == Some(false) {
        if sc.flag("privileged") {
            e.invalid_shown(
                path,
                &shown::internal("v1", "SecurityContext", sc),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        for _ in sc
            .texts("capabilities.add")
            .iter()
            .filter(|c| **c == "CAP_SYS_ADMIN")
        {
            e.invalid_shown(
                path,
                &shown::internal("v1", "SecurityContext", sc),
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
    windows_options(e, &path.child("windowsOptions"), sc.at("windowsOptions"));
    app_armor(e, &path.child("appArmorProfile"), sc.at("appArmorProfile"));
}

const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

fn seccomp(e: &mut Errors, path: &Path, p: &Value) {
    if p.is_null() {
        return;
    }
    let kind = p.text("type");
    if kind.is_empty() {
        e.required(
            &path.child("type"),
            "type is required when seccompProfile is set",
        );
    } else if !PROFILE_TYPES.contains(&kind) {
        e.not_supported(&path.child("type"), kind, &PROFILE_TYPES);
    }
    let local = path.child("localhostProfile");
    match (kind == "Localhost", p.text_opt("localhostProfile")) {
        (true, None) => e.required(&local, "must be set when seccomp type is Localhost"),
        (true, Some(file)) => descending_path(e, &local, file),
        (false, Some(_)) => e.invalid_shown(
            &local,
            &shown::internal("v1", "SeccompProfile", p),
            "can only be set when seccomp type is Localhost",
        ),
        (false, None) => {}
    }
}

fn app_armor(e: &mut Errors, path: &Path, p: &Value) {
    if p.is_null() {
        return;
    }
    let local = path.child("localhostProfile");
    let file = p.text_opt("localhostProfile");
    match p.text("type") {
        "Localhost" => match file {
            None => e.required(&local, "must be set when AppArmor type is Localhost"),
            Some(f) => {
                if f.trim() != f {
                    e.invalid(&local, f, "must not be padded with whitespace");
                } else if f.is_empty() {
                    e.required(&local, "must be set when AppArmor type is Localhost");
                }
                if f.len() > 4095 {
                    e.too_long(&local, 4095);
                }
            }
        },
        "RuntimeDefault" | "Unconfined" => {
            if let Some(f) = file {
                e.invalid(&local, f, "can only be set when AppArmor type is Localhost");
            }
        }
        "" => e.required(
            &path.child("type"),
            "type is required when appArmorProfile is set",
        ),
        other => e.not_supported(&path.child("type"), other, &PROFILE_TYPES),
    }
}

fn netbios(s: &str) -> bool {
    let bad = |c: char| "\\/:*?\"<>|".contains(c);
    let n = s.chars().count();
    (1..=15).contains(&n) && !s.starts_with('.') && !s.chars().any(bad)
}

fn windows_domain(s: &str) -> bool {
    s.split('.').all(|l| {
        let b = l.as_bytes();
        b.len() <= 63
            && b.first().is_some_and(u8::is_ascii_alphanumeric)
            && b.last().is_some_and(u8::is_ascii_alphanumeric)
            && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-')
    })
}

fn windows_options(e: &mut Errors, path: &Path, o: &Value) {
    if let Some(name) = o.text_opt("gmsaCredentialSpecName") {
        for m in dns1123_subdomain(name) {
            e.invalid(&path.child("gmsaCredentialSpecName"), name, &m);
        }
    }
    if let Some(s) = o.text_opt("gmsaCredentialSpec") {
        let p = path.child("gmsaCredentialSpec");
        if s.is_empty() {
            e.invalid(&p, s, "gmsaCredentialSpec cannot be an empty string");
        } else if s.len() > 64 * 1024 {
            e.invalid(&p, s, "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    if let Some(name) = o.text_opt("runAsUserName") {
        let p = path.child("runAsUserName");
        for m in windows_user(name) {
            e.invalid(&p, name, m);
        }
    }
}

fn windows_user(name: &str) -> Vec<&'static str> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string"];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters"];
    }
    if name.matches('\\').count() > 1 {
        return vec!["runAsUserName cannot contain more than one backslash"];
    }
    let mut out = vec![];
    let (domain, user) = match name.split_once('\\') {
        Some((d, u)) => (Some(d), u),
        None => (None, name),
    };
    if domain.is_some_and(|d| d.len() >= 256) {
        out.push("runAsUserName's Domain length must be under 256 characters");
    }
    if domain.is_some_and(|d| !netbios(d) && !windows_domain(d)) {
        out.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
    }
    if user.is_empty() {
        out.push("runAsUserName's User cannot be empty");
    } else if user.len() > 104 {
        out.push("runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        out.push("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.chars().any(|c| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        out.push(
            "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]",
        );
    }
    out
}

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// The prefix of the annotations that held AppArmor profiles before the field.
pub const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The profile that an AppArmor annotation names; `None` for one that no field could hold.
pub fn app_armor_field(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        _ => {
            let profile = json!({"type": "Localhost", "localhostProfile": annotation.strip_prefix("localhost/")?});
            let mut e = Errors::new();
            app_armor(&mut e, &Path::root(), &profile);
            e.is_empty().then_some(profile)
        }
    }
}

fn seccomp_annotation(e: &mut Errors, path: &Path, p: &str) {
    if ["runtime/default", "docker/default", "unconfined"].contains(&p) {
        return;
    }
    match p.strip_prefix("localhost/") {
        Some(file) => descending_path(e, path, file),
        None => e.invalid(path, p, "must be a valid seccomp profile"),
    }
}

/// The annotations of a pod or template that carry security settings.
pub fn annotations(e: &mut Errors, path: &Path, annotations: &Map<String, Value>, spec: &Value) {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    if let Some(p) = annotations.get(SECCOMP_POD) {
        seccomp_annotation(e, &path.child(SECCOMP_POD), &text(p));
    }
    for (k, p) in annotations
        .iter()
        .filter(|(k, _)| k.starts_with(SECCOMP_CONTAINER))
    {
        seccomp_annotation(e, &path.child(k), &text(p));
    }
    for (k, p) in annotations {
        let Some(container) = k.strip_prefix(APP_ARMOR) else {
            continue;
        };
        let mut found = false;
        visit_containers(spec, &Path::root(), |c, _| {
            found |= c.text("name") == container
        });
        if !found {
            e.invalid(&path.key(k), container, "container not found");
        }
        let p = text(p);
        let good = p.is_empty()
            || p == "runtime/default"
            || p == "unconfined"
            || p.starts_with("localhost/");
        if !good {
            e.invalid(
                &path.key(k),
                p.as_str(),
                &format!("invalid AppArmor profile name: {p:?}"),
            );
        }
    }
}

/// Fields and annotations of the same setting must agree on create.
pub fn annotations_match_fields(
    e: &mut Errors,
    spec_path: &Path,
    annotations: &Map<String, Value>,
    spec: &Value,
) {
    let value = |k: &str| annotations.get(k).and_then(Value::as_str);
    if let Some(a) = value(SECCOMP_POD) {
        let p = spec_path.child("securityContext").child("seccompProfile");
        profile_matches(
            e,
            &p,
            spec.at("securityContext.seccompProfile"),
            a,
            "seccomp",
        );
    }
    visit_containers(spec, spec_path, |c, path| {
        if let Some(a) = value(&format!("{SECCOMP_CONTAINER}{}", c.text("name"))) {
            let p = path.child("securityContext").child("seccompProfile");
            profile_matches(e, &p, c.at("securityContext.seccompProfile"), a, "seccomp");
        }
    });
    if spec.text("os.name") == "windows" {
        return;
    }
    visit_containers(spec, spec_path, |c, path| {
        let own = c.at("securityContext.appArmorProfile");
        let profile = if own.is_null() {
            spec.at("securityContext.appArmorProfile")
        } else {
            own
        };
        if let Some(a) = value(&format!("{APP_ARMOR}{}", c.text("name"))) {
            profile_matches(
                e,
                &path.child("securityContext").child("appArmorProfile"),
                profile,
                a,
                "apparmor",
            );
        }
    });
}

fn profile_matches(e: &mut Errors, path: &Path, profile: &Value, annotation: &str, what: &str) {
    let kind = format!("{what} type in annotation and field must match");
    match profile.text("type") {
        "Unconfined" if annotation != "unconfined" => e.forbidden(&path.child("type"), &kind),
        "RuntimeDefault"
            if annotation != "runtime/default"
                && !(what == "seccomp" && annotation == "docker/default") =>
        {
            e.forbidden(&path.child("type"), &kind);
        }
        "Localhost" => match annotation.strip_prefix("localhost/") {
            None => e.forbidden(&path.child("type"), &kind),
            Some(file) if profile.text_opt("localhostProfile") != Some(file) => {
                e.forbidden(
                    &path.child("localhostProfile"),
                    &format!("{what} profile in annotation and field must match"),
                );
            }
            Some(_) => {}
        },
        _ => {}
    }
}

/// What a pod for Linux may not set.
pub fn linux(e: &mut Errors, path: &Path, spec: &Value) {
    const WHY: &str = "windows options cannot be set for a linux pod";
    if spec.has("securityContext.windowsOptions") {
        e.forbidden(&path.child("securityContext").child("windowsOptions"), WHY);
    }
    visit_containers(spec, path, |c, p| {
        if c.has("securityContext.windowsOptions") {
            e.forbidden(&p.child("securityContext").child("windowsOptions"), WHY);
        }
    });
}

/// What a pod for Windows may not set.
pub fn windows(e: &mut Errors, path: &Path, spec: &Value) {
    const WHY: &str = "cannot be set for a windows pod";
    let sc = path.child("securityContext");
    let context = [
        ("securityContext.appArmorProfile", "appArmorProfile"),
        ("securityContext.seLinuxOptions", "seLinuxOptions"),
        ("hostUsers", ""),
        ("hostPID", ""),
        ("hostIPC", ""),
        ("securityContext.seccompProfile", "seccompProfile"),
        ("securityContext.fsGroup", "fsGroup"),
        ("securityContext.fsGroupChangePolicy", "fsGroupChangePolicy"),
        ("securityContext.sysctls", "sysctls"),
        ("shareProcessNamespace", ""),
        ("securityContext.runAsUser", "runAsUser"),
        ("securityContext.runAsGroup", "runAsGroup"),
        ("securityContext.supplementalGroups", "supplementalGroups"),
        (
            "securityContext.supplementalGroupsPolicy",
            "supplementalGroupsPolicy",
        ),
        ("securityContext.seLinuxChangePolicy", "seLinuxChangePolicy"),
    ];
    for (key, shown) in context {
        let v = spec.at(key);
        let set = match key {
            "hostPID" | "hostIPC" => spec.flag(key),
            "securityContext.sysctls" => !v.is_blank(),
            _ => !v.is_null(),
        };
        if set {
            e.forbidden(
                &if shown.is_empty() {
                    path.child(key)
                } else {
                    sc.child(shown)
                },
                WHY,
            );
        }
    }
    visit_containers(spec, path, |c, p| {
        for key in [
            "appArmorProfile",
            "seLinuxOptions",
            "seccompProfile",
            "capabilities",
            "readOnlyRootFilesystem",
            "privileged",
            "allowPrivilegeEscalation",
            "procMount",
            "runAsUser",
            "runAsGroup",
        ] {
            if c.at("securityContext").has(key) {
                e.forbidden(&p.child("securityContext").child(key), WHY);
            }
        }
    });
}

/// Host-process containers of Windows: all or none, and only with hostNetwork.
pub fn host_process(e: &mut Errors, path: &Path, spec: &Value) {
    let pod = spec.flag_opt("securityContext.windowsOptions.hostProcess");
    let (mut all, mut host) = (0, 0);
    visit_containers(spec, path, |c, p| {
        all += 1;
        let own = c.flag_opt("securityContext.windowsOptions.hostProcess");
        if let (Some(a), Some(b)) = (pod, own)
            && a != b
        {
            e.invalid(
                &p.child("securityContext")
                    .child("windowsOptions")
                    .child("hostProcess"),
                b,
                &format!("pod hostProcess value must be identical if both are specified, was {a}"),
            );
        }
        if own.or(pod) == Some(true) {
            host += 1;
        }
    });
    if host == 0 {
        return;
    }
    if host != all {
        e.invalid(
            path,
            "",
            "If pod contains any hostProcess containers then all containers must be HostProcess containers",
        );
    }
    if !spec.flag("hostNetwork") {
        e.invalid(
            &path.child("hostNetwork"),
            false,
            "hostNetwork must be true if pod contains any hostProcess containers",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names() {
        assert!(sysctl_name("net.ipv4.ip_forward") && sysctl_name("net/ipv4/x.y"));
        assert!(!sysctl_name("a b") && !sysctl_name("a..b") && !sysctl_name("A"));
        assert_eq!(sysctl_namespace("net.core.somaxconn"), "net");
        assert_eq!(sysctl_namespace("kernel/shmmax"), "ipc");
        assert_eq!(sysctl_namespace("vm.swappiness"), "");
    }

    #[test]
    fn windows_users() {
        assert!(windows_user("DOMAIN\\user").is_empty());
        assert_eq!(
            windows_user("a\\b\\c"),
            ["runAsUserName cannot contain more than one backslash"]
        );
        assert_eq!(
            windows_user(".."),
            ["runAsUserName's User cannot contain only periods or spaces"]
        );
        assert_eq!(
            windows_user("a:b"),
            ["runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"]
        );
    }
}
