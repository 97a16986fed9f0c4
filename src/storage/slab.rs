//! Which memory a buffer gets: chunks of one huge page for small sizes, runs of their own beyond.
//!
//! ```text
//! chunk: 2 MiB, cut for one class     | lent | free | lent | free ...
//!   partial  some pieces lent, some free: the next buffer comes from the last of these
//!   full     all lent: on no list
//!   whole    none lent: a spare, which another class may have
//! run: a class of 2 MiB and more, lent or spare as one
//! ```
//!
//! Lists are used from their end, so that what is hot is used again. Not synchronised: the pool
//! has the lock.

use std::io;

use super::region::{HUGE_PAGE_BYTES, Piece, Region};

/// The smallest class, in bytes. Also the alignment of all pieces, as direct I/O wants it.
const LEAST_BYTES: usize = 4096;

/// Size classes: 4 KiB << class; the last holds a 32 MiB request with an unaligned head and tail.
const CLASSES: usize = 15;

/// Spare memory of at most this many bytes is kept for reuse; the rest goes back to the kernel.
const SPARE_BYTES_MAX: usize = 64 << 20;

/// All memory of a pool.
#[derive(Debug)]
pub(super) struct Slab {
    /// The free pieces of each chunk.
    chunks: Vec<Vec<Piece>>,
    /// Places in `chunks` that stand for none.
    vacant: Vec<usize>,
    classes: [Class; CLASSES],
    mapped_bytes: usize,
    mapped_bytes_max: usize,
    spare_bytes: usize,
}

/// Where a piece goes back to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Home {
    class: usize,
    chunk: usize,
}

/// What the end of a loan left behind.
#[derive(Debug)]
pub(super) struct Freed {
    /// Bytes of whole chunks and runs that are no longer in use.
    pub(super) idle_bytes: usize,
    /// Those bytes themselves, if they are to go back to the kernel: drop them, without the lock
    /// for that takes a while, then call [`Slab::unmapped`].
    pub(super) surplus: Vec<Piece>,
}

#[derive(Debug, Default)]
struct Class {
    partial: Vec<usize>,
    whole: Vec<usize>,
    /// Chunks with a piece on loan.
    chunks_used: usize,
    spare_runs: Vec<Piece>,
}

impl Slab {
    /// One that maps at most `mapped_bytes_max` bytes, unless more are in use.
    pub(super) fn new(mapped_bytes_max: usize) -> Self {
        Self {
            chunks: Vec::new(),
            vacant: Vec::new(),
            classes: Default::default(),
            mapped_bytes: 0,
            mapped_bytes_max,
            spare_bytes: 0,
        }
    }

    /// Bytes that would come into use with one more piece of `class`: none, a chunk or a run.
    pub(super) fn fresh_bytes(&self, class: usize) -> usize {
        if is_run(class) {
            class_bytes(class)
        } else if self.classes[class].partial.is_empty() {
            HUGE_PAGE_BYTES
        } else {
            0
        }
    }

    /// Whether a piece of `class` is on loan from a chunk.
    pub(super) const fn is_used(&self, class: usize) -> bool {
        self.classes[class].chunks_used > 0
    }

    /// A piece of `class`. Maps memory only if there is no spare; that may take a while, but a
    /// pool that is warm does not come there.
    ///
    /// # Errors
    /// The kernel has no memory.
    pub(super) fn take(&mut self, class: usize) -> io::Result<(Piece, Home)> {
        if is_run(class) {
            return Ok((self.take_run(class)?, Home { class, chunk: 0 }));
        }
        let chunk = match self.classes[class].partial.last() {
            Some(chunk) => *chunk,
            None => self.open_chunk(class)?,
        };
        let free = &mut self.chunks[chunk];
        let piece = free.pop().expect("a chunk on the list has a free piece");
        if free.is_empty() {
            self.classes[class].partial.pop();
        }
        Ok((piece, Home { class, chunk }))
    }

    /// Ends the loan of a piece.
    pub(super) fn put(&mut self, piece: Piece, home: Home) -> Freed {
        if is_run(home.class) {
            return self.put_run(piece, home.class);
        }
        let pieces = &mut self.chunks[home.chunk];
        pieces.push(piece);
        let free = pieces.len();
        let class = &mut self.classes[home.class];
        if free == 1 {
            class.partial.push(home.chunk);
        }
        if free < HUGE_PAGE_BYTES / class_bytes(home.class) {
            return Freed { idle_bytes: 0, surplus: Vec::new() };
        }
        // Mostly the last: a list is as long as memory is scattered, at most a few dozen chunks.
        let at = class.partial.iter().rposition(|chunk| *chunk == home.chunk);
        class.partial.remove(at.expect("a chunk with a free piece is on the list"));
        class.chunks_used -= 1;
        let surplus = if self.spare_bytes + HUGE_PAGE_BYTES > SPARE_BYTES_MAX {
            self.remove_chunk(home.chunk)
        } else {
            class.whole.push(home.chunk);
            self.spare_bytes += HUGE_PAGE_BYTES;
            Vec::new()
        };
        Freed { idle_bytes: HUGE_PAGE_BYTES, surplus }
    }

