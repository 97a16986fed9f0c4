//! Snapshots: the state of a disk at one moment, kept under a name.
//!
//! The top layer of the disk is frozen and an empty one under a fresh data key is put on it. The
//! order of the steps makes every crash repairable:
//!
//! ```text
//! catalog   the new layer, `making`
//! file      its header, under a fresh data key; its name is durable
//! catalog   layer `live`, disk.top = new layer, snapshot of the old one `progressing`; the trail
//! memory    the open disk goes on with the new top: this is the moment of the snapshot
//!           requests that were under way then end
//! file      the old top is flushed
//! catalog   snapshot `accomplished`
//! ```
//!
//! No write reaches the new layer before the catalog knows it. What a crash leaves `progressing` is
//! flushed at the next start: a snapshot holds at least what a power cut then would have left.

use std::time::Duration;

use crate::catalog::{
    DiskFilter, DiskRecord, ImageFilter, LayerRecord, Listed, Operation, Page, SnapshotFilter,
    SnapshotRecord, SnapshotStatus, StackOperation, TaggedType,
};
use crate::limits;
use crate::ram::Caller;
use crate::trail::{Event, ResourceType};

use super::create::Base;
use super::layers::{LayerPlan, NewLayer, condemned, live, uuid_of};
use super::opening::page_cache;
use super::registry::Disks;
use super::tags::{check_tags, put_tags};
use super::words::{check_description, check_snapshot_name, new_id};
use super::{ControlError, audit};

/// What a new snapshot shall be.
#[derive(Clone, Debug, Default)]
pub struct CreateSnapshot {
    /// The disk.
    pub disk_id: String,
    /// May be empty; else 1 to 128 characters, a letter first.
    pub name: String,
    /// At most 256 characters.
    pub description: String,
    /// Days it is kept, 1 to 65536; `None`: until somebody deletes it.
    pub retention_days: Option<u32>,
    /// Tags to begin with.
    pub tags: Vec<(String, String)>,
}

/// What shall change of a snapshot; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct SnapshotChange {
    /// Its name.
    pub name: Option<String>,
    /// What its owner says of it.
    pub description: Option<String>,
    /// Days it is kept, from its making on; `Some(None)`: until somebody deletes it.
    pub retention_days: Option<Option<u32>>,
}

/// How something is deleted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deletion {
    /// Also if disks or images were made of it.
    pub force: bool,
    /// The headers of its layers are destroyed with the wrapped keys before the files go.
    pub erase: bool,
}

impl Disks {
    /// Takes a snapshot of a disk, attached or not. It is `accomplished` when this returns.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`, `IncorrectDiskStatus`, the KMS's codes if the new layer gets no
    /// data key, `QuotaExceed.Snapshot`; `DiskError` if what it should hold could not be made
    /// durable: the snapshot is `failed` then.
    pub fn create_snapshot(
        &self,
        caller: &Caller,
        request: &CreateSnapshot,
    ) -> Result<SnapshotRecord, ControlError> {
        let snapshot_id = new_id("s-", &*self.parts.entropy);
        let outcome = self.try_create_snapshot(caller, request, &snapshot_id);
        if let Err(error) = &outcome {
            self.record_refusal(caller, "CreateSnapshot", &request.disk_id, error)?;
        }
        outcome
    }

