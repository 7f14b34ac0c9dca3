//! The kubelet's port 10250: logs, exec, attach, port-forward, pods, statistics and metrics.
//!
//! Every path is behind [`auth::KubeletGate`]. Names in paths are only ever looked up, never joined to file paths.

pub mod auth;
pub mod idle;
pub mod logs;
pub mod spdy;
pub mod stats;
pub mod streams;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use component::serve::{Body, Handler, Peer, body, text};
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::cri::proto::{AttachRequest, ContainerFilter, ExecRequest, PortForwardRequest};
use crate::pod::{ContainerStatus, Pod};
use crate::runtime::ID_PREFIX;
use crate::runtime::state::{self, Phase};
use crate::shared::Shared;
use crate::worker::Workers;
use streams::{Upgrade, Wanted, upgrade_of};

/// Answers the kubelet's API.
pub struct Server {
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    healthy: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

type Query = Vec<(String, String)>;

fn query(uri: &http::Uri) -> Query {
    let decode = |s: &str| {
        let s = s.replace('+', " ");
        let mut out = Vec::with_capacity(s.len());
        let bytes = s.as_bytes();
        let mut i = 0;
        while let Some(b) = bytes.get(i) {
            let hex = bytes
                .get(i + 1..i + 3)
                .and_then(|h| std::str::from_utf8(h).ok())
                .and_then(|h| u8::from_str_radix(h, 16).ok());
            match (b, hex) {
                (b'%', Some(v)) => {
                    out.push(v);
                    i += 3;
                }
                _ => {
                    out.push(*b);
                    i += 1;
                }
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    uri.query()
        .unwrap_or_default()
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|p| p.split_once('=').unwrap_or((p, "")))
        .map(|(k, v)| (decode(k), decode(v)))
        .collect()
}

fn get<'a>(q: &'a Query, name: &str) -> Option<&'a str> {
    q.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
}

fn flag(q: &Query, name: &str) -> bool {
    get(q, name).is_some_and(|v| matches!(v, "1" | "true" | "True" | "t" | "T" | "TRUE"))
}

fn json_answer(v: &Value) -> Response<Body> {
    let mut r = Response::new(body(v.to_string()));
    r.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    r
}

#[async_trait]
impl Handler for Server {
    async fn handle(&self, _: &Peer, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_string();
        let segments = auth::segments(&path);
        let get_only = matches!(*request.method(), Method::GET | Method::HEAD);
        if !self.shared.settings.debugging_handlers && is_debugging(&segments) {
            return text(405, "Debug endpoints are disabled.\n");
        }
        match segments.as_slice() {
            ["healthz"] => match (self.healthy)() {
                Ok(()) => text(200, "ok"),
                Err(e) => text(500, format!("{e}\n")),
            },
            ["healthz", "ping" | "log"] => text(200, "ok"),
            ["healthz", "syncloop"] => match (self.healthy)() {
                Ok(()) => text(200, "ok"),
                Err(e) => text(500, format!("{e}\n")),
            },
            ["metrics"] => {
                let mut r = text(200, self.shared.metrics.render());
                r.headers_mut().insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static(component::metrics::CONTENT_TYPE),
                );
                r
            }
            ["metrics", "resource"] => {
                let mut r = text(200, stats::resource(&self.shared).await);
                r.headers_mut().insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static(component::metrics::CONTENT_TYPE),
                );
                r
            }
            ["stats", "summary"] | ["stats"] => match stats::summary(&self.shared).await {
                Ok(v) => json_answer(&v),
                Err(e) => text(500, format!("{e}\n")),
            },
            ["pods"] if get_only => json_answer(&self.pods()),
            ["runningpods"] if get_only => self.running_pods().await,
            ["containerLogs", ns, pod, container] if get_only => {
                self.container_logs(ns, pod, container, &query(request.uri()))
                    .await
            }
            ["exec", ns, pod, container] => self.exec(ns, pod, "", container, request).await,
            ["exec", ns, pod, uid, container] => self.exec(ns, pod, uid, container, request).await,
            ["attach", ns, pod, container] => self.attach(ns, pod, "", container, request).await,
            ["attach", ns, pod, uid, container] => {
                self.attach(ns, pod, uid, container, request).await
            }
            ["portForward", ns, pod] => self.port_forward(ns, pod, "", request).await,
            ["portForward", ns, pod, uid] => self.port_forward(ns, pod, uid, request).await,
            ["run", ns, pod, container] => self.run_command(ns, pod, "", container, request).await,
            ["run", ns, pod, uid, container] => {
                self.run_command(ns, pod, uid, container, request).await
            }
            _ => text(404, "404 page not found\n"),
        }
    }
}

