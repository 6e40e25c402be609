//! The chain's latest block as last seen, and the pace of blocks.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use cosmrs::proto::Timestamp;
use cosmrs::proto::cosmos::base::tendermint::v1beta1::GetLatestBlockRequest;
use cosmrs::proto::tendermint::types::{Block, Header};

use super::Inner;
use super::rpc::{Node, RpcError};
use crate::chain::skew::Sighting;
use crate::types::UnixMillis;

/// The pace that is assumed until two blocks were seen.
const PACE_ASSUMED: Duration = Duration::from_secs(2);

/// The fastest that blocks can come.
const PACE_MIN: Duration = Duration::from_millis(100);
/// Blocks beyond what its pace allows that a chain may seem to leap.
const JUMP_MAX: u64 = 1000;
/// How long a block is believed in the face of nodes that know only lower ones, or one absurdly far on.
const DOUBT_HOLDS: Duration = Duration::from_secs(30);

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

    /// Remembers a block, and gives the latest one that is believed; none for one that is absurdly far on. A node that is behind
    /// what was already seen takes nothing back, and one that runs away moves nothing on, unless for a while there was no other:
    /// then what was believed was wrong.
    fn saw(&self, head: Head, now: Instant) -> Option<Head> {
        let mut seen = self.0.lock().ok()?;
        let Some((last, seen_at)) = seen.last else {
            (seen.first, seen.last) = (Some(head), Some((head, now)));
            return Some(head);
        };
        let waited = now.saturating_duration_since(seen_at);
        let blocks = u64::try_from(waited.as_millis() / PACE_MIN.as_millis()).unwrap_or(u64::MAX);
        let is_near = head.height <= last.height.saturating_add(JUMP_MAX).saturating_add(blocks);
        if head.height >= last.height && is_near {
            seen.last = Some((head, now));
            return Some(head);
        }
        if waited >= DOUBT_HOLDS {
            tracing::warn!(
                height = head.height,
                believed = last.height,
                "The chain is not where it was believed to be."
            );
            (seen.first, seen.last) = (Some(head), Some((head, now)));
            return Some(head);
        }
        is_near.then_some(last)
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
        let head = Head::of(answer.block.as_ref())?;
        if let Some(best) = self.heads.saw(head, Instant::now()) {
            self.compare_clocks(head);
            return Ok(best);
        }
        for node in self.rpc.nodes() {
            if let Ok(head) = head_at(node).await
                && let Some(best) = self.heads.saw(head, Instant::now())
            {
                self.compare_clocks(head);
                return Ok(best);
            }
        }
        Err(RpcError::Transport("node gave a block that the chain can't have reached".to_owned()))
    }

    fn compare_clocks(&self, head: Head) {
        let seen = Sighting { number: head.height, timestamp: head.time.as_secs(), seen_at: Instant::now() };
        self.skew.compare(&self.network, seen, self.heads.pace(), self.clock.now());
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

    fn head(height: u64) -> Head {
        Head { height, time: UnixMillis(i64::try_from(height).unwrap() * 5000) }
    }

    #[test]
    fn the_head_never_goes_back_and_the_pace_is_the_mean() {
        let (heads, now) = (Heads::default(), Instant::now());
        assert_eq!(heads.pace(), PACE_ASSUMED);
        heads.saw(head(10), now);
        assert_eq!(heads.pace(), PACE_ASSUMED);
        heads.saw(head(14), now);
        assert_eq!(heads.saw(head(12), now).unwrap().height, 14);
        assert_eq!(heads.pace(), Duration::from_secs(5));
    }

    #[test]
    fn an_absurd_height_is_not_believed_and_one_that_was_does_not_stick() {
        let (heads, start) = (Heads::default(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        heads.saw(head(10), start);
        assert_eq!(heads.saw(head(1_000_000), at(5)), None);
        assert_eq!(heads.last().unwrap().height, 10);
        assert_eq!(heads.saw(head(11), at(20)).unwrap().height, 11, "another node");
        assert_eq!(heads.saw(head(1_000_000), at(40)), None, "counted from the last that was good");
        assert_eq!(heads.saw(head(4000), at(3600)).unwrap().height, 4000, "a long silence explains a leap");
        // Believed at first, with nothing to compare it with.
        let heads = Heads::default();
        heads.saw(head(1_000_000), start);
        assert_eq!(heads.saw(head(10), at(5)).unwrap().height, 1_000_000);
        assert_eq!(heads.saw(head(16), at(31)).unwrap().height, 16);
        assert_eq!(heads.saw(head(1_000_000), at(32)), None);
    }
}
