//! Opening and closing disks.
//!
//! Attaching takes four steps, each of which a crash may follow: the catalog says `Attaching` under
//! a new epoch; the layer is opened and locked; the KMS unwraps the data key, bound to every
//! parameter of the header; the catalog says `In_use`, with the trail's record in the same
//! transaction. Only then can a client find the disk.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use crate::catalog::{DiskRecord, DiskStatus};
use crate::layer::LayerHeader;
use crate::limits;
use crate::metrics;
use crate::ram::Caller;
use crate::secret::Secret;

use super::attachment::{Attachment, Label};
use super::registry::Disks;
use super::{ControlError, Disk, audit};

impl Disks {
    /// Opens a disk for `instance_id` and serves it.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`, `IncorrectDiskStatus`, `InstanceDiskLimitExceeded`, the KMS's
    /// codes if the key cannot be used, `DiskError` with the reason if the layer is not as it was
    /// made.
    pub fn attach(
        &self,
        caller: &Caller,
        disk_id: &str,
        instance_id: &str,
    ) -> Result<DiskRecord, ControlError> {
        let outcome = self.try_attach(caller, disk_id, instance_id);
        if let Err(error) = &outcome {
            self.record_refusal(caller, "AttachDisk", disk_id, error)?;
        }
        outcome
    }

    fn try_attach(
        &self,
        caller: &Caller,
        disk_id: &str,
        instance_id: &str,
    ) -> Result<DiskRecord, ControlError> {
        self.allow(caller, "ecs:AttachDisk", disk_id)?;
        let _turn = self.stack.turns.take(disk_id);
        let disk = self.disk(disk_id)?;
        if disk.status == DiskStatus::InUse && (disk.multi_attach || disk.read_only) {
            return self.attach_further(caller, disk, instance_id);
        }
        if disk.status != DiskStatus::Available {
            return Err(ControlError::wrong_status(disk_id, disk.status));
        }
        if self.attached_count() >= limits::ATTACHED_DISKS_MAX {
            let message = format!("At most {} disks can be attached.", limits::ATTACHED_DISKS_MAX);
            return Err(ControlError::refused("InstanceDiskLimitExceeded", 403, message));
        }
        let opening = DiskRecord {
            status: DiskStatus::Attaching,
            epoch: disk.epoch + 1,
            instance_id: Some(instance_id.to_owned()),
            ..disk.clone()
        };
        self.change(&disk, &opening, || Ok(()))?;
        let served = DiskRecord {
            status: DiskStatus::InUse,
            attached: Some(self.parts.clock.now()),
            ..opening.clone()
        };
        let opened = self.open(caller, &opening).and_then(|open| {
            let event = audit::disk_event(self.actor(caller), "AttachDisk", disk_id)
                .request("InstanceId", instance_id);
            // A change of limits comes before both or after both.
            let _limits = self.performance.lock().unwrap_or_else(PoisonError::into_inner);
            self.change(&opening, &served, || self.parts.trail.record(&event))?;
            self.publish(&served, open);
            Ok(())
        });
        match opened {
            Ok(()) => Ok(served),
            Err(error) => {
                let back = DiskRecord { epoch: opening.epoch, ..disk };
                if let Err(second) = self.change(&opening, &back, || Ok(())) {
                    tracing::error!(disk = %disk_id, error = %second, "status not set back");
                }
                Err(error)
            }
        }
    }

    /// The data key in the envelope of the header in `file`; `None` for a plain layer.
    pub(super) fn unwrap_data_key(
        &self,
        caller: &Caller,
        header: &LayerHeader,
        file: &Path,
    ) -> Result<Option<Secret>, ControlError> {
        let Some(envelope) = &header.envelope else { return Ok(None) };
        let (ecs, context) = (self.as_ecs(caller), header.spec.encryption_context());
        let opened = self.parts.kms.decrypt(&ecs, &envelope.wrapped, &context);
        let opened = opened.map_err(|error| self.unusable_key(error, &envelope.key_id, file))?;
        header
            .check_unwrapped_by(&opened.key_id, &opened.key_version)
            .map_err(|error| ControlError::Layer { file: file.to_owned(), error })?;
        Ok(Some(opened.plaintext))
    }

    /// Lets clients find the disk.
    pub(super) fn publish(&self, record: &DiskRecord, disk: Arc<Disk>) {
        let label = Label {
            disk_id: record.disk_id.clone(),
            name: record.name.clone(),
            description: record.description.clone(),
            read_only: record.read_only,
        };
        disk.throttle().set(record.limits);
        let attachment = Attachment::new(disk, label);
        let mut attached = self.attached.write().unwrap_or_else(PoisonError::into_inner);
        attached.insert(record.disk_id.clone(), attachment);
        metrics::attached_disks().set(attached.len() as f64);
    }

    /// Closes a disk: its clients are hung up on when their requests are done, everything is
    /// flushed, the data key is wiped. `instance_id`, if given, must be the one it is attached to.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`, `IncorrectDiskStatus`; `DiskError` if the last flush failed: the
    /// disk is detached all the same, and what was not flushed before may be lost.
    pub fn detach(
        &self,
        caller: &Caller,
        disk_id: &str,
        instance_id: Option<&str>,
    ) -> Result<DiskRecord, ControlError> {
        let outcome = self.try_detach(caller, disk_id, instance_id);
        if let Err(error) = &outcome {
            self.record_refusal(caller, "DetachDisk", disk_id, error)?;
        }
        outcome
    }

