//! Before business opens: keys from the configuration, and the chain as the configuration says it is.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use solana_keypair::{Keypair, read_keypair};
use solana_pubkey::Pubkey;
use solana_signer::Signer;

use super::programs::{TOKEN, TOKEN_2022};
use super::{FeePayer, Inner, Token};
use crate::chain::ChainError;
use crate::chain::jsonrpc::RpcError;
use crate::chain::skew::Sighting;
use crate::chain::spending::Allowance;
use crate::config::{Diagnostic, Location, NetworkConfig, SignerSource, SolanaConfig};
use crate::types::{AccountId, Network};

/// How much older than the local clock a new block's time may be, besides what any skew may be: a cluster's time is a mean of
/// its validators' and is rounded to seconds.
const CLOCK_GRAIN: Duration = Duration::from_secs(2);
/// Token-2022 extensions that change nothing about how many tokens arrive, and whether: metadata, how amounts are shown, who
/// may close an empty mint, and secret transfers, which ours are not. Any other must be allowed by name.
const HARMLESS: [&str; 10] = [
    "metadataPointer",
    "tokenMetadata",
    "groupPointer",
    "tokenGroup",
    "groupMemberPointer",
    "tokenGroupMember",
    "interestBearingConfig",
    "scaledUiAmountConfig",
    "mintCloseAuthority",
    "confidentialTransferMint",
];
/// The same of a token account.
const HARMLESS_OF_ACCOUNTS: [&str; 7] = [
    "immutableOwner",
    "cpiGuard",
    "transferFeeAmount",
    "transferHookAccount",
    "pausableAccount",
    "confidentialTransferAccount",
    "confidentialTransferFeeAmount",
];

/// Reads the fee payers' keys.
///
/// # Errors
/// Every key that can't be read, is named twice, or belongs to an account that is also paid (promise 4: revenue never
/// lands at a key that this process holds).
pub(super) fn signers(
    config: &NetworkConfig,
    solana: &SolanaConfig,
    also_paid: &[AccountId],
) -> Result<Vec<Arc<FeePayer>>, Vec<Diagnostic>> {
    let mut fee_payers: Vec<Arc<FeePayer>> = Vec::new();
    let mut mistakes = Vec::new();
    let is_paid = |text: &str| also_paid.iter().chain([&config.pay_to]).any(|account| account.as_str() == text);
    for source in &solana.signers {
        let (SignerSource::Key { location, .. } | SignerSource::Keystore { location, .. }) = source;
        let mut mistake = |message: String, hint: Option<&str>| {
            mistakes.push(Diagnostic { location: *location, message, hint: hint.map(str::to_owned) });
        };
        let keypair = match read_key(source) {
            Ok(keypair) => keypair,
            Err(message) => {
                mistake(message, Some("solana-keygen writes such a file"));
                continue;
            }
        };
        let text = keypair.pubkey().to_string();
        if is_paid(&text) {
            let hint = "pay revenue to an account whose key the gateway doesn't hold";
            mistake(format!("the fee payer {text} is also a pay_to"), Some(hint));
        } else if fee_payers.iter().any(|known| known.key == keypair.pubkey()) {
            mistake(format!("the fee payer {text} is named twice"), None);
        } else if let Ok(account) = AccountId::new(text) {
            fee_payers.push(Arc::new(FeePayer::new(account, keypair, Allowance::new(&solana.fees))));
        }
    }
    if fee_payers.is_empty() && mistakes.is_empty() {
        mistakes.push(mistake_at(config.location, "expected at least one signer"));
    }
    if mistakes.is_empty() { Ok(fee_payers) } else { Err(mistakes) }
}

pub(super) fn mistake_at(location: Location, message: impl Into<String>) -> Diagnostic {
    Diagnostic { location, message: message.into(), hint: None }
}

/// Never puts key material into a message.
fn read_key(source: &SignerSource) -> Result<Keypair, String> {
    let SignerSource::Key { key, .. } = source else {
        return Err("a Solana signer has no encrypted keystore; name its keypair file".to_owned());
    };
    let text = key.expose().trim();
    let keypair = if text.starts_with('[') {
        read_keypair(&mut text.as_bytes()).ok()
    } else {
        Keypair::try_from_base58_string(text).ok()
    };
    keypair.ok_or_else(|| "expected a keypair: 64 bytes in base58, or as a JSON array".to_owned())
}