    fn try_create_snapshot(
        &self,
        caller: &Caller,
        request: &CreateSnapshot,
        snapshot_id: &str,
    ) -> Result<SnapshotRecord, ControlError> {
        let disk_id = &request.disk_id;
        self.allow(caller, "ecs:CreateSnapshot", disk_id)?;
        check_snapshot_name(&request.name)?;
        check_description(&request.description)?;
        check_tags(&request.tags)?;
        check_retention(request.retention_days)?;
        let _turn = self.stack.turns.take(disk_id);
        let disk = self.usable_disk(disk_id)?;
        let old = self.layer_record(&disk.top_layer)?;
        self.check_quota(&disk)?;
        // The key of the layer rather than of the disk: one that is being renewed is ahead.
        let key = self.key_of_layer(caller, old.kms_key_id.as_deref(), true)?;
        let now = self.parts.clock.now();
        let snapshot = SnapshotRecord {
            snapshot_id: snapshot_id.to_owned(),
            name: request.name.clone(),
            description: request.description.clone(),
            disk_id: disk_id.clone(),
            layer_id: old.layer_id.clone(),
            size: disk.size,
            encrypted: disk.encrypted,
            kms_key_id: old.kms_key_id.clone().filter(|_| disk.encrypted),
            status: SnapshotStatus::Progressing,
            created: now,
            retention_days: request.retention_days,
            expires: request.retention_days.map(|days| now.plus(kept_for(days))),
            source_snapshot: None,
        };
        let event = audit::snapshot_created(self.actor(caller), &snapshot);
        let mut change = vec![StackOperation::InsertSnapshot(snapshot.clone()).into()];
        change.extend(put_tags(TaggedType::Snapshot, snapshot_id, &request.tags));
        self.push(caller, &disk, key.as_deref(), |_| (change, event))?;
        let outcome = self.settle(&disk, &old);
        let status = match &outcome {
            Ok(()) => SnapshotStatus::Accomplished,
            Err(_) => SnapshotStatus::Failed,
        };
        let settled = SnapshotRecord { status, ..snapshot };
        self.apply([StackOperation::UpdateSnapshot(settled.clone())])?;
        self.note_names(&old.layer_id);
        self.stack.runner.nudge();
        outcome.map(|()| settled)
    }

    /// Puts an empty layer under a fresh data key on a disk whose turn the caller has, and makes
    /// the change that `with` gives for it in the same step.
    pub(super) fn push(
        &self,
        caller: &Caller,
        disk: &DiskRecord,
        kms_key_id: Option<&str>,
        with: impl FnOnce(&LayerRecord) -> (Vec<Operation>, Event),
    ) -> Result<LayerRecord, ControlError> {
        let depth = self.parts.catalog.layers(&disk.disk_id)?.len();
        if depth >= limits::LAYERS_MAX {
            let message = format!(
                "The disk {} has {depth} layers: wait until its jobs are done, or flatten it.",
                disk.disk_id
            );
            return Err(ControlError::refused("QuotaExceed.Snapshot", 400, message));
        }
        let new = self.new_layer(
            caller,
            LayerPlan {
                owner: &disk.disk_id,
                parent: Some(&disk.top_layer),
                size: disk.size,
                kms_key_id,
            },
        )?;
        let record = new.record.clone();
        match self.push_made(disk, new, with) {
            Ok(()) => Ok(record),
            Err(error) => {
                self.unmake(&record);
                Err(error)
            }
        }
    }

    fn push_made(
        &self,
        disk: &DiskRecord,
        new: NewLayer,
        with: impl FnOnce(&LayerRecord) -> (Vec<Operation>, Event),
    ) -> Result<(), ControlError> {
        let record = new.record.clone();
        let attached = self.attached_disk(&disk.disk_id);
        // Opened before anything is decided: what can fail has not changed anything yet.
        let top = match &attached {
            None => None,
            Some(_) => Some(self.open_new(new, (disk.epoch, page_cache(disk.cache)))?),
        };
        let (further, event) = with(&record);
        let mut change: Vec<Operation> = vec![
            live(&record).into(),
            StackOperation::SetTop {
                disk_id: disk.disk_id.clone(),
                top_layer: record.layer_id.clone(),
                seen_top: disk.top_layer.clone(),
            }
            .into(),
        ];
        change.extend(further);
        // A job may be among them, and a thread may look for one at any time: none begins before
        // the exchange is over.
        let _held = self.stack.open.hold(&record.layer_id);
        let changes = attached.as_ref().map(|attachment| attachment.disk().changes());
        let structure = self.lock_structure();
        self.apply_recorded(&change, &event)?;
        let (Some(attachment), Some(top), Some(changes)) = (&attached, top, changes) else {
            return Ok(());
        };
        let exchange = match changes.push(top) {
            Ok(exchange) => exchange,
            Err(error) => {
                // The layers agreed when they were opened. What is written now goes to the layer
                // below, where the next attach finds it.
                tracing::error!(disk = %disk.disk_id, %error, "layer not put on");
                return Ok(());
            }
        };
        // A request that hangs holds up this disk's commands, not those of others.
        drop(structure);
        drop(exchange);
        let _structure = self.lock_structure();
        // Its header may have been rewritten meanwhile.
        let frozen = attachment.disk().frozen_layer(uuid_of(&disk.top_layer)?);
        frozen.iter().for_each(|frozen| self.share(frozen));
        Ok(())
    }

