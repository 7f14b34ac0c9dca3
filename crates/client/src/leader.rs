//! Leader election on a Lease, compatible with client-go's: candidates of both can compete for one lease.
//!
//! Invariant: the work runs only while this process holds the lease; it is cancelled when the lease could not be renewed
//! within the renew deadline, which ends before another candidate may take over.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use component::Shutdown;
use component::health::{Checks, Latch};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::events::{EventType, ObjectReference, Recorder};
use crate::resource::LEASES;
use crate::rest::Client;
use crate::view::{Time, print_micro_time};

/// Which lease, and how it is held.
#[derive(Clone, Debug)]
pub struct LeaderConfig {
    /// Namespace of the lease.
    pub namespace: String,
    /// Name of the lease.
    pub name: String,
    /// Unique name of this candidate, such as `HOST_UUID`.
    pub identity: String,
    /// How long others wait before they take over.
    pub lease_duration: Duration,
    /// How long the leader tries to renew before it gives up; shorter than the lease's duration.
    pub renew_deadline: Duration,
    /// Time between tries.
    pub retry_period: Duration,
    /// Told how the election goes.
    pub election: Election,
}

#[derive(Clone, Copy, Debug, Default)]
enum Standing {
    /// The lease was not seen yet.
    #[default]
    Unknown,
    /// Another holds it.
    Waiting,
    /// Held by this process, and last renewed then.
    Leading(Instant),
}

/// How an election goes, for health checks. Clones are of the same election.
#[derive(Clone, Debug, Default)]
pub struct Election(Arc<Mutex<Standing>>);

/// What a daemon fills before it works, as its check of readiness tells it.
#[derive(Clone, Copy, Debug)]
pub struct Filled {
    /// The check.
    pub name: &'static str,
    /// Why it fails.
    pub not_yet: &'static str,
}

impl Election {
    fn set(&self, standing: Standing) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }

    fn get(&self) -> Standing {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Upstream's check `leaderElection`: fails while a leader goes on that could not renew `lease` in time.
    fn check(&self, lease: &str, lease_duration: Duration) -> Result<(), String> {
        match self.get() {
            Standing::Leading(at) if at.elapsed() > lease_duration + TOLERATED => Err(format!(
                "failed election to renew leadership on lease {lease}"
            )),
            _ => Ok(()),
        }
    }

    /// `/healthz`, `/livez` and `/readyz` of a daemon that works while it holds a lease (its name and duration), or without
    /// one at once. It is ready when `synced` tells that its caches are filled. One that stands by is ready too: it fills
    /// nothing before it leads, where upstream's has filled its caches and waits.
    pub fn checks(
        &self,
        lease: Option<(&str, Duration)>,
        synced: &Latch,
        filled: Filled,
        shutdown: &Shutdown,
    ) -> Vec<Checks> {
        let leads = |checks: Checks| match lease {
            None => checks,
            Some((name, duration)) => {
                let (election, name) = (self.clone(), name.to_owned());
                checks.with("leaderElection", move || election.check(&name, duration))
            }
        };
        let ready = {
            let (election, synced) = (self.clone(), synced.clone());
            move || match synced.is_set() || matches!(election.get(), Standing::Waiting) {
                true => Ok(()),
                false => Err(filled.not_yet.to_owned()),
            }
        };
        let healthz = match lease {
            Some(_) => leads(Checks::new("healthz")),
            None => Checks::new("healthz").ok("ping"),
        };
        vec![
            healthz,
            Checks::new("livez").ok("ping"),
            leads(Checks::new("readyz"))
                .until(shutdown)
                .with(filled.name, ready),
        ]
    }
}

/// How long past its end a lease may be. Source: upstream's timeout of the leader health adaptor.
const TOLERATED: Duration = Duration::from_secs(20);

impl LeaderConfig {
    /// With upstream's periods: 15 s, 10 s and 2 s.
    pub fn new(
        namespace: impl Into<String>,
        name: impl Into<String>,
        identity: impl Into<String>,
    ) -> LeaderConfig {
        LeaderConfig {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            election: Election::default(),
        }
    }

