//! An apiserver in this process, and a client. Whoever asks is `tester`, who may do everything but grant more than they hold.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{Config, Core, Dependencies};
use async_trait::async_trait;
use auth::{
    Attributes, AuthenticationError, Authenticator, Authorizer, Decision, Peer, Rule, UserInfo,
};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use storage::StorageConfig;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

struct Tester;

#[async_trait]
impl Authenticator for Tester {
    async fn authenticate(
        &self,
        _: &Peer,
        _: &http::HeaderMap,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        Ok(Some(UserInfo {
            name: "tester".into(),
            groups: vec!["system:authenticated".into()],
            ..UserInfo::default()
        }))
    }
}

#[async_trait]
impl Authorizer for Tester {
    async fn authorize(&self, a: &Attributes) -> (Decision, String) {
        if matches!(a.verb.as_str(), "escalate" | "bind") {
            return (Decision::NoOpinion, String::new());
        }
        (Decision::Allow, String::new())
    }

    async fn rules_for(&self, _: &UserInfo, _: &str) -> (Vec<Rule>, Option<String>) {
        let rule = |resource: String| Rule {
            verbs: vec!["get".into(), "list".into()],
            api_groups: vec![String::new()],
            resources: vec![resource],
            ..Rule::default()
        };
        ((0..50).map(|i| rule(format!("r{i}"))).collect(), None)
    }
}

pub struct Server {
    pub core: Arc<Core>,
    port: u16,
    tls: Arc<rustls::ClientConfig>,
    _certificates: testkit::Certificates,
    _data: tempfile::TempDir,
}

/// An answer.
pub struct Answer {
    pub code: u16,
    pub body: Bytes,
}

impl Server {
    pub async fn start() -> Server {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        let certificates = testkit::Certificates::new(port, &[]);
        let data = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let store = storage::open(StorageConfig::Embedded {
            listen: vec![],
            dir: data.path().to_owned(),
            options: storage::embedded::Options::default(),
        })
        .await
        .unwrap();
        let core = Core::new(store.clone(), stop.clone());
        core.add(registry::resources(&registry::Config {
            store: store.clone(),
            service_cidrs: vec![(IpAddr::from([10, 96, 0, 0]), 16)],
            node_ports: 30000..=32767,
            allow_privileged: true,
            event_ttl_seconds: 3600,
            kubelet_address_types: vec![],
            tokens: None,
            authenticator: None,
            audiences: vec![],
        }));
        let deps = admission::chain::Deps::new(Arc::new(Tester));
        let plugins = admission::chain::Chain::new(&[], &[], &deps).unwrap();
        let dependencies = Dependencies {
            core: core.clone(),
            authenticator: Arc::new(Tester),
            authorizer: Arc::new(Tester),
            admission: plugins.into_plugins(),
            kubelet_tls: None,
            hooks: vec![],
            extra_paths: vec![],
            extra_metrics: vec![],
        };
        let tls = component::tls::Tls::new(&component::tls::Options {
            cert_file: Some(certificates.pki("apiserver.crt")),
            key_file: Some(certificates.pki("apiserver.key")),
            http2: true,
            ..Default::default()
        })
        .unwrap();
        let config = Config {
            request_timeout: Duration::from_secs(600),
            ..Config::default()
        };
        tokio::spawn(apiserver::serve::run_on(
            listener,
            config,
            dependencies,
            tls,
            stop,
        ));
        let server = Server {
            core,
            port,
            tls: client_tls(certificates.pki("ca.crt")),
            _certificates: certificates,
            _data: data,
        };
        testkit::wait_until(
            "the apiserver is ready",
            Duration::from_secs(30),
            async || match server.call(Method::GET, "/readyz", &[], Bytes::new()).await {
                Ok(a) if a.code == 200 => Ok(()),
                Ok(a) => Err(format!("{} {:?}", a.code, a.body)),
                Err(e) => Err(e.to_string()),
            },
        )
        .await;
        server
    }

    /// One request on a connection of its own.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await?;
        let name = ServerName::try_from("127.0.0.1")?;
        let tls = TlsConnector::from(self.tls.clone())
            .connect(name, tcp)
            .await?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(4 << 20)
            .max_headers(1000)
            .handshake(TokioIo::new(tls))
            .await?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1");
        for (k, v) in headers {
            request = request.header(*k, *v);
        }
        let (head, body) = sender
            .send_request(request.body(Full::new(body))?)
            .await?
            .into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer {
            code: head.status.as_u16(),
            body,
        })
    }
}

fn client_tls(ca: PathBuf) -> Arc<rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}
