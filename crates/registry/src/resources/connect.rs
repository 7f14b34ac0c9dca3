//! Streams that the server passes on: log, exec, attach, portforward and the proxies. What is decided here is where a
//! request goes; the generic server dials and copies.
//!
//! Addresses come from what users write into objects: the generic server checks each one before it dials it, whatever
//! the path. What is run or reached in containers takes the right to `create`, however the request is dressed.

use api::Status;
use apiserver::resource::{ConnectSubresource, Connection, Context, Target};
use apiserver::verbs::connect::dialable;
use async_trait::async_trait;
use serde_json::Value;

use crate::check::parse_ip_sloppy;
use crate::validate::pod_update::container_names;
use crate::validate::{Errors, Path};
use crate::value::Tree;

/// How kubelets are found.
#[derive(Clone)]
pub struct Kubelets {
    /// Address types, best first.
    pub preferred: Vec<String>,
}

/// The port of kubelets that report none.
const DEFAULT_PORT: u16 = 10250;

impl Kubelets {
    /// `host:port` of a node's kubelet.
    async fn find(
        &self,
        ctx: &Context<'_>,
        node: &str,
        resource: &str,
    ) -> Result<(String, u16), Status> {
        let found = ctx.reader.get("", "nodes", "", node).await?;
        // Upstream's answer for a node that does not exist names the resource of the request.
        let found = found.ok_or_else(|| Status::not_found("", resource, node))?;
        let addresses = found.list("status.addresses");
        let host = self.preferred.iter().find_map(|kind| {
            addresses
                .iter()
                .find(|a| a.text("type") == kind)
                .map(|a| a.text("address"))
        });
        let Some(host) = host else {
            let all: Vec<String> = addresses
                .iter()
                .map(|a| format!("{{Type:{} Address:{}}}", a.text("type"), a.text("address")))
                .collect();
            return Err(Status::internal(format!(
                "no preferred addresses found; known addresses: [{}]",
                all.join(" ")
            )));
        };
        let port = found.int("status.daemonEndpoints.kubeletEndpoint.Port");
        let port = match u16::try_from(port) {
            Ok(p) if p > 0 => p,
            _ => DEFAULT_PORT,
        };
        Ok((host.to_owned(), port))
    }
}

/// The values of a raw query, decoded, in order.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses a raw query; broken escapes stay as they are.
    pub fn parse(raw: &str) -> Query {
        Query(
            raw.split('&')
                .filter(|p| !p.is_empty())
                .map(|p| p.split_once('=').unwrap_or((p, "")))
                .map(|(k, v)| (unescape(k), unescape(v)))
                .collect(),
        )
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// All values of a key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// A boolean as Kubernetes reads it: present and neither `0` nor `false`.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
    }
}

fn unescape(s: &str) -> String {
    let mut out = Vec::with_capacity(s.len());
    let mut bytes = s.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'+' => out.push(b' '),
            b'%' => {
                let rest = bytes.as_slice_hex();
                match rest {
                    Some(v) => {
                        out.push(v);
                        bytes.nth(1);
                    }
                    None => out.push(b'%'),
                }
            }
            other => out.push(other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Peeking at the two hexadecimal digits after a `%`.
trait Hex {
    fn as_slice_hex(&self) -> Option<u8>;
}

impl Hex for std::str::Bytes<'_> {
    fn as_slice_hex(&self) -> Option<u8> {
        let mut two = self.clone();
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        let (high, low) = (digit(two.next())?, digit(two.next())?);
        u8::try_from(high * 16 + low).ok()
    }
}

fn escape(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for b in s.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(b))
            }
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// A query in the order of Go's `Values.Encode`: by key, values in their order.
fn encode(mut pairs: Vec<(&str, String)>) -> String {
    pairs.sort_by(|a, b| a.0.cmp(b.0));
    pairs
        .iter()
        .map(|(k, v)| format!("{k}={}", escape(v)))
        .collect::<Vec<_>>()
        .join("&")
}

/// The container a request means.
fn container<'a>(pod: &'a Value, asked: &'a str) -> Result<&'a str, Status> {
    let names = container_names(pod);
    let regular = pod.list("spec.containers");
    match (asked, regular) {
        ("", [only]) => Ok(only.text("name")),
        ("", []) => Err(Status::bad_request(format!(
            "a container name must be specified for pod {}",
            pod.name()
        ))),
        ("", _) => Err(Status::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            pod.name(),
            names.join(" ")
        ))),
        (asked, _) if names.contains(&asked) => Ok(asked),
        (asked, _) => Err(Status::bad_request(format!(
            "container {asked} is not valid for pod {}",
            pod.name()
        ))),
    }
}

