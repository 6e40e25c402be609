//! Which offer is paid: the first that this client can sign, on a network that was asked for, below the ceiling.

use std::fmt;
use std::str::FromStr;

use alloy::primitives::Address;
use serde_json::Value;

use super::terms::SeenOffer;
use crate::cli::human::{amount_text, known_asset, printable};
use crate::protocol::{EXACT, PaymentRequirements};
use crate::types::{AtomicAmount, DecimalAmount, Eip712Domain, Network, Price};

/// Longest time an authorization is signed for: until then whoever holds it can move the money.
const WINDOW_SECS_MAX: u64 = 24 * 60 * 60;

/// The most that may be paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Max {
    /// `$0.10`: dollars, in known USD stablecoins only.
    Usd(DecimalAmount),
    /// `10000 0x…`: atomic units of one contract.
    Atomic(AtomicAmount, Address),
}

impl FromStr for Max {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("expected dollars such as '$0.10' or atomic units such as '10000 0xASSET', got {text:?}");
        match text.parse::<Price>() {
            Ok(Price::Usd(dollars)) => Ok(Self::Usd(dollars)),
            Ok(Price::Atomic { amount, asset }) => match address(&asset) {
                Some(asset) => Ok(Self::Atomic(amount, asset)),
                None => Err(expected()),
            },
            _ => Err(expected()),
        }
    }
}

/// An offer that can be paid, with all that its signature covers.
#[derive(Debug, Clone)]
pub struct Payable {
    /// As it came.
    pub raw: Value,
    /// As terms.
    pub terms: PaymentRequirements,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The token: the signature's verifying contract.
    pub asset: Address,
    /// Who is paid.
    pub pay_to: Address,
    /// The token's domain.
    pub domain: Eip712Domain,
}

/// Why an offer isn't paid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unpayable {
    /// Terms that can't be read.
    #[error("can't be read: {0}")]
    Unreadable(String),
    /// Another network than `--network`.
    #[error("is not on {0}, which was asked for")]
    OtherNetwork(Network),
    /// Something other than EIP-3009 on an EVM chain.
    #[error("wants {0}, and this client pays scheme exact with EIP-3009 on EVM chains only")]
    Method(String),
    /// An address that is none.
    #[error("holds an address that is malformed or has a wrong checksum: {0}")]
    Address(String),
    /// Whoever is paid there can't spend it.
    #[error("pays an address where money is lost: zero, or the token itself")]
    Nobody,
    /// The token's domain is neither in the offer nor known.
    #[error("states no EIP-712 name and version, and the asset is not a known one")]
    Domain,
    /// The authorization would be valid for too long.
    #[error("wants an authorization that is valid for {0} s, more than {WINDOW_SECS_MAX} s")]
    Window(u64),
    /// Dearer than allowed.
    #[error("costs {0}, more than --max allows")]
    AboveMax(String),
    /// Dollars can't be compared with an unknown asset.
    #[error(
        "asks for an asset that is not a known USD stablecoin, so --max in dollars can't be checked; \
         allow it in atomic units: {0}"
    )]
    NotDollars(String),
    /// `--max` speaks of another asset.
    #[error("asks for another asset than --max names")]
    OtherAsset,
}

/// Every offer's refusal, in the server's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NothingPayable(pub Vec<(String, Unpayable)>);

impl fmt::Display for NothingPayable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("nothing was paid: no offer can be accepted")?;
        for (place, why) in &self.0 {
            write!(formatter, "\n  offer {} {}", printable(place), printable(&why.to_string()))?;
        }
        Ok(())
    }
}

impl std::error::Error for NothingPayable {}

/// Chooses the first offer that can and may be paid.
///
/// # Errors
/// [`NothingPayable`] with the reason for each.
pub fn choose(offers: &[SeenOffer], network: Option<&Network>, max: &Max) -> Result<Payable, NothingPayable> {
    let mut refusals = Vec::new();
    for (index, offer) in offers.iter().enumerate() {
        match payable(offer, network, max) {
            Ok(payable) => return Ok(payable),
            Err(why) => {
                let on = offer.terms.as_ref().map(|terms| format!(" ({})", terms.network)).unwrap_or_default();
                refusals.push((format!("{}{on}", index + 1), why));
            }
        }
    }
    Err(NothingPayable(refusals))
}

