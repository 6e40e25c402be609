//! Which tokens are offered: one that fails its payers leaves the offers for a while, alone, and is then tried again with one
//! payment at a time (threats B13, B14).
//!
//! Only failures that are not their payer's doing are told to it. Three payers in a row must meet the same one, so that nobody
//! closes a token by himself; a token that said "done" and moved something else is closed at once.

use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::ledger::PaymentId;
use crate::protocol::Reason;

/// Payers that must meet the same failure.
const FAILURES: usize = 3;
/// The time in which they must.
const WINDOW: Duration = Duration::from_secs(600);
/// How long a token stays out of the offers after its first failure; doubles up to the second value.
const CLOSED_FOR: (Duration, Duration) = (Duration::from_secs(120), Duration::from_secs(3600));
/// The first value for a token that lied.
const LIAR_CLOSED_FOR: Duration = Duration::from_secs(1800);
/// How long one payment may take to show whether the token works again, before another is let through.
const PROBE_HOLDS: Duration = Duration::from_secs(120);

struct Token<P> {
    failures: VecDeque<(Reason, P, Instant)>,
    /// How often it was closed since it last worked.
    closings: u32,
    closed_until: Option<Instant>,
    /// It said "done" and moved something else: whoever tries it again must see more than that it runs.
    has_lied: bool,
    probe: Option<(PaymentId, Instant)>,
}

impl<P> Default for Token<P> {
    fn default() -> Self {
        Self { failures: VecDeque::new(), closings: 0, closed_until: None, has_lied: false, probe: None }
    }
}

/// The breakers of a network's tokens; `T` names a token, `P` a payer.
pub(super) struct Breaker<T, P>(Mutex<HashMap<T, Token<P>>>);

impl<T, P> Default for Breaker<T, P> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<T: Eq + Hash + Clone + Display, P: Eq> Breaker<T, P> {
    /// Whether a token is in the offers. After its time it is, though only one payment at a time is taken.
    pub(super) fn is_offered(&self, token: &T, now: Instant) -> bool {
        let Ok(tokens) = self.0.lock() else { return false };
        tokens.get(token).and_then(|token| token.closed_until).is_none_or(|until| until <= now)
    }

    /// Why a payment in this token isn't taken now, if it isn't. Takes the place of the one that is tried.
    pub(super) fn refusal(&self, token: &T, id: &PaymentId, now: Instant) -> Option<String> {
        let Ok(mut tokens) = self.0.lock() else { return Some("breakers are not known".to_owned()) };
        let state = tokens.get_mut(token)?;
        let until = state.closed_until?;
        let is_tried =
            |(probe, since): &(PaymentId, Instant)| probe != id && now.saturating_duration_since(*since) < PROBE_HOLDS;
        if until > now || state.probe.as_ref().is_some_and(is_tried) {
            return Some(format!("token {token} failed its payers lately"));
        }
        state.probe = Some((id.clone(), now));
        None
    }

    /// The token did what it was told.
    pub(super) fn works(&self, token: &T) {
        if let Ok(mut tokens) = self.0.lock()
            && let Some(state) = tokens.remove(token)
            && state.closed_until.is_some()
        {
            tracing::warn!(%token, "A token that had failed works again.");
        }
    }

    /// The token refused what it should have done.
    pub(super) fn failed(&self, token: &T, payer: P, reason: Reason, now: Instant) {
        let Ok(mut tokens) = self.0.lock() else { return };
        let state = tokens.entry(token.clone()).or_default();
        if state.closed_until.is_some_and(|until| until > now) {
            return;
        }
        state.failures.retain(|(known, by, at)| {
            now.saturating_duration_since(*at) < WINDOW && !(*by == payer && *known == reason)
        });
        if state.failures.len() > FAILURES * FAILURES {
            state.failures.pop_front();
        }
        state.failures.push_back((reason, payer, now));
        let same = state.failures.iter().filter(|(known, _, _)| *known == reason).count();
        // Tried again, one failure is enough.
        if same >= FAILURES || state.closed_until.is_some() {
            state.close(token, reason, CLOSED_FOR.0, now);
        }
    }

    /// The token's transaction succeeded, and what it was told to move did not move.
    pub(super) fn lied(&self, token: &T, reason: Reason, now: Instant) {
        if let Ok(mut tokens) = self.0.lock() {
            let state = tokens.entry(token.clone()).or_default();
            state.has_lied = true;
            state.close(token, reason, LIAR_CLOSED_FOR, now);
        }
    }

