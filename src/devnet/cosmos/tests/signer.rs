//! A wallet for the tests, here and with the gateway: transactions that are right, and each of them wrong in one way.

use cosmrs::crypto::secp256k1::SigningKey;
use cosmrs::proto::Any;
use cosmrs::proto::cosmos::bank::v1beta1::MsgSend;
use cosmrs::proto::cosmos::base::v1beta1::Coin;
use cosmrs::proto::cosmos::crypto::secp256k1::PubKey;
use cosmrs::proto::cosmos::tx::v1beta1::mode_info::{Single, Sum};
use cosmrs::proto::cosmos::tx::v1beta1::{AuthInfo, Fee, ModeInfo, SignDoc, SignerInfo, TxBody, TxRaw};
use cosmrs::proto::prost::Message;

/// A key.
pub struct Signer {
    seed: u8,
}

impl Signer {
    pub fn new(seed: u8) -> Self {
        Self { seed }
    }

    fn key(&self) -> SigningKey {
        SigningKey::from_slice(&[self.seed; 32]).unwrap()
    }

    pub fn address(&self) -> String {
        self.key().public_key().account_id("noble").unwrap().to_string()
    }
}

/// A payment before it is signed; every part can be spoilt.
pub struct Payment {
    pub from: String,
    pub to: String,
    pub amount: u128,
    pub denom: String,
    pub memo: String,
    pub timeout_height: u64,
    pub gas_limit: u64,
    pub fee: u128,
    pub chain_id: String,
    pub account_number: u64,
    pub sequence: u64,
    pub public_key: Option<Vec<u8>>,
    pub type_url: String,
    pub signing_seed: u8,
}

impl Payment {
    pub fn new(payer: &Signer, to: &str, account_number: u64, sequence: u64) -> Self {
        Self {
            from: payer.address(),
            to: to.to_owned(),
            amount: 1000,
            denom: super::COSMOS_DENOM.to_owned(),
            memo: String::new(),
            timeout_height: 0,
            gas_limit: 100_000,
            fee: 10_000,
            chain_id: "grand-1".to_owned(),
            account_number,
            sequence,
            public_key: Some(payer.key().public_key().to_bytes()),
            type_url: "/cosmos.bank.v1beta1.MsgSend".to_owned(),
            signing_seed: payer.seed,
        }
    }

    pub fn coins(&self) -> Vec<Coin> {
        vec![Coin { denom: self.denom.clone(), amount: self.amount.to_string() }]
    }

    pub fn body(&self) -> TxBody {
        let (from_address, to_address) = (self.from.clone(), self.to.clone());
        let send = MsgSend { from_address, to_address, amount: self.coins() };
        TxBody {
            messages: vec![Any { type_url: self.type_url.clone(), value: send.encode_to_vec() }],
            memo: self.memo.clone(),
            timeout_height: self.timeout_height,
            ..TxBody::default()
        }
    }

    fn auth(&self, mode: i32) -> AuthInfo {
        let public_key = self.public_key.clone().map(|key| Any {
            type_url: "/cosmos.crypto.secp256k1.PubKey".to_owned(),
            value: PubKey { key }.encode_to_vec(),
        });
        let mode_info = Some(ModeInfo { sum: Some(Sum::Single(Single { mode })) });
        let amount = vec![Coin { denom: super::COSMOS_DENOM.to_owned(), amount: self.fee.to_string() }];
        AuthInfo {
            signer_infos: vec![SignerInfo { public_key, mode_info, sequence: self.sequence }],
            fee: Some(Fee { amount, gas_limit: self.gas_limit, ..Fee::default() }),
            ..AuthInfo::default()
        }
    }

    fn sign(&self, document: &[u8]) -> Vec<u8> {
        SigningKey::from_slice(&[self.signing_seed; 32]).unwrap().sign(document).unwrap().to_vec()
    }

    /// With body bytes of the test's own.
    pub fn direct_with(&self, body_bytes: Vec<u8>) -> Vec<u8> {
        let auth_info_bytes = self.auth(1).encode_to_vec();
        let document = SignDoc {
            body_bytes: body_bytes.clone(),
            auth_info_bytes: auth_info_bytes.clone(),
            chain_id: self.chain_id.clone(),
            account_number: self.account_number,
        };
        let signatures = vec![self.sign(&document.encode_to_vec())];
        TxRaw { body_bytes, auth_info_bytes, signatures }.encode_to_vec()
    }

    pub fn direct(&self) -> Vec<u8> {
        self.direct_with(self.body().encode_to_vec())
    }

    /// By hand, as a wallet would write it.
    pub fn amino(&self) -> Vec<u8> {
        let memo = serde_json::to_string(&self.memo).unwrap();
        let memo = memo.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
        let timeout = match self.timeout_height {
            0 => String::new(),
            height => format!(r#","timeout_height":"{height}""#),
        };
        let document = format!(
            concat!(
                r#"{{"account_number":"{}","chain_id":"{}","fee":{{"amount":[{{"amount":"{}","denom":"uusdc"}}],"gas":"{}"}},"#,
                r#""memo":{},"msgs":[{{"type":"cosmos-sdk/MsgSend","value":{{"amount":[{{"amount":"{}","denom":"{}"}}],"#,
                r#""from_address":"{}","to_address":"{}"}}}}],"sequence":"{}"{}}}"#
            ),
            self.account_number,
            self.chain_id,
            self.fee,
            self.gas_limit,
            memo,
            self.amount,
            self.denom,
            self.from,
            self.to,
            self.sequence,
            timeout
        );
        let (body_bytes, auth_info_bytes) = (self.body().encode_to_vec(), self.auth(127).encode_to_vec());
        let signatures = vec![self.sign(document.as_bytes())];
        TxRaw { body_bytes, auth_info_bytes, signatures }.encode_to_vec()
    }
}
