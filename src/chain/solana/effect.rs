//! What a transaction that landed did to the payee's token account.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::decode::Decoded;

/// What came of a transaction. The fee is what our fee payer paid for it, in lamports, where the node says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// The payee's token account grew by exactly the price.
    Moved { slot: u64, fee: Option<u64> },
    /// It failed.
    Failed { fee: Option<u64> },
    /// It ran and moved something else.
    MovedOther { fee: Option<u64> },
}

/// An answer of `getTransaction`.
#[derive(Debug, Deserialize)]
pub(super) struct Landed {
    slot: u64,
    /// Base64, and the word for it.
    transaction: (String, String),
    meta: Option<Meta>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    err: Option<Value>,
    /// Lamports.
    #[serde(default)]
    fee: Option<u64>,
    #[serde(default)]
    pre_token_balances: Option<Vec<Balance>>,
    #[serde(default)]
    post_token_balances: Option<Vec<Balance>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Balance {
    account_index: usize,
    mint: String,
    ui_token_amount: Amount,
}

#[derive(Debug, Deserialize)]
struct Amount {
    amount: String,
}

impl Landed {
    /// Judges the transaction that was sent as `raw`.
    ///
    /// # Errors
    /// When the answer is about another transaction or says too little: the node is broken, not the payment.
    pub(super) fn effect(&self, raw: &[u8], decoded: &Decoded) -> Result<Effect, String> {
        if STANDARD.decode(&self.transaction.0).ok().as_deref() != Some(raw) {
            return Err("getTransaction gave another transaction".to_owned());
        }
        let meta = self.meta.as_ref().ok_or("getTransaction gave no outcome")?;
        if meta.err.is_some() {
            return Ok(Effect::Failed { fee: meta.fee });
        }
        let (Some(before), Some(after)) = (&meta.pre_token_balances, &meta.post_token_balances) else {
            return Err("getTransaction gave no token balances".to_owned());
        };
        // Without lookup tables the message's own keys are all there are.
        let keys = decoded.transaction.message.static_account_keys();
        let index = keys.iter().position(|key| *key == decoded.transfer.destination);
        let mint = decoded.transfer.mint.to_string();
        let of = |balances: &[Balance]| -> Result<Option<u64>, String> {
            let mut own = balances.iter().filter(|it| Some(it.account_index) == index && it.mint == mint);
            let amount = own.next().map(|it| it.ui_token_amount.amount.parse());
            amount.transpose().map_err(|_error| "getTransaction gave an unreadable balance".to_owned())
        };
        // A token account that was paid into holds something: who leaves it out tells too little, and nothing is proven.
        let after = of(after)?.ok_or("getTransaction gave no balance of the payee's token account")?;
        let grown = match of(before)? {
            Some(before) => after.checked_sub(before),
            // A node that leaves out a balance of zero is still right.
            None if after <= decoded.transfer.amount => Some(after),
            None => return Err("getTransaction gave no earlier balance of the payee's token account".to_owned()),
        };
        Ok(match grown {
            Some(grown) if grown == decoded.transfer.amount => Effect::Moved { slot: self.slot, fee: meta.fee },
            _ => Effect::MovedOther { fee: meta.fee },
        })
    }
}
