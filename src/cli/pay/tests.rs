//! `pay` against a scripted server: what is on disk when the payment arrives, what is sent again, what is printed.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::request::Parts;
use clap::Parser;

use super::*;
use crate::protocol::{decode_object, decode_payment};
use crate::types::{ManualClock, UnixMillis};

const KEY: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const NOW_SECS: u64 = 1_800_000_000;

/// What the server does with the next request that carries a payment.
enum Step {
    /// Answers: status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, &'static str),
    /// Takes the request and cuts the connection.
    Cut,
}

/// One request as the server saw it.
#[derive(Debug, Clone)]
struct Seen {
    method: String,
    target: String,
    headers: axum::http::HeaderMap,
    body: Vec<u8>,
    /// The files in the state directory when it came.
    saved: Vec<PathBuf>,
}

impl Seen {
    fn payment(&self) -> Option<&str> {
        let header = |name| self.headers.get(name).map(|value| value.to_str().unwrap());
        header(names::PAYMENT_SIGNATURE).or_else(|| header(names::X_PAYMENT))
    }
}

struct Script {
    offers: Vec<Value>,
    steps: VecDeque<Step>,
    seen: Vec<Seen>,
    state: PathBuf,
}

type Shared = Arc<Mutex<Script>>;

struct Shop {
    url: String,
    script: Shared,
    directory: tempfile::TempDir,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// What a run of the command left behind.
struct Ran {
    exit: anyhow::Result<Exit>,
    out: String,
    err: String,
}

impl Ran {
    fn all(&self) -> String {
        let error = self.exit.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
        format!("{}{}{error}", self.out, self.err)
    }
}

async fn serve(State(script): State<Shared>, head: Parts, body: Bytes) -> axum::response::Response {
    let (step, terms) = {
        let mut script = script.lock().unwrap();
        let seen = Seen {
            method: head.method.to_string(),
            target: head.uri.to_string(),
            headers: head.headers,
            body: body.to_vec(),
            saved: files(&script.state),
        };
        let step = if seen.payment().is_some() { script.steps.pop_front() } else { None };
        script.seen.push(seen);
        (step, fixtures::terms_402(&script.offers))
    };
    let answer = axum::http::Response::builder();
    match step {
        Some(Step::Answer(status, headers, body)) => {
            let answer =
                headers.into_iter().fold(answer.status(status), |answer, (key, value)| answer.header(key, value));
            answer.body(body.into()).unwrap()
        }
        // The server's own panic handler is the connection task: it ends without an answer.
        Some(Step::Cut) => panic!("cut"),
        None => answer.status(402).header("payment-required", terms.0).body(terms.1.into()).unwrap(),
    }
}

fn files(state: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(state)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    files.sort();
    files
}

fn receipt(success: bool, reason: Option<&str>) -> (&'static str, String) {
    let mut receipt = json!({"success": success, "transaction": "0xfeed", "network": "eip155:84532",
        "payer": "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A", "amount": "10000"});
    if let Some(reason) = reason {
        receipt["errorReason"] = reason.into();
    }
    ("payment-response", encode_json(&receipt))
}

fn served() -> Step {
    Step::Answer(200, vec![receipt(true, None)], "the answer")
}

fn pending() -> Step {
    Step::Answer(503, vec![receipt(false, Some("settlement_pending")), ("retry-after", "0".to_owned())], "wait")
}

impl Shop {
    async fn open(steps: Vec<Step>) -> Self {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let script = Arc::new(Mutex::new(Script {
            offers: vec![fixtures::offer("eip155:84532", "10000")],
            steps: steps.into(),
            seen: Vec::new(),
            state: directory.path().join("state"),
        }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new().fallback(serve).with_state(Arc::clone(&script));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, script, directory, server }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn seen(&self) -> Vec<Seen> {
        self.script.lock().unwrap().seen.clone()
    }

    /// Payments that came in, as their headers' values.
    fn payments(&self) -> Vec<String> {
        self.seen().iter().filter_map(|seen| seen.payment().map(str::to_owned)).collect()
    }

    async fn pay(&self, more: &[&str]) -> Ran {
        let url = format!("{}/p?q=1", self.url);
        self.run(&[&[url.as_str()], more].concat()).await
    }

    /// Runs the command with the canary key and checks that no output and no file holds it.
    async fn run(&self, more: &[&str]) -> Ran {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            pay: PayArgs,
        }
        let state = self.state();
        let line = [&["pay", "--state-dir", state.to_str().unwrap()], more].concat();
        let args = Line::try_parse_from(line).unwrap().pay;
        let key = Secret::new(KEY.to_owned());
        let clock = ManualClock::new(UnixMillis::from_secs(NOW_SECS));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = pay(&args, Some(&key), &clock, &mut Io { out: &mut out, err: &mut err }).await;
        let ran = Ran { exit, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() };
        assert!(!ran.all().contains(KEY), "{}", ran.all());
        for file in files(&state) {
            assert!(!std::fs::read_to_string(file).unwrap().contains(KEY));
        }
        for payment in self.payments() {
            assert!(!ran.all().contains(&payment), "a payment header is as good as money: {}", ran.all());
            let decoded = String::from_utf8(STANDARD.decode(payment).unwrap()).unwrap();
            assert!(!decoded.contains(KEY));
        }
        ran
    }
}

#[tokio::test]
async fn a_paid_answer_goes_to_stdout_and_its_receipt_to_stderr() {
    let shop = Shop::open(vec![served()]).await;
    let ran = shop.pay(&["--header", "X-A: b", "--header", "Range: bytes=0-9"]).await;
    assert_eq!(ran.exit.as_ref().unwrap(), &Exit::Success, "{}", ran.all());
    assert_eq!(ran.out, "the answer");
    for part in ["base-sepolia (eip155:84532)", "0xfeed", "0.01 USDC", "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"] {
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
    }
    let seen = shop.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[1].target.as_str(), seen[1].method.as_str()), ("/p?q=1", "GET"));
    for request in &seen {
        assert_eq!(request.headers["x-a"], "b");
        assert_eq!(request.headers["range"], "bytes=0-9");
    }
    assert!(seen[0].payment().is_none());
}

