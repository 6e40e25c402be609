//! The payer's key and its one use: an EIP-3009 authorization over the offer's own chain and token (protocol §3.1).

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use alloy::primitives::{B256, U256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol;
use alloy::sol_types::{Eip712Domain, SolStruct};
use serde_json::{Value, json};
use solana_keypair::Keypair;
use solana_signer::Signer;
use zeroize::Zeroizing;

use super::choose::{Eip3009, Method, Payable};
use super::cosmos::CosmosKey;
use crate::config::Secret;
use crate::types::{AtomicAmount, ChainKind};

sol! {
    /// EIP-3009.
    struct TransferWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }
}

/// The environment variable that may hold the key.
pub const KEY_VARIABLE: &str = "TOLLHOUSE_KEY";

/// Longest key file that is read; a JSON array of 64 numbers has at most 400 characters.
const KEY_FILE_BYTES_MAX: u64 = 1024;

/// Why there is no key or no signature. Never says what the key is.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Neither file nor variable.
    #[error("the request must be paid and there is no key: give --key-file FILE or set {KEY_VARIABLE}")]
    NoKey,
    /// The file can't be read.
    #[error("can't read the key file: {0}")]
    KeyFile(#[source] std::io::Error),
    /// Others may read the file.
    #[error("the key file can be read by others (mode {0:03o}): chmod 600 it")]
    KeyFileOpen(u32),
    /// Not a key.
    #[error(
        "the key is neither 32 bytes in hex (EVM, Cosmos) nor a key pair of 64 bytes, in base58 or as solana-keygen writes it \
         (Solana)"
    )]
    Key,
    /// The clock or the offer's window is out of range.
    #[error("the authorization would end beyond any time")]
    Window,
    /// The signer failed.
    #[error("signing failed: {0}")]
    Signer(#[source] alloy::signers::Error),
}

/// The payer's key. Never printed.
pub enum PayerKey {
    /// Signs authorizations on EVM chains.
    Evm(PrivateKeySigner),
    /// Signs transactions on Solana.
    Solana(Box<Keypair>),
    /// Signs transactions on Cosmos chains.
    Cosmos(CosmosKey),
}

impl PayerKey {
    /// Reads the key from a file if one is named, else from the environment's value.
    ///
    /// # Errors
    /// When there is none, the file is open to others, or it holds no key.
    pub fn load(file: Option<&Path>, variable: Option<&Secret>) -> Result<Self, SignError> {
        match (file, variable) {
            (Some(file), _) => Self::parse(&read_private(file)?),
            (None, Some(text)) => Self::parse(text.expose()),
            (None, None) => Err(SignError::NoKey),
        }
    }

    fn parse(text: &str) -> Result<Self, SignError> {
        let text = text.trim();
        let digits = text.strip_prefix("0x").unwrap_or(text);
        if digits.len() == 64 {
            let mut bytes = Zeroizing::new([0_u8; 32]);
            alloy::hex::decode_to_slice(digits, bytes.as_mut_slice()).map_err(|_error| SignError::Key)?;
            return PrivateKeySigner::from_slice(bytes.as_slice()).map(Self::Evm).map_err(|_error| SignError::Key);
        }
        let pair = if text.starts_with('[') {
            let bytes = Zeroizing::new(serde_json::from_str::<Vec<u8>>(text).map_err(|_error| SignError::Key)?);
            Keypair::try_from(bytes.as_slice()).map_err(|_error| SignError::Key)
        } else {
            Keypair::try_from_base58_string(text).map_err(|_error| SignError::Key)
        };
        pair.map(|pair| Self::Solana(Box::new(pair)))
    }

    /// The chains that it signs for.
    #[must_use]
    pub fn kind(&self) -> ChainKind {
        match self {
            Self::Evm(_) => ChainKind::Evm,
            Self::Solana(_) => ChainKind::Solana,
            Self::Cosmos(_) => ChainKind::Cosmos,
        }
    }

    /// The same key for Cosmos chains, which look no different from EVM's: 32 bytes for secp256k1.
    #[must_use]
    pub fn for_cosmos(self) -> Self {
        match self {
            Self::Evm(key) => Self::Cosmos(CosmosKey::new(Zeroizing::new(key.to_bytes().into()))),
            other => other,
        }
    }

    /// The payer's address in the canonical text of the offer's chain.
    ///
    /// # Errors
    /// When the key has none there.
    pub fn address(&self, offer: &Payable) -> Result<String, SignError> {
        match (self, &offer.method) {
            (Self::Cosmos(key), Method::Send(send)) => key.address(&send.prefix).map_err(|_error| SignError::Key),
            (Self::Cosmos(_), _) => Err(SignError::Key),
            (Self::Evm(key), _) => Ok(key.address().to_string()),
            (Self::Solana(key), _) => Ok(key.pubkey().to_string()),
        }
    }
}

