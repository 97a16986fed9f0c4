//! A window: a part of a file in memory, and which of its pages the page cache has.
//!
//! To ask the kernel about each page that is needed costs as much as to read it. So pages are asked
//! after by blocks of 1 MiB, and the answer holds for [`LEASE_MILLIS`]. After that `cachestat` says
//! how many pages of the block there are: as many as before are taken for the same ones. A page
//! that goes meanwhile all the same makes its reader wait for the device: slow, not wrong.

#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::sigbus::{self, Place, WINDOW_BYTES};
use crate::clock;

/// Bytes whose pages are asked after together.
const BLOCK_BYTES: usize = 1 << 20;

const BLOCKS: usize = WINDOW_BYTES / BLOCK_BYTES;

/// Bytes that are entered into the page tables together and remembered by one bit.
const PART_BYTES: usize = 128 << 10;

const PARTS: usize = BLOCK_BYTES / PART_BYTES;

/// Fewer bytes are entered into the page tables by their faults: the kernel then takes neighbours
/// along.
const ENTER_BYTES_MIN: usize = 64 << 10;

/// The smallest page, in bytes.
const PAGE_BYTES_MIN: usize = 4096;

const PAGES: usize = BLOCK_BYTES / PAGE_BYTES_MIN;

const WORDS: usize = PAGES / 64;

/// How long an answer holds. Pages that were looked at so lately are the last that the kernel
/// gives away.
const LEASE_MILLIS: u32 = 200;

/// Pages that are known to be there, over all windows: no more can be mapped through them.
static KNOWN: AtomicUsize = AtomicUsize::new(0);

/// A part of a file in memory, unmapped on drop.
#[derive(Debug)]
pub(super) struct Window {
    start: NonNull<u8>,
    place: &'static Place,
    /// Where it begins in the file.
    at: u64,
    blocks: Box<[Block]>,
}

/// What is known of neighbouring pages.
#[derive(Debug, Default)]
struct Block {
    /// One bit for each page that the page cache has.
    known: [AtomicU64; WORDS],
    /// By [`now`]; zero: not at all.
    asked: AtomicU32,
    /// One bit for each part whose pages were entered into the page tables.
    entered: AtomicU8,
}

