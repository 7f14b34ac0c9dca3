//! A whole kubelet on a fake runtime, without an apiserver: static pods through start, crash, failure, restart and end.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test: a panic is a failure"
)]

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use component::Shutdown;
use kubelet::Dependencies;
use kubelet::config::{FlagValues, KubeletConfiguration, Settings};
use kubelet::cri::proto::*;
use kubelet::cri::{CriError, Result, Runtime};

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, PodSandboxStatus>,
    containers: BTreeMap<String, (String, ContainerStatus)>,
    /// Calls that change something, in order.
    calls: Vec<String>,
    /// Calls that fail once.
    fail: HashSet<&'static str>,
    /// Calls that panic once, in the kubelet's task.
    panic: HashSet<&'static str>,
    /// Statuses hold nonsense.
    lie: bool,
    /// What every later list of all containers says, if set: a cache that no change reaches.
    stale: Option<Vec<Container>>,
    clock: i64,
    down: bool,
    /// Lists of sandboxes that were answered, and calls that were refused.
    looks: u64,
    refused: u64,
}

/// A runtime in memory.
#[derive(Default)]
struct Fake(Mutex<State>);

impl Fake {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn up(&self) -> Result<MutexGuard<'_, State>> {
        let mut s = self.lock();
        if s.down {
            s.refused += 1;
            Err(CriError::Unavailable("down".into()))
        } else {
            Ok(s)
        }
    }

    fn change(&self, call: &'static str, what: &str) -> Result<MutexGuard<'_, State>> {
        let mut s = self.up()?;
        if s.fail.remove(call) {
            return Err(CriError::Status {
                code: "Unknown".into(),
                message: format!("{call} failed"),
            });
        }
        if s.panic.remove(call) {
            drop(s);
            panic!("{call} panics");
        }
        s.calls.push(format!("{call} {what}"));
        s.clock += 1;
        Ok(s)
    }

    fn calls(&self, prefix: &str) -> Vec<String> {
        self.lock()
            .calls
            .iter()
            .filter(|c| c.starts_with(prefix))
            .cloned()
            .collect()
    }

    fn exit(&self, name: &str, code: i32) {
        let mut s = self.lock();
        let now = nanos();
        let c = s
            .containers
            .values_mut()
            .filter(|c| c.1.metadata.as_ref().unwrap().name == name && c.1.state == 1)
            .last()
            .unwrap();
        c.1.state = ContainerState::Exited as i32;
        c.1.exit_code = code;
        c.1.finished_at = now;
    }

    fn running(&self) -> Vec<String> {
        self.lock()
            .containers
            .values()
            .filter(|c| c.1.state == 1)
            .map(|c| c.1.id.clone())
            .collect()
    }
}

fn nanos() -> i64 {
    i64::try_from(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos(),
    )
    .unwrap()
}

fn unknown<T>() -> Result<T> {
    Err(CriError::Status {
        code: "Unimplemented".into(),
        message: "not in the fake".into(),
    })
}

fn missing<T>() -> Result<T> {
    Err(CriError::Status {
        code: "NotFound".into(),
        message: "no such id".into(),
    })
}

