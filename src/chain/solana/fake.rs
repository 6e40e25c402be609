//! A scripted node: a chain of one token, as far as the scheme asks about it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use solana_sdk::signature::Signature;
use solana_transaction::versioned::VersionedTransaction;

use super::testing::{fee_payer, mint, payee_account, payee_key, payer_account, signer_of};

pub(super) const GENESIS: &str = "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG";
pub(super) const BLOCKHASH: &str = "9zrUHnA1nCByPksy3aL8tQ47vqdaG2vnFs4HrxgcZj4F";
/// Blocks behind the head that are final.
const FINAL_AFTER: u64 = 32;

/// What a transaction costs its fee payer, in lamports.
pub(super) const FEE: u64 = 10_000;

/// What the payee's token account holds.
const PAYEE_HAS: u64 = 7;

/// What the chain does with a transaction once it has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    Pays,
    Fails,
    /// Moves so much less than was asked.
    Short(u64),
}

/// What a send gets, once the transaction was taken or not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Send {
    pub takes: bool,
    pub answer: Answer,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    Right,
    Error(i64, &'static str),
    Status(u16),
}

pub(super) struct Landed {
    pub slot: u64,
    pub raw: Vec<u8>,
    pub runs: Runs,
}

pub(super) struct World {
    pub genesis: String,
    pub height: u64,
    pub runs: Runs,
    pub level: &'static str,
    /// Scripts for the sends to come; then all is well.
    pub sends: Vec<Send>,
    pub simulate_error: Option<Value>,
    /// What the payer's account holds now.
    pub balance: u64,
    /// Knows no status, whatever landed.
    pub has_no_statuses: bool,
    /// Times that `getTransaction` still knows nothing.
    pub transactions_missing: usize,
    /// `getTransaction` tells of these bytes instead.
    pub lies_with: Option<Vec<u8>>,
    pub first_block: u64,
    pub first_block_time: i64,
    /// Is behind the cluster and says so.
    pub is_catching_up: bool,
    /// Is a provider's that doesn't let its customers ask.
    pub withholds_health: bool,
    /// By how much its time is ahead of the test's, in seconds.
    pub ahead_secs: i64,
    /// What a simulation shows of the price arriving.
    pub simulated_gain: u64,
    /// The payers' blockhash can still be used.
    pub is_hash_valid: bool,
    /// `getTransaction` leaves out all token balances after the transaction.
    pub hides_balances: bool,
    /// Slots without a block, or of which the node keeps none.
    pub empty_slots: std::ops::Range<u64>,
    pub accounts: HashMap<String, Value>,
    pub is_down: bool,
    pub landed: HashMap<String, Landed>,
    pub calls: HashMap<String, usize>,
    pub simulated: Vec<VersionedTransaction>,
    pub sent: Vec<Vec<u8>>,
    /// How many signatures each question about statuses named.
    pub asked_statuses: Vec<usize>,
}

pub(super) type Shared = Arc<Mutex<World>>;

pub(super) fn mint_account(program: &str, extensions: Value) -> Value {
    json!({"lamports": 1_461_600, "owner": program, "data": {"program": "spl-token", "parsed": {"type": "mint",
        "info": {"decimals": 6, "isInitialized": true, "extensions": extensions}}}})
}

pub(super) fn token_account(program: &str, owner: &str, state: &str, extensions: Value) -> Value {
    json!({"lamports": 2_039_280, "owner": program, "data": {"program": "spl-token", "parsed": {"type": "account",
        "info": {"mint": mint().to_string(), "owner": owner, "state": state, "extensions": extensions,
        "tokenAmount": {"amount": PAYEE_HAS.to_string()}}}}})
}

/// One of another mint.
pub(super) fn token_account_of(mint: &str, owner: &str) -> Value {
    let mut account = token_account(&spl_token_interface::ID.to_string(), owner, "initialized", json!([]));
    account["data"]["parsed"]["info"]["mint"] = json!(mint);
    account
}

