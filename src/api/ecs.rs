//! ECS 2014-05-26: disks.

use serde_json::{Value, json};

use super::answer::Answer;
use super::dispatch::Handler;
use super::ecs_words::{
    DISK_NAME, changed, check_region, description, name, shown_tags, tag_conditions, tags,
};
use super::error::ApiError;
use super::pages::Pages;
use super::rpc::Parameters;
use super::{Api, ecs_image, ecs_snapshot, ecs_tags};
use crate::catalog::{
    CacheMode, DiskFilter, DiskLimits, DiskRecord, DiskStatus, TagRecord, TaggedType,
};
use crate::disk::{CreateDisk, DiskChange, Source};
use crate::limits;
use crate::ram::Caller;
use crate::units::ByteCount;

const GIB: u64 = 1 << 30;

/// Category of a disk that names none.
const CATEGORY_DEFAULT: &str = "cloud_essd";

const CATEGORIES: [&str; 6] =
    ["cloud", "cloud_efficiency", "cloud_ssd", "cloud_essd", "cloud_auto", "cloud_essd_entry"];

type Answered = Result<Answer, ApiError>;

pub(super) fn handler(action: &str) -> Option<Handler> {
    Some(match action {
        "CreateDisk" => create_disk,
        "DescribeDisks" => describe_disks,
        "AttachDisk" => attach_disk,
        "DetachDisk" => detach_disk,
        "DeleteDisk" => delete_disk,
        "ModifyDiskAttribute" => modify_disk_attribute,
        "ResizeDisk" => resize_disk,
        "ResetDisk" => reset_disk,
        "ReInitDisk" => re_init_disk,
        _ => {
            let others = ecs_snapshot::handler(action).or_else(|| ecs_image::handler(action));
            return others.or_else(|| ecs_tags::handler(action));
        }
    })
}

fn create_disk(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    check_region(api, parameters)?;
    parameters.refuse(&["InstanceId", "ClientToken", "EncryptAlgorithm", "Arn.1.RoleArn"])?;
    let source = match parameters.filled("SnapshotId") {
        Some(snapshot) => Source::Snapshot(snapshot.to_owned()),
        None => Source::Nothing,
    };
    if source == Source::Nothing {
        parameters.required("Size")?;
    }
    let gib: Option<u64> = parameters.integer("Size", 0..=u64::MAX)?;
    let size = gib.map_or(Ok(ByteCount::ZERO), whole_gib)?;
    let encrypted = is_encrypted(api, parameters, &source)?;
    let request = new_disk(parameters, (size, source), encrypted)?;
    let disk = api.disks.create(caller, &request)?;
    Ok(Answer::new().with("DiskId", disk.disk_id))
}

/// `Encrypted`; without it as the source is.
pub(super) fn is_encrypted(
    api: &Api,
    parameters: &Parameters,
    source: &Source,
) -> Result<bool, ApiError> {
    match parameters.boolean("Encrypted")? {
        Some(encrypted) => Ok(encrypted),
        None => Ok(api.disks.is_encrypted(source)?),
    }
}

/// A size as the cloud counts them.
fn whole_gib(gib: u64) -> Result<ByteCount, ApiError> {
    if (1..=limits::DISK_BYTES_MAX / GIB).contains(&gib) {
        return Ok(ByteCount::new(gib * GIB));
    }
    let message = "The specified disk size is not supported.";
    Err(ApiError::new(400, "InvalidSize.ValueNotSupported", message))
}

/// What CreateDisk and our own CreateLocalDisk have in common.
pub(super) fn new_disk(
    parameters: &Parameters,
    (size, source): (ByteCount, Source),
    encrypted: bool,
) -> Result<CreateDisk, ApiError> {
    let kms_key = parameters.filled("KMSKeyId").map(str::to_owned);
    if kms_key.is_some() && !encrypted {
        let message = "Encrypted must be true when kmsKeyId is not empty.";
        return Err(ApiError::new(400, "InvalidParameter.EncryptedIllegal", message));
    }
    let category = parameters.filled("DiskCategory").unwrap_or(CATEGORY_DEFAULT);
    if !CATEGORIES.contains(&category) {
        let message = "The specified disk category is not valid.";
        return Err(ApiError::new(400, "InvalidDiskCategory.NotSupported", message));
    }
    Ok(CreateDisk {
        name: name(parameters, &DISK_NAME)?,
        description: description(parameters, "Description")?,
        size,
        encrypted,
        kms_key,
        category: category.to_owned(),
        read_only: false,
        cache: CacheMode::default(),
        limits: DiskLimits::default(),
        source,
        multi_attach: multi_attach(parameters)?,
        lease: None,
        tags: tags(parameters)?,
    })
}

