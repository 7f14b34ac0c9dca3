//! Applies what the backends write: reacts to changes, to failures and to tampering.
//!
//! Changes that come together are applied together. Where nothing can be written it is tried again with back-off; each family
//! has its own, so that one that the kernel lacks does not hold up the other. `nft monitor` (which also sees iptables where that is built on nftables) tells when somebody else touched
//! the rules; then everything is written again. Where the monitor cannot run, a full write every `full_period` does
//! that instead.

use std::collections::HashSet;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::apply::{Kernel, Writer};
use crate::backends::Script;
use crate::conntrack;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::model::{Conflict, PortName};
use crate::view::{ServiceView, SliceView};

/// What the watches tell.
#[derive(Clone, Debug)]
pub enum Input {
    /// A Service came or changed.
    Service(Arc<ServiceView>),
    /// A Service is gone.
    ServiceGone(Arc<ServiceView>),
    /// An EndpointSlice came or changed.
    Slice(Arc<SliceView>),
    /// An EndpointSlice is gone.
    SliceGone(Arc<SliceView>),
}

/// A script that failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The program could not be started.
    #[error("cannot run {program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("{program} failed: {message}")]
    Failed {
        /// The program.
        program: String,
        /// The beginning of its standard error.
        message: String,
    },
}

/// Times of the runner.
#[derive(Clone, Debug)]
pub struct Times {
    /// The least time between two writes.
    pub min_sync: Duration,
    /// The time between full writes where tampering cannot be watched.
    pub full_period: Duration,
}

/// The process ids of our own scripts, so that the monitor knows them.
#[derive(Clone, Default)]
pub struct OwnProcesses(Arc<Mutex<HashSet<u32>>>);

impl OwnProcesses {
    /// Known ids are kept small: only the newest matter.
    const MOST: usize = 4096;

    fn add(&self, id: u32) {
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.len() >= Self::MOST {
            ids.clear();
        }
        ids.insert(id);
    }

    fn has(&self, id: u32) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&id)
    }
}

/// Runs a program and returns what it wrote.
async fn run(command: &[String], input: &str, own: &OwnProcesses) -> Result<String, RunError> {
    let Some((program, args)) = command.split_first() else {
        return Ok(String::new());
    };
    let start = |source| RunError::Start {
        program: program.clone(),
        source,
    };
    let mut command = Command::new(program);
    component::files::restore_limit(command.as_std_mut());
    let mut child = command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(start)?;
    if let Some(id) = child.id() {
        own.add(id);
    }
    if let Some(mut stdin) = child.stdin.take() {
        let text = input.to_owned();
        // Written beside the wait: a program that ends early must not block us.
        tokio::spawn(async move {
            let _ = stdin.write_all(text.as_bytes()).await;
        });
    }
    let output = child.wait_with_output().await.map_err(start)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message: String = String::from_utf8_lossy(&output.stderr)
        .chars()
        .take(1000)
        .collect();
    Err(RunError::Failed {
        program: program.clone(),
        message: message.trim().to_owned(),
    })
}

/// Runs one script, and what follows from it.
///
/// # Errors
/// A program cannot be run or fails, unless the script may fail.
pub async fn apply(script: &Script, own: &OwnProcesses) -> Result<(), RunError> {
    match apply_strictly(script, own).await {
        Err(error) if script.may_fail => {
            tracing::warn!(%error, "Failed to clean up; it is tried with the next full write");
            Ok(())
        }
        result => result,
    }
}

async fn apply_strictly(script: &Script, own: &OwnProcesses) -> Result<(), RunError> {
    if let Some(check) = &script.unless
        && run(check, "", own).await.is_ok()
    {
        return Ok(());
    }
    let output = run(&script.command, &script.text, own).await?;
    if let Some(then) = &script.then {
        for next in (then.0)(&output) {
            run(&next.command, &next.text, own).await?;
        }
    }
    Ok(())
}

#[async_trait]
impl Kernel for OwnProcesses {
    async fn apply(&self, script: &Script) -> Result<(), RunError> {
        apply(script, self).await
    }
}

/// What the owner of a service should know.
#[derive(Clone, Debug)]
pub enum Notice {
    /// Another service has what a service port asks for.
    Conflict(Conflict),
    /// The kernel refuses the rules of a service port.
    Refused {
        /// The service.
        service: Arc<ServiceView>,
        /// Its port.
        port: PortName,
        /// What the kernel says.
        reason: String,
    },
}

/// A family at work.
struct Work {
    writer: Writer,
    full: bool,
    failures: u32,
    last: Option<Instant>,
}

impl Work {
    fn is_dirty(&self) -> bool {
        self.full || self.writer.model.is_dirty()
    }

    /// When to write next.
    fn due(&self, times: &Times, watching: bool, now: Instant) -> Option<Instant> {
        let Some(last) = self.last else {
            return Some(now);
        };
        if self.is_dirty() {
            let wait = match self.failures {
                0 => times.min_sync,
                n => backoff(n),
            };
            return Some(last + wait);
        }
        let regular = (!watching).then(|| last + times.full_period);
        regular.into_iter().chain(self.writer.next_trial()).min()
    }
}

/// Keeps the kernel as the watches say, until `shutdown`. The rules stay after that: connections go on.
pub struct Runner {
    /// The families.
    pub families: Vec<Writer>,
    /// Times.
    pub times: Times,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// What the health port tells.
    pub health: Arc<Health>,
    /// Tells the owners of services. Must not wait.
    pub tell: Box<dyn Fn(Notice) + Send + Sync>,
}

