//! The catalog as a file: copied while it serves, looked into without serving.

use std::path::Path;

use rusqlite::{OpenFlags, OptionalExtension};

use super::{Cause, SqliteCatalog, connect, failure, lock, row};
use crate::catalog::{CatalogError, RootRecord};

/// The root record of the catalog at `path`, which a daemon may be using; nothing is changed.
///
/// # Errors
/// [`CatalogError::Database`] if it is no catalog, or cannot be read.
pub fn read_root(path: &Path) -> Result<Option<RootRecord>, CatalogError> {
    let text = format!("SELECT {} FROM root", row::ROOT_COLUMNS);
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .and_then(|reader| reader.query_row(&text, [], row::root).optional())
        .map_err(|error| failure(path, "reading its root record", Cause::Sqlite(error)))
}

impl SqliteCatalog {
    /// Marks every attached disk as detached: after a restore nothing serves them.
    ///
    /// # Errors
    /// [`CatalogError::Database`].
    pub fn detach_all(&self) -> Result<(), CatalogError> {
        let detached = lock(&self.writer).execute(
            "UPDATE disk SET status = 'Available', instance_id = NULL \
             WHERE status IN ('Attaching', 'In_use', 'Detaching')",
            [],
        );
        detached
            .map(|_| ())
            .map_err(|error| failure(&self.path, "detaching its disks", Cause::Sqlite(error)))
    }

    /// A consistent copy into the empty file at `to`, which need not be on the same device.
    pub(super) fn copy(&self, to: &Path) -> Result<(), CatalogError> {
        let failed = |error| failure(&self.path, "copying it", Cause::Sqlite(error));
        let name = to.to_str().ok_or_else(|| {
            let error = std::io::Error::other("the name of the copy is no UTF-8");
            failure(to, "copying to it", Cause::File(error))
        })?;
        let reader = self.reader().map_err(failed)?;
        reader.execute("VACUUM INTO ?1", [name]).map_err(failed)?;
        std::fs::File::open(to)
            .and_then(|file| file.sync_all())
            .map_err(|error| failure(to, "making it durable", Cause::File(error)))
    }
}