    fn try_detach(
        &self,
        caller: &Caller,
        disk_id: &str,
        instance_id: Option<&str>,
    ) -> Result<DiskRecord, ControlError> {
        self.allow(caller, "ecs:DetachDisk", disk_id)?;
        let _turn = self.stack.turns.take(disk_id);
        self.detach_now(caller, disk_id, instance_id)
    }

    /// Detaches a disk whose turn the caller has.
    pub(super) fn detach_now(
        &self,
        caller: &Caller,
        disk_id: &str,
        instance_id: Option<&str>,
    ) -> Result<DiskRecord, ControlError> {
        let disk = self.disk(disk_id)?;
        if disk.status != DiskStatus::InUse {
            return Err(ControlError::wrong_status(disk_id, disk.status));
        }
        if let Some(asked) = instance_id
            && !disk.more_instances.is_empty()
            && instances(&disk).any(|instance| instance == asked)
        {
            return self.detach_one(caller, disk, asked);
        }
        if let (Some(asked), Some(actual)) = (instance_id, &disk.instance_id)
            && asked != actual
        {
            let message = format!("The disk {disk_id} is attached to {actual}, not to {asked}.");
            return Err(ControlError::refused("InvalidInstanceId.NotFound", 404, message));
        }
        let closing = DiskRecord { status: DiskStatus::Detaching, ..disk.clone() };
        self.change(&disk, &closing, || Ok(()))?;
        let flushed = self.close(disk_id);
        let free = DiskRecord {
            status: DiskStatus::Available,
            detached: Some(self.parts.clock.now()),
            instance_id: None,
            more_instances: Vec::new(),
            ..closing.clone()
        };
        let event = audit::disk_event(self.actor(caller), "DetachDisk", disk_id);
        self.change(&closing, &free, || self.parts.trail.record(&event))?;
        flushed.map(|()| free)
    }

    /// Attaches a disk that is attached already to one more instance.
    fn attach_further(
        &self,
        caller: &Caller,
        disk: DiskRecord,
        instance_id: &str,
    ) -> Result<DiskRecord, ControlError> {
        if instances(&disk).any(|instance| instance == instance_id) {
            return Err(ControlError::wrong_status(&disk.disk_id, disk.status));
        }
        // As for the first one, the KMS is asked: a key that was disabled attaches nothing more.
        self.check_keys(caller, &self.parts.catalog.layers(&disk.disk_id)?)?;
        let mut shared = disk.clone();
        shared.more_instances.push(instance_id.to_owned());
        let event = audit::disk_event(self.actor(caller), "AttachDisk", &disk.disk_id)
            .request("InstanceId", instance_id);
        self.change(&disk, &shared, || self.parts.trail.record(&event))?;
        Ok(shared)
    }

    /// Takes one of several instances off a disk. Its clients are the others' as well, as far as
    /// is known here: they stay.
    fn detach_one(
        &self,
        caller: &Caller,
        disk: DiskRecord,
        instance_id: &str,
    ) -> Result<DiskRecord, ControlError> {
        let mut left: Vec<String> = instances(&disk).map(str::to_owned).collect();
        left.retain(|instance| instance != instance_id);
        let first = left.remove(0);
        let rest = DiskRecord { instance_id: Some(first), more_instances: left, ..disk.clone() };
        let event = audit::disk_event(self.actor(caller), "DetachDisk", &disk.disk_id)
            .request("InstanceId", instance_id);
        self.change(&disk, &rest, || self.parts.trail.record(&event))?;
        Ok(rest)
    }

    /// Takes the disk away from its clients, flushes it and drops it with its key.
    pub(super) fn close(&self, disk_id: &str) -> Result<(), ControlError> {
        let taken = {
            let mut attached = self.attached.write().unwrap_or_else(PoisonError::into_inner);
            let taken = attached.remove(disk_id);
            metrics::attached_disks().set(attached.len() as f64);
            taken
        };
        // It could not be opened at the last start: nothing to close.
        let Some(attachment) = taken else { return Ok(()) };
        if !attachment.close(limits::SHUTDOWN_GRACE) {
            tracing::warn!(disk = %disk_id, "clients did not leave in time; their sockets are cut");
            attachment.cut();
            attachment.close(limits::SHUTDOWN_GRACE);
        }
        self.settle_counts(attachment.disk());
        attachment.disk().flush().map_err(|error| {
            let message =
                format!("The disk {disk_id} was detached, but its last flush failed: {error}");
            ControlError::refused("DiskError", 403, message)
        })
    }

    /// Closes every attached disk; the catalog still says `In_use`, so that the next start opens
    /// them again. For the orderly stop, after the last client has gone.
    pub fn close_all(&self) {
        let ids: Vec<String> = {
            let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
            attached.keys().cloned().collect()
        };
        for disk_id in ids {
            if let Err(error) = self.close(&disk_id) {
                tracing::error!(disk = %disk_id, %error, "disk not closed cleanly");
            }
        }
    }
}

/// All instances that a disk is attached to.
fn instances(disk: &DiskRecord) -> impl Iterator<Item = &str> {
    disk.instance_id.iter().chain(&disk.more_instances).map(String::as_str)
}
