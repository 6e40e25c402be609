//! The node's gRPC services, on the SDK's own definitions.

#![allow(clippy::result_large_err, reason = "the SDK's services answer with tonic's own status")]

use async_trait::async_trait;
use cosmrs::proto::Any;
use cosmrs::proto::cosmos::auth::v1beta1::{self as auth, BaseAccount, QueryAccountRequest, QueryAccountResponse};
use cosmrs::proto::cosmos::bank::v1beta1::{self as bank, DenomUnit, Metadata};
use cosmrs::proto::cosmos::base::abci::v1beta1::{GasInfo, Result as SimulateResult, TxResponse};
use cosmrs::proto::cosmos::base::node::v1beta1::{self as node, ConfigRequest, ConfigResponse};
use cosmrs::proto::cosmos::base::tendermint::v1beta1 as cmt;
use cosmrs::proto::cosmos::base::v1beta1::Coin;
use cosmrs::proto::cosmos::crypto::secp256k1::PubKey;
use cosmrs::proto::cosmos::tx::v1beta1::{self as tx, BroadcastMode, GetTxResponse, Tx, TxRaw};
use cosmrs::proto::prost::Message;
use cosmrs::proto::tendermint::p2p::DefaultNodeInfo;
use cosmrs::proto::tendermint::types::{Block as TmBlock, BlockId, Data, Header};
use cosmrs::proto::{Timestamp, cosmos::base::tendermint::v1beta1::VersionInfo};
use tonic::{Request, Response, Status};

use super::ante::Outcome;
use super::chain::{Block, Chain, Included};
use super::event::{to_abci, to_logs};
use super::fault::CallFault;
use super::node::CosmosNode;
use super::params::Dialect;
use super::transaction::hash_of;
use super::unserved::unserved;

/// Transactions of one answer to a search, at most.
const PAGE: u64 = 100;

type Answer<T> = Result<Response<T>, Status>;

impl CosmosNode {
    /// Answers a call, or lets it go wrong as a test wants it.
    async fn serve<T>(&self, method: &str, work: impl FnOnce(&mut Chain) -> Result<T, Status>) -> Answer<T> {
        match self.faults().next(method) {
            None => {}
            Some(CallFault::Unavailable) => return Err(Status::unavailable("the node is away")),
            Some(CallFault::NoIndex) => return Err(Status::unknown("transaction indexing is disabled")),
            Some(CallFault::NotFound) => return Err(Status::not_found("not found")),
            Some(CallFault::Delay(time)) => tokio::time::sleep(time).await,
            Some(CallFault::DropAnswer) => {
                let _answer = self.with(work);
                return Err(Status::unavailable("the connection broke before the answer"));
            }
            Some(CallFault::Silent) => {
                let _answer = self.with(work);
                return std::future::pending().await;
            }
        }
        self.with(work).map(Response::new)
    }
}

#[async_trait]
impl auth::query_server::Query for CosmosNode {
    async fn account(&self, request: Request<QueryAccountRequest>) -> Answer<QueryAccountResponse> {
        let height =
            request.metadata().get("x-cosmos-block-height").and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
        let text = request.into_inner().address;
        self.serve("Account", |chain| {
            if height.is_some_and(|height| height > chain.head().height) {
                return Err(Status::invalid_argument(
                    "cannot query with height in the future; please provide a valid height",
                ));
            }
            let address = address(chain, &text)?;
            let Some(account) = chain.committed.account(&address) else {
                let tail = if chain.params.dialect == Dialect::Sdk043 { ": key not found" } else { "" };
                return Err(Status::not_found(format!("account {text} not found{tail}")));
            };
            let pub_key = account.public_key.as_ref().map(|key| Any {
                type_url: "/cosmos.crypto.secp256k1.PubKey".to_owned(),
                value: PubKey { key: key.clone() }.encode_to_vec(),
            });
            let (account_number, sequence) = (account.number, account.sequence);
            let account = BaseAccount { address: text, pub_key, account_number, sequence };
            let type_url = "/cosmos.auth.v1beta1.BaseAccount".to_owned();
            Ok(QueryAccountResponse { account: Some(Any { type_url, value: account.encode_to_vec() }) })
        })
        .await
    }

