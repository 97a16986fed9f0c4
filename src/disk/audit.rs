//! Disk commands, as the trail shows them.

use crate::catalog::{DiskFilter, DiskRecord, LayerRecord};
use crate::kms::Account;
use crate::ram::{Caller, ServiceActsAs};
use crate::trail::{Actor, Event, ResourceType, Service};
use crate::units::ByteCount;

use super::ControlError;
use super::rebuild::RebuildReport;
use super::rewrap::RewrapReport;

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

/// `CreateDisk` that succeeded.
pub(super) fn disk_created(actor: Actor, disk: &DiskRecord) -> Event {
    let event = Event::new(Service::Ecs, "CreateDisk", actor)
        .resource(ResourceType::Disk, &disk.disk_id)
        .request("DiskName", disk.name.as_str())
        .request("SizeBytes", disk.size.get())
        .request("Encrypted", disk.encrypted)
        .response("DiskId", disk.disk_id.as_str());
    match &disk.kms_key_id {
        Some(key_id) => {
            event.resource(ResourceType::Key, key_id).request("KMSKeyId", key_id.as_str())
        }
        None => event,
    }
}

/// `ModifyDiskPerformance`: the disk as it is now. No limit is recorded as 0.
pub(super) fn performance_modified(actor: Actor, disk: &DiskRecord) -> Event {
    disk_event(actor, "ModifyDiskPerformance", &disk.disk_id)
        .request("Cache", disk.cache.as_str())
        .request("IopsLimit", disk.limits.iops.unwrap_or(0))
        .request("BytesPerSecondLimit", disk.limits.bytes_per_second.unwrap_or(0))
}

/// `EraseLayer`: the first bytes of a layer, its wrapped key among them, are overwritten for good.
pub(super) fn layer_erased(actor: Actor, layer: &LayerRecord, erased: ByteCount) -> Event {
    let event = Event::new(Service::Ecs, "EraseLayer", actor)
        .resource(ResourceType::Disk, &layer.owner)
        .request("DiskId", layer.owner.as_str())
        .request("LayerId", layer.layer_id.as_str())
        .request("LayerFile", layer.file_name.as_str())
        .response("BytesOverwritten", erased.get());
    match &layer.kms_key_id {
        Some(key_id) => event.resource(ResourceType::Key, key_id),
        None => event,
    }
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