fn kubelet((host, port): (String, u16), path: String) -> Target {
    Target {
        tls: true,
        host,
        port,
        path,
        kubelet: true,
        ..Target::default()
    }
}

/// `pods/log`.
pub struct Log {
    /// How kubelets are found.
    pub kubelets: Kubelets,
}

fn number(q: &Query, key: &str) -> Result<Option<i64>, Status> {
    match q.get(key) {
        None | Some("") => Ok(None),
        Some(v) => v.parse().map(Some).map_err(|_| {
            Status::bad_request(format!("strconv.ParseInt: parsing {v:?}: invalid syntax"))
        }),
    }
}

fn log_options(q: &Query, pod: &str) -> Result<Vec<(&'static str, String)>, Status> {
    let mut e = Errors::new();
    let (tail, limit, since) = (
        number(q, "tailLines")?,
        number(q, "limitBytes")?,
        number(q, "sinceSeconds")?,
    );
    if let Some(n) = tail.filter(|n| *n < 0) {
        e.invalid(
            &Path::new("tailLines"),
            n,
            "must be greater than or equal to 0",
        );
    }
    if let Some(n) = limit.filter(|n| *n < 1) {
        e.invalid(&Path::new("limitBytes"), n, "must be greater than 0");
    }
    let since_time = q.get("sinceTime").filter(|t| !t.is_empty());
    if since.is_some() && since_time.is_some() {
        e.forbidden(
            &Path::new(""),
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        );
    } else if let Some(n) = since.filter(|n| *n < 1) {
        e.invalid(&Path::new("sinceSeconds"), n, "must be greater than 0");
    }
    if q.get("stream").is_some_and(|s| !s.is_empty()) {
        e.forbidden(&Path::new("stream"), "may not be specified");
    }
    if !e.is_empty() {
        return Err(Status::invalid("", "PodLogOptions", pod, &e));
    }
    let mut out = vec![];
    for key in ["follow", "previous", "timestamps"] {
        if q.flag(key) {
            out.push((key, "true".to_owned()));
        }
    }
    for (key, n) in [
        ("sinceSeconds", since),
        ("tailLines", tail),
        ("limitBytes", limit),
    ] {
        if let Some(n) = n {
            out.push((key, n.to_string()));
        }
    }
    if let Some(t) = since_time {
        out.push(("sinceTime", t.to_owned()));
    }
    Ok(out)
}

#[async_trait]
impl ConnectSubresource for Log {
    async fn connect(
        &self,
        ctx: &Context<'_>,
        pod: &Value,
        _: &http::Method,
        _: &str,
        query: &str,
    ) -> Result<Connection, Status> {
        let q = Query::parse(query);
        let options = log_options(&q, pod.name())?;
        let name = container(pod, q.get("container").unwrap_or_default())?;
        let node = pod.text("spec.nodeName");
        if node.is_empty() {
            return Ok(Connection::NoContent);
        }
        let at = self.kubelets.find(ctx, node, "pods").await?;
        let path = format!("/containerLogs/{}/{}/{name}", pod.namespace(), pod.name());
        let path = with_query(path, &encode(options));
        Ok(Connection::Proxy(Target {
            streamed: Some(("pods/log", pod.name().to_owned())),
            ..kubelet(at, path)
        }))
    }
}

fn with_query(path: String, query: &str) -> String {
    if query.is_empty() {
        path
    } else {
        format!("{path}?{query}")
    }
}

/// `pods/exec` and `pods/attach`.
pub struct Attachment {
    /// How kubelets are found.
    pub kubelets: Kubelets,
    /// Exec rather than attach.
    pub exec: bool,
}

fn no_host(pod: &Value) -> Status {
    Status::bad_request(format!("pod {} does not have a host assigned", pod.name()))
}

