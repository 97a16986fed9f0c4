//! A disk gets a layer of its own: under a fresh data key, under another KMS key, encrypted at all,
//! or just without what is below. All are one job: pull everything up, drop what is below.

use crate::catalog::{JobPace, JobRecord};
use crate::ram::Caller;

use super::ControlError;
use super::registry::Disks;

/// What a disk shall become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Independent of snapshots, images and other disks: everything is in its top layer.
    Flatten,
    /// Under a fresh data key.
    Rekey,
    /// Under a fresh data key that this KMS key (id, alias or ARN) wraps.
    SetKey(String),
    /// Encrypted: under this KMS key, or the service key.
    Encrypt(Option<String>),
}

impl Disks {
    /// Begins to renew a disk, attached or not; the job goes on in the background.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`, `IncorrectDiskStatus`, `OperationConflict` while another job works
    /// on the disk, `InvalidParameter.EncryptedIllegal` if the disk is plain (or, to be encrypted,
    /// is already), the KMS's codes.
    pub fn renew(
        &self,
        caller: &Caller,
        disk_id: &str,
        renewal: &Renewal,
        pace: JobPace,
    ) -> Result<JobRecord, ControlError> {
        let _ = (caller, disk_id, renewal, pace);
        Err(ControlError::unsupported("RekeyDisk"))
    }
}
