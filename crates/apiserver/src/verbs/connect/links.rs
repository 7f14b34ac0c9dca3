//! Links in HTML pages of services, pods and nodes lead below the proxy. Source: upstream's `util/proxy/transport.go`, which
//! reads the page whole; here it passes through, and no more than one tag is held.
//!
//! Only values of attributes that hold a link are changed, everything else stays as it came. Absent, as upstream: links in
//! scripts and style sheets.

use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use flate2::Compression;
use flate2::write::{DeflateDecoder, DeflateEncoder, GzDecoder, GzEncoder};
use http_body::Frame;

use crate::body::BoxError;

/// A longer tag passes as it is.
const MAX_TAG: usize = 64 * 1024;
/// Bytes that are read at once: compressed ones may become a thousand times as many.
const SLICE: usize = 4 * 1024;

/// Attributes that hold links, by element.
const LINKS: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is text up to their end.
const RAW: [&str; 9] = [
    "iframe", "noembed", "noframes", "noscript", "script", "style", "textarea", "title", "xmp",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Text,
    /// Within `<…>`, which is held.
    Tag(Value),
    /// After `<!--`, with the dashes just seen.
    Comment(u8),
    /// In an element of [`RAW`].
    Raw(&'static str),
}

/// Where in a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// Not in a value.
    No,
    /// After `=`.
    Begins,
    /// In one without quotes.
    Bare,
    /// In one with these quotes.
    Quoted(u8),
}

/// Changes links with a function of the link.
pub struct Rewriter<F> {
    link: F,
    state: State,
    /// The tag so far, or the end of what was written in [`State::Raw`].
    held: Vec<u8>,
}

impl<F: Fn(&str) -> String> Rewriter<F> {
    pub fn new(link: F) -> Rewriter<F> {
        Rewriter {
            link,
            state: State::Text,
            held: Vec::new(),
        }
    }

    /// More of the page.
    pub fn push(&mut self, data: &[u8], out: &mut Vec<u8>) {
        for b in data {
            self.byte(*b, out);
        }
    }

    /// The end of the page.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if matches!(self.state, State::Tag(_)) {
            out.append(&mut self.held);
        }
        self.state = State::Text;
    }

    fn byte(&mut self, b: u8, out: &mut Vec<u8>) {
        match self.state {
            State::Text if b == b'<' => {
                self.held.clear();
                self.held.push(b);
                self.state = State::Tag(Value::No);
            }
            State::Text => out.push(b),
            State::Comment(dashes) => {
                out.push(b);
                self.state = match b {
                    b'-' => State::Comment(dashes.saturating_add(1)),
                    b'>' if dashes >= 2 => State::Text,
                    _ => State::Comment(0),
                };
            }
            State::Raw(name) => {
                out.push(b);
                // `</name`, and what ends a name.
                let at = self.held.len();
                let want = match at {
                    0 => Some(b'<'),
                    1 => Some(b'/'),
                    n => name.as_bytes().get(n - 2).copied(),
                };
                match want {
                    Some(w) if w == b.to_ascii_lowercase() => self.held.push(b),
                    None if b == b'>' || b == b'/' || b.is_ascii_whitespace() => {
                        self.state = State::Text;
                    }
                    _ => {
                        self.held.clear();
                        if b == b'<' {
                            self.held.push(b);
                        }
                    }
                }
            }
            State::Tag(value) => self.in_tag(b, value, out),
        }
    }

    fn in_tag(&mut self, b: u8, value: Value, out: &mut Vec<u8>) {
        let begins = self.held.len() == 1;
        if begins && !(b.is_ascii_alphabetic() || matches!(b, b'/' | b'!' | b'?')) {
            out.append(&mut self.held);
            self.state = State::Text;
            return self.byte(b, out);
        }
        self.held.push(b);
        if self.held == b"<!--" {
            out.append(&mut self.held);
            // `<!-->` is a whole comment.
            self.state = State::Comment(2);
            return;
        }
        let space = b.is_ascii_whitespace();
        let next = match (value, b) {
            (Value::Quoted(q), b) if b == q => Value::No,
            (Value::Quoted(q), _) => Value::Quoted(q),
            (_, b'>') => {
                let tag = std::mem::take(&mut self.held);
                self.state = self.tag(&tag, out);
                return;
            }
            (Value::Begins, b'"' | b'\'') => Value::Quoted(b),
            (Value::Begins, _) if space => Value::Begins,
            (Value::Begins, _) => Value::Bare,
            (Value::Bare, _) if space => Value::No,
            (Value::Bare, _) => Value::Bare,
            (Value::No, b'=') => Value::Begins,
            (Value::No, _) => Value::No,
        };
        self.state = State::Tag(next);
        if self.held.len() > MAX_TAG {
            out.append(&mut self.held);
            self.state = State::Text;
        }
    }

    /// Writes a tag; what comes after it.
    fn tag(&self, tag: &[u8], out: &mut Vec<u8>) -> State {
        let name: Vec<u8> = tag
            .iter()
            .skip(1)
            .take_while(|b| !b.is_ascii_whitespace() && !matches!(b, b'>' | b'/'))
            .map(u8::to_ascii_lowercase)
            .collect();
        match LINKS.iter().find(|(n, _)| n.as_bytes() == name) {
            Some((_, attributes)) => self.attributes(tag, 1 + name.len(), attributes, out),
            None => out.extend_from_slice(tag),
        }
        match RAW.iter().find(|n| n.as_bytes() == name) {
            Some(n) => State::Raw(n),
            None => State::Text,
        }
    }

    fn attributes(&self, tag: &[u8], mut at: usize, links: &[&str], out: &mut Vec<u8>) {
        let get = |i: usize| tag.get(i).copied();
        let skip = |mut i: usize, f: &dyn Fn(u8) -> bool| {
            while get(i).is_some_and(f) {
                i += 1;
            }
            i
        };
        let mut written = 0;
        while at < tag.len() {
            at = skip(at, &|b| b.is_ascii_whitespace() || b == b'/');
            let from = at;
            at = skip(at, &|b| {
                !b.is_ascii_whitespace() && !matches!(b, b'=' | b'>' | b'/')
            });
            let name = tag.get(from..at).unwrap_or_default().to_ascii_lowercase();
            let equals = skip(at, &|b| b.is_ascii_whitespace());
            if get(equals) != Some(b'=') {
                // A stray sign is passed over.
                at = at.max(from + 1);
                continue;
            }
            let begins = skip(equals + 1, &|b| b.is_ascii_whitespace());
            let (start, end, after) = match get(begins) {
                Some(q @ (b'"' | b'\'')) => {
                    let end = skip(begins + 1, &|b| b != q);
                    (begins + 1, end, end + 1)
                }
                _ => {
                    let end = skip(begins, &|b| !b.is_ascii_whitespace() && b != b'>');
                    (begins, end, end)
                }
            };
            if links.iter().any(|l| l.as_bytes() == name)
                && let Some(Ok(value)) = tag.get(start..end).map(std::str::from_utf8)
            {
                let link = value.replace("&amp;", "&");
                let there = (self.link)(&link);
                if there != link {
                    out.extend_from_slice(tag.get(written..start).unwrap_or_default());
                    let there = there.replace('&', "&amp;").replace('"', "&#34;");
                    out.extend_from_slice(there.replace('\'', "&#39;").as_bytes());
                    written = end;
                }
            }
            at = after;
        }
        out.extend_from_slice(tag.get(written..).unwrap_or_default());
    }
}

