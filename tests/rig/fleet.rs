//! The gateways of a world: one over a file, or several over one database.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::books::Books;
use crate::harness::for_rig::Gateway;
use crate::harness::{Call, Postgres, free_port};
use crate::world::World;

/// A gateway that isn't healthy by then hangs.
const START_MAX: Duration = Duration::from_secs(60);
/// So much of a log is worth reading.
const LOG_TAIL: usize = 2000;

pub struct Fleet {
    directory: PathBuf,
    binary: PathBuf,
    ports: Vec<AtomicU16>,
    turn: AtomicUsize,
    postgres: Option<Mutex<Postgres>>,
    url: Option<String>,
}

/// How a gateway's start ended.
pub enum Started {
    Up(Gateway),
    /// By its own fail point, before it was up.
    Dead,
}

impl Fleet {
    /// So many gateways over a database; none means one over a file.
    pub async fn build(gateways: usize, directory: &Path, binary: &Path) -> Self {
        let postgres = if gateways > 0 { Some(Postgres::start().await) } else { None };
        Self {
            directory: directory.to_owned(),
            binary: binary.to_owned(),
            ports: (0..gateways.max(1)).map(|_| AtomicU16::new(0)).collect(),
            turn: AtomicUsize::new(0),
            url: postgres.as_ref().map(Postgres::url),
            postgres: postgres.map(Mutex::new),
        }
    }

    pub fn size(&self) -> usize {
        self.ports.len()
    }

    pub fn books(&self) -> Books {
        match &self.url {
            Some(url) => Books::in_database(url),
            None => Books::at(&self.directory.join("tollhouse.db")),
        }
    }

    /// The port of one after the other.
    pub fn port(&self) -> u16 {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.ports[turn % self.size()].load(Ordering::Relaxed)
    }

    /// Where a gateway's configuration and log are.
    fn home(&self, gateway: usize) -> PathBuf {
        if self.url.is_none() {
            return self.directory.clone();
        }
        let home = self.directory.join(format!("gateway-{gateway}"));
        std::fs::create_dir_all(&home).unwrap();
        home
    }

    /// All that a gateway ever said.
    pub fn log(&self, gateway: usize) -> String {
        let log = std::fs::read(self.home(gateway).join("gateway.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Crashes the database, and starts it again so much later. False if there is none.
    pub async fn crash_database(&self, away: Duration) -> bool {
        let Some(postgres) = &self.postgres else { return false };
        let mut postgres = postgres.lock().await;
        postgres.down();
        tokio::time::sleep(away).await;
        postgres.up().await;
        true
    }
}

/// A free port, even or odd: clients still come to that of a gateway that is dead, and must not find another one's admin listener.
fn port_of(parity: u16) -> u16 {
    loop {
        let port = free_port();
        if port % 2 == parity {
            return port;
        }
    }
}

/// The end of what a gateway said.
fn tail(gateway: &Gateway) -> String {
    let log = gateway.log();
    let mut from = log.len().saturating_sub(LOG_TAIL);
    while !log.is_char_boundary(from) {
        from += 1;
    }
    log[from..].to_owned()
}

impl World {
    fn write_config(&self, gateway: usize, port: u16, admin_port: u16) -> PathBuf {
        let config = self.fleet.home(gateway).join("gateway.toml");
        let after = self.chains.networks_after();
        let after = match after.is_empty() {
            true => String::new(),
            false => format!(
                "\"GET /after/{{item}}\" = {{ price = \"$0.01\", max_timeout = \"5m\", settle = \"after\", networks = {after:?} }}\n"
            ),
        };
        let ledger = if self.fleet.url.is_some() { "[ledger]\nurl = { env = \"LEDGER_URL\" }\n" } else { "" };
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\n[server.limits]\nconnections_per_address = 2000\n\
             [admin]\nlisten = \"127.0.0.1:{admin_port}\"\n[log]\nlevel = \"info,tollhouse=debug\"\n{ledger}\
             [upstreams.api]\nservers = [\"127.0.0.1:{}\"]\n{}\n[routes]\n\"/health\" = \"free\"\n{after}\
             \"GET /before/{{item}}\" = {{ price = \"$0.01\", max_timeout = \"5m\" }}\n\
             \"GET /named/{{item}}\" = {{ price = \"$0.01\", max_timeout = \"5m\", payment_identifier = \"optional\" }}\n",
            self.origin.port,
            self.chains.config(&self.ports, if self.bug.is_some() { 1 } else { 4 }),
        );
        std::fs::write(&config, text).unwrap();
        config
    }

    fn environment(&self, gateway: usize, failpoints: &str) -> Vec<(&'static str, String)> {
        let bug = self.bug.map(|bug| format!("{bug}=return"));
        let failpoints: Vec<String> = bug.into_iter().chain([failpoints.to_owned()]).collect();
        let mut environment = self.chains.environment(gateway);
        environment.push(("FAILPOINTS", failpoints.join(";").trim_matches(';').to_owned()));
        environment.extend(self.fleet.url.iter().map(|url| ("LEDGER_URL", url.clone())));
        environment
    }

    /// Starts a gateway that dies where `failpoints` says, and waits until it is healthy.
    pub async fn start(&self, gateway: usize, failpoints: &str) -> Started {
        for _ in 0..10 {
            let (port, admin_port) = (port_of(0), port_of(1));
            let config = self.write_config(gateway, port, admin_port);
            let environment = self.environment(gateway, failpoints);
            let mut process = Gateway::spawn_binary(&self.fleet.binary, &config, &environment, None);
            let deadline = Instant::now() + START_MAX;
            let ended = loop {
                if let Some(status) = process.ended() {
                    break status;
                }
                if Call::local("/healthz").send(admin_port).await.is_ok_and(|answer| answer.status == 200) {
                    self.fleet.ports[gateway].store(port, Ordering::Relaxed);
                    return Started::Up(process);
                }
                if Instant::now() > deadline {
                    self.story.violate("the gateway did not get up".to_owned());
                    process.kill();
                    return Started::Dead;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            if ended.signal() == Some(libc::SIGKILL) {
                return Started::Dead;
            }
            // Somebody else took the port meanwhile, or the database that crashed is busy with itself: whoever keeps gateways
            // running starts them again.
            let is_usual = [
                "can't listen on",
                "can't open the ledger: the database",
                "pool timed out while waiting for an open connection",
            ];
            if !is_usual.iter().any(|usual| process.log().contains(usual)) {
                self.story.violate(format!("the gateway ended by itself with {ended}: {}", tail(&process)));
                return Started::Dead;
            }
        }
        panic!("the gateway found no ports");
    }

    /// How a gateway ended, if it has; only SIGKILL may end it.
    pub fn ended(&self, gateway: &mut Gateway) -> Option<ExitStatus> {
        let status = gateway.ended()?;
        if status.signal() != Some(libc::SIGKILL) {
            self.story.violate(format!("the gateway ended by itself with {status}: {}", tail(gateway)));
        }
        Some(status)
    }
}
