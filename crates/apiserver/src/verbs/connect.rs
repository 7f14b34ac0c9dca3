//! Byte streams through the server: logs, exec, attach, port-forward, proxy.
//!
//! Plain answers are passed on as they come. An upgrade is passed through as raw bytes, whatever its protocol (WebSocket,
//! SPDY); logs are put into WebSocket messages here. Invariants: an address is resolved once, checked, and dialled as it
//! was checked; a failed upgrade is answered and its connection closed, nothing is piped on it; a redirect is never
//! followed, nor passed on from a kubelet; credentials of the client never reach the other side.

mod links;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use api::Status;
use bytes::Bytes;
use component::places::Place;
use http::header::{self, HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::Response;
use crate::body::{Body, BoxError};
use crate::chain::Server;
use crate::resource::Target;
use crate::verbs::websocket;

/// How long a connection to the other side may take to come up.
const DIAL: Duration = Duration::from_secs(30);

/// The most of a backend's failure that is read.
const MAX_FAILURE: usize = 50_000;

/// Headers by which a backend would say which pages may read its answers: it does not speak for this server.
const CORS: [&str; 4] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

/// Headers of one hop, and those that carry the client's identity.
const DROPPED: [&str; 11] = [
    "authorization",
    "connection",
    "cookie",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
];

fn bad_gateway(why: impl std::fmt::Display) -> Status {
    let mut s = Status::failure(
        500,
        "InternalError",
        format!("Internal error occurred: {why}"),
    );
    s.details = Some(Box::new(api::status::StatusDetails {
        causes: vec![api::status::StatusCause {
            message: why.to_string(),
            ..Default::default()
        }],
        ..Default::default()
    }));
    s
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}

/// Metadata services of clouds at addresses that are not link-local.
const METADATA: [IpAddr; 5] = [
    // Alibaba Cloud, Azure, Oracle Cloud.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    // AWS, Google Cloud.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether the server dials an address that objects or names lead to: what is global or private, and neither this machine
/// itself nor a link's or cloud's own service. IPv4 addresses within IPv6 count as what they are, those that a gateway
/// translates (NAT64: RFC 6052 and 8215; 6to4: RFC 3056) among them.
pub fn dialable(ip: IpAddr) -> bool {
    let v4 = match ip {
        IpAddr::V4(v) => v,
        IpAddr::V6(v) => match v.to_ipv4().or_else(|| translated(v)) {
            // Also `::1` and `::`, and the old form without `ffff`.
            Some(inner) => inner,
            None => {
                return !v.is_multicast()
                    && (v.segments()[0] & 0xffc0) != 0xfe80
                    && !METADATA.contains(&ip);
            }
        },
    };
    let this_network = v4.octets()[0] == 0;
    !this_network
        && !v4.is_loopback()
        && !v4.is_link_local()
        && !v4.is_multicast()
        && !v4.is_broadcast()
        && !METADATA.contains(&v4.into())
}

/// The IPv4 address that packets to a NAT64 or 6to4 address end at.
fn translated(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low]
        | [0x2002, high, low, ..] => Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))),
        _ => None,
    }
}

/// The addresses of a host. One that may not be dialled spoils all: the next look-up may give it first.
///
/// # Errors
/// 400 for an address that may not be dialled, 500 when the name leads nowhere.
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Status> {
    let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => tokio::net::lookup_host((host, port))
            .await
            .map_err(|e| bad_gateway(format!("lookup {host}: {e}")))?
            .collect(),
    };
    if found.is_empty() {
        return Err(Status::bad_request("no addresses for hostname"));
    }
    if found.iter().any(|a| !dialable(a.ip())) {
        return Err(Status::bad_request("address not allowed"));
    }
    Ok(found)
}

fn authority(target: &Target) -> String {
    if target.host.contains(':') {
        format!("[{}]:{}", target.host, target.port)
    } else {
        format!("{}:{}", target.host, target.port)
    }
}

