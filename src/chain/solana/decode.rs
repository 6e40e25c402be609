//! A payer's transaction: strict reading, one canonical form, one digest.
//!
//! No network, no configuration, and no cryptography beyond hashing: what a record of an earlier run holds must read the
//! same for ever.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use solana_message::VersionedMessage;
use solana_message::compiled_instruction::CompiledInstruction;
use solana_pubkey::Pubkey;
use solana_sdk::signature::Signature;
use solana_transaction::versioned::VersionedTransaction;
use spl_token_interface::instruction::TokenInstruction;

use super::programs::{self, COMPUTE_BUDGET, TOKEN, TOKEN_2022};
use crate::ledger::PaymentId;
use crate::payment::scheme::PaymentFacts;
use crate::protocol::{PaymentRequirements, Reason, decode_base64};
use crate::types::{AccountId, AssetId, AtomicAmount, Network, UnixMillis};

/// Most bytes of a transaction: one packet (IPv6's least MTU without headers).
const TRANSACTION_BYTES_MAX: usize = 1232;
/// Ours, the payer's and one more (threat C6).
const SIGNATURES_MAX: usize = 3;
/// Instructions of a payment (protocol §4).
const INSTRUCTIONS: std::ops::RangeInclusive<usize> = 3..=7;
/// Lamports for each signature that is checked.
const LAMPORTS_PER_SIGNATURE: u64 = 5000;
/// A blockhash lives for 150 blocks, about a minute; how long the books may wait for its end by the clock. The end itself is
/// proven by block height, never by this.
const LIFETIME_MILLIS: i64 = 300_000;

/// The one transfer of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transfer {
    pub program: Pubkey,
    pub source: Pubkey,
    pub mint: Pubkey,
    pub destination: Pubkey,
    pub authority: Pubkey,
    pub is_authority_signer: bool,
    pub amount: u64,
    pub decimals: u8,
}

/// A transaction that was read.
#[derive(Debug, Clone)]
pub(super) struct Decoded {
    /// As it came, but for the first signature, which is ours to make and zero here.
    pub transaction: VersionedTransaction,
    /// The bytes that are signed.
    pub message: Vec<u8>,
    pub transfer: Transfer,
    pub unit_limit: u32,
    /// Micro-lamports.
    pub unit_price: u64,
    pub facts: PaymentFacts,
}

impl Decoded {
    /// Most lamports that the chain takes of the fee payer.
    pub(super) fn fee(&self) -> u64 {
        let signatures = u64::from(self.transaction.message.header().num_required_signatures);
        let priority = (u128::from(self.unit_limit) * u128::from(self.unit_price)).div_ceil(1_000_000);
        let priority = u64::try_from(priority).unwrap_or(u64::MAX);
        LAMPORTS_PER_SIGNATURE.saturating_mul(signatures).saturating_add(priority)
    }
}

/// Reads a payload as a payment under the terms.
///
/// # Errors
/// The first thing that keeps it from being the one layout of protocol §4.
pub(super) fn decode(
    network: &Network,
    payload: &Value,
    terms: &PaymentRequirements,
    now: UnixMillis,
) -> Result<Decoded, Reason> {
    let transaction = read(&wire_bytes(payload)?)?;
    let message = &transaction.message;
    if usize::from(message.header().num_required_signatures) > SIGNATURES_MAX {
        return Err(Reason::SvmExcessiveSigners);
    }
    let instructions = message.instructions();
    if !INSTRUCTIONS.contains(&instructions.len()) {
        return Err(Reason::SvmInstructionsLength);
    }
    let unit_limit = budget(message, instructions.first(), programs::unit_limit).ok_or(Reason::SvmComputeLimit)?;
    let unit_price = budget(message, instructions.get(1), programs::unit_price).ok_or(Reason::SvmComputePrice)?;
    let transfer = instructions.get(2).and_then(|it| transfer(message, it)).ok_or(Reason::SvmNoTransfer)?;
    let bytes = message.serialize();
    let facts = facts(network, &transaction, &bytes, &transfer, terms, now)?;
    Ok(Decoded { message: bytes, transfer, unit_limit, unit_price, facts, transaction })
}