#[async_trait::async_trait]
impl Runtime for Fake {
    async fn version(&self) -> Result<VersionResponse> {
        Ok(VersionResponse {
            runtime_name: "fake".into(),
            runtime_version: "1".into(),
            ..Default::default()
        })
    }
    async fn status(&self) -> Result<StatusResponse> {
        Ok(StatusResponse::default())
    }
    async fn update_runtime_config(&self, _: &str) -> Result<()> {
        Ok(())
    }
    async fn run_pod_sandbox(&self, c: PodSandboxConfig, _: &str) -> Result<String> {
        let meta = c.metadata.clone().unwrap();
        let mut s = self.change("RunPodSandbox", &meta.name)?;
        let id = format!("s{}", s.clock);
        let network = Some(PodSandboxNetworkStatus {
            ip: "127.0.0.1".into(),
            ..Default::default()
        });
        let st = PodSandboxStatus {
            id: id.clone(),
            metadata: Some(meta),
            created_at: nanos(),
            network,
            labels: c.labels,
            ..Default::default()
        };
        s.sandboxes.insert(id.clone(), st);
        Ok(id)
    }
    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let mut s = self.change("StopPodSandbox", id)?;
        if let Some(b) = s.sandboxes.get_mut(id) {
            b.state = PodSandboxState::NotReady as i32;
        }
        Ok(())
    }
    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        self.change("RemovePodSandbox", id)?.sandboxes.remove(id);
        Ok(())
    }
    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        self.up()?
            .sandboxes
            .get(id)
            .cloned()
            .map_or_else(missing, Ok)
    }
    async fn list_pod_sandbox(&self, f: PodSandboxFilter) -> Result<Vec<PodSandbox>> {
        let mut s = self.up()?;
        s.looks += 1;
        Ok(s.sandboxes
            .values()
            .filter(|s| {
                f.label_selector
                    .iter()
                    .all(|(k, v)| s.labels.get(k) == Some(v))
            })
            .map(|s| PodSandbox {
                id: s.id.clone(),
                metadata: s.metadata.clone(),
                state: s.state,
                created_at: s.created_at,
                labels: s.labels.clone(),
                ..Default::default()
            })
            .collect())
    }
    async fn create_container(
        &self,
        sandbox: &str,
        c: ContainerConfig,
        _: PodSandboxConfig,
    ) -> Result<String> {
        let meta = c.metadata.clone().unwrap();
        let mut s = self.change("CreateContainer", &meta.name)?;
        let id = format!("c{}", s.clock);
        let st = ContainerStatus {
            id: id.clone(),
            metadata: Some(meta),
            created_at: nanos(),
            labels: c.labels,
            annotations: c.annotations,
            mounts: c.mounts,
            ..Default::default()
        };
        s.containers.insert(id.clone(), (sandbox.into(), st));
        Ok(id)
    }
    async fn start_container(&self, id: &str) -> Result<()> {
        let mut s = self.change("StartContainer", id)?;
        let Some(c) = s.containers.get_mut(id) else {
            return missing();
        };
        c.1.state = ContainerState::Running as i32;
        c.1.started_at = nanos();
        Ok(())
    }
    async fn stop_container(&self, id: &str, timeout: i64) -> Result<()> {
        let mut s = self.change("StopContainer", &format!("{id} {timeout}"))?;
        if let Some(c) = s.containers.get_mut(id) {
            c.1.state = ContainerState::Exited as i32;
            c.1.finished_at = nanos();
        }
        Ok(())
    }
    async fn remove_container(&self, id: &str) -> Result<()> {
        self.change("RemoveContainer", id)?.containers.remove(id);
        Ok(())
    }
    async fn list_containers(&self, f: ContainerFilter) -> Result<Vec<Container>> {
        let s = self.up()?;
        if let Some(stale) = s.stale.as_ref().filter(|_| f.label_selector.is_empty()) {
            return Ok(stale.clone());
        }
        Ok(s.containers
            .values()
            .filter(|c| {
                f.label_selector
                    .iter()
                    .all(|(k, v)| c.1.labels.get(k) == Some(v))
            })
            .map(|(sandbox, c)| Container {
                id: c.id.clone(),
                pod_sandbox_id: sandbox.clone(),
                metadata: c.metadata.clone(),
                state: c.state,
                created_at: c.created_at,
                labels: c.labels.clone(),
                ..Default::default()
            })
            .collect())
    }
    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let s = self.up()?;
        let Some((_, c)) = s.containers.get(id) else {
            return missing();
        };
        let mut c = c.clone();
        if s.lie {
            c.metadata = None;
            c.image = None;
            c.state = i32::MAX;
            c.created_at = i64::MIN;
            c.started_at = i64::MAX;
            c.finished_at = i64::MIN;
            c.exit_code = i32::MIN;
            for k in [
                "io.kubernetes.container.restartCount",
                "io.kubernetes.pod.terminationGracePeriod",
            ] {
                c.annotations.insert(k.into(), i64::MAX.to_string());
            }
        }
        Ok(c)
    }
    async fn reopen_container_log(&self, _: &str) -> Result<()> {
        Ok(())
    }
    async fn exec_sync(&self, id: &str, cmd: &[String], _: Duration) -> Result<ExecSyncResponse> {
        drop(self.change("ExecSync", &format!("{id} {}", cmd.join(" ")))?);
        Ok(ExecSyncResponse::default())
    }
    async fn exec(&self, _: ExecRequest) -> Result<String> {
        unknown()
    }
    async fn attach(&self, _: AttachRequest) -> Result<String> {
        unknown()
    }
    async fn port_forward(&self, _: PortForwardRequest) -> Result<String> {
        unknown()
    }
    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>> {
        Ok(Vec::new())
    }
    async fn list_images(&self) -> Result<Vec<Image>> {
        Ok(Vec::new())
    }
    async fn image_status(&self, image: &str) -> Result<Option<Image>> {
        Ok(Some(Image {
            id: format!("sha256:{image}"),
            ..Default::default()
        }))
    }
    async fn pull_image(
        &self,
        image: &str,
        _: Option<AuthConfig>,
        _: Option<PodSandboxConfig>,
    ) -> Result<String> {
        drop(self.change("PullImage", image)?);
        Ok(image.into())
    }
    async fn remove_image(&self, _: &str) -> Result<()> {
        Ok(())
    }
    async fn image_fs_info(&self) -> Result<ImageFsInfoResponse> {
        Ok(ImageFsInfoResponse::default())
    }
}

