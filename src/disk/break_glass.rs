//! Break-glass: the data key of a disk's layer, for stock cryptsetup.
//!
//! Whoever holds it reads the disk for as long as the layer exists, whatever becomes of the KMS
//! key. So the trail says who took it, before it is handed out.

use std::path::PathBuf;

use crate::layer;
use crate::ram::Caller;
use crate::secret::Secret;

use super::layers::belongs;
use super::registry::Disks;
use super::{ControlError, audit};

/// A data key on its way out.
#[derive(Debug)]
pub struct ExportedKey {
    /// The layer it opens.
    pub layer_id: String,
    /// Where that layer lies.
    pub layer_file: PathBuf,
    /// 64 bytes: two AES-256 keys, as `--volume-key-file` takes them.
    pub key: Secret,
}

impl Disks {
    /// Unwraps the data key of a disk's top layer for its owner.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`; `InvalidParameter.EncryptedIllegal` for a plain disk; `DiskError`
    /// if the layer is not that of the disk; the KMS's codes if its key cannot be used.
    pub fn export_key(&self, caller: &Caller, disk_id: &str) -> Result<ExportedKey, ControlError> {
        let outcome = self.try_export_key(caller, disk_id);
        if let Err(error) = &outcome {
            self.record_refusal(caller, "ExportDiskKey", disk_id, error)?;
        }
        outcome
    }

    fn try_export_key(&self, caller: &Caller, disk_id: &str) -> Result<ExportedKey, ControlError> {
        self.allow(caller, "sealdisk:ExportDiskKey", disk_id)?;
        self.disk(disk_id)?;
        let layers = self.parts.catalog.layers(disk_id)?;
        let Some(top) = layers.last() else { return Err(ControlError::no_such_disk(disk_id)) };
        let layer_file = self.parts.store.locate(&top.file_name);
        let storage = self
            .parts
            .store
            .open_reader(&top.file_name)
            .map_err(|error| ControlError::Storage { file: layer_file.clone(), error })?;
        let header = layer::read_header(&*storage)
            .map_err(|error| ControlError::Layer { file: layer_file.clone(), error })?;
        // A swapped file would give away the key of another disk than the trail says.
        belongs(&header, top)?;
        let Some(key) = self.unwrap_data_key(caller, &header, &layer_file)? else {
            let message = format!("The disk {disk_id} is not encrypted: it has no data key.");
            return Err(ControlError::refused("InvalidParameter.EncryptedIllegal", 400, message));
        };
        let event = audit::disk_event(self.actor(caller), "ExportDiskKey", disk_id)
            .request("LayerId", top.layer_id.as_str());
        self.parts.trail.record(&event)?;
        Ok(ExportedKey { layer_id: top.layer_id.clone(), layer_file, key })
    }
}
