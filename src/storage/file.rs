//! A layer in an ordinary file: pread, pwrite, fdatasync, holes.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use super::lock::lock_exclusive;
use super::mapping::Mapping;
use super::{Capabilities, Durability, Extent, Fencing, Storage, StorageError, View};
use crate::units::{ByteCount, ByteOffset};

/// Bytes written at a time where a file system cannot punch holes.
const ZEROES_BYTES: usize = 1 << 20;

/// Bytes written by one call. ext4 and xfs keep what one call wrote in one large folio of the page
/// cache, and every later small write into it walks over all of the folio's blocks: 33 µs for 4 KiB
/// in a folio of 1 MiB, 5.5 µs in one of 64 KiB (Linux 6.18). The extra calls cost large writes
/// little.
const WRITE_BYTES: usize = 64 << 10;

/// A file, open for one writer or for readers.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    /// The file system knows `RWF_NOWAIT`; cleared for good at the first refusal.
    can_read_cached: AtomicBool,
    /// The file system can punch holes; cleared for good at the first refusal.
    can_punch: AtomicBool,
    mapping: Mapping,
}

impl FileStorage {
    /// Makes a new empty file, readable by its owner alone, and locks it.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one: a layer is never overwritten.
    pub fn create(path: &Path) -> Result<Self, StorageError> {
        let file = open_options().write(true).create_new(true).mode(0o600).open(path)?;
        lock_exclusive(&file)?;
        Ok(Self::over(file))
    }

    /// Opens an existing file for its one writer.
    ///
    /// # Errors
    /// [`StorageError::Locked`] if there is a writer already, here or in another process.
    pub fn open_writer(path: &Path) -> Result<Self, StorageError> {
        let file = open_options().write(true).open(path)?;
        lock_exclusive(&file)?;
        Ok(Self::over(file))
    }

    /// Opens an existing file to read, beside whoever writes it.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open_reader(path: &Path) -> Result<Self, StorageError> {
        Ok(Self::over(open_options().open(path)?))
    }

    /// Opens an existing file that nobody overwrites: to read, and to add to what is absent in it.
    /// Where it cannot be written, to read only. Takes no lock.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open_frozen(path: &Path) -> Result<Self, StorageError> {
        use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        match open_options().write(true).open(path) {
            Err(error) if matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem) => {
                Self::open_reader(path)
            }
            opened => Ok(Self::over(opened?)),
        }
    }

    pub(super) fn over(file: File) -> Self {
        Self {
            file,
            can_read_cached: AtomicBool::new(true),
            can_punch: AtomicBool::new(true),
            mapping: Mapping::default(),
        }
    }

    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// Makes `range` a hole; `false` if the file system cannot.
    pub(super) fn try_punch(&self, range: &Range<ByteOffset>) -> Result<bool, StorageError> {
        if range.is_empty() {
            return Ok(true);
        }
        if !self.can_punch.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let count = range.end.since(range.start);
        loop {
            match rustix::fs::fallocate(&self.file, flags, range.start.get(), count.get()) {
                Ok(()) => {
                    self.mapping.forget(range);
                    return Ok(true);
                }
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.can_punch.store(false, Ordering::Relaxed);
        Ok(false)
    }

    fn write_zeroes(&self, range: Range<ByteOffset>) -> Result<(), StorageError> {
        let zeroes = vec![0; ZEROES_BYTES];
        let mut at = range.start;
        while at < range.end {
            let count = range.end.since(at).as_usize().min(ZEROES_BYTES);
            self.write_at(at, &zeroes[..count], Durability::Volatile)?;
            at = at.plus(ByteCount::new(count as u64));
        }
        Ok(())
    }
}

fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // A link in place of a layer is never followed: it could lead a root daemon anywhere.
    options.read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options
}

