//! Whether business can open on a Cosmos chain: endpoints, clock, coins, payees. Asks and changes nothing.

use std::time::Instant;

use cosmrs::proto::cosmos::auth::v1beta1::{QueryAccountRequest, QueryAccountResponse};
use cosmrs::proto::cosmos::bank::v1beta1::QuerySupplyOfRequest;
use cosmrs::proto::cosmos::base::tendermint::v1beta1::GetSyncingRequest;
use cosmrs::proto::cosmos::tx::v1beta1::GetTxRequest;

use super::head::{Head, head_at};
use super::rpc::{Node, RpcError};
use super::startup::{self, NO_TRANSACTION};
use super::{CosmosScheme, Inner, LAG_MAX};
use crate::chain::finding::{self, EndpointSeen, Finding, Seen, Severity};
use crate::types::{AccountId, Asset};

/// Blocks that an endpoint may be behind another.
const LAG_BLOCKS_MAX: u64 = 10;
/// Accounts that belong to the chain itself: nobody may send to most of them.
const MODULE_ACCOUNT: &str = "/cosmos.auth.v1beta1.ModuleAccount";

pub(super) async fn diagnose(scheme: &CosmosScheme, paid: &[AccountId]) -> Vec<Finding> {
    let inner = &*scheme.0;
    let looks = inner.rpc.nodes().into_iter().map(look_at);
    let (seen, heads): (Vec<EndpointSeen>, Vec<Option<Head>>) =
        futures::future::join_all(looks).await.into_iter().unzip();
    let mut findings = finding::endpoints(&seen, LAG_BLOCKS_MAX);
    if !finding::is_any_right(&seen) {
        return findings;
    }
    findings.extend(heads.into_iter().flatten().max_by_key(|head| head.height).map(|head| clock(inner, head)));
    findings.push(gas_prices(inner).await);
    for asset in &inner.assets {
        findings.push(coin(inner, asset).await);
    }
    for account in paid {
        findings.push(payee(inner, account).await);
    }
    findings
}

/// One endpoint: its chain, whether it has caught up and looks up transactions, its head.
async fn look_at(node: Node<'_>) -> (EndpointSeen, Option<Head>) {
    let started = Instant::now();
    let (head, seen) = match ask(node).await {
        Ok((head, None)) => (Some(head), Seen::Head(head.height)),
        Ok((head, Some(detail))) => (Some(head), Seen::Behind(detail)),
        Err(error @ RpcError::WrongChain { .. }) => (None, Seen::WrongChain(error.to_string())),
        Err(error) => (None, Seen::Nothing(error.to_string())),
    };
    (EndpointSeen { host: node.host(), seen, took: started.elapsed() }, head)
}

/// An endpoint's head, and what keeps it from being of use.
async fn ask(node: Node<'_>) -> Result<(Head, Option<String>), RpcError> {
    let head = head_at(node).await?;
    match node.call(GetSyncingRequest {}).await {
        Ok(answer) if answer.syncing => return Ok((head, Some("the node is still catching up".to_owned()))),
        Err(error) if !error.is_unimplemented() => return Err(error),
        _ => {}
    }
    match node.call(GetTxRequest { hash: NO_TRANSACTION.to_owned() }).await {
        Err(error) if error.is_not_found() => Ok((head, None)),
        Err(RpcError::Node { message, .. }) => {
            Ok((head, Some(format!("the node doesn't look up transactions, so no payment is ever found: {message}"))))
        }
        Err(error) => Err(error),
        Ok(_found) => Ok((head, Some("the node finds transactions that don't exist".to_owned()))),
    }
}

/// As on every chain; but an old block closes the network here.
fn clock(inner: &Inner, head: Head) -> Finding {
    let now = inner.clock.now();
    let finding = finding::clock(head.time, now);
    match finding.status {
        Severity::Warn if now.since(head.time) > LAG_MAX => Finding {
            status: Severity::Fail,
            finding: format!("{}: no payments are taken", finding.finding),
            ..finding
        },
        _ => finding,
    }
}

async fn gas_prices(inner: &Inner) -> Finding {
    match startup::read_gas_prices(inner).await {
        Ok(()) => match inner.gas_prices() {
            Some(_) => Finding::ok("fees", "the payer pays them; the node tells its minimum gas prices"),
            None => Finding::ok("fees", "the payer pays them; the node doesn't tell its minimum gas prices"),
        },
        Err(error) => Finding::warn("fees", format!("the node's gas prices can't be read: {error}"), "ask again"),
    }
}

async fn coin(inner: &Inner, asset: &Asset) -> Finding {
    let subject = format!("asset {}", asset.symbol);
    let denom = asset.id.as_str();
    match inner.rpc.call(QuerySupplyOfRequest { denom: denom.to_owned() }).await {
        Ok(supply) => match supply.amount.filter(|coin| !coin.amount.is_empty() && coin.amount != "0") {
            Some(_) => Finding::ok(subject, format!("{denom}: the chain has some of it")),
            None => Finding::warn(
                subject,
                format!("{denom}: the chain has none of it"),
                "check the denom, on other chains than its own ibc/ and a hash of its whole path; until somebody brings some, nobody can pay",
            ),
        },
        Err(error) => Finding::warn(subject, format!("{denom} can't be asked: {error}"), "ask again"),
    }
}

