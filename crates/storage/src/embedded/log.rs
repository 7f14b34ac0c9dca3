//! The files of the store and the rules of their names.
//!
//! `<id>.log` files hold commits in revision order; only the one with the highest id is written. `<id>.base` holds the
//! state as of one revision; logs that hold nothing newer are removed once the base is durable under its name. A base is
//! first written as `<id>.tmp`. Ids only grow.
//!
//! Invariant: a failed write or sync leaves the log *broken*; before anything else is written, the file is cut back to
//! its durable length and a new one is begun, because after a failed sync the kernel may have dropped what it held.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::disk::{Disk, DiskFile};
use super::index::Place;
use super::record::{self, FILE_MAGIC, FRAME_HEADER, Record};
use crate::Error;

/// One file of the store, open.
pub struct Segment {
    /// Its id.
    pub id: u32,
    /// The open file.
    pub file: Arc<dyn DiskFile>,
}

impl Segment {
    fn wanted(place: &Place) -> (Vec<u8>, u64) {
        (
            vec![0; place.len as usize + 4],
            place.offset.saturating_sub(4),
        )
    }

    fn checked(buffer: Vec<u8>) -> Result<Bytes, Error> {
        let mut bytes = Bytes::from(buffer);
        let crc = bytes.split_to(4.min(bytes.len()));
        if crc32fast::hash(&bytes).to_le_bytes() == crc.as_ref() {
            Ok(bytes)
        } else {
            Err(Error::Corrupt(
                "a value does not match its checksum".to_owned(),
            ))
        }
    }

    /// Reads a value, waiting for the device if need be.
    pub fn read(&self, place: &Place) -> Result<Bytes, Error> {
        let (mut buffer, offset) = Self::wanted(place);
        self.file
            .read_at(&mut buffer, offset)
            .map_err(unavailable)?;
        Self::checked(buffer)
    }

    /// Reads a value if that does not wait for the device.
    pub fn read_cached(&self, place: &Place) -> Result<Option<Bytes>, Error> {
        let (mut buffer, offset) = Self::wanted(place);
        if self
            .file
            .read_cached(&mut buffer, offset)
            .map_err(unavailable)?
        {
            Self::checked(buffer).map(Some)
        } else {
            Ok(None)
        }
    }
}

/// What an I/O error means to callers.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub fn unavailable(error: io::Error) -> Error {
    Error::Unavailable(error.to_string())
}

/// A sealed log file.
pub struct Sealed {
    /// Its id.
    pub id: u32,
    /// The newest revision in it.
    pub last: i64,
    /// Its length.
    pub len: u64,
}

/// The log that is written, and the list of those that were.
pub struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    active: Arc<Segment>,
    end: u64,
    broken: bool,
    /// Older log files, by id.
    pub sealed: Vec<Sealed>,
    /// The base file in use: id and length.
    pub base: Option<(u32, u64)>,
    next: u32,
    last: i64,
}

/// The path of a log.
pub fn log_path(dir: &Path, id: u32) -> PathBuf {
    dir.join(format!("{id:010}.log"))
}

/// The path of a base.
pub fn base_path(dir: &Path, id: u32) -> PathBuf {
    dir.join(format!("{id:010}.base"))
}

/// The path of a base that is being written.
pub fn temporary_path(dir: &Path, id: u32) -> PathBuf {
    dir.join(format!("{id:010}.tmp"))
}

fn create(disk: &dyn Disk, dir: &Path, id: u32) -> io::Result<Arc<Segment>> {
    let path = log_path(dir, id);
    let file = disk.open(&path, true)?;
    let begun = file
        .write_at(FILE_MAGIC, 0)
        .and_then(|()| file.sync())
        .and_then(|()| disk.sync_dir(dir));
    if let Err(error) = begun {
        // A full disk makes files that it cannot fill. One that stays is passed over when the store is opened.
        let _ = disk.remove(&path);
        return Err(error);
    }
    Ok(Arc::new(Segment { id, file }))
}

impl Log {
    /// The file that is written.
    pub fn active(&self) -> &Arc<Segment> {
        &self.active
    }

