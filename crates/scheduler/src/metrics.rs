//! Metrics, named and labelled as upstream's.

use std::sync::Arc;
use std::time::Duration;

use component::metrics::{Counter, Family, Gauge, Histogram, Registry};

use crate::core::{Action, Sizes};

const SECONDS: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
    8.192, 16.384,
];
const ATTEMPTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0];

/// The scheduler's metrics.
pub struct Metrics {
    attempts: Arc<Family<Counter>>,
    attempt_seconds: Arc<Family<Histogram>>,
    algorithm_seconds: Arc<Family<Histogram>>,
    sli_seconds: Arc<Family<Histogram>>,
    pod_attempts: Arc<Family<Histogram>>,
    pending: Arc<Family<Gauge>>,
    preemptions: Arc<Family<Counter>>,
    panics: Arc<Family<Gauge>>,
    unreadable: Arc<Family<Gauge>>,
}

impl Metrics {
    /// Registers them.
    pub fn new(r: &Registry) -> Metrics {
        Metrics {
            attempts: r.counter(
                "scheduler_schedule_attempts_total",
                "[STABLE] Attempts to schedule pods, by result: scheduled, unschedulable or error.",
                &["profile", "result"],
            ),
            attempt_seconds: r.histogram(
                "scheduler_scheduling_attempt_duration_seconds",
                "[STABLE] Seconds of an attempt, deciding and binding.",
                &["profile", "result"],
                SECONDS,
            ),
            algorithm_seconds: r.histogram(
                "scheduler_scheduling_algorithm_duration_seconds",
                "[ALPHA] Seconds of deciding.",
                &[],
                SECONDS,
            ),
            sli_seconds: r.histogram(
                "scheduler_pod_scheduling_sli_duration_seconds",
                "[BETA] Seconds from entering the queue to being bound, over all attempts.",
                &["attempts"],
                SECONDS,
            ),
            pod_attempts: r.histogram(
                "scheduler_pod_scheduling_attempts",
                "[STABLE] Attempts until a pod was bound.",
                &[],
                ATTEMPTS,
            ),
            pending: r.gauge(
                "scheduler_pending_pods",
                "[STABLE] Pods that wait, by queue: active, backoff, unschedulable or gated.",
                &["queue"],
            ),
            preemptions: r.counter(
                "scheduler_preemption_attempts_total",
                "[STABLE] Attempts to make room by preemption.",
                &[],
            ),
            panics: r.gauge(
                "scheduler_recovered_panics_total",
                "[ALPHA] Panics over single objects that were recovered from.",
                &[],
            ),
            unreadable: r.gauge(
                "informer_unreadable_objects_total",
                "[ALPHA] Objects that came and could not be read; they were passed over.",
                &[],
            ),
        }
    }

    /// A decision was made.
    pub fn decided(&self, action: &Action, took: Duration) {
        self.algorithm_seconds.get().observe(took.as_secs_f64());
        if let Action::Explain { pod, reason, .. } = action {
            let result = match *reason {
                "Unschedulable" => "unschedulable",
                _ => "error",
            };
            let labels = [pod.spec.scheduler_name.as_str(), result];
            self.attempts.with(&labels).inc();
            self.attempt_seconds
                .with(&labels)
                .observe(took.as_secs_f64());
            if result == "unschedulable" {
                self.preemptions.get().inc();
            }
        }
    }

    /// A binding ended.
    pub fn bound(&self, profile: &str, ok: bool, attempts: u32, took: Duration, waited: Duration) {
        let labels = [profile, if ok { "scheduled" } else { "error" }];
        self.attempts.with(&labels).inc();
        self.attempt_seconds
            .with(&labels)
            .observe(took.as_secs_f64());
        if ok {
            // Bounded: beyond sixteen attempts they are counted as sixteen.
            let label = attempts.min(16).to_string();
            self.sli_seconds
                .with(&[&label])
                .observe(waited.as_secs_f64());
            self.pod_attempts.get().observe(f64::from(attempts));
        }
    }

    /// Panics that were caught.
    pub fn panics(&self, n: u64) {
        self.panics.get().set(n as f64);
    }

    /// Objects that could not be read.
    pub fn unreadable(&self, n: u64) {
        self.unreadable.get().set(n as f64);
    }

    /// The queue's sizes.
    pub fn pending(&self, sizes: Sizes) {
        for (queue, n) in [
            ("active", sizes.active),
            ("backoff", sizes.backoff),
            ("unschedulable", sizes.unschedulable),
            ("gated", sizes.gated),
        ] {
            self.pending.with(&[queue]).set(n as f64);
        }
    }
}
