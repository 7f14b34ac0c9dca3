//! ControllerRevisions: the templates that an owner has had, by number, which rollouts go through and roll back to.
//!
//! A revision's data is a patch that puts a template back. It is kept as the text that Go prints of it, by which revisions
//! are compared, and which their names are hashes of: revisions that upstream's controllers wrote keep their names here.
//! Invariants: a name that is taken by other data is never written over; the number that is the highest is that of the
//! newest template. Upstream: `pkg/controller/history`.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use client::resource::CONTROLLER_REVISIONS;
use client::{Api, DeleteOptions, ObjectMeta, Store};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::children::{BURST, Child, Family};
use crate::context::{Failures, rewrite};
use crate::selector::LabelSelector;
use crate::views::ControllerRevision;

/// Label of a revision: the hash in its name as it was first tried.
pub const HASH: &str = "controller.kubernetes.io/hash";
/// Longest owner's name that is whole in a revision's.
const PREFIX: usize = 223;
/// Most names that one pass tries for a revision.
const TRIES: usize = 100;

impl Child for ControllerRevision {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// A number in the letters that upstream uses in generated names.
pub fn letters(number: u32) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let letter = |b: u8| LETTERS.get(usize::from(b) % LETTERS.len()).copied();
    number
        .to_string()
        .bytes()
        .map(|b| char::from(letter(b).unwrap_or(b'b')))
        .collect()
}

/// Nulls are what Go's older versions printed for what is not there.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// JSON as Go prints a map: sorted by key, with the characters that HTML gives a meaning to escaped.
pub fn text(mut value: Value) -> String {
    without_nulls(&mut value);
    // Outside strings JSON has none of these.
    let mut text = String::new();
    for c in value.to_string().chars() {
        match c {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            c => text.push(c),
        }
    }
    text
}

/// Reads a revision's data.
pub(crate) fn printed<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    Ok(match Option::<Value>::deserialize(d)? {
        Some(value) => text(value),
        None => String::new(),
    })
}

/// The data of a revision that holds a template.
pub fn data(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(t) = template.as_object_mut() {
        t.insert("$patch".into(), "replace".into());
    }
    json!({"spec": {"template": template}})
}

/// The template that a revision puts back; `None` for data that is no such patch.
pub fn template(data: &str) -> Option<Value> {
    let mut data: Value = serde_json::from_str(data).ok()?;
    let mut template = data.pointer_mut("/spec/template")?.take();
    let patch = template.as_object_mut()?.remove("$patch")?;
    (patch == "replace").then_some(template)
}

/// Hash of data, with a number that tells it from the same hash of other data.
pub fn hash(data: &str, probe: Option<i32>) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    let probe = probe.map(|p| p.to_string()).unwrap_or_default();
    for b in data.bytes().chain(probe.bytes()) {
        hash = hash.wrapping_mul(0x0100_0193) ^ u32::from(b);
    }
    letters(hash)
}

/// Name of an owner's revision.
pub fn name(owner: &str, hash: &str) -> String {
    format!("{}-{hash}", owner.get(..PREFIX).unwrap_or(owner))
}

/// By number, then by age, then by name.
pub fn order(a: &ControllerRevision, b: &ControllerRevision) -> Ordering {
    let key = |r: &ControllerRevision| (r.revision, r.metadata.creation_timestamp);
    key(a)
        .cmp(&key(b))
        .then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

/// The number after those of revisions in their order.
pub fn next_number(revisions: &[Arc<ControllerRevision>]) -> i64 {
    revisions.last().map_or(0, |r| r.revision).saturating_add(1)
}

/// Which revision an owner's template is.
#[derive(Debug, PartialEq)]
pub enum Found {
    /// The newest one.
    Newest(Arc<ControllerRevision>),
    /// An older one, which is given the next number.
    Older(Arc<ControllerRevision>),
    /// None.
    New,
}

/// Looks for the revision with some data among revisions in their order. `same` tells whether the newest means the same
/// though it is written otherwise.
pub fn find(
    revisions: &[Arc<ControllerRevision>],
    data: &str,
    same: impl FnOnce(&ControllerRevision) -> bool,
) -> Found {
    let equal = revisions.iter().rev().find(|r| r.data == data);
    match (revisions.last(), equal) {
        (Some(newest), Some(_)) if newest.data == data => Found::Newest(newest.clone()),
        (_, Some(older)) => Found::Older(older.clone()),
        (Some(newest), None) if same(newest) => Found::Newest(newest.clone()),
        _ => Found::New,
    }
}

/// The template with the defaults of its fields and without empty structs that some versions print and others do not.
fn plain(kind: &str, template: Value) -> Option<Value> {
    let message = api::schema::message("apps/v1", kind)?;
    let mut object = json!({"spec": {"template": template}});
    api::defaults::apply(&mut object, message);
    without_nulls(&mut object);
    without_empty(&mut object);
    Some(object)
}

fn without_empty(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(without_empty);
            map.retain(|k, v| {
                !matches!(k.as_str(), "metadata" | "resources")
                    || v.as_object().is_none_or(|o| !o.is_empty())
            });
        }
        Value::Array(items) => items.iter_mut().for_each(without_empty),
        _ => {}
    }
}

