//! `tollhouse schema`: prints the JSON Schema of the configuration.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::config;

/// Prints the schema to stdout.
#[must_use]
pub(super) fn run() -> ExitCode {
    match writeln!(io::stdout().lock(), "{:#}", config::json_schema()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_closed) => ExitCode::FAILURE,
    }
}
