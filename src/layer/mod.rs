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
mod presence;
mod registry;
mod reheader;
mod token;

use std::marker::PhantomData;
use std::sync::Arc;

pub use ciphertext::Ciphertext;
pub use erase::erase;
pub use error::LayerError;
pub use extents::UnitExtent;
pub use format::{format, read_header, repair_header, rewrite_envelope};
pub use header::{DATA_OFFSET, Envelope, LayerHeader, LayerSpec};
pub use presence::Presence;
pub use registry::LayerRegistry;
pub use reheader::reheader;

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

/// An open layer. Its data key lives in the secret arena from here to drop. Shared by threads;
/// overlapping writes are the caller's to order.
#[derive(Debug)]
pub struct Layer<S: State> {
    storage: Arc<dyn Storage>,
    header: LayerHeader,
    codec: Codec,
    state: PhantomData<S>,
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
        let codec = Codec::new(&header.spec, key.as_ref())?;
        // Wiped here: from now on the key is only in the cipher's schedules.
        drop(key);
        Ok(Self { storage, header, codec, state: PhantomData })
    }

    /// What the layer says of itself.
    pub const fn header(&self) -> &LayerHeader {
        &self.header
    }

    /// Bytes of the disk, as clients see it; the header is not among them.
    pub const fn size(&self) -> ByteCount {
        self.header.spec.size
    }

    /// Bytes of one data unit.
    pub const fn unit_size(&self) -> DataUnitSize {
        self.header.spec.unit
    }

    /// What the storage below can do.
    pub fn capabilities(&self) -> Capabilities {
        self.storage.capabilities()
    }
}

impl Layer<Writable> {
    /// Ends writing for good. What was written is not flushed by this.
    pub fn freeze(self) -> Layer<Frozen> {
        let Self { storage, header, codec, .. } = self;
        Layer { storage, header, codec, state: PhantomData }
    }
}

#[cfg(test)]
mod tests;
