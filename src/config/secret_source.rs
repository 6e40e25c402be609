//! Where secrets come from: an environment variable or a file, never the configuration itself.
//!
//! No message shows what a secret, or a text in a secret's place, contains.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use toml::de::DeValue;
use zeroize::Zeroizing;

use super::diagnostic::Location;
use super::model::SignerSource;
use super::reader::{At, FromToml, Node, Reader, Report, looks_like_key, shown};
use super::secret::Secret;
use super::section::section;
use crate::types::ChainKind;

/// Larger than any key, token or password.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

const WHY_NOT_LITERAL: &str = "a secret in this file ends up in backups and version control: write { env = \"NAME\" } and \
                               set that variable, or { file = \"path\" }";

section! {
    /// Where a secret comes from: either key, not both.
    struct SecretTable {
        /// The environment variable that holds it.
        env: String,
        /// The file that holds it, relative to this file; readable by its owner only (0600), or root's and its group's (0640).
        file: String,
    }
}

section! {
    /// Where a signer's key comes from: `env`, `file`, or `keystore` with `password`.
    struct SignerTable {
        /// The environment variable that holds the private key in hexadecimal (EVM) or the key pair in base58 (Solana).
        env: String,
        /// The file that holds the private key in hexadecimal (EVM) or the key pair as solana-keygen wrote it (Solana),
        /// relative to this file; readable by its owner only (0600), or root's and its group's (0640).
        file: String,
        /// An encrypted keystore file (Web3 Secret Storage), relative to this file.
        keystore: String,
        /// The keystore's password.
        password: SecretSource,
    }
}

/// `{ env = … }` or `{ file = … }`.
#[derive(Debug, Clone)]
pub(super) enum SecretSource {
    /// An environment variable.
    Env(At<String>),
    /// A file.
    File(At<String>),
}

impl FromToml for SecretSource {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        refuse_literal(node, reader)?;
        let SecretTable { env, file } = SecretTable::from_toml(node, reader)?;
        match (env, file) {
            (Some(env), None) => Some(Self::Env(env)),
            (None, Some(file)) => Some(Self::File(file)),
            (both, _) => {
                let got = if both.is_some() { "both" } else { "neither" };
                reader.wrong(node, &format!("expected either `env` or `file`, got {got}"), None);
                None
            }
        }
    }

    fn schema() -> Value {
        SecretTable::schema()
    }
}

/// A text that may be secret: written out, or `{ env = … }` or `{ file = … }`.
#[derive(Debug, Clone)]
pub(super) enum TextOrSecret {
    /// Written out.
    Text(Secret),
    /// Read from elsewhere.
    Source(SecretSource),
}

impl FromToml for TextOrSecret {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        match node.get_ref() {
            DeValue::String(text) => Some(Self::Text(Secret::new(text.to_string()))),
            DeValue::Table(_) => SecretSource::from_toml(node, reader).map(Self::Source),
            _ => {
                reader.wrong_type(node, "a string, { env = … } or { file = … }");
                None
            }
        }
    }

    fn schema() -> Value {
        json!({ "anyOf": [{ "type": "string" }, SecretSource::schema()] })
    }
}

/// A signer's key as typed.
#[derive(Debug, Clone)]
pub(super) enum Signer {
    /// The key itself.
    Key(SecretSource),
    /// An encrypted file.
    Keystore {
        /// The file.
        path: At<String>,
        /// Its password.
        password: At<SecretSource>,
    },
}

impl FromToml for Signer {
    fn from_toml(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        refuse_literal(node, reader)?;
        let SignerTable { env, file, keystore, password } = SignerTable::from_toml(node, reader)?;
        match (env, file, keystore, password) {
            (Some(env), None, None, None) => Some(Self::Key(SecretSource::Env(env))),
            (None, Some(file), None, None) => Some(Self::Key(SecretSource::File(file))),
            (None, None, Some(path), Some(password)) => Some(Self::Keystore { path, password }),
            _ => {
                reader.wrong(node, "expected `env`, or `file`, or `keystore` together with `password`", None);
                None
            }
        }
    }

    fn schema() -> Value {
        SignerTable::schema()
    }
}

fn refuse_literal(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<()> {
    if node.get_ref().is_str() || node.get_ref().is_integer() {
        reader.wrong(node, "expected where the secret is, got a literal", Some(WHY_NOT_LITERAL.to_owned()));
        return None;
    }
    Some(())
}

/// How secrets are read, and where mistakes go.
pub(super) struct Secrets<'a> {
    /// The environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// What relative paths are relative to.
    pub dir: &'a Path,
}