#[async_trait]
impl ConnectSubresource for Attachment {
    fn needs(&self, _: &str, _: bool) -> Option<&'static str> {
        Some("create")
    }

    async fn connect(
        &self,
        ctx: &Context<'_>,
        pod: &Value,
        _: &http::Method,
        _: &str,
        query: &str,
    ) -> Result<Connection, Status> {
        let q = Query::parse(query);
        let name = container(pod, q.get("container").unwrap_or_default())?;
        let node = pod.text("spec.nodeName");
        if node.is_empty() {
            return Err(no_host(pod));
        }
        let at = self.kubelets.find(ctx, node, "pods").await?;
        let mut options = vec![];
        for (asked, key) in [
            ("stdin", "input"),
            ("stdout", "output"),
            ("stderr", "error"),
            ("tty", "tty"),
        ] {
            if q.flag(asked) {
                options.push((key, "1".to_owned()));
            }
        }
        if self.exec {
            options.extend(q.all("command").map(|c| ("command", c.to_owned())));
        }
        let verb = if self.exec { "exec" } else { "attach" };
        let path = format!("/{verb}/{}/{}/{name}", pod.namespace(), pod.name());
        Ok(Connection::Proxy(Target {
            upgrade: true,
            ..kubelet(at, with_query(path, &encode(options)))
        }))
    }
}

/// `pods/portforward`.
pub struct PortForward {
    /// How kubelets are found.
    pub kubelets: Kubelets,
}

#[async_trait]
impl ConnectSubresource for PortForward {
    fn needs(&self, _: &str, _: bool) -> Option<&'static str> {
        Some("create")
    }

    async fn connect(
        &self,
        ctx: &Context<'_>,
        pod: &Value,
        _: &http::Method,
        _: &str,
        query: &str,
    ) -> Result<Connection, Status> {
        let q = Query::parse(query);
        let node = pod.text("spec.nodeName");
        if node.is_empty() {
            return Err(no_host(pod));
        }
        let at = self.kubelets.find(ctx, node, "pods").await?;
        let ports: Vec<&str> = q.all("ports").collect();
        let options = if ports.is_empty() {
            vec![]
        } else {
            vec![("port", ports.join(","))]
        };
        let path = format!("/portForward/{}/{}", pod.namespace(), pod.name());
        Ok(Connection::Proxy(Target {
            upgrade: true,
            ..kubelet(at, with_query(path, &encode(options)))
        }))
    }
}

/// `[scheme:]name[:port]` of a proxy request.
pub fn split_scheme_name_port(id: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (!name.is_empty() && ["", "http", "https"].contains(&scheme)).then_some((scheme, name, port))
}

/// The name of the object in a proxy request's name.
fn proxied<'a>(kind: &str, id: &'a str) -> Result<&'a str, Status> {
    split_scheme_name_port(id)
        .map(|(_, name, _)| name)
        .ok_or_else(|| {
            Status::bad_request(format!(
                "invalid {kind} request {}",
                api::text::go_quote(id)
            ))
        })
}

fn check_ip(ip: &str) -> Result<(), Status> {
    match parse_ip_sloppy(ip) {
        Some(ip) if dialable(ip) => Ok(()),
        _ => Err(Status::bad_request("address not allowed")),
    }
}

/// Where a proxy request goes; without a port to the scheme's own.
fn proxy(scheme: &str, host: &str, port: Option<u16>, path: &str, query: &str) -> Target {
    let tls = scheme == "https";
    Target {
        tls,
        // As it is written in URLs, without leading zeros.
        host: parse_ip_sloppy(host).map_or_else(|| host.to_owned(), |ip| ip.to_string()),
        port: port.unwrap_or(if tls { 443 } else { 80 }),
        path: with_query(if path.is_empty() { "/" } else { path }.to_owned(), query),
        ..Target::default()
    }
}

/// `pods/proxy`.
pub struct PodProxy;

/// The port that a pod's proxy request means: its number, the name of a container's port, or the first one.
fn pod_port(pod: &Value, asked: &str) -> Result<Option<u16>, Status> {
    let mut ports = pod
        .list("spec.containers")
        .iter()
        .flat_map(|c| c.list("ports"));
    let unknown = || {
        Status::unavailable(format!(
            "error trying to reach service: dial tcp: lookup tcp/{asked}: unknown port"
        ))
    };
    let found = match asked {
        "" => match ports.next() {
            None => return Ok(None),
            Some(p) => p.int("containerPort"),
        },
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map_err(|_| unknown())?
        }
        name => ports
            .find(|p| p.text("name") == name)
            .ok_or_else(unknown)?
            .int("containerPort"),
    };
    u16::try_from(found)
        .ok()
        .filter(|p| *p > 0)
        .map(Some)
        .ok_or_else(unknown)
}

