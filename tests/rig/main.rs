//! Proof by demolition: the real gateway under a crowd of payers, on chains whose nodes misbehave, killed again and again;
//! then chain, books, origin and clients must tell one story (`oracle`).
//!
//! All choices come from one seed. The same seed gives the same kills, faults and habits of clients, in the same order for
//! each of them; how they fall together is up to the clock. `tests/soak.sh` runs this for as long as one likes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects and stops there; clippy's own exemption ends at the bodies of tests"
)]

mod books;
mod chains;
mod chaos;
mod client;
mod fleet;
#[allow(dead_code, unused_imports, reason = "shared with the integration tests, which use all of it")]
#[path = "../it/harness/mod.rs"]
mod harness;
mod oracle;
mod origin;
mod plan;
mod race;
mod recovery;
mod seed;
mod soak;
mod story;
mod world;

use std::path::Path;

use crate::chains::{COSMOS, EVM, SOLANA};
use crate::plan::Cycle;
use crate::world::{Epoch, Outcome};

/// What a run of the tests starts from; `RIG_SEED` gives another.
const SEED: u64 = 20_261_121;

fn seed() -> u64 {
    std::env::var("RIG_SEED").map_or(SEED, |seed| seed.parse().expect("RIG_SEED is a number"))
}

async fn run(epoch: &Epoch, cycles: impl Iterator<Item = Cycle>) -> Outcome {
    let directory = tempfile::tempdir().unwrap();
    let outcome = world::run(epoch, cycles, directory.path(), Path::new(env!("CARGO_BIN_EXE_tollhouse")), |_| {}).await;
    if !outcome.violations.is_empty() && epoch.bug.is_none() {
        let kept = directory.keep();
        eprintln!("what was written down is in {}", kept.display());
    }
    outcome
}

/// So many kills on a chain with at least a hundred payments in flight, and those at which there were fewer: some end as the
/// first of their kind are only on their way.
async fn killed_on(chain: &'static str, crowded_kills: u64) {
    let seed = seed();
    let epoch = Epoch { seed, chains: vec![chain], gateways: 0, clients: 160, until: None, crowded_kills, bug: None };
    let cycles_max = usize::try_from(crowded_kills * 3 / 2).unwrap();
    let outcome = run(&epoch, plan::cycles(seed, chain != COSMOS).take(cycles_max)).await;
    println!("{outcome:#?}");
    assert!(
        outcome.violations.is_empty(),
        "{:#?}\nthe same again: RIG_SEED={seed} cargo nextest run --features failpoints,dev-solana --test rig payments_on_{chain}",
        outcome.violations,
    );
    assert_eq!(outcome.crowded_kills, crowded_kills, "of {} kills", outcome.cycles);
    assert!(outcome.moved > 100, "only {} payments moved money", outcome.moved);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_34_times_under_a_hundred_payments_on_evm_all_tell_one_story() {
    killed_on(EVM, 34).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_15_times_under_a_hundred_payments_on_solana_all_tell_one_story() {
    killed_on(SOLANA, 15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_17_times_under_a_hundred_payments_on_cosmos_all_tell_one_story() {
    killed_on(COSMOS, 17).await;
}

/// Kills, hanging gateways and crashes of the database, where two gateways share one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_gateways_on_one_database_killed_and_hung_in_turn_all_tell_one_story() {
    let seed = seed();
    let epoch =
        Epoch { seed, chains: vec![EVM], gateways: 2, clients: 130, until: None, crowded_kills: u64::MAX, bug: None };
    let outcome = run(&epoch, plan::fleet(seed)).await;
    println!("{outcome:#?}");
    assert!(
        outcome.violations.is_empty(),
        "{:#?}\nthe same again: RIG_SEED={seed} cargo nextest run --features failpoints,dev-solana --test rig of_two_gateways",
        outcome.violations,
    );
    assert!(outcome.moved > 100, "only {} payments moved money", outcome.moved);
    for trouble in ["blocks taken back", "the database crashed", "a gateway hung beyond its lease"] {
        assert!(outcome.counts.contains_key(&format!("troubles: {trouble}")), "no {trouble}");
    }
}

/// How often a gateway with a bug is given the occasion to be found out.
const BUG_RUNS_MAX: u64 = 5;

/// A gateway with this bug must be found out by one of these invariants.
async fn caught(bug: &'static str, invariants: &[&str]) {
    let mut outcomes = Vec::new();
    // Few payments give it an occasion; on a slow machine, in some runs none does.
    for seed in seed()..seed() + BUG_RUNS_MAX {
        let epoch = Epoch {
            seed,
            chains: vec![EVM],
            gateways: 0,
            clients: 30,
            until: None,
            crowded_kills: u64::MAX,
            bug: Some(bug),
        };
        let outcome = run(&epoch, plan::bad_days().take(6)).await;
        if outcome.violations.iter().any(|found| invariants.iter().any(|name| found.starts_with(name))) {
            return;
        }
        outcomes.push(outcome);
    }
    panic!("{bug} was not caught: {outcomes:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_sends_before_it_writes_is_caught() {
    caught("bug_skip_w1", &["I5"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_credits_a_payment_twice_is_caught() {
    caught("bug_credit_twice", &["I2"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_offers_terms_too_early_is_caught() {
    caught("bug_terms_too_early", &["I7"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_loses_the_record_of_a_settlement_is_caught() {
    caught("bug_lose_w2", &["I1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_delivers_to_another_request_is_caught() {
    caught("bug_other_request", &["I2"]).await;
}
