//! No secret in any output (contract §2, threats G3 and G6): canaries in every place where a configuration holds one, and
//! everything that the gateway and its commands say searched for them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use crate::harness::{Call, Chain, Fault, Node, Plan, SIGNER, Shop, eventually, paid};

const QUOTE_KEY: &str = "canary-quote-key-0123456789abcdef0123456789abcdef";
const ADMIN_TOKEN: &str = "canary-admin-token-5c1f";
const ORIGIN_HEADER: &str = "Bearer canary-origin-header-77aa";
const RPC_PATH: &str = "/canary-rpc-token-9d2e";

/// What was said, and by whom.
struct Said(Vec<(String, String)>);

impl Said {
    fn add(&mut self, who: impl Into<String>, what: impl Into<String>) {
        self.0.push((who.into(), what.into()));
    }

    /// Where a secret is found, plain, in hex or in base64, in whatever case.
    fn leaks(&self, secret: &str) -> Vec<&str> {
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        let spellings = [secret.to_owned(), hex, STANDARD.encode(secret), URL_SAFE_NO_PAD.encode(secret)];
        let spellings = spellings.map(|spelling| spelling.to_lowercase());
        let leaking = self.0.iter().filter(|(_, what)| {
            let what = what.to_lowercase();
            spellings.iter().any(|spelling| what.contains(spelling))
        });
        leaking.map(|(who, _)| who.as_str()).collect()
    }

    /// Runs a command to its end.
    fn run(&mut self, shop: &Shop, arguments: &[&str]) {
        let output = Command::new(env!("CARGO_BIN_EXE_tollhouse"))
            .args(arguments)
            .env("BASE_SEPOLIA_SIGNER", SIGNER)
            .current_dir(shop.config().parent().unwrap())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(!text.is_empty(), "{arguments:?} said nothing: that is no evidence");
        self.add(arguments.join(" "), text);
    }
}

/// A shop whose every secret is a canary. Third parties' own log lines are off by default; here they are on.
async fn open() -> Shop {
    let plan = Plan {
        server: "quote_key = { file = \"quote.key\" }".to_owned(),
        admin: "token = { file = \"admin.token\" }".to_owned(),
        upstream: "set_headers = { Authorization = { file = \"origin.header\" } }".to_owned(),
        rpc_path: RPC_PATH,
        log: "debug",
        ..Plan::default()
    };
    let mut shop = Shop::build(plan).await;
    let folder = shop.config().parent().unwrap().to_owned();
    for (name, secret) in [("quote.key", QUOTE_KEY), ("admin.token", ADMIN_TOKEN), ("origin.header", ORIGIN_HEADER)] {
        let file = folder.join(name);
        std::fs::write(&file, secret).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    }
    shop.start().await;
    shop
}

