//! Log lines to stderr, so that stdout holds nothing but data. Knows nothing of the configuration file.

use std::io;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::fmt::MakeWriter;

use super::lossy::LossyWriter;

/// How long the last lines may take.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Why logging can't start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// A directive that is neither a level nor `target=level`.
    #[error("log level {0:?} is no level: expected trace, debug, info, warn, error or off, or `target=level`")]
    Level(String),
    /// A directive that can't be read.
    #[error("log level {level:?} can't be read: {source}")]
    Directive {
        /// The whole text.
        level: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// Logging was started before.
    #[error("logging was started already")]
    Started,
    /// There is no thread that writes.
    #[error("can't start the thread that writes the log: {0}")]
    Thread(io::Error),
}

/// Sees to it that the last lines are written before the process ends; keep it until then.
#[derive(Debug)]
#[must_use]
pub struct LogGuard(LossyWriter);

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.0.flush(FLUSH_TIMEOUT);
    }
}

/// Starts logging for the whole process: `level` is a filter such as `info` or `info,tollhouse=debug`; one line of text
/// or, `as_json`, one JSON object per event. Whoever logs waits for whoever reads: for commands that end by themselves.
///
/// # Errors
/// When the filter can't be read, or logging was started before.
pub fn init(level: &str, as_json: bool) -> Result<(), LoggingError> {
    start(level, as_json, io::stderr)
}

/// The same for a server: nobody waits for whoever reads standard error; lines that find no room are counted, and told of later.
///
/// # Errors
/// As [`init`], and when there is no thread.
pub fn init_lossy(level: &str, as_json: bool) -> Result<LogGuard, LoggingError> {
    let writer = LossyWriter::start(io::stderr()).map_err(LoggingError::Thread)?;
    start(level, as_json, writer.clone())?;
    Ok(LogGuard(writer))
}

fn start<W>(level: &str, as_json: bool, writer: W) -> Result<(), LoggingError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = filter(level)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let started = if as_json { lines.json().flatten_event(true).try_init() } else { lines.try_init() };
    started.map_err(|_error| LoggingError::Started)
}

/// Reads a filter.
///
/// # Errors
/// When a directive can't be read, or is a bare word that is no level: the subscriber would take a mistyped level for
/// a target and log next to nothing.
pub fn filter(level: &str) -> Result<EnvFilter, LoggingError> {
    let directives: Vec<&str> = level.split(',').map(str::trim).collect();
    for directive in &directives {
        let is_bare = !directive.contains(['=', '[']);
        if directive.is_empty() || (is_bare && directive.parse::<LevelFilter>().is_err()) {
            return Err(LoggingError::Level((*directive).to_owned()));
        }
    }
    EnvFilter::try_new(directives.join(","))
        .map_err(|source| LoggingError::Directive { level: level.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_targets_are_read() {
        for good in ["info", "off", "WARN", "info,tollhouse=debug", "warn, tollhouse::payment=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_mistyped_level_is_an_error_not_a_target() {
        assert!(matches!(filter("inof"), Err(LoggingError::Level(word)) if word == "inof"));
        assert!(matches!(filter(""), Err(LoggingError::Level(_))));
        let error = filter("tollhouse=loud").unwrap_err();
        assert!(error.to_string().contains("tollhouse=loud"), "{error}");
    }
}
