//! exec, attach and port-forward: from the client's upgrade to the runtime's streaming server.
//!
//! A SPDY client is joined to the runtime byte by byte; the runtime speaks SPDY/3.1 itself. A WebSocket client is
//! translated to SPDY, which unlike WebSocket can end stdin alone; one that carries SPDY in its messages is joined as well.
//! Source of the WebSocket protocols: upstream's `wsstream` and its users in the kubelet.
//!
//! Invariants: nothing is piped unless the runtime has answered 101 (CVE-2018-1002105); redirects are refused
//! (CVE-2020-8559); the runtime's address is dialled as it says, once.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use component::serve::{Body, body, text};

use super::idle::Traffic;
use super::spdy::{Event, Receiver, Sender};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// In v5: the client has ended a stream; the byte after says which.
const CLOSE: u8 = 255;
/// Largest WebSocket message accepted.
const MAX_MESSAGE: usize = 1 << 20;
/// Largest head of the runtime's answer to the upgrade.
const MAX_HEAD: usize = 16 * 1024;

/// A WebSocket subprotocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Protocol {
    /// As clients name it; empty: a client that names none.
    name: &'static str,
    /// Messages are text: the channel as a digit, then base64.
    base64: bool,
    /// How a command's end is told.
    status: Told,
    /// Streams can be closed one by one.
    closes: bool,
    /// Messages carry a SPDY connection.
    tunnel: bool,
}

/// What comes on the error channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// The message of a failure; nothing of a success.
    Message,
    /// A Status, always.
    Status,
}

const PLAIN: Protocol = Protocol {
    name: "",
    base64: false,
    status: Told::Message,
    closes: false,
    tunnel: false,
};

/// Of exec and attach.
const COMMAND: [Protocol; 6] = [
    PLAIN,
    Protocol {
        name: "channel.k8s.io",
        ..PLAIN
    },
    Protocol {
        name: "base64.channel.k8s.io",
        base64: true,
        ..PLAIN
    },
    Protocol {
        name: "v4.channel.k8s.io",
        status: Told::Status,
        ..PLAIN
    },
    Protocol {
        name: "v4.base64.channel.k8s.io",
        base64: true,
        status: Told::Status,
        ..PLAIN
    },
    Protocol {
        name: "v5.channel.k8s.io",
        status: Told::Status,
        closes: true,
        ..PLAIN
    },
];

/// Of port-forward.
const FORWARD: [Protocol; 5] = [
    PLAIN,
    Protocol {
        name: "v4.channel.k8s.io",
        ..PLAIN
    },
    Protocol {
        name: "v4.base64.channel.k8s.io",
        base64: true,
        ..PLAIN
    },
    Protocol {
        name: "portforward.k8s.io",
        ..PLAIN
    },
    Protocol {
        name: "SPDY/3.1+portforward.k8s.io",
        tunnel: true,
        ..PLAIN
    },
];

impl Protocol {
    fn message(&self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::from(char::from(b'0'.saturating_add(channel)));
            STANDARD.encode_string(data, &mut text);
            return Message::Text(text.into());
        }
        let mut m = BytesMut::with_capacity(data.len() + 1);
        m.extend_from_slice(&[channel]);
        m.extend_from_slice(data);
        Message::Binary(m.freeze())
    }

    /// Channel and payload of a message; `None` for one without, or that cannot be read.
    fn read<'a>(&self, data: &'a [u8]) -> Option<(u8, Cow<'a, [u8]>)> {
        let (channel, payload) = data.split_first()?;
        if !self.base64 {
            return Some((*channel, Cow::Borrowed(payload)));
        }
        let payload = STANDARD.decode(payload).ok()?;
        Some((channel.checked_sub(b'0')?, Cow::Owned(payload)))
    }
}

/// The first protocol that the client asks for and that is known.
fn choose<'k>(h: &HeaderMap, known: &'k [Protocol]) -> Option<&'k Protocol> {
    let mut asked: Vec<&str> = h
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        // A token for the server before this one.
        .filter(|p| !p.is_empty() && !p.starts_with("base64url.bearer.authorization.k8s.io."))
        .collect();
    if asked.is_empty() {
        asked.push("");
    }
    asked
        .iter()
        .find_map(|a| known.iter().find(|k| k.name == *a))
}

/// Whether a port-forward's WebSocket carries SPDY, which names its ports itself.
pub fn tunnels(h: &HeaderMap) -> bool {
    choose(h, &FORWARD).is_some_and(|p| p.tunnel)
}

/// Which streams a command has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "plain data")]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// The sort of upgrade a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// `Upgrade: SPDY/3.1`
    Spdy,
    /// `Upgrade: websocket`
    WebSocket,
}

/// What the request asks to be upgraded to.
pub fn upgrade_of(h: &HeaderMap) -> Option<Upgrade> {
    let connection = h
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok());
    if !connection
        .flat_map(|v| v.split(','))
        .any(|t| t.trim().eq_ignore_ascii_case("upgrade"))
    {
        return None;
    }
    let to = h.get(header::UPGRADE)?.to_str().ok()?;
    if to.eq_ignore_ascii_case("websocket") {
        Some(Upgrade::WebSocket)
    } else if to.to_ascii_uppercase().starts_with("SPDY/3.1") {
        Some(Upgrade::Spdy)
    } else {
        None
    }
}

