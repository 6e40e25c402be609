//! The books: compared with the chain, restored from an old copy, and refunds noted in them while the gateway works.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use alloy::primitives::U256;
use serde_json::{Value, json};
use solana_signer::Signer;
use tollhouse::devnet::cosmos::{COSMOS_DENOM, Dialect};
use tollhouse::ledger::{PaymentRecord, PaymentState};

use crate::crashes::killed_at;
use crate::harness::{
    Answer, Call, Chain, CosmosPlan, CosmosShop, Fault, PAY_TO, PRICE, Payment, Plan, SIGNER_ADDRESS, Serve, Shop,
    Terms, Transfer, Wallet, eventually, paid,
};

/// Runs `tollhouse payments …` on a gateway's books.
async fn run(config: &Path, environment: Vec<(&'static str, String)>, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollhouse"));
    command.arg("payments").args(words).arg("--config").arg(config).envs(environment);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The same on the shop's books.
async fn payments<N: Chain>(shop: &Shop<N>, words: &[&str]) -> Output {
    run(&shop.config(), shop.node.environment(&shop.plan), words).await
}

async fn reconcile<N: Chain>(shop: &Shop<N>) -> (Option<i32>, Value) {
    report(&payments(shop, &["reconcile", "--json"]).await)
}

fn report(output: &Output) -> (Option<i32>, Value) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.code(), report)
}

fn kinds(report: &Value) -> Vec<&str> {
    report["differences"].as_array().unwrap().iter().map(|it| it["kind"].as_str().unwrap()).collect()
}

async fn write<N: Chain>(shop: &Shop<N>, statement: String) {
    write_to(&shop.ledger_file(), statement).await;
}

