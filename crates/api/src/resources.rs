//! The built-in resources as discovery lists them.

/// One built-in resource in one version.
#[derive(Debug)]
pub struct Resource {
    /// Empty for the core group.
    pub group: &'static str,
    /// `v1`
    pub version: &'static str,
    /// `pods`
    pub resource: &'static str,
    /// `pod`
    pub singular: &'static str,
    /// `Pod`
    pub kind: &'static str,
    /// Group and version of `kind` where they differ from the resource's own; otherwise the same as above.
    pub kind_group: &'static str,
    /// See `kind_group`.
    pub kind_version: &'static str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// In discovery's order.
    pub verbs: &'static [&'static str],
    /// `po`
    pub short_names: &'static [&'static str],
    /// `all`
    pub categories: &'static [&'static str],
    /// In discovery's order.
    pub subresources: &'static [Subresource],
}

/// One subresource of a built-in resource.
#[derive(Debug)]
pub struct Subresource {
    /// `status`
    pub name: &'static str,
    /// Of the body.
    pub group: &'static str,
    /// Of the body.
    pub version: &'static str,
    /// Of the body.
    pub kind: &'static str,
    /// In discovery's order.
    pub verbs: &'static [&'static str],
}

include!(concat!(env!("OUT_DIR"), "/resources.rs"));

/// One resource; `group` is empty for the core group.
pub fn find(group: &str, version: &str, resource: &str) -> Option<&'static Resource> {
    ALL.iter()
        .find(|r| r.resource == resource && r.version == version && r.group == group)
}

/// The resource of a kind.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    ALL.iter()
        .find(|r| r.kind == kind && r.version == version && r.group == group)
}
