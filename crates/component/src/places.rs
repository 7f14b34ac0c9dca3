//! Who may work now and who waits: places at work, shared out so that nobody eats another's share.
//!
//! A [`Level`] is a group of users with places of its own; what is left of the total is a pool. A user holds at most a part
//! of what its level can have, and waits in a bounded queue. A free place goes to the waiting user who holds fewest. A
//! wait that is given up leaves nothing behind, and a place that was just given to it goes on to the next.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// A group of users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Upstream's name of the priority level, where it has one.
    pub name: &'static str,
    /// Places that nobody else takes.
    pub own: usize,
    /// Whether it may take places of the pool.
    pub pooled: bool,
    /// Places that one user holds at most.
    pub per_user: usize,
    /// Those that wait, at most.
    pub queue: usize,
    /// Those of one user that wait, at most.
    pub queue_per_user: usize,
}

/// No place, and no room to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests")]
pub struct Full;

struct Waiter {
    id: u64,
    user: Arc<str>,
    give: oneshot::Sender<Place>,
}

#[derive(Default)]
struct Room {
    own: usize,
    users: HashMap<Arc<str>, usize>,
    queue: VecDeque<Waiter>,
}

struct State {
    next: u64,
    pool: usize,
    rooms: Vec<Room>,
}

/// The places; see the module.
pub struct Places {
    levels: Vec<Level>,
    pool: usize,
    state: Mutex<State>,
}

impl Places {
    /// `pool` places beside those that `levels` have for their own.
    pub fn new(levels: Vec<Level>, pool: usize) -> Arc<Places> {
        Arc::new(Places {
            state: Mutex::new(State {
                next: 0,
                pool: 0,
                rooms: levels.iter().map(|_| Room::default()).collect(),
            }),
            levels,
            pool,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a user of the level with this index; waits for one if need be, for as long as the caller likes.
    ///
    /// # Errors
    /// [`Full`] at once when there is no room to wait, or no such level.
    pub async fn enter(self: &Arc<Places>, level: usize, user: &str) -> Result<Place, Full> {
        let (id, wait) = {
            let mut state = self.lock();
            let bounds = self.levels.get(level).ok_or(Full)?;
            if let Some(place) = self.take(&mut state, level, user) {
                return Ok(place);
            }
            state.next += 1;
            let id = state.next;
            let room = state.rooms.get_mut(level).ok_or(Full)?;
            let mine = room.queue.iter().filter(|w| *w.user == *user).count();
            if room.queue.len() >= bounds.queue || mine >= bounds.queue_per_user {
                return Err(Full);
            }
            let (give, wait) = oneshot::channel();
            room.queue.push_back(Waiter {
                id,
                user: user.into(),
                give,
            });
            (id, wait)
        };
        let _leave = Leave {
            places: self,
            level,
            id,
        };
        wait.await.map_err(|_| Full)
    }

    fn take(self: &Arc<Places>, state: &mut State, level: usize, user: &str) -> Option<Place> {
        let bounds = self.levels.get(level)?;
        let room = state.rooms.get_mut(level)?;
        if room.users.get(user).is_some_and(|n| *n >= bounds.per_user) || bounds.per_user == 0 {
            return None;
        }
        let pooled = room.own >= bounds.own;
        if !pooled {
            room.own += 1;
        } else if bounds.pooled && state.pool < self.pool {
            state.pool += 1;
        } else {
            return None;
        }
        let user: Arc<str> = match room.users.get_key_value(user) {
            Some((name, _)) => Arc::clone(name),
            None => user.into(),
        };
        *room.users.entry(Arc::clone(&user)).or_default() += 1;
        Some(Place {
            places: Arc::clone(self),
            level,
            user,
            pooled,
        })
    }

    /// Gives free places to those who wait. What is returned found nobody any more, and is to be dropped after the lock.
    fn give(self: &Arc<Places>, state: &mut State) -> Vec<Place> {
        let mut unwanted = Vec::new();
        for level in 0..self.levels.len() {
            // Each turn takes a waiter out.
            while let Some(at) = state.rooms.get(level).and_then(Room::neediest) {
                let room = state.rooms.get(level);
                let Some(user) = room.and_then(|r| Some(Arc::clone(&r.queue.get(at)?.user))) else {
                    break;
                };
                let Some(place) = self.take(state, level, &user) else {
                    break;
                };
                let waiter = state.rooms.get_mut(level).and_then(|r| r.queue.remove(at));
                if let Some(Err(place)) = waiter.map(|w| w.give.send(place)) {
                    unwanted.push(place);
                }
            }
        }
        unwanted
    }
}

impl Room {
    /// The first waiter of the user who holds fewest places.
    fn neediest(&self) -> Option<usize> {
        let held = |w: &Waiter| self.users.get(&w.user).copied().unwrap_or(0);
        let all = self.queue.iter().enumerate();
        all.min_by_key(|(_, w)| held(w)).map(|(at, _)| at)
    }
}

struct Leave<'a> {
    places: &'a Arc<Places>,
    level: usize,
    id: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        if let Some(room) = state.rooms.get_mut(self.level) {
            room.queue.retain(|w| w.id != self.id);
        }
    }
}

/// A place at work; dropped, it goes to the next.
pub struct Place {
    places: Arc<Places>,
    level: usize,
    user: Arc<str>,
    pooled: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        let places = Arc::clone(&self.places);
        let unwanted = {
            let mut state = places.lock();
            state.pool -= usize::from(self.pooled);
            if let Some(room) = state.rooms.get_mut(self.level) {
                room.own -= usize::from(!self.pooled);
                if let Some(n) = room.users.get_mut(&self.user) {
                    *n -= 1;
                    if *n == 0 {
                        room.users.remove(&self.user);
                    }
                }
            }
            places.give(&mut state)
        };
        drop(unwanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_like::poll_once;
    use proptest::prelude::*;

    mod futures_like {
        use std::pin::Pin;
        use std::task::{Context, Poll, Waker};

        /// Polls a future once.
        pub fn poll_once<T>(f: &mut Pin<Box<dyn Future<Output = T>>>) -> Option<T> {
            match f.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(t) => Some(t),
                Poll::Pending => None,
            }
        }
    }

