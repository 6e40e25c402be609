//! The chain behind gRPC, its heartbeat, and the handle that tests hold it by.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cosmrs::AccountId;
use cosmrs::proto::cosmos::auth::v1beta1::query_server::QueryServer as AuthServer;
use cosmrs::proto::cosmos::bank::v1beta1::query_server::QueryServer as BankServer;
use cosmrs::proto::cosmos::base::node::v1beta1::service_server::ServiceServer as NodeServer;
use cosmrs::proto::cosmos::base::tendermint::v1beta1::service_server::ServiceServer as TendermintServer;
use cosmrs::proto::cosmos::tx::v1beta1::service_server::ServiceServer as TxServer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::chain::{Chain, Included};
use super::fault::Faults;
use super::params::{CosmosParams, Dialect};
use super::transaction::{Transaction, hash_of};
use crate::devnet::journal::JournalError;
use crate::types::{Clock, SystemClock};

/// Why there is no chain.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What was kept of it can't be taken up again.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Its port can't be had.
    #[error("can't listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Why a chain was asked for something that isn't there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// No address of this chain.
    #[error("no address of this chain: {0}")]
    Address(String),
    /// An account has less than is to be taken.
    #[error("{0}")]
    TooLittle(String),
}

/// A transaction in a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The height of its block.
    pub height: u64,
    /// 0, or why its messages did nothing.
    pub code: u32,
    /// Its hash, the way explorers write it.
    pub hash: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What its first message was to send.
    pub sent: Sent,
}

/// A message that sends money.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// Who pays.
    pub from: String,
    /// Who is paid.
    pub to: String,
    /// Atomic units in decimal.
    pub amount: String,
    /// Of this denomination.
    pub denom: String,
}

impl Sent {
    fn by(bytes: &[u8]) -> Self {
        let transaction = Transaction::decode(bytes).ok();
        let Some(send) = transaction.and_then(|transaction| transaction.sends.into_iter().next()) else {
            return Self::default();
        };
        let coin = send.amount.into_iter().next().unwrap_or_default();
        Self { from: send.from_address, to: send.to_address, amount: coin.amount, denom: coin.denom }
    }
}

/// One node, of which the chain consists.
#[derive(Clone)]
pub struct CosmosNode {
    chain: Arc<Mutex<Chain>>,
    faults: Arc<Faults>,
}

impl CosmosNode {
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Chain) -> T) -> T {
        work(&mut self.chain.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What goes wrong between the node and its clients.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Gives an account money out of nothing.
    ///
    /// # Errors
    /// When `address` is none of this chain.
    pub fn fund(&self, address: &str, denom: &str, amount: u128) -> Result<(), AskError> {
        self.with(|chain| {
            let address = bytes_of(chain, address)?;
            chain.give(&address, denom, amount);
            Ok(())
        })
    }

    /// Takes money out of an account behind its owner's back, as a grant or a contract can: whatever waits in the mempool
    /// finds it gone.
    ///
    /// # Errors
    /// When `address` is none of this chain or has less.
    pub fn take(&self, address: &str, denom: &str, amount: u128) -> Result<(), AskError> {
        self.with(|chain| {
            let address = bytes_of(chain, address)?;
            chain.take(&address, denom, amount).map_err(|refusal| AskError::TooLittle(refusal.log))
        })
    }

    /// What an account has; 0 for one that isn't there.
    #[must_use]
    pub fn balance(&self, address: &str, denom: &str) -> u128 {
        self.with(|chain| bytes_of(chain, address).map_or(0, |address| chain.committed.balance(&address, denom)))
    }

    /// An account's number and its next sequence.
    #[must_use]
    pub fn account(&self, address: &str) -> Option<(u64, u64)> {
        self.with(|chain| {
            let account = chain.committed.account(&bytes_of(chain, address).ok()?)?;
            Some((account.number, account.sequence))
        })
    }

    /// Makes a block of all that waits and says its height.
    pub fn produce_block(&self) -> u64 {
        self.with(Chain::produce_block)
    }

    /// Height of the last block.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.with(|chain| chain.head().height)
    }

    /// How many transactions wait for a block.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.with(|chain| chain.mempool().len())
    }

    /// Forgets what waits, as a node does that is started again.
    pub fn forget_mempool(&self) {
        self.with(Chain::forget_mempool);
    }

    /// Hands a transaction in, as any stranger can: its hash, or why it isn't let in.
    ///
    /// # Errors
    /// What `CheckTx` said.
    pub fn hand_in(&self, bytes: &[u8]) -> Result<String, String> {
        let (hash, outcome) = self.with(|chain| chain.broadcast(bytes));
        outcome.refusal.map_or(Ok(hash), |refusal| Err(refusal.log))
    }

    /// Every transaction that anybody handed in, in order, refused ones and repetitions too.
    #[must_use]
    pub fn broadcasts(&self) -> Vec<Vec<u8>> {
        self.with(|chain| chain.broadcasts.clone())
    }

    /// What the blocks hold, in order.
    #[must_use]
    pub fn delivered(&self) -> Vec<Delivered> {
        self.with(|chain| {
            let txs = chain.blocks.values().flat_map(|block| &block.txs);
            let included = txs.filter_map(|tx| chain.included(&hash_of(tx)));
            let one = |included: &Included| Delivered {
                hash: hash_of(&included.bytes),
                sent: Sent::by(&included.bytes),
                height: included.height,
                code: included.outcome.refusal.as_ref().map_or(0, |refusal| refusal.code),
                bytes: included.bytes.clone(),
            };
            included.map(one).collect()
        })
    }
}