#[async_trait]
impl ConnectSubresource for PodProxy {
    fn object_name<'a>(&self, name: &'a str) -> Result<&'a str, Status> {
        proxied("pod", name)
    }

    async fn connect(
        &self,
        ctx: &Context<'_>,
        pod: &Value,
        _: &http::Method,
        path: &str,
        query: &str,
    ) -> Result<Connection, Status> {
        let (scheme, _, asked) = split_scheme_name_port(ctx.name).unwrap_or_default();
        let ip = pod
            .list("status.podIPs")
            .first()
            .map_or("", |i| i.text("ip"));
        check_ip(ip)?;
        let port = pod_port(pod, asked)?;
        Ok(Connection::Proxy(proxy(scheme, ip, port, path, query)))
    }
}

/// `nodes/proxy`.
pub struct NodeProxy {
    /// How kubelets are found.
    pub kubelets: Kubelets,
}

/// Whether a kubelet takes a path for one that reaches into containers, in any spelling: the first segment, also of what
/// remains when escapes, empty segments and dots are resolved.
fn reaches_into_containers(path: &str) -> bool {
    const REACHES: [&str; 5] = ["exec", "attach", "portforward", "run", "checkpoint"];
    let mut path = path.to_owned();
    // Escaped escapes: each pass takes one layer away.
    for _ in 0..8 {
        let plain = unescape(&path.replace('+', "%2B"));
        if plain == path {
            break;
        }
        path = plain;
    }
    let path = path.replace('\\', "/").to_ascii_lowercase();
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let segments = path.split('/').filter(|s| !s.is_empty() && *s != ".");
    let mut resolved: Vec<&str> = Vec::new();
    for s in segments.clone() {
        if s == ".." {
            resolved.pop();
        } else {
            resolved.push(s);
        }
    }
    // Matrix parameters belong to no name.
    let reaches = |s: &str| REACHES.contains(&s.split(';').next().unwrap_or_default().trim());
    let first = segments.clone().find(|s| *s != "..");
    first.is_some_and(reaches) || resolved.first().copied().is_some_and(reaches)
}

#[async_trait]
impl ConnectSubresource for NodeProxy {
    fn needs(&self, path: &str, upgrade: bool) -> Option<&'static str> {
        (upgrade || reaches_into_containers(path)).then_some("create")
    }

    fn object_name<'a>(&self, name: &'a str) -> Result<&'a str, Status> {
        proxied("node", name)
    }

    async fn connect(
        &self,
        ctx: &Context<'_>,
        _: &Value,
        _: &http::Method,
        path: &str,
        query: &str,
    ) -> Result<Connection, Status> {
        let (scheme, name, asked) = split_scheme_name_port(ctx.name).unwrap_or_default();
        let (host, own) = self.kubelets.find(ctx, name, "nodes").await?;
        let port = match asked {
            "" => own,
            text => text.parse().ok().filter(|p| *p > 0).ok_or_else(|| {
                Status::unavailable(format!(
                    "error trying to reach service: dial tcp: lookup tcp/{text}: unknown port"
                ))
            })?,
        };
        let mut target = proxy(scheme, &host, Some(port), path, query);
        if port == own {
            target.tls = true;
            target.kubelet = true;
        }
        Ok(Connection::Proxy(target))
    }
}

/// `services/proxy`: to one of the ready endpoints that are pods.
pub struct ServiceProxy;

/// The name of the endpoints' port that a proxied port means: the number is the service's, anything else is a name.
fn endpoint_port_name<'a>(service: &'a Value, asked: &'a str) -> Result<&'a str, Status> {
    let Ok(number) = asked.parse::<i64>() else {
        return Ok(asked);
    };
    service
        .list("spec.ports")
        .iter()
        .find(|p| p.int("port") == number)
        .map(|p| p.text("name"))
        .ok_or_else(|| {
            Status::unavailable(format!(
                "no service port {number} found for service {}",
                api::text::go_quote(service.name())
            ))
        })
}

