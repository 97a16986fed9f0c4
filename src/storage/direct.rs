//! A layer in an ordinary file past the page cache: `O_DIRECT`.
//!
//! Every read and write moves blocks between the device and the caller's memory. Request buffers
//! are page-aligned and requests whole data units, so they go straight; anything else (a header in
//! a vector, the edge of a 512-byte unit) takes the way round through an aligned bounce buffer. No
//! call goes through the page cache, so there is nothing to keep coherent.

use std::fs::File;
use std::io::IoSlice;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Advice, AtFlags, OFlags, StatxFlags};
use rustix::io::Errno;

use super::file::{FileStorage, write_flags};
use super::lock::lock_exclusive;
use super::{Capabilities, Durability, Extent, Storage, StorageError};
use crate::units::{ByteCount, ByteOffset};

/// Alignment where the kernel does not tell (`STATX_DIOALIGN` is younger than Linux 6.1, and not
/// every file system answers): the page, which suffices everywhere.
const ALIGNMENT_DEFAULT: usize = 4096;

/// Largest alignment that is worked with. A file system that wants more is refused.
const ALIGNMENT_MAX: usize = 64 << 10;

/// Bytes that take the way round at a time.
const BOUNCE_BYTES: usize = 1 << 20;

/// What the file system asks of direct I/O, in bytes; powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Alignment {
    /// Of buffers in memory.
    memory: usize,
    /// Of positions and lengths.
    block: usize,
}

/// A file opened with `O_DIRECT` for its one writer.
#[derive(Debug)]
pub struct DirectStorage {
    /// Over the same descriptor; for what moves no data, and for making holes.
    plain: FileStorage,
    alignment: Alignment,
    /// Held while a part of a block is read, changed and written back: another part of the same
    /// block may be another caller's.
    part_of_block: Mutex<()>,
}

/// Memory that starts at a multiple of [`Alignment::memory`].
struct Bounce {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Bounce {
    fn new(len: usize, alignment: usize) -> Self {
        let bytes = vec![0; len + alignment];
        let start = bytes.as_ptr().align_offset(alignment);
        Self { bytes, start, len }
    }

    fn first(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + len.min(self.len)]
    }
}