async fn write_to(file: &Path, statement: String) {
    use sqlx::{ConnectOptions, Connection};
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
    let mut connection = options.connect().await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn books_and_chain_that_agree_show_no_difference_and_every_disagreement_is_printed() {
    let mut shop = Shop::open().await;
    for _ in 0..3 {
        shop.buy().await;
    }
    shop.wait_state(PaymentState::Served).await;
    let (code, report) = reconcile(&shop).await;
    assert_eq!((code, kinds(&report)), (Some(0), vec![]), "{report}");
    assert_eq!((report["payments"].as_u64(), report["transfers"].as_u64()), (Some(3), Some(3)), "{report}");
    let fees: Vec<_> = shop.rows().await.iter().map(|row| row.settlement.clone().unwrap().fee).collect();
    assert!(fees.iter().all(|fee| fee.is_some_and(|fee| !fee.is_zero())), "{fees:?}");
    shop.node.mint(PAY_TO, PRICE).await;
    let (code, report) = reconcile(&shop).await;
    assert_eq!((code, kinds(&report)), (Some(1), vec!["unknown_transfer"]), "{report}");
    shop.gateway().kill();
    let rows = shop.rows().await;
    let set = |row: usize, values: &str| format!("UPDATE payments SET {values} WHERE record = '{}'", rows[row].record);
    write(&shop, set(0, "state = 'failed', settled_transaction = NULL")).await;
    write(&shop, set(1, &format!("settled_transaction = '0x{}'", "ab".repeat(32)))).await;
    write(&shop, set(2, "settled_block_hash = '0x00'")).await;
    let (code, report) = reconcile(&shop).await;
    let mut found = kinds(&report);
    found.sort_unstable();
    assert_eq!((code, found), (Some(1), vec!["landed", "missing", "other_block", "unknown_transfer"]), "{report}");
    shop.rpc.set_all(Fault::Drop);
    let (code, report) = reconcile(&shop).await;
    assert_eq!((code, kinds(&report).len()), (Some(4), 0), "{report}");
    assert!(!report["unasked"].as_array().unwrap().is_empty(), "{report}");
}

#[tokio::test]
async fn books_and_solana_that_agree_show_no_difference_and_every_disagreement_is_printed() {
    let mut shop = Shop::open_on_solana(Plan::default()).await;
    for _ in 0..3 {
        shop.buy().await;
    }
    let (code, report) = reconcile(&shop).await;
    assert_eq!((code, kinds(&report)), (Some(0), vec![]), "{report}");
    assert_eq!(report["payments"].as_u64(), Some(3), "{report}");
    shop.gateway().kill();
    let rows = shop.rows().await;
    let set = |row: usize, values: &str| format!("UPDATE payments SET {values} WHERE record = '{}'", rows[row].record);
    write(&shop, set(0, "state = 'failed', settled_transaction = NULL")).await;
    write(&shop, set(1, "settled_block = settled_block - 1")).await;
    let (code, report) = reconcile(&shop).await;
    let mut found = kinds(&report);
    found.sort_unstable();
    assert_eq!((code, found), (Some(1), vec!["landed", "other_block"]), "{report}");
    // Books that don't know a payment at all.
    write(&shop, format!("DELETE FROM attempts WHERE record = '{}'", rows[2].record)).await;
    write(&shop, format!("DELETE FROM payments WHERE record = '{}'", rows[2].record)).await;
    let (code, report) = reconcile(&shop).await;
    let mut found = kinds(&report);
    found.sort_unstable();
    assert_eq!((code, found), (Some(1), vec!["landed", "other_block", "unknown_transfer"]), "{report}");
    let unknown = report["differences"].as_array().unwrap().iter().find(|it| it["kind"] == "unknown_transfer").unwrap();
    assert_eq!(unknown["transaction"], rows[2].settlement.as_ref().unwrap().transaction.as_str());
    assert_eq!(unknown["amount"], PRICE.to_string());
}

#[tokio::test]
async fn books_and_a_cosmos_chain_that_agree_show_no_difference_and_every_disagreement_is_printed() {
    for dialect in [Dialect::Sdk053, Dialect::Sdk043] {
        let mut shop = CosmosShop::open_with(CosmosPlan { dialect, ..CosmosPlan::default() }).await;
        for _ in 0..3 {
            shop.buy().await;
        }
        let asked = || async { report(&run(&shop.config(), Vec::new(), &["reconcile", "--json"]).await) };
        let (code, report) = asked().await;
        assert_eq!((code, kinds(&report)), (Some(0), vec![]), "{report}");
        assert_eq!((report["payments"].as_u64(), report["transfers"].as_u64()), (Some(3), Some(0)), "{report}");
        // Money that nobody paid through the gateway.
        let other = Wallet::new(9);
        shop.chain.fund(&other.address(), COSMOS_DENOM, 1_000_000).unwrap();
        let (number, sequence) = shop.chain.account(&other.address()).unwrap();
        let sent = Transfer::new(&other, &shop.pay_to, number, sequence);
        shop.chain.hand_in(&sent.direct()).unwrap();
        let file = shop.config().with_file_name("tollhouse.db");
        let transfer = eventually("the transfer", Duration::from_secs(10), || async {
            let (_, report) = asked().await;
            let found = report["differences"].as_array().unwrap().first().cloned();
            found.filter(|it| it["kind"] == "unknown_transfer")
        })
        .await;
        assert_eq!(transfer["amount"], sent.amount.to_string());
        let rows = shop.rows().await;
        let set =
            |row: usize, values: &str| format!("UPDATE payments SET {values} WHERE record = '{}'", rows[row].record);
        write_to(&file, set(0, "state = 'failed', settled_transaction = NULL")).await;
        write_to(&file, set(1, "settled_block = settled_block - 1")).await;
        let (code, report) = asked().await;
        let mut found = kinds(&report);
        found.sort_unstable();
        assert_eq!((code, found), (Some(1), vec!["landed", "other_block", "unknown_transfer"]), "{report}");
        shop.gateway().kill();
    }
}

/// What the gas payer has, in wei.
async fn gas_left(shop: &Shop) -> U256 {
    shop.node.rpc("eth_getBalance", json!([SIGNER_ADDRESS, "latest"])).await.as_str().unwrap().parse().unwrap()
}

/// Presents a payment whose payer's money is gone by the time its settlement is mined; gives the client's connection.
async fn present_and_empty(shop: &Shop, payment: &Payment) -> tokio::net::TcpStream {
    let client = shop.present_and_hold(&paid(&payment.v2())).await;
    shop.node.empty(shop.payer.address).await;
    shop.rpc.clear();
    client
}

/// Every view of the books tells what the one failed settlement cost: what its receipt says, and what is gone.
async fn assert_burnt(shop: &Shop, row: &PaymentRecord, gas_before: U256) {
    let receipt = shop.node.rpc("eth_getTransactionReceipt", json!([row.failed_transaction])).await;
    assert_eq!(receipt["status"], "0x0", "{receipt}");
    let quantity = |name: &str| receipt[name].as_str().unwrap().parse::<U256>().unwrap();
    let burnt = quantity("gasUsed") * quantity("effectiveGasPrice");
    assert_eq!(gas_before - gas_left(shop).await, burnt);
    assert_eq!((row.fee, &row.settlement), (Some(burnt.into()), &None));
    let burnt = burnt.to_string();
    let answers = async |words: &[&str]| {
        let output = payments(shop, words).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let shown = read(&answers(&["show", &row.record.0, "--json"]).await);
    assert_eq!(
        (&shown["state"], &shown["fee"], &shown["transaction"]),
        (&json!("failed"), &json!(burnt), &Value::Null)
    );
    assert!(answers(&["show", &row.record.0]).await.contains(&format!("({burnt} of the smallest native unit)")));
    assert_eq!(read(&answers(&["list", "--json"]).await)[0]["fee"], burnt);
    let sums = read(&answers(&["list", "--by", "network", "--json"]).await);
    let (fees, count, moved) = (&sums[0]["fees"], &sums[0]["fees_count"], &sums[0]["moved_count"]);
    assert_eq!((fees, count, moved), (&json!(burnt), &json!(1), &json!(0)), "{sums}");
    assert!(answers(&["export"]).await.contains(&format!(",{burnt},")));
    let path = format!("/payments/{}", row.record);
    let answer = Call::local(&path).send(shop.admin_port).await.unwrap();
    assert_eq!(read(&String::from_utf8(answer.body).unwrap())["fee"], burnt);
}

#[tokio::test]
async fn what_a_settlement_that_reverts_burns_is_in_the_books_to_the_wei() {
    let shop = Shop::open().await;
    let gas_before = gas_left(&shop).await;
    let payment = shop.payment().await;
    let client = present_and_empty(&shop, &payment).await;
    let outcome = Answer::read(client).await.unwrap().outcome().unwrap();
    assert_eq!(outcome["errorReason"], "invalid_exact_evm_transaction_failed");
    let row = shop.wait_state(PaymentState::Failed).await;
    assert_burnt(&shop, &row, gas_before).await;
    shop.audit().await;
}

#[tokio::test]
async fn killed_between_a_settlements_failure_and_its_record_the_next_run_books_what_it_burnt() {
    let mut shop = Shop::open_with(killed_at("post_confirm_pre_w2=return")).await;
    let gas_before = gas_left(&shop).await;
    let payment = shop.payment().await;
    let _lost = present_and_empty(&shop, &payment).await;
    assert!(!shop.gateway().wait_end().await.success());
    let rows = shop.rows().await;
    assert_eq!((rows[0].state, rows[0].fee), (PaymentState::Signed, None));
    shop.restart().await;
    let row = shop.wait_state(PaymentState::Failed).await;
    assert_burnt(&shop, &row, gas_before).await;
    Terms::read(&shop.present(&payment.v2()).await);
    shop.audit().await;
}

#[tokio::test]
async fn what_a_transaction_that_fails_on_solana_burns_is_in_the_books_to_the_lamport() {
    let shop = Shop::open_on_solana(Plan::default()).await;
    let fee_payer = shop.node.signer.pubkey();
    let before = shop.node.lamports(&fee_payer).await;
    let client = shop.present_and_hold(&paid(&shop.payment().await.v2())).await;
    shop.node.fund(&shop.payer, 0).await;
    shop.rpc.clear();
    let outcome = Answer::read(client).await.unwrap().outcome().unwrap();
    assert_eq!(outcome["errorReason"], "invalid_exact_svm_transaction_failed");
    let row = shop.wait_state(PaymentState::Failed).await;
    let burnt = before - shop.node.lamports(&fee_payer).await;
    assert!(burnt > 0);
    assert_eq!((row.fee, &row.settlement), (Some(burnt.into()), &None));
    let shown = payments(&shop, &["show", &row.record.0, "--json"]).await;
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&shown["state"], &shown["fee"]), (&json!("failed"), &json!(burnt.to_string())));
    shop.audit().await;
}

