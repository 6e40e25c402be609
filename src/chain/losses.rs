//! Gas lost to settlements that failed on chain, and who has to wait for it (threat C1, promise 4).
//!
//! A payer can spoil any simulation before its settlement is mined: it moves its money or cancels. That can't be prevented,
//! so it is bounded: a payer that did it waits, longer each time; when a network lost much within an hour it takes only
//! payers that lately paid; when it lost more, nobody. What is in flight by then still runs.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Payers that are remembered; when there are more, the network's own bounds must do.
const PAYERS_MAX: usize = 10_000;
/// How long a payer waits after its first loss; doubles up to the second value.
const PAYER_WAITS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// How long a payer is remembered after it last paid or had to wait.
const PAYER_HOLDS: Duration = Duration::from_secs(24 * 3600);
/// The time over which a network's losses are counted.
const WINDOW: Duration = Duration::from_secs(3600);
/// Losses of a network within the window that make it choose its payers.
const CHOOSY_AT: usize = 50;
/// Losses of a network within the window that close it.
const CLOSED_AT: usize = 200;

#[derive(Debug, Clone, Copy)]
struct Payer {
    /// Settlements lost in a row; none if the last one paid.
    losses: u32,
    waits_until: Instant,
    seen_at: Instant,
}

struct State<K> {
    payers: HashMap<K, Payer>,
    lost_at: VecDeque<Instant>,
}

/// A network's losses; `K` is its payers' address.
pub(super) struct Losses<K>(Mutex<State<K>>);

impl<K> Default for Losses<K> {
    fn default() -> Self {
        Self(Mutex::new(State { payers: HashMap::new(), lost_at: VecDeque::new() }))
    }
}

impl<K: Eq + Hash + Copy> Losses<K> {
    /// A settlement of this payer's failed on chain.
    pub(super) fn lost(&self, payer: K, now: Instant) {
        let Ok(mut state) = self.0.lock() else { return };
        state.lost_at.push_back(now);
        if state.lost_at.len() > CLOSED_AT {
            state.lost_at.pop_front();
        }
        let losses = state.payers.get(&payer).map_or(0, |known| known.losses).saturating_add(1);
        let factor = 1_u32 << (losses - 1).min(16);
        let waits_until = now + PAYER_WAITS.0.saturating_mul(factor).min(PAYER_WAITS.1);
        state.remember(payer, Payer { losses, waits_until, seen_at: now }, now);
    }

    /// A settlement of this payer's moved its money.
    pub(super) fn paid(&self, payer: K, now: Instant) {
        let Ok(mut state) = self.0.lock() else { return };
        state.remember(payer, Payer { losses: 0, waits_until: now, seen_at: now }, now);
    }

    /// Why this payer's payments aren't taken now, if they aren't.
    pub(super) fn refusal(&self, payer: K, now: Instant) -> Option<&'static str> {
        let Ok(state) = self.0.lock() else { return Some("losses are not known") };
        let known = state.payers.get(&payer).filter(|known| now.saturating_duration_since(known.seen_at) < PAYER_HOLDS);
        if known.is_some_and(|known| known.waits_until > now) {
            return Some("the payer's last settlement failed on chain");
        }
        if state.is_choosy(now) && known.is_none_or(|known| known.losses > 0) {
            return Some("too many settlements failed on chain; only payers that lately paid are taken");
        }
        None
    }

    /// Whether the network lost so much that nobody's payments are taken.
    pub(super) fn is_closed(&self, now: Instant) -> bool {
        self.0.lock().map_or(true, |state| state.lost_since(now) >= CLOSED_AT)
    }
}

impl<K: Eq + Hash + Copy> State<K> {
    fn lost_since(&self, now: Instant) -> usize {
        self.lost_at.iter().filter(|at| now.saturating_duration_since(**at) < WINDOW).count()
    }

    fn is_choosy(&self, now: Instant) -> bool {
        self.lost_since(now) >= CHOOSY_AT
    }

    fn remember(&mut self, payer: K, what: Payer, now: Instant) {
        if self.payers.len() >= PAYERS_MAX && !self.payers.contains_key(&payer) {
            self.payers.retain(|_, known| now.saturating_duration_since(known.seen_at) < PAYER_HOLDS);
        }
        if self.payers.len() < PAYERS_MAX || self.payers.contains_key(&payer) {
            self.payers.insert(payer, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payer_whose_settlements_fail_waits_longer_each_time_until_it_pays() {
        let (losses, start) = (Losses::default(), Instant::now());
        assert_eq!(losses.refusal(1, start), None);
        losses.lost(1, start);
        assert!(losses.refusal(1, start + Duration::from_secs(59)).is_some());
        assert_eq!(losses.refusal(2, start), None, "nobody else waits for it");
        let again = start + Duration::from_secs(61);
        assert_eq!(losses.refusal(1, again), None);
        losses.lost(1, again);
        assert!(losses.refusal(1, again + Duration::from_secs(119)).is_some());
        for _ in 0..100 {
            losses.lost(1, again);
        }
        assert!(losses.refusal(1, again + Duration::from_secs(3599)).is_some());
        let later = again + Duration::from_secs(3601);
        losses.paid(1, later);
        losses.lost(1, later);
        assert_eq!(losses.refusal(1, later + Duration::from_secs(61)), None, "it began anew");
    }

    #[test]
    fn a_network_that_lost_much_takes_who_paid_and_one_that_lost_more_takes_nobody_for_a_while() {
        let (losses, start) = (Losses::default(), Instant::now());
        losses.paid(1, start);
        for number in 0..CHOOSY_AT {
            assert_eq!(losses.refusal(2, start), None, "{number}");
            losses.lost(1_000 + number, start);
        }
        assert!(losses.refusal(2, start).is_some());
        assert_eq!(losses.refusal(1, start), None);
        assert!(!losses.is_closed(start));
        for _ in CHOOSY_AT..CLOSED_AT {
            losses.lost(3, start);
        }
        assert!(losses.is_closed(start));
        let later = start + WINDOW;
        assert!(!losses.is_closed(later));
        assert_eq!(losses.refusal(2, later), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (losses, now) = (Losses::default(), Instant::now());
        for number in 0..PAYERS_MAX * 2 {
            losses.lost(1_000 + number, now);
        }
        let state = losses.0.lock().unwrap();
        assert_eq!((state.payers.len(), state.lost_at.len()), (PAYERS_MAX, CLOSED_AT));
    }
}
