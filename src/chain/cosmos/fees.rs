//! What a node demands as a fee at least: gas prices such as `0.025uusdc,0.1ibc/AB`, and whether a fee covers them. Pure.

use super::decode::FeeCoin;
use crate::types::AtomicAmount;

/// Digits after the point of the SDK's decimals.
const SCALE: u32 = 18;

/// A price of one unit of gas in one denom, in 10^-18 of its smallest unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GasPrice {
    denom: String,
    scaled: u128,
}

impl GasPrice {
    /// What `gas` costs, rounded up; none if that is beyond all fees.
    fn of(&self, gas: u64) -> Option<u128> {
        Some(self.scaled.checked_mul(u128::from(gas))?.div_ceil(10_u128.pow(SCALE)))
    }
}

/// Reads a node's minimum gas prices. None if they can't be read, which says nothing about a fee.
pub(super) fn parse_gas_prices(text: &str) -> Option<Vec<GasPrice>> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(parse_one).collect()
}

fn parse_one(text: &str) -> Option<GasPrice> {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
    let (number, denom) = text.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let missing = SCALE.checked_sub(u32::try_from(fraction.len()).ok()?)?;
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    Some(GasPrice { denom: denom.to_owned(), scaled: digits.checked_mul(10_u128.checked_pow(missing)?)? })
}

/// Whether a fee is enough in one of the denoms, which is what nodes ask for.
pub(super) fn is_enough(prices: &[GasPrice], fee: &[FeeCoin], gas: u64) -> bool {
    let covers = |price: &GasPrice| {
        let Some(needed) = price.of(gas).and_then(|needed| needed.to_string().parse::<AtomicAmount>().ok()) else {
            return false;
        };
        price.scaled == 0 || fee.iter().any(|coin| coin.denom == price.denom && coin.amount >= needed)
    };
    prices.is_empty() || prices.iter().any(covers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fee(denom: &str, amount: u64) -> Vec<FeeCoin> {
        vec![FeeCoin { denom: denom.to_owned(), amount: amount.into() }]
    }

    #[test]
    fn a_fee_is_enough_from_the_rounded_up_price_of_its_gas_on() {
        let prices = parse_gas_prices("0.025uusdc,0.001500000000000001ibc/AB").unwrap();
        assert!(is_enough(&prices, &fee("uusdc", 2_500), 100_000));
        assert!(!is_enough(&prices, &fee("uusdc", 2_499), 100_000));
        assert!(!is_enough(&prices, &fee("ibc/AB", 150), 100_000), "rounded up");
        assert!(is_enough(&prices, &fee("ibc/AB", 151), 100_000), "one denom is enough");
        assert!(!is_enough(&prices, &fee("worthless", 1_000_000), 100_000));
        assert!(!is_enough(&prices, &[], 100_000));
        let dear = parse_gas_prices("1000000uusdc").unwrap();
        assert!(!is_enough(&dear, &fee("uusdc", u64::MAX), u64::MAX), "beyond all fees");
    }

    #[test]
    fn a_node_without_a_minimum_takes_any_fee_and_unreadable_prices_are_no_prices() {
        assert!(is_enough(&parse_gas_prices("").unwrap(), &[], 100_000));
        assert!(is_enough(&parse_gas_prices("0uatom").unwrap(), &[], 100_000));
        for bad in ["1", "0.1.2x", "uatom", ".x", "0.0000000000000000001x", "-1x"] {
            assert_eq!(parse_gas_prices(bad), None, "{bad}");
        }
    }
}
