//! Jobs, as their owners see and steer them.

use crate::catalog::{JobFilter, JobPace, JobRecord, Listed, Page};
use crate::ram::Caller;

use super::ControlError;
use super::registry::Disks;

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

impl Disks {
    /// Jobs that meet `filter`, newest first.
    ///
    /// # Errors
    /// `Forbidden.RAM`, or the catalog's.
    pub fn describe_jobs(
        &self,
        caller: &Caller,
        filter: &JobFilter,
        page: Page,
    ) -> Result<Listed<JobRecord>, ControlError> {
        let _ = caller;
        Ok(self.parts.catalog.jobs(filter, page)?)
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
        let _ = (caller, job_id, command);
        Err(ControlError::unsupported("ModifyJob"))
    }
}
