//! What is due by itself: snapshots past their days, disks past their lease, layers that can go up
//! into others, stacks that have grown too deep.

use crate::catalog::{
    DiskFilter, DiskStatus, JobFilter, JobKind, JobPace, JobState, LayerRecord, Page,
    SnapshotFilter, SnapshotStatus, StackOperation,
};
use crate::clock::random_uuid;
use crate::ram::Caller;

use super::ControlError;
use super::job::NewJob;
use super::registry::Disks;
use super::snapshot::Deletion;

impl Disks {
    /// Does what is due. What fails is tried again the next time.
    pub fn look_after(&self) {
        let caller = Caller::system(random_uuid(&*self.parts.entropy));
        self.delete_expired(&caller).unwrap_or_else(|error| warn("expired snapshots", &error));
        self.delete_forsaken(&caller)
            .unwrap_or_else(|error| warn("disks past their lease", &error));
        self.sweep(&caller);
        self.sweep_restores();
        self.plan_merges();
        self.bound_depths().unwrap_or_else(|error| warn("deep stacks", &error));
        self.forget_jobs().unwrap_or_else(|error| warn("old jobs", &error));
    }

    fn delete_expired(&self, caller: &Caller) -> Result<(), ControlError> {
        let expired_at = Some(self.parts.clock.now());
        let filter = SnapshotFilter { expired_at, ..SnapshotFilter::default() };
        for snapshot in self.parts.catalog.snapshots(&filter, Page::ALL)?.items {
            if snapshot.status != SnapshotStatus::Progressing {
                let deletion = Deletion { force: true, erase: false };
                self.delete_snapshot_now(caller, &snapshot.snapshot_id, deletion)?;
            }
        }
        Ok(())
    }

    fn delete_forsaken(&self, caller: &Caller) -> Result<(), ControlError> {
        let lease_ended_at = Some(self.parts.clock.now());
        let filter = DiskFilter { lease_ended_at, ..DiskFilter::default() };
        for disk in self.parts.catalog.disks(&filter, Page::ALL)?.items {
            let disk_id = &disk.disk_id;
            let _turn = self.stack.turns.take(disk_id);
            // It may have been renewed since.
            let now = self.parts.clock.now();
            let Some(disk) = self.parts.catalog.disk(disk_id)? else { continue };
            if disk.lease_ends.is_none_or(|ends| ends > now) {
                continue;
            }
            if disk.status == DiskStatus::InUse {
                self.detach_now(caller, disk_id, None)?;
            }
            tracing::info!(disk = %disk_id, "its lease has ended");
            self.delete_now(caller, disk_id, Deletion::default())?;
        }
        Ok(())
    }

    /// Begins merges of layers that nobody needs but the one on them.
    pub(super) fn plan_merges(&self) {
        match self.try_plan_merges() {
            Ok(0) => {}
            Ok(_) => self.stack.runner.nudge(),
            Err(error) => warn("layers to merge", &error),
        }
    }

    fn try_plan_merges(&self) -> Result<usize, ControlError> {
        let _structure = self.lock_structure();
        let mut planned = 0;
        for target in self.parts.catalog.absorbing_layers()? {
            if !self.may_be_merged_into(&target)? {
                continue;
            }
            let over = self.parts.catalog.disks_over(&target.layer_id)?;
            let disk_id = match &over[..] {
                [one] => Some(one.as_str()),
                _ => None,
            };
            let floor = self.floor_of_merge(&target)?;
            let job = self.new_job(&NewJob {
                kind: JobKind::Merge,
                disk_id,
                subject: None,
                target: &target,
                floor: floor.as_deref(),
                pace: JobPace::Gentle,
            });
            self.apply([StackOperation::InsertJob(job)])?;
            planned += 1;
        }
        Ok(planned)
    }

    /// Not while a job works on it or will copy all of it anyway; not where somebody has cancelled
    /// one, or it came to nothing.
    fn may_be_merged_into(&self, target: &LayerRecord) -> Result<bool, ControlError> {
        if !self.is_free_for_a_job(&target.layer_id)? {
            return Ok(false);
        }
        for disk_id in self.parts.catalog.disks_over(&target.layer_id)? {
            let of_disk = JobFilter { disk_id: Some(disk_id), ..JobFilter::unfinished() };
            let jobs = self.parts.catalog.jobs(&of_disk, Page::ALL)?.items;
            if jobs.iter().any(|job| job.kind != JobKind::Merge) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether no job works on a layer, and the last one that was to fill it came to its end. A
    /// resize fills nothing.
    fn is_free_for_a_job(&self, layer_id: &str) -> Result<bool, ControlError> {
        let into = JobFilter { target_layer: Some(layer_id.to_owned()), ..JobFilter::default() };
        let jobs = self.parts.catalog.jobs(&into, Page::ALL)?.items;
        let last = jobs.iter().find(|job| job.kind != JobKind::Resize);
        Ok(jobs.iter().all(|job| job.state.is_final())
            && last.is_none_or(|job| job.state == JobState::Done))
    }

    /// The first layer below `target` that somebody else needs as well.
    fn floor_of_merge(&self, target: &LayerRecord) -> Result<Option<String>, ControlError> {
        let mut above = target.clone();
        while let Some(id) = above.parent.clone() {
            let uses = self.parts.catalog.layer_uses(&id)?;
            if !uses.is_named_by_nobody() || uses.children != [above.layer_id] {
                return Ok(Some(id));
            }
            above = self.layer_record(&id)?;
        }
        Ok(None)
    }

    /// Begins to make stacks shallower that are deeper than they shall be although every layer is
    /// needed: one in the middle gets all that is below it.
    fn bound_depths(&self) -> Result<(), ControlError> {
        let depth_max = self.parts.stack.depth_max.max(2);
        let disks = self.parts.catalog.disks(&DiskFilter::default(), Page::ALL)?.items;
        for disk in disks {
            if !matches!(disk.status, DiskStatus::Available | DiskStatus::InUse) {
                continue;
            }
            let _structure = self.lock_structure();
            let chain = self.parts.catalog.layers(&disk.disk_id)?;
            if chain.len() <= depth_max {
                continue;
            }
            let target = &chain[chain.len() - depth_max / 2];
            let disk_id = Some(disk.disk_id.clone());
            let of_disk = JobFilter { disk_id, ..JobFilter::unfinished() };
            if self.parts.catalog.jobs(&of_disk, Page::ALL)?.total > 0
                || !self.is_free_for_a_job(&target.layer_id)?
            {
                continue;
            }
            let job = self.new_job(&NewJob {
                kind: JobKind::Flatten,
                disk_id: Some(&disk.disk_id),
                subject: None,
                target,
                floor: None,
                pace: JobPace::Gentle,
            });
            self.apply([StackOperation::InsertJob(job)])?;
            self.stack.runner.nudge();
        }
        Ok(())
    }
}

fn warn(what: &'static str, error: &ControlError) {
    tracing::error!(what, %error, "upkeep failed; tried again later");
}
