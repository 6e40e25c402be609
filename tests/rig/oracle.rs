//! Whether chain, books, origin and clients tell one story: the invariants I1–I8 of the rig's design, the hash chain apart.
//!
//! | | |
//! |---|---|
//! | I1 | what reached the origin, or a client as an answer, was paid |
//! | I2 | a payment moved money once at most, and bought one request, delivered `max_deliveries` times at most |
//! | I3 | money that moved has a row, and its client an answer or a row that says it is owed |
//! | I4 | payers lost what the shop earned and the books say |
//! | I5 | what a node was sent was in the books first |
//! | I6 | rows take no step that isn't one, and all end |
//! | I7 | nobody was offered terms for a second payment while the first was undecided |
//! | I8 | no key and no payment is in the log |

use std::collections::{HashMap, HashSet};

use tollhouse::ledger::{PaymentRecord, PaymentState};

use crate::books::Standing;
use crate::chains::{Arrival, COSMOS, PRICE, chain_of, key_of, secret_of};
use crate::harness::PASSWORD;
use crate::story::{End, Payment, Story};
use crate::world::World;

/// Times a paid request may reach the origin (contract §3).
const DELIVERIES_MAX: usize = 2;
/// The steps that a row may have taken between two looks, by where it stood before.
const LEGAL: [(&str, &[&str]); 10] = [
    ("claimed", &["signed", "released", "paid", "delivering", "served", "failed", "owed"]),
    ("forwarded", &["signed", "released", "paid", "delivering", "served", "failed", "owed"]),
    ("signed", &["paid", "delivering", "served", "failed", "owed"]),
    ("paid", &["delivering", "served", "owed"]),
    ("delivering", &["paid", "served", "owed"]),
    ("served", &[]),
    ("released", &[]),
    ("failed", &["paid", "delivering", "served", "owed"]),
    ("owed", &[]),
    ("reorged", &["paid", "delivering", "served", "owed"]),
];
/// Clocks of one machine, read at slightly different times.
const SLACK_MILLIS: i64 = 50;

/// I6, between two looks at the books: gives what they say now.
pub async fn steps(world: &World, known: HashMap<String, Standing>) -> HashMap<String, Standing> {
    if !world.books.are_begun() {
        return known;
    }
    let has_reorgs = world.story.has_reorgs();
    let now = world.books.standings().await;
    for (record, before) in &known {
        let Some(after) = now.get(record) else {
            world.story.violate(format!("I6: row {record} is gone, which was {before:?}"));
            continue;
        };
        let allowed = LEGAL.iter().find(|(state, _)| *state == before.state).map_or(&[][..], |(_, allowed)| allowed);
        let is_legal = before.state == after.state
            || allowed.contains(&after.state.as_str())
            || has_reorgs && after.state == "reorged" && before.settled.is_some();
        // What the chain takes back may be mined again as another attempt.
        let is_settled_still = before.settled.is_none() || before.settled == after.settled || has_reorgs;
        if !is_legal || !is_settled_still {
            world.story.violate(format!("I6: row {record} went from {before:?} to {after:?}"));
        }
    }
    now
}

/// Whether the chain has every settlement that the books name, after it took some back.
pub async fn is_settled_again(world: &World) -> bool {
    let arrivals: HashSet<String> = world.chains.arrivals().await.into_iter().map(|it| it.transaction).collect();
    let rows = world.books.rows().await;
    let settled = rows.iter().filter(|row| is_paid(row.state)).filter_map(|row| row.settlement.as_ref());
    settled.into_iter().all(|settlement| arrivals.contains(&settlement.transaction))
}

struct Evidence {
    payments: HashMap<String, std::sync::Arc<Payment>>,
    rows: HashMap<String, Vec<PaymentRecord>>,
    arrivals: HashMap<String, Vec<Arrival>>,
}

