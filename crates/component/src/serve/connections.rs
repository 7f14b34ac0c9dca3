//! Which connections are open, from where, and which of them has to go when there are too many.
//!
//! A connection is *known* once a request on it was authenticated. Invariants: no address holds more than its part; those
//! that are not known have a part of their own, so that they cannot shut a port for the rest; whoever comes when a bound is
//! reached takes the place of the connection that has been idle longest and is not known, of the address that holds most.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How many connections a port holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In all.
    pub all: usize,
    /// From one IPv4 address or one IPv6 network of 64 bits. Nodes and pods behind one translating address share it.
    pub per_address: usize,
    /// Connections on which nobody was authenticated yet, from all addresses.
    pub unknown: usize,
    /// How long such a connection may be without a request.
    pub unknown_idle: Duration,
    /// How long any other may. Source: upstream's `IdleTimeout` of the apiserver.
    pub idle: Duration,
}

impl Limits {
    /// For `all` connections: half of them per address, and a quarter for those that are not known.
    pub const fn of(all: usize) -> Limits {
        Limits {
            all,
            per_address: all / 2,
            unknown: all / 4,
            unknown_idle: Duration::from_secs(30),
            idle: Duration::from_secs(90),
        }
    }

    /// For as many connections as three quarters of the process's open files allow, at most `most`.
    pub fn by_open_files(most: usize) -> Limits {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let files = files.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        Limits::of((files / 4).saturating_mul(3).clamp(16, most))
    }
}

/// The part of an address that connections are counted by.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(a) => {
            let network = u128::from(a) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        v4 => v4,
    }
}

struct Connection {
    from: IpAddr,
    known: bool,
    /// Requests that are being answered, the sending of answers included.
    requests: usize,
    /// Its key among the idle ones.
    idle: u64,
    since: Instant,
    /// Whether a timer waits for the end of its idle time.
    timed: bool,
    gone: CancellationToken,
    resting: Arc<Notify>,
}

#[derive(Default)]
struct Origin {
    all: usize,
    unknown: usize,
    /// Idle connections, the longest first, by whether they are known.
    idle: [BTreeMap<u64, u64>; 2],
}

#[derive(Default)]
struct State {
    next: u64,
    unknown: usize,
    connections: HashMap<u64, Connection>,
    origins: HashMap<IpAddr, Origin>,
}

impl State {
    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Takes a connection out of the books.
    fn remove(&mut self, id: u64) -> Option<Connection> {
        let c = self.connections.remove(&id)?;
        self.unknown -= usize::from(!c.known);
        if let Some(o) = self.origins.get_mut(&c.from) {
            o.all -= 1;
            o.unknown -= usize::from(!c.known);
            for idle in &mut o.idle {
                idle.remove(&c.idle);
            }
            if o.all == 0 {
                self.origins.remove(&c.from);
            }
        }
        Some(c)
    }

    fn evict(&mut self, id: Option<u64>) -> bool {
        match id.and_then(|id| self.remove(id)) {
            Some(c) => {
                c.gone.cancel();
                true
            }
            None => false,
        }
    }

    /// The longest idle connection of the origin that `weight` finds heaviest, among those with one.
    fn longest_idle(&self, known: bool, weight: impl Fn(&Origin) -> usize) -> Option<u64> {
        let first = |o: &Origin| {
            let [unknown, others] = &o.idle;
            let idle = if known { others } else { unknown };
            idle.first_key_value().map(|(at, id)| (*at, *id))
        };
        self.origins
            .values()
            .filter_map(|o| first(o).map(|(at, id)| (weight(o), std::cmp::Reverse(at), id)))
            .max()
            .map(|(_, _, id)| id)
    }
}

/// The open connections of one port.
pub struct Connections {
    limits: Limits,
    state: Mutex<State>,
}

