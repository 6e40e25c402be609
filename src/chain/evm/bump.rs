//! A settlement whose fee the chain has outgrown, or that the chain passes over, is signed again: same account nonce, higher
//! fee, recorded before it is sent (threat E9). Of all transactions with one account nonce at most one is ever mined, so none of
//! this can charge twice.

use std::time::{Duration, Instant};

use alloy::consensus::TxEip1559;
use alloy::primitives::U256;

use super::fees::Fees;
use super::lanes::{self, Ticket};
use super::rpc::RpcError;
use super::settle::{Job, Try};
use crate::ledger::{Attempt, NewAttempt};
use crate::payment::scheme::Attempts;

/// How long a settlement waits for the base fee to fall again before it is signed anew.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// Blocks in a row whose base fee is above the settlement's: then it is not waited for any longer.
const OUTGROWN_BLOCKS: u32 = 3;
/// Blocks for which the next transaction of an account may be passed over although its fee suffices.
const PASSED_OVER_BLOCKS: u32 = 5;
/// Most transactions that are signed for one payment.
const ATTEMPTS_MAX: usize = 8;
/// How often at most a settlement is signed again although its fee suffices.
const PASSED_OVER_MAX: usize = 3;
/// Pause after a further attempt that was not to be had.
const AGAIN_IN: Duration = Duration::from_secs(5);
/// An authorization that ends within so many blocks is not bumped: its settlement would only burn gas.
const BLOCKS_LEFT_MIN: u32 = 2;

/// What is known of a payment's need for a higher fee.
#[derive(Debug)]
pub(super) struct Outgrown {
    blocks: u32,
    seen: Option<u64>,
    not_before: Instant,
    /// Since when the newest transaction is the next of its account, and the head when that was seen.
    next: Option<(Instant, u64)>,
    /// How often it was signed again although its fee sufficed.
    passed_over: usize,
}

impl Default for Outgrown {
    fn default() -> Self {
        Self { blocks: 0, seen: None, not_before: Instant::now(), next: None, passed_over: 0 }
    }
}

impl Outgrown {
    /// Takes note of a head; gives for how many in a row the fee has been too low.
    fn note(&mut self, number: u64, is_too_low: bool) -> u32 {
        if !is_too_low {
            self.blocks = 0;
        } else if self.seen != Some(number) {
            self.blocks = self.blocks.saturating_add(1);
        }
        self.seen = Some(number);
        self.blocks
    }

    /// Takes note of a head; says whether what could have been mined since then was left out of too many blocks. Where there
    /// are no blocks at all it is replaced once: a chain that makes them for transactions only may have lost it.
    fn is_passed_over(&mut self, number: u64, since: Option<Instant>, interval: Duration) -> bool {
        let Some(since) = since else {
            self.next = None;
            return false;
        };
        let first = match self.next {
            Some((known, first)) if known == since => first,
            _ => number,
        };
        self.next = Some((since, first));
        let blocks = number.saturating_sub(first);
        let is_left_out = blocks >= u64::from(PASSED_OVER_BLOCKS) && since.elapsed() >= PATIENCE;
        let has_no_blocks = blocks == 0 && self.passed_over == 0 && since.elapsed() >= passed_over_after(interval);
        self.passed_over < PASSED_OVER_MAX && (is_left_out || has_no_blocks)
    }
}

/// For how long the next transaction of an account waits to be mined at a fee that suffices, before it is replaced: its tip may be
/// too low, or a node may say that it has it and have lost it. A node takes a replacement as something new.
pub(super) fn passed_over_after(block_interval: Duration) -> Duration {
    PATIENCE.max(block_interval * PASSED_OVER_BLOCKS)
}

/// Fees that replace a transaction's and can be mined at this base fee; none within the cap, none.
///
/// Nodes demand an eighth more on both fees. What the cap doesn't allow of today's generous fee is left out, as long as the
/// next block could still be paid.
pub(super) fn replacement(held: &TxEip1559, base_fee: u128, today: Fees, gas_limit: u64, cap: U256) -> Option<Fees> {
    let eighth_more = |fee: u128| fee.saturating_add(fee / 8).saturating_add(1);
    let tip = eighth_more(held.max_priority_fee_per_gas).max(today.tip);
    let least = eighth_more(held.max_fee_per_gas).max(eighth_more(base_fee).saturating_add(tip));
    let wanted = least.max(base_fee.saturating_mul(2).saturating_add(tip));
    let affordable = cap.checked_sub(today.data_fee)? / U256::from(gas_limit.max(1));
    let max_fee_per_gas = wanted.min(u128::try_from(affordable).unwrap_or(u128::MAX));
    (max_fee_per_gas >= least).then_some(Fees { max_fee_per_gas, tip, data_fee: today.data_fee })
}

