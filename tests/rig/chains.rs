//! The chains that the rig's shop is paid on: nodes, payers, and what moved, read from the chain itself.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use alloy::consensus::TxEnvelope;
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::SolEvent;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use solana_keypair::Keypair;
use solana_signer::Signer;
use solana_transaction::versioned::VersionedTransaction;
use spl_associated_token_account_interface::address::get_associated_token_address as token_account;
use tollhouse::devnet::cosmos::{COSMOS_DENOM, CosmosChain, CosmosParams};

use crate::harness::for_rig::{SOLANA_PAY_TO, SOLANA_USDC, SolanaPayer};
use crate::harness::{
    Chain, Node, OTHER_SIGNER, PAY_TO, Payer, Plan, SIGNER, SolanaNode, THIRD_SIGNER, Terms, Transfer, USDC, Wallet,
    encode,
};

pub const EVM: &str = "evm";
pub const SOLANA: &str = "solana";
pub const COSMOS: &str = "cosmos";

/// What each request costs on each chain: a cent.
pub const PRICE: u64 = 10_000;
/// What each payer has at first; more than it can spend in an epoch.
const FUNDS: u64 = 100_000 * PRICE;
/// The gas that EVM settlements may use comes from this account, anvil's own.
const FEE_COSMOS: u128 = 10_000;
/// How long a Cosmos payment stands: five minutes.
const COSMOS_BLOCKS: u64 = 600;
const COSMOS_BLOCK_TIME: Duration = Duration::from_millis(500);
/// How often the EVM chain's clock moves though nobody pays.
const EVM_BLOCK_TIME: Duration = Duration::from_secs(1);
/// A node that was told to mine no more has done so when its height stands still for so long.
const EVM_STILL: Duration = Duration::from_millis(300);

/// Money that arrived at the shop.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub chain: &'static str,
    pub key: String,
    pub payer: String,
    pub transaction: String,
    pub value: u128,
}

/// What the chain's accounts say, beside its transfers.
#[derive(Debug, Clone, Copy)]
pub struct Sums {
    pub debited: u128,
    pub credited: u128,
}

/// A signed payment.
pub struct Signed {
    pub key: String,
    /// As x402 v2 JSON.
    pub json: Value,
    /// As v1, where the chain's clients know it.
    pub v1: Option<Value>,
}

/// Somebody who pays on one of the chains.
pub enum Wallets {
    Evm(Payer),
    Solana(SolanaPayer),
    Cosmos(Wallet),
}

pub struct Chains {
    pub evm: Option<Arc<Node>>,
    /// Held by whoever makes the EVM node mine, or take back.
    evm_mining: Arc<tokio::sync::Mutex<()>>,
    pub solana: Option<SolanaNode>,
    pub cosmos: Option<CosmosChain>,
    cosmos_pay_to: String,
}

/// Mines a block a second as long as the node is there: once told to stop, anvil can't be told to mine both at once and on time.
async fn tick(node: Weak<Node>, mining: Arc<tokio::sync::Mutex<()>>) {
    loop {
        tokio::time::sleep(EVM_BLOCK_TIME).await;
        let Some(node) = node.upgrade() else { return };
        let _nobody_else = mining.lock().await;
        node.rpc("evm_mine", json!([])).await;
    }
}

impl Chains {
    pub async fn start(names: &[&str]) -> Self {
        let (mut evm, mut solana, mut cosmos) = (None, None, None);
        for name in names {
            match *name {
                EVM => evm = Some(Node::start().await),
                SOLANA => solana = Some(SolanaNode::start().await),
                COSMOS => {
                    let params = CosmosParams { block_time: Some(COSMOS_BLOCK_TIME), ..CosmosParams::default() };
                    let chain = CosmosChain::start(params).await.unwrap();
                    chain.fund(&Wallet::new(1).address(), "uatom", 1).unwrap();
                    cosmos = Some(chain);
                }
                other => panic!("no chain is called {other}: there are {EVM}, {SOLANA} and {COSMOS}"),
            }
        }
        let evm = evm.map(Arc::new);
        let evm_mining = Arc::default();
        if let Some(node) = &evm {
            tokio::spawn(tick(Arc::downgrade(node), Arc::clone(&evm_mining)));
        }
        Self { evm, evm_mining, solana, cosmos, cosmos_pay_to: Wallet::new(8).address() }
    }

