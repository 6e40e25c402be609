//! The commands against a real ledger file.

use std::sync::Arc;

use super::*;
use crate::ledger::{
    BooksReader, ClaimOutcome, Holder, Ledger, NewAttempt, NewPayment, Settlement, SqliteLedger, SqliteReader,
};
use crate::types::{AccountId, AssetId, AtomicAmount, ManualClock, UnixMillis};

const USDC: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
const CANARIES: [&str; 3] = ["canary-signature", "Y2FuYXJ5", "63616e617279"];

fn new_payment(nonce: u32) -> NewPayment {
    NewPayment {
        id: PaymentId(format!("eip155:84532/{USDC}/0xpayer/{nonce}")),
        payload_digest: [1; 32],
        fingerprint: [2; 32],
        redeliverable: true,
        holder: Holder::Quote([3; 32]),
        route: "GET,POST /api".to_owned(),
        request: format!("GET /api?n={nonce}"),
        terms: "{}".to_owned(),
        wait_for: "confirmed".to_owned(),
        confirmations: 1,
        pay_to_exclusive: false,
        network: Network::evm(84532),
        asset: AssetId::new(USDC).unwrap(),
        payer: AccountId::new("0xpayer").unwrap(),
        pay_to: AccountId::new("0xshop").unwrap(),
        amount: AtomicAmount::from(10_000),
        payload: r#"{"signature":"canary-signature"}"#.to_owned(),
        valid_until: UnixMillis::from_secs(2_000_000_000),
        signer: None,
        claimed_at: UnixMillis::from_secs(1_767_225_600 + u64::from(nonce)),
        identifier: None,
    }
}

/// Books with a signed payment and a paid one; gives the directory, the reader and the paid one's id.
async fn books() -> (tempfile::TempDir, BooksReader, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("books.db");
    let clock = Arc::new(ManualClock::new(UnixMillis::from_secs(1_767_225_600)));
    let ledger = SqliteLedger::open(&path, clock).await.unwrap();
    let mut last = None;
    for nonce in [1, 2] {
        let sign = Box::new(move |_nonce| {
            let transaction = format!("0xtx{nonce}");
            let raw = b"canary".to_vec();
            Ok(NewAttempt { signer: None, account_nonce: None, transaction, raw, fee_max: "5".to_owned() })
        });
        let ClaimOutcome::Claimed(record) = ledger.claim(new_payment(nonce), sign).await.unwrap() else {
            panic!("not claimed")
        };
        last = Some(record.record);
    }
    let record = last.unwrap();
    let settlement = Settlement {
        transaction: "0xtx2".to_owned(),
        block: 7,
        block_hash: "0xb".to_owned(),
        is_external: false,
        fee: Some(AtomicAmount::from(77)),
    };
    ledger.record_paid(&record, settlement, false).await.unwrap();
    ledger.close().await;
    let reader = BooksReader::Sqlite(SqliteReader::open(&path).await.unwrap());
    (directory, reader, record.0)
}

async fn output(reader: &BooksReader, command: PaymentsCommand) -> String {
    let mut out = Vec::new();
    read(reader, command, &Units::default(), &mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    for canary in CANARIES {
        assert!(!text.contains(canary), "{canary} in {text}");
    }
    text
}

#[tokio::test]
async fn the_list_is_newest_first_with_the_totals_below() {
    let (_directory, reader, record) = books().await;
    let list = PaymentsCommand::List { filter: FilterArgs::default(), limit: 50, by: None, json: false };
    let text = output(&reader, list).await;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("RECORD"), "{text}");
    assert!(lines[1].starts_with(&record) && lines[1].contains("paid"), "{text}");
    assert!(lines[1].contains("0.01 USDC") && lines[1].ends_with("GET /api?n=2"), "{text}");
    assert!(lines[2].contains("signed") && lines[2].contains("0xtx1"), "{text}");
    assert!(lines[3].is_empty() && lines.len() == 6, "{text}");
    assert!(text.contains("0.01 USDC on base-sepolia (eip155:84532)"), "{text}");
}

