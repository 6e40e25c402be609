//! What gas payers spend: a limit for each within a day, and whether a price is worth its fee (promise 4, threats C1, C11).
//!
//! Counted when a settlement ends, and held at its highest until then. What an earlier run signed is told by whoever has the
//! books, at its highest too: a restart must not make room.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::config::FeeRules;
use crate::types::{Asset, AtomicAmount, UnixMillis};

/// The time over which spending is limited.
const HOURS: u64 = 24;
const HOUR_SECS: u64 = 3600;
/// Digits after the point of a dollar's millionths.
const USD_DECIMALS: u8 = 6;

#[derive(Default)]
struct State {
    /// Of settlements under way.
    held: AtomicAmount,
    /// By hour since 1970, oldest first.
    hours: VecDeque<(u64, AtomicAmount)>,
}

/// What one gas payer may spend, and did.
#[derive(Default)]
pub(super) struct Allowance {
    max_per_day: Option<AtomicAmount>,
    state: Mutex<State>,
}

/// The highest fee of a settlement under way; given back when dropped.
pub(super) struct Hold {
    allowance: Arc<Allowance>,
    most: AtomicAmount,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Ok(mut state) = self.allowance.state.lock() {
            state.held = state.held.saturating_sub(self.most);
        }
    }
}

impl Allowance {
    pub(super) fn new(rules: &FeeRules) -> Arc<Self> {
        Arc::new(Self { max_per_day: rules.max_per_day, state: Mutex::default() })
    }

    /// Whether it is limited at all.
    pub(super) fn is_limited(&self) -> bool {
        self.max_per_day.is_some()
    }

    /// Whether so much more may be spent now.
    pub(super) fn has_room(&self, most: AtomicAmount, now: UnixMillis) -> bool {
        let Some(limit) = self.max_per_day else { return true };
        let Ok(state) = self.state.lock() else { return false };
        state.within(now).and_then(|sum| sum.checked_add(most)).is_some_and(|sum| sum <= limit)
    }

    /// Sets so much aside, if there is room.
    pub(super) fn hold(self: &Arc<Self>, most: AtomicAmount, now: UnixMillis) -> Option<Hold> {
        let mut state = self.state.lock().ok()?;
        if let Some(limit) = self.max_per_day {
            state.within(now)?.checked_add(most).filter(|sum| *sum <= limit)?;
        }
        state.held = state.held.checked_add(most)?;
        Some(Hold { allowance: Arc::clone(self), most })
    }

    /// What was spent is about to be told from its beginning.
    pub(super) fn forget(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.hours.clear();
        }
    }

    /// A fee was paid, or may have been.
    pub(super) fn spent(&self, fee: AtomicAmount, at: UnixMillis) {
        if !self.is_limited() {
            return;
        }
        let Ok(mut state) = self.state.lock() else { return };
        let hour = hour_of(at);
        let newest = state.hours.iter().map(|(hour, _)| *hour).max().unwrap_or(hour).max(hour);
        state.hours.retain(|(hour, _)| hour.saturating_add(HOURS) >= newest);
        match state.hours.iter_mut().find(|(known, _)| *known == hour) {
            Some((_, sum)) => *sum = sum.checked_add(fee).unwrap_or(*sum),
            None => state.hours.push_back((hour, fee)),
        }
    }
}

impl State {
    /// What is held and was spent within a day, and up to an hour more; none if that overflows.
    fn within(&self, now: UnixMillis) -> Option<AtomicAmount> {
        let first = hour_of(now).saturating_sub(HOURS);
        let recent = self.hours.iter().filter(|(hour, _)| *hour >= first);
        recent.map(|(_, fee)| fee).try_fold(self.held, |sum, fee| sum.checked_add(*fee))
    }
}

fn hour_of(moment: UnixMillis) -> u64 {
    moment.as_secs() / HOUR_SECS
}

/// What fees are worth in dollars, if the operator says.
#[derive(Debug, Clone)]
pub(super) struct Worth {
    native_usd_millionths: Option<AtomicAmount>,
    native_decimals: u8,
}

impl Worth {
    pub(super) fn new(rules: &FeeRules, native_decimals: u8) -> Self {
        Self { native_usd_millionths: rules.native_usd_millionths, native_decimals }
    }

    /// Whether a price covers a fee. True where nobody can tell.
    pub(super) fn covers(&self, asset: &Asset, price: AtomicAmount, fee: AtomicAmount) -> bool {
        let Some(native_usd) = self.native_usd_millionths.filter(|_| asset.is_usd) else { return true };
        let product = |one: AtomicAmount, two: AtomicAmount, digits: u8| {
            one.checked_mul(two)?.checked_mul(AtomicAmount::ten_to_the(digits)?)
        };
        let cost = product(fee, native_usd, asset.decimals);
        let unit = AtomicAmount::ten_to_the(USD_DECIMALS);
        let worth = unit.and_then(|unit| product(price, unit, self.native_decimals));
        match (cost, worth) {
            (Some(cost), Some(worth)) => cost <= worth,
            // A fee beyond all numbers is beyond every price.
            (None, _) => false,
            (Some(_), None) => true,
        }
    }
}

