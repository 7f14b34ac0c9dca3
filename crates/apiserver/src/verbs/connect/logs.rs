//! Logs over a WebSocket: each piece of the body is a message. Source: upstream's `wsstream.Reader`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::header::{self, HeaderMap, HeaderValue};
use http_body_util::BodyExt as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use crate::Response;
use crate::body::{Body, BoxError};

/// The largest message a client may send: it has nothing to say but control frames.
const MAX_MESSAGE: usize = 64 * 1024;

/// The protocols, and whether their messages are base64 text.
const PROTOCOLS: [(&str, bool); 3] = [
    ("", false),
    ("binary.k8s.io", false),
    ("base64.binary.k8s.io", true),
];

/// A handshake that was accepted.
pub struct Messages {
    response: Response,
    base64: bool,
}

fn refusal(code: http::StatusCode, why: &'static str) -> Box<Response> {
    let mut r = Response::new(Body::from(why.as_bytes().to_vec()));
    *r.status_mut() = code;
    Box::new(r)
}

/// Accepts a client's handshake; `Err` is the refusal.
pub fn accept(headers: &HeaderMap) -> Result<Messages, Box<Response>> {
    let bad = |why| refusal(http::StatusCode::BAD_REQUEST, why);
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| bad("missing Sec-WebSocket-Key"))?;
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|v| v != "13")
    {
        return Err(bad("missing or bad WebSocket Version"));
    }
    let asked: Vec<&str> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|p| !p.is_empty() && !p.starts_with("base64url.bearer."))
        .collect();
    let asked = if asked.is_empty() { vec![""] } else { asked };
    let (name, base64) = asked
        .iter()
        .find_map(|a| PROTOCOLS.iter().find(|(name, _)| name == a))
        .ok_or_else(|| refusal(http::StatusCode::FORBIDDEN, ""))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if !name.is_empty() {
        out.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(name),
        );
    }
    if let Ok(v) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        out.insert(header::SEC_WEBSOCKET_ACCEPT, v);
    }
    Ok(Messages {
        response,
        base64: *base64,
    })
}

impl Messages {
    /// Answers the handshake; the body follows on the upgraded connection.
    pub fn answer<B>(self, client: OnUpgrade, body: B, stop: CancellationToken) -> Response
    where
        B: http_body::Body<Data = Bytes, Error = BoxError> + Send + Unpin + 'static,
    {
        let base64 = self.base64;
        tokio::spawn(async move {
            let client = match client.await {
                Ok(c) => TokioIo::new(c),
                Err(e) => return tracing::debug!(error = %e, "upgrade failed"),
            };
            tokio::select! {
                r = send(client, body, base64) => if let Err(e) = r {
                    tracing::debug!(error = %e, "a log's WebSocket ended");
                },
                () = stop.cancelled() => {}
            }
        });
        self.response
    }
}

async fn send<S, B>(client: S, mut body: B, base64: bool) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: http_body::Body<Data = Bytes, Error = BoxError> + Unpin,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let mut ws = WebSocketStream::from_raw_socket(client, Role::Server, Some(config)).await;
    let message = |data: Bytes| {
        if base64 {
            Message::Text(STANDARD.encode(&data).into())
        } else {
            Message::Binary(data)
        }
    };
    // Tells the client that the stream has begun.
    ws.send(message(Bytes::new())).await?;
    loop {
        tokio::select! {
            frame = body.frame() => match frame {
                None => break,
                Some(f) => if let Ok(data) = f?.into_data() && !data.is_empty() {
                    ws.send(message(data)).await?;
                },
            },
            said = ws.next() => match said {
                None | Some(Ok(Message::Close(_))) => return Ok(()),
                Some(Err(Error::ConnectionClosed)) => return Ok(()),
                Some(Err(e)) => return Err(e.into()),
                Some(Ok(_)) => {}
            },
        }
    }
    ws.close(None).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[tokio::test]
    async fn a_body_becomes_messages() {
        for base64 in [false, true] {
            let (near, far) = tokio::io::duplex(4096);
            let body = Full::new(Bytes::from_static(b"a line\n")).map_err(|e| match e {});
            let task =
                tokio::spawn(
                    async move { send(near, body, base64).await.map_err(|e| e.to_string()) },
                );
            let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
            let mut got = Vec::new();
            while let Some(Ok(m)) = client.next().await {
                if m.is_close() {
                    break;
                }
                got.push(m);
            }
            let want = if base64 {
                [
                    Message::text(""),
                    Message::text(STANDARD.encode("a line\n")),
                ]
            } else {
                [Message::binary(""), Message::binary("a line\n")]
            };
            assert_eq!(got, want);
            assert_eq!(task.await.unwrap(), Ok(()));
        }
    }
}
