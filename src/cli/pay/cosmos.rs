//! A payment on a Cosmos chain: one `MsgSend`, signed by the payer, who pays its fee too (docs/cosmos-exact.md).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cosmrs::crypto::PublicKey;
use cosmrs::crypto::secp256k1::SigningKey;
use cosmrs::proto::Any;
use cosmrs::proto::cosmos::auth::v1beta1::query_client::QueryClient as AuthClient;
use cosmrs::proto::cosmos::auth::v1beta1::{BaseAccount, QueryAccountRequest};
use cosmrs::proto::cosmos::bank::v1beta1::MsgSend;
use cosmrs::proto::cosmos::base::node::v1beta1::ConfigRequest;
use cosmrs::proto::cosmos::base::node::v1beta1::service_client::ServiceClient as NodeClient;
use cosmrs::proto::cosmos::base::tendermint::v1beta1::service_client::ServiceClient as CmtClient;
use cosmrs::proto::cosmos::base::tendermint::v1beta1::{
    GetBlockByHeightRequest, GetLatestBlockRequest, GetNodeInfoRequest,
};
use cosmrs::proto::cosmos::base::v1beta1::Coin;
use cosmrs::proto::cosmos::crypto::secp256k1::PubKey;
use cosmrs::proto::cosmos::tx::v1beta1::mode_info::{Single, Sum};
use cosmrs::proto::cosmos::tx::v1beta1::{AuthInfo, Fee, ModeInfo, SignDoc, SignerInfo, TxBody, TxRaw};
use cosmrs::proto::prost::Message;
use cosmrs::proto::tendermint::types::Header;
use reqwest::Url;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::choose::BankSend;
use crate::types::{AtomicAmount, Price};

/// Gas of one transfer, with room: real chains take some 70,000 to 100,000.
pub const GAS_DEFAULT: u64 = 120_000;

/// Longest wait for an answer of the node.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// How far back a block is read to learn how fast the chain makes them.
const PACE_BLOCKS: i64 = 20;
/// What is believed of a chain's pace where it can't be learned, and between which limits.
const PACE_MILLIS: (u64, u64, u64) = (6_000, 500, 60_000);

/// Blocks that a payment is given at least.
const TIMEOUT_BLOCKS_MIN: u64 = 5;

/// Why no transaction could be made.
#[derive(Debug, thiserror::Error)]
pub enum CosmosError {
    /// No node to ask.
    #[error("a payment on Cosmos needs the payer's sequence: name a node with --grpc-url URL")]
    NoNode,
    /// The node's address is none.
    #[error("expected an http or https URL as --grpc-url")]
    Url,
    /// The node doesn't answer, or not as a node does.
    #[error("can't ask the Cosmos node for {0}: {1}")]
    Node(&'static str, String),
    /// Another chain's node.
    #[error("the node is on chain {found}, and the offer is for {wanted}")]
    OtherChain {
        /// The offer's.
        wanted: String,
        /// The node's.
        found: String,
    },
    /// Nobody ever sent the payer anything.
    #[error("the account {0} is not on this chain yet: it has never been sent anything")]
    NoAccount(String),
    /// The node doesn't say what gas costs.
    #[error("the node does not say what gas costs: give the fee as --fee '12000 uusdc'")]
    NoGasPrice,
    /// The key is no key of such a chain.
    #[error("the key can't sign for this chain")]
    Key,
    /// A number that doesn't fit.
    #[error("the node's numbers are out of range")]
    Range,
}

/// What the payer may say about gas and its price.
#[derive(Debug, Clone, Default)]
pub struct FeeChoice {
    /// Gas limit.
    pub gas: Option<u64>,
    /// The whole fee.
    pub fee: Option<FeeCoin>,
}

/// A fee in one coin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeeCoin {
    /// In atomic units.
    pub amount: AtomicAmount,
    /// Of this denomination.
    pub denom: String,
}

