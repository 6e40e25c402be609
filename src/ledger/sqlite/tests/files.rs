//! Whose the files are, in which mode, and which ones are refused.

use super::*;
use sqlx::{ConnectOptions, Connection};

async fn second_writer(path: &Path) -> sqlx::SqliteConnection {
    store::options(path).connect().await.unwrap()
}

async fn open(path: &Path) -> Result<SqliteLedger, LedgerError> {
    SqliteLedger::open(path, Arc::new(ManualClock::new(NOON))).await
}

fn message<T>(opened: Result<T, LedgerError>) -> String {
    match opened {
        Ok(_) => panic!("it was opened"),
        Err(LedgerError::Open(message) | LedgerError::InUse(message)) => message,
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn rows_and_nonces_survive_a_restart() {
    let mut rig = Rig::new().await;
    let claimed = rig.claim(payment("id")).await;
    let paid = rig.claim(payment("paid")).await.record;
    let paid = rig.ledger.record_paid(&paid, settlement(), true).await.unwrap();
    rig.reopen().await;
    assert_eq!(seen(&rig.ledger.get(&claimed.record).await.unwrap().unwrap()), seen(&claimed));
    assert_eq!(seen(&rig.ledger.get(&paid.record).await.unwrap().unwrap()), seen(&paid));
    assert_eq!(rig.next_nonce().await, 2);
    assert!(matches!(rig.ledger.claim(payment("id"), signing()).await, Ok(ClaimOutcome::Exists(_))));
}

#[tokio::test]
async fn a_second_gateway_is_refused_whatever_name_it_uses_and_readers_are_not() {
    let rig = Rig::new().await;
    let record = rig.claim(payment("id")).await.record;
    let link = rig.path.with_file_name("link.db");
    std::os::unix::fs::symlink(&rig.path, &link).unwrap();
    for path in [&rig.path, &link] {
        let refused = message(open(path).await);
        assert!(refused.contains("another gateway has it open"), "{refused}");
    }
    let reader = SqliteReader::open(&rig.path).await.unwrap();
    assert_eq!(reader.get(&record).await.unwrap().unwrap().record, record);
    rig.ledger.record_failed(&record, "expired", None, None).await.unwrap();
    assert_eq!(reader.get(&record).await.unwrap().unwrap().state, PaymentState::Failed, "it sees what is new");
    reader.close().await;
}

#[tokio::test]
async fn a_reader_reads_books_that_no_gateway_has_open_and_makes_none() {
    let rig = Rig::new().await;
    rig.claim(payment("id")).await;
    let Rig { ledger, path, _folder, .. } = rig;
    Arc::into_inner(ledger).unwrap().close().await;
    let reader = SqliteReader::open(&path).await.unwrap();
    assert_eq!(reader.list(&PaymentFilter::default()).await.unwrap().len(), 1);
    reader.close().await;
    let nowhere = path.with_file_name("other.db");
    message(SqliteReader::open(&nowhere).await);
    assert!(!nowhere.exists());
}

#[tokio::test]
async fn the_files_are_for_their_owner_only_and_one_is_left_when_closed() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::new().await;
    let names = |path: &Path| {
        let folder = std::fs::read_dir(path.parent().unwrap()).unwrap();
        let mut names: Vec<_> = folder.map(|entry| entry.unwrap()).collect();
        names.sort_by_key(std::fs::DirEntry::file_name);
        names
    };
    for entry in names(&rig.path) {
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
    assert_eq!(names(&rig.path).len(), 4, "database, log, index and lock");
    let Rig { ledger, path, _folder, .. } = rig;
    Arc::into_inner(ledger).unwrap().close().await;
    let left: Vec<_> = names(&path).iter().map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert_eq!(left, ["tollhouse.db", "tollhouse.db.lock"]);
}

#[tokio::test]
async fn writes_are_durable_by_configuration() {
    let rig = Rig::new().await;
    let mut connection = store::open_for_writing(&rig.path).await.unwrap();
    for (pragma, expected) in [("synchronous", 2), ("foreign_keys", 1), ("wal_autocheckpoint", 0)] {
        let statement = sqlx::AssertSqlSafe(format!("PRAGMA {pragma}"));
        let value: i64 = sqlx::query_scalar(statement).fetch_one(&mut connection).await.unwrap();
        assert_eq!(value, expected, "{pragma}");
    }
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut connection).await.unwrap();
    assert_eq!(mode, "wal");
}

#[tokio::test]
async fn books_of_a_newer_version_are_refused() {
    let rig = Rig::new().await;
    rig.sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'of the future', TRUE, X'00', 0)",
    )
    .await;
    let Rig { ledger, path, _folder, .. } = rig;
    Arc::into_inner(ledger).unwrap().close().await;
    for refused in [message(open(&path).await), message(SqliteReader::open(&path).await)] {
        assert!(refused.contains("9999") && refused.contains("newer Tollhouse"), "{refused}");
    }
}

