//! What a test needs of the world.

mod chain;
mod chaos;
mod cosmos;
mod gateway;
mod http;
mod node;
mod origin;
mod payer;
mod postgres;
mod shop;
mod solana;
mod tap;

pub use chain::Chain;
pub use chaos::Fault;
pub use cosmos::{CosmosPlan, CosmosShop, Transfer, Wallet, cosmos_header};
pub use http::{Answer, Call, decode_header, header, read_body, read_head};
pub use node::{Node, OTHER_SIGNER, PAY_TO, SIGNER, SIGNER_ADDRESS, THIRD_SIGNER, USDC};
pub use origin::{Origin, Serve};
pub use payer::{Draft, Header, Payer, Payment, Terms, domain, encode};
pub use postgres::{PASSWORD, Postgres};
pub use shop::{PRICE, Plan, Shop, paid};
pub use solana::{SolanaNode, TOKEN_2022_MINT};
pub use tap::Tap;

/// What only the rig (`tests/rig`) needs besides.
#[allow(unused_imports, reason = "the integration tests need none of it")]
pub mod for_rig {
    pub use super::gateway::Gateway;
    pub use super::http::{header, read_body, read_head};
    pub use super::node::Token as TokenEvents;
    pub use super::solana::{PAY_TO as SOLANA_PAY_TO, SolanaPayer, USDC as SOLANA_USDC};
}

use shop::HOST;

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// Asks again and again until there is an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    within: Duration,
    mut ask: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A port nobody listens on, below the range from which outgoing connections are given theirs.
pub fn free_port() -> u16 {
    loop {
        let mut bytes = [0; 2];
        getrandom::fill(&mut bytes).unwrap();
        let port = 10_000 + u16::from_be_bytes(bytes) % 22_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
