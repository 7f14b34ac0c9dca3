//! Authenticators, one file each, and how they are combined.
//!
//! No token, key or password is ever part of an error or a log line (CVE-2020-8565).

pub mod bootstrap;
mod cache;
pub mod headers;
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

const PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// The bearer token of a request: from `Authorization`, or from the WebSocket subprotocol that browsers use. `None`: the
/// request shows none.
///
/// # Errors
/// A token that is there and cannot be one: not UTF-8, empty, doubled, badly encoded.
pub fn bearer(headers: &http::HeaderMap) -> Result<Option<String>, AuthenticationError> {
    let bad = |why: &str| Err(AuthenticationError(why.to_owned()));
    if let Some(value) = headers::single(headers, "authorization").map_err(AuthenticationError)? {
        let mut words = value.trim().splitn(3, ' ');
        if words
            .next()
            .is_some_and(|s| s.eq_ignore_ascii_case("bearer"))
        {
            return match words.next() {
                Some(token) if !token.is_empty() => Ok(Some(token.to_owned())),
                _ => bad("empty bearer token"),
            };
        }
    }
    if !headers::is_websocket(headers) {
        return Ok(None);
    }
    let (mut token, mut others) = (None, false);
    let protocols =
        headers::texts(headers, "sec-websocket-protocol").map_err(AuthenticationError)?;
    for protocol in protocols.iter().flat_map(|p| p.split(',')) {
        let Some(encoded) = protocol.trim().strip_prefix(PROTOCOL) else {
            others = true;
            continue;
        };
        if token.is_some() {
            return bad("multiple base64.bearer.authorization tokens specified");
        }
        match URL_SAFE_NO_PAD.decode(encoded).map(String::from_utf8) {
            Ok(Ok(t)) => token = Some(t),
            Ok(Err(_)) => return bad("invalid base64.bearer.authorization token"),
            Err(_) => return bad("invalid base64.bearer.authorization token encoding"),
        }
    }
    match token {
        Some(t) if t.is_empty() => bad("empty bearer token"),
        // The protocol with the token is not echoed, so another one must be there to be chosen.
        Some(_) if !others => bad("missing additional subprotocol"),
        token => Ok(token),
    }
}

/// Tokens of a kind that says nothing of audiences: they are for the server's own.
pub struct Agnostic {
    /// `--api-audiences`.
    pub audiences: Vec<String>,
    /// The tokens.
    pub tokens: Arc<dyn TokenAuthenticator>,
}

#[async_trait]
impl TokenAuthenticator for Agnostic {
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<(UserInfo, Vec<String>)>, AuthenticationError> {
        let shared: Vec<String> = audiences
            .iter()
            .filter(|a| self.audiences.contains(a))
            .cloned()
            .collect();
        if shared.is_empty() && !audiences.is_empty() {
            return Ok(None);
        }
        let found = self.tokens.authenticate_token(token, &[]).await?;
        Ok(found.map(|(user, _)| (user, shared)))
    }
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
        let Some(token) = bearer(headers)? else {
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

/// Asks all in order: the first identity wins. A bad credential is an error, whatever other credentials the request
/// shows and whether or not anonymous requests pass; no credential is anonymous where that is allowed.
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
        for a in &self.all {
            if let Some(user) = a.authenticate(peer, headers).await? {
                return Ok(Some(authenticated(user)));
            }
        }
        if self.anonymous {
            Anonymous.authenticate(peer, headers).await
        } else {
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::token_file::TokenFile;
    use super::*;
    use http::{HeaderMap, HeaderValue};

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut out = HeaderMap::new();
        for (k, v) in pairs {
            out.append(*k, HeaderValue::from_bytes(v).unwrap());
        }
        out
    }

    #[tokio::test]
    async fn nobody_in_particular_is_in_the_group_of_those() {
        let (peer, headers) = (Peer::default(), HeaderMap::new());
        let got = Anonymous.authenticate(&peer, &headers).await;
        let user = got.unwrap().unwrap();
        assert_eq!(user.name, "system:anonymous");
        assert_eq!(user.groups, ["system:unauthenticated"]);
    }

    /// Identity: a token that is there and bad is never the same as no token.
    #[tokio::test]
    async fn a_bad_token_is_not_anonymous() {
        let file = TokenFile::parse("t1,jane,1\nt\u{fc},j\u{fc}rgen,2\n").unwrap();
        let union = Union::new(vec![Arc::new(Tokens(vec![Arc::new(file)]))], true);
        let auth = |v: &'static [u8]| headers(&[("authorization", v)]);
        let ws = |protocols: &'static str| {
            headers(&[
                ("connection", b"Upgrade"),
                ("upgrade", b"websocket"),
                ("sec-websocket-protocol", protocols.as_bytes()),
            ])
        };
        let token = "base64url.bearer.authorization.k8s.io.dDE";
        let good = [
            (auth(b"Bearer t1"), "jane"),
            (auth(b"bearer t1 more"), "jane"),
            (auth("Bearer t\u{fc}".as_bytes()), "j\u{fc}rgen"),
            (
                ws("base64url.bearer.authorization.k8s.io.dDE, v5.channel.k8s.io"),
                "jane",
            ),
            (ws("v5.channel.k8s.io"), ANONYMOUS),
            (HeaderMap::new(), ANONYMOUS),
            (auth(b""), ANONYMOUS),
            // Not a WebSocket: no credential.
            (
                headers(&[("sec-websocket-protocol", token.as_bytes())]),
                ANONYMOUS,
            ),
        ];
        for (h, want) in good {
            let user = union.authenticate(&Peer::default(), &h).await;
            assert_eq!(user.unwrap().unwrap().name, want, "{h:?}");
        }
        let bad = [
            auth(b"Bearer nope"),
            auth(b"Bearer t\xfc"),
            auth(b"Bearer"),
            auth(b"Bearer  t1"),
            headers(&[
                ("authorization", b"Bearer t1"),
                ("authorization", b"Bearer t1"),
            ]),
            headers(&[("authorization", b""), ("authorization", b"Bearer t1")]),
            ws("base64url.bearer.authorization.k8s.io.dDE"),
            ws("base64url.bearer.authorization.k8s.io., a"),
            ws("base64url.bearer.authorization.k8s.io.!!!, a"),
            ws("base64url.bearer.authorization.k8s.io._w, a"),
            ws("base64url.bearer.authorization.k8s.io.dDI, a"),
            ws(
                "base64url.bearer.authorization.k8s.io.dDE, base64url.bearer.authorization.k8s.io.dDE, a",
            ),
        ];
        for h in bad {
            let user = union.authenticate(&Peer::default(), &h).await;
            assert!(user.is_err(), "{h:?} {user:?}");
        }
    }

    #[tokio::test]
    async fn tokens_without_audiences_are_for_the_servers_own() {
        let file = TokenFile::parse("t1,jane,1\n").unwrap();
        let tokens = Tokens(vec![Arc::new(Agnostic {
            audiences: vec!["api".into(), "api2".into()],
            tokens: Arc::new(file),
        })]);
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        for (asked, want) in [
            (list(&[]), Some(list(&[]))),
            (list(&["api"]), Some(list(&["api"]))),
            (
                list(&["vault", "api2", "api"]),
                Some(list(&["api2", "api"])),
            ),
            (list(&["vault"]), None),
            (list(&[""]), None),
        ] {
            let found = tokens.authenticate_token("t1", &asked).await.unwrap();
            assert_eq!(found.map(|f| f.1), want, "{asked:?}");
        }
        assert!(
            tokens
                .authenticate_token("t2", &[])
                .await
                .unwrap()
                .is_none()
        );
    }
}
