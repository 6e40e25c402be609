//! A shop that is opened, paid and closed, by what it prints.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::*;
use crate::cli::pay::{self, Exit, Io};
use crate::cli::{Cli, Command};

/// A shop that runs in this process, in a thread of its own.
struct Open {
    printed: String,
    state: PathBuf,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<anyhow::Result<ExitCode>>,
}

fn args(port: u16, dir: Option<&Path>) -> DevArgs {
    DevArgs { port, dir: dir.map(Path::to_owned), fund: Vec::new() }
}

impl Open {
    fn new(args: DevArgs) -> anyhow::Result<Self> {
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, readied) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let devnet = runtime("devnet", DEVNET_THREADS)?;
            let shop = devnet.block_on(Shop::open(&args))?;
            let blueprint = shop.blueprint()?;
            let stop = async move { stopped.await.unwrap_or_default() };
            let code = shop.run(blueprint, stop, |shop| {
                let mut printed = Vec::new();
                shop.print(&mut printed)?;
                ready.send((String::from_utf8(printed).unwrap(), shop.state.path().to_owned())).unwrap();
                Ok(())
            });
            devnet.shutdown_timeout(DEVNET_GRACE);
            code
        });
        match readied.recv() {
            Ok((printed, state)) => Ok(Self { printed, state, stop, thread }),
            Err(_never_ready) => Err(thread.join().unwrap().unwrap_err()),
        }
    }

    /// The word that begins so in what was printed.
    fn word(&self, line: &str, start: &str) -> String {
        let line = self.printed.lines().find(|text| text.trim_start().starts_with(line)).unwrap();
        line.split([' ', ',']).find(|word| word.starts_with(start)).unwrap().to_owned()
    }

    /// Runs the printed `pay` line, for another path of the shop.
    async fn pay(&self, path: &str) -> (Exit, Value) {
        self.pay_by(" pay --key-file ", path).await
    }

    /// Runs the printed line that holds these words, for another path of the shop.
    async fn pay_by(&self, words: &str, path: &str) -> (Exit, Value) {
        let line = self.printed.lines().find(|line| line.contains(words)).unwrap();
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let url = words.last_mut().unwrap();
        self.wait_offered(url).await;
        *url = url.replace("/weather", path);
        let payments = self.state.join("payments");
        words.extend(["--json".to_owned(), "--state-dir".to_owned(), payments.display().to_string()]);
        let Command::Pay(args) = Cli::try_parse_from(words).unwrap().command else { panic!("not pay") };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = pay::pay(&args, None, &SystemClock, &mut Io { out: &mut out, err: &mut err }).await.unwrap();
        (exit, serde_json::from_slice(&out).unwrap())
    }

    /// Networks open one by one; a payer takes what is offered when it asks.
    async fn wait_offered(&self, url: &str) {
        let networks = if cfg!(feature = "dev-solana") { 3 } else { 2 };
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = self.get(url).await;
            let terms = answer.headers().get("payment-required").map(|terms| STANDARD.decode(terms).unwrap());
            let terms: Value = terms.map(|terms| serde_json::from_slice(&terms).unwrap()).unwrap_or_default();
            let offers = terms["accepts"].as_array().map_or(&[][..], Vec::as_slice);
            let offered: BTreeSet<_> = offers.iter().filter_map(|offer| offer["network"].as_str()).collect();
            if offered.len() >= networks {
                return;
            }
            assert!(Instant::now() < deadline, "offered: {offered:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn get(&self, url: &str) -> reqwest::Response {
        client().get(url).send().await.unwrap()
    }

    async fn chain(&self, method: &str, params: Value) -> Value {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer = client().post(self.word("Chain", "http")).body(request.to_string()).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["result"].clone()
    }

    #[cfg(feature = "dev-solana")]
    async fn solana(&self, method: &str, params: Value) -> Value {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer = client().post(self.word("Solana", "http")).body(request.to_string()).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["result"].clone()
    }

    async fn tokens(&self, account: &str) -> U256 {
        let data = format!("0x70a08231{:0>64}", account.trim_start_matches("0x"));
        let answer = self.chain("eth_call", json!([{"to": TOKEN, "data": data}, "latest"])).await;
        answer.as_str().unwrap().parse().unwrap()
    }

    async fn payments(&self) -> usize {
        let books: Value = self.get(&self.word("Books", "http")).await.json().await.unwrap();
        books["payments"].as_array().unwrap().len()
    }

    fn close(self) -> PathBuf {
        let asked = Instant::now();
        self.stop.send(()).unwrap();
        assert_eq!(format!("{:?}", self.thread.join().unwrap().unwrap()), format!("{:?}", ExitCode::SUCCESS));
        assert!(asked.elapsed() < Duration::from_secs(2), "took {:?}", asked.elapsed());
        self.state
    }
}

