//! The objects an informer knows, with indexes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crate::view::View;

/// Namespace (empty for cluster-scoped objects) and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// From its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> ObjectKey {
        ObjectKey {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Of an object.
    pub fn of<V: View>(v: &V) -> ObjectKey {
        ObjectKey::new(v.namespace(), v.name())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Computes the values under which an object is found in an index.
pub type IndexFn<V> = Arc<dyn Fn(&V) -> Vec<String> + Send + Sync>;

struct Index<V> {
    name: &'static str,
    key: IndexFn<V>,
    entries: HashMap<String, BTreeMap<ObjectKey, Arc<V>>>,
}

struct Inner<V> {
    objects: BTreeMap<String, BTreeMap<String, Arc<V>>>,
    count: usize,
    indexes: Vec<Index<V>>,
}

/// A shared, indexed set of objects. Readers get `Arc`s and never wait for the network.
pub struct Store<V>(Arc<RwLock<Inner<V>>>);

impl<V> Clone for Store<V> {
    fn clone(&self) -> Self {
        Store(self.0.clone())
    }
}

impl<V> fmt::Debug for Store<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl<V: View> Default for Store<V> {
    fn default() -> Self {
        Store(Arc::new(RwLock::new(Inner {
            objects: BTreeMap::new(),
            count: 0,
            indexes: Vec::new(),
        })))
    }
}

impl<V: View> Store<V> {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner<V>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Inner<V>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// One object. `namespace` is empty for cluster-scoped ones.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<V>> {
        self.read().objects.get(namespace)?.get(name).cloned()
    }

    /// One object by key.
    pub fn get_key(&self, key: &ObjectKey) -> Option<Arc<V>> {
        self.get(&key.namespace, &key.name)
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<V>> {
        let inner = self.read();
        let mut out = Vec::with_capacity(inner.count);
        out.extend(inner.objects.values().flat_map(|o| o.values().cloned()));
        out
    }

    /// The objects of a namespace, ordered by name.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<V>> {
        self.read()
            .objects
            .get(namespace)
            .map(|o| o.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.read().count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects found under a value of an index; none if the index does not exist.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<V>> {
        let inner = self.read();
        let Some(index) = inner.indexes.iter().find(|i| i.name == index) else {
            return Vec::new();
        };
        index
            .entries
            .get(value)
            .map(|o| o.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Adds an index, filled with what is there. A second one of the same name is ignored.
    pub fn add_index(
        &self,
        name: &'static str,
        key: impl Fn(&V) -> Vec<String> + Send + Sync + 'static,
    ) {
        let mut inner = self.write();
        if inner.indexes.iter().any(|i| i.name == name) {
            return;
        }
        let mut index = Index {
            name,
            key: Arc::new(key),
            entries: HashMap::new(),
        };
        for object in inner.objects.values().flat_map(|o| o.values()) {
            index.insert(object);
        }
        inner.indexes.push(index);
    }

    /// Puts an object in and returns the one it replaces.
    pub fn insert(&self, object: Arc<V>) -> Option<Arc<V>> {
        let mut inner = self.write();
        let namespace = object.namespace();
        if !inner.objects.contains_key(namespace) {
            inner.objects.insert(namespace.to_owned(), BTreeMap::new());
        }
        let old = inner
            .objects
            .get_mut(namespace)
            .and_then(|o| o.insert(object.name().to_owned(), object.clone()));
        if old.is_none() {
            inner.count += 1;
        }
        for index in &mut inner.indexes {
            if let Some(old) = &old {
                index.remove(old);
            }
            index.insert(&object);
        }
        old
    }

    /// Takes an object out.
    pub fn remove(&self, namespace: &str, name: &str) -> Option<Arc<V>> {
        let mut inner = self.write();
        let objects = inner.objects.get_mut(namespace)?;
        let old = objects.remove(name)?;
        if objects.is_empty() {
            inner.objects.remove(namespace);
        }
        inner.count -= 1;
        for index in &mut inner.indexes {
            index.remove(&old);
        }
        Some(old)
    }
}

impl<V: View> Index<V> {
    fn insert(&mut self, object: &Arc<V>) {
        for value in (self.key)(object) {
            self.entries
                .entry(value)
                .or_default()
                .insert(ObjectKey::of(&**object), object.clone());
        }
    }

    fn remove(&mut self, object: &Arc<V>) {
        let key = ObjectKey::of(&**object);
        for value in (self.key)(object) {
            if let Some(entries) = self.entries.get_mut(&value) {
                entries.remove(&key);
                if entries.is_empty() {
                    self.entries.remove(&value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::MetaView;

    fn object(ns: &str, name: &str, app: &str) -> Arc<MetaView> {
        let mut o = MetaView::default();
        o.metadata.namespace = ns.into();
        o.metadata.name = name.into();
        o.metadata.labels.insert("app".into(), app.into());
        Arc::new(o)
    }

    #[test]
    fn indexes_follow_changes() {
        let s: Store<MetaView> = Store::default();
        s.insert(object("a", "x", "one"));
        s.add_index("app", |o: &MetaView| {
            o.metadata.labels.values().cloned().collect()
        });
        s.insert(object("b", "y", "one"));
        assert_eq!(s.by_index("app", "one").len(), 2);
        assert_eq!(
            s.insert(object("a", "x", "two"))
                .map(|o| o.metadata.labels["app"].clone())
                .as_deref(),
            Some("one")
        );
        assert_eq!(s.by_index("app", "one").len(), 1);
        assert_eq!(s.by_index("app", "two")[0].metadata.name, "x");
        s.remove("a", "x");
        assert!(s.by_index("app", "two").is_empty());
        assert!(s.list_namespace("a").is_empty());
        assert_eq!(s.len(), 1);
    }
}
