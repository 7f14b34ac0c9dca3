//! Writes: the one path by which objects come to be, change and go, whoever asks.
//!
//! The order of a write: decode (the caller's), defaults, mutating admission, defaults again, prepare, reserve, validate,
//! validating admission, store. Updates retry on conflict with the change applied anew, unless the client named
//! the resourceVersion it knows. A write that changes nothing is not stored.

use std::collections::HashSet;
use std::sync::Arc;

use admission::{Attributes, Operation, Plugin};
use api::Status;
use api::field::{ErrorList, Path};
use api::reader::ObjectReader;
use async_trait::async_trait;
use auth::UserInfo;
use component::support::{Instead, Support};
use rand::Rng;
use serde_json::{Map, Value};
use storage::{Expect, KeyValue, Revision, Written};
use wire::schema::{Message, Type, flag};

use crate::cache::store_error;
use crate::codec::{self, meta_mut, meta_str, set_meta};
use crate::core::{Core, Served};
use crate::options::{DeleteOptions, Propagation};
use crate::resource::{Context, ObjectWriter, ResourceDef, Strategy};
use crate::warnings::Warnings;

/// How often a write is tried anew when others write the same object.
const RETRIES: usize = 64;
/// Characters of generated names. Source: upstream's `util/rand`: no vowels, nothing easily confused.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// The longest grace period in seconds: one that ends within the times that objects can hold, and whose timers do not
/// overflow.
const MAX_GRACE: i64 = i32::MAX as i64;
/// The longest base of a generated name.
const GENERATE_MAX: usize = 58;

/// What writes need besides the store.
pub struct Engine {
    /// Store, resources, caches.
    pub core: Arc<Core>,
    /// Admission plugins in their order.
    pub admission: Vec<Arc<dyn Plugin>>,
    /// For strategies that check rights.
    pub authorizer: Arc<dyn auth::Authorizer>,
    /// Other objects.
    pub reader: Arc<dyn ObjectReader>,
    /// See [`Gates`].
    pub gates: Gates,
}

/// Writes that met a conflict go on one after the other: many at once on one object would mostly defeat each other.
#[derive(Default)]
pub struct Gates([tokio::sync::Mutex<()>; 32]);

impl Gates {
    /// A place in the line for a key. `None` after a while, lest a write within a write wait for itself.
    async fn enter(&self, key: &[u8]) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
        let hash = key.iter().fold(0usize, |h, b| {
            h.wrapping_mul(31).wrapping_add(usize::from(*b))
        });
        let gate = self.0.get(hash % self.0.len())?;
        tokio::time::timeout(PATIENCE, gate.lock()).await.ok()
    }
}

/// Who writes what.
pub struct Request<'a> {
    /// The resource.
    pub served: &'a Served,
    /// The user.
    pub user: &'a UserInfo,
    /// Empty for cluster scope.
    pub namespace: &'a str,
    /// Empty until it is known.
    pub name: &'a str,
    /// Empty for the resource itself.
    pub subresource: &'a str,
    /// Nothing is stored.
    pub dry_run: bool,
    /// RFC 3339 in seconds.
    pub now: &'a str,
    /// `Warning:` headers to send.
    pub warnings: &'a Warnings,
    /// The field manager of this write; empty to leave managedFields alone.
    pub manager: &'a str,
}

/// What is to be said of a new object that nothing will act on.
fn unserved(def: &ResourceDef) -> Option<String> {
    match def.support {
        Support::Absent(Instead::Warned(why) | Instead::Refused(why)) => {
            Some(format!("{} is stored, but {why}", def.kind))
        }
        _ => None,
    }
}

impl Request<'_> {
    fn not_found(&self) -> Status {
        Status::not_found(&self.served.def.group, &self.served.def.resource, self.name)
    }
}

/// A stored object of the served version, with the pair it came from.
pub struct Found {
    /// With its resourceVersion.
    pub object: Value,
    /// The pair.
    pub kv: KeyValue,
}

/// What an update does with the object it finds.
#[async_trait]
pub trait Change: Send {
    /// The new object, made from the newest one; `None` when it does not exist. Called again after a conflict.
    async fn apply(&mut self, existing: Option<&Value>) -> Result<Value, Status>;

    /// Whether a missing object is created.
    fn creates(&self) -> bool {
        false
    }

    /// Whether the new object's managedFields are right already (apply).
    fn manages(&self) -> bool {
        false
    }

    /// Whether the client sent a change rather than the object.
    fn patches(&self) -> bool {
        false
    }

    /// The precondition on the uid.
    fn uid(&self) -> Option<&str> {
        None
    }
}

/// A PUT.
pub struct Replace(pub Value);

#[async_trait]
impl Change for Replace {
    async fn apply(&mut self, _: Option<&Value>) -> Result<Value, Status> {
        Ok(self.0.clone())
    }

    fn uid(&self) -> Option<&str> {
        Some(meta_str(&self.0, "uid")).filter(|u| !u.is_empty())
    }
}

