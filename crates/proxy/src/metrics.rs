//! Metrics and health, named as upstream's.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use component::metrics::{Counter, Family, Gauge, Histogram, Registry};

use crate::config::Mode;

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
    unmet: Arc<Family<Gauge>>,
    left_out: Arc<Family<Gauge>>,
    healthz: Arc<Family<Counter>>,
    livez: Arc<Family<Counter>>,
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}

impl Metrics {
    /// Registers them.
    pub fn new(r: &Registry, mode: Mode) -> Metrics {
        let failures = match mode {
            Mode::Iptables => "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
            Mode::Nftables => "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
        };
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
                failures,
                "[ALPHA] Failed writes of rules, and service ports that were found to be the reason.",
                &[],
            ),
            unmet: r.gauge(
                "kubeproxy_conflicting_service_addresses",
                "[ALPHA] Addresses and ports that services ask for and do not get because another service has them.",
                &[],
            ),
            left_out: r.gauge(
                "kubeproxy_left_out_service_ports",
                "[ALPHA] Service ports without rules because the kernel refuses them.",
                &[],
            ),
            healthz: r.counter(
                "kubeproxy_proxy_healthz_total",
                "[ALPHA] Answers of /healthz.",
                &["code"],
            ),
            livez: r.counter(
                "kubeproxy_proxy_livez_total",
                "[ALPHA] Answers of /livez.",
                &["code"],
            ),
        }
    }

    /// A write begins.
    pub fn queued(&self) {
        self.last_queued.get().set(now());
    }

    /// How many claims of services are not met.
    pub fn unmet(&self, n: usize) {
        self.unmet.get().set(n as f64);
    }

    /// How many service ports have no rules though they should.
    pub fn left_out(&self, n: usize) {
        self.left_out.get().set(n as f64);
    }

    /// An answer was given on the health port.
    pub fn answered(&self, live: bool, code: u16) {
        let family = if live { &self.livez } else { &self.healthz };
        family.with(&[&code.to_string()]).inc();
    }

    /// A write succeeded.
    pub fn synced(&self, full: bool, took: Duration) {
        self.last.get().set(now());
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
}
