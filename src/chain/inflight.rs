//! What each payer has in flight, so that many small payments can't share one balance (threat C2).
//!
//! A payment that was seen on chain is in the balances that are read from then on, and no longer in the sum: it would count
//! twice, and refuse the last payments that a payer could have made.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::ledger::PaymentId;
use crate::types::AtomicAmount;

/// How long a balance that was read is believed; payments that end meanwhile are taken off it.
const BALANCE_HOLDS: Duration = Duration::from_secs(5);
/// Most payments of one payer between simulation and end: what a payer that spoils them all at once can cost (threat C1).
const IN_FLIGHT_MAX: usize = 128;
/// How long a payment that seems to be more than its payer has waits for those before it to be seen on chain.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

struct Payer {
    entries: HashMap<PaymentId, Entry>,
    /// As of when it was asked for.
    balance: Option<(AtomicAmount, Instant)>,
    /// When a payment last ended that moved its money.
    paid_at: Option<Instant>,
}

struct Entry {
    amount: AtomicAmount,
    /// Who came first may spend first.
    turn: u64,
    holders: usize,
    /// Since when it is known to be on chain.
    landed_at: Option<Instant>,
}

struct State<P> {
    payers: HashMap<P, Payer>,
    turns: u64,
}

/// All payments between simulation and end. A purse `P` is a balance that payments share: a payer's of one token.
pub(super) struct Inflight<P>(Mutex<State<P>>);

impl<P> Default for Inflight<P> {
    fn default() -> Self {
        Self(Mutex::new(State { payers: HashMap::new(), turns: 0 }))
    }
}

/// One holder of one payment's place; leaves when dropped.
pub(super) struct InflightGuard<P: Eq + Hash + Copy> {
    inflight: Arc<Inflight<P>>,
    purse: P,
    id: PaymentId,
    is_paid: bool,
}

impl<P: Eq + Hash + Copy> Inflight<P> {
    /// Takes a place, or one more hold on the place that the payment has.
    pub(super) fn enter(self: &Arc<Self>, purse: P, id: &PaymentId, amount: AtomicAmount) -> InflightGuard<P> {
        if let Ok(mut state) = self.0.lock() {
            state.turns += 1;
            let turn = state.turns;
            let fresh = || Payer { entries: HashMap::new(), balance: None, paid_at: None };
            let payer = state.payers.entry(purse).or_insert_with(fresh);
            let entry = Entry { amount, turn, holders: 0, landed_at: None };
            payer.entries.entry(id.clone()).or_insert(entry).holders += 1;
        }
        InflightGuard { inflight: Arc::clone(self), purse, id: id.clone(), is_paid: false }
    }

    /// Remembers a balance that was asked for at `asked_at`.
    pub(super) fn set_balance(&self, purse: P, balance: AtomicAmount, asked_at: Instant) {
        if let Ok(mut state) = self.0.lock()
            && let Some(payer) = state.payers.get_mut(&purse)
            // What ended meanwhile is in no sum any more, and maybe not in the balance yet.
            && payer.paid_at.is_none_or(|paid_at| paid_at < asked_at)
        {
            payer.balance = Some((balance, asked_at));
        }
    }

    /// The balance and when it was asked for, if that was lately.
    pub(super) fn balance(&self, purse: P) -> Option<(AtomicAmount, Instant)> {
        let state = self.0.lock().ok()?;
        state.payers.get(&purse)?.balance.filter(|(_, asked_at)| asked_at.elapsed() < BALANCE_HOLDS)
    }
}

impl<P: Eq + Hash + Copy> InflightGuard<P> {
    /// What the payer's earlier payments that are in flight and not known to be on chain come to; none if that overflows.
    /// Asked for before a balance is: what lands between the two counts twice, which [`Self::has_less_ahead`] mends, and
    /// nothing is left out.
    pub(super) fn ahead(&self) -> Option<AtomicAmount> {
        self.ahead_of(|entry| entry.landed_at.is_none())
    }

    /// The same against a balance that was asked for at `asked_at`.
    pub(super) fn ahead_at(&self, asked_at: Instant) -> Option<AtomicAmount> {
        self.ahead_of(|entry| entry.landed_at.is_none_or(|landed_at| landed_at >= asked_at))
    }

    fn ahead_of(&self, counts: impl Fn(&Entry) -> bool) -> Option<AtomicAmount> {
        let state = self.inflight.0.lock().ok()?;
        let payer = state.payers.get(&self.purse)?;
        let turn = payer.entries.get(&self.id)?.turn;
        payer
            .entries
            .values()
            .filter(|entry| entry.turn < turn && counts(entry))
            .try_fold(AtomicAmount::ZERO, |sum, entry| sum.checked_add(entry.amount))
    }

