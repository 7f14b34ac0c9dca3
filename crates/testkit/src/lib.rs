//! Helpers for tests: waiting on conditions, free ports, a cluster's certificates in a directory that goes away, and an
//! apiserver without a store.
//!
//! Everything panics instead of returning errors: a panic is a test's failure. Absent on purpose: sleeps of a fixed length
//! (wait on a condition), and anything that daemons use outside of tests.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test's failure is a panic"
)]

pub mod apiserver;

use std::fmt::Display;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Waits until `check` gives a value. Panics after `limit` with the last reason why not. Uses tokio's clock, so that paused
/// time advances.
pub async fn wait_until<T, E: Display>(
    what: &str,
    limit: Duration,
    mut check: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        match check().await {
            Ok(value) => return value,
            Err(reason) if tokio::time::Instant::now() >= deadline => {
                panic!("{what}: not within {limit:?}: {reason}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// A TCP port of 127.0.0.1 that nobody listens on at the moment. Prefer binding port 0 where the listener can be passed on:
/// another process may take the port before the test does.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a port on loopback");
    listener
        .local_addr()
        .expect("a bound socket has an address")
        .port()
}

/// Certificates, keys and kubeconfigs of a cluster whose apiserver is on a port of loopback, as kubeadm lays them out.
/// Dropped, they are gone.
pub struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    /// For an apiserver on this port of 127.0.0.1, and for these nodes.
    pub fn new(port: u16, nodes: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("make a temporary directory");
        let cluster = pki::layout::Cluster {
            name: "test".into(),
            server: format!("https://127.0.0.1:{port}"),
            apiserver_sans: vec!["10.96.0.1".into()],
            dns_domain: "cluster.local".into(),
            etcd_sans: vec!["127.0.0.1".into()],
            nodes: nodes
                .iter()
                .map(|n| pki::layout::Node {
                    name: (*n).into(),
                    sans: vec!["127.0.0.1".into()],
                })
                .collect(),
        };
        pki::layout::ensure(dir.path(), &cluster).expect("make certificates");
        Certificates { dir }
    }

    /// A file of `pki/`: `ca.crt`, `apiserver.key`, `etcd/server.crt`, …
    pub fn pki(&self, name: &str) -> PathBuf {
        self.dir.path().join("pki").join(name)
    }

    /// A kubeconfig: `admin`, `super-admin`, `controller-manager`, `scheduler`, `kube-proxy`, `kubelet-NODE`.
    pub fn kubeconfig(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.conf"))
    }

    /// The directory of all of it.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_condition_is_met_or_the_wait_fails_with_the_last_reason() {
        let mut tries = 0;
        let met = wait_until("three tries", Duration::from_secs(1), async || {
            tries += 1;
            if tries == 3 { Ok(tries) } else { Err(tries) }
        });
        assert_eq!(met.await, 3);
        let never = tokio::spawn(wait_until("never", Duration::from_secs(60), async || {
            Err::<(), _>("because")
        }));
        let panic = never.await.unwrap_err().into_panic();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(
            message.contains("never") && message.contains("because"),
            "{message}"
        );
    }

    #[test]
    fn certificates_are_where_daemons_look_for_them() {
        let certificates = Certificates::new(1, &["n"]);
        for file in ["ca.crt", "apiserver.key", "sa.pub", "etcd/server.crt"] {
            assert!(certificates.pki(file).is_file(), "{file}");
        }
        assert!(certificates.kubeconfig("kubelet-n").is_file());
        assert!(free_port() > 0);
    }
}
