//! Bound service account tokens for projected volumes, kept until they are due for renewal.
//!
//! A token is renewed when 80% of its life or 24 hours have passed, with up to ten seconds of jitter (upstream's rule).
//! Tokens never reach a log; the cache drops them with their pod.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use client::Client;
use serde::Deserialize;
use serde_json::json;

use crate::pod::Pod;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Request {
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    token: String,
    expiration_timestamp: Option<client::Time>,
}

struct Cached {
    token: String,
    due: Instant,
    expires: Instant,
}

/// Tokens by pod UID, audience and lifetime.
pub struct TokenCache {
    client: Client,
    tokens: Mutex<HashMap<(String, String, i64), Cached>>,
}

impl TokenCache {
    /// An empty cache.
    pub fn new(client: Client) -> TokenCache {
        TokenCache {
            client,
            tokens: Mutex::default(),
        }
    }

    /// A token bound to the pod, and when to ask again. An old token that still holds is given when renewal fails.
    pub async fn get(
        &self,
        pod: &Pod,
        audience: &str,
        seconds: i64,
    ) -> Result<(String, Instant), String> {
        let key = (pod.metadata.uid.clone(), audience.to_string(), seconds);
        let now = Instant::now();
        let held = {
            let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            match tokens.get(&key) {
                Some(c) if c.due > now => return Ok((c.token.clone(), c.due)),
                Some(c) if c.expires > now => Some(c.token.clone()),
                _ => None,
            }
        };
        let sa = if pod.spec.service_account_name.is_empty() {
            "default"
        } else {
            &pod.spec.service_account_name
        };
        let audiences: Vec<&str> = if audience.is_empty() {
            Vec::new()
        } else {
            vec![audience]
        };
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": audiences,
                "expirationSeconds": seconds,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod.metadata.name, "uid": pod.metadata.uid},
            },
        });
        let api = self
            .client
            .namespaced(&client::resource::SERVICE_ACCOUNTS, &pod.metadata.namespace);
        let r = api
            .create_subresource::<Request, _>(sa, "token", &body)
            .await;
        let status = match (r, held) {
            (Ok(r), _) if !r.status.token.is_empty() => r.status,
            (Ok(_), _) => {
                return Err(format!(
                    "failed to fetch token: service account {sa:?}: the answer holds no token"
                ));
            }
            (Err(e), Some(token)) => {
                tracing::warn!(pod = %pod.key(), error = %e, "renewing a service account token failed; keeping the one held");
                return Ok((token, now + Duration::from_secs(10)));
            }
            (Err(e), None) => return Err(format!("failed to fetch token: {e}")),
        };
        let life = status
            .expiration_timestamp
            .map(|t| {
                Duration::from_secs(
                    u64::try_from(t.as_second() - jiff::Timestamp::now().as_second()).unwrap_or(0),
                )
            })
            .unwrap_or(Duration::from_secs(u64::try_from(seconds).unwrap_or(3600)));
        let due = now + renew_after(life, rand::random_range(0..10));
        self.tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(
                key,
                Cached {
                    token: status.token.clone(),
                    due,
                    expires: now + life,
                },
            );
        Ok((status.token, due))
    }

    /// Drops a pod's tokens.
    pub fn forget(&self, uid: &str) {
        self.tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(u, ..), _| u != uid);
    }
}

/// How long after issue a token is renewed.
fn renew_after(life: Duration, jitter_seconds: u64) -> Duration {
    let day = Duration::from_secs(24 * 3600);
    (life * 4 / 5)
        .min(day)
        .saturating_sub(Duration::from_secs(jitter_seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_comes_at_four_fifths_or_a_day() {
        assert_eq!(
            renew_after(Duration::from_secs(3600), 0),
            Duration::from_secs(2880)
        );
        assert_eq!(
            renew_after(Duration::from_secs(3600), 5),
            Duration::from_secs(2875)
        );
        assert_eq!(
            renew_after(Duration::from_secs(365 * 86400), 0),
            Duration::from_secs(86400)
        );
    }
}
