//! A layer in memory: for tests, and the picture of what storage means.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Capabilities, Durability, Extent, Fencing, Storage, StorageError};
use crate::units::{ByteCount, ByteOffset};

/// Grain in which an all-zero run counts as a hole, in bytes: a page, as in a file system.
const HOLE_BYTES: usize = 4096;

/// Bytes in a vector.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    bytes: Mutex<Vec<u8>>,
}

impl MemoryStorage {
    /// A storage that holds `bytes`.
    pub fn holding(bytes: Vec<u8>) -> Self {
        Self { bytes: Mutex::new(bytes) }
    }

    /// A copy of all bytes.
    pub fn contents(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for MemoryStorage {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            punch_is_fast: true,
            ack_is_durable: true,
            writes_wait: false,
            fencing: Fencing::None,
        }
    }

    fn len(&self) -> Result<ByteCount, StorageError> {
        Ok(ByteCount::of(&self.lock()))
    }

    fn read_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), StorageError> {
        let bytes = self.lock();
        let start = usize::try_from(at.get()).unwrap_or(usize::MAX).min(bytes.len());
        let count = into.len().min(bytes.len() - start);
        into[..count].copy_from_slice(&bytes[start..start + count]);
        if count == into.len() {
            return Ok(());
        }
        let missing = ByteCount::new((into.len() - count) as u64);
        Err(StorageError::Short { at: ByteOffset::new((start + count) as u64), missing })
    }

    fn read_cached_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<bool, StorageError> {
        self.read_at(at, into).map(|()| true)
    }

    fn write_at(
        &self,
        at: ByteOffset,
        from: &[u8],
        _durability: Durability,
    ) -> Result<(), StorageError> {
        let mut bytes = self.lock();
        let start = at.get() as usize;
        let end = start + from.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(from);
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn punch(&self, range: Range<ByteOffset>) -> Result<(), StorageError> {
        let mut bytes = self.lock();
        let end = (range.end.get() as usize).min(bytes.len());
        let start = (range.start.get() as usize).min(end);
        bytes[start..end].fill(0);
        Ok(())
    }

    fn extents(&self, range: Range<ByteOffset>, limit: usize) -> Result<Vec<Extent>, StorageError> {
        let bytes = self.lock();
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = range.start.get() as usize;
        let end = range.end.get() as usize;
        while at < end {
            let until = (at / HOLE_BYTES * HOLE_BYTES + HOLE_BYTES).min(end);
            let held = &bytes[at.min(bytes.len())..until.min(bytes.len())];
            let is_data = held.iter().any(|byte| *byte != 0);
            let len = ByteCount::new((until - at) as u64);
            let is_full = extents.len() >= limit.max(1);
            match extents.last_mut() {
                Some(last) if last.is_data == is_data => {
                    last.len = ByteCount::new(last.len.get() + len.get());
                }
                _ if is_full => break,
                _ => extents.push(Extent { start: ByteOffset::new(at as u64), len, is_data }),
            }
            at = until;
        }
        Ok(extents)
    }

    fn set_len(&self, len: ByteCount) -> Result<(), StorageError> {
        self.lock().resize(len.as_usize(), 0);
        Ok(())
    }
}