/// Dials the runtime's streaming server and asks for SPDY; gives the connection, the bytes already read and the head.
async fn dial(url: &str, protocols: &[&str]) -> Result<(TcpStream, BytesMut, String), String> {
    let uri: http::Uri = url
        .parse()
        .map_err(|e| format!("the runtime's streaming address is unusable: {e}"))?;
    let host = uri
        .host()
        .ok_or("the runtime's streaming address has no host")?;
    if uri.scheme_str() != Some("http") {
        return Err("the runtime's streaming server must be plain HTTP on loopback".into());
    }
    let port = uri.port_u16().unwrap_or(80);
    let mut io = TcpStream::connect((host.trim_matches(['[', ']']), port))
        .await
        .map_err(|e| format!("dialing the runtime: {e}"))?;
    let _ = io.set_nodelay(true);
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n"
    );
    for p in protocols {
        head.push_str(&format!("X-Stream-Protocol-Version: {p}\r\n"));
    }
    head.push_str("\r\n");
    io.write_all(head.as_bytes())
        .await
        .map_err(|e| e.to_string())?;
    let mut buf = BytesMut::new();
    loop {
        if let Some(end) = buf.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = buf.split_to(end + 4);
            let head = String::from_utf8_lossy(&head).into_owned();
            let status = head.split(' ').nth(1).unwrap_or_default();
            if status != "101" {
                // Not upgraded: the connection is dropped, nothing is passed on.
                return Err(format!(
                    "the runtime refused the stream: {}",
                    head.lines().next().unwrap_or_default()
                ));
            }
            return Ok((io, buf, head));
        }
        if buf.len() > MAX_HEAD {
            return Err("the runtime's answer is too large".into());
        }
        if io.read_buf(&mut buf).await.map_err(|e| e.to_string())? == 0 {
            return Err("the runtime closed the connection".into());
        }
    }
}

fn header_of<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|l| {
        l.split_once(':')
            .filter(|(k, _)| k.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.trim())
    })
}

/// Passes bytes on until the reader's end, and ends the writer.
async fn pass<R, W>(mut from: R, mut to: W, traffic: &Traffic) -> std::io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buf = BytesMut::with_capacity(16 * 1024);
    while from.read_buf(&mut buf).await? > 0 {
        traffic.moved();
        to.write_all(&buf).await?;
        to.flush().await?;
        buf.clear();
    }
    to.shutdown().await
}

/// Joins two connections byte by byte, each direction until its end.
async fn join<A, B>(client: A, runtime: B, traffic: &Traffic) -> std::io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (from_client, to_client) = tokio::io::split(client);
    let (from_runtime, to_runtime) = tokio::io::split(runtime);
    tokio::try_join!(
        pass(from_client, to_runtime, traffic),
        pass(from_runtime, to_client, traffic)
    )?;
    Ok(())
}

/// Joins a SPDY client to the runtime, until nothing moves for `idle`.
pub async fn spdy(
    request: Request<Incoming>,
    url: String,
    idle: Option<Duration>,
) -> Response<Body> {
    let wanted: Vec<String> = request
        .headers()
        .get_all("x-stream-protocol-version")
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|v| v.trim().to_string())
        .filter(|v| v.bytes().all(|b| b.is_ascii_graphic()))
        .collect();
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let (io, early, head) = match dial(&url, &wanted).await {
        Ok(r) => r,
        Err(e) => return text(500, format!("{e}\n")),
    };
    let mut r = Response::new(body(Bytes::new()));
    *r.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    r.headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    r.headers_mut()
        .insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    if let Some(v) =
        header_of(&head, "x-stream-protocol-version").and_then(|p| HeaderValue::from_str(p).ok())
    {
        r.headers_mut().insert("x-stream-protocol-version", v);
    }
    tokio::spawn(async move {
        let client = match hyper::upgrade::on(request).await {
            Ok(u) => u,
            Err(e) => return tracing::debug!(error = %e, "upgrade failed"),
        };
        let mut client = TokioIo::new(client);
        if !early.is_empty() && client.write_all(&early).await.is_err() {
            return;
        }
        let traffic = Traffic::default();
        traffic.watch(idle, join(client, io, &traffic)).await;
    });
    r
}

/// The answer to a WebSocket upgrade and the protocol chosen; `Err` is the refusal.
fn accept_websocket(
    h: &HeaderMap,
    known: &[Protocol],
) -> Result<(Response<Body>, Protocol), Box<Response<Body>>> {
    let refuse = |m: &'static str| Box::new(text(400, m));
    let key = h
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| refuse("missing Sec-WebSocket-Key\n"))?;
    if h.get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|v| v != "13")
    {
        return Err(refuse("unsupported WebSocket version\n"));
    }
    let protocol = choose(h, known).ok_or_else(|| Box::new(text(403, "")))?;
    let mut r = Response::new(body(Bytes::new()));
    *r.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = r.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if !protocol.name.is_empty() {
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(protocol.name),
        );
    }
    if let Ok(v) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, v);
    }
    Ok((r, *protocol))
}

type WebSocket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// The client's side of an accepted handshake.
async fn upgraded(request: Request<Incoming>) -> Result<WebSocket, hyper::Error> {
    let client = hyper::upgrade::on(request).await?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    Ok(WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, Some(config)).await)
}