/// How many settlements a balance lasts for.
pub(super) fn lasts(balance: AtomicAmount, fee: AtomicAmount) -> Option<u64> {
    let count = balance.value().checked_div(fee.value())?;
    Some(u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::AssetId;

    /// The largest amount there is.
    const MOST: &str = "115792089237316195423570985008687907853269984665640564039457584007913129639935";

    fn allowance(limit: u64) -> Arc<Allowance> {
        Allowance::new(&FeeRules { max_per_day: Some(AtomicAmount::from(limit)), native_usd_millionths: None })
    }

    fn at(hours: u64) -> UnixMillis {
        UnixMillis::from_secs(500_000 * HOUR_SECS + hours * HOUR_SECS)
    }

    fn amount(units: u64) -> AtomicAmount {
        AtomicAmount::from(units)
    }

    #[test]
    fn a_signer_spends_no_more_within_a_day_than_it_may_and_what_is_under_way_counts() {
        let allowance = allowance(100);
        let first = allowance.hold(amount(60), at(0)).unwrap();
        assert!(allowance.hold(amount(41), at(0)).is_none());
        assert!(allowance.has_room(amount(40), at(0)) && !allowance.has_room(amount(41), at(0)));
        allowance.spent(amount(30), at(0));
        drop(first);
        assert!(allowance.has_room(amount(70), at(1)) && !allowance.has_room(amount(71), at(1)));
        allowance.spent(amount(70), at(20));
        assert!(!allowance.has_room(amount(1), at(23)));
        assert!(!allowance.has_room(amount(1), at(24)), "the hour is not over for a whole day");
        assert!(allowance.has_room(amount(30), at(25)) && !allowance.has_room(amount(31), at(25)));
        assert!(allowance.has_room(amount(100), at(45)));
    }

    #[test]
    fn what_an_earlier_run_signed_makes_no_room_and_what_is_older_than_a_day_is_forgotten() {
        let allowance = allowance(100);
        allowance.spent(amount(50), at(30));
        allowance.spent(amount(50), at(29));
        assert!(!allowance.has_room(amount(1), at(30)));
        allowance.spent(amount(99), at(2));
        assert!(allowance.state.lock().unwrap().hours.len() <= 3);
        for hour in 0..1000 {
            allowance.spent(amount(1), at(hour));
        }
        assert!(allowance.state.lock().unwrap().hours.len() <= 26, "bounded");
    }

    #[test]
    fn without_a_limit_nothing_is_counted_and_a_sum_that_overflows_has_no_room() {
        let free = Arc::new(Allowance::default());
        free.spent(AtomicAmount::from(u64::MAX), at(0));
        assert!(free.has_room(amount(u64::MAX), at(0)) && free.state.lock().unwrap().hours.is_empty());
        let allowance = allowance(u64::MAX);
        let most: AtomicAmount = MOST.parse().unwrap();
        assert!(!allowance.has_room(most, at(0)) && allowance.hold(most, at(0)).is_none());
        allowance.spent(amount(1), at(0));
        assert!(!allowance.has_room(most, at(0)));
    }

    #[test]
    fn c11_a_price_covers_its_fee_or_not_to_the_last_unit() {
        let asset = |is_usd| Asset {
            id: AssetId::new("x").unwrap(),
            symbol: "USDC".to_owned(),
            decimals: 6,
            is_usd,
            eip712: None,
            allowed_extensions: Vec::new(),
        };
        // $2500 an ether: a cent is 4 * 10^12 wei.
        let rules = FeeRules { max_per_day: None, native_usd_millionths: Some(amount(2_500_000_000)) };
        let worth = Worth::new(&rules, 18);
        assert!(worth.covers(&asset(true), amount(10_000), amount(4_000_000_000_000)));
        assert!(!worth.covers(&asset(true), amount(10_000), amount(4_000_000_000_001)));
        assert!(worth.covers(&asset(false), amount(1), amount(u64::MAX)), "not a dollar");
        assert!(Worth::new(&FeeRules::default(), 18).covers(&asset(true), amount(1), amount(u64::MAX)), "nobody said");
        let most: AtomicAmount = MOST.parse().unwrap();
        assert!(!worth.covers(&asset(true), amount(10_000), most));
    }

    #[test]
    fn a_balance_lasts_for_whole_settlements() {
        assert_eq!(lasts(amount(99), amount(10)), Some(9));
        assert_eq!(lasts(amount(9), amount(10)), Some(0));
        assert_eq!(lasts(amount(9), amount(0)), None);
    }
}
