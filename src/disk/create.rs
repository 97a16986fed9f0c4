//! New disks: empty, or over what a snapshot or an image holds.
//!
//! A disk made of something is an empty layer under a fresh data key over the frozen one, so it is
//! there at once, whatever the size. It is in the catalog, in status `Creating`, before its layer
//! exists: from then on what it stands on stays.

use std::time::Duration;

use crate::catalog::{
    CacheMode, DiskLimits, DiskRecord, DiskStatus, LayerRecord, Operation, TaggedType,
};
use crate::limits;
use crate::ram::Caller;
use crate::units::{ByteCount, SECTOR_BYTES};

use super::layers::{LayerPlan, live};
use super::performance::check_limits;
use super::registry::{Disks, update};
use super::tags::{check_tags, put_tags};
use super::words::{check_description, check_name, new_id};
use super::{ControlError, audit};

/// Smallest disk: one data unit.
const DISK_BYTES_MIN: u64 = 4096;

/// What a new disk begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Zeros.
    #[default]
    Nothing,
    /// The data of this snapshot.
    Snapshot(String),
    /// The data of this image.
    Image(String),
}

/// What a new disk shall be.
#[derive(Clone, Debug)]
pub struct CreateDisk {
    /// May be empty; else 1 to 128 characters, a letter first.
    pub name: String,
    /// At most 256 characters.
    pub description: String,
    /// Advertised size: a multiple of 512 bytes; zero: that of the source.
    pub size: ByteCount,
    /// Encrypted at rest; must be true if the source is encrypted.
    pub encrypted: bool,
    /// Id, alias or ARN of the KMS key; `None`: that of the source, or else the service key.
    pub kms_key: Option<String>,
    /// Disk category of the cloud, kept and shown.
    pub category: String,
    /// Clients may only read.
    pub read_only: bool,
    /// How it is opened.
    pub cache: CacheMode,
    /// What it may do in a second.
    pub limits: DiskLimits,
    /// What it begins with.
    pub source: Source,
    /// Several instances may write to it at a time.
    pub multi_attach: bool,
    /// It is detached and deleted when so long has passed without a renewal; `None`: never.
    pub lease: Option<Duration>,
    /// Tags to begin with.
    pub tags: Vec<(String, String)>,
}

/// The frozen layer that a new disk stands on.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) layer_id: String,
    pub(super) size: ByteCount,
    pub(super) encrypted: bool,
    pub(super) kms_key_id: Option<String>,
}

impl Disks {
    /// Makes a disk. It is `Available` when this returns.
    ///
    /// # Errors
    /// The published codes of `CreateDisk`; nothing is left behind then.
    pub fn create(
        &self,
        caller: &Caller,
        request: &CreateDisk,
    ) -> Result<DiskRecord, ControlError> {
        let disk_id = new_id("d-", &*self.parts.entropy);
        let outcome = self.try_create(caller, request, &disk_id);
        if let Err(error) = &outcome {
            self.record_refusal(caller, "CreateDisk", &disk_id, error)?;
        }
        outcome
    }

    fn try_create(
        &self,
        caller: &Caller,
        request: &CreateDisk,
        disk_id: &str,
    ) -> Result<DiskRecord, ControlError> {
        self.allow(caller, "ecs:CreateDisk", "*")?;
        check_name(&request.name)?;
        check_description(&request.description)?;
        check_limits(request.limits)?;
        check_tags(&request.tags)?;
        if request.kms_key.is_some() && !request.encrypted {
            let message = "Encrypted must be true when kmsKeyId is not empty.".to_owned();
            return Err(ControlError::refused("InvalidParameter.EncryptedIllegal", 400, message));
        }
        let base = self.base_of(caller, request)?;
        let size = size_over(request.size, base.as_ref())?;
        let kms_key_id = match (request.encrypted, &request.kms_key) {
            (false, _) => None,
            (true, Some(key)) => Some(self.usable_key(caller, key)?),
            (true, None) => match base.as_ref().and_then(|base| base.kms_key_id.as_ref()) {
                Some(key) if base.as_ref().is_some_and(|base| base.encrypted) => {
                    Some(self.usable_key(caller, key)?)
                }
                _ => Some(self.default_key(caller)?),
            },
        };
        let layer_key = self.key_of_layer(caller, kms_key_id.as_deref(), base.is_some())?;
        let layer = self.plan_layer(LayerPlan {
            owner: disk_id,
            parent: base.as_ref().map(|base| base.layer_id.as_str()),
            size,
            kms_key_id: layer_key.as_deref(),
        });
        let disk = DiskRecord {
            top_layer: layer.layer_id.clone(),
            size,
            ..self.new_record(request, disk_id, kms_key_id)
        };
        self.announce(request, &disk, &layer)?;
        let made = self.make_file(caller, &layer).and_then(|_key| {
            let done = DiskRecord { status: DiskStatus::Available, ..disk.clone() };
            let event = audit::disk_created(self.actor(caller), &done, &request.source);
            let mut change = vec![update(&disk, &done), live(&layer).into()];
            change.extend(put_tags(TaggedType::Disk, disk_id, &request.tags));
            self.apply_recorded(&change, &event)?;
            Ok(done)
        });
        match &made {
            Err(_) => self.remove(caller, &disk.disk_id),
            Ok(done) if done.lease_ends.is_some() => self.stack.runner.nudge(),
            Ok(_) => {}
        }
        made
    }