    /// Makes what was written to the layer below a disk's top survive power loss.
    fn settle(&self, disk: &DiskRecord, old: &LayerRecord) -> Result<(), ControlError> {
        let failed = |error: String| {
            let message = format!("What the snapshot should hold may be lost: {error}");
            ControlError::refused("DiskError", 403, message)
        };
        match self.attached_disk(&disk.disk_id) {
            Some(attachment) => {
                let id = uuid_of(&old.layer_id)?;
                attachment.disk().flush_layer(id).map_err(|error| failed(error.to_string()))
            }
            None => self.flush_file(old).map_err(|error| failed(error.message())),
        }
    }

    /// Flushes the file of a layer that is not open for writing.
    pub(super) fn flush_file(&self, layer: &LayerRecord) -> Result<(), ControlError> {
        let name = &layer.file_name;
        let storage = self.parts.store.open_frozen(name);
        let storage = storage.map_err(|error| self.on_storage(name, error))?;
        storage.flush().map_err(|error| self.on_storage(name, error))
    }

    /// Snapshots that meet `filter`, newest first.
    ///
    /// # Errors
    /// `Forbidden.RAM`, or the catalog's.
    pub fn describe_snapshots(
        &self,
        caller: &Caller,
        filter: &SnapshotFilter,
        page: Page,
    ) -> Result<Listed<SnapshotRecord>, ControlError> {
        let ids = filter.ids.as_ref();
        self.may_list(caller, "ecs:DescribeSnapshots", ("snapshot/*", "SnapshotIds"), ids)?;
        Ok(self.parts.catalog.snapshots(filter, page)?)
    }

    /// Changes name, description or retention of a snapshot.
    ///
    /// # Errors
    /// `InvalidSnapshotId.NotFound`.
    pub fn modify_snapshot(
        &self,
        caller: &Caller,
        snapshot_id: &str,
        change: &SnapshotChange,
    ) -> Result<SnapshotRecord, ControlError> {
        let thing = (ResourceType::Snapshot, snapshot_id);
        self.recorded(caller, "ModifySnapshotAttribute", thing, || {
            let resource = format!("snapshot/{snapshot_id}");
            self.allow_on(caller, "ecs:ModifySnapshotAttribute", &resource)?;
            change.name.as_deref().map_or(Ok(()), check_snapshot_name)?;
            change.description.as_deref().map_or(Ok(()), check_description)?;
            check_retention(change.retention_days.flatten())?;
            let _structure = self.lock_structure();
            let mut snapshot = self.snapshot(snapshot_id)?;
            snapshot.name = change.name.clone().unwrap_or(snapshot.name);
            snapshot.description = change.description.clone().unwrap_or(snapshot.description);
            if let Some(days) = change.retention_days {
                snapshot.retention_days = days;
                snapshot.expires = days.map(|days| snapshot.created.plus(kept_for(days)));
            }
            let event = audit::thing_event(self.actor(caller), "ModifySnapshotAttribute", thing);
            let update = StackOperation::UpdateSnapshot(snapshot.clone());
            self.apply_recorded(&[update.into()], &event)?;
            self.note_names(&snapshot.layer_id);
            Ok(snapshot)
        })
    }

    /// Deletes a snapshot. Its data goes in the background, as far as nothing else needs it.
    ///
    /// # Errors
    /// `InvalidSnapshotId.NotFound`, `InvalidSnapshotId.NotReady` while it is taken or copied;
    /// `SnapshotCreatedDisk`, `SnapshotCreatedImage` unless forced.
    pub fn delete_snapshot(
        &self,
        caller: &Caller,
        snapshot_id: &str,
        deletion: Deletion,
    ) -> Result<(), ControlError> {
        let thing = (ResourceType::Snapshot, snapshot_id);
        self.recorded(caller, "DeleteSnapshot", thing, || {
            let resource = format!("snapshot/{snapshot_id}");
            self.allow_on(caller, "ecs:DeleteSnapshot", &resource)?;
            self.delete_snapshot_now(caller, snapshot_id, deletion)
        })?;
        self.sweep(caller);
        self.plan_merges();
        Ok(())
    }