    /// Whether the periods can work together.
    ///
    /// # Errors
    /// What has to be greater.
    pub fn check(&self) -> Result<(), String> {
        // Retries are spread by up to this factor.
        const JITTER: f64 = 1.2;
        for (name, period) in [
            ("leaseDuration", self.lease_duration),
            ("renewDeadline", self.renew_deadline),
            ("retryPeriod", self.retry_period),
        ] {
            if period.is_zero() {
                return Err(format!("{name} must be greater than zero"));
            }
        }
        if self.lease_duration <= self.renew_deadline {
            return Err("leaseDuration must be greater than renewDeadline".into());
        }
        if self.renew_deadline <= self.retry_period.mul_f64(JITTER) {
            return Err("renewDeadline must be greater than retryPeriod*JitterFactor".into());
        }
        Ok(())
    }
}

/// The lease was lost while the work was running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("leaderelection lost")]
pub struct Lost;

/// The spec of a lease, made where there is none: somebody may have made the lease without.
fn spec_of(lease: &mut Value) -> Option<&mut Map<String, Value>> {
    let lease = lease.as_object_mut()?;
    let spec = lease.entry("spec").or_insert_with(|| json!({}));
    if !spec.is_object() {
        *spec = json!({});
    }
    spec.as_object_mut()
}

struct Elector {
    client: Client,
    config: LeaderConfig,
    /// The lease as last seen, and when it was first seen so.
    observed: Option<(Value, Instant)>,
}

/// Waits for the lease, then runs `work` with a token that is cancelled when the lease is lost or `shutdown` is asked for.
/// On shutdown the work is awaited and the lease released. Returns `Ok` after shutdown or when the work ended.
pub async fn lead<F, Fut>(
    client: Client,
    config: LeaderConfig,
    recorder: Recorder,
    shutdown: CancellationToken,
    work: F,
) -> Result<(), Lost>
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = ()>,
{
    let lease = format!("{}/{}", config.namespace, config.name);
    tracing::info!(lock = %lease, "Attempting to acquire leader lease...");
    let mut elector = Elector {
        client,
        config,
        observed: None,
    };
    loop {
        let tried = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            tried = elector.try_hold() => tried,
        };
        if tried {
            break;
        }
        let wait = elector
            .config
            .retry_period
            .mul_f64(1.0 + rand::random_range(0.0..1.2));
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
    tracing::info!(lock = %lease, "Successfully acquired lease");
    elector.record(&recorder, "became leader");
    let stop = shutdown.child_token();
    let mut work = std::pin::pin!(work(stop.clone()));
    let (ended, lost) = tokio::select! {
        () = &mut work => (true, false),
        () = shutdown.cancelled() => (false, false),
        () = elector.renew() => (false, true),
    };
    elector.record(&recorder, "stopped leading");
    stop.cancel();
    if lost {
        tracing::error!(lock = %lease, "leaderelection lost");
        return Err(Lost);
    }
    // The lease is kept while the work ends, and given up only then.
    if !ended {
        tokio::select! {
            () = &mut work => {}
            () = elector.renew() => return Err(Lost),
        }
    }
    elector.release().await;
    Ok(())
}

impl Elector {
    fn record(&self, recorder: &Recorder, what: &str) {
        let uid = self
            .observed
            .as_ref()
            .and_then(|(l, _)| l.pointer("/metadata/uid"))
            .and_then(Value::as_str);
        let lease = ObjectReference {
            kind: "Lease".into(),
            api_version: "coordination.k8s.io/v1".into(),
            namespace: self.config.namespace.clone(),
            name: self.config.name.clone(),
            uid: uid.unwrap_or_default().to_owned(),
            ..ObjectReference::default()
        };
        recorder.event(
            lease,
            EventType::Normal,
            "LeaderElection",
            format!("{} {what}", self.config.identity),
        );
    }

