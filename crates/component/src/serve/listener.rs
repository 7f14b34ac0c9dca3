//! Accepts connections, speaks TLS and HTTP/1.1 or HTTP/2 on them, and ends those whose time is over. The one place where
//! the workspace's servers meet the network.
//!
//! Bounded: connections (see [`Limits`]), the time of a handshake and of a request's head, idle time, HTTP/2 streams,
//! resets and buffers (CVE-2023-44487). An answer with `Connection: close` ends the connection, over HTTP/2 by a GOAWAY.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode, Version, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::connections::{Connections, InRequest, Limits, Slot};
use crate::Shutdown;
use crate::tls::Tls;

const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long an idle connection is waited for after it was told to end.
const CLOSE_TIME: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIME: Duration = Duration::from_secs(15);

/// What a port allows.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Connections.
    pub limits: Limits,
    /// Bytes of a request's head.
    pub head_bytes: u32,
    /// Bytes a peer may send ahead on one HTTP/2 stream.
    pub stream_window: u32,
    /// Bytes a peer may send ahead on one HTTP/2 connection.
    pub connection_window: u32,
    /// `--http2-max-streams-per-connection`
    pub streams: u32,
}

impl Settings {
    /// For the small daemons.
    pub const SMALL: Settings = Settings {
        limits: Limits::of(1_000),
        head_bytes: 64 * 1024,
        stream_window: 64 * 1024,
        connection_window: 256 * 1024,
        streams: 100,
    };

    /// With `--http2-max-streams-per-connection`, whose zero keeps the default.
    #[must_use]
    pub fn with_streams(self, streams: i64) -> Settings {
        match u32::try_from(streams) {
            Ok(0) | Err(_) => self,
            Ok(streams) => Settings { streams, ..self },
        }
    }
}

/// Who is at the other end.
#[derive(Default)]
pub struct Peer {
    /// The remote address; none in tests.
    pub address: Option<SocketAddr>,
    /// The client's certificates in DER, leaf first; possession is proven, the chain is not verified.
    pub certificates: Vec<Vec<u8>>,
    slot: Option<Slot>,
    known: AtomicBool,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Peer({:?})", self.address)
    }
}

impl Peer {
    /// A peer without a connection.
    pub fn new(address: Option<SocketAddr>, certificates: Vec<Vec<u8>>) -> Peer {
        Peer {
            address,
            certificates,
            ..Peer::default()
        }
    }

    /// A request of this peer was authenticated, and not as anonymous: its connection counts as known from now on.
    pub fn authenticated(&self) {
        if !self.known.swap(true, Ordering::Relaxed)
            && let Some(slot) = &self.slot
        {
            slot.known();
        }
    }

    /// Whether [`Peer::authenticated`] was called.
    pub fn is_authenticated(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }
}

/// Answers the requests of a port.
#[async_trait]
pub trait Answer: Send + Sync + 'static {
    /// The body of answers.
    type Body: http_body::Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>>
        + Send
        + Unpin
        + 'static;

    /// The answer. One with `Connection: close` is the last on its connection. Upgrades work through `hyper::upgrade::on`.
    async fn answer(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: Request<Incoming>,
    ) -> Response<Self::Body>;
}

/// Serves until the shutdown, then lets running requests end. Without `tls` the port is plain HTTP/1.1. Returns once the
/// listener is closed; connections are tracked by `shutdown`.
pub async fn listen<A: Answer>(
    listener: TcpListener,
    tls: Option<Tls>,
    settings: Settings,
    answer: Arc<A>,
    shutdown: Shutdown,
) {
    let connections = Connections::new(settings.limits);
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            a = listener.accept() => a,
        };
        let (stream, address) = match accepted {
            Ok(a) => a,
            Err(err) => {
                tracing::warn!(%err, "Accepting a connection failed");
                // Out of file descriptors: trying again at once would only spin.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(slot) = connections.admit(address.ip()) else {
            tracing::debug!(%address, "Connection refused: too many are open");
            continue;
        };
        let _ = stream.set_nodelay(true);
        let acceptor = tls.as_ref().map(|t| TlsAcceptor::from(t.config()));
        let (answer, token) = (Arc::clone(&answer), shutdown.token.clone());
        shutdown.spawn(async move {
            tokio::select! {
                () = slot.gone() => tracing::debug!(%address, "Idle connection ended: its place was needed"),
                () = accepted_one(stream, address, acceptor, settings, answer, slot.clone(), token) => {}
            }
        });
    }
}