impl std::str::FromStr for FeeCoin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<Price>() {
            Ok(Price::Atomic { amount, asset }) => Ok(Self { amount, denom: asset }),
            _ => Err(format!("expected atomic units and a denomination such as '12000 uusdc', got {text:?}")),
        }
    }
}

impl std::fmt::Display for FeeCoin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.amount, self.denom)
    }
}

/// What only a node knows, and what was chosen by it.
#[derive(Debug, Clone)]
pub struct Recent {
    /// The payer's number on the chain.
    pub account_number: u64,
    /// How many transactions it has signed.
    pub sequence: u64,
    /// The last block that may hold the payment.
    pub timeout_height: u64,
    /// Gas limit.
    pub gas: u64,
    /// The fee; none where the node wants none.
    pub fee: Option<FeeCoin>,
}

/// The payer's key.
#[derive(Clone)]
pub struct CosmosKey(Zeroizing<[u8; 32]>);

impl CosmosKey {
    /// Takes a secret.
    #[must_use]
    pub fn new(secret: Zeroizing<[u8; 32]>) -> Self {
        Self(secret)
    }

    fn signer(&self) -> Result<SigningKey, CosmosError> {
        SigningKey::from_slice(self.0.as_slice()).map_err(|_error| CosmosError::Key)
    }

    fn public_key(&self) -> Result<PublicKey, CosmosError> {
        Ok(self.signer()?.public_key())
    }

    /// The payer's address on a chain with this prefix.
    ///
    /// # Errors
    /// When the key or the prefix is none.
    pub fn address(&self, prefix: &str) -> Result<String, CosmosError> {
        let account = self.public_key()?.account_id(prefix).map_err(|_error| CosmosError::Key)?;
        Ok(account.to_string())
    }
}

/// Asks a node for what a transfer needs. The payment can be included for about `window`.
///
/// # Errors
/// When the node can't tell, or is on another chain.
pub async fn recent(
    node: &Url,
    payer: &str,
    send: &BankSend,
    window: Duration,
    choice: &FeeChoice,
) -> Result<Recent, CosmosError> {
    let channel = channel(node).await?;
    let mut cmt = CmtClient::new(channel.clone());
    let info = cmt.get_node_info(GetNodeInfoRequest {}).await.map_err(|error| failed("its chain", &error))?;
    let found = info.into_inner().default_node_info.unwrap_or_default().network;
    if found != send.chain_id {
        return Err(CosmosError::OtherChain { wanted: send.chain_id.clone(), found });
    }
    let timeout_height = timeout_height(&mut cmt, window).await?;
    let (account_number, sequence) = account(channel.clone(), payer).await?;
    let gas = choice.gas.unwrap_or(GAS_DEFAULT);
    let fee = match &choice.fee {
        Some(fee) => Some(fee.clone()),
        None => least_fee(channel, gas, &send.denom).await?,
    };
    Ok(Recent { account_number, sequence, timeout_height, gas, fee })
}

async fn channel(node: &Url) -> Result<Channel, CosmosError> {
    let mut endpoint = Endpoint::from_shared(node.to_string()).map_err(|_error| CosmosError::Url)?;
    match node.scheme() {
        "http" => {}
        "https" => {
            let tls = ClientTlsConfig::new().with_native_roots();
            endpoint = endpoint.tls_config(tls).map_err(|_error| CosmosError::Url)?;
        }
        _ => return Err(CosmosError::Url),
    }
    let endpoint = endpoint.connect_timeout(CALL_TIMEOUT).timeout(CALL_TIMEOUT);
    endpoint.connect().await.map_err(|_error| CosmosError::Node("anything", "it can't be reached".to_owned()))
}

fn failed(what: &'static str, status: &Status) -> CosmosError {
    CosmosError::Node(what, status.message().to_owned())
}

