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

/// `system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]`, as upstream.
fn is_bootstrap_group(group: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    group
        .strip_prefix("system:bootstrappers:")
        .is_some_and(|name| {
            (1..=256).contains(&name.len())
                && name.bytes().all(|b| plain(b) || b == b':' || b == b'-')
                && name.bytes().next_back().is_some_and(plain)
        })
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
            let past =
                api::time::seconds(&expiry).is_none_or(|t| t <= jiff::Timestamp::now().as_second());
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
            if !is_bootstrap_group(g) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use api::Status;
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use serde_json::json;

    struct One(Value);

    impl ObjectReader for One {
        fn get<'a>(
            &'a self,
            _: &'a str,
            resource: &'a str,
            ns: &'a str,
            name: &'a str,
        ) -> BoxFuture<'a, Result<Option<Arc<Value>>, Status>> {
            let ours = (resource, ns, name) == ("secrets", "kube-system", "bootstrap-token-abcdef");
            let found = ours.then(|| Arc::new(self.0.clone()));
            async move { Ok(found) }.boxed()
        }
        fn list<'a>(
            &'a self,
            _: &'a str,
            _: &'a str,
            _: &'a str,
        ) -> BoxFuture<'a, Result<Vec<Arc<Value>>, Status>> {
            async { Ok(Vec::new()) }.boxed()
        }
    }

    /// Identity: whatever is wrong with a token or with its secret leaves nobody.
    #[tokio::test]
    async fn a_token_is_good_only_with_all_of_its_secret() {
        const GOOD: &str = "abcdef.0123456789abcdef";
        let secret = |change: &dyn Fn(&mut Value)| {
            let mut all = json!({
                "token-id": "abcdef", "token-secret": "0123456789abcdef",
                "expiration": "2999-01-01T00:00:00Z", "usage-bootstrap-authentication": "true",
                "auth-extra-groups": "system:bootstrappers:a, system:bootstrappers:b:2",
            });
            change(&mut all);
            let data: serde_json::Map<String, Value> = all
                .as_object()
                .unwrap()
                .iter()
                .map(|(k, v)| (k.clone(), STANDARD.encode(v.as_str().unwrap()).into()))
                .collect();
            json!({"type": "bootstrap.kubernetes.io/token", "data": data})
        };
        async fn ask(secret: Value, token: &str) -> Option<UserInfo> {
            let tokens = BootstrapTokens(Arc::new(One(secret)));
            let answer = tokens.authenticate_token(token, &[]).await;
            answer.ok().flatten().map(|(user, _)| user)
        }
        let user = ask(secret(&|_| {}), GOOD).await.unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(
            user.groups,
            [
                "system:bootstrappers",
                "system:bootstrappers:a",
                "system:bootstrappers:b:2"
            ]
        );
        for token in [
            "abcdef.0123456789abcdee",
            "abcdee.0123456789abcdef",
            "abcdef.0123456789abcde",
            "abcdef.0123456789abcdef0",
            "abcde.0123456789abcdef",
            "ABCDEF.0123456789abcdef",
            "abcdef.0123456789ABCDEF",
            "abcdef",
            "",
        ] {
            assert_eq!(ask(secret(&|_| {}), token).await, None, "{token}");
        }
        for (key, value) in [
            ("token-id", "abcdee"),
            ("token-secret", "0123456789abcdee"),
            ("token-secret", ""),
            ("expiration", "2020-01-01T00:00:00Z"),
            ("expiration", "soon"),
            ("usage-bootstrap-authentication", "True"),
            ("usage-bootstrap-authentication", ""),
            ("auth-extra-groups", "system:masters"),
            ("auth-extra-groups", "system:bootstrappers:"),
            ("auth-extra-groups", "system:bootstrappers:a-"),
            ("auth-extra-groups", "system:bootstrappers:A"),
            ("auth-extra-groups", "system:bootstrappers:a b"),
        ] {
            let wrong = secret(&|all| all[key] = value.into());
            assert_eq!(ask(wrong, GOOD).await, None, "{key} {value}");
        }
        let mut gone = secret(&|_| {});
        gone["metadata"] = json!({"deletionTimestamp": "2020-01-01T00:00:00Z"});
        assert_eq!(ask(gone, GOOD).await, None);
        let mut other = secret(&|_| {});
        other["type"] = "Opaque".into();
        assert_eq!(ask(other, GOOD).await, None);
    }
}
