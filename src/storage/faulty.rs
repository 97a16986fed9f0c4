//! A disk that fails on demand: the adversary behind the same trait.
//!
//! It holds what is durable apart from what is only written, as a drive with a volatile cache does:
//! - the n-th call can fail, once or from then on, in each way an operating system fails;
//! - after a failed flush the writes it should have covered never become durable, although they
//!   still read back (what Linux does: the pages are marked clean);
//! - [`FaultyStorage::crash`] gives the disk as a power cut may leave it: of the writes since the
//!   last flush any subset took effect, in any order, each torn at any 512-byte sector.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::memory::MemoryStorage;
use super::{Capabilities, Durability, Extent, Fencing, Storage, StorageError};
use crate::clock::Entropy;
use crate::units::{ByteCount, ByteOffset, SECTOR_BYTES};

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device reports an I/O error.
    Eio,
    /// The device or quota is full.
    NoSpace,
    /// Half of the bytes are moved, then the call gives up.
    Short,
    /// The call is interrupted before it did anything.
    Interrupted,
}

/// Which calls fail.
#[derive(Clone, Copy, Debug)]
pub struct FaultPlan {
    /// The first call to fail, counted from 1 since the plan was set.
    pub call: u64,
    /// How.
    pub fault: Fault,
    /// Every later call fails too.
    pub for_good: bool,
}

#[derive(Debug)]
enum Change {
    Write { at: u64, bytes: Vec<u8> },
    Punch { range: Range<u64> },
    Length(u64),
}

#[derive(Debug, Default)]
struct State {
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    calls: u64,
    plan: Option<FaultPlan>,
}

/// A disk in memory that fails as told.
#[derive(Debug, Default)]
pub struct FaultyStorage {
    current: MemoryStorage,
    state: Mutex<State>,
}

impl FaultyStorage {
    /// A disk on which `bytes` are durable.
    pub fn holding(bytes: Vec<u8>) -> Self {
        let state = State { durable: bytes.clone(), ..State::default() };
        Self { current: MemoryStorage::holding(bytes), state: Mutex::new(state) }
    }

    /// Sets which calls fail from now on, and counts from zero.
    pub fn set_plan(&self, plan: Option<FaultPlan>) {
        let mut state = self.lock();
        state.plan = plan;
        state.calls = 0;
    }

