//! Who may ask this kubelet, and what: client certificates, tokens by TokenReview, decisions by SubjectAccessReview.
//!
//! A request is authorized as an access to `nodes/<name>` with a subresource by its path. exec, attach, port-forward and
//! run count as `create`, whatever the request's method or upgrade (a GET with a WebSocket upgrade must not pass as a
//! read). Tokens are kept as digests only, and never logged.

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

    fn certificate(&self, peer: &Peer) -> Option<User> {
        let verifier = self.verifier.as_ref()?.get();
        let mut chain = peer
            .certificates
            .iter()
            .map(|c| CertificateDer::from(c.as_slice()));
        let leaf = chain.next()?;
        let rest: Vec<CertificateDer<'_>> = chain.collect();
        if let Err(e) = verifier.verify_client_cert(&leaf, &rest, UnixTime::now()) {
            tracing::debug!(address = %peer.address, error = %e, "client certificate refused");
            return None;
        }
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

/// Name and groups of a certificate: its common name and organizations.
fn user_of(der: &[u8]) -> Option<User> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = cert.subject();
    let name = subject
        .iter_common_name()
        .next()?
        .as_str()
        .ok()?
        .to_string();
    let mut groups: Vec<String> = subject
        .iter_organization()
        .filter_map(|o| o.as_str().ok())
        .map(str::to_string)
        .collect();
    groups.push("system:authenticated".into());
    Some(User {
        name,
        groups,
        ..User::default()
    })
}

/// The verb and the subresources of a request, the finest first: access to any of them suffices.
pub fn attributes(method: &http::Method, path: &str) -> (&'static str, Vec<&'static str>) {
    let first = path
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default();
    let verb = match method.as_str() {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "get",
    };
    match first {
        "exec" | "attach" | "portForward" | "run" | "checkpoint" => ("create", vec!["proxy"]),
        "stats" => (verb, vec!["stats"]),
        "metrics" => (verb, vec!["metrics"]),
        "logs" => (verb, vec!["log"]),
        "healthz" => (verb, vec!["healthz", "proxy"]),
        "configz" => (verb, vec!["configz", "proxy"]),
        "pods" | "runningpods" => (verb, vec!["pods", "proxy"]),
        _ => (verb, vec!["proxy"]),
    }
}

fn bearer(parts: &Parts) -> Option<String> {
    let value = parts
        .headers
        .get(http::header::AUTHORIZATION)?
        .to_str()
        .ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty())
        .then(|| token.trim().to_string())
}

#[async_trait]
impl Gate for KubeletGate {
    async fn check(&self, peer: &Peer, request: &mut Parts) -> Result<(), Refusal> {
        let unauthorized = || Refusal {
            code: 401,
            message: "Unauthorized".into(),
        };
        let mut user = self.certificate(peer);
        if user.is_none()
            && let Some(token) = bearer(request)
        {
            // A bad token is an error even where anonymous requests pass.
            user = if self.tokens {
                self.token(&token).await?
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
}
