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

impl Decoded {
    /// SHA-256 over the authorization and the signature it came with: what a refusal is remembered by.
    pub(super) fn presented(&self) -> [u8; 32] {
        Sha256::digest([self.facts.digest.as_slice(), &self.signature.bytes()].concat()).into()
    }
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
    // Without the signature: a wallet may take many for one authorization, and the authorization is what can be spent once.
    // Else whoever sees a failed settlement on chain could present it again as its own, spelled another way.
    let mut digest = Sha256::new();
    digest.update((U256::from(chain_id), token, from, to, value, valid_after, valid_before, nonce).abi_encode());
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

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::types::Network;

    const TOKEN: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
    const SIGNATURE: &str = "0x56eca79af8845a206a6b6806f1c1c969d9870ba1632c908c9d6881b61235a0cd6430df18c5a1333451aff539658ba853df8fc3611b7bfb04467eebc0a0573ca11b";

    fn terms() -> PaymentRequirements {
        PaymentRequirements {
            scheme: "exact".to_owned(),
            network: Network::evm(84532),
            amount: AtomicAmount::from(10_000),
            asset: AssetId::new(TOKEN).unwrap(),
            pay_to: AccountId::new("0x209693Bc6afc0C5328bA36FaF03C514EF312287C").unwrap(),
            max_timeout_seconds: 60,
            extra: Map::new(),
        }
    }

    fn payload() -> Value {
        json!({
            "signature": SIGNATURE,
            "authorization": {
                "from": "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A",
                "to": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
                "value": "10000",
                "validAfter": "0",
                "validBefore": "1893456000",
                "nonce": format!("0x{}", "22".repeat(32)),
            },
        })
    }

    fn with(key: &str, value: Value) -> Result<Decoded, Reason> {
        let mut changed = payload();
        changed["authorization"][key] = value;
        decode(84532, &changed, &terms())
    }

    fn signed(signature: &str) -> Result<Decoded, Reason> {
        let mut changed = payload();
        changed["signature"] = json!(signature);
        decode(84532, &changed, &terms())
    }

    /// The test vector of protocol §3.1.
    #[test]
    fn the_published_vector_gives_the_published_hash_separator_and_signer() {
        let domain = Eip712Domain { name: "USDC".to_owned(), version: "2".to_owned() };
        let separator = domain_separator(&domain, 84532, address(TOKEN).unwrap());
        assert_eq!(separator.to_string(), "0x71f17a3b2ff373b803d70a5a07c046c1a2bc8e89c09ef722fcb047abe94c9818");
        let decoded = decode(84532, &payload(), &terms()).unwrap();
        let hash = decoded.authorization.hash(separator);
        assert_eq!(hash.to_string(), "0x96b10c9ca72b8507a90f09da88d354975cce0b8b7fbf49578d97a582e59ddb3a");
        let signer = super::super::verify::recover(&decoded.signature, &hash);
        assert_eq!(signer, Some(decoded.authorization.from));
        assert_eq!(
            decoded.facts.id.0,
            format!("eip155:84532/{TOKEN}/0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A/0x{}", "22".repeat(32))
        );
    }

    #[test]
    fn every_field_and_every_part_of_the_domain_changes_who_signed() {
        let domain = Eip712Domain { name: "USDC".to_owned(), version: "2".to_owned() };
        let token = address(TOKEN).unwrap();
        let signer = |decoded: &Decoded, separator: B256| {
            super::super::verify::recover(&decoded.signature, &decoded.authorization.hash(separator))
        };
        let right = domain_separator(&domain, 84532, token);
        for (key, value) in [
            ("from", json!(TOKEN)),
            ("to", json!(TOKEN)),
            ("value", json!("10001")),
            ("validAfter", json!("1")),
            ("validBefore", json!("1893456001")),
            ("nonce", json!(format!("0x{}", "23".repeat(32)))),
        ] {
            let changed = with(key, value).unwrap();
            assert_ne!(signer(&changed, right), Some(changed.authorization.from), "{key}");
        }
        let decoded = decode(84532, &payload(), &terms()).unwrap();
        for wrong in [
            domain_separator(&domain, 8453, token),
            domain_separator(&domain, 84532, Address::ZERO),
            domain_separator(&Eip712Domain { name: "USD Coin".to_owned(), ..domain.clone() }, 84532, token),
            domain_separator(&Eip712Domain { version: "1".to_owned(), ..domain.clone() }, 84532, token),
        ] {
            assert_ne!(signer(&decoded, wrong), Some(decoded.authorization.from));
        }
    }

    #[test]
    fn numbers_that_are_not_canonical_decimals_are_refused() {
        for key in ["value", "validAfter", "validBefore"] {
            for bad in ["", "0x2710", " 10000", "10000 ", "+1", "-1", "010", "1e4", "1.0", "١"] {
                assert_eq!(with(key, json!(bad)).err(), Some(Reason::InvalidPayload), "{key} {bad:?}");
            }
            for bad in [json!(null), json!(1.5), json!(-1), json!([]), json!({}), json!(true)] {
                assert_eq!(with(key, bad.clone()).err(), Some(Reason::InvalidPayload), "{key} {bad}");
            }
            let too_large = "115792089237316195423570985008687907853269984665640564039457584007913129639936";
            assert_eq!(with(key, json!(too_large)).err(), Some(Reason::InvalidPayload));
        }
        let text = decode(84532, &payload(), &terms()).unwrap();
        let number = with("value", json!(10_000)).unwrap();
        assert_eq!(number.facts, text.facts, "a JSON integer is the same payment");
    }

