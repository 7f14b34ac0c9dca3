//! Who owns whom: pure.
//!
//! Invariant: `dependents` of a node are exactly the nodes that name it among their owners. An owner that is named but has
//! not been seen stands in the graph as unobserved, until it is seen or the apiserver says that it does not exist.

use std::collections::{BTreeSet, HashMap};

use client::{ObjectMeta, OwnerReference};

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// Where an object is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Of its kind.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// An object.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Where it is.
    pub identity: Identity,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// UIDs of those it owns.
    pub dependents: BTreeSet<String>,
    /// Whether it was seen, rather than only named.
    pub observed: bool,
    /// Deletion was asked for.
    pub deleting: bool,
    /// It has the finalizer that waits for dependents.
    pub foreground: bool,
    /// It has the finalizer that lets dependents go.
    pub orphan: bool,
}

impl Node {
    /// Whether it waits for its dependents to be deleted.
    pub fn waits(&self) -> bool {
        self.deleting && self.foreground
    }
}

/// What has to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Whether this object should go.
    Delete(String),
    /// Let the dependents of this object go.
    Orphan(String),
}

/// All objects that were seen or named, by UID.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
}

impl Graph {
    /// An object.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// UIDs of the dependents that keep an object from going.
    pub fn blocking(&self, uid: &str) -> Vec<String> {
        let Some(node) = self.nodes.get(uid) else {
            return Vec::new();
        };
        let blocks = |d: &&String| {
            self.nodes.get(*d).is_some_and(|n| {
                n.owners
                    .iter()
                    .any(|o| o.uid == uid && o.block_owner_deletion == Some(true))
            })
        };
        node.dependents.iter().filter(blocks).cloned().collect()
    }

    /// An object was seen.
    pub fn observe(&mut self, identity: Identity, meta: &ObjectMeta) -> Vec<Work> {
        let mut work = Vec::new();
        let uid = &meta.uid;
        let node = self.nodes.entry(uid.clone()).or_default();
        let was = (node.waits(), node.deleting && node.orphan);
        let old = std::mem::replace(&mut node.owners, meta.owner_references.clone());
        node.identity = identity;
        node.observed = true;
        node.deleting = meta.deletion_timestamp.is_some();
        node.foreground = meta.finalizers.iter().any(|f| f == FOREGROUND);
        node.orphan = meta.finalizers.iter().any(|f| f == ORPHAN);
        let (waits, orphans) = (node.waits(), node.deleting && node.orphan);
        if waits && !was.0 {
            work.extend(node.dependents.iter().cloned().map(Work::Delete));
            work.push(Work::Delete(uid.clone()));
        }
        if orphans && !was.1 {
            work.push(Work::Orphan(uid.clone()));
        }
        for owner in old
            .iter()
            .filter(|o| !meta.owner_references.iter().any(|n| n.uid == o.uid))
        {
            self.disown(&owner.uid, uid, &mut work);
        }
        for owner in &meta.owner_references {
            if old.iter().any(|o| o == owner) {
                continue;
            }
            let o = self.nodes.entry(owner.uid.clone()).or_insert_with(|| Node {
                identity: Identity {
                    api_version: owner.api_version.clone(),
                    kind: owner.kind.clone(),
                    namespace: meta.namespace.clone(),
                    name: owner.name.clone(),
                },
                ..Node::default()
            });
            // Only named so far: does it exist? Or it waits for its dependents, of which this is a new or changed one.
            if !o.observed || o.waits() {
                work.push(Work::Delete(owner.uid.clone()));
            }
            o.dependents.insert(uid.clone());
        }
        work
    }

    fn disown(&mut self, owner: &str, dependent: &str, work: &mut Vec<Work>) {
        let Some(o) = self.nodes.get_mut(owner) else {
            return;
        };
        o.dependents.remove(dependent);
        if o.waits() {
            work.push(Work::Delete(owner.to_owned()));
        }
        if !o.observed && o.dependents.is_empty() {
            self.nodes.remove(owner);
        }
    }

