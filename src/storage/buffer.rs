//! Buffers for data on its way: page-aligned, reused, bounded in total.
//!
//! A buffer is taken for a request before its payload is read and goes back when its reply has
//! left. Reused bytes are not cleared: whoever sends from a buffer sends only what it wrote there.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Buffers start at a multiple of this, for direct I/O and for the cipher's sake.
const ALIGNMENT: usize = 4096;

/// Requests up to this length have a share of the bound for themselves, so that clients with huge
/// requests cannot keep small ones waiting.
const SMALL_BYTES_MAX: usize = 256 << 10;

/// Spare buffers of at most this many bytes in all are kept for reuse.
const SPARE_BYTES_MAX: usize = 64 << 20;

/// A bounded supply of buffers, shared by all connections.
#[derive(Debug)]
pub struct BufferPool {
    state: Mutex<State>,
    freed: Condvar,
    small_bytes_max: usize,
    large_bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    small_bytes: usize,
    large_bytes: usize,
    /// Spare buffers by power of two of their capacity, in pages.
    spare: [Vec<Vec<u8>>; CLASSES],
    spare_bytes: usize,
}

/// Size classes: 4 KiB << class; the last holds a 32 MiB request with an unaligned head and tail.
const CLASSES: usize = 15;

/// Bytes of one request, on loan from the pool.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    class: usize,
    pool: Arc<BufferPool>,
}

impl BufferPool {
    /// A pool that lends at most `bytes_max` bytes at a time. A quarter is kept for small requests.
    pub fn new(bytes_max: usize) -> Arc<Self> {
        let small_bytes_max = bytes_max / 4;
        Arc::new(Self {
            state: Mutex::new(State::default()),
            freed: Condvar::new(),
            small_bytes_max,
            large_bytes_max: bytes_max - small_bytes_max,
        })
    }

    /// A buffer of `len` bytes, waiting for one until `patience` is over (`None`: not a moment).
    ///
    /// # Errors
    /// `None` if there is none in time, or `len` is more than the pool may ever lend.
    pub fn take(self: &Arc<Self>, len: usize, patience: Option<Duration>) -> Option<Buffer> {
        let class = class_of(len)?;
        let cost = class_bytes(class);
        let mut state = self.lock();
        if !self.has_room(&state, cost) {
            let patience = patience?;
            let wait =
                self.freed.wait_timeout_while(state, patience, |now| !self.has_room(now, cost));
            let (now, timeout) = wait.unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() {
                return None;
            }
            state = now;
        }
        *state.lent(cost) += cost;
        let spare = state.spare[class].pop();
        if spare.is_some() {
            state.spare_bytes -= cost;
        }
        drop(state);
        let bytes = spare.unwrap_or_else(|| vec![0; cost + ALIGNMENT]);
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Some(Buffer { bytes, start, len, class, pool: Arc::clone(self) })
    }

    /// Bytes on loan now.
    pub fn bytes_lent(&self) -> usize {
        let state = self.lock();
        state.small_bytes + state.large_bytes
    }

    fn has_room(&self, state: &State, cost: usize) -> bool {
        if cost <= SMALL_BYTES_MAX {
            state.small_bytes + cost <= self.small_bytes_max
        } else {
            // One request alone always fits, however small the pool was configured.
            state.large_bytes == 0 || state.large_bytes + cost <= self.large_bytes_max
        }
    }

    fn give_back(&self, bytes: Vec<u8>, class: usize) {
        let cost = class_bytes(class);
        let mut state = self.lock();
        *state.lent(cost) -= cost;
        if state.spare_bytes + cost <= SPARE_BYTES_MAX {
            state.spare_bytes += cost;
            state.spare[class].push(bytes);
        }
        drop(state);
        self.freed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lent(&mut self, cost: usize) -> &mut usize {
        if cost <= SMALL_BYTES_MAX { &mut self.small_bytes } else { &mut self.large_bytes }
    }
}

fn class_bytes(class: usize) -> usize {
    ALIGNMENT << class
}

fn class_of(len: usize) -> Option<usize> {
    let class = len.div_ceil(ALIGNMENT).max(1).next_power_of_two().trailing_zeros() as usize;
    (class < CLASSES).then_some(class)
}

impl Buffer {
    /// Bytes it was taken for.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it was taken for none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes), self.class);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_reused_and_counted() {
        let pool = BufferPool::new(64 << 20);
        let buffer = pool.take(5000, None).expect("room");
        assert_eq!(buffer.len(), 5000);
        assert_eq!(buffer.as_ptr().align_offset(4096), 0);
        assert_eq!(pool.bytes_lent(), 8192);
        let place = buffer.as_ptr();
        drop(buffer);
        assert_eq!(pool.bytes_lent(), 0);
        assert_eq!(pool.take(8192, None).expect("room").as_ptr(), place);
    }

    #[test]
    fn the_bound_holds_and_small_requests_keep_their_share() {
        let pool = BufferPool::new(8 << 20);
        let large: Vec<_> = std::iter::from_fn(|| pool.take(1 << 20, None)).collect();
        assert_eq!(large.len(), 6);
        let small = pool.take(4096, None).expect("small ones have their own share");
        assert!(pool.take(1 << 20, Some(Duration::from_millis(1))).is_none());
        drop((large, small));
        assert_eq!(pool.bytes_lent(), 0);
    }

    #[test]
    fn the_largest_request_fits_with_unaligned_ends_and_nothing_beyond_exists() {
        let pool = BufferPool::new(256 << 20);
        assert!(pool.take((32 << 20) + 8192, None).is_some());
        assert!(pool.take(65 << 20, None).is_none());
    }
}
