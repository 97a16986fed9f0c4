//! Our own actions on layers: jobs, changes between snapshots, disks that are lent.

use std::ops::Range;
use std::time::Duration;

use serde_json::{Value, json};

use super::Api;
use super::answer::Answer;
use super::dispatch::Handler;
use super::ecs_snapshot::snapshot_name;
use super::ecs_words::{IMAGE_NAME, description, name, tags};
use super::error::ApiError;
use super::pages::Pages;
use super::rpc::Parameters;
use crate::catalog::{JobFilter, JobPace, JobRecord, JobState};
use crate::disk::{CreateImage, Deletion, DiskChange, JobCommand, Renewal, Source};
use crate::limits;
use crate::ram::Caller;
use crate::units::{ByteCount, ByteOffset, DataUnitSize};

/// Seconds that a disk can be lent for without a renewal.
const LEASE_SECONDS_MAX: u64 = 24 * 60 * 60;

/// Runs in one answer of changes.
const CHANGES_MAX: usize = 10_000;

type Answered = Result<Answer, ApiError>;

pub(super) fn handler(action: &str) -> Option<Handler> {
    Some(match action {
        "ResizeLocalDisk" => resize_local_disk,
        "RenewDiskLease" => renew_disk_lease,
        "CreateImageOfDisk" => create_image_of_disk,
        "EraseDisk" => erase_disk,
        "EraseSnapshot" => erase_snapshot,
        "EraseImage" => erase_image,
        "FlattenDisk" => flatten_disk,
        "RekeyDisk" => rekey_disk,
        "SetDiskKey" => set_disk_key,
        "DescribeJobs" => describe_jobs,
        "PauseJob" => pause_job,
        "ResumeJob" => resume_job,
        "CancelJob" => cancel_job,
        "ModifyJobPace" => modify_job_pace,
        "DescribeSnapshotDifference" => describe_snapshot_difference,
        "DescribeSnapshotLayers" => describe_snapshot_layers,
        "BeginSnapshotRestore" => begin_snapshot_restore,
        "FinishSnapshotRestore" => finish_snapshot_restore,
        "AbortSnapshotRestore" => abort_snapshot_restore,
        _ => return None,
    })
}

/// What a disk of CreateLocalDisk begins with.
pub(super) fn source(parameters: &Parameters) -> Result<Source, ApiError> {
    match (parameters.filled("SnapshotId"), parameters.filled("ImageId")) {
        (None, None) => Ok(Source::Nothing),
        (Some(snapshot), None) => Ok(Source::Snapshot(snapshot.to_owned())),
        (None, Some(image)) => Ok(Source::Image(image.to_owned())),
        (Some(_), Some(_)) => {
            Err(ApiError::invalid("ImageId").recommending("name a snapshot or an image, not both"))
        }
    }
}

/// A size in bytes, whole data units; zero where it is not there.
pub(super) fn size(parameters: &Parameters) -> Result<ByteCount, ApiError> {
    const SIZE: &str = "SizeBytes";
    let allowed = DataUnitSize::B4096.bytes()..=limits::DISK_BYTES_MAX;
    let refused = |_| ApiError::invalid(SIZE).recommending("a multiple of 4096, up to 64 TiB");
    let size = parameters.integer(SIZE, allowed).map_err(refused)?;
    let Some(size) = size else { return Ok(ByteCount::ZERO) };
    match size.is_multiple_of(DataUnitSize::B4096.bytes()) {
        true => Ok(ByteCount::new(size)),
        false => Err(refused(ApiError::invalid(SIZE))),
    }
}

/// `LeaseSeconds`; zero is no lease.
pub(super) fn lease(parameters: &Parameters) -> Result<Option<Option<Duration>>, ApiError> {
    let seconds = parameters.integer("LeaseSeconds", 0..=LEASE_SECONDS_MAX)?;
    Ok(seconds.map(|seconds| Some(seconds).filter(|s| *s > 0).map(Duration::from_secs)))
}

/// ResizeDisk with a size in bytes.
fn resize_local_disk(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let disk_id = parameters.required("DiskId")?;
    parameters.required("SizeBytes")?;
    let disk = api.disks.resize(caller, disk_id, size(parameters)?)?;
    Ok(Answer::new().with("DiskId", disk.disk_id).with("SizeBytes", disk.size.get()))
}

