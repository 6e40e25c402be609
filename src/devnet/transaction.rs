//! A transaction as a wallet sends it, checked as far as no state is needed.

use alloy::consensus::transaction::SignerRecoverable;
use alloy::consensus::{Transaction, TxEnvelope};
use alloy::eips::eip2718::Decodable2718;

use super::block::{BASE_FEE, BLOCK_GAS_LIMIT, SignedTx};
use super::fault::Fault;
use super::genesis::CHAIN_ID;

/// Reads a raw transaction and finds its sender.
pub(super) fn read(raw: &[u8]) -> Result<SignedTx, Fault> {
    let mut rest = raw;
    let transaction = TxEnvelope::decode_2718(&mut rest).map_err(|error| Fault::refused(format!("rlp: {error}")))?;
    if !rest.is_empty() {
        return Err(Fault::refused("rlp: input contains more than one value"));
    }
    if matches!(transaction, TxEnvelope::Eip4844(_)) {
        return Err(Fault::refused("transaction type not supported"));
    }
    match transaction.chain_id() {
        Some(CHAIN_ID) => {}
        Some(other) => {
            return Err(Fault::refused(format!("invalid chain id for signer: have {other} want {CHAIN_ID}")));
        }
        None => {
            return Err(Fault::refused("only replay-protected (EIP-155) transactions allowed over RPC"));
        }
    }
    let sender = transaction.recover_signer().map_err(|_error| Fault::refused("invalid sender"))?;
    Ok(SignedTx::new_unchecked(transaction, sender))
}

/// The base fee never falls, so what doesn't pay it now never will.
pub(super) fn check_fees(transaction: &SignedTx) -> Result<(), Fault> {
    let max_fee = transaction.max_fee_per_gas();
    if transaction.max_priority_fee_per_gas().is_some_and(|tip| tip > max_fee) {
        return Err(Fault::refused("max priority fee per gas higher than max fee per gas"));
    }
    if max_fee < u128::from(BASE_FEE) {
        let sender = transaction.signer();
        return Err(Fault::refused(format!(
            "max fee per gas less than block base fee: address {sender}, maxFeePerGas: {max_fee}, baseFee: {BASE_FEE}"
        )));
    }
    if transaction.gas_limit() > BLOCK_GAS_LIMIT {
        return Err(Fault::refused("exceeds block gas limit"));
    }
    Ok(())
}
