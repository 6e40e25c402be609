//! Which offer is paid: the first that this client can sign, on a network that was asked for, below the ceiling.

use std::fmt;
use std::str::FromStr;

use alloy::primitives::Address;
use serde_json::Value;
use solana_pubkey::Pubkey;

use super::terms::SeenOffer;
use crate::cli::human::{amount_text, known_asset, printable};
use crate::protocol::{EXACT, PaymentRequirements};
use crate::types::{
    AtomicAmount, ChainKind, DecimalAmount, Eip712Domain, KNOWN_NETWORKS, Network, Price, canonical_cosmos_address,
};

/// Longest time an authorization is signed for: until then whoever holds it can move the money.
const WINDOW_SECS_MAX: u64 = 24 * 60 * 60;

/// Longest memo that an offer may ask for (protocol §4).
const MEMO_BYTES_MAX: usize = 256;

/// A token by its address: a contract, a mint or a denomination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// EVM.
    Contract(Address),
    /// Solana.
    Mint(Pubkey),
    /// Cosmos.
    Denom(String),
}

impl Token {
    fn read(text: &str) -> Option<Self> {
        let token = address(text).map(Self::Contract).or_else(|| text.parse().ok().map(Self::Mint));
        token.or_else(|| is_denom(text).then(|| Self::Denom(text.to_owned())))
    }
}

/// Whether a text is a denomination as the SDK takes them, and no symbol: those have large letters and no slash.
fn is_denom(text: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"/:._-".contains(&byte);
    (3..=128).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(is_legal)
}

/// The most that may be paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Max {
    /// `$0.10`: dollars, in known USD stablecoins only.
    Usd(DecimalAmount),
    /// `10000 0x…`: atomic units of one token.
    Atomic(AtomicAmount, Token),
}

impl FromStr for Max {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("expected dollars such as '$0.10' or atomic units such as '10000 0xASSET', got {text:?}");
        match text.parse::<Price>() {
            Ok(Price::Usd(dollars)) => Ok(Self::Usd(dollars)),
            Ok(Price::Atomic { amount, asset }) => match Token::read(&asset) {
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
    /// How it is paid.
    pub method: Method,
}

/// How an offer is paid.
#[derive(Debug, Clone)]
pub enum Method {
    /// An EIP-3009 authorization.
    Eip3009(Eip3009),
    /// A transaction that transfers a token on Solana, which the server pays the fee of.
    Spl(Spl),
    /// A transaction that sends a coin on a Cosmos chain.
    Send(BankSend),
}

/// What an EIP-3009 signature covers besides amount and time.
#[derive(Debug, Clone)]
pub struct Eip3009 {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The token: the signature's verifying contract.
    pub asset: Address,
    /// Who is paid.
    pub pay_to: Address,
    /// The token's domain.
    pub domain: Eip712Domain,
}

/// What a transfer on Solana holds besides the amount.
#[derive(Debug, Clone)]
pub struct Spl {
    /// The token.
    pub mint: Pubkey,
    /// Who is paid; the money goes to their associated token account.
    pub pay_to: Pubkey,
    /// Who pays the transaction's fee.
    pub fee_payer: Pubkey,
    /// What the server wants written beside the transfer.
    pub memo: Option<String>,
}

/// What a transfer on a Cosmos chain holds besides the amount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BankSend {
    /// The chain's own id.
    pub chain_id: String,
    /// What its addresses start with.
    pub prefix: String,
    /// The coin.
    pub denom: String,
    /// Who is paid.
    pub pay_to: String,
    /// What the server wants written beside the transfer.
    pub memo: String,
}

impl Payable {
    /// Who is paid, in the chain's canonical text.
    #[must_use]
    pub fn pay_to(&self) -> String {
        match &self.method {
            Method::Eip3009(evm) => evm.pay_to.to_string(),
            Method::Spl(spl) => spl.pay_to.to_string(),
            Method::Send(send) => send.pay_to.clone(),
        }
    }
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
    /// Another family of chains than the key's.
    #[error("is on {offered}, and the key is one for {held}", offered = .offered.a_network(), held = .held.a_network())]
    OtherKey {
        /// The offer's family.
        offered: ChainKind,
        /// The key's.
        held: ChainKind,
    },
    /// Something other than EIP-3009 or a transfer.
    #[error(
        "wants {0}, and this client pays scheme exact only: EIP-3009 on EVM chains, transfers on Solana and on Cosmos chains"
    )]
    Method(String),
    /// Nobody to pay the fee.
    #[error("names no account as extra.feePayer that pays the transaction's fee")]
    FeePayer,
    /// Too long for a transaction.
    #[error("wants a memo that is no text of at most {MEMO_BYTES_MAX} bytes")]
    Memo,
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

