//! Server-side apply: who owns which field, and merging of applied configurations.
//!
//! Source: KEP-555 and upstream's `apimachinery/pkg/util/managedfields` over structured-merge-diff. Objects are trees in
//! printed form. Absent on purpose: conversion of field sets between versions of a group (entries of other versions are
//! read as if they were of this one), and the change of managed fields when a type turns from atomic to granular.

mod set;
mod typed;

use std::collections::BTreeMap;

use api::Status;
use api::status::StatusCause;
use serde_json::{Map, Value, json};
use wire::schema::Message;

use set::{Element, Set};

/// Most entries of updates in `managedFields`; the oldest are merged into `ancient-changes`.
const MAX_UPDATERS: usize = 10;

/// Most sets within sets that all entries of `managedFields` may have together. Each takes about a kilobyte; an object of
/// 10,000 list elements has as many per manager.
const MAX_SETS: usize = 100_000;

/// Most bytes of paths that a conflict lists, or of faults that a refusal does.
const MAX_SHOWN: usize = 1024 * 1024;

/// The annotation that client-side apply leaves.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Who changes an object, and through what.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    /// The field manager; empty becomes `unknown`.
    pub manager: &'a str,
    /// The version of the request's body: `apps/v1`.
    pub api_version: &'a str,
    /// The kind of the resource: `Deployment`.
    pub kind: &'a str,
    /// The subresource written through; empty for the resource itself.
    pub subresource: &'a str,
    /// RFC 3339 in seconds.
    pub now: &'a str,
    /// Paths of fields that this endpoint resets, which nobody owns through it: `[["status"]]` for a resource with a
    /// status subresource.
    pub reset: &'a [&'a [&'a str]],
}

/// Why an apply is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The configuration is not for this endpoint (400).
    #[error("{0}")]
    BadRequest(String),
    /// The configuration does not fit the schema (500, as upstream).
    #[error("{0}")]
    Invalid(String),
    /// Others own fields that would change (409).
    #[error("{message}")]
    Conflict {
        /// The whole message.
        message: String,
        /// One cause per field: message and path.
        causes: Vec<(String, String)>,
    },
}

impl From<ApplyError> for Status {
    fn from(e: ApplyError) -> Status {
        match e {
            ApplyError::BadRequest(m) => Status::bad_request(m),
            ApplyError::Invalid(m) => Status::failure(500, "", m),
            ApplyError::Conflict { message, causes } => {
                let mut status = Status::failure(409, "Conflict", message);
                let details = status.details.get_or_insert_default();
                for (message, field) in causes {
                    details.causes.push(StatusCause {
                        reason: "FieldManagerConflict".to_owned(),
                        message,
                        field,
                    });
                }
                status
            }
        }
    }
}

/// Which entry of `managedFields`. The order is that in which conflicts are listed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    manager: String,
    operation: &'static str,
    /// Empty for `Apply`, which is one entry whatever the version.
    api_version: String,
    subresource: String,
}

#[derive(Clone, Debug)]
struct Entry {
    set: Set,
    api_version: String,
    time: Option<String>,
}

type Managed = BTreeMap<Id, Entry>;

