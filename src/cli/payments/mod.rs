//! `tollhouse payments`: the books of a live or stopped gateway. Reads only, but for `resolve`, which notes a refund.

mod csv;
mod period;
mod reconcile;
mod resolve;
mod row;
mod sums;
mod table;
#[cfg(test)]
mod tests;
mod units;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};

use self::period::Moment;
use self::reconcile::ReconcileArgs;
use self::resolve::Refund;
use self::row::Row;
use self::sums::SumRow;
use self::units::Units;
use super::{ConfigArgs, load_config};
use crate::config::{Config, LedgerUrl};
use crate::ledger::{
    BooksReader, PaymentFilter, PaymentId, PaymentRecord, PaymentState, PostgresReader, RecordId, SqliteReader, SumBy,
};
use crate::types::{AccountId, AssetId, Network};

/// `tollhouse payments`.
#[derive(Debug, Args)]
pub struct PaymentsArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// What to read.
    #[command(subcommand)]
    pub command: PaymentsCommand,
}

/// What to do with the books.
#[derive(Debug, Subcommand)]
pub enum PaymentsCommand {
    /// Payments, newest first, and what stands in each state; or their sums
    List {
        /// Which ones.
        #[command(flatten)]
        filter: FilterArgs,
        /// At most this many
        #[arg(long, default_value_t = 50, value_name = "COUNT", conflicts_with = "by")]
        limit: u32,
        /// Sums of all of them instead, by one of their properties
        #[arg(long, value_enum, value_name = "PROPERTY")]
        by: Option<By>,
        /// Print a JSON array instead of a table
        #[arg(long)]
        json: bool,
    },
    /// All of one payment
    Show {
        /// The row's id (pay_…), or the payment id (network/asset/payer/nonce)
        id: String,
        /// Print a JSON object instead of lines
        #[arg(long)]
        json: bool,
    },
    /// Every payment, oldest first
    Export {
        /// Which ones.
        #[command(flatten)]
        filter: FilterArgs,
        /// The form
        #[arg(long, value_enum, default_value_t = ExportFormat::Csv)]
        format: ExportFormat,
    },
    /// Compare the books with the chains and print every difference; exit code 0 if there is none, 1 if there are, 4 if a chain
    /// could not be asked
    Reconcile(ReconcileArgs),
    /// Note the refund that you made by hand for an owed payment
    Resolve {
        /// The row's id (pay_…), or the payment id
        id: String,
        /// The transaction that gave the money back
        #[arg(long, value_name = "HASH")]
        tx: String,
        /// Your own words, kept with it
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
        /// Print the payment as a JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Which payments.
#[derive(Debug, Clone, Default, Args)]
pub struct FilterArgs {
    /// Only this state; may be given several times
    #[arg(long = "state", value_name = "STATE", value_parser = parse_state)]
    pub states: Vec<PaymentState>,
    /// Only this network: a name such as base-sepolia, or a CAIP-2 id
    #[arg(long, value_name = "NAME")]
    pub network: Option<Network>,
    /// Only this route, by its key in the configuration
    #[arg(long, value_name = "KEY")]
    pub route: Option<String>,
    /// Only this payer
    #[arg(long, value_name = "ADDRESS", value_parser = parse_account)]
    pub payer: Option<AccountId>,
    /// Only this token: its address, mint or denomination
    #[arg(long, value_name = "ASSET", value_parser = parse_asset)]
    pub asset: Option<AssetId>,
    /// Only those claimed on this day (UTC) or later, or at this moment or later
    #[arg(long, value_name = "DAY", value_parser = period::parse)]
    pub since: Option<Moment>,
    /// Only those claimed on this day (UTC) or earlier, or before this moment
    #[arg(long, value_name = "DAY", value_parser = period::parse)]
    pub until: Option<Moment>,
    /// Leave out owed payments that were resolved
    #[arg(long)]
    pub unresolved: bool,
}

impl FilterArgs {
    fn filter(self, limit: Option<u32>) -> PaymentFilter {
        PaymentFilter {
            states: self.states,
            network: self.network,
            route: self.route,
            payer: self.payer,
            asset: self.asset,
            since: self.since.map(|since| since.start),
            until: self.until.map(|until| until.end),
            changed_since: None,
            unresolved: self.unresolved,
            limit,
        }
    }
}

/// By what payments are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Route key
    Route,
    /// Payer
    Payer,
    /// Token
    Asset,
    /// Day (UTC) on which they were claimed
    Day,
    /// Network
    Network,
    /// State
    State,
}

impl From<By> for SumBy {
    fn from(by: By) -> Self {
        match by {
            By::Route => Self::Route,
            By::Payer => Self::Payer,
            By::Asset => Self::Asset,
            By::Day => Self::Day,
            By::Network => Self::Network,
            By::State => Self::State,
        }
    }
}

/// The form of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// RFC 4180, with a header line
    Csv,
    /// One JSON array
    Json,
}

