//! Logs and watches over a WebSocket: each piece of the body is a message. Source: upstream's `wsstream.Reader` for logs,
//! `handlers.WatchServer` for watches, which has no protocols of its own and tells the only one that is asked for.

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

/// How pieces become messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As they are; after an empty message that tells of the beginning.
    Binary,
    /// In base64, as text; likewise.
    Base64,
    /// As text.
    Text,
    /// Without the length that stands before each, as in a protobuf watch.
    Framed,
}

impl Form {
    fn message(self, data: Bytes) -> Result<Message, BoxError> {
        Ok(match self {
            Form::Binary => Message::Binary(data),
            Form::Base64 => Message::Text(STANDARD.encode(&data).into()),
            Form::Text => Message::Text(data.try_into()?),
            Form::Framed => Message::Binary(data.slice(LENGTH.min(data.len())..)),
        })
    }

    fn greets(self) -> bool {
        matches!(self, Form::Binary | Form::Base64)
    }
}

/// Bytes of the length before a frame of a protobuf watch.
const LENGTH: usize = 4;

/// The protocols of logs.
const PROTOCOLS: [(&str, Form); 3] = [
    ("", Form::Binary),
    ("binary.k8s.io", Form::Binary),
    ("base64.binary.k8s.io", Form::Base64),
];

/// A handshake that was accepted.
pub struct Messages {
    response: Response,
    form: Form,
}

fn refusal(code: http::StatusCode, why: &'static str) -> Box<Response> {
    let mut r = Response::new(Body::from(why.as_bytes().to_vec()));
    *r.status_mut() = code;
    Box::new(r)
}

fn bad(why: &'static str) -> Box<Response> {
    refusal(http::StatusCode::BAD_REQUEST, why)
}

/// The protocols that a client asks for; a bearer token may travel among them.
fn asked(headers: &HeaderMap) -> Vec<&str> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|p| !p.is_empty() && !p.starts_with("base64url.bearer."))
        .collect()
}

/// Accepts a client's handshake for a log; `Err` is the refusal.
pub fn accept_log(headers: &HeaderMap) -> Result<Messages, Box<Response>> {
    let asked = asked(headers);
    let asked = if asked.is_empty() { vec![""] } else { asked };
    let (name, form) = asked
        .iter()
        .find_map(|a| PROTOCOLS.iter().find(|(name, _)| name == a))
        .ok_or_else(|| refusal(http::StatusCode::FORBIDDEN, ""))?;
    accept(headers, name, *form)
}

/// Accepts a client's handshake for a watch; `Err` is the refusal.
pub fn accept_watch(headers: &HeaderMap, form: Form) -> Result<Messages, Box<Response>> {
    match asked(headers).as_slice() {
        [] => accept(headers, "", form),
        [one] => accept(headers, one, form),
        _ => Err(bad("missing or bad WebSocket Protocol")),
    }
}

fn accept(headers: &HeaderMap, protocol: &str, form: Form) -> Result<Messages, Box<Response>> {
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| bad("missing Sec-WebSocket-Key"))?;
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|v| v != "13")
    {
        return Err(bad("missing or bad WebSocket Version"));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(v) = HeaderValue::from_str(protocol)
        && !protocol.is_empty()
    {
        out.insert(header::SEC_WEBSOCKET_PROTOCOL, v);
    }
    if let Ok(v) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        out.insert(header::SEC_WEBSOCKET_ACCEPT, v);
    }
    Ok(Messages { response, form })
}

impl Messages {
    /// Answers the handshake; the body follows on the upgraded connection.
    pub fn answer<B>(self, client: OnUpgrade, body: B, stop: CancellationToken) -> Response
    where
        B: http_body::Body<Data = Bytes, Error = BoxError> + Send + Unpin + 'static,
    {
        let form = self.form;
        tokio::spawn(async move {
            let client = match client.await {
                Ok(c) => TokioIo::new(c),
                Err(e) => return tracing::debug!(error = %e, "upgrade failed"),
            };
            tokio::select! {
                r = send(client, body, form) => if let Err(e) = r {
                    tracing::debug!(error = %e, "a WebSocket ended");
                },
                () = stop.cancelled() => {}
            }
        });
        self.response
    }
}

async fn send<S, B>(client: S, mut body: B, form: Form) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: http_body::Body<Data = Bytes, Error = BoxError> + Unpin,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let mut ws = WebSocketStream::from_raw_socket(client, Role::Server, Some(config)).await;
    if form.greets() {
        ws.send(form.message(Bytes::new())?).await?;
    }
    loop {
        tokio::select! {
            frame = body.frame() => match frame {
                None => break,
                Some(f) => if let Ok(data) = f?.into_data() && !data.is_empty() {
                    ws.send(form.message(data)?).await?;
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
        for (form, want) in [
            (
                Form::Binary,
                vec![Message::binary(""), Message::binary("a line\n")],
            ),
            (
                Form::Base64,
                vec![
                    Message::text(""),
                    Message::text(STANDARD.encode("a line\n")),
                ],
            ),
            (Form::Text, vec![Message::text("a line\n")]),
            (Form::Framed, vec![Message::binary("ne\n")]),
        ] {
            let (near, far) = tokio::io::duplex(4096);
            let body = Full::new(Bytes::from_static(b"a line\n")).map_err(|e| match e {});
            let task =
                tokio::spawn(
                    async move { send(near, body, form).await.map_err(|e| e.to_string()) },
                );
            let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
            let mut got = Vec::new();
            while let Some(Ok(m)) = client.next().await {
                if m.is_close() {
                    break;
                }
                got.push(m);
            }
            assert_eq!(got, want);
            assert_eq!(task.await.unwrap(), Ok(()));
        }
    }

    #[test]
    fn the_only_protocol_of_a_watch_is_told() {
        let mut h = HeaderMap::new();
        h.insert(header::SEC_WEBSOCKET_KEY, "x".parse().unwrap());
        h.insert(header::SEC_WEBSOCKET_VERSION, "13".parse().unwrap());
        for (protocols, want) in [
            ("", Ok(None)),
            ("a", Ok(Some("a"))),
            ("base64url.bearer.authorization.k8s.io.x, a", Ok(Some("a"))),
            ("a, b", Err(400)),
        ] {
            h.insert(header::SEC_WEBSOCKET_PROTOCOL, protocols.parse().unwrap());
            let got = accept_watch(&h, Form::Text);
            let got = got.map(|m| {
                let told = m.response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
                told.map(|v| v.to_str().unwrap().to_owned())
            });
            let got = got.map_err(|r| r.status().as_u16());
            assert_eq!(
                got,
                want.map(|w: Option<&str>| w.map(str::to_owned)),
                "{protocols}"
            );
        }
    }
}
