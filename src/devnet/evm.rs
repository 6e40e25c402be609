//! One run of the EVM: a state, a block, a transaction or a call.

use alloy::consensus::Transaction;
use alloy::primitives::Bytes;
use revm::context::result::{EVMError, ExecutionResult, ResultAndState};
use revm::context::{BlockEnv, TxEnv};
use revm::database::WrapDatabaseRef;
use revm::primitives::hardfork::SpecId;
use revm::{Context, ExecuteEvm, MainBuilder, MainContext};

use super::block::SignedTx;
use super::fault::Fault;
use super::genesis::CHAIN_ID;
use super::world::View;

/// Which rules a run is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// All.
    Transaction,
    /// Any account may ask, at any nonce.
    Call,
}

/// Runs a transaction or a call on a state, which stays as it is.
pub(super) fn run(view: View<'_>, block: BlockEnv, transaction: TxEnv, check: Check) -> Result<ResultAndState, Fault> {
    let caller = transaction.caller;
    let mut evm = Context::mainnet()
        .with_db(WrapDatabaseRef(view))
        .modify_cfg_chained(|config| {
            config.set_spec_and_mainnet_gas_params(SpecId::PRAGUE);
            config.chain_id = CHAIN_ID;
            config.disable_nonce_check = check == Check::Call;
            config.disable_eip3607 = check == Check::Call;
        })
        .with_block(block)
        .build_mainnet();
    evm.transact(transaction).map_err(|error| match error {
        EVMError::Transaction(error) => Fault::invalid_transaction(&error, caller),
        EVMError::Database(never) => match never {},
        EVMError::Header(error) => Fault::refused(error.to_string()),
        EVMError::Custom(error) => Fault::refused(error),
        EVMError::CustomAny(error) => Fault::refused(error.to_string()),
    })
}

/// What the EVM sees of a transaction.
pub(super) fn environment_of(transaction: &SignedTx) -> TxEnv {
    let mut environment = TxEnv {
        tx_type: transaction.tx_type().into(),
        caller: transaction.signer(),
        gas_limit: transaction.gas_limit(),
        gas_price: transaction.max_fee_per_gas(),
        kind: transaction.kind(),
        value: transaction.value(),
        data: transaction.input().clone(),
        nonce: transaction.nonce(),
        chain_id: transaction.chain_id(),
        access_list: transaction.access_list().cloned().unwrap_or_default(),
        gas_priority_fee: transaction.max_priority_fee_per_gas(),
        ..TxEnv::default()
    };
    environment.set_signed_authorization(transaction.authorization_list().unwrap_or_default().to_vec());
    environment
}

/// What a run gave.
///
/// # Errors
/// When it reverted or broke a rule.
pub(super) fn output(result: &ExecutionResult) -> Result<Bytes, Fault> {
    match result {
        ExecutionResult::Success { output, .. } => Ok(output.data().clone()),
        ExecutionResult::Revert { output, .. } => Err(Fault::reverted(output)),
        ExecutionResult::Halt { reason, .. } => Err(Fault::halted(reason)),
    }
}
