//! Config maps and secrets that pods on this node use: one watch per object, shared by its users, ended with the last.
//!
//! A change wakes the workers of the pods that use the object, so files in volumes follow within a moment. Until a watch
//! has delivered, an object is read directly, so that a start neither waits for a watch nor takes its silence for absence.
//! So are the objects of a pod that refers to more than [`MOST`], whenever it is looked at.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::{Client, Informer, Selector};
use serde::{Deserialize, Deserializer};
use tokio_util::sync::CancellationToken;

use crate::pod::Pod;
use crate::runtime::env::Data;

/// Bytes that are base64 in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Blob(Vec<u8>);

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl serde::de::Visitor<'_> for V {
            type Value = Blob;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("base64")
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Blob, E> {
                use base64::Engine as _;
                base64::engine::general_purpose::STANDARD
                    .decode(v)
                    .map(Blob)
                    .map_err(E::custom)
            }
            fn visit_bytes<E: serde::de::Error>(self, v: &[u8]) -> Result<Blob, E> {
                Ok(Blob(v.to_vec()))
            }
            fn visit_unit<E: serde::de::Error>(self) -> Result<Blob, E> {
                Ok(Blob::default())
            }
        }
        d.deserialize_str(V)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConfigMapView {
    metadata: client::ObjectMeta,
    data: Option<BTreeMap<String, String>>,
    binary_data: Option<BTreeMap<String, Blob>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SecretView {
    metadata: client::ObjectMeta,
    data: Option<BTreeMap<String, Blob>>,
}

client::views!(ConfigMapView, SecretView);

impl ConfigMapView {
    fn data(&self) -> Data {
        let mut values: BTreeMap<String, Vec<u8>> = self
            .data
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone().into_bytes()))
            .collect();
        values.extend(
            self.binary_data
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.0.clone())),
        );
        Data { values }
    }
}

impl SecretView {
    fn data(&self) -> Data {
        Data {
            values: self
                .data
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.0.clone()))
                .collect(),
        }
    }
}

/// The most objects of one pod that are watched. A pod may name twenty thousand, and a watch costs about 16 KiB here and a
/// lasting request there.
const MOST: usize = 256;

/// Kind, namespace and name.
type Key = (Kind, String, String);

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// ConfigMap.
    ConfigMap,
    /// Secret.
    Secret,
}

enum Watched {
    ConfigMap(Informer<ConfigMapView>),
    Secret(Informer<SecretView>),
}

struct Entry {
    watched: Watched,
    users: BTreeSet<String>,
    stop: CancellationToken,
}

type Wake = Arc<dyn Fn(&str) + Send + Sync>;

