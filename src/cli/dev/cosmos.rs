//! `tollhouse cosmos-chain`: the Cosmos chain alone, for tests of other languages. Says where it is, then does what each line
//! on stdin asks and answers with a line of JSON; ends with stdin.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::devnet::cosmos::{COSMOS_DENOM, CosmosChain, CosmosParams, Dialect, Sent};

/// `tollhouse cosmos-chain`.
#[derive(Debug, Args)]
pub struct CosmosChainArgs {
    /// Port on this machine's own address [default: a free one]
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Which release of the SDK the node answers like
    #[arg(long, value_enum, default_value_t = Sdk::V053)]
    pub sdk: Sdk,
    /// Make blocks only when asked
    #[arg(long)]
    pub no_blocks: bool,
}

/// A release.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Sdk {
    /// 0.43
    #[value(name = "0.43")]
    V043,
    /// 0.53
    #[value(name = "0.53")]
    V053,
}

pub(in crate::cli) async fn run(args: CosmosChainArgs) -> anyhow::Result<ExitCode> {
    let dialect = match args.sdk {
        Sdk::V043 => Dialect::Sdk043,
        Sdk::V053 => Dialect::Sdk053,
    };
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let mut params = CosmosParams { listen, dialect, ..CosmosParams::default() };
    if args.no_blocks {
        params.block_time = None;
    }
    let chain_id = params.chain_id.clone();
    let chain = CosmosChain::start(params).await?;
    println!("{}", json!({"grpc_url": chain.grpc_url(), "chain_id": chain_id, "denom": COSMOS_DENOM}));
    let (asked, mut asks) = mpsc::channel(1);
    // In a thread of its own: reading blocks, and the chain goes on.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if asked.blocking_send(line).is_err() {
                break;
            }
        }
    });
    while let Some(line) = asks.recv().await {
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = answer(&chain, &words).unwrap_or_else(|error| json!({"error": error.to_string()}));
        println!("{answer}");
    }
    Ok(ExitCode::SUCCESS)
}

fn answer(chain: &CosmosChain, words: &[&str]) -> anyhow::Result<Value> {
    Ok(match words {
        ["fund", address, amount] => {
            chain.fund(address, COSMOS_DENOM, amount.parse().context("no amount")?)?;
            json!({"balance": chain.balance(address, COSMOS_DENOM).to_string()})
        }
        ["take", address, amount] => {
            chain.take(address, COSMOS_DENOM, amount.parse().context("no amount")?)?;
            json!({"balance": chain.balance(address, COSMOS_DENOM).to_string()})
        }
        ["account", address] => {
            let (number, sequence) = chain.account(address).context("no such account")?;
            let balance = chain.balance(address, COSMOS_DENOM).to_string();
            json!({"account_number": number, "sequence": sequence, "balance": balance})
        }
        ["block"] => json!({"height": chain.produce_block()}),
        ["state"] => {
            let codes: Vec<u32> = chain.delivered().iter().map(|delivered| delivered.code).collect();
            let broadcasts = chain.broadcasts().len();
            json!({"height": chain.height(), "waiting": chain.waiting(), "codes": codes, "broadcasts": broadcasts})
        }
        ["transfers"] => json!({"transfers": transfers(chain)}),
        _ => bail!("expected fund, take, account, block, state or transfers"),
    })
}

/// Every transfer that moved money, in order.
fn transfers(chain: &CosmosChain) -> Vec<Value> {
    let moved = chain.delivered().into_iter().filter(|delivered| delivered.code == 0);
    moved
        .map(|delivered| {
            let Sent { from, to, amount, denom } = delivered.sent;
            json!({"from": from, "to": to, "amount": amount, "denom": denom, "hash": delivered.hash})
        })
        .collect()
}