/// Asks everybody, when everything has ended. Gives how many payments moved money.
pub async fn judge(world: &World) -> usize {
    let story = &world.story;
    let mut evidence = Evidence { payments: HashMap::new(), rows: HashMap::new(), arrivals: HashMap::new() };
    for payment in story.payments() {
        evidence.payments.insert(payment.key.clone(), payment);
    }
    let rows = world.books.rows().await;
    for row in &rows {
        let payload = serde_json::from_str(&row.claim.payload).unwrap();
        let key = key_of(chain_of(row.claim.network.as_str()), &payload);
        evidence.rows.entry(key).or_default().push(row.clone());
    }
    let arrivals = world.chains.arrivals().await;
    for arrival in &arrivals {
        evidence.arrivals.entry(arrival.key.clone()).or_default().push(arrival.clone());
    }
    judge_arrivals(story, &evidence);
    judge_rows(story, &evidence);
    judge_clients(story, &evidence);
    judge_names(story, &evidence);
    judge_hits(world, &rows, &evidence);
    judge_sums(world, &rows, &arrivals).await;
    judge_broadcasts(world, &rows);
    judge_log(world);
    arrivals.len()
}

fn is_paid(state: PaymentState) -> bool {
    matches!(state, PaymentState::Paid | PaymentState::Delivering | PaymentState::Served | PaymentState::Owed)
}

/// I2, I3: money that moved.
fn judge_arrivals(story: &Story, evidence: &Evidence) {
    for (key, arrivals) in &evidence.arrivals {
        let arrival = &arrivals[0];
        if arrivals.len() > 1 {
            story.violate(format!("I2: {key} moved money more than once: {arrivals:?}"));
        }
        let Some(payment) = evidence.payments.get(key) else {
            story.violate(format!("I3: nobody signed {arrival:?}"));
            continue;
        };
        let is_as_signed = payment.chain == arrival.chain && payment.payer.eq_ignore_ascii_case(&arrival.payer);
        if !is_as_signed || arrival.value != u128::from(PRICE) {
            story.violate(format!("I4: {key} was signed by {} and moved {arrival:?}", payment.payer));
        }
        let rows: Vec<_> = evidence.rows.get(key).into_iter().flatten().filter(|row| is_paid(row.state)).collect();
        let is_booked = rows.len() == 1
            && rows[0].settlement.as_ref().is_some_and(|settled| settled.transaction == arrival.transaction);
        if !is_booked {
            story.violate(format!("I3: {arrival:?} has these rows: {rows:?}"));
        }
        let has_recourse = match payment.end() {
            Some(End::Served | End::Used | End::Owed) => true,
            // Its successor under the name has the answer; see there.
            Some(End::Replaced) => true,
            Some(End::Refused(_)) | None => false,
        };
        if !has_recourse {
            story.violate(format!("I3: {key} moved money and its client has {:?}", payment.end()));
        }
    }
}

/// I1, I3, I6: what the books say of each payment.
fn judge_rows(story: &Story, evidence: &Evidence) {
    for (key, rows) in &evidence.rows {
        let alive = rows.iter().filter(|row| !matches!(row.state, PaymentState::Released | PaymentState::Failed));
        if alive.count() > 1 {
            story.violate(format!("I6: {key} has several rows: {rows:?}"));
        }
        for row in rows {
            let arrivals = evidence.arrivals.get(key).map_or(0, Vec::len);
            let name = &row.record;
            match row.state {
                state if is_paid(state) => {
                    if arrivals == 0 || row.settlement.is_none() || row.paid_at.is_none() {
                        story.violate(format!("I1: {name} is {state} and moved nothing: {row:?}"));
                    }
                    if state == PaymentState::Delivering {
                        story.violate(format!("I6: {name} is still being delivered"));
                    }
                    if state == PaymentState::Owed && row.deliveries < 2 {
                        story.violate(format!("I3: {name} is owed after {} deliveries", row.deliveries));
                    }
                }
                PaymentState::Failed | PaymentState::Released => {
                    let is_elsewhere = rows.iter().any(|other| is_paid(other.state));
                    if arrivals > 0 && !is_elsewhere {
                        story.violate(format!("I3: {name} is {} and moved money: {row:?}", row.state));
                    }
                }
                state => story.violate(format!("I6: {name} is {state} though everything has ended: {row:?}")),
            }
            judge_terms(story, evidence, key, row);
        }
    }
}