fn renew_disk_lease(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let disk_id = parameters.required("DiskId")?;
    parameters.required("LeaseSeconds")?;
    let change = DiskChange { lease: lease(parameters)?, ..DiskChange::default() };
    let disk = api.disks.modify(caller, disk_id, &change)?;
    let ends = disk.lease_ends.map(|at| at.to_string());
    Ok(Answer::new().with("DiskId", disk.disk_id).with("LeaseEndTime", json!(ends)))
}

/// A disk that is lent becomes an image, and goes.
fn create_image_of_disk(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let disk_id = parameters.required("DiskId")?;
    let request = CreateImage {
        snapshot_id: String::new(),
        name: name(parameters, &IMAGE_NAME)?,
        description: description(parameters, "Description")?,
        tags: tags(parameters)?,
    };
    let image = api.disks.image_of_lent(caller, disk_id, &request)?;
    Ok(Answer::new().with("ImageId", image.image_id))
}

/// DeleteDisk that destroys the wrapped data keys first.
fn erase_disk(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let deletion = Deletion { erase: true, ..Deletion::default() };
    api.disks.delete_with(caller, parameters.required("DiskId")?, deletion)?;
    Ok(Answer::new())
}

fn erase_snapshot(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let force = parameters.boolean("Force")?.unwrap_or(false);
    let deletion = Deletion { force, erase: true };
    api.disks.delete_snapshot(caller, parameters.required("SnapshotId")?, deletion)?;
    Ok(Answer::new())
}

fn erase_image(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let force = parameters.boolean("Force")?.unwrap_or(false);
    let deletion = Deletion { force, erase: true };
    api.disks.delete_image(caller, parameters.required("ImageId")?, deletion)?;
    Ok(Answer::new())
}

fn flatten_disk(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    renew(api, caller, parameters, &Renewal::Flatten)
}

fn rekey_disk(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    renew(api, caller, parameters, &Renewal::Rekey)
}

/// Another KMS key for an encrypted disk, encryption for a plain one; the service key without a
/// key.
fn set_disk_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let disk_id = parameters.required("DiskId")?;
    let key = parameters.filled("KMSKeyId").map(str::to_owned);
    let renewal = match (api.disks.is_plain(disk_id)?, key) {
        (true, key) => Renewal::Encrypt(key),
        (false, Some(key)) => Renewal::SetKey(key),
        (false, None) => Renewal::SetKey(api.disks.service_key(caller)?),
    };
    renew(api, caller, parameters, &renewal)
}

fn renew(api: &Api, caller: &Caller, parameters: &Parameters, renewal: &Renewal) -> Answered {
    let disk_id = parameters.required("DiskId")?;
    let pace = pace(parameters)?.unwrap_or_default();
    let job = api.disks.renew(caller, disk_id, renewal, pace)?;
    Ok(Answer::new().with("DiskId", disk_id).with("JobId", job.job_id))
}

fn pace(parameters: &Parameters) -> Result<Option<JobPace>, ApiError> {
    let Some(text) = parameters.filled("Pace") else { return Ok(None) };
    let pace = JobPace::parse(text);
    pace.map(Some).ok_or_else(|| ApiError::invalid("Pace").recommending("gentle or full"))
}

fn describe_jobs(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let state = parameters.filled("State").map(|text| {
        JobState::parse(text).map(|state| vec![state]).ok_or_else(|| ApiError::invalid("State"))
    });
    let filter = JobFilter {
        ids: parameters.filled("JobId").map(|id| vec![id.to_owned()]),
        disk_id: parameters.filled("DiskId").map(str::to_owned),
        states: state.transpose()?,
        ..JobFilter::default()
    };
    let pages = Pages::of(parameters)?;
    let listed = api.disks.describe_jobs(caller, &filter, pages.page())?;
    let items = listed.items.iter().map(item).collect();
    Ok(pages.answer(Answer::new(), ("Jobs", "Job"), (listed.total, items)))
}