/// The objects in use.
pub struct ObjectCache {
    client: Client,
    entries: Arc<Mutex<HashMap<Key, Entry>>>,
    wake: Wake,
    stop: CancellationToken,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ObjectCache {
    /// An empty cache; `wake` is called with the UID of each pod whose object changed.
    pub fn new(client: Client, wake: Wake, stop: CancellationToken) -> ObjectCache {
        ObjectCache {
            client,
            entries: Arc::default(),
            wake,
            stop,
        }
    }

    /// Watches what the pod refers to, and no longer what it does not.
    pub fn register(&self, pod: &Pod) {
        let mut want = references(pod);
        if want.len() > MOST {
            tracing::debug!(pod = %pod.key(), objects = want.len(), "More config maps and secrets than are watched for one pod");
            want.clear();
        }
        let uid = &pod.metadata.uid;
        let mut entries = lock(&self.entries);
        entries.retain(|key, e| {
            if !want.contains(key) && e.users.remove(uid) && e.users.is_empty() {
                e.stop.cancel();
                return false;
            }
            true
        });
        for key in want {
            if let Some(e) = entries.get_mut(&key) {
                e.users.insert(uid.clone());
                continue;
            }
            let stop = self.stop.child_token();
            let selector = Selector {
                namespace: key.1.clone(),
                fields: format!("metadata.name={}", key.2),
                ..Selector::default()
            };
            let watched = match key.0 {
                Kind::ConfigMap => {
                    let (i, work) = Informer::<ConfigMapView>::new(
                        self.client.clone(),
                        client::resource::CONFIG_MAPS.clone(),
                        selector,
                        stop.clone(),
                    );
                    i.on_change(self.notifier(key.clone()));
                    tokio::spawn(work);
                    Watched::ConfigMap(i)
                }
                Kind::Secret => {
                    let (i, work) = Informer::<SecretView>::new(
                        self.client.clone(),
                        client::resource::SECRETS.clone(),
                        selector,
                        stop.clone(),
                    );
                    i.on_change(self.notifier(key.clone()));
                    tokio::spawn(work);
                    Watched::Secret(i)
                }
            };
            entries.insert(
                key,
                Entry {
                    watched,
                    users: BTreeSet::from([uid.clone()]),
                    stop,
                },
            );
        }
    }

    fn notifier<V>(&self, key: Key) -> impl Fn(client::Change<'_, V>) + Send + Sync + 'static {
        let (entries, wake) = (Arc::downgrade(&self.entries), self.wake.clone());
        move |_| {
            let Some(entries) = entries.upgrade() else {
                return;
            };
            let users = lock(&entries)
                .get(&key)
                .map(|e| e.users.clone())
                .unwrap_or_default();
            for u in users {
                wake(&u);
            }
        }
    }

    /// Forgets a pod.
    pub fn unregister(&self, uid: &str) {
        lock(&self.entries).retain(|_, e| {
            if e.users.remove(uid) && e.users.is_empty() {
                e.stop.cancel();
                return false;
            }
            true
        });
    }

    /// The object's content; `Ok(None)` when it does not exist.
    pub async fn get(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Data>, String> {
        let key = (kind, namespace.to_string(), name.to_string());
        {
            let entries = lock(&self.entries);
            match entries.get(&key).map(|e| &e.watched) {
                Some(Watched::ConfigMap(i)) if i.has_synced() => {
                    if let Some(o) = i.store().get(namespace, name) {
                        return Ok(Some(o.data()));
                    }
                }
                Some(Watched::Secret(i)) if i.has_synced() => {
                    if let Some(o) = i.store().get(namespace, name) {
                        return Ok(Some(o.data()));
                    }
                }
                _ => {}
            }
        }
        let r = match kind {
            Kind::ConfigMap => self
                .client
                .namespaced(&client::resource::CONFIG_MAPS, namespace)
                .get::<ConfigMapView>(name)
                .await
                .map(|o| o.data()),
            Kind::Secret => self
                .client
                .namespaced(&client::resource::SECRETS, namespace)
                .get::<SecretView>(name)
                .await
                .map(|o| o.data()),
        };
        match r {
            Ok(d) => Ok(Some(d)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.to_string()),
        }
    }
}

/// The config maps and secrets a pod refers to.
pub fn references(pod: &Pod) -> BTreeSet<Key> {
    let ns = &pod.metadata.namespace;
    let mut out = BTreeSet::new();
    let mut add = |kind, name: &str| {
        if !name.is_empty() {
            out.insert((kind, ns.clone(), name.to_string()));
        }
    };
    for c in pod.all_containers() {
        for e in &c.env_from {
            if let Some(r) = &e.config_map_ref {
                add(Kind::ConfigMap, &r.name);
            }
            if let Some(r) = &e.secret_ref {
                add(Kind::Secret, &r.name);
            }
        }
        for s in c.env.iter().filter_map(|e| e.value_from.as_ref()) {
            if let Some(r) = &s.config_map_key_ref {
                add(Kind::ConfigMap, &r.name);
            }
            if let Some(r) = &s.secret_key_ref {
                add(Kind::Secret, &r.name);
            }
        }
    }
    for v in &pod.spec.volumes {
        if let Some(c) = &v.config_map {
            add(Kind::ConfigMap, &c.name);
        }
        if let Some(s) = &v.secret {
            add(Kind::Secret, &s.secret_name);
        }
        for s in v.projected.iter().flat_map(|p| &p.sources) {
            if let Some(c) = &s.config_map {
                add(Kind::ConfigMap, &c.name);
            }
            if let Some(c) = &s.secret {
                add(Kind::Secret, &c.name);
            }
        }
    }
    for s in &pod.spec.image_pull_secrets {
        add(Kind::Secret, &s.name);
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_reference_is_found() {
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{"namespace":"n"},"spec":{"imagePullSecrets":[{"name":"pull"}],
              "initContainers":[{"name":"i","envFrom":[{"secretRef":{"name":"s1"}}]}],
              "containers":[{"name":"c","env":[{"name":"A","valueFrom":{"configMapKeyRef":{"name":"c1","key":"k"}}}]}],
              "volumes":[{"name":"v","projected":{"sources":[{"configMap":{"name":"c2"}},{"secret":{"name":"s2"}}]}},{"name":"w","secret":{"secretName":"s3"}}]}}"#,
        )
        .unwrap();
        let names: Vec<String> = references(&pod).into_iter().map(|k| k.2).collect();
        assert_eq!(names, ["c1", "c2", "pull", "s1", "s2", "s3"]);
    }

    /// What one pod names costs no watch for each when there is no end to it.
    #[tokio::test]
    async fn a_pod_with_thousands_of_objects_is_not_watched_for() {
        let client = Client::from_flags("", "http://127.0.0.1:1", client::Options::default()).await;
        let stop = CancellationToken::new();
        let cache = ObjectCache::new(client.unwrap(), Arc::new(|_: &str| {}), stop.clone());
        let pod = |uid: &str, count: usize| {
            let refs: Vec<_> = (0..count)
                .map(|n| json!({"secretRef": {"name": format!("s{n}"), "optional": true}}))
                .collect();
            let pod = json!({
                "metadata": {"namespace": "n", "name": uid, "uid": uid},
                "spec": {"containers": [{"name": "c", "envFrom": refs}]},
            });
            serde_json::from_value::<Pod>(pod).unwrap()
        };
        let watched = || lock(&cache.entries).len();
        cache.register(&pod("a", MOST));
        assert_eq!(watched(), MOST);
        cache.register(&pod("b", MOST + 1));
        assert_eq!(watched(), MOST, "a's");
        cache.register(&pod("a", 20_000));
        assert_eq!(watched(), 0, "what it named before is let go");
        stop.cancel();
    }

    #[test]
    fn secrets_decode() {
        let s: SecretView =
            serde_json::from_str(r#"{"metadata":{"name":"x"},"data":{"a":"aGk="}}"#)
                .unwrap_or_default();
        assert_eq!(
            s.data.map(|d| d["a"].clone()),
            None.or(Some(Blob(b"hi".to_vec())))
        );
    }
}