/// Paths that `enableDebuggingHandlers: false` closes.
fn is_debugging(segments: &[&str]) -> bool {
    matches!(
        segments,
        [
            "run" | "exec" | "attach" | "portForward" | "containerLogs" | "runningpods" | "logs",
            ..
        ] | ["debug", "pprof", ..]
    )
}

/// What `--read-only-port` shows of a [`Server`], to everybody: health, pods, statistics, metrics.
pub struct ReadOnly(pub Arc<Server>);

/// Whether the read-only port answers a path.
fn is_read_only(path: &str) -> bool {
    let first = path.trim_matches('/').split('/').next();
    matches!(first, Some("healthz" | "pods" | "stats" | "metrics"))
}

#[async_trait]
impl Handler for ReadOnly {
    async fn handle(&self, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
        if !is_read_only(request.uri().path()) {
            return text(404, "404 page not found\n");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(405, "405: Method Not Allowed\n");
        }
        self.0.handle(peer, request).await
    }
}

/// Drops what an empty field would only add weight with.
fn prune(v: &mut Value) {
    match v {
        Value::Object(o) => {
            o.values_mut().for_each(prune);
            o.retain(|_, v| {
                !(v.is_null()
                    || v.as_str() == Some("")
                    || v.as_array().is_some_and(Vec::is_empty)
                    || v.as_object().is_some_and(serde_json::Map::is_empty))
            });
        }
        Value::Array(a) => a.iter_mut().for_each(prune),
        _ => {}
    }
}

impl Server {
    /// Over the workers' pods; `healthy` answers /healthz.
    pub fn new(
        shared: Arc<Shared>,
        workers: Arc<Workers>,
        healthy: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    ) -> Server {
        Server {
            shared,
            workers,
            healthy,
        }
    }

    fn pods(&self) -> Value {
        let items: Vec<Value> = self
            .workers
            .pods(false)
            .into_iter()
            .map(|p| {
                let mut v = serde_json::to_value(&*p).unwrap_or_default();
                if let Some(s) = self.shared.status.get(&p.metadata.uid)
                    && let Some(o) = v.as_object_mut()
                {
                    o.insert("status".into(), serde_json::to_value(s).unwrap_or_default());
                }
                prune(&mut v);
                v
            })
            .collect();
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
    }

    async fn running_pods(&self) -> Response<Body> {
        let list = match self
            .shared
            .rt
            .list_containers(ContainerFilter::default())
            .await
        {
            Ok(l) => l,
            Err(e) => return text(500, format!("{e}\n")),
        };
        let mut pods: std::collections::BTreeMap<String, Value> = std::collections::BTreeMap::new();
        for c in list
            .into_iter()
            .filter(|c| Phase::from_cri(c.state) == Phase::Running)
        {
            let label = |k: &str| c.labels.get(k).cloned().unwrap_or_default();
            let uid = label(state::POD_UID);
            let e = pods.entry(uid.clone()).or_insert_with(|| {
                json!({"metadata": {"name": label(state::POD_NAME), "namespace": label(state::POD_NAMESPACE), "uid": uid}, "spec": {"containers": []}, "status": {}})
            });
            if let Some(l) = e
                .pointer_mut("/spec/containers")
                .and_then(Value::as_array_mut)
            {
                l.push(json!({"name": label(state::CONTAINER_NAME), "image": c.image.map(|i| i.image).unwrap_or_default(), "resources": {}}));
            }
        }
        let items: Vec<Value> = pods.into_values().collect();
        json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }

    fn find(&self, ns: &str, name: &str, uid: &str) -> Result<Arc<Pod>, Box<Response<Body>>> {
        self.workers
            .by_name(ns, name)
            .filter(|p| uid.is_empty() || p.metadata.uid == uid)
            .ok_or_else(|| Box::new(text(404, "pod does not exist\n")))
    }

    /// The id of a running container; `gone` is the answer when it does not run.
    async fn running(
        &self,
        pod: &Pod,
        container: &str,
        gone: String,
    ) -> Result<String, Box<Response<Body>>> {
        let rt = state::read(&*self.shared.rt, &pod.metadata.uid)
            .await
            .map_err(|e| Box::new(text(500, format!("{e}\n"))))?;
        rt.find(container)
            .filter(|c| c.phase == Phase::Running)
            .map(|c| c.id.clone())
            .ok_or_else(|| Box::new(text(500, gone)))
    }

