//! Who may use a daemon's own port: the apiserver is asked (TokenReview, SubjectAccessReview).
//!
//! Health paths are open to everybody. Everything else needs a bearer token that the apiserver knows, and its user needs
//! the verb on the path as RBAC's non-resource rules have it. Answers are kept for ten seconds, at most 512 of them;
//! tokens are kept as hashes only.
//!
//! Absent: client certificates.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use component::serve::{Gate, Peer, Refusal};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::resource::Resource;
use crate::rest::Client;

const KEEP: Duration = Duration::from_secs(10);
const MOST: usize = 512;
const OPEN: [&str; 3] = ["/healthz", "/livez", "/readyz"];

static TOKEN_REVIEWS: Resource = Resource::new(
    "authentication.k8s.io",
    "v1",
    "tokenreviews",
    "TokenReview",
    false,
);
static ACCESS_REVIEWS: Resource = Resource::new(
    "authorization.k8s.io",
    "v1",
    "subjectaccessreviews",
    "SubjectAccessReview",
    false,
);

type Verdict = Result<(), Refusal>;
/// Two hashes of the token, and the verb with the path.
type Question = (u64, u64, String);

/// Asks the apiserver.
pub struct Delegated {
    client: Client,
    kept: Mutex<HashMap<Question, (Instant, Verdict)>>,
    hasher: std::hash::RandomState,
}

impl Delegated {
    /// Asks through `client`, whose user needs `system:auth-delegator`.
    pub fn new(client: Client) -> Delegated {
        Delegated {
            client,
            kept: Mutex::default(),
            hasher: std::hash::RandomState::new(),
        }
    }

    async fn ask(&self, token: &str, verb: &str, path: &str) -> Result<Verdict, crate::Error> {
        let review = json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {"token": token}});
        let answer: Value = self.client.api(&TOKEN_REVIEWS).create(&review).await?;
        if answer.pointer("/status/authenticated") != Some(&Value::Bool(true)) {
            return Ok(Err(refusal(401, "Unauthorized")));
        }
        let user = answer.pointer("/status/user").cloned().unwrap_or_default();
        let name = user
            .get("username")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let spec = json!({
            "user": name,
            "uid": user.get("uid").cloned().unwrap_or_else(|| "".into()),
            "groups": user.get("groups").cloned().unwrap_or_else(|| json!([])),
            "extra": user.get("extra").cloned().unwrap_or_else(|| json!({})),
            "nonResourceAttributes": {"path": path, "verb": verb},
        });
        let review = json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": spec});
        let answer: Value = self.client.api(&ACCESS_REVIEWS).create(&review).await?;
        if answer.pointer("/status/allowed") == Some(&Value::Bool(true)) {
            return Ok(Ok(()));
        }
        Ok(Err(refusal(
            403,
            &format!("forbidden: User {name:?} cannot {verb} path {path:?}"),
        )))
    }
}

fn refusal(code: u16, message: &str) -> Refusal {
    Refusal {
        code,
        message: message.to_owned(),
    }
}

#[async_trait]
impl Gate for Delegated {
    async fn check(&self, _: &Peer, request: &mut http::request::Parts) -> Result<(), Refusal> {
        use std::hash::BuildHasher;

        let path = request.uri.path();
        if OPEN.iter().any(|p| {
            path == *p
                || path
                    .strip_prefix(p)
                    .is_some_and(|rest| rest.starts_with('/'))
        }) {
            return Ok(());
        }
        let verb = request.method.as_str().to_ascii_lowercase();
        let token = request
            .headers
            .get(http::header::AUTHORIZATION)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.strip_prefix("Bearer "))
            .map(str::trim)
            .filter(|t| !t.is_empty());
        let Some(token) = token else {
            return Err(refusal(401, "Unauthorized"));
        };
        let key = (
            self.hasher.hash_one(token),
            self.hasher.hash_one((token, "second")),
            format!("{verb} {path}"),
        );
        let now = Instant::now();
        {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, verdict)) = kept.get(&key)
                && now.duration_since(*at) < KEEP
            {
                return verdict.clone();
            }
        }
        let verdict = match self.ask(token, &verb, path).await {
            Ok(v) => v,
            Err(error) => {
                tracing::warn!(%error, "Asking the apiserver about a request failed");
                return Err(refusal(500, "Internal Server Error"));
            }
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST {
            kept.clear();
        }
        kept.insert(key, (now, verdict.clone()));
        verdict
    }
}