    /// Where the next frame will start.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.end
            + self.sealed.iter().map(|sealed| sealed.len).sum::<u64>()
            + self.base.map_or(0, |(_, len)| len)
    }

    /// An id for a new file.
    pub fn take_id(&mut self) -> u32 {
        let id = self.next;
        self.next = self.next.saturating_add(1);
        id
    }

    /// Writes one sealed frame and makes it durable. `last` is the newest revision in it.
    pub fn append(&mut self, frame: &[u8], last: i64) -> io::Result<()> {
        let result = self
            .active
            .file
            .write_at(frame, self.end)
            .and_then(|()| self.active.file.sync());
        match result {
            Ok(()) => {
                self.end += frame.len() as u64;
                self.last = self.last.max(last);
                Ok(())
            }
            Err(error) => {
                self.broken = true;
                Err(error)
            }
        }
    }

    /// Makes the log writable: mends it after a failure, begins a new file when this one is `limit` bytes long. Returns
    /// the new file if there is one.
    pub fn prepare(&mut self, limit: u64) -> io::Result<Option<Arc<Segment>>> {
        if !self.broken && self.end < limit {
            return Ok(None);
        }
        if self.broken {
            self.active.file.set_len(self.end)?;
            self.active.file.sync()?;
        }
        self.roll().map(Some)
    }

    /// Begins a new file.
    pub fn roll(&mut self) -> io::Result<Arc<Segment>> {
        let id = self.take_id();
        let active = create(self.disk.as_ref(), &self.dir, id)?;
        self.sealed.push(Sealed {
            id: self.active.id,
            last: self.last,
            len: self.end,
        });
        self.active = active.clone();
        self.end = FILE_MAGIC.len() as u64;
        self.broken = false;
        Ok(active)
    }
}

/// What opening found, record by record.
pub trait Replay {
    /// An open file, before its records.
    fn segment(&mut self, segment: &Arc<Segment>);
    /// A record; `place` is where the value of a put lies. `base` says whether it is from a base file.
    fn record(&mut self, record: Record, place: Place, base: bool);
}

/// Opens the files of a directory and replays them, oldest first. A torn tail of the newest log is cut off, and a log that
/// was begun and never written is removed; any other damage is an error.
pub fn open(disk: &Arc<dyn Disk>, dir: &Path, replay: &mut dyn Replay) -> Result<Log, Error> {
    let mut logs = Vec::new();
    let mut bases = Vec::new();
    let mut highest = 0;
    for name in disk.list(dir).map_err(unavailable)? {
        let Some((stem, kind)) = name.split_once('.') else {
            continue;
        };
        let Ok(id) = stem.parse::<u32>() else {
            continue;
        };
        highest = highest.max(id);
        match kind {
            "log" => logs.push(id),
            "base" => bases.push(id),
            "tmp" => disk.remove(&dir.join(&name)).map_err(unavailable)?,
            _ => {}
        }
    }
    logs.sort_unstable();
    bases.sort_unstable();
    let newest_base = bases.pop();
    for old in bases {
        disk.remove(&base_path(dir, old)).map_err(unavailable)?;
    }
    let mut base = None;
    let mut through = 0;
    if let Some(id) = newest_base {
        let segment = Arc::new(Segment {
            id,
            file: disk.open(&base_path(dir, id), false).map_err(unavailable)?,
        });
        replay.segment(&segment);
        let scanned = scan(&segment, replay, true, i64::MIN)?;
        if !scanned.clean {
            return Err(Error::Corrupt(format!(
                "the base file {id:010}.base is damaged at byte {}",
                scanned.end
            )));
        }
        through = scanned.through;
        base = Some((id, scanned.end));
    }
    let mut sealed = Vec::new();
    let mut active = None;
    let mut unwritten = Vec::new();
    // A new store is at revision 1, and each write is the next one.
    let mut reached = through.max(1);
    let count = logs.len();
    for (position, id) in logs.into_iter().enumerate() {
        let newest = position + 1 == count;
        let segment = Arc::new(Segment {
            id,
            file: disk.open(&log_path(dir, id), false).map_err(unavailable)?,
        });
        replay.segment(&segment);
        let scanned = scan(&segment, replay, false, through)?;
        if let (Some(lost), Some(first)) = (unwritten.last(), scanned.first)
            && first > reached + 1
        {
            return Err(Error::Corrupt(format!(
                "the log {lost:010}.log is empty, and what follows it begins with revision {first} after {reached}"
            )));
        }
        reached = reached.max(scanned.last);
        if !scanned.clean {
            if !newest && scanned.end == 0 && scanned.len <= FILE_MAGIC.len() as u64 {
                unwritten.push(id);
                continue;
            }
            if !newest {
                return Err(Error::Corrupt(format!(
                    "the log {id:010}.log is damaged at byte {}",
                    scanned.end
                )));
            }
            cut(&segment, &scanned)?;
        }
        let end = scanned.end.max(FILE_MAGIC.len() as u64);
        if newest {
            active = Some((segment, end, scanned.last));
        } else {
            sealed.push(Sealed {
                id,
                last: scanned.last,
                len: end,
            });
        }
    }
    for id in unwritten {
        disk.remove(&log_path(dir, id)).map_err(unavailable)?;
    }
    let next = highest.saturating_add(1);
    let (active, end, last, next) = match active {
        Some((segment, end, last)) => (segment, end, last, next),
        None => {
            let segment = create(disk.as_ref(), dir, next).map_err(unavailable)?;
            replay.segment(&segment);
            (
                segment,
                FILE_MAGIC.len() as u64,
                through,
                next.saturating_add(1),
            )
        }
    };
    Ok(Log {
        disk: disk.clone(),
        dir: dir.to_owned(),
        active,
        end,
        broken: false,
        sealed,
        base,
        next,
        last,
    })
}

