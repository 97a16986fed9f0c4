//! Backups of what the KMS knows: keys, versions, aliases, tags, users and policies, the records of
//! disks. Everything secret in it is sealed; the root key is *not* in it.
//!
//! ```text
//! sealdisk-backup 1
//! {"created":...,"root_key_id":...,"bytes":...,"sha256":...}     the manifest, on one line
//! <MAC of the manifest, 64 hexadecimal digits>
//! <the catalog, a SQLite file>
//! ```
//!
//! The MAC is made with a key derived from the sealing key: who changes a backup is found by who
//! has its root key, and nothing of a changed one is restored.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::root::{Provider, Root, RootError, RootParts};
use super::{Account, KmsError};
use crate::catalog::sqlite::{SqliteCatalog, read_root};
use crate::catalog::{Catalog, CatalogError};
use crate::clock::{Clock, Entropy, Timestamp};
use crate::crypto::kdf::hkdf_sha256;
use crate::crypto::mac::{Sha256, constant_time_eq, hmac_sha256};
use crate::secret::Secret;

const FIRST_LINE: &str = "sealdisk-backup 1\n";
const KEY_LABEL: &[u8] = b"sealdisk/backup/v1";

/// Longest manifest, in bytes.
const MANIFEST_BYTES_MAX: u64 = 16 << 10;

/// Files of a data directory that a restore must not meet.
const CATALOG_FILES: [&str; 3] = ["catalog.db", "catalog.db-wal", "catalog.db-shm"];

/// What a backup says of itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// When it was made.
    pub created: String,
    /// By which version of sealdisk.
    pub version: String,
    /// Whose keys are in it: 16 digits.
    pub account_id: String,
    /// Their region.
    pub region: String,
    /// Where its root key came from.
    pub provider: String,
    /// Which root key opens it.
    pub root_key_id: String,
    /// The trail's last record then: a trail that ends before it was cut off.
    pub trail_last_seq: u64,
    /// Bytes of the catalog.
    pub bytes: u64,
    /// Their SHA-256.
    pub sha256: String,
}

/// What a new backup shall say of itself.
#[derive(Clone, Debug)]
pub struct About {
    /// Whose.
    pub account: Account,
    /// The trail's last record.
    pub trail_last_seq: u64,
    /// The time.
    pub now: Timestamp,
}

/// Why a backup was not made, read or restored.
#[derive(Debug)]
pub enum BackupError {
    /// A file could not be read or written.
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// There is a file of this name: nothing is overwritten.
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It is not a backup of ours, or was cut off.
    NotABackup {
        /// The file.
        path: PathBuf,
    },
    /// It is not what was written: changed, or made by another sealing key.
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Catalog or root key.
    Kms(KmsError),
}

impl BackupError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| match source.kind() {
            io::ErrorKind::AlreadyExists => Self::Exists { path: path.to_owned() },
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}

/// Writes a backup to the new file `to` (mode 0600), while serving goes on.
///
/// # Errors
/// [`BackupError`]; there is no file then.
pub fn create(
    root: &Root,
    catalog: &dyn Catalog,
    about: &About,
    to: &Path,
) -> Result<Manifest, BackupError> {
    if to.exists() {
        return Err(BackupError::Exists { path: to.to_owned() });
    }
    let copy = Passing::beside(to, ".catalog")?;
    let unfinished = Passing::beside(to, ".unfinished")?;
    write(root, catalog, about, (to, &copy.path, unfinished))
}

