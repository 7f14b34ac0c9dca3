//! Applies what the backends write: reacts to changes, to failures and to tampering.
//!
//! Changes that come together are applied together. After a failed script the next one is a full one, tried again with
//! back-off. `nft monitor` (which also sees iptables where that is built on nftables) tells when somebody else touched
//! the rules; then everything is written again. Where the monitor cannot run, a full write every `full_period` does
//! that instead.

use std::collections::HashSet;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backends::{Backend, Script};
use crate::conntrack;
use crate::metrics::Metrics;
use crate::model::{Changes, Entries, Model};
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
    let mut child = Command::new(program)
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
pub async fn apply(script: &Script, own: &OwnProcesses) -> Result<(), RunError> {
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

/// One family's model and backend.
pub struct Family {
    /// The model.
    pub model: Model,
    /// The backend.
    pub backend: Box<dyn Backend>,
}

/// Keeps the kernel as the watches say, until `shutdown`. The rules stay after that: connections go on.
pub struct Runner {
    /// The families.
    pub families: Vec<Family>,
    /// Times.
    pub times: Times,
    /// Metrics and health.
    pub metrics: Arc<Metrics>,
}

impl Runner {
    fn input(&mut self, input: &Input) {
        for f in &mut self.families {
            match input {
                Input::Service(s) => f.model.service(s.clone()),
                Input::ServiceGone(s) => f
                    .model
                    .service_gone(&s.metadata.namespace, &s.metadata.name),
                Input::Slice(s) => f.model.slice(s.clone(), false),
                Input::SliceGone(s) => f.model.slice(s.clone(), true),
            }
        }
    }

    /// Writes what changed, or everything.
    async fn sync(&mut self, full: bool, own: &OwnProcesses) -> Result<(), RunError> {
        let began = Instant::now();
        for f in &mut self.families {
            let before: Entries = f.model.entries().clone();
            let changes: Changes = f.model.take_changes();
            let scripts = if full {
                f.backend.full(f.model.entries())
            } else {
                f.backend.delta(&changes)
            };
            for script in &scripts {
                apply(script, own).await?;
            }
            for stale in conntrack::stale(&before, &changes) {
                conntrack::forget(&stale).await;
            }
        }
        self.metrics.synced(full, began.elapsed());
        Ok(())
    }

    /// Runs. `ready` is called after the first full write.
    pub async fn run(
        mut self,
        mut inputs: mpsc::UnboundedReceiver<Input>,
        shutdown: CancellationToken,
    ) {
        let own = OwnProcesses::default();
        let (tampered, mut tampering) = mpsc::channel(1);
        let patterns: Vec<_> = self.families.iter().map(|f| f.backend.owns()).collect();
        let mut watching = monitor(patterns, own.clone(), tampered, shutdown.clone());

        let mut full = true;
        let mut failures = 0u32;
        let mut last = None::<Instant>;
        loop {
            while let Ok(i) = inputs.try_recv() {
                self.input(&i);
            }
            let dirty = full || self.families.iter().any(|f| f.model.is_dirty());
            let wait = match last {
                Some(at) if failures > 0 => Some(at + backoff(failures)),
                Some(at) => Some(at + self.times.min_sync),
                None => None,
            };
            if dirty && wait.is_none_or(|at| at <= Instant::now()) {
                self.metrics.queued();
                match self.sync(full, &own).await {
                    Ok(()) => {
                        full = false;
                        failures = 0;
                    }
                    Err(error) => {
                        tracing::error!(%error, full, "Failed to write rules; writing everything again");
                        self.metrics.failed();
                        full = true;
                        failures = failures.saturating_add(1);
                    }
                }
                last = Some(Instant::now());
                continue;
            }
            let due = if dirty {
                wait
            } else if watching.is_some() {
                None
            } else {
                last.map(|at| at + self.times.full_period)
            };
            let timer = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                input = inputs.recv() => match input {
                    Some(i) => self.input(&i),
                    None => return,
                },
                () = timer => full |= !dirty,
                told = tampering.recv(), if watching.is_some() => match told {
                    Some(()) => {
                        tracing::info!("Somebody changed the rules; writing everything again");
                        full = true;
                    }
                    None => watching = None,
                },
            }
        }
    }
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
    let mut child = Command::new("nft")
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
