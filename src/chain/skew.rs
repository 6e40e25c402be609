//! Whether the local clock and the chain's agree (threat E11): windows are checked against the local one before anything is
//! signed, so a clock that is wrong refuses good payments and takes bad ones.
//!
//! A chain that stands still is not a clock that is wrong: only a head that just came tells how old new blocks are.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::types::{Network, UnixMillis};

/// How far the clocks may be apart.
const SKEW_MAX: Duration = Duration::from_secs(30);

/// A block as it was seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sighting {
    pub number: u64,
    /// The block's own clock, in Unix seconds.
    pub timestamp: u64,
    pub seen_at: Instant,
}

#[derive(Default)]
struct State {
    /// When the last head that was judged was read.
    read_at: Option<Instant>,
    /// The newest block, and when it came.
    newest: Option<(u64, Instant)>,
    skew_secs: i64,
    /// By how much the last head was ahead, too much or not.
    ahead_secs: Option<i64>,
}

/// The difference between the local clock and a chain's, as last seen.
#[derive(Default)]
pub(super) struct Skew(Mutex<State>);

impl Skew {
    /// By how many seconds the chain is ahead of the local clock, if that is too much; negative if it is behind.
    fn too_much(&self) -> Option<i64> {
        let state = self.0.lock().ok()?;
        (state.skew_secs != 0).then_some(state.skew_secs)
    }

    /// By how many seconds the newest block's clock was ahead of the local one when it was seen; negative if behind.
    pub(super) fn secs(&self) -> Option<i64> {
        self.0.lock().ok()?.ahead_secs
    }

    /// What is too much, as a reason not to offer the network.
    pub(super) fn refusal(&self) -> Option<String> {
        let secs = self.too_much()?;
        Some(format!("the chain's clock is {secs} s ahead of the local one: one of them is wrong"))
    }

    /// Takes note of a head and says so if that closes the network or opens it again.
    pub(super) fn compare(&self, network: &Network, head: Sighting, block_interval: Duration, now: UnixMillis) {
        match self.note(head, block_interval, now) {
            Some(0) => tracing::info!(%network, "Local and chain time agree again."),
            Some(ahead_secs) => {
                tracing::warn!(%network, ahead_secs, "Chain and local time disagree; no payments are taken.");
            }
            None => {}
        }
    }

    /// Takes note of a head. Gives the skew if it just became too much, or none any more (zero).
    fn note(&self, head: Sighting, block_interval: Duration, now: UnixMillis) -> Option<i64> {
        let mut state = self.0.lock().ok()?;
        if state.read_at == Some(head.seen_at) {
            return None;
        }
        let seen_at_secs = now.as_secs().saturating_sub(head.seen_at.elapsed().as_secs());
        let ahead = i64::try_from(head.timestamp).ok()?.checked_sub(i64::try_from(seen_at_secs).ok()?)?;
        state.ahead_secs = Some(ahead);
        let skew_max = i64::try_from(SKEW_MAX.as_secs()).ok()?;
        let before = state.skew_secs;
        state.skew_secs = match state.newest {
            _ if ahead > skew_max => ahead,
            // A new block is no older than the time since the one before came, and one interval.
            Some((number, came_at)) if head.number > number => {
                let waited = head.seen_at.saturating_duration_since(came_at).max(block_interval);
                let allowed = skew_max.saturating_add(i64::try_from(waited.as_secs()).ok()?);
                if ahead < -allowed { ahead } else { 0 }
            }
            // No news: what was known of a clock ahead of the chain stays known.
            _ => before.min(0),
        };
        state.read_at = Some(head.seen_at);
        if state.newest.is_none_or(|(number, _)| head.number > number) {
            state.newest = Some((head.number, head.seen_at));
        }
        ((before != 0) != (state.skew_secs != 0)).then_some(state.skew_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const INTERVAL: Duration = Duration::from_secs(2);

    struct Rig {
        skew: Skew,
        started: Instant,
    }

    impl Rig {
        fn new() -> Self {
            // Heads are seen in the past, so that none is seen in the future.
            Self { skew: Skew::default(), started: Instant::now().checked_sub(Duration::from_secs(500)).unwrap() }
        }

        /// A head that was seen after so many seconds by a local clock that is right, or off by `off` seconds.
        fn head(&self, number: u64, after_secs: u64, timestamp: u64, off: i64) -> Option<i64> {
            let seen_at = self.started + Duration::from_secs(after_secs);
            let head = Sighting { number, timestamp, seen_at };
            let elapsed = seen_at.elapsed().as_secs();
            let now = UnixMillis::from_secs((NOW + after_secs + elapsed).checked_add_signed(off).unwrap());
            self.skew.note(head, INTERVAL, now)
        }
    }

    #[test]
    fn clocks_that_agree_within_half_a_minute_are_no_news() {
        let rig = Rig::new();
        assert_eq!(rig.head(1, 0, NOW, 0), None);
        assert_eq!(rig.head(2, 10, NOW + 10, 25), None);
        assert_eq!(rig.head(3, 20, NOW + 20, -29), None);
        assert_eq!(rig.skew.too_much(), None);
    }

    #[test]
    fn a_local_clock_that_is_behind_is_seen_at_the_first_head() {
        let rig = Rig::new();
        assert_eq!(rig.head(1, 0, NOW, -3600), Some(3600));
        assert_eq!(rig.skew.too_much(), Some(3600));
        assert_eq!(rig.head(2, 10, NOW + 10, -3600), None, "said once");
        assert_eq!(rig.head(3, 20, NOW + 20, 0), Some(0));
        assert_eq!(rig.skew.too_much(), None);
    }

    #[test]
    fn a_local_clock_that_is_ahead_is_seen_when_a_block_comes() {
        let rig = Rig::new();
        assert_eq!(rig.head(1, 0, NOW, 3600), None, "the chain may stand still");
        assert_eq!(rig.head(2, 10, NOW + 10, 3600), Some(-3600));
        assert_eq!(rig.head(2, 20, NOW + 10, 3600), None);
        assert_eq!(rig.skew.too_much(), Some(-3600), "no block, no news");
    }

    #[test]
    fn a_chain_that_stands_still_is_not_taken_for_a_wrong_clock() {
        let rig = Rig::new();
        rig.head(1, 0, NOW, 0);
        for after in [10, 100, 200] {
            assert_eq!(rig.head(1, after, NOW, 0), None);
        }
        assert_eq!(rig.head(2, 210, NOW + 60, 0), None, "nor its first block after that");
        assert_eq!(rig.head(3, 220, NOW + 219, 0), None);
        assert_eq!(rig.skew.too_much(), None);
    }
}
