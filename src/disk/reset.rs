//! A disk goes back: to a snapshot of it, or to its beginning.

use crate::catalog::DiskRecord;
use crate::ram::Caller;

use super::ControlError;
use super::registry::Disks;

impl Disks {
    /// Puts a disk back to the state of a snapshot of it. It must be `Available`; what it holds now
    /// is lost, unless another snapshot has it. It keeps its size.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`, `InvalidSnapshotId.NotFound`, `IncorrectDiskStatus`;
    /// `InvalidParameter.Mismatch` for a snapshot of another disk.
    pub fn reset(
        &self,
        caller: &Caller,
        disk_id: &str,
        snapshot_id: &str,
    ) -> Result<DiskRecord, ControlError> {
        let _ = (caller, disk_id, snapshot_id);
        Err(ControlError::unsupported("ResetDisk"))
    }

    /// Puts a disk back to what it was made of: its snapshot or image, else nothing but zeros. It
    /// must be `Available`.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`, `IncorrectDiskStatus`; `InvalidSourceSnapshot.NotFound` if what it
    /// was made of is gone.
    pub fn reinit(&self, caller: &Caller, disk_id: &str) -> Result<DiskRecord, ControlError> {
        let _ = (caller, disk_id);
        Err(ControlError::unsupported("ReInitDisk"))
    }
}