/// `None` where `managedFields` cannot be read.
fn decode(object: &Value) -> Option<Managed> {
    let mut out = Managed::new();
    let mut room = MAX_SETS;
    let Some(list) = object.pointer("/metadata/managedFields") else {
        return Some(out);
    };
    for entry in list.as_array()? {
        let text = |key: &str| {
            entry
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let operation = match text("operation").as_str() {
            "Apply" => "Apply",
            "Update" => "Update",
            _ => return None,
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() || text("fieldsType") != "FieldsV1" {
            return None;
        }
        let set = match entry.get("fieldsV1").filter(|v| !v.is_null()) {
            Some(fields) => Set::from_json(fields, &mut room)?,
            None => Set::default(),
        };
        let id = Id {
            manager: text("manager"),
            operation,
            api_version: if operation == "Apply" {
                String::new()
            } else {
                api_version.clone()
            },
            subresource: text("subresource"),
        };
        let time = Some(text("time")).filter(|t| !t.is_empty());
        out.insert(
            id,
            Entry {
                set,
                api_version,
                time,
            },
        );
    }
    Some(out)
}

fn encode(managed: &Managed) -> Option<Value> {
    if managed.is_empty() {
        return None;
    }
    let mut all: Vec<(&Id, &Entry)> = managed.iter().collect();
    all.sort_by(|(a, x), (b, y)| {
        (
            a.operation,
            &x.time,
            &a.manager,
            &x.api_version,
            &a.subresource,
        )
            .cmp(&(
                b.operation,
                &y.time,
                &b.manager,
                &y.api_version,
                &b.subresource,
            ))
    });
    let mut out = Vec::with_capacity(all.len());
    for (id, entry) in all {
        let mut map = Map::new();
        if !id.manager.is_empty() {
            map.insert("manager".to_owned(), json!(id.manager));
        }
        map.insert("operation".to_owned(), json!(id.operation));
        map.insert("apiVersion".to_owned(), json!(entry.api_version));
        if let Some(time) = &entry.time {
            map.insert("time".to_owned(), json!(time));
        }
        map.insert("fieldsType".to_owned(), json!("FieldsV1"));
        map.insert("fieldsV1".to_owned(), entry.set.to_json());
        if !id.subresource.is_empty() {
            map.insert("subresource".to_owned(), json!(id.subresource));
        }
        out.push(Value::Object(map));
    }
    Some(Value::Array(out))
}

fn store(object: &mut Value, managed: &Managed) {
    let Some(meta) = api::meta::metadata_mut(object) else {
        return;
    };
    match encode(managed) {
        Some(list) => meta.insert("managedFields".to_owned(), list),
        None => meta.remove("managedFields"),
    };
}

fn clear(object: &mut Value) {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
}

impl Actor<'_> {
    fn id(&self, operation: &'static str) -> Id {
        Id {
            manager: if self.manager.is_empty() {
                "unknown".to_owned()
            } else {
                self.manager.to_owned()
            },
            operation,
            api_version: if operation == "Apply" {
                String::new()
            } else {
                self.api_version.to_owned()
            },
            subresource: self.subresource.to_owned(),
        }
    }

    fn filter(&self, set: &mut Set) {
        for path in self.reset {
            set.remove_below(path);
        }
    }
}

/// What nobody owns: identity and bookkeeping.
fn strip(set: &mut Set) {
    const META: [&str; 9] = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    let field = |name: &str| Element::Field(name.to_owned());
    for name in ["apiVersion", "kind", "metadata"] {
        set.members.remove(&field(name));
    }
    if let Some(meta) = set.children.get_mut(&field("metadata")) {
        for name in META {
            meta.members.remove(&field(name));
        }
        if meta.is_empty() {
            set.children.remove(&field("metadata"));
        }
    }
}

/// Records who owns what after a create, update or patch other than apply: sets `metadata.managedFields` of `new`. `live`
/// is the stored object, `None` on create. An object that was never tracked stays untracked.
pub fn update(live: Option<&Value>, new: &mut Value, msg: &'static Message, actor: &Actor<'_>) {
    let from_live = || live.and_then(decode).unwrap_or_default();
    let sent = new
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array);
    let reset = sent.is_some_and(|l| match l.as_slice() {
        [] => true,
        [one] => one
            .as_object()
            .is_some_and(|m| m.values().all(|v| v.is_null() || v.as_str() == Some(""))),
        _ => false,
    });
    let managed = if !actor.subresource.is_empty() {
        from_live()
    } else if reset {
        Managed::new()
    } else {
        decode(new)
            .filter(|m| !m.is_empty())
            .unwrap_or_else(from_live)
    };
    clear(new);
    if managed.is_empty() && live.is_some() {
        return;
    }
    let blank = blank(msg);
    let managed = track(live.unwrap_or(&blank), new, managed, msg, actor);
    store(new, &managed);
}

/// A new object of the type, with nothing set.
fn blank(msg: &'static Message) -> Value {
    let mut map = Map::new();
    if !msg.open {
        wire::json::fill(&mut map, msg);
    }
    Value::Object(map)
}

fn track(
    live: &Value,
    new: &Value,
    mut managed: Managed,
    msg: &'static Message,
    actor: &Actor<'_>,
) -> Managed {
    let mut filtered = typed::compare(msg, live, new);
    for path in actor.reset {
        filtered.remove_below(path);
    }
    let changed = filtered.modified.union(filtered.added);
    managed.retain(|_, e| {
        e.set = std::mem::take(&mut e.set)
            .difference(&changed)
            .difference(&filtered.removed);
        !e.set.is_empty()
    });
    let mut own = changed;
    strip(&mut own);
    if !own.is_empty() {
        let id = actor.id("Update");
        let set = match managed.remove(&id) {
            Some(before) => own.union(before.set),
            None => own,
        };
        let entry = Entry {
            set,
            api_version: actor.api_version.to_owned(),
            time: Some(actor.now.to_owned()),
        };
        managed.insert(id, entry);
    }
    cap(&mut managed);
    managed
}

