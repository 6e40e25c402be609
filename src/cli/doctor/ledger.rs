//! Whether the books can be kept, without disturbing a gateway that keeps them.

use std::fs::OpenOptions;
use std::path::Path;

use crate::chain::Finding;
use crate::cli::check::check_ledger_place;
use crate::config::{Config, LedgerUrl};
use crate::ledger::{PostgresReader, SqliteReader};

pub(super) async fn examine(config: &Config) -> Finding {
    match &config.ledger.url {
        LedgerUrl::Sqlite(file) => sqlite(config, file).await,
        LedgerUrl::Postgres(url) => match PostgresReader::examine(url.expose()).await {
            Ok(true) => Finding::ok("ledger", "the database holds books of this version, and keeps what it was told"),
            Ok(false) => Finding::ok("ledger", "the database keeps what it was told; the first `run` makes the tables"),
            Err(error) => {
                let hint = "check ledger.url and the database's settings: docs/operations.md says which it must have";
                Finding::fail("ledger", error.to_string(), hint)
            }
        },
    }
}

async fn sqlite(config: &Config, file: &Path) -> Finding {
    let shown = file.display();
    if let Err(error) = check_ledger_place(config) {
        return Finding::fail("ledger", error.to_string(), "create the folder, or correct ledger.url");
    }
    let hint = "let the user that runs the gateway own the ledger's folder and the files in it";
    if !file.exists() {
        return match can_write_beside(file) {
            Ok(()) => Finding::ok("ledger", format!("{shown} will be created by the first `run`")),
            Err(error) => Finding::fail("ledger", format!("{shown} can't be created: {error}"), hint),
        };
    }
    if let Err(error) = OpenOptions::new().write(true).open(file) {
        return Finding::fail("ledger", format!("{shown} can't be written: {error}"), hint);
    }
    if let Err(error) = can_write_beside(file) {
        return Finding::fail("ledger", format!("nothing can be written beside {shown}: {error}"), hint);
    }
    match SqliteReader::open(file).await {
        Ok(reader) => {
            reader.close().await;
            Finding::ok("ledger", format!("{shown} is there, of this version, and can be written"))
        }
        Err(error) => {
            let hint = "use the version of tollhouse that wrote it or a later one, or restore it from a copy";
            Finding::fail("ledger", format!("{shown} can't be used: {error}"), hint)
        }
    }
}

/// Tries it with a file of its own, which it takes away again: the store keeps further files beside its own.
fn can_write_beside(file: &Path) -> std::io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let trial = folder.join(format!(".tollhouse-doctor-{}", std::process::id()));
    OpenOptions::new().write(true).create_new(true).open(&trial)?;
    std::fs::remove_file(&trial)
}
