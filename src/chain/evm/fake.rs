//! A scripted node for tests: enough of a chain to lie, lose, stall and reorganise on command.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use alloy::consensus::{Transaction, TxEnvelope, transaction::SignerRecoverable};
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::sol_types::{SolCall, SolEvent};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::abi::{ContractWallet, Receiving, Token, TransferByParts};
use super::decode::domain_separator;
use crate::types::Eip712Domain;

pub(super) const CHAIN: u64 = 84532;
pub(super) const TOKEN: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";

/// What each transaction uses.
const GAS_USED: u64 = 60_000;
/// Wei.
const TIP: u64 = 100;

/// What becomes of a settlement when it is mined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mined {
    Pays,
    Reverts,
    SaysNothing,
}

/// What a send gets, once the transaction was taken or not.
#[derive(Debug, Clone)]
pub(super) struct Send {
    pub takes: bool,
    pub answer: Answer,
}

#[derive(Debug, Clone)]
pub(super) enum Answer {
    Right,
    Error(&'static str),
    Status(u16),
}

pub(super) struct World {
    pub chain_id: u64,
    pub number: u64,
    pub timestamp: u64,
    pub base_fee: u64,
    pub is_automine: bool,
    pub mined: Mined,
    /// Scripts for the sends to come; then all is well.
    pub sends: Vec<Send>,
    pub estimate_error: Option<Value>,
    pub estimate: u64,
    pub has_block_receipts: bool,
    pub batch_max: usize,
    /// Receipts and logs are not there, whatever was mined.
    pub has_no_index: bool,
    pub code: HashSet<Address>,
    pub wallet_says_yes: bool,
    pub token_balance: U256,
    pub decimals: u8,
    pub domain: Eip712Domain,
    /// Whom the token pays nothing to, and says so when asked.
    pub blacklisted: HashSet<Address>,
    /// Whom it pays nothing to without a word.
    pub refused: HashSet<Address>,
    pub is_paused: bool,
    /// The gas payers' balances, in wei.
    pub balance: U256,
    pub is_down: bool,
    pub state_used: HashSet<B256>,
    pub pool: BTreeMap<u64, (B256, Bytes)>,
    /// Transactions that the pool holds and no block gets.
    pub passed_over: HashSet<B256>,
    /// Transactions that are too cheap for the pool.
    pub underpriced: HashSet<B256>,
    pub receipts: HashMap<B256, Value>,
    pub logs: Vec<Value>,
    pub nonce: u64,
    pub calls: HashMap<String, usize>,
    pub sent: Vec<Bytes>,
}

pub(super) type Shared = Arc<Mutex<World>>;

pub(super) fn block_hash(number: u64) -> B256 {
    keccak256(number.to_be_bytes())
}

impl World {
    pub(super) fn new() -> Shared {
        Arc::new(Mutex::new(Self {
            chain_id: CHAIN,
            number: 100,
            timestamp: 1_800_000_000,
            base_fee: 1_000_000,
            is_automine: true,
            mined: Mined::Pays,
            sends: Vec::new(),
            estimate_error: None,
            estimate: 80_000,
            has_block_receipts: true,
            batch_max: usize::MAX,
            has_no_index: false,
            code: HashSet::from([TOKEN.parse().unwrap()]),
            wallet_says_yes: false,
            token_balance: U256::from(1_000_000),
            decimals: 6,
            domain: Eip712Domain { name: "USDC".to_owned(), version: "2".to_owned() },
            blacklisted: HashSet::new(),
            refused: HashSet::new(),
            is_paused: false,
            balance: U256::from(1_000_000_000_000_000_000_u64),
            is_down: false,
            state_used: HashSet::new(),
            pool: BTreeMap::new(),
            passed_over: HashSet::new(),
            underpriced: HashSet::new(),
            receipts: HashMap::new(),
            logs: Vec::new(),
            nonce: 0,
            calls: HashMap::new(),
            sent: Vec::new(),
        }))
    }

    pub(super) fn count(&self, method: &str) -> usize {
        self.calls.get(method).copied().unwrap_or(0)
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.values().sum()
    }

    /// What a transaction that is mined now costs its sender, in wei.
    pub(super) fn fee(&self) -> u64 {
        GAS_USED * (self.base_fee + TIP)
    }

    /// Mines what an earlier run sent with account nonce 0.
    pub(super) fn mine_first(&mut self, raw: Bytes) {
        self.pool.insert(0, (keccak256(&raw), raw));
        self.mine();
    }

    pub(super) fn mine(&mut self) {
        self.number += 1;
        self.timestamp += 1;
        while let Some((hash, raw)) = self.pool.get(&self.nonce).cloned() {
            let transaction = TxEnvelope::decode_2718(&mut raw.as_ref()).unwrap();
            if transaction.max_fee_per_gas() < u128::from(self.base_fee) || self.passed_over.contains(&hash) {
                break;
            }
            self.pool.remove(&self.nonce);
            self.nonce += 1;
            self.run(hash, &raw);
        }
    }

