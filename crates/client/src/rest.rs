//! Calls: the client and its typed verbs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::codec::{self, Codec, JSON};
use crate::error::{Error, Result};
use crate::limiter::TokenBucket;
use crate::resource::Resource;
use crate::transport::{Body, Lane, Source, Transport};

/// Answers beyond this are refused: a list is read in pages, so only one object or page has to fit.
const ANSWER_LIMIT: usize = 1 << 30;
const ATTEMPTS: u32 = 10;

/// What a component says of itself and how fast it may call.
#[derive(Clone, Debug)]
pub struct Options {
    /// `User-Agent`.
    pub user_agent: String,
    /// `--kube-api-qps`: calls a second, watches not counted; zero or less for no limit.
    pub qps: f32,
    /// `--kube-api-burst`: calls at once.
    pub burst: u32,
    /// How long a call may take; `None` for as long as the server takes.
    pub timeout: Option<Duration>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            user_agent: "keelson".into(),
            qps: 50.0,
            burst: 100,
            timeout: Some(Duration::from_secs(60)),
        }
    }
}

#[derive(Clone)]
struct Inner {
    transport: Arc<Transport>,
    user_agent: HeaderValue,
    limiter: Arc<TokenBucket>,
    timeout: Option<Duration>,
    /// Set for a client that acts as a service account.
    tokens: Option<Arc<TokenSource>>,
    /// Connections without the credentials of the configuration, for service accounts.
    stripped: Arc<tokio::sync::OnceCell<Arc<Transport>>>,
}

/// A service account whose tokens are asked for by a client that may.
struct TokenSource {
    base: Client,
    namespace: String,
    name: String,
    token: tokio::sync::Mutex<Option<(HeaderValue, tokio::time::Instant)>>,
}

const TOKEN_SECONDS: u64 = 3600;

impl TokenSource {
    /// A token with more than a fifth of its life left.
    async fn header(&self) -> Result<HeaderValue> {
        let mut held = self.token.lock().await;
        if let Some((header, renew)) = held.as_ref()
            && tokio::time::Instant::now() < *renew
        {
            return Ok(header.clone());
        }
        #[derive(Default, Deserialize)]
        struct Answer {
            #[serde(default)]
            status: AnswerStatus,
        }
        #[derive(Default, Deserialize)]
        struct AnswerStatus {
            #[serde(default)]
            token: String,
        }
        let api = self
            .base
            .namespaced(&crate::resource::SERVICE_ACCOUNTS, &self.namespace);
        let ask = serde_json::json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": TOKEN_SECONDS},
        });
        let answer: Answer = match Box::pin(api.create_subresource(&self.name, "token", &ask)).await
        {
            Err(e) if e.is_not_found() => {
                let account = serde_json::json!({
                    "apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": {"namespace": self.namespace, "name": self.name},
                });
                match Box::pin(api.create::<serde::de::IgnoredAny, _>(&account)).await {
                    Ok(_) => {}
                    Err(e) if e.is_already_exists() => {}
                    Err(e) => return Err(e),
                }
                Box::pin(api.create_subresource(&self.name, "token", &ask)).await?
            }
            other => other?,
        };
        let mut header =
            HeaderValue::try_from(format!("Bearer {}", answer.status.token)).map_err(|_| {
                Error::Decode {
                    what: "TokenRequest".into(),
                    message: "not a token".into(),
                }
            })?;
        header.set_sensitive(true);
        let renew = tokio::time::Instant::now() + Duration::from_secs(TOKEN_SECONDS * 4 / 5);
        *held = Some((header.clone(), renew));
        Ok(header)
    }

    async fn forget(&self) {
        *self.token.lock().await = None;
    }
}