/// Connects to one of the addresses that were checked; the error is for people.
async fn dial(
    server: &Server,
    target: &Target,
    addresses: &[SocketAddr],
) -> Result<Box<dyn Stream>, String> {
    let tcp = TcpStream::connect(addresses).await.map_err(|e| {
        let why = match e.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
            _ => e.to_string(),
        };
        format!("dial tcp {}: {why}", authority(target))
    })?;
    let _ = tcp.set_nodelay(true);
    if !target.tls {
        return Ok(Box::new(tcp));
    }
    let config = if target.kubelet {
        let config = server.kubelet_tls.as_ref();
        config
            .ok_or("no client certificate for kubelets is configured")?
            .clone()
    } else {
        component::unverified::client().map_err(|e| format!("tls: {e}"))?
    };
    let name = ServerName::try_from(target.host.clone())
        .map_err(|_| format!("{:?} is not a host name", target.host))?;
    let stream = TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .map_err(|e| format!("tls: {e}"))?;
    Ok(Box::new(stream))
}

/// Whether a request asks for an upgrade.
pub fn asks_upgrade(headers: &HeaderMap) -> bool {
    upgrade_of(headers).is_some()
}

fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|v| {
            v.split(',')
                .any(|t| t.trim().eq_ignore_ascii_case("upgrade"))
        });
    headers.get(header::UPGRADE).filter(|_| asks).cloned()
}

fn forwarded(headers: &HeaderMap, upgrade: bool) -> HeaderMap {
    // What the client says is for this hop.
    let hop: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|t| t.trim().to_ascii_lowercase())
        .filter(|t| t != "upgrade")
        .collect();
    let mut out = HeaderMap::new();
    for (k, v) in headers {
        let name = k.as_str();
        if DROPPED.contains(&name)
            || hop.iter().any(|h| h == name)
            || name.starts_with("impersonate-")
            || name.starts_with("x-remote-")
            || (name == "upgrade" && !upgrade)
            || name == "sec-websocket-protocol" && !upgrade
        {
            continue;
        }
        if name == "sec-websocket-protocol" {
            // A bearer token may travel among the protocols.
            let kept: Vec<&str> = v
                .to_str()
                .unwrap_or_default()
                .split(',')
                .map(str::trim)
                .filter(|p| !p.starts_with("base64url.bearer.authorization.k8s.io."))
                .collect();
            if let Ok(v) = HeaderValue::from_str(&kept.join(", "))
                && !kept.is_empty()
            {
                out.append(k.clone(), v);
            }
            continue;
        }
        out.append(k.clone(), v.clone());
    }
    out
}

/// The Status for a backend's failure to stream.
fn told(code: u16, resource: &str, name: &str, text: String) -> Status {
    match code {
        500 => Status::internal(text),
        400 => Status::bad_request(text),
        404 => Status::failure(
            404,
            "NotFound",
            format!("the server could not find the requested resource ( {resource} {name})"),
        ),
        401 => Status::failure(
            401,
            "Unauthorized",
            format!(
                "the server has asked for the client to provide credentials ( {resource} {name})"
            ),
        ),
        403 => Status::failure(403, "Forbidden", format!("{text} ( {resource} {name})")),
        503 => Status::unavailable(format!(
            "the server is currently unable to handle the request ( {resource} {name})"
        )),
        code => Status::failure(
            code,
            if code > 500 { "InternalError" } else { "" },
            format!(
                "the server responded with the status code {code} but did not return more information ( {resource} {name})"
            ),
        ),
    }
}

/// Proxies a request to its target. `root` is the path here that stands for the root of the other side (proxies only).
pub async fn proxy(
    server: &Arc<Server>,
    target: Target,
    root: Option<String>,
    request: http::Request<Incoming>,
) -> Result<Response, Status> {
    let upgrade = asks_upgrade(request.headers());
    if target.upgrade && !upgrade {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let addresses = resolve(&target.host, target.port).await?;
    let reads = matches!(*request.method(), http::Method::GET | http::Method::HEAD);
    if root.as_deref() == Some(request.uri().path()) && reads && !upgrade {
        return Ok(to_root(request.uri()));
    }
    let failed = |why: String| {
        if root.is_some() && !upgrade {
            Status::unavailable(format!("error trying to reach service: {why}"))
        } else {
            bad_gateway(format!("error dialing backend: {why}"))
        }
    };
    let stream = tokio::time::timeout(DIAL, dial(server, &target, &addresses))
        .await
        .map_err(|_| failed(format!("dial tcp {}: i/o timeout", authority(&target))))?
        .map_err(failed)?;
    exchange(stream, &target, root.as_deref(), request, &server.stop).await
}

/// Pages have relative links, so the root of the other side ends in a slash.
fn to_root(uri: &http::Uri) -> Response {
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = http::StatusCode::MOVED_PERMANENTLY;
    if let Ok(v) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(header::LOCATION, v);
    }
    response
}