fn payable(offer: &SeenOffer, network: Option<&Network>, max: &Max) -> Result<Payable, Unpayable> {
    let terms = offer.terms.clone().map_err(Unpayable::Unreadable)?;
    if let Some(wanted) = network
        && *wanted != terms.network
    {
        return Err(Unpayable::OtherNetwork(wanted.clone()));
    }
    let chain_id = signable_chain(&terms)?;
    let asset = address(terms.asset.as_str()).ok_or_else(|| Unpayable::Address(terms.asset.to_string()))?;
    let pay_to = address(terms.pay_to.as_str()).ok_or_else(|| Unpayable::Address(terms.pay_to.to_string()))?;
    if pay_to.is_zero() || pay_to == asset {
        return Err(Unpayable::Nobody);
    }
    if terms.max_timeout_seconds > WINDOW_SECS_MAX {
        return Err(Unpayable::Window(terms.max_timeout_seconds));
    }
    check_max(&terms, asset, max)?;
    let domain = terms.eip712_domain().or_else(|| known_domain(&terms)).ok_or(Unpayable::Domain)?;
    Ok(Payable { raw: offer.raw.clone(), terms, chain_id, asset, pay_to, domain })
}

/// Whether EIP-3009 under scheme `exact` is what is asked (protocol §1.4 paymentFlow, §3.5).
fn signable_chain(terms: &PaymentRequirements) -> Result<u64, Unpayable> {
    let method = |what: &str| Unpayable::Method(what.to_owned());
    if terms.scheme != EXACT {
        return Err(method(&format!("scheme {}", terms.scheme)));
    }
    let chain_id = terms.network.chain_id().ok_or_else(|| method(terms.network.as_str()))?;
    for (key, known) in [("assetTransferMethod", &["eip3009"][..]), ("paymentFlow", &["authorization", "upfront"][..])]
    {
        match terms.extra.get(key) {
            None => {}
            Some(Value::String(value)) if known.contains(&value.as_str()) => {}
            Some(other) => return Err(method(&format!("{key} {other}"))),
        }
    }
    Ok(chain_id)
}

fn check_max(terms: &PaymentRequirements, asset: Address, max: &Max) -> Result<(), Unpayable> {
    let too_dear = || Unpayable::AboveMax(amount_text(terms.amount, &terms.network, terms.asset.as_str()));
    match max {
        Max::Usd(dollars) => {
            let known = known_asset(&terms.network, terms.asset.as_str()).ok_or_else(|| {
                // Other chains may have another token at the same address.
                let (amount, asset, network) = (&terms.amount, &terms.asset, &terms.network);
                Unpayable::NotDollars(format!("--network {network} --max '{amount} {asset}'"))
            })?;
            let price = DecimalAmount::from_atomic(terms.amount, known.decimals);
            if price > *dollars { Err(too_dear()) } else { Ok(()) }
        }
        Max::Atomic(_, only) if *only != asset => Err(Unpayable::OtherAsset),
        Max::Atomic(most, _) if terms.amount > *most => Err(too_dear()),
        Max::Atomic(..) => Ok(()),
    }
}

fn known_domain(terms: &PaymentRequirements) -> Option<Eip712Domain> {
    let (name, version) = known_asset(&terms.network, terms.asset.as_str())?.eip712?;
    Some(Eip712Domain { name: name.to_owned(), version: version.to_owned() })
}

