//! What needs no chain: paths, payment headers, prices, configurations, quotes.

use std::path::Path;

use serde_json::json;
use tollhouse::config;
use tollhouse::protocol::{QuoteKey, QuoteNonce, QuoteVerdict, Version, decode_payment, encode_json};
use tollhouse::route::canonicalize;
use tollhouse::types::{AtomicAmount, Price, UnixMillis};

use crate::{corpus, fuzz};

#[test]
fn a_path_that_is_accepted_is_canonical_and_stays_so() {
    let good = corpus(["/", "/api/data?x=1", "/a/%7eb/./c/../d//e", "/caf%C3%A9/%20", "/a;v=1/b", "/A/B/"]);
    fuzz(&good, |input| {
        let Ok(target) = canonicalize(input) else { return false };
        let path = target.path().as_str();
        assert!(path.starts_with('/'), "{path}");
        assert!(!path.contains("//") && !path.contains('\\') && !path.contains('#') && !path.contains('?'), "{path}");
        assert!(!path.split('/').any(|segment| segment == "." || segment == ".."), "{path}");
        assert!(path.bytes().all(|byte| byte.is_ascii_graphic()), "{path}");
        let forwarded = target.path_and_query().into_owned();
        let again = canonicalize(forwarded.as_bytes()).expect("a canonical target is legal");
        assert_eq!(again.path_and_query(), forwarded);
        assert_eq!(again.path().match_key(), target.path().match_key());
        true
    });
}

#[test]
fn a_payment_header_is_read_or_refused() {
    let accepted = json!({"scheme": "exact", "network": "eip155:84532", "amount": "10000", "asset": "0xA", "payTo": "0xB",
        "maxTimeoutSeconds": 60, "extra": {"name": "USDC", "version": "2", "quote": "q"}});
    let v2 = json!({"x402Version": 2, "accepted": accepted, "payload": {"signature": "0x"}});
    let v1 = json!({"x402Version": 1, "scheme": "exact", "network": "base-sepolia", "payload": {"signature": "0x"}});
    let mut good = corpus([&v2.to_string(), &v1.to_string()]);
    good.extend([encode_json(&v2).into_bytes(), encode_json(&v1).into_bytes()]);
    fuzz(&good, |input| {
        let (as_v1, as_v2) = (decode_payment(input, Version::V1), decode_payment(input, Version::V2));
        if let Ok(payment) = &as_v2 {
            assert_eq!(payment.accepted.is_some(), payment.version == Version::V2);
        }
        as_v1.is_ok() || as_v2.is_ok()
    });
}

#[test]
fn an_amount_that_is_accepted_is_written_as_it_was_read() {
    let most = AtomicAmount::from(u64::MAX).to_string();
    let good = corpus([
        "0",
        "1",
        "10000",
        most.as_str(),
        "115792089237316195423570985008687907853269984665640564039457584007913129639935",
    ]);
    fuzz(&good, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return false };
        let Ok(amount) = text.parse::<AtomicAmount>() else { return false };
        assert_eq!(amount.to_string(), text);
        true
    });
}

#[test]
fn a_price_that_is_accepted_is_more_than_nothing() {
    let good = corpus(["$0.01", "$100", "10000 USDC", "free", "deny", "1 ibc/ABCDEF"]);
    fuzz(&good, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return false };
        match text.parse::<Price>() {
            Ok(Price::Usd(dollars)) => assert!(!dollars.is_zero()),
            Ok(Price::Atomic { amount, .. }) => assert!(!amount.is_zero()),
            Ok(Price::Free | Price::Deny) => {}
            Err(_) => return false,
        }
        true
    });
}

#[test]
fn a_configuration_is_whole_or_its_mistakes_have_places() {
    let example = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway.toml.example")).unwrap();
    let short: String = example.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let env = |_: &str| Some("11".repeat(32));
    fuzz(&[short.into_bytes()], |input| {
        let Ok(text) = std::str::from_utf8(input) else { return false };
        let parsed = config::parse(text, Path::new("/nonexistent/gateway.toml"), &env);
        let lines = u32::try_from(text.lines().count()).unwrap() + 1;
        for mistake in &parsed.diagnostics.list {
            assert!((1..=lines).contains(&mistake.location.line), "{mistake:?} of {lines} lines");
        }
        parsed.into_result().is_ok()
    });
}

#[test]
fn only_a_quote_that_was_sealed_opens() {
    let key = QuoteKey::new(&[7; 32]).unwrap();
    let (terms, expires) = ([9; 32], UnixMillis::from_secs(2_000_000_000));
    let sealed: Vec<String> = (0..4).map(|_| key.seal(&terms, QuoteNonce::random().unwrap(), expires)).collect();
    let good: Vec<Vec<u8>> = sealed.iter().map(|quote| quote.clone().into_bytes()).collect();
    fuzz(&good, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return false };
        let is_valid = key.open(text, &terms, UnixMillis::from_secs(1)) == QuoteVerdict::Valid;
        assert!(!is_valid || sealed.iter().any(|quote| quote == text), "forged: {text}");
        is_valid
    });
}

#[test]
fn an_imported_table_is_a_configuration_without_mistakes() {
    let network = "[networks.base]\nrpc_url = \"http://127.0.0.1:1\"\nsigner = { env = \"K\" }\n\
        pay_to = \"0x209693Bc6afc0C5328bA36FaF03C514EF312287C\"\n";
    let good = corpus([
        "openapi: 3.1.0\ninfo: { title: T }\nservers: [ { url: \"https://a.example/v1\" } ]\npaths:\n  /u/{id}:\n    get: &a\n      \
            summary: One\n      responses: { 200: { content: { text/plain: {} } } }\n    post: *a\n  /h: { get: { x-free: true } }\n",
        r##"{"openapi":"3.0.1","servers":[{"url":"/b"}],"paths":{"/a":{"get":{"x-price":"$0.02","summary":"A \"b\" \\u0041"},
            "put":{"x-payment-info":{"price":{"mode":"fixed","currency":"USD","amount":"0.05"}}}},"/r":{"$ref":"#/paths/~1a"}}}"##,
    ]);
    fuzz(&good, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return false };
        let Ok(imported) = tollhouse::cli::import::import(text, "x.yaml", "$0.01") else { return false };
        if imported.routes == 0 {
            return false;
        }
        let whole = format!("{}\n{network}", imported.toml);
        let parsed = config::parse(&whole, Path::new("gateway.toml"), &|_| Some("11".repeat(32))).into_result();
        let config = parsed.unwrap_or_else(|mistakes| panic!("{mistakes}\n{whole}"));
        assert_eq!(config.routes.len(), imported.routes, "{whole}");
        assert!(tollhouse::route::RouteTable::build(&config.routes).is_ok(), "{whole}");
        true
    });
}
