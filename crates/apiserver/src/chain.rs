//! The filter chain: what every request passes, written once, from top to bottom.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use admission::Plugin;
use api::Status;
use auth::authz::forbidden;
use auth::{Attributes, Authenticator, Authorizer, Decision, Peer, Selected, UserInfo};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use crate::Response;
use crate::body::{Body, Input, NoRoom, read_limited};
use crate::core::Core;
use crate::encode::status_response;
use crate::engine::{Engine, timestamp};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::negotiate;
use crate::query::Query;
use crate::request_info::{BadPath, RequestInfo};
use crate::shares::{self, Budget, Shares};
use crate::verbs::Call;
use crate::verbs::connect::Caller;

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on.
    pub bind: SocketAddr,
    /// The address clients are told, `host:port`.
    pub advertise: String,
    /// How long a request that is no watch or stream may take.
    pub request_timeout: Duration,
    /// Requests in flight at once, watches and streams excluded; how they are shared is in [`crate::shares`]. Those over it
    /// wait for a quarter of the request timeout, then get 429.
    pub max_in_flight: usize,
    /// `--http2-max-streams-per-connection`; 0 for the default.
    pub max_streams: i64,
    /// `v1.37.0`
    pub git_version: String,
    /// The commit this was built from; may be empty.
    pub git_commit: String,
    /// The gates.
    pub features: component::features::Features,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            bind: SocketAddr::from(([0, 0, 0, 0], 6443)),
            advertise: "127.0.0.1:6443".into(),
            request_timeout: Duration::from_secs(60),
            max_in_flight: 600,
            max_streams: 0,
            git_version: "v1.37.0".into(),
            git_commit: String::new(),
            features: Default::default(),
        }
    }
}

/// What a hook may use.
#[derive(Clone)]
pub struct HookContext {
    /// Writes as `system:apiserver`, through the whole write path.
    pub engine: Arc<Engine>,
    /// `system:apiserver` in `system:masters`.
    pub user: UserInfo,
    /// Cancelled at shutdown.
    pub stop: CancellationToken,
}

impl HookContext {
    /// A writer in the server's own name.
    pub fn writer(&self) -> crate::engine::Writer<'_> {
        crate::engine::Writer {
            engine: &self.engine,
            user: &self.user,
            subresource: "",
            dry_run: false,
            manager: "kube-apiserver",
        }
    }
}

/// The work of a hook.
pub type HookRun = Box<dyn FnOnce(HookContext) -> BoxFuture<'static, Result<(), String>> + Send>;

/// Something done after the caches are filled: bootstrap objects, reconcilers. The server is ready when all hooks have
/// returned; what shall go on afterwards is spawned by the hook.
pub struct Hook {
    /// Shown as `poststarthook/<name>`.
    pub name: &'static str,
    /// The work. An error is logged and keeps the server unready.
    pub run: HookRun,
}

