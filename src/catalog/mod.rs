//! What the daemon knows: keys, aliases, disks, layers, snapshots, images, jobs. Records, the
//! trait, SQLite.
//!
//! The trait speaks of domain operations, not of SQL, so that a shared PostgreSQL catalog can stand
//! in its place. A change is a list of [`Operation`]s that takes effect whole or not at all. Just
//! before it does, a *gate* runs: the trail records the event there, so that nothing happens
//! unrecorded and nothing recorded as done is undone by a crash in between.
//!
//! Every call may block (SQLite, fsync): never from an async worker thread.

use std::fmt;
use std::path::Path;

use crate::clock::Timestamp;

pub mod ram;
pub mod record;
pub mod sqlite;
pub mod stack;
mod stack_words;

pub use record::{
    AliasRecord, CacheMode, DiskLimits, DiskRecord, DiskStatus, KeyRecord, KeyState,
    KeyVersionRecord, KmsStatus, RootRecord, TagRecord, TaggedType,
};
pub use stack::{
    ImageFilter, ImageRecord, ImageStatus, JobFilter, JobKind, JobPace, JobRecord, JobState,
    LayerRecord, LayerState, LayerUses, SnapshotFilter, SnapshotRecord, SnapshotStatus,
    StackOperation,
};

/// One step of a change.
#[derive(Clone, Debug)]
pub enum Operation {
    /// A new KMS key with its first version.
    InsertKey(KeyRecord, KeyVersionRecord),
    /// Replaces the mutable fields of a key (all but id, spec, usage, origin, protection, creator,
    /// instance and time of birth).
    UpdateKey(KeyRecord),
    /// A further version of a key.
    InsertKeyVersion(KeyVersionRecord),
    /// Replaces store and material of a key version.
    UpdateKeyVersion(KeyVersionRecord),
    /// So many uses of a key version to encrypt are spoken for, if as many were as the caller saw;
    /// else the whole change fails with [`CatalogError::Changed`].
    ReserveWraps {
        /// The version.
        version_id: String,
        /// What [`Catalog::reserved_wraps`] gave.
        seen: u64,
        /// How many they are then.
        reserved: u64,
    },
    /// Replaces the policy of a key.
    PutKeyPolicy {
        /// The key.
        key_id: String,
        /// JSON text.
        policy: String,
    },
    /// Removes a key, its policy, its versions, its aliases and its tags.
    DeleteKey(String),
    /// A new alias.
    InsertAlias(AliasRecord),
    /// Points an alias to another key.
    UpdateAlias(AliasRecord),
    /// Removes an alias by name.
    DeleteAlias(String),
    /// Puts a tag on a thing; replaces one of the same name. Whether the thing is there is the
    /// caller's to know.
    PutTag(TagRecord),
    /// Takes the tag of this name off a thing; no failure if there is none.
    DeleteTag {
        /// What it is on.
        resource_type: TaggedType,
        /// Id of what it is on.
        resource_id: String,
        /// Its name.
        key: String,
    },
    /// A new disk in status `Creating`, and new layers for it.
    InsertDisk(DiskRecord, Vec<LayerRecord>),
    /// Replaces the mutable fields of a disk (all but its id, its top layer and what its data is
    /// like) if its status and epoch still are what the caller saw; else the whole change fails
    /// with [`CatalogError::Changed`].
    UpdateDisk {
        /// The disk as it shall be.
        disk: DiskRecord,
        /// Status the caller saw.
        seen_status: DiskStatus,
        /// Epoch the caller saw.
        seen_epoch: u64,
    },
    /// Removes a disk and its tags. Its layers stay.
    DeleteDisk(String),
    /// The root record; once per catalog.
    InsertRoot(RootRecord),
    /// Another root key seals the sealing key now, if the one before still is what the caller saw;
    /// else the whole change fails with [`CatalogError::Changed`].
    ReplaceRoot {
        /// The record as it shall be.
        record: RootRecord,
        /// Id of the root key that the caller saw.
        seen_root_key_id: String,
    },
    /// How the account stands with the KMS from now on.
    PutKmsStatus(KmsStatus),
    /// A step of a change of layers, snapshots, images or jobs.
    Stack(StackOperation),
    /// A step of a change of users, roles or policies.
    Ram(ram::RamOperation),
}