impl Connections {
    /// None yet.
    pub fn new(limits: Limits) -> Arc<Connections> {
        Arc::new(Connections {
            limits,
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection, at the cost of an idle one where a bound is reached; `None`: there is no idle one, and
    /// the new one has to be refused.
    pub fn admit(self: &Arc<Connections>, address: IpAddr) -> Option<Slot> {
        let from = origin(address);
        let mut state = self.lock();
        let own = state.origins.get(&from).map_or(0, |o| o.all);
        if own >= self.limits.per_address {
            let idle = state.origins.get(&from).and_then(|o| {
                let mut both = o.idle.iter();
                both.find_map(|i| i.first_key_value().map(|(_, id)| *id))
            });
            if !state.evict(idle) {
                return None;
            }
        }
        if state.unknown >= self.limits.unknown {
            let idle = state.longest_idle(false, |o| o.unknown);
            if !state.evict(idle) {
                return None;
            }
        }
        if state.connections.len() >= self.limits.all {
            let idle = state
                .longest_idle(false, |o| o.all)
                .or_else(|| state.longest_idle(true, |o| o.all));
            if !state.evict(idle) {
                return None;
            }
        }
        let id = state.tick();
        state.unknown += 1;
        let o = state.origins.entry(from).or_default();
        o.all += 1;
        o.unknown += 1;
        let [unknown, _] = &mut o.idle;
        unknown.insert(id, id);
        let gone = CancellationToken::new();
        let resting = Arc::new(Notify::new());
        let connection = Connection {
            from,
            known: false,
            requests: 0,
            idle: id,
            since: Instant::now(),
            timed: true,
            gone: gone.clone(),
            resting: Arc::clone(&resting),
        };
        state.connections.insert(id, connection);
        Some(Slot(Arc::new(Place {
            connections: Arc::clone(self),
            id,
            gone,
            resting,
        })))
    }
}

struct Place {
    connections: Arc<Connections>,
    id: u64,
    gone: CancellationToken,
    resting: Arc<Notify>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().remove(self.id);
    }
}

/// An idle connection's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// When its last request ended.
    pub since: Instant,
    /// When it has to end unless a request comes.
    pub until: Instant,
}

/// A connection's place; given back when the last clone is dropped.
#[derive(Clone)]
pub struct Slot(Arc<Place>);

impl Slot {
    /// Resolves when the connection has to end at once, because its place went to another.
    pub async fn gone(&self) {
        self.0.gone.cancelled().await;
    }

    /// Resolves when the connection became idle after [`Slot::rest`] found it busy.
    pub async fn resting(&self) {
        self.0.resting.notified().await;
    }

    /// A request on it was authenticated.
    pub fn known(&self) {
        let mut state = self.0.connections.lock();
        let State {
            unknown,
            connections,
            origins,
            ..
        } = &mut *state;
        let Some(c) = connections.get_mut(&self.0.id).filter(|c| !c.known) else {
            return;
        };
        c.known = true;
        *unknown -= 1;
        if let Some(o) = origins.get_mut(&c.from) {
            o.unknown -= 1;
            let [strangers, others] = &mut o.idle;
            if strangers.remove(&c.idle).is_some() {
                others.insert(c.idle, self.0.id);
            }
        }
    }

    /// A request begins; it ends when what is returned is dropped.
    pub fn request(&self) -> InRequest {
        self.begin();
        InRequest(self.clone())
    }

    fn begin(&self) {
        let mut state = self.0.connections.lock();
        let State {
            connections,
            origins,
            ..
        } = &mut *state;
        if let Some(c) = connections.get_mut(&self.0.id) {
            c.requests += 1;
            if let Some(o) = origins.get_mut(&c.from) {
                for idle in &mut o.idle {
                    idle.remove(&c.idle);
                }
            }
        }
    }

    fn request_ended(&self) {
        let mut state = self.0.connections.lock();
        let at = state.tick();
        let State {
            connections,
            origins,
            ..
        } = &mut *state;
        let Some(c) = connections.get_mut(&self.0.id) else {
            return;
        };
        c.requests = c.requests.saturating_sub(1);
        if c.requests > 0 {
            return;
        }
        c.idle = at;
        c.since = Instant::now();
        if let Some(o) = origins.get_mut(&c.from) {
            let [unknown, others] = &mut o.idle;
            let idle = if c.known { others } else { unknown };
            idle.insert(at, self.0.id);
        }
        if !c.timed {
            c.resting.notify_one();
        }
    }

    /// Since when it is idle and until when it may be; `None` while it has a request.
    pub fn rest(&self) -> Option<Rest> {
        let limits = self.0.connections.limits;
        let mut state = self.0.connections.lock();
        let Some(c) = state.connections.get_mut(&self.0.id) else {
            let now = Instant::now();
            return Some(Rest {
                since: now,
                until: now,
            });
        };
        c.timed = c.requests == 0;
        c.timed.then(|| Rest {
            since: c.since,
            until: c.since
                + if c.known {
                    limits.idle
                } else {
                    limits.unknown_idle
                },
        })
    }