/// A connection to one apiserver. Clones share everything.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("user_agent", &self.0.user_agent)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// From a kubeconfig file, which is read again when it or a file it names changes.
    pub async fn from_kubeconfig(path: impl AsRef<Path>, options: Options) -> Result<Client> {
        Client::from_source(
            Source::Kubeconfig {
                path: path.as_ref().to_owned(),
                server: None,
            },
            options,
        )
        .await
    }

    /// From the service account of the pod this process runs in.
    pub async fn in_cluster(options: Options) -> Result<Client> {
        Client::from_source(Source::InCluster, options).await
    }

    /// As the daemons' flags say: `--kubeconfig`, `--master`, in-cluster without either.
    pub async fn from_flags(kubeconfig: &str, master: &str, options: Options) -> Result<Client> {
        let server = (!master.is_empty()).then(|| master.to_owned());
        let source = match (kubeconfig.is_empty(), server) {
            (false, server) => Source::Kubeconfig {
                path: PathBuf::from(kubeconfig),
                server,
            },
            (true, Some(server)) => {
                let uri = server
                    .parse()
                    .map_err(|e| Error::Config(format!("master {server:?}: {e}")))?;
                Source::Fixed(Box::new(kube::Config::new(uri)))
            }
            (true, None) => Source::InCluster,
        };
        Client::from_source(source, options).await
    }

    /// From any source.
    pub async fn from_source(source: Source, options: Options) -> Result<Client> {
        let transport = Arc::new(Transport::new(source).await?);
        Client::over(transport, options)
    }

    fn over(transport: Arc<Transport>, options: Options) -> Result<Client> {
        let user_agent = HeaderValue::try_from(&options.user_agent).map_err(|_| {
            Error::Config(format!(
                "user agent {:?} is not a header value",
                options.user_agent
            ))
        })?;
        let limiter = Arc::new(TokenBucket::new(options.qps, options.burst));
        Ok(Client(Arc::new(Inner {
            transport,
            user_agent,
            limiter,
            timeout: options.timeout,
            tokens: None,
            stripped: Arc::default(),
        })))
    }

    /// The same connections with another name and its own rate limit.
    pub fn with_options(&self, options: Options) -> Result<Client> {
        Client::over(self.0.transport.clone(), options)
    }

    /// The same server and credentials over connections of its own, with its own rate limit: what others send does not hold
    /// up what this client sends.
    ///
    /// # Errors
    /// When the credentials cannot be read.
    pub async fn apart(&self, options: Options) -> Result<Client> {
        let mut client = Client::over(self.0.transport.apart().await?, options)?;
        if let (Some(tokens), Some(inner)) = (&self.0.tokens, Arc::get_mut(&mut client.0)) {
            inner.tokens = Some(tokens.clone());
        }
        Ok(client)
    }

    /// A client for what must never wait: leases. It has connections of its own, no rate limit, and gives a call up after
    /// `deadline`.
    ///
    /// # Errors
    /// When the credentials cannot be read.
    pub async fn for_leases(&self, deadline: Duration) -> Result<Client> {
        self.apart(Options {
            qps: 0.0,
            timeout: Some(deadline),
            ..self.options()
        })
        .await
    }

    /// What this client was made with.
    pub fn options(&self) -> Options {
        let (qps, burst) = self.0.limiter.size();
        Options {
            user_agent: self.0.user_agent.to_str().unwrap_or_default().to_owned(),
            qps,
            burst,
            timeout: self.0.timeout,
        }
    }

    /// The calls on a resource, over all namespaces.
    pub fn api<'a>(&'a self, resource: &'a Resource) -> Api<'a> {
        Api {
            client: self,
            resource,
            namespace: "",
        }
    }

    /// The calls on a resource in a namespace; an empty one means cluster scope.
    pub fn namespaced<'a>(&'a self, resource: &'a Resource, namespace: &'a str) -> Api<'a> {
        Api {
            client: self,
            resource,
            namespace,
        }
    }

    /// Sends any request whose URI is a path. Failures become errors; 429 and 5xx answers with `Retry-After` are retried,
    /// up to ten times.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>> {
        self.0.limiter.take().await;
        let call = self.attempt(request, Lane::Requests);
        match self.0.timeout {
            Some(t) => tokio::time::timeout(t, call)
                .await
                .map_err(|_| Error::Timeout)?,
            None => call.await,
        }
    }

    /// Opens a stream that stays open, such as a watch. Not rate limited, no timeout.
    pub async fn stream(&self, request: Request<Bytes>) -> Result<Response<Body>> {
        self.attempt(request, Lane::Watches).await
    }

    /// The same connections under another user agent, with a rate limit of its own of the same size.
    #[must_use]
    pub fn named(&self, user_agent: &str) -> Client {
        let mut inner = (*self.0).clone();
        if let Ok(v) = HeaderValue::try_from(user_agent) {
            inner.user_agent = v;
        }
        inner.limiter = Arc::new(inner.limiter.another());
        Client(Arc::new(inner))
    }

    /// A client that acts as a service account, with tokens this client asks for (the account is made if there is none).
    /// All such clients share their own connections and this client's rate limit.
    #[must_use]
    pub fn as_service_account(&self, namespace: &str, name: &str) -> Client {
        let source = TokenSource {
            base: self.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            token: tokio::sync::Mutex::default(),
        };
        Client(Arc::new(Inner {
            tokens: Some(Arc::new(source)),
            ..(*self.0).clone()
        }))
    }

    async fn attempt(&self, request: Request<Bytes>, lane: Lane) -> Result<Response<Body>> {
        let (mut parts, body) = request.into_parts();
        let mut attempt = 1;
        loop {
            let transport = match &self.0.tokens {
                None => &self.0.transport,
                Some(tokens) => {
                    parts
                        .headers
                        .insert(http::header::AUTHORIZATION, tokens.header().await?);
                    self.0
                        .stripped
                        .get_or_try_init(|| self.0.transport.without_credentials())
                        .await?
                }
            };
            let response = transport
                .send(&parts, body.clone(), &self.0.user_agent, lane)
                .await?;
            let code = response.status();
            if code.is_success() {
                return Ok(response);
            }
            if code.as_u16() == 401
                && attempt == 1
                && let Some(tokens) = &self.0.tokens
            {
                tokens.forget().await;
                attempt += 1;
                continue;
            }
            let retry_after = response
                .headers()
                .get(RETRY_AFTER)
                .and_then(|v| v.to_str().ok())
                .and_then(|v| v.trim().parse::<u64>().ok());
            let retryable = code.as_u16() == 429 || code.is_server_error();
            match retry_after {
                Some(seconds) if retryable && attempt < ATTEMPTS => {
                    attempt += 1;
                    drop(response);
                    tokio::time::sleep(Duration::from_secs(seconds.min(60))).await;
                }
                _ => return Err(failure(response).await),
            }
        }
    }

    /// Sends a request and reads the whole answer; the timeout is for both.
    pub async fn call(&self, request: Request<Bytes>) -> Result<Bytes> {
        self.0.limiter.take().await;
        let whole = async {
            let response = self.attempt(request, Lane::Requests).await?;
            response.into_body().collect(ANSWER_LIMIT).await
        };
        match self.0.timeout {
            Some(t) => tokio::time::timeout(t, whole)
                .await
                .map_err(|_| Error::Timeout)?,
            None => whole.await,
        }
    }

    /// GETs a path as JSON, for discovery, `/version` and the like.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let bytes = self
            .call(request(Method::GET, path, JSON, None, Bytes::new())?)
            .await?;
        codec::from_json(&bytes)
    }
}

