//! What a settlement may cost: fees from the head, under the operator's cap (threat C4).

use std::sync::Mutex;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, Bytes, U256, address};
use alloy::sol_types::SolCall;
use serde_json::json;

use super::Inner;
use super::abi::GasPriceOracle;
use super::rpc::RpcError;

/// A head up to this age is good enough to choose fees by: a base fee rises by at most an eighth a block, and twice the
/// base fee is offered.
const HEAD_FRESH: Duration = Duration::from_secs(4);
/// How long tip and data fee are believed.
const SLOW_FRESH: Duration = Duration::from_secs(60);
/// The tip where a node can't say: a tenth of a gwei.
const TIP_DEFAULT: u128 = 100_000_000;
/// OP stack: the predeploy that knows what data costs on the chain below.
const GAS_PRICE_ORACLE: Address = address!("420000000000000000000000000000000000000F");
/// Bytes of a settlement with an ordinary signature, without the signature's excess.
const TRANSACTION_BYTES: usize = 450;
/// Gas limit of an ordinary settlement.
pub(super) const USUAL_GAS: u64 = 120_000;

/// Fees of one transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fees {
    /// Wei.
    pub max_fee_per_gas: u128,
    /// Wei.
    pub tip: u128,
    /// Wei, for a transaction of ordinary size; zero off the OP stack.
    pub data_fee: U256,
}

impl Fees {
    /// Twice the base fee and the tip.
    fn new(base_fee: u128, tip: u128, data_fee: U256) -> Self {
        Self { max_fee_per_gas: base_fee.saturating_mul(2).saturating_add(tip), tip, data_fee }
    }

    /// Most that a transaction can cost, in wei.
    pub(super) fn total(&self, gas_limit: u64) -> U256 {
        U256::from(gas_limit).saturating_mul(U256::from(self.max_fee_per_gas)).saturating_add(self.data_fee)
    }

    /// The total with room for one replacement, which nodes take only for an eighth more.
    pub(super) fn with_replacement(&self, gas_limit: u64) -> U256 {
        let total = self.total(gas_limit);
        total.saturating_add(total / U256::from(8)).saturating_add(U256::from(1))
    }
}

/// What changes slowly: tip and data fee.
#[derive(Default)]
pub(super) struct SlowFees(Mutex<Option<(u128, U256, Instant)>>);

impl Inner {
    /// Today's fees; asks the node only when what is known is old.
    pub(super) async fn fees(&self) -> Result<Fees, RpcError> {
        let head = self.watch.refresh_head(&self.rpc, HEAD_FRESH).await?;
        let base_fee = head.base_fee.ok_or_else(|| RpcError::Transport("chain has no EIP-1559 base fee".to_owned()))?;
        let known = self.slow_fees.0.lock().ok().and_then(|known| *known);
        let (tip, data_fee) = match known {
            Some((tip, data_fee, read_at)) if read_at.elapsed() < SLOW_FRESH => (tip, data_fee),
            _ => self.read_slow_fees().await?,
        };
        Ok(Fees::new(base_fee, tip, data_fee))
    }

    /// Fees as far as known, without asking.
    pub(super) fn known_fees(&self) -> Option<Fees> {
        let base_fee = self.watch.head()?.base_fee?;
        let (tip, data_fee, _) = (*self.slow_fees.0.lock().ok()?)?;
        Some(Fees::new(base_fee, tip, data_fee))
    }

    async fn read_slow_fees(&self) -> Result<(u128, U256), RpcError> {
        let size = U256::from(TRANSACTION_BYTES);
        let question = GasPriceOracle::getL1FeeUpperBoundCall { unsignedTxSize: size }.abi_encode();
        let call = json!([{"to": GAS_PRICE_ORACLE, "input": Bytes::from(question)}, "latest"]);
        let calls = vec![("eth_maxPriorityFeePerGas", json!([])), ("eth_call", call)];
        let mut results = self.rpc.batch(calls).await?.into_iter();
        let tip = match results.next() {
            Some(Ok(value)) => serde_json::from_value::<U256>(value).ok().and_then(|tip| u128::try_from(tip).ok()),
            _ => None,
        };
        // No such contract: not the OP stack.
        let data_fee = match results.next() {
            Some(Ok(value)) => serde_json::from_value::<Bytes>(value)
                .ok()
                .and_then(|bytes| GasPriceOracle::getL1FeeUpperBoundCall::abi_decode_returns(&bytes).ok()),
            _ => None,
        };
        let (tip, data_fee) = (tip.unwrap_or(TIP_DEFAULT), data_fee.unwrap_or(U256::ZERO));
        if let Ok(mut known) = self.slow_fees.0.lock() {
            *known = Some((tip, data_fee, Instant::now()));
        }
        Ok((tip, data_fee))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_leaves_room_for_one_replacement_and_absurd_prices_do_not_wrap() {
        let fees = Fees::new(100, 20, U256::from(1000));
        assert_eq!(fees.max_fee_per_gas, 220);
        assert_eq!(fees.total(10), U256::from(3200));
        assert_eq!(fees.with_replacement(10), U256::from(3601));
        let absurd = Fees::new(u128::MAX, u128::MAX, U256::MAX);
        assert_eq!(absurd.with_replacement(u64::MAX), U256::MAX);
    }
}