fn client() -> reqwest::Client {
    let patience = Duration::from_secs(20);
    reqwest::Client::builder().timeout(patience).connect_timeout(patience).no_proxy().build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_lines_work_and_nothing_is_left_behind() {
    let shop = Open::new(args(21_300, None)).unwrap();
    let url = shop.word("curl -i", "http");
    let unpaid = shop.get(&url).await;
    assert_eq!(unpaid.status(), 402);
    assert!(unpaid.headers().contains_key("payment-required"));
    let (exit, answer) = shop.pay("/weather").await;
    assert_eq!((exit, &answer["status"]), (Exit::Success, &json!(200)), "{answer}");
    assert!(answer["body"].as_str().unwrap().contains("clear"));
    let receipt = shop.chain("eth_getTransactionReceipt", json!([answer["receipt"]["transaction"]])).await;
    assert_eq!(receipt["status"], "0x1");
    assert_eq!(shop.tokens(&shop.word("Payer", "0x")).await, U256::from(FUND_UNITS - 1000));
    // Somebody else comes with nothing and is given something.
    let guest = "0x00000000000000000000000000000000000A11CE";
    shop.chain("dev_mint", json!([guest])).await;
    assert_eq!(shop.tokens(guest).await, U256::from(FUND_UNITS));

    for name in ["payer.key", "gas-payer.key", "seller.key", "gateway.toml"] {
        let mode = std::fs::metadata(shop.state.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let state = shop.close();
    assert!(!state.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_on_the_menu_is_sold() {
    let shop = Open::new(args(21_310, None)).unwrap();
    let menu = shop.get(&shop.word("curl -i", "http").replace("/weather", "/")).await;
    assert_eq!(menu.status(), 200);
    assert!(menu.text().await.unwrap().contains("/stream"));
    let (exit, file) = shop.pay("/file").await;
    assert_eq!((exit, file["body"].as_str().unwrap().len()), (Exit::Success, 10 * 1024 * 1024));
    let (exit, stream) = shop.pay("/stream").await;
    assert_eq!((exit, stream["body"].as_str().unwrap().matches("data: ").count()), (Exit::Success, 5));
    let (exit, broken) = shop.pay("/flaky?fail=1").await;
    assert_eq!((exit, &broken["status"]), (Exit::Failure, &json!(500)));
    let (exit, _) = shop.pay("/flaky").await;
    assert_eq!(exit, Exit::Success);
    assert_eq!(shop.payments().await, 4);
    shop.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_line_pays_on_the_cosmos_chain_and_the_chain_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop");
    for opened in 1..=2 {
        let shop = Open::new(args(21_360, Some(&path))).unwrap();
        let (exit, answer) = shop.pay_by(" pay --network cosmos:grand-1 ", "/weather").await;
        assert_eq!((exit, &answer["receipt"]["network"]), (Exit::Success, &json!("cosmos:grand-1")), "{answer}");
        assert_eq!(answer["receipt"]["payer"], shop.word("Cosmos", "noble1").trim_end_matches(';'));
        assert_eq!(shop.payments().await, opened);
        shop.close();
    }
}

#[cfg(feature = "dev-solana")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_line_pays_on_the_solana_chain() {
    let guest = solana_pubkey::Pubkey::new_from_array([7; 32]);
    let shop = Open::new(DevArgs { fund: vec![Account::Solana(guest)], ..args(21_370, None) }).unwrap();
    let [payer, fee_payer, seller] = ["payer", "fee-payer", "seller"].map(|name| {
        let path = shop.state.join(format!("solana-{name}.json"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        solana_signer::Signer::pubkey(&solana_keypair::read_keypair_file(&path).unwrap())
    });
    let held = async |owner: solana_pubkey::Pubkey| {
        let mint = &crate::devnet::solana::USDC;
        let account = spl_associated_token_account_interface::address::get_associated_token_address(&owner, mint);
        let balance = shop.solana("getTokenAccountBalance", json!([account.to_string()])).await;
        balance["value"]["amount"].as_str().unwrap().parse::<u64>().unwrap()
    };
    let lamports = async |owner: solana_pubkey::Pubkey| {
        shop.solana("getBalance", json!([owner.to_string()])).await["value"].as_u64().unwrap()
    };
    assert_eq!((held(payer).await, held(seller).await, held(guest).await), (FUND_UNITS, 0, FUND_UNITS));
    assert_eq!((lamports(payer).await, lamports(fee_payer).await), (0, 10_000_000_000));
    for paid in 1..=2 {
        let (exit, answer) = shop.pay_by(" pay --network solana-devnet ", "/weather").await;
        assert_eq!((exit, &answer["status"]), (Exit::Success, &json!(200)), "{answer}");
        assert_eq!(answer["receipt"]["payer"], payer.to_string());
        assert_eq!((held(payer).await, held(seller).await), (FUND_UNITS - paid * 1000, paid * 1000));
        // Two signatures, and a micro-lamport for each compute unit, rounded up.
        assert_eq!(lamports(fee_payer).await, 10_000_000_000 - paid * 10_001);
    }
    assert_eq!(shop.payments().await, 2);
    // A key of the other kind goes on to pay on the other chain.
    let (exit, answer) = shop.pay("/weather").await;
    assert_eq!((exit, &answer["receipt"]["network"]), (Exit::Success, &json!("eip155:84532")), "{answer}");
    shop.close();
}

#[test]
fn accounts_of_either_chain_can_be_funded() {
    let cosmos = "noble10xcqpzrky6eff2g52qdye53xkk9jxkvrfr05cd";
    assert_eq!(cosmos.parse(), Ok(Account::Cosmos(cosmos.to_owned())));
    assert_eq!(TOKEN.to_string().parse(), Ok(Account::Evm(TOKEN)));
    for bad in ["", "noble1", "cosmos10xcqpzrky6eff2g52qdye53xkk9jxkvrfr05cd", "0x12"] {
        assert!(bad.parse::<Account>().is_err(), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_shop_opens_again_with_its_books_its_keys_and_its_chain() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop");
    let shop = Open::new(args(21_320, Some(&path))).unwrap();
    let payer = shop.word("Payer", "0x");
    let (_, first) = shop.pay("/weather").await;
    // Nobody else may open it meanwhile.
    let error = Open::new(args(21_330, Some(&path))).err().unwrap();
    assert!(error.to_string().contains("another `tollhouse dev` runs in"), "{error}");
    shop.close();

    let shop = Open::new(args(21_320, Some(&path))).unwrap();
    assert_eq!(shop.word("Payer", "0x"), payer);
    assert_eq!(shop.payments().await, 1);
    let receipt = shop.chain("eth_getTransactionReceipt", json!([first["receipt"]["transaction"]])).await;
    assert_eq!(receipt["status"], "0x1");
    let (exit, second) = shop.pay("/weather").await;
    assert_eq!(exit, Exit::Success, "{second}");
    assert_eq!(shop.payments().await, 2);
    assert!(shop.close().exists());
}

#[test]
fn a_folder_of_somebody_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.toml"), "mine").unwrap();
    let error = Open::new(args(21_340, Some(folder.path()))).err().unwrap();
    assert!(error.to_string().contains("was not made by `tollhouse dev`"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_taken_port_is_told_of_and_the_next_pair_is_used() {
    let taken = std::net::TcpListener::bind("127.0.0.1:21351").unwrap();
    let ports = GatewayPorts::find(21_350).unwrap();
    assert_eq!((ports.shop, ports.admin, ports.taken), (21_352, 21_353, Some(21_350)));
    drop(taken);
    assert!(GatewayPorts::find(u16::MAX).is_err());
}

#[test]
fn words_reach_the_shell_whole() {
    for (word, expected) in [("/a/b-c.key", "/a/b-c.key"), ("/a b", "'/a b'"), ("it's", r"'it'\''s'"), ("", "''")] {
        assert_eq!(shell_word(word), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chains_and_origin_run_without_a_gateway_where_they_are_told_to_and_are_kept() {
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chains").display().to_string();
    let guest = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";
    let held = format!("0x70a08231{:0>64}", guest.trim_start_matches("0x"));
    let mut keys = Vec::new();
    for opened in 1..=2_u64 {
        let words = ["tollhouse", "devnet", "--dir", &path, "--evm", "127.0.0.1:0", "--cosmos", "127.0.0.1:0"];
        let words = words.into_iter().chain(["--origin", "127.0.0.1:0", "--fund", guest]);
        let Command::Devnet(args) = Cli::try_parse_from(words).unwrap().command else { panic!("not devnet") };
        let devnet = devnet::Devnet::open(&args).await.unwrap();
        let place = |index: usize| devnet.places[index].rsplit(' ').next().unwrap().to_owned();
        let question = json!({"to": TOKEN, "data": held});
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [question, "latest"]});
        let answer = client().post(place(0)).body(request.to_string()).send().await.unwrap();
        let units: U256 = answer.json::<Value>().await.unwrap()["result"].as_str().unwrap().parse().unwrap();
        // What an earlier run gave is still there.
        assert_eq!(units, U256::from(opened * FUND_UNITS));
        assert!(place(1).starts_with("http://127.0.0.1:"));
        assert!(client().get(place(2)).send().await.unwrap().text().await.unwrap().contains("/weather"));
        keys.push(std::fs::read_to_string(format!("{path}/gas-payer.key")).unwrap());
    }
    assert_eq!(keys[0], keys[1]);
}

#[test]
fn a_devnet_serves_something_and_keeps_its_chains_in_a_folder() {
    for bad in [&[][..], &["--dir", "x"], &["--evm", "127.0.0.1:0"], &["--dir", "x", "--evm", "8545"]] {
        let words = ["tollhouse", "devnet"].iter().chain(bad);
        assert!(Cli::try_parse_from(words).is_err(), "{bad:?}");
    }
}
