//! Which store a process uses, and opening it.

use std::path::PathBuf;
use std::sync::Arc;

use crate::embedded::{Embedded, Options};
use crate::etcd::{Etcd, EtcdConfig};
use crate::{Error, SharedStore};

/// The choice of a store.
#[derive(Clone, Debug)]
pub enum StorageConfig {
    /// The embedded engine.
    Embedded {
        /// Its directory; made if need be.
        dir: PathBuf,
        /// Where it answers etcd's API besides.
        listen: Vec<Listen>,
        /// How it behaves.
        options: Options,
    },
    /// etcd, or another process that answers etcd's API.
    Etcd(EtcdConfig),
}

/// Where the embedded engine answers etcd's API. There is no authentication: whoever reaches it may do everything.
#[derive(Clone, Debug)]
pub enum Listen {
    /// A unix socket, made with mode 0600; a socket left behind is replaced.
    Unix(PathBuf),
    /// A loopback address; others are refused.
    Loopback(std::net::SocketAddr),
}

/// Opens a store. What listens ends when the last handle of the store is dropped.
pub async fn open(config: StorageConfig) -> Result<SharedStore, Error> {
    match config {
        StorageConfig::Embedded {
            dir,
            listen,
            options,
        } => {
            let store = Embedded::open(dir, options).await?;
            for address in listen {
                crate::etcd_server::serve(&store, address).await?;
            }
            Ok(Arc::new(store))
        }
        StorageConfig::Etcd(config) => Ok(Arc::new(Etcd::connect(&config).await?)),
    }
}
