//! A payment as the books show it. Leaves out what others could use: the signed payload, the signed transactions' bytes
//! and the digests.

use serde::Serialize;

use super::units::{Units, fee_decimal};
use crate::cli::human::time_text;
use crate::ledger::{Attempt, Holder, PaymentRecord};
use crate::types::{AccountId, AssetId, AtomicAmount, Network};

/// One payment. Amounts are atomic units in decimal text, moments RFC 3339 in UTC.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The row's own id.
    pub record: String,
    /// The chain's replay key.
    pub payment: String,
    /// Where it stands.
    pub state: &'static str,
    /// When it was claimed.
    pub claimed_at: String,
    /// When it was recorded as paid.
    pub paid_at: Option<String>,
    /// When it last changed.
    pub updated_at: String,
    /// When its authorization ends.
    pub valid_until: String,
    /// The chain.
    pub network: Network,
    /// The token.
    pub asset: AssetId,
    /// How much.
    pub amount: AtomicAmount,
    /// Who paid.
    pub payer: AccountId,
    /// Who was paid.
    pub pay_to: AccountId,
    /// The transaction that moved the money.
    pub transaction: Option<String>,
    /// Its block.
    pub block: Option<u64>,
    /// Whether somebody else submitted it.
    pub is_external: Option<bool>,
    /// The route's key.
    pub route: String,
    /// Method and target.
    pub request: String,
    /// How often the request was given to the origin.
    pub deliveries: u32,
    /// Why it failed.
    pub failure: Option<String>,
    /// The transaction that failed.
    pub failed_transaction: Option<String>,
    /// Who may present it again: `quote`, or an address.
    pub holder: String,
    /// The amount in whole tokens, where the token is known.
    pub amount_decimal: Option<String>,
    /// The token's symbol, where it is known.
    pub symbol: Option<String>,
    /// What the settlement cost the gas payer, whether it moved the money or failed, in the chain's smallest native unit.
    pub fee: Option<AtomicAmount>,
    /// The same in whole coins.
    pub fee_decimal: Option<String>,
    /// The transaction with which an operator gave the money back.
    pub refund_transaction: Option<String>,
    /// When that was recorded.
    pub refunded_at: Option<String>,
    /// The operator's own words.
    pub refund_note: Option<String>,
    /// Signed transactions, oldest first.
    pub attempts: Vec<AttemptRow>,
}

/// One signed transaction.
#[derive(Debug, Clone, Serialize)]
pub struct AttemptRow {
    /// Counts from 1.
    pub number: u32,
    /// Its id.
    pub transaction: String,
    /// The gas payer.
    pub signer: Option<AccountId>,
    /// The gas payer's account nonce.
    pub account_nonce: Option<u64>,
    /// Most it can cost, in the chain's native unit.
    pub fee_max: String,
    /// When it was signed.
    pub signed_at: String,
}

impl Row {
    /// The books' view of a record.
    #[must_use]
    pub fn of(record: &PaymentRecord, units: &Units) -> Self {
        let claim = &record.claim;
        let settlement = record.settlement.as_ref();
        let (fee, resolution) = (record.fee, record.resolution.as_ref());
        Self {
            record: record.record.to_string(),
            payment: claim.id.to_string(),
            state: record.state.as_str(),
            claimed_at: time_text(claim.claimed_at),
            paid_at: record.paid_at.map(time_text),
            updated_at: time_text(record.updated_at),
            valid_until: time_text(claim.valid_until),
            network: claim.network.clone(),
            asset: claim.asset.clone(),
            amount: claim.amount,
            payer: claim.payer.clone(),
            pay_to: claim.pay_to.clone(),
            transaction: settlement.map(|settlement| settlement.transaction.clone()),
            block: settlement.map(|settlement| settlement.block),
            is_external: settlement.map(|settlement| settlement.is_external),
            route: claim.route.clone(),
            request: claim.request.clone(),
            deliveries: record.deliveries,
            failure: record.failure.clone(),
            failed_transaction: record.failed_transaction.clone(),
            holder: match claim.holder {
                Holder::Quote(_) => "quote".to_owned(),
                Holder::Address(address) => address.to_string(),
            },
            amount_decimal: units.decimal(claim.amount, &claim.network, &claim.asset),
            symbol: units.find(&claim.network, &claim.asset).map(|(_, symbol)| symbol.to_owned()),
            fee,
            fee_decimal: fee.and_then(|fee| fee_decimal(fee, &claim.network)),
            refund_transaction: resolution.map(|resolution| resolution.transaction.clone()),
            refunded_at: resolution.map(|resolution| time_text(resolution.at)),
            refund_note: resolution.and_then(|resolution| resolution.note.clone()),
            attempts: record.attempts.iter().map(AttemptRow::of).collect(),
        }
    }

    /// The transaction that tells most: the one that moved the money, else the one that failed, else the last signed.
    #[must_use]
    pub fn latest_transaction(&self) -> Option<&str> {
        let signed = || self.attempts.last().map(|attempt| attempt.transaction.as_str());
        self.transaction.as_deref().or(self.failed_transaction.as_deref()).or_else(signed)
    }
}

impl AttemptRow {
    fn of(attempt: &Attempt) -> Self {
        Self {
            number: attempt.number,
            transaction: attempt.signed.transaction.clone(),
            signer: attempt.signed.signer.clone(),
            account_nonce: attempt.signed.account_nonce,
            fee_max: attempt.signed.fee_max.clone(),
            signed_at: time_text(attempt.signed_at),
        }
    }
}