fn start(dir: &Path, fake: &Arc<Fake>) -> (Shutdown, tokio::task::JoinHandle<()>) {
    start_with(dir, fake, |_| {})
}

fn start_with(
    dir: &Path,
    fake: &Arc<Fake>,
    change: impl FnOnce(&mut KubeletConfiguration),
) -> (Shutdown, tokio::task::JoinHandle<()>) {
    let mut config = KubeletConfiguration {
        static_pod_path: dir.join("manifests").display().to_string(),
        pod_logs_dir: dir.join("logs/pods").display().to_string(),
        cgroups_per_qos: Some(false),
        enable_server: Some(false),
        healthz_port: Some(0),
        container_runtime_endpoint: dir.join("none.sock").display().to_string(),
        authorization: serde_json::from_str(r#"{"mode":"AlwaysAllow"}"#).unwrap(),
        ..Default::default()
    };
    change(&mut config);
    let flags = FlagValues {
        hostname_override: "n".into(),
        node_ip: "127.0.0.1".into(),
        root_dir: dir.join("root"),
        cert_dir: dir.join("pki"),
        ..Default::default()
    };
    let settings = Settings::new(config, flags).unwrap();
    let shutdown = Shutdown::new();
    let deps = Dependencies {
        runtime: Some(fake.clone()),
        ..Default::default()
    };
    let s = shutdown.clone();
    let task = tokio::spawn(async move { kubelet::run(settings, deps, s).await.unwrap() });
    (shutdown, task)
}

async fn eventually(what: &str, check: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  terminationGracePeriodSeconds: 9\n  containers:\n  - name: c\n    image: x:1\n    lifecycle: {preStop: {exec: {command: [bye]}}}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_pod_lives_through_crashes_failures_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let fake = Arc::new(Fake::default());
    fake.lock().fail.extend(["RunPodSandbox", "StartContainer"]);
    let (shutdown, task) = start(dir.path(), &fake);
    std::fs::write(manifests.join("a.yaml"), POD).unwrap();

    // Failures of the runtime are tried again.
    eventually("the pod runs", || fake.running().len() == 1).await;
    // The container that was made but not started made room for the next.
    assert_eq!(fake.calls("RemoveContainer").len(), 1);

    // A crash is answered by one new container, with the restart count on it.
    fake.exit("c", 1);
    eventually("it is started again", || fake.running().len() == 1).await;
    let id = fake.running().remove(0);
    let count =
        fake.lock().containers[&id].1.annotations["io.kubernetes.container.restartCount"].clone();
    assert_eq!(count, "2");
    // The second crash waits for its back-off, by the times that the runtime wrote down.
    fake.exit("c", 1);
    let ended = fake.lock().containers[&id].1.finished_at;
    eventually("it is started after the back-off", || {
        fake.running().len() == 1
    })
    .await;
    let id = fake.running().remove(0);
    let waited = fake.lock().containers[&id].1.started_at - ended;
    assert!(waited >= 9_900_000_000, "started again after {waited} ns");

    // A restarted kubelet touches nothing.
    shutdown.drain(Duration::from_secs(5)).await;
    task.await.unwrap();
    let before = fake.lock().calls.clone();
    let looks = fake.lock().looks;
    let (shutdown, task) = start(dir.path(), &fake);
    eventually("it has looked at what runs", || {
        fake.lock().looks >= looks + 4
    })
    .await;
    let changes: Vec<String> = fake
        .lock()
        .calls
        .iter()
        .skip(before.len())
        .filter(|c| !c.starts_with("RemoveContainer"))
        .cloned()
        .collect();
    assert_eq!(changes, Vec::<String>::new());

    // A runtime that goes away and comes back changes nothing either.
    let before = fake.lock().calls.len();
    let looks = fake.lock().looks;
    let refused = fake.lock().refused;
    fake.lock().down = true;
    eventually("it was refused", || fake.lock().refused >= refused + 2).await;
    fake.lock().down = false;
    eventually("it looks again", || fake.lock().looks >= looks + 3).await;
    assert_eq!(fake.running(), [id]);
    // Dead containers may be cleared away at any time.
    let calls = fake.lock().calls[before..].to_vec();
    let changes = calls.iter().filter(|c| !c.starts_with("RemoveContainer"));
    assert_eq!(changes.count(), 0, "{calls:?}");

    // The manifest goes: hook, stop with the pod's grace, everything removed.
    std::fs::remove_file(manifests.join("a.yaml")).unwrap();
    eventually("nothing is left", || {
        fake.lock().sandboxes.is_empty() && fake.lock().containers.is_empty()
    })
    .await;
    assert_eq!(fake.calls("ExecSync").len(), 1);
    assert!(
        fake.calls("StopContainer").last().unwrap().ends_with(" 9"),
        "{:?}",
        fake.calls("StopContainer")
    );
    eventually("its directory is gone", || {
        std::fs::read_dir(dir.path().join("root/pods"))
            .unwrap()
            .count()
            == 0
    })
    .await;
    shutdown.drain(Duration::from_secs(5)).await;
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_no_source_knows_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("manifests")).unwrap();
    let fake = Arc::new(Fake::default());
    {
        let labels = BTreeMap::from([("io.kubernetes.pod.uid".to_string(), "gone".to_string())]);
        let meta = Some(PodSandboxMetadata {
            name: "gone".into(),
            ..Default::default()
        });
        let annotations = BTreeMap::from([(
            "io.kubernetes.pod.terminationGracePeriod".to_string(),
            "4".to_string(),
        )]);
        let mut s = fake.lock();
        s.sandboxes.insert(
            "s".into(),
            PodSandboxStatus {
                id: "s".into(),
                metadata: meta,
                labels: labels.clone(),
                ..Default::default()
            },
        );
        let c = ContainerStatus {
            id: "c".into(),
            state: 1,
            metadata: Some(ContainerMetadata {
                name: "c".into(),
                attempt: 0,
            }),
            labels,
            annotations,
            ..Default::default()
        };
        s.containers.insert("c".into(), ("s".into(), c));
    }
    let (shutdown, task) = start(dir.path(), &fake);
    eventually("the orphan is gone", || {
        fake.lock().sandboxes.is_empty() && fake.lock().containers.is_empty()
    })
    .await;
    assert_eq!(fake.calls("StopContainer"), ["StopContainer c 4"]);
    shutdown.drain(Duration::from_secs(5)).await;
    task.await.unwrap();
}

