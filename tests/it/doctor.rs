//! `tollhouse doctor`: what an operator is told before business opens, on chains that are real enough to lie about.

use std::path::Path;
use std::process::Command;

use alloy::sol;
use alloy::sol_types::SolCall;
use serde_json::{Value, json};

use crate::harness::{Chain, CosmosShop, Fault, PAY_TO, Plan, SIGNER_ADDRESS, Shop};

sol! {
    interface Token {
        function setBlacklisted(address account, bool blacklisted);
    }
}

struct Report {
    code: i32,
    findings: Vec<Value>,
    text: String,
}

/// Runs it twice, for people and for programs; both end the same way.
async fn doctor(config: &Path, environment: &[(&str, String)]) -> Report {
    let run = |json: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollhouse"));
        command.args(["doctor", "--config"]).arg(config).args(json.then_some("--json"));
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command.envs(environment.iter().map(|(name, value)| (*name, value)));
        // The chains' proxies and the origin run on this thread.
        async {
            let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
        }
    };
    let (code, text) = run(false).await;
    let (json_code, json) = run(true).await;
    assert_eq!(code, json_code, "{text}{json}");
    let report: Value = serde_json::from_str(&json).unwrap_or_else(|_error| panic!("{json}"));
    for (_, secret) in environment.iter().filter(|(_, secret)| !secret.is_empty()) {
        assert!(!text.contains(secret.as_str()) && !json.contains(secret.as_str()), "a key is shown");
    }
    Report { code, findings: report["findings"].as_array().unwrap().clone(), text }
}

async fn of<N: Chain>(shop: &Shop<N>) -> Report {
    doctor(&shop.config(), &shop.node.environment(&shop.plan)).await
}

impl Report {
    fn with(&self, status: &str) -> Vec<&Value> {
        self.findings.iter().filter(|finding| finding["status"] == status).collect()
    }

    /// The only failure is this one, and it comes with a hint and exit code 1.
    fn fails(&self, subject: &str, finding: &str) {
        let failures = self.with("fail");
        let [failure] = failures.as_slice() else { panic!("{}", self.text) };
        let says = |field: &str, text: &str| failure[field].as_str().unwrap_or_default().contains(text);
        assert!(says("subject", subject) && says("finding", finding), "{failure}");
        assert!(failure["hint"].is_string(), "{failure}");
        assert_eq!(self.code, 1);
    }

    /// Nothing fails, and this is warned of.
    fn warns(&self, subject: &str, finding: &str) {
        let is_it = |it: &&Value| {
            let says = |field: &str, text: &str| it[field].as_str().unwrap_or_default().contains(text);
            says("subject", subject) && says("finding", finding) && it["hint"].is_string()
        };
        assert!(self.with("warn").iter().any(is_it), "{}", self.text);
        assert!(self.with("fail").is_empty() && self.code == 0, "{}", self.text);
    }
}

#[tokio::test]
async fn where_all_is_well_every_line_says_so_and_the_running_gateway_is_not_disturbed() {
    let shop = Shop::open().await;
    shop.buy().await;
    let report = of(&shop).await;
    assert_eq!((report.code, report.findings.len()), (0, report.with("ok").len()), "{}", report.text);
    for subject in ["configuration", "ledger", "endpoint", "clock", "asset", "pay_to", "signer", "origin", "402"] {
        assert!(report.text.contains(&format!(" {subject}")), "{subject}: {}", report.text);
    }
    // The books were not disturbed.
    shop.buy().await;
    shop.audit().await;
}

#[tokio::test]
async fn what_is_wrong_on_an_evm_chain_is_told_one_by_one() {
    let mut shop = Shop::open().await;
    shop.rpc.set("eth_chainId", Fault::Result(json!("0x1")));
    of(&shop).await.fails("base-sepolia endpoint 1", "serves chain 1, expected 84532");
    shop.rpc.clear();
    shop.rpc.set_all(Fault::Drop);
    of(&shop).await.fails("base-sepolia endpoint 1", "connection failed");
    shop.rpc.clear();
    shop.node.rpc("anvil_setBalance", json!([SIGNER_ADDRESS, "0x0"])).await;
    of(&shop).await.fails("base-sepolia signer", "not enough for one payment");
    shop.node.rpc("anvil_setBalance", json!([SIGNER_ADDRESS, "0xde0b6b3a7640000"])).await;
    let call = Token::setBlacklistedCall { account: PAY_TO, blacklisted: true };
    shop.node.transact(call.abi_encode(), None).await;
    of(&shop).await.fails("base-sepolia pay_to", "blacklist");
    shop.gateway().kill();
}

