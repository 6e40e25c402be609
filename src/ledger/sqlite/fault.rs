//! What SQLite's errors say about what is on disk.
//!
//! Read from SQLite's source (`sqlite3VdbeHalt`, `sqlite3WalFrames`): in WAL mode a commit writes its frames, the last of
//! which carries the commit mark, then syncs the log, then extends the index in shared memory.

/// SQLite's primary result codes.
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const IOERR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CONSTRAINT: i32 = 19;
const NOTADB: i32 = 26;

/// What a failed COMMIT left behind.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CommitFault {
    /// Nothing, for certain.
    RolledBack,
    /// The commit mark may be in the log, and recovery may find it.
    Unknown,
}

/// Busy, locked and constraint errors come before the first frame is written. "Full" comes from a write, and no write
/// follows that of the commit mark, so the mark is not whole and its checksum fails. Anything else may come from the
/// sync or from the index, when the mark already stands.
pub(super) fn of_commit(error: &sqlx::Error) -> CommitFault {
    match primary_code(error) {
        Some(BUSY | LOCKED | FULL | CONSTRAINT) => CommitFault::RolledBack,
        _ => CommitFault::Unknown,
    }
}

/// Whether nothing more may be written after this error: after a failed fsync the kernel may call pages clean that never
/// reached the disk, so trying again could report success for what is lost (threat E12).
pub(super) fn is_fatal(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(_) => matches!(primary_code(error), Some(IOERR | CORRUPT | NOTADB)),
        sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// Whether a row stands in the way of this one.
pub(super) fn is_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// sqlx gives SQLite's extended code as text; its low byte is the primary one.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::error::Error;

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("code {0}")]
    struct Coded(i32);

    impl DatabaseError for Coded {
        fn message(&self) -> &'static str {
            "coded"
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.to_string().into())
        }

        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    /// SQLite's codes with their extended forms, whether nothing may be written after them, and what a COMMIT that gave
    /// them left behind.
    #[test]
    fn each_fault_of_the_disk_is_judged_by_what_may_be_on_it() {
        let table = [
            (5, false, CommitFault::RolledBack),             // BUSY
            (5 | (2 << 8), false, CommitFault::RolledBack),  // BUSY_SNAPSHOT
            (6, false, CommitFault::RolledBack),             // LOCKED
            (13, false, CommitFault::RolledBack),            // FULL
            (19 | (3 << 8), false, CommitFault::RolledBack), // CONSTRAINT_FOREIGNKEY
            (7, false, CommitFault::Unknown),                // NOMEM
            (1, false, CommitFault::Unknown),                // ERROR
            (10 | (3 << 8), true, CommitFault::Unknown),     // IOERR_WRITE
            (10 | (4 << 8), true, CommitFault::Unknown),     // IOERR_FSYNC
            (10 | (19 << 8), true, CommitFault::Unknown),    // IOERR_SHMSIZE
            (11, true, CommitFault::Unknown),                // CORRUPT
            (26, true, CommitFault::Unknown),                // NOTADB
        ];
        for (code, fatal, fate) in table {
            let error = sqlx::Error::Database(Box::new(Coded(code)));
            assert_eq!(is_fatal(&error), fatal, "{code}");
            assert_eq!(of_commit(&error), fate, "{code}");
        }
        assert!(is_fatal(&sqlx::Error::WorkerCrashed));
        assert_eq!(of_commit(&sqlx::Error::WorkerCrashed), CommitFault::Unknown);
        assert!(!is_fatal(&sqlx::Error::RowNotFound));
    }
}