    unserved! {
        accounts(auth::QueryAccountsRequest) -> auth::QueryAccountsResponse;
        account_address_by_id(auth::QueryAccountAddressByIdRequest) -> auth::QueryAccountAddressByIdResponse;
        params(auth::QueryParamsRequest) -> auth::QueryParamsResponse;
        module_accounts(auth::QueryModuleAccountsRequest) -> auth::QueryModuleAccountsResponse;
        module_account_by_name(auth::QueryModuleAccountByNameRequest) -> auth::QueryModuleAccountByNameResponse;
        bech32_prefix(auth::Bech32PrefixRequest) -> auth::Bech32PrefixResponse;
        address_bytes_to_string(auth::AddressBytesToStringRequest) -> auth::AddressBytesToStringResponse;
        address_string_to_bytes(auth::AddressStringToBytesRequest) -> auth::AddressStringToBytesResponse;
        account_info(auth::QueryAccountInfoRequest) -> auth::QueryAccountInfoResponse;
    }
}

#[async_trait]
impl bank::query_server::Query for CosmosNode {
    async fn balance(&self, request: Request<bank::QueryBalanceRequest>) -> Answer<bank::QueryBalanceResponse> {
        let bank::QueryBalanceRequest { address: text, denom, .. } = request.into_inner();
        self.serve("Balance", |chain| {
            let balance = Some(coin(chain.committed.balance(&address(chain, &text)?, &denom), denom));
            Ok(bank::QueryBalanceResponse { balance })
        })
        .await
    }

    async fn spendable_balance_by_denom(
        &self,
        request: Request<bank::QuerySpendableBalanceByDenomRequest>,
    ) -> Answer<bank::QuerySpendableBalanceByDenomResponse> {
        let bank::QuerySpendableBalanceByDenomRequest { address: text, denom } = request.into_inner();
        self.serve("SpendableBalanceByDenom", |chain| {
            if chain.params.dialect == Dialect::Sdk043 {
                return Err(Status::unimplemented("unknown method SpendableBalanceByDenom"));
            }
            let balance = Some(coin(chain.committed.balance(&address(chain, &text)?, &denom), denom));
            Ok(bank::QuerySpendableBalanceByDenomResponse { balance })
        })
        .await
    }

    async fn supply_of(&self, request: Request<bank::QuerySupplyOfRequest>) -> Answer<bank::QuerySupplyOfResponse> {
        let denom = request.into_inner().denom;
        self.serve("SupplyOf", |chain| {
            Ok(bank::QuerySupplyOfResponse { amount: Some(coin(chain.committed.supply(&denom), denom)) })
        })
        .await
    }

    async fn denom_metadata(
        &self,
        request: Request<bank::QueryDenomMetadataRequest>,
    ) -> Answer<bank::QueryDenomMetadataResponse> {
        let denom = request.into_inner().denom;
        self.serve("DenomMetadata", |chain| {
            let whole = denom.strip_prefix('u').filter(|_| chain.committed.supply(&denom) > 0);
            let Some(whole) = whole else {
                return Err(Status::not_found(format!("client metadata for denom {denom}")));
            };
            let unit = |name: &str, exponent| DenomUnit { denom: name.to_owned(), exponent, aliases: Vec::new() };
            let denom_units = vec![unit(&denom, 0), unit(whole, 6)];
            let (display, symbol) = (whole.to_owned(), whole.to_uppercase());
            let metadata = Metadata { base: denom.clone(), display, symbol, denom_units, ..Metadata::default() };
            Ok(bank::QueryDenomMetadataResponse { metadata: Some(metadata) })
        })
        .await
    }

