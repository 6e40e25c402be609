//! What callers hand to a method.

use alloy::eips::{BlockId, BlockNumberOrTag};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::block::{Block, Place};
use super::chain::Chain;
use super::fault::Fault;

/// Blocks after which nothing is undone, were it not a chain on which nothing ever is.
const FINALIZED_AFTER: u64 = 4;
/// The same for the tag `safe`.
const SAFE_AFTER: u64 = 2;

/// A method's parameters.
pub(super) struct Params(Vec<Value>);

impl Params {
    /// Reads them; none at all is an empty list.
    pub(super) fn new(params: Option<Value>) -> Result<Self, Fault> {
        match params {
            None | Some(Value::Null) => Ok(Self(Vec::new())),
            Some(Value::Array(list)) => Ok(Self(list)),
            Some(_) => Err(Fault::invalid_params("non-array args")),
        }
    }

    /// The parameter at `index`, `None` if it is absent or null.
    pub(super) fn optional<T: DeserializeOwned>(&self, index: usize) -> Result<Option<T>, Fault> {
        match self.0.get(index) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value)
                .map(Some)
                .map_err(|error| Fault::invalid_params(format!("invalid argument {index}: {error}"))),
        }
    }

    /// The parameter at `index`.
    pub(super) fn required<T: DeserializeOwned>(&self, index: usize) -> Result<T, Fault> {
        self.optional(index)?
            .ok_or_else(|| Fault::invalid_params(format!("missing value for required argument {index}")))
    }

    /// Refuses what a method here has no use for, rather than answer another question than was asked.
    pub(super) fn at_most(&self, count: usize) -> Result<(), Fault> {
        if self.0.iter().skip(count).all(Value::is_null) {
            Ok(())
        } else {
            Err(Fault::invalid_params(format!("too many arguments, want at most {count}")))
        }
    }

    /// The block after which state is asked for.
    pub(super) fn place(&self, index: usize, chain: &Chain) -> Result<Place, Fault> {
        let id = self.optional::<BlockId>(index)?.unwrap_or_default();
        match find(chain, id) {
            Some(block) => Ok(block.place()),
            None => Err(match id {
                BlockId::Number(BlockNumberOrTag::Number(number)) if number < chain.oldest() => {
                    Fault::refused(format!("historical state of block {number} is not available"))
                }
                _ => Fault::refused("header not found"),
            }),
        }
    }
}

/// A block by number, tag or hash.
pub(super) fn find(chain: &Chain, id: BlockId) -> Option<&Block> {
    match id {
        BlockId::Hash(hash) => chain.block_by_hash(hash.block_hash).map(AsRef::as_ref),
        BlockId::Number(tag) => chain.block(number_of(chain, tag)).map(AsRef::as_ref),
    }
}

/// What a tag stands for now.
pub(super) fn number_of(chain: &Chain, tag: BlockNumberOrTag) -> u64 {
    let head = chain.head().header.number;
    match tag {
        BlockNumberOrTag::Latest | BlockNumberOrTag::Pending => head,
        BlockNumberOrTag::Safe => head.saturating_sub(SAFE_AFTER).max(chain.oldest()),
        BlockNumberOrTag::Finalized => head.saturating_sub(FINALIZED_AFTER).max(chain.oldest()),
        BlockNumberOrTag::Earliest => chain.oldest(),
        BlockNumberOrTag::Number(number) => number,
    }
}