/// Merges the oldest entries of updates until few enough are left.
fn cap(managed: &mut Managed) {
    let mut updaters: Vec<(Option<String>, Id)> = managed
        .iter()
        .filter(|(id, _)| id.operation == "Update")
        .map(|(id, e)| (e.time.clone(), id.clone()))
        .collect();
    if updaters.len() <= MAX_UPDATERS {
        return;
    }
    updaters.sort();
    let mut count = updaters.len();
    let mut first: BTreeMap<String, Id> = BTreeMap::new();
    for (_, id) in updaters {
        if count <= MAX_UPDATERS {
            break;
        }
        let version = id.api_version.clone();
        let Some(earlier) = first.get(&version).cloned() else {
            first.insert(version, id);
            continue;
        };
        let bucket = Id {
            manager: "ancient-changes".to_owned(),
            operation: "Update",
            api_version: version,
            subresource: String::new(),
        };
        let base = match managed.remove(&bucket) {
            Some(b) => b,
            None => match managed.remove(&earlier) {
                Some(b) => b,
                None => continue,
            },
        };
        let Some(entry) = managed.remove(&id) else {
            continue;
        };
        let merged = Entry {
            set: base.set.union(entry.set),
            api_version: base.api_version,
            time: entry.time.or(base.time),
        };
        managed.insert(bucket, merged);
        count -= 1;
    }
}

/// Merges an applied configuration into the live object (`None` on create) and records its owner. The result has
/// `metadata.managedFields`; it still needs the checks of any object (`wire::json::normalize`), defaults and validation.
///
/// # Errors
/// See [`ApplyError`]. With `force`, there are no conflicts.
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    msg: &'static Message,
    actor: &Actor<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    check(config, msg, actor)?;
    let empty = blank(msg);
    let mut managed = match live {
        Some(object) => decode(object).ok_or_else(|| {
            ApplyError::Invalid("failed to decode managed fields: error decoding set".to_owned())
        })?,
        None => Managed::new(),
    };
    let mut live = live.cloned().unwrap_or_else(|| empty.clone());
    clear(&mut live);
    if let Value::Object(map) = &mut live {
        // A blank object has no type yet.
        for key in ["apiVersion", "kind"] {
            if let Some(v) = config.get(key) {
                map.insert(key.to_owned(), v.clone());
            }
        }
    }
    if managed.is_empty()
        && live
            .get("metadata")
            .and_then(|m| m.get("uid"))
            .is_some_and(|u| u.as_str() != Some(""))
    {
        let before = Actor {
            manager: "before-first-apply",
            ..*actor
        };
        managed = track(&empty, &live, managed, msg, &before);
    }
    match merge_config(&live, config, managed.clone(), msg, actor, force) {
        Err(conflicts) if actor.manager == "kubectl" => {
            // Fields that client-side apply set, and that are still as it set them, may be taken over.
            let Some(allowed) = last_applied(&live, msg, actor) else {
                return Err(conflict_error(&conflicts));
            };
            let rest: Vec<Conflict> = conflicts
                .into_iter()
                .map(|c| Conflict {
                    fields: c.fields.difference(&allowed),
                    ..c
                })
                .filter(|c| !c.fields.is_empty())
                .collect();
            if rest.is_empty() {
                merge_config(&live, config, managed, msg, actor, true)
                    .map_err(|c| conflict_error(&c))
            } else {
                Err(conflict_error(&rest))
            }
        }
        result => result.map_err(|c| conflict_error(&c)),
    }
}

fn check(config: &Value, msg: &'static Message, actor: &Actor<'_>) -> Result<(), ApplyError> {
    let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = api::meta::split_api_version(text("apiVersion"));
    let gvk = format!("{group}/{version}, Kind={}", text("kind"));
    if text("apiVersion") != actor.api_version || text("kind") != actor.kind {
        return Err(ApplyError::BadRequest(format!(
            "invalid object type: {gvk}"
        )));
    }
    if config
        .pointer("/metadata/managedFields")
        .is_some_and(|v| !v.is_null())
    {
        return Err(ApplyError::BadRequest(
            "metadata.managedFields must be nil".to_owned(),
        ));
    }
    let errors = typed::validate(msg, config, MAX_SHOWN);
    let what = match errors.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    Err(ApplyError::Invalid(format!(
        "failed to create typed patch object ({}/{}; {gvk}): {what}",
        api::meta::namespace(config),
        api::meta::name(config)
    )))
}

/// The fields of one other manager that would change.
struct Conflict {
    id: Id,
    api_version: String,
    fields: Set,
}

