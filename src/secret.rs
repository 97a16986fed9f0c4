//! Secrets, and the one place in memory where they live.
//!
//! Zeroise-on-drop types leave copies behind: a value returned by move is copied on the stack and
//! the old bytes stay. So a [`Secret`] never holds bytes itself. It owns a slot in an arena of
//! `memfd_secret` pages (unreadable even for the kernel's own maps, absent from core dumps and
//! swap) and is filled in place by its maker. Where the kernel lacks `memfd_secret` the arena is
//! ordinary memory under `mlock` and `MADV_DONTDUMP`; [`protection`] tells which, and the daemon
//! warns.
//!
//! ```text
//! chunk: 256 KiB mapping   | slot | slot | free ... |     a slot is a run of 64-byte granules
//! ```

#![allow(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use zeroize::Zeroize;

use crate::clock::Entropy;

const CHUNK_BYTES: usize = 256 << 10;
const GRANULE_BYTES: usize = 64;
const CHUNK_GRANULES: usize = CHUNK_BYTES / GRANULE_BYTES;

/// Largest secret the arena takes, in bytes.
pub const SECRET_BYTES_MAX: usize = CHUNK_BYTES;

/// How well the memory behind secrets is kept from other eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protection {
    /// `memfd_secret`: outside the kernel's direct map, dumps and swap.
    SecretMemory,
    /// `mlock` and `MADV_DONTDUMP`: not swapped, not dumped, readable for a debugger.
    Locked,
    /// Plain memory: the lock limit (`RLIMIT_MEMLOCK`) was reached or locking is forbidden.
    Unlocked,
}

/// Secret bytes of a fixed length, wiped on drop.
///
/// No `Clone`, no `Serialize`, no text in `Debug`. Compared in constant time.
pub struct Secret {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a Secret owns its slot alone; the arena hands out disjoint slots and takes a lock.
unsafe impl Send for Secret {}
// SAFETY: shared access only reads; writing needs `&mut`.
unsafe impl Sync for Secret {}

impl Secret {
    /// A secret of `len` zero bytes, to be filled through [`Secret::expose_mut`].
    ///
    /// # Panics
    /// If `len` is over [`SECRET_BYTES_MAX`], or the process has no memory left at all.
    pub fn zeroed(len: usize) -> Self {
        let start = lock_arena().allocate(len);
        Self { start, len }
    }

    /// A secret that `fill` writes in place.
    pub fn from_fn(len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut secret = Self::zeroed(len);
        fill(secret.expose_mut());
        secret
    }

    /// A fresh random secret.
    pub fn random(len: usize, entropy: &dyn Entropy) -> Self {
        Self::from_fn(len, |bytes| entropy.fill(bytes))
    }

    /// Moves `bytes` into the arena and wipes them where they were.
    pub fn take(bytes: &mut [u8]) -> Self {
        let secret = Self::from_fn(bytes.len(), |slot| slot.copy_from_slice(bytes));
        bytes.zeroize();
        secret
    }

    /// How many bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes. Whoever calls this must not copy them out of the arena.
    pub fn expose(&self) -> &[u8] {
        // SAFETY: `start` is the beginning of a slot of at least `len` initialised bytes that
        // belongs to this value until drop.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to be written in place.
    pub fn expose_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `expose`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// A second secret with the same bytes, for the rare owner that outlives this one.
    pub fn duplicate(&self) -> Self {
        Self::from_fn(self.len, |slot| slot.copy_from_slice(self.expose()))
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.expose_mut().zeroize();
        lock_arena().release(self.start, self.len);
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        if self.len != other.len {
            return false;
        }
        let pairs = self.expose().iter().zip(other.expose());
        let difference = pairs.fold(0, |seen, (a, b)| std::hint::black_box(seen | (a ^ b)));
        difference == 0
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.len)
    }
}

/// The weakest protection that any part of the arena has had to settle for so far.
pub fn protection() -> Protection {
    let mut arena = lock_arena();
    if arena.chunks.is_empty() {
        arena.add_chunk();
    }
    arena.chunks.iter().map(|chunk| chunk.protection).max().unwrap_or(Protection::Unlocked)
}

static ARENA: Mutex<Arena> = Mutex::new(Arena { chunks: Vec::new() });

fn lock_arena() -> std::sync::MutexGuard<'static, Arena> {
    ARENA.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Arena {
    chunks: Vec<Chunk>,
}

struct Chunk {
    start: NonNull<u8>,
    used: Box<[bool; CHUNK_GRANULES]>,
    used_count: usize,
    protection: Protection,
}

// SAFETY: a chunk is plain mapped memory, reached only under the arena's lock.
unsafe impl Send for Chunk {}

impl Arena {
    fn allocate(&mut self, len: usize) -> NonNull<u8> {
        assert!(len <= SECRET_BYTES_MAX, "a secret of {len} bytes does not fit the arena");
        let granules = len.div_ceil(GRANULE_BYTES).max(1);
        if let Some(slot) = self.chunks.iter_mut().find_map(|chunk| chunk.allocate(granules)) {
            return slot;
        }
        self.add_chunk();
        let chunk = self.chunks.last_mut().expect("a chunk was just added");
        chunk.allocate(granules).expect("an empty chunk holds any secret")
    }

