//! Streams that the server passes on: log, exec, attach, portforward and the proxies. What is decided here is where a
//! request goes; the generic server dials and copies.
//!
//! Addresses of proxies come from what users write into objects, so they are checked: only global unicast addresses,
//! never loopback or link-local.

use std::net::IpAddr;

use api::Status;
use apiserver::resource::{ConnectSubresource, Connection, Context, Target};
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
const DEFAULT_PORT: i64 = 10250;

impl Kubelets {
    /// `host:port` of a node's kubelet.
    async fn find(
        &self,
        ctx: &Context<'_>,
        node: &str,
        resource: &str,
    ) -> Result<(String, i64), Status> {
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
        let port = match found.int("status.daemonEndpoints.kubeletEndpoint.Port") {
            p if p > 0 => p,
            _ => DEFAULT_PORT,
        };
        Ok((host.to_owned(), port))
    }
}

fn join(host: &str, port: impl std::fmt::Display) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
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

fn kubelet(url: String, streamed: Option<(&'static str, String)>) -> Connection {
    Connection::Proxy(Target {
        url,
        kubelet: true,
        streamed,
    })
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
        let (host, port) = self.kubelets.find(ctx, node, "pods").await?;
        let path = format!("/containerLogs/{}/{}/{name}", pod.namespace(), pod.name());
        Ok(kubelet(
            format!(
                "https://{}{path}{}",
                join(&host, port),
                with_query(encode(options))
            ),
            Some(("pods/log", pod.name().to_owned())),
        ))
    }
}

fn with_query(q: String) -> String {
    if q.is_empty() { q } else { format!("?{q}") }
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
        let (host, port) = self.kubelets.find(ctx, node, "pods").await?;
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
        Ok(kubelet(
            format!(
                "https://{}{path}{}",
                join(&host, port),
                with_query(encode(options))
            ),
            None,
        ))
    }
}

/// `pods/portforward`.
pub struct PortForward {
    /// How kubelets are found.
    pub kubelets: Kubelets,
}

#[async_trait]
impl ConnectSubresource for PortForward {
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
        let (host, port) = self.kubelets.find(ctx, node, "pods").await?;
        let ports: Vec<&str> = q.all("ports").collect();
        let options = if ports.is_empty() {
            vec![]
        } else {
            vec![("port", ports.join(","))]
        };
        let path = format!("/portForward/{}/{}", pod.namespace(), pod.name());
        Ok(kubelet(
            format!(
                "https://{}{path}{}",
                join(&host, port),
                with_query(encode(options))
            ),
            None,
        ))
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

/// Whether a proxy may dial an address.
pub fn proxyable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v) => v.is_link_local() || v.is_broadcast(),
        IpAddr::V6(v) => v.to_ipv4_mapped().is_some() || (v.segments()[0] & 0xffc0) == 0xfe80,
    };
    !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !link_local
}

fn check_ip(host: &str) -> Result<(), Status> {
    match parse_ip_sloppy(host) {
        Some(ip) if proxyable(ip) => Ok(()),
        _ => Err(Status::bad_request("address not allowed")),
    }
}

fn proxy_url(scheme: &str, host: &str, path: &str, query: &str) -> String {
    let scheme = if scheme.is_empty() { "http" } else { scheme };
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    format!("{scheme}://{host}{path}{}", with_query(query.to_owned()))
}

/// `pods/proxy`.
pub struct PodProxy;

#[async_trait]
impl ConnectSubresource for PodProxy {
    async fn connect(
        &self,
        ctx: &Context<'_>,
        pod: &Value,
        _: &http::Method,
        path: &str,
        query: &str,
    ) -> Result<Connection, Status> {
        let Some((scheme, _, port)) = split_scheme_name_port(ctx.name) else {
            return Err(Status::bad_request(format!(
                "invalid pod request {:?}",
                ctx.name
            )));
        };
        let mut port = port.to_owned();
        if port.is_empty() {
            let first = pod
                .list("spec.containers")
                .iter()
                .find_map(|c| c.list("ports").first());
            port = first
                .map(|p| p.int("containerPort").to_string())
                .unwrap_or_default();
        }
        let ip = pod
            .list("status.podIPs")
            .first()
            .map_or("", |i| i.text("ip"));
        check_ip(ip)?;
        let host = if port.is_empty() {
            ip.to_owned()
        } else {
            join(ip, port)
        };
        Ok(Connection::Proxy(Target {
            url: proxy_url(scheme, &host, path, query),
            kubelet: false,
            streamed: None,
        }))
    }
}

