//! Before business opens: keys from the configuration, and the chain as the configuration says it is.

use std::sync::Arc;

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use serde_json::{Value, json};

use super::Inner;
use super::abi::Token;
use super::decode::{address, domain_separator};
use super::lanes::Lane;
use super::rpc::{RpcError, is_revert};
use crate::chain::ChainError;
use crate::chain::spending::Allowance;
use crate::config::{Diagnostic, EvmConfig, Location, NetworkConfig, SignerSource};
use crate::types::{AccountId, Asset, Network};

/// Reads the gas payers' keys.
///
/// # Errors
/// Every key that can't be read, is named twice, or belongs to an account that is also paid (promise 4: revenue never
/// lands at a key that this process holds).
pub(super) fn signers(
    config: &NetworkConfig,
    evm: &EvmConfig,
    also_paid: &[AccountId],
) -> Result<Vec<Arc<Lane>>, Vec<Diagnostic>> {
    let mut lanes: Vec<Arc<Lane>> = Vec::new();
    let mut mistakes = Vec::new();
    let paid: Vec<Address> =
        also_paid.iter().chain([&config.pay_to]).filter_map(|account| address(account.as_str())).collect();
    for source in &evm.signers {
        let location = match source {
            SignerSource::Key { location, .. } | SignerSource::Keystore { location, .. } => *location,
        };
        let mut mistake = |message: String, hint: Option<&str>| {
            mistakes.push(Diagnostic { location, message, hint: hint.map(str::to_owned) });
        };
        let signer = match read_key(source) {
            Ok(signer) => signer,
            Err(message) => {
                mistake(message, None);
                continue;
            }
        };
        let own = signer.address();
        if paid.contains(&own) {
            let message = format!("the gas payer {} is also a pay_to", own.to_checksum(None));
            mistake(message, Some("pay revenue to an account whose key the gateway doesn't hold"));
        } else if lanes.iter().any(|lane| lane.address == own) {
            mistake(format!("the gas payer {} is named twice", own.to_checksum(None)), None);
        } else if let Ok(account) = AccountId::new(own.to_checksum(None)) {
            lanes.push(Lane::new(account, own, Some(signer), Allowance::new(&evm.fees)));
        }
    }
    if lanes.is_empty() && mistakes.is_empty() {
        mistakes.push(mistake_at(config.location, "expected at least one signer"));
    }
    if mistakes.is_empty() { Ok(lanes) } else { Err(mistakes) }
}

pub(super) fn mistake_at(location: Location, message: impl Into<String>) -> Diagnostic {
    Diagnostic { location, message: message.into(), hint: None }
}

/// Never puts key material into a message.
fn read_key(source: &SignerSource) -> Result<PrivateKeySigner, String> {
    match source {
        SignerSource::Key { key, .. } => {
            let digits = key.expose().trim();
            let digits = digits.strip_prefix("0x").unwrap_or(digits);
            let bytes = alloy::hex::decode(digits).map(zeroize::Zeroizing::new).ok().filter(|bytes| bytes.len() == 32);
            let bytes = bytes.ok_or("expected a key of 32 bytes in hex")?;
            PrivateKeySigner::from_slice(&bytes).map_err(|_error| "the key is not a secp256k1 key".to_owned())
        }
        SignerSource::Keystore { path, password, .. } => PrivateKeySigner::decrypt_keystore(
            path,
            password.expose().trim_end_matches(['\r', '\n']),
        )
        .map_err(|_error| {
            format!("can't open the keystore {}: no such file, not a keystore, or a wrong password", path.display())
        }),
    }
}

/// Compares every asset and reads every gas payer's balance.
pub(super) async fn verify(inner: &Inner) -> Result<(), ChainError> {
    let network = &inner.network;
    let failed = |error: RpcError| of_rpc(network, error);
    inner.watch.refresh_head(&inner.rpc, std::time::Duration::ZERO).await.map_err(failed)?;
    let mut problems = Vec::new();
    for asset in &inner.config.assets {
        problems.extend(asset_problems(inner, asset).await.map_err(failed)?);
    }
    if !problems.is_empty() {
        return Err(ChainError::Mismatch { network: network.clone(), problems });
    }
    read_balances(inner).await.map_err(failed)?;
    inner.fees().await.map_err(failed)?;
    Ok(())
}

