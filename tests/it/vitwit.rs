//! The vitwit dialect: payloads as base64 strings, terms in a header of their own, answers in kind (protocol §2.3, §5.1).

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};
use tollhouse::ledger::PaymentState;

use crate::harness::{Call, PAY_TO, Plan, Serve, Shop, Terms, USDC, encode, paid};

#[tokio::test]
async fn a_payload_as_a_base64_string_buys_one_answer_and_is_answered_in_kind() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let answer = shop.present(&payment.vitwit()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let [transfer] = &shop.node.transfers().await[..] else { panic!("not one transfer") };
    let receipt = answer.outcome().unwrap();
    let transaction = transfer.transaction.as_str();
    for (key, expected) in [
        ("success", json!(true)),
        ("status", json!("success")),
        ("transaction", json!(transaction)),
        ("transactionHash", json!(transaction)),
        ("network", json!("base-sepolia")),
    ] {
        assert_eq!(receipt[key], expected, "{key}");
    }
    shop.assert_sold_once().await;
    // In whatever words it comes again, it is the same payment.
    for header in [payment.vitwit(), payment.v1(), payment.v2()] {
        let again = shop.present(&header).await;
        Terms::read(&again);
        assert_eq!(again.error(), "payment_already_used");
    }
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn official_clients_are_told_nothing_of_the_dialect() {
    let shop = Shop::open().await;
    for header in [shop.payment().await.v1(), shop.payment().await.v2()] {
        let receipt = shop.present(&header).await.outcome().unwrap();
        assert!(receipt.get("status").is_none() && receipt.get("transactionHash").is_none(), "{receipt}");
    }
    shop.audit().await;
}

#[tokio::test]
async fn the_dialects_terms_are_shown_where_the_operator_says_so_and_nowhere_else() {
    let routes = "\"GET /api/data\" = { price = \"$0.01\", dialects = [\"x402\", \"vitwit\"] }\n\
                  \"GET /api/other\" = \"$0.01\"\n";
    let shop = Shop::open_with(Plan { routes: routes.to_owned(), ..Plan::default() }).await;
    let answer = shop.call(&Call::get("/api/data")).await;
    let terms: Value = serde_json::from_str(answer.header("x-payment-requirements").unwrap()).unwrap();
    assert_eq!(
        (&terms["x402Version"], &terms["scheme"], &terms["network"], &terms["maxAmountRequired"]),
        (&json!(1), &json!("exact"), &json!("base-sepolia"), &json!("10000"))
    );
    assert_eq!((&terms["payTo"], &terms["asset"]), (&json!(PAY_TO.to_string()), &json!(USDC.to_string())));
    Terms::read(&answer);
    assert_eq!(shop.call(&Call::get("/api/other")).await.header("x-payment-requirements"), None);
    shop.audit().await;
}

#[tokio::test]
async fn the_server_can_speak_the_dialect_on_every_route_and_a_route_can_decline() {
    let routes = "\"GET /api/data\" = { price = \"$0.01\", dialects = [\"x402\"] }\n\"GET /api/other\" = \"$0.01\"\n";
    let server = "dialects = [\"x402\", \"vitwit\"]".to_owned();
    let shop = Shop::open_with(Plan { routes: routes.to_owned(), server, ..Plan::default() }).await;
    assert_eq!(shop.call(&Call::get("/api/data")).await.header("x-payment-requirements"), None);
    assert!(shop.call(&Call::get("/api/other")).await.header("x-payment-requirements").is_some());
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_in_the_dialect_is_presented_again_from_the_same_address_only() {
    let shop = Shop::open().await;
    shop.origin.then([Serve::Status(500)]);
    let payment = shop.payment().await;
    assert_eq!(shop.present(&payment.vitwit()).await.status, 500);
    shop.wait_state(PaymentState::Paid).await;
    let mut elsewhere = paid(&payment.vitwit());
    elsewhere.from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let answer = shop.call(&elsewhere).await;
    assert_eq!((answer.status, answer.error().as_str()), (409, "payment_bound_to_other_request"));
    let answer = shop.present(&payment.vitwit()).await;
    assert_eq!((answer.status, &answer.outcome().unwrap()["status"]), (200, &json!("success")));
    assert_eq!(shop.node.transfers().await.len(), 1);
    shop.audit().await;
}

#[tokio::test]
async fn a_string_that_holds_no_payment_costs_no_call() {
    let shop = Shop::open().await;
    let asked = shop.rpc.count("eth_call");
    let payment = shop.payment().await;
    for payload in
        [json!(""), json!("AAAA"), json!("%%%"), json!(encode(&json!({}))), json!(encode(&json!({"signature": 5})))]
    {
        let mut changed = payment.vitwit_json();
        changed["payload"] = payload;
        let answer = shop.present(&("X-PAYMENT", encode(&changed))).await;
        assert_eq!((answer.status, answer.error().as_str()), (402, "invalid_payload"), "{changed}");
    }
    assert_eq!(shop.rpc.count("eth_call"), asked);
    shop.assert_untouched().await;
    shop.audit().await;
}
