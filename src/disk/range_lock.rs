//! Who may touch which data units now: shared for reads, exclusive for writes.
//!
//! Without it a read could see half of a concurrent write inside one 16-byte cipher block, which
//! decrypts to neither old nor new, and a read-modify-write could bring back bytes that another
//! client has just replaced. Each data unit is therefore linearisable.
//!
//! The units of a disk share a fixed set of locks, [`REGION_UNITS`] neighbours one lock, so the
//! cost is bounded whatever the disk's size. A request takes its locks in ascending order: no
//! deadlock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::units::DataUnit;

/// Neighbouring units under one lock.
const REGION_UNITS: u64 = 16;

/// Locks of a disk: 256 of 16 bytes.
const LOCKS: usize = 256;

/// Locks that one guard holds without allocating: pieces up to 448 KiB, however they lie.
const INLINE: usize = 8;

/// The locks of one disk.
#[derive(Debug)]
pub struct RangeLocks {
    locks: Box<[Slot; LOCKS]>,
}

#[derive(Debug)]
struct Slot {
    lock: RwLock<()>,
    /// Requests that came here. Counted beside the lock, in a cache line that is at hand, and
    /// without an atomic step: two at once may count as one.
    seen: AtomicU64,
}

impl Slot {
    const fn new() -> Self {
        Self { lock: RwLock::new(()), seen: AtomicU64::new(0) }
    }
}

/// Keeps writers away from the units of a read.
#[derive(Debug)]
pub struct ReadGuard<'a> {
    _held: Held<RwLockReadGuard<'a, ()>>,
}

/// Keeps everybody away from the units of a write.
#[derive(Debug)]
pub struct WriteGuard<'a> {
    _held: Held<RwLockWriteGuard<'a, ()>>,
}

#[derive(Debug)]
enum Held<G> {
    One { _guard: G },
    Some { _guards: [Option<G>; INLINE] },
    Many { _guards: Vec<G> },
}

impl RangeLocks {
    /// Unlocked.
    pub fn new() -> Self {
        Self { locks: Box::new([const { Slot::new() }; LOCKS]) }
    }

    /// About how many requests have touched units: whoever works in the background looks whether
    /// it grows.
    pub fn seen(&self) -> u64 {
        self.locks.iter().map(|slot| slot.seen.load(Ordering::Relaxed)).sum()
    }

    fn count(&self, first: DataUnit) {
        let slot = &self.locks[(first.get() / REGION_UNITS) as usize % LOCKS];
        slot.seen.store(slot.seen.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Waits until no write is under way on `units` units from `first`.
    ///
    /// # Panics
    /// Never: waiting always succeeds.
    pub fn read(&self, first: DataUnit, units: u64) -> ReadGuard<'_> {
        let take = |index: usize| {
            Some(self.locks[index].lock.read().unwrap_or_else(PoisonError::into_inner))
        };
        let held = hold(first, units, take).expect("waiting always succeeds");
        self.count(first);
        ReadGuard { _held: held }
    }

    /// As [`RangeLocks::read`] if it can be had without waiting.
    pub fn try_read(&self, first: DataUnit, units: u64) -> Option<ReadGuard<'_>> {
        let take = |index: usize| self.locks[index].lock.try_read().ok();
        let held = hold(first, units, take)?;
        self.count(first);
        Some(ReadGuard { _held: held })
    }

    /// Waits until nothing is under way on `units` units from `first`.
    ///
    /// # Panics
    /// Never: waiting always succeeds.
    pub fn write(&self, first: DataUnit, units: u64) -> WriteGuard<'_> {
        let guard = self.write_unseen(first, units);
        self.count(first);
        guard
    }

    /// As [`RangeLocks::write`], for work that is not a client's: it is not counted.
    ///
    /// # Panics
    /// Never: waiting always succeeds.
    pub fn write_unseen(&self, first: DataUnit, units: u64) -> WriteGuard<'_> {
        let take = |index: usize| {
            Some(self.locks[index].lock.write().unwrap_or_else(PoisonError::into_inner))
        };
        WriteGuard { _held: hold(first, units, take).expect("waiting always succeeds") }
    }
}

impl Default for RangeLocks {
    fn default() -> Self {
        Self::new()
    }
}

/// First region and how many.
fn regions(first: DataUnit, units: u64) -> (u64, u64) {
    let start = first.get() / REGION_UNITS;
    let end = (first.get() + units).div_ceil(REGION_UNITS);
    (start, end.saturating_sub(start).max(1))
}

/// Takes the locks of all regions, each once, by ascending index; none if one cannot be had.
fn hold<G>(first: DataUnit, units: u64, take: impl Fn(usize) -> Option<G>) -> Option<Held<G>> {
    let (start, count) = regions(first, units);
    if count == 1 {
        return Some(Held::One { _guard: take(start as usize % LOCKS)? });
    }
    if count >= LOCKS as u64 {
        return Some(Held::Many { _guards: (0..LOCKS).map(take).collect::<Option<_>>()? });
    }
    // The indices form a ring segment: where it wraps, the wrapped part comes first.
    let (from, count) = (start as usize % LOCKS, count as usize);
    let wrapped = (from + count).saturating_sub(LOCKS);
    let indices = (0..wrapped).chain(from..from + count - wrapped);
    if count > INLINE {
        return Some(Held::Many { _guards: indices.map(take).collect::<Option<_>>()? });
    }
    let mut guards = [const { None }; INLINE];
    for (guard, index) in guards.iter_mut().zip(indices) {
        *guard = Some(take(index)?);
    }
    Some(Held::Some { _guards: guards })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn indices(first: u64, units: u64) -> Vec<usize> {
        let taken = std::cell::RefCell::new(Vec::new());
        hold(DataUnit::new(first), units, |index| {
            taken.borrow_mut().push(index);
            Some(())
        });
        taken.into_inner()
    }

    #[test]
    fn locks_are_taken_once_each_in_ascending_order_and_cover_the_range() {
        for first in (0..9000).step_by(37) {
            for units in [1, 2, 16, 17, 100, 1000, 4096, 5000] {
                let taken = indices(first, units);
                assert!(taken.windows(2).all(|pair| pair[0] < pair[1]), "{first} {units}");
                let wanted: BTreeSet<usize> = (first..first + units)
                    .map(|unit| (unit / REGION_UNITS) as usize % LOCKS)
                    .collect();
                assert_eq!(taken.into_iter().collect::<BTreeSet<_>>(), wanted, "{first} {units}");
            }
        }
    }

    #[test]
    fn writers_of_overlapping_ranges_exclude_each_other() {
        let locks = Arc::new(RangeLocks::new());
        let inside = Arc::new(AtomicU32::new(0));
        let workers: Vec<_> = (0..4u64)
            .map(|worker| {
                let (locks, inside) = (Arc::clone(&locks), Arc::clone(&inside));
                std::thread::spawn(move || {
                    for round in 0..500u64 {
                        let first = DataUnit::new((worker * 7 + round) % 40 + 4080);
                        let _guard = locks.write(first, 64);
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().expect("no worker saw another inside");
        }
    }

    #[test]
    fn requests_are_seen_and_work_in_the_background_is_not() {
        let locks = RangeLocks::new();
        drop(locks.write_unseen(DataUnit::new(1), 100));
        assert_eq!(locks.seen(), 0);
        drop(locks.write(DataUnit::new(1), 100));
        drop(locks.read(DataUnit::new(5000), 1));
        assert!(locks.try_read(DataUnit::new(70), 1).is_some());
        assert_eq!(locks.seen(), 3);
    }
}