/// Numbers of a pod at their ends neither end its worker nor make it a pod that never goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_at_their_ends_leave_a_pod_that_goes() {
    const MAX: i64 = i64::MAX;
    let probe = format!(
        "{{exec: {{command: [x]}}, initialDelaySeconds: {0}, timeoutSeconds: {0}, periodSeconds: {0}, failureThreshold: {0}}}",
        i32::MAX
    );
    let hooks = format!("lifecycle: {{preStop: {{sleep: {{seconds: {MAX}}}}}}}");
    for (spec, container, stop) in [
        // No duration holds it: no grace, and so no time for the hook.
        (
            format!("terminationGracePeriodSeconds: {MAX}"),
            hooks.as_str(),
            " 2",
        ),
        ("terminationGracePeriodSeconds: -1".into(), "", " 2"),
        (
            format!("terminationGracePeriodSeconds: {}", i64::MIN),
            hooks.as_str(),
            " 2",
        ),
        // Longer than anybody waits for a pod whose manifest is gone.
        (
            "terminationGracePeriodSeconds: 9000000000".into(),
            "",
            " 3600",
        ),
        (
            format!("terminationGracePeriodSeconds: 5\n  activeDeadlineSeconds: {MAX}"),
            &format!("livenessProbe: {probe}\n    startupProbe: {probe}"),
            " 5",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let manifests = dir.path().join("manifests");
        std::fs::create_dir(&manifests).unwrap();
        let fake = Arc::new(Fake::default());
        let (shutdown, task) = start(dir.path(), &fake);
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec:\n  {spec}\n  containers:\n  - name: c\n    image: x:1\n    {container}\n"
        );
        std::fs::write(manifests.join("a.yaml"), &pod).unwrap();
        eventually(&format!("it runs: {pod}"), || fake.running().len() == 1).await;
        std::fs::remove_file(manifests.join("a.yaml")).unwrap();
        eventually(&format!("it goes: {pod}"), || {
            fake.lock().sandboxes.is_empty() && fake.lock().containers.is_empty()
        })
        .await;
        let stops = fake.calls("StopContainer");
        assert!(stops.last().unwrap().ends_with(stop), "{stops:?} for {pod}");
        shutdown.drain(Duration::from_secs(5)).await;
        task.await.unwrap();
    }
}