async fn failure(response: Response<Body>) -> Error {
    let code = response.status().as_u16();
    let bytes = match response.into_body().collect(1 << 20).await {
        Ok(bytes) => bytes,
        Err(_) => Bytes::new(),
    };
    if let Some(mut status) = codec::decode_status(&bytes) {
        if status.code == 0 {
            status.code = code;
        }
        return Error::Api(Box::new(status));
    }
    // Proxies and old servers answer with plain text.
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        409 => "Conflict",
        410 => "Gone",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "Unknown",
    };
    let text = String::from_utf8_lossy(&bytes)
        .trim()
        .chars()
        .take(2048)
        .collect::<String>();
    let text = if text.is_empty() {
        format!("the server answered with code {code}")
    } else {
        text
    };
    Error::Api(Box::new(Status::failure(code, reason, text)))
}

/// A request for a path.
pub fn request(
    method: Method,
    path: &str,
    accept: &'static str,
    content_type: Option<&'static str>,
    body: Bytes,
) -> Result<Request<Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(ACCEPT, accept);
    if let Some(t) = content_type {
        request = request.header(CONTENT_TYPE, t);
    }
    request.body(body).map_err(|e| Error::Encode {
        what: "request".into(),
        message: e.to_string(),
    })
}

/// Percent-encodes what is not allowed in a path segment or query value.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                out.push(char::from(b))
            }
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// A path with its query.
#[derive(Debug)]
pub(crate) struct PathBuilder {
    text: String,
    query: bool,
}

