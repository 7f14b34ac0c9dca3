//! Field ownership, told anew from the schema tables: which fields an object has, and which ones a managedFields entry names.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use wire::schema::{Field, ListKind, Message, Type, flag};

/// A field by its steps, each as `fieldsV1` writes it.
type Steps = Vec<String>;

/// Fields of an object: those that hold values of their own, and those on the way to them.
#[derive(Debug, Default)]
struct Fields {
    leaves: BTreeSet<Steps>,
    all: BTreeSet<Steps>,
}

fn step(at: &[String], next: String) -> Steps {
    let mut steps = at.to_vec();
    steps.push(next);
    steps
}

impl Fields {
    fn leaf(&mut self, at: Steps) {
        self.all.insert(at.clone());
        self.leaves.insert(at);
    }

    fn message(&mut self, value: &Value, m: &'static Message, at: &[String]) {
        let Some(members) = value.as_object().filter(|o| !o.is_empty() && !m.atomic) else {
            return self.leaf(at.to_vec());
        };
        self.all.insert(at.to_vec());
        for (k, v) in members {
            let at = step(at, format!("f:{k}"));
            match m.field(k) {
                _ if v.is_null() => {}
                Some(f) => self.value(v, &f.ty, Some(f), &at),
                None => self.leaf(at),
            }
        }
    }

    fn value(&mut self, value: &Value, ty: &Type, field: Option<&Field>, at: &[String]) {
        let whole = field.is_some_and(|f| f.is(flag::ATOMIC));
        match (ty, value) {
            _ if whole => self.leaf(at.to_vec()),
            (Type::Message(m), _) => self.message(value, m, at),
            (Type::Map(t), Value::Object(members)) if !members.is_empty() => {
                self.all.insert(at.to_vec());
                for (k, v) in members {
                    self.value(v, t, None, &step(at, format!("f:{k}")));
                }
            }
            (Type::List(t) | Type::WrappedList(t), Value::Array(items)) if !items.is_empty() => {
                let f = field.expect("a list is a field");
                for item in items {
                    let key = match f.list {
                        ListKind::Set => format!("v:{item}"),
                        ListKind::Map => {
                            let keys = f.keys.iter().filter_map(|k| Some((*k, item.get(k)?)));
                            let keys: Map<String, Value> =
                                keys.map(|(k, v)| (k.to_owned(), v.clone())).collect();
                            format!("k:{}", Value::Object(keys))
                        }
                        ListKind::Atomic | ListKind::None => return self.leaf(at.to_vec()),
                    };
                    self.all.insert(at.to_vec());
                    self.value(item, t, None, &step(at, key));
                }
            }
            _ => self.leaf(at.to_vec()),
        }
    }
}

/// The fields that `fieldsV1` names.
fn named(set: &Value, at: &[String], out: &mut BTreeSet<Steps>) {
    for (k, inner) in set.as_object().into_iter().flatten() {
        if k == "." {
            continue;
        }
        let at = step(at, k.clone());
        if inner.as_object().is_some_and(Map::is_empty) {
            out.insert(at);
        } else {
            named(inner, &at, out);
        }
    }
}

/// What nobody owns: the type, the name and what the server writes.
fn unowned(at: &Steps) -> bool {
    let metadata = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "resourceVersion",
        "generation",
        "selfLink",
        "managedFields",
    ];
    match (at.first().map(String::as_str), at.get(1)) {
        (Some("f:apiVersion" | "f:kind"), _) => true,
        (Some("f:metadata"), None) => true,
        (Some("f:metadata"), Some(k)) => metadata.iter().any(|m| k.strip_prefix("f:") == Some(m)),
        _ => false,
    }
}

fn of(object: &Value) -> Fields {
    let text = |k: &str| object[k].as_str().unwrap_or_default();
    let mut out = Fields::default();
    if let Some(m) = api::schema::message(text("apiVersion"), text("kind")) {
        out.message(object, m, &[]);
    }
    out
}

/// What is wrong with the fields of the entry of whoever created an object, or applied a configuration: it has all that was
/// sent and is there, and nothing that is not there; an applied configuration's is no more than was sent, either.
pub fn wrong(sent: &Value, object: &Value, manager: &str, apply: bool) -> Option<String> {
    let operation = if apply { "Apply" } else { "Update" };
    let managed = object["metadata"]["managedFields"].as_array()?;
    let entry = managed.iter().find(|m| {
        m["manager"] == manager && m["operation"] == operation && m.get("subresource").is_none()
    })?;
    let (was_sent, there) = (of(sent), of(object));
    let mut owned = BTreeSet::new();
    named(&entry["fieldsV1"], &[], &mut owned);
    let kept = |at: &&Steps| !unowned(at) && at.first().is_none_or(|s| s != "f:status");
    let lacking: Vec<&Steps> = was_sent
        .leaves
        .intersection(&there.leaves)
        .filter(kept)
        .filter(|at| !owned.contains(*at))
        .collect();
    let invented: Vec<&Steps> = owned
        .iter()
        .filter(|at| !there.all.contains(*at) || unowned(at))
        .collect();
    let added: Vec<&Steps> = owned
        .iter()
        .filter(|at| apply && !was_sent.all.contains(*at))
        .collect();
    let fine = lacking.is_empty() && invented.is_empty() && added.is_empty();
    (!fine)
        .then(|| format!("lacking {lacking:?}, invented {invented:?}, added {added:?} in {entry}"))
}

#[test]
fn wrong_fields_are_seen() {
    let sent = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "labels": {"x": "y"}},
        "spec": {"ports": [{"port": 80, "protocol": "TCP"}], "selector": {"a": "b"}}});
    let mut object = sent.clone();
    object["spec"]["type"] = json!("ClusterIP");
    let port = r#"k:{"port":80,"protocol":"TCP"}"#;
    let right = json!({
        "f:metadata": {"f:labels": {".": {}, "f:x": {}}},
        "f:spec": {"f:ports": {".": {}, port: {".": {}, "f:port": {}, "f:protocol": {}}}, "f:selector": {}},
    });
    let mut ask = |apply: bool, change: &dyn Fn(&mut Value)| {
        let mut fields = right.clone();
        change(&mut fields);
        let operation = if apply { "Apply" } else { "Update" };
        object["metadata"]["managedFields"] =
            json!([{"manager": "m", "operation": operation, "fieldsV1": fields}]);
        wrong(&sent, &object, "m", apply).unwrap_or_default()
    };
    assert_eq!(ask(false, &|_| {}), "");
    assert_eq!(ask(true, &|_| {}), "");
    assert_eq!(ask(false, &|f| f["f:spec"]["f:type"] = json!({})), "");
    assert!(ask(true, &|f| f["f:spec"]["f:type"] = json!({})).contains("f:type"));
    assert!(ask(false, &|f| f["f:spec"]["f:nope"] = json!({})).contains("f:nope"));
    assert!(ask(false, &|f| f["f:spec"]["f:selector"] = json!({"f:a": {}})).contains("f:selector"));
    assert!(ask(false, &|f| f["f:metadata"] = json!({})).contains("f:labels"));
    assert!(ask(false, &|f| f["f:metadata"]["f:name"] = json!({})).contains("f:name"));
}
