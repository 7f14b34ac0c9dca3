//! A kube-apiserver of its own for a test, and a client.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use testkit::Certificates;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub struct Server {
    child: Child,
    pub port: u16,
    /// Its files go when it goes.
    certificates: Certificates,
    tls: Arc<rustls::ClientConfig>,
    _data: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Remembers whom the server asks for.
#[derive(Debug, Default)]
struct Asked(std::sync::Mutex<Vec<Vec<u8>>>);

impl rustls::client::ResolvesClientCert for Asked {
    fn resolve(
        &self,
        hints: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        *self.0.lock().unwrap() = hints.iter().map(|h| h.to_vec()).collect();
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn client_tls(certificates: &Certificates) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(certificates.pki("ca.crt")).unwrap())
        .unwrap();
    let conf = std::fs::read_to_string(certificates.kubeconfig("super-admin")).unwrap();
    let conf: Value = serde_yaml::from_str(&conf).unwrap();
    let field = |name: &str| {
        let text = conf
            .pointer(&format!("/users/0/user/{name}"))
            .and_then(Value::as_str)
            .unwrap();
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .unwrap()
    };
    let chain = CertificateDer::pem_slice_iter(&field("client-certificate-data"))
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(&field("client-key-data")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    Arc::new(tls)
}

impl Server {
    /// Starts one on an empty store and waits until it is ready.
    pub async fn start() -> Server {
        Server::start_with(&[]).await
    }

    /// As [`Server::start`], with more flags.
    pub async fn start_with(more: &[&str]) -> Server {
        let port = testkit::free_port();
        let certificates = Certificates::new(port, &[]);
        let data = tempfile::tempdir().unwrap();
        let flag =
            |name: &str, file: &str| format!("--{name}={}", certificates.pki(file).display());
        let child = Command::new(env!("CARGO_BIN_EXE_kube-apiserver"))
            .args([
                format!("--data-dir={}", data.path().display()),
                format!("--secure-port={port}"),
                "--bind-address=127.0.0.1".into(),
                "--advertise-address=127.0.0.1".into(),
                "--authorization-mode=Node,RBAC".into(),
                "--allow-privileged=true".into(),
                "--service-cluster-ip-range=10.96.0.0/16".into(),
                "--service-account-issuer=https://kubernetes.default.svc".into(),
                flag("tls-cert-file", "apiserver.crt"),
                flag("tls-private-key-file", "apiserver.key"),
                flag("client-ca-file", "ca.crt"),
                flag("service-account-key-file", "sa.pub"),
                flag("service-account-signing-key-file", "sa.key"),
            ])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let tls = client_tls(&certificates);
        let server = Server {
            child,
            port,
            certificates,
            tls,
            _data: data,
        };
        testkit::wait_until(
            "the apiserver is ready",
            Duration::from_secs(30),
            async || {
                let mut c = server.try_connect().await.map_err(|e| e.to_string())?;
                match c.get("/readyz").await {
                    a if a.code == 200 => Ok(()),
                    a => Err(a.text()),
                }
            },
        )
        .await;
        server
    }

    async fn try_connect(&self) -> std::io::Result<Connection> {
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let tls = TlsConnector::from(self.tls.clone())
            .connect(name, tcp)
            .await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(connection.with_upgrades());
        Ok(Connection(sender))
    }

    /// A TLS connection without a client certificate.
    pub async fn raw(&self, alpn: &[&[u8]]) -> TlsStream<tokio::net::TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        tls.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connector = TlsConnector::from(Arc::new(tls));
        connector.connect(name, tcp.unwrap()).await.unwrap()
    }

    /// A handshake; the authorities that the server names in its certificate request.
    pub async fn handshake(
        &self,
        provider: Arc<rustls::crypto::CryptoProvider>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> std::io::Result<Vec<Vec<u8>>> {
        let asked = Arc::new(Asked::default());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        tls.client_auth_cert_resolver = asked.clone();
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connector = TlsConnector::from(Arc::new(tls));
        connector.connect(name, tcp).await?;
        Ok(asked.0.lock().unwrap().clone())
    }

    fn roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.certificates.pki("ca.crt")).unwrap();
        roots.add(ca).unwrap();
        roots
    }

    /// A file of its keys and certificates.
    pub fn pki(&self, name: &str) -> std::path::PathBuf {
        self.certificates.pki(name)
    }

    /// A new connection.
    pub async fn connect(&self) -> Connection {
        self.try_connect().await.unwrap()
    }

    /// A connection and a namespace with the service account that pods need.
    pub async fn with_namespace(&self, name: &str) -> Connection {
        let mut c = self.connect().await;
        let body = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        c.post("/api/v1/namespaces", &body).await.expect(201);
        let body = serde_json::json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        c.post(&format!("/api/v1/namespaces/{name}/serviceaccounts"), &body)
            .await
            .expect(201);
        c
    }
}

/// An answer.
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body, where the code is as expected.
    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text());
        self.json()
    }
}

pub struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    pub async fn open(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<Incoming> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1");
        for (k, v) in headers {
            let v = http::HeaderValue::from_bytes(v.as_bytes()).unwrap();
            request = request.header(*k, v);
        }
        self.0.ready().await.unwrap();
        self.0
            .send_request(request.body(Full::new(body.into())).unwrap())
            .await
            .unwrap()
    }

    pub async fn call(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let (head, body) = self.open(method, path, headers, body).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            code: head.status.as_u16(),
            headers: head.headers,
            body,
        }
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], "").await
    }

    pub async fn delete(&mut self, path: &str) -> Answer {
        self.call(Method::DELETE, path, &[], "").await
    }

    pub async fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.call(
            Method::POST,
            path,
            &[("content-type", "application/json")],
            body.to_string(),
        )
        .await
    }

    pub async fn put(&mut self, path: &str, body: &Value) -> Answer {
        self.call(
            Method::PUT,
            path,
            &[("content-type", "application/json")],
            body.to_string(),
        )
        .await
    }

    pub async fn merge(&mut self, path: &str, body: &Value) -> Answer {
        let kind = [("content-type", "application/merge-patch+json")];
        self.call(Method::PATCH, path, &kind, body.to_string())
            .await
    }
}

/// A watch's JSON events, one after the other.
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    /// Begins a watch on a connection of its own.
    pub async fn open(server: &Server, path: &str) -> Events {
        let mut c = server.connect().await;
        let response = c.open(Method::GET, path, &[], "").await;
        assert_eq!(response.status(), 200);
        let body = response.into_body();
        // The connection lives in its task as long as the body is read.
        std::mem::forget(c);
        Events {
            body,
            buffer: Vec::new(),
        }
    }

    /// The next event; `None` at the end. Panics when nothing comes for a while.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.frame()).await;
            match frame.expect("an event in time") {
                None => return None,
                Some(f) => {
                    if let Ok(data) = f.unwrap().into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// The next event's type and object's name.
    pub async fn brief(&mut self) -> (String, String) {
        let e = self.next().await.expect("an event");
        (text(&e, "/type"), text(&e, "/object/metadata/name"))
    }
}

/// A string in a tree, empty if absent.
pub fn text(v: &Value, pointer: &str) -> String {
    v.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}