#[tokio::test]
async fn the_payment_is_on_disk_before_it_is_on_the_wire_and_gone_after_its_answer() {
    let shop = Shop::open(vec![served()]).await;
    shop.pay(&[]).await.exit.unwrap();
    let seen = shop.seen();
    assert!(seen[0].saved.is_empty(), "nothing is signed before the terms are known");
    assert_eq!(seen[1].saved.len(), 1);
    assert!(files(&shop.state()).is_empty());
}

#[tokio::test]
async fn a_payment_that_can_not_be_saved_is_not_sent() {
    let shop = Shop::open(vec![served()]).await;
    std::fs::write(shop.state(), "a file where the directory should be").unwrap();
    assert!(pay_in(&shop, shop.state()).await.is_err());
    assert!(shop.payments().is_empty());
}

async fn pay_in(shop: &Shop, state: PathBuf) -> anyhow::Result<Exit> {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        pay: PayArgs,
    }
    let args = Line::try_parse_from(["pay", &shop.url, "--state-dir", state.to_str().unwrap()]).unwrap().pay;
    let clock = ManualClock::new(UnixMillis::from_secs(NOW_SECS));
    let mut io = Io { out: &mut std::io::sink(), err: &mut std::io::sink() };
    pay(&args, Some(&Secret::new(KEY.to_owned())), &clock, &mut io).await
}

