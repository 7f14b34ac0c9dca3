//! The bytes on disk: a file is a header and then frames; a frame is one commit; a frame holds records.
//!
//! ```text
//! file    magic "KEELSON1"
//! frame   magic u32 | payload length u32 | crc32 of the payload u32 | crc32 of these twelve bytes u32 | payload
//! record  tag u8 | fields, little endian
//! ```
//!
//! Invariants: a frame is written only after the frame before it is durable, so at most the last frame of the last file
//! can be torn; a valid frame behind a broken one proves damage. The changes of one revision lie in one frame. In front
//! of every value lies its own crc32, which every read checks.

use bytes::Bytes;

/// The first bytes of every file.
pub const FILE_MAGIC: &[u8; 8] = b"KEELSON1";
/// Bytes before a frame's payload.
pub const FRAME_HEADER: usize = 16;
const FRAME_MAGIC: u32 = 0x4b_4c_46_31;

const TAG_PUT: u8 = 1;
const TAG_DELETE: u8 = 2;
const TAG_GRANT: u8 = 3;
const TAG_REVOKE: u8 = 4;
const TAG_COMPACT: u8 = 5;
const TAG_BASE: u8 = 6;

/// Bytes of a put record beside key and value.
pub const PUT_OVERHEAD: usize = 1 + 8 + 8 + 4 + 8 + 4 + 4 + 4;

/// One record, as read back. Offsets count from the start of the payload.
#[derive(Debug, PartialEq, Eq)]
pub enum Record {
    /// A key got a value.
    Put {
        /// The change's revision.
        revision: i64,
        /// The revision in which the key came to be.
        create: i64,
        /// Writes since creation.
        version: u32,
        /// The lease, or 0.
        lease: i64,
        /// The key.
        key: Bytes,
        /// Where the value starts.
        offset: usize,
        /// The value's length.
        len: u32,
    },
    /// A key was removed.
    Delete {
        /// The change's revision.
        revision: i64,
        /// The key.
        key: Bytes,
    },
    /// A lease began.
    Grant {
        /// Its id.
        id: i64,
        /// Seconds it lives without being kept alive.
        ttl: i64,
    },
    /// A lease ended.
    Revoke {
        /// Its id.
        id: i64,
    },
    /// History before this revision was forgotten.
    Compact {
        /// The oldest revision that can be read.
        revision: i64,
    },
    /// The first record of a base file.
    Base {
        /// The state in the file is that of this revision.
        through: i64,
        /// The oldest revision that can be read.
        compacted: i64,
    },
}

/// Starts a frame in an empty buffer: leaves room for its header.
pub fn begin_frame(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(FRAME_HEADER, 0);
}

/// Fills in the header of the frame that `buffer` holds.
pub fn seal_frame(buffer: &mut [u8]) {
    let Some((header, payload)) = buffer.split_first_chunk_mut::<FRAME_HEADER>() else {
        return;
    };
    *header = frame_header(payload);
}

fn frame_header(payload: &[u8]) -> [u8; FRAME_HEADER] {
    let mut header = [0; FRAME_HEADER];
    let (fields, check) = header.split_at_mut(12);
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let words = [FRAME_MAGIC, length, crc32fast::hash(payload)];
    for (place, word) in fields.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    check.copy_from_slice(&crc32fast::hash(fields).to_le_bytes());
    header
}

/// Payload length and checksum, if these bytes are a frame's header.
pub fn parse_header(header: &[u8; FRAME_HEADER]) -> Option<(usize, u32)> {
    let (fields, check) = header.split_at(12);
    if crc32fast::hash(fields).to_le_bytes() != check {
        return None;
    }
    let mut input = Input(fields);
    let magic = input.u32()?;
    let length = input.u32()?;
    let crc = input.u32()?;
    (magic == FRAME_MAGIC).then_some((length as usize, crc))
}

/// Whether a whole frame starts somewhere in `bytes`: what a torn tail never holds.
pub fn holds_frame(bytes: &[u8]) -> bool {
    let magic = FRAME_MAGIC.to_le_bytes();
    bytes.windows(FRAME_HEADER).enumerate().any(|(at, window)| {
        window.starts_with(&magic)
            && window
                .first_chunk::<FRAME_HEADER>()
                .and_then(parse_header)
                .is_some_and(|(length, crc)| {
                    let start = at + FRAME_HEADER;
                    bytes
                        .get(start..start + length)
                        .is_some_and(|payload| crc32fast::hash(payload) == crc)
                })
    })
}

/// What a put record says beside its value.
#[derive(Clone, Copy, Debug)]
pub struct PutFields<'a> {
    /// The change's revision.
    pub revision: i64,
    /// The revision in which the key came to be.
    pub create: i64,
    /// Writes since creation.
    pub version: u32,
    /// The lease, or 0.
    pub lease: i64,
    /// The key.
    pub key: &'a [u8],
}

