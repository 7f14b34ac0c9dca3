//! Connections to the apiserver.
//!
//! HTTP/2 where the server speaks it: requests share one connection, watches share others with at most
//! [`STREAMS_PER_WATCH_CONNECTION`] each (servers allow 100 streams or more). HTTP/1.1 otherwise, with idle connections kept.
//!
//! Invariants: credentials are checked for change at most every [`RELOAD_INTERVAL`], and only when a request is made, so
//! an idle client sets no timer; a connection made with old credentials gets no new requests.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::client::ConfigExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::util::{BoxCloneSyncService, ServiceExt as _};
use tower::{Layer as _, service_fn};

use crate::error::{Error, Result};

/// How often changed credential files are looked for, at most.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(10);
/// More watches than this open another connection.
pub const STREAMS_PER_WATCH_CONNECTION: usize = 80;
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
const IDLE_HTTP1: usize = 16;
const IN_CLUSTER_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Body of a request.
pub type RequestBody = Full<Bytes>;
type Authorize =
    BoxCloneSyncService<Request<RequestBody>, Response<Request<RequestBody>>, tower::BoxError>;

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A kubeconfig file, with an optional replacement for the server's address.
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// `--master`.
        server: Option<String>,
    },
    /// The service account mounted in a pod.
    InCluster,
    /// A ready configuration that never changes.
    Fixed(Box<kube::Config>),
    /// A server in this process, reached without a network.
    Within(Pipe),
}

/// Makes a connection to a server in this process, which gets the other end: HTTP/1.1 without credentials.
#[derive(Clone)]
pub struct Pipe(Arc<dyn Fn() -> DuplexStream + Send + Sync>);

impl Pipe {
    /// From what makes connections.
    pub fn new(connect: impl Fn() -> DuplexStream + Send + Sync + 'static) -> Pipe {
        Pipe(Arc::new(connect))
    }
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipe").finish_non_exhaustive()
    }
}

/// Which connections a request goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Calls that end soon.
    Requests,
    /// Streams that stay open.
    Watches,
}

struct Loaded {
    generation: u64,
    host: String,
    port: u16,
    authority: HeaderValue,
    prefix: String,
    tls: Option<(
        Arc<rustls::ClientConfig>,
        rustls_pki_types::ServerName<'static>,
    )>,
    bearer: Option<HeaderValue>,
    authorize: Option<Authorize>,
    headers: Vec<(HeaderName, HeaderValue)>,
    files: Vec<(PathBuf, Option<(SystemTime, u64)>)>,
    pipe: Option<Pipe>,
}

struct H2Connection {
    generation: u64,
    sender: http2::SendRequest<RequestBody>,
    active: Arc<AtomicUsize>,
}

struct H1Connection {
    generation: u64,
    sender: http1::SendRequest<RequestBody>,
}

#[derive(Default)]
struct Pool {
    h2: Vec<H2Connection>,
}

struct State {
    loaded: Arc<Loaded>,
    checked: Instant,
}

/// The connections of one client.
pub struct Transport {
    source: Source,
    /// Leave out the credentials of the configuration.
    stripped: bool,
    state: Mutex<State>,
    requests: Mutex<Pool>,
    watches: Mutex<Pool>,
    idle: Arc<StdMutex<Vec<H1Connection>>>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

impl Transport {
    /// Reads the configuration; does not connect.
    pub async fn new(source: Source) -> Result<Transport> {
        Transport::make(source, false).await
    }

    /// Other connections to the same server, without credentials.
    pub async fn without_credentials(&self) -> Result<Arc<Transport>> {
        Transport::make(self.source.clone(), true)
            .await
            .map(Arc::new)
    }

    /// Other connections to the same server, with the same credentials.
    pub async fn apart(&self) -> Result<Arc<Transport>> {
        Transport::make(self.source.clone(), self.stripped)
            .await
            .map(Arc::new)
    }

    async fn make(source: Source, stripped: bool) -> Result<Transport> {
        let loaded = Arc::new(load(&source, stripped, 0).await?);
        Ok(Transport {
            source,
            stripped,
            state: Mutex::new(State {
                loaded,
                checked: Instant::now(),
            }),
            requests: Mutex::default(),
            watches: Mutex::default(),
            idle: Arc::default(),
        })
    }

