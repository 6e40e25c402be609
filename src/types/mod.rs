//! The words of the domain: amounts, networks, assets, accounts, time.
//!
//! Imports nothing of the crate. Everything here is a validated value: what can't be right can't be built.

mod account;
mod address_range;
mod clock;
mod evm_address;
mod known;
mod money;
mod network;

pub use account::{AccountId, AccountIdError, Asset, AssetId, Eip712Domain};
pub use address_range::{AddressRange, AddressRangeError};
pub use clock::{Clock, ManualClock, SystemClock, UnixMillis};
pub use evm_address::{EvmAddressError, canonical_evm_address};
pub use known::{KNOWN_NETWORKS, KnownNetwork};
pub use money::{AmountError, AtomicAmount, DecimalAmount, Price, PriceError};
pub use network::{ChainKind, Network, NetworkError, WaitFor};
