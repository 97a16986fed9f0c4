//! Jobs, as their owners see and steer them. What they do is in `job_run.rs`.

use crate::catalog::{
    CatalogError, JobFilter, JobKind, JobPace, JobRecord, JobState, LayerRecord, Listed, Operation,
    Page, StackOperation,
};
use crate::limits;
use crate::ram::Caller;
use crate::trail::{Event, Service};
use crate::units::DataUnitSize;

use super::registry::Disks;
use super::words::new_id;
use super::{ControlError, audit};

/// What shall become of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobCommand {
    /// It stops for as long as nobody resumes it.
    Pause,
    /// It goes on; also one that failed.
    Resume,
    /// It ends. The disk is whole as it is; what was copied stays.
    Cancel,
    /// It works as hard as this from here on, and copies at most so many bytes a second.
    Pace(JobPace, Option<u64>),
}

/// A job to be begun.
#[derive(Debug)]
pub(super) struct NewJob<'a> {
    pub(super) kind: JobKind,
    pub(super) disk_id: Option<&'a str>,
    pub(super) subject: Option<&'a str>,
    pub(super) target: &'a LayerRecord,
    pub(super) floor: Option<&'a str>,
    pub(super) pace: JobPace,
}

impl Disks {
    /// Jobs that meet `filter`, newest first. One that cannot go on says why, also if the catalog
    /// has no room for that.
    ///
    /// # Errors
    /// `Forbidden.RAM`, or the catalog's.
    pub fn describe_jobs(
        &self,
        caller: &Caller,
        filter: &JobFilter,
        page: Page,
    ) -> Result<Listed<JobRecord>, ControlError> {
        let ids = filter.ids.as_ref();
        self.may_list(caller, "sealdisk:DescribeJobs", ("job/*", "JobIds"), ids)?;
        let mut listed = self.parts.catalog.jobs(filter, page)?;
        for job in &mut listed.items {
            let can_go_on = job.state.is_final() || job.state == JobState::Paused;
            let reason = if can_go_on { None } else { self.stack.runner.reason(&job.job_id) };
            job.failure = reason.unwrap_or_else(|| std::mem::take(&mut job.failure));
        }
        Ok(listed)
    }

    /// Steers a job.
    ///
    /// # Errors
    /// `InvalidJobId.NotFound`; `IncorrectJobStatus` for one that is at its end or past the point
    /// of no return.
    pub fn command_job(
        &self,
        caller: &Caller,
        job_id: &str,
        command: JobCommand,
    ) -> Result<JobRecord, ControlError> {
        let outcome = self.try_command_job(caller, job_id, command);
        if let Err(error) = &outcome {
            let event = Event::new(Service::Ecs, command.action().0, self.actor(caller))
                .request("JobId", job_id);
            self.parts.trail.record(&event.error(error.code(), &error.message()))?;
        }
        self.stack.runner.nudge();
        outcome
    }

    fn try_command_job(
        &self,
        caller: &Caller,
        job_id: &str,
        command: JobCommand,
    ) -> Result<JobRecord, ControlError> {
        let (name, action) = command.action();
        self.allow_on(caller, action, &format!("job/{job_id}"))?;
        let _one = self.lock_jobs();
        let before = self.job(job_id)?;
        let Some(after) = command.of(&before, self.parts.clock.now()) else {
            let state = before.state.as_str();
            let message = format!("The job {job_id} is {state}: this cannot be done to it.");
            return Err(ControlError::refused("IncorrectJobStatus", 403, message));
        };
        let mut change = vec![update_job(&before, &after)];
        if command == JobCommand::Cancel {
            change.extend(self.copy_failed(&after)?);
        }
        let event = audit::job_event(self.actor(caller), name, &after);
        self.apply_recorded(&change, &event)?;
        self.stack.runner.is_steered(job_id);
        Ok(after)
    }

    /// A new job, waiting.
    pub(super) fn new_job(&self, new: &NewJob<'_>) -> JobRecord {
        let now = self.parts.clock.now();
        JobRecord {
            job_id: new_id("j-", &*self.parts.entropy),
            kind: new.kind,
            disk_id: new.disk_id.map(str::to_owned),
            subject: new.subject.map(str::to_owned),
            target_layer: new.target.layer_id.clone(),
            floor_layer: new.floor.map(str::to_owned),
            state: JobState::Waiting,
            failure: String::new(),
            cursor_units: 0,
            total_units: DataUnitSize::B4096.units_in(new.target.size),
            bytes_done: 0,
            created: now,
            changed: now,
            pace: new.pace,
            rate: None,
        }
    }

