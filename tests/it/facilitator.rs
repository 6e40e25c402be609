//! The facilitator API: other resource servers' payments go through the same gate, and what is settled there is spent.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use tollhouse::ledger::PaymentState;

use crate::harness::{
    Answer, Call, Fault, PAY_TO, PRICE, Payment, Plan, SIGNER_ADDRESS, Shop, Terms, USDC, encode, eventually,
};

fn plan() -> Plan {
    Plan { is_facilitator: true, network: "settle_timeout = \"3s\"".to_owned(), ..Plan::default() }
}

fn v2(payment: &Payment) -> Value {
    json!({"x402Version": 2, "paymentPayload": payment.v2_json(), "paymentRequirements": payment.terms.v2})
}

fn v1(payment: &Payment) -> Value {
    json!({"x402Version": 1, "paymentPayload": payment.v1_json(), "paymentRequirements": payment.terms.v1})
}

fn call(path: &str, body: &Value) -> Call {
    let call = Call::post(path, body.to_string()).with("Content-Type", "application/json");
    Call { host: "127.0.0.1", ..call }
}

async fn ask(shop: &Shop, path: &str, body: &Value) -> Answer {
    call(path, body).send(shop.facilitator_port).await.unwrap()
}

async fn verify(shop: &Shop, body: &Value) -> Value {
    let answer = ask(shop, "/verify", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn settle(shop: &Shop, body: &Value) -> Value {
    let answer = ask(shop, "/settle", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Settles until there is an outcome, as official servers do when they are told that there is none yet.
async fn settle_until_decided(shop: &Shop, body: &Value) -> Value {
    eventually("an outcome", Duration::from_secs(40), || async {
        let answer = ask(shop, "/settle", body).await;
        let outcome = answer.json();
        let is_undecided = answer.status == 503 || outcome["errorReason"] == "settlement_pending";
        (!is_undecided).then_some(outcome)
    })
    .await
}

/// One transfer, told of once, and spent here and at the proxy.
async fn assert_cleared_once(shop: &Shop, payment: &Payment) {
    let [transfer] = &shop.node.transfers().await[..] else { panic!("not one transfer") };
    let [row] = &shop.rows().await[..] else { panic!("not one row") };
    assert_eq!((row.state, row.claim.route.as_str()), (PaymentState::Served, "facilitator"));
    let again = settle(shop, &v2(payment)).await;
    assert_eq!(
        (&again["success"], &again["errorReason"], &again["transaction"]),
        (&json!(false), &json!("duplicate_settlement"), &json!(transfer.transaction))
    );
    assert_eq!(verify(shop, &v2(payment)).await["isValid"], false);
    let answer = shop.present(&payment.v2()).await;
    Terms::read(&answer);
    assert_eq!(answer.error(), "payment_already_used");
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits()), (1, 0));
}

#[tokio::test]
async fn a_payment_is_verified_settled_and_spent() {
    let shop = Shop::open_with(plan()).await;
    let payment = shop.payment().await;
    let verdict = verify(&shop, &v2(&payment)).await;
    assert_eq!(verdict, json!({"isValid": true, "payer": shop.payer.address.to_string()}));
    assert_eq!((shop.rows().await.len(), shop.rpc.count("eth_sendRawTransaction")), (0, 0), "verifying claims nothing");
    let outcome = settle(&shop, &v2(&payment)).await;
    let [transfer] = &shop.node.transfers().await[..] else { panic!("not one transfer") };
    assert_eq!(
        outcome,
        json!({"success": true, "payer": shop.payer.address.to_string(), "transaction": transfer.transaction,
            "network": "eip155:84532", "amount": PRICE.to_string()})
    );
    assert_eq!((transfer.from, transfer.nonce), (shop.payer.address, payment.nonce));
    assert_eq!(shop.node.balance(PAY_TO).await, PRICE);
    assert_cleared_once(&shop, &payment).await;
    shop.audit().await;
}

#[tokio::test]
async fn version_one_and_vitwit_are_answered_in_their_own_words() {
    let shop = Shop::open_with(plan()).await;
    let payment = shop.payment().await;
    assert_eq!(verify(&shop, &v1(&payment)).await["isValid"], true);
    let outcome = settle(&shop, &v1(&payment)).await;
    assert_eq!((&outcome["success"], &outcome["network"]), (&json!(true), &json!("base-sepolia")));

    let payment = shop.payment().await;
    let mut body = v1(&payment);
    body["paymentPayload"] = payment.vitwit_json();
    body["network"] = "base-sepolia".into();
    let verdict = ask(&shop, "/api/v1/verify", &body).await.json();
    assert_eq!((&verdict["isValid"], &verdict["InvalidReason"]), (&json!(true), &json!("")));
    assert_eq!(verdict["sender"], shop.payer.address.to_string());
    let outcome = ask(&shop, "/api/v1/settle", &body).await.json();
    let transfers = shop.node.transfers().await;
    assert_eq!((&outcome["success"], &outcome["networkId"]), (&json!(true), &json!("base-sepolia")));
    assert_eq!(outcome["txHash"], transfers.last().unwrap().transaction);
    assert_eq!((&outcome["asset"], &outcome["amount"]), (&json!(USDC.to_string()), &json!(PRICE.to_string())));
    assert!(outcome["block"].is_u64(), "{outcome}");
    let again = ask(&shop, "/api/v1/settle", &body).await.json();
    assert_eq!((&again["success"], &again["error"]), (&json!(false), &json!("SETTLEMENT_FAILED")));
    assert_eq!(again["extra"]["reason"], "duplicate_settlement");
    assert_eq!(shop.node.transfers().await.len(), 2);
    shop.audit().await;
}

#[tokio::test]
async fn what_is_supported_is_what_is_configured() {
    let shop = Shop::open_with(plan()).await;
    let supported = Call::local("/supported").send(shop.facilitator_port).await.unwrap();
    assert_eq!(
        supported.json(),
        json!({
            "kinds": [
                {"x402Version": 2, "scheme": "exact", "network": "eip155:84532"},
                {"x402Version": 1, "scheme": "exact", "network": "base-sepolia"},
            ],
            "extensions": [],
            "signers": {"eip155:*": [SIGNER_ADDRESS.to_string()]},
        })
    );
    shop.audit().await;
}

#[tokio::test]
async fn a_hundred_settlements_of_one_payment_move_money_once_and_succeed_once() {
    let shop = Shop::open_with(plan()).await;
    let payment = shop.payment().await;
    let body = v2(&payment);
    let outcomes = join_all((0..100).map(|_| settle(&shop, &body))).await;
    let successes = outcomes.iter().filter(|outcome| outcome["success"] == true).count();
    assert_eq!(successes, 1, "{outcomes:?}");
    for outcome in outcomes.iter().filter(|outcome| outcome["success"] == false) {
        let reason = outcome["errorReason"].as_str().unwrap();
        assert!(["settlement_pending", "duplicate_settlement"].contains(&reason), "{outcome}");
    }
    assert_cleared_once(&shop, &payment).await;
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_that_bought_something_at_the_proxy_is_not_settled_for_anybody_else() {
    let shop = Shop::open_with(plan()).await;
    let payment = shop.buy().await;
    shop.wait_state(PaymentState::Served).await;
    let verdict = verify(&shop, &v2(&payment)).await;
    assert_eq!((&verdict["isValid"], &verdict["invalidReason"]), (&json!(false), &json!("payment_already_used")));
    let outcome = settle(&shop, &v2(&payment)).await;
    assert_eq!((&outcome["success"], &outcome["errorReason"]), (&json!(false), &json!("payment_already_used")));
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_that_is_under_way_at_the_proxy_is_not_settled_for_anybody_else() {
    let shop = Shop::open_with(plan()).await;
    let payment = shop.payment().await;
    let (name, value) = payment.v2();
    let client = shop.present_and_hold(&Call::get("/api/data").with(name, value)).await;
    let outcome = settle(&shop, &v2(&payment)).await;
    assert_eq!(
        (&outcome["success"], &outcome["errorReason"]),
        (&json!(false), &json!("payment_bound_to_other_request"))
    );
    assert_eq!(verify(&shop, &v2(&payment)).await["invalidReason"], "payment_bound_to_other_request");
    shop.rpc.clear();
    drop(client);
    assert_eq!(shop.present_until_decided(&payment.v2()).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_that_is_being_settled_here_buys_nothing_at_the_proxy() {
    let shop = Shop::open_with(plan()).await;
    let payment = shop.payment().await;
    shop.rpc.set("eth_sendRawTransaction", Fault::Hold);
    let pending = settle(&shop, &v2(&payment)).await;
    let [row] = &shop.rows().await[..] else { panic!("not one row") };
    assert_eq!(
        (&pending["success"], &pending["errorReason"], &pending["transaction"]),
        (&json!(false), &json!("settlement_pending"), &json!(row.attempts[0].signed.transaction))
    );
    let answer = shop.present(&payment.v2()).await;
    assert_eq!((answer.status, answer.error().as_str()), (409, "payment_bound_to_other_request"));
    assert!(!answer.has_terms());
    assert_eq!(verify(&shop, &v2(&payment)).await["isValid"], true, "its own server may ask for the outcome");
    shop.rpc.clear();
    assert_eq!(settle_until_decided(&shop, &v2(&payment)).await["success"], true);
    assert_cleared_once(&shop, &payment).await;
    shop.audit().await;
}

#[tokio::test]
async fn lost_answers_of_the_node_leave_the_outcome_pending_and_then_the_same() {
    let shop = Shop::open_with(plan()).await;
    let payment = shop.payment().await;
    shop.rpc.set("eth_sendRawTransaction", Fault::LoseAnswer);
    shop.rpc.set("eth_getTransactionReceipt", Fault::LoseAnswer);
    let pending = settle(&shop, &v2(&payment)).await;
    assert_eq!((&pending["success"], &pending["errorReason"]), (&json!(false), &json!("settlement_pending")));
    shop.rpc.clear();
    let outcome = settle_until_decided(&shop, &v2(&payment)).await;
    assert_eq!((&outcome["success"], &outcome["transaction"]), (&json!(true), &pending["transaction"]));
    assert_cleared_once(&shop, &payment).await;
    shop.audit().await;
}

#[tokio::test]
async fn a_pending_settlement_answers_to_no_other_price() {
    let shop = Shop::open_with(plan()).await;
    let payment = shop.payment().await;
    shop.rpc.set("eth_sendRawTransaction", Fault::Hold);
    assert_eq!(settle(&shop, &v2(&payment)).await["errorReason"], "settlement_pending");
    shop.rpc.clear();
    shop.wait_state(PaymentState::Paid).await;
    // The money of a cent is there; a server that asks a dollar must not be told that it was paid.
    let mut dearer = v2(&payment);
    dearer["paymentRequirements"]["amount"] = "1000000".into();
    assert_eq!(verify(&shop, &dearer).await["isValid"], false);
    assert_eq!(settle(&shop, &dearer).await["errorReason"], "payment_bound_to_other_request");
    assert_eq!(settle(&shop, &v2(&payment)).await["success"], true);
    assert_cleared_once(&shop, &payment).await;
    shop.audit().await;
}

#[tokio::test]
async fn terms_that_the_configuration_does_not_name_are_refused_without_a_call() {
    let shop = Shop::open_with(plan()).await;
    let payment = shop.payment().await;
    let asked = shop.rpc.count("eth_call");
    for (field, value, reason) in [
        ("payTo", json!(shop.payer.address.to_string()), "invalid_payment_requirements"),
        ("asset", json!(PAY_TO.to_string()), "invalid_payment_requirements"),
        ("network", json!("eip155:8453"), "invalid_network"),
        ("network", json!("mars"), "invalid_network"),
        ("scheme", json!("upto"), "unsupported_scheme"),
        ("amount", json!("0"), "invalid_payment_requirements"),
        ("amount", json!("100000001"), "invalid_payment_requirements"),
        ("amount", json!("010"), "invalid_payment_requirements"),
        ("amount", json!("10001"), "invalid_exact_evm_payload_authorization_value_mismatch"),
    ] {
        let mut body = v2(&payment);
        body["paymentRequirements"][field] = value.clone();
        let verdict = ask(&shop, "/verify", &body).await.json();
        assert_eq!(
            (&verdict["isValid"], &verdict["invalidReason"]),
            (&json!(false), &json!(reason)),
            "{field} {value}"
        );
        let outcome = ask(&shop, "/settle", &body).await.json();
        assert_eq!((&outcome["success"], &outcome["errorReason"]), (&json!(false), &json!(reason)), "{field} {value}");
        assert_eq!(outcome["transaction"], "");
    }
    assert_eq!(shop.rpc.count("eth_call"), asked);
    shop.assert_untouched().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_domain_that_the_caller_makes_up_is_not_ours_and_a_forged_signature_settles_nothing() {
    let shop = Shop::open_with(plan()).await;
    let mut terms = shop.terms().await;
    terms.v2["extra"]["name"] = "Other".into();
    let payment = shop.payer.pay(&terms);
    assert_eq!(verify(&shop, &v2(&payment)).await["invalidReason"], "invalid_exact_evm_signature");
    assert_eq!(settle(&shop, &v2(&payment)).await["errorReason"], "invalid_exact_evm_signature");
    shop.assert_untouched().await;
    shop.audit().await;
}

#[tokio::test]
async fn what_is_no_request_is_refused_before_anything_is_asked() {
    let shop = Shop::open_with(plan()).await;
    let payment = shop.payment().await;
    let port = shop.facilitator_port;
    let mut nested = v2(&payment);
    for _ in 0..20 {
        nested = json!({ "x402Version": nested });
    }
    for (body, status) in [
        (String::new(), 400),
        ("[]".to_owned(), 400),
        ("{\"x402Version\":2,\"x402Version\":2}".to_owned(), 400),
        (nested.to_string(), 400),
        (encode(&v2(&payment)), 400),
        (format!("{{\"x402Version\":2,\"pad\":\"{}\"}}", "x".repeat(65 * 1024)), 413),
    ] {
        let call = Call { host: "127.0.0.1", ..Call::post("/settle", body.as_str()) };
        let answer = call.with("Content-Type", "application/json").send(port).await.unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
    }
    assert_eq!(Call::local("/settle").send(port).await.unwrap().status, 405);
    assert_eq!(Call::local("/").send(port).await.unwrap().status, 404);
    assert_eq!(Call { host: "shop.test", ..call("/settle", &v2(&payment)) }.send(port).await.unwrap().status, 403);
    let plain = Call { host: "127.0.0.1", ..Call::post("/settle", v2(&payment).to_string()) };
    assert_eq!(plain.send(port).await.unwrap().status, 415);
    shop.assert_untouched().await;
    shop.audit().await;
}

#[tokio::test]
async fn without_its_section_nothing_of_it_is_there() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    assert!(call("/settle", &v2(&payment)).send(shop.facilitator_port).await.is_err(), "nobody listens");
    assert_eq!(call("/settle", &v2(&payment)).send(shop.port).await.unwrap().status, 404);
    assert_eq!(call("/settle", &v2(&payment)).send(shop.admin_port).await.unwrap().status, 404);
    shop.assert_untouched().await;
    shop.audit().await;
}

/// Killed at this point while it settles; the next run gives the same outcome once, and nothing at the proxy meanwhile.
async fn killed_at(point: &str, left: Option<PaymentState>) {
    let mut shop = Shop::open_with(Plan { failpoints: format!("{point}=return"), ..plan() }).await;
    let payment = shop.payment().await;
    let _lost = call("/settle", &v2(&payment)).send(shop.facilitator_port).await;
    assert!(!shop.gateway().wait_end().await.success());
    assert_eq!(shop.rows().await.first().map(|row| row.state), left, "{point}");
    shop.restart().await;
    if left.is_some() {
        let answer = shop.present(&payment.v2()).await;
        assert_eq!((answer.status, answer.error().as_str()), (409, "payment_bound_to_other_request"), "{point}");
    }
    let outcome = settle_until_decided(&shop, &v2(&payment)).await;
    assert_eq!(outcome["success"], true, "{point}: {outcome}");
    assert_cleared_once(&shop, &payment).await;
    shop.audit().await;
}

#[tokio::test]
async fn killed_before_the_claim_nothing_happened() {
    killed_at("post_verify", None).await;
}

#[tokio::test]
async fn killed_after_the_claim_the_next_run_settles() {
    killed_at("post_w1_pre_send", Some(PaymentState::Signed)).await;
}

#[tokio::test]
async fn killed_after_the_send_the_next_run_finds_the_transfer() {
    killed_at("post_send", Some(PaymentState::Signed)).await;
}

#[tokio::test]
async fn killed_before_the_record_the_next_run_finds_the_transfer() {
    killed_at("post_confirm_pre_w2", Some(PaymentState::Signed)).await;
}

#[tokio::test]
async fn killed_after_the_record_the_outcome_is_still_told() {
    killed_at("post_w2", Some(PaymentState::Delivering)).await;
}

#[tokio::test]
async fn killed_before_it_is_written_that_it_was_told_it_is_told_by_the_next_run() {
    killed_at("pre_w3", Some(PaymentState::Delivering)).await;
}

#[tokio::test]
async fn a_reload_changes_whom_is_settled_to() {
    let mut shop = Shop::open_with(plan()).await;
    let other = "0x00000000000000000000000000000000000000A1";
    let mut terms = shop.terms().await;
    for terms in [&mut terms.v1, &mut terms.v2] {
        terms["payTo"] = other.into();
    }
    let body = v2(&shop.payer.pay(&terms));
    let named = format!("\"/other\" = {{ price = \"$0.01\", pay_to = {{ base-sepolia = \"{other}\" }} }}\n");
    let routes = shop.plan.routes.clone();
    for (routes, is_valid) in [(routes.clone(), false), (routes.clone() + &named, true), (routes, false)] {
        shop.plan.routes = routes;
        shop.rewrite_config();
        let reload = Call { host: "127.0.0.1", ..Call::post("/reload", "") };
        assert_eq!(reload.send(shop.admin_port).await.unwrap().status, 200);
        let verdict = verify(&shop, &body).await;
        assert_eq!(verdict["isValid"], is_valid, "{verdict}");
    }
    shop.plan.is_facilitator = false;
    shop.rewrite_config();
    let reload = Call { host: "127.0.0.1", ..Call::post("/reload", "") };
    let refused = reload.send(shop.admin_port).await.unwrap();
    assert!(refused.json()["reasons"].to_string().contains("facilitator.listen"), "{refused:?}");
    shop.audit().await;
}
