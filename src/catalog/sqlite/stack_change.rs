//! Changes of layers, snapshots, images, jobs, and of the layer that a disk writes to.

use rusqlite::{Connection, params, params_from_iter};

use super::change::{Refusal, one};
use super::stack_row::{self, Values};
use super::{row, stack_question};
use crate::catalog::{
    ImageRecord, JobRecord, JobState, LayerRecord, SnapshotRecord, StackOperation, TaggedType,
};

pub(super) fn make(connection: &Connection, operation: &StackOperation) -> Result<(), Refusal> {
    match operation {
        StackOperation::SetTop { disk_id, top_layer, seen_top } => {
            set_top(connection, disk_id, (top_layer, seen_top))
        }
        StackOperation::SetDiskData { disk_id, size, encrypted, kms_key_id } => one(connection
            .execute(
                "UPDATE disk SET size = ?2, encrypted = ?3, kms_key_id = ?4 WHERE disk_id = ?1",
                params![disk_id, row::signed(size.get()), encrypted, kms_key_id],
            )?),
        StackOperation::InsertLayer(layer) => insert_layer(connection, layer),
        StackOperation::UpdateLayer(layer) => update_layer(connection, layer),
        StackOperation::RaiseKeyBytes { layer_id, key_bytes } => {
            raise_key_bytes(connection, layer_id, *key_bytes)
        }
        StackOperation::SettleKeyBytes { layer_id, key_bytes } => one(connection.execute(
            "UPDATE layer SET key_bytes = ?2 WHERE layer_id = ?1",
            params![layer_id, row::signed(*key_bytes)],
        )?),
        StackOperation::DeleteLayer(layer_id) => delete_layer(connection, layer_id),
        StackOperation::InsertSnapshot(snapshot) => insert_snapshot(connection, snapshot),
        StackOperation::UpdateSnapshot(snapshot) => update_snapshot(connection, snapshot),
        StackOperation::DeleteSnapshot(id) => {
            delete(connection, ("snapshot", "snapshot_id"), Some(TaggedType::Snapshot), id)
        }
        StackOperation::InsertImage(image) => insert_image(connection, image),
        StackOperation::UpdateImage(image) => update_image(connection, image),
        StackOperation::DeleteImage(id) => {
            delete(connection, ("image", "image_id"), Some(TaggedType::Image), id)
        }
        StackOperation::InsertJob(job) => insert_job(connection, job),
        StackOperation::UpdateJob { job, seen_state } => update_job(connection, job, *seen_state),
        StackOperation::DeleteJob(id) => delete(connection, ("job", "job_id"), None, id),
    }
}

fn set_top(
    connection: &Connection,
    disk_id: &str,
    (top, seen): (&str, &str),
) -> Result<(), Refusal> {
    let updated = connection.execute(
        "UPDATE disk SET top_layer = ?2 WHERE disk_id = ?1 AND top_layer = ?3",
        [disk_id, top, seen],
    )?;
    seen_or_gone(connection, updated, ("disk", "disk_id"), disk_id)
}

pub(super) fn insert_layer(connection: &Connection, layer: &LayerRecord) -> Result<(), Refusal> {
    let values = stack_row::layer_values(layer);
    insert(connection, "layer", stack_row::LAYER_COLUMNS, values)
}

fn update_layer(connection: &Connection, layer: &LayerRecord) -> Result<(), Refusal> {
    one(connection.execute(
        "UPDATE layer SET parent = ?2, kms_key_id = ?3, size = ?4, state = ?5 WHERE layer_id = ?1",
        params![
            layer.layer_id,
            layer.parent,
            layer.kms_key_id,
            row::signed(layer.size.get()),
            layer.state.as_str()
        ],
    )?)
}

fn raise_key_bytes(connection: &Connection, layer_id: &str, key_bytes: u64) -> Result<(), Refusal> {
    one(connection.execute(
        "UPDATE layer SET key_bytes = max(key_bytes, ?2) WHERE layer_id = ?1",
        params![layer_id, row::signed(key_bytes)],
    )?)
}

fn delete_layer(connection: &Connection, layer_id: &str) -> Result<(), Refusal> {
    if !stack_question::layer_uses(connection, layer_id)?.is_empty() {
        return Err(Refusal::Referenced);
    }
    one(connection.execute("DELETE FROM layer WHERE layer_id = ?1", [layer_id])?)
}

fn insert_snapshot(connection: &Connection, snapshot: &SnapshotRecord) -> Result<(), Refusal> {
    layer_is_there(connection, &snapshot.layer_id)?;
    let values = stack_row::snapshot_values(snapshot);
    insert(connection, "snapshot", stack_row::SNAPSHOT_COLUMNS, values)
}

