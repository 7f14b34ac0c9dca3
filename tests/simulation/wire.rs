//! The apiserver of a run and the ways to it: one that never fails, for those who make the world go round, and one on
//! which requests, answers and watch events are lost, late and repeated, for the controllers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use apiserver::cache::Observer;
use apiserver::{Config, Core, Dependencies, Server};
use async_trait::async_trait;
use auth::authz::Union;
use auth::authz::node::{NodeAuthorizer, NodeGraph};
use auth::authz::rbac::RbacIndex;
use auth::{AuthenticationError, Authenticator, Peer, UserInfo};
use bytes::{Buf as _, Bytes, BytesMut};
use client::transport::{Pipe, Source};
use client::{Client, Options};
use component::Shutdown;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio::time::{Instant, Sleep, sleep};

use crate::memory::Memory;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Everybody may do everything: rights are tested elsewhere.
struct Anybody;

#[async_trait]
impl Authenticator for Anybody {
    async fn authenticate(
        &self,
        _: &Peer,
        _: &http::HeaderMap,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        Ok(Some(UserInfo {
            name: "anybody".into(),
            groups: vec![auth::GROUP_MASTERS.into(), auth::GROUP_AUTHENTICATED.into()],
            ..UserInfo::default()
        }))
    }
}

/// The server; `observers` see what its caches see.
pub async fn serve(
    store: &Memory,
    shutdown: &Shutdown,
    observers: Vec<(&'static str, &'static str, Observer)>,
) -> Arc<Server> {
    let store: storage::SharedStore = Arc::new(store.clone());
    let core = Core::new(store.clone(), shutdown.token.clone());
    core.add(registry::resources(&registry::Config {
        store,
        service_cidrs: vec![(IpAddr::from([10, 96, 0, 0]), 16)],
        node_ports: 30000..=32767,
        allow_privileged: true,
        event_ttl_seconds: 3600,
        kubelet_address_types: vec![],
        tokens: None,
        authenticator: None,
        audiences: vec![],
    }));
    for (group, resource, observer) in observers {
        core.observe(group, resource, observer).unwrap();
    }
    let authorizer = Arc::new(Union::new(vec![
        Arc::new(NodeAuthorizer::new(NodeGraph::new())),
        RbacIndex::new(),
    ]));
    let mut deps = admission::chain::Deps::new(authorizer.clone());
    deps.quotas = Some(apiserver::quotas(&core));
    let chain = admission::chain::Chain::new(&[], &[], &deps).unwrap();
    let dependencies = Dependencies {
        core: core.clone(),
        authenticator: Arc::new(Anybody),
        authorizer,
        admission: chain.into_plugins(),
        kubelet_tls: None,
        hooks: vec![],
        extra_paths: vec![],
        extra_metrics: vec![],
    };
    let server = apiserver::serve::start(Config::default(), dependencies, shutdown);
    core.wait_ready().await;
    server
}

/// A way to the server.
pub struct Wire {
    server: Arc<Server>,
    /// Whether anything goes wrong on it.
    bad: AtomicBool,
    /// Whose process is gone: nothing passes any more.
    cut: AtomicBool,
    chance: Mutex<StdRng>,
}

impl Wire {
    pub fn new(server: &Arc<Server>, bad: bool, seed: u64) -> Arc<Wire> {
        Arc::new(Wire {
            server: server.clone(),
            bad: AtomicBool::new(bad),
            cut: AtomicBool::new(false),
            chance: Mutex::new(StdRng::seed_from_u64(seed)),
        })
    }

