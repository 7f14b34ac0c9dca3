//! The one thread that changes anything: it takes all waiting requests, checks and applies them to the index, writes
//! them as one frame, makes the frame durable with one sync, and only then shows and acknowledges them.
//!
//! Requests that come while a sync is running wait for the next frame. When the disk fails, the requests of the frame get
//! `Unavailable` and the index is rolled back; the next frame first mends the log. Nothing here ends the process.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Shared;
use super::hub::{RawEvent, RawValue, Stored};
use super::index::{Index, KeyRange, Place, Version};
use super::log::{self, Log, Segment};
use super::record::{self, PutFields};
use super::rewrite::{self, Rewritten};
use crate::{Error, Expect, Revision};

/// The outcome of a single write, with values still on disk.
pub enum Outcome {
    /// Done.
    Done {
        /// Its revision.
        revision: Revision,
        /// What was there.
        previous: Option<Stored>,
    },
    /// Not done.
    Mismatch {
        /// What is there.
        current: Option<Stored>,
        /// The store's revision.
        revision: Revision,
    },
}

/// Where an outcome goes.
pub type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// Several reads and writes as one.
pub trait Transaction: Send {
    /// Reads and writes. After an error nothing of it stays.
    fn run(&mut self, txn: &mut Txn<'_>) -> Result<(), Error>;

    /// Called when the outcome is durable, with the store's revision then, or with what went wrong.
    fn finish(self: Box<Self>, result: Result<Revision, Error>);
}

/// What the writer can be asked.
pub enum Command {
    /// Write a value.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// What must be there.
        expect: Expect,
        /// The lease or 0.
        lease: i64,
        /// For the outcome.
        reply: Reply<Outcome>,
    },
    /// Remove a key.
    Delete {
        /// The key.
        key: Bytes,
        /// What must be there.
        expect: Expect,
        /// For the outcome.
        reply: Reply<Outcome>,
    },
    /// Anything else on keys.
    Txn(Box<dyn Transaction>),
    /// Start a lease.
    Grant {
        /// Its id.
        id: i64,
        /// Its seconds.
        ttl: i64,
        /// For the outcome.
        reply: Reply<()>,
    },
    /// End a lease and remove its keys.
    Revoke {
        /// Its id.
        id: i64,
        /// Only if its time is over.
        expired: bool,
        /// For the store's revision then.
        reply: Reply<Revision>,
    },
    /// Forget history.
    Compact {
        /// The oldest revision to keep.
        revision: Revision,
        /// For the outcome.
        reply: Reply<()>,
    },
    /// A base was written, or could not be.
    Rewritten(Result<Rewritten, Error>),
}

impl Command {
    fn weight(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len() + 128,
            Self::Txn(_) => 64 * 1024,
            _ => 128,
        }
    }
}

/// The requests that wait for the writer.
#[derive(Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    commands: VecDeque<Command>,
    idle: bool,
    closed: bool,
}

/// Bytes of one frame, about.
const FRAME_BYTES: usize = 8 << 20;
/// How far the history may grow over its bound before it is cut.
const HISTORY_SLACK: usize = 4096;
/// The writer's buffer goes back to this when it has grown.
const BUFFER_KEPT: usize = 1 << 20;

impl Queue {
    /// Adds a request; gives it back when the store is closed.
    pub fn push(&self, command: Command) -> Result<(), Command> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.closed {
            return Err(command);
        }
        waiting.commands.push_back(command);
        if waiting.idle {
            waiting.idle = false;
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Lets the writer finish what waits, and refuses everything else.
    pub fn close(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.closed = true;
        self.wake.notify_one();
    }

    fn take(&self, batch: &mut Vec<Command>) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while waiting.commands.is_empty() {
            if waiting.closed {
                return false;
            }
            waiting.idle = true;
            waiting = self
                .wake
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        waiting.idle = false;
        let mut bytes = 0;
        while bytes < FRAME_BYTES
            && let Some(command) = waiting.commands.pop_front()
        {
            bytes += command.weight();
            batch.push(command);
        }
        true
    }
}

/// What a request sees and does while its frame is being built.
pub struct Txn<'a> {
    index: &'a mut Index,
    frame: &'a mut Vec<u8>,
    frame_start: u64,
    active: &'a Arc<Segment>,
    files: &'a HashMap<u32, Arc<Segment>>,
    events: &'a mut Vec<RawEvent>,
    ending: &'a HashSet<i64>,
    revision: Option<Revision>,
    written: HashSet<Bytes>,
}

