//! What each payer has in flight, so that many small payments can't share one balance (threat C2).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::ledger::PaymentId;
use crate::types::AtomicAmount;

/// How long a balance that was read is believed; payments that end meanwhile are taken off it.
const BALANCE_HOLDS: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Payer {
    entries: HashMap<PaymentId, Entry>,
    balance: Option<(AtomicAmount, Instant)>,
}

struct Entry {
    amount: AtomicAmount,
    /// Who came first may spend first.
    turn: u64,
    holders: usize,
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
            let payer = state.payers.entry(purse).or_default();
            let entry = payer.entries.entry(id.clone()).or_insert(Entry { amount, turn, holders: 0 });
            entry.holders += 1;
        }
        InflightGuard { inflight: Arc::clone(self), purse, id: id.clone(), is_paid: false }
    }

    /// Remembers a balance that was read just now.
    pub(super) fn set_balance(&self, purse: P, balance: AtomicAmount) {
        if let Ok(mut state) = self.0.lock()
            && let Some(payer) = state.payers.get_mut(&purse)
        {
            payer.balance = Some((balance, Instant::now()));
        }
    }

    /// The balance, if it was read lately.
    pub(super) fn balance(&self, purse: P) -> Option<AtomicAmount> {
        let state = self.0.lock().ok()?;
        let (balance, read_at) = state.payers.get(&purse)?.balance?;
        (read_at.elapsed() < BALANCE_HOLDS).then_some(balance)
    }
}

impl<P: Eq + Hash + Copy> InflightGuard<P> {
    /// What the payer's earlier payments that are still in flight come to; none if that overflows.
    pub(super) fn ahead(&self) -> Option<AtomicAmount> {
        let state = self.inflight.0.lock().ok()?;
        let payer = state.payers.get(&self.purse)?;
        let turn = payer.entries.get(&self.id)?.turn;
        payer
            .entries
            .values()
            .filter(|entry| entry.turn < turn)
            .try_fold(AtomicAmount::ZERO, |sum, entry| sum.checked_add(entry.amount))
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
            let amount = entry.amount;
            if self.is_paid
                && let Some((balance, _)) = &mut payer.balance
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
        inflight.set_balance(purse, AtomicAmount::from(12));
        drop(first);
        assert_eq!(second.ahead(), Some(AtomicAmount::from(5)), "still held");
        again.paid();
        assert_eq!(second.ahead(), Some(AtomicAmount::ZERO));
        assert_eq!(inflight.balance(purse), Some(AtomicAmount::from(7)), "what was paid is off the balance");
        drop(second);
        assert_eq!(inflight.balance(purse), None, "nothing is kept of who has nothing in flight");
    }
}
