//! selinux-warning-controller: tells pods that share a volume and want other SELinux labels for it, or another way to set
//! them, that only one of them can use it on a node. Off by default.
//!
//! Invariants: every pod that is not over counts, on whatever node it is; a conflict is told to both pods when it comes to be,
//! and not again as long as neither changes; pods of other namespaces are not named.
//!
//! Partial: volumes of drivers that say `seLinuxMount` only, not those of kinds `fc` and `iscsi`; a pod that mounts a volume
//! with two labels is told once, not again and again; the metric `selinux_volume_conflict` is not there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use client::resource::{CSI_DRIVERS, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS};
use client::{Change, EventType, ObjectKey, ObjectMeta, ObjectReference, Store, WorkQueue, views};
use serde::{Deserialize, Serialize};

use crate::Context;
use crate::attach::CsiDriver;
use crate::attach::decide::unique_name;
use crate::children::BURST;
use crate::views::{ClaimSource, Empty, PersistentVolume, PersistentVolumeClaim, view};

const BY_CLAIM: &str = "claim";
const RECURSIVE: &str = "Recursive";
const MOUNT_OPTION: &str = "MountOption";

view!(
    /// `v1.Pod`, as far as labels of volumes go. No other controller reads this much of a pod.
    Pod { metadata: ObjectMeta, spec: PodSpec, status: PodStatus }
);
view!(
    /// `v1.PodSpec`
    PodSpec {
        security_context: Security,
        init_containers: Vec<Container>,
        containers: Vec<Container>,
        ephemeral_containers: Vec<Container>,
        volumes: Vec<Volume>,
    }
);
view!(
    /// `v1.PodStatus`
    PodStatus { phase: String }
);
view!(
    /// `v1.PodSecurityContext` and `v1.SecurityContext`
    Security {
        #[serde(rename = "seLinuxOptions")]
        options: Option<Options>,
        #[serde(rename = "seLinuxChangePolicy")]
        policy: Option<String>,
    }
);
view!(
    /// `v1.SELinuxOptions`
    Options {
        user: String,
        role: String,
        #[serde(rename = "type")]
        kind: String,
        level: String,
    }
);
view!(
    /// `v1.Container`
    Container { security_context: Security, volume_mounts: Vec<Mount> }
);
view!(
    /// `v1.VolumeMount`
    Mount { name: String }
);
view!(
    /// `v1.Volume`
    Volume {
        name: String,
        persistent_volume_claim: Option<ClaimSource>,
        ephemeral: Option<Empty>,
    }
);

views!(Pod);

/// What a pod wants for a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// `user:role:type:level`; empty for none.
    pub label: String,
    /// `MountOption` or `Recursive`.
    pub policy: String,
}

/// Two pods that cannot use a volume on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The pod that is told.
    pub pod: ObjectKey,
    /// Why.
    pub reason: &'static str,
    /// Upstream's message.
    pub message: String,
}

/// The pods and the volumes they use.
#[derive(Debug, Default)]
pub struct Marks {
    volumes: HashMap<String, BTreeMap<Mark, BTreeSet<ObjectKey>>>,
    pods: HashMap<ObjectKey, BTreeMap<String, Mark>>,
}

