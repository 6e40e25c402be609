//! What the chain promises, asked of it as clients ask.

mod anvil;
mod books;
mod refusals;

use std::sync::Arc;

use alloy::consensus::{SignableTransaction, TxEip1559, TxEip2930, TxEnvelope, TxLegacy};
use alloy::eips::eip2718::Encodable2718;
use alloy::network::TxSignerSync;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256, address, b256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol;
use alloy::sol_types::{SolCall, SolEvent};
use serde_json::{Value, json};

use super::block::BASE_FEE;
use super::{CHAIN_ID, Chain, Node, TOKEN, genesis};
use crate::types::{ManualClock, UnixMillis};

sol! {
    interface Usdc {
        event Transfer(address indexed from, address indexed to, uint256 value);
        function mint(address to, uint256 value);
        function transfer(address to, uint256 value) returns (bool);
        function balanceOf(address account) returns (uint256);
        function name() returns (string);
        function version() returns (string);
        function decimals() returns (uint8);
        function authorizationState(address authorizer, bytes32 nonce) returns (bool);
    }
}

const START: u64 = 1_800_000_000;
const ANYBODY: Address = address!("00000000000000000000000000000000000A11CE");
const SOMEBODY: Address = address!("0000000000000000000000000000000000000B0B");

/// An account other than the faucet.
fn spender() -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&b256!("1111111111111111111111111111111111111111111111111111111111111111")).unwrap()
}

/// A transaction with fees that the chain takes.
fn plain(nonce: u64, to: Address, value: u64, input: Vec<u8>) -> TxEip1559 {
    TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 150_000,
        max_fee_per_gas: 2_000_000_000,
        max_priority_fee_per_gas: 1_000_000,
        to: TxKind::Call(to),
        value: U256::from(value),
        input: input.into(),
        ..TxEip1559::default()
    }
}

fn sign<T>(signer: &PrivateKeySigner, mut unsigned: T) -> Bytes
where
    T: SignableTransaction<alloy::primitives::Signature>,
    TxEnvelope: From<alloy::consensus::Signed<T>>,
{
    let signature = signer.sign_transaction_sync(&mut unsigned).unwrap();
    TxEnvelope::from(unsigned.into_signed(signature)).encoded_2718().into()
}

fn faucet() -> PrivateKeySigner {
    genesis::faucet().unwrap()
}

struct TestNode {
    node: Node,
    clock: ManualClock,
}

impl TestNode {
    fn new() -> Self {
        let clock = ManualClock::new(UnixMillis::from_secs(START));
        let chain = Chain::new(Arc::new(clock.clone()), None).unwrap();
        Self { node: Node::new(chain), clock }
    }

    fn ask(&self, method: &str, params: Value) -> Result<Value, Value> {
        let request = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
        let answer = self.node.answer(request.to_string().as_bytes()).unwrap();
        assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), &json!(7)));
        match answer.get("result") {
            Some(result) => Ok(result.clone()),
            None => Err(answer["error"].clone()),
        }
    }

    fn get(&self, method: &str, params: Value) -> Value {
        self.ask(method, params).unwrap()
    }

    fn send(&self, raw: &Bytes) -> Result<Value, Value> {
        self.ask("eth_sendRawTransaction", json!([raw]))
    }

    fn call(&self, call: impl SolCall, block: Value) -> Result<Bytes, Value> {
        let request = json!({"to": TOKEN, "data": Bytes::from(call.abi_encode())});
        self.ask("eth_call", json!([request, block])).map(|output| serde_json::from_value(output).unwrap())
    }

    fn tokens(&self, account: Address, block: Value) -> U256 {
        U256::from_be_slice(&self.call(Usdc::balanceOfCall { account }, block).unwrap())
    }

    fn receipt(&self, hash: &Value) -> Value {
        self.get("eth_getTransactionReceipt", json!([hash]))
    }

    fn number(&self) -> u64 {
        quantity(&self.get("eth_blockNumber", json!([])))
    }
}

fn quantity(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().strip_prefix("0x").unwrap(), 16).unwrap()
}

fn words(error: &Value) -> &str {
    error["message"].as_str().unwrap()
}

#[test]
fn the_token_is_the_one_that_clients_know() {
    let known = crate::types::KNOWN_NETWORKS.iter().find(|known| known.caip2 == format!("eip155:{CHAIN_ID}")).unwrap();
    assert_eq!(known.asset.parse::<Address>().unwrap(), TOKEN);
    let node = TestNode::new();
    let text = |output: Bytes| Usdc::nameCall::abi_decode_returns(&output).unwrap();
    let domain = (
        text(node.call(Usdc::nameCall {}, json!("latest")).unwrap()),
        text(node.call(Usdc::versionCall {}, json!("latest")).unwrap()),
    );
    assert_eq!(known.eip712, Some((domain.0.as_str(), domain.1.as_str())));
    let decimals = node.call(Usdc::decimalsCall {}, json!("latest")).unwrap();
    assert_eq!(U256::from_be_slice(&decimals), U256::from(known.decimals));
}

