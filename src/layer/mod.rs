//! One image: a LUKS2 header that describes it and ciphertext behind it.
//!
//! A layer is self-describing, is handed its data key by whoever unwrapped it, and knows neither
//! KMS nor disk. It is writable or frozen by type; data goes to storage only as [`Ciphertext`]. A
//! data unit whose ciphertext is all zeros is *absent*: the layer has nothing to say about it, and
//! the disk looks in the layer below. So the ciphertext is the allocation map, and a sparse copy of
//! a layer is a valid layer.

mod ciphertext;
mod data;
mod erase;
mod error;
mod extents;
mod format;
mod header;
mod meter;
mod names;
mod presence;
mod registry;
mod reheader;
mod shown;
mod token;

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use ciphertext::Ciphertext;
pub use erase::erase;
pub use error::LayerError;
pub use extents::UnitExtent;
pub use format::{format, format_named, read_header, repair_header, rewrite_envelope};
pub use header::{DATA_OFFSET, Envelope, LayerHeader, LayerSpec};
pub use meter::{KEY_BYTES_MAX, KEY_BYTES_WARNING, KeyMeter};
pub use names::{LayerName, NameKind, rename};
pub use presence::{Presence, Torn};
pub use registry::LayerRegistry;
pub use reheader::reheader;
pub use shown::{Sealed, Shown};

use uuid::Uuid;

use crate::secret::Secret;
use crate::storage::{Capabilities, Storage};
use crate::units::{ByteCount, DataUnitSize};
use ciphertext::Codec;

/// State of a layer that takes writes: the top one of a disk.
#[derive(Clone, Copy, Debug)]
pub enum Writable {}

/// State of a layer that never changes again: a snapshot, or what stands below a top.
#[derive(Clone, Copy, Debug)]
pub enum Frozen {}

/// [`Writable`] or [`Frozen`].
pub trait State: sealed::Sealed {}
impl State for Writable {}
impl State for Frozen {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Writable {}
    impl Sealed for super::Frozen {}
}

/// A handle on an open layer. Its data key lives in the secret arena from the opening until the
/// last handle is dropped. Shared by threads; overlapping writes are the caller's to order.
#[derive(Debug)]
pub struct Layer<S: State> {
    storage: Arc<dyn Storage>,
    header: Arc<LayerHeader>,
    codec: Arc<Codec>,
    meter: Arc<KeyMeter>,
    /// It was flushed since it was opened, and has released nothing since.
    is_settled: Arc<AtomicBool>,
    state: PhantomData<S>,
}

/// Another handle on the same open layer.
impl<S: State> Clone for Layer<S> {
    fn clone(&self) -> Self {
        self.handle()
    }
}

impl<S: State> Layer<S> {
    /// Opens the layer that `header` was read from. `key` is the unwrapped data key, `None` for a
    /// layer that is not encrypted. It is expanded once; the bytes given here are wiped.
    ///
    /// # Errors
    /// [`LayerError::Truncated`] if the file is shorter than the header says, whatever the key;
    /// [`LayerError::WrongKey`] if the key is not the one the header has a digest of;
    /// [`LayerError::EqualKeyHalves`]; [`LayerError::MissingKey`] or
    /// [`LayerError::NullCipherRefused`] if key and cipher do not go together.
    pub fn open(
        storage: Arc<dyn Storage>,
        header: LayerHeader,
        key: Option<Secret>,
    ) -> Result<Self, LayerError> {
        let (have, need) = (storage.len()?, header.spec.file_len());
        if have < need {
            return Err(LayerError::Truncated { have, need });
        }
        header.check_key(key.as_ref())?;
        let codec = Arc::new(Codec::new(&header.spec, key.as_ref())?);
        // Wiped here: from now on the key is only in the cipher's schedules.
        drop(key);
        let (header, meter) = (Arc::new(header), Arc::new(KeyMeter::default()));
        Ok(Self { storage, header, codec, meter, is_settled: Arc::default(), state: PhantomData })
    }

    /// The same open layer under a header that was rewritten: another parent, a greater size. The
    /// caller uses it in place of `self`.
    ///
    /// # Errors
    /// [`LayerError::HeaderMismatch`] if it is the header of another layer, of one with another
    /// cipher or unit, or of a smaller one; [`LayerError::Truncated`].
    pub fn with_header(&self, header: LayerHeader) -> Result<Self, LayerError> {
        let (had, has) = (&self.header.spec, &header.spec);
        let agreements = [
            ("UUID", had.layer_id == has.layer_id),
            ("sector size", had.unit == has.unit),
            ("cipher", had.cipher == has.cipher),
            ("digest", self.header.luks.metadata.digest == header.luks.metadata.digest),
            ("size", had.size <= has.size),
        ];
        if let Some((field, _)) = agreements.iter().find(|(_, agree)| !agree) {
            return Err(LayerError::HeaderMismatch { field });
        }
        let (have, need) = (self.storage.len()?, has.file_len());
        if have < need {
            return Err(LayerError::Truncated { have, need });
        }
        Ok(Self { header: Arc::new(header), ..self.handle() })
    }

    /// What the layer says of itself.
    pub fn header(&self) -> &LayerHeader {
        &self.header
    }

    /// Its name, everywhere.
    pub fn id(&self) -> Uuid {
        self.header.spec.layer_id
    }

    /// Bytes of the disk, as clients see it; the header is not among them.
    pub fn size(&self) -> ByteCount {
        self.header.spec.size
    }

    /// Bytes of one data unit.
    pub fn unit_size(&self) -> DataUnitSize {
        self.header.spec.unit
    }

    /// Units in it; the last one may reach past the size.
    pub fn units(&self) -> u64 {
        self.unit_size().units_in(self.size())
    }

    /// How much was encrypted under its data key.
    pub fn meter(&self) -> &KeyMeter {
        &self.meter
    }

    /// Whether both are the same open layer, so that what one encrypts the other may store.
    pub fn is_same_as<T: State>(&self, other: &Layer<T>) -> bool {
        Arc::ptr_eq(&self.codec, &other.codec)
    }

    fn handle<T: State>(&self) -> Layer<T> {
        Layer {
            storage: Arc::clone(&self.storage),
            header: Arc::clone(&self.header),
            codec: Arc::clone(&self.codec),
            meter: Arc::clone(&self.meter),
            is_settled: Arc::clone(&self.is_settled),
            state: PhantomData,
        }
    }

    /// What the storage below can do.
    pub fn capabilities(&self) -> Capabilities {
        self.storage.capabilities()
    }
}

impl Layer<Writable> {
    /// Ends writing for good. What was written is not flushed by this.
    pub fn freeze(self) -> Layer<Frozen> {
        self.handle()
    }

    /// The layer as one that takes no more writes, while `self` is still there for those who look
    /// at it. The caller sees to it that nobody writes through `self` from here on.
    pub fn as_frozen(&self) -> Layer<Frozen> {
        self.handle()
    }
}

#[cfg(test)]
mod tests;
