//! The etcd backend, for high availability and for stores beyond one machine.
//!
//! Connections are made when first needed and again after they break; a call during an outage ends with `Unavailable`,
//! and so do watches, which the caller resumes from the last revision seen. Several servers are used in turn.
//!
//! Each watch has a stream of its own, because etcd answers a progress request per stream and only when all of the
//! stream's watches are in step.
//!
//! Values are limited by the server (etcd's `--max-request-bytes`, 1.5 MiB by default): more is `TooLarge`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::proto::{PbEvent, PbKeyValue, PbTxnOpResponse, PbTxnResponse, PbWatchResponse};
use etcd_client::{
    Certificate, Channel, Client, CompactionOptions, Compare, CompareOp, ConnectOptions,
    GetOptions, Identity, PutOptions, TlsOptions, Txn, TxnOp, WatchOptions,
};
use futures::stream;
use tokio::sync::Notify;
use tonic::transport::Endpoint;

use crate::embedded::index::KeyRange;
use crate::{
    Error, Event, Expect, Got, KeyValue, ListOptions, Listed, Revision, Store, WatchMessage,
    WatchStream, Written,
};

/// Where etcd is and how to reach it.
#[derive(Clone, Debug, Default)]
pub struct EtcdConfig {
    /// `http://`, `https://` or `unix:` addresses; a bare `host:port` means https when TLS is configured.
    pub servers: Vec<String>,
    /// The file with the CA certificates that sign the servers' (PEM). None: plain text, or the client key's own chain.
    pub ca_file: Option<PathBuf>,
    /// The client certificate (PEM).
    pub cert_file: Option<PathBuf>,
    /// Its key (PEM).
    pub key_file: Option<PathBuf>,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a progress request may stay unanswered until it is repeated.
const PROGRESS_PATIENCE: Duration = Duration::from_millis(200);
/// Answers may be as large as a page of large objects.
const MAX_MESSAGE: usize = i32::MAX as usize;

struct Wanted {
    revision: AtomicI64,
    wake: Notify,
}

/// A connection to etcd.
#[derive(Clone)]
pub struct Etcd {
    client: Client,
    watches: Arc<Mutex<Vec<Weak<Wanted>>>>,
}

fn unavailable(error: impl std::fmt::Display) -> Error {
    Error::Unavailable(error.to_string())
}

fn map_error(error: etcd_client::Error, size: usize, lease: i64) -> Error {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return unavailable(error);
    };
    map_status(&status, size, lease)
}

fn map_status(status: &tonic::Status, size: usize, lease: i64) -> Error {
    let message = status.message();
    if message.contains("required revision has been compacted") {
        Error::Compacted { oldest: 0 }
    } else if message.contains("required revision is a future revision") {
        Error::Future { current: 0 }
    } else if message.contains("request is too large")
        || message.contains("message larger than max")
    {
        Error::TooLarge { size }
    } else if message.contains("requested lease not found") {
        Error::LeaseNotFound(lease)
    } else {
        Error::Unavailable(format!("{}: {message}", status.code()))
    }
}

impl From<PbKeyValue> for KeyValue {
    fn from(kv: PbKeyValue) -> Self {
        Self {
            key: kv.key.into(),
            value: kv.value.into(),
            mod_revision: kv.mod_revision,
            create_revision: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }
}

async fn read_file(path: &PathBuf) -> Result<Vec<u8>, Error> {
    tokio::fs::read(path)
        .await
        .map_err(|error| Error::Unavailable(format!("{}: {error}", path.display())))
}

impl Etcd {
    /// Prepares the connection. Fails with `Unavailable` when a file cannot be read or an address makes no sense; whether
    /// etcd answers is for `ready` to tell.
    pub async fn connect(config: &EtcdConfig) -> Result<Self, Error> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEPALIVE, KEEPALIVE_TIMEOUT);
        let mut tls = TlsOptions::new();
        let mut secure = false;
        if let Some(path) = &config.ca_file {
            tls = tls.ca_certificate(Certificate::from_pem(read_file(path).await?));
            secure = true;
        }
        if let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) {
            tls = tls.identity(Identity::from_pem(
                read_file(cert).await?,
                read_file(key).await?,
            ));
            secure = true;
        }
        let unix = config
            .servers
            .iter()
            .find(|server| server.starts_with("unix:"));
        let client = match unix {
            Some(address) if config.servers.len() == 1 => {
                let endpoint = Endpoint::from_shared(address.clone()).map_err(unavailable)?;
                let channel =
                    Channel::Tonic(endpoint.connect_timeout(CONNECT_TIMEOUT).connect_lazy());
                Client::from_channel(channel, Some(options)).await
            }
            Some(address) => {
                return Err(Error::Unavailable(format!(
                    "{address} cannot be combined with other servers"
                )));
            }
            None => {
                if secure {
                    options = options.with_tls(tls);
                }
                Client::connect(&config.servers, Some(options)).await
            }
        };
        Ok(Self {
            client: client.map_err(unavailable)?,
            watches: Arc::default(),
        })
    }

    fn kv(&self) -> etcd_client::KvClient {
        self.client
            .kv_client()
            .max_decoding_message_size(MAX_MESSAGE)
    }

    async fn write(
        &self,
        key: &[u8],
        expect: Expect,
        op: TxnOp,
        size: usize,
        lease: i64,
    ) -> Result<Written, Error> {
        let modified = match expect {
            Expect::Any => None,
            Expect::Absent => Some(0),
            Expect::Revision(revision) => Some(revision),
        };
        let mut txn = Txn::new();
        if let Some(revision) = modified {
            txn = txn.when([Compare::mod_revision(key, CompareOp::Equal, revision)]);
        }
        txn = txn.and_then([op]);
        if modified.is_some() {
            txn = txn.or_else([TxnOp::get(key, None)]);
        }
        let answer = self
            .kv()
            .txn(txn)
            .await
            .map_err(|error| map_error(error, size, lease))?;
        written(answer.0).ok_or_else(|| Error::Unavailable("etcd's answer lacks a part".to_owned()))
    }
}