/// Translates a WebSocket client of exec or attach to the runtime, until nothing moves for `idle`.
pub async fn websocket(
    request: Request<Incoming>,
    url: String,
    wanted: Wanted,
    idle: Option<Duration>,
) -> Response<Body> {
    let (answer, protocol) = match accept_websocket(request.headers(), &COMMAND) {
        Ok(r) => r,
        Err(r) => return *r,
    };
    let (io, early, _) = match dial(&url, &["v4.channel.k8s.io"]).await {
        Ok(r) => r,
        Err(e) => return text(500, format!("{e}\n")),
    };
    tokio::spawn(async move {
        let ws = match upgraded(request).await {
            Ok(ws) => ws,
            Err(e) => return tracing::debug!(error = %e, "upgrade failed"),
        };
        let traffic = Traffic::default();
        let work = bridge(ws, io, early, wanted, protocol, &traffic);
        if let Some(Err(e)) = traffic.watch(idle, work).await {
            tracing::debug!(error = %e, "stream ended");
        }
    });
    answer
}

/// What a stream may fail with.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Pings of the runtime that wait for their answer while input is being written; more are missed.
const PINGS: usize = 16;

/// What the client says next; `None` when it is gone. May be given up between two messages, and loses none.
async fn heard<R>(stream: &mut R) -> Option<Bytes>
where
    R: Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    loop {
        match stream.next().await {
            Some(Ok(m @ (Message::Binary(_) | Message::Text(_)))) => return Some(m.into_data()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => {}
        }
    }
}

/// Both directions at once, each at its own pace: a command that waits until its output is read takes no input meanwhile,
/// and what waits to write its input must not be what keeps the output from being read.
async fn bridge<S, R>(
    mut ws: WebSocketStream<S>,
    io: R,
    early: BytesMut,
    wanted: Wanted,
    protocol: Protocol,
    traffic: &Traffic,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite,
{
    let (r, w) = tokio::io::split(io);
    let mut out = Sender::new(w);
    let mut inn = Receiver::new(std::io::Cursor::new(early).chain(r));
    // The order is the one in which the runtime's server expects them to exist: all before it begins.
    let error = out.open(&[("streamtype", "error")]).await?;
    let stdin = if wanted.stdin {
        Some(out.open(&[("streamtype", "stdin")]).await?)
    } else {
        None
    };
    let stdout = if wanted.stdout {
        Some(out.open(&[("streamtype", "stdout")]).await?)
    } else {
        None
    };
    let stderr = if wanted.stderr && !wanted.tty {
        Some(out.open(&[("streamtype", "stderr")]).await?)
    } else {
        None
    };
    let resize = if wanted.tty {
        Some(out.open(&[("streamtype", "resize")]).await?)
    } else {
        None
    };
    // Nothing is sent on this one from here.
    out.data(error, b"", true).await?;
    // Tells the client that the streams are there.
    let lowest = if stdout.is_some() {
        STDOUT
    } else if stderr.is_some() {
        STDERR
    } else {
        ERROR
    };
    ws.send(protocol.message(lowest, b"")).await?;

    let (mut sink, mut stream) = ws.split();
    let (ping, mut pings) = mpsc::channel(PINGS);
    let input = async {
        loop {
            let data = tokio::select! {
                data = heard(&mut stream) => data,
                // The answer to the ping of a runtime that is gone is missed by nobody.
                Some(id) = pings.recv() => {
                    let _ = out.pong(id).await;
                    continue;
                }
            };
            let Some(data) = data else { break };
            traffic.moved();
            if protocol.closes && data.first() == Some(&CLOSE) {
                if let (Some(&STDIN), Some(id)) = (data.get(1), stdin) {
                    let _ = out.data(id, b"", true).await;
                }
                continue;
            }
            let Some((channel, payload)) = protocol.read(&data) else {
                continue;
            };
            let sent = match (channel, stdin, resize) {
                (STDIN, Some(id), _) | (RESIZE, _, Some(id)) => out.data(id, &payload, false).await,
                _ => Ok(()),
            };
            // A command that has ended takes no input; what it said is still to be read.
            if let Err(e) = sent {
                tracing::debug!(error = %e, "input of a stream is lost");
            }
        }
        if let Some(id) = stdin {
            let _ = out.data(id, b"", true).await;
        }
    };
    let output = async {
        let mut status_sent = false;
        let mut open: Vec<u32> = [Some(error), stdout, stderr]
            .into_iter()
            .flatten()
            .collect();
        while !open.is_empty() {
            let event = match inn.next().await {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(e) if status_sent => {
                    tracing::debug!(error = %e, "the runtime failed after a command's end");
                    break;
                }
                Err(e) => {
                    status_sent = true;
                    tell(&mut sink, protocol, &internal(&e.to_string())).await?;
                    break;
                }
            };
            match event {
                Event::Data { id, data, fin } => {
                    traffic.moved();
                    if id == error && !data.is_empty() {
                        status_sent = true;
                        tell(&mut sink, protocol, &retold(&data)).await?;
                    } else if Some(id) == stdout {
                        send(&mut sink, protocol, STDOUT, &data).await?;
                    } else if Some(id) == stderr {
                        send(&mut sink, protocol, STDERR, &data).await?;
                    }
                    if fin {
                        open.retain(|o| *o != id);
                    }
                }
                Event::Reset(id) => open.retain(|o| *o != id),
                Event::Ping(id) => {
                    let _ = ping.try_send(id);
                }
                Event::GoAway | Event::Other => {}
            }
        }
        if !status_sent {
            // The runtime ended without a word: the command succeeded as far as it told.
            tell(
                &mut sink,
                protocol,
                br#"{"metadata":{},"status":"Success"}"#,
            )
            .await?;
        }
        Ok::<_, Failure>(())
    };
    tokio::select! {
        () = input => return Ok(()),
        over = output => over?,
    }
    close(sink, stream).await?;
    Ok(())
}

/// A Status that something failed inside.
fn internal(why: &str) -> Vec<u8> {
    let status = serde_json::json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {why}"),
        "reason": "InternalError",
        "details": {"causes": [{"message": why}]},
        "code": 500,
    });
    status.to_string().into_bytes()
}

