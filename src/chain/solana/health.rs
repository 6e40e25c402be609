//! Whether a node has caught up with its cluster, which it must have before it may say that a transaction never landed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::watch::Level;
use crate::chain::jsonrpc::{Call, RpcError};
use crate::types::UnixMillis;

/// The account in which a cluster keeps its time.
const CLOCK: &str = "SysvarC1ock11111111111111111111111111111111";
/// Where in it the Unix time of the block stands.
const CLOCK_TIME: std::ops::Range<usize> = 32..40;
/// How old the final state of a node may be that has caught up: finality takes its dozen seconds, and clusters' clocks drift.
const BEHIND_MAX_SECS: u64 = 60;

#[derive(Deserialize)]
struct ClockAnswer {
    value: Option<ClockAccount>,
}

#[derive(Deserialize)]
struct ClockAccount {
    data: (String, String),
}

/// The calls that tell.
pub(super) fn calls() -> Vec<Call> {
    let config = json!({"encoding": "base64", "commitment": Level::Finalized.as_str()});
    vec![("getHealth", json!([])), ("getAccountInfo", json!([CLOCK, config]))]
}

/// Reads the answers to [`calls`]. A provider that withholds `getHealth` is judged by the time in its final state.
pub(super) fn is_healthy(answers: &mut impl Iterator<Item = Result<Value, RpcError>>, now: UnixMillis) -> bool {
    let (health, clock) = (answers.next(), answers.next());
    match health {
        Some(Ok(_)) => true,
        Some(Err(error)) if error.is_withheld_method() => {
            let time = clock.and_then(Result::ok).and_then(unix_secs);
            time.is_some_and(|time| time.abs_diff(now.as_secs()) <= BEHIND_MAX_SECS)
        }
        _ => false,
    }
}

fn unix_secs(answer: Value) -> Option<u64> {
    let account = serde_json::from_value::<ClockAnswer>(answer).ok()?.value?;
    let data = STANDARD.decode(account.data.0).ok()?;
    let time = i64::from_le_bytes(data.get(CLOCK_TIME)?.try_into().ok()?);
    u64::try_from(time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(secs: i64) -> Value {
        let mut data = vec![0; 40];
        data[CLOCK_TIME].copy_from_slice(&secs.to_le_bytes());
        json!({"context": {"slot": 1}, "value": {"data": [STANDARD.encode(data), "base64"], "owner": "x"}})
    }

    fn error(code: i64, message: &str) -> Result<Value, RpcError> {
        Err(RpcError::Server { code, message: message.to_owned(), data: None })
    }

    #[test]
    fn a_node_is_believed_if_it_says_that_it_is_well_or_if_it_cannot_and_its_state_is_of_now() {
        let now = UnixMillis::from_secs(1_800_000_000);
        let judge = |health, clock| is_healthy(&mut [health, clock].into_iter(), now);
        let withheld = || error(-32601, "Method not found");
        assert!(judge(Ok(json!("ok")), error(-32601, "Method not found")));
        assert!(!judge(error(-32005, "Node is behind by 1000 slots"), Ok(clock(1_800_000_000))));
        assert!(judge(withheld(), Ok(clock(1_799_999_970))));
        assert!(judge(error(-32000, "method getHealth is not supported"), Ok(clock(1_800_000_000))));
        assert!(!judge(withheld(), Ok(clock(1_799_999_900))), "behind");
        assert!(!judge(withheld(), withheld()));
        assert!(!judge(withheld(), Ok(json!({"value": null}))));
        assert!(!is_healthy(&mut std::iter::empty(), now));
    }
}
