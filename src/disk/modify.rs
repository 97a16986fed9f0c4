//! What an owner may change of a disk beside its data: words, and how long it is lent.

use std::time::Duration;

use crate::catalog::DiskRecord;
use crate::ram::Caller;

use super::ControlError;
use super::registry::Disks;

/// What shall change of a disk; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct DiskChange {
    /// Its name; of its export, from the next attach on.
    pub name: Option<String>,
    /// What its owner says of it.
    pub description: Option<String>,
    /// Until when it is kept, from this moment on; `Some(None)`: until somebody deletes it.
    pub lease: Option<Option<Duration>>,
}

impl Disks {
    /// Changes name, description or lease of a disk, attached or not.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`, `IncorrectDiskStatus`, `InvalidDiskName.Malformed`,
    /// `InvalidDescription.Malformed`.
    pub fn modify(
        &self,
        caller: &Caller,
        disk_id: &str,
        change: &DiskChange,
    ) -> Result<DiskRecord, ControlError> {
        let _ = (caller, disk_id, change);
        Err(ControlError::unsupported("ModifyDiskAttribute"))
    }
}