impl Txn<'_> {
    /// The newest revision, as this request sees it.
    pub fn revision(&self) -> Revision {
        self.index.applied
    }

    /// The oldest revision that can be read.
    pub fn compacted(&self) -> Revision {
        self.index.compacted
    }

    fn stored(&self, version: Version) -> Option<Stored> {
        let segment = self.files.get(&version.place.file)?.clone();
        Some(Stored { version, segment })
    }

    /// The newest version of a key.
    pub fn get(&self, key: &[u8]) -> Option<Stored> {
        self.index
            .newest(key)
            .and_then(|version| self.stored(version))
    }

    /// The live keys of a range at a revision, in order.
    pub fn range(&self, range: &KeyRange, revision: Revision) -> Vec<(Bytes, Stored)> {
        self.index
            .range(range, revision)
            .filter_map(|(key, version)| Some((key.clone(), self.stored(*version)?)))
            .collect()
    }

    /// A value, even of this very frame.
    pub fn value(&self, stored: &Stored) -> Result<Bytes, Error> {
        let place = stored.version.place;
        if place.file == self.active.id && place.offset >= self.frame_start {
            let start = usize::try_from(place.offset - self.frame_start).unwrap_or(usize::MAX);
            let end = start.saturating_add(place.len as usize);
            return match self.frame.get(start..end) {
                Some(bytes) => Ok(Bytes::copy_from_slice(bytes)),
                None => Err(Error::Corrupt("a value lies outside its frame".to_owned())),
            };
        }
        stored.segment.read(&place)
    }

    fn write_revision(&mut self, key: &Bytes) -> Result<Revision, Error> {
        if !self.written.insert(key.clone()) {
            return Err(Error::Unavailable(
                "duplicate key given in txn request".to_owned(),
            ));
        }
        Ok(*self.revision.get_or_insert(self.index.applied + 1))
    }

    /// Writes a value; returns what it replaces and the version written.
    pub fn put(
        &mut self,
        key: &Bytes,
        value: Bytes,
        lease: i64,
    ) -> Result<(Option<Stored>, Version), Error> {
        if lease != 0 && (!self.index.leases.contains_key(&lease) || self.ending.contains(&lease)) {
            return Err(Error::LeaseNotFound(lease));
        }
        let revision = self.write_revision(key)?;
        let previous = self.get(key);
        let (create, version) = match &previous {
            Some(before) => (
                before.version.create,
                before.version.version.saturating_add(1),
            ),
            None => (revision, 1),
        };
        let at = record::write_put(
            self.frame,
            &PutFields {
                revision,
                create,
                version,
                lease,
                key,
            },
            &value,
        );
        let place = Place {
            file: self.active.id,
            len: u32::try_from(value.len()).unwrap_or(u32::MAX - 1),
            offset: self.frame_start + at as u64,
        };
        let version = Version {
            revision,
            create,
            lease,
            place,
            version,
        };
        self.index.apply(key, version);
        self.events.push(RawEvent {
            key: key.clone(),
            version,
            value: RawValue::Held(value),
            previous: previous.clone(),
        });
        Ok((previous, version))
    }

    /// Removes a key; returns what was there.
    pub fn delete(&mut self, key: &Bytes) -> Result<Option<Stored>, Error> {
        let Some(previous) = self.get(key) else {
            return Ok(None);
        };
        let revision = self.write_revision(key)?;
        record::write_delete(self.frame, revision, key);
        let version = Version::deletion(revision);
        self.index.apply(key, version);
        let event = RawEvent {
            key: key.clone(),
            version,
            value: RawValue::Deleted,
            previous: Some(previous.clone()),
        };
        self.events.push(event);
        Ok(Some(previous))
    }
}

fn matches(expect: Expect, found: Option<&Stored>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => found.is_none(),
        Expect::Revision(revision) => {
            found.is_some_and(|stored| stored.version.revision == revision)
        }
    }
}

