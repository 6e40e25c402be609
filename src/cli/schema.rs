//! `tollhouse schema`: prints the JSON Schema of the configuration.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::config;

/// Arguments of `tollhouse schema`: none.
#[derive(Debug, clap::Args)]
pub struct SchemaArgs {}

/// Prints the schema to stdout.
#[must_use]
pub fn run(_args: &SchemaArgs) -> ExitCode {
    match writeln!(io::stdout().lock(), "{:#}", config::json_schema()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_closed) => ExitCode::FAILURE,
    }
}
