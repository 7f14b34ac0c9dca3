//! service-cidr-controller: a ServiceCIDR is ready when it has the finalizer that keeps it, and stays while it is the only
//! one that holds an address in use.
//!
//! Addresses are allocated by the apiserver, which takes none of a range that is being deleted; it is given ten seconds to see
//! that.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::resource::{IP_ADDRESSES, SERVICE_CIDRS};
use client::{
    Change, EventType, ObjectKey, ObjectMeta, ObjectReference, Patch, Selector, Store, Time, views,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Context;
use crate::context::apply_status;
use crate::views::Condition;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Whose the condition is.
const MANAGER: &str = "service-cidr-controller";
/// How long the allocators have to see that a range is being deleted.
const GRACE: jiff::SignedDuration = jiff::SignedDuration::from_secs(10);
const IN_USE: &str = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";

/// `networking.k8s.io/v1.ServiceCIDR`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceCidr {
    metadata: ObjectMeta,
    spec: Spec,
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
}

/// `networking.k8s.io/v1.IPAddress`: its name is the address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    metadata: ObjectMeta,
}

views!(ServiceCidr, Address);

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    base: IpAddr,
    length: u8,
}

fn bits(ip: IpAddr, length: u8) -> (u128, u32) {
    let (value, width) = match ip {
        IpAddr::V4(a) => (u128::from(u32::from(a)), 32),
        IpAddr::V6(a) => (u128::from(a), 128),
    };
    let shift = u32::from(length).abs_diff(width);
    (value.checked_shr(shift).unwrap_or(0), width)
}

impl Range {
    fn parse(text: &str) -> Option<Range> {
        let (base, length) = text.split_once('/')?;
        let base: IpAddr = base.parse().ok()?;
        let length: u8 = length.parse().ok()?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        (length <= most).then_some(Range { base, length })
    }

    fn contains(self, ip: IpAddr) -> bool {
        bits(ip, self.length) == bits(self.base, self.length)
    }

    fn contains_range(self, other: Range) -> bool {
        self.length <= other.length && self.contains(other.base)
    }

    fn overlaps(self, other: Range) -> bool {
        self.contains_range(other) || other.contains_range(self)
    }
}

impl ServiceCidr {
    fn ranges(&self) -> impl Iterator<Item = Range> {
        self.spec.cidrs.iter().filter_map(|c| Range::parse(c))
    }

    fn holds(&self, ip: IpAddr) -> bool {
        self.ranges().any(|r| r.contains(ip))
    }
}

/// Whether no address would be left without a range.
fn may_go(cidr: &ServiceCidr, all: &[Arc<ServiceCidr>], addresses: &[IpAddr]) -> bool {
    let others: Vec<&Arc<ServiceCidr>> = all
        .iter()
        .filter(|o| o.metadata.name != cidr.metadata.name)
        .collect();
    let within = |r: Range| {
        others
            .iter()
            .any(|o| o.ranges().any(|p| p.contains_range(r)))
    };
    let mut ranges = cidr.ranges();
    if ranges.all(within) {
        return true;
    }
    let orphan = |ip: &IpAddr| cidr.holds(*ip) && !others.iter().any(|o| o.holds(*ip));
    !addresses.iter().any(orphan)
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// The finalizer, unless it is there, and then the condition, unless it is there.
    Ready { finalizer: bool, condition: bool },
    /// Told that it is in use, unless it is told already.
    InUse { condition: bool },
    /// Looked at again.
    Wait(Duration),
    /// Let go, if the finalizer is there.
    Release { finalizer: bool },
}

fn decide(
    cidr: &ServiceCidr,
    all: &[Arc<ServiceCidr>],
    addresses: impl FnOnce() -> Vec<IpAddr>,
    now: Time,
) -> Step {
    let has = cidr.metadata.finalizers.iter().any(|f| f == FINALIZER);
    let says = |status: &str, reason: &str, message: &str| {
        let ready = cidr.status.conditions.iter().find(|c| c.kind == "Ready");
        ready.is_some_and(|c| (&*c.status, &*c.reason, &*c.message) == (status, reason, message))
    };
    let Some(deleted) = cidr.metadata.deletion_timestamp else {
        let condition = !says("True", "", READY);
        return Step::Ready {
            finalizer: !has,
            condition,
        };
    };
    if !may_go(cidr, all, &addresses()) {
        return Step::InUse {
            condition: !says("False", "Terminating", IN_USE),
        };
    }
    let left = GRACE.saturating_sub(now.duration_since(deleted)).min(GRACE);
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => Step::Wait(left),
        _ => Step::Release { finalizer: has },
    }
}

const READY: &str = "Kubernetes Service CIDR is ready";

/// The condition to be applied.
fn condition(name: &str, status: &str, reason: &str, message: &str, now: Time) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
        "status": {"conditions": [{
            "type": "Ready", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": client::view::print_time(now),
        }]},
    })
}

