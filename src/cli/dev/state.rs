//! The folder in which a shop keeps its keys, its configuration, its books and its chain.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use alloy::primitives::{Address, B256, hex};
use alloy::signers::local::PrivateKeySigner;
use anyhow::{Context, anyhow, bail};
use zeroize::Zeroizing;

use crate::cli::pay::cosmos::CosmosKey;

/// Marks a folder as ours and is locked while a shop runs in it.
const LOCK_FILE: &str = "tollhouse-dev.lock";

/// What addresses of the Cosmos chain start with.
const BECH32_PREFIX: &str = "noble";

/// A folder that is ours; a temporary one goes when this does.
pub(super) struct StateDir {
    path: PathBuf,
    is_kept: bool,
    _lock: File,
}

/// A key that lies in the folder.
#[derive(Debug, Clone)]
pub(super) struct Key {
    name: &'static str,
    /// Whose it is on the EVM chain.
    pub address: Address,
    /// And on the Cosmos chain.
    pub cosmos: String,
}

impl Key {
    /// The file in the folder.
    pub(super) fn file_name(&self) -> String {
        format!("{}.key", self.name)
    }
}

impl StateDir {
    /// Opens the folder, or makes a temporary one.
    pub(super) fn open(kept: Option<&Path>) -> anyhow::Result<Self> {
        let path = match kept {
            Some(path) => path.to_owned(),
            None => temporary()?,
        };
        let mut builder = DirBuilder::new();
        builder.mode(0o700).recursive(kept.is_some());
        builder.create(&path).with_context(|| format!("can't make {}", path.display()))?;
        let path = path.canonicalize().with_context(|| format!("can't use {}", path.display()))?;
        let lock = lock(&path)?;
        Ok(Self { path, is_kept: kept.is_some(), _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file that only its owner can read.
    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.file(name);
        let write = || {
            let mut file = private().truncate(true).create(true).open(&path)?;
            file.write_all(text.as_bytes())
        };
        write().with_context(|| format!("can't write {}", path.display()))
    }

    /// The key in `NAME.key`, made if it isn't there.
    pub(super) fn key(&self, name: &'static str) -> anyhow::Result<Key> {
        let path = self.file(&format!("{name}.key"));
        let failed = || format!("can't use {}", path.display());
        let signer = match std::fs::read_to_string(&path).map(Zeroizing::new) {
            Ok(text) => text.trim().parse::<PrivateKeySigner>().with_context(failed)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut bytes = Zeroizing::new([0_u8; 32]);
                getrandom::fill(bytes.as_mut()).map_err(|error| anyhow!("no randomness for a key: {error}"))?;
                let signer = PrivateKeySigner::from_bytes(&B256::from(*bytes)).with_context(failed)?;
                let text = Zeroizing::new(format!("{}\n", hex::encode_prefixed(bytes.as_slice())));
                let mut file = private().create_new(true).open(&path).with_context(failed)?;
                file.write_all(text.as_bytes()).with_context(failed)?;
                signer
            }
            Err(error) => return Err(error).with_context(failed),
        };
        let cosmos = CosmosKey::new(Zeroizing::new(signer.to_bytes().into())).address(BECH32_PREFIX)?;
        Ok(Key { name, address: signer.address(), cosmos })
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "Could not remove the temporary folder.");
        }
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

fn temporary() -> anyhow::Result<PathBuf> {
    let mut bytes = [0_u8; 8];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no randomness for a folder's name: {error}"))?;
    Ok(std::env::temp_dir().join(format!("tollhouse-dev-{}", hex::encode(bytes))))
}

/// Takes the folder: an empty one, or one that was taken before. Nobody else's files are written over.
fn lock(path: &Path) -> anyhow::Result<File> {
    let file = path.join(LOCK_FILE);
    let failed = || format!("can't use {}", path.display());
    let is_empty = std::fs::read_dir(path).with_context(failed)?.next().is_none();
    if !is_empty && !file.exists() {
        bail!("{} is not empty and was not made by `tollhouse dev`", path.display());
    }
    let lock = private().create(true).truncate(false).open(&file).with_context(failed)?;
    if lock.try_lock().is_err() {
        bail!("another `tollhouse dev` runs in {}", path.display());
    }
    Ok(lock)
}
