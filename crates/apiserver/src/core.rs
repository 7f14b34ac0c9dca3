//! What the server holds: the store, the resources that are served, and a watch cache per stored resource.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use api::Status;
use api::reader::ObjectReader;
use futures::future::BoxFuture;
use serde_json::Value;
use storage::SharedStore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Observer, entry_of, store_error};
use crate::codec;
use crate::encode::{Encoder, Lister};
use crate::resource::ResourceDef;

/// One resource in one version, ready to serve.
pub struct Served {
    /// Unique within the process.
    pub id: u32,
    /// The definition.
    pub def: Arc<ResourceDef>,
    /// `apps/v1`
    pub api_version: String,
    /// `None` for resources that are only posted.
    pub cache: Option<Arc<Cache>>,
}

impl Served {
    /// The encoder of this version.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder {
            def: &self.def,
            api_version: &self.api_version,
        }
    }

    /// The encoder of lists.
    pub fn lister(&self) -> Lister {
        Lister {
            def: self.def.clone(),
            api_version: self.api_version.clone(),
        }
    }

    /// The cache, or 405 for a resource that is only posted.
    pub fn cache(&self) -> Result<&Arc<Cache>, Status> {
        self.cache.as_ref().ok_or_else(Status::method_not_allowed)
    }

    /// The key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> Result<Vec<u8>, Status> {
        let mut key = self.scope(namespace)?;
        key.extend_from_slice(name.as_bytes());
        Ok(key)
    }

    /// The prefix of all objects of a namespace, or of all.
    pub fn scope(&self, namespace: &str) -> Result<Vec<u8>, Status> {
        let mut prefix = self.cache()?.prefix.to_vec();
        if self.def.namespaced && !namespace.is_empty() {
            prefix.extend_from_slice(namespace.as_bytes());
            prefix.push(b'/');
        }
        Ok(prefix)
    }
}

/// Everything that is served, at one moment.
#[derive(Default)]
pub struct Table {
    by_path: HashMap<(String, String, String), Arc<Served>>,
    /// In the order of registration.
    pub all: Vec<Arc<Served>>,
}

impl Table {
    /// A resource of a group and version.
    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Served>> {
        self.by_path
            .get(&(group.to_owned(), version.to_owned(), resource.to_owned()))
    }

    /// A stored resource in its first version.
    pub fn find_any(&self, group: &str, resource: &str) -> Option<&Arc<Served>> {
        self.all
            .iter()
            .find(|s| s.cache.is_some() && s.def.group == group && s.def.resource == resource)
    }

    /// Whether a group and version has any resource.
    pub fn has(&self, group: &str, version: &str) -> bool {
        self.all
            .iter()
            .any(|s| s.def.group == group && s.def.version == version)
    }
}

/// The heart of the server: no connection, no user.
pub struct Core {
    store: SharedStore,
    table: RwLock<Arc<Table>>,
    stop: CancellationToken,
    tasks: tokio_util::task::TaskTracker,
    leases: tokio::sync::Mutex<HashMap<i64, (i64, Instant)>>,
}

impl Core {
    /// A core that serves nothing yet. Caches live until `stop` is cancelled.
    pub fn new(store: SharedStore, stop: CancellationToken) -> Arc<Core> {
        Arc::new(Core {
            store,
            table: RwLock::default(),
            stop,
            tasks: tokio_util::task::TaskTracker::new(),
            leases: tokio::sync::Mutex::default(),
        })
    }

    /// Shows every object of a resource, now and later, to an observer. Fails when the resource is not served.
    pub fn observe(&self, group: &str, resource: &str, observer: Observer) -> Result<(), Status> {
        let table = self.table();
        let served = table
            .find_any(group, resource)
            .ok_or_else(|| unknown(group, resource))?;
        served.cache()?.observe(observer);
        Ok(())
    }