/// One direction of an encoding: what was written comes out of `taken`, the rest of it after the end.
trait Codec: Write + Send + Sync {
    fn end(&mut self) -> std::io::Result<()>;
    fn taken(&mut self) -> Vec<u8>;
}

macro_rules! codecs {
    ($($codec:ident),*) => {$(
        impl Codec for $codec<Vec<u8>> {
            fn end(&mut self) -> std::io::Result<()> {
                self.try_finish()
            }

            fn taken(&mut self) -> Vec<u8> {
                std::mem::take(self.get_mut())
            }
        }
    )*};
}

codecs!(GzDecoder, GzEncoder, DeflateDecoder, DeflateEncoder);

/// How a page that is encoded is read and written again.
struct Coding {
    from: Box<dyn Codec>,
    to: Box<dyn Codec>,
}

/// A page on its way; see the module.
pub struct Page<B, F> {
    inner: B,
    coding: Option<Coding>,
    rewriter: Rewriter<F>,
    read: Bytes,
    ended: bool,
}

impl<B, F: Fn(&str) -> String> Page<B, F> {
    /// A body in an encoding (`Content-Encoding`, empty for none). `Err` gives it back: the encoding is not known.
    pub fn new(inner: B, encoding: &str, link: F) -> Result<Page<B, F>, B> {
        let fast = Compression::fast();
        let coding = match encoding {
            "" | "identity" => None,
            "gzip" => Some(Coding {
                from: Box::new(GzDecoder::new(Vec::new())),
                to: Box::new(GzEncoder::new(Vec::new(), fast)),
            }),
            "deflate" => Some(Coding {
                from: Box::new(DeflateDecoder::new(Vec::new())),
                to: Box::new(DeflateEncoder::new(Vec::new(), fast)),
            }),
            _ => return Err(inner),
        };
        Ok(Page {
            inner,
            coding,
            rewriter: Rewriter::new(link),
            read: Bytes::new(),
            ended: false,
        })
    }

    /// What comes out for more of the body, or at its end.
    fn turn(&mut self, data: Option<&[u8]>) -> std::io::Result<Vec<u8>> {
        let rewriter = &mut self.rewriter;
        let mut rewrite = |plain: &[u8], end: bool| {
            let mut out = Vec::with_capacity(plain.len());
            rewriter.push(plain, &mut out);
            if end {
                rewriter.finish(&mut out);
            }
            out
        };
        let end = data.is_none();
        let data = data.unwrap_or_default();
        let Some(Coding { from, to }) = &mut self.coding else {
            return Ok(rewrite(data, end));
        };
        from.write_all(data)?;
        if end {
            from.end()?;
        }
        to.write_all(&rewrite(&from.taken(), end))?;
        if end {
            to.end()?;
        } else {
            to.flush()?;
        }
        Ok(to.taken())
    }
}

