//! `tollhouse import`: an OpenAPI description becomes a priced route table to edit (contract §1.1).
//!
//! What comes out is read back as `check` reads it before anybody sees it. Whatever can't be mapped, and whatever price can't
//! be understood, is left out with a comment: a path that no route names is 404, never free.

mod document;
mod operations;
mod price;
mod table;
#[cfg(test)]
mod tests;
mod upstream;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::human::printable;
use crate::types::Price;
pub use document::ImportError;

/// Longest description that is read.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// `tollhouse import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The OpenAPI 3.0 or 3.1 description, YAML or JSON
    pub file: PathBuf,
    /// What an operation costs that says nothing of it (x-price, x-payment-info, x-free): "$0.01", "free" or "deny"
    #[arg(long, value_name = "PRICE", default_value = "$0.01")]
    pub price: String,
}

/// A route table and what is to be said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// TOML for the start of a `gateway.toml`; it lacks `[networks]`.
    pub toml: String,
    /// What an operator should look at.
    pub hints: Vec<String>,
    /// Routes that are in force.
    pub routes: usize,
    /// Operations that were left out.
    pub left_out: usize,
}

/// Prints the table to stdout and hints to stderr; exit code 1 if nothing could be mapped.
pub(super) fn run(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let text = read(&args.file)?;
    let name = args.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let imported = import(&text, &name, &args.price).map_err(|error| {
        let file = args.file.display();
        match error {
            ImportError::Syntax { .. } => anyhow::anyhow!("{file}:{error}"),
            ImportError::Price(_) => anyhow::anyhow!("{error}"),
            _ => anyhow::anyhow!("{file}: {error}"),
        }
    })?;
    for hint in &imported.hints {
        eprintln!("hint: {}", printable(hint));
    }
    eprintln!("{} routes, {} operations left out", imported.routes, imported.left_out);
    anyhow::ensure!(imported.routes > 0, "no operation could be made a route");
    io::stdout().lock().write_all(imported.toml.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let opened = File::open(file).with_context(|| format!("can't read {}", file.display()))?;
    opened
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("can't read {}", file.display()))?;
    let is_short = u64::try_from(bytes.len()).is_ok_and(|length| length <= FILE_BYTES_MAX);
    anyhow::ensure!(is_short, "{}: longer than {FILE_BYTES_MAX} bytes", file.display());
    String::from_utf8(bytes).with_context(|| format!("{}: not UTF-8", file.display()))
}

/// Maps a description. `name` is what the file is called, `default_price` is for operations that say nothing of theirs.
///
/// # Errors
/// When the text is neither YAML nor JSON, or no OpenAPI 3 description, or the price is none.
pub fn import(text: &str, name: &str, default_price: &str) -> Result<Imported, ImportError> {
    match default_price.parse::<Price>() {
        Ok(Price::Usd(_) | Price::Free | Price::Deny) => {}
        Ok(Price::Atomic { .. }) => return Err(ImportError::Price("atomic units of which network?".to_owned())),
        Err(error) => return Err(ImportError::Price(error.to_string())),
    }
    let document = document::parse(text)?;
    let mut hints = Vec::new();
    let upstream = upstream::of(&document, &mut hints);
    let operations = operations::of(&document, upstream.prefix(), default_price, &mut hints)?;
    Ok(table::write(name, &document, upstream, operations, hints))
}
