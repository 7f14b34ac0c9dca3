//! exec, attach and port-forward: from the client's upgrade to the runtime's streaming server.
//!
//! A SPDY client is joined to the runtime byte by byte; the runtime speaks SPDY/3.1 itself. A WebSocket client
//! (`v5.channel.k8s.io`, `v4.channel.k8s.io`) is translated to SPDY, which unlike WebSocket can end stdin alone.
//!
//! Invariants: nothing is piped unless the runtime has answered 101 (CVE-2018-1002105); redirects are refused
//! (CVE-2020-8559); the runtime's address is dialled as it says, once.

use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use component::serve::{Body, body, text};

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

/// Joins a SPDY client to the runtime.
pub async fn spdy(request: Request<Incoming>, url: String) -> Response<Body> {
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
    let (mut io, early, head) = match dial(&url, &wanted).await {
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
        let _ = tokio::io::copy_bidirectional(&mut client, &mut io).await;
    });
    r
}

/// The answer to a WebSocket upgrade and the protocol chosen; `Err` is the refusal.
fn accept_websocket(
    h: &HeaderMap,
    known: &[&'static str],
) -> Result<(Response<Body>, &'static str), Box<Response<Body>>> {
    let refuse = |m: &'static str| Box::new(text(400, m));
    let key = h
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| refuse("missing Sec-WebSocket-Key\n"))?;
    if h.get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|v| v != "13")
    {
        return Err(refuse("unsupported WebSocket version\n"));
    }
    let asked: Vec<&str> = h
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .collect();
    let protocol = asked
        .iter()
        .find_map(|a| known.iter().find(|k| *k == a))
        .copied()
        .ok_or_else(|| refuse("no supported WebSocket protocol\n"))?;
    let mut r = Response::new(body(Bytes::new()));
    *r.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = r.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(
        header::SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(protocol),
    );
    if let Ok(v) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, v);
    }
    Ok((r, protocol))
}

/// Translates a WebSocket client of exec or attach to the runtime.
pub async fn websocket(request: Request<Incoming>, url: String, wanted: Wanted) -> Response<Body> {
    let (answer, protocol) = match accept_websocket(
        request.headers(),
        &["v5.channel.k8s.io", "v4.channel.k8s.io"],
    ) {
        Ok(r) => r,
        Err(r) => return *r,
    };
    let (io, early, _) = match dial(&url, &["v4.channel.k8s.io"]).await {
        Ok(r) => r,
        Err(e) => return text(500, format!("{e}\n")),
    };
    tokio::spawn(async move {
        let client = match hyper::upgrade::on(request).await {
            Ok(u) => u,
            Err(e) => return tracing::debug!(error = %e, "upgrade failed"),
        };
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let ws = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, Some(config))
            .await;
        if let Err(e) = bridge(ws, io, early, wanted, protocol == "v5.channel.k8s.io").await {
            tracing::debug!(error = %e, "stream ended");
        }
    });
    answer
}

async fn bridge<S>(
    mut ws: WebSocketStream<S>,
    io: TcpStream,
    early: BytesMut,
    wanted: Wanted,
    v5: bool,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (r, w) = io.into_split();
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
    // Nothing is sent on these two from here.
    out.data(error, b"", true).await?;

    let mut status_sent = false;
    let mut open: Vec<u32> = [Some(error), stdout, stderr]
        .into_iter()
        .flatten()
        .collect();
    loop {
        tokio::select! {
            m = ws.next() => match m {
                Some(Ok(Message::Binary(data))) => {
                    let Some((channel, payload)) = data.split_first() else { continue };
                    let sent = match (*channel, stdin, resize) {
                        (STDIN, Some(id), _) => out.data(id, payload, false).await,
                        (RESIZE, _, Some(id)) => out.data(id, payload, false).await,
                        (CLOSE, Some(id), _) if v5 && payload.first() == Some(&STDIN) => out.data(id, b"", true).await,
                        _ => Ok(()),
                    };
                    // A command that has ended takes no input; what it said is still to be read.
                    if let Err(e) = sent {
                        tracing::debug!(error = %e, "input of a stream is lost");
                    }
                }
                Some(Ok(Message::Text(t))) => {
                    let Some((channel, payload)) = t.as_bytes().split_first() else { continue };
                    if let (STDIN, Some(id)) = (*channel, stdin) {
                        let _ = out.data(id, payload, false).await;
                    }
                }
                Some(Ok(Message::Ping(p))) => ws.send(Message::Pong(p)).await?,
                Some(Ok(Message::Close(_)) | Err(_)) | None => {
                    if let Some(id) = stdin {
                        let _ = out.data(id, b"", true).await;
                    }
                    return Ok(());
                }
                Some(Ok(_)) => {}
            },
            e = inn.next() => match e {
                Err(e) => {
                    if !status_sent {
                        send(&mut ws, ERROR, &internal(&e.to_string())).await?;
                    }
                    close(&mut ws).await?;
                    return Ok(());
                }
                Ok(Some(Event::Data { id, data, fin })) => {
                    let channel = if Some(id) == stdout { STDOUT } else if Some(id) == stderr { STDERR } else if id == error { ERROR } else { continue };
                    if !data.is_empty() {
                        if channel == ERROR {
                            status_sent = true;
                            send(&mut ws, ERROR, &retold(&data)).await?;
                        } else {
                            send(&mut ws, channel, &data).await?;
                        }
                    }
                    if fin {
                        open.retain(|o| *o != id);
                        if open.is_empty() {
                            break;
                        }
                    }
                }
                Ok(Some(Event::Reset(id))) => {
                    open.retain(|o| *o != id);
                    if open.is_empty() {
                        break;
                    }
                }
                // The answer to the ping of a runtime that is gone is missed by nobody.
                Ok(Some(Event::Ping(id))) => {
                    let _ = out.pong(id).await;
                }
                Ok(Some(Event::GoAway | Event::Other)) => {}
                Ok(None) => break,
            },
        }
    }
    if !status_sent {
        // The runtime ended without a word: the command succeeded as far as it told.
        send(&mut ws, ERROR, br#"{"metadata":{},"status":"Success"}"#).await?;
    }
    close(&mut ws).await?;
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

async fn send<S>(
    ws: &mut WebSocketStream<S>,
    channel: u8,
    data: &[u8],
) -> Result<(), tokio_tungstenite::tungstenite::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    for chunk in data.chunks(32 * 1024) {
        let mut m = BytesMut::with_capacity(chunk.len() + 1);
        m.extend_from_slice(&[channel]);
        m.extend_from_slice(chunk);
        ws.send(Message::Binary(m.freeze())).await?;
    }
    Ok(())
}

/// Closes with "normal": clients take a close without a code for a broken connection.
async fn close<S>(ws: &mut WebSocketStream<S>) -> Result<(), tokio_tungstenite::tungstenite::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
    ws.close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    }))
    .await?;
    // The client's close is awaited for a moment, so that ours is not lost to a reset.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), async {
        while let Some(Ok(_)) = ws.next().await {}
    })
    .await;
    Ok(())
}

