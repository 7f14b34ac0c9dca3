//! legacy-serviceaccount-token-cleaner-controller: tokens in Secrets that were made for service accounts automatically, as
//! clusters before 1.24 did, are marked invalid when nobody has used them for `--legacy-service-account-token-clean-up-period`,
//! and deleted when they have been invalid for as long.
//!
//! Nothing is done before the apiserver has kept track of tokens' use for that long. A Secret that its account does not refer
//! to was made by somebody, and stays; so does one that a pod mentions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::resource::{CONFIG_MAPS, PODS, SECRETS, SERVICE_ACCOUNTS};
use client::{DeleteOptions, ListOptions, ObjectKey, Patch, Store, Time};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::context::{Context, Failures};
use crate::service_account_tokens::{TokenSecret, secrets};
use crate::views::{ConfigMap, ServiceAccount};

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
/// How often Secrets are looked through: what they are judged by are days.
const INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Pods in an answer.
const PAGE: u32 = 500;

/// A day as labels have it.
fn day(text: &str) -> Option<Date> {
    text.parse().ok().filter(|_| text.len() == 10)
}

/// What becomes of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Its token is refused from now on, of this day.
    Mark(String),
    Delete,
}

/// The two moments that Secrets are judged by: they stay when they were made, used or marked since.
struct Judge {
    today: String,
    since: Time,
    day: String,
}

impl Judge {
    /// `None` when use has not been tracked for as long as a token may be unused.
    fn new(now: Time, tracked: Date, period: Duration) -> Option<Judge> {
        let period = jiff::SignedDuration::try_from(period).ok()?;
        let since = now.checked_add(-period).ok()?;
        let print = |t: Time| t.strftime("%Y-%m-%d").to_string();
        // It began at some time of its day.
        let began = tracked.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok()?;
        let enough = began.timestamp().as_second() <= since.as_second();
        enough.then(|| Judge {
            today: print(now),
            since,
            day: print(since),
        })
    }

    /// Whether nothing but a pod can keep the Secret.
    fn is_unused(&self, secret: &TokenSecret, account: Option<&ServiceAccount>) -> bool {
        let m = &secret.metadata;
        let young = m.creation_timestamp.is_some_and(|t| t >= self.since);
        // A label that is no day tells nothing.
        let used = m.labels.get(LAST_USED);
        let used = used.is_some_and(|d| day(d).is_none() || *d >= self.day);
        let refers = |a: &ServiceAccount| {
            secret.is_of(&a.metadata.uid) && a.secrets.iter().any(|s| s.name == m.name)
        };
        !young && !used && !m.is_deleting() && account.is_some_and(refers)
    }

    fn step(&self, secret: &TokenSecret) -> Option<Step> {
        let marked = secret.metadata.labels.get(INVALID_SINCE);
        match marked.filter(|d| day(d).is_some()) {
            None => Some(Step::Mark(self.today.clone())),
            Some(d) => (*d < self.day).then_some(Step::Delete),
        }
    }
}

/// The names of Secrets that a pod mentions, wherever it may.
fn mentioned(value: &Value, names: &mut HashSet<String>) {
    let mut note = |v: &Value| {
        if let Some(name) = v.as_str().or_else(|| v.get("name")?.as_str()) {
            names.insert(name.to_owned());
        }
    };
    match value {
        Value::Object(o) => {
            for (key, v) in o {
                match key.as_str() {
                    "imagePullSecrets" => v.as_array().into_iter().flatten().for_each(&mut note),
                    // `secret` is one of a projected volume; `secretRef` and its kin have names in front.
                    "secretName" | "secret" | "secretKeyRef" => note(v),
                    key if key.ends_with("ecretRef") => note(v),
                    _ => {}
                }
            }
            o.values().for_each(|v| mentioned(v, names));
        }
        Value::Array(a) => a.iter().for_each(|v| mentioned(v, names)),
        _ => {}
    }
}

struct Cleaner {
    ctx: Context,
    accounts: Store<ServiceAccount>,
    secrets: Store<TokenSecret>,
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let accounts = ctx.informer::<ServiceAccount>(&SERVICE_ACCOUNTS).store();
    let secrets = secrets(&ctx).store();
    let queue = ctx.queue("legacy_service_account_token_cleaner");
    queue.add(ObjectKey::default());
    let it = Arc::new(Cleaner {
        accounts,
        secrets,
        ctx: ctx.clone(),
    });
    ctx.run(queue, 1, move |_| {
        let it = it.clone();
        async move {
            if let Err(error) = it.clean(Time::now()).await {
                tracing::warn!(%error, "Unused tokens of service accounts stay for now");
            }
            Ok::<_, client::Error>(Some(INTERVAL))
        }
    });
}