    fn run(&mut self, hash: B256, raw: &Bytes) {
        let transaction = TxEnvelope::decode_2718(&mut raw.as_ref()).unwrap();
        let call = TransferByParts::transferWithAuthorizationCall::abi_decode(transaction.input());
        let mut logs = Vec::new();
        let mut status = 1;
        if let Ok(call) = call {
            let (from, to) = (call.from.into_word(), call.to.into_word());
            let amount = Bytes::from(call.value.to_be_bytes::<32>());
            match self.mined {
                _ if self.state_used.contains(&call.nonce) => status = 0,
                Mined::Reverts => status = 0,
                Mined::SaysNothing => {}
                Mined::Pays => {
                    self.state_used.insert(call.nonce);
                    logs.push(self.log(
                        hash,
                        &[Token::AuthorizationUsed::SIGNATURE_HASH, from, call.nonce],
                        &Bytes::new(),
                    ));
                    logs.push(self.log(hash, &[Token::Transfer::SIGNATURE_HASH, from, to], &amount));
                }
            }
        }
        self.logs.extend(logs.clone());
        self.put_receipt(hash, status, &logs);
    }

    pub(super) fn log(&self, hash: B256, topics: &[B256], data: &Bytes) -> Value {
        json!({"address": TOKEN, "topics": topics, "data": data, "transactionHash": hash, "blockNumber": self.number})
    }

    pub(super) fn put_receipt(&mut self, hash: B256, status: u64, logs: &[Value]) {
        let receipt = json!({
            "transactionHash": hash,
            "blockHash": block_hash(self.number),
            "blockNumber": format!("{:#x}", self.number),
            "status": format!("{status:#x}"),
            "type": "0x7e",
            "logs": logs,
            "gasUsed": format!("{GAS_USED:#x}"),
            "effectiveGasPrice": format!("{:#x}", self.base_fee + TIP),
        });
        self.receipts.insert(hash, receipt);
    }

    fn send(&mut self, raw: Bytes) -> Result<Value, Result<Value, u16>> {
        let script =
            if self.sends.is_empty() { Send { takes: true, answer: Answer::Right } } else { self.sends.remove(0) };
        self.sent.push(raw.clone());
        let hash = keccak256(&raw);
        let transaction = TxEnvelope::decode_2718(&mut raw.as_ref()).unwrap();
        assert!(transaction.recover_signer().is_ok());
        let nonce = transaction.nonce();
        let mut answer = Ok(json!(hash));
        if nonce < self.nonce {
            answer = Err(Ok(json!({"code": -32000, "message": "nonce too low"})));
        } else if self.pool.get(&nonce).is_some_and(|(held, _)| *held == hash) {
            answer = Err(Ok(json!({"code": -32000, "message": "already known"})));
        } else if self.underpriced.contains(&hash) {
            answer = Err(Ok(json!({"code": -32000, "message": "transaction underpriced: tip needed 2"})));
        } else if script.takes {
            self.pool.insert(nonce, (hash, raw));
            if self.is_automine {
                self.mine();
            }
        }
        match script.answer {
            Answer::Right => answer,
            Answer::Error(message) => Err(Ok(json!({"code": -32000, "message": message}))),
            Answer::Status(status) => Err(Err(status)),
        }
    }

    fn call(&mut self, params: &Value) -> Result<Value, Result<Value, u16>> {
        let input: Bytes = serde_json::from_value(params[0]["input"].clone()).unwrap();
        let revert = || Err(Ok(json!({"code": 3, "message": "execution reverted", "data": "0x"})));
        let to: Address = serde_json::from_value(params[0]["to"].clone()).unwrap();
        if ContractWallet::isValidSignatureCall::abi_decode(&input).is_ok() {
            let magic = if self.wallet_says_yes { ContractWallet::isValidSignatureCall::SELECTOR } else { [0; 4] };
            return Ok(json!(B256::right_padding_from(&magic)));
        }
        if to != TOKEN.parse::<Address>().unwrap() {
            return revert();
        }
        let selector: [u8; 4] = input[..4].try_into().unwrap();
        let answer = match selector {
            Token::authorizationStateCall::SELECTOR => {
                let call = Token::authorizationStateCall::abi_decode(&input).unwrap();
                Token::authorizationStateCall::abi_encode_returns(&self.state_used.contains(&call.nonce))
            }
            Token::balanceOfCall::SELECTOR => Token::balanceOfCall::abi_encode_returns(&self.token_balance),
            Token::decimalsCall::SELECTOR => Token::decimalsCall::abi_encode_returns(&self.decimals),
            Token::nameCall::SELECTOR => Token::nameCall::abi_encode_returns(&self.domain.name),
            Token::versionCall::SELECTOR => Token::versionCall::abi_encode_returns(&self.domain.version),
            Token::DOMAIN_SEPARATORCall::SELECTOR => {
                let separator = domain_separator(&self.domain, self.chain_id, to);
                Token::DOMAIN_SEPARATORCall::abi_encode_returns(&separator)
            }
            Receiving::isBlacklistedCall::SELECTOR => {
                let call = Receiving::isBlacklistedCall::abi_decode(&input).unwrap();
                Receiving::isBlacklistedCall::abi_encode_returns(&self.blacklisted.contains(&call.account))
            }
            Receiving::pausedCall::SELECTOR => Receiving::pausedCall::abi_encode_returns(&self.is_paused),
            Receiving::transferCall::SELECTOR => {
                let call = Receiving::transferCall::abi_decode(&input).unwrap();
                if self.refused.contains(&call.to) || call.value > self.token_balance {
                    return revert();
                }
                Receiving::transferCall::abi_encode_returns(&true)
            }
            _ => return revert(),
        };
        Ok(json!(Bytes::from(answer)))
    }

