//! Accounts and their money. Knows nothing of transactions.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::refusal::Refusal;

/// An account: 20 bytes, whatever prefix they are written with.
pub(super) type Address = Vec<u8>;

/// What is known of an account that was ever sent anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Its number, given once.
    pub number: u64,
    /// How many transactions it has signed.
    pub sequence: u64,
    /// Its key, known since its first transaction.
    pub public_key: Option<Vec<u8>>,
}

/// All accounts.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    accounts: BTreeMap<Address, Account>,
    balances: BTreeMap<(Address, String), u128>,
}

/// The account that fees go to.
pub(super) fn fee_collector() -> Address {
    Sha256::digest(b"fee_collector").iter().take(20).copied().collect()
}

impl State {
    pub(super) fn account(&self, address: &[u8]) -> Option<&Account> {
        self.accounts.get(address)
    }

    pub(super) fn account_mut(&mut self, address: &[u8]) -> Option<&mut Account> {
        self.accounts.get_mut(address)
    }

    pub(super) fn balance(&self, address: &[u8], denom: &str) -> u128 {
        self.balances.get(&(address.to_vec(), denom.to_owned())).copied().unwrap_or_default()
    }

    /// What there is of a denomination.
    pub(super) fn supply(&self, denom: &str) -> u128 {
        let of_denom = self.balances.iter().filter(|((_, held), _)| held == denom);
        of_denom.fold(0, |sum, (_, amount)| sum.saturating_add(*amount))
    }

    /// Gives an account money out of nothing; an account that wasn't there is, from now on.
    pub(super) fn give(&mut self, address: &[u8], denom: &str, amount: u128) {
        let number = u64::try_from(self.accounts.len()).unwrap_or(u64::MAX);
        self.accounts.entry(address.to_vec()).or_insert_with(|| Account { number, ..Account::default() });
        let balance = self.balances.entry((address.to_vec(), denom.to_owned())).or_default();
        *balance = balance.saturating_add(amount);
    }

    /// Takes money away.
    pub(super) fn take(&mut self, address: &[u8], denom: &str, amount: u128, spendable: &str) -> Result<(), Refusal> {
        let held = self.balance(address, denom);
        let rest = held.checked_sub(amount).ok_or_else(|| {
            Refusal::insufficient_funds(format!("{spendable}{held}{denom} is smaller than {amount}{denom}"))
        })?;
        self.balances.insert((address.to_vec(), denom.to_owned()), rest);
        Ok(())
    }
}
