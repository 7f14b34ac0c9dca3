//! A small client for the apiserver: the few requests that `keelson` makes itself, with the admin's client certificate.
//!
//! Absent on purpose: everything that the `client` crate has for daemons (caches, retries, protobuf).

use crate::cluster::Cluster;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How to reach one cluster's apiserver.
#[derive(Clone)]
pub struct Api {
    address: SocketAddr,
    connector: tokio_rustls::TlsConnector,
}

/// An answer: the HTTP status and the decoded body.
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The body, if the status is a success.
    pub fn ok(self) -> Result<Value> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        let message = self
            .body
            .get("message")
            .and_then(Value::as_str)
            .map(str::to_string);
        bail!(
            "the apiserver answered {}: {}",
            self.status,
            message.unwrap_or_else(|| self.body.to_string())
        )
    }
}

impl Api {
    /// With the certificates in the cluster's state directory.
    pub fn new(cluster: &Cluster) -> Result<Self> {
        let path = cluster.master_dir().join("super-admin.conf");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("read {}; `keelson up` makes it anew", path.display()))?;
        let config: Value = serde_yaml::from_str(&text)
            .with_context(|| format!("{} is damaged", path.display()))?;
        let pem = |pointer: &str| {
            use base64::Engine;
            let text = config
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default();
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .with_context(|| format!("{} is damaged at {pointer}", path.display()))
        };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in
            CertificateDer::pem_slice_iter(&pem("/clusters/0/cluster/certificate-authority-data")?)
        {
            roots.add(certificate.context("the certificate authority is damaged")?)?;
        }
        let chain = CertificateDer::pem_slice_iter(&pem("/users/0/user/client-certificate-data")?)
            .collect::<Result<Vec<_>, _>>()
            .context("the client certificate is damaged")?;
        let key = PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")?)
            .context("the client key is damaged")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        let ip = cluster.node_address(cluster.first_node()?);
        Ok(Api {
            address: SocketAddr::new(ip.into(), crate::cluster::API_PORT),
            connector: tokio_rustls::TlsConnector::from(Arc::new(config)),
        })
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: Option<&Value>,
    ) -> Result<hyper::Response<hyper::body::Incoming>> {
        let tcp = tokio::time::timeout(
            Duration::from_secs(2),
            tokio::net::TcpStream::connect(self.address),
        )
        .await
        .map_err(|_| anyhow::anyhow!("no answer"))
        .and_then(|r| r.map_err(Into::into))
        .with_context(|| format!("connect to the apiserver at {}", self.address))?;
        tcp.set_nodelay(true)?;
        let tls = self
            .connector
            .connect(ServerName::IpAddress(self.address.ip().into()), tcp)
            .await?;
        let (mut sender, connection) = http1::handshake(hyper_util::rt::TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        let bytes = match body {
            Some(value) => Bytes::from(serde_json::to_vec(value)?),
            None => Bytes::new(),
        };
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("user-agent", concat!("keelson/", env!("CARGO_PKG_VERSION")))
            .header("accept", "application/json")
            .header("content-type", kind)
            .body(Full::new(bytes))?;
        Ok(sender.send_request(request).await?)
    }

    async fn call(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: Option<&Value>,
    ) -> Result<Answer> {
        let exchange = async {
            let response = self.send(method, path, kind, body).await?;
            let status = response.status().as_u16();
            let bytes = response.into_body().collect().await?.to_bytes();
            let body = serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
            anyhow::Ok(Answer { status, body })
        };
        tokio::time::timeout(Duration::from_secs(30), exchange)
            .await
            .map_err(|_| anyhow::anyhow!("no answer within 30 s"))
            .and_then(|r| r)
            .with_context(|| format!("{method} {path}"))
    }

    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.call("GET", path, "application/json", None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.call("POST", path, "application/json", Some(body))
            .await
    }

    /// A merge patch.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Answer> {
        self.call("PATCH", path, "application/merge-patch+json", Some(body))
            .await
    }

    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.call("DELETE", path, "application/json", None).await
    }

    /// Makes an object unless there is one of its name.
    pub async fn ensure(&self, path: &str, body: &Value) -> Result<()> {
        let answer = self.post(path, body).await?;
        if answer.status == 409 {
            return Ok(());
        }
        answer.ok().map(|_| ()).with_context(|| {
            format!(
                "make {} in {path}",
                body.pointer("/metadata/name").unwrap_or(&Value::Null)
            )
        })
    }

    /// Waits until `/readyz` answers 200.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let deadline = tokio::time::Instant::now() + timeout;
        let mut last;
        loop {
            match self.get("/readyz").await {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => {
                    last = format!(
                        "it answers {}: {}",
                        answer.status,
                        answer.body.as_str().unwrap_or_default().trim()
                    )
                }
                Err(error) => last = format!("{error:#}"),
            }
            if tokio::time::Instant::now() > deadline {
                bail!(
                    "the apiserver is not ready after {} s: {last}; see `keelson logs kube-apiserver`",
                    timeout.as_secs()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Watches a collection from its present state, until `done` says so for the objects it has been shown.
    /// `done` gets the event's type and object; the objects there already come first, as `ADDED`.
    pub async fn watch(
        &self,
        path: &str,
        timeout: Duration,
        mut done: impl FnMut(&str, &Value) -> bool,
    ) -> Result<bool> {
        let watching = async {
            loop {
                let list = self.get(path).await?.ok()?;
                for item in list
                    .get("items")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                {
                    if done("ADDED", item) {
                        return anyhow::Ok(());
                    }
                }
                let version = list
                    .pointer("/metadata/resourceVersion")
                    .and_then(Value::as_str)
                    .unwrap_or("0");
                let separator = if path.contains('?') { '&' } else { '?' };
                let response = self
                    .send(
                        "GET",
                        &format!("{path}{separator}watch=true&resourceVersion={version}"),
                        "application/json",
                        None,
                    )
                    .await?;
                if !response.status().is_success() {
                    bail!("watch {path}: the apiserver answered {}", response.status());
                }
                let mut body = response.into_body();
                let mut buffer = Vec::new();
                while let Some(frame) = body.frame().await {
                    let Ok(frame) = frame else { break };
                    let Some(data) = frame.data_ref() else {
                        continue;
                    };
                    buffer.extend_from_slice(data);
                    while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                        let line: Vec<u8> = buffer.drain(..=end).collect();
                        let Ok(event) = serde_json::from_slice::<Value>(&line) else {
                            continue;
                        };
                        let kind = event
                            .get("type")
                            .and_then(Value::as_str)
                            .unwrap_or_default();
                        if done(kind, event.get("object").unwrap_or(&Value::Null)) {
                            return Ok(());
                        }
                    }
                }
                // The watch ended; begin anew from what is there now.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        match tokio::time::timeout(timeout, watching).await {
            Ok(result) => result.map(|()| true),
            Err(_) => Ok(false),
        }
    }
}
