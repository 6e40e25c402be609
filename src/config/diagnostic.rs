//! Mistakes in a configuration, each with its place.

use std::fmt;
use std::path::PathBuf;

/// A place in the configuration file; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Location {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// One mistake: what was expected, what came, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where.
    pub location: Location,
    /// What was expected and what came.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// All mistakes of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    /// The file, as the operator named it.
    pub file: PathBuf,
    /// The mistakes.
    pub list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Adds a mistake that a later stage found.
    pub fn add(&mut self, location: Location, message: impl Into<String>, hint: Option<String>) {
        self.list.push(Diagnostic { location, message: message.into(), hint });
    }
}

impl fmt::Display for Diagnostics {
    /// One mistake a line, as `file:line:col: message`, each followed by its `hint:` line; in order of place.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list: Vec<&Diagnostic> = self.list.iter().collect();
        list.sort_by_key(|diagnostic| diagnostic.location);
        for diagnostic in list {
            let Location { line, column } = diagnostic.location;
            writeln!(formatter, "{}:{line}:{column}: {}", self.file.display(), diagnostic.message)?;
            if let Some(hint) = &diagnostic.hint {
                writeln!(formatter, "  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}
