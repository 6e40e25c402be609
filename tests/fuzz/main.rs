//! Every parser of what strangers send, fed with damaged inputs: none may panic, hang or take much memory, and what they
//! accept must hold together.
//!
//! `FUZZ_SECONDS` says how long each runs (default 2), `FUZZ_SEED` where the inputs start; a failure prints both the seed
//! and the input.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails should stop and say where"
)]

mod chains;
mod memory;
mod mutate;
mod words;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use self::mutate::{Random, mutate};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// Most memory that one input may take: far above what is needed, far below what hurts.
const PEAK_BYTES_MAX: isize = 16 * 1024 * 1024;
/// Most time of a processor that one input may take, even in a build without optimisation.
const LONGEST: Duration = Duration::from_secs(2);

/// How long this thread has run: how much else a machine has to do is not in it.
#[allow(unsafe_code, reason = "the standard library has no such clock")]
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is there to be written to.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(answer, 0, "no clock of this thread");
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// Runs `check` on `corpus` as it is, which it must accept, and then on damaged copies until the time is over. `check` says
/// whether the parser accepted the input, and panics when it accepted what it must not.
fn fuzz(corpus: &[Vec<u8>], mut check: impl FnMut(&[u8]) -> bool) {
    for good in corpus {
        assert!(check(good), "a good input was refused: {}", good.escape_ascii());
    }
    let fresh = u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() & u128::from(u64::MAX)).unwrap();
    let seed = from_env("FUZZ_SEED", fresh);
    let until = Instant::now() + Duration::from_secs(from_env("FUZZ_SECONDS", 2));
    let mut random = Random::new(seed);
    let (mut inputs, mut accepted) = (0_u64, 0_u64);
    while Instant::now() < until {
        let input = mutate(&mut random, corpus);
        let started = cpu_time();
        let (outcome, peak) = memory::peak_of(|| catch_unwind(AssertUnwindSafe(|| check(&input))));
        let told = || format!("FUZZ_SEED={seed}, input {inputs}: {}", input.escape_ascii());
        accepted += u64::from(outcome.unwrap_or_else(|_panic| panic!("it panicked, {}", told())));
        let took = cpu_time() - started;
        assert!(took < LONGEST, "{took:?} for {}", told());
        assert!(peak < PEAK_BYTES_MAX, "{peak} bytes for {}", told());
        inputs += 1;
    }
    println!("seed {seed}: {inputs} inputs, {accepted} accepted");
}

fn corpus<const N: usize>(good: [&str; N]) -> Vec<Vec<u8>> {
    good.into_iter().map(|text| text.as_bytes().to_vec()).collect()
}
