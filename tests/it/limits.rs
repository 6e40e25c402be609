//! What clients may take up, and who needs no payment: all of it decided before any money is looked at.

use std::net::IpAddr;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use tollhouse::ledger::PaymentState;

use crate::harness::{Answer, Call, Fault, Origin, Plan, Serve, Shop, Terms, eventually, paid};

const KEY: &str = "a-partner's-key-of-some-length";

fn from(call: Call, client: &str) -> Call {
    Call { from: client.parse::<IpAddr>().unwrap(), ..call }
}

/// How long a free request of another origin takes, in the worst of some cases.
async fn slowest_free(shop: &Shop, path: &str) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let started = Instant::now();
        assert_eq!(shop.call(&Call::get(path)).await.status, 200);
        slowest = slowest.max(started.elapsed());
    }
    slowest
}

async fn limited(shop: &Shop, limit: &str) -> bool {
    let metrics = Call::local("/metrics").send(shop.admin_port).await.unwrap();
    String::from_utf8_lossy(&metrics.body).contains(&format!("tollhouse_limited_total{{limit=\"{limit}\"}}"))
}

#[tokio::test]
async fn a_rate_holds_for_an_address_and_a_payment_that_it_turns_away_is_as_good_later() {
    let routes = "\"/health\" = { price = \"free\", unpaid_rate = \"3/day\" }\n\
                  \"/api/data\" = { price = \"$0.01\", unpaid_rate = \"4/day\", paid_rate = \"1/s\" }\n";
    let shop = Shop::open_with(Plan { routes: routes.to_owned(), ..Plan::default() }).await;
    for _ in 0..3 {
        assert_eq!(shop.call(&Call::get("/health")).await.status, 200);
    }
    let refused = shop.call(&Call::get("/health")).await;
    assert_eq!((refused.status, refused.error().as_str()), (429, "rate_limited"), "{refused:?}");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 1000);
    assert_eq!(shop.call(&from(Call::get("/health"), "127.0.0.2")).await.status, 200, "another address");
    // Who pays isn't in the way of who asks for terms, nor the other way round.
    let payments = [shop.payment().await, shop.payment().await, shop.payment().await];
    shop.terms().await;
    assert_eq!(shop.call(&Call::get("/api/data")).await.status, 429);
    assert_eq!(shop.present(&payments[0].v2()).await.status, 200);
    let headers = [payments[1].v2(), payments[2].v2()];
    let answers = join_all(headers.iter().map(|header| shop.present(header))).await;
    let turned_away: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!turned_away.is_empty(), "{answers:?}");
    for answer in turned_away {
        assert!(!answer.has_terms() && answer.json()["retry"].as_str().unwrap().contains("same payment"), "{answer:?}");
    }
    for header in &headers {
        eventually("an answer for the same payment", Duration::from_secs(20), || async {
            let answer = shop.present(header).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            (answer.status == 200 || answer.error() == "payment_already_used").then_some(())
        })
        .await;
    }
    assert_eq!(shop.node.transfers().await.len(), 3);
    assert!(limited(&shop, "unpaid_rate").await && limited(&shop, "paid_rate").await);
    shop.audit().await;
}

#[tokio::test]
async fn an_address_has_its_free_requests_and_then_pays_and_no_more_are_free_at_once() {
    let routes = "\"/quota\" = { price = \"$0.01\", free_quota = \"5/day\" }\n\"/api/data\" = \"$0.01\"\n";
    let shop = Shop::open_with(Plan { routes: routes.to_owned(), ..Plan::default() }).await;
    let call = Call::get("/quota");
    let answers = join_all((0..40).map(|_| shop.call(&call))).await;
    let free: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(free.len(), 5, "{answers:?}");
    let mut left: Vec<&str> = free.iter().map(|answer| answer.header("ratelimit").unwrap()).collect();
    left.sort_unstable();
    let left: Vec<_> = left.iter().map(|left| left.split(";t=").next().unwrap()).collect();
    assert_eq!(left, ["\"free\";r=0", "\"free\";r=1", "\"free\";r=2", "\"free\";r=3", "\"free\";r=4"]);
    for answer in &free {
        assert!(answer.header("cache-control").unwrap().contains("private"), "{answer:?}");
        assert_eq!(answer.header("ratelimit-policy"), Some("\"free\";q=5;w=86400"));
    }
    let asked = shop.call(&call).await;
    assert!(asked.header("ratelimit").unwrap().starts_with("\"free\";r=0;"));
    let terms = Terms::read(&asked);
    // Nobody says for himself who he is.
    let forged = Call::get("/quota").with("X-Forwarded-For", "198.51.100.1").with("X-Real-IP", "198.51.100.1");
    assert_eq!(shop.call(&forged).await.status, 402);
    // Who presents a payment pays, though it would have been free.
    let (name, value) = shop.payer.pay(&terms).v2();
    let answer = shop.call(&from(Call::get("/quota").with(name, value), "127.0.0.3")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.outcome().is_some() && answer.header("ratelimit").is_none());
    let first = shop.call(&from(Call::get("/quota"), "127.0.0.3")).await;
    assert!(first.header("ratelimit").unwrap().starts_with("\"free\";r=4;"), "{first:?}");
    assert_eq!(shop.node.transfers().await.len(), 1);
    assert_eq!(shop.origin.hits().iter().filter(|hit| hit.target == "/quota").count(), 5 + 1 + 1);
    shop.audit().await;
}