impl DirectStorage {
    /// Opens an existing file for its one writer. What an earlier owner left in the page cache is
    /// written out and given back.
    ///
    /// # Errors
    /// [`StorageError::NoDirectIo`] if the file system refuses; [`StorageError::Locked`] if there
    /// is a writer already, here or in another process.
    pub fn open_writer(path: &Path) -> Result<Self, StorageError> {
        let mut options = std::fs::OpenOptions::new();
        // A link in place of a layer is never followed: it could lead a root daemon anywhere.
        let flags = (OFlags::NOFOLLOW | OFlags::DIRECT).bits() as i32;
        let file = options.read(true).write(true).custom_flags(flags).open(path);
        let file = file.map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => StorageError::NoDirectIo,
            _ => StorageError::Io(error),
        })?;
        lock_exclusive(&file)?;
        let alignment = alignment_of(&file)?;
        // Clean pages alone can be given back; where that fails they stay, which costs memory only.
        rustix::fs::fdatasync(&file)?;
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        let plain = FileStorage::over(file);
        Ok(Self { plain, alignment, part_of_block: Mutex::new(()) })
    }

    const fn file(&self) -> &File {
        self.plain.file()
    }

    fn is_straight(&self, at: ByteOffset, bytes: &[u8]) -> bool {
        let Alignment { memory, block } = self.alignment;
        at.get().is_multiple_of(block as u64)
            && bytes.len().is_multiple_of(block)
            && bytes.as_ptr().addr().is_multiple_of(memory)
    }

    /// The blocks that cover as much of `len` bytes from `at` as one bounce buffer holds: where
    /// they start, their length, and how many of the bytes are in them, from which place on.
    fn cover(&self, at: ByteOffset, len: usize) -> Cover {
        let block = self.alignment.block;
        let lead = (at.get() % block as u64) as usize;
        let taken = len.min(BOUNCE_BYTES - lead);
        let start = ByteOffset::new(at.get() - lead as u64);
        Cover { start, len: (lead + taken).next_multiple_of(block), payload: lead..lead + taken }
    }

    /// Fills aligned `into` from `at` up to the end of the file; how many bytes there were.
    fn read_blocks(&self, at: ByteOffset, into: &mut [u8]) -> Result<usize, StorageError> {
        let mut done = 0;
        while done < into.len() {
            let position = at.get() + done as u64;
            match rustix::io::pread(self.file(), &mut into[done..], position) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(count) => {
                    done += count;
                    // Part of a block is read only at the end of the file, and going on from
                    // there would be refused as misaligned.
                    if count == 0 || !count.is_multiple_of(self.alignment.block) {
                        break;
                    }
                }
            }
        }
        Ok(done)
    }

    fn write_blocks(
        &self,
        at: ByteOffset,
        from: &[u8],
        durability: Durability,
    ) -> Result<(), StorageError> {
        let flags = write_flags(durability);
        let mut done = 0;
        while done < from.len() {
            let position = at.get() + done as u64;
            let slices = [IoSlice::new(&from[done..])];
            match rustix::io::pwritev2(self.file(), &slices, position, flags) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                // A device that stops inside a block cannot be asked for the rest of it.
                Ok(count) if count == 0 || !count.is_multiple_of(self.alignment.block) => {
                    return Err(short(at, done + count, from.len()));
                }
                Ok(count) => done += count,
            }
        }
        Ok(())
    }

    fn write_around(
        &self,
        at: ByteOffset,
        from: &[u8],
        durability: Durability,
    ) -> Result<(), StorageError> {
        let mut bounce = self.bounce(from.len());
        let mut done = 0;
        while done < from.len() {
            let position = at.plus(ByteCount::new(done as u64));
            let Cover { start, len, payload } = self.cover(position, from.len() - done);
            let part = &from[done..done + payload.len()];
            let blocks = bounce.first(len);
            if payload.len() == len {
                blocks.copy_from_slice(part);
                self.write_blocks(start, blocks, durability)?;
            } else {
                let guard = self.part_of_block.lock().unwrap_or_else(PoisonError::into_inner);
                let held = self.read_blocks(start, blocks)?;
                blocks[held..].fill(0);
                blocks[payload.clone()].copy_from_slice(part);
                self.write_blocks(start, blocks, durability)?;
                if held.max(payload.end) < len {
                    // The last block reaches past the end of the file, which does not move.
                    let end = start.get() + held.max(payload.end) as u64;
                    self.plain.set_len(ByteCount::new(end))?;
                }
                drop(guard);
            }
            done += payload.len();
        }
        Ok(())
    }

    fn write_zeroes(&self, range: Range<ByteOffset>) -> Result<(), StorageError> {
        let mut zeroes = Bounce::new(BOUNCE_BYTES, self.alignment.memory.max(ALIGNMENT_DEFAULT));
        let mut at = range.start;
        while at < range.end {
            let count = range.end.since(at).as_usize().min(BOUNCE_BYTES);
            self.write_at(at, zeroes.first(count), Durability::Volatile)?;
            at = at.plus(ByteCount::new(count as u64));
        }
        Ok(())
    }

    fn bounce(&self, len: usize) -> Bounce {
        let block = self.alignment.block;
        let room = (len + 2 * block).next_multiple_of(block).min(BOUNCE_BYTES);
        Bounce::new(room, self.alignment.memory.max(ALIGNMENT_DEFAULT))
    }
}

/// Some whole blocks, and which bytes in them are meant.
struct Cover {
    start: ByteOffset,
    len: usize,
    payload: Range<usize>,
}

fn short(at: ByteOffset, done: usize, wanted: usize) -> StorageError {
    let missing = ByteCount::new((wanted - done) as u64);
    StorageError::Short { at: at.plus(ByteCount::new(done as u64)), missing }
}

/// What direct I/O on `file` must be aligned to.
fn alignment_of(file: &File) -> Result<Alignment, StorageError> {
    let default = Alignment { memory: ALIGNMENT_DEFAULT, block: ALIGNMENT_DEFAULT };
    match rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        // A kernel or a sandbox without statx.
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => Ok(default),
        Err(error) => Err(error.into()),
        Ok(told) if told.stx_mask & StatxFlags::DIOALIGN.bits() == 0 => Ok(default),
        Ok(told) => interpret(told.stx_dio_mem_align, told.stx_dio_offset_align),
    }
}

