//! Transactions as they come in, and as nodes show those that landed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use litesvm::types::TransactionMetadata;
use serde_json::{Value, json};
use solana_message::VersionedMessage;
use solana_sdk::hash::Hash;
use solana_transaction::versioned::VersionedTransaction;

use super::chain::{Commitment, SolanaChain};
use super::read::{Encoding, Holding, token_balances};
use crate::devnet::fault::Fault;

/// Longest transaction, in bytes: what fits into one packet of the network.
const TRANSACTION_BYTES_MAX: usize = 1232;

/// A transaction that is in a block.
pub(super) struct Landed {
    pub(super) slot: u64,
    pub(super) message_hash: Hash,
    pub(super) transaction: VersionedTransaction,
    pub(super) meta: TransactionMetadata,
    pub(super) error: Option<Value>,
    pub(super) before: Vec<Holding>,
    pub(super) after: Vec<Holding>,
}

/// Bytes in one of the encodings of a transaction.
pub(super) fn bytes(text: &str, encoding: Option<Encoding>) -> Result<Vec<u8>, Fault> {
    let decoded = match encoding {
        Some(Encoding::Base64) => STANDARD.decode(text).ok(),
        Some(Encoding::Base58) | None => bs58::decode(text).into_vec().ok(),
        Some(_) => return Err(Fault::invalid_params("unsupported encoding: expected base58 or base64")),
    };
    decoded.ok_or_else(|| Fault::invalid_params("invalid encoding of a transaction"))
}

/// A transaction from its bytes.
pub(super) fn read(bytes: &[u8]) -> Result<VersionedTransaction, Fault> {
    if bytes.len() > TRANSACTION_BYTES_MAX {
        let why = format!("transaction too large: {} bytes (max: {TRANSACTION_BYTES_MAX})", bytes.len());
        return Err(Fault::invalid_params(why));
    }
    let transaction: VersionedTransaction = wincode::deserialize_exact(bytes)
        .map_err(|error| Fault::invalid_params(format!("failed to deserialize a transaction: {error}")))?;
    let is_known = matches!(transaction.message, VersionedMessage::Legacy(_) | VersionedMessage::V0(_));
    if !is_known || transaction.sanitize().is_err() {
        return Err(Fault::invalid_params(
            "invalid transaction: Transaction failed to sanitize accounts offsets correctly",
        ));
    }
    Ok(transaction)
}

impl Landed {
    fn error_or_ok(&self) -> Value {
        self.error.as_ref().map_or_else(|| json!({"Ok": null}), |error| json!({"Err": error}))
    }

    /// As an entry of `getSignatureStatuses`.
    pub(super) fn status(&self, chain: &SolanaChain) -> Value {
        let commitment = chain.commitment_of(self.slot);
        let blocks_since = chain.slot(Commitment::Processed).saturating_sub(self.slot);
        let confirmations = (commitment != Commitment::Finalized).then_some(blocks_since);
        json!({
            "slot": self.slot,
            "confirmations": confirmations,
            "err": self.error,
            "status": self.error_or_ok(),
            "confirmationStatus": commitment.as_str(),
        })
    }

    /// As the answer of `getTransaction`.
    pub(super) fn show(&self, chain: &SolanaChain, encoding: Encoding, versions: Option<u8>) -> Result<Value, Fault> {
        let is_legacy = matches!(self.transaction.message, VersionedMessage::Legacy(_));
        if !is_legacy && versions.is_none() {
            let why = "Transaction version (0) is not supported by the requesting client. Please try the request again \
                       with the following configuration parameter: \"maxSupportedTransactionVersion\": 0";
            return Err(Fault::new(-32015, why));
        }
        let transaction = match encoding {
            Encoding::Json => self.json(),
            Encoding::JsonParsed => return Err(Fault::invalid_params("jsonParsed transactions are not served here")),
            Encoding::Base64 => json!([STANDARD.encode(self.wire()?), "base64"]),
            Encoding::Base58 => json!([bs58::encode(self.wire()?).into_string(), "base58"]),
        };
        let mut answer = json!({
            "slot": self.slot,
            "blockTime": chain.block(self.slot).map(|block| block.unix_secs),
            "transaction": transaction,
            "meta": self.outcome(),
        });
        if let (Some(_), Some(fields)) = (versions, answer.as_object_mut()) {
            fields.insert("version".to_owned(), if is_legacy { json!("legacy") } else { json!(0) });
        }
        Ok(answer)
    }

    fn wire(&self) -> Result<Vec<u8>, Fault> {
        wincode::serialize(&self.transaction).map_err(|error| Fault::refused(error.to_string()))
    }

    fn outcome(&self) -> Value {
        let lamports = |holdings: &[Holding]| holdings.iter().map(|holding| holding.lamports).collect::<Vec<_>>();
        json!({
            "err": self.error,
            "status": self.error_or_ok(),
            "fee": self.meta.fee,
            "preBalances": lamports(&self.before),
            "postBalances": lamports(&self.after),
            "preTokenBalances": token_balances(&self.before),
            "postTokenBalances": token_balances(&self.after),
            "innerInstructions": [],
            "logMessages": self.meta.logs,
            "loadedAddresses": {"writable": [], "readonly": []},
            "computeUnitsConsumed": self.meta.compute_units_consumed,
            "rewards": [],
        })
    }

    fn json(&self) -> Value {
        let message = &self.transaction.message;
        let header = message.header();
        let instructions: Vec<Value> = message
            .instructions()
            .iter()
            .map(|instruction| {
                json!({
                    "programIdIndex": instruction.program_id_index,
                    "accounts": instruction.accounts,
                    "data": bs58::encode(&instruction.data).into_string(),
                    "stackHeight": 1,
                })
            })
            .collect();
        let texts = |list: &[solana_pubkey::Pubkey]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        json!({
            "signatures": self.transaction.signatures.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "message": {
                "accountKeys": texts(message.static_account_keys()),
                "header": {
                    "numRequiredSignatures": header.num_required_signatures,
                    "numReadonlySignedAccounts": header.num_readonly_signed_accounts,
                    "numReadonlyUnsignedAccounts": header.num_readonly_unsigned_accounts,
                },
                "recentBlockhash": message.recent_blockhash().to_string(),
                "instructions": instructions,
                "addressTableLookups": [],
            },
        })
    }
}
