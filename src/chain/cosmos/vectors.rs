//! The vectors of docs/cosmos-exact.md, read from the document itself: what it says is what is done here.

use serde_json::Value;

use super::decode::{SignMode, decode};
use super::sign_bytes::{is_signed, sign_bytes};
use crate::protocol::decode_object;
use crate::types::UnixMillis;

const DOCUMENT: &str = include_str!("../../../docs/cosmos-exact.md");

fn vectors() -> Vec<Value> {
    let blocks = DOCUMENT.split("```json vector\n").skip(1);
    blocks.map(|block| serde_json::from_str(block.split("```").next().unwrap()).unwrap()).collect()
}

#[test]
fn the_documents_vectors_are_payments_as_they_are_read_here() {
    let vectors = vectors();
    let modes: Vec<&str> = vectors.iter().map(|vector| vector["sign"]["mode"].as_str().unwrap()).collect();
    assert_eq!(modes, ["direct", "direct", "amino", "amino"]);
    for vector in &vectors {
        let (name, sign) = (&vector["name"], &vector["sign"]);
        let payment = decode_object(vector["header"].as_str().unwrap().as_bytes()).unwrap();
        assert_eq!(payment["payload"]["transaction"], vector["transaction"], "{name}");
        let chain_id = sign["chainId"].as_str().unwrap();
        let network = format!("cosmos:{chain_id}").parse().unwrap();
        let prefix = sign["prefix"].as_str().unwrap();
        let decoded = decode(&network, prefix, &payment["payload"], |_height| UnixMillis(0)).unwrap();
        let expected = if sign["mode"] == "amino" { SignMode::Amino } else { SignMode::Direct };
        assert_eq!(decoded.mode, expected, "{name}");
        let facts = &decoded.facts;
        assert_eq!(facts.payer.as_str(), vector["address"], "{name}");
        assert_eq!((facts.pay_to.as_str(), facts.asset.as_str()), (sign["to"].as_str().unwrap(), "uusdc"), "{name}");
        assert_eq!(facts.amount.to_string(), sign["amount"].as_str().unwrap(), "{name}");
        assert_eq!(
            (&decoded.memo, decoded.hash.as_str()),
            (&sign["memo"].as_str().unwrap().to_owned(), vector["hash"].as_str().unwrap())
        );
        assert_eq!(Some(decoded.timeout_height), sign["timeoutHeight"].as_u64(), "{name}");
        assert_eq!(Some(decoded.sequence), sign["sequence"].as_u64(), "{name}");
        let key: String =
            decoded.public_key.to_encoded_point(true).as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(key, vector["publicKey"], "{name}");
        let number = sign["accountNumber"].as_u64().unwrap();
        let signed: String = sign_bytes(&decoded, chain_id, number).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(signed, vector["signBytes"], "{name}");
        assert!(is_signed(&decoded, chain_id, number), "{name}");
        assert!(!is_signed(&decoded, chain_id, number + 1) && !is_signed(&decoded, "noble-1", number), "{name}");
    }
}
