//! The records of the catalog. No secret is in any of them: key material is wrapped.

use std::fmt;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::units::ByteCount;

/// Life of a KMS key (KMS 2016-01-20, `KeyState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// May be used.
    Enabled,
    /// Refuses use until enabled again.
    Disabled,
    /// Refuses use and will be destroyed at its deletion date unless that is cancelled.
    PendingDeletion,
    /// Waits for imported material.
    PendingImport,
}

/// How an account stands with the KMS (`AccountStatus`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KmsStatus {
    /// Open: it serves.
    #[default]
    Enabled,
    /// Not opened yet, or given up.
    NotEnabled,
    /// The account owes money: the KMS has stopped serving it.
    InDebt,
    /// It has owed money for too long.
    Suspended,
}

/// A KMS key, without its material.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// UUID in text form.
    pub key_id: String,
    /// What the owner says of it, at most 8192 characters.
    pub description: String,
    /// `Aliyun_AES_256`, `RSA_2048`, …
    pub spec: String,
    /// `ENCRYPT/DECRYPT` or `SIGN/VERIFY`.
    pub usage: String,
    /// The KMS instance it was made in (`kst-…`), if in one.
    pub instance: Option<String>,
    /// `Aliyun_KMS` or `EXTERNAL`.
    pub origin: String,
    /// `SOFTWARE` or `HSM`.
    pub protection: String,
    /// Account id for a user's key, product code (`Ecs`) for a service key.
    pub creator: String,
    /// Whether it may be used now.
    pub state: KeyState,
    /// When it was made.
    pub created: Timestamp,
    /// When it will be destroyed, in `PendingDeletion`.
    pub deletes: Option<Timestamp>,
    /// The version that encrypts.
    pub primary_version: String,
    /// How long a version is primary; `None`: until somebody makes another.
    pub rotation: Option<Duration>,
    /// When the primary version became so.
    pub rotated: Timestamp,
    /// Whether its deletion is refused.
    pub deletion_protected: bool,
    /// Why its deletion is refused, in its owner's words.
    pub deletion_protected_why: String,
    /// Whether there is material to use; only imported material can be absent.
    pub has_material: bool,
    /// When imported material expires, if it does.
    pub material_expires: Option<Timestamp>,
}

/// One version of a KMS key's material.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyVersionRecord {
    /// UUID in text form; leads every ciphertext blob.
    pub version_id: String,
    /// The key it belongs to.
    pub key_id: String,
    /// When it was made.
    pub created: Timestamp,
    /// Which material store can use `wrapped_material`: `software`.
    pub store: String,
    /// What that store needs to use the material; for `software`, the material under the root key.
    pub wrapped_material: Vec<u8>,
    /// The public half (X.509 SubjectPublicKeyInfo, DER) of an asymmetric key.
    pub public_key: Option<Vec<u8>>,
}

/// A second name of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasRecord {
    /// `alias/…`.
    pub name: String,
    /// The key it names.
    pub key_id: String,
    /// When it was made.
    pub created: Timestamp,
}

/// What kind of thing a tag is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaggedType {
    /// A KMS key.
    Key,
    /// A disk.
    Disk,
    /// A snapshot.
    Snapshot,
    /// An image.
    Image,
}

/// A tag: a note on a thing, which policies can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRecord {
    /// What it is on.
    pub resource_type: TaggedType,
    /// Id of what it is on.
    pub resource_id: String,
    /// Its name, once on each thing.
    pub key: String,
    /// What it says; may be empty.
    pub value: String,
}

/// Life of a disk (ECS 2014-05-26, `Status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskStatus {
    /// Its layer is being made; swept at the next start if that is cut short.
    Creating,
    /// Complete, served nowhere.
    Available,
    /// Being opened for an instance.
    Attaching,
    /// Open and served.
    InUse,
    /// Being closed.
    Detaching,
    /// Being removed; finished at the next start if that is cut short. Never shown.
    Deleting,
}

/// How a disk uses the host's page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// Reads and writes go through it; a flush writes it out.
    #[default]
    Writeback,
    /// They go past it, to the device and back (`O_DIRECT`).
    None,
}

