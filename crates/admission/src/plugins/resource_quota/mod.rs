//! ResourceQuota: what a namespace uses is charged to its quotas before it is stored, and refused where it is more than they
//! allow. What goes is given back by the controller manager.
//!
//! Requests of a namespace are checked one after another, those that wait together and with one write per quota. A charge
//! counts when it is stored over the very quota that was checked; where somebody else was faster the newest one is read
//! and checked again, so no number of requests or apiservers uses more than there is. What was charged for an object that
//! is not stored in the end stays charged until the quota is counted anew.

mod check;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::Status;
use api::quota::pod::Pod;
use api::quota::scope::Scope;
use api::quota::{Evaluator, Measured};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use crate::config::Limited;
use crate::json::{at, name_of};
use crate::{Attributes, Operation, Plugin, Quotas};
use check::{Request, Standing, check};

/// How often a charge is tried anew when others change the same quota.
const RETRIES: usize = 3;
/// How long a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests that are checked together.
const BATCH: usize = 500;

/// See the module.
pub struct ResourceQuota(Option<Arc<Desk>>);

/// Where requests are checked and charged.
struct Desk {
    quotas: Arc<dyn Quotas>,
    limited: Vec<Limited>,
    /// By namespace, those that wait. A namespace that is not here has nobody who works on it.
    lines: Mutex<HashMap<String, Vec<Waiting>>>,
}

struct Waiting {
    request: Request,
    answer: oneshot::Sender<Result<(), Status>>,
}

/// Whoever works on a line. When that ends unexpectedly, those who wait are told, and the next request starts anew.
struct Clerk {
    desk: Arc<Desk>,
    namespace: String,
    done: bool,
}

impl Drop for Clerk {
    fn drop(&mut self) {
        if !self.done {
            self.desk.lines().remove(&self.namespace);
        }
    }
}

impl Clerk {
    /// Those who are next; `None` when nobody waits any more.
    fn next(&mut self) -> Option<Vec<Waiting>> {
        let mut lines = self.desk.lines();
        let line = lines.get_mut(&self.namespace)?;
        if line.is_empty() {
            lines.remove(&self.namespace);
            self.done = true;
            return None;
        }
        Some(line.drain(..line.len().min(BATCH)).collect())
    }
}

impl Desk {
    fn lines(&self) -> MutexGuard<'_, HashMap<String, Vec<Waiting>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a request's turn and for what comes of it.
    async fn ask(self: &Arc<Self>, namespace: &str, request: Request) -> Result<(), Status> {
        let (answer, told) = oneshot::channel();
        let waiting = Waiting { request, answer };
        let alone = {
            let mut lines = self.lines();
            match lines.get_mut(namespace) {
                Some(line) => {
                    line.push(waiting);
                    false
                }
                None => {
                    lines.insert(namespace.to_owned(), vec![waiting]);
                    true
                }
            }
        };
        if alone {
            let mut clerk = Clerk {
                desk: Arc::clone(self),
                namespace: namespace.to_owned(),
                done: false,
            };
            // A task of its own: the request that came first may be given up while others wait.
            tokio::spawn(async move {
                while let Some(batch) = clerk.next() {
                    clerk.desk.serve(&clerk.namespace, batch).await;
                }
            });
        }
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Status::internal("resource quota evaluation failed")),
            Err(_) => Err(Status::internal("resource quota evaluation timed out")),
        }
    }

    async fn standing(&self, namespace: &str) -> Result<Vec<Standing>, Status> {
        let all = self.quotas.list(namespace).await?;
        all.into_iter().map(Standing::new).collect()
    }

    /// Checks, charges and answers.
    async fn serve(&self, namespace: &str, mut open: Vec<Waiting>) {
        let mut quotas = match self.standing(namespace).await {
            Ok(quotas) => quotas,
            Err(status) => return answer(open, &Err(status)),
        };
        // What needs a quota at all has shown it at the first attempt.
        let mut limited = self.limited.as_slice();
        for left in (0..=RETRIES).rev() {
            open = admit(&mut quotas, open, limited);
            if open.is_empty() {
                return;
            }
            limited = &[];
            let (mut failed, mut last) = (Vec::new(), None);
            for quota in quotas.iter().filter(|q| q.changed) {
                match self.quotas.charge(&quota.seen, quota.written()).await {
                    Ok(true) => {}
                    Ok(false) => {
                        failed.push(quota.name().to_owned());
                        last = Some(Status::modified("", "resourcequotas", quota.name()));
                    }
                    Err(status) => {
                        failed.push(quota.name().to_owned());
                        last = Some(status);
                    }
                }
            }
            match last {
                None => return answer(open, &Ok(())),
                Some(status) if left == 0 => return answer(open, &Err(status)),
                Some(_) => {}
            }
            // What is charged to the others stands.
            quotas.clear();
            for name in failed {
                let newest = self.quotas.newest(namespace, &name).await;
                match newest.and_then(|q| q.map(Standing::new).transpose()) {
                    Ok(quota) => quotas.extend(quota),
                    Err(status) => return answer(open, &Err(status)),
                }
            }
        }
    }
}

