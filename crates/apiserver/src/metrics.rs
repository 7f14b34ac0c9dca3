//! `/metrics`. Labels come from what is served, never from what a request says: unknown paths and verbs share one label.

use std::sync::Arc;
use std::time::Duration;

use component::metrics::{Counter, Family, Gauge, Histogram, Registry};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};

use crate::Response;
use crate::body::Body;
use crate::chain::Server;
use crate::core::Table;
use crate::request_info::RequestInfo;

/// The server's own metrics, with upstream's names.
pub struct Metrics {
    registry: Registry,
    requests: Arc<Family<Counter>>,
    durations: Arc<Family<Histogram>>,
    inflight: Arc<Family<Gauge>>,
}

/// A request in flight, until this is dropped: also when its client goes away.
struct InFlight(Arc<Gauge>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What a request is counted as.
pub struct Label {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    _flight: InFlight,
}

const SECONDS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];

impl Metrics {
    /// With the gates as they are set.
    pub fn new(features: &component::features::Features) -> Metrics {
        let registry = Registry::new();
        registry.features(features);
        let requests = registry.counter(
            "apiserver_request_total",
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
            &["code", "component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"],
        );
        let durations = registry.histogram(
            "apiserver_request_duration_seconds",
            "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
            &["component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"],
            SECONDS,
        );
        let inflight = registry.gauge(
            "apiserver_current_inflight_requests",
            "Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
            &["request_kind"],
        );
        Metrics {
            registry,
            requests,
            durations,
            inflight,
        }
    }

    /// Counts a request in.
    pub fn begin(&self, info: &RequestInfo, table: &Table) -> Label {
        let kind = if info.mutating() {
            "mutating"
        } else {
            "readOnly"
        };
        let flight = self.inflight.with(&[kind]);
        flight.inc();
        let verb = match info.verb.as_str() {
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "create" | "post" => "POST",
            "update" | "put" => "PUT",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            _ => "other",
        };
        let mut label = Label {
            verb,
            group: String::new(),
            version: String::new(),
            resource: String::new(),
            subresource: String::new(),
            scope: "",
            _flight: InFlight(flight),
        };
        if !info.is_resource {
            return label;
        }
        if let Some(s) = table.find(&info.group, &info.version, &info.resource) {
            label.group.clone_from(&s.def.group);
            label.version.clone_from(&s.def.version);
            label.resource.clone_from(&s.def.resource);
            if let Some(sub) = s
                .def
                .subresources
                .iter()
                .find(|x| x.name == info.subresource)
            {
                label.subresource = sub.name.to_owned();
            }
            label.scope = if !info.name.is_empty() {
                "resource"
            } else if !info.namespace.is_empty() {
                "namespace"
            } else {
                "cluster"
            };
        }
        label
    }

    /// Counts it out.
    pub fn end(&self, l: Label, code: u16, took: Duration) {
        // A backend behind a proxy may answer any number.
        let code = StatusCode::from_u16(code).ok();
        let code = code.filter(|c| c.canonical_reason().is_some());
        let code = code.as_ref().map_or("unknown", StatusCode::as_str);
        self.requests
            .with(&[
                code,
                "apiserver",
                "",
                &l.group,
                &l.resource,
                l.scope,
                &l.subresource,
                l.verb,
                &l.version,
            ])
            .inc();
        if l.verb != "WATCH" {
            self.durations
                .with(&[
                    "apiserver",
                    "",
                    &l.group,
                    &l.resource,
                    l.scope,
                    &l.subresource,
                    l.verb,
                    &l.version,
                ])
                .observe(took.as_secs_f64());
        }
    }

    /// All metrics in Prometheus' text format.
    pub async fn serve(&self, server: &Arc<Server>) -> Response {
        use std::fmt::Write as _;
        use std::sync::atomic::Ordering;
        let mut out = self.registry.render();
        let table = server.engine.core.table();
        let mut seen: Vec<&str> = Vec::new();
        let (mut objects, mut watchers, mut ended) = (String::new(), String::new(), String::new());
        for s in &table.all {
            let Some(c) = &s.cache else { continue };
            if seen.contains(&c.storage.prefix.as_str()) {
                continue;
            }
            seen.push(&c.storage.prefix);
            let (g, v, r) = (&s.def.group, &s.def.version, &s.def.resource);
            let _ = writeln!(
                objects,
                "apiserver_resource_objects{{group=\"{g}\",resource=\"{r}\"}} {}",
                c.len()
            );
            let n = c.watching.load(Ordering::Relaxed);
            let k = &s.def.kind;
            let _ = writeln!(
                watchers,
                "apiserver_longrunning_requests{{component=\"apiserver\",group=\"{g}\",resource=\"{r}\",scope=\"cluster\",subresource=\"\",verb=\"WATCH\",version=\"{v}\"}} {n}"
            );
            let _ = k;
            let e = c.ended_slow.load(Ordering::Relaxed);
            let _ = writeln!(
                ended,
                "apiserver_terminated_watchers_total{{group=\"{g}\",resource=\"{r}\"}} {e}"
            );
        }
        out.push_str("# HELP apiserver_resource_objects Number of stored objects at the time of last check split by kind.\n# TYPE apiserver_resource_objects gauge\n");
        out.push_str(&objects);
        out.push_str("# HELP apiserver_longrunning_requests Gauge of all active long-running apiserver requests.\n# TYPE apiserver_longrunning_requests gauge\n");
        out.push_str(&watchers);
        out.push_str("# HELP apiserver_terminated_watchers_total Counter of watchers closed due to unresponsiveness.\n# TYPE apiserver_terminated_watchers_total counter\n");
        out.push_str(&ended);
        if let Ok(bytes) = server.engine.core.store().size_on_disk().await {
            let _ = write!(
                out,
                "# HELP apiserver_storage_size_bytes Size of the storage database file physically allocated in bytes.\n# TYPE apiserver_storage_size_bytes gauge\napiserver_storage_size_bytes{{storage_cluster_id=\"etcd-0\"}} {bytes}\n"
            );
        }
        for more in &server.extra_metrics {
            out.push_str(&more());
        }
        let mut r = Response::new(Body::from(out.into_bytes()));
        r.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static(component::metrics::CONTENT_TYPE),
        );
        r
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Query;

    #[test]
    fn who_goes_away_is_not_in_flight_and_numbers_of_backends_are_no_labels() {
        let metrics = Metrics::new(&Default::default());
        let get = http::Method::GET;
        let begin = || {
            let info = RequestInfo::parse(&get, "/version", &Query::parse("")).expect("a path");
            metrics.begin(&info, &Table::default())
        };
        let flying = || metrics.inflight.with(&["readOnly"]).get();
        let first = begin();
        assert_eq!(flying(), 1.0);
        drop(first);
        assert_eq!(flying(), 0.0);
        for code in [200, 299, 298, 999, 7] {
            metrics.end(begin(), code, Duration::ZERO);
        }
        assert_eq!(flying(), 0.0);
        let text = metrics.registry.render();
        let of = |code: &str| {
            let line = text
                .lines()
                .find(|l| l.contains(&format!("code=\"{code}\"")));
            line.and_then(|l| l.rsplit(' ').next().map(str::to_owned))
        };
        assert_eq!(
            (of("200"), of("unknown"), of("299")),
            (Some("1".into()), Some("4".into()), None)
        );
    }
}
