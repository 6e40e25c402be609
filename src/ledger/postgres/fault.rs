//! What PostgreSQL's errors say about what was written (its documentation, appendix A).

/// Raised by our own triggers: the row is in the hands of another gateway.
const FENCED: &str = "TH001";

/// What a failed COMMIT left behind.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CommitFault {
    /// Nothing, for certain.
    RolledBack,
    /// The server must be asked what became of the transaction.
    Unknown,
}

/// An integrity violation (class 23) and a rollback (class 40) are said before anything is committed. Whatever else is said, or
/// nothing at all, may come after: the server was told to commit.
pub(super) fn of_commit(error: &sqlx::Error) -> CommitFault {
    match code(error) {
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

/// Whether a transaction was asked for that the server has not begun yet (`invalid_parameter_value`).
pub(super) fn is_of_the_future(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "22023")
}

/// Whether the server answered, however badly: a connection that it answers on is of further use.
pub(super) fn is_answer(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(_) | sqlx::Error::RowNotFound)
}

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}