fn answer(all: Vec<Waiting>, result: &Result<(), Status>) {
    for w in all {
        // Whoever asked may have gone.
        let _ = w.answer.send(result.clone());
    }
}

/// Checks requests one after another and answers those that need nothing stored. Returns the others, whose charges are in
/// the quotas.
fn admit(quotas: &mut [Standing], open: Vec<Waiting>, limited: &[Limited]) -> Vec<Waiting> {
    let mut charged = Vec::new();
    for w in open {
        if w.answer.is_closed() {
            continue;
        }
        match check(quotas, &w.request, limited) {
            Ok(charges) if charges.is_empty() || w.request.dry_run => answer(vec![w], &Ok(())),
            Ok(charges) => {
                for (quota, charge) in quotas.iter_mut().zip(charges) {
                    quota.charge(&charge);
                }
                charged.push(w);
            }
            Err(status) => answer(vec![w], &Err(status)),
        }
    }
    charged
}

impl ResourceQuota {
    /// Without quotas nothing is checked.
    pub fn new(quotas: Option<Arc<dyn Quotas>>, limited: Vec<Limited>) -> ResourceQuota {
        ResourceQuota(quotas.map(|quotas| {
            Arc::new(Desk {
                quotas,
                limited,
                lines: Mutex::default(),
            })
        }))
    }
}

/// Whether such a write can change what is used.
fn concerns(evaluator: &Evaluator, operation: Operation, subresource: &str) -> bool {
    let (create, update) = (
        operation == Operation::Create,
        operation == Operation::Update,
    );
    match (evaluator, subresource) {
        (Evaluator::Pods, "resize") => update,
        (Evaluator::Claims, "status") => create || update,
        (Evaluator::Count { .. }, "") => create,
        (_, "") => create || update,
        _ => false,
    }
}

fn is_terminating(m: &Measured) -> bool {
    matches!(
        m.scope,
        Scope::Pod {
            terminating: true,
            ..
        }
    )
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        self.0.is_some()
            && !a.namespace.is_empty()
            && (a.group, a.resource) != ("", "namespaces")
            && Evaluator::of(a.group, a.resource)
                .is_some_and(|e| concerns(&e, a.operation, a.subresource))
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let evaluator = Evaluator::of(a.group, a.resource);
        let (Some(desk), Some(evaluator), Some(object)) = (&self.0, evaluator, object) else {
            return Ok(());
        };
        if desk.limited.is_empty() && desk.quotas.list(a.namespace).await?.is_empty() {
            return Ok(());
        }
        let measure = |o: &Value| evaluator.measure(o).map_err(Status::internal);
        let new = measure(object)?;
        // What is created by an update is charged as a whole.
        let stored = old.filter(|o| !at(o, "/metadata/resourceVersion").is_empty());
        let before = stored.map(measure).transpose()?;
        let update = a.operation == Operation::Update;
        let of_pod = evaluator == Evaluator::Pods;
        // Beside a resize, only the scope of a pod can change.
        if of_pod && update && a.subresource.is_empty() {
            let scope = old.map(measure).transpose()?;
            if scope.is_none_or(|s| is_terminating(&s) == is_terminating(&new)) {
                return Ok(());
            }
        }
        let silent = if of_pod {
            let pod = Pod::deserialize(object).map_err(Status::internal)?;
            pod.silent()
        } else {
            Default::default()
        };
        let request = Request {
            evaluator,
            update,
            found: old.is_some(),
            status: a.subresource == "status",
            dry_run: a.dry_run,
            new,
            old: before,
            silent,
            group: a.group.to_owned(),
            resource: a.resource.to_owned(),
            name: name_of(a, Some(object)).to_owned(),
            now: now_seconds(),
        };
        desk.ask(a.namespace, request).await
    }
}

/// Seconds since 1970.
fn now_seconds() -> i64 {
    api::time::moment(std::time::SystemTime::now()).seconds
}

impl Standing {
    /// `status.used` with what was charged.
    fn written(&self) -> Map<String, Value> {
        let all = self.used.iter();
        all.map(|(n, _)| (n.clone(), Value::String(self.shown(n))))
            .collect()
    }
}
