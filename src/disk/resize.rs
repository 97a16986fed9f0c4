//! A disk grows, attached or not.
//!
//! It is a job of one step: the catalog says what the size shall be, the header follows, then the
//! catalog and the open disk. A crash in between is finished at the next start.

use crate::catalog::{
    DiskRecord, JobKind, JobPace, JobRecord, JobState, LayerRecord, StackOperation,
};
use crate::limits;
use crate::ram::Caller;
use crate::units::{ByteCount, DataUnitSize};

use super::ControlError;
use super::job::NewJob;
use super::job_threads::Ended;
use super::registry::Disks;

impl Disks {
    /// Gives a disk a greater size (whole data units). Clients see it when they connect again.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`, `IncorrectDiskStatus`, `InvalidDiskSize.TooSmall`,
    /// `InvalidSize.ValueNotSupported`, the KMS's codes: the size is bound into the wrapped key.
    pub fn resize(
        &self,
        caller: &Caller,
        disk_id: &str,
        size: ByteCount,
    ) -> Result<DiskRecord, ControlError> {
        let outcome = self.try_resize(caller, disk_id, size);
        if let Err(error) = &outcome {
            self.record_refusal(caller, "ResizeDisk", disk_id, error)?;
        }
        outcome
    }

    fn try_resize(
        &self,
        caller: &Caller,
        disk_id: &str,
        size: ByteCount,
    ) -> Result<DiskRecord, ControlError> {
        self.allow(caller, "ecs:ResizeDisk", disk_id)?;
        let _turn = self.stack.turns.take(disk_id);
        self.finish_switches(&self.disk(disk_id)?.top_layer);
        let disk = self.usable_disk(disk_id)?;
        check_size(&disk, size)?;
        let top = self.layer_record(&disk.top_layer)?;
        let job = JobRecord {
            state: JobState::Switching,
            total_units: size.get() / DataUnitSize::B4096.bytes(),
            ..self.new_job(&NewJob {
                kind: JobKind::Resize,
                disk_id: Some(disk_id),
                subject: None,
                target: &top,
                floor: top.parent.as_deref(),
                pace: JobPace::Full,
            })
        };
        // The caller's own thread does it, so that the trail names the caller.
        self.stack.runner.take(&job.job_id);
        let outcome = self.resize_by(caller, &job, &top);
        let now = self.parts.clock.monotonic();
        self.stack.runner.is_done_with(&job.job_id, Ended::Well, now);
        outcome.and_then(|()| self.disk(disk_id))
    }

    fn resize_by(
        &self,
        caller: &Caller,
        job: &JobRecord,
        top: &LayerRecord,
    ) -> Result<(), ControlError> {
        self.apply([StackOperation::InsertJob(job.clone())])?;
        let disk_id = job.disk_id.as_deref().unwrap_or_default();
        let attached = self.attached_disk(disk_id);
        let disk = attached.as_ref().map(|attachment| attachment.disk());
        self.finish(caller, job, disk).or_else(|error| {
            // Without a new header nothing has changed.
            let size = self.stored_spec(top).map(|spec| spec.size);
            if size.is_ok_and(|stored| stored == top.size) {
                self.apply([StackOperation::DeleteJob(job.job_id.clone())])?;
            }
            Err(error)
        })
    }
}

/// The size that a resize is to give.
pub(super) fn size_of(job: &JobRecord) -> ByteCount {
    ByteCount::new(job.total_units * DataUnitSize::B4096.bytes())
}

fn check_size(disk: &DiskRecord, size: ByteCount) -> Result<(), ControlError> {
    if size <= disk.size {
        let message = format!(
            "The specified new disk size is not greater than it is: {} bytes. A disk only grows.",
            disk.size.get()
        );
        return Err(ControlError::refused("InvalidDiskSize.TooSmall", 403, message));
    }
    let unit = DataUnitSize::B4096.bytes();
    if size.get() > limits::DISK_BYTES_MAX || !size.get().is_multiple_of(unit) {
        let message = "The disk size must be a multiple of 4096 bytes, up to 64 TiB.";
        return Err(ControlError::refused("InvalidSize.ValueNotSupported", 400, message));
    }
    Ok(())
}
