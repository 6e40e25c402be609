//! Accounts as nodes show them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use solana_pubkey::Pubkey;
use solana_sdk::program_option::COption;
use solana_sdk::program_pack::Pack;
use spl_token_interface::state::{Account as TokenAccount, AccountState, Mint};
use svm_account::Account;

use super::chain::SolanaChain;
use crate::devnet::fault::Fault;

/// Most bytes of an account that are shown in base58, as nodes have it.
const BASE58_BYTES_MAX: usize = 128;
const TOKEN_2022: Pubkey = Pubkey::from_str_const("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb");

/// How bytes are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Encoding {
    #[serde(rename = "base58")]
    Base58,
    #[serde(rename = "base64")]
    Base64,
    #[serde(rename = "json")]
    Json,
    #[serde(rename = "jsonParsed")]
    JsonParsed,
}

/// What an account holds, for the balances around a transaction.
pub(super) struct Holding {
    pub(super) lamports: u64,
    token: Option<Value>,
}

/// A token account of either program; extensions are not looked at.
pub(super) fn token_account(account: &Account) -> Option<TokenAccount> {
    let is_token = [spl_token_interface::ID, TOKEN_2022].contains(&account.owner);
    let data = account.data.get(..TokenAccount::LEN).filter(|_| is_token)?;
    TokenAccount::unpack(data).ok()
}

impl SolanaChain {
    /// Decimals of a mint.
    fn decimals(&self, mint: &Pubkey) -> Option<u8> {
        let account = self.vm.account(mint)?;
        Mint::unpack(account.data.get(..Mint::LEN)?).ok().map(|mint| mint.decimals)
    }

    /// An amount of tokens.
    pub(super) fn token_amount(&self, token: &TokenAccount) -> Value {
        amount(token.amount, self.decimals(&token.mint).unwrap_or(0))
    }

    /// What accounts hold, in order.
    pub(super) fn holdings(&self, keys: &[Pubkey]) -> Vec<Holding> {
        let holding = |(index, key): (usize, &Pubkey)| {
            let account = self.vm.account(key);
            let token = account.as_ref().and_then(token_account).map(|token| {
                json!({
                    "accountIndex": index,
                    "mint": token.mint.to_string(),
                    "owner": token.owner.to_string(),
                    "programId": account.as_ref().map(|account| account.owner.to_string()),
                    "uiTokenAmount": self.token_amount(&token),
                })
            });
            Holding { lamports: account.map_or(0, |account| account.lamports), token }
        };
        keys.iter().enumerate().map(holding).collect()
    }

    /// An account; null where there is none.
    pub(super) fn show(&self, account: Option<&Account>, encoding: Option<Encoding>) -> Result<Value, Fault> {
        let Some(account) = account else { return Ok(Value::Null) };
        let base64 = || json!([STANDARD.encode(&account.data), "base64"]);
        let data = match encoding {
            Some(Encoding::JsonParsed) => self.parsed(account).unwrap_or_else(base64),
            Some(Encoding::Base64) => base64(),
            Some(Encoding::Json) => return Err(Fault::invalid_params("json is no encoding of an account")),
            Some(Encoding::Base58) | None if account.data.len() > BASE58_BYTES_MAX => {
                let why = "Encoded binary (base 58) data should be less than 128 bytes, please use Base64 encoding.";
                return Err(Fault::invalid_request(why));
            }
            Some(Encoding::Base58) => json!([bs58::encode(&account.data).into_string(), "base58"]),
            None => json!(bs58::encode(&account.data).into_string()),
        };
        Ok(json!({
            "lamports": account.lamports,
            "owner": account.owner.to_string(),
            "executable": account.executable,
            "rentEpoch": account.rent_epoch,
            "space": account.data.len(),
            "data": data,
        }))
    }

    /// Mints and token accounts of the classic program, which are all that are read here.
    fn parsed(&self, account: &Account) -> Option<Value> {
        if account.owner != spl_token_interface::ID {
            return None;
        }
        let (kind, info) = match account.data.len() {
            Mint::LEN => ("mint", mint_info(&Mint::unpack(&account.data).ok()?)),
            TokenAccount::LEN => ("account", self.account_info(&TokenAccount::unpack(&account.data).ok()?)),
            _ => return None,
        };
        let parsed = json!({"type": kind, "info": info});
        Some(json!({"program": "spl-token", "parsed": parsed, "space": account.data.len()}))
    }

    fn account_info(&self, token: &TokenAccount) -> Value {
        let state = match token.state {
            AccountState::Uninitialized => "uninitialized",
            AccountState::Initialized => "initialized",
            AccountState::Frozen => "frozen",
        };
        json!({
            "isNative": token.is_native.is_some(),
            "mint": token.mint.to_string(),
            "owner": token.owner.to_string(),
            "state": state,
            "tokenAmount": self.token_amount(token),
        })
    }
}

fn mint_info(mint: &Mint) -> Value {
    let authority = |key: COption<Pubkey>| match key {
        COption::Some(key) => Some(key.to_string()),
        COption::None => None,
    };
    json!({
        "decimals": mint.decimals,
        "freezeAuthority": authority(mint.freeze_authority),
        "isInitialized": mint.is_initialized,
        "mintAuthority": authority(mint.mint_authority),
        "supply": mint.supply.to_string(),
    })
}

/// The token balances among holdings.
pub(super) fn token_balances(holdings: &[Holding]) -> Vec<&Value> {
    holdings.iter().filter_map(|holding| holding.token.as_ref()).collect()
}

/// Atomic units, and the same with a point in it.
pub(super) fn amount(units: u64, decimals: u8) -> Value {
    let width = usize::from(decimals);
    let digits = format!("{units:0>width$}", width = width.saturating_add(1));
    let (whole, part) = digits.split_at(digits.len().saturating_sub(width));
    let part = part.trim_end_matches('0');
    let text = if part.is_empty() { whole.to_owned() } else { format!("{whole}.{part}") };
    // The field is a float, for eyes only.
    let number: Option<f64> = text.parse().ok();
    json!({"amount": units.to_string(), "decimals": decimals, "uiAmount": number, "uiAmountString": text})
}
