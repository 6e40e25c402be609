//! What is said of a chain when an operator asks whether business can open: findings, and those that every family shares.
//!
//! Changes nothing, signs nothing and decides nothing. Knows endpoints by their host only: the rest of an address may be an
//! access token.

use std::time::Duration;

use serde::Serialize;
use url::Url;

use super::SignerBalance;
use crate::types::{DecimalAmount, UnixMillis};

/// How far a chain's clock may be ahead of the local one; beyond it no payments are taken (threat E11).
const AHEAD_MAX_SECS: i64 = 30;
/// How old the newest block may be before somebody should look.
const AGE_MAX_SECS: i64 = 60;
/// A signer's balance that lasts for fewer payments is low.
const PAYMENTS_FEW: u64 = 100;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Business can open; somebody should look.
    Warn,
    /// Business can't open, or not for everybody.
    Fail,
}

impl Severity {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub status: Severity,
    /// What was looked at. Holds no secret.
    pub subject: String,
    /// What was found. Holds no secret.
    pub finding: String,
    /// What to do about it; there is one for whatever isn't well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Finding {
    /// As it should be.
    #[must_use]
    pub fn ok(subject: impl Into<String>, finding: impl Into<String>) -> Self {
        Self { status: Severity::Ok, subject: subject.into(), finding: finding.into(), hint: None }
    }

    /// Somebody should look.
    #[must_use]
    pub fn warn(subject: impl Into<String>, finding: impl Into<String>, hint: impl Into<String>) -> Self {
        let (subject, finding, hint) = (subject.into(), finding.into(), Some(hint.into()));
        Self { status: Severity::Warn, subject, finding, hint }
    }

    /// Business can't open.
    #[must_use]
    pub fn fail(subject: impl Into<String>, finding: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status: Severity::Fail, ..Self::warn(subject, finding, hint) }
    }
}

/// An endpoint's host, which is all of it that may be shown.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What one endpoint answered.
#[derive(Debug)]
pub(super) enum Seen {
    /// It serves the chain, up to this block.
    Head(u64),
    /// It serves the chain and says that it is behind.
    Behind(String),
    /// It serves another chain.
    WrongChain(String),
    /// Nothing that helps.
    Nothing(String),
}

/// One endpoint.
#[derive(Debug)]
pub(super) struct EndpointSeen {
    pub host: String,
    pub seen: Seen,
    /// How long the answer took.
    pub took: Duration,
}

/// One line for each endpoint: the chain that it serves, and how far it is behind the best of them.
pub(super) fn endpoints(list: &[EndpointSeen], lag_max: u64) -> Vec<Finding> {
    let heads = list.iter().filter_map(|endpoint| match endpoint.seen {
        Seen::Head(number) => Some(number),
        _ => None,
    });
    let best = heads.max();
    let lines = list.iter().enumerate().map(|(index, endpoint)| {
        let subject = format!("endpoint {} ({})", index.saturating_add(1), endpoint.host);
        let millis = endpoint.took.as_millis();
        let severity = if best.is_some() { Severity::Warn } else { Severity::Fail };
        match &endpoint.seen {
            Seen::Head(number) => match best.unwrap_or_default().saturating_sub(*number) {
                lag if lag > lag_max => Finding::warn(
                    subject,
                    format!("block {number}, {lag} behind the best endpoint"),
                    "put the endpoints that keep up first, or replace this one",
                ),
                0 => Finding::ok(subject, format!("the right chain, block {number}, {millis} ms")),
                lag => Finding::ok(subject, format!("the right chain, block {number} ({lag} behind), {millis} ms")),
            },
            Seen::Behind(detail) => Finding {
                status: severity,
                ..Finding::warn(subject, detail.clone(), "wait until the node has caught up, or use another one")
            },
            Seen::WrongChain(detail) => {
                Finding::fail(subject, detail.clone(), "take it out, or correct the network's name or its chain id")
            }
            Seen::Nothing(detail) => Finding {
                status: severity,
                ..Finding::warn(
                    subject,
                    detail.clone(),
                    "check the address, its access token and the way to it; other endpoints are asked meanwhile",
                )
            },
        }
    });
    lines.collect()
}

/// Whether any endpoint can be asked further.
pub(super) fn is_any_right(list: &[EndpointSeen]) -> bool {
    list.iter().any(|endpoint| matches!(endpoint.seen, Seen::Head(_)))
}

/// The local clock against the newest block's.
pub(super) fn clock(block_time: UnixMillis, now: UnixMillis) -> Finding {
    let ahead = block_time.0.saturating_sub(now.0) / 1000;
    let subject = "clock";
    if ahead > AHEAD_MAX_SECS {
        let finding = format!("the newest block is {ahead} s ahead of the local clock: no payments are taken");
        return Finding::fail(subject, finding, "set the local clock right, for example with chrony");
    }
    let age = ahead.saturating_neg();
    if age > AGE_MAX_SECS {
        let finding = format!("the newest block is {age} s old");
        let hint = "compare the local clock with another one; if it is right, the chain stands still or its endpoints are behind";
        return Finding::warn(subject, finding, hint);
    }
    Finding::ok(subject, format!("agrees with the chain's: the newest block is {} s old", age.max(0)))
}

