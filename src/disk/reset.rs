//! A disk goes back: to a snapshot of it, or to its beginning.

use crate::catalog::{DiskRecord, DiskStatus, StackOperation};
use crate::ram::Caller;

use super::create::Base;
use super::layers::{LayerPlan, live};
use super::registry::Disks;
use super::{ControlError, audit};

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
        let outcome = self.allow(caller, "ecs:ResetDisk", disk_id).and_then(|()| {
            self.go_back(caller, disk_id, "ResetDisk", |_| {
                let snapshot = self.ready_snapshot(snapshot_id)?;
                if snapshot.disk_id != disk_id || snapshot.source_snapshot.is_some() {
                    let message = format!("{snapshot_id} is no snapshot of the disk {disk_id}.");
                    return Err(ControlError::refused("InvalidParameter.Mismatch", 403, message));
                }
                Ok(Some(snapshot.into()))
            })
        });
        if let Err(error) = &outcome {
            self.record_refusal(caller, "ResetDisk", disk_id, error)?;
        }
        outcome
    }

    /// Puts a disk back to what it was made of: its snapshot or image, else nothing but zeros. It
    /// must be `Available`.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`, `IncorrectDiskStatus`; `InvalidSourceSnapshot.NotFound` if what it
    /// was made of is gone.
    pub fn reinit(&self, caller: &Caller, disk_id: &str) -> Result<DiskRecord, ControlError> {
        let outcome = self.allow(caller, "ecs:ReInitDisk", disk_id).and_then(|()| {
            self.go_back(caller, disk_id, "ReInitDisk", |disk| {
                let gone = |_| {
                    let message = format!("What the disk {disk_id} was made of is gone.");
                    ControlError::refused("InvalidSourceSnapshot.NotFound", 404, message)
                };
                match (&disk.source_snapshot, &disk.source_image) {
                    (Some(id), _) => Ok(Some(self.ready_snapshot(id).map_err(gone)?.into())),
                    (None, Some(id)) => Ok(Some(self.ready_image(id).map_err(gone)?.into())),
                    (None, None) => Ok(None),
                }
            })
        });
        if let Err(error) = &outcome {
            self.record_refusal(caller, "ReInitDisk", disk_id, error)?;
        }
        outcome
    }

    /// Gives a disk an empty top over the layer that `base` names, in place of what it has.
    fn go_back(
        &self,
        caller: &Caller,
        disk_id: &str,
        action: &'static str,
        base: impl Fn(&DiskRecord) -> Result<Option<Base>, ControlError>,
    ) -> Result<DiskRecord, ControlError> {
        let _turn = self.stack.turns.take(disk_id);
        let disk = self.disk(disk_id)?;
        if disk.status != DiskStatus::Available {
            return Err(ControlError::wrong_status(disk_id, disk.status));
        }
        let below = base(&disk)?;
        self.end_jobs_of(disk_id)?;
        // Back before its encryption, a disk is plain again.
        let is_plain_again = action == "ResetDisk" && below.as_ref().is_some_and(|b| !b.encrypted);
        let disk_key = disk.kms_key_id.clone().filter(|_| !is_plain_again);
        let key = self.key_of_layer(caller, disk_key.as_deref(), below.is_some())?;
        let new = self.new_layer(
            caller,
            LayerPlan {
                owner: disk_id,
                parent: below.as_ref().map(|base| base.layer_id.as_str()),
                size: disk.size,
                kms_key_id: key.as_deref(),
            },
        )?;
        let swapped = (|| {
            let _structure = self.lock_structure();
            // It may have gone meanwhile.
            base(&disk)?;
            let set_top = StackOperation::SetTop {
                disk_id: disk_id.to_owned(),
                top_layer: new.record.layer_id.clone(),
                seen_top: disk.top_layer.clone(),
            };
            let mut event = audit::disk_event(self.actor(caller), action, disk_id);
            if let Some(base) = &below {
                event = event.request("LayerId", base.layer_id.as_str());
            }
            let data = StackOperation::SetDiskData {
                disk_id: disk_id.to_owned(),
                size: disk.size,
                encrypted: disk_key.is_some(),
                kms_key_id: disk_key,
            };
            let change = [live(&new.record).into(), set_top.into(), data.into()];
            self.apply_recorded(&change, &event)
        })();
        match swapped {
            Ok(()) => {
                self.sweep(caller);
                self.plan_merges();
                self.disk(disk_id)
            }
            Err(error) => {
                self.unmake(&new.record);
                Err(error)
            }
        }
    }
}
