//! The scheme against a chain that checks everything for itself, and against payments that are wrong in every way.

mod chain;
mod forgery;
mod settling;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cosmrs::crypto::PublicKey;
use cosmrs::proto::Any;
use cosmrs::proto::cosmos::bank::v1beta1::MsgSend;
use cosmrs::proto::cosmos::base::v1beta1::Coin;
use cosmrs::proto::cosmos::tx::v1beta1::mode_info::{Single, Sum};
use cosmrs::proto::cosmos::tx::v1beta1::{AuthInfo, Fee, ModeInfo, SignDoc, SignerInfo, TxBody, TxRaw};
use cosmrs::proto::prost::Message;
use k256::ecdsa::signature::Signer;
use k256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};

use super::*;
use crate::chain::RpcOutcome;
use crate::config::{CosmosConfig, Location, Secret, WaitFor};
use crate::devnet::cosmos::{COSMOS_CHAIN_ID, COSMOS_DENOM, CosmosChain, CosmosParams};
use crate::ledger::{Attempt, Holder, NewAttempt, NewPayment, PaymentState, RecordId};
use crate::payment::scheme::AttemptError;
use crate::types::SystemClock;

pub(super) const NETWORK: &str = "cosmos:grand-1";
pub(super) const GAS: u64 = 100_000;
pub(super) const FEE: u64 = 10_000;
const DIRECT: i32 = 1;
pub(super) const AMINO: i32 = 127;
const LOOK_EVERY_IN_TESTS: Duration = Duration::from_millis(60);

pub(super) fn key(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 32]).unwrap()
}

pub(super) fn address_of(seed: u8) -> String {
    PublicKey::from(key(seed).verifying_key()).account_id("noble").unwrap().to_string()
}

pub(super) fn pay_to() -> String {
    address_of(99)
}

pub(super) fn coin(denom: &str, amount: u64) -> Coin {
    Coin { denom: denom.to_owned(), amount: amount.to_string() }
}

/// A payment in the making; every part of it can be spoilt.
#[derive(Clone)]
pub(super) struct Draft {
    pub seed: u8,
    pub chain_id: String,
    pub account_number: u64,
    pub mode: i32,
    pub send: MsgSend,
    pub body: TxBody,
    pub auth: AuthInfo,
}

