//! `tollhouse doctor`: asks everything that business depends on, and says of each in one line how it is and what to do.
//!
//! Only asks: changes no books, signs nothing, pays nothing. Shows no secret: endpoints by host, keys by their accounts.

mod challenge;
mod gateway;
mod ledger;
mod origins;
mod report;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::ConfigArgs;
use crate::app::Blueprint;
use crate::chain::{Chain, Finding, Severity};
use crate::config::{Config, Diagnostics, Location, NetworkConfig, RouteAction};
use crate::types::AccountId;

/// How long a network's nodes may take for all questions together.
const NETWORK_PATIENCE: Duration = Duration::from_secs(45);

/// `tollhouse doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Examines everything; exit code 1 if anything fails, 0 if there are at most warnings.
///
/// # Errors
/// When stdout can't be written.
pub async fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let findings = match Blueprint::read(&args.config.config, &|name| std::env::var(name).ok()) {
        Ok(blueprint) => examine(&blueprint).await,
        Err(diagnostics) => of_configuration(&diagnostics),
    };
    report::print(&findings, args.json, &mut std::io::stdout().lock())?;
    let has_failed = findings.iter().any(|finding| finding.status == Severity::Fail);
    Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn examine(blueprint: &Blueprint) -> Vec<Finding> {
    let config = &blueprint.config;
    let mut findings = vec![Finding::ok("configuration", readable(config))];
    let networks = config.networks.iter().filter_map(|network| {
        let chain = blueprint.chains.iter().find(|chain| *chain.network() == network.network)?;
        Some(of_network(config, network, chain))
    });
    let (books, networks, origins, gateway) = futures::join!(
        ledger::examine(config),
        futures::future::join_all(networks),
        origins::examine(config),
        gateway::examine(blueprint),
    );
    findings.push(books);
    findings.extend(networks.into_iter().flatten());
    findings.extend(origins);
    findings.extend(challenge::examine(blueprint));
    findings.extend(gateway);
    findings
}

fn readable(config: &Config) -> String {
    let (networks, routes) = (config.networks.len(), config.routes.len());
    format!(
        "{} is in order: {networks} networks, {routes} routes; keys and certificates can be read",
        config.file.display()
    )
}

/// What keeps the configuration from being used; then nothing else can be asked.
fn of_configuration(diagnostics: &Diagnostics) -> Vec<Finding> {
    let mut list: Vec<_> = diagnostics.list.iter().collect();
    list.sort_by_key(|diagnostic| diagnostic.location);
    let lines = list.into_iter().map(|diagnostic| {
        let Location { line, column } = diagnostic.location;
        let subject = format!("configuration {}:{line}:{column}", diagnostics.file.display());
        let hint = diagnostic.hint.clone().unwrap_or_else(|| "correct it; the README explains every key".to_owned());
        Finding::fail(subject, diagnostic.message.clone(), hint)
    });
    lines.collect()
}

/// What a network's nodes say, each line under the network's name.
async fn of_network(config: &Config, network: &NetworkConfig, chain: &Arc<dyn Chain>) -> Vec<Finding> {
    let paid: Vec<AccountId> = paid_on(config, network).into_iter().cloned().collect();
    let name = &network.name;
    match tokio::time::timeout(NETWORK_PATIENCE, chain.diagnose(&paid)).await {
        Ok(findings) => {
            findings.into_iter().map(|it| Finding { subject: format!("{name} {}", it.subject), ..it }).collect()
        }
        Err(_elapsed) => {
            let text = format!("no answer to all questions within {} s", NETWORK_PATIENCE.as_secs());
            vec![Finding::fail(name.as_str(), text, "use endpoints that answer faster")]
        }
    }
}

/// Everybody who is paid on a network.
fn paid_on<'a>(config: &'a Config, network: &'a NetworkConfig) -> BTreeSet<&'a AccountId> {
    let offers = config.routes.iter().flat_map(|route| match &route.action {
        RouteAction::Paid(paid) => paid.offers.as_slice(),
        RouteAction::Free | RouteAction::Deny => &[],
    });
    let of_routes = offers.filter(|offer| offer.network == network.network).map(|offer| &offer.pay_to);
    of_routes.chain([&network.pay_to]).collect()
}