/// Whether an endpoint's address is that of the pod it names: what somebody else writes into a slice is not dialled.
async fn is_pods(ctx: &Context<'_>, endpoint: &Value, address: &str) -> bool {
    let (kind, name) = (
        endpoint.text("targetRef.kind"),
        endpoint.text("targetRef.name"),
    );
    if kind != "Pod" || name.is_empty() || endpoint.text("targetRef.namespace") != ctx.namespace {
        return false;
    }
    let Ok(Some(pod)) = ctx.reader.get("", "pods", ctx.namespace, name).await else {
        return false;
    };
    let has = |ip: &Value| ip.text("ip") == address;
    pod.list("status.podIPs").iter().any(has)
}

/// All of a list, beginning anywhere.
fn anywhere<T>(list: &[T]) -> impl Iterator<Item = &T> {
    let at = if list.is_empty() {
        0
    } else {
        rand::random_range(0..list.len())
    };
    let (before, after) = list.split_at(at);
    after.iter().chain(before)
}

#[async_trait]
impl ConnectSubresource for ServiceProxy {
    fn object_name<'a>(&self, name: &'a str) -> Result<&'a str, Status> {
        proxied("service", name)
    }

    async fn connect(
        &self,
        ctx: &Context<'_>,
        service: &Value,
        _: &http::Method,
        path: &str,
        query: &str,
    ) -> Result<Connection, Status> {
        let (scheme, name, asked) = split_scheme_name_port(ctx.name).unwrap_or_default();
        let wanted = endpoint_port_name(service, asked)?;
        let mut slices = ctx
            .reader
            .list("discovery.k8s.io", "endpointslices", ctx.namespace)
            .await?;
        slices.retain(|s| s.label("kubernetes.io/service-name") == Some(name));
        let port = |s: &Value| {
            let found = s.list("ports").iter().find(|p| p.text("name") == wanted)?;
            u16::try_from(found.int("port")).ok().filter(|p| *p > 0)
        };
        for s in anywhere(&slices) {
            let Some(port) = port(s) else {
                continue;
            };
            let ready = |e: &&Value| e.flag_opt("conditions.ready") != Some(false);
            for e in anywhere(s.list("endpoints")).filter(ready) {
                let Some(address) = e.texts("addresses").first().copied() else {
                    continue;
                };
                if check_ip(address).is_ok() && is_pods(ctx, e, address).await {
                    let target = proxy(scheme, address, Some(port), path, query);
                    return Ok(Connection::Proxy(target));
                }
            }
        }
        Err(Status::unavailable(format!(
            "no endpoints available for service {}",
            api::text::go_quote(if slices.is_empty() { name } else { ctx.name })
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn queries() {
        let q = Query::parse("command=a&command=b%20c&stdout=1&tty=false&x=%zz&y=a+b");
        assert_eq!(q.all("command").collect::<Vec<_>>(), ["a", "b c"]);
        assert!(q.flag("stdout") && !q.flag("tty") && !q.flag("stdin"));
        assert_eq!((q.get("x"), q.get("y")), (Some("%zz"), Some("a b")));
        assert_eq!(
            encode(vec![("b", "1 2".into()), ("a", "/".into())]),
            "a=%2F&b=1+2"
        );
    }

    #[test]
    fn containers_are_chosen() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&pod, "").unwrap(), "a");
        assert_eq!(container(&pod, "i").unwrap(), "i");
        assert_eq!(
            container(&pod, "zz").unwrap_err().message,
            "container zz is not valid for pod p"
        );
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(
            container(&two, "").unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b]"
        );
    }

    #[test]
    fn log_options_are_checked() {
        let bad = log_options(&Query::parse("tailLines=-1&limitBytes=0"), "p").unwrap_err();
        let causes: Vec<String> = bad
            .details
            .unwrap()
            .causes
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        assert_eq!(
            causes,
            [
                "tailLines: Invalid value: -1: must be greater than or equal to 0",
                "limitBytes: Invalid value: 0: must be greater than 0"
            ]
        );
        let good = log_options(&Query::parse("follow=true&tailLines=5"), "p").unwrap();
        assert_eq!(encode(good), "follow=true&tailLines=5");
    }

    /// CVE-2022-3294, CVE-2020-8562: what is written into a pod's status is looked at before it is a place to go.
    #[test]
    fn addresses_of_pods_are_checked() {
        for bad in [
            "127.0.0.1",
            "169.254.169.254",
            "::1",
            "::ffff:127.0.0.1",
            "host",
            "",
        ] {
            let e = check_ip(bad).unwrap_err();
            assert_eq!(
                (e.code, e.message.as_str()),
                (400, "address not allowed"),
                "{bad}"
            );
        }
        assert!(check_ip("10.0.0.1").is_ok() && check_ip("2001:db8::1").is_ok());
    }

    #[test]
    fn proxies_go_to_ipv6_https_and_named_ports() {
        let t = proxy("https", "fd00::1", None, "", "");
        assert_eq!(
            (t.tls, t.host.as_str(), t.port, t.path.as_str()),
            (true, "fd00::1", 443, "/")
        );
        let t = proxy("", "10.0.0.1", Some(8080), "/a", "b=c");
        assert_eq!((t.tls, t.port, t.path.as_str()), (false, 8080, "/a?b=c"));
        assert!(!t.kubelet);
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [
            {"name": "web", "containerPort": 8080}, {"name": "adm", "containerPort": 9090}]}]}});
        assert_eq!(pod_port(&pod, "").unwrap(), Some(8080));
        assert_eq!(pod_port(&pod, "adm").unwrap(), Some(9090));
        assert_eq!(pod_port(&pod, "81").unwrap(), Some(81));
        assert_eq!(pod_port(&json!({}), "").unwrap(), None);
        for bad in [
            "nope",
            "0",
            "65536",
            "99999999999999999999",
            "80@evil",
            "-1",
        ] {
            assert_eq!(pod_port(&pod, bad).unwrap_err().code, 503, "{bad}");
        }
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80, "name": "web"}, {"port": 81}]}});
        assert_eq!(endpoint_port_name(&service, "80").unwrap(), "web");
        assert_eq!(endpoint_port_name(&service, "81").unwrap(), "");
        assert_eq!(endpoint_port_name(&service, "other").unwrap(), "other");
        assert_eq!(
            endpoint_port_name(&service, "82").unwrap_err().message,
            "no service port 82 found for service \"s\""
        );
    }

    /// nodes/proxy: exec, attach, port-forward and run need `create`, however the request is dressed.
    #[test]
    fn streams_need_create_in_every_dress() {
        let node = NodeProxy {
            kubelets: Kubelets { preferred: vec![] },
        };
        for path in [
            "/exec/ns/p/c",
            "/attach/ns/p/c",
            "/portForward/ns/p",
            "/run/ns/p/c",
            "/run",
            "//exec/ns/p/c",
            "/./exec/ns/p/c",
            "/metrics/../exec/ns/p/c",
            "/../exec/ns/p/c",
            "/%65xec/ns/p/c",
            "/%2565xec/ns/p/c",
            "/%2fexec/ns/p/c",
            "/metrics%2f..%2fexec/ns/p/c",
            "/metrics/%2e%2e/exec/ns/p/c",
            "/EXEC/ns/p/c",
            "/\\exec/ns/p/c",
            "/exec;x=1/ns/p/c",
            "/exec%3fx",
        ] {
            assert_eq!(node.needs(path, false), Some("create"), "{path}");
        }
        for path in [
            "",
            "/",
            "/metrics",
            "/pods",
            "/containerLogs/ns/exec/run",
            "/logs/exec",
            "/executive",
        ] {
            assert_eq!(node.needs(path, false), None, "{path}");
            assert_eq!(node.needs(path, true), Some("create"), "{path}");
        }
        let kubelets = || Kubelets { preferred: vec![] };
        let exec = Attachment {
            kubelets: kubelets(),
            exec: true,
        };
        let attach = Attachment {
            kubelets: kubelets(),
            exec: false,
        };
        let forward = PortForward {
            kubelets: kubelets(),
        };
        let all: [&dyn ConnectSubresource; 3] = [&exec, &attach, &forward];
        for c in all {
            assert_eq!(
                (c.needs("", true), c.needs("", false)),
                (Some("create"), Some("create"))
            );
        }
    }

    #[test]
    fn names_with_schemes_and_ports() {
        assert_eq!(split_scheme_name_port("a"), Some(("", "a", "")));
        assert_eq!(
            split_scheme_name_port("https:a:80"),
            Some(("https", "a", "80"))
        );
        assert_eq!(split_scheme_name_port("ftp:a:80"), None);
        assert_eq!(split_scheme_name_port(":80"), None);
        assert_eq!(proxied("service", "https:svc:web").unwrap(), "svc");
        assert_eq!(
            proxied("service", "ftp:a:80").unwrap_err().message,
            "invalid service request \"ftp:a:80\""
        );
    }
}