impl Marks {
    /// A pod uses these volumes. The conflicts that come to be by it, each for both pods; of thousands, some.
    pub fn set(&mut self, pod: &ObjectKey, now: BTreeMap<String, Mark>) -> Vec<Conflict> {
        let before = self.pods.remove(pod).unwrap_or_default();
        for (volume, mark) in &before {
            if now.get(volume) != Some(mark) {
                self.unmark(pod, volume, mark);
            }
        }
        let mut conflicts = Vec::new();
        for (volume, mark) in &now {
            if before.get(volume) == Some(mark) {
                continue;
            }
            let marks = self.volumes.entry(volume.clone()).or_default();
            'marks: for (other, pods) in marks.iter() {
                let policies = other.policy != mark.policy;
                let labels = is_conflict(&other.label, &mark.label);
                if !policies && !labels {
                    continue;
                }
                for other_pod in pods {
                    if conflicts.len() >= BURST {
                        break 'marks;
                    }
                    if policies {
                        let what = ("SELinuxChangePolicy", "SELinuxChangePolicyConflict");
                        let (a, b) = (&mark.policy, &other.policy);
                        conflicts.extend(both(what, (pod, a), (other_pod, b)));
                    }
                    if labels {
                        let what = ("SELinuxLabel", "SELinuxLabelConflict");
                        let (a, b) = (&mark.label, &other.label);
                        conflicts.extend(both(what, (pod, a), (other_pod, b)));
                    }
                }
            }
            let same = marks.entry(mark.clone()).or_default();
            same.insert(pod.clone());
        }
        if !now.is_empty() {
            self.pods.insert(pod.clone(), now);
        }
        conflicts
    }

    fn unmark(&mut self, pod: &ObjectKey, volume: &str, mark: &Mark) {
        let Some(marks) = self.volumes.get_mut(volume) else {
            return;
        };
        if let Some(pods) = marks.get_mut(mark) {
            pods.remove(pod);
            if pods.is_empty() {
                marks.remove(mark);
            }
        }
        if marks.is_empty() {
            self.volumes.remove(volume);
        }
    }
}

