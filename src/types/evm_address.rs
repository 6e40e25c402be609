//! EVM addresses in their canonical text, EIP-55. Here rather than with the chain, since the configuration checks them too.

use alloy::primitives::Address;

/// Why a text is no EVM address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvmAddressError {
    /// Not `0x` and 40 hexadecimal digits.
    #[error("expected an address of `0x` and 40 hexadecimal digits")]
    Form,
    /// Mixed case that is not the checksum: a digit is wrong.
    #[error("the address has a wrong EIP-55 checksum, so a character of it is probably wrong")]
    Checksum,
    /// The zero address, where money is lost.
    #[error("the zero address belongs to nobody")]
    Zero,
}

/// The EIP-55 text of an address that is given with a right checksum or all in lower case.
///
/// # Errors
/// When the text is no address, its checksum is wrong, or it is the zero address.
pub fn canonical_evm_address(text: &str) -> Result<String, EvmAddressError> {
    let digits = text.strip_prefix("0x").ok_or(EvmAddressError::Form)?;
    if digits.len() != 40 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(EvmAddressError::Form);
    }
    let address: Address = text.parse().map_err(|_error| EvmAddressError::Form)?;
    let canonical = address.to_checksum(None);
    let has_upper_case = digits.bytes().any(|byte| byte.is_ascii_uppercase());
    if has_upper_case && canonical != text {
        return Err(EvmAddressError::Checksum);
    }
    if address.is_zero() { Err(EvmAddressError::Zero) } else { Ok(canonical) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::KNOWN_NETWORKS;

    #[test]
    fn lower_case_becomes_the_checksummed_form_and_a_wrong_checksum_is_refused() {
        let canonical = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";
        assert_eq!(canonical_evm_address(canonical).unwrap(), canonical);
        assert_eq!(canonical_evm_address(&canonical.to_lowercase()).unwrap(), canonical);
        let wrong = canonical.replace("209693Bc", "209693bC");
        assert_eq!(canonical_evm_address(&wrong), Err(EvmAddressError::Checksum));
        let shouted = format!("0x{}", canonical.trim_start_matches("0x").to_uppercase());
        assert_eq!(canonical_evm_address(&shouted), Err(EvmAddressError::Checksum));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let digits = "209693Bc6afc0C5328bA36FaF03C514EF312287C";
        for bad in ["", "0x", digits, &format!("0X{digits}"), &format!("0x{digits}0"), &format!(" 0x{digits}")] {
            assert_eq!(canonical_evm_address(bad), Err(EvmAddressError::Form), "{bad}");
        }
        assert_eq!(canonical_evm_address(&format!("0x{}", "0".repeat(40))), Err(EvmAddressError::Zero));
    }

    #[test]
    fn every_known_asset_is_an_address() {
        for known in KNOWN_NETWORKS.iter().filter(|known| known.caip2.starts_with("eip155:")) {
            assert!(canonical_evm_address(known.asset).is_ok(), "{}", known.caip2);
        }
    }
}
