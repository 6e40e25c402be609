//! JSON-RPC: from a method's name to its answer, in the words of agave.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use solana_message::VersionedMessage;
use solana_pubkey::Pubkey;
use solana_sdk::hash::Hash;
use solana_sdk::signature::Signature;
use solana_transaction::versioned::VersionedTransaction;

use super::chain::{BLOCKHASH_BLOCKS, Commitment, SolanaChain, SolanaError, Unfit};
use super::read::{Encoding, token_account};
use super::transaction;
use super::vm::Simulated;
use crate::devnet::fault::Fault;
use crate::devnet::params::Params;

/// Most accounts, and most signatures, that one call may name.
const ACCOUNTS_MAX: usize = 100;
const SIGNATURES_MAX: usize = 256;
/// Most slots between the ends of `getBlocks`.
const BLOCKS_MAX: u64 = 500_000;
/// Release of agave that the SVM's crates are of.
const VERSION: &str = "3.1.14";

/// What callers may set, of all methods.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Options {
    commitment: Option<Commitment>,
    encoding: Option<Encoding>,
    data_slice: Option<Value>,
    skip_preflight: bool,
    preflight_commitment: Option<Commitment>,
    sig_verify: bool,
    replace_recent_blockhash: bool,
    accounts: Option<Shown>,
    max_supported_transaction_version: Option<u8>,
}

/// Accounts that a simulation shows.
#[derive(Debug, Deserialize)]
struct Shown {
    encoding: Option<Encoding>,
    addresses: Vec<String>,
}

impl Options {
    fn read(params: &Params, index: usize) -> Result<Self, Fault> {
        let options: Self = params.optional(index)?.unwrap_or_default();
        if options.data_slice.is_some() {
            return Err(Fault::invalid_params("dataSlice is not served here"));
        }
        Ok(options)
    }

    fn level(&self) -> Commitment {
        self.commitment.or(self.preflight_commitment).unwrap_or(Commitment::Finalized)
    }
}

/// One method of the Solana chain.
pub(super) fn call(chain: &mut SolanaChain, method: &str, params: &Params) -> Result<Value, Fault> {
    match method {
        "sendTransaction" => send(chain, params),
        "getGenesisHash" => Ok(json!(chain.genesis_hash())),
        "getHealth" => Ok(json!("ok")),
        "getVersion" => Ok(json!({"solana-core": VERSION, "feature-set": 0})),
        "getFirstAvailableBlock" => Ok(json!(chain.first())),
        "getSlot" | "getBlockHeight" => Ok(json!(chain.slot(Options::read(params, 0)?.level()))),
        "getBlocks" => blocks(chain, params),
        "getBlockTime" => block_time(chain, params.required(0)?),
        "getMinimumBalanceForRentExemption" => Ok(json!(chain.vm.rent(params.required(0)?))),
        "getTransaction" => landed(chain, params),
        _ => with_context(chain, method, params),
    }
}

/// The methods whose answer says as of which slot it is.
fn with_context(chain: &SolanaChain, method: &str, params: &Params) -> Result<Value, Fault> {
    let at = if method == "getLatestBlockhash" { 0 } else { 1 };
    let options = Options::read(params, at)?;
    let value = match method {
        "getLatestBlockhash" => latest_blockhash(chain, options.level())?,
        "isBlockhashValid" => json!(chain.is_recent(&read::<Hash>(params, 0)?)),
        "getBalance" => json!(chain.vm.account(&read(params, 0)?).map_or(0, |account| account.lamports)),
        "getAccountInfo" => chain.show(chain.vm.account(&read(params, 0)?).as_ref(), options.encoding)?,
        "getMultipleAccounts" => {
            let keys: Vec<String> = params.required(0)?;
            if keys.len() > ACCOUNTS_MAX {
                return Err(Fault::invalid_params(format!("Too many inputs provided; max {ACCOUNTS_MAX}")));
            }
            let encoding = options.encoding.or(Some(Encoding::Base64));
            let show = |key: &String| chain.show(chain.vm.account(&parse(key)?).as_ref(), encoding);
            Value::Array(keys.iter().map(show).collect::<Result<_, _>>()?)
        }
        "getTokenAccountBalance" => {
            let account = chain.vm.account(&read(params, 0)?);
            let account = account.ok_or_else(|| Fault::invalid_params("Invalid param: could not find account"))?;
            let token = token_account(&account);
            chain.token_amount(&token.ok_or_else(|| Fault::invalid_params("Invalid param: not a Token account"))?)
        }
        "getSignatureStatuses" => statuses(chain, params)?,
        "getFeeForMessage" => fee(chain, params)?,
        "simulateTransaction" => simulate(chain, params, &options)?,
        _ => return Err(Fault::new(-32601, "Method not found")),
    };
    Ok(json!({"context": {"slot": chain.slot(options.level()), "apiVersion": VERSION}, "value": value}))
}

