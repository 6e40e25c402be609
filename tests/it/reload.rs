//! A configuration that changes while the gateway runs (contract §4).

use std::time::Duration;

use tollhouse::ledger::PaymentState;

use crate::harness::{Answer, Call, Plan, Shop, eventually, paid};

/// Asks the operator's listener to read the configuration again.
async fn ask(shop: &Shop) -> Answer {
    let call = Call { host: "127.0.0.1", ..Call::post("/reload", "") };
    call.send(shop.admin_port).await.unwrap()
}

fn reasons(answer: &Answer) -> String {
    assert_eq!((answer.status, answer.error().as_str()), (409, "reload_refused"), "{answer:?}");
    answer.json()["reasons"].to_string()
}

#[tokio::test]
async fn new_prices_are_asked_at_once_and_an_old_price_holds_for_who_was_quoted_it() {
    let mut shop = Shop::open().await;
    let old = shop.terms().await;
    shop.plan.routes = shop.plan.routes.replace("$0.01", "$0.02");
    shop.rewrite_config();
    assert_eq!(ask(&shop).await.status, 200);
    assert_eq!(shop.terms().await.v2["amount"], "20000");
    assert_eq!(shop.present(&shop.payer.pay(&old).v2()).await.status, 200);
    assert_eq!(shop.origin.hits()[0].header("x-payment-amount"), Some("10000"));
    let unquoted = shop.present(&shop.payer.pay(&old).v1()).await;
    assert_eq!(unquoted.error(), "invalid_exact_evm_payload_authorization_value_mismatch");
    shop.buy().await;
    assert_eq!(shop.origin.hits()[1].header("x-payment-amount"), Some("20000"));
    shop.audit().await;
}

#[tokio::test]
async fn a_reload_during_a_settlement_leaves_it_be() {
    let mut shop = Shop::open().await;
    let payment = shop.payment().await;
    let client = shop.present_and_hold(&paid(&payment.v2())).await;
    shop.plan.routes = "\"/health\" = \"free\"\n\"GET,POST /api/data\" = \"$0.03\"\n".to_owned();
    shop.rewrite_config();
    assert_eq!(ask(&shop).await.status, 200);
    shop.rpc.clear();
    assert_eq!(Answer::read(client).await.unwrap().status, 200);
    shop.assert_sold_once().await;
    assert_eq!(shop.call(&Call::get("/api/other")).await.status, 404);
    shop.audit().await;
}

#[tokio::test]
async fn sighup_and_a_changed_file_are_taken_up() {
    let mut shop = Shop::open().await;
    shop.plan.routes.push_str("\"/new\" = \"free\"\n");
    shop.rewrite_config();
    shop.gateway().hang_up();
    let is_there = |path: &'static str| {
        let shop = &shop;
        async move { (shop.call(&Call::get(path)).await.status == 200).then_some(()) }
    };
    eventually("the route of a SIGHUP", Duration::from_secs(1), || is_there("/new")).await;
    shop.plan.routes.push_str("\"/newer\" = \"free\"\n");
    shop.rewrite_config();
    let is_there = |path: &'static str| {
        let shop = &shop;
        async move { (shop.call(&Call::get(path)).await.status == 200).then_some(()) }
    };
    eventually("the route of a changed file", Duration::from_secs(15), || is_there("/newer")).await;
    shop.audit().await;
}

#[tokio::test]
async fn a_bad_configuration_changes_nothing() {
    let mut shop = Shop::open().await;
    let good = shop.plan.routes.clone();
    for (routes, word) in [
        ("\"/health\" = \"fre\"\n".to_owned(), "gateway.toml"),
        (String::new(), "[routes]"),
        (format!("{good}\"/{{x}}\" = \"free\"\n\"/{{*y}}\" = \"free\"\n"), "/{"),
    ] {
        shop.plan.routes = routes;
        shop.rewrite_config();
        let told = reasons(&ask(&shop).await);
        assert!(told.contains(word), "{told}");
        assert!(shop.log().contains("the old one stays"));
        assert_eq!(shop.call(&Call::get("/health")).await.status, 200);
        assert_eq!(shop.terms().await.v2["amount"], "10000");
    }
    // A payee whose key the gateway holds.
    let signer = crate::harness::SIGNER_ADDRESS;
    shop.plan.routes = format!("\"/api/data\" = {{ price = \"$0.01\", pay_to = {{ base-sepolia = \"{signer}\" }} }}\n");
    shop.rewrite_config();
    assert!(reasons(&ask(&shop).await).contains("gas payer"));
    shop.audit().await;
}

#[tokio::test]
async fn what_takes_a_restart_is_refused_and_named() {
    let mut shop = Shop::open().await;
    for (server, word) in [
        ("limits = { connections = 7 }", "server.limits"),
        ("proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]", "server.proxy_protocol"),
    ] {
        shop.plan.server = server.to_owned();
        shop.rewrite_config();
        let told = reasons(&ask(&shop).await);
        assert!(told.contains(word) && told.contains("restart"), "{told}");
        assert_eq!(shop.call(&Call::get("/health")).await.status, 200);
    }
    shop.buy().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_network_that_open_payments_need_cannot_be_dropped_and_one_that_none_needs_can() {
    let plan = Plan { network: "settle_timeout = \"1s\"".to_owned(), ..Plan::default() };
    let mut shop = Shop::open_with(plan).await;
    let payment = shop.payment().await;
    let client = shop.present_and_hold(&paid(&payment.v2())).await;
    assert_eq!(Answer::read(client).await.unwrap().error(), "settlement_pending");
    let routes = std::mem::replace(&mut shop.plan.routes, "\"/health\" = \"free\"\n".to_owned());
    shop.rewrite_config_without_network();
    let told = reasons(&ask(&shop).await);
    assert!(told.contains("1 unfinished payments are on eip155:84532"), "{told}");
    shop.rpc.clear();
    shop.wait_state(PaymentState::Paid).await;
    // Its payer has yet to come for the answer, and nobody else could read the payment then.
    let told = reasons(&ask(&shop).await);
    assert!(told.contains("1 unfinished payments are on eip155:84532"), "{told}");
    assert_eq!(shop.call(&paid(&payment.v2())).await.status, 200);
    shop.wait_state(PaymentState::Served).await;
    assert_eq!(ask(&shop).await.status, 200);
    assert_eq!(shop.call(&Call::get("/api/data")).await.status, 404);
    shop.plan.routes = routes;
    shop.rewrite_config();
    assert_eq!(ask(&shop).await.status, 200);
    eventually("the network is back", Duration::from_secs(20), || async {
        (shop.call(&Call::get("/api/data")).await.status == 402).then_some(())
    })
    .await;
    shop.buy().await;
    shop.audit().await;
}
