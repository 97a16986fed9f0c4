//! A disk grows, attached or not.

use crate::catalog::DiskRecord;
use crate::ram::Caller;
use crate::units::ByteCount;

use super::ControlError;
use super::registry::Disks;

impl Disks {
    /// Gives a disk a greater size (whole data units). Clients see it when they connect again.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`, `IncorrectDiskStatus`, `InvalidDiskSize.TooSmall`,
    /// `InvalidSize.ValueNotSupported`, the KMS's codes: the size is bound into the wrapped key.
    pub fn resize(
        &self,
        caller: &Caller,
        disk_id: &str,
        size: ByteCount,
    ) -> Result<DiskRecord, ControlError> {
        let _ = (caller, disk_id, size);
        Err(ControlError::unsupported("ResizeDisk"))
    }
}
