//! What a chain keeps of an account: its number, which never changes, and its sequence, which every transaction moves on.

use std::time::Duration;

use cosmrs::proto::Any;
use cosmrs::proto::cosmos::auth::v1beta1::{BaseAccount, QueryAccountRequest, QueryAccountResponse};
use cosmrs::proto::cosmos::crypto::secp256k1::PubKey;
use cosmrs::proto::cosmos::vesting::v1beta1::{
    BaseVestingAccount, ContinuousVestingAccount, DelayedVestingAccount, PeriodicVestingAccount, PermanentLockedAccount,
};
use cosmrs::proto::prost::{Message, Name};

use super::Inner;
use super::decode::{Decoded, SECP256K1};
use super::rpc::{Node, RpcError};
use super::sign_bytes::is_signed;
use super::verify::unavailable;
use crate::payment::scheme::VerifyError;
use crate::protocol::Reason;

/// How long an account's number is remembered: for ever would be right, but for chains that begin anew.
const NUMBER_HOLDS: Duration = Duration::from_secs(600);

/// How long it is believed that an account doesn't exist (threat F6).
const STRANGER_HOLDS: Duration = Duration::from_secs(3);

/// Reads an account of the kinds that a single key signs for.
fn base_account(answer: QueryAccountResponse) -> Option<BaseAccount> {
    let account = answer.account?;
    let vesting = |vesting: Option<BaseVestingAccount>| vesting?.base_account;
    read::<BaseAccount>(&account)
        .or_else(|| vesting(read::<ContinuousVestingAccount>(&account)?.base_vesting_account))
        .or_else(|| vesting(read::<DelayedVestingAccount>(&account)?.base_vesting_account))
        .or_else(|| vesting(read::<PeriodicVestingAccount>(&account)?.base_vesting_account))
        .or_else(|| vesting(read::<PermanentLockedAccount>(&account)?.base_vesting_account))
}

/// The message in an `Any`, if it is of this type.
fn read<M: Message + Name + Default>(any: &Any) -> Option<M> {
    let is_named = any.type_url.strip_prefix('/').is_some_and(|name| name == M::full_name());
    if is_named { M::decode(any.value.as_slice()).ok() } else { None }
}

/// Whether the key that the chain keeps for an account, if it keeps one yet, is the one that signed.
fn has_key(account: &BaseAccount, decoded: &Decoded) -> bool {
    let Some(any) = &account.pub_key else { return true };
    let key = PubKey { key: decoded.public_key.to_encoded_point(true).as_bytes().to_vec() };
    any.type_url == SECP256K1 && any.value == key.encode_to_vec()
}

fn question(decoded: &Decoded) -> QueryAccountRequest {
    QueryAccountRequest { address: decoded.facts.payer.as_str().to_owned() }
}

impl Inner {
    /// The payer's account, as the chain has it now.
    async fn account(&self, decoded: &Decoded) -> Result<BaseAccount, VerifyError> {
        let answer = self.rpc.call(question(decoded)).await.map_err(|error| {
            if error.is_not_found() {
                self.strangers.put(decoded.facts.payer.clone(), (), STRANGER_HOLDS);
                Reason::CosmosAccountNotFound.into()
            } else {
                unavailable(error)
            }
        })?;
        let account = base_account(answer).filter(|account| has_key(account, decoded)).ok_or(Reason::CosmosSigner)?;
        if account.address != decoded.facts.payer.as_str() {
            return Err(VerifyError::Unavailable { detail: "node answered with another account".to_owned() });
        }
        self.account_numbers.put(decoded.facts.payer.clone(), account.account_number, NUMBER_HOLDS);
        Ok(account)
    }

    /// The payer's account number; remembered, and asked for only so often.
    pub(super) async fn account_number(&self, decoded: &Decoded) -> Result<u64, VerifyError> {
        if let Some(number) = self.account_numbers.get(&decoded.facts.payer) {
            return Ok(number);
        }
        if self.strangers.get(&decoded.facts.payer).is_some() {
            return Err(Reason::CosmosAccountNotFound.into());
        }
        if !self.look_ups.take() {
            return Err(VerifyError::Unavailable { detail: "too many look-ups of unknown payers".to_owned() });
        }
        Ok(self.account(decoded).await?.account_number)
    }

    /// The sequence that the payer's next transaction must have. The number that the signature was checked with may have been
    /// remembered from before the chain began anew, and a simulation checks no signature: so it is checked again.
    pub(super) async fn sequence(&self, decoded: &Decoded) -> Result<u64, VerifyError> {
        let account = self.account(decoded).await?;
        if !is_signed(decoded, self.network.reference(), account.account_number) {
            return Err(Reason::CosmosSignature.into());
        }
        Ok(account.sequence)
    }
}

/// The payer's sequence as one node has it, after this block if one is given.
pub(super) async fn sequence_at(node: Node<'_>, decoded: &Decoded, height: Option<u64>) -> Result<u64, RpcError> {
    let answer = match height {
        Some(height) => node.call_at(question(decoded), height).await,
        None => node.call(question(decoded)).await,
    };
    let account = base_account(answer?)
        .filter(|account| account.address == decoded.facts.payer.as_str())
        .ok_or_else(|| RpcError::Transport("node gave no account".to_owned()))?;
    Ok(account.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any<M: Message + Name>(message: &M) -> QueryAccountResponse {
        let account = Any { type_url: format!("/{}", M::full_name()), value: message.encode_to_vec() };
        QueryAccountResponse { account: Some(account) }
    }

    #[test]
    fn plain_and_vesting_accounts_are_read_and_others_are_not() {
        let base =
            BaseAccount { address: "noble1x".to_owned(), account_number: 7, sequence: 3, ..BaseAccount::default() };
        let base_vesting_account =
            Some(BaseVestingAccount { base_account: Some(base.clone()), ..BaseVestingAccount::default() });
        assert_eq!(base_account(any(&base)), Some(base.clone()));
        let delayed = DelayedVestingAccount { base_vesting_account: base_vesting_account.clone() };
        assert_eq!(base_account(any(&delayed)), Some(base.clone()));
        let continuous = ContinuousVestingAccount { base_vesting_account: base_vesting_account.clone(), start_time: 1 };
        assert_eq!(base_account(any(&continuous)), Some(base.clone()));
        let periodic =
            PeriodicVestingAccount { base_vesting_account: base_vesting_account.clone(), ..Default::default() };
        assert_eq!(base_account(any(&periodic)), Some(base.clone()));
        let locked = PermanentLockedAccount { base_vesting_account };
        assert_eq!(base_account(any(&locked)), Some(base.clone()));
        let mut module = any(&base);
        module.account.as_mut().unwrap().type_url = "/cosmos.auth.v1beta1.ModuleAccount".to_owned();
        assert_eq!(base_account(module), None);
        assert_eq!(base_account(QueryAccountResponse::default()), None);
    }
}
