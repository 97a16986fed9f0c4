//! The catalog in one SQLite file: what a single host uses.
//!
//! One connection writes, behind a lock; a few others only read, so that nobody who reads waits for
//! a writer whose gate is at the disk. WAL with `synchronous=FULL`: a change that was committed is
//! on the medium.

use std::error::Error;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, ffi};

use super::{
    AliasRecord, Catalog, CatalogError, DiskFilter, DiskRecord, Gate, ImageFilter, ImageRecord,
    JobFilter, JobRecord, KeyRecord, KeyVersionRecord, KmsStatus, LayerRecord, LayerState,
    LayerUses, Listed, Operation, Page, RootRecord, SnapshotFilter, SnapshotRecord, TagFilter,
    TagRecord,
};

mod change;
mod copy;
mod question;
mod ram;
mod row;
mod stack_change;
mod stack_question;
mod stack_row;
mod upgrade;

pub use copy::read_root;

/// Format of the tables; a file with a greater one is refused, one with a lesser one is upgraded.
const FORMAT: u32 = 2;
/// `SLDK`: tells our file from any other SQLite database.
const APPLICATION_ID: i32 = 0x534c_444b;
/// How long a statement waits for another process's lock before the call fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Reading connections kept open between calls; more are opened when needed and closed after.
const IDLE_READERS_MAX: usize = 4;

/// A catalog kept in a SQLite file.
pub struct SqliteCatalog {
    path: PathBuf,
    // Closed first: who closes last moves the write-ahead log into the file; a reader may not.
    idle_readers: Mutex<Vec<Connection>>,
    writer: Mutex<Connection>,
}

/// What SQLite, or the file under it, could not do.
#[derive(Debug)]
pub struct SqliteError {
    path: PathBuf,
    doing: &'static str,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    File(std::io::Error),
    Sqlite(rusqlite::Error),
    Foreign,
    Damaged(String),
}

impl SqliteCatalog {
    /// Opens the catalog at `path`; makes an empty one (mode 0600) if there is none.
    ///
    /// # Errors
    /// [`CatalogError::Newer`] for a later format; [`CatalogError::Database`] for a file that
    /// cannot be opened, is damaged or is not a catalog.
    pub fn open(path: &Path) -> Result<Self, CatalogError> {
        create_file(path).map_err(|error| failure(path, "creating it", Cause::File(error)))?;
        let mut writer = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .and_then(prepare_writer)
            .map_err(|error| failure(path, "opening it", Cause::Sqlite(error)))?;
        upgrade::check_or_create_format(path, &mut writer)?;
        check_integrity(path, &writer)?;
        let idle_readers = Mutex::new(Vec::new());
        Ok(Self { path: path.to_owned(), writer: Mutex::new(writer), idle_readers })
    }

    fn read<T>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, CatalogError> {
        let answer = self.reader().and_then(|mut reader| {
            // One snapshot for all statements of the question.
            let snapshot = reader.transaction_with_behavior(TransactionBehavior::Deferred)?;
            question(&snapshot)
        });
        answer.map_err(|error| failure(&self.path, "reading", Cause::Sqlite(error)))
    }

    fn reader(&self) -> rusqlite::Result<Reader<'_>> {
        let idle = lock(&self.idle_readers).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
        };
        Ok(Reader { home: &self.idle_readers, connection: Some(connection) })
    }

    fn change_error(&self, error: rusqlite::Error) -> CatalogError {
        match constraint_of(&error) {
            Some(ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_UNIQUE) => {
                CatalogError::Exists
            }
            Some(ffi::SQLITE_CONSTRAINT_FOREIGNKEY) => CatalogError::NotFound,
            _ => failure(&self.path, "changing it", Cause::Sqlite(error)),
        }
    }
}

