//! watch.
//!
//! A watch is a body that pulls changes from its subscription: no task of its own. Frames are encoded once per form and
//! shared. Invariants: events come in revision order; after the initial events each change is sent once; a bookmark
//! carries a revision up to which everything was sent.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use api::Status;
use auth::authn::headers::is_websocket;
use bytes::{Bytes, BytesMut};
use component::places::Place;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body::Frame;
use rand::Rng;
use storage::Revision;
use tokio::time::{Instant, Sleep};

use super::Call;
use super::read::{Selection, at_least};
use crate::Response;
use crate::body::{Body, BoxError, Input};
use crate::cache::{Cache, Change, Entry, FrameKey, Interest, Snapshot, Start, Subscription};
use crate::core::Served;
use crate::encode;
use crate::negotiate::{self, Form, Include, Media, Output};
use crate::options::{ListOptions, Listing};
use crate::verbs::websocket;

/// How often an idle watch tells its revision. Source: upstream's `defaultBookmarkFrequency`.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Bytes gathered into one write.
const GATHER: usize = 32 * 1024;
/// The shortest default duration of a watch in seconds; the longest is twice that. `--min-request-timeout`.
const MIN_SECONDS: u64 = 1800;
/// The longest duration that can be asked for: a year.
const MAX_SECONDS: u64 = 366 * 24 * 3600;

impl Call {
    pub(super) async fn watch(&self, request: http::Request<Input>) -> Result<Response, Status> {
        let output = negotiate::stream(&self.headers, &self.query)?;
        let watch_list = self.server.config.features.enabled("WatchList");
        let mut options = ListOptions::parse(&self.query, Listing::Watch { watch_list })?;
        if !self.info.name.is_empty() {
            // The old form names the object in its path.
            options.field_selector = format!("metadata.name={}", self.info.name);
        }
        let selection = self.selection(&options)?;
        let cache = self.served.cache()?;
        // Upstream answers 500 to a watch with a malformed resourceVersion.
        let asked = options
            .revision()
            .map_err(|e| Status::failure(500, "", e))?;
        let prefix = self.served.scope(self.namespace())?;
        let interest = self.interest(cache, &selection, &prefix)?;
        let initial = options.send_initial_events;
        let after = match (initial, asked) {
            // The newest state, then changes.
            (Some(true), a) => {
                match a {
                    None => cache.wait_current().await?,
                    Some(0) => cache.wait_ready().await,
                    Some(r) => at_least(cache, r).await?,
                }
                None
            }
            (None, None) => {
                cache.wait_current().await?;
                None
            }
            (None, Some(0)) => {
                cache.wait_ready().await;
                None
            }
            (Some(false), None) => {
                cache.wait_current().await?;
                Some(cache.revision())
            }
            (Some(false), Some(0)) => {
                cache.wait_ready().await;
                Some(cache.revision())
            }
            (_, Some(r)) => {
                // A revision that has not happened is waited for by the watch.
                cache.wait_ready().await;
                Some(r)
            }
        };
        let (start, subscription) = match cache.subscribe(interest, after) {
            Ok(s) => s,
            Err(status) => {
                // As upstream: the watch begins and ends with the error as its only event.
                let frame = encode::status_frame(output.media, &status);
                return Ok(self.stream_response(output, Body::from(frame), request));
            }
        };
        let seconds = match options.timeout {
            None | Some(0) => rand::rng().random_range(MIN_SECONDS..2 * MIN_SECONDS),
            // As upstream, a time before now has passed.
            Some(asked) => u64::try_from(asked).unwrap_or(0).min(MAX_SECONDS),
        };
        let (initial_items, initial_revision, missed) = match start {
            Start::State(s) => {
                let revision = s.revision;
                (Some(Initial::new(s, &prefix)), revision, None)
            }
            Start::After(until) => {
                let after = after.unwrap_or(0);
                (None, after, Some((after, until)))
            }
        };
        let now = Instant::now();
        let stream = Watch {
            form: form_number(&output),
            served: self.served.clone(),
            cache: cache.clone(),
            output,
            selection,
            prefix: prefix.into(),
            subscription: Some(subscription),
            initial: initial_items,
            initial_end: (initial == Some(true) && options.bookmarks).then_some(initial_revision),
            missed,
            backlog: VecDeque::new(),
            after: initial_revision,
            end: Box::pin(tokio::time::sleep_until(now + Duration::from_secs(seconds))),
            bookmark: options
                .bookmarks
                .then(|| Box::pin(tokio::time::sleep_until(now + jittered(BOOKMARK_EVERY)))),
            stop: Box::pin(self.server.stop.clone().cancelled_owned()),
            told: initial_revision,
            gone: false,
            // A message is one event.
            gather: if is_websocket(&self.headers) {
                0
            } else {
                GATHER
            },
        };
        Ok(self.stream_response(output, Body::Stream(Box::pin(stream)), request))
    }