impl PathBuilder {
    pub(crate) fn new(text: String) -> PathBuilder {
        PathBuilder { text, query: false }
    }

    pub(crate) fn segment(mut self, s: &str) -> Self {
        if !s.is_empty() {
            self.text.push('/');
            self.text.push_str(&escape(s));
        }
        self
    }

    pub(crate) fn query(mut self, name: &str, value: &str) -> Self {
        if !value.is_empty() {
            self.text.push(if self.query { '&' } else { '?' });
            self.query = true;
            self.text.push_str(name);
            self.text.push('=');
            self.text.push_str(&escape(value));
        }
        self
    }

    pub(crate) fn build(self) -> String {
        self.text
    }
}

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Label selector; empty for all.
    pub labels: String,
    /// Field selector; empty for all.
    pub fields: String,
    /// At most this many objects an answer; 0 for all.
    pub limit: u32,
    /// Where an earlier answer ended.
    pub continue_: String,
    /// Empty for the newest state, `0` for any.
    pub resource_version: String,
    /// `Exact`, `NotOlderThan` or empty.
    pub resource_version_match: &'static str,
}

/// A list, or one page of it.
#[derive(Clone, Debug)]
pub struct List<T> {
    /// The objects.
    pub items: Vec<T>,
    /// The version of the collection at which a watch goes on.
    pub resource_version: String,
    /// Where the next page begins; empty at the end.
    pub continue_: String,
}

#[derive(Deserialize)]
struct RawList<T> {
    #[serde(default)]
    metadata: RawListMeta,
    #[serde(default = "none")]
    items: Option<Vec<T>>,
}

fn none<T>() -> Option<T> {
    None
}

#[derive(Default, Deserialize)]
struct RawListMeta {
    #[serde(default, rename = "resourceVersion")]
    resource_version: String,
    #[serde(default, rename = "continue")]
    continue_: String,
}

/// How to create or change.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// `fieldManager`; empty for the user agent's.
    pub field_manager: String,
    /// Check only.
    pub dry_run: bool,
}

