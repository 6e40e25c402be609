//! `tollhouse dev`: an EVM chain with a token, a Cosmos chain, an origin, a funded payer and the gateway in one process,
//! offline; built with the cargo feature `dev-solana`, a Solana chain too.
//!
//! The gateway is the one that `run` starts, with a configuration that was written to a file like any other. What is worth
//! money elsewhere is worth nothing here.

pub(super) mod cosmos;
pub(super) mod devnet;
mod ports;
#[cfg(feature = "dev-solana")]
mod solana;
mod state;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, U256};
use anyhow::Context;
use clap::Args;

use self::ports::GatewayPorts;
use self::state::{Key, StateDir};
use super::run::{Runtimes, runtime, start_logging};
use crate::app::Blueprint;
use crate::devnet::cosmos::{COSMOS_CHAIN_ID, COSMOS_DENOM, CosmosChain, CosmosParams};
use crate::devnet::{CHAIN_ID, Chain, Journal, Node, Origin, ROUTES, TOKEN};
use crate::server::{Listening, Running, termination};
use crate::types::{SystemClock, canonical_cosmos_address};

/// Threads for chain and origin.
const DEVNET_THREADS: usize = 2;

/// How long the chain and the origin may take to end.
const DEVNET_GRACE: Duration = Duration::from_millis(200);

/// Atomic units of USDC that a funded account gets at each start: 1000 USDC.
const FUND_UNITS: u64 = 1_000_000_000;

/// `tollhouse dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Port of the shop; the operator's is the next one. If either is taken, the next free pair is used
    #[arg(long, default_value_t = 8402)]
    pub port: u16,
    /// Keep everything in this folder: keys, configuration, books and chain [default: a temporary folder]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Give this account, 0x… or noble1… (or of the Solana chain, if that is built in), gas and 1000 test USDC; may be given
    /// several times
    #[arg(long, value_name = "ADDRESS")]
    pub fund: Vec<Account>,
}

/// An account on one of the chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// Of the EVM chain.
    Evm(Address),
    /// Of the Cosmos chain.
    Cosmos(String),
    /// Of the Solana chain.
    #[cfg(feature = "dev-solana")]
    Solana(solana_pubkey::Pubkey),
}

impl FromStr for Account {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = canonical_cosmos_address("noble", text) {
            return Ok(Self::Cosmos(address));
        }
        #[cfg(feature = "dev-solana")]
        if let Ok(address) = text.parse() {
            return Ok(Self::Solana(address));
        }
        text.parse().map(Self::Evm).map_err(|_error| format!("expected an address 0x… or noble1…, got {text:?}"))
    }
}

pub(super) fn run(args: &DevArgs) -> anyhow::Result<ExitCode> {
    #[cfg(feature = "openssl")]
    crate::server::tls::find_roots();
    let devnet = runtime("devnet", DEVNET_THREADS)?;
    // Before there is anything to tidy up.
    let stop = {
        let _inside = devnet.enter();
        termination().context("can't listen for signals")?
    };
    let shop = devnet.block_on(Shop::open(args))?;
    let blueprint = shop.blueprint()?;
    let _log = start_logging(&blueprint)?;
    let code = shop.run(blueprint, stop, |shop| shop.print(&mut std::io::stdout().lock()));
    devnet.shutdown_timeout(DEVNET_GRACE);
    code
}

/// Who takes part.
struct Keys {
    gas_payer: Key,
    payer: Key,
    seller: Key,
}

impl Keys {
    /// Those that lie in the folder, made if they aren't there.
    fn of(state: &StateDir) -> anyhow::Result<Self> {
        Ok(Self { gas_payer: state.key("gas-payer")?, payer: state.key("payer")?, seller: state.key("seller")? })
    }
}