/// A generated name: the base, cut to its limit, and five random characters.
pub fn generate_name(base: &str) -> String {
    let mut end = base.len().min(GENERATE_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = base.get(..end).unwrap_or_default().to_owned();
    let mut rng = rand::rng();
    for _ in 0..5 {
        let i = rng.random_range(0..ALPHABET.len());
        out.push(char::from(ALPHABET.get(i).copied().unwrap_or(b'x')));
    }
    out
}

/// Now, as objects carry it.
pub fn timestamp() -> String {
    format_time(jiff::Timestamp::now().as_second())
}

/// Seconds since the epoch as RFC 3339.
pub fn format_time(seconds: i64) -> String {
    api::time::Moment { seconds, nanos: 0 }.clamped().rfc3339()
}

fn parse_time(s: &str) -> Option<i64> {
    api::time::seconds(s)
}

/// Makes the object's namespace that of the request.
pub fn match_namespace(
    object: &mut Value,
    namespaced: bool,
    namespace: &str,
) -> Result<(), Status> {
    let wanted = if namespaced { namespace } else { "" };
    let has = meta_str(object, "namespace");
    if has == wanted {
        return Ok(());
    }
    if !has.is_empty() && !wanted.is_empty() {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    set_meta(object, "namespace", wanted);
    Ok(())
}

fn finalizers(object: &Value) -> Vec<String> {
    object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .map(|a| {
            a.iter()
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect()
        })
        .unwrap_or_default()
}

fn set_finalizers(object: &mut Value, list: Vec<String>) {
    if let Some(m) = meta_mut(object) {
        if list.is_empty() {
            m.remove("finalizers");
        } else {
            m.insert("finalizers".into(), list.into());
        }
    }
}

fn meta_int(object: &Value, key: &str) -> Option<i64> {
    object
        .get("metadata")
        .and_then(|m| m.get(key))
        .and_then(Value::as_i64)
}

fn set_meta_int(object: &mut Value, key: &str, value: i64) {
    if let Some(m) = meta_mut(object) {
        m.insert(key.to_owned(), value.into());
    }
}

fn bump_generation(object: &mut Value) {
    if let Some(g) = meta_int(object, "generation").filter(|g| *g > 0) {
        set_meta_int(object, "generation", g.saturating_add(1));
    }
}

/// Keeps the first of owner references that are the same, and tells which were not.
fn dedup_owners(object: &mut Value, warnings: &Warnings, admitted: bool) {
    let Some(list) = object
        .pointer_mut("/metadata/ownerReferences")
        .and_then(Value::as_array_mut)
    else {
        return;
    };
    let mut seen = HashSet::with_capacity(list.len());
    let mut twice = Vec::new();
    list.retain(|owner| {
        let new = seen.insert(owner.to_string());
        if !new {
            twice.extend(owner.get("uid").and_then(Value::as_str).map(str::to_owned));
        }
        new
    });
    if !twice.is_empty() {
        let after = if admitted {
            " after mutating admission happens"
        } else {
            ""
        };
        warnings.add(format!(
            ".metadata.ownerReferences contains duplicate entries{after}; API server dedups owner references in 1.20+, \
             and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            twice.join(", ")
        ));
    }
}

enum Deletion {
    /// Store this and answer it.
    Update(Box<Value>),
    /// Store this, so that watchers see the deletion begin, remove it and answer it.
    Mark(Box<Value>),
    /// Remove the key.
    Now,
    /// It is on its way already.
    Pending,
}

impl Engine {
    fn context<'a>(&'a self, r: &'a Request<'_>, name: &'a str) -> Context<'a> {
        Context {
            user: r.user,
            namespace: r.namespace,
            name,
            asked: r.name,
            subresource: r.subresource,
            dry_run: r.dry_run,
            now: r.now,
            reader: &*self.reader,
            authorizer: &*self.authorizer,
            warnings: r.warnings,
        }
    }

    /// The attributes that admission sees.
    pub fn attributes<'a>(
        &'a self,
        r: &'a Request<'_>,
        operation: Operation,
        name: &'a str,
    ) -> Attributes<'a> {
        let def = &r.served.def;
        let kind = def
            .subresources
            .iter()
            .find(|s| s.name == r.subresource)
            .map_or(def.kind.as_str(), |s| s.gvk.2);
        Attributes {
            operation,
            user: r.user,
            group: &def.group,
            version: &def.version,
            resource: &def.resource,
            subresource: r.subresource,
            kind,
            namespace: r.namespace,
            name,
            dry_run: r.dry_run,
            reader: &*self.reader,
        }
    }

    /// Asks for a right beyond the one that the request itself needed.
    ///
    /// # Errors
    /// 403, in the words of any other refusal.
    pub async fn authorize(&self, right: &auth::Attributes) -> Result<(), Status> {
        match self.authorizer.authorize(right).await {
            (auth::Decision::Allow, _) => Ok(()),
            (_, reason) => Err(auth::authz::forbidden::status(right, &reason)),
        }
    }

    /// Mutating admission. Whether a plugin looked at the object, and so may have changed it.
    pub async fn admit(
        &self,
        a: &Attributes<'_>,
        mut object: Option<&mut Value>,
        old: Option<&Value>,
    ) -> Result<bool, Status> {
        let mut touched = false;
        for p in self.admission.iter().filter(|p| p.handles(a)) {
            p.admit(a, object.as_deref_mut(), old).await?;
            touched = true;
        }
        Ok(touched)
    }

    /// Validating admission.
    pub async fn validate_admission(
        &self,
        a: &Attributes<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        for p in self.admission.iter().filter(|p| p.handles(a)) {
            p.validate(a, object, old).await?;
        }
        Ok(())
    }

    fn defaults(&self, served: &Served, object: &mut Value) {
        crate::meta::apply_defaults(served.def.schema, object);
        served.def.strategy.default(object);
    }

    async fn newest(&self, key: &[u8]) -> Result<Option<KeyValue>, Status> {
        let got = self.core.store().get(key, 0).await.map_err(store_error)?;
        Ok(got.kv)
    }

    /// Reads the newest object.
    pub async fn read(
        &self,
        served: &Served,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Found>, Status> {
        let key = served.key(namespace, name)?;
        match self.newest(&key).await? {
            None => Ok(None),
            Some(kv) => {
                let object = codec::decode(&served.def, &kv.value, kv.mod_revision)?;
                Ok(Some(Found { object, kv }))
            }
        }
    }

    fn invalid(&self, r: &Request<'_>, object: &Value, errors: &ErrorList) -> Status {
        let def = &r.served.def;
        // Errors name the group in which the kind is at home.
        let home = def.storage.as_ref().map(|s| s.api_version.as_str());
        let group = home.map_or(def.group.as_str(), |v| {
            v.split_once('/').map_or("", |(g, _)| g)
        });
        Status::invalid(group, &def.kind, meta_str(object, "name"), errors)
    }

    /// Creates an object. Returns it with its resourceVersion (none in a dry run).
    pub async fn create(&self, r: &Request<'_>, object: Value) -> Result<Value, Status> {
        let def = &r.served.def;
        if !def.verbs.iter().any(|v| v == "create") {
            return Err(Status::method_not_allowed());
        }
        let prefixed = !meta_str(&object, "generateName").is_empty();
        if !prefixed {
            return self.create_once(r, object).await;
        }
        let tries = if meta_str(&object, "name").is_empty() {
            8
        } else {
            1
        };
        let mut last = None;
        for _ in 0..tries {
            match self.create_once(r, object.clone()).await {
                Err(s) if s.is_already_exists() => last = Some(s),
                other => return other,
            }
        }
        let mut taken = last.unwrap_or_else(|| Status::internal("no name was free"));
        taken
            .message
            .push_str(", the server was not able to generate a unique name for the object");
        if let Some(d) = &mut taken.details {
            d.retry_after_seconds = 1;
        }
        Err(taken)
    }

    async fn create_once(&self, r: &Request<'_>, mut object: Value) -> Result<Value, Status> {
        let def = r.served.def.clone();
        match_namespace(&mut object, def.namespaced, r.namespace)?;
        // Upstream's store refuses it, and what is not stored keeps it.
        if !r.dry_run && !meta_str(&object, "resourceVersion").is_empty() {
            return Err(Status::failure(
                500,
                "",
                "resourceVersion should not be set on objects to be created",
            ));
        }
        if let Some(m) = meta_mut(&mut object) {
            for k in [
                "uid",
                "creationTimestamp",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
                "selfLink",
            ] {
                m.remove(k);
            }
        }
        dedup_owners(&mut object, r.warnings, false);
        self.defaults(r.served, &mut object);
        crate::meta::manage(r.served, None, &mut object, r.manager, r.subresource, r.now);
        {
            let name = meta_str(&object, "name").to_owned();
            let a = self.attributes(r, Operation::Create, &name);
            if self.admit(&a, Some(&mut object), None).await? {
                dedup_owners(&mut object, r.warnings, true);
                self.defaults(r.served, &mut object);
            }
        }
        set_meta(&mut object, "uid", &uuid::Uuid::new_v4().to_string());
        set_meta(&mut object, "creationTimestamp", r.now);
        if meta_str(&object, "name").is_empty() {
            let base = meta_str(&object, "generateName");
            if !base.is_empty() {
                let name = generate_name(base);
                set_meta(&mut object, "name", &name);
            }
        }
        self.finish_create(r, object, None).await
    }

    /// The part that a create and an update that creates share: prepare, validate, admit, reserve, store. `needs` is a
    /// right that the request has not shown yet.
    async fn finish_create(
        &self,
        r: &Request<'_>,
        mut object: Value,
        needs: Option<&auth::Attributes>,
    ) -> Result<Value, Status> {
        let def = r.served.def.clone();
        let name = meta_str(&object, "name").to_owned();
        let ctx = self.context(r, &name);
        def.strategy.prepare_create(&ctx, &mut object);
        if def.strategy.starts_generation() {
            set_meta_int(&mut object, "generation", 1);
        }
        let reservation = def.strategy.begin_write(&ctx, &mut object, None).await?;
        let mut errors = crate::meta::validate(&def, &object);
        errors.extend(def.strategy.validate_create(&ctx, &object));
        if !errors.is_empty() {
            return Err(self.invalid(r, &object, &errors));
        }
        r.warnings
            .extend(def.strategy.warnings(&ctx, &object, None));
        r.warnings.extend(unserved(&def));
        if let Some(right) = needs {
            self.authorize(right).await?;
        }
        let a = self.attributes(r, Operation::Create, &name);
        self.validate_admission(&a, Some(&object), None).await?;
        let key = r.served.key(r.namespace, &name)?;
        let exists = || Status::already_exists(&def.group, &def.resource, &name);
        if r.dry_run {
            if self.newest(&key).await?.is_some() {
                return Err(exists());
            }
            return Ok(object);
        }
        let bytes = codec::encode(&def, &mut object)?;
        let lease = self.core.lease(codec::storage(&def)?.ttl_seconds).await?;
        let written = self
            .core
            .store()
            .put(&key, bytes, Expect::Absent, lease)
            .await
            .map_err(store_error)?;
        match written {
            Written::Done { revision, .. } => {
                reservation.keep();
                finish(&def, &mut object, revision);
                shown(r, revision).await;
                // What the server makes at its start is upstream's, used or not.
                if let Some(why) = unserved(&def).filter(|_| r.user.name != "system:apiserver") {
                    tracing::warn!(namespace = r.namespace, name, user = r.user.name, "{why}");
                }
                Ok(object)
            }
            Written::Mismatch { .. } => Err(exists()),
        }
    }

    /// Updates an object, or creates it when the change or the strategy allows it. Returns it and whether it was created.
    pub async fn update(
        &self,
        r: &Request<'_>,
        change: &mut dyn Change,
    ) -> Result<(Value, bool), Status> {
        let def = r.served.def.clone();
        let key = r.served.key(r.namespace, r.name)?;
        let creates =
            r.subresource.is_empty() && (change.creates() || def.strategy.allow_create_on_update());
        let mut current = self.newest(&key).await?;
        let mut turn = None;
        for _ in 0..RETRIES {
            let Some(kv) = current.take() else {
                if !creates {
                    return Err(r.not_found());
                }
                if let Some(o) = self.create_by_update(r, change).await? {
                    return Ok((o, true));
                }
                current = self.newest(&key).await?;
                continue;
            };
            match self.update_once(r, change, &key, kv).await? {
                Ok(object) => return Ok((object, false)),
                Err(found) if turn.is_some() => current = found,
                Err(_) => {
                    turn = self.gates.enter(&key).await;
                    // What was found may be old by now.
                    current = self.newest(&key).await?;
                }
            }
        }
        Err(Status::conflict(
            &def.group,
            &def.resource,
            r.name,
            "too many writers at once; please try again",
        ))
    }

    /// `None` when somebody else created it meanwhile.
    async fn create_by_update(
        &self,
        r: &Request<'_>,
        change: &mut dyn Change,
    ) -> Result<Option<Value>, Status> {
        let def = &r.served.def;
        let mut object = change.apply(None).await?;
        self.check_identity(r, &mut object)?;
        if let Some(uid) = change.uid() {
            return Err(Status::conflict(
                &def.group,
                &def.resource,
                r.name,
                &format!("Precondition failed: UID in precondition: {uid}, UID in object meta: "),
            ));
        }
        if !meta_str(&object, "resourceVersion").is_empty() {
            return Err(r.not_found());
        }
        dedup_owners(&mut object, r.warnings, change.patches());
        self.defaults(r.served, &mut object);
        if !change.manages() {
            crate::meta::manage(r.served, None, &mut object, r.manager, r.subresource, r.now);
        }
        let a = self.attributes(r, Operation::Create, r.name);
        if self.admit(&a, Some(&mut object), None).await? {
            self.defaults(r.served, &mut object);
        }
        set_meta(&mut object, "uid", &uuid::Uuid::new_v4().to_string());
        set_meta(&mut object, "creationTimestamp", r.now);
        // Whoever may patch or update may not yet create.
        let create = auth::Attributes {
            user: r.user.clone(),
            verb: "create".into(),
            namespace: r.namespace.to_owned(),
            group: def.group.clone(),
            version: def.version.clone(),
            resource: def.resource.clone(),
            subresource: r.subresource.to_owned(),
            name: r.name.to_owned(),
            is_resource: true,
            ..auth::Attributes::default()
        };
        match self.finish_create(r, object, Some(&create)).await {
            Err(s) if s.is_already_exists() => Ok(None),
            other => other.map(Some),
        }
    }

    fn check_identity(&self, r: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        let name = meta_str(object, "name");
        if name.is_empty() {
            set_meta(object, "name", r.name);
        } else if name != r.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                r.name
            )));
        }
        match_namespace(object, r.served.def.namespaced, r.namespace)
    }

    /// `Ok(Err(newest))` on a conflict that may be retried.
    async fn update_once(
        &self,
        r: &Request<'_>,
        change: &mut dyn Change,
        key: &[u8],
        kv: KeyValue,
    ) -> Result<Result<Value, Option<KeyValue>>, Status> {
        let def = r.served.def.clone();
        let strategy = &def.strategy;
        let old = codec::decode(&def, &kv.value, kv.mod_revision)?;
        let uid = meta_str(&old, "uid").to_owned();
        if let Some(wanted) = change.uid()
            && wanted != uid
        {
            let key = String::from_utf8_lossy(key);
            // Where nothing is stored, upstream has not yet put its prefix before the key.
            let key = key
                .trim_start_matches('/')
                .find('/')
                .and_then(|at| key.get(at + 1..))
                .filter(|_| r.dry_run)
                .unwrap_or(&key);
            return Err(Status::conflict(
                &def.group,
                &def.resource,
                r.name,
                &format!(
                    "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: \
                     Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"
                ),
            ));
        }
        let mut object = change.apply(Some(&old)).await?;
        self.check_identity(r, &mut object)?;
        let asked = meta_str(&object, "resourceVersion").to_owned();
        if asked.is_empty() || asked == "0" {
            if !strategy.allow_unconditional_update() {
                let mut errors = ErrorList::new();
                errors.invalid_shown(
                    &Path::new("metadata").child("resourceVersion"),
                    "0",
                    "must be specified for an update",
                );
                return Err(Status::invalid(&def.group, &def.resource, r.name, &errors));
            }
        } else if let Err(why) = crate::query::parse_uint(&asked) {
            return Err(Status::failure(500, "", why));
        } else if asked != kv.mod_revision.to_string() {
            return Err(Status::modified(&def.group, &def.resource, r.name));
        }
        set_meta(&mut object, "resourceVersion", &kv.mod_revision.to_string());
        dedup_owners(&mut object, r.warnings, change.patches());
        self.defaults(r.served, &mut object);
        if !change.manages() {
            crate::meta::manage(
                r.served,
                Some(&old),
                &mut object,
                r.manager,
                r.subresource,
                r.now,
            );
        }
        let a = self.attributes(r, Operation::Update, r.name);
        if self.admit(&a, Some(&mut object), Some(&old)).await? {
            self.defaults(r.served, &mut object);
        }
        let ctx = self.context(r, r.name);
        self.prepare_update(&**strategy, &ctx, &mut object, &old);
        crate::meta::keep_times(&mut object, &old);
        let reservation = strategy.begin_write(&ctx, &mut object, Some(&old)).await?;
        let mut errors = crate::meta::validate_update(&def, &object, &old);
        errors.extend(strategy.validate_update(&ctx, &object, &old));
        if !errors.is_empty() {
            return Err(self.invalid(r, &object, &errors));
        }
        r.warnings
            .extend(strategy.warnings(&ctx, &object, Some(&old)));
        self.validate_admission(&a, Some(&object), Some(&old))
            .await?;
        if finalizers(&object).is_empty()
            && !strategy.keeps(&object)
            && !meta_str(&old, "deletionTimestamp").is_empty()
            && meta_int(&old, "deletionGracePeriodSeconds").unwrap_or(0) == 0
        {
            // The last finalizer is gone.
            if r.dry_run {
                return Ok(Ok(object));
            }
            return match self.remove(r, key, kv.mod_revision).await? {
                Ok(_) => {
                    reservation.keep();
                    strategy.after_delete(&object);
                    Ok(Ok(object))
                }
                Err(current) => Ok(Err(current)),
            };
        }
        let bytes = codec::encode(&def, &mut object)?;
        if bytes == kv.value {
            reservation.keep();
            finish(&def, &mut object, kv.mod_revision);
            return Ok(Ok(object));
        }
        if r.dry_run {
            finish(&def, &mut object, kv.mod_revision);
            return Ok(Ok(object));
        }
        let ttl = codec::storage(&def)?.ttl_seconds;
        let lease = if ttl > 0 {
            self.core.lease(ttl).await?
        } else {
            0
        };
        let expect = Expect::Revision(kv.mod_revision);
        match self
            .core
            .store()
            .put(key, bytes, expect, lease)
            .await
            .map_err(store_error)?
        {
            Written::Done { revision, .. } => {
                reservation.keep();
                finish(&def, &mut object, revision);
                shown(r, revision).await;
                Ok(Ok(object))
            }
            Written::Mismatch { current, .. } => Ok(Err(current)),
        }
    }

    fn prepare_update(
        &self,
        strategy: &dyn Strategy,
        ctx: &Context<'_>,
        object: &mut Value,
        old: &Value,
    ) {
        let generation = meta_int(old, "generation");
        let restore = |object: &mut Value| {
            if let Some(m) = meta_mut(object) {
                match generation {
                    Some(g) => m.insert("generation".into(), g.into()),
                    None => m.remove("generation"),
                };
            }
        };
        restore(object);
        strategy.prepare_update(ctx, object, old);
        restore(object);
        let old_meta = old.get("metadata").and_then(Value::as_object);
        if let (Some(m), Some(o)) = (meta_mut(object), old_meta) {
            if !m.contains_key("uid")
                && let Some(uid) = o.get("uid")
            {
                m.insert("uid".into(), uid.clone());
            }
            if let Some(v) = o.get("creationTimestamp") {
                m.insert("creationTimestamp".into(), v.clone());
            }
            // Absent they stay as they were, changed they are refused.
            for k in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
                if let Some(v) = o.get(k)
                    && !m.contains_key(k)
                {
                    m.insert(k.into(), v.clone());
                }
            }
            m.remove("selfLink");
        }
        // What the system writes about an object is not a new intent of its user.
        let by_user = !matches!(ctx.subresource, "status" | "binding");
        if by_user && strategy.has_generation() && strategy.generation_changed(object, old) {
            set_meta_int(
                object,
                "generation",
                generation.unwrap_or(0).saturating_add(1),
            );
        }
    }

    async fn remove(
        &self,
        r: &Request<'_>,
        key: &[u8],
        revision: Revision,
    ) -> Result<Result<Revision, Option<KeyValue>>, Status> {
        match self
            .core
            .store()
            .delete(key, Expect::Revision(revision))
            .await
            .map_err(store_error)?
        {
            Written::Done { revision, .. } => {
                shown(r, revision).await;
                Ok(Ok(revision))
            }
            Written::Mismatch { current: None, .. } => Err(r.not_found()),
            Written::Mismatch { current, .. } => Ok(Err(current)),
        }
    }

    /// Deletes an object. Returns what to answer (the object, or a Status of success) and whether it is gone.
    pub async fn delete(
        &self,
        r: &Request<'_>,
        options: &DeleteOptions,
    ) -> Result<(Value, bool), Status> {
        let def = r.served.def.clone();
        let key = r.served.key(r.namespace, r.name)?;
        let mut current = self.newest(&key).await?;
        for _ in 0..RETRIES {
            let Some(kv) = current.take() else {
                return Err(r.not_found());
            };
            let old = codec::decode(&def, &kv.value, kv.mod_revision)?;
            let decision = self.decide_delete(r, options, &old).await?;
            match decision {
                Deletion::Pending => return Ok((deleted(r.served, old), false)),
                Deletion::Update(ref object) | Deletion::Mark(ref object) => {
                    let gone = matches!(decision, Deletion::Mark(_));
                    let mut object = (**object).clone();
                    let bytes = codec::encode(&def, &mut object)?;
                    if r.dry_run || bytes == kv.value && !gone {
                        finish(&def, &mut object, kv.mod_revision);
                        return Ok((object, gone));
                    }
                    let expect = Expect::Revision(kv.mod_revision);
                    match self
                        .core
                        .store()
                        .put(&key, bytes, expect, kv.lease)
                        .await
                        .map_err(store_error)?
                    {
                        Written::Done { revision, .. } if gone => {
                            finish(&def, &mut object, revision);
                            match self.remove(r, &key, revision).await? {
                                Ok(_) => {
                                    def.strategy.after_delete(&object);
                                    return Ok((deleted(r.served, object), true));
                                }
                                Err(c) => current = c,
                            }
                        }
                        Written::Done { revision, .. } => {
                            finish(&def, &mut object, revision);
                            shown(r, revision).await;
                            return Ok((object, false));
                        }
                        Written::Mismatch { current: c, .. } => current = c,
                    }
                }
                Deletion::Now => {
                    if r.dry_run {
                        return Ok((deleted(r.served, old), true));
                    }
                    match self.remove(r, &key, kv.mod_revision).await? {
                        Ok(revision) => {
                            def.strategy.after_delete(&old);
                            let mut old = old;
                            finish(&def, &mut old, revision);
                            return Ok((deleted(r.served, old), true));
                        }
                        Err(c) => current = c,
                    }
                }
            }
        }
        Err(Status::conflict(
            &def.group,
            &def.resource,
            r.name,
            "too many writers at once; please try again",
        ))
    }

    async fn decide_delete(
        &self,
        r: &Request<'_>,
        options: &DeleteOptions,
        old: &Value,
    ) -> Result<Deletion, Status> {
        let def = &r.served.def;
        let strategy = &def.strategy;
        for (asked, key, why) in [
            (&options.uid, "uid", "UID"),
            (
                &options.resource_version,
                "resourceVersion",
                "ResourceVersion",
            ),
        ] {
            let has = meta_str(old, key);
            if let Some(asked) = asked
                && asked != has
            {
                let tail = if key == "uid" {
                    "The object might have been deleted and then recreated"
                } else {
                    "The object might have been modified"
                };
                let why = format!(
                    "the {why} in the precondition ({asked}) does not match the {why} in record ({has}). {tail}"
                );
                return Err(Status::conflict(&def.group, &def.kind, r.name, &why));
            }
        }
        let a = self.attributes(r, Operation::Delete, r.name);
        self.admit(&a, None, Some(old)).await?;
        self.validate_admission(&a, None, Some(old)).await?;
        let mut object = old.clone();
        let ctx = self.context(r, r.name);
        strategy.begin_delete(&ctx, &mut object).await?;
        if let Some(warning) = strategy.orphan_warning()
            && options.orphan.is_none()
            && options.policy.is_none()
        {
            ctx.warn(warning.to_owned());
        }
        let mut graceful = false;
        let mut marked = false;
        let deleting = meta_str(&object, "deletionTimestamp").to_owned();
        let period = meta_int(&object, "deletionGracePeriodSeconds");
        if !deleting.is_empty() {
            match period {
                None | Some(0) => {}
                Some(period) => {
                    let now = parse_time(r.now).unwrap_or_default();
                    match options.grace {
                        Some(g) if g < period => {
                            let mut g = g.min(MAX_GRACE);
                            let began = parse_time(&deleting).unwrap_or(now).saturating_sub(period);
                            let mut at = began.saturating_add(g);
                            if at < now {
                                at = now;
                                if g != 0 {
                                    g = 1;
                                }
                            }
                            set_meta(&mut object, "deletionTimestamp", &format_time(at));
                            set_meta_int(&mut object, "deletionGracePeriodSeconds", g);
                            graceful = g > 0;
                            marked = true;
                        }
                        _ => return Ok(Deletion::Pending),
                    }
                }
            }
        } else if let Some(grace) = strategy.graceful_delete_seconds(&object, options.grace) {
            let grace = grace.min(MAX_GRACE);
            let now = parse_time(r.now).unwrap_or_default();
            set_meta(&mut object, "deletionTimestamp", &format_time(now + grace));
            set_meta_int(&mut object, "deletionGracePeriodSeconds", grace);
            bump_generation(&mut object);
            graceful = grace > 0;
            marked = true;
        }
        let wanted = self.collector_finalizers(&**strategy, &object, options);
        set_finalizers(&mut object, wanted);
        let first = meta_str(old, "deletionTimestamp").is_empty();
        let pending = !finalizers(&object).is_empty()
            || strategy.keeps(&object)
            || first && strategy.marks_first();
        if graceful {
            return Ok(Deletion::Update(Box::new(object)));
        }
        if pending {
            if meta_str(&object, "deletionTimestamp").is_empty() {
                bump_generation(&mut object);
                set_meta(&mut object, "deletionTimestamp", r.now);
            }
            if !strategy.keeps(&object) && !strategy.marks_first() {
                set_meta_int(&mut object, "deletionGracePeriodSeconds", 0);
            }
            return Ok(Deletion::Update(Box::new(object)));
        }
        Ok(if marked {
            Deletion::Mark(Box::new(object))
        } else {
            Deletion::Now
        })
    }

    /// The finalizers after the delete options have asked the garbage collector for orphaning or foreground deletion.
    fn collector_finalizers(
        &self,
        strategy: &dyn Strategy,
        object: &Value,
        options: &DeleteOptions,
    ) -> Vec<String> {
        let present = finalizers(object);
        let has = |f: &str| present.iter().any(|p| p == f);
        let (orphan, foreground) = match (options.orphan, options.policy) {
            (Some(orphan), _) => (orphan, false),
            (None, Some(Propagation::Orphan)) => (true, false),
            (None, Some(Propagation::Foreground)) => (false, true),
            (None, Some(Propagation::Background)) => (false, false),
            (None, None) if has("orphan") || has("foregroundDeletion") => {
                (has("orphan"), has("foregroundDeletion"))
            }
            (None, None) => (strategy.orphans_by_default(), false),
        };
        let mut out: Vec<String> = present
            .iter()
            .filter(|f| *f != "orphan" && *f != "foregroundDeletion")
            .cloned()
            .collect();
        if orphan {
            out.push("orphan".into());
        }
        if foreground {
            out.push("foregroundDeletion".into());
        }
        let same = out.len() == present.len() && out.iter().all(|f| present.contains(f));
        if same { present } else { out }
    }
}

