//! Disk commands, as the trail shows them.

use crate::catalog::{DiskFilter, DiskRecord, ImageRecord, JobRecord, LayerRecord, SnapshotRecord};
use crate::kms::Account;
use crate::ram::{Caller, ServiceActsAs};
use crate::trail::{Actor, Event, EventKind, ResourceType, Service};
use crate::units::ByteCount;

use super::ControlError;
use super::create::Source;
use super::rebuild::RebuildReport;
use super::rewrap::RewrapReport;
use super::snapshot::Deletion;

/// Why something was refused, for the trail.
pub(super) struct Outcome<'a> {
    pub(super) code: &'a str,
    pub(super) message: String,
}

impl<'a> Outcome<'a> {
    pub(super) fn of(error: &'a ControlError) -> Self {
        Self { code: error.code(), message: error.message() }
    }
}

/// Who calls, in the trail of `account`.
pub(super) fn actor(caller: &Caller, account: &Account) -> Actor {
    Actor {
        request_id: caller.request_id,
        account_id: account.account_id.clone(),
        region: account.region.clone(),
        source: caller.source.clone(),
        user_agent: caller.user_agent.clone(),
        user_identity: caller.user_identity(&account.account_id, &ServiceActsAs::Itself),
    }
}

/// A command about one disk.
pub(super) fn disk_event(actor: Actor, action: &'static str, disk_id: &str) -> Event {
    Event::new(Service::Ecs, action, actor)
        .resource(ResourceType::Disk, disk_id)
        .request("DiskId", disk_id)
}

/// A command about a disk, a snapshot or an image.
pub(super) fn thing_event(
    actor: Actor,
    action: &'static str,
    (kind, id): (ResourceType, &str),
) -> Event {
    let name = match kind {
        ResourceType::Snapshot => "SnapshotId",
        ResourceType::Image => "ImageId",
        _ => "DiskId",
    };
    Event::new(Service::Ecs, action, actor).resource(kind, id).request(name, id)
}

/// `CreateSnapshot` and `CopySnapshot`, as far as what is new goes.
pub(super) fn snapshot_created(actor: Actor, snapshot: &SnapshotRecord) -> Event {
    let action = match &snapshot.source_snapshot {
        Some(_) => "CopySnapshot",
        None => "CreateSnapshot",
    };
    let event = Event::new(Service::Ecs, action, actor)
        .resource(ResourceType::Snapshot, &snapshot.snapshot_id)
        .request("SnapshotName", snapshot.name.as_str())
        .response("SnapshotId", snapshot.snapshot_id.as_str());
    let event = match &snapshot.source_snapshot {
        Some(source) => event.request("SnapshotId", source.as_str()),
        None => event
            .resource(ResourceType::Disk, &snapshot.disk_id)
            .request("DiskId", snapshot.disk_id.as_str()),
    };
    with_key(event, snapshot.kms_key_id.as_deref())
}

/// `CreateImage` and `CopyImage`, as far as what is new goes.
pub(super) fn image_created(actor: Actor, action: &'static str, image: &ImageRecord) -> Event {
    let source = if action == "CopyImage" { "ImageId" } else { "SnapshotId" };
    let event = Event::new(Service::Ecs, action, actor)
        .resource(ResourceType::Image, &image.image_id)
        .request("ImageName", image.name.as_str())
        .request(source, image.source.as_str())
        .response("ImageId", image.image_id.as_str());
    with_key(event, image.kms_key_id.as_deref())
}

/// `DeleteDisk`.
pub(super) fn disk_deleted(actor: Actor, disk_id: &str, deletion: Deletion) -> Event {
    disk_event(actor, "DeleteDisk", disk_id).request("Erase", deletion.erase)
}

/// A layer's header was destroyed, with the wrapped key in it.
pub(super) fn layer_erased(actor: Actor, layer: &LayerRecord, bytes: ByteCount) -> Event {
    let event = disk_event(actor, "EraseLayer", &layer.owner)
        .kind(EventKind::ServiceEvent)
        .request("LayerId", layer.layer_id.as_str())
        .response("ErasedBytes", bytes.get());
    with_key(event, layer.kms_key_id.as_deref())
}