impl Runner {
    /// Runs.
    pub async fn run(
        self,
        mut inputs: mpsc::UnboundedReceiver<Input>,
        shutdown: CancellationToken,
    ) {
        let own = OwnProcesses::default();
        let (tampered, mut tampering) = mpsc::channel(1);
        let patterns: Vec<_> = self.families.iter().map(Writer::owns).collect();
        let mut watching = monitor(patterns, own.clone(), tampered, shutdown.clone());
        let mut works: Vec<Work> = self
            .families
            .into_iter()
            .map(|writer| Work {
                writer,
                full: true,
                failures: 0,
                last: None,
            })
            .collect();
        let (times, metrics, health, tell) = (self.times, self.metrics, self.health, self.tell);
        loop {
            while let Ok(i) = inputs.try_recv() {
                works.iter_mut().for_each(|w| take(w, &i));
            }
            let now = Instant::now();
            let mut wrote = false;
            for work in &mut works {
                let due = work.due(&times, watching.is_some(), now);
                if due.is_none_or(|at| at > now) {
                    continue;
                }
                // Where nothing is dirty, the time has come for what is done now and then.
                let trial = work.writer.next_trial().is_some_and(|at| at <= now);
                work.full |= !work.is_dirty() && !trial;
                write(work, &own, (&metrics, &health), &*tell).await;
                wrote = true;
            }
            if wrote {
                metrics.unmet(works.iter().map(|w| w.writer.model.unmet()).sum());
                metrics.left_out(works.iter().map(|w| w.writer.left_out()).sum());
                continue;
            }
            let due = works
                .iter()
                .filter_map(|w| w.due(&times, watching.is_some(), now))
                .min();
            let timer = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                input = inputs.recv() => match input {
                    Some(i) => works.iter_mut().for_each(|w| take(w, &i)),
                    None => return,
                },
                () = timer => {}
                told = tampering.recv(), if watching.is_some() => match told {
                    Some(()) => {
                        tracing::info!("Somebody changed the rules; writing everything again");
                        works.iter_mut().for_each(|w| w.full = true);
                    }
                    None => watching = None,
                },
            }
        }
    }
}

fn take(work: &mut Work, input: &Input) {
    let model = &mut work.writer.model;
    match input {
        Input::Service(s) => model.service(s.clone()),
        Input::ServiceGone(s) => model.service_gone(&s.metadata.namespace, &s.metadata.name),
        Input::Slice(s) => model.slice(s.clone(), false),
        Input::SliceGone(s) => model.slice(s.clone(), true),
    }
}

/// Writes what changed, or everything.
async fn write(
    work: &mut Work,
    own: &OwnProcesses,
    (metrics, health): (&Metrics, &Health),
    tell: &(dyn Fn(Notice) + Send + Sync),
) {
    let (full, began) = (work.full, Instant::now());
    metrics.queued();
    health.queued(work.writer.family(), client::Time::now());
    let result = work.writer.sync(full, own, began).await;
    for conflict in work.writer.model.take_conflicts() {
        tell(Notice::Conflict(conflict));
    }
    match result {
        Ok(done) => {
            for (port, reason) in done.refused {
                metrics.failed();
                if let Some(service) = work.writer.model.service_of(&port) {
                    let service = service.clone();
                    tell(Notice::Refused {
                        service,
                        port,
                        reason,
                    });
                }
            }
            for stale in conntrack::stale(&done.before, &done.changes) {
                conntrack::forget(&stale).await;
            }
            work.full = done.unfinished;
            work.failures = if done.unfinished {
                work.failures.saturating_add(1)
            } else {
                0
            };
            if !done.unfinished {
                health.updated(work.writer.family(), client::Time::now());
            }
            metrics.synced(full, began.elapsed());
        }
        Err(error) => {
            tracing::error!(%error, full, "Failed to write rules; writing everything again");
            metrics.failed();
            work.full = true;
            work.failures = work.failures.saturating_add(1);
        }
    }
    work.last = Some(Instant::now());
}

fn backoff(failures: u32) -> Duration {
    Duration::from_millis(250u64.saturating_mul(1 << failures.min(7)))
}

type Owns = fn(&str) -> bool;

/// Watches the kernel's rules for changes that are not ours. `None` where `nft monitor` cannot be started.
fn monitor(
    owns: Vec<Owns>,
    own: OwnProcesses,
    tampered: mpsc::Sender<()>,
    shutdown: CancellationToken,
) -> Option<()> {
    let mut command = Command::new("nft");
    component::files::restore_limit(command.as_std_mut());
    let mut child = command
        .arg("monitor")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .ok()?;
    let stdout = child.stdout.take()?;
    tokio::spawn(async move {
        let mut lines = BufReader::new(stdout).lines();
        let mut touched = false;
        loop {
            let line = tokio::select! {
                () = shutdown.cancelled() => break,
                line = lines.next_line() => line,
            };
            let Ok(Some(line)) = line else { break };
            // A transaction's lines come first, then "# new generation 7 by process 123 (nft)".
            if let Some(rest) = line.strip_prefix("# new generation ") {
                let by = rest
                    .split("by process ")
                    .nth(1)
                    .and_then(|r| r.split(' ').next());
                let ours = by
                    .and_then(|id| id.parse().ok())
                    .is_some_and(|id| own.has(id));
                if touched && !ours {
                    // A full channel already asks for what we would ask for.
                    let _ = tampered.try_send(());
                }
                touched = false;
            } else if !touched && owns.iter().any(|o| o(&line)) {
                touched = true;
            }
        }
        let _ = child.kill().await;
    });
    Some(())
}
