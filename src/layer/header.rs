//! What a layer is, what its header says, and what of it the wrapped data key is bound to.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use uuid::Uuid;

use super::LayerError;
use super::token::FORMAT_VERSION;
use crate::clock::{Entropy, Timestamp};
use crate::crypto::kdf::pbkdf2_sha256;
use crate::crypto::mac::constant_time_eq;
use crate::crypto::xts::{Cipher, DATA_KEY_BYTES};
use crate::limits::DISK_BYTES_MAX;
use crate::luks2::{
    Condition, Digest, HEADERS_BYTES, Header, Metadata, REQUIREMENT_CHAIN, Segment, SegmentSize,
};
use crate::secret::Secret;
use crate::units::{ByteCount, ByteOffset, DataUnitSize, SECTOR_BYTES};

/// Where data starts in the file: behind both header copies and room for three keyslots, one of
/// which break-glass needs.
pub const DATA_OFFSET: ByteOffset = ByteOffset::new(1 << 20);

/// Longest disk id, in bytes.
const DISK_ID_BYTES_MAX: usize = 64;

/// Rounds of PBKDF2 for the digest: the least that LUKS2 allows. The input is 512 random bits, so
/// there is nothing to stretch; the digest tells a wrong key from the right one, no more.
const DIGEST_ITERATIONS: u32 = 1000;

/// Most rounds that are run for a header found on storage: it must not hold a thread for long.
const DIGEST_ITERATIONS_MAX: u32 = 1_000_000;

/// What a layer is. Everything here is bound to its wrapped data key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSpec {
    /// Names the layer; also the UUID that LUKS2 tools show.
    pub layer_id: Uuid,
    /// The disk it was made for.
    pub disk_id: String,
    /// The layer it stands on; absent units are read there.
    pub parent: Option<Uuid>,
    /// Bytes of the disk. Any multiple of 512; the file holds whole units.
    pub size: ByteCount,
    /// What one tweak covers.
    pub unit: DataUnitSize,
    /// How data is encrypted.
    pub cipher: Cipher,
    /// When it was made; kept to the second.
    pub created: Timestamp,
}

/// A wrapped data key, opaque here, and what to unwrap it with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The KMS key.
    pub key_id: String,
    /// The version of it.
    pub key_version: String,
    /// The ciphertext blob that KMS gave.
    pub wrapped: Vec<u8>,
}

/// A header as found in a file: checked in itself, not yet against a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerHeader {
    /// What the layer is.
    pub spec: LayerSpec,
    /// Its wrapped data key; `None` for a layer that is not encrypted.
    pub envelope: Option<Envelope>,
    /// Grows with each update of the header.
    pub seqid: u64,
    /// Whether both copies are whole; [`super::repair_header`] mends them.
    pub condition: Condition,
    /// How many keyslots a stock tool added: ways in beside the KMS.
    pub keyslots: usize,
    /// The whole header, for writing it again.
    pub(super) luks: Header,
}

impl LayerSpec {
    /// What the data key must be wrapped with and can only be unwrapped with: a header that was
    /// rewritten or swapped gives another context, so unwrapping fails. Every field of the
    /// specification is in it, and the constants that a future format might change.
    pub fn encryption_context(&self) -> BTreeMap<String, String> {
        let parent = self.parent.map_or_else(|| "none".to_owned(), |id| id.to_string());
        [
            ("format", FORMAT_VERSION.to_string()),
            ("layer", self.layer_id.to_string()),
            ("disk", self.disk_id.clone()),
            ("parent", parent),
            ("size", self.size.get().to_string()),
            ("unit", self.unit.bytes().to_string()),
            ("cipher", self.cipher.name().to_owned()),
            ("key-bits", self.cipher.key_bits().to_string()),
            ("data-offset", DATA_OFFSET.get().to_string()),
            ("first-tweak", "0".to_owned()),
            ("created", self.created.to_string()),
        ]
        .into_iter()
        .map(|(name, value)| (format!("sealdisk:{name}"), value))
        .collect()
    }

    /// Bytes of data in the file: the disk's size rounded up to whole units.
    pub const fn data_len(&self) -> ByteCount {
        ByteCount::new(self.unit.units_in(self.size) * self.unit.bytes())
    }

    /// Bytes of the whole file.
    pub const fn file_len(&self) -> ByteCount {
        ByteCount::new(DATA_OFFSET.get() + self.data_len().get())
    }

