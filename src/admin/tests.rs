//! Who gets in, what changes nothing, and whether every answer is the one that the OpenAPI document promises.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::config::{RouteAction, Secret};
use crate::ledger::{LedgerError, NewPayment, PaymentId, PaymentRecord, SqliteLedger};
use crate::proxy::testing::{TestGate, config, paid_route, route, upstream};
use crate::types::{AccountId, AssetId, AtomicAmount, Network, UnixMillis};

async fn admin(listen: &str, token: Option<&str>) -> (Admin, TestGate) {
    let gate = TestGate::open(Duration::from_millis(300)).await;
    let routes = vec![
        route("GET /a", RouteAction::Paid(paid_route())),
        route("/free", RouteAction::Free),
        route("/no", RouteAction::Deny),
    ];
    let mut parts = gate.admin_parts(&config(upstream(&["127.0.0.1:1"]), routes));
    parts.reloader = Some(Arc::new(Stubborn::default()));
    parts.config.listen = listen.parse().unwrap();
    parts.config.token = token.map(|token| Secret::new(token.to_owned()));
    (Admin::new(parts), gate)
}

async fn answer(admin: &Admin, method: &str, path: &str, fields: &[(&'static str, &str)]) -> Answer {
    let mut head = RequestHeader::build(method, path.as_bytes(), None).unwrap();
    for (name, value) in fields {
        head.append_header(*name, *value).unwrap();
    }
    admin.answer(&head, None).await
}

async fn ask(admin: &Admin, method: &str, path: &str, fields: &[(&'static str, &str)]) -> u16 {
    answer(admin, method, path, fields).await.status.as_u16()
}

#[tokio::test]
async fn beyond_loopback_the_books_need_the_token_and_health_does_not() {
    let (admin, _gate) = admin("0.0.0.0:8403", Some("right")).await;
    admin.set_serving(true);
    for (given, expected) in [
        ("Bearer right", 200),
        ("bearer right", 200),
        ("Bearer wrong", 401),
        ("Bearer right ", 401),
        ("Bearer ", 401),
        ("right", 401),
        ("", 401),
    ] {
        assert_eq!(ask(&admin, "GET", "/payments", &[("Authorization", given)]).await, expected, "{given}");
    }
    assert_eq!(ask(&admin, "GET", "/payments", &[]).await, 401);
    assert_eq!(ask(&admin, "GET", "/unknown", &[]).await, 401, "nor is told what there is");
    assert_eq!(ask(&admin, "GET", "/healthz", &[]).await, 200);
    assert_eq!(ask(&admin, "GET", "/metrics", &[]).await, 200);
}

#[tokio::test]
async fn without_a_token_nobody_gets_in_from_elsewhere() {
    let (admin, _gate) = admin("0.0.0.0:8403", None).await;
    assert_eq!(ask(&admin, "GET", "/payments", &[("Authorization", "Bearer ")]).await, 401);
}

#[tokio::test]
async fn health_says_no_until_the_gateway_serves_and_readiness_until_a_network_is_open() {
    let (admin, gate) = admin("127.0.0.1:8403", None).await;
    let host = [("Host", "127.0.0.1:8403")];
    assert_eq!(ask(&admin, "GET", "/healthz", &host).await, 503);
    admin.set_serving(true);
    assert_eq!(ask(&admin, "GET", "/healthz", &host).await, 200);
    assert_eq!(ask(&admin, "HEAD", "/readyz", &host).await, 200);
    gate.chain.is_open.store(false, Ordering::SeqCst);
    assert_eq!(ask(&admin, "GET", "/readyz", &host).await, 503);
    assert_eq!(ask(&admin, "GET", "/healthz", &host).await, 200);
}

#[tokio::test]
async fn any_number_of_questions_after_health_at_once_are_one_write_of_the_ledger() {
    let gate = TestGate::open(Duration::from_millis(300)).await;
    let routes = vec![route("/free", RouteAction::Free)];
    let mut parts = gate.admin_parts(&config(upstream(&["127.0.0.1:1"]), routes));
    let folder = tempfile::tempdir().unwrap();
    let writes = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&writes);
    let observer: crate::ledger::Observer = Arc::new(move |operation, _took| {
        // Several writes may share a commit.
        counter.fetch_add(usize::from(operation != "commit"), Ordering::SeqCst);
    });
    let path = folder.path().join("books.db");
    parts.ledger = Arc::new(SqliteLedger::open_observed(&path, parts.clock.clone(), observer).await.unwrap());
    let admin = Admin::new(parts);
    admin.set_serving(true);
    let before = writes.load(Ordering::SeqCst);
    let asked = futures::future::join_all((0..50).map(|_| ask(&admin, "GET", "/healthz", &HERE))).await;
    assert_eq!(asked, vec![200; 50]);
    assert_eq!(writes.load(Ordering::SeqCst) - before, 1);
}

/// Takes every other configuration.
#[derive(Default)]
struct Stubborn(AtomicBool);

#[async_trait]
impl Reload for Stubborn {
    async fn reload(&self) -> Result<(), Vec<String>> {
        if self.0.fetch_not(Ordering::SeqCst) { Err(vec!["no".to_owned()]) } else { Ok(()) }
    }
}

const HERE: [(&str, &str); 1] = [("Host", "127.0.0.1:8403")];

fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

/// A payment in the books, claimed at this moment.
async fn claim(ledger: &dyn Ledger, number: u8, claimed_at: i64) -> PaymentRecord {
    let signer = AccountId::new("0xGas").unwrap();
    let payment = NewPayment {
        id: PaymentId(format!("eip155:84532/0xToken/0xPayer/{number}")),
        payload_digest: [1; 32],
        fingerprint: [2; 32],
        redeliverable: true,
        holder: crate::ledger::Holder::Quote([3; 32]),
        route: if number.is_multiple_of(2) { "GET /a" } else { "GET /b" }.to_owned(),
        request: "GET /a".to_owned(),
        terms: "{}".to_owned(),
        wait_for: "confirmed".to_owned(),
        confirmations: 1,
        pay_to_exclusive: false,
        network: Network::evm(84532),
        asset: AssetId::new("0x036CbD53842c5426634e7929541eC2318f3dCF7e").unwrap(),
        payer: AccountId::new("0xPayer").unwrap(),
        pay_to: AccountId::new("0xShop").unwrap(),
        amount: 10_000.into(),
        payload: "{\"signature\":\"payload canary\"}".to_owned(),
        valid_until: UnixMillis::from_secs(4_000_000_000),
        signer: Some(signer.clone()),
        claimed_at: UnixMillis(claimed_at),
        identifier: None,
    };
    let sign = Box::new(move |account_nonce| {
        let (transaction, fee_max, raw) = ("0xtx".to_owned(), "1".to_owned(), b"raw canary".to_vec());
        Ok(crate::ledger::NewAttempt { signer: Some(signer), account_nonce, transaction, raw, fee_max })
    });
    match ledger.claim(payment, sign).await.unwrap() {
        crate::ledger::ClaimOutcome::Claimed(record) => record,
        crate::ledger::ClaimOutcome::Exists(_) => panic!("taken"),
    }
}

fn settlement() -> crate::ledger::Settlement {
    crate::payment::tests::chain::settlement()
}

#[tokio::test]
async fn only_post_changes_anything_and_every_other_method_is_told_which_there_are() {
    let (admin, _gate) = admin("127.0.0.1:8403", None).await;
    let reads =
        ["/", "/openapi.json", "/healthz", "/readyz", "/metrics", "/payments", "/routes", "/networks", "/signers"];
    for path in reads.into_iter().chain(["/stats", "/latency", "/payments/pay_00000000000000000000000000000abc"]) {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
            let answer = answer(&admin, method, path, &HERE).await;
            assert_eq!((answer.status.as_u16(), answer.allow), (405, "GET, HEAD"), "{method} {path}");
        }
    }
    for method in ["GET", "HEAD", "PUT", "OPTIONS"] {
        let answer = answer(&admin, method, "/reload", &HERE).await;
        assert_eq!((answer.status.as_u16(), answer.allow), (405, "POST"), "{method}");
    }
    assert_eq!(ask(&admin, "GET", "/payments", &[("Host", "localhost"), ("Host", "localhost")]).await, 403);
    assert_eq!(ask(&admin, "GET", "/payments", &[]).await, 403);
}

#[tokio::test]
async fn a_page_of_another_site_gets_nothing_and_no_page_at_all_changes_anything() {
    let (admin, _gate) = admin("127.0.0.1:8403", None).await;
    let host = HERE[0];
    assert_eq!(ask(&admin, "GET", "/payments", &[host, ("Sec-Fetch-Site", "same-origin")]).await, 200);
    assert_eq!(ask(&admin, "GET", "/payments", &[host, ("Sec-Fetch-Site", "none")]).await, 200);
    for site in ["cross-site", "same-site", ""] {
        assert_eq!(ask(&admin, "GET", "/payments", &[host, ("Sec-Fetch-Site", site)]).await, 403, "{site}");
    }
    assert_eq!(ask(&admin, "GET", "/", &[host, ("Sec-Fetch-Site", "cross-site")]).await, 200, "a link opens it");
    for field in [("Origin", "http://127.0.0.1:8403"), ("Origin", "null"), ("Sec-Fetch-Site", "same-origin")] {
        assert_eq!(ask(&admin, "POST", "/reload", &[host, field]).await, 403, "{field:?}");
    }
    assert_eq!(ask(&admin, "POST", "/reload", &[host]).await, 200);
    assert_eq!(ask(&admin, "POST", "/reload", &[host]).await, 409);
}

#[tokio::test]
async fn the_page_needs_no_token_since_it_holds_nothing_and_what_it_shows_does() {
    let (admin, gate) = admin("0.0.0.0:8403", Some("right")).await;
    claim(gate.ledger.as_ref(), 1, 1_000).await;
    let page = answer(&admin, "GET", "/", &[]).await;
    assert_eq!(page.status, 200);
    for path in ["/openapi.json", "/payments", "/routes", "/networks", "/signers", "/stats", "/latency", "/nowhere"] {
        assert_eq!(ask(&admin, "GET", path, &[]).await, 401, "{path}");
    }
    assert_eq!(ask(&admin, "POST", "/reload", &[]).await, 401);
    assert_eq!(ask(&admin, "POST", "/reload", &[("Authorization", "Bearer right")]).await, 200);
}

#[tokio::test]
async fn pages_of_payments_hold_each_once_in_order_even_when_many_are_of_one_moment() {
    let (admin, gate) = admin("127.0.0.1:8403", None).await;
    for number in 0..7 {
        claim(gate.ledger.as_ref(), number, 1_000 + i64::from(number / 3)).await;
    }
    let (mut seen, mut path) = (Vec::new(), "/payments?limit=2".to_owned());
    loop {
        let page = json(&answer(&admin, "GET", &path, &HERE).await);
        let rows = page["payments"].as_array().unwrap();
        seen.extend(rows.iter().map(|row| (row["claimed_at_millis"].as_i64(), row["id"].as_str().unwrap().to_owned())));
        let Some(next) = page["next"].as_str() else { break };
        assert_eq!(rows.len(), 2);
        path = format!("/payments?limit=2&cursor={next}");
    }
    assert_eq!(seen.len(), 7);
    assert!(seen.is_sorted_by(|one, other| one > other), "{seen:?}");
    for (query, expected) in [
        ("route=GET%20/a", 4),
        ("route=GET%20/c", 0),
        ("payer=0xPayer&state=signed", 7),
        ("payer=0xOther", 0),
        ("state=paid&state=owed", 0),
        ("network=base-sepolia&since_millis=1001", 4),
        ("since_millis=1001&until_millis=1002", 3),
        ("network=base", 0),
    ] {
        let page = json(&answer(&admin, "GET", &format!("/payments?{query}"), &HERE).await);
        assert_eq!(page["payments"].as_array().unwrap().len(), expected, "{query}");
    }
}

#[tokio::test]
async fn one_payment_is_shown_without_what_others_could_use() {
    let (admin, gate) = admin("127.0.0.1:8403", None).await;
    let row = claim(gate.ledger.as_ref(), 1, 1_000).await;
    gate.ledger.record_failed(&row.record, "reverted", Some("0xtx"), Some(AtomicAmount::from(77))).await.unwrap();
    let shown = answer(&admin, "GET", &format!("/payments/{}", row.record), &HERE).await;
    assert_eq!(json(&shown)["attempts"][0]["transaction"], "0xtx");
    assert_eq!((&json(&shown)["fee"], &json(&shown)["transaction"]), (&"77".into(), &Value::Null));
    let text = String::from_utf8(shown.body).unwrap();
    let raw_hex: String = b"raw canary".iter().map(|byte| format!("{byte:02x}")).collect();
    for secret in ["canary", &raw_hex, &"03".repeat(32), &"02".repeat(32), &"01".repeat(32)] {
        assert!(!text.contains(secret), "{secret}");
    }
    for unknown in
        ["pay_00000000000000000000000000000abc", "pay_", "x", "%70ay", "..", "pay_0000000000000000000000000000ABC0"]
    {
        assert_eq!(ask(&admin, "GET", &format!("/payments/{unknown}"), &HERE).await, 404, "{unknown}");
    }
}

#[tokio::test]
async fn earnings_are_what_was_paid_and_not_taken_back() {
    let (admin, gate) = admin("127.0.0.1:8403", None).await;
    let ledger = gate.ledger.as_ref();
    let mut rows = Vec::new();
    for number in 0..5 {
        rows.push(claim(ledger, number, 1_000).await.record);
    }
    for row in &rows[..4] {
        ledger.record_paid(row, settlement(), false).await.unwrap();
    }
    ledger.record_reorged(&rows[1], &settlement().block_hash, "reorged", None).await.unwrap();
    let stats = json(&answer(&admin, "GET", "/stats?days=1", &HERE).await);
    let earned: Vec<_> = stats["earnings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| {
            (line["route"].as_str().unwrap(), line["count"].as_u64().unwrap(), line["amount"].as_str().unwrap())
        })
        .collect();
    assert_eq!(earned, [("GET /a", 2, "20000"), ("GET /b", 1, "10000")]);
    assert_eq!(stats["earnings"][0]["day"], stats["today"]);
    assert_eq!(stats["assets"][0]["symbol"], "USDC");
    let states: BTreeSet<_> = stats["totals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["state"].clone())
        .map(|state| state.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states.into_iter().collect::<Vec<_>>(), ["paid", "reorged", "signed"]);
}

#[tokio::test]
async fn a_ledger_that_does_not_answer_is_503_and_the_rest_goes_on() {
    struct Gone;
    let reading = books::within_time(async { Err::<(), _>(LedgerError::NotRead("gone".to_owned())) }).await;
    let Err(refused) = reading.map(|()| Gone) else { panic!("it read") };
    assert_eq!((refused.status.as_u16(), json(&refused)["error"].as_str()), (503, Some("ledger_unavailable")));
    assert!(!String::from_utf8_lossy(&refused.body).contains("gone"), "details are for the log");
}

/// What differs from a schema, which uses only the words that are looked at here.
fn objections(root: &Value, schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
    for (word, rule) in schema.as_object().unwrap() {
        let holds = match word.as_str() {
            "description" | "default" => true,
            "$ref" => {
                let target = root.pointer(rule.as_str().unwrap().trim_start_matches('#')).unwrap();
                objections(root, target, value, place, found);
                true
            }
            "type" => {
                let kinds: Vec<&str> = rule.as_array().map_or_else(
                    || vec![rule.as_str().unwrap()],
                    |kinds| kinds.iter().map(|kind| kind.as_str().unwrap()).collect(),
                );
                kinds.iter().any(|kind| match *kind {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    other => panic!("type {other}"),
                })
            }
            "enum" => rule.as_array().unwrap().contains(value),
            "const" => rule == value,
            "minimum" => value.as_i64().is_none_or(|number| number >= rule.as_i64().unwrap()),
            "maximum" => value.as_i64().is_none_or(|number| number <= rule.as_i64().unwrap()),
            "pattern" => value.as_str().is_none_or(|text| !text.is_empty() && text.is_ascii()),
            "required" => value.as_object().is_none_or(|fields| {
                rule.as_array().unwrap().iter().all(|name| fields.contains_key(name.as_str().unwrap()))
            }),
            "properties" => {
                for (name, schema) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        objections(root, schema, value, &format!("{place}/{name}"), found);
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                let fields = value.as_object().into_iter().flatten();
                let others = fields.filter(|(name, _)| known.is_none_or(|known| !known.contains_key(*name)));
                for (name, value) in others {
                    match rule {
                        Value::Bool(false) => found.push(format!("{place}/{name} is not in the schema")),
                        schema => objections(root, schema, value, &format!("{place}/{name}"), found),
                    }
                }
                true
            }
            "items" => {
                for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                    objections(root, rule, value, &format!("{place}/{index}"), found);
                }
                true
            }
            other => panic!("the schema's word {other} is not looked at"),
        };
        if !holds {
            found.push(format!("{place}: {value} against {word} {rule}"));
        }
    }
}

/// What differs from the OpenAPI document in an answer.
fn differences(document: &Value, path: &str, method: &str, answer: &Answer) -> Vec<String> {
    let mut response = &document["paths"][path][method]["responses"][answer.status.as_str()];
    if let Some(reference) = response.get("$ref").and_then(Value::as_str) {
        response = document.pointer(reference.trim_start_matches('#')).unwrap();
    }
    let media_type = answer.content_type.split(';').next().unwrap();
    let Some(schema) = response["content"].get(media_type).map(|content| &content["schema"]) else {
        return vec![format!("{method} {path}: {} with {media_type} is not described", answer.status)];
    };
    let mut found = Vec::new();
    let value = serde_json::from_slice(&answer.body).unwrap_or(Value::String("text".to_owned()));
    objections(document, schema, &value, &format!("{method} {path}"), &mut found);
    found
}

#[tokio::test]
async fn every_path_of_the_openapi_document_answers_as_it_says() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let (admin, gate) = admin("127.0.0.1:8403", None).await;
    let row = claim(gate.ledger.as_ref(), 1, 1_000).await.record;
    gate.ledger.record_paid(&row, settlement(), false).await.unwrap();
    claim(gate.ledger.as_ref(), 2, 1_000).await;
    gate.ledger.record_failed(&row, "x", None, None).await.unwrap_err();
    gate.admin_metrics().stage(
        crate::telemetry::Stage::Verify,
        std::time::Instant::now(),
        &crate::telemetry::Trace::default(),
    );
    let mut wrong = Vec::new();
    let mut statuses = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let target = path.replace("{id}", &row.0);
            let unknown = path.replace("{id}", "pay_00000000000000000000000000000abc");
            let other = if method == "get" { "POST" } else { "GET" };
            for (verb, target, fields) in [
                (method.to_uppercase().as_str(), target.as_str(), &HERE[..]),
                (method.to_uppercase().as_str(), unknown.as_str(), &HERE[..]),
                (method.to_uppercase().as_str(), &format!("{target}?bad=1"), &HERE[..]),
                (method.to_uppercase().as_str(), target.as_str(), &[("Host", "evil.example")][..]),
                (other, target.as_str(), &HERE[..]),
            ] {
                let answer = answer(&admin, verb, target, fields).await;
                statuses.insert(answer.status.as_u16());
                wrong.extend(differences(&document, path, method, &answer));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert_eq!(statuses.into_iter().collect::<Vec<_>>(), [200, 400, 403, 404, 405, 409, 503]);
    // And the document holds everything that there is.
    let paths: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    for path in ["/", "/openapi.json", "/healthz", "/readyz", "/metrics", "/payments", "/payments/{id}", "/routes"] {
        assert!(paths.contains(path), "{path}");
    }
    for path in &paths {
        assert!(Endpoint::of(path).is_some(), "{path}");
    }
    assert_eq!(paths.len(), 13, "an endpoint more is a path more in the document");
}

#[tokio::test]
async fn an_answer_that_the_document_does_not_promise_is_found() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    for (status, body) in [
        (200, json!({ "payments": [] })),
        (200, json!({ "payments": [{}], "next": null })),
        (200, json!({ "payments": [], "next": 5 })),
        (200, json!({ "payments": [], "next": null, "secret": 1 })),
        (418, json!({})),
    ] {
        let answer = Answer::json(StatusCode::from_u16(status).unwrap(), &body);
        assert!(!differences(&document, "/payments", "get", &answer).is_empty(), "{body}");
    }
}
