//! Questions that leave no trace: calls and estimates.

use alloy::primitives::{Bytes, U256};
use alloy::rpc::types::TransactionRequest;
use revm::context::TxEnv;
use revm::context::result::{ExecutionResult, HaltReason};

use super::block::{BASE_FEE, BLOCK_GAS_LIMIT, Place};
use super::chain::Chain;
use super::evm::{Check, output, run};
use super::fault::Fault;
use super::genesis::CHAIN_ID;

/// A call on the state after some block.
pub(super) struct Question<'a> {
    chain: &'a Chain,
    place: Place,
    transaction: TxEnv,
}

impl<'a> Question<'a> {
    /// Reads the call; `place` names the block after which it is asked.
    ///
    /// # Errors
    /// When it contradicts itself.
    pub(super) fn new(chain: &'a Chain, place: Place, request: TransactionRequest) -> Result<Self, Fault> {
        if request.gas_price.is_some() && (request.max_fee_per_gas.or(request.max_priority_fee_per_gas)).is_some() {
            return Err(Fault::invalid_params("both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified"));
        }
        if request.blob_versioned_hashes.is_some() || request.authorization_list.is_some() {
            return Err(Fault::invalid_params("blobs and authorization lists can't be simulated here"));
        }
        let input = request.input.try_into_unique_input().map_err(|error| Fault::invalid_params(error.to_string()))?;
        let transaction = TxEnv {
            caller: request.from.unwrap_or_default(),
            gas_limit: request.gas.unwrap_or(BLOCK_GAS_LIMIT).min(BLOCK_GAS_LIMIT),
            gas_price: request.max_fee_per_gas.or(request.gas_price).unwrap_or_default(),
            gas_priority_fee: request.max_fee_per_gas.map(|_| request.max_priority_fee_per_gas.unwrap_or_default()),
            tx_type: if request.max_fee_per_gas.is_some() { 2 } else { u8::from(request.access_list.is_some()) },
            kind: request.to.unwrap_or_default(),
            value: request.value.unwrap_or_default(),
            data: input.unwrap_or_default(),
            chain_id: Some(request.chain_id.unwrap_or(CHAIN_ID)),
            access_list: request.access_list.unwrap_or_default(),
            ..TxEnv::default()
        };
        Ok(Self { chain, place, transaction })
    }

    /// What the call returns.
    ///
    /// # Errors
    /// When it reverts or can't be run.
    pub(super) fn answer(self) -> Result<Bytes, Fault> {
        output(&self.run(self.transaction.gas_limit)?)
    }

    /// The least gas with which the call doesn't fail.
    ///
    /// # Errors
    /// When it fails with any gas.
    pub(super) fn gas(mut self) -> Result<u64, Fault> {
        let limit = self.affordable()?.min(self.transaction.gas_limit);
        let first = match self.run(limit) {
            Ok(ExecutionResult::Halt { reason: HaltReason::OutOfGas(_), .. }) => {
                return Err(Fault::refused(format!("gas required exceeds allowance ({limit})")));
            }
            result => result?,
        };
        output(&first)?;
        self.transaction.gas_limit = limit;
        // It can't do with less than it used; refunds come only at the end, so it may need more.
        let (mut too_little, mut enough) = (first.tx_gas_used().saturating_sub(1), limit);
        while too_little.saturating_add(1) < enough {
            let middle = too_little.midpoint(enough).min(too_little.saturating_mul(2).max(21_000));
            let middle = middle.clamp(too_little.saturating_add(1), enough.saturating_sub(1));
            if matches!(self.run(middle), Ok(ExecutionResult::Success { .. })) {
                enough = middle;
            } else {
                too_little = middle;
            }
        }
        Ok(enough)
    }

    /// The gas that the caller can pay for at the price offered.
    fn affordable(&self) -> Result<u64, Fault> {
        let price = U256::from(self.transaction.gas_price);
        if price.is_zero() {
            return Ok(u64::MAX);
        }
        let view = self.chain.world.at(self.place.number);
        let balance = view.account(self.transaction.caller).map(|account| account.balance).unwrap_or_default();
        let value = self.transaction.value;
        let left = balance.checked_sub(value).ok_or_else(|| Fault::insufficient_funds(balance, value))?;
        Ok((left / price).saturating_to())
    }

    fn run(&self, gas_limit: u64) -> Result<ExecutionResult, Fault> {
        // As in geth: who offers no fee is asked for none.
        let base_fee = if self.transaction.gas_price == 0 { 0 } else { BASE_FEE };
        let transaction = TxEnv { gas_limit, ..self.transaction.clone() };
        let view = self.chain.world.at(self.place.number);
        run(view, self.place.environment(base_fee), transaction, Check::Call).map(|ran| ran.result)
    }
}
