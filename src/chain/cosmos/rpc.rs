//! gRPC: several endpoints of one chain behind one face.
//!
//! Every call has a deadline, the number of calls at once is bounded, and an endpoint is used only after it has named the
//! right chain. Addresses of endpoints hold access tokens: they appear in no error and no log. Knows nothing of payments.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cosmrs::proto::cosmos::auth::v1beta1::{QueryAccountRequest, QueryAccountResponse};
use cosmrs::proto::cosmos::bank::v1beta1::{
    QueryBalanceRequest, QueryBalanceResponse, QuerySpendableBalanceByDenomRequest,
    QuerySpendableBalanceByDenomResponse, QuerySupplyOfRequest, QuerySupplyOfResponse,
};
use cosmrs::proto::cosmos::base::node::v1beta1::{ConfigRequest, ConfigResponse};
use cosmrs::proto::cosmos::base::tendermint::v1beta1::{
    GetBlockByHeightRequest, GetBlockByHeightResponse, GetLatestBlockRequest, GetLatestBlockResponse,
    GetNodeInfoRequest, GetNodeInfoResponse, GetSyncingRequest, GetSyncingResponse,
};
use cosmrs::proto::cosmos::tx::v1beta1::{
    BroadcastTxRequest, BroadcastTxResponse, GetTxRequest, GetTxResponse, GetTxsEventRequest, GetTxsEventResponse,
    SimulateRequest, SimulateResponse,
};
use cosmrs::proto::prost::Message;
use tokio::sync::Semaphore;
use tonic::client::Grpc;
use tonic::codec::ProstCodec;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use url::Url;

use crate::chain::finding::host_of;
use crate::chain::{ChainObserver, RpcOutcome};
use crate::types::Network;

/// Calls at once, over all endpoints of a network.
const CONCURRENT_CALLS_MAX: usize = 64;
/// Largest answer that is read: a block.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest text of a node that is passed on.
const MESSAGE_CHARS_MAX: usize = 200;
/// Calls that fail in a row, over all endpoints, before a network counts as unreachable.
const FAILURES_IN_A_ROW_MAX: u32 = 3;

/// The SDK's metadata key for the block after which the state is asked for.
const HEIGHT_HEADER: &str = "x-cosmos-block-height";

/// A question to a node, its method and its answer.
pub(super) trait Query: Message + Clone + 'static {
    /// What the node answers.
    type Answer: Message + Default + 'static;
    /// The gRPC method, `/service/Method`.
    const PATH: &'static str;
}

macro_rules! queries {
    ($($query:ty => $answer:ty, $path:literal;)+) => {
        $(impl Query for $query {
            type Answer = $answer;
            const PATH: &'static str = $path;
        })+
    };
}

queries! {
    QueryAccountRequest => QueryAccountResponse, "/cosmos.auth.v1beta1.Query/Account";
    QueryBalanceRequest => QueryBalanceResponse, "/cosmos.bank.v1beta1.Query/Balance";
    QuerySpendableBalanceByDenomRequest => QuerySpendableBalanceByDenomResponse,
        "/cosmos.bank.v1beta1.Query/SpendableBalanceByDenom";
    QuerySupplyOfRequest => QuerySupplyOfResponse, "/cosmos.bank.v1beta1.Query/SupplyOf";
    ConfigRequest => ConfigResponse, "/cosmos.base.node.v1beta1.Service/Config";
    GetBlockByHeightRequest => GetBlockByHeightResponse,
        "/cosmos.base.tendermint.v1beta1.Service/GetBlockByHeight";
    GetLatestBlockRequest => GetLatestBlockResponse, "/cosmos.base.tendermint.v1beta1.Service/GetLatestBlock";
    GetNodeInfoRequest => GetNodeInfoResponse, "/cosmos.base.tendermint.v1beta1.Service/GetNodeInfo";
    GetSyncingRequest => GetSyncingResponse, "/cosmos.base.tendermint.v1beta1.Service/GetSyncing";
    BroadcastTxRequest => BroadcastTxResponse, "/cosmos.tx.v1beta1.Service/BroadcastTx";
    GetTxRequest => GetTxResponse, "/cosmos.tx.v1beta1.Service/GetTx";
    GetTxsEventRequest => GetTxsEventResponse, "/cosmos.tx.v1beta1.Service/GetTxsEvent";
    SimulateRequest => SimulateResponse, "/cosmos.tx.v1beta1.Service/Simulate";
}

