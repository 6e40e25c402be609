//! A chain: a Solana node, with test money at the address of devnet's USDC and a Token-2022 mint beside it; and a payer on
//! it, who builds the transactions that official clients do.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use alloy::primitives::U256;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use solana_keypair::Keypair;
use solana_message::{VersionedMessage, v0};
use solana_pubkey::Pubkey;
use solana_sdk::hash::Hash;
use solana_sdk::instruction::{AccountMeta, Instruction};
use solana_sdk::signature::Signature;
use solana_signer::Signer;
use solana_transaction::versioned::VersionedTransaction;
use spl_associated_token_account_interface::address::get_associated_token_address_with_program_id as token_account;

use super::chain::{Chain, Moved};
use super::http::Call;
use super::node::manifest;
use super::payer::{Header, Terms, encode};
use super::shop::Plan;

pub const USDC: Pubkey = Pubkey::from_str_const("4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU");
/// A token of the Token-2022 program.
pub const TOKEN_2022_MINT: Pubkey = Pubkey::from_str_const("Tok2yZbrMXXkR4Q4G9BV9ZZWvLPUo9xjWyjkbYqnYKy");
pub const PAY_TO: Pubkey = Pubkey::from_str_const("2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4");

const TOKEN: Pubkey = Pubkey::from_str_const("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA");
const TOKEN_2022: Pubkey = Pubkey::from_str_const("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb");
const COMPUTE_BUDGET: Pubkey = Pubkey::from_str_const("ComputeBudget111111111111111111111111111111");
const MEMO: Pubkey = Pubkey::from_str_const("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr");

/// Block time unless a test wants another, as on the public chains: a block hash lives for 150 of them, a minute.
const SLOT_MILLIS: u64 = 400;
/// What the fee payer has: 10 SOL.
const FEE_PAYER_LAMPORTS: u64 = 10_000_000_000;
const READS_AGAIN: usize = 20;
const DECIMALS: u8 = 6;
/// Most transactions that a node lists with one call.
const HISTORY_MAX: usize = 1000;

/// A node of its own chain.
pub struct SolanaNode {
    pub port: u16,
    genesis_hash: String,
    /// The gateway's fee payer.
    pub signer: Keypair,
    child: Child,
}

impl SolanaNode {
    pub async fn start() -> Self {
        Self::start_with(SLOT_MILLIS).await
    }

    pub async fn start_with(slot_millis: u64) -> Self {
        let binary = manifest().join("tests/solana-node/target/debug/solana-node");
        assert!(
            binary.is_file(),
            "no Solana node at {}: `tests/run.sh` builds it, or `cargo build --locked --manifest-path \
             tests/solana-node/Cargo.toml --target-dir tests/solana-node/target`",
            binary.display()
        );
        let mut command = Command::new(&binary);
        command.args(["--slot-ms", &slot_millis.to_string()]);
        // It ends when its standard input does.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).expect("the Solana node says where it listens");
        let (_, port) = ready["rpc_url"].as_str().unwrap().rsplit_once(':').unwrap();
        let genesis_hash = ready["genesis_hash"].as_str().unwrap().to_owned();
        let node = Self { port: port.parse().unwrap(), genesis_hash, signer: Keypair::new(), child };
        node.set_lamports(&node.signer.pubkey(), FEE_PAYER_LAMPORTS).await;
        for mint in [USDC, TOKEN_2022_MINT] {
            node.set_tokens(&PAY_TO, &mint, 0).await;
        }
        node
    }

