//! Signed transactions: strict reading of every payload form, one canonical form, one digest (protocol §5.1, §5.2).
//!
//! Only the signed `TxRaw` has authority; whatever a client writes beside it is not read. No network, and no cryptography
//! beyond hashing and reading a key.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use cosmrs::crypto::PublicKey;
use cosmrs::proto::Any;
use cosmrs::proto::cosmos::bank::v1beta1::MsgSend;
use cosmrs::proto::cosmos::base::v1beta1::Coin;
use cosmrs::proto::cosmos::crypto::secp256k1::PubKey;
use cosmrs::proto::cosmos::tx::signing::v1beta1::SignMode as WireMode;
use cosmrs::proto::cosmos::tx::v1beta1::mode_info::{Single, Sum};
use cosmrs::proto::cosmos::tx::v1beta1::{AuthInfo, ModeInfo, SignerInfo, TxBody, TxRaw};
use cosmrs::proto::prost::Message;
use k256::ecdsa::{Signature, VerifyingKey};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::ledger::PaymentId;
use crate::payment::scheme::PaymentFacts;
use crate::protocol::{Reason, decode_object};
use crate::types::{AccountId, AssetId, AtomicAmount, Network, UnixMillis};

/// Largest transaction that is read (threat B24).
const TX_BYTES_MAX: usize = 16 * 1024;
/// Coins that a fee may be made of.
const FEE_COINS_MAX: usize = 4;

const MSG_SEND: &str = "/cosmos.bank.v1beta1.MsgSend";
pub(super) const SECP256K1: &str = "/cosmos.crypto.secp256k1.PubKey";

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// What the payer's signature is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignMode {
    /// Protobuf `SignDoc`.
    Direct,
    /// Amino JSON, as hardware wallets sign it.
    Amino,
}

/// A coin of a fee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FeeCoin {
    pub denom: String,
    pub amount: AtomicAmount,
}

/// A transaction that was read.
#[derive(Debug, Clone)]
pub(super) struct Decoded {
    /// The whole transaction as it is sent.
    pub raw: Vec<u8>,
    /// The bytes that were signed, as they came.
    pub body_bytes: Vec<u8>,
    pub auth_info_bytes: Vec<u8>,
    pub signature: Signature,
    pub public_key: VerifyingKey,
    pub mode: SignMode,
    pub memo: String,
    /// The last block that may hold it; 0 for no limit.
    pub timeout_height: u64,
    pub fee: Vec<FeeCoin>,
    pub gas_limit: u64,
    pub fee_payer: String,
    pub fee_granter: String,
    pub sequence: u64,
    /// The transaction's id: SHA-256 in upper-case hex.
    pub hash: String,
    pub facts: PaymentFacts,
}

/// Reads a payload. `valid_until` says until when a transaction with this timeout height counts as usable.
///
/// # Errors
/// The first thing that makes it no payment, whatever the terms are.
pub(super) fn decode(
    network: &Network,
    prefix: &str,
    payload: &Value,
    valid_until: impl FnOnce(u64) -> UnixMillis,
) -> Result<Decoded, Reason> {
    let raw = transaction_bytes(payload)?;
    let tx: TxRaw = strict(&raw)?;
    let body: TxBody = strict(&tx.body_bytes)?;
    let auth: AuthInfo = strict(&tx.auth_info_bytes)?;
    if !body.extension_options.is_empty() || !body.non_critical_extension_options.is_empty() || has_tip(&auth) {
        return Err(Reason::CosmosExtensionOptions);
    }
    let send = single_send(&body)?;
    let [coin] = send.amount.as_slice() else { return Err(Reason::CosmosCoinCount) };
    let [signer] = auth.signer_infos.as_slice() else { return Err(Reason::CosmosSigner) };
    let [signature] = tx.signatures.as_slice() else { return Err(Reason::CosmosSigner) };
    let mode = sign_mode(signer)?;
    let public_key = public_key(signer)?;
    let from = PublicKey::from(public_key).account_id(prefix).map_err(|_error| Reason::CosmosSigner)?;
    if send.from_address != from.as_ref() {
        return Err(Reason::CosmosSigner);
    }
    let fee = auth.fee.ok_or(Reason::CosmosFee)?;
    let facts = PaymentFacts {
        id: PaymentId(format!("{network}/{from}/{}", signer.sequence)),
        payer: account(from.as_ref())?,
        pay_to: account(&send.to_address)?,
        asset: AssetId::new(coin.denom.as_str()).map_err(|_error| Reason::CosmosDecode)?,
        amount: amount(coin)?,
        valid_until: valid_until(body.timeout_height),
        digest: digest(&tx),
        payload: json!({"transaction": base64::engine::general_purpose::STANDARD.encode(&raw)}),
    };
    Ok(Decoded {
        signature: signature_of(signature)?,
        public_key,
        mode,
        memo: body.memo,
        timeout_height: body.timeout_height,
        fee: fee_coins(&fee.amount)?,
        gas_limit: fee.gas_limit,
        fee_payer: fee.payer,
        fee_granter: fee.granter,
        sequence: signer.sequence,
        hash: transaction_hash(&raw),
        facts,
        body_bytes: tx.body_bytes,
        auth_info_bytes: tx.auth_info_bytes,
        raw,
    })
}

