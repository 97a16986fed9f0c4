//! All disks: create, describe, delete. What is attached is in [`super::attach`].
//!
//! The order of the steps makes every crash repairable. A disk is in the catalog, in status
//! `Creating`, before its layer exists, and in status `Deleting` before its layer goes. What a
//! crash leaves in one of these is finished by [`super::recover`] at the next start. The change
//! that a caller is told of is recorded in the trail inside the catalog's transaction.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::catalog::{
    CacheMode, Catalog, DiskFilter, DiskLimits, DiskRecord, DiskStatus, LayerRecord, Listed,
    Operation, Page,
};
use crate::clock::{Clock, Entropy, random_uuid};
use crate::crypto::xts::Cipher;
use crate::kms::{Account, DataKeys};
use crate::layer::{self, Envelope, LayerSpec};
use crate::limits;
use crate::ram::{Caller, Ram};
use crate::storage::store::LayerStore;
use crate::trail::Trail;
use crate::units::{ByteCount, DataUnitSize, SECTOR_BYTES};

use super::ControlError;
use super::attachment::Attachment;
use super::audit::{self, Outcome};
use super::performance::check_limits;

/// Bytes of a data key: two AES-256 keys.
const DATA_KEY_BYTES: usize = 64;

/// Longest disk name, in characters.
const NAME_CHARS_MAX: usize = 128;

/// Longest description, in characters.
const DESCRIPTION_CHARS_MAX: usize = 256;

/// Smallest disk: one data unit.
const DISK_BYTES_MIN: u64 = 4096;

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
}

/// What a new disk shall be.
#[derive(Clone, Debug)]
pub struct CreateDisk {
    /// May be empty; else 1 to 128 characters, a letter first.
    pub name: String,
    /// At most 256 characters.
    pub description: String,
    /// Advertised size: a multiple of 512 bytes.
    pub size: ByteCount,
    /// Encrypted at rest.
    pub encrypted: bool,
    /// Id, alias or ARN of the KMS key; `None`: the service key.
    pub kms_key: Option<String>,
    /// Disk category of the cloud, kept and shown.
    pub category: String,
    /// Clients may only read.
    pub read_only: bool,
    /// How it is opened.
    pub cache: CacheMode,
    /// What it may do in a second.
    pub limits: DiskLimits,
}

/// All disks of the daemon. Every call blocks: on the catalog, the KMS, the trail, files.
pub struct Disks {
    pub(super) parts: DisksParts,
    pub(super) attached: RwLock<HashMap<String, Arc<Attachment>>>,
    /// Held from the catalog's change to that of the open disk, where limits are in question.
    pub(super) performance: Mutex<()>,
}

impl Disks {
    /// The disks in the catalog; nothing is attached yet, see [`Disks::recover`].
    pub fn new(parts: DisksParts) -> Self {
        Self { parts, attached: RwLock::default(), performance: Mutex::new(()) }
    }

    /// Makes a disk. It is `Available` when this returns.
    ///
    /// # Errors
    /// The published codes of `CreateDisk`; nothing is left behind then.
    pub fn create(
        &self,
        caller: &Caller,
        request: &CreateDisk,
    ) -> Result<DiskRecord, ControlError> {
        let disk_id = new_disk_id(&*self.parts.entropy);
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
        check(request)?;
        check_limits(request.limits)?;
        let kms_key_id = match (request.encrypted, &request.kms_key) {
            (false, _) => None,
            (true, None) => Some(self.default_key(caller)?),
            (true, Some(key)) => Some(self.usable_key(caller, key)?),
        };
        let disk = self.new_record(request, disk_id, kms_key_id);
        let spec = self.new_layer(&disk);
        let layer = LayerRecord {
            layer_id: spec.layer_id.to_string(),
            disk_id: disk_id.to_owned(),
            parent: None,
            file_name: format!("{}.luks", spec.layer_id),
        };
        let intent = [Operation::InsertDisk(disk.clone(), vec![layer.clone()])];
        self.parts.catalog.apply(&intent, &mut || Ok(()))?;
        let made = self.make_layer(caller, &disk, &spec, &layer).and_then(|()| {
            let done = DiskRecord { status: DiskStatus::Available, ..disk.clone() };
            let event = audit::disk_created(self.actor(caller), &done);
            self.change(&disk, &done, || self.parts.trail.record(&event))?;
            Ok(done)
        });
        if made.is_err() {
            self.remove(&disk, &[layer]);
        }
        made
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

    /// Removes a disk for good. It must be `Available`.
    ///
    /// # Errors
    /// `InvalidDiskId.NotFound`, `DiskStillAttached`, `IncorrectDiskStatus`.
    pub fn delete(&self, caller: &Caller, disk_id: &str) -> Result<(), ControlError> {
        let outcome = self.try_delete(caller, disk_id);
        if let Err(error) = &outcome {
            self.record_refusal(caller, "DeleteDisk", disk_id, error)?;
        }
        outcome
    }

    fn try_delete(&self, caller: &Caller, disk_id: &str) -> Result<(), ControlError> {
        self.allow(caller, "ecs:DeleteDisk", disk_id)?;
        let disk = self.disk(disk_id)?;
        match disk.status {
            DiskStatus::Available => {}
            DiskStatus::InUse => {
                let message = format!("The disk {disk_id} is still attached: detach it first.");
                return Err(ControlError::refused("DiskStillAttached", 403, message));
            }
            status => return Err(ControlError::wrong_status(disk_id, status)),
        }
        let layers = self.parts.catalog.layers(disk_id)?;
        let going = DiskRecord { status: DiskStatus::Deleting, ..disk.clone() };
        let event = audit::disk_event(self.actor(caller), "DeleteDisk", disk_id);
        // From here on there is no way back: a crash is finished at the next start.
        self.change(&disk, &going, || self.parts.trail.record(&event))?;
        self.remove(&going, &layers);
        Ok(())
    }

    /// Takes layers and record away. What fails is tried again at the next start.
    pub(super) fn remove(&self, disk: &DiskRecord, layers: &[LayerRecord]) {
        let removed = layers
            .iter()
            .try_for_each(|layer| self.parts.store.remove(&layer.file_name))
            .and_then(|()| self.parts.store.sync_names());
        if let Err(error) = removed {
            let disk = &disk.disk_id;
            tracing::error!(%disk, %error, "layer not removed; tried again at start");
            return;
        }
        let gone = [Operation::DeleteDisk(disk.disk_id.clone())];
        if let Err(error) = self.parts.catalog.apply(&gone, &mut || Ok(())) {
            let disk = &disk.disk_id;
            tracing::error!(%disk, %error, "record not removed; tried again at start");
        }
    }

    /// The record of a disk that exists for users.
    pub(super) fn disk(&self, disk_id: &str) -> Result<DiskRecord, ControlError> {
        match self.parts.catalog.disk(disk_id)? {
            Some(disk) if disk.status != DiskStatus::Deleting => Ok(disk),
            _ => Err(ControlError::no_such_disk(disk_id)),
        }
    }

    /// Puts `after` in the place of `before`, if nobody was faster. `gate` runs just before.
    pub(super) fn change(
        &self,
        before: &DiskRecord,
        after: &DiskRecord,
        mut gate: impl FnMut() -> Result<(), crate::trail::TrailError>,
    ) -> Result<(), ControlError> {
        let update = [Operation::UpdateDisk {
            disk: after.clone(),
            seen_status: before.status,
            seen_epoch: before.epoch,
        }];
        Ok(self.parts.catalog.apply(&update, &mut || Ok(gate()?))?)
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
        }
    }

