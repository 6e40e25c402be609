//! A payment on Solana: the transaction that official clients build (protocol §4), signed by the payer, with the fee
//! payer's signature left open.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Client, Url};
use serde_json::{Value, json};
use solana_keypair::Keypair;
use solana_message::{VersionedMessage, v0};
use solana_pubkey::Pubkey;
use solana_sdk::hash::Hash;
use solana_sdk::instruction::{AccountMeta, Instruction};
use solana_sdk::signature::Signature;
use solana_signer::Signer;
use solana_transaction::versioned::VersionedTransaction;
use spl_associated_token_account_interface::address::get_associated_token_address_with_program_id as token_account;

use super::choose::Spl;

/// Where the node's address may be.
pub const RPC_VARIABLE: &str = "TOLLHOUSE_RPC_URL";

/// Longest time that a transaction can land after its block hash was asked for: 150 blocks, of a second where the chain is
/// slow.
pub const LIFETIME_SECS: u64 = 150;

const COMPUTE_BUDGET: Pubkey = Pubkey::from_str_const("ComputeBudget111111111111111111111111111111");
const MEMO: Pubkey = Pubkey::from_str_const("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr");
const TOKEN: Pubkey = Pubkey::from_str_const("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA");
const TOKEN_2022: Pubkey = Pubkey::from_str_const("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb");

/// What official clients ask for.
const COMPUTE_UNITS: u32 = 20_000;
const MICROLAMPORTS_PER_UNIT: u64 = 1;

/// SPL Token's mint: supply at 36, decimals at 44, whether it is initialized at 45.
const DECIMALS_AT: usize = 44;
const INITIALIZED_AT: usize = 45;

