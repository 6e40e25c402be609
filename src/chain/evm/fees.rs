//! What a settlement may cost: fees from the head, under the operator's cap (threat C4).

use std::sync::Mutex;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, Bytes, U256, address};
use alloy::sol_types::SolCall;
use serde_json::{Value, json};

use super::Inner;
use super::abi::GasPriceOracle;
use super::rpc::{RpcError, is_revert};

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
/// Bytes of an ordinary signature.
const ECDSA_BYTES: usize = 65;
/// Gas that an ordinary settlement uses: an EIP-3009 transfer of USDC to an account that holds some.
const EXPECTED_GAS: u64 = 80_000;
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

    /// The same for a transaction with a signature of so many bytes: what its data costs below grows with them.
    pub(super) fn for_input_of(self, signature_bytes: usize) -> Self {
        let excess = signature_bytes.saturating_sub(ECDSA_BYTES);
        // With what the ABI pads it to.
        let bytes = U256::from(TRANSACTION_BYTES.saturating_add(excess).saturating_add(96));
        let data_fee = match excess {
            0 => self.data_fee,
            _ => self.data_fee.saturating_mul(bytes).div_ceil(U256::from(TRANSACTION_BYTES)),
        };
        Self { data_fee, ..self }
    }

    /// What an ordinary settlement costs as a rule: half of what is offered for gas is for a base fee that doubles.
    pub(super) fn expected(&self) -> U256 {
        let base_fee = self.max_fee_per_gas.saturating_sub(self.tip) / 2;
        let per_gas = U256::from(base_fee.saturating_add(self.tip));
        U256::from(EXPECTED_GAS).saturating_mul(per_gas).saturating_add(self.data_fee)
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
        let old = GasPriceOracle::getL1FeeCall { data: vec![0xff; TRANSACTION_BYTES].into() }.abi_encode();
        let old_call = json!([{"to": GAS_PRICE_ORACLE, "input": Bytes::from(old)}, "latest"]);
        let calls = vec![("eth_maxPriorityFeePerGas", json!([])), ("eth_call", call), ("eth_call", old_call)];
        let mut results = self.rpc.batch(calls).await?.into_iter();
        let mut next = || results.next().unwrap_or(Ok(Value::Null));
        let tip = match next() {
            Ok(value) => serde_json::from_value::<U256>(value).ok().and_then(|tip| u128::try_from(tip).ok()),
            _ => None,
        };
        let (bound, exact) = (l1_fee(next())?, l1_fee(next())?);
        let data_fee = bound.or(exact);
        let (tip, data_fee) = (tip.unwrap_or(TIP_DEFAULT), data_fee.unwrap_or(U256::ZERO));
        if let Ok(mut known) = self.slow_fees.0.lock() {
            *known = Some((tip, data_fee, Instant::now()));
        }
        Ok((tip, data_fee))
    }
}

/// What the predeploy says; none where there is no such contract, or it doesn't know the question. What nobody answered is not
/// nothing: the fee would be taken for too low.
fn l1_fee(answer: Result<Value, RpcError>) -> Result<Option<U256>, RpcError> {
    match answer {
        Ok(value) => {
            let bytes: Option<Bytes> = serde_json::from_value(value).ok();
            Ok(bytes.and_then(|bytes| GasPriceOracle::getL1FeeUpperBoundCall::abi_decode_returns(&bytes).ok()))
        }
        Err(error) if is_revert(&error) => Ok(None),
        Err(error) => Err(error),
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

    #[test]
    fn c4_the_data_fee_below_counts_and_grows_with_the_signature() {
        let fees = Fees::new(100, 20, U256::from(450_000));
        assert_eq!(fees.for_input_of(65).data_fee, U256::from(450_000));
        assert_eq!(fees.for_input_of(65 + 354).data_fee, U256::from(900_000));
        assert_eq!(fees.expected(), U256::from(80_000 * 120 + 450_000));
        assert!(fees.total(120_000) > fees.expected());
        let absurd = Fees::new(1, 1, U256::MAX).for_input_of(usize::MAX);
        assert!(absurd.total(1) > U256::from(u128::MAX), "nothing wraps");
    }

    #[test]
    fn c4_no_contract_is_no_data_fee_and_no_answer_is_no_fee_at_all() {
        let word = |fee: u64| Ok(serde_json::json!(format!("{:#066x}", fee)));
        assert_eq!(l1_fee(word(7)).unwrap(), Some(U256::from(7)));
        assert_eq!(l1_fee(Ok(serde_json::json!("0x"))).unwrap(), None);
        let revert = RpcError::Server { code: 3, message: "execution reverted".to_owned(), data: None };
        assert_eq!(l1_fee(Err(revert)).unwrap(), None);
        assert!(l1_fee(Err(RpcError::Transport("no answer".to_owned()))).is_err());
    }
}