fn written(answer: PbTxnResponse) -> Option<Written> {
    let revision = answer.header?.revision;
    Some(match answer.responses.into_iter().next()?.response? {
        PbTxnOpResponse::ResponsePut(put) => Written::Done {
            revision,
            previous: put.prev_kv.map(KeyValue::from),
        },
        PbTxnOpResponse::ResponseDeleteRange(deleted) => {
            match deleted.prev_kvs.into_iter().next() {
                Some(previous) => Written::Done {
                    revision,
                    previous: Some(previous.into()),
                },
                None => Written::Mismatch {
                    current: None,
                    revision,
                },
            }
        }
        PbTxnOpResponse::ResponseRange(found) => Written::Mismatch {
            current: found.kvs.into_iter().next().map(KeyValue::from),
            revision,
        },
        PbTxnOpResponse::ResponseTxn(_) => return None,
    })
}

fn event(event: PbEvent) -> Option<Event> {
    Some(Event {
        kv: event.kv?.into(),
        previous: event.prev_kv.map(KeyValue::from),
        deleted: event.r#type == 1,
    })
}

fn message(response: PbWatchResponse) -> Result<Option<WatchMessage>, Error> {
    if response.compact_revision != 0 {
        return Err(Error::Compacted {
            oldest: response.compact_revision,
        });
    }
    if response.canceled {
        return Err(
            if response
                .cancel_reason
                .contains("required revision has been compacted")
            {
                Error::Compacted { oldest: 0 }
            } else {
                Error::Unavailable(format!("etcd ended the watch: {}", response.cancel_reason))
            },
        );
    }
    if response.created {
        return Ok(None);
    }
    if response.events.is_empty() {
        return Ok(response
            .header
            .map(|header| WatchMessage::Progress(header.revision)));
    }
    let events: Vec<Event> = response.events.into_iter().filter_map(event).collect();
    Ok(Some(WatchMessage::Events(events)))
}

struct Watching {
    stream: etcd_client::WatchStream,
    wanted: Arc<Wanted>,
}

impl Watching {
    async fn next(&mut self) -> Result<WatchMessage, Error> {
        loop {
            let asked = self.wanted.revision.load(Ordering::Acquire);
            tokio::select! {
                response = self.stream.response_stream.message() => match response {
                    Ok(Some(response)) => {
                        let Some(message) = message(response.0)? else { continue };
                        if let WatchMessage::Progress(revision) = &message
                            && *revision >= asked
                        {
                            let _ = self.wanted.revision.compare_exchange(asked, 0, Ordering::AcqRel, Ordering::Relaxed);
                        }
                        return Ok(message);
                    }
                    Ok(None) => return Err(Error::Unavailable("etcd ended the watch".to_owned())),
                    Err(error) => return Err(map_error(error, 0, 0)),
                },
                () = self.wanted.wake.notified() => self.ask().await?,
                // A watch that is not in step gets no answer: ask again.
                () = tokio::time::sleep(PROGRESS_PATIENCE), if asked != 0 => self.ask().await?,
            }
        }
    }

    async fn ask(&mut self) -> Result<(), Error> {
        self.stream
            .request_sender
            .request_progress()
            .await
            .map_err(|error| map_error(error, 0, 0))
    }
}

#[async_trait]
impl Store for Etcd {
    async fn get(&self, key: &[u8], revision: Revision) -> Result<Got, Error> {
        let options = GetOptions::new().with_revision(revision);
        let answer = self
            .kv()
            .get(key, Some(options))
            .await
            .map_err(|error| map_error(error, 0, 0))?
            .0;
        let revision = answer.header.map_or(0, |header| header.revision);
        Ok(Got {
            kv: answer.kvs.into_iter().next().map(KeyValue::from),
            revision,
        })
    }