/// Why a call gave no result.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum RpcError {
    /// The node answered with an error.
    #[error("node said {code:?}: {message}")]
    Node { code: Code, message: String },
    /// No usable answer from any endpoint: the call may or may not have had its effect.
    #[error("{0}")]
    Transport(String),
    /// Every endpoint that answers serves another chain.
    #[error("endpoint serves chain {found}, expected {expected}")]
    WrongChain { expected: String, found: String },
}

impl RpcError {
    /// Whether the node looked and found nothing. Older SDKs say so with other codes.
    pub(super) fn is_not_found(&self) -> bool {
        match self {
            Self::Node { code: Code::NotFound, .. } => true,
            Self::Node { code: Code::InvalidArgument | Code::Unknown, message } => message.contains("not found"),
            _ => false,
        }
    }

    /// Whether the node is too old to know the method.
    pub(super) fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Node { code: Code::Unimplemented, .. })
    }

    /// Whether a status is the node's word on the call, rather than about itself or from something before it.
    fn of_status(status: &Status) -> Self {
        let message = redact(status.message());
        let is_about_node = matches!(
            status.code(),
            Code::Unavailable
                | Code::ResourceExhausted
                | Code::DeadlineExceeded
                | Code::Cancelled
                | Code::Unauthenticated
        );
        // What has a source came about on this side of the connection; its text may hold the address.
        if std::error::Error::source(status).is_some() {
            Self::Transport("connection failed".to_owned())
        } else if is_about_node || status.code() == Code::PermissionDenied {
            Self::Transport(format!("node said {:?}: {message}", status.code()))
        } else {
            Self::Node { code: status.code(), message }
        }
    }
}

/// Cuts a node's text to size and takes addresses out of it.
fn redact(text: &str) -> String {
    let words = text.split_whitespace().map(|word| if word.contains("://") { "[address]" } else { word });
    words.collect::<Vec<_>>().join(" ").chars().take(MESSAGE_CHARS_MAX).collect()
}

struct Remote {
    url: Url,
    endpoint: Endpoint,
    /// Path of the endpoint's URL, without a slash at its end: goes before every method.
    prefix: String,
    state: Mutex<RemoteState>,
}

#[derive(Default)]
struct RemoteState {
    /// Opened in the first call, since it needs a runtime.
    channel: Option<Channel>,
    /// It named the right chain.
    is_checked: bool,
    /// Failures since the last answer.
    failures: u32,
    /// Others are asked first until then.
    resting_until: Option<Instant>,
}

impl Remote {
    fn new(url: &Url, deadline: Duration) -> Result<Self, String> {
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err("expected an http or https URL as grpc_url".to_owned());
        }
        let unusable = "grpc_url can't be used as a gRPC endpoint";
        let mut endpoint = Endpoint::from_shared(url.to_string())
            .map_err(|_error| unusable.to_owned())?
            .connect_timeout(deadline.min(Duration::from_secs(5)))
            .tcp_nodelay(true);
        if url.scheme() == "https" {
            let tls = ClientTlsConfig::new().with_native_roots();
            endpoint =
                endpoint.tls_config(tls).map_err(|_error| "can't prepare TLS: no root certificates".to_owned())?;
        }
        let prefix = url.path().trim_end_matches('/').to_owned();
        Ok(Self { url: url.clone(), endpoint, prefix, state: Mutex::default() })
    }

    fn channel(&self) -> Result<Channel, RpcError> {
        let mut state = self.state.lock().map_err(|_poisoned| RpcError::Transport("endpoint is broken".to_owned()))?;
        Ok(state.channel.get_or_insert_with(|| self.endpoint.connect_lazy()).clone())
    }

    /// Lets others go first for a while; looks at the chain again afterwards, since a load balancer may have changed what is
    /// behind.
    fn rest(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.channel = None;
            state.is_checked = false;
            state.failures = state.failures.saturating_add(1);
            state.resting_until = Some(Instant::now() + Duration::from_secs(1 << state.failures.min(5)));
        }
    }

    fn recovered(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.failures = 0;
            state.resting_until = None;
        }
    }
}

