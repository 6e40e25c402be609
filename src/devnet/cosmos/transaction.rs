//! A transaction as bytes: what it says, and what its signer signed.

use std::collections::BTreeMap;

use cosmrs::proto::cosmos::bank::v1beta1::MsgSend;
use cosmrs::proto::cosmos::base::v1beta1::Coin;
use cosmrs::proto::cosmos::crypto::secp256k1::PubKey;
use cosmrs::proto::cosmos::tx::v1beta1::mode_info::Sum;
use cosmrs::proto::cosmos::tx::v1beta1::{AuthInfo, Fee, SignDoc, TxBody, TxRaw};
use cosmrs::proto::prost::Message;
use k256::ecdsa::signature::Verifier;
use k256::ecdsa::{Signature, VerifyingKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::refusal::Refusal;

const MSG_SEND: &str = "/cosmos.bank.v1beta1.MsgSend";
const SECP256K1: &str = "/cosmos.crypto.secp256k1.PubKey";

/// `SIGN_MODE_DIRECT`: the signature covers the bytes of body and auth info.
const DIRECT: i32 = 1;
/// `SIGN_MODE_LEGACY_AMINO_JSON`: it covers JSON with sorted keys.
const AMINO_JSON: i32 = 127;

/// A transaction of one signer who sends money.
#[derive(Debug, Clone)]
pub(super) struct Transaction {
    pub raw: TxRaw,
    pub body: TxBody,
    pub auth: AuthInfo,
    pub fee: Fee,
    pub sends: Vec<MsgSend>,
    pub bytes_len: u64,
}

/// Hash of a transaction, the way explorers write it.
pub(super) fn hash_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Decodes and refuses what wouldn't be encoded the same again: fields that nobody knows, above all.
fn strict<M: Message + Default>(bytes: &[u8]) -> Result<M, Refusal> {
    let message = M::decode(bytes).map_err(|_error| Refusal::unreadable(""))?;
    if message.encode_to_vec() == bytes { Ok(message) } else { Err(Refusal::unreadable("errUnknownField")) }
}

impl Transaction {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        let raw: TxRaw = strict(bytes)?;
        let body: TxBody = strict(&raw.body_bytes)?;
        let auth: AuthInfo = strict(&raw.auth_info_bytes)?;
        let mut sends = Vec::new();
        for message in &body.messages {
            if message.type_url != MSG_SEND {
                let what = format!("unable to resolve type URL {}", message.type_url);
                return Err(Refusal::unreadable(what));
            }
            sends.push(strict(&message.value)?);
        }
        let fee = auth.fee.clone().unwrap_or_default();
        let bytes_len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(Self { raw, body, auth, fee, sends, bytes_len })
    }

    /// The sequence that its signer gave it.
    pub(super) fn sequence(&self) -> u64 {
        self.auth.signer_infos.first().map_or(0, |signer| signer.sequence)
    }

    /// The key it brings along, 33 bytes; an account that has signed before need not bring it.
    pub(super) fn public_key(&self) -> Result<Option<Vec<u8>>, Refusal> {
        let Some(any) = self.auth.signer_infos.first().and_then(|signer| signer.public_key.as_ref()) else {
            return Ok(None);
        };
        if any.type_url != SECP256K1 {
            return Err(Refusal::invalid_public_key(format!("unsupported key {}", any.type_url)));
        }
        Ok(Some(strict::<PubKey>(&any.value)?.key))
    }

    /// Whether `key` signed it for this account of this chain. A signature with a high s is no signature.
    pub(super) fn is_signed_by(&self, key: &[u8], chain_id: &str, account_number: u64) -> bool {
        let Ok(key) = VerifyingKey::from_sec1_bytes(key) else { return false };
        let Some(signature) = self.raw.signatures.first() else { return false };
        let Ok(signature) = Signature::from_slice(signature) else { return false };
        let Some(signed) = self.sign_bytes(chain_id, account_number) else { return false };
        signature.normalize_s().is_none() && key.verify(&signed, &signature).is_ok()
    }

    /// Whether the signature covers JSON.
    pub(super) fn is_amino(&self) -> bool {
        self.mode() == Some(AMINO_JSON)
    }

    fn mode(&self) -> Option<i32> {
        match self.auth.signer_infos.first()?.mode_info.as_ref()?.sum.as_ref()? {
            Sum::Single(single) => Some(single.mode),
            Sum::Multi(_) => None,
        }
    }

    fn sign_bytes(&self, chain_id: &str, account_number: u64) -> Option<Vec<u8>> {
        match self.mode()? {
            DIRECT => Some(
                SignDoc {
                    body_bytes: self.raw.body_bytes.clone(),
                    auth_info_bytes: self.raw.auth_info_bytes.clone(),
                    chain_id: chain_id.to_owned(),
                    account_number,
                }
                .encode_to_vec(),
            ),
            AMINO_JSON => Some(self.amino(chain_id, account_number)),
            _ => None,
        }
    }

    /// The amino sign document: keys sorted, no blanks, and the three signs that Go's encoder escapes.
    fn amino(&self, chain_id: &str, account_number: u64) -> Vec<u8> {
        let mut fee =
            BTreeMap::from([("amount", coins(&self.fee.amount)), ("gas", json!(self.fee.gas_limit.to_string()))]);
        for (name, value) in [("granter", &self.fee.granter), ("payer", &self.fee.payer)] {
            if !value.is_empty() {
                fee.insert(name, json!(value));
            }
        }
        let messages: Vec<Value> = self.sends.iter().map(amino_send).collect();
        let mut document = BTreeMap::from([
            ("account_number", json!(account_number.to_string())),
            ("chain_id", json!(chain_id)),
            ("fee", json!(fee)),
            ("memo", json!(self.body.memo)),
            ("msgs", json!(messages)),
            ("sequence", json!(self.sequence().to_string())),
        ]);
        if self.body.timeout_height != 0 {
            document.insert("timeout_height", json!(self.body.timeout_height.to_string()));
        }
        let text = json!(document).to_string();
        text.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e").into_bytes()
    }
}

fn coins(coins: &[Coin]) -> Value {
    coins.iter().map(|coin| json!(BTreeMap::from([("amount", &coin.amount), ("denom", &coin.denom)]))).collect()
}

fn amino_send(send: &MsgSend) -> Value {
    let value = BTreeMap::from([
        ("amount", coins(&send.amount)),
        ("from_address", json!(send.from_address)),
        ("to_address", json!(send.to_address)),
    ]);
    json!(BTreeMap::from([("type", json!("cosmos-sdk/MsgSend")), ("value", json!(value))]))
}
