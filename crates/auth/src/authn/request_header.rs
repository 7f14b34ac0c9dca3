//! `X-Remote-User` and its like, from a front proxy that shows its certificate.

use async_trait::async_trait;

use super::x509::Verified;
use crate::{AuthenticationError, Authenticator, Peer, UserInfo};

/// See the module.
pub struct RequestHeader {
    /// The proxy.
    pub proxy: Verified,
    /// `--requestheader-username-headers`.
    pub user: Vec<String>,
    /// `--requestheader-uid-headers`.
    pub uid: Vec<String>,
    /// `--requestheader-group-headers`.
    pub group: Vec<String>,
    /// `--requestheader-extra-headers-prefix`.
    pub extra_prefix: Vec<String>,
}

fn first(headers: &http::HeaderMap, names: &[String]) -> String {
    let found = names.iter().find_map(|n| {
        headers
            .get(n.as_str())?
            .to_str()
            .ok()
            .filter(|v| !v.is_empty())
    });
    found.unwrap_or_default().to_owned()
}

fn unescape(s: &str) -> String {
    let mut out = Vec::new();
    let mut rest = s.as_bytes();
    while let Some((b, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .and_then(|h| std::str::from_utf8(h).ok())
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match (b, hex) {
            (b'%', Some(v)) => {
                out.push(v);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(*b);
                rest = tail;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| s.to_owned())
}

#[async_trait]
impl Authenticator for RequestHeader {
    async fn authenticate(
        &self,
        peer: &Peer,
        headers: &http::HeaderMap,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        let name = first(headers, &self.user);
        // A client that is no proxy sends no such header: its certificate is another authority's business.
        if name.is_empty() || !self.proxy.check(peer)? {
            return Ok(None);
        }
        let mut user = UserInfo {
            name,
            uid: first(headers, &self.uid),
            ..UserInfo::default()
        };
        for g in &self.group {
            user.groups.extend(
                headers
                    .get_all(g.as_str())
                    .iter()
                    .filter_map(|v| v.to_str().ok())
                    .map(str::to_owned),
            );
        }
        for key in headers.keys() {
            for prefix in &self.extra_prefix {
                if let Some(rest) = key.as_str().strip_prefix(&prefix.to_ascii_lowercase()) {
                    let values = headers
                        .get_all(key)
                        .iter()
                        .filter_map(|v| v.to_str().ok())
                        .map(str::to_owned);
                    user.extra
                        .entry(unescape(rest).to_lowercase())
                        .or_default()
                        .extend(values);
                }
            }
        }
        Ok(Some(user))
    }
}