/// The id under which a chain knows a transaction.
pub(super) fn transaction_hash(raw: &[u8]) -> String {
    Sha256::digest(raw).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The transaction in any of the forms in use (protocol §5.1).
fn transaction_bytes(payload: &Value) -> Result<Vec<u8>, Reason> {
    let bytes = match payload {
        Value::Object(object) => base64_bytes(transaction_text(object).ok_or(Reason::CosmosDecode)?),
        Value::String(text) => match decode_object(text.as_bytes()) {
            Ok(object) => base64_bytes(transaction_text(&object).ok_or(Reason::CosmosDecode)?),
            Err(_no_object) => base64_bytes(text),
        },
        _ => None,
    };
    bytes.filter(|bytes| !bytes.is_empty() && bytes.len() <= TX_BYTES_MAX).ok_or(Reason::CosmosDecode)
}

/// Where each dialect's object keeps the signed bytes: the canonical form, vitwit v2, vitwit v1, x402-atom.
fn transaction_text(object: &Map<String, Value>) -> Option<&str> {
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    let is_atom = || {
        let kind = object.get("authorization").and_then(|hints| hints.get("type"));
        kind.and_then(Value::as_str) == Some("cosmos-signed-transaction")
    };
    text("transaction")
        .or_else(|| text("signedTx"))
        .or_else(|| object.get("payment")?.get("txBase64")?.as_str())
        .or_else(|| text("signature").filter(|_| is_atom()))
}

/// Base64 in either alphabet, padded or not.
fn base64_bytes(text: &str) -> Option<Vec<u8>> {
    // Four characters for three bytes; what is longer is not even decoded.
    if text.len() > TX_BYTES_MAX / 3 * 4 + 8 {
        return None;
    }
    let engine = if text.bytes().any(|byte| matches!(byte, b'-' | b'_')) { &URL_SAFE } else { &STANDARD };
    engine.decode(text.trim()).ok()
}

/// Decodes a message that must be in the one encoding that this build would give it. That finds unknown fields, among them
/// the `unordered` and `timeout_timestamp` of SDK 0.53, fields that stand twice, in another order, or hold a default.
fn strict<M: Message + Default>(bytes: &[u8]) -> Result<M, Reason> {
    let message = M::decode(bytes).map_err(|_error| Reason::CosmosDecode)?;
    if message.encode_to_vec() == bytes { Ok(message) } else { Err(Reason::CosmosUnknownFields) }
}

#[allow(deprecated, reason = "what nobody should send any more is still refused")]
fn has_tip(auth: &AuthInfo) -> bool {
    auth.tip.is_some()
}

fn single_send(body: &TxBody) -> Result<MsgSend, Reason> {
    match body.messages.as_slice() {
        [Any { type_url, value }] if type_url == MSG_SEND => strict(value),
        [_] => Err(Reason::CosmosMessageType),
        _ => Err(Reason::CosmosMessageCount),
    }
}

fn sign_mode(signer: &SignerInfo) -> Result<SignMode, Reason> {
    let Some(ModeInfo { sum: Some(Sum::Single(Single { mode })) }) = &signer.mode_info else {
        return Err(Reason::CosmosSignMode);
    };
    match WireMode::try_from(*mode) {
        Ok(WireMode::Direct) => Ok(SignMode::Direct),
        Ok(WireMode::LegacyAminoJson) => Ok(SignMode::Amino),
        _ => Err(Reason::CosmosSignMode),
    }
}

fn public_key(signer: &SignerInfo) -> Result<VerifyingKey, Reason> {
    let any = signer.public_key.as_ref().filter(|any| any.type_url == SECP256K1).ok_or(Reason::CosmosSigner)?;
    let PubKey { key } = strict(&any.value)?;
    if key.len() != 33 {
        return Err(Reason::CosmosSigner);
    }
    VerifyingKey::from_sec1_bytes(&key).map_err(|_error| Reason::CosmosSigner)
}

/// 64 bytes with `s` in the lower half: the other half is the malleated twin, which nodes refuse too (threat B5).
fn signature_of(bytes: &[u8]) -> Result<Signature, Reason> {
    let signature = Signature::from_slice(bytes).map_err(|_error| Reason::CosmosSignature)?;
    if signature.normalize_s().is_some() { Err(Reason::CosmosSignature) } else { Ok(signature) }
}

fn account(text: &str) -> Result<AccountId, Reason> {
    AccountId::new(text).map_err(|_error| Reason::CosmosDecode)
}

fn amount(coin: &Coin) -> Result<AtomicAmount, Reason> {
    let amount = coin.amount.parse::<AtomicAmount>().map_err(|_error| Reason::CosmosAmountMismatch)?;
    if amount.is_zero() { Err(Reason::CosmosAmountMismatch) } else { Ok(amount) }
}

/// A fee as nodes take it: few coins, sorted by denom, none twice, none of nothing.
fn fee_coins(coins: &[Coin]) -> Result<Vec<FeeCoin>, Reason> {
    if coins.len() > FEE_COINS_MAX || !coins.is_sorted_by(|one, next| one.denom < next.denom) {
        return Err(Reason::CosmosFee);
    }
    let read = |coin: &Coin| {
        let amount = coin.amount.parse::<AtomicAmount>().ok().filter(|amount| !amount.is_zero())?;
        Some(FeeCoin { denom: coin.denom.clone(), amount })
    };
    coins.iter().map(|coin| read(coin).ok_or(Reason::CosmosFee)).collect()
}

/// Over body and authority info, each with its length, without the signature.
fn digest(tx: &TxRaw) -> [u8; 32] {
    let unsigned = TxRaw {
        body_bytes: tx.body_bytes.clone(),
        auth_info_bytes: tx.auth_info_bytes.clone(),
        signatures: Vec::new(),
    };
    Sha256::digest(unsigned.encode_to_vec()).into()
}
