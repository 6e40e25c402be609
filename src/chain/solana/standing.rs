//! Whether the blocks in which payments were settled are still the chain's: `confirmed` is short of final.

use serde_json::json;

use super::Inner;
use super::watch::Level;
use crate::chain::jsonrpc::RpcError;
use crate::ledger::SettledBlock;
use crate::payment::scheme::{BlockStanding, Standings};

/// Slots before the first and after the last one that are asked for too: whoever names one on either side of a slot, and
/// not the slot, keeps its time and knows it empty.
const AROUND: u64 = 100;

/// A slot holds one block or none, so its number is its name. What is not final yet can't be told from what never will be.
pub(super) async fn stand(inner: &Inner, blocks: &[SettledBlock]) -> Result<Standings, RpcError> {
    let finalized = json!({"commitment": Level::Finalized.as_str()});
    let final_number: u64 = inner.rpc.call("getSlot", json!([finalized])).await?;
    let settled = blocks.iter().map(|block| block.number).filter(|number| *number <= final_number);
    let range = settled.clone().min().zip(settled.max());
    let kept: Vec<u64> = match range {
        Some((first, last)) => {
            let params = json!([first.saturating_sub(AROUND), last.saturating_add(AROUND), finalized]);
            inner.rpc.call("getBlocks", params).await?
        }
        None => Vec::new(),
    };
    let standing = |block: &SettledBlock| {
        if block.number > final_number {
            BlockStanding::Unknown
        } else if kept.contains(&block.number) {
            BlockStanding::Held
        } else if kept.iter().any(|slot| *slot < block.number) && kept.iter().any(|slot| *slot > block.number) {
            BlockStanding::Gone
        } else {
            BlockStanding::Unknown
        }
    };
    Ok(Standings { final_number, blocks: blocks.iter().map(standing).collect() })
}