    async fn loaded(&self) -> Arc<Loaded> {
        let mut state = self.state.lock().await;
        if state.loaded.files.is_empty() || state.checked.elapsed() < RELOAD_INTERVAL {
            return state.loaded.clone();
        }
        state.checked = Instant::now();
        if state
            .loaded
            .files
            .iter()
            .all(|(path, stamp)| stat(path) == *stamp)
        {
            return state.loaded.clone();
        }
        match load(&self.source, self.stripped, state.loaded.generation + 1).await {
            Ok(loaded) => {
                tracing::info!("client credentials changed on disk and were read again");
                state.loaded = Arc::new(loaded);
            }
            // A file may be half written: the old credentials stay until the next look.
            Err(error) => {
                tracing::warn!(%error, "changed client credentials cannot be read; the old ones stay in use")
            }
        }
        state.loaded.clone()
    }

    /// Sends a request whose URI is a path (with query). The answer's body is still to be read.
    pub async fn send(
        &self,
        parts: &http::request::Parts,
        body: Bytes,
        user_agent: &HeaderValue,
        lane: Lane,
    ) -> Result<Response<Body>> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let loaded = self.loaded().await;
            let request = build(&loaded, parts, body.clone(), user_agent).await?;
            match self.send_once(&loaded, request, lane).await {
                // Nothing was processed: the connection was closing, or the server refused the stream.
                Err(Sent::No(error)) if attempt < 3 => {
                    tracing::debug!(%error, "request was not sent; trying another connection");
                }
                Err(Sent::No(error)) => return Err(Error::Transport(chain(&error))),
                Err(Sent::Maybe(error)) if attempt < 3 && parts.method == http::Method::GET => {
                    tracing::debug!(%error, "connection failed; trying another");
                }
                Err(Sent::Maybe(error)) => return Err(Error::Transport(chain(&error))),
                Err(Sent::Failed(error)) => return Err(error),
                Ok(response) => return Ok(response),
            }
        }
    }

    async fn send_once(
        &self,
        loaded: &Arc<Loaded>,
        mut request: Request<RequestBody>,
        lane: Lane,
    ) -> Result<Response<Body>, Sent> {
        let idle = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|c| c.generation == loaded.generation && !c.sender.is_closed());
            idle.pop()
        };
        let connection = match idle {
            Some(c) => Connection::H1(c),
            None => self.connection(loaded, lane).await.map_err(Sent::Failed)?,
        };
        match connection {
            Connection::H2(mut sender, guard) => {
                let uri = format!(
                    "https://{}{}",
                    loaded.authority.to_str().unwrap_or_default(),
                    request.uri()
                );
                let uri = uri.parse().map_err(|e| {
                    Sent::Failed(Error::Config(format!("bad address {uri:?}: {e}")))
                })?;
                *request.uri_mut() = uri;
                request.headers_mut().remove(HOST);
                sender.ready().await.map_err(Sent::No)?;
                let response = sender.send_request(request).await.map_err(Sent::from)?;
                Ok(response.map(|inner| Body {
                    inner,
                    hold: Hold::H2 { _guard: guard },
                }))
            }
            Connection::H1(mut c) => {
                c.sender.ready().await.map_err(Sent::No)?;
                let response = c.sender.send_request(request).await.map_err(Sent::from)?;
                let pool = self.idle.clone();
                Ok(response.map(|inner| Body {
                    inner,
                    hold: Hold::H1 {
                        connection: Some(c),
                        pool,
                    },
                }))
            }
        }
    }

    async fn connection(&self, loaded: &Arc<Loaded>, lane: Lane) -> Result<Connection> {
        let (pool, limit) = match lane {
            Lane::Requests => (&self.requests, usize::MAX),
            Lane::Watches => (&self.watches, STREAMS_PER_WATCH_CONNECTION),
        };
        // The lock is held while connecting, so that many first requests make one connection.
        let mut pool = pool.lock().await;
        pool.h2
            .retain(|c| c.generation == loaded.generation && !c.sender.is_closed());
        if let Some(c) = pool
            .h2
            .iter()
            .find(|c| c.active.load(Ordering::Relaxed) < limit)
        {
            return Ok(Connection::H2(c.sender.clone(), Active::new(&c.active)));
        }
        match tokio::time::timeout(DIAL_TIMEOUT, dial(loaded))
            .await
            .map_err(|_| Error::Timeout)??
        {
            Dialed::H2(sender) => {
                let active = Arc::new(AtomicUsize::new(0));
                let guard = Active::new(&active);
                pool.h2.push(H2Connection {
                    generation: loaded.generation,
                    sender: sender.clone(),
                    active,
                });
                Ok(Connection::H2(sender, guard))
            }
            Dialed::H1(sender) => Ok(Connection::H1(H1Connection {
                generation: loaded.generation,
                sender,
            })),
        }
    }
}

enum Connection {
    H2(http2::SendRequest<RequestBody>, Active),
    H1(H1Connection),
}

