//! A shop that is paid on a Cosmos chain, and the audit at its end.

#[path = "../../../src/devnet/cosmos/tests/signer.rs"]
mod signer;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tollhouse::devnet::cosmos::{COSMOS_DENOM, CosmosChain, CosmosParams, Dialect, EventForm};
use tollhouse::ledger::{PaymentFilter, PaymentRecord, PaymentState, SqliteReader};

use super::gateway::Gateway;
use super::http::{Answer, Call, decode_header};
use super::origin::Origin;
use super::payer::Header;
use super::shop::paid;
use super::{encode, eventually, free_port};

pub use signer::{Payment as Transfer, Signer as Wallet};

/// What `/api/data` costs: a cent.
pub const PRICE: u128 = 10_000;
/// What the payer has at first.
const FUNDS: u128 = 10_000_000;
/// Times a paid request may reach the origin (contract §3).
const DELIVERIES_MAX: usize = 2;

/// What a test wants to be different.
pub struct CosmosPlan {
    pub dialect: Dialect,
    pub events: EventForm,
    /// `None` makes blocks only when the test does.
    pub block_time: Option<Duration>,
    /// `FAILPOINTS`.
    pub failpoints: String,
}

impl Default for CosmosPlan {
    fn default() -> Self {
        Self {
            dialect: Dialect::Sdk053,
            events: EventForm::Plain,
            block_time: Some(Duration::from_millis(200)),
            failpoints: String::new(),
        }
    }
}

pub struct CosmosShop {
    plan: CosmosPlan,
    gateway: Option<Gateway>,
    pub chain: CosmosChain,
    pub origin: Origin,
    pub payer: Wallet,
    pub pay_to: String,
    pub port: u16,
    admin_port: u16,
    directory: TempDir,
}

impl CosmosShop {
    pub async fn open() -> Self {
        Self::open_with(CosmosPlan::default()).await
    }

    /// Opens for business: the network is open when this returns.
    pub async fn open_with(plan: CosmosPlan) -> Self {
        let (dialect, events, block_time) = (plan.dialect, plan.events, plan.block_time);
        let params = CosmosParams { dialect, events, block_time, ..CosmosParams::default() };
        let chain = CosmosChain::start(params).await.unwrap();
        let (payer, pay_to) = (Wallet::new(7), Wallet::new(8).address());
        chain.fund(&Wallet::new(1).address(), "uatom", 1).unwrap();
        chain.fund(&payer.address(), COSMOS_DENOM, FUNDS).unwrap();
        let origin = Origin::start().await;
        let directory = tempfile::tempdir().unwrap();
        let mut shop = Self { plan, gateway: None, chain, origin, payer, pay_to, port: 0, admin_port: 0, directory };
        shop.start().await;
        shop
    }

    pub fn gateway(&mut self) -> &mut Gateway {
        self.gateway.as_mut().expect("the gateway was started")
    }

    pub fn config(&self) -> PathBuf {
        self.directory.path().join("gateway.toml")
    }

    /// Starts the gateway and waits until it takes payments.
    pub async fn start(&mut self) {
        for _ in 0..5 {
            let mut gateway = self.launch();
            let is_up = gateway.wait_ok(self.admin_port, "/readyz").await;
            let log = gateway.log();
            self.gateway = Some(gateway);
            if is_up {
                return;
            }
            // Somebody else took the port meanwhile.
            assert!(log.contains("can't listen on"), "the gateway ended:\n{log}");
        }
        panic!("the gateway found no ports");
    }

