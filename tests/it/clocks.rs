//! A local clock that is wrong, as the chain tells (threat E11).

use std::time::Duration;

use serde_json::json;
use tollhouse::ledger::PaymentState;

use crate::harness::{Call, Plan, Shop, eventually};

/// Sets the chain's clock by so many seconds ahead, which looks from here like a local clock that is behind.
async fn shift(shop: &Shop, secs: i64) {
    shop.node.rpc("evm_increaseTime", json!([secs])).await;
    shop.node.rpc("evm_mine", json!([])).await;
}

#[tokio::test]
async fn while_the_clocks_disagree_nothing_is_claimed_and_what_is_under_way_goes_on() {
    let shop = Shop::open().await;
    let (payment, late) = (shop.payment().await, shop.payment().await);
    let client = shop.present_and_hold(&crate::harness::paid(&payment.v2())).await;
    shift(&shop, 40).await;
    let closed = || async { (shop.call(&Call::get("/api/data")).await.status == 503).then_some(()) };
    eventually("the network to close", Duration::from_secs(20), closed).await;
    let answer = shop.present(&late.v2()).await;
    assert_eq!((answer.status, answer.error().as_str()), (503, "payments_unavailable"), "{answer:?}");
    assert_eq!(shop.rows().await.len(), 1);
    shop.rpc.clear();
    assert_eq!(crate::harness::Answer::read(client).await.unwrap().status, 200);
    shop.wait_state(PaymentState::Served).await;
    assert_eq!(shop.call(&Call::get("/health")).await.status, 200);
    shop.audit().await;
}

#[tokio::test]
async fn a_chain_that_stands_still_is_not_taken_for_a_wrong_clock() {
    let shop = Shop::open().await;
    shop.node.rpc("evm_setIntervalMining", json!([0])).await;
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!(shop.call(&Call::get("/api/data")).await.status, 402);
    shop.node.rpc("evm_setIntervalMining", json!([1])).await;
    shop.buy().await;
    shop.audit().await;
}

/// The library that gives a process another clock.
fn libfaketime() -> String {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1")).find(|path| path.is_file());
    found.expect("libfaketime is needed: apt-get install libfaketime").display().to_string()
}

#[tokio::test]
async fn a_gateway_whose_own_clock_is_an_hour_off_sells_nothing_until_it_is_right() {
    for shift in ["+1h", "-1h"] {
        let limit = format!("export LD_PRELOAD={} FAKETIME={shift} FAKETIME_DONT_FAKE_MONOTONIC=1", libfaketime());
        let mut shop = Shop::build(Plan { limit: Some(limit.leak()), ..Plan::default() }).await;
        shop.start_until("/healthz").await;
        eventually("the network to close", Duration::from_secs(30), || async {
            let answer = shop.call(&Call::get("/api/data")).await;
            let is_told = Call::local("/metrics").send(shop.admin_port).await.is_ok_and(|metrics| {
                let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
                metrics.lines().any(|line| line.contains("skew") && !line.starts_with('#') && !line.ends_with(" 0"))
            });
            (answer.status == 503 && is_told).then_some(())
        })
        .await;
        assert_eq!(shop.call(&Call::get("/health")).await.status, 200);
        shop.restart().await;
        shop.buy().await;
        shop.audit().await;
    }
}
