//! What the chain says of settled payments and of transfers to a till. Reads only.

use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::SolEvent;
use serde_json::{Value, json};

use super::Inner;
use super::abi::{Log, Receipt, Token};
use super::decode::{address, decode, word};
use super::evidence::has_moved;
use super::rpc::RpcError;
use crate::chain::{Audit, Incoming, Till};
use crate::ledger::PaymentRecord;
use crate::protocol::PaymentRequirements;
use crate::types::{AccountId, AssetId, AtomicAmount};

/// Blocks whose logs are asked for in one call, as long as the node gives them.
const LOG_BLOCKS_MAX: u64 = 2000;

fn broken(detail: impl Into<String>) -> RpcError {
    RpcError::Transport(detail.into())
}

/// Looks a settlement up that the books have.
pub(super) async fn audit(inner: &Inner, record: &PaymentRecord) -> Result<Audit, RpcError> {
    let Some(settlement) = &record.settlement else { return Err(broken("the books name no settlement")) };
    let claim = &record.claim;
    let terms: PaymentRequirements =
        serde_json::from_str(&claim.terms).map_err(|error| broken(format!("terms: {error}")))?;
    let payload: Value = serde_json::from_str(&claim.payload).map_err(|error| broken(format!("payload: {error}")))?;
    let decoded = decode(inner.chain_id, &payload, &terms)
        .map_err(|reason| broken(format!("payload does not decode: {reason}")))?;
    let hash = word(&settlement.transaction).ok_or_else(|| broken("the books' transaction is no hash"))?;
    let Some(receipt) = receipt(inner, hash).await? else { return Ok(Audit::Missing) };
    let held_in = inner.block(&format!("{:#x}", receipt.block_number)).await?;
    if held_in.hash != receipt.block_hash {
        return Err(broken("receipt is of another branch"));
    }
    if !receipt.is_success() || !has_moved(&receipt, decoded.token, &decoded.authorization) {
        return Ok(Audit::MovedOther);
    }
    if receipt.block_hash.to_string() != settlement.block_hash {
        return Ok(Audit::MovedElsewhere { block: receipt.block_number });
    }
    let finalized = match inner.block("finalized").await {
        Ok(block) => block.number,
        Err(RpcError::Server { .. }) => 0,
        Err(error) => return Err(error),
    };
    Ok(Audit::Moved { is_final: receipt.block_number <= finalized })
}

/// How much of a token a transaction brought an account; none if the chain doesn't hold it.
pub(super) async fn received(
    inner: &Inner,
    transaction: &str,
    asset: &AssetId,
    account: &AccountId,
) -> Result<Option<AtomicAmount>, RpcError> {
    let (hash, token, account) = (word(transaction), address(asset.as_str()), address(account.as_str()));
    let (Some(hash), Some(token), Some(account)) = (hash, token, account) else {
        return Err(broken("not a transaction hash, a token or an account of this chain"));
    };
    let Some(receipt) = receipt(inner, hash).await? else { return Ok(None) };
    let mut sum = U256::ZERO;
    if receipt.is_success() {
        for transfer in receipt.logs.iter().filter_map(|log| Transfer::read(log, token)) {
            if transfer.to == account {
                sum = sum.checked_add(transfer.value).ok_or_else(|| broken("a sum of transfers overflows"))?;
            }
        }
    }
    Ok(Some(sum.into()))
}

/// Every transfer to a till, by the token's own logs.
pub(super) async fn incoming(inner: &Inner, till: &Till<'_>) -> Result<Vec<Incoming>, RpcError> {
    let (Some(token), Some(pay_to)) = (address(till.asset.as_str()), address(till.pay_to.as_str())) else {
        return Err(broken("not a token or an account of this chain"));
    };
    let first = first_block_at(inner, till.since.as_secs()).await?;
    let end = first_block_at(inner, till.until.as_secs()).await?;
    let (mut from, mut blocks) = (first, LOG_BLOCKS_MAX);
    let mut incoming = Vec::new();
    while from < end {
        let last = from.saturating_add(blocks - 1).min(end - 1);
        let filter = json!([{
            "address": token,
            "fromBlock": format!("{from:#x}"),
            "toBlock": format!("{last:#x}"),
            "topics": [Token::Transfer::SIGNATURE_HASH, null, pay_to.into_word()],
        }]);
        let logs: Vec<Log> = match inner.rpc.call("eth_getLogs", filter).await {
            Ok(logs) => logs,
            // Nodes bound blocks and results, each its own way.
            Err(RpcError::Server { .. }) if blocks > 1 => {
                blocks /= 2;
                continue;
            }
            Err(error) => return Err(error),
        };
        for log in &logs {
            let Some(transfer) = Transfer::read(log, token).filter(|transfer| transfer.to == pay_to) else { continue };
            incoming.push(transfer.incoming(log)?);
        }
        from = last + 1;
    }
    Ok(incoming)
}

async fn receipt(inner: &Inner, hash: B256) -> Result<Option<Receipt>, RpcError> {
    inner.rpc.call("eth_getTransactionReceipt", json!([hash])).await
}

/// The first block of a moment (Unix seconds) or later; the one after the head, if there is none yet.
async fn first_block_at(inner: &Inner, secs: u64) -> Result<u64, RpcError> {
    let head = inner.block("latest").await?;
    if head.timestamp < secs {
        return Ok(head.number.saturating_add(1));
    }
    // The block at `high` is late enough.
    let (mut low, mut high) = (0, head.number);
    while low < high {
        let middle = low + (high - low) / 2;
        if inner.block(&format!("{middle:#x}")).await?.timestamp < secs { low = middle + 1 } else { high = middle }
    }
    Ok(high)
}

struct Transfer {
    from: Address,
    to: Address,
    value: U256,
}

impl Transfer {
    fn read(log: &Log, token: Address) -> Option<Self> {
        let [name, from, to] = <[B256; 3]>::try_from(log.topics.as_slice()).ok()?;
        if log.address != token || name != Token::Transfer::SIGNATURE_HASH {
            return None;
        }
        let value = U256::from_be_bytes(<[u8; 32]>::try_from(log.data.as_ref()).ok()?);
        Some(Self { from: Address::from_word(from), to: Address::from_word(to), value })
    }

    fn incoming(&self, log: &Log) -> Result<Incoming, RpcError> {
        let (Some(hash), Some(block)) = (log.transaction_hash, log.block_number) else {
            return Err(broken("node gave a log without its transaction"));
        };
        let payer = AccountId::new(self.from.to_checksum(None)).map_err(|error| broken(error.to_string()))?;
        Ok(Incoming {
            transaction: hash.to_string(),
            block: u64::try_from(block).map_err(|_error| broken("node gave no block number"))?,
            payer: Some(payer),
            amount: self.value.into(),
        })
    }
}
