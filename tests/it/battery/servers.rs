//! Origins that others wrote, from packages: started on a free port, ended with the test.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::MARKER;
use crate::harness::free_port;

/// Nothing here takes longer to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server's process, and the folder that it may write in.
pub struct Server {
    pub port: u16,
    /// Where nginx listens as a cache in front of the gateway.
    pub cache_port: u16,
    child: Child,
    _directory: TempDir,
}

impl Server {
    pub async fn nginx(gateway_port: u16) -> Self {
        Self::start("nginx", |port, cache_port, directory| {
            let config = directory.join("nginx.conf");
            let text = fixture("nginx.conf", port, directory)
                .replace("@CACHE_PORT@", &cache_port.to_string())
                .replace("@GATEWAY_PORT@", &gateway_port.to_string());
            std::fs::write(&config, text).unwrap();
            let mut command = Command::new(administrators("nginx"));
            command.arg("-p").arg(directory).arg("-c").arg(config);
            command.arg("-e").arg(directory.join("nginx-error.log"));
            command
        })
        .await
    }

    pub async fn haproxy() -> Self {
        Self::start("haproxy", |port, _cache_port, directory| {
            let config = directory.join("haproxy.cfg");
            std::fs::write(&config, fixture("haproxy.cfg", port, directory)).unwrap();
            let mut command = Command::new(administrators("haproxy"));
            command.arg("-db").arg("-f").arg(config);
            command
        })
        .await
    }

    pub async fn node() -> Self {
        Self::start("node", |port, _cache_port, _directory| {
            let mut command = Command::new("node");
            command.arg(path("node.mjs")).args([&port.to_string(), MARKER]);
            command
        })
        .await
    }

    pub async fn python() -> Self {
        Self::start("python3", |port, _cache_port, directory| {
            for priced in ["api/paid", "premium/report.json", "wow!", "files/a/b.txt"] {
                let file = directory.join("content").join(priced);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, MARKER).unwrap();
            }
            let mut command = Command::new("python3");
            command.arg(path("origin.py")).arg(port.to_string()).arg(directory.join("content"));
            command
        })
        .await
    }

    async fn start(name: &str, command: impl Fn(u16, u16, &Path) -> Command) -> Self {
        for _ in 0..5 {
            let directory = tempfile::tempdir().unwrap();
            let (port, cache_port) = (free_port(), free_port());
            let log = std::fs::File::create(directory.path().join("log")).unwrap();
            let mut command = command(port, cache_port, directory.path());
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
            let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}; tests/run.sh installs it"));
            let mut server = Self { port, cache_port, child, _directory: directory };
            if server.is_up().await {
                return server;
            }
            // Somebody else took a port meanwhile.
            eprintln!("{}", std::fs::read_to_string(server._directory.path().join("log")).unwrap_or_default());
        }
        panic!("{name} doesn't start");
    }

    async fn is_up(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            if TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return true;
            }
            assert!(Instant::now() < deadline, "nobody listens on port {}", self.port);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/origins").join(name)
}

fn fixture(name: &str, port: u16, directory: &Path) -> String {
    let text = std::fs::read_to_string(path(name)).unwrap();
    let text = text.replace("@PORT@", &port.to_string()).replace("@MARKER@", MARKER);
    text.replace("@DIR@", &directory.display().to_string())
}

/// Debian keeps it where only administrators' shells look.
fn administrators(name: &str) -> std::path::PathBuf {
    let place = Path::new("/usr/sbin").join(name);
    if place.exists() { place } else { name.into() }
}
