//! Payments that are not what was offered, or not their payer's.

use std::time::Duration;

use alloy::primitives::{Address, U256, uint};
use serde_json::{Value, json};
use tollhouse::types::{Clock, SystemClock};

use crate::harness::{Draft, Payer, Payment, Shop, Terms, USDC, domain};

/// The order of secp256k1.
const ORDER: U256 = uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);

/// Presents payments that must be refused, each with its reason, without asking the chain anything.
async fn refuse(shop: &Shop, cases: Vec<(&str, (&'static str, String), &str)>) {
    let calls = shop.rpc.payment_calls();
    for (what, header, reason) in cases {
        let answer = shop.present(&header).await;
        Terms::read(&answer);
        assert_eq!(answer.error(), reason, "{what}");
        assert!(answer.outcome().is_none(), "{what}");
    }
    assert_eq!(shop.rpc.payment_calls(), calls, "the chain was asked");
    shop.assert_untouched().await;
}

#[tokio::test]
async fn a_payment_for_other_terms_than_the_offered_is_refused() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let no_match = "no_matching_payment_requirements";
    let v1 = |network: &str| {
        let mut payment = payment.clone();
        payment.terms.v1["network"] = json!(network);
        payment.v1()
    };
    let accepting = |field: &str, value: Value| payment.accepting(field, value).v2();
    let mut other_domain = payment.terms.v2["extra"].clone();
    other_domain["name"] = json!("USD Coin");
    refuse(
        &shop,
        vec![
            ("network, v2", accepting("network", json!("eip155:8453")), no_match),
            ("unknown network, v2", accepting("network", json!("nowhere")), "invalid_network"),
            ("network, v1", v1("base"), no_match),
            ("unknown network, v1", v1("nowhere"), "invalid_network"),
            ("asset", accepting("asset", json!("0x808456652fdb597867f38412077A9182bf77359F")), no_match),
            ("recipient", accepting("payTo", json!(shop.payer.address)), no_match),
            ("cheaper", accepting("amount", json!("1")), no_match),
            ("dearer", accepting("amount", json!("10001")), no_match),
            ("longer", accepting("maxTimeoutSeconds", json!(86_400)), no_match),
            ("domain", accepting("extra", other_domain), no_match),
        ],
    )
    .await;
    shop.audit().await;
}

#[tokio::test]
async fn an_authorization_of_other_recipient_amount_or_window_is_refused() {
    let shop = Shop::open().await;
    let terms = shop.terms().await;
    let signed = |change: &dyn Fn(&mut Draft)| {
        let mut draft = shop.payer.draft(&terms);
        change(&mut draft);
        shop.payer.sign(&terms, &draft)
    };
    let at = |offset: i64| U256::from(i64::try_from(SystemClock.now().as_secs()).unwrap() + offset);
    let (value, recipient) =
        ("invalid_exact_evm_payload_authorization_value_mismatch", "invalid_exact_evm_recipient_mismatch");
    let (before, after, window) = (
        "invalid_exact_evm_payload_authorization_valid_before",
        "invalid_exact_evm_payload_authorization_valid_after",
        "invalid_exact_evm_payload_authorization_window_too_long",
    );
    let cases: Vec<(&str, Payment, &str)> = vec![
        ("recipient", signed(&|draft| draft.authorization.to = draft.authorization.from), recipient),
        ("nobody", signed(&|draft| draft.authorization.to = Address::ZERO), recipient),
        ("one too little", signed(&|draft| draft.authorization.value -= U256::ONE), value),
        ("one too much", signed(&|draft| draft.authorization.value += U256::ONE), value),
        ("nothing", signed(&|draft| draft.authorization.value = U256::ZERO), value),
        ("everything", signed(&|draft| draft.authorization.value = U256::MAX), value),
        ("expired", signed(&|draft| draft.authorization.validBefore = at(-1)), before),
        ("never valid", signed(&|draft| draft.authorization.validBefore = U256::ZERO), before),
        ("ends too soon", signed(&|draft| draft.authorization.validBefore = at(3)), before),
        ("valid for years", signed(&|draft| draft.authorization.validBefore = at(90_000_000)), window),
        ("valid for ever", signed(&|draft| draft.authorization.validBefore = U256::MAX), window),
        ("not valid yet", signed(&|draft| draft.authorization.validAfter = at(30)), after),
    ];
    let in_both = cases
        .iter()
        .flat_map(|(what, payment, reason)| [(*what, payment.v2(), *reason), (*what, payment.v1(), *reason)]);
    refuse(&shop, in_both.collect()).await;
    shop.audit().await;
}

#[tokio::test]
async fn amounts_in_hex_or_with_spaces_are_refused() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let mut cases = Vec::new();
    let odd =
        ["0x2710", " 10000", "10000 ", "+10000", "1e4", "010000", "-10000", "10000.0", "10_000", "１００００", ""];
    let too_large = format!("1{}", "0".repeat(80));
    for text in odd.into_iter().chain([too_large.as_str()]) {
        cases.push((text, payment.with("value", json!(text)).v2(), "invalid_payload"));
        cases.push((text, payment.accepting("amount", json!(text)).v2(), "invalid_payload"));
    }
    for (what, value) in [("float", json!(10000.0)), ("list", json!(["10000"])), ("none", json!(null))] {
        cases.push((what, payment.with("value", value.clone()).v2(), "invalid_payload"));
        cases.push((what, payment.accepting("amount", value).v2(), "invalid_payload"));
    }
    for field in ["validAfter", "validBefore"] {
        for text in ["0x0", " 0", "-1", "1e9"] {
            cases.push((text, payment.with(field, json!(text)).v2(), "invalid_payload"));
        }
    }
    refuse(&shop, cases).await;
    shop.audit().await;
}

