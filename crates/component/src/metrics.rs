//! A small registry of counters, gauges and histograms with Prometheus' text format.
//!
//! Every family has at most [`MAX_SERIES`] series; label values beyond go to one series whose labels all read `other`, so
//! that nothing a request says can grow memory without bound. Names and labels are upstream's where the meaning is the same.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

/// The most series of one family.
pub const MAX_SERIES: usize = 2_000;

/// Upstream's default buckets for latencies in seconds.
pub const SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// A value that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A value that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, v: f64) {
        self.0.store(v.to_bits(), Relaxed);
    }

    /// Adds `d`, which may be negative.
    pub fn add(&self, d: f64) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |b| {
            Some((f64::from_bits(b) + d).to_bits())
        });
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1.0);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.add(-1.0);
    }

    /// The value.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

/// A distribution over fixed buckets.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    buckets: Vec<AtomicU64>,
    sum: Gauge,
    count: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        Histogram {
            bounds,
            buckets: bounds.iter().map(|_| AtomicU64::new(0)).collect(),
            sum: Gauge::default(),
            count: AtomicU64::new(0),
        }
    }

    /// Counts one observation.
    pub fn observe(&self, v: f64) {
        let at = self.bounds.partition_point(|b| *b < v);
        if let Some(b) = self.buckets.get(at) {
            b.fetch_add(1, Relaxed);
        }
        self.sum.add(v);
        self.count.fetch_add(1, Relaxed);
    }

    /// How many observations there were.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Their sum.
    pub fn sum(&self) -> f64 {
        self.sum.get()
    }
}

/// The series of one name, told apart by label values.
pub struct Family<T> {
    labels: &'static [&'static str],
    make: Box<dyn Fn() -> T + Send + Sync>,
    series: RwLock<HashMap<String, Arc<T>>>,
}

const SEP: char = '\u{1f}';

impl<T> Family<T> {
    /// The series with these label values, in the order of the family's labels; made when it is new. Keep the handle
    /// where it is used often.
    pub fn with(&self, values: &[&str]) -> Arc<T> {
        debug_assert_eq!(values.len(), self.labels.len());
        let key = values.join("\u{1f}");
        if let Some(s) = self
            .series
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
        {
            return Arc::clone(s);
        }
        let mut all = self.series.write().unwrap_or_else(PoisonError::into_inner);
        let key = if all.len() >= MAX_SERIES && !all.contains_key(&key) {
            vec!["other"; self.labels.len()].join("\u{1f}")
        } else {
            key
        };
        Arc::clone(all.entry(key).or_insert_with(|| Arc::new((self.make)())))
    }

    /// The only series of a family without labels.
    pub fn get(&self) -> Arc<T> {
        self.with(&[])
    }

    /// Forgets a series, for gauges of things that are gone.
    pub fn remove(&self, values: &[&str]) {
        self.series
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&values.join("\u{1f}"));
    }

    fn sorted(&self) -> Vec<(String, Arc<T>)> {
        let all = self.series.read().unwrap_or_else(PoisonError::into_inner);
        let mut v: Vec<_> = all
            .iter()
            .map(|(k, s)| (k.clone(), Arc::clone(s)))
            .collect();
        drop(all);
        v.sort_by(|a, b| a.0.cmp(&b.0));
        v
    }

    fn label_text(&self, key: &str, extra: Option<(&str, &str)>) -> String {
        let mut parts: Vec<String> = Vec::new();
        if !self.labels.is_empty() {
            parts.extend(
                self.labels
                    .iter()
                    .zip(key.split(SEP))
                    .map(|(l, v)| format!("{l}=\"{}\"", escape(v))),
            );
        }
        parts.extend(extra.map(|(l, v)| format!("{l}=\"{v}\"")));
        if parts.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", parts.join(","))
        }
    }
}

fn escape(v: &str) -> String {
    v.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn number(v: f64) -> String {
    if v == f64::INFINITY {
        "+Inf".to_owned()
    } else if v.abs() >= 1e21 || (v != 0.0 && v.abs() < 1e-6) {
        format!("{v:e}")
    } else {
        format!("{v}")
    }
}

type Render = Box<dyn Fn(&mut String) + Send + Sync>;

/// All metrics of one daemon. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry {
    families: Arc<RwLock<Vec<(String, Render)>>>,
}