    /// Refuses what no layer can be.
    pub(super) fn check(&self) -> Result<(), LayerError> {
        let size = self.size.get();
        if size == 0 || size > DISK_BYTES_MAX || !size.is_multiple_of(SECTOR_BYTES) {
            return Err(LayerError::InvalidSpec { field: "size" });
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let id = self.disk_id.as_bytes();
        if id.is_empty() || id.len() > DISK_ID_BYTES_MAX || !id.iter().all(|byte| is_name(*byte)) {
            return Err(LayerError::InvalidSpec { field: "disk id" });
        }
        if self.parent == Some(self.layer_id) {
            return Err(LayerError::InvalidSpec { field: "parent" });
        }
        // Zeros over a parent's data must be stored, and plain zeros read as absent.
        if self.cipher == Cipher::Null && self.parent.is_some() {
            return Err(LayerError::NullCipherRefused);
        }
        Ok(())
    }

    /// The segment that says the same to LUKS2 tools. Its size is exact, so that they refuse a
    /// file that was cut off, too.
    pub(super) fn segment(&self) -> Segment {
        Segment {
            offset: DATA_OFFSET.get(),
            size: SegmentSize::Exact(self.data_len().get()),
            iv_tweak: 0,
            encryption: self.cipher.name().to_owned(),
            sector_size: self.unit.bytes() as u32,
        }
    }

    /// What a LUKS2 tool must know to be allowed to touch the data.
    pub(super) fn requirements(&self) -> Vec<String> {
        match self.parent {
            Some(_) => vec![REQUIREMENT_CHAIN.to_owned()],
            None => Vec::new(),
        }
    }

    /// The header of a new layer, without its token.
    pub(super) fn luks_header(&self, digest: Digest) -> Header {
        let requirements = self.requirements();
        let metadata = Metadata {
            segment: self.segment(),
            digest: Some(digest),
            tokens: serde_json::Map::new(),
            keyslots: serde_json::Map::new(),
            keyslots_size: DATA_OFFSET.get() - HEADERS_BYTES as u64,
            flags: Vec::new(),
            requirements,
        };
        let (label, subsystem) = (String::new(), String::new());
        Header { seqid: 1, uuid: self.layer_id, label, subsystem, metadata }
    }
}

impl LayerHeader {
    /// Checks a data key against the digest.
    ///
    /// # Errors
    /// As [`super::Layer::open`], but for the length of the file.
    pub fn check_key(&self, key: Option<&Secret>) -> Result<(), LayerError> {
        let digest = &self.luks.metadata.digest;
        let digest = digest.as_ref().ok_or(LayerError::HeaderMismatch { field: "digest" })?;
        let key = match (self.spec.cipher, key) {
            (Cipher::Null, Some(_)) => return Err(LayerError::NullCipherRefused),
            (Cipher::Null, None) => {
                // The digest of another key is what an encrypted header leaves when it is edited.
                let is_null = is_digest_of(&Secret::zeroed(0), digest)?;
                return if is_null { Ok(()) } else { Err(LayerError::NullCipherRefused) };
            }
            (Cipher::Aes256XtsPlain64, None) => return Err(LayerError::MissingKey),
            (Cipher::Aes256XtsPlain64, Some(key)) => key,
        };
        // PBKDF2 gives a key and the same key with zeros behind it one digest: the length counts.
        if key.len() != DATA_KEY_BYTES || !is_digest_of(key, digest)? {
            return Err(LayerError::WrongKey);
        }
        let (data_half, tweak_half) = key.expose().split_at(DATA_KEY_BYTES / 2);
        if constant_time_eq(data_half, tweak_half) {
            return Err(LayerError::EqualKeyHalves);
        }
        Ok(())
    }

    /// Checks that the wrapped key was opened by the KMS key that the header names. KMS finds the
    /// key by the blob alone, so the names in the header are claims until they meet its answer.
    ///
    /// # Errors
    /// [`LayerError::HeaderMismatch`].
    pub fn check_unwrapped_by(&self, key_id: &str, version: &str) -> Result<(), LayerError> {
        let mismatch = |field| Err(LayerError::HeaderMismatch { field });
        match &self.envelope {
            None => mismatch("envelope"),
            Some(envelope) if envelope.key_id != key_id => mismatch("KMS key id"),
            Some(envelope) if envelope.key_version != version => mismatch("KMS key version"),
            Some(_) => Ok(()),
        }
    }
}

/// The digest of a new data key.
pub(super) fn make_digest(key: &Secret, entropy: &dyn Entropy) -> Digest {
    let mut salt = [0; 32];
    entropy.fill(&mut salt);
    let iterations = const { NonZeroU32::new(DIGEST_ITERATIONS).expect("not zero") };
    let mut digest = [0; 32];
    pbkdf2_sha256(key, &salt, iterations, &mut digest);
    Digest { keyslots: Vec::new(), iterations: DIGEST_ITERATIONS, salt, digest }
}

/// Whether `digest` was made of `key`.
fn is_digest_of(key: &Secret, digest: &Digest) -> Result<bool, LayerError> {
    let unusable = LayerError::HeaderMismatch { field: "digest iterations" };
    if !(DIGEST_ITERATIONS..=DIGEST_ITERATIONS_MAX).contains(&digest.iterations) {
        return Err(unusable);
    }
    let iterations = NonZeroU32::new(digest.iterations).ok_or(unusable)?;
    let mut found = [0; 32];
    pbkdf2_sha256(key, &digest.salt, iterations, &mut found);
    Ok(constant_time_eq(&found, &digest.digest))
}
