//! Who may use a daemon's own port: the apiserver is asked (see [`Reviews`]), as upstream's delegating options do.
//!
//! Open paths pass without a question, so that probes do not depend on the apiserver. Otherwise the user comes from a front
//! proxy's headers, a client certificate or a bearer token; without any of them it is `system:anonymous`. `system:masters`
//! may everything; others need the verb on the path as RBAC's non-resource rules have it.
//!
//! Absent: authorities and header names from the ConfigMap `extension-apiserver-authentication`; flags name them.

use std::sync::Arc;

use async_trait::async_trait;
use auth::authn::request_header::RequestHeader;
use auth::authn::x509::{ClientCas, Verified, X509};
use auth::{Attributes, Authenticator, UserInfo};
use component::Flags;
use component::serve::{Gate, Peer, Refusal};

use crate::rest::{Client, Options};
use crate::reviews::{Reviews, Times, Trouble};

/// See the module.
pub struct Delegated {
    /// Front proxy and client certificates, in this order.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    /// Whom to ask about tokens; `None`: they say nothing.
    pub tokens: Option<Arc<Reviews>>,
    /// Whom to ask about rights; `None`: nobody but `system:masters` has any.
    pub access: Option<Arc<Reviews>>,
    /// `--authorization-always-allow-paths`; a trailing `*` matches the rest.
    pub open_paths: Vec<String>,
}

impl Delegated {
    /// As the flags of kube-controller-manager and kube-scheduler say. `options` name the client; its rate is replaced.
    ///
    /// # Errors
    /// A kubeconfig or an authority that cannot be read.
    pub async fn from_flags(flags: &Flags, options: &Options) -> Result<Delegated, String> {
        let times = Times {
            token: flags.duration("authentication-token-webhook-cache-ttl"),
            allowed: flags.duration("authorization-webhook-cache-authorized-ttl"),
            denied: flags.duration("authorization-webhook-cache-unauthorized-ttl"),
        };
        let reviews = async |flag: &str| match flags.path(flag) {
            None => {
                tracing::warn!(flag, "Not given: what it is for does not work");
                Ok(None)
            }
            Some(path) => {
                let client = Client::from_kubeconfig(&path, options.clone()).await;
                let client = client.map_err(|e| format!("--{flag}: {e}"))?;
                let reviews = Reviews::new(&client, times).await;
                reviews
                    .map(|r| Some(Arc::new(r)))
                    .map_err(|e| e.to_string())
            }
        };
        let mut authenticators: Vec<Arc<dyn Authenticator>> = Vec::new();
        let client_ca = flags.path("client-ca-file");
        let mut proxy = None;
        if let Some(file) = flags.path("requestheader-client-ca-file") {
            let names = |flag: &str| flags.strings(flag).to_vec();
            let cas = Arc::new(ClientCas::new([file])?);
            let verified = Arc::new(Verified::new(cas, names("requestheader-allowed-names")));
            proxy = Some(Arc::clone(&verified));
            authenticators.push(Arc::new(RequestHeader {
                proxy: verified,
                alone: client_ca.is_none(),
                user: names("requestheader-username-headers"),
                uid: names("requestheader-uid-headers"),
                group: names("requestheader-group-headers"),
                extra_prefix: names("requestheader-extra-headers-prefix"),
            }));
        }
        if let Some(file) = client_ca {
            let cas = Arc::new(ClientCas::new([file])?);
            authenticators.push(Arc::new(X509::new(cas, proxy)));
        }
        Ok(Delegated {
            authenticators,
            tokens: reviews("authentication-kubeconfig").await?,
            access: reviews("authorization-kubeconfig").await?,
            open_paths: flags.strings("authorization-always-allow-paths").to_vec(),
        })
    }

    fn is_open(&self, path: &str) -> bool {
        let path = path.trim_start_matches('/');
        self.open_paths.iter().any(|open| {
            let open = open.trim_start_matches('/');
            match open.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => path == open,
            }
        })
    }

    async fn user(&self, peer: &Peer, request: &http::request::Parts) -> Result<UserInfo, Refusal> {
        for a in &self.authenticators {
            match a.authenticate(peer, &request.headers).await {
                Ok(None) => {}
                Ok(Some(mut user)) => {
                    if !user.in_group(auth::GROUP_AUTHENTICATED) {
                        user.groups.push(auth::GROUP_AUTHENTICATED.to_owned());
                    }
                    return Ok(user);
                }
                Err(error) => {
                    tracing::debug!(?peer, %error, "Unable to authenticate the request");
                    return Err(unauthorized());
                }
            }
        }
        let token = bearer(&request.headers).map_err(|error| {
            tracing::debug!(?peer, %error, "Unable to authenticate the request");
            unauthorized()
        })?;
        if let (Some(token), Some(reviews)) = (token, &self.tokens) {
            return match reviews.user(peer, token).await {
                Ok(Some(user)) => Ok(user),
                Ok(None) => Err(unauthorized()),
                Err(trouble) => Err(refuse(&trouble, unauthorized())),
            };
        }
        Ok(UserInfo {
            name: auth::ANONYMOUS.to_owned(),
            groups: vec![auth::GROUP_UNAUTHENTICATED.to_owned()],
            ..UserInfo::default()
        })
    }
}

/// The bearer token of a request.
///
/// # Errors
/// A token that is there and cannot be one: not UTF-8, empty, doubled.
pub fn bearer(headers: &http::HeaderMap) -> Result<Option<&str>, String> {
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

fn unauthorized() -> Refusal {
    Refusal {
        code: 401,
        message: "Unauthorized".to_owned(),
    }
}

/// What a request is told when there was no answer about it: 429 when too many ask, `otherwise` when asking failed.
pub fn refuse(trouble: &Trouble, otherwise: Refusal) -> Refusal {
    match trouble {
        Trouble::Full => Refusal {
            code: 429,
            message: "Too many requests, please try again later.".to_owned(),
        },
        Trouble::Failed(error) => {
            tracing::warn!(%error, "Asking the apiserver about a request failed");
            otherwise
        }
    }
}

#[async_trait]
impl Gate for Delegated {
    async fn check(&self, peer: &Peer, request: &mut http::request::Parts) -> Result<(), Refusal> {
        if self.is_open(request.uri.path()) {
            return Ok(());
        }
        let user = self.user(peer, request).await?;
        if user.name != auth::ANONYMOUS {
            peer.authenticated();
        }
        if user.in_group(auth::GROUP_MASTERS) {
            return Ok(());
        }
        let ask: Attributes = auth::gate::path_attributes(request, user);
        let reason = match &self.access {
            None => String::new(),
            Some(reviews) => match reviews.allowed(peer, &ask).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(reason)) => reason,
                Err(trouble) => {
                    let failed = Refusal {
                        code: 500,
                        message: "Internal Server Error".to_owned(),
                    };
                    return Err(refuse(&trouble, failed));
                }
            },
        };
        Err(Refusal {
            code: 403,
            message: auth::authz::forbidden::status(&ask, &reason).message,
        })
    }
}