/// Chooses the first offer that can be paid with a key for this family of chains, and may be.
///
/// # Errors
/// [`NothingPayable`] with the reason for each.
pub fn choose(
    offers: &[SeenOffer],
    key: ChainKind,
    network: Option<&Network>,
    max: &Max,
) -> Result<Payable, NothingPayable> {
    let mut refusals = Vec::new();
    for (index, offer) in offers.iter().enumerate() {
        match payable(offer, key, network, max) {
            Ok(payable) => return Ok(payable),
            Err(why) => {
                let on = offer.terms.as_ref().map(|terms| format!(" ({})", terms.network)).unwrap_or_default();
                refusals.push((format!("{}{on}", index + 1), why));
            }
        }
    }
    Err(NothingPayable(refusals))
}

fn payable(offer: &SeenOffer, key: ChainKind, network: Option<&Network>, max: &Max) -> Result<Payable, Unpayable> {
    let terms = offer.terms.clone().map_err(Unpayable::Unreadable)?;
    if let Some(wanted) = network
        && *wanted != terms.network
    {
        return Err(Unpayable::OtherNetwork(wanted.clone()));
    }
    check_method(&terms)?;
    if terms.network.kind() != key {
        return Err(Unpayable::OtherKey { offered: terms.network.kind(), held: key });
    }
    if terms.max_timeout_seconds > WINDOW_SECS_MAX {
        return Err(Unpayable::Window(terms.max_timeout_seconds));
    }
    let method = match (terms.network.kind(), terms.network.chain_id()) {
        (ChainKind::Evm, Some(chain_id)) => eip3009(&terms, chain_id, max).map(Method::Eip3009),
        (ChainKind::Solana, _) => spl(&terms, max).map(Method::Spl),
        (ChainKind::Cosmos, _) => send(&terms, max).map(Method::Send),
        (ChainKind::Evm, None) => Err(Unpayable::Method(terms.network.to_string())),
    }?;
    Ok(Payable { raw: offer.raw.clone(), terms, method })
}

fn eip3009(terms: &PaymentRequirements, chain_id: u64, max: &Max) -> Result<Eip3009, Unpayable> {
    let read = |text: &str| address(text).ok_or_else(|| Unpayable::Address(text.to_owned()));
    let (asset, pay_to) = (read(terms.asset.as_str())?, read(terms.pay_to.as_str())?);
    if pay_to.is_zero() || pay_to == asset {
        return Err(Unpayable::Nobody);
    }
    check_max(terms, &Token::Contract(asset), max)?;
    let domain = terms.eip712_domain().or_else(|| known_domain(terms)).ok_or(Unpayable::Domain)?;
    Ok(Eip3009 { chain_id, asset, pay_to, domain })
}

fn spl(terms: &PaymentRequirements, max: &Max) -> Result<Spl, Unpayable> {
    let read = |text: &str| text.parse::<Pubkey>().map_err(|_error| Unpayable::Address(text.to_owned()));
    let (mint, pay_to) = (read(terms.asset.as_str())?, read(terms.pay_to.as_str())?);
    if pay_to == Pubkey::default() || pay_to == mint {
        return Err(Unpayable::Nobody);
    }
    check_max(terms, &Token::Mint(mint), max)?;
    let fee_payer = terms.extra.get("feePayer").and_then(Value::as_str).and_then(|text| text.parse().ok());
    Ok(Spl { mint, pay_to, fee_payer: fee_payer.ok_or(Unpayable::FeePayer)?, memo: memo(terms)? })
}