async fn account(channel: Channel, payer: &str) -> Result<(u64, u64), CosmosError> {
    let what = "the payer's account";
    let request = QueryAccountRequest { address: payer.to_owned() };
    let answer = AuthClient::new(channel).account(request).await.map_err(|error| match error.code() {
        Code::NotFound => CosmosError::NoAccount(payer.to_owned()),
        _ => failed(what, &error),
    })?;
    let unusual = || CosmosError::Node(what, "it is no plain account".to_owned());
    let any = answer.into_inner().account.filter(|any| any.type_url == "/cosmos.auth.v1beta1.BaseAccount");
    let account = BaseAccount::decode(any.ok_or_else(unusual)?.value.as_slice()).map_err(|_error| unusual())?;
    Ok((account.account_number, account.sequence))
}

/// The height that the chain will have after about `window`.
async fn timeout_height(cmt: &mut CmtClient<Channel>, window: Duration) -> Result<u64, CosmosError> {
    let what = "its latest block";
    let latest = cmt.get_latest_block(GetLatestBlockRequest {}).await.map_err(|error| failed(what, &error))?;
    let latest = latest.into_inner().block.and_then(|block| block.header);
    let latest = latest.ok_or_else(|| CosmosError::Node(what, "it has no header".to_owned()))?;
    let earlier = GetBlockByHeightRequest { height: latest.height.saturating_sub(PACE_BLOCKS).max(1) };
    // A node may have forgotten it.
    let earlier = cmt.get_block_by_height(earlier).await.ok();
    let earlier = earlier.and_then(|answer| answer.into_inner().block).and_then(|block| block.header);
    let pace = earlier.and_then(|earlier| pace_millis(&earlier, &latest)).unwrap_or(PACE_MILLIS.0);
    let pace = pace.clamp(PACE_MILLIS.1, PACE_MILLIS.2);
    let blocks = u64::try_from(window.as_millis()).map_err(|_error| CosmosError::Range)? / pace;
    let height = u64::try_from(latest.height).map_err(|_error| CosmosError::Range)?;
    height.checked_add(blocks.max(TIMEOUT_BLOCKS_MIN)).ok_or(CosmosError::Range)
}

fn pace_millis(earlier: &Header, later: &Header) -> Option<u64> {
    let seconds = later.time.as_ref()?.seconds.checked_sub(earlier.time.as_ref()?.seconds)?;
    let blocks = later.height.checked_sub(earlier.height).filter(|blocks| *blocks > 0)?;
    u64::try_from(seconds.checked_mul(1000)?.checked_div(blocks)?).ok()
}

/// The node's minimum for this gas, in the coin that is paid if the node takes it.
async fn least_fee(channel: Channel, gas: u64, denom: &str) -> Result<Option<FeeCoin>, CosmosError> {
    let answer = NodeClient::new(channel).config(ConfigRequest {}).await.map_err(|error| match error.code() {
        // Before SDK 0.46 nodes don't tell.
        Code::Unimplemented => CosmosError::NoGasPrice,
        _ => failed("its gas price", &error),
    })?;
    let prices = answer.into_inner().minimum_gas_price;
    let mut parts = prices.split(',').filter(|part| !part.is_empty());
    let preferred =
        parts.clone().find(|part| part.ends_with(denom) && fee_at(part, gas).is_some_and(|fee| fee.denom == denom));
    match preferred.or_else(|| parts.next()) {
        None => Ok(None),
        Some(price) => {
            fee_at(price, gas).ok_or(CosmosError::NoGasPrice).map(|fee| Some(fee).filter(|fee| !fee.amount.is_zero()))
        }
    }
}

/// The cost of gas at a price such as `0.025uatom`, rounded up.
fn fee_at(price: &str, gas: u64) -> Option<FeeCoin> {
    let end = price.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
    let (number, denom) = price.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let scaled: u128 = format!("{whole}{fraction}").parse().ok()?;
    let amount = scaled.checked_mul(u128::from(gas))?.div_ceil(scale).to_string().parse().ok()?;
    Some(FeeCoin { amount, denom: denom.to_owned() })
}