enum Ack {
    Outcome(Reply<Outcome>, Result<Outcome, Error>),
    Txn(Box<dyn Transaction>, Result<Revision, Error>),
    Grant(Reply<()>, i64, i64),
    Revoke(Reply<Revision>, i64, Revision),
    Revision(Reply<Revision>, Result<Revision, Error>),
    Compact(Reply<()>, Revision),
    Unit(Reply<()>, Result<(), Error>),
}

impl Ack {
    fn fail(self, error: Error) {
        match self {
            Self::Outcome(reply, _) => drop(reply.send(Err(error))),
            Self::Txn(transaction, _) => transaction.finish(Err(error)),
            Self::Grant(reply, ..) | Self::Compact(reply, _) | Self::Unit(reply, _) => {
                drop(reply.send(Err(error)))
            }
            Self::Revoke(reply, ..) | Self::Revision(reply, _) => drop(reply.send(Err(error))),
        }
    }
}

fn refuse(command: Command, error: Error) {
    match command {
        Command::Put { reply, .. } | Command::Delete { reply, .. } => drop(reply.send(Err(error))),
        Command::Txn(transaction) => transaction.finish(Err(error)),
        Command::Grant { reply, .. } | Command::Compact { reply, .. } => {
            drop(reply.send(Err(error)))
        }
        Command::Revoke { reply, .. } => drop(reply.send(Err(error))),
        Command::Rewritten(_) => {}
    }
}

/// The writer's state.
pub struct Writer {
    shared: Arc<Shared>,
    log: Log,
    frame: Vec<u8>,
    acks: Vec<Ack>,
    events: Vec<RawEvent>,
    ending: HashSet<i64>,
    rewriting: Option<Option<JoinHandle<()>>>,
}

impl Writer {
    /// A writer that appends to `log`.
    pub fn new(shared: Arc<Shared>, log: Log) -> Self {
        Self {
            shared,
            log,
            frame: Vec::new(),
            acks: Vec::new(),
            events: Vec::new(),
            ending: HashSet::new(),
            rewriting: None,
        }
    }

    /// Works until the queue is closed and empty.
    pub fn run(mut self) {
        let mut batch = Vec::new();
        while self.shared.queue.take(&mut batch) {
            self.commit(&mut batch);
            self.shared.set_size(self.log.size());
        }
        // The directory's lock is given up only when nothing writes there any more.
        if let Some(thread) = self.rewriting.take().flatten() {
            let _ = thread.join();
        }
        self.shared.hub.close();
    }

    fn commit(&mut self, batch: &mut Vec<Command>) {
        match self.log.prepare(self.shared.options.file_bytes) {
            Ok(None) => {}
            Ok(Some(segment)) => self.shared.add_file(segment),
            Err(error) => {
                tracing::error!(%error, "the store's disk fails; writes are refused until it recovers");
                let error = log::unavailable(error);
                for command in batch.drain(..) {
                    if let Command::Rewritten(result) = command {
                        self.rewritten(result);
                    } else {
                        refuse(command, error.clone());
                    }
                }
                return;
            }
        }
        record::begin_frame(&mut self.frame);
        let before = self.shared.hub.visible();
        let shared = self.shared.clone();
        let mut finished = Vec::new();
        {
            let files = shared.files();
            let mut index = shared.index_mut();
            for command in batch.drain(..) {
                match command {
                    Command::Rewritten(result) => finished.push(result),
                    command => self.execute(command, &mut index, &files),
                }
            }
        }
        self.ending.clear();
        let last = self
            .events
            .last()
            .map_or(before, |event| event.version.revision);
        if self.frame.len() > record::FRAME_HEADER {
            record::seal_frame(&mut self.frame);
            if let Err(error) = self.log.append(&self.frame, last) {
                tracing::error!(%error, "the store's disk fails; a commit is taken back");
                self.shared.index_mut().roll_back(before);
                self.events.clear();
                for result in finished {
                    self.rewritten(result);
                }
                for ack in self.acks.drain(..) {
                    ack.fail(log::unavailable(std::io::Error::new(
                        error.kind(),
                        error.to_string(),
                    )));
                }
                return;
            }
        }
        self.settle_leases();
        if last > before {
            self.shared.hub.publish(&self.events, last);
            self.shared.changed();
        }
        self.events.clear();
        self.acknowledge(last);
        if self.frame.capacity() > BUFFER_KEPT {
            self.frame = Vec::new();
        }
        self.bound_history();
        for result in finished {
            self.rewritten(result);
        }
    }