#[tokio::test]
async fn v2_echoes_the_offer_whole_and_signs_its_window() {
    let shop = Shop::open(vec![served()]).await;
    shop.pay(&[]).await.exit.unwrap();
    let seen = shop.seen();
    let value = seen[1].headers["payment-signature"].to_str().unwrap();
    assert!(!seen[1].headers.contains_key("x-payment"));
    let object = decode_object(value.as_bytes()).unwrap();
    assert_eq!(object["accepted"], fixtures::offer("eip155:84532", "10000"));
    assert_eq!(object["resource"], json!({"url": "http://h/p"}));
    assert_eq!(object["payload"]["authorization"]["validAfter"], "0");
    assert_eq!(object["payload"]["authorization"]["validBefore"], (NOW_SECS + 60).to_string());
    let server_side = decode_payment(value.as_bytes(), Version::V2).unwrap();
    assert_eq!(server_side.quote.as_deref(), Some("sealed-quote"));
}

#[tokio::test]
async fn v1_names_the_network_and_goes_in_its_own_header() {
    let shop = Shop::open(vec![served()]).await;
    shop.pay(&["--v1"]).await.exit.unwrap();
    let seen = shop.seen();
    let object = decode_object(seen[1].headers["x-payment"].as_bytes()).unwrap();
    assert!(!seen[1].headers.contains_key("payment-signature"));
    assert_eq!(object["x402Version"], 1);
    assert_eq!(object["network"], "base-sepolia");
    assert_eq!(object["scheme"], "exact");
    assert!(!object.contains_key("accepted"));
}

#[tokio::test]
async fn each_payment_has_a_nonce_of_its_own() {
    let shop = Shop::open(vec![served(), served()]).await;
    for _ in 0..2 {
        shop.pay(&[]).await.exit.unwrap();
    }
    let payments = shop.payments();
    let nonce =
        |index: usize| decode_object(payments[index].as_bytes()).unwrap()["payload"]["authorization"]["nonce"].clone();
    assert_ne!(nonce(0), nonce(1));
}

#[tokio::test]
async fn above_max_nothing_is_signed_and_nothing_is_sent() {
    let shop = Shop::open(vec![served()]).await;
    let ran = shop.pay(&["--max", "$0.009999"]).await;
    assert!(ran.exit.is_err() && ran.all().contains("more than --max allows"), "{}", ran.all());
    assert!(ran.out.is_empty());
    assert!(shop.payments().is_empty() && files(&shop.state()).is_empty());
}

#[tokio::test]
async fn a_pending_payment_is_presented_again_and_never_signed_twice() {
    let in_progress = Step::Answer(409, vec![("retry-after", "0".to_owned())], "busy");
    let shop = Shop::open(vec![pending(), in_progress, Step::Cut, served()]).await;
    let ran = shop.pay(&["--wait", "30s"]).await;
    assert_eq!(ran.exit.as_ref().unwrap(), &Exit::Success, "{}", ran.all());
    assert_eq!(ran.out, "the answer", "only the last answer is data");
    let payments = shop.payments();
    assert_eq!(payments.len(), 4);
    assert!(payments.iter().all(|payment| *payment == payments[0]));
    assert!(files(&shop.state()).is_empty());
}

#[tokio::test]
async fn when_time_is_up_a_pending_payment_stays_saved_and_resume_gets_the_answer() {
    let shop = Shop::open(vec![pending(), pending(), pending(), pending()]).await;
    let ran = shop.pay(&["--wait", "300ms", "--method", "PUT", "--data", "body", "-H", "x-a: b"]).await;
    assert_eq!(ran.exit.as_ref().unwrap().code(), 3, "{}", ran.all());
    let saved = files(&shop.state());
    assert_eq!(saved.len(), 1);
    assert!(ran.err.contains(&format!("tollhouse pay --resume {}", saved[0].display())), "{}", ran.err);

    let first = shop.seen().into_iter().find(|seen| seen.payment().is_some()).unwrap();
    shop.script.lock().unwrap().steps = vec![served()].into();
    let ran = shop.run(&["--resume", saved[0].to_str().unwrap()]).await;
    assert_eq!((ran.exit.unwrap(), ran.out.as_str()), (Exit::Success, "the answer"));
    let last = shop.seen().pop().unwrap();
    assert_eq!(last.payment(), first.payment());
    assert_eq!((last.method.as_str(), last.target.as_str()), ("PUT", "/p?q=1"));
    assert_eq!(last.body, b"body");
    assert_eq!(last.headers["x-a"], "b");
    assert!(files(&shop.state()).is_empty());
}

