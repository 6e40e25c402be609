//! Amounts as integers of atomic units; decimals only on the way in from an operator's price.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use alloy::primitives::U256;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An amount in an asset's smallest unit, as a decimal string on every wire.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AtomicAmount(U256);

/// Why a text is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Something other than digits, or a leading zero.
    #[error("expected decimal digits without sign, space, point or leading zero, got `{0}`")]
    NotCanonical(String),
    /// Does not fit 256 bits.
    #[error("amount is larger than 2^256 - 1")]
    TooLarge,
}

impl AtomicAmount {
    /// Nothing.
    pub const ZERO: Self = Self(U256::ZERO);

    /// The amount as an integer.
    #[must_use]
    pub fn value(self) -> U256 {
        self.0
    }

    /// Whether this is nothing.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    /// The sum, or nothing if it overflows.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The product, or nothing if it overflows.
    #[must_use]
    pub fn checked_mul(self, other: Self) -> Option<Self> {
        self.0.checked_mul(other.0).map(Self)
    }

    /// Ten to a power, or nothing if that overflows.
    #[must_use]
    pub fn ten_to_the(power: u8) -> Option<Self> {
        U256::from(10).checked_pow(U256::from(power)).map(Self)
    }

    /// The difference, zero if `other` is larger.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl From<U256> for AtomicAmount {
    fn from(value: U256) -> Self {
        Self(value)
    }
}

impl From<u64> for AtomicAmount {
    fn from(value: u64) -> Self {
        Self(U256::from(value))
    }
}

impl FromStr for AtomicAmount {
    type Err = AmountError;

    /// Reads the canonical form only, so that equal amounts are equal texts (threat B3).
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let is_canonical = !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_digit())
            && (text == "0" || !text.starts_with('0'));
        if !is_canonical {
            return Err(AmountError::NotCanonical(text.chars().take(80).collect()));
        }
        if text.len() > 78 {
            return Err(AmountError::TooLarge);
        }
        U256::from_str_radix(text, 10).map(Self).map_err(|_error| AmountError::TooLarge)
    }
}

impl fmt::Display for AtomicAmount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Debug for AtomicAmount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Serialize for AtomicAmount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AtomicAmount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A decimal number as an operator wrote it, exact: `digits / 10^scale`.
#[derive(Debug, Clone, Copy)]
pub struct DecimalAmount {
    digits: U256,
    scale: u8,
}

impl DecimalAmount {
    /// The number in units of `10^-decimals`, or nothing if it is finer than that or overflows.
    #[must_use]
    pub fn to_atomic(self, decimals: u8) -> Option<AtomicAmount> {
        if self.scale <= decimals {
            let factor = U256::from(10).checked_pow(U256::from(decimals - self.scale))?;
            self.digits.checked_mul(factor).map(AtomicAmount)
        } else {
            let divisor = U256::from(10).checked_pow(U256::from(self.scale - decimals))?;
            if (self.digits % divisor).is_zero() { Some(AtomicAmount(self.digits / divisor)) } else { None }
        }
    }

    /// Whether this is nothing.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.digits.is_zero()
    }

    /// An amount of atomic units as the decimal number of whole tokens that it is.
    #[must_use]
    pub fn from_atomic(amount: AtomicAmount, decimals: u8) -> Self {
        Self { digits: amount.0, scale: decimals }
    }
}

impl FromStr for DecimalAmount {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !all_digits(whole) || !all_digits(fraction) || text.len() > 40 || (whole.len() > 1 && whole.starts_with('0'))
        {
            return Err(());
        }
        let fraction = fraction.trim_end_matches('0');
        let digits = U256::from_str_radix(&format!("{whole}{fraction}"), 10).map_err(|_error| ())?;
        Ok(Self { digits, scale: u8::try_from(fraction.len()).map_err(|_error| ())? })
    }
}

impl PartialEq for DecimalAmount {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for DecimalAmount {}

impl PartialOrd for DecimalAmount {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for DecimalAmount {
    fn cmp(&self, other: &Self) -> Ordering {
        let scale = self.scale.max(other.scale);
        // Numbers beyond 256 bits at a common scale compare as larger than everything.
        let at_scale = |number: &Self| number.to_atomic(scale).map_or(U256::MAX, AtomicAmount::value);
        at_scale(self).cmp(&at_scale(other))
    }
}

impl fmt::Display for DecimalAmount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:0>width$}", self.digits.to_string(), width = usize::from(self.scale) + 1);
        let (whole, fraction) = digits.split_at(digits.len() - usize::from(self.scale));
        let fraction = fraction.trim_end_matches('0');
        if fraction.is_empty() { formatter.write_str(whole) } else { write!(formatter, "{whole}.{fraction}") }
    }
}

