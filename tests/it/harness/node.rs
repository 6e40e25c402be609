//! A chain: anvil, with the test token at the address of USDC on Base Sepolia.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use alloy::consensus::{Transaction, TxEnvelope};
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::{Address, B256, U256, address, keccak256};
use alloy::sol;
use alloy::sol_types::{SolCall, SolEvent};
use serde_json::{Value, json};

use super::chain::{Chain, Moved};
use super::http::Call;
use super::payer::{Header, Payer, Payment, Terms};
use super::shop::Plan;
use super::{eventually, free_port};

pub const CHAIN_ID: u64 = 84_532;
pub const USDC: Address = address!("036CbD53842c5426634e7929541eC2318f3dCF7e");
pub const PAY_TO: Address = address!("209693Bc6afc0C5328bA36FaF03C514EF312287C");
/// Accounts 0 and 1 of anvil's published development mnemonic: the gateways' gas payers.
pub const SIGNER: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
pub const SIGNER_ADDRESS: Address = address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
pub const OTHER_SIGNER: &str = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
pub const THIRD_SIGNER: &str = "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a";

sol! {
    interface Token {
        function mint(address to, uint256 value);
        function balanceOf(address account) returns (uint256);
        function transfer(address to, uint256 value) returns (bool);
        event Transfer(address indexed from, address indexed to, uint256 value);
        event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
    }
}

/// Money that arrived at `PAY_TO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    pub from: Address,
    pub value: U256,
    pub transaction: String,
    /// The authorization's nonce.
    pub nonce: B256,
}

/// A node of its own chain.
pub struct Node {
    pub port: u16,
    child: Child,
}