fn both(
    (property, reason): (&str, &'static str),
    a: (&ObjectKey, &String),
    b: (&ObjectKey, &String),
) -> [Conflict; 2] {
    [(a, b), (b, a)].map(|((pod, value), (other, others))| {
        let near = pod.namespace == other.namespace;
        let what = if near {
            format!(
                "{property} \"{value}\" conflicts with pod {} that uses the same volume as this pod with {property} \"{others}\"",
                other.name
            )
        } else {
            format!(
                "{property}\"{value}\" conflicts with another pod that uses the same volume as this pod with a different {property}"
            )
        };
        let message = format!(
            "{what}. If both pods land on the same node, only one of them may access the volume."
        );
        Conflict {
            pod: pod.clone(),
            reason,
            message,
        }
    })
}

/// Whether two labels differ whatever a node fills in for parts that are not said. The level is never filled in.
pub fn is_conflict(a: &str, b: &str) -> bool {
    let (a, b) = (split(a), split(b));
    let named = a.iter().zip(b.iter()).take(3);
    let mut named = named.filter(|(x, y)| !x.is_empty() && !y.is_empty());
    named.any(|(x, y)| x != y) || a.last() != b.last()
}

/// User, role, type and level; a level has colons of its own.
fn split(label: &str) -> [&str; 4] {
    let mut parts = label.splitn(4, ':');
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// The label of files; none when nothing is said.
fn label_of(options: &Options) -> String {
    let parts = [&options.user, &options.role, &options.kind, &options.level];
    if parts.iter().all(|p| p.is_empty()) {
        return String::new();
    }
    parts.map(String::as_str).join(":")
}

/// The labels that the containers of a pod want for each volume they mount.
fn labels(pod: &Pod) -> BTreeMap<&str, BTreeSet<String>> {
    let spec = &pod.spec;
    let all = [
        &spec.init_containers,
        &spec.containers,
        &spec.ephemeral_containers,
    ];
    let mut labels: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for container in all.into_iter().flatten() {
        let own = container.security_context.options.as_ref();
        let options = own.or(spec.security_context.options.as_ref());
        for mount in &container.volume_mounts {
            let labels = labels.entry(mount.name.as_str()).or_default();
            labels.extend(options.map(label_of));
        }
    }
    labels
}

/// What a pod wants for its volumes, and the volumes that its containers want with several labels. `volume_of` gives the
/// volume that stands for one of the pod, where there is one whose driver mounts it with a label.
pub fn decide(
    pod: &Pod,
    volume_of: impl Fn(&Volume) -> Resolved,
) -> (BTreeMap<String, Mark>, Vec<String>) {
    let (mut marks, mut several) = (BTreeMap::new(), Vec::new());
    let labels = labels(pod);
    for volume in &pod.spec.volumes {
        let Some(labels) = labels.get(volume.name.as_str()) else {
            continue;
        };
        let resolved = volume_of(volume);
        if resolved == Resolved::NotYet {
            continue;
        }
        if labels.len() > 1 {
            several.push(volume.name.clone());
            continue;
        }
        let Resolved::Mounted(unique) = resolved else {
            continue;
        };
        let policy = pod.spec.security_context.policy.as_deref();
        let label = labels.first().filter(|_| policy != Some(RECURSIVE));
        let label = label.cloned().unwrap_or_default();
        // Without a label there is nothing to mount with.
        let policy = match policy {
            _ if label.is_empty() => RECURSIVE,
            None => MOUNT_OPTION,
            Some(policy) => policy,
        };
        let mark = Mark {
            label,
            policy: policy.to_owned(),
        };
        marks.insert(unique, mark);
    }
    (marks, several)
}

/// What stands for a volume of a pod.
#[derive(Debug, PartialEq, Eq)]
pub enum Resolved {
    /// Its claim is not bound.
    NotYet,
    /// One whose files are labelled one by one: there is nothing to be in conflict about.
    Other,
    /// One that is mounted with a label.
    Mounted(String),
}

#[derive(Clone)]
struct Warner {
    ctx: Context,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    drivers: Store<CsiDriver>,
    marks: Arc<Mutex<Marks>>,
    queue: WorkQueue<ObjectKey>,
}

fn claim_of(pod: &Pod, volume: &Volume) -> Option<String> {
    match &volume.persistent_volume_claim {
        Some(source) => Some(source.claim_name.clone()),
        None => {
            let own = format!("{}-{}", pod.metadata.name, volume.name);
            volume.ephemeral.as_ref().map(|_| own)
        }
    }
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let pods = ctx.informer::<Pod>(&PODS);
    let claims = ctx.informer::<PersistentVolumeClaim>(&PERSISTENT_VOLUME_CLAIMS);
    let volumes = ctx.informer::<PersistentVolume>(&PERSISTENT_VOLUMES);
    let drivers = ctx.informer::<CsiDriver>(&CSI_DRIVERS);
    pods.store().add_index(BY_CLAIM, |p: &Pod| {
        let names = p.spec.volumes.iter().filter_map(|v| claim_of(p, v));
        names
            .map(|name| format!("{}/{name}", p.metadata.namespace))
            .collect()
    });
    let queue = ctx.queue("selinux_warning");
    let it = Warner {
        pods: pods.store(),
        claims: claims.store(),
        volumes: volumes.store(),
        drivers: drivers.store(),
        marks: Arc::default(),
        queue: queue.clone(),
        ctx: ctx.clone(),
    };
    let me = it.clone();
    pods.on_change(move |change| {
        // What a pod says of labels never changes; it matters when it comes and when it is over.
        let over = |p: &Pod| matches!(p.status.phase.as_str(), "Succeeded" | "Failed");
        let pod = change.object();
        if change.old().is_none_or(|old| over(old) != over(pod))
            || matches!(change, Change::Deleted(_))
        {
            me.queue.add(ObjectKey::of(&**pod));
        }
    });
    let me = it.clone();
    claims.on_change(move |change| {
        let claim = change.object();
        let bound =
            |c: &PersistentVolumeClaim| (c.status.phase == "Bound", c.spec.volume_name.clone());
        if change.old().is_none_or(|old| bound(old) != bound(claim)) {
            me.pods_of(&ObjectKey::of(&**claim));
        }
    });
    let me = it.clone();
    volumes.on_change(move |change| {
        let spec = &change.object().spec;
        if let Some(r) = &spec.claim_ref
            && change
                .old()
                .is_none_or(|o| o.spec.claim_ref.as_ref() != Some(r))
        {
            me.pods_of(&ObjectKey::new(r.namespace.as_str(), r.name.as_str()));
        }
    });
    let me = it.clone();
    drivers.on_change(move |change| {
        let mounts = |d: &CsiDriver| d.spec.se_linux_mount == Some(true);
        let now = mounts(change.object()) && !matches!(change, Change::Deleted(_));
        let before = match change {
            Change::Deleted(d) => mounts(d),
            _ => change.old().is_some_and(|d| mounts(d)),
        };
        if now != before {
            let name = &change.object().metadata.name;
            for volume in me.volumes.list() {
                if let (Some(csi), Some(r)) = (&volume.spec.csi, &volume.spec.claim_ref)
                    && csi.driver == *name
                {
                    me.pods_of(&ObjectKey::new(r.namespace.as_str(), r.name.as_str()));
                }
            }
        }
    });
    ctx.run(queue, 1, move |key| {
        let it = it.clone();
        async move {
            it.pod(&key);
            Ok::<_, client::Error>(None)
        }
    });
}

impl Warner {
    fn pods_of(&self, claim: &ObjectKey) {
        for pod in self.pods.by_index(BY_CLAIM, &claim.to_string()) {
            self.queue.add(ObjectKey::of(&*pod));
        }
    }

    fn pod(&self, key: &ObjectKey) {
        let pod = self.pods.get_key(key);
        let pod = pod.filter(|p| !matches!(p.status.phase.as_str(), "Succeeded" | "Failed"));
        let marks = match &pod {
            None => BTreeMap::new(),
            Some(pod) => {
                let (marks, several) = decide(pod, |volume| self.resolve(pod, volume));
                for volume in several {
                    let what = format!(
                        "Volume {volume:?} is mounted twice with different SELinux labels inside this pod"
                    );
                    self.tell(pod, EventType::Warning, "MultipleSELinuxLabels", &what);
                }
                marks
            }
        };
        let conflicts = self
            .marks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .set(key, marks);
        for conflict in conflicts {
            if let Some(pod) = self.pods.get_key(&conflict.pod) {
                self.tell(&pod, EventType::Normal, conflict.reason, &conflict.message);
            }
        }
    }

    fn tell(&self, pod: &Pod, kind: EventType, reason: &str, message: &str) {
        let pod = ObjectReference::of(&PODS, pod);
        self.ctx.recorder.event(pod, kind, reason, message);
    }

    fn resolve(&self, pod: &Pod, volume: &Volume) -> Resolved {
        let Some(name) = claim_of(pod, volume) else {
            return Resolved::Other;
        };
        let claim = self.claims.get(&pod.metadata.namespace, &name);
        let Some(claim) = claim.filter(|c| c.status.phase == "Bound") else {
            return Resolved::NotYet;
        };
        let owner = claim.metadata.controller();
        let own = owner.is_some_and(|o| o.uid == pod.metadata.uid);
        if volume.persistent_volume_claim.is_none() && !own {
            return Resolved::NotYet;
        }
        let Some(bound) = self.volumes.get("", &claim.spec.volume_name) else {
            return Resolved::NotYet;
        };
        let reference = bound.spec.claim_ref.as_ref();
        if reference.is_none_or(|r| r.uid != claim.metadata.uid) {
            return Resolved::NotYet;
        }
        let Some(csi) = &bound.spec.csi else {
            return Resolved::Other;
        };
        let driver = self.drivers.get("", &csi.driver);
        if driver.is_none_or(|d| d.spec.se_linux_mount != Some(true)) {
            return Resolved::Other;
        }
        Resolved::Mounted(unique_name(&csi.driver, &csi.volume_handle))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn labels_conflict_where_both_say_something_and_in_their_levels() {
        for (a, b, want) in [
            ("", "", false),
            ("u:r:t:s0:c1,c2", "u:r:t:s0:c1,c2", false),
            ("u:r:t:s0:c1,c2", ":::s0:c1,c2", false),
            (":::s0:c1,c2", "u:r:t:s0:c1,c2", false),
            ("u:r:t:s0", "u:r::s0", false),
            ("u:r:t:s0", ":r:t:s0", false),
            ("u:r:t:s0", "v:r:t:s0", true),
            ("u:r:t:s0", "u:q:t:s0", true),
            ("u:r:t:s0", "u:r:x:s0", true),
            ("u:r:t:s0:c1,c2", ":::s0:c98,c99", true),
            (":::s0:c1,c2", "", true),
            (":::s0:c1,c2", ":::", true),
            ("u:r:t:", "u:r:t:", false),
            ("u:r:t:", "", false),
            (":::", "", false),
        ] {
            assert_eq!(is_conflict(a, b), want, "{a} {b}");
            assert_eq!(is_conflict(b, a), want, "{b} {a}");
        }
    }

    fn mark(label: &str, policy: &str) -> Mark {
        Mark {
            label: label.into(),
            policy: policy.into(),
        }
    }

    fn uses(volume: &str, label: &str, policy: &str) -> BTreeMap<String, Mark> {
        [(volume.to_owned(), mark(label, policy))].into()
    }

    #[test]
    fn both_pods_are_told_of_a_conflict_once() {
        let label = (":::s0:c1", ":::s0:c2");
        let near = |p: &str, a: &str, other: &str, b: &str| {
            format!(
                "{p} \"{a}\" conflicts with pod {other} that uses the same volume as this pod with {p} \"{b}\". If both pods land on the same node, only one of them may access the volume."
            )
        };
        let far = |p: &str, a: &str| {
            format!(
                "{p}\"{a}\" conflicts with another pod that uses the same volume as this pod with a different {p}. If both pods land on the same node, only one of them may access the volume."
            )
        };
        for (what, other, volume, now, want) in [
            (
                "another volume",
                "n/q",
                "w",
                mark(label.1, MOUNT_OPTION),
                vec![],
            ),
            ("the same", "n/q", "v", mark(label.0, MOUNT_OPTION), vec![]),
            (
                "another label",
                "n/q",
                "v",
                mark(label.1, MOUNT_OPTION),
                vec![
                    ("n/q", near("SELinuxLabel", label.1, "p", label.0)),
                    ("n/p", near("SELinuxLabel", label.0, "q", label.1)),
                ],
            ),
            (
                "another label in another namespace",
                "m/q",
                "v",
                mark(label.1, MOUNT_OPTION),
                vec![
                    ("m/q", far("SELinuxLabel", label.1)),
                    ("n/p", far("SELinuxLabel", label.0)),
                ],
            ),
            (
                "another policy",
                "n/q",
                "v",
                mark(label.0, RECURSIVE),
                vec![
                    (
                        "n/q",
                        near("SELinuxChangePolicy", RECURSIVE, "p", MOUNT_OPTION),
                    ),
                    (
                        "n/p",
                        near("SELinuxChangePolicy", MOUNT_OPTION, "q", RECURSIVE),
                    ),
                ],
            ),
            (
                "another policy and no label",
                "n/q",
                "v",
                mark("", RECURSIVE),
                vec![
                    (
                        "n/q",
                        near("SELinuxChangePolicy", RECURSIVE, "p", MOUNT_OPTION),
                    ),
                    (
                        "n/p",
                        near("SELinuxChangePolicy", MOUNT_OPTION, "q", RECURSIVE),
                    ),
                    ("n/q", near("SELinuxLabel", "", "p", label.0)),
                    ("n/p", near("SELinuxLabel", label.0, "q", "")),
                ],
            ),
        ] {
            let mut marks = Marks::default();
            let key = |pod: &str| {
                let (namespace, name) = pod.split_once('/').unwrap();
                ObjectKey::new(namespace, name)
            };
            assert!(
                marks
                    .set(&key("n/p"), uses("v", label.0, MOUNT_OPTION))
                    .is_empty()
            );
            let uses: BTreeMap<String, Mark> = [(volume.to_owned(), now)].into();
            let told = marks.set(&key(other), uses.clone());
            let told: Vec<(String, String)> = told
                .into_iter()
                .map(|c| (c.pod.to_string(), c.message))
                .collect();
            let want: Vec<(String, String)> =
                want.into_iter().map(|(p, m)| (p.to_owned(), m)).collect();
            assert_eq!(told, want, "{what}");
            assert!(marks.set(&key(other), uses).is_empty(), "{what}, again");
            marks.set(&key(other), BTreeMap::new());
            marks.set(&key("n/p"), BTreeMap::new());
            assert!(marks.volumes.is_empty() && marks.pods.is_empty(), "{what}");
        }
    }

    #[test]
    fn a_pod_that_is_over_is_in_no_conflict() {
        let mut marks = Marks::default();
        let (p, q) = (ObjectKey::new("n", "p"), ObjectKey::new("n", "q"));
        marks.set(&p, uses("v", "a:::", MOUNT_OPTION));
        marks.set(&p, BTreeMap::new());
        assert!(marks.set(&q, uses("v", "b:::", MOUNT_OPTION)).is_empty());
        // One that changes its mind is compared anew, with others than itself.
        assert!(marks.set(&q, uses("v", "c:::", MOUNT_OPTION)).is_empty());
        assert_eq!(marks.set(&p, uses("v", "b:::", MOUNT_OPTION)).len(), 2);
        assert!(marks.set(&p, uses("v", "c:::", MOUNT_OPTION)).is_empty());
        assert_eq!(marks.set(&q, uses("v", "d:::", MOUNT_OPTION)).len(), 2);
    }

    /// Quadratic growth: of a volume that thousands of pods want with labels of their own, not each is told of each.
    #[test]
    fn thousands_of_labels_are_not_compared_aloud() {
        let mut marks = Marks::default();
        for n in 0..3000 {
            let pod = ObjectKey::new("n", format!("p{n}"));
            let told = marks.set(&pod, uses("v", &format!("u{n}:::"), MOUNT_OPTION));
            assert!(told.len() <= BURST + 2);
        }
    }

    fn pod(security: Value, containers: Value) -> Pod {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {"securityContext": security, "containers": containers, "volumes": [{"name": "v"}]},
        });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn what_a_pod_wants_is_what_its_containers_say_or_else_the_pod() {
        let level = |l: &str| json!({"seLinuxOptions": {"level": l}});
        let container =
            |security: Value| json!({"securityContext": security, "volumeMounts": [{"name": "v"}]});
        let nothing = || json!({});
        let both = |level: &str, policy: &str| json!({"seLinuxOptions": {"level": level}, "seLinuxChangePolicy": policy});
        let mounted = || Resolved::Mounted("u".into());
        for (what, security, containers, resolved, want, several) in [
            (
                "nothing",
                nothing(),
                json!([container(nothing())]),
                mounted(),
                Some(mark("", RECURSIVE)),
                false,
            ),
            (
                "the pod",
                level("s0"),
                json!([container(nothing())]),
                mounted(),
                Some(mark(":::s0", MOUNT_OPTION)),
                false,
            ),
            (
                "the container",
                level("s0"),
                json!([container(level("s1"))]),
                mounted(),
                Some(mark(":::s1", MOUNT_OPTION)),
                false,
            ),
            (
                "two that agree",
                nothing(),
                json!([container(level("s1")), container(level("s1"))]),
                mounted(),
                Some(mark(":::s1", MOUNT_OPTION)),
                false,
            ),
            (
                "two that do not",
                nothing(),
                json!([container(level("s1")), container(level("s2"))]),
                mounted(),
                None,
                true,
            ),
            (
                "one that says nothing",
                nothing(),
                json!([container(level("s1")), container(nothing())]),
                mounted(),
                Some(mark(":::s1", MOUNT_OPTION)),
                false,
            ),
            (
                "file by file",
                both("s0", RECURSIVE),
                json!([container(nothing())]),
                mounted(),
                Some(mark("", RECURSIVE)),
                false,
            ),
            (
                "by mount, said",
                both("s0", MOUNT_OPTION),
                json!([container(nothing())]),
                mounted(),
                Some(mark(":::s0", MOUNT_OPTION)),
                false,
            ),
            (
                "empty options",
                json!({"seLinuxOptions": {}}),
                json!([container(nothing())]),
                mounted(),
                Some(mark("", RECURSIVE)),
                false,
            ),
            (
                "not mounted",
                level("s0"),
                json!([{}]),
                mounted(),
                None,
                false,
            ),
            (
                "a driver that does not",
                level("s0"),
                json!([container(nothing())]),
                Resolved::Other,
                None,
                false,
            ),
            (
                "of it two that do not agree",
                nothing(),
                json!([container(level("s1")), container(level("s2"))]),
                Resolved::Other,
                None,
                true,
            ),
            (
                "not bound",
                nothing(),
                json!([container(level("s1")), container(level("s2"))]),
                Resolved::NotYet,
                None,
                false,
            ),
        ] {
            let resolved = std::cell::Cell::new(Some(resolved));
            let (marks, twice) = decide(&pod(security, containers), |_| resolved.take().unwrap());
            assert_eq!(marks.get("u"), want.as_ref(), "{what}");
            assert_eq!(!twice.is_empty(), several, "{what}");
        }
    }
}
