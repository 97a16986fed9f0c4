//! Opening and closing disks.
//!
//! Attaching takes four steps, each of which a crash may follow: the catalog says `Attaching` under
//! a new epoch; the layer is opened and locked; the KMS unwraps the data key, bound to every
//! parameter of the header; the catalog says `In_use`, with the trail's record in the same
//! transaction. Only then can a client find the disk.

use std::path::Path;
use std::sync::PoisonError;

use crate::catalog::{CacheMode, DiskRecord, DiskStatus, LayerRecord};
use crate::layer::{self, Layer, LayerHeader, Writable};
use crate::limits;
use crate::metrics;
use crate::ram::Caller;
use crate::secret::Secret;
use crate::storage::store::PageCache;

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
        let disk = self.disk(disk_id)?;
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

    /// Opens the layers of `disk` under its current epoch.
    pub(super) fn open(&self, caller: &Caller, disk: &DiskRecord) -> Result<Disk, ControlError> {
        let layers = self.parts.catalog.layers(&disk.disk_id)?;
        let Some(top) = layers.last() else {
            let message = format!("The disk {} has no layer in the catalog.", disk.disk_id);
            return Err(ControlError::refused("DiskError", 403, message));
        };
        let file = || self.parts.store.locate(&top.file_name);
        let storage = self
            .parts
            .store
            .open_writer(&top.file_name, disk.epoch, page_cache(disk.cache))
            .map_err(|error| ControlError::Storage { file: file(), error })?;
        let on_layer = |error| ControlError::Layer { file: file(), error };
        let header = layer::read_header(&*storage).map_err(on_layer)?;
        belongs(&header, disk, top)?;
        let key = self.unwrap_data_key(caller, &header, &file())?;
        Ok(Disk::new(Layer::<Writable>::open(storage, header, key).map_err(on_layer)?))
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
    pub(super) fn publish(&self, record: &DiskRecord, disk: Disk) {
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
        let disk = self.disk(disk_id)?;
        if disk.status != DiskStatus::InUse {
            return Err(ControlError::wrong_status(disk_id, disk.status));
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
            ..closing.clone()
        };
        let event = audit::disk_event(self.actor(caller), "DetachDisk", disk_id);
        self.change(&closing, &free, || self.parts.trail.record(&event))?;
        flushed.map(|()| free)
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

/// The cache mode in the words of storage.
const fn page_cache(mode: CacheMode) -> PageCache {
    match mode {
        CacheMode::Writeback => PageCache::Used,
        CacheMode::None => PageCache::Bypassed,
    }
}

/// Whether the layer is the one that the catalog means: a swapped file is refused by name, before
/// any key is asked for.
pub(super) fn belongs(
    header: &LayerHeader,
    disk: &DiskRecord,
    layer: &LayerRecord,
) -> Result<(), ControlError> {
    let spec = &header.spec;
    let key_id = header.envelope.as_ref().map(|envelope| envelope.key_id.as_str());
    let difference = [
        ("disk id", spec.disk_id == disk.disk_id),
        ("layer id", spec.layer_id.to_string() == layer.layer_id),
        ("parent layer", spec.parent.map(|id| id.to_string()) == layer.parent),
        ("size", spec.size == disk.size),
        ("encryption", header.envelope.is_some() == disk.encrypted),
        ("KMS key id", key_id == disk.kms_key_id.as_deref()),
    ]
    .into_iter()
    .find(|(_, is_same)| !is_same);
    match difference {
        None => Ok(()),
        Some((field, _)) => Err(ControlError::refused(
            "DiskError",
            403,
            format!(
                "The layer {} is not that of {}: its {field} differs from the catalog. Put the \
                 right file back.",
                layer.file_name, disk.disk_id
            ),
        )),
    }
}