impl World {
    pub(super) fn new() -> Shared {
        let token = spl_token_interface::ID.to_string();
        let system = "11111111111111111111111111111111";
        let payee = token_account(&token, &payee_key().to_string(), "initialized", json!([]));
        let accounts = HashMap::from([
            (mint().to_string(), mint_account(&token, json!([]))),
            (payee_account().to_string(), payee),
            (fee_payer().to_string(), json!({"lamports": 1_000_000_000, "owner": system, "data": ["", "base64"]})),
        ]);
        Arc::new(Mutex::new(Self {
            genesis: GENESIS.to_owned(),
            height: 1000,
            runs: Runs::Pays,
            level: "confirmed",
            sends: Vec::new(),
            simulate_error: None,
            balance: 1_000_000,
            has_no_statuses: false,
            transactions_missing: 0,
            lies_with: None,
            first_block: 0,
            first_block_time: 0,
            is_catching_up: false,
            withholds_health: false,
            ahead_secs: 0,
            simulated_gain: 10_000,
            is_hash_valid: false,
            hides_balances: false,
            empty_slots: 0..0,
            accounts,
            is_down: false,
            landed: HashMap::new(),
            calls: HashMap::new(),
            simulated: Vec::new(),
            sent: Vec::new(),
            asked_statuses: Vec::new(),
        }))
    }

    pub(super) fn count(&self, method: &str) -> usize {
        self.calls.get(method).copied().unwrap_or(0)
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.values().sum()
    }

    fn time(&self) -> i64 {
        1_800_000_000 + self.ahead_secs
    }

    fn simulate(&mut self, wire: &str, asked: &Value) -> Value {
        let transaction: VersionedTransaction = wincode::deserialize_exact(&STANDARD.decode(wire).unwrap()).unwrap();
        assert_eq!(transaction.signatures[0], Signature::default(), "our signature left before the claim");
        self.simulated.push(transaction);
        let is_payee = *asked == json!([payee_account().to_string()]);
        let after = if is_payee { PAYEE_HAS + self.simulated_gain } else { self.balance.saturating_sub(10_000) };
        let mut data = vec![0; 165];
        data[64..72].copy_from_slice(&after.to_le_bytes());
        data[108] = 1;
        let accounts = json!([{"data": [STANDARD.encode(data), "base64"], "owner": "", "lamports": 1}]);
        json!({"context": {"slot": self.height}, "value": {"err": self.simulate_error, "accounts": accounts}})
    }

    /// As a real node under `skipPreflight`: a signature for whatever comes, and nothing lands that can't.
    fn send(&mut self, wire: &str) -> Result<Value, Result<Value, u16>> {
        let raw = STANDARD.decode(wire).unwrap();
        let transaction: VersionedTransaction = wincode::deserialize_exact(&raw).unwrap();
        let script =
            if self.sends.is_empty() { Send { takes: true, answer: Answer::Right } } else { self.sends.remove(0) };
        self.sent.push(raw.clone());
        let signature = transaction.signatures[0].to_string();
        let is_new = !self.landed.contains_key(&signature);
        if script.takes && is_new && transaction.verify_and_hash_message().is_ok() {
            let landed = Landed { slot: self.height, raw, runs: self.runs };
            self.landed.insert(signature.clone(), landed);
        }
        match script.answer {
            Answer::Right => Ok(json!(signature)),
            Answer::Error(code, message) => Err(Ok(json!({"code": code, "message": message}))),
            Answer::Status(status) => Err(Err(status)),
        }
    }

    fn status(&self, signature: &str) -> Value {
        match self.landed.get(signature).filter(|_| !self.has_no_statuses) {
            None => Value::Null,
            Some(landed) => {
                let error = (landed.runs == Runs::Fails).then(|| json!({"InstructionError": [2, {"Custom": 1}]}));
                json!({"slot": landed.slot, "confirmations": 1, "err": error, "confirmationStatus": self.level})
            }
        }
    }

