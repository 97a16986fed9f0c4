//! Records of the stack of layers: layers, snapshots, images, and the jobs that rebuild stacks.
//!
//! A layer belongs to nobody. It stays while a disk's top, a snapshot, an image, an unfinished job
//! or a child refers to it ([`LayerUses`]); what nobody refers to any more is swept.

use crate::clock::Timestamp;
use crate::units::ByteCount;

/// One step of a change of layers, snapshots, images or jobs.
#[derive(Clone, Debug)]
pub enum StackOperation {
    /// Gives a disk another top layer, if it has the one the caller saw; else the whole change
    /// fails with [`super::CatalogError::Changed`].
    SetTop {
        /// The disk.
        disk_id: String,
        /// Its top layer from now on.
        top_layer: String,
        /// The top layer the caller saw.
        seen_top: String,
    },
    /// What a disk's data is like from now on.
    SetDiskData {
        /// The disk.
        disk_id: String,
        /// Its size.
        size: ByteCount,
        /// Whether it is encrypted.
        encrypted: bool,
        /// The KMS key of its data keys.
        kms_key_id: Option<String>,
    },
    /// A new layer.
    InsertLayer(LayerRecord),
    /// Replaces parent, KMS key, size and state of a layer.
    UpdateLayer(LayerRecord),
    /// Raises what a layer's data key has encrypted to `key_bytes`, if it is less.
    RaiseKeyBytes {
        /// The layer.
        layer_id: String,
        /// Bytes: an upper bound.
        key_bytes: u64,
    },
    /// Says exactly what a layer's data key has encrypted, also if that is less than was said.
    SettleKeyBytes {
        /// The layer.
        layer_id: String,
        /// Bytes.
        key_bytes: u64,
    },
    /// Removes a layer that nobody refers to; else the whole change fails with
    /// [`super::CatalogError::Referenced`].
    DeleteLayer(String),
    /// A new snapshot of a layer that is there.
    InsertSnapshot(SnapshotRecord),
    /// Replaces all fields of a snapshot but its id.
    UpdateSnapshot(SnapshotRecord),
    /// Removes a snapshot and its tags. Its layer stays.
    DeleteSnapshot(String),
    /// A new image of a layer that is there.
    InsertImage(ImageRecord),
    /// Replaces all fields of an image but its id.
    UpdateImage(ImageRecord),
    /// Removes an image and its tags. Its layer stays.
    DeleteImage(String),
    /// A new job.
    InsertJob(JobRecord),
    /// Replaces all fields of a job but its id, if its state still is what
    /// the caller saw; else the whole change fails with [`super::CatalogError::Changed`].
    UpdateJob {
        /// The job as it shall be.
        job: JobRecord,
        /// State the caller saw.
        seen_state: JobState,
    },
    /// Removes a job.
    DeleteJob(String),
}

impl From<StackOperation> for super::Operation {
    fn from(operation: StackOperation) -> Self {
        Self::Stack(operation)
    }
}

/// Life of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerState {
    /// Its file is being made; swept at the next start if that is cut short.
    Making,
    /// Whole.
    Live,
    /// Whole, as `Live`; but when nobody needs it any more it goes by way of `Erasing`.
    Condemned,
    /// Its file is being removed; finished at the next start if that is cut short.
    Going,
    /// As `Going`, but its header is destroyed first, so that no copy of the key envelope is left.
    Erasing,
}

/// One layer: one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRecord {
    /// UUID in text form, as in its LUKS2 header.
    pub layer_id: String,
    /// The disk or image it was made for, as in its header. That need not exist any more.
    pub owner: String,
    /// The layer below; `None` at the bottom.
    pub parent: Option<String>,
    /// File name inside the layer directory.
    pub file_name: String,
    /// The KMS key that wraps its data key; `None` for a layer that is not encrypted.
    pub kms_key_id: Option<String>,
    /// Bytes of the disk, as in its header.
    pub size: ByteCount,
    /// When it was made, as in its header.
    pub created: Timestamp,
    /// Where it is in its life.
    pub state: LayerState,
    /// Bytes encrypted under its data key so far: an upper bound.
    pub key_bytes: u64,
}

/// Who refers to a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerUses {
    /// Disks that write to it.
    pub disks: Vec<String>,
    /// Snapshots of it.
    pub snapshots: Vec<String>,
    /// Images of it.
    pub images: Vec<String>,
    /// Unfinished jobs that fill it.
    pub jobs: Vec<String>,
    /// Layers that stand on it and are not going.
    pub children: Vec<String>,
}

impl LayerUses {
    /// Whether nobody does.
    pub const fn is_empty(&self) -> bool {
        self.is_named_by_nobody() && self.children.is_empty()
    }

    /// Whether nobody but layers on it does.
    pub const fn is_named_by_nobody(&self) -> bool {
        self.disks.is_empty()
            && self.snapshots.is_empty()
            && self.images.is_empty()
            && self.jobs.is_empty()
    }
}

/// Life of a snapshot (ECS 2014-05-26, `Status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnapshotStatus {
    /// Not safe on the medium yet, or still being copied.
    Progressing,
    /// Whole.
    Accomplished,
    /// What it should hold may be lost.
    Failed,
}

