//! The `payment-identifier` extension (protocol §6): a payer's own name for a purchase, charged once.

use serde_json::{Value, json};
use tollhouse::ledger::PaymentState;

use crate::harness::{Answer, Call, Header, Payer, Payment, Plan, Serve, Shop, Terms, encode, paid};

const NAME: &str = "order_0000000001";

fn plan(rule: &str) -> Plan {
    let table = format!("{{ price = \"$0.01\", payment_identifier = \"{rule}\" }}");
    let routes = format!("\"GET,POST /api/data\" = {table}\n\"GET /api/other\" = {table}\n");
    Plan { routes, ..Plan::default() }
}

/// As a client that knows the extension: the declaration back, with an id in it.
fn named(payment: &Payment, id: &Value) -> Header {
    let mut header = payment.v2_json();
    header["extensions"] = json!({"payment-identifier": {"info": {"required": false, "id": id}}});
    ("PAYMENT-SIGNATURE", encode(&header))
}

fn declaration(answer: &Answer) -> Value {
    crate::harness::decode_header(answer.header("payment-required").unwrap())["extensions"].clone()
}

#[tokio::test]
async fn one_name_is_charged_once_however_many_payments_are_signed_for_it() {
    let mut shop = Shop::open_with(plan("optional")).await;
    let unpaid = shop.call(&Call::get("/api/data")).await;
    assert_eq!(declaration(&unpaid)["payment-identifier"]["info"], json!({"required": false}));
    let terms = Terms::read(&unpaid);
    let name = json!(NAME);
    // The origin fails: the money moved, and the answer is due to whoever comes back under this name.
    shop.origin.then([Serve::Status(500)]);
    assert_eq!(shop.present(&named(&shop.payer.pay(&terms), &name)).await.status, 500);
    shop.wait_state(PaymentState::Paid).await;
    shop.restart().await;
    let terms = shop.terms().await;
    let again = shop.present(&named(&shop.payer.pay(&terms), &name)).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(again.outcome().unwrap()["transaction"], shop.node.transfers().await[0].transaction.as_str());
    shop.wait_state(PaymentState::Served).await;
    let third = shop.present(&named(&shop.payer.pay(&terms), &name)).await;
    assert_eq!((third.status, third.error().as_str()), (402, "payment_already_used"));
    assert_eq!((shop.node.transfers().await.len(), shop.priced_hits(), shop.rows().await.len()), (1, 2, 1));
    // Another name, or none, is another purchase.
    assert_eq!(shop.present(&named(&shop.payer.pay(&terms), &json!("order_0000000002"))).await.status, 200);
    shop.buy().await;
    assert_eq!(shop.node.transfers().await.len(), 3);
    shop.audit().await;
}

#[tokio::test]
async fn one_name_for_two_requests_is_a_conflict_and_another_payers_name_is_its_own() {
    let shop = Shop::open_with(plan("optional")).await;
    let name = json!(NAME);
    assert_eq!(shop.present(&named(&shop.payment().await, &name)).await.status, 200);
    let (header, value) = named(&shop.payment().await, &name);
    for call in [Call::get("/api/data?page=2"), Call::post("/api/data", "body")] {
        let answer = shop.call(&call.with(header, value.clone())).await;
        assert_eq!((answer.status, answer.error().as_str()), (409, "payment_bound_to_other_request"), "{answer:?}");
        assert!(!answer.has_terms());
    }
    let other = Payer::random();
    shop.node.mint(other.address, crate::harness::PRICE).await;
    assert_eq!(shop.present(&named(&other.pay(&shop.terms().await), &name)).await.status, 200);
    assert_eq!(shop.node.transfers().await.len(), 2);
    shop.audit().await;
}

#[tokio::test]
async fn where_a_name_is_required_a_payment_without_one_is_refused_uncharged() {
    let shop = Shop::open_with(plan("required")).await;
    let unpaid = shop.call(&Call::get("/api/data")).await;
    assert_eq!(declaration(&unpaid)["payment-identifier"]["info"], json!({"required": true}));
    let payment = shop.payment().await;
    for header in [payment.v2(), payment.v1(), named(&payment, &Value::Null)] {
        let answer = shop.present(&header).await;
        assert_eq!((answer.status, answer.error().as_str()), (400, "payment_identifier_required"), "{answer:?}");
    }
    for bad in [json!("short"), json!("not allowed: spaces"), json!(7)] {
        let answer = shop.present(&named(&payment, &bad)).await;
        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_payment_identifier"), "{answer:?}");
    }
    shop.assert_untouched().await;
    assert_eq!(shop.present(&named(&payment, &json!(NAME))).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn where_names_are_off_none_is_asked_for_and_none_binds() {
    let shop = Shop::open().await;
    assert_eq!(declaration(&shop.call(&Call::get("/api/data")).await), json!({}));
    for _ in 0..2 {
        assert_eq!(shop.present(&named(&shop.payment().await, &json!(NAME))).await.status, 200);
    }
    assert_eq!(shop.node.transfers().await.len(), 2);
    shop.audit().await;
}

#[tokio::test]
async fn many_payments_under_one_name_at_once_are_one_transfer() {
    let shop = Shop::open_with(plan("optional")).await;
    let terms = shop.terms().await;
    let headers: Vec<_> = (0..40).map(|_| named(&shop.payer.pay(&terms), &json!(NAME))).collect();
    let answers =
        futures::future::join_all(headers.iter().map(|header| async { paid(header).send(shop.port).await.unwrap() }));
    let answers = answers.await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 402 | 409)), "{answers:?}");
    shop.assert_sold_once().await;
    shop.audit().await;
}