/// A redirect within the other side as its client can follow it: below `root`. Elsewhere it stays as it is.
fn relocated(location: &str, root: &str, other: &str, asked: Option<&str>) -> String {
    let (host, path) = match location.split_once("://") {
        Some((_, rest)) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => match location.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", location),
        },
    };
    let elsewhere = !host.is_empty() && host != other && Some(host) != asked;
    if elsewhere || !path.starts_with('/') {
        return location.to_owned();
    }
    if path == root || path.strip_prefix(root).is_some_and(|r| r.starts_with('/')) {
        return path.to_owned();
    }
    format!("{root}{path}")
}

/// Sends the request over a connection and answers what comes back.
async fn exchange<S, B>(
    stream: S,
    target: &Target,
    root: Option<&str>,
    mut request: http::Request<B>,
    stop: &CancellationToken,
) -> Result<Response, Status>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let messages = match &target.streamed {
        Some(_) if auth::authn::headers::is_websocket(request.headers()) => {
            match websocket::accept_log(request.headers()) {
                Ok(m) => Some(m),
                Err(refusal) => return Ok(*refusal),
            }
        }
        _ => None,
    };
    let upgrade = upgrade_of(request.headers()).filter(|_| target.streamed.is_none());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| bad_gateway(format!("error dialing backend: {e}")))?;
    // Ends when both the response and, after an upgrade, the tunnel have ended; or at shutdown.
    let ended = stop.clone();
    let driver = Driver(tokio::spawn(async move {
        tokio::select! {
            r = connection.with_upgrades() => {
                if let Err(e) = r {
                    tracing::debug!(error = %e, "backend connection ended");
                }
            }
            () = ended.cancelled() => {}
        }
    }));

    let path = if target.path.is_empty() {
        "/"
    } else {
        &target.path
    };
    let mut builder = http::Request::builder()
        .method(request.method().clone())
        .uri(path);
    if let Some(h) = builder.headers_mut() {
        *h = forwarded(request.headers(), upgrade.is_some());
        if let Ok(v) = HeaderValue::from_str(&authority(target)) {
            h.insert(header::HOST, v);
        }
        if let Some(peer) = request.extensions().get::<Caller>() {
            let mut all: Vec<&[u8]> = h
                .get_all(FORWARDED_FOR)
                .iter()
                .map(HeaderValue::as_bytes)
                .collect();
            let ip = peer.0.to_string();
            all.push(ip.as_bytes());
            if let Ok(v) = HeaderValue::from_bytes(&all.join(&b", "[..])) {
                h.insert(FORWARDED_FOR, v);
            }
        }
        if root.is_some()
            && let Ok(v) = HeaderValue::from_str(request.uri().path())
        {
            h.insert("x-forwarded-uri", v);
        }
        if let Some(u) = &upgrade {
            h.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            h.insert(header::UPGRADE, u.clone());
        }
    }
    // Answers without a body tell the length that another has.
    let bare = request.method() == http::Method::HEAD;
    let asked = request
        .headers()
        .get(header::HOST)
        .and_then(|v| v.to_str().ok())
        .map(str::to_owned);
    let client =
        (upgrade.is_some() || messages.is_some()).then(|| hyper::upgrade::on(&mut request));
    let place = request.extensions_mut().remove::<Arc<Place>>();
    let outgoing = builder
        .body(request.into_body())
        .map_err(|e| bad_gateway(e.to_string()))?;
    let mut answer = sender.send_request(outgoing).await.map_err(|e| {
        if root.is_some() && upgrade.is_none() {
            Status::unavailable(format!("error trying to reach service: {e}"))
        } else {
            bad_gateway(format!("error sending request: {e}"))
        }
    })?;

    let code = answer.status();
    let location = answer.headers().get(header::LOCATION).cloned();
    if code.is_redirection() && location.is_some() && (target.kubelet || root.is_none()) {
        return Err(bad_gateway(
            "the backend attempted to redirect this request, which is not permitted",
        ));
    }
    if code == http::StatusCode::SWITCHING_PROTOCOLS {
        let (Some(client), None) = (client, &messages) else {
            return Err(bad_gateway(
                "the backend switched protocols without being asked to",
            ));
        };
        let backend = hyper::upgrade::on(&mut answer);
        let mut response = Response::new(Body::empty());
        *response.status_mut() = code;
        *response.headers_mut() = answer.headers().clone();
        let stop = stop.clone();
        tokio::spawn(async move {
            let both = async {
                let (client, backend) = tokio::try_join!(client, backend)?;
                let (mut a, mut b) = (TokioIo::new(client), TokioIo::new(backend));
                // An end of either side ends both; what was written before is delivered.
                let _ = tokio::io::copy_bidirectional(&mut a, &mut b).await;
                Ok::<_, hyper::Error>(())
            };
            tokio::select! {
                r = both => {
                    if let Err(e) = r {
                        tracing::debug!(error = %e, "upgrade failed");
                    }
                }
                () = stop.cancelled() => {}
            }
            drop((sender, driver, place));
        });
        return Ok(response);
    }
    if upgrade.is_some() && code.as_u16() < 400 {
        return Err(bad_gateway(format!(
            "invalid upgrade response: status code {}",
            code.as_u16()
        )));
    }
    if let Some((resource, name)) = &target.streamed
        && !(200..=206).contains(&code.as_u16())
    {
        let text = Limited::new(answer.into_body(), MAX_FAILURE)
            .collect()
            .await
            .map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned());
        return Err(match text {
            Ok(text) => told(code.as_u16(), resource, name, text),
            Err(e) => Status::internal(e),
        });
    }
    // A plain answer, also to a request that asked for an upgrade: passed on, and both connections closed after it.
    let (mut head, body) = answer.into_parts();
    let body = Passed {
        body,
        sender: Some(Box::new(sender)),
        _driver: driver,
    };
    if let (Some(messages), Some(client)) = (messages, client) {
        let body = Body::Stream(Box::pin(body)).keeping(place);
        return Ok(messages.answer(client, body, stop.clone()));
    }
    for name in DROPPED.into_iter().chain(CORS) {
        head.headers.remove(name);
    }
    head.headers.remove(header::SET_COOKIE);
    if let (Some(root), Some(location)) = (root, location.as_ref().and_then(|l| l.to_str().ok())) {
        let there = relocated(location, root, &authority(target), asked.as_deref());
        if let Ok(v) = HeaderValue::from_str(&there) {
            head.headers.insert(header::LOCATION, v);
        }
    }
    if upgrade.is_some() {
        head.headers
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let page = root.is_some() && location.is_none() && !bare && is_html(&head.headers);
    let body = if let (Some(root), true) = (root, page) {
        let (root, other) = (root.to_owned(), authority(target));
        let link = move |link: &str| relocated(link, &root, &other, asked.as_deref());
        let encoding = head.headers.get(header::CONTENT_ENCODING);
        let encoding = encoding.map_or(Ok(""), HeaderValue::to_str);
        match links::Page::new(body, encoding.unwrap_or("?"), link) {
            Ok(page) => {
                head.headers.remove(header::CONTENT_LENGTH);
                Body::Stream(Box::pin(page))
            }
            Err(body) => Body::Stream(Box::pin(body)),
        }
    } else {
        Body::Stream(Box::pin(body))
    };
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    Ok(response)
}