/// A copy of the books, made while the gateway works.
async fn copied(shop: &Shop) -> PathBuf {
    let copy = shop.ledger_file().with_file_name("copy.db");
    write(shop, format!("VACUUM INTO '{}'", copy.display())).await;
    copy
}

/// Kills the gateway and puts a copy in its books' place.
fn put_back(shop: &mut Shop, copy: &Path) {
    shop.gateway().kill();
    for end in ["-wal", "-shm"] {
        let mut name = shop.ledger_file().into_os_string();
        name.push(end);
        let _none = std::fs::remove_file(name);
    }
    std::fs::copy(copy, shop.ledger_file()).unwrap();
}

/// A payment whose answer is due.
async fn due(shop: &Shop) -> Payment {
    shop.origin.then([Serve::Status(503)]);
    let due = shop.payment().await;
    assert_eq!(shop.present(&due.v2()).await.status, 503);
    shop.wait_state(PaymentState::Paid).await;
    due
}

#[tokio::test]
async fn a_restored_old_ledger_is_noticed_charges_nobody_again_and_answers_nothing_twice() {
    let mut shop = Shop::open().await;
    shop.buy().await;
    let due = due(&shop).await;
    let copy = copied(&shop).await;
    assert_eq!(shop.present(&due.v2()).await.status, 200);
    let later = shop.buy().await;
    shop.wait_state(PaymentState::Served).await;
    let (hits, moved) = (shop.priced_hits(), shop.node.transfers().await.len());
    put_back(&mut shop, &copy);
    let (code, report) = reconcile(&shop).await;
    assert_eq!((code, kinds(&report)), (Some(1), vec!["signer_ahead", "unknown_transfer"]), "{report}");
    shop.start().await;
    assert!(shop.log().contains("The ledger is older than the chain"));
    let answer = shop.present(&due.v2()).await;
    assert!(answer.status == 409 && !answer.has_terms(), "{answer:?}");
    shop.wait_state(PaymentState::Owed).await;
    // The books don't know it, and the chain says that it is spent.
    assert_eq!(shop.present(&later.v2()).await.status, 402);
    assert_eq!((shop.priced_hits(), shop.node.transfers().await.len()), (hits, moved));
    shop.buy().await;
    // What was found is in the books: a restart after it changes nothing.
    shop.restart().await;
    assert!(!shop.log().contains("The ledger is older than the chain"));
    assert_eq!(shop.present(&due.v2()).await.status, 409);
    assert_eq!((shop.priced_hits(), shop.node.transfers().await.len()), (hits + 1, moved + 1));
}

