//! `tollhouse devnet`: the chains and the origin of `dev` without the gateway, each where it is told to listen, so that a
//! gateway in another container or on another machine can be tried against them. Keys and chains stay in one folder.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;

use super::state::StateDir;
use super::{Account, DEVNET_GRACE, DEVNET_THREADS, Keys, cosmos_chain, evm_node};
use crate::cli::run::runtime;
use crate::devnet::cosmos::CosmosChain;
use crate::devnet::{Node, Origin};
use crate::server::{Listening, Running, termination};
use crate::telemetry;

/// `tollhouse devnet`.
#[derive(Debug, Args)]
pub struct DevnetArgs {
    /// Folder for the keys and the chains
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Serve the EVM chain at this address and port
    #[arg(long, value_name = "ADDRESS", requires = "dir", required_unless_present_any = ["cosmos", "origin"])]
    pub evm: Option<SocketAddr>,
    /// Serve the Cosmos chain at this address and port
    #[arg(long, value_name = "ADDRESS", requires = "dir")]
    pub cosmos: Option<SocketAddr>,
    /// Serve the origin at this address and port
    #[arg(long, value_name = "ADDRESS")]
    pub origin: Option<SocketAddr>,
    /// Give this account, 0x… or noble1…, gas and 1000 test USDC; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    pub fund: Vec<Account>,
}

pub(in crate::cli) fn run(args: &DevnetArgs) -> anyhow::Result<ExitCode> {
    telemetry::init("warn", false).context("can't log")?;
    let runtime = runtime("devnet", DEVNET_THREADS)?;
    runtime.block_on(async {
        let stop = termination().context("can't listen for signals")?;
        let devnet = Devnet::open(args).await?;
        devnet.places.iter().for_each(|place| println!("{place}"));
        stop.await;
        anyhow::Ok(())
    })?;
    runtime.shutdown_timeout(DEVNET_GRACE);
    Ok(ExitCode::SUCCESS)
}

/// What runs, until it is dropped.
#[derive(Default)]
pub(super) struct Devnet {
    /// What listens where, a line each.
    pub places: Vec<String>,
    _state: Option<StateDir>,
    _evm: Option<Running<Node>>,
    _cosmos: Option<CosmosChain>,
    _origin: Option<Running<Origin>>,
}

impl Devnet {
    /// Starts what is asked for. Whoever can connect finds the keys in their folder.
    pub(super) async fn open(args: &DevnetArgs) -> anyhow::Result<Self> {
        let mut devnet = Self::default();
        if let Some(dir) = &args.dir {
            let state = StateDir::open(Some(dir))?;
            let keys = Keys::of(&state)?;
            if let Some(address) = args.evm {
                let node = Listening::at("chain", address, evm_node(&state, &keys, &args.fund)?).await?;
                devnet.places.push(format!("EVM chain at http://{}", node.address()));
                devnet._evm = Some(node.start(None));
            }
            if let Some(address) = args.cosmos {
                let chain = cosmos_chain(&state, &keys, &args.fund, address).await?;
                devnet.places.push(format!("Cosmos chain at {}", chain.grpc_url()));
                devnet._cosmos = Some(chain);
            }
            devnet._state = Some(state);
        }
        if let Some(address) = args.origin {
            let origin = Listening::at("origin", address, Arc::new(Origin)).await?;
            devnet.places.push(format!("Origin at http://{}", origin.address()));
            devnet._origin = Some(origin.start(None));
        }
        Ok(devnet)
    }
}
