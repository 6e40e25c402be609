//! Payment headers that are malformed, too large, doubled or in contradiction.

use serde_json::{Value, json};

use crate::harness::{Call, Shop, Terms, encode, paid};

#[tokio::test]
async fn malformed_payment_headers_get_terms_and_cost_nothing() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let twice = payment.v2_json().to_string().replacen("\"x402Version\":2", "\"x402Version\":2,\"x402Version\":2", 1);
    let deep = format!("{{\"x402Version\":2,\"payload\":{}1{}}}", "[".repeat(9000), "]".repeat(9000));
    let without = |field: &str| {
        let mut json = payment.v2_json();
        json.as_object_mut().unwrap().remove(field);
        encode(&json)
    };
    let version = |version: Value| {
        let mut json = payment.v2_json();
        json["x402Version"] = version;
        encode(&json)
    };
    let scheme = {
        let mut payment = payment.accepting("scheme", json!("upto"));
        payment.terms.v1["scheme"] = json!("upto");
        payment.v2().1
    };
    let cases = [
        ("empty", String::new(), "invalid_payload"),
        ("no base64", "%%%".to_owned(), "invalid_payload"),
        ("no JSON", "bm90IGpzb24=".to_owned(), "invalid_payload"),
        ("an array", encode(&json!([1])), "invalid_payload"),
        ("an empty object", encode(&json!({})), "invalid_payload"),
        ("a key twice", twice, "invalid_payload"),
        ("deep", deep, "invalid_payload"),
        ("half", payment.v2().1[..200].to_owned(), "invalid_payload"),
        ("two in one", format!("{}, {}", payment.v2().1, payment.v2().1), "invalid_payload"),
        ("no payload", without("payload"), "invalid_payload"),
        ("nothing accepted", without("accepted"), "invalid_payload"),
        ("no authorization", encode(&payment.with("signature", json!(null)).v2_json()), "invalid_payload"),
        ("version 3", version(json!(3)), "invalid_x402_version"),
        ("version in words", version(json!("two")), "invalid_x402_version"),
        ("another scheme", scheme, "unsupported_scheme"),
    ];
    let calls = shop.rpc.payment_calls();
    for (what, value, reason) in cases {
        let answer = shop.present(&("PAYMENT-SIGNATURE", value)).await;
        Terms::read(&answer);
        assert_eq!(answer.error(), reason, "{what}");
        assert!(answer.outcome().is_none(), "{what}");
    }
    assert_eq!(shop.rpc.payment_calls(), calls);
    shop.assert_untouched().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_header_of_nearly_32_kib_is_taken() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let mut json = payment.v2_json();
    json["extensions"] = json!({"padding": "x".repeat(22_000)});
    let value = encode(&json);
    assert!((30_000..32_000).contains(&value.len()), "{}", value.len());
    assert_eq!(shop.present(&("PAYMENT-SIGNATURE", value)).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_header_over_32_kib_is_refused_unread() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    for padding in [26_000, 60_000, 700_000] {
        let mut json = payment.v2_json();
        json["extensions"] = json!({"padding": "x".repeat(padding)});
        let answer = shop.present(&("PAYMENT-SIGNATURE", encode(&json))).await;
        assert_eq!((answer.status, answer.error().as_str()), (431, "head_too_large"), "{padding}");
    }
    shop.assert_untouched().await;
    shop.audit().await;
}

#[tokio::test]
async fn one_payment_in_both_headers_is_one_payment() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let (name, value) = payment.v1();
    assert_eq!(shop.call(&paid(&payment.v2()).with(name, value)).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn one_payment_twice_in_one_request_is_one_payment() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let (name, value) = payment.v2();
    assert_eq!(shop.call(&paid(&payment.v2()).with(name, value)).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn contradictory_payment_headers_are_refused_and_cost_nothing() {
    let shop = Shop::open().await;
    let (one, other) = (shop.payment().await, shop.payment().await);
    let calls = shop.rpc.payment_calls();
    let garbage = ("X-PAYMENT", "bm90IGpzb24=".to_owned());
    let cases = [
        ("two v2", one.v2(), other.v2()),
        ("v2 and another v1", one.v2(), other.v1()),
        ("v1 and another v2", one.v1(), other.v2()),
        ("v2 and garbage", one.v2(), garbage),
        ("one field differs", one.v2(), one.with("value", json!("1")).v1()),
        ("the signature differs", one.v2(), one.with("signature", other.payload["signature"].clone()).v1()),
    ];
    for (what, first, second) in cases {
        let answer = shop.call(&paid(&first).with(second.0, second.1)).await;
        assert_eq!((answer.status, answer.error().as_str()), (400, "contradictory_payment_headers"), "{what}");
        assert!(!answer.has_terms(), "{what}");
    }
    assert_eq!(shop.rpc.payment_calls(), calls);
    shop.assert_untouched().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_payment_elsewhere_than_in_its_header_is_no_payment() {
    let shop = Shop::open().await;
    let payment = shop.payment().await.v2().1;
    let cases = [
        Call::get(&format!("/api/data?payment-signature={payment}")),
        Call::get("/api/data").with("Cookie", format!("payment-signature={payment}")),
        Call::get("/api/data").with("X-Payment-Transaction", "0x1").with("X-Payment-Payer", "me"),
    ];
    for call in cases {
        Terms::read(&shop.call(&call).await);
    }
    shop.assert_untouched().await;
    shop.audit().await;
}
