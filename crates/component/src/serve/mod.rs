//! The secure port of the small daemons: HTTP/1.1 and 2 on TLS, with who may ask decided by a [`Gate`].
//!
//! [`listen`] is the part that the apiserver shares. A connection whose request was answered 401 is closed after the
//! answer, over HTTP/2 too (CVE-2023-44487).

mod connections;
mod listener;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::net::TcpListener;

pub use connections::Limits;
pub use listener::{Answer, Peer, Settings, listen};

use crate::Shutdown;
use crate::health::Checks;
use crate::metrics::{self, Registry};
use crate::tls::Tls;

/// The body of an answer; may be a stream.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A whole body.
pub fn body(content: impl Into<Bytes>) -> Body {
    Full::new(content.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A plain-text answer.
pub fn text(code: u16, content: impl Into<Bytes>) -> Response<Body> {
    let mut r = Response::new(body(content));
    *r.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let h = r.headers_mut();
    h.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    h.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    r
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 401, 403, 429 (too many wait for a decision) or 500 (it could not be had).
    pub code: u16,
    /// `Unauthorized` or the reason.
    pub message: String,
}

/// Decides whether a request may be handled: authentication and authorization.
#[async_trait]
pub trait Gate: Send + Sync + 'static {
    /// `Ok` lets it pass. What it learnt (the user) can be put into the request's extensions.
    async fn check(&self, peer: &Peer, request: &mut http::request::Parts) -> Result<(), Refusal>;
}

/// Lets everything pass: for ports on loopback and tests.
pub struct Open;

#[async_trait]
impl Gate for Open {
    async fn check(&self, _: &Peer, _: &mut http::request::Parts) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Answers requests that passed the gate. Upgrades work through `hyper::upgrade::on`.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// The answer.
    async fn handle(&self, peer: &Peer, request: Request<Incoming>) -> Response<Body>;
}

/// Health checks and metrics, and another handler for the rest: all that the secure ports of the scheduler and the
/// controller manager serve.
pub struct Standard {
    /// `/healthz`, `/livez`, `/readyz`.
    pub checks: Vec<Checks>,
    /// `/metrics`.
    pub metrics: Registry,
    /// Everything else; `None`: 404.
    pub rest: Option<Arc<dyn Handler>>,
}

#[async_trait]
impl Handler for Standard {
    async fn handle(&self, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or_default();
        if path == "/metrics" {
            let mut r = text(200, self.metrics.render());
            r.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static(metrics::CONTENT_TYPE),
            );
            return r;
        }
        if let Some(a) = self.checks.iter().find_map(|c| c.answer(path, query)) {
            return text(a.code, a.body);
        }
        match &self.rest {
            Some(h) => h.handle(peer, request).await,
            None => text(404, "404 page not found\n"),
        }
    }
}

/// Serves on the bounds of [`Settings::SMALL`]; see [`listen`].
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    gate: Arc<dyn Gate>,
    handler: Arc<dyn Handler>,
    shutdown: Shutdown,
) {
    guarded(listener, tls, Settings::SMALL, gate, handler, shutdown).await;
}

/// As [`serve`], with other bounds.
pub async fn guarded(
    listener: TcpListener,
    tls: Option<Tls>,
    settings: Settings,
    gate: Arc<dyn Gate>,
    handler: Arc<dyn Handler>,
    shutdown: Shutdown,
) {
    let guarded = Arc::new(Guarded { gate, handler });
    listen(listener, tls, settings, guarded, shutdown).await;
}

struct Guarded {
    gate: Arc<dyn Gate>,
    handler: Arc<dyn Handler>,
}

#[async_trait]
impl Answer for Guarded {
    type Body = Body;