/// What becomes of the dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Propagation {
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
    /// They stay, without the owner.
    Orphan,
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// The resource's default when `None`.
    pub propagation: Option<Propagation>,
    /// The object's own when `None`.
    pub grace_period_seconds: Option<i64>,
    /// Only this object, not a later one of the same name.
    pub uid: Option<String>,
    /// Only this version of it.
    pub resource_version: Option<String>,
    /// Check only.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// With the precondition of a UID.
    pub fn uid(uid: impl Into<String>) -> DeleteOptions {
        DeleteOptions {
            uid: Some(uid.into()),
            ..DeleteOptions::default()
        }
    }

    fn body(&self) -> Value {
        let mut o = serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        let mut set = |k: &str, v: Value| {
            if let Some(o) = o.as_object_mut() {
                o.insert(k.into(), v);
            }
        };
        if let Some(p) = self.propagation {
            set("propagationPolicy", format!("{p:?}").into());
        }
        if let Some(g) = self.grace_period_seconds {
            set("gracePeriodSeconds", g.into());
        }
        let mut preconditions = serde_json::Map::new();
        if let Some(uid) = &self.uid {
            preconditions.insert("uid".into(), uid.as_str().into());
        }
        if let Some(rv) = &self.resource_version {
            preconditions.insert("resourceVersion".into(), rv.as_str().into());
        }
        if !preconditions.is_empty() {
            set("preconditions", preconditions.into());
        }
        if self.dry_run {
            set("dryRun", vec!["All"].into());
        }
        o
    }
}

/// A change to an object. Use `Value` trees; the server reads them as its types.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Strategic merge, for built-in types.
    Strategic(Value),
    /// Server-side apply.
    Apply {
        /// The fields the manager wants.
        object: Value,
        /// Take over fields of others.
        force: bool,
    },
}

impl Patch {
    fn content_type(&self) -> &'static str {
        match self {
            Patch::Json(_) => "application/json-patch+json",
            Patch::Merge(_) => "application/merge-patch+json",
            Patch::Strategic(_) => "application/strategic-merge-patch+json",
            Patch::Apply { .. } => "application/apply-patch+yaml",
        }
    }

    fn value(&self) -> &Value {
        match self {
            Patch::Json(v) | Patch::Merge(v) | Patch::Strategic(v) => v,
            Patch::Apply { object, .. } => object,
        }
    }
}

/// The calls on one resource, in one namespace or over all.
///
/// Answers decode into any type: a view, `serde_json::Value` (asked for with [`Api::get_value`], which keeps every field
/// with `kind` and `apiVersion`), or `serde::de::IgnoredAny`.
#[derive(Clone, Copy, Debug)]
pub struct Api<'a> {
    client: &'a Client,
    resource: &'a Resource,
    namespace: &'a str,
}

impl<'a> Api<'a> {
    pub(crate) fn collection(&self) -> PathBuilder {
        let mut p = PathBuilder::new(self.resource.root());
        if self.resource.namespaced && !self.namespace.is_empty() {
            p = p.segment("namespaces").segment(self.namespace);
        }
        p.segment(&self.resource.plural)
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        request: Request<Bytes>,
        codec: Codec,
    ) -> Result<T> {
        codec.decode(&self.client.call(request).await?)
    }