impl Catalog for SqliteCatalog {
    fn apply(&self, operations: &[Operation], gate: Gate<'_>) -> Result<(), CatalogError> {
        let mut writer = lock(&self.writer);
        let transaction = writer
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| self.change_error(error))?;
        // Dropping the transaction on any early return rolls it back.
        for operation in operations {
            change::make(&transaction, operation).map_err(|refusal| match refusal {
                change::Refusal::NotFound => CatalogError::NotFound,
                change::Refusal::Referenced => CatalogError::Referenced,
                change::Refusal::Changed => CatalogError::Changed,
                change::Refusal::Sqlite(error) => self.change_error(error),
            })?;
        }
        gate().map_err(CatalogError::Gate)?;
        transaction.commit().map_err(|error| self.change_error(error))
    }

    fn key(&self, key_id: &str) -> Result<Option<KeyRecord>, CatalogError> {
        self.read(|reader| question::key(reader, key_id))
    }

    fn keys(&self, page: Page) -> Result<Listed<KeyRecord>, CatalogError> {
        self.read(|reader| question::keys(reader, page))
    }

    fn key_version(&self, version_id: &str) -> Result<Option<KeyVersionRecord>, CatalogError> {
        self.read(|reader| question::key_version(reader, version_id))
    }

    fn key_versions(
        &self,
        key_id: &str,
        page: Page,
    ) -> Result<Listed<KeyVersionRecord>, CatalogError> {
        self.read(|reader| question::key_versions(reader, key_id, page))
    }

    fn reserved_wraps(&self, version_id: &str) -> Result<u64, CatalogError> {
        self.read(|reader| question::reserved_wraps(reader, version_id))
    }

    fn key_policy(&self, key_id: &str) -> Result<Option<String>, CatalogError> {
        self.read(|reader| question::key_policy(reader, key_id))
    }

    fn alias(&self, name: &str) -> Result<Option<AliasRecord>, CatalogError> {
        self.read(|reader| question::alias(reader, name))
    }

    fn aliases(
        &self,
        key_id: Option<&str>,
        page: Page,
    ) -> Result<Listed<AliasRecord>, CatalogError> {
        self.read(|reader| question::aliases(reader, key_id, page))
    }

    fn tags(&self, filter: &TagFilter, limit: u64) -> Result<Vec<TagRecord>, CatalogError> {
        self.read(|reader| question::tags(reader, filter, limit))
    }

    fn disk(&self, disk_id: &str) -> Result<Option<DiskRecord>, CatalogError> {
        self.read(|reader| question::disk(reader, disk_id))
    }

    fn disks(&self, filter: &DiskFilter, page: Page) -> Result<Listed<DiskRecord>, CatalogError> {
        self.read(|reader| question::disks(reader, filter, page))
    }

    fn layers(&self, disk_id: &str) -> Result<Vec<LayerRecord>, CatalogError> {
        self.read(|reader| stack_question::layers(reader, disk_id))
    }

    fn layer(&self, layer_id: &str) -> Result<Option<LayerRecord>, CatalogError> {
        self.read(|reader| stack_question::layer(reader, layer_id))
    }

    fn chain(&self, layer_id: &str) -> Result<Vec<LayerRecord>, CatalogError> {
        self.read(|reader| stack_question::chain(reader, layer_id))
    }

    fn layer_uses(&self, layer_id: &str) -> Result<LayerUses, CatalogError> {
        self.read(|reader| stack_question::layer_uses(reader, layer_id))
    }

    fn disks_over(&self, layer_id: &str) -> Result<Vec<String>, CatalogError> {
        self.read(|reader| stack_question::disks_over(reader, layer_id))
    }

    fn all_layers(
        &self,
        state: Option<LayerState>,
        page: Page,
    ) -> Result<Listed<LayerRecord>, CatalogError> {
        self.read(|reader| stack_question::all_layers(reader, state, page))
    }

    fn unreferenced_layers(&self) -> Result<Vec<LayerRecord>, CatalogError> {
        self.read(stack_question::unreferenced)
    }

    fn absorbing_layers(&self) -> Result<Vec<LayerRecord>, CatalogError> {
        self.read(stack_question::absorbing)
    }

    fn snapshot(&self, snapshot_id: &str) -> Result<Option<SnapshotRecord>, CatalogError> {
        self.read(|reader| stack_question::snapshot(reader, snapshot_id))
    }

    fn snapshots(
        &self,
        filter: &SnapshotFilter,
        page: Page,
    ) -> Result<Listed<SnapshotRecord>, CatalogError> {
        self.read(|reader| stack_question::snapshots(reader, filter, page))
    }

    fn image(&self, image_id: &str) -> Result<Option<ImageRecord>, CatalogError> {
        self.read(|reader| stack_question::image(reader, image_id))
    }

    fn images(
        &self,
        filter: &ImageFilter,
        page: Page,
    ) -> Result<Listed<ImageRecord>, CatalogError> {
        self.read(|reader| stack_question::images(reader, filter, page))
    }

    fn job(&self, job_id: &str) -> Result<Option<JobRecord>, CatalogError> {
        self.read(|reader| stack_question::job(reader, job_id))
    }

    fn jobs(&self, filter: &JobFilter, page: Page) -> Result<Listed<JobRecord>, CatalogError> {
        self.read(|reader| stack_question::jobs(reader, filter, page))
    }

    fn root(&self) -> Result<Option<RootRecord>, CatalogError> {
        self.read(question::root)
    }

    fn kms_status(&self) -> Result<KmsStatus, CatalogError> {
        self.read(question::kms_status)
    }

    fn copy_to(&self, to: &Path) -> Result<(), CatalogError> {
        self.copy(to)
    }
}

