//! Paid requests per second through the real gateway on a real node, EVM and Solana: `benches/paid.sh`.
//!
//! One chain, one gas key or fee payer, one payer. Every payment is signed before it is timed (on EVM before the first of them is
//! presented), so that only the gateway's work is measured: decode, verify, simulate, claim, broadcast, receipt, deliver. Each setting runs twice: against the node itself for the times, and
//! through a door that counts for the calls (members of a batch one each, those before the first payment apart). PAID_ONLY names
//! settings ("Instant64 Solana32"), PAID_MANY and PAID_FEW say how many payments.

#![allow(
    missing_docs,
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    reason = "a benchmark that fails should stop and say where; the harness is the integration tests'"
)]

#[path = "../tests/it/harness/mod.rs"]
mod harness;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::{Chain, Header, Plan, Shop, SolanaNode};
use serde_json::json;

/// How long a Solana block's hash is signed with: it is good for a minute.
const BLOCKHASH_HOLDS: Duration = Duration::from_secs(10);

/// When the chain makes blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocks {
    /// As soon as there is a transaction.
    Instant,
    /// Once a second.
    EverySecond,
    /// A Solana chain, every 400 ms as on the public ones.
    Solana,
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::main]
async fn main() {
    let many = number("PAID_MANY", 1500);
    let few = number("PAID_FEW", 300);
    let only = std::env::var("PAID_ONLY").unwrap_or_default();
    println!("blocks       at once  payments  failed      per second     p50 ms     p99 ms     max ms  calls each");
    for (blocks, at_once, payments) in [
        (Blocks::Instant, 1, few),
        (Blocks::Instant, 32, many),
        (Blocks::Instant, 64, many),
        (Blocks::EverySecond, 1, 10),
        (Blocks::EverySecond, 32, many / 5),
        (Blocks::EverySecond, 64, many / 2),
        (Blocks::Solana, 1, 40),
        (Blocks::Solana, 32, many / 3),
        (Blocks::Solana, 64, many / 2),
    ] {
        if only.is_empty() || only.split(' ').any(|one| one == format!("{blocks:?}{at_once}")) {
            run(blocks, at_once, payments).await;
        }
    }
}

/// Every method that the gateway may call.
const METHODS: [&str; 25] = [
    "eth_blockNumber",
    "eth_call",
    "eth_chainId",
    "eth_estimateGas",
    "eth_feeHistory",
    "eth_getBalance",
    "eth_getBlockByNumber",
    "eth_getBlockReceipts",
    "eth_getCode",
    "eth_getLogs",
    "eth_getTransactionCount",
    "eth_getTransactionReceipt",
    "eth_maxPriorityFeePerGas",
    "eth_sendRawTransaction",
    "getBalance",
    "getBlockHeight",
    "getBlockTime",
    "getFirstAvailableBlock",
    "getGenesisHash",
    "getLatestBlockhash",
    "getMultipleAccounts",
    "getSignatureStatuses",
    "getTransaction",
    "sendTransaction",
    "simulateTransaction",
];

struct Result {
    waits: Vec<Duration>,
    failures: BTreeMap<String, usize>,
    took: Duration,
    calls: BTreeMap<&'static str, usize>,
}

fn calls<N: Chain>(shop: &Shop<N>) -> BTreeMap<&'static str, usize> {
    METHODS.into_iter().map(|method| (method, shop.rpc.count(method))).collect()
}

async fn run(blocks: Blocks, at_once: usize, payments: usize) {
    let timed = sell(blocks, at_once, payments, true).await;
    let counted = sell(blocks, at_once, payments.min(320), false).await;
    let mut waits = timed.waits;
    waits.sort();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!(
        "{:12} {at_once:7}  {payments:8}  {:6}  {:14.0}  {:9.1}  {:9.1}  {:9.1}  {:10.2}",
        format!("{blocks:?}"),
        timed.failures.values().sum::<usize>(),
        payments as f64 / timed.took.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0),
        counted.calls.values().sum::<usize>() as f64 / payments.min(320) as f64,
    );
    for (reason, count) in timed.failures.iter().chain(&counted.failures) {
        println!("    {count} x {reason}");
    }
    let counts: Vec<String> = counted
        .calls
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(method, count)| format!("{method} {count}"))
        .collect();
    println!("    calls for {}: {}", payments.min(320), counts.join(", "));
}

