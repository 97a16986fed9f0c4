//! Copies of snapshots and images, under a KMS key of their own: re-encrypted, never in clear on
//! storage.
//!
//! A copy begins as a layer over what is copied, as a clone does; its job pulls everything up into
//! that layer and then lets it stand alone.

use crate::catalog::{
    ImageRecord, ImageStatus, JobKind, JobPace, JobRecord, Operation, SnapshotRecord,
    SnapshotStatus, StackOperation, TaggedType,
};
use crate::ram::Caller;
use crate::trail::{Event, ResourceType};

use super::create::Base;
use super::job::NewJob;
use super::layers::{LayerPlan, live};
use super::registry::Disks;
use super::snapshot::{check_retention, kept_for};
use super::tags::{check_tags, put_tags};
use super::words::{check_description, check_image_name, check_snapshot_name, new_id};
use super::{ControlError, audit};

/// What a copy shall be.
#[derive(Clone, Debug, Default)]
pub struct CopyRequest {
    /// Id of the snapshot or image.
    pub source: String,
    /// As for a new one.
    pub name: String,
    /// As for a new one.
    pub description: String,
    /// Encrypted: must be true if the source is. A copy of a plain one can be.
    pub encrypted: bool,
    /// Id, alias or ARN of the KMS key; `None`: that of the source, or else the service key.
    pub kms_key: Option<String>,
    /// Days a snapshot is kept; not for images.
    pub retention_days: Option<u32>,
    /// Tags to begin with.
    pub tags: Vec<(String, String)>,
}

impl Disks {
    /// Begins to copy a snapshot into a layer of its own; the copy is `progressing` until its job
    /// (see [`Disks::describe_jobs`], [`JobRecord::subject`]) is done.
    ///
    /// # Errors
    /// `InvalidSnapshotId.NotFound`, `InvalidSnapshotId.NotReady`,
    /// `InvalidEncrypted.NotSupportDecrypt`, the KMS's codes.
    pub fn copy_snapshot(
        &self,
        caller: &Caller,
        request: &CopyRequest,
    ) -> Result<SnapshotRecord, ControlError> {
        let thing = (ResourceType::Snapshot, request.source.as_str());
        self.recorded(caller, "CopySnapshot", thing, || {
            let resource = format!("snapshot/{}", request.source);
            self.allow_on(caller, "ecs:CopySnapshot", &resource)?;
            check_snapshot_name(&request.name)?;
            check_description(&request.description)?;
            check_tags(&request.tags)?;
            check_retention(request.retention_days)?;
            let source = self.ready_snapshot(&request.source)?;
            let key = self.key_of_copy(caller, request, &source.clone().into())?;
            let now = self.parts.clock.now();
            let copy = SnapshotRecord {
                snapshot_id: new_id("s-", &*self.parts.entropy),
                name: request.name.clone(),
                description: request.description.clone(),
                encrypted: request.encrypted,
                kms_key_id: key,
                status: SnapshotStatus::Progressing,
                created: now,
                retention_days: request.retention_days,
                expires: request.retention_days.map(|days| now.plus(kept_for(days))),
                source_snapshot: Some(source.snapshot_id.clone()),
                ..source.clone()
            };
            let event = audit::snapshot_created(self.actor(caller), &copy);
            let tags = put_tags(TaggedType::Snapshot, &copy.snapshot_id, &request.tags);
            let mut made = copy.clone();
            let base = Base { kms_key_id: copy.kms_key_id.clone(), ..source.into() };
            self.begin_copy(caller, (&copy.snapshot_id, base), event, |layer_id| {
                self.ready_snapshot(&request.source)?;
                made.layer_id = layer_id.to_owned();
                let insert = StackOperation::InsertSnapshot(made.clone()).into();
                Ok(std::iter::once(insert).chain(tags).collect())
            })?;
            Ok(made)
        })
    }

