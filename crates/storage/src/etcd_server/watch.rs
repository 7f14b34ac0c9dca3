//! Watch: many watches on one stream of requests and answers.
//!
//! Progress on request is answered once, for the whole stream, when every watch has sent what came before, as in etcd.

use std::collections::{HashMap, HashSet};

use etcd_client::proto::{
    PbEvent, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchService,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::StreamMap;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Service, kv, pair, status};
use crate::embedded::ProgressHandle;
use crate::{Error, Event, Revision, WatchMessage, WatchStream};

/// Answers that may wait for a client before its watches do.
const ANSWERS: usize = 8;
/// The most watches of one stream.
const WATCHES: usize = 10_000;
/// The watch id of an answer that concerns the whole stream.
const WHOLE_STREAM: i64 = -1;

struct Watch {
    previous: bool,
    notify: bool,
    puts: bool,
    deletes: bool,
    progress: ProgressHandle,
}

struct Session {
    service: Service,
    answers: mpsc::Sender<Result<PbWatchResponse, Status>>,
    watches: HashMap<i64, Watch>,
    streams: StreamMap<i64, WatchStream>,
    next: i64,
    /// The watches that have not caught up with a progress request yet, and its revision.
    lagging: HashSet<i64>,
    wanted: Option<Revision>,
}

/// The client is gone.
struct Gone;

impl Session {
    async fn answer(&mut self, response: PbWatchResponse) -> Result<(), Gone> {
        self.answers.send(Ok(response)).await.map_err(|_| Gone)
    }

    fn response(&self, watch_id: i64) -> PbWatchResponse {
        PbWatchResponse {
            header: self.service.header(),
            watch_id,
            ..Default::default()
        }
    }