#[test]
fn a_transfer_is_mined_at_once_and_leaves_a_receipt() {
    let node = TestNode::new();
    let hash = node.send(&sign(&faucet(), plain(0, ANYBODY, 5, vec![]))).unwrap();
    let receipt = node.receipt(&hash);
    assert_eq!((&receipt["status"], &receipt["gasUsed"]), (&json!("0x1"), &json!("0x5208")));
    assert_eq!((&receipt["blockNumber"], &receipt["type"]), (&json!("0x1"), &json!("0x2")));
    assert_eq!(node.get("eth_getBalance", json!([ANYBODY, "latest"])), "0x5");
    assert_eq!(node.get("eth_getTransactionCount", json!([faucet().address(), "pending"])), "0x1");
    let block = node.get("eth_getBlockByNumber", json!(["latest", false]));
    assert_eq!((&block["transactions"], &block["hash"]), (&json!([hash]), &receipt["blockHash"]));
    assert_eq!(block["baseFeePerGas"], format!("{BASE_FEE:#x}"));
    let full = node.get("eth_getBlockByHash", json!([block["hash"], true]));
    assert_eq!(full["transactions"][0], node.get("eth_getTransactionByHash", json!([hash])));
    assert_eq!(full["transactions"][0]["from"], json!(faucet().address()).as_str().unwrap().to_lowercase());
    assert_eq!(node.get("eth_getBlockReceipts", json!(["0x1"])), json!([receipt]));
}

#[test]
fn wallets_of_every_age_are_served() {
    let node = TestNode::new();
    let legacy = TxLegacy {
        chain_id: Some(CHAIN_ID),
        nonce: 0,
        gas_price: 3_000_000,
        gas_limit: 21_000,
        to: TxKind::Call(ANYBODY),
        value: U256::from(1),
        input: Bytes::new(),
    };
    let listed = TxEip2930 {
        chain_id: CHAIN_ID,
        nonce: 1,
        gas_price: 3_000_000,
        gas_limit: 30_000,
        to: TxKind::Call(ANYBODY),
        value: U256::from(1),
        ..TxEip2930::default()
    };
    for (kind, raw) in [("0x0", sign(&faucet(), legacy)), ("0x1", sign(&faucet(), listed))] {
        let hash = node.send(&raw).unwrap();
        let receipt = node.receipt(&hash);
        assert_eq!((&receipt["type"], &receipt["status"]), (&json!(kind), &json!("0x1")));
        assert_eq!(receipt["effectiveGasPrice"], "0x2dc6c0");
    }
    assert_eq!(node.get("eth_getBalance", json!([ANYBODY])), "0x2");
}

#[test]
fn a_contract_is_made_and_its_code_and_storage_are_read() {
    let node = TestNode::new();
    // Stores 7 in slot 1 and leaves the code `00`.
    let init = alloy::hex!("60076001556001600c60003960016000f300").to_vec();
    let create = TxEip1559 { to: TxKind::Create, ..plain(0, Address::ZERO, 0, init) };
    let receipt = node.receipt(&node.send(&sign(&faucet(), create)).unwrap());
    let contract = faucet().address().create(0);
    assert_eq!(receipt["contractAddress"].as_str().unwrap().parse::<Address>().unwrap(), contract);
    assert_eq!(receipt["to"], Value::Null);
    assert_eq!(node.get("eth_getCode", json!([contract, "latest"])).as_str().unwrap().len(), 4);
    assert_eq!(node.get("eth_getCode", json!([contract, "0x0"])), "0x");
    assert_eq!(node.get("eth_getStorageAt", json!([contract, "0x1", "latest"])), json!(B256::with_last_byte(7)));
    assert_eq!(node.get("eth_getStorageAt", json!([contract, "0x1", "0x0"])), json!(B256::ZERO));
}