    fn block(&self, tag: &str) -> Value {
        let number = match tag {
            "latest" => self.number,
            "finalized" => self.number.saturating_sub(5),
            hex => u64::from_str_radix(&hex[2..], 16).unwrap(),
        };
        if number > self.number {
            return Value::Null;
        }
        json!({
            "number": format!("{number:#x}"),
            "hash": block_hash(number),
            "timestamp": format!("{:#x}", self.timestamp - (self.number - number)),
            "baseFeePerGas": format!("{:#x}", self.base_fee),
        })
    }

    fn logs(&self, filter: &Value) -> Value {
        let bound = |key: &str| u64::from_str_radix(&filter[key].as_str().unwrap()[2..], 16).unwrap();
        let range = bound("fromBlock")..=bound("toBlock");
        let names = filter["topics"][0].as_array().unwrap();
        let fits = |log: &&Value| {
            range.contains(&log["blockNumber"].as_u64().unwrap())
                && names.contains(&log["topics"][0])
                && log["topics"][1] == filter["topics"][1]
                && log["topics"][2] == filter["topics"][2]
        };
        self.logs.iter().filter(fits).cloned().collect()
    }

    fn answer(&mut self, method: &str, params: &Value) -> Result<Value, Result<Value, u16>> {
        *self.calls.entry(method.to_owned()).or_default() += 1;
        Ok(match method {
            "eth_chainId" => json!(format!("{:#x}", self.chain_id)),
            "eth_getBlockByNumber" => self.block(params[0].as_str().unwrap()),
            "eth_maxPriorityFeePerGas" => json!("0x64"),
            "eth_getBalance" => json!(self.balance),
            "eth_getCode" => {
                let account: Address = serde_json::from_value(params[0].clone()).unwrap();
                json!(if self.code.contains(&account) { "0x60" } else { "0x" })
            }
            "eth_call" => return self.call(params),
            "eth_estimateGas" => match &self.estimate_error {
                Some(error) => return Err(Ok(error.clone())),
                None => json!(format!("{:#x}", self.estimate)),
            },
            "eth_getTransactionCount" => json!(format!("{:#x}", self.nonce)),
            "eth_sendRawTransaction" => return self.send(serde_json::from_value(params[0].clone()).unwrap()),
            "eth_getTransactionReceipt" | "eth_getBlockReceipts" if self.has_no_index => Value::Null,
            "eth_getLogs" if self.has_no_index => json!([]),
            "eth_getTransactionReceipt" => {
                let hash: B256 = serde_json::from_value(params[0].clone()).unwrap();
                self.receipts.get(&hash).cloned().unwrap_or(Value::Null)
            }
            "eth_getBlockReceipts" if self.has_block_receipts => {
                self.receipts.values().filter(|receipt| receipt["blockNumber"] == params[0]).cloned().collect()
            }
            "eth_getLogs" => self.logs(&params[0]),
            _ => return Err(Ok(json!({"code": -32601, "message": "method not found"}))),
        })
    }
}

async fn handle(State(world): State<Shared>, Json(body): Json<Value>) -> (StatusCode, Json<Value>) {
    let mut world = world.lock().unwrap();
    if world.is_down {
        return (StatusCode::BAD_GATEWAY, Json(json!("down")));
    }
    if body.as_array().is_some_and(|requests| requests.len() > world.batch_max) {
        let error = json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32014, "message": "batch is too large"}});
        return (StatusCode::OK, Json(error));
    }
    let mut status = StatusCode::OK;
    let mut one = |request: &Value| match world.answer(request["method"].as_str().unwrap(), &request["params"]) {
        Ok(result) => json!({"jsonrpc": "2.0", "id": request["id"], "result": result}),
        Err(Ok(error)) => json!({"jsonrpc": "2.0", "id": request["id"], "error": error}),
        Err(Err(code)) => {
            status = StatusCode::from_u16(code).unwrap();
            json!("lost")
        }
    };
    let answer = match &body {
        Value::Array(requests) => requests.iter().map(&mut one).collect(),
        request => one(request),
    };
    (status, Json(answer))
}

/// Serves a world on a free port; gives its URL.
pub(super) async fn serve(world: &Shared) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/{token}", post(handle)).with_state(Arc::clone(world));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}/secret-access-token")
}
