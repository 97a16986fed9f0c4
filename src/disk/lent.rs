//! Disks that are lent: what becomes of one that an image was written to.

use std::time::Duration;

use crate::catalog::{DiskFilter, DiskStatus, ImageRecord, Page};
use crate::ram::Caller;
use crate::trail::ResourceType;

use super::registry::Disks;
use super::{ControlError, CreateImage, CreateSnapshot, Deletion};

/// Days that the snapshot on the way to an image is kept if the daemon dies between the two.
const FORGOTTEN_AFTER_DAYS: u32 = 1;

/// Shortest time between two looks at leases.
const LEASE_PATIENCE: Duration = Duration::from_secs(1);

impl Disks {
    /// Makes an image of a disk with a lease, `request.snapshot_id` aside, and deletes the disk.
    /// Every step is an action of its own, in the trail too; what a crash in between leaves, the
    /// ends of lease and retention sweep.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`; `IncorrectDiskStatus` for a disk without a lease; those of
    /// DetachDisk, CreateSnapshot and CreateImage: the disk is still there then.
    pub fn image_of_lent(
        &self,
        caller: &Caller,
        disk_id: &str,
        request: &CreateImage,
    ) -> Result<ImageRecord, ControlError> {
        let thing = (ResourceType::Disk, disk_id);
        let disk = self.recorded(caller, "CreateImageOfDisk", thing, || {
            self.allow(caller, "sealdisk:CreateImageOfDisk", disk_id)?;
            let disk = self.disk(disk_id)?;
            match disk.lease_ends {
                Some(_) => Ok(disk),
                None => Err(not_lent(disk_id)),
            }
        })?;
        if disk.status == DiskStatus::InUse {
            self.detach(caller, disk_id, None)?;
        }
        let snapshot = self.create_snapshot(
            caller,
            &CreateSnapshot {
                disk_id: disk_id.to_owned(),
                description: format!("on its way to the image {}", request.name),
                retention_days: Some(FORGOTTEN_AFTER_DAYS),
                ..CreateSnapshot::default()
            },
        )?;
        let of = CreateImage { snapshot_id: snapshot.snapshot_id.clone(), ..request.clone() };
        let image = self.create_image(caller, &of);
        let deletion = Deletion { force: true, erase: false };
        let swept = self.delete_snapshot(caller, &snapshot.snapshot_id, deletion);
        let image = image?;
        if let Err(error) = swept.and_then(|()| self.delete(caller, disk_id)) {
            tracing::warn!(disk = %disk_id, %error, "what an image was made of stays for a while");
        }
        Ok(image)
    }

    /// How long until the next lease ends, `at_most` at most; where the catalog fails, that long.
    pub(super) fn time_to_next_lease(&self, at_most: Duration) -> Duration {
        let now = self.parts.clock.now();
        let soon = Some(now.plus(at_most));
        let filter = DiskFilter { lease_ended_at: soon, ..DiskFilter::default() };
        let lent = self.parts.catalog.disks(&filter, Page::ALL);
        let lent = lent.map(|listed| listed.items).unwrap_or_default();
        let ends = lent.iter().filter_map(|disk| disk.lease_ends).map(|ends| {
            let millis = ends.unix_millis().saturating_sub(now.unix_millis());
            // What is due and could not be done is not tried in a circle.
            Duration::from_millis(u64::try_from(millis).unwrap_or(0)).max(LEASE_PATIENCE)
        });
        ends.min().unwrap_or(at_most).min(at_most)
    }

    /// Whether there is such a disk and it is not encrypted.
    ///
    /// # Errors
    /// The catalog's.
    pub fn is_plain(&self, disk_id: &str) -> Result<bool, ControlError> {
        Ok(self.parts.catalog.disk(disk_id)?.is_some_and(|disk| !disk.encrypted))
    }

    /// The id of the key that disks are under unless told otherwise; it is made at its first use.
    ///
    /// # Errors
    /// The KMS's.
    pub fn service_key(&self, caller: &Caller) -> Result<String, ControlError> {
        Ok(self.parts.kms.default_key(&self.as_ecs(caller))?)
    }
}

fn not_lent(disk_id: &str) -> ControlError {
    let message = format!(
        "{disk_id} has no lease, so it is not taken away: snapshot it, and make an image of the \
         snapshot."
    );
    ControlError::refused("IncorrectDiskStatus", 403, message)
}
