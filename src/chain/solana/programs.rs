//! The programs that a payment may call, and the compute budget's two instructions.

use solana_pubkey::{Pubkey, pubkey};

pub(super) const COMPUTE_BUDGET: Pubkey = pubkey!("ComputeBudget111111111111111111111111111111");
pub(super) const TOKEN: Pubkey = spl_token_interface::ID;
pub(super) const TOKEN_2022: Pubkey = pubkey!("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb");
pub(super) const MEMO: Pubkey = pubkey!("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr");
pub(super) const LIGHTHOUSE: Pubkey = pubkey!("L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95");

/// Lighthouse's instructions that make and close accounts; all others only assert.
pub(super) const LIGHTHOUSE_MEMORY: [u8; 2] = [0, 1];

const SET_UNIT_LIMIT: u8 = 2;
const SET_UNIT_PRICE: u8 = 3;

/// Compute units, if these are the data of `SetComputeUnitLimit`.
pub(super) fn unit_limit(data: &[u8]) -> Option<u32> {
    let (tag, rest) = data.split_first()?;
    (*tag == SET_UNIT_LIMIT).then_some(())?;
    Some(u32::from_le_bytes(rest.try_into().ok()?))
}

/// Micro-lamports for each compute unit, if these are the data of `SetComputeUnitPrice`.
pub(super) fn unit_price(data: &[u8]) -> Option<u64> {
    let (tag, rest) = data.split_first()?;
    (*tag == SET_UNIT_PRICE).then_some(())?;
    Some(u64::from_le_bytes(rest.try_into().ok()?))
}
