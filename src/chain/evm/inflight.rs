//! What each payer has in flight, so that many small payments can't share one balance (threat C2).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use alloy::primitives::{Address, U256};

use crate::ledger::PaymentId;

/// How long a balance that was read is believed; payments that end meanwhile are taken off it.
const BALANCE_HOLDS: Duration = Duration::from_secs(5);

/// Payer and token.
pub(super) type Purse = (Address, Address);

#[derive(Default)]
struct Payer {
    entries: HashMap<PaymentId, Entry>,
    balance: Option<(U256, Instant)>,
}

struct Entry {
    amount: U256,
    /// Who came first may spend first.
    turn: u64,
    holders: usize,
}

#[derive(Default)]
struct State {
    payers: HashMap<Purse, Payer>,
    turns: u64,
}

/// All payments between simulation and end.
#[derive(Default)]
pub(super) struct Inflight(Mutex<State>);

/// One holder of one payment's place; leaves when dropped.
pub(super) struct InflightGuard {
    inflight: Arc<Inflight>,
    purse: Purse,
    id: PaymentId,
    is_paid: bool,
}

impl Inflight {
    /// Takes a place, or one more hold on the place that the payment has.
    pub(super) fn enter(self: &Arc<Self>, purse: Purse, id: &PaymentId, amount: U256) -> InflightGuard {
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
    pub(super) fn set_balance(&self, purse: Purse, balance: U256) {
        if let Ok(mut state) = self.0.lock()
            && let Some(payer) = state.payers.get_mut(&purse)
        {
            payer.balance = Some((balance, Instant::now()));
        }
    }

    /// The balance, if it was read lately.
    pub(super) fn balance(&self, purse: Purse) -> Option<U256> {
        let state = self.0.lock().ok()?;
        let (balance, read_at) = state.payers.get(&purse)?.balance?;
        (read_at.elapsed() < BALANCE_HOLDS).then_some(balance)
    }
}

impl InflightGuard {
    /// What the payer's earlier payments that are still in flight come to; none if that overflows.
    pub(super) fn ahead(&self) -> Option<U256> {
        let state = self.inflight.0.lock().ok()?;
        let payer = state.payers.get(&self.purse)?;
        let turn = payer.entries.get(&self.id)?.turn;
        payer
            .entries
            .values()
            .filter(|entry| entry.turn < turn)
            .try_fold(U256::ZERO, |sum, entry| sum.checked_add(entry.amount))
    }

    /// The payment moved its money.
    pub(super) fn paid(mut self) {
        self.is_paid = true;
    }
}

impl Drop for InflightGuard {
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
        let purse = (Address::repeat_byte(1), Address::repeat_byte(2));
        let id = |number: u32| PaymentId(number.to_string());
        let first = inflight.enter(purse, &id(1), U256::from(5));
        let again = inflight.enter(purse, &id(1), U256::from(5));
        let second = inflight.enter(purse, &id(2), U256::from(7));
        let stranger = inflight.enter((Address::repeat_byte(9), Address::repeat_byte(2)), &id(3), U256::from(1));
        assert_eq!(first.ahead(), Some(U256::ZERO), "who came first waits for nobody");
        assert_eq!(second.ahead(), Some(U256::from(5)), "a payment counts once");
        assert_eq!(stranger.ahead(), Some(U256::ZERO));
        inflight.set_balance(purse, U256::from(12));
        drop(first);
        assert_eq!(second.ahead(), Some(U256::from(5)), "still held");
        again.paid();
        assert_eq!(second.ahead(), Some(U256::ZERO));
        assert_eq!(inflight.balance(purse), Some(U256::from(7)), "what was paid is off the balance");
        drop(second);
        assert_eq!(inflight.balance(purse), None, "nothing is kept of who has nothing in flight");
    }
}