    fn launch(&mut self) -> Gateway {
        (self.port, self.admin_port) = (free_port(), free_port());
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{}\"\n[admin]\nlisten = \"127.0.0.1:{}\"\n\
             [log]\nlevel = \"info,tollhouse=debug\"\n[upstreams.api]\nservers = [\"127.0.0.1:{}\"]\n\
             [networks.grand-1]\ngrpc_url = \"{}\"\npay_to = \"{}\"\nsettle_timeout = \"3s\"\n\
             [routes]\n\"GET /api/data\" = \"$0.01\"\n",
            self.port,
            self.admin_port,
            self.origin.port,
            self.chain.grpc_url(),
            self.pay_to
        );
        std::fs::write(self.config(), text).unwrap();
        let environment = [("FAILPOINTS", self.plan.failpoints.clone())];
        let wanted = usize::from(!self.plan.failpoints.is_empty());
        Gateway::spawn(&self.config(), &environment[..wanted], None)
    }

    /// Kills and starts the gateway, now without fail points.
    pub async fn restart(&mut self) {
        self.gateway().kill();
        self.plan.failpoints.clear();
        self.start().await;
    }

    /// The one offer of a 402.
    pub async fn offer(&self) -> Value {
        let answer = Call::get("/api/data").send(self.port).await.unwrap();
        assert_eq!(answer.status, 402, "{answer:?}");
        let terms = decode_header(answer.header("payment-required").unwrap());
        let offers = terms["accepts"].as_array().unwrap();
        assert_eq!(offers.len(), 1);
        offers[0].clone()
    }

    /// A transfer that is right in every way, as the payer would sign it now.
    pub fn transfer(&self) -> Transfer {
        let (number, sequence) = self.chain.account(&self.payer.address()).unwrap();
        let mut transfer = Transfer::new(&self.payer, &self.pay_to, number, sequence);
        transfer.amount = PRICE;
        transfer.timeout_height = self.chain.height() + 100;
        transfer
    }

    /// An honest payment, not presented yet.
    pub async fn payment(&self) -> Header {
        cosmos_header(&self.offer().await, &self.transfer().direct())
    }

    pub async fn try_present(&self, header: &Header) -> std::io::Result<Answer> {
        paid(header).send(self.port).await
    }

    pub async fn present(&self, header: &Header) -> Answer {
        self.try_present(header).await.unwrap()
    }

    /// Pays and gets the answer.
    pub async fn buy(&self) {
        let answer = self.present(&self.payment().await).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Presents a payment until it is neither in progress nor pending.
    pub async fn present_until_decided(&self, header: &Header) -> Answer {
        eventually("a decision", Duration::from_secs(60), || async {
            let answer = self.present(header).await;
            let is_undecided = matches!(answer.status, 409 | 503);
            assert!(!(is_undecided && answer.has_terms()), "terms while undecided: {answer:?}");
            (!is_undecided).then_some(answer)
        })
        .await
    }

    /// All rows of the books, newest first.
    pub async fn rows(&self) -> Vec<PaymentRecord> {
        let reader = SqliteReader::open(&self.directory.path().join("tollhouse.db")).await.unwrap();
        let rows = reader.list(&PaymentFilter::default()).await.unwrap();
        reader.close().await;
        rows
    }

    pub async fn wait_state(&self, state: PaymentState) -> PaymentRecord {
        eventually(&format!("a row that is {state}"), Duration::from_secs(20), || async {
            self.rows().await.into_iter().find(|row| row.state == state)
        })
        .await
    }

    pub fn hits(&self) -> usize {
        self.origin.hits().len()
    }

    /// What the shop was sent.
    pub fn earned(&self) -> u128 {
        self.chain.balance(&self.pay_to, COSMOS_DENOM)
    }

    /// Chain, books, origin and log must tell one story (threats §0.4).
    pub async fn audit(mut self) {
        let delivered = self.chain.delivered();
        let rows = self.rows().await;
        let moved: HashMap<String, u64> =
            delivered.iter().filter(|tx| tx.code == 0).map(|tx| (hash_of(&tx.bytes), tx.height)).collect();
        for (hash, height) in &moved {
            let settled_by = |row: &&PaymentRecord| {
                row.settlement.as_ref().is_some_and(|settlement| settlement.transaction == *hash)
            };
            let own: Vec<_> = rows.iter().filter(settled_by).collect();
            assert_eq!(own.len(), 1, "I3: rows of {hash}");
            let has_recourse = matches!(
                own[0].state,
                PaymentState::Paid | PaymentState::Delivering | PaymentState::Served | PaymentState::Owed
            );
            assert!(has_recourse, "I3: {:?}", own[0]);
            assert_eq!(own[0].settlement.as_ref().unwrap().block, *height);
        }
        let sum = PRICE * u128::try_from(moved.len()).unwrap();
        assert_eq!(self.earned(), sum, "I4");
        let mut hits: HashMap<String, usize> = HashMap::new();
        for hit in self.origin.hits() {
            let hash = hit.header("x-payment-transaction").expect("I1: a priced hit without payment").to_owned();
            assert!(moved.contains_key(&hash), "I1: {hash} moved nothing");
            *hits.entry(hash).or_default() += 1;
        }
        assert!(hits.values().all(|count| *count <= DELIVERIES_MAX), "I2: {hits:?}");
        // I5: what the node was sent is in the books.
        let known: Vec<&str> =
            rows.iter().flat_map(|row| &row.attempts).map(|attempt| attempt.signed.transaction.as_str()).collect();
        for bytes in self.chain.broadcasts() {
            assert!(known.contains(&hash_of(&bytes).as_str()), "I5: sent but not written");
        }
        let log = std::fs::read_to_string(self.directory.path().join("gateway.log")).unwrap();
        for row in &rows {
            let payload: Value = serde_json::from_str(&row.claim.payload).unwrap();
            assert!(!log.contains(payload["transaction"].as_str().unwrap()), "I8: a signed transaction is in the log");
        }
        self.gateway().kill();
    }
}

fn hash_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The v2 payment with a signed transaction.
pub fn cosmos_header(offer: &Value, transaction: &[u8]) -> Header {
    let payload = json!({"transaction": STANDARD.encode(transaction)});
    ("PAYMENT-SIGNATURE", encode(&json!({"x402Version": 2, "accepted": offer, "payload": payload})))
}