impl Draft {
    pub(super) fn new(seed: u8, account_number: u64, sequence: u64) -> Self {
        let send =
            MsgSend { from_address: address_of(seed), to_address: pay_to(), amount: vec![coin(COSMOS_DENOM, 10_000)] };
        let public_key = Some(PublicKey::from(key(seed).verifying_key()).to_any().unwrap());
        let fee = Fee { amount: vec![coin(COSMOS_DENOM, FEE)], gas_limit: GAS, ..Fee::default() };
        let signer_infos = vec![SignerInfo { public_key, mode_info: None, sequence }];
        Self {
            seed,
            chain_id: COSMOS_CHAIN_ID.to_owned(),
            account_number,
            mode: DIRECT,
            send,
            body: TxBody::default(),
            auth: AuthInfo { signer_infos, fee: Some(fee), ..AuthInfo::default() },
        }
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(super) fn fee(&mut self) -> &mut Fee {
        self.auth.fee.as_mut().unwrap()
    }

    /// The transaction, unsigned.
    pub(super) fn parts(&self) -> TxRaw {
        let mut body = self.body.clone();
        if body.messages.is_empty() {
            let type_url = "/cosmos.bank.v1beta1.MsgSend".to_owned();
            body.messages = vec![Any { type_url, value: self.send.encode_to_vec() }];
        }
        let mut auth = self.auth.clone();
        for signer in &mut auth.signer_infos {
            signer.mode_info.get_or_insert(ModeInfo { sum: Some(Sum::Single(Single { mode: self.mode })) });
        }
        TxRaw { body_bytes: body.encode_to_vec(), auth_info_bytes: auth.encode_to_vec(), signatures: Vec::new() }
    }

    /// Signs whatever the parts hold.
    pub(super) fn sign(&self, parts: TxRaw) -> Vec<u8> {
        let document = if self.mode == AMINO { self.amino().into_bytes() } else { self.direct(&parts) };
        let signature: Signature = key(self.seed).sign(&document);
        TxRaw { signatures: vec![signature.to_vec()], ..parts }.encode_to_vec()
    }

    pub(super) fn raw(&self) -> Vec<u8> {
        self.sign(self.parts())
    }

    pub(super) fn payload(&self) -> Value {
        canonical(&self.raw())
    }

    fn direct(&self, parts: &TxRaw) -> Vec<u8> {
        SignDoc {
            body_bytes: parts.body_bytes.clone(),
            auth_info_bytes: parts.auth_info_bytes.clone(),
            chain_id: self.chain_id.clone(),
            account_number: self.account_number,
        }
        .encode_to_vec()
    }

    /// The text that a Ledger device signs, written out.
    fn amino(&self) -> String {
        let (number, chain, gas) = (self.account_number, &self.chain_id, self.auth.fee.as_ref().unwrap().gas_limit);
        let (MsgSend { from_address, to_address, .. }, memo) = (&self.send, &self.body.memo);
        let memo = memo.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
        let sequence = self.auth.signer_infos[0].sequence;
        let timeout = match self.body.timeout_height {
            0 => String::new(),
            height => format!(r#","timeout_height":"{height}""#),
        };
        format!(
            r#"{{"account_number":"{number}","chain_id":"{chain}","fee":{{"amount":[{{"amount":"{FEE}","denom":"uusdc"}}],"gas":"{gas}"}},"memo":"{memo}","msgs":[{{"type":"cosmos-sdk/MsgSend","value":{{"amount":[{{"amount":"10000","denom":"uusdc"}}],"from_address":"{from_address}","to_address":"{to_address}"}}}}],"sequence":"{sequence}"{timeout}}}"#
        )
    }
}

pub(super) fn canonical(raw: &[u8]) -> Value {
    json!({"transaction": STANDARD.encode(raw)})
}

pub(super) fn terms() -> PaymentRequirements {
    serde_json::from_value(json!({"scheme": "exact", "network": NETWORK, "amount": "10000", "asset": COSMOS_DENOM,
        "payTo": pay_to(), "maxTimeoutSeconds": 60, "extra": {}}))
    .unwrap()
}

pub(super) fn config(urls: &[String]) -> NetworkConfig {
    NetworkConfig {
        network: NETWORK.parse().unwrap(),
        name: "noble-testnet".to_owned(),
        chain: ChainConfig::Cosmos(CosmosConfig {
            grpc_urls: urls.iter().map(|url| Secret::new(url.clone())).collect(),
            bech32_prefix: "noble".to_owned(),
            requires_timeout_height: false,
        }),
        pay_to: AccountId::new(pay_to()).unwrap(),
        pay_to_exclusive: false,
        max_window: Duration::from_secs(3600),
        assets: vec![Asset {
            id: AssetId::new(COSMOS_DENOM).unwrap(),
            symbol: "USDC".to_owned(),
            decimals: 6,
            is_usd: true,
            eip712: None,
            allowed_extensions: Vec::new(),
        }],
        wait_for: WaitFor::Confirmed,
        settle_timeout: Duration::from_secs(30),
        settlements_max: 64,
        queue_timeout: Duration::from_secs(1),
        location: Location::default(),
    }
}

/// Counts calls.
#[derive(Default)]
pub(super) struct Calls(AtomicUsize);

impl ChainObserver for Calls {
    fn rpc(&self, _network: &Network, _method: &str, _outcome: RpcOutcome, _took: Duration) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Calls {
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Only the payer could sign other bytes.
pub(super) struct NoAttempts;

#[async_trait]
impl Attempts for NoAttempts {
    async fn record(&self, record: &RecordId, _attempt: NewAttempt) -> Result<(), AttemptError> {
        panic!("a further attempt for {record}");
    }
}

/// A gateway's side of one chain.
pub(super) struct Shop {
    pub scheme: Arc<CosmosScheme>,
    pub calls: Arc<Calls>,
}

impl Shop {
    pub(super) fn at(urls: &[String]) -> Self {
        let calls = Arc::new(Calls::default());
        let observer = Arc::clone(&calls) as Arc<dyn ChainObserver>;
        let clock = Arc::new(SystemClock);
        let scheme = CosmosScheme::connect_looking_every(&config(urls), clock, observer, LOOK_EVERY_IN_TESTS).unwrap();
        Self { scheme, calls }
    }

    /// One whose chain nobody can ask.
    pub(super) fn offline() -> Self {
        Self::at(&["http://127.0.0.1:9".to_owned()])
    }

    /// Decodes and compares: everything that needs no chain.
    pub(super) fn check(
        &self,
        payload: &Value,
        terms: &PaymentRequirements,
    ) -> Result<Box<dyn IncomingPayment>, Reason> {
        let payment = self.scheme.decode(payload, terms)?;
        payment.check(terms, SystemClock.now())?;
        Ok(payment)
    }

    /// Everything up to the claim.
    pub(super) async fn verify(&self, payload: &Value) -> Result<NewAttempt, VerifyError> {
        let payment = self.check(payload, &terms())?;
        payment.prove(&terms()).await?;
        let plan = payment.simulate(&terms()).await?;
        assert_eq!(plan.signer(), None);
        Ok(plan.sign(None).unwrap())
    }

    /// A row as the ledger would hold it, whatever the chain would have said of it.
    pub(super) fn record(&self, payload: &Value) -> PaymentRecord {
        let payment = self.scheme.decode(payload, &terms()).unwrap();
        let facts = payment.facts();
        let raw = STANDARD.decode(facts.payload["transaction"].as_str().unwrap()).unwrap();
        let signed = NewAttempt {
            signer: None,
            account_nonce: None,
            transaction: decode::transaction_hash(&raw),
            raw,
            fee_max: "0".to_owned(),
        };
        let now = SystemClock.now();
        PaymentRecord {
            record: RecordId("pay_1".to_owned()),
            claim: NewPayment {
                id: facts.id.clone(),
                payload_digest: facts.digest,
                fingerprint: [2; 32],
                redeliverable: true,
                holder: Holder::Quote([3; 32]),
                route: "GET /a".to_owned(),
                request: "GET /a".to_owned(),
                terms: serde_json::to_string(&terms()).unwrap(),
                wait_for: "confirmed".to_owned(),
                confirmations: 1,
                pay_to_exclusive: false,
                network: NETWORK.parse().unwrap(),
                asset: facts.asset.clone(),
                payer: facts.payer.clone(),
                pay_to: facts.pay_to.clone(),
                amount: facts.amount,
                payload: facts.payload.to_string(),
                valid_until: facts.valid_until,
                signer: None,
                identifier: None,
                claimed_at: now,
            },
            state: PaymentState::Signed,
            attempts: vec![Attempt { number: 1, signed, signed_at: now }],
            settlement: None,
            paid_at: None,
            deliveries: 0,
            failure: None,
            failed_transaction: None,
            fee: None,
            resolution: None,
            updated_at: now,
        }
    }
}

/// A chain and a gateway that has opened it; the payer with seed 1 has money.
pub(super) struct World {
    pub chain: CosmosChain,
    pub shop: Shop,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with(|_params| {}).await
    }

    /// Blocks are made only on demand unless `change` says otherwise.
    pub(super) async fn with(change: impl FnOnce(&mut CosmosParams)) -> Self {
        let mut params = CosmosParams { block_time: None, ..CosmosParams::default() };
        change(&mut params);
        let chain = CosmosChain::start(params).await.unwrap();
        // So that no account number is a default.
        chain.fund(&address_of(50), COSMOS_DENOM, 1).unwrap();
        chain.fund(&address_of(1), COSMOS_DENOM, 1_000_000).unwrap();
        let shop = Shop::at(&[chain.grpc_url()]);
        shop.scheme.verify_chain().await.unwrap();
        shop.scheme.open(&[]);
        Self { chain, shop }
    }

    /// A payment of the payer that is good now.
    pub(super) fn draft(&self) -> Draft {
        let (number, sequence) = self.chain.account(&address_of(1)).unwrap();
        Draft::new(1, number, sequence)
    }

    pub(super) fn settle(&self, payload: &Value) -> tokio::task::JoinHandle<SettleOutcome> {
        let (scheme, record) = (Arc::clone(&self.shop.scheme), self.shop.record(payload));
        tokio::spawn(async move { scheme.settle(&record, &NoAttempts).await })
    }

    pub(super) async fn blocks(&self, count: u64) {
        for _ in 0..count {
            self.chain.produce_block();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until something is so.
    pub(super) async fn until(&self, what: &str, is_so: impl Fn(&CosmosChain) -> bool) {
        for _ in 0..1000 {
            if is_so(&self.chain) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not in ten seconds: {what}");
    }
}

pub(super) async fn ended(task: tokio::task::JoinHandle<SettleOutcome>) -> SettleOutcome {
    tokio::time::timeout(Duration::from_secs(20), task).await.expect("no end in time").unwrap()
}

pub(super) fn invalid(result: Result<NewAttempt, VerifyError>) -> Reason {
    match result {
        Err(VerifyError::Invalid { reason }) => reason,
        other => panic!("{other:?}"),
    }
}