fn read<T: FromStr>(params: &Params, index: usize) -> Result<T, Fault> {
    parse(&params.required::<String>(index)?)
}

fn parse<T: FromStr>(text: &str) -> Result<T, Fault> {
    text.parse().map_err(|_error| Fault::invalid_params(format!("Invalid param: {text:?}")))
}

fn latest_blockhash(chain: &SolanaChain, level: Commitment) -> Result<Value, Fault> {
    let slot = chain.slot(level);
    let block = chain.block(slot).ok_or_else(|| Fault::refused("no block"))?;
    let last_valid = slot.saturating_add(BLOCKHASH_BLOCKS);
    Ok(json!({"blockhash": block.hash.to_string(), "lastValidBlockHeight": last_valid}))
}

fn blocks(chain: &SolanaChain, params: &Params) -> Result<Value, Fault> {
    let first: u64 = params.required(0)?;
    // The end may be left out.
    let (end, options) = match params.optional::<Value>(1)? {
        Some(Value::Object(_)) => (None, Options::read(params, 1)?),
        _ => (params.optional::<u64>(1)?, Options::read(params, 2)?),
    };
    if options.level() == Commitment::Processed {
        return Err(no_processed());
    }
    let end = end.unwrap_or(u64::MAX).min(chain.slot(options.level()));
    if end.saturating_sub(first) > BLOCKS_MAX {
        return Err(Fault::invalid_params(format!("Slot range too large; max {BLOCKS_MAX}")));
    }
    Ok(json!((first.max(chain.first())..=end).collect::<Vec<_>>()))
}

fn block_time(chain: &SolanaChain, slot: u64) -> Result<Value, Fault> {
    match chain.block(slot) {
        Some(block) => Ok(json!(block.unix_secs)),
        None => Err(Fault::new(-32004, format!("Block not available for slot {slot}"))),
    }
}

fn no_processed() -> Fault {
    Fault::invalid_params("Method does not support commitment below `confirmed`")
}

fn landed(chain: &SolanaChain, params: &Params) -> Result<Value, Fault> {
    let signature: Signature = read(params, 0)?;
    let options = Options::read(params, 1)?;
    if options.level() == Commitment::Processed {
        return Err(no_processed());
    }
    let found = chain.landed(&signature).filter(|landed| chain.commitment_of(landed.slot) >= options.level());
    let encoding = options.encoding.unwrap_or(Encoding::Json);
    found.map_or(Ok(Value::Null), |landed| landed.show(chain, encoding, options.max_supported_transaction_version))
}

fn statuses(chain: &SolanaChain, params: &Params) -> Result<Value, Fault> {
    let signatures: Vec<String> = params.required(0)?;
    if signatures.len() > SIGNATURES_MAX {
        return Err(Fault::invalid_params(format!("Too many inputs provided; max {SIGNATURES_MAX}")));
    }
    let status = |text: &String| {
        parse::<Signature>(text).map(|it| chain.landed(&it).map_or(Value::Null, |landed| landed.status(chain)))
    };
    Ok(Value::Array(signatures.iter().map(status).collect::<Result<_, _>>()?))
}

