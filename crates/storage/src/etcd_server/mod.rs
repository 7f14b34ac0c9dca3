//! etcd's v3 gRPC API over the embedded engine, for `etcdctl` and for a second apiserver.
//!
//! - this file: sockets, headers, errors. `kv`, `watch`, `lease`, `maintenance`: one service each.
//!
//! Invariant: it listens on unix sockets and loopback addresses only, because whoever connects may do everything.
//!
//! Absent on purpose: authentication, member changes, alarms, downgrades, locks and elections (etcd's clients build these
//! from transactions); they answer `Unimplemented`. Linearizable and serializable reads are the same here.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use etcd_client::proto::{
    PbClusterServer, PbKeyValue, PbKvServer, PbMaintenanceServer, PbResponseHeader, PbWatchServer,
};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::{Router, TcpIncoming};
use tonic::{Code, Status};

use crate::embedded::Embedded;
use crate::open::Listen;
use crate::{Error, KeyValue};

mod bolt;
mod kv;
mod lease;
mod maintenance;
mod watch;

/// The level of etcd's API that is spoken.
const API_VERSION: &str = "3.5.16";
const CLUSTER: u64 = 0x6b65_656c_736f_6e01;
const MEMBER: u64 = 0x6b65_656c_736f_6e02;
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Requests may be larger than the engine's limit by their envelope; the engine refuses the rest.
const MAX_MESSAGE: usize = crate::embedded::MAX_REQUEST + (1 << 20);

#[derive(Clone)]
struct Service {
    store: Embedded,
    address: String,
}

impl Service {
    fn header(&self) -> Option<PbResponseHeader> {
        Self::header_at(self.store.current())
    }

    fn header_at(revision: i64) -> Option<PbResponseHeader> {
        Some(PbResponseHeader {
            cluster_id: CLUSTER,
            member_id: MEMBER,
            revision,
            raft_term: 2,
        })
    }
}

fn pair(kv: KeyValue) -> PbKeyValue {
    PbKeyValue {
        key: kv.key.into(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value.into(),
        lease: kv.lease,
    }
}

fn status(error: Error) -> Status {
    match error {
        Error::Compacted { .. } => {
            Status::out_of_range("etcdserver: mvcc: required revision has been compacted")
        }
        Error::Future { .. } => {
            Status::out_of_range("etcdserver: mvcc: required revision is a future revision")
        }
        Error::TooLarge { .. } => Status::invalid_argument("etcdserver: request is too large"),
        Error::LeaseNotFound(_) => Status::not_found("etcdserver: requested lease not found"),
        Error::SlowWatcher => Status::unavailable("watcher too slow"),
        Error::Unavailable(message) => Status::unavailable(message),
        Error::Corrupt(message) => Status::new(
            Code::DataLoss,
            format!("etcdserver: corrupt cluster: {message}"),
        ),
    }
}

fn router(service: Service) -> Router {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_service(PbKvServer::new(service.clone()).max_decoding_message_size(MAX_MESSAGE))
        .add_service(PbWatchServer::new(service.clone()))
        .add_service(lease::LeaseServer(service.clone()))
        .add_service(PbMaintenanceServer::new(service.clone()))
        .add_service(PbClusterServer::new(service))
}

/// Begins to answer etcd's API at an address, until the store is closed. Returns the address as etcd's clients write it.
/// `Unavailable` when the address cannot be used, is not loopback, or another process answers on the socket.
pub async fn serve(store: &Embedded, listen: Listen) -> Result<String, Error> {
    let unavailable = |error: std::io::Error| Error::Unavailable(format!("{listen:?}: {error}"));
    let inner = store.unguarded();
    let (address, task) = match &listen {
        Listen::Unix(path) => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(Error::Unavailable(format!(
                    "another process answers on {}",
                    path.display()
                )));
            }
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(unavailable(error));
                }
                _ => {}
            }
            let listener = UnixListener::bind(path).map_err(unavailable)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
                .map_err(unavailable)?;
            let address = format!("unix://{}", path.display());
            let router = router(Service {
                store: inner,
                address: address.clone(),
            });
            (
                address,
                tokio::spawn(router.serve_with_incoming(UnixListenerStream::new(listener))),
            )
        }
        Listen::Loopback(socket) => {
            if !socket.ip().is_loopback() {
                return Err(Error::Unavailable(format!(
                    "{socket} is not a loopback address"
                )));
            }
            let listener = TcpListener::bind(socket).await.map_err(unavailable)?;
            let address = format!("http://{}", listener.local_addr().map_err(unavailable)?);
            let router = router(Service {
                store: inner,
                address: address.clone(),
            });
            // Answers are small: one that waited for the acknowledgement of the last would wait 40 ms.
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            (address, tokio::spawn(router.serve_with_incoming(incoming)))
        }
    };
    store.keep(task.abort_handle());
    tracing::info!(address, "answering etcd's API");
    Ok(address)
}
