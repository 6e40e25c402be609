//! What a wallet in a browser needs to build a payment, from what the gateway knows anyway: the page asks no node, and no node
//! is asked for it.

use std::time::Duration;

use serde_json::{Map, Value, json};
use solana_pubkey::Pubkey;

use super::Inner;
use super::watch::Head;
use crate::types::AssetId;

/// How long a blockhash lives if every slot has its block: 150 blocks of 400 ms.
const BLOCKHASH_LIVES: Duration = Duration::from_secs(60);
/// A hash that can't be used for so long any more is not given: people need time to read what they sign.
const LEAST_LEFT: Duration = Duration::from_secs(30);

/// The cluster as the wallet standard names it, nothing for one that it has no name for; the token's program; a blockhash, and
/// for how many seconds it is good.
pub(super) fn facts(inner: &Inner, asset: &AssetId) -> Map<String, Value> {
    let mut facts = Map::new();
    let chain = match inner.network.v1_name() {
        Some("solana") => "solana:mainnet",
        Some("solana-devnet") => "solana:devnet",
        Some("solana-testnet") => "solana:testnet",
        _ => return facts,
    };
    facts.insert("chain".to_owned(), json!(chain));
    let mint: Option<Pubkey> = asset.as_str().parse().ok();
    if let Some(program) = mint.and_then(|mint| inner.program_of(&mint)) {
        facts.insert("tokenProgram".to_owned(), json!(program.to_string()));
    }
    if let Some((blockhash, left)) = inner.watch.head().and_then(|head| usable(&head)) {
        facts.insert("blockhash".to_owned(), json!(blockhash));
        facts.insert("blockhashSecs".to_owned(), json!(left.as_secs()));
    }
    facts
}

/// The head's blockhash and how long it can be used, if that is long enough.
fn usable(head: &Head) -> Option<(String, Duration)> {
    let left = BLOCKHASH_LIVES.saturating_sub(head.seen_at.elapsed());
    let blockhash = head.blockhash?.to_string();
    (left >= LEAST_LEFT).then_some((blockhash, left))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use solana_sdk::hash::Hash;

    use super::*;

    #[test]
    fn a_blockhash_is_given_only_while_a_person_has_time_to_sign() {
        let head = |age: u64, blockhash| Head {
            blockhash,
            last_valid: 150,
            seen_at: Instant::now().checked_sub(Duration::from_secs(age)).unwrap(),
        };
        let hash = Hash::new_from_array([7; 32]);
        let (text, left) = usable(&head(5, Some(hash))).unwrap();
        assert_eq!(text, hash.to_string());
        assert!(left <= Duration::from_secs(55) && left > Duration::from_secs(50), "{left:?}");
        assert_eq!(usable(&head(31, Some(hash))), None);
        assert_eq!(usable(&head(300, Some(hash))), None);
        assert_eq!(usable(&head(0, None)), None);
    }
}
