//! Questions about layers, snapshots, images and jobs, inside one snapshot each.

use rusqlite::{Connection, ToSql};

use super::question::{Conditions, List, boxed, first};
use super::stack_row;
use crate::catalog::{
    ImageFilter, ImageRecord, ImageStatus, JobFilter, JobRecord, LayerRecord, LayerState,
    LayerUses, Listed, Page, SnapshotFilter, SnapshotRecord, SnapshotStatus, TaggedType,
};
use crate::clock::Timestamp;

/// Deepest chain that is followed: far beyond what is made, so that a circle in a damaged catalog
/// does not hold a thread.
const DEPTH_MAX: i64 = 100_000;

pub(super) fn layer(reader: &Connection, id: &str) -> rusqlite::Result<Option<LayerRecord>> {
    let from = "layer WHERE layer_id = ?1";
    first(reader, stack_row::LAYER_COLUMNS, from, id, stack_row::layer)
}

pub(super) fn chain(reader: &Connection, layer_id: &str) -> rusqlite::Result<Vec<LayerRecord>> {
    let text = format!(
        "WITH RECURSIVE chain (id, depth) AS (VALUES (?1, 0) UNION ALL \
         SELECT parent, depth + 1 FROM chain JOIN layer ON layer_id = id \
         WHERE parent IS NOT NULL AND depth < {DEPTH_MAX}) \
         SELECT {} FROM chain JOIN layer ON layer_id = id ORDER BY depth DESC",
        stack_row::LAYER_COLUMNS
    );
    reader.prepare_cached(&text)?.query_map([layer_id], stack_row::layer)?.collect()
}

pub(super) fn layers(reader: &Connection, disk_id: &str) -> rusqlite::Result<Vec<LayerRecord>> {
    let tops = ids(reader, "SELECT top_layer FROM disk WHERE disk_id = ?1", disk_id)?;
    tops.first().map_or_else(|| Ok(Vec::new()), |top| chain(reader, top))
}

pub(super) fn layer_uses(reader: &Connection, layer_id: &str) -> rusqlite::Result<LayerUses> {
    let of = |text| ids(reader, text, layer_id);
    Ok(LayerUses {
        disks: of("SELECT disk_id FROM disk WHERE top_layer = ?1 ORDER BY number")?,
        snapshots: of("SELECT snapshot_id FROM snapshot WHERE layer_id = ?1 ORDER BY number")?,
        images: of("SELECT image_id FROM image WHERE layer_id = ?1 ORDER BY number")?,
        jobs: of("SELECT job_id FROM job WHERE target_layer = ?1 \
             AND state NOT IN ('done', 'failed', 'cancelled') ORDER BY number")?,
        children: of("SELECT layer_id FROM layer WHERE parent = ?1 \
             AND state NOT IN ('going', 'erasing') ORDER BY number")?,
    })
}

pub(super) fn disks_over(reader: &Connection, layer_id: &str) -> rusqlite::Result<Vec<String>> {
    ids(
        reader,
        // UNION, not UNION ALL: it ends in a circle, too.
        "WITH RECURSIVE above (id) AS (VALUES (?1) UNION \
         SELECT layer_id FROM above JOIN layer ON parent = id \
         WHERE state NOT IN ('going', 'erasing')) \
         SELECT disk_id FROM disk WHERE top_layer IN (SELECT id FROM above) ORDER BY number",
        layer_id,
    )
}

pub(super) fn all_layers(
    reader: &Connection,
    state: Option<LayerState>,
    page: Page,
) -> rusqlite::Result<Listed<LayerRecord>> {
    let mut conditions = Conditions::new("TRUE");
    conditions.ask("state = ?", state.map(LayerState::as_str));
    conditions.page(
        reader,
        List { columns: stack_row::LAYER_COLUMNS, table: "layer", order: "number" },
        page,
        stack_row::layer,
    )
}

/// Nobody but layers refers to the layer of this name in the statement.
fn unnamed(layer: &str) -> String {
    let by = |table, column| {
        format!("NOT EXISTS (SELECT 1 FROM {table} WHERE {table}.{column} = {layer}.layer_id")
    };
    let (disk, snapshot) = (by("disk", "top_layer"), by("snapshot", "layer_id"));
    let (image, job) = (by("image", "layer_id"), by("job", "target_layer"));
    let unfinished = "state NOT IN ('done', 'failed', 'cancelled')";
    format!("{disk}) AND {snapshot}) AND {image}) AND {job} AND {unfinished})")
}

/// How many layers stand on the layer of this name in the statement.
fn children(layer: &str) -> String {
    format!(
        "(SELECT count(*) FROM layer AS child WHERE child.parent = {layer}.layer_id \
         AND child.state NOT IN ('going', 'erasing'))"
    )
}

pub(super) fn unreferenced(reader: &Connection) -> rusqlite::Result<Vec<LayerRecord>> {
    let text = format!(
        "SELECT {} FROM layer AS this WHERE state IN ('live', 'condemned') AND {} AND {} = 0 \
         ORDER BY number",
        stack_row::LAYER_COLUMNS,
        unnamed("this"),
        children("this")
    );
    reader.prepare_cached(&text)?.query_map([], stack_row::layer)?.collect()
}