/// What a route costs, as its operator wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Price {
    /// `"$0.01"`: dollars, in any asset that is a USD stablecoin.
    Usd(DecimalAmount),
    /// `"10000 uusdc"`: atomic units of one asset, named by symbol or id.
    Atomic {
        /// How many units.
        amount: AtomicAmount,
        /// The asset's symbol or id.
        asset: String,
    },
    /// `"free"`.
    Free,
    /// `"deny"`.
    Deny,
}

/// Why a text is no price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// None of the four forms.
    #[error("expected \"$0.01\", \"10000 uusdc\", \"free\" or \"deny\", got {0:?}")]
    Form(String),
    /// A price of nothing.
    #[error("a price can't be zero; write \"free\" if it is meant to cost nothing")]
    Zero,
}

impl FromStr for Price {
    type Err = PriceError;

    fn from_str(text: &str) -> Result<Self, PriceError> {
        let form = || PriceError::Form(text.to_owned());
        match text {
            "free" => return Ok(Self::Free),
            "deny" => return Ok(Self::Deny),
            _ => {}
        }
        if let Some(dollars) = text.strip_prefix('$') {
            let dollars: DecimalAmount = dollars.parse().map_err(|()| form())?;
            return if dollars.is_zero() { Err(PriceError::Zero) } else { Ok(Self::Usd(dollars)) };
        }
        let (amount, asset) = text.split_once(' ').ok_or_else(form)?;
        let amount: AtomicAmount = amount.parse().map_err(|_error| form())?;
        let asset_is_legal = !asset.is_empty() && asset.bytes().all(|byte| byte.is_ascii_graphic());
        if !asset_is_legal {
            return Err(form());
        }
        if amount.is_zero() { Err(PriceError::Zero) } else { Ok(Self::Atomic { amount, asset: asset.to_owned() }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_that_are_not_canonical_decimals_are_refused() {
        for bad in ["", "0x10", "+5", "-5", "010", " 5", "5 ", "1e4", "1.0", "1_000", "٣", "00"] {
            assert!(bad.parse::<AtomicAmount>().is_err(), "{bad:?}");
        }
        let largest = U256::MAX.to_string();
        assert_eq!(largest.parse::<AtomicAmount>().unwrap().value(), U256::MAX);
        assert_eq!(
            "115792089237316195423570985008687907853269984665640564039457584007913129639936".parse::<AtomicAmount>(),
            Err(AmountError::TooLarge)
        );
        assert_eq!("9".repeat(79).parse::<AtomicAmount>(), Err(AmountError::TooLarge));
    }

    #[test]
    fn dollars_become_atomic_units_without_rounding() {
        let Price::Usd(price) = "$0.01".parse().unwrap() else { panic!("not dollars") };
        assert_eq!(price.to_atomic(6), Some(AtomicAmount::from(10_000)));
        assert_eq!(price.to_atomic(18).unwrap().to_string(), "10000000000000000");
        let Price::Usd(too_fine) = "$0.0000001".parse().unwrap() else { panic!("not dollars") };
        assert_eq!(too_fine.to_atomic(6), None);
        let Price::Usd(padded) = "$1.50000000".parse().unwrap() else { panic!("not dollars") };
        assert_eq!(padded.to_atomic(6), Some(AtomicAmount::from(1_500_000)));
    }

    #[test]
    fn prices_that_mean_nothing_are_refused() {
        for bad in [
            "",
            "$",
            "$-1",
            "$1e3",
            "$.5",
            "$1.",
            "0.01",
            "10000",
            "10000  uusdc",
            "$0x1",
            "$01",
            "FREE",
            "1.5 USDC",
            "$1,000",
        ] {
            assert!(matches!(bad.parse::<Price>(), Err(PriceError::Form(_))), "{bad:?}");
        }
        for zero in ["$0", "$0.00", "0 uusdc"] {
            assert_eq!(zero.parse::<Price>(), Err(PriceError::Zero), "{zero:?}");
        }
    }

    #[test]
    fn decimals_compare_and_print_as_numbers() {
        let number = |text: &str| text.parse::<DecimalAmount>().unwrap();
        assert!(number("100") > number("99.999999"));
        assert_eq!(number("1.50"), number("1.5"));
        assert_eq!(number("0.0100").to_string(), "0.01");
        assert_eq!(DecimalAmount::from_atomic(AtomicAmount::from(10_000), 6).to_string(), "0.01");
        assert_eq!(DecimalAmount::from_atomic(AtomicAmount::from(25_000_000), 6).to_string(), "25");
    }
}