impl Registry {
    /// With the process' own metrics and `kubernetes_build_info`.
    pub fn new() -> Registry {
        let r = Registry::default();
        process(&r);
        let info = r.gauge(
            "kubernetes_build_info",
            "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
            &["build_date", "compiler", "git_commit", "git_tree_state", "git_version", "go_version", "major", "minor", "platform"],
        );
        use crate::version as v;
        info.with(&[
            "",
            v::COMPILER,
            "",
            "clean",
            v::GIT_VERSION,
            "",
            v::MAJOR,
            v::MINOR,
            v::PLATFORM,
        ])
        .set(1.0);
        r
    }

    fn add(
        &self,
        name: &str,
        help: &str,
        kind: &str,
        body: impl Fn(&mut String) + Send + Sync + 'static,
    ) {
        let head = format!(
            "# HELP {name} {}\n# TYPE {name} {kind}\n",
            help.replace('\\', "\\\\").replace('\n', "\\n")
        );
        let render: Render = Box::new(move |out| {
            let at = out.len();
            out.push_str(&head);
            let empty = out.len();
            body(out);
            if out.len() == empty {
                out.truncate(at);
            }
        });
        let mut all = self
            .families
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        debug_assert!(
            all.iter().all(|(n, _)| n != name),
            "metric {name} is registered twice"
        );
        all.push((name.to_owned(), render));
        all.sort_by(|a, b| a.0.cmp(&b.0));
    }

    fn family<T: Send + Sync + 'static>(
        labels: &'static [&'static str],
        make: impl Fn() -> T + Send + Sync + 'static,
    ) -> Arc<Family<T>> {
        Arc::new(Family {
            labels,
            make: Box::new(make),
            series: RwLock::default(),
        })
    }

    /// A family of counters.
    pub fn counter(
        &self,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
    ) -> Arc<Family<Counter>> {
        let f = Registry::family(labels, Counter::default);
        let (g, n) = (Arc::clone(&f), name.to_owned());
        self.add(name, help, "counter", move |out| {
            for (k, c) in g.sorted() {
                let _ = writeln!(out, "{n}{} {}", g.label_text(&k, None), c.get());
            }
        });
        f
    }

    /// A family of gauges.
    pub fn gauge(
        &self,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
    ) -> Arc<Family<Gauge>> {
        let f = Registry::family(labels, Gauge::default);
        let (g, n) = (Arc::clone(&f), name.to_owned());
        self.add(name, help, "gauge", move |out| {
            for (k, c) in g.sorted() {
                let _ = writeln!(out, "{n}{} {}", g.label_text(&k, None), number(c.get()));
            }
        });
        f
    }

    /// A gauge without labels that is computed when it is read.
    pub fn gauge_fn(&self, name: &str, help: &str, read: impl Fn() -> f64 + Send + Sync + 'static) {
        let n = name.to_owned();
        self.add(name, help, "gauge", move |out| {
            let _ = writeln!(out, "{n} {}", number(read()));
        });
    }

    /// A family of histograms; `bounds` ascending, without infinity.
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
    ) -> Arc<Family<Histogram>> {
        let f = Registry::family(labels, move || Histogram::new(bounds));
        let (g, n) = (Arc::clone(&f), name.to_owned());
        self.add(name, help, "histogram", move |out| {
            for (k, h) in g.sorted() {
                // The count is read first: a bucket sum above it would be an impossible histogram.
                let count = h.count();
                let mut total = 0;
                for (bound, bucket) in h.bounds.iter().zip(&h.buckets) {
                    total = (total + bucket.load(Relaxed)).min(count);
                    let le = number(*bound);
                    let _ = writeln!(
                        out,
                        "{n}_bucket{} {total}",
                        g.label_text(&k, Some(("le", &le)))
                    );
                }
                let _ = writeln!(
                    out,
                    "{n}_bucket{} {count}",
                    g.label_text(&k, Some(("le", "+Inf")))
                );
                let labels = g.label_text(&k, None);
                let _ = writeln!(
                    out,
                    "{n}_sum{labels} {}\n{n}_count{labels} {count}",
                    number(h.sum())
                );
            }
        });
        f
    }

    /// Adds `kubernetes_feature_enabled`, one series per known gate.
    pub fn features(&self, features: &crate::features::Features) {
        let family = self.gauge(
            "kubernetes_feature_enabled",
            "[BETA] This metric records the data about the stage and enablement of a k8s feature.",
            &["name", "stage"],
        );
        for (name, gate, on) in features.all() {
            let stage = if gate.stage == "GA" { "" } else { gate.stage };
            family.with(&[name, stage]).set(f64::from(u8::from(on)));
        }
    }

    /// Everything in Prometheus' text format 0.0.4.
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        for (_, render) in self
            .families
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            render(&mut out);
        }
        out
    }
}

