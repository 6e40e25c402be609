//! Whose fault a refusal is, and what a token that cheated must show before it gets another payer's money (threats B13, B14).

use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Inner;
use super::decode::Decoded;
use super::simulate::{Simulated, unavailable};
use super::startup::{accounts, check_assets};
use crate::payment::scheme::VerifyError;
use crate::protocol::Reason;

/// The place of the transfer among a payment's instructions.
const TRANSFER: u64 = 2;
/// The token programs' error for too little money.
const TOO_LITTLE: u64 = 1;

impl Inner {
    /// Tells the breaker of a transaction that failed, if it is not the payer's doing: the token program itself refused the
    /// transfer, and the payer's token account is its own, open, and holds the money. What a payer can spoil by itself, such as
    /// too few compute units or an account that isn't there, closes no token for others.
    pub(super) async fn blame_token(&self, decoded: &Decoded, error: &Value, reason: Reason) {
        let is_transfer = error.pointer("/InstructionError/0").and_then(Value::as_u64) == Some(TRANSFER);
        let code = error.pointer("/InstructionError/1/Custom").and_then(Value::as_u64);
        if !is_transfer || code.is_none_or(|code| code == TOO_LITTLE) {
            return;
        }
        let transfer = &decoded.transfer;
        let Ok(found) = accounts(self, &[transfer.source]).await else { return };
        let Some(source) = found.first().and_then(Option::as_ref).and_then(|account| account.info("account")) else {
            return;
        };
        let text = |name: &str| source.get(name).and_then(Value::as_str);
        let is_fine = text("state") == Some("initialized")
            && text("owner") == Some(&transfer.authority.to_string())
            && amount(source).is_some_and(|amount| amount >= transfer.amount);
        if is_fine {
            self.breaker.failed(&transfer.mint, transfer.authority, reason, Instant::now());
        }
    }

    /// Whether a token that moved something else than it was told would now move the price, as far as its mint and a simulation
    /// tell. It costs no payer anything to ask.
    pub(super) async fn try_token(&self, decoded: &Decoded) -> Result<(), VerifyError> {
        let transfer = &decoded.transfer;
        let still = |what: &str| VerifyError::Unavailable { detail: format!("token {}: {what}", transfer.mint) };
        let (_programs, problems) = check_assets(self).await.map_err(|error| unavailable(&error))?;
        if let Some(problem) = problems.iter().find(|problem| problem.contains(&transfer.mint.to_string())) {
            return Err(still(problem));
        }
        let before = accounts(self, &[transfer.destination]).await.map_err(|error| unavailable(&error))?;
        let before = before.first().and_then(Option::as_ref).and_then(|account| account.info("account"));
        let before = before.and_then(amount).ok_or_else(|| still("the payee's balance is not known"))?;
        let wire = wincode::serialize(&decoded.transaction).map_err(|_error| Reason::SvmUndecodable)?;
        let params = json!([STANDARD.encode(wire), {
            "encoding": "base64",
            "sigVerify": false,
            "replaceRecentBlockhash": false,
            "commitment": "confirmed",
            "accounts": {"encoding": "base64", "addresses": [transfer.destination.to_string()]},
        }]);
        let simulated: Simulated =
            self.rpc.call("simulateTransaction", params).await.map_err(|error| unavailable(&error))?;
        // Another payment that landed meanwhile spoils the comparison, and this one is tried again.
        if simulated.value.balance() != before.checked_add(transfer.amount) {
            return Err(still("a simulation did not show the price arriving"));
        }
        Ok(())
    }
}

/// Atomic units in a token account, as nodes write them.
fn amount(info: &Value) -> Option<u64> {
    info.pointer("/tokenAmount/amount")?.as_str()?.parse().ok()
}