#[tokio::test]
async fn no_secret_is_in_any_output() {
    let mut shop = open().await;
    let mut said = Said(Vec::new());
    let payment = shop.payment().await;
    let header = payment.v2();
    for call in [
        Call::get("/api/data"),
        Call::get("/api/data").with("Accept", "text/html"),
        paid(&header),
        paid(&header),
        Call::get("/api/data").with("PAYMENT-SIGNATURE", "nonsense"),
        Call::get("/nowhere"),
    ] {
        said.add(format!("the proxy, {}", call.target), format!("{:?}", shop.call(&call).await));
    }
    assert_eq!(shop.origin.hits()[0].header("authorization"), Some(ORIGIN_HEADER), "the canaries are in use");
    ask_operators_listener(&shop, &mut said).await;
    // A node that fails, and one that is gone.
    for fault in [Fault::Unavailable, Fault::Error(-32_000, "no"), Fault::Drop] {
        shop.rpc.set_all(fault);
        let failed = shop.call(&paid(&fresh_header(&shop).await)).await;
        said.add("the proxy without a node", format!("{failed:?}"));
    }
    eventually("a closed network", Duration::from_secs(30), || async {
        let answer = Call::local("/networks").send(shop.admin_port).await.unwrap();
        (answer.json()["networks"][0]["ready"] == false).then_some(())
    })
    .await;
    ask_operators_listener(&shop, &mut said).await;
    for arguments in [
        &["check"][..],
        &["explain", "GET", "/api/data"],
        &["payments", "list"],
        &["payments", "list", "--json"],
        &["payments", "export"],
        &["payments", "export", "--format", "json"],
        &["payments", "show", &shop.rows().await[0].record.0],
        &["schema"],
    ] {
        said.run(&shop, arguments);
    }
    shop.rpc.clear();
    // Configurations that are wrong at a secret's place, or hold one where none may stand.
    for (from, to) in [("{ file = \"admin.token\" }", "\"canary-admin-token-5c1f\""), ("[routes]", "[routs]")] {
        let text = std::fs::read_to_string(shop.config()).unwrap();
        std::fs::write(shop.config(), text.replace(from, to)).unwrap();
        said.run(&shop, &["check"]);
        let answer = Call { host: "127.0.0.1", ..Call::post("/reload", "") }.send(shop.admin_port).await.unwrap();
        said.add("a refused reload", format!("{answer:?}"));
        std::fs::write(shop.config(), text).unwrap();
    }
    shop.gateway().terminate();
    shop.gateway().wait_end().await;
    said.add("the log", shop.log());
    // Who knocked and what was asked to be changed is in it; and it is whole.
    for line in [
        "Admin: asked to read the configuration again.",
        "Admin: refused, the request was meant for another host.",
        "Stopped.",
    ] {
        assert!(said.0.last().unwrap().1.contains(line), "{line}");
    }
    let payload: serde_json::Value = serde_json::from_str(&shop.rows().await[0].claim.payload).unwrap();
    let signature = Node::payment_secret(&payload);
    for secret in [SIGNER, QUOTE_KEY, ADMIN_TOKEN, "canary-origin-header-77aa", "canary-rpc-token-9d2e", &signature] {
        assert_eq!(said.leaks(secret), Vec::<&str>::new(), "{secret}");
    }
}

/// A fresh payment header; the terms come from the gateway's memory even while its node is gone.
async fn fresh_header(shop: &Shop) -> crate::harness::Header {
    let answer = shop.call(&Call::get("/api/data")).await;
    if answer.status == 402 { shop.payment().await.v2() } else { ("PAYMENT-SIGNATURE", "e30=".to_owned()) }
}

async fn ask_operators_listener(shop: &Shop, said: &mut Said) {
    let id = shop.rows().await[0].record.0.clone();
    for path in [
        "/",
        "/openapi.json",
        "/healthz",
        "/readyz",
        "/metrics",
        "/payments",
        "/payments?limit=0",
        "/routes",
        "/networks",
        "/signers",
        "/stats",
        "/latency",
        "/nowhere",
        &format!("/payments/{id}"),
    ] {
        let answer = Call::local(path).send(shop.admin_port).await.unwrap();
        said.add(
            format!("the operator's listener, {path}"),
            format!("{answer:?}\n{}", String::from_utf8_lossy(&answer.body)),
        );
    }
    let refused =
        Call::get("/payments").with("Authorization", format!("Bearer {ADMIN_TOKEN}")).send(shop.admin_port).await;
    said.add("the operator's listener, another host", format!("{:?}", refused.unwrap()));
}

#[test]
fn a_secret_that_is_said_is_found_however_it_is_spelled() {
    for spelling in ["xx canary-1 xx", "CANARY-1", "63616E6172792D31", "Y2FuYXJ5LTE="] {
        let said = Said(vec![("who".to_owned(), spelling.to_owned())]);
        assert_eq!(said.leaks("canary-1"), ["who"], "{spelling}");
    }
    assert!(Said(vec![("who".to_owned(), "nothing".to_owned())]).leaks("canary-1").is_empty());
}
