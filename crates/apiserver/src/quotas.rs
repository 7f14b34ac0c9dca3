//! The quotas, for the admission plugin that charges them.
//!
//! A charge is one optimistic write of the stored object, beside the verbs: it is not admitted itself. The cache shows it
//! before it is told, so what is listed next is at least as new.

use std::sync::Arc;

use api::Status;
use api::reader::ObjectReader;
use futures::future::BoxFuture;
use serde_json::{Map, Value};
use storage::{Expect, Written};

use crate::cache::store_error;
use crate::codec::{self, meta_str};
use crate::core::{Core, Served};
use crate::engine::timestamp;

/// Who owns what is charged, among the managers of a quota's fields.
const MANAGER: &str = "kube-apiserver";

struct Quotas {
    core: Arc<Core>,
    reader: Arc<dyn ObjectReader>,
}

/// See the module.
pub fn quotas(core: &Arc<Core>) -> Arc<dyn admission::Quotas> {
    Arc::new(Quotas {
        core: core.clone(),
        reader: core.reader(),
    })
}

impl Quotas {
    fn served(&self) -> Result<Arc<Served>, Status> {
        let table = self.core.table();
        let served = table.find_any("", "resourcequotas");
        served
            .cloned()
            .ok_or_else(|| Status::internal("quotas are not served"))
    }
}

impl admission::Quotas for Quotas {
    fn list<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Vec<Arc<Value>>, Status>> {
        self.reader.list("", "resourcequotas", namespace)
    }

    fn newest<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<Value>>, Status>> {
        Box::pin(async move {
            let served = self.served()?;
            let key = served.key(namespace, name)?;
            let got = self.core.store().get(&key, 0).await.map_err(store_error)?;
            let object = got
                .kv
                .map(|kv| codec::decode(&served.def, &kv.value, kv.mod_revision));
            Ok(object.transpose()?.map(Arc::new))
        })
    }

    fn charge<'a>(
        &'a self,
        seen: &'a Value,
        used: Map<String, Value>,
    ) -> BoxFuture<'a, Result<bool, Status>> {
        Box::pin(async move {
            let served = self.served()?;
            let key = served.key(meta_str(seen, "namespace"), meta_str(seen, "name"))?;
            let version = meta_str(seen, "resourceVersion");
            let version = version.parse().map_err(Status::internal)?;
            let mut object = seen.clone();
            let status = object
                .as_object_mut()
                .map(|o| o.entry("status").or_insert_with(|| Map::new().into()))
                .and_then(Value::as_object_mut)
                .ok_or_else(|| Status::internal("a quota is no object"))?;
            status.insert("used".into(), used.into());
            let now = timestamp();
            crate::meta::manage(&served, Some(seen), &mut object, MANAGER, "status", &now);
            let bytes = codec::encode(&served.def, &mut object)?;
            let expect = Expect::Revision(version);
            let written = self.core.store().put(&key, bytes, expect, 0).await;
            let Written::Done { revision, .. } = written.map_err(store_error)? else {
                return Ok(false);
            };
            if let Err(error) = served.cache()?.wait_for(revision).await {
                tracing::warn!(%error, "The watch cache lags behind a quota");
            }
            Ok(true)
        })
    }
}
