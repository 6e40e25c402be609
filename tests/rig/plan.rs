//! What a seed makes of each cycle: where the gateway is killed, and how bad its world is meanwhile.

use crate::seed::Rng;

/// Where a gateway is killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kill {
    /// At a point of its code, once it was passed so often; if it isn't within this time, then.
    At { point: &'static str, passes: u64, within_millis: u64 },
    /// So long after it got up.
    After { millis: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cycle {
    pub kill: Kill,
    /// Of thousand requests to a node, how many meet a fault.
    pub chaos_per_mille: u64,
    /// Of thousand requests to the origin, how many it fails.
    pub origin_per_mille: u64,
}

/// The points between write points (threats §2.3), and how often each may be passed before it kills.
const POINTS: [(&str, u64); 14] = [
    ("pre_m0", 120),
    ("post_m0", 100),
    ("post_verify", 80),
    ("post_w1_pre_send", 60),
    ("mid_send", 25),
    ("post_send", 25),
    ("post_confirm_pre_w2", 60),
    ("post_w2", 60),
    ("pre_w3", 60),
    ("before_commit", 40),
    ("after_commit", 40),
    ("mid_recovery", 60),
    ("post_claim_pre_forward", 20),
    ("post_answer_pre_w1", 20),
];

/// The cycles of a seed: each point once in every round of them, in an order of the seed's, and a kill by the clock after
/// every second.
pub fn cycles(seed: u64, has_chaos: bool) -> impl Iterator<Item = Cycle> {
    let mut rng = Rng::of(seed, "cycles");
    let mut bag: Vec<(&'static str, u64)> = Vec::new();
    (0_u64..).map(move |number| {
        let kill = if number % 3 == 2 {
            Kill::After { millis: 300 + rng.below(2700) }
        } else {
            if bag.is_empty() {
                bag = POINTS.to_vec();
            }
            let at = usize::try_from(rng.below(u64::try_from(bag.len()).unwrap())).unwrap();
            let (point, passes_max) = bag.swap_remove(at);
            Kill::At { point, passes: rng.below(passes_max), within_millis: 2500 + rng.below(1500) }
        };
        let (mut chaos_per_mille, mut origin_per_mille) = (*rng.pick(&[0, 20, 60, 150]), *rng.pick(&[0, 30, 100]));
        if !has_chaos {
            (chaos_per_mille, origin_per_mille) = (0, 0);
        }
        Cycle { kill, chaos_per_mille, origin_per_mille }
    })
}

#[test]
fn a_seed_gives_the_same_cycles_again() {
    let take = |seed| cycles(seed, true).take(100).collect::<Vec<_>>();
    assert_eq!(take(7), take(7));
    assert_ne!(take(7), take(8));
    for (point, _) in POINTS {
        assert!(take(7).iter().any(|cycle| matches!(cycle.kill, Kill::At { point: known, .. } if known == point)));
    }
}
