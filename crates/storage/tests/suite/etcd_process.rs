//! A real etcd for one test.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use storage::Store;
use storage::etcd::{Etcd, EtcdConfig};

/// A running etcd; ends with this value.
pub struct EtcdProcess {
    child: Child,
    /// `http://127.0.0.1:port`, or https.
    pub address: String,
    command: Command,
    certificates: Option<PathBuf>,
    _dir: tempfile::TempDir,
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        self.kill();
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
        Self::start_with(None, None).await
    }

    /// Starts etcd on a data directory and waits until it answers.
    pub async fn start_on(data: &Path) -> Self {
        Self::start_with(Some(data), None).await
    }

    /// Starts an empty etcd that takes only TLS with client certificates, `server.crt`, `server.key` and `ca.crt` of the
    /// directory, and waits until it answers.
    pub async fn start_secure(certificates: &Path) -> Self {
        Self::start_with(None, Some(certificates)).await
    }

    async fn start_with(data: Option<&Path>, certificates: Option<&Path>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = data.map_or_else(|| dir.path().join("data"), Path::to_owned);
        let scheme = if certificates.is_some() {
            "https"
        } else {
            "http"
        };
        let address = format!("{scheme}://127.0.0.1:{}", free_port());
        let peer = format!("http://127.0.0.1:{}", free_port());
        let mut command = Command::new("etcd");
        command
            .args(["--name=test", "--log-level=error"])
            .arg(format!("--data-dir={}", data.display()))
            .arg(format!("--listen-client-urls={address}"))
            .arg(format!("--advertise-client-urls={address}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=test={peer}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(dir) = certificates {
            let file = |name: &str| dir.join(name).display().to_string();
            command
                .arg("--client-cert-auth")
                .arg(format!("--cert-file={}", file("server.crt")))
                .arg(format!("--key-file={}", file("server.key")))
                .arg(format!("--trusted-ca-file={}", file("ca.crt")));
        }
        let process = Self {
            child: spawn(&mut command),
            address,
            command,
            certificates: certificates.map(Path::to_owned),
            _dir: dir,
        };
        process.answers().await;
        process
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on the same data and address, and waits until it answers.
    pub async fn restart(&mut self) {
        self.child = spawn(&mut self.command);
        self.answers().await;
    }

    async fn answers(&self) {
        let store = self.connect().await;
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) = store.ready().await {
            assert!(Instant::now() < deadline, "etcd does not answer: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A connection to it; over TLS with `client.crt` and `client.key` of its certificates.
    pub async fn connect(&self) -> Etcd {
        let file = |name: &str| self.certificates.as_ref().map(|dir| dir.join(name));
        let config = EtcdConfig {
            servers: vec![self.address.clone()],
            ca_file: file("ca.crt"),
            cert_file: file("client.crt"),
            key_file: file("client.key"),
        };
        Etcd::connect(&config).await.unwrap()
    }
}

fn spawn(command: &mut Command) -> Child {
    command
        .spawn()
        .expect("etcd must be installed for this test (Debian: etcd-server)")
}
