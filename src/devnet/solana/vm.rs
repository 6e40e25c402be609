//! The SVM and its accounts. It only executes: signatures, ages and duplicates are seen to before.
//!
//! Its crates are of another major version than the gateway's, so transactions cross over as bytes.

use litesvm::LiteSVM;
use litesvm::types::{FailedTransactionMetadata, TransactionMetadata};
use solana_pubkey::Pubkey;
use solana_sdk::program_option::COption;
use solana_sdk::program_pack::Pack;
use solana_transaction::versioned::VersionedTransaction;
use spl_associated_token_account_interface::address::get_associated_token_address;
use spl_token_interface::state::{Account as TokenAccount, AccountState, Mint};
use svm_account::Account;
use svm_transaction::versioned::VersionedTransaction as Executable;

use super::chain::SolanaError;

/// Devnet's USDC: wallets and clients accept no other there.
pub const USDC: Pubkey = Pubkey::from_str_const("4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU");
const DECIMALS: u8 = 6;

/// How an execution ended: what it gave, or how it failed and whether it is in a block and cost its fee.
pub(super) type Executed = Result<TransactionMetadata, (FailedTransactionMetadata, bool)>;

/// What a simulation gave.
pub(super) struct Simulated {
    pub(super) meta: TransactionMetadata,
    pub(super) error: Option<serde_json::Value>,
    /// The accounts as they would be afterwards; none where it failed.
    pub(super) accounts: Vec<(Pubkey, Account)>,
}

/// All accounts and what runs on them.
pub(super) struct Vm(LiteSVM);

impl Vm {
    pub(super) fn new() -> Result<Self, SolanaError> {
        let mut vm = Self(LiteSVM::new().with_sigverify(false).with_blockhash_check(false));
        vm.put_mint(0)?;
        Ok(vm)
    }

    pub(super) fn account(&self, key: &Pubkey) -> Option<Account> {
        self.0.get_account(key).filter(|account| account.lamports > 0)
    }

    pub(super) fn rent(&self, bytes: usize) -> u64 {
        self.0.minimum_balance_for_rent_exemption(bytes)
    }

    pub(super) fn at_slot(&mut self, slot: u64) {
        self.0.warp_to_slot(slot);
    }

    fn put(&mut self, key: Pubkey, account: Account) -> Result<(), SolanaError> {
        self.0.set_account(key, account).map_err(|error| SolanaError::Account(error.to_string()))
    }

    fn put_packed<T: Pack>(&mut self, key: Pubkey, state: T) -> Result<(), SolanaError> {
        let mut data = vec![0; T::LEN];
        T::pack(state, &mut data).map_err(|error| SolanaError::Account(error.to_string()))?;
        let lamports = self.rent(T::LEN);
        self.put(
            key,
            Account { lamports, data, owner: spl_token_interface::ID, executable: false, rent_epoch: u64::MAX },
        )
    }

    fn put_mint(&mut self, supply: u64) -> Result<(), SolanaError> {
        let mint = Mint {
            mint_authority: COption::None,
            supply,
            decimals: DECIMALS,
            is_initialized: true,
            freeze_authority: COption::None,
        };
        self.put_packed(USDC, mint)
    }

    /// Gives lamports.
    pub(super) fn fund(&mut self, owner: Pubkey, lamports: u64) -> Result<(), SolanaError> {
        let mut account = self.account(&owner).unwrap_or_default();
        account.lamports = account.lamports.checked_add(lamports).ok_or(SolanaError::Overflow)?;
        self.put(owner, account)
    }

    /// Gives USDC, and the token account that holds it.
    pub(super) fn fund_usdc(&mut self, owner: Pubkey, units: u64) -> Result<(), SolanaError> {
        let unpacked = |account: Option<Account>| account.and_then(|account| Mint::unpack(&account.data).ok());
        let supply = unpacked(self.account(&USDC)).map_or(0, |mint| mint.supply);
        let key = get_associated_token_address(&owner, &USDC);
        let held = self.account(&key).and_then(|account| TokenAccount::unpack(&account.data).ok());
        let amount = held.map_or(0, |account| account.amount).checked_add(units).ok_or(SolanaError::Overflow)?;
        self.put_mint(supply.checked_add(units).ok_or(SolanaError::Overflow)?)?;
        let account = TokenAccount {
            mint: USDC,
            owner,
            amount,
            delegate: COption::None,
            state: AccountState::Initialized,
            is_native: COption::None,
            delegated_amount: 0,
            close_authority: COption::None,
        };
        self.put_packed(key, account)
    }

    /// Runs a transaction for good.
    pub(super) fn execute(&mut self, transaction: &VersionedTransaction) -> Result<Executed, SolanaError> {
        let executable = executable(transaction)?;
        let result = self.0.send_transaction(executable);
        Ok(result.map_err(|failed| {
            // What can't pay its fee is in no block.
            let is_included = self.0.get_transaction(&failed.meta.signature).is_some();
            (failed, is_included)
        }))
    }

    /// Runs a transaction for its result only.
    pub(super) fn simulate(&self, transaction: &VersionedTransaction) -> Result<Simulated, SolanaError> {
        Ok(match self.0.simulate_transaction(executable(transaction)?) {
            Ok(info) => {
                let accounts = info.post_accounts.into_iter().map(|(key, account)| (key, account.into())).collect();
                Simulated { meta: info.meta, error: None, accounts }
            }
            Err(failed) => Simulated { error: Some(error_json(&failed)?), meta: failed.meta, accounts: Vec::new() },
        })
    }
}

/// A transaction's error as nodes spell it.
pub(super) fn error_json(failed: &FailedTransactionMetadata) -> Result<serde_json::Value, SolanaError> {
    serde_json::to_value(&failed.err).map_err(|error| SolanaError::Transaction(error.to_string()))
}

fn executable(transaction: &VersionedTransaction) -> Result<Executable, SolanaError> {
    let failed = |error: &dyn std::fmt::Display| SolanaError::Transaction(error.to_string());
    let bytes = wincode::serialize(transaction).map_err(|error| failed(&error))?;
    bincode::deserialize(&bytes).map_err(|error| failed(&error))
}
