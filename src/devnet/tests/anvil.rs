//! The chain beside anvil: the same transactions and questions to both, and the answers must be equal, but for what
//! can't be (hashes that stand on the time, and the names of programs).

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use alloy::signers::SignerSync;
use alloy::sol_types::{SolStruct, eip712_domain};

use super::*;

sol! {
    struct TransferWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }
    interface Payable3009 {
        function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, bytes signature);
    }
}

/// What stands on the time, on a trie, or on the program; only its kind is compared.
const VOLATILE: &[&str] = &[
    "hash",
    "blockHash",
    "parentHash",
    "timestamp",
    "blockTimestamp",
    "stateRoot",
    "mixHash",
    "miner",
    "size",
    "extraData",
    "parentBeaconBlockRoot",
    // Anvil's base fee falls from block to block.
    "baseFeePerGas",
    "effectiveGasPrice",
    "gasPrice",
];

/// What anvil adds to answers, or leaves out of them, where geth doesn't.
const ANVIL_ONLY: &[&str] = &["blobGasPrice", "blobGasUsed", "baseFeePerBlobGas", "blobGasUsedRatio"];

struct Anvil {
    process: Child,
    url: String,
    client: reqwest::Client,
}

impl Drop for Anvil {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

fn binary() -> PathBuf {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node-tools/node_modules/@foundry-rs");
    let found = std::fs::read_dir(&packages).ok().and_then(|directory| {
        directory.flatten().map(|entry| entry.path().join("bin/anvil")).find(|binary| binary.is_file())
    });
    found.unwrap_or_else(|| panic!("no anvil under {}: run `npm ci` in tests/node-tools", packages.display()))
}

impl Anvil {
    async fn start() -> Self {
        let arguments = ["--port", "0", "--host", "127.0.0.1", "--chain-id", "84532", "--hardfork", "prague"];
        let mut process = Command::new(binary())
            .args(arguments)
            .args(["--base-fee", "1000000", "--gas-limit", "60000000", "--accounts", "1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = lines.find_map(|line| line.unwrap().strip_prefix("Listening on ").map(str::to_owned));
        // Nobody reads on: a full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(20))
            .connect_timeout(Duration::from_secs(20))
            .no_proxy()
            .build()
            .unwrap();
        Self { process, url: format!("http://{}", address.expect("anvil said where it listens")), client }
    }

    async fn ask(&self, method: &str, params: &Value) -> Result<Value, Value> {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer: Value = self.client.post(&self.url).json(&request).send().await.unwrap().json().await.unwrap();
        answer.get("result").cloned().ok_or_else(|| answer["error"].clone())
    }
}

/// Both chains, and what they disagreed on.
struct Pair {
    ours: TestNode,
    anvil: Anvil,
    asked: BTreeSet<String>,
    differences: Vec<String>,
}

impl Pair {
    async fn start() -> Self {
        let (ours, anvil) = (TestNode::new(), Anvil::start().await);
        let code = ours.get("eth_getCode", json!([TOKEN]));
        let balance = ours.get("eth_getBalance", json!([faucet().address()]));
        anvil.ask("anvil_setCode", &json!([TOKEN, code])).await.unwrap();
        anvil.ask("anvil_setNonce", &json!([TOKEN, "0x1"])).await.unwrap();
        anvil.ask("anvil_setBalance", &json!([faucet().address(), balance])).await.unwrap();
        Self { ours, anvil, asked: BTreeSet::new(), differences: Vec::new() }
    }

    async fn both(&mut self, method: &str, params: &Value) -> (Result<Value, Value>, Result<Value, Value>) {
        self.asked.insert(method.to_owned());
        (self.ours.ask(method, params.clone()), self.anvil.ask(method, params).await)
    }

    /// Asks both the same and compares the answers, or whether both refuse.
    async fn same(&mut self, method: &str, params: Value) {
        let (ours, theirs) = self.both(method, &params).await;
        let name = format!("{method} {params}");
        match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => self.compare(&name, ours, theirs),
            (Err(ours), Err(theirs)) => {
                // What is told of a revert must be the same; other refusals each in the words of its program.
                if (ours["code"] == 3 || theirs["code"] == 3) && ours != theirs {
                    self.differences.push(format!("{name}: {ours} / {theirs}"));
                }
            }
            _ => self.differences.push(format!("{name}: {ours:?} / {theirs:?}")),
        }
    }

    /// Asks each about a block of its own.
    async fn same_of_each(&mut self, method: &str, params: impl Fn(&Value) -> Value, block: &str) {
        let by_number = json!([block, false]);
        let (ours, theirs) = self.both("eth_getBlockByNumber", &by_number).await;
        let (ours, theirs) = (params(&ours.unwrap()["hash"]), params(&theirs.unwrap()["hash"]));
        self.asked.insert(method.to_owned());
        let (ours, theirs) = (self.ours.ask(method, ours), self.anvil.ask(method, &theirs).await);
        self.compare(&format!("{method} by hash"), &ours.unwrap(), &theirs.unwrap());
    }

    /// Both refuse, each in these words.
    async fn refuse(&mut self, method: &str, params: Value, our_words: &str, anvil_words: &str) {
        let (ours, theirs) = self.both(method, &params).await;
        let (ours, theirs) = (ours.unwrap_err(), theirs.unwrap_err());
        for (error, expected) in [(&ours, our_words), (&theirs, anvil_words)] {
            if !words(error).to_lowercase().contains(expected) {
                self.differences.push(format!("{method}: {error} says no {expected:?}"));
            }
        }
    }

    fn compare(&mut self, path: &str, ours: &Value, theirs: &Value) {
        match (ours, theirs) {
            (Value::Object(our_fields), Value::Object(their_fields)) => {
                let names: BTreeSet<&String> = our_fields.keys().chain(their_fields.keys()).collect();
                for name in names {
                    let path = format!("{path}.{name}");
                    match (our_fields.get(name), their_fields.get(name)) {
                        _ if ANVIL_ONLY.contains(&name.as_str()) => {}
                        (Some(ours), Some(theirs)) if VOLATILE.contains(&name.as_str()) => {
                            self.compare_kind(&path, ours, theirs);
                        }
                        (Some(ours), Some(theirs)) => self.compare(&path, ours, theirs),
                        // Anvil's own addition to receipts, and a number where everything else is hex.
                        (None, Some(Value::Number(_))) if name == "blockTimestamp" => {}
                        (ours, theirs) => self.differences.push(format!("{path}: {ours:?} / {theirs:?}")),
                    }
                }
            }
            (Value::Array(our_list), Value::Array(their_list)) if our_list.len() == their_list.len() => {
                for (index, (ours, theirs)) in our_list.iter().zip(their_list).enumerate() {
                    self.compare(&format!("{path}[{index}]"), ours, theirs);
                }
            }
            _ if ours != theirs => self.differences.push(format!("{path}: {ours} / {theirs}")),
            _ => {}
        }
    }

    /// Quantities beside quantities, hashes beside hashes, lists of them beside lists.
    fn compare_kind(&mut self, path: &str, ours: &Value, theirs: &Value) {
        let kind = |value: &Value| match value {
            Value::String(text) if !text.starts_with("0x") => "text",
            Value::String(text) if text.len() == 66 => "hash",
            Value::String(text) if text.len() == 42 => "address",
            Value::String(_) => "quantity",
            Value::Array(_) => "list",
            Value::Null => "null",
            _ => "other",
        };
        if kind(ours) != kind(theirs) {
            self.differences.push(format!("{path}: {ours} / {theirs} are not of one kind"));
        }
    }

    /// Asks each for a quantity, which depends on the program.
    async fn same_kind(&mut self, method: &str, params: Value) {
        let (ours, theirs) = self.both(method, &params).await;
        self.compare_kind(method, &ours.unwrap(), &theirs.unwrap());
    }
}

/// Every method that the gateway names in its sources.
fn methods_of_the_gateway() -> BTreeSet<String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/chain/evm");
    let mut methods = BTreeSet::new();
    for file in std::fs::read_dir(sources).unwrap().flatten().map(|entry| entry.path()) {
        if file.ends_with("tests.rs") || file.ends_with("fake.rs") {
            continue;
        }
        let text = std::fs::read_to_string(file).unwrap();
        methods
            .extend(text.split('"').filter(|word| word.starts_with("eth_") && !word.contains(' ')).map(str::to_owned));
    }
    methods
}

/// A payment as the gateway settles it.
fn payment(payer: &PrivateKeySigner, value: u64) -> Vec<u8> {
    let terms = TransferWithAuthorization {
        from: payer.address(),
        to: SOMEBODY,
        value: U256::from(value),
        validAfter: U256::ZERO,
        validBefore: U256::from(u64::MAX),
        nonce: B256::with_last_byte(7),
    };
    let domain = eip712_domain! { name: "USDC", version: "2", chain_id: CHAIN_ID, verifying_contract: TOKEN, };
    let signature = payer.sign_hash_sync(&terms.eip712_signing_hash(&domain)).unwrap();
    Payable3009::transferWithAuthorizationCall {
        from: terms.from,
        to: terms.to,
        value: terms.value,
        validAfter: terms.validAfter,
        validBefore: terms.validBefore,
        nonce: terms.nonce,
        signature: signature.as_bytes().into(),
    }
    .abi_encode()
}

async fn replay_transactions(pair: &mut Pair) -> Vec<Value> {
    let (faucet, payer) = (faucet(), spender());
    let mint = Usdc::mintCall { to: payer.address(), value: U256::from(1000) }.abi_encode();
    let (paid, too_much) = (payment(&payer, 10), payment(&payer, 1001));
    let state =
        Usdc::authorizationStateCall { authorizer: payer.address(), nonce: B256::with_last_byte(7) }.abi_encode();
    let settle = |input: &[u8]| json!([{"from": faucet.address(), "to": TOKEN, "input": Bytes::copy_from_slice(input), "gas": "0x30d40"}]);
    pair.same("eth_estimateGas", settle(&paid)).await;
    let mut hashes = Vec::new();
    for unsigned in [
        plain(0, payer.address(), 1_000_000_000_000_000_000, vec![]),
        plain(1, TOKEN, 0, mint),
        plain(2, TOKEN, 0, paid.clone()),
        // The second time it fails, and is mined.
        plain(3, TOKEN, 0, paid.clone()),
        TxEip1559 {
            to: TxKind::Create,
            ..plain(4, TOKEN, 0, alloy::hex!("60076001556001600c60003960016000f300").into())
        },
    ] {
        if unsigned.nonce == 2 {
            pair.same("eth_estimateGas", settle(&paid)).await;
            pair.same("eth_estimateGas", settle(&too_much)).await;
        }
        let raw = sign(&faucet, unsigned);
        pair.same("eth_sendRawTransaction", json!([raw])).await;
        hashes.push(json!(alloy::primitives::keccak256(&raw)));
    }
    for block in ["0x0", "0x1", "0x2", "0x3", "latest", "earliest", "pending"] {
        pair.same("eth_call", json!([{"to": TOKEN, "input": Bytes::from(state.clone())}, block])).await;
        let balance = Usdc::balanceOfCall { account: SOMEBODY }.abi_encode();
        pair.same("eth_call", json!([{"to": TOKEN, "data": Bytes::from(balance)}, block])).await;
        for account in [faucet.address(), payer.address(), SOMEBODY, TOKEN] {
            pair.same("eth_getTransactionCount", json!([account, block])).await;
        }
        pair.same("eth_getCode", json!([faucet.address().create(4), block])).await;
    }
    pair.same("eth_estimateGas", settle(&paid)).await;
    pair.same("eth_call", json!([settle(&paid)[0], "latest"])).await;
    hashes
}

async fn replay_questions(pair: &mut Pair, hashes: &[Value]) {
    for hash in hashes.iter().chain([&json!(B256::ZERO)]) {
        pair.same("eth_getTransactionReceipt", json!([hash])).await;
        pair.same("eth_getTransactionByHash", json!([hash])).await;
    }
    for block in ["0x3", "latest", "0x63"] {
        pair.same("eth_getBlockByNumber", json!([block, false])).await;
        pair.same("eth_getBlockByNumber", json!([block, true])).await;
        pair.same("eth_getBlockReceipts", json!([block])).await;
    }
    pair.same_of_each("eth_getBlockByHash", |hash| json!([hash, true]), "0x3").await;
    pair.same_of_each("eth_getBlockReceipts", |hash| json!([hash]), "0x3").await;
    pair.same_of_each("eth_getLogs", |hash| json!([{"blockHash": hash}]), "0x3").await;
    pair.same("eth_getBlockByHash", json!([B256::ZERO, false])).await;
    let (payer, transfer) = (spender().address().into_word(), Usdc::Transfer::SIGNATURE_HASH);
    for filter in [
        json!({"fromBlock": "0x0", "toBlock": "latest"}),
        json!({"fromBlock": "0x0", "toBlock": "latest", "address": TOKEN, "topics": [[transfer], payer]}),
        json!({"fromBlock": "0x1", "toBlock": "0x2", "address": [TOKEN, SOMEBODY], "topics": [null, null, payer]}),
        json!({"fromBlock": "0x0", "toBlock": "latest", "address": SOMEBODY}),
        json!({}),
    ] {
        pair.same("eth_getLogs", json!([filter])).await;
    }
    let contract = faucet().address().create(4);
    pair.same("eth_getStorageAt", json!([contract, "0x1", "latest"])).await;
    pair.same("eth_getBalance", json!([SOMEBODY, "latest"])).await;
    pair.same("eth_getBalance", json!([spender().address(), "0x1"])).await;
    // No such contract: not the OP stack.
    pair.same(
        "eth_call",
        json!([{"to": "0x420000000000000000000000000000000000000F", "input": "0x12345678"}, "latest"]),
    )
    .await;
    for method in ["eth_chainId", "net_version", "eth_blockNumber", "eth_syncing"] {
        pair.same(method, json!([])).await;
    }
    for method in ["eth_gasPrice", "eth_maxPriorityFeePerGas", "web3_clientVersion"] {
        pair.same_kind(method, json!([])).await;
    }
}

async fn replay_refusals(pair: &mut Pair) {
    let raw = |nonce, unsigned: fn(TxEip1559) -> TxEip1559| {
        json!([sign(&faucet(), unsigned(plain(nonce, ANYBODY, 1, vec![])))])
    };
    let send = "eth_sendRawTransaction";
    pair.refuse(send, raw(0, |it| it), "nonce too low", "nonce too low").await;
    pair.same(send, raw(9, |it| it)).await;
    pair.refuse(send, raw(9, |it| it), "already known", "already imported").await;
    let poor = PrivateKeySigner::from_bytes(&B256::with_last_byte(9)).unwrap();
    let unpaid = json!([sign(&poor, plain(0, ANYBODY, 1, vec![]))]);
    pair.refuse(
        send,
        unpaid,
        "insufficient funds for gas * price + value",
        "insufficient funds for gas * price + value",
    )
    .await;
    pair.refuse(
        send,
        raw(5, |it| TxEip1559 { gas_limit: 20_000, ..it }),
        "intrinsic gas too low",
        "intrinsic gas too low",
    )
    .await;
    pair.refuse(send, raw(5, |it| TxEip1559 { chain_id: 5, ..it }), "invalid chain id", "invalid chain id").await;
    for method in ["eth_nothing", "eth_call"] {
        let (ours, theirs) = pair.both(method, &json!([])).await;
        let (ours, theirs) = (ours.unwrap_err()["code"].clone(), theirs.unwrap_err()["code"].clone());
        pair.compare(&format!("{method} code"), &ours, &theirs);
    }
    pair.same("eth_call", json!([{"to": TOKEN, "input": "0x"}, "0x63"])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_that_the_gateway_calls_answers_as_anvil_does() {
    let mut pair = Pair::start().await;
    let hashes = replay_transactions(&mut pair).await;
    replay_questions(&mut pair, &hashes).await;
    replay_refusals(&mut pair).await;
    assert!(pair.differences.is_empty(), "ours / anvil's:\n{}", pair.differences.join("\n"));
    let unasked: Vec<_> = methods_of_the_gateway().difference(&pair.asked).cloned().collect();
    assert!(unasked.is_empty(), "not compared: {unasked:?}");
    assert!(methods_of_the_gateway().len() >= 10);
}