const FORWARDED_FOR: &str = "x-forwarded-for";

/// Whom a request comes from, among its extensions.
#[derive(Clone, Copy, Debug)]
pub struct Caller(pub IpAddr);

fn is_html(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(';').next())
        .is_some_and(|v| v.trim() == "text/html")
}

/// The task that drives a backend's connection, which ends with this.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A backend's body; the connection lives as long as it.
struct Passed {
    body: Incoming,
    sender: Option<Box<dyn std::any::Any + Send>>,
    _driver: Driver,
}

impl http_body::Body for Passed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let next = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(next, Poll::Ready(None)) {
            self.sender = None;
        }
        next.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;
    use http_body_util::Full;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// CVE-2022-3294, CVE-2020-8562: what the server dials.
    #[test]
    fn special_addresses_are_not_dialled() {
        for bad in [
            "127.0.0.1",
            "127.8.9.1",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
            "::127.0.0.1",
            "::169.254.169.254",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::ffff:100.100.100.200",
            "::168.63.129.16",
            "64:ff9b::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1:2::169.254.169.254",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(!dialable(bad.parse().expect("an address")), "{bad}");
        }
        for good in [
            "10.89.0.2",
            "192.168.1.1",
            "8.8.8.8",
            "fd00::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "100.100.100.201",
            "168.63.129.17",
            "64:ff9b::8.8.8.8",
            "64:ff9b:2::127.0.0.1",
            "2002:808:808::1",
        ] {
            assert!(dialable(good.parse().expect("an address")), "{good}");
        }
    }

    #[tokio::test]
    async fn names_are_resolved_once_and_checked() {
        for host in [
            "127.0.0.1",
            "localhost",
            "::1",
            "127.1",
            "0x7f000001",
            "fe80::1",
        ] {
            let e = resolve(host, 1).await.expect_err(host);
            assert!(
                e.message == "address not allowed" || e.message.contains("lookup"),
                "{host}: {}",
                e.message
            );
        }
        let e = resolve("localhost", 1).await.expect_err("loopback");
        assert_eq!((e.code, e.message.as_str()), (400, "address not allowed"));
        let found = resolve("fd00::1", 443).await.expect("an address");
        assert_eq!(found, ["[fd00::1]:443".parse().expect("an address")]);
    }

    /// What a backend saw and whether its connection was closed after its answer.
    async fn ask(
        target: Target,
        root: Option<&str>,
        request: http::Request<Full<Bytes>>,
        answer: &'static str,
    ) -> (Result<(http::response::Parts, Bytes), Status>, String) {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let backend = tokio::spawn(async move {
            let mut seen = Vec::new();
            while !seen.windows(4).any(|w| w == b"\r\n\r\n") {
                let mut b = [0; 1024];
                let n = far.read(&mut b).await.expect("a request");
                assert!(n > 0, "no request");
                seen.extend_from_slice(&b[..n]);
            }
            far.write_all(answer.as_bytes()).await.expect("sent");
            // The end of the connection; anything that comes before it was piped.
            let mut rest = Vec::new();
            let _ = far.read_to_end(&mut rest).await;
            assert!(rest.is_empty(), "piped: {rest:?}");
            String::from_utf8_lossy(&seen).into_owned()
        });
        let stop = CancellationToken::new();
        let got = match exchange(near, &target, root, request, &stop).await {
            Err(s) => Err(s),
            Ok(r) => {
                let (head, body) = r.into_parts();
                let body = body.collect().await.expect("a body").to_bytes();
                Ok((head, body))
            }
        };
        let wait = Duration::from_secs(10);
        let seen = tokio::time::timeout(wait, backend).await;
        (
            got,
            seen.expect("the connection is closed").expect("a backend"),
        )
    }

    fn pod() -> Target {
        Target {
            host: "10.0.0.1".into(),
            port: 80,
            path: "/x?y=1".into(),
            ..Target::default()
        }
    }

    fn get(upgrade: bool) -> http::Request<Full<Bytes>> {
        let mut r = http::Request::get("/api/v1/namespaces/a/pods/p/proxy/x?y=1");
        r = r
            .header("host", "cluster:6443")
            .header("authorization", "Bearer secret");
        if upgrade {
            r = r
                .header("connection", "Upgrade")
                .header("upgrade", "SPDY/3.1");
        }
        r.body(Full::default()).expect("a request")
    }

    const ROOT: &str = "/api/v1/namespaces/a/pods/p/proxy";

    /// CVE-2018-1002105: a failed upgrade closes the backend's connection, and the client's after the answer.
    #[tokio::test]
    async fn cve_2018_1002105_a_failed_upgrade_is_not_piped() {
        for (answer, code) in [
            (
                "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
                Ok(403),
            ),
            ("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", Ok(500)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Err(500)),
            ("HTTP/1.1 304 Not Modified\r\n\r\n", Err(500)),
            (
                "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
                Err(500),
            ),
        ] {
            for kubelet in [false, true] {
                let target = Target {
                    kubelet,
                    upgrade: kubelet,
                    ..pod()
                };
                let (got, seen) = ask(target, None, get(true), answer).await;
                match got {
                    Ok((head, _)) => {
                        assert_eq!(Ok(head.status.as_u16()), code, "{answer}");
                        assert_eq!(head.headers["connection"], "close");
                    }
                    Err(s) => assert_eq!(Err(s.code), code, "{answer}: {}", s.message),
                }
                assert!(
                    seen.contains("upgrade: SPDY/3.1") && !seen.contains("secret"),
                    "{seen}"
                );
            }
        }
    }

    #[tokio::test]
    async fn pages_and_headers_of_proxies_are_as_a_proxy_leaves_them() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 64\r\n\
            Access-Control-Allow-Origin: *\r\n\r\n\
            <a href=\"/y\"><a href=\"http://10.0.0.1:80/z\"><a href=\"//other/z\">";
        let mut request = get(false);
        let headers = request.headers_mut();
        headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.1"));
        let caller = Caller("192.0.2.2".parse().unwrap());
        request.extensions_mut().insert(caller);
        let (got, seen) = ask(pod(), Some(ROOT), request, answer).await;
        let (head, body) = got.unwrap();
        let seen = seen.to_ascii_lowercase();
        assert!(
            seen.contains("x-forwarded-for: 192.0.2.1, 192.0.2.2\r\n"),
            "{seen}"
        );
        assert!(
            seen.contains(&format!("x-forwarded-uri: {ROOT}/x\r\n")),
            "{seen}"
        );
        assert_eq!(head.headers.get("access-control-allow-origin"), None);
        assert_eq!(head.headers.get("content-length"), None);
        let want = format!("<a href=\"{ROOT}/y\"><a href=\"{ROOT}/z\"><a href=\"//other/z\">");
        assert_eq!(body, want);
        // What is no page, and what a kubelet streams, passes as it is.
        for (root, answer) in [
            (
                Some(ROOT),
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\n<a href=\"/y\">",
            ),
            (
                None,
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<a href=\"/y\">",
            ),
        ] {
            let (got, _) = ask(pod(), root, get(false), answer).await;
            let (head, body) = got.unwrap();
            assert_eq!(
                (&*body, &head.headers["content-length"]),
                (&b"<a href=\"/y\">"[..], &HeaderValue::from_static("13"))
            );
        }
    }

    /// CVE-2020-8559, CVE-2022-3172: a kubelet's redirect is neither followed nor passed on.
    #[tokio::test]
    async fn cve_2020_8559_redirects_of_kubelets_end_here() {
        for code in [
            "301 Moved",
            "302 Found",
            "303 See Other",
            "307 Temporary",
            "308 Permanent",
        ] {
            let answer: &'static str = Box::leak(
                format!(
                    "HTTP/1.1 {code}\r\nLocation: https://10.0.0.9/\r\nContent-Length: 0\r\n\r\n"
                )
                .into_boxed_str(),
            );
            let target = Target {
                kubelet: true,
                ..pod()
            };
            let (got, _) = ask(target, Some(ROOT), get(false), answer).await;
            let e = got.expect_err("a redirect");
            assert!(e.message.contains("attempted to redirect"), "{}", e.message);
        }
    }

    #[tokio::test]
    async fn answers_pass_as_they_are() {
        let answer = "HTTP/1.1 304 Not Modified\r\nEtag: \"a\"\r\n\r\n";
        for kubelet in [false, true] {
            let target = Target { kubelet, ..pod() };
            let (got, _) = ask(target, Some(ROOT), get(false), answer).await;
            let (head, body) = got.expect("passed");
            assert_eq!((head.status.as_u16(), body.len()), (304, 0));
            assert_eq!(head.headers["etag"], "\"a\"");
        }
        let answer = "HTTP/1.1 302 Found\r\nLocation: /login\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n";
        let (got, seen) = ask(pod(), Some(ROOT), get(false), answer).await;
        let (head, _) = got.expect("passed");
        assert_eq!(head.headers["location"], format!("{ROOT}/login"));
        assert!(!head.headers.contains_key("set-cookie"));
        assert!(seen.starts_with("GET /x?y=1 HTTP/1.1\r\n"), "{seen}");
        assert!(
            seen.contains("host: 10.0.0.1:80") && !seen.contains("secret"),
            "{seen}"
        );
    }

    #[test]
    fn redirects_within_the_other_side_stay_below_the_root() {
        for (location, want) in [
            ("/login?a=b", "/r/proxy/login?a=b"),
            ("http://10.0.0.1:80/x/", "/r/proxy/x/"),
            ("https://cluster:6443/x", "/r/proxy/x"),
            ("//10.0.0.1:80/x", "/r/proxy/x"),
            ("/r/proxy/x", "/r/proxy/x"),
            ("/r/proxyish", "/r/proxy/r/proxyish"),
            ("next", "next"),
            ("https://example.com/x", "https://example.com/x"),
            ("//example.com/x", "//example.com/x"),
        ] {
            let got = relocated(location, "/r/proxy", "10.0.0.1:80", Some("cluster:6443"));
            assert_eq!(got, want, "{location}");
        }
    }

    #[test]
    fn the_root_ends_in_a_slash() {
        let r = to_root(
            &"/api/v1/namespaces/a/pods/p/proxy?x=1"
                .parse()
                .expect("a URI"),
        );
        assert_eq!(r.status().as_u16(), 301);
        assert_eq!(
            r.headers()["location"],
            "/api/v1/namespaces/a/pods/p/proxy/?x=1"
        );
    }

    /// Logs over a WebSocket: the body in messages, each of its own kind.
    #[tokio::test]
    async fn logs_come_in_websocket_messages() {
        for (protocol, code) in [
            ("", 101),
            ("binary.k8s.io", 101),
            ("base64.binary.k8s.io", 101),
            ("other, binary.k8s.io", 101),
            ("v4.channel.k8s.io", 403),
        ] {
            let mut r = http::Request::get("/api/v1/namespaces/a/pods/p/log")
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
            if !protocol.is_empty() {
                r = r.header("sec-websocket-protocol", protocol);
            }
            let r = r.body(Full::<Bytes>::default()).expect("a request");
            match websocket::accept_log(r.headers()) {
                Ok(_) => assert_eq!(code, 101, "{protocol}"),
                Err(refusal) => assert_eq!(refusal.status().as_u16(), code, "{protocol}"),
            }
        }
    }
    #[test]
    fn failures_to_stream_become_statuses() {
        let s = told(400, "pods/log", "p", "no previous container".into());
        assert_eq!((s.code, s.reason.as_str()), (400, "BadRequest"));
        assert_eq!(s.message, "no previous container");
        let s = told(500, "pods/log", "p", "broken".into());
        assert_eq!(s.message, "Internal error occurred: broken");
        let s = told(404, "pods/log", "p", "gone".into());
        assert_eq!(
            s.message,
            "the server could not find the requested resource ( pods/log p)"
        );
    }

    #[test]
    fn credentials_stay_here() {
        let mut h = HeaderMap::new();
        h.insert("authorization", HeaderValue::from_static("Bearer x"));
        h.insert("cookie", HeaderValue::from_static("a=b"));
        h.insert("impersonate-user", HeaderValue::from_static("root"));
        h.insert("x-remote-user", HeaderValue::from_static("root"));
        h.insert("accept", HeaderValue::from_static("*/*"));
        h.insert(
            "sec-websocket-protocol",
            HeaderValue::from_static(
                "base64url.bearer.authorization.k8s.io.Zm9v, v5.channel.k8s.io",
            ),
        );
        let out = forwarded(&h, true);
        let names: Vec<&str> = out.keys().map(HeaderName::as_str).collect();
        assert_eq!(out.len(), 2, "{names:?}");
        assert_eq!(
            out.get("sec-websocket-protocol").map(HeaderValue::as_bytes),
            Some(&b"v5.channel.k8s.io"[..])
        );
    }
}