/// Cuts a torn tail off, unless what follows proves that it is damage. What lies within the torn commit proves nothing: it
/// is values, in which clients may write what looks like a commit.
fn cut(segment: &Segment, scanned: &Scanned) -> Result<(), Error> {
    let file = &segment.file;
    let (end, len) = (scanned.end, scanned.len);
    let behind = scanned.claimed.clamp(end, len);
    let mut rest = vec![0; usize::try_from(len - behind).unwrap_or(0)];
    file.read_at(&mut rest, behind).map_err(unavailable)?;
    if record::holds_frame(&rest) {
        return Err(Error::Corrupt(format!(
            "the log {:010}.log is damaged at byte {end}: whole commits follow the damage",
            segment.id
        )));
    }
    tracing::warn!(
        file = segment.id,
        bytes = len.saturating_sub(end),
        "cut off an unfinished commit"
    );
    if end < FILE_MAGIC.len() as u64 {
        file.set_len(0).map_err(unavailable)?;
        file.write_at(FILE_MAGIC, 0).map_err(unavailable)?;
    } else {
        file.set_len(end).map_err(unavailable)?;
    }
    file.sync().map_err(unavailable)
}

struct Scanned {
    /// Where the last whole frame ends.
    end: u64,
    /// Whether that is the end of the file.
    clean: bool,
    /// Where the frame that is not whole would end by its header; the same as `end` if it has none.
    claimed: u64,
    len: u64,
    /// The first revision that was replayed.
    first: Option<i64>,
    last: i64,
    through: i64,
}

/// Replays one file up to its end or the first frame that is not whole. Changes up to `skip` are left out.
fn scan(
    segment: &Arc<Segment>,
    replay: &mut dyn Replay,
    base: bool,
    skip: i64,
) -> Result<Scanned, Error> {
    let len = segment.file.length().map_err(unavailable)?;
    let mut scanned = Scanned {
        end: 0,
        clean: false,
        claimed: 0,
        len,
        first: None,
        last: skip.max(0),
        through: 0,
    };
    let mut magic = [0; FILE_MAGIC.len()];
    if len < magic.len() as u64 {
        return Ok(scanned);
    }
    segment.file.read_at(&mut magic, 0).map_err(unavailable)?;
    if &magic != FILE_MAGIC {
        return Ok(scanned);
    }
    scanned.end = magic.len() as u64;
    let mut payload = Vec::new();
    loop {
        scanned.claimed = scanned.end;
        if scanned.end == len {
            scanned.clean = true;
            return Ok(scanned);
        }
        let start = scanned.end + FRAME_HEADER as u64;
        if start > len {
            return Ok(scanned);
        }
        let mut header = [0; FRAME_HEADER];
        segment
            .file
            .read_at(&mut header, scanned.end)
            .map_err(unavailable)?;
        let Some((length, crc)) = record::parse_header(&header) else {
            return Ok(scanned);
        };
        scanned.claimed = start + length as u64;
        if scanned.claimed > len {
            return Ok(scanned);
        }
        payload.clear();
        payload.resize(length, 0);
        segment
            .file
            .read_at(&mut payload, start)
            .map_err(unavailable)?;
        if crc32fast::hash(&payload) != crc {
            return Ok(scanned);
        }
        for record in record::records(&payload) {
            let Some(record) = record else {
                return Err(Error::Corrupt(format!(
                    "unknown record in file {} at byte {start}",
                    segment.id
                )));
            };
            let mut place = Place {
                file: segment.id,
                len: 0,
                offset: 0,
            };
            match &record {
                Record::Put {
                    revision,
                    offset,
                    len,
                    ..
                } => {
                    scanned.last = scanned.last.max(*revision);
                    if !base && *revision <= skip {
                        continue;
                    }
                    scanned.first.get_or_insert(*revision);
                    place.len = *len;
                    place.offset = start + *offset as u64;
                }
                Record::Delete { revision, .. } => {
                    scanned.last = scanned.last.max(*revision);
                    if *revision <= skip {
                        continue;
                    }
                    scanned.first.get_or_insert(*revision);
                }
                Record::Base { through, .. } => scanned.through = *through,
                Record::Grant { .. } | Record::Revoke { .. } | Record::Compact { .. } => {}
            }
            replay.record(record, place, base);
        }
        scanned.end = start + length as u64;
    }
}