/// Whether data puts a template back as it is, however it is written. `kind` is the owner's.
pub fn means(data: &str, kind: &str, wanted: &Value) -> bool {
    template(data)
        .and_then(|t| plain(kind, t))
        .is_some_and(|t| Some(t) == plain(kind, wanted.clone()))
}

/// The history of an owner.
#[derive(Clone, Copy)]
pub struct History<'a> {
    /// Whose it is.
    pub family: &'a Family<'a>,
    /// With the index [`crate::context::BY_CONTROLLER`].
    pub store: &'a Store<ControllerRevision>,
}

impl<'a> History<'a> {
    fn api(&self) -> Api<'a> {
        let family = self.family;
        let client = &family.ctx.client;
        client.namespaced(&CONTROLLER_REVISIONS, &family.owner.namespace)
    }

    /// The owner's revisions that a selector matches, in their order, orphans among them that it takes over now. It keeps
    /// its other ones, unless it `releases` them.
    ///
    /// # Errors
    /// A refusal of the apiserver.
    pub async fn list(
        &self,
        selector: &LabelSelector,
        releases: bool,
    ) -> Result<Vec<Arc<ControllerRevision>>, client::Error> {
        let selected = |r: &ControllerRevision| selector.matches(&r.metadata.labels);
        let uid = &self.family.owner.uid;
        let kept = |r: &ControllerRevision| {
            !releases && r.metadata.controller().is_some_and(|o| o.uid == *uid)
        };
        let claimed = self.family.claim(
            &CONTROLLER_REVISIONS,
            self.store,
            |r| selected(r) || kept(r),
            |_| true,
        );
        let mut all = claimed.await?;
        all.retain(|r| selected(r));
        all.sort_by(|a, b| order(a, b));
        Ok(all)
    }

    /// A revision to be created, but for its name.
    pub fn revision(
        &self,
        template: &Value,
        label: (&str, &str),
        number: i64,
    ) -> ControllerRevision {
        let labels = template.pointer("/metadata/labels");
        let mut labels: BTreeMap<String, String> = labels
            .and_then(|l| serde_json::from_value(l.clone()).ok())
            .unwrap_or_default();
        labels.insert(label.0.into(), label.1.into());
        ControllerRevision {
            metadata: ObjectMeta {
                namespace: self.family.owner.namespace.clone(),
                labels,
                annotations: self.family.owner.annotations.clone(),
                ..ObjectMeta::default()
            },
            data: text(data(template)),
            revision: number,
        }
    }

    /// Creates a revision under a name.
    ///
    /// # Errors
    /// A refusal of the apiserver, that the name is taken among them.
    pub async fn create(
        &self,
        name: &str,
        new: &ControllerRevision,
    ) -> Result<ControllerRevision, client::Error> {
        let data: Value = serde_json::from_str(&new.data).unwrap_or_default();
        let body = json!({
            "apiVersion": "apps/v1", "kind": "ControllerRevision",
            "metadata": {
                "name": name, "namespace": new.metadata.namespace,
                "labels": new.metadata.labels, "annotations": new.metadata.annotations,
                "ownerReferences": [self.family.controller_reference()],
            },
            "data": data, "revision": new.revision,
        });
        self.api().create(&body).await
    }

    /// Creates a revision under the first name that is free, counting `collisions` with other data. The same data under
    /// the same name is the revision, whoever made it.
    ///
    /// # Errors
    /// A refusal of the apiserver; that a name is taken, once too many are.
    pub async fn create_named(
        &self,
        new: &ControllerRevision,
        collisions: &mut i32,
    ) -> Result<ControllerRevision, client::Error> {
        let mut left = TRIES;
        loop {
            let name = name(&self.family.owner.name, &hash(&new.data, Some(*collisions)));
            let taken = match self.create(&name, new).await {
                Err(e) if e.is_already_exists() => e,
                made => return made,
            };
            let there = self.there(&name).await?;
            if there.data == new.data {
                return Ok(there);
            }
            left -= 1;
            if left == 0 {
                return Err(taken);
            }
            *collisions = collisions.saturating_add(1);
        }
    }

    /// The revision of a name, as the apiserver has it.
    ///
    /// # Errors
    /// A refusal of the apiserver.
    pub async fn there(&self, name: &str) -> Result<ControllerRevision, client::Error> {
        self.api().get(name).await
    }

    /// Gives a revision another number.
    ///
    /// # Errors
    /// A refusal of the apiserver.
    pub async fn renumber(
        &self,
        revision: &ControllerRevision,
        number: i64,
    ) -> Result<(), client::Error> {
        let m = &revision.metadata;
        rewrite(&self.api(), &m.name, &m.uid, "", |o| {
            let number = Value::from(number);
            let o = o.as_object_mut();
            o.is_some_and(|o| o.insert("revision".into(), number.clone()) != Some(number))
        })
        .await
    }

    /// Deletes revisions.
    ///
    /// # Errors
    /// The first refusal, after each had its turn; those that are gone are none.
    pub async fn delete<'r>(
        &self,
        revisions: impl Iterator<Item = &'r Arc<ControllerRevision>>,
    ) -> Result<(), client::Error> {
        let api = self.api();
        let mut failures = Failures::default();
        for r in revisions.take(BURST) {
            let options = DeleteOptions::uid(r.metadata.uid.as_str());
            match api.delete(&r.metadata.name, &options).await {
                Err(e) if e.is_not_found() => {}
                result => failures.note(result),
            }
        }
        failures.end()
    }
}