    unserved! {
        all_balances(bank::QueryAllBalancesRequest) -> bank::QueryAllBalancesResponse;
        spendable_balances(bank::QuerySpendableBalancesRequest) -> bank::QuerySpendableBalancesResponse;
        total_supply(bank::QueryTotalSupplyRequest) -> bank::QueryTotalSupplyResponse;
        params(bank::QueryParamsRequest) -> bank::QueryParamsResponse;
        denom_metadata_by_query_string(bank::QueryDenomMetadataByQueryStringRequest)
            -> bank::QueryDenomMetadataByQueryStringResponse;
        denoms_metadata(bank::QueryDenomsMetadataRequest) -> bank::QueryDenomsMetadataResponse;
        denom_owners(bank::QueryDenomOwnersRequest) -> bank::QueryDenomOwnersResponse;
        denom_owners_by_query(bank::QueryDenomOwnersByQueryRequest) -> bank::QueryDenomOwnersByQueryResponse;
        send_enabled(bank::QuerySendEnabledRequest) -> bank::QuerySendEnabledResponse;
    }
}

#[async_trait]
impl tx::service_server::Service for CosmosNode {
    async fn simulate(&self, request: Request<tx::SimulateRequest>) -> Answer<tx::SimulateResponse> {
        let bytes = request.into_inner().tx_bytes;
        self.serve("Simulate", |chain| {
            if bytes.is_empty() {
                return Err(Status::invalid_argument("empty txBytes is not allowed"));
            }
            let outcome = chain.simulate(&bytes);
            if let Some(refusal) = &outcome.refusal {
                return Err(match chain.params.dialect {
                    Dialect::Sdk043 => Status::invalid_argument(refusal.log.clone()),
                    Dialect::Sdk053 => {
                        Status::unknown(format!("{} with gas used: '{}'", refusal.log, outcome.gas_used))
                    }
                });
            }
            let result = SimulateResult { events: events(chain, &outcome), ..SimulateResult::default() };
            let gas_info = Some(GasInfo { gas_wanted: 0, gas_used: outcome.gas_used });
            Ok(tx::SimulateResponse { gas_info, result: Some(result) })
        })
        .await
    }

    async fn broadcast_tx(&self, request: Request<tx::BroadcastTxRequest>) -> Answer<tx::BroadcastTxResponse> {
        let tx::BroadcastTxRequest { tx_bytes, mode } = request.into_inner();
        self.serve("BroadcastTx", |chain| {
            if tx_bytes.is_empty() {
                return Err(Status::invalid_argument("invalid empty tx"));
            }
            if mode != BroadcastMode::Sync as i32 {
                return Err(Status::invalid_argument("only BROADCAST_MODE_SYNC is served"));
            }
            let (txhash, outcome) = chain.broadcast(&tx_bytes);
            let (code, codespace, raw_log) = said(&outcome);
            let tx_response = Some(TxResponse { txhash, code, codespace, raw_log, ..TxResponse::default() });
            Ok(tx::BroadcastTxResponse { tx_response })
        })
        .await
    }

