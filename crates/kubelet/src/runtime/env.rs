//! Environment of containers: expansion of `$(NAME)`, sources, fields, service variables. Pure; the objects come in.

use std::collections::{BTreeMap, HashMap};

use crate::pod::quantity::Quantity;
use crate::pod::resources;
use crate::pod::{Container, FieldRef, Map, Pod, ResourceFieldRef};

/// A config map or secret as text and bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data {
    /// Values by key.
    pub values: BTreeMap<String, Vec<u8>>,
}

/// Where config maps and secrets come from; the strings are name and, for errors, kind.
pub trait Objects {
    /// A config map of the pod's namespace; `Ok(None)` when it does not exist.
    fn config_map(&self, name: &str) -> Result<Option<Data>, String>;
    /// A secret of the pod's namespace; `Ok(None)` when it does not exist.
    fn secret(&self, name: &str) -> Result<Option<Data>, String>;
}

/// What the node contributes.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "plain data")]
pub struct Context {
    pub node_name: String,
    pub host_ips: Vec<String>,
    pub pod_ips: Vec<String>,
    pub allocatable: Map,
    pub services: BTreeMap<String, String>,
}

/// Longest argument or variable (`NAME=VALUE`) that the kernel takes when a program is started, in bytes, with its end.
/// Values that hold values, each twice, double with every variable; this is where they stop.
pub const MAX_STRING: usize = 128 * 1024;
/// Most bytes of all of them together, whatever the stack may grow to.
pub const MAX_STRINGS: usize = 6 * 1024 * 1024;

/// An argument or variable is longer than any program can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is longer than {MAX_STRING} bytes, which no program can be started with")]
pub struct TooLong;

