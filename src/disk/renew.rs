//! A disk gets a layer of its own: under a fresh data key, under another KMS key, encrypted at all,
//! or just without what is below. All are one job: pull everything up, drop what is below.

use crate::catalog::{
    DiskRecord, JobFilter, JobKind, JobPace, JobRecord, LayerRecord, Page, StackOperation,
};
use crate::ram::Caller;
use crate::trail::Event;

use super::job::NewJob;
use super::registry::Disks;
use super::{ControlError, audit};

/// What a disk shall become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Independent of snapshots, images and other disks: everything is in its top layer.
    Flatten,
    /// Under a fresh data key.
    Rekey,
    /// Under a fresh data key that this KMS key (id, alias or ARN) wraps.
    SetKey(String),
    /// Encrypted: under this KMS key, or the service key.
    Encrypt(Option<String>),
}

impl Renewal {
    const fn kind(&self) -> JobKind {
        match self {
            Self::Flatten => JobKind::Flatten,
            Self::Rekey => JobKind::Rekey,
            Self::SetKey(_) => JobKind::SetKey,
            Self::Encrypt(_) => JobKind::Encrypt,
        }
    }

    /// The name in the trail, and the action that a policy must allow.
    const fn action(&self) -> (&'static str, &'static str) {
        match self {
            Self::Flatten => ("FlattenDisk", "sealdisk:FlattenDisk"),
            Self::Rekey => ("RekeyDisk", "sealdisk:RekeyDisk"),
            Self::SetKey(_) => ("SetDiskKey", "sealdisk:SetDiskKey"),
            Self::Encrypt(_) => ("EncryptDisk", "sealdisk:EncryptDisk"),
        }
    }
}

impl Disks {
    /// Begins to renew a disk, attached or not; the job goes on in the background.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`, `IncorrectDiskStatus`, `OperationConflict` while another job works
    /// on the disk, `InvalidParameter.EncryptedIllegal` if the disk is plain (or, to be encrypted,
    /// is already), the KMS's codes.
    pub fn renew(
        &self,
        caller: &Caller,
        disk_id: &str,
        renewal: &Renewal,
        pace: JobPace,
    ) -> Result<JobRecord, ControlError> {
        let outcome = self.try_renew(caller, disk_id, renewal, pace);
        if let Err(error) = &outcome {
            self.record_refusal(caller, renewal.action().0, disk_id, error)?;
        }
        outcome
    }

    fn try_renew(
        &self,
        caller: &Caller,
        disk_id: &str,
        renewal: &Renewal,
        pace: JobPace,
    ) -> Result<JobRecord, ControlError> {
        self.allow(caller, renewal.action().1, disk_id)?;
        let _turn = self.stack.turns.take(disk_id);
        let disk = self.usable_disk(disk_id)?;
        self.check_idle(disk_id)?;
        let event = |job: &JobRecord| {
            audit::disk_event(self.actor(caller), renewal.action().0, disk_id)
                .response("JobId", job.job_id.as_str())
        };
        let job = match self.key_of_renewal(caller, &disk, renewal)? {
            None => {
                let top = self.layer_record(&disk.top_layer)?;
                let job = self.new_job(&new_job(disk_id, renewal, &top, pace));
                let insert = StackOperation::InsertJob(job.clone()).into();
                self.apply_recorded(&[insert], &event(&job))?;
                job
            }
            Some(key) => {
                let mut made = None;
                self.push(caller, &disk, Some(&key), |layer: &LayerRecord| {
                    let job = self.new_job(&new_job(disk_id, renewal, layer, pace));
                    let event: Event = event(&job).request("KMSKeyId", key.as_str());
                    let insert = StackOperation::InsertJob(job.clone()).into();
                    made = Some(job);
                    (vec![insert], event)
                })?;
                made.ok_or_else(|| ControlError::wrong_status(disk_id, disk.status))?
            }
        };
        self.stack.runner.nudge();
        Ok(job)
    }

    /// The KMS key of the layer to put on; `None` if none is.
    fn key_of_renewal(
        &self,
        caller: &Caller,
        disk: &DiskRecord,
        renewal: &Renewal,
    ) -> Result<Option<String>, ControlError> {
        let refused = |message: String| {
            Err(ControlError::refused("InvalidParameter.EncryptedIllegal", 400, message))
        };
        let disk_id = &disk.disk_id;
        match (renewal, &disk.kms_key_id) {
            (Renewal::Flatten, _) => Ok(None),
            (Renewal::Rekey, Some(key)) => Ok(Some(self.usable_key(caller, key)?)),
            (Renewal::SetKey(key), Some(_)) => Ok(Some(self.usable_key(caller, key)?)),
            (Renewal::Encrypt(Some(key)), None) => Ok(Some(self.usable_key(caller, key)?)),
            (Renewal::Encrypt(None), None) => Ok(Some(self.default_key(caller)?)),
            (Renewal::Encrypt(_), Some(_)) => {
                refused(format!("The disk {disk_id} is encrypted already."))
            }
            (Renewal::Rekey | Renewal::SetKey(_), None) => {
                refused(format!("The disk {disk_id} is not encrypted: encrypt it."))
            }
        }
    }

    /// Refuses while a job works on the disk.
    fn check_idle(&self, disk_id: &str) -> Result<(), ControlError> {
        let filter = JobFilter { disk_id: Some(disk_id.to_owned()), ..JobFilter::unfinished() };
        let jobs = self.parts.catalog.jobs(&filter, Page::ALL)?.items;
        match jobs.iter().find(|job| job.kind != JobKind::Merge) {
            None => Ok(()),
            Some(job) => {
                let message = format!(
                    "The job {} ({}) works on the disk {disk_id}: wait for it, or cancel it.",
                    job.job_id,
                    job.kind.as_str()
                );
                Err(ControlError::refused("OperationConflict", 409, message))
            }
        }
    }
}

fn new_job<'a>(
    disk_id: &'a str,
    renewal: &Renewal,
    target: &'a LayerRecord,
    pace: JobPace,
) -> NewJob<'a> {
    let (disk_id, kind) = (Some(disk_id), renewal.kind());
    NewJob { kind, disk_id, subject: None, target, floor: None, pace }
}
