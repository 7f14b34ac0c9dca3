//! An apiserver in this process, with the authorizers it has in a cluster, and a client.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apiserver::cache::Seen;
use apiserver::{Config, Core, Dependencies};
use async_trait::async_trait;
use auth::authz::Union;
use auth::authz::node::{NodeAuthorizer, NodeGraph};
use auth::authz::rbac::{Kind, RbacIndex};
use auth::{AuthenticationError, Authenticator, Peer, UserInfo};
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

/// Who is `tester`, but for requests with this header, which come from a member of `system:masters`.
pub const ROOT: (&str, &str) = ("x-root", "true");

struct Tester;

#[async_trait]
impl Authenticator for Tester {
    async fn authenticate(
        &self,
        _: &Peer,
        headers: &http::HeaderMap,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        let (name, group) = if headers.contains_key(ROOT.0) {
            ("root", auth::GROUP_MASTERS)
        } else {
            ("tester", "testers")
        };
        Ok(Some(UserInfo {
            name: name.into(),
            groups: vec![group.into(), "system:authenticated".into()],
            ..UserInfo::default()
        }))
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
        let (rbac, nodes) = (RbacIndex::new(), NodeGraph::new());
        for kind in Kind::ALL {
            let index = rbac.clone();
            let observer = move |namespace: &str, name: &str, seen: Option<&Seen<'_>>| {
                let object = seen.and_then(|s| s.value().ok());
                index.changed(kind, namespace, name, object.as_ref());
            };
            core.observe(
                "rbac.authorization.k8s.io",
                kind.resource(),
                Arc::new(observer),
            )
            .unwrap();
        }
        let authorizer = Arc::new(Union::new(vec![Arc::new(NodeAuthorizer::new(nodes)), rbac]));
        let deps = admission::chain::Deps::new(authorizer.clone());
        let plugins = admission::chain::Chain::new(&[], &[], &deps).unwrap();
        let dependencies = Dependencies {
            core: core.clone(),
            authenticator: Arc::new(Tester),
            authorizer,
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
            async || match server
                .call(Method::GET, "/readyz", &[ROOT], Bytes::new())
                .await
            {
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
