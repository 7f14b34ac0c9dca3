//! Reading objects of other resources while a request is handled.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::status::Status;

/// What authorizers, admission plugins and strategies may ask about other objects. In the apiserver it is answered from
/// the watch caches; `get` falls back to the store, so that an object written a moment ago is found.
pub trait ObjectReader: Send + Sync {
    /// The object, or `None`. `group` is empty for the core group; `namespace` is empty for cluster-scoped resources.
    fn get<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<Value>>, Status>>;

    /// All objects, of one namespace or, with an empty `namespace`, of all; from the cache, in key order.
    fn list<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Arc<Value>>, Status>>;
}
