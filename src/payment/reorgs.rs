//! Paid is not final: blocks that settled payments are watched until the chain can't take them back (threats B17, E10).
//!
//! What a chain takes back is settled again with the bytes that were signed for it. If it can't be, the row says so: nobody is
//! charged a second time for what the chain lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::ledger::SettledBlock;
use crate::types::UnixMillis;

use super::gate::Gate;
use super::priced::Market;
use super::recover::RecoverError;
use super::scheme::BlockStanding;

/// How often blocks are looked at. Shorter than the time after which a lost account nonce is filled.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// How long after it was recorded a settlement is watched, final or not: a chain that finalizes nothing must not be asked of
/// everything that was ever paid.
const WATCHED_FOR: Duration = Duration::from_secs(24 * 3600);

/// Blocks looked at in one go, the oldest first. Twice what a chain of four blocks a second settles payments in before the first
/// is final, twenty minutes later: no block is out of sight.
const BLOCKS_MAX: u32 = 10_000;

/// Blocks noted as final in one change. One by one, a backlog of them kept the watch from looking for minutes; too many at once
/// take a distant database longer than a change may.
const FINALS_AT_ONCE: usize = 20;

/// What is known of one network's blocks.
#[derive(Debug, Default)]
pub(super) struct Vigil {
    /// Seen in the chain by this process. As long as the highest still is, so are the others: they are its ancestors.
    held: BTreeSet<SettledBlock>,
}

impl Vigil {
    /// What to ask the chain: what was not seen yet, and the highest that was.
    fn to_ask(&self, blocks: &[SettledBlock]) -> Vec<SettledBlock> {
        let new = blocks.iter().filter(|block| !self.held.contains(*block));
        new.chain(self.held.last()).cloned().collect()
    }

    /// Takes an answer; false if a block that was held is gone, or can't be seen though another can, so that neither proves that the
    /// other is of the same chain: all must be asked again.
    fn note(&mut self, asked: &[SettledBlock], standings: &[BlockStanding]) -> bool {
        let sees_any = highest_held(asked, standings).is_some();
        for (block, standing) in asked.iter().zip(standings) {
            let is_lost = match standing {
                BlockStanding::Held => {
                    self.held.insert(block.clone());
                    false
                }
                BlockStanding::Gone => true,
                BlockStanding::Unknown => sees_any,
            };
            if is_lost && self.held.contains(block) {
                self.held.clear();
                return false;
            }
        }
        true
    }
}

/// The highest block that an answer shows in the chain.
fn highest_held(asked: &[SettledBlock], standings: &[BlockStanding]) -> Option<u64> {
    let held = asked.iter().zip(standings).filter(|(_, standing)| **standing == BlockStanding::Held);
    held.map(|(block, _)| block.number).max()
}

