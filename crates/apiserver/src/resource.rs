//! `ResourceDef`: everything the generic server knows about one resource in one version, built-in or custom.
//!
//! The object on the write path is a `serde_json::Value` tree, decoded and encoded by the schema table. The order of a
//! write is: decode, `default`, admission (mutating), `default` again if admission changed it, `prepare_*`, `begin_*`,
//! `validate_*`, admission (validating), store.

use std::sync::Arc;

use api::Status;
use api::field::ErrorList;
use api::reader::ObjectReader;
use async_trait::async_trait;
use auth::UserInfo;
use serde_json::Value;
use wire::schema::Message;

use crate::warnings::Warnings;

/// What strategies may use of the request and the server.
pub struct Context<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// The namespace of the request; empty for cluster scope.
    pub namespace: &'a str,
    /// The name in the path or the object; may be empty on create until it is generated.
    pub name: &'a str,
    /// The name in the path; empty where it has none.
    pub asked: &'a str,
    /// The subresource; empty for the resource itself.
    pub subresource: &'a str,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// The time of the request, RFC 3339 in seconds, UTC.
    pub now: &'a str,
    /// Other objects.
    pub reader: &'a dyn ObjectReader,
    /// For checks that need it (RBAC escalation).
    pub authorizer: &'a dyn auth::Authorizer,
    /// The `Warning:` headers of the answer.
    pub warnings: &'a Warnings,
}

impl Context<'_> {
    /// Adds a `Warning:` header unless the answer has it already.
    pub fn warn(&self, text: String) {
        self.warnings.add(text);
    }
}

/// What a resource does beyond the generic verbs. Every method has the default that suits a plain resource whose
/// metadata alone is validated; metadata itself is always handled by the generic server.
#[async_trait]
pub trait Strategy: Send + Sync + 'static {
    /// What is wrong with `metadata.name`; `prefix` for `metadata.generateName`, which may end in a dash. `None` for the
    /// usual rule, an RFC 1123 subdomain.
    fn validate_name(&self, name: &str, prefix: bool) -> Option<Vec<String>> {
        let _ = (name, prefix);
        None
    }

    /// Fills in defaults as upstream's `SetDefaults_*` do. Idempotent. Schema defaults (`+default` markers) were applied.
    fn default(&self, object: &mut Value) {
        let _ = object;
    }

    /// Drops what clients may not set on create (status, disabled fields) and sets what the server owns.
    fn prepare_create(&self, ctx: &Context<'_>, object: &mut Value) {
        let _ = (ctx, object);
    }

    /// Everything wrong with a new object, metadata excluded.
    fn validate_create(&self, ctx: &Context<'_>, object: &Value) -> ErrorList {
        let _ = (ctx, object);
        ErrorList::new()
    }

    /// Restores from `old` what this endpoint may not change (status through the main resource, spec through /status)
    /// and sets what the server owns. The generic server has carried over uid, creationTimestamp and deletion fields,
    /// and bumps generation when [`Strategy::generation_changed`] says so.
    fn prepare_update(&self, ctx: &Context<'_>, object: &mut Value, old: &Value) {
        if ctx.subresource == "status" {
            let status = object.get("status").cloned();
            let labels = object.pointer("/metadata").cloned();
            let mut next = old.clone();
            if let Some(map) = next.as_object_mut() {
                match status {
                    Some(s) => map.insert("status".into(), s),
                    None => map.remove("status"),
                };
                if let Some(m) = labels {
                    map.insert("metadata".into(), m);
                }
            }
            *object = next;
        } else if let Some(map) = object.as_object_mut() {
            match old.get("status") {
                Some(s) => map.insert("status".into(), s.clone()),
                None => map.remove("status"),
            };
        }
    }

    /// Everything wrong with a change, metadata excluded.
    fn validate_update(&self, ctx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        let _ = (ctx, object, old);
        ErrorList::new()
    }

    /// Whether `metadata.generation` grows. By default when `spec` differs; objects without spec have no generation.
    fn generation_changed(&self, object: &Value, old: &Value) -> bool {
        object.get("spec") != old.get("spec")
    }

    /// The `Warning:` header of every answer about a kind that is going away.
    fn deprecated(&self) -> Option<&'static str> {
        None
    }

    /// Whether changes of the object are counted.
    fn has_generation(&self) -> bool {
        false
    }

    /// Whether new objects start with generation 1.
    fn starts_generation(&self) -> bool {
        self.has_generation()
    }

    /// Whether a PUT may create.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Whether a PUT without resourceVersion overwrites whatever is there.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// Fields beyond metadata.name and metadata.namespace that a field selector may name, with their values for this
    /// object. The names must be the same for every object; see [`ResourceDef::selectable_fields`].
    fn field_values(&self, object: &Value) -> Vec<(&'static str, String)> {
        let _ = object;
        Vec::new()
    }

    /// Grace period of a delete in seconds, from the object and the request; `None` deletes at once.
    fn graceful_delete_seconds(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        let _ = (object, requested);
        None
    }

    /// Refuses a delete or says how it goes (namespace finalizers).
    async fn begin_delete(&self, ctx: &Context<'_>, object: &mut Value) -> Result<(), Status> {
        let _ = (ctx, object);
        Ok(())
    }

    /// Whether something besides `metadata.finalizers` keeps an object whose deletion has begun (the finalizers in a
    /// namespace's spec).
    fn keeps(&self, object: &Value) -> bool {
        let _ = object;
        false
    }

    /// Checks and effects that need other objects or allocators, before validation (so that what is allocated is
    /// validated, and their refusals come first); what it
    /// allocates is released by the returned guard's drop unless `Reservation::keep` was called.
    async fn begin_write(
        &self,
        ctx: &Context<'_>,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<Reservation, Status> {
        let _ = (ctx, object, old);
        Ok(Reservation::none())
    }

    /// Whether a finished delete answers the object rather than a Status.
    fn returns_deleted(&self) -> bool {
        false
    }

    /// Whether what belongs to a deleted object stays unless the request says otherwise.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// Whether a first delete only marks the object and a second one removes it.
    fn marks_first(&self) -> bool {
        false
    }

    /// What a delete that does not say what becomes of the rest is warned of.
    fn orphan_warning(&self) -> Option<&'static str> {
        None
    }

    /// After an object is gone from the store (release of allocations).
    fn after_delete(&self, object: &Value) {
        let _ = object;
    }

    /// The `Warning:` headers for an accepted object; `old` is what it replaces.
    fn warnings(&self, ctx: &Context<'_>, object: &Value, old: Option<&Value>) -> Vec<String> {
        let _ = (ctx, object, old);
        Vec::new()
    }
}

