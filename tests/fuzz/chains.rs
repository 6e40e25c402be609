//! What payers sign, for each family of chains: whatever a scheme reads and finds to match the terms pays what they ask.

use std::path::Path;
use std::sync::Arc;

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
use spl_associated_token_account_interface::address::get_associated_token_address;
use spl_token_interface::instruction::TokenInstruction;
use tollhouse::chain::{self, Chain, ChainObserver, NoObserver};
use tollhouse::config;
use tollhouse::protocol::PaymentRequirements;
use tollhouse::types::{Clock, ManualClock, UnixMillis};

use crate::fuzz;

const EVM_PAY_TO: &str = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";
const EVM_USDC: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
const NOW: u64 = 1_800_000_000;

/// The only network of a configuration; `key` is its signer's.
fn connect(network: &str, key: &str) -> Arc<dyn Chain> {
    let text = format!("[upstreams.api]\nservers = [\"127.0.0.1:9\"]\n{network}\n[routes]\n\"/paid\" = \"$0.01\"\n");
    let parsed = config::parse(&text, Path::new("fuzz.toml"), &|_| Some(key.to_owned()));
    let config = parsed.into_result().unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(UnixMillis::from_secs(NOW)));
    let observer: Arc<dyn ChainObserver> = Arc::new(NoObserver);
    chain::build(&config, &clock, &observer).unwrap().remove(0)
}

fn terms(fields: Value) -> PaymentRequirements {
    serde_json::from_value(fields).unwrap()
}

/// Whether the scheme takes a payload for the terms; then it must pay them.
fn is_taken(scheme: &dyn Chain, terms: &PaymentRequirements, payload: &Value) -> bool {
    let Ok(payment) = scheme.decode(payload, terms) else { return false };
    if payment.check(terms, UnixMillis::from_secs(NOW)).is_err() {
        return false;
    }
    let facts = payment.facts();
    assert_eq!((&facts.pay_to, &facts.asset, facts.amount), (&terms.pay_to, &terms.asset, terms.amount));
    assert!(facts.valid_until > UnixMillis::from_secs(NOW));
    true
}

#[test]
fn an_eip3009_payload_that_matches_the_terms_pays_them() {
    let network = format!(
        "[networks.base-sepolia]\nrpc_url = \"http://127.0.0.1:9\"\nsigner = {{ env = \"KEY\" }}\npay_to = \"{EVM_PAY_TO}\""
    );
    let scheme = connect(&network, &"11".repeat(32));
    let terms = terms(json!({"scheme": "exact", "network": "eip155:84532", "amount": "10000", "asset": EVM_USDC,
        "payTo": EVM_PAY_TO, "maxTimeoutSeconds": 60, "extra": {"name": "USDC", "version": "2"}}));
    let payload = |signature: String| {
        json!({"signature": signature, "authorization": {"from": "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A",
            "to": EVM_PAY_TO, "value": "10000", "validAfter": "0", "validBefore": (NOW + 600).to_string(),
            "nonce": format!("0x{}", "22".repeat(32))}})
        .to_string()
        .into_bytes()
    };
    let good = [payload(format!("0x{}1b", "56".repeat(64))), payload(format!("0x{}", "01".repeat(200)))];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    fuzz(&good, |input| {
        let Ok(payload) = serde_json::from_slice::<Value>(input) else { return false };
        is_taken(scheme.as_ref(), &terms, &payload)
    });
}

const COSMOS_PAY_TO: &str = "noble13kgqr5evdfcrm9vjrfm3z5zs7v7asg7nrn6dla";

/// A signed transaction with this memo, and the bytes of its parts.
fn cosmos_transaction(memo: &str) -> Vec<u8> {
    use cosmrs::tx::{Body, Fee, Msg, SignDoc, SignerInfo};
    let key = cosmrs::crypto::secp256k1::SigningKey::from_slice(&[0x22; 32]).unwrap();
    let coin = |amount| cosmrs::Coin { denom: "uusdc".parse().unwrap(), amount };
    let from_address = key.public_key().account_id("noble").unwrap();
    let to_address = COSMOS_PAY_TO.parse().unwrap();
    let send = cosmrs::bank::MsgSend { from_address, to_address, amount: vec![coin(10_000)] };
    let body_bytes = Body::new(vec![send.to_any().unwrap()], memo, 0_u32).into_bytes().unwrap();
    let fee = Fee::from_amount_and_gas(coin(10_000), 100_000_u64);
    let auth_info_bytes = SignerInfo::single_direct(Some(key.public_key()), 3).auth_info(fee).into_bytes().unwrap();
    let chain_id = "grand-1".to_owned();
    SignDoc { body_bytes, auth_info_bytes, chain_id, account_number: 7 }.sign(&key).unwrap().to_bytes().unwrap()
}

