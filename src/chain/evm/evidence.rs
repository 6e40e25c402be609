//! What the chain has to say of an authorization: used or not, by whom, and whether money moved.
//!
//! Reads only; what follows for a payment is decided in `settle`.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::{SolCall, SolEvent};
use serde_json::json;

use super::Inner;
use super::abi::{Block, Log, Receipt, Token};
use super::decode::Authorization;
use super::rpc::{RpcError, parse};
use crate::ledger::SettledBlock;
use crate::payment::scheme::{BlockStanding, Standings};

/// Blocks whose logs are read in one call.
const LOG_BLOCKS: u64 = 1000;
/// Logs are read back to this long before the claim.
const LOG_MARGIN_SECS: u64 = 600;

/// Blocks asked for in one request.
const BLOCKS_AT_ONCE: usize = 100;

/// What the chain's logs say of an authorization that is gone.
pub(super) enum Gone {
    /// By this transaction's transfer.
    By(B256),
    /// By its payer's cancellation.
    Canceled,
    /// No log in the blocks since the claim.
    Unseen,
}

impl Inner {
    /// Looks for the log that ended the authorization, backwards from `block` to before the claim.
    pub(super) async fn find_end(
        &self,
        token: Address,
        authorization: &Authorization,
        claimed_secs: u64,
        block: u64,
    ) -> Result<Gone, RpcError> {
        let names = [Token::AuthorizationUsed::SIGNATURE_HASH, Token::AuthorizationCanceled::SIGNATURE_HASH];
        let mut last = block;
        loop {
            let first = last.saturating_sub(LOG_BLOCKS - 1);
            let filter = json!([{
                "address": token,
                "fromBlock": format!("{first:#x}"),
                "toBlock": format!("{last:#x}"),
                "topics": [names, authorization.from.into_word(), authorization.nonce],
            }]);
            let logs: Vec<Log> = self.rpc.call("eth_getLogs", filter).await?;
            for log in logs {
                match (log.topics.first(), log.transaction_hash) {
                    _ if !is_of(&log, token, &[authorization.from.into_word(), authorization.nonce]) => {}
                    (Some(name), _) if *name == Token::AuthorizationCanceled::SIGNATURE_HASH => {
                        return Ok(Gone::Canceled);
                    }
                    (Some(name), Some(hash)) if *name == Token::AuthorizationUsed::SIGNATURE_HASH => {
                        return Ok(Gone::By(hash));
                    }
                    _ => {}
                }
            }
            let is_before_claim =
                self.block(&format!("{first:#x}")).await?.timestamp.saturating_add(LOG_MARGIN_SECS) < claimed_secs;
            if first == 0 || is_before_claim {
                return Ok(Gone::Unseen);
            }
            last = first - 1;
        }
    }

    /// Whether an authorization is gone, used or cancelled, at a block.
    pub(super) async fn is_authorization_used(
        &self,
        token: Address,
        authorization: &Authorization,
        block: u64,
    ) -> Result<bool, RpcError> {
        let Authorization { from, nonce, .. } = *authorization;
        let question = Token::authorizationStateCall { authorizer: from, nonce }.abi_encode();
        let call = json!([{"to": token, "input": Bytes::from(question)}, format!("{block:#x}")]);
        let answer: Bytes = self.rpc.call("eth_call", call).await?;
        Token::authorizationStateCall::abi_decode_returns(&answer)
            .map_err(|_error| RpcError::Transport("token gave no authorization state".to_owned()))
    }

    /// What an account holds of a token at a block.
    pub(super) async fn balance_of(&self, token: Address, account: Address, tag: &str) -> Result<U256, RpcError> {
        let question = Token::balanceOfCall { account }.abi_encode();
        let call = json!([{"to": token, "input": Bytes::from(question)}, tag]);
        let answer: Bytes = self.rpc.call("eth_call", call).await?;
        Token::balanceOfCall::abi_decode_returns(&answer)
            .map_err(|_error| RpcError::Transport("token gave no balance".to_owned()))
    }

    /// A block by number or tag.
    pub(super) async fn block(&self, tag: &str) -> Result<Block, RpcError> {
        let block: Option<Block> = self.rpc.call("eth_getBlockByNumber", json!([tag, false])).await?;
        block.ok_or_else(|| RpcError::Transport("node lacks a block".to_owned()))
    }
}

/// Whether blocks are still in the chain, and what is final. A chain without a `finalized` block has nothing final.
pub(super) async fn stand(inner: &Inner, blocks: &[SettledBlock]) -> Result<Standings, RpcError> {
    let mut standings = Vec::with_capacity(blocks.len());
    for some in blocks.chunks(BLOCKS_AT_ONCE) {
        let calls = some.iter().map(|block| ("eth_getBlockByNumber", json!([format!("{:#x}", block.number), false])));
        for (block, result) in some.iter().zip(inner.rpc.batch(calls.collect()).await?) {
            let found: Option<Block> = parse("eth_getBlockByNumber", result?)?;
            standings.push(match found {
                Some(found) if found.hash.to_string() == block.hash => BlockStanding::Held,
                Some(_other) => BlockStanding::Gone,
                // The node may be behind; a chain that got shorter grows again.
                None => BlockStanding::Unknown,
            });
        }
    }
    let finalized = match inner.block("finalized").await {
        Ok(block) => block.number,
        Err(RpcError::Server { .. }) => 0,
        Err(error) => return Err(error),
    };
    Ok(Standings { final_number: finalized, blocks: standings })
}