/// A panic over one pod is that pod's: it begins again, and the others never notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_over_one_pod_ends_neither_it_nor_others() {
    let dir = tempfile::tempdir().unwrap();
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let fake = Arc::new(Fake::default());
    fake.lock().panic.insert("CreateContainer");
    let (shutdown, task) = start(dir.path(), &fake);
    std::fs::write(manifests.join("a.yaml"), POD).unwrap();
    std::fs::write(manifests.join("b.yaml"), POD.replace("name: a", "name: b")).unwrap();
    eventually("both run", || fake.running().len() == 2).await;
    assert!(fake.lock().panic.is_empty());
    for f in ["a.yaml", "b.yaml"] {
        std::fs::remove_file(manifests.join(f)).unwrap();
    }
    eventually("both go", || fake.lock().containers.is_empty()).await;
    shutdown.drain(Duration::from_secs(5)).await;
    task.await.unwrap();
}

/// What a runtime says at its most absurd is survived, and forgotten once it speaks the truth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_runtime_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let fake = Arc::new(Fake::default());
    let (shutdown, task) = start(dir.path(), &fake);
    std::fs::write(manifests.join("a.yaml"), POD).unwrap();
    eventually("it runs", || fake.running().len() == 1).await;
    fake.lock().lie = true;
    // The worker looks, believes the container to be in no known state and makes another, again and again.
    fake.exit("c", 1);
    eventually("it was looked at", || {
        fake.calls("CreateContainer").len() > 3
    })
    .await;
    fake.lock().lie = false;
    eventually("it runs again", || !fake.running().is_empty()).await;
    // What may run is stopped before it is removed, by whoever removes it.
    for removed in fake.calls("RemoveContainer") {
        let id = removed.split(' ').nth(1).unwrap();
        let calls = fake.lock().calls.clone();
        let stop = format!("StopContainer {id} ");
        let stopped = calls.iter().position(|c| c.starts_with(&stop));
        assert!(
            stopped < calls.iter().position(|c| *c == removed) && stopped.is_some(),
            "{id}: {calls:?}"
        );
    }
    std::fs::remove_file(manifests.join("a.yaml")).unwrap();
    eventually("it goes", || fake.lock().containers.is_empty()).await;
    shutdown.drain(Duration::from_secs(5)).await;
    task.await.unwrap();
}

