//! ECS 2014-05-26: images.

use serde_json::{Value, json};

use super::Api;
use super::answer::Answer;
use super::dispatch::Handler;
use super::ecs_snapshot::{copy_is_encrypted, progress};
use super::ecs_words::{
    IMAGE_NAME, changed, check_region, description, is_region, name, name_in, shown_tags,
    tag_conditions, tags,
};
use super::error::ApiError;
use super::pages::Pages;
use super::rpc::Parameters;
use crate::catalog::{
    ImageFilter, ImageRecord, ImageStatus, JobRecord, Listed, Page, TagRecord, TaggedType,
};
use crate::disk::{CopyRequest, CreateImage, Deletion, ImageChange, Source};
use crate::ram::Caller;

const GIB: u64 = 1 << 30;

/// Ids in one request at most.
const IDS_MAX: usize = 100;

/// Published statuses that no image of ours ever has.
const FOREIGN_STATUSES: [&str; 3] = ["Waiting", "UnAvailable", "Deprecated"];

type Answered = Result<Answer, ApiError>;

pub(super) fn handler(action: &str) -> Option<Handler> {
    Some(match action {
        "CreateImage" => create_image,
        "DescribeImages" => describe_images,
        "ModifyImageAttribute" => modify_image_attribute,
        "DeleteImage" => delete_image,
        "CopyImage" => copy_image,
        _ => return None,
    })
}

fn create_image(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    check_region(api, parameters)?;
    parameters.refuse(&["InstanceId", "ClientToken", "ImageFamily", "ImageVersion"])?;
    let request = CreateImage {
        snapshot_id: source_snapshot(parameters)?.to_owned(),
        name: name(parameters, &IMAGE_NAME)?,
        description: description(parameters, "Description")?,
        tags: tags(parameters)?,
    };
    let image = api.disks.create_image(caller, &request)?;
    Ok(Answer::new().with("ImageId", image.image_id))
}

/// `SnapshotId`, or the only entry of `DiskDeviceMapping`: our images are of one disk.
fn source_snapshot(parameters: &Parameters) -> Result<&str, ApiError> {
    parameters.refuse(&["DiskDeviceMapping.2.SnapshotId"])?;
    match parameters.filled("DiskDeviceMapping.1.SnapshotId") {
        Some(snapshot) => Ok(snapshot),
        None => parameters.required("SnapshotId"),
    }
}

fn describe_images(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    check_region(api, parameters)?;
    parameters.refuse(&["Filter.1.Key", "ResourceGroupId", "ImageFamily", "DryRun"])?;
    parameters.refuse(&["InstanceType", "Usage", "ActionType", "OSType", "Architecture"])?;
    let owned = |name| parameters.filled(name).map(str::to_owned);
    let ids = parameters.filled("ImageId").map(ids).transpose()?;
    let filter = ImageFilter {
        ids,
        name: owned("ImageName"),
        source: owned("SnapshotId"),
        tags: tag_conditions(parameters)?,
        ..ImageFilter::default()
    };
    // Ours are all the account's own.
    let is_foreign = !matches!(parameters.filled("ImageOwnerAlias"), None | Some("self"))
        || parameters.boolean("IsPublic")? == Some(true);
    let statuses = statuses(parameters)?;
    let filter = match is_foreign {
        true => ImageFilter { ids: Some(Vec::new()), ..filter },
        false => filter,
    };
    let pages = Pages::of(parameters)?;
    let listed = list(api, caller, (filter, &statuses), pages.page())?;
    let ids = listed.items.iter().map(|image| image.image_id.clone()).collect();
    let tags = api.disks.tags_shown(TaggedType::Image, ids)?;
    let is_made = |image: &ImageRecord| image.status != ImageStatus::Creating;
    let jobs = match listed.items.iter().all(is_made) {
        true => Vec::new(),
        false => api.disks.unfinished_jobs()?,
    };
    let shown = |image: &ImageRecord| item(api, image, tags.get(&image.image_id), &jobs);
    let items: Vec<Value> = listed.items.iter().map(shown).collect();
    let answer = Answer::new().with("RegionId", api.region.clone());
    Ok(pages.answer(answer, ("Images", "Image"), (listed.total, items)))
}

/// Images in any of `statuses`.
fn list(
    api: &Api,
    caller: &Caller,
    (filter, statuses): (ImageFilter, &[ImageStatus]),
    page: Page,
) -> Result<Listed<ImageRecord>, ApiError> {
    let with = |status| ImageFilter { status, ..filter.clone() };
    match statuses {
        [] => Ok(Listed { items: Vec::new(), total: 0 }),
        [one] => Ok(api.disks.describe_images(caller, &with(Some(*one)), page)?),
        [_, _, _] => Ok(api.disks.describe_images(caller, &with(None), page)?),
        some => {
            let mut all = api.disks.describe_images(caller, &with(None), Page::ALL)?.items;
            all.retain(|image| some.contains(&image.status));
            let total = all.len() as u64;
            let (offset, limit) = (page.offset.min(total) as usize, page.limit as usize);
            Ok(Listed { items: all.into_iter().skip(offset).take(limit).collect(), total })
        }
    }
}