fn write(
    root: &Root,
    catalog: &dyn Catalog,
    about: &About,
    (to, copy, mut unfinished): (&Path, &Path, Passing),
) -> Result<Manifest, BackupError> {
    catalog.copy_to(copy)?;
    // Of the copy itself: a rotation may have come since.
    let record = read_root(copy)?.ok_or(RootError::Corrupt).map_err(KmsError::from)?;
    let mut source = File::open(copy).map_err(BackupError::io(copy))?;
    let (bytes, sha256) = pour(&mut source, &mut io::sink()).map_err(BackupError::io(copy))?;
    let manifest = Manifest {
        created: about.now.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        account_id: about.account.account_id.clone(),
        region: about.account.region.clone(),
        provider: record.provider,
        root_key_id: record.root_key_id,
        trail_last_seq: about.trail_last_seq,
        bytes,
        sha256,
    };
    let line = serde_json::to_string(&manifest).unwrap_or_default();
    let head = format!("{FIRST_LINE}{line}\n{}\n", mac(&root.sealing_key(), &line));
    let mut written = || {
        unfinished.file.write_all(head.as_bytes())?;
        pour(&mut File::open(copy)?, &mut unfinished.file)?;
        unfinished.file.sync_all()?;
        // Linking never takes the place of a file that came in between.
        std::fs::hard_link(&unfinished.path, to)?;
        let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    };
    written().map_err(BackupError::io(to))?;
    Ok(manifest)
}

/// What the backup `file` says of itself, after a check that it is whole. Whether it is what was
/// written, only its root key can tell.
///
/// # Errors
/// [`BackupError`].
pub fn show(file: &Path) -> Result<Manifest, BackupError> {
    let (manifest, _, _, mut reader) = open(file)?;
    let (bytes, sha256) = pour(&mut reader, &mut io::sink()).map_err(BackupError::io(file))?;
    if (bytes, sha256) != (manifest.bytes, manifest.sha256.clone()) {
        return Err(BackupError::Changed { path: file.to_owned() });
    }
    Ok(manifest)
}

/// Puts the catalog of the backup `file` into `data_dir`, where no catalog may be and no daemon may
/// run. Its disks are in it detached; their layers are not in it.
///
/// # Errors
/// [`BackupError`]: `Changed`, and the root key's, before anything is put there.
pub fn restore(
    file: &Path,
    data_dir: &Path,
    provider: Box<dyn Provider>,
    (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>),
) -> Result<Manifest, BackupError> {
    for name in CATALOG_FILES {
        let path = data_dir.join(name);
        if path.exists() {
            return Err(BackupError::Exists { path });
        }
    }
    let unfinished = data_dir.join("catalog.db.restoring");
    // SQLite would apply the log that a crash left of another restore.
    for log in ["-wal", "-shm"].map(|suffix| beside(&unfinished, suffix)) {
        remove_if_there(&log).map_err(BackupError::io(&log))?;
    }
    let restored = copy_out(file, &unfinished).and_then(|(manifest, line, mac_found)| {
        let catalog = Arc::new(SqliteCatalog::open(&unfinished)?);
        let parts = RootParts {
            catalog: Arc::clone(&catalog) as Arc<dyn Catalog>,
            provider,
            previous: None,
            clock,
            entropy,
        };
        let root = Root::unlock(parts)?;
        let expected = mac(&root.sealing_key(), &line);
        if !constant_time_eq(expected.as_bytes(), mac_found.as_bytes()) {
            return Err(BackupError::Changed { path: file.to_owned() });
        }
        catalog.detach_all()?;
        drop(root);
        // Who closes last moves the write-ahead log into the file.
        drop(catalog);
        let path = data_dir.join(CATALOG_FILES[0]);
        let put = || {
            std::fs::rename(&unfinished, &path)?;
            File::open(data_dir)?.sync_all()
        };
        put().map_err(BackupError::io(&path))?;
        Ok(manifest)
    });
    if restored.is_err() {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(beside(&unfinished, suffix));
        }
    }
    restored
}

/// Copies the catalog in `file` to `to`; manifest, its line and its MAC.
fn copy_out(file: &Path, to: &Path) -> Result<(Manifest, String, String), BackupError> {
    let (manifest, line, mac, mut reader) = open(file)?;
    let mut copy = new_file(to).map_err(BackupError::io(to))?;
    let poured = pour(&mut reader, &mut copy).and_then(|poured| {
        copy.sync_all()?;
        Ok(poured)
    });
    if poured.map_err(BackupError::io(to))? != (manifest.bytes, manifest.sha256.clone()) {
        return Err(BackupError::Changed { path: file.to_owned() });
    }
    Ok((manifest, line, mac))
}

