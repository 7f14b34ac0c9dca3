//! Who may ask this kubelet, and what: client certificates, tokens by TokenReview, decisions by SubjectAccessReview.
//!
//! A request is authorized as an access to `nodes/<name>` with a subresource by its path. exec, attach, port-forward and
//! run count as `create`, whatever the request's method or upgrade (a GET with a WebSocket upgrade must not pass as a
//! read). A certificate or token that is there and bad fails the request: it leaves neither the other nor nobody in its
//! place. Tokens are kept as digests only, and never logged.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use client::Client;
use component::reload::Reloaded;
use component::serve::{Gate, Peer, Refusal};
use http::request::Parts;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::Settings;

/// Most answers kept.
const CACHE: usize = 1000;

/// An authenticated user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "fields of authentication.k8s.io/v1 UserInfo")]
pub struct User {
    #[serde(rename = "username")]
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: HashMap<String, Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenReview {
    status: TokenStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenStatus {
    authenticated: bool,
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AccessReview {
    status: AccessStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AccessStatus {
    allowed: bool,
    reason: String,
}

type Cache<V> = Mutex<HashMap<Vec<u8>, (V, Instant)>>;

fn cached<V: Clone>(c: &Cache<V>, key: &[u8]) -> Option<V> {
    let c = c.lock().unwrap_or_else(PoisonError::into_inner);
    c.get(key)
        .filter(|(_, until)| *until > Instant::now())
        .map(|(v, _)| v.clone())
}

fn keep<V>(c: &Cache<V>, key: Vec<u8>, value: V, ttl: Duration) {
    let mut c = c.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    if c.len() >= CACHE {
        c.retain(|_, (_, until)| *until > now);
        if c.len() >= CACHE {
            c.clear();
        }
    }
    c.insert(key, (value, now + ttl));
}

/// The gate of the kubelet's port.
pub struct KubeletGate {
    client: Option<Client>,
    node: String,
    verifier: Option<Reloaded<Arc<dyn ClientCertVerifier>>>,
    tokens: bool,
    anonymous: bool,
    webhook: bool,
    token_ttl: Duration,
    allow_ttl: Duration,
    deny_ttl: Duration,
    users: Cache<Option<User>>,
    decisions: Cache<Result<(), String>>,
}

fn verifier(files: &[Vec<u8>]) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = rustls::RootCertStore::empty();
    for f in files {
        for cert in CertificateDer::pem_slice_iter(f) {
            roots
                .add(cert.map_err(|e| e.to_string())?)
                .map_err(|e| e.to_string())?;
        }
    }
    rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        component::tls::provider(),
    )
    .build()
    .map(|v| v as _)
    .map_err(|e| e.to_string())
}

impl KubeletGate {
    /// By the settings.
    ///
    /// # Errors
    /// When the client authority cannot be read, or webhooks are asked for without an apiserver.
    pub fn new(s: &Settings, client: Option<Client>) -> Result<KubeletGate, String> {
        if client.is_none() && s.webhook_authorization {
            return Err("authorization.mode Webhook needs a kubeconfig".into());
        }
        let verifier = match &s.client_ca_file {
            Some(f) => Some(Reloaded::new([f], verifier)?),
            None => None,
        };
        Ok(KubeletGate {
            node: s.node_name.clone(),
            verifier,
            tokens: s.webhook_authentication && client.is_some(),
            anonymous: s.anonymous,
            webhook: s.webhook_authorization,
            token_ttl: s.token_cache,
            allow_ttl: s.allow_cache,
            deny_ttl: s.deny_cache,
            client,
            users: Cache::default(),
            decisions: Cache::default(),
        })
    }

    /// The user of a client's certificate. `None`: it shows none, or none is known here, or it names nobody.
    fn certificate(&self, peer: &Peer) -> Result<Option<User>, String> {
        let Some(verifier) = self.verifier.as_ref() else {
            return Ok(None);
        };
        let verifier = verifier.get();
        let mut chain = peer
            .certificates
            .iter()
            .map(|c| CertificateDer::from(c.as_slice()));
        let Some(leaf) = chain.next() else {
            return Ok(None);
        };
        let rest: Vec<CertificateDer<'_>> = chain.collect();
        verifier
            .verify_client_cert(&leaf, &rest, UnixTime::now())
            .map_err(|e| e.to_string())?;
        user_of(&leaf)
    }

    async fn token(&self, token: &str) -> Result<Option<User>, Refusal> {
        let key = ring::digest::digest(&ring::digest::SHA256, token.as_bytes())
            .as_ref()
            .to_vec();
        if let Some(u) = cached(&self.users, &key) {
            return Ok(u);
        }
        let Some(client) = &self.client else {
            return Ok(None);
        };
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let r: TokenReview = client
            .api(&client::resource::TOKEN_REVIEWS)
            .create(&body)
            .await
            .map_err(|e| {
                tracing::warn!(error = %e, "token review failed");
                Refusal {
                    code: 401,
                    message: "Unauthorized".into(),
                }
            })?;
        let user = r.status.authenticated.then_some(r.status.user);
        keep(&self.users, key, user.clone(), self.token_ttl);
        Ok(user)
    }

    async fn authorize(&self, user: &User, verb: &str, subresource: &str) -> Result<(), String> {
        let spec = json!({
            "user": user.name,
            "uid": user.uid,
            "groups": user.groups,
            "extra": user.extra,
            "resourceAttributes": {"verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": self.node},
        });
        let key = spec.to_string().into_bytes();
        if let Some(d) = cached(&self.decisions, &key) {
            return d;
        }
        let Some(client) = &self.client else {
            return Err("no apiserver to ask".into());
        };
        let body: Value = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
        let r: AccessReview = client
            .api(&client::resource::SUBJECT_ACCESS_REVIEWS)
            .create(&body)
            .await
            .map_err(|e| {
                tracing::warn!(error = %e, "access review failed");
                "the access review failed".to_string()
            })?;
        let decision = if r.status.allowed {
            Ok(())
        } else {
            Err(r.status.reason)
        };
        keep(
            &self.decisions,
            key,
            decision.clone(),
            if decision.is_ok() {
                self.allow_ttl
            } else {
                self.deny_ttl
            },
        );
        decision
    }
}

/// Name and groups of a certificate: its last common name and its organizations. `None`: it has no name.
fn user_of(der: &[u8]) -> Result<Option<User>, String> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).map_err(|e| e.to_string())?;
    let subject = cert.subject();
    // A part left out would make another user of this one.
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        a.as_str().map(str::to_string).map_err(|e| e.to_string())
    };
    let Some(name) = subject.iter_common_name().last() else {
        return Ok(None);
    };
    let name = text(name)?;
    let mut groups = subject
        .iter_organization()
        .map(text)
        .collect::<Result<Vec<_>, _>>()?;
    groups.push("system:authenticated".into());
    Ok((!name.is_empty()).then(|| User {
        name,
        groups,
        ..User::default()
    }))
}

