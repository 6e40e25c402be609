//! Whether a settlement would succeed now: one call, without our signature (threat C9).

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use solana_sdk::program_pack::Pack;
use solana_transaction::versioned::VersionedTransaction;
use spl_token_interface::state::Account;

use super::decode::{Decoded, key};
use super::{FeePayer, Inner, Purse};
use crate::chain::inflight::InflightGuard;
use crate::chain::jsonrpc::RpcError;
use crate::chain::spending::Hold;
use crate::ledger::{AccountNonce, NewAttempt};
use crate::payment::scheme::{SettlementPlan, SignError, VerifyError};
use crate::protocol::Reason;
use crate::types::{AccountId, AtomicAmount};

/// How long a refusal is believed (threat F6).
const REFUSAL_HOLDS: Duration = Duration::from_secs(3);
/// Simulations of one payment while earlier ones of its payer land.
const SIMULATIONS_MAX: u32 = 5;
/// A payer's blockhash may be newer than what a node has confirmed: how long to wait before it is asked once more.
const NEWER_HASH: Duration = Duration::from_millis(600);

/// A settlement that may be signed. Keep it until the settlement runs: it holds the payer's place.
struct Plan {
    _purse: InflightGuard<Purse>,
    _hold: Hold,
    fee_payer: Arc<FeePayer>,
    transaction: VersionedTransaction,
    message: Vec<u8>,
    fee: u64,
}

impl SettlementPlan for Plan {
    /// The payer's own transaction is sent: its blockhash and its digest stand where EVM has an account nonce.
    fn signer(&self) -> Option<&AccountId> {
        None
    }

    fn sign(&self, _account_nonce: Option<AccountNonce>) -> Result<NewAttempt, SignError> {
        let mut transaction = self.transaction.clone();
        let own = transaction.signatures.first_mut().ok_or_else(|| SignError("no signature slot".to_owned()))?;
        let signature = self.fee_payer.sign(&self.message);
        *own = signature;
        let raw = wincode::serialize(&transaction).map_err(|error| SignError(error.to_string()))?;
        Ok(NewAttempt {
            signer: Some(self.fee_payer.account.clone()),
            account_nonce: None,
            transaction: signature.to_string(),
            raw,
            fee_max: self.fee.to_string(),
        })
    }
}

#[derive(Deserialize)]
pub(super) struct Simulated {
    pub value: SimulatedValue,
}

#[derive(Deserialize)]
pub(super) struct SimulatedValue {
    #[serde(default)]
    err: Option<Value>,
    #[serde(default)]
    accounts: Option<Vec<Option<SimulatedAccount>>>,
}

#[derive(Deserialize)]
struct SimulatedAccount {
    data: (String, String),
}

impl SimulatedValue {
    /// What the token account that was asked about would hold afterwards.
    pub(super) fn balance(&self) -> Option<u64> {
        let account = self.accounts.as_ref()?.first()?.as_ref()?;
        let data = STANDARD.decode(&account.data.0).ok()?;
        // Token-2022 accounts begin with the same fields; extensions follow.
        Account::unpack_from_slice(data.get(..Account::LEN)?).ok().map(|account| account.amount)
    }
}

pub(super) async fn simulate(inner: &Arc<Inner>, decoded: &Decoded) -> Result<Box<dyn SettlementPlan>, VerifyError> {
    let unavailable = |detail: &str| VerifyError::Unavailable { detail: detail.to_owned() };
    let (transfer, facts) = (&decoded.transfer, &decoded.facts);
    if inner.program_of(&transfer.mint).is_none() {
        return Err(unavailable("the mint is not verified yet"));
    }
    if let Some(reason) = inner.refused.get(&facts.digest) {
        return Err(reason.into());
    }
    if let Some(detail) = inner.breaker.refusal(&transfer.mint, &facts.id, Instant::now()) {
        return Err(VerifyError::Unavailable { detail });
    }
    if let Some(detail) = inner.losses.refusal(transfer.authority, Instant::now()) {
        return Err(unavailable(detail));
    }
    let fee_payer = key(&decoded.transaction.message, 0).and_then(|key| inner.signer(&key));
    let fee_payer = Arc::clone(fee_payer.ok_or(Reason::SvmFeePayerNotManaged)?);
    let purse = inner.inflight.enter((transfer.source, transfer.mint), &facts.id, facts.amount);
    if purse.is_crowded() {
        return Err(unavailable("the payer has too many payments in flight"));
    }
    check_funds(inner, decoded, &purse).await?;
    if inner.breaker.has_lied(&transfer.mint) {
        inner.try_token(decoded).await?;
    }
    let hold = fee_payer.allowance.hold(decoded.fee().into(), inner.clock.now());
    Ok(Box::new(Plan {
        _hold: hold.ok_or_else(|| unavailable("the fee payer has spent its max_fee_per_day"))?,
        _purse: purse,
        fee_payer,
        transaction: decoded.transaction.clone(),
        message: decoded.message.clone(),
        fee: decoded.fee(),
    }))
}

