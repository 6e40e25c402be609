//! How often requests may come (GCRA: so many at once, and then evenly), for each client address or in all. Memory is
//! bounded and taken once; nothing is ever swept.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::types::{Rate, neighbourhood};

/// Sets of addresses; each has a lock of its own.
const SETS: usize = 2048;

/// Addresses of a set. When all are taken, the one that has asked for the least gives way.
const WAYS: usize = 8;

/// What a rate allows. Times are nanoseconds since the limit was made.
#[derive(Debug, Clone, Copy)]
struct Pace {
    interval: u64,
    /// How far requests may run ahead of the interval.
    window: u64,
}

impl Pace {
    fn new(rate: Rate) -> Self {
        let window = nanos(rate.period());
        Self { interval: window.checked_div(u64::from(rate.count())).unwrap_or(window).max(1), window }
    }

    /// When the next request would be due, were they evenly spread; or how long until one may come.
    fn next(self, due: u64, now: u64) -> Result<u64, Duration> {
        let next = due.max(now).saturating_add(self.interval);
        let early = next.saturating_sub(now.saturating_add(self.window));
        if early == 0 { Ok(next) } else { Err(Duration::from_nanos(early)) }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    address: Option<IpAddr>,
    due: u64,
}

/// A rate for each address; IPv6 by /64.
pub(super) struct PerAddress {
    pace: Pace,
    sets: Box<[Mutex<[Slot; WAYS]>]>,
    /// Keyed, so that nobody can choose addresses that share a set.
    hasher: RandomState,
    started: Instant,
}

impl PerAddress {
    pub fn new(rate: Rate) -> Self {
        let sets = (0..SETS).map(|_| Mutex::default()).collect();
        Self { pace: Pace::new(rate), sets, hasher: RandomState::new(), started: Instant::now() }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// How long to wait, if it is one too many; it isn't counted then.
    pub fn take(&self, client: IpAddr) -> Result<(), Duration> {
        self.take_at(client, nanos(self.started.elapsed()))
    }

    fn take_at(&self, client: IpAddr, now: u64) -> Result<(), Duration> {
        let client = neighbourhood(client);
        let number = usize::try_from(self.hasher.hash_one(client) % SETS as u64).unwrap_or_default();
        let Some(set) = self.sets.get(number) else { return Ok(()) };
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        let mut chosen: Option<&mut Slot> = None;
        for slot in set.iter_mut() {
            if slot.address == Some(client) {
                chosen = Some(slot);
                break;
            }
            if chosen.as_ref().is_none_or(|chosen| slot.due < chosen.due) {
                chosen = Some(slot);
            }
        }
        let Some(slot) = chosen else { return Ok(()) };
        if slot.address != Some(client) {
            *slot = Slot { address: Some(client), due: 0 };
        }
        slot.due = self.pace.next(slot.due, now)?;
        Ok(())
    }
}

/// A rate for everybody together.
pub(super) struct InAll {
    pace: Pace,
    due: AtomicU64,
    started: Instant,
}

impl InAll {
    pub fn new(rate: Rate) -> Self {
        Self { pace: Pace::new(rate), due: AtomicU64::new(0), started: Instant::now() }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// How long to wait, if it is one too many.
    pub fn take(&self) -> Result<(), Duration> {
        let now = nanos(self.started.elapsed());
        let mut due = self.due.load(Ordering::Relaxed);
        loop {
            let next = self.pace.next(due, now)?;
            match self.due.compare_exchange_weak(due, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => due = other,
            }
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn an_address_has_its_number_at_once_and_then_as_fast_as_the_rate() {
        let rate = PerAddress::new("10/s".parse().unwrap());
        for _ in 0..10 {
            assert_eq!(rate.take_at(address(1), SECOND), Ok(()));
        }
        assert_eq!(rate.take_at(address(1), SECOND), Err(Duration::from_millis(100)));
        assert_eq!(rate.take_at(address(2), SECOND), Ok(()), "another address has its own");
        assert_eq!(rate.take_at(address(1), SECOND + SECOND / 10), Ok(()));
        assert!(rate.take_at(address(1), SECOND + SECOND / 10).is_err());
        // In the long run no more than the rate, however often it is asked.
        let taken = (0..10_000).filter(|step| rate.take_at(address(3), 5 * SECOND + step * SECOND / 1000).is_ok());
        assert_eq!(taken.count(), 10 + 99);
    }

    #[test]
    fn an_ipv6_client_is_its_64_bits() {
        let rate = PerAddress::new("1/h".parse().unwrap());
        assert_eq!(rate.take_at("2001:db8::1".parse().unwrap(), 1), Ok(()));
        assert!(rate.take_at("2001:db8::ffff:2".parse().unwrap(), 1).is_err());
        assert_eq!(rate.take_at("2001:db8:0:1::1".parse().unwrap(), 1), Ok(()));
    }

    #[test]
    fn a_million_addresses_take_no_more_room_and_a_busy_one_stays_limited_among_some_thousands() {
        let rate = PerAddress::new("5/min".parse().unwrap());
        for _ in 0..5 {
            assert_eq!(rate.take_at(address(0), SECOND), Ok(()));
        }
        for number in 1..8000 {
            assert_eq!(rate.take_at(address(number), SECOND), Ok(()));
        }
        assert!(rate.take_at(address(0), SECOND).is_err());
        for number in 0..1_000_000 {
            let _counted = rate.take_at(address(number), SECOND);
        }
        assert_eq!(rate.sets.len() * WAYS, 16_384);
    }

    #[test]
    fn everybody_together_has_a_rate_too() {
        let rate = InAll::new("100/day".parse().unwrap());
        assert_eq!((0..1000).filter(|_| rate.take().is_ok()).count(), 100);
    }
}