    async fn container_logs(
        &self,
        ns: &str,
        name: &str,
        container: &str,
        q: &Query,
    ) -> Response<Body> {
        let pod = match self.find(ns, name, "") {
            Ok(p) => p,
            Err(_) => return text(404, format!("pod \"{name}\" does not exist\n")),
        };
        if pod.container(container).is_none() {
            return text(
                404,
                format!("container \"{container}\" not found in pod \"{name}\"\n"),
            );
        }
        let options = match log_options(q) {
            Ok(o) => o,
            Err(e) => return text(400, e.to_string()),
        };
        let rt = match state::read(&*self.shared.rt, &pod.metadata.uid).await {
            Ok(r) => r,
            Err(e) => return text(500, format!("{e}\n")),
        };
        let status = self
            .shared
            .status
            .get(&pod.metadata.uid)
            .unwrap_or_else(|| pod.status.clone());
        let all = status
            .container_statuses
            .iter()
            .chain(&status.init_container_statuses)
            .chain(&status.ephemeral_container_statuses);
        let id = match container_for_logs(
            all.clone().find(|c| c.name == container),
            name,
            container,
            options.previous,
        ) {
            Ok(id) => id,
            // The status may lag behind the runtime by a moment.
            Err(e) => match rt
                .find(container)
                .filter(|c| !options.previous && c.phase != Phase::Created)
            {
                Some(c) => c.id.clone(),
                None => return text(400, e.to_string()),
            },
        };
        let record = rt.containers.iter().find(|c| c.id == id);
        let path = match record {
            Some(r) if !r.log_path.is_empty() => PathBuf::from(&r.log_path),
            Some(r) => PathBuf::from(crate::runtime::config::log_directory(
                &self.shared.host(),
                &pod,
            ))
            .join(container)
            .join(format!("{}.log", r.restart_count)),
            None => {
                return text(
                    400,
                    format!("unable to retrieve container logs for {ID_PREFIX}{id}"),
                );
            }
        };
        if tokio::fs::metadata(&path).await.is_err() {
            return text(
                500,
                format!(
                    "failed to try resolving symlinks in path \"{}\": no such file or directory\n",
                    path.display()
                ),
            );
        }
        let (tx, mut rx) = mpsc::channel::<Bytes>(8);
        let runtime = self.shared.rt.clone();
        let stop = self.shared.stop.clone();
        tokio::spawn(async move {
            let running = || {
                let (rt, id) = (runtime.clone(), id.clone());
                async move {
                    rt.container_status(&id)
                        .await
                        .is_ok_and(|s| Phase::from_cri(s.state) == Phase::Running)
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                r = logs::read(path, options, running, tx) => if let Err(e) = r {
                    tracing::debug!(error = %e, "reading a log failed");
                }
            }
        });
        let stream = futures::stream::poll_fn(move |cx| {
            rx.poll_recv(cx).map(|b| b.map(|b| Ok(Frame::data(b))))
        });
        let mut r = Response::new(StreamBody::new(stream).boxed_unsync());
        r.headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        r
    }

    async fn exec(
        &self,
        ns: &str,
        name: &str,
        uid: &str,
        container: &str,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let q = query(request.uri());
        let wanted = wanted(&q);
        let cmd: Vec<String> = q
            .iter()
            .filter(|(k, _)| k == "command")
            .map(|(_, v)| v.clone())
            .collect();
        let Some(kind) = upgrade_of(request.headers()) else {
            return text(400, "Upgrade request required\n");
        };
        if !(wanted.stdin || wanted.stdout || wanted.stderr) {
            return text(
                400,
                "you must specify at least 1 of stdin, stdout, stderr\n",
            );
        }
        let found = async {
            let pod = self.find(ns, name, uid)?;
            let gone = format!("container not found (\"{container}\")\n");
            self.running(&pod, container, gone).await
        };
        let id = match found.await {
            Ok(id) => id,
            Err(r) => return *r,
        };
        let req = ExecRequest {
            container_id: id,
            cmd,
            tty: wanted.tty,
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr && !wanted.tty,
        };
        let idle = self.shared.settings.stream_idle;
        match self.shared.rt.exec(req).await {
            Ok(url) => match kind {
                Upgrade::Spdy => streams::spdy(request, url, idle).await,
                Upgrade::WebSocket => streams::websocket(request, url, wanted, idle).await,
            },
            Err(e) => text(500, format!("{e}\n")),
        }
    }

    async fn attach(
        &self,
        ns: &str,
        name: &str,
        uid: &str,
        container: &str,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let q = query(request.uri());
        let wanted = wanted(&q);
        let Some(kind) = upgrade_of(request.headers()) else {
            return text(400, "Upgrade request required\n");
        };
        let found = async {
            let pod = self.find(ns, name, uid)?;
            let tty = pod.container(container).is_some_and(|c| c.tty);
            let gone = format!("container {container} not found in pod {name}_{ns}\n");
            Ok::<_, Box<Response<Body>>>((self.running(&pod, container, gone).await?, tty))
        };
        let (id, tty) = match found.await {
            Ok(f) => f,
            Err(r) => return *r,
        };
        let wanted = Wanted { tty, ..wanted };
        let req = AttachRequest {
            container_id: id,
            stdin: wanted.stdin,
            tty,
            stdout: wanted.stdout,
            stderr: wanted.stderr && !tty,
        };
        let idle = self.shared.settings.stream_idle;
        match self.shared.rt.attach(req).await {
            Ok(url) => match kind {
                Upgrade::Spdy => streams::spdy(request, url, idle).await,
                Upgrade::WebSocket => streams::websocket(request, url, wanted, idle).await,
            },
            Err(e) => text(500, format!("{e}\n")),
        }
    }

    async fn port_forward(
        &self,
        ns: &str,
        name: &str,
        uid: &str,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let q = query(request.uri());
        let Some(kind) = upgrade_of(request.headers()) else {
            return text(400, "Upgrade request required\n");
        };
        let pod = match self.find(ns, name, uid) {
            Ok(p) => p,
            Err(r) => return *r,
        };
        let rt = match state::read(&*self.shared.rt, &pod.metadata.uid).await {
            Ok(r) => r,
            Err(e) => return text(500, format!("{e}\n")),
        };
        let Some(sandbox) = rt.sandboxes.iter().find(|s| s.ready) else {
            return text(500, "the pod has no running sandbox\n");
        };
        let ports = match ports(&q) {
            Ok(p) => p,
            Err(e) if kind == Upgrade::WebSocket && !streams::tunnels(request.headers()) => {
                return text(400, format!("{e}\n"));
            }
            // SPDY names its ports later, stream by stream.
            Err(_) => Vec::new(),
        };
        let req = PortForwardRequest {
            pod_sandbox_id: sandbox.id.clone(),
            port: ports.iter().map(|p| i32::from(*p)).collect(),
        };
        let idle = self.shared.settings.stream_idle;
        match self.shared.rt.port_forward(req).await {
            Ok(url) => match kind {
                Upgrade::Spdy => streams::spdy(request, url, idle).await,
                Upgrade::WebSocket => streams::port_forward(request, url, ports, idle).await,
            },
            Err(e) => text(500, format!("{e}\n")),
        }
    }

    async fn run_command(
        &self,
        ns: &str,
        name: &str,
        uid: &str,
        container: &str,
        request: Request<Incoming>,
    ) -> Response<Body> {
        if *request.method() != Method::POST {
            return text(405, "405: Method Not Allowed\n");
        }
        let q = query(request.uri());
        let cmd: Vec<String> = get(&q, "cmd")
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_string)
            .collect();
        let found = async {
            let pod = self.find(ns, name, uid)?;
            let gone = format!("container not found (\"{container}\")\n");
            self.running(&pod, container, gone).await
        };
        let id = match found.await {
            Ok(id) => id,
            Err(r) => return *r,
        };
        match self.shared.rt.exec_sync(&id, &cmd, Duration::ZERO).await {
            Ok(r) if r.exit_code == 0 => {
                let mut out = r.stdout;
                out.extend_from_slice(&r.stderr);
                text(200, out)
            }
            Ok(r) => text(
                500,
                format!(
                    "command '{}' exited with {}: {}",
                    cmd.join(" "),
                    r.exit_code,
                    String::from_utf8_lossy(&r.stderr)
                ),
            ),
            Err(e) => text(500, format!("{e}\n")),
        }
    }
}