    fn execute(&mut self, command: Command, index: &mut Index, files: &HashMap<u32, Arc<Segment>>) {
        let frame_start = self.log.end();
        let active = self.log.active().clone();
        let frame_len = self.frame.len();
        let events_len = self.events.len();
        let applied = index.applied;
        let mut txn = Txn {
            index,
            frame: &mut self.frame,
            frame_start,
            active: &active,
            files,
            events: &mut self.events,
            ending: &self.ending,
            revision: None,
            written: HashSet::new(),
        };
        let mut failed = false;
        let ack = match command {
            Command::Put {
                key,
                value,
                expect,
                lease,
                reply,
            } => {
                let current = txn.get(&key);
                let result = if matches(expect, current.as_ref()) {
                    txn.put(&key, value, lease)
                        .map(|(previous, version)| Outcome::Done {
                            revision: version.revision,
                            previous,
                        })
                } else {
                    Ok(Outcome::Mismatch {
                        current,
                        revision: applied,
                    })
                };
                Ack::Outcome(reply, result)
            }
            Command::Delete { key, expect, reply } => {
                let current = txn.get(&key);
                let result = if current.is_some() && matches(expect, current.as_ref()) {
                    txn.delete(&key).map(|previous| Outcome::Done {
                        revision: txn.revision(),
                        previous,
                    })
                } else {
                    Ok(Outcome::Mismatch {
                        current,
                        revision: applied,
                    })
                };
                Ack::Outcome(reply, result)
            }
            Command::Txn(mut transaction) => {
                let result = transaction.run(&mut txn).map(|()| txn.revision());
                failed = result.is_err() && txn.revision.is_some();
                Ack::Txn(transaction, result)
            }
            Command::Grant { id, ttl, reply } => {
                record::write_grant(txn.frame, id, ttl);
                Ack::Grant(reply, id, ttl)
            }
            Command::Revoke { id, expired, reply } => {
                let lease = txn
                    .index
                    .leases
                    .get(&id)
                    .filter(|_| !txn.ending.contains(&id));
                let keys = lease
                    .filter(|lease| !expired || lease.deadline <= Instant::now())
                    .map(|lease| lease.keys.iter().cloned().collect::<Vec<_>>());
                match keys {
                    None => Ack::Revision(reply, Err(Error::LeaseNotFound(id))),
                    Some(mut keys) => {
                        keys.sort_unstable();
                        let mut result = Ok(());
                        for key in keys {
                            result = result.and_then(|()| txn.delete(&key).map(drop));
                        }
                        record::write_revoke(txn.frame, id);
                        let revision = txn.revision();
                        self.ending.insert(id);
                        match result {
                            Ok(()) => Ack::Revoke(reply, id, revision),
                            Err(error) => Ack::Revision(reply, Err(error)),
                        }
                    }
                }
            }
            Command::Compact { revision, reply } => {
                if revision > txn.index.applied {
                    Ack::Unit(
                        reply,
                        Err(Error::Future {
                            current: txn.index.applied,
                        }),
                    )
                } else if revision <= txn.index.compacted {
                    Ack::Unit(
                        reply,
                        Err(Error::Compacted {
                            oldest: txn.index.compacted,
                        }),
                    )
                } else {
                    record::write_compact(txn.frame, revision);
                    Ack::Compact(reply, revision)
                }
            }
            Command::Rewritten(_) => return,
        };
        if failed {
            index.roll_back(applied);
            self.frame.truncate(frame_len);
            self.events.truncate(events_len);
        }
        self.acks.push(ack);
    }

    /// Enters the durable grants and revocations, before their events are published: whoever sees a lease's key go sees
    /// the lease gone too.
    fn settle_leases(&self) {
        let mut granted = false;
        for ack in &self.acks {
            match ack {
                Ack::Grant(_, id, ttl) => {
                    self.shared.index_mut().grant(*id, *ttl, Instant::now());
                    granted = true;
                }
                Ack::Revoke(_, id, _) => {
                    self.shared.index_mut().leases.remove(id);
                }
                _ => {}
            }
        }
        if granted {
            self.shared.leases_changed();
        }
    }