fn merge_config(
    live: &Value,
    config: &Value,
    mut managed: Managed,
    msg: &'static Message,
    actor: &Actor<'_>,
    force: bool,
) -> Result<Value, Vec<Conflict>> {
    let id = actor.id("Apply");
    let merged = typed::merge(msg, live, config);
    let mut set = typed::field_set(msg, config);
    actor.filter(&mut set);
    let last = managed.remove(&id);
    let time = last.as_ref().and_then(|e| e.time.clone());
    let entry = Entry {
        set,
        api_version: actor.api_version.to_owned(),
        time,
    };
    managed.insert(id.clone(), entry);
    let mut new = match last {
        Some(last) if !last.set.is_empty() => prune(&merged, &managed, &last.set, msg),
        _ => merged,
    };

    let mut comparison = typed::compare(msg, live, &new);
    for path in actor.reset {
        comparison.remove_below(path);
    }
    let typed::Comparison {
        added,
        removed,
        modified,
    } = comparison;
    let changed = modified.union(added);
    let mut conflicts = Vec::new();
    for (other, entry) in managed.iter().filter(|(other, _)| **other != id) {
        let fields = entry.set.intersection(&changed);
        if !fields.is_empty() {
            conflicts.push(Conflict {
                id: other.clone(),
                api_version: entry.api_version.clone(),
                fields,
            });
        }
    }
    if !conflicts.is_empty() && !force {
        return Err(conflicts);
    }
    for (other, entry) in &mut managed {
        if *other != id {
            entry.set = std::mem::take(&mut entry.set)
                .difference(&changed)
                .difference(&removed);
        }
    }
    if let Some(own) = managed.get_mut(&id) {
        strip(&mut own.set);
        // Only what changes the object moves the time; who changed nothing yet has none.
        if *live != new {
            own.time = Some(actor.now.to_owned());
        }
    }
    managed.retain(|_, e| !e.set.is_empty());
    if actor.manager == "kubectl"
        && api::meta::annotation(&new, LAST_APPLIED).is_some_and(|a| !a.is_empty())
    {
        sync_last_applied(&mut new, config);
    }
    store(&mut new, &managed);
    Ok(new)
}

/// A field that another kind shows in front of an object, such as `spec.replicas` of scale.
pub struct Window<'a> {
    /// Where it is, in both.
    pub path: &'a [&'a str],
    /// The version of the object.
    pub api_version: &'a str,
    /// The version of what stands in front of it.
    pub shown: &'a str,
}

impl Window<'_> {
    fn elements(&self) -> Vec<Element> {
        self.path
            .iter()
            .map(|p| Element::Field((*p).to_owned()))
            .collect()
    }

    /// Gives `view` the owners that the field has in `object`.
    pub fn show(&self, object: &Value, view: &mut Value) {
        let path = self.elements();
        let mut set = Set::default();
        set.insert(&path);
        let shown: Managed = decode(object)
            .unwrap_or_default()
            .into_iter()
            .filter(|(_, e)| e.api_version == self.api_version && e.set.has(&path))
            .map(|(mut id, e)| {
                if !id.api_version.is_empty() {
                    id.api_version = self.shown.to_owned();
                }
                let entry = Entry {
                    set: set.clone(),
                    api_version: self.shown.to_owned(),
                    time: e.time,
                };
                (id, entry)
            })
            .collect();
        store(view, &shown);
    }

    /// Gives `object` the owners that the field has in `view`. As upstream, who came in front of it has no time.
    pub fn write(&self, view: &Value, object: &mut Value) {
        let path = self.elements();
        let mut set = Set::default();
        set.insert(&path);
        let mut shown: Managed = decode(view)
            .unwrap_or_default()
            .into_iter()
            .filter(|(_, e)| e.set.has(&path))
            .map(|(mut id, mut e)| {
                if !id.api_version.is_empty() {
                    id.api_version = self.api_version.to_owned();
                }
                e.api_version = self.api_version.to_owned();
                e.time = None;
                (id, e)
            })
            .collect();
        let mut managed = decode(object).unwrap_or_default();
        managed.retain(|id, e| {
            let owns = e.api_version == self.api_version && e.set.has(&path);
            if owns && shown.remove(id).is_none() {
                e.set = std::mem::take(&mut e.set).difference(&set);
            }
            !e.set.is_empty()
        });
        managed.extend(shown);
        store(object, &managed);
    }
}