#[tokio::test]
async fn a_restored_old_ledger_answers_nothing_before_it_was_compared_with_the_chain() {
    let mut shop = Shop::open_with(Plan { network: "settle_timeout = \"3s\"".to_owned(), ..Plan::default() }).await;
    shop.buy().await;
    let due = due(&shop).await;
    // Signed, and not sent yet, when the copy is made.
    let signed = shop.payment().await;
    let client = shop.present_and_hold(&paid(&signed.v2())).await;
    let copy = copied(&shop).await;
    shop.rpc.clear();
    assert_eq!(Answer::read(client).await.unwrap().status, 200);
    assert_eq!(shop.present(&due.v2()).await.status, 200);
    shop.buy().await;
    let (hits, moved) = (shop.priced_hits(), shop.node.transfers().await.len());
    put_back(&mut shop, &copy);
    shop.rpc.set_all(Fault::Drop);
    shop.start_until("/healthz").await;
    // As long as it takes to look for what nobody works on.
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        for header in [due.v2(), signed.v2()] {
            let answer = shop.present(&header).await;
            assert!(answer.status == 503 && !answer.has_terms(), "{answer:?}");
            assert_eq!(answer.error(), "settlement_pending");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    shop.rpc.clear();
    for header in [due.v2(), signed.v2()] {
        let answer = shop.present_until_decided(&header).await;
        assert!(answer.status == 409 && answer.error() == "payment_owed", "{answer:?}");
    }
    assert_eq!((shop.priced_hits(), shop.node.transfers().await.len()), (hits, moved));
}

#[tokio::test]
async fn killed_before_it_notes_that_its_ledger_is_old_a_gateway_notices_it_again() {
    let mut shop = Shop::open().await;
    shop.buy().await;
    let due = due(&shop).await;
    let copy = copied(&shop).await;
    assert_eq!(shop.present(&due.v2()).await.status, 200);
    shop.buy().await;
    let (hits, moved) = (shop.priced_hits(), shop.node.transfers().await.len());
    put_back(&mut shop, &copy);
    shop.plan.failpoints = "post_withhold=return".to_owned();
    for _ in 0..2 {
        assert!(!shop.launch().wait_end().await.success());
    }
    assert_eq!(shop.wait_state(PaymentState::Owed).await.deliveries, 2);
    shop.restart().await;
    assert!(shop.log().contains("The ledger is older than the chain"));
    let answer = shop.present(&due.v2()).await;
    assert!(answer.status == 409 && answer.error() == "payment_owed", "{answer:?}");
    assert_eq!((shop.priced_hits(), shop.node.transfers().await.len()), (hits, moved));
}

#[tokio::test]
async fn a_refund_is_noted_while_the_gateway_works_and_checked_on_chain() {
    let mut shop = Shop::open().await;
    shop.origin.then([Serve::Status(503), Serve::Status(503)]);
    let payment = shop.payment().await;
    for _ in 0..2 {
        assert_eq!(shop.present(&payment.v2()).await.status, 503);
    }
    let owed = shop.wait_state(PaymentState::Owed).await;
    let id = owed.record.0.as_str();
    let refund = format!("0x{}", "cd".repeat(32));
    let noted = payments(&shop, &["resolve", id, "--tx", &refund, "--note", "by hand"]).await;
    let warning = String::from_utf8_lossy(&noted.stderr).into_owned();
    assert!(noted.status.success() && warning.contains("doesn't know"), "{noted:?}");
    let again = payments(&shop, &["resolve", id, "--tx", &refund]).await;
    assert!(again.status.success() && again.stderr.is_empty(), "{again:?}");
    let other = payments(&shop, &["resolve", id, "--tx", &format!("0x{}", "ef".repeat(32))]).await;
    assert!(!other.status.success(), "{other:?}");
    shop.buy().await;
    let served = shop.wait_state(PaymentState::Served).await;
    let refused = payments(&shop, &["resolve", &served.record.0, "--tx", &refund]).await;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("only an owed payment"), "{refused:?}");
    let list = payments(&shop, &["list", "--state", "owed", "--unresolved", "--json"]).await;
    assert_eq!(String::from_utf8_lossy(&list.stdout), "[]\n");
    // Nor does the operator's listener call it open any more, which is what the dashboard asks.
    let count = async |query: &str| {
        let answer = Call::local(&format!("/payments?{query}")).send(shop.admin_port).await.unwrap();
        let page: Value = serde_json::from_slice(&answer.body).unwrap();
        page["payments"].as_array().unwrap().iter().map(|row| row["resolved_at_millis"].is_i64()).collect::<Vec<_>>()
    };
    assert_eq!(count("state=owed").await, [true]);
    assert!(count("state=owed&unresolved=true").await.is_empty());
    assert_eq!(count("unresolved=true").await, [false]);
    let show = payments(&shop, &["show", id, "--json"]).await;
    let row: Value = serde_json::from_slice(&show.stdout).unwrap();
    assert_eq!((&row["state"], &row["refund_transaction"]), (&"owed".into(), &refund.as_str().into()));
    assert_eq!(row["refund_note"], "by hand");
    // Whoever presents it again is told the same, and pays nothing.
    assert_eq!(shop.present(&payment.v2()).await.status, 409);
    shop.restart().await;
    assert_eq!(shop.present(&payment.v2()).await.status, 409);
    shop.audit().await;
}