#[tokio::test]
async fn a_lost_answer_is_unknown_and_the_payment_stays_saved() {
    let shop = Shop::open(vec![Step::Cut]).await;
    let ran = shop.pay(&["--wait", "1s"]).await;
    assert_eq!(ran.exit.as_ref().unwrap(), &Exit::Pending, "{}", ran.all());
    assert_eq!(files(&shop.state()).len(), 1);
    assert!(!ran.err.contains("127.0.0.1"), "the URL may hold a token: {}", ran.err);
}

#[tokio::test]
async fn an_origin_failure_after_settlement_keeps_the_payment() {
    let shop = Shop::open(vec![Step::Answer(502, vec![receipt(true, None)], "broken")]).await;
    let ran = shop.pay(&[]).await;
    assert_eq!((ran.exit.as_ref().unwrap(), ran.out.as_str()), (&Exit::Failure, "broken"));
    assert!(ran.err.contains("tollhouse pay --resume"), "{}", ran.err);
    assert_eq!((files(&shop.state()).len(), shop.payments().len()), (1, 1));
}

#[tokio::test]
async fn a_paid_404_is_a_complete_answer_and_a_refused_payment_is_not() {
    let shop = Shop::open(vec![Step::Answer(404, vec![receipt(true, None)], "none")]).await;
    assert_eq!(shop.pay(&[]).await.exit.unwrap(), Exit::Failure);
    assert!(files(&shop.state()).is_empty());

    let refused = Step::Answer(402, vec![receipt(false, Some("invalid_exact_evm_insufficient_balance"))], "{}");
    let shop = Shop::open(vec![refused]).await;
    let ran = shop.pay(&[]).await;
    assert_eq!(ran.exit.as_ref().unwrap(), &Exit::Failure);
    for part in ["invalid_exact_evm_insufficient_balance", "until 2027-01-15T08:01:00Z", "tollhouse pay --resume"] {
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
    }
    assert_eq!((files(&shop.state()).len(), shop.payments().len()), (1, 1));
}

#[tokio::test]
async fn a_payment_follows_no_redirect() {
    let shop = Shop::open(vec![Step::Answer(302, vec![("location", "/elsewhere".to_owned())], "")]).await;
    let ran = shop.pay(&[]).await;
    assert_eq!(ran.exit.as_ref().unwrap(), &Exit::Failure, "{}", ran.all());
    assert_eq!(shop.seen().len(), 2);
    assert!(shop.seen().iter().all(|seen| seen.target == "/p?q=1"));
    assert_eq!(files(&shop.state()).len(), 1, "nobody said that the payment was taken");
    assert!(ran.err.contains("redirects are not followed") && ran.err.contains("--resume"), "{}", ran.err);
}

#[tokio::test]
async fn json_is_one_object_with_status_body_and_receipt() {
    let shop = Shop::open(vec![served(), pending()]).await;
    let ran = shop.pay(&["--json"]).await;
    let object: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&object["status"], &object["body"]), (&json!(200), &json!("the answer")));
    assert_eq!((&object["body_encoding"], &object["resume"]), (&json!("text"), &Value::Null));
    assert_eq!(object["receipt"]["transaction"], "0xfeed");

    let ran = shop.pay(&["--json", "--wait", "100ms"]).await;
    let object: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(object["status"], 503);
    assert!(object["resume"].as_str().unwrap().starts_with("tollhouse pay --resume "));
}

#[tokio::test]
async fn payment_headers_of_ones_own_are_refused() {
    let shop = Shop::open(vec![served()]).await;
    assert!(shop.pay(&["-H", "X-PAYMENT: e30="]).await.exit.is_err());
    assert!(shop.seen().is_empty());
}