/// A change that no list tells of is seen with the next look, at the latest after one and a half times `syncFrequency`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_was_missed_is_seen_later() {
    let dir = tempfile::tempdir().unwrap();
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let fake = Arc::new(Fake::default());
    let (shutdown, task) = start_with(dir.path(), &fake, |c| {
        c.sync_frequency = Some(Duration::from_millis(500));
    });
    std::fs::write(manifests.join("a.yaml"), POD).unwrap();
    eventually("it runs", || fake.running().len() == 1).await;
    let all = fake.list_containers(ContainerFilter::default());
    let all = all.await.unwrap();
    let looks = fake.lock().looks;
    fake.lock().stale = Some(all);
    eventually("the start was seen", || fake.lock().looks >= looks + 4).await;
    fake.lock().containers.clear();
    eventually("it runs again", || fake.running().len() == 1).await;
    fake.lock().stale = None;
    std::fs::remove_file(manifests.join("a.yaml")).unwrap();
    eventually("it goes", || fake.lock().containers.is_empty()).await;
    shutdown.drain(Duration::from_secs(5)).await;
    task.await.unwrap();
}

/// What the port answers to whom: nothing without credentials, and with `enableDebuggingHandlers: false` nothing that
/// reaches into a pod.
///
/// CVE-2025-0426: there is no checkpoint to fill a disk with, with or without credentials.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2025_0426_no_checkpoint_and_debugging_can_be_closed() {
    for (anonymous, debugging, path, code, body) in [
        (
            false,
            true,
            "/checkpoint/default/a-n/c",
            401,
            "Unauthorized",
        ),
        (
            true,
            true,
            "/checkpoint/default/a-n/c",
            404,
            "404 page not found",
        ),
        (
            true,
            true,
            "/containerLogs/default/none/c",
            404,
            "pod \"none\" does not exist",
        ),
        (
            true,
            false,
            "/containerLogs/default/none/c",
            405,
            "Debug endpoints are disabled.",
        ),
        (
            true,
            false,
            "/exec/default/none/c",
            405,
            "Debug endpoints are disabled.",
        ),
        (
            true,
            false,
            "/runningpods/",
            405,
            "Debug endpoints are disabled.",
        ),
        (true, false, "/healthz/ping", 200, "ok"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let fake = Arc::new(Fake::default());
        let (shutdown, task) = start_with(dir.path(), &fake, |c| {
            c.enable_server = Some(true);
            c.address = "127.0.0.1".into();
            c.port = address.port().into();
            c.authentication.anonymous.enabled = Some(anonymous);
            c.enable_debugging_handlers = Some(debugging);
        });
        let end = Instant::now() + Duration::from_secs(20);
        let got = loop {
            match component::probe::get(address, path, Duration::from_secs(5)).await {
                Ok(answer) => break answer,
                Err(e) => assert!(Instant::now() < end, "{e}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!((got.0, got.1.trim()), (code, body), "{path}");
        shutdown.drain(Duration::from_secs(5)).await;
        task.await.unwrap();
    }
}
