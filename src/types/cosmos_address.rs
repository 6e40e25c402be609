//! Cosmos addresses in their canonical text, bech32. Here rather than with the chain, since the configuration checks them
//! too.

use cosmrs::AccountId as Bech32;

/// Bytes of an account's address: RIPEMD-160 of a hash, or SHA-256 for module and contract accounts (ADR-028).
const ADDRESS_BYTES: [usize; 2] = [20, 32];

/// Why a text is no address of a Cosmos chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CosmosAddressError {
    /// Not bech32 of 20 or 32 bytes in lower case.
    #[error("expected a bech32 address of 20 or 32 bytes in lower case")]
    Form,
    /// Another chain's prefix.
    #[error("expected an address that starts with {expected}1, got one that starts with {got}1")]
    Prefix {
        /// The chain's.
        expected: String,
        /// The address's.
        got: String,
    },
}

/// The text of an address of the chain with this bech32 prefix.
///
/// # Errors
/// When the text is no address, or another chain's.
pub fn canonical_cosmos_address(prefix: &str, text: &str) -> Result<String, CosmosAddressError> {
    let address: Bech32 = text.parse().map_err(|_error| CosmosAddressError::Form)?;
    if address.to_string() != text || !ADDRESS_BYTES.contains(&address.to_bytes().len()) {
        return Err(CosmosAddressError::Form);
    }
    if address.prefix() != prefix {
        return Err(CosmosAddressError::Prefix { expected: prefix.to_owned(), got: address.prefix().to_owned() });
    }
    Ok(text.to_owned())
}

/// Whether a text can be a bech32 prefix of a chain: 1 to 20 lower-case letters (room is left for the longest address).
#[must_use]
pub fn is_bech32_prefix(text: &str) -> bool {
    (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(prefix: &str, bytes: &[u8]) -> String {
        Bech32::new(prefix, bytes).unwrap().to_string()
    }

    #[test]
    fn an_address_of_the_chain_is_taken_as_it_stands() {
        for bytes in [&[7; 20][..], &[7; 32]] {
            let text = address("noble", bytes);
            assert_eq!(canonical_cosmos_address("noble", &text).unwrap(), text);
        }
    }

    #[test]
    fn what_is_no_address_of_the_chain_is_refused() {
        let good = address("noble", &[7; 20]);
        let foreign = canonical_cosmos_address("osmo", &good);
        assert_eq!(foreign, Err(CosmosAddressError::Prefix { expected: "osmo".into(), got: "noble".into() }));
        let wrong = format!("{}x", &good[..good.len() - 1]);
        for bad in ["", "noble1", &good.to_uppercase(), &wrong, &address("noble", &[7; 19])] {
            assert_eq!(canonical_cosmos_address("noble", bad), Err(CosmosAddressError::Form), "{bad}");
        }
    }
}