    /// A client of the server over this wire.
    pub async fn client(self: &Arc<Wire>, name: &str) -> Client {
        let wire = self.clone();
        let pipe = Pipe::new(move || {
            let (near, far) = tokio::io::duplex(1 << 16);
            let wire = wire.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| wire.clone().answer(request));
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(far), service)
                    .await;
            });
            near
        });
        let options = Options {
            user_agent: name.into(),
            qps: 0.0,
            ..Options::default()
        };
        Client::from_source(Source::Within(pipe), options)
            .await
            .unwrap()
    }

    /// From now on all goes well.
    pub fn mend(&self) {
        self.bad.store(false, Relaxed);
    }

    /// The process at the other end dies between two of its calls: what was not answered is not, nothing more comes.
    pub fn cut(&self) {
        self.cut.store(true, Relaxed);
    }

    fn happens(&self, odds: f64) -> bool {
        self.bad.load(Relaxed) && self.draw().random_bool(odds)
    }

    fn draw(&self) -> std::sync::MutexGuard<'_, StdRng> {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time passes with every request, or what is done again at once would be done for ever.
    async fn late(&self) {
        sleep(Duration::from_millis(1)).await;
        if self.happens(0.3) {
            let wait = Duration::from_millis(self.draw().random_range(1..300));
            sleep(wait).await;
        }
    }

    fn lost(&self, odds: f64) -> Result<(), BoxError> {
        if self.cut.load(Relaxed) || self.happens(odds) {
            return Err("the connection breaks".into());
        }
        Ok(())
    }

    async fn answer(
        self: Arc<Wire>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, BoxError> {
        self.late().await;
        self.lost(0.02)?;
        let watch = request
            .uri()
            .query()
            .is_some_and(|q| q.split('&').any(|p| p == "watch=1"));
        let writes = matches!(*request.method(), Method::PUT | Method::PATCH);
        if writes && self.happens(0.01) {
            return Ok(refusal(StatusCode::CONFLICT, "Conflict"));
        }
        if !watch && self.happens(0.01) {
            return Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"));
        }
        if watch && self.happens(0.05) {
            return Ok(refusal(StatusCode::GONE, "Expired"));
        }
        let peer = Arc::new(Peer::new(None, vec![]));
        let response = self.server.clone().handle(peer, request).await;
        if !watch || response.status() != StatusCode::OK {
            self.late().await;
            self.lost(0.02)?;
            return Ok(response.map(|b| b.map_err(Into::into).boxed_unsync()));
        }
        let lines = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|t| t.as_bytes().starts_with(b"application/json"));
        let wire = self.clone();
        Ok(response.map(|inner| {
            let watch = Watch {
                inner: inner.map_err(Into::into).boxed_unsync(),
                wire,
                lines,
                pending: BytesMut::new(),
                frames: VecDeque::new(),
                wait: None,
                ended: false,
            };
            watch.boxed_unsync()
        }))
    }
}

fn refusal(code: StatusCode, reason: &str) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(),
        "reason": reason, "message": "an accident",
    });
    let body = Full::from(status.to_string()).map_err(|e: Infallible| match e {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = code;
    let kind = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// A watch whose events are late, repeated, or end.
struct Watch {
    inner: Body,
    wire: Arc<Wire>,
    /// Frames are lines; otherwise a length of four bytes goes before each.
    lines: bool,
    pending: BytesMut,
    frames: VecDeque<Bytes>,
    wait: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl Watch {
    fn whole(&mut self) -> Option<Bytes> {
        let end = if self.lines {
            self.pending.iter().position(|b| *b == b'\n')? + 1
        } else {
            let length = self.pending.get(..4)?.get_u32();
            let end = usize::try_from(length).ok()? + 4;
            (self.pending.len() >= end).then_some(end)?
        };
        Some(self.pending.split_to(end).freeze())
    }
}

impl http_body::Body for Watch {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if self.wire.cut.load(Relaxed) {
                return Poll::Ready(Some(Err("the connection breaks".into())));
            }
            if let Some(wait) = self.wait.as_mut() {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            if let Some(frame) = self.frames.pop_front() {
                if self.wire.happens(0.01) {
                    return Poll::Ready(Some(Err("the connection breaks".into())));
                }
                if self.wire.happens(0.02) {
                    self.frames.push_front(frame.clone());
                }
                return Poll::Ready(Some(Ok(Frame::data(frame))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                None => self.ended = true,
                Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.pending.extend_from_slice(&data);
                    }
                }
            }
            while let Some(frame) = self.whole() {
                self.frames.push_back(frame);
            }
            if self.wire.happens(0.2) {
                let far = self.wire.happens(0.1);
                let most = if far { 20_000 } else { 500 };
                let wait = self.wire.draw().random_range(1..most);
                self.wait = Some(Box::pin(tokio::time::sleep_until(
                    Instant::now() + Duration::from_millis(wait),
                )));
            }
        }
    }
}
