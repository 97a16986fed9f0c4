//! All disks: create, describe, delete. What is attached is in [`super::attach`].
//!
//! The order of the steps makes every crash repairable. A disk is in the catalog, in status
//! `Creating`, before its layer exists, and in status `Deleting` before its layer goes. What a
//! crash leaves in one of these is finished by [`super::recover`] at the next start. The change
//! that a caller is told of is recorded in the trail inside the catalog's transaction.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::catalog::{
    Catalog, DiskFilter, DiskRecord, DiskStatus, LayerUses, Listed, Operation, Page,
};
use crate::clock::{Clock, Entropy};
use crate::kms::{Account, DataKeys};
use crate::ram::{Caller, Ram};
use crate::storage::store::LayerStore;
use crate::trail::Trail;

use super::ControlError;
use super::attachment::Attachment;
use super::audit::{self, Outcome};
use super::job_threads::StackSettings;
use super::layers::{condemned, going};
use super::order::StackControl;
use super::snapshot::Deletion;

/// What [`Disks`] is made of.
pub struct DisksParts {
    /// Records.
    pub catalog: Arc<dyn Catalog>,
    /// What happened.
    pub trail: Arc<Trail>,
    /// Keys.
    pub kms: Arc<dyn DataKeys>,
    /// Who may do what.
    pub ram: Arc<Ram>,
    /// Where layers lie.
    pub store: Arc<dyn LayerStore>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Whose disks.
    pub account: Account,
    /// How deep stacks get, and how jobs work.
    pub stack: StackSettings,
}

/// All disks of the daemon. Every call blocks: on the catalog, the KMS, the trail, files.
pub struct Disks {
    pub(super) parts: DisksParts,
    pub(super) attached: RwLock<HashMap<String, Arc<Attachment>>>,
    /// Held from the catalog's change to that of the open disk, where limits are in question.
    pub(super) performance: Mutex<()>,
    /// Held by whoever changes a header, so that two changes do not meet in one file.
    pub(super) headers: Mutex<()>,
    pub(super) stack: StackControl,
}

impl Disks {
    /// The disks in the catalog; nothing is attached yet, see [`Disks::recover`].
    pub fn new(parts: DisksParts) -> Self {
        let (attached, performance) = (RwLock::default(), Mutex::new(()));
        let headers = Mutex::new(());
        Self { parts, attached, performance, headers, stack: StackControl::default() }
    }

    /// Disks that meet `filter`, newest first. Those on their way out are not shown.
    ///
    /// # Errors
    /// `Forbidden.RAM`, or the catalog's.
    pub fn describe(
        &self,
        caller: &Caller,
        filter: &DiskFilter,
        page: Page,
    ) -> Result<Listed<DiskRecord>, ControlError> {
        let event = audit::disks_described(self.actor(caller), filter);
        if let Err(error) = self.allow(caller, "ecs:DescribeDisks", "*") {
            self.parts.trail.record(&event.error(error.code(), &error.message()))?;
            return Err(error);
        }
        self.parts.trail.record(&event)?;
        Ok(self.parts.catalog.disks(filter, page)?)
    }

    /// Removes a disk for good. It must be `Available`. Its snapshots stay.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`, `DiskStillAttached`, `IncorrectDiskStatus`.
    pub fn delete(&self, caller: &Caller, disk_id: &str) -> Result<(), ControlError> {
        self.delete_with(caller, disk_id, Deletion::default())
    }

    /// As [`Disks::delete`], and destroys the keys of the layers that go with it, if asked to.
    ///
    /// # Errors
    /// As [`Disks::delete`].
    pub fn delete_with(
        &self,
        caller: &Caller,
        disk_id: &str,
        deletion: Deletion,
    ) -> Result<(), ControlError> {
        let outcome = self.try_delete(caller, disk_id, deletion);
        if let Err(error) = &outcome {
            self.record_refusal(caller, "DeleteDisk", disk_id, error)?;
        }
        outcome
    }

    fn try_delete(
        &self,
        caller: &Caller,
        disk_id: &str,
        deletion: Deletion,
    ) -> Result<(), ControlError> {
        self.allow(caller, "ecs:DeleteDisk", disk_id)?;
        let _turn = self.stack.turns.take(disk_id);
        self.delete_now(caller, disk_id, deletion)
    }

    /// Deletes a disk whose turn the caller has.
    pub(super) fn delete_now(
        &self,
        caller: &Caller,
        disk_id: &str,
        deletion: Deletion,
    ) -> Result<(), ControlError> {
        let disk = self.disk(disk_id)?;
        match disk.status {
            DiskStatus::Available => {}
            DiskStatus::InUse => {
                let message = format!("The disk {disk_id} is still attached: detach it first.");
                return Err(ControlError::refused("DiskStillAttached", 403, message));
            }
            status => return Err(ControlError::wrong_status(disk_id, status)),
        }
        self.end_jobs_of(disk_id)?;
        let going_disk = DiskRecord { status: DiskStatus::Deleting, ..disk.clone() };
        let event = audit::disk_deleted(self.actor(caller), disk_id, deletion);
        let mut change = vec![update(&disk, &going_disk)];
        let structure = self.lock_structure();
        if deletion.erase {
            let is_gone = |uses: &LayerUses| is_of_disk_alone(uses, disk_id);
            let released = self.released_by(&disk.top_layer, is_gone)?;
            change.extend(released.into_iter().map(|layer| condemned(layer).into()));
        }
        // From here on there is no way back: a crash is finished at the next start.
        self.apply_recorded(&change, &event)?;
        drop(structure);
        self.remove(caller, disk_id);
        Ok(())
    }

