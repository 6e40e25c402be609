//! What a transaction must get past before its messages run, in the SDK's order: read, memo and timeout, gas, fee, key,
//! signature, sequence. And the messages.

use cosmrs::AccountId;
use cosmrs::crypto::PublicKey;
use cosmrs::proto::cosmos::base::v1beta1::Coin;

use super::event::{Event, transfer};
use super::params::{CosmosParams, Dialect};
use super::refusal::Refusal;
use super::state::{State, fee_collector};
use super::transaction::Transaction;

/// Longest memo, in characters; a parameter of every chain.
const MEMO_MAX: usize = 256;
/// Gas per byte of a transaction, for reading accounts and checking a signature, and for sending.
const GAS_PER_BYTE: u64 = 10;
const GAS_ANTE: u64 = 45_000;
const GAS_SEND: u64 = 25_000;

/// What a transaction is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// For its gas: no signature is looked at, no minimum fee is asked.
    Simulate,
    /// To be let into the mempool: messages don't run.
    Check,
    /// In a block.
    Deliver,
}

/// A transaction that ran, perhaps in vain.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub refusal: Option<Refusal>,
    pub gas_used: u64,
    /// What the fee did.
    pub ante_events: Vec<Event>,
    /// What the messages did.
    pub events: Vec<Event>,
}

/// What a run may look at besides the state.
pub(super) struct Runner<'a> {
    pub params: &'a CosmosParams,
    /// Of the block that it runs in, or would.
    pub height: u64,
}

