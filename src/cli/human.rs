//! Values as people read them: amounts with a symbol where the asset is known, moments in UTC, foreign text made safe for
//! a terminal.

use std::time::{Duration, UNIX_EPOCH};

use crate::types::{AtomicAmount, ChainKind, DecimalAmount, KNOWN_NETWORKS, KnownNetwork, Network, UnixMillis};

/// The known network whose default asset this is. EVM addresses compare without case; base58 and denoms have one.
#[must_use]
pub fn known_asset(network: &Network, asset: &str) -> Option<&'static KnownNetwork> {
    let is_hex = network.kind() == ChainKind::Evm;
    KNOWN_NETWORKS
        .iter()
        .filter(|known| known.caip2 == network.as_str() && !known.asset.is_empty())
        .find(|known| if is_hex { known.asset.eq_ignore_ascii_case(asset) } else { known.asset == asset })
}

/// `0.01 USDC` where the asset is known, else `10000 0x…`.
#[must_use]
pub fn amount_text(amount: AtomicAmount, network: &Network, asset: &str) -> String {
    match known_asset(network, asset) {
        Some(known) => format!("{} {}", DecimalAmount::from_atomic(amount, known.decimals), known.symbol),
        None => format!("{amount} {asset}"),
    }
}

/// `base-sepolia (eip155:84532)`, or the id alone.
#[must_use]
pub fn network_text(network: &Network) -> String {
    network.v1_name().map_or_else(|| network.to_string(), |name| format!("{name} ({network})"))
}

/// A moment in UTC to the second, RFC 3339.
#[must_use]
pub fn time_text(moment: UnixMillis) -> String {
    // The year 9999, beyond which the formatter panics.
    const SECS_MAX: u64 = 253_402_300_799;
    let moment = UNIX_EPOCH + Duration::from_secs(moment.as_secs().min(SECS_MAX));
    humantime::format_rfc3339_seconds(moment).to_string()
}

/// Whether a character orders others about on a screen: it turns the direction of text, hides, or breaks a line.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Text from elsewhere without control characters, which could drive a terminal, and without what makes an address or an
/// amount look like another; newlines become spaces.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .filter_map(|character| match character {
            '\n' | '\t' => Some(' '),
            _ if character.is_control() || is_invisible(character) => None,
            _ => Some(character),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_assets_print_in_whole_tokens_and_others_in_atomic_units() {
        let network = Network::evm(84532);
        let usdc = "0x036cbd53842c5426634e7929541ec2318f3dcf7e";
        assert_eq!(amount_text(AtomicAmount::from(10_000), &network, usdc), "0.01 USDC");
        assert_eq!(amount_text(AtomicAmount::from(10_000), &network, "0xabc"), "10000 0xabc");
        assert_eq!(network_text(&network), "base-sepolia (eip155:84532)");
    }

    #[test]
    fn moments_print_in_utc_and_the_far_future_does_not_panic() {
        assert_eq!(time_text(UnixMillis(1_767_225_600_999)), "2026-01-01T00:00:00Z");
        assert_eq!(time_text(UnixMillis(i64::MAX)), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn control_characters_of_others_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\r\nc"), "a[31mb c");
        assert_eq!(printable("0x\u{202e}dab\u{2066}\u{2028}\u{200b}é"), "0xdabé");
    }
}