    /// Lets the time pass for which a token is closed.
    #[cfg(test)]
    pub(super) fn reopen(&self, token: &T) {
        if let Some(state) = self.0.lock().unwrap().get_mut(token) {
            state.closed_until = Some(Instant::now());
        }
    }

    /// Whether a token lied and has not worked since.
    pub(super) fn has_lied(&self, token: &T) -> bool {
        self.0.lock().is_ok_and(|tokens| tokens.get(token).is_some_and(|token| token.has_lied))
    }
}

impl<P> Token<P> {
    fn close(&mut self, token: &impl Display, reason: Reason, first: Duration, now: Instant) {
        let closed_for = first.saturating_mul(1 << self.closings.min(8)).min(CLOSED_FOR.1);
        self.closings = self.closings.saturating_add(1);
        self.closed_until = Some(now + closed_for);
        self.probe = None;
        self.failures.clear();
        tracing::error!(%token, %reason, secs = closed_for.as_secs(), "A token fails its payers; it is not offered for a while.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &&str = &"token";
    const OTHER: &&str = &"other";
    const PAUSED: Reason = Reason::EvmSimulationFailed;

    fn id(number: u32) -> PaymentId {
        PaymentId(number.to_string())
    }

    fn closed() -> (Breaker<&'static str, u8>, Instant) {
        let (breaker, now) = (Breaker::default(), Instant::now());
        (1..=3).for_each(|number| breaker.failed(TOKEN, number, PAUSED, now));
        (breaker, now)
    }

    #[test]
    fn three_payers_with_one_failure_close_a_token_and_no_other() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        (0..9).for_each(|_| breaker.failed(TOKEN, 1, PAUSED, now));
        breaker.failed(TOKEN, 2, PAUSED, now);
        breaker.failed(TOKEN, 3, Reason::EvmTransactionFailed, now);
        assert!(breaker.is_offered(TOKEN, now), "two payers, and one with another failure");
        breaker.failed(TOKEN, 3, PAUSED, now);
        assert!(!breaker.is_offered(TOKEN, now) && breaker.is_offered(OTHER, now));
        assert!(breaker.refusal(TOKEN, &id(1), now).is_some() && breaker.refusal(OTHER, &id(1), now).is_none());
    }

    #[test]
    fn failures_that_are_long_ago_do_not_count() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        (1..=2).for_each(|number| breaker.failed(TOKEN, number, PAUSED, now));
        breaker.failed(TOKEN, 3, PAUSED, now + WINDOW);
        assert!(breaker.is_offered(TOKEN, now + WINDOW));
    }

    #[test]
    fn a_closed_token_is_tried_with_one_payment_and_opened_by_its_success() {
        let (breaker, now) = closed();
        let later = now + CLOSED_FOR.0;
        assert!(breaker.is_offered(TOKEN, later));
        assert_eq!(breaker.refusal(TOKEN, &id(1), later), None);
        assert_eq!(breaker.refusal(TOKEN, &id(1), later), None, "the same payment asks again");
        assert!(breaker.refusal(TOKEN, &id(2), later).is_some());
        assert_eq!(breaker.refusal(TOKEN, &id(2), later + PROBE_HOLDS), None, "the first came to nothing");
        breaker.works(TOKEN);
        assert_eq!(breaker.refusal(TOKEN, &id(3), later), None);
        assert_eq!(breaker.refusal(TOKEN, &id(4), later), None);
    }

    #[test]
    fn a_token_that_fails_its_trial_is_closed_for_longer() {
        let (breaker, now) = closed();
        let later = now + CLOSED_FOR.0;
        assert_eq!(breaker.refusal(TOKEN, &id(1), later), None);
        breaker.failed(TOKEN, 9, PAUSED, later);
        assert!(!breaker.is_offered(TOKEN, later + CLOSED_FOR.0));
        assert!(breaker.is_offered(TOKEN, later + CLOSED_FOR.0 * 2));
    }

    #[test]
    fn a_token_that_lied_is_closed_at_once() {
        let (breaker, now) = (Breaker::<&str, u8>::default(), Instant::now());
        breaker.lied(TOKEN, Reason::EvmTransferEventMismatch, now);
        assert!(!breaker.is_offered(TOKEN, now + LIAR_CLOSED_FOR / 2));
        assert!(breaker.has_lied(TOKEN) && !breaker.has_lied(OTHER));
        breaker.works(TOKEN);
        assert!(!breaker.has_lied(TOKEN));
    }
}
