//! `tollhouse check`: says whether a configuration could run, and every mistake if it couldn't.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{self, Config, RouteAction};

/// Arguments of `tollhouse check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "gateway.toml")]
    pub config: PathBuf,
}

/// Checks the file: exit code 0 and a summary on stdout, or 1 and every mistake as `file:line:col` on stderr (contract §2).
#[must_use]
pub fn run(args: &CheckArgs) -> ExitCode {
    match config::load(&args.config, &|name| std::env::var(name).ok()) {
        Ok(config) => match write_summary(&config, &mut io::stdout().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            // The verdict could not be delivered, so it isn't claimed.
            Err(_closed) => ExitCode::FAILURE,
        },
        Err(mistakes) => {
            // Nothing is left to be told if stderr is gone too.
            let _gone = write!(io::stderr().lock(), "{mistakes}");
            ExitCode::FAILURE
        }
    }
}

/// What the configuration amounts to, for people; no secrets.
///
/// # Errors
/// When `out` refuses the text.
pub fn write_summary(config: &Config, out: &mut dyn Write) -> io::Result<()> {
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