#[tokio::test]
async fn an_endpoint_that_lags_is_a_warning() {
    let mut shop = Shop::open().await;
    let mut block = shop.node.rpc("eth_getBlockByNumber", json!(["latest", false])).await;
    shop.node.rpc("anvil_mine", json!(["0x14"])).await;
    // Behind the proxy the chain stands where it was.
    block["baseFeePerGas"] = json!("0x7");
    shop.rpc.set("eth_getBlockByNumber", Fault::Result(block));
    let text = std::fs::read_to_string(shop.config()).unwrap();
    let (behind, well) = (shop.rpc.port, shop.node.port);
    let one = format!("rpc_url = \"http://127.0.0.1:{behind}\"");
    let two = format!("rpc_url = [\"http://127.0.0.1:{well}\", \"http://127.0.0.1:{behind}/secret-token\"]");
    assert!(text.contains(&one), "{text}");
    std::fs::write(shop.config(), text.replace(&one, &two)).unwrap();
    let report = of(&shop).await;
    report.warns("base-sepolia endpoint 2", "behind the best endpoint");
    assert!(!report.text.contains("secret-token"), "{}", report.text);
    shop.gateway().kill();
}

#[tokio::test]
async fn an_origin_that_is_down_is_told() {
    let mut shop = Shop::open().await;
    let text = std::fs::read_to_string(shop.config()).unwrap();
    let origin = format!("127.0.0.1:{}", shop.origin.port);
    std::fs::write(shop.config(), text.replace(&origin, "127.0.0.1:9")).unwrap();
    of(&shop).await.fails("origin api (127.0.0.1:9)", "can't connect");
    shop.gateway().kill();
}

#[tokio::test]
async fn the_public_url_is_followed_to_the_running_gateway() {
    let mut shop = Shop::open().await;
    let text = std::fs::read_to_string(shop.config()).unwrap();
    let public =
        |port: u16| text.replacen("[server]\n", &format!("[server]\npublic_url = \"http://127.0.0.1:{port}\"\n"), 1);
    // The gateway takes up what its file says by itself; until then it names another resource.
    std::fs::write(shop.config(), public(shop.admin_port)).unwrap();
    of(&shop).await.fails("public_url", "instead of 402");
    shop.gateway().kill();
    of(&shop).await.warns("public_url", "no gateway");
}

#[tokio::test]
async fn a_missing_token_account_is_told_with_the_command_that_makes_it() {
    let mut shop = Shop::open_on_solana(Plan::default()).await;
    assert_eq!(of(&shop).await.code, 0, "{}", of(&shop).await.text);
    let text = std::fs::read_to_string(shop.config()).unwrap();
    let stranger = "9B5XszUGdMaxCZ7uSQhPzdks5ZQSmWxrmzCSvtJ6Ns6g";
    let pay_to = crate::harness::for_rig::SOLANA_PAY_TO.to_string();
    std::fs::write(shop.config(), text.replace(&pay_to, stranger)).unwrap();
    let report = of(&shop).await;
    report.fails("solana-devnet pay_to", "has no token account");
    assert!(report.text.contains("hint: create it with: spl-token create-account"), "{}", report.text);
    shop.gateway().kill();
}

#[tokio::test]
async fn a_cosmos_chain_is_examined_like_the_others() {
    let mut shop = CosmosShop::open().await;
    let report = doctor(&shop.config(), &[]).await;
    // No v1 client and no official v2 client knows the chain.
    report.warns("402 of", "only v2 clients can pay");
    shop.gateway().kill();
}