#[test]
fn a_revert_tells_its_reason_and_its_data() {
    let node = TestNode::new();
    let input: Bytes = Usdc::transferCall { to: ANYBODY, value: U256::from(1) }.abi_encode().into();
    let request = json!({"from": SOMEBODY, "to": TOKEN, "input": input});
    let called = node.ask("eth_call", json!([request, "latest"])).unwrap_err();
    assert_eq!(called["code"], 3);
    assert_eq!(words(&called), "execution reverted: ERC20: transfer amount exceeds balance");
    assert!(called["data"].as_str().unwrap().starts_with("0x08c379a0"));
    assert_eq!(node.ask("eth_estimateGas", json!([request])).unwrap_err(), called);
    // Sent all the same, it is mined and fails.
    let receipt = node.receipt(&node.send(&sign(&faucet(), plain(0, TOKEN, 0, input.to_vec()))).unwrap());
    assert_eq!((&receipt["status"], &receipt["logs"]), (&json!("0x0"), &json!([])));
}

#[test]
fn an_estimate_is_enough_and_one_gas_less_is_not() {
    let node = TestNode::new();
    let input = Usdc::mintCall { to: ANYBODY, value: U256::from(9) }.abi_encode();
    let from = faucet().address();
    let gas = quantity(
        &node.get("eth_estimateGas", json!([{"from": from, "to": TOKEN, "data": Bytes::from(input.clone())}])),
    );
    let short = TxEip1559 { gas_limit: gas - 1, ..plain(0, TOKEN, 0, input.clone()) };
    let exact = TxEip1559 { gas_limit: gas, ..plain(1, TOKEN, 0, input) };
    let statuses = [short, exact].map(|unsigned| {
        let hash = node.send(&sign(&faucet(), unsigned)).unwrap();
        node.receipt(&hash)["status"].clone()
    });
    assert_eq!(statuses, [json!("0x0"), json!("0x1")]);
    let transfer = json!([{"from": from, "to": ANYBODY, "value": "0x1", "maxFeePerGas": "0x3b9aca00"}]);
    assert_eq!(node.get("eth_estimateGas", transfer), "0x5208");
    let capped = json!([{"from": from, "to": TOKEN, "gas": "0x5300",
        "data": Bytes::from(Usdc::mintCall { to: SOMEBODY, value: U256::from(1) }.abi_encode())}]);
    let error = node.ask("eth_estimateGas", capped).unwrap_err();
    assert!(["gas required exceeds", "intrinsic gas"].iter().any(|text| words(&error).contains(text)), "{error}");
}

#[test]
fn the_past_answers_as_it_was() {
    let node = TestNode::new();
    let before = node.number();
    for value in [10, 20] {
        node.node.with(|chain| chain.fund(ANYBODY, U256::from(value))).unwrap();
    }
    // Two blocks each: gas, then tokens.
    let history: Vec<U256> =
        (before..=node.number()).map(|number| node.tokens(ANYBODY, json!(format!("{number:#x}")))).collect();
    assert_eq!(history, [0, 0, 10, 10, 30].map(U256::from));
    assert_eq!(node.tokens(ANYBODY, json!("latest")), U256::from(30));
    assert_eq!(node.tokens(ANYBODY, json!("earliest")), U256::ZERO);
    let count = |block: &str| node.get("eth_getTransactionCount", json!([faucet().address(), block]));
    assert_eq!((count("0x0"), count("0x2"), count("latest")), (json!("0x0"), json!("0x2"), json!("0x4")));
    let hash = node.get("eth_getBlockByNumber", json!(["0x2", false]))["hash"].clone();
    assert_eq!(node.tokens(ANYBODY, json!({"blockHash": hash})), U256::from(10));
    let error = node.call(Usdc::balanceOfCall { account: ANYBODY }, json!("0x99")).unwrap_err();
    assert_eq!(words(&error), "header not found");
}

#[test]
fn time_goes_on_with_the_clock_and_never_ahead_of_it() {
    let node = TestNode::new();
    node.node.with(Chain::tick);
    assert_eq!(node.number(), 0);
    for nonce in 0..3 {
        node.send(&sign(&faucet(), plain(nonce, ANYBODY, 1, vec![]))).unwrap();
    }
    let time = || quantity(&node.get("eth_getBlockByNumber", json!(["latest", false]))["timestamp"]);
    assert_eq!((node.number(), time()), (3, START));
    node.clock.advance(std::time::Duration::from_secs(2));
    node.node.with(Chain::tick);
    node.node.with(Chain::tick);
    assert_eq!((node.number(), time()), (4, START + 2));
}

#[test]
fn old_blocks_are_forgotten_and_said_to_be() {
    let node = TestNode::new();
    let hash = node.node.with(|chain| chain.fund(ANYBODY, U256::from(1))).unwrap();
    for _ in 0..8300 {
        node.clock.advance(std::time::Duration::from_secs(1));
        node.node.with(Chain::tick);
    }
    assert_eq!(node.get("eth_getBlockByNumber", json!(["0x2", false])), Value::Null);
    assert_eq!(node.receipt(&json!(hash)), Value::Null);
    let error = node.call(Usdc::balanceOfCall { account: ANYBODY }, json!("0x2")).unwrap_err();
    assert_eq!(words(&error), "historical state of block 2 is not available");
    assert_eq!(node.tokens(ANYBODY, json!("earliest")), U256::from(1));
    assert_eq!(node.tokens(ANYBODY, json!("latest")), U256::from(1));
}