    /// Waits a moment for earlier payments to be seen on chain or to end. Whether any did: then the balance is worth another
    /// look, and if none did the payer has promised more than it has.
    pub(super) async fn has_less_ahead(&self, than: AtomicAmount) -> bool {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if self.ahead().is_some_and(|ahead| ahead < than) {
                return true;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        false
    }

    /// Whether the payer has more payments in flight than one may have, this one among them.
    pub(super) fn is_crowded(&self) -> bool {
        let Ok(state) = self.inflight.0.lock() else { return true };
        state.payers.get(&self.purse).is_none_or(|payer| payer.entries.len() > IN_FLIGHT_MAX)
    }

    /// Whether the payment is on chain now: what balances show from now on has it in it.
    pub(super) fn set_landed(&self, is_landed: bool) {
        if let Ok(mut state) = self.inflight.0.lock()
            && let Some(entry) = state.payers.get_mut(&self.purse).and_then(|payer| payer.entries.get_mut(&self.id))
        {
            entry.landed_at = if is_landed { entry.landed_at.or_else(|| Some(Instant::now())) } else { None };
        }
    }

    /// The payment moved its money.
    pub(super) fn paid(mut self) {
        self.is_paid = true;
    }
}

impl<P: Eq + Hash + Copy> Drop for InflightGuard<P> {
    fn drop(&mut self) {
        let Ok(mut state) = self.inflight.0.lock() else { return };
        let Some(payer) = state.payers.get_mut(&self.purse) else { return };
        if let Some(entry) = payer.entries.get_mut(&self.id) {
            entry.holders = entry.holders.saturating_sub(1);
            let (amount, landed_at) = (entry.amount, entry.landed_at);
            if self.is_paid {
                payer.paid_at = Some(Instant::now());
            }
            if self.is_paid
                && let Some((balance, asked_at)) = &mut payer.balance
                && landed_at.is_none_or(|landed_at| landed_at >= *asked_at)
            {
                *balance = balance.saturating_sub(amount);
            }
            if entry.holders == 0 {
                payer.entries.remove(&self.id);
            }
        }
        if payer.entries.is_empty() {
            state.payers.remove(&self.purse);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_payments_of_the_same_purse_count_until_the_last_holder_leaves() {
        let inflight = Arc::new(Inflight::default());
        let purse = (1, 2);
        let id = |number: u32| PaymentId(number.to_string());
        let first = inflight.enter(purse, &id(1), AtomicAmount::from(5));
        let again = inflight.enter(purse, &id(1), AtomicAmount::from(5));
        let second = inflight.enter(purse, &id(2), AtomicAmount::from(7));
        let stranger = inflight.enter((9, 2), &id(3), AtomicAmount::from(1));
        assert_eq!(first.ahead(), Some(AtomicAmount::ZERO), "who came first waits for nobody");
        assert_eq!(second.ahead(), Some(AtomicAmount::from(5)), "a payment counts once");
        assert_eq!(stranger.ahead(), Some(AtomicAmount::ZERO));
        inflight.set_balance(purse, AtomicAmount::from(12), Instant::now());
        drop(first);
        assert_eq!(second.ahead(), Some(AtomicAmount::from(5)), "still held");
        again.paid();
        assert_eq!(second.ahead(), Some(AtomicAmount::ZERO));
        assert_eq!(inflight.balance(purse).unwrap().0, AtomicAmount::from(7), "what was paid is off the balance");
        drop(second);
        assert_eq!(inflight.balance(purse), None, "nothing is kept of who has nothing in flight");
    }

    #[tokio::test]
    async fn what_is_seen_on_chain_is_in_the_balance_and_not_in_the_sum() {
        let inflight = Arc::new(Inflight::default());
        let id = |number: u32| PaymentId(number.to_string());
        let first = inflight.enter(1, &id(1), AtomicAmount::from(5));
        let second = inflight.enter(1, &id(2), AtomicAmount::from(7));
        assert!(!second.has_less_ahead(AtomicAmount::from(5)).await, "nothing happened");
        let before = Instant::now();
        first.set_landed(true);
        assert!(second.has_less_ahead(AtomicAmount::from(5)).await);
        assert_eq!(second.ahead(), Some(AtomicAmount::ZERO));
        assert_eq!(second.ahead_at(before), Some(AtomicAmount::from(5)), "an older balance lacks it");
        first.set_landed(false);
        assert_eq!(second.ahead(), Some(AtomicAmount::from(5)), "the chain took it back");
        first.set_landed(true);
        inflight.set_balance(1, AtomicAmount::from(12), Instant::now());
        first.paid();
        assert_eq!(inflight.balance(1).unwrap().0, AtomicAmount::from(12), "the balance that was read had it in it");
    }

    #[test]
    fn one_payer_has_no_more_in_flight_than_it_may_cost_at_once() {
        let inflight = Arc::new(Inflight::default());
        let enter = |number: usize| inflight.enter(1, &PaymentId(number.to_string()), AtomicAmount::from(1));
        let held: Vec<_> = (0..IN_FLIGHT_MAX).map(enter).collect();
        assert!(!held.last().unwrap().is_crowded());
        let more = enter(IN_FLIGHT_MAX);
        assert!(more.is_crowded());
        assert!(!inflight.enter(2, &PaymentId("x".to_owned()), AtomicAmount::from(1)).is_crowded());
    }
}