/// Sets what only the server knows after a write.
/// Waits until the cache shows a write to a cluster-scoped object: admission and authorization of the requests that follow
/// read namespaces, roles and the like from there, and must see what was acknowledged. A cache that lags is not waited for
/// beyond its own patience; the write is done in any case.
async fn shown(r: &Request<'_>, revision: storage::Revision) {
    if r.served.def.namespaced {
        return;
    }
    if let Ok(cache) = r.served.cache()
        && let Err(error) = cache.wait_for(revision).await
    {
        tracing::warn!(%error, resource = %r.served.def.resource, "The watch cache lags behind a write");
    }
}

fn finish(def: &crate::resource::ResourceDef, object: &mut Value, revision: Revision) {
    codec::set_kind(
        object,
        &codec::group_version(&def.group, &def.version),
        &def.kind,
    );
    set_meta(object, "resourceVersion", &revision.to_string());
    // Stored bytes do not tell an empty list from none.
    if def.storage.as_ref().is_some_and(|s| !s.json) {
        drop_empty(def.schema, object);
    }
}

/// Empty lists and maps become what they are when read again.
fn drop_empty(schema: &Message, object: &mut Value) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    for f in schema.fields {
        if let (true, Type::Message(inner)) = (f.is(flag::INLINE), f.ty) {
            let mut rest = Value::Object(std::mem::take(map));
            drop_empty(inner, &mut rest);
            if let Value::Object(rest) = rest {
                *map = rest;
            }
            continue;
        }
        let Some(v) = map.get_mut(f.json) else {
            continue;
        };
        match f.ty {
            Type::Message(m) => drop_empty(m, v),
            Type::List(Type::Message(m)) | Type::Map(Type::Message(m)) => match v {
                Value::Array(list) if !list.is_empty() => {
                    list.iter_mut().for_each(|v| drop_empty(m, v));
                }
                Value::Object(all) if !all.is_empty() => {
                    all.values_mut().for_each(|v| drop_empty(m, v));
                }
                _ => *v = Value::Null,
            },
            Type::List(_) | Type::Map(_) => {
                let empty = v.as_array().is_some_and(Vec::is_empty)
                    || v.as_object().is_some_and(Map::is_empty);
                if empty {
                    *v = Value::Null;
                }
            }
            _ => continue,
        }
        if v.is_null() && (f.is(flag::OMITEMPTY) || f.is(flag::OMITZERO)) {
            map.remove(f.json);
        }
    }
}

