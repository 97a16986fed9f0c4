//! Rows of layers, snapshots, images and jobs to records and back.

use rusqlite::{Row, ToSql};

use super::row::{moment, number, signed, unknown_word};
use crate::catalog::{
    ImageRecord, ImageStatus, JobKind, JobPace, JobRecord, JobState, LayerRecord, LayerState,
    SnapshotRecord, SnapshotStatus,
};
use crate::clock::Timestamp;
use crate::units::ByteCount;

/// The values of a row, in the order of its columns.
pub(super) type Values = Vec<Box<dyn ToSql>>;

/// Columns of `layer`, in the order [`layer`] and [`layer_values`] use.
pub(super) const LAYER_COLUMNS: &str =
    "layer_id, owner, parent, file_name, kms_key_id, size, created, state, key_bytes";
/// Columns of `snapshot`.
pub(super) const SNAPSHOT_COLUMNS: &str = "snapshot_id, name, description, disk_id, layer_id, \
     size, encrypted, kms_key_id, status, created, retention_days, expires, source_snapshot";
/// Columns of `image`.
pub(super) const IMAGE_COLUMNS: &str = "image_id, name, description, layer_id, size, encrypted, \
     kms_key_id, status, created, source";
/// Columns of `job`.
pub(super) const JOB_COLUMNS: &str = "job_id, kind, disk_id, subject, target_layer, floor_layer, \
     state, failure, cursor_units, total_units, bytes_done, created, changed, pace, rate";

pub(super) fn layer(row: &Row<'_>) -> rusqlite::Result<LayerRecord> {
    Ok(LayerRecord {
        layer_id: row.get(0)?,
        owner: row.get(1)?,
        parent: row.get(2)?,
        file_name: row.get(3)?,
        kms_key_id: row.get(4)?,
        size: ByteCount::new(number(row, 5)?),
        created: moment(row.get(6)?),
        state: word(row, 7, LayerState::parse)?,
        key_bytes: number(row, 8)?,
    })
}

pub(super) fn layer_values(layer: &LayerRecord) -> Values {
    vec![
        Box::new(layer.layer_id.clone()),
        Box::new(layer.owner.clone()),
        Box::new(layer.parent.clone()),
        Box::new(layer.file_name.clone()),
        Box::new(layer.kms_key_id.clone()),
        Box::new(signed(layer.size.get())),
        Box::new(layer.created.unix_millis()),
        Box::new(layer.state.as_str()),
        Box::new(signed(layer.key_bytes)),
    ]
}

pub(super) fn snapshot(row: &Row<'_>) -> rusqlite::Result<SnapshotRecord> {
    Ok(SnapshotRecord {
        snapshot_id: row.get(0)?,
        name: row.get(1)?,
        description: row.get(2)?,
        disk_id: row.get(3)?,
        layer_id: row.get(4)?,
        size: ByteCount::new(number(row, 5)?),
        encrypted: row.get(6)?,
        kms_key_id: row.get(7)?,
        status: word(row, 8, SnapshotStatus::parse)?,
        created: moment(row.get(9)?),
        retention_days: row.get(10)?,
        expires: row.get::<_, Option<i64>>(11)?.map(moment),
        source_snapshot: row.get(12)?,
    })
}

pub(super) fn snapshot_values(snapshot: &SnapshotRecord) -> Values {
    vec![
        Box::new(snapshot.snapshot_id.clone()),
        Box::new(snapshot.name.clone()),
        Box::new(snapshot.description.clone()),
        Box::new(snapshot.disk_id.clone()),
        Box::new(snapshot.layer_id.clone()),
        Box::new(signed(snapshot.size.get())),
        Box::new(snapshot.encrypted),
        Box::new(snapshot.kms_key_id.clone()),
        Box::new(snapshot.status.as_str()),
        Box::new(snapshot.created.unix_millis()),
        Box::new(snapshot.retention_days),
        Box::new(snapshot.expires.map(Timestamp::unix_millis)),
        Box::new(snapshot.source_snapshot.clone()),
    ]
}

pub(super) fn image(row: &Row<'_>) -> rusqlite::Result<ImageRecord> {
    Ok(ImageRecord {
        image_id: row.get(0)?,
        name: row.get(1)?,
        description: row.get(2)?,
        layer_id: row.get(3)?,
        size: ByteCount::new(number(row, 4)?),
        encrypted: row.get(5)?,
        kms_key_id: row.get(6)?,
        status: word(row, 7, ImageStatus::parse)?,
        created: moment(row.get(8)?),
        source: row.get(9)?,
    })
}

pub(super) fn image_values(image: &ImageRecord) -> Values {
    vec![
        Box::new(image.image_id.clone()),
        Box::new(image.name.clone()),
        Box::new(image.description.clone()),
        Box::new(image.layer_id.clone()),
        Box::new(signed(image.size.get())),
        Box::new(image.encrypted),
        Box::new(image.kms_key_id.clone()),
        Box::new(image.status.as_str()),
        Box::new(image.created.unix_millis()),
        Box::new(image.source.clone()),
    ]
}

pub(super) fn job(row: &Row<'_>) -> rusqlite::Result<JobRecord> {
    Ok(JobRecord {
        job_id: row.get(0)?,
        kind: word(row, 1, JobKind::parse)?,
        disk_id: row.get(2)?,
        subject: row.get(3)?,
        target_layer: row.get(4)?,
        floor_layer: row.get(5)?,
        state: word(row, 6, JobState::parse)?,
        failure: row.get(7)?,
        cursor_units: number(row, 8)?,
        total_units: number(row, 9)?,
        bytes_done: number(row, 10)?,
        created: moment(row.get(11)?),
        changed: moment(row.get(12)?),
        pace: word(row, 13, JobPace::parse)?,
        rate: row.get::<_, Option<i64>>(14)?.map(i64::cast_unsigned),
    })
}

pub(super) fn job_values(job: &JobRecord) -> Values {
    vec![
        Box::new(job.job_id.clone()),
        Box::new(job.kind.as_str()),
        Box::new(job.disk_id.clone()),
        Box::new(job.subject.clone()),
        Box::new(job.target_layer.clone()),
        Box::new(job.floor_layer.clone()),
        Box::new(job.state.as_str()),
        Box::new(job.failure.clone()),
        Box::new(signed(job.cursor_units)),
        Box::new(signed(job.total_units)),
        Box::new(signed(job.bytes_done)),
        Box::new(job.created.unix_millis()),
        Box::new(job.changed.unix_millis()),
        Box::new(job.pace.as_str()),
        Box::new(job.rate.map(signed)),
    ]
}

fn word<T>(row: &Row<'_>, column: usize, parse: impl Fn(&str) -> Option<T>) -> rusqlite::Result<T> {
    parse(&row.get::<_, String>(column)?).ok_or_else(|| unknown_word(column))
}