    /// The record of a job.
    pub(super) fn job(&self, job_id: &str) -> Result<JobRecord, ControlError> {
        self.parts.catalog.job(job_id)?.ok_or_else(|| {
            let message = format!("The specified job does not exist: {job_id}");
            ControlError::refused("InvalidJobId.NotFound", 404, message)
        })
    }

    /// Changes the record of a job that is in state `seen`; `false`: it is not, or is gone.
    pub(super) fn change_job(
        &self,
        job_id: &str,
        seen: JobState,
        change: impl FnOnce(&mut JobRecord),
    ) -> Result<bool, ControlError> {
        let _one = self.lock_jobs();
        let Some(before) = self.parts.catalog.job(job_id)?.filter(|job| job.state == seen) else {
            return Ok(false);
        };
        let mut after = before.clone();
        change(&mut after);
        after.changed = self.parts.clock.now();
        self.parts.catalog.apply(&[update_job(&before, &after)], &mut || Ok(()))?;
        Ok(true)
    }

    /// Ends the jobs of a disk whose data goes, as far as they are not past the point of no return.
    pub(super) fn end_jobs_of(&self, disk_id: &str) -> Result<(), ControlError> {
        if let Some(disk) = self.parts.catalog.disk(disk_id)? {
            self.finish_switches(&disk.top_layer);
        }
        let filter = JobFilter { disk_id: Some(disk_id.to_owned()), ..JobFilter::unfinished() };
        let _one = self.lock_jobs();
        let jobs = self.parts.catalog.jobs(&filter, Page::ALL)?.items;
        let now = self.parts.clock.now();
        let ended =
            jobs.iter().filter(|job| job.state != JobState::Switching).map(|job| match job.kind {
                JobKind::Merge => StackOperation::DeleteJob(job.job_id.clone()).into(),
                _ => {
                    let (state, changed) = (JobState::Cancelled, now);
                    update_job(job, &JobRecord { state, changed, ..job.clone() })
                }
            });
        let change: Vec<Operation> = ended.collect();
        Ok(self.parts.catalog.apply(&change, &mut || Ok(()))?)
    }

    /// Forgets the oldest of the jobs that are at their end, beyond those that are kept.
    pub(super) fn forget_jobs(&self) -> Result<(), ControlError> {
        let states = [JobState::Done, JobState::Failed, JobState::Cancelled];
        let filter = JobFilter { states: Some(states.to_vec()), ..JobFilter::default() };
        let old = Page { offset: limits::JOBS_KEPT, limit: limits::JOBS_KEPT };
        let jobs = self.parts.catalog.jobs(&filter, old)?.items;
        let delete = |job: JobRecord| StackOperation::DeleteJob(job.job_id);
        match self.apply(jobs.into_iter().map(delete)) {
            Err(ControlError::Catalog(CatalogError::NotFound)) => Ok(()),
            outcome => outcome,
        }
    }
}

impl JobCommand {
    /// The name in the trail, and the action that a policy must allow.
    const fn action(self) -> (&'static str, &'static str) {
        match self {
            Self::Pause => ("PauseJob", "sealdisk:PauseJob"),
            Self::Resume => ("ResumeJob", "sealdisk:ResumeJob"),
            Self::Cancel => ("CancelJob", "sealdisk:CancelJob"),
            Self::Pace(..) => ("ModifyJobPace", "sealdisk:ModifyJobPace"),
        }
    }

    /// The job afterwards; `None` if this cannot be done to it.
    fn of(self, job: &JobRecord, now: crate::clock::Timestamp) -> Option<JobRecord> {
        use JobState::{Cancelled, Failed, Paused, Running, Switching, Waiting};
        let job = JobRecord { changed: now, ..job.clone() };
        match (self, job.state) {
            (Self::Pause, Waiting | Running | Paused) => Some(JobRecord { state: Paused, ..job }),
            // A copy that failed has nothing to go on with.
            (Self::Resume, Failed) if job.kind == JobKind::Copy => None,
            (Self::Resume, Paused | Failed) => {
                Some(JobRecord { state: Waiting, failure: String::new(), ..job })
            }
            (Self::Resume, Waiting | Running | Switching) => Some(job),
            (Self::Cancel, Waiting | Running | Paused) => {
                Some(JobRecord { state: Cancelled, ..job })
            }
            (Self::Pace(pace, rate), Waiting | Running | Paused | Switching) => {
                Some(JobRecord { pace, rate, ..job })
            }
            _ => None,
        }
    }
}

/// Puts `after` in the place of `before`, if nobody was faster.
pub(super) fn update_job(before: &JobRecord, after: &JobRecord) -> Operation {
    StackOperation::UpdateJob { job: after.clone(), seen_state: before.state }.into()
}
