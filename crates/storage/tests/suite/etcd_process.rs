//! A real etcd for one test.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use storage::Store;
use storage::etcd::{Etcd, EtcdConfig};

/// A running etcd; ends with this value.
pub struct EtcdProcess {
    child: Child,
    /// `http://127.0.0.1:port`
    pub address: String,
    _dir: tempfile::TempDir,
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl EtcdProcess {
    /// Starts an empty etcd and waits until it answers.
    pub async fn start() -> Self {
        Self::start_on(None).await
    }

    /// Starts etcd on a data directory, or an empty one, and waits until it answers.
    pub async fn start_on(data: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = data.map_or_else(|| dir.path().join("data"), std::path::PathBuf::from);
        let (client, peer) = (free_port(), free_port());
        let address = format!("http://127.0.0.1:{client}");
        let peer = format!("http://127.0.0.1:{peer}");
        let child = Command::new("etcd")
            .args(["--name", "test", "--data-dir"])
            .arg(data)
            .args([
                "--listen-client-urls",
                &address,
                "--advertise-client-urls",
                &address,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args([
                "--initial-cluster",
                &format!("test={peer}"),
                "--log-level",
                "error",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd must be installed for this test (Debian: etcd-server)");
        let process = Self {
            child,
            address,
            _dir: dir,
        };
        let store = process.connect().await;
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) = store.ready().await {
            assert!(Instant::now() < deadline, "etcd does not answer: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        process
    }

    /// A connection to it.
    pub async fn connect(&self) -> Etcd {
        let config = EtcdConfig {
            servers: vec![self.address.clone()],
            ..EtcdConfig::default()
        };
        Etcd::connect(&config).await.unwrap()
    }
}
