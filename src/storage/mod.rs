//! Where the bytes of a layer lie: one interface, several engines.
//!
//! An engine knows nothing of keys, headers or disks. It promises: a call that returns `Ok` did all
//! of what was asked (short I/O is an error, never a success); after [`Storage::flush`] returns
//! `Ok`, everything written before the call survives power loss; buffers belong to the operation
//! until it returns.

use std::fmt;
use std::ops::Range;

use crate::units::{ByteCount, ByteOffset};

pub mod buffer;
pub mod direct;
pub mod faulty;
pub mod file;
mod lock;
mod mapping;
pub mod memory;
mod region;
mod sigbus;
mod slab;
pub mod store;
mod window;

pub use mapping::View;
pub use sigbus::guard_mappings;
pub use window::prefetch;

/// A run of bytes in a file: does the engine hold anything there?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where the run starts.
    pub start: ByteOffset,
    /// How long it is; never zero.
    pub len: ByteCount,
    /// `false`: a hole, which reads as zeros and takes no space.
    pub is_data: bool,
}

/// What an engine can do and promises, so that nobody above has to guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Making a hole takes constant time and gives its space back.
    pub punch_is_fast: bool,
    /// A write is on stable storage when it returns; flush is a formality.
    pub ack_is_durable: bool,
    /// A write waits for the device even when it need not be durable: there is no cache to take it.
    pub writes_wait: bool,
    /// Who is kept from writing beside us.
    pub fencing: Fencing,
}

/// How far the lock on a layer reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fencing {
    /// Nobody is kept out (memory, tests).
    None,
    /// Other processes on this host.
    Host,
    /// Every host that shares the storage.
    Cluster,
}

/// Why an engine could not do what was asked.
#[derive(Debug)]
pub enum StorageError {
    /// The operating system refused or failed.
    Io(std::io::Error),
    /// The engine moved fewer bytes than asked, at this position.
    Short {
        /// Where the missing bytes start.
        at: ByteOffset,
        /// How many are missing.
        missing: ByteCount,
    },
    /// The file system has no direct I/O (`O_DIRECT`), or wants an alignment beyond ours.
    NoDirectIo,
    /// Somebody else holds the layer open for writing.
    Locked,
    /// A newer epoch has taken the layer over. Terminal: never retried, never reopened.
    Fenced,
}

impl StorageError {
    /// Whether the device, file system or quota is full.
    pub fn is_out_of_space(&self) -> bool {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(self, Self::Io(error)
            if matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge))
    }

    /// Whether there is no layer of the name.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == std::io::ErrorKind::NotFound)
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) if error.kind() == std::io::ErrorKind::FileTooLarge => write!(
                f,
                "storage: {error}: the file system has no files as large (ext4 with blocks of \
                 4 KiB: 16 TiB), or the daemon may not write such (RLIMIT_FSIZE): make the disk \
                 smaller, or keep the data directory on XFS"
            ),
            Self::Io(error) => write!(f, "storage: {error}"),
            Self::Short { at, missing } => {
                write!(
                    f,
                    "storage: {missing} missing at {at}: the file is shorter than its header says"
                )
            }
            Self::NoDirectIo => f.write_str(
                "storage: the file system has no direct I/O: give the disk the cache mode \
                 writeback, or keep the data directory on ext4, XFS or another that has it",
            ),
            Self::Locked => f.write_str("storage: the layer is open in another process"),
            Self::Fenced => f.write_str("storage: fenced by a newer owner of the layer"),
        }
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<std::io::Error> for StorageError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustix::io::Errno> for StorageError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Whether a write must be on stable storage before it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The next flush makes it so.
    Volatile,
    /// Before the call returns (FUA).
    Durable,
}

/// One layer's bytes. Calls may block and may come from several threads at once; overlapping
/// writes are the caller's to order.
#[expect(clippy::len_without_is_empty, reason = "a layer is never empty; there is no use for it")]
pub trait Storage: Send + Sync + fmt::Debug {
    /// What this engine can do.
    fn capabilities(&self) -> Capabilities;

    /// The length of the file.
    fn len(&self) -> Result<ByteCount, StorageError>;

    /// Fills `into` from `at`. Past the end: [`StorageError::Short`].
    fn read_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), StorageError>;

    /// As [`Storage::read_at`], but only if it can be done without waiting for a device.
    /// `Ok(false)`: not now, `into` is undefined; call `read_at` where waiting is allowed.
    fn read_cached_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<bool, StorageError>;

    /// What of `range` lies in memory already, if the engine can show it without waiting and
    /// without copying. It is a part of a request of `request` bytes: a small one is not worth it.
    /// The caller keeps writers away from what it looks at as for a read.
    fn view(&self, range: &Range<ByteOffset>, request: ByteCount) -> Option<View> {
        let _ = (range, request);
        None
    }

    /// Writes all of `from` at `at`.
    fn write_at(
        &self,
        at: ByteOffset,
        from: &[u8],
        durability: Durability,
    ) -> Result<(), StorageError>;

    /// Makes everything written so far survive power loss.
    fn flush(&self) -> Result<(), StorageError>;

    /// Makes `range` read as zeros, as a hole where the engine can.
    fn punch(&self, range: Range<ByteOffset>) -> Result<(), StorageError>;

    /// What lies in `range`, in order and without gaps, at most `limit` runs (at least one). The
    /// answer may end before `range` does when the limit is reached.
    fn extents(&self, range: Range<ByteOffset>, limit: usize) -> Result<Vec<Extent>, StorageError>;

    /// Makes the file `len` long; new bytes read as zeros.
    fn set_len(&self, len: ByteCount) -> Result<(), StorageError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_larger_than_the_file_system_allows_is_explained() {
        let error = StorageError::from(std::io::Error::from_raw_os_error(libc::EFBIG));
        assert!(error.is_out_of_space());
        let message = error.to_string();
        assert!(
            message.contains("16 TiB") && message.contains("make the disk smaller"),
            "{message}"
        );
    }
}