    async fn get_tx(&self, request: Request<tx::GetTxRequest>) -> Answer<GetTxResponse> {
        let hash = request.into_inner().hash;
        self.serve("GetTx", |chain| {
            if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(Status::invalid_argument("invalid tx hash"));
            }
            match (chain.included(&hash), chain.params.dialect) {
                (Some(included), _) => Ok(result(chain, included)),
                (None, Dialect::Sdk043) => Err(Status::invalid_argument(format!("tx ({hash}) not found"))),
                (None, Dialect::Sdk053) => Err(Status::not_found(format!("tx not found: {hash}"))),
            }
        })
        .await
    }

    /// One condition, `type.attribute='value'`, newest first.
    #[allow(deprecated, reason = "older nodes read nothing else")]
    async fn get_txs_event(&self, request: Request<tx::GetTxsEventRequest>) -> Answer<tx::GetTxsEventResponse> {
        let asked = request.into_inner();
        self.serve("GetTxsEvent", |chain| {
            // Each release reads fields of its own.
            let (query, skipped, limit) = match chain.params.dialect {
                Dialect::Sdk043 => {
                    let page = asked.pagination.unwrap_or_default();
                    (asked.events.into_iter().next().unwrap_or_default(), page.offset, page.limit)
                }
                Dialect::Sdk053 => (asked.query, asked.page.saturating_sub(1).saturating_mul(asked.limit), asked.limit),
            };
            let (kind, key, value) =
                condition(&query).ok_or_else(|| Status::invalid_argument(format!("can't search for {query}")))?;
            let found = chain.search(kind, key, value);
            let total = u64::try_from(found.len()).unwrap_or(u64::MAX);
            let limit = if limit == 0 { PAGE } else { limit.min(PAGE) };
            let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
            let page = found.into_iter().skip(count(skipped)).take(count(limit));
            let (mut txs, mut tx_responses) = (Vec::new(), Vec::new());
            for included in page {
                let GetTxResponse { tx, tx_response } = result(chain, included);
                txs.extend(tx);
                tx_responses.extend(tx_response);
            }
            Ok(tx::GetTxsEventResponse { txs, tx_responses, pagination: None, total })
        })
        .await
    }

    unserved! {
        get_block_with_txs(tx::GetBlockWithTxsRequest) -> tx::GetBlockWithTxsResponse;
        tx_decode(tx::TxDecodeRequest) -> tx::TxDecodeResponse;
        tx_encode(tx::TxEncodeRequest) -> tx::TxEncodeResponse;
        tx_encode_amino(tx::TxEncodeAminoRequest) -> tx::TxEncodeAminoResponse;
        tx_decode_amino(tx::TxDecodeAminoRequest) -> tx::TxDecodeAminoResponse;
    }
}

#[async_trait]
impl cmt::service_server::Service for CosmosNode {
    async fn get_node_info(&self, _request: Request<cmt::GetNodeInfoRequest>) -> Answer<cmt::GetNodeInfoResponse> {
        self.serve("GetNodeInfo", |chain| {
            let network = chain.params.chain_id.clone();
            let moniker = "tollhouse-dev".to_owned();
            let default_node_info = Some(DefaultNodeInfo { network, moniker, ..DefaultNodeInfo::default() });
            let sdk = if chain.params.dialect == Dialect::Sdk043 { "v0.43.0" } else { "v0.53.0" };
            let version = VersionInfo { cosmos_sdk_version: sdk.to_owned(), ..VersionInfo::default() };
            Ok(cmt::GetNodeInfoResponse { default_node_info, application_version: Some(version) })
        })
        .await
    }

    async fn get_syncing(&self, _request: Request<cmt::GetSyncingRequest>) -> Answer<cmt::GetSyncingResponse> {
        self.serve("GetSyncing", |_chain| Ok(cmt::GetSyncingResponse { syncing: false })).await
    }

    async fn get_latest_block(
        &self,
        _request: Request<cmt::GetLatestBlockRequest>,
    ) -> Answer<cmt::GetLatestBlockResponse> {
        self.serve("GetLatestBlock", |chain| {
            let (id, block) = block(chain, &chain.head());
            Ok(cmt::GetLatestBlockResponse { block_id: Some(id), block: Some(block), sdk_block: None })
        })
        .await
    }

    async fn get_block_by_height(
        &self,
        request: Request<cmt::GetBlockByHeightRequest>,
    ) -> Answer<cmt::GetBlockByHeightResponse> {
        let height = request.into_inner().height;
        self.serve("GetBlockByHeight", |chain| {
            let asked = u64::try_from(height).unwrap_or_default();
            if asked > chain.head().height {
                return Err(Status::invalid_argument("requested block height is bigger then the chain length"));
            }
            let Some(found) = chain.blocks.get(&asked) else {
                return Err(Status::unknown(format!("height {height} is not available")));
            };
            let (id, block) = block(chain, found);
            Ok(cmt::GetBlockByHeightResponse { block_id: Some(id), block: Some(block), sdk_block: None })
        })
        .await
    }

