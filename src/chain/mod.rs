//! The chains: one folder per chain family, each an implementation of [`Scheme`], built from the configuration.
//!
//! Knows no HTTP and no ledger storage. Adding a chain family is one folder and one line in [`build`].

pub mod cosmos;
pub mod evm;
pub mod solana;

mod audit;
mod breaker;
mod cache;
mod inflight;
mod jsonrpc;
mod losses;
mod skew;
mod spending;
mod tenure;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::config::{Config, Diagnostic, NetworkConfig, RouteAction, RouteConfig};
use crate::ledger::PaymentRecord;
use crate::payment::scheme::Scheme;
use crate::types::{AccountId, AssetId, AtomicAmount, ChainKind, Clock, Network};

pub use self::audit::{Audit, Incoming, Till};

/// How a call to a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RpcOutcome {
    /// With a result.
    Ok,
    /// With an error of the node.
    Error,
    /// With nothing: time-out, refused connection, unreadable answer.
    Unanswered,
}

impl RpcOutcome {
    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Unanswered => "unanswered",
        }
    }
}

/// Who wants to know of every call to a node. Must be quick.
pub trait ChainObserver: Send + Sync {
    /// A call ended.
    fn rpc(&self, network: &Network, method: &str, outcome: RpcOutcome, took: Duration);
}

/// Nobody.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoObserver;

impl ChainObserver for NoObserver {
    fn rpc(&self, _network: &Network, _method: &str, _outcome: RpcOutcome, _took: Duration) {}
}

/// Why a chain could not be checked against the configuration, or asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The chain is not as the configuration says: nothing may start.
    #[error("{network} is not as configured: {}", problems.join("; "))]
    Mismatch {
        /// The chain.
        network: Network,
        /// Everything that disagrees.
        problems: Vec<String>,
    },
    /// The chain did not answer: not offered until it did.
    #[error("{network} can't be reached: {detail}")]
    Unreachable {
        /// The chain.
        network: Network,
        /// For the log; holds no endpoint address.
        detail: String,
    },
}

/// A gas payer's balance as last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerBalance {
    /// Who.
    pub signer: AccountId,
    /// How much native currency in its smallest unit; none if it was never read.
    pub balance: Option<AtomicAmount>,
    /// For how many settlements that lasts at today's fees, as far as they are known.
    pub lasts: Option<u64>,
}

/// A chain's newest block as last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainHead {
    /// Its number or height.
    pub number: u64,
    /// How long ago it, or a newer sight of it, was read; on Cosmos how old the block itself is.
    pub age: Duration,
}

/// A scheme together with what its owner needs to start, watch and stop it.
#[async_trait]
pub trait Chain: Scheme {
    /// Starts the background work (heads, receipts, sending, balances) on the current tokio runtime, once. It ends when
    /// the value is dropped.
    fn start(self: Arc<Self>);

    /// Compares the chain with the configuration: chain id, code, decimals, EIP-712 domain. Until this has succeeded once
    /// (here or in the background) the network is not available.
    ///
    /// # Errors
    /// [`ChainError::Mismatch`] must keep the process from starting; [`ChainError::Unreachable`] need not.
    async fn verify_chain(&self) -> Result<(), ChainError>;

    /// By how many seconds the newest block's clock was ahead of the local one when it was seen; negative: behind, or the chain
    /// stands still. None where it is not known.
    fn clock_skew_secs(&self) -> Option<i64> {
        None
    }

    /// The newest block as last seen, without asking.
    fn head(&self) -> Option<ChainHead> {
        None
    }

    /// Digits after the point of the native unit that [`Self::signer_balances`] counts in.
    fn native_decimals(&self) -> u8;

    /// Balances of the gas payers as last seen.
    fn signer_balances(&self) -> Vec<SignerBalance>;

    /// What the chain says today of a payment that the books call paid. Wants a chain that was verified, not one that was started.
    ///
    /// # Errors
    /// [`ChainError::Unreachable`] when the nodes can't tell.
    async fn audit(&self, record: &PaymentRecord) -> Result<Audit, ChainError>;

    /// How much of a token a transaction brought an account; none if the chain doesn't hold the transaction.
    ///
    /// # Errors
    /// [`ChainError::Unreachable`] when the nodes can't tell.
    async fn received(
        &self,
        transaction: &str,
        asset: &AssetId,
        account: &AccountId,
    ) -> Result<Option<AtomicAmount>, ChainError>;

    /// Transfers to a till. One in a transaction that is known may be left out.
    ///
    /// # Errors
    /// [`ChainError::Unreachable`] when the nodes can't tell, for example since they keep no index.
    async fn incoming(&self, till: &Till<'_>) -> Result<Vec<Incoming>, ChainError>;
}

/// A node's failure to answer the audit's questions.
fn unanswered(network: &Network, error: impl std::fmt::Display) -> ChainError {
    ChainError::Unreachable { network: network.clone(), detail: error.to_string() }
}

/// Builds every network of a configuration. Asks no chain.
///
/// # Errors
/// Every mistake that only the chain's own libraries can see, with its place: bad keys, unreadable keystores, a gas payer
/// that is also paid.
pub fn build(
    config: &Config,
    clock: &Arc<dyn Clock>,
    observer: &Arc<dyn ChainObserver>,
) -> Result<Vec<Arc<dyn Chain>>, Vec<Diagnostic>> {
    let mut chains: Vec<Arc<dyn Chain>> = Vec::new();
    let mut mistakes = Vec::new();
    for network in &config.networks {
        let also_paid: Vec<AccountId> =
            config.routes.iter().flat_map(|route| paid_on(route, &network.network)).collect();
        let (clock, observer) = (Arc::clone(clock), Arc::clone(observer));
        match connect(network, &also_paid, clock, observer) {
            Ok(chain) => chains.push(chain),
            Err(list) => mistakes.extend(list),
        }
    }
    if mistakes.is_empty() { Ok(chains) } else { Err(mistakes) }
}

fn connect(
    network: &NetworkConfig,
    also_paid: &[AccountId],
    clock: Arc<dyn Clock>,
    observer: Arc<dyn ChainObserver>,
) -> Result<Arc<dyn Chain>, Vec<Diagnostic>> {
    Ok(match network.network.kind() {
        ChainKind::Evm => evm::EvmScheme::connect(network, also_paid, clock, observer)?,
        ChainKind::Solana => solana::SolanaScheme::connect(network, also_paid, clock, observer)?,
        ChainKind::Cosmos => cosmos::CosmosScheme::connect(network, clock, observer)?,
    })
}

/// Who a route pays on a network.
fn paid_on(route: &RouteConfig, network: &Network) -> Vec<AccountId> {
    match &route.action {
        RouteAction::Paid(paid) => {
            paid.offers.iter().filter(|offer| offer.network == *network).map(|offer| offer.pay_to.clone()).collect()
        }
        _ => Vec::new(),
    }
}