/// The answer of a finished delete.
fn deleted(served: &Served, object: Value) -> Value {
    let def = &served.def;
    if def.strategy.returns_deleted() {
        return object;
    }
    let mut details = Map::new();
    details.insert("name".into(), meta_str(&object, "name").into());
    if !def.group.is_empty() {
        details.insert("group".into(), def.group.clone().into());
    }
    details.insert("kind".into(), def.resource.clone().into());
    details.insert("uid".into(), meta_str(&object, "uid").into());
    serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    })
}

/// How actions change an object.
type Editor<'f> = dyn FnMut(&mut Value) -> Result<(), Status> + Send + 'f;

/// A change made by a closure.
struct ByClosure<'a, 'f>(&'a mut Editor<'f>);

#[async_trait]
impl Change for ByClosure<'_, '_> {
    async fn apply(&mut self, existing: Option<&Value>) -> Result<Value, Status> {
        let mut object = existing.cloned().unwrap_or_default();
        (self.0)(&mut object)?;
        Ok(object)
    }
}

/// Writes in the name of a user; given to actions (binding, eviction) and hooks.
pub struct Writer<'a> {
    /// The engine.
    pub engine: &'a Engine,
    /// Who writes.
    pub user: &'a UserInfo,
    /// The subresource the writes count as.
    pub subresource: &'a str,
    /// Nothing is stored.
    pub dry_run: bool,
    /// The field manager; empty to leave managedFields alone.
    pub manager: &'a str,
}