/// Reads the head of a backup; the reader stands at the catalog.
fn open(file: &Path) -> Result<(Manifest, String, String, BufReader<File>), BackupError> {
    let not_ours = || BackupError::NotABackup { path: file.to_owned() };
    let mut reader = BufReader::new(File::open(file).map_err(BackupError::io(file))?);
    let mut line = || {
        let mut text = String::new();
        let read = (&mut reader).take(MANIFEST_BYTES_MAX).read_line(&mut text);
        match read {
            Ok(_) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(not_ours()),
            Err(error) => Err(BackupError::io(file)(error)),
        }
    };
    let (first, manifest, mac) = (line()?, line()?, line()?);
    let manifest = manifest.strip_suffix('\n').ok_or_else(not_ours)?.to_owned();
    let mac = mac.strip_suffix('\n').ok_or_else(not_ours)?.to_owned();
    if first != FIRST_LINE {
        return Err(not_ours());
    }
    let parsed = serde_json::from_str(&manifest).map_err(|_| not_ours())?;
    Ok((parsed, manifest, mac, reader))
}

fn mac(sealing_key: &Secret, manifest: &str) -> String {
    let key = hkdf_sha256(sealing_key, KEY_LABEL, 32);
    hex(&hmac_sha256(&key, &[KEY_LABEL, manifest.as_bytes()]))
}

/// Copies all that is left of `from`; how much it was, and its SHA-256.
fn pour(from: &mut impl Read, to: &mut impl Write) -> io::Result<(u64, String)> {
    let mut block = vec![0; 1 << 16];
    let (mut bytes, mut digest) = (0, Sha256::new());
    loop {
        match from.read(&mut block) {
            Ok(0) => return Ok((bytes, hex(&digest.finish()))),
            Ok(count) => {
                digest.update(&block[..count]);
                to.write_all(&block[..count])?;
                bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Names tried for a file that is to be gone again.
const NAMES_MAX: u32 = 1000;

/// A private file of a name that was free, gone when dropped. A crash leaves it behind; nothing
/// that was there before is ever touched.
struct Passing {
    path: PathBuf,
    file: File,
}

impl Passing {
    fn beside(to: &Path, suffix: &str) -> Result<Self, BackupError> {
        let mut taken = None;
        for number in 0..NAMES_MAX {
            let mark = if number == 0 { String::new() } else { format!(".{number}") };
            let path = beside(to, &format!("{suffix}{mark}"));
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            match made {
                Ok(file) => return Ok(Self { path, file }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = Some(path),
                Err(error) => return Err(BackupError::io(&path)(error)),
            }
        }
        Err(BackupError::Exists { path: taken.unwrap_or_else(|| to.to_owned()) })
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // Only gives back space.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A private file, empty, in the place of what a crash left there.
fn new_file(path: &Path) -> io::Result<File> {
    remove_if_there(path)?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl std::fmt::Display for BackupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "backup: {}: {source}", path.display()),
            Self::Exists { path } => {
                write!(f, "backup: {} is there already; nothing is overwritten", path.display())
            }
            Self::NotABackup { path } => {
                write!(f, "backup: {} is no backup of sealdisk, or was cut off", path.display())
            }
            Self::Changed { path } => write!(
                f,
                "backup: {} is not what was written: it was changed or cut off; take another one",
                path.display()
            ),
            Self::Kms(KmsError::Root(error)) => write!(f, "backup: {error}"),
            Self::Kms(error) => write!(f, "backup: {error}"),
        }
    }
}

impl std::error::Error for BackupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Kms(error) => Some(error),
            _ => None,
        }
    }
}

impl From<KmsError> for BackupError {
    fn from(error: KmsError) -> Self {
        Self::Kms(error)
    }
}

impl From<CatalogError> for BackupError {
    fn from(error: CatalogError) -> Self {
        Self::Kms(error.into())
    }
}
