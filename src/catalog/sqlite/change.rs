//! One operation of a change, inside its transaction.

use rusqlite::{Connection, params, params_from_iter};

use super::{ram, row, stack_change};
use crate::catalog::{
    DiskRecord, DiskStatus, KeyRecord, KeyVersionRecord, KmsStatus, Operation, RootRecord,
    TaggedType,
};

/// Why an operation was not made.
pub(super) enum Refusal {
    NotFound,
    Referenced,
    Changed,
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

pub(super) fn make(connection: &Connection, operation: &Operation) -> Result<(), Refusal> {
    match operation {
        Operation::InsertKey(key, version) => {
            insert_key(connection, key)?;
            insert_version(connection, version)
        }
        Operation::UpdateKey(key) => update_key(connection, key),
        Operation::InsertKeyVersion(version) => insert_version(connection, version),
        Operation::UpdateKeyVersion(version) => one(connection.execute(
            "UPDATE key_version SET store = ?2, wrapped_material = ?3 WHERE version_id = ?1",
            params![version.version_id, version.store, version.wrapped_material],
        )?),
        Operation::ReserveWraps { version_id, seen, reserved } => {
            reserve_wraps(connection, version_id, (*seen, *reserved))
        }
        Operation::PutKeyPolicy { key_id, policy } => one(connection.execute(
            "INSERT INTO key_policy (key_id, policy) VALUES (?1, ?2) \
             ON CONFLICT DO UPDATE SET policy = excluded.policy",
            [key_id, policy],
        )?),
        Operation::DeleteKey(key_id) => delete_key(connection, key_id),
        Operation::InsertAlias(alias) => one(connection.execute(
            "INSERT INTO alias (name, key_id, created) VALUES (?1, ?2, ?3)",
            params![alias.name, alias.key_id, alias.created.unix_millis()],
        )?),
        Operation::UpdateAlias(alias) => one(connection.execute(
            "UPDATE alias SET key_id = ?2 WHERE name = ?1",
            params![alias.name, alias.key_id],
        )?),
        Operation::DeleteAlias(name) => {
            one(connection.execute("DELETE FROM alias WHERE name = ?1", [name])?)
        }
        Operation::PutTag(tag) => one(connection.execute(
            "INSERT INTO tag (resource_type, resource_id, key, value) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT DO UPDATE SET value = excluded.value",
            params![tag.resource_type.as_str(), tag.resource_id, tag.key, tag.value],
        )?),
        Operation::DeleteTag { resource_type, resource_id, key } => {
            let text = "DELETE FROM tag WHERE resource_type = ?1 AND resource_id = ?2 AND key = ?3";
            Ok(connection.execute(text, [resource_type.as_str(), resource_id, key]).map(drop)?)
        }
        Operation::InsertDisk(disk, layers) => {
            insert_disk(connection, disk)?;
            layers.iter().try_for_each(|layer| stack_change::insert_layer(connection, layer))
        }
        Operation::UpdateDisk { disk, seen_status, seen_epoch } => {
            update_disk(connection, disk, *seen_status, *seen_epoch)
        }
        Operation::DeleteDisk(id) => {
            stack_change::delete(connection, ("disk", "disk_id"), Some(TaggedType::Disk), id)
        }
        Operation::InsertRoot(root) => one(connection.execute(
            &format!(
                "INSERT INTO root (only, {}) VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)",
                row::ROOT_COLUMNS
            ),
            params_from_iter(row::root_values(root)),
        )?),
        Operation::ReplaceRoot { record, seen_root_key_id } => {
            replace_root(connection, record, seen_root_key_id)
        }
        Operation::PutKmsStatus(status) => put_kms_status(connection, *status),
        Operation::Ram(operation) => ram::make(connection, operation),
        Operation::Stack(operation) => stack_change::make(connection, operation),
    }
}

fn reserve_wraps(
    connection: &Connection,
    version_id: &str,
    (seen, reserved): (u64, u64),
) -> Result<(), Refusal> {
    let updated = connection.execute(
        "INSERT INTO key_wraps (version_id, reserved) VALUES (?1, ?2) \
         ON CONFLICT DO UPDATE SET reserved = excluded.reserved WHERE reserved = ?3",
        params![version_id, row::signed(reserved), row::signed(seen)],
    )?;
    if updated == 1 { Ok(()) } else { Err(Refusal::Changed) }
}

fn delete_key(connection: &Connection, key_id: &str) -> Result<(), Refusal> {
    connection.execute(
        "DELETE FROM tag WHERE resource_type = ?1 AND resource_id = ?2",
        [TaggedType::Key.as_str(), key_id],
    )?;
    one(connection.execute("DELETE FROM kms_key WHERE key_id = ?1", [key_id])?)
}

fn put_kms_status(connection: &Connection, status: KmsStatus) -> Result<(), Refusal> {
    one(connection.execute(
        "INSERT INTO account (only, kms_status) VALUES (1, ?1) \
         ON CONFLICT DO UPDATE SET kms_status = excluded.kms_status",
        [status.as_str()],
    )?)
}

fn insert_key(connection: &Connection, key: &KeyRecord) -> Result<(), Refusal> {
    let columns = row::KEY_COLUMNS;
    let text = format!(
        "INSERT INTO kms_key ({columns}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, \
         ?12, ?13, ?14, ?15, ?16, ?17, ?18)"
    );
    let values = params_from_iter(row::key_values(key));
    one(connection.prepare_cached(&text)?.execute(values)?)
}

/// The parameters have the numbers that [`row::key_values`] gives them.
fn update_key(connection: &Connection, key: &KeyRecord) -> Result<(), Refusal> {
    let text = "UPDATE kms_key SET description = ?2, state = ?7, deletes = ?9, \
         primary_version = ?10, rotation = ?13, rotated = ?14, protected = ?15, \
         protected_why = ?16, has_material = ?17, expires = ?18 WHERE key_id = ?1";
    let values = params_from_iter(row::key_values(key));
    one(connection.prepare_cached(text)?.execute(values)?)
}

fn insert_version(connection: &Connection, version: &KeyVersionRecord) -> Result<(), Refusal> {
    one(connection.execute(
        "INSERT INTO key_version \
         (version_id, key_id, created, store, wrapped_material, public_key) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            version.version_id,
            version.key_id,
            version.created.unix_millis(),
            version.store,
            version.wrapped_material,
            version.public_key
        ],
    )?)
}

