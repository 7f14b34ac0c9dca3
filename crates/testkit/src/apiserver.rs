//! What answers as an apiserver would, as far as a test says: HTTP/1.1, one request per connection, JSON.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET`, ….
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Null when it is empty or no JSON.
    pub body: Value,
}

/// The client of one request.
pub struct Answer(TcpStream);

impl Answer {
    /// Answers.
    pub async fn send(mut self, code: u16, body: &Value) -> io::Result<()> {
        self.begin(code).await?;
        self.0.write_all(body.to_string().as_bytes()).await
    }

    /// Answers with a Status.
    pub async fn refuse(self, code: u16) -> io::Result<()> {
        let reason = if code == 404 { "NotFound" } else { "" };
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": "m"});
        self.send(code, &status).await
    }

    /// Begins a watch: tells the objects there are, and that these are all.
    pub async fn watch(mut self, objects: &[Value]) -> io::Result<Watch> {
        self.begin(200).await?;
        let mut watch = Watch(self.0);
        for object in objects {
            watch.tell("ADDED", object).await?;
        }
        let all = json!({"k8s.io/initial-events-end": "true"});
        let end = json!({"metadata": {"resourceVersion": "1", "annotations": all}});
        watch.tell("BOOKMARK", &end).await?;
        Ok(watch)
    }

    async fn begin(&mut self, code: u16) -> io::Result<()> {
        let head = format!(
            "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
        );
        self.0.write_all(head.as_bytes()).await
    }
}

/// A watch that goes on until it is dropped.
pub struct Watch(TcpStream);

impl Watch {
    /// Tells an event.
    pub async fn tell(&mut self, kind: &str, object: &Value) -> io::Result<()> {
        let event = format!("{}\n", json!({"type": kind, "object": object}));
        self.0.write_all(event.as_bytes()).await
    }

    /// Until the client goes.
    pub async fn stay(mut self) -> io::Result<()> {
        self.0.read_u8().await.map(drop)
    }
}

/// Answers on a port of loopback as `answer` says, as long as the runtime lives.
pub async fn serve<F, Fut>(answer: F) -> SocketAddr
where
    F: Fn(Asked, Answer) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("bind a port on loopback");
    let address = listener.local_addr();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let (asked, client) = read(stream).await?;
                answer(asked, client).await
            });
        }
    });
    address.expect("a bound socket has an address")
}

async fn read(mut stream: TcpStream) -> io::Result<(Asked, Answer)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split(' ').map(str::to_owned);
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let length = name.eq_ignore_ascii_case("content-length");
        length.then(|| value.trim().parse().ok()).flatten()
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    let asked = Asked {
        method: words.next().unwrap_or_default(),
        target: words.next().unwrap_or_default(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    Ok((asked, Answer(stream)))
}

/// What an apiserver that knows config maps alone answers where it is asked what it has: at `/api` and `/apis`.
pub fn discovery(path: &str) -> Option<Value> {
    let verbs = ["get", "list", "watch", "delete", "patch"];
    let config_maps = json!({
        "resource": "configmaps", "responseKind": {"kind": "ConfigMap"}, "scope": "Namespaced", "verbs": verbs,
    });
    let resources = match path {
        "/api" => json!([config_maps]),
        "/apis" => json!([]),
        _ => return None,
    };
    let versions = json!([{"version": "v1", "resources": resources}]);
    Some(
        json!({"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": ""}, "versions": versions}]}),
    )
}

/// A kubeconfig for it.
pub fn kubeconfig(address: SocketAddr) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("make a temporary file");
    let cluster = json!({"name": "c", "cluster": {"server": format!("http://{address}")}});
    let context = json!({"name": "x", "context": {"cluster": "c", "user": "u"}});
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context],
        "users": [{"name": "u", "user": {}}], "current-context": "x",
    });
    std::fs::write(file.path(), config.to_string()).expect("write a temporary file");
    file
}