impl Cleaner {
    /// The day since which the apiserver has kept track.
    async fn tracked(&self) -> Result<Option<Date>, client::Error> {
        let api = self.ctx.client.namespaced(&CONFIG_MAPS, "kube-system");
        match api.get::<ConfigMap>(TRACKING).await {
            Ok(map) => Ok(map.data.get("since").and_then(|d| day(d))),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn mentioned_in(&self, namespace: &str) -> Result<HashSet<String>, client::Error> {
        // The controller's own account may not read pods.
        let api = self.ctx.informers.client().namespaced(&PODS, namespace);
        let mut names = HashSet::new();
        let mut options = ListOptions {
            limit: PAGE,
            ..ListOptions::default()
        };
        loop {
            let page = api.list_values(&options).await?;
            for pod in &page.items {
                mentioned(pod.get("spec").unwrap_or(&Value::Null), &mut names);
            }
            if page.continue_.is_empty() {
                return Ok(names);
            }
            options.continue_ = page.continue_;
        }
    }

    async fn clean(&self, now: Time) -> Result<(), client::Error> {
        let period = self.ctx.config.legacy_token_period;
        let tracked = self.tracked().await?;
        let Some(judge) = tracked.and_then(|t| Judge::new(now, t, period)) else {
            return Ok(());
        };
        let mut pods: HashMap<String, HashSet<String>> = HashMap::new();
        let mut failures = Failures::default();
        for secret in self.secrets.list() {
            let account = secret
                .account()
                .and_then(|(key, _)| self.accounts.get_key(&key));
            if !judge.is_unused(&secret, account.as_deref()) {
                continue;
            }
            let Some(step) = judge.step(&secret) else {
                continue;
            };
            let namespace = &secret.metadata.namespace;
            if !pods.contains_key(namespace) {
                match self.mentioned_in(namespace).await {
                    Ok(names) => {
                        pods.insert(namespace.clone(), names);
                    }
                    Err(e) => {
                        failures.note(Err(e));
                        continue;
                    }
                }
            }
            let names = pods.get(namespace);
            if names.is_none_or(|n| !n.contains(&secret.metadata.name)) {
                failures.note(self.act(&secret, step).await);
            }
        }
        failures.end()
    }

    async fn act(&self, secret: &TokenSecret, step: Step) -> Result<(), client::Error> {
        let m = &secret.metadata;
        let api = self.ctx.client.namespaced(&SECRETS, &m.namespace);
        let done = match step {
            Step::Mark(today) => {
                tracing::info!(
                    namespace = m.namespace,
                    secret = m.name,
                    "Marking an unused token as invalid"
                );
                let labels = json!({INVALID_SINCE: today});
                let patch = Patch::Merge(json!({"metadata": {"uid": m.uid, "labels": labels}}));
                let patched = api.patch::<serde::de::IgnoredAny>(&m.name, &patch);
                patched.await.map(drop)
            }
            Step::Delete => {
                tracing::info!(
                    namespace = m.namespace,
                    secret = m.name,
                    "Deleting an unused token"
                );
                let only = DeleteOptions {
                    resource_version: Some(m.resource_version.clone()),
                    ..DeleteOptions::default()
                };
                api.delete(&m.name, &only).await
            }
        };
        match done {
            Err(e) if e.is_conflict() || e.is_not_found() => Ok(()),
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    fn at(text: &str) -> Time {
        serde_json::from_value(json!(text)).unwrap()
    }

    #[test]
    fn use_is_tracked_for_as_long_as_a_token_may_be_unused() {
        let judge = |since: &str| Judge::new(at("2025-06-15T12:00:00Z"), day(since).unwrap(), YEAR);
        assert!(judge("2024-06-13").is_some() && judge("2024-06-14").is_some());
        assert!(
            judge("2024-06-15").is_none(),
            "it began at some time of that day"
        );
        assert!(judge("2025-06-15").is_none() && judge("2026-01-01").is_none());
        let judge = judge("2020-01-01").unwrap();
        assert_eq!(
            (judge.today.as_str(), judge.day.as_str()),
            ("2025-06-15", "2024-06-15")
        );
        assert!(
            Judge::new(
                at("2025-06-15T12:00:00Z"),
                day("2020-01-01").unwrap(),
                Duration::MAX
            )
            .is_none()
        );
        assert!(
            day("2020-1-1").is_none()
                && day("20200101").is_none()
                && day("2020-01-32").is_none()
                && day("").is_none()
        );
    }

    #[test]
    fn unused_tokens_are_marked_and_then_deleted() {
        let judge =
            Judge::new(at("2025-06-15T12:00:00Z"), day("2020-01-01").unwrap(), YEAR).unwrap();
        let account = |uid: &str, secret: &str| -> ServiceAccount {
            serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "ns", "uid": uid}, "secrets": [{"name": secret}]})).unwrap()
        };
        let (own, other, plain) = (
            account("u", "s"),
            account("before", "s"),
            account("u", "other"),
        );
        let old = "2024-01-01T00:00:00Z";
        let mark = || Some(Step::Mark("2025-06-15".into()));
        for (name, made, labels, account, want) in [
            ("never used", old, json!({}), Some(&own), mark()),
            ("young", "2024-06-15T12:00:00Z", json!({}), Some(&own), None),
            (
                "just old enough",
                "2024-06-15T11:59:59Z",
                json!({}),
                Some(&own),
                mark(),
            ),
            (
                "used long ago",
                old,
                json!({LAST_USED: "2024-06-14"}),
                Some(&own),
                mark(),
            ),
            (
                "used since",
                old,
                json!({LAST_USED: "2024-06-15"}),
                Some(&own),
                None,
            ),
            (
                "a day that is none",
                old,
                json!({LAST_USED: "yesterday"}),
                Some(&own),
                None,
            ),
            ("no account", old, json!({}), None, None),
            (
                "another account of that name",
                old,
                json!({}),
                Some(&other),
                None,
            ),
            ("made by somebody", old, json!({}), Some(&plain), None),
            (
                "marked long ago",
                old,
                json!({INVALID_SINCE: "2024-06-14"}),
                Some(&own),
                Some(Step::Delete),
            ),
            (
                "marked since",
                old,
                json!({INVALID_SINCE: "2024-06-15"}),
                Some(&own),
                None,
            ),
            (
                "marked, a day that is none",
                old,
                json!({INVALID_SINCE: "x"}),
                Some(&own),
                mark(),
            ),
            (
                "marked long ago, used since",
                old,
                json!({INVALID_SINCE: "2024-06-14", LAST_USED: "2025-06-14"}),
                Some(&own),
                None,
            ),
        ] {
            let secret = |deleted: Value| -> TokenSecret {
                serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "ns", "creationTimestamp": made, "labels": labels,
                    "deletionTimestamp": deleted, "annotations": {
                        "kubernetes.io/service-account.name": "a", "kubernetes.io/service-account.uid": "u"}}})).unwrap()
            };
            let s = secret(Value::Null);
            let got = judge
                .is_unused(&s, account)
                .then(|| judge.step(&s))
                .flatten();
            assert_eq!(got, want, "{name}");
            assert!(!judge.is_unused(&secret(json!(old)), account), "{name}");
        }
    }

    #[test]
    fn pods_mention_secrets_in_many_places() {
        let mut names = HashSet::new();
        mentioned(
            &json!({
                "imagePullSecrets": [{"name": "pull"}],
                "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "key", "key": "x"}}}, {"name": "plain", "value": "secret"}],
                    "envFrom": [{"secretRef": {"name": "env"}}, {"configMapRef": {"name": "map"}}]}],
                "volumes": [
                    {"name": "v", "secret": {"secretName": "volume"}},
                    {"name": "p", "projected": {"sources": [{"secret": {"name": "projected"}}]}},
                    {"name": "a", "azureFile": {"secretName": "azure"}},
                    {"name": "c", "csi": {"nodePublishSecretRef": {"name": "csi"}}},
                    {"name": "f", "flexVolume": {"secretRef": {"name": "flex"}}},
                ],
            }),
            &mut names,
        );
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort();
        assert_eq!(
            names,
            [
                "azure",
                "csi",
                "env",
                "flex",
                "key",
                "projected",
                "pull",
                "volume"
            ]
        );
    }
}