/// A node of the EVM chain that is in the folder, with its heartbeat; gas payer, payer and those of `fund` get gas and USDC.
fn evm_node(state: &StateDir, keys: &Keys, fund: &[Account]) -> anyhow::Result<Arc<Node>> {
    let journal = if state.is_kept() { Some(Journal::open(&state.file("chain.jsonl"))?) } else { None };
    let mut chain = Chain::new(Arc::new(SystemClock), journal)?;
    let guests = fund.iter().filter_map(|account| match account {
        Account::Evm(address) => Some(*address),
        _ => None,
    });
    for address in [keys.gas_payer.address, keys.payer.address].into_iter().chain(guests) {
        chain.fund(address, U256::from(FUND_UNITS))?;
    }
    let node = Arc::new(Node::new(chain));
    tokio::spawn(Arc::clone(&node).keep_time());
    Ok(node)
}

/// The Cosmos chain that is in the folder; payer and those of `fund` get USDC.
async fn cosmos_chain(
    state: &StateDir,
    keys: &Keys,
    fund: &[Account],
    listen: SocketAddr,
) -> anyhow::Result<CosmosChain> {
    let journal = state.is_kept().then(|| state.file("cosmos.jsonl"));
    let chain = CosmosChain::start(CosmosParams { listen, journal, ..CosmosParams::default() }).await?;
    let guests = fund.iter().filter_map(|account| match account {
        Account::Cosmos(address) => Some(address.as_str()),
        _ => None,
    });
    for address in [keys.payer.cosmos.as_str()].into_iter().chain(guests) {
        chain.fund(address, COSMOS_DENOM, FUND_UNITS.into())?;
    }
    Ok(chain)
}

/// All but the gateway.
struct Shop {
    state: StateDir,
    ports: GatewayPorts,
    chain: SocketAddr,
    cosmos: CosmosChain,
    origin: SocketAddr,
    _running: (Running<Node>, Running<Origin>),
    keys: Keys,
    #[cfg(feature = "dev-solana")]
    solana: solana::Solana,
}

impl Shop {
    /// Starts chain and origin and writes what the gateway needs. Must run inside the runtime that they will run on.
    async fn open(args: &DevArgs) -> anyhow::Result<Self> {
        let state = StateDir::open(args.dir.as_deref())?;
        let keys = Keys::of(&state)?;
        let node = evm_node(&state, &keys, &args.fund)?;
        let node = Listening::local("chain", node).await?;
        let cosmos = cosmos_chain(&state, &keys, &args.fund, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let origin = Listening::local("origin", Arc::new(Origin)).await?;
        #[cfg(feature = "dev-solana")]
        let solana = solana::Solana::open(&state, &args.fund).await?;
        let shop = Self {
            state,
            ports: GatewayPorts::find(args.port)?,
            chain: node.address(),
            cosmos,
            origin: origin.address(),
            _running: (node.start(None), origin.start(None)),
            keys,
            #[cfg(feature = "dev-solana")]
            solana,
        };
        shop.state.write("gateway.toml", &shop.configuration())?;
        Ok(shop)
    }

    fn configuration(&self) -> String {
        let Keys { gas_payer, seller, .. } = &self.keys;
        let routes: String = ROUTES.iter().map(|route| format!("{:?} = {:?}\n", route.key, route.price)).collect();
        format!(
            "# Written by `tollhouse dev` at each start.\n\
             [server]\nlisten = \"127.0.0.1:{}\"\ndrain_timeout = \"1s\"\n\n\
             [admin]\nlisten = \"127.0.0.1:{}\"\n\n\
             [ledger]\nurl = \"sqlite:tollhouse.db\"\n\n\
             [log]\nlevel = \"warn\"\n\n\
             [upstreams.shop]\nservers = [\"{}\"]\n\n\
             [networks.base-sepolia]\nrpc_url = \"http://{}\"\nsigner = {{ file = {:?} }}\npay_to = \"{}\"\n\n\
             [networks.grand-1]\ngrpc_url = \"{}\"\npay_to = \"{}\"\n\n\
             {}[routes]\n{routes}",
            self.ports.shop,
            self.ports.admin,
            self.origin,
            self.chain,
            gas_payer.file_name(),
            seller.address,
            self.cosmos.grpc_url(),
            seller.cosmos,
            self.further_networks(),
        )
    }

    /// Networks of chains that this program may have been built without.
    #[cfg(feature = "dev-solana")]
    fn further_networks(&self) -> String {
        self.solana.configuration()
    }

    #[cfg(not(feature = "dev-solana"))]
    fn further_networks(&self) -> &'static str {
        ""
    }

