//! Client addresses whose payments cost gas and brought nothing (threat C1): a payer that spoils its settlements can make itself
//! new keys for nothing, and new addresses less easily.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Settlements that may fail on chain for one address within the window. Many clients may share one.
const LOSSES_MAX: usize = 20;
/// The time over which they are counted.
const WINDOW: Duration = Duration::from_secs(3600);
/// Addresses that are remembered; when there are more, the networks' own bounds must do.
const ADDRESSES_MAX: usize = 10_000;

/// The losses of each address.
#[derive(Default)]
pub(super) struct Spoilers(Mutex<HashMap<IpAddr, VecDeque<Instant>>>);

impl Spoilers {
    /// A settlement for this address failed on chain, and cost us its fee.
    pub fn lost(&self, client: IpAddr, now: Instant) {
        let Some(client) = place_of(client) else { return };
        let Ok(mut places) = self.0.lock() else { return };
        if places.len() >= ADDRESSES_MAX && !places.contains_key(&client) {
            places.retain(|_, losses| losses.back().is_some_and(|at| is_recent(*at, now)));
            if places.len() >= ADDRESSES_MAX {
                return;
            }
        }
        let losses = places.entry(client).or_default();
        losses.push_back(now);
        if losses.len() > LOSSES_MAX {
            losses.pop_front();
        }
    }

    /// Whether this address has cost as much as one may.
    pub fn refuses(&self, client: IpAddr, now: Instant) -> bool {
        let Some(client) = place_of(client) else { return false };
        let Ok(places) = self.0.lock() else { return true };
        let losses = places.get(&client).map_or(0, |losses| losses.iter().filter(|at| is_recent(**at, now)).count());
        losses >= LOSSES_MAX
    }
}

fn is_recent(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < WINDOW
}

/// What counts as one address: an IPv6 network of the size that one customer gets. None where nobody knows the client.
fn place_of(client: IpAddr) -> Option<IpAddr> {
    match client.to_canonical() {
        unknown if unknown.is_unspecified() => None,
        IpAddr::V4(address) => Some(IpAddr::V4(address)),
        IpAddr::V6(address) => Some(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn c1_an_address_costs_so_much_in_an_hour_and_no_other_pays_for_it() {
        let (spoilers, start) = (Spoilers::default(), Instant::now());
        let (bad, good) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..LOSSES_MAX {
            assert!(!spoilers.refuses(bad, start));
            spoilers.lost(bad, start);
        }
        assert!(spoilers.refuses(bad, start) && !spoilers.refuses(good, start));
        assert!(spoilers.refuses(address("::ffff:192.0.2.1"), start), "the same address, spelled otherwise");
        assert!(!spoilers.refuses(bad, start + WINDOW));
    }

    #[test]
    fn a_customers_whole_network_is_one_address_and_an_unknown_client_is_none() {
        let (spoilers, now) = (Spoilers::default(), Instant::now());
        for number in 0..LOSSES_MAX {
            spoilers.lost(address(&format!("2001:db8::{number:x}")), now);
            spoilers.lost(address("0.0.0.0"), now);
        }
        assert!(spoilers.refuses(address("2001:db8::ffff:1"), now));
        assert!(!spoilers.refuses(address("2001:db8:0:1::1"), now) && !spoilers.refuses(address("0.0.0.0"), now));
    }

    #[test]
    fn the_addresses_that_are_remembered_are_bounded() {
        let (spoilers, now) = (Spoilers::default(), Instant::now());
        for number in 0..u32::try_from(ADDRESSES_MAX).unwrap() + 100 {
            spoilers.lost(IpAddr::V4(std::net::Ipv4Addr::from_bits(number + 1)), now);
        }
        assert_eq!(spoilers.0.lock().unwrap().len(), ADDRESSES_MAX);
        spoilers.lost(address("192.0.2.1"), now + WINDOW);
        assert_eq!(spoilers.0.lock().unwrap().len(), 1);
    }
}
