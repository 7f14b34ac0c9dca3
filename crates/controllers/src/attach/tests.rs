use std::cell::RefCell;

use super::decide::{Held, PATIENCE, Plan, UNMOUNTING};
use super::*;

const UNIQUE: &str = "kubernetes.io/csi/d^h";

/// One volume, a driver that does what it is told to, and nodes.
struct Bench {
    volume: Volume,
    now: Instant,
    attachments: RefCell<BTreeMap<String, VolumeAttachment>>,
    nodes: BTreeMap<String, NodeLook>,
    attachable: bool,
    by_force: bool,
    compare: bool,
    /// What the driver says to an attempt to attach; none says that it is done.
    attach_error: Option<&'static str>,
    detach_error: Option<&'static str>,
    /// The driver says nothing.
    silent: bool,
    /// Nodes cannot be told.
    untold: bool,
    /// What nodes say when they are asked.
    still_used: BTreeSet<String>,
    events: Vec<String>,
    calls: Vec<String>,
}

impl Bench {
    fn new(exclusive: bool) -> Bench {
        let ready = NodeLook {
            ready: true,
            out_of_service: false,
        };
        let mut volume = Volume::new("d", "h");
        volume.name = "pv".into();
        volume.exclusive = exclusive;
        Bench {
            volume,
            now: Instant::now(),
            attachments: RefCell::default(),
            nodes: ["a", "b", "c"].map(|n| (n.to_owned(), ready)).into(),
            attachable: true,
            by_force: true,
            compare: true,
            attach_error: None,
            detach_error: None,
            silent: false,
            untold: false,
            still_used: BTreeSet::new(),
            events: Vec::new(),
            calls: Vec::new(),
        }
    }

    fn want(&mut self, node: &str, pod: &str) {
        let (namespace, name) = pod.split_once('/').unwrap();
        let pods = self.volume.wanted.entry(node.into()).or_default();
        pods.insert(ObjectKey::new(namespace, name), format!("uid-{name}"));
    }

    fn leave(&mut self, node: &str) {
        self.volume.wanted.remove(node);
    }

    fn place(&mut self, node: &str) -> &mut decide::Place {
        self.volume.places.get_mut(node).unwrap()
    }

    /// The node says what it uses.
    fn node_says(&mut self, node: &str, in_use: bool) {
        self.place(node).in_use = in_use;
    }

    fn step(&mut self) -> Plan {
        let attachments = &self.attachments;
        let nodes = &self.nodes;
        self.volume.step(&Look {
            now: self.now,
            attachment: &|n| attachments.borrow().get(n).cloned().map(Arc::new),
            node: &|n| nodes.get(n).copied().unwrap_or_default(),
            attachable: self.attachable,
            by_force: self.by_force,
            compare: self.compare,
        })
    }