async fn accepted_one<A: Answer>(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    settings: Settings,
    answer: Arc<A>,
    slot: Slot,
    stop: CancellationToken,
) {
    let mut peer = Peer {
        address: Some(address),
        slot: Some(slot.clone()),
        ..Peer::default()
    };
    let stream = Held {
        stream,
        _slot: slot.clone(),
    };
    let Some(acceptor) = acceptor else {
        return connection(stream, false, Arc::new(peer), settings, answer, slot, stop).await;
    };
    let stream = match tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await {
        Ok(Ok(s)) => s,
        Ok(Err(err)) => return tracing::debug!(%address, %err, "TLS handshake error"),
        Err(_) => return tracing::debug!(%address, "TLS handshake timed out"),
    };
    let (_, session) = stream.get_ref();
    let h2 = session.alpn_protocol() == Some(b"h2");
    let certificates = session.peer_certificates().unwrap_or_default();
    peer.certificates = certificates.iter().map(|c| c.to_vec()).collect();
    connection(stream, h2, Arc::new(peer), settings, answer, slot, stop).await;
}

async fn connection<S, A>(
    stream: S,
    h2: bool,
    peer: Arc<Peer>,
    settings: Settings,
    answer: Arc<A>,
    slot: Slot,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Answer,
{
    let address = peer.address;
    // Cancelled when the connection shall end after what it is answering.
    let enough = stop.child_token();
    let service = {
        let (enough, slot) = (enough.clone(), slot.clone());
        service_fn(move |request: Request<Incoming>| {
            let (answer, peer, enough) = (Arc::clone(&answer), Arc::clone(&peer), enough.clone());
            let (slot, running) = (slot.clone(), slot.request());
            let version = request.version();
            async move {
                let mut response = answer.answer(peer, request).await;
                let headers = response.headers_mut();
                let last = headers.get(header::CONNECTION);
                if last.is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"close"))
                    && version == Version::HTTP_2
                {
                    headers.remove(header::CONNECTION);
                    enough.cancel();
                }
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    slot.upgraded();
                }
                Ok::<_, std::convert::Infallible>(response.map(|inner| InFlight {
                    inner,
                    _running: running,
                }))
            }
        })
    };
    let io = TokioIo::new(stream);
    let ended = if h2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.streams)
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(1024)
            .initial_stream_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .max_send_buf_size(settings.stream_window as usize)
            .max_header_list_size(settings.head_bytes)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIME);
        let served = std::pin::pin!(builder.serve_connection(io, service));
        follow(served, |c| c.graceful_shutdown(), &slot, &enough).await
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(settings.limits.idle)
            .max_buf_size(settings.head_bytes as usize);
        let served = std::pin::pin!(builder.serve_connection(io, service).with_upgrades());
        follow(served, |c| c.graceful_shutdown(), &slot, &enough).await
    };
    match ended {
        Some(Err(err)) => tracing::debug!(?address, %err, "Connection ended"),
        None => tracing::debug!(?address, "Idle connection ended"),
        Some(Ok(())) => {}
    }
}

/// Drives a connection to its end; `None` when it was dropped because its time was over.
async fn follow<C>(
    mut served: Pin<&mut C>,
    end: impl Fn(Pin<&mut C>),
    slot: &Slot,
    enough: &CancellationToken,
) -> Option<C::Output>
where
    C: Future,
{
    let mut told: Option<Instant> = None;
    loop {
        let now = Instant::now();
        let rest = slot.rest().map(|r| match told {
            Some(at) => r.since.max(at) + CLOSE_TIME,
            None => r.until,
        });
        if rest.is_some_and(|at| at <= now) {
            if told.is_some() {
                return None;
            }
            end(served.as_mut());
            told = Some(now);
            continue;
        }
        tokio::select! {
            r = served.as_mut() => return Some(r),
            () = enough.cancelled(), if told.is_none() => {
                end(served.as_mut());
                told = Some(Instant::now());
            }
            () = async { match rest {
                Some(at) => tokio::time::sleep_until(at).await,
                None => slot.resting().await,
            } } => {}
        }
    }
}

/// An answer's body, which keeps its connection from being idle.
struct InFlight<B> {
    inner: B,
    _running: InRequest,
}

impl<B: http_body::Body + Unpin> http_body::Body for InFlight<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A stream that keeps its place as long as it is open, after an upgrade too.
struct Held {
    stream: TcpStream,
    _slot: Slot,
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