    fn transaction(&mut self, signature: &str) -> Value {
        if self.transactions_missing > 0 {
            self.transactions_missing -= 1;
            return Value::Null;
        }
        let Some(landed) = self.landed.get(signature) else { return Value::Null };
        let transaction: VersionedTransaction = wincode::deserialize_exact(&landed.raw).unwrap();
        let keys = transaction.message.static_account_keys();
        let index = |key| keys.iter().position(|it| *it == key).unwrap();
        let (source, destination) = (index(payer_account()), index(payee_account()));
        let moved = match landed.runs {
            Runs::Pays => 10_000,
            Runs::Fails => 0,
            Runs::Short(by) => 10_000 - by,
        };
        let balance = |index: usize, amount: u64| json!({"accountIndex": index, "mint": mint().to_string(), "uiTokenAmount": {"amount": amount.to_string(), "decimals": 6}});
        let error = (landed.runs == Runs::Fails).then(|| json!({"InstructionError": [2, {"Custom": 1}]}));
        let raw = self.lies_with.as_ref().unwrap_or(&landed.raw);
        let after = if self.hides_balances {
            json!([])
        } else {
            json!([balance(source, 50_000 - moved), balance(destination, 7 + moved)])
        };
        json!({"slot": landed.slot, "blockTime": 1_800_000_000, "version": 0,
            "transaction": [STANDARD.encode(raw), "base64"],
            "meta": {"err": error, "fee": FEE,
                "preTokenBalances": [balance(source, 50_000), balance(destination, 7)],
                "postTokenBalances": after}})
    }

    fn answer(&mut self, method: &str, params: &Value) -> Result<Value, Result<Value, u16>> {
        *self.calls.entry(method.to_owned()).or_default() += 1;
        let context = json!({"slot": self.height});
        Ok(match method {
            "getGenesisHash" => json!(self.genesis),
            "getLatestBlockhash" => json!({"context": context, "value": {"blockhash": BLOCKHASH,
                "lastValidBlockHeight": self.height + 150}}),
            "getBlockHeight" => json!(self.height - FINAL_AFTER),
            "getSlot" => json!(self.height - FINAL_AFTER),
            "getBlocks" => {
                let last = params[1].as_u64().unwrap().min(self.height - FINAL_AFTER);
                let slots = params[0].as_u64().unwrap()..=last;
                json!(slots.filter(|slot| !self.empty_slots.contains(slot)).collect::<Vec<_>>())
            }
            "getHealth" if self.withholds_health => {
                return Err(Ok(json!({"code": -32601, "message": "Method not found"})));
            }
            "getHealth" if self.is_catching_up => {
                return Err(Ok(json!({"code": -32005, "message": "Node is behind by 1000 slots"})));
            }
            "getHealth" => json!("ok"),
            "isBlockhashValid" => json!({"context": context, "value": self.is_hash_valid}),
            "getFirstAvailableBlock" => json!(self.first_block),
            "getBlockTime" if params[0] == json!(self.first_block) => json!(self.first_block_time),
            "getBlockTime" => json!(self.time()),
            "getAccountInfo" => {
                let mut clock = vec![0; 40];
                clock[32..].copy_from_slice(&self.time().to_le_bytes());
                json!({"context": context, "value": {"data": [STANDARD.encode(clock), "base64"]}})
            }
            "getMultipleAccounts" => {
                let keys = params[0].as_array().unwrap();
                let found = |key: &Value| self.accounts.get(key.as_str().unwrap()).cloned().unwrap_or(Value::Null);
                json!({"context": context, "value": keys.iter().map(found).collect::<Vec<_>>()})
            }
            "simulateTransaction" => self.simulate(params[0].as_str().unwrap(), &params[1]["accounts"]["addresses"]),
            "sendTransaction" => return self.send(params[0].as_str().unwrap()),
            "getSignatureStatuses" => {
                let signatures = params[0].as_array().unwrap();
                self.asked_statuses.push(signatures.len());
                let statuses: Vec<Value> = signatures.iter().map(|it| self.status(it.as_str().unwrap())).collect();
                json!({"context": context, "value": statuses})
            }
            "getTransaction" => self.transaction(params[0].as_str().unwrap()),
            _ => return Err(Ok(json!({"code": -32601, "message": "method not found"}))),
        })
    }
}

/// The fee payer's own signature is on every transaction that may be sent.
pub(super) fn is_cosigned(raw: &[u8]) -> bool {
    let transaction: VersionedTransaction = wincode::deserialize_exact(raw).unwrap();
    transaction.verify_and_hash_message().is_ok() && signer_of(&transaction) == fee_payer()
}

async fn handle(State(world): State<Shared>, Json(body): Json<Value>) -> (StatusCode, Json<Value>) {
    let mut world = world.lock().unwrap();
    if world.is_down {
        return (StatusCode::BAD_GATEWAY, Json(json!("down")));
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