pub(super) fn absorbing(reader: &Connection) -> rusqlite::Result<Vec<LayerRecord>> {
    let text = format!(
        "SELECT {} FROM layer AS this WHERE state IN ('live', 'condemned') AND NOT ({} AND {} = 1) \
         AND EXISTS (SELECT 1 FROM layer AS below WHERE below.layer_id = this.parent \
             AND below.state IN ('live', 'condemned') AND {} AND {} = 1) ORDER BY number",
        stack_row::LAYER_COLUMNS,
        unnamed("this"),
        children("this"),
        unnamed("below"),
        children("below")
    );
    reader.prepare_cached(&text)?.query_map([], stack_row::layer)?.collect()
}

pub(super) fn snapshot(reader: &Connection, id: &str) -> rusqlite::Result<Option<SnapshotRecord>> {
    let from = "snapshot WHERE snapshot_id = ?1";
    first(reader, stack_row::SNAPSHOT_COLUMNS, from, id, stack_row::snapshot)
}

pub(super) fn snapshots(
    reader: &Connection,
    filter: &SnapshotFilter,
    page: Page,
) -> rusqlite::Result<Listed<SnapshotRecord>> {
    let mut conditions = Conditions::new("TRUE");
    conditions.ask_any("snapshot_id", filter.ids.as_deref());
    conditions.ask("name = ?", filter.name.clone());
    conditions.ask("disk_id = ?", filter.disk_id.clone());
    conditions.ask("layer_id = ?", filter.layer_id.clone());
    conditions.ask("status = ?", filter.status.map(SnapshotStatus::as_str));
    conditions.ask("encrypted = ?", filter.encrypted);
    conditions.ask("kms_key_id = ?", filter.kms_key_id.clone());
    conditions.ask("expires <= ?", filter.expired_at.map(Timestamp::unix_millis));
    conditions.ask_tags(TaggedType::Snapshot, "snapshot_id", &filter.tags);
    conditions.page(
        reader,
        List { columns: stack_row::SNAPSHOT_COLUMNS, table: "snapshot", order: "number DESC" },
        page,
        stack_row::snapshot,
    )
}

pub(super) fn image(reader: &Connection, id: &str) -> rusqlite::Result<Option<ImageRecord>> {
    let from = "image WHERE image_id = ?1";
    first(reader, stack_row::IMAGE_COLUMNS, from, id, stack_row::image)
}

pub(super) fn images(
    reader: &Connection,
    filter: &ImageFilter,
    page: Page,
) -> rusqlite::Result<Listed<ImageRecord>> {
    let mut conditions = Conditions::new("TRUE");
    conditions.ask_any("image_id", filter.ids.as_deref());
    conditions.ask("name = ?", filter.name.clone());
    conditions.ask("status = ?", filter.status.map(ImageStatus::as_str));
    conditions.ask("encrypted = ?", filter.encrypted);
    conditions.ask("kms_key_id = ?", filter.kms_key_id.clone());
    conditions.ask("source = ?", filter.source.clone());
    conditions.ask_tags(TaggedType::Image, "image_id", &filter.tags);
    conditions.page(
        reader,
        List { columns: stack_row::IMAGE_COLUMNS, table: "image", order: "number DESC" },
        page,
        stack_row::image,
    )
}

pub(super) fn job(reader: &Connection, id: &str) -> rusqlite::Result<Option<JobRecord>> {
    let from = "job WHERE job_id = ?1";
    first(reader, stack_row::JOB_COLUMNS, from, id, stack_row::job)
}

pub(super) fn jobs(
    reader: &Connection,
    filter: &JobFilter,
    page: Page,
) -> rusqlite::Result<Listed<JobRecord>> {
    let mut conditions = Conditions::new("TRUE");
    conditions.ask_any("job_id", filter.ids.as_deref());
    conditions.ask("disk_id = ?", filter.disk_id.clone());
    conditions.ask("target_layer = ?", filter.target_layer.clone());
    let states = filter.states.as_ref().map(|states| {
        states.iter().map(|state| state.as_str().to_owned()).collect::<Vec<String>>()
    });
    conditions.ask_any("state", states.as_deref());
    conditions.page(
        reader,
        List { columns: stack_row::JOB_COLUMNS, table: "job", order: "number DESC" },
        page,
        stack_row::job,
    )
}

fn ids(reader: &Connection, text: &str, of: &str) -> rusqlite::Result<Vec<String>> {
    reader.prepare_cached(text)?.query_map([of], |row| row.get(0))?.collect()
}

impl Conditions {
    /// The thing has all of these tags.
    pub(super) fn ask_tags(
        &mut self,
        kind: TaggedType,
        id_column: &str,
        tags: &[(String, Option<String>)],
    ) {
        for (key, value) in tags {
            let values: Vec<Box<dyn ToSql>> =
                vec![boxed(kind.as_str()), boxed(key.clone()), boxed(value.clone())];
            let condition = format!(
                "EXISTS (SELECT 1 FROM tag WHERE resource_type = ? AND resource_id = {id_column} \
                 AND key = ? AND value = coalesce(?, value))"
            );
            self.push(condition, values);
        }
    }
}