    pub fn names(&self) -> Vec<&'static str> {
        let (evm, solana) = (self.evm.as_ref().map(|_| EVM), self.solana.as_ref().map(|_| SOLANA));
        evm.into_iter().chain(solana).chain(self.cosmos.as_ref().map(|_| COSMOS)).collect()
    }

    /// The networks' tables; each chain behind its proxy's port.
    pub fn config(&self, ports: &HashMap<&'static str, u16>, settle_secs: u64) -> String {
        let plan = Plan { network: format!("settle_timeout = \"{settle_secs}s\"\n"), ..Plan::default() };
        let mut text = String::new();
        if let Some(node) = &self.evm {
            text.push_str(&node.network(ports[EVM], &plan));
        }
        if let Some(node) = &self.solana {
            text.push_str(&node.network(ports[SOLANA], &plan));
        }
        if self.cosmos.is_some() {
            text.push_str(&format!(
                "[networks.grand-1]\ngrpc_url = \"http://127.0.0.1:{}\"\npay_to = \"{}\"\n{}",
                ports[COSMOS], self.cosmos_pay_to, plan.network
            ));
        }
        text
    }

    /// The networks on which a route may settle after its requests.
    pub fn networks_after(&self) -> Vec<&'static str> {
        let solana = self.solana.as_ref().map(|_| "solana-devnet");
        self.evm.as_ref().map(|_| "base-sepolia").into_iter().chain(solana).collect()
    }

    /// The keys of one of several gateways. On EVM each has a gas payer of its own; on Solana one is whoever's holds it.
    pub fn environment(&self, gateway: usize) -> Vec<(&'static str, String)> {
        let signer = [SIGNER, OTHER_SIGNER, THIRD_SIGNER][gateway];
        let plan = Plan { signer, ..Plan::default() };
        let evm = self.evm.iter().flat_map(|node| node.environment(&plan));
        evm.chain(self.solana.iter().flat_map(|node| node.environment(&plan)))
            .filter(|(_, secret)| !secret.is_empty())
            .collect()
    }

    /// Payers with money on a chain.
    pub async fn wallets(&self, chain: &str, count: u8) -> Vec<Wallets> {
        match chain {
            EVM => {
                let node = self.evm.as_ref().unwrap();
                let mut wallets = Vec::new();
                for _ in 0..count {
                    wallets.push(Wallets::Evm(node.fund_payer(FUNDS).await));
                }
                wallets
            }
            SOLANA => {
                let node = self.solana.as_ref().unwrap();
                let mut wallets = Vec::new();
                for _ in 0..count {
                    let payer = SolanaPayer { key: Keypair::new() };
                    node.set_tokens(&payer.key.pubkey(), &SOLANA_USDC, FUNDS).await;
                    wallets.push(Wallets::Solana(payer));
                }
                wallets
            }
            _ => {
                let node = self.cosmos.as_ref().unwrap();
                // Other seeds are the shop's.
                let wallets: Vec<_> = (20..20 + count).map(Wallet::new).collect();
                for wallet in &wallets {
                    node.fund(&wallet.address(), COSMOS_DENOM, u128::from(FUNDS)).unwrap();
                }
                wallets.into_iter().map(Wallets::Cosmos).collect()
            }
        }
    }

    /// The EVM chain's height, if there is one.
    pub async fn evm_height(&self) -> Option<u64> {
        let node = self.evm.as_ref()?;
        let height = node.rpc("eth_blockNumber", json!([])).await;
        Some(height.as_str().unwrap().parse::<U256>().unwrap().to::<u64>())
    }

    /// Has the EVM chain take back its newest blocks; what they held is gone.
    ///
    /// It mines nothing meanwhile: anvil takes blocks back without the lock under which it mines, and is left with balances of
    /// blocks that it no longer has (foundry pull request 16711), as no chain is.
    pub async fn take_back(&self, blocks: u64) {
        let node = self.evm.as_ref().unwrap();
        let _nobody_mines = self.evm_mining.lock().await;
        node.rpc("evm_setIntervalMining", json!([0])).await;
        // Comes after the block that is being mined now.
        node.rpc("evm_mine", json!([])).await;
        let mut height = self.evm_height().await;
        loop {
            tokio::time::sleep(EVM_STILL).await;
            let now = self.evm_height().await;
            if now == height {
                break;
            }
            height = now;
        }
        node.rpc("anvil_reorg", json!([blocks, []])).await;
        // Each transaction at once again. What it got meanwhile waits for the next tick.
        node.rpc("evm_setAutomine", json!([true])).await;
    }

    /// Everything that was ever paid to the shop.
    pub async fn arrivals(&self) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        if let Some(node) = &self.evm {
            arrivals.extend(evm_arrivals(node).await);
        }
        if let Some(node) = &self.solana {
            arrivals.extend(solana_arrivals(node).await);
        }
        for sent in self.cosmos.iter().flat_map(|node| node.delivered()).filter(|sent| sent.code == 0) {
            let (key, payer) = (sent.hash.clone(), cosmos_payer(&sent.bytes));
            arrivals.push(Arrival { chain: COSMOS, key, payer, transaction: sent.hash, value: u128::from(PRICE) });
        }
        arrivals
    }

    /// What payers have less and the shop has more, by chain.
    pub async fn sums(&self, wallets: &[&Wallets]) -> HashMap<&'static str, Sums> {
        let mut sums = HashMap::new();
        for chain in self.names() {
            let mut debited = 0;
            for wallet in wallets.iter().filter(|wallet| wallet.chain() == chain) {
                debited += u128::from(FUNDS) - self.balance(wallet).await;
            }
            let credited = match chain {
                EVM => u128::from(self.evm.as_ref().unwrap().balance(PAY_TO).await),
                SOLANA => solana_balance(self.solana.as_ref().unwrap(), &SOLANA_PAY_TO).await,
                _ => {
                    let node = self.cosmos.as_ref().unwrap();
                    // Payers pay their fees too, also for what fails.
                    debited -= FEE_COSMOS * u128::try_from(node.delivered().len()).unwrap();
                    node.balance(&self.cosmos_pay_to, COSMOS_DENOM)
                }
            };
            sums.insert(chain, Sums { debited, credited });
        }
        sums
    }

    async fn balance(&self, wallet: &Wallets) -> u128 {
        match wallet {
            Wallets::Evm(payer) => u128::from(self.evm.as_ref().unwrap().balance(payer.address).await),
            Wallets::Solana(payer) => solana_balance(self.solana.as_ref().unwrap(), &payer.key.pubkey()).await,
            Wallets::Cosmos(wallet) => self.cosmos.as_ref().unwrap().balance(&wallet.address(), COSMOS_DENOM),
        }
    }

    /// Transactions that the Cosmos node was ever handed.
    pub fn cosmos_broadcasts(&self) -> Vec<String> {
        self.cosmos.iter().flat_map(|node| node.broadcasts()).map(|bytes| sha256_hex(&bytes)).collect()
    }

    /// A payment of a wallet for an offer.
    pub async fn pay(&self, wallet: &Wallets, v2: &Value, v1: &Value) -> Signed {
        let terms = Terms { v2: v2.clone(), v1: v1.clone() };
        match wallet {
            Wallets::Evm(payer) => {
                let payment = payer.pay(&terms);
                let v1 = (!v1.is_null()).then(|| payment.v1_json());
                Signed { key: payment.nonce.to_string(), json: payment.v2_json(), v1 }
            }
            Wallets::Solana(payer) => {
                let blockhash = self.solana.as_ref().unwrap().recent_blockhash().await;
                let payment = payer.pay(&terms, blockhash);
                let payload = json!({"transaction": payment.transaction});
                let key = key_of(SOLANA, &payload);
                Signed { key, json: json!({"x402Version": 2, "accepted": v2, "payload": payload}), v1: None }
            }
            Wallets::Cosmos(wallet) => {
                let node = self.cosmos.as_ref().unwrap();
                let (number, sequence) = node.account(&wallet.address()).unwrap();
                let mut transfer = Transfer::new(wallet, &self.cosmos_pay_to, number, sequence);
                transfer.amount = u128::from(PRICE);
                transfer.fee = FEE_COSMOS;
                transfer.timeout_height = node.height() + COSMOS_BLOCKS;
                let payload = json!({"transaction": STANDARD.encode(transfer.direct())});
                let key = key_of(COSMOS, &payload);
                Signed { key, json: json!({"x402Version": 2, "accepted": v2, "payload": payload}), v1: None }
            }
        }
    }
}

