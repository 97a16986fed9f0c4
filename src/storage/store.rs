//! Where layers are kept: makes, opens, removes them by name.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::direct::DirectStorage;
use super::file::FileStorage;
use super::{Storage, StorageError};
use crate::units::{ByteCount, SECTOR_BYTES};

/// Whether the operating system keeps what was read and written in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCache {
    /// It does; a flush writes it out.
    Used,
    /// Every read and write waits for the device (`O_DIRECT`).
    Bypassed,
}

/// A layer as the place holds it, whoever put it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// How long it is.
    pub length: ByteCount,
    /// What it takes; less than its length where there are holes.
    pub allocated: ByteCount,
}

/// Room of the place, shared with whatever else is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// What we may still use.
    pub free: ByteCount,
    /// All of it.
    pub total: ByteCount,
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

    /// An existing layer to read, to fill where something is absent, to rewrite its header: any
    /// number at a time, beside its one writer, who touches data alone. The caller orders those
    /// who change the same place.
    fn open_frozen(&self, name: &str) -> Result<Arc<dyn Storage>, StorageError>;

    /// An existing layer to read.
    fn open_reader(&self, name: &str) -> Result<Arc<dyn Storage>, StorageError>;

    /// Removes a layer for good. One that is not there is no error: a removal is repeated after a
    /// crash.
    fn remove(&self, name: &str) -> Result<(), StorageError>;

    /// Makes every creation and removal so far survive power loss.
    fn sync_names(&self) -> Result<(), StorageError>;

    /// Every layer there is, by name, and whatever else was put among them.
    fn list(&self) -> Result<Vec<Stored>, StorageError>;

    /// How much room there is.
    fn room(&self) -> Result<Room, StorageError>;

    /// The folder where files that shall become layers are put, each in a folder of its own there.
    fn incoming(&self) -> PathBuf;

    /// Makes a layer of the file at `from`, which is in [`LayerStore::incoming`]. It may be back
    /// there after a crash until [`LayerStore::sync_names`] returns. Nothing is replaced.
    fn adopt(&self, from: &Path, name: &str) -> Result<(), StorageError>;

    /// Where the layer of this name lies, to show to a person.
    fn locate(&self, name: &str) -> PathBuf;
}

/// Name of the folder for files that are no layers yet.
const INCOMING: &str = ".incoming";

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

    fn list(&self) -> Result<Vec<Stored>, StorageError> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name() == INCOMING {
                continue;
            }
            // Links are not followed here either, and a file that went meanwhile is none.
            let Ok(metadata) = entry.metadata() else { continue };
            found.push(Stored {
                name: entry.file_name().to_string_lossy().into_owned(),
                length: ByteCount::new(metadata.len()),
                allocated: ByteCount::new(metadata.blocks() * SECTOR_BYTES),
            });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn room(&self) -> Result<Room, StorageError> {
        let found = rustix::fs::statvfs(&self.folder)?;
        let bytes = |blocks: u64| ByteCount::new(blocks.saturating_mul(found.f_frsize));
        Ok(Room { free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
    }

    fn incoming(&self) -> PathBuf {
        // Within the folder, so that they are on one file system.
        self.folder.join(INCOMING)
    }

    fn adopt(&self, from: &Path, name: &str) -> Result<(), StorageError> {
        File::open(from)?.sync_all()?;
        Ok(std::fs::hard_link(from, self.locate(name))?)
    }

    fn locate(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}