    fn level(own: usize, per_user: usize, queue: usize) -> Level {
        Level {
            name: "",
            own,
            pooled: true,
            per_user,
            queue,
            queue_per_user: queue,
        }
    }

    type Entering = std::pin::Pin<Box<dyn Future<Output = Result<Place, Full>>>>;

    fn enter(p: &Arc<Places>, level: usize, user: &str) -> Entering {
        let (p, user) = (Arc::clone(p), user.to_owned());
        Box::pin(async move { p.enter(level, &user).await })
    }

    fn now(p: &Arc<Places>, level: usize, user: &str) -> Option<Result<Place, Full>> {
        poll_once(&mut enter(p, level, user))
    }

    #[test]
    fn a_level_keeps_its_own_places_whatever_others_do() {
        let p = Places::new(vec![level(2, 9, 9), level(1, 9, 9)], 3);
        let held: Vec<Place> = std::iter::from_fn(|| now(&p, 1, "greedy")?.ok()).collect();
        assert_eq!(held.len(), 4, "its own and the pool");
        let first: Vec<Place> = std::iter::from_fn(|| now(&p, 0, "a")?.ok()).collect();
        assert_eq!(first.len(), 2);
    }

    #[test]
    fn one_user_is_not_all_and_the_neediest_is_next() {
        let p = Places::new(vec![level(4, 3, 3)], 0);
        let mut held: Vec<Place> = (0..3).map(|_| now(&p, 0, "a").unwrap().unwrap()).collect();
        let mut again = enter(&p, 0, "a");
        assert!(poll_once(&mut again).is_none());
        held.push(now(&p, 0, "b").unwrap().unwrap());
        let (mut b, mut c) = (enter(&p, 0, "b"), enter(&p, 0, "c"));
        assert!(poll_once(&mut b).is_none() && poll_once(&mut c).is_none());
        assert!(
            matches!(now(&p, 0, "d"), Some(Err(Full))),
            "the queue is bounded"
        );
        drop(held.remove(0));
        assert!(poll_once(&mut again).is_none() && poll_once(&mut b).is_none());
        assert!(poll_once(&mut c).unwrap().is_ok());
    }

    #[test]
    fn a_wait_that_is_given_up_leaves_nothing_behind() {
        let p = Places::new(vec![level(1, 1, 9)], 0);
        let held = now(&p, 0, "a").unwrap().unwrap();
        let (mut gone, mut late, mut next) =
            (enter(&p, 0, "b"), enter(&p, 0, "c"), enter(&p, 0, "d"));
        for w in [&mut gone, &mut late, &mut next] {
            assert!(poll_once(w).is_none());
        }
        drop(gone);
        // Given to the second, who leaves without looking.
        drop(held);
        drop(late);
        assert!(poll_once(&mut next).unwrap().is_ok());
        drop(next);
        let state = p.lock();
        assert!(state.rooms[0].queue.is_empty() && state.rooms[0].users.is_empty());
        assert_eq!((state.rooms[0].own, state.pool), (0, 0));
    }

    proptest! {
        /// No bound is passed, nobody waits beside a free place, and nothing is left at the end.
        #[test]
        fn books_agree(steps in proptest::collection::vec((0u8..4, 0usize..2, 0u8..3, 0usize..9), 1..150)) {
            let p = Places::new(vec![level(2, 2, 4), level(1, 3, 4)], 2);
            let mut waits: Vec<Entering> = Vec::new();
            let mut held: Vec<Place> = Vec::new();
            for (what, level, user, at) in steps {
                match what {
                    0 | 1 => waits.push(enter(&p, level, &user.to_string())),
                    2 if !held.is_empty() => { held.swap_remove(at % held.len()); }
                    3 if !waits.is_empty() => { drop(waits.swap_remove(at % waits.len())); }
                    _ => {}
                }
                waits.retain_mut(|w| match poll_once(w) {
                    Some(r) => { held.extend(r.ok()); false }
                    None => true,
                });
                let state = p.lock();
                prop_assert!(state.pool <= p.pool);
                for (bounds, room) in p.levels.iter().zip(&state.rooms) {
                    prop_assert!(room.own <= bounds.own && room.queue.len() <= bounds.queue);
                    for w in &room.queue {
                        let mine = room.users.get(&w.user).copied().unwrap_or(0);
                        let free = room.own < bounds.own || state.pool < p.pool;
                        prop_assert!(mine >= bounds.per_user || !free);
                    }
                    prop_assert!(room.users.values().all(|n| *n <= bounds.per_user));
                }
            }
            drop((waits, held));
            let state = p.lock();
            prop_assert!(state.pool == 0 && state.rooms.iter().all(|r| r.own == 0 && r.queue.is_empty() && r.users.is_empty()));
        }
    }
}
