//! The format of the file: made, checked, upgraded.
//!
//! A new catalog takes the same steps as an old one: it is made in format 1 and upgraded, so that
//! both end with the same tables.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::{APPLICATION_ID, Cause, FORMAT, failure};
use crate::catalog::CatalogError;

/// What makes each format out of the one before, all in one transaction.
const STEPS: [(u32, &str); 3] = [
    (2, include_str!("format2/account.sql")),
    (2, include_str!("format2/key_wraps.sql")),
    (2, include_str!("format2/layers.sql")),
];

/// Makes the tables in an empty file; brings those of an older format up to date.
pub(super) fn check_or_create_format(
    path: &Path,
    writer: &mut Connection,
) -> Result<(), CatalogError> {
    let opening = |error| failure(path, "reading its format", Cause::Sqlite(error));
    let transaction =
        writer.transaction_with_behavior(TransactionBehavior::Immediate).map_err(opening)?;
    let number = |pragma| transaction.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let format = number("user_version").map_err(opening)?;
    let application = number("application_id").map_err(opening)?;
    let tables: i64 = transaction
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(opening)?;
    if tables == 0 && format == 0 && application == 0 {
        return create_tables(&transaction)
            .and_then(|()| transaction.commit())
            .map_err(|error| failure(path, "creating its tables", Cause::Sqlite(error)));
    }
    if application != i64::from(APPLICATION_ID) {
        return Err(failure(path, "reading its format", Cause::Foreign));
    }
    match u32::try_from(format) {
        Ok(FORMAT) => Ok(()),
        Ok(found @ 1..FORMAT) => upgrade(&transaction, found)
            .and_then(|()| transaction.commit())
            .map_err(|error| failure(path, "upgrading its format", Cause::Sqlite(error))),
        Ok(found) if found > FORMAT => Err(CatalogError::Newer { found, known: FORMAT }),
        _ => Err(failure(
            path,
            "reading its format",
            Cause::Damaged(format!("no sealdisk ever wrote format {format}")),
        )),
    }
}

fn create_tables(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(include_str!("tables.sql"))?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    upgrade(connection, 1)
}

fn upgrade(connection: &Connection, found: u32) -> rusqlite::Result<()> {
    for (_, step) in STEPS.iter().filter(|(format, _)| *format > found) {
        connection.execute_batch(step)?;
    }
    connection.pragma_update(None, "user_version", FORMAT)
}