    /// An object is gone.
    pub fn remove(&mut self, uid: &str) -> Vec<Work> {
        let mut work = Vec::new();
        let Some(node) = self.nodes.remove(uid) else {
            return work;
        };
        for owner in &node.owners {
            self.disown(&owner.uid, uid, &mut work);
        }
        work.extend(node.dependents.iter().cloned().map(Work::Delete));
        if !node.dependents.is_empty() {
            // Still named by them; they will be gone or have let go soon.
            let gone = Node {
                identity: node.identity,
                dependents: node.dependents,
                ..Node::default()
            };
            self.nodes.insert(uid.to_owned(), gone);
        }
        work
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str, owners: &[(&str, bool)], finalizers: &[&str], deleting: bool) -> ObjectMeta {
        ObjectMeta {
            uid: uid.into(),
            name: uid.into(),
            owner_references: owners
                .iter()
                .map(|(o, block)| OwnerReference {
                    uid: (*o).into(),
                    block_owner_deletion: Some(*block),
                    ..OwnerReference::default()
                })
                .collect(),
            finalizers: finalizers.iter().map(|f| (*f).into()).collect(),
            deletion_timestamp: deleting.then_some(client::Time::UNIX_EPOCH),
            ..ObjectMeta::default()
        }
    }

    fn see(g: &mut Graph, m: ObjectMeta) -> Vec<Work> {
        let mut w = g.observe(Identity::default(), &m);
        w.sort();
        w
    }

    fn delete(uids: &[&str]) -> Vec<Work> {
        uids.iter().map(|u| Work::Delete((*u).into())).collect()
    }

    #[test]
    fn owners_that_were_never_seen_are_asked_for() {
        let mut g = Graph::default();
        assert_eq!(
            see(&mut g, meta("d", &[("a", false), ("b", false)], &[], false)),
            delete(&["a", "b"])
        );
        assert!(!g.get("a").unwrap().observed && !g.get("b").unwrap().observed);
        assert_eq!(see(&mut g, meta("a", &[], &[], false)), []);
        assert_eq!(g.get("a").unwrap().dependents.len(), 1);
        // The other turns out not to exist: its dependents are looked at.
        assert_eq!(g.remove("b"), delete(&["d"]));
        // When the dependent lets go, nothing is left of it.
        see(&mut g, meta("d", &[("a", false)], &[], false));
        assert!(g.get("b").is_none());
    }

    #[test]
    fn a_waiting_owner_is_looked_at_when_a_dependent_goes() {
        let mut g = Graph::default();
        see(&mut g, meta("o", &[], &[], false));
        see(&mut g, meta("x", &[("o", true)], &[], false));
        see(&mut g, meta("y", &[("o", false)], &[], false));
        assert_eq!(
            see(&mut g, meta("o", &[], &[FOREGROUND], true)),
            delete(&["o", "x", "y"])
        );
        assert_eq!(g.blocking("o"), ["x"]);
        assert_eq!(g.remove("x"), delete(&["o"]));
        assert!(g.blocking("o").is_empty());
    }

    #[test]
    fn orphaning_is_asked_for_once() {
        let mut g = Graph::default();
        see(&mut g, meta("d", &[("o", true)], &[], false));
        see(&mut g, meta("o", &[], &[], false));
        assert_eq!(
            see(&mut g, meta("o", &[], &[ORPHAN], true)),
            [Work::Orphan("o".into())]
        );
        assert_eq!(see(&mut g, meta("o", &[], &[ORPHAN], true)), []);
    }

    #[test]
    fn dependents_of_the_gone_are_looked_at() {
        let mut g = Graph::default();
        see(&mut g, meta("o", &[], &[], false));
        see(&mut g, meta("d", &[("o", false)], &[], false));
        assert_eq!(g.remove("o"), delete(&["d"]));
        assert_eq!(g.remove("d"), []);
        assert!(g.get("o").is_none(), "no trace is left");
    }
}
