//! The end of a job: headers, records, the open disk, in this order.
//!
//! In state `Switching` all data is in the target layer and durable. Each step can be done again:
//! the header gets its new parent or size (once it has it, nothing is done), then the catalog says
//! the same and that the job is done, then the open disk leaves out the layers between, then what
//! nobody needs any more is removed. Whoever opens a layer finishes first what was begun on it.

use std::collections::HashSet;

use crate::catalog::{
    ImageRecord, ImageStatus, JobFilter, JobKind, JobRecord, JobState, LayerRecord, Operation,
    Page, SnapshotRecord, SnapshotStatus, StackOperation,
};
use crate::clock::random_uuid;
use crate::layer::{self, LayerHeader, LayerSpec};
use crate::ram::Caller;
use crate::trail::EventKind;

use super::exchange::{Changes, Exchange};
use super::job::update_job;
use super::layers::uuid_of;
use super::registry::Disks;
use super::resize::size_of;
use super::{ControlError, Disk, audit};

impl Disks {
    /// Finishes a job in state `Switching`. `disk` is what has the target open, if anything does.
    pub(super) fn finish(
        &self,
        caller: &Caller,
        job: &JobRecord,
        disk: Option<&Disk>,
    ) -> Result<(), ControlError> {
        let changes = disk.map(Disk::changes);
        let structure = self.lock_structure();
        // Somebody else may have been faster.
        let Some(job) = self.parts.catalog.job(&job.job_id)? else { return Ok(()) };
        if job.state != JobState::Switching {
            return Ok(());
        }
        let job = &job;
        if self.drop_if_overtaken(job)? {
            return Ok(());
        }
        let target = self.layer_record(&job.target_layer)?;
        // A resize leaves the parent as it is by now: a merge may have ended since it was asked.
        let (parent, size) = match job.kind {
            JobKind::Resize => (target.parent.clone(), size_of(job)),
            _ => (job.floor_layer.clone(), target.size),
        };
        let changed = LayerRecord { parent, size, ..target.clone() };
        let header = self.reheader(caller, job, (&target, &changed))?;
        let done = JobRecord {
            state: JobState::Done,
            failure: String::new(),
            cursor_units: job.total_units,
            changed: self.parts.clock.now(),
            ..job.clone()
        };
        let mut change =
            vec![StackOperation::UpdateLayer(changed.clone()).into(), update_job(job, &done)];
        change.extend(self.outcome_of(job, &changed)?);
        let name = if job.kind == JobKind::Resize { "ResizeDisk" } else { "FinishJob" };
        let mut event = audit::job_event(self.actor(caller), name, &done);
        if job.kind == JobKind::Resize {
            event = event.request("NewSizeBytes", size.get());
        } else {
            event = event.kind(EventKind::ServiceEvent).response("Bytes", job.bytes_done);
        }
        {
            let _jobs = self.lock_jobs();
            self.apply_recorded(&change, &event)?;
        }
        let exchange = self.take_over(job, header, changes);
        // A request that hangs holds up this disk's commands, not those of others. The files of
        // layers that are left out stay readable for it, whoever removes their names meanwhile.
        drop(structure);
        drop(exchange?);
        self.sweep(caller);
        Ok(())
    }

    /// Takes a merge away whose floor no longer lies below its target: another job has left it out
    /// since. To end it would put the floor back. What is left to merge is planned anew.
    pub(super) fn drop_if_overtaken(&self, job: &JobRecord) -> Result<bool, ControlError> {
        let (JobKind::Merge, Some(floor)) = (job.kind, &job.floor_layer) else { return Ok(false) };
        let chain = self.parts.catalog.chain(&job.target_layer)?;
        if chain.iter().any(|layer| layer.layer_id == *floor) {
            return Ok(false);
        }
        tracing::info!(job = %job.job_id, "a merge was overtaken by another job");
        let _jobs = self.lock_jobs();
        self.apply([StackOperation::DeleteJob(job.job_id.clone())])?;
        Ok(true)
    }