/// `ImageId` may be several, with commas between them.
fn ids(text: &str) -> Result<Vec<String>, ApiError> {
    let ids: Vec<String> = text.split(',').map(|id| id.trim().to_owned()).collect();
    if ids.len() > IDS_MAX { Err(ApiError::invalid("ImageId")) } else { Ok(ids) }
}

/// `Status` may be several, with commas between them; `Available` without it.
fn statuses(parameters: &Parameters) -> Result<Vec<ImageStatus>, ApiError> {
    let mut statuses = Vec::new();
    for text in parameters.filled("Status").unwrap_or("Available").split(',') {
        match ImageStatus::parse(text.trim()) {
            Some(status) if statuses.contains(&status) => {}
            Some(status) => statuses.push(status),
            None if FOREIGN_STATUSES.contains(&text.trim()) => {}
            None => return Err(ApiError::invalid("Status")),
        }
    }
    Ok(statuses)
}

fn modify_image_attribute(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    check_region(api, parameters)?;
    parameters.refuse(&["ImageFamily", "Status", "BootMode", "LicenseType", "DryRun"])?;
    let image_id = parameters.required("ImageId")?;
    let change = ImageChange {
        name: changed(parameters, "ImageName", || name(parameters, &IMAGE_NAME))?,
        description: changed(parameters, "Description", || description(parameters, "Description"))?,
    };
    api.disks.modify_image(caller, image_id, &change)?;
    Ok(Answer::new())
}

fn delete_image(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    check_region(api, parameters)?;
    parameters.refuse(&["DryRun"])?;
    let image_id = parameters.required("ImageId")?;
    let force = parameters.boolean("Force")?.unwrap_or(false);
    api.disks.delete_image(caller, image_id, Deletion { force, erase: false })?;
    Ok(Answer::new())
}

fn copy_image(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    parameters.refuse(&["ClientToken", "EncryptAlgorithm", "DryRun"])?;
    check_region(api, parameters)?;
    is_region(api, parameters.filled("DestinationRegionId"))?;
    let source_id = parameters.required("ImageId")?.to_owned();
    let source = Source::Image(source_id.clone());
    let request = CopyRequest {
        source: source_id,
        name: name_in(parameters, "DestinationImageName", &IMAGE_NAME)?,
        description: description(parameters, "DestinationDescription")?,
        encrypted: copy_is_encrypted(api, parameters, &source)?,
        kms_key: parameters.filled("KMSKeyId").map(str::to_owned),
        retention_days: None,
        tags: tags(parameters)?,
    };
    let copy = api.disks.copy_image(caller, &request)?;
    Ok(Answer::new().with("ImageId", copy.image_id))
}

fn item(
    api: &Api,
    image: &ImageRecord,
    tags: Option<&Vec<TagRecord>>,
    jobs: &[JobRecord],
) -> Value {
    let gib = image.size.get().div_ceil(GIB);
    let progress = progress(image.status == ImageStatus::Available, &image.image_id, jobs);
    let snapshot = if image.source.starts_with("s-") { image.source.as_str() } else { "" };
    let device = json!({
        "Device": "",
        "Encrypted": image.encrypted,
        "Format": "",
        "ImportOSSBucket": "",
        "ImportOSSObject": "",
        "Progress": progress,
        "RemainTime": 0,
        "Size": gib.to_string(),
        "SnapshotId": snapshot,
        "Type": "data",
    });
    json!({
        "Architecture": "x86_64",
        "CreationTime": image.created.to_string(),
        "Description": image.description,
        "DiskDeviceMappings": {"DiskDeviceMapping": [device]},
        "ImageFamily": "",
        "ImageId": image.image_id,
        "ImageName": image.name,
        "ImageOwnerAlias": "self",
        "ImageVersion": "",
        "IsCopied": image.source.starts_with("m-"),
        "IsPublic": false,
        "IsSelfShared": "",
        "IsSubscribed": false,
        "IsSupportCloudinit": false,
        "IsSupportIoOptimized": true,
        "OSName": "",
        "OSType": "linux",
        "Platform": "Others Linux",
        "ProductCode": "",
        "Progress": progress,
        "ResourceGroupId": "",
        "Size": gib,
        "Status": image.status.as_str(),
        "Tags": shown_tags(tags),
        "Usage": "none",
        // Ours: as of snapshots.
        "SizeBytes": image.size.get(),
        "Encrypted": image.encrypted,
        "KMSKeyId": image.kms_key_id.as_deref().unwrap_or_default(),
        "LayerId": image.layer_id,
        "Source": image.source,
        "OwnerId": api.account_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_ids_are_read_and_too_many_refused() {
        assert_eq!(ids("m-1, m-2"), Ok(vec!["m-1".to_owned(), "m-2".to_owned()]));
        assert!(ids(&"m-1,".repeat(IDS_MAX)).is_err());
    }
}