fn insert_disk(connection: &Connection, disk: &DiskRecord) -> Result<(), Refusal> {
    let values = Vec::from(row::disk_values(disk));
    stack_change::insert(connection, "disk", row::DISK_COLUMNS, values)
}

fn update_disk(
    connection: &Connection,
    disk: &DiskRecord,
    seen_status: DiskStatus,
    seen_epoch: u64,
) -> Result<(), Refusal> {
    let updated = connection
        .prepare_cached(
            "UPDATE disk SET name = ?2, description = ?3, status = ?7, category = ?8, \
             created = ?9, attached = ?10, \
             detached = ?11, instance_id = ?12, read_only = ?13, epoch = ?14, cache = ?15, \
             iops_limit = ?16, bytes_limit = ?17, source_snapshot = ?19, source_image = ?20, \
             multi_attach = ?21, more_instances = ?22, lease_ends = ?23 \
             WHERE disk_id = ?1 AND status = ?24 AND epoch = ?25",
        )?
        .execute(params_from_iter(row::disk_values(disk).into_iter().chain([
            Box::new(seen_status.as_str()) as Box<dyn rusqlite::ToSql>,
            Box::new(row::signed(seen_epoch)),
        ])))?;
    if updated == 1 {
        return Ok(());
    }
    let there: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM disk WHERE disk_id = ?1)",
        [&disk.disk_id],
        |row| row.get(0),
    )?;
    Err(if there { Refusal::Changed } else { Refusal::NotFound })
}

fn replace_root(connection: &Connection, root: &RootRecord, seen: &str) -> Result<(), Refusal> {
    let values = row::root_values(root).into_iter().chain([Box::new(seen.to_owned()) as _]);
    let updated = connection.execute(
        "UPDATE root SET provider = ?1, parameters = ?2, root_key_id = ?3, sealed_key = ?4, \
         previous_id = ?5, since = ?6 WHERE root_key_id = ?7",
        params_from_iter(values),
    )?;
    if updated == 1 { Ok(()) } else { Err(Refusal::Changed) }
}

pub(super) fn one(rows: usize) -> Result<(), Refusal> {
    if rows == 1 { Ok(()) } else { Err(Refusal::NotFound) }
}
