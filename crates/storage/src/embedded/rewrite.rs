//! Writes a new base file: the newest state at one compacted revision, in key order, so that older files can go.
//!
//! Runs on its own thread beside reads and writes, and holds the index's lock for a few hundred keys at a time. The base
//! counts only once it is durable under its final name. Keys that are compacted away meanwhile may be missing from it:
//! the logs that stay have what followed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use bytes::Bytes;

use super::Shared;
use super::index::{KeyRange, Place};
use super::log::{self, Segment};
use super::record::{self, FILE_MAGIC, PutFields};
use super::writer::Command;
use crate::{Error, Revision};

/// A finished base.
pub struct Rewritten {
    /// The file.
    pub segment: Arc<Segment>,
    /// Its length.
    pub len: u64,
    /// Which version of which key lies where in it.
    pub moved: Vec<(Bytes, Revision, Place)>,
    /// The files it stands for.
    pub old: Vec<u32>,
}

const KEYS_AT_ONCE: usize = 256;
const FRAME_BYTES: usize = 1 << 20;
const SYNC_BYTES: u64 = 8 << 20;

/// Starts the thread; the result comes to the writer as a command.
pub fn spawn(
    shared: &Arc<Shared>,
    id: u32,
    through: Revision,
    old: Vec<u32>,
) -> Option<JoinHandle<()>> {
    let worker = shared.clone();
    let spawned = std::thread::Builder::new()
        .name("store-rewrite".to_owned())
        .spawn(move || {
            let result = rewrite(&worker, id, through, old);
            let _ = worker.queue.push(Command::Rewritten(result));
        });
    match spawned {
        Ok(thread) => Some(thread),
        Err(error) => {
            let _ = shared
                .queue
                .push(Command::Rewritten(Err(log::unavailable(error))));
            None
        }
    }
}

fn rewrite(shared: &Shared, id: u32, through: Revision, old: Vec<u32>) -> Result<Rewritten, Error> {
    let temporary = log::temporary_path(&shared.dir, id);
    let file = shared
        .disk
        .open(&temporary, true)
        .map_err(log::unavailable)?;
    let result = fill(shared, id, through, &file);
    let (len, moved) = match result {
        Ok(filled) => filled,
        Err(error) => {
            let _ = shared.disk.remove(&temporary);
            return Err(error);
        }
    };
    shared
        .disk
        .rename(&temporary, &log::base_path(&shared.dir, id))
        .map_err(log::unavailable)?;
    shared
        .disk
        .sync_dir(&shared.dir)
        .map_err(log::unavailable)?;
    Ok(Rewritten {
        segment: Arc::new(Segment { id, file }),
        len,
        moved,
        old,
    })
}

type Filled = (u64, Vec<(Bytes, Revision, Place)>);

fn fill(
    shared: &Shared,
    id: u32,
    through: Revision,
    file: &Arc<dyn super::disk::DiskFile>,
) -> Result<Filled, Error> {
    file.write_at(FILE_MAGIC, 0).map_err(log::unavailable)?;
    let mut end = FILE_MAGIC.len() as u64;
    let mut synced = end;
    let mut moved = Vec::new();
    let mut frame = Vec::new();
    record::begin_frame(&mut frame);
    {
        let index = shared.index();
        record::write_base(&mut frame, through, index.compacted);
        for (lease, held) in &index.leases {
            record::write_grant(&mut frame, *lease, held.ttl);
        }
    }
    let mut range = KeyRange {
        start: Bytes::new(),
        end: None,
    };
    loop {
        if shared.closing.load(Ordering::Relaxed) {
            return Err(super::closed());
        }
        let part: Vec<_> = {
            let files = shared.files();
            let index = shared.index();
            index
                .range(&range, through)
                .take(KEYS_AT_ONCE)
                .map(|(key, version)| {
                    (
                        key.clone(),
                        *version,
                        files.get(&version.place.file).cloned(),
                    )
                })
                .collect()
        };
        for (key, version, segment) in &part {
            let Some(segment) = segment else {
                return Err(Error::Corrupt(
                    "a version points to a file that is gone".to_owned(),
                ));
            };
            let value = segment.read(&version.place)?;
            let fields = PutFields {
                revision: version.revision,
                create: version.create,
                version: version.version,
                lease: version.lease,
                key,
            };
            let at = record::write_put(&mut frame, &fields, &value);
            let place = Place {
                file: id,
                len: version.place.len,
                offset: end + at as u64,
            };
            moved.push((key.clone(), version.revision, place));
            if frame.len() > FRAME_BYTES {
                end += write_frame(file, &mut frame, end)?;
            }
        }
        if end - synced > SYNC_BYTES {
            file.sync().map_err(log::unavailable)?;
            synced = end;
        }
        match part.last() {
            Some((key, ..)) if part.len() == KEYS_AT_ONCE => {
                // The smallest key above the last one.
                let mut next = key.to_vec();
                next.push(0);
                range.start = next.into();
            }
            _ => break,
        }
    }
    end += write_frame(file, &mut frame, end)?;
    file.sync().map_err(log::unavailable)?;
    Ok((end, moved))
}

fn write_frame(
    file: &Arc<dyn super::disk::DiskFile>,
    frame: &mut Vec<u8>,
    end: u64,
) -> Result<u64, Error> {
    record::seal_frame(frame);
    file.write_at(frame, end).map_err(log::unavailable)?;
    let len = frame.len() as u64;
    record::begin_frame(frame);
    Ok(len)
}
