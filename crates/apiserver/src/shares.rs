//! What each kind of client may take of the server: places among the requests in flight, places for what lasts (watches,
//! streams, answers to slow readers), and bytes of bodies.
//!
//! Levels, their shares and who belongs to which are upstream's suggested priority levels and flow schemas
//! (`apiserver/pkg/apis/flowcontrol/bootstrap`), save that whoever is not authenticated is in `catch-all`. What a level may
//! not lend upstream is its own here; the rest is a pool for all but `catch-all`. Absent: objects of
//! `flowcontrol.apiserver.k8s.io` change nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use auth::UserInfo;
use component::places::{Level, Place, Places};

use crate::request_info::RequestInfo;

/// One of upstream's priority levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// What keeps nodes alive: their leases and status.
    NodeHigh,
    /// The rest of what nodes do.
    System,
    /// Leases of the control plane.
    LeaderElection,
    /// The control plane.
    WorkloadHigh,
    /// Service accounts.
    WorkloadLow,
    /// Users.
    GlobalDefault,
    /// Nobody in particular.
    CatchAll,
}

/// Name, shares, and the percentage that may be lent.
static LEVELS: [(Share, &str, usize, usize); 7] = [
    (Share::NodeHigh, "node-high", 40, 25),
    (Share::System, "system", 30, 33),
    (Share::LeaderElection, "leader-election", 10, 0),
    (Share::WorkloadHigh, "workload-high", 40, 50),
    (Share::WorkloadLow, "workload-low", 100, 90),
    (Share::GlobalDefault, "global-default", 20, 50),
    (Share::CatchAll, "catch-all", 5, 0),
];

/// Those that wait for a place of a level, at most; a quarter of them are one user's.
const QUEUE: usize = 128;

/// The level of a request; `None`: it needs no place (`system:masters`, probes, watches and streams).
pub fn share(user: &UserInfo, info: &RequestInfo) -> Option<Share> {
    let probe = !info.is_resource
        && info.verb == "get"
        && matches!(info.path.as_str(), "/healthz" | "/livez" | "/readyz");
    if info.long_running() || probe || user.in_group(auth::GROUP_MASTERS) {
        return None;
    }
    Some(level(user, info))
}

/// The level that a user's request counts for, whether it needs a place or not.
pub fn level(user: &UserInfo, info: &RequestInfo) -> Share {
    let leases = info.group == "coordination.k8s.io" && info.resource == "leases";
    let kube_system = user.name.starts_with("system:serviceaccount:kube-system:");
    let control_plane = matches!(
        user.name.as_str(),
        "system:kube-controller-manager" | "system:kube-scheduler"
    );
    if (kube_system || control_plane)
        && leases
        && matches!(info.verb.as_str(), "get" | "create" | "update" | "patch")
    {
        return Share::LeaderElection;
    }
    if user.in_group("system:nodes") {
        let own = info.group.is_empty()
            && info.resource == "nodes"
            && matches!(info.subresource.as_str(), "" | "status");
        return if leases || own {
            Share::NodeHigh
        } else {
            Share::System
        };
    }
    if kube_system || control_plane {
        Share::WorkloadHigh
    } else if user.in_group("system:serviceaccounts") {
        Share::WorkloadLow
    } else if user.in_group(auth::GROUP_AUTHENTICATED) {
        Share::GlobalDefault
    } else {
        Share::CatchAll
    }
}

/// What lasts, for each place in flight: with upstream's 600, 38,400 in all, of which one user has a quarter of what its level
/// can have, some 5,800. A kubelet has some hundreds of watches, a large installation's agents some thousands as one user.
const LASTING: usize = 64;

/// The places of a server.
pub struct Shares {
    flight: Arc<Places>,
    lasting: Arc<Places>,
}

impl Shares {
    /// `total` places in flight.
    pub fn new(total: usize) -> Shares {
        Shares {
            flight: places(total, QUEUE),
            lasting: places(total.saturating_mul(LASTING), 0),
        }
    }

