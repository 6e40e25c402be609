//! Who may ask, and in which words answers come. What payments get is tested with the clearing and on a real chain.

use serde_json::json;

use super::*;
use crate::config::Secret;
use crate::payment::Outcome;
use crate::proxy::testing::TestGate;
use crate::types::{AccountId, ChainKind};

async fn facilitator(listen: &str, token: Option<&str>) -> (Facilitator, TestGate) {
    let gate = TestGate::open(Duration::from_millis(300)).await;
    let facilitator = Facilitator::new(FacilitatorParts {
        config: FacilitatorConfig {
            listen: listen.parse().unwrap(),
            token: token.map(|token| Secret::new(token.to_owned())),
        },
        clearing: Arc::new(Clearing::new(Arc::clone(&gate.gate), Vec::new(), Vec::new())),
        clock: Arc::new(crate::types::SystemClock),
        metrics: Arc::new(Metrics::new().unwrap()),
    });
    (facilitator, gate)
}

fn fields(list: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in list {
        fields.append(*name, value.parse().unwrap());
    }
    fields
}

fn ask(facilitator: &Facilitator, method: Method, path: &str, list: &[(&'static str, &'static str)]) -> u16 {
    facilitator.admit(&method, path, &fields(list)).map_or_else(|answer| answer.status.as_u16(), |_| 200)
}

#[tokio::test]
async fn beyond_loopback_everything_needs_the_token() {
    let (facilitator, _gate) = facilitator("0.0.0.0:8404", Some("right")).await;
    for path in ["/supported", "/verify", "/unknown"] {
        assert_eq!(ask(&facilitator, Method::GET, path, &[("host", "h")]), 401, "{path}");
        assert_eq!(ask(&facilitator, Method::GET, path, &[("authorization", "Bearer wrong")]), 401, "{path}");
    }
    let right = ("authorization", "Bearer right");
    assert_eq!(ask(&facilitator, Method::GET, "/supported", &[right]), 200);
    assert_eq!(ask(&facilitator, Method::GET, "/unknown", &[right]), 404);
    let json = ("content-type", "application/json; charset=utf-8");
    assert_eq!(ask(&facilitator, Method::POST, "/settle", &[right, json]), 200);
}

#[tokio::test]
async fn on_loopback_only_names_of_this_machine_are_answered() {
    let (facilitator, _gate) = facilitator("127.0.0.1:8404", None).await;
    assert_eq!(ask(&facilitator, Method::GET, "/supported", &[("host", "localhost:8404")]), 200);
    for host in ["evil.example", "127.0.0.1.evil.example", ""] {
        assert_eq!(ask(&facilitator, Method::GET, "/supported", &[("host", host)]), 403, "{host}");
    }
    assert_eq!(ask(&facilitator, Method::GET, "/supported", &[]), 403);
}

#[tokio::test]
async fn methods_and_types_that_are_not_asked_for_are_refused() {
    let (facilitator, _gate) = facilitator("127.0.0.1:8404", None).await;
    let host = ("host", "127.0.0.1");
    assert_eq!(ask(&facilitator, Method::POST, "/supported", &[host]), 405);
    for path in ["/verify", "/settle", "/api/v1/verify", "/api/v1/settle"] {
        assert_eq!(ask(&facilitator, Method::GET, path, &[host]), 405, "{path}");
        assert_eq!(ask(&facilitator, Method::POST, path, &[host]), 415, "{path}");
        assert_eq!(ask(&facilitator, Method::POST, path, &[host, ("content-type", "text/plain")]), 415, "{path}");
        assert_eq!(ask(&facilitator, Method::POST, path, &[host, ("content-type", "application/json")]), 200, "{path}");
    }
    for path in ["/", "/settle/", "/SETTLE", "/api/v1/supported", "//settle"] {
        assert_eq!(ask(&facilitator, Method::POST, path, &[host]), 404, "{path}");
    }
}