#[tokio::test]
async fn damaged_and_foreign_files_are_refused() {
    let rig = Rig::new().await;
    for index in 0..50 {
        rig.claim(payment(&format!("{index}"))).await;
    }
    let Rig { ledger, path, _folder, .. } = rig;
    Arc::into_inner(ledger).unwrap().close().await;
    let sound = std::fs::read(&path).unwrap();
    let mut damaged = sound.clone();
    let middle = damaged.len() / 2 / 4096 * 4096;
    damaged[middle..middle + 4096].fill(0x5a);
    std::fs::write(&path, damaged).unwrap();
    assert!(message(open(&path).await).contains("damaged"));
    std::fs::write(&path, b"this is no database but long enough to look like one".repeat(100)).unwrap();
    assert!(message(open(&path).await).contains("no ledger"));
    std::fs::write(&path, sound).unwrap();
    open(&path).await.unwrap().close().await;
    assert!(message(open(&path.join("no/such/folder.db")).await).contains("folder.db"));
}

#[tokio::test]
async fn of_a_log_whose_end_is_torn_off_all_commits_before_it_are_there() {
    let rig = Rig::new().await;
    let mut lengths = Vec::new();
    let log = rig.path.with_file_name("tollhouse.db-wal");
    for index in 0..5 {
        rig.claim(payment(&format!("{index}"))).await;
        lengths.push(log.metadata().unwrap().len());
    }
    assert!(lengths.windows(2).all(|pair| pair[0] < pair[1]), "{lengths:?}");
    // As a crash of the machine leaves it: the last commit's pages are there in part, or hold nothing.
    let (whole, database) = (std::fs::read(&log).unwrap(), std::fs::read(&rig.path).unwrap());
    let kept = usize::try_from(lengths[3]).unwrap();
    for torn in [kept + 1, kept + 100, kept + 4096, whole.len() - 4096, whole.len() - 1] {
        for is_cut in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("tollhouse.db");
            std::fs::write(&path, &database).unwrap();
            let mut left = whole.clone();
            left[torn..].fill(0);
            left.truncate(if is_cut { torn } else { whole.len() });
            std::fs::write(path.with_file_name("tollhouse.db-wal"), left).unwrap();
            let ledger = open(&path).await.unwrap();
            let rows = ledger.list(&PaymentFilter::default()).await.unwrap();
            assert_eq!(rows.len(), 4, "torn at {torn} of {}, cut: {is_cut}", whole.len());
            ledger.close().await;
        }
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named_and_never_guessed() {
    let rig = Rig::new().await;
    let record = rig.claim(payment("id")).await.record;
    let columns = [
        ("state", "'lost'"),
        ("amount", "'0x10'"),
        ("amount", "10.5"),
        ("deliveries", "-1"),
        ("deliveries", "5000000000"),
        ("network", "'eip155:0'"),
        ("asset", "''"),
        ("payer", "'a b'"),
        ("signer", "''"),
        ("fingerprint", "'0F'"),
        ("holder", "'nobody'"),
        ("redeliverable", "2"),
        ("confirmations", "-1"),
        ("valid_until", "'soon'"),
        ("settled_transaction", "'0xpaid'"),
    ];
    let mut connection = second_writer(&rig.path).await;
    sqlx::query("PRAGMA ignore_check_constraints = ON").execute(&mut connection).await.unwrap();
    for (column, value) in columns {
        let mut transaction = connection.begin().await.unwrap();
        sqlx::query("CREATE TEMP TABLE kept AS SELECT * FROM payments").execute(&mut *transaction).await.unwrap();
        let damage = format!("UPDATE payments SET {column} = {value}");
        sqlx::query(sqlx::AssertSqlSafe(damage)).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
        for read in [rig.ledger.get(&record).await.map(|_| ()), rig.ledger.record_served(&record).await.map(|_| ())] {
            match read {
                Err(LedgerError::Corrupt { record: named, detail }) => {
                    assert_eq!(named, record.0);
                    assert!(!detail.is_empty());
                }
                other => panic!("{column} = {value}: {other:?}"),
            }
        }
        let restore = format!("UPDATE payments SET {column} = (SELECT {column} FROM kept)");
        sqlx::query(sqlx::AssertSqlSafe(restore)).execute(&mut connection).await.unwrap();
        sqlx::query("DROP TABLE kept").execute(&mut connection).await.unwrap();
    }
    assert_eq!(rig.state(&record).await, PaymentState::Signed);
    sqlx::query("UPDATE attempts SET raw = 'zz'").execute(&mut connection).await.unwrap();
    assert!(matches!(rig.ledger.unfinished(&network()).await, Err(LedgerError::Corrupt { .. })));
}

#[tokio::test]
async fn books_of_the_first_version_are_brought_up_with_all_their_rows() {
    use sqlx::{ConnectOptions, Connection};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.db");
    let mut old = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true)
        .foreign_keys(true)
        .connect()
        .await
        .unwrap();
    let first = sqlx::migrate!("src/ledger/migrations/sqlite").iter().next().unwrap().clone();
    let migrator = sqlx::migrate::Migrator { migrations: vec![first].into(), ..sqlx::migrate::Migrator::DEFAULT };
    migrator.run_direct(None, &mut old, false).await.unwrap();
    let row = "INSERT INTO payments (record, payment_id, state, deliveries, claimed_at, updated_at, valid_until, network, \
         asset, amount, payer, pay_to, payload_digest, fingerprint, holder, redeliverable, wait_for, confirmations, \
         pay_to_exclusive, route, request, terms, payload) VALUES ('pay_1', 'id', 'signed', 0, 1, 1, 1, 'eip155:84532', \
         '0xA', '5', '0xB', '0xC', $1, $1, 'address:127.0.0.1', 1, 'confirmed', 1, 0, 'r', 'q', 't', 'p')";
    sqlx::query(row).bind("ab".repeat(32)).execute(&mut old).await.unwrap();
    let attempt = "INSERT INTO attempts (record, number, transaction_id, fee_max, signed_at, raw) \
         VALUES ('pay_1', 1, '0xhash', '9', 1, '00')";
    sqlx::query(attempt).execute(&mut old).await.unwrap();
    old.close().await.unwrap();
    let ledger = SqliteLedger::open(&path, Arc::new(ManualClock::new(NOON))).await.unwrap();
    let record = RecordId("pay_1".to_owned());
    let paid = ledger.record_paid(&record, settlement(), true).await.unwrap();
    assert_eq!((paid.attempts.len(), paid.attempts[0].signed.transaction.as_str()), (1, "0xhash"));
    assert_eq!((paid.state, paid.claim.identifier.as_deref()), (PaymentState::Delivering, None));
    ledger.close().await;
}
