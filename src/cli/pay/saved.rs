//! Signed payments on disk: written and synced before the payment is sent, kept until its answer is complete, so that
//! nothing that happens in between makes a payer sign twice. The key is never among what is saved.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::types::{AccountId, AssetId, AtomicAmount, Network};

/// The file format's version.
const FORMAT: u32 = 1;

/// A request and the signed payment that goes with it. No `Debug`: the payment header is as good as money to the server.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedPayment {
    /// The file format's version.
    pub format: u32,
    /// The file's name without its ending.
    pub id: String,
    /// When it was signed, in Unix seconds.
    pub signed_at_secs: u64,
    /// When the authorization ends, in Unix seconds.
    pub valid_before_secs: u64,
    /// The request's method.
    pub method: String,
    /// The request's URL.
    pub url: String,
    /// The request's headers, without the payment.
    pub headers: Vec<(String, String)>,
    /// The request's body, base64.
    pub body: Option<String>,
    /// 1 or 2.
    pub x402_version: u8,
    /// The payment header's value.
    pub payment: String,
    /// The chain.
    pub network: Network,
    /// The token.
    pub asset: AssetId,
    /// How much, in atomic units.
    pub amount: AtomicAmount,
    /// Who is paid.
    pub pay_to: AccountId,
    /// Who pays.
    pub payer: String,
}

/// Why a payment can't be saved or found.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// Neither option nor environment says where to save.
    #[error("nowhere to save the payment: set HOME or give --state-dir DIR")]
    NoPlace,
    /// The file system failed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// The file holds no saved payment.
    #[error("{path} holds no saved payment: {detail}", path = path.display())]
    Form {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// No payment waits to be resumed.
    #[error("no saved payment in {directory}", directory = .0.display())]
    None(PathBuf),
    /// `--resume` without a name, and several wait.
    #[error("several payments are saved; name one: {names}", names = .0.join(", "))]
    Several(Vec<String>),
}

/// A saved payment and its file.
pub struct Saved {
    /// The file.
    pub path: PathBuf,
    /// What it holds.
    pub payment: SavedPayment,
}

/// The directory that payments are saved in, from the option or by the XDG rules.
///
/// # Errors
/// When nothing names a place.
pub fn directory(option: Option<&Path>) -> Result<PathBuf, SavedError> {
    if let Some(directory) = option {
        return Ok(directory.to_owned());
    }
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("tollhouse/payments")).ok_or(SavedError::NoPlace)
}

impl Saved {
    /// Writes the payment to its own file, readable by its owner only, and returns once the disk holds it.
    ///
    /// # Errors
    /// When it can't be written durably: then it must not be sent.
    pub fn create(directory: &Path, mut payment: SavedPayment) -> Result<Self, SavedError> {
        payment.format = FORMAT;
        let path = directory.join(format!("{}.json", payment.id));
        let draft = directory.join(format!(".{}.tmp", payment.id));
        write_durably(directory, &draft, &path, &payment)
            .map_err(|source| SavedError::Io { path: path.clone(), source })?;
        Ok(Self { path, payment })
    }

    /// Opens a saved payment by file name or id, or the only one there is.
    ///
    /// # Errors
    /// When there is none, or several to choose from.
    pub fn open(directory: &Path, name: &str) -> Result<Self, SavedError> {
        let path = if name.is_empty() {
            only_one(directory)?
        } else if name.contains('/') || name.ends_with(".json") {
            PathBuf::from(name)
        } else {
            directory.join(format!("{name}.json"))
        };
        let text = std::fs::read(&path).map_err(|source| SavedError::Io { path: path.clone(), source })?;
        // Only the place of a mistake is told: its text could be the payment itself.
        let form = |detail: String| SavedError::Form { path: path.clone(), detail };
        let payment: SavedPayment = serde_json::from_slice(&text)
            .map_err(|error| form(format!("line {}, column {}", error.line(), error.column())))?;
        if payment.format != FORMAT || !matches!(payment.x402_version, 1 | 2) {
            return Err(form("it is of another version".to_owned()));
        }
        Ok(Self { path, payment })
    }

    /// Forgets the payment: its answer is complete.
    ///
    /// # Errors
    /// When the file can't be removed.
    pub fn remove(&self) -> Result<(), SavedError> {
        std::fs::remove_file(&self.path).map_err(|source| SavedError::Io { path: self.path.clone(), source })
    }

    /// What to type to present this payment again.
    #[must_use]
    pub fn resume_line(&self) -> String {
        format!("tollhouse pay --resume {}", shell_word(&self.path.to_string_lossy()))
    }
}

fn write_durably(directory: &Path, draft: &Path, path: &Path, payment: &SavedPayment) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let json = serde_json::to_vec_pretty(payment)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    file.write_all(&json)?;
    file.sync_all()?;
    std::fs::rename(draft, path)?;
    // The name is durable only once the directory is.
    File::open(directory)?.sync_all()
}

fn only_one(directory: &Path) -> Result<PathBuf, SavedError> {
    let io_error = |source| SavedError::Io { path: directory.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(SavedError::None(directory.to_owned())),
        Err(error) => return Err(io_error(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(io_error)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !is_hidden && path.extension().is_some_and(|ending| ending == "json") {
            paths.push(path);
        }
    }
    match paths.pop() {
        None => Err(SavedError::None(directory.to_owned())),
        Some(path) if paths.is_empty() => Ok(path),
        Some(path) => {
            paths.push(path);
            let mut names: Vec<String> =
                paths.iter().filter_map(|path| path.file_stem()).map(|name| name.to_string_lossy().into()).collect();
            names.sort();
            Err(SavedError::Several(names))
        }
    }
}

/// Text as one word of a POSIX shell.
fn shell_word(text: &str) -> String {
    let is_plain = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_' | b'+'));
    if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::fixtures;
    use super::*;

    #[test]
    fn a_saved_payment_is_its_owners_alone_and_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("a/b");
        let saved = Saved::create(&state, fixtures::saved("one")).unwrap();
        assert_eq!(std::fs::metadata(&saved.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
        for name in ["one", "", saved.path.to_str().unwrap()] {
            assert_eq!(Saved::open(&state, name).unwrap().payment.payment, saved.payment.payment, "{name:?}");
        }
        saved.remove().unwrap();
        assert!(matches!(Saved::open(&state, ""), Err(SavedError::None(_))));
    }

    #[test]
    fn a_payment_never_overwrites_a_draft_that_is_being_written() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(".one.tmp"), "").unwrap();
        assert!(matches!(Saved::create(directory.path(), fixtures::saved("one")), Err(SavedError::Io { .. })));
    }

    #[test]
    fn of_several_payments_one_must_be_named() {
        let directory = tempfile::tempdir().unwrap();
        for id in ["two", "one"] {
            Saved::create(directory.path(), fixtures::saved(id)).unwrap();
        }
        let error = Saved::open(directory.path(), "").err().unwrap();
        assert_eq!(error.to_string(), "several payments are saved; name one: one, two");
    }

    #[test]
    fn a_file_that_is_no_saved_payment_is_refused_without_quoting_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.json");
        std::fs::write(&file, r#"{"format":1,"canary":"secret"}"#).unwrap();
        let error = Saved::open(directory.path(), "x").err().unwrap().to_string();
        assert!(error.contains("holds no saved payment") && !error.contains("canary"), "{error}");
    }

    #[test]
    fn the_resume_line_survives_a_shell() {
        assert_eq!(shell_word("/a/b-c_1.json"), "/a/b-c_1.json");
        assert_eq!(shell_word("/a b/it's"), r"'/a b/it'\''s'");
    }
}