impl<B, F> http_body::Body for Page<B, F>
where
    B: http_body::Body<Data = Bytes, Error = BoxError> + Unpin,
    F: Fn(&str) -> String + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if !this.read.is_empty() {
                let slice = this.read.split_to(SLICE.min(this.read.remaining()));
                let out = this.turn(Some(&slice))?;
                if !out.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(out.into()))));
                }
                continue;
            }
            if this.ended {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        this.read = data;
                    }
                }
                Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                None => {
                    this.ended = true;
                    let out = this.turn(None)?;
                    if !out.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(out.into()))));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use http_body_util::BodyExt as _;

    use super::*;

    fn below(link: &str) -> String {
        match link.starts_with('/') {
            true => format!("/proxy{link}"),
            false => link.to_owned(),
        }
    }

    fn rewrite(page: &[u8], piece: usize) -> String {
        let mut rewriter = Rewriter::new(below);
        let mut out = Vec::new();
        for p in page.chunks(piece) {
            rewriter.push(p, &mut out);
        }
        rewriter.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn links_lead_below_the_proxy() {
        for (page, want) in [
            ("<a href=\"/x\">", "<a href=\"/proxy/x\">"),
            (
                "<A class=a HREF = '/x?a=1&amp;b' id>",
                "<A class=a HREF = '/proxy/x?a=1&amp;b' id>",
            ),
            (
                "<img src=/x/ usemap=/y>",
                "<img src=/proxy/x/ usemap=/proxy/y>",
            ),
            ("<a href=x><b href=/x>/x</a>", "<a href=x><b href=/x>/x</a>"),
            ("<a title=\"<a href='/x'>\">", "<a title=\"<a href='/x'>\">"),
            (
                "<!-- <a href=/x> --><a href=/x>",
                "<!-- <a href=/x> --><a href=/proxy/x>",
            ),
            ("<!--><a href=/x>", "<!--><a href=/proxy/x>"),
            (
                "<script src=\"/x\">'<a href=\"/y\">'</ScripT ><a href=/z>",
                "<script src=\"/proxy/x\">'<a href=\"/y\">'</ScripT ><a href=/proxy/z>",
            ),
            ("a < b <a href=/x", "a < b <a href=/x"),
            ("<<a href=/x/>", "<<a href=/proxy/x/>"),
            ("<a = href=/x>", "<a = href=/x>"),
            ("<a href='/x\"y'>", "<a href='/proxy/x&#34;y'>"),
        ] {
            for piece in [1, 2, 3, page.len()] {
                assert_eq!(rewrite(page.as_bytes(), piece), want);
            }
        }
    }

    #[test]
    fn a_tag_without_end_is_not_held_for_ever() {
        let page = format!("<a href=\"/{}", "x".repeat(3 * MAX_TAG));
        let mut rewriter = Rewriter::new(below);
        let mut out = Vec::new();
        rewriter.push(page.as_bytes(), &mut out);
        assert!(out.len() > MAX_TAG && rewriter.held.len() <= MAX_TAG);
        rewriter.finish(&mut out);
        assert_eq!(out, page.as_bytes());
    }

    async fn sent(body: Vec<u8>, encoding: &str) -> Result<Vec<u8>, BoxError> {
        let body = http_body_util::Full::new(Bytes::from(body)).map_err(|e| match e {});
        let Ok(page) = Page::new(body, encoding, below) else {
            panic!("an encoding that is known");
        };
        Ok(page.collect().await?.to_bytes().to_vec())
    }

    #[tokio::test]
    async fn compressed_pages_too() {
        let page = b"<a href=/x>x</a>".repeat(10_000);
        let want = b"<a href=/proxy/x>x</a>".repeat(10_000);
        assert_eq!(sent(page.clone(), "").await.unwrap(), want);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&page).unwrap();
        let gzip = gzip.finish().unwrap();
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(&*sent(gzip.clone(), "gzip").await.unwrap())
            .read_to_end(&mut out)
            .unwrap();
        assert_eq!(out, want);
        let mut deflate = DeflateEncoder::new(Vec::new(), Compression::best());
        deflate.write_all(&page).unwrap();
        let mut out = Vec::new();
        flate2::read::DeflateDecoder::new(
            &*sent(deflate.finish().unwrap(), "deflate").await.unwrap(),
        )
        .read_to_end(&mut out)
        .unwrap();
        assert_eq!(out, want);
        // What is broken ends in an error.
        let half = gzip[..gzip.len() / 2].to_vec();
        let e = sent(half, "gzip")
            .await
            .unwrap_err()
            .downcast::<std::io::Error>();
        assert_eq!(e.unwrap().kind(), std::io::ErrorKind::UnexpectedEof);
        let unknown = Page::new(http_body_util::Empty::<Bytes>::new(), "br", below);
        assert!(unknown.is_err(), "nobody here reads brotli");
    }
}