    /// Steps and does what is to be done, until nothing is to be done.
    fn run(&mut self) -> Option<Duration> {
        for _ in 0..20 {
            let plan = self.step();
            if plan.acts.is_empty() {
                return plan.again;
            }
            for act in plan.acts {
                self.act(act);
            }
        }
        panic!("no end: {:?}", self.calls);
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Report(node) => self.calls.push(format!("report {node}")),
            Act::Tell {
                pods,
                failed,
                message,
            } => {
                let pods: Vec<String> = pods.iter().map(|(k, _)| k.to_string()).collect();
                let kind = if failed { "Warning" } else { "Normal" };
                self.events
                    .push(format!("{} {kind} {message}", pods.join(" ")));
            }
            Act::Attach(node) => {
                self.calls.push(format!("attach {node}"));
                let mut made = VolumeAttachment::default();
                if !self.silent {
                    made.status.attached = self.attach_error.is_none();
                    made.status.attach_error = self.attach_error.map(|m| decide::DriverError {
                        message: m.to_owned(),
                    });
                }
                self.attachments.get_mut().insert(node, made);
            }
            Act::Detach {
                node,
                verify,
                reported,
            } => {
                if self.untold {
                    self.volume.not_reported(&node, reported);
                    self.calls.push(format!("untold {node}"));
                    self.untold = false;
                    return;
                }
                let how = if verify { "" } else { " at once" };
                self.calls.push(format!("detach {node}{how}"));
                if verify && self.still_used.contains(&node) {
                    let told = self.volume.failed(&node, self.now, "in use");
                    assert_eq!(told, None);
                    return;
                }
                match (self.detach_error, self.silent) {
                    (Some(why), _) => {
                        let attachment = self.attachments.get_mut().get_mut(&node).unwrap();
                        attachment.status.detach_error = Some(decide::DriverError {
                            message: why.to_owned(),
                        });
                    }
                    (None, true) => {}
                    (None, false) => {
                        if self.attachments.get_mut().remove(&node).is_none() {
                            self.volume.detached(&node);
                        }
                    }
                }
            }
        }
    }

    fn held(&self, node: &str) -> Held {
        self.volume.places.get(node).map_or(Held::No, |p| p.held)
    }
}

const SUCCEEDED: &str = "n/p Normal AttachVolume.Attach succeeded for volume \"pv\" ";

#[test]
fn a_volume_goes_where_it_is_wanted_and_leaves_when_it_is_not() {
    let mut it = Bench::new(true);
    assert_eq!(it.run(), None);
    assert!(it.calls.is_empty(), "nothing is wanted");

    it.want("a", "n/p");
    assert_eq!(it.run(), None);
    assert_eq!(it.calls, ["attach a", "report a"]);
    assert_eq!(it.events, [SUCCEEDED]);
    assert!(it.place("a").reported && it.place("a").in_use);

    // Nobody wants it, and the node has not spoken since.
    it.leave("a");
    assert_eq!(it.run(), Some(UNMOUNTING));
    it.now += Duration::from_secs(60);
    assert_eq!(it.run(), Some(UNMOUNTING - Duration::from_secs(60)));
    assert_eq!(it.calls.len(), 2);
    // It is wanted again: the time begins anew.
    it.want("a", "n/q");
    it.run();
    it.leave("a");
    assert_eq!(it.run(), Some(UNMOUNTING));

    it.node_says("a", false);
    assert_eq!(it.run(), None);
    assert_eq!(it.calls[2..], ["detach a"]);
    assert!(it.volume.is_forgotten());
    assert!(it.attachments.get_mut().is_empty());
}

#[test]
fn a_volume_that_is_in_use_is_taken_only_from_nodes_that_are_gone() {
    let past = UNMOUNTING + Duration::from_secs(1);
    let zero = Duration::ZERO;
    let look = |ready, out_of_service| {
        Some(NodeLook {
            ready,
            out_of_service,
        })
    };
    for (what, in_use, node, after, by_force, want) in [
        (
            "not used",
            false,
            look(true, false),
            zero,
            true,
            Some("detach a"),
        ),
        (
            "not used on a node that is not ready",
            false,
            look(false, false),
            zero,
            true,
            Some("detach a"),
        ),
        ("used", true, look(true, false), zero, true, None),
        (
            "used for long on a node that is ready",
            true,
            look(true, false),
            past,
            true,
            None,
        ),
        (
            "not used any more after long",
            false,
            look(true, false),
            past,
            true,
            Some("detach a at once"),
        ),
        (
            "used on a node that is not ready",
            true,
            look(false, false),
            zero,
            true,
            None,
        ),
        (
            "used for long on a node that is not ready",
            true,
            look(false, false),
            past,
            true,
            Some("detach a at once"),
        ),
        (
            "the same, without force",
            true,
            look(false, false),
            past,
            false,
            None,
        ),
        (
            "not used, without force",
            false,
            look(false, false),
            past,
            false,
            Some("detach a"),
        ),
        ("used on a node that is gone", true, None, zero, true, None),
        (
            "used for long on a node that is gone",
            true,
            None,
            past,
            true,
            Some("detach a at once"),
        ),
        (
            "used on a node that is out of service",
            true,
            look(false, true),
            zero,
            true,
            Some("detach a at once"),
        ),
        (
            "the same, without force",
            true,
            look(false, true),
            zero,
            false,
            Some("detach a at once"),
        ),
        (
            "out of service and ready",
            true,
            look(true, true),
            zero,
            true,
            Some("detach a at once"),
        ),
    ] {
        let mut it = Bench::new(true);
        it.by_force = by_force;
        it.want("a", "n/p");
        it.run();
        it.calls.clear();
        it.leave("a");
        it.node_says("a", true);
        // Its time begins when it is wanted no more.
        it.run();
        it.node_says("a", in_use);
        match node {
            Some(node) => it.nodes.insert("a".into(), node),
            None => it.nodes.remove("a"),
        };
        it.now += after;
        it.run();
        assert_eq!(it.calls.first().map(String::as_str), want, "{what}");
        assert_eq!(it.volume.is_forgotten(), want.is_some(), "{what}");
    }
}