#[tokio::test]
async fn filters_and_limits_hold_in_json_too() {
    let (_directory, reader, record) = books().await;
    let filter = FilterArgs { states: vec![PaymentState::Paid], ..FilterArgs::default() };
    let text = output(&reader, PaymentsCommand::List { filter, limit: 50, by: None, json: true }).await;
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!(rows[0]["record"], record);
    assert_eq!(rows[0]["amount"], "10000");
    let elsewhere = FilterArgs { network: Some(Network::evm(1)), ..FilterArgs::default() };
    assert_eq!(
        output(&reader, PaymentsCommand::List { filter: elsewhere, limit: 50, by: None, json: true }).await,
        "[]\n"
    );
    let one = PaymentsCommand::List { filter: FilterArgs::default(), limit: 1, by: None, json: true };
    let rows: serde_json::Value = serde_json::from_str(&output(&reader, one).await).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn one_payment_is_shown_by_either_id() {
    let (_directory, reader, record) = books().await;
    for id in [record.clone(), new_payment(2).id.0] {
        let text = output(&reader, PaymentsCommand::Show { id: id.clone(), json: false }).await;
        assert!(text.contains("0xtx2") && text.contains("state         paid"), "{id}: {text}");
        let object: serde_json::Value =
            serde_json::from_str(&output(&reader, PaymentsCommand::Show { id, json: true }).await).unwrap();
        assert_eq!(object["attempts"][0]["transaction"], "0xtx2");
        assert_eq!(object["block"], 7);
    }
    let missing = PaymentsCommand::Show { id: "pay_0".to_owned(), json: false };
    assert!(read(&reader, missing, &Units::default(), &mut Vec::new()).await.is_err());
}

#[tokio::test]
async fn the_export_holds_every_payment_oldest_first() {
    let (_directory, reader, record) = books().await;
    let export = |format| PaymentsCommand::Export { filter: FilterArgs::default(), format };
    let text = output(&reader, export(ExportFormat::Csv)).await;
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].starts_with("record,payment,state,"), "{text}");
    assert!(lines[1].contains("GET /api?n=1") && lines[1].contains("\"GET,POST /api\""), "{text}");
    assert!(lines[2].starts_with(&record), "{text}");
    let rows: serde_json::Value = serde_json::from_str(&output(&reader, export(ExportFormat::Json)).await).unwrap();
    assert_eq!(rows[1]["record"], record);
}

#[tokio::test]
async fn sums_add_up_exactly_by_each_property_and_leave_out_what_did_not_move() {
    let (_directory, reader, _record) = books().await;
    let sums = async |by| {
        let list = PaymentsCommand::List { filter: FilterArgs::default(), limit: 50, by: Some(by), json: true };
        serde_json::from_str::<serde_json::Value>(&output(&reader, list).await).unwrap()
    };
    for (by, key) in [
        (By::Route, "GET,POST /api"),
        (By::Payer, "0xpayer"),
        (By::Asset, USDC),
        (By::Day, "2026-01-01"),
        (By::Network, "eip155:84532"),
    ] {
        let rows = sums(by).await;
        assert_eq!(rows.as_array().unwrap().len(), 1, "{by:?}");
        let row = &rows[0];
        assert_eq!((row["key"].as_str(), row["payments"].as_u64()), (Some(key), Some(2)), "{by:?}");
        assert_eq!((row["moved"].as_str(), row["moved_count"].as_u64()), (Some("10000"), Some(1)), "{by:?}");
        assert_eq!(row["moved_decimal"], "0.01");
        assert_eq!((row["fees"].as_str(), row["fees_decimal"].as_str()), (Some("77"), Some("0.000000000000000077")));
    }
    assert_eq!(sums(By::State).await.as_array().unwrap().len(), 2);
    let list = PaymentsCommand::List { filter: FilterArgs::default(), limit: 50, by: Some(By::Route), json: false };
    let text = output(&reader, list).await;
    assert!(text.contains("GET,POST /api") && text.contains("0.01 USDC (1)"), "{text}");
}

#[tokio::test]
async fn payments_are_found_by_route_payer_asset_and_day() {
    let (_directory, reader, _record) = books().await;
    let count = async |filter: FilterArgs| {
        let list = PaymentsCommand::List { filter, limit: 50, by: None, json: true };
        let rows: serde_json::Value = serde_json::from_str(&output(&reader, list).await).unwrap();
        rows.as_array().unwrap().len()
    };
    let day = |text: &str| Some(period::parse(text).unwrap());
    let all = FilterArgs::default;
    assert_eq!(count(FilterArgs { route: Some("GET,POST /api".to_owned()), ..all() }).await, 2);
    assert_eq!(count(FilterArgs { route: Some("GET /api".to_owned()), ..all() }).await, 0);
    assert_eq!(count(FilterArgs { payer: Some(AccountId::new("0xPAYER").unwrap()), ..all() }).await, 2);
    assert_eq!(count(FilterArgs { payer: Some(AccountId::new("0xother").unwrap()), ..all() }).await, 0);
    assert_eq!(count(FilterArgs { asset: Some(AssetId::new(USDC.to_lowercase()).unwrap()), ..all() }).await, 2);
    assert_eq!(count(FilterArgs { since: day("2026-01-01"), until: day("2026-01-01"), ..all() }).await, 2);
    assert_eq!(count(FilterArgs { since: day("2026-01-02"), ..all() }).await, 0);
    assert_eq!(count(FilterArgs { until: day("2025-12-31"), ..all() }).await, 0);
    assert_eq!(count(FilterArgs { since: day("2026-01-01T00:00:02Z"), ..all() }).await, 1, "a moment, not a day");
}

#[tokio::test]
async fn the_export_tells_amounts_and_fees_in_units_and_in_whole_coins() {
    let (_directory, reader, _record) = books().await;
    let export = PaymentsCommand::Export { filter: FilterArgs::default(), format: ExportFormat::Csv };
    let text = output(&reader, export).await;
    let lines: Vec<&str> = text.split("\r\n").collect();
    let end = "failed_transaction,amount_decimal,symbol,fee,fee_decimal,refund_transaction,refunded_at,refund_note";
    assert!(lines[0].ends_with(end), "{text}");
    assert!(lines[2].ends_with(",0.01,USDC,77,0.000000000000000077,,,"), "{text}");
}