fn multi_attach(parameters: &Parameters) -> Result<bool, ApiError> {
    match parameters.filled("MultiAttach") {
        None | Some("Disabled") => Ok(false),
        Some("Enabled") => Ok(true),
        Some("LegacyShared") => Err(ApiError::unsupported("MultiAttach")),
        Some(_) => Err(ApiError::invalid("MultiAttach")),
    }
}

fn describe_disks(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    check_region(api, parameters)?;
    // A condition that is ignored would list disks nobody asked for.
    parameters.refuse(&["Category", "DiskChargeType", "Filter.1.Key", "MultiAttach"])?;
    parameters.refuse(&["ResourceGroupId", "AutoSnapshotPolicyId", "LockReason"])?;
    if !matches!(parameters.filled("DiskType"), None | Some("all" | "data")) {
        return Err(ApiError::unsupported("DiskType"));
    }
    let owned = |name| parameters.filled(name).map(str::to_owned);
    let filter = DiskFilter {
        ids: parameters.json_list("DiskIds")?,
        name: owned("DiskName"),
        status: status(parameters)?,
        encrypted: parameters.boolean("Encrypted")?,
        kms_key_id: owned("KMSKeyId"),
        instance_id: owned("InstanceId"),
        source_snapshot: owned("SnapshotId"),
        tags: tag_conditions(parameters)?,
        ..DiskFilter::default()
    };
    let pages = Pages::of(parameters)?;
    let listed = api.disks.describe(caller, &filter, pages.page())?;
    let ids = listed.items.iter().map(|disk| disk.disk_id.clone()).collect();
    let tags = api.disks.tags_shown(TaggedType::Disk, ids)?;
    let items = listed.items.iter().map(|disk| item(api, disk, tags.get(&disk.disk_id))).collect();
    let answer = Answer::new().with("RegionId", api.region.clone());
    Ok(pages.answer(answer, ("Disks", "Disk"), (listed.total, items)))
}

fn status(parameters: &Parameters) -> Result<Option<DiskStatus>, ApiError> {
    match parameters.filled("Status") {
        None | Some("All") => Ok(None),
        Some(text) => match DiskStatus::parse(text) {
            Some(status) if status != DiskStatus::Deleting => Ok(Some(status)),
            _ => Err(ApiError::invalid("Status")),
        },
    }
}

fn attach_disk(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let disk_id = parameters.required("DiskId")?;
    api.disks.attach(caller, disk_id, instance_id(parameters.required("InstanceId")?)?)?;
    Ok(Answer::new())
}

fn detach_disk(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let disk_id = parameters.required("DiskId")?;
    let instance = parameters.filled("InstanceId").map(instance_id).transpose()?;
    api.disks.detach(caller, disk_id, instance)?;
    Ok(Answer::new())
}

/// `i-` and up to 62 letters, digits or `-`: the cloud's are `i-` and 20.
fn instance_id(text: &str) -> Result<&str, ApiError> {
    let rest = text.strip_prefix("i-").unwrap_or_default();
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if (1..=62).contains(&rest.len()) && rest.bytes().all(is_known) {
        return Ok(text);
    }
    let message = "The specified InstanceId does not exist.";
    Err(ApiError::new(404, "InvalidInstanceId.NotFound", message)
        .recommending("instance ids look like i-local or i-bp1abc"))
}

fn delete_disk(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    api.disks.delete(caller, parameters.required("DiskId")?)?;
    Ok(Answer::new())
}

fn modify_disk_attribute(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    parameters.refuse(&["DiskIds.1", "BurstingEnabled"])?;
    for flag in ["DeleteWithInstance", "DeleteAutoSnapshot", "EnableAutoSnapshot"] {
        if parameters.boolean(flag)? == Some(true) {
            return Err(ApiError::unsupported(flag));
        }
    }
    let disk_id = parameters.required("DiskId")?;
    let change = DiskChange {
        name: changed(parameters, "DiskName", || name(parameters, &DISK_NAME))?,
        description: changed(parameters, "Description", || description(parameters, "Description"))?,
        lease: None,
    };
    api.disks.modify(caller, disk_id, &change)?;
    Ok(Answer::new())
}

