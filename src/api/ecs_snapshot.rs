//! ECS 2014-05-26: snapshots.

use serde_json::{Value, json};

use super::Api;
use super::answer::Answer;
use super::dispatch::Handler;
use super::ecs_words::{
    SNAPSHOT_NAME, changed, check_region, description, is_region, name_in, shown_tags,
    tag_conditions, tags,
};
use super::error::ApiError;
use super::pages::Pages;
use super::rpc::Parameters;
use crate::catalog::{
    JobRecord, SnapshotFilter, SnapshotRecord, SnapshotStatus, TagRecord, TaggedType,
};
use crate::disk::{CopyRequest, CreateSnapshot, Deletion, SnapshotChange, Source};
use crate::ram::Caller;

const GIB: u64 = 1 << 30;

/// Days that a snapshot can be kept.
const RETENTION_DAYS_MAX: u32 = 65_536;

type Answered = Result<Answer, ApiError>;

pub(super) fn handler(action: &str) -> Option<Handler> {
    Some(match action {
        "CreateSnapshot" => create_snapshot,
        "DescribeSnapshots" => describe_snapshots,
        "ModifySnapshotAttribute" => modify_snapshot_attribute,
        "DeleteSnapshot" => delete_snapshot,
        "CopySnapshot" => copy_snapshot,
        _ => return None,
    })
}

fn create_snapshot(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    parameters.refuse(&["ClientToken", "StorageLocationArn"])?;
    if parameters.boolean("InstantAccess")? == Some(true) {
        return Err(ApiError::unsupported("InstantAccess"));
    }
    let request = CreateSnapshot {
        disk_id: parameters.required("DiskId")?.to_owned(),
        name: snapshot_name(parameters, "SnapshotName")?,
        description: description(parameters, "Description")?,
        retention_days: parameters.integer("RetentionDays", 1..=RETENTION_DAYS_MAX)?,
        tags: tags(parameters)?,
    };
    let snapshot = api.disks.create_snapshot(caller, &request)?;
    Ok(Answer::new().with("SnapshotId", snapshot.snapshot_id))
}

/// The cloud keeps names in `auto` for those that its policies take.
pub(super) fn snapshot_name(parameters: &Parameters, parameter: &str) -> Result<String, ApiError> {
    let name = name_in(parameters, parameter, &SNAPSHOT_NAME)?;
    if name.starts_with("auto") {
        let message = "The specified snapshot name is wrongly formed.";
        return Err(ApiError::new(400, SNAPSHOT_NAME.code, message)
            .recommending("names that begin with auto are kept for automatic snapshots"));
    }
    Ok(name)
}

fn describe_snapshots(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    check_region(api, parameters)?;
    // A condition that is ignored would list snapshots nobody asked for.
    parameters.refuse(&["InstanceId", "SnapshotLinkId", "Filter.1.Key", "ResourceGroupId"])?;
    parameters.refuse(&["Usage", "Category", "DryRun"])?;
    let owned = |name| parameters.filled(name).map(str::to_owned);
    let is_other =
        |name, ours: &[&str]| parameters.filled(name).is_some_and(|value| !ours.contains(&value));
    let filter = SnapshotFilter {
        ids: parameters.json_list("SnapshotIds")?,
        name: owned("SnapshotName"),
        disk_id: owned("DiskId"),
        status: status(parameters)?,
        encrypted: parameters.boolean("Encrypted")?,
        kms_key_id: owned("KMSKeyId"),
        tags: tag_conditions(parameters)?,
        ..SnapshotFilter::default()
    };
    // We have those of people, of data disks: of other kinds there are none.
    let is_none = is_other("SnapshotType", &["all", "user"])
        || is_other("SourceDiskType", &["data", "all", "Data"]);
    let filter = match is_none {
        true => SnapshotFilter { ids: Some(Vec::new()), ..filter },
        false => filter,
    };
    let pages = Pages::of(parameters)?;
    let listed = api.disks.describe_snapshots(caller, &filter, pages.page())?;
    let ids = listed.items.iter().map(|snapshot| snapshot.snapshot_id.clone()).collect();
    let tags = api.disks.tags_shown(TaggedType::Snapshot, ids)?;
    let jobs = jobs_of_copies(api, &listed.items)?;
    let shown =
        |snapshot: &SnapshotRecord| item(api, snapshot, tags.get(&snapshot.snapshot_id), &jobs);
    let items: Vec<Value> = listed.items.iter().map(shown).collect::<Result<_, _>>()?;
    let list = (listed.total, items);
    Ok(pages.answer(Answer::new(), ("Snapshots", "Snapshot"), list))
}

fn status(parameters: &Parameters) -> Result<Option<SnapshotStatus>, ApiError> {
    match parameters.filled("Status") {
        None | Some("all") => Ok(None),
        Some(text) => match SnapshotStatus::parse(text) {
            Some(status) => Ok(Some(status)),
            None => Err(ApiError::invalid("Status")),
        },
    }
}

/// Asked for only where something is still being made.
fn jobs_of_copies(api: &Api, snapshots: &[SnapshotRecord]) -> Result<Vec<JobRecord>, ApiError> {
    let is_made = |snapshot: &SnapshotRecord| snapshot.status != SnapshotStatus::Progressing;
    if snapshots.iter().all(is_made) {
        return Ok(Vec::new());
    }
    Ok(api.disks.unfinished_jobs()?)
}

