//! The supervisor: one process per cluster that starts the daemons that `units/` names and starts them again when they end.
//!
//! - A daemon that ends is started again after 0.2 s, doubled each time up to 5 s; one that ran for 10 s begins anew.
//! - A supervisor that is started while daemons run takes them up (by pid and start time) and restarts none.
//! - Ending the supervisor ends no daemon.
//! - It answers one request per connection on `supervisor.sock`: `reload` reads `units/` anew (new daemons start,
//!   removed ones are ended, changed ones are restarted), `restart NAME` ends one daemon, which then starts again.
//!   The answer is a line with `ok` or the error, written once the request is carried out.
//!
//! Absent on purpose: ordering. Daemons retry what they need; a unit's `after` only names sockets worth waiting for.

use crate::args::Args;
use crate::cgroup::Hierarchies;
use crate::cluster::{Cluster, write_file};
use crate::host;
use crate::process::Process;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::sync::{Notify, watch};

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
const GOOD_RUN: Duration = Duration::from_secs(10);
const LARGEST_LOG: u64 = 64 * 1024 * 1024;

/// One daemon: what to run and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `NODE.DAEMON`; the names of the files about it.
    pub name: String,
    /// The node whose namespaces it runs in.
    pub node: String,
    pub daemon: String,
    pub argv: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// Unix sockets that must accept connections before it starts.
    pub after: Vec<PathBuf>,
    /// Changes when files that the daemon reads only at its start change.
    pub revision: String,
}

/// What is known of a running daemon, in `run/NAME.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Running {
    pub unit: Unit,
    #[serde(flatten)]
    pub process: Process,
    pub restarts: u32,
}

/// Reads every file of a directory that holds JSON of this type; unreadable ones are left out.
pub fn read_all<T: serde::de::DeserializeOwned>(dir: &Path) -> Vec<T> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "json"))
        .collect();
    paths.sort();
    paths
        .iter()
        .filter_map(|p| serde_json::from_slice(&std::fs::read(p).ok()?).ok())
        .collect()
}

/// The supervisor's process, if it runs.
pub fn supervisor_process(cluster: &Cluster) -> Option<Process> {
    let process: Process =
        serde_json::from_slice(&std::fs::read(cluster.dir.join("supervisor.json")).ok()?).ok()?;
    process.is_alive().then_some(process)
}