fn cosmos() -> (Arc<dyn Chain>, PaymentRequirements) {
    let network = format!("[networks.noble-testnet]\ngrpc_url = \"http://127.0.0.1:9\"\npay_to = \"{COSMOS_PAY_TO}\"");
    let terms = terms(json!({"scheme": "exact", "network": "cosmos:grand-1", "amount": "10000", "asset": "uusdc",
        "payTo": COSMOS_PAY_TO, "maxTimeoutSeconds": 60, "extra": {}}));
    (connect(&network, ""), terms)
}

/// The bytes themselves are damaged, not only their base64.
#[test]
fn a_cosmos_transaction_that_matches_the_terms_pays_them() {
    let (chain, terms) = cosmos();
    fuzz(&[cosmos_transaction(""), cosmos_transaction("a memo")], |input| {
        is_taken(chain.as_ref(), &terms, &json!({"transaction": STANDARD.encode(input)}))
    });
}

#[test]
fn a_cosmos_payload_holds_a_transaction_that_matches_the_terms() {
    let (chain, terms) = cosmos();
    let text = STANDARD.encode(cosmos_transaction(""));
    let forms = [
        json!({"transaction": text}),
        json!(text),
        json!({"signedTx": text, "authorization": {"amount": "1"}}),
        json!({"payment": {"txBase64": text}}),
        json!({"signature": text, "authorization": {"type": "cosmos-signed-transaction"}}),
    ];
    let forms: Vec<Vec<u8>> = forms.iter().map(|form| form.to_string().into_bytes()).collect();
    fuzz(&forms, |input| {
        let Ok(payload) = serde_json::from_slice::<Value>(input) else { return false };
        is_taken(chain.as_ref(), &terms, &payload)
    });
}

const SVM_MINT: &str = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU";

/// What today's clients send: two budget instructions, the transfer and a memo, signed by the payer alone.
fn svm_transaction(fee_payer: &Keypair, payer: &Keypair, payee: &Pubkey, has_memo: bool) -> Vec<u8> {
    let mint: Pubkey = SVM_MINT.parse().unwrap();
    let ask = |program_id: Pubkey, accounts, data| Instruction { program_id, accounts, data };
    let budget: Pubkey = "ComputeBudget111111111111111111111111111111".parse().unwrap();
    let memo: Pubkey = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr".parse().unwrap();
    let accounts = vec![
        AccountMeta::new(get_associated_token_address(&payer.pubkey(), &mint), false),
        AccountMeta::new_readonly(mint, false),
        AccountMeta::new(get_associated_token_address(payee, &mint), false),
        AccountMeta::new_readonly(payer.pubkey(), true),
    ];
    let transfer = TokenInstruction::TransferChecked { amount: 10_000, decimals: 6 }.pack();
    let mut instructions = vec![
        ask(budget, Vec::new(), [&[2][..], &20_000_u32.to_le_bytes()].concat()),
        ask(budget, Vec::new(), [&[3][..], &1_u64.to_le_bytes()].concat()),
        ask(spl_token_interface::ID, accounts, transfer),
    ];
    if has_memo {
        instructions.push(ask(memo, Vec::new(), b"0123456789abcdef0123456789abcdef".to_vec()));
    }
    let message = v0::Message::try_compile(&fee_payer.pubkey(), &instructions, &[], Hash::default()).unwrap();
    let message = VersionedMessage::V0(message);
    let signature = payer.sign_message(&message.serialize());
    wincode::serialize(&VersionedTransaction { signatures: vec![Signature::default(), signature], message }).unwrap()
}

#[test]
fn a_solana_transaction_that_matches_the_terms_pays_them() {
    let key = |byte| Keypair::new_from_array([byte; 32]);
    let (fee_payer, payer, payee) = (key(1), key(2), key(3).pubkey());
    let network = format!(
        "[networks.solana-devnet]\nrpc_url = \"http://127.0.0.1:9\"\nsigner = {{ env = \"KEY\" }}\npay_to = \"{payee}\""
    );
    let scheme = connect(&network, &fee_payer.to_base58_string());
    let terms = terms(json!({"scheme": "exact", "network": "solana-devnet", "amount": "10000", "asset": SVM_MINT,
        "payTo": payee.to_string(), "maxTimeoutSeconds": 60, "extra": {"feePayer": fee_payer.pubkey().to_string()}}));
    let good = [true, false].map(|has_memo| svm_transaction(&fee_payer, &payer, &payee, has_memo));
    fuzz(&good, |input| is_taken(scheme.as_ref(), &terms, &json!({"transaction": STANDARD.encode(input)})));
}
