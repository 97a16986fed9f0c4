//! Which snapshots an open disk stands on: what clients can ask for changes since.

use uuid::Uuid;

use crate::catalog::{Page, SnapshotFilter, SnapshotRecord};

use super::registry::Disks;

impl Disks {
    /// Ids of up to `limit` snapshots whose layers are below the top of an attached disk, newest
    /// first in each layer, from the top down. None if the disk is not attached or the catalog
    /// fails, which the log tells.
    pub fn snapshots_below(&self, disk_id: &str, limit: usize) -> Vec<String> {
        let page = Page { offset: 0, limit: limit as u64 };
        let of_layer = |layer: Uuid| {
            let filter =
                SnapshotFilter { layer_id: Some(layer.to_string()), ..SnapshotFilter::default() };
            match self.parts.catalog.snapshots(&filter, page) {
                Ok(listed) => listed.items,
                Err(error) => {
                    tracing::error!(disk = %disk_id, %error, "its snapshots cannot be told");
                    Vec::new()
                }
            }
        };
        let of_layers = self.layers_below(disk_id).into_iter().flat_map(of_layer);
        of_layers.map(|snapshot: SnapshotRecord| snapshot.snapshot_id).take(limit).collect()
    }

    /// The layer of a snapshot, if it is below the top of an attached disk.
    pub fn snapshot_below(&self, disk_id: &str, snapshot_id: &str) -> Option<Uuid> {
        let snapshot = match self.parts.catalog.snapshot(snapshot_id) {
            Ok(snapshot) => snapshot?,
            Err(error) => {
                tracing::error!(disk = %disk_id, %error, "a snapshot cannot be looked up");
                return None;
            }
        };
        let layer = Uuid::parse_str(&snapshot.layer_id).ok()?;
        self.layers_below(disk_id).contains(&layer).then_some(layer)
    }

    fn layers_below(&self, disk_id: &str) -> Vec<Uuid> {
        let Some(attachment) = self.find_export(disk_id) else { return Vec::new() };
        attachment.disk().layers().into_iter().skip(1).collect()
    }
}