/// The content type of [`Registry::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

fn stat(field: usize) -> f64 {
    // Fields of proc(5) after the command, which may hold spaces; the first after it is field 3.
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let Some((_, rest)) = text.rsplit_once(") ") else {
        return 0.0;
    };
    field
        .checked_sub(3)
        .and_then(|i| rest.split(' ').nth(i))
        .and_then(|s| s.trim().parse().ok())
        .unwrap_or(0.0)
}

fn process(r: &Registry) {
    // USER_HZ is 100 on every Linux port that exists.
    const TICKS: f64 = 100.0;
    let boot = std::fs::read_to_string("/proc/stat")
        .unwrap_or_default()
        .lines()
        .find_map(|l| {
            l.strip_prefix("btime ")
                .and_then(|t| t.trim().parse::<f64>().ok())
        })
        .unwrap_or(0.0);
    let start = boot + stat(22) / TICKS;
    let n = "process_cpu_seconds_total".to_owned();
    r.add(
        &n.clone(),
        "Total user and system CPU time spent in seconds.",
        "counter",
        move |out| {
            let _ = writeln!(out, "{n} {}", number((stat(14) + stat(15)) / TICKS));
        },
    );
    r.gauge_fn(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        move || start,
    );
    r.gauge_fn(
        "process_resident_memory_bytes",
        "Resident memory size in bytes.",
        || stat(24) * rustix::param::page_size() as f64,
    );
    r.gauge_fn(
        "process_virtual_memory_bytes",
        "Virtual memory size in bytes.",
        || stat(23),
    );
    r.gauge_fn(
        "process_open_fds",
        "Number of open file descriptors.",
        || std::fs::read_dir("/proc/self/fd").map_or(0, |d| d.count().saturating_sub(1)) as f64,
    );
    r.gauge_fn(
        "process_max_fds",
        "Maximum number of open file descriptors.",
        || {
            rustix::process::getrlimit(rustix::process::Resource::Nofile)
                .current
                .map_or(f64::INFINITY, |n| n as f64)
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_format() {
        let r = Registry::new();
        let c = r.counter("x_total", "X.", &["verb", "code"]);
        c.with(&["GET", "200"]).inc();
        c.with(&["GET", "200"]).add(2);
        c.with(&["a\"b", "1"]).inc();
        let h = r.histogram("d_seconds", "D.", &["v"], &[0.1, 1.0]);
        for v in [0.1, 0.5, 7.0] {
            h.with(&["q"]).observe(v);
        }
        let text = r.render();
        assert!(text.contains("# HELP x_total X.\n# TYPE x_total counter\nx_total{verb=\"GET\",code=\"200\"} 3\nx_total{verb=\"a\\\"b\",code=\"1\"} 1\n"), "{text}");
        assert!(text.contains("d_seconds_bucket{v=\"q\",le=\"0.1\"} 1\nd_seconds_bucket{v=\"q\",le=\"1\"} 2\nd_seconds_bucket{v=\"q\",le=\"+Inf\"} 3\nd_seconds_sum{v=\"q\"} 7.6\nd_seconds_count{v=\"q\"} 3\n"), "{text}");
        assert!(text.contains("git_version=\"v1.37.0\""));
        let rss: f64 = text
            .lines()
            .find_map(|l| l.strip_prefix("process_resident_memory_bytes "))
            .unwrap()
            .parse()
            .unwrap();
        assert!(rss > 100_000.0);
    }

    /// CVE-2020-8551, CVE-2020-8552: labels that come from requests cannot grow a family.
    #[test]
    fn series_are_bounded() {
        let r = Registry::new();
        let c = r.counter("x_total", "X.", &["path"]);
        for i in 0..MAX_SERIES + 500 {
            c.with(&[&i.to_string()]).inc();
        }
        assert_eq!(c.with(&["other"]).get(), 500);
        assert!(c.sorted().len() <= MAX_SERIES + 1);
    }
}