/// Removes what this manager applied before, does not apply now, and no one else owns.
fn prune(merged: &Value, managed: &Managed, last: &Set, msg: &'static Message) -> Value {
    let named = |s: &Set| typed::with_named(msg, s);
    let last = named(last);
    let pruned = typed::remove(msg, merged, &last);
    let owned = managed
        .values()
        .fold(Set::default(), |all, e| all.union(e.set.clone()));
    let merged_set = named(&typed::field_set(msg, merged));
    // What others own comes back.
    let keep = named(&typed::field_set(msg, &pruned)).union(named(&owned));
    let pruned = typed::remove(msg, merged, &merged_set.clone().difference(&keep));
    // And what this manager did not own before.
    let pruned_set = named(&typed::field_set(msg, &pruned));
    typed::remove(
        msg,
        merged,
        &merged_set.difference(&pruned_set).intersection(&last),
    )
}

/// The fields that client-side apply set and that nobody changed since.
fn last_applied(live: &Value, msg: &'static Message, actor: &Actor<'_>) -> Option<Set> {
    let text = api::meta::annotation(live, LAST_APPLIED).filter(|t| !t.is_empty())?;
    let applied = wire::json::parse(text.as_bytes()).ok()?;
    if applied.get("apiVersion").and_then(Value::as_str) != Some(actor.api_version) {
        return None;
    }
    let comparison = typed::compare(msg, &applied, live);
    Some(
        typed::field_set(msg, &applied)
            .difference(&comparison.modified)
            .difference(&comparison.added)
            .difference(&comparison.removed),
    )
}

fn sync_last_applied(new: &mut Value, config: &Value) {
    let mut shown = config.clone();
    if let Some(annotations) = shown
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove(LAST_APPLIED);
    }
    let mut text = Vec::new();
    wire::json::encode_any(&shown, &mut text);
    text.push(b'\n');
    let text = String::from_utf8_lossy(&text).into_owned();
    if let Some(annotations) = new
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.insert(LAST_APPLIED.to_owned(), Value::String(text));
    }
}

fn show_manager(c: &Conflict) -> String {
    let mut out = format!("{:?}", c.id.manager);
    if !c.id.subresource.is_empty() {
        out.push_str(&format!(" with subresource {:?}", c.id.subresource));
    }
    if c.id.operation == "Update" {
        out.push_str(&format!(" using {}", c.api_version));
    }
    out
}