#[test]
fn a_volume_of_many_is_on_many_nodes_at_once() {
    let mut it = Bench::new(false);
    it.want("a", "n/p");
    it.want("b", "n/q");
    it.run();
    assert_eq!(it.calls, ["attach a", "attach b", "report a", "report b"]);
    it.leave("a");
    it.leave("b");
    it.node_says("a", false);
    it.node_says("b", false);
    it.run();
    assert_eq!(it.calls[4..], ["detach a", "detach b"]);
    assert!(it.volume.is_forgotten());
}

#[test]
fn an_exclusive_volume_is_on_one_node_and_others_are_told_once() {
    let mut it = Bench::new(true);
    it.want("a", "n/p");
    it.want("b", "n/q");
    it.run();
    it.run();
    assert_eq!(it.calls, ["attach a", "report a"]);
    assert_eq!(
        it.events,
        [
            SUCCEEDED,
            "n/q Warning Multi-Attach error for volume \"pv\" Volume is already used by pod(s) p",
        ]
    );
    // While it leaves the one node no call is made for the other.
    it.silent = true;
    it.leave("a");
    it.node_says("a", false);
    assert_eq!(it.run(), Some(PATIENCE));
    assert_eq!(it.calls[2..], ["detach a"]);
    it.silent = false;
    it.attachments.get_mut().clear();
    it.run();
    assert_eq!(it.calls[3..], ["attach b", "report b"]);
    assert_eq!(it.held("a"), Held::No);
    assert_eq!(it.events.len(), 3);

    // The same pods again: it is told again.
    it.leave("a");
    it.run();
    it.want("a", "n/p");
    it.run();
    assert_eq!(it.events.len(), 4);
}

#[test]
fn who_uses_an_exclusive_volume_is_told_to_its_own_namespace_only() {
    let elsewhere =
        "Volume is already exclusively attached to one node and can't be attached to another";
    for (others, want) in [
        (vec![], elsewhere),
        (vec![("b", "n/q")], "Volume is already used by pod(s) q"),
        (
            vec![("b", "m/q")],
            "Volume is already used by 1 pod(s) in different namespaces",
        ),
        (
            vec![("b", "m/q"), ("c", "n/r"), ("c", "n/s")],
            "Volume is already used by pod(s) r, s and 1 pod(s) in different namespaces",
        ),
    ] {
        let mut it = Bench::new(true);
        for node in ["b", "c"] {
            it.volume.found_on(node, true);
            let mut attached = VolumeAttachment::default();
            attached.status.attached = true;
            it.attachments.get_mut().insert(node.into(), attached);
        }
        it.want("a", "n/p");
        for (node, pod) in others {
            it.want(node, pod);
        }
        it.run();
        let about = "n/p Warning Multi-Attach error for volume \"pv\" ";
        assert_eq!(it.events, [format!("{about}{want}")]);
        assert!(it.calls.iter().all(|c| !c.starts_with("attach")));
    }
}