    /// A place; waits for it. `None`: there is no room to wait.
    pub async fn enter(&self, share: Share, user: &str) -> Option<Place> {
        let at = LEVELS.iter().position(|l| l.0 == share)?;
        self.flight.enter(at, user).await.ok()
    }

    /// A place for what lasts, at once or not at all.
    pub async fn stay(&self, share: Share, user: &str) -> Option<Place> {
        let at = LEVELS.iter().position(|l| l.0 == share)?;
        self.lasting.enter(at, user).await.ok()
    }
}

/// `total` places, shared out. `queue`: those that wait for a place of a level, at most.
fn places(total: usize, queue: usize) -> Arc<Places> {
    let shares: usize = LEVELS.iter().map(|l| l.2).sum();
    let own = |(_, _, n, lent): &(Share, &str, usize, usize)| {
        (total
            .saturating_mul(n * (100 - lent))
            .div_ceil(shares * 100))
        .max(1)
    };
    let pool = total.saturating_sub(LEVELS.iter().map(own).sum());
    let levels = LEVELS.iter().map(|l| {
        let own = own(l);
        let pooled = l.0 != Share::CatchAll;
        Level {
            name: l.1,
            own,
            pooled,
            per_user: ((own + if pooled { pool } else { 0 }) / 4).max(1),
            queue: if pooled { queue } else { 0 },
            queue_per_user: queue / 4,
        }
    });
    Places::new(levels.collect(), pool)
}

/// Bytes of bodies that are held at once, from their first byte until their requests are answered.
const BYTES: usize = 64 * 1024 * 1024;
/// Of these, what one user may have.
const BYTES_PER_USER: usize = BYTES / 4;
/// Of these, what those may have who are neither nodes nor the control plane.
const BYTES_OF_OTHERS: usize = BYTES / 4 * 3;
/// Of these, what those may have who are not authenticated.
const BYTES_OF_NOBODY: usize = 4 * 1024 * 1024;
/// What the tree of one body, or a list read from the store, counts at most, so that the largest is let in beside others of
/// its user.
pub const TREE: usize = BYTES_PER_USER / 2;
/// What an object and any other value of a tree take, at least.
const OBJECT: usize = 640;
const VALUE: usize = 32;
/// What a body counts at least: the buffers of its stream and its task.
const LEAST: usize = 16 * 1024;

#[derive(Default)]
struct Held {
    all: usize,
    others: usize,
    nobody: usize,
    users: HashMap<Arc<str>, usize>,
}

/// The bytes of all bodies.
#[derive(Default)]
pub struct Budget(Mutex<Held>);

impl Budget {
    /// An account for one body. Those of `system:masters` are not counted.
    pub fn open(self: &Arc<Budget>, user: &UserInfo, share: Share) -> Option<Account> {
        let mut account = Account {
            budget: Arc::clone(self),
            user: user.name.as_str().into(),
            share,
            counted: !user.in_group(auth::GROUP_MASTERS),
            bytes: 0,
            paid: 0,
        };
        account.pay(LEAST).then_some(account)
    }
}

/// What one body takes of the [`Budget`]; given back when it is dropped.
pub struct Account {
    budget: Arc<Budget>,
    user: Arc<str>,
    share: Share,
    counted: bool,
    bytes: usize,
    paid: usize,
}

impl Account {
    /// More bytes came. `false`: there is no room for them.
    pub fn grow(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        let more = self.bytes.saturating_sub(self.paid);
        more == 0 || self.pay(more)
    }

    /// The body will be a tree. `false`: there is no room for it. Small objects take a hundred times their text.
    pub fn plant(&mut self, text: &[u8]) -> bool {
        let count = |sign: u8| text.iter().filter(|b| **b == sign).count();
        let tree = OBJECT * count(b'{') + VALUE * (count(b',') + count(b'['));
        self.grow(tree.min(TREE))
    }

    fn others(&self) -> bool {
        matches!(
            self.share,
            Share::WorkloadLow | Share::GlobalDefault | Share::CatchAll
        )
    }