impl Node {
    /// Mines each transaction at once, and an empty block every second: without that the chain's clock would stand still.
    pub async fn start() -> Self {
        let binary = manifest().join("tests/node-tools/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil");
        assert!(binary.is_file(), "no anvil at {}: run `npm ci --prefix tests/node-tools`", binary.display());
        for _ in 0..5 {
            let port = free_port();
            let mut command = Command::new(&binary);
            command.args(["--host", "127.0.0.1", "--silent", "--block-time", "1", "--mixed-mining"]);
            command.args(["--port", &port.to_string(), "--chain-id", &CHAIN_ID.to_string()]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut node = Self { port, child: command.spawn().unwrap() };
            if node.is_up().await {
                node.place("TestUSDC", USDC).await;
                return node;
            }
        }
        panic!("anvil found no port");
    }

    /// Whether it came up; it didn't if somebody else got its port.
    async fn is_up(&mut self) -> bool {
        loop {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if self.ask("eth_chainId", json!([])).await.is_some_and(|answer| answer.get("result").is_some()) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn ask(&self, method: &str, params: Value) -> Option<Value> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let call = Call::post("/", body).with("Content-Type", "application/json");
        let answer = call.send(self.port).await.ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// A call straight to the node, past the proxy.
    pub async fn rpc(&self, method: &str, params: Value) -> Value {
        let answer = self.ask(method, params).await.unwrap_or_else(|| panic!("{method}: no answer"));
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// Puts a contract's runtime code from `tests/contracts/artifacts` at an address.
    pub async fn place(&self, contract: &str, at: Address) {
        let file = manifest().join(format!("tests/contracts/artifacts/{contract}.json"));
        let artifact: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        self.rpc("anvil_setCode", json!([at, artifact["deployedBytecode"]])).await;
    }

    pub async fn mint(&self, to: Address, value: u64) {
        let call = Token::mintCall { to, value: U256::from(value) };
        self.transact(call.abi_encode(), None).await;
    }

    /// As `mint`, by an account that was impersonated.
    pub async fn mint_from(&self, from: Address, to: Address, value: u64) {
        let call = Token::mintCall { to, value: U256::from(value) };
        self.transact(call.abi_encode(), Some(from)).await;
    }

    /// Has the token called by `from`, or by an account that has no other part, and waits for the receipt, which must
    /// tell of success.
    pub async fn transact(&self, data: Vec<u8>, from: Option<Address>) -> String {
        let accounts = self.rpc("eth_accounts", json!([])).await;
        let from = from.map_or_else(|| accounts[9].clone(), |from| json!(from));
        let call = json!([{"from": from, "to": USDC, "data": alloy::hex::encode_prefixed(data), "gas": "0x7a120"}]);
        let hash = self.rpc("eth_sendTransaction", call).await;
        let receipt = eventually("a receipt", Duration::from_secs(10), || async {
            let receipt = self.rpc("eth_getTransactionReceipt", json!([hash])).await;
            (!receipt.is_null()).then_some(receipt)
        })
        .await;
        assert_eq!(receipt["status"], "0x1", "{receipt}");
        hash.as_str().unwrap().to_owned()
    }

    /// Has an account act whose key isn't at hand.
    pub async fn impersonate(&self, account: Address) {
        self.rpc("anvil_impersonateAccount", json!([account])).await;
        self.rpc("anvil_setBalance", json!([account, "0xde0b6b3a7640000"])).await;
    }

    /// Moves all that an account has to somebody else.
    pub async fn empty(&self, account: Address) {
        self.impersonate(account).await;
        let value = U256::from(self.balance(account).await);
        let call = Token::transferCall { to: Address::repeat_byte(0xee), value };
        self.transact(call.abi_encode(), Some(account)).await;
    }

    pub async fn balance(&self, account: Address) -> u64 {
        let data = alloy::hex::encode_prefixed(Token::balanceOfCall { account }.abi_encode());
        let answer = self.rpc("eth_call", json!([{"to": USDC, "data": data}, "latest"])).await;
        answer.as_str().unwrap().parse::<U256>().unwrap().to::<u64>()
    }

    /// Everything that was ever paid to `PAY_TO`, oldest first.
    pub async fn transfers(&self) -> Vec<Transfer> {
        let filter =
            |topics: Value| json!([{"address": USDC, "fromBlock": "0x0", "toBlock": "latest", "topics": topics}]);
        let paid =
            self.rpc("eth_getLogs", filter(json!([Token::Transfer::SIGNATURE_HASH, null, PAY_TO.into_word()]))).await;
        let used = self.rpc("eth_getLogs", filter(json!([Token::AuthorizationUsed::SIGNATURE_HASH]))).await;
        let word = |log: &Value, topic: usize| log["topics"][topic].as_str().unwrap().parse::<B256>().unwrap();
        let transfer = |log: &Value| {
            let transaction = log["transactionHash"].as_str().unwrap().to_owned();
            let from = Address::from_word(word(log, 1));
            let own: Vec<B256> = used
                .as_array()
                .unwrap()
                .iter()
                .filter(|other| other["transactionHash"] == transaction.as_str() && word(other, 1) == from.into_word())
                .map(|other| word(other, 2))
                .collect();
            assert_eq!(own.len(), 1, "a transfer to the shop by other means than one authorization: {log}");
            Transfer { from, value: log["data"].as_str().unwrap().parse().unwrap(), transaction, nonce: own[0] }
        };
        paid.as_array().unwrap().iter().map(transfer).collect()
    }
}

impl Chain for Node {
    type Payer = Payer;
    type Payment = Payment;

    const SEND: &'static str = "eth_sendRawTransaction";

    fn port(&self) -> u16 {
        self.port
    }

    fn network(&self, rpc_port: u16, plan: &Plan) -> String {
        let signer = match plan.second_signer {
            None => "{ env = \"BASE_SEPOLIA_SIGNER\" }",
            Some(_) => "[{ env = \"BASE_SEPOLIA_SIGNER\" }, { env = \"SECOND_SIGNER\" }]",
        };
        format!(
            "[networks.base-sepolia]\nrpc_url = \"http://127.0.0.1:{rpc_port}{}\"\n\
             signer = {signer}\npay_to = \"{PAY_TO}\"\n{}",
            plan.rpc_path, plan.network
        )
    }

    fn environment(&self, plan: &Plan) -> Vec<(&'static str, String)> {
        vec![
            ("BASE_SEPOLIA_SIGNER", plan.signer.to_owned()),
            ("SECOND_SIGNER", plan.second_signer.unwrap_or_default().to_owned()),
        ]
    }

    async fn fund_payer(&self, value: u64) -> Payer {
        let payer = Payer::random();
        self.mint(payer.address, value).await;
        payer
    }

    async fn pay(&self, payer: &Payer, terms: &Terms) -> Payment {
        payer.pay(terms)
    }

    fn header(payment: &Payment) -> Header {
        payment.v2()
    }

    async fn moved(&self) -> Vec<Moved> {
        let moved = |Transfer { from, value, transaction, nonce }| Moved {
            transaction,
            authorization: format!("{from} {nonce}"),
            value,
        };
        self.transfers().await.into_iter().map(moved).collect()
    }

    fn sent(params: &Value) -> Option<String> {
        let raw = params[0].as_str().unwrap();
        let bytes = alloy::hex::decode(raw).unwrap();
        let transaction = TxEnvelope::decode_2718(&mut bytes.as_slice()).unwrap();
        let is_filler = transaction.value() == U256::ZERO && transaction.input().is_empty();
        (!is_filler).then(|| hash_of(raw))
    }

    fn payment_secret(payload: &Value) -> String {
        payload["signature"].as_str().unwrap().trim_start_matches("0x").to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A raw transaction's hash.
pub fn hash_of(raw: &str) -> String {
    keccak256(alloy::hex::decode(raw).unwrap()).to_string()
}

pub fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