impl Gate {
    /// Watches a network's settled blocks, for ever.
    pub(super) async fn watch_blocks(self: Arc<Self>, market: Arc<Market>, mut vigil: Vigil) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if crate::crash::bug("bug_watch_nothing") {
                continue;
            }
            let looked = match self.watches(&market).await {
                Ok(true) => self.check_blocks(&market, &mut vigil).await,
                Ok(false) => Ok(()),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = looked {
                tracing::debug!(network = %market.scheme.network(), %error, "Settled blocks could not be looked at.");
            }
        }
    }

    /// One look at every block that isn't final; starts to settle again what is gone.
    pub(super) async fn check_blocks(self: &Arc<Self>, market: &Market, vigil: &mut Vigil) -> Result<(), RecoverError> {
        let network = market.scheme.network();
        let since = i64::try_from(WATCHED_FOR.as_millis()).unwrap_or(i64::MAX);
        let since = UnixMillis(self.now().0.saturating_sub(since));
        let blocks = self.ledger().unfinal_blocks(network, since, BLOCKS_MAX).await?;
        if blocks.is_empty() {
            vigil.held.clear();
            return Ok(());
        }
        let mut asked = vigil.to_ask(&blocks);
        let mut answer = market.scheme.stand(&asked).await?;
        if !vigil.note(&asked, &answer.blocks) {
            asked = blocks.clone();
            answer = market.scheme.stand(&asked).await?;
            vigil.note(&asked, &answer.blocks);
        }
        for (block, standing) in asked.iter().zip(&answer.blocks) {
            if *standing == BlockStanding::Gone {
                for record in self.ledger().settled_in(network, block).await? {
                    self.settlements().restore(record);
                }
            }
        }
        // What was held before is so now only as an ancestor of what this answer shows.
        let seen = highest_held(&asked, &answer.blocks).unwrap_or(0);
        let final_number = answer.final_number.min(seen);
        let is_final = |block: &&SettledBlock| block.number <= final_number && vigil.held.contains(*block);
        let finals: Vec<SettledBlock> = blocks.iter().filter(is_final).cloned().collect();
        for some in finals.chunks(FINALS_AT_ONCE) {
            self.ledger().record_final(network, some).await?;
        }
        let unfinal: BTreeSet<&SettledBlock> = blocks.iter().filter(|block| block.number > final_number).collect();
        vigil.held.retain(|block| unfinal.contains(block));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: u64, hash: &str) -> SettledBlock {
        SettledBlock { number, hash: hash.to_owned() }
    }

    #[test]
    fn what_was_seen_is_asked_for_once_but_for_the_highest() {
        let mut vigil = Vigil::default();
        let blocks = [block(1, "a"), block(2, "b")];
        assert_eq!(vigil.to_ask(&blocks), blocks);
        assert!(vigil.note(&blocks, &[BlockStanding::Held, BlockStanding::Held]));
        assert_eq!(vigil.to_ask(&blocks), [block(2, "b")]);
        let more = [block(1, "a"), block(2, "b"), block(3, "c")];
        assert_eq!(vigil.to_ask(&more), [block(3, "c"), block(2, "b")]);
        assert!(vigil.note(&vigil.to_ask(&more), &[BlockStanding::Unknown, BlockStanding::Held]));
        assert_eq!(vigil.to_ask(&more).len(), 2, "what is unknown is asked for again");
    }

    #[test]
    fn a_block_that_can_not_be_seen_any_more_is_not_taken_for_an_ancestor_of_a_later_one() {
        let mut vigil = Vigil::default();
        let blocks = [block(1, "a"), block(2, "b")];
        vigil.note(&blocks, &[BlockStanding::Held, BlockStanding::Held]);
        assert!(vigil.note(&[block(2, "b")], &[BlockStanding::Unknown]), "the node is behind");
        assert_eq!(vigil.to_ask(&blocks), [block(2, "b")]);
        let later = [block(3, "c"), block(2, "b")];
        assert!(!vigil.note(&later, &[BlockStanding::Held, BlockStanding::Unknown]));
        assert_eq!(vigil.to_ask(&blocks), blocks, "nor are those below it");
        vigil.note(&[block(3, "c")], &[BlockStanding::Held]);
        let lower = [block(2, "B"), block(3, "c")];
        assert!(!vigil.note(&lower, &[BlockStanding::Held, BlockStanding::Unknown]), "another branch, perhaps");
        assert_eq!(vigil.to_ask(&lower), lower);
    }

    #[test]
    fn once_the_highest_is_gone_all_are_asked_again() {
        let mut vigil = Vigil::default();
        let blocks = [block(1, "a"), block(2, "b")];
        vigil.note(&blocks, &[BlockStanding::Held, BlockStanding::Held]);
        assert!(!vigil.note(&[block(2, "b")], &[BlockStanding::Gone]));
        assert_eq!(vigil.to_ask(&blocks), blocks);
        assert!(vigil.note(&blocks, &[BlockStanding::Held, BlockStanding::Gone]), "what wasn't held is no news");
    }
}