#[tokio::test]
async fn callers_that_pay_otherwise_are_let_through_by_key_or_address_and_nobody_can_pretend_to_be_one() {
    let routes = "\"/keyed\" = { price = \"$0.01\", free_for = { keys = { file = \"key\" }, header = \"Authorization\" } }\n\
                  \"/near\" = { price = \"$0.01\", free_for = { addresses = [\"127.0.0.7\", \"198.51.100.0/24\"] } }\n\
                  \"/api/data\" = \"$0.01\"\n";
    let server = "trusted_proxies = [\"127.0.0.9\"]".to_owned();
    let mut shop = Shop::build(Plan { server, routes: routes.to_owned(), ..Plan::default() }).await;
    let file = shop.ledger_file().with_file_name("key");
    std::fs::write(&file, format!("{KEY}\n")).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    shop.start().await;
    let keyed = |shown: &str| Call::get("/keyed").with("Authorization", shown);
    let answer = shop.call(&keyed(&format!("Bearer {KEY}"))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("cache-control").unwrap().contains("private"), "{answer:?}");
    assert_eq!(shop.origin.hits().last().unwrap().header("authorization"), None, "a key of ours is for no origin");
    for wrong in [KEY.to_owned(), format!("Bearer {KEY}x"), "Bearer ".to_owned(), format!("Basic {KEY}")] {
        assert_eq!(shop.call(&keyed(&wrong)).await.status, 402, "{wrong}");
    }
    assert_eq!(shop.call(&Call::get("/keyed").with("X-Api-Key", KEY)).await.status, 402);
    let elsewhere = Call::get("/api/data").with("Authorization", format!("Bearer {KEY}"));
    assert_eq!(shop.call(&elsewhere).await.status, 402, "a key opens its own route");
    assert_eq!(shop.call(&from(Call::get("/near"), "127.0.0.7")).await.status, 200);
    assert_eq!(shop.call(&Call::get("/near")).await.status, 402);
    let says = |client: &str, said: &str| from(Call::get("/near").with("X-Forwarded-For", said), client);
    assert_eq!(shop.call(&says("127.0.0.1", "198.51.100.1")).await.status, 402, "a client says so itself");
    assert_eq!(shop.call(&says("127.0.0.9", "198.51.100.1")).await.status, 200, "a trusted proxy says so");
    assert_eq!(shop.call(&says("127.0.0.9", "198.51.100.1, 203.0.113.5")).await.status, 402);
    assert_eq!(shop.call(&from(Call::get("/near"), "127.0.0.9")).await.status, 402, "a proxy that says nothing");
    assert_eq!(shop.node.transfers().await.len(), 0);
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_finds_its_origin_full_before_it_is_claimed_and_never_after() {
    let upstream = "max_concurrent = 2\nqueue_timeout = \"300ms\"".to_owned();
    let shop = Shop::open_with(Plan { upstream, ..Plan::default() }).await;
    let terms = shop.terms().await;
    let payments: Vec<_> = (0..3).map(|_| shop.payer.pay(&terms).v2()).collect();
    shop.origin.then([Serve::Slow(Duration::from_secs(4)), Serve::Slow(Duration::from_secs(4))]);
    let running = join_all(payments[..2].iter().map(|header| shop.present(header)));
    let third = async {
        eventually("both at the origin", Duration::from_secs(10), || async { (shop.priced_hits() == 2).then_some(()) })
            .await;
        let free = slowest_free(&shop, "/health").await;
        (shop.present(&payments[2]).await, shop.rows().await.len(), free)
    };
    let (answers, (refused, rows, free)) = tokio::join!(running, third);
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!((refused.status, refused.error().as_str(), rows), (503, "origin_busy", 2), "{refused:?}");
    assert!(!refused.has_terms() && refused.header("retry-after").is_some());
    assert!(free < Duration::from_millis(300), "free requests waited for paid ones: {free:?}");
    assert_eq!(shop.present(&payments[2]).await.status, 200, "the same payment is as good later");
    assert_eq!(shop.node.transfers().await.len(), 3);
    assert!(limited(&shop, "origin_busy").await);
    shop.audit().await;
}

#[tokio::test]
async fn a_network_settles_so_many_at_a_time_and_nothing_is_claimed_for_who_waits_in_vain() {
    let network = "max_settlements = 1\nqueue_timeout = \"300ms\"\nsettle_timeout = \"2s\"".to_owned();
    let shop = Shop::open_with(Plan { network, ..Plan::default() }).await;
    let terms = shop.terms().await;
    let (one, other) = (shop.payer.pay(&terms), shop.payer.pay(&terms));
    let (name, value) = one.v2();
    let client = shop.present_and_hold(&Call::get("/api/data").with(name, value)).await;
    let refused = shop.present(&other.v2()).await;
    assert_eq!((refused.status, refused.error().as_str()), (503, "settlements_busy"), "{refused:?}");
    assert!(!refused.has_terms());
    assert_eq!(shop.rows().await.len(), 1, "nothing was claimed");
    let free = slowest_free(&shop, "/health").await;
    assert!(free < Duration::from_millis(500), "a dead chain slowed free requests: {free:?}");
    shop.rpc.clear();
    drop(client);
    assert_eq!(shop.present_until_decided(&one.v2()).await.status, 200);
    assert_eq!(shop.present_until_decided(&other.v2()).await.status, 200);
    shop.audit().await;
}

#[tokio::test]
async fn a_hung_origin_with_many_paid_requests_leaves_free_routes_of_others_at_their_speed() {
    let other = Origin::start().await;
    let upstream = format!(
        "max_concurrent = 4\nqueue_timeout = \"500ms\"\nread_timeout = \"6s\"\n\
         [upstreams.other]\nservers = [\"127.0.0.1:{}\"]",
        other.port
    );
    let routes = "\"/free\" = { price = \"free\", upstream = \"other\" }\n\
                  \"/api/data\" = { price = \"$0.01\", upstream = \"api\" }\n";
    let shop = Shop::open_with(Plan { upstream, routes: routes.to_owned(), ..Plan::default() }).await;
    let terms = shop.terms().await;
    let headers: Vec<_> = (0..60).map(|_| shop.payer.pay(&terms).v2()).collect();
    shop.origin.then((0..60).map(|_| Serve::Stall));
    let before = slowest_free(&shop, "/free").await;
    let paying = join_all(headers.iter().map(|header| shop.present(header)));
    let free = async {
        eventually("a full origin", Duration::from_secs(10), || async { (shop.priced_hits() == 4).then_some(()) })
            .await;
        slowest_free(&shop, "/free").await
    };
    let (answers, during) = tokio::join!(paying, free);
    assert!(during < before + Duration::from_millis(250), "{before:?} without and {during:?} with a hung origin");
    let turned_away = answers.iter().filter(|answer| answer.error() == "origin_busy").count();
    assert!(turned_away >= 50, "{turned_away}");
    assert_eq!(shop.rows().await.len(), 60 - turned_away, "only who had a place was claimed");
    assert_eq!(shop.node.transfers().await.len(), 60 - turned_away);
    shop.audit().await;
}

#[tokio::test]
async fn payments_that_wait_for_a_hung_origin_leave_the_networks_settlements_to_others() {
    let other = Origin::start().await;
    let upstream = format!(
        "max_concurrent = 1\nqueue_timeout = \"20s\"\n[upstreams.other]\nservers = [\"127.0.0.1:{}\"]",
        other.port
    );
    let routes = "\"/api/data\" = { price = \"$0.01\", upstream = \"api\" }\n\
                  \"/api/other\" = { price = \"$0.01\", upstream = \"other\" }\n";
    let network = "max_settlements = 2\nqueue_timeout = \"300ms\"".to_owned();
    let shop = Shop::open_with(Plan { network, upstream, routes: routes.to_owned(), ..Plan::default() }).await;
    let terms = shop.terms().await;
    let headers: Vec<_> = (0..5).map(|_| shop.payer.pay(&terms).v2()).collect();
    shop.origin.then([Serve::Slow(Duration::from_secs(8))]);
    let paying = join_all(headers.iter().map(|header| shop.present(header)));
    let elsewhere = async {
        eventually("a hung origin", Duration::from_secs(10), || async { (shop.priced_hits() == 1).then_some(()) })
            .await;
        // The others wait by now.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(shop.priced_hits(), 1);
        let terms = Terms::read(&shop.call(&Call::get("/api/other")).await);
        let (name, value) = shop.payer.pay(&terms).v2();
        shop.call(&Call::get("/api/other").with(name, value)).await
    };
    let (answers, answer) = tokio::join!(paying, elsewhere);
    assert_eq!((answer.status, other.hits().len()), (200, 1), "{answer:?}");
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(shop.node.transfers().await.len(), 6);
}

#[tokio::test]
async fn an_address_has_so_many_payments_worked_on_and_others_are_not_kept_out_by_it() {
    let server = "limits = { payments_per_address = 2 }".to_owned();
    let network = "settle_timeout = \"3s\"".to_owned();
    let shop = Shop::open_with(Plan { server, network, ..Plan::default() }).await;
    let terms = shop.terms().await;
    let payments: Vec<_> = (0..4).map(|_| shop.payer.pay(&terms).v2()).collect();
    let call = |index: usize| Call::get("/api/data").with(payments[index].0, payments[index].1.clone());
    shop.rpc.set("eth_sendRawTransaction", Fault::Hold);
    let held = [call(0).open(shop.port).await.unwrap(), call(1).open(shop.port).await.unwrap()];
    eventually("both claimed", Duration::from_secs(10), || async { (shop.rows().await.len() == 2).then_some(()) })
        .await;
    let refused = shop.call(&call(2)).await;
    assert_eq!((refused.status, refused.error().as_str()), (429, "rate_limited"), "{refused:?}");
    assert!(!refused.has_terms());
    shop.rpc.clear();
    assert_eq!(shop.call(&from(call(3), "127.0.0.2")).await.status, 200);
    for client in held {
        assert_eq!(Answer::read(client).await.unwrap().status, 200);
    }
    assert_eq!(shop.call(&call(2)).await.status, 200, "the same payment is as good later");
    shop.wait_state(PaymentState::Served).await;
    shop.audit().await;
}

#[tokio::test]
async fn an_answer_that_goes_on_or_falls_silent_ends_when_its_time_is_over() {
    let upstream = "total_timeout = \"1s\"".to_owned();
    let shop = Shop::open_with(Plan { upstream, ..Plan::default() }).await;
    shop.origin.then([Serve::Stall, Serve::Half(Duration::from_millis(800)), Serve::Pieces(1000)]);
    let started = Instant::now();
    let silent = shop.call(&Call::get("/health")).await;
    assert_eq!((silent.status, silent.error().as_str()), (504, "origin_timed_out"), "{silent:?}");
    assert!(started.elapsed() < Duration::from_millis(1900), "{:?}", started.elapsed());
    for _ in 0..2 {
        let started = Instant::now();
        assert!(!shop.call(&Call::get("/health")).await.is_complete);
        assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    }
    shop.audit().await;
}

#[tokio::test]
async fn free_requests_go_on_while_the_chain_is_dead() {
    let mut shop = Shop::open().await;
    let payments: Vec<_> = {
        let terms = shop.terms().await;
        (0..40).map(|_| shop.payer.pay(&terms).v2()).collect()
    };
    let before = slowest_free(&shop, "/health").await;
    shop.rpc.set_all(Fault::Hold);
    let clients = join_all(payments.iter().map(|(name, value)| {
        let call = paid(&(*name, value.clone()));
        async move { call.open(shop.port).await.unwrap() }
    }));
    let clients = clients.await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let during = slowest_free(&shop, "/health").await;
    assert_eq!(shop.priced_hits(), 0, "the chain was not dead");
    assert!(during < before + Duration::from_millis(250), "{before:?} with a chain and {during:?} with a dead one");
    drop(clients);
    // What is still on its way would go on while the books are read.
    shop.gateway().kill();
    shop.rpc.clear();
    shop.audit().await;
}
