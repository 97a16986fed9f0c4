//! The questions, inside one snapshot each.

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params_from_iter};

use super::row;
use crate::catalog::{
    AliasRecord, DiskFilter, DiskRecord, DiskStatus, KeyRecord, KeyVersionRecord, KmsStatus,
    LayerRecord, Listed, Page, RootRecord, TagFilter, TagRecord,
};

type Read<T> = fn(&Row<'_>) -> rusqlite::Result<T>;

pub(super) fn key(reader: &Connection, key_id: &str) -> rusqlite::Result<Option<KeyRecord>> {
    first(reader, row::KEY_COLUMNS, "kms_key WHERE key_id = ?1", key_id, row::key)
}

pub(super) fn keys(reader: &Connection, page: Page) -> rusqlite::Result<Listed<KeyRecord>> {
    let list = List { columns: row::KEY_COLUMNS, from: "kms_key".into(), order: "number" };
    list.page(reader, Vec::new(), page, row::key)
}

pub(super) fn key_version(
    reader: &Connection,
    version_id: &str,
) -> rusqlite::Result<Option<KeyVersionRecord>> {
    let from = "key_version WHERE version_id = ?1";
    first(reader, row::VERSION_COLUMNS, from, version_id, row::version)
}

pub(super) fn key_versions(
    reader: &Connection,
    key_id: &str,
    page: Page,
) -> rusqlite::Result<Listed<KeyVersionRecord>> {
    let from = "key_version WHERE key_id = ?".into();
    let list = List { columns: row::VERSION_COLUMNS, from, order: "number" };
    list.page(reader, vec![Box::new(key_id.to_owned())], page, row::version)
}

pub(super) fn reserved_wraps(reader: &Connection, version_id: &str) -> rusqlite::Result<u64> {
    let text = "SELECT reserved FROM key_wraps WHERE version_id = ?1";
    let reserved = reader.prepare_cached(text)?.query_row([version_id], |row| row.get(0));
    Ok(reserved.optional()?.map_or(0, i64::cast_unsigned))
}

pub(super) fn key_policy(reader: &Connection, key_id: &str) -> rusqlite::Result<Option<String>> {
    let mut statement = reader.prepare_cached("SELECT policy FROM key_policy WHERE key_id = ?1")?;
    statement.query_row([key_id], |row| row.get(0)).optional()
}

pub(super) fn alias(reader: &Connection, name: &str) -> rusqlite::Result<Option<AliasRecord>> {
    first(reader, row::ALIAS_COLUMNS, "alias WHERE name = ?1", name, row::alias)
}

pub(super) fn aliases(
    reader: &Connection,
    key_id: Option<&str>,
    page: Page,
) -> rusqlite::Result<Listed<AliasRecord>> {
    let (from, values): (_, Vec<Box<dyn ToSql>>) = match key_id {
        Some(key_id) => ("alias WHERE key_id = ?", vec![Box::new(key_id.to_owned())]),
        None => ("alias", Vec::new()),
    };
    let list = List { columns: row::ALIAS_COLUMNS, from: from.into(), order: "name" };
    list.page(reader, values, page, row::alias)
}

pub(super) fn tags(
    reader: &Connection,
    filter: &TagFilter,
    limit: u64,
) -> rusqlite::Result<Vec<TagRecord>> {
    let mut conditions = vec!["resource_type = ?"];
    let mut values: Vec<Box<dyn ToSql>> = vec![boxed(filter.resource_type.as_str())];
    let list = |texts: &[String]| boxed(serde_json::Value::from(texts.to_vec()).to_string());
    if !filter.ids.is_empty() {
        conditions.push("resource_id IN (SELECT value FROM json_each(?))");
        values.push(list(&filter.ids));
    }
    for (key, value) in &filter.tags {
        conditions.push(
            "EXISTS (SELECT 1 FROM tag AS other WHERE other.resource_type = tag.resource_type \
             AND other.resource_id = tag.resource_id AND other.key = ? \
             AND other.value = coalesce(?, other.value))",
        );
        values.extend([boxed(key.clone()), boxed(value.clone())]);
    }
    if !filter.tags.is_empty() {
        let asked: Vec<String> = filter.tags.iter().map(|(key, _)| key.clone()).collect();
        conditions.push("key IN (SELECT value FROM json_each(?))");
        values.push(list(&asked));
    }
    if let Some((id, key)) = &filter.after {
        conditions.push("(resource_id, key) > (?, ?)");
        values.extend([boxed(id.clone()), boxed(key.clone())]);
    }
    values.push(boxed(clamped(limit)));
    let text = format!(
        "SELECT {} FROM tag WHERE {} ORDER BY resource_id, key LIMIT ?",
        row::TAG_COLUMNS,
        conditions.join(" AND ")
    );
    reader.prepare_cached(&text)?.query_map(params_from_iter(values), row::tag)?.collect()
}

pub(super) fn disk(reader: &Connection, disk_id: &str) -> rusqlite::Result<Option<DiskRecord>> {
    first(reader, row::DISK_COLUMNS, "disk WHERE disk_id = ?1", disk_id, row::disk)
}

pub(super) fn disks(
    reader: &Connection,
    filter: &DiskFilter,
    page: Page,
) -> rusqlite::Result<Listed<DiskRecord>> {
    let shown = if filter.status.is_some() { "TRUE" } else { "status <> 'Deleting'" };
    let mut conditions = vec![shown];
    let mut values: Vec<Box<dyn ToSql>> = Vec::new();
    let mut ask = |condition, value: Option<Box<dyn ToSql>>| {
        if let Some(value) = value {
            conditions.push(condition);
            values.push(value);
        }
    };
    // One parameter whatever the number of ids.
    let ids = filter.ids.as_ref().map(|ids| serde_json::Value::from(ids.clone()).to_string());
    ask("disk_id IN (SELECT value FROM json_each(?))", ids.map(boxed));
    ask("name = ?", filter.name.clone().map(boxed));
    ask("status = ?", filter.status.map(DiskStatus::as_str).map(boxed));
    ask("encrypted = ?", filter.encrypted.map(boxed));
    ask("kms_key_id = ?", filter.kms_key_id.clone().map(boxed));
    ask("instance_id = ?", filter.instance_id.clone().map(boxed));
    let from = format!("disk WHERE {}", conditions.join(" AND "));
    let list = List { columns: row::DISK_COLUMNS, from, order: "number DESC" };
    list.page(reader, values, page, row::disk)
}

pub(super) fn layers(reader: &Connection, disk_id: &str) -> rusqlite::Result<Vec<LayerRecord>> {
    let text =
        format!("SELECT {} FROM layer WHERE disk_id = ?1 ORDER BY number", row::LAYER_COLUMNS);
    reader.prepare_cached(&text)?.query_map([disk_id], row::layer)?.collect()
}

pub(super) fn kms_status(reader: &Connection) -> rusqlite::Result<KmsStatus> {
    let found =
        reader.query_row("SELECT kms_status FROM account", [], row::kms_status).optional()?;
    Ok(found.unwrap_or_default())
}

pub(super) fn root(reader: &Connection) -> rusqlite::Result<Option<RootRecord>> {
    let text = format!("SELECT {} FROM root", row::ROOT_COLUMNS);
    reader.query_row(&text, [], row::root).optional()
}

fn first<T>(
    reader: &Connection,
    columns: &str,
    from: &str,
    name: &str,
    read: Read<T>,
) -> rusqlite::Result<Option<T>> {
    let mut statement = reader.prepare_cached(&format!("SELECT {columns} FROM {from}"))?;
    statement.query_row([name], read).optional()
}

/// A list that can be paged. Its parts are constants of this file; only values come from outside.
struct List {
    columns: &'static str,
    from: String,
    order: &'static str,
}

impl List {
    fn page<T>(
        &self,
        reader: &Connection,
        mut values: Vec<Box<dyn ToSql>>,
        page: Page,
        read: Read<T>,
    ) -> rusqlite::Result<Listed<T>> {
        let Self { columns, from, order } = self;
        let total = reader
            .prepare_cached(&format!("SELECT count(*) FROM {from}"))?
            .query_row(params_from_iter(&values), |row| row.get::<_, i64>(0))?;
        values.push(boxed(clamped(page.limit)));
        values.push(boxed(clamped(page.offset)));
        let text = format!("SELECT {columns} FROM {from} ORDER BY {order} LIMIT ? OFFSET ?");
        let items = reader
            .prepare_cached(&text)?
            .query_map(params_from_iter(&values), read)?
            .collect::<Result<_, _>>()?;
        Ok(Listed { items, total: total.cast_unsigned() })
    }
}

fn boxed<T: ToSql + 'static>(value: T) -> Box<dyn ToSql> {
    Box::new(value)
}

fn clamped(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