/// Longest wait for the node, and longest answer of it.
const RPC_TIMEOUT: Duration = Duration::from_secs(20);
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why no transaction could be made.
#[derive(Debug, thiserror::Error)]
pub enum SolanaError {
    /// No node to ask.
    #[error("a payment on Solana starts from a recent block: name a node with --rpc-url URL or in {RPC_VARIABLE}")]
    NoNode,
    /// The node doesn't answer, or not as a node does.
    #[error("can't ask the Solana node for {0}: {1}")]
    Node(&'static str, String),
    /// The offered asset isn't what it should be.
    #[error("the offered asset {0} is no mint of a token program on the node's chain")]
    NoMint(Pubkey),
    /// More than a transfer can move.
    #[error("the amount is larger than a token account can hold")]
    Amount,
    /// The transaction can't be put together.
    #[error("the transaction can't be made: {0}")]
    Transaction(String),
    /// The server would have the payer pay the fee.
    #[error("the server names the payer's own account as the one that pays the fee")]
    OwnFee,
}

/// What only a node knows.
#[derive(Debug, Clone, Copy)]
pub struct Recent {
    /// A recent block's.
    pub blockhash: Hash,
    /// Token or Token-2022: the mint's owner.
    pub token_program: Pubkey,
    /// The mint's.
    pub decimals: u8,
}

/// Asks a node for what a transfer of this mint needs.
///
/// # Errors
/// When the node can't tell, or knows no such mint.
pub async fn recent(client: &Client, node: &Url, mint: &Pubkey) -> Result<Recent, SolanaError> {
    let answer = call(client, node, "getLatestBlockhash", json!([{"commitment": "confirmed"}])).await?;
    let blockhash = text(&answer, "/value/blockhash")
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| SolanaError::Node("getLatestBlockhash", "no block hash in its answer".to_owned()))?;
    let params = json!([mint.to_string(), {"commitment": "confirmed", "encoding": "base64"}]);
    let account = call(client, node, "getAccountInfo", params).await?;
    let token_program = text(&account, "/value/owner").and_then(|text| text.parse().ok());
    let data = text(&account, "/value/data/0").and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    match (token_program, data.get(DECIMALS_AT), data.get(INITIALIZED_AT)) {
        (Some(token_program @ (TOKEN | TOKEN_2022)), Some(decimals), Some(1)) => {
            Ok(Recent { blockhash, token_program, decimals: *decimals })
        }
        _ => Err(SolanaError::NoMint(*mint)),
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

async fn call(client: &Client, node: &Url, method: &'static str, params: Value) -> Result<Value, SolanaError> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let failed = |error: reqwest::Error| SolanaError::Node(method, error.without_url().to_string());
    let request = client.post(node.clone()).header("content-type", "application/json").body(body).timeout(RPC_TIMEOUT);
    let mut response = request.send().await.map_err(failed)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if bytes.len().saturating_add(chunk.len()) > ANSWER_BYTES_MAX {
            return Err(SolanaError::Node(method, format!("its answer is longer than {ANSWER_BYTES_MAX} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    let answer: Value = serde_json::from_slice(&bytes)
        .map_err(|_error| SolanaError::Node(method, format!("HTTP {} without JSON", response.status().as_u16())))?;
    match answer.get("result") {
        Some(result) => Ok(result.clone()),
        None => {
            let why = text(&answer, "/error/message").unwrap_or("no result");
            Err(SolanaError::Node(method, why.to_owned()))
        }
    }
}

/// The payment in base64: a transfer and a memo that makes it one of its kind, signed by the payer.
///
/// # Errors
/// When the transaction would not be one that the gateway may take.
pub fn transaction(key: &Keypair, spl: &Spl, amount: u64, recent: &Recent, nonce: &str) -> Result<String, SolanaError> {
    let payer = key.pubkey();
    if payer == spl.fee_payer {
        return Err(SolanaError::OwnFee);
    }
    let instructions = [
        compute_budget(2, &COMPUTE_UNITS.to_le_bytes()),
        compute_budget(3, &MICROLAMPORTS_PER_UNIT.to_le_bytes()),
        transfer_checked(&payer, spl, amount, recent),
        Instruction {
            program_id: MEMO,
            accounts: Vec::new(),
            data: spl.memo.as_deref().unwrap_or(nonce).as_bytes().to_vec(),
        },
    ];
    let failed = |error: &dyn std::fmt::Display| SolanaError::Transaction(error.to_string());
    let message = v0::Message::try_compile(&spl.fee_payer, &instructions, &[], recent.blockhash)
        .map_err(|error| failed(&error))?;
    let signer_at = message.account_keys.iter().position(|account| *account == payer);
    let mut signatures = vec![Signature::default(); usize::from(message.header.num_required_signatures)];
    let message = VersionedMessage::V0(message);
    let slot = signer_at.and_then(|at| signatures.get_mut(at)).ok_or_else(|| failed(&"the payer signs nothing"))?;
    *slot = key.sign_message(&message.serialize());
    let bytes = wincode::serialize(&VersionedTransaction { signatures, message }).map_err(|error| failed(&error))?;
    Ok(STANDARD.encode(bytes))
}

fn compute_budget(instruction: u8, value: &[u8]) -> Instruction {
    Instruction { program_id: COMPUTE_BUDGET, accounts: Vec::new(), data: [&[instruction], value].concat() }
}

/// SPL Token's instruction 12, which names mint and decimals: it can't move another token.
fn transfer_checked(payer: &Pubkey, spl: &Spl, amount: u64, recent: &Recent) -> Instruction {
    let account = |owner: &Pubkey| token_account(owner, &spl.mint, &recent.token_program);
    Instruction {
        program_id: recent.token_program,
        accounts: vec![
            AccountMeta::new(account(payer), false),
            AccountMeta::new_readonly(spl.mint, false),
            AccountMeta::new(account(&spl.pay_to), false),
            AccountMeta::new_readonly(*payer, true),
        ],
        data: [&[12], &amount.to_le_bytes()[..], &[recent.decimals]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::choose::{Method, choose};
    use super::super::{fixtures, terms};
    use super::*;
    use crate::types::ChainKind;

    fn spl(memo: Option<&str>) -> Spl {
        let mut offer = fixtures::solana_offer("10000");
        if let Some(memo) = memo {
            offer["extra"]["memo"] = memo.into();
        }
        let (header, _) = fixtures::terms_402(&[offer]);
        let terms = terms::read(Some(header.as_bytes()), b"", false).unwrap();
        match choose(&terms.offers, ChainKind::Solana, None, &"$0.10".parse().unwrap()).unwrap().method {
            Method::Spl(spl) => spl,
            _ => panic!("not Solana"),
        }
    }

    fn made(memo: Option<&str>, token_program: Pubkey) -> VersionedTransaction {
        let recent = Recent { blockhash: Hash::new_from_array([7; 32]), token_program, decimals: 6 };
        let key = Keypair::new_from_array([1; 32]);
        let text = transaction(&key, &spl(memo), 10_000, &recent, "0123456789abcdef").unwrap();
        wincode::deserialize(&STANDARD.decode(text).unwrap()).unwrap()
    }

    #[test]
    fn the_transaction_has_the_instructions_that_official_clients_send() {
        for (program, memo) in [(TOKEN, None), (TOKEN_2022, Some("order 7"))] {
            let made = made(memo, program);
            let keys = made.message.static_account_keys();
            let seen: Vec<(Pubkey, Vec<u8>)> = made
                .message
                .instructions()
                .iter()
                .map(|instruction| (keys[usize::from(instruction.program_id_index)], instruction.data.clone()))
                .collect();
            let transfer = [&[12][..], &10_000_u64.to_le_bytes(), &[6]].concat();
            let text = memo.unwrap_or("0123456789abcdef").as_bytes().to_vec();
            assert_eq!(
                seen,
                [
                    (COMPUTE_BUDGET, vec![2, 0x20, 0x4e, 0, 0]),
                    (COMPUTE_BUDGET, vec![3, 1, 0, 0, 0, 0, 0, 0, 0]),
                    (program, transfer),
                    (MEMO, text),
                ]
            );
            let transfer = &made.message.instructions()[2];
            let accounts: Vec<Pubkey> = transfer.accounts.iter().map(|at| keys[usize::from(*at)]).collect();
            let (payer, spl) = (Keypair::new_from_array([1; 32]).pubkey(), spl(memo));
            let account = |owner| token_account(&owner, &spl.mint, &program);
            assert_eq!(accounts, [account(payer), spl.mint, account(spl.pay_to), payer]);
        }
    }

    #[test]
    fn the_payer_signs_and_the_fee_payer_is_left_to() {
        let made = made(None, TOKEN);
        let keys = made.message.static_account_keys();
        assert_eq!(keys[0], spl(None).fee_payer);
        assert_eq!(made.signatures[0], Signature::default());
        assert_eq!(made.signatures.len(), 2);
        assert!(made.signatures[1].verify(keys[1].as_array(), &made.message.serialize()));
        // The fee payer's account is in no instruction.
        assert!(made.message.instructions().iter().all(|instruction| !instruction.accounts.contains(&0)));
    }

    #[test]
    fn a_payer_is_not_made_to_pay_the_fee() {
        let recent = Recent { blockhash: Hash::default(), token_program: TOKEN, decimals: 6 };
        let key = Keypair::new_from_array([1; 32]);
        let own = Spl { fee_payer: key.pubkey(), ..spl(None) };
        assert!(matches!(transaction(&key, &own, 1, &recent, "x"), Err(SolanaError::OwnFee)));
    }
}
