//! One payment, a thousand clients at once, again and again: one transfer, one answer.

use std::path::Path;
use std::sync::Arc;

use futures::future::join_all;

use crate::chains::{COSMOS, EVM, SOLANA};
use crate::client;
use crate::harness::{Answer, Call};
use crate::world::{Epoch, World};

/// Below what a process may have open on a usual machine, both ends of each connection counted.
const COPIES: usize = 1000;

/// `RIG_ROUNDS` rounds, over the chains in turn, at `RIG_GATEWAYS` gateways over one database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "tests/soak.sh --rounds runs it"]
async fn one_payment_of_a_thousand_clients() {
    let rounds: u64 = std::env::var("RIG_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap());
    let gateways: usize = std::env::var("RIG_GATEWAYS").map_or(3, |gateways| gateways.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let epoch = Epoch {
        seed: crate::seed(),
        chains: vec![EVM, SOLANA, COSMOS],
        gateways,
        clients: 6,
        until: None,
        crowded_kills: u64::MAX,
        bug: None,
    };
    let world = World::build(&epoch, directory.path(), Path::new(env!("CARGO_BIN_EXE_tollhouse"))).await;
    let gateways = world.open().await;
    for round in 0..rounds {
        let wallet = &world.wallets[usize::try_from(round).unwrap() % world.wallets.len()];
        let target = format!("/before/round-{round}");
        let payment = client::sign_now(&world, wallet, &target).await;
        let copies = (0..COPIES).map(|_| {
            let (world, payment) = (Arc::clone(&world), Arc::clone(&payment));
            tokio::spawn(async move { client::present(&world, &payment, &payment.target).await })
        });
        join_all(copies.collect::<Vec<_>>()).await;
        while payment.end().is_none() {
            client::present(&world, &payment, &payment.target).await;
        }
        let answers = payment.log.lock().unwrap().answers;
        if answers != 1 {
            world.story.violate(format!("I2: {COPIES} copies of {} had {answers} answers", payment.key));
        }
        if round % 20 == 19 {
            println!("{} rounds, violations {}", round + 1, world.story.violations().len());
        }
    }
    let free: Answer = Call::get("/health").send(world.port()).await.unwrap();
    assert_eq!(free.status, 200);
    let moved = world.settle_and_judge(gateways).await;
    assert_eq!(world.story.violations(), Vec::<String>::new());
    assert_eq!(u64::try_from(moved).unwrap(), rounds);
    println!("{rounds} rounds of {COPIES} clients, {moved} transfers, violations 0");
}
