//! Metrics and health, named as upstream's.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use component::metrics::{Counter, Family, Gauge, Histogram, Registry};

const SECONDS: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
    8.192, 16.384,
];

/// kube-proxy's metrics.
pub struct Metrics {
    seconds: Arc<Family<Histogram>>,
    full_seconds: Arc<Family<Histogram>>,
    partial_seconds: Arc<Family<Histogram>>,
    last: Arc<Family<Gauge>>,
    last_queued: Arc<Family<Gauge>>,
    failures: Arc<Family<Counter>>,
    queued_at: AtomicI64,
    synced_at: AtomicI64,
    syncs: AtomicU64,
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// How old an unwritten change may be before the proxy counts as unhealthy, in milliseconds (upstream: twice the sync
/// period of 30 s).
const HEALTHY_FOR: i64 = 60_000;

impl Metrics {
    /// Registers them.
    pub fn new(r: &Registry) -> Metrics {
        Metrics {
            seconds: r.histogram(
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "[ALPHA] Seconds of writing rules.",
                &[],
                SECONDS,
            ),
            full_seconds: r.histogram(
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "[ALPHA] Seconds of writing all rules.",
                &[],
                SECONDS,
            ),
            partial_seconds: r.histogram(
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "[ALPHA] Seconds of writing the rules that changed.",
                &[],
                SECONDS,
            ),
            last: r.gauge(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "[ALPHA] When rules were last written.",
                &[],
            ),
            last_queued: r.gauge(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "[ALPHA] When rules were last to be written.",
                &[],
            ),
            failures: r.counter(
                "kubeproxy_sync_proxy_rules_failures_total",
                "[ALPHA] Failed writes of rules.",
                &[],
            ),
            queued_at: AtomicI64::new(now()),
            synced_at: AtomicI64::new(0),
            syncs: AtomicU64::new(0),
        }
    }

    /// A write begins.
    pub fn queued(&self) {
        let t = now();
        self.queued_at.store(t, Relaxed);
        self.last_queued.get().set(t as f64 / 1000.0);
    }

    /// A write succeeded.
    pub fn synced(&self, full: bool, took: Duration) {
        let t = now();
        self.synced_at.store(t, Relaxed);
        self.syncs.fetch_add(1, Relaxed);
        self.last.get().set(t as f64 / 1000.0);
        self.seconds.get().observe(took.as_secs_f64());
        let which = if full {
            &self.full_seconds
        } else {
            &self.partial_seconds
        };
        which.get().observe(took.as_secs_f64());
    }

    /// A write failed.
    pub fn failed(&self) {
        self.failures.get().inc();
    }

    /// Whether rules were written at all, and no change waits for too long: what `/healthz` on the health port tells.
    pub fn healthy(&self) -> bool {
        let (queued, synced) = (self.queued_at.load(Relaxed), self.synced_at.load(Relaxed));
        synced >= queued || (self.syncs.load(Relaxed) > 0 && now() - queued < HEALTHY_FOR)
    }

    /// When rules were last written, in milliseconds since the epoch; 0 for never.
    pub fn last_synced(&self) -> i64 {
        self.synced_at.load(Relaxed)
    }
}
