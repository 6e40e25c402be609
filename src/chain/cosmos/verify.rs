//! A decoded payment against the terms and against its signature (protocol §5.4), what needs no chain first.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;

use super::Inner;
use super::decode::{Decoded, SignMode};
use super::rpc::RpcError;
use super::sign_bytes::is_signed;
use crate::payment::scheme::{IncomingPayment, PaymentFacts, SettlementPlan, VerifyError};
use crate::protocol::{MEMO_KEY, PaymentRequirements, Reason};
use crate::types::UnixMillis;

/// Longest memo that chains take by default, in bytes.
const MEMO_BYTES_MAX: usize = 256;
/// Most gas that a transfer may ask for: some chains count high, but a block is not for one payment.
const GAS_MAX: u64 = 10_000_000;
/// Blocks that must be left before the timeout height.
const TIMEOUT_BLOCKS_MIN: u64 = 2;

/// A payment that decoded.
pub(super) struct CosmosPayment {
    pub inner: Arc<Inner>,
    pub decoded: Decoded,
    pub proven: OnceLock<()>,
}

/// Compares transaction and terms, cheapest first.
pub(super) fn check(decoded: &Decoded, terms: &PaymentRequirements) -> Result<(), Reason> {
    let facts = &decoded.facts;
    if facts.asset != terms.asset {
        return Err(Reason::CosmosDenomMismatch);
    }
    if facts.amount != terms.amount {
        return Err(Reason::CosmosAmountMismatch);
    }
    // Both are canonical: equal text is equal prefix and bytes.
    if facts.pay_to != terms.pay_to {
        return Err(Reason::CosmosRecipientMismatch);
    }
    let is_demanded = |memo: &str| match terms.extra.get(MEMO_KEY) {
        Some(demanded) => demanded.as_str() == Some(memo),
        None => true,
    };
    // Go wrote these two otherwise before 1.22: what is signed for one node is unsigned for another, for ever.
    let is_ambiguous = decoded.mode == SignMode::Amino && decoded.memo.contains(['\u{8}', '\u{c}']);
    if decoded.memo.len() > MEMO_BYTES_MAX || is_ambiguous || !is_demanded(&decoded.memo) {
        return Err(Reason::CosmosMemoMismatch);
    }
    let is_own_payer = decoded.fee_payer.is_empty() || decoded.fee_payer == facts.payer.as_str();
    if !is_own_payer || !decoded.fee_granter.is_empty() {
        return Err(Reason::CosmosFeePayer);
    }
    if !(1..=GAS_MAX).contains(&decoded.gas_limit) {
        return Err(Reason::CosmosFee);
    }
    Ok(())
}

impl Inner {
    /// Whether the timeout height leaves time to be included, and doesn't lie further off than the operator accepts. None at
    /// all is accepted unless the operator demands one: such a payment stays pending until it is found or its sequence is used
    /// otherwise.
    pub(super) fn check_timeout(&self, timeout_height: u64) -> Result<(), Reason> {
        if timeout_height == 0 && self.requires_timeout_height {
            return Err(Reason::CosmosTimeoutHeight);
        }
        let Some(head) = self.heads.last().filter(|_| timeout_height != 0) else { return Ok(()) };
        let pace = self.heads.pace().as_millis().max(1);
        let blocks_max = u64::try_from(self.max_window.as_millis() / pace).unwrap_or(u64::MAX).max(TIMEOUT_BLOCKS_MIN);
        let first = head.height.saturating_add(TIMEOUT_BLOCKS_MIN);
        let last = head.height.saturating_add(blocks_max);
        if (first..=last).contains(&timeout_height) { Ok(()) } else { Err(Reason::CosmosTimeoutHeight) }
    }
}

pub(super) fn unavailable(error: RpcError) -> VerifyError {
    VerifyError::Unavailable { detail: error.to_string() }
}

#[async_trait]
impl IncomingPayment for CosmosPayment {
    fn facts(&self) -> &PaymentFacts {
        &self.decoded.facts
    }

    fn check(&self, terms: &PaymentRequirements, _now: UnixMillis) -> Result<(), Reason> {
        if terms.network != self.inner.network {
            return Err(Reason::InvalidPayload);
        }
        check(&self.decoded, terms)?;
        self.inner.check_timeout(self.decoded.timeout_height)
    }

    /// The signature, for which the account's number has to be known. Not the sequence: it moves on when the payment lands,
    /// and a payment that bought its answer may be presented again.
    async fn prove(&self, _terms: &PaymentRequirements) -> Result<(), VerifyError> {
        if self.proven.get().is_some() {
            return Ok(());
        }
        let number = self.inner.account_number(&self.decoded).await?;
        if !is_signed(&self.decoded, self.inner.network.reference(), number) {
            return Err(Reason::CosmosSignature.into());
        }
        let _first_wins = self.proven.set(());
        Ok(())
    }

    async fn simulate(&self, terms: &PaymentRequirements) -> Result<Box<dyn SettlementPlan>, VerifyError> {
        // No further call for a payment whose signature nobody proved (threat F6).
        self.prove(terms).await?;
        super::simulate::simulate(&self.inner, &self.decoded).await
    }
}
