//! Response bodies, and requests' bodies read within their limit.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use api::Status;
use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The largest request body in bytes. Source: upstream's `MaxRequestBodyBytes`.
pub const MAX_REQUEST_BYTES: usize = 3 * 1024 * 1024;

/// An error of a body in flight; it ends the response.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A streamed body.
pub type DynBody = Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>;

/// The body of a response.
pub enum Body {
    /// All at once.
    Full(Option<Bytes>),
    /// Piece by piece.
    Stream(DynBody),
}

impl Body {
    /// No bytes.
    pub fn empty() -> Body {
        Body::Full(None)
    }
}

impl Body {
    /// Keeps something until the body is sent; a whole body needs it no more.
    pub fn keeping<T: Send + 'static>(self, held: T) -> Body {
        match self {
            Body::Full(_) => self,
            Body::Stream(inner) => Body::Stream(Box::pin(Holding {
                inner,
                _held: Box::new(held),
                cut: None,
            })),
        }
    }

    /// As [`Body::keeping`], for `limit`; after that what `next` gives, in its place. When it gives nothing, the body ends
    /// there, broken.
    pub fn holding<T, U, F>(
        self,
        held: T,
        limit: Duration,
        next: impl FnOnce() -> F + Send + 'static,
    ) -> Body
    where
        T: Send + 'static,
        U: Send + 'static,
        F: Future<Output = Option<U>> + Send,
    {
        let inner = match self {
            Body::Full(_) => return self,
            Body::Stream(inner) => inner,
        };
        let (sent, cut) = (CancellationToken::new(), CancellationToken::new());
        let (guard, end) = (sent.clone().drop_guard(), cut.clone());
        tokio::spawn(async move {
            if tokio::time::timeout(limit, sent.cancelled()).await.is_ok() {
                return;
            }
            drop(held);
            match next().await {
                Some(_held) => sent.cancelled().await,
                None => end.cancel(),
            }
        });
        Body::Stream(Box::pin(Holding {
            inner,
            _held: Box::new(guard),
            cut: Some(Box::pin(cut.cancelled_owned())),
        }))
    }
}

/// The reader of an answer was slow, and there is no room for more like it.
#[derive(Debug, thiserror::Error)]
#[error("too many answers are read slowly")]
struct TooSlow;

struct Holding {
    inner: DynBody,
    _held: Box<dyn Send>,
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl http_body::Body for Holding {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(cut) = &mut self.cut
            && cut.as_mut().poll(cx).is_ready()
        {
            self.cut = None;
            return Poll::Ready(Some(Err(TooSlow.into())));
        }
        self.inner.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl From<Bytes> for Body {
    fn from(b: Bytes) -> Body {
        Body::Full(if b.is_empty() { None } else { Some(b) })
    }
}

impl From<Vec<u8>> for Body {
    fn from(b: Vec<u8>) -> Body {
        Bytes::from(b).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Body::Full(b) => Poll::Ready(b.take().map(|b| Ok(Frame::data(b)))),
            Body::Stream(s) => s.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Full(b) => b.is_none(),
            Body::Stream(s) => s.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(b) => SizeHint::with_exact(b.as_ref().map_or(0, |b| b.len() as u64)),
            Body::Stream(s) => s.size_hint(),
        }
    }
}

/// The 413 of a body over the limit.
fn too_large() -> Status {
    Status::failure(
        413,
        "RequestEntityTooLarge",
        format!("Request entity too large: limit is {MAX_REQUEST_BYTES}"),
    )
}

/// Beyond the limit, this much more is read and dropped, for at most [`DISCARD_TIME`]: a client that is still writing when
/// the connection closes would see a broken pipe instead of the answer.
const DISCARD_BYTES: usize = 8 * MAX_REQUEST_BYTES;
const DISCARD_TIME: Duration = Duration::from_secs(2);

async fn discard<B>(mut body: std::pin::Pin<&mut B>)
where
    B: http_body::Body<Data = Bytes>,
{
    let _ = tokio::time::timeout(DISCARD_TIME, async {
        let mut dropped = 0;
        while dropped < DISCARD_BYTES {
            let Some(Ok(frame)) = body.frame().await else {
                return;
            };
            dropped += frame.data_ref().map_or(0, Bytes::len);
        }
    })
    .await;
}

/// Reads a small body to its end and keeps nothing, so that its connection can go on after a refusal.
pub async fn drain<B>(body: B)
where
    B: http_body::Body<Data = Bytes>,
{
    discard(std::pin::pin!(body)).await;
}

/// There is no room for more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// A request's body: read before the request had its place, or for a stream to read.
pub enum Input {
    /// All of it, or what is wrong with it.
    Read(Result<Bytes, Status>),
    /// Not read.
    Stream(Incoming),
}

impl Input {
    /// The bytes; none of a stream, which nobody reads here.
    pub fn whole(self) -> Result<Bytes, Status> {
        match self {
            Input::Read(bytes) => bytes,
            Input::Stream(_) => Ok(Bytes::new()),
        }
    }
}

/// Reads a request's body while `grow` finds room for each further piece; over the limit it is a 413, and nothing of it is
/// kept.
///
/// # Errors
/// [`NoRoom`] when `grow` found none.
pub async fn read_limited<B>(
    body: B,
    mut grow: impl FnMut(usize) -> bool,
) -> Result<Result<Bytes, Status>, NoRoom>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let large = body.size_hint().lower() > MAX_REQUEST_BYTES as u64;
    let mut body = std::pin::pin!(body);
    if large {
        discard(body).await;
        return Ok(Err(too_large()));
    }
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(e) => {
                return Ok(Err(Status::bad_request(format!(
                    "unable to read body: {e}"
                ))));
            }
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if all.len() + first.as_ref().map_or(0, Bytes::len) + data.len() > MAX_REQUEST_BYTES {
            drop((first, all));
            discard(body).await;
            return Ok(Err(too_large()));
        }
        if !grow(data.len()) {
            return Err(NoRoom);
        }
        if all.is_empty() && first.is_none() {
            first = Some(data);
            continue;
        }
        if let Some(f) = first.take() {
            all.extend_from_slice(&f);
        }
        all.extend_from_slice(&data);
    }
    Ok(Ok(first.unwrap_or_else(|| all.freeze())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[tokio::test]
    async fn cve_2019_11253_bodies_are_limited_before_they_are_parsed() {
        let exact = Full::new(Bytes::from(vec![b'x'; MAX_REQUEST_BYTES]));
        assert_eq!(
            read_limited(exact, |_| true)
                .await
                .expect("room")
                .expect("within the limit")
                .len(),
            MAX_REQUEST_BYTES
        );
        let over = Full::new(Bytes::from(vec![b'x'; MAX_REQUEST_BYTES + 1]));
        let read = read_limited(over, |_| true).await.expect("room");
        let status = read.expect_err("over the limit");
        assert_eq!(status.code, 413);
        assert_eq!(status.message, "Request entity too large: limit is 3145728");
        let none = Full::new(Bytes::from_static(b"x"));
        assert_eq!(
            read_limited(none, |_| false).await.expect_err("no room"),
            NoRoom
        );
    }
}