/// Signs an EIP-3009 authorization that starts at once (`validAfter` 0) and ends `valid_before`, in Unix seconds.
///
/// # Errors
/// When the signer fails.
pub fn authorize(
    key: &PrivateKeySigner,
    offer: &Eip3009,
    amount: AtomicAmount,
    valid_before: u64,
    nonce: [u8; 32],
) -> Result<Value, SignError> {
    let authorization = TransferWithAuthorization {
        from: key.address(),
        to: offer.pay_to,
        value: amount.value(),
        validAfter: U256::ZERO,
        validBefore: U256::from(valid_before),
        nonce: B256::from(nonce),
    };
    let digest = authorization.eip712_signing_hash(&domain(offer));
    let signature = key.sign_hash_sync(&digest).map_err(SignError::Signer)?;
    Ok(json!({
        "signature": alloy::hex::encode_prefixed(signature.as_bytes()),
        "authorization": {
            "from": key.address().to_string(),
            "to": offer.pay_to.to_string(),
            "value": amount,
            "validAfter": "0",
            "validBefore": valid_before.to_string(),
            "nonce": B256::from(nonce).to_string(),
        },
    }))
}

fn domain(offer: &Eip3009) -> Eip712Domain {
    Eip712Domain::new(
        Some(offer.domain.name.clone().into()),
        Some(offer.domain.version.clone().into()),
        Some(U256::from(offer.chain_id)),
        Some(offer.asset),
        None,
    )
}

fn read_private(path: &Path) -> Result<Zeroizing<String>, SignError> {
    let file = File::open(path).map_err(SignError::KeyFile)?;
    // Asked of the open file, so that it can't be swapped between the check and the read.
    let mode = file.metadata().map_err(SignError::KeyFile)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SignError::KeyFileOpen(mode));
    }
    let mut text = Zeroizing::new(String::with_capacity(2048));
    file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(SignError::KeyFile)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::choose::{Method, Payable, choose};
    use super::super::{fixtures, terms};
    use super::*;

    fn payable() -> Payable {
        let (header, _) = fixtures::terms_402(&[fixtures::offer("eip155:84532", "10000")]);
        let terms = terms::read(Some(header.as_bytes()), b"", false).unwrap();
        choose(&terms.offers, ChainKind::Evm, None, &"$0.10".parse().unwrap()).unwrap()
    }

    #[test]
    fn the_signature_is_the_one_two_other_libraries_make() {
        let key = PayerKey::parse(&"11".repeat(32)).unwrap();
        let offer = payable();
        assert_eq!(key.address(&offer).unwrap(), "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A");
        let (PayerKey::Evm(signer), Method::Eip3009(evm)) = (&key, &offer.method) else { panic!("not EVM") };
        assert_eq!(
            domain(evm).separator().to_string(),
            "0x71f17a3b2ff373b803d70a5a07c046c1a2bc8e89c09ef722fcb047abe94c9818"
        );
        let payload = authorize(signer, evm, offer.terms.amount, 1_893_456_000, [0x22; 32]).unwrap();
        assert_eq!(payload["signature"], fixtures::SIGNATURE);
        assert_eq!(
            payload["authorization"],
            json!({"from":"0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A","to":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
                "value":"10000","validAfter":"0","validBefore":"1893456000","nonce":format!("0x{}", "22".repeat(32))})
        );
    }

    #[test]
    fn a_key_pair_is_read_as_solana_keygen_and_as_wallets_write_it() {
        let pair = Keypair::new_from_array([1; 32]);
        let array = format!("{:?}", pair.to_bytes());
        for text in [array, pair.to_base58_string(), format!(" {}\n", pair.to_base58_string())] {
            let key = PayerKey::parse(&text).unwrap();
            let address = key.address(&payable()).unwrap();
            assert_eq!((key.kind(), address), (ChainKind::Solana, pair.pubkey().to_string()));
        }
        assert_eq!(PayerKey::parse(&"11".repeat(32)).unwrap().kind(), ChainKind::Evm);
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, format!("0x{}\n", "11".repeat(32))).unwrap();
        for mode in [0o640, 0o604, 0o660] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(PayerKey::load(Some(&file), None), Err(SignError::KeyFileOpen(_))), "{mode:o}");
        }
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(PayerKey::load(Some(&file), None).is_ok());
    }

    #[test]
    fn a_bad_key_is_refused_without_saying_what_it_was() {
        let short = format!("{:?}", [7; 63]);
        let foreign = format!("{:?}", [7; 64]);
        for bad in
            ["", "0x", "canarycanary", &"g1".repeat(32), &"11".repeat(33), &"00".repeat(32), "[7]", &short, &foreign]
        {
            let error = PayerKey::load(None, Some(&Secret::new(bad.to_owned()))).err().unwrap();
            assert!(error.to_string().starts_with("the key is neither"), "{bad:?}");
            assert!(!error.to_string().contains("canary"));
        }
        assert!(matches!(PayerKey::load(None, None), Err(SignError::NoKey)));
    }
}