/// I7: terms that came while the row was undecided.
fn judge_terms(story: &Story, evidence: &Evidence, key: &str, row: &PaymentRecord) {
    let Some(payment) = evidence.payments.get(key) else { return };
    let Some(signed_at) = row.attempts.first().map(|attempt| attempt.signed_at.0) else { return };
    // What failed first and landed after all was decided in between.
    if row.failure.is_some() && row.state != PaymentState::Failed {
        return;
    }
    let decided_at = match row.state {
        PaymentState::Failed => row.updated_at.0,
        _ => row.paid_at.map_or(i64::MAX, |paid_at| paid_at.0),
    };
    for (at, word) in &payment.log.lock().unwrap().terms {
        if signed_at + SLACK_MILLIS < *at && *at + SLACK_MILLIS < decided_at {
            story.violate(format!("I7: {key} was answered with terms ({word}) before it was decided: {row:?}"));
        }
    }
}

/// I1, I3, I7: what the clients were told in the end.
fn judge_clients(story: &Story, evidence: &Evidence) {
    for payment in evidence.payments.values() {
        let key = &payment.key;
        let row = evidence.rows.get(key).into_iter().flatten().find(|row| is_paid(row.state)).map(|row| row.state);
        let has_moved = evidence.arrivals.contains_key(key);
        let answers = payment.log.lock().unwrap().answers;
        // Under a name, another payment may have paid.
        if payment.name.is_some() && !has_moved {
            continue;
        }
        if answers > 0 && !has_moved {
            story.violate(format!("I1: {key} was answered and moved nothing"));
        }
        match payment.end() {
            Some(End::Served) if !has_moved => story.violate(format!("I1: {key} was served unpaid")),
            Some(End::Used) if row != Some(PaymentState::Served) => {
                story.violate(format!("I3: {key} was called spent and is {row:?}"));
            }
            Some(End::Owed) if row != Some(PaymentState::Owed) => {
                story.violate(format!("I3: {key} was called owed and is {row:?}"));
            }
            Some(End::Refused(reason)) if has_moved => {
                story.violate(format!("I7: {key} was refused ({reason}) and moved money"));
            }
            None => story.violate(format!("I3: {key} never came to an end ({})", payment.target)),
            _ => {}
        }
    }
}

/// I2, I3: what was bought under a name was paid once, and had.
fn judge_names(story: &Story, evidence: &Evidence) {
    let mut names: HashMap<(&str, &str), Vec<&Payment>> = HashMap::new();
    for payment in evidence.payments.values() {
        if let Some(name) = &payment.name {
            names.entry((&payment.payer, name)).or_default().push(payment);
        }
    }
    for ((payer, name), payments) in names {
        let moved = payments.iter().filter(|payment| evidence.arrivals.contains_key(&payment.key)).count();
        let is_had = payments.iter().any(|payment| matches!(payment.end(), Some(End::Served | End::Used | End::Owed)));
        let answers: u64 = payments.iter().map(|payment| payment.log.lock().unwrap().answers).sum();
        if moved > 1 {
            story.violate(format!("I2: {payer} paid {moved} times under the name {name}"));
        }
        if moved == 1 && !is_had || moved == 0 && (is_had || answers > 0) {
            story.violate(format!("I3: under the name {name} {moved} payments moved and {answers} answers came"));
        }
    }
}

