//! How much was encrypted under each data key: kept in the catalog across restarts and crashes,
//! shown, and warned of.

use std::sync::{Arc, PoisonError};

use crate::catalog::{LayerRecord, StackOperation};
use crate::layer::KEY_BYTES_WARNING;
use crate::metrics;
use crate::units::ByteCount;

use super::attachment::Attachment;
use super::registry::Disks;
use super::{ControlError, Disk};

/// How much a layer's data key has encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyScope {
    /// The layer.
    pub layer: LayerRecord,
    /// Bytes: an upper bound.
    pub encrypted: ByteCount,
    /// Whether a fresh data key is advised ([`KEY_BYTES_WARNING`]).
    pub is_warning: bool,
}

impl Disks {
    /// Writes down what the data keys of a disk have encrypted, without what was reserved.
    pub(super) fn settle_counts(&self, disk: &Disk) {
        disk.settle_meters(|layer, count| {
            let (layer_id, key_bytes) = (layer.to_string(), count.get());
            let settle = StackOperation::SettleKeyBytes { layer_id, key_bytes };
            let settled = self.parts.catalog.apply(&[settle.into()], &mut || Ok(()));
            if let Err(error) = &settled {
                // The bound stays, which is more.
                tracing::warn!(%layer, %error, "what a data key has encrypted was not settled");
            }
            settled.is_ok()
        });
    }

    /// How much the data key of each layer of a disk has encrypted, bottom first.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`, or the catalog's.
    pub fn key_scopes(&self, disk_id: &str) -> Result<Vec<KeyScope>, ControlError> {
        self.disk(disk_id)?;
        let open = self.open_disk(disk_id);
        // What an open layer has counted is exact; the catalog has a bound that is above it.
        let counted = open.map(|open| open.disk().key_bytes()).unwrap_or_default();
        let of = |layer: LayerRecord| {
            let exact = counted.iter().find(|(id, _)| id.to_string() == layer.layer_id);
            let encrypted = exact.map_or(ByteCount::new(layer.key_bytes), |(_, bytes)| *bytes);
            let is_warning = encrypted.get() >= KEY_BYTES_WARNING;
            KeyScope { layer, encrypted, is_warning }
        };
        Ok(self.parts.catalog.layers(disk_id)?.into_iter().map(of).collect())
    }

    /// Puts what the data keys of open disks have encrypted into the metrics. The disks that
    /// should get a fresh data key, and how much their old one has encrypted.
    pub fn measure_keys(&self) -> Vec<(String, ByteCount)> {
        let open: Vec<Arc<Attachment>> = {
            let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
            attached.values().cloned().collect()
        };
        let mut worn = Vec::new();
        for attachment in open {
            let most = most_used(attachment.disk());
            metrics::data_key_bytes(attachment.disk_id()).set(most as f64);
            if most >= KEY_BYTES_WARNING {
                worn.push((attachment.disk_id().to_owned(), ByteCount::new(most)));
            }
        }
        worn
    }

    fn open_disk(&self, disk_id: &str) -> Option<Arc<Attachment>> {
        let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
        attached.get(disk_id).cloned()
    }
}

/// Bytes under that data key of the disk that has encrypted the most.
fn most_used(disk: &Disk) -> u64 {
    disk.key_bytes().iter().map(|(_, bytes)| bytes.get()).max().unwrap_or(0)
}
