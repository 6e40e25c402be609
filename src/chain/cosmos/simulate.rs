//! Asking the chain whether a payment would succeed now: sequence, fee, balance, execution.
//!
//! The payer signed the transaction and pays its fee, so there is nothing to sign and no lane to reserve. One payer has at
//! most one payment in flight: each needs the sequence that the chain expects next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cosmrs::proto::cosmos::bank::v1beta1::{QueryBalanceRequest, QuerySpendableBalanceByDenomRequest};
use cosmrs::proto::cosmos::base::v1beta1::Coin;
use cosmrs::proto::cosmos::tx::v1beta1::{GetTxRequest, SimulateRequest};
use tonic::Code;

use super::decode::Decoded;
use super::fees::is_enough;
use super::rpc::RpcError;
use super::verify::unavailable;
use super::{Inner, LAG_MAX};
use crate::ledger::{AccountNonce, NewAttempt};
use crate::payment::scheme::{SettlementPlan, SignError, VerifyError};
use crate::protocol::Reason;
use crate::types::{AccountId, AtomicAmount};

/// How long a refusal is believed (threat F6).
const REFUSAL_HOLDS: Duration = Duration::from_secs(3);
/// The same of a payment that is in a block.
const COMMITTED_HOLDS: Duration = Duration::from_secs(60);
/// How long a block counts as the latest.
const HEAD_HOLDS: Duration = Duration::from_secs(1);

/// The payer's own transaction, ready to be sent.
struct Plan {
    hash: String,
    raw: Vec<u8>,
}

impl SettlementPlan for Plan {
    fn signer(&self) -> Option<&AccountId> {
        None
    }

    fn sign(&self, _account_nonce: Option<AccountNonce>) -> Result<NewAttempt, SignError> {
        Ok(NewAttempt {
            signer: None,
            account_nonce: None,
            transaction: self.hash.clone(),
            raw: self.raw.clone(),
            // The payer pays.
            fee_max: "0".to_owned(),
        })
    }
}

/// Asks the chain, unless it refused this payment a moment ago (threat F6).
pub(super) async fn simulate(inner: &Arc<Inner>, decoded: &Decoded) -> Result<Box<dyn SettlementPlan>, VerifyError> {
    let facts = &decoded.facts;
    if let Some(reason) = inner.refused.get(&decoded.hash) {
        return Err(reason.into());
    }
    if let Some(detail) = inner.breaker.refusal(&facts.asset, &facts.id, Instant::now()) {
        return Err(VerifyError::Unavailable { detail });
    }
    let result = ask(inner, decoded).await;
    if let Err(VerifyError::Invalid { reason }) = &result {
        let is_for_good = *reason == Reason::CosmosAlreadyCommitted;
        let holds_for = if is_for_good { COMMITTED_HOLDS } else { REFUSAL_HOLDS };
        inner.refused.put(decoded.hash.clone(), *reason, holds_for);
    }
    result
}

async fn ask(inner: &Arc<Inner>, decoded: &Decoded) -> Result<Box<dyn SettlementPlan>, VerifyError> {
    // Prices that aren't known are left to the node that gets the transaction.
    if let Some(prices) = inner.gas_prices()
        && !is_enough(&prices, &decoded.fee, decoded.gas_limit)
    {
        return Err(Reason::CosmosFee.into());
    }
    // In the order in which they explain each other; asked at once.
    let (head, is_committed, sequence, funds, run) = futures::join!(
        inner.head(HEAD_HOLDS),
        is_committed(inner, decoded),
        inner.sequence(decoded),
        check_funds(inner, decoded),
        run(inner, decoded),
    );
    head.map_err(unavailable)?;
    if inner.lag().is_none_or(|lag| lag > LAG_MAX) {
        return Err(VerifyError::Unavailable { detail: "the node's latest block is old".to_owned() });
    }
    inner.check_timeout(decoded.timeout_height)?;
    if is_committed? {
        return Err(Reason::CosmosAlreadyCommitted.into());
    }
    if sequence? != decoded.sequence {
        return Err(Reason::CosmosSequenceMismatch.into());
    }
    funds?;
    // Whose payer has the money and the right sequence, and is refused all the same.
    if let Run::Closed = run {
        let reason = Reason::CosmosSimulationFailed;
        inner.breaker.failed(&decoded.facts.asset, decoded.facts.payer.clone(), reason, Instant::now());
    }
    run.judge()?;
    Ok(Box::new(Plan { hash: decoded.hash.clone(), raw: decoded.raw.clone() }))
}

async fn is_committed(inner: &Inner, decoded: &Decoded) -> Result<bool, VerifyError> {
    match inner.rpc.call(GetTxRequest { hash: decoded.hash.clone() }).await {
        Ok(_found) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(unavailable(error)),
    }
}

/// Amount and fee in every denom: CheckTx looks at the fee only, and lets an overspend into a block.
async fn check_funds(inner: &Inner, decoded: &Decoded) -> Result<(), VerifyError> {
    let facts = &decoded.facts;
    let mut needed = vec![(facts.asset.as_str().to_owned(), facts.amount)];
    for coin in &decoded.fee {
        match needed.iter_mut().find(|(denom, _)| *denom == coin.denom) {
            Some((_, sum)) => *sum = sum.checked_add(coin.amount).ok_or(Reason::CosmosInsufficientBalance)?,
            None => needed.push((coin.denom.clone(), coin.amount)),
        }
    }
    for (denom, needed) in needed {
        if spendable(inner, facts.payer.as_str(), denom).await.map_err(unavailable)? < needed {
            return Err(Reason::CosmosInsufficientBalance.into());
        }
    }
    Ok(())
}

