//! A decoded payment against the terms and against its signatures. Asks no node.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use solana_message::compiled_instruction::CompiledInstruction;
use solana_pubkey::Pubkey;
use spl_associated_token_account_interface::address::get_associated_token_address_with_program_id;

use super::Inner;
use super::decode::{Decoded, key};
use super::programs::{LIGHTHOUSE, LIGHTHOUSE_MEMORY, MEMO};
use crate::payment::scheme::{IncomingPayment, PaymentFacts, SettlementPlan, VerifyError};
use crate::protocol::{MEMO_KEY, PaymentRequirements, Reason};
use crate::types::UnixMillis;

/// The key in `extra` that names the fee payer (protocol §4).
pub(super) const FEE_PAYER_KEY: &str = "feePayer";
/// Most compute units that a payment may ask for: a transfer takes some thousand.
const UNIT_LIMIT_MAX: u32 = 200_000;
/// Most micro-lamports for a compute unit, as in the official facilitator.
const UNIT_PRICE_MAX: u64 = 5_000_000;
/// How long a derived address is remembered.
const DERIVED_HOLDS: Duration = Duration::from_secs(3600);

/// A payment that decoded.
pub(super) struct SolanaPayment {
    pub inner: Arc<Inner>,
    pub decoded: Decoded,
    pub is_proven: AtomicBool,
}

impl Inner {
    /// Compares transaction and terms in protocol §4's order, with the gateway's additions.
    pub(super) fn check(&self, decoded: &Decoded, terms: &PaymentRequirements) -> Result<(), Reason> {
        self.check_fee_payer(decoded, terms)?;
        if decoded.unit_limit > UNIT_LIMIT_MAX {
            return Err(Reason::SvmComputeLimitTooHigh);
        }
        if decoded.unit_price > UNIT_PRICE_MAX || decoded.fee() > self.config.max_fee {
            return Err(Reason::SvmComputePriceTooHigh);
        }
        self.check_transfer(decoded, terms)?;
        check_rest(decoded, terms.extra.get(MEMO_KEY))?;
        self.check_isolation(decoded)
    }

    fn check_fee_payer(&self, decoded: &Decoded, terms: &PaymentRequirements) -> Result<(), Reason> {
        let named = terms.extra.get(FEE_PAYER_KEY).and_then(Value::as_str);
        let named: Pubkey = named.and_then(|text| text.parse().ok()).ok_or(Reason::SvmMissingFeePayer)?;
        if self.signer(&named).is_none() {
            return Err(Reason::SvmFeePayerNotManaged);
        }
        if key(&decoded.transaction.message, 0) != Some(named) {
            return Err(Reason::SvmInvalidFeePayer);
        }
        Ok(())
    }

    fn check_transfer(&self, decoded: &Decoded, terms: &PaymentRequirements) -> Result<(), Reason> {
        let transfer = &decoded.transfer;
        if self.signer(&transfer.authority).is_some() {
            return Err(Reason::SvmFeePayerTransferring);
        }
        if !transfer.is_authority_signer {
            return Err(Reason::SvmSignatureInvalid);
        }
        let mint: Option<Pubkey> = terms.asset.as_str().parse().ok();
        let asset = self.config.assets.iter().find(|asset| Some(asset.mint) == mint);
        let asset = asset.filter(|asset| asset.mint == transfer.mint).ok_or(Reason::SvmMintMismatch)?;
        // Before the mint was looked at nothing is settled, so that nothing hangs on what isn't known yet.
        if self.program_of(&transfer.mint).is_some_and(|program| program != transfer.program) {
            return Err(Reason::SvmNoTransfer);
        }
        let pay_to: Pubkey = terms.pay_to.as_str().parse().map_err(|_error| Reason::SvmRecipientMismatch)?;
        // A transfer to itself moves nothing (threat B20).
        if transfer.destination != self.token_account(pay_to, transfer.mint, transfer.program)
            || transfer.source == transfer.destination
        {
            return Err(Reason::SvmRecipientMismatch);
        }
        if terms.amount != decoded.facts.amount || transfer.decimals != asset.decimals {
            return Err(Reason::SvmAmountMismatch);
        }
        Ok(())
    }

