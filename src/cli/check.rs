//! `tollhouse check`: all that `run` does before it binds, so that a configuration that passes here will run.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use super::ConfigArgs;
use crate::app::Blueprint;
use crate::config::{Config, LedgerUrl, RouteAction};

/// Exit code 0 and a summary on stdout, or every mistake as `file:line:col` on stderr (contract §2). Chains that answer are
/// compared with the configuration; those that don't are warned of.
pub(super) async fn run(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let blueprint = Blueprint::read(&args.config, &|name| std::env::var(name).ok())?;
    check_ledger_place(&blueprint.config)?;
    crate::telemetry::init("warn", false)?;
    blueprint.verify_chains().await?;
    write_summary(&blueprint.config, &mut io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}

/// The books themselves aren't opened: a gateway may be running on them. But `run` would fail without their folder.
fn check_ledger_place(config: &Config) -> anyhow::Result<()> {
    // A database is another machine's affair, like a chain that doesn't answer.
    let LedgerUrl::Sqlite(file) = &config.ledger.url else { return Ok(()) };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let metadata = std::fs::metadata(folder).with_context(|| format!("ledger.url: no folder {}", folder.display()))?;
    anyhow::ensure!(metadata.is_dir(), "ledger.url: {} is no folder", folder.display());
    anyhow::ensure!(!file.is_dir(), "ledger.url: {} is a folder, not a file", file.display());
    Ok(())
}

/// What the configuration amounts to, for people; no secrets.
///
/// # Errors
/// When `out` refuses the text.
fn write_summary(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}: ok", config.file.display())?;
    writeln!(out, "listen     {}", config.server.listen)?;
    writeln!(out, "admin      {}", config.admin.listen)?;
    for upstream in &config.upstreams {
        writeln!(out, "upstream   {} at {}", upstream.name, upstream.servers.join(", "))?;
    }
    for network in &config.networks {
        let assets: Vec<&str> = network.assets.iter().map(|asset| asset.symbol.as_str()).collect();
        let (name, chain, pay_to) = (&network.name, &network.network, &network.pay_to);
        writeln!(out, "network    {name} ({chain}) pays {} to {pay_to}", assets.join(", "))?;
    }
    for route in &config.routes {
        writeln!(out, "route      {}: {}", route.key, action_text(&route.action))?;
    }
    Ok(())
}

fn action_text(action: &RouteAction) -> String {
    match action {
        RouteAction::Free => "free".to_owned(),
        RouteAction::Deny => "denied".to_owned(),
        RouteAction::Paid(paid) => {
            let offers = paid.offers.iter().map(|offer| {
                let price = crate::types::DecimalAmount::from_atomic(offer.amount, offer.asset.decimals);
                format!("{price} {} on {}", offer.asset.symbol, offer.network)
            });
            offers.collect::<Vec<_>>().join(", or ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_ledger_without_a_folder_is_found_before_the_gateway_runs() {
        let folder = tempfile::tempdir().unwrap();
        let check = |url: &str| {
            let file = folder.path().join("gateway.toml");
            let text = format!(
                "[upstreams.a]\nservers = [\"127.0.0.1:1\"]\n[ledger]\nurl = {url:?}\n[routes]\n\"/a\" = \"free\"\n"
            );
            let config = config::parse(&text, &file, &|_| None).into_result().unwrap();
            check_ledger_place(&config)
        };
        assert!(check("sqlite:new.db").is_ok());
        assert!(check("sqlite:missing/new.db").unwrap_err().to_string().contains("no folder"));
        assert!(check("sqlite:.").unwrap_err().to_string().contains("not a file"));
    }

    #[test]
    fn the_summary_tells_prices_in_tokens_and_no_secrets() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway.toml.example");
        let config = config::load(&file, &|_| Some("11".repeat(32))).unwrap();
        let mut out = Vec::new();
        write_summary(&config, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("route      GET /api/data: 0.01 USDC on eip155:84532"), "{text}");
        assert!(text.contains("route      /health: free"), "{text}");
        assert!(!text.contains("1111"), "{text}");
        assert!(!text.contains("sepolia.base.org"), "{text}");
    }
}