impl Secrets<'_> {
    /// Reads a secret that may be written out.
    pub fn read_text(&self, text: &At<TextOrSecret>, report: &mut Report) -> Option<Secret> {
        match &text.value {
            TextOrSecret::Text(secret) => Some(secret.clone()),
            TextOrSecret::Source(source) => self.read(source, report),
        }
    }

    /// Reads a secret; never an empty one.
    pub fn read(&self, source: &SecretSource, report: &mut Report) -> Option<Secret> {
        match source {
            SecretSource::Env(name) => self.read_env(name, report),
            SecretSource::File(path) => self.read_file(path, report),
        }
    }

    /// Reads a signer's key, or its keystore's password.
    pub fn read_signer(&self, signer: &At<Signer>, kind: ChainKind, report: &mut Report) -> Option<SignerSource> {
        let location = signer.location;
        match &signer.value {
            Signer::Key(source) => {
                let key = self.read(source, report)?;
                // What a Solana key pair looks like, its own library says.
                if kind == ChainKind::Evm
                    && let Err(message) = check_key(key.expose())
                {
                    report.error(location, message);
                    return None;
                }
                Some(SignerSource::Key { key, location })
            }
            Signer::Keystore { .. } if kind == ChainKind::Solana => {
                let hint =
                    "write { file = … } with what solana-keygen wrote, or { env = … } with the key pair in base58";
                report.error_with_hint(location, "a Solana signer can't be a Web3 keystore", hint);
                None
            }
            Signer::Keystore { path, password } => {
                let password = self.read(&password.value, report);
                let path = self.existing_private_file(path, report)?;
                Some(SignerSource::Keystore { path, password: password?, location })
            }
        }
    }

    fn read_env(&self, name: &At<String>, report: &mut Report) -> Option<Secret> {
        let shown = shown(&name.value);
        let is_name = name.value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && name.value.starts_with(|first: char| !first.is_ascii_digit());
        if !is_name || looks_like_key(&name.value) {
            let message = "expected the name of an environment variable: letters, digits and `_`";
            report.error_with_hint(name.location, message, "the secret itself does not belong in this file");
            return None;
        }
        match (self.env)(&name.value).map(Secret::new) {
            Some(secret) if !secret.expose().trim().is_empty() => Some(without_line_end(secret.expose())),
            Some(_) => {
                report.error(name.location, format!("the environment variable {shown} is empty"));
                None
            }
            None => {
                let hint = format!("export {}=…", name.value);
                report.error_with_hint(name.location, format!("the environment variable {shown} is not set"), hint);
                None
            }
        }
    }

    fn read_file(&self, path: &At<String>, report: &mut Report) -> Option<Secret> {
        let file = self.existing_private_file(path, report)?;
        let mut text = Zeroizing::new(String::new());
        let read = fs::File::open(&file).and_then(|file| file.take(SECRET_BYTES_MAX).read_to_string(&mut text));
        if let Err(error) = read {
            report.error(path.location, format!("can't read the file {}: {error}", shown(&path.value)));
            return None;
        }
        if text.trim().is_empty() {
            report.error(path.location, format!("the file {} is empty", shown(&path.value)));
            return None;
        }
        Some(without_line_end(&text))
    }

    /// The file, if it is there.
    pub fn existing_file(&self, path: &At<String>, report: &mut Report) -> Option<PathBuf> {
        self.found(path, report).map(|(file, _metadata)| file)
    }

    fn found(&self, path: &At<String>, report: &mut Report) -> Option<(PathBuf, fs::Metadata)> {
        let At { value, location } = path;
        let file = self.dir.join(value);
        match fs::metadata(&file) {
            Ok(metadata) if metadata.is_file() => Some((file, metadata)),
            Ok(_) => {
                report.error(*location, format!("{} is not a file", shown(value)));
                None
            }
            Err(error) => {
                let hint = "paths are relative to the configuration file";
                report.error_with_hint(*location, format!("can't read the file {}: {error}", shown(value)), hint);
                None
            }
        }
    }

    /// The file, if it is there and nobody reads it who isn't meant to.
    pub fn existing_private_file(&self, path: &At<String>, report: &mut Report) -> Option<PathBuf> {
        let At { value, location } = path;
        let (file, metadata) = self.found(path, report)?;
        let mode = metadata.mode() & 0o777;
        if !is_private(mode, metadata.uid()) {
            let message =
                format!("the secret file {} is open to others than its owner (mode {mode:04o})", shown(value));
            report.error_with_hint(*location, message, format!("chmod 600 {}", shown(value)));
            return None;
        }
        Some(file)
    }
}

/// Whether a file is its owner's alone, or is root's and handed to one group to read: so systemd (by an access list, which
/// shows as the group's right), Kubernetes and containers give secrets to a service that isn't root.
fn is_private(mode: u32, owner: u32) -> bool {
    mode & 0o077 == 0 || (owner == 0 && mode & 0o037 == 0)
}

/// Editors and `echo` end a file with a line end, which is no part of the secret.
fn without_line_end(text: &str) -> Secret {
    Secret::new(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// The order of secp256k1's group (SEC 2 §2.4.1): private keys lie between zero and it.
const SECP256K1_ORDER: &str = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";

/// Whether a text is a private key in hexadecimal; the message never holds the text.
fn check_key(text: &str) -> Result<(), String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let length = digits.chars().count();
        return Err(format!(
            "expected a private key of 64 hexadecimal digits, got {length} characters that are no such key"
        ));
    }
    let lower = Zeroizing::new(digits.to_ascii_lowercase());
    if lower.bytes().all(|byte| byte == b'0') {
        return Err("the private key is zero".to_owned());
    }
    if lower.as_str() >= SECP256K1_ORDER {
        return Err("the private key is larger than the curve's order".to_owned());
    }
    Ok(())
}

/// Where a signer was named.
pub(super) fn location_of(signer: &SignerSource) -> Location {
    match signer {
        SignerSource::Key { location, .. } | SignerSource::Keystore { location, .. } => *location,
    }
}

#[cfg(test)]
mod tests {
    use super::is_private;

    #[test]
    fn only_root_may_hand_a_secret_to_a_group_and_only_to_read() {
        for (mode, owner, expected) in [
            (0o600, 1000, true),
            (0o400, 0, true),
            (0o440, 0, true),
            (0o640, 0, true),
            (0o440, 1000, false),
            (0o640, 1000, false),
            (0o444, 0, false),
            (0o644, 0, false),
            (0o660, 0, false),
            (0o650, 0, false),
            (0o601, 0, false),
        ] {
            assert_eq!(is_private(mode, owner), expected, "{mode:o} of {owner}");
        }
    }
}
