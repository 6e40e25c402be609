//! Faults of the disk and the process. Some need a process of their own: a test that is named for it, which does nothing
//! unless it is told where to work.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use super::*;

/// Tells a child where its ledger is.
const CHILD_LEDGER: &str = "TOLLHOUSE_TEST_LEDGER";

/// This test binary once more, running only `test`.
fn child(test: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("ledger::sqlite::tests::faults::{test}"), "--nocapture", "--test-threads=1"]);
    command.env(CHILD_LEDGER, path).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn child_path() -> Option<PathBuf> {
    std::env::var_os(CHILD_LEDGER).map(PathBuf::from)
}

async fn open_in_child(path: &Path) -> Arc<SqliteLedger> {
    let ledger = SqliteLedger::open(path, Arc::new(ManualClock::new(NOON))).await.unwrap();
    ledger.lease_signer(&network(), &signer(), 0).await.unwrap();
    Arc::new(ledger)
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// Every claim that was acknowledged is in the books, and every nonce was taken exactly once.
async fn assert_acknowledged(path: &Path, acknowledged: &BTreeMap<String, u64>) {
    let reader = SqliteReader::open(path).await.unwrap();
    let read = reader.list(&PaymentFilter::default()).await.unwrap().len();
    assert!(read >= acknowledged.len(), "books that a dead gateway left can be read before they are recovered");
    reader.close().await;
    let ledger = open_in_child(path).await;
    let rows = ledger.list(&PaymentFilter::default()).await.unwrap();
    let nonces: Vec<u64> = rows.iter().map(|row| row.attempts[0].signed.account_nonce.unwrap()).collect();
    let distinct: BTreeSet<u64> = nonces.iter().copied().collect();
    assert_eq!(distinct.len(), nonces.len(), "a nonce was taken twice");
    assert_eq!(distinct, (0..nonces.len() as u64).collect(), "a gap");
    let next = ledger.lease_signer(&network(), &signer(), 0).await.unwrap();
    assert_eq!(next, nonces.len() as u64);
    let kept: BTreeMap<String, u64> =
        rows.iter().map(|row| (row.record.0.clone(), row.attempts[0].signed.account_nonce.unwrap())).collect();
    for (record, nonce) in acknowledged {
        assert_eq!(kept.get(record), Some(nonce), "{record} was acknowledged");
    }
    assert!(rows.iter().all(|row| row.state == PaymentState::Signed && row.attempts.len() == 1));
    Arc::into_inner(ledger).unwrap().close().await;
}

/// Lines `ok RECORD NONCE` of a child.
fn acknowledgement(line: &str) -> Option<(String, u64)> {
    let mut words = line.split_once("ok ")?.1.split(' ');
    Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_claims_until_it_is_killed() {
    let Some(path) = child_path() else { return };
    let ledger = open_in_child(&path).await;
    let tasks = (0..8).map(|_| {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            loop {
                let mut random = [0_u8; 8];
                getrandom::fill(&mut random).unwrap();
                let id = u64::from_le_bytes(random).to_string();
                match ledger.claim(payment(&id), signing()).await.unwrap() {
                    ClaimOutcome::Claimed(row) => {
                        say(&format!("ok {} {}", row.record, row.attempts[0].signed.account_nonce.unwrap()));
                    }
                    ClaimOutcome::Exists(row) => panic!("{row:?}"),
                }
            }
        })
    });
    futures::future::join_all(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_being_killed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tollhouse.db");
    let mut acknowledged = BTreeMap::new();
    for round in 0..8_usize {
        let mut process = child("child_claims_until_it_is_killed", &path).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let before = acknowledged.len();
        let enough = 40 + round * 7;
        while acknowledged.len() < before + enough {
            let line = lines.next().expect("the child claims until it is killed");
            acknowledged.extend(acknowledgement(&line));
        }
        process.kill().unwrap();
        process.wait().unwrap();
        acknowledged.extend(lines.filter_map(|line| acknowledgement(&line)));
        assert_acknowledged(&path, &acknowledged).await;
    }
}

#[tokio::test]
async fn a_full_disk_stops_claims_but_not_reads_and_is_over_when_space_returns() {
    let rig = Rig::new().await;
    let kept = rig.claim(payment("kept")).await;
    // SQLite raises the limit to the present size, so that one page more is too many.
    rig.sql("PRAGMA max_page_count = 1").await;
    let mut claimed = 1;
    let refused = loop {
        match rig.ledger.claim(payment(&format!("{claimed}")), signing()).await {
            Ok(ClaimOutcome::Claimed(_)) if claimed < 1000 => claimed += 1,
            Err(LedgerError::NotWritten(why)) => break why,
            other => panic!("{other:?}"),
        }
    };
    assert!(refused.contains("full"), "{refused}");
    let id = PaymentId(format!("{claimed}"));
    assert!(rig.ledger.find(&id).await.unwrap().is_none(), "not written means not written");
    assert_eq!(rig.ledger.list(&PaymentFilter::default()).await.unwrap().len(), claimed);
    rig.ledger.record_paid(&kept.record, settlement(), true).await.unwrap();
    rig.sql("PRAGMA max_page_count = 1000000").await;
    let row = rig.claim(payment(&id.0)).await;
    assert_eq!(row.attempts[0].signed.account_nonce, Some(claimed as u64), "the refused claims took no nonce");
    rig.ledger.probe().await.unwrap();
}

#[tokio::test]
async fn child_claims_until_its_files_may_not_grow() {
    let Some(path) = child_path() else { return };
    let ledger = open_in_child(&path).await;
    for index in 0..10_000 {
        match ledger.claim(payment(&format!("{index}")), signing()).await {
            Ok(ClaimOutcome::Claimed(row)) => {
                say(&format!("ok {} {}", row.record, row.attempts[0].signed.account_nonce.unwrap()));
            }
            // Only when this is run under a tool that makes writes fail with ENOSPC.
            Err(LedgerError::NotWritten(why)) if why.contains("full") => say(&format!("full {index}")),
            Err(LedgerError::Unknown(_)) => {
                let sign: SignInClaim = Box::new(|_| panic!("must not sign"));
                let next = ledger.claim(payment("next"), sign).await;
                assert!(matches!(next, Err(LedgerError::NotWritten(_))), "{next:?}");
                assert!(matches!(ledger.probe().await, Err(LedgerError::NotWritten(_))));
                let read = ledger.find(&PaymentId(format!("{index}"))).await;
                assert!(matches!(read, Err(LedgerError::NotRead(_))), "a row that seems missing may come back");
                assert!(ledger.halted().await.contains("writes nothing more"));
                say("halted");
                Arc::into_inner(ledger).unwrap().close().await;
                let log = path.with_file_name("tollhouse.db-wal").metadata().unwrap();
                assert!(log.len() > 0, "nothing was tried again on the way out");
                let again = SqliteLedger::open(&path, Arc::new(ManualClock::new(NOON))).await;
                assert!(again.is_err(), "only a new process may go on");
                // As the gateway does: nothing is closed.
                #[allow(clippy::disallowed_methods, reason = "a child process that ends as a stopped gateway does")]
                std::process::exit(7);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_failed_write_of_a_commit_halts_the_ledger_until_a_new_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tollhouse.db");
    Arc::into_inner(open_in_child(&path).await).unwrap().close().await;
    // A limit on file size makes write() fail with EFBIG, which SQLite calls an I/O error.
    let direct = child("child_claims_until_its_files_may_not_grow", &path);
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\""]);
    limited.arg(direct.get_program()).args(direct.get_args());
    limited.env(CHILD_LEDGER, &path).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process: Child = limited.spawn().unwrap();
    let lines: Vec<String> = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert_eq!(process.wait().unwrap().code(), Some(7), "{lines:?}");
    assert_eq!(lines.last().map(String::as_str), Some("halted"));
    let acknowledged: BTreeMap<_, _> = lines.iter().filter_map(|line| acknowledgement(line)).collect();
    assert!(acknowledged.len() > 10);
    assert_acknowledged(&path, &acknowledged).await;
}

#[tokio::test]
async fn the_log_is_copied_into_the_database_while_the_gateway_runs() {
    let rig = Rig::new().await;
    let size = || rig.path.metadata().unwrap().len();
    let before = size();
    let claims = (0..600).map(|index| rig.ledger.claim(payment(&format!("{index}")), signing()));
    futures::future::try_join_all(claims).await.unwrap();
    // Answered after the checkpoint that the claims made due.
    rig.ledger.probe().await.unwrap();
    assert!(size() > before + 100_000, "{before} {}", size());
}
