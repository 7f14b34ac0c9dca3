//! Admission: what may still change or refuse a write after authorization and before storage.

pub mod chain;
pub mod config;
mod json;
pub mod plugins;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use api::Status;
use api::reader::ObjectReader;
use async_trait::async_trait;
use auth::UserInfo;
use futures::future::BoxFuture;
use serde_json::{Map, Value};

/// The kind of write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// POST, or a PUT or apply that creates.
    Create,
    /// PUT and PATCH of what exists.
    Update,
    /// DELETE of one object; `old` is the stored object.
    Delete,
    /// exec, attach, port-forward, proxy.
    Connect,
}

/// The request, as plugins see it.
pub struct Attributes<'a> {
    /// What is done.
    pub operation: Operation,
    /// Who does it.
    pub user: &'a UserInfo,
    /// Empty for the core group.
    pub group: &'a str,
    /// The request's version.
    pub version: &'a str,
    /// The plural.
    pub resource: &'a str,
    /// Empty for the resource itself.
    pub subresource: &'a str,
    /// The kind of the object in the body.
    pub kind: &'a str,
    /// Empty for cluster scope.
    pub namespace: &'a str,
    /// Empty while a generated name is not known.
    pub name: &'a str,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// Other objects.
    pub reader: &'a dyn ObjectReader,
}

/// One admission plugin. A plugin is stateless or owns its state; it never blocks on the write it judges.
#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    /// The name as `--enable-admission-plugins` has it.
    fn name(&self) -> &'static str;

    /// Whether this plugin has anything to do with such requests; a cheap test that needs no object.
    fn handles(&self, attributes: &Attributes<'_>) -> bool;

    /// May change `object` (absent for deletes and most connects) or refuse.
    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let _ = (attributes, object, old);
        Ok(())
    }

    /// May refuse the final object.
    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let _ = (attributes, object, old);
        Ok(())
    }
}

/// The quotas, as they are charged.
pub trait Quotas: Send + Sync + 'static {
    /// Those of a namespace, at least as new as what was charged here.
    fn list<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Vec<Arc<Value>>, Status>>;

    /// One, as it is stored now.
    fn newest<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<Value>>, Status>>;

    /// Stores what is used of the quota that was `seen`. False when somebody has changed it since.
    fn charge<'a>(
        &'a self,
        seen: &'a Value,
        used: Map<String, Value>,
    ) -> BoxFuture<'a, Result<bool, Status>>;
}