    /// Renews until that fails for longer than the deadline.
    async fn renew(&mut self) {
        loop {
            tokio::time::sleep(self.config.retry_period).await;
            let deadline = Instant::now() + self.config.renew_deadline;
            loop {
                match tokio::time::timeout_at(deadline, self.try_hold()).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(_) => return,
                }
                if Instant::now() + self.config.retry_period > deadline {
                    return;
                }
                tokio::time::sleep(self.config.retry_period).await;
            }
        }
    }

    fn holder(lease: &Value) -> &str {
        lease
            .pointer("/spec/holderIdentity")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    fn observe(&mut self, lease: Value) {
        let same = self
            .observed
            .as_ref()
            .is_some_and(|(old, _)| old.get("spec") == lease.get("spec"));
        match (&mut self.observed, same) {
            (Some((old, _)), true) => *old = lease,
            _ => self.observed = Some((lease, Instant::now())),
        }
    }

    /// Takes the lease or renews it. Whatever fails is tried again later.
    async fn try_hold(&mut self) -> bool {
        match self.hold().await {
            Ok(held) => {
                self.config.election.set(match held {
                    true => Standing::Leading(Instant::now()),
                    false => Standing::Waiting,
                });
                held
            }
            Err(error) => {
                tracing::info!(lock = %self.config.name, %error, "lease not acquired or renewed");
                false
            }
        }
    }

    async fn hold(&mut self) -> Result<bool, Error> {
        let client = self.client.clone();
        let namespace = self.config.namespace.clone();
        let api = client.namespaced(&LEASES, &namespace);
        let held = self
            .observed
            .as_ref()
            .is_some_and(|(l, _)| Self::holder(l) == self.config.identity);
        // The leader writes over what it last wrote; only a conflict makes it look again.
        if held
            && let Some((lease, _)) = &self.observed
            && let Ok(new) = api
                .update::<Value, _>(&self.config.name, &self.renewed(lease, Time::now()))
                .await
        {
            self.observe(new);
            return Ok(true);
        }
        let lease = match api.get_value(&self.config.name).await {
            Ok(lease) => lease,
            Err(e) if e.is_not_found() => {
                let now = print_micro_time(Time::now());
                let lease = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": self.config.name, "namespace": self.config.namespace},
                    "spec": {
                        "holderIdentity": self.config.identity,
                        "leaseDurationSeconds": self.config.lease_duration.as_secs(),
                        "acquireTime": now, "renewTime": now, "leaseTransitions": 0,
                    },
                });
                let made = api.create::<Value, _>(&lease).await?;
                self.observe(made);
                return Ok(true);
            }
            Err(e) => return Err(e),
        };
        self.observe(lease);
        let Some((lease, since)) = &self.observed else {
            return Ok(false);
        };
        let holder = Self::holder(lease);
        let seconds = lease
            .pointer("/spec/leaseDurationSeconds")
            .and_then(Value::as_u64)
            .unwrap_or(0);
        if !holder.is_empty()
            && holder != self.config.identity
            && since.elapsed() < Duration::from_secs(seconds)
        {
            return Ok(false);
        }
        let new = api
            .update::<Value, _>(&self.config.name, &self.renewed(lease, Time::now()))
            .await?;
        self.observe(new);
        Ok(true)
    }

    fn renewed(&self, lease: &Value, now: Time) -> Value {
        let mut lease = lease.clone();
        let held = Self::holder(&lease) == self.config.identity;
        let transitions = lease
            .pointer("/spec/leaseTransitions")
            .and_then(Value::as_i64)
            .unwrap_or(0);
        let now = print_micro_time(now);
        if let Some(spec) = spec_of(&mut lease) {
            spec.insert(
                "holderIdentity".into(),
                self.config.identity.as_str().into(),
            );
            spec.insert(
                "leaseDurationSeconds".into(),
                self.config.lease_duration.as_secs().into(),
            );
            spec.insert("renewTime".into(), now.as_str().into());
            if !held {
                spec.insert("acquireTime".into(), now.into());
                // What the API takes; one more would keep everybody from leading.
                let transitions = transitions.saturating_add(1).clamp(0, i32::MAX.into());
                spec.insert("leaseTransitions".into(), transitions.into());
            }
        }
        lease
    }

    async fn release(&self) {
        let Some((lease, _)) = &self.observed else {
            return;
        };
        if Self::holder(lease) != self.config.identity {
            return;
        }
        let mut lease = lease.clone();
        let now = print_micro_time(Time::now());
        if let Some(spec) = spec_of(&mut lease) {
            spec.insert("holderIdentity".into(), "".into());
            spec.insert("leaseDurationSeconds".into(), 1.into());
            spec.insert("renewTime".into(), now.as_str().into());
            spec.insert("acquireTime".into(), now.into());
        }
        let api = self.client.namespaced(&LEASES, &self.config.namespace);
        let release = api.update::<Value, _>(&self.config.name, &lease);
        match tokio::time::timeout(self.config.renew_deadline, release).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "Failed to release lease"),
            Err(_) => tracing::warn!("Failed to release lease: timed out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: (&str, Duration) = ("kube-scheduler", Duration::from_secs(15));
    const FILLED: Filled = Filled {
        name: "sched-handler-sync",
        not_yet: "handlers are not fully synchronized",
    };

    #[tokio::test(start_paused = true)]
    async fn who_is_healthy_and_who_is_ready() {
        let shutdown = Shutdown::new();
        let (election, synced) = (Election::default(), Latch::default());
        let checks = election.checks(Some(LEASE), &synced, FILLED, &shutdown);
        // Codes of healthz, livez, readyz.
        let codes = || {
            let code = |c: &Checks| c.answer(&c.path(), "").map_or(0, |a| a.code);
            checks.iter().map(code).collect::<Vec<_>>()
        };
        assert_eq!(codes(), [200, 200, 500], "the lease was not seen yet");
        election.set(Standing::Waiting);
        tokio::time::advance(10 * LEASE.1).await;
        assert_eq!(codes(), [200, 200, 200], "stands by");
        election.set(Standing::Leading(Instant::now()));
        assert_eq!(codes(), [200, 200, 500], "leads and has filled nothing");
        synced.set();
        assert_eq!(codes(), [200, 200, 200], "leads");
        tokio::time::advance(LEASE.1 + TOLERATED).await;
        assert_eq!(codes(), [200, 200, 200], "late, but tolerated");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(codes(), [500, 200, 500], "could not renew");
        let why = checks[0].answer("/healthz/leaderElection", "").unwrap();
        assert_eq!(
            why.body,
            "internal server error: failed election to renew leadership on lease kube-scheduler\n"
        );
        election.set(Standing::Leading(Instant::now()));
        shutdown.token.cancel();
        assert_eq!(codes(), [200, 200, 500], "ends");
    }

    #[test]
    fn checks_are_upstreams() {
        let shutdown = Shutdown::new();
        let told = |lease| {
            let synced = Latch::default();
            synced.set();
            let checks = Election::default().checks(lease, &synced, FILLED, &shutdown);
            let body = |c: &Checks| c.answer(&c.path(), "verbose").unwrap().body;
            checks.iter().map(body).collect::<String>()
        };
        assert_eq!(
            told(Some(LEASE)),
            "[+]leaderElection ok\nhealthz check passed\n[+]ping ok\nlivez check passed\n\
             [+]leaderElection ok\n[+]shutdown ok\n[+]sched-handler-sync ok\nreadyz check passed\n"
        );
        assert_eq!(
            told(None),
            "[+]ping ok\nhealthz check passed\n[+]ping ok\nlivez check passed\n\
             [+]shutdown ok\n[+]sched-handler-sync ok\nreadyz check passed\n"
        );
    }

    /// Numbers at their ends, and what is missing: a lease that somebody made so is held all the same, and says by whom.
    #[tokio::test]
    async fn whatever_a_lease_holds_it_says_who_holds_it() {
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let source = crate::transport::Source::Fixed(Box::new(config));
        let client = Client::from_source(source, crate::Options::default()).await;
        let elector = Elector {
            client: client.unwrap(),
            config: LeaderConfig::new("a", "b", "me"),
            observed: None,
        };
        for (spec, transitions) in [
            (json!(null), 1),
            (json!("x"), 1),
            (json!({}), 1),
            (json!({"leaseTransitions": 1}), 2),
            (json!({"leaseTransitions": i32::MAX}), i32::MAX),
            (json!({"leaseTransitions": i64::MAX}), i32::MAX),
            (json!({"leaseTransitions": i64::MIN}), 0),
        ] {
            let lease = json!({"metadata": {"name": "b"}, "spec": spec});
            let held = elector.renewed(&lease, Time::now());
            assert_eq!(Elector::holder(&held), "me", "{lease}");
            assert_eq!(held["spec"]["leaseTransitions"], transitions, "{lease}");
        }
        let none = elector.renewed(&json!({"metadata": {"name": "b"}}), Time::now());
        assert_eq!(Elector::holder(&none), "me");
    }
}
