//! One family's rules, written so that no service port can keep the others from being written.
//!
//! A change is written as a difference. When that fails everything is written; when that fails too, and the kernel takes rules
//! at all, halves are tried until those that it refuses are found. These are left out and tried again after a while or when
//! they change. What is in force stays in force meanwhile: a trial only ever adds to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::backends::{Backend, Script};
use crate::model::{Changes, Entries, Entry, Family, Model, PortName};
use crate::runner::RunError;

/// Where scripts are run.
#[async_trait]
pub trait Kernel: Send + Sync {
    /// Runs one, and what follows from it.
    async fn apply(&self, script: &Script) -> Result<(), RunError>;
}

/// Writes of the search in one go; what is not decided by then waits for the next.
const MOST_TRIALS: u32 = 40;
const TRY_AGAIN: Duration = Duration::from_secs(60);
const TRY_AGAIN_MAX: Duration = Duration::from_secs(1800);

/// A service port that is not in force.
struct LeftOut {
    times: u32,
    until: Instant,
}

/// What a write did.
#[derive(Debug, Default)]
pub struct Done {
    /// The difference between the rules before and after.
    pub changes: Changes,
    /// What was in force before, as far as it changed.
    pub before: Entries,
    /// Service ports that were left out now and not before, with the reason.
    pub refused: Vec<(PortName, String)>,
    /// Whether the search did not end.
    pub unfinished: bool,
}

/// A family's model, backend and what is in force.
pub struct Writer {
    /// The model.
    pub model: Model,
    backend: Box<dyn Backend>,
    applied: Entries,
    left_out: BTreeMap<PortName, LeftOut>,
    full_writes: u64,
}

async fn run(kernel: &dyn Kernel, scripts: &[Script]) -> Result<(), RunError> {
    for script in scripts {
        kernel.apply(script).await?;
    }
    Ok(())
}

fn same(a: Option<&Arc<Entry>>, b: &Arc<Entry>) -> bool {
    a.is_some_and(|a| Arc::ptr_eq(a, b) || a == b)
}

impl Writer {
    /// Nothing is in force as far as is known.
    pub fn new(model: Model, backend: Box<dyn Backend>) -> Writer {
        Writer {
            model,
            backend,
            applied: Entries::new(),
            left_out: BTreeMap::new(),
            full_writes: 0,
        }
    }

    /// How often everything was written.
    pub fn full_writes(&self) -> u64 {
        self.full_writes
    }

    async fn full(&mut self, entries: &Entries, kernel: &dyn Kernel) -> Result<(), RunError> {
        self.full_writes += 1;
        run(kernel, &self.backend.full(entries)).await
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.model.family()
    }

    /// What is in force.
    pub fn applied(&self) -> &Entries {
        &self.applied
    }

    /// How many service ports are left out.
    pub fn left_out(&self) -> usize {
        self.left_out.len()
    }

    /// When the next one that was left out is to be tried again.
    pub fn next_trial(&self) -> Option<Instant> {
        self.left_out.values().map(|l| l.until).min()
    }

    /// Tells of a line of `nft monitor` whether it changes what is written here.
    pub fn owns(&self) -> fn(&str) -> bool {
        self.backend.owns()
    }