    /// GET.
    pub async fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let codec = Codec::of(self.resource);
        let path = self.collection().segment(name).build();
        self.answer(
            request(Method::GET, &path, codec.accept(), None, Bytes::new())?,
            codec,
        )
        .await
    }

    /// GET as a full tree.
    pub async fn get_value(&self, name: &str) -> Result<Value> {
        let path = self.collection().segment(name).build();
        self.answer(
            request(Method::GET, &path, JSON, None, Bytes::new())?,
            Codec::json(),
        )
        .await
    }

    /// GET of the metadata only, of any resource.
    pub async fn get_metadata<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let path = self.collection().segment(name).build();
        let accept =
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
        self.answer(
            request(Method::GET, &path, accept, None, Bytes::new())?,
            Codec::json(),
        )
        .await
    }

    /// GET of a subresource, as JSON.
    pub async fn get_subresource<T: DeserializeOwned>(&self, name: &str, sub: &str) -> Result<T> {
        let path = self.collection().segment(name).segment(sub).build();
        self.answer(
            request(Method::GET, &path, JSON, None, Bytes::new())?,
            Codec::json(),
        )
        .await
    }

    /// One page of a list.
    pub async fn list<T: DeserializeOwned>(&self, options: &ListOptions) -> Result<List<T>> {
        let codec = Codec::list_of(self.resource);
        self.list_as(options, codec, codec.accept()).await
    }

    /// One page of a list of trees. Items of a JSON list lack `kind` and `apiVersion`.
    pub async fn list_values(&self, options: &ListOptions) -> Result<List<Value>> {
        self.list_as(options, Codec::json(), JSON).await
    }

    /// One page of a list, each item as its JSON text.
    pub async fn list_raw(&self, options: &ListOptions) -> Result<List<Box<RawValue>>> {
        self.list_as(options, Codec::json(), JSON).await
    }

    /// One page of the metadata of any resource, custom ones too.
    pub async fn list_metadata<T: DeserializeOwned>(
        &self,
        options: &ListOptions,
    ) -> Result<List<T>> {
        self.list_as(
            options,
            Codec::json(),
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
        )
        .await
    }

    async fn list_as<T: DeserializeOwned>(
        &self,
        options: &ListOptions,
        codec: Codec,
        accept: &'static str,
    ) -> Result<List<T>> {
        let limit = if options.limit == 0 {
            String::new()
        } else {
            options.limit.to_string()
        };
        let path = self
            .collection()
            .query("labelSelector", &options.labels)
            .query("fieldSelector", &options.fields)
            .query("limit", &limit)
            .query("continue", &options.continue_)
            .query("resourceVersion", &options.resource_version)
            .query("resourceVersionMatch", options.resource_version_match)
            .build();
        let raw: RawList<T> = self
            .answer(
                request(Method::GET, &path, accept, None, Bytes::new())?,
                codec,
            )
            .await?;
        Ok(List {
            items: raw.items.unwrap_or_default(),
            resource_version: raw.metadata.resource_version,
            continue_: raw.metadata.continue_,
        })
    }

    async fn write<T: DeserializeOwned, B: Serialize + ?Sized>(
        &self,
        method: Method,
        path: PathBuilder,
        content_type: &'static str,
        body: &B,
        options: &WriteOptions,
        codec: Codec,
    ) -> Result<T> {
        let path = path
            .query("fieldManager", &options.field_manager)
            .query("dryRun", if options.dry_run { "All" } else { "" })
            .build();
        let body = serde_json::to_vec(body).map_err(|e| Error::Encode {
            what: self.resource.qualified(),
            message: e.to_string(),
        })?;
        self.answer(
            request(
                method,
                &path,
                codec.accept(),
                Some(content_type),
                body.into(),
            )?,
            codec,
        )
        .await
    }

    /// POST. `body` should have `apiVersion` and `kind`.
    pub async fn create<T: DeserializeOwned, B: Serialize + ?Sized>(&self, body: &B) -> Result<T> {
        self.create_with(body, &WriteOptions::default()).await
    }

    /// POST with options.
    pub async fn create_with<T: DeserializeOwned, B: Serialize + ?Sized>(
        &self,
        body: &B,
        options: &WriteOptions,
    ) -> Result<T> {
        self.write(
            Method::POST,
            self.collection(),
            JSON,
            body,
            options,
            Codec::of(self.resource),
        )
        .await
    }

    /// PUT. Without `metadata.resourceVersion` in `body` it overwrites whatever is there.
    pub async fn update<T: DeserializeOwned, B: Serialize + ?Sized>(
        &self,
        name: &str,
        body: &B,
    ) -> Result<T> {
        let path = self.collection().segment(name);
        self.write(
            Method::PUT,
            path,
            JSON,
            body,
            &WriteOptions::default(),
            Codec::of(self.resource),
        )
        .await
    }

    /// PUT of the status subresource.
    pub async fn update_status<T: DeserializeOwned, B: Serialize + ?Sized>(
        &self,
        name: &str,
        body: &B,
    ) -> Result<T> {
        let path = self.collection().segment(name).segment("status");
        self.write(
            Method::PUT,
            path,
            JSON,
            body,
            &WriteOptions::default(),
            Codec::of(self.resource),
        )
        .await
    }

    /// PATCH. With `metadata.resourceVersion` in the patch it fails with a conflict unless that is the current version.
    pub async fn patch<T: DeserializeOwned>(&self, name: &str, patch: &Patch) -> Result<T> {
        self.patch_subresource(name, "", patch, &WriteOptions::default())
            .await
    }

    /// PATCH of the status subresource.
    pub async fn patch_status<T: DeserializeOwned>(&self, name: &str, patch: &Patch) -> Result<T> {
        self.patch_subresource(name, "status", patch, &WriteOptions::default())
            .await
    }

    /// PATCH of any subresource, or of the object itself for an empty one.
    pub async fn patch_subresource<T: DeserializeOwned>(
        &self,
        name: &str,
        sub: &str,
        patch: &Patch,
        options: &WriteOptions,
    ) -> Result<T> {
        let mut path = self.collection().segment(name).segment(sub);
        if let Patch::Apply { force: true, .. } = patch {
            path = path.query("force", "true");
        }
        // Subresources such as scale answer with their own type, which protobuf answers name themselves.
        self.write(
            Method::PATCH,
            path,
            patch.content_type(),
            patch.value(),
            options,
            Codec::of(self.resource),
        )
        .await
    }

    /// POST to a subresource (`binding`, `eviction`, `token`). The answer is JSON of the subresource's type.
    pub async fn create_subresource<T: DeserializeOwned, B: Serialize + ?Sized>(
        &self,
        name: &str,
        sub: &str,
        body: &B,
    ) -> Result<T> {
        let path = self.collection().segment(name).segment(sub);
        self.write(
            Method::POST,
            path,
            JSON,
            body,
            &WriteOptions::default(),
            Codec::json(),
        )
        .await
    }

    /// PUT of any subresource; the answer is JSON.
    pub async fn update_subresource<T: DeserializeOwned, B: Serialize + ?Sized>(
        &self,
        name: &str,
        sub: &str,
        body: &B,
    ) -> Result<T> {
        let path = self.collection().segment(name).segment(sub);
        self.write(
            Method::PUT,
            path,
            JSON,
            body,
            &WriteOptions::default(),
            Codec::json(),
        )
        .await
    }

    /// DELETE. The object may live on until its grace period and finalizers have ended.
    pub async fn delete(&self, name: &str, options: &DeleteOptions) -> Result<()> {
        let path = self.collection().segment(name);
        let _: serde::de::IgnoredAny = self
            .write(
                Method::DELETE,
                path,
                JSON,
                &options.body(),
                &WriteOptions::default(),
                Codec::json(),
            )
            .await?;
        Ok(())
    }

    /// DELETE of all objects of the collection that the selectors match.
    pub async fn delete_collection(
        &self,
        options: &DeleteOptions,
        select: &ListOptions,
    ) -> Result<()> {
        let path = self
            .collection()
            .query("labelSelector", &select.labels)
            .query("fieldSelector", &select.fields);
        let _: serde::de::IgnoredAny = self
            .write(
                Method::DELETE,
                path,
                JSON,
                &options.body(),
                &WriteOptions::default(),
                Codec::json(),
            )
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource;

    #[test]
    fn paths_escape_what_could_change_them() {
        let p = PathBuilder::new(resource::PODS.root())
            .segment("pods")
            .segment("a/../b?x")
            .query("labelSelector", "a in (b,c)");
        assert_eq!(
            p.build(),
            "/api/v1/pods/a%2F..%2Fb%3Fx?labelSelector=a%20in%20%28b%2Cc%29"
        );
    }

    #[test]
    fn delete_options_say_only_what_is_set() {
        let o = DeleteOptions {
            propagation: Some(Propagation::Orphan),
            ..DeleteOptions::uid("u")
        };
        assert_eq!(
            o.body(),
            serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Orphan", "preconditions": {"uid": "u"}})
        );
    }
}
