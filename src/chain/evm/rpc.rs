//! What a node's answers mean to an EVM chain.

use super::abi::quantity;
use crate::chain::jsonrpc::Identity;
pub(super) use crate::chain::jsonrpc::{Rpc, RpcError, parse};

/// How an EVM endpoint names its chain.
pub(super) fn identity(chain_id: u64) -> Identity {
    Identity {
        method: "eth_chainId",
        expected: chain_id.to_string(),
        read: |value| value.as_str().and_then(quantity::parse).map(|found| found.to_string()),
    }
}

/// Whether the node ran the call and the EVM said no; anything else says nothing about the payment.
pub(super) fn is_revert(error: &RpcError) -> bool {
    match error {
        RpcError::Server { code, message, .. } => {
            let message = message.to_ascii_lowercase();
            *code == 3
                || ["revert", "invalid opcode", "out of gas", "gas required exceeds"]
                    .iter()
                    .any(|word| message.contains(word))
        }
        _ => false,
    }
}
