//! `/healthz`, `/livez`, `/readyz`: named checks with upstream's output.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Something that is not so at first, and so for ever once it was told.
#[derive(Clone, Debug, Default)]
pub struct Latch(Arc<AtomicBool>);

impl Latch {
    /// It is so.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is so.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The checks behind one path. Cheap to clone.
#[derive(Clone)]
pub struct Checks {
    name: &'static str,
    checks: Vec<(String, Check)>,
}

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200, 404 or 500.
    pub code: u16,
    /// `text/plain; charset=utf-8`, always with `X-Content-Type-Options: nosniff`.
    pub body: String,
}

impl Checks {
    /// Checks for `/<name>`.
    pub fn new(name: &'static str) -> Checks {
        Checks {
            name,
            checks: Vec::new(),
        }
    }

    /// Adds a check; it must be quick and must not block. Its error is logged, never shown.
    #[must_use]
    pub fn with(
        mut self,
        name: impl Into<String>,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Checks {
        self.checks.push((name.into(), Arc::new(check)));
        self
    }

    /// Adds `ping` and the like, which are always well.
    #[must_use]
    pub fn ok(self, name: &str) -> Checks {
        self.with(name, || Ok(()))
    }

    /// Adds `shutdown`, which fails as soon as the process ends.
    #[must_use]
    pub fn until(self, shutdown: &crate::Shutdown) -> Checks {
        let token = shutdown.token.clone();
        self.with("shutdown", move || match token.is_cancelled() {
            true => Err("process is shutting down".to_owned()),
            false => Ok(()),
        })
    }

    /// `/<name>`.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// Answers `/<name>` and `/<name>/<check>`; `None` for any other path. `query` is the raw query of the URL.
    pub fn answer(&self, path: &str, query: &str) -> Option<Answer> {
        let rest = path.strip_prefix('/')?.strip_prefix(self.name)?;
        if rest.is_empty() || rest == "/" {
            return Some(self.all(query));
        }
        let wanted = rest.strip_prefix('/')?;
        let Some((name, check)) = self.checks.iter().find(|(n, _)| n == wanted) else {
            return Some(Answer {
                code: 404,
                body: "404 page not found\n".to_owned(),
            });
        };
        Some(match check() {
            Ok(()) => Answer {
                code: 200,
                body: "ok".to_owned(),
            },
            Err(err) => {
                tracing::info!(check = name, err, "Health check failed");
                Answer {
                    code: 500,
                    body: format!("internal server error: {err}\n"),
                }
            }
        })
    }

    fn all(&self, query: &str) -> Answer {
        let mut excluded: Vec<String> = Vec::new();
        let mut verbose = false;
        for pair in query.split('&') {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("verbose", _) => verbose = true,
                ("exclude", v) => excluded.push(decode(v)),
                _ => {}
            }
        }
        let mut out = String::new();
        let mut failed = false;
        let mut unknown = excluded.clone();
        for (name, check) in &self.checks {
            if excluded.contains(name) {
                unknown.retain(|u| u != name);
                out.push_str(&format!("[+]{name} excluded: ok\n"));
                continue;
            }
            match check() {
                Ok(()) => out.push_str(&format!("[+]{name} ok\n")),
                Err(err) => {
                    failed = true;
                    tracing::info!(check = name, probe = self.name, err, "Health check failed");
                    out.push_str(&format!("[-]{name} failed: reason withheld\n"));
                }
            }
        }
        if !unknown.is_empty() {
            unknown.sort();
            unknown.dedup();
            let list: Vec<String> = unknown.iter().map(|u| format!("{u:?}")).collect();
            out.push_str(&format!(
                "warn: some health checks cannot be excluded: no matches for {}\n",
                list.join(", ")
            ));
        }
        if failed {
            return Answer {
                code: 500,
                body: format!("{out}{} check failed\n", self.name),
            };
        }
        let body = if verbose {
            format!("{out}{} check passed\n", self.name)
        } else {
            "ok".to_owned()
        };
        Answer { code: 200, body }
    }
}

fn decode(v: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = v.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'+' => out.push(b' '),
            b'%' => {
                let hex: Vec<u8> = bytes.by_ref().take(2).collect();
                let n = std::str::from_utf8(&hex)
                    .ok()
                    .and_then(|h| u8::from_str_radix(h, 16).ok());
                out.push(n.unwrap_or(b'%'));
            }
            b => out.push(b),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_as_upstream() {
        let well = Checks::new("livez")
            .ok("ping")
            .ok("poststarthook/rbac/bootstrap-roles");
        assert_eq!(well.answer("/livez", "").unwrap().body, "ok");
        assert_eq!(
            well.answer("/livez", "verbose").unwrap().body,
            "[+]ping ok\n[+]poststarthook/rbac/bootstrap-roles ok\nlivez check passed\n"
        );
        assert_eq!(
            well.answer("/livez/poststarthook/rbac/bootstrap-roles", "")
                .unwrap()
                .code,
            200
        );
        assert_eq!(well.answer("/livez/x", "").unwrap().code, 404);
        assert_eq!(well.answer("/livezz", ""), None);
        let ill = Checks::new("readyz")
            .ok("ping")
            .with("etcd", || Err("secret".into()));
        let a = ill.answer("/readyz", "").unwrap();
        assert_eq!(
            (a.code, a.body.as_str()),
            (
                500,
                "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n"
            )
        );
        let a = ill
            .answer("/readyz", "exclude=etcd&verbose&exclude=no%2Fpe")
            .unwrap();
        assert_eq!(a.code, 200);
        assert!(a.body.contains("[+]etcd excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"no/pe\"\n"));
    }
}