/// Runs the command for this process.
///
/// # Errors
/// When the configuration is bad, or the ledger can't be read.
pub async fn run(args: PaymentsArgs) -> anyhow::Result<ExitCode> {
    let PaymentsArgs { config: ConfigArgs { config: file }, command } = args;
    if let PaymentsCommand::Reconcile(args) = command {
        return Ok(reconcile::run(&file, &args).await);
    }
    let config = load_config(&file)?;
    let units = Units::of(&config);
    let books = open(&config).await?;
    let out = &mut std::io::stdout().lock();
    let outcome = match command {
        PaymentsCommand::Resolve { id, tx, note, json } => {
            let refund = Refund { id, transaction: tx, note };
            let resolved = resolve::run(&file, &config.ledger.url, &books, refund).await;
            resolved.and_then(|resolved| tell(out, &resolved, &units, json))
        }
        other => read(&books, other, &units, out).await,
    };
    books.close().await;
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn open(config: &Config) -> anyhow::Result<BooksReader> {
    Ok(match &config.ledger.url {
        LedgerUrl::Sqlite(path) => {
            BooksReader::Sqlite(SqliteReader::open(path).await.with_context(|| path.display().to_string())?)
        }
        LedgerUrl::Postgres(url) => BooksReader::Postgres(PostgresReader::open(url.expose()).await?),
    })
}

fn tell(out: &mut dyn Write, resolved: &resolve::Resolved, units: &Units, json: bool) -> anyhow::Result<()> {
    for warning in &resolved.warnings {
        eprintln!("warning: {}", super::printable(warning));
    }
    let row = Row::of(&resolved.record, units);
    if json {
        write_json(out, &row)?;
    } else {
        let state = if resolved.is_old { "was resolved already" } else { "is resolved" };
        let transaction = row.refund_transaction.as_deref().unwrap_or_default();
        writeln!(out, "{} {state}: refunded with {transaction}", row.record)?;
    }
    out.flush()?;
    Ok(())
}

async fn read(books: &BooksReader, command: PaymentsCommand, units: &Units, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        PaymentsCommand::List { filter, by: Some(by), json, .. } => {
            let sums = books.sums(&filter.filter(None), by.into()).await?;
            let rows: Vec<SumRow> = sums.into_iter().map(|sum| SumRow::of(sum, units)).collect();
            if json { write_json(out, &rows)? } else { sums::write(out, &rows, units)? }
        }
        PaymentsCommand::List { filter, limit, by: None, json } => {
            let rows = rows(books, filter.filter(Some(limit)), units).await?;
            if json { write_json(out, &rows)? } else { table::list(out, &rows, &books.totals().await?, units)? }
        }
        PaymentsCommand::Show { id, json } => {
            let row = Row::of(&find(books, &id).await?, units);
            if json { write_json(out, &row)? } else { table::show(out, &row, units)? }
        }
        PaymentsCommand::Export { filter, format } => {
            let mut rows = rows(books, filter.filter(None), units).await?;
            rows.reverse();
            match format {
                ExportFormat::Csv => csv::write(out, &rows)?,
                ExportFormat::Json => write_json(out, &rows)?,
            }
        }
        PaymentsCommand::Reconcile(_) | PaymentsCommand::Resolve { .. } => bail!("this command does not only read"),
    }
    out.flush()?;
    Ok(())
}

/// A payment by the row's id or by its own.
async fn find(books: &BooksReader, id: &str) -> anyhow::Result<PaymentRecord> {
    let found = match books.get(&RecordId(id.to_owned())).await? {
        Some(record) => Some(record),
        None => books.find(&PaymentId(id.to_owned())).await?,
    };
    found.with_context(|| format!("no payment {id}"))
}

async fn rows(books: &BooksReader, filter: PaymentFilter, units: &Units) -> anyhow::Result<Vec<Row>> {
    Ok(books.list(&filter).await?.iter().map(|record| Row::of(record, units)).collect())
}

fn write_json(out: &mut dyn Write, value: &(impl serde::Serialize + ?Sized)) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}

fn parse_state(text: &str) -> Result<PaymentState, String> {
    text.parse().map_err(|()| {
        let names: Vec<&str> = PaymentState::ALL.iter().map(|state| state.as_str()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

fn parse_account(text: &str) -> Result<AccountId, String> {
    AccountId::new(text).map_err(|error| error.to_string())
}

fn parse_asset(text: &str) -> Result<AssetId, String> {
    AssetId::new(text).map_err(|error| error.to_string())
}
