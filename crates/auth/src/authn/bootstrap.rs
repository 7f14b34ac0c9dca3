//! Bootstrap tokens: `<id>.<secret>`, kept as secrets in kube-system, for nodes that join.

use std::sync::Arc;

use api::reader::ObjectReader;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::cache::key;
use crate::{AuthenticationError, TokenAuthenticator, UserInfo};

/// See the module.
pub struct BootstrapTokens(pub Arc<dyn ObjectReader>);

fn parse(token: &str) -> Option<(&str, &str)> {
    let ok = |s: &str, n: usize| {
        s.len() == n
            && s.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    token
        .split_once('.')
        .filter(|(id, secret)| ok(id, 6) && ok(secret, 16))
}

fn data(secret: &Value, field: &str) -> String {
    let encoded = secret
        .pointer(&format!("/data/{field}"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    String::from_utf8(STANDARD.decode(encoded).unwrap_or_default()).unwrap_or_default()
}

/// Equal, in a time that does not depend on where they differ.
pub(crate) fn same(a: &str, b: &str) -> bool {
    let (a, b) = (key(&[a.as_bytes()]), key(&[b.as_bytes()]));
    a.iter().zip(&b).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}

#[async_trait]
impl TokenAuthenticator for BootstrapTokens {
    async fn authenticate_token(
        &self,
        token: &str,
        _: &[String],
    ) -> Result<Option<(UserInfo, Vec<String>)>, AuthenticationError> {
        let Some((id, secret)) = parse(token) else {
            return Ok(None);
        };
        let name = format!("bootstrap-token-{id}");
        let found = self.0.get("", "secrets", "kube-system", &name).await;
        let Some(s) = found.map_err(|e| AuthenticationError(e.message))? else {
            return Ok(None);
        };
        let gone = s
            .pointer("/metadata/deletionTimestamp")
            .is_some_and(|t| !t.is_null());
        if gone || s.get("type").and_then(Value::as_str) != Some("bootstrap.kubernetes.io/token") {
            return Ok(None);
        }
        if !same(&data(&s, "token-secret"), secret) || data(&s, "token-id") != id {
            return Ok(None);
        }
        let expiry = data(&s, "expiration");
        if !expiry.is_empty() {
            // An expiry that cannot be read counts as past.
            let past = expiry
                .parse::<jiff::Timestamp>()
                .map_or(true, |t| t <= jiff::Timestamp::now());
            if past {
                return Ok(None);
            }
        }
        if data(&s, "usage-bootstrap-authentication") != "true" {
            return Ok(None);
        }
        let mut groups = vec!["system:bootstrappers".to_owned()];
        for g in data(&s, "auth-extra-groups")
            .split(',')
            .map(str::trim)
            .filter(|g| !g.is_empty())
        {
            if !g.starts_with("system:bootstrappers:") {
                return Err(AuthenticationError(format!(
                    "bootstrap token {id} names a group outside system:bootstrappers"
                )));
            }
            groups.push(g.to_owned());
        }
        Ok(Some((
            UserInfo {
                name: format!("system:bootstrap:{id}"),
                groups,
                ..UserInfo::default()
            },
            Vec::new(),
        )))
    }
}
