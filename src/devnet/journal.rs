//! The chain on disk: the blocks that weren't empty, one a line. Run again from the start they give the same state, the
//! same hashes and the same receipts, so that books kept beside it stay true.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use alloy::primitives::{B256, Bytes};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Why a chain can't be taken up again.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file can't be read or written.
    #[error("can't use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line is no block of this chain.
    #[error("{}:{line}: {message}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
}

/// A block as far as it can't be worked out again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub(super) number: u64,
    pub(super) timestamp: u64,
    pub(super) parent_hash: B256,
    pub(super) hash: B256,
    pub(super) transactions: Vec<Bytes>,
}

/// The file that blocks are added to.
pub struct Journal<E = Entry> {
    path: PathBuf,
    file: File,
    entries: Vec<E>,
}

impl<E: Serialize + DeserializeOwned> Journal<E> {
    /// Opens or makes the file and reads what is in it. A last line that was cut short by a crash is dropped: nobody was
    /// told of its block.
    ///
    /// # Errors
    /// When the file can't be read or written, or holds something else.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |source| JournalError::File { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(failed)?;
        let (mut entries, mut kept_bytes) = (Vec::new(), 0_u64);
        let mut reader = BufReader::new(&file);
        let mut text = String::new();
        loop {
            text.clear();
            let length = reader.read_line(&mut text).map_err(failed)?;
            if !text.ends_with('\n') {
                break;
            }
            let entry = serde_json::from_str(&text).map_err(|error| JournalError::Line {
                path: path.to_owned(),
                line: entries.len().saturating_add(1),
                message: error.to_string(),
            })?;
            entries.push(entry);
            kept_bytes = kept_bytes.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        }
        file.set_len(kept_bytes).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, entries })
    }

    /// What was read, once.
    pub(super) fn take_entries(&mut self) -> Vec<E> {
        std::mem::take(&mut self.entries)
    }

    /// Adds a block.
    pub(super) fn append(&mut self, entry: &E) -> Result<(), JournalError> {
        let mut line = serde_json::to_vec(entry).unwrap_or_default();
        line.push(b'\n');
        self.file.write_all(&line).map_err(|source| JournalError::File { path: self.path.clone(), source })
    }

    /// Says that a line isn't what came of it when it was run again.
    pub(super) fn disagrees(&self, index: usize, message: impl Into<String>) -> JournalError {
        JournalError::Line { path: self.path.clone(), line: index.saturating_add(1), message: message.into() }
    }
}
