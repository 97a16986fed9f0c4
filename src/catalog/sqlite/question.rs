//! The questions, inside one snapshot each.

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params_from_iter};

use super::row;
use crate::catalog::{
    AliasRecord, DiskFilter, DiskRecord, DiskStatus, KeyRecord, KeyVersionRecord, KmsStatus,
    Listed, Page, RootRecord, TagFilter, TagRecord, TaggedType,
};
use crate::clock::Timestamp;

pub(super) type Read<T> = fn(&Row<'_>) -> rusqlite::Result<T>;

pub(super) fn key(reader: &Connection, key_id: &str) -> rusqlite::Result<Option<KeyRecord>> {
    first(reader, row::KEY_COLUMNS, "kms_key WHERE key_id = ?1", key_id, row::key)
}

pub(super) fn keys(reader: &Connection, page: Page) -> rusqlite::Result<Listed<KeyRecord>> {
    let list = List { columns: row::KEY_COLUMNS, table: "kms_key", order: "number" };
    Conditions::new("TRUE").page(reader, list, page, row::key)
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
    let mut conditions = Conditions::new("TRUE");
    conditions.ask("key_id = ?", Some(key_id.to_owned()));
    let list = List { columns: row::VERSION_COLUMNS, table: "key_version", order: "number" };
    conditions.page(reader, list, page, row::version)
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
    let mut conditions = Conditions::new("TRUE");
    conditions.ask("key_id = ?", key_id.map(str::to_owned));
    let list = List { columns: row::ALIAS_COLUMNS, table: "alias", order: "name" };
    conditions.page(reader, list, page, row::alias)
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
    let mut conditions = Conditions::new(shown);
    conditions.ask_any("disk_id", filter.ids.as_deref());
    conditions.ask("name = ?", filter.name.clone());
    conditions.ask("status = ?", filter.status.map(DiskStatus::as_str));
    conditions.ask("encrypted = ?", filter.encrypted);
    conditions.ask("kms_key_id = ?", filter.kms_key_id.clone());
    if let Some(instance) = &filter.instance_id {
        let one_of = "(instance_id = ? OR ? IN (SELECT value FROM json_each(more_instances)))";
        conditions.push(one_of.into(), vec![boxed(instance.clone()), boxed(instance.clone())]);
    }
    conditions.ask("source_snapshot = ?", filter.source_snapshot.clone());
    conditions.ask("source_image = ?", filter.source_image.clone());
    conditions.ask("lease_ends <= ?", filter.lease_ended_at.map(Timestamp::unix_millis));
    conditions.ask_tags(TaggedType::Disk, "disk_id", &filter.tags);
    let list = List { columns: row::DISK_COLUMNS, table: "disk", order: "number DESC" };
    conditions.page(reader, list, page, row::disk)
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

pub(super) fn first<T>(
    reader: &Connection,
    columns: &str,
    from: &str,
    name: &str,
    read: Read<T>,
) -> rusqlite::Result<Option<T>> {
    let mut statement = reader.prepare_cached(&format!("SELECT {columns} FROM {from}"))?;
    statement.query_row([name], read).optional()
}

/// What a list is made of. These are constants of the program; only values come from outside.
pub(super) struct List {
    pub(super) columns: &'static str,
    pub(super) table: &'static str,
    pub(super) order: &'static str,
}

/// Conditions that must all hold, and the values in them.
pub(super) struct Conditions {
    texts: Vec<String>,
    values: Vec<Box<dyn ToSql>>,
}

impl Conditions {
    pub(super) fn new(condition: &str) -> Self {
        Self { texts: vec![condition.to_owned()], values: Vec::new() }
    }

    pub(super) fn push(&mut self, condition: String, values: Vec<Box<dyn ToSql>>) {
        self.texts.push(condition);
        self.values.extend(values);
    }

    /// Nothing is asked if there is no value.
    pub(super) fn ask<T: ToSql + 'static>(&mut self, condition: &str, value: Option<T>) {
        if let Some(value) = value {
            self.push(condition.to_owned(), vec![boxed(value)]);
        }
    }

    /// The column holds one of these texts: one parameter, whatever their number.
    pub(super) fn ask_any(&mut self, column: &str, texts: Option<&[String]>) {
        let list = texts.map(|texts| serde_json::Value::from(texts.to_vec()).to_string());
        self.ask(&format!("{column} IN (SELECT value FROM json_each(?))"), list);
    }

    pub(super) fn page<T>(
        mut self,
        reader: &Connection,
        list: List,
        page: Page,
        read: Read<T>,
    ) -> rusqlite::Result<Listed<T>> {
        let List { columns, table, order } = list;
        let from = format!("{table} WHERE {}", self.texts.join(" AND "));
        let total = reader
            .prepare_cached(&format!("SELECT count(*) FROM {from}"))?
            .query_row(params_from_iter(&self.values), |row| row.get::<_, i64>(0))?;
        self.values.push(boxed(clamped(page.limit)));
        self.values.push(boxed(clamped(page.offset)));
        let text = format!("SELECT {columns} FROM {from} ORDER BY {order} LIMIT ? OFFSET ?");
        let items = reader
            .prepare_cached(&text)?
            .query_map(params_from_iter(&self.values), read)?
            .collect::<Result<_, _>>()?;
        Ok(Listed { items, total: total.cast_unsigned() })
    }
}

pub(super) fn boxed<T: ToSql + 'static>(value: T) -> Box<dyn ToSql> {
    Box::new(value)
}

fn clamped(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