impl Job {
    /// Signs the settlement anew if it needs to be, and sends that too.
    pub(super) async fn bump(&mut self, attempts: &dyn Attempts) -> Result<(), RpcError> {
        let Some((held, base_fee)) = self.stuck_transaction() else { return Ok(()) };
        self.outgrown.not_before = Instant::now() + AGAIN_IN;
        let deep = self.inner.watch.refresh_head(&self.inner.rpc, Duration::from_secs(1)).await?;
        if self.inner.is_authorization_used(self.token, &self.authorization, deep.number).await? {
            return Ok(());
        }
        let today = self.inner.fees().await?;
        let cap = self.inner.config.max_fee;
        let Some(fees) = replacement(&held, base_fee, today, held.gas_limit, cap) else {
            tracing::warn!(payment_id = %self.claim.id, base_fee, "A settlement waits: the fee that it needs is over max_fee.");
            return Ok(());
        };
        let Some(attempt) = self.sign_again(&held, fees) else { return Ok(()) };
        crate::crash::point("mid_bump");
        if let Err(error) = attempts.record(&self.record, attempt.clone()).await {
            tracing::error!(%error, payment_id = %self.claim.id, "A higher fee was not written down, and not sent.");
            return Ok(());
        }
        crate::crash::point("post_bump_pre_send");
        let number = u32::try_from(self.tries.len()).unwrap_or(u32::MAX).saturating_add(1);
        let attempt = Attempt { number, signed: attempt, signed_at: self.inner.clock.now() };
        match Try::new(&self.inner, &attempt, true) {
            Ok(new) => self.tries.push(new),
            Err(detail) => tracing::error!(payment_id = %self.claim.id, detail, "A higher fee can't be sent."),
        }
        self.outgrown.passed_over += usize::from(held.max_fee_per_gas >= base_fee);
        (self.outgrown.blocks, self.outgrown.next) = (0, None);
        Ok(())
    }

    /// The newest transaction and the base fee, if it waited long enough: at a fee that can't be mined, or passed over.
    fn stuck_transaction(&mut self) -> Option<(TxEip1559, u128)> {
        let head = self.inner.watch.head()?;
        let base_fee = head.base_fee?;
        let newest = self.tries.last()?;
        let held = newest.transaction.clone()?;
        let blocks = self.outgrown.note(head.number, base_fee > held.max_fee_per_gas);
        let is_open = self.tries.iter().all(|attempt| !attempt.is_dead && attempt.watched.receipt().is_none());
        let is_outgrown = blocks >= OUTGROWN_BLOCKS || (blocks > 0 && newest.signed_at.elapsed() >= PATIENCE);
        let interval = self.inner.watch.block_interval();
        let next_since = newest.ticket.as_ref().and_then(Ticket::next_since);
        let is_passed_over = self.outgrown.is_passed_over(head.number, next_since, interval);
        let margin = (interval * BLOCKS_LEFT_MIN).as_secs();
        // A chain that stands still still knows what time it is when it goes on.
        let now = head.timestamp.max(self.inner.clock.now().as_secs());
        let has_time = now.saturating_add(margin) < self.authorization.valid_before_secs();
        let is_due = is_open
            && (is_outgrown || is_passed_over)
            && has_time
            && self.tries.len() < ATTEMPTS_MAX
            && Instant::now() >= self.outgrown.not_before;
        is_due.then_some((held, base_fee))
    }