    async fn list(&self, prefix: &[u8], options: ListOptions) -> Result<Listed, Error> {
        let range = KeyRange::prefix(prefix);
        let start = if options.start > range.start {
            options.start
        } else {
            range.start
        };
        if range.end.as_ref().is_some_and(|end| start >= *end) {
            let revision = if options.revision > 0 {
                options.revision
            } else {
                self.revision().await?
            };
            return Ok(Listed {
                revision,
                ..Default::default()
            });
        }
        // etcd's way to say "to the end" is a zero byte.
        let end = range.end.unwrap_or(Bytes::from_static(b"\0"));
        let start = if start.is_empty() {
            Bytes::from_static(b"\0")
        } else {
            start
        };
        let mut query = GetOptions::new()
            .with_range(end)
            .with_limit(i64::try_from(options.limit).unwrap_or(i64::MAX))
            .with_revision(options.revision);
        if options.count_only {
            query = query.with_count_only();
        }
        let answer = self
            .kv()
            .get(start, Some(query))
            .await
            .map_err(|error| map_error(error, 0, 0))?
            .0;
        let revision = match options.revision {
            0 => answer.header.map_or(0, |header| header.revision),
            asked => asked,
        };
        Ok(Listed {
            items: answer.kvs.into_iter().map(KeyValue::from).collect(),
            count: answer.count,
            more: answer.more && !options.count_only,
            revision,
        })
    }

    async fn put(
        &self,
        key: &[u8],
        value: Bytes,
        expect: Expect,
        lease: i64,
    ) -> Result<Written, Error> {
        let size = key.len() + value.len();
        let options = PutOptions::new().with_prev_key().with_lease(lease);
        self.write(
            key,
            expect,
            TxnOp::put(key, value, Some(options)),
            size,
            lease,
        )
        .await
    }

    async fn delete(&self, key: &[u8], expect: Expect) -> Result<Written, Error> {
        let options = etcd_client::DeleteOptions::new().with_prev_key();
        self.write(key, expect, TxnOp::delete(key, Some(options)), key.len(), 0)
            .await
    }

    async fn watch(&self, prefix: &[u8], from: Revision) -> Result<WatchStream, Error> {
        let mut options = WatchOptions::new().with_prev_key().with_progress_notify();
        options = if prefix.is_empty() {
            options.with_all_keys()
        } else {
            options.with_prefix()
        };
        if from > 0 {
            options = options.with_start_revision(from);
        }
        let mut client = self
            .client
            .watch_client()
            .max_decoding_message_size(MAX_MESSAGE);
        let mut stream = client
            .watch(prefix, Some(options))
            .await
            .map_err(|error| map_error(error, 0, 0))?;
        // The watch begins when etcd says so.
        match stream
            .response_stream
            .message()
            .await
            .map_err(|error| map_error(error, 0, 0))?
        {
            Some(response) => drop(message(response.0)?),
            None => return Err(Error::Unavailable("etcd ended the watch".to_owned())),
        }
        let wanted = Arc::new(Wanted {
            revision: AtomicI64::new(0),
            wake: Notify::new(),
        });
        {
            let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
            watches.retain(|watch| watch.strong_count() > 0);
            watches.push(Arc::downgrade(&wanted));
        }
        Ok(Box::pin(stream::unfold(
            Some(Watching { stream, wanted }),
            |watching| async move {
                let mut watching = watching?;
                match watching.next().await {
                    Ok(message) => Some((Ok(message), Some(watching))),
                    Err(error) => Some((Err(error), None)),
                }
            },
        )))
    }

    async fn request_progress(&self) -> Result<(), Error> {
        let revision = self.revision().await?;
        let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        for watch in watches.iter().filter_map(Weak::upgrade) {
            watch.revision.fetch_max(revision, Ordering::AcqRel);
            watch.wake.notify_one();
        }
        Ok(())
    }

    async fn revision(&self) -> Result<Revision, Error> {
        let options = GetOptions::new().with_count_only();
        let answer = self
            .kv()
            .get("\0", Some(options))
            .await
            .map_err(|error| map_error(error, 0, 0))?;
        Ok(answer.0.header.map_or(0, |header| header.revision))
    }

    async fn grant(&self, ttl_seconds: i64) -> Result<i64, Error> {
        let mut client = self.client.lease_client();
        Ok(client
            .grant(ttl_seconds, None)
            .await
            .map_err(|error| map_error(error, 0, 0))?
            .id())
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let options = CompactionOptions::new();
        self.kv()
            .compact(revision, Some(options))
            .await
            .map_err(|error| map_error(error, 0, 0))
            .map(drop)
    }

    async fn ready(&self) -> Result<(), Error> {
        self.revision().await.map(drop)
    }

    async fn size_on_disk(&self) -> Result<u64, Error> {
        let status = self
            .client
            .maintenance_client()
            .status()
            .await
            .map_err(|error| map_error(error, 0, 0))?;
        Ok(u64::try_from(status.db_size()).unwrap_or(0))
    }
}