async fn spendable(inner: &Inner, address: &str, denom: String) -> Result<AtomicAmount, RpcError> {
    let address = address.to_owned();
    let query = QuerySpendableBalanceByDenomRequest { address: address.clone(), denom: denom.clone() };
    let balance = match inner.rpc.call(query).await {
        // SDKs before 0.47 know only the whole balance; what is locked of it the simulation finds.
        Err(error) if error.is_unimplemented() => {
            inner.rpc.call(QueryBalanceRequest { address, denom }).await.map(|answer| answer.balance)
        }
        answer => answer.map(|answer| answer.balance),
    }?;
    let amount = balance.map_or(Ok(AtomicAmount::ZERO), |Coin { amount, .. }| amount.parse());
    amount.map_err(|_error| RpcError::Transport("node gave no balance".to_owned()))
}

/// Runs the transaction without its signature: the chain's own word on whether the message would succeed, and for how much
/// gas. It is no check of signature or fee.
#[allow(deprecated, reason = "the deprecated field is left empty")]
async fn run(inner: &Inner, decoded: &Decoded) -> Run {
    match inner.rpc.call(SimulateRequest { tx: None, tx_bytes: decoded.raw.clone() }).await {
        Ok(answer) => match answer.gas_info.map(|gas| gas.gas_used) {
            Some(used) if used <= decoded.gas_limit => Run::Fine,
            Some(_) => Run::Refused(Reason::CosmosFee.into()),
            None => Run::Refused(VerifyError::Unavailable { detail: "node gave no gas".to_owned() }),
        },
        Err(RpcError::Node { code, message }) if code != Code::Unimplemented => {
            if is_closed(&message) {
                Run::Closed
            } else {
                Run::Refused(refusal(&message).into())
            }
        }
        Err(error) => Run::Refused(unavailable(error)),
    }
}

/// What came of running a transaction.
enum Run {
    Fine,
    /// The chain lets nobody move this coin, or the payee have it.
    Closed,
    Refused(VerifyError),
}

impl Run {
    fn judge(self) -> Result<(), VerifyError> {
        match self {
            Self::Fine => Ok(()),
            Self::Closed => Err(Reason::CosmosSimulationFailed.into()),
            Self::Refused(error) => Err(error),
        }
    }
}

/// Whether a simulation's error is of the kinds that issuers and chains switch on, for everybody or for somebody.
fn is_closed(message: &str) -> bool {
    const WORDS: [&str; 6] = ["disabled", "paused", "frozen", "not allowed to receive", "blacklist", "blocklist"];
    let message = message.to_ascii_lowercase();
    WORDS.iter().any(|word| message.contains(word))
}

/// The reason behind a simulation's error, as real nodes word it.
fn refusal(message: &str) -> Reason {
    let known = [
        ("account sequence mismatch", Reason::CosmosSequenceMismatch),
        ("incorrect account sequence", Reason::CosmosSequenceMismatch),
        ("insufficient funds", Reason::CosmosInsufficientBalance),
        ("insufficient fee", Reason::CosmosFee),
        ("out of gas", Reason::CosmosFee),
        ("tx timeout height", Reason::CosmosTimeoutHeight),
        ("memo", Reason::CosmosMemoMismatch),
    ];
    let message = message.to_ascii_lowercase();
    let found = known.iter().find(|(text, _)| message.contains(text));
    found.map_or(Reason::CosmosSimulationFailed, |(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_real_nodes_say_of_a_simulation_becomes_the_right_reason() {
        for (message, reason) in [
            (
                "account sequence mismatch, expected 3, got 8: incorrect account sequence",
                Reason::CosmosSequenceMismatch,
            ),
            ("9uatom is smaller than 10uatom: insufficient funds", Reason::CosmosInsufficientBalance),
            ("spendable balance 1uatom is smaller than 2uatom: insufficient funds", Reason::CosmosInsufficientBalance),
            ("out of gas in location: ReadFlat; gasWanted: 1", Reason::CosmosFee),
            (
                "maximum number of characters is 256 but received 300 characters: memo too large",
                Reason::CosmosMemoMismatch,
            ),
            ("block height: 30, timeout height: 3: tx timeout height", Reason::CosmosTimeoutHeight),
            ("uusdc transfers are currently disabled: send transactions are disabled", Reason::CosmosSimulationFailed),
        ] {
            assert_eq!(refusal(message), reason, "{message}");
        }
    }

    #[test]
    fn what_issuers_and_chains_switch_on_is_known_from_what_a_payer_did_wrong() {
        for message in [
            "uusdc transfers are currently disabled: send transactions are disabled",
            "noble1x is blacklisted: can not send tokens",
            "noble1x is not allowed to receive funds: unauthorized",
            "the chain is paused",
        ] {
            assert!(is_closed(message), "{message}");
        }
        assert!(!is_closed("spendable balance 1uatom is smaller than 2uatom: insufficient funds"));
        assert!(!is_closed("out of gas in location: ReadFlat; gasWanted: 1"));
    }
}