/// The strategy of resources with nothing special.
pub struct Plain;

impl Strategy for Plain {}

/// Undoes a reservation when a write fails, and does what has to wait until it succeeded.
#[must_use]
#[derive(Default)]
pub struct Reservation {
    undo: Option<Box<dyn FnOnce() + Send>>,
    done: Option<Box<dyn FnOnce() + Send>>,
}

impl Reservation {
    /// Nothing to undo.
    pub fn none() -> Reservation {
        Reservation::default()
    }

    /// Runs `undo` on drop unless kept.
    pub fn new(undo: impl FnOnce() + Send + 'static) -> Reservation {
        Reservation {
            undo: Some(Box::new(undo)),
            done: None,
        }
    }

    /// Runs `done` once the write has succeeded (releases of what the old object held).
    pub fn and_then(mut self, done: impl FnOnce() + Send + 'static) -> Reservation {
        self.done = Some(Box::new(done));
        self
    }

    /// The write succeeded.
    pub fn keep(mut self) {
        self.undo = None;
        if let Some(done) = self.done.take() {
            done();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(undo) = self.undo.take() {
            undo();
        }
    }
}

/// One column of a Table.
#[derive(Clone, Debug)]
pub struct Column {
    /// The heading.
    pub name: &'static str,
    /// `string`, `integer`, `number`, `boolean`, `date`.
    pub type_: &'static str,
    /// `name` for the first column.
    pub format: &'static str,
    /// For people.
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}

/// How a resource prints: its columns, and the cells of one object in the same order. `now` is for ages (seconds since
/// the epoch).
#[derive(Clone)]
pub struct Printer {
    /// The columns.
    pub columns: &'static [Column],
    /// The cells.
    pub cells: fn(object: &Value, now: i64) -> Vec<Value>,
    /// Reason and message of a row whose object has come to its end.
    pub completed: fn(object: &Value) -> Option<(&'static str, &'static str)>,
}

/// How a subresource is served.
#[derive(Clone)]
pub enum SubresourceKind {
    /// Reads and writes the object itself; the strategy sees `ctx.subresource`.
    Same,
    /// A different body in front of the object, such as scale.
    Mapped(Arc<dyn MappedSubresource>),
    /// POST of something that is not the object: binding, eviction, token.
    Action(Arc<dyn ActionSubresource>),
    /// A byte stream from elsewhere: log, exec, attach, portforward, proxy.
    Connect(Arc<dyn ConnectSubresource>),
}

/// A subresource that shows an object as another kind (scale).
pub trait MappedSubresource: Send + Sync + 'static {
    /// Where the field is whose owners the body shows, in both.
    fn path(&self) -> &'static [&'static str] {
        &["spec", "replicas"]
    }
    /// The body for this object.
    fn view(&self, object: &Value) -> Result<Value, Status>;
    /// The checks of a new body.
    fn validate(&self, body: &Value) -> ErrorList;
    /// Writes a body into the object.
    fn apply(&self, object: &mut Value, body: &Value);
}

