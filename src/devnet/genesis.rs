//! What is there before the first block: the token, and an account that has gas to give away.

use alloy::primitives::{Address, B256, Bytes, U256, address, b256};
use alloy::signers::local::PrivateKeySigner;
use revm::bytecode::Bytecode;
use serde::Deserialize;

use super::world::World;

/// Base Sepolia's id: clients know its token by heart.
pub const CHAIN_ID: u64 = 84532;

/// The address of USDC on Base Sepolia; the test token stands there.
pub const TOKEN: Address = address!("036CbD53842c5426634e7929541eC2318f3dCF7e");

/// The test token as its build script left it.
const ARTIFACT: &str = include_str!("../../tests/contracts/artifacts/TestUSDC.json");

/// keccak256("tollhouse dev faucet")
const FAUCET_KEY: B256 = b256!("71bc55e7ad9da33cb71d73ec0bed5ace9d272688ae9cd19583671acfde01c484");

/// Wei that the faucet starts with: a billion ether.
const FAUCET_WEI: u128 = 1_000_000_000_000_000_000_000_000_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Artifact {
    deployed_bytecode: Bytes,
}

/// Why there can be no chain.
#[derive(Debug, thiserror::Error)]
pub enum GenesisError {
    /// The committed artifact can't be read.
    #[error("the test token's artifact can't be read: {0}")]
    Artifact(#[from] serde_json::Error),
    /// Its code is no code.
    #[error("the test token's code can't be used: {0}")]
    Code(String),
    /// The faucet's key is no key.
    #[error("the faucet's key can't be used: {0}")]
    Faucet(#[from] alloy::signers::k256::ecdsa::Error),
}

/// The account that gives gas away. Its key is no secret: what it has is worth nothing.
pub(super) fn faucet() -> Result<PrivateKeySigner, GenesisError> {
    Ok(PrivateKeySigner::from_bytes(&FAUCET_KEY)?)
}

/// The state before the first block.
pub(super) fn world() -> Result<World, GenesisError> {
    let artifact: Artifact = serde_json::from_str(ARTIFACT)?;
    let code =
        Bytecode::new_raw_checked(artifact.deployed_bytecode).map_err(|error| GenesisError::Code(error.to_string()))?;
    let mut world = World::default();
    world.place(TOKEN, U256::ZERO, Some(code));
    world.place(faucet()?.address(), U256::from(FAUCET_WEI), None);
    Ok(world)
}
