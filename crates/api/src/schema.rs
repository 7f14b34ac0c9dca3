//! The schema tables of the built-in types.

use wire::schema::Message;

/// The table of a kind (or any struct) of a group and version: `message("apps/v1", "Deployment")`, `message("v1", "Pod")`.
/// Types of `meta.k8s.io/v1` such as `Status` or `DeleteOptions` are found under `v1` and `meta.k8s.io/v1`.
pub fn message(api_version: &str, kind: &str) -> Option<&'static Message> {
    let _ = (api_version, kind);
    None
}

/// `metav1.ObjectMeta`
pub fn object_meta() -> &'static Message {
    &EMPTY
}

/// `metav1.ListMeta`
pub fn list_meta() -> &'static Message {
    &EMPTY
}

static EMPTY: Message = Message {
    name: "",
    package: "",
    fields: &[],
    names: &[],
    tags: &[],
    open: false,
    atomic: false,
    type_meta: false,
};
