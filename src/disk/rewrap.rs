//! Rewrap: the same data keys, wrapped under the newest version of their KMS key. Touches headers
//! alone; disks are served meanwhile.
//!
//! After a rotation the old versions of a KMS key still open what they wrapped. Rewrapping all that
//! is under a key ends the need for them. Cut off at any point, each layer is under one version or
//! the other; done again, it goes on where it was.

use crate::catalog::{LayerRecord, Page};
use crate::ram::Caller;

use super::headers::{Rewrapped, is_whole};
use super::registry::Disks;
use super::{ControlError, audit};

/// What rewrapping did.
#[derive(Debug, Default)]
pub struct RewrapReport {
    /// Layers whose data key is under a newer version than before.
    pub rewrapped: usize,
    /// Layers that were under the newest version.
    pub newest: usize,
    /// Layers without encryption.
    pub plain: usize,
    /// Layers that could not be rewrapped, and why. They stay as they were.
    pub failed: Vec<(String, ControlError)>,
}

impl Disks {
    /// Rewraps the data keys of all layers of a disk, attached or not. Layers that it shares with
    /// others are rewrapped for all of them.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`; the first layer's that could not be rewrapped.
    pub fn rewrap_disk(
        &self,
        caller: &Caller,
        disk_id: &str,
    ) -> Result<RewrapReport, ControlError> {
        let outcome = self.try_rewrap_disk(caller, disk_id);
        if let Err(error) = &outcome {
            self.record_refusal(caller, "RewrapDisk", disk_id, error)?;
        }
        outcome
    }

    fn try_rewrap_disk(
        &self,
        caller: &Caller,
        disk_id: &str,
    ) -> Result<RewrapReport, ControlError> {
        self.allow(caller, "sealdisk:RewrapDisk", disk_id)?;
        self.disk(disk_id)?;
        let mut report = self.rewrap(caller, self.parts.catalog.layers(disk_id)?);
        if !report.failed.is_empty() {
            return Err(report.failed.swap_remove(0).1);
        }
        let event = audit::disk_event(self.actor(caller), "RewrapDisk", disk_id);
        self.parts.trail.record(&audit::rewrapped(event, &report))?;
        Ok(report)
    }

    /// Rewraps the data keys of all layers under a KMS key (id, alias or ARN), whoever uses them.
    /// What fails is in the report; the others are done all the same.
    ///
    /// # Errors
    /// The KMS's, if there is no such key or it cannot be used.
    pub fn rewrap_key(&self, caller: &Caller, key: &str) -> Result<RewrapReport, ControlError> {
        let outcome = self.try_rewrap_key(caller, key);
        if let Err(error) = &outcome {
            let event = audit::key_rewrapped(self.actor(caller), key);
            self.parts.trail.record(&event.error(error.code(), &error.message()))?;
        }
        outcome
    }

    fn try_rewrap_key(&self, caller: &Caller, key: &str) -> Result<RewrapReport, ControlError> {
        self.allow(caller, "sealdisk:RewrapKey", "*")?;
        let key_id = self.usable_key(caller, key)?;
        let layers = self.parts.catalog.all_layers(None, Page::ALL)?.items.into_iter();
        let whole = layers.filter(|layer| is_whole(layer.state));
        let under = whole.filter(|layer| layer.kms_key_id.as_ref() == Some(&key_id));
        let report = self.rewrap(caller, under.collect());
        let event = audit::key_rewrapped(self.actor(caller), &key_id);
        self.parts.trail.record(&audit::rewrapped(event, &report))?;
        Ok(report)
    }

    fn rewrap(&self, caller: &Caller, layers: Vec<LayerRecord>) -> RewrapReport {
        let mut report = RewrapReport::default();
        for layer in layers {
            match self.rewrap_layer(caller, &layer) {
                Ok(Rewrapped::Anew) => report.rewrapped += 1,
                Ok(Rewrapped::Newest) => report.newest += 1,
                Ok(Rewrapped::Plain) => report.plain += 1,
                // Removed since it was listed.
                Err(_) if self.is_gone(&layer) => {}
                Err(error) => report.failed.push((layer.layer_id, error)),
            }
        }
        report
    }

    /// Whether a layer is on its way out, or out.
    pub(super) fn is_gone(&self, layer: &LayerRecord) -> bool {
        let found = self.parts.catalog.layer(&layer.layer_id);
        found.is_ok_and(|found| found.is_none_or(|found| !is_whole(found.state)))
    }
}