/// One chain's endpoints.
pub(super) struct Rpc {
    network: Network,
    remotes: Vec<Remote>,
    permits: Semaphore,
    deadline: Duration,
    observer: Arc<dyn ChainObserver>,
    failures_in_a_row: AtomicU32,
}

/// One endpoint by itself, for answers that must come from one place.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    rpc: &'a Rpc,
    remote: &'a Remote,
}

impl Node<'_> {
    /// The endpoint's host, which is all of its address that may be shown.
    pub(super) fn host(&self) -> String {
        host_of(&self.remote.url)
    }

    /// One call to this endpoint.
    pub(super) async fn call<Q: Query>(&self, query: Q) -> Result<Q::Answer, RpcError> {
        let _permit = self.rpc.permit().await?;
        self.rpc.ask(self.remote, &query, None).await
    }

    /// One call to this endpoint about the state after a block. Behind one address there may be many nodes: one that doesn't have
    /// that block yet says so, rather than to answer from an older one.
    pub(super) async fn call_at<Q: Query>(&self, query: Q, height: u64) -> Result<Q::Answer, RpcError> {
        let _permit = self.rpc.permit().await?;
        self.rpc.ask(self.remote, &query, Some(height)).await
    }
}

impl Rpc {
    /// Prepares the endpoints; asks nothing yet.
    pub(super) fn new(
        network: Network,
        urls: &[Url],
        deadline: Duration,
        observer: Arc<dyn ChainObserver>,
    ) -> Result<Self, String> {
        let remotes = urls.iter().map(|url| Remote::new(url, deadline)).collect::<Result<Vec<_>, _>>()?;
        let permits = Semaphore::new(CONCURRENT_CALLS_MAX);
        Ok(Self { network, remotes, permits, deadline, observer, failures_in_a_row: AtomicU32::new(0) })
    }

    /// Whether calls have been getting answers lately.
    pub(super) fn is_reachable(&self) -> bool {
        self.failures_in_a_row.load(Ordering::Relaxed) < FAILURES_IN_A_ROW_MAX
    }

