//! `/healthz`, `/livez` and `/readyz`, in upstream's form: each check by name, `?verbose`, `?exclude=` and a path per check.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use crate::Response;
use crate::body::Body;
use crate::core::Core;
use crate::query::Query;

/// How long the store may take to answer a check.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
enum HookState {
    Running,
    Done,
    Failed,
}

/// The state of the checks.
pub struct Health {
    hooks: Mutex<Vec<(&'static str, HookState)>>,
    caches: AtomicBool,
    stopping: AtomicBool,
}

impl Health {
    /// Checks for these hooks and the fixed ones.
    pub fn new(hooks: impl Iterator<Item = &'static str>) -> Health {
        Health {
            hooks: Mutex::new(hooks.map(|h| (h, HookState::Running)).collect()),
            caches: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }

    fn set(&self, name: &str, state: HookState) {
        let mut hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(h) = hooks.iter_mut().find(|(n, _)| *n == name) {
            h.1 = state;
        }
    }

    /// A hook has returned.
    pub fn hook_done(&self, name: &str) {
        self.set(name, HookState::Done);
    }

    /// A hook has failed; the server stays unready.
    pub fn hook_failed(&self, name: &str, _error: String) {
        self.set(name, HookState::Failed);
    }

    /// Every cache has listed once.
    pub fn caches_ready(&self) {
        self.caches.store(true, Ordering::SeqCst);
    }

    /// The listener is closed.
    pub fn shutting_down(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    async fn checks(&self, endpoint: &str, core: &Core) -> Vec<(String, bool)> {
        let mut out: Vec<(String, bool)> = vec![("ping".into(), true), ("log".into(), true)];
        let store = tokio::time::timeout(STORE_TIMEOUT, core.store().ready()).await;
        let store = matches!(store, Ok(Ok(())));
        out.push(("etcd".into(), store));
        if endpoint == "readyz" {
            out.push(("etcd-readiness".into(), store));
            out.push(("informer-sync".into(), self.caches.load(Ordering::SeqCst)));
        }
        let hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, state) in hooks.iter() {
            out.push((
                format!("poststarthook/{name}"),
                matches!(state, HookState::Done),
            ));
        }
        if endpoint == "readyz" {
            out.push(("shutdown".into(), !self.stopping.load(Ordering::SeqCst)));
        }
        out
    }

    /// Answers a path such as `/readyz` or `/livez/ping`.
    pub async fn serve(&self, path: &str, query: &Query, core: &Core) -> Response {
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let endpoint = parts.next().unwrap_or_default().to_owned();
        let one = parts.next().unwrap_or_default();
        let mut checks = self.checks(&endpoint, core).await;
        if !one.is_empty() {
            return match checks.iter().find(|(n, _)| n == one) {
                Some((_, true)) => {
                    let mut r = text(200, "ok".into());
                    r.headers_mut().remove("x-content-type-options");
                    r
                }
                Some((_, false)) => text(500, "internal server error: reason withheld\n".into()),
                None => crate::chain::page_not_found(),
            };
        }
        let excluded: Vec<&str> = query.all("exclude").collect();
        let mut lines = String::new();
        let mut failed = false;
        for (name, ok) in &mut checks {
            if excluded.contains(&name.as_str()) {
                lines.push_str(&format!("[+]{name} excluded: ok\n"));
            } else if *ok {
                lines.push_str(&format!("[+]{name} ok\n"));
            } else {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
        let strangers: Vec<String> = excluded
            .iter()
            .filter(|e| !checks.iter().any(|(n, _)| n == *e))
            .map(|e| api::text::go_quote(e))
            .collect();
        if !strangers.is_empty() {
            lines.push_str(&format!(
                "warn: some health checks cannot be excluded: no matches for {}\n",
                strangers.join(",")
            ));
        }
        if failed {
            return text(500, format!("{lines}{endpoint} check failed\n"));
        }
        if query.get("verbose").is_some() {
            return text(200, format!("{lines}{endpoint} check passed\n"));
        }
        text(200, "ok".into())
    }
}

fn text(code: u16, body: String) -> Response {
    let mut r = Response::new(Body::from(body.into_bytes()));
    *r.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
    r.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    r.headers_mut().insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    r
}
