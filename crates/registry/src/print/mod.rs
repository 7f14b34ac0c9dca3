//! Table cells of the built-in resources, as `kubectl get` shows them.

pub mod age;
#[rustfmt::skip]
pub mod columns;
pub mod pods;
pub mod rest;
pub mod text;
pub mod workloads;

use apiserver::resource::Column;
use serde_json::Value;

use crate::value::Tree;

/// The cells of one object.
pub type Cells = fn(&Value, i64) -> Vec<Value>;

/// The columns of resources that have none of their own.
pub static DEFAULT: &[Column] = &[
    Column {
        name: "Name",
        type_: "string",
        format: "name",
        description: "",
        priority: 0,
    },
    Column {
        name: "Created At",
        type_: "date",
        format: "",
        description: "",
        priority: 0,
    },
];

fn default_cells(o: &Value, _: i64) -> Vec<Value> {
    vec![o.name().into(), o.at("metadata.creationTimestamp").clone()]
}

fn name_and_age(o: &Value, now: i64) -> Vec<Value> {
    vec![o.name().into(), age::of(o, now)]
}

/// The printer of a resource.
pub fn cells(group: &str, resource: &str) -> Cells {
    match (group, resource) {
        ("", "pods") => pods::cells,
        ("", "serviceaccounts")
        | ("resource.k8s.io", "deviceclasses" | "resourceclaimtemplates") => name_and_age,
        ("", other) => rest::core(other).unwrap_or(default_cells),
        ("apps" | "batch" | "autoscaling" | "policy", other) => {
            workloads::cells(other).unwrap_or(default_cells)
        }
        (group, other) => rest::cells(group, other).unwrap_or(default_cells),
    }
}