    /// Takes a disk's record away and the layers that nobody else needs. What fails is tried again
    /// at the next start.
    pub(super) fn remove(&self, caller: &Caller, disk_id: &str) {
        if let Err(error) = self.try_remove(disk_id) {
            tracing::error!(disk = %disk_id, %error, "record not removed; tried again at start");
            return;
        }
        self.sweep(caller);
        self.stack.runner.nudge();
    }

    pub(super) fn try_remove(&self, disk_id: &str) -> Result<(), ControlError> {
        let _structure = self.lock_structure();
        let mut change = vec![Operation::DeleteDisk(disk_id.to_owned())];
        if let Some(disk) = self.parts.catalog.disk(disk_id)? {
            let is_gone = |uses: &LayerUses| is_of_disk_alone(uses, disk_id);
            let released = self.released_by(&disk.top_layer, is_gone)?;
            change.extend(released.into_iter().map(|layer| going(layer).into()));
        }
        Ok(self.parts.catalog.apply(&change, &mut || Ok(()))?)
    }

    /// The record of a disk that exists for users.
    pub(super) fn disk(&self, disk_id: &str) -> Result<DiskRecord, ControlError> {
        match self.parts.catalog.disk(disk_id)? {
            Some(disk) if disk.status != DiskStatus::Deleting => Ok(disk),
            _ => Err(ControlError::no_such_disk(disk_id)),
        }
    }

    /// The record of a disk that is attached or could be.
    pub(super) fn usable_disk(&self, disk_id: &str) -> Result<DiskRecord, ControlError> {
        let disk = self.disk(disk_id)?;
        match disk.status {
            DiskStatus::Available | DiskStatus::InUse => Ok(disk),
            status => Err(ControlError::wrong_status(disk_id, status)),
        }
    }

    /// The disk of this id as it is served, if it is.
    pub(super) fn attached_disk(&self, disk_id: &str) -> Option<Arc<Attachment>> {
        let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
        attached.get(disk_id).map(Arc::clone)
    }

    /// Puts `after` in the place of `before`, if nobody was faster. `gate` runs just before.
    pub(super) fn change(
        &self,
        before: &DiskRecord,
        after: &DiskRecord,
        mut gate: impl FnMut() -> Result<(), crate::trail::TrailError>,
    ) -> Result<(), ControlError> {
        Ok(self.parts.catalog.apply(&[update(before, after)], &mut || Ok(gate()?))?)
    }

    pub(super) fn record_refusal(
        &self,
        caller: &Caller,
        action: &'static str,
        disk_id: &str,
        error: &ControlError,
    ) -> Result<(), ControlError> {
        let event = audit::disk_event(self.actor(caller), action, disk_id);
        let refusal = Outcome::of(error);
        Ok(self.parts.trail.record(&event.error(refusal.code, &refusal.message))?)
    }

    pub(super) fn actor(&self, caller: &Caller) -> crate::trail::Actor {
        audit::actor(caller, &self.parts.account)
    }

    /// The same call, in the name under which the disk service uses keys.
    pub(super) fn as_ecs(&self, caller: &Caller) -> Caller {
        Caller::ecs_for(caller)
    }

    /// The attached disk of this id or name; none if the name is not unique among the attached.
    pub fn find_export(&self, name: &str) -> Option<Arc<Attachment>> {
        let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = attached.get(name) {
            return Some(Arc::clone(found));
        }
        let mut named = attached.values().filter(|attachment| attachment.name() == name);
        let found = named.next()?;
        named.next().is_none().then(|| Arc::clone(found))
    }

    /// Id and name of up to `limit` attached disks, by id.
    pub fn list_exports(&self, limit: usize) -> Vec<(String, String)> {
        let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
        let of = |(id, disk): (&String, &Arc<Attachment>)| (id.clone(), disk.name().to_owned());
        let mut list: Vec<_> = attached.iter().map(of).collect();
        list.sort();
        list.truncate(limit);
        list
    }

    /// Where the layers of a disk lie, bottom first.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`, or the catalog's.
    pub fn layer_files(&self, disk_id: &str) -> Result<Vec<std::path::PathBuf>, ControlError> {
        self.disk(disk_id)?;
        let layers = self.parts.catalog.layers(disk_id)?;
        Ok(layers.iter().map(|layer| self.parts.store.locate(&layer.file_name)).collect())
    }

    /// Disks attached now.
    pub fn attached_count(&self) -> usize {
        self.attached.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl std::fmt::Debug for Disks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Disks({} attached)", self.attached_count())
    }
}

/// Puts `after` in the place of `before`, if nobody was faster.
pub(super) fn update(before: &DiskRecord, after: &DiskRecord) -> Operation {
    let (seen_status, seen_epoch) = (before.status, before.epoch);
    Operation::UpdateDisk { disk: after.clone(), seen_status, seen_epoch }
}

/// Whether a layer goes when the disk does. Jobs of the disk have ended before.
fn is_of_disk_alone(uses: &LayerUses, disk_id: &str) -> bool {
    let LayerUses { disks, snapshots, images, jobs, children } = uses;
    let others = [snapshots, images, jobs, children];
    disks.iter().all(|disk| disk == disk_id) && others.iter().all(|list| list.is_empty())
}