    /// Calls since the plan was set.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// The disk as a power cut now may leave it; `entropy` chooses among the possibilities.
    pub fn crash(&self, entropy: &dyn Entropy) -> Vec<u8> {
        let state = self.lock();
        let mut bytes = state.durable.clone();
        for change in &state.unsynced {
            apply_part(&mut bytes, change, entropy);
        }
        bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one call; the fault it meets, if any.
    fn meet(&self) -> Option<Fault> {
        let mut state = self.lock();
        state.calls += 1;
        let plan = state.plan?;
        let is_due =
            if plan.for_good { state.calls >= plan.call } else { state.calls == plan.call };
        is_due.then_some(plan.fault)
    }

    fn remember(&self, change: Change) {
        self.lock().unsynced.push(change);
    }
}

fn error_of(fault: Fault) -> StorageError {
    let errno = match fault {
        Fault::Eio | Fault::Short => libc::EIO,
        Fault::NoSpace => libc::ENOSPC,
        Fault::Interrupted => libc::EINTR,
    };
    StorageError::Io(std::io::Error::from_raw_os_error(errno))
}

fn short(at: ByteOffset, done: usize, wanted: usize) -> StorageError {
    let missing = ByteCount::new((wanted - done) as u64);
    StorageError::Short { at: ByteOffset::new(at.get() + done as u64), missing }
}

fn flip(entropy: &dyn Entropy) -> bool {
    let mut byte = [0];
    entropy.fill(&mut byte);
    byte[0] & 1 == 1
}

/// Lets `change` take effect on each sector or not, as the coin falls.
fn apply_part(bytes: &mut Vec<u8>, change: &Change, entropy: &dyn Entropy) {
    match change {
        Change::Length(len) if flip(entropy) => bytes.resize(*len as usize, 0),
        Change::Length(_) => {}
        Change::Write { at, bytes: new } => {
            for_sectors(*at..*at + new.len() as u64, |sector| {
                let end = sector.end as usize;
                if bytes.len() < end || !flip(entropy) {
                    return;
                }
                let source = (sector.start - at) as usize..(sector.end - at) as usize;
                bytes[sector.start as usize..end].copy_from_slice(&new[source]);
            });
        }
        Change::Punch { range } => {
            for_sectors(range.clone(), |sector| {
                let end = (sector.end as usize).min(bytes.len());
                let start = (sector.start as usize).min(end);
                if flip(entropy) {
                    bytes[start..end].fill(0);
                }
            });
        }
    }
}

/// Calls `each` for the part of every sector that lies in `range`.
fn for_sectors(range: Range<u64>, mut each: impl FnMut(Range<u64>)) {
    let mut at = range.start;
    while at < range.end {
        let until = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(range.end);
        each(at..until);
        at = until;
    }
}

impl Storage for FaultyStorage {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            punch_is_fast: true,
            ack_is_durable: false,
            writes_wait: false,
            fencing: Fencing::None,
        }
    }

    fn len(&self) -> Result<ByteCount, StorageError> {
        match self.meet() {
            Some(fault) => Err(error_of(fault)),
            None => self.current.len(),
        }
    }

    fn read_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), StorageError> {
        match self.meet() {
            Some(Fault::Short) => {
                let half = into.len() / 2;
                self.current.read_at(at, &mut into[..half])?;
                Err(short(at, half, into.len()))
            }
            Some(fault) => Err(error_of(fault)),
            None => self.current.read_at(at, into),
        }
    }

    /// Never without waiting, so that the waiting path is what tests take.
    fn read_cached_at(&self, _at: ByteOffset, _into: &mut [u8]) -> Result<bool, StorageError> {
        Ok(false)
    }

    fn write_at(
        &self,
        at: ByteOffset,
        from: &[u8],
        durability: Durability,
    ) -> Result<(), StorageError> {
        let (part, outcome) = match self.meet() {
            Some(Fault::Short) => (from.len() / 2, Err(short(at, from.len() / 2, from.len()))),
            Some(fault) => return Err(error_of(fault)),
            None => (from.len(), Ok(())),
        };
        self.current.write_at(at, &from[..part], durability)?;
        if durability == Durability::Durable && outcome.is_ok() {
            // FUA covers this write alone: it takes effect for sure, the earlier ones may not.
            let mut state = self.lock();
            let (start, end) = (at.get() as usize, at.get() as usize + part);
            if state.durable.len() < end {
                state.durable.resize(end, 0);
            }
            state.durable[start..end].copy_from_slice(&from[..part]);
            // Earlier unsynced changes below it must not come back over it.
            state.unsynced.push(Change::Write { at: at.get(), bytes: from[..part].to_vec() });
            state.settle(start as u64..end as u64);
            return Ok(());
        }
        self.remember(Change::Write { at: at.get(), bytes: from[..part].to_vec() });
        outcome
    }

    fn flush(&self) -> Result<(), StorageError> {
        let fault = self.meet();
        let mut state = self.lock();
        match fault {
            Some(Fault::Interrupted) => Err(error_of(Fault::Interrupted)),
            Some(fault) => {
                // The pages are marked clean: no later flush will bring them out.
                state.unsynced.clear();
                Err(error_of(fault))
            }
            None => {
                let changes = std::mem::take(&mut state.unsynced);
                for change in &changes {
                    apply_whole(&mut state.durable, change);
                }
                Ok(())
            }
        }
    }

    fn punch(&self, range: Range<ByteOffset>) -> Result<(), StorageError> {
        if let Some(fault) = self.meet() {
            return Err(error_of(fault));
        }
        self.remember(Change::Punch { range: range.start.get()..range.end.get() });
        self.current.punch(range)
    }

    fn extents(&self, range: Range<ByteOffset>, limit: usize) -> Result<Vec<Extent>, StorageError> {
        match self.meet() {
            Some(fault) => Err(error_of(fault)),
            None => self.current.extents(range, limit),
        }
    }

    fn set_len(&self, len: ByteCount) -> Result<(), StorageError> {
        if let Some(fault) = self.meet() {
            return Err(error_of(fault));
        }
        self.remember(Change::Length(len.get()));
        self.current.set_len(len)
    }
}

