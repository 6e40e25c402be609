//! A payer: signs EIP-3009 authorizations by hand, well or badly, and spells them as v1 or v2 payments.

use std::time::Duration;

use alloy::primitives::{Address, B256, U256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol;
use alloy::sol_types::{Eip712Domain, SolStruct};
use serde_json::{Value, json};
use tollhouse::types::{Clock, SystemClock};

use super::http::{Answer, decode_header};
use super::node::{CHAIN_ID, USDC};

sol! {
    #[derive(Debug)]
    struct TransferWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }

    struct CancelAuthorization {
        address authorizer;
        bytes32 nonce;
    }
}

/// A payment header: its name and value.
pub type Header = (&'static str, String);

/// The one offer of a 402, in both dialects.
#[derive(Debug, Clone)]
pub struct Terms {
    pub v2: Value,
    pub v1: Value,
}

impl Terms {
    pub fn read(answer: &Answer) -> Self {
        assert_eq!(answer.status, 402, "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let v2 = decode_header(answer.header("payment-required").expect("terms for v2 clients"));
        let (offers, v1) = (v2["accepts"].as_array().unwrap(), answer.json());
        assert_eq!((offers.len(), v1["accepts"].as_array().unwrap().len()), (1, 1));
        assert!(offers[0]["extra"]["quote"].is_string());
        Self { v2: offers[0].clone(), v1: v1["accepts"][0].clone() }
    }
}

/// An authorization before it is signed, and the domain it will be signed under.
#[derive(Debug, Clone)]
pub struct Draft {
    pub authorization: TransferWithAuthorization,
    pub domain: Eip712Domain,
}

impl Draft {
    pub fn hash(&self) -> B256 {
        self.authorization.eip712_signing_hash(&self.domain)
    }
}

/// A payment, to be presented as often as one likes.
#[derive(Debug, Clone)]
pub struct Payment {
    pub terms: Terms,
    /// Signature and authorization as on the wire.
    pub payload: Value,
    pub nonce: B256,
}

impl Payment {
    pub fn v2_json(&self) -> Value {
        json!({"x402Version": 2, "accepted": self.terms.v2, "payload": self.payload})
    }

    pub fn v1_json(&self) -> Value {
        json!({"x402Version": 1, "scheme": "exact", "network": self.terms.v1["network"], "payload": self.payload})
    }

    pub fn v2(&self) -> Header {
        ("PAYMENT-SIGNATURE", encode(&self.v2_json()))
    }

    pub fn v1(&self) -> Header {
        ("X-PAYMENT", encode(&self.v1_json()))
    }

    /// In the vitwit dialect: v1 with the payload as a base64 string.
    pub fn vitwit_json(&self) -> Value {
        let mut payment = self.v1_json();
        payment["payload"] = encode(&self.payload).into();
        payment
    }

    pub fn vitwit(&self) -> Header {
        ("X-PAYMENT", encode(&self.vitwit_json()))
    }

    /// The same, but for one field of what was signed.
    pub fn with(&self, field: &str, value: Value) -> Self {
        let mut changed = self.clone();
        if field == "signature" {
            changed.payload["signature"] = value;
        } else {
            changed.payload["authorization"][field] = value;
        }
        changed
    }

    /// The same, but for one field of the offer that it says it accepts.
    pub fn accepting(&self, field: &str, value: Value) -> Self {
        let mut changed = self.clone();
        changed.terms.v2[field] = value;
        changed
    }

    pub fn signature(&self) -> Vec<u8> {
        alloy::hex::decode(self.payload["signature"].as_str().unwrap()).unwrap()
    }
}

pub fn encode(payment: &Value) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(payment.to_string())
}

#[derive(Clone)]
pub struct Payer {
    key: PrivateKeySigner,
    /// Who the authorizations are from: the key's account, or a contract that answers for it.
    pub address: Address,
}

impl Payer {
    pub fn random() -> Self {
        let key = PrivateKeySigner::random();
        Self { address: key.address(), key }
    }

    /// The same key, signing for another account.
    pub fn signing_for(&self, address: Address) -> Self {
        Self { key: self.key.clone(), address }
    }

    /// What an honest client would sign.
    pub fn draft(&self, terms: &Terms) -> Draft {
        let text = |field: &Value| field.as_str().unwrap().to_owned();
        let offer = &terms.v2;
        let patience = Duration::from_secs(offer["maxTimeoutSeconds"].as_u64().unwrap());
        let authorization = TransferWithAuthorization {
            from: self.address,
            to: text(&offer["payTo"]).parse().unwrap(),
            value: text(&offer["amount"]).parse().unwrap(),
            validAfter: U256::ZERO,
            validBefore: U256::from(SystemClock.now().plus(patience).as_secs()),
            nonce: random_word(),
        };
        let domain = domain(&text(&offer["extra"]["name"]), &text(&offer["extra"]["version"]), CHAIN_ID, USDC);
        Draft { authorization, domain }
    }

    pub fn sign_hash(&self, hash: B256) -> Vec<u8> {
        self.key.sign_hash_sync(&hash).unwrap().as_bytes().to_vec()
    }

    pub fn sign(&self, terms: &Terms, draft: &Draft) -> Payment {
        let fields = &draft.authorization;
        let payload = json!({
            "signature": alloy::hex::encode_prefixed(self.sign_hash(draft.hash())),
            "authorization": {
                "from": fields.from.to_string(),
                "to": fields.to.to_string(),
                "value": fields.value.to_string(),
                "validAfter": fields.validAfter.to_string(),
                "validBefore": fields.validBefore.to_string(),
                "nonce": fields.nonce.to_string(),
            },
        });
        Payment { terms: terms.clone(), payload, nonce: fields.nonce }
    }

    /// An honest payment.
    pub fn pay(&self, terms: &Terms) -> Payment {
        self.sign(terms, &self.draft(terms))
    }

    /// The signature that takes an authorization back.
    pub fn sign_cancel(&self, nonce: B256) -> Vec<u8> {
        let cancel = CancelAuthorization { authorizer: self.address, nonce };
        self.sign_hash(cancel.eip712_signing_hash(&domain("USDC", "2", CHAIN_ID, USDC)))
    }
}

pub fn random_word() -> B256 {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap();
    B256::from(bytes)
}

pub fn domain(name: &str, version: &str, chain_id: u64, token: Address) -> Eip712Domain {
    Eip712Domain::new(
        Some(name.to_owned().into()),
        Some(version.to_owned().into()),
        Some(U256::from(chain_id)),
        Some(token),
        None,
    )
}