    fn new_layer(&self, disk: &DiskRecord) -> LayerSpec {
        LayerSpec {
            layer_id: random_uuid(&*self.parts.entropy),
            disk_id: disk.disk_id.clone(),
            parent: None,
            size: disk.size,
            unit: DataUnitSize::B4096,
            cipher: if disk.encrypted { Cipher::Aes256XtsPlain64 } else { Cipher::Null },
            created: disk.created,
        }
    }

    /// Writes the layer's file under a fresh data key, durably.
    fn make_layer(
        &self,
        caller: &Caller,
        disk: &DiskRecord,
        spec: &LayerSpec,
        layer: &LayerRecord,
    ) -> Result<(), ControlError> {
        let data_key = match &disk.kms_key_id {
            None => None,
            Some(key_id) => {
                let (ecs, context) = (self.as_ecs(caller), spec.encryption_context());
                let kms = &self.parts.kms;
                let made = kms.generate_data_key(&ecs, key_id, DATA_KEY_BYTES, &context);
                Some(made.map_err(|error| self.no_data_key(error, key_id))?)
            }
        };
        let envelope = data_key.as_ref().map(|key| Envelope {
            key_id: key.key_id.clone(),
            key_version: key.key_version.clone(),
            wrapped: key.blob.clone(),
        });
        let sealed = envelope.as_ref().zip(data_key.as_ref().map(|key| &key.plaintext));
        let file = || self.parts.store.locate(&layer.file_name);
        let on_storage = |error| ControlError::Storage { file: file(), error };
        let storage = self.parts.store.create(&layer.file_name).map_err(on_storage)?;
        layer::format(&*storage, spec, sealed, &*self.parts.entropy)
            .map_err(|error| ControlError::Layer { file: file(), error })?;
        self.parts.store.sync_names().map_err(on_storage)
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

fn check(request: &CreateDisk) -> Result<(), ControlError> {
    let bad = |code, message: String| Err(ControlError::refused(code, 400, message));
    let is_name_char = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
    let name = &request.name;
    let starts_well = name.chars().next().is_none_or(char::is_alphabetic);
    if !starts_well || !name.chars().all(is_name_char) || name.chars().count() > NAME_CHARS_MAX {
        return bad(
            "InvalidDiskName.Malformed",
            "The disk name must start with a letter and have at most 128 letters, digits, '.', \
             '_', '-' or ':'."
                .to_owned(),
        );
    }
    if request.description.chars().count() > DESCRIPTION_CHARS_MAX {
        let message = "The description must have at most 256 characters.".to_owned();
        return bad("InvalidDescription.Malformed", message);
    }
    let size = request.size.get();
    let in_range = (DISK_BYTES_MIN..=limits::DISK_BYTES_MAX).contains(&size);
    if !in_range || !size.is_multiple_of(SECTOR_BYTES) {
        let message = format!(
            "The disk size must be a multiple of 512 bytes from 4 KiB to 64 TiB, not {size} bytes."
        );
        return bad("InvalidSize.ValueNotSupported", message);
    }
    if request.kms_key.is_some() && !request.encrypted {
        let message = "Encrypted must be true when kmsKeyId is not empty.".to_owned();
        return bad("InvalidParameter.EncryptedIllegal", message);
    }
    Ok(())
}

/// `d-` and 20 lower-case letters or digits: 103 bits, so two are never the same.
fn new_disk_id(entropy: &dyn Entropy) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut id = String::from("d-");
    while id.len() < 22 {
        let mut byte = [0];
        entropy.fill(&mut byte);
        // 252 = 7 * 36: higher values would make some letters likelier.
        if byte[0] < 252 {
            id.push(char::from(ALPHABET[usize::from(byte[0] % 36)]));
        }
    }
    id
}