/// Translates a WebSocket port-forward client (`v4.channel.k8s.io`, two channels per port) to the runtime.
pub async fn port_forward(
    request: Request<Incoming>,
    url: String,
    ports: Vec<u16>,
) -> Response<Body> {
    let (answer, _) = match accept_websocket(
        request.headers(),
        &["v4.channel.k8s.io", "portforward.k8s.io"],
    ) {
        Ok(r) => r,
        Err(r) => return *r,
    };
    if ports.is_empty() || ports.len() > 100 {
        return text(400, "query parameter \"port\" is required\n");
    }
    let (io, early, _) = match dial(&url, &["portforward.k8s.io"]).await {
        Ok(r) => r,
        Err(e) => return text(500, format!("{e}\n")),
    };
    tokio::spawn(async move {
        let client = match hyper::upgrade::on(request).await {
            Ok(u) => u,
            Err(e) => return tracing::debug!(error = %e, "upgrade failed"),
        };
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let ws = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, Some(config))
            .await;
        if let Err(e) = forward(ws, io, early, &ports).await {
            tracing::debug!(error = %e, "port-forward ended");
        }
    });
    answer
}

async fn forward<S>(
    mut ws: WebSocketStream<S>,
    io: TcpStream,
    early: BytesMut,
    ports: &[u16],
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (r, w) = io.into_split();
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
            send(&mut ws, u8::try_from(c)?, &p.to_le_bytes()).await?;
        }
    }
    let mut open = ids.len();
    loop {
        tokio::select! {
            m = ws.next() => match m {
                Some(Ok(Message::Binary(data))) => {
                    let Some((channel, payload)) = data.split_first() else { continue };
                    if channel % 2 == 0 && let Some(id) = ids.get(usize::from(*channel)) {
                        out.data(*id, payload, false).await?;
                    }
                }
                Some(Ok(Message::Ping(p))) => ws.send(Message::Pong(p)).await?,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                Some(Ok(_)) => {}
            },
            e = inn.next() => match e? {
                Some(Event::Data { id, data, fin }) => {
                    let Some(channel) = ids.iter().position(|i| *i == id) else { continue };
                    if !data.is_empty() {
                        send(&mut ws, u8::try_from(channel)?, &data).await?;
                    }
                    if fin {
                        open -= 1;
                    }
                }
                Some(Event::Reset(id)) if ids.contains(&id) => open = open.saturating_sub(1),
                Some(Event::Ping(id)) => out.pong(id).await?,
                Some(_) => {}
                None => break,
            },
        }
        if open == 0 {
            break;
        }
    }
    close(&mut ws).await?;
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
            bridge(ws, io, BytesMut::new(), wanted, true)
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
        assert_eq!(got, [&b"\x01hi"[..], b"\x03{\"status\":\"Failure\"}"]);
        assert_eq!(code, Some(1000));
        command.await.unwrap();
        drop(client);
        assert_eq!(task.await.unwrap(), Ok(()));
    }
}