#[cfg(test)]
mod tests {
    use client::Time;

    use super::*;

    fn revision(name: &str, number: i64, created: i64, data: &str) -> Arc<ControllerRevision> {
        let mut r = ControllerRevision {
            data: data.into(),
            revision: number,
            ..ControllerRevision::default()
        };
        r.metadata.name = name.into();
        r.metadata.creation_timestamp = Time::from_second(created).ok();
        Arc::new(r)
    }

    #[test]
    fn data_is_read_as_go_prints_it() {
        let schema = api::schema::message("apps/v1", "ControllerRevision").unwrap();
        for (data, want) in [
            (
                json!({"b": 1, "a": {"z": null, "y": [null, {"x": null}]}}),
                r#"{"a":{"y":[null,{}]},"b":1}"#,
            ),
            (
                json!({"a": "<b> & \u{2028}\u{2029}\"\n"}),
                r#"{"a":"\u003cb\u003e \u0026 \u2028\u2029\"\n"}"#,
            ),
            (json!({}), "{}"),
        ] {
            let value = json!({"metadata": {"name": "r"}, "revision": 3, "data": data});
            let bytes = wire::proto::value_to_vec(&value, schema).unwrap();
            let of_json: ControllerRevision = serde_json::from_value(value).unwrap();
            let of_proto: ControllerRevision = wire::proto::from_slice(&bytes, schema).unwrap();
            for r in [of_json, of_proto] {
                assert_eq!((r.data.as_str(), r.revision), (want, 3));
            }
        }
        let none: ControllerRevision = serde_json::from_value(json!({"metadata": {}})).unwrap();
        assert_eq!(none.data, "");
    }