    fn blueprint(&self) -> anyhow::Result<Blueprint> {
        // Nothing in the environment has a say in this configuration.
        Ok(Blueprint::read(&self.state.file("gateway.toml"), &|_name| None)?)
    }

    /// Runs the gateway until `stop` is done, then tidies up.
    fn run(
        self,
        blueprint: Blueprint,
        stop: impl Future<Output = ()>,
        ready: impl FnOnce(&Self) -> std::io::Result<()>,
    ) -> anyhow::Result<ExitCode> {
        Runtimes::new(&blueprint)?.run(blueprint, None, stop, |_server| Ok(ready(&self)?))
    }

    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let shop = format!("http://127.0.0.1:{}", self.ports.shop);
        let chain = format!("http://{}", self.chain);
        let key_file = self.state.file(&self.keys.payer.file_name());
        let key_file = shell_word(&key_file.to_string_lossy());
        let program = shell_word(&program());
        if let Some(taken) = self.ports.taken {
            writeln!(out, "Port {taken} is taken; the shop is at {}.\n", self.ports.shop)?;
        }
        writeln!(out, "A shop, its chain and its payer are on this machine. Nothing here is worth anything.\n")?;
        writeln!(out, "Ask without paying, for a 402:\n  curl -i {shop}/weather\n")?;
        writeln!(out, "Pay, and get the answer:\n  {program} pay --key-file {key_file} {shop}/weather\n")?;
        let grpc_url = self.cosmos.grpc_url();
        let network = format!("cosmos:{COSMOS_CHAIN_ID}");
        writeln!(out, "Pay on the Cosmos chain instead:")?;
        writeln!(
            out,
            "  {program} pay --network {network} --grpc-url {grpc_url} --key-file {key_file} {shop}/weather\n"
        )?;
        #[cfg(feature = "dev-solana")]
        self.solana.print_payment(out, &self.state, &program, &shop)?;
        for route in ROUTES {
            writeln!(out, "  {:<8}{shop}{:<10}{}", route.price, route.path, route.about)?;
        }
        let admin = format!("http://127.0.0.1:{}", self.ports.admin);
        writeln!(out, "\nBooks    {admin}/payments, {admin}/metrics, {admin}/readyz")?;
        writeln!(out, "Chain    {chain}, chain id {CHAIN_ID}, USDC at {TOKEN}")?;
        writeln!(out, "Payer    {}, has 1000 USDC or more; another account gets as much by", self.keys.payer.address)?;
        writeln!(
            out,
            "  curl {chain} -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"dev_mint\",\"params\":[\"0x…\"]}}'"
        )?;
        writeln!(
            out,
            "Cosmos   {grpc_url} (gRPC), chain id {COSMOS_CHAIN_ID}, {COSMOS_DENOM}; {} has 1000 USDC",
            self.keys.payer.cosmos
        )?;
        #[cfg(feature = "dev-solana")]
        self.solana.print_chain(out)?;
        let fate = if self.state.is_kept() { "" } else { ", removed at the end; --dir keeps one" };
        writeln!(out, "State    {}{fate}\n\nCtrl-C ends it.", self.state.path().display())?;
        out.flush()
    }
}

/// How this program is called from here: by its name, if the shell would find it, else by its path.
fn program() -> String {
    let Ok(own) = std::env::current_exe() else { return "tollhouse".to_owned() };
    let is_found = std::env::var_os("PATH").is_some_and(|paths| {
        std::env::split_paths(&paths)
            .map(|directory| directory.join("tollhouse"))
            .find(|file| file.is_file())
            .is_some_and(|found| is_same(&found, &own))
    });
    if is_found { "tollhouse".to_owned() } else { own.to_string_lossy().into_owned() }
}

fn is_same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// A word as a shell takes it whole.
fn shell_word(word: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "/._-+:@%=,".contains(char);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