/// A reading connection on loan.
struct Reader<'a> {
    home: &'a Mutex<Vec<Connection>>,
    connection: Option<Connection>,
}

impl Deref for Reader<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("on loan until drop")
    }
}

impl DerefMut for Reader<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("on loan until drop")
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let mut idle = lock(self.home);
        if idle.len() < IDLE_READERS_MAX {
            idle.extend(self.connection.take());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under the lock has dropped its transaction, so the connection is sound.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SQLite would create the file under the umask; made here it is private from its first moment, and
/// its WAL inherits the mode.
fn create_file(path: &Path) -> std::io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => {
            file.sync_all()?;
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn prepare_writer(connection: Connection) -> rusqlite::Result<Connection> {
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // Destroyed material, sealed as it was, is not to be found in free pages.
    connection.pragma_update_and_check(None, "secure_delete", true, |_| Ok(()))?;
    Ok(connection)
}

fn check_integrity(path: &Path, writer: &Connection) -> Result<(), CatalogError> {
    let verdict: String = writer
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| failure(path, "checking it", Cause::Sqlite(error)))?;
    match verdict.as_str() {
        "ok" => Ok(()),
        _ => {
            let what = verdict.replace('\n', " ");
            Err(failure(path, "checking it", Cause::Damaged(what)))
        }
    }
}

fn failure(path: &Path, doing: &'static str, cause: Cause) -> CatalogError {
    let cause = match cause {
        Cause::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
            Cause::Damaged(error.to_string())
        }
        other => other,
    };
    CatalogError::Database(Box::new(SqliteError { path: path.to_owned(), doing, cause }))
}

fn constraint_of(error: &rusqlite::Error) -> Option<i32> {
    match error {
        rusqlite::Error::SqliteFailure(failure, _)
            if failure.code == ErrorCode::ConstraintViolation =>
        {
            Some(failure.extended_code)
        }
        _ => None,
    }
}

impl fmt::Display for SqliteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "database {}: {} failed: ", self.path.display(), self.doing)?;
        match &self.cause {
            Cause::File(error) => write!(f, "{error}"),
            Cause::Sqlite(error) => write!(f, "{error}"),
            Cause::Foreign => f.write_str("it is not a sealdisk catalog; name another file"),
            Cause::Damaged(what) => write!(f, "it is damaged ({what}); restore a backup"),
        }
    }
}

impl Error for SqliteError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.cause {
            Cause::File(error) => Some(error),
            Cause::Sqlite(error) => Some(error),
            Cause::Foreign | Cause::Damaged(_) => None,
        }
    }
}

impl fmt::Debug for SqliteCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteCatalog").field("path", &self.path).finish_non_exhaustive()
    }
}