    fn sign_again(&self, held: &TxEip1559, fees: Fees) -> Option<NewAttempt> {
        let signer = self.tries.last()?.account.clone()?;
        let lane = self.inner.lane_of(&signer)?;
        let Some(key) = lane.signer() else {
            tracing::warn!(payment_id = %self.claim.id, %signer, "A settlement that should be signed again waits: its gas payer's key is not configured.");
            return None;
        };
        if !lane.is_held() {
            tracing::warn!(payment_id = %self.claim.id, %signer, "A settlement that should be signed again waits: its gas payer is another gateway's.");
            return None;
        }
        let cost_max = fees.total(held.gas_limit);
        if lane.balance().is_some_and(|balance| balance < cost_max) {
            tracing::warn!(payment_id = %self.claim.id, %signer, "A settlement waits: its gas payer can't pay for a higher fee.");
            return None;
        }
        let transaction =
            TxEip1559 { max_fee_per_gas: fees.max_fee_per_gas, max_priority_fee_per_gas: fees.tip, ..held.clone() };
        match lanes::sign(key, transaction) {
            Ok((hash, raw)) => Some(NewAttempt {
                signer: Some(signer),
                account_nonce: Some(held.nonce),
                transaction: hash.to_string(),
                raw,
                fee_max: cost_max.to_string(),
            }),
            Err(error) => {
                tracing::error!(error, payment_id = %self.claim.id, "Could not sign a higher fee.");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(max_fee_per_gas: u128, max_priority_fee_per_gas: u128) -> TxEip1559 {
        TxEip1559 { max_fee_per_gas, max_priority_fee_per_gas, ..TxEip1559::default() }
    }

    fn today(tip: u128) -> Fees {
        Fees { max_fee_per_gas: 0, tip, data_fee: U256::from(100) }
    }

    #[test]
    fn a_replacement_is_an_eighth_more_on_both_fees_and_pays_the_next_block() {
        let fees = replacement(&held(800, 80), 100, today(5), 10, U256::MAX).unwrap();
        assert_eq!((fees.max_fee_per_gas, fees.tip), (901, 91), "an eighth more though less would be mined");
        let fees = replacement(&held(800, 80), 8000, today(500), 10, U256::MAX).unwrap();
        assert_eq!((fees.max_fee_per_gas, fees.tip), (16_500, 500));
    }

    #[test]
    fn a_replacement_stays_under_the_cap_or_is_not_made() {
        let cap = |per_gas: u64| U256::from(per_gas * 10 + 100);
        let fees = replacement(&held(800, 80), 8000, today(500), 10, cap(12_000)).unwrap();
        assert_eq!(fees.max_fee_per_gas, 12_000, "less than twice the base fee, and enough for the next block");
        assert!(fees.total(10) <= cap(12_000));
        assert!(replacement(&held(800, 80), 8000, today(500), 10, cap(9_000)).is_none());
        assert!(replacement(&held(800, 80), 8000, today(500), 10, U256::from(99)).is_none(), "data alone costs more");
        assert!(replacement(&held(u128::MAX, 1), 1, today(1), 10, U256::MAX).is_some(), "nothing wraps");
    }

    #[test]
    fn what_could_be_mined_is_passed_over_after_blocks_and_time_and_without_blocks_once() {
        let long_ago = Instant::now().checked_sub(PATIENCE * 2);
        let mut outgrown = Outgrown::default();
        let mut passed_over = |number, since| outgrown.is_passed_over(number, since, Duration::from_secs(2));
        assert!(!passed_over(100, None), "it waits for others");
        assert!(!passed_over(100, Some(Instant::now())), "only now");
        assert!(passed_over(100, long_ago), "no block at all");
        assert!(!passed_over(104, long_ago));
        assert!(passed_over(105, long_ago));
        assert!(!passed_over(200, Some(Instant::now())), "blocks count from when it is the next");
        outgrown.passed_over = 1;
        assert!(!outgrown.is_passed_over(300, long_ago, Duration::ZERO), "without blocks it is replaced once");
        outgrown.passed_over = PASSED_OVER_MAX;
        assert!(!outgrown.is_passed_over(400, long_ago, Duration::ZERO), "often enough");
    }

    #[test]
    fn blocks_are_counted_once_and_in_a_row() {
        let mut outgrown = Outgrown::default();
        assert_eq!(outgrown.note(5, true), 1);
        assert_eq!(outgrown.note(5, true), 1);
        assert_eq!(outgrown.note(6, true), 2);
        assert_eq!(outgrown.note(7, false), 0);
        assert_eq!(outgrown.note(8, true), 1);
    }
}