    /// Lets the open disk go on with the new header.
    fn take_over<'a>(
        &self,
        job: &JobRecord,
        header: LayerHeader,
        changes: Option<Changes<'a>>,
    ) -> Result<Option<Exchange<'a>>, ControlError> {
        self.stack.registry.forget(header.spec.layer_id);
        let Some(changes) = changes else { return Ok(None) };
        let outcome = match job.kind {
            JobKind::Resize => changes.resize(header),
            _ => changes.switch(header),
        };
        outcome.map(Some).map_err(|error| {
            let message = format!(
                "The disk goes on with the layers it had until it is attached again: {error}"
            );
            ControlError::refused("DiskError", 403, message)
        })
    }

    /// What else changes when a job is done.
    fn outcome_of(
        &self,
        job: &JobRecord,
        target: &LayerRecord,
    ) -> Result<Vec<Operation>, ControlError> {
        if job.kind == JobKind::Copy {
            return self.copy_ended(job, true);
        }
        if !matches!(job.kind, JobKind::SetKey | JobKind::Encrypt | JobKind::Resize) {
            return Ok(Vec::new());
        }
        let Some(disk_id) = &job.disk_id else { return Ok(Vec::new()) };
        let is_in_use = |disk: &crate::catalog::DiskRecord| -> Result<bool, ControlError> {
            let chain = self.parts.catalog.chain(&disk.top_layer)?;
            Ok(chain.iter().any(|layer| layer.layer_id == target.layer_id))
        };
        // It may have been deleted, or put back to something else.
        let disk = match self.parts.catalog.disk(disk_id)? {
            Some(disk) if is_in_use(&disk)? => disk,
            _ => return Ok(Vec::new()),
        };
        let data = match job.kind {
            JobKind::Resize => StackOperation::SetDiskData {
                disk_id: disk.disk_id,
                size: size_of(job),
                encrypted: disk.encrypted,
                kms_key_id: disk.kms_key_id,
            },
            _ => StackOperation::SetDiskData {
                disk_id: disk.disk_id,
                size: disk.size,
                encrypted: true,
                kms_key_id: target.kms_key_id.clone(),
            },
        };
        Ok(vec![data.into()])
    }

    /// What becomes of the copy that a job made.
    fn copy_ended(&self, job: &JobRecord, is_whole: bool) -> Result<Vec<Operation>, ControlError> {
        let Some(id) = &job.subject else { return Ok(Vec::new()) };
        if let Some(snapshot) = self.parts.catalog.snapshot(id)? {
            let status =
                if is_whole { SnapshotStatus::Accomplished } else { SnapshotStatus::Failed };
            let snapshot = SnapshotRecord { status, ..snapshot };
            return Ok(vec![StackOperation::UpdateSnapshot(snapshot).into()]);
        }
        if let Some(image) = self.parts.catalog.image(id)? {
            let status = if is_whole { ImageStatus::Available } else { ImageStatus::CreateFailed };
            let image = ImageRecord { status, ..image };
            return Ok(vec![StackOperation::UpdateImage(image).into()]);
        }
        Ok(Vec::new())
    }

    /// What a copy becomes whose job came to nothing.
    pub(super) fn copy_failed(&self, job: &JobRecord) -> Result<Vec<Operation>, ControlError> {
        if job.kind == JobKind::Copy { self.copy_ended(job, false) } else { Ok(Vec::new()) }
    }

    /// Gives a layer's header the parent of `changed`, or its size if the job is a resize, unless
    /// it has it.
    fn reheader(
        &self,
        caller: &Caller,
        job: &JobRecord,
        (target, changed): (&LayerRecord, &LayerRecord),
    ) -> Result<LayerHeader, ControlError> {
        let parent = changed.parent.as_deref().map(uuid_of).transpose()?;
        let (is_resize, size) = (job.kind == JobKind::Resize, changed.size);
        // Only what this job is about: another one may have been cut off on the same layer, its
        // header ahead of its record.
        self.reheader_layer(caller, target, |spec| match is_resize {
            true => LayerSpec { size, ..spec.clone() },
            false => LayerSpec { parent, ..spec.clone() },
        })
    }

    /// What the header of a layer says it is, as it lies there.
    pub(super) fn stored_spec(&self, record: &LayerRecord) -> Result<LayerSpec, ControlError> {
        let name = &record.file_name;
        let storage =
            self.parts.store.open_reader(name).map_err(|error| self.on_storage(name, error))?;
        let header = layer::read_header(&*storage).map_err(|error| self.on_layer(name, error))?;
        Ok(header.spec)
    }

    /// Finishes what was begun on layers at or below `layer_id` that nobody has open. What fails is
    /// left: the layer says what is wrong when it is opened.
    pub(super) fn finish_switches(&self, layer_id: &str) {
        if let Err(error) = self.try_finish_switches(Some(layer_id)) {
            tracing::error!(layer = %layer_id, %error, "a job could not be finished");
        }
    }

    /// Finishes what was begun, on all layers or those at or below one.
    pub(super) fn try_finish_switches(&self, below: Option<&str>) -> Result<(), ControlError> {
        let states = Some(vec![JobState::Switching]);
        let filter = JobFilter { states, ..JobFilter::default() };
        let jobs = self.parts.catalog.jobs(&filter, Page::ALL)?.items;
        if jobs.is_empty() {
            return Ok(());
        }
        let chain: Option<HashSet<String>> = match below {
            None => None,
            Some(layer_id) => {
                let chain = self.parts.catalog.chain(layer_id)?;
                Some(chain.into_iter().map(|layer| layer.layer_id).collect())
            }
        };
        // Oldest first.
        for job in jobs.iter().rev() {
            if chain.as_ref().is_none_or(|chain| chain.contains(&job.target_layer)) {
                self.finish_unopened(job)?;
            }
        }
        Ok(())
    }

    /// Finishes a job if nobody has its layer open; whoever has is the one to do it.
    fn finish_unopened(&self, job: &JobRecord) -> Result<(), ControlError> {
        use super::open_table::Claim;
        let Claim::Free(_busy) = self.stack.open.claim(&job.target_layer, &job.job_id) else {
            return Ok(());
        };
        match self.parts.catalog.job(&job.job_id)? {
            Some(job) if job.state == JobState::Switching => {
                let caller = Caller::system(random_uuid(&*self.parts.entropy));
                self.finish(&caller, &job, None)
            }
            _ => Ok(()),
        }
    }

    /// The record of a layer that must be there.
    pub(super) fn layer_record(&self, layer_id: &str) -> Result<LayerRecord, ControlError> {
        self.parts.catalog.layer(layer_id)?.ok_or_else(|| {
            let message = format!("The layer {layer_id} is not in the catalog.");
            ControlError::refused("DiskError", 403, message)
        })
    }
}
