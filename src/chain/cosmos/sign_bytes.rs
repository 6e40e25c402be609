//! What a payer's signature is over, rebuilt from the transaction's own bytes and from what only the chain and we know: chain
//! id and account number. Pure.

use cosmrs::proto::cosmos::tx::v1beta1::SignDoc;
use cosmrs::proto::prost::Message;
use k256::ecdsa::signature::Verifier;
use serde_json::{Map, Value, json};

use super::decode::{Decoded, FeeCoin, SignMode};

/// Whether the signature is the payer's for this chain and account.
pub(super) fn is_signed(decoded: &Decoded, chain_id: &str, account_number: u64) -> bool {
    // Hashes with SHA-256.
    decoded.public_key.verify(&sign_bytes(decoded, chain_id, account_number), &decoded.signature).is_ok()
}

/// What the payer signed if it signed for this chain and account.
pub(super) fn sign_bytes(decoded: &Decoded, chain_id: &str, account_number: u64) -> Vec<u8> {
    match decoded.mode {
        SignMode::Direct => direct(decoded, chain_id, account_number),
        SignMode::Amino => amino(decoded, chain_id, account_number),
    }
}

fn direct(decoded: &Decoded, chain_id: &str, account_number: u64) -> Vec<u8> {
    SignDoc {
        body_bytes: decoded.body_bytes.clone(),
        auth_info_bytes: decoded.auth_info_bytes.clone(),
        chain_id: chain_id.to_owned(),
        account_number,
    }
    .encode_to_vec()
}

/// `StdSignDoc` in Amino JSON: keys sorted, integers as text, empty fields left out, written as Go's encoder writes it.
fn amino(decoded: &Decoded, chain_id: &str, account_number: u64) -> Vec<u8> {
    let facts = &decoded.facts;
    let coins: Vec<Value> =
        decoded.fee.iter().map(|FeeCoin { denom, amount }| json!({"amount": amount, "denom": denom})).collect();
    // Inserted in order, so that the order holds whatever map serde_json is built with.
    let mut fee = Map::new();
    fee.insert("amount".to_owned(), coins.into());
    fee.insert("gas".to_owned(), decoded.gas_limit.to_string().into());
    for (key, text) in [("granter", &decoded.fee_granter), ("payer", &decoded.fee_payer)] {
        if !text.is_empty() {
            fee.insert(key.to_owned(), text.as_str().into());
        }
    }
    let message = json!({"type": "cosmos-sdk/MsgSend", "value": {
        "amount": [{"amount": facts.amount, "denom": facts.asset.as_str()}],
        "from_address": facts.payer.as_str(),
        "to_address": facts.pay_to.as_str(),
    }});
    let mut document = Map::new();
    document.insert("account_number".to_owned(), account_number.to_string().into());
    document.insert("chain_id".to_owned(), chain_id.into());
    document.insert("fee".to_owned(), fee.into());
    document.insert("memo".to_owned(), decoded.memo.as_str().into());
    document.insert("msgs".to_owned(), vec![message].into());
    document.insert("sequence".to_owned(), decoded.sequence.to_string().into());
    if decoded.timeout_height != 0 {
        document.insert("timeout_height".to_owned(), decoded.timeout_height.to_string().into());
    }
    escape(&Value::Object(document).to_string()).into_bytes()
}

/// The characters that Go's encoder escapes and serde_json doesn't. They stand only inside JSON's strings.
fn escape(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '&' | '<' | '>' | '\u{2028}' | '\u{2029}' => {
                escaped.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => escaped.push(character),
        }
    }
    escaped
}