    fn stream_response(
        &self,
        output: Output,
        body: Body,
        mut request: http::Request<Input>,
    ) -> Response {
        if is_websocket(&self.headers) {
            let form = match output.media {
                Media::Protobuf => websocket::Form::Framed,
                Media::Json | Media::Yaml => websocket::Form::Text,
            };
            let place = request.extensions_mut().remove::<Arc<Place>>();
            let client = hyper::upgrade::on(&mut request);
            return match websocket::accept_watch(&self.headers, form) {
                Ok(m) => m.answer(client, body.keeping(place), self.server.stop.clone()),
                Err(refusal) => *refusal,
            };
        }
        let mut response = self.respond(200, output.media, body);
        let name = HeaderValue::from_static(output.media.stream_name());
        response.headers_mut().insert(CONTENT_TYPE, name);
        response
    }

    /// The narrowest index that covers the selection.
    fn interest(
        &self,
        cache: &Cache,
        selection: &Selection,
        prefix: &[u8],
    ) -> Result<Interest, Status> {
        let def = &self.served.def;
        let namespaced = def.namespaced;
        if let Some(name) = selection.fields().required_name()
            && (!namespaced || !self.namespace().is_empty())
        {
            return Ok(Interest::Key(
                self.served.key(self.namespace(), name)?.into(),
            ));
        }
        if let Some((i, value)) = selection.fields().required_custom()
            && def.version == cache.def.version
            && def.group == cache.def.group
        {
            return Ok(Interest::Field(i, value.into()));
        }
        if namespaced && !self.namespace().is_empty() {
            return Ok(Interest::Namespace(Bytes::copy_from_slice(prefix)));
        }
        Ok(Interest::All)
    }
}

fn jittered(d: Duration) -> Duration {
    d.mul_f64(rand::rng().random_range(0.9..1.1))
}

/// A small number for each form whose frames may be shared; 255 for those that may not.
fn form_number(output: &Output) -> u8 {
    let media = match output.media {
        Media::Json => 0,
        Media::Protobuf => 1,
        Media::Yaml => return 255,
    };
    match output.form {
        Form::Object => media,
        Form::Partial(beta) => 2 + 2 * u8::from(beta) + media,
        // The ages in a row are those of the moment when the first watcher was told.
        Form::Table(beta, include) => {
            let include = match include {
                Include::Metadata => 0,
                Include::None => 1,
                Include::Object => 2,
            };
            6 + 3 * u8::from(beta) + include
        }
    }
}

/// What there is when a watch begins, taken a little at a time: a watcher that reads slowly holds no list of all.
struct Initial {
    state: Snapshot,
    prefix: Bytes,
    /// Where to go on.
    start: Vec<u8>,
    taken: VecDeque<Arc<Entry>>,
}

/// Objects, or changes, taken at once.
const TAKEN: usize = 64;

impl Initial {
    fn new(state: Snapshot, prefix: &[u8]) -> Initial {
        Initial {
            state,
            prefix: Bytes::copy_from_slice(prefix),
            start: prefix.to_vec(),
            taken: VecDeque::new(),
        }
    }

    fn next(&mut self) -> Option<Arc<Entry>> {
        if self.taken.is_empty() {
            let more = self.state.range(&self.prefix, &self.start);
            self.taken = more.take(TAKEN).cloned().collect();
            let last = self.taken.back()?;
            self.start = last.key.to_vec();
            self.start.push(0);
        }
        self.taken.pop_front()
    }
}

struct Watch {
    served: Arc<Served>,
    cache: Arc<Cache>,
    output: Output,
    form: u8,
    selection: Selection,
    prefix: Bytes,
    subscription: Option<Subscription>,
    initial: Option<Initial>,
    initial_end: Option<Revision>,
    /// Changes that came before the watch began are still to be sent: after the first revision, up to the second.
    missed: Option<(Revision, Revision)>,
    backlog: VecDeque<Arc<Change>>,
    after: Revision,
    end: Pin<Box<Sleep>>,
    bookmark: Option<Pin<Box<Sleep>>>,
    stop: Pin<Box<tokio_util::sync::WaitForCancellationFutureOwned>>,
    told: Revision,
    gone: bool,
    /// Bytes gathered into one write.
    gather: usize,
}

impl Watch {
    fn selects(&self, entry: &Entry) -> bool {
        self.selection
            .matches_def(&self.cache, &self.served.def, entry)
    }

    fn added(&self, entry: &Entry) -> Result<Bytes, Status> {
        self.served
            .encoder()
            .frame(&self.output, "ADDED", entry, entry.revision)
    }