/// Null where the message's block hash is too old, as nodes have it.
fn fee(chain: &SolanaChain, params: &Params) -> Result<Value, Fault> {
    let unreadable = || Fault::invalid_params("invalid encoding of a message");
    let bytes = STANDARD.decode(params.required::<String>(0)?).map_err(|_error| unreadable())?;
    let message: VersionedMessage = wincode::deserialize_exact(&bytes).map_err(|_error| unreadable())?;
    let count = usize::from(message.header().num_required_signatures);
    let transaction = VersionedTransaction { signatures: vec![Signature::default(); count], message };
    if transaction.sanitize().is_err() {
        return Err(unreadable());
    }
    if chain.check_age(&transaction).is_err() {
        return Ok(Value::Null);
    }
    chain.simulate(&transaction).map(|simulated| json!(simulated.meta.fee)).map_err(|error| broken(&error))
}

fn broken(error: &SolanaError) -> Fault {
    Fault::new(-32603, error.to_string())
}

fn bad_signature() -> Fault {
    Fault::new(-32003, "Transaction signature verification failure")
}

fn simulate(chain: &SolanaChain, params: &Params, options: &Options) -> Result<Value, Fault> {
    let bytes = transaction::bytes(&params.required::<String>(0)?, options.encoding)?;
    let transaction = transaction::read(&bytes)?;
    if options.sig_verify && options.replace_recent_blockhash {
        return Err(Fault::invalid_params("sigVerify may not be used with replaceRecentBlockhash"));
    }
    let unfit = if options.sig_verify {
        chain.check(&transaction).map(|_hash| ())
    } else if options.replace_recent_blockhash {
        Ok(())
    } else {
        chain.check_age(&transaction)
    };
    match unfit {
        Ok(()) => {}
        Err(Unfit::Signature) => return Err(bad_signature()),
        Err(Unfit::Named(name)) => return Ok(refusal(&json!(name))),
    }
    let simulated = chain.simulate(&transaction).map_err(|error| broken(&error))?;
    let mut value = outcome(&simulated);
    if let (Some(shown), None, Some(fields)) = (&options.accounts, &simulated.error, value.as_object_mut()) {
        let show = |key: &String| {
            let key: Pubkey = parse(key)?;
            let account = simulated.accounts.iter().find(|(it, _)| *it == key).map(|(_, account)| account);
            chain.show(account, shown.encoding.or(Some(Encoding::Base64)))
        };
        let accounts = shown.addresses.iter().map(show).collect::<Result<_, _>>()?;
        fields.insert("accounts".to_owned(), Value::Array(accounts));
    }
    if let (true, Some(fields)) = (options.replace_recent_blockhash, value.as_object_mut()) {
        fields.insert("replacementBlockhash".to_owned(), latest_blockhash(chain, options.level())?);
    }
    Ok(value)
}

fn refusal(error: &Value) -> Value {
    json!({"err": error, "logs": [], "accounts": null, "unitsConsumed": 0, "returnData": null})
}

fn outcome(simulated: &Simulated) -> Value {
    json!({
        "err": simulated.error,
        "logs": simulated.meta.logs,
        "accounts": null,
        "unitsConsumed": simulated.meta.compute_units_consumed,
        "fee": simulated.meta.fee,
        "returnData": null,
    })
}

/// A signature in the answer means nothing: what can't land is dropped in silence, unless it is looked at first.
fn send(chain: &mut SolanaChain, params: &Params) -> Result<Value, Fault> {
    let options = Options::read(params, 1)?;
    let bytes = transaction::bytes(&params.required::<String>(0)?, options.encoding)?;
    let transaction = transaction::read(&bytes)?;
    if !options.skip_preflight {
        preflight(chain, &transaction)?;
    }
    chain.submit(&transaction).map_err(|error| broken(&error))?;
    Ok(json!(transaction.signatures.first().map(ToString::to_string)))
}

fn preflight(chain: &SolanaChain, transaction: &VersionedTransaction) -> Result<(), Fault> {
    let value = match chain.check(transaction) {
        Err(Unfit::Signature) => return Err(bad_signature()),
        Err(Unfit::Named(name)) => refusal(&json!(name)),
        Ok(_hash) => outcome(&chain.simulate(transaction).map_err(|error| broken(&error))?),
    };
    match value.get("err") {
        None | Some(Value::Null) => Ok(()),
        Some(error) => {
            let mut fault = Fault::new(-32002, format!("Transaction simulation failed: {error}"));
            fault.data = Some(value);
            Err(fault)
        }
    }
}