/// The runtime's Status as WebSocket clients get it: an exit code as it is, any other failure as one of the server.
fn retold(data: &[u8]) -> Vec<u8> {
    let status: serde_json::Value = serde_json::from_slice(data).unwrap_or_default();
    let text = |key: &str| status.get(key).and_then(serde_json::Value::as_str);
    match text("message") {
        Some(message)
            if text("status") == Some("Failure") && text("reason") == Some("InternalError") =>
        {
            internal(message)
        }
        _ => data.to_vec(),
    }
}

/// Tells a command's end as the protocol has it.
async fn tell<S>(
    ws: &mut S,
    protocol: Protocol,
    status: &[u8],
) -> Result<(), tokio_tungstenite::tungstenite::Error>
where
    S: Sink<Message, Error = tokio_tungstenite::tungstenite::Error> + Unpin,
{
    if protocol.status == Told::Status {
        return send(ws, protocol, ERROR, status).await;
    }
    match serde_json::from_slice::<serde_json::Value>(status) {
        Ok(s) if s.get("status").and_then(|s| s.as_str()) == Some("Success") => Ok(()),
        Ok(s) => {
            let message = s.get("message").and_then(|m| m.as_str());
            send(ws, protocol, ERROR, message.unwrap_or_default().as_bytes()).await
        }
        Err(_) => send(ws, protocol, ERROR, status).await,
    }
}

async fn send<S>(
    ws: &mut S,
    protocol: Protocol,
    channel: u8,
    data: &[u8],
) -> Result<(), tokio_tungstenite::tungstenite::Error>
where
    S: Sink<Message, Error = tokio_tungstenite::tungstenite::Error> + Unpin,
{
    for chunk in data.chunks(32 * 1024) {
        ws.send(protocol.message(channel, chunk)).await?;
    }
    Ok(())
}

/// Closes with "normal": clients take a close without a code for a broken connection.
async fn close<W, R>(
    mut sink: W,
    mut stream: R,
) -> Result<(), tokio_tungstenite::tungstenite::Error>
where
    W: Sink<Message, Error = tokio_tungstenite::tungstenite::Error> + Unpin,
    R: Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
    let normal = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    sink.send(Message::Close(Some(normal))).await?;
    // The client's close is awaited for a moment, so that ours is not lost to a reset.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), async {
        while let Some(Ok(_)) = stream.next().await {}
    })
    .await;
    Ok(())
}

/// Translates a WebSocket port-forward client (two channels per port), or joins one that carries SPDY, to the runtime,
/// until nothing moves for `idle`.
pub async fn port_forward(
    request: Request<Incoming>,
    url: String,
    ports: Vec<u16>,
    idle: Option<Duration>,
) -> Response<Body> {
    let (answer, protocol) = match accept_websocket(request.headers(), &FORWARD) {
        Ok(r) => r,
        Err(r) => return *r,
    };
    let (io, early, _) = match dial(&url, &["portforward.k8s.io"]).await {
        Ok(r) => r,
        Err(e) => return text(500, format!("{e}\n")),
    };
    tokio::spawn(async move {
        let ws = match upgraded(request).await {
            Ok(ws) => ws,
            Err(e) => return tracing::debug!(error = %e, "upgrade failed"),
        };
        let traffic = Traffic::default();
        let work = async {
            if protocol.tunnel {
                tunnel(ws, io, early, &traffic).await
            } else {
                forward(ws, io, early, &ports, protocol, &traffic).await
            }
        };
        if let Some(Err(e)) = traffic.watch(idle, work).await {
            tracing::debug!(error = %e, "port-forward ended");
        }
    });
    answer
}