fn item(job: &JobRecord) -> Value {
    let unit = DataUnitSize::B4096.bytes();
    let percent = (job.cursor_units * 100).checked_div(job.total_units).unwrap_or(0).min(100);
    json!({
        "JobId": job.job_id,
        "Kind": job.kind.as_str(),
        "DiskId": job.disk_id.as_deref().unwrap_or_default(),
        "Subject": job.subject.as_deref().unwrap_or_default(),
        "State": job.state.as_str(),
        "Failure": job.failure,
        "Progress": format!("{}%", if job.state == JobState::Done { 100 } else { percent }),
        "DoneBytes": job.cursor_units.saturating_mul(unit),
        "TotalBytes": job.total_units.saturating_mul(unit),
        "CopiedBytes": job.bytes_done,
        "Pace": job.pace.as_str(),
        "BytesPerSecondLimit": job.rate,
        "CreationTime": job.created.to_string(),
        "LastModifiedTime": job.changed.to_string(),
    })
}

fn pause_job(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    command(api, caller, parameters, JobCommand::Pause)
}

fn resume_job(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    command(api, caller, parameters, JobCommand::Resume)
}

fn cancel_job(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    command(api, caller, parameters, JobCommand::Cancel)
}

fn modify_job_pace(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    parameters.required("Pace")?;
    let pace = pace(parameters)?.unwrap_or_default();
    let limit = parameters.integer("BytesPerSecondLimit", 0..=u64::MAX)?;
    command(api, caller, parameters, JobCommand::Pace(pace, limit.filter(|limit| *limit > 0)))
}

fn command(api: &Api, caller: &Caller, parameters: &Parameters, command: JobCommand) -> Answered {
    let job = api.disks.command_job(caller, parameters.required("JobId")?, command)?;
    Ok(Answer::new().with("JobId", job.job_id).with("State", job.state.as_str()))
}

/// Runs of bytes that may differ between two snapshots, in parts.
fn describe_snapshot_difference(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let until = parameters.required("SnapshotId")?;
    let since = parameters.filled("SinceSnapshotId");
    let start = parameters.integer("Offset", 0..=limits::DISK_BYTES_MAX)?.unwrap_or(0);
    let limit = parameters.integer("MaxResults", 1..=CHANGES_MAX)?.unwrap_or(CHANGES_MAX);
    let found = api.disks.difference(caller, (since, until), ByteOffset::new(start), limit)?;
    let run = |run: &Range<ByteOffset>| {
        let length = run.end.since(run.start);
        json!({"Offset": run.start.get(), "Length": length.get()})
    };
    let changes: Vec<Value> = found.changed.iter().map(run).collect();
    Ok(Answer::new()
        .with("SnapshotId", until)
        .with("SinceSnapshotId", json!(since))
        .with("Changes", changes)
        .with("NextOffset", json!(found.next.map(ByteOffset::get))))
}

/// What a backup of a snapshot holds.
fn describe_snapshot_layers(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let until = parameters.required("SnapshotId")?;
    let plan = api.disks.plan_backup(caller, (parameters.filled("SinceSnapshotId"), until))?;
    let files: Vec<Value> = plan.files.iter().map(|file| json!(file.to_string_lossy())).collect();
    Ok(Answer::new()
        .with("SnapshotId", until)
        .with("Manifest", json!(plan.manifest))
        .with("LayerFiles", files))
}

fn begin_snapshot_restore(api: &Api, caller: &Caller, _: &Parameters) -> Answered {
    let begun = api.disks.begin_restore(caller)?;
    Ok(Answer::new()
        .with("RestoreId", begun.restore_id)
        .with("Directory", begun.directory.to_string_lossy()))
}

fn finish_snapshot_restore(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let restore_id = parameters.required("RestoreId")?;
    let name = snapshot_name(parameters, "SnapshotName")?;
    let name = Some(name.as_str()).filter(|name| !name.is_empty());
    let snapshot = api.disks.finish_restore(caller, restore_id, name)?;
    Ok(Answer::new().with("SnapshotId", snapshot.snapshot_id))
}

fn abort_snapshot_restore(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    api.disks.abort_restore(caller, parameters.required("RestoreId")?)?;
    Ok(Answer::new())
}