    /// No instruction may get at a signer of ours (threat C7): the fee payer pays the fee and nothing else, and no other key
    /// of ours is in the transaction at all.
    fn check_isolation(&self, decoded: &Decoded) -> Result<(), Reason> {
        let message = &decoded.transaction.message;
        let is_used =
            |instruction: &CompiledInstruction| instruction.program_id_index == 0 || instruction.accounts.contains(&0);
        let has_other = message.static_account_keys().iter().skip(1).any(|key| self.signer(key).is_some());
        if has_other || message.instructions().iter().any(is_used) {
            return Err(Reason::SvmFeePayerInInstruction);
        }
        Ok(())
    }

    /// The associated token account of an owner.
    pub(super) fn token_account(&self, owner: Pubkey, mint: Pubkey, program: Pubkey) -> Pubkey {
        if let Some(known) = self.derived.get(&(owner, mint, program)) {
            return known;
        }
        let derived = get_associated_token_address_with_program_id(&owner, &mint, &program);
        self.derived.put((owner, mint, program), derived, DERIVED_HOLDS);
        derived
    }

    /// The token program that a mint was seen to belong to.
    pub(super) fn program_of(&self, mint: &Pubkey) -> Option<Pubkey> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner).get(mint).copied()
    }
}

/// What follows the transfer: memos and assertions only, and the memo that the terms ask for.
fn check_rest(decoded: &Decoded, asked: Option<&Value>) -> Result<(), Reason> {
    const UNKNOWN: [Reason; 4] =
        [Reason::SvmUnknownFourth, Reason::SvmUnknownFifth, Reason::SvmUnknownSixth, Reason::SvmUnknownSeventh];
    let message = &decoded.transaction.message;
    let mut memos = Vec::new();
    for (instruction, unknown) in message.instructions().iter().skip(3).zip(UNKNOWN) {
        let program = key(message, instruction.program_id_index);
        if program == Some(MEMO) {
            memos.push(instruction.data.as_slice());
            continue;
        }
        // An account that is made is rent that somebody pays (threat C8).
        let asserts = instruction.data.first().is_some_and(|tag| !LIGHTHOUSE_MEMORY.contains(tag));
        if program != Some(LIGHTHOUSE) || !asserts {
            return Err(unknown);
        }
    }
    let Some(asked) = asked else { return Ok(()) };
    match memos.as_slice() {
        [memo] if asked.as_str().is_some_and(|asked| asked.as_bytes() == *memo) => Ok(()),
        [_] => Err(Reason::SvmMemoMismatch),
        _ => Err(Reason::SvmMemoCount),
    }
}

/// Checks every required signature but ours. A badly signed copy of a good transaction must never reach a node: one that has
/// seen it may take the good one for a duplicate.
pub(super) fn are_signed(decoded: &Decoded) -> bool {
    let transaction = &decoded.transaction;
    let signed = transaction.signatures.iter().zip(transaction.message.static_account_keys()).skip(1);
    // As many signatures as the header asks for: the decoder saw to it.
    signed.into_iter().all(|(signature, key)| signature.verify(key.as_ref(), &decoded.message))
}

#[async_trait]
impl IncomingPayment for SolanaPayment {
    fn facts(&self) -> &PaymentFacts {
        &self.decoded.facts
    }

    fn check(&self, terms: &PaymentRequirements, _now: UnixMillis) -> Result<(), Reason> {
        if terms.network != self.inner.network {
            return Err(Reason::InvalidPayload);
        }
        self.inner.check(&self.decoded, terms)
    }

    async fn prove(&self, _terms: &PaymentRequirements) -> Result<(), VerifyError> {
        if self.is_proven.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !are_signed(&self.decoded) {
            return Err(Reason::SvmSignatureInvalid.into());
        }
        self.is_proven.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn simulate(&self, terms: &PaymentRequirements) -> Result<Box<dyn SettlementPlan>, VerifyError> {
        // No call for a payment that isn't its payer's and isn't ours to sponsor, whoever calls this (threats C7, F6).
        self.inner.check(&self.decoded, terms)?;
        self.prove(terms).await?;
        super::simulate::simulate(&self.inner, &self.decoded).await
    }
}
