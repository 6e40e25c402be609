//! `tollhouse payments`: the books of a live or stopped gateway, read only.

mod csv;
mod row;
mod table;
#[cfg(test)]
mod tests;

use std::io::Write;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};

use self::row::Row;
use super::{ConfigArgs, load_config};
use crate::config::LedgerUrl;
use crate::ledger::{BooksReader, PaymentFilter, PaymentId, PaymentState, PostgresReader, RecordId, SqliteReader};
use crate::types::Network;

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

/// What to read of the books.
#[derive(Debug, Subcommand)]
pub enum PaymentsCommand {
    /// Payments, newest first, and what stands in each state
    List {
        /// Which ones.
        #[command(flatten)]
        filter: FilterArgs,
        /// At most this many
        #[arg(long, default_value_t = 50, value_name = "COUNT")]
        limit: u32,
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
pub async fn run(args: PaymentsArgs) -> anyhow::Result<()> {
    let books = match load_config(&args.config.config)?.ledger.url {
        LedgerUrl::Sqlite(path) => {
            BooksReader::Sqlite(SqliteReader::open(&path).await.with_context(|| path.display().to_string())?)
        }
        LedgerUrl::Postgres(url) => BooksReader::Postgres(PostgresReader::open(url.expose()).await?),
    };
    let outcome = read(&books, args.command, &mut std::io::stdout().lock()).await;
    books.close().await;
    outcome
}

async fn read(books: &BooksReader, command: PaymentsCommand, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        PaymentsCommand::List { filter, limit, json } => {
            let rows = rows(books, filter, Some(limit)).await?;
            if json { write_json(out, &rows)? } else { table::list(out, &rows, &books.totals().await?)? }
        }
        PaymentsCommand::Show { id, json } => {
            let record = match books.get(&RecordId(id.clone())).await? {
                Some(record) => Some(record),
                None => books.find(&PaymentId(id.clone())).await?,
            };
            let Some(record) = record else { bail!("no payment {id}") };
            let row = Row::of(&record);
            if json { write_json(out, &row)? } else { table::show(out, &row)? }
        }
        PaymentsCommand::Export { filter, format } => {
            let mut rows = rows(books, filter, None).await?;
            rows.reverse();
            match format {
                ExportFormat::Csv => csv::write(out, &rows)?,
                ExportFormat::Json => write_json(out, &rows)?,
            }
        }
    }
    out.flush()?;
    Ok(())
}

async fn rows(books: &BooksReader, filter: FilterArgs, limit: Option<u32>) -> anyhow::Result<Vec<Row>> {
    let filter = PaymentFilter { states: filter.states, network: filter.network, limit };
    Ok(books.list(&filter).await?.iter().map(Row::of).collect())
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