/// A question about disks: all conditions must hold; `None` asks nothing.
#[derive(Clone, Debug, Default)]
pub struct DiskFilter {
    /// Any of these ids.
    pub ids: Option<Vec<String>>,
    /// This exact name.
    pub name: Option<String>,
    /// This status; `None`: any but `Deleting`, which has to be asked for.
    pub status: Option<DiskStatus>,
    /// Encrypted or not.
    pub encrypted: Option<bool>,
    /// This KMS key id.
    pub kms_key_id: Option<String>,
    /// Attached to this instance.
    pub instance_id: Option<String>,
    /// Made of this snapshot.
    pub source_snapshot: Option<String>,
    /// Made of this image.
    pub source_image: Option<String>,
    /// Its lease ended at this moment or before.
    pub lease_ended_at: Option<Timestamp>,
    /// Has all of these tags (any value where there is none); empty asks nothing.
    pub tags: Vec<(String, Option<String>)>,
}

/// A question about tags: all conditions must hold; what is empty asks nothing.
#[derive(Clone, Debug)]
pub struct TagFilter {
    /// On things of this type.
    pub resource_type: TaggedType,
    /// On any of these things.
    pub ids: Vec<String>,
    /// On things that have all of these tags (any value where there is none); only these are given.
    pub tags: Vec<(String, Option<String>)>,
    /// Only what follows this thing's id and tag's name, to go on where a page ended.
    pub after: Option<(String, String)>,
}

impl TagFilter {
    /// The tags of one thing.
    pub fn of(resource_type: TaggedType, id: &str) -> Self {
        Self { resource_type, ids: vec![id.to_owned()], tags: Vec::new(), after: None }
    }
}

/// Which part of a list: `offset` entries are left out, at most `limit` follow.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Entries to leave out.
    pub offset: u64,
    /// Entries at most.
    pub limit: u64,
}

impl Page {
    /// Everything. For the daemon itself; what a client can reach has a bound.
    pub const ALL: Self = Self { offset: 0, limit: i64::MAX as u64 };
}

/// A part of a list, and how long the whole is.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    /// The entries of the page asked for.
    pub items: Vec<T>,
    /// Entries in all.
    pub total: u64,
}

/// Runs inside the transaction, just before it is committed; an error undoes it all.
pub type Gate<'a> = &'a mut dyn FnMut() -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Why the catalog could not answer or change.
#[derive(Debug)]
pub enum CatalogError {
    /// A key, disk or alias with this name exists already.
    Exists,
    /// What the change names is not there.
    NotFound,
    /// Something else still refers to what was to be removed.
    Referenced,
    /// The disk is no longer as the caller saw it: another change came first.
    Changed,
    /// The gate refused: its reason. Nothing was changed.
    Gate(Box<dyn std::error::Error + Send + Sync>),
    /// The catalog was written by a newer sealdisk; this one must not touch it.
    Newer {
        /// Format version found.
        found: u32,
        /// Newest one that is understood.
        known: u32,
    },
    /// The database failed or is damaged.
    Database(Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Display for CatalogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists => f.write_str("catalog: there is one of that name already"),
            Self::NotFound => f.write_str("catalog: no such record"),
            Self::Referenced => f.write_str("catalog: other records still refer to this one"),
            Self::Changed => f.write_str("catalog: the record was changed meanwhile"),
            Self::Gate(error) => write!(f, "catalog: nothing was changed: {error}"),
            Self::Newer { found, known } => write!(
                f,
                "catalog: format {found} was written by a newer sealdisk (this one knows {known}); \
                 start that version instead"
            ),
            Self::Database(error) => write!(f, "catalog: {error}"),
        }
    }
}

impl std::error::Error for CatalogError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Gate(error) | Self::Database(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}

