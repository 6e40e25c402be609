//! Comparing a chain with its configuration.

use cosmrs::proto::cosmos::bank::v1beta1::QuerySupplyOfRequest;
use cosmrs::proto::cosmos::base::node::v1beta1::ConfigRequest;
use cosmrs::proto::cosmos::base::tendermint::v1beta1::GetSyncingRequest;
use cosmrs::proto::cosmos::tx::v1beta1::GetTxRequest;

use super::Inner;
use super::fees::parse_gas_prices;
use super::rpc::RpcError;
use crate::chain::ChainError;
use crate::config::{Diagnostic, Location};
use crate::types::Network;

/// A hash that no transaction has: whether a node keeps an index of transactions, without which no payment is ever found, shows
/// in what it says of it.
pub(super) const NO_TRANSACTION: &str = "0000000000000000000000000000000000000000000000000000000000000000";

pub(super) fn mistake_at(location: Location, message: impl Into<String>) -> Diagnostic {
    Diagnostic { location, message: message.into(), hint: None }
}

/// Reads the chain id, which the endpoints do by themselves, whether the node has caught up and looks up transactions, its latest block,
/// its gas prices and whether it knows the coins.
pub(super) async fn verify(inner: &Inner) -> Result<(), ChainError> {
    let failed = |error: RpcError| of_rpc(&inner.network, error);
    let unreachable =
        |detail: &str| ChainError::Unreachable { network: inner.network.clone(), detail: detail.to_owned() };
    match inner.rpc.call(GetSyncingRequest {}).await {
        Ok(answer) if answer.syncing => return Err(unreachable("the node is still catching up")),
        Err(error) if !error.is_unimplemented() => return Err(failed(error)),
        _ => {}
    }
    inner.head(std::time::Duration::ZERO).await.map_err(failed)?;
    match inner.rpc.call(GetTxRequest { hash: NO_TRANSACTION.to_owned() }).await {
        Err(error) if error.is_not_found() => {}
        Err(RpcError::Node { message, .. }) => {
            return Err(unreachable(&format!("the node doesn't look up transactions: {message}")));
        }
        Err(error) => return Err(failed(error)),
        Ok(_found) => return Err(unreachable("the node finds transactions that don't exist")),
    }
    read_gas_prices(inner).await.map_err(failed)?;
    for asset in &inner.assets {
        let query = QuerySupplyOfRequest { denom: asset.id.as_str().to_owned() };
        let supply = inner.rpc.call(query).await;
        let amount = supply.ok().and_then(|supply| supply.amount).map(|coin| coin.amount);
        // Only a warning: a chain need not have a supply of what may yet come to it over IBC.
        if amount.is_none_or(|amount| amount.is_empty() || amount == "0") {
            tracing::warn!(network = %inner.network, asset = %asset.id, "The chain doesn't know of any such coin.");
        }
    }
    Ok(())
}

/// Reads the node's minimum gas prices. SDKs before 0.46 don't tell them; then the node that gets a transaction decides.
pub(super) async fn read_gas_prices(inner: &Inner) -> Result<(), RpcError> {
    let prices = match inner.rpc.call(ConfigRequest {}).await {
        Ok(answer) => {
            let prices = parse_gas_prices(&answer.minimum_gas_price);
            if prices.is_none() {
                tracing::warn!(network = %inner.network, "A node's minimum gas prices can't be read.");
            }
            prices
        }
        Err(RpcError::Node { .. }) => None,
        Err(error) => return Err(error),
    };
    inner.set_gas_prices(prices);
    Ok(())
}

fn of_rpc(network: &Network, error: RpcError) -> ChainError {
    match error {
        RpcError::WrongChain { .. } => {
            ChainError::Mismatch { network: network.clone(), problems: vec![error.to_string()] }
        }
        _ => ChainError::Unreachable { network: network.clone(), detail: error.to_string() },
    }
}
