//! A cluster for tests: `keelson` with a state directory, name and subnet of its own.

use crate::leftovers;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub struct Options {
    pub nodes: usize,
    pub store: &'static str,
    pub proxy_mode: &'static str,
    pub control_plane: &'static str,
}

pub struct Cluster {
    dir: PathBuf,
    keelson: PathBuf,
    pub options: Options,
}

/// Waits until `check` gives something; fails with what it said last.
pub fn wait_for<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match check() {
            Ok(value) => return value,
            Err(last) if Instant::now() > deadline => {
                panic!("{what}: not within {} s: {last}", limit.as_secs())
            }
            // The tools asked here have no way to wait for a condition themselves.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

pub fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl Cluster {
    pub fn up(group: &str, options: &Options) -> Cluster {
        let beside = std::env::current_exe().unwrap();
        let target = beside.parent().unwrap().parent().unwrap().to_path_buf();
        let cluster = Cluster {
            dir: PathBuf::from(format!("/var/tmp/keelson-e2e-{group}")),
            keelson: target.join("keelson"),
            options: options.clone(),
        };
        // What an interrupted run has left.
        cluster.try_keelson(&["down", "--name", "ke2e"]).unwrap();
        let bin_dir = cluster.bin_dir();
        let up = cluster.try_keelson(&[
            "up",
            "--name=ke2e",
            "--subnet=10.89.77.0/24",
            &format!("--nodes={}", options.nodes),
            &format!("--store={}", options.store),
            &format!("--proxy-mode={}", options.proxy_mode),
            &format!("--control-plane={}", options.control_plane),
            &format!("--bin-dir={}", bin_dir.display()),
        ]);
        match up {
            Ok(text) => println!("{text}"),
            Err(error) => {
                println!("{error}");
                cluster.explain();
                cluster.try_keelson(&["down"]).unwrap();
                panic!("keelson up failed");
            }
        }
        cluster
    }

    /// Where the daemons are.
    pub fn bin_dir(&self) -> PathBuf {
        let beside = || self.keelson.parent().unwrap().to_path_buf();
        std::env::var("KEELSON_BIN_DIR").map_or_else(|_| beside(), PathBuf::from)
    }

    pub fn try_keelson(&self, args: &[&str]) -> Result<String, String> {
        self.with_input(args, "")
    }

    pub fn keelson(&self, args: &[&str]) -> String {
        self.try_keelson(args).unwrap_or_else(|e| panic!("{e}"))
    }

    fn with_input(&self, args: &[&str], input: &str) -> Result<String, String> {
        let mut child = Command::new(&self.keelson)
            .env("KEELSON_STATE_DIR", &self.dir)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.keelson.display()));
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if out.status.success() {
            return Ok(text);
        }
        Err(format!(
            "keelson {}: {}\n{text}{}",
            args.join(" "),
            out.status,
            String::from_utf8_lossy(&out.stderr)
        ))
    }

    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        let mut words = vec!["kubectl"];
        words.extend(args);
        self.try_keelson(&words)
    }

    pub fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A command that has not been started, for what runs beside a test.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.keelson);
        command
            .env("KEELSON_STATE_DIR", &self.dir)
            .arg("kubectl")
            .args(args);
        command
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let mut words = args.to_vec();
        words.extend(["-o", "json"]);
        serde_json::from_str(&self.kubectl(&words)).unwrap()
    }

    pub fn try_json(&self, args: &[&str]) -> Result<Value, String> {
        let mut words = args.to_vec();
        words.extend(["-o", "json"]);
        serde_json::from_str(&self.try_kubectl(&words)?).map_err(|e| e.to_string())
    }

    pub fn apply(&self, manifest: &str) {
        self.with_input(&["kubectl", "apply", "-f", "-"], manifest)
            .unwrap_or_else(|e| panic!("{e}"));
    }

    pub fn try_exec(&self, node: &str, command: &[&str]) -> Result<String, String> {
        let mut words = vec!["exec", node];
        words.extend(command);
        self.try_keelson(&words)
    }

    pub fn exec(&self, node: &str, command: &[&str]) -> String {
        self.try_exec(node, command)
            .unwrap_or_else(|e| panic!("{e}"))
    }

    /// A file of the cluster's state directory.
    pub fn file(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    /// A daemon's process as the supervisor has written it down.
    pub fn daemon(&self, node: &str, daemon: &str) -> Option<Daemon> {
        let bytes = std::fs::read(self.file(&format!("run/{node}.{daemon}.json"))).ok()?;
        let running: Value = serde_json::from_slice(&bytes).ok()?;
        Some(Daemon {
            pid: running["pid"].as_i64()? as i32,
            started: running["started"].as_u64()?,
            restarts: running["restarts"].as_u64()?,
        })
    }

    /// Every daemon of every node that the supervisor looks after, by `NODE.DAEMON`. Each must run.
    pub fn daemons(&self) -> BTreeMap<String, Daemon> {
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(self.file("units")).unwrap().flatten() {
            let file = entry.file_name().into_string().unwrap();
            let unit = file.strip_suffix(".json").unwrap();
            let (node, daemon) = unit.split_once('.').unwrap();
            let running = self
                .daemon(node, daemon)
                .unwrap_or_else(|| panic!("{unit} is not running"));
            assert!(running.is_alive(), "{unit} has ended: {running:?}");
            all.insert(unit.to_string(), running);
        }
        all
    }

    /// The supervisor's own process and its start time.
    pub fn supervisor(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.file("supervisor.json")).unwrap()).unwrap()
    }

    /// A namespace of its own for a test, deleted when it ends.
    pub fn namespace(&self, name: &'static str) -> Namespace<'_> {
        self.kubectl(&["create", "namespace", name]);
        wait_for("the default service account", seconds(20), || {
            self.try_kubectl(&["-n", name, "get", "serviceaccount", "default"])
        });
        Namespace {
            cluster: self,
            name,
        }
    }

    /// Prints what helps to see why a case failed.
    pub fn explain(&self) {
        let show = |what: &str, result: Result<String, String>| {
            println!("---- {what}\n{}", result.unwrap_or_else(|e| e))
        };
        show("keelson status", self.try_keelson(&["status"]));
        show(
            "nodes and pods",
            self.try_kubectl(&[
                "get",
                "nodes,pods,services,endpointslices",
                "-A",
                "-o",
                "wide",
            ]),
        );
        show(
            "events",
            self.try_kubectl(&[
                "get",
                "events",
                "-A",
                "--sort-by=.metadata.creationTimestamp",
            ])
            .map(|t| tail(&t, 40)),
        );
        for daemon in [
            "supervisor",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "containerd",
        ] {
            show(daemon, self.try_keelson(&["logs", daemon, "--tail", "12"]));
        }
    }

    pub fn down_and_compare(&self, before: &leftovers::Picture) {
        self.keelson(&["down"]);
        leftovers::compare(before);
        assert!(!self.dir.exists(), "{} is still there", self.dir.display());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.dir.exists() {
            let _ = self.try_keelson(&["down"]);
        }
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A running daemon. The start time tells it from a later process with its pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Daemon {
    pub pid: i32,
    /// Clock ticks after boot, field 22 of /proc/PID/stat.
    pub started: u64,
    pub restarts: u64,
}

impl Daemon {
    pub fn is_alive(&self) -> bool {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            return false;
        };
        // The name in parentheses may hold spaces; the state is field 3.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        fields.first().is_some_and(|s| !matches!(*s, "Z" | "X"))
            && fields.get(19).and_then(|f| f.parse().ok()) == Some(self.started)
    }
}

pub struct Namespace<'a> {
    cluster: &'a Cluster,
    pub name: &'static str,
}