    /// It carries another protocol from now on, and is not idle before it ends.
    pub fn upgraded(&self) {
        self.begin();
    }
}

/// Keeps a connection from being idle.
pub struct InRequest(Slot);

impl Drop for InRequest {
    fn drop(&mut self) {
        self.0.request_ended();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(all: usize, per_address: usize, unknown: usize) -> Limits {
        Limits {
            all,
            per_address,
            unknown,
            ..Limits::of(all)
        }
    }

    fn v4(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn who_is_not_known_takes_the_place_of_the_longest_idle_of_the_heaviest_address() {
        let c = Connections::new(limits(10, 6, 3));
        let first = c.admit(v4(1)).unwrap();
        let other = c.admit(v4(2)).unwrap();
        let second = c.admit(v4(1)).unwrap();
        // Three are not known: the next costs the oldest of 10.0.0.1, which has two.
        let fourth = c.admit(v4(3)).unwrap();
        assert!(first.0.gone.is_cancelled());
        assert!(
            ![&other, &second, &fourth]
                .iter()
                .any(|s| s.0.gone.is_cancelled())
        );
        // Known ones and those with a request keep theirs.
        other.known();
        second.known();
        let request = fourth.request();
        let idle = c.admit(v4(3)).unwrap();
        let _ = c.admit(v4(3)).unwrap().request();
        let held: Vec<Slot> = (0..3).map(|_| c.admit(v4(9)).unwrap()).collect();
        assert!(idle.0.gone.is_cancelled() && held[0].0.gone.is_cancelled());
        assert!(
            ![&other, &second, &fourth]
                .iter()
                .any(|s| s.0.gone.is_cancelled())
        );
        drop(request);
    }

    #[test]
    fn an_address_has_its_part_and_no_more() {
        let c = Connections::new(limits(100, 4, 50));
        let held: Vec<Slot> = (0..4).map(|_| c.admit(v4(1)).unwrap()).collect();
        let busy: Vec<InRequest> = held.iter().map(Slot::request).collect();
        assert!(c.admit(v4(1)).is_none());
        assert!(c.admit(v4(2)).is_some());
        drop(busy);
        held.iter().for_each(Slot::known);
        let _more = c.admit(v4(1)).unwrap();
        assert!(held[0].0.gone.is_cancelled() && !held[1].0.gone.is_cancelled());
        // A network of 64 bits is one address.
        let v6 = |n: u16| IpAddr::from([0xfd00, 0, 0, 1, n, 0, 0, n]);
        let net: Vec<Slot> = (0..5).map(|n| c.admit(v6(n)).unwrap()).collect();
        assert!(net[0].0.gone.is_cancelled());
        assert_eq!(origin("::ffff:10.0.0.1".parse().unwrap()), v4(1));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_counts_from_the_end_of_the_last_request() {
        let c = Connections::new(limits(10, 10, 10));
        let s = c.admit(v4(1)).unwrap();
        let since = Instant::now();
        let rest = |since, time| {
            Some(Rest {
                since,
                until: since + time,
            })
        };
        assert_eq!(s.rest(), rest(since, c.limits.unknown_idle));
        s.known();
        assert_eq!(s.rest(), rest(since, c.limits.idle));
        let request = s.request();
        assert_eq!(s.rest(), None);
        tokio::time::advance(Duration::from_secs(500)).await;
        drop(request);
        s.resting().await;
        assert_eq!(s.rest(), rest(Instant::now(), c.limits.idle));
        s.upgraded();
        drop(s.request());
        assert_eq!(s.rest(), None);
    }

    proptest! {
        /// Whatever happens, no bound is passed and the books agree with the connections.
        #[test]
        fn bounds_hold(steps in proptest::collection::vec((0u8..5, 0u8..4, 0usize..8), 1..200)) {
            let l = limits(12, 6, 5);
            let c = Connections::new(l);
            let mut slots: Vec<Slot> = Vec::new();
            let mut requests: Vec<InRequest> = Vec::new();
            for (what, from, at) in steps {
                let chosen = slots.get(at % slots.len().max(1)).cloned();
                match (what, chosen) {
                    (0 | 1, _) => slots.extend(c.admit(v4(from))),
                    (2, Some(s)) => s.known(),
                    (3, Some(s)) => requests.push(s.request()),
                    (4, Some(_)) if at % 2 == 0 => { requests.pop(); }
                    (4, Some(_)) => { slots.swap_remove(at % slots.len()); }
                    _ => {}
                }
                slots.retain(|s| !s.0.gone.is_cancelled());
                let state = c.lock();
                prop_assert!(state.connections.len() <= l.all && state.unknown <= l.unknown);
                let unknown = state.connections.values().filter(|c| !c.known).count();
                prop_assert_eq!(unknown, state.unknown);
                for (from, o) in &state.origins {
                    let mine = state.connections.values().filter(|c| c.from == *from);
                    prop_assert_eq!(mine.clone().count(), o.all);
                    prop_assert!(o.all <= l.per_address);
                    let idle = mine.filter(|c| c.requests == 0).count();
                    prop_assert_eq!(idle, o.idle[0].len() + o.idle[1].len());
                }
            }
            drop((slots, requests));
            let state = c.lock();
            prop_assert!(state.connections.is_empty() && state.origins.is_empty() && state.unknown == 0);
        }
    }
}
