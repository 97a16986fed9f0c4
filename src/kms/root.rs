//! The root key: its file, and how a catalog knows it again.
//!
//! The file holds 64 hexadecimal digits and a line end, mode 0600. It is made whole or not at all,
//! and only for a catalog that has no root key yet: a lost file is never silently replaced, for
//! what was wrapped under it would be lost with it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::KmsError;
use crate::catalog::{Catalog, CatalogError, Operation, Page, RootRecord};
use crate::clock::Entropy;
use crate::crypto::kdf::hkdf_sha256;
use crate::crypto::{aead, mac};
use crate::secret::Secret;

const KEY_BYTES: usize = 32;
const FILE_BYTES: usize = KEY_BYTES * 2 + 1;
/// Permissions that others must not have.
const OTHERS: u32 = 0o077;

const ID_LABEL: &[u8] = b"sealdisk/root-key-id/v1";
const CANARY_KEY: &[u8] = b"sealdisk/root-canary/v1";
const CANARY_TEXT: &[u8] = b"sealdisk root key canary";

/// What is wrong with the root key.
#[derive(Debug)]
pub enum RootError {
    /// The catalog has a root key and its file is not there.
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The key is not the one the catalog was made with.
    Wrong {
        /// Id of the key at hand.
        found: String,
        /// Id of the key that is needed.
        expected: String,
    },
    /// The catalog's record of its root key is damaged, or gone while keys are there.
    Corrupt,
    /// The file does not hold a key.
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner may read or write the file.
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file could not be read or made.
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

/// The root key in the file at `path`. If there is no file and `may_create` (the catalog has no
/// root record), a fresh one is made.
///
/// # Errors
/// [`RootError`]: all but `Wrong` and `Corrupt`, which only the catalog can tell.
pub fn load_or_create(
    path: &Path,
    may_create: bool,
    entropy: &dyn Entropy,
) -> Result<Secret, RootError> {
    match File::open(path) {
        Ok(file) => load(path, &file),
        Err(error) if error.kind() == io::ErrorKind::NotFound && may_create => {
            create(path, entropy)
                .map_err(|source| RootError::Io { path: path.to_owned(), source })?;
            // Read back what lies on the medium: the next start has nothing else.
            load_or_create(path, false, entropy)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(RootError::Missing { path: path.to_owned() })
        }
        Err(source) => Err(RootError::Io { path: path.to_owned(), source }),
    }
}

/// Checks that `root` is the catalog's root key, where the catalog has one. To be asked before the
/// key is used for anything: what was sealed under another one looks damaged, and is not.
///
/// # Errors
/// [`RootError`], or the catalog's.
pub fn check_known(catalog: &dyn Catalog, root: &Secret) -> Result<(), KmsError> {
    match catalog.root()? {
        Some(record) => Ok(check(&record, root)?),
        None => Ok(()),
    }
}

/// The key of the trail's chain, derived from the root key.
pub fn trail_key(root: &Secret) -> Secret {
    hkdf_sha256(root, b"sealdisk/trail/v1", 32)
}

/// The key that wraps the secrets of access keys, derived from the root key.
pub fn ram_key(root: &Secret) -> Secret {
    hkdf_sha256(root, b"sealdisk/ram/v1", 32)
}

fn load(path: &Path, file: &File) -> Result<Secret, RootError> {
    let failed = |source| RootError::Io { path: path.to_owned(), source };
    let malformed = || RootError::Malformed { path: path.to_owned() };
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.mode() & 0o7777;
    if !metadata.is_file() {
        return Err(malformed());
    }
    if mode & OTHERS != 0 {
        return Err(RootError::Exposed { path: path.to_owned(), mode });
    }
    // One byte more than a key, to see that nothing follows; straight into secret memory.
    let mut text = Secret::zeroed(FILE_BYTES + 1);
    let mut length = 0;
    loop {
        match (&*file).read(&mut text.expose_mut()[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let text = &text.expose()[..length];
    let digits = text.strip_suffix(b"\n").unwrap_or(text);
    if digits.len() != KEY_BYTES * 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(malformed());
    }
    Ok(Secret::from_fn(KEY_BYTES, |key| {
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
        }
    }))
}

fn create(path: &Path, entropy: &dyn Entropy) -> io::Result<()> {
    let key = Secret::random(KEY_BYTES, entropy);
    let text = Secret::from_fn(FILE_BYTES, |text| {
        for (pair, byte) in text.chunks_exact_mut(2).zip(key.expose()) {
            pair[0] = digit(byte >> 4);
            pair[1] = digit(byte & 15);
        }
        text[FILE_BYTES - 1] = b'\n';
    });
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let unfinished = directory.join(name);
    // What a crash left there was never a root key.
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
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
    File::open(directory)?.sync_all()
}

/// Checks that `root` is the catalog's root key; makes it so if the catalog has neither one nor
/// any key.
pub(super) fn check_or_adopt(
    catalog: &dyn Catalog,
    root: &Secret,
    entropy: &dyn Entropy,
) -> Result<(), KmsError> {
    match catalog.root()? {
        Some(record) => Ok(check(&record, root)?),
        None if catalog.keys(Page { offset: 0, limit: 1 })?.total > 0 => {
            Err(RootError::Corrupt.into())
        }
        None => {
            let record = describe(root, entropy);
            match catalog.apply(&[Operation::InsertRoot(record)], &mut || Ok(())) {
                // Another host adopted one meanwhile.
                Err(CatalogError::Exists) => check_or_adopt(catalog, root, entropy),
                applied => Ok(applied?),
            }
        }
    }
}

fn check(record: &RootRecord, root: &Secret) -> Result<(), RootError> {
    let found = root_key_id(root);
    let is_same_id = found == record.root_key_id;
    match (is_same_id, open_canary(&record.canary, root)) {
        (true, true) => Ok(()),
        (false, false) => Err(RootError::Wrong { found, expected: record.root_key_id.clone() }),
        (true, false) | (false, true) => Err(RootError::Corrupt),
    }
}

fn describe(root: &Secret, entropy: &dyn Entropy) -> RootRecord {
    let mut iv = [0; 12];
    entropy.fill(&mut iv);
    let sealed = aead::seal(&hkdf_sha256(root, CANARY_KEY, 32), iv, CANARY_KEY, CANARY_TEXT);
    let canary = [&iv[..], &sealed].concat();
    RootRecord { provider: "file".into(), root_key_id: root_key_id(root), canary }
}

fn open_canary(canary: &[u8], root: &Secret) -> bool {
    canary.split_first_chunk::<12>().is_some_and(|(iv, sealed)| {
        aead::open(&hkdf_sha256(root, CANARY_KEY, 32), *iv, CANARY_KEY, sealed)
            .is_ok_and(|text| text.expose() == CANARY_TEXT)
    })
}

fn root_key_id(root: &Secret) -> String {
    let hash = mac::hmac_sha256(root, &[ID_LABEL]);
    hash[..16]
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .map(char::from)
        .collect()
}

const fn digit(value: u8) -> u8 {
    match value {
        0..=9 => b'0' + value,
        _ => b'a' + value - 10,
    }
}

const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

impl fmt::Display for RootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { path } => write!(
                f,
                "root key: {} is missing, and the catalog needs the key that was there; restore it \
                 from its backup",
                path.display()
            ),
            Self::Wrong { found, expected } => write!(
                f,
                "root key: this is key {found}, the catalog needs key {expected}; restore that one"
            ),
            Self::Corrupt => f.write_str(
                "root key: the catalog's record of its root key is damaged; restore the catalog",
            ),
            Self::Malformed { path } => write!(
                f,
                "root key: {} does not hold 64 hexadecimal digits; restore it from its backup",
                path.display()
            ),
            Self::Exposed { path, mode } => write!(
                f,
                "root key: {} is open to others than its owner (mode {mode:04o}); if they can be \
                 trusted, chmod 600 it",
                path.display()
            ),
            Self::Io { path, source } => write!(f, "root key: {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for RootError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
