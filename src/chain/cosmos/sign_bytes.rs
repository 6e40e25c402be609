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

#[cfg(test)]
pub(super) mod tests {
    use cosmrs::proto::prost::Message as _;
    use k256::ecdsa::SigningKey;

    use super::*;
    use crate::types::UnixMillis;

    /// A payment of 10000 uusdc, built by cosmrs.
    pub(in super::super) fn decoded() -> Decoded {
        use cosmrs::tx::{Body, Fee, SignerInfo};
        let key = SigningKey::from_slice(&[1; 32]).unwrap();
        let public = cosmrs::crypto::PublicKey::from(key.verifying_key());
        let address = public.account_id("noble").unwrap();
        let to = cosmrs::AccountId::new("noble", &[7; 20]).unwrap();
        let coin = |amount| cosmrs::Coin { denom: "uusdc".parse().unwrap(), amount };
        let send = cosmrs::bank::MsgSend { from_address: address, to_address: to, amount: vec![coin(10_000)] };
        let message = cosmrs::tx::Msg::to_any(&send).unwrap();
        let body = Body::new(vec![message], "a & <b>", 77_u32);
        let auth =
            SignerInfo::single_direct(Some(public), 3).auth_info(Fee::from_amount_and_gas(coin(500), 90_000_u64));
        let (body_bytes, auth_info_bytes) = (body.into_bytes().unwrap(), auth.into_bytes().unwrap());
        let doc =
            cosmrs::tx::SignDoc { body_bytes, auth_info_bytes, chain_id: "grand-1".to_owned(), account_number: 9 };
        let signing = cosmrs::crypto::secp256k1::SigningKey::from_slice(&[1; 32]).unwrap();
        let raw = doc.sign(&signing).unwrap().to_bytes().unwrap();
        let payload = json!({"transaction": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, raw)});
        let network = "cosmos:grand-1".parse().unwrap();
        super::super::decode::decode(&network, "noble", &payload, |_| UnixMillis(0)).unwrap()
    }

    #[test]
    fn what_cosmrs_signs_is_what_is_checked_and_for_this_chain_and_account_only() {
        let decoded = decoded();
        assert!(is_signed(&decoded, "grand-1", 9));
        assert!(!is_signed(&decoded, "noble-1", 9));
        assert!(!is_signed(&decoded, "grand-1", 8));
        let unsigned = SignDoc::decode(direct(&decoded, "grand-1", 9).as_slice()).unwrap();
        assert_eq!((unsigned.body_bytes, unsigned.account_number), (decoded.body_bytes.clone(), 9));
    }

    #[test]
    fn amino_json_is_sorted_escaped_and_leaves_out_what_is_empty() {
        let mut decoded = decoded();
        let (from, to) = (decoded.facts.payer.clone(), decoded.facts.pay_to.clone());
        let text = |decoded: &Decoded| String::from_utf8(amino(decoded, "grand-1", 9)).unwrap();
        let expected = format!(
            r#"{{"account_number":"9","chain_id":"grand-1","fee":{{"amount":[{{"amount":"500","denom":"uusdc"}}],"gas":"90000"}},"memo":"a \u0026 \u003cb\u003e","msgs":[{{"type":"cosmos-sdk/MsgSend","value":{{"amount":[{{"amount":"10000","denom":"uusdc"}}],"from_address":"{from}","to_address":"{to}"}}}}],"sequence":"3","timeout_height":"77"}}"#
        );
        assert_eq!(text(&decoded), expected);
        decoded.timeout_height = 0;
        decoded.memo = "\u{2028}\"".to_owned();
        decoded.fee_payer = from.to_string();
        decoded.fee = Vec::new();
        let other = text(&decoded);
        assert!(other.contains(r#""memo":"\u2028\"","#), "{other}");
        assert!(other.contains(&format!(r#""fee":{{"amount":[],"gas":"90000","payer":"{from}"}}"#)), "{other}");
        assert!(!other.contains("timeout_height"));
    }
}
