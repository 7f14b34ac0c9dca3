//! Clients that load the apiserver: plain HTTP/1.1 connections on TLS with the administrator's certificate, one request at
//! a time each, so that what is measured is the server.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How to reach the server.
#[derive(Clone)]
pub struct Target {
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
}

/// One connection.
pub struct Connection(SendRequest<Full<Bytes>>);

impl Target {
    /// As a kubeconfig with embedded certificates says.
    pub fn new(kubeconfig: &Path) -> Result<Target> {
        let conf: serde_json::Value = serde_yaml::from_str(&std::fs::read_to_string(kubeconfig)?)?;
        let text = |pointer: &str| -> Result<&str> {
            conf.pointer(pointer)
                .and_then(|v| v.as_str())
                .with_context(|| format!("no {pointer} in the kubeconfig"))
        };
        let pem = |pointer: &str| -> Result<Vec<u8>> {
            use base64::Engine;
            Ok(base64::engine::general_purpose::STANDARD.decode(text(pointer)?)?)
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem(
            "/clusters/0/cluster/certificate-authority-data",
        )?)?)?;
        let chain = CertificateDer::pem_slice_iter(&pem("/users/0/user/client-certificate-data")?)
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        let server = text("/clusters/0/cluster/server")?;
        Ok(Target {
            address: server
                .trim_start_matches("https://")
                .parse()
                .with_context(|| format!("the address in {server}"))?,
            tls: Arc::new(tls),
        })
    }

    /// A new connection.
    pub async fn connect(&self) -> Result<Connection> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        let tls = TlsConnector::from(self.tls.clone())
            .connect(name, tcp)
            .await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        Ok(Connection(sender))
    }

    /// One request on a connection of its own.
    pub async fn once(&self, method: Method, path: &str, body: Bytes) -> Result<(u16, Bytes)> {
        self.connect()
            .await?
            .call(method, path, "application/json", body)
            .await
    }

    /// Waits for `/readyz` and returns how long it took since `start`.
    pub async fn ready(&self, start: Instant) -> Result<Duration> {
        loop {
            if let Ok((200, _)) = self.once(Method::GET, "/readyz", Bytes::new()).await {
                return Ok(start.elapsed());
            }
            if start.elapsed() > Duration::from_secs(30) {
                bail!("not ready within 30 s");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Connection {
    /// Sends a request and returns the head of the answer with its body still to come.
    pub async fn open(
        &mut self,
        method: Method,
        path: &str,
        accept: &str,
        body: Bytes,
    ) -> Result<http::Response<Incoming>> {
        self.send(method, path, accept, "application/json", body)
            .await
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        accept: &str,
        content: &str,
        body: Bytes,
    ) -> Result<http::Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1")
            .header("accept", accept)
            .header("content-type", content)
            .header("user-agent", "bench")
            .body(Full::new(body))?;
        self.0.ready().await?;
        Ok(self.0.send_request(request).await?)
    }

    /// A request and its whole answer.
    pub async fn call(
        &mut self,
        method: Method,
        path: &str,
        accept: &str,
        body: Bytes,
    ) -> Result<(u16, Bytes)> {
        let answer = self.open(method, path, accept, body).await?;
        let code = answer.status().as_u16();
        Ok((code, answer.into_body().collect().await?.to_bytes()))
    }

    /// A JSON patch that must succeed.
    pub async fn json_patch(&mut self, path: &str, patch: Bytes) -> Result<()> {
        let answer = self
            .send(
                Method::PATCH,
                path,
                "application/json",
                "application/json-patch+json",
                patch,
            )
            .await?;
        let code = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(
            code.is_success(),
            "patch: {code} {}",
            String::from_utf8_lossy(&body)
        );
        Ok(())
    }

    /// A GET whose answer is only counted; one that is not 200 and of the type asked for is an error.
    pub async fn drain(&mut self, path: &str, accept: &str) -> Result<usize> {
        let (head, mut body) = self
            .open(Method::GET, path, accept, Bytes::new())
            .await?
            .into_parts();
        ensure!(head.status == 200, "{path}: {}", head.status);
        let kind = head
            .headers
            .get("content-type")
            .and_then(|v| v.to_str().ok());
        ensure!(
            kind.is_some_and(|k| k.starts_with(accept)),
            "{path}: {kind:?} in place of {accept}"
        );
        let mut size = 0;
        while let Some(frame) = body.frame().await {
            size += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(size)
    }
}