/// Replaces `$(NAME)` by `lookup`'s value; `$$` is a dollar; unknown names stay as they are.
pub fn expand(input: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, TooLong> {
    if input.len() >= MAX_STRING {
        return Err(TooLong);
    }
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    let mut closes = true;
    while let Some(at) = rest.find('$') {
        if out.len() >= MAX_STRING {
            return Err(TooLong);
        }
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        let tail = tail.get(1..).unwrap_or_default();
        if let Some(t) = tail.strip_prefix('$') {
            out.push('$');
            rest = t;
        } else if let Some(t) = tail.strip_prefix('(') {
            // Where one is not closed, none after it is.
            let end = if closes { t.find(')') } else { None };
            closes = end.is_some();
            match end {
                Some(end) => {
                    let name = t.get(..end).unwrap_or_default();
                    match lookup(name) {
                        Some(v) => out.push_str(&v),
                        None => {
                            out.push_str("$(");
                            out.push_str(name);
                            out.push(')');
                        }
                    }
                    rest = t.get(end + 1..).unwrap_or_default();
                }
                None => {
                    out.push_str("$(");
                    rest = t;
                }
            }
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    if out.len() >= MAX_STRING {
        return Err(TooLong);
    }
    Ok(out)
}

/// Expands the items of a command or its arguments.
pub fn expand_all(items: &[String], env: &[(String, String)]) -> Result<Vec<String>, String> {
    let map: BTreeMap<&str, &str> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let mut out = Vec::with_capacity(items.len());
    let mut total = 0usize;
    for (i, item) in items.iter().enumerate() {
        let item = expand(item, &|n| map.get(n).map(|v| v.to_string()))
            .map_err(|e| format!("item {i} of the command or its arguments {e}"))?;
        total = total.saturating_add(item.len());
        if total > MAX_STRINGS {
            return Err(format!(
                "the command or its arguments are longer than {MAX_STRINGS} bytes"
            ));
        }
        out.push(item);
    }
    Ok(out)
}

/// Variables in the order of their first mention, found by name.
#[derive(Default)]
struct Variables {
    list: Vec<(String, String)>,
    index: HashMap<String, usize>,
    bytes: usize,
}

impl Variables {
    fn get(&self, name: &str) -> Option<&String> {
        let at = self.index.get(name)?;
        self.list.get(*at).map(|(_, v)| v)
    }

    fn set(&mut self, name: String, value: String) -> Result<(), String> {
        if name.len().saturating_add(value.len()) + 1 >= MAX_STRING {
            return Err(format!("environment variable {name} {TooLong}"));
        }
        self.bytes = self.bytes.saturating_add(name.len() + value.len() + 2);
        if self.bytes > MAX_STRINGS {
            return Err(format!(
                "the environment is longer than {MAX_STRINGS} bytes"
            ));
        }
        match self.index.get(&name).and_then(|at| self.list.get_mut(*at)) {
            Some(slot) => slot.1 = value,
            None => {
                self.index.insert(name.clone(), self.list.len());
                self.list.push((name, value));
            }
        }
        Ok(())
    }
}

/// Builds a container's environment, in order; a later value of the same name takes the earlier one's place.
///
/// The error's text is what the `CreateContainerConfigError` status shows.
pub fn build(
    pod: &Pod,
    c: &Container,
    ctx: &Context,
    objects: &dyn Objects,
) -> Result<Vec<(String, String)>, String> {
    let ns = &pod.metadata.namespace;
    let mut result = Variables::default();
    for from in &c.env_from {
        let (data, kind, r) = if let Some(r) = &from.config_map_ref {
            (objects.config_map(&r.name)?, "configmap", r)
        } else if let Some(r) = &from.secret_ref {
            (objects.secret(&r.name)?, "secret", r)
        } else {
            continue;
        };
        match data {
            Some(d) => {
                for (k, v) in d.values {
                    if let Ok(v) = String::from_utf8(v) {
                        result.set(format!("{}{k}", from.prefix), v)?;
                    }
                }
            }
            None if r.optional == Some(true) => {}
            None => return Err(format!("{kind} \"{}\" not found", r.name)),
        }
    }
    for e in &c.env {
        let value = match &e.value_from {
            None => expand(&e.value, &|n| {
                result.get(n).or_else(|| ctx.services.get(n)).cloned()
            })
            .map_err(|why| format!("environment variable {} {why}", e.name))?,
            Some(src) => {
                if let Some(f) = &src.field_ref {
                    field(pod, ctx, f)?
                } else if let Some(r) = &src.resource_field_ref {
                    resource_field(pod, c, r, &ctx.allocatable)?
                } else if let Some(k) = &src.config_map_key_ref {
                    let optional = k.optional == Some(true);
                    match objects.config_map(&k.name)? {
                        None if optional => continue,
                        None => return Err(format!("configmap \"{}\" not found", k.name)),
                        Some(d) => match d.values.get(&k.key) {
                            Some(v) => String::from_utf8_lossy(v).into_owned(),
                            None if optional => continue,
                            None => {
                                return Err(format!(
                                    "couldn't find key {} in ConfigMap {ns}/{}",
                                    k.key, k.name
                                ));
                            }
                        },
                    }
                } else if let Some(k) = &src.secret_key_ref {
                    let optional = k.optional == Some(true);
                    match objects.secret(&k.name)? {
                        None if optional => continue,
                        None => return Err(format!("secret \"{}\" not found", k.name)),
                        Some(d) => match d.values.get(&k.key) {
                            Some(v) => String::from_utf8_lossy(v).into_owned(),
                            None if optional => continue,
                            None => {
                                return Err(format!(
                                    "couldn't find key {} in Secret {ns}/{}",
                                    k.key, k.name
                                ));
                            }
                        },
                    }
                } else if src.file_key_ref.is_some() {
                    return Err("fileKeyRef is not supported by this kubelet".into());
                } else {
                    String::new()
                }
            }
        };
        result.set(e.name.clone(), value)?;
    }
    for (k, v) in &ctx.services {
        if result.get(k).is_none() {
            result.set(k.clone(), v.clone())?;
        }
    }
    Ok(result.list)
}

/// The value of a field of the pod, for variables.
pub fn field(pod: &Pod, ctx: &Context, f: &FieldRef) -> Result<String, String> {
    Ok(match f.field_path.as_str() {
        "spec.nodeName" => ctx.node_name.clone(),
        "spec.serviceAccountName" => pod.spec.service_account_name.clone(),
        "status.hostIP" => ctx.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => ctx.host_ips.join(","),
        "status.podIP" => ctx.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => ctx.pod_ips.join(","),
        path => return meta_field(pod, path),
    })
}

/// The value of a metadata field, for variables and files.
pub fn meta_field(pod: &Pod, path: &str) -> Result<String, String> {
    let m = &pod.metadata;
    if let Some((map, key)) = subscript(path) {
        return match map {
            "metadata.annotations" => Ok(m.annotations.get(key).cloned().unwrap_or_default()),
            "metadata.labels" => Ok(m.labels.get(key).cloned().unwrap_or_default()),
            other => Err(format!("fieldPath \"{other}\" does not support subscript")),
        };
    }
    Ok(match path {
        "metadata.annotations" => format_map(&m.annotations),
        "metadata.labels" => format_map(&m.labels),
        "metadata.name" => m.name.clone(),
        "metadata.namespace" => m.namespace.clone(),
        "metadata.uid" => m.uid.clone(),
        other => return Err(format!("unsupported fieldPath: {other}")),
    })
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// `key="value"` lines in key order; values quoted as Go's `%q` does.
fn format_map(map: &Map) -> String {
    let lines: Vec<String> = map
        .iter()
        .map(|(k, v)| format!("{k}={}", go_quote(v)))
        .collect();
    lines.join("\n")
}

/// Quotes text as Go's `%q`.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)))
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A container's request or limit divided by the divisor; missing limits fall back to the node's allocatable.
pub fn resource_field(
    pod: &Pod,
    own: &Container,
    r: &ResourceFieldRef,
    allocatable: &Map,
) -> Result<String, String> {
    let c = if r.container_name.is_empty() {
        own
    } else {
        pod.container(&r.container_name)
            .ok_or_else(|| format!("container {} not found", r.container_name))?
    };
    let divisor = r
        .divisor
        .as_deref()
        .and_then(Quantity::parse)
        .filter(|q| q.0 > 0)
        .unwrap_or(Quantity::whole(1));
    let (kind, name) = r.resource.split_once('.').unwrap_or(("", ""));
    if !(matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")) {
        return Err(format!("unsupported container resource : {}", r.resource));
    }
    let value = match kind {
        "limits" => resources::limit(c, name)
            .filter(|q| q.0 > 0)
            .or_else(|| allocatable.get(name).and_then(|q| Quantity::parse(q)))
            .unwrap_or_default(),
        "requests" => resources::request(c, name).unwrap_or_default(),
        _ => return Err(format!("unsupported container resource : {}", r.resource)),
    };
    Ok(value.divided_by(divisor).to_string())
}

/// A service, as far as variables need it.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "plain data")]
pub struct ServiceInfo {
    pub namespace: String,
    pub name: String,
    pub cluster_ip: String,
    pub ports: Vec<(String, i32, String)>,
}

/// Variables for services: the `kubernetes` service of `default` always, those of `ns` when `links` is set.
pub fn service_variables(
    services: &[ServiceInfo],
    ns: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let master = |s: &&ServiceInfo| s.namespace == "default" && s.name == "kubernetes";
    let others = services
        .iter()
        .filter(|s| !master(s) && s.namespace == ns && links);
    for s in services.iter().filter(master).chain(others) {
        let Some((_, first, _)) = s.ports.first() else {
            continue;
        };
        if s.cluster_ip.is_empty() || s.cluster_ip == "None" {
            continue;
        }
        let name = s.name.replace('-', "_").to_uppercase();
        out.insert(format!("{name}_SERVICE_HOST"), s.cluster_ip.clone());
        out.insert(format!("{name}_SERVICE_PORT"), first.to_string());
        let host = if s.cluster_ip.contains(':') {
            format!("[{}]", s.cluster_ip)
        } else {
            s.cluster_ip.clone()
        };
        for (i, (port_name, port, protocol)) in s.ports.iter().enumerate() {
            if !port_name.is_empty() {
                out.insert(
                    format!(
                        "{name}_SERVICE_PORT_{}",
                        port_name.replace('-', "_").to_uppercase()
                    ),
                    port.to_string(),
                );
            }
            let protocol = if protocol.is_empty() { "TCP" } else { protocol };
            let lower = protocol.to_lowercase();
            let url = format!("{lower}://{host}:{port}");
            if i == 0 {
                out.insert(format!("{name}_PORT"), url.clone());
            }
            let prefix = format!("{name}_PORT_{port}_{}", protocol.to_uppercase());
            out.insert(prefix.clone(), url);
            out.insert(format!("{prefix}_PROTO"), lower);
            out.insert(format!("{prefix}_PORT"), port.to_string());
            out.insert(format!("{prefix}_ADDR"), s.cluster_ip.clone());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(BTreeMap<&'static str, Data>);
    impl Objects for Fixed {
        fn config_map(&self, name: &str) -> Result<Option<Data>, String> {
            Ok(self.0.get(name).cloned())
        }
        fn secret(&self, _: &str) -> Result<Option<Data>, String> {
            Ok(None)
        }
    }

    #[test]
    fn expansion() {
        let look = |n: &str| match n {
            "A" => Some("1".to_string()),
            "B" => Some("$(A)".to_string()),
            _ => None,
        };
        for (input, want) in [
            ("$(A)", "1"),
            ("x$(A)y", "x1y"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(B)", "$(A)"),
            ("$(C)", "$(C)"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("$", "$"),
            ("$$", "$"),
            ("$()", "$()"),
        ] {
            assert_eq!(expand(input, &look).as_deref(), Ok(want), "{input}");
        }
    }

    /// Values that double, and texts that are all beginnings, stop at what a program can be given.
    #[test]
    fn expansion_is_bounded() {
        let doubling: Vec<String> = (1..60)
            .map(|i| format!(r#"{{"name":"V{i}","value":"$(V{})$(V{})"}}"#, i - 1, i - 1))
            .collect();
        let e = env_of(&format!(
            r#""env":[{{"name":"V0","value":"xxxxxxxxxxxxxxxx"}},{}]"#,
            doubling.join(",")
        ))
        .unwrap_err();
        assert!(e.starts_with("environment variable V13 is longer"), "{e}");

        let long = "x".repeat(MAX_STRING - 100);
        let env = [("A".to_string(), long)];
        assert_eq!(
            expand_all(&["$(A)".into()], &env).map(|all| all.len()),
            Ok(1)
        );
        assert_eq!(
            expand_all(&["$(A)$(A)".into()], &env),
            Err(format!("item 0 of the command or its arguments {TooLong}"))
        );
        assert_eq!(
            expand_all(&vec!["$(A)".into(); 60], &env),
            Err(format!(
                "the command or its arguments are longer than {MAX_STRINGS} bytes"
            ))
        );

        let open = "$(".repeat(MAX_STRING / 2 - 1);
        let looked = std::cell::Cell::new(0);
        let got = expand(&open, &|_| {
            looked.set(looked.get() + 1);
            None
        });
        assert_eq!((got, looked.get()), (Ok(open), 0));

        // Many variables cost what they are.
        let many: Vec<String> = (0..100_000)
            .map(|i| format!(r#"{{"name":"N{i}","value":"$(N{})"}}"#, i / 2))
            .collect();
        let env = env_of(&format!(r#""env":[{}]"#, many.join(","))).unwrap();
        assert_eq!(env.len(), 100_001);
    }

    fn env_of(env: &str) -> Result<Vec<(String, String)>, String> {
        let pod: Pod = serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"p","namespace":"n","uid":"u","labels":{{"b":"2","a":"x\"y"}}}},
               "spec":{{"containers":[{{"name":"c","image":"i","resources":{{"limits":{{"cpu":"1500m"}}}},{env}}}]}}}}"#
        ))
        .unwrap();
        let ctx = Context {
            pod_ips: vec!["10.0.0.1".into(), "fd::1".into()],
            allocatable: Map::from([("memory".into(), "1Gi".into())]),
            services: BTreeMap::from([(
                "KUBERNETES_SERVICE_HOST".to_string(),
                "10.96.0.1".to_string(),
            )]),
            ..Default::default()
        };
        let data = Data {
            values: BTreeMap::from([
                ("k".to_string(), b"v".to_vec()),
                ("x".to_string(), b"y".to_vec()),
            ]),
        };
        build(
            &pod,
            &pod.spec.containers[0],
            &ctx,
            &Fixed(BTreeMap::from([("cm", data)])),
        )
    }

    #[test]
    fn sources_and_order() {
        let env = env_of(
            r#""envFrom":[{"prefix":"P_","configMapRef":{"name":"cm"}}],
               "env":[{"name":"A","value":"1"},{"name":"B","value":"$(A)-$(P_k)-$(KUBERNETES_SERVICE_HOST)-$(NO)"},{"name":"P_k","value":"over"},
                      {"name":"L","valueFrom":{"fieldRef":{"fieldPath":"metadata.labels['b']"}}},
                      {"name":"ALL","valueFrom":{"fieldRef":{"fieldPath":"metadata.labels"}}},
                      {"name":"IPS","valueFrom":{"fieldRef":{"fieldPath":"status.podIPs"}}},
                      {"name":"CPU","valueFrom":{"resourceFieldRef":{"resource":"limits.cpu"}}},
                      {"name":"MEM","valueFrom":{"resourceFieldRef":{"resource":"limits.memory","divisor":"1Mi"}}},
                      {"name":"OPT","valueFrom":{"configMapKeyRef":{"name":"cm","key":"none","optional":true}}}]"#,
        )
        .unwrap();
        let get = |k: &str| env.iter().find(|(n, _)| n == k).map(|(_, v)| v.as_str());
        assert_eq!(get("B"), Some("1-v-10.96.0.1-$(NO)"));
        assert_eq!(get("P_k"), Some("over"));
        assert_eq!(get("P_x"), Some("y"));
        assert_eq!(get("L"), Some("2"));
        assert_eq!(get("ALL"), Some("a=\"x\\\"y\"\nb=\"2\""));
        assert_eq!(get("IPS"), Some("10.0.0.1,fd::1"));
        assert_eq!(get("CPU"), Some("2"));
        assert_eq!(get("MEM"), Some("1024"));
        assert_eq!(get("OPT"), None);
        assert_eq!(env.iter().filter(|(n, _)| n == "P_k").count(), 1);
    }

    #[test]
    fn missing_sources_are_named() {
        let e = env_of(
            r#""env":[{"name":"X","valueFrom":{"configMapKeyRef":{"name":"cm","key":"zz"}}}]"#,
        )
        .unwrap_err();
        assert_eq!(e, "couldn't find key zz in ConfigMap n/cm");
        let e = env_of(r#""envFrom":[{"secretRef":{"name":"s"}}]"#).unwrap_err();
        assert_eq!(e, "secret \"s\" not found");
        assert!(env_of(r#""envFrom":[{"secretRef":{"name":"s","optional":true}}]"#).is_ok());
    }

    #[test]
    fn service_links() {
        let s = |ns: &str, name: &str| ServiceInfo {
            namespace: ns.into(),
            name: name.into(),
            cluster_ip: "10.0.0.5".into(),
            ports: vec![
                ("http".into(), 80, "TCP".into()),
                (String::new(), 53, "UDP".into()),
            ],
        };
        let all = [
            s("default", "kubernetes"),
            s("n", "my-svc"),
            s("other", "x"),
        ];
        let v = service_variables(&all, "n", true);
        assert_eq!(v["MY_SVC_SERVICE_HOST"], "10.0.0.5");
        assert_eq!(v["MY_SVC_SERVICE_PORT_HTTP"], "80");
        assert_eq!(v["MY_SVC_PORT"], "tcp://10.0.0.5:80");
        assert_eq!(v["MY_SVC_PORT_53_UDP"], "udp://10.0.0.5:53");
        assert!(!v.contains_key("X_SERVICE_HOST"));
        let v = service_variables(&all, "n", false);
        assert!(v.contains_key("KUBERNETES_SERVICE_HOST") && !v.contains_key("MY_SVC_PORT"));
    }
}
