//! The node's answers, row by row as a real one gave them, and a chain that keeps what it was told.

mod refusals;
mod signer;

use cosmrs::proto::cosmos::auth::v1beta1::query_client::QueryClient as AuthClient;
use cosmrs::proto::cosmos::auth::v1beta1::{BaseAccount, QueryAccountRequest};
use cosmrs::proto::cosmos::bank::v1beta1 as bank;
use cosmrs::proto::cosmos::bank::v1beta1::query_client::QueryClient as BankClient;
use cosmrs::proto::cosmos::base::node::v1beta1::ConfigRequest;
use cosmrs::proto::cosmos::base::node::v1beta1::service_client::ServiceClient as NodeClient;
use cosmrs::proto::cosmos::base::tendermint::v1beta1 as cmt;
use cosmrs::proto::cosmos::base::tendermint::v1beta1::service_client::ServiceClient as CmtClient;
use cosmrs::proto::cosmos::tx::v1beta1::service_client::ServiceClient as TxClient;
use cosmrs::proto::cosmos::tx::v1beta1::{BroadcastTxRequest, GetTxRequest, GetTxResponse, SimulateRequest};
use cosmrs::proto::prost::Message;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use self::signer::{Payment, Signer};
use super::*;

const FUND: u128 = 1_000_000;

/// A chain whose blocks are made on demand, a rich payer and a shop that has nothing.
struct World {
    chain: CosmosChain,
    channel: Channel,
    payer: Signer,
    shop: String,
}

impl World {
    async fn new(dialect: Dialect) -> Self {
        Self::with(CosmosParams { dialect, block_time: None, ..CosmosParams::default() }).await
    }

    async fn with(params: CosmosParams) -> Self {
        let chain = CosmosChain::start(params).await.unwrap();
        let channel = Endpoint::from_shared(chain.grpc_url()).unwrap().connect().await.unwrap();
        let (payer, shop) = (Signer::new(7), Signer::new(8).address());
        // Somebody comes first, so that the payer's number isn't 0.
        chain.fund(&Signer::new(1).address(), "uatom", 5).unwrap();
        chain.fund(&payer.address(), COSMOS_DENOM, FUND).unwrap();
        Self { chain, channel, payer, shop }
    }

    /// A payment of 1000 that is right in every way.
    fn payment(&self) -> Payment {
        let (account_number, sequence) = self.chain.account(&self.payer.address()).unwrap();
        Payment::new(&self.payer, &self.shop, account_number, sequence)
    }

    /// Code and words of CheckTx.
    async fn broadcast(&self, tx_bytes: Vec<u8>) -> (u32, String) {
        let request = BroadcastTxRequest { tx_bytes, mode: 2 };
        let answer = TxClient::new(self.channel.clone()).broadcast_tx(request).await.unwrap().into_inner();
        let response = answer.tx_response.unwrap();
        assert_eq!(response.codespace.is_empty(), response.code == 0);
        (response.code, response.raw_log)
    }

    async fn simulate(&self, tx_bytes: Vec<u8>) -> Result<u64, Status> {
        let request = SimulateRequest { tx_bytes, ..SimulateRequest::default() };
        let answer = TxClient::new(self.channel.clone()).simulate(request).await?;
        Ok(answer.into_inner().gas_info.unwrap().gas_used)
    }

    async fn get_tx(&self, tx_bytes: &[u8]) -> Result<GetTxResponse, Status> {
        let hash = super::transaction::hash_of(tx_bytes);
        Ok(TxClient::new(self.channel.clone()).get_tx(GetTxRequest { hash }).await?.into_inner())
    }

    /// Code and words of a transaction in a block.
    async fn delivered(&self, tx_bytes: &[u8]) -> (u32, String) {
        let response = self.get_tx(tx_bytes).await.unwrap().tx_response.unwrap();
        assert!(response.height > 0);
        (response.code, response.raw_log)
    }

    fn held(&self, address: &str) -> u128 {
        self.chain.balance(address, COSMOS_DENOM)
    }

    async fn account(&self, address: &str) -> Result<BaseAccount, Status> {
        let request = QueryAccountRequest { address: address.to_owned() };
        let any = AuthClient::new(self.channel.clone()).account(request).await?.into_inner().account.unwrap();
        assert_eq!(any.type_url, "/cosmos.auth.v1beta1.BaseAccount");
        Ok(BaseAccount::decode(any.value.as_slice()).unwrap())
    }
}

