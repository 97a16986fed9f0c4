//! How much was encrypted under one data key.
//!
//! IEEE 1619 bounds the scope of an XTS key: at most 2^36 blocks of 16 bytes if an adversary is to
//! have next to no advantage, at most 2^44 in any case. The first bound is a warning here, the
//! second one ends writing. The count survives a crash by reservation: a keeper writes down a
//! bound that the count stays below, and is asked for a higher one before it is reached.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::LayerError;
use crate::units::ByteCount;

/// Bytes under one key from which on a new key is advised: 2^36 blocks of 16 bytes.
pub const KEY_BYTES_WARNING: u64 = 1 << 40;

/// Bytes under one key after which nothing more is encrypted: 2^44 blocks of 16 bytes.
pub const KEY_BYTES_MAX: u64 = 1 << 48;

/// Fewest bytes that are reserved at a time.
const RESERVE_BYTES_MIN: u64 = 4 << 30;

/// What is reserved is this part of what was counted: seldom written down, and a crash, which
/// leaves what was reserved as counted, costs little.
const RESERVE_PART: u64 = 8;

/// Bytes after which a keeper that failed is asked again.
const RETRY_BYTES: u64 = 1 << 30;

type Keeper = Box<dyn Fn(ByteCount) -> bool + Send + Sync>;

/// Counts the bytes encrypted under a data key. Bytes that were encrypted but not stored count,
/// too: it never says less than there is.
#[derive(Default)]
pub struct KeyMeter {
    encrypted: AtomicU64,
    /// What the keeper has written down; zero without one.
    reserved: AtomicU64,
    keeper: OnceLock<Keeper>,
    reserving: Mutex<()>,
}

impl KeyMeter {
    /// Goes on from `counted`, the bound last written down, and asks `keeper` to write down a
    /// higher one whenever the count comes near it. `keeper` answers whether it could; if not,
    /// writing goes on and it is asked again a GiB later. It runs on a thread that serves a
    /// request, once in 4 GiB at most. Only the first call counts.
    pub fn keep(
        &self,
        counted: ByteCount,
        keeper: impl Fn(ByteCount) -> bool + Send + Sync + 'static,
    ) {
        if self.keeper.get().is_none() {
            self.encrypted.fetch_add(counted.get(), Ordering::Relaxed);
            self.reserved.store(counted.get(), Ordering::Relaxed);
            let _ = self.keeper.set(Box::new(keeper));
        }
    }

    /// Gives up what is reserved beyond the count, for nobody encrypts at this moment: `keep`
    /// writes the count itself down. Whoever encrypts after all reserves anew first.
    pub fn settle(&self, keep: impl FnOnce(ByteCount) -> bool) {
        if self.keeper.get().is_none() {
            return;
        }
        let _one = self.reserving.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = self.encrypted.load(Ordering::SeqCst);
        let reserved = self.reserved.swap(counted, Ordering::SeqCst);
        // Again, for what came in between and found room in the old bound.
        let counted = self.encrypted.load(Ordering::SeqCst);
        if counted == reserved || !keep(ByteCount::new(counted)) {
            self.reserved.fetch_max(reserved, Ordering::SeqCst);
        }
    }

    /// Bytes encrypted so far: an upper bound.
    pub fn encrypted(&self) -> ByteCount {
        ByteCount::new(self.encrypted.load(Ordering::Relaxed))
    }

    /// Whether a new data key is advised.
    pub fn is_warning(&self) -> bool {
        self.encrypted().get() >= KEY_BYTES_WARNING
    }

    /// Counts `bytes` that are about to be encrypted.
    pub(super) fn count(&self, bytes: ByteCount) -> Result<(), LayerError> {
        let total = self.encrypted.fetch_add(bytes.get(), Ordering::Relaxed) + bytes.get();
        if total > KEY_BYTES_MAX {
            self.encrypted.fetch_sub(bytes.get(), Ordering::Relaxed);
            return Err(LayerError::KeyExhausted);
        }
        if total > self.reserved.load(Ordering::Relaxed) {
            self.reserve(total);
        }
        Ok(())
    }