    /// The frame of a change as this watcher sees it; `None` when it does not.
    fn frame(&mut self, change: &Change) -> Result<Option<Bytes>, Status> {
        if change.revision <= self.after {
            return Ok(None);
        }
        let key = change
            .current
            .as_ref()
            .or(change.previous.as_ref())
            .map(|e| e.key.clone());
        if !key.is_some_and(|k| k.starts_with(&self.prefix)) {
            return Ok(None);
        }
        let now = change.current.as_ref().filter(|e| self.selects(e));
        let before = change.previous.as_ref().filter(|e| self.selects(e));
        let (number, event, entry) = match (now, before) {
            (Some(n), None) => (0, "ADDED", n),
            (Some(n), Some(_)) => (1, "MODIFIED", n),
            (None, Some(b)) => (2, "DELETED", b),
            (None, None) => return Ok(None),
        };
        self.told = change.revision;
        let encoder = self.served.encoder();
        let make = || encoder.frame(&self.output, event, entry, change.revision);
        if self.form == 255 {
            return make().map(Some);
        }
        let key = FrameKey {
            served: self.served.id,
            event: number,
            form: self.form,
        };
        change.frame(key, make).map(Some)
    }

    /// The next bytes; `Ready(None)` is the end.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        while let Some(e) = self.initial.as_mut().and_then(Initial::next) {
            if self.selects(&e) {
                return Poll::Ready(Some(self.added(&e)));
            }
        }
        self.initial = None;
        if let Some(revision) = self.initial_end.take() {
            return Poll::Ready(Some(self.served.encoder().bookmark(
                &self.output,
                revision,
                true,
            )));
        }
        loop {
            if let Some(change) = self.backlog.pop_front() {
                match self.frame(&change) {
                    Ok(None) => continue,
                    Ok(Some(b)) => return Poll::Ready(Some(Ok(b))),
                    Err(s) => return Poll::Ready(Some(Err(s))),
                }
            }
            if let Some((after, until)) = self.missed {
                let Some(more) = self.cache.changes(after, until, TAKEN) else {
                    // Too slow.
                    self.cache.ended_slow.fetch_add(1, Ordering::Relaxed);
                    self.subscription = None;
                    return Poll::Ready(None);
                };
                self.missed = more.last().map(|last| (last.revision, until));
                self.backlog = more.into();
                continue;
            }
            let Some(subscription) = self.subscription.as_mut() else {
                return Poll::Ready(None);
            };
            match subscription.poll_next(cx) {
                Poll::Ready(Some(change)) => self.backlog.push_back(change),
                Poll::Ready(None) => {
                    self.subscription = None;
                    return Poll::Ready(None);
                }
                Poll::Pending => break,
            }
        }
        if self.end.as_mut().poll(cx).is_ready() || self.stop.as_mut().poll(cx).is_ready() {
            self.subscription = None;
            return Poll::Ready(None);
        }
        if let Some(timer) = self.bookmark.as_mut()
            && timer.as_mut().poll(cx).is_ready()
        {
            timer
                .as_mut()
                .reset(Instant::now() + jittered(BOOKMARK_EVERY));
            // Registers the new deadline.
            let _ = timer.as_mut().poll(cx);
            let idle = self
                .subscription
                .as_ref()
                .and_then(Subscription::idle_revision);
            if let Some(revision) = idle.filter(|r| *r > self.told) {
                self.told = revision;
                return Poll::Ready(Some(self.served.encoder().bookmark(
                    &self.output,
                    revision,
                    false,
                )));
            }
        }
        Poll::Pending
    }
}

impl http_body::Body for Watch {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.gone {
            return Poll::Ready(None);
        }
        let first = match this.next(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => {
                this.gone = true;
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(s))) => {
                this.gone = true;
                return Poll::Ready(Some(Ok(Frame::data(encode::status_frame(
                    this.output.media,
                    &s,
                )))));
            }
            Poll::Ready(Some(Ok(b))) => b,
        };
        // One frame alone goes out as it is, shared; several that are ready are gathered into one write.
        let mut gathered: Option<BytesMut> = None;
        let mut len = first.len();
        while len < this.gather {
            match this.next(cx) {
                Poll::Ready(Some(Ok(b))) => {
                    len += b.len();
                    gathered
                        .get_or_insert_with(|| {
                            let mut all = BytesMut::with_capacity(GATHER);
                            all.extend_from_slice(&first);
                            all
                        })
                        .extend_from_slice(&b);
                }
                Poll::Ready(Some(Err(s))) => {
                    this.gone = true;
                    let b = encode::status_frame(this.output.media, &s);
                    gathered
                        .get_or_insert_with(|| BytesMut::from(&first[..]))
                        .extend_from_slice(&b);
                    break;
                }
                Poll::Ready(None) => {
                    this.gone = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        let bytes = gathered.map_or(first, BytesMut::freeze);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}