/// Balances of gas payers, and for how many payments they last. `native_decimals` and `unit` are those of the native coin.
pub(super) fn signers(balances: &[SignerBalance], native_decimals: u8, unit: &str) -> Vec<Finding> {
    let has_other = |own: &SignerBalance| {
        balances.iter().any(|other| other.signer != own.signer && other.lasts.is_some_and(|lasts| lasts > 0))
    };
    let lines = balances.iter().map(|it| {
        let subject = format!("signer {}", it.signer);
        let Some(balance) = it.balance else {
            return Finding::fail(subject, "its balance can't be read", "ask again once the endpoints answer");
        };
        let balance = format!("{} {unit}", DecimalAmount::from_atomic(balance, native_decimals));
        let hint = format!("send {unit} to it: the gateway pays for settlements from there");
        match it.lasts {
            None => Finding::warn(subject, format!("{balance}; today's fees are not known"), "ask again"),
            Some(0) if has_other(it) => {
                Finding::warn(subject, format!("{balance}: not enough for one payment; others pay"), hint)
            }
            Some(0) => Finding::fail(subject, format!("{balance}: not enough for one payment"), hint),
            Some(lasts) if lasts < PAYMENTS_FEW => {
                Finding::warn(subject, format!("{balance}, enough for {lasts} payments"), hint)
            }
            Some(lasts) => Finding::ok(subject, format!("{balance}, enough for {lasts} payments")),
        }
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{AccountId, AtomicAmount};

    fn endpoint(seen: Seen) -> EndpointSeen {
        EndpointSeen { host: "node.test:1".to_owned(), seen, took: Duration::from_millis(3) }
    }

    fn severities(list: &[Finding]) -> Vec<Severity> {
        list.iter().map(|finding| finding.status).collect()
    }

    #[test]
    fn an_endpoint_is_shown_by_its_host_alone() {
        for url in ["https://user:key@node.test/v2/key?apikey=key", "https://node.test:443/key", "https://node.test"] {
            assert_eq!(host_of(&url.parse().unwrap()), "node.test");
        }
        assert_eq!(host_of(&"http://[::1]:8545/key".parse().unwrap()), "[::1]:8545");
    }

    #[test]
    fn endpoints_are_compared_with_the_best_of_them() {
        use Severity::{Fail, Ok, Warn};
        let list = [
            endpoint(Seen::Head(100)),
            endpoint(Seen::Head(90)),
            endpoint(Seen::Head(89)),
            endpoint(Seen::Nothing("can't connect".to_owned())),
            endpoint(Seen::Behind("catching up".to_owned())),
            endpoint(Seen::WrongChain("serves chain 1".to_owned())),
        ];
        let found = endpoints(&list, 10);
        assert_eq!(severities(&found), [Ok, Ok, Warn, Warn, Warn, Fail]);
        assert!(found[2].finding.contains("11 behind"), "{found:?}");
        assert!(found.iter().all(|finding| (finding.status == Ok) == finding.hint.is_none()));
        assert!(is_any_right(&list));
    }

    #[test]
    fn a_silent_endpoint_is_a_failure_where_no_other_answers() {
        let list = [endpoint(Seen::Nothing("x".to_owned())), endpoint(Seen::WrongChain("y".to_owned()))];
        assert_eq!(severities(&endpoints(&list, 10)), [Severity::Fail, Severity::Fail]);
        assert!(!is_any_right(&list));
    }

    #[test]
    fn a_clock_behind_the_chain_is_a_failure_and_an_old_block_a_warning() {
        let at = |secs| clock(UnixMillis::from_secs(secs), UnixMillis::from_secs(10_000)).status;
        assert_eq!([at(9_941), at(10_030), at(9_900), at(10_031)], {
            use Severity::{Fail, Ok, Warn};
            [Ok, Ok, Warn, Fail]
        });
    }

    #[test]
    fn a_signer_is_judged_by_the_payments_that_its_balance_lasts_for() {
        let signer = |name: &str, balance: Option<u64>, lasts| SignerBalance {
            signer: AccountId::new(name).unwrap(),
            balance: balance.map(AtomicAmount::from),
            lasts,
        };
        let alone = |lasts| signers(&[signer("0xa", Some(2_500_000_000), lasts)], 9, "SOL").remove(0);
        assert_eq!(alone(Some(100)), Finding::ok("signer 0xa", "2.5 SOL, enough for 100 payments"));
        assert_eq!(alone(Some(99)).status, Severity::Warn);
        assert_eq!(alone(None).status, Severity::Warn);
        assert_eq!(alone(Some(0)).status, Severity::Fail);
        let two = signers(&[signer("0xa", Some(0), Some(0)), signer("0xb", Some(9), Some(900))], 9, "SOL");
        assert_eq!(severities(&two), [Severity::Warn, Severity::Ok]);
        assert_eq!(signers(&[signer("0xa", None, None)], 9, "SOL")[0].status, Severity::Fail);
    }
}