    unserved! {
        get_latest_validator_set(cmt::GetLatestValidatorSetRequest) -> cmt::GetLatestValidatorSetResponse;
        get_validator_set_by_height(cmt::GetValidatorSetByHeightRequest) -> cmt::GetValidatorSetByHeightResponse;
        abci_query(cmt::AbciQueryRequest) -> cmt::AbciQueryResponse;
    }
}

#[async_trait]
impl node::service_server::Service for CosmosNode {
    async fn config(&self, _request: Request<ConfigRequest>) -> Answer<ConfigResponse> {
        self.serve("Config", |chain| {
            Ok(ConfigResponse { minimum_gas_price: chain.params.gas_price_text(), ..ConfigResponse::default() })
        })
        .await
    }

    unserved! { status(node::StatusRequest) -> node::StatusResponse; }
}

fn address(chain: &Chain, text: &str) -> Result<Vec<u8>, Status> {
    let known = chain.params.address(text).map(|address| address.to_bytes());
    known.ok_or_else(|| Status::invalid_argument(format!("invalid address: {text}")))
}

fn coin(amount: u128, denom: String) -> Coin {
    Coin { denom, amount: amount.to_string() }
}

fn said(outcome: &Outcome) -> (u32, String, String) {
    match &outcome.refusal {
        None => (0, String::new(), String::new()),
        Some(refusal) => (refusal.code, "sdk".to_owned(), refusal.log.clone()),
    }
}

/// The one condition of a search that is known here.
fn condition(query: &str) -> Option<(&str, &str, &str)> {
    let (name, value) = query.split_once('=')?;
    let (kind, key) = name.trim().split_once('.')?;
    Some((kind, key, value.trim().strip_prefix('\'')?.strip_suffix('\'')?))
}

fn events(chain: &Chain, outcome: &Outcome) -> Vec<cosmrs::proto::tendermint::abci::Event> {
    to_abci(&outcome.ante_events, &outcome.events, chain.params.events, chain.params.dialect)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn result(chain: &Chain, included: &Included) -> GetTxResponse {
    let (code, codespace, raw_log) = said(&included.outcome);
    let raw = TxRaw::decode(included.bytes.as_slice()).unwrap_or_default();
    let tx = Tx {
        body: Message::decode(raw.body_bytes.as_slice()).ok(),
        auth_info: Message::decode(raw.auth_info_bytes.as_slice()).ok(),
        signatures: raw.signatures,
    };
    let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(included.time_secs));
    let any = Any { type_url: "/cosmos.tx.v1beta1.Tx".to_owned(), value: tx.encode_to_vec() };
    let tx_response = TxResponse {
        height: signed(included.height),
        txhash: hash_of(&included.bytes),
        codespace,
        code,
        raw_log,
        logs: to_logs(&included.outcome.events, chain.params.dialect),
        gas_wanted: signed(included.gas_wanted),
        gas_used: signed(included.outcome.gas_used),
        tx: Some(any),
        timestamp: time.map(|time| humantime::format_rfc3339_seconds(time).to_string()).unwrap_or_default(),
        events: events(chain, &included.outcome),
        ..TxResponse::default()
    };
    GetTxResponse { tx: Some(tx), tx_response: Some(tx_response) }
}

fn block(chain: &Chain, block: &Block) -> (BlockId, TmBlock) {
    let header = Header {
        chain_id: chain.params.chain_id.clone(),
        height: signed(block.height),
        time: Some(Timestamp { seconds: signed(block.time_secs), nanos: 0 }),
        ..Header::default()
    };
    let id = BlockId { hash: block.hash(&chain.params.chain_id), part_set_header: None };
    let data = Some(Data { txs: block.txs.clone() });
    (id, TmBlock { header: Some(header), data, evidence: None, last_commit: None })
}