#[test]
fn a_failed_attempt_leaves_a_volume_perhaps_there() {
    let mut it = Bench::new(true);
    it.attach_error = Some("no room");
    it.want("a", "n/p");
    assert_eq!(it.run(), Some(Duration::from_millis(500)));
    let failed = "n/p Warning AttachVolume.Attach failed for volume \"pv\" : no room";
    assert_eq!(it.events, [failed]);
    assert_eq!(it.held("a"), Held::Perhaps);
    assert!(!it.place("a").reported);
    // Again after twice the time each time.
    it.now += Duration::from_millis(500);
    assert_eq!(it.run(), Some(Duration::from_secs(1)));
    assert_eq!(it.events, [failed, failed]);
    for _ in 0..12 {
        it.now += Duration::from_secs(122);
        it.run();
    }
    assert_eq!(
        it.run(),
        Some(Duration::from_secs(122)),
        "the longest delay"
    );

    // Another node may have it meanwhile.
    it.attach_error = None;
    it.leave("a");
    it.want("b", "n/q");
    it.run();
    assert_eq!(it.held("b"), Held::Yes);
    assert_eq!(it.held("a"), Held::Perhaps);

    // What the driver does in the end is seen without delay.
    let mut it = Bench::new(true);
    it.attach_error = Some("no room");
    it.want("a", "n/p");
    it.run();
    it.attachments
        .get_mut()
        .get_mut("a")
        .unwrap()
        .status
        .attached = true;
    it.run();
    assert_eq!(it.held("a"), Held::Yes);
    assert_eq!(it.events[1..], [SUCCEEDED]);
}

#[test]
fn drivers_that_say_nothing_are_given_up() {
    let mut it = Bench::new(true);
    it.silent = true;
    it.want("a", "n/p");
    assert_eq!(it.run(), Some(PATIENCE));
    it.now += PATIENCE;
    it.run();
    assert_eq!(it.held("a"), Held::Perhaps);
    assert_eq!(
        it.events,
        [
            "n/p Warning AttachVolume.Attach failed for volume \"pv\" : timed out waiting for external-attacher of d CSI driver to attach volume h"
        ]
    );
    assert_eq!(it.calls, ["attach a"], "the attachment is there");

    // The same on its way back, of which no pod is told.
    let mut it = Bench::new(true);
    it.want("a", "n/p");
    it.run();
    it.silent = true;
    it.leave("a");
    it.node_says("a", false);
    it.run();
    it.now += PATIENCE;
    assert_eq!(it.run(), Some(Duration::from_millis(500)));
    assert_eq!(it.held("a"), Held::Perhaps);
    assert_eq!(it.events, [SUCCEEDED]);
}

#[test]
fn an_attachment_that_goes_is_not_waited_for() {
    let mut it = Bench::new(true);
    let mut going = VolumeAttachment::default();
    going.metadata.deletion_timestamp = Some(client::Time::UNIX_EPOCH);
    going.status.attached = true;
    it.attachments.get_mut().insert("a".into(), going);
    it.want("a", "n/p");
    it.run();
    assert_eq!(it.held("a"), Held::Perhaps);
    assert_eq!(
        it.events,
        [
            "n/p Warning AttachVolume.Attach failed for volume \"pv\" : volume attachment is being deleted"
        ]
    );
    it.attachments.get_mut().clear();
    it.now += Duration::from_millis(500);
    it.run();
    assert_eq!(it.held("a"), Held::Yes);
}