/// Whether a log is the token's and its indexed fields are these.
fn is_of(log: &Log, token: Address, fields: &[B256]) -> bool {
    log.address == token && log.topics.get(1..) == Some(fields)
}

/// Whether a receipt holds the token's own word that exactly this money moved under exactly this authorization.
pub(super) fn has_moved(receipt: &Receipt, token: Address, authorization: &Authorization) -> bool {
    let Authorization { from, to, value, nonce, .. } = authorization;
    let (from, to) = (from.into_word(), to.into_word());
    let amount = value.to_be_bytes::<32>();
    let named = |log: &Log, name: B256| log.topics.first() == Some(&name);
    let is_transfer = |log: &Log| {
        named(log, Token::Transfer::SIGNATURE_HASH) && is_of(log, token, &[from, to]) && log.data.as_ref() == amount
    };
    let is_use = |log: &Log| named(log, Token::AuthorizationUsed::SIGNATURE_HASH) && is_of(log, token, &[from, *nonce]);
    receipt.logs.iter().any(is_transfer) && receipt.logs.iter().any(is_use)
}

/// Whether a receipt used one authorization of this payer only. In a transaction of somebody else's making one transfer could
/// otherwise stand for two payments: for the one that was used for it, and for another whose nonce the payer spent beside it
/// on a transfer to itself (`receiveWithAuthorization` shares the nonces).
pub(super) fn is_only_use(receipt: &Receipt, token: Address, payer: Address) -> bool {
    let payer = payer.into_word();
    let is_use = |log: &&Log| {
        log.address == token
            && log.topics.first() == Some(&Token::AuthorizationUsed::SIGNATURE_HASH)
            && log.topics.get(1) == Some(&payer)
    };
    receipt.logs.iter().filter(is_use).count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(address: Address, topics: Vec<B256>, data: Vec<u8>) -> Log {
        Log { address, topics, data: data.into(), transaction_hash: None }
    }

    fn receipt(logs: Vec<Log>) -> Receipt {
        Receipt {
            transaction_hash: B256::ZERO,
            block_hash: B256::ZERO,
            block_number: 1,
            status: 1,
            logs,
            gas_used: U256::ZERO,
            effective_gas_price: U256::ZERO,
            l1_fee: None,
        }
    }

    #[test]
    fn money_moved_only_if_the_token_itself_logged_this_transfer_and_this_authorization() {
        let (token, other) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let authorization = Authorization {
            from: Address::repeat_byte(3),
            to: Address::repeat_byte(4),
            value: U256::from(10_000),
            valid_after: U256::ZERO,
            valid_before: U256::from(9),
            nonce: B256::repeat_byte(5),
        };
        let (from, to) = (authorization.from.into_word(), authorization.to.into_word());
        let transfer = |by: Address, from: B256, to: B256, value: u64| {
            log(by, vec![Token::Transfer::SIGNATURE_HASH, from, to], U256::from(value).to_be_bytes::<32>().to_vec())
        };
        let used =
            |by: Address, nonce: B256| log(by, vec![Token::AuthorizationUsed::SIGNATURE_HASH, from, nonce], Vec::new());
        let moved = |logs: Vec<Log>| {
            let receipt = receipt(logs);
            has_moved(&receipt, token, &authorization)
        };
        let nonce = authorization.nonce;
        assert!(moved(vec![used(token, nonce), transfer(token, from, to, 10_000)]));
        assert!(!moved(vec![used(token, nonce)]), "no transfer");
        assert!(!moved(vec![transfer(token, from, to, 10_000)]), "no authorization");
        assert!(!moved(vec![used(token, nonce), transfer(other, from, to, 10_000)]), "another contract's transfer");
        assert!(!moved(vec![used(other, nonce), transfer(token, from, to, 10_000)]), "another contract's word");
        assert!(!moved(vec![used(token, nonce), transfer(token, from, to, 9_999)]), "a fee was taken");
        assert!(!moved(vec![used(token, nonce), transfer(token, to, from, 10_000)]), "the wrong way");
        assert!(!moved(vec![used(token, B256::ZERO), transfer(token, from, to, 10_000)]), "another authorization");
        let is_only = |logs: Vec<Log>| {
            let receipt = receipt(logs);
            is_only_use(&receipt, token, authorization.from)
        };
        let one = vec![used(token, nonce), transfer(token, from, to, 10_000)];
        assert!(is_only(one.clone()));
        assert!(is_only([one.clone(), vec![used(other, B256::ZERO)]].concat()), "another contract's word");
        let two = [one, vec![used(token, B256::ZERO), transfer(token, from, from, 10_000)]].concat();
        assert!(moved(two.clone()) && !is_only(two), "one transfer, two nonces");
    }
}
