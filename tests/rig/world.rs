//! The supervisor: a shop on its chains behind its proxies, a crowd that pays, and a gateway that is killed again and again.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use crate::books::{Books, Standing};
use crate::chains::{COSMOS, Chains, EVM, SOLANA, Wallets, evm_sent, solana_sent};
use crate::chaos::{RpcChaos, WireChaos};
use crate::client;
use crate::harness::for_rig::Gateway;
use crate::harness::{Call, free_port};
use crate::oracle;
use crate::origin::Origin;
use crate::plan::{Cycle, Kill};
use crate::seed::Rng;
use crate::story::Story;

/// A gateway that isn't healthy by then hangs.
const START_MAX: Duration = Duration::from_secs(60);
/// Everything must have ended this long after the last fault: a Solana payment can be decided only when its block hash is
/// forgotten, after a minute.
const DRAIN_MAX: Duration = Duration::from_secs(180);
/// Where a seeded bug was seen, nobody waits for the rest.
const BAD_DRAIN_MAX: Duration = Duration::from_secs(5);

/// What an epoch is to be like.
#[derive(Debug, Clone)]
pub struct Epoch {
    pub seed: u64,
    pub chains: Vec<&'static str>,
    pub clients: u8,
    /// No cycle begins after this.
    pub until: Option<Instant>,
    /// A bug in the gateway, by its name in `FAILPOINTS`.
    pub bug: Option<&'static str>,
}

/// What came of one.
#[derive(Debug, Default)]
pub struct Outcome {
    pub cycles: u64,
    /// The fewest payments in flight at a kill.
    pub in_flight_min: usize,
    /// Kills under at least a hundred payments in flight.
    pub crowded_kills: u64,
    pub payments: usize,
    pub moved: usize,
    pub counts: std::collections::BTreeMap<String, u64>,
    pub violations: Vec<String>,
}

pub struct World {
    pub seed: u64,
    pub chains: Chains,
    pub story: Arc<Story>,
    pub books: Arc<Books>,
    pub origin: Origin,
    pub wallets: Vec<Arc<Wallets>>,
    pub directory: PathBuf,
    rpc: Vec<RpcChaos>,
    wire: Option<WireChaos>,
    ports: HashMap<&'static str, u16>,
    port: AtomicU16,
    is_closing: AtomicBool,
    binary: PathBuf,
    bug: Option<&'static str>,
}

/// How a gateway's start ended.
enum Started {
    Up(Gateway),
    /// By its own fail point, before it was up.
    Dead,
}

impl World {
    /// Everything but the gateway runs.
    pub async fn build(epoch: &Epoch, directory: &Path, binary: &Path) -> Arc<Self> {
        let story = Story::begin(directory);
        story.note(&format!("{epoch:?}"));
        let books = Arc::new(Books::at(&directory.join("tollhouse.db")));
        let chains = Chains::start(&epoch.chains).await;
        let origin = Origin::start(epoch.seed, Arc::clone(&story), Arc::clone(&books)).await;
        let (mut rpc, mut wire, mut ports) = (Vec::new(), None, HashMap::new());
        let nodes = [
            chains.evm.as_ref().map(|node| (node.port, (EVM, "eth_sendRawTransaction", evm_sent as _))),
            chains.solana.as_ref().map(|node| (node.port, (SOLANA, "sendTransaction", solana_sent as _))),
        ];
        for (port, node) in nodes.into_iter().flatten() {
            let chaos = RpcChaos::start(port, node, epoch.seed, Arc::clone(&story), Arc::clone(&books)).await;
            ports.insert(node.0, chaos.port);
            rpc.push(chaos);
        }
        if let Some(chain) = &chains.cosmos {
            let port = chain.grpc_url().rsplit_once(':').unwrap().1.trim_end_matches('/').parse().unwrap();
            let chaos = WireChaos::start(port, COSMOS, epoch.seed, Arc::clone(&story)).await;
            ports.insert(COSMOS, chaos.port);
            wire = Some(chaos);
        }
        let names = chains.names();
        let mut wallets = Vec::new();
        for (place, chain) in names.iter().enumerate() {
            let count = usize::from(epoch.clients) / names.len()
                + usize::from(place < usize::from(epoch.clients) % names.len());
            wallets.extend(chains.wallets(chain, u8::try_from(count).unwrap()).await.into_iter().map(Arc::new));
        }
        Arc::new(Self {
            seed: epoch.seed,
            chains,
            story,
            books,
            origin,
            wallets,
            directory: directory.to_owned(),
            rpc,
            wire,
            ports,
            port: AtomicU16::new(0),
            is_closing: AtomicBool::new(false),
            binary: binary.to_owned(),
            bug: epoch.bug,
        })
    }

