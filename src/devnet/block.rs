//! A block: what was run in it and what came of it.

use alloy::consensus::proofs::{calculate_receipt_root, calculate_transaction_root};
use alloy::consensus::transaction::Recovered;
use alloy::consensus::{
    EMPTY_ROOT_HASH, Eip658Value, Header, Receipt, ReceiptEnvelope, ReceiptWithBloom, Transaction, TxEnvelope,
    TxReceipt,
};
use alloy::eips::eip7685::EMPTY_REQUESTS_HASH;
use alloy::primitives::{Address, B256, Bloom, Log as RawLog};
use alloy::rpc::types::{Log, TransactionReceipt};
use revm::context::BlockEnv;
use revm::context::result::ExecutionResult;
use revm::context_interface::block::BlobExcessGasAndPrice;
use revm::primitives::{U256, eip4844};

/// Gas of all transactions of a block.
pub(super) const BLOCK_GAS_LIMIT: u64 = 60_000_000;

/// Wei. Never moves: a developer's figures stay the same from run to run.
pub(super) const BASE_FEE: u64 = 1_000_000;

/// Who gets the tips.
const BENEFICIARY: Address = alloy::primitives::address!("4200000000000000000000000000000000000011");

/// A transaction with its sender.
pub(super) type SignedTx = Recovered<TxEnvelope>;

/// A transaction and what came of it.
pub(super) struct Run {
    /// The transaction.
    pub transaction: SignedTx,
    /// What came of it.
    pub result: ExecutionResult,
}

/// A block that is part of the chain.
pub(super) struct Block {
    /// Its header. The state root stands for no trie.
    pub header: Header,
    /// The header's hash.
    pub hash: B256,
    /// What was run, in order.
    pub transactions: Vec<SignedTx>,
    /// What came of it, in the same order.
    pub receipts: Vec<TransactionReceipt>,
}

/// Where a block stands: all that is known of it before anything runs in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Its number.
    pub number: u64,
    /// Seconds since the Unix epoch.
    pub timestamp: u64,
    /// The block before it.
    pub parent_hash: B256,
}

impl Place {
    /// What the EVM sees of the block, with a base fee of its own: calls that offer no fee see none.
    pub(super) fn environment(self, base_fee: u64) -> BlockEnv {
        BlockEnv {
            number: U256::from(self.number),
            beneficiary: BENEFICIARY,
            timestamp: U256::from(self.timestamp),
            gas_limit: BLOCK_GAS_LIMIT,
            basefee: base_fee,
            prevrandao: Some(self.parent_hash),
            blob_excess_gas_and_price: Some(BlobExcessGasAndPrice::new(
                0,
                eip4844::BLOB_BASE_FEE_UPDATE_FRACTION_PRAGUE,
            )),
            ..BlockEnv::default()
        }
    }
}

impl Block {
    /// Puts a block together from what ran in it.
    pub(super) fn new(place: Place, runs: Vec<Run>) -> Self {
        let mut gas_used = 0_u64;
        let mut envelopes = Vec::with_capacity(runs.len());
        let mut transactions = Vec::with_capacity(runs.len());
        let mut outcomes = Vec::with_capacity(runs.len());
        for run in runs {
            let gas = run.result.tx_gas_used();
            gas_used = gas_used.saturating_add(gas);
            envelopes.push(envelope(&run, gas_used));
            outcomes.push((gas, run.result.created_address()));
            transactions.push(run.transaction);
        }
        let header = header(place, gas_used, &transactions, &envelopes);
        let hash = header.hash_slow();
        let mut logs_before = 0;
        let mut receipts = Vec::with_capacity(transactions.len());
        for (index, ((transaction, envelope), (gas, created))) in
            (0_u64..).zip(transactions.iter().zip(envelopes).zip(outcomes))
        {
            let at = At { place, hash, transaction_hash: *transaction.hash(), index };
            let receipt = at.receipt(transaction, envelope, gas, created, &mut logs_before);
            receipts.push(receipt);
        }
        Self { header, hash, transactions, receipts }
    }

    /// Where the block stands.
    pub(super) fn place(&self) -> Place {
        Place { number: self.header.number, timestamp: self.header.timestamp, parent_hash: self.header.parent_hash }
    }

    /// All logs of the block, in order.
    pub(super) fn logs(&self) -> impl Iterator<Item = &Log> {
        self.receipts.iter().flat_map(|receipt| receipt.inner.logs())
    }
}

fn envelope(run: &Run, gas_used: u64) -> ReceiptEnvelope<RawLog> {
    let logs = if run.result.is_success() { run.result.logs().to_vec() } else { Vec::new() };
    let receipt = Receipt { status: Eip658Value::Eip658(run.result.is_success()), cumulative_gas_used: gas_used, logs };
    let logs_bloom = receipt.bloom();
    ReceiptEnvelope::from_typed(run.transaction.tx_type(), ReceiptWithBloom { receipt, logs_bloom })
}

fn header(place: Place, gas_used: u64, transactions: &[SignedTx], receipts: &[ReceiptEnvelope<RawLog>]) -> Header {
    Header {
        parent_hash: place.parent_hash,
        beneficiary: BENEFICIARY,
        transactions_root: calculate_transaction_root(transactions),
        receipts_root: calculate_receipt_root(receipts),
        logs_bloom: receipts.iter().fold(Bloom::ZERO, |bloom, receipt| bloom | receipt.bloom()),
        number: place.number,
        gas_limit: BLOCK_GAS_LIMIT,
        gas_used,
        timestamp: place.timestamp,
        mix_hash: place.parent_hash,
        base_fee_per_gas: Some(BASE_FEE),
        withdrawals_root: Some(EMPTY_ROOT_HASH),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(B256::ZERO),
        requests_hash: Some(EMPTY_REQUESTS_HASH),
        ..Header::default()
    }
}

/// Where a transaction stands.
struct At {
    place: Place,
    hash: B256,
    transaction_hash: B256,
    index: u64,
}

impl At {
    fn receipt(
        &self,
        transaction: &SignedTx,
        envelope: ReceiptEnvelope<RawLog>,
        gas_used: u64,
        created: Option<Address>,
        logs_before: &mut u64,
    ) -> TransactionReceipt {
        let inner = envelope.map_logs(|log| {
            let log_index = *logs_before;
            *logs_before = logs_before.saturating_add(1);
            Log {
                inner: log,
                block_hash: Some(self.hash),
                block_number: Some(self.place.number),
                block_timestamp: Some(self.place.timestamp),
                transaction_hash: Some(self.transaction_hash),
                transaction_index: Some(self.index),
                log_index: Some(log_index),
                removed: false,
            }
        });
        TransactionReceipt {
            inner,
            transaction_hash: self.transaction_hash,
            transaction_index: Some(self.index),
            block_hash: Some(self.hash),
            block_number: Some(self.place.number),
            gas_used,
            effective_gas_price: transaction.effective_gas_price(Some(BASE_FEE)),
            blob_gas_used: None,
            blob_gas_price: None,
            from: transaction.signer(),
            to: transaction.to(),
            contract_address: created,
        }
    }
}