/// The state of a disk at one moment: a name for a frozen layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// `s-` and 20 lower-case letters or digits.
    pub snapshot_id: String,
    /// What its owner calls it; may be empty, need not be unique.
    pub name: String,
    /// What its owner says of it.
    pub description: String,
    /// The disk it was taken of; need not exist any more.
    pub disk_id: String,
    /// The frozen layer.
    pub layer_id: String,
    /// Size of the disk then.
    pub size: ByteCount,
    /// Whether the layer is encrypted.
    pub encrypted: bool,
    /// The KMS key of that layer.
    pub kms_key_id: Option<String>,
    /// Where it is in its life.
    pub status: SnapshotStatus,
    /// When it was taken.
    pub created: Timestamp,
    /// Days it is kept; `None`: until somebody deletes it.
    pub retention_days: Option<u32>,
    /// When those are over.
    pub expires: Option<Timestamp>,
    /// The snapshot it is a copy of.
    pub source_snapshot: Option<String>,
}

/// Life of an image (ECS 2014-05-26, `Status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageStatus {
    /// Still being copied.
    Creating,
    /// Whole.
    Available,
    /// Its copy failed.
    CreateFailed,
}

/// What disks can be made of: a name for a frozen layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    /// `m-` and 20 lower-case letters or digits.
    pub image_id: String,
    /// What its owner calls it.
    pub name: String,
    /// What its owner says of it.
    pub description: String,
    /// The frozen layer.
    pub layer_id: String,
    /// Smallest size of a disk made of it.
    pub size: ByteCount,
    /// Whether the layer is encrypted.
    pub encrypted: bool,
    /// The KMS key of that layer.
    pub kms_key_id: Option<String>,
    /// Where it is in its life.
    pub status: ImageStatus,
    /// When it was made.
    pub created: Timestamp,
    /// Id of the snapshot or image it was made of; that need not exist any more.
    pub source: String,
}

/// What a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobKind {
    /// A disk stops depending on the layers below its top.
    Flatten,
    /// A disk gets a fresh data key.
    Rekey,
    /// A disk gets a data key under another KMS key.
    SetKey,
    /// A plain disk becomes an encrypted one.
    Encrypt,
    /// A layer that only its child needs goes up into that child.
    Merge,
    /// A snapshot or image is copied into a layer of its own.
    Copy,
    /// A disk grows.
    Resize,
}

/// Life of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobState {
    /// For a thread, or for a disk that others use too.
    Waiting,
    /// Under way.
    Running,
    /// Until somebody resumes it.
    Paused,
    /// All data is where it shall be: headers and records follow. No way back.
    Switching,
    /// Whole.
    Done,
    /// Given up; [`JobRecord::failure`] says why.
    Failed,
    /// Given up because somebody asked for that.
    Cancelled,
}

/// How hard a job works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobPace {
    /// Gives way to the disk's clients.
    #[default]
    Gentle,
    /// As fast as it can.
    Full,
}

/// Work on a stack of layers in the background.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRecord {
    /// `j-` and 20 lower-case letters or digits.
    pub job_id: String,
    /// What it is for.
    pub kind: JobKind,
    /// The disk it works on, if there is one.
    pub disk_id: Option<String>,
    /// The snapshot or image that it makes, of a copy.
    pub subject: Option<String>,
    /// The layer it fills, or whose header it changes.
    pub target_layer: String,
    /// Where the target stands when it is done; `None`: on nothing.
    pub floor_layer: Option<String>,
    /// Where it is in its life.
    pub state: JobState,
    /// Why it failed or waits, for a person.
    pub failure: String,
    /// Data units it has looked at, from the first on.
    pub cursor_units: u64,
    /// Data units to look at; for a resize, of the disk as it shall be.
    pub total_units: u64,
    /// Bytes it has copied.
    pub bytes_done: u64,
    /// When it was asked for.
    pub created: Timestamp,
    /// When this record last changed.
    pub changed: Timestamp,
    /// How hard it works.
    pub pace: JobPace,
    /// Bytes a second it copies at most; `None`: no limit.
    pub rate: Option<u64>,
}

/// A question about snapshots: all conditions must hold; `None` and empty ask nothing.
#[derive(Clone, Debug, Default)]
pub struct SnapshotFilter {
    /// Any of these ids.
    pub ids: Option<Vec<String>>,
    /// This exact name.
    pub name: Option<String>,
    /// Taken of this disk.
    pub disk_id: Option<String>,
    /// Of this layer.
    pub layer_id: Option<String>,
    /// This status.
    pub status: Option<SnapshotStatus>,
    /// Encrypted or not.
    pub encrypted: Option<bool>,
    /// This KMS key id.
    pub kms_key_id: Option<String>,
    /// Kept until this moment at most.
    pub expired_at: Option<Timestamp>,
    /// Has all of these tags (any value where there is none).
    pub tags: Vec<(String, Option<String>)>,
}

/// A question about images: all conditions must hold; `None` and empty ask nothing.
#[derive(Clone, Debug, Default)]
pub struct ImageFilter {
    /// Any of these ids.
    pub ids: Option<Vec<String>>,
    /// This exact name.
    pub name: Option<String>,
    /// This status.
    pub status: Option<ImageStatus>,
    /// Encrypted or not.
    pub encrypted: Option<bool>,
    /// This KMS key id.
    pub kms_key_id: Option<String>,
    /// Made of this snapshot or image.
    pub source: Option<String>,
    /// Has all of these tags (any value where there is none).
    pub tags: Vec<(String, Option<String>)>,
}

/// A question about jobs: all conditions must hold; `None` asks nothing.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Any of these ids.
    pub ids: Option<Vec<String>>,
    /// On this disk.
    pub disk_id: Option<String>,
    /// Into this layer.
    pub target_layer: Option<String>,
    /// Any of these states.
    pub states: Option<Vec<JobState>>,
}

impl JobFilter {
    /// Jobs that are not at their end.
    pub fn unfinished() -> Self {
        let states = JobState::ALL.into_iter().filter(|state| !state.is_final()).collect();
        Self { states: Some(states), ..Self::default() }
    }
}