    pub fn port(&self) -> u16 {
        self.port.load(Ordering::Relaxed)
    }

    pub fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }

    fn set_chaos(&self, per_mille: u64, origin_per_mille: u64) {
        self.rpc.iter().for_each(|chaos| chaos.set_level(per_mille));
        self.wire.iter().for_each(|chaos| chaos.set_level(per_mille));
        self.origin.set_failures(origin_per_mille);
    }

    fn write_config(&self, port: u16, admin_port: u16) -> PathBuf {
        let config = self.directory.join("gateway.toml");
        let after = self.chains.networks_after();
        let after = match after.is_empty() {
            true => String::new(),
            false => format!(
                "\"GET /after/{{item}}\" = {{ price = \"$0.01\", max_timeout = \"5m\", settle = \"after\", networks = {after:?} }}\n"
            ),
        };
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\n[server.limits]\nconnections_per_address = 2000\n\
             [admin]\nlisten = \"127.0.0.1:{admin_port}\"\n[log]\nlevel = \"info,tollhouse=debug\"\n\
             [upstreams.api]\nservers = [\"127.0.0.1:{}\"]\n{}\n[routes]\n\"/health\" = \"free\"\n{after}\
             \"GET /before/{{item}}\" = {{ price = \"$0.01\", max_timeout = \"5m\" }}\n\
             \"GET /named/{{item}}\" = {{ price = \"$0.01\", max_timeout = \"5m\", payment_identifier = \"optional\" }}\n",
            self.origin.port,
            self.chains.config(&self.ports, if self.bug.is_some() { 1 } else { 4 }),
        );
        std::fs::write(&config, text).unwrap();
        config
    }

    /// Starts a gateway that dies where `failpoints` says, and waits until it is healthy.
    async fn start(&self, failpoints: &str) -> Started {
        let failpoints: Vec<String> =
            self.bug.map(|bug| format!("{bug}=return")).into_iter().chain([failpoints.to_owned()]).collect();
        let failpoints = failpoints.join(";");
        for _ in 0..10 {
            let (port, admin_port) = (free_port(), free_port());
            let config = self.write_config(port, admin_port);
            let mut environment = self.chains.environment();
            environment.push(("FAILPOINTS", failpoints.trim_matches(';').to_owned()));
            let mut gateway = Gateway::spawn_binary(&self.binary, &config, &environment, None);
            let deadline = Instant::now() + START_MAX;
            let ended = loop {
                if let Some(status) = gateway.ended() {
                    break status;
                }
                if Call::local("/healthz").send(admin_port).await.is_ok_and(|answer| answer.status == 200) {
                    self.port.store(port, Ordering::Relaxed);
                    return Started::Up(gateway);
                }
                if Instant::now() > deadline {
                    self.story.violate("the gateway did not get up".to_owned());
                    gateway.kill();
                    return Started::Dead;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            if ended.signal() == Some(libc::SIGKILL) {
                return Started::Dead;
            }
            // Somebody else took the port meanwhile.
            if !gateway.log().contains("can't listen on") {
                let log = gateway.log();
                let from = log.len().saturating_sub(2000);
                self.story.violate(format!("the gateway ended by itself with {ended}: {}", &log[from..]));
                return Started::Dead;
            }
        }
        panic!("the gateway found no ports");
    }

    /// Runs the gateway until it is dead. Gives what killed it.
    async fn cycle(&self, cycle: &Cycle) -> String {
        self.set_chaos(cycle.chaos_per_mille, cycle.origin_per_mille);
        let (failpoints, wait_millis, name) = match &cycle.kill {
            Kill::At { point, passes, within_millis } => {
                (format!("{point}={passes}*off->return"), *within_millis, *point)
            }
            Kill::After { millis } => (String::new(), *millis, "any time"),
        };
        self.story.note(&format!("{cycle:?}"));
        let mut gateway = match self.start(&failpoints).await {
            Started::Up(gateway) => gateway,
            Started::Dead => return name.to_owned(),
        };
        let deadline = Instant::now() + Duration::from_millis(wait_millis);
        while Instant::now() < deadline {
            if let Some(status) = gateway.ended() {
                if status.signal() != Some(libc::SIGKILL) {
                    let log = gateway.log();
                    let from = log.len().saturating_sub(2000);
                    self.story.violate(format!("the gateway ended by itself with {status}: {}", &log[from..]));
                }
                return name.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        gateway.kill();
        "any time".to_owned()
    }

    /// Nothing is spoilt any more: everything must come to its end.
    async fn drain(&self, clients: tokio::task::JoinHandle<()>) -> Option<Gateway> {
        self.is_closing.store(true, Ordering::Relaxed);
        self.set_chaos(0, 0);
        self.story.note("drains");
        let Started::Up(gateway) = self.start("").await else {
            self.story.violate("the gateway did not start without faults".to_owned());
            clients.abort();
            return None;
        };
        let is_caught = self.bug.is_some() && !self.story.violations().is_empty();
        let deadline = Instant::now() + if is_caught { BAD_DRAIN_MAX } else { DRAIN_MAX };
        if let Ok(ended) = tokio::time::timeout_at(deadline, clients).await {
            ended.expect("the clients stumbled");
        }
        // Those who lost their patience come back.
        let open: Vec<_> = self.story.payments().into_iter().filter(|payment| payment.end().is_none()).collect();
        let last = open.into_iter().enumerate().map(|(place, payment)| async move {
            let mut rng = Rng::of(self.seed, &format!("back {place}"));
            client::follow(self, payment, &mut rng).await;
        });
        let _unfinished = tokio::time::timeout_at(deadline, join_all(last)).await;
        self.wait_ended(deadline).await;
        Some(gateway)
    }

    /// Until no row is half-way.
    async fn wait_ended(&self, deadline: Instant) {
        let is_open = |row: &Standing| matches!(row.state.as_str(), "claimed" | "signed" | "forwarded" | "delivering");
        while Instant::now() < deadline && self.books.standings().await.values().any(is_open) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// A gateway without faults.
    pub async fn open(&self) -> Gateway {
        match self.start("").await {
            Started::Up(gateway) => gateway,
            Started::Dead => panic!("the gateway did not start: {:?}", self.story.violations()),
        }
    }

    /// Lets everything end, and asks the oracle. Gives how many payments moved money.
    pub async fn settle_and_judge(&self, gateway: &mut Gateway) -> usize {
        self.wait_ended(Instant::now() + DRAIN_MAX).await;
        gateway.kill();
        let moved = oracle::judge(self).await;
        self.books.close().await;
        moved
    }
}

/// Kills a gateway again and again under a crowd that pays, then lets everything end, and asks the oracle.
/// `on_kill` hears how far it is after each kill.
pub async fn run(
    epoch: &Epoch,
    cycles: impl Iterator<Item = Cycle>,
    directory: &Path,
    binary: &Path,
    mut on_kill: impl FnMut(&Outcome),
) -> Outcome {
    let world = World::build(epoch, directory, binary).await;
    let crowd = world
        .wallets
        .iter()
        .enumerate()
        .map(|(index, wallet)| tokio::spawn(client::run(Arc::clone(&world), index, Arc::clone(wallet))));
    let crowd: Vec<_> = crowd.collect();
    let clients = tokio::spawn(async move {
        for client in join_all(crowd).await {
            client.expect("a client stumbled");
        }
    });
    let mut outcome = Outcome { in_flight_min: usize::MAX, ..Outcome::default() };
    let mut known = HashMap::new();
    for cycle in cycles {
        let killed_by = world.cycle(&cycle).await;
        let in_flight = world.story.in_flight();
        world.story.count(&format!("kills: {killed_by}"));
        world.story.note(&format!("killed by {killed_by} under {in_flight}"));
        if outcome.cycles > 0 {
            outcome.in_flight_min = outcome.in_flight_min.min(in_flight);
        }
        outcome.cycles += 1;
        outcome.crowded_kills += u64::from(in_flight >= 100);
        known = oracle::steps(&world, known).await;
        outcome.payments = world.story.payments().len();
        on_kill(&outcome);
        let is_over = epoch.until.is_some_and(|until| Instant::now() >= until);
        if is_over || !world.story.violations().is_empty() {
            break;
        }
    }
    if let Some(mut gateway) = world.drain(clients).await {
        oracle::steps(&world, known).await;
        gateway.kill();
        outcome.moved = oracle::judge(&world).await;
    }
    world.books.close().await;
    outcome.payments = world.story.payments().len();
    outcome.counts = world.story.counts();
    outcome.violations = world.story.violations();
    outcome
}
