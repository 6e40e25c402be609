//! Solana addresses in their canonical text, base58. Here rather than with the chain, since the configuration checks them too.

use solana_pubkey::Pubkey;

/// Why a text is no Solana address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SolanaAddressError {
    /// Not 32 bytes in base58.
    #[error("expected a Solana address: 32 bytes in base58")]
    Form,
    /// All bytes zero: the system program, where money is lost.
    #[error("the system program's address belongs to nobody")]
    Zero,
}

/// The base58 text of an address, which has only one.
///
/// # Errors
/// When the text is no address, or is the system program's.
pub fn canonical_solana_address(text: &str) -> Result<String, SolanaAddressError> {
    let address: Pubkey = text.parse().map_err(|_error| SolanaAddressError::Form)?;
    let canonical = address.to_string();
    if canonical != text {
        return Err(SolanaAddressError::Form);
    }
    if address.to_bytes() == [0; 32] { Err(SolanaAddressError::Zero) } else { Ok(canonical) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::KNOWN_NETWORKS;

    #[test]
    fn every_known_mint_is_an_address() {
        for known in KNOWN_NETWORKS.iter().filter(|known| known.caip2.starts_with("solana:")) {
            assert_eq!(canonical_solana_address(known.asset).unwrap(), known.asset, "{}", known.caip2);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in ["", "0x209693Bc6afc0C5328bA36FaF03C514EF312287C", "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTD", "l"]
        {
            assert_eq!(canonical_solana_address(bad), Err(SolanaAddressError::Form), "{bad}");
        }
        assert_eq!(canonical_solana_address("11111111111111111111111111111111"), Err(SolanaAddressError::Zero));
    }
}
