//! The supervisor: a shop on its chains behind its proxies, a crowd that pays, and a gateway that is killed again and again.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use crate::books::{Books, Standing};
use crate::chains::{COSMOS, Chains, EVM, SOLANA, Wallets, evm_sent, solana_sent};
use crate::chaos::{RpcChaos, WireChaos};
use crate::client;
use crate::fleet::{Fleet, Started};
use crate::harness::for_rig::Gateway;
use crate::oracle;
use crate::origin::Origin;
use crate::plan::{Cycle, Kill, Trouble};
use crate::seed::Rng;
use crate::story::{REORGS, Story};

/// Longer than a gateway's lease on a database that it shares.
const HANG: Duration = Duration::from_millis(12_500);
/// What it would do then, it does now.
const AFTER_HANG: Duration = Duration::from_secs(1);
/// Everything must have ended this long after the last fault: a Solana payment can be decided only when its block hash is
/// forgotten, after a minute.
const DRAIN_MAX: Duration = Duration::from_secs(240);
/// Where a seeded bug was seen, nobody waits for the rest.
const BAD_DRAIN_MAX: Duration = Duration::from_secs(5);

/// What an epoch is to be like.
#[derive(Debug, Clone)]
pub struct Epoch {
    pub seed: u64,
    pub chains: Vec<&'static str>,
    /// How many share a database; none means one over a file.
    pub gateways: usize,
    pub clients: u8,
    /// No cycle begins after this.
    pub until: Option<Instant>,
    /// Nor after so many kills under a crowd.
    pub crowded_kills: u64,
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
    pub fleet: Fleet,
    pub wallets: Vec<Arc<Wallets>>,
    rpc: Vec<RpcChaos>,
    wire: Option<WireChaos>,
    pub ports: HashMap<&'static str, u16>,
    is_closing: AtomicBool,
    /// The EVM chain's height before the first payment: what came before stays.
    built_at: u64,
    pub bug: Option<&'static str>,
}

impl World {
    /// Everything but the gateway runs.
    pub async fn build(epoch: &Epoch, directory: &Path, binary: &Path) -> Arc<Self> {
        let story = Story::begin(directory);
        story.note(&format!("{epoch:?}"));
        let fleet = Fleet::build(epoch.gateways, directory, binary).await;
        let books = Arc::new(fleet.books());
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
        let built_at = chains.evm_height().await.unwrap_or(0);
        Arc::new(Self {
            seed: epoch.seed,
            chains,
            story,
            books,
            origin,
            fleet,
            wallets,
            rpc,
            wire,
            ports,
            is_closing: AtomicBool::new(false),
            built_at,
            bug: epoch.bug,
        })
    }

    pub fn port(&self) -> u16 {
        self.fleet.port()
    }