/// Whether an account is one that people can send to, as far as the chain tells.
async fn payee(inner: &Inner, account: &AccountId) -> Finding {
    let subject = format!("pay_to {account}");
    match inner.rpc.call(QueryAccountRequest { address: account.as_str().to_owned() }).await {
        Ok(answer) if is_module_account(&answer) => Finding::fail(
            subject,
            "is an account of the chain itself, which may not be sent to",
            "let revenue go to an account whose key you hold",
        ),
        Ok(_) => Finding::ok(subject, "is an account that can be sent to"),
        Err(error) if error.is_not_found() => {
            Finding::ok(subject, "is not on the chain yet; the first payment creates it")
        }
        Err(error) => Finding::warn(subject, format!("can't be asked: {error}"), "ask again"),
    }
}

fn is_module_account(answer: &QueryAccountResponse) -> bool {
    answer.account.as_ref().is_some_and(|account| account.type_url == MODULE_ACCOUNT)
}

#[cfg(test)]
#[cfg(feature = "dev")]
mod tests {
    use cosmrs::proto::Any;

    use super::super::tests::{Shop, World, config, pay_to};
    use super::*;
    use crate::chain::NoObserver;
    use crate::config::NetworkConfig;
    use crate::devnet::cosmos::{COSMOS_DENOM, CallFault, CosmosChain, CosmosParams};
    use crate::types::{AssetId, Clock, ManualClock, SystemClock};

    async fn found(shop: &Shop) -> Vec<Finding> {
        diagnose(&shop.scheme, &[AccountId::new(pay_to()).unwrap()]).await
    }

    async fn found_by(config: &NetworkConfig, clock: std::sync::Arc<dyn Clock>) -> Vec<Finding> {
        let scheme = CosmosScheme::connect(config, clock, std::sync::Arc::new(NoObserver)).unwrap();
        diagnose(&scheme, &[]).await
    }

    fn ill(found: Vec<Finding>) -> Finding {
        let mut ills: Vec<Finding> = found.into_iter().filter(|finding| finding.status != Severity::Ok).collect();
        assert_eq!(ills.len(), 1, "{ills:?}");
        assert!(ills[0].hint.is_some());
        ills.remove(0)
    }

    #[tokio::test]
    async fn a_chain_where_all_is_well_gives_a_line_for_each_thing() {
        let world = World::new().await;
        let found = found(&world.shop).await;
        let subjects: Vec<&str> = found.iter().map(|it| it.subject.split(' ').next().unwrap()).collect();
        assert_eq!(subjects, ["endpoint", "clock", "fees", "asset", "pay_to"]);
        assert!(found.iter().all(|finding| finding.status == Severity::Ok), "{found:?}");
    }

    #[tokio::test]
    async fn a_node_without_an_index_a_wrong_chain_and_a_dead_one_are_failures() {
        let world = World::new().await;
        world.chain.faults().set("GetTx", CallFault::NoIndex, 100);
        let ill_of_index = ill(found(&world.shop).await);
        assert!(ill_of_index.status == Severity::Fail && ill_of_index.finding.contains("look up"), "{ill_of_index:?}");
        let params = CosmosParams { chain_id: "other-1".to_owned(), block_time: None, ..CosmosParams::default() };
        let other = CosmosChain::start(params).await.unwrap();
        let wrong = ill(found(&Shop::at(&[other.grpc_url()])).await);
        assert!(wrong.status == Severity::Fail && wrong.finding.contains("other-1"), "{wrong:?}");
        let dead = ill(found(&Shop::offline()).await);
        assert_eq!(dead.status, Severity::Fail);
        let hidden = ill(found(&Shop::at(&["http://127.0.0.1:9/secret-token".to_owned()])).await);
        assert!(!format!("{hidden:?}").contains("secret-token"), "{hidden:?}");
    }

    #[tokio::test]
    async fn an_endpoint_behind_the_other_is_a_warning() {
        let (world, slow) = (World::new().await, World::new().await);
        world.blocks(LAG_BLOCKS_MAX + 1).await;
        let late = ill(found(&Shop::at(&[slow.chain.grpc_url(), world.chain.grpc_url()])).await);
        assert!(late.status == Severity::Warn && late.finding.contains("11 behind"), "{late:?}");
    }

    #[tokio::test]
    async fn a_clock_that_disagrees_closes_the_network() {
        let world = World::new().await;
        let at = |millis| std::sync::Arc::new(ManualClock::new(crate::types::UnixMillis(SystemClock.now().0 + millis)));
        for millis in [-3_600_000, 3_600_000] {
            let wrong = ill(found_by(&config(&[world.chain.grpc_url()]), at(millis)).await);
            assert!(wrong.status == Severity::Fail && wrong.subject == "clock", "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn a_coin_that_the_chain_has_none_of_is_a_warning() {
        let world = World::new().await;
        let mut config = config(&[world.chain.grpc_url()]);
        config.assets[0].id = AssetId::new(format!("{COSMOS_DENOM}x")).unwrap();
        let strange = ill(found_by(&config, std::sync::Arc::new(SystemClock)).await);
        assert!(strange.status == Severity::Warn && strange.subject == "asset USDC", "{strange:?}");
    }

    #[test]
    fn an_account_of_the_chain_itself_is_told_from_one_of_somebody() {
        let of = |type_url: &str| QueryAccountResponse {
            account: Some(Any { type_url: type_url.to_owned(), value: Vec::new() }),
        };
        assert!(is_module_account(&of(MODULE_ACCOUNT)));
        assert!(!is_module_account(&of("/cosmos.auth.v1beta1.BaseAccount")));
        assert!(!is_module_account(&QueryAccountResponse { account: None }));
    }
}