    /// Every endpoint, each by itself.
    pub(super) fn nodes(&self) -> Vec<Node<'_>> {
        self.remotes.iter().map(|remote| Node { rpc: self, remote }).collect()
    }

    /// One call, to the first endpoint that answers.
    pub(super) async fn call<Q: Query>(&self, query: Q) -> Result<Q::Answer, RpcError> {
        let _permit = self.permit().await?;
        let mut worst = RpcError::Transport("no endpoint".to_owned());
        for remote in self.by_health() {
            match self.ask(remote, &query, None).await {
                Err(error @ (RpcError::Transport(_) | RpcError::WrongChain { .. })) => {
                    // A wrong chain is the operator's mistake and says more than a silent endpoint.
                    if !matches!(worst, RpcError::WrongChain { .. }) {
                        worst = error;
                    }
                }
                answer => {
                    self.failures_in_a_row.store(0, Ordering::Relaxed);
                    return answer;
                }
            }
        }
        self.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
        Err(worst)
    }

    async fn permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>, RpcError> {
        self.permits.acquire().await.map_err(|_closed| RpcError::Transport("shutting down".to_owned()))
    }

    /// Endpoints in the operator's order, those that failed lately last.
    fn by_health(&self) -> Vec<&Remote> {
        let now = Instant::now();
        let mut remotes: Vec<&Remote> = self.remotes.iter().collect();
        remotes.sort_by_key(|remote| {
            remote.state.lock().ok().and_then(|state| state.resting_until.filter(|until| *until > now))
        });
        remotes
    }

    async fn ask<Q: Query>(&self, remote: &Remote, query: &Q, height: Option<u64>) -> Result<Q::Answer, RpcError> {
        self.check_chain(remote).await?;
        let answer = self.exchange(remote, query.clone(), height).await;
        match &answer {
            Err(RpcError::Transport(_)) => remote.rest(),
            _ => remote.recovered(),
        }
        answer
    }

    /// Asks an endpoint for its chain id before it is believed, and again after it failed.
    async fn check_chain(&self, remote: &Remote) -> Result<(), RpcError> {
        if remote.state.lock().is_ok_and(|state| state.is_checked) {
            return Ok(());
        }
        let info = self.exchange(remote, GetNodeInfoRequest {}, None).await.inspect_err(|_error| remote.rest())?;
        let found = info.default_node_info.map(|info| info.network).unwrap_or_default();
        let expected = self.network.reference();
        if found != expected {
            remote.rest();
            let found = redact(&found);
            return Err(RpcError::WrongChain { expected: expected.to_owned(), found });
        }
        if let Ok(mut state) = remote.state.lock() {
            state.is_checked = true;
        }
        Ok(())
    }

    async fn exchange<Q: Query>(&self, remote: &Remote, query: Q, height: Option<u64>) -> Result<Q::Answer, RpcError> {
        let method = Q::PATH.rsplit('/').next().unwrap_or(Q::PATH);
        let started = Instant::now();
        let answer = tokio::time::timeout(self.deadline, unary(remote, query, height))
            .await
            .unwrap_or_else(|_elapsed| Err(RpcError::Transport("no answer in time".to_owned())));
        let outcome = match &answer {
            Ok(_) => RpcOutcome::Ok,
            Err(RpcError::Node { .. } | RpcError::WrongChain { .. }) => RpcOutcome::Error,
            Err(RpcError::Transport(_)) => RpcOutcome::Unanswered,
        };
        self.observer.rpc(&self.network, method, outcome, started.elapsed());
        answer
    }
}

async fn unary<Q: Query>(remote: &Remote, query: Q, height: Option<u64>) -> Result<Q::Answer, RpcError> {
    let path = if remote.prefix.is_empty() {
        PathAndQuery::from_static(Q::PATH)
    } else {
        PathAndQuery::try_from(format!("{}{}", remote.prefix, Q::PATH))
            .map_err(|_error| RpcError::Transport("endpoint has an unusable path".to_owned()))?
    };
    let mut grpc = Grpc::new(remote.channel()?).max_decoding_message_size(ANSWER_BYTES_MAX);
    grpc.ready().await.map_err(|_error| RpcError::Transport("can't connect".to_owned()))?;
    let codec: ProstCodec<Q, Q::Answer> = ProstCodec::default();
    let mut request = Request::new(query);
    if let Some(height) = height {
        request.metadata_mut().insert(HEIGHT_HEADER, height.into());
    }
    let answer = grpc.unary(request, path, codec).await;
    answer.map(tonic::Response::into_inner).map_err(|status| RpcError::of_status(&status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_text_is_cut_and_holds_no_address() {
        assert_eq!(redact("dial https://key@node/x  failed"), "dial [address] failed");
        assert_eq!(redact(&"é".repeat(500)).chars().count(), MESSAGE_CHARS_MAX);
    }

    #[test]
    fn not_found_is_understood_from_old_and_new_sdks_and_nothing_else_is() {
        let node = |code, text: &str| RpcError::of_status(&Status::new(code, text));
        assert!(node(Code::NotFound, "tx not found: AB").is_not_found());
        assert!(node(Code::InvalidArgument, "tx (AB) not found").is_not_found());
        assert!(!node(Code::InvalidArgument, "tx hash cannot be empty").is_not_found());
        assert!(!node(Code::Unavailable, "node not found").is_not_found());
        assert!(!node(Code::Internal, "transaction indexing is disabled").is_not_found());
        assert!(matches!(node(Code::ResourceExhausted, "slow down"), RpcError::Transport(_)));
    }
}