#[test]
fn a_node_that_cannot_be_told_or_says_no_keeps_its_volume() {
    let mut it = Bench::new(true);
    it.want("a", "n/p");
    it.run();
    it.calls.clear();
    it.leave("a");
    it.want("b", "n/q");
    it.node_says("a", false);
    it.untold = true;
    let plan = it.step();
    let detach = plan.acts.into_iter().next().unwrap();
    it.act(detach);
    assert!(it.place("a").reported, "it is told that it has the volume");
    assert_eq!(it.held("a"), Held::Yes);
    assert_eq!(it.held("b"), Held::No);

    it.still_used.insert("a".into());
    let plan = it.step();
    let detach = plan.acts.into_iter().next().unwrap();
    it.act(detach);
    assert_eq!(it.calls, ["untold a", "detach a"]);
    assert!(it.attachments.get_mut().contains_key("a"));
    assert_eq!(it.held("a"), Held::Perhaps);
    assert!(!it.place("a").reported);
}

#[test]
fn a_volume_that_could_not_be_detached_may_go_elsewhere_and_come_back() {
    let mut it = Bench::new(true);
    it.want("a", "n/p");
    it.run();
    it.detach_error = Some("stuck");
    it.leave("a");
    it.want("b", "n/q");
    it.node_says("a", false);
    it.run();
    assert_eq!(it.held("a"), Held::Perhaps);
    assert!(!it.place("a").reported);
    assert_eq!(it.held("b"), Held::Yes);

    // Wanted again where it perhaps is, and attached there all the time.
    let mut it = Bench::new(true);
    it.want("a", "n/p");
    it.run();
    it.detach_error = Some("stuck");
    it.leave("a");
    it.node_says("a", false);
    it.run();
    it.want("a", "n/p");
    it.run();
    assert_eq!(it.held("a"), Held::Yes);
    assert!(it.place("a").reported);
}

#[test]
fn what_was_attached_is_taken_over() {
    let attached = |attached: bool| {
        let mut it = VolumeAttachment::default();
        it.status.attached = attached;
        it
    };
    for (what, on_node, attachment, wanted, held, calls) in [
        (
            "on the node and wanted",
            true,
            Some(true),
            true,
            Held::Yes,
            vec![],
        ),
        (
            "on the node and not wanted",
            true,
            Some(true),
            false,
            Held::No,
            vec!["detach a"],
        ),
        (
            "on the node, and its attachment is gone",
            true,
            None,
            true,
            Held::Yes,
            vec!["report a", "attach a", "report a"],
        ),
        (
            "the same, not wanted",
            true,
            None,
            false,
            Held::No,
            vec!["report a"],
        ),
        (
            "an attachment, wanted",
            false,
            Some(true),
            true,
            Held::Yes,
            vec!["report a"],
        ),
        (
            "an attachment, not wanted",
            false,
            Some(true),
            false,
            Held::No,
            vec!["detach a"],
        ),
        (
            "one under way, not wanted",
            false,
            Some(false),
            false,
            Held::No,
            vec!["detach a"],
        ),
        (
            "nothing, wanted",
            false,
            None,
            true,
            Held::Yes,
            vec!["attach a", "report a"],
        ),
    ] {
        let mut it = Bench::new(true);
        if on_node {
            it.volume.found_on("a", false);
        }
        if let Some(is) = attachment {
            it.attachments.get_mut().insert("a".into(), attached(is));
            it.volume.found_attachment("a");
        }
        if wanted {
            it.want("a", "n/p");
        } else if !on_node {
            it.node_says("a", false);
        }
        it.run();
        assert_eq!(it.held("a"), held, "{what}");
        assert_eq!(it.calls, calls, "{what}");
    }
}