    /// Says in the catalog what will be made, while what it stands on is there.
    fn announce(
        &self,
        request: &CreateDisk,
        disk: &DiskRecord,
        layer: &LayerRecord,
    ) -> Result<(), ControlError> {
        let _structure = self.lock_structure();
        match &request.source {
            Source::Nothing => {}
            Source::Snapshot(id) => drop(self.ready_snapshot(id)?),
            Source::Image(id) => drop(self.ready_image(id)?),
        }
        let intent = [Operation::InsertDisk(disk.clone(), vec![layer.clone()])];
        Ok(self.parts.catalog.apply(&intent, &mut || Ok(()))?)
    }

    /// What the new disk stands on.
    fn base_of(&self, caller: &Caller, request: &CreateDisk) -> Result<Option<Base>, ControlError> {
        let base = match &request.source {
            Source::Nothing => return Ok(None),
            Source::Snapshot(id) => {
                self.allow_on(caller, "ecs:CreateDisk", &format!("snapshot/{id}"))?;
                Base::from(self.ready_snapshot(id)?)
            }
            Source::Image(id) => {
                self.allow_on(caller, "ecs:CreateDisk", &format!("image/{id}"))?;
                Base::from(self.ready_image(id)?)
            }
        };
        if base.encrypted && !request.encrypted {
            let message = "A disk made of something encrypted must be encrypted.".to_owned();
            let code = "InvalidEncrypted.NotMatchSnapshot";
            return Err(ControlError::refused(code, 403, message));
        }
        Ok(Some(base))
    }

    /// The KMS key of a layer of a disk. A plain disk has one plain layer, at the bottom: zeros
    /// over something must be stored, and plain ones read as absent.
    pub(super) fn key_of_layer(
        &self,
        caller: &Caller,
        kms_key_id: Option<&str>,
        has_parent: bool,
    ) -> Result<Option<String>, ControlError> {
        match kms_key_id {
            Some(key_id) => Ok(Some(key_id.to_owned())),
            None if has_parent => Ok(Some(self.default_key(caller)?)),
            None => Ok(None),
        }
    }

    fn new_record(
        &self,
        request: &CreateDisk,
        disk_id: &str,
        kms_key_id: Option<String>,
    ) -> DiskRecord {
        DiskRecord {
            disk_id: disk_id.to_owned(),
            name: request.name.clone(),
            description: request.description.clone(),
            size: request.size,
            encrypted: request.encrypted,
            kms_key_id,
            status: DiskStatus::Creating,
            category: request.category.clone(),
            created: self.parts.clock.now(),
            attached: None,
            detached: None,
            instance_id: None,
            read_only: request.read_only,
            cache: request.cache,
            limits: request.limits,
            epoch: 0,
            top_layer: String::new(),
            source_snapshot: match &request.source {
                Source::Snapshot(id) => Some(id.clone()),
                _ => None,
            },
            source_image: match &request.source {
                Source::Image(id) => Some(id.clone()),
                _ => None,
            },
            multi_attach: request.multi_attach,
            more_instances: Vec::new(),
            lease_ends: request.lease.map(|lease| self.parts.clock.now().plus(lease)),
        }
    }
}

/// The size of a disk that was asked to be so large.
fn size_over(asked: ByteCount, base: Option<&Base>) -> Result<ByteCount, ControlError> {
    let size = match base {
        Some(base) if asked == ByteCount::ZERO => base.size,
        Some(base) if asked < base.size => {
            let message = format!(
                "The specified disk size is smaller than what it is made of: {} bytes.",
                base.size.get()
            );
            return Err(ControlError::refused("InvalidDiskSize.TooSmall", 403, message));
        }
        _ => asked,
    };
    let bytes = size.get();
    let in_range = (DISK_BYTES_MIN..=limits::DISK_BYTES_MAX).contains(&bytes);
    if in_range && bytes.is_multiple_of(SECTOR_BYTES) {
        return Ok(size);
    }
    let message = format!(
        "The disk size must be a multiple of 512 bytes from 4 KiB to 64 TiB, not {bytes} bytes."
    );
    Err(ControlError::refused("InvalidSize.ValueNotSupported", 400, message))
}