/// `nodes/proxy`.
pub struct NodeProxy {
    /// How kubelets are found.
    pub kubelets: Kubelets,
}

#[async_trait]
impl ConnectSubresource for NodeProxy {
    async fn connect(
        &self,
        ctx: &Context<'_>,
        _: &Value,
        _: &http::Method,
        path: &str,
        query: &str,
    ) -> Result<Connection, Status> {
        let Some((scheme, name, port)) = split_scheme_name_port(ctx.name) else {
            return Err(Status::bad_request(format!(
                "invalid node request {:?}",
                ctx.name
            )));
        };
        let (host, kubelet_port) = self.kubelets.find(ctx, name, "nodes").await?;
        check_ip(&host)?;
        if port.is_empty() || port == kubelet_port.to_string() {
            let url = proxy_url("https", &join(&host, kubelet_port), path, query);
            return Ok(Connection::Proxy(Target {
                url,
                kubelet: true,
                streamed: None,
            }));
        }
        let url = proxy_url(scheme, &join(&host, port), path, query);
        Ok(Connection::Proxy(Target {
            url,
            kubelet: false,
            streamed: None,
        }))
    }
}

/// `services/proxy`: to one of the ready endpoints.
pub struct ServiceProxy;

/// The endpoints' port that a proxied port means: by name of the service's port or by its number.
fn endpoint_port_name<'a>(service: &'a Value, asked: &str) -> Option<&'a str> {
    let ports = service.list("spec.ports");
    match asked {
        "" => match ports {
            [only] => Some(only.text("name")),
            _ => ports.iter().map(|p| p.text("name")).find(|n| n.is_empty()),
        },
        asked => ports
            .iter()
            .find(|p| p.text("name") == asked || p.int("port").to_string() == asked)
            .map(|p| p.text("name")),
    }
}

#[async_trait]
impl ConnectSubresource for ServiceProxy {
    async fn connect(
        &self,
        ctx: &Context<'_>,
        service: &Value,
        _: &http::Method,
        path: &str,
        query: &str,
    ) -> Result<Connection, Status> {
        let Some((scheme, name, port)) = split_scheme_name_port(ctx.name) else {
            return Err(Status::bad_request(format!(
                "invalid service request {:?}",
                ctx.name
            )));
        };
        let none =
            || Status::unavailable(format!("no endpoints available for service {:?}", ctx.name));
        let wanted = endpoint_port_name(service, port).ok_or_else(|| {
            Status::unavailable(format!(
                "no service port {port:?} found for service {name:?}"
            ))
        })?;
        let slices = ctx
            .reader
            .list("discovery.k8s.io", "endpointslices", ctx.namespace)
            .await?;
        for s in slices
            .iter()
            .filter(|s| s.label("kubernetes.io/service-name") == Some(name))
        {
            let Some(p) = s.list("ports").iter().find(|p| p.text("name") == wanted) else {
                continue;
            };
            let ready = s
                .list("endpoints")
                .iter()
                .filter(|e| e.flag_opt("conditions.ready") != Some(false))
                .filter_map(|e| e.texts("addresses").first().copied())
                .find(|a| parse_ip_sloppy(a).is_some_and(proxyable));
            if let Some(address) = ready {
                let url = proxy_url(scheme, &join(address, p.int("port")), path, query);
                return Ok(Connection::Proxy(Target {
                    url,
                    kubelet: false,
                    streamed: None,
                }));
            }
        }
        Err(none())
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
        assert_eq!(bad.details.unwrap().causes.len(), 2);
        let good = log_options(&Query::parse("follow=true&tailLines=5"), "p").unwrap();
        assert_eq!(encode(good), "follow=true&tailLines=5");
    }

    /// CVE-2022-3294, CVE-2020-8562: what proxies may dial.
    #[test]
    fn proxies_refuse_special_addresses() {
        for bad in [
            "127.0.0.1",
            "169.254.169.254",
            "::1",
            "fe80::1",
            "0.0.0.0",
            "224.0.0.1",
            "::ffff:127.0.0.1",
        ] {
            assert!(check_ip(bad).is_err(), "{bad}");
        }
        assert!(
            check_ip("10.0.0.1").is_ok()
                && check_ip("2001:db8::1").is_ok()
                && check_ip("host").is_err()
        );
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
    }
}