#[tokio::test]
async fn signatures_with_high_s_or_bad_v_are_refused() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let bytes = payment.signature();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        payment.with("signature", json!(alloy::hex::encode_prefixed(bytes))).v2()
    };
    let form = "invalid_exact_evm_failed_to_parse_signature";
    let high_s = |bytes: &mut Vec<u8>| {
        let s = ORDER - U256::from_be_slice(&bytes[32..64]);
        bytes[32..64].copy_from_slice(&s.to_be_bytes::<32>());
        bytes[64] = 55 - bytes[64];
    };
    let mut cases = vec![
        ("high s", changed(&high_s), form),
        ("no r", changed(&|bytes| bytes[..32].fill(0)), form),
        ("no s", changed(&|bytes| bytes[32..64].fill(0)), form),
        ("nothing", changed(&Vec::clear), form),
        ("no hex", payment.with("signature", json!("0xzz")).v2(), form),
        ("too long", changed(&|bytes| bytes.resize(9000, 7)), form),
    ];
    for v in [2, 26, 29, 37, 255] {
        cases.push(("bad v", changed(&|bytes| bytes[64] = v), form));
    }
    refuse(&shop, cases).await;
    shop.audit().await;
}

#[tokio::test]
async fn a_signature_that_is_not_the_payers_is_refused_after_one_look_at_its_code_at_most() {
    let shop = Shop::open().await;
    let terms = shop.terms().await;
    let draft = shop.payer.draft(&terms);
    let honest = shop.payer.sign(&terms, &draft);
    let under = |name: &str, version: &str, chain_id: u64, token: Address| {
        let draft = Draft { domain: domain(name, version, chain_id, token), ..draft.clone() };
        shop.payer.sign(&terms, &draft)
    };
    let thief = Payer::random();
    let (signature, short) = ("invalid_exact_evm_signature", "invalid_exact_evm_payload_undeployed_smart_wallet");
    let cut = |length: usize| json!(alloy::hex::encode_prefixed(&honest.signature()[..length]));
    let cases = [
        ("name of the domain", under("USD Coin", "2", 84_532, USDC), signature),
        ("version of the domain", under("USDC", "1", 84_532, USDC), signature),
        ("chain of the domain", under("USDC", "2", 8453, USDC), signature),
        ("token of the domain", under("USDC", "2", 84_532, Address::repeat_byte(7)), signature),
        ("somebody else", thief.signing_for(shop.payer.address).sign(&terms, &draft), signature),
        ("another nonce", honest.with("nonce", json!(format!("0x{}", "77".repeat(32)))), signature),
        ("another window", honest.with("validAfter", json!("1")), signature),
        ("a byte too few", honest.with("signature", cut(63)), short),
    ];
    for (what, payment, reason) in cases {
        let answer = shop.present(&payment.v2()).await;
        Terms::read(&answer);
        assert_eq!(answer.error(), reason, "{what}");
    }
    assert!(shop.rpc.count("eth_getCode") <= 2, "once at the start for the token, once for the payer");
    assert_eq!(shop.rpc.count("eth_estimateGas"), 0);
    shop.assert_untouched().await;
    shop.audit().await;
}

#[tokio::test]
async fn one_signature_however_it_is_spelled_is_one_payment() {
    let shop = Shop::open().await;
    let payment = shop.payment().await;
    let bytes = payment.signature();
    let mut compact = bytes[..64].to_vec();
    compact[32] |= (bytes[64] - 27) << 7;
    let mut parity = bytes.clone();
    parity[64] -= 27;
    let spelled = |bytes: &[u8]| payment.with("signature", json!(alloy::hex::encode_prefixed(bytes)));
    assert_eq!(shop.present(&spelled(&compact).v2()).await.status, 200);
    shop.assert_sold_once().await;
    for again in [spelled(&bytes), spelled(&parity), spelled(&compact)] {
        assert_eq!(shop.present(&again.v2()).await.error(), "payment_already_used");
    }
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn a_payer_without_enough_money_is_refused() {
    let shop = Shop::open().await;
    let poor = Payer::random();
    shop.node.mint(poor.address, crate::harness::PRICE - 1).await;
    let payment = poor.pay(&shop.terms().await);
    let answer = shop.present(&payment.v2()).await;
    Terms::read(&answer);
    assert_eq!(answer.error(), "invalid_exact_evm_insufficient_balance");
    shop.assert_untouched().await;
    // What was refused was not claimed: with the money there, the same payment is good.
    shop.node.mint(poor.address, 1).await;
    tokio::time::sleep(Duration::from_millis(3100)).await;
    assert_eq!(shop.present(&payment.v2()).await.status, 200);
    shop.assert_sold_once().await;
    shop.audit().await;
}
