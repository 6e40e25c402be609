//! Reloads and handovers, many of them, while clients ask and pay (contract §4).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::harness::{Call, Payer, Plan, Shop, Terms, eventually, paid};

const RELOADS: usize = 100;
/// As many as `HANDOVERS` says; each takes about a second.
const HANDOVERS: usize = 20;

/// What clients that never stop met.
struct Clients {
    stop: Arc<AtomicBool>,
    free: Vec<JoinHandle<usize>>,
    paying: Vec<JoinHandle<usize>>,
    /// Asked for terms, and told to come back in a moment.
    closed: Arc<AtomicUsize>,
}

impl Clients {
    /// Each with a connection for every request; whoever finds nobody there, or is not answered, fails the test.
    fn start(port: u16, payer: &Payer) -> Self {
        let (stop, closed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let free = (0..3).map(|_| tokio::spawn(ask(port, stop.clone()))).collect();
        let paying = (0..2).map(|_| tokio::spawn(buy(port, payer.clone(), stop.clone(), closed.clone()))).collect();
        Self { stop, free, paying, closed }
    }

    /// How many free and how many paid answers there were.
    async fn end(self) -> (usize, usize) {
        self.stop.store(true, Ordering::SeqCst);
        let (mut free, mut bought) = (0, 0);
        for client in self.free {
            free += client.await.unwrap();
        }
        for client in self.paying {
            bought += client.await.unwrap();
        }
        println!(
            "{free} free and {bought} paid answers; {} times no terms for a moment",
            self.closed.load(Ordering::SeqCst)
        );
        (free, bought)
    }
}

async fn ask(port: u16, stop: Arc<AtomicBool>) -> usize {
    let mut answers = 0;
    while !stop.load(Ordering::SeqCst) {
        let answer = Call::get("/health").send(port).await.unwrap();
        assert!(answer.status == 200 && answer.is_complete, "{answer:?}");
        answers += 1;
    }
    answers
}

async fn buy(port: u16, payer: Payer, stop: Arc<AtomicBool>, closed: Arc<AtomicUsize>) -> usize {
    let mut bought = 0;
    while !stop.load(Ordering::SeqCst) {
        let answer = Call::get("/api/data").send(port).await.unwrap();
        if answer.status == 503 {
            closed.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        let payment = payer.pay(&Terms::read(&answer));
        eventually("what was paid for", Duration::from_secs(50), || async {
            let answer = paid(&payment.v2()).send(port).await.unwrap();
            match answer.status {
                200 => Some(()),
                503 | 409 => {
                    assert!(!answer.has_terms(), "{answer:?}");
                    assert!(answer.header("retry-after").is_some(), "{answer:?}");
                    None
                }
                _ => panic!("{answer:?}"),
            }
        })
        .await;
        bought += 1;
    }
    bought
}

fn routes(cents: usize) -> String {
    let priced = format!("{{ price = \"$0.0{cents}\", description = \"costs {cents}\" }}");
    format!("\"/health\" = \"free\"\n\"GET /api/data\" = {priced}\n")
}

/// What the terms say, which must all be of one configuration.
async fn price(shop: &Shop) -> usize {
    let answer = shop.call(&Call::get("/api/data")).await;
    let terms = Terms::read(&answer);
    let cents = terms.v2["amount"].as_str().unwrap().parse::<usize>().unwrap() / 10_000;
    assert_eq!(answer.json()["accepts"][0]["description"], format!("costs {cents}"));
    cents
}

#[tokio::test]
async fn a_hundred_reloads_under_load_fail_no_request_and_every_quote_is_kept() {
    let mut shop = Shop::open_with(Plan { routes: routes(1), ..Plan::default() }).await;
    shop.node.mint(shop.payer.address, 1_000_000_000).await;
    let first = shop.terms().await;
    let clients = Clients::start(shop.port, &shop.payer);
    for round in 0..RELOADS {
        let cents = 1 + (round + 1) % 5;
        shop.plan.routes = routes(cents);
        shop.rewrite_config();
        // Those that are left to the file's watcher take seconds.
        match round % 33 {
            0 => {}
            odd if odd % 2 == 1 => shop.gateway().hang_up(),
            _ => {
                let call = Call { host: "127.0.0.1", ..Call::post("/reload", "") };
                assert_eq!(call.send(shop.admin_port).await.unwrap().status, 200);
                assert_eq!(price(&shop).await, cents);
            }
        }
        let shop = &shop;
        eventually("the new price", Duration::from_secs(30), || async { (price(shop).await == cents).then_some(()) })
            .await;
    }
    let (free, bought) = clients.end().await;
    assert!(free > RELOADS && bought > 10, "{free} {bought}");
    assert_eq!(shop.present(&shop.payer.pay(&first).v2()).await.status, 200, "the first quote holds for five minutes");
    assert_eq!(shop.node.transfers().await.len(), bought + 1);
    assert_eq!(shop.priced_hits(), bought + 1);
    shop.audit().await;
}

#[tokio::test]
async fn gateways_follow_each_other_under_load_and_no_client_finds_nobody_there() {
    let plan = Plan { server: "upgrade_socket = \"up.sock\"".to_owned(), routes: routes(1), ..Plan::default() };
    let mut shop = Shop::open_with(plan).await;
    shop.node.mint(shop.payer.address, 1_000_000_000).await;
    let clients = Clients::start(shop.port, &shop.payer);
    let handovers = std::env::var("HANDOVERS").map_or(HANDOVERS, |text| text.parse().unwrap());
    for _ in 0..handovers {
        let mut old = shop.upgrade();
        let log = old.log();
        assert!(old.wait_end().await.success(), "{log}");
        let admin_port = shop.admin_port;
        assert!(shop.gateway().wait_ok(admin_port, "/readyz").await, "the next gateway ended");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (free, bought) = clients.end().await;
    assert!(free > handovers && bought > handovers, "{free} {bought}");
    assert_eq!(shop.node.transfers().await.len(), bought);
    assert_eq!(shop.priced_hits(), bought);
    shop.audit().await;
}

#[tokio::test]
async fn the_next_gateway_serves_free_routes_and_terms_while_the_last_settles_and_takes_the_payment_up_after_it() {
    let plan = Plan { server: "upgrade_socket = \"up.sock\"\ndrain_timeout = \"4s\"".to_owned(), ..Plan::default() };
    let mut shop = Shop::open_with(plan).await;
    let (payment, other) = (shop.payment().await, shop.payment().await);
    let held = shop.present_and_hold(&paid(&payment.v2())).await;
    let mut old = shop.upgrade();
    eventually("the next gateway", Duration::from_secs(30), || async {
        let log = std::fs::read_to_string(shop.config().with_file_name("gateway.log")).unwrap();
        (log.matches("Ready.").count() == 2).then_some(())
    })
    .await;
    assert!(old.ended().is_none(), "it lets a settlement go");
    assert_eq!(shop.call(&Call::get("/health")).await.status, 200);
    Terms::read(&shop.call(&Call::get("/api/data")).await);
    for payment in [&payment, &other] {
        let answer = shop.present(&payment.v2()).await;
        assert_eq!((answer.status, answer.error().as_str()), (503, "payments_unavailable"), "{answer:?}");
        assert!(answer.header("retry-after").is_some() && !answer.has_terms());
    }
    assert!(old.wait_end().await.success());
    drop(held);
    shop.rpc.clear();
    assert_eq!(shop.present_until_decided(&payment.v2()).await.status, 200);
    assert_eq!(shop.present_until_decided(&other.v2()).await.status, 200);
    assert_eq!(shop.node.transfers().await.len(), 2);
    shop.audit().await;
}

#[tokio::test]
async fn a_gateway_that_does_not_start_takes_nothing_from_the_one_that_runs() {
    let plan = Plan { server: "upgrade_socket = \"up.sock\"".to_owned(), ..Plan::default() };
    let mut shop = Shop::open_with(plan).await;
    let good = shop.plan.network.clone();
    // The chain's tokens have another name.
    shop.plan.network = format!(
        "[networks.base-sepolia.assets.USDC]\naddress = \"{}\"\ndecimals = 6\nname = \"Another\"\nversion = \"2\"",
        crate::harness::USDC
    );
    shop.rewrite_config();
    let mut next = shop.spawn_upgrade();
    assert!(!next.wait_end().await.success());
    shop.plan.network = good;
    shop.rewrite_config();
    shop.buy().await;
    let mut old = shop.upgrade();
    assert!(old.wait_end().await.success());
    let admin_port = shop.admin_port;
    assert!(shop.gateway().wait_ok(admin_port, "/readyz").await);
    shop.buy().await;
    shop.audit().await;
}