/// A write to the parent object by an action: reads the newest, lets `change` edit it, stores with retries on conflict.
/// Implemented by the generic server and given to actions.
#[async_trait]
pub trait ObjectWriter: Send + Sync {
    /// Reads, changes and stores `namespace/name` of a resource, through the strategy unless `raw`. Returns the result.
    async fn update(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        change: &mut (dyn for<'v> FnMut(&'v mut Value) -> Result<(), Status> + Send),
    ) -> Result<Value, Status>;

    /// Deletes with `metav1.DeleteOptions`.
    async fn delete(
        &self,
        ctx: &Context<'_>,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        options: &Value,
    ) -> Result<Value, Status>;

    /// The newest object from the store.
    async fn read(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Value, Status>;
}

/// Objects that are not stored but made when they are asked for.
#[async_trait]
pub trait Computed: Send + Sync + 'static {
    /// The object of that name, with kind and apiVersion left out.
    async fn get(&self, name: &str) -> Option<Value>;
    /// All of them.
    async fn list(&self) -> Vec<Value>;
}

/// POST handlers on a named object.
#[async_trait]
pub trait ActionSubresource: Send + Sync + 'static {
    /// Handles the decoded body (after admission); returns the response object and its HTTP code.
    async fn post(
        &self,
        ctx: &Context<'_>,
        writer: &dyn ObjectWriter,
        body: Value,
    ) -> Result<(u16, Value), Status>;
}

/// Where a connect subresource leads: a place on a node's kubelet, or elsewhere, to which the server proxies the request,
/// upgrades included.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// TLS; the certificate is verified for kubelets only.
    pub tls: bool,
    /// A name or an address, IPv6 without brackets. What it resolves to is checked before it is dialled.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Path and query, raw.
    pub path: String,
    /// Whether to present the apiserver's kubelet client certificate.
    pub kubelet: bool,
    /// For bodies that are streamed to the client (logs): what is streamed, as `pods/log` and a name. A failure of the
    /// backend then becomes a Status; otherwise it is passed on as it is.
    pub streamed: Option<(&'static str, String)>,
    /// Whether only an upgrade makes sense.
    pub upgrade: bool,
}

/// What a connect subresource answers.
pub enum Connection {
    /// Proxy to a target.
    Proxy(Target),
    /// Answer with nothing.
    NoContent,
}

