//! A disk that takes no more (threat E12).

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{PRICE, Plan, Shop};

/// Sells until files may not grow any more, which is what a full disk does to writes, and looks what came of it.
async fn sell_until_full(limit: &'static str) {
    sell_until_broken(limit, None).await;
}

/// Sells until the disk is broken, which it is soon after `armed` is made, and looks what came of it.
async fn sell_until_broken(limit: &'static str, armed: Option<&Path>) {
    let mut shop = Shop::open_with(Plan { limit: Some(limit), ..Plan::default() }).await;
    shop.node.mint(shop.payer.address, 1000 * PRICE).await;
    let terms = shop.terms().await;
    let mut sold = 0;
    let refused = loop {
        let payment = shop.payer.pay(&terms);
        match shop.try_present(&payment.v2()).await {
            Ok(answer) if answer.status == 200 && answer.is_complete => {
                sold += 1;
                if let Some(armed) = armed.filter(|_| sold == 2) {
                    std::fs::write(armed, "").unwrap();
                }
            }
            Ok(answer) => {
                assert_eq!(answer.status, 503, "{answer:?}");
                assert!(!answer.has_terms(), "{answer:?}");
                break payment;
            }
            // A ledger that may not write any more ends the gateway.
            Err(_gone) => break payment,
        }
        assert!(sold < 900, "the disk never got full");
    };
    assert!(sold > 0, "the disk was full from the start");
    // From here on nothing more is signed, for whomever.
    let sent = shop.rpc.count("eth_sendRawTransaction");
    for payment in [&refused, &shop.payer.pay(&terms)] {
        if let Ok(answer) = shop.try_present(&payment.v2()).await {
            assert!(answer.status == 503 && !answer.has_terms(), "{answer:?}");
        }
    }
    assert_eq!(shop.rpc.count("eth_sendRawTransaction"), sent);
    // A gateway that can't believe its ledger any more ends, and the next one reads what is really there.
    shop.restart().await;
    let is_written = shop.rows().await.iter().any(|row| row.claim.payload.contains(&refused.nonce.to_string()));
    let is_charged = shop.node.transfers().await.iter().any(|transfer| transfer.nonce == refused.nonce);
    assert!(is_written || !is_charged, "charged without a record");
    assert_eq!(shop.present_until_decided(&refused.v2()).await.status, 200);
    shop.buy().await;
    assert_eq!(shop.node.transfers().await.len(), sold + 2);
    shop.audit().await;
}

/// A library that breaks the ledger's disk, made for this test.
fn faulty_disk(folder: &Path) -> PathBuf {
    let (source, library) = (crate::harness::manifest().join("tests/it/faulty_disk.c"), folder.join("faulty_disk.so"));
    let mut compile = Command::new("cc");
    compile.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
    let done = compile.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    library
}

/// Breaks the disk at each of these calls, counted from the end of a sale: which writes and syncs of a payment they are,
/// its claim, its settlement or its delivery, follows from that.
async fn broken_at(call: &str, errno: i32, places: &[u32]) {
    let folder = tempfile::tempdir().unwrap();
    let library = faulty_disk(folder.path());
    for place in places {
        let armed = folder.path().join(format!("armed-{place}"));
        let limit = format!(
            "export LD_PRELOAD={} FAULT_ARMED={} FAULT_CALL={call} FAULT_ERRNO={errno} FAULT_AFTER={place}",
            library.display(),
            armed.display()
        );
        sell_until_broken(limit.leak(), Some(&armed)).await;
    }
}

#[tokio::test]
async fn a_disk_that_is_full_at_any_write_of_a_payment_costs_no_charge_without_a_record() {
    broken_at("write", libc::ENOSPC, &[1, 2, 4, 7, 11, 16, 22, 30]).await;
}

#[tokio::test]
async fn a_disk_that_fails_at_any_write_of_a_payment_costs_no_charge_without_a_record() {
    broken_at("write", libc::EIO, &[1, 3, 6, 10, 15, 21, 28]).await;
}

#[tokio::test]
async fn a_disk_that_fails_at_any_sync_of_a_payment_costs_no_charge_without_a_record() {
    broken_at("sync", libc::EIO, &[1, 2, 3, 4]).await;
}

// Limits in blocks of 512 bytes, so that the disk is full at a different write of a payment's.

#[tokio::test]
async fn with_a_full_disk_nothing_is_signed_and_nobody_is_asked_to_pay() {
    sell_until_full("trap '' XFSZ; ulimit -f 900").await;
}

#[tokio::test]
async fn with_a_disk_that_is_full_a_page_later_nothing_is_signed_either() {
    for limit in ["trap '' XFSZ; ulimit -f 910", "trap '' XFSZ; ulimit -f 930", "trap '' XFSZ; ulimit -f 960"] {
        sell_until_full(limit).await;
    }
}
