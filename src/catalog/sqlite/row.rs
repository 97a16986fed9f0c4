//! Table rows to records and back.

use std::time::Duration;

use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Row, ToSql};

use crate::catalog::{
    AliasRecord, CacheMode, DiskLimits, DiskRecord, DiskStatus, KeyRecord, KeyState,
    KeyVersionRecord, KmsStatus, RootRecord, TagRecord, TaggedType,
};
use crate::clock::Timestamp;
use crate::units::ByteCount;

/// Columns of `kms_key`, in the order [`key`] and [`key_values`] use.
pub(super) const KEY_COLUMNS: &str = "key_id, description, spec, origin, protection, creator, \
     state, created, deletes, primary_version, usage, instance, rotation, rotated, protected, \
     protected_why, has_material, expires";
/// Columns of `key_version`.
pub(super) const VERSION_COLUMNS: &str =
    "version_id, key_id, created, store, wrapped_material, public_key";
/// Columns of `alias`.
pub(super) const ALIAS_COLUMNS: &str = "name, key_id, created";
/// Columns of `tag`.
pub(super) const TAG_COLUMNS: &str = "resource_type, resource_id, key, value";
/// Columns of `disk`.
pub(super) const DISK_COLUMNS: &str = "disk_id, name, description, size, encrypted, kms_key_id, \
     status, category, created, attached, detached, instance_id, read_only, epoch, cache, \
     iops_limit, bytes_limit, top_layer, source_snapshot, source_image, multi_attach, \
     more_instances, lease_ends";
/// Columns of `root`, less the one that keeps it alone.
pub(super) const ROOT_COLUMNS: &str =
    "provider, parameters, root_key_id, sealed_key, previous_id, since";

pub(super) fn key(row: &Row<'_>) -> rusqlite::Result<KeyRecord> {
    Ok(KeyRecord {
        key_id: row.get(0)?,
        description: row.get(1)?,
        spec: row.get(2)?,
        origin: row.get(3)?,
        protection: row.get(4)?,
        creator: row.get(5)?,
        state: KeyState::parse(&row.get::<_, String>(6)?).ok_or_else(|| unknown_word(6))?,
        created: moment(row.get(7)?),
        deletes: row.get::<_, Option<i64>>(8)?.map(moment),
        primary_version: row.get(9)?,
        usage: row.get(10)?,
        instance: row.get(11)?,
        rotation: row.get::<_, Option<i64>>(12)?.map(|s| Duration::from_secs(s.cast_unsigned())),
        rotated: moment(row.get(13)?),
        deletion_protected: row.get(14)?,
        deletion_protected_why: row.get(15)?,
        has_material: row.get(16)?,
        material_expires: row.get::<_, Option<i64>>(17)?.map(moment),
    })
}

pub(super) fn version(row: &Row<'_>) -> rusqlite::Result<KeyVersionRecord> {
    Ok(KeyVersionRecord {
        version_id: row.get(0)?,
        key_id: row.get(1)?,
        created: moment(row.get(2)?),
        store: row.get(3)?,
        wrapped_material: row.get(4)?,
        public_key: row.get(5)?,
    })
}

pub(super) fn alias(row: &Row<'_>) -> rusqlite::Result<AliasRecord> {
    Ok(AliasRecord { name: row.get(0)?, key_id: row.get(1)?, created: moment(row.get(2)?) })
}

pub(super) fn kms_status(row: &Row<'_>) -> rusqlite::Result<KmsStatus> {
    KmsStatus::parse(&row.get::<_, String>(0)?).ok_or_else(|| unknown_word(0))
}

pub(super) fn tag(row: &Row<'_>) -> rusqlite::Result<TagRecord> {
    Ok(TagRecord {
        resource_type: TaggedType::parse(&row.get::<_, String>(0)?)
            .ok_or_else(|| unknown_word(0))?,
        resource_id: row.get(1)?,
        key: row.get(2)?,
        value: row.get(3)?,
    })
}

