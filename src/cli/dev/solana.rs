//! The Solana chain of the shop: its accounts, its part of the configuration, its lines of what is printed.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use solana_keypair::Keypair;
use solana_pubkey::Pubkey;
use solana_signer::Signer;
use zeroize::Zeroizing;

use super::state::StateDir;
use super::{Account, FUND_UNITS, shell_word};
use crate::devnet::Node;
use crate::devnet::solana::{SolanaChain, USDC};
use crate::server::{Listening, Running};
use crate::types::SystemClock;

/// Lamports of the account that pays fees: 10 SOL, for a million payments.
const FEE_PAYER_LAMPORTS: u64 = 10_000_000_000;

const FEE_PAYER_FILE: &str = "solana-fee-payer.json";
const PAYER_FILE: &str = "solana-payer.json";
const SELLER_FILE: &str = "solana-seller.json";

/// A running chain.
pub(super) struct Solana {
    address: SocketAddr,
    genesis_hash: String,
    payer: Pubkey,
    seller: Pubkey,
    _running: Running<Node<SolanaChain>>,
}

impl Solana {
    /// Starts a chain and gives everybody what they need. Must run inside the runtime that it will run on.
    pub(super) async fn open(state: &StateDir, fund: &[Account]) -> anyhow::Result<Self> {
        let [fee_payer, payer, seller] =
            [keypair(state, FEE_PAYER_FILE)?, keypair(state, PAYER_FILE)?, keypair(state, SELLER_FILE)?];
        let mut chain = SolanaChain::new(Arc::new(SystemClock))?;
        chain.fund(fee_payer, FEE_PAYER_LAMPORTS)?;
        chain.fund_usdc(seller, 0)?;
        // Who pays needs no SOL.
        chain.fund_usdc(payer, FUND_UNITS)?;
        for account in fund {
            if let Account::Solana(owner) = account {
                chain.fund_usdc(*owner, FUND_UNITS)?;
            }
        }
        let genesis_hash = chain.genesis_hash();
        let node = Arc::new(Node::new(chain));
        tokio::spawn(Arc::clone(&node).keep_time());
        let node = Listening::local("solana", node).await?;
        Ok(Self { address: node.address(), genesis_hash, payer, seller, _running: node.start(None) })
    }

    /// The network, for the gateway's configuration.
    pub(super) fn configuration(&self) -> String {
        format!(
            "[networks.solana-devnet]\nrpc_url = \"http://{}\"\ngenesis_hash = {:?}\nsigner = {{ file = {:?} }}\n\
             pay_to = \"{}\"\n\n",
            self.address, self.genesis_hash, FEE_PAYER_FILE, self.seller,
        )
    }

    /// How to pay on it.
    pub(super) fn print_payment(
        &self,
        out: &mut dyn Write,
        state: &StateDir,
        program: &str,
        shop: &str,
    ) -> std::io::Result<()> {
        let key_file = shell_word(&state.file(PAYER_FILE).to_string_lossy());
        let rpc_url = format!("http://{}", self.address);
        writeln!(out, "Pay on the Solana chain instead:")?;
        writeln!(
            out,
            "  {program} pay --network solana-devnet --rpc-url {rpc_url} --key-file {key_file} {shop}/weather\n"
        )
    }

    /// Where it is and who has what.
    pub(super) fn print_chain(&self, out: &mut dyn Write) -> std::io::Result<()> {
        writeln!(
            out,
            "Solana   http://{}, USDC at {USDC}; {} has 1000 USDC; in memory only: a new chain at each start",
            self.address, self.payer
        )
    }
}

/// The account whose key pair is in the file, as `solana-keygen` writes it; made if it isn't there.
fn keypair(state: &StateDir, name: &str) -> anyhow::Result<Pubkey> {
    let path = state.file(name);
    match std::fs::read_to_string(&path).map(Zeroizing::new) {
        Ok(text) => {
            let keypair = solana_keypair::read_keypair(&mut text.as_bytes());
            let keypair = keypair.map_err(|_error| anyhow!("{} holds no key pair", path.display()))?;
            Ok(keypair.pubkey())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut seed = Zeroizing::new([0_u8; 32]);
            getrandom::fill(seed.as_mut()).map_err(|error| anyhow!("no randomness for a key: {error}"))?;
            let keypair = Keypair::new_from_array(*seed);
            let text = Zeroizing::new(serde_json::to_string(keypair.to_bytes().as_slice())?);
            state.write(name, &text)?;
            Ok(keypair.pubkey())
        }
        Err(error) => Err(error).with_context(|| format!("can't use {}", path.display())),
    }
}
