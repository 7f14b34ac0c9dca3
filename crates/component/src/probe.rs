//! Asking a server whether it is well, over TLS that does not ask who it is.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Longest body that is read.
const MAX_BODY: usize = 10 * 1024;

/// Sends one request over a connection of its own; the answer's head and the beginning of its body.
///
/// # Errors
/// What ends before there is a head. A body that ends early is as long as it came.
pub async fn exchange<S>(
    stream: S,
    request: http::Request<Empty<Bytes>>,
) -> Result<(http::response::Parts, String), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It may end before what it brought has been read.
    let connection = tokio::spawn(connection);
    let answer = async {
        let (head, mut rest) = sender.send_request(request).await?.into_parts();
        let mut body = Vec::new();
        while body.len() < MAX_BODY {
            match rest.frame().await {
                Some(Ok(f)) => body.extend_from_slice(f.data_ref().map_or(&[], |d| d)),
                _ => break,
            }
        }
        body.truncate(MAX_BODY);
        Ok((head, String::from_utf8_lossy(&body).into_owned()))
    };
    let answer = answer.await;
    connection.abort();
    answer
}

/// `GET https://ADDRESS/PATH`: the code and the beginning of the body, within `limit`. Redirects are not followed.
///
/// # Errors
/// In Go's words, `Get "https://…": …`.
pub async fn get(
    address: SocketAddr,
    path: &str,
    limit: Duration,
) -> Result<(u16, String), String> {
    let url = format!("https://{address}{path}");
    let work = async {
        let stream = TcpStream::connect(address).await.map_err(|e| {
            let why = if e.kind() == std::io::ErrorKind::ConnectionRefused {
                "connect: connection refused".to_owned()
            } else {
                e.to_string()
            };
            format!("dial tcp {address}: {why}")
        })?;
        let name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
        let tls = crate::unverified::client().map_err(|e| e.to_string())?;
        let stream = tokio_rustls::TlsConnector::from(tls)
            .connect(name, stream)
            .await
            .map_err(|e| e.to_string())?;
        let request = http::Request::get(path)
            .header(http::header::HOST, address.to_string())
            .header(http::header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|e| e.to_string())?;
        let (head, body) = exchange(stream, request).await.map_err(|e| e.to_string())?;
        Ok::<_, String>((head.status.as_u16(), body))
    };
    match tokio::time::timeout(limit, work).await {
        Ok(r) => r.map_err(|e| format!("Get \"{url}\": {e}")),
        Err(_) => Err(format!("Get \"{url}\": context deadline exceeded")),
    }
}
