//! What an owner may change of a disk beside its data: words, and how long it is lent.

use std::time::Duration;

use crate::catalog::DiskRecord;
use crate::ram::Caller;

use super::registry::Disks;
use super::words::{check_description, check_name};
use super::{ControlError, audit};

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
        let outcome = self.try_modify(caller, disk_id, change);
        if let Err(error) = &outcome {
            self.record_refusal(caller, "ModifyDiskAttribute", disk_id, error)?;
        }
        outcome
    }

    fn try_modify(
        &self,
        caller: &Caller,
        disk_id: &str,
        change: &DiskChange,
    ) -> Result<DiskRecord, ControlError> {
        self.allow(caller, "ecs:ModifyDiskAttribute", disk_id)?;
        change.name.as_deref().map_or(Ok(()), check_name)?;
        change.description.as_deref().map_or(Ok(()), check_description)?;
        let _turn = self.stack.turns.take(disk_id);
        let before = self.usable_disk(disk_id)?;
        let mut after = before.clone();
        after.name = change.name.clone().unwrap_or(after.name);
        after.description = change.description.clone().unwrap_or(after.description);
        if let Some(lease) = change.lease {
            after.lease_ends = lease.map(|lease| self.parts.clock.now().plus(lease));
        }
        let mut event = audit::disk_event(self.actor(caller), "ModifyDiskAttribute", disk_id);
        if let Some(name) = &change.name {
            event = event.request("DiskName", name.as_str());
        }
        self.change(&before, &after, || self.parts.trail.record(&event))?;
        if change.name.is_some() {
            self.note_names(&after.top_layer);
        }
        if after.lease_ends.is_some_and(|ends| before.lease_ends.is_none_or(|old| ends < old)) {
            // Who looks after leases must come sooner.
            self.stack.runner.nudge();
        }
        Ok(after)
    }
}
