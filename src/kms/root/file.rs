//! A root key in a file: 64 hexadecimal digits and a line end, mode 0600.
//!
//! It is made whole or not at all, and only for a catalog that has no root key yet: a lost file is
//! never silently replaced, for what was sealed under it would be lost with it.
//!
//! A rotation puts the new key beside it (`.next`) before the catalog learns of it, and in its
//! place after; the one before stays as `.previous`, for older backups need it. A crash in between
//! leaves the catalog naming either the one or the other, and both are there.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::key::{RootKey, SoftwareKey, from_hex, to_hex};
use super::{KEY_BYTES, Loaded, Provider, RootError};
use crate::catalog::RootRecord;
use crate::clock::Entropy;
use crate::secret::Secret;

/// Permissions that others must not have.
const OTHERS: u32 = 0o077;

/// The provider `file`.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it is made if it is not there and the catalog has no root key.
    pub may_create: bool,
}

impl KeyFile {
    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        self.path.with_file_name(name)
    }

    fn next(&self) -> PathBuf {
        self.beside(".next")
    }

    /// Where the key before the last rotation is.
    pub fn previous(&self) -> PathBuf {
        self.beside(".previous")
    }

    /// The key that was prepared, if the catalog names it. A file that cannot be read is an error:
    /// it may be the only copy of the root key.
    fn prepared(&self, known: &RootRecord) -> Result<Option<SoftwareKey>, RootError> {
        match self.read(&self.next()) {
            Ok(key) => Ok(Some(key).filter(|key| key.id() == known.root_key_id)),
            // Cut short while it was written: the catalog never came to name it.
            Err(RootError::Malformed { .. }) => Ok(None),
            Err(RootError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn read(&self, path: &Path) -> Result<SoftwareKey, RootError> {
        let text = read_private(path, KEY_BYTES * 2 + 2)?;
        let key = from_hex(text.expose());
        let malformed = || RootError::Malformed { path: path.to_owned() };
        key.map(SoftwareKey::new).ok_or_else(malformed)
    }
}

impl Provider for KeyFile {
    fn name(&self) -> &'static str {
        "file"
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn load(&self, known: Option<&RootRecord>, entropy: &dyn Entropy) -> Result<Loaded, RootError> {
        let found = self.read(&self.path);
        if let Some(known) = known
            && !found.as_ref().is_ok_and(|key| key.id() == known.root_key_id)
            && let Some(next) = self.prepared(known)?
        {
            // A crash came between the catalog's change and that of the files.
            self.promote()?;
            return Ok(Loaded::new(next));
        }
        match found {
            Err(RootError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                if known.is_some() || !self.may_create {
                    return Err(RootError::Missing { path: self.path.clone() });
                }
                create(&self.path, &Secret::random(KEY_BYTES, entropy))
                    .map_err(|source| RootError::Io { path: self.path.clone(), source })?;
                // Read back what lies on the medium: the next start has nothing else.
                Ok(Loaded::new(self.read(&self.path)?))
            }
            found => Ok(Loaded::new(found?)),
        }
    }

    fn prepare(
        &self,
        known: &RootRecord,
        given: Option<&Secret>,
        entropy: &dyn Entropy,
    ) -> Result<Loaded, RootError> {
        if given.is_some() {
            return Err(RootError::SecretUnneeded { provider: self.name() });
        }
        if self.prepared(known)?.is_some() {
            // The last rotation could not put its key in place; it must not be overwritten.
            self.promote()?;
        }
        let next = self.next();
        let failed = |source| RootError::Io { path: next.clone(), source };
        // What an earlier try left there never became the root key.
        remove_if_there(&next).map_err(failed)?;
        create(&next, &Secret::random(KEY_BYTES, entropy)).map_err(failed)?;
        Ok(Loaded::new(self.read(&next)?))
    }

    fn promote(&self) -> Result<(), RootError> {
        if !self.next().exists() {
            return Ok(());
        }
        let promoted = || {
            let previous = self.previous();
            remove_if_there(&previous)?;
            match std::fs::hard_link(&self.path, &previous) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            std::fs::rename(self.next(), &self.path)?;
            File::open(directory_of(&self.path))?.sync_all()
        };
        promoted().map_err(|source| RootError::Io { path: self.path.clone(), source })
    }
}

/// Reads a file that others must not see, at most `bytes_max` of it, into secret memory.
pub(super) fn read_private(path: &Path, bytes_max: usize) -> Result<Secret, RootError> {
    let failed = |source| RootError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.mode() & 0o7777;
    if !metadata.is_file() {
        return Err(RootError::Malformed { path: path.to_owned() });
    }
    if mode & OTHERS != 0 {
        return Err(RootError::Exposed { path: path.to_owned(), mode });
    }
    read_secret(&file, bytes_max).map_err(failed)
}

/// Reads at most `bytes_max`, straight into secret memory.
pub(super) fn read_secret(mut file: &File, bytes_max: usize) -> io::Result<Secret> {
    let mut text = Secret::zeroed(bytes_max);
    let mut length = 0;
    while length < bytes_max {
        match file.read(&mut text.expose_mut()[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Secret::from_fn(length, |exact| exact.copy_from_slice(&text.expose()[..length])))
}

fn create(path: &Path, key: &Secret) -> io::Result<()> {
    let text = to_hex(key);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let unfinished = path.with_file_name(name);
    // What a crash left there was never a root key.
    remove_if_there(&unfinished)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(text.expose())?;
    file.sync_all()?;
    // Linking, unlike renaming, never takes the place of a key that came in between.
    let linked = std::fs::hard_link(&unfinished, path);
    std::fs::remove_file(&unfinished)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(directory_of(path))?.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
