//! Blocks, transactions, receipts and logs as clients see them.

#![allow(clippy::float_arithmetic, reason = "eth_feeHistory speaks in ratios and percentiles")]

use alloy::consensus::Transaction as _;
use alloy::eips::eip2718::Encodable2718;
use alloy::primitives::{B256, U256};
use alloy::rpc::types::{
    Block as BlockAnswer, BlockTransactions, Filter, FilterBlockOption, Header as HeaderAnswer, Log, Transaction,
};
use serde_json::{Value, json};

use super::block::{BASE_FEE, Block, SignedTx};
use super::chain::Chain;
use super::fault::Fault;
use super::params::number_of;

/// Most logs in one answer.
const LOGS_MAX: usize = 10_000;
/// Most blocks in one fee history.
const FEE_HISTORY_BLOCKS_MAX: u64 = 1024;
/// Bytes of a header with the fields that this chain sets, in RLP.
const HEADER_BYTES: usize = 600;

/// As a member of an answer.
pub(super) fn to_json(value: impl serde::Serialize) -> Result<Value, Fault> {
    serde_json::to_value(value).map_err(|error| Fault::refused(error.to_string()))
}

/// A block with its transactions, or with their hashes.
pub(super) fn block(block: &Block, is_full: bool) -> Result<Value, Fault> {
    let transactions = if is_full {
        BlockTransactions::Full((0..).zip(&block.transactions).map(|(index, held)| mined(block, index, held)).collect())
    } else {
        BlockTransactions::Hashes(block.transactions.iter().map(|held| *held.hash()).collect())
    };
    let bytes = block.transactions.iter().map(|held| held.encode_2718_len()).fold(HEADER_BYTES, usize::saturating_add);
    let header = HeaderAnswer {
        hash: block.hash,
        inner: block.header.clone(),
        total_difficulty: Some(U256::ZERO),
        size: Some(U256::from(bytes)),
    };
    to_json(BlockAnswer { header, uncles: Vec::new(), transactions, withdrawals: Some(Vec::new().into()) })
}

/// A transaction, run or waiting; `null` if nobody knows it.
pub(super) fn transaction(chain: &Chain, hash: B256) -> Result<Value, Fault> {
    if let Some((block, index)) = chain.find(hash)
        && let Some(held) = block.transactions.get(index)
    {
        return to_json(mined(block, u64::try_from(index).unwrap_or(u64::MAX), held));
    }
    let waiting = chain.queue.find(hash).map(|held| Transaction {
        inner: held.clone(),
        block_hash: None,
        block_number: None,
        transaction_index: None,
        effective_gas_price: None,
        block_timestamp: None,
    });
    to_json(waiting)
}

fn mined(block: &Block, index: u64, held: &SignedTx) -> Transaction {
    Transaction {
        inner: held.clone(),
        block_hash: Some(block.hash),
        block_number: Some(block.header.number),
        transaction_index: Some(index),
        effective_gas_price: Some(held.effective_gas_price(Some(BASE_FEE))),
        block_timestamp: Some(block.header.timestamp),
    }
}

/// What came of a transaction; `null` if it wasn't run.
pub(super) fn receipt(chain: &Chain, hash: B256) -> Result<Value, Fault> {
    to_json(chain.find(hash).and_then(|(block, index)| block.receipts.get(index)))
}

/// The logs that a filter asks for.
pub(super) fn logs(chain: &Chain, filter: &Filter) -> Result<Value, Fault> {
    let blocks: Vec<&Block> = match filter.block_option {
        FilterBlockOption::AtBlockHash(hash) => {
            vec![chain.block_by_hash(hash).ok_or_else(|| Fault::refused("unknown block"))?]
        }
        FilterBlockOption::Range { from_block, to_block } => {
            let first = number_of(chain, from_block.unwrap_or_default());
            let last = number_of(chain, to_block.unwrap_or_default());
            if first > last {
                return Err(Fault::invalid_params("invalid block range params"));
            }
            chain.range(first, last).map(AsRef::as_ref).collect()
        }
    };
    let mut found: Vec<&Log> = Vec::new();
    for block in blocks.into_iter().filter(|block| filter.matches_bloom(block.header.logs_bloom)) {
        found.extend(block.logs().filter(|log| filter.matches(&log.inner)));
        if found.len() > LOGS_MAX {
            return Err(Fault::invalid_params(format!("query exceeds max results {LOGS_MAX}")));
        }
    }
    to_json(found)
}

/// Base fees, fullness and, for the percentiles asked for, tips of the `count` blocks up to `newest`.
pub(super) fn fee_history(chain: &Chain, count: u64, newest: u64, percentiles: Option<&[f64]>) -> Result<Value, Fault> {
    if newest > chain.head().header.number {
        return Err(Fault::refused("request beyond head block"));
    }
    let oldest = newest.saturating_add(1).saturating_sub(count.min(FEE_HISTORY_BLOCKS_MAX)).max(chain.oldest());
    let blocks: Vec<_> = if count == 0 { Vec::new() } else { chain.range(oldest, newest).collect() };
    let fees = vec![format!("{BASE_FEE:#x}"); blocks.len().saturating_add(1)];
    // Fractions of a block and no money: JSON-RPC wants them as floats.
    #[allow(clippy::cast_precision_loss, reason = "gas of a block is far below 2^52")]
    let fullness: Vec<f64> =
        blocks.iter().map(|block| block.header.gas_used as f64 / block.header.gas_limit as f64).collect();
    let mut answer = json!({"oldestBlock": format!("{oldest:#x}"), "baseFeePerGas": fees, "gasUsedRatio": fullness});
    if let (Some(percentiles), Some(object)) = (percentiles, answer.as_object_mut()) {
        let rewards = blocks.iter().map(|block| tips(block, percentiles)).collect::<Vec<_>>();
        object.insert("reward".to_owned(), json!(rewards));
    }
    Ok(answer)
}

/// The tips of a block's transactions at percentiles of its gas.
fn tips(block: &Block, percentiles: &[f64]) -> Vec<String> {
    let mut by_tip: Vec<(u128, u64)> = (block.transactions.iter().zip(&block.receipts))
        .map(|(held, receipt)| (held.effective_tip_per_gas(BASE_FEE).unwrap_or(0), receipt.gas_used))
        .collect();
    by_tip.sort_unstable();
    let at = |percentile: &f64| {
        #[allow(clippy::cast_precision_loss, reason = "gas of a block is far below 2^52")]
        let threshold = block.header.gas_used as f64 * percentile / 100.0;
        let mut gas = 0_u64;
        by_tip.iter().find_map(|(tip, used)| {
            gas = gas.saturating_add(*used);
            #[allow(clippy::cast_precision_loss, reason = "gas of a block is far below 2^52")]
            (gas as f64 >= threshold).then_some(*tip)
        })
    };
    percentiles.iter().map(|percentile| format!("{:#x}", at(percentile).unwrap_or(0))).collect()
}
