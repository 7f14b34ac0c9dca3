//! The work queues' counters as upstream's `workqueue_*` metrics.

use std::sync::{Arc, Mutex, PoisonError};

use client::queue::{Key, Stats};
use client::{Informers, WorkQueue};

type Read = Box<dyn Fn() -> Stats + Send + Sync>;

/// The queues of the process, and its informers.
#[derive(Clone, Default)]
pub struct Queues(
    Arc<Mutex<Vec<(String, Read)>>>,
    Arc<Mutex<Option<Informers>>>,
);

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queues")
    }
}

impl Queues {
    /// Adds a queue.
    pub fn add<K: Key>(&self, queue: &WorkQueue<K>) {
        let (name, queue) = (queue.name().to_owned(), queue.clone());
        let read: Read = Box::new(move || queue.stats());
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((name, read));
    }

    /// Tells whose faults are counted.
    pub fn informers(&self, informers: &Informers) {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(informers.clone());
    }

    /// The counters of all queues and of the informers' faults, in the text format of Prometheus.
    pub fn render(&self) -> String {
        type Field = fn(&Stats) -> f64;
        #[expect(clippy::cast_precision_loss, reason = "counters are far below 2^52")]
        const FIELDS: &[(&str, &str, &str, Field)] = &[
            (
                "workqueue_depth",
                "gauge",
                "Current depth of workqueue by workqueue",
                |s| s.depth as f64,
            ),
            (
                "workqueue_adds_total",
                "counter",
                "Total number of adds handled by workqueue",
                |s| s.adds as f64,
            ),
            (
                "workqueue_retries_total",
                "counter",
                "Total number of retries handled by workqueue",
                |s| s.retries as f64,
            ),
            (
                "workqueue_recovered_panics_total",
                "counter",
                "Total number of items whose processing panicked and was tried again",
                |s| s.panics as f64,
            ),
            (
                "workqueue_unfinished_work_seconds",
                "gauge",
                "How many seconds of work has been done that is in progress and hasn't been observed by work_duration",
                |s| s.unfinished_seconds,
            ),
            (
                "workqueue_longest_running_processor_seconds",
                "gauge",
                "How many seconds has the longest running processor for workqueue been running",
                |s| s.longest_seconds,
            ),
            (
                "workqueue_queue_duration_seconds_sum",
                "counter",
                "Seconds an item stays in workqueue before being requested",
                |s| s.queue_seconds,
            ),
            (
                "workqueue_work_duration_seconds_sum",
                "counter",
                "Seconds processing an item from workqueue takes",
                |s| s.work_seconds,
            ),
            (
                "workqueue_work_duration_seconds_count",
                "counter",
                "Items processed",
                |s| s.worked as f64,
            ),
        ];
        let queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stats: Vec<(&str, Stats)> = queues.iter().map(|(n, r)| (n.as_str(), r())).collect();
        let mut out = String::new();
        for (name, kind, help, read) in FIELDS {
            out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
            for (queue, s) in &stats {
                out.push_str(&format!("{name}{{name=\"{queue}\"}} {}\n", read(s)));
            }
        }
        let informers = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(informers) = informers.as_ref() {
            for (name, help, value) in [
                (
                    "informer_unreadable_objects_total",
                    "Objects that came and could not be read; they were passed over",
                    informers.unreadable(),
                ),
                (
                    "informer_recovered_panics_total",
                    "Panics over single objects that were recovered from",
                    informers.panics(),
                ),
            ] {
                out.push_str(&format!(
                    "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n"
                ));
            }
        }
        out
    }
}