impl Writer<'_> {
    fn served(&self, group: &str, resource: &str) -> Result<Arc<Served>, Status> {
        self.engine
            .core
            .table()
            .find_any(group, resource)
            .cloned()
            .ok_or_else(|| Status::internal(format!("{resource} is not served")))
    }

    /// Creates an object.
    pub async fn create(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        object: Value,
    ) -> Result<Value, Status> {
        let served = self.served(group, resource)?;
        let (now, warnings) = (timestamp(), Warnings::default());
        let r = Request {
            served: &served,
            user: self.user,
            namespace,
            name: "",
            subresource: "",
            dry_run: self.dry_run,
            now: &now,
            warnings: &warnings,
            manager: self.manager,
        };
        self.engine.create(&r, object).await
    }
}

#[async_trait]
impl ObjectWriter for Writer<'_> {
    async fn update(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        change: &mut (dyn for<'v> FnMut(&'v mut Value) -> Result<(), Status> + Send),
    ) -> Result<Value, Status> {
        let served = self.served(group, resource)?;
        let (now, warnings) = (timestamp(), Warnings::default());
        let r = Request {
            served: &served,
            user: self.user,
            namespace,
            name,
            subresource: self.subresource,
            dry_run: self.dry_run,
            now: &now,
            warnings: &warnings,
            manager: self.manager,
        };
        self.engine
            .update(&r, &mut ByClosure(change))
            .await
            .map(|(o, _)| o)
    }

    async fn delete(
        &self,
        ctx: &Context<'_>,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        options: &Value,
    ) -> Result<Value, Status> {
        let served = self.served(group, resource)?;
        let options = DeleteOptions::parse(Some(options), &crate::query::Query::default())?;
        let warnings = Warnings::default();
        let r = Request {
            served: &served,
            user: ctx.user,
            namespace,
            name,
            subresource: "",
            dry_run: ctx.dry_run || options.dry_run,
            now: ctx.now,
            warnings: &warnings,
            manager: "",
        };
        self.engine.delete(&r, &options).await.map(|(o, _)| o)
    }

    async fn read(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Value, Status> {
        let served = self.served(group, resource)?;
        match self.engine.read(&served, namespace, name).await? {
            Some(f) => Ok(f.object),
            None => Err(Status::not_found(group, resource, name)),
        }
    }
}
