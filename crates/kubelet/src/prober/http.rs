//! A small HTTP/1.1 client for probes and hooks: one request, bounded, TLS without verification (as upstream's probes).
//!
//! Redirects are followed on the same host only, at most ten.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::pod::HttpGet;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The beginning of the body.
    pub body: String,
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Opens a TCP connection; the error reads as Go's.
pub async fn dial(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, String> {
    let addr = join(host, port);
    match tokio::time::timeout(timeout, TcpStream::connect(&addr)).await {
        Ok(Ok(s)) => {
            // Probes must not leave connections in TIME_WAIT by the thousand.
            let _ = s.set_nodelay(true);
            Ok(s)
        }
        Ok(Err(e)) => Err(match e.kind() {
            std::io::ErrorKind::ConnectionRefused => {
                format!("dial tcp {addr}: connect: connection refused")
            }
            std::io::ErrorKind::HostUnreachable => {
                format!("dial tcp {addr}: connect: no route to host")
            }
            std::io::ErrorKind::NetworkUnreachable => {
                format!("dial tcp {addr}: connect: network is unreachable")
            }
            _ => format!("dial tcp {addr}: {e}"),
        }),
        Err(_) => Err(format!("dial tcp {addr}: i/o timeout")),
    }
}

/// One GET as `h` says, to `host:port`, finished within `timeout`.
pub async fn get(
    h: &HttpGet,
    host: &str,
    port: u16,
    agent: &str,
    timeout: Duration,
) -> Result<Answer, String> {
    let deadline = Instant::now() + timeout;
    let mut tls = h.scheme.eq_ignore_ascii_case("https");
    let mut port = port;
    let mut path = if h.path.starts_with('/') {
        h.path.clone()
    } else {
        format!("/{}", h.path)
    };
    for _ in 0..10 {
        let url = format!(
            "{}://{}{path}",
            if tls { "https" } else { "http" },
            join(host, port)
        );
        let fail = |e: String| format!("Get \"{url}\": {e}");
        let late = || {
            fail(
                "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into(),
            )
        };
        let stream = dial(
            host,
            port,
            deadline.saturating_duration_since(Instant::now()),
        )
        .await
        .map_err(&fail)?;
        let request = request(h, host, port, &path, agent).map_err(&fail)?;
        let answer = if tls {
            let tls = component::unverified::client().map_err(|e| fail(e.to_string()))?;
            let connector = tokio_rustls::TlsConnector::from(tls);
            let name = host
                .to_string()
                .try_into()
                .map_err(|_| fail(format!("invalid host {host}")))?;
            let stream = timeout_at(deadline, connector.connect(name, stream))
                .await
                .map_err(|_| late())?
                .map_err(|e| fail(e.to_string()))?;
            timeout_at(deadline, send(stream, request)).await
        } else {
            timeout_at(deadline, send(stream, request)).await
        };
        let (status, location, body) = answer.map_err(|_| late())?.map_err(&fail)?;
        let follows = matches!(status, 301 | 302 | 303 | 307 | 308);
        let Some(to) = location.filter(|_| follows) else {
            return Ok(Answer { status, body });
        };
        if to.starts_with('/') {
            path = to;
            continue;
        }
        let target: Option<::http::Uri> = to.parse().ok();
        match target {
            Some(u) if u.host() == Some(host) => {
                tls = u.scheme_str() == Some("https");
                port = u.port_u16().unwrap_or(if tls { 443 } else { 80 });
                path = u.path_and_query().map_or("/".into(), ToString::to_string);
            }
            _ => return Ok(Answer { status, body }),
        }
    }
    Err("stopped after 10 redirects".into())
}

fn request(
    h: &HttpGet,
    host: &str,
    port: u16,
    path: &str,
    agent: &str,
) -> Result<hyper::Request<Empty<Bytes>>, String> {
    let mut r = hyper::Request::get(path);
    let header = |name: &str| {
        h.http_headers
            .iter()
            .find(|x| x.name.eq_ignore_ascii_case(name))
            .map(|x| x.value.clone())
    };
    r = r.header("host", header("host").unwrap_or_else(|| join(host, port)));
    if header("user-agent").is_none() {
        r = r.header("user-agent", agent);
    }
    if header("accept").is_none() {
        r = r.header("accept", "*/*");
    }
    r = r.header("connection", "close");
    for x in h
        .http_headers
        .iter()
        .filter(|x| !x.name.eq_ignore_ascii_case("host"))
    {
        r = r.header(&x.name, &x.value);
    }
    r.body(Empty::new()).map_err(|e| e.to_string())
}

/// An error in Go's words where it has some for it.
fn told(e: &hyper::Error) -> String {
    let source = std::error::Error::source(e).and_then(|s| s.downcast_ref::<std::io::Error>());
    if e.is_incomplete_message() || e.is_canceled() {
        "EOF".into()
    } else if source.is_some_and(|s| s.kind() == std::io::ErrorKind::ConnectionReset) {
        "read: connection reset by peer".into()
    } else if e.is_parse() {
        format!("net/http: HTTP/1.x transport connection broken: malformed HTTP response: {e}")
    } else {
        e.to_string()
    }
}

async fn send<S>(
    stream: S,
    request: hyper::Request<Empty<Bytes>>,
) -> Result<(u16, Option<String>, String), String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (head, body) = component::probe::exchange(stream, request)
        .await
        .map_err(|e| told(&e))?;
    let location = head.headers.get("location");
    let location = location.and_then(|l| l.to_str().ok()).map(str::to_string);
    Ok((head.status.as_u16(), location, body))
}