/// log, exec, attach, portforward, proxy.
#[async_trait]
pub trait ConnectSubresource: Send + Sync + 'static {
    /// The verb that a request needs besides its own, whatever its method is. `path` is what follows the subresource, raw.
    fn needs(&self, path: &str, upgrade: bool) -> Option<&'static str> {
        let _ = (path, upgrade);
        None
    }

    /// The object's name in the name of a request, which with proxies has a scheme and a port around it.
    ///
    /// # Errors
    /// 400 for a name of another form.
    fn object_name<'a>(&self, name: &'a str) -> Result<&'a str, Status> {
        Ok(name)
    }

    /// Checks options and finds the target. `path` is what follows the subresource, `query` the raw query.
    async fn connect(
        &self,
        ctx: &Context<'_>,
        object: &Value,
        method: &http::Method,
        path: &str,
        query: &str,
    ) -> Result<Connection, Status>;
}

/// One subresource.
#[derive(Clone)]
pub struct Subresource {
    /// `status`, `scale`, `log`.
    pub name: &'static str,
    /// The group, version and kind of its body (`("autoscaling", "v1", "Scale")`).
    pub gvk: (&'static str, &'static str, &'static str),
    /// Verbs in discovery order.
    pub verbs: &'static [&'static str],
    /// The schema of its body.
    pub schema: &'static Message,
    /// How it is served.
    pub kind: SubresourceKind,
}

/// How objects lie in the store.
#[derive(Clone)]
pub struct StorageDef {
    /// `/registry/pods` without a trailing slash; keys are `<prefix>/<namespace>/<name>`.
    pub prefix: String,
    /// `apiVersion` of stored objects.
    pub api_version: String,
    /// `kind` of stored objects.
    pub kind: String,
    /// The schema of stored objects.
    pub schema: &'static Message,
    /// Stored as JSON (custom resources) rather than protobuf.
    pub json: bool,
    /// Seconds after which objects end by themselves (events); 0 for never.
    pub ttl_seconds: i64,
}

/// Conversion between a served version and the stored one, where they differ in more than the name.
#[derive(Clone, Copy)]
pub struct Conversion {
    /// Stored form to this version's form.
    pub from_storage: fn(&mut Value),
    /// This version's form to the stored one.
    pub to_storage: fn(&mut Value),
}

/// How often a kind's validation looks at the metadata: every look tells its errors again.
#[derive(Clone, Copy, Debug)]
pub struct MetaChecks {
    /// Whether the kind itself looks at new objects' metadata, the name included.
    pub on_create: bool,
    /// Comparisons with the old metadata, beyond the one that every kind gets.
    pub updates: u8,
    /// Checks of changed metadata as if it were new.
    pub full: u8,
    /// Whether finalizers without a domain have to be known ones.
    pub finalizers: bool,
}

impl MetaChecks {
    /// With the checks of `finalizers`.
    pub const fn new(updates: u8, full: u8) -> MetaChecks {
        MetaChecks {
            on_create: true,
            updates,
            full,
            finalizers: true,
        }
    }
}

/// One resource in one version.
#[derive(Clone)]
pub struct ResourceDef {
    /// Empty for the core group.
    pub group: String,
    /// `v1`
    pub version: String,
    /// `Pod`
    pub kind: String,
    /// `PodList`
    pub list_kind: String,
    /// `pods`
    pub resource: String,
    /// `pod`
    pub singular: String,
    /// `po`
    pub short_names: Vec<String>,
    /// `all`
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Verbs as discovery lists them.
    pub verbs: Vec<String>,
    /// The schema of this version.
    pub schema: &'static Message,
    /// Where and how objects are stored; `None` for resources that are only posted (reviews).
    pub storage: Option<StorageDef>,
    /// To and from the stored version; `None` when only the apiVersion differs.
    pub conversion: Option<Conversion>,
    /// Field selectors beyond metadata.name and metadata.namespace.
    pub selectable_fields: &'static [&'static str],
    /// The behaviour.
    pub strategy: Arc<dyn Strategy>,
    /// Tables.
    pub printer: Printer,
    /// Subresources.
    pub subresources: Vec<Subresource>,
    /// For resources that are only posted: the handler of POST (TokenReview, SubjectAccessReview, …).
    pub review: Option<Arc<dyn ActionSubresource>>,
    /// For resources that are not stored and only read.
    pub computed: Option<Arc<dyn Computed>>,
    /// How often metadata is checked.
    pub meta: MetaChecks,
    /// How far it is there. Objects of what is absent are stored, with a warning.
    pub support: component::Support,
}
