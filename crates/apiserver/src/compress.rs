//! gzip of large answers, for clients that take it.
//!
//! Source: upstream's `endpoints/handlers/responsewriters`: what is larger than 128 KiB, at the fastest level, if `gzip`
//! stands in Accept-Encoding without a weight.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderValue, VARY};
use http_body::Frame;
use http_body_util::BodyExt;

use crate::Response;
use crate::body::{Body, BoxError, DynBody};

/// What is smaller is sent as it is.
const THRESHOLD: usize = 128 * 1024;
/// Compressed bytes gathered into one frame.
const GATHER: usize = 32 * 1024;

/// Whether the client takes gzip.
pub fn accepted(headers: &HeaderMap) -> bool {
    headers
        .get(ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|e| e.trim() == "gzip"))
}

/// The answer, compressed if it is large.
pub async fn compress(response: Response) -> Response {
    if response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let body = match body {
        Body::Full(Some(bytes)) if bytes.len() > THRESHOLD => {
            let whole: DynBody = Box::pin(http_body_util::Empty::new().map_err(|e| match e {}));
            match encoder.write_all(&bytes) {
                Ok(()) => gzip(whole, encoder),
                Err(_) => Body::Full(Some(bytes)),
            }
        }
        Body::Stream(mut inner) => {
            // A stream that ends early is small.
            let mut first: Vec<Bytes> = Vec::new();
            let mut len = 0;
            let mut broken = None;
            let mut ended = false;
            while len <= THRESHOLD {
                match inner.frame().await {
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            len += data.len();
                            first.push(data);
                        }
                    }
                    Some(Err(e)) => {
                        broken = Some(e);
                        break;
                    }
                    None => {
                        ended = true;
                        break;
                    }
                }
            }
            if let Some(e) = broken {
                Body::Stream(Box::pin(Broken(Some(e))))
            } else if ended {
                Body::from(first.concat())
            } else if first.iter().all(|b| encoder.write_all(b).is_ok()) {
                gzip(inner, encoder)
            } else {
                Body::empty()
            }
        }
        other => other,
    };
    if let Body::Stream(_) = &body {
        parts
            .headers
            .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        parts
            .headers
            .append(VARY, HeaderValue::from_static("Accept-Encoding"));
        parts.headers.remove(http::header::CONTENT_LENGTH);
    }
    Response::from_parts(parts, body)
}

/// What was compressed, as it was: inflated as it is sent, so that a slow reader holds a few kilobytes.
pub fn inflated(bytes: Bytes) -> Body {
    let decoder = flate2::bufread::GzDecoder::new(bytes::Buf::reader(bytes));
    let pieces = futures::stream::unfold(decoder, |mut decoder| async {
        let mut piece = vec![0; GATHER];
        match std::io::Read::read(&mut decoder, &mut piece) {
            Ok(0) => None,
            Ok(n) => {
                piece.truncate(n);
                Some((Ok(Frame::data(piece.into())), decoder))
            }
            Err(e) => Some((Err(BoxError::from(e)), decoder)),
        }
    });
    Body::Stream(Box::pin(http_body_util::StreamBody::new(pieces)))
}

fn gzip(inner: DynBody, encoder: GzEncoder<Vec<u8>>) -> Body {
    Body::Stream(Box::pin(Gzip {
        inner,
        encoder: Some(encoder),
    }))
}

/// What is left of a stream that failed.
struct Broken(Option<BoxError>);

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.take().map(Err))
    }
}

/// A body, compressed as it comes.
struct Gzip {
    inner: DynBody,
    /// `None` once all was given out.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl http_body::Body for Gzip {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let this = &mut *self;
            let Some(encoder) = &mut this.encoder else {
                return Poll::Ready(None);
            };
            if encoder.get_ref().len() >= GATHER {
                let out = std::mem::take(encoder.get_mut());
                return Poll::Ready(Some(Ok(Frame::data(out.into()))));
            }
            match ready!(this.inner.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && let Err(e) = encoder.write_all(&data)
                    {
                        this.encoder = None;
                        return Poll::Ready(Some(Err(e.into())));
                    }
                }
                Some(Err(e)) => {
                    this.encoder = None;
                    return Poll::Ready(Some(Err(e)));
                }
                None => {
                    let end = this.encoder.take().map(GzEncoder::finish);
                    return Poll::Ready(
                        end.map(|r| r.map(|v| Frame::data(v.into())).map_err(Into::into)),
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn stream(pieces: usize) -> Body {
        let frames = (0..pieces).map(|i| {
            let piece = Bytes::from(format!("{i:08}").repeat(1024));
            Ok::<_, BoxError>(Frame::data(piece))
        });
        Body::Stream(Box::pin(http_body_util::StreamBody::new(
            futures::stream::iter(frames.collect::<Vec<_>>()),
        )))
    }

    async fn sent(body: Body) -> (bool, Vec<u8>) {
        let r = compress(Response::new(body)).await;
        let packed = r.headers().contains_key(CONTENT_ENCODING);
        let bytes = r.into_body().collect().await.expect("a body").to_bytes();
        if !packed {
            return (false, bytes.to_vec());
        }
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..])
            .read_to_end(&mut out)
            .expect("gzip");
        (true, out)
    }

    #[tokio::test]
    async fn large_answers_are_compressed_whole() {
        for (pieces, packed) in [(1, false), (16, false), (17, true), (200, true)] {
            let plain = stream(pieces).collect().await.expect("a body").to_bytes();
            assert_eq!(sent(stream(pieces)).await, (packed, plain.to_vec()));
            let whole = Body::from(plain.to_vec());
            assert_eq!(sent(whole).await, (packed, plain.to_vec()));
        }
    }

    #[tokio::test]
    async fn what_was_compressed_comes_out_whole() {
        let plain = stream(40).collect().await.expect("a body").to_bytes();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&plain).expect("written");
        let packed = Bytes::from(encoder.finish().expect("written"));
        let out = inflated(packed.clone()).collect().await;
        assert_eq!(out.expect("a body").to_bytes(), plain);
        // What is broken ends in an error, not in a short answer.
        let cut = packed.slice(..packed.len() / 2);
        let e = inflated(cut).collect().await.expect_err("half of it");
        let e = e.downcast::<std::io::Error>().expect("of reading");
        assert_eq!(e.kind(), std::io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn weights_are_not_understood() {
        for (header, want) in [
            ("gzip", true),
            ("deflate, gzip", true),
            ("gzip;q=1.0", false),
            ("*", false),
        ] {
            let mut h = HeaderMap::new();
            h.insert(ACCEPT_ENCODING, header.parse().expect("a header"));
            assert_eq!(accepted(&h), want, "{header}");
        }
    }
}