    /// A call straight to the node, past the proxy: its result or its error.
    pub async fn try_rpc(&self, method: &str, params: Value) -> Result<Value, Value> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let call = Call::local("/").with("Content-Type", "application/json");
        let call = Call { method: "POST".to_owned(), body: Some(body.into_bytes()), ..call };
        // A node that is busy takes its time; what only asks may be asked again.
        let mut answer = call.send(self.port).await;
        for _ in 0..READS_AGAIN {
            if answer.is_ok() || !method.starts_with("get") {
                break;
            }
            answer = call.send(self.port).await;
        }
        let answer = answer.unwrap_or_else(|error| panic!("{method}: {error}"));
        let mut answer: Value = serde_json::from_slice(&answer.body).unwrap();
        if answer["error"].is_null() { Ok(answer["result"].take()) } else { Err(answer["error"].take()) }
    }

    /// As `try_rpc`, where there is nothing to refuse.
    pub async fn rpc(&self, method: &str, params: Value) -> Value {
        self.try_rpc(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    pub async fn set_lamports(&self, account: &Pubkey, lamports: u64) {
        self.rpc("surfnet_setAccount", json!([account.to_string(), {"lamports": lamports}])).await;
    }

    /// Gives an owner a token account with this much in it.
    pub async fn set_tokens(&self, owner: &Pubkey, mint: &Pubkey, amount: u64) {
        let params = json!([owner.to_string(), mint.to_string(), {"amount": amount}, program_of(mint).to_string()]);
        self.rpc("surfnet_setTokenAccount", params).await;
    }

    /// Has a payer own this much of each token.
    pub async fn fund(&self, payer: &SolanaPayer, value: u64) {
        for mint in [USDC, TOKEN_2022_MINT] {
            self.set_tokens(&payer.key.pubkey(), &mint, value).await;
        }
    }

    pub async fn lamports(&self, account: &Pubkey) -> u64 {
        let params = json!([account.to_string(), {"commitment": "processed"}]);
        self.rpc("getBalance", params).await["value"].as_u64().unwrap()
    }

    pub async fn recent_blockhash(&self) -> Hash {
        let answer = self.rpc("getLatestBlockhash", json!([{"commitment": "confirmed"}])).await;
        answer["value"]["blockhash"].as_str().unwrap().parse().unwrap()
    }

    /// Waits until no transaction with this block's hash can land any more.
    pub async fn outlive(&self, blockhash: &Hash) {
        super::eventually("the block hash to be forgotten", std::time::Duration::from_secs(60), || async {
            let params = json!([blockhash.to_string(), {"commitment": "processed"}]);
            (self.rpc("isBlockhashValid", params).await["value"] == false).then_some(())
        })
        .await;
    }

    /// What a transaction moved into the shop's account of a mint; nothing if it failed.
    async fn arrived(&self, signature: &str, mint: &Pubkey) -> Option<u64> {
        let params = json!([
            signature,
            {"commitment": "confirmed", "encoding": "json", "maxSupportedTransactionVersion": 0}
        ]);
        let transaction = self.rpc("getTransaction", params).await;
        assert!(transaction["meta"]["err"].is_null(), "{transaction}");
        let balance = |side: &str| -> u64 {
            let rows = transaction["meta"][side].as_array().unwrap();
            let own = rows.iter().find(|row| row["owner"] == PAY_TO.to_string() && row["mint"] == mint.to_string());
            own.map_or(0, |row| row["uiTokenAmount"]["amount"].as_str().unwrap().parse().unwrap())
        };
        balance("postTokenBalances").checked_sub(balance("preTokenBalances")).filter(|moved| *moved > 0)
    }
}

impl Drop for SolanaNode {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Chain for SolanaNode {
    type Payer = SolanaPayer;
    type Payment = SolanaPayment;

    const SEND: &'static str = "sendTransaction";

    fn port(&self) -> u16 {
        self.port
    }

    fn network(&self, rpc_port: u16, plan: &Plan) -> String {
        format!(
            "[networks.solana-devnet]\nrpc_url = \"http://127.0.0.1:{rpc_port}\"\ngenesis_hash = \"{}\"\n\
             signer = {{ env = \"SOLANA_SIGNER\" }}\npay_to = \"{PAY_TO}\"\n{}",
            self.genesis_hash, plan.network
        )
    }

    fn environment(&self, _plan: &Plan) -> Vec<(&'static str, String)> {
        vec![("SOLANA_SIGNER", self.signer.to_base58_string())]
    }

    async fn fund_payer(&self, value: u64) -> SolanaPayer {
        let payer = SolanaPayer { key: Keypair::new() };
        self.fund(&payer, value).await;
        payer
    }

    async fn pay(&self, payer: &SolanaPayer, terms: &Terms) -> SolanaPayment {
        payer.pay(terms, self.recent_blockhash().await)
    }

    fn header(payment: &SolanaPayment) -> Header {
        payment.v2()
    }

    async fn moved(&self) -> Vec<Moved> {
        let mut moved = Vec::new();
        for mint in [USDC, TOKEN_2022_MINT] {
            let account = token_account(&PAY_TO, &mint, &program_of(&mint));
            let params = json!([account.to_string(), {"commitment": "confirmed", "limit": HISTORY_MAX}]);
            let seen = self.rpc("getSignaturesForAddress", params).await;
            assert!(seen.as_array().unwrap().len() < HISTORY_MAX, "more than one answer holds");
            for row in seen.as_array().unwrap().iter().rev().filter(|row| row["err"].is_null()) {
                let transaction = row["signature"].as_str().unwrap().to_owned();
                if let Some(value) = self.arrived(&transaction, &mint).await {
                    let authorization = transaction.clone();
                    moved.push(Moved { transaction, authorization, value: U256::from(value) });
                }
            }
        }
        moved
    }

    fn sent(params: &Value) -> Option<String> {
        Some(decode(params[0].as_str().unwrap()).signatures[0].to_string())
    }

    fn payment_secret(payload: &Value) -> String {
        payload["transaction"].as_str().unwrap().to_owned()
    }
}

fn program_of(mint: &Pubkey) -> Pubkey {
    if *mint == TOKEN_2022_MINT { TOKEN_2022 } else { TOKEN }
}

fn decode(transaction: &str) -> VersionedTransaction {
    wincode::deserialize(&STANDARD.decode(transaction).unwrap()).unwrap()
}

pub struct SolanaPayer {
    pub key: Keypair,
}

/// A payment, to be presented as often as one likes.
#[derive(Debug, Clone)]
pub struct SolanaPayment {
    pub terms: Terms,
    /// Base64, as on the wire.
    pub transaction: String,
    pub blockhash: Hash,
}

impl SolanaPayer {
    /// An honest payment: what official clients build and sign (protocol §4).
    pub fn pay(&self, terms: &Terms, blockhash: Hash) -> SolanaPayment {
        let offer = &terms.v2;
        let text = |field: &Value| field.as_str().unwrap().to_owned();
        let account = |field: &Value| text(field).parse::<Pubkey>().unwrap();
        let (mint, pay_to, fee_payer) =
            (account(&offer["asset"]), account(&offer["payTo"]), account(&offer["extra"]["feePayer"]));
        let program = program_of(&mint);
        let amount: u64 = text(&offer["amount"]).parse().unwrap();
        let plain = |program_id, data| Instruction { program_id, accounts: Vec::new(), data };
        let instructions = [
            plain(COMPUTE_BUDGET, [&[2][..], &20_000_u32.to_le_bytes()].concat()),
            plain(COMPUTE_BUDGET, [&[3][..], &1_u64.to_le_bytes()].concat()),
            Instruction {
                program_id: program,
                accounts: vec![
                    AccountMeta::new(token_account(&self.key.pubkey(), &mint, &program), false),
                    AccountMeta::new_readonly(mint, false),
                    AccountMeta::new(token_account(&pay_to, &mint, &program), false),
                    AccountMeta::new_readonly(self.key.pubkey(), true),
                ],
                data: [&[12][..], &amount.to_le_bytes(), &[DECIMALS]].concat(),
            },
            plain(MEMO, memo(&offer["extra"]["memo"])),
        ];
        let message = v0::Message::try_compile(&fee_payer, &instructions, &[], blockhash).unwrap();
        assert_eq!(message.header.num_required_signatures, 2);
        let message = VersionedMessage::V0(message);
        let signatures = vec![Signature::default(), self.key.sign_message(&message.serialize())];
        SolanaPayment {
            terms: terms.clone(),
            transaction: encode_transaction(&VersionedTransaction { signatures, message }),
            blockhash,
        }
    }
}

/// What the offer asks for, else what makes a payment one of its kind.
fn memo(asked: &Value) -> Vec<u8> {
    match asked.as_str() {
        Some(memo) => memo.as_bytes().to_vec(),
        None => {
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes).unwrap();
            alloy::hex::encode(bytes).into_bytes()
        }
    }
}

fn encode_transaction(transaction: &VersionedTransaction) -> String {
    STANDARD.encode(wincode::serialize(transaction).unwrap())
}

impl SolanaPayment {
    pub fn v2(&self) -> Header {
        let payment =
            json!({"x402Version": 2, "accepted": self.terms.v2, "payload": {"transaction": self.transaction}});
        ("PAYMENT-SIGNATURE", encode(&payment))
    }

    pub fn v1(&self) -> Header {
        let payment = json!({
            "x402Version": 1,
            "scheme": "exact",
            "network": self.terms.v1["network"],
            "payload": {"transaction": self.transaction},
        });
        ("X-PAYMENT", encode(&payment))
    }

    /// The same message with one bit of the payer's signature turned.
    pub fn badly_signed(&self) -> Self {
        let mut transaction = decode(&self.transaction);
        let mut signature = <[u8; 64]>::try_from(transaction.signatures[1].as_ref()).unwrap();
        signature[0] ^= 1;
        transaction.signatures[1] = Signature::from(signature);
        Self { transaction: encode_transaction(&transaction), ..self.clone() }
    }
}