/// Reads an address in one case, or in mixed case with its right checksum (EIP-55).
fn address(text: &str) -> Option<Address> {
    let digits = text.strip_prefix("0x")?;
    let is_one_case =
        !digits.bytes().any(|byte| byte.is_ascii_uppercase()) || !digits.bytes().any(|byte| byte.is_ascii_lowercase());
    if is_one_case { text.parse().ok() } else { Address::parse_checksummed(text, None).ok() }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{self, ASSET};
    use super::super::terms;
    use super::*;

    fn chosen(offers: &[Value], network: Option<&str>, max: &str) -> Result<Payable, NothingPayable> {
        let (header, _) = fixtures::terms_402(offers);
        let terms = terms::read(Some(header.as_bytes()), b"", false).unwrap();
        let network = network.map(|name| name.parse().unwrap());
        choose(&terms.offers, network.as_ref(), &max.parse().unwrap())
    }

    fn refusal(offer: Value, max: &str) -> Unpayable {
        chosen(&[offer], None, max).unwrap_err().0.remove(0).1
    }

    #[test]
    fn the_first_payable_offer_is_chosen_not_the_first() {
        let mut solana = fixtures::offer("solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "1");
        solana["asset"] = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v".into();
        let mut upto = fixtures::offer("eip155:84532", "1");
        upto["scheme"] = "upto".into();
        let mut permit2 = fixtures::offer("eip155:84532", "1");
        permit2["extra"]["assetTransferMethod"] = "permit2".into();
        let offers =
            [solana, upto, permit2, fixtures::offer("eip155:84532", "7"), fixtures::offer("eip155:84532", "6")];
        assert_eq!(chosen(&offers, None, "$0.10").unwrap().terms.amount, AtomicAmount::from(7));
    }

    #[test]
    fn a_network_is_asked_for_by_name_or_id() {
        let mut base = fixtures::offer("eip155:8453", "1");
        base["asset"] = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913".into();
        let offers = [base, fixtures::offer("eip155:84532", "2")];
        for name in ["base-sepolia", "eip155:84532"] {
            assert_eq!(chosen(&offers, Some(name), "$0.10").unwrap().chain_id, 84532);
        }
        let NothingPayable(refusals) = chosen(&offers, Some("polygon"), "$0.10").unwrap_err();
        assert_eq!(refusals.len(), 2);
        assert!(matches!(refusals[0].1, Unpayable::OtherNetwork(_)));
    }

    #[test]
    fn the_ceiling_itself_may_be_paid_and_one_unit_more_may_not() {
        assert!(chosen(&[fixtures::offer("eip155:84532", "100000")], None, "$0.10").is_ok());
        let why = refusal(fixtures::offer("eip155:84532", "100001"), "$0.10");
        assert_eq!(why, Unpayable::AboveMax("0.100001 USDC".into()));
        let atomic = format!("10000 {}", ASSET.to_lowercase());
        assert!(chosen(&[fixtures::offer("eip155:84532", "10000")], None, &atomic).is_ok());
        assert!(matches!(refusal(fixtures::offer("eip155:84532", "10001"), &atomic), Unpayable::AboveMax(_)));
    }

    #[test]
    fn an_unknown_asset_is_paid_only_under_a_ceiling_in_its_own_units() {
        let unknown = "0x5fbdb2315678afecb367f032d93f642f64180aa3";
        let mut offer = fixtures::offer("eip155:31337", "10000");
        offer["asset"] = unknown.into();
        assert!(matches!(refusal(offer.clone(), "$100"), Unpayable::NotDollars(_)));
        assert_eq!(refusal(offer.clone(), &format!("10000 {ASSET}")), Unpayable::OtherAsset);
        assert!(chosen(&[offer.clone()], None, &format!("10000 {unknown}")).is_ok());
        // The same contract address on another chain is another asset.
        let stray = fixtures::offer("eip155:31337", "10000");
        assert!(matches!(refusal(stray, "$100"), Unpayable::NotDollars(_)));
        offer["extra"] = serde_json::json!({});
        assert_eq!(refusal(offer, &format!("10000 {unknown}")), Unpayable::Domain);
    }

    #[test]
    fn a_known_asset_needs_no_domain_in_the_offer() {
        let mut offer = fixtures::offer("eip155:84532", "1");
        offer["extra"] = serde_json::json!({});
        assert_eq!(chosen(&[offer], None, "$0.10").unwrap().domain.name, "USDC");
    }

    #[test]
    fn wrong_checksums_and_endless_windows_are_refused() {
        let mut offer = fixtures::offer("eip155:84532", "1");
        offer["payTo"] = "0x209693bc6afc0C5328bA36FaF03C514EF312287C".into();
        assert!(matches!(refusal(offer, "$0.10"), Unpayable::Address(_)));
        for nobody in ["0x0000000000000000000000000000000000000000", ASSET] {
            let mut offer = fixtures::offer("eip155:84532", "1");
            offer["payTo"] = nobody.into();
            assert_eq!(refusal(offer, "$0.10"), Unpayable::Nobody);
        }
        let mut offer = fixtures::offer("eip155:84532", "1");
        offer["maxTimeoutSeconds"] = 86_401.into();
        assert_eq!(refusal(offer, "$0.10"), Unpayable::Window(86_401));
    }

    #[test]
    fn ceilings_that_mean_nothing_are_refused() {
        for bad in ["", "0.10", "free", "deny", "10000", "10000 USDC", "$0", "10000 0x12"] {
            assert!(bad.parse::<Max>().is_err(), "{bad}");
        }
    }
}
