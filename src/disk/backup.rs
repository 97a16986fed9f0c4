//! Backups of snapshots: which layers go into one, and how they come back.
//!
//! A backup is the layers of a snapshot as they are on storage, encrypted, and a manifest. The
//! headers of the layers say what they are, bound to their data keys by the KMS; the manifest adds
//! the words of people, and is believed in nothing else. An incremental backup leaves out the
//! layers of an earlier snapshot: it comes back where those are.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::catalog::{
    JobFilter, LayerRecord, LayerState, Operation, Page, SnapshotRecord, SnapshotStatus,
    StackOperation,
};
use crate::clock::Timestamp;
use crate::layer::{self, Frozen, Layer};
use crate::ram::Caller;
use crate::storage::file::FileStorage;
use crate::trail::ResourceType;

use super::layers::live;
use super::registry::Disks;
use super::words::{check_description, check_snapshot_name, new_id};
use super::{ControlError, audit};

/// Format of manifests.
const FORMAT: u32 = 1;

/// Name of the manifest among the layers.
const MANIFEST: &str = "manifest.json";

/// Longest manifest, in bytes.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// Most layers in a backup.
const LAYERS_MAX: usize = 1000;

/// What a backup says of itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Manifest {
    /// 1.
    pub format: u32,
    /// Id of the snapshot.
    pub snapshot_id: String,
    /// Its name; may be empty.
    pub snapshot_name: String,
    /// What its owner says of it.
    pub description: String,
    /// The disk it was taken of.
    pub disk_id: String,
    /// Whether that disk was encrypted.
    pub encrypted: bool,
    /// When it was taken.
    pub creation_time: String,
    /// The layer that must be there already; `None` for a whole backup.
    pub since_layer_id: Option<String>,
    /// The snapshot of that layer, for people.
    pub since_snapshot_id: Option<String>,
    /// The layers in it, bottom first; each is in the file `ID.luks`.
    pub layers: Vec<ManifestLayer>,
}

/// A layer in a backup.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct ManifestLayer {
    /// Its UUID.
    pub layer_id: String,
    /// Bytes encrypted under its data key: an upper bound.
    pub key_bytes: u64,
}

/// What goes into a backup.
#[derive(Clone, Debug)]
pub struct BackupPlan {
    /// To lie beside the layers.
    pub manifest: Manifest,
    /// The files of its layers, in the order of the manifest.
    pub files: Vec<PathBuf>,
}

/// A place for the files of a backup that comes back.
#[derive(Clone, Debug)]
pub struct Restore {
    /// `r-` and 20 lower-case letters or digits.
    pub restore_id: String,
    /// Where the files go. Whoever fills it holds a lock on it, else it is removed.
    pub directory: PathBuf,
}

impl Disks {
    /// What a backup of the snapshot `until` holds; of what changed since `since`, if given. The
    /// caller keeps the layers from going, by a disk on them.
    ///
    /// # Errors
    /// `InvalidSnapshotId.NotFound`, `InvalidSnapshotId.NotReady`; `InvalidParameter.Mismatch` if
    /// `until` does not stand on `since`; `OperationConflict` while a job moves data between them.
    pub fn plan_backup(
        &self,
        caller: &Caller,
        (since, until): (Option<&str>, &str),
    ) -> Result<BackupPlan, ControlError> {
        let thing = (ResourceType::Snapshot, until);
        self.recorded(caller, "DescribeSnapshotLayers", thing, || {
            let resource = format!("snapshot/{until}");
            self.allow_on(caller, "sealdisk:DescribeSnapshotLayers", &resource)?;
            let layers = self.layers_between(since, until)?;
            let snapshot = self.ready_snapshot(until)?;
            let since = since.map(|id| self.ready_snapshot(id)).transpose()?;
            self.check_at_rest(&layers)?;
            let event = audit::thing_event(self.actor(caller), "DescribeSnapshotLayers", thing);
            self.parts.trail.record(&event.read_only())?;
            let locate = |layer: &LayerRecord| self.parts.store.locate(&layer.file_name);
            let files = layers.iter().map(locate).collect();
            Ok(BackupPlan { manifest: manifest(&snapshot, since.as_ref(), &layers), files })
        })
    }