pub(super) fn of_rpc(network: &Network, error: RpcError) -> ChainError {
    match error {
        RpcError::WrongChain { .. } => {
            ChainError::Mismatch { network: network.clone(), problems: vec![error.to_string()] }
        }
        _ => ChainError::Unreachable { network: network.clone(), detail: error.to_string() },
    }
}

/// Reads the balances of all gas payers.
pub(super) async fn read_balances(inner: &Inner) -> Result<(), RpcError> {
    let calls = inner.lanes.iter().map(|lane| ("eth_getBalance", json!([lane.address, "latest"]))).collect();
    for (lane, result) in inner.lanes.iter().zip(inner.rpc.batch(calls).await?) {
        lane.set_balance(super::rpc::parse::<U256>("eth_getBalance", result?)?);
    }
    Ok(())
}

/// Everything about one asset that isn't as configured.
pub(super) async fn asset_problems(inner: &Inner, asset: &Asset) -> Result<Vec<String>, RpcError> {
    let id = asset.id.as_str();
    let Some(token) = address(id) else { return Ok(vec![format!("asset {id} is no address")]) };
    let Some(domain) = &asset.eip712 else { return Ok(vec![format!("asset {id} has no EIP-712 name and version")]) };
    let ask = |input: Vec<u8>| ("eth_call", json!([{"to": token, "input": Bytes::from(input)}, "latest"]));
    let calls = vec![
        ("eth_getCode", json!([token, "latest"])),
        ask(Token::decimalsCall {}.abi_encode()),
        ask(Token::DOMAIN_SEPARATORCall {}.abi_encode()),
        ask(Token::nameCall {}.abi_encode()),
        ask(Token::versionCall {}.abi_encode()),
        ask(Token::authorizationStateCall { authorizer: token, nonce: B256::ZERO }.abi_encode()),
    ];
    let mut results = inner.rpc.batch(calls).await?.into_iter();
    let mut next = || answer_of(results.next());
    if next()?.is_none_or(|code| code.is_empty()) {
        return Ok(vec![format!("asset {id} has no code")]);
    }
    let mut problems = Vec::new();
    let decimals = next()?.and_then(|answer| Token::decimalsCall::abi_decode_returns(&answer).ok());
    if decimals != Some(asset.decimals) {
        let found = decimals.map_or("none".to_owned(), |found| found.to_string());
        problems.push(format!("asset {id}: expected {} decimals, found {found}", asset.decimals));
    }
    let separator = next()?.and_then(|answer| Token::DOMAIN_SEPARATORCall::abi_decode_returns(&answer).ok());
    let name = next()?.and_then(|answer| Token::nameCall::abi_decode_returns(&answer).ok());
    let version = next()?.and_then(|answer| Token::versionCall::abi_decode_returns(&answer).ok());
    // The separator decides; name and version only help to see what is wrong with it.
    if separator != Some(domain_separator(domain, inner.chain_id, token)) {
        let shown = |found: Option<String>| found.map_or("nothing".to_owned(), |found| format!("{found:?}"));
        problems.push(format!(
            "asset {id}: DOMAIN_SEPARATOR() is not that of name {:?}, version {:?} on this chain; the token says name {}, version {}",
            domain.name,
            domain.version,
            shown(name),
            shown(version)
        ));
    }
    if next()?.and_then(|answer| Token::authorizationStateCall::abi_decode_returns(&answer).ok()) != Some(false) {
        problems.push(format!("asset {id} doesn't implement EIP-3009"));
    }
    Ok(problems)
}

/// A result's bytes; none where the contract said no; an error where nobody knows.
fn answer_of(result: Option<Result<Value, RpcError>>) -> Result<Option<Bytes>, RpcError> {
    match result {
        Some(Ok(value)) => Ok(serde_json::from_value(value).ok()),
        Some(Err(error)) if is_revert(&error) => Ok(None),
        Some(Err(error)) => Err(error),
        None => Ok(None),
    }
}
