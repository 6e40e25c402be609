//! What we say to a token and hear from it. Nothing but shapes.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol;
use serde::Deserialize;

sol! {
    /// EIP-3009 as FiatToken and others implement it; the overload for ECDSA signatures.
    interface TransferByParts {
        function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, uint8 v, bytes32 r, bytes32 s);
    }

    /// The overload for signatures of any length.
    interface TransferByBytes {
        function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, bytes signature);
    }

    /// What is read from a token.
    interface Token {
        event Transfer(address indexed from, address indexed to, uint256 value);
        event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
        event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);

        function authorizationState(address authorizer, bytes32 nonce) returns (bool);
        function balanceOf(address account) returns (uint256);
        function decimals() returns (uint8);
        function name() returns (string);
        function version() returns (string);
        function DOMAIN_SEPARATOR() returns (bytes32);
    }

    /// What is asked of a token about who may receive it; `isBlacklisted` and `paused` are FiatToken's.
    interface Receiving {
        function transfer(address to, uint256 value) returns (bool);
        function isBlacklisted(address account) returns (bool);
        function paused() returns (bool);
    }

    /// How tokens on OpenZeppelin say no.
    interface TokenErrors {
        error ERC20InsufficientBalance(address sender, uint256 balance, uint256 needed);
        error ERC3009InvalidAuthorizationTime(uint256 validAfter, uint256 validBefore);
        error ERC3009UsedAuthorization(address authorizer, bytes32 nonce);
        error ERC3009InvalidSignature();
    }

    /// EIP-1271.
    interface ContractWallet {
        function isValidSignature(bytes32 hash, bytes signature) returns (bytes4);
    }

    /// ERC-6492: what precedes the magic suffix.
    struct WrappedSignature {
        address factory;
        bytes factoryCalldata;
        bytes innerSignature;
    }

    /// OP stack: what a transaction's data costs on the chain below.
    interface GasPriceOracle {
        function getL1FeeUpperBound(uint256 unsignedTxSize) returns (uint256);
        function getL1Fee(bytes data) returns (uint256);
    }
}

/// A block's head, as far as we need it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Block {
    #[serde(with = "quantity")]
    pub number: u64,
    pub hash: B256,
    /// Unix seconds.
    #[serde(with = "quantity")]
    pub timestamp: u64,
    #[serde(default)]
    pub base_fee_per_gas: Option<U256>,
}

/// A log line of a receipt or of `eth_getLogs`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Log {
    pub address: Address,
    pub topics: Vec<B256>,
    pub data: Bytes,
    #[serde(default)]
    pub transaction_hash: Option<B256>,
    #[serde(default)]
    pub block_number: Option<U256>,
}

/// A receipt, as far as we need it: rollups add fields and transaction types of their own.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Receipt {
    pub transaction_hash: B256,
    pub block_hash: B256,
    #[serde(with = "quantity")]
    pub block_number: u64,
    #[serde(with = "quantity")]
    pub status: u64,
    pub logs: Vec<Log>,
    #[serde(default)]
    pub gas_used: Option<U256>,
    /// Wei per gas.
    #[serde(default)]
    pub effective_gas_price: Option<U256>,
    /// Wei, on an OP-stack chain: what the transaction's data cost on the chain below.
    #[serde(default)]
    pub l1_fee: Option<U256>,
}

impl Receipt {
    /// What its sender paid for it, in wei; none where the node doesn't say.
    pub(super) fn fee(&self) -> Option<U256> {
        self.gas_used?.checked_mul(self.effective_gas_price?)?.checked_add(self.l1_fee.unwrap_or_default())
    }

    /// Whether the transaction ran to its end.
    pub(super) fn is_success(&self) -> bool {
        self.status == 1
    }
}

/// JSON-RPC quantities: hex with `0x`.
pub(super) mod quantity {
    use serde::{Deserialize, Deserializer};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| serde::de::Error::custom("expected a quantity"))
    }

    pub(in super::super) fn parse(text: &str) -> Option<u64> {
        u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
    }
}