/// The most ports of one WebSocket: two channels each, told by a byte.
const MAX_PORTS: usize = 100;

/// The ports of a port-forward's query.
fn ports(q: &Query) -> Result<Vec<u16>, String> {
    let mut out = Vec::new();
    for (_, value) in q.iter().filter(|(k, _)| k == "port" || k == "ports") {
        if value.is_empty() {
            return Err("query parameter \"port\" cannot be empty".into());
        }
        for p in value.split(',') {
            match p.parse::<u16>() {
                Ok(0) => return Err(format!("port {p:?} must be > 0")),
                Ok(n) if out.len() < MAX_PORTS => out.push(n),
                Ok(_) => return Err(format!("more than {MAX_PORTS} ports")),
                Err(_) => return Err(format!("unable to parse {p:?} as a port")),
            }
        }
    }
    if out.is_empty() {
        return Err("query parameter \"port\" is required".into());
    }
    Ok(out)
}

fn wanted(q: &Query) -> Wanted {
    let either = |a: &str, b: &str| flag(q, a) || flag(q, b);
    Wanted {
        stdin: either("input", "stdin"),
        stdout: either("output", "stdout"),
        stderr: either("error", "stderr"),
        tty: flag(q, "tty"),
    }
}

fn log_options(q: &Query) -> Result<logs::Options, String> {
    let number = |name: &str| match get(q, name) {
        None | Some("") => Ok(None),
        Some(v) => v
            .parse::<u64>()
            .map(Some)
            .map_err(|_| format!("invalid {name}: {v:?}")),
    };
    let since = match (
        number("sinceSeconds")?,
        get(q, "sinceTime").filter(|s| !s.is_empty()),
    ) {
        (Some(s), _) => jiff::Timestamp::from_second(
            jiff::Timestamp::now()
                .as_second()
                .saturating_sub(i64::try_from(s).unwrap_or(i64::MAX)),
        )
        .ok(),
        (None, Some(t)) => Some(t.parse().map_err(|_| format!("invalid sinceTime: {t:?}"))?),
        _ => None,
    };
    // tailLines of "all" is what old clients send.
    let tail_lines = match get(q, "tailLines") {
        Some("all") => None,
        _ => number("tailLines")?,
    };
    Ok(logs::Options {
        follow: flag(q, "follow"),
        previous: flag(q, "previous"),
        tail_lines,
        since,
        timestamps: flag(q, "timestamps"),
        limit_bytes: number("limitBytes")?,
        stream: get(q, "stream").unwrap_or_default().to_string(),
    })
}