// SAFETY: a window is read-only memory of the process, bound to no thread; the rest of it is
// atomic.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// The window of this number from the start of the file. `None`: the file cannot be mapped, or
    /// too many windows are.
    pub(super) fn map(file: &File, number: u64) -> Option<Self> {
        let at = number.checked_mul(WINDOW_BYTES as u64)?;
        let offset = i64::try_from(at).ok()?;
        let place = Place::reserve()?;
        let (access, flags) = (libc::PROT_READ, libc::MAP_SHARED | libc::MAP_NORESERVE);
        // SAFETY: a new mapping at an address of the kernel's choice. It is only read, and a touch
        // behind the end of the file is survived (`sigbus.rs`).
        let mapped = unsafe {
            libc::mmap(std::ptr::null_mut(), WINDOW_BYTES, access, flags, file.as_raw_fd(), offset)
        };
        if mapped == libc::MAP_FAILED {
            place.release();
            return None;
        }
        place.set(mapped as usize);
        let start = NonNull::new(mapped.cast()).expect("a mapping is never at zero");
        let blocks = (0..BLOCKS).map(|_| Block::default()).collect();
        Some(Self { start, place, at, blocks })
    }

    /// Whether a touch has failed: then some looks saw zeros.
    pub(super) fn is_lost(&self) -> bool {
        self.place.is_lost()
    }

    /// Finds out, unless it is known, which pages of the blocks of `range` the page cache has.
    /// `false`: there are more than may be mapped.
    pub(super) fn renew(&self, file: &File, range: &Range<usize>) -> bool {
        let now = now();
        (range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES)).all(|index| {
            let block = &self.blocks[index];
            let asked = block.asked.load(Ordering::Relaxed);
            if asked != 0 && now.wrapping_sub(asked) < LEASE_MILLIS {
                return true;
            }
            let start = self.at + (index * BLOCK_BYTES) as u64;
            let is_same = count_cached(file, start) == Some(block.count());
            let is_known = is_same || self.ask(index);
            if is_known {
                block.asked.store(now, Ordering::Relaxed);
            }
            is_known
        })
    }

    /// What is known of `range` has changed.
    pub(super) fn forget(&self, range: &Range<usize>) {
        let blocks = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        self.blocks[blocks].iter().for_each(|block| block.asked.store(0, Ordering::Relaxed));
    }

    /// The bytes of `range`, which lies in the window, if the page cache is known to have them.
    pub(super) fn bytes(&self, range: Range<usize>) -> Option<&[u8]> {
        let shift = rustix::param::page_size().trailing_zeros();
        let pages = range.start >> shift..((range.end - 1) >> shift) + 1;
        if !self.are_known(&pages, shift) {
            // They may have come since: the next one asks.
            self.forget(&range);
            return None;
        }
        if range.len() >= ENTER_BYTES_MIN {
            self.enter(pages.start << shift..pages.end << shift)?;
        }
        assert!(range.end <= WINDOW_BYTES, "a range of the window");
        // SAFETY: the range lies in the window, which stays mapped and readable as long as `self`
        // lives; any byte is valid. Nobody in this process writes to the memory; the lock on the
        // file and the caller's on the range keep writers of the file away. One that minds neither
        // garbles what is read, as it would by any other way of reading, and no more: no length or
        // index comes from these bytes.
        Some(unsafe {
            std::slice::from_raw_parts(self.start.as_ptr().add(range.start), range.len())
        })
    }

    /// `pages` are not empty; pages are of `1 << shift` bytes.
    fn are_known(&self, pages: &Range<usize>, shift: u32) -> bool {
        let per_block = BLOCK_BYTES >> shift;
        let mut at = pages.start;
        while at < pages.end {
            let (block, page) = (at / per_block, at % per_block);
            let word = self.blocks[block].known[page / 64].load(Ordering::Relaxed) >> (page % 64);
            let wanted = (64 - page % 64).min(per_block - page).min(pages.end - at);
            if (word.trailing_ones() as usize) < wanted {
                return false;
            }
            at += wanted;
        }
        true
    }

    /// Asks after all pages of a block. `false`: there are more than may be mapped.
    fn ask(&self, index: usize) -> bool {
        let count = BLOCK_BYTES / rustix::param::page_size();
        let mut states = [0_u8; PAGES];
        // SAFETY: the block lies in the window and starts at a page; `states` has a byte for each
        // of its pages.
        let outcome = unsafe {
            let from = self.start.as_ptr().add(index * BLOCK_BYTES);
            libc::mincore(from.cast(), BLOCK_BYTES, states.as_mut_ptr())
        };
        let block = &self.blocks[index];
        let mut found = [0; WORDS];
        if outcome == 0 {
            for (page, _) in
                states[..count].iter().enumerate().filter(|(_, state)| **state & 1 == 1)
            {
                found[page / 64] |= 1 << (page % 64);
            }
        }
        let (had, has) = (block.count(), count_bits(found));
        if has > had && KNOWN.load(Ordering::Relaxed) + (has - had) as usize > known_max() {
            return false;
        }
        for (word, found) in block.known.iter().zip(found) {
            let old = word.swap(found, Ordering::Relaxed);
            KNOWN.fetch_add(found.count_ones() as usize, Ordering::Relaxed);
            KNOWN.fetch_sub(old.count_ones() as usize, Ordering::Relaxed);
            if old & !found != 0 {
                // What the kernel has dropped is no longer in the page tables either.
                block.entered.store(0, Ordering::Relaxed);
            }
        }
        true
    }

    /// Enters whole pages into the page tables, unless they are: all at once costs a fifth of a
    /// fault for every few.
    fn enter(&self, bytes: Range<usize>) -> Option<()> {
        let mut parts = bytes.start / PART_BYTES..bytes.end.div_ceil(PART_BYTES);
        let is_entered = |part: usize| {
            let entered = self.blocks[part / PARTS].entered.load(Ordering::Relaxed);
            entered >> (part % PARTS) & 1 == 1
        };
        if parts.all(is_entered) {
            return Some(());
        }
        // SAFETY: the range lies in the window. The advice changes nothing that can be seen; where
        // a page cannot be had it fails in place of a signal.
        let outcome = unsafe {
            let from = self.start.as_ptr().add(bytes.start);
            libc::madvise(from.cast(), bytes.len(), libc::MADV_POPULATE_READ)
        };
        if outcome == 0 {
            for part in bytes.start.div_ceil(PART_BYTES)..bytes.end / PART_BYTES {
                let block = &self.blocks[part / PARTS];
                block.entered.fetch_or(1 << (part % PARTS), Ordering::Relaxed);
            }
            return Some(());
        }
        if std::io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
            // Before Linux 5.14: faults for every few pages would cost more than they save.
            sigbus::forbid_maps();
        }
        None
    }
}

