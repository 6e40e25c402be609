//! What a node says when it says no, in the words of geth: clients and the gateway tell refusals apart by them.

use alloy::primitives::{Address, Bytes, U256};
use alloy::sol_types::{Panic, PanicKind, Revert, SolError};
use revm::context::result::{HaltReason, InvalidTransaction};
use serde_json::{Value, json};

/// An error of JSON-RPC.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The code.
    pub code: i64,
    /// The words.
    pub message: String,
    /// What a call reverted with, in hex.
    pub data: Option<Value>,
}

impl Fault {
    pub(super) fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// The chain says no.
    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self::new(-32000, message)
    }

    /// The request is no JSON.
    pub(super) fn unreadable() -> Self {
        Self::new(-32700, "parse error")
    }

    /// The request is no JSON-RPC.
    pub(super) fn invalid_request(message: &str) -> Self {
        Self::new(-32600, message)
    }

    /// Nobody knows this method.
    pub(super) fn unknown_method(method: &str) -> Self {
        Self::new(-32601, format!("the method {method} does not exist/is not available"))
    }

    /// A parameter is not what it should be.
    pub(super) fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(-32602, message)
    }

    /// A transaction comes after its nonce was used.
    pub(super) fn nonce_too_low(next: u64, given: u64) -> Self {
        Self::refused(format!("nonce too low: next nonce {next}, tx nonce {given}"))
    }

    /// A sender can't pay for what a transaction may cost.
    pub(super) fn insufficient_funds(balance: U256, cost: U256) -> Self {
        let short = cost.saturating_sub(balance);
        Self::refused(format!(
            "insufficient funds for gas * price + value: balance {balance}, tx cost {cost}, overshot {short}"
        ))
    }

    /// A call ended in REVERT.
    pub(super) fn reverted(output: &Bytes) -> Self {
        let message = match revert_reason(output) {
            Some(reason) => format!("execution reverted: {reason}"),
            None => "execution reverted".to_owned(),
        };
        Self { code: 3, message, data: Some(json!(output)) }
    }

    /// A call ended by breaking a rule of the EVM.
    pub(super) fn halted(reason: &HaltReason) -> Self {
        Self::refused(match reason {
            HaltReason::OutOfGas(_) => "out of gas".to_owned(),
            HaltReason::InvalidFEOpcode => "invalid opcode: INVALID".to_owned(),
            HaltReason::OpcodeNotFound | HaltReason::NotActivated => "invalid opcode".to_owned(),
            other => other.to_string(),
        })
    }

    /// A transaction may not run at all.
    pub(super) fn invalid_transaction(error: &InvalidTransaction, sender: Address) -> Self {
        use InvalidTransaction as No;
        match error {
            No::NonceTooLow { tx, state } => Self::nonce_too_low(*state, *tx),
            No::NonceTooHigh { tx, state } => {
                Self::refused(format!("nonce too high: address {sender}, tx: {tx} state: {state}"))
            }
            No::LackOfFundForMaxFee { fee, balance } => Self::insufficient_funds(**balance, **fee),
            No::CallGasCostMoreThanGasLimit { initial_gas: needed, gas_limit }
            | No::GasFloorMoreThanGasLimit { gas_floor: needed, gas_limit } => {
                Self::refused(format!("intrinsic gas too low: gas {gas_limit}, minimum needed {needed}"))
            }
            No::CallerGasLimitMoreThanBlock | No::TxGasLimitGreaterThanCap { .. } => {
                Self::refused("exceeds block gas limit")
            }
            No::PriorityFeeGreaterThanMaxFee => Self::refused("max priority fee per gas higher than max fee per gas"),
            No::GasPriceLessThanBasefee => Self::refused("max fee per gas less than block base fee"),
            No::RejectCallerWithCode => Self::refused(format!("sender not an eoa: address {sender}")),
            No::CreateInitCodeSizeLimit => Self::refused("max initcode size exceeded"),
            other => Self::refused(other.to_string()),
        }
    }

    /// As a member of a JSON-RPC response.
    pub(super) fn to_json(&self) -> Value {
        let mut error = json!({"code": self.code, "message": self.message});
        if let (Some(data), Some(object)) = (&self.data, error.as_object_mut()) {
            object.insert("data".to_owned(), data.clone());
        }
        error
    }
}

/// `Error(string)` and `Panic(uint256)`, the panics in geth's words.
fn revert_reason(output: &[u8]) -> Option<String> {
    if let Ok(revert) = Revert::abi_decode(output) {
        return Some(revert.reason);
    }
    let panic = Panic::abi_decode(output).ok()?;
    Some(match panic.kind() {
        Some(PanicKind::Assert) => "assert(false)".to_owned(),
        Some(PanicKind::UnderOverflow) => "arithmetic underflow or overflow".to_owned(),
        Some(PanicKind::DivisionByZero) => "division or modulo by zero".to_owned(),
        Some(PanicKind::ArrayOutOfBounds) => "out-of-bounds array access; popping on an empty array".to_owned(),
        _ => format!("unknown panic code: {:#x}", panic.code),
    })
}