    /// Writes what changed, or everything.
    ///
    /// # Errors
    /// Nothing can be written at all. The next write must be a full one.
    pub async fn sync(
        &mut self,
        full: bool,
        kernel: &dyn Kernel,
        now: Instant,
    ) -> Result<Done, RunError> {
        let mut changes = self.model.take_changes();
        self.left_out.retain(|name, _| !changes.contains_key(name));
        let trying: Vec<PortName> = self
            .left_out
            .iter()
            .filter(|(_, l)| l.until <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in &trying {
            let entry = self.model.entries().get(name).cloned();
            changes.insert(name.clone(), entry);
        }
        if !full {
            match run(kernel, &self.backend.delta(&changes)).await {
                Ok(()) => {
                    for name in &trying {
                        self.left_out.remove(name);
                    }
                    return Ok(self.took(changes));
                }
                Err(error) => {
                    tracing::warn!(%error, "Failed to write changed rules; writing everything");
                }
            }
        }
        let mut wanted = self.model.entries().clone();
        wanted.retain(|name, _| !self.left_out.contains_key(name) || trying.contains(name));
        let error = match self.full(&wanted, kernel).await {
            Ok(()) => {
                for name in &trying {
                    self.left_out.remove(name);
                }
                let changes = self.difference(&wanted);
                return Ok(self.took(changes));
            }
            Err(error) => error,
        };
        if matches!(error, RunError::Start { .. })
            || run(kernel, &self.backend.dry_run()).await.is_err()
        {
            return Err(error);
        }
        tracing::warn!(%error, "Failed to write all rules; looking for the service that spoils them");
        self.search(wanted, error, kernel, now).await
    }

    async fn search(
        &mut self,
        wanted: Entries,
        error: RunError,
        kernel: &dyn Kernel,
        now: Instant,
    ) -> Result<Done, RunError> {
        let mut good: Entries = wanted
            .iter()
            .filter(|(name, entry)| same(self.applied.get(*name), entry))
            .map(|(name, entry)| (name.clone(), entry.clone()))
            .collect();
        let mut trials = 0;
        let mut in_force = false;
        if !good.is_empty() {
            trials += 1;
            in_force = self.full(&good, kernel).await.is_ok();
            if !in_force {
                good.clear();
            }
        }
        let suspects: Vec<(PortName, Arc<Entry>)> = wanted
            .into_iter()
            .filter(|(name, _)| !good.contains_key(name))
            .collect();
        let mut refused: Vec<(PortName, String)> = Vec::new();
        let mut unfinished = false;
        // Everything is known to fail, unless it is alone.
        let mut stack: Vec<&[(PortName, Arc<Entry>)]> = halves(&suspects);
        let mut last = in_force;
        while let Some(part) = stack.pop() {
            if trials >= MOST_TRIALS {
                unfinished = true;
                break;
            }
            trials += 1;
            let mut trial = good.clone();
            trial.extend(part.iter().cloned());
            match self.full(&trial, kernel).await {
                Ok(()) => {
                    good = trial;
                    (in_force, last) = (true, true);
                }
                Err(e @ RunError::Start { .. }) => return Err(e),
                Err(e) => {
                    last = false;
                    match part {
                        [(name, _)] => refused.push((name.clone(), e.to_string())),
                        more => stack.extend(halves(more)),
                    }
                }
            }
        }
        // Nothing could be written though an empty set of rules could be: no single service is to blame.
        if !in_force && (unfinished || refused.len() > 1) {
            return Err(error);
        }
        if !last {
            self.full(&good, kernel).await?;
        }
        let changes = self.difference(&good);
        let mut done = self.took(changes);
        done.unfinished = unfinished;
        let tried: Vec<PortName> = self
            .left_out
            .keys()
            .filter(|name| good.contains_key(*name))
            .cloned()
            .collect();
        for name in tried {
            self.left_out.remove(&name);
        }
        for (name, reason) in refused {
            let times = self.left_out.get(&name).map_or(0, |l| l.times) + 1;
            let wait = TRY_AGAIN
                .saturating_mul(1 << (times - 1).min(8))
                .min(TRY_AGAIN_MAX);
            let until = now + wait;
            self.left_out.insert(name.clone(), LeftOut { times, until });
            if times == 1 {
                done.refused.push((name, reason));
            }
        }
        Ok(done)
    }

    fn difference(&self, now: &Entries) -> Changes {
        let mut out = Changes::new();
        for name in self.applied.keys().filter(|n| !now.contains_key(*n)) {
            out.insert(name.clone(), None);
        }
        for (name, entry) in now {
            if !same(self.applied.get(name), entry) {
                out.insert(name.clone(), Some(entry.clone()));
            }
        }
        out
    }

    fn took(&mut self, changes: Changes) -> Done {
        let mut before = Entries::new();
        for (name, now) in &changes {
            let old = match now {
                Some(entry) => self.applied.insert(name.clone(), entry.clone()),
                None => self.applied.remove(name),
            };
            before.extend(old.map(|old| (name.clone(), old)));
        }
        Done {
            changes,
            before,
            ..Done::default()
        }
    }
}

fn halves<T>(all: &[T]) -> Vec<&[T]> {
    match all {
        [] => Vec::new(),
        [_] => vec![all],
        more => {
            let (left, right) = more.split_at(more.len() / 2);
            vec![right, left]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::Options;
    use crate::backends::nftables::Nftables;
    use crate::model::tests::{ready, service, slice};
    use std::sync::Mutex;

    /// Refuses scripts that hold one of some words, or everything.
    #[derive(Default)]
    struct Picky {
        words: Mutex<Vec<String>>,
        runs: Mutex<Vec<String>>,
    }

    impl Picky {
        fn refuse(&self, words: &[&str]) {
            *self.words.lock().unwrap() = words.iter().map(|w| (*w).to_owned()).collect();
            self.runs.lock().unwrap().clear();
        }

        fn count(&self) -> usize {
            self.runs.lock().unwrap().len()
        }
    }

    #[async_trait]
    impl Kernel for Picky {
        async fn apply(&self, script: &Script) -> Result<(), RunError> {
            let text = &script.text;
            self.runs.lock().unwrap().push(text.clone());
            match self
                .words
                .lock()
                .unwrap()
                .iter()
                .find(|w| text.contains(*w))
            {
                None => Ok(()),
                Some(word) => Err(RunError::Failed {
                    program: "nft".into(),
                    message: format!("no {word}"),
                }),
            }
        }
    }

    fn writer(services: usize) -> Writer {
        let mut model = Model::new("n1", Family::V4);
        for i in 0..services {
            let ip = format!("10.0.{}.{}", i / 250, i % 250 + 1);
            model.service(Arc::new(service(&format!("s{i}"), &ip)));
        }
        let backend = Nftables::new(Options {
            family: Family::V4,
            cluster_cidrs: vec![],
            masquerade_all: false,
            masquerade_bit: 14,
            node_port_addresses: vec![],
        });
        Writer::new(model, Box::new(backend))
    }

    fn names(done: &Done) -> Vec<String> {
        done.refused.iter().map(|(n, _)| n.to_string()).collect()
    }

    #[tokio::test]
    async fn the_culprits_are_found_and_the_rest_is_in_force() {
        let mut w = writer(1000);
        let kernel = Picky::default();
        kernel.refuse(&[" 10.0.0.8 ", " 10.0.3.5 "]);
        let done = w.sync(true, &kernel, Instant::now()).await.unwrap();
        assert_eq!(names(&done), ["ns/s7:http", "ns/s754:http"]);
        assert!(!done.unfinished);
        assert_eq!((w.applied().len(), w.left_out()), (998, 2));
        assert!(
            kernel.count() <= MOST_TRIALS as usize + 3,
            "{}",
            kernel.count()
        );
    }

    #[tokio::test]
    async fn a_new_culprit_among_many_costs_a_few_writes_and_nothing_in_force() {
        let mut w = writer(500);
        let kernel = Picky::default();
        w.sync(true, &kernel, Instant::now()).await.unwrap();
        w.model.service(Arc::new(service("good", "10.9.0.1")));
        w.model.service(Arc::new(service("bad", "10.9.0.2")));
        kernel.refuse(&["10.9.0.2"]);
        let done = w.sync(false, &kernel, Instant::now()).await.unwrap();
        assert_eq!(names(&done), ["ns/bad:http"]);
        assert_eq!(w.applied().len(), 501);
        assert!(kernel.count() <= 7, "{}", kernel.count());
        // It does not come up again with others, and is not told twice.
        kernel.refuse(&["10.9.0.2"]);
        w.model.service(Arc::new(service("next", "10.9.0.3")));
        let done = w.sync(false, &kernel, Instant::now()).await.unwrap();
        assert!(done.refused.is_empty() && kernel.count() == 1);
        // Tried again later, it is in force as soon as the kernel takes it.
        let later = w.next_trial().unwrap();
        let done = w.sync(false, &kernel, later).await.unwrap();
        assert!(done.refused.is_empty() && w.left_out() == 1);
        kernel.refuse(&[]);
        let later = w.next_trial().unwrap();
        w.sync(false, &kernel, later).await.unwrap();
        assert_eq!((w.applied().len(), w.left_out()), (503, 0));
    }

    #[tokio::test]
    async fn a_culprit_that_changes_is_tried_at_once() {
        let mut w = writer(3);
        let kernel = Picky::default();
        kernel.refuse(&[" 10.0.0.2 "]);
        w.sync(true, &kernel, Instant::now()).await.unwrap();
        assert_eq!(w.left_out(), 1);
        w.model.service(Arc::new(service("s1", "10.0.0.9")));
        w.sync(false, &kernel, Instant::now()).await.unwrap();
        assert_eq!((w.applied().len(), w.left_out()), (3, 0));
    }

    #[tokio::test]
    async fn a_kernel_that_takes_nothing_blames_nobody() {
        let mut w = writer(50);
        w.model.slice(
            Arc::new(slice("s1", "a", &[("10.1.0.1", "n1", ready())])),
            false,
        );
        let kernel = Picky::default();
        kernel.refuse(&["add table"]);
        assert!(w.sync(true, &kernel, Instant::now()).await.is_err());
        assert_eq!((w.left_out(), kernel.count()), (0, 2));
        // Nor one that takes empty rules only.
        kernel.refuse(&["add element"]);
        assert!(w.sync(true, &kernel, Instant::now()).await.is_err());
        assert_eq!(w.left_out(), 0);
        kernel.refuse(&[]);
        w.sync(true, &kernel, Instant::now()).await.unwrap();
        assert_eq!(w.applied().len(), 50);
    }

    #[tokio::test]
    async fn many_culprits_are_found_in_several_rounds() {
        let mut w = writer(400);
        let kernel = Picky::default();
        kernel.refuse(&[" 10.0.1.1", " 10.0.0.2"]);
        let mut rounds = 0;
        loop {
            let done = w.sync(true, &kernel, Instant::now()).await.unwrap();
            rounds += 1;
            if !done.unfinished {
                break;
            }
            assert!(rounds < 100);
        }
        let good = w.model.entries().len() - w.left_out();
        assert!(rounds > 1 && w.applied().len() == good);
    }
}
