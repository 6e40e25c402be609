//! What is refused before anything is claimed.

use super::*;
use crate::protocol::Reason;

async fn refusal(shop: &Shop, header: &str) -> Reason {
    match shop.present(header).await {
        Decision::Refused { reason, outcome: None } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_payment_that_is_not_what_was_offered_is_refused_and_leaves_no_row() {
    let shop = Shop::open().await;
    let with = |key: &str, value: Value| {
        let mut payload = payment("1", 10_000);
        payload[key] = value;
        v2_header(&payload, 10_000, None)
    };
    assert_eq!(refusal(&shop, &with("value", "9999".into())).await, Reason::EvmValueMismatch);
    assert_eq!(refusal(&shop, &with("value", "10001".into())).await, Reason::EvmValueMismatch);
    assert_eq!(refusal(&shop, &with("payTo", "0xThief".into())).await, Reason::EvmRecipientMismatch);
    assert_eq!(refusal(&shop, &with("until", 999_999.into())).await, Reason::EvmValidBefore);
    assert_eq!(refusal(&shop, &with("signature", "bad".into())).await, Reason::EvmSignature);
    assert_eq!(refusal(&shop, &with("value", "0x2710".into())).await, Reason::InvalidPayload);
    assert_eq!(refusal(&shop, &v2_header(&payment("1", 1), 1, None)).await, Reason::NoMatchingRequirements);
    assert_eq!(refusal(&shop, "garbage").await, Reason::InvalidPayload);
    let v1 = |network: &str, scheme: &str| {
        json!({"x402Version":1,"scheme":scheme,"network":network,"payload":payment("1", 10_000)}).to_string()
    };
    assert_eq!(refusal(&shop, &v1("base", "exact")).await, Reason::NoMatchingRequirements);
    assert_eq!(refusal(&shop, &v1("base-sepolia", "upto")).await, Reason::UnsupportedScheme);
    assert!(shop.states().await.is_empty());
    assert_eq!(shop.chain.settles.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn v1_pays_at_the_price_of_today() {
    let shop = Shop::open().await;
    shop.chain.pays();
    let header = json!({"x402Version":1,"scheme":"exact","network":"base-sepolia","payload":payment("1", 10_000)});
    let paid = receipt(shop.present(&header.to_string()).await);
    assert_eq!(paid.response().network, "base-sepolia", "answered in the payer's own words");
    paid.served();
}

#[tokio::test]
async fn a_quoted_price_holds_until_the_quote_expires() {
    let shop = Shop::open().await;
    shop.chain.pays();
    // The route asks 10000 today; these were quoted when it asked 7000.
    let old = shop.quote(7_000, 60);
    receipt(shop.present(&v2_header(&payment("1", 7_000), 7_000, Some(&old))).await).served();
    let mut late = payment("2", 7_000);
    late["until"] = 2_000_000.into();
    shop.clock.advance(Duration::from_secs(61));
    assert_eq!(refusal(&shop, &v2_header(&late, 7_000, Some(&old))).await, Reason::OfferExpired);
}

#[tokio::test]
async fn a_price_that_nobody_quoted_is_refused() {
    let shop = Shop::open().await;
    let of_another_price = shop.quote(10_000, 60);
    for quote in [None, Some("forged"), Some(of_another_price.as_str())] {
        let header = v2_header(&payment("1", 7_000), 7_000, quote);
        assert_eq!(refusal(&shop, &header).await, Reason::NoMatchingRequirements);
    }
}

#[tokio::test]
async fn two_headers_are_one_payment_if_they_say_the_same_and_a_contradiction_if_not() {
    let shop = Shop::open().await;
    shop.chain.pays();
    let v2 = v2_header(&payment("1", 10_000), 10_000, None);
    let v1 = |nonce: &str| {
        json!({"x402Version":1,"scheme":"exact","network":"base-sepolia","payload":payment(nonce, 10_000)}).to_string()
    };
    let (same, other) = (v1("1"), v1("2"));
    for contradictory in [other.as_str(), "garbage"] {
        let headers = PaymentHeaders { v2: vec![v2.as_bytes()], v1: vec![contradictory.as_bytes()] };
        let Err(decision) = shop.gate.verify(&shop.route, &headers).await else { panic!("verified") };
        assert!(matches!(decision, Decision::Contradiction(_)), "{decision:?}");
    }
    let twice = PaymentHeaders { v2: vec![v2.as_bytes(), v2.as_bytes()], v1: vec![same.as_bytes()] };
    assert!(shop.gate.verify(&shop.route, &twice).await.is_ok());
}
