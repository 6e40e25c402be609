//! Random histories against a reference that fits on a page.

use std::collections::HashMap;

use PaymentState::{Delivering, Failed, Forwarded, Owed, Paid, Released, Reorged, Served, Signed};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::ledger::{ForwardOutcome, PaymentFilter};

const MAX: u32 = 2;
/// Attempts at the origin of a payment that is settled after its request.
const ATTEMPTS_MAX: u32 = 3;
/// Steps of one history: long enough for old rows to come into the way, short enough to read what a failure shrinks to.
const STEPS: usize = 250;
/// How many transitions a run takes unless `MODEL_TRANSITIONS` says otherwise.
const TRANSITIONS: usize = 5_000;
/// Whole books are compared each time that so many steps were taken; what a step touched, after each.
const BOOKS_EVERY: usize = 25;
const SETTLED: [PaymentState; 4] = [Paid, Delivering, Served, Owed];
const REDELIVER_FOR_MS: i64 = 10_000;
/// What a settlement cost that moved the money, that failed, and that failed after the chain took one back.
const PAID_FEE: u64 = 5;
const FAILED_FEE: u64 = 7;
const UNDONE_FEE: u64 = 6;

#[derive(Debug, Clone)]
enum Step {
    Claim { id: u8, redeliverable: bool, signs: bool },
    ClaimForwarded { id: u8, redeliverable: bool },
    RecordSigned { row: usize, signs: bool },
    Release { row: usize, uncount: bool },
    Attempt(usize),
    RecordPaid { row: usize, deliver: bool, is_external: bool },
    RecordFailed(usize),
    RecordDelivering(usize),
    Undelivered { row: usize, uncount: bool },
    RecordServed(usize),
    Reorged(usize),
    SettledAgain(usize),
    Recover { at_start: bool },
    Wait { ms: u64 },
    Reopen,
}

/// Rows are counted from the newest.
fn step() -> impl Strategy<Value = Step> {
    let row = || 0..5_usize;
    prop_oneof![
        4 => (0..60_u8, any::<bool>(), proptest::bool::weighted(0.8))
            .prop_map(|(id, redeliverable, signs)| Step::Claim { id, redeliverable, signs }),
        3 => (0..60_u8, any::<bool>())
            .prop_map(|(id, redeliverable)| Step::ClaimForwarded { id, redeliverable }),
        3 => (row(), proptest::bool::weighted(0.8)).prop_map(|(row, signs)| Step::RecordSigned { row, signs }),
        2 => (row(), proptest::bool::weighted(0.3)).prop_map(|(row, uncount)| Step::Release { row, uncount }),
        1 => row().prop_map(Step::Attempt),
        4 => (row(), any::<bool>(), any::<bool>())
            .prop_map(|(row, deliver, is_external)| Step::RecordPaid { row, deliver, is_external }),
        2 => row().prop_map(Step::RecordFailed),
        4 => row().prop_map(Step::RecordDelivering),
        3 => (row(), any::<bool>()).prop_map(|(row, uncount)| Step::Undelivered { row, uncount }),
        1 => row().prop_map(Step::RecordServed),
        1 => row().prop_map(Step::Reorged),
        1 => row().prop_map(Step::SettledAgain),
        1 => any::<bool>().prop_map(|at_start| Step::Recover { at_start }),
        2 => (1..6_000_u64).prop_map(|ms| Step::Wait { ms }),
        1 => Just(Step::Reopen),
    ]
}