#[tokio::test]
async fn a_payment_of_either_sign_mode_moves_its_money_and_its_fee_once() {
    for amino in [false, true] {
        let world = World::new(Dialect::Sdk053).await;
        let mut payment = world.payment();
        payment.memo = "a <b> & c \"d\" é".to_owned();
        payment.timeout_height = world.chain.height() + 5;
        let bytes = if amino { payment.amino() } else { payment.direct() };
        let gas = world.simulate(bytes.clone()).await.unwrap();
        assert!((50_000..payment.gas_limit).contains(&gas), "{gas}");
        assert_eq!(world.broadcast(bytes.clone()).await, (0, String::new()), "amino: {amino}");
        assert_eq!(world.get_tx(&bytes).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(world.held(&world.shop), 0);
        let height = world.chain.produce_block();
        let response = world.get_tx(&bytes).await.unwrap().tx_response.unwrap();
        assert_eq!((response.code, response.height), (0, i64::try_from(height).unwrap()));
        assert_eq!(response.gas_used, i64::try_from(gas).unwrap());
        assert_eq!(world.held(&world.shop), 1000);
        assert_eq!(world.held(&world.payer.address()), FUND - 1000 - payment.fee);
        let account = world.account(&world.payer.address()).await.unwrap();
        assert_eq!((account.sequence, account.pub_key.is_some()), (1, true));
        // The node takes no transaction twice, in whichever block the first is.
        assert_eq!(world.broadcast(bytes.clone()).await.0, 19);
        world.chain.produce_block();
        assert_eq!(world.held(&world.shop), 1000);
        assert_eq!((world.chain.delivered().len(), world.chain.broadcasts().len()), (1, 2));
    }
}

#[tokio::test]
async fn a_result_tells_of_fee_and_payment_in_the_form_of_its_release() {
    for (dialect, events) in [
        (Dialect::Sdk053, EventForm::Plain),
        (Dialect::Sdk043, EventForm::Plain),
        (Dialect::Sdk043, EventForm::Base64),
        (Dialect::Sdk043, EventForm::LogsOnly),
    ] {
        let world = World::with(CosmosParams { dialect, events, block_time: None, ..CosmosParams::default() }).await;
        let bytes = world.payment().direct();
        world.broadcast(bytes.clone()).await;
        world.chain.produce_block();
        let response = world.get_tx(&bytes).await.unwrap().tx_response.unwrap();
        assert_eq!(response.logs.is_empty(), dialect == Dialect::Sdk053);
        let transfers: Vec<_> = response.events.iter().filter(|event| event.r#type == "transfer").collect();
        if events == EventForm::LogsOnly {
            assert!(response.events.is_empty());
        } else {
            // The fee's and the payment's.
            assert_eq!(transfers.len(), 2);
            let texts: Vec<&str> = transfers[1].attributes.iter().map(|one| one.value.as_str()).collect();
            let is_plain = texts.contains(&"1000uusdc") && texts.contains(&world.shop.as_str());
            assert_eq!(is_plain, events == EventForm::Plain);
            assert_eq!(texts.contains(&"MTAwMHV1c2Rj"), events == EventForm::Base64);
            let keys: Vec<&str> = transfers[1].attributes.iter().map(|one| one.key.as_str()).collect();
            assert_eq!(keys.contains(&"msg_index"), dialect == Dialect::Sdk053);
        }
        for log in response.logs {
            let transfer = log.events.iter().find(|event| event.r#type == "transfer").unwrap();
            assert!(transfer.attributes.iter().any(|one| one.key == "recipient" && one.value == world.shop));
        }
    }
}

#[tokio::test]
async fn the_queries_say_what_is_there() {
    let world = World::new(Dialect::Sdk053).await;
    let mut bank = BankClient::new(world.channel.clone());
    let (address, denom) = (world.payer.address(), COSMOS_DENOM.to_owned());
    let request = bank::QueryBalanceRequest { address: address.clone(), denom: denom.clone() };
    let balance = bank.balance(request).await.unwrap().into_inner().balance.unwrap();
    assert_eq!((balance.denom.as_str(), balance.amount.as_str()), ("uusdc", "1000000"));
    let request = bank::QuerySpendableBalanceByDenomRequest { address, denom: denom.clone() };
    let spendable = bank.spendable_balance_by_denom(request).await.unwrap().into_inner().balance.unwrap();
    assert_eq!(spendable, balance);
    let request = bank::QuerySupplyOfRequest { denom: denom.clone() };
    assert_eq!(bank.supply_of(request).await.unwrap().into_inner().amount.unwrap().amount, "1000000");
    let request = bank::QueryDenomMetadataRequest { denom };
    let metadata = bank.denom_metadata(request).await.unwrap().into_inner().metadata.unwrap();
    assert!(metadata.denom_units.iter().any(|unit| unit.denom == metadata.display && unit.exponent == 6));

    let mut cmt = CmtClient::new(world.channel.clone());
    let info = cmt.get_node_info(cmt::GetNodeInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.default_node_info.unwrap().network, "grand-1");
    assert!(!cmt.get_syncing(cmt::GetSyncingRequest {}).await.unwrap().into_inner().syncing);
    let height = world.chain.produce_block();
    let latest = cmt.get_latest_block(cmt::GetLatestBlockRequest {}).await.unwrap().into_inner();
    let header = latest.block.unwrap().header.unwrap();
    assert_eq!((header.chain_id.as_str(), header.height), ("grand-1", i64::try_from(height).unwrap()));
    let at = |height| cmt::GetBlockByHeightRequest { height };
    let same = cmt.get_block_by_height(at(header.height)).await.unwrap().into_inner();
    assert_eq!(same.block_id.unwrap().hash, latest.block_id.unwrap().hash);
    assert_eq!(cmt.get_block_by_height(at(header.height + 1)).await.unwrap_err().code(), Code::InvalidArgument);
    let config = NodeClient::new(world.channel.clone()).config(ConfigRequest {}).await.unwrap().into_inner();
    assert_eq!(config.minimum_gas_price, "0.100000000000000000uusdc");
}

#[tokio::test]
async fn an_older_node_lacks_what_came_later() {
    let world = World::new(Dialect::Sdk043).await;
    let request =
        bank::QuerySpendableBalanceByDenomRequest { address: world.payer.address(), denom: COSMOS_DENOM.to_owned() };
    let spendable = BankClient::new(world.channel.clone()).spendable_balance_by_denom(request).await;
    assert_eq!(spendable.unwrap_err().code(), Code::Unimplemented);
    let config = NodeClient::new(world.channel.clone()).config(ConfigRequest {}).await;
    assert_eq!(config.unwrap_err().code(), Code::Unimplemented);
    let error = world.get_tx(b"nothing").await.unwrap_err();
    assert!(error.code() == Code::InvalidArgument && error.message().ends_with(") not found"), "{error}");
}

#[tokio::test]
async fn a_call_goes_wrong_as_often_as_was_asked_for_and_in_that_way() {
    let world = World::new(Dialect::Sdk053).await;
    let bytes = world.payment().direct();
    let request = || BroadcastTxRequest { tx_bytes: bytes.clone(), mode: 2 };
    let mut client = TxClient::new(world.channel.clone());
    world.chain.faults().set("BroadcastTx", CallFault::Unavailable, 1);
    assert_eq!(client.broadcast_tx(request()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(world.chain.waiting(), 0);
    world.chain.faults().set("BroadcastTx", CallFault::DropAnswer, 1);
    assert_eq!(client.broadcast_tx(request()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(world.chain.waiting(), 1);
    // A node that is started again has forgotten it and takes it again.
    world.chain.forget_mempool();
    assert_eq!((world.chain.waiting(), world.broadcast(bytes.clone()).await.0), (0, 0));
    world.chain.faults().set("GetTx", CallFault::Silent, 1);
    let silent = tokio::time::timeout(std::time::Duration::from_millis(100), world.get_tx(&bytes)).await;
    assert!(silent.is_err());
    world.chain.produce_block();
    assert_eq!(world.delivered(&bytes).await.0, 0);
}

#[tokio::test]
async fn a_kept_chain_opens_again_with_its_money_its_sequences_and_its_height() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Some(folder.path().join("cosmos.jsonl"));
    let params = CosmosParams { journal, block_time: None, ..CosmosParams::default() };
    let world = World::with(params.clone()).await;
    let bytes = world.payment().direct();
    world.broadcast(bytes.clone()).await;
    let height = world.chain.produce_block();
    world.chain.take(&world.shop, COSMOS_DENOM, 1).unwrap();
    let (payer, shop) = (world.payer.address(), world.shop.clone());
    let held = world.held(&payer);
    drop(world);
    let chain = CosmosChain::start(params).await.unwrap();
    assert_eq!((chain.balance(&payer, COSMOS_DENOM), chain.balance(&shop, COSMOS_DENOM)), (held, 999));
    assert_eq!(chain.account(&payer), Some((1, 1)));
    assert!(chain.height() > height);
    assert_eq!(chain.delivered().len(), 1);
    assert_eq!(chain.delivered()[0].bytes, bytes);
}

#[tokio::test]
async fn a_chain_makes_blocks_by_itself_unless_told_otherwise() {
    let block_time = Some(std::time::Duration::from_millis(20));
    let chain = CosmosChain::start(CosmosParams { block_time, ..CosmosParams::default() }).await.unwrap();
    let height = chain.height();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(chain.height() > height + 1);
}
