//! `X-Remote-User` and its like, from a front proxy that shows its certificate.

use std::sync::Arc;

use async_trait::async_trait;

use super::headers::{extra_key, single, texts};
use super::x509::Verified;
use crate::{AuthenticationError, Authenticator, Peer, UserInfo};

/// See the module. What a proxy says must be readable: otherwise the request would be the proxy's own.
pub struct RequestHeader {
    /// The proxy.
    pub proxy: Arc<Verified>,
    /// Whether nobody else knows certificates: one that is not the proxy's is then bad. Otherwise it is another
    /// authority's business.
    pub alone: bool,
    /// `--requestheader-username-headers`.
    pub user: Vec<String>,
    /// `--requestheader-uid-headers`.
    pub uid: Vec<String>,
    /// `--requestheader-group-headers`.
    pub group: Vec<String>,
    /// `--requestheader-extra-headers-prefix`.
    pub extra_prefix: Vec<String>,
}

/// The first of some headers that is not empty, and whether any is there.
fn first(headers: &http::HeaderMap, names: &[String]) -> Result<(String, bool), String> {
    let mut there = false;
    for name in names {
        if let Some(value) = single(headers, name)? {
            there = true;
            if !value.is_empty() {
                return Ok((value.to_owned(), true));
            }
        }
    }
    Ok((String::new(), there))
}

impl RequestHeader {
    fn read(&self, headers: &http::HeaderMap) -> Result<Option<UserInfo>, String> {
        let (name, there) = first(headers, &self.user)?;
        if name.is_empty() {
            return if there {
                Err("the user's header is empty".to_owned())
            } else {
                Ok(None)
            };
        }
        let mut user = UserInfo {
            name,
            uid: first(headers, &self.uid)?.0,
            ..UserInfo::default()
        };
        for name in &self.group {
            let groups = texts(headers, name)?.into_iter();
            user.groups
                .extend(groups.filter(|g| !g.is_empty()).map(str::to_owned));
        }
        for prefix in &self.extra_prefix {
            let prefix = prefix.to_ascii_lowercase();
            for key in headers.keys() {
                if let Some(rest) = key.as_str().strip_prefix(&prefix) {
                    let values = texts(headers, key.as_str())?;
                    user.extra
                        .entry(extra_key(rest))
                        .or_default()
                        .extend(values.into_iter().map(str::to_owned));
                }
            }
        }
        Ok(Some(user))
    }
}

#[async_trait]
impl Authenticator for RequestHeader {
    async fn authenticate(
        &self,
        peer: &Peer,
        headers: &http::HeaderMap,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        // Whoever is no proxy says nothing with these headers.
        if !self.alone && !self.user.iter().any(|n| headers.contains_key(n.as_str())) {
            return Ok(None);
        }
        match self.proxy.check(peer) {
            Ok(true) => self.read(headers).map_err(AuthenticationError),
            Ok(false) => Ok(None),
            Err(e) if self.alone => Err(e),
            Err(_) => Ok(None),
        }
    }
}