impl Namespace<'_> {
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args).unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        let mut words = vec!["-n", self.name];
        words.extend(args);
        self.cluster.try_kubectl(&words)
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let mut words = vec!["-n", self.name];
        words.extend(args);
        self.cluster.json(&words)
    }

    /// The pods that are not being deleted.
    pub fn pods(&self) -> Vec<Value> {
        let list = self.json(&["get", "pods"]);
        let all = list["items"].as_array().unwrap();
        all.iter()
            .filter(|p| p["metadata"]["deletionTimestamp"].is_null())
            .cloned()
            .collect()
    }

    /// Waits until exactly this many pods are there and Ready, and returns them.
    pub fn wait_pods(&self, count: usize, limit: Duration) -> Vec<Value> {
        wait_for(
            &format!("{count} ready pods in {}", self.name),
            limit,
            || {
                let pods = self.pods();
                let ready = pods.iter().filter(|p| is_ready(p)).count();
                if ready == count && pods.len() == count {
                    Ok(pods)
                } else {
                    Err(format!("{} pods, {ready} ready", pods.len()))
                }
            },
        )
    }

    /// A deployment of the sample web server, with a service in front.
    pub fn hello(&self, replicas: usize) -> String {
        self.cluster.apply(&format!(
            r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: hello, namespace: {0}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: hello}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 2}}}}
  template:
    metadata: {{labels: {{app: hello}}}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: hello
        image: keelson.local/hello:1
        ports: [{{containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: hello, namespace: {0}}}
spec:
  selector: {{app: hello}}
  ports: [{{port: 80, targetPort: 8080}}]
"#,
            self.name
        ));
        self.wait_pods(replicas, seconds(60));
        let service = self.json(&["get", "service", "hello"]);
        service["spec"]["clusterIP"].as_str().unwrap().to_string()
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let _ = self
            .cluster
            .try_kubectl(&["delete", "namespace", self.name, "--wait=false"]);
        let _ = self.cluster.try_kubectl(&[
            "-n",
            self.name,
            "delete",
            "pods",
            "--all",
            "--grace-period=1",
            "--wait=false",
        ]);
    }
}

pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|c| c["type"] == kind);
    found.and_then(|c| c["status"].as_str()).unwrap_or("")
}

pub fn is_ready(object: &Value) -> bool {
    condition(object, "Ready") == "True"
}

pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

/// Ids of a pod's containers and how often they were restarted.
pub fn containers(pod: &Value) -> Vec<(String, i64)> {
    let statuses = pod["status"]["containerStatuses"].as_array();
    statuses
        .into_iter()
        .flatten()
        .map(|s| {
            (
                s["containerID"].as_str().unwrap_or("").into(),
                s["restartCount"].as_i64().unwrap_or(-1),
            )
        })
        .collect()
}