impl Runner<'_> {
    /// Runs a transaction. The state changes as far as it would on the chain: not at all if it isn't let in, by fee and
    /// sequence if a message fails.
    pub(super) fn run(&self, state: &mut State, tx: &Transaction, mode: Mode) -> Outcome {
        let mut after = state.clone();
        let mut outcome =
            Outcome { refusal: None, gas_used: ante_gas(tx), ante_events: Vec::new(), events: Vec::new() };
        match self.ante(&mut after, tx, mode) {
            Ok(events) => outcome.ante_events = events,
            Err(refusal) => {
                outcome.refusal = Some(refusal);
                return outcome;
            }
        }
        *state = after.clone();
        if mode == Mode::Check {
            return outcome;
        }
        outcome.gas_used = needed_gas(tx);
        match self.messages(&mut after, tx, mode) {
            Ok(events) => {
                outcome.events = events;
                *state = after;
            }
            Err(refusal) => outcome.refusal = Some(refusal),
        }
        outcome
    }

    fn ante(&self, state: &mut State, tx: &Transaction, mode: Mode) -> Result<Vec<Event>, Refusal> {
        let signer = self.basics(tx)?;
        let signer_bytes = signer.to_bytes();
        if mode != Mode::Simulate && tx.fee.gas_limit < ante_gas(tx) {
            return Err(Refusal::out_of_gas("ReadFlat", tx.fee.gas_limit, ante_gas(tx)));
        }
        if mode == Mode::Check {
            self.minimum_fee(tx)?;
        }
        let events = self.take_fee(state, tx, &signer)?;
        let Some(account) = state.account_mut(&signer_bytes) else {
            return Err(Refusal::unknown_address(format!("account {signer} does not exist")));
        };
        if let Some(key) = tx.public_key()? {
            let owner = address_of(&key, &self.params.prefix);
            if mode != Mode::Simulate && owner.as_ref() != Some(&signer) {
                return Err(Refusal::invalid_public_key(format!(
                    "pubKey does not match signer address {signer} with signer index: 0"
                )));
            }
            if account.public_key.is_none() {
                account.public_key = Some(key);
            }
        }
        let Some(key) = account.public_key.clone() else {
            return Err(Refusal::invalid_public_key("pubkey on account is not set"));
        };
        if tx.sequence() != account.sequence {
            return Err(Refusal::wrong_sequence(account.sequence, tx.sequence()));
        }
        if mode != Mode::Simulate && !tx.is_signed_by(&key, &self.params.chain_id, account.number) {
            return Err(self.bad_signature(tx, account.number, account.sequence));
        }
        account.sequence = account.sequence.saturating_add(1);
        Ok(events)
    }

    /// What can be said without looking at the state; who signs.
    fn basics(&self, tx: &Transaction) -> Result<AccountId, Refusal> {
        let Some(first) = tx.sends.first() else {
            return Err(Refusal::invalid_request("must contain at least one message"));
        };
        let mut signers = Vec::new();
        for send in &tx.sends {
            let from = self.address(&send.from_address)?;
            self.address(&send.to_address)?;
            valid_coins(&send.amount)?;
            if !signers.contains(&from) {
                signers.push(from);
            }
        }
        if tx.raw.signatures.is_empty() {
            return Err(Refusal::no_signatures());
        }
        let (wanted, given) = (signers.len(), tx.raw.signatures.len());
        if wanted != given || tx.auth.signer_infos.len() != given {
            return Err(Refusal::unauthorized(format!("wrong number of signers; expected {wanted}, got {given}")));
        }
        if !tx.body.extension_options.is_empty() {
            return Err(Refusal::unknown_extension());
        }
        let timeout = tx.body.timeout_height;
        if timeout != 0 && self.height > timeout {
            return Err(Refusal::timed_out(format!("block height: {}, timeout height: {timeout}", self.height)));
        }
        if tx.body.memo.len() > MEMO_MAX {
            let what =
                format!("maximum number of characters is {MEMO_MAX} but received {} characters", tx.body.memo.len());
            return Err(Refusal::memo_too_large(what));
        }
        // Nobody has granted anybody anything here.
        if [&tx.fee.payer, &tx.fee.granter].iter().any(|other| !other.is_empty() && **other != first.from_address) {
            return Err(Refusal::unauthorized("fee payer or granter is not the signer"));
        }
        self.address(&first.from_address)
    }

    fn address(&self, text: &str) -> Result<AccountId, Refusal> {
        let wrong =
            || Refusal::invalid_address(format!("invalid address {text}; expected the prefix {}", self.params.prefix));
        self.params.address(text).ok_or_else(wrong)
    }

    fn minimum_fee(&self, tx: &Transaction) -> Result<(), Refusal> {
        let (required, denom) = (self.params.fee_for(tx.fee.gas_limit), &self.params.fee_denom);
        let offered = tx.fee.amount.iter().find(|coin| coin.denom == *denom);
        let amount: u128 = offered.and_then(|coin| coin.amount.parse().ok()).unwrap_or_default();
        if amount >= required {
            return Ok(());
        }
        let got: Vec<String> = tx.fee.amount.iter().map(coin_text).collect();
        Err(Refusal::insufficient_fee(format!("insufficient fees; got: {} required: {required}{denom}", got.join(","))))
    }

    fn take_fee(&self, state: &mut State, tx: &Transaction, signer: &AccountId) -> Result<Vec<Event>, Refusal> {
        let payer = signer.to_bytes();
        if state.account(&payer).is_none() {
            return Err(Refusal::unknown_address(format!("fee payer address: {signer} does not exist")));
        }
        let collector = fee_collector();
        for coin in &tx.fee.amount {
            let amount = coin.amount.parse().map_err(|_error| Refusal::invalid_coins(coin_text(coin)))?;
            state.take(&payer, &coin.denom, amount, self.spendable())?;
            state.give(&collector, &coin.denom, amount);
        }
        let collector = AccountId::new(&self.params.prefix, &collector).map(|id| id.to_string()).unwrap_or_default();
        Ok(transfer(signer.as_ref(), &collector, &coins_text(&tx.fee.amount)))
    }

    fn messages(&self, state: &mut State, tx: &Transaction, mode: Mode) -> Result<Vec<Event>, Refusal> {
        if mode == Mode::Deliver && tx.fee.gas_limit < needed_gas(tx) {
            return Err(Refusal::out_of_gas("WriteFlat", tx.fee.gas_limit, needed_gas(tx)));
        }
        let mut events = Vec::new();
        for send in &tx.sends {
            let (from, to) = (self.address(&send.from_address)?, self.address(&send.to_address)?);
            for coin in &send.amount {
                let amount = coin.amount.parse().map_err(|_error| Refusal::invalid_coins(coin_text(coin)))?;
                state.take(&from.to_bytes(), &coin.denom, amount, self.spendable()).map_err(Refusal::in_message)?;
                state.give(&to.to_bytes(), &coin.denom, amount);
            }
            events.push(Event::new("message", &[("action", "/cosmos.bank.v1beta1.MsgSend"), ("module", "bank")]));
            events.extend(transfer(from.as_ref(), to.as_ref(), &coins_text(&send.amount)));
        }
        Ok(events)
    }

    /// Newer releases say which money is too little.
    fn spendable(&self) -> &'static str {
        if self.params.dialect == Dialect::Sdk053 { "spendable balance " } else { "" }
    }

    fn bad_signature(&self, tx: &Transaction, number: u64, sequence: u64) -> Refusal {
        let with_sequence = tx.is_amino() || self.params.dialect == Dialect::Sdk053;
        let sequence = if with_sequence { format!(", sequence ({sequence})") } else { String::new() };
        let chain_id = &self.params.chain_id;
        Refusal::unauthorized(format!(
            "signature verification failed; please verify account number ({number}){sequence} and chain-id ({chain_id})"
        ))
    }
}

fn ante_gas(tx: &Transaction) -> u64 {
    tx.bytes_len.saturating_mul(GAS_PER_BYTE).saturating_add(GAS_ANTE)
}

fn needed_gas(tx: &Transaction) -> u64 {
    let sends = u64::try_from(tx.sends.len()).unwrap_or(u64::MAX);
    ante_gas(tx).saturating_add(sends.saturating_mul(GAS_SEND))
}

fn address_of(key: &[u8], prefix: &str) -> Option<AccountId> {
    let key = k256::ecdsa::VerifyingKey::from_sec1_bytes(key).ok()?;
    PublicKey::from(&key).account_id(prefix).ok()
}

/// Coins must be some, each above zero, in strictly rising order of their denominations.
fn valid_coins(coins: &[Coin]) -> Result<(), Refusal> {
    let is_sorted = coins.windows(2).all(|pair| matches!(pair, [one, other] if one.denom < other.denom));
    let is_positive = coins.iter().all(|coin| coin.amount.parse::<u128>().is_ok_and(|amount| amount > 0));
    if coins.is_empty() || !is_sorted || !is_positive {
        return Err(Refusal::invalid_coins(coins_text(coins)));
    }
    Ok(())
}

fn coin_text(coin: &Coin) -> String {
    format!("{}{}", coin.amount, coin.denom)
}

fn coins_text(coins: &[Coin]) -> String {
    coins.iter().map(coin_text).collect::<Vec<_>>().join(",")
}
