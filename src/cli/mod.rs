//! The command line: what an operator types, and how the process ends. Data goes to stdout, all else to stderr; exit code
//! 1 for failures, 2 for wrong usage, 3 for a payment whose outcome is pending, 4 for a chain that could not be asked.

mod check;
#[cfg(feature = "dev")]
mod dev;
mod doctor;
mod explain;
mod hardening;
mod health;
mod human;
pub mod import;
pub mod pay;
pub mod payments;
mod run;
mod schema;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::human::printable;
use crate::config::{Config, Diagnostics};
use crate::route::RouteTable;

/// A reverse proxy that charges: x402 payments verified and settled in its own process.
#[derive(Debug, Parser)]
#[command(name = "tollhouse", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "gateway.toml", global = true)]
    pub config: PathBuf,
}

impl Default for ConfigArgs {
    fn default() -> Self {
        Self { config: PathBuf::from("gateway.toml") }
    }
}

/// `tollhouse run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Take the listeners over from the gateway that runs, which then ends: no connection is refused meanwhile. Asks at
    /// server.upgrade_socket; starts as ever if none is there
    #[arg(long)]
    pub upgrade: bool,
}

/// `tollhouse explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The request's method
    pub method: String,
    /// The request's URL
    pub url: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A command (contract §2).
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway
    Run(RunArgs),
    /// Check the configuration, all that `run` does before it binds
    Check(ConfigArgs),
    /// Ask every chain, asset, signer balance, payee and origin whether business can open; one line each
    Doctor(doctor::DoctorArgs),
    /// Say which route, price and upstream a request meets, and why
    Explain(ExplainArgs),
    /// Print the JSON Schema of the configuration
    Schema,
    /// Write a priced route table from an OpenAPI description, to edit
    Import(import::ImportArgs),
    /// Exit 0 if the running gateway is ready
    Health(health::HealthArgs),
    /// Open a whole shop on this machine, offline: chains, a token, an origin, a payer and the gateway
    #[cfg(feature = "dev")]
    Dev(dev::DevArgs),
    /// The Cosmos chain of `dev` alone, for tests
    #[cfg(feature = "dev")]
    #[command(hide = true)]
    CosmosChain(dev::cosmos::CosmosChainArgs),
    /// The chains and the origin of `dev` without the gateway, each at an address of its own, for containers
    #[cfg(feature = "dev")]
    #[command(hide = true)]
    Devnet(dev::devnet::DevnetArgs),
    /// Pay for a request, like a client
    Pay(Box<pay::PayArgs>),
    /// Read the books, compare them with the chains, note refunds
    Payments(payments::PaymentsArgs),
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    // Before anything can ask for TLS: with no provider chosen, the first TLS client would fail.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: another TLS provider was installed first");
        return ExitCode::FAILURE;
    }
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => {
            hardening::forbid_dumps()?;
            run::run(&args)
        }
        Command::Check(args) => block_on(check::run(&args)),
        Command::Doctor(args) => block_on(doctor::run(&args)),
        Command::Explain(args) => explain(&args),
        Command::Schema => Ok(schema::run()),
        Command::Import(args) => import::run(&args),
        Command::Health(args) => block_on(health::run(args)).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "dev")]
        Command::Dev(args) => dev::run(&args),
        #[cfg(feature = "dev")]
        Command::CosmosChain(args) => block_on(dev::cosmos::run(args)),
        #[cfg(feature = "dev")]
        Command::Devnet(args) => dev::devnet::run(&args),
        Command::Pay(args) => block_on(pay::run(*args)).map(|exit| ExitCode::from(exit.code())),
        Command::Payments(args) => block_on(payments::run(args)),
    }
}

/// Every diagnostic of a bad configuration on its own line, anything else as one error with its causes.
fn report(error: &anyhow::Error) {
    match error.downcast_ref::<Diagnostics>() {
        Some(diagnostics) => eprint!("{diagnostics}"),
        None => {
            for (index, line) in format!("{error:#}").lines().enumerate() {
                eprintln!("{}{}", if index == 0 { "error: " } else { "" }, printable(line));
            }
        }
    }
}

/// Runs a client command on a runtime of its own; the gateway builds its runtimes itself.
fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

fn load_config(file: &Path) -> Result<Config, Diagnostics> {
    crate::config::load(file, &|name| std::env::var(name).ok())
}

fn explain(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let config = load_config(&args.config.config)?;
    let table = RouteTable::build(&config.routes).map_err(|list| Diagnostics { file: config.file.clone(), list })?;
    explain::run(&config, &table, &args.method, &args.url, args.json, &mut std::io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_configuration_may_be_named_after_the_last_word() {
        let cli = Cli::try_parse_from(["tollhouse", "payments", "list", "--config", "x.toml"]).unwrap();
        let Command::Payments(args) = cli.command else { panic!("not payments") };
        assert_eq!(args.config.config, PathBuf::from("x.toml"));
    }

    #[test]
    fn resume_takes_a_name_or_none_and_no_other_request() {
        let parse = |args: &[&str]| Cli::try_parse_from(["tollhouse", "pay"].iter().chain(args));
        for good in [&["http://h/"][..], &["--resume"], &["--resume", "x"], &["--resume", "x", "--json"]] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
        for bad in
            [&[][..], &["--resume", "x", "http://h/"], &["--resume", "x", "--data", "y"], &["http://h/", "--max", "1"]]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