#[test]
fn attachments_that_go_by_themselves_are_made_again() {
    for (what, compare, attachable, calls) in [
        (
            "noticed",
            true,
            true,
            vec!["report a", "attach a", "report a"],
        ),
        ("not compared", false, true, vec![]),
        ("a driver that attaches nothing", true, false, vec![]),
    ] {
        let mut it = Bench::new(true);
        it.want("a", "n/p");
        it.run();
        it.calls.clear();
        it.compare = compare;
        it.attachable = attachable;
        it.attachments.get_mut().clear();
        it.run();
        assert_eq!(it.calls, calls, "{what}");
        assert_eq!(it.held("a"), Held::Yes, "{what}");
    }
}

#[test]
fn a_step_makes_no_more_calls_than_a_burst() {
    let mut it = Bench::new(false);
    let nodes = crate::children::BURST + 1;
    for n in 0..nodes {
        it.want(&format!("node-{n:05}"), "n/p");
    }
    let plan = it.step();
    assert_eq!(plan.acts.len(), crate::children::BURST);
    assert!(plan.again.is_some_and(|w| w < Duration::from_secs(1)));
    for act in plan.acts {
        it.act(act);
    }
    it.run();
    let attached = it.calls.iter().filter(|c| c.starts_with("attach"));
    assert_eq!(attached.count(), nodes);
}

#[test]
fn names_are_upstreams() {
    // sha256("hda"), the handle first.
    assert_eq!(
        attachment_name("d", "h", "a"),
        format!(
            "csi-{}",
            "c7e15073db8a31851603fca8ebbbef87d485d00357b279084c86b1900878603f"
        )
    );
    assert_eq!(unique_name("d", "h"), UNIQUE);
    assert_eq!(parts(UNIQUE), Some(("d", "h")));
    assert_eq!(parts("kubernetes.io/csi/d^h^i"), Some(("d", "h^i")));
    assert_eq!(parts("kubernetes.io/iscsi/x"), None);
    assert_eq!(parts("kubernetes.io/csi/x"), None);
}

#[test]
fn modes_say_whether_a_volume_is_exclusive() {
    for (modes, want) in [
        (json!([]), false),
        (json!(["ReadWriteOnce"]), true),
        (json!(["ReadWriteOncePod"]), true),
        (json!(["ReadWriteOnce", "ReadOnlyMany"]), false),
        (json!(["ReadWriteMany"]), false),
    ] {
        let volume = json!({"metadata": {"name": "v"}, "spec": {"accessModes": modes}});
        let volume: PersistentVolume = serde_json::from_value(volume).unwrap();
        assert_eq!(is_exclusive(&volume), want, "{modes}");
    }
}

