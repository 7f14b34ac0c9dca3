//! Who may ask this kubelet, and what: client certificates, tokens by TokenReview, decisions by SubjectAccessReview (see
//! [`client::reviews`], which keeps them from holding up heartbeats).
//!
//! A request is authorized as an access to `nodes/<name>` with a subresource by its path. exec, attach, port-forward and
//! run count as `create`, whatever the request's method or upgrade (a GET with a WebSocket upgrade must not pass as a
//! read).

use std::sync::Arc;

use ::auth::authn::x509::{ClientCas, X509};
use ::auth::{Attributes, Authenticator as _, UserInfo};
use async_trait::async_trait;
use client::Client;
use client::gate::{bearer, refuse};
use client::reviews::{Reviews, Times};
use component::serve::{Gate, Peer, Refusal};
use http::request::Parts;

use crate::config::Settings;

/// The gate of the kubelet's port.
pub struct KubeletGate {
    reviews: Option<Reviews>,
    node: String,
    certificates: Option<X509>,
    tokens: bool,
    anonymous: bool,
    webhook: bool,
}

impl KubeletGate {
    /// By the settings. Questions go over connections of their own, whatever `client` is used for besides.
    ///
    /// # Errors
    /// When the client authority cannot be read, or webhooks are asked for without an apiserver.
    pub async fn new(s: &Settings, client: Option<&Client>) -> Result<KubeletGate, String> {
        if client.is_none() && s.webhook_authorization {
            return Err("authorization.mode Webhook needs a kubeconfig".into());
        }
        let certificates = match &s.client_ca_file {
            Some(f) => Some(X509::new(Arc::new(ClientCas::new([f.clone()])?), None)),
            None => None,
        };
        let times = Times {
            token: s.token_cache,
            allowed: s.allow_cache,
            denied: s.deny_cache,
        };
        let reviews = match client {
            Some(client) => Some(
                Reviews::new(client, times)
                    .await
                    .map_err(|e| e.to_string())?,
            ),
            None => None,
        };
        Ok(KubeletGate {
            node: s.node_name.clone(),
            certificates,
            tokens: s.webhook_authentication,
            anonymous: s.anonymous,
            webhook: s.webhook_authorization,
            reviews,
        })
    }

    /// A credential that is bad is an error even where anonymous requests pass.
    async fn user(&self, peer: &Peer, request: &Parts) -> Result<UserInfo, Refusal> {
        if let Some(certificates) = &self.certificates {
            match certificates.authenticate(peer, &request.headers).await {
                Ok(None) => {}
                Ok(Some(mut user)) => {
                    user.groups.push(::auth::GROUP_AUTHENTICATED.into());
                    return Ok(user);
                }
                Err(error) => {
                    tracing::debug!(?peer, %error, "client certificate refused");
                    return Err(unauthorized());
                }
            }
        }
        let token = bearer(&request.headers).map_err(|error| {
            tracing::debug!(?peer, %error, "credentials refused");
            unauthorized()
        })?;
        if let Some(token) = token {
            return match &self.reviews {
                Some(reviews) if self.tokens => match reviews.user(peer, token).await {
                    Ok(user) => user.ok_or_else(unauthorized),
                    Err(trouble) => Err(refuse(&trouble, unauthorized())),
                },
                _ => Err(unauthorized()),
            };
        }
        if !self.anonymous {
            return Err(unauthorized());
        }
        Ok(UserInfo {
            name: ::auth::ANONYMOUS.into(),
            groups: vec![::auth::GROUP_UNAUTHENTICATED.into()],
            ..UserInfo::default()
        })
    }

    /// `Err` of the inner result is the reason.
    async fn authorize(
        &self,
        peer: &Peer,
        user: &UserInfo,
        verb: &str,
        subresource: &str,
    ) -> Result<Result<(), String>, Refusal> {
        let Some(reviews) = &self.reviews else {
            return Ok(Err("no apiserver to ask".into()));
        };
        let ask = Attributes {
            user: user.clone(),
            verb: verb.into(),
            version: "v1".into(),
            resource: "nodes".into(),
            subresource: subresource.into(),
            name: self.node.clone(),
            is_resource: true,
            ..Attributes::default()
        };
        let failed = || Refusal {
            code: 500,
            message: format!(
                "Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})",
                user.name
            ),
        };
        let answer = reviews.allowed(peer, &ask).await;
        answer.map_err(|trouble| refuse(&trouble, failed()))
    }
}

fn unauthorized() -> Refusal {
    Refusal {
        code: 401,
        message: "Unauthorized".into(),
    }
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

#[async_trait]
impl Gate for KubeletGate {
    async fn check(&self, peer: &Peer, request: &mut Parts) -> Result<(), Refusal> {
        let user = self.user(peer, request).await?;
        if user.name != ::auth::ANONYMOUS {
            peer.authenticated();
        }
        if self.webhook {
            let (verb, subresources) = attributes(&request.method, request.uri.path());
            let mut refused = String::new();
            let mut allowed = false;
            for sub in &subresources {
                match self.authorize(peer, &user, verb, sub).await? {
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
    use serde_json::json;

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
        let gate = KubeletGate::new(&s, None).await.unwrap();
        let peer = Peer::new(None, Vec::new());
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
        let gate = KubeletGate::new(&s, None).await.unwrap();
        let peer = |ca: Option<&Ca>, cn: &str| {
            let certificate = ca.map(|ca| {
                let spec = Spec {
                    common_name: cn.into(),
                    organization: None,
                    sans: vec![],
                    usage: Use::Client,
                };
                let key = pki::key::generate().unwrap();
                let pem = ca.sign(&spec, &key, LEAF_VALIDITY).unwrap();
                pki::key::pem_blocks(&pem).unwrap().remove(0).der
            });
            Peer::new(None, certificate.into_iter().collect())
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
            let user = parts.extensions.get::<UserInfo>().map(|u| u.name.as_str());
            assert_eq!((user, passed), (want, want.is_some()), "{sent:?}");
        }
    }
}
