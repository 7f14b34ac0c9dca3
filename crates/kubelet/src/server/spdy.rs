//! A SPDY/3.1 client, as much as the runtime's streaming server needs: open streams, send, receive, half-close.
//!
//! Header blocks are written as stored (uncompressed) zlib blocks without the dictionary, which every inflater accepts;
//! those that come in are skipped, since the answers to our streams say nothing we need. Frames are bounded by their
//! 24-bit length. Absent on purpose: serving, priorities, flow control (the other side keeps none).

use std::collections::HashMap;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const VERSION: u16 = 0x8003;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes of a stream; `fin` when they are the last.
    Data {
        /// Stream id.
        id: u32,
        /// Bytes.
        data: Bytes,
        /// The other side has ended the stream.
        fin: bool,
    },
    /// The stream was refused or broken off.
    Reset(u32),
    /// A ping to be answered.
    Ping(u32),
    /// The other side wants no more streams.
    GoAway,
    /// Something without meaning here.
    Other,
}

/// The sending half.
pub struct Sender<W> {
    io: W,
    next: u32,
    started: bool,
}

/// The receiving half.
pub struct Receiver<R> {
    io: R,
    buf: BytesMut,
}

impl<W: AsyncWrite + Unpin> Sender<W> {
    /// Over an upgraded connection.
    pub fn new(io: W) -> Sender<W> {
        Sender {
            io,
            next: 1,
            started: false,
        }
    }

    /// Opens a stream; gives its id.
    pub async fn open(&mut self, headers: &[(&str, &str)]) -> std::io::Result<u32> {
        let id = self.next;
        self.next += 2;
        let mut block = Vec::new();
        block.extend_from_slice(&u32::try_from(headers.len()).unwrap_or(0).to_be_bytes());
        for (k, v) in headers {
            for s in [k, v] {
                block.extend_from_slice(&u32::try_from(s.len()).unwrap_or(0).to_be_bytes());
                block.extend_from_slice(s.as_bytes());
            }
        }
        let mut zipped = Vec::new();
        if !self.started {
            // One zlib stream for the whole connection: its header comes once.
            zipped.extend_from_slice(&[0x78, 0x01]);
            self.started = true;
        }
        let len = u16::try_from(block.len())
            .map_err(|_| std::io::Error::other("header block too large"))?;
        zipped.push(0);
        zipped.extend_from_slice(&len.to_le_bytes());
        zipped.extend_from_slice(&(!len).to_le_bytes());
        zipped.extend_from_slice(&block);
        // An empty block, which makes inflaters hand out what they have (a sync flush).
        zipped.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
        let mut body = Vec::new();
        body.extend_from_slice(&id.to_be_bytes());
        body.extend_from_slice(&0u32.to_be_bytes());
        body.extend_from_slice(&[0, 0]);
        body.extend_from_slice(&zipped);
        self.control(SYN_STREAM, 0, &body).await?;
        Ok(id)
    }

    async fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> std::io::Result<()> {
        let mut f = Vec::with_capacity(8 + body.len());
        f.extend_from_slice(&VERSION.to_be_bytes());
        f.extend_from_slice(&kind.to_be_bytes());
        let len = u32::try_from(body.len()).unwrap_or(0) & 0x00ff_ffff;
        f.extend_from_slice(&(u32::from(flags) << 24 | len).to_be_bytes());
        f.extend_from_slice(body);
        self.io.write_all(&f).await?;
        self.io.flush().await
    }

    /// Sends bytes, or with `fin` ends our side of the stream.
    pub async fn data(&mut self, id: u32, data: &[u8], fin: bool) -> std::io::Result<()> {
        let mut head = [0u8; 8];
        head[..4].copy_from_slice(&(id & 0x7fff_ffff).to_be_bytes());
        let len = u32::try_from(data.len())
            .ok()
            .filter(|l| *l < 1 << 24)
            .ok_or_else(|| std::io::Error::other("frame too large"))?;
        head[4..]
            .copy_from_slice(&(u32::from(if fin { FIN } else { 0 }) << 24 | len).to_be_bytes());
        self.io.write_all(&head).await?;
        self.io.write_all(data).await?;
        self.io.flush().await
    }