    fn pay(&mut self, bytes: usize) -> bool {
        if !self.counted {
            return true;
        }
        let (others, nobody) = (self.others(), self.share == Share::CatchAll);
        let mut held = self.budget.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = held.users.get(&self.user).copied().unwrap_or(0) + bytes;
        if held.all + bytes > BYTES
            || mine > BYTES_PER_USER
            || (others && held.others + bytes > BYTES_OF_OTHERS)
            || (nobody && held.nobody + bytes > BYTES_OF_NOBODY)
        {
            return false;
        }
        held.all += bytes;
        held.others += if others { bytes } else { 0 };
        held.nobody += if nobody { bytes } else { 0 };
        held.users.insert(Arc::clone(&self.user), mine);
        self.paid += bytes;
        true
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.paid == 0 {
            return;
        }
        let (others, nobody) = (self.others(), self.share == Share::CatchAll);
        let mut held = self.budget.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.all -= self.paid;
        held.others -= if others { self.paid } else { 0 };
        held.nobody -= if nobody { self.paid } else { 0 };
        if let Some(mine) = held.users.get_mut(&self.user) {
            *mine -= self.paid;
            if *mine == 0 {
                held.users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn user(name: &str, group: &str) -> UserInfo {
        UserInfo {
            name: name.into(),
            groups: vec![group.into(), auth::GROUP_AUTHENTICATED.into()],
            ..UserInfo::default()
        }
    }

    fn info(method: &http::Method, path: &str) -> RequestInfo {
        RequestInfo::parse(method, path, &crate::query::Query::parse("")).unwrap()
    }

    #[test]
    fn levels_as_upstream_suggests() {
        let (get, put) = (http::Method::GET, http::Method::PUT);
        let node = user("system:node:a", "system:nodes");
        let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a";
        let pods = "/api/v1/namespaces/x/pods";
        let account = |ns: &str| {
            user(
                &format!("system:serviceaccount:{ns}:a"),
                "system:serviceaccounts",
            )
        };
        let scheduler = user("system:kube-scheduler", "");
        let nobody = UserInfo {
            name: auth::ANONYMOUS.into(),
            groups: vec![auth::GROUP_UNAUTHENTICATED.into()],
            ..UserInfo::default()
        };
        for (who, method, path, want) in [
            (&node, &put, lease, Some(Share::NodeHigh)),
            (&node, &put, "/api/v1/nodes/a/status", Some(Share::NodeHigh)),
            (&node, &get, pods, Some(Share::System)),
            (&scheduler, &put, lease, Some(Share::LeaderElection)),
            (&scheduler, &get, pods, Some(Share::WorkloadHigh)),
            (
                &account("kube-system"),
                &put,
                lease,
                Some(Share::LeaderElection),
            ),
            (
                &account("kube-system"),
                &get,
                pods,
                Some(Share::WorkloadHigh),
            ),
            (&account("x"), &get, pods, Some(Share::WorkloadLow)),
            (
                &user("jane", ""),
                &get,
                "/openapi/v2",
                Some(Share::GlobalDefault),
            ),
            (&nobody, &get, "/api", Some(Share::CatchAll)),
            (&nobody, &get, "/livez", None),
            (&nobody, &put, "/livez", Some(Share::CatchAll)),
            (&user("root", auth::GROUP_MASTERS), &get, pods, None),
            (&account("x"), &get, "/api/v1/watch/pods", None),
        ] {
            assert_eq!(share(who, &info(method, path)), want, "{} {path}", who.name);
        }
    }

    #[test]
    fn no_share_starves_another_and_no_user_has_it_all() {
        let shares = Shares::new(600);
        let take =
            |share: Share, name: &str| shares.enter(share, name).now_or_never().and_then(|p| p);
        let mut held = Vec::new();
        let one = std::iter::from_fn(|| take(Share::WorkloadLow, "a")).collect::<Vec<_>>();
        assert!((50..=150).contains(&one.len()), "{}", one.len());
        for share in [Share::WorkloadLow, Share::GlobalDefault, Share::CatchAll] {
            for n in 0..50 {
                held.extend(std::iter::from_fn(|| take(share, &n.to_string())));
            }
        }
        assert!(held.len() + one.len() < 600);
        for (share, least) in [
            (Share::NodeHigh, 70),
            (Share::System, 45),
            (Share::LeaderElection, 20),
            (Share::WorkloadHigh, 45),
        ] {
            let names: Vec<String> = (0..least).map(|n| n.to_string()).collect();
            let got: Vec<Place> = names.iter().filter_map(|n| take(share, n)).collect();
            assert_eq!(got.len(), least, "{share:?}");
        }
        let nobody = Shares::new(600);
        let got = std::iter::from_fn(|| {
            nobody
                .enter(Share::CatchAll, "x")
                .now_or_never()
                .and_then(|p| p)
        });
        assert!(got.collect::<Vec<_>>().len() < 10);
        // The smallest server still lets everybody in.
        let small = Shares::new(1);
        for (share, ..) in LEVELS {
            assert!(
                small
                    .enter(share, "x")
                    .now_or_never()
                    .and_then(|p| p)
                    .is_some()
            );
        }
    }

    #[test]
    fn what_lasts_is_shared_out_and_nobody_waits_for_it() {
        let shares = Shares::new(8);
        let stay = |share: Share, name: &str| {
            let place = shares.stay(share, name).now_or_never();
            place.expect("an answer at once")
        };
        let mine: Vec<Place> = std::iter::from_fn(|| stay(Share::WorkloadLow, "a")).collect();
        assert!(
            (50..=8 * LASTING / 4).contains(&mine.len()),
            "{}",
            mine.len()
        );
        assert!(stay(Share::WorkloadLow, "b").is_some());
        assert!(stay(Share::NodeHigh, "n").is_some());
        drop(mine);
        assert!(stay(Share::WorkloadLow, "a").is_some());
        assert!(
            Shares::new(usize::MAX)
                .stay(Share::System, "x")
                .now_or_never()
                .is_some()
        );
    }

    #[test]
    fn bodies_are_admitted_in_bytes() {
        let budget = Arc::new(Budget::default());
        let fill = |user: &UserInfo, share: Share| -> Vec<Account> {
            std::iter::from_fn(|| {
                let mut a = budget.open(user, share)?;
                a.grow(3 * 1024 * 1024).then_some(a)
            })
            .take(1000)
            .collect()
        };
        let jane = user("jane", "");
        let mine = fill(&jane, Share::GlobalDefault);
        assert_eq!(mine.len(), 5);
        let others: Vec<Vec<Account>> = (0..50)
            .map(|n| fill(&user(&n.to_string(), ""), Share::WorkloadLow))
            .collect();
        assert!(others.iter().map(Vec::len).sum::<usize>() <= 11);
        // Slow bodies that never bring a byte are counted too.
        let small = Arc::new(Budget::default());
        let slow = std::iter::from_fn(|| small.open(&jane, Share::GlobalDefault));
        let slow: Vec<Account> = slow.take(100_000).collect();
        assert_eq!(slow.len(), BYTES_PER_USER / LEAST);
        // What becomes a large tree counts as such, and one is let in whatever it becomes.
        let trees = Arc::new(Budget::default());
        let plant = |text: &str| {
            let mut a = trees.open(&jane, Share::GlobalDefault)?;
            (a.grow(text.len()) && a.plant(text.as_bytes())).then_some(a)
        };
        let (small, large) = (r#"{"a":{}}"#, "{},".repeat(1_000_000));
        let held: Vec<Account> = std::iter::from_fn(|| plant(&large)).take(100).collect();
        assert_eq!(held.len(), 1);
        assert!(plant(small).is_some());
        drop(held);
        assert!(std::iter::from_fn(|| plant(small)).take(500).count() == 500);
        // Nodes and the control plane have bytes of their own, and masters are not counted.
        assert!(!fill(&user("system:node:a", "system:nodes"), Share::NodeHigh).is_empty());
        let root = user("root", auth::GROUP_MASTERS);
        assert_eq!(fill(&root, Share::GlobalDefault).len(), 1000);
        drop((mine, others));
        let held = budget.0.lock().unwrap();
        assert_eq!((held.all, held.others, held.users.len()), (0, 0, 0));
    }
}
