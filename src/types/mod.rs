//! The words of the domain: amounts, networks, assets, accounts, time.
//!
//! Imports nothing of the crate. Everything here is a validated value: what can't be right can't be built.

mod account;
mod address_range;
mod clock;
mod cosmos_address;
mod evm_address;
mod known;
mod money;
mod network;
mod rate;
mod solana_address;

pub use account::{AccountId, AccountIdError, Asset, AssetId, Eip712Domain};
pub use address_range::{AddressRange, AddressRangeError, neighbourhood};
pub use clock::{Clock, ManualClock, SystemClock, UnixMillis};
pub use cosmos_address::{CosmosAddressError, canonical_cosmos_address, is_bech32_prefix};
pub use evm_address::{EvmAddressError, canonical_evm_address};
pub use known::{KNOWN_NETWORKS, KnownNetwork};
pub use money::{AmountError, AtomicAmount, DecimalAmount, Price, PriceError};
pub use network::{ChainKind, IdentifierRule, Network, NetworkError, WaitFor};
pub use rate::{Rate, RateError};
pub use solana_address::{SolanaAddressError, canonical_solana_address};