fn bytes_of(chain: &Chain, address: &str) -> Result<Vec<u8>, AskError> {
    let account: Option<AccountId> = chain.params.address(address);
    account.map(|account| account.to_bytes()).ok_or_else(|| AskError::Address(address.to_owned()))
}

/// A chain that runs until this is dropped.
pub struct CosmosChain {
    node: CosmosNode,
    address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl std::ops::Deref for CosmosChain {
    type Target = CosmosNode;

    fn deref(&self) -> &CosmosNode {
        &self.node
    }
}

impl Drop for CosmosChain {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl CosmosChain {
    /// Starts a chain on the runtime that this is called on.
    ///
    /// # Errors
    /// When the port is taken or the journal is damaged.
    pub async fn start(params: CosmosParams) -> Result<Self, StartError> {
        Self::start_at(params, Arc::new(SystemClock)).await
    }

    /// The same with a clock.
    ///
    /// # Errors
    /// When the port is taken or the journal is damaged.
    pub async fn start_at(params: CosmosParams, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let (dialect, block_time) = (params.dialect, params.block_time);
        let address = params.listen;
        let failed = |source| StartError::Listen { address, source };
        let chain = Arc::new(Mutex::new(Chain::open(params, clock)?));
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let node = CosmosNode { chain, faults: Arc::default() };
        let serving = tokio::spawn(serve(node.clone(), dialect, listener));
        let mut tasks = vec![serving];
        if let Some(block_time) = block_time {
            tasks.push(tokio::spawn(keep_time(node.clone(), block_time)));
        }
        Ok(Self { node, address, tasks })
    }

    /// Where the node listens, as a client's configuration names it.
    #[must_use]
    pub fn grpc_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A handle that others may keep.
    #[must_use]
    pub fn node(&self) -> CosmosNode {
        self.node.clone()
    }
}

async fn serve(node: CosmosNode, dialect: Dialect, listener: TcpListener) {
    // Older nodes have no service that tells of their configuration.
    let configuration = (dialect == Dialect::Sdk053).then(|| NodeServer::new(node.clone()));
    let served = Server::builder()
        .add_service(AuthServer::new(node.clone()))
        .add_service(BankServer::new(node.clone()))
        .add_service(TendermintServer::new(node.clone()))
        .add_service(TxServer::new(node))
        .add_optional_service(configuration)
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "The Cosmos chain's node has stopped.");
    }
}

async fn keep_time(node: CosmosNode, block_time: Duration) {
    let mut beats = tokio::time::interval(block_time);
    beats.tick().await;
    loop {
        beats.tick().await;
        node.produce_block();
    }
}