/// Starts the supervisor unless it runs, detached from this process, in a control group of its own.
pub fn ensure_running(cluster: &Cluster, hierarchies: &Hierarchies) -> Result<()> {
    if supervisor_process(cluster).is_some() && request(cluster, "ping").is_ok() {
        return Ok(());
    }
    let groups = hierarchies.create(&cluster.group().join("supervisor"))?;
    std::fs::create_dir_all(cluster.logs_dir())?;
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(cluster.logs_dir().join("supervisor.log"))?;
    let me = std::env::current_exe().context("find the keelson program")?;
    let mut child = into_groups(&groups)
        .args(["setsid", "--fork"])
        .arg(me)
        .arg("--state-dir")
        .arg(&cluster.dir)
        .arg("supervise")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start the supervisor")?;
    child.wait()?;
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match request(cluster, "ping") {
            Ok(()) => return Ok(()),
            Err(e) if Instant::now() > deadline => {
                return Err(
                    e.context("the supervisor does not answer; see `keelson logs supervisor`")
                );
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// A command that moves itself into control groups and then becomes the program that its arguments name.
fn into_groups(groups: &[PathBuf]) -> std::process::Command {
    let mut command = std::process::Command::new("sh");
    let script = "while [ \"$1\" != -- ]; do echo 0 >\"$1/cgroup.procs\" || exit 1; shift; done; shift; exec \"$@\"";
    command.args(["-c", script, "sh"]).args(groups).arg("--");
    command
}

/// Sends a request to the supervisor and waits for its answer.
pub fn request(cluster: &Cluster, text: &str) -> Result<()> {
    use std::io::{BufRead, Write};
    let stream = std::os::unix::net::UnixStream::connect(cluster.supervisor_socket())
        .context("the supervisor does not run; `keelson up` starts it again")?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    (&stream).write_all(format!("{text}\n").as_bytes())?;
    let mut answer = String::new();
    std::io::BufReader::new(&stream).read_line(&mut answer)?;
    match answer.trim() {
        "ok" => Ok(()),
        other => anyhow::bail!("the supervisor says: {other}"),
    }
}

struct Worker {
    unit: Unit,
    wanted: watch::Sender<bool>,
    kick: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

pub fn main(dir: PathBuf, args: Args) -> Result<ExitCode> {
    args.end()?;
    let cluster = Cluster::open(&dir)?;
    if let Some(other) = supervisor_process(&cluster) {
        anyhow::bail!("a supervisor runs already, as process {}", other.pid);
    }
    let hierarchies = Hierarchies::detect()?;
    let me = Process::of(std::process::id() as i32).context("read /proc/self")?;
    write_file(
        &dir.join("supervisor.json"),
        &serde_json::to_vec(&me)?,
        0o644,
    )?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(Arc::new(Shared {
        cluster,
        hierarchies,
    })))?;
    Ok(ExitCode::SUCCESS)
}

struct Shared {
    cluster: Cluster,
    hierarchies: Hierarchies,
}

async fn serve(shared: Arc<Shared>) -> Result<()> {
    let socket = shared.cluster.supervisor_socket();
    let _ = std::fs::remove_file(&socket);
    let listener = tokio::net::UnixListener::bind(&socket)?;
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let mut workers: HashMap<String, Worker> = HashMap::new();
    reload(&shared, &mut workers).await;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = terminate.recv() => return Ok(()),
        };
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        let mut reader = tokio::io::BufReader::new(tokio::io::AsyncReadExt::take(read, 4096));
        if !matches!(
            tokio::time::timeout(Duration::from_secs(5), reader.read_line(&mut line)).await,
            Ok(Ok(_))
        ) {
            continue;
        }
        let answer = match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
            ("ping", _) => "ok".to_string(),
            ("reload", _) => {
                reload(&shared, &mut workers).await;
                "ok".to_string()
            }
            ("restart", name) => match workers.get(name) {
                Some(worker) => {
                    worker.kick.notify_one();
                    "ok".to_string()
                }
                None => format!("there is no daemon {name}"),
            },
            (other, _) => format!("\"{other}\" is not a request"),
        };
        let _ = write.write_all(format!("{answer}\n").as_bytes()).await;
    }
}

/// Makes the workers match the files in `units/`.
async fn reload(shared: &Arc<Shared>, workers: &mut HashMap<String, Worker>) {
    let wanted: HashMap<String, Unit> = read_all::<Unit>(&shared.cluster.units_dir())
        .into_iter()
        .map(|u| (u.name.clone(), u))
        .collect();
    let leaving: Vec<String> = workers
        .iter()
        .filter(|(name, w)| wanted.get(*name) != Some(&w.unit))
        .map(|(n, _)| n.clone())
        .collect();
    let mut ending = Vec::new();
    for name in leaving {
        if let Some(worker) = workers.remove(&name) {
            let _ = worker.wanted.send(false);
            ending.push(worker.task);
        }
    }
    for task in ending {
        let _ = task.await;
    }
    // Daemons of units that were removed while no supervisor ran.
    for running in read_all::<Running>(&shared.cluster.run_dir()) {
        if !wanted.contains_key(&running.unit.name) && running.process.is_alive() {
            end(&running.process).await;
            let _ = std::fs::remove_file(
                shared
                    .cluster
                    .run_dir()
                    .join(format!("{}.json", running.unit.name)),
            );
        }
    }
    for (name, unit) in wanted {
        workers.entry(name).or_insert_with(|| {
            let (wanted, receiver) = watch::channel(true);
            let kick = Arc::new(Notify::new());
            let task = tokio::spawn(keep(shared.clone(), unit.clone(), receiver, kick.clone()));
            Worker {
                unit,
                wanted,
                kick,
                task,
            }
        });
    }
}

/// SIGTERM, and SIGKILL after five seconds; returns when the process has ended.
async fn end(process: &Process) {
    process.signal(rustix::process::Signal::TERM);
    if tokio::time::timeout(Duration::from_secs(5), ended(process))
        .await
        .is_err()
    {
        process.signal(rustix::process::Signal::KILL);
        ended(process).await;
    }
}

/// Returns when a process, child or not, has ended.
async fn ended(process: &Process) {
    let Ok(fd) = process.descriptor() else { return };
    #[expect(
        deprecated,
        reason = "the descriptor is owned and stays open, which is what its unsafe successor asks for"
    )]
    let watched = tokio::io::unix::AsyncFd::new(fd);
    if let Ok(watched) = watched {
        let _ = watched.readable().await;
    }
}