/// Both types come to the same: an attached disk grows too, its clients see it when they connect
/// again.
fn resize_disk(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    parameters.refuse(&["ClientToken"])?;
    let disk_id = parameters.required("DiskId")?;
    if !matches!(parameters.filled("Type"), None | Some("offline" | "online")) {
        return Err(ApiError::invalid("Type"));
    }
    parameters.required("NewSize")?;
    let size = whole_gib(parameters.integer("NewSize", 0..=u64::MAX)?.unwrap_or(0))?;
    api.disks.resize(caller, disk_id, size)?;
    Ok(Answer::new())
}

fn reset_disk(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    parameters.refuse(&["DryRun"])?;
    let (disk_id, snapshot_id) =
        (parameters.required("DiskId")?, parameters.required("SnapshotId")?);
    api.disks.reset(caller, disk_id, snapshot_id)?;
    Ok(Answer::new())
}

/// What concerns the instance (its password, its start) has no meaning here: there is none.
fn re_init_disk(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    parameters.refuse(&["Password", "KeyPairName", "SecurityEnhancementStrategy"])?;
    api.disks.reinit(caller, parameters.required("DiskId")?)?;
    Ok(Answer::new())
}

fn item(api: &Api, disk: &DiskRecord, tags: Option<&Vec<TagRecord>>) -> Value {
    let moment = |at: Option<crate::clock::Timestamp>| at.map(|at| at.to_string());
    let instances = disk.instance_id.iter().chain(&disk.more_instances);
    let attachments: Vec<Value> = instances.map(|id| attachment(disk, id)).collect();
    json!({
        "AttachedTime": moment(disk.attached).unwrap_or_default(),
        "Attachments": {"Attachment": attachments},
        "Category": disk.category,
        "CreationTime": disk.created.to_string(),
        "DeleteAutoSnapshot": false,
        "DeleteWithInstance": false,
        "Description": disk.description,
        "DetachedTime": moment(disk.detached).unwrap_or_default(),
        "Device": "",
        "DiskChargeType": "PostPaid",
        "DiskId": disk.disk_id,
        "DiskName": disk.name,
        "EnableAutoSnapshot": false,
        "Encrypted": disk.encrypted,
        "ExpiredTime": "2999-09-08T16:00Z",
        "ImageId": disk.source_image.as_deref().unwrap_or_default(),
        "InstanceId": disk.instance_id.as_deref().unwrap_or_default(),
        "KMSKeyId": disk.kms_key_id.as_deref().unwrap_or_default(),
        "MountInstances": {"MountInstance": []},
        "MultiAttach": if disk.multi_attach { "Enabled" } else { "Disabled" },
        "OperationLocks": {"OperationLock": []},
        "Portable": true,
        "ProductCode": "",
        "RegionId": api.region,
        "ResourceGroupId": "",
        // What NBD and the guest see as the serial: the id without its prefix.
        "SerialNumber": disk.disk_id.trim_start_matches("d-"),
        "Size": disk.size.get().div_ceil(GIB),
        "SourceSnapshotId": disk.source_snapshot.as_deref().unwrap_or_default(),
        "Status": disk.status.as_str(),
        "Tags": shown_tags(tags),
        "Type": "data",
        "ZoneId": format!("{}-a", api.region),
        // Ours: the cloud's sizes are whole GiB, it has no disks that may only be read, and speed
        // goes by category there.
        "SizeBytes": disk.size.get(),
        "LeaseEndTime": moment(disk.lease_ends).unwrap_or_default(),
        "ReadOnly": disk.read_only,
        "Cache": disk.cache.as_str(),
        "IopsLimit": disk.limits.iops,
        "BytesPerSecondLimit": disk.limits.bytes_per_second,
    })
}

fn attachment(disk: &DiskRecord, instance_id: &str) -> Value {
    json!({
        "AttachedTime": disk.attached.map(|at| at.to_string()).unwrap_or_default(),
        "Device": "",
        "InstanceId": instance_id,
    })
}
