//! Which server gets the next request. Those that are unwell get none; those that failed a short while ago get one only when
//! there are no others.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;

use super::target::Target;
use crate::config::Balance;

/// The server for a request, if one is left. `turn` counts requests.
pub(super) fn choose(
    balance: Balance,
    targets: &[Arc<Target>],
    client: Option<IpAddr>,
    turn: usize,
    now: u64,
) -> Option<&Arc<Target>> {
    let well = || targets.iter().filter(|target| !target.is_unwell());
    let count = well().filter(|target| !target.is_down(now)).count();
    if count == 0 {
        return pick(balance, well(), well().count(), client, turn);
    }
    pick(balance, well().filter(|target| !target.is_down(now)), count, client, turn)
}

fn pick<'a>(
    balance: Balance,
    mut fit: impl Iterator<Item = &'a Arc<Target>>,
    count: usize,
    client: Option<IpAddr>,
    turn: usize,
) -> Option<&'a Arc<Target>> {
    let start = turn.checked_rem(count)?;
    match (balance, client) {
        (Balance::RoundRobin, _) | (Balance::ConsistentHash, None) => fit.nth(start),
        // Among equals they take turns.
        (Balance::LeastConnections, _) => fit
            .enumerate()
            .min_by_key(|(index, target)| (target.running(), (index + count).saturating_sub(start).checked_rem(count)))
            .map(|(_, target)| target),
        // The highest score wins: when a server goes, only its own clients move (rendezvous hashing).
        (Balance::ConsistentHash, Some(client)) => fit.max_by_key(|target| score(target, client)),
    }
}

fn score(target: &Target, client: IpAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (client, target.address).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::super::target::Running;
    use super::*;

    fn targets(count: u16) -> Vec<Arc<Target>> {
        let target = |port| Arc::new(Target::new(([127, 0, 0, 1], port).into(), String::new()));
        (1..=count).map(target).collect()
    }

    fn port(balance: Balance, targets: &[Arc<Target>], client: u8, turn: usize) -> Option<u16> {
        let client = Some(IpAddr::from([192, 0, 2, client]));
        choose(balance, targets, client, turn, 1000).map(|target| target.address.port())
    }

    #[test]
    fn the_server_with_the_fewest_requests_is_next_and_equals_take_turns() {
        let targets = targets(3);
        let least = |turn| port(Balance::LeastConnections, &targets, 1, turn).unwrap();
        assert_eq!([least(0), least(1), least(2), least(3)], [1, 2, 3, 1]);
        let held = [Running::on(&targets[0]), Running::on(&targets[1])];
        assert_eq!([least(0), least(1)], [3, 3]);
        let more = [Running::on(&targets[2]), Running::on(&targets[2])];
        drop(held);
        assert!((0..6).all(|turn| least(turn) != 3));
        drop(more);
        assert_eq!(least(2), 3);
    }

    #[test]
    fn a_client_keeps_its_server_and_when_one_goes_only_its_clients_move() {
        let targets = targets(4);
        let of = |client| port(Balance::ConsistentHash, &targets, client, usize::from(client)).unwrap();
        let before: Vec<u16> = (0..=255).map(of).collect();
        assert!((1..=4).all(|port| before.iter().filter(|own| **own == port).count() > 30), "{before:?}");
        assert_eq!(before, (0..=255).map(of).collect::<Vec<_>>());
        targets[1].failed(999);
        let after: Vec<u16> = (0..=255).map(of).collect();
        for (before, after) in before.iter().zip(&after) {
            assert!(if *before == 2 { *after != 2 } else { after == before });
        }
    }

    #[test]
    fn the_unwell_get_nothing_and_the_failed_only_when_there_are_no_others() {
        for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::ConsistentHash] {
            let targets = targets(2);
            let second = std::time::Duration::from_secs(1);
            let check = crate::config::HealthCheck {
                path: "/".into(),
                interval: second,
                timeout: second,
                passes: 1,
                failures: 1,
            };
            targets[0].failed(999);
            assert!((0..4).all(|turn| port(balance, &targets, 7, turn) == Some(2)));
            targets[1].failed(999);
            assert!(port(balance, &targets, 7, 0).is_some(), "with all of them down one is tried all the same");
            targets[1].checked(false, &check);
            assert!((0..4).all(|turn| port(balance, &targets, 7, turn) == Some(1)));
            targets[0].checked(false, &check);
            assert_eq!(port(balance, &targets, 7, 0), None);
        }
    }
}