    fn check_at_rest(&self, layers: &[LayerRecord]) -> Result<(), ControlError> {
        let jobs = self.parts.catalog.jobs(&JobFilter::unfinished(), Page::ALL)?.items;
        let moves = |job: &&crate::catalog::JobRecord| {
            layers.iter().any(|layer| layer.layer_id == job.target_layer)
        };
        match jobs.iter().find(moves) {
            None => Ok(()),
            Some(job) => {
                let message = format!(
                    "The job {} moves data between the layers of the snapshot: try again when it \
                     is done.",
                    job.job_id
                );
                Err(ControlError::refused("OperationConflict", 403, message))
            }
        }
    }

    /// Makes a place for the files of a backup.
    ///
    /// # Errors
    /// `Forbidden.RAM`; the file system's.
    pub fn begin_restore(&self, caller: &Caller) -> Result<Restore, ControlError> {
        let restore_id = new_id("r-", &*self.parts.entropy);
        let thing = (ResourceType::Snapshot, "*");
        self.recorded(caller, "BeginSnapshotRestore", thing, || {
            self.allow_on(caller, "sealdisk:RestoreSnapshot", "snapshot/*")?;
            let directory = self.directory_of(&restore_id)?;
            std::fs::create_dir_all(&directory).map_err(|error| failed(&directory, &error))?;
            let event = audit::thing_event(self.actor(caller), "BeginSnapshotRestore", thing);
            self.parts.trail.record(&event.response("RestoreId", restore_id.as_str()))?;
            Ok(Restore { restore_id: restore_id.clone(), directory })
        })
    }

    /// Makes a snapshot of the files that were put into a place. It has its old id, if that is
    /// free; layers that are here already stay as they are.
    ///
    /// # Errors
    /// `InvalidParameter.RestoreId`; `InvalidBackup` for files that are no backup, were changed, or
    /// stand on a layer that is not here; the KMS's codes if a data key cannot be unwrapped.
    /// Nothing is left then but the files in their place.
    pub fn finish_restore(
        &self,
        caller: &Caller,
        restore_id: &str,
        name: Option<&str>,
    ) -> Result<SnapshotRecord, ControlError> {
        let thing = (ResourceType::Snapshot, "*");
        self.recorded(caller, "FinishSnapshotRestore", thing, || {
            self.allow_on(caller, "sealdisk:RestoreSnapshot", "snapshot/*")?;
            let directory = self.directory_of(restore_id)?;
            let manifest = read_manifest(&directory)?;
            let layers = self.check_all_backed_up(caller, &directory, &manifest)?;
            let snapshot = self.restored(&manifest, &layers, name)?;
            self.adopt_all(caller, &directory, &layers, &snapshot)?;
            remove(&directory);
            Ok(snapshot)
        })
    }

    /// Takes the place of a restore away that nothing comes of.
    ///
    /// # Errors
    /// `InvalidParameter.RestoreId`, `Forbidden.RAM`.
    pub fn abort_restore(&self, caller: &Caller, restore_id: &str) -> Result<(), ControlError> {
        let thing = (ResourceType::Snapshot, "*");
        self.recorded(caller, "AbortSnapshotRestore", thing, || {
            self.allow_on(caller, "sealdisk:RestoreSnapshot", "snapshot/*")?;
            remove(&self.directory_of(restore_id)?);
            let event = audit::thing_event(self.actor(caller), "AbortSnapshotRestore", thing);
            Ok(self.parts.trail.record(&event.request("RestoreId", restore_id))?)
        })
    }

    /// Takes places of restores away that nobody holds: who filled them is gone.
    pub fn sweep_restores(&self) {
        let Ok(entries) = std::fs::read_dir(self.parts.store.incoming()) else { return };
        for entry in entries.filter_map(Result::ok) {
            let directory = entry.path();
            let is_held = File::open(&directory).is_ok_and(|held| held.try_lock().is_err());
            // A new one may not be held yet.
            let is_young = entry.metadata().and_then(|found| found.modified()).is_ok_and(|at| {
                self.parts.clock.now().unix_seconds() - unix_seconds(at) < GRACE_SECONDS
            });
            if !is_held && !is_young {
                tracing::info!(directory = %directory.display(), "unfinished restore removed");
                remove(&directory);
            }
        }
    }

    /// Only ids of ours name a directory.
    fn directory_of(&self, restore_id: &str) -> Result<PathBuf, ControlError> {
        let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let rest = restore_id.strip_prefix("r-").unwrap_or_default();
        if rest.len() == 20 && rest.bytes().all(is_known) {
            return Ok(self.parts.store.incoming().join(restore_id));
        }
        let message = format!("There is no restore {restore_id}.");
        Err(ControlError::refused("InvalidParameter.RestoreId", 404, message))
    }

