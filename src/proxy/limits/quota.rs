//! `free_quota`: how many requests an address has had free in the hour, day, minute or second that runs, as UTC counts them.
//!
//! In memory: a restart begins anew, and every instance counts for itself. Who can't be counted, pays.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::types::{Rate, UnixMillis, neighbourhood};

/// Addresses that are counted for one route; whoever comes after them pays, until the period ends.
const ADDRESSES_MAX: usize = 100_000;

/// What one address has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Left {
    pub requests: u32,
    /// Of how many.
    pub of: u32,
    /// In which time.
    pub period_secs: u64,
    /// Until there are as many again.
    pub reset_secs: u64,
    /// The period that it was counted in, by its number since 1970.
    period: u64,
}

#[derive(Default)]
struct Period {
    number: u64,
    used: HashMap<IpAddr, u32>,
}

/// The free requests of a route.
pub(super) struct Quota {
    rate: Rate,
    period: Mutex<Period>,
}

impl Quota {
    pub fn new(rate: Rate) -> Self {
        Self { rate, period: Mutex::default() }
    }

    /// Takes a free request, if the address has one left.
    ///
    /// # Errors
    /// That none is left.
    pub fn take(&self, client: IpAddr, now: UnixMillis) -> Result<Left, Left> {
        let (number, reset_secs) = self.period_at(now);
        let client = neighbourhood(client);
        let mut period = self.period.lock().unwrap_or_else(PoisonError::into_inner);
        // Freed when nobody waits for the lock any more.
        let mut _ended = None;
        if period.number < number {
            _ended = Some(std::mem::replace(&mut *period, Period { number, used: HashMap::new() }));
        }
        // A clock that is set back gives nothing twice: the later period goes on.
        let counted_in = period.number;
        let left = |requests| {
            let period_secs = self.rate.period().as_secs();
            Left { requests, of: self.rate.count(), period_secs, reset_secs, period: counted_in }
        };
        let count = period.used.len();
        let taken = match period.used.get_mut(&client) {
            Some(used) if *used < self.rate.count() => {
                *used = used.saturating_add(1);
                Ok(left(self.rate.count().saturating_sub(*used)))
            }
            None if count < ADDRESSES_MAX => {
                period.used.insert(client, 1);
                Ok(left(self.rate.count().saturating_sub(1)))
            }
            Some(_) | None => Err(left(0)),
        };
        drop(period);
        taken
    }

    /// Gives a request back that reached nobody: to the period that it was taken from, if that still runs.
    pub fn give_back(&self, client: IpAddr, taken: Left) {
        let mut period = self.period.lock().unwrap_or_else(PoisonError::into_inner);
        if period.number == taken.period
            && let Some(used) = period.used.get_mut(&neighbourhood(client))
        {
            *used = used.saturating_sub(1);
        }
    }

    /// The period's number since 1970, and the seconds until it ends.
    fn period_at(&self, now: UnixMillis) -> (u64, u64) {
        let secs = u64::try_from(now.0.div_euclid(1000)).unwrap_or_default();
        let length = self.rate.period().as_secs().max(1);
        let (number, into) = (secs.checked_div(length), secs.checked_rem(length));
        (number.unwrap_or_default(), length.saturating_sub(into.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn an_address_has_its_requests_until_the_day_ends_and_then_again() {
        let quota = Quota::new("2/day".parse().unwrap());
        let evening = UnixMillis::from_secs(20_000 * 86_400 - 60);
        let left = |requests| Left { requests, of: 2, period_secs: 86_400, reset_secs: 60, period: 19_999 };
        assert_eq!(quota.take(address(1), evening), Ok(left(1)));
        assert_eq!(quota.take(address(1), evening), Ok(left(0)));
        assert_eq!(quota.take(address(1), evening), Err(left(0)));
        assert_eq!(quota.take(address(2), evening), Ok(left(1)));
        quota.give_back(address(1), left(0));
        assert_eq!(quota.take(address(1), evening), Ok(left(0)));
        let morning = UnixMillis::from_secs(20_000 * 86_400);
        assert!(quota.take(address(1), morning).is_ok());
        assert_eq!(
            quota.take(address(1), evening).map(|left| left.requests),
            Ok(0),
            "a clock set back gives none anew"
        );
        assert!(quota.take(address(1), evening).is_err());
    }

    #[test]
    fn what_is_given_back_after_the_period_ended_is_not_the_next_ones() {
        let quota = Quota::new("2/day".parse().unwrap());
        let taken = quota.take(address(1), UnixMillis::from_secs(86_400 - 1)).unwrap();
        let morning = UnixMillis::from_secs(86_400);
        assert!(quota.take(address(1), morning).is_ok());
        quota.give_back(address(1), taken);
        let left = [quota.take(address(1), morning).is_ok(), quota.take(address(1), morning).is_ok()];
        assert_eq!(left, [true, false]);
    }

    #[test]
    fn of_a_thousand_at_once_as_many_as_the_quota_are_free() {
        let quota = Quota::new("10/day".parse().unwrap());
        let free = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..10)
                .map(|_| {
                    scope
                        .spawn(|| (0..100).filter(|_| quota.take(address(1), UnixMillis::from_secs(1)).is_ok()).count())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!(free, 10);
    }

    #[test]
    fn who_comes_after_a_hundred_thousand_others_pays_and_they_keep_theirs() {
        let quota = Quota::new("2/day".parse().unwrap());
        let now = UnixMillis::from_secs(1);
        let many = u32::try_from(ADDRESSES_MAX).unwrap();
        for number in 0..many {
            assert!(quota.take(address(number), now).is_ok());
        }
        assert!(quota.take(address(many), now).is_err());
        assert!(quota.take(address(0), now).is_ok());
        assert!(quota.take(address(0), now).is_err());
    }
}
