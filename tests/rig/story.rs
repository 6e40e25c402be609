//! What the rig writes down while it runs: what clients signed, presented and were told, what was seen to be wrong, and how
//! often what happened.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tollhouse::types::{Clock, SystemClock};

/// Milliseconds since 1970, as the books count.
pub fn now_millis() -> i64 {
    SystemClock.now().0
}

/// How a payment ended for its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The answer came, whole.
    Served,
    /// It was said to be spent: an earlier answer was lost on its way.
    Used,
    /// The money moved, and no answer will come.
    Owed,
    /// Refused, with terms for another payment.
    Refused(String),
    /// Given up for a further payment under the same name.
    Replaced,
}

/// A payment as its client knows it.
#[derive(Debug)]
pub struct Payment {
    /// What its chain tells it by.
    pub key: String,
    pub chain: &'static str,
    pub payer: String,
    pub target: String,
    /// The name that the payer gave it.
    pub name: Option<String>,
    pub header: (&'static str, String),
    pub log: Mutex<Log>,
}

#[derive(Debug, Default)]
pub struct Log {
    /// When it was presented, oldest first; bounded.
    pub presented: u64,
    /// Whole answers of the origin.
    pub answers: u64,
    /// When terms came as the answer to it, other than for being spent, and the word with them.
    pub terms: Vec<(i64, String)>,
    pub end: Option<End>,
}

impl Payment {
    pub fn end(&self) -> Option<End> {
        self.log.lock().unwrap().end.clone()
    }

    pub fn finish(&self, end: End) {
        self.log.lock().unwrap().end.get_or_insert(end);
    }
}

/// All of one epoch.
pub struct Story {
    payments: Mutex<Vec<Arc<Payment>>>,
    violations: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<String, u64>>,
    file: Mutex<File>,
}

/// What a chain that takes blocks back is counted as.
pub const REORGS: &str = "troubles: blocks taken back";

/// So many of one invariant are worth reading.
const VIOLATIONS_MAX: usize = 8;

impl Story {
    pub fn begin(directory: &Path) -> Arc<Self> {
        let file = File::create(directory.join("clients.log")).unwrap();
        Arc::new(Self {
            payments: Mutex::default(),
            violations: Mutex::default(),
            counts: Mutex::default(),
            file: Mutex::new(file),
        })
    }

    /// Written before it is acted on.
    pub fn note(&self, line: &str) {
        writeln!(self.file.lock().unwrap(), "{} {line}", now_millis()).unwrap();
    }

    pub fn violate(&self, what: String) {
        self.note(&format!("VIOLATION {what}"));
        let mut violations = self.violations.lock().unwrap();
        let is_alike = |known: &&String| known.get(..2) == what.get(..2);
        if violations.iter().filter(is_alike).count() < VIOLATIONS_MAX {
            violations.push(what);
        }
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap().clone()
    }

    pub fn count(&self, what: &str) {
        self.add(what, 1);
    }

    pub fn add(&self, what: &str, more: u64) {
        let mut counts = self.counts.lock().unwrap();
        match counts.get_mut(what) {
            Some(count) => *count += more,
            None => drop(counts.insert(what.to_owned(), more)),
        }
    }

    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap().clone()
    }

    pub fn signed(&self, payment: Payment) -> Arc<Payment> {
        let payment = Arc::new(payment);
        self.note(&format!("signed {} {} {} {}", payment.chain, payment.key, payment.target, payment.header.1));
        self.payments.lock().unwrap().push(Arc::clone(&payment));
        payment
    }

    pub fn payments(&self) -> Vec<Arc<Payment>> {
        self.payments.lock().unwrap().clone()
    }

    /// Whether a chain took blocks back.
    pub fn has_reorgs(&self) -> bool {
        self.counts.lock().unwrap().contains_key(REORGS)
    }

    /// Payments that were presented and have not ended.
    pub fn in_flight(&self) -> usize {
        let is_open = |payment: &&Arc<Payment>| {
            let log = payment.log.lock().unwrap();
            log.presented > 0 && log.end.is_none()
        };
        self.payments.lock().unwrap().iter().filter(is_open).count()
    }
}