fn modify_snapshot_attribute(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let snapshot_id = parameters.required("SnapshotId")?;
    let days = parameters.integer("RetentionDays", 0..=RETENTION_DAYS_MAX)?;
    let words = |name| description(parameters, name);
    let change = SnapshotChange {
        name: changed(parameters, "SnapshotName", || snapshot_name(parameters, "SnapshotName"))?,
        description: changed(parameters, "Description", || words("Description"))?,
        // 0 is for ever.
        retention_days: days.map(|days| Some(days).filter(|days| *days > 0)),
    };
    api.disks.modify_snapshot(caller, snapshot_id, &change)?;
    Ok(Answer::new())
}

fn delete_snapshot(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let snapshot_id = parameters.required("SnapshotId")?;
    let force = parameters.boolean("Force")?.unwrap_or(false);
    let deletion = Deletion { force, erase: false };
    api.disks.delete_snapshot(caller, snapshot_id, deletion)?;
    Ok(Answer::new())
}

fn copy_snapshot(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    parameters.refuse(&["ClientToken", "Arn.1.RoleArn", "DestinationStorageLocationArn"])?;
    check_region(api, parameters)?;
    is_region(api, Some(parameters.required("DestinationRegionId")?))?;
    let source_id = parameters.required("SnapshotId")?.to_owned();
    let source = Source::Snapshot(source_id.clone());
    let request = CopyRequest {
        source: source_id,
        name: snapshot_name(parameters, "DestinationSnapshotName")?,
        description: description(parameters, "DestinationSnapshotDescription")?,
        encrypted: copy_is_encrypted(api, parameters, &source)?,
        kms_key: parameters.filled("KMSKeyId").map(str::to_owned),
        retention_days: parameters.integer("RetentionDays", 1..=RETENTION_DAYS_MAX)?,
        tags: tags(parameters)?,
    };
    let copy = api.disks.copy_snapshot(caller, &request)?;
    Ok(Answer::new().with("SnapshotId", copy.snapshot_id))
}

/// `Encrypted`; a key asks for encryption by itself, and contradicts `false`. Without either, as
/// the source is.
pub(super) fn copy_is_encrypted(
    api: &Api,
    parameters: &Parameters,
    source: &Source,
) -> Result<bool, ApiError> {
    let has_key = parameters.filled("KMSKeyId").is_some();
    match parameters.boolean("Encrypted")? {
        Some(false) if has_key => {
            let message = "Encrypted must be true when kmsKeyId is not empty.";
            Err(ApiError::new(400, "InvalidParameter.EncryptedIllegal", message))
        }
        Some(encrypted) => Ok(encrypted),
        None => Ok(has_key || api.disks.is_encrypted(source)?),
    }
}

fn item(
    api: &Api,
    snapshot: &SnapshotRecord,
    tags: Option<&Vec<TagRecord>>,
    jobs: &[JobRecord],
) -> Result<Value, ApiError> {
    let used = api.disks.snapshot_use(&snapshot.snapshot_id)?;
    let usage = match (used.images, used.disks) {
        (true, true) => "image_disk",
        (true, false) => "image",
        (false, true) => "disk",
        (false, false) => "none",
    };
    let is_whole = snapshot.status == SnapshotStatus::Accomplished;
    Ok(json!({
        "Available": is_whole,
        "Category": "standard",
        "CreationTime": snapshot.created.to_string(),
        "Description": snapshot.description,
        "Encrypted": snapshot.encrypted,
        "InstantAccess": false,
        "KMSKeyId": snapshot.kms_key_id.as_deref().unwrap_or_default(),
        "LastModifiedTime": snapshot.created.to_string(),
        "ProductCode": "",
        "Progress": progress(is_whole, &snapshot.snapshot_id, jobs),
        "RegionId": api.region,
        "RemainTime": 0,
        "ResourceGroupId": "",
        "RetentionDays": snapshot.retention_days.unwrap_or(0),
        "SnapshotId": snapshot.snapshot_id,
        "SnapshotLinkId": "",
        "SnapshotName": snapshot.name,
        "SnapshotSN": "",
        "SnapshotType": "user",
        "SourceDiskId": snapshot.disk_id,
        // A string, as published.
        "SourceDiskSize": snapshot.size.get().div_ceil(GIB).to_string(),
        "SourceDiskType": "data",
        "SourceRegionId": api.region,
        "SourceSnapshotId": snapshot.source_snapshot.as_deref().unwrap_or_default(),
        "SourceStorageType": "disk",
        "Status": snapshot.status.as_str(),
        "Tags": shown_tags(tags),
        "Usage": usage,
        // Ours: the cloud's sizes are whole GiB, and it does not show its storage.
        "SizeBytes": snapshot.size.get(),
        "LayerId": snapshot.layer_id,
        "ExpirationTime": snapshot.expires.map(|at| at.to_string()).unwrap_or_default(),
    }))
}

/// How far the job is that makes it, as in `42%`.
pub(super) fn progress(is_whole: bool, id: &str, jobs: &[JobRecord]) -> String {
    if is_whole {
        return "100%".to_owned();
    }
    let job = jobs.iter().find(|job| job.subject.as_deref() == Some(id));
    let percent = job.and_then(|job| (job.cursor_units * 100).checked_div(job.total_units));
    format!("{}%", percent.unwrap_or(0).min(100))
}
