//! Memory that the kernel reads and writes for a ring: slots for the data of requests, and
//! provided buffers for what a multishot receive brings.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

/// Slots of the two sizes; a request takes the smallest that fits.
const SMALL_SLOTS: usize = 64;
const SMALL_BYTES: usize = 64 << 10;
const LARGE_SLOTS: usize = 16;
const LARGE_BYTES: usize = 1 << 20;

/// Slots in all.
pub(crate) const SLOTS: usize = SMALL_SLOTS + LARGE_SLOTS;

/// Provided buffers: a power of two.
const PROVIDED: u16 = 32;
const PROVIDED_BYTES: usize = 64 << 10;

/// Buffer group of the provided buffers.
pub(crate) const GROUP: u16 = 1;

const PAGE: usize = 4096;

/// Zeroed memory, page-aligned, at one place until it is dropped.
struct Region {
    start: NonNull<u8>,
    layout: Layout,
}

impl Region {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, PAGE).expect("a small multiple of a page");
        // SAFETY: the size is not zero; null is handled.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("memory");
        Self { start, layout }
    }

    fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.layout.size(), "inside the region");
        // SAFETY: checked to lie inside the allocation.
        unsafe { self.start.as_ptr().add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and the ring that used it was dropped before.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// The slots of one connection.
pub(crate) struct Slots {
    region: Region,
    free_small: Vec<usize>,
    free_large: Vec<usize>,
}

impl Slots {
    pub(crate) fn new() -> Self {
        let region = Region::new(SMALL_SLOTS * SMALL_BYTES + LARGE_SLOTS * LARGE_BYTES);
        let free_small = (0..SMALL_SLOTS).collect();
        Self { region, free_small, free_large: (SMALL_SLOTS..SLOTS).collect() }
    }

    /// Whether there is a slot size for `len` bytes at all.
    pub(crate) const fn fits(len: usize) -> bool {
        len <= LARGE_BYTES
    }

    pub(crate) fn take(&mut self, len: usize) -> Option<usize> {
        if len <= SMALL_BYTES { self.free_small.pop() } else { self.free_large.pop() }
    }

    pub(crate) fn give_back(&mut self, slot: usize) {
        if slot < SMALL_SLOTS { self.free_small.push(slot) } else { self.free_large.push(slot) }
    }

    pub(crate) fn start_of(&self, slot: usize) -> *mut u8 {
        self.region.at(match slot.checked_sub(SMALL_SLOTS) {
            None => slot * SMALL_BYTES,
            Some(large) => SMALL_SLOTS * SMALL_BYTES + large * LARGE_BYTES,
        })
    }

    /// The first `len` bytes of a slot that the kernel does not use now.
    pub(crate) fn bytes(&mut self, slot: usize, len: usize) -> &mut [u8] {
        assert!(len <= if slot < SMALL_SLOTS { SMALL_BYTES } else { LARGE_BYTES });
        // SAFETY: inside the region, initialised, borrowed with `self`; the caller has no
        // operation of the kernel in flight on this slot.
        unsafe { std::slice::from_raw_parts_mut(self.start_of(slot), len) }
    }

    /// All of it, to be registered with the ring as its buffer 0.
    pub(crate) fn as_iovec(&self) -> libc::iovec {
        let iov_len = self.region.layout.size();
        libc::iovec { iov_base: self.region.at(0).cast(), iov_len }
    }
}

/// Buffers that a multishot receive picks from.
pub(crate) struct Provided {
    entries: Region,
    buffers: Region,
    tail: u16,
}

impl Provided {
    pub(crate) fn new() -> Self {
        let entries = Region::new(PAGE);
        let buffers = Region::new(usize::from(PROVIDED) * PROVIDED_BYTES);
        let mut provided = Self { entries, buffers, tail: 0 };
        (0..PROVIDED).for_each(|id| provided.give_back(id));
        provided
    }

    /// What `register_buf_ring_with_flags` wants: address and number of entries.
    pub(crate) fn registration(&self) -> (u64, u16) {
        (self.entries.at(0) as u64, PROVIDED)
    }

    /// The first `len` bytes of a buffer that a receive has handed over.
    pub(crate) fn bytes(&self, id: u16, len: usize) -> &[u8] {
        assert!(len <= PROVIDED_BYTES);
        // SAFETY: inside the region; the kernel gave the buffer to us and has no claim on it
        // until it is given back.
        unsafe {
            std::slice::from_raw_parts(self.buffers.at(usize::from(id) * PROVIDED_BYTES), len)
        }
    }

    /// Hands a buffer to the kernel.
    pub(crate) fn give_back(&mut self, id: u16) {
        let base = self.entries.at(0).cast::<BufRingEntry>();
        let index = usize::from(self.tail % PROVIDED);
        // SAFETY: there are PROVIDED entries in the page; this one is outside what the kernel may
        // look at until the tail passes it.
        let entry = unsafe { &mut *base.add(index) };
        entry.set_addr(self.buffers.at(usize::from(id) * PROVIDED_BYTES) as u64);
        entry.set_len(PROVIDED_BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry of the page, aligned, shared with the kernel.
        let tail = unsafe { &*BufRingEntry::tail(base).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }
}
