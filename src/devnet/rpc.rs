//! JSON-RPC: from a method's name to its answer.

use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::primitives::{Address, B256, Bytes, U64, U256, keccak256};
use alloy::rpc::types::Filter;
use revm::primitives::KECCAK_EMPTY;
use serde::Deserialize;
use serde_json::{Value, json};

use super::block::BASE_FEE;
use super::call::Question;
use super::chain::Chain;
use super::fault::Fault;
use super::genesis::CHAIN_ID;
use super::params::{Params, find, number_of};
use super::read;

/// Most requests in one batch.
const BATCH_MAX: usize = 1000;
/// Wei: the tip that the node advises, which nobody needs.
const TIP: u64 = 1_000_000;
/// Atomic units that `dev_mint` gives when none are named: 1000 USDC.
const MINT_UNITS: u64 = 1_000_000_000;

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    id: Option<Value>,
    method: String,
    #[serde(default)]
    params: Option<Value>,
}

/// One method of a chain.
pub(super) type Call<'a> = &'a mut dyn FnMut(&str, &Params) -> Result<Value, Fault>;

/// Answers the body of an HTTP request; `None` when it asks for nothing but notices.
pub(super) fn answer(body: &[u8], call: Call<'_>) -> Option<Value> {
    match serde_json::from_slice::<Value>(body) {
        Err(_error) => Some(failure(&Value::Null, &Fault::unreadable())),
        Ok(Value::Array(requests)) if requests.is_empty() => {
            Some(failure(&Value::Null, &Fault::invalid_request("empty batch")))
        }
        Ok(Value::Array(requests)) if requests.len() > BATCH_MAX => {
            Some(failure(&Value::Null, &Fault::invalid_request("batch too large")))
        }
        Ok(Value::Array(requests)) => {
            let answers: Vec<Value> = requests.into_iter().filter_map(|request| one(request, call)).collect();
            (!answers.is_empty()).then_some(Value::Array(answers))
        }
        Ok(request) => one(request, call),
    }
}

fn one(request: Value, call: Call<'_>) -> Option<Value> {
    let named = request.get("id").cloned();
    let Ok(request) = Request::deserialize(request) else {
        return Some(failure(&named.unwrap_or_default(), &Fault::invalid_request("invalid request")));
    };
    let result = Params::new(request.params).and_then(|params| call(&request.method, &params));
    // No id: a notice, which is done and not answered.
    let id = request.id.or(named.filter(Value::is_null))?;
    Some(match result {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(fault) => failure(&id, &fault),
    })
}

fn failure(id: &Value, fault: &Fault) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": fault.to_json()})
}

/// One method of the EVM chain.
pub(super) fn call(chain: &mut Chain, method: &str, params: &Params) -> Result<Value, Fault> {
    match method {
        "eth_sendRawTransaction" => chain.submit(&params.required::<Bytes>(0)?).map(|hash| json!(hash)),
        "dev_mint" => {
            let units = params.optional::<U256>(1)?.unwrap_or(U256::from(MINT_UNITS));
            chain.fund(params.required::<Address>(0)?, units).map(|hash| json!(hash))
        }
        "web3_sha3" => Ok(json!(keccak256(params.required::<Bytes>(0)?))),
        _ => constant(method).map_or_else(|| ask(chain, method, params), Ok),
    }
}

/// What never changes.
fn constant(method: &str) -> Option<Value> {
    Some(match method {
        "eth_chainId" => json!(format!("{CHAIN_ID:#x}")),
        "net_version" => json!(CHAIN_ID.to_string()),
        "net_listening" => json!(true),
        "net_peerCount" => json!("0x0"),
        "web3_clientVersion" => json!(concat!("tollhouse-dev/v", env!("CARGO_PKG_VERSION"))),
        "eth_syncing" => json!(false),
        "eth_accounts" => json!([]),
        "eth_gasPrice" => json!(format!("{:#x}", BASE_FEE.saturating_add(TIP))),
        "eth_maxPriorityFeePerGas" => json!(format!("{TIP:#x}")),
        _ => return None,
    })
}

/// What is read from the chain.
fn ask(chain: &Chain, method: &str, params: &Params) -> Result<Value, Fault> {
    match method {
        "eth_blockNumber" => Ok(json!(format!("{:#x}", chain.head().header.number))),
        "eth_getBlockByNumber" => {
            let tag: BlockNumberOrTag = params.required(0)?;
            block(chain, tag.into(), params)
        }
        "eth_getBlockByHash" => {
            let hash: B256 = params.required(0)?;
            block(chain, hash.into(), params)
        }
        "eth_getBlockReceipts" => match find(chain, params.required::<BlockId>(0)?) {
            Some(block) => read::to_json(&block.receipts),
            None => Ok(Value::Null),
        },
        "eth_getTransactionByHash" => read::transaction(chain, params.required(0)?),
        "eth_getTransactionReceipt" => read::receipt(chain, params.required(0)?),
        "eth_getLogs" => read::logs(chain, &params.required::<Filter>(0)?),
        "eth_feeHistory" => {
            let count: U64 = params.required(0)?;
            let newest = number_of(chain, params.required(1)?);
            let percentiles: Option<Vec<f64>> = params.optional(2)?;
            read::fee_history(chain, count.saturating_to(), newest, percentiles.as_deref())
        }
        "eth_call" => {
            params.at_most(2)?;
            let place = params.place(1, chain)?;
            Question::new(chain, place, params.required(0)?)?.answer().map(|output| json!(output))
        }
        "eth_estimateGas" => {
            params.at_most(2)?;
            let place = params.place(1, chain)?;
            Question::new(chain, place, params.required(0)?)?.gas().map(|gas| json!(format!("{gas:#x}")))
        }
        _ => account(chain, method, params),
    }
}

fn block(chain: &Chain, id: BlockId, params: &Params) -> Result<Value, Fault> {
    let is_full = params.optional(1)?.unwrap_or(false);
    find(chain, id).map_or(Ok(Value::Null), |block| read::block(block, is_full))
}

/// What is asked of one account.
fn account(chain: &Chain, method: &str, params: &Params) -> Result<Value, Fault> {
    let place_at = match method {
        "eth_getTransactionCount" | "eth_getBalance" | "eth_getCode" => 1,
        "eth_getStorageAt" => 2,
        _ => return Err(Fault::unknown_method(method)),
    };
    let address: Address = params.required(0)?;
    let view = chain.world.at(params.place(place_at, chain)?.number);
    let account = view.account(address).unwrap_or_default();
    Ok(match method {
        // Pending is no more than latest: what isn't behind a gap is mined at once.
        "eth_getTransactionCount" => json!(format!("{:#x}", account.nonce)),
        "eth_getBalance" => json!(account.balance),
        "eth_getCode" if account.code_hash == KECCAK_EMPTY => json!("0x"),
        "eth_getCode" => json!(view.code(account.code_hash).original_bytes()),
        _ => json!(B256::from(view.slot(address, params.required(1)?))),
    })
}