impl Wallets {
    pub fn chain(&self) -> &'static str {
        match self {
            Self::Evm(_) => EVM,
            Self::Solana(_) => SOLANA,
            Self::Cosmos(_) => COSMOS,
        }
    }

    pub fn address(&self) -> String {
        match self {
            Self::Evm(payer) => payer.address.to_string(),
            Self::Solana(payer) => payer.key.pubkey().to_string(),
            Self::Cosmos(wallet) => wallet.address(),
        }
    }
}

/// The chain of an offer's network.
pub fn chain_of(network: &str) -> &'static str {
    match network.split(':').next() {
        Some("eip155") => EVM,
        Some("solana") => SOLANA,
        _ => COSMOS,
    }
}

/// What the chain tells a payment by, from its payload.
pub fn key_of(chain: &str, payload: &Value) -> String {
    let transaction = || STANDARD.decode(payload["transaction"].as_str().unwrap()).unwrap();
    match chain {
        EVM => payload["authorization"]["nonce"].as_str().unwrap().parse::<B256>().unwrap().to_string(),
        SOLANA => {
            let transaction: VersionedTransaction = wincode::deserialize(&transaction()).unwrap();
            transaction.signatures[1].to_string()
        }
        _ => sha256_hex(&transaction()),
    }
}

/// What must be in no log, from a payload.
pub fn secret_of(chain: &str, payload: &Value) -> String {
    match chain {
        EVM => payload["signature"].as_str().unwrap().trim_start_matches("0x").to_lowercase(),
        _ => payload["transaction"].as_str().unwrap().to_owned(),
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// What an EVM node was sent, unless it moves nothing.
pub fn evm_sent(params: &Value) -> Option<String> {
    let bytes = alloy::hex::decode(params[0].as_str()?).ok()?;
    TxEnvelope::decode_2718(&mut bytes.as_slice()).ok()?;
    Node::sent(params)
}

pub fn solana_sent(params: &Value) -> Option<String> {
    SolanaNode::sent(params)
}

async fn evm_arrivals(node: &Node) -> Vec<Arrival> {
    use crate::harness::for_rig::TokenEvents::{AuthorizationUsed, Transfer};
    let filter = |topics: Value| json!([{"address": USDC, "fromBlock": "0x0", "toBlock": "latest", "topics": topics}]);
    let paid = node.rpc("eth_getLogs", filter(json!([Transfer::SIGNATURE_HASH, null, PAY_TO.into_word()]))).await;
    let used = node.rpc("eth_getLogs", filter(json!([AuthorizationUsed::SIGNATURE_HASH]))).await;
    let word = |log: &Value, topic: usize| log["topics"][topic].as_str().unwrap().parse::<B256>().unwrap();
    let text = |log: &Value| log["transactionHash"].as_str().unwrap().to_owned();
    // Anvil that takes blocks back while it makes one may list a transaction in two blocks, though it moved the money once: whoever
    // counts what moved by the balances would find out.
    let mut nonces: HashMap<(String, B256), HashSet<String>> = HashMap::new();
    for log in used.as_array().unwrap() {
        nonces.entry((text(log), word(log, 1))).or_default().insert(word(log, 2).to_string());
    }
    let paid: HashMap<String, &Value> = paid.as_array().unwrap().iter().map(|log| (text(log), log)).collect();
    let arrival = |(transaction, log): (String, &Value)| {
        let from = word(log, 1);
        let own = nonces.get(&(transaction.clone(), from)).cloned().unwrap_or_default();
        assert_eq!(own.len(), 1, "a transfer to the shop by other means than one authorization: {log}");
        let value = log["data"].as_str().unwrap().parse::<U256>().unwrap().to::<u128>();
        let payer = Address::from_word(from).to_string();
        Arrival { chain: EVM, key: own.into_iter().next().unwrap(), payer, transaction, value }
    };
    paid.into_iter().map(arrival).collect()
}

/// Most transactions that a node lists with one call.
const HISTORY_MAX: usize = 1000;

async fn solana_arrivals(node: &SolanaNode) -> Vec<Arrival> {
    let account = token_account(&SOLANA_PAY_TO, &SOLANA_USDC).to_string();
    let mut arrivals = Vec::new();
    let mut before: Option<String> = None;
    loop {
        let mut options = json!({"commitment": "confirmed", "limit": HISTORY_MAX});
        if let Some(before) = &before {
            options["before"] = json!(before);
        }
        let seen = node.rpc("getSignaturesForAddress", json!([account, options])).await;
        let seen = seen.as_array().unwrap().clone();
        for row in seen.iter().filter(|row| row["err"].is_null()) {
            arrivals.extend(solana_arrival(node, row["signature"].as_str().unwrap()).await);
        }
        if seen.len() < HISTORY_MAX {
            return arrivals;
        }
        before = seen.last().map(|row| row["signature"].as_str().unwrap().to_owned());
    }
}

async fn solana_arrival(node: &SolanaNode, signature: &str) -> Option<Arrival> {
    let options = json!({"commitment": "confirmed", "encoding": "json", "maxSupportedTransactionVersion": 0});
    let seen = node.rpc("getTransaction", json!([signature, options])).await;
    let balance = |side: &str| -> u128 {
        let rows = seen["meta"][side].as_array().unwrap();
        let is_own = |row: &&Value| row["owner"] == SOLANA_PAY_TO.to_string() && row["mint"] == SOLANA_USDC.to_string();
        rows.iter().find(is_own).map_or(0, |row| row["uiTokenAmount"]["amount"].as_str().unwrap().parse().unwrap())
    };
    let value = balance("postTokenBalances").checked_sub(balance("preTokenBalances")).filter(|value| *value > 0)?;
    let transaction = &seen["transaction"];
    let key = transaction["signatures"][1].as_str().unwrap().to_owned();
    // The second signer, by the order of accounts in a message.
    let payer = transaction["message"]["accountKeys"][1].as_str().unwrap().to_owned();
    Some(Arrival { chain: SOLANA, key, payer, transaction: signature.to_owned(), value })
}

async fn solana_balance(node: &SolanaNode, owner: &solana_pubkey::Pubkey) -> u128 {
    let account = token_account(owner, &SOLANA_USDC).to_string();
    let answer = node.rpc("getTokenAccountBalance", json!([account, {"commitment": "confirmed"}])).await;
    answer["value"]["amount"].as_str().unwrap().parse().unwrap()
}

fn cosmos_payer(bytes: &[u8]) -> String {
    use cosmrs::proto::cosmos::bank::v1beta1::MsgSend;
    use cosmrs::proto::cosmos::tx::v1beta1::{TxBody, TxRaw};
    use cosmrs::proto::prost::Message;
    let body = TxBody::decode(TxRaw::decode(bytes).unwrap().body_bytes.as_slice()).unwrap();
    MsgSend::decode(body.messages[0].value.as_slice()).unwrap().from_address
}

/// A payment's header.
pub fn v2_header(json: &Value) -> (&'static str, String) {
    ("PAYMENT-SIGNATURE", encode(json))
}

pub fn v1_header(json: &Value) -> (&'static str, String) {
    ("X-PAYMENT", encode(json))
}
