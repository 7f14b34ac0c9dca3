//! Byte streams through the server: logs, exec, attach, port-forward, proxy.
//!
//! Plain answers are passed on as they come. An upgrade is passed through as raw bytes, whatever its protocol (WebSocket,
//! SPDY). Invariants: a failed upgrade is answered and its connection closed, nothing is piped on it; a redirect is
//! neither followed nor passed on; credentials of the client never reach the other side.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use api::Status;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Response;
use crate::body::{Body, BoxError};
use crate::chain::Server;
use crate::resource::Target;

/// How long a connection to the other side may take to come up.
const DIAL: Duration = Duration::from_secs(30);

/// The most of a backend's failure that is read.
const MAX_FAILURE: usize = 50_000;

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

struct Parts<'a> {
    tls: bool,
    host: &'a str,
    port: u16,
    path: &'a str,
}

fn parts(url: &str) -> Option<Parts<'_>> {
    let (scheme, rest) = url.split_once("://")?;
    let tls = match scheme {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let (host, port) = match authority.rsplit_once(':') {
        Some((h, p)) if !p.contains(']') => (h, p.parse().ok()?),
        _ => (authority, if tls { 443 } else { 80 }),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some(Parts {
        tls,
        host,
        port,
        path: if path.is_empty() { "/" } else { path },
    })
}

async fn dial(server: &Server, target: &Target, p: &Parts<'_>) -> Result<Box<dyn Stream>, Status> {
    let tcp = TcpStream::connect((p.host, p.port)).await.map_err(|e| {
        bad_gateway(format!(
            "error dialing backend: dial tcp {}:{}: {e}",
            p.host, p.port
        ))
    })?;
    let _ = tcp.set_nodelay(true);
    if !p.tls {
        return Ok(Box::new(tcp));
    }
    let config = server
        .kubelet_tls
        .as_ref()
        .filter(|_| target.kubelet)
        .ok_or_else(|| bad_gateway("no client certificate for kubelets is configured"))?;
    let name = ServerName::try_from(p.host.to_owned())
        .map_err(|_| bad_gateway(format!("{:?} is not a host name", p.host)))?;
    let stream = TlsConnector::from(config.clone())
        .connect(name, tcp)
        .await
        .map_err(|e| bad_gateway(format!("error dialing backend: tls: {e}")))?;
    Ok(Box::new(stream))
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
    let mut out = HeaderMap::new();
    for (k, v) in headers {
        let name = k.as_str();
        if DROPPED.contains(&name)
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

/// Proxies a request to its target.
pub async fn proxy(
    server: &Arc<Server>,
    target: Target,
    mut request: http::Request<Incoming>,
) -> Result<Response, Status> {
    let upgrade = upgrade_of(request.headers());
    let p = parts(&target.url).ok_or_else(|| bad_gateway("the target's address is not valid"))?;
    let stream = tokio::time::timeout(DIAL, dial(server, &target, &p))
        .await
        .map_err(|_| {
            bad_gateway(format!(
                "error dialing backend: dial tcp {}:{}: i/o timeout",
                p.host, p.port
            ))
        })??;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| bad_gateway(format!("error dialing backend: {e}")))?;
    // Ends when both the response and, after an upgrade, the tunnel have ended; or at shutdown.
    let stop = server.stop.clone();
    let driver = tokio::spawn(async move {
        tokio::select! {
            r = connection.with_upgrades() => {
                if let Err(e) = r {
                    tracing::debug!(error = %e, "backend connection ended");
                }
            }
            () = stop.cancelled() => {}
        }
    });

    let mut builder = http::Request::builder()
        .method(request.method().clone())
        .uri(p.path);
    if let Some(h) = builder.headers_mut() {
        *h = forwarded(request.headers(), upgrade.is_some());
        let host = if p.host.contains(':') {
            format!("[{}]:{}", p.host, p.port)
        } else {
            format!("{}:{}", p.host, p.port)
        };
        if let Ok(v) = HeaderValue::from_str(&host) {
            h.insert(header::HOST, v);
        }
        if let Some(u) = &upgrade {
            h.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            h.insert(header::UPGRADE, u.clone());
        }
    }
    let client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let outgoing = builder
        .body(request.into_body())
        .map_err(|e| bad_gateway(e.to_string()))?;
    let mut answer = sender
        .send_request(outgoing)
        .await
        .map_err(|e| bad_gateway(format!("error sending request: {e}")))?;

    let code = answer.status();
    if code.is_redirection() {
        driver.abort();
        return Err(bad_gateway(
            "the backend attempted to redirect this request, which is not permitted",
        ));
    }
    if code == http::StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = client else {
            driver.abort();
            return Err(bad_gateway(
                "the backend switched protocols without being asked to",
            ));
        };
        let backend = hyper::upgrade::on(&mut answer);
        let mut response = Response::new(Body::empty());
        *response.status_mut() = code;
        *response.headers_mut() = answer.headers().clone();
        let stop = server.stop.clone();
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
            drop(sender);
        });
        return Ok(response);
    }
    if let Some((resource, name)) = &target.streamed
        && !(200..=206).contains(&code.as_u16())
    {
        let text = Limited::new(answer.into_body(), MAX_FAILURE)
            .collect()
            .await
            .map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned());
        driver.abort();
        return Err(match text {
            Ok(text) => told(code.as_u16(), resource, name, text),
            Err(e) => Status::internal(e),
        });
    }
    // A plain answer, also to a request that asked for an upgrade: passed on, and the connection closed after it.
    let (mut head, body) = answer.into_parts();
    for name in DROPPED {
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            head.headers.remove(name);
        }
    }
    head.headers.remove(header::SET_COOKIE);
    let body = Passed {
        body,
        sender: Some(sender),
        driver,
    };
    let mut response = Response::new(Body::Stream(Box::pin(body)));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    Ok(response)
}

/// A backend's body; the connection lives as long as it.
struct Passed {
    body: Incoming,
    sender: Option<hyper::client::conn::http1::SendRequest<Incoming>>,
    driver: tokio::task::JoinHandle<()>,
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

impl Drop for Passed {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_taken_apart() {
        let p = parts("https://[fd00::1]:10250/exec/a?x=1").expect("valid");
        assert_eq!(
            (p.tls, p.host, p.port, p.path),
            (true, "fd00::1", 10250, "/exec/a?x=1")
        );
        let p = parts("http://10.0.0.1/").expect("valid");
        assert_eq!(
            (p.tls, p.host, p.port, p.path),
            (false, "10.0.0.1", 80, "/")
        );
        assert!(parts("file:///etc/passwd").is_none());
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
