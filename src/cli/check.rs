//! `tollhouse check`: all that `run` does before it binds, so that a configuration that passes here will run.

use std::io::{self, Write};
use std::process::ExitCode;

use super::ConfigArgs;
use crate::app::Blueprint;
use crate::config::{Config, RouteAction};

/// Exit code 0 and a summary on stdout, or every mistake as `file:line:col` on stderr (contract §2). Chains that answer are
/// compared with the configuration; those that don't are warned of.
pub(super) async fn run(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let blueprint = Blueprint::read(&args.config, &|name| std::env::var(name).ok())?;
    crate::telemetry::init("warn", false)?;
    blueprint.verify_chains().await?;
    write_summary(&blueprint.config, &mut io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
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
    use std::path::Path;

    use super::*;
    use crate::config;

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