#[test]
fn supported_lists_each_network_under_its_names_and_each_family_with_its_signers() {
    let terms = |network: &str, extra: Value| -> crate::protocol::PaymentRequirements {
        let terms = json!({"scheme":"exact","network":network,"amount":"1","asset":"A","payTo":"B","maxTimeoutSeconds":1,"extra":extra});
        serde_json::from_value(terms).unwrap()
    };
    let (evm, own) = (terms("eip155:84532", json!({"name":"USDC"})), terms("eip155:424242", json!({"feePayer":"F"})));
    let networks = [(&evm.network, &evm), (&own.network, &own)];
    let signers = [(ChainKind::Evm, AccountId::new("0x1").unwrap()), (ChainKind::Evm, AccountId::new("0x2").unwrap())];
    assert_eq!(
        shapes::supported(&networks, &signers),
        json!({
            "kinds": [
                {"x402Version":2,"scheme":"exact","network":"eip155:84532"},
                {"x402Version":1,"scheme":"exact","network":"base-sepolia"},
                {"x402Version":2,"scheme":"exact","network":"eip155:424242","extra":{"feePayer":"F"}},
            ],
            "extensions": [],
            "signers": {"eip155:*": ["0x1", "0x2"]},
        })
    );
}

fn request() -> FacilitatorRequest {
    let body = json!({"x402Version":1,
        "paymentPayload":{"x402Version":1,"scheme":"exact","network":"base-sepolia","payload":"e30="},
        "paymentRequirements":{"scheme":"exact","network":"base-sepolia","maxAmountRequired":"7","asset":"A","payTo":"B",
            "maxTimeoutSeconds":60}});
    FacilitatorRequest::read(body.to_string().as_bytes()).unwrap()
}

#[test]
fn vitwit_callers_find_their_own_fields_and_codes() {
    let payer = AccountId::new("0xPayer").unwrap();
    let valid = shapes::vitwit_verdict(
        &Verdict::Valid { payer: payer.clone() },
        &request(),
        crate::types::UnixMillis::from_secs(1_000_000_000),
    );
    assert_eq!((&valid["isValid"], &valid["InvalidReason"]), (&json!(true), &json!("")));
    assert_eq!((&valid["sender"], &valid["recipient"]), (&json!("0xPayer"), &json!("B")));
    assert_eq!((&valid["token"], &valid["amount"]), (&json!("A"), &json!("7")));
    assert!(valid.get("error").is_none());
    assert_eq!(valid["timestamp"], "2001-09-09T01:46:40Z");
    for (reason, code) in [
        (Reason::InvalidPayload, "INVALID_PAYLOAD"),
        (Reason::InvalidRequirements, "INVALID_REQUIREMENTS"),
        (Reason::InvalidNetwork, "UNSUPPORTED_NETWORK"),
        (Reason::EvmValueMismatch, "INSUFFICIENT_AMOUNT"),
        (Reason::EvmValidBefore, "EXPIRED_PAYMENT"),
        (Reason::EvmSignature, "VERIFICATION_FAILED"),
    ] {
        let invalid = shapes::vitwit_verdict(
            &Verdict::Invalid { reason, payer: None },
            &request(),
            crate::types::UnixMillis::from_secs(1_000_000_000),
        );
        assert_eq!((&invalid["isValid"], &invalid["error"]), (&json!(false), &json!(code)), "{reason}");
        assert_eq!(invalid["InvalidReason"], reason.as_str());
    }
    assert_eq!(
        shapes::vitwit_verdict(&Verdict::Unavailable, &request(), crate::types::UnixMillis::from_secs(1_000_000_000))["error"],
        "NETWORK_ERROR"
    );
}

#[test]
fn an_unknown_outcome_is_never_called_a_failure() {
    let outcome = |reason| Outcome {
        response: crate::protocol::SettlementResponse {
            success: false,
            error_reason: Some(reason),
            payer: None,
            transaction: "0xab".into(),
            network: "base-sepolia".into(),
            amount: None,
            vitwit: None,
        },
        block: None,
        is_unavailable: false,
    };
    let pending = shapes::vitwit_settled(
        &outcome("settlement_pending"),
        &request(),
        crate::types::UnixMillis::from_secs(1_000_000_000),
    );
    assert_eq!((&pending["error"], &pending["txHash"]), (&json!("settlement_pending"), &json!("0xab")));
    let failed = shapes::vitwit_settled(
        &outcome("invalid_exact_evm_transaction_failed"),
        &request(),
        crate::types::UnixMillis::from_secs(1_000_000_000),
    );
    assert_eq!(failed["error"], "SETTLEMENT_FAILED");
}
