//! A Solana node for the tests: the whole JSON-RPC over a real SVM, offline, on free loopback ports.
//!
//!     solana-node [--slot-ms N]
//!
//! Prints one line of JSON once it answers (`rpc_url`, `ws_url`, `genesis_hash`, the two mints) and runs until its standard
//! input ends or it gets SIGTERM. Accounts are funded by the tests, over RPC (`requestAirdrop`, `surfnet_setTokenAccount`).

use std::error::Error;
use std::time::Duration;

use serde_json::json;
use surfpool_sdk::cheatcodes::builders::SetAccount;
use surfpool_sdk::{BlockProductionMode, Pubkey, Surfnet};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Block time unless another is asked for: a blockhash lives for 150 blocks, half a minute.
const SLOT_MS_DEFAULT: u64 = 200;

/// Devnet's USDC: wallets and clients accept no other there.
const USDC: Pubkey = Pubkey::from_str_const("4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU");

/// A token of the Token-2022 program, without extensions.
const TOKEN_2022_MINT: Pubkey = Pubkey::from_str_const("Tok2yZbrMXXkR4Q4G9BV9ZZWvLPUo9xjWyjkbYqnYKy");

const TOKEN_PROGRAM: Pubkey = Pubkey::from_str_const("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA");
const TOKEN_2022_PROGRAM: Pubkey = Pubkey::from_str_const("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb");

/// Enough for a mint's rent.
const MINT_LAMPORTS: u64 = 10_000_000;
const DECIMALS: u8 = 6;
/// The ports are picked before they are bound: somebody may take one in between.
const ATTEMPTS_MAX: u32 = 5;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let slot_ms = slot_ms(std::env::args().skip(1))?;
    let mut node = start(slot_ms).await?;
    for (mint, program) in [(USDC, TOKEN_PROGRAM), (TOKEN_2022_MINT, TOKEN_2022_PROGRAM)] {
        let account = SetAccount::new(mint).lamports(MINT_LAMPORTS).owner(program).data(mint_data());
        node.cheatcodes().execute(account)?;
    }
    let rpc = node.rpc_client();
    // Before its first block the node counts from a height that it then takes back.
    let before_first_block = rpc.get_latest_blockhash()?;
    while rpc.get_latest_blockhash()? == before_first_block {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let genesis_hash = rpc.get_genesis_hash()?.to_string();
    let ready = json!({
        "rpc_url": node.rpc_url(),
        "ws_url": node.ws_url(),
        "genesis_hash": genesis_hash,
        "usdc": USDC.to_string(),
        "token_2022_mint": TOKEN_2022_MINT.to_string(),
        "slot_ms": slot_ms,
    });
    println!("{ready}");
    let mut term = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = term.recv() => {}
        () = input_ended() => {}
    }
    node.stop()?;
    Ok(())
}

fn slot_ms(arguments: impl Iterator<Item = String>) -> Result<u64, String> {
    match arguments.collect::<Vec<_>>().as_slice() {
        [] => Ok(SLOT_MS_DEFAULT),
        [name, value] if name == "--slot-ms" => value.parse().map_err(|error| format!("--slot-ms: {error}")),
        _ => Err("usage: solana-node [--slot-ms N]".to_owned()),
    }
}

async fn start(slot_ms: u64) -> Result<Surfnet, Box<dyn Error>> {
    let mut attempts = 0;
    loop {
        let builder = Surfnet::builder().offline(true).slot_time_ms(slot_ms);
        // Blocks by the clock, as on the real chain: what is sent is confirmed with the next one, and hashes grow old.
        match builder.block_production_mode(BlockProductionMode::Clock).start().await {
            Ok(node) => return Ok(node),
            Err(error) if attempts + 1 == ATTEMPTS_MAX => return Err(error.into()),
            Err(_) => attempts += 1,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A mint without authorities (SPL Token's layout, which Token-2022 shares).
fn mint_data() -> Vec<u8> {
    let no_authority = [0_u8; 36];
    let supply = u64::MAX.to_le_bytes();
    [&no_authority[..], &supply, &[DECIMALS, 1], &no_authority].concat()
}

/// Ends with the standard input, which is held by whoever started this: it ends even if they were killed.
async fn input_ended() {
    let (ended, wait) = oneshot::channel();
    // A thread of its own: the runtime would wait for its own reader when it ends.
    std::thread::spawn(move || {
        let _unreadable = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _nobody_waits = ended.send(());
    });
    let _thread_died = wait.await;
}