/// Has the processor fetch the first `lines` cache lines of `bytes` while it goes on with other
/// work.
pub fn prefetch(bytes: &[u8], lines: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64).take(lines) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every such processor has the instruction, which neither faults nor changes
        // anything that can be seen.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, lines);
}

impl Drop for Window {
    fn drop(&mut self) {
        for block in &self.blocks {
            KNOWN.fetch_sub(block.count() as usize, Ordering::Relaxed);
        }
        // Before the addresses are free for another window, which has a place of its own.
        self.place.release();
        // SAFETY: exactly the mapping of `map`, or the zeros laid over it; no view is left, for
        // each keeps the window alive. It fails only for a range that is none.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), WINDOW_BYTES) };
    }
}

impl Block {
    fn count(&self) -> u64 {
        count_bits(self.known.each_ref().map(|word| word.load(Ordering::Relaxed)))
    }
}

fn count_bits(words: [u64; WORDS]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

/// When an answer was given; never zero.
fn now() -> u32 {
    clock::coarse_millis() | 1
}

/// How many pages of the block at `start` of the file the page cache has; `None`: the kernel does
/// not count (before Linux 6.5).
fn count_cached(file: &File, start: u64) -> Option<u64> {
    static IS_REFUSED: AtomicBool = AtomicBool::new(false);
    if IS_REFUSED.load(Ordering::Relaxed) {
        return None;
    }
    let range = [start, BLOCK_BYTES as u64];
    let mut counts = [0_u64; 5];
    // SAFETY: `struct cachestat_range` is two numbers of 64 bits, `struct cachestat` five, the
    // first of which is the count.
    let outcome = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), counts.as_mut_ptr(), 0)
    };
    if outcome != 0 {
        // Not every file system can; the kernel's other answer is as good.
        let error = std::io::Error::last_os_error().raw_os_error();
        IS_REFUSED.store(error == Some(libc::ENOSYS), Ordering::Relaxed);
        return None;
    }
    Some(counts[0])
}

/// The same on all architectures.
const SYS_CACHESTAT: libc::c_long = 451;

/// How many pages may be known: a quarter of the memory, for mapped pages count as the process's
/// own where the kernel looks for somebody to end.
fn known_max() -> usize {
    memory_pages() / 4
}

/// Pages of memory that the machine has.
pub(super) fn memory_pages() -> usize {
    static MAX: OnceLock<usize> = OnceLock::new();
    *MAX.get_or_init(|| {
        // SAFETY: asks for a number.
        usize::try_from(unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) }).unwrap_or(0)
    })
}

/// Has all pages but so many count as known, for the rest of the process.
#[cfg(test)]
pub(super) fn leave_room(pages: usize) {
    KNOWN.store(known_max() - pages, Ordering::Relaxed);
}