    /// Serves more resources and starts their caches.
    pub fn add(self: &Arc<Core>, resources: Vec<ResourceDef>) {
        let mut guard = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut table = Table {
            by_path: guard.by_path.clone(),
            all: guard.all.clone(),
        };
        let mut caches: HashMap<String, Arc<Cache>> = HashMap::new();
        for s in &table.all {
            if let Some(c) = &s.cache {
                caches.insert(c.storage.prefix.clone(), c.clone());
            }
        }
        for def in resources {
            let def = Arc::new(def);
            let cache = def.storage.clone().map(|storage| {
                caches
                    .entry(storage.prefix.clone())
                    .or_insert_with(|| {
                        let cache = Cache::new(def.clone(), storage, self.store.clone());
                        let (run, stop) = (cache.clone(), self.stop.clone());
                        self.tasks.spawn(async move {
                            tokio::select! {
                                () = stop.cancelled() => {}
                                () = run.run() => {}
                            }
                        });
                        cache
                    })
                    .clone()
            });
            let id = u32::try_from(table.all.len()).unwrap_or(u32::MAX);
            let api_version = codec::group_version(&def.group, &def.version);
            let path = (def.group.clone(), def.version.clone(), def.resource.clone());
            let served = Arc::new(Served {
                id,
                def,
                api_version,
                cache,
            });
            table.by_path.insert(path, served.clone());
            table.all.push(served);
        }
        *guard = Arc::new(table);
    }

    /// What is served now.
    pub fn table(&self) -> Arc<Table> {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The store.
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Waits until every cache has listed once.
    pub async fn wait_ready(&self) {
        for s in &self.table().all {
            if let Some(c) = &s.cache {
                c.wait_ready().await;
            }
        }
    }

    /// Waits for the caches' tasks after the stop.
    pub async fn closed(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// A lease for objects that end by themselves, shared by writes of the same minute.
    pub async fn lease(&self, ttl_seconds: i64) -> Result<i64, Status> {
        if ttl_seconds <= 0 {
            return Ok(0);
        }
        let mut leases = self.leases.lock().await;
        let now = Instant::now();
        if let Some((id, until)) = leases.get(&ttl_seconds)
            && *until > now
        {
            return Ok(*id);
        }
        // As upstream: a lease is reused for a twentieth of its time, a minute at most, and lasts that much longer.
        let reuse = (ttl_seconds / 20).clamp(1, 60);
        let id = self
            .store
            .grant(ttl_seconds + reuse)
            .await
            .map_err(store_error)?;
        let until = now + Duration::from_secs(u64::try_from(reuse).unwrap_or(1));
        leases.insert(ttl_seconds, (id, until));
        Ok(id)
    }

    /// Reads other objects from the caches, for authorizers, admission and strategies.
    pub fn reader(self: &Arc<Core>) -> Arc<dyn ObjectReader> {
        Arc::new(Reader(self.clone()))
    }
}

struct Reader(Arc<Core>);

fn unknown(group: &str, resource: &str) -> Status {
    Status::internal(format!(
        "{} is not served",
        api::status::qualified(group, resource)
    ))
}

impl ObjectReader for Reader {
    fn get<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<Value>>, Status>> {
        Box::pin(async move {
            let table = self.0.table();
            let served = table
                .find_any(group, resource)
                .ok_or_else(|| unknown(group, resource))?;
            let cache = served.cache()?;
            let key = served.key(namespace, name)?;
            if let Some(e) = cache.entry(&key) {
                return cache.decoded(&e, &served.def).map(Some);
            }
            let got = self.0.store.get(&key, 0).await.map_err(store_error)?;
            match got.kv {
                None => Ok(None),
                Some(kv) => {
                    let e = entry_of(kv);
                    Ok(Some(Arc::new(codec::decode(
                        &served.def,
                        &e.value,
                        e.revision,
                    )?)))
                }
            }
        })
    }

    fn list<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Arc<Value>>, Status>> {
        Box::pin(async move {
            let table = self.0.table();
            let served = table
                .find_any(group, resource)
                .ok_or_else(|| unknown(group, resource))?;
            let cache = served.cache()?;
            cache.wait_ready().await;
            let prefix = served.scope(namespace)?;
            let snapshot = cache.snapshot();
            snapshot
                .range(&prefix, &prefix)
                .map(|e| cache.decoded(e, &served.def))
                .collect()
        })
    }
}
