//! EIP-3009 payloads: strict reading, one canonical form, one digest.
//!
//! No network and no cryptography beyond hashing.

use alloy::primitives::{Address, B256, U256, b256, keccak256, uint};
use alloy::sol_types::SolValue;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::ledger::PaymentId;
use crate::payment::scheme::PaymentFacts;
use crate::protocol::{PaymentRequirements, Reason};
use crate::types::{AccountId, AssetId, AtomicAmount, Eip712Domain, UnixMillis};

/// Longest signature that is read, in bytes.
const SIGNATURE_BYTES_MAX: usize = 8 * 1024;

/// EIP-3009's `TransferWithAuthorization` type hash.
const TRANSFER_TYPE_HASH: B256 = b256!("7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267");
/// Half the order of secp256k1: an `s` above it is the malleated twin of one below (EIP-2).
const HALF_ORDER: U256 = uint!(0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0_U256);
/// ERC-6492's suffix, 0x6492 sixteen times.
const WRAPPED_SUFFIX: [u8; 32] = [
    0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64,
    0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92,
];

/// What the payer signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authorization {
    pub from: Address,
    pub to: Address,
    pub value: U256,
    /// Unix seconds.
    pub valid_after: U256,
    /// Unix seconds.
    pub valid_before: U256,
    pub nonce: B256,
}

impl Authorization {
    /// EIP-712 hash of the authorization under a domain.
    pub(super) fn hash(&self, domain_separator: B256) -> B256 {
        let fields =
            (TRANSFER_TYPE_HASH, self.from, self.to, self.value, self.valid_after, self.valid_before, self.nonce);
        let message = keccak256(fields.abi_encode());
        let mut bytes = Vec::with_capacity(66);
        bytes.extend_from_slice(&[0x19, 0x01]);
        bytes.extend_from_slice(domain_separator.as_slice());
        bytes.extend_from_slice(message.as_slice());
        keccak256(bytes)
    }

    /// The last second in which the token takes it, as far as a `u64` reaches.
    pub(super) fn valid_before_secs(&self) -> u64 {
        u64::try_from(self.valid_before).unwrap_or(u64::MAX)
    }
}

/// EIP-712 domain separator of a token.
pub(super) fn domain_separator(domain: &Eip712Domain, chain_id: u64, token: Address) -> B256 {
    let type_hash =
        keccak256(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)".as_slice());
    let fields = (
        type_hash,
        keccak256(domain.name.as_bytes()),
        keccak256(domain.version.as_bytes()),
        U256::from(chain_id),
        token,
    );
    keccak256(fields.abi_encode())
}

/// A signature in the one form in which it is hashed, kept and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PayerSignature {
    /// 65 bytes, `s` in the lower half, `v` 27 or 28.
    Ecdsa { r: B256, s: B256, v: u8 },
    /// Anything else: only a contract can judge it (EIP-1271).
    Contract(Vec<u8>),
    /// ERC-6492: a wallet that may not be deployed yet; holds the inner signature.
    Wrapped(Vec<u8>),
}

impl PayerSignature {
    fn parse(text: &str) -> Result<Self, Reason> {
        let bytes = hex_bytes(text).ok_or(Reason::EvmSignatureForm)?;
        if bytes.is_empty() || bytes.len() > SIGNATURE_BYTES_MAX {
            return Err(Reason::EvmSignatureForm);
        }
        match bytes.len() {
            65 => {
                let v = match bytes.last() {
                    Some(0 | 27) => 27,
                    Some(1 | 28) => 28,
                    _ => return Err(Reason::EvmSignatureForm),
                };
                let (r, s) = words(&bytes)?;
                Self::ecdsa(r, s, v)
            }
            // EIP-2098: the parity is the highest bit of s.
            64 => {
                let (r, packed) = words(&bytes)?;
                let mut s = U256::from_be_bytes(packed.0);
                let parity = s.bit(255);
                s.set_bit(255, false);
                Self::ecdsa(r, B256::from(s), if parity { 28 } else { 27 })
            }
            _ => match bytes.strip_suffix(&WRAPPED_SUFFIX) {
                Some(wrapped) => {
                    let parts = super::abi::WrappedSignature::abi_decode_params(wrapped)
                        .map_err(|_error| Reason::EvmSignatureForm)?;
                    if parts.innerSignature.is_empty() {
                        return Err(Reason::EvmSignatureForm);
                    }
                    Ok(Self::Wrapped(parts.innerSignature.to_vec()))
                }
                None => Ok(Self::Contract(bytes)),
            },
        }
    }

    fn ecdsa(r: B256, s: B256, v: u8) -> Result<Self, Reason> {
        // The token refuses a high s, so it would only burn gas (threat B5).
        if U256::from_be_bytes(s.0) > HALF_ORDER || r.is_zero() || s.is_zero() {
            return Err(Reason::EvmSignatureForm);
        }
        Ok(Self::Ecdsa { r, s, v })
    }