#[test]
fn a_batch_is_answered_in_order_and_notices_are_not() {
    let node = TestNode::new();
    let batch = json!([
        {"jsonrpc": "2.0", "id": "a", "method": "eth_chainId", "params": []},
        {"jsonrpc": "2.0", "method": "eth_blockNumber"},
        {"jsonrpc": "2.0", "id": 2, "method": "eth_mine"},
        {"id": 3},
        {"jsonrpc": "2.0", "id": null, "method": "net_version"},
    ]);
    let answer = node.node.answer(batch.to_string().as_bytes()).unwrap();
    let ids: Vec<&Value> = answer.as_array().unwrap().iter().map(|one| &one["id"]).collect();
    assert_eq!(ids, [&json!("a"), &json!(2), &json!(3), &Value::Null]);
    assert_eq!(answer[0]["result"], "0x14a34");
    assert_eq!(answer[1]["error"]["code"], -32601);
    assert_eq!(answer[2]["error"]["code"], -32600);
    assert_eq!(answer[3]["result"], "84532");
    assert!(node.node.answer(br#"{"jsonrpc":"2.0","method":"eth_blockNumber"}"#).is_none());
    for (body, code) in [("{", -32700), ("[]", -32600), ("3", -32600)] {
        assert_eq!(node.node.answer(body.as_bytes()).unwrap()["error"]["code"], code, "{body}");
    }
}

#[test]
fn logs_are_found_by_address_topics_range_and_hash() {
    let node = TestNode::new();
    for (to, value) in [(ANYBODY, 1), (SOMEBODY, 2)] {
        node.node.with(|chain| chain.fund(to, U256::from(value))).unwrap();
    }
    let count = |filter: Value| node.get("eth_getLogs", json!([filter])).as_array().unwrap().len();
    let transfer = Usdc::Transfer::SIGNATURE_HASH;
    let (anybody, zero) = (ANYBODY.into_word(), B256::ZERO);
    let all = json!({"fromBlock": "0x0", "toBlock": "latest"});
    let with = |key: &str, value: Value| {
        let mut filter = all.clone();
        filter[key] = value;
        filter
    };
    assert_eq!(count(all.clone()), 2);
    assert_eq!(count(with("address", json!(TOKEN))), 2);
    assert_eq!(count(with("address", json!([ANYBODY, TOKEN]))), 2);
    assert_eq!(count(with("address", json!(ANYBODY))), 0);
    assert_eq!(count(with("topics", json!([transfer]))), 2);
    assert_eq!(count(with("topics", json!([null, zero, anybody]))), 1);
    assert_eq!(count(with("topics", json!([[transfer, zero], null, [anybody, SOMEBODY.into_word()]]))), 2);
    assert_eq!(count(with("topics", json!([zero]))), 0);
    assert_eq!(count(json!({"fromBlock": "0x3", "toBlock": "0x4"})), 1);
    // Without a range: the newest block.
    assert_eq!(count(json!({})), 1);
    let block = node.get("eth_getBlockByNumber", json!(["0x2", false]));
    let found = node.get("eth_getLogs", json!([{"blockHash": block["hash"]}]));
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!((&found[0]["logIndex"], &found[0]["blockNumber"]), (&json!("0x0"), &json!("0x2")));
    assert_eq!(found[0], node.receipt(&found[0]["transactionHash"])["logs"][0]);
    assert!(node.ask("eth_getLogs", json!([{"blockHash": zero}])).is_err());
    assert!(node.ask("eth_getLogs", json!([{"fromBlock": "0x3", "toBlock": "0x2"}])).is_err());
}

#[test]
fn fees_stand_still() {
    let node = TestNode::new();
    node.send(&sign(&faucet(), plain(0, ANYBODY, 1, vec![]))).unwrap();
    let history = node.get("eth_feeHistory", json!(["0x5", "latest", [50.0]]));
    assert_eq!(history["oldestBlock"], "0x0");
    assert_eq!(history["baseFeePerGas"], json!(vec![format!("{BASE_FEE:#x}"); 3]));
    assert_eq!(history["gasUsedRatio"].as_array().unwrap().len(), 2);
    assert_eq!(history["reward"], json!([["0x0"], ["0xf4240"]]));
    assert_eq!(node.get("eth_gasPrice", json!([])), "0x1e8480");
}