/// I1, I2: what reached the origin.
fn judge_hits(world: &World, rows: &[PaymentRecord], evidence: &Evidence) {
    let story = &world.story;
    let by_record: HashMap<&str, &PaymentRecord> = rows.iter().map(|row| (row.record.0.as_str(), row)).collect();
    let mut delivered: HashMap<String, usize> = HashMap::new();
    for hit in world.origin.hits() {
        let Some(row) = by_record.get(hit.record.as_str()) else {
            story.violate(format!("I1: no row accounts for {hit:?}"));
            continue;
        };
        let payload = serde_json::from_str(&row.claim.payload).unwrap();
        let key = key_of(chain_of(row.claim.network.as_str()), &payload);
        if evidence.payments.get(&key).is_none_or(|payment| payment.target != hit.target) {
            story.violate(format!("I2: {key} bought {}", hit.target));
        }
        if let Some(transaction) = &hit.transaction {
            let is_moved = |arrival: &Arrival| arrival.transaction == *transaction || story.has_reorgs();
            if !evidence.arrivals.get(&key).is_some_and(|arrivals| arrivals.iter().any(is_moved)) {
                story.violate(format!("I1: {transaction}, which {hit:?} came with, moved nothing"));
            }
        }
        *delivered.entry(key).or_default() += 1;
    }
    for (key, count) in &delivered {
        if *count > DELIVERIES_MAX {
            story.violate(format!("I2: {key} was delivered {count} times"));
        }
    }
    for payment in evidence.payments.values().filter(|payment| payment.name.is_none()) {
        let (answers, hits) = (payment.log.lock().unwrap().answers, delivered.get(&payment.key).copied().unwrap_or(0));
        if answers > u64::try_from(hits).unwrap() {
            story.violate(format!("I1: {} had {answers} answers of {hits} hits", payment.key));
        }
    }
}

/// I4: balances.
async fn judge_sums(world: &World, rows: &[PaymentRecord], arrivals: &[Arrival]) {
    let wallets: Vec<_> = world.wallets.iter().map(AsRef::as_ref).collect();
    for (chain, sums) in world.chains.sums(&wallets).await {
        let moved: u128 = arrivals.iter().filter(|arrival| arrival.chain == chain).map(|arrival| arrival.value).sum();
        let is_own = |row: &&PaymentRecord| chain_of(row.claim.network.as_str()) == chain && is_paid(row.state);
        let booked: u128 = rows.iter().filter(is_own).map(|row| row.claim.amount.value().to::<u128>()).sum();
        if (sums.debited, sums.credited, booked) != (moved, moved, moved) {
            world.story.violate(format!("I4: on {chain} {moved} moved, {booked} is booked, and {sums:?}"));
        }
    }
}

/// I5 where there is no looking into the wire: what the node ever got is in the books.
fn judge_broadcasts(world: &World, rows: &[PaymentRecord]) {
    let known: HashSet<&str> =
        rows.iter().flat_map(|row| &row.attempts).map(|attempt| attempt.signed.transaction.as_str()).collect();
    for hash in world.chains.cosmos_broadcasts() {
        if !known.contains(hash.as_str()) {
            world.story.violate(format!("I5: {COSMOS} was sent {hash}, which the books don't know"));
        }
    }
}

/// I8: neither keys nor payments are in the gateway's log.
fn judge_log(world: &World) {
    let log = (0..world.fleet.size()).map(|gateway| world.fleet.log(gateway)).collect::<String>();
    let lower = log.to_lowercase();
    let keys = (0..world.fleet.size()).flat_map(|gateway| world.chains.environment(gateway));
    for (name, secret) in keys.chain([("the database's password", PASSWORD.to_owned())]) {
        if lower.contains(&secret.to_lowercase()) {
            world.story.violate(format!("I8: {name} is in the log"));
        }
    }
    // Nothing shorter than a signature is looked for, so that each word of the log is looked up once.
    let is_part = |character: char| character.is_ascii_alphanumeric() || matches!(character, '+' | '/' | '=');
    let words: HashSet<&str> = log.split(|character| !is_part(character)).filter(|word| word.len() >= 80).collect();
    for payment in world.story.payments() {
        let json = crate::harness::decode_header(&payment.header.1);
        let secret = secret_of(payment.chain, &json["payload"]);
        let header = payment.header.1.as_str();
        let is_told = |word: &&str| word.trim_start_matches("0x").eq_ignore_ascii_case(&secret) || *word == header;
        if words.iter().any(is_told) {
            world.story.violate(format!("I8: {} is in the log", payment.key));
        }
    }
}