    /// Begins to copy an image into a layer of its own; the copy is `Creating` until its job is
    /// done.
    ///
    /// # Errors
    /// `InvalidImageId.NotFound`, `InvalidEncrypted.NotSupportDecrypt`, the KMS's codes.
    pub fn copy_image(
        &self,
        caller: &Caller,
        request: &CopyRequest,
    ) -> Result<ImageRecord, ControlError> {
        let thing = (ResourceType::Image, request.source.as_str());
        self.recorded(caller, "CopyImage", thing, || {
            self.allow_on(caller, "ecs:CopyImage", &format!("image/{}", request.source))?;
            check_image_name(&request.name)?;
            check_description(&request.description)?;
            check_tags(&request.tags)?;
            let source = self.ready_image(&request.source)?;
            let key = self.key_of_copy(caller, request, &source.clone().into())?;
            let copy = ImageRecord {
                image_id: new_id("m-", &*self.parts.entropy),
                name: request.name.clone(),
                description: request.description.clone(),
                encrypted: request.encrypted,
                kms_key_id: key,
                status: ImageStatus::Creating,
                created: self.parts.clock.now(),
                source: source.image_id.clone(),
                ..source.clone()
            };
            let event = audit::image_created(self.actor(caller), "CopyImage", &copy);
            let tags = put_tags(TaggedType::Image, &copy.image_id, &request.tags);
            let mut made = copy.clone();
            let base = Base { kms_key_id: copy.kms_key_id.clone(), ..source.into() };
            self.begin_copy(caller, (&copy.image_id, base), event, |layer_id| {
                self.ready_image(&request.source)?;
                made.layer_id = layer_id.to_owned();
                let insert = StackOperation::InsertImage(made.clone()).into();
                Ok(std::iter::once(insert).chain(tags).collect())
            })?;
            Ok(made)
        })
    }

    /// The KMS key of a copy, if it is encrypted.
    fn key_of_copy(
        &self,
        caller: &Caller,
        request: &CopyRequest,
        source: &Base,
    ) -> Result<Option<String>, ControlError> {
        if request.encrypted {
            return match request.kms_key.as_ref().or(source.kms_key_id.as_ref()) {
                Some(key) => Ok(Some(self.usable_key(caller, key)?)),
                None => Ok(Some(self.default_key(caller)?)),
            };
        }
        let refused = |code, message| Err(ControlError::refused(code, 403, message));
        if source.encrypted {
            let message = "A copy of something encrypted must be encrypted.";
            return refused("InvalidEncrypted.NotSupportDecrypt", message);
        }
        if request.kms_key.is_some() {
            let message = "Encrypted must be true when kmsKeyId is not empty.";
            return refused("InvalidParameter.EncryptedIllegal", message);
        }
        Ok(None)
    }

    /// Makes the layer of a copy and the job that fills it. `with` gives what else is changed in
    /// the same step, for the layer of this id.
    fn begin_copy(
        &self,
        caller: &Caller,
        (copy_id, source): (&str, Base),
        event: Event,
        with: impl FnOnce(&str) -> Result<Vec<Operation>, ControlError>,
    ) -> Result<JobRecord, ControlError> {
        // A plain copy of a plain source stands on it, too: its zeros must be told from holes.
        let key = self.key_of_layer(caller, source.kms_key_id.as_deref(), true)?;
        let new = self.new_layer(
            caller,
            LayerPlan {
                owner: copy_id,
                parent: Some(&source.layer_id),
                size: source.size,
                kms_key_id: key.as_deref(),
            },
        )?;
        let begun = (|| {
            let _structure = self.lock_structure();
            let mut change = with(&new.record.layer_id)?;
            let job = self.new_job(&NewJob {
                kind: JobKind::Copy,
                disk_id: None,
                subject: Some(copy_id),
                target: &new.record,
                floor: None,
                pace: JobPace::Gentle,
            });
            change.insert(0, live(&new.record).into());
            change.push(StackOperation::InsertJob(job.clone()).into());
            self.apply_recorded(&change, &event.response("JobId", job.job_id.as_str()))?;
            Ok(job)
        })();
        match begun {
            Ok(job) => {
                self.stack.runner.nudge();
                Ok(job)
            }
            Err(error) => {
                self.unmake(&new.record);
                Err(error)
            }
        }
    }
}