impl State {
    /// Cuts `range` out of every unsynced change: it was overtaken by a durable write.
    fn settle(&mut self, range: Range<u64>) {
        let changes = std::mem::take(&mut self.unsynced);
        for change in changes {
            match change {
                Change::Write { at, bytes } => {
                    let whole = at..at + bytes.len() as u64;
                    for part in outside(&whole, &range) {
                        let piece =
                            bytes[(part.start - at) as usize..(part.end - at) as usize].to_vec();
                        self.unsynced.push(Change::Write { at: part.start, bytes: piece });
                    }
                }
                Change::Punch { range: whole } => {
                    for part in outside(&whole, &range) {
                        self.unsynced.push(Change::Punch { range: part });
                    }
                }
                Change::Length(len) => self.unsynced.push(Change::Length(len)),
            }
        }
    }
}

/// The parts of `whole` that lie outside `cut`.
fn outside(whole: &Range<u64>, cut: &Range<u64>) -> Vec<Range<u64>> {
    [whole.start..whole.end.min(cut.start), whole.start.max(cut.end)..whole.end]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect()
}

fn apply_whole(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(len) => bytes.resize(*len as usize, 0),
        Change::Write { at, bytes: new } => {
            let (start, end) = (*at as usize, *at as usize + new.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(new);
        }
        Change::Punch { range } => {
            let end = (range.end as usize).min(bytes.len());
            let start = (range.start as usize).min(end);
            bytes[start..end].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededEntropy;

    fn at(bytes: u64) -> ByteOffset {
        ByteOffset::new(bytes)
    }

    #[test]
    fn what_was_flushed_survives_every_crash_and_the_rest_is_old_or_new() {
        let disk = FaultyStorage::holding(vec![0; 8192]);
        disk.write_at(at(0), &[1; 4096], Durability::Volatile).expect("a write");
        disk.flush().expect("a flush");
        disk.write_at(at(2048), &[2; 4096], Durability::Volatile).expect("a write");
        let mut outcomes = std::collections::HashSet::new();
        for seed in 0..64 {
            let image = disk.crash(&SeededEntropy::new(seed));
            assert!(image[..2048].iter().all(|byte| *byte == 1));
            assert!(image[2048..4096].iter().all(|byte| *byte == 1 || *byte == 2));
            assert!(image[6144..].iter().all(|byte| *byte == 0));
            outcomes.insert(image);
        }
        assert!(outcomes.len() > 30, "crashes differ");
    }

    #[test]
    fn after_a_failed_flush_the_writes_are_never_durable() {
        let disk = FaultyStorage::holding(vec![0; 4096]);
        disk.write_at(at(0), &[1; 512], Durability::Volatile).expect("a write");
        disk.set_plan(Some(FaultPlan { call: 1, fault: Fault::Eio, for_good: false }));
        disk.flush().expect_err("told to fail");
        disk.flush().expect("the device has forgotten");
        assert_eq!(disk.crash(&SeededEntropy::new(1)), vec![0; 4096]);
        let mut read = [0; 512];
        disk.read_at(at(0), &mut read).expect("a read");
        assert_eq!(read, [1; 512]);
    }

    #[test]
    fn a_durable_write_survives_though_earlier_ones_may_not() {
        for seed in 0..32 {
            let disk = FaultyStorage::holding(vec![0; 4096]);
            disk.write_at(at(0), &[1; 4096], Durability::Volatile).expect("a write");
            disk.write_at(at(512), &[2; 512], Durability::Durable).expect("a durable write");
            let image = disk.crash(&SeededEntropy::new(seed));
            assert_eq!(image[512..1024], [2; 512]);
        }
    }
}