fn send(terms: &PaymentRequirements, max: &Max) -> Result<BankSend, Unpayable> {
    let pay_to = terms.pay_to.as_str();
    let wrong = || Unpayable::Address(pay_to.to_owned());
    let (offered, _) = pay_to.rsplit_once('1').ok_or_else(wrong)?;
    let known = KNOWN_NETWORKS.iter().find(|known| known.caip2 == terms.network.as_str());
    // Of a chain that isn't known, the offer must be believed: what is signed for another prefix is worth nothing there.
    let prefix = known.and_then(|known| known.bech32_prefix).unwrap_or(offered);
    canonical_cosmos_address(prefix, pay_to).map_err(|_error| wrong())?;
    let denom = terms.asset.as_str();
    if !is_denom(denom) {
        return Err(Unpayable::Address(denom.to_owned()));
    }
    check_max(terms, &Token::Denom(denom.to_owned()), max)?;
    Ok(BankSend {
        chain_id: terms.network.reference().to_owned(),
        prefix: prefix.to_owned(),
        denom: denom.to_owned(),
        pay_to: pay_to.to_owned(),
        memo: memo(terms)?.unwrap_or_default(),
    })
}

fn memo(terms: &PaymentRequirements) -> Result<Option<String>, Unpayable> {
    match terms.extra.get("memo") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(memo)) if memo.len() <= MEMO_BYTES_MAX => Ok(Some(memo.clone())),
        Some(_) => Err(Unpayable::Memo),
    }
}

/// Whether what is asked is scheme `exact` in a way that this client knows (protocol §1.4 paymentFlow, §3.5).
fn check_method(terms: &PaymentRequirements) -> Result<(), Unpayable> {
    let method = |what: &str| Unpayable::Method(what.to_owned());
    if terms.scheme != EXACT {
        return Err(method(&format!("scheme {}", terms.scheme)));
    }
    for (key, known) in [("assetTransferMethod", &["eip3009"][..]), ("paymentFlow", &["authorization", "upfront"][..])]
    {
        match terms.extra.get(key) {
            None => {}
            Some(Value::String(value)) if known.contains(&value.as_str()) => {}
            Some(other) => return Err(method(&format!("{key} {other}"))),
        }
    }
    Ok(())
}

fn check_max(terms: &PaymentRequirements, asset: &Token, max: &Max) -> Result<(), Unpayable> {
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
        Max::Atomic(_, only) if only != asset => Err(Unpayable::OtherAsset),
        Max::Atomic(most, _) if terms.amount > *most => Err(too_dear()),
        Max::Atomic(..) => Ok(()),
    }
}

