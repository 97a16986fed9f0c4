//! Memory for request data: huge pages, cut into pieces that nobody can lend twice.
//!
//! A region starts at a huge page's boundary. The kernel's copies and page look-ups then work on
//! one page table entry for 2 MiB in place of 512. It is kept out of core dumps: what lies in it
//! is the client's plaintext.

#![allow(unsafe_code)]

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// A huge page, in bytes. Regions start at a multiple of it and are multiples of it long.
pub(super) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A mapping of our own, unmapped on drop. Its bytes are reached through [`Piece`]s alone.
#[derive(Debug)]
pub(super) struct Region {
    start: NonNull<u8>,
    len: usize,
}

/// A part of a region that belongs to its holder alone. The region lives as long as any piece.
#[derive(Debug)]
pub(super) struct Piece {
    start: NonNull<u8>,
    len: usize,
    region: Arc<Region>,
}

// SAFETY: a region is plain memory of the process, bound to no thread, and has no shared access.
unsafe impl Send for Region {}
// SAFETY: through `&Region` nothing is read or written but its place and length.
unsafe impl Sync for Region {}
// SAFETY: a piece owns its bytes alone (see `Region::cut`) and keeps their mapping alive.
unsafe impl Send for Piece {}
// SAFETY: shared access only reads; writing needs `&mut`.
unsafe impl Sync for Piece {}

impl Region {
    /// `len` bytes, zero at first.
    ///
    /// # Errors
    /// The kernel has no memory or no room for one more mapping.
    ///
    /// # Panics
    /// If `len` is not a multiple of [`HUGE_PAGE_BYTES`], or zero.
    pub(super) fn map(len: usize) -> io::Result<Self> {
        assert!(len > 0 && len.is_multiple_of(HUGE_PAGE_BYTES), "{len} bytes are no huge pages");
        let mapped_len = len + HUGE_PAGE_BYTES;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let mapped =
            unsafe { mmap_anonymous(std::ptr::null_mut(), mapped_len, access, MapFlags::PRIVATE)? };
        let mapped = mapped.cast::<u8>();
        let head = mapped.align_offset(HUGE_PAGE_BYTES);
        // SAFETY: `head` is less than a huge page, and so `head + len` is less than `mapped_len`.
        let (start, end) = unsafe { (mapped.add(head), mapped.add(head + len)) };
        for (part, part_len) in [(mapped, head), (end, HUGE_PAGE_BYTES - head)] {
            if part_len > 0 {
                // SAFETY: the part lies in the mapping just made, outside of `start..end`, and
                // nobody knows of it. If it cannot be unmapped it stays as untouched addresses.
                let _ = unsafe { munmap(part.cast(), part_len) };
            }
        }
        for advice in [Advice::LinuxHugepage, Advice::LinuxDontDump] {
            // SAFETY: the range is the mapping's rest, and neither advice changes what it holds.
            // A kernel without huge pages refuses: then it is slower, not wrong.
            let _ = unsafe { madvise(start.cast(), len, advice) };
        }
        Ok(Self { start: NonNull::new(start).expect("a mapping is never at zero"), len })
    }

    /// Cuts the whole region into pieces of `piece_len` bytes, the first one last in the list.
    ///
    /// # Panics
    /// If the region's length is not a multiple of `piece_len`.
    pub(super) fn cut(self, piece_len: usize) -> Vec<Piece> {
        assert!(self.len.is_multiple_of(piece_len), "pieces of {piece_len} bytes leave a rest");
        let region = Arc::new(self);
        let piece = |offset| {
            // SAFETY: `offset + piece_len` is at most the region's length. Pieces cannot be
            // cloned and the region is consumed, so each part of it belongs to one piece.
            let start = unsafe { region.start.add(offset) };
            Piece { start, len: piece_len, region: Arc::clone(&region) }
        };
        (0..region.len).step_by(piece_len).rev().map(piece).collect()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping of `map`; no piece is left, for each keeps the region alive.
        // It fails only for a range that is none, which this one is not.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

impl Piece {
    /// The region again, if `pieces` are all there are of it. Otherwise they are gone for good.
    pub(super) fn join(mut pieces: Vec<Self>) -> Option<Region> {
        let last = pieces.pop()?;
        drop(pieces);
        Arc::into_inner(last.region)
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` are mapped as long as `region` lives, the kernel
        // zeroed them, and they belong to this piece alone.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_their_region_and_start_as_zeros() {
        let mut pieces = Region::map(HUGE_PAGE_BYTES).expect("memory").cut(4096);
        assert_eq!(pieces.len(), 512);
        pieces.reverse();
        let start = pieces[0].as_ptr() as usize;
        assert!(start.is_multiple_of(HUGE_PAGE_BYTES));
        for (i, piece) in pieces.iter_mut().enumerate() {
            assert_eq!(piece.as_ptr() as usize, start + i * 4096);
            assert!(piece.iter().all(|byte| *byte == 0));
            piece.fill(i as u8);
        }
        assert!(pieces.iter().enumerate().all(|(i, piece)| piece.iter().all(|b| *b == i as u8)));
    }

    #[test]
    fn a_region_joins_only_from_all_its_pieces_and_a_piece_keeps_it_alive() {
        let mut pieces = Region::map(2 * HUGE_PAGE_BYTES).expect("memory").cut(HUGE_PAGE_BYTES);
        let region = Piece::join(std::mem::take(&mut pieces)).expect("all of them");
        let mut pieces = region.cut(1 << 20);
        assert_eq!(pieces.len(), 4);
        let mut kept = pieces.pop().expect("a piece");
        assert!(Piece::join(pieces).is_none());
        kept.fill(7);
        assert!(kept.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn core_dumps_leave_regions_out() {
        let pieces = Region::map(HUGE_PAGE_BYTES).expect("memory").cut(HUGE_PAGE_BYTES);
        let start = pieces[0].as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let mut within = false;
        let flags = maps.lines().find_map(|line| {
            if let Some((from, to)) = addresses(line) {
                within = (from..to).contains(&start);
            }
            line.strip_prefix("VmFlags:").filter(|_| within)
        });
        assert!(flags.expect("our mapping").split_whitespace().any(|flag| flag == "dd"));
    }

    fn addresses(line: &str) -> Option<(usize, usize)> {
        let (from, to) = line.split_whitespace().next()?.split_once('-')?;
        Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
    }
}