    pub(super) fn delete_snapshot_now(
        &self,
        caller: &Caller,
        snapshot_id: &str,
        deletion: Deletion,
    ) -> Result<(), ControlError> {
        let _structure = self.lock_structure();
        let snapshot = self.snapshot(snapshot_id)?;
        if snapshot.status == SnapshotStatus::Progressing {
            return Err(not_ready(snapshot_id));
        }
        if !deletion.force {
            self.check_unused(&snapshot)?;
        }
        let thing = (ResourceType::Snapshot, snapshot_id);
        let event = audit::thing_event(self.actor(caller), "DeleteSnapshot", thing)
            .request("Force", deletion.force)
            .request("Erase", deletion.erase);
        let mut change = vec![StackOperation::DeleteSnapshot(snapshot_id.to_owned()).into()];
        if deletion.erase {
            change.push(condemned(self.layer_record(&snapshot.layer_id)?).into());
        }
        self.apply_recorded(&change, &event)?;
        self.note_names(&snapshot.layer_id);
        Ok(())
    }

    fn check_unused(&self, snapshot: &SnapshotRecord) -> Result<(), ControlError> {
        let id = &snapshot.snapshot_id;
        let one = Page { offset: 0, limit: 1 };
        let made = DiskFilter { source_snapshot: Some(id.clone()), ..DiskFilter::default() };
        if self.parts.catalog.disks(&made, one)?.total > 0 {
            let message = format!("Disks were made of the snapshot {id}; force its deletion.");
            return Err(ControlError::refused("SnapshotCreatedDisk", 403, message));
        }
        let made = ImageFilter { source: Some(id.clone()), ..ImageFilter::default() };
        if self.parts.catalog.images(&made, one)?.total > 0 {
            let message = format!("Images were made of the snapshot {id}; force its deletion.");
            return Err(ControlError::refused("SnapshotCreatedImage", 403, message));
        }
        Ok(())
    }

    fn check_quota(&self, disk: &DiskRecord) -> Result<(), ControlError> {
        let disk_id = Some(disk.disk_id.clone());
        let of_disk = SnapshotFilter { disk_id, ..SnapshotFilter::default() };
        let count = self.parts.catalog.snapshots(&of_disk, Page { offset: 0, limit: 0 })?.total;
        if count < limits::SNAPSHOTS_OF_DISK_MAX {
            return Ok(());
        }
        let message = format!("The disk {} has {count} snapshots already.", disk.disk_id);
        Err(ControlError::refused("QuotaExceed.Snapshot", 400, message))
    }

    /// The record of a snapshot.
    pub(super) fn snapshot(&self, snapshot_id: &str) -> Result<SnapshotRecord, ControlError> {
        self.parts.catalog.snapshot(snapshot_id)?.ok_or_else(|| {
            let message = format!("The specified snapshot does not exist: {snapshot_id}");
            ControlError::refused("InvalidSnapshotId.NotFound", 404, message)
        })
    }

    /// The record of a snapshot that can be used.
    pub(super) fn ready_snapshot(&self, snapshot_id: &str) -> Result<SnapshotRecord, ControlError> {
        let snapshot = self.snapshot(snapshot_id)?;
        match snapshot.status {
            SnapshotStatus::Accomplished => Ok(snapshot),
            _ => Err(not_ready(snapshot_id)),
        }
    }
}

impl From<SnapshotRecord> for Base {
    fn from(snapshot: SnapshotRecord) -> Self {
        let SnapshotRecord { layer_id, size, encrypted, kms_key_id, .. } = snapshot;
        Self { layer_id, size, encrypted, kms_key_id }
    }
}

fn not_ready(snapshot_id: &str) -> ControlError {
    let message = format!("The snapshot {snapshot_id} is not accomplished.");
    ControlError::refused("InvalidSnapshotId.NotReady", 403, message)
}

pub(super) fn check_retention(days: Option<u32>) -> Result<(), ControlError> {
    match days {
        Some(days) if !limits::RETENTION_DAYS.contains(&days) => {
            let message = format!("A snapshot is kept for 1 to 65536 days, not {days}.");
            Err(ControlError::refused("InvalidRetentionDays.Malformed", 400, message))
        }
        _ => Ok(()),
    }
}

/// How long a snapshot is kept.
pub(super) const fn kept_for(days: u32) -> Duration {
    Duration::from_secs(days as u64 * 24 * 60 * 60)
}
