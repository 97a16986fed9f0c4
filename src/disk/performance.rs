//! How fast a disk is: its cache mode and its limits, changed while it is used.

use std::ops::RangeInclusive;
use std::sync::PoisonError;

use crate::catalog::{CacheMode, DiskLimits, DiskRecord, DiskStatus};
use crate::limits;
use crate::ram::Caller;

use super::registry::Disks;
use super::{ControlError, audit};

/// What shall change; `None` leaves as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct PerformanceChange {
    /// The cache mode from the next attach on.
    pub cache: Option<CacheMode>,
    /// Requests a second, at once; `Some(None)` lifts the limit.
    pub iops: Option<Option<u64>>,
    /// Bytes a second, at once; `Some(None)` lifts the limit.
    pub bytes_per_second: Option<Option<u64>>,
}

impl PerformanceChange {
    fn of(self, disk: &DiskRecord) -> DiskRecord {
        let limits = DiskLimits {
            iops: self.iops.unwrap_or(disk.limits.iops),
            bytes_per_second: self.bytes_per_second.unwrap_or(disk.limits.bytes_per_second),
        };
        DiskRecord { cache: self.cache.unwrap_or(disk.cache), limits, ..disk.clone() }
    }
}

impl Disks {
    /// Changes cache mode and limits of a disk, attached or not.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`; `IncorrectDiskStatus` while the disk is made, attached or
    /// detached; `InvalidParameter` for a limit out of range.
    pub fn modify_performance(
        &self,
        caller: &Caller,
        disk_id: &str,
        change: PerformanceChange,
    ) -> Result<DiskRecord, ControlError> {
        let outcome = self.try_modify_performance(caller, disk_id, change);
        if let Err(error) = &outcome {
            self.record_refusal(caller, "ModifyDiskPerformance", disk_id, error)?;
        }
        outcome
    }

    fn try_modify_performance(
        &self,
        caller: &Caller,
        disk_id: &str,
        change: PerformanceChange,
    ) -> Result<DiskRecord, ControlError> {
        self.allow(caller, "sealdisk:ModifyDiskPerformance", disk_id)?;
        let _turn = self.stack.turns.take(disk_id);
        // Two changes at once must not lose each other's fields, and the open disk must end with
        // the limits that the catalog ends with.
        let _one_at_a_time = self.performance.lock().unwrap_or_else(PoisonError::into_inner);
        let disk = self.disk(disk_id)?;
        if !matches!(disk.status, DiskStatus::Available | DiskStatus::InUse) {
            return Err(ControlError::wrong_status(disk_id, disk.status));
        }
        let changed = change.of(&disk);
        check_limits(changed.limits)?;
        let event = audit::performance_modified(self.actor(caller), &changed);
        self.change(&disk, &changed, || self.parts.trail.record(&event))?;
        let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(attachment) = attached.get(disk_id) {
            attachment.disk().throttle().set(changed.limits);
        }
        Ok(changed)
    }
}

/// Refuses limits that no disk can have.
pub(super) fn check_limits(limits: DiskLimits) -> Result<(), ControlError> {
    let check = |name, limit: Option<u64>, allowed: RangeInclusive<u64>| match limit {
        Some(limit) if !allowed.contains(&limit) => {
            let (least, most) = (allowed.start(), allowed.end());
            let message = format!(
                "The specified parameter \"{name}\" is not valid: {limit} is not from {least} to \
                 {most}."
            );
            Err(ControlError::refused("InvalidParameter", 400, message))
        }
        _ => Ok(()),
    };
    check("IopsLimit", limits.iops, limits::IOPS_LIMITS)?;
    check("BytesPerSecondLimit", limits.bytes_per_second, limits::BYTES_PER_SECOND_LIMITS)
}
