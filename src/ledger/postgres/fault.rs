//! What PostgreSQL's errors say about what was written (its documentation, appendix A).

/// Raised by our own triggers: the row is in the hands of another gateway.
const FENCED: &str = "TH001";

/// The one error of class 40 that says nothing.
const STATEMENT_COMPLETION_UNKNOWN: &str = "40003";

/// What a failed COMMIT left behind.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CommitFault {
    /// Nothing, for certain.
    RolledBack,
    /// The server must be asked what became of the change.
    Unknown,
}

/// An integrity violation (class 23) and a rollback (class 40) are said before anything is committed. Whatever else is said, or
/// nothing at all, may come after: the server was told to commit.
pub(super) fn of_commit(error: &sqlx::Error) -> CommitFault {
    match code(error) {
        Some(code) if code == STATEMENT_COMPLETION_UNKNOWN => CommitFault::Unknown,
        Some(code) if code.starts_with("23") || code.starts_with("40") => CommitFault::RolledBack,
        _ => CommitFault::Unknown,
    }
}

/// Whether a row stands in the way of this one.
pub(super) fn is_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// Whether another gateway has what was to be written.
pub(super) fn is_fenced(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some(FENCED)
}

/// Whether somebody else's transaction has what was asked for, and kept it for as long as one waits (`lock_not_available`).
pub(super) fn is_locked(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("55P03")
}

/// Whether these are no books of ours: a table is missing (`undefined_table`), or may not be used (`insufficient_privilege`).
pub(super) fn is_of_other_books(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("42P01" | "42501"))
}

/// Whether the server answered, however badly: a connection that it answers on is of further use.
pub(super) fn is_answer(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(_) | sqlx::Error::RowNotFound)
}

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}
