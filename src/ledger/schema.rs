//! Versions of the tables, whatever the store.

use std::fmt::Display;

use sqlx::migrate::{MigrateError, Migrator};

use super::LedgerError;

pub(super) fn open_error(what: impl Display, error: impl Display) -> LedgerError {
    LedgerError::Open(format!("{what}: {error}"))
}

/// Why the tables could not be brought to this version.
pub(super) fn migrate_error(error: &MigrateError) -> LedgerError {
    match error {
        MigrateError::VersionMissing(version) => newer(*version),
        MigrateError::VersionMismatch(version) => {
            open_error("its schema", format_args!("version {version} is not the one this Tollhouse knows"))
        }
        other => open_error("its schema", other),
    }
}

/// Refuses books of another version than these migrations end with.
pub(super) fn version_error(found: Option<i64>, migrations: &Migrator) -> Result<(), LedgerError> {
    let known = migrations.iter().map(|migration| migration.version).max().unwrap_or(0);
    match found {
        Some(version) if version == known => Ok(()),
        Some(version) if version > known => Err(newer(version)),
        _ => Err(open_error("its schema", "it is of an older Tollhouse; start the gateway once to bring it up")),
    }
}

fn newer(version: i64) -> LedgerError {
    open_error("its schema", format_args!("version {version} is of a newer Tollhouse; run that one"))
}