    async fn run(mut self, mut requests: Streaming<PbWatchRequest>) -> Result<(), Gone> {
        loop {
            tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(request)) => self.request(request).await?,
                    Some(Err(_)) | None => return Ok(()),
                },
                Some((id, message)) = self.streams.next(), if !self.streams.is_empty() => {
                    self.message(id, message).await?;
                }
            }
        }
    }

    async fn request(&mut self, request: PbWatchRequest) -> Result<(), Gone> {
        match request.request_union {
            Some(PbWatchRequestUnion::CreateRequest(create)) => {
                let mut id = create.watch_id;
                if id == 0 {
                    while self.watches.contains_key(&self.next) {
                        self.next += 1;
                    }
                    id = self.next;
                    self.next += 1;
                }
                let refused = if self.watches.contains_key(&id) && create.watch_id != 0 {
                    Some("etcdserver: duplicate watch ID provided on the WatchStream")
                } else if self.watches.len() >= WATCHES {
                    Some("too many watches on one stream")
                } else {
                    None
                };
                if let Some(reason) = refused {
                    let cancel_reason = reason.to_owned();
                    let response = self.response(WHOLE_STREAM);
                    return self
                        .answer(PbWatchResponse {
                            created: true,
                            canceled: true,
                            cancel_reason,
                            ..response
                        })
                        .await;
                }
                let key = if create.key.is_empty() {
                    vec![0]
                } else {
                    create.key
                };
                let range = kv::key_range(key, create.range_end);
                let oldest = self.service.store.compacted();
                let from = create.start_revision.max(0);
                let created = PbWatchResponse {
                    created: true,
                    ..self.response(id)
                };
                let watching = self.service.store.watch_range(range, from);
                self.answer(created).await?;
                if from > 0 && from < oldest {
                    return self.answer(self.compacted(id, oldest)).await;
                }
                let watch = Watch {
                    previous: create.prev_kv,
                    notify: create.progress_notify,
                    puts: !create.filters.contains(&0),
                    deletes: !create.filters.contains(&1),
                    progress: watching.progress_handle(),
                };
                if self.wanted.is_some() {
                    self.lagging.insert(id);
                    watch.progress.request();
                }
                self.watches.insert(id, watch);
                self.streams.insert(id, watching.into_stream());
            }
            Some(PbWatchRequestUnion::CancelRequest(cancel)) => {
                let id = cancel.watch_id;
                if self.watches.remove(&id).is_some() {
                    self.streams.remove(&id);
                    self.answer(PbWatchResponse {
                        canceled: true,
                        ..self.response(id)
                    })
                    .await?;
                    self.caught_up(id).await?;
                }
            }
            Some(PbWatchRequestUnion::ProgressRequest(_)) => {
                self.wanted = Some(self.service.store.current());
                self.lagging = self.watches.keys().copied().collect();
                for watch in self.watches.values() {
                    watch.progress.request();
                }
                if self.lagging.is_empty() {
                    self.progress().await?;
                }
            }
            None => {}
        }
        Ok(())
    }

    async fn progress(&mut self) -> Result<(), Gone> {
        let Some(revision) = self.wanted.take() else {
            return Ok(());
        };
        let header = Service::header_at(revision);
        self.answer(PbWatchResponse {
            header,
            watch_id: WHOLE_STREAM,
            ..Default::default()
        })
        .await
    }

    async fn caught_up(&mut self, id: i64) -> Result<(), Gone> {
        if self.lagging.remove(&id) && self.lagging.is_empty() {
            self.progress().await?;
        }
        Ok(())
    }

    fn compacted(&self, id: i64, oldest: Revision) -> PbWatchResponse {
        PbWatchResponse {
            canceled: true,
            compact_revision: oldest.max(1),
            cancel_reason: "etcdserver: mvcc: required revision has been compacted".to_owned(),
            ..self.response(id)
        }
    }

    async fn message(&mut self, id: i64, message: Result<WatchMessage, Error>) -> Result<(), Gone> {
        let Some(watch) = self.watches.get(&id) else {
            return Ok(());
        };
        match message {
            Ok(WatchMessage::Events(events)) => {
                let revision = events.last().map_or(0, |event| event.kv.mod_revision);
                let events: Vec<PbEvent> = events
                    .into_iter()
                    .filter_map(|event| watch.event(event))
                    .collect();
                if events.is_empty() {
                    return Ok(());
                }
                let header = Service::header_at(revision);
                self.answer(PbWatchResponse {
                    header,
                    watch_id: id,
                    events,
                    ..Default::default()
                })
                .await
            }
            Ok(WatchMessage::Progress(revision)) => {
                let notify = watch.notify;
                if self.lagging.contains(&id) {
                    if self.wanted.is_some_and(|wanted| revision >= wanted) {
                        self.caught_up(id).await?;
                    }
                    Ok(())
                } else if notify {
                    let header = Service::header_at(revision);
                    self.answer(PbWatchResponse {
                        header,
                        watch_id: id,
                        ..Default::default()
                    })
                    .await
                } else {
                    Ok(())
                }
            }
            Err(error) => {
                self.watches.remove(&id);
                self.streams.remove(&id);
                let response = match error {
                    Error::Compacted { oldest } => self.compacted(id, oldest),
                    // A client that was too slow finds its revision compacted.
                    Error::SlowWatcher => self.compacted(id, self.service.store.compacted()),
                    error => PbWatchResponse {
                        canceled: true,
                        cancel_reason: status(error).message().to_owned(),
                        ..self.response(id)
                    },
                };
                self.answer(response).await?;
                self.caught_up(id).await
            }
        }
    }
}

impl Watch {
    fn event(&self, event: Event) -> Option<PbEvent> {
        if (event.deleted && !self.deletes) || (!event.deleted && !self.puts) {
            return None;
        }
        let previous = event.previous.filter(|_| self.previous);
        Some(PbEvent {
            r#type: i32::from(event.deleted),
            kv: Some(pair(event.kv)),
            prev_kv: previous.map(pair),
        })
    }
}

#[tonic::async_trait]
impl PbWatchService for Service {
    type WatchStream = BoxStream<'static, Result<PbWatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<PbWatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (answers, receiver) = mpsc::channel(ANSWERS);
        let session = Session {
            service: self.clone(),
            answers,
            watches: HashMap::new(),
            streams: StreamMap::new(),
            next: 0,
            lagging: HashSet::new(),
            wanted: None,
        };
        tokio::spawn(async move {
            let _ = session.run(request.into_inner()).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