/// The segments of a path as the server's routes see them.
pub fn segments(path: &str) -> Vec<&str> {
    path.trim_matches('/').split('/').collect()
}

/// The verb and the subresources of a request, the finest first: access to any of them suffices.
pub fn attributes(method: &http::Method, path: &str) -> (&'static str, Vec<&'static str>) {
    let first = segments(path).first().copied().unwrap_or_default();
    let verb = match method.as_str() {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "get",
    };
    match first {
        "exec" | "attach" | "portForward" | "run" => ("create", vec!["proxy"]),
        "checkpoint" => ("create", vec!["checkpoint"]),
        "stats" => (verb, vec!["stats"]),
        "metrics" => (verb, vec!["metrics"]),
        "logs" => (verb, vec!["log"]),
        "healthz" => (verb, vec!["healthz", "proxy"]),
        "configz" => (verb, vec!["configz", "proxy"]),
        "flagz" => (verb, vec!["configz"]),
        "statusz" => (verb, vec!["statusz"]),
        "pods" | "runningpods" => (verb, vec!["pods", "proxy"]),
        _ => (verb, vec!["proxy"]),
    }
}

/// The bearer token of a request.
///
/// # Errors
/// A token that is there and cannot be one: not UTF-8, empty, doubled.
fn bearer(headers: &http::HeaderMap) -> Result<Option<&str>, String> {
    let mut all = headers.get_all(http::header::AUTHORIZATION).iter();
    let Some(value) = all.next() else {
        return Ok(None);
    };
    if all.next().is_some() {
        return Err("more than one Authorization header".into());
    }
    let value = std::str::from_utf8(value.as_bytes()).map_err(|e| e.to_string())?;
    let mut words = value.trim().splitn(3, ' ');
    if !words
        .next()
        .is_some_and(|s| s.eq_ignore_ascii_case("bearer"))
    {
        return Ok(None);
    }
    match words.next() {
        Some(token) if !token.is_empty() => Ok(Some(token)),
        _ => Err("empty bearer token".into()),
    }
}