    async fn answer(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let refusal = match self.gate.check(&peer, &mut parts).await {
            Ok(()) => {
                let request = Request::from_parts(parts, body);
                return self.handler.handle(&peer, request).await;
            }
            Err(refusal) => refusal,
        };
        let mut answer = text(refusal.code, format!("{}\n", refusal.message));
        let headers = answer.headers_mut();
        match refusal.code {
            // Who is nobody does not keep a connection.
            401 => headers.insert(header::CONNECTION, HeaderValue::from_static("close")),
            429 => headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1")),
            _ => None,
        };
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct NoToken;
    #[async_trait]
    impl Gate for NoToken {
        async fn check(&self, peer: &Peer, r: &mut http::request::Parts) -> Result<(), Refusal> {
            if !peer.certificates.is_empty() {
                peer.authenticated();
                return Ok(());
            }
            if r.uri.path() == "/livez" {
                return Ok(());
            }
            Err(Refusal {
                code: 401,
                message: "Unauthorized".into(),
            })
        }
    }

    /// A TLS connection from `from`, with a protocol and a client certificate.
    async fn connect(
        port: u16,
        from: &str,
        alpn: &[u8],
        client: Option<&(String, String)>,
    ) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        use rustls::pki_types::pem::PemObject;
        let b = rustls::ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(crate::unverified::verifier());
        let mut config = match client {
            None => b.with_no_client_auth(),
            Some((cert, key)) => b
                .with_client_auth_cert(
                    vec![
                        rustls::pki_types::CertificateDer::from_pem_slice(cert.as_bytes()).unwrap(),
                    ],
                    rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let tcp = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .unwrap()
    }

    type Stream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

    async fn ask_on(s: &mut Stream, path: &str) -> String {
        s.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut out = Vec::new();
        let mut buf = [0; 4096];
        // Ends when the server closes, or when the answer is whole.
        while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_secs(5), s.read(&mut buf)).await {
            out.extend_from_slice(&buf[..n]);
            let text = String::from_utf8_lossy(&out);
            if n == 0 {
                return format!("{text}<closed>");
            }
            if text.ends_with("ok") || text.contains("page not found") {
                break;
            }
        }
        String::from_utf8(out).unwrap()
    }

    async fn ask(port: u16, path: &str, client: Option<(String, String)>) -> String {
        let mut s = connect(port, "127.0.0.1", b"http/1.1", client.as_ref()).await;
        ask_on(&mut s, path).await
    }

    /// A port that answers `/livez` to everybody and the rest to those with a certificate.
    async fn port(limits: Limits, shutdown: &Shutdown) -> u16 {
        let tls = Tls::new(&crate::tls::Options {
            self_signed_sans: vec!["localhost".into()],
            http2: true,
            ..Default::default()
        })
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let handler = Standard {
            checks: vec![Checks::new("livez").ok("ping")],
            metrics: Registry::new(),
            rest: None,
        };
        let guarded = Arc::new(Guarded {
            gate: Arc::new(NoToken),
            handler: Arc::new(handler),
        });
        let settings = Settings {
            limits,
            ..Settings::SMALL
        };
        tokio::spawn(listen(
            listener,
            Some(tls),
            settings,
            guarded,
            shutdown.clone(),
        ));
        port
    }

    #[tokio::test]
    async fn idle_connections_of_nobody_do_not_shut_the_port() {
        let shutdown = Shutdown::new();
        let limits = Limits {
            all: 40,
            per_address: 20,
            unknown: 8,
            ..Limits::of(40)
        };
        let port = port(limits, &shutdown).await;
        let pair = pki::cert::self_signed("me", &[]).unwrap();
        let mut known = connect(port, "127.0.0.2", b"http/1.1", Some(&pair)).await;
        assert!(
            ask_on(&mut known, "/nope")
                .await
                .starts_with("HTTP/1.1 404")
        );
        // More than all bounds together, none of which sends a thing.
        let mut idle = Vec::new();
        for _ in 0..60 {
            idle.push(connect(port, "127.0.0.1", b"http/1.1", None).await);
        }
        // Who was there stays, and who comes is served, from the same address and from another.
        assert!(
            ask_on(&mut known, "/nope")
                .await
                .starts_with("HTTP/1.1 404")
        );
        for from in ["127.0.0.1", "127.0.0.3"] {
            let mut s = connect(port, from, b"http/1.1", Some(&pair)).await;
            assert!(
                ask_on(&mut s, "/nope").await.starts_with("HTTP/1.1 404"),
                "{from}"
            );
        }
        let mut buf = [0; 1];
        let ended = tokio::time::timeout(Duration::from_secs(60), idle[0].read(&mut buf)).await;
        assert!(!matches!(ended.unwrap(), Ok(1..)));
    }

    #[tokio::test]
    async fn who_says_nothing_is_sent_away() {
        let shutdown = Shutdown::new();
        let limits = Limits {
            unknown_idle: Duration::from_secs(2),
            ..Limits::of(40)
        };
        let port = port(limits, &shutdown).await;
        let pair = pki::cert::self_signed("me", &[]).unwrap();
        let mut known = connect(port, "127.0.0.1", b"http/1.1", Some(&pair)).await;
        assert!(
            ask_on(&mut known, "/nope")
                .await
                .starts_with("HTTP/1.1 404")
        );
        for alpn in [&b"http/1.1"[..], b"h2"] {
            let mut idle = connect(port, "127.0.0.1", alpn, None).await;
            let mut all = Vec::new();
            let end = tokio::time::timeout(Duration::from_secs(60), idle.read_to_end(&mut all));
            end.await.expect("ended by the server").ok();
        }
        assert!(
            ask_on(&mut known, "/nope")
                .await
                .starts_with("HTTP/1.1 404")
        );
    }

    #[tokio::test]
    async fn cve_2023_44487_http2_ends_after_a_401() {
        let shutdown = Shutdown::new();
        let port = port(Limits::of(40), &shutdown).await;
        let s = connect(port, "127.0.0.1", b"h2", None).await;
        let (mut sender, connection) = hyper::client::conn::http2::handshake(
            hyper_util::rt::TokioExecutor::new(),
            hyper_util::rt::TokioIo::new(s),
        )
        .await
        .unwrap();
        let connection = tokio::spawn(connection);
        let get = |path: &str| {
            let uri = format!("https://localhost{path}");
            Request::get(uri).body(Full::new(Bytes::new())).unwrap()
        };
        let open = sender.send_request(get("/livez")).await.unwrap();
        assert_eq!(open.status(), 200);
        assert_eq!(open.into_body().collect().await.unwrap().to_bytes(), "ok");
        let refused = sender.send_request(get("/metrics")).await.unwrap();
        assert_eq!(refused.status(), 401);
        assert!(refused.headers().get(header::CONNECTION).is_none());
        refused.into_body().collect().await.unwrap();
        // The sender is kept: the server ends the connection.
        let end = tokio::time::timeout(Duration::from_secs(60), connection);
        end.await.expect("ended by the server").unwrap().ok();
        assert!(sender.send_request(get("/livez")).await.is_err());
    }

    #[tokio::test]
    async fn secure_port() {
        let dir = tempfile::tempdir().unwrap();
        let tls = Tls::new(&crate::tls::Options {
            cert_dir: Some(dir.path().to_owned()),
            pair_name: "x".into(),
            self_signed_sans: vec!["localhost".into(), "127.0.0.1".into()],
            http2: true,
            ..Default::default()
        })
        .unwrap();
        assert!(tls.days_left() > 300.0);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shutdown = Shutdown::new();
        let handler = Standard {
            checks: vec![Checks::new("livez").ok("ping")],
            metrics: Registry::new(),
            rest: None,
        };
        let server = tokio::spawn(serve(
            listener,
            Some(tls),
            Arc::new(NoToken),
            Arc::new(handler),
            shutdown.clone(),
        ));
        let open = ask(port, "/livez", None).await;
        assert!(
            open.starts_with("HTTP/1.1 200") && open.ends_with("ok"),
            "{open}"
        );
        // CVE-2023-44487: closed after the refusal.
        let closed = ask(port, "/metrics", None).await;
        assert!(
            closed.starts_with("HTTP/1.1 401") && closed.ends_with("<closed>"),
            "{closed}"
        );
        let pair = pki::cert::self_signed("me", &[]).unwrap();
        let found = ask(port, "/nope", Some(pair)).await;
        assert!(found.starts_with("HTTP/1.1 404"), "{found}");
        assert!(shutdown.drain(Duration::from_secs(5)).await);
        server.await.unwrap();
    }
}