/// Compares every asset and every payee's token account, and reads the fee payers' balances.
pub(super) async fn verify(inner: &Inner) -> Result<(), ChainError> {
    let network = &inner.network;
    let failed = |error: RpcError| of_rpc(network, error);
    inner.watch.refresh_head(&inner.rpc, Duration::ZERO).await.map_err(failed)?;
    let (programs, problems) = check_assets(inner).await.map_err(failed)?;
    if !problems.is_empty() {
        return Err(ChainError::Mismatch { network: network.clone(), problems });
    }
    read_balances(inner).await.map_err(failed)?;
    read_clock(inner).await;
    *inner.programs.lock().unwrap_or_else(PoisonError::into_inner) = programs;
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

/// Compares the cluster's clock with the local one. A node that doesn't tell leaves the network open.
pub(super) async fn read_clock(inner: &Inner) {
    let confirmed = json!([{"commitment": "confirmed"}]);
    let Ok(slot) = inner.rpc.call::<u64>("getSlot", confirmed).await else { return };
    let seen_at = Instant::now();
    let time: Result<Option<u64>, RpcError> = inner.rpc.call("getBlockTime", json!([slot])).await;
    if let Ok(Some(timestamp)) = time {
        let seen = Sighting { number: slot, timestamp, seen_at };
        inner.skew.compare(&inner.network, seen, CLOCK_GRAIN, inner.clock.now());
    }
}

/// Reads the balances of all fee payers.
pub(super) async fn read_balances(inner: &Inner) -> Result<(), RpcError> {
    let keys: Vec<Pubkey> = inner.fee_payers.iter().map(|fee_payer| fee_payer.key).collect();
    for (fee_payer, account) in inner.fee_payers.iter().zip(accounts(inner, &keys).await?) {
        fee_payer.set_balance(account.map_or(0, |account| account.lamports));
    }
    Ok(())
}

#[derive(Deserialize)]
struct Accounts {
    value: Vec<Option<Account>>,
}

#[derive(Deserialize)]
pub(super) struct Account {
    lamports: u64,
    owner: String,
    data: Value,
}

impl Account {
    /// The token program that owns it, if one does.
    fn token_program(&self) -> Option<Pubkey> {
        self.owner.parse().ok().filter(|owner| [TOKEN, TOKEN_2022].contains(owner))
    }

    /// What the node read in it, if it is a `kind`.
    pub(super) fn info(&self, kind: &str) -> Option<&Value> {
        let parsed = self.data.get("parsed")?;
        (parsed.get("type")?.as_str()? == kind).then(|| parsed.get("info")).flatten()
    }
}

/// Accounts as the node reads them, in order; none where there is no account.
pub(super) async fn accounts(inner: &Inner, keys: &[Pubkey]) -> Result<Vec<Option<Account>>, RpcError> {
    const ACCOUNTS_AT_ONCE_MAX: usize = 100;
    let mut found = Vec::with_capacity(keys.len());
    for some in keys.chunks(ACCOUNTS_AT_ONCE_MAX) {
        let texts: Vec<String> = some.iter().map(Pubkey::to_string).collect();
        let params = json!([texts, {"encoding": "jsonParsed", "commitment": "confirmed"}]);
        let answer: Accounts = inner.rpc.call("getMultipleAccounts", params).await?;
        if answer.value.len() != some.len() {
            return Err(RpcError::Transport("getMultipleAccounts gave another number of accounts".to_owned()));
        }
        found.extend(answer.value);
    }
    Ok(found)
}

/// Each mint's program, and everything that isn't as configured.
pub(super) async fn check_assets(inner: &Inner) -> Result<(HashMap<Pubkey, Pubkey>, Vec<String>), RpcError> {
    let tokens = &inner.config.assets;
    let mints: Vec<Pubkey> = tokens.iter().map(|token| token.mint).collect();
    let mut programs = HashMap::new();
    let mut problems = Vec::new();
    for (token, account) in tokens.iter().zip(accounts(inner, &mints).await?) {
        match check_mint(token, account.as_ref(), &mut problems) {
            Some(program) => {
                programs.insert(token.mint, program);
            }
            None => problems.push(format!("asset {} is no mint of a token program", token.mint)),
        }
    }
    let mut wanted = Vec::new();
    for token in tokens {
        if let Some(program) = programs.get(&token.mint) {
            wanted.extend(inner.config.paid.iter().map(|owner| (token, *owner, *program)));
        }
    }
    let keys: Vec<Pubkey> =
        wanted.iter().map(|(token, owner, program)| inner.token_account(*owner, token.mint, *program)).collect();
    for (((token, owner, program), key), account) in wanted.iter().zip(&keys).zip(accounts(inner, &keys).await?) {
        problems.extend(account_problem(token, owner, program, key, account.as_ref()));
    }
    Ok((programs, problems))
}

/// The mint's program, if it is a mint.
pub(super) fn check_mint(token: &Token, account: Option<&Account>, problems: &mut Vec<String>) -> Option<Pubkey> {
    let account = account?;
    let program = account.token_program()?;
    let info = account.info("mint")?;
    let decimals = info.get("decimals").and_then(Value::as_u64)?;
    let mint = token.mint;
    if decimals != u64::from(token.decimals) {
        problems.push(format!("asset {mint}: expected {} decimals, found {decimals}", token.decimals));
    }
    if info.get("isInitialized").and_then(Value::as_bool) != Some(true) {
        problems.push(format!("asset {mint} is not initialized"));
    }
    for (name, state) in extensions(info) {
        let is_harmless = HARMLESS.contains(&name)
            || (name == "defaultAccountState"
                && state.and_then(|state| state.get("accountState")).and_then(Value::as_str) == Some("initialized"));
        if !is_harmless && !token.allowed_extensions.iter().any(|allowed| allowed == name) {
            problems.push(format!(
                "asset {mint} has the Token-2022 extension {name}, which can keep payments from arriving whole; \
                 allow it by name if that is understood"
            ));
        }
    }
    Some(program)
}

/// Names and states of an account's extensions.
fn extensions(info: &Value) -> impl Iterator<Item = (&str, Option<&Value>)> {
    let list = info.get("extensions").and_then(Value::as_array).into_iter().flatten();
    list.map(|it| (it.get("extension").and_then(Value::as_str).unwrap_or("unknown"), it.get("state")))
}

/// What keeps a payee's token account from being paid into, if anything does.
pub(super) fn account_problem(
    token: &Token,
    owner: &Pubkey,
    program: &Pubkey,
    key: &Pubkey,
    account: Option<&Account>,
) -> Option<String> {
    let mint = token.mint;
    let Some(account) = account else {
        let program = if *program == TOKEN { String::new() } else { format!(" --program-id {program}") };
        return Some(format!(
            "{owner} has no token account for {mint}; create it with: \
             spl-token create-account {mint} --owner {owner} --fee-payer KEYPAIR{program}"
        ));
    };
    let info = account.info("account").filter(|_| account.token_program() == Some(*program));
    let text = |name: &str| info.and_then(|info| info.get(name)).and_then(Value::as_str);
    if text("mint") != Some(&mint.to_string()) || text("owner") != Some(&owner.to_string()) {
        return Some(format!("{key} is not the token account of {owner} for {mint}"));
    }
    if text("state") != Some("initialized") {
        return Some(format!("the token account {key} of {owner} is {}", text("state").unwrap_or("unreadable")));
    }
    let found = extensions(info?).find(|(name, state)| {
        // The one that refuses payments without a memo does so only while it is switched on.
        let is_off = state.and_then(|state| state.get("requireIncomingTransferMemos")) == Some(&Value::Bool(false));
        let is_harmless = HARMLESS_OF_ACCOUNTS.contains(name) || (*name == "memoTransfer" && is_off);
        !is_harmless && !token.allowed_extensions.iter().any(|allowed| allowed == name)
    });
    found.map(|(name, _)| format!("the token account {key} of {owner} has the extension {name}; allow it by name"))
}