/// The store of records. One writer at a time; readers see whole changes only.
pub trait Catalog: ram::RamCatalog + Send + Sync {
    /// Makes all of `operations` durable, or none. `gate` runs just before.
    fn apply(&self, operations: &[Operation], gate: Gate<'_>) -> Result<(), CatalogError>;

    /// The key with this id.
    fn key(&self, key_id: &str) -> Result<Option<KeyRecord>, CatalogError>;

    /// Keys, oldest first.
    fn keys(&self, page: Page) -> Result<Listed<KeyRecord>, CatalogError>;

    /// One version of a key.
    fn key_version(&self, version_id: &str) -> Result<Option<KeyVersionRecord>, CatalogError>;

    /// The versions of a key, oldest first.
    fn key_versions(
        &self,
        key_id: &str,
        page: Page,
    ) -> Result<Listed<KeyVersionRecord>, CatalogError>;

    /// Uses of a key version to encrypt that are spoken for; 0 if it was never used.
    fn reserved_wraps(&self, version_id: &str) -> Result<u64, CatalogError>;

    /// The policy of a key, if one was ever put.
    fn key_policy(&self, key_id: &str) -> Result<Option<String>, CatalogError>;

    /// The alias of this name (`alias/…`).
    fn alias(&self, name: &str) -> Result<Option<AliasRecord>, CatalogError>;

    /// Aliases by name, of one key or of all.
    fn aliases(
        &self,
        key_id: Option<&str>,
        page: Page,
    ) -> Result<Listed<AliasRecord>, CatalogError>;

    /// The first `limit` tags that meet `filter`, by thing and name.
    fn tags(&self, filter: &TagFilter, limit: u64) -> Result<Vec<TagRecord>, CatalogError>;

    /// The disk with this id, whatever its status.
    fn disk(&self, disk_id: &str) -> Result<Option<DiskRecord>, CatalogError>;

    /// Disks that meet `filter`, newest first.
    fn disks(&self, filter: &DiskFilter, page: Page) -> Result<Listed<DiskRecord>, CatalogError>;

    /// The layers of a disk, bottom first. Where a parent is not in the catalog, the list begins
    /// above it.
    fn layers(&self, disk_id: &str) -> Result<Vec<LayerRecord>, CatalogError>;

    /// The layer with this id, whatever its state.
    fn layer(&self, layer_id: &str) -> Result<Option<LayerRecord>, CatalogError>;

    /// This layer and those it stands on, bottom first; as [`Catalog::layers`].
    fn chain(&self, layer_id: &str) -> Result<Vec<LayerRecord>, CatalogError>;

    /// Who refers to a layer.
    fn layer_uses(&self, layer_id: &str) -> Result<LayerUses, CatalogError>;

    /// Ids of the disks in whose chain a layer is, oldest first.
    fn disks_over(&self, layer_id: &str) -> Result<Vec<String>, CatalogError>;

    /// Layers, oldest first; all, or those in one state.
    fn all_layers(
        &self,
        state: Option<LayerState>,
        page: Page,
    ) -> Result<Listed<LayerRecord>, CatalogError>;

    /// Layers in state `Live` or `Condemned` that nobody refers to.
    fn unreferenced_layers(&self) -> Result<Vec<LayerRecord>, CatalogError>;

    /// Whole layers whose parent nobody needs but they, and that somebody else needs or
    /// several do: what lies below can go up into them.
    fn absorbing_layers(&self) -> Result<Vec<LayerRecord>, CatalogError>;

    /// The snapshot with this id.
    fn snapshot(&self, snapshot_id: &str) -> Result<Option<SnapshotRecord>, CatalogError>;

    /// Snapshots that meet `filter`, newest first.
    fn snapshots(
        &self,
        filter: &SnapshotFilter,
        page: Page,
    ) -> Result<Listed<SnapshotRecord>, CatalogError>;

    /// The image with this id.
    fn image(&self, image_id: &str) -> Result<Option<ImageRecord>, CatalogError>;

    /// Images that meet `filter`, newest first.
    fn images(&self, filter: &ImageFilter, page: Page)
    -> Result<Listed<ImageRecord>, CatalogError>;

    /// The job with this id.
    fn job(&self, job_id: &str) -> Result<Option<JobRecord>, CatalogError>;

    /// Jobs that meet `filter`, newest first.
    fn jobs(&self, filter: &JobFilter, page: Page) -> Result<Listed<JobRecord>, CatalogError>;

    /// The root record, if a root key was ever set up.
    fn root(&self) -> Result<Option<RootRecord>, CatalogError>;

    /// How the account stands with the KMS; open unless that was ever changed.
    fn kms_status(&self) -> Result<KmsStatus, CatalogError>;

    /// Writes everything, as of one moment, into the empty file at `to`, while serving goes on.
    fn copy_to(&self, to: &Path) -> Result<(), CatalogError>;
}