    /// Answers a ping.
    pub async fn pong(&mut self, id: u32) -> std::io::Result<()> {
        self.control(PING, 0, &id.to_be_bytes()).await
    }
}

impl<R: AsyncRead + Unpin> Receiver<R> {
    /// Over an upgraded connection.
    pub fn new(io: R) -> Receiver<R> {
        Receiver {
            io,
            buf: BytesMut::with_capacity(16 * 1024),
        }
    }

    /// The next event; `None` at the end of the connection.
    pub async fn next(&mut self) -> std::io::Result<Option<Event>> {
        loop {
            if let Some(e) = parse(&mut self.buf) {
                return Ok(Some(e));
            }
            if self.io.read_buf(&mut self.buf).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// Takes one frame off the buffer.
fn parse(buf: &mut BytesMut) -> Option<Event> {
    let head: [u8; 8] = buf.get(..8)?.try_into().ok()?;
    let [a, b, c, d, flags, l1, l2, l3] = head;
    let len = usize::try_from(u32::from_be_bytes([0, l1, l2, l3])).ok()?;
    if buf.len() < 8 + len {
        buf.reserve(8 + len - buf.len());
        return None;
    }
    buf.advance(8);
    let body = buf.split_to(len).freeze();
    if a & 0x80 == 0 {
        return Some(Event::Data {
            id: u32::from_be_bytes([a, b, c, d]),
            data: body,
            fin: flags & FIN != 0,
        });
    }
    let first = || {
        body.get(..4)
            .and_then(|b| b.try_into().ok())
            .map(u32::from_be_bytes)
            .unwrap_or(0)
            & 0x7fff_ffff
    };
    Some(match u16::from_be_bytes([c, d]) {
        SYN_REPLY if flags & FIN != 0 => Event::Data {
            id: first(),
            data: Bytes::new(),
            fin: true,
        },
        RST_STREAM => Event::Reset(first()),
        PING => Event::Ping(
            body.get(..4)
                .and_then(|b| b.try_into().ok())
                .map(u32::from_be_bytes)
                .unwrap_or(0),
        ),
        GOAWAY => Event::GoAway,
        _ => Event::Other,
    })
}

/// Ids of streams by purpose.
pub type Streams = HashMap<u32, u8>;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_have_the_shape_of_the_protocol() {
        let (client, mut server) = tokio::io::duplex(4096);
        let mut s = Sender::new(client);
        assert_eq!(s.open(&[("streamtype", "stdin")]).await.unwrap(), 1);
        assert_eq!(s.open(&[("streamtype", "error")]).await.unwrap(), 3);
        s.data(1, b"hi", true).await.unwrap();
        let mut buf = vec![0; 4096];
        let n = server.read(&mut buf).await.unwrap();
        let mut all = buf[..n].to_vec();
        while all.len() < 18 + 2 + 5 + 27 + 5 + 18 + 5 + 27 + 5 + 10 {
            let n = server.read(&mut buf).await.unwrap();
            all.extend_from_slice(&buf[..n]);
        }
        assert_eq!(&all[..4], &[0x80, 0x03, 0, 1]);
        assert_eq!(&all[8..12], &[0, 0, 0, 1]);
        assert_eq!(&all[18..20], &[0x78, 0x01]);
        let len = u16::from_le_bytes([all[21], all[22]]);
        assert_eq!(usize::from(len), 4 + 4 + 10 + 4 + 5);
        assert_eq!(
            &all[all.len() - 10..],
            &[0, 0, 0, 1, 1, 0, 0, 2, b'h', b'i']
        );
    }

    #[test]
    fn frames_that_come_in_pieces() {
        let mut buf = BytesMut::from(&[0, 0, 0, 3, 0, 0, 0, 2, b'a'][..]);
        assert_eq!(parse(&mut buf), None);
        buf.extend_from_slice(b"b\x80\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x09");
        assert_eq!(
            parse(&mut buf),
            Some(Event::Data {
                id: 3,
                data: Bytes::from_static(b"ab"),
                fin: false
            })
        );
        assert_eq!(parse(&mut buf), Some(Event::Ping(9)));
        assert_eq!(parse(&mut buf), None);
    }
}