    fn release(&mut self, start: NonNull<u8>, len: usize) {
        let granules = len.div_ceil(GRANULE_BYTES).max(1);
        let owner = self.chunks.iter_mut().find(|chunk| chunk.contains(start));
        owner.expect("a slot belongs to a chunk").release(start, granules);
    }

    fn add_chunk(&mut self) {
        self.chunks.push(Chunk::map());
    }
}

impl Chunk {
    fn map() -> Self {
        let (start, protection) = map_secret_memory().unwrap_or_else(map_locked_memory);
        Self { start, used: Box::new([false; CHUNK_GRANULES]), used_count: 0, protection }
    }

    fn contains(&self, slot: NonNull<u8>) -> bool {
        let start = self.start.as_ptr() as usize;
        (start..start + CHUNK_BYTES).contains(&(slot.as_ptr() as usize))
    }

    fn allocate(&mut self, granules: usize) -> Option<NonNull<u8>> {
        if self.used_count + granules > CHUNK_GRANULES {
            return None;
        }
        let mut run = 0;
        let last = self.used.iter().position(|used| {
            run = if *used { 0 } else { run + 1 };
            run == granules
        })?;
        let first = last + 1 - granules;
        self.used[first..=last].fill(true);
        self.used_count += granules;
        // SAFETY: `first` is below CHUNK_GRANULES, so the result lies in the mapping.
        Some(unsafe { self.start.add(first * GRANULE_BYTES) })
    }

    fn release(&mut self, slot: NonNull<u8>, granules: usize) {
        let first = (slot.as_ptr() as usize - self.start.as_ptr() as usize) / GRANULE_BYTES;
        self.used[first..first + granules].fill(false);
        self.used_count -= granules;
    }
}

fn map_secret_memory() -> Option<(NonNull<u8>, Protection)> {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    // SAFETY: the call takes one flag word and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    if fd < 0 {
        return None;
    }
    // SAFETY: `fd` was just returned to us and has no other owner.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    rustix::fs::ftruncate(&fd, CHUNK_BYTES as u64).ok()?;
    // SAFETY: a new shared mapping at an address of the kernel's choice; the length is the file's.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            CHUNK_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return None;
    }
    Some((NonNull::new(start.cast())?, Protection::SecretMemory))
}

fn map_locked_memory() -> (NonNull<u8>, Protection) {
    // SAFETY: a new private anonymous mapping at an address of the kernel's choice.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            CHUNK_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert!(start != libc::MAP_FAILED, "no memory left for secrets");
    // SAFETY: the range is exactly the mapping made above.
    let locked = unsafe {
        libc::madvise(start, CHUNK_BYTES, libc::MADV_DONTDUMP) == 0
            && libc::mlock(start, CHUNK_BYTES) == 0
    };
    let protection = if locked { Protection::Locked } else { Protection::Unlocked };
    (NonNull::new(start.cast()).expect("a mapping is never at zero"), protection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_do_not_overlap_and_come_back_zeroed() {
        let secrets: Vec<Secret> =
            (0..200).map(|i| Secret::from_fn(700, |bytes| bytes.fill(i as u8))).collect();
        for (i, secret) in secrets.iter().enumerate() {
            assert!(secret.expose().iter().all(|byte| *byte == i as u8));
        }
        drop(secrets);
        assert!(Secret::zeroed(700).expose().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn debug_shows_the_length_alone() {
        let secret = Secret::from_fn(4, |bytes| bytes.copy_from_slice(b"key!"));
        assert_eq!(format!("{secret:?}"), "Secret(4 bytes)");
    }

    #[test]
    fn taking_wipes_the_source() {
        let mut source = *b"0123456789abcdef";
        let secret = Secret::take(&mut source);
        assert_eq!(source, [0; 16]);
        assert_eq!(secret.expose(), b"0123456789abcdef");
        assert_eq!(secret, secret.duplicate());
        assert_ne!(secret, Secret::zeroed(16));
    }

    #[test]
    fn more_secrets_than_one_chunk_holds() {
        let secrets: Vec<Secret> = (0..600).map(|_| Secret::zeroed(1024)).collect();
        assert_eq!(secrets.len(), 600);
        drop(secrets);
    }
}
