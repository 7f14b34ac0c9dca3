//! The secure port of the small daemons: HTTP/1.1 and 2 on TLS, with who may ask decided by a [`Gate`].
//!
//! Bounded: header time, connections, HTTP/2 streams and resets (CVE-2023-44487). A connection whose request was answered
//! 401 is closed after the answer. The apiserver has its own server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::Shutdown;
use crate::health::Checks;
use crate::metrics::{self, Registry};
use crate::tls::Tls;

/// The body of an answer; may be a stream.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

const MAX_CONNECTIONS: usize = 1_000;
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
const HEADER_TIME: Duration = Duration::from_secs(30);

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

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The remote address.
    pub address: SocketAddr,
    /// The client's certificates in DER, leaf first; possession is proven, the chain is not verified.
    pub certificates: Vec<Vec<u8>>,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 401 or 403 (500 if the decision could not be had).
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

/// Serves until the shutdown, then lets running requests end. Without `tls` the port is plain HTTP. Returns once the
/// listener is closed; connections are tracked by `shutdown`.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    gate: Arc<dyn Gate>,
    handler: Arc<dyn Handler>,
    shutdown: Shutdown,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let acceptor = tls.map(|t| TlsAcceptor::from(t.config()));
    loop {
        // A slot first: when all are taken, connections wait in the kernel's queue.
        let slot = tokio::select! {
            () = shutdown.cancelled() => return,
            s = Arc::clone(&slots).acquire_owned() => s,
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            a = listener.accept() => a,
        };
        let (stream, address) = match accepted {
            Ok(a) => a,
            Err(err) => {
                tracing::warn!(%err, "Accepting a connection failed");
                // Out of file descriptors: trying again at once would only spin.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (gate, handler, acceptor) = (Arc::clone(&gate), Arc::clone(&handler), acceptor.clone());
        let token = shutdown.token.clone();
        shutdown.spawn(async move {
            let _slot = slot;
            match acceptor {
                None => {
                    connection(
                        stream,
                        Peer {
                            address,
                            certificates: Vec::new(),
                        },
                        gate,
                        handler,
                        token,
                    )
                    .await;
                }
                Some(acceptor) => {
                    let stream =
                        match tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await {
                            Ok(Ok(s)) => s,
                            Ok(Err(err)) => {
                                return tracing::debug!(%address, %err, "TLS handshake error");
                            }
                            Err(_) => return tracing::debug!(%address, "TLS handshake timed out"),
                        };
                    let certificates = stream
                        .get_ref()
                        .1
                        .peer_certificates()
                        .unwrap_or_default()
                        .iter()
                        .map(|c| c.as_ref().to_vec())
                        .collect();
                    connection(
                        stream,
                        Peer {
                            address,
                            certificates,
                        },
                        gate,
                        handler,
                        token,
                    )
                    .await;
                }
            }
        });
    }
}

async fn connection<S>(
    stream: S,
    peer: Peer,
    gate: Arc<dyn Gate>,
    handler: Arc<dyn Handler>,
    token: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let peer = Arc::new(peer);
    // Cancelled when the peer is not who it says: the answer goes out, then the connection ends.
    let enough = token.child_token();
    let service = {
        let enough = enough.clone();
        let peer = Arc::clone(&peer);
        service_fn(move |request: Request<Incoming>| {
            let (gate, handler, peer, enough) = (
                Arc::clone(&gate),
                Arc::clone(&handler),
                Arc::clone(&peer),
                enough.clone(),
            );
            async move {
                let (mut parts, body) = request.into_parts();
                let answer = match gate.check(&peer, &mut parts).await {
                    Ok(()) => {
                        handler
                            .handle(&peer, Request::from_parts(parts, body))
                            .await
                    }
                    Err(refusal) => {
                        if refusal.code == 401 {
                            enough.cancel();
                        }
                        text(refusal.code, format!("{}\n", refusal.message))
                    }
                };
                Ok::<_, std::convert::Infallible>(answer)
            }
        })
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .max_pending_accept_reset_streams(20)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .max_header_list_size(64 * 1024);
    let conn = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(conn);
    let result = tokio::select! {
        r = conn.as_mut() => r,
        () = enough.cancelled() => {
            conn.as_mut().graceful_shutdown();
            conn.await
        }
    };
    if let Err(err) = result {
        tracing::debug!(address = %peer.address, err, "Connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct NoToken;
    #[async_trait]
    impl Gate for NoToken {
        async fn check(&self, peer: &Peer, r: &mut http::request::Parts) -> Result<(), Refusal> {
            if !peer.certificates.is_empty() || r.uri.path() == "/livez" {
                return Ok(());
            }
            Err(Refusal {
                code: 401,
                message: "Unauthorized".into(),
            })
        }
    }

    async fn ask(port: u16, path: &str, client: Option<(String, String)>) -> String {
        #[derive(Debug)]
        struct Any;
        impl rustls::client::danger::ServerCertVerifier for Any {
            fn verify_server_cert(
                &self,
                _: &rustls::pki_types::CertificateDer<'_>,
                _: &[rustls::pki_types::CertificateDer<'_>],
                _: &rustls::pki_types::ServerName<'_>,
                _: &[u8],
                _: rustls::pki_types::UnixTime,
            ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
                Ok(rustls::client::danger::ServerCertVerified::assertion())
            }
            fn verify_tls12_signature(
                &self,
                _: &[u8],
                _: &rustls::pki_types::CertificateDer<'_>,
                _: &rustls::DigitallySignedStruct,
            ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error>
            {
                Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
            }
            fn verify_tls13_signature(
                &self,
                _: &[u8],
                _: &rustls::pki_types::CertificateDer<'_>,
                _: &rustls::DigitallySignedStruct,
            ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error>
            {
                Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
            }
            fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
                crate::tls::provider()
                    .signature_verification_algorithms
                    .supported_schemes()
            }
        }
        use rustls::pki_types::pem::PemObject;
        let b = rustls::ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Any));
        let config = match client {
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
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let mut s = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .unwrap();
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