/// Whether a fee in the coin that is paid is one that the ceiling would let pass as a price: a node could name any.
#[must_use]
pub fn is_fee_within(fee: AtomicAmount, terms: &PaymentRequirements, max: &Max) -> bool {
    let as_price = PaymentRequirements { amount: fee, ..terms.clone() };
    check_max(&as_price, &Token::Denom(terms.asset.to_string()), max).is_ok()
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

    fn chosen_with(
        key: ChainKind,
        offers: &[Value],
        network: Option<&str>,
        max: &str,
    ) -> Result<Payable, NothingPayable> {
        let (header, _) = fixtures::terms_402(offers);
        let terms = terms::read(Some(header.as_bytes()), b"", false).unwrap();
        let network = network.map(|name| name.parse().unwrap());
        choose(&terms.offers, key, network.as_ref(), &max.parse().unwrap())
    }

    fn chosen(offers: &[Value], network: Option<&str>, max: &str) -> Result<Payable, NothingPayable> {
        chosen_with(ChainKind::Evm, offers, network, max)
    }

    fn chain_id(payable: &Payable) -> u64 {
        payable.terms.network.chain_id().unwrap()
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
            assert_eq!(chosen(&offers, Some(name), "$0.10").as_ref().map(chain_id), Ok(84532));
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
        let Method::Eip3009(evm) = chosen(&[offer], None, "$0.10").unwrap().method else { panic!("not EVM") };
        assert_eq!(evm.domain.name, "USDC");
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
    fn the_offer_that_the_key_fits_is_chosen() {
        let offers = [fixtures::offer("eip155:84532", "1"), fixtures::solana_offer("2")];
        assert_eq!(chain_id(&chosen(&offers, None, "$0.10").unwrap()), 84532);
        let cosmos = chosen_with(
            ChainKind::Cosmos,
            &[offers.to_vec(), vec![fixtures::cosmos_offer("3")]].concat(),
            None,
            "$0.10",
        );
        assert_eq!(cosmos.unwrap().terms.network, "cosmos:grand-1".parse().unwrap());
        let solana = chosen_with(ChainKind::Solana, &offers, None, "$0.10").unwrap();
        assert_eq!(solana.terms.network, "solana-devnet".parse().unwrap());
        let NothingPayable(refusals) =
            chosen_with(ChainKind::Solana, &offers, Some("base-sepolia"), "$0.10").unwrap_err();
        assert!(matches!(refusals[0].1, Unpayable::OtherKey { .. }));
        assert!(matches!(refusals[1].1, Unpayable::OtherNetwork(_)));
    }

    #[test]
    fn a_transfer_on_solana_needs_somebody_to_pay_its_fee_and_a_memo_that_fits() {
        let refusal = |change: &dyn Fn(&mut Value)| {
            let mut offer = fixtures::solana_offer("10000");
            change(&mut offer);
            chosen_with(ChainKind::Solana, &[offer], None, "$0.10").unwrap_err().0.remove(0).1
        };
        let extra = |key: &'static str, value: Value| {
            move |offer: &mut Value| {
                offer["extra"][key] = value.clone();
            }
        };
        for nobody in [Value::Null, "".into(), "0x036CbD53842c5426634e7929541eC2318f3dCF7e".into(), 7.into()] {
            assert_eq!(refusal(&extra("feePayer", nobody)), Unpayable::FeePayer);
        }
        for memo in [Value::from("x".repeat(257)), 7.into()] {
            assert_eq!(refusal(&extra("memo", memo)), Unpayable::Memo);
        }
        assert_eq!(refusal(&|offer| offer["payTo"] = offer["asset"].clone()), Unpayable::Nobody);
        assert!(matches!(refusal(&|offer| offer["payTo"] = ASSET.into()), Unpayable::Address(_)));
        assert!(matches!(refusal(&|offer| offer["amount"] = "100001".into()), Unpayable::AboveMax(_)));
        // Base58 tells large letters from small ones: this is another mint.
        let other = |offer: &mut Value| offer["asset"] = fixtures::OTHER_MINT.into();
        assert!(matches!(refusal(&other), Unpayable::NotDollars(_)));
    }

    #[test]
    fn a_transfer_on_cosmos_goes_to_an_address_of_its_chain_below_the_ceiling() {
        let pay = |change: &dyn Fn(&mut Value), max: &str| {
            let mut offer = fixtures::cosmos_offer("10000");
            change(&mut offer);
            chosen_with(ChainKind::Cosmos, &[offer], None, max).map_err(|mut error| error.0.remove(0).1)
        };
        let Ok(Payable { method: Method::Send(send), terms, .. }) = pay(&|_| {}, "$0.10") else { panic!("not paid") };
        assert_eq!((send.chain_id.as_str(), send.prefix.as_str(), send.denom.as_str()), ("grand-1", "noble", "uusdc"));
        let cents = "$0.10".parse().unwrap();
        assert!(
            is_fee_within(100_000_u64.into(), &terms, &cents) && !is_fee_within(100_001_u64.into(), &terms, &cents)
        );
        assert!(pay(&|_| {}, "10000 uusdc").is_ok());
        assert_eq!(pay(&|_| {}, "10000 uatom").unwrap_err(), Unpayable::OtherAsset);
        assert!(matches!(pay(&|_| {}, "9999 uusdc").unwrap_err(), Unpayable::AboveMax(_)));
        for bad in
            ["cosmos1fl48vsnmsdzcv85q5d2q4z5ajdha8yu34mf0eh", ASSET, "noble1fl48vsnmsdzcv85q5d2q4z5ajdha8yu3xxxxxx"]
        {
            assert!(matches!(pay(&|offer| offer["payTo"] = bad.into(), "$0.10"), Err(Unpayable::Address(_))), "{bad}");
        }
        assert!(matches!(pay(&|offer| offer["asset"] = "ibc/AB".into(), "$1"), Err(Unpayable::NotDollars(_))));
        assert_eq!(pay(&|offer| offer["extra"]["memo"] = 7.into(), "$1").unwrap_err(), Unpayable::Memo);
    }

    #[test]
    fn ceilings_that_mean_nothing_are_refused() {
        for bad in ["", "0.10", "free", "deny", "10000", "10000 USDC", "$0", "10000 0x12"] {
            assert!(bad.parse::<Max>().is_err(), "{bad}");
        }
    }
}
