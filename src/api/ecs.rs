//! ECS 2014-05-26: disks.

use serde_json::{Value, json};

use super::Api;
use super::answer::Answer;
use super::dispatch::Handler;
use super::error::ApiError;
use super::rpc::Parameters;
use crate::catalog::{CacheMode, DiskFilter, DiskLimits, DiskRecord, DiskStatus};
use crate::disk::{CreateDisk, Source};
use crate::limits;
use crate::ram::Caller;
use crate::units::ByteCount;

const GIB: u64 = 1 << 30;

/// Longest disk name, in characters. The cloud wants two at least; one is enough here.
const NAME_CHARS_MAX: usize = 128;

/// Longest description, in characters.
const DESCRIPTION_CHARS_MAX: usize = 256;

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
        _ => return None,
    })
}

fn create_disk(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    check_region(api, parameters)?;
    parameters.refuse(&["SnapshotId", "InstanceId", "Tag.1.Key", "ClientToken"])?;
    parameters.refuse(&["EncryptAlgorithm", "Arn.1.RoleArn"])?;
    if !matches!(parameters.filled("MultiAttach"), None | Some("Disabled")) {
        return Err(ApiError::unsupported("MultiAttach"));
    }
    parameters.required("Size")?;
    let gib: u64 = parameters.integer("Size", 0..=u64::MAX)?.unwrap_or(0);
    if !(1..=limits::DISK_BYTES_MAX / GIB).contains(&gib) {
        let message = "The specified disk size is not supported.";
        return Err(ApiError::new(400, "InvalidSize.ValueNotSupported", message));
    }
    let encrypted = parameters.boolean("Encrypted")?.unwrap_or(false);
    let request = new_disk(parameters, ByteCount::new(gib * GIB), encrypted)?;
    let disk = api.disks.create(caller, &request)?;
    Ok(Answer::new().with("DiskId", disk.disk_id))
}

/// What CreateDisk and our own CreateLocalDisk have in common.
pub(super) fn new_disk(
    parameters: &Parameters,
    size: ByteCount,
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
        name: name(parameters)?,
        description: description(parameters)?,
        size,
        encrypted,
        kms_key,
        category: category.to_owned(),
        read_only: false,
        cache: CacheMode::default(),
        limits: DiskLimits::default(),
        source: Source::Nothing,
        multi_attach: false,
        lease: None,
        tags: Vec::new(),
    })
}

/// A name begins with a letter and is no disk id: an export is found by either, so a name must
/// never stand before another disk's id.
fn name(parameters: &Parameters) -> Result<String, ApiError> {
    let name = parameters.filled("DiskName").unwrap_or_default();
    let is_known = |c: char| c.is_alphanumeric() || matches!(c, ':' | '_' | '.' | '-');
    let is_wellformed = name.is_empty()
        || name.starts_with(char::is_alphabetic)
            && name.chars().count() <= NAME_CHARS_MAX
            && name.chars().all(is_known)
            && !name.starts_with("d-");
    if is_wellformed {
        return Ok(name.to_owned());
    }
    let message = "The specified disk name is wrongly formed.";
    Err(ApiError::new(400, "InvalidDiskName.Malformed", message).recommending(
        "1 to 128 characters: a letter, then letters, digits and : _ . -; and it must not begin \
         with d- as disk ids do",
    ))
}

fn description(parameters: &Parameters) -> Result<String, ApiError> {
    let text = parameters.filled("Description").unwrap_or_default();
    let is_url = text.starts_with("http://") || text.starts_with("https://");
    if text.chars().count() <= DESCRIPTION_CHARS_MAX && !is_url && !text.contains(char::is_control)
    {
        return Ok(text.to_owned());
    }
    let message = "The specified description is wrongly formed.";
    Err(ApiError::new(400, "InvalidDescription.Malformed", message)
        .recommending("at most 256 characters on one line, not beginning with http:// or https://"))
}

fn describe_disks(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    check_region(api, parameters)?;
    // A condition that is ignored would list disks nobody asked for.
    parameters.refuse(&[
        "SnapshotId",
        "Category",
        "DiskChargeType",
        "Tag.1.Key",
        "Filter.1.Key",
    ])?;
    parameters.refuse(&["ResourceGroupId", "AutoSnapshotPolicyId", "LockReason", "NextToken"])?;
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
        ..DiskFilter::default()
    };
    let paging = parameters.paging()?;
    let listed = api.disks.describe(caller, &filter, paging.page())?;
    let items = listed.items.iter().map(|disk| item(api, disk)).collect();
    Ok(Answer::new().with("RegionId", api.region.clone()).with_page(
        "Disks",
        "Disk",
        (paging, listed.total, items),
    ))
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

fn check_region(api: &Api, parameters: &Parameters) -> Result<(), ApiError> {
    match parameters.filled("RegionId") {
        Some(region) if region != api.region => {
            let message = "The specified RegionId does not exist.";
            Err(ApiError::new(404, "InvalidRegionId.NotFound", message)
                .recommending(format!("this daemon serves {}", api.region)))
        }
        _ => Ok(()),
    }
}

fn item(api: &Api, disk: &DiskRecord) -> Value {
    let moment = |at: Option<crate::clock::Timestamp>| at.map(|at| at.to_string());
    let attachments: Vec<Value> = disk.instance_id.iter().map(|id| attachment(disk, id)).collect();
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
        "ImageId": "",
        "InstanceId": disk.instance_id.as_deref().unwrap_or_default(),
        "KMSKeyId": disk.kms_key_id.as_deref().unwrap_or_default(),
        "MountInstances": {"MountInstance": []},
        "MultiAttach": "Disabled",
        "OperationLocks": {"OperationLock": []},
        "Portable": true,
        "ProductCode": "",
        "RegionId": api.region,
        "ResourceGroupId": "",
        // What NBD and the guest see as the serial: the id without its prefix.
        "SerialNumber": disk.disk_id.trim_start_matches("d-"),
        "Size": disk.size.get().div_ceil(GIB),
        "SourceSnapshotId": "",
        "Status": disk.status.as_str(),
        "Tags": {"Tag": []},
        "Type": "data",
        "ZoneId": format!("{}-a", api.region),
        // Ours: the cloud's sizes are whole GiB, it has no disks that may only be read, and speed
        // goes by category there.
        "SizeBytes": disk.size.get(),
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