/// Simulates. A payer with others in flight must have enough for all of them (threat C2).
async fn check_funds(inner: &Inner, decoded: &Decoded, purse: &InflightGuard<Purse>) -> Result<(), VerifyError> {
    for _ in 0..SIMULATIONS_MAX {
        let ahead = purse.ahead().ok_or(Reason::InsufficientFunds)?;
        // What this one would leave.
        let left = ask(inner, decoded).await?;
        match left {
            _ if ahead.is_zero() => return Ok(()),
            Some(left) if AtomicAmount::from(left) >= ahead => return Ok(()),
            Some(_) => {}
            None => {
                let detail = "node told no balance after the simulation".to_owned();
                return Err(VerifyError::Unavailable { detail });
            }
        }
        // Some may be in that balance already.
        if !purse.has_less_ahead(ahead).await {
            break;
        }
    }
    inner.refused.put(decoded.facts.digest, Reason::InsufficientFunds, REFUSAL_HOLDS);
    Err(Reason::InsufficientFunds.into())
}

/// Simulates, and gives what the payer's token account would hold then.
async fn ask(inner: &Inner, decoded: &Decoded) -> Result<Option<u64>, VerifyError> {
    let mut result = ask_once(inner, decoded).await?;
    if result.err.as_ref().is_some_and(|error| error == "BlockhashNotFound") {
        tokio::time::sleep(NEWER_HASH).await;
        result = ask_once(inner, decoded).await?;
    }
    let Some(error) = &result.err else { return Ok(result.balance()) };
    let reason = reason_of(error)?;
    inner.blame_token(decoded, error, reason).await;
    inner.refused.put(decoded.facts.digest, reason, REFUSAL_HOLDS);
    Err(reason.into())
}

async fn ask_once(inner: &Inner, decoded: &Decoded) -> Result<SimulatedValue, VerifyError> {
    // The decoder zeroed our slot, so what goes out can't be sent by whoever sees it.
    let wire = wincode::serialize(&decoded.transaction).map_err(|_error| Reason::SvmUndecodable)?;
    let params = json!([STANDARD.encode(wire), {
        "encoding": "base64",
        "sigVerify": false,
        "replaceRecentBlockhash": false,
        "commitment": "confirmed",
        "accounts": {"encoding": "base64", "addresses": [decoded.transfer.source.to_string()]},
    }]);
    match inner.rpc.call::<Simulated>("simulateTransaction", params).await {
        Ok(simulated) => Ok(simulated.value),
        // Some nodes put the transaction's error there.
        Err(RpcError::Server { data: Some(data), .. }) if data.get("err").is_some_and(|error| !error.is_null()) => {
            Ok(SimulatedValue { err: data.get("err").cloned(), accounts: None })
        }
        Err(error) => Err(unavailable(&error)),
    }
}

pub(super) fn unavailable(error: &RpcError) -> VerifyError {
    VerifyError::Unavailable { detail: error.to_string() }
}

/// Whose affair a transaction's error is, and the word for it.
fn reason_of(error: &Value) -> Result<Reason, VerifyError> {
    // What the fee payer can't pay is ours.
    const OURS: [&str; 3] = ["AccountNotFound", "InsufficientFundsForFee", "InvalidAccountForFee"];
    let name = error.as_str().or_else(|| error.as_object().and_then(|fields| fields.keys().next().map(String::as_str)));
    let rent_of_fee_payer = error.pointer("/InsufficientFundsForRent/account_index").and_then(Value::as_u64) == Some(0);
    if rent_of_fee_payer || name.is_some_and(|name| OURS.contains(&name)) {
        return Err(VerifyError::Unavailable { detail: "the fee payer can't pay for this settlement".to_owned() });
    }
    if name == Some("AlreadyProcessed") {
        return Ok(Reason::DuplicateSettlement);
    }
    // The token programs' error 1.
    let custom = error.pointer("/InstructionError/1/Custom").and_then(Value::as_u64);
    let is_transfer = error.pointer("/InstructionError/0").and_then(Value::as_u64) == Some(2);
    Ok(if is_transfer && custom == Some(1) { Reason::InsufficientFunds } else { Reason::SvmSimulationFailed })
}
