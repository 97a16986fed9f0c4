//! What one thread writes, kept off the cache lines of what another one reads.

use std::ops::Deref;

/// Bytes that a processor takes from another one's cache at once: 64, and on many the next 64 too.
const LINE_BYTES: usize = 64;

/// Alone on its cache lines, in what lives long.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Apart<T>(pub(super) T);

impl<T> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Alone on its cache line, in what is allocated often: an allocator is slow at what is aligned.
#[repr(C)]
pub(super) struct Padded<T> {
    before: [u8; LINE_BYTES],
    value: T,
    after: [u8; LINE_BYTES],
}

impl<T> Padded<T> {
    pub(super) const fn new(value: T) -> Self {
        Self { before: [0; LINE_BYTES], value, after: [0; LINE_BYTES] }
    }
}

impl<T> Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