fn conflict_error(conflicts: &[Conflict]) -> ApplyError {
    let mut room = MAX_SHOWN;
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for c in conflicts {
        let with = show_manager(c);
        lines.push(format!("conflicts with {with}:"));
        for path in c.fields.shown(&mut room) {
            lines.push(format!("- {path}"));
            causes.push((format!("conflict with {with}"), path));
        }
    }
    let message = match causes.as_slice() {
        [(with, path)] => format!("Apply failed with 1 conflict: {with}: {path}"),
        many => format!(
            "Apply failed with {} conflicts: {}",
            many.len(),
            lines.join("\n")
        ),
    };
    ApplyError::Conflict { message, causes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(manager: &str) -> Actor<'_> {
        Actor {
            manager,
            api_version: "v1",
            kind: "ConfigMap",
            subresource: "",
            now: "2026-01-01T00:00:00Z",
            reset: &[],
        }
    }

    fn map(data: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ap", "namespace": "n"}, "data": data})
    }

    fn msg() -> &'static Message {
        api::schema::message("v1", "ConfigMap").unwrap()
    }

    fn owners(v: &Value) -> Vec<(String, String, Value)> {
        v.pointer("/metadata/managedFields")
            .and_then(Value::as_array)
            .map(|l| {
                l.iter()
                    .map(|e| {
                        (
                            e["manager"].as_str().unwrap().to_owned(),
                            e["operation"].as_str().unwrap().to_owned(),
                            e["fieldsV1"].clone(),
                        )
                    })
                    .collect()
            })
            .unwrap_or_default()
    }

    #[test]
    fn an_update_owns_what_it_sets() {
        let mut new = map(json!({"a": "1"}));
        new["metadata"]["labels"] = json!({"x": "y"});
        update(None, &mut new, msg(), &actor(""));
        assert_eq!(
            owners(&new),
            [(
                "unknown".into(),
                "Update".into(),
                json!({"f:data": {".": {}, "f:a": {}}, "f:metadata": {"f:labels": {".": {}, "f:x": {}}}})
            )]
        );
        // Another manager takes one field and removes nothing.
        let live = new.clone();
        new["data"] = json!({"a": "2", "b": "3"});
        update(Some(&live), &mut new, msg(), &actor("m2"));
        let got = owners(&new);
        assert_eq!(got.len(), 2);
        assert!(got.contains(&(
            "m2".into(),
            "Update".into(),
            json!({"f:data": {"f:a": {}, "f:b": {}}})
        )));
        assert!(
            got.iter()
                .any(|(m, _, f)| m == "unknown" && f["f:data"] == json!({}))
        );
    }

    #[test]
    fn what_was_there_before_the_first_apply_is_owned_through_the_same_door() {
        let mut live = map(json!({"a": "1"}));
        live["metadata"]["uid"] = json!("u");
        live["metadata"]["labels"] = json!({"x": "y"});
        live["metadata"]["managedFields"] = json!([]);
        let who = Actor {
            subresource: "status",
            ..actor("m1")
        };
        let new = apply(Some(&live), &map(json!({"b": "2"})), msg(), &who, false).unwrap();
        let all: Vec<Value> = new["metadata"]["managedFields"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| {
                json!([
                    e["manager"],
                    e["operation"],
                    e["subresource"],
                    e["fieldsV1"]
                ])
            })
            .collect();
        assert_eq!(
            all,
            [
                json!(["m1", "Apply", "status", {"f:data": {"f:b": {}}}]),
                json!(["before-first-apply", "Update", "status",
                    {"f:data": {".": {}, "f:a": {}}, "f:metadata": {"f:labels": {".": {}, "f:x": {}}}}]),
            ]
        );
    }

    /// What scale shows of a Deployment's owners, and gives back.
    #[test]
    fn a_window_shows_the_owners_of_its_field_and_gives_them_back() {
        let window = Window {
            path: &["spec", "replicas"],
            api_version: "apps/v1",
            shown: "autoscaling/v1",
        };
        let entry = |manager: &str,
                     operation: &str,
                     version: &str,
                     time: Option<&str>,
                     fields: Value| {
            let mut e = json!({"manager": manager, "operation": operation, "apiVersion": version,
                "fieldsType": "FieldsV1", "fieldsV1": fields});
            if let Some(t) = time {
                e["time"] = json!(t);
            }
            e
        };
        let (t, replicas) = (
            "2026-01-01T00:00:00Z",
            json!({"f:spec": {"f:replicas": {}}}),
        );
        let object = json!({"metadata": {"managedFields": [
            entry("a", "Apply", "apps/v1", Some(t), json!({"f:spec": {"f:paused": {}, "f:replicas": {}}})),
            entry("b", "Update", "apps/v1", Some(t), json!({"f:spec": {"f:paused": {}}})),
            entry("c", "Update", "apps/v1", Some(t), replicas.clone()),
            entry("d", "Update", "apps/v1beta1", Some(t), replicas.clone()),
        ]}});
        let mut view = json!({"metadata": {}});
        window.show(&object, &mut view);
        assert_eq!(
            view["metadata"]["managedFields"],
            json!([
                entry("a", "Apply", "autoscaling/v1", Some(t), replicas.clone()),
                entry("c", "Update", "autoscaling/v1", Some(t), replicas.clone()),
            ])
        );
        // Another takes the field; who had nothing else is gone, who had more keeps that.
        view["metadata"]["managedFields"] = json!([entry(
            "new",
            "Update",
            "autoscaling/v1",
            Some(t),
            replicas.clone()
        )]);
        let mut written = object.clone();
        window.write(&view, &mut written);
        assert_eq!(
            written["metadata"]["managedFields"],
            json!([
                entry(
                    "a",
                    "Apply",
                    "apps/v1",
                    Some(t),
                    json!({"f:spec": {"f:paused": {}}})
                ),
                entry("new", "Update", "apps/v1", None, replicas.clone()),
                entry(
                    "b",
                    "Update",
                    "apps/v1",
                    Some(t),
                    json!({"f:spec": {"f:paused": {}}})
                ),
                entry("d", "Update", "apps/v1beta1", Some(t), replicas),
            ])
        );
    }

    #[test]
    fn apply_conflict_and_force() {
        let first = apply(
            None,
            &map(json!({"a": "1", "b": "2"})),
            msg(),
            &actor("m1"),
            false,
        )
        .unwrap();
        assert_eq!(
            owners(&first),
            [(
                "m1".into(),
                "Apply".into(),
                json!({"f:data": {"f:a": {}, "f:b": {}}})
            )]
        );
        let e = apply(
            Some(&first),
            &map(json!({"a": "9"})),
            msg(),
            &actor("m2"),
            false,
        )
        .unwrap_err();
        assert_eq!(
            e,
            ApplyError::Conflict {
                message: "Apply failed with 1 conflict: conflict with \"m1\": .data.a".into(),
                causes: vec![("conflict with \"m1\"".into(), ".data.a".into())],
            }
        );
        let forced = apply(
            Some(&first),
            &map(json!({"a": "9"})),
            msg(),
            &actor("m2"),
            true,
        )
        .unwrap();
        assert_eq!(forced["data"], json!({"a": "9", "b": "2"}));
        assert_eq!(
            owners(&forced),
            [
                ("m1".into(), "Apply".into(), json!({"f:data": {"f:b": {}}})),
                ("m2".into(), "Apply".into(), json!({"f:data": {"f:a": {}}})),
            ]
        );
        // m1 stops applying b: nobody else owns it, so it goes; a stays.
        let pruned = apply(Some(&forced), &map(json!({})), msg(), &actor("m1"), false).unwrap();
        assert_eq!(pruned["data"], json!({"a": "9"}));
        // The same value twice is shared, not a conflict, and survives one of the two leaving.
        let shared = apply(
            Some(&first),
            &map(json!({"a": "1"})),
            msg(),
            &actor("m2"),
            false,
        )
        .unwrap();
        let left = apply(
            Some(&shared),
            &map(json!({"b": "2"})),
            msg(),
            &actor("m1"),
            false,
        )
        .unwrap();
        assert_eq!(left["data"], json!({"a": "1", "b": "2"}));
    }

    #[test]
    fn several_conflicts() {
        let first = apply(
            None,
            &map(json!({"a": "1", "b": "2"})),
            msg(),
            &actor("m1"),
            false,
        )
        .unwrap();
        let e = apply(
            Some(&first),
            &map(json!({"a": "8", "b": "9"})),
            msg(),
            &actor("m2"),
            false,
        )
        .unwrap_err();
        assert_eq!(
            e.to_string(),
            "Apply failed with 2 conflicts: conflicts with \"m1\":\n- .data.a\n- .data.b"
        );
        let mut updated = map(json!({"a": "1"}));
        update(None, &mut updated, msg(), &actor("ed"));
        let e = apply(
            Some(&updated),
            &map(json!({"a": "8"})),
            msg(),
            &actor("m2"),
            false,
        )
        .unwrap_err();
        assert_eq!(
            e.to_string(),
            "Apply failed with 1 conflict: conflict with \"ed\" using v1: .data.a"
        );
    }

    #[test]
    fn field_sets_have_a_limit() {
        let with = |sets: usize| {
            let fields: Map<String, Value> = (0..sets)
                .map(|i| (format!("f:{i}"), json!({"f:a": {}})))
                .collect();
            let mut object = map(json!({}));
            object["metadata"]["managedFields"] = json!([{"manager": "m", "operation": "Apply", "apiVersion": "v1",
                "fieldsType": "FieldsV1", "fieldsV1": fields}]);
            object
        };
        assert!(decode(&with(MAX_SETS - 1)).is_some());
        assert!(decode(&with(MAX_SETS)).is_none());
    }

    /// Nothing that answers more than was asked: each fault is told with the keys above it, however long these are.
    #[test]
    fn a_refusal_tells_as_much_as_fits_into_an_answer() {
        let ports: Vec<Value> = (0..10_000)
            .map(|i| json!({"containerPort": i, "hostIP": 1}))
            .collect();
        let name = "x".repeat(10_000);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"name": name, "ports": ports}]}});
        let actor = Actor {
            kind: "Pod",
            ..actor("m")
        };
        let e = apply(
            None,
            &pod,
            api::schema::message("v1", "Pod").unwrap(),
            &actor,
            false,
        );
        let Err(ApplyError::Invalid(message)) = e else {
            panic!("{e:?}");
        };
        assert!(message.contains("expected string"));
        assert!(message.len() < 2 * MAX_SHOWN, "{}", message.len());
    }

    #[test]
    fn a_conflict_lists_as_much_as_fits_into_an_answer() {
        let data: Map<String, Value> = (0..30_000)
            .map(|i| (format!("{i:0100}"), json!("1")))
            .collect();
        let first = apply(
            None,
            &map(Value::Object(data.clone())),
            msg(),
            &actor("m1"),
            false,
        )
        .unwrap();
        let other: Map<String, Value> = data.into_iter().map(|(k, _)| (k, json!("2"))).collect();
        let e = apply(
            Some(&first),
            &map(Value::Object(other)),
            msg(),
            &actor("m2"),
            false,
        );
        let Err(ApplyError::Conflict { message, causes }) = e else {
            panic!("{e:?}");
        };
        assert!(message.len() < 2 * MAX_SHOWN, "{}", message.len());
        assert!((9_000..11_000).contains(&causes.len()), "{}", causes.len());
    }

    #[test]
    fn lists_merge_by_keys() {
        let pod = |containers: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}});
        let msg = api::schema::message("v1", "Pod").unwrap();
        let actor = |m: &'static str| Actor {
            kind: "Pod",
            reset: &[&["status"]],
            ..actor(m)
        };
        let first = apply(
            None,
            &pod(json!([{"name": "a", "image": "1", "ports": [{"containerPort": 80}]}, {"name": "b", "image": "2"}])),
            msg,
            &actor("m1"),
            false,
        )
        .unwrap();
        assert_eq!(
            owners(&first)[0].2,
            json!({"f:spec": {"f:containers": {
                "k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}},
                "k:{\"name\":\"b\"}": {".": {}, "f:image": {}, "f:name": {}},
            }}})
        );
        let second = apply(
            Some(&first),
            &pod(json!([{"name": "b", "tty": true}, {"name": "c"}])),
            msg,
            &actor("m2"),
            false,
        )
        .unwrap();
        let names: Vec<&str> = second["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(
            second["spec"]["containers"][1],
            json!({"name": "b", "image": "2", "tty": true})
        );
        // m1 drops b, which m2 still has; m1's image goes.
        let third = apply(
            Some(&second),
            &pod(json!([{"name": "a"}])),
            msg,
            &actor("m1"),
            false,
        )
        .unwrap();
        assert_eq!(
            third["spec"]["containers"][1],
            json!({"name": "b", "tty": true})
        );
        assert_eq!(third["spec"]["containers"][0], json!({"name": "a"}));
    }

    #[test]
    fn configurations_are_checked() {
        for (config, error) in [
            (
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}}),
                "invalid object type: /v1, Kind=Secret",
            ),
            (
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "managedFields": []}}),
                "metadata.managedFields must be nil",
            ),
            (
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "n"}, "spec": 1}),
                "failed to create typed patch object (n/x; /v1, Kind=ConfigMap): .spec: field not declared in schema",
            ),
            (
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "n"}, "data": {"a": 1}}),
                "failed to create typed patch object (n/x; /v1, Kind=ConfigMap): .data.a: expected string, got &value.valueUnstructured{Value:1}",
            ),
        ] {
            assert_eq!(
                apply(None, &config, msg(), &actor("m"), false)
                    .unwrap_err()
                    .to_string(),
                error
            );
        }
    }

    #[test]
    fn updates_are_capped() {
        let mut object = map(json!({"k": "0"}));
        update(None, &mut object, msg(), &actor("m-first"));
        for i in 0..12 {
            let live = object.clone();
            object["data"][format!("x{i}")] = json!("1");
            let name = format!("m{i:02}");
            let now = format!("2026-01-01T00:00:{:02}Z", i + 1);
            update(
                Some(&live),
                &mut object,
                msg(),
                &Actor {
                    now: &now,
                    ..actor(&name)
                },
            );
        }
        let got = owners(&object);
        assert_eq!(got.len(), 10);
        assert!(got.iter().any(|(m, _, _)| m == "ancient-changes"));
        // Every field still has an owner.
        for key in ["f:k", "f:x0", "f:x11"] {
            assert!(
                got.iter().any(|(_, _, f)| f["f:data"].get(key).is_some()),
                "{key}"
            );
        }
    }

    #[test]
    fn an_untracked_object_gets_a_first_owner_on_apply() {
        let mut live = map(json!({"a": "1"}));
        live["metadata"]["uid"] = json!("u");
        let e = apply(
            Some(&live),
            &map(json!({"a": "2"})),
            msg(),
            &actor("m1"),
            false,
        )
        .unwrap_err();
        assert_eq!(
            e.to_string(),
            "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a"
        );
    }

    #[test]
    fn client_side_apply_is_taken_over() {
        let mut live = map(json!({"a": "1", "b": "1"}));
        live["metadata"]["uid"] = json!("u");
        live["metadata"]["annotations"] = json!({LAST_APPLIED: map(json!({"a": "1"})).to_string()});
        let live_managed = {
            let mut v = live.clone();
            update(None, &mut v, msg(), &actor("kubectl-client-side-apply"));
            v
        };
        let got = apply(
            Some(&live_managed),
            &map(json!({"a": "2"})),
            msg(),
            &actor("kubectl"),
            false,
        )
        .unwrap();
        assert_eq!(got["data"]["a"], "2");
        assert!(
            api::meta::annotation(&got, LAST_APPLIED)
                .unwrap()
                .contains("\"a\":\"2\"")
        );
        let e = apply(
            Some(&live_managed),
            &map(json!({"b": "2"})),
            msg(),
            &actor("kubectl"),
            false,
        )
        .unwrap_err();
        assert!(e.to_string().ends_with(".data.b"), "{e}");
    }
}