struct Controller {
    ctx: Context,
    cidrs: Store<ServiceCidr>,
    addresses: Store<Address>,
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let cidrs = ctx.informer::<ServiceCidr>(&SERVICE_CIDRS);
    // Others' addresses keep no range.
    let addresses = ctx.informers.get::<Address>(
        &IP_ADDRESSES,
        Selector::labels("ipaddress.kubernetes.io/managed-by=ipallocator.k8s.io"),
    );
    let queue = ctx.queue("ipaddresses");
    let (q, store) = (queue.clone(), cidrs.store());
    cidrs.on_change(move |change| {
        let cidr = change.object();
        q.add(ObjectKey::of(&**cidr));
        if matches!(change, Change::Updated { .. }) {
            return;
        }
        // One more or less may free another, or not.
        for other in store.list() {
            if cidr.ranges().any(|r| other.ranges().any(|o| r.overlaps(o))) {
                q.add(ObjectKey::of(&*other));
            }
        }
    });
    let (q, store) = (queue.clone(), cidrs.store());
    addresses.on_change(move |change| {
        let Ok(ip) = change.object().metadata.name.parse::<IpAddr>() else {
            return;
        };
        if matches!(change, Change::Updated { .. }) {
            return;
        }
        // An address matters to those only that are to go.
        for cidr in store.list() {
            if cidr.metadata.is_deleting() && cidr.holds(ip) {
                q.add(ObjectKey::of(&*cidr));
            }
        }
    });
    let it = Arc::new(Controller {
        cidrs: cidrs.store(),
        addresses: addresses.store(),
        ctx: ctx.clone(),
    });
    ctx.run(queue, 5, move |key| {
        let it = it.clone();
        async move { it.sync(&key).await }
    });
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        let Some(cidr) = self.cidrs.get_key(key) else {
            return Ok(None);
        };
        let name = key.name.as_str();
        let used = || {
            let all = self.addresses.list();
            all.iter()
                .filter_map(|a| a.metadata.name.parse().ok())
                .collect()
        };
        let now = Time::now();
        match decide(&cidr, &self.cidrs.list(), used, now) {
            Step::Ready {
                finalizer,
                condition: tell,
            } => {
                if finalizer {
                    self.patch(name, json!({"finalizers": [FINALIZER]})).await?;
                }
                if tell && let Err(e) = self.tell(condition(name, "True", "", READY, now)).await {
                    self.ctx.recorder.event(
                        ObjectReference::of(&SERVICE_CIDRS, &*cidr),
                        EventType::Warning,
                        "KubernetesServiceCIDRError",
                        "The ServiceCIDR Status can not be set to Ready=True",
                    );
                    return Err(e);
                }
                Ok(None)
            }
            Step::InUse { condition: tell } => {
                if tell {
                    self.tell(condition(name, "False", "Terminating", IN_USE, now))
                        .await?;
                }
                Ok(None)
            }
            Step::Wait(left) => Ok(Some(left)),
            Step::Release { finalizer } => {
                if finalizer {
                    let body = json!({"$deleteFromPrimitiveList/finalizers": [FINALIZER]});
                    self.patch(name, body).await?;
                }
                Ok(None)
            }
        }
    }

    async fn patch(&self, name: &str, metadata: Value) -> Result<(), client::Error> {
        let api = self.ctx.client.api(&SERVICE_CIDRS);
        let patch = Patch::Strategic(json!({ "metadata": metadata }));
        match api.patch::<serde::de::IgnoredAny>(name, &patch).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    async fn tell(&self, object: Value) -> Result<(), client::Error> {
        let api = self.ctx.client.api(&SERVICE_CIDRS);
        let name = object.pointer("/metadata/name").and_then(Value::as_str);
        let name = name.unwrap_or_default().to_owned();
        apply_status(&api, &name, MANAGER, object).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(name: &str, ranges: &[&str], deleted: Option<&str>) -> ServiceCidr {
        serde_json::from_value(json!({
            "metadata": {"name": name, "deletionTimestamp": deleted, "finalizers": [FINALIZER]}, "spec": {"cidrs": ranges},
        }))
        .unwrap()
    }

    #[test]
    fn ranges_hold_addresses_and_ranges() {
        for (range, ip, holds) in [
            ("10.0.0.0/24", "10.0.0.255", true),
            ("10.0.0.0/24", "10.0.1.0", false),
            ("0.0.0.0/0", "10.0.1.0", true),
            ("0.0.0.0/0", "fd00::1", false),
            ("::/0", "fd00::1", true),
            ("::/0", "10.0.0.1", false),
            ("fd00::/64", "fd00::ffff", true),
            ("fd00::/64", "fd00:0:0:1::", false),
            ("10.0.0.1/32", "10.0.0.1", true),
        ] {
            assert_eq!(
                Range::parse(range).unwrap().contains(ip.parse().unwrap()),
                holds,
                "{range} {ip}"
            );
        }
        for (a, b, within, overlap) in [
            ("10.0.0.0/16", "10.0.1.0/24", true, true),
            ("10.0.1.0/24", "10.0.0.0/16", false, true),
            ("10.0.1.0/24", "10.0.1.0/24", true, true),
            ("10.0.1.0/24", "10.0.2.0/24", false, false),
            ("::/0", "10.0.2.0/24", false, false),
        ] {
            let (a, b) = (Range::parse(a).unwrap(), Range::parse(b).unwrap());
            assert_eq!(
                (a.contains_range(b), a.overlaps(b), b.overlaps(a)),
                (within, overlap, overlap),
                "{a:?} {b:?}"
            );
        }
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0.0/-1",
            "x/8",
        ] {
            assert_eq!(Range::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_range_goes_when_no_address_is_left_alone() {
        let four = "10.0.0.0/24";
        for (name, own, others, ips, want) in [
            ("nothing in it", vec![four], vec![], vec![], true),
            ("an address", vec![four], vec![], vec!["10.0.0.5"], false),
            (
                "an address elsewhere",
                vec![four],
                vec![],
                vec!["10.0.1.5"],
                true,
            ),
            (
                "a larger one",
                vec![four],
                vec![vec!["10.0.0.0/16"]],
                vec!["10.0.0.5"],
                true,
            ),
            (
                "the same once more",
                vec![four],
                vec![vec![four]],
                vec!["10.0.0.5"],
                true,
            ),
            (
                "a smaller one that has the address",
                vec![four],
                vec![vec!["10.0.0.0/25"]],
                vec!["10.0.0.5"],
                true,
            ),
            (
                "a smaller one that has not",
                vec![four],
                vec![vec!["10.0.0.128/25"]],
                vec!["10.0.0.5"],
                false,
            ),
            (
                "one that overlaps nothing",
                vec![four],
                vec![vec!["10.1.0.0/24"]],
                vec!["10.0.0.5"],
                false,
            ),
            (
                "both families, one within",
                vec![four, "fd00::/64"],
                vec![vec!["10.0.0.0/16"]],
                vec!["fd00::5"],
                false,
            ),
            (
                "both families, both within",
                vec![four, "fd00::/64"],
                vec![vec!["10.0.0.0/16", "fd00::/48"]],
                vec!["fd00::5", "10.0.0.5"],
                true,
            ),
            (
                "both families, each in one",
                vec![four, "fd00::/64"],
                vec![vec!["10.0.0.0/16"], vec!["fd00::/48"]],
                vec!["fd00::5", "10.0.0.5"],
                true,
            ),
        ] {
            let own = cidr("own", &own, Some("2020-01-01T00:00:00Z"));
            let mut all: Vec<Arc<ServiceCidr>> = others
                .iter()
                .enumerate()
                .map(|(i, r)| Arc::new(cidr(&format!("o{i}"), r, None)))
                .collect();
            all.push(Arc::new(own.clone()));
            let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(may_go(&own, &all, &ips), want, "{name}");
        }
    }

    #[test]
    fn steps() {
        let at = |s: i64| Time::from_second(1_577_836_800 + s).unwrap();
        let (deleted, used) = (Some("2020-01-01T00:00:00Z"), || {
            vec!["10.0.0.5".parse().unwrap()]
        });
        let with = |mut c: ServiceCidr, status: &str, reason: &str, message: &str| {
            c.status.conditions = vec![Condition {
                kind: "Ready".into(),
                status: status.into(),
                reason: reason.into(),
                message: message.into(),
                ..Condition::default()
            }];
            c
        };
        let bare = |mut c: ServiceCidr| {
            c.metadata.finalizers.clear();
            c
        };
        let one = |d| cidr("own", &["10.0.0.0/24"], d);
        let step = |c: &ServiceCidr, now| decide(c, &[Arc::new(c.clone())], Vec::new, at(now));
        let busy = |c: &ServiceCidr| decide(c, &[Arc::new(c.clone())], used, at(60));
        assert_eq!(
            step(&bare(one(None)), 0),
            Step::Ready {
                finalizer: true,
                condition: true
            }
        );
        assert_eq!(
            step(&one(None), 0),
            Step::Ready {
                finalizer: false,
                condition: true
            }
        );
        assert_eq!(
            step(&with(one(None), "True", "", READY), 0),
            Step::Ready {
                finalizer: false,
                condition: false
            }
        );
        assert_eq!(
            step(&with(one(None), "False", "", READY), 0),
            Step::Ready {
                finalizer: false,
                condition: true
            }
        );
        assert_eq!(busy(&one(deleted)), Step::InUse { condition: true });
        assert_eq!(
            busy(&with(one(deleted), "False", "Terminating", IN_USE)),
            Step::InUse { condition: false }
        );
        assert_eq!(step(&one(deleted), 0), Step::Wait(Duration::from_secs(10)));
        assert_eq!(step(&one(deleted), 9), Step::Wait(Duration::from_secs(1)));
        assert_eq!(
            step(&one(deleted), -9),
            Step::Wait(Duration::from_secs(10)),
            "clocks that go wrong hold it up no longer"
        );
        assert_eq!(step(&one(deleted), 10), Step::Release { finalizer: true });
        assert_eq!(
            step(&bare(one(deleted)), 10),
            Step::Release { finalizer: false }
        );
    }
}