/// Joins what messages carry to the runtime's connection, each direction at its own pace.
async fn tunnel<S, R>(
    ws: WebSocketStream<S>,
    io: R,
    early: BytesMut,
    traffic: &Traffic,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite,
{
    let (mut r, mut w) = tokio::io::split(io);
    let (mut sink, mut stream) = ws.split();
    let input = async {
        while let Some(data) = heard(&mut stream).await {
            traffic.moved();
            w.write_all(&data).await?;
        }
        Ok::<_, Failure>(())
    };
    let output = async {
        let mut buf = early;
        loop {
            if !buf.is_empty() {
                traffic.moved();
                sink.send(Message::Binary(buf.split().freeze())).await?;
            }
            buf.reserve(32 * 1024);
            if r.read_buf(&mut buf).await? == 0 {
                return Ok::<_, Failure>(());
            }
        }
    };
    tokio::select! {
        gone = input => return gone,
        over = output => over?,
    }
    close(sink, stream).await?;
    Ok(())
}

/// Both directions at once, as in [`bridge`].
async fn forward<S, R>(
    mut ws: WebSocketStream<S>,
    io: R,
    early: BytesMut,
    ports: &[u16],
    protocol: Protocol,
    traffic: &Traffic,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite,
{
    let (r, w) = tokio::io::split(io);
    let mut out = Sender::new(w);
    let mut inn = Receiver::new(std::io::Cursor::new(early).chain(r));
    // Channel 2n carries the data of port n, channel 2n+1 its errors; each begins with the port's number.
    let mut ids: Vec<u32> = Vec::new();
    for (n, p) in ports.iter().enumerate() {
        let (port, request) = (p.to_string(), n.to_string());
        let error = out
            .open(&[
                ("streamtype", "error"),
                ("port", &port),
                ("requestid", &request),
            ])
            .await?;
        out.data(error, b"", true).await?;
        let data = out
            .open(&[
                ("streamtype", "data"),
                ("port", &port),
                ("requestid", &request),
            ])
            .await?;
        ids.extend([data, error]);
        for c in [2 * n, 2 * n + 1] {
            send(&mut ws, protocol, u8::try_from(c)?, &p.to_le_bytes()).await?;
        }
    }
    let (mut sink, mut stream) = ws.split();
    let (ping, mut pings) = mpsc::channel(PINGS);
    let input = async {
        loop {
            let data = tokio::select! {
                data = heard(&mut stream) => data,
                Some(id) = pings.recv() => {
                    out.pong(id).await?;
                    continue;
                }
            };
            let Some(data) = data else {
                return Ok::<_, Failure>(());
            };
            traffic.moved();
            let Some((channel, payload)) = protocol.read(&data) else {
                continue;
            };
            if channel % 2 == 0
                && let Some(id) = ids.get(usize::from(channel))
            {
                out.data(*id, &payload, false).await?;
            }
        }
    };
    let output = async {
        let mut open = ids.len();
        while open > 0 {
            let Some(event) = inn.next().await? else {
                break;
            };
            match event {
                Event::Data { id, data, fin } => {
                    traffic.moved();
                    let Some(channel) = ids.iter().position(|i| *i == id) else {
                        continue;
                    };
                    if !data.is_empty() {
                        send(&mut sink, protocol, u8::try_from(channel)?, &data).await?;
                    }
                    if fin {
                        open -= 1;
                    }
                }
                Event::Reset(id) if ids.contains(&id) => open -= 1,
                Event::Ping(id) => {
                    let _ = ping.try_send(id);
                }
                Event::Reset(_) | Event::GoAway | Event::Other => {}
            }
        }
        Ok::<_, Failure>(())
    };
    tokio::select! {
        gone = input => return gone,
        over = output => over?,
    }
    close(sink, stream).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upgrades_are_told_apart() {
        let h = |c: &'static str, u: &'static str| {
            HeaderMap::from_iter([
                (header::CONNECTION, HeaderValue::from_static(c)),
                (header::UPGRADE, HeaderValue::from_static(u)),
            ])
        };
        assert_eq!(
            upgrade_of(&h("keep-alive, Upgrade", "websocket")),
            Some(Upgrade::WebSocket)
        );
        assert_eq!(upgrade_of(&h("Upgrade", "SPDY/3.1")), Some(Upgrade::Spdy));
        assert_eq!(upgrade_of(&h("close", "SPDY/3.1")), None);
        assert_eq!(upgrade_of(&h("Upgrade", "h2c")), None);
    }

    /// CVE-2018-1002105, CVE-2020-8559: a refused or redirected upgrade is not piped and not followed.
    #[tokio::test]
    async fn only_a_switched_connection_is_used() {
        for answer in [
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        ] {
            let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/exec/x", l.local_addr().unwrap());
            tokio::spawn(async move {
                let (mut s, _) = l.accept().await.unwrap();
                let mut b = [0; 1024];
                let _ = s.read(&mut b).await;
                s.write_all(answer.as_bytes()).await.unwrap();
            });
            let e = dial(&url, &["v4.channel.k8s.io"]).await.unwrap_err();
            assert!(e.starts_with("the runtime refused the stream"), "{e}");
        }
    }

    #[test]
    fn failures_of_the_runtime_are_the_servers() {
        let exit = br#"{"status":"Failure","reason":"NonZeroExitCode","message":"command terminated with exit code 7"}"#;
        assert_eq!(retold(exit), exit);
        assert_eq!(retold(b"not json"), b"not json");
        let broken = br#"{"status":"Failure","reason":"InternalError","message":"Internal error occurred: x"}"#;
        let told: serde_json::Value = serde_json::from_slice(&retold(broken)).unwrap();
        assert_eq!(
            told["message"],
            "Internal error occurred: Internal error occurred: x"
        );
    }

    fn asked(protocols: &[&'static str]) -> HeaderMap {
        let mut h = HeaderMap::new();
        h.insert("sec-websocket-version", HeaderValue::from_static("13"));
        h.insert(
            "sec-websocket-key",
            HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="),
        );
        for p in protocols {
            h.append("sec-websocket-protocol", HeaderValue::from_static(p));
        }
        h
    }

    #[test]
    fn upstreams_websocket_protocols_are_spoken() {
        for (protocols, command, forward) in [
            (vec![], Some(""), Some("")),
            (vec!["channel.k8s.io"], Some("channel.k8s.io"), None),
            (
                vec!["base64.channel.k8s.io"],
                Some("base64.channel.k8s.io"),
                None,
            ),
            (
                vec!["v5.channel.k8s.io, v4.channel.k8s.io"],
                Some("v5.channel.k8s.io"),
                Some("v4.channel.k8s.io"),
            ),
            (
                vec!["nope", "v4.base64.channel.k8s.io"],
                Some("v4.base64.channel.k8s.io"),
                Some("v4.base64.channel.k8s.io"),
            ),
            (vec!["portforward.k8s.io"], None, Some("portforward.k8s.io")),
            (
                vec!["SPDY/3.1+portforward.k8s.io"],
                None,
                Some("SPDY/3.1+portforward.k8s.io"),
            ),
            (vec!["nope"], None, None),
            (
                vec!["base64url.bearer.authorization.k8s.io.dDE, v4.channel.k8s.io"],
                Some("v4.channel.k8s.io"),
                Some("v4.channel.k8s.io"),
            ),
        ] {
            let h = asked(&protocols);
            for (known, want) in [(&COMMAND[..], command), (&FORWARD[..], forward)] {
                match accept_websocket(&h, known) {
                    Ok((r, p)) => {
                        assert_eq!(Some(p.name), want, "{protocols:?}");
                        let echoed = r.headers().get("sec-websocket-protocol");
                        let echoed = echoed.map_or("", |v| v.to_str().unwrap());
                        assert_eq!(echoed, p.name);
                    }
                    Err(r) => assert_eq!((r.status().as_u16(), want), (403, None), "{protocols:?}"),
                }
            }
        }
        assert!(tunnels(&asked(&["SPDY/3.1+portforward.k8s.io"])));
        assert!(!tunnels(&asked(&[])));
    }

    #[test]
    fn messages_of_both_kinds() {
        for p in COMMAND {
            let m = p.message(STDERR, b"\xff\x00");
            assert_eq!(m.is_text(), p.base64, "{}", p.name);
            let data = m.into_data();
            assert_eq!(
                p.read(&data),
                Some((STDERR, Cow::Borrowed(&b"\xff\x00"[..])))
            );
            assert_eq!(p.read(b""), None);
        }
        let base64 = COMMAND[2];
        assert_eq!(base64.read(b"0!!"), None);
        assert_eq!(base64.read(b"\x00aGk="), None);
    }

    /// Runs `cat` behind a WebSocket of a protocol; gives what the client got and the code of the close.
    async fn cat(protocol: Protocol, sent: Vec<Message>) -> (Vec<Message>, Option<u16>) {
        let runtime = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let io = TcpStream::connect(runtime.local_addr().unwrap())
            .await
            .unwrap();
        let (server, _) = runtime.accept().await.unwrap();
        // Streams by number: 1 error, 3 stdin, 5 stdout.
        let command = tokio::spawn(async move {
            let (r, w) = server.into_split();
            let (mut inn, mut out) = (Receiver::new(r), Sender::new(w));
            loop {
                match inn.next().await.unwrap().unwrap() {
                    Event::Data { id: 3, data, .. } if !data.is_empty() => {
                        out.data(5, &data, true).await.unwrap();
                        break;
                    }
                    _ => continue,
                }
            }
            let status =
                br#"{"status":"Failure","reason":"NonZeroExitCode","message":"exit code 7"}"#;
            out.data(1, status, true).await.unwrap();
        });
        let (a, b) = tokio::io::duplex(4096);
        let ws = WebSocketStream::from_raw_socket(a, Role::Server, None).await;
        let mut client = WebSocketStream::from_raw_socket(b, Role::Client, None).await;
        let wanted = Wanted {
            stdin: true,
            stdout: true,
            ..Wanted::default()
        };
        let task = tokio::spawn(async move {
            let ended = bridge(
                ws,
                io,
                BytesMut::new(),
                wanted,
                protocol,
                &Traffic::default(),
            )
            .await;
            ended.map_err(|e| e.to_string())
        });
        for m in sent {
            client.send(m).await.unwrap();
        }
        let mut got = Vec::new();
        let code = loop {
            match client.next().await.unwrap().unwrap() {
                Message::Close(c) => break c.map(|c| u16::from(c.code)),
                m => got.push(m),
            }
        };
        command.await.unwrap();
        drop(client);
        assert_eq!(task.await.unwrap(), Ok(()));
        (got, code)
    }

    /// Channels, their encoding and the end of the command, in each protocol.
    #[tokio::test]
    async fn commands_speak_each_protocol() {
        for p in COMMAND {
            let (got, code) = cat(p, vec![p.message(STDIN, b"hi")]).await;
            let end: &[u8] = if p.status == Told::Status {
                br#"{"status":"Failure","reason":"NonZeroExitCode","message":"exit code 7"}"#
            } else {
                b"exit code 7"
            };
            let want = [
                p.message(STDOUT, b""),
                p.message(STDOUT, b"hi"),
                p.message(ERROR, end),
            ];
            assert_eq!(got, want, "{}", p.name);
            assert_eq!(code, Some(1000), "{}", p.name);
        }
    }

    #[tokio::test]
    async fn spdy_is_carried_in_messages() {
        let runtime = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let io = TcpStream::connect(runtime.local_addr().unwrap())
            .await
            .unwrap();
        let (mut server, _) = runtime.accept().await.unwrap();
        let (a, b) = tokio::io::duplex(4096);
        let ws = WebSocketStream::from_raw_socket(a, Role::Server, None).await;
        let mut client = WebSocketStream::from_raw_socket(b, Role::Client, None).await;
        let task = tokio::spawn(async move {
            let ended = tunnel(ws, io, BytesMut::from(&b"early"[..]), &Traffic::default()).await;
            ended.map_err(|e| e.to_string())
        });
        let first = client.next().await.unwrap().unwrap();
        assert_eq!(first, Message::binary("early"));
        client
            .send(Message::binary(&b"\x80\x03"[..]))
            .await
            .unwrap();
        let mut two = [0; 2];
        server.read_exact(&mut two).await.unwrap();
        assert_eq!(two, [0x80, 3]);
        server.write_all(b"\x80\x04").await.unwrap();
        assert_eq!(
            client.next().await.unwrap().unwrap(),
            Message::binary(&b"\x80\x04"[..])
        );
        drop(server);
        assert!(client.next().await.unwrap().unwrap().is_close());
        drop(client);
        assert_eq!(task.await.unwrap(), Ok(()));
    }

    const HOUR: Duration = Duration::from_secs(3600);

    /// Bytes in either direction put the end of a joined connection off.
    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_when_nothing_moves() {
        let ((mut client, a), (mut runtime, b)) = (tokio::io::duplex(64), tokio::io::duplex(64));
        let traffic = Traffic::default();
        let task =
            tokio::spawn(async move { traffic.watch(Some(4 * HOUR), join(a, b, &traffic)).await });
        for n in 0..4 {
            tokio::time::sleep(3 * HOUR).await;
            let (from, to) = if n % 2 == 0 {
                (&mut client, &mut runtime)
            } else {
                (&mut runtime, &mut client)
            };
            from.write_u8(n).await.unwrap();
            assert_eq!(to.read_u8().await.unwrap(), n);
        }
        let moved = tokio::time::Instant::now();
        let mut rest = Vec::new();
        assert_eq!(client.read_to_end(&mut rest).await.unwrap(), 0);
        assert_eq!(runtime.read_to_end(&mut rest).await.unwrap(), 0);
        assert_eq!(moved.elapsed(), 4 * HOUR);
        assert!(task.await.unwrap().is_none(), "given up, not ended");
    }

    /// Messages put the end of a WebSocket off; pings, which are answered, do not.
    #[tokio::test(start_paused = true)]
    async fn a_websocket_ends_when_nothing_moves() {
        for of in ["command", "tunnel", "forward"] {
            let ((a, b), (mut runtime, io)) = (tokio::io::duplex(4096), tokio::io::duplex(4096));
            let ws = WebSocketStream::from_raw_socket(a, Role::Server, None).await;
            let mut client = WebSocketStream::from_raw_socket(b, Role::Client, None).await;
            let wanted = Wanted {
                stdin: true,
                stdout: true,
                ..Wanted::default()
            };
            let traffic = Traffic::default();
            let task = tokio::spawn(async move {
                let early = BytesMut::new();
                let work = async {
                    match of {
                        "command" => bridge(ws, io, early, wanted, COMMAND[5], &traffic).await,
                        "tunnel" => tunnel(ws, io, early, &traffic).await,
                        _ => forward(ws, io, early, &[80], FORWARD[1], &traffic).await,
                    }
                };
                traffic.watch(Some(4 * HOUR), work).await.is_none()
            });
            tokio::time::sleep(3 * HOUR).await;
            client.send(Message::binary(&b"\x00hi"[..])).await.unwrap();
            let begun = tokio::time::Instant::now();
            for _ in 0..3 {
                tokio::time::sleep(HOUR).await;
                client
                    .send(Message::Ping(Bytes::from_static(b"?")))
                    .await
                    .unwrap();
            }
            let mut pongs = 0;
            while let Some(Ok(m)) = client.next().await {
                pongs += usize::from(m.is_pong());
            }
            assert_eq!((begun.elapsed(), pongs), (4 * HOUR, 3), "{of}");
            let mut sent = Vec::new();
            runtime.read_to_end(&mut sent).await.unwrap();
            assert!(sent.ends_with(b"hi"), "{of}");
            assert!(task.await.unwrap(), "{of}");
        }
    }

    /// What was written waits to be read, on either side, and is not what keeps the other direction from moving: a command
    /// that reads nothing until its output is taken would else stand still for ever.
    #[tokio::test(start_paused = true)]
    async fn a_direction_that_waits_does_not_hold_up_the_other() {
        const MESSAGES: usize = 50;
        const BYTES: usize = 8192;
        for of in ["command", "tunnel", "forward"] {
            // Each message is larger than what the connections hold.
            let ((a, b), (runtime, io)) = (tokio::io::duplex(1024), tokio::io::duplex(1024));
            let ws = WebSocketStream::from_raw_socket(a, Role::Server, None).await;
            let client = WebSocketStream::from_raw_socket(b, Role::Client, None).await;
            let wanted = Wanted {
                stdin: true,
                stdout: true,
                ..Wanted::default()
            };
            tokio::spawn(async move {
                let (early, traffic) = (BytesMut::new(), Traffic::default());
                match of {
                    "command" => bridge(ws, io, early, wanted, COMMAND[5], &traffic).await,
                    "tunnel" => tunnel(ws, io, early, &traffic).await,
                    _ => forward(ws, io, early, &[80], FORWARD[1], &traffic).await,
                }
            });
            // Gives back what it gets, and takes nothing while it does.
            tokio::spawn(async move {
                let (mut r, mut w) = tokio::io::split(runtime);
                if of == "tunnel" {
                    let mut some = [0; 512];
                    while let Ok(n @ 1..) = r.read(&mut some).await {
                        w.write_all(&some[..n]).await.unwrap();
                    }
                    return;
                }
                let (mut inn, mut out) = (Receiver::new(r), Sender::new(w));
                let answered = if of == "command" { 5 } else { 3 };
                while let Ok(Some(event)) = inn.next().await {
                    if let Event::Data { id: 3, data, .. } = event {
                        out.data(answered, &data, false).await.unwrap();
                    }
                }
            });
            let (mut to, mut from) = client.split();
            let sender = tokio::spawn(async move {
                for n in 0..MESSAGES {
                    let data = vec![u8::try_from(n).unwrap(); BYTES];
                    let message = if of == "tunnel" {
                        Message::binary(data)
                    } else {
                        COMMAND[5].message(STDIN, &data)
                    };
                    to.send(message).await.unwrap();
                }
                to
            });
            let mut got = Vec::new();
            let reader = async {
                while got.len() < MESSAGES * BYTES {
                    let data = from.next().await.unwrap().unwrap().into_data();
                    match (of, data.split_first()) {
                        ("tunnel", _) => got.extend_from_slice(&data),
                        // The port's number comes first.
                        ("forward", Some((0, port))) if port == 80u16.to_le_bytes() => {}
                        ("command", Some((1, echo))) | ("forward", Some((0, echo))) => {
                            got.extend_from_slice(echo);
                        }
                        _ => {}
                    }
                }
            };
            let done = tokio::time::timeout(HOUR, reader).await;
            assert!(done.is_ok(), "{of} stands still after {} bytes", got.len());
            let want = (0..MESSAGES).flat_map(|n| [u8::try_from(n).unwrap(); BYTES]);
            assert!(got.iter().copied().eq(want), "{of}");
            drop(sender.await.unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_silence_ends_nothing() {
        let traffic = Traffic::default();
        let year = tokio::time::sleep(9000 * HOUR);
        assert_eq!(traffic.watch(None, year).await, Some(()));
        assert_eq!(
            traffic.watch(Some(Duration::MAX), async { 1 }).await,
            Some(1)
        );
    }

    /// Ending stdin alone reaches the command, and its exit status reaches the client before a normal close.
    #[tokio::test]
    async fn a_websocket_client_can_end_stdin_and_learns_the_exit_code() {
        let runtime = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let io = TcpStream::connect(runtime.local_addr().unwrap())
            .await
            .unwrap();
        let (server, _) = runtime.accept().await.unwrap();
        // Streams by number: 1 error, 3 stdin, 5 stdout.
        let command = tokio::spawn(async move {
            let (r, w) = server.into_split();
            let (mut inn, mut out) = (Receiver::new(r), Sender::new(w));
            let mut input = Vec::new();
            loop {
                match inn.next().await.unwrap().unwrap() {
                    Event::Data { id: 3, data, fin } => {
                        input.extend_from_slice(&data);
                        if fin {
                            break;
                        }
                    }
                    _ => continue,
                }
            }
            out.data(5, &input, true).await.unwrap();
            out.data(1, b"{\"status\":\"Failure\"}", true)
                .await
                .unwrap();
        });
        let (a, b) = tokio::io::duplex(4096);
        let ws = WebSocketStream::from_raw_socket(a, Role::Server, None).await;
        let mut client = WebSocketStream::from_raw_socket(b, Role::Client, None).await;
        let wanted = Wanted {
            stdin: true,
            stdout: true,
            ..Wanted::default()
        };
        let task = tokio::spawn(async move {
            bridge(
                ws,
                io,
                BytesMut::new(),
                wanted,
                COMMAND[5],
                &Traffic::default(),
            )
            .await
            .map_err(|e| e.to_string())
        });
        client
            .send(Message::Binary(Bytes::from_static(b"\x00hi")))
            .await
            .unwrap();
        client
            .send(Message::Binary(Bytes::from_static(b"\xff\x00")))
            .await
            .unwrap();
        let mut got = Vec::new();
        let code = loop {
            match client.next().await.unwrap().unwrap() {
                Message::Binary(m) => got.push(m),
                Message::Close(c) => break c.map(|c| u16::from(c.code)),
                _ => {}
            }
        };
        assert_eq!(
            got,
            [&b"\x01"[..], b"\x01hi", b"\x03{\"status\":\"Failure\"}"]
        );
        assert_eq!(code, Some(1000));
        command.await.unwrap();
        drop(client);
        assert_eq!(task.await.unwrap(), Ok(()));
    }
}
