//! Asking the apiserver who somebody is (TokenReview) and what they may (SubjectAccessReview).
//!
//! Whoever reaches a daemon's port can make it ask, without credentials. So the questions have connections and a rate of
//! their own, and never hold up what the daemon itself has to say; as many as [`AT_ONCE`] are asked at a time, shared out
//! by the address they come from; the rest waits in a bounded queue or is turned away; a wait that is given up leaves
//! nothing behind. Answers are kept, the good ones apart from the bad, so that made-up tokens push nobody out. Tokens are
//! kept as digests only.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use auth::{Attributes, UserInfo};
use component::places::{Level, Places};
use component::serve::Peer;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::resource::{SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS};
use crate::rest::{Client, Options};

/// Questions of each kind that are open at once.
pub const AT_ONCE: usize = 16;
/// Questions of each kind that wait, at most; half of them are one address's.
const WAITING: usize = 128;
/// How long a question may take, waiting included. Source: upstream's `TokenRequestTimeout`.
const TIME: Duration = Duration::from_secs(10);
/// Answers kept of each kind.
const KEPT: usize = 4096;

/// How long answers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// About tokens, good and bad.
    pub token: Duration,
    /// That something is allowed.
    pub allowed: Duration,
    /// That it is not.
    pub denied: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Too many ask.
    #[error("too many requests wait for the apiserver")]
    Full,
    /// The apiserver.
    #[error(transparent)]
    Failed(#[from] Error),
}

type Digest = [u8; 32];

fn key(text: &[u8]) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, text).as_ref());
    out
}

/// Answers until their time is over. A full one forgets what would end next.
struct Answers<V>(Mutex<HashMap<Digest, (V, Instant)>>);

impl<V: Clone> Answers<V> {
    fn new() -> Answers<V> {
        Answers(Mutex::default())
    }

    fn get(&self, key: &Digest) -> Option<V> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (value, end) = all.get(key)?;
        (*end > Instant::now()).then(|| value.clone())
    }

    fn keep(&self, key: Digest, value: V, time: Duration) {
        if time.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEPT && !all.contains_key(&key) {
            all.retain(|_, (_, end)| *end > now);
            // A quarter goes at once, so that this is not done for every answer.
            if all.len() >= KEPT {
                let mut ends: Vec<Instant> = all.values().map(|(_, end)| *end).collect();
                let (_, median, _) = ends.select_nth_unstable(KEPT / 4);
                let median = *median;
                all.retain(|_, (_, end)| *end > median);
            }
        }
        all.insert(key, (value, now + time));
    }
}

/// See the module.
pub struct Reviews {
    client: Client,
    times: Times,
    places: Arc<Places>,
    known: Answers<UserInfo>,
    unknown: Answers<()>,
    allowed: Answers<()>,
    denied: Answers<String>,
}

const TOKENS: usize = 0;
const ACCESS: usize = 1;
const ACCESS_OF_NOBODY: usize = 2;

fn from(peer: &Peer) -> String {
    peer.address
        .map_or_else(String::new, |a| IpAddr::to_canonical(&a.ip()).to_string())
}

impl Reviews {
    /// Asks with the credentials of `client`, over connections of its own. Its user needs `system:auth-delegator`.
    ///
    /// # Errors
    /// When the credentials cannot be read.
    pub async fn new(client: &Client, times: Times) -> Result<Reviews> {
        // Source: upstream's delegating options.
        let client = client
            .apart(Options {
                qps: 200.0,
                burst: 400,
                timeout: Some(TIME),
                ..client.options()
            })
            .await?;
        let level = |name| Level {
            name,
            own: AT_ONCE,
            pooled: false,
            per_user: AT_ONCE / 2,
            queue: WAITING,
            queue_per_user: WAITING / 2,
        };
        let levels = vec![level("tokens"), level("access"), level("access of nobody")];
        Ok(Reviews {
            client,
            times,
            places: Places::new(levels, 0),
            known: Answers::new(),
            unknown: Answers::new(),
            allowed: Answers::new(),
            denied: Answers::new(),
        })
    }