/// The id whose log is meant, or why there is none, in upstream's words.
fn container_for_logs(
    status: Option<&ContainerStatus>,
    pod: &str,
    container: &str,
    previous: bool,
) -> Result<String, String> {
    let not_there = || format!("container \"{container}\" in pod \"{pod}\" is not available");
    let s = status.ok_or_else(not_there)?;
    let strip = |id: &str| id.strip_prefix(ID_PREFIX).unwrap_or(id).to_string();
    if previous {
        return match &s.last_state.terminated {
            Some(t) if !t.container_id.is_empty() => Ok(strip(&t.container_id)),
            _ => Err(format!(
                "previous terminated container \"{container}\" in pod \"{pod}\" not found"
            )),
        };
    }
    if s.state.running.is_some() {
        return Ok(strip(&s.container_id));
    }
    if let Some(t) = s
        .state
        .terminated
        .as_ref()
        .or(s.last_state.terminated.as_ref())
        .filter(|t| !t.container_id.is_empty())
    {
        return Ok(strip(&t.container_id));
    }
    match &s.state.waiting {
        Some(w) => Err(match w.reason.as_str() {
            "ErrImagePull" => format!(
                "container \"{container}\" in pod \"{pod}\" is waiting to start: image can't be pulled"
            ),
            "ImagePullBackOff" => format!(
                "container \"{container}\" in pod \"{pod}\" is waiting to start: trying and failing to pull image"
            ),
            r => format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {r}"),
        }),
        None => Err(not_there()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{Running, State, Terminated, Waiting};

    #[test]
    fn the_read_only_port_shows_and_does_nothing() {
        for path in [
            "/healthz",
            "/healthz/ping",
            "/pods",
            "/stats/summary",
            "/metrics/resource",
        ] {
            assert!(is_read_only(path), "{path}");
        }
        for path in [
            "/exec/a/b/c",
            "//exec/a/b/c",
            "/run/a/b/c",
            "/attach/a/b/c",
            "/portForward/a/b",
            "/containerLogs/a/b/c",
            "/runningpods",
            "/logs/x",
            "/",
        ] {
            assert!(!is_read_only(path), "{path}");
        }
    }

    #[test]
    fn queries_decode() {
        let uri: http::Uri =
            "/exec/a/b/c?command=sh&command=-c&command=echo+a%26b%20c&input=1&tty=true"
                .parse()
                .unwrap();
        let q = query(&uri);
        let cmd: Vec<&str> = q
            .iter()
            .filter(|(k, _)| k == "command")
            .map(|(_, v)| v.as_str())
            .collect();
        assert_eq!(cmd, ["sh", "-c", "echo a&b c"]);
        assert_eq!(
            wanted(&q),
            Wanted {
                stdin: true,
                tty: true,
                ..Default::default()
            }
        );
    }

    /// `enableDebuggingHandlers: false` closes what reaches into pods, and leaves what watches the node.
    #[test]
    fn debugging_can_be_closed() {
        for path in [
            "run/n/p/c",
            "exec/n/p/c",
            "exec/n/p/u/c",
            "attach/n/p/c",
            "portForward/n/p",
            "containerLogs/n/p/c",
            "runningpods",
            "logs",
            "debug/pprof/heap",
        ] {
            assert!(is_debugging(&path.split('/').collect::<Vec<_>>()), "{path}");
        }
        for path in ["pods", "stats/summary", "metrics", "healthz", "configz"] {
            assert!(
                !is_debugging(&path.split('/').collect::<Vec<_>>()),
                "{path}"
            );
        }
    }

    #[test]
    fn logs_of_which_container() {
        let mut s = ContainerStatus {
            container_id: "containerd://now".into(),
            ..Default::default()
        };
        s.state = State {
            running: Some(Running::default()),
            ..Default::default()
        };
        assert_eq!(
            container_for_logs(Some(&s), "p", "c", false),
            Ok("now".into())
        );
        assert_eq!(
            container_for_logs(Some(&s), "p", "c", true),
            Err("previous terminated container \"c\" in pod \"p\" not found".into())
        );
        s.last_state.terminated = Some(Terminated {
            container_id: "containerd://old".into(),
            ..Default::default()
        });
        assert_eq!(
            container_for_logs(Some(&s), "p", "c", true),
            Ok("old".into())
        );
        s.state = State {
            waiting: Some(Waiting {
                reason: "CrashLoopBackOff".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(
            container_for_logs(Some(&s), "p", "c", false),
            Ok("old".into())
        );
        s.last_state = State::default();
        s.state.waiting = Some(Waiting {
            reason: "ImagePullBackOff".into(),
            ..Default::default()
        });
        assert_eq!(
            container_for_logs(Some(&s), "p", "c", false).unwrap_err(),
            "container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"
        );
    }

    #[test]
    fn ports_are_checked() {
        let q = |s: &str| ports(&query(&format!("/x?{s}").parse().unwrap()));
        assert_eq!(q("port=80,81&port=82"), Ok(vec![80, 81, 82]));
        for (bad, why) in [
            ("", "query parameter \"port\" is required"),
            ("port=", "query parameter \"port\" cannot be empty"),
            ("port=0", "port \"0\" must be > 0"),
            ("port=65536", "unable to parse \"65536\" as a port"),
            ("port=80,", "unable to parse \"\" as a port"),
            ("port=x", "unable to parse \"x\" as a port"),
            ("port=-1", "unable to parse \"-1\" as a port"),
        ] {
            assert_eq!(q(bad), Err(why.to_owned()), "{bad}");
        }
        let many = vec!["1"; 101].join(",");
        let why = "more than 100 ports".to_owned();
        assert_eq!(q(&format!("port={many}")), Err(why));
    }

    #[test]
    fn log_options_are_checked() {
        let q = |s: &str| query(&format!("/x?{s}").parse().unwrap());
        assert_eq!(
            log_options(&q("tailLines=5&follow=true"))
                .unwrap()
                .tail_lines,
            Some(5)
        );
        for (bad, why) in [
            ("tailLines=-1", "invalid tailLines: \"-1\""),
            ("sinceTime=yesterday", "invalid sinceTime: \"yesterday\""),
        ] {
            assert_eq!(log_options(&q(bad)).err().as_deref(), Some(why));
        }
    }
}