enum Dialed {
    H2(http2::SendRequest<RequestBody>),
    H1(http1::SendRequest<RequestBody>),
}

enum Sent {
    No(hyper::Error),
    Maybe(hyper::Error),
    Failed(Error),
}

impl From<hyper::Error> for Sent {
    fn from(e: hyper::Error) -> Sent {
        // hyper cancels what it has not begun to write.
        if e.is_canceled() {
            Sent::No(e)
        } else {
            Sent::Maybe(e)
        }
    }
}

fn chain(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        out.push_str(": ");
        out.push_str(&s.to_string());
        source = s.source();
    }
    out
}

async fn build(
    loaded: &Loaded,
    parts: &http::request::Parts,
    body: Bytes,
    user_agent: &HeaderValue,
) -> Result<Request<RequestBody>> {
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let uri = format!("{}{path}", loaded.prefix);
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri
        .parse()
        .map_err(|e| Error::Config(format!("bad request path {uri:?}: {e}")))?;
    *request.headers_mut() = parts.headers.clone();
    let headers = request.headers_mut();
    headers.insert(HOST, loaded.authority.clone());
    headers.insert(USER_AGENT, user_agent.clone());
    for (name, value) in &loaded.headers {
        headers.append(name.clone(), value.clone());
    }
    if let Some(bearer) = &loaded.bearer {
        headers.insert(AUTHORIZATION, bearer.clone());
    }
    let Some(authorize) = &loaded.authorize else {
        return Ok(request);
    };
    let answer = authorize
        .clone()
        .oneshot(request)
        .await
        .map_err(|e| Error::Config(format!("credentials: {e}")))?;
    Ok(answer.into_body())
}

async fn dial(loaded: &Loaded) -> Result<Dialed> {
    let fail = |message: String| Error::Connect {
        server: format!("{}:{}", loaded.host, loaded.port),
        message,
    };
    if let Some(Pipe(connect)) = &loaded.pipe {
        return http1_over(TokioIo::new(connect()))
            .await
            .map_err(|e| fail(chain(&e)));
    }
    let tcp = TcpStream::connect((loaded.host.as_str(), loaded.port))
        .await
        .map_err(|e| fail(e.to_string()))?;
    let _ = tcp.set_nodelay(true);
    let Some((tls, name)) = &loaded.tls else {
        return http1_over(TokioIo::new(tcp))
            .await
            .map_err(|e| fail(chain(&e)));
    };
    let stream = tokio_rustls::TlsConnector::from(tls.clone())
        .connect(name.clone(), tcp)
        .await
        .map_err(|e| fail(e.to_string()))?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return http1_over(TokioIo::new(stream))
            .await
            .map_err(|e| fail(chain(&e)));
    }
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .max_concurrent_reset_streams(128)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| fail(chain(&e)))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the apiserver ended");
        }
    });
    Ok(Dialed::H2(sender))
}

async fn http1_over<T>(io: TokioIo<T>) -> hyper::Result<Dialed>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(io).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the apiserver ended");
        }
    });
    Ok(Dialed::H1(sender))
}

fn stat(path: &Path) -> Option<(SystemTime, u64)> {
    let m = std::fs::metadata(path).ok()?;
    Some((m.modified().ok()?, m.len()))
}