/// What a disk may do in a second at most; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskLimits {
    /// Read, write, trim and write-zeroes requests.
    pub iops: Option<u64>,
    /// Bytes of reads and writes together.
    pub bytes_per_second: Option<u64>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskRecord {
    /// `d-` and 20 lower-case letters or digits.
    pub disk_id: String,
    /// What its owner calls it; may be empty, need not be unique.
    pub name: String,
    /// What its owner says of it.
    pub description: String,
    /// Advertised size; headers come on top.
    pub size: ByteCount,
    /// Whether its layers are encrypted.
    pub encrypted: bool,
    /// The KMS key that wraps its data keys; `None` on a plain disk.
    pub kms_key_id: Option<String>,
    /// Where it is in its life.
    pub status: DiskStatus,
    /// Disk category of the cloud (`cloud_essd`): kept and shown, changes nothing here.
    pub category: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last attached.
    pub attached: Option<Timestamp>,
    /// When it was last detached.
    pub detached: Option<Timestamp>,
    /// The instance it is attached to.
    pub instance_id: Option<String>,
    /// Whether clients may only read.
    pub read_only: bool,
    /// How it is opened at the next attach.
    pub cache: CacheMode,
    /// What it may do in a second.
    pub limits: DiskLimits,
    /// Grows with each attach; names the writer that may write.
    pub epoch: u64,
    /// The layer it writes to; the layers below that are its parents.
    pub top_layer: String,
    /// The snapshot it was made of; that need not exist any more.
    pub source_snapshot: Option<String>,
    /// The image it was made of; that need not exist any more.
    pub source_image: Option<String>,
    /// Whether several instances may write to it at a time: their file system sees to order.
    pub multi_attach: bool,
    /// The instances it is attached to beside `instance_id`.
    pub more_instances: Vec<String>,
    /// When it is deleted if nobody renews the lease; `None`: when somebody deletes it.
    pub lease_ends: Option<Timestamp>,
}

/// How the root key is known again, and the one secret that it seals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootRecord {
    /// Where the key comes from: `file`, `passphrase`, `credential`.
    pub provider: String,
    /// What the provider needs to find or derive it again (a salt); not secret, may be empty.
    pub parameters: String,
    /// Names the key without telling it (a hash of it under a fixed label).
    pub root_key_id: String,
    /// The sealing key under the root key: wrong key and damaged catalog are told apart by it.
    pub sealed_key: Vec<u8>,
    /// The root key before this one, if there was one.
    pub previous_id: Option<String>,
    /// Since when this is the root key.
    pub since: Timestamp,
}

impl KeyState {
    /// The published name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::Disabled => "Disabled",
            Self::PendingDeletion => "PendingDeletion",
            Self::PendingImport => "PendingImport",
        }
    }

    /// The state of this published name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Enabled, Self::Disabled, Self::PendingDeletion, Self::PendingImport]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

impl KmsStatus {
    /// The published name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::NotEnabled => "NotEnabled",
            Self::InDebt => "InDebt",
            Self::Suspended => "Suspended",
        }
    }

    /// The status of this published name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Enabled, Self::NotEnabled, Self::InDebt, Self::Suspended]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

impl CacheMode {
    /// The name in the API and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Writeback => "writeback",
            Self::None => "none",
        }
    }

    /// The mode of this name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Writeback, Self::None].into_iter().find(|mode| mode.as_str() == text)
    }
}

impl DiskLimits {
    /// Whether there are none.
    pub const fn is_off(self) -> bool {
        self.iops.is_none() && self.bytes_per_second.is_none()
    }
}

impl DiskStatus {
    /// The published name; `Deleting` is ours alone.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "Creating",
            Self::Available => "Available",
            Self::Attaching => "Attaching",
            Self::InUse => "In_use",
            Self::Detaching => "Detaching",
            Self::Deleting => "Deleting",
        }
    }

    /// The status of this name.
    pub fn parse(text: &str) -> Option<Self> {
        use DiskStatus::{Attaching, Available, Creating, Deleting, Detaching, InUse};
        [Creating, Available, Attaching, InUse, Detaching, Deleting]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

impl TaggedType {
    /// The published name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Disk => "disk",
            Self::Snapshot => "snapshot",
            Self::Image => "image",
        }
    }

    /// The type of this published name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Key, Self::Disk, Self::Snapshot, Self::Image]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for DiskStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