/// A command about a job, or its end.
pub(super) fn job_event(actor: Actor, action: &'static str, job: &JobRecord) -> Event {
    let mut event = Event::new(Service::Ecs, action, actor)
        .request("JobId", job.job_id.as_str())
        .request("Kind", job.kind.as_str())
        .request("LayerId", job.target_layer.as_str());
    if let Some(disk_id) = &job.disk_id {
        event = event.resource(ResourceType::Disk, disk_id).request("DiskId", disk_id.as_str());
    }
    event
}

fn with_key(event: Event, kms_key_id: Option<&str>) -> Event {
    match kms_key_id {
        Some(key_id) => event.resource(ResourceType::Key, key_id).request("KMSKeyId", key_id),
        None => event,
    }
}

/// `CreateDisk` that succeeded.
pub(super) fn disk_created(actor: Actor, disk: &DiskRecord, source: &Source) -> Event {
    let event = Event::new(Service::Ecs, "CreateDisk", actor)
        .resource(ResourceType::Disk, &disk.disk_id)
        .request("DiskName", disk.name.as_str())
        .request("SizeBytes", disk.size.get())
        .request("Encrypted", disk.encrypted)
        .response("DiskId", disk.disk_id.as_str());
    let event = match source {
        Source::Nothing => event,
        Source::Snapshot(id) => {
            event.resource(ResourceType::Snapshot, id).request("SnapshotId", id.as_str())
        }
        Source::Image(id) => {
            event.resource(ResourceType::Image, id).request("ImageId", id.as_str())
        }
    };
    with_key(event, disk.kms_key_id.as_deref())
}

/// `ModifyDiskPerformance`: the disk as it is now. No limit is recorded as 0.
pub(super) fn performance_modified(actor: Actor, disk: &DiskRecord) -> Event {
    disk_event(actor, "ModifyDiskPerformance", &disk.disk_id)
        .request("Cache", disk.cache.as_str())
        .request("IopsLimit", disk.limits.iops.unwrap_or(0))
        .request("BytesPerSecondLimit", disk.limits.bytes_per_second.unwrap_or(0))
}

/// `CheckLayers`.
pub(super) fn layers_checked(actor: Actor, repair: bool) -> Event {
    let event = Event::new(Service::Ecs, "CheckLayers", actor).request("Repair", repair);
    if repair { event } else { event.read_only() }
}

/// `RebuildCatalog`: what it brought back.
pub(super) fn catalog_rebuilt(actor: Actor, report: Option<&RebuildReport>) -> Event {
    let event = Event::new(Service::Ecs, "RebuildCatalog", actor);
    let Some(report) = report else { return event };
    let mut event = event
        .response("Layers", report.layers)
        .response("Refreshed", report.refreshed)
        .response("Snapshots", report.snapshots.len())
        .response("Images", report.images.len());
    let disks = report.disks.iter().map(|disk| disk.disk_id.clone());
    let disks: Vec<String> = disks.chain(report.moved.iter().cloned()).collect();
    for disk in &disks {
        event = event.resource(ResourceType::Disk, disk);
    }
    event.response("DiskIds", disks.join(","))
}

/// `RewrapKey`.
pub(super) fn key_rewrapped(actor: Actor, key: &str) -> Event {
    Event::new(Service::Ecs, "RewrapKey", actor)
        .resource(ResourceType::Key, key)
        .request("KeyId", key)
}

/// What rewrapping did.
pub(super) fn rewrapped(event: Event, report: &RewrapReport) -> Event {
    event
        .response("Rewrapped", report.rewrapped)
        .response("Newest", report.newest)
        .response("Failed", report.failed.len())
}

/// `DescribeDisks`.
pub(super) fn disks_described(actor: Actor, filter: &DiskFilter) -> Event {
    let event = Event::new(Service::Ecs, "DescribeDisks", actor).read_only();
    match &filter.ids {
        Some(ids) => event.request("DiskIds", ids.join(",")),
        None => event,
    }
}
