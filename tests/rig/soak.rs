//! The same for as long as one likes: epoch after epoch, each with chains and books of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::chains::{COSMOS, EVM, SOLANA};
use crate::plan;
use crate::world::{self, Epoch};

/// Kills on the same chains and books.
const EPOCH_CYCLES: u64 = 40;
/// How often a line says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(60);
const CLIENTS: u8 = 150;

/// Of all epochs.
#[derive(Default)]
struct Totals {
    epochs: u64,
    cycles: u64,
    crowded: u64,
    payments: usize,
    moved: usize,
    counts: BTreeMap<String, u64>,
}

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_error| panic!("{name}: {text}")))
}

fn chains() -> Vec<&'static str> {
    let wanted: String = variable("RIG_CHAINS").unwrap_or_else(|| format!("{EVM},{COSMOS},{SOLANA}"));
    let known = |name: &str| [EVM, SOLANA, COSMOS].into_iter().find(|known| *known == name.trim());
    wanted.split(',').map(|name| known(name).unwrap_or_else(|| panic!("no chain is called {name}"))).collect()
}

/// Each epoch's own seed: the first has the run's, so that a failure is run again as the first of its own.
fn seed_of(seed: u64, epoch: u64) -> u64 {
    seed.wrapping_add(epoch)
}

/// `tests/soak.sh` runs this: `RIG_SECONDS`, `RIG_SEED`, `RIG_CHAINS`, `RIG_EPOCHS`, `RIG_DIR`, `RIG_GATEWAYS`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs for as long as RIG_SECONDS says"]
async fn soak() {
    let seconds = variable("RIG_SECONDS").unwrap_or(60);
    let (seed, epochs_max) = (variable("RIG_SEED").unwrap_or_else(random), variable("RIG_EPOCHS").unwrap_or(u64::MAX));
    let chains = chains();
    let home: PathBuf = variable("RIG_DIR").unwrap_or_else(|| std::env::temp_dir().join(format!("rig-{seed}")));
    std::fs::create_dir_all(&home).unwrap();
    // Its own copy: whoever builds meanwhile doesn't change what runs here.
    let binary = home.join("tollhouse");
    std::fs::copy(env!("CARGO_BIN_EXE_tollhouse"), &binary).unwrap();
    let started = Instant::now();
    let until = started + Duration::from_secs(seconds);
    let (mut totals, mut reported) = (Totals::default(), started);
    println!("seed {seed}, {seconds} s, chains {}", chains.join(","));
    while Instant::now() < until && totals.epochs < epochs_max {
        let own_seed = seed_of(seed, totals.epochs);
        let gateways = variable("RIG_GATEWAYS").unwrap_or_else(|| plan::gateways(own_seed));
        let (chains, clients) = (chains.clone(), CLIENTS);
        let epoch =
            Epoch { seed: own_seed, chains, gateways, clients, until: Some(until), crowded_kills: u64::MAX, bug: None };
        let directory = home.join(format!("epoch-{own_seed}"));
        let _left_by_another = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let settles_after = epoch.chains.iter().any(|chain| *chain != COSMOS);
        let cycles = plan::cycles(own_seed, settles_after).take(usize::try_from(EPOCH_CYCLES).unwrap());
        let outcome = world::run(&epoch, cycles, &directory, &binary, |so_far| {
            if reported.elapsed() >= REPORT_EVERY {
                reported = Instant::now();
                let cycles = totals.cycles + so_far.cycles;
                println!("{}", progress(cycles, totals.payments + so_far.payments, started));
            }
        })
        .await;
        totals.epochs += 1;
        totals.cycles += outcome.cycles;
        totals.crowded += outcome.crowded_kills;
        totals.payments += outcome.payments;
        totals.moved += outcome.moved;
        for (name, count) in &outcome.counts {
            *totals.counts.entry(name.clone()).or_default() += count;
        }
        if !outcome.violations.is_empty() {
            failed(&outcome.violations, &epoch, &directory);
        }
        *totals.counts.entry(format!("epochs: {}", store_of(gateways))).or_default() += 1;
        println!("{}  (epoch {} is in order)", progress(totals.cycles, totals.payments, started), totals.epochs);
        reported = Instant::now();
        std::fs::remove_dir_all(&directory).unwrap();
    }
    summary(&totals, seed, started);
    std::fs::remove_dir_all(&home).unwrap();
}

/// What an epoch's books are in.
fn store_of(gateways: usize) -> String {
    match gateways {
        0 => "one gateway, books in a file".to_owned(),
        more => format!("{more} gateways, books in PostgreSQL"),
    }
}

fn random() -> u64 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).unwrap();
    u32::from_le_bytes(bytes).into()
}

/// One line on how far it is.
fn progress(cycles: u64, payments: usize, started: Instant) -> String {
    let seconds = started.elapsed().as_secs().max(1);
    let payments_a_minute = u64::try_from(payments).unwrap() * 60 / seconds;
    format!(
        "{seconds:>6} s  cycles {cycles} ({}/min)  payments {payments} ({payments_a_minute}/min)  violations 0",
        cycles * 60 / seconds
    )
}

fn failed(violations: &[String], epoch: &Epoch, directory: &Path) -> ! {
    println!("violations {}:", violations.len());
    for violation in violations {
        println!("  {violation}");
    }
    println!("what was written down is in {}", directory.display());
    let Epoch { seed, chains, gateways, .. } = epoch;
    println!(
        "the same again: tests/soak.sh --only kills --seed {seed} --epochs 1 --gateways {gateways} --chains {}",
        chains.join(",")
    );
    panic!("{} violations", violations.len());
}

fn summary(totals: &Totals, seed: u64, started: Instant) {
    println!();
    println!("seed {seed}, {} s, {} epochs", started.elapsed().as_secs(), totals.epochs);
    println!("cycles {}, of these {} with at least 100 payments in flight", totals.cycles, totals.crowded);
    println!("payments {}, of these {} moved money", totals.payments, totals.moved);
    for (name, count) in &totals.counts {
        println!("  {name:<32} {count}");
    }
    println!("violations 0");
}