    fn acknowledge(&mut self, last: Revision) {
        let mut compacted = false;
        for ack in std::mem::take(&mut self.acks) {
            match ack {
                Ack::Outcome(reply, result) => drop(reply.send(result)),
                Ack::Txn(transaction, result) => transaction.finish(result.map(|_| last)),
                Ack::Grant(reply, ..) => drop(reply.send(Ok(()))),
                Ack::Revoke(reply, _, revision) => drop(reply.send(Ok(revision))),
                Ack::Revision(reply, result) => drop(reply.send(result)),
                Ack::Compact(reply, revision) => {
                    self.shared.index_mut().compact(revision);
                    compacted = true;
                    drop(reply.send(Ok(())));
                }
                Ack::Unit(reply, result) => drop(reply.send(result)),
            }
        }
        if compacted {
            self.consider_rewrite();
        }
    }

    /// Keeps the remembered history within its bounds however fast writes come.
    fn bound_history(&self) {
        let options = &self.shared.options;
        let index = self.shared.index();
        let remembered = index.remembered();
        let kept = if remembered > options.history_changes + HISTORY_SLACK {
            options.history_changes
        } else if index.older_bytes() > options.history_bytes {
            remembered / 2
        } else {
            return;
        };
        let Some(revision) = index.revision_before_last(kept.max(1)) else {
            return;
        };
        if revision <= index.compacted {
            return;
        }
        drop(index);
        let (reply, _) = oneshot::channel();
        let _ = self.shared.queue.push(Command::Compact { revision, reply });
    }

    /// Starts to write a new base when much of what lies on disk is not needed any more.
    fn consider_rewrite(&mut self) {
        if self.rewriting.is_some() {
            return;
        }
        let (through, newest) = {
            let index = self.shared.index();
            (index.compacted - 1, index.newest_bytes())
        };
        let old: Vec<u32> = self
            .log
            .sealed
            .iter()
            .filter(|sealed| sealed.last <= through)
            .map(|sealed| sealed.id)
            .collect();
        let reclaimable: u64 = self
            .log
            .sealed
            .iter()
            .filter(|sealed| sealed.last <= through)
            .map(|sealed| sealed.len)
            .sum::<u64>()
            + self.log.base.map_or(0, |(_, len)| len);
        if old.is_empty() || reclaimable < 2 * newest + self.shared.options.rewrite_slack {
            return;
        }
        match self.log.roll() {
            Ok(segment) => self.shared.add_file(segment),
            Err(error) => {
                tracing::warn!(%error, "cannot begin a new log file");
                return;
            }
        }
        let id = self.log.take_id();
        let old = old
            .into_iter()
            .chain(self.log.base.map(|(id, _)| id))
            .collect();
        self.rewriting = Some(rewrite::spawn(&self.shared, id, through, old));
    }

    fn rewritten(&mut self, result: Result<Rewritten, Error>) {
        self.rewriting = None;
        let done = match result {
            Ok(done) => done,
            Err(error) => {
                tracing::warn!(%error, "could not rewrite old log files; trying again after the next compaction");
                return;
            }
        };
        let id = done.segment.id;
        self.shared.add_file(done.segment);
        for part in done.moved.chunks(1024) {
            let mut index = self.shared.index_mut();
            for (key, revision, place) in part {
                index.relocate(key, *revision, *place);
            }
        }
        self.log.base = Some((id, done.len));
        self.log
            .sealed
            .retain(|sealed| !done.old.contains(&sealed.id));
        self.shared.drop_files(&done.old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However much waits, a frame is of a bounded size, and nothing is left behind.
    #[test]
    fn what_waits_is_taken_in_frames_of_a_bounded_size() {
        let queue = Queue::default();
        let value = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..20 {
            let (reply, _) = oneshot::channel();
            let put = Command::Put {
                key: Bytes::from_static(b"/a"),
                value: value.clone(),
                expect: Expect::Any,
                lease: 0,
                reply,
            };
            assert!(queue.push(put).is_ok());
        }
        queue.close();
        let mut sizes = Vec::new();
        let mut batch = Vec::new();
        while queue.take(&mut batch) {
            sizes.push(batch.drain(..).count());
        }
        assert_eq!(sizes, [8, 8, 4]);
    }
}
