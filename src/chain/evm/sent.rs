//! What nodes answer to what they are sent. No answer is proof of anything (threat E8): it only says when to send again.

use serde_json::Value;

use super::rpc::RpcError;

/// What an answer to `eth_sendRawTransaction` means for sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendAnswer {
    /// The node has it.
    Accepted,
    /// The node doesn't take it at this fee.
    Underpriced,
    /// This account nonce was used: by it or by another.
    NonceUsed,
    /// Nothing is known, or the node refuses: try again.
    Again,
}

impl SendAnswer {
    pub(super) fn of(result: &Result<Value, RpcError>) -> Self {
        match result {
            Ok(_) => Self::Accepted,
            Err(RpcError::Server { message, .. }) => {
                let message = message.to_ascii_lowercase();
                let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
                if message.starts_with("transaction underpriced") {
                    Self::Underpriced
                } else if says(&[
                    "already known",
                    "known transaction",
                    "already imported",
                    "already exists",
                    "underpriced",
                ]) {
                    Self::Accepted
                } else if says(&["nonce too low", "nonce is too low", "invalid nonce", "old nonce"]) {
                    Self::NonceUsed
                } else {
                    Self::Again
                }
            }
            Err(_) => Self::Again,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(message: &str) -> Result<Value, RpcError> {
        Err(RpcError::Server { code: -32000, message: message.to_owned(), data: None })
    }

    #[test]
    fn no_answer_to_a_send_is_ever_a_failure() {
        for (message, expected) in [
            ("already known", SendAnswer::Accepted),
            ("transaction already imported", SendAnswer::Accepted),
            ("replacement transaction underpriced", SendAnswer::Accepted),
            ("transaction underpriced: tip needed 1", SendAnswer::Underpriced),
            ("nonce too low: next nonce 5, tx nonce 4", SendAnswer::NonceUsed),
            ("insufficient funds for gas * price + value", SendAnswer::Again),
            ("internal error", SendAnswer::Again),
        ] {
            assert_eq!(SendAnswer::of(&server(message)), expected, "{message}");
        }
        assert_eq!(SendAnswer::of(&Err(RpcError::Transport("HTTP status 502".into()))), SendAnswer::Again);
        assert_eq!(SendAnswer::of(&Ok(Value::Null)), SendAnswer::Accepted);
    }
}