/// Zero is how the kernel says that a file has no direct I/O.
fn interpret(memory: u32, block: u32) -> Result<Alignment, StorageError> {
    let usable = |bytes: u32| bytes.is_power_of_two() && bytes as usize <= ALIGNMENT_MAX;
    if !usable(memory) || !usable(block) {
        return Err(StorageError::NoDirectIo);
    }
    Ok(Alignment { memory: memory as usize, block: block as usize })
}

impl Storage for DirectStorage {
    fn capabilities(&self) -> Capabilities {
        Capabilities { writes_wait: true, ..self.plain.capabilities() }
    }

    fn len(&self) -> Result<ByteCount, StorageError> {
        self.plain.len()
    }

    fn read_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), StorageError> {
        let wanted = into.len();
        if self.is_straight(at, into) {
            let count = self.read_blocks(at, into)?;
            return if count == wanted { Ok(()) } else { Err(short(at, count, wanted)) };
        }
        let mut bounce = self.bounce(wanted);
        let mut done = 0;
        while done < wanted {
            let position = at.plus(ByteCount::new(done as u64));
            let Cover { start, len, payload } = self.cover(position, wanted - done);
            let blocks = bounce.first(len);
            let held = self.read_blocks(start, blocks)?.min(payload.end).max(payload.start);
            let count = held - payload.start;
            into[done..done + count].copy_from_slice(&blocks[payload.start..held]);
            done += count;
            if held < payload.end {
                return Err(short(at, done, wanted));
            }
        }
        Ok(())
    }

    /// Never: every read waits for the device.
    fn read_cached_at(&self, _at: ByteOffset, _into: &mut [u8]) -> Result<bool, StorageError> {
        Ok(false)
    }

    fn write_at(
        &self,
        at: ByteOffset,
        from: &[u8],
        durability: Durability,
    ) -> Result<(), StorageError> {
        if self.is_straight(at, from) {
            return self.write_blocks(at, from, durability);
        }
        self.write_around(at, from, durability)
    }

    /// The device has the data, but its own cache and the file system's journal may still hold
    /// back what makes it last.
    fn flush(&self) -> Result<(), StorageError> {
        self.plain.flush()
    }

    fn punch(&self, range: Range<ByteOffset>) -> Result<(), StorageError> {
        if self.plain.try_punch(&range)? {
            return Ok(());
        }
        self.write_zeroes(range)
    }

    fn extents(&self, range: Range<ByteOffset>, limit: usize) -> Result<Vec<Extent>, StorageError> {
        self.plain.extents(range, limit)
    }

    fn set_len(&self, len: ByteCount) -> Result<(), StorageError> {
        self.plain.set_len(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer on a real file system: a temporary folder in memory may do without a device.
    fn scratch(len: u64) -> (tempfile::TempDir, DirectStorage) {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("layer");
        FileStorage::create(&path).and_then(|f| f.set_len(ByteCount::new(len))).expect("a file");
        let storage = DirectStorage::open_writer(&path).expect("direct I/O in the scratch folder");
        (folder, storage)
    }

    fn at(bytes: u64) -> ByteOffset {
        ByteOffset::new(bytes)
    }

    fn read(storage: &DirectStorage, start: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![9; len];
        storage.read_at(at(start), &mut bytes).expect("a read");
        bytes
    }

    #[test]
    fn any_position_and_length_reads_back_and_leaves_its_neighbours() {
        let (_folder, storage) = scratch(3 << 20);
        let mut expected = vec![0; 3 << 20];
        for (round, (start, len)) in
            [(0, 4096), (5000, 6), (4096, 8192), (511, 2), (100, (2 << 20) + 77), (4097, 4095)]
                .into_iter()
                .enumerate()
        {
            let fill = round as u8 + 1;
            expected[start..start + len].fill(fill);
            storage
                .write_at(at(start as u64), &vec![fill; len], Durability::Durable)
                .expect("a write");
            assert!(read(&storage, 0, 3 << 20) == expected, "after {len} bytes at {start}");
            assert!(read(&storage, start as u64, len) == expected[start..start + len]);
        }
    }

    #[test]
    fn aligned_buffers_go_straight_and_others_do_not() {
        let (_folder, storage) = scratch(1 << 20);
        let mut bytes = Bounce::new(8192, 4096);
        assert!(storage.is_straight(at(4096), bytes.first(8192)));
        assert!(!storage.is_straight(at(4095), bytes.first(8192)));
        assert!(!storage.is_straight(at(4096), &bytes.first(8192)[1..4097]));
        assert!(!storage.is_straight(at(4096), bytes.first(100)));
    }

    #[test]
    fn a_read_past_the_end_is_short_and_a_write_in_the_last_block_does_not_move_it() {
        for len in [(1 << 20) + 700, 1 << 20] {
            let (_folder, storage) = scratch(len);
            for (start, wanted) in [(len - 2, 5), (len - len % 4096, 8192), (len + 4096, 4096)] {
                let error = storage.read_at(at(start), &mut vec![0; wanted]).expect_err("short");
                let missing = start + wanted as u64 - len.max(start);
                assert!(
                    matches!(error, StorageError::Short { missing: m, .. } if m.get() == missing),
                    "{error:?}"
                );
            }
            storage.write_at(at(len - 3), b"end", Durability::Volatile).expect("a write");
            assert_eq!(storage.len().expect("a length").get(), len);
            assert_eq!(read(&storage, len - 4, 4), b"\0end");
        }
    }

    #[test]
    fn parts_of_one_block_written_at_once_are_all_kept() {
        let (_folder, storage) = scratch(1 << 20);
        std::thread::scope(|scope| {
            for part in 0..8_u8 {
                let storage = &storage;
                scope.spawn(move || {
                    for _ in 0..20 {
                        let start = at(u64::from(part) * 100);
                        storage.write_at(start, &[part + 1; 100], Durability::Volatile).unwrap();
                    }
                });
            }
        });
        for part in 0..8_u8 {
            assert_eq!(read(&storage, u64::from(part) * 100, 100), [part + 1; 100]);
        }
    }

    #[test]
    fn it_agrees_with_the_page_cache() {
        let (folder, storage) = scratch(1 << 20);
        storage.write_at(at(8192), &[1; 4096], Durability::Volatile).expect("a write");
        let cached = FileStorage::open_reader(&folder.path().join("layer")).expect("a reader");
        let mut bytes = [0; 4096];
        cached.read_at(at(8192), &mut bytes).expect("a read");
        assert_eq!(bytes, [1; 4096]);
        storage.write_at(at(8192), &[2; 4096], Durability::Volatile).expect("a write");
        cached.read_at(at(8192), &mut bytes).expect("a read");
        assert_eq!(bytes, [2; 4096]);
        assert!(!storage.read_cached_at(at(8192), &mut bytes).expect("an answer"));
    }

    #[test]
    fn holes_are_made_or_written() {
        let (_folder, storage) = scratch(4 << 20);
        storage.write_at(at(0), &vec![7; 4 << 20], Durability::Volatile).expect("a write");
        storage.punch(at(8192)..at(32768)).expect("a hole");
        assert_eq!(read(&storage, 8192, 24576), [0; 24576]);
        let extents = storage.extents(at(0)..at(65536), 10).expect("extents");
        assert_eq!(extents.iter().filter(|extent| extent.is_data).count(), 2);
        storage.write_zeroes(at(40_000)..at(3_000_001)).expect("zeros");
        let bytes = read(&storage, 0, 4 << 20);
        assert!(bytes[40_000..3_000_001].iter().all(|byte| *byte == 0));
        assert_eq!((bytes[39_999], bytes[3_000_001]), (7, 7));
    }

    #[test]
    fn a_second_writer_is_refused_and_a_link_is_not_followed() {
        let (folder, storage) = scratch(4096);
        let path = folder.path().join("layer");
        assert!(matches!(DirectStorage::open_writer(&path), Err(StorageError::Locked)));
        assert!(matches!(FileStorage::open_writer(&path), Err(StorageError::Locked)));
        drop(storage);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        assert!(DirectStorage::open_writer(&link).is_err());
        FileStorage::open_writer(&path).expect("now free");
    }

    #[test]
    fn a_file_system_without_direct_io_is_named_as_that() {
        // procfs has none.
        let refused = DirectStorage::open_writer(Path::new("/proc/self/comm"));
        assert!(matches!(refused, Err(StorageError::NoDirectIo)), "{refused:?}");
        assert!(matches!(interpret(0, 0), Err(StorageError::NoDirectIo)));
        assert!(matches!(interpret(4, 1 << 20), Err(StorageError::NoDirectIo)));
        let usual = Alignment { memory: 4, block: 512 };
        assert_eq!(interpret(4, 512).expect("a usual device"), usual);
        let text = StorageError::NoDirectIo.to_string();
        assert!(text.contains("writeback"), "{text}");
    }
}
