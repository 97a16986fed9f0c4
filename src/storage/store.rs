//! Where layers are kept: makes, opens, removes them by name.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::direct::DirectStorage;
use super::file::FileStorage;
use super::{Storage, StorageError};

/// Whether the operating system keeps what was read and written in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCache {
    /// It does; a flush writes it out.
    Used,
    /// Every read and write waits for the device (`O_DIRECT`).
    Bypassed,
}

/// A place that holds layers. Each name is given out once and never used again.
pub trait LayerStore: Send + Sync + fmt::Debug {
    /// A new empty layer, locked for its writer. It may be gone after a crash until
    /// [`LayerStore::sync_names`] returns.
    fn create(&self, name: &str) -> Result<Arc<dyn Storage>, StorageError>;

    /// An existing layer for its one writer. `epoch` is larger than any given before for this
    /// layer; an engine that fences lets no older one write from now on.
    fn open_writer(
        &self,
        name: &str,
        epoch: u64,
        cache: PageCache,
    ) -> Result<Arc<dyn Storage>, StorageError>;

    /// An existing layer that is frozen: to read, to fill what is absent in it, to rewrite its
    /// header. Any number at a time; who fills is the caller's to order.
    fn open_frozen(&self, name: &str) -> Result<Arc<dyn Storage>, StorageError>;

    /// An existing layer to read.
    fn open_reader(&self, name: &str) -> Result<Arc<dyn Storage>, StorageError>;

    /// Removes a layer for good. One that is not there is no error: a removal is repeated after a
    /// crash.
    fn remove(&self, name: &str) -> Result<(), StorageError>;

    /// Makes every creation and removal so far survive power loss.
    fn sync_names(&self) -> Result<(), StorageError>;

    /// Where the layer of this name lies, to show to a person.
    fn locate(&self, name: &str) -> PathBuf;
}

/// Layers as files in one folder.
#[derive(Debug)]
pub struct FileStore {
    folder: PathBuf,
}

impl FileStore {
    /// The layers in `folder`, which must exist.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }
}

impl LayerStore for FileStore {
    fn create(&self, name: &str) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(Arc::new(FileStorage::create(&self.locate(name))?))
    }

    /// The lock of the host fences here; the epoch is the catalog's to compare.
    fn open_writer(
        &self,
        name: &str,
        _epoch: u64,
        cache: PageCache,
    ) -> Result<Arc<dyn Storage>, StorageError> {
        let path = self.locate(name);
        Ok(match cache {
            PageCache::Used => Arc::new(FileStorage::open_writer(&path)?),
            PageCache::Bypassed => Arc::new(DirectStorage::open_writer(&path)?),
        })
    }

    fn open_frozen(&self, name: &str) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(Arc::new(FileStorage::open_frozen(&self.locate(name))?))
    }

    fn open_reader(&self, name: &str) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(Arc::new(FileStorage::open_reader(&self.locate(name))?))
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        match std::fs::remove_file(self.locate(name)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            outcome => Ok(outcome?),
        }
    }

    fn sync_names(&self) -> Result<(), StorageError> {
        Ok(File::open(&self.folder)?.sync_all()?)
    }

    fn locate(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}