#[test]
fn the_world_knows_who_uses_what_and_who_was_told() {
    let mut world = World::default();
    let pod = ObjectKey::new("n", "p");
    let uses = |uid: &str, node: &str, volumes: &[&str]| {
        Some(Uses {
            uid: uid.into(),
            node: node.into(),
            volumes: volumes.iter().map(|v| (*v).to_owned()).collect(),
        })
    };
    let other = "kubernetes.io/csi/d^i";
    assert_eq!(world.uses(&pod, uses("1", "a", &[UNIQUE, other])).len(), 2);
    assert!(
        world
            .uses(&pod, uses("1", "a", &[UNIQUE, other]))
            .is_empty()
    );
    let news = world.uses(&pod, uses("1", "a", &[UNIQUE]));
    assert_eq!(news.into_iter().collect::<Vec<_>>(), [other]);
    assert!(!world.volumes.contains_key(other), "nobody knows it");

    // Another pod of its name on another node, and of another UID on the same.
    world.uses(&pod, uses("2", "b", &[UNIQUE]));
    world.uses(&pod, uses("3", "b", &[UNIQUE]));
    let wanted = &world.volumes[UNIQUE].wanted;
    assert_eq!(wanted.keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(wanted["b"][&pod], "3");

    world.with(UNIQUE, |v| v.found_on("b", false));
    world.with(UNIQUE, |v| v.found_attachment("c"));
    let name = attachment_name("d", "h", "b");
    assert_eq!(
        world.by_attachment.get(&name).map(String::as_str),
        Some(UNIQUE)
    );
    assert_eq!(world.reported("b"), [UNIQUE]);
    assert!(world.reported("c").is_empty(), "perhaps there");
    assert!(world.reported("x").is_empty());

    assert_eq!(world.in_use("b", &[UNIQUE.to_owned()]), [UNIQUE]);
    assert!(world.in_use("b", &[UNIQUE.to_owned()]).is_empty());
    assert_eq!(world.in_use("c", &[]), [UNIQUE], "it was assumed");

    assert_eq!(world.uses(&pod, None).len(), 1);
    world.with(UNIQUE, |v| v.places.clear());
    assert!(world.volumes.is_empty() && world.pods.is_empty());
    assert!(world.on_node.is_empty() && world.by_attachment.is_empty());
}

#[test]
fn pods_that_are_over_use_nothing() {
    let stopped = json!([{"state": {"terminated": {"exitCode": 0}}}, {"state": {"waiting": {}}}]);
    let running = json!([{"state": {"terminated": {}}}, {"state": {"running": {}}}]);
    let deleted = json!("2026-01-01T00:00:00Z");
    for (phase, deleting, key, statuses, want) in [
        (
            "Running",
            Value::Null,
            "containerStatuses",
            stopped.clone(),
            false,
        ),
        (
            "Succeeded",
            Value::Null,
            "containerStatuses",
            running.clone(),
            true,
        ),
        ("Failed", Value::Null, "containerStatuses", json!([]), true),
        (
            "Running",
            deleted.clone(),
            "containerStatuses",
            stopped.clone(),
            true,
        ),
        (
            "Running",
            deleted.clone(),
            "containerStatuses",
            running.clone(),
            false,
        ),
        (
            "Running",
            deleted.clone(),
            "initContainerStatuses",
            running.clone(),
            false,
        ),
        (
            "Running",
            deleted.clone(),
            "ephemeralContainerStatuses",
            running,
            false,
        ),
        ("Pending", deleted, "containerStatuses", json!([]), true),
    ] {
        let pod = json!({"metadata": {"name": "p", "deletionTimestamp": deleting}, "status": {"phase": phase, key: statuses}});
        let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
        assert_eq!(is_over(&pod), want, "{phase} {deleting} {key} {statuses}");
    }
}

#[test]
fn a_pod_uses_what_its_claims_are_bound_to() {
    let owned = |uid: &str| json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}]);
    let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
    let own = json!({"name": "c", "ephemeral": {}});
    for (what, volume, claim, phase, reference, owners, want) in [
        ("bound", &named, "c", "Bound", "uc", json!([]), 1),
        ("not bound", &named, "c", "Pending", "uc", json!([]), 0),
        ("no claim", &named, "x", "Bound", "uc", json!([]), 0),
        ("bound to another", &named, "c", "Bound", "ux", json!([]), 0),
        (
            "made for the pod",
            &own,
            "p-c",
            "Bound",
            "uc",
            owned("up"),
            1,
        ),
        (
            "made for another",
            &own,
            "p-c",
            "Bound",
            "uc",
            owned("ux"),
            0,
        ),
        ("made for nobody", &own, "p-c", "Bound", "uc", json!([]), 0),
    ] {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "up"}, "spec": {"volumes": [volume]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let (claims, volumes) = (Store::default(), Store::default());
        let claim = json!({"metadata": {"name": claim, "namespace": "n", "uid": "uc", "ownerReferences": owners}, "spec": {"volumeName": "pv"}, "status": {"phase": phase}});
        claims.insert(Arc::new(serde_json::from_value(claim).unwrap()));
        let volume = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"uid": reference}, "csi": {"driver": "d", "volumeHandle": "h"}}});
        volumes.insert(Arc::new(serde_json::from_value(volume).unwrap()));
        assert_eq!(volumes_of(&pod, &claims, &volumes).len(), want, "{what}");
    }
}
