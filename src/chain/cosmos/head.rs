//! The chain's latest block as last seen, and the pace of blocks.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use cosmrs::proto::Timestamp;
use cosmrs::proto::cosmos::base::tendermint::v1beta1::GetLatestBlockRequest;
use cosmrs::proto::tendermint::types::{Block, Header};

use super::Inner;
use super::rpc::{Node, RpcError};
use crate::types::UnixMillis;

/// The pace that is assumed until two blocks were seen.
const PACE_ASSUMED: Duration = Duration::from_secs(2);

/// A block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub height: u64,
    pub time: UnixMillis,
}

impl Head {
    /// Reads a block's header.
    pub(super) fn of(block: Option<&Block>) -> Result<Self, RpcError> {
        let header = block.and_then(|block| block.header.as_ref());
        header.and_then(Self::of_header).ok_or_else(|| RpcError::Transport("node gave no block".to_owned()))
    }

    fn of_header(header: &Header) -> Option<Self> {
        Some(Self { height: u64::try_from(header.height).ok()?, time: millis(header.time.as_ref()?)? })
    }
}

fn millis(time: &Timestamp) -> Option<UnixMillis> {
    let nanos = i64::from(time.nanos);
    time.seconds.checked_mul(1000)?.checked_add(nanos / 1_000_000).map(UnixMillis)
}

#[derive(Default)]
struct Seen {
    first: Option<Head>,
    last: Option<(Head, Instant)>,
}

/// What was seen of the chain's blocks.
#[derive(Default)]
pub(super) struct Heads(Mutex<Seen>);

impl Heads {
    /// The latest block that was seen.
    pub(super) fn last(&self) -> Option<Head> {
        self.0.lock().ok()?.last.map(|(head, _)| head)
    }

    fn fresh(&self, within: Duration) -> Option<Head> {
        self.0.lock().ok()?.last.filter(|(_, seen_at)| seen_at.elapsed() < within).map(|(head, _)| head)
    }

    /// Remembers a block. A node that is behind what was already seen takes nothing back.
    fn saw(&self, head: Head) -> Head {
        let Ok(mut seen) = self.0.lock() else { return head };
        let best = seen.last.map_or(head, |(last, _)| if last.height > head.height { last } else { head });
        seen.first.get_or_insert(head);
        seen.last = Some((best, Instant::now()));
        best
    }

    /// The mean time between blocks since the first that was seen.
    pub(super) fn pace(&self) -> Duration {
        let Ok(seen) = self.0.lock() else { return PACE_ASSUMED };
        let (Some(first), Some((last, _))) = (seen.first, seen.last) else { return PACE_ASSUMED };
        let blocks = u32::try_from(last.height.saturating_sub(first.height)).unwrap_or(u32::MAX);
        last.time.since(first.time).checked_div(blocks).map_or(PACE_ASSUMED, |pace| pace.max(Duration::from_millis(1)))
    }
}

impl Inner {
    /// The latest block, read unless it was within `fresh_for`.
    pub(super) async fn head(&self, fresh_for: Duration) -> Result<Head, RpcError> {
        if let Some(head) = self.heads.fresh(fresh_for) {
            return Ok(head);
        }
        let answer = self.rpc.call(GetLatestBlockRequest {}).await?;
        Ok(self.heads.saw(Head::of(answer.block.as_ref())?))
    }

    /// How far the chain's latest block, as last seen, lies in the past.
    pub(super) fn lag(&self) -> Option<Duration> {
        self.heads.last().map(|head| self.clock.now().since(head.time))
    }
}

/// The latest block of one node.
pub(super) async fn head_at(node: Node<'_>) -> Result<Head, RpcError> {
    Head::of(node.call(GetLatestBlockRequest {}).await?.block.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_never_goes_back_and_the_pace_is_the_mean() {
        let heads = Heads::default();
        assert_eq!(heads.pace(), PACE_ASSUMED);
        heads.saw(Head { height: 10, time: UnixMillis(0) });
        assert_eq!(heads.pace(), PACE_ASSUMED);
        heads.saw(Head { height: 14, time: UnixMillis(20_000) });
        assert_eq!(heads.saw(Head { height: 12, time: UnixMillis(10_000) }).height, 14);
        assert_eq!(heads.pace(), Duration::from_secs(5));
    }
}