/// Keeps one daemon running until it is no longer wanted.
async fn keep(
    shared: Arc<Shared>,
    unit: Unit,
    mut wanted: watch::Receiver<bool>,
    kick: Arc<Notify>,
) {
    let record = shared.cluster.run_dir().join(format!("{}.json", unit.name));
    let mut restarts = 0;
    let mut delay = FIRST_DELAY;
    if let Some(running) = std::fs::read(&record)
        .ok()
        .and_then(|b| serde_json::from_slice::<Running>(&b).ok())
    {
        restarts = running.restarts;
        if running.process.is_alive() {
            if running.unit == unit {
                eprintln!("{}: taken up, process {}", unit.name, running.process.pid);
                if watch_over(&running.process, &mut wanted, &kick).await {
                    let _ = std::fs::remove_file(&record);
                    return;
                }
                restarts += 1;
            } else {
                end(&running.process).await;
            }
        }
    }
    loop {
        for socket in &unit.after {
            while tokio::net::UnixStream::connect(socket).await.is_err() {
                if tokio::time::timeout(Duration::from_millis(10), until_unwanted(&mut wanted))
                    .await
                    .is_ok()
                {
                    return;
                }
            }
        }
        let begun = Instant::now();
        match start(&shared, &unit) {
            Ok((mut child, process)) => {
                let running = Running {
                    unit: unit.clone(),
                    process: process.clone(),
                    restarts,
                };
                if let Err(error) = serde_json::to_vec(&running)
                    .map_err(Into::into)
                    .and_then(|b| write_file(&record, &b, 0o644))
                {
                    eprintln!("{}: {error:#}", unit.name);
                }
                let unwanted = watch_over(&process, &mut wanted, &kick).await;
                match child.wait().await {
                    Ok(status) => eprintln!(
                        "{}: process {} ended after {:.1} s: {status}",
                        unit.name,
                        process.pid,
                        begun.elapsed().as_secs_f64()
                    ),
                    Err(error) => eprintln!("{}: {error}", unit.name),
                }
                if unwanted {
                    let _ = std::fs::remove_file(&record);
                    return;
                }
            }
            Err(error) => eprintln!("{}: {error:#}", unit.name),
        }
        restarts += 1;
        if begun.elapsed() > GOOD_RUN {
            delay = FIRST_DELAY;
        }
        if tokio::time::timeout(delay, until_unwanted(&mut wanted))
            .await
            .is_ok()
        {
            return;
        }
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

/// Waits until a daemon ends, or ends it when it is no longer wanted (then true) or is to be restarted.
async fn watch_over(process: &Process, wanted: &mut watch::Receiver<bool>, kick: &Notify) -> bool {
    let unwanted = tokio::select! {
        () = ended(process) => return false,
        () = until_unwanted(wanted) => true,
        () = kick.notified() => false,
    };
    end(process).await;
    unwanted
}

/// Returns when the unit has been taken from the list; a closed channel means the same.
async fn until_unwanted(wanted: &mut watch::Receiver<bool>) {
    let _ = wanted.wait_for(|w| !w).await;
}

fn start(shared: &Shared, unit: &Unit) -> Result<(tokio::process::Child, Process)> {
    let cluster = &shared.cluster;
    let groups = shared
        .hierarchies
        .create(&cluster.group().join(&unit.node).join(&unit.daemon))?;
    let path = cluster
        .logs_dir()
        .join(&unit.node)
        .join(format!("{}.log", unit.daemon));
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if std::fs::metadata(&path).is_ok_and(|m| m.len() > LARGEST_LOG) {
        std::fs::rename(&path, path.with_extension("log.old"))?;
    }
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)?;
    let mut command = into_groups(&groups);
    command
        .args(host::enter_words(cluster, &unit.node))
        .args(&unit.argv)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(unit.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Signals of the terminal are not for daemons.
        ;
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(false);
    let child = command
        .spawn()
        .with_context(|| format!("start {}", unit.argv.first().map_or("", String::as_str)))?;
    let pid = child.id().context("it ended at once")? as i32;
    let process =
        Process::of(pid).with_context(|| format!("it ended at once; see {}", path.display()))?;
    Ok((child, process))
}