/// Appends a put; returns where in `out` the value starts.
pub fn write_put(out: &mut Vec<u8>, fields: &PutFields<'_>, value: &[u8]) -> usize {
    out.reserve(PUT_OVERHEAD + fields.key.len() + value.len());
    out.push(TAG_PUT);
    out.extend_from_slice(&fields.revision.to_le_bytes());
    out.extend_from_slice(&fields.create.to_le_bytes());
    out.extend_from_slice(&fields.version.to_le_bytes());
    out.extend_from_slice(&fields.lease.to_le_bytes());
    write_bytes(out, fields.key);
    out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(value).to_le_bytes());
    let at = out.len();
    out.extend_from_slice(value);
    at
}

/// Appends a delete.
pub fn write_delete(out: &mut Vec<u8>, revision: i64, key: &[u8]) {
    out.push(TAG_DELETE);
    out.extend_from_slice(&revision.to_le_bytes());
    write_bytes(out, key);
}

/// Appends the grant of a lease.
pub fn write_grant(out: &mut Vec<u8>, id: i64, ttl: i64) {
    out.push(TAG_GRANT);
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&ttl.to_le_bytes());
}

/// Appends the end of a lease.
pub fn write_revoke(out: &mut Vec<u8>, id: i64) {
    out.push(TAG_REVOKE);
    out.extend_from_slice(&id.to_le_bytes());
}

/// Appends a compaction.
pub fn write_compact(out: &mut Vec<u8>, revision: i64) {
    out.push(TAG_COMPACT);
    out.extend_from_slice(&revision.to_le_bytes());
}

/// Appends the first record of a base file.
pub fn write_base(out: &mut Vec<u8>, through: i64, compacted: i64) {
    out.push(TAG_BASE);
    out.extend_from_slice(&through.to_le_bytes());
    out.extend_from_slice(&compacted.to_le_bytes());
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Reads the records of a payload in order; `None` as an item means the rest is not understood.
pub fn records(payload: &[u8]) -> impl Iterator<Item = Option<Record>> {
    let mut input = Input(payload);
    let mut broken = false;
    std::iter::from_fn(move || {
        if broken || input.0.is_empty() {
            return None;
        }
        let record = read_record(&mut input, payload.len());
        broken = record.is_none();
        Some(record)
    })
}

fn read_record(input: &mut Input<'_>, whole: usize) -> Option<Record> {
    Some(match input.u8()? {
        TAG_PUT => {
            let revision = input.i64()?;
            let create = input.i64()?;
            let version = input.u32()?;
            let lease = input.i64()?;
            let key = Bytes::copy_from_slice(input.bytes()?);
            let len = input.u32()?;
            input.u32()?;
            let offset = whole - input.0.len();
            input.take(len as usize)?;
            Record::Put {
                revision,
                create,
                version,
                lease,
                key,
                offset,
                len,
            }
        }
        TAG_DELETE => Record::Delete {
            revision: input.i64()?,
            key: Bytes::copy_from_slice(input.bytes()?),
        },
        TAG_GRANT => Record::Grant {
            id: input.i64()?,
            ttl: input.i64()?,
        },
        TAG_REVOKE => Record::Revoke { id: input.i64()? },
        TAG_COMPACT => Record::Compact {
            revision: input.i64()?,
        },
        TAG_BASE => Record::Base {
            through: input.i64()?,
            compacted: input.i64()?,
        },
        _ => return None,
    })
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.chunk::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.chunk().map(u32::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.chunk().map(i64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(len as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_come_back() {
        let mut frame = Vec::new();
        begin_frame(&mut frame);
        let fields = PutFields {
            revision: 7,
            create: 5,
            version: 2,
            lease: 9,
            key: b"/a",
        };
        let at = write_put(&mut frame, &fields, b"value");
        let beside = frame.len() - FRAME_HEADER - b"/a".len() - b"value".len();
        assert_eq!(beside, PUT_OVERHEAD);
        write_delete(&mut frame, 8, b"/b");
        write_grant(&mut frame, 1, 60);
        write_revoke(&mut frame, 1);
        write_compact(&mut frame, 6);
        write_base(&mut frame, 3, 4);
        seal_frame(&mut frame);
        let header = frame.first_chunk().unwrap();
        let (length, crc) = parse_header(header).unwrap();
        let payload = &frame[FRAME_HEADER..];
        assert_eq!((length, crc), (payload.len(), crc32fast::hash(payload)));
        let all: Vec<_> = records(payload).map(Option::unwrap).collect();
        let put = Record::Put {
            revision: 7,
            create: 5,
            version: 2,
            lease: 9,
            key: Bytes::from_static(b"/a"),
            offset: at - FRAME_HEADER,
            len: 5,
        };
        let delete = Record::Delete {
            revision: 8,
            key: Bytes::from_static(b"/b"),
        };
        assert_eq!(
            all,
            [
                put,
                delete,
                Record::Grant { id: 1, ttl: 60 },
                Record::Revoke { id: 1 },
                Record::Compact { revision: 6 },
                Record::Base {
                    through: 3,
                    compacted: 4
                }
            ]
        );
        assert!(holds_frame(&[&b"junk"[..], &frame].concat()));
        frame.pop();
        assert!(!holds_frame(&frame));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = records(&bytes).count();
            let _ = holds_frame(&bytes);
        }
    }
}
