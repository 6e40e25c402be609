//! What the ledger promises, each promise by name.

mod claims;
mod faults;
mod files;
mod forwarded;
mod model;
mod steps;
mod upkeep;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::writer::{Books, Operation, StepError};
use super::*;
use crate::ledger::{Holder, PaymentState, Resolution, SumBy};
use crate::types::{AtomicAmount, ManualClock};

/// Long after this, everything of these tests is over.
const NOON: UnixMillis = UnixMillis(1_800_000_000_000);

/// A ledger in a folder of its own.
struct Rig {
    ledger: Arc<SqliteLedger>,
    clock: ManualClock,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn new() -> Self {
        Self::observed(Arc::new(|_name, _took| ())).await
    }

    async fn observed(observer: Observer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tollhouse.db");
        let clock = ManualClock::new(NOON);
        let ledger = SqliteLedger::open_observed(&path, Arc::new(clock.clone()), observer).await.unwrap();
        ledger.lease_signer(&network(), &signer(), 0).await.unwrap();
        Self { ledger: Arc::new(ledger), clock, path, _folder: folder }
    }

    /// Stops the gateway in order, and starts it again.
    async fn reopen(&mut self) {
        let old = std::mem::replace(&mut self.ledger, Arc::new(orphan()));
        Arc::into_inner(old).unwrap().close().await;
        let ledger = SqliteLedger::open(&self.path, Arc::new(self.clock.clone())).await.unwrap();
        self.ledger = Arc::new(ledger);
    }

    async fn claim(&self, payment: NewPayment) -> PaymentRecord {
        match self.ledger.claim(payment, signing()).await.unwrap() {
            ClaimOutcome::Claimed(record) => record,
            ClaimOutcome::Exists(record) => panic!("taken by {record:?}"),
        }
    }

    /// Runs SQL on the writer's own connection.
    async fn sql(&self, statement: impl Into<String>) {
        self.ledger.write(Sql(statement.into())).await.unwrap();
    }

    async fn set_state(&self, record: &RecordId, state: PaymentState) {
        self.sql(format!("UPDATE payments SET state = '{state}' WHERE record = '{record}'")).await;
    }

    async fn state(&self, record: &RecordId) -> PaymentState {
        self.ledger.get(record).await.unwrap().unwrap().state
    }

    async fn next_nonce(&self) -> AccountNonce {
        self.ledger.lease_signer(&network(), &signer(), 0).await.unwrap()
    }
}

/// A ledger that is good for nothing; it stands in while the real one is closed.
fn orphan() -> SqliteLedger {
    let (queue, _) = mpsc::channel(1);
    let (_, halt) = watch::channel(None);
    let (_, ended) = oneshot::channel();
    SqliteLedger { queue, reader: SqliteReader::on(Path::new("/nonexistent")), halt, ended }
}

struct Sql(String);

impl Operation for Sql {
    type Output = ();
    const NAME: &'static str = "sql";

    async fn apply(self, books: &mut Books) -> Result<(), StepError> {
        sqlx::query(sqlx::AssertSqlSafe(self.0)).execute(books.connection()).await?;
        Ok(())
    }
}

fn network() -> Network {
    Network::evm(84532)
}

fn signer() -> AccountId {
    AccountId::new("0x5167000000000000000000000000000000000000").unwrap()
}

fn payment(id: &str) -> NewPayment {
    NewPayment {
        id: PaymentId(id.to_owned()),
        payload_digest: [0xab; 32],
        fingerprint: [0x0f; 32],
        redeliverable: true,
        holder: Holder::Quote([7; 32]),
        route: "GET /api".to_owned(),
        request: "GET /api?q=ü".to_owned(),
        terms: r#"{"price":"$0.01"}"#.to_owned(),
        wait_for: "confirmed".to_owned(),
        confirmations: 3,
        pay_to_exclusive: true,
        network: network(),
        asset: crate::types::AssetId::new("0x036CbD53842c5426634e7929541eC2318f3dCF7e").unwrap(),
        payer: AccountId::new("0x1111111111111111111111111111111111111111").unwrap(),
        pay_to: AccountId::new("0x2222222222222222222222222222222222222222").unwrap(),
        amount: AtomicAmount::from(10_000),
        payload: r#"{"nonce":"0x01"}"#.to_owned(),
        valid_until: NOON.plus(Duration::from_secs(3600)),
        signer: Some(signer()),
        claimed_at: NOON,
        identifier: None,
    }
}

fn attempt(nonce: Option<AccountNonce>) -> NewAttempt {
    NewAttempt {
        signer: nonce.map(|_| signer()),
        account_nonce: nonce,
        transaction: format!("0xhash{nonce:?}"),
        raw: vec![0, 1, 0xfe, 0xff],
        fee_max: "123456789012345678901234567890".to_owned(),
    }
}

fn signing() -> SignInClaim {
    Box::new(|nonce| Ok(attempt(nonce)))
}

fn settlement() -> Settlement {
    Settlement {
        transaction: "0xpaid".to_owned(),
        block: 42,
        block_hash: "0xblock".to_owned(),
        is_external: false,
        fee: None,
    }
}

/// Everything in a row that a caller can see.
fn seen(record: &PaymentRecord) -> String {
    format!("{record:?}")
}