    #[test]
    fn names_are_upstreams() {
        // Sums of the 32-bit FNV-1 hash, whose multiplication comes first.
        for (data, probe, sum) in [
            ("", None, 0x811c_9dc5),
            ("a", None, 0x050c_5d7e),
            ("foobar", None, 0x31f0_b262),
            ("fooba", None, 0xfdc8_0fb0),
        ] {
            assert_eq!(hash(data, probe), letters(sum), "{data}");
        }
        assert_eq!(hash("a", Some(12)), hash("a12", None));
        // As a controller manager of 1.34 named it.
        let template = json!({
            "metadata": {"annotations": {"test": "value"}, "labels": {"app": "foo"}},
            "spec": {
                "containers": [{
                    "image": "test", "imagePullPolicy": "Always", "name": "test", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                }],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
                "securityContext": {}, "terminationGracePeriodSeconds": 30,
            },
        });
        assert_eq!(hash(&text(data(&template)), Some(0)), "776999688b");
        assert_ne!(hash("a", Some(0)), hash("a", None));
        assert_eq!(name("web", "x"), "web-x");
        assert_eq!(
            name(&"a".repeat(300), "x"),
            format!("{}-x", "a".repeat(223))
        );
    }

    #[test]
    fn a_template_comes_back_out_of_its_data() {
        let wanted = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}});
        let printed = text(data(&wanted));
        assert!(printed.starts_with(r#"{"spec":{"template":{"$patch":"replace","metadata""#));
        assert_eq!(template(&printed), Some(wanted));
        for odd in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"spec":{"template":null}}"#,
            r#"{"spec":{"template":{"spec":{}}}}"#,
            r#"{"spec":{"template":{"$patch":"merge"}}}"#,
        ] {
            assert_eq!(template(odd), None, "{odd}");
        }
    }

    #[test]
    fn the_order_is_by_number_age_and_name() {
        let mut all = [
            revision("d", 2, 0, ""),
            revision("c", 1, 9, ""),
            revision("b", 1, 5, ""),
            revision("a", 1, 9, ""),
        ];
        all.sort_by(|a, b| order(a, b));
        let names: Vec<&str> = all.iter().map(|r| r.metadata.name.as_str()).collect();
        assert_eq!(names, ["b", "a", "c", "d"]);
        assert_eq!(next_number(&all), 3);
        assert_eq!(next_number(&[]), 1);
        assert_eq!(next_number(&[revision("e", i64::MAX, 0, "")]), i64::MAX);
    }

    #[test]
    fn revisions_are_found_by_what_they_hold() {
        let (a, b, c) = (
            revision("a", 1, 0, "one"),
            revision("b", 2, 0, "two"),
            revision("c", 3, 0, "one"),
        );
        let never = |_: &ControllerRevision| false;
        assert_eq!(find(&[], "one", |_| true), Found::New);
        let one = [a.clone()];
        assert_eq!(find(&one, "one", never), Found::Newest(a.clone()));
        assert_eq!(
            find(&[a.clone(), b.clone()], "one", never),
            Found::Older(a.clone())
        );
        assert_eq!(find(&[a.clone(), b.clone()], "three", never), Found::New);
        let all = [a.clone(), b.clone(), c.clone()];
        assert_eq!(find(&all, "one", never), Found::Newest(c.clone()));
        let more = [a, c.clone(), revision("d", 4, 0, "two")];
        assert_eq!(
            find(&more, "one", never),
            Found::Older(c),
            "the latest of the equal ones"
        );
        // What is only written otherwise is asked of the newest, and after those that are equal.
        assert_eq!(
            find(&all, "three", |r| r.metadata.name == "c"),
            Found::Newest(all[2].clone())
        );
        assert_eq!(find(&all, "two", |_| true), Found::Older(b));
    }

    #[test]
    fn templates_that_mean_the_same_are_one() {
        let now = json!({
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {}, "ports": [{"containerPort": 80, "protocol": "TCP"}]}]},
        });
        let mut old = now.clone();
        old["metadata"]["creationTimestamp"] = Value::Null;
        old["spec"]["containers"][0]
            .as_object_mut()
            .unwrap()
            .remove("resources");
        let port = &mut old["spec"]["containers"][0]["ports"][0];
        port.as_object_mut().unwrap().remove("protocol");
        let mut other = now.clone();
        other["spec"]["containers"][0]["image"] = "j".into();
        for (was, same) in [(&now, true), (&old, true), (&other, false)] {
            for kind in ["StatefulSet", "DaemonSet"] {
                assert_eq!(means(&text(data(was)), kind, &now), same, "{was}");
            }
        }
        assert!(!means("{}", "StatefulSet", &now));
        assert_ne!(text(data(&old)), text(data(&now)));
    }
}