    async fn in_turn<T>(
        &self,
        level: usize,
        from: &str,
        kept: impl Fn() -> Option<T>,
        ask: impl Future<Output = Result<T>>,
    ) -> Result<T, Trouble> {
        let turn = async {
            let _place = self
                .places
                .enter(level, from)
                .await
                .map_err(|_| Trouble::Full)?;
            // Another may have asked the same meanwhile.
            match kept() {
                Some(answer) => Ok(answer),
                None => Ok(ask.await?),
            }
        };
        match tokio::time::timeout(TIME, turn).await {
            Ok(answer) => answer,
            Err(_) => Err(Trouble::Full),
        }
    }

    /// Whose token this is; `None`: nobody's.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn user(&self, peer: &Peer, token: &str) -> Result<Option<UserInfo>, Trouble> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Review {
            status: Answer,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Answer {
            authenticated: bool,
            user: User,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct User {
            username: String,
            uid: String,
            groups: Vec<String>,
            extra: std::collections::BTreeMap<String, Vec<String>>,
        }
        let key = key(token.as_bytes());
        let kept = || match self.known.get(&key) {
            Some(user) => Some(Some(user)),
            None => self.unknown.get(&key).map(|()| None),
        };
        if let Some(answer) = kept() {
            return Ok(answer);
        }
        let ask = async {
            let review = json!({
                "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token},
            });
            let review: Review = self.client.api(&TOKEN_REVIEWS).create(&review).await?;
            let answer = review.status;
            if !answer.authenticated {
                self.unknown.keep(key, (), self.times.token);
                return Ok(None);
            }
            let user = UserInfo {
                name: answer.user.username,
                uid: answer.user.uid,
                groups: answer.user.groups,
                extra: answer.user.extra,
            };
            self.known.keep(key, user.clone(), self.times.token);
            Ok(Some(user))
        };
        self.in_turn(TOKENS, &from(peer), kept, ask).await
    }

    /// Whether it is allowed; `Err` of the inner result is the reason.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn allowed(
        &self,
        peer: &Peer,
        ask: &Attributes,
    ) -> Result<Result<(), String>, Trouble> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Review {
            status: Answer,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Answer {
            allowed: bool,
            reason: String,
        }
        let spec = spec(ask);
        let key = key(spec.to_string().as_bytes());
        let kept = || match self.allowed.get(&key) {
            Some(()) => Some(Ok(())),
            None => self.denied.get(&key).map(Err),
        };
        if let Some(answer) = kept() {
            return Ok(answer);
        }
        let question = async {
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec,
            });
            let api = self.client.api(&SUBJECT_ACCESS_REVIEWS);
            let review: Review = api.create(&review).await?;
            if review.status.allowed {
                self.allowed.keep(key, (), self.times.allowed);
                return Ok(Ok(()));
            }
            let reason = review.status.reason;
            self.denied.keep(key, reason.clone(), self.times.denied);
            Ok(Err(reason))
        };
        let (level, who) = if ask.user.name == auth::ANONYMOUS {
            (ACCESS_OF_NOBODY, from(peer))
        } else {
            (ACCESS, ask.user.name.clone())
        };
        self.in_turn(level, &who, kept, question).await
    }
}

fn spec(a: &Attributes) -> Value {
    let mut spec = json!({
        "user": a.user.name,
        "uid": a.user.uid,
        "groups": a.user.groups,
        "extra": a.user.extra,
    });
    let (key, what) = if a.is_resource {
        (
            "resourceAttributes",
            json!({
                "verb": a.verb, "namespace": a.namespace, "group": a.group, "version": a.version,
                "resource": a.resource, "subresource": a.subresource, "name": a.name,
            }),
        )
    } else {
        (
            "nonResourceAttributes",
            json!({"path": a.path, "verb": a.verb}),
        )
    };
    if let Some(map) = spec.as_object_mut() {
        map.insert(key.to_owned(), what);
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_are_bounded_and_end() {
        let answers = Answers::new();
        let minute = Duration::from_secs(60);
        let name = |n: usize| key(&n.to_le_bytes());
        for n in 0..3 * KEPT {
            answers.keep(name(n), n, minute);
            tokio::time::advance(Duration::from_micros(1)).await;
            assert!(answers.0.lock().unwrap().len() <= KEPT);
        }
        assert_eq!(answers.get(&name(0)), None, "the oldest went");
        assert_eq!(answers.get(&name(3 * KEPT - 1)), Some(3 * KEPT - 1));
        tokio::time::advance(minute).await;
        assert_eq!(answers.get(&name(3 * KEPT - 1)), None);
    }
}