/// The transaction's bytes, whichever base64 they are in (protocol §7).
fn wire_bytes(payload: &Value) -> Result<Vec<u8>, Reason> {
    let fields = payload.as_object().ok_or(Reason::InvalidPayload)?;
    let text = fields.get("transaction").and_then(Value::as_str).map(str::trim);
    // Not decoded at all if it can't be a transaction.
    let text = text.filter(|text| text.len() <= TRANSACTION_BYTES_MAX * 2);
    text.and_then(|text| decode_base64(text.as_bytes())).ok_or(Reason::SvmUndecodable)
}

/// Reads a transaction in the one encoding that it has. Takes legacy and version 0, without lookup tables: those would hide
/// accounts (threat B20).
fn read(bytes: &[u8]) -> Result<VersionedTransaction, Reason> {
    if bytes.len() > TRANSACTION_BYTES_MAX {
        return Err(Reason::SvmUndecodable);
    }
    let mut transaction: VersionedTransaction =
        wincode::deserialize_exact(bytes).map_err(|_error| Reason::SvmUndecodable)?;
    let has_tables = match &transaction.message {
        VersionedMessage::Legacy(_) => false,
        VersionedMessage::V0(message) => !message.address_table_lookups.is_empty(),
        VersionedMessage::V1(_) => return Err(Reason::SvmUndecodable),
    };
    let is_canonical = wincode::serialize(&transaction).is_ok_and(|again| again == bytes);
    if has_tables || !is_canonical || transaction.sanitize().is_err() {
        return Err(Reason::SvmUndecodable);
    }
    let keys = transaction.message.static_account_keys();
    // The chain refuses a key that is loaded twice; for us it would be a second name for one account.
    if keys.iter().enumerate().any(|(index, key)| keys.iter().skip(index + 1).any(|other| other == key)) {
        return Err(Reason::SvmUndecodable);
    }
    let Some(own) = transaction.signatures.first_mut() else { return Err(Reason::SvmUndecodable) };
    // Whatever the payer left in our slot is not signed by anybody (threat B19).
    *own = Signature::default();
    Ok(transaction)
}

/// The account or program at an index of the message's keys.
pub(super) fn key(message: &VersionedMessage, index: u8) -> Option<Pubkey> {
    message.static_account_keys().get(usize::from(index)).copied()
}

fn budget<T>(
    message: &VersionedMessage,
    instruction: Option<&CompiledInstruction>,
    value: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    let instruction = instruction.filter(|it| it.accounts.is_empty())?;
    (key(message, instruction.program_id_index)? == COMPUTE_BUDGET).then(|| value(&instruction.data)).flatten()
}

/// Reads `TransferChecked` by one authority: no multisig, no extra accounts of a transfer hook.
fn transfer(message: &VersionedMessage, instruction: &CompiledInstruction) -> Option<Transfer> {
    let program = key(message, instruction.program_id_index).filter(|it| [TOKEN, TOKEN_2022].contains(it))?;
    // The programs share their first instructions' encoding.
    let unpacked = TokenInstruction::unpack(&instruction.data).ok()?;
    let TokenInstruction::TransferChecked { amount, decimals } = unpacked else { return None };
    if unpacked.pack() != instruction.data {
        return None;
    }
    let [source, mint, destination, authority] = <[u8; 4]>::try_from(instruction.accounts.as_slice()).ok()?;
    Some(Transfer {
        program,
        source: key(message, source)?,
        mint: key(message, mint)?,
        destination: key(message, destination)?,
        authority: key(message, authority)?,
        is_authority_signer: message.is_signer(usize::from(authority)),
        amount,
        decimals,
    })
}

fn facts(
    network: &Network,
    transaction: &VersionedTransaction,
    message: &[u8],
    transfer: &Transfer,
    terms: &PaymentRequirements,
    now: UnixMillis,
) -> Result<PaymentFacts, Reason> {
    let digest: [u8; 32] = Sha256::digest(message).into();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let wire = wincode::serialize(transaction).map_err(|_error| Reason::SvmUndecodable)?;
    Ok(PaymentFacts {
        id: PaymentId(format!("{network}/{hex}")),
        payer: AccountId::new(transfer.authority.to_string()).map_err(|_error| Reason::InvalidPayload)?,
        // The transaction names only a token account; `check` compares it with the payee's own.
        pay_to: terms.pay_to.clone(),
        asset: AssetId::new(transfer.mint.to_string()).map_err(|_error| Reason::InvalidPayload)?,
        amount: AtomicAmount::from(transfer.amount),
        valid_until: UnixMillis(now.0.saturating_add(LIFETIME_MILLIS)),
        digest,
        payload: json!({"transaction": STANDARD.encode(wire)}),
    })
}