/// The payment in base64: `TxRaw` with one `MsgSend`, in `SIGN_MODE_DIRECT`.
///
/// # Errors
/// When the key is none.
pub fn transaction(
    key: &CosmosKey,
    send: &BankSend,
    amount: AtomicAmount,
    recent: &Recent,
) -> Result<String, CosmosError> {
    let coin = |amount: AtomicAmount, denom: &str| Coin { denom: denom.to_owned(), amount: amount.to_string() };
    let message = MsgSend {
        from_address: key.address(&send.prefix)?,
        to_address: send.pay_to.clone(),
        amount: vec![coin(amount, &send.denom)],
    };
    let body = TxBody {
        messages: vec![Any { type_url: "/cosmos.bank.v1beta1.MsgSend".to_owned(), value: message.encode_to_vec() }],
        memo: send.memo.clone(),
        timeout_height: recent.timeout_height,
        ..TxBody::default()
    };
    let public_key = Any {
        type_url: "/cosmos.crypto.secp256k1.PubKey".to_owned(),
        value: PubKey { key: key.public_key()?.to_bytes() }.encode_to_vec(),
    };
    // 1: SIGN_MODE_DIRECT.
    let mode_info = Some(ModeInfo { sum: Some(Sum::Single(Single { mode: 1 })) });
    let amount = recent.fee.iter().map(|fee| coin(fee.amount, &fee.denom)).collect();
    let auth_info = AuthInfo {
        signer_infos: vec![SignerInfo { public_key: Some(public_key), mode_info, sequence: recent.sequence }],
        fee: Some(Fee { amount, gas_limit: recent.gas, ..Fee::default() }),
        ..AuthInfo::default()
    };
    let (body_bytes, auth_info_bytes) = (body.encode_to_vec(), auth_info.encode_to_vec());
    let document = SignDoc {
        body_bytes: body_bytes.clone(),
        auth_info_bytes: auth_info_bytes.clone(),
        chain_id: send.chain_id.clone(),
        account_number: recent.account_number,
    };
    let signature = key.signer()?.sign(&document.encode_to_vec()).map_err(|_error| CosmosError::Key)?;
    let raw = TxRaw { body_bytes, auth_info_bytes, signatures: vec![signature.to_vec()] };
    Ok(STANDARD.encode(raw.encode_to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devnet::cosmos::{COSMOS_CHAIN_ID, COSMOS_DENOM, CosmosChain, CosmosParams, Dialect};

    fn key() -> CosmosKey {
        CosmosKey::new(Zeroizing::new([7; 32]))
    }

    fn send(chain_id: &str) -> BankSend {
        BankSend {
            chain_id: chain_id.to_owned(),
            prefix: "noble".to_owned(),
            denom: COSMOS_DENOM.to_owned(),
            pay_to: CosmosKey::new(Zeroizing::new([8; 32])).address("noble").unwrap(),
            memo: String::new(),
        }
    }

    #[test]
    fn a_fee_is_the_price_of_its_gas_rounded_up() {
        for (price, gas, fee) in [
            ("0.100000000000000000uusdc", 120_000, "12000 uusdc"),
            ("0.0015ibc/AB", 1001, "2 ibc/AB"),
            ("3uatom", 7, "21 uatom"),
        ] {
            assert_eq!(fee_at(price, gas).unwrap().to_string(), fee);
        }
        for bad in ["", "uatom", "1", "0..1uatom"] {
            assert_eq!(fee_at(bad, 1), None, "{bad}");
        }
    }

    #[test]
    fn the_documents_direct_vectors_are_what_is_signed_here() {
        let document = include_str!("../../../docs/cosmos-exact.md");
        let mut made = 0;
        for block in document.split("```json vector\n").skip(1) {
            let vector: serde_json::Value = serde_json::from_str(block.split("```").next().unwrap()).unwrap();
            let sign = &vector["sign"];
            if sign["mode"] == "amino" {
                continue;
            }
            let text = |key: &str| sign[key].as_str().unwrap().to_owned();
            let key = CosmosKey::new(Zeroizing::new([1; 32]));
            assert_eq!(key.address("noble").unwrap(), vector["address"]);
            let send = BankSend {
                chain_id: text("chainId"),
                prefix: text("prefix"),
                denom: text("denom"),
                pay_to: text("to"),
                memo: text("memo"),
            };
            let recent = Recent {
                account_number: sign["accountNumber"].as_u64().unwrap(),
                sequence: sign["sequence"].as_u64().unwrap(),
                timeout_height: sign["timeoutHeight"].as_u64().unwrap(),
                gas: text("gas").parse().unwrap(),
                fee: Some(FeeCoin { amount: text("feeAmount").parse().unwrap(), denom: text("denom") }),
            };
            let transaction = transaction(&key, &send, text("amount").parse().unwrap(), &recent).unwrap();
            assert_eq!(transaction, vector["transaction"], "{}", vector["name"]);
            made += 1;
        }
        assert_eq!(made, 2);
    }

    #[tokio::test]
    async fn what_is_signed_is_what_a_chain_takes() {
        let params = CosmosParams { block_time: None, ..CosmosParams::default() };
        let chain = CosmosChain::start(params).await.unwrap();
        let payer = key().address("noble").unwrap();
        let node: Url = chain.grpc_url().parse().unwrap();
        let window = Duration::from_secs(60);
        let choice = FeeChoice::default();
        let unknown = recent(&node, &payer, &send(COSMOS_CHAIN_ID), window, &choice).await;
        assert!(matches!(unknown, Err(CosmosError::NoAccount(_))));
        chain.fund(&payer, COSMOS_DENOM, 1_000_000).unwrap();
        let other = recent(&node, &payer, &send("noble-1"), window, &choice).await;
        assert!(matches!(other, Err(CosmosError::OtherChain { .. })));
        let known = recent(&node, &payer, &send(COSMOS_CHAIN_ID), window, &choice).await.unwrap();
        assert_eq!(known.fee.as_ref().map(ToString::to_string).as_deref(), Some("12000 uusdc"));
        assert!(known.timeout_height > chain.height());
        let text = transaction(&key(), &send(COSMOS_CHAIN_ID), 1000_u64.into(), &known).unwrap();
        assert!(chain.hand_in(&STANDARD.decode(text).unwrap()).is_ok());
        chain.produce_block();
        assert_eq!(chain.balance(&send("").pay_to, COSMOS_DENOM), 1000);
        assert_eq!(chain.balance(&payer, COSMOS_DENOM), 1_000_000 - 1000 - 12_000);
    }

    #[tokio::test]
    async fn an_older_node_does_not_say_what_gas_costs_so_the_payer_must() {
        let params = CosmosParams { block_time: None, dialect: Dialect::Sdk043, ..CosmosParams::default() };
        let chain = CosmosChain::start(params).await.unwrap();
        let payer = key().address("noble").unwrap();
        chain.fund(&payer, COSMOS_DENOM, 1_000_000).unwrap();
        let node: Url = chain.grpc_url().parse().unwrap();
        let (offer, window) = (send(COSMOS_CHAIN_ID), Duration::from_secs(60));
        let silent = recent(&node, &payer, &offer, window, &FeeChoice::default()).await;
        assert!(matches!(silent, Err(CosmosError::NoGasPrice)));
        let choice = FeeChoice { gas: Some(90_000), fee: Some("9000 uusdc".parse().unwrap()) };
        let known = recent(&node, &payer, &offer, window, &choice).await.unwrap();
        assert_eq!((known.gas, known.fee), (90_000, choice.fee));
    }
}