pub(super) fn disk(row: &Row<'_>) -> rusqlite::Result<DiskRecord> {
    Ok(DiskRecord {
        disk_id: row.get(0)?,
        name: row.get(1)?,
        description: row.get(2)?,
        size: ByteCount::new(number(row, 3)?),
        encrypted: row.get(4)?,
        kms_key_id: row.get(5)?,
        status: DiskStatus::parse(&row.get::<_, String>(6)?).ok_or_else(|| unknown_word(6))?,
        category: row.get(7)?,
        created: moment(row.get(8)?),
        attached: row.get::<_, Option<i64>>(9)?.map(moment),
        detached: row.get::<_, Option<i64>>(10)?.map(moment),
        instance_id: row.get(11)?,
        read_only: row.get(12)?,
        epoch: number(row, 13)?,
        cache: CacheMode::parse(&row.get::<_, String>(14)?).ok_or_else(|| unknown_word(14))?,
        limits: DiskLimits {
            iops: row.get::<_, Option<i64>>(15)?.map(i64::cast_unsigned),
            bytes_per_second: row.get::<_, Option<i64>>(16)?.map(i64::cast_unsigned),
        },
        top_layer: row.get(17)?,
        source_snapshot: row.get(18)?,
        source_image: row.get(19)?,
        multi_attach: row.get(20)?,
        more_instances: serde_json::from_str(&row.get::<_, String>(21)?)
            .map_err(|_| unknown_word(21))?,
        lease_ends: row.get::<_, Option<i64>>(22)?.map(moment),
    })
}

pub(super) fn root(row: &Row<'_>) -> rusqlite::Result<RootRecord> {
    Ok(RootRecord {
        provider: row.get(0)?,
        parameters: row.get(1)?,
        root_key_id: row.get(2)?,
        sealed_key: row.get(3)?,
        previous_id: row.get(4)?,
        since: moment(row.get(5)?),
    })
}

/// The values of [`ROOT_COLUMNS`].
pub(super) fn root_values(root: &RootRecord) -> [Box<dyn ToSql>; 6] {
    [
        Box::new(root.provider.clone()),
        Box::new(root.parameters.clone()),
        Box::new(root.root_key_id.clone()),
        Box::new(root.sealed_key.clone()),
        Box::new(root.previous_id.clone()),
        Box::new(root.since.unix_millis()),
    ]
}

/// The values of [`KEY_COLUMNS`].
pub(super) fn key_values(key: &KeyRecord) -> [Box<dyn ToSql>; 18] {
    [
        Box::new(key.key_id.clone()),
        Box::new(key.description.clone()),
        Box::new(key.spec.clone()),
        Box::new(key.origin.clone()),
        Box::new(key.protection.clone()),
        Box::new(key.creator.clone()),
        Box::new(key.state.as_str()),
        Box::new(key.created.unix_millis()),
        Box::new(key.deletes.map(Timestamp::unix_millis)),
        Box::new(key.primary_version.clone()),
        Box::new(key.usage.clone()),
        Box::new(key.instance.clone()),
        Box::new(key.rotation.map(|span| signed(span.as_secs()))),
        Box::new(key.rotated.unix_millis()),
        Box::new(key.deletion_protected),
        Box::new(key.deletion_protected_why.clone()),
        Box::new(key.has_material),
        Box::new(key.material_expires.map(Timestamp::unix_millis)),
    ]
}

/// The values of [`DISK_COLUMNS`].
pub(super) fn disk_values(disk: &DiskRecord) -> [Box<dyn ToSql>; 23] {
    [
        Box::new(disk.disk_id.clone()),
        Box::new(disk.name.clone()),
        Box::new(disk.description.clone()),
        Box::new(signed(disk.size.get())),
        Box::new(disk.encrypted),
        Box::new(disk.kms_key_id.clone()),
        Box::new(disk.status.as_str()),
        Box::new(disk.category.clone()),
        Box::new(disk.created.unix_millis()),
        Box::new(disk.attached.map(Timestamp::unix_millis)),
        Box::new(disk.detached.map(Timestamp::unix_millis)),
        Box::new(disk.instance_id.clone()),
        Box::new(disk.read_only),
        Box::new(signed(disk.epoch)),
        Box::new(disk.cache.as_str()),
        Box::new(disk.limits.iops.map(signed)),
        Box::new(disk.limits.bytes_per_second.map(signed)),
        Box::new(disk.top_layer.clone()),
        Box::new(disk.source_snapshot.clone()),
        Box::new(disk.source_image.clone()),
        Box::new(disk.multi_attach),
        Box::new(serde_json::Value::from(disk.more_instances.clone()).to_string()),
        Box::new(disk.lease_ends.map(Timestamp::unix_millis)),
    ]
}

/// SQLite's integers are signed; the same 64 bits come back through [`number`].
pub(super) const fn signed(value: u64) -> i64 {
    value.cast_signed()
}

pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

pub(super) fn moment(millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(millis)
}

pub(super) fn unknown_word(column: usize) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        column,
        Type::Text,
        Box::new(FromSqlError::InvalidType),
    )
}