#[async_trait]
impl Gate for KubeletGate {
    async fn check(&self, peer: &Peer, request: &mut Parts) -> Result<(), Refusal> {
        let unauthorized = || Refusal {
            code: 401,
            message: "Unauthorized".into(),
        };
        let refuse = |e: String| {
            tracing::debug!(address = %peer.address, error = %e, "credentials refused");
            unauthorized()
        };
        let mut user = self.certificate(peer).map_err(refuse)?;
        if user.is_none()
            && let Some(token) = bearer(&request.headers).map_err(refuse)?
        {
            // A bad token is an error even where anonymous requests pass.
            user = if self.tokens {
                self.token(token).await?
            } else {
                None
            };
            if user.is_none() {
                return Err(unauthorized());
            }
        }
        let user = match user {
            Some(u) => u,
            None if self.anonymous => User {
                name: "system:anonymous".into(),
                groups: vec!["system:unauthenticated".into()],
                ..User::default()
            },
            None => return Err(unauthorized()),
        };
        if self.webhook {
            let (verb, subresources) = attributes(&request.method, request.uri.path());
            let mut refused = String::new();
            let mut allowed = false;
            for sub in &subresources {
                match self.authorize(&user, verb, sub).await {
                    Ok(()) => {
                        allowed = true;
                        break;
                    }
                    Err(reason) => refused = reason,
                }
            }
            if !allowed {
                tracing::debug!(user = %user.name, verb, reason = %refused, "refused");
                let sub = subresources.join(", ");
                return Err(Refusal {
                    code: 403,
                    message: format!(
                        "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{sub}])",
                        user.name
                    ),
                });
            }
        }
        request.extensions.insert(user);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    /// nodes/proxy: a command is never a read, however the request is dressed.
    #[test]
    fn streams_need_create() {
        for path in [
            "/exec/ns/p/c",
            "/attach/ns/p/c",
            "/portForward/ns/p",
            "/run/ns/p/c",
            "exec/x",
            "//exec/ns/p/c",
            "/exec",
        ] {
            for method in [Method::GET, Method::POST, Method::PUT, Method::HEAD] {
                assert_eq!(
                    attributes(&method, path),
                    ("create", vec!["proxy"]),
                    "{method} {path}"
                );
            }
        }
    }

    #[test]
    fn reads_are_fine_grained() {
        assert_eq!(
            attributes(&Method::GET, "/metrics/resource"),
            ("get", vec!["metrics"])
        );
        assert_eq!(
            attributes(&Method::GET, "/stats/summary"),
            ("get", vec!["stats"])
        );
        assert_eq!(
            attributes(&Method::GET, "/pods"),
            ("get", vec!["pods", "proxy"])
        );
        assert_eq!(
            attributes(&Method::GET, "/containerLogs/a/b/c"),
            ("get", vec!["proxy"])
        );
    }

    #[tokio::test]
    async fn without_credentials_nothing_passes() {
        let s = Settings::new(
            serde_json::from_value(json!({"authorization": {"mode": "AlwaysAllow"}})).unwrap(),
            crate::config::FlagValues {
                hostname_override: "n".into(),
                ..Default::default()
            },
        )
        .unwrap();
        let gate = KubeletGate::new(&s, None).unwrap();
        let peer = Peer {
            address: "127.0.0.1:1".parse().unwrap(),
            certificates: Vec::new(),
        };
        let (mut parts, ()) = http::Request::get("/pods").body(()).unwrap().into_parts();
        assert_eq!(gate.check(&peer, &mut parts).await.unwrap_err().code, 401);
        let (mut parts, ()) = http::Request::get("/pods")
            .header("authorization", "Bearer x")
            .body(())
            .unwrap()
            .into_parts();
        assert_eq!(gate.check(&peer, &mut parts).await.unwrap_err().code, 401);
    }

    /// Identity: where anonymous requests pass, bad credentials do not.
    #[tokio::test]
    async fn bad_credentials_are_not_anonymous() {
        use pki::cert::{Ca, LEAF_VALIDITY, Spec, Use};

        let dir = tempfile::tempdir().unwrap();
        let ca = |name: &str| Ca::generate(name, pki::key::generate().unwrap()).unwrap();
        let (own, other) = (ca("own"), ca("other"));
        let file = dir.path().join("ca.crt");
        std::fs::write(&file, &own.cert_pem).unwrap();
        let config = json!({
            "authentication": {"anonymous": {"enabled": true}, "x509": {"clientCAFile": file}},
            "authorization": {"mode": "AlwaysAllow"},
        });
        let s = Settings::new(
            serde_json::from_value(config).unwrap(),
            crate::config::FlagValues {
                hostname_override: "n".into(),
                ..Default::default()
            },
        )
        .unwrap();
        let gate = KubeletGate::new(&s, None).unwrap();
        let peer = |ca: Option<&Ca>, cn: &str| Peer {
            address: "127.0.0.1:1".parse().unwrap(),
            certificates: ca
                .map(|ca| {
                    let spec = Spec {
                        common_name: cn.into(),
                        organization: None,
                        sans: vec![],
                        usage: Use::Client,
                    };
                    let key = pki::key::generate().unwrap();
                    let pem = ca.sign(&spec, &key, LEAF_VALIDITY).unwrap();
                    pki::key::pem_blocks(&pem).unwrap().remove(0).der
                })
                .into_iter()
                .collect(),
        };
        let (nobody, jane, stranger) = (
            peer(None, ""),
            peer(Some(&own), "jane"),
            peer(Some(&other), "jane"),
        );
        let token: &[u8] = b"Bearer t\xfc";
        for (peer, sent, want) in [
            (&nobody, vec![], Some("system:anonymous")),
            (&nobody, vec![&b"Basic x"[..]], Some("system:anonymous")),
            (&jane, vec![], Some("jane")),
            (&stranger, vec![], None),
            (&nobody, vec![b"Bearer x"], None),
            (&nobody, vec![token], None),
            (&nobody, vec![b"Bearer"], None),
            (&nobody, vec![b"", b""], None),
        ] {
            let (mut parts, ()) = http::Request::get("/pods").body(()).unwrap().into_parts();
            for v in &sent {
                let v = http::HeaderValue::from_bytes(v).unwrap();
                parts.headers.append("authorization", v);
            }
            let passed = gate.check(peer, &mut parts).await.is_ok();
            let user = parts.extensions.get::<User>().map(|u| u.name.as_str());
            assert_eq!((user, passed), (want, want.is_some()), "{sent:?}");
        }
    }
}