/// The parameters have the numbers that [`stack_row::snapshot_values`] gives them.
fn update_snapshot(connection: &Connection, snapshot: &SnapshotRecord) -> Result<(), Refusal> {
    layer_is_there(connection, &snapshot.layer_id)?;
    let values = params_from_iter(stack_row::snapshot_values(snapshot));
    one(connection.execute(
        "UPDATE snapshot SET name = ?2, description = ?3, layer_id = ?5, size = ?6, \
         encrypted = ?7, kms_key_id = ?8, status = ?9, retention_days = ?11, expires = ?12, \
         source_snapshot = ?13, disk_id = ?4, created = ?10 WHERE snapshot_id = ?1",
        values,
    )?)
}

fn insert_image(connection: &Connection, image: &ImageRecord) -> Result<(), Refusal> {
    layer_is_there(connection, &image.layer_id)?;
    let values = stack_row::image_values(image);
    insert(connection, "image", stack_row::IMAGE_COLUMNS, values)
}

/// The parameters have the numbers that [`stack_row::image_values`] gives them.
fn update_image(connection: &Connection, image: &ImageRecord) -> Result<(), Refusal> {
    layer_is_there(connection, &image.layer_id)?;
    let values = params_from_iter(stack_row::image_values(image));
    one(connection.execute(
        "UPDATE image SET name = ?2, description = ?3, layer_id = ?4, size = ?5, encrypted = ?6, \
         kms_key_id = ?7, status = ?8, created = ?9, source = ?10 WHERE image_id = ?1",
        values,
    )?)
}

fn insert_job(connection: &Connection, job: &JobRecord) -> Result<(), Refusal> {
    layer_is_there(connection, &job.target_layer)?;
    insert(connection, "job", stack_row::JOB_COLUMNS, stack_row::job_values(job))
}

/// The parameters have the numbers that [`stack_row::job_values`] gives them.
fn update_job(connection: &Connection, job: &JobRecord, seen: JobState) -> Result<(), Refusal> {
    let values = stack_row::job_values(job).into_iter().chain([Box::new(seen.as_str()) as _]);
    let updated = connection.execute(
        "UPDATE job SET kind = ?2, disk_id = ?3, subject = ?4, target_layer = ?5, \
         floor_layer = ?6, state = ?7, failure = ?8, cursor_units = ?9, total_units = ?10, \
         bytes_done = ?11, created = ?12, changed = ?13, pace = ?14, rate = ?15 \
         WHERE job_id = ?1 AND state = ?16",
        params_from_iter(values),
    )?;
    seen_or_gone(connection, updated, ("job", "job_id"), &job.job_id)
}

/// Removes the row of this id from a table, and the tags on what it was.
pub(super) fn delete(
    connection: &Connection,
    (table, id_column): (&str, &str),
    kind: Option<TaggedType>,
    id: &str,
) -> Result<(), Refusal> {
    if let Some(kind) = kind {
        connection.execute(
            "DELETE FROM tag WHERE resource_type = ?1 AND resource_id = ?2",
            [kind.as_str(), id],
        )?;
    }
    one(connection.execute(&format!("DELETE FROM {table} WHERE {id_column} = ?1"), [id])?)
}

pub(super) fn insert(
    connection: &Connection,
    table: &str,
    columns: &str,
    values: Values,
) -> Result<(), Refusal> {
    let places: Vec<String> = (1..=values.len()).map(|number| format!("?{number}")).collect();
    let text = format!("INSERT INTO {table} ({columns}) VALUES ({})", places.join(", "));
    one(connection.prepare_cached(&text)?.execute(params_from_iter(values))?)
}

fn layer_is_there(connection: &Connection, layer_id: &str) -> Result<(), Refusal> {
    let text = "SELECT EXISTS (SELECT 1 FROM layer WHERE layer_id = ?1)";
    let there: bool = connection.prepare_cached(text)?.query_row([layer_id], |row| row.get(0))?;
    if there { Ok(()) } else { Err(Refusal::NotFound) }
}

/// What it means that a conditional update met no row.
fn seen_or_gone(
    connection: &Connection,
    updated: usize,
    (table, id_column): (&str, &str),
    id: &str,
) -> Result<(), Refusal> {
    if updated == 1 {
        return Ok(());
    }
    let text = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE {id_column} = ?1)");
    let there: bool = connection.query_row(&text, [id], |row| row.get(0))?;
    Err(if there { Refusal::Changed } else { Refusal::NotFound })
}