    #[cold]
    fn reserve(&self, total: u64) {
        let Some(keeper) = self.keeper.get() else {
            self.reserved.store(u64::MAX, Ordering::Relaxed);
            return;
        };
        let _one = self.reserving.lock().unwrap_or_else(PoisonError::into_inner);
        if total > self.reserved.load(Ordering::Relaxed) {
            let ahead = RESERVE_BYTES_MIN.max(total / RESERVE_PART);
            let bound = (total + ahead).min(KEY_BYTES_MAX);
            let is_kept = keeper(ByteCount::new(bound));
            let reserved = if is_kept { bound } else { total + RETRY_BYTES };
            self.reserved.store(reserved, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for KeyMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyMeter({})", self.encrypted())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_bound_is_kept_before_the_count_passes_it() {
        let kept = Arc::new(AtomicU64::new(1000));
        let meter = KeyMeter::default();
        let book = Arc::clone(&kept);
        meter.keep(ByteCount::new(1000), move |bound| {
            book.store(bound.get(), Ordering::Relaxed);
            true
        });
        assert_eq!(meter.encrypted().get(), 1000);
        let mut changes = 0;
        for _ in 0..200 {
            let before = kept.load(Ordering::Relaxed);
            meter.count(ByteCount::new(1 << 30)).expect("far from the end");
            assert!(meter.encrypted().get() <= kept.load(Ordering::Relaxed));
            changes += u32::from(before != kept.load(Ordering::Relaxed));
        }
        // At 1, 6, 11, … 41 GiB, and then ever more seldom.
        assert_eq!(changes, 21);
    }

    #[test]
    fn what_was_reserved_and_not_used_is_given_back() {
        let kept = Arc::new(AtomicU64::new(1000));
        let meter = KeyMeter::default();
        let book = Arc::clone(&kept);
        let write_down = move |bound: ByteCount| {
            book.store(bound.get(), Ordering::Relaxed);
            true
        };
        meter.keep(ByteCount::new(1000), write_down.clone());
        meter.settle(|_| panic!("nothing is reserved"));
        meter.count(ByteCount::new(500)).expect("far from the end");
        assert!(kept.load(Ordering::Relaxed) > 1 << 30);
        meter.settle(|_| false);
        assert!(kept.load(Ordering::Relaxed) > 1 << 30, "it could not be written down");
        meter.settle(write_down);
        assert_eq!(kept.load(Ordering::Relaxed), 1500);
        meter.count(ByteCount::new(1)).expect("far from the end");
        assert!(kept.load(Ordering::Relaxed) >= 1501, "reserved anew, before it is encrypted");
    }

    #[test]
    fn a_keeper_that_fails_is_asked_again_later() {
        let asked = Arc::new(AtomicU64::new(0));
        let meter = KeyMeter::default();
        let count = Arc::clone(&asked);
        meter.keep(ByteCount::ZERO, move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            false
        });
        for _ in 0..32 {
            meter.count(ByteCount::new(1 << 28)).expect("writing goes on");
        }
        assert!((6..=9).contains(&asked.load(Ordering::Relaxed)), "{asked:?}");
    }

    #[test]
    fn past_the_warning_comes_the_end() {
        let meter = KeyMeter::default();
        meter.keep(ByteCount::new(KEY_BYTES_MAX - 8192), |_| true);
        assert!(meter.is_warning());
        meter.count(ByteCount::new(8192)).expect("the last bytes");
        for _ in 0..3 {
            let refused = meter.count(ByteCount::new(512));
            assert!(matches!(refused, Err(LayerError::KeyExhausted)));
        }
        assert_eq!(meter.encrypted().get(), KEY_BYTES_MAX);
        let message = LayerError::KeyExhausted.to_string();
        assert!(message.contains("256 TiB") && message.contains("rekey"), "{message}");
    }
}