    #[test]
    fn addresses_and_nonces_must_be_whole_hex() {
        for bad in [
            "",
            "0x",
            "19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A",
            "0x19E7",
            "0X19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A",
            "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2Z",
            " 0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A",
        ] {
            assert_eq!(with("from", json!(bad)).err(), Some(Reason::InvalidPayload), "{bad:?}");
            assert_eq!(with("to", json!(bad)).err(), Some(Reason::InvalidPayload), "{bad:?}");
            assert_eq!(with("nonce", json!(bad)).err(), Some(Reason::InvalidPayload), "{bad:?}");
        }
        for key in ["from", "to", "value", "validAfter", "validBefore", "nonce"] {
            let mut missing = payload();
            missing["authorization"].as_object_mut().unwrap().remove(key);
            assert_eq!(decode(84532, &missing, &terms()).err(), Some(Reason::InvalidPayload), "{key}");
        }
        for bad in [json!(null), json!("text"), json!({}), json!([]), json!({"authorization": {}, "signature": 1})] {
            assert_eq!(decode(84532, &bad, &terms()).err(), Some(Reason::InvalidPayload), "{bad}");
        }
    }

    #[test]
    fn spellings_of_one_payment_have_one_digest() {
        let plain = decode(84532, &payload(), &terms()).unwrap();
        let mut spelled = payload();
        spelled["authorization"]["from"] = json!("0x19e7e376e7c213b7e7e7e46cc70a5dd086daff2a");
        spelled["authorization"]["to"] = json!("0x209693BC6AFC0C5328BA36FAF03C514EF312287C");
        spelled["authorization"]["comment"] = json!("unknown keys are not signed");
        let body = SIGNATURE.strip_suffix("1b").unwrap();
        spelled["signature"] = json!(format!("{}00", body.to_uppercase().replace("0X", "0x")));
        assert_eq!(decode(84532, &spelled, &terms()).unwrap().facts, plain.facts);
        // EIP-2098: parity 0 leaves s as it is.
        assert_eq!(signed(body).unwrap().facts, plain.facts);
        assert_eq!(
            decode(84532, &plain.facts.payload, &terms()).unwrap().facts,
            plain.facts,
            "the kept form reads back"
        );
        assert_ne!(with("value", json!("10001")).unwrap().facts.digest, plain.facts.digest);
        assert_ne!(decode(8453, &payload(), &terms()).unwrap().facts.digest, plain.facts.digest);
    }

    #[test]
    fn a_malleated_or_unreadable_signature_is_refused() {
        let (r, s) = (&SIGNATURE[2..66], U256::from_str_radix(&SIGNATURE[66..130], 16).unwrap());
        let order = HALF_ORDER * U256::from(2) + U256::from(1);
        let high = format!("0x{r}{:064x}1c", order - s);
        let at_half = format!("0x{r}{HALF_ORDER:064x}1b");
        assert!(signed(&at_half).is_ok());
        for bad in [
            high,
            format!("0x{r}{:064x}1b", HALF_ORDER + U256::from(1)),
            format!("0x{}{:064x}1b", "0".repeat(64), s),
            format!("0x{r}{}1b", "0".repeat(64)),
            format!("0x{r}{s:064x}1d"),
            format!("0x{r}{s:064x}02"),
            format!("0x{r}{s:064x}1"),
            "0x".to_owned(),
            String::new(),
            SIGNATURE[2..].to_owned(),
            format!("0x0x{}", &SIGNATURE[4..]),
            format!("0x{}", "ab".repeat(SIGNATURE_BYTES_MAX + 1)),
            format!("0x{}", "6492".repeat(16)),
        ] {
            assert_eq!(signed(&bad).err(), Some(Reason::EvmSignatureForm), "{}", &bad[..bad.len().min(140)]);
        }
    }

    #[test]
    fn what_only_a_contract_can_judge_is_kept_as_it_came() {
        let long = format!("0x{}", "ab".repeat(130));
        assert_eq!(signed(&long).unwrap().signature, PayerSignature::Contract(vec![0xab; 130]));
        assert_eq!(signed("0xAB").unwrap().signature, PayerSignature::Contract(vec![0xab]));
        let inner = vec![7u8; 65];
        let parts = super::super::abi::WrappedSignature {
            factory: Address::ZERO,
            factoryCalldata: Vec::new().into(),
            innerSignature: inner.clone().into(),
        };
        let wrapped = [parts.abi_encode_params(), WRAPPED_SUFFIX.to_vec()].concat();
        let decoded = signed(&alloy::hex::encode_prefixed(wrapped)).unwrap();
        assert_eq!(decoded.signature, PayerSignature::Wrapped(inner));
        assert_eq!(decode(84532, &decoded.facts.payload, &terms()).unwrap().facts, decoded.facts);
    }

    #[test]
    fn an_authorization_is_the_same_payment_whatever_signature_it_is_presented_with() {
        let (one, other) = (signed("0xabab").unwrap(), signed("0xababab").unwrap());
        assert_eq!(one.facts.digest, other.facts.digest);
        assert_ne!(one.presented(), other.presented(), "but is judged anew");
    }
}
