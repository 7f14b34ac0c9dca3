//! Who owns whom: pure.
//!
//! Invariant: `dependents` of a node are exactly the nodes that name it among their owners. An owner that is named but has
//! not been seen stands in the graph as unobserved, until it is seen or the apiserver says that it does not exist.

use std::collections::{BTreeSet, HashMap, HashSet};

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

impl Identity {
    /// Whether a dependent in `namespace` means this by `owner`. One in another namespace never does; objects without a
    /// namespace can be owners everywhere.
    fn is_meant_by(&self, owner: &OwnerReference, namespace: &str) -> bool {
        self.can_own(namespace)
            && self.api_version == owner.api_version
            && self.kind == owner.kind
            && self.name == owner.name
    }

    fn can_own(&self, namespace: &str) -> bool {
        self.namespace.is_empty() || self.namespace == namespace
    }
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
    /// Tell that an object names an owner of another namespace.
    WrongNamespace {
        /// UID of the object.
        dependent: String,
        /// UID it names.
        owner: String,
    },
}

/// Nodes that there is always room for.
const ROOM: usize = 4096;

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

    /// Whether all that an object names as its owners was seen to be what it names, and none waits for its dependents to be
    /// deleted: nothing is to be done then.
    pub fn is_held(&self, uid: &str) -> bool {
        let Some(node) = self.nodes.get(uid) else {
            return false;
        };
        let holds = |owner: &OwnerReference| {
            self.nodes.get(&owner.uid).is_some_and(|o| {
                let meant = o.identity.is_meant_by(owner, &node.identity.namespace);
                o.observed && meant && !o.waits()
            })
        };
        node.observed && !node.deleting && !node.owners.is_empty() && node.owners.iter().all(holds)
    }

    /// An object was seen.
    pub fn observe(&mut self, identity: Identity, meta: &ObjectMeta) -> Vec<Work> {
        let mut work = Vec::new();
        let uid = &meta.uid;
        let node = self.nodes.entry(uid.clone()).or_default();
        let was = (node.waits(), node.deleting && node.orphan);
        let old = std::mem::replace(&mut node.owners, meta.owner_references.clone());
        let first_seen = !node.observed;
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
        if first_seen {
            self.question_dependents(uid, &mut work);
        }
        // An object may name tens of thousands: no list of them is searched for each of the other.
        let named: HashSet<&str> = meta.owner_references.iter().map(|o| &*o.uid).collect();
        for owner in old.iter().filter(|o| !named.contains(&*o.uid)) {
            self.disown(&owner.uid, uid, &mut work);
        }
        let old: HashSet<&OwnerReference> = old.iter().collect();
        let mut unseen = false;
        for owner in &meta.owner_references {
            if old.contains(owner) {
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
            question(uid, &meta.namespace, owner, o, &mut work);
            unseen |= !o.observed;
            // It waits for its dependents, of which this is a new or changed one.
            if o.waits() {
                work.push(Work::Delete(owner.uid.clone()));
            }
            o.dependents.insert(uid.clone());
        }
        if unseen {
            // Whether the owners exist is asked for all of them together, with the object that names them.
            work.push(Work::Delete(uid.clone()));
        }
        work
    }

    /// The owner was only named before; now it is known whether its dependents mean it.
    fn question_dependents(&self, uid: &str, work: &mut Vec<Work>) {
        let Some(node) = self.nodes.get(uid) else {
            return;
        };
        for d in &node.dependents {
            let Some(dependent) = self.nodes.get(d) else {
                continue;
            };
            for owner in dependent.owners.iter().filter(|o| o.uid == uid) {
                question(d, &dependent.identity.namespace, owner, node, work);
            }
        }
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
            self.forget(owner);
        }
    }

    /// Takes a node out, and gives back the room of a burst of them.
    fn forget(&mut self, uid: &str) -> Option<Node> {
        let node = self.nodes.remove(uid);
        if self.nodes.capacity() > ROOM && self.nodes.len() < self.nodes.capacity() / 4 {
            self.nodes.shrink_to(self.nodes.len().saturating_mul(2));
        }
        node
    }

    /// An object is gone.
    pub fn remove(&mut self, uid: &str) -> Vec<Work> {
        let mut work = Vec::new();
        let Some(node) = self.forget(uid) else {
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

/// A dependent that names an object by what it is not is looked at: what it names may not exist where it says.
fn question(
    dependent: &str,
    namespace: &str,
    owner: &OwnerReference,
    named: &Node,
    work: &mut Vec<Work>,
) {
    if named.identity.is_meant_by(owner, namespace) {
        return;
    }
    work.push(Work::Delete(dependent.to_owned()));
    if named.observed && !named.identity.can_own(namespace) {
        work.push(Work::WrongNamespace {
            dependent: dependent.to_owned(),
            owner: owner.uid.clone(),
        });
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
            delete(&["d"])
        );
        assert!(!g.is_held("d"));
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
        assert!(g.is_held("d") && !g.is_held("o") && !g.is_held("none"));
        assert_eq!(g.remove("o"), delete(&["d"]));
        assert!(!g.is_held("d"));
        assert_eq!(g.remove("d"), []);
        assert!(g.get("o").is_none(), "no trace is left");
    }

    fn in_namespace(namespace: &str, mut m: ObjectMeta) -> (Identity, ObjectMeta) {
        m.namespace = namespace.into();
        for o in &mut m.owner_references {
            (o.api_version, o.kind, o.name) = ("v1".into(), "K".into(), o.uid.clone());
        }
        let identity = Identity {
            api_version: "v1".into(),
            kind: "K".into(),
            namespace: namespace.into(),
            name: m.name.clone(),
        };
        (identity, m)
    }

    /// An owner in another namespace is no owner: the dependent is looked at and the event told, whichever is seen first,
    /// also when a dependent in the right namespace named the owner before.
    /// Quadratic work: a graph that looked through all owners for each owner would be at it for minutes.
    #[test]
    fn tens_of_thousands_of_owners_are_seen_at_once() {
        const MANY: usize = 40_000;
        let names = |from: usize| {
            (from..from + MANY)
                .map(|n| format!("o{n}"))
                .collect::<Vec<_>>()
        };
        let (mut g, mut asked) = (Graph::default(), 0);
        for from in [0, MANY, MANY / 2] {
            let names = names(from);
            let owners: Vec<(&str, bool)> = names.iter().map(|n| (n.as_str(), true)).collect();
            asked += see(&mut g, meta("d", &owners, &[], false)).len();
            assert_eq!(
                g.nodes.len(),
                MANY + 1,
                "owners that are named no more are gone"
            );
        }
        assert!(g.nodes.capacity() >= MANY);
        g.remove("d");
        assert!(g.nodes.is_empty());
        assert!(g.nodes.capacity() <= ROOM, "the room is given back");
        assert_eq!(asked, 3, "the object is looked at, not each of its owners");
    }

    #[test]
    fn an_owner_of_another_namespace_is_questioned() {
        let told = |w: &[Work]| {
            let report = Work::WrongNamespace {
                dependent: "bad".into(),
                owner: "o".into(),
            };
            w.contains(&Work::Delete("bad".into())) && w.contains(&report)
        };
        let owner = || in_namespace("a", meta("o", &[], &[], false));
        let good = || in_namespace("a", meta("good", &[("o", false)], &[], false));
        let bad = || in_namespace("b", meta("bad", &[("o", false)], &[], false));

        let mut g = Graph::default();
        for (i, m) in [owner(), good()] {
            assert!(!told(&g.observe(i, &m)));
        }
        let (i, m) = bad();
        let w = g.observe(i, &m);
        assert!(told(&w), "{w:?}");

        let mut g = Graph::default();
        let (i, m) = good();
        g.observe(i, &m);
        let (i, m) = bad();
        assert!(g.observe(i, &m).contains(&Work::Delete("bad".into())));
        let (i, m) = owner();
        let w = g.observe(i, &m);
        assert!(told(&w), "{w:?}");
        assert!(!w.contains(&Work::Delete("good".into())), "{w:?}");

        // What has no namespace can own in each.
        let mut g = Graph::default();
        let (i, m) = in_namespace("", meta("o", &[], &[], false));
        g.observe(i, &m);
        let (i, m) = bad();
        assert_eq!(g.observe(i, &m), []);
        // A name that is not the owner's is looked at, and nothing is told.
        let (i, mut m) = good();
        m.owner_references[0].name = "other".into();
        assert_eq!(g.observe(i, &m), [Work::Delete("good".into())]);
    }
}