/// Extra paths outside `/api` and `/apis`, such as `/.well-known/openid-configuration`.
pub type ExtraPath = Arc<dyn Fn(&HeaderMap, &Query) -> (u16, &'static str, Vec<u8>) + Send + Sync>;

/// What the server is made of.
pub struct Dependencies {
    /// Store and resources.
    pub core: Arc<Core>,
    /// Who is asking.
    pub authenticator: Arc<dyn Authenticator>,
    /// May they.
    pub authorizer: Arc<dyn Authorizer>,
    /// In order.
    pub admission: Vec<Arc<dyn Plugin>>,
    /// For connections to kubelets; `None` refuses them.
    pub kubelet_tls: Option<Arc<tokio_rustls::rustls::ClientConfig>>,
    /// After start.
    pub hooks: Vec<Hook>,
    /// Further paths.
    pub extra_paths: Vec<(String, ExtraPath)>,
    /// Metrics of others in the process, in Prometheus' text format.
    pub extra_metrics: Vec<Arc<dyn Fn() -> String + Send + Sync>>,
}

/// The running server.
pub struct Server {
    /// As set.
    pub config: Config,
    /// Writes.
    pub engine: Arc<Engine>,
    /// See [`Dependencies::authenticator`].
    pub authenticator: Arc<dyn Authenticator>,
    /// See [`Dependencies::kubelet_tls`].
    pub kubelet_tls: Option<Arc<tokio_rustls::rustls::ClientConfig>>,
    /// See [`Dependencies::extra_paths`].
    pub extra_paths: Vec<(String, ExtraPath)>,
    /// See [`Dependencies::extra_metrics`].
    pub extra_metrics: Vec<Arc<dyn Fn() -> String + Send + Sync>>,
    /// Checks.
    pub health: Health,
    /// Counters.
    pub metrics: Metrics,
    /// Cancelled at shutdown: watches end.
    pub stop: CancellationToken,
    /// Places among the requests in flight.
    pub shares: Shares,
    /// Bytes of bodies.
    pub budget: Arc<Budget>,
    /// Documents that change only with the set of resources.
    pub documents: crate::discovery::Documents,
}

/// How long a refused request's body is read.
const DRAIN: Duration = Duration::from_millis(200);
/// How long an answer that is streamed keeps its place; a slow reader's needs one of those for what lasts after that.
const STREAMED: Duration = Duration::from_secs(10);

impl Server {
    /// Serves one request. Never panics outward, never hangs beyond the request timeout (watches and streams excluded).
    pub async fn handle(
        self: Arc<Server>,
        peer: Arc<Peer>,
        request: http::Request<Incoming>,
    ) -> Response {
        let started = Instant::now();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let errors = negotiate::for_errors(request.headers(), &query);
        let version = request.version();
        let audit_id = audit_id(request.headers());
        let info = match RequestInfo::parse(request.method(), request.uri().path(), &query) {
            Ok(info) => info,
            Err(BadPath::Escapes) => return malformed(),
            Err(BadPath::Segments) => {
                let mut r = if request.uri().path().starts_with("/api") {
                    status_response(&errors, &Status::no_such_path())
                } else {
                    page_not_found()
                };
                finish(&mut r, &audit_id);
                return r;
            }
        };
        let long = info.long_running();
        let gzip = info.is_resource
            && !long
            && self.config.features.enabled("APIResponseCompression")
            && crate::compress::accepted(request.headers());
        let label = self.metrics.begin(&info, &self.engine.core.table());

        let limit = match query.get("timeout").filter(|t| !long && !t.is_empty()) {
            None => self.config.request_timeout,
            Some(text) => match wire::time::parse_duration(text) {
                Ok(nanos) => match u64::try_from(nanos) {
                    Ok(n) if n > 0 => Duration::from_nanos(n).min(self.config.request_timeout),
                    _ => self.config.request_timeout,
                },
                Err(e) => {
                    let why = format!("invalid timeout specified in the request URL - {e}");
                    let mut r = status_response(&errors, &Status::bad_request(why));
                    finish(&mut r, &audit_id);
                    return r;
                }
            },
        };
        let nobody = AtomicBool::new(false);
        let walk = self.clone().walk(peer, info, query, request, &nobody);
        let walk = std::panic::AssertUnwindSafe(walk).catch_unwind();
        let outcome = if long {
            walk.await
        } else {
            match tokio::time::timeout(limit, walk).await {
                Ok(o) => o,
                Err(_) => Ok(Err(timed_out())),
            }
        };
        let mut response = match outcome {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => status_response(&errors, &status),
            Err(_) => {
                tracing::error!("a request handler panicked");
                let text = "This request caused apiserver to panic. Look in the logs for details.";
                status_response(&errors, &Status::failure(500, "InternalError", text))
            }
        };
        if gzip {
            response = crate::compress::compress(response).await;
        }
        self.metrics
            .end(label, response.status().as_u16(), started.elapsed());
        if nobody.load(Ordering::Relaxed)
            && (version == http::Version::HTTP_2
                || response.status() == http::StatusCode::UNAUTHORIZED)
        {
            // Who is nobody does not keep a connection.
            response
                .headers_mut()
                .insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        }
        finish(&mut response, &audit_id);
        response
    }

    /// The walk itself. `nobody` becomes true when the request comes from nobody in particular.
    async fn walk(
        self: Arc<Server>,
        peer: Arc<Peer>,
        info: RequestInfo,
        query: Query,
        request: http::Request<Incoming>,
        nobody: &AtomicBool,
    ) -> Result<Response, Status> {
        // Who is asking.
        let user = match self
            .authenticator
            .authenticate(&peer, request.headers())
            .await
        {
            Ok(Some(user)) => user,
            Ok(None) => {
                nobody.store(true, Ordering::Relaxed);
                return Err(Status::unauthorized());
            }
            Err(e) => {
                tracing::debug!(error = %e, "authentication failed");
                nobody.store(true, Ordering::Relaxed);
                return Err(Status::unauthorized());
            }
        };
        if user.name == auth::ANONYMOUS {
            nobody.store(true, Ordering::Relaxed);
        } else {
            peer.authenticated();
        }

        // Whom they act for.
        let user =
            match crate::impersonate::impersonate(&self.engine, user, request.headers()).await {
                Ok(user) => user,
                Err(status) => return Ok(refused(request.headers(), &query, &status)),
            };

        // May they.
        let attributes = attributes(&info, &query, user.clone());
        let (decision, reason) = self.engine.authorizer.authorize(&attributes).await;
        if decision != Decision::Allow {
            // A small body is read, so that the connection can go on.
            let refusal = refused(
                request.headers(),
                &query,
                &forbidden::status(&attributes, &reason),
            );
            let drain = crate::body::drain(request.into_body());
            let _ = tokio::time::timeout(DRAIN, drain).await;
            return Ok(refusal);
        }

        // What they send: read before there is a place, so that a slow body holds none.
        let (parts, body) = request.into_parts();
        let reads = matches!(parts.method, http::Method::GET | http::Method::HEAD);
        let (body, _account) = if reads || !info.is_resource || info.long_running() {
            (Input::Stream(body), None)
        } else {
            let level = shares::level(&user, &info);
            let Some(mut account) = self.budget.open(&user, level) else {
                return Ok(too_many_requests());
            };
            let read = read_limited(body, |n| account.grow(n)).await;
            match read {
                Ok(Ok(bytes))
                    if negotiate::content_type(&parts.headers) != negotiate::PROTOBUF
                        && !account.plant(&bytes) =>
                {
                    return Ok(too_many_requests());
                }
                Ok(read) => (Input::Read(read), Some(account)),
                Err(NoRoom) => return Ok(too_many_requests()),
            }
        };
        let mut request = http::Request::from_parts(parts, body);
        if let Some(address) = peer.address {
            let caller = Caller(address.ip().to_canonical());
            request.extensions_mut().insert(caller);
        }

        // A place for what lasts.
        let level = shares::level(&user, &info);
        let counted = !user.in_group(auth::GROUP_MASTERS);
        if counted && info.long_running() {
            let Some(place) = self.shares.stay(level, &user.name).await else {
                return Ok(too_many_requests());
            };
            // A stream that outlives its answer takes the place with it.
            let place = Arc::new(place);
            request.extensions_mut().insert(Arc::clone(&place));
            let response = self.route(info, query, user, request).await?;
            return Ok(response.map(|body| body.keeping(place)));
        }

        // A place among the requests in flight.
        let place = match shares::share(&user, &info) {
            None => None,
            Some(share) => {
                let enter = self.shares.enter(share, &user.name);
                let wait = self.config.request_timeout / 4;
                match tokio::time::timeout(wait, enter).await {
                    Ok(Some(place)) => Some(place),
                    _ => return Ok(too_many_requests()),
                }
            }
        };

        // Where to.
        let name = user.name.clone();
        let response = self.clone().route(info, query, user, request).await?;
        Ok(match place {
            Some(place) => response.map(|body| {
                body.holding(place, STREAMED, move || async move {
                    self.shares.stay(level, &name).await
                })
            }),
            None => response,
        })
    }

    async fn route(
        self: Arc<Server>,
        info: RequestInfo,
        query: Query,
        user: UserInfo,
        request: http::Request<Input>,
    ) -> Result<Response, Status> {
        if info.is_resource {
            let table = self.engine.core.table();
            let Some(served) = table
                .find(&info.group, &info.version, &info.resource)
                .cloned()
            else {
                // The core group and those that are served have a router of their own.
                let routed =
                    info.group.is_empty() || table.all.iter().any(|s| s.def.group == info.group);
                return if routed {
                    Err(Status::no_such_path())
                } else {
                    Ok(page_not_found())
                };
            };
            let call = Call {
                raw_query: request.uri().query().unwrap_or_default().to_owned(),
                method: request.method().clone(),
                agent: crate::verbs::agent(request.headers()),
                headers: request.headers().clone(),
                server: self.clone(),
                info,
                user,
                query,
                served,
                now: timestamp(),
                warnings: crate::warnings::Warnings::default(),
            };
            return Ok(call.serve(request).await);
        }
        let get = request.method() == http::Method::GET;
        let headers = request.headers();
        if let Some((_, f)) = self.extra_paths.iter().find(|(p, _)| *p == info.path) {
            if !get {
                return Err(Status::method_not_allowed());
            }
            let (code, media, bytes) = f(headers, &query);
            let mut r = Response::new(Body::from(bytes));
            *r.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::OK);
            r.headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static(media));
            r.headers_mut().insert(
                CACHE_CONTROL,
                HeaderValue::from_static("public, max-age=3600"),
            );
            return Ok(r);
        }
        if info.path.starts_with("//") {
            return Ok(page_not_found());
        }
        let path = info.path.trim_end_matches('/').to_owned();
        let mut parts = path.split('/').skip(1);
        let first = parts.next().unwrap_or_default();
        // What is served by the router takes its methods only, what is not takes all.
        let routed = match first {
            "version" | "api" => true,
            "apis" => parts.count() > 1,
            _ => false,
        };
        let found = match first {
            "healthz" | "livez" | "readyz" => {
                Some(self.health.serve(&path, &query, &self.engine.core).await)
            }
            "metrics" if path == "/metrics" => Some(if request.method() == http::Method::DELETE {
                plain_text("metrics reset\n")
            } else {
                self.metrics.serve(&self).await
            }),
            "version" if path == "/version" && get => {
                negotiate::routed(headers, &["application/json"])?;
                Some(self.documents.version(&self.config))
            }
            "openapi" => crate::openapi::serve(&self, &path, headers, &query).await,
            "" | "api" | "apis" => crate::discovery::serve(&self, &path, headers, &query)?,
            _ => None,
        };
        match found {
            Some(_) if routed && !get => Err(Status::method_not_allowed()),
            Some(r) => Ok(r),
            None => {
                let mut parts = path.split('/').skip(1);
                let group = (parts.next(), parts.next(), parts.next());
                match group {
                    (Some("version"), None, _) => Err(Status::method_not_allowed()),
                    // Groups that are served have a router of their own.
                    (Some("api"), Some(_), _) => Err(Status::no_such_path()),
                    (Some("apis"), Some(g), Some(_))
                        if self
                            .engine
                            .core
                            .table()
                            .all
                            .iter()
                            .any(|s| s.def.group == g) =>
                    {
                        Err(Status::no_such_path())
                    }
                    _ => Ok(page_not_found()),
                }
            }
        }
    }
}