    /// The records of the layers of a backup, bottom first; those in state `Making` are not here
    /// yet. Each was opened with its data key.
    fn check_all_backed_up(
        &self,
        caller: &Caller,
        directory: &Path,
        manifest: &Manifest,
    ) -> Result<Vec<LayerRecord>, ControlError> {
        let mut layers: Vec<LayerRecord> = Vec::new();
        for entry in &manifest.layers {
            let here = self.parts.catalog.layer(&entry.layer_id)?;
            let layer = match here {
                Some(layer) if layer.state == LayerState::Live => layer,
                Some(_) => return Err(invalid(format!("the layer {} is going", entry.layer_id))),
                None => {
                    let below = layers.last().map(|layer| layer.layer_id.as_str());
                    self.check_backed_up(caller, directory, (entry, below))?
                }
            };
            layers.push(layer);
        }
        Ok(layers)
    }

    fn check_backed_up(
        &self,
        caller: &Caller,
        directory: &Path,
        (entry, below): (&ManifestLayer, Option<&str>),
    ) -> Result<LayerRecord, ControlError> {
        let id = Uuid::parse_str(&entry.layer_id)
            .map_err(|_| invalid(format!("{:?} is no layer id", entry.layer_id)))?;
        let file_name = format!("{id}.luks");
        let file = directory.join(&file_name);
        // A link would lead to a file that was never in the backup.
        let found = file.symlink_metadata().map_err(|error| failed(&file, &error))?;
        if !found.is_file() {
            return Err(invalid(format!("{file_name} is no file")));
        }
        let on_layer = |error| ControlError::Layer { file: file.clone(), error };
        let storage = FileStorage::open_reader(&file)
            .map_err(|error| ControlError::Storage { file: file.clone(), error })?;
        let header = layer::read_header(&storage).map_err(on_layer)?;
        let spec = header.spec.clone();
        let parent = spec.parent.map(|parent| parent.to_string());
        if spec.layer_id != id || found.len() != spec.file_len().get() {
            return Err(invalid(format!("{file_name} is another layer, or not whole")));
        }
        match (&parent, below) {
            (Some(parent), Some(below)) if parent != below => {
                return Err(invalid(format!("{file_name} does not stand on {below}")));
            }
            (None, Some(below)) => {
                return Err(invalid(format!("{file_name} does not stand on {below}")));
            }
            (Some(parent), None) => self.check_is_here(parent)?,
            (Some(_), Some(_)) | (None, None) => {}
        }
        // The KMS unwraps the key only for the very header that it was wrapped for.
        let key = self.unwrap_data_key(caller, &header, &file)?;
        let kms_key_id = header.envelope.as_ref().map(|envelope| envelope.key_id.clone());
        Layer::<Frozen>::open(std::sync::Arc::new(storage), header, key).map_err(on_layer)?;
        Ok(LayerRecord {
            layer_id: id.to_string(),
            owner: spec.disk_id,
            parent,
            file_name,
            kms_key_id,
            size: spec.size,
            created: spec.created,
            state: LayerState::Making,
            key_bytes: entry.key_bytes,
        })
    }

    fn check_is_here(&self, parent: &str) -> Result<(), ControlError> {
        let here = self.parts.catalog.layer(parent)?;
        if here.is_some_and(|layer| layer.state == LayerState::Live) {
            return Ok(());
        }
        Err(invalid(format!(
            "it stands on the layer {parent}, which is not here: restore the backup before it first"
        )))
    }

    /// The record of the snapshot that comes back.
    fn restored(
        &self,
        manifest: &Manifest,
        layers: &[LayerRecord],
        name: Option<&str>,
    ) -> Result<SnapshotRecord, ControlError> {
        let Some(top) = layers.last() else { return Err(invalid("it has no layers".to_owned())) };
        let name = name.unwrap_or(&manifest.snapshot_name);
        check_snapshot_name(name)?;
        check_description(&manifest.description)?;
        let is_wellformed = is_snapshot_id(&manifest.snapshot_id);
        let is_free =
            is_wellformed && self.parts.catalog.snapshot(&manifest.snapshot_id)?.is_none();
        let snapshot_id = match is_free {
            true => manifest.snapshot_id.clone(),
            false => new_id("s-", &*self.parts.entropy),
        };
        // A plain disk has encrypted layers above its bottom.
        let encrypted = top.kms_key_id.is_some() && manifest.encrypted;
        let created = Timestamp::parse(&manifest.creation_time);
        Ok(SnapshotRecord {
            snapshot_id,
            name: name.to_owned(),
            description: manifest.description.clone(),
            disk_id: top.owner.clone(),
            layer_id: top.layer_id.clone(),
            size: top.size,
            encrypted,
            kms_key_id: top.kms_key_id.clone().filter(|_| encrypted),
            status: SnapshotStatus::Accomplished,
            created: created.unwrap_or_else(|| self.parts.clock.now()),
            retention_days: None,
            expires: None,
            source_snapshot: None,
        })
    }