    pub fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }

    fn set_chaos(&self, per_mille: u64, origin_per_mille: u64) {
        self.rpc.iter().for_each(|chaos| chaos.set_level(per_mille));
        self.wire.iter().for_each(|chaos| chaos.set_level(per_mille));
        self.origin.set_failures(origin_per_mille);
    }

    /// Runs the gateways until one of them, the victim, is dead. Gives what killed it.
    async fn cycle(&self, cycle: &Cycle, running: &mut [Option<Gateway>]) -> String {
        self.set_chaos(cycle.chaos_per_mille, cycle.origin_per_mille);
        let (failpoints, wait_millis, name) = match &cycle.kill {
            Kill::At { point, passes, within_millis } => {
                (format!("{point}={passes}*off->return"), *within_millis, *point)
            }
            Kill::After { millis } => (String::new(), *millis, "any time"),
        };
        self.story.note(&format!("{cycle:?}"));
        let victim = usize::try_from(cycle.victim).unwrap() % running.len();
        for gateway in (0..running.len()).filter(|gateway| *gateway != victim) {
            if running[gateway].is_none() {
                running[gateway] = self.up(gateway, "").await;
            }
        }
        if let Some(mut alive) = running[victim].take() {
            alive.kill();
        }
        running[victim] = self.up(victim, &failpoints).await;
        let window = Duration::from_millis(wait_millis);
        let half = Instant::now() + window / 2;
        self.wait_dead(&mut running[victim], half).await;
        self.befall(cycle, victim, running).await;
        self.wait_dead(&mut running[victim], half + window / 2).await;
        let is_dead = running[victim].as_mut().is_none_or(|gateway| self.ended(gateway).is_some());
        if let Some(mut dead) = running[victim].take() {
            dead.kill();
        }
        for other in running.iter_mut() {
            if other.as_mut().is_some_and(|gateway| self.ended(gateway).is_some()) {
                *other = None;
            }
        }
        if is_dead { name.to_owned() } else { "any time".to_owned() }
    }

    async fn up(&self, gateway: usize, failpoints: &str) -> Option<Gateway> {
        match self.start(gateway, failpoints).await {
            Started::Up(process) => Some(process),
            Started::Dead => None,
        }
    }

    async fn wait_dead(&self, gateway: &mut Option<Gateway>, until: Instant) {
        let Some(gateway) = gateway else { return };
        while Instant::now() < until && gateway.ended().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What befalls the shop besides, where it has what that takes.
    async fn befall(&self, cycle: &Cycle, victim: usize, running: &mut [Option<Gateway>]) {
        match cycle.trouble {
            _ if self.bug.is_some() => {}
            Trouble::Reorg { blocks } => {
                let height = self.chains.evm_height().await;
                let blocks = blocks.min(height.unwrap_or(0).saturating_sub(self.built_at));
                if blocks > 0 {
                    // Said before it is so: what comes after it is judged by it.
                    self.story.count(REORGS);
                    self.story.note(&format!("the chain takes back {blocks} blocks of {height:?}"));
                    self.chains.take_back(blocks).await;
                }
            }
            Trouble::Database { millis } => {
                if self.fleet.crash_database(Duration::from_millis(millis)).await {
                    self.story.count("troubles: the database crashed");
                }
            }
            Trouble::Pause => {
                let other = (victim + 1) % running.len();
                if let Some(gateway) = running[other].as_mut().filter(|_| other != victim) {
                    self.story.count("troubles: a gateway hung beyond its lease");
                    gateway.pause();
                    tokio::time::sleep(HANG).await;
                    gateway.resume();
                    tokio::time::sleep(AFTER_HANG).await;
                }
            }
            Trouble::None => {}
        }
    }

    /// Nothing is spoilt any more: everything must come to its end.
    async fn drain(&self, clients: tokio::task::JoinHandle<()>, running: Vec<Option<Gateway>>) -> Option<Vec<Gateway>> {
        self.is_closing.store(true, Ordering::Relaxed);
        self.set_chaos(0, 0);
        self.story.note("drains");
        for mut gateway in running.into_iter().flatten() {
            gateway.kill();
        }
        let mut gateways = Vec::new();
        for gateway in 0..self.fleet.size() {
            let Some(process) = self.up(gateway, "").await else {
                self.story.violate("the gateway did not start without faults".to_owned());
                clients.abort();
                return None;
            };
            gateways.push(process);
        }
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
        Some(gateways)
    }

    /// Until no row is half-way, and the chain has what it took back once more.
    async fn wait_ended(&self, deadline: Instant) {
        let is_open = |row: &Standing| matches!(row.state.as_str(), "claimed" | "signed" | "forwarded" | "delivering");
        while Instant::now() < deadline && self.books.standings().await.values().any(is_open) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        while self.story.has_reorgs() && Instant::now() < deadline && !oracle::is_settled_again(self).await {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Gateways without faults.
    pub async fn open(&self) -> Vec<Gateway> {
        let mut gateways = Vec::new();
        for gateway in 0..self.fleet.size() {
            match self.start(gateway, "").await {
                Started::Up(process) => gateways.push(process),
                Started::Dead => panic!("the gateway did not start: {:?}", self.story.violations()),
            }
        }
        gateways
    }

    /// Lets everything end, and asks the oracle. Gives how many payments moved money.
    pub async fn settle_and_judge(&self, gateways: Vec<Gateway>) -> usize {
        self.wait_ended(Instant::now() + DRAIN_MAX).await;
        gateways.into_iter().for_each(|mut gateway| gateway.kill());
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
    let mut running: Vec<Option<Gateway>> = (0..world.fleet.size()).map(|_| None).collect();
    for cycle in cycles {
        let killed_by = world.cycle(&cycle, &mut running).await;
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
        let is_over =
            epoch.until.is_some_and(|until| Instant::now() >= until) || outcome.crowded_kills >= epoch.crowded_kills;
        if is_over || !world.story.violations().is_empty() {
            break;
        }
    }
    if let Some(gateways) = world.drain(clients, running).await {
        oracle::steps(&world, known).await;
        gateways.into_iter().for_each(|mut gateway| gateway.kill());
        outcome.moved = oracle::judge(&world).await;
    }
    world.books.close().await;
    outcome.payments = world.story.payments().len();
    outcome.counts = world.story.counts();
    outcome.violations = world.story.violations();
    outcome
}