fn audit_id(headers: &HeaderMap) -> String {
    headers
        .get("audit-id")
        .and_then(|v| v.to_str().ok())
        .filter(|v| !v.is_empty() && v.len() <= 64)
        .map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

fn timed_out() -> Status {
    let mut s = Status::failure(
        504,
        "Timeout",
        "Timeout: request did not complete within the allotted timeout",
    );
    s.details = Some(Box::default());
    s
}

/// Sets the headers that every answer has.
fn finish(response: &mut Response, audit_id: &str) {
    let headers = response.headers_mut();
    if let Ok(v) = HeaderValue::from_str(audit_id) {
        headers.insert(HeaderName::from_static("audit-id"), v);
    }
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-cache, private"));
}

/// What Go's HTTP server says of a request that it cannot read.
fn malformed() -> Response {
    let mut r = Response::new(Body::from(b"400 Bad Request".to_vec()));
    *r.status_mut() = http::StatusCode::BAD_REQUEST;
    let headers = r.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    r
}

/// A refusal before the request was looked at: what it echoes must not be guessed to be HTML.
fn refused(headers: &HeaderMap, query: &Query, status: &Status) -> Response {
    let mut r = status_response(&negotiate::for_errors(headers, query), status);
    r.headers_mut().insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    r
}

fn plain_text(text: &'static str) -> Response {
    let mut r = Response::new(Body::from(text.as_bytes().to_vec()));
    r.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    r
}

/// Upstream's answer to whom there is no room for.
fn too_many_requests() -> Response {
    let mut r = plain_text("Too many requests, please try again later.\n");
    *r.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
    let headers = r.headers_mut();
    headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    r
}

/// The plain 404 of a path that is no API.
pub fn page_not_found() -> Response {
    let mut r = Response::new(Body::from(b"404 page not found\n".to_vec()));
    *r.status_mut() = http::StatusCode::NOT_FOUND;
    r.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    r.headers_mut().insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    r
}

/// The question to the authorizers.
pub(crate) fn attributes(info: &RequestInfo, query: &Query, user: UserInfo) -> Attributes {
    let mut a = Attributes {
        user,
        verb: info.verb.clone(),
        namespace: info.namespace.clone(),
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        name: info.name.clone(),
        path: info.path.clone(),
        is_resource: info.is_resource,
        ..Attributes::default()
    };
    // The old watches do not select, as far as rights go.
    if info.legacy_watch || !matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") {
        return a;
    }
    a.fields = Selected::fields(query.str("fieldSelector"));
    a.labels = Selected::labels(query.str("labelSelector"));
    if info.verb != "deletecollection"
        && a.name.is_empty()
        && let Some(name) = a.fields.known.exact("metadata.name")
        && api::validate::path_segment_name(name).is_empty()
    {
        // What selects one name is about that name.
        a.name = name.to_owned();
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &str, url: &str) -> Attributes {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let query = Query::parse(query);
        let method: http::Method = method.parse().expect("a method");
        let info = RequestInfo::parse(&method, path, &query).expect(url);
        attributes(&info, &query, UserInfo::default())
    }

    /// A right to one name is a right to lists of that name, and to nothing else.
    #[test]
    fn a_selector_of_one_name_counts_as_the_name() {
        let pods = "/api/v1/namespaces/a/pods";
        let selects = "fieldSelector=metadata.name";
        for (method, url, want) in [
            ("GET", format!("{pods}?{selects}%3Dx"), "x"),
            ("GET", format!("{pods}?{selects}%3D%3Dx"), "x"),
            ("GET", format!("{pods}?watch=1&{selects}%3Dx"), "x"),
            ("GET", format!("{pods}?{selects}!%3Dx"), ""),
            ("GET", format!("{pods}?{selects}%3Dx%5C%2Cy"), "x,y"),
            ("GET", format!("{pods}?{selects}%3Dx%3Dy"), ""),
            ("GET", format!("{pods}?{selects}%3Dx%2F..%2Fy"), ""),
            ("GET", format!("{pods}?{selects}%3D.."), ""),
            ("GET", format!("{pods}?{selects}%3Dx%2Cbroken"), ""),
            ("GET", format!("{pods}/y?{selects}%3Dx"), "y"),
            ("DELETE", format!("{pods}?{selects}%3Dx"), ""),
            (
                "GET",
                format!("/api/v1/watch/namespaces/a/pods?{selects}%3Dx"),
                "",
            ),
        ] {
            assert_eq!(asked(method, &url).name, want, "{method} {url}");
        }
    }

    #[test]
    fn a_selector_that_cannot_be_read_selects_everything() {
        let a = asked(
            "GET",
            "/api/v1/pods?fieldSelector=spec.nodeName%3Da%2Cx&labelSelector=a+b+c",
        );
        assert!(a.fields.known.is_empty() && a.labels.known.is_everything());
        assert!(a.fields.error.is_some() && a.labels.error.is_some());
        let a = asked("GET", "/api/v1/pods/x?fieldSelector=spec.nodeName%3Da");
        assert_eq!(a.fields, Selected::default());
    }
}
