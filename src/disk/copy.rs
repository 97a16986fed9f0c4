//! Copies of snapshots and images, under a KMS key of their own: re-encrypted, never in clear on
//! storage.

use crate::catalog::{ImageRecord, SnapshotRecord};
use crate::ram::Caller;

use super::ControlError;
use super::registry::Disks;

/// What a copy shall be.
#[derive(Clone, Debug, Default)]
pub struct CopyRequest {
    /// Id of the snapshot or image.
    pub source: String,
    /// As for a new one.
    pub name: String,
    /// As for a new one.
    pub description: String,
    /// Encrypted: must be true if the source is. A copy of a plain one can be.
    pub encrypted: bool,
    /// Id, alias or ARN of the KMS key; `None`: that of the source, or else the service key.
    pub kms_key: Option<String>,
    /// Days a snapshot is kept; not for images.
    pub retention_days: Option<u32>,
    /// Tags to begin with.
    pub tags: Vec<(String, String)>,
}

impl Disks {
    /// Begins to copy a snapshot into a layer of its own; the copy is `progressing` until its job
    /// (see [`Disks::describe_jobs`], [`crate::catalog::JobRecord::subject`]) is done.
    ///
    /// # Errors
    /// `InvalidSnapshotId.NotFound`, `InvalidSnapshotId.NotReady`,
    /// `InvalidEncrypted.NotSupportDecrypt`, the KMS's codes.
    pub fn copy_snapshot(
        &self,
        caller: &Caller,
        request: &CopyRequest,
    ) -> Result<SnapshotRecord, ControlError> {
        let _ = (caller, request);
        Err(ControlError::unsupported("CopySnapshot"))
    }

    /// Begins to copy an image into a layer of its own; the copy is `Creating` until its job is
    /// done.
    ///
    /// # Errors
    /// `InvalidImageId.NotFound`, `InvalidEncrypted.NotSupportDecrypt`, the KMS's codes.
    pub fn copy_image(
        &self,
        caller: &Caller,
        request: &CopyRequest,
    ) -> Result<ImageRecord, ControlError> {
        let _ = (caller, request);
        Err(ControlError::unsupported("CopyImage"))
    }
}
