//! Who may use a daemon's own port: the apiserver is asked (see [`Reviews`]), as upstream's delegating options do.
//!
//! The user comes from a front proxy's headers, a client certificate or a bearer token (see [`Callers`]); without any of
//! them it is `system:anonymous`. A credential that is bad fails the request, on open paths too. Open paths need no right,
//! and whoever shows nothing is not asked about there, so that probes do not depend on the apiserver. `system:masters` may
//! everything; others need the verb on the path as RBAC's non-resource rules have it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use auth::{Attributes, UserInfo};
use component::serve::{Gate, Peer, Refusal};
use component::tls::Tls;
use component::{Flags, Shutdown};

use crate::callers::{Callers, Lookup};
use crate::rest::{Client, Options};
use crate::reviews::{Reviews, Times, Trouble};

/// How long an answer about certificates is waited for at the start.
const LOOKUP: Duration = Duration::from_secs(10);

/// See the module.
pub struct Delegated {
    /// Whose certificates are good.
    pub callers: Callers,
    /// Whom to ask about tokens; `None`: they say nothing.
    pub tokens: Option<Arc<Reviews>>,
    /// Whom to ask about rights; `None`: nobody but `system:masters` has any.
    pub access: Option<Arc<Reviews>>,
    /// `--authorization-always-allow-paths`; a trailing `*` matches the rest.
    pub open_paths: Vec<String>,
}

impl Delegated {
    /// As the flags of kube-controller-manager and kube-scheduler say. `options` name the client; its rate is replaced. What
    /// is learnt later about certificates reaches `tls` too, until `shutdown`.
    ///
    /// # Errors
    /// A kubeconfig or an authority that cannot be read; no answer about front proxies, unless that is tolerated.
    pub async fn from_flags(
        flags: &Flags,
        options: &Options,
        tls: &Tls,
        shutdown: &Shutdown,
    ) -> Result<Delegated, String> {
        let times = Times {
            token: flags.duration("authentication-token-webhook-cache-ttl"),
            allowed: flags.duration("authorization-webhook-cache-authorized-ttl"),
            denied: flags.duration("authorization-webhook-cache-unauthorized-ttl"),
        };
        let client = async |flag: &str| match flags.path(flag) {
            None => {
                tracing::warn!(flag, "Not given: what it is for does not work");
                Ok(None)
            }
            Some(path) => {
                let client = Client::from_kubeconfig(&path, options.clone()).await;
                client.map(Some).map_err(|e| format!("--{flag}: {e}"))
            }
        };
        let reviews = async |client: &Option<Client>| match client {
            None => Ok(None),
            Some(client) => {
                let reviews = Reviews::new(client, times).await;
                reviews
                    .map(|r| Some(Arc::new(r)))
                    .map_err(|e| e.to_string())
            }
        };
        let authentication = client("authentication-kubeconfig").await?;
        let authorization = client("authorization-kubeconfig").await?;
        let callers = Callers::from_flags(flags)?;
        if let Some(client) = &authentication
            && !flags.bool("authentication-skip-lookup")
            && let Some(lookup) = Lookup::new(flags, client, &callers, tls)
        {
            match tokio::time::timeout(LOOKUP, lookup.ask()).await {
                Ok(Ok(())) => {}
                failed => {
                    let why = match failed {
                        Ok(Err(error)) => error.to_string(),
                        _ => "no answer in time".to_owned(),
                    };
                    if lookup.proxies() && !flags.bool("authentication-tolerate-lookup-failure") {
                        return Err(format!(
                            "unable to load configmap based request-header-client-ca-file: {why}"
                        ));
                    }
                    tracing::warn!(
                        why,
                        "Whose certificates are good could not be looked up yet; until then their users are not known"
                    );
                }
            }
            shutdown.spawn(lookup.run(shutdown.token.clone()));
        }
        Ok(Delegated {
            callers,
            tokens: reviews(&authentication).await?,
            access: reviews(&authorization).await?,
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
        for a in self.callers.authenticators() {
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
        let user = self.user(peer, request).await?;
        if user.name != auth::ANONYMOUS {
            peer.authenticated();
        }
        if self.is_open(request.uri.path()) || user.in_group(auth::GROUP_MASTERS) {
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