    /// Files become layers, layers the snapshot: records first, then names, then records again, as
    /// for any new layer.
    fn adopt_all(
        &self,
        caller: &Caller,
        directory: &Path,
        layers: &[LayerRecord],
        snapshot: &SnapshotRecord,
    ) -> Result<(), ControlError> {
        let new: Vec<&LayerRecord> =
            layers.iter().filter(|layer| layer.state == LayerState::Making).collect();
        let _structure = self.lock_structure();
        self.apply(new.iter().map(|layer| StackOperation::InsertLayer((*layer).clone())))?;
        let adopt = |layer: &&LayerRecord| {
            let file = directory.join(&layer.file_name);
            self.parts.store.adopt(&file, &layer.file_name)
        };
        let adopted = new
            .iter()
            .try_for_each(adopt)
            .and_then(|()| self.parts.store.sync_names())
            .map_err(|error| self.on_storage("", error))
            .and_then(|()| {
                let mut change: Vec<Operation> =
                    new.iter().map(|layer| live(layer).into()).collect();
                change.push(StackOperation::InsertSnapshot(snapshot.clone()).into());
                let thing = (ResourceType::Snapshot, snapshot.snapshot_id.as_str());
                let event = audit::thing_event(self.actor(caller), "FinishSnapshotRestore", thing);
                self.apply_recorded(&change, &event)
            });
        if adopted.is_err() {
            new.iter().rev().for_each(|layer| self.unmake(layer));
        }
        adopted
    }
}

/// How old the place of a restore gets before it must be held.
const GRACE_SECONDS: i64 = 60;

fn manifest(
    snapshot: &SnapshotRecord,
    since: Option<&SnapshotRecord>,
    layers: &[LayerRecord],
) -> Manifest {
    let layer = |layer: &LayerRecord| ManifestLayer {
        layer_id: layer.layer_id.clone(),
        key_bytes: layer.key_bytes,
    };
    Manifest {
        format: FORMAT,
        snapshot_id: snapshot.snapshot_id.clone(),
        snapshot_name: snapshot.name.clone(),
        description: snapshot.description.clone(),
        disk_id: snapshot.disk_id.clone(),
        encrypted: snapshot.encrypted,
        creation_time: snapshot.created.to_string(),
        since_layer_id: since.map(|since| since.layer_id.clone()),
        since_snapshot_id: since.map(|since| since.snapshot_id.clone()),
        layers: layers.iter().map(layer).collect(),
    }
}

fn read_manifest(directory: &Path) -> Result<Manifest, ControlError> {
    let path = directory.join(MANIFEST);
    let mut text = String::new();
    let is_file = path.symlink_metadata().is_ok_and(|found| found.is_file());
    let read = is_file
        .then(|| File::open(&path))
        .ok_or_else(|| invalid(format!("there is no {MANIFEST} in it")))?
        .and_then(|file| file.take(MANIFEST_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| failed(&path, &error))?;
    let manifest: Manifest = serde_json::from_str(&text)
        .map_err(|error| invalid(format!("its {MANIFEST} cannot be read: {error}")))?;
    if manifest.format != FORMAT {
        let format = manifest.format;
        return Err(invalid(format!("format {format} is not known here, {FORMAT} is")));
    }
    if manifest.layers.len() > LAYERS_MAX {
        return Err(invalid(format!("it has more than {LAYERS_MAX} layers")));
    }
    Ok(manifest)
}

fn is_snapshot_id(text: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.strip_prefix("s-").is_some_and(|rest| rest.len() == 20 && rest.bytes().all(is_known))
}

fn invalid(why: String) -> ControlError {
    ControlError::refused("InvalidBackup", 400, format!("The backup cannot be restored: {why}."))
}

fn failed(path: &Path, error: &std::io::Error) -> ControlError {
    invalid(format!("{}: {error}", path.display()))
}

fn unix_seconds(at: std::time::SystemTime) -> i64 {
    let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// What fails here, the next sweep does.
fn remove(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(directory = %directory.display(), %error, "restore not removed");
    }
}