impl Step {
    /// The row that it is about.
    fn row(&self) -> Option<usize> {
        match *self {
            Self::Attempt(row)
            | Self::RecordFailed(row)
            | Self::RecordDelivering(row)
            | Self::RecordServed(row)
            | Self::Reorged(row)
            | Self::SettledAgain(row)
            | Self::RecordSigned { row, .. }
            | Self::Release { row, .. }
            | Self::RecordPaid { row, .. }
            | Self::Undelivered { row, .. } => Some(row),
            Self::Claim { .. } | Self::ClaimForwarded { .. } => Some(0),
            Self::Recover { .. } | Self::Wait { .. } | Self::Reopen => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Row {
    id: u8,
    redeliverable: bool,
    state: PaymentState,
    deliveries: u32,
    paid_at: i64,
    attempts: usize,
    fee: Option<u64>,
}

impl Row {
    fn presentable(&self, now: i64) -> bool {
        let recent = self.paid_at >= now - REDELIVER_FOR_MS;
        recent && self.deliveries < MAX && (self.redeliverable || self.deliveries == 0)
    }
}

/// What the books should say.
#[derive(Debug, Default)]
struct Reference {
    rows: Vec<Row>,
    next_nonce: u64,
    now: i64,
}

impl Reference {
    fn is_live(&self, id: u8) -> bool {
        self.rows.iter().any(|row| row.id == id && !matches!(row.state, Failed | Released))
    }

    /// Whether the step is to succeed.
    fn take(&mut self, step: &Step) -> bool {
        let now = self.now;
        match *step {
            Step::Claim { id, redeliverable, signs } => {
                if self.is_live(id) || !signs {
                    return self.is_live(id);
                }
                self.rows.push(Row {
                    id,
                    redeliverable,
                    state: Signed,
                    deliveries: 0,
                    paid_at: 0,
                    attempts: 1,
                    fee: None,
                });
                self.next_nonce += 1;
                true
            }
            Step::ClaimForwarded { id, redeliverable } => {
                if self.is_live(id) {
                    return true;
                }
                let released = self.rows.iter().filter(|row| row.id == id && row.state == Released);
                let deliveries = released.map(|row| row.deliveries).max().unwrap_or(0) + 1;
                if deliveries > ATTEMPTS_MAX {
                    return false;
                }
                self.rows.push(Row {
                    id,
                    redeliverable,
                    state: Forwarded,
                    deliveries,
                    paid_at: 0,
                    attempts: 0,
                    fee: None,
                });
                true
            }
            Step::RecordSigned { signs: false, .. } => false,
            Step::RecordSigned { row, signs: true } => {
                let signed = self.change(row, Forwarded, |row| (row.state, row.attempts) = (Signed, 1));
                self.next_nonce += u64::from(signed);
                signed
            }
            Step::Release { row, uncount } => self.change(row, Forwarded, |row| {
                (row.state, row.deliveries) = (Released, row.deliveries - u32::from(uncount));
            }),
            Step::RecordPaid { row, deliver, is_external } => {
                let Some(found) = self.row(row).cloned() else { return false };
                let may = matches!(found.state, Signed | Reorged) || (found.state == Failed && !self.is_live(found.id));
                if may {
                    let Some(row) = self.row(row) else { return false };
                    row.state = if deliver { Delivering } else { Paid };
                    row.deliveries = row.deliveries.max(u32::from(deliver));
                    row.paid_at = now;
                    row.fee = if is_external { row.fee } else { Some(PAID_FEE) };
                }
                may
            }
            Step::Recover { at_start } => {
                for row in &mut self.rows {
                    if (row.state == Delivering && at_start) || row.state == Paid {
                        row.state = if row.presentable(now) { Paid } else { Owed };
                    } else if row.state == Forwarded && at_start {
                        row.state = Released;
                    }
                }
                true
            }
            Step::Wait { ms } => {
                self.now += i64::try_from(ms).unwrap();
                true
            }
            Step::Reopen => true,
            Step::Attempt(row) => {
                self.change_any(row, &[Signed, Paid, Delivering, Served, Owed], |row| row.attempts += 1)
            }
            Step::Reorged(row) => {
                self.change_any(row, &SETTLED, |row| (row.state, row.fee) = (Reorged, Some(UNDONE_FEE)))
            }
            Step::SettledAgain(row) => self.change_any(row, &SETTLED, |row| row.fee = Some(PAID_FEE)),
            Step::RecordFailed(row) => {
                self.change(row, Signed, |row| (row.state, row.fee) = (Failed, Some(FAILED_FEE)))
            }
            Step::RecordServed(row) => self.change(row, Delivering, |row| row.state = Served),
            Step::RecordDelivering(row) => self.change(row, Paid, |row| {
                if row.presentable(now) {
                    (row.state, row.deliveries) = (Delivering, row.deliveries + 1);
                } else {
                    row.state = Owed;
                }
            }),
            Step::Undelivered { row, uncount } => self.change(row, Delivering, |row| {
                row.deliveries -= u32::from(uncount);
                let may = row.deliveries < MAX && (row.redeliverable || row.deliveries == 0);
                row.state = if may { Paid } else { Owed };
            }),
        }
    }

    fn change(&mut self, row: usize, from: PaymentState, change: impl FnOnce(&mut Row)) -> bool {
        self.change_any(row, &[from], change)
    }

    fn change_any(&mut self, row: usize, from: &[PaymentState], change: impl FnOnce(&mut Row)) -> bool {
        let Some(row) = self.row(row).filter(|row| from.contains(&row.state)) else { return false };
        change(row);
        true
    }

    fn row(&mut self, from_newest: usize) -> Option<&mut Row> {
        self.rows.iter_mut().rev().nth(from_newest)
    }
}

/// Does the step on the ledger; gives whether it succeeded.
async fn take(rig: &mut Rig, records: &mut Vec<RecordId>, now: i64, step: &Step) -> bool {
    let none = RecordId("pay_none".to_owned());
    let named = |row: usize| records.iter().rev().nth(row).unwrap_or(&none).clone();
    let sign = |signs: bool| if signs { signing() } else { Box::new(|_| Err("no".to_owned())) };
    let ledger = rig.ledger.clone();
    let settled_after = UnixMillis(now - REDELIVER_FOR_MS);
    match *step {
        Step::Claim { id, redeliverable, signs } => {
            let mut new = payment(&format!("{id}"));
            (new.redeliverable, new.claimed_at) = (redeliverable, UnixMillis(now));
            match ledger.claim(new, sign(signs)).await {
                Ok(ClaimOutcome::Claimed(row)) => {
                    records.push(row.record);
                    true
                }
                Ok(ClaimOutcome::Exists(_)) => true,
                Err(_) => false,
            }
        }
        Step::ClaimForwarded { id, redeliverable } => {
            let mut new = payment(&format!("{id}"));
            (new.redeliverable, new.claimed_at, new.signer) = (redeliverable, UnixMillis(now), None);
            match ledger.claim_forwarded(new, ATTEMPTS_MAX).await {
                Ok(ForwardOutcome::Claimed(row)) => {
                    records.push(row.record);
                    true
                }
                Ok(ForwardOutcome::Exists(_)) => true,
                Err(_) => false,
            }
        }
        Step::RecordSigned { row, signs } => {
            ledger.record_signed(&named(row), Some(signer()), sign(signs)).await.is_ok()
        }
        Step::Release { row, uncount } => ledger.release(&named(row), uncount).await.is_ok(),
        Step::Attempt(row) => ledger.record_attempt(&named(row), attempt(Some(0))).await.is_ok(),
        Step::RecordPaid { row, deliver, is_external } => {
            let fee = (!is_external).then(|| PAID_FEE.into());
            let settlement = Settlement { is_external, fee, ..settlement() };
            ledger.record_paid(&named(row), settlement, deliver).await.is_ok()
        }
        Step::RecordFailed(row) => {
            ledger.record_failed(&named(row), "why", None, Some(FAILED_FEE.into())).await.is_ok()
        }
        Step::Reorged(row) => {
            ledger.record_reorged(&named(row), "0xblock", "why", Some(UNDONE_FEE.into())).await.is_ok()
        }
        Step::SettledAgain(row) => {
            let settlement = Settlement { fee: Some(PAID_FEE.into()), ..settlement() };
            ledger.record_settled_again(&named(row), settlement).await.is_ok()
        }
        Step::RecordDelivering(row) => match ledger.record_delivering(&named(row), MAX, settled_after).await {
            Ok(DeliveryBegun::Begun(_) | DeliveryBegun::Owed(_)) => true,
            Ok(DeliveryBegun::NotPaid(_)) | Err(_) => false,
        },
        Step::Undelivered { row, uncount } => ledger.record_undelivered(&named(row), MAX, uncount).await.is_ok(),
        Step::RecordServed(row) => ledger.record_served(&named(row)).await.is_ok(),
        Step::Recover { at_start } => ledger.recover_deliveries(MAX, settled_after, at_start).await.is_ok(),
        Step::Wait { ms } => {
            rig.clock.advance(Duration::from_millis(ms));
            true
        }
        Step::Reopen => {
            drop(ledger);
            rig.reopen().await;
            true
        }
    }
}

fn seen_in(row: &PaymentRecord) -> Row {
    Row {
        id: row.claim.id.0.parse().unwrap(),
        redeliverable: row.claim.redeliverable,
        state: row.state,
        deliveries: row.deliveries,
        paid_at: row.paid_at.map_or(0, |paid_at| paid_at.0),
        attempts: row.attempts.len(),
        fee: row.fee.map(|fee| fee.value().to()),
    }
}

async fn run(steps: &[Step]) {
    let mut rig = Rig::new().await;
    let mut records = Vec::new();
    let mut reference = Reference { now: NOON.0, ..Reference::default() };
    for (taken, step) in steps.iter().enumerate() {
        let now = reference.now;
        let expected = reference.take(step);
        assert_eq!(take(&mut rig, &mut records, now, step).await, expected, "{step:?}\n{reference:#?}");
        assert_eq!(records.len(), reference.rows.len());
        if let Some((record, expected)) = step.row().and_then(|row| records.iter().zip(&reference.rows).rev().nth(row))
        {
            let found = rig.ledger.get(record).await.unwrap().unwrap();
            assert_eq!(&seen_in(&found), expected, "after {step:?}");
        }
        if taken % BOOKS_EVERY == 0 || matches!(step, Step::Recover { .. }) || taken + 1 == steps.len() {
            let books = rig.ledger.list(&PaymentFilter::default()).await.unwrap();
            let books: HashMap<_, _> = books.iter().map(|row| (&row.record, seen_in(row))).collect();
            assert_eq!(books, records.iter().zip(reference.rows.iter().cloned()).collect(), "after {step:?}");
        }
    }
    assert_eq!(rig.next_nonce().await, reference.next_nonce);
}

/// `MODEL_TRANSITIONS` says how many, and `tests/run.sh` and `tests/soak.sh` say more than a plain `cargo test` takes.
#[test]
fn any_history_leaves_the_books_as_the_reference_says() {
    let transitions = std::env::var("MODEL_TRANSITIONS").map_or(TRANSITIONS, |number| number.parse().unwrap());
    let cases = u32::try_from(transitions.div_ceil(STEPS)).unwrap();
    let config =
        ProptestConfig { cases, max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default() };
    let started = std::time::Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    TestRunner::new(config)
        .run(&proptest::collection::vec(step(), STEPS), |steps| {
            runtime.block_on(run(&steps));
            Ok(())
        })
        .unwrap();
    println!("{} transitions in {:?}, no difference", cases as usize * STEPS, started.elapsed());
}