async fn sell(blocks: Blocks, at_once: usize, payments: usize, is_direct: bool) -> Result {
    let plan = Plan { is_direct, log: "warn", ..Plan::default() };
    let funds = payments as u64 * harness::PRICE;
    if blocks == Blocks::Solana {
        let shop = Shop::<SolanaNode>::open_on_fast_solana(400, plan).await;
        shop.node.fund(&shop.payer, funds).await;
        let terms = Arc::new(shop.terms().await);
        let known = Arc::new(tokio::sync::Mutex::new((Instant::now(), shop.node.recent_blockhash().await)));
        let sign = move |shop: Arc<Shop<SolanaNode>>, number| {
            let (terms, known) = (Arc::clone(&terms), Arc::clone(&known));
            async move {
                let mut known = known.lock().await;
                if known.0.elapsed() > BLOCKHASH_HOLDS {
                    *known = (Instant::now(), shop.node.recent_blockhash().await);
                }
                (number < payments).then(|| shop.payer.pay(&terms, known.1).v2())
            }
        };
        return sell_in(shop, at_once, sign, is_direct).await;
    }
    let shop = Shop::open_with(plan).await;
    if blocks == Blocks::EverySecond {
        shop.node.rpc("evm_setAutomine", json!([false])).await;
        shop.node.rpc("evm_setIntervalMining", json!([1])).await;
    }
    shop.node.mint(shop.payer.address, funds).await;
    let terms = shop.terms().await;
    let headers: Arc<Vec<Header>> = Arc::new((0..payments).map(|_| shop.payer.pay(&terms).v2()).collect());
    let sign = move |_, number: usize| std::future::ready(headers.get(number).cloned());
    sell_in(shop, at_once, sign, is_direct).await
}

/// Presents every payment that `sign` gives, by its number.
async fn sell_in<N, S, F>(shop: Shop<N>, at_once: usize, sign: S, is_direct: bool) -> Result
where
    N: Chain + Send + Sync + 'static,
    N::Payer: Send + Sync,
    S: Fn(Arc<Shop<N>>, usize) -> F + Clone + Send + 'static,
    F: Future<Output = Option<Header>> + Send,
{
    let before = calls(&shop);
    let shop = Arc::new(shop);
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let workers: Vec<_> = (0..at_once)
        .map(|_| {
            let (shop, sign, next) = (Arc::clone(&shop), sign.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                let mut waits = Vec::new();
                let mut failures = BTreeMap::<String, usize>::new();
                while let Some(header) = sign(Arc::clone(&shop), next.fetch_add(1, Ordering::Relaxed)).await {
                    let asked = Instant::now();
                    let answer = shop.present(&header).await;
                    waits.push(asked.elapsed());
                    if answer.status != 200 {
                        *failures.entry(format!("{} {}", answer.status, answer.error())).or_default() += 1;
                    }
                }
                (waits, failures)
            })
        })
        .collect();
    let mut result =
        Result { waits: Vec::new(), failures: BTreeMap::new(), took: Duration::ZERO, calls: BTreeMap::new() };
    for worker in workers {
        let (waits, failures) = worker.await.unwrap();
        result.waits.extend(waits);
        for (reason, count) in failures {
            *result.failures.entry(reason).or_default() += count;
        }
    }
    result.took = started.elapsed();
    result.calls = calls(&shop).into_iter().map(|(method, count)| (method, count - before[method])).collect();
    if is_direct {
        stages(&shop).await;
    }
    if !result.failures.is_empty() {
        // All of it is a warning or worse.
        shop.log().lines().take(8).for_each(|line| println!("    {line}"));
    }
    assert_eq!(shop.priced_hits(), shop.node.moved().await.len(), "every hit was paid once");
    result
}

/// Mean latency by stage, from the gateway's own metrics.
async fn stages<N: Chain>(shop: &Shop<N>) {
    let answer = harness::Call::local("/metrics").send(shop.admin_port).await.unwrap();
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let value = |line: &str| line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0);
    let mut line = String::from("    mean ms by stage:");
    for stage in ["verify", "simulate", "claim", "settle", "record", "deliver"] {
        let of = |what: &str| {
            let name = format!("tollhouse_stage_seconds_{what}{{stage=\"{stage}\"}}");
            text.lines().find(|line| line.starts_with(&name)).map_or(0.0, value)
        };
        line.push_str(&format!(" {stage} {:.2}", of("sum") / of("count").max(1.0) * 1000.0));
    }
    println!("{line}");
}