async fn load(source: &Source, stripped: bool, generation: u64) -> Result<Loaded> {
    let mut files = Vec::new();
    let mut config = match source {
        Source::Kubeconfig { path, server } => {
            files.push(path.clone());
            let mut kubeconfig = Kubeconfig::read_from(path)
                .map_err(|e| Error::Config(format!("{}: {}", path.display(), chain(&e))))?;
            if let Some(server) = server {
                for c in &mut kubeconfig.clusters {
                    if let Some(c) = c.cluster.as_mut() {
                        c.server = Some(server.clone());
                    }
                }
            }
            for c in kubeconfig
                .clusters
                .iter()
                .filter_map(|c| c.cluster.as_ref())
            {
                if c.proxy_url.as_ref().is_some_and(|p| !p.is_empty()) {
                    return Err(Error::Config(format!(
                        "{}: proxy-url is not supported",
                        path.display()
                    )));
                }
                files.extend(c.certificate_authority.as_ref().map(PathBuf::from));
            }
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(|e| Error::Config(format!("{}: {}", path.display(), chain(&e))))?
        }
        Source::InCluster => {
            files.push(Path::new(IN_CLUSTER_DIR).join("ca.crt"));
            kube::Config::incluster().map_err(|e| Error::Config(chain(&e)))?
        }
        Source::Fixed(config) => (**config).clone(),
        Source::Within(_) => kube::Config::new(http::Uri::from_static("http://apiserver")),
    };
    if stripped {
        config.auth_info = kube::config::AuthInfo::default();
    }
    let auth = &mut config.auth_info;
    files.extend(auth.client_certificate.as_ref().map(PathBuf::from));
    files.extend(auth.client_key.as_ref().map(PathBuf::from));
    let mut bearer = None;
    if auth.token.is_none()
        && let Some(file) = auth.token_file.take()
    {
        let token = std::fs::read_to_string(&file)
            .map_err(|e| Error::Config(format!("token file {file}: {e}")))?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| Error::Config(format!("token file {file} does not hold a token")))?;
        value.set_sensitive(true);
        bearer = Some(value);
        files.push(PathBuf::from(file));
    }
    let fail = |e: kube::Error| Error::Config(chain(&e));
    let uri = config.cluster_url.clone();
    let host = uri
        .host()
        .ok_or_else(|| Error::Config(format!("server address {uri} has no host")))?;
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let https = uri.scheme() != Some(&http::uri::Scheme::HTTP);
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let tls = if https {
        let mut tls = config.rustls_client_config().map_err(fail)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let name = config
            .tls_server_name
            .clone()
            .unwrap_or_else(|| host.clone());
        let name = rustls_pki_types::ServerName::try_from(name.clone())
            .map_err(|_| Error::Config(format!("{name:?} is not a server name")))?;
        Some((Arc::new(tls), name))
    } else {
        None
    };
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let echo =
        service_fn(
            |r: Request<RequestBody>| async move { Ok::<_, tower::BoxError>(Response::new(r)) },
        );
    let authorize = config
        .auth_layer()
        .map_err(fail)?
        .map(|layer| BoxCloneSyncService::new(layer.layer(echo)));
    let mut headers = config.headers.clone();
    if let Some(user) = &config.auth_info.impersonate {
        let value = HeaderValue::try_from(user)
            .map_err(|_| Error::Config("as: not a header value".into()))?;
        headers.push((HeaderName::from_static("impersonate-user"), value));
        for group in config.auth_info.impersonate_groups.iter().flatten() {
            let value = HeaderValue::try_from(group)
                .map_err(|_| Error::Config("as-groups: not a header value".into()))?;
            headers.push((HeaderName::from_static("impersonate-group"), value));
        }
    }
    Ok(Loaded {
        generation,
        host,
        port,
        authority: HeaderValue::try_from(authority)
            .map_err(|_| Error::Config("bad server address".into()))?,
        prefix: uri.path().trim_end_matches('/').to_owned(),
        tls,
        bearer,
        authorize,
        headers,
        files: files.into_iter().map(|p| (p.clone(), stat(&p))).collect(),
        pipe: match source {
            Source::Within(pipe) => Some(pipe.clone()),
            _ => None,
        },
    })
}

struct Active(Arc<AtomicUsize>);

impl Active {
    fn new(count: &Arc<AtomicUsize>) -> Active {
        count.fetch_add(1, Ordering::Relaxed);
        Active(count.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Hold {
    H2 {
        _guard: Active,
    },
    H1 {
        connection: Option<H1Connection>,
        pool: Arc<StdMutex<Vec<H1Connection>>>,
    },
}

/// Body of an answer. Dropping it before its end closes the stream.
pub struct Body {
    inner: Incoming,
    hold: Hold,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        Pin::new(&mut self.inner)
            .poll_frame(cx)
            .map_err(|e| Error::Transport(chain(&e)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

impl Body {
    /// The next bytes; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        use http_body_util::BodyExt as _;
        loop {
            match self.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body, of at most `limit` bytes.
    pub async fn collect(mut self, limit: usize) -> Result<Bytes> {
        let Some(first) = self.chunk().await? else {
            return Ok(Bytes::new());
        };
        let mut rest = bytes::BytesMut::new();
        let mut first = Some(first);
        while let Some(chunk) = self.chunk().await? {
            if let Some(first) = first.take() {
                rest.extend_from_slice(&first);
            }
            if rest.len() + chunk.len() > limit {
                return Err(Error::TooLarge(limit));
            }
            rest.extend_from_slice(&chunk);
        }
        Ok(first.unwrap_or_else(|| rest.freeze()))
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // An HTTP/1.1 connection is used again only when its answer was read to the end.
        let ended = self.inner.is_end_stream();
        if let Hold::H1 { connection, pool } = &mut self.hold
            && ended
            && let Some(c) = connection.take()
        {
            let mut pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
            if pool.len() < IDLE_HTTP1 {
                pool.push(c);
            }
        }
    }
}