    /// The bytes that a token or wallet gets.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Ecdsa { r, s, v } => [r.as_slice(), s.as_slice(), &[*v]].concat(),
            Self::Contract(bytes) | Self::Wrapped(bytes) => bytes.clone(),
        }
    }

    /// What is kept in the ledger; reads back as the same value.
    fn canonical_text(&self, as_presented: &str) -> String {
        match self {
            Self::Wrapped(_) => as_presented.to_ascii_lowercase(),
            _ => alloy::hex::encode_prefixed(self.bytes()),
        }
    }
}

/// The two words that a signature begins with.
fn words(bytes: &[u8]) -> Result<(B256, B256), Reason> {
    let (r, rest) = bytes.split_at_checked(32).ok_or(Reason::EvmSignatureForm)?;
    let (s, _) = rest.split_at_checked(32).ok_or(Reason::EvmSignatureForm)?;
    Ok((B256::from_slice(r), B256::from_slice(s)))
}

/// A payload that was read.
#[derive(Debug, Clone)]
pub(super) struct Decoded {
    pub authorization: Authorization,
    pub signature: PayerSignature,
    pub token: Address,
    pub facts: PaymentFacts,
}

/// Reads a payload as a payment in the terms' asset.
///
/// # Errors
/// [`Reason::InvalidPayload`] for a bad shape, [`Reason::EvmSignatureForm`] for a bad signature.
pub(super) fn decode(chain_id: u64, payload: &Value, terms: &PaymentRequirements) -> Result<Decoded, Reason> {
    let token = address(terms.asset.as_str()).ok_or(Reason::InvalidPayload)?;
    let fields = payload.get("authorization").filter(|value| value.is_object()).ok_or(Reason::InvalidPayload)?;
    let authorization = Authorization {
        from: field(fields, "from").and_then(address).ok_or(Reason::InvalidPayload)?,
        to: field(fields, "to").and_then(address).ok_or(Reason::InvalidPayload)?,
        value: integer(fields.get("value"))?,
        valid_after: integer(fields.get("validAfter"))?,
        valid_before: integer(fields.get("validBefore"))?,
        nonce: field(fields, "nonce").and_then(word).ok_or(Reason::InvalidPayload)?,
    };
    let signature_text = field(payload, "signature").ok_or(Reason::InvalidPayload)?;
    let signature = PayerSignature::parse(signature_text)?;
    let facts = facts(chain_id, token, &authorization, &signature, signature_text)?;
    Ok(Decoded { authorization, signature, token, facts })
}

fn facts(
    chain_id: u64,
    token: Address,
    authorization: &Authorization,
    signature: &PayerSignature,
    signature_text: &str,
) -> Result<PaymentFacts, Reason> {
    let account = |address: Address| AccountId::new(address.to_checksum(None)).map_err(|_error| Reason::InvalidPayload);
    let signature_text = signature.canonical_text(signature_text);
    let Authorization { from, to, value, valid_after, valid_before, nonce } = authorization;
    let mut digest = Sha256::new();
    digest.update((U256::from(chain_id), token, from, to, value, valid_after, valid_before, nonce).abi_encode());
    digest.update(signature_text.as_bytes());
    Ok(PaymentFacts {
        id: PaymentId(format!("eip155:{chain_id}/{}/{}/{nonce}", token.to_checksum(None), from.to_checksum(None))),
        payer: account(*from)?,
        pay_to: account(*to)?,
        asset: AssetId::new(token.to_checksum(None)).map_err(|_error| Reason::InvalidPayload)?,
        amount: AtomicAmount::from(*value),
        valid_until: UnixMillis::from_secs(authorization.valid_before_secs()),
        digest: digest.finalize().into(),
        payload: json!({
            "signature": signature_text,
            "authorization": {
                "from": from.to_checksum(None),
                "to": to.to_checksum(None),
                "value": value.to_string(),
                "validAfter": valid_after.to_string(),
                "validBefore": valid_before.to_string(),
                "nonce": nonce.to_string(),
            },
        }),
    })
}

fn field<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str)
}

/// A canonical decimal string; a JSON integer is tolerated (protocol §7).
fn integer(value: Option<&Value>) -> Result<U256, Reason> {
    match value {
        Some(Value::String(text)) => {
            text.parse::<AtomicAmount>().map(AtomicAmount::value).map_err(|_error| Reason::InvalidPayload)
        }
        Some(Value::Number(number)) => number.as_u64().map(U256::from).ok_or(Reason::InvalidPayload),
        _ => Err(Reason::InvalidPayload),
    }
}

/// `0x` and an even number of hex digits of any case.
fn hex_bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x")?;
    if digits.len() > 2 * SIGNATURE_BYTES_MAX {
        return None;
    }
    // The hex reader itself would take a second prefix.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    alloy::hex::decode(digits).ok()
}

/// `0x` and 40 hex digits; their case carries no meaning here, since addresses are compared as bytes.
pub(super) fn address(text: &str) -> Option<Address> {
    hex_bytes(text).and_then(|bytes| Address::try_from(bytes.as_slice()).ok())
}

/// `0x` and 64 hex digits.
pub(super) fn word(text: &str) -> Option<B256> {
    hex_bytes(text).and_then(|bytes| B256::try_from(bytes.as_slice()).ok())
}