impl Storage for FileStorage {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            punch_is_fast: self.can_punch.load(Ordering::Relaxed),
            ack_is_durable: false,
            writes_wait: false,
            fencing: Fencing::Host,
        }
    }

    fn len(&self) -> Result<ByteCount, StorageError> {
        Ok(ByteCount::new(self.file.metadata()?.len()))
    }

    fn read_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), StorageError> {
        read_fully(at, into, |position, rest| Ok(rustix::io::pread(&self.file, rest, position)?))
    }

    fn read_cached_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<bool, StorageError> {
        if !self.can_read_cached.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let wanted = into.len();
        let mut slices = [IoSliceMut::new(into)];
        match rustix::io::preadv2(&self.file, &mut slices, at.get(), ReadWriteFlags::NOWAIT) {
            Ok(count) => Ok(count == wanted),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.can_read_cached.store(false, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn view(&self, range: &Range<ByteOffset>, request: ByteCount) -> Option<View> {
        self.mapping.view(&self.file, range, request)
    }

    fn write_at(
        &self,
        at: ByteOffset,
        from: &[u8],
        durability: Durability,
    ) -> Result<(), StorageError> {
        let flags = write_flags(durability);
        write_fully(at, from, |position, rest| {
            let slices = [IoSlice::new(&rest[..rest.len().min(WRITE_BYTES)])];
            Ok(rustix::io::pwritev2(&self.file, &slices, position, flags)?)
        })
    }

    fn flush(&self) -> Result<(), StorageError> {
        loop {
            match rustix::fs::fdatasync(&self.file) {
                Err(Errno::INTR) => {}
                outcome => return Ok(outcome?),
            }
        }
    }

    fn punch(&self, range: Range<ByteOffset>) -> Result<(), StorageError> {
        if self.try_punch(&range)? {
            return Ok(());
        }
        self.write_zeroes(range)
    }

    fn extents(&self, range: Range<ByteOffset>, limit: usize) -> Result<Vec<Extent>, StorageError> {
        let mut extents = Vec::new();
        let mut at = range.start.get();
        let end = range.end.get();
        while at < end && extents.len() < limit.max(1) {
            let data = next(&self.file, SeekFrom::Data(at), end)?;
            let (until, is_data) = if data > at {
                (data, false)
            } else {
                (next(&self.file, SeekFrom::Hole(at), end)?.max(at + 1), true)
            };
            let (start, len) = (ByteOffset::new(at), ByteCount::new(until - at));
            extents.push(Extent { start, len, is_data });
            at = until;
        }
        Ok(extents)
    }

    fn set_len(&self, len: ByteCount) -> Result<(), StorageError> {
        Ok(self.file.set_len(len.get())?)
    }
}

/// What a write that must be durable asks of the kernel.
pub(super) fn write_flags(durability: Durability) -> ReadWriteFlags {
    match durability {
        Durability::Volatile => ReadWriteFlags::empty(),
        Durability::Durable => ReadWriteFlags::DSYNC,
    }
}

/// Where the next data or hole begins, `end` at the latest.
fn next(file: &File, from: SeekFrom, end: u64) -> Result<u64, StorageError> {
    match rustix::fs::seek(file, from) {
        Ok(position) => Ok(position.min(end)),
        // Past the last data, or past the end of the file.
        Err(Errno::NXIO) => Ok(end),
        Err(error) => Err(error.into()),
    }
}

/// Repeats a read that was interrupted or cut short; the end of the file is
/// [`StorageError::Short`].
fn read_fully(
    at: ByteOffset,
    into: &mut [u8],
    mut read: impl FnMut(u64, &mut [u8]) -> std::io::Result<usize>,
) -> Result<(), StorageError> {
    move_fully(at, into.len(), |position, done| read(position, &mut into[done..]))
}

/// Repeats a write that was interrupted or cut short; one that makes no progress is
/// [`StorageError::Short`].
fn write_fully(
    at: ByteOffset,
    from: &[u8],
    mut write: impl FnMut(u64, &[u8]) -> std::io::Result<usize>,
) -> Result<(), StorageError> {
    move_fully(at, from.len(), |position, done| write(position, &from[done..]))
}

/// Calls `step` with the position in the file and the bytes done until all `len` are.
fn move_fully(
    at: ByteOffset,
    len: usize,
    mut step: impl FnMut(u64, usize) -> std::io::Result<usize>,
) -> Result<(), StorageError> {
    let mut done = 0;
    while done < len {
        let position = at.get() + done as u64;
        match step(position, done) {
            Ok(0) => {
                let missing = ByteCount::new((len - done) as u64);
                return Err(StorageError::Short { at: ByteOffset::new(position), missing });
            }
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, FileStorage) {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let storage = FileStorage::create(&folder.path().join("layer")).expect("a new file");
        storage.set_len(ByteCount::new(1 << 20)).expect("a length");
        (folder, storage)
    }

    fn at(bytes: u64) -> ByteOffset {
        ByteOffset::new(bytes)
    }

    #[test]
    fn reads_back_what_was_written_and_zeros_elsewhere() {
        let (_folder, storage) = scratch();
        storage.write_at(at(5000), b"sealed", Durability::Durable).expect("a write");
        let mut read = [9; 10];
        storage.read_at(at(4998), &mut read).expect("a read");
        assert_eq!(&read, b"\0\0sealed\0\0");
    }

    #[test]
    fn a_read_past_the_end_is_short_not_a_success() {
        let (_folder, storage) = scratch();
        let error = storage.read_at(at((1 << 20) - 2), &mut [0; 5]).expect_err("short");
        assert!(matches!(error, StorageError::Short { missing, .. } if missing.get() == 3));
    }

    #[test]
    fn interrupted_and_partial_calls_go_on_and_stuck_ones_end() {
        let mut script = vec![
            Ok(2),
            Err(std::io::Error::from(ErrorKind::Interrupted)),
            Ok(1),
            Err(std::io::Error::other("gone")),
        ];
        script.reverse();
        let mut seen = Vec::new();
        let outcome = write_fully(at(10), b"abcdef", |position, rest| {
            seen.push((position, rest.len()));
            script.pop().expect("a scripted answer")
        });
        assert!(matches!(outcome, Err(StorageError::Io(_))));
        assert_eq!(seen, [(10, 6), (12, 4), (12, 4), (13, 3)]);
        let stuck = write_fully(at(0), b"x", |_, _| Ok(0));
        assert!(matches!(stuck, Err(StorageError::Short { .. })));
        let ended = read_fully(at(0), &mut [0; 4], |_, rest| Ok(rest.len().min(4) % 4));
        assert!(matches!(ended, Err(StorageError::Short { .. })));
    }

    #[test]
    fn a_second_writer_is_refused_until_the_first_is_gone() {
        let (folder, storage) = scratch();
        let path = folder.path().join("layer");
        assert!(matches!(FileStorage::open_writer(&path), Err(StorageError::Locked)));
        FileStorage::open_reader(&path).expect("readers may");
        drop(storage);
        FileStorage::open_writer(&path).expect("now free");
    }

    #[test]
    fn punching_makes_a_hole_that_extents_shows() {
        let (_folder, storage) = scratch();
        storage.write_at(at(0), &[7; 65536], Durability::Volatile).expect("a write");
        storage.punch(at(8192)..at(32768)).expect("a hole");
        let extents = storage.extents(at(0)..at(65536), 10).expect("extents");
        let shape: Vec<_> =
            extents.iter().map(|e| (e.start.get(), e.len.get(), e.is_data)).collect();
        assert_eq!(shape, [(0, 8192, true), (8192, 24576, false), (32768, 32768, true)]);
        let mut read = [1; 4096];
        storage.read_at(at(8192), &mut read).expect("a read");
        assert_eq!(read, [0; 4096]);
    }

    #[test]
    fn where_holes_cannot_be_punched_zeros_are_written() {
        let (_folder, storage) = scratch();
        storage.can_punch.store(false, Ordering::Relaxed);
        storage.write_at(at(0), &[7; 8192], Durability::Volatile).expect("a write");
        storage.punch(at(100)..at(8000)).expect("zeros");
        let mut read = [1; 8192];
        storage.read_at(at(0), &mut read).expect("a read");
        assert!(read[100..8000].iter().all(|byte| *byte == 0));
        assert_eq!((read[99], read[8000]), (7, 7));
    }

    #[test]
    fn a_link_is_not_followed_and_a_file_is_private_and_never_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let (folder, _storage) = scratch();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("layer"), &link).expect("a link");
        assert!(FileStorage::open_reader(&link).is_err());
        assert!(FileStorage::create(&folder.path().join("layer")).is_err());
        let mode = std::fs::metadata(folder.path().join("layer")).expect("metadata").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }
}
