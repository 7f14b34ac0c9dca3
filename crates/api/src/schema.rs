//! The schema tables of the built-in types, compiled from `data/types.txt`.

use wire::schema::{Field, ListKind, Message, Type};

/// The table of a kind (or any struct) of a group and version: `message("apps/v1", "Deployment")`, `message("v1", "Pod")`.
/// Types of `meta.k8s.io/v1` such as `Status`, `DeleteOptions` or `WatchEvent` are found under every group and version
/// that has no type of that name, because upstream registers them in all.
pub fn message(api_version: &str, kind: &str) -> Option<&'static Message> {
    find(api_version, kind).or_else(|| find("meta.k8s.io/v1", kind))
}

fn find(api_version: &str, kind: &str) -> Option<&'static Message> {
    let at = INDEX
        .binary_search_by(|(v, k, _)| (*v, *k).cmp(&(api_version, kind)))
        .ok()?;
    INDEX.get(at).map(|(_, _, m)| *m)
}

/// `metav1.ObjectMeta`
pub fn object_meta() -> &'static Message {
    OBJECT_META
}

/// `metav1.ListMeta`
pub fn list_meta() -> &'static Message {
    LIST_META
}

/// Every table with its group and version and its name, sorted.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str, &'static Message)> {
    INDEX.iter().copied()
}

/// What fields have unless the data says otherwise.
const F: Field = Field {
    json: "",
    go: "",
    tag: 0,
    ty: Type::Any,
    flags: 0,
    list: ListKind::None,
    keys: &[],
    merge_key: "",
    default: "",
    values: &[],
    go_type: "",
};

include!(concat!(env!("OUT_DIR"), "/types.rs"));