    /// Bytes mapped now.
    #[cfg(test)]
    pub(super) const fn mapped_bytes(&self) -> usize {
        self.mapped_bytes
    }

    /// Tells that a surplus of `bytes` has been dropped.
    pub(super) const fn unmapped(&mut self, bytes: usize) {
        self.mapped_bytes -= bytes;
    }

    /// A chunk of `class` with nothing lent, now the last on the list.
    fn open_chunk(&mut self, class: usize) -> io::Result<usize> {
        let chunk = match self.classes[class].whole.pop() {
            Some(chunk) => {
                self.spare_bytes -= HUGE_PAGE_BYTES;
                chunk
            }
            None => self.gain_chunk(class)?,
        };
        self.classes[class].chunks_used += 1;
        self.classes[class].partial.push(chunk);
        Ok(chunk)
    }

    /// A chunk new to `class`, on no list. Each class keeps its last spare while there is room to
    /// map more: two classes in turns would otherwise cut the same chunk again and again.
    fn gain_chunk(&mut self, class: usize) -> io::Result<usize> {
        let has_room = self.mapped_bytes + HUGE_PAGE_BYTES <= self.mapped_bytes_max;
        let kept = usize::from(has_room);
        let donor = self.classes.iter_mut().find(|other| other.whole.len() > kept);
        let spare = donor.map(|donor| donor.whole.remove(0));
        let region = match spare {
            Some(chunk) => {
                self.spare_bytes -= HUGE_PAGE_BYTES;
                Piece::join(self.remove_chunk(chunk)).expect("a spare chunk has all its pieces")
            }
            None => self.map(HUGE_PAGE_BYTES)?,
        };
        let pieces = region.cut(class_bytes(class));
        if let Some(place) = self.vacant.pop() {
            self.chunks[place] = pieces;
            return Ok(place);
        }
        self.chunks.push(pieces);
        Ok(self.chunks.len() - 1)
    }

    fn take_run(&mut self, class: usize) -> io::Result<Piece> {
        let bytes = class_bytes(class);
        if let Some(run) = self.classes[class].spare_runs.pop() {
            self.spare_bytes -= bytes;
            return Ok(run);
        }
        Ok(self.map(bytes)?.cut(bytes).pop().expect("a region is one piece of its own length"))
    }

    fn put_run(&mut self, run: Piece, class: usize) -> Freed {
        let idle_bytes = class_bytes(class);
        if self.spare_bytes + idle_bytes > SPARE_BYTES_MAX {
            return Freed { idle_bytes, surplus: vec![run] };
        }
        self.spare_bytes += idle_bytes;
        self.classes[class].spare_runs.push(run);
        Freed { idle_bytes, surplus: Vec::new() }
    }

    fn map(&mut self, bytes: usize) -> io::Result<Region> {
        while self.mapped_bytes + bytes > self.mapped_bytes_max && self.drop_spare() {}
        let region = Region::map(bytes)?;
        self.mapped_bytes += bytes;
        Ok(region)
    }

    /// Gives a spare back to the kernel, the largest and coldest first. `false`: there is none.
    fn drop_spare(&mut self) -> bool {
        let is_spare = |class: &Class| !class.spare_runs.is_empty() || !class.whole.is_empty();
        let Some(class) = self.classes.iter().rposition(is_spare) else {
            return false;
        };
        let bytes = if is_run(class) {
            drop(self.classes[class].spare_runs.remove(0));
            class_bytes(class)
        } else {
            let chunk = self.classes[class].whole.remove(0);
            drop(self.remove_chunk(chunk));
            HUGE_PAGE_BYTES
        };
        self.spare_bytes -= bytes;
        self.mapped_bytes -= bytes;
        true
    }

    /// Takes a chunk that is on no list out of its place.
    fn remove_chunk(&mut self, place: usize) -> Vec<Piece> {
        self.vacant.push(place);
        std::mem::take(&mut self.chunks[place])
    }
}

impl Home {
    /// Bytes of the piece.
    pub(super) const fn bytes(self) -> usize {
        class_bytes(self.class)
    }
}

/// Whether pieces of `class` are regions of their own.
const fn is_run(class: usize) -> bool {
    class_bytes(class) >= HUGE_PAGE_BYTES
}

/// Length of the pieces of `class`, in bytes.
pub(super) const fn class_bytes(class: usize) -> usize {
    LEAST_BYTES << class
}

/// The class that holds `len` bytes; `None`: none does.
pub(super) fn class_of(len: usize) -> Option<usize> {
    let pages = len.div_ceil(LEAST_BYTES).max(1);
    let class = pages.checked_next_power_of_two()?.trailing_zeros() as usize;
    (class < CLASSES).then_some(class)
}
