//! Authenticators, one file each, and how they are combined.
//!
//! No token, key or password is ever part of an error or a log line (CVE-2020-8565).

pub mod bootstrap;
mod cache;
pub mod request_header;
pub mod service_account;
pub mod token_file;
pub mod x509;

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::{
    ANONYMOUS, AuthenticationError, Authenticator, GROUP_AUTHENTICATED, GROUP_UNAUTHENTICATED,
    Peer, TokenAuthenticator, UserInfo,
};

/// The bearer token of a request: from `Authorization`, or from the WebSocket subprotocol that browsers use.
pub fn bearer(headers: &http::HeaderMap) -> Option<String> {
    if let Some(value) = headers
        .get(http::header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
    {
        let (scheme, token) = value.trim().split_once(' ')?;
        let token = token.trim();
        let token = token.split(' ').next().unwrap_or(token);
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
            .then(|| token.to_owned());
    }
    for value in headers.get_all(http::header::SEC_WEBSOCKET_PROTOCOL) {
        for protocol in value.to_str().unwrap_or_default().split(',') {
            if let Some(encoded) = protocol
                .trim()
                .strip_prefix("base64url.bearer.authorization.k8s.io.")
            {
                let token = URL_SAFE_NO_PAD
                    .decode(encoded)
                    .ok()
                    .and_then(|b| String::from_utf8(b).ok());
                return token.filter(|t| !t.is_empty());
            }
        }
    }
    None
}

/// Several kinds of tokens: the first that knows it, wins.
#[derive(Clone, Default)]
pub struct Tokens(pub Vec<Arc<dyn TokenAuthenticator>>);

#[async_trait]
impl TokenAuthenticator for Tokens {
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<(UserInfo, Vec<String>)>, AuthenticationError> {
        let mut errors = Vec::new();
        for t in &self.0 {
            match t.authenticate_token(token, audiences).await {
                Ok(Some((user, aud))) => return Ok(Some((authenticated(user), aud))),
                Ok(None) => {}
                Err(e) => errors.push(e.0),
            }
        }
        if errors.is_empty() {
            Ok(None)
        } else {
            Err(AuthenticationError(errors.join(", ")))
        }
    }
}

#[async_trait]
impl Authenticator for Tokens {
    async fn authenticate(
        &self,
        _: &Peer,
        headers: &http::HeaderMap,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        let Some(token) = bearer(headers) else {
            return Ok(None);
        };
        match self.authenticate_token(&token, &[]).await? {
            Some((user, _)) => Ok(Some(user)),
            None => Err(AuthenticationError("invalid bearer token".to_owned())),
        }
    }
}

/// Every request is anonymous.
pub struct Anonymous;

#[async_trait]
impl Authenticator for Anonymous {
    async fn authenticate(
        &self,
        _: &Peer,
        _: &http::HeaderMap,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        Ok(Some(UserInfo {
            name: ANONYMOUS.to_owned(),
            groups: vec![GROUP_UNAUTHENTICATED.to_owned()],
            ..UserInfo::default()
        }))
    }
}

fn authenticated(mut user: UserInfo) -> UserInfo {
    if user.name != ANONYMOUS
        && !user.in_group(GROUP_AUTHENTICATED)
        && !user.in_group(GROUP_UNAUTHENTICATED)
    {
        user.groups.push(GROUP_AUTHENTICATED.to_owned());
    }
    user
}

/// Asks all in order: the first identity wins, also over bad credentials of another kind; a bad credential and no identity
/// is an error; no credential is anonymous where that is allowed.
pub struct Union {
    all: Vec<Arc<dyn Authenticator>>,
    anonymous: bool,
}

impl Union {
    /// In upstream's order: request header, client certificate, tokens.
    pub fn new(all: Vec<Arc<dyn Authenticator>>, anonymous: bool) -> Union {
        Union { all, anonymous }
    }
}

#[async_trait]
impl Authenticator for Union {
    async fn authenticate(
        &self,
        peer: &Peer,
        headers: &http::HeaderMap,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        let mut errors = Vec::new();
        for a in &self.all {
            match a.authenticate(peer, headers).await {
                Ok(Some(user)) => return Ok(Some(authenticated(user))),
                Ok(None) => {}
                Err(e) => errors.push(e.0),
            }
        }
        if !errors.is_empty() {
            return Err(AuthenticationError(errors.join(", ")));
        }
        if self.anonymous {
            Anonymous.authenticate(peer, headers).await
        } else {
            Ok(None)
        }
    }
}
