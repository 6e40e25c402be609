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
    /// Of several gateways, which is killed: modulo their number.
    pub victim: u64,
    pub trouble: Trouble,
}

/// What else befalls the shop meanwhile, where it has what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// The EVM chain takes back so many blocks.
    Reorg {
        blocks: u64,
    },
    /// The database crashes, and comes back so much later.
    Database {
        millis: u64,
    },
    /// Another gateway than the victim hangs for longer than its lease.
    Pause,
}

/// The points between write points (threats §2.3), and how often each may be passed before it kills.
const POINTS: [(&str, u64); 14] = [
    ("pre_m0", 60),
    ("post_m0", 60),
    ("post_verify", 40),
    ("post_w1_pre_send", 30),
    ("mid_send", 12),
    ("post_send", 12),
    ("post_confirm_pre_w2", 30),
    ("post_w2", 30),
    ("pre_w3", 30),
    ("before_commit", 20),
    ("after_commit", 20),
    ("mid_recovery", 40),
    ("post_claim_pre_forward", 8),
    ("post_answer_pre_w1", 8),
];

/// The points of payments that are settled after their requests: on Cosmos there are none.
const POINTS_AFTER: [&str; 2] = ["post_claim_pre_forward", "post_answer_pre_w1"];

/// The cycles of a seed: each point once in every round of them, in an order of the seed's, and a kill by the clock after
/// every second.
pub fn cycles(seed: u64, settles_after: bool) -> impl Iterator<Item = Cycle> {
    let (mut rng, mut troubles) = (Rng::of(seed, "cycles"), Rng::of(seed, "troubles"));
    let mut bag: Vec<(&'static str, u64)> = Vec::new();
    (0_u64..).map(move |number| {
        let kill = if number % 3 == 2 {
            Kill::After { millis: 300 + rng.below(2700) }
        } else {
            if bag.is_empty() {
                bag = POINTS.to_vec();
                bag.retain(|(point, _)| settles_after || !POINTS_AFTER.contains(point));
            }
            let at = usize::try_from(rng.below(u64::try_from(bag.len()).unwrap())).unwrap();
            let (point, passes_max) = bag.swap_remove(at);
            Kill::At { point, passes: rng.below(passes_max), within_millis: 2500 + rng.below(1500) }
        };
        let (chaos_per_mille, origin_per_mille) = (*rng.pick(&[0, 20, 60, 150]), *rng.pick(&[0, 30, 100]));
        let victim = troubles.below(6);
        let trouble = match troubles.below(10) {
            0..=2 => Trouble::Reorg { blocks: 1 + troubles.below(6) },
            3 => Trouble::Database { millis: 200 + troubles.below(2800) },
            4 => Trouble::Pause,
            _ => Trouble::None,
        };
        Cycle { kill, chaos_per_mille, origin_per_mille, victim, trouble }
    })
}

/// How many gateways share a database in an epoch of a seed; none means one over a file, as in most.
pub fn gateways(seed: u64) -> usize {
    *Rng::of(seed, "gateways").pick(&[0, 0, 0, 2, 3])
}

/// Some cycles of a seed for several gateways, each trouble among them.
pub fn fleet(seed: u64) -> impl Iterator<Item = Cycle> {
    let troubles = [
        Trouble::None,
        Trouble::Reorg { blocks: 3 },
        Trouble::Database { millis: 1500 },
        Trouble::Pause,
        Trouble::Reorg { blocks: 6 },
        Trouble::None,
    ];
    cycles(seed, true).zip(troubles).map(|(cycle, trouble)| Cycle { trouble, ..cycle })
}

/// Cycles in which much fails but the gateway's process: what a bug needs to show.
pub fn bad_days() -> impl Iterator<Item = Cycle> {
    std::iter::repeat(Cycle {
        kill: Kill::After { millis: 3000 },
        chaos_per_mille: 300,
        origin_per_mille: 400,
        victim: 0,
        trouble: Trouble::None,
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
