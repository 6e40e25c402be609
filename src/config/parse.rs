//! From a file to a configuration and its mistakes.

use std::fs;
use std::path::Path;

use toml::Spanned;
use toml::de::DeTable;

use super::diagnostic::{Diagnostic, Diagnostics, Location};
use super::model::Config;
use super::raw::Root;
use super::reader::{FromToml as _, Reader};
use super::resolve;
use super::secret_source::Secrets;

/// Far more than any configuration needs.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a file says, as far as it is valid, and its mistakes. Later stages (route table, chains) add theirs to
/// `diagnostics`, so that the operator sees all of them at once.
#[derive(Debug)]
pub struct Parsed {
    /// Without what isn't valid; nothing if too little was. Not to be run unless `diagnostics` is empty.
    pub config: Option<Config>,
    /// Every mistake.
    pub diagnostics: Diagnostics,
}

impl Parsed {
    /// The configuration, if there is no mistake.
    ///
    /// # Errors
    /// Every mistake.
    pub fn into_result(mut self) -> Result<Config, Diagnostics> {
        match self.config {
            Some(config) if self.diagnostics.list.is_empty() => Ok(config),
            _ => {
                if self.diagnostics.list.is_empty() {
                    self.diagnostics.add(Location::default(), "the configuration could not be read", None);
                }
                Err(self.diagnostics)
            }
        }
    }
}

/// Reads and validates a configuration file.
///
/// # Errors
/// Every mistake in it.
pub fn load(file: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Diagnostics> {
    read(file, env).into_result()
}

/// Reads a configuration file as far as it is valid.
pub fn read(file: &Path, env: &dyn Fn(&str) -> Option<String>) -> Parsed {
    match text_of(file) {
        Ok(text) => parse(&text, file, env),
        Err(diagnostic) => {
            Parsed { config: None, diagnostics: Diagnostics { file: file.to_owned(), list: vec![diagnostic] } }
        }
    }
}

fn text_of(file: &Path) -> Result<String, Diagnostic> {
    let first = Location { line: 1, column: 1 };
    let refuse =
        |location, message, hint: Option<&str>| Diagnostic { location, message, hint: hint.map(str::to_owned) };
    let is_too_long = fs::metadata(file).is_ok_and(|metadata| metadata.len() > FILE_BYTES_MAX);
    if is_too_long {
        return Err(refuse(first, format!("the file is longer than {FILE_BYTES_MAX} bytes"), None));
    }
    let bytes = fs::read(file)
        .map_err(|error| refuse(first, format!("can't read the file: {error}"), Some("--config names another file")))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let place = Reader::new(&String::from_utf8_lossy(valid)).place(valid.len());
        refuse(place, "the file is not UTF-8".to_owned(), Some("save it as UTF-8"))
    })
}

/// Validates a configuration; `file` is for messages and for what relative paths are relative to, `env` is the environment.
pub fn parse(text: &str, file: &Path, env: &dyn Fn(&str) -> Option<String>) -> Parsed {
    let mut reader = Reader::new(text);
    let (table, syntax_errors) = DeTable::parse_recoverable(text);
    let mut is_whole = true;
    for error in &syntax_errors {
        let location = reader.place(error.span().map_or(0, |span| span.start));
        // What stands beside a duplicate is still sound; behind a syntax error it may have lost its meaning.
        is_whole &= error.message() == DUPLICATE_KEY;
        let hint = hint_for_syntax(error.message()).map(str::to_owned);
        reader.report.list.push(Diagnostic { location, message: format!("TOML: {}", error.message()), hint });
    }
    let dir = file.parent().unwrap_or(Path::new(""));
    let config = if is_whole {
        let root = Spanned::new(0..0, toml::de::DeValue::Table(table.into_inner()));
        Root::from_toml(&root, &mut reader)
            .and_then(|root| resolve::config(root, file, &Secrets { env, dir }, &mut reader.report))
    } else {
        None
    };
    let mut list = reader.report.list;
    list.sort_by_key(|diagnostic| diagnostic.location);
    Parsed { config, diagnostics: Diagnostics { file: file.to_owned(), list } }
}

/// The TOML parser's words for a key that was set before.
const DUPLICATE_KEY: &str = "duplicate key";

fn hint_for_syntax(message: &str) -> Option<&'static str> {
    if message == DUPLICATE_KEY {
        Some("each key and each [table] may stand only once; it stands further up already")
    } else if message.contains("unquoted key") {
        Some("a key with other characters stands in double quotes: \"/path\" = \"$0.01\"")
    } else if message.contains("must be quoted") {
        Some("a text stands in double quotes")
    } else {
        None
    }
}
