//! Where the units of a stack are to be looked for, so that a read of a deep stack goes to one
//! layer instead of through all.
//!
//! A region of [`REGION_UNITS`] neighbours has a byte for each: the position of the topmost layer
//! that may hold it, or zero. It is filled from the extents of the layers when it is first looked
//! at. What it says may be too high (the reader then goes on below, and lowers it), never too low.
//! So it is enough that
//! - who writes, with the locks of the units, raises it after writing;
//! - who fills makes the region findable first, all unknown, looks at the extents then, and
//!   replaces only what is still unknown: a write that did not find the region came before that
//!   look.
//!
//! The last one takes for granted that all who write tell this map, and that the layers of whoever
//! fills are all that they write to. While a stack is being exchanged neither holds, so then the
//! map is closed: what is on it is kept up and used, and nothing is filled.
//!
//! Memory is bounded whatever the disk's size: [`SLOTS`] regions a disk, one place for each, and
//! [`REGIONS_MAX`] in the process. Beyond it a read goes through the layers one by one.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwapOption, Guard};

use super::DiskError;
use super::stack::Stack;
use crate::units::DataUnit;

/// Units of a region: 4 MiB of 4096-byte units.
const REGION_UNITS: u64 = 1024;

/// Slots that are allocated together.
const GROUP: usize = 64;

/// Regions of a disk: what it does in 16 GiB is on the map.
const SLOTS: usize = 64 * GROUP;

/// Regions in the process: 64 MiB of them.
const REGIONS_MAX: usize = 64 << 10;

/// Nothing is known: look from the top.
const UNKNOWN: u8 = u8::MAX;

static REGIONS: AtomicUsize = AtomicUsize::new(0);

/// The map of a disk.
#[derive(Debug)]
pub(super) struct UnitMap {
    groups: [OnceLock<Box<[ArcSwapOption<Region>]>>; SLOTS / GROUP],
    /// Requests may be under way through two stacks.
    is_closed: AtomicBool,
}

/// What is known of neighbouring units.
#[derive(Debug)]
pub(super) struct Region {
    number: u64,
    positions: Box<[AtomicU8; REGION_UNITS as usize]>,
}

/// Units to be looked for from one position on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lead {
    /// The position; `None`: from the top.
    pub(super) position: Option<usize>,
    /// How many units.
    pub(super) units: u64,
}

impl UnitMap {
    /// With nothing on it.
    pub(super) fn new() -> Self {
        let groups = [const { OnceLock::new() }; SLOTS / GROUP];
        Self { groups, is_closed: AtomicBool::new(false) }
    }

    /// Closed before anybody has the new stack, open again when nobody has the old one.
    pub(super) fn set_open(&self, is_open: bool) {
        self.is_closed.store(!is_open, Ordering::SeqCst);
    }

    /// The region that `unit` is in, if it is on the map.
    pub(super) fn find(&self, unit: DataUnit) -> Option<Guard<Option<Arc<Region>>>> {
        let number = unit.get() / REGION_UNITS;
        let found = self.slot(number)?.load();
        found.as_ref().is_some_and(|region| region.number == number).then_some(found)
    }

    /// What holds for `units` units from `unit` on that are not on the map: up to the end of their
    /// region, look from the top.
    pub(super) fn unmapped(unit: DataUnit, units: u64) -> Lead {
        Lead { position: None, units: units.min(REGION_UNITS - unit.get() % REGION_UNITS) }
    }

    /// Whether the region that `unit` is in can be put on the map now: the process has a bound.
    pub(super) fn has_room(&self, unit: DataUnit) -> bool {
        if self.is_closed.load(Ordering::Relaxed) {
            return false;
        }
        let is_taken = |slot: &ArcSwapOption<Region>| slot.load().is_some();
        REGIONS.load(Ordering::Relaxed) < REGIONS_MAX
            || self.slot(unit.get() / REGION_UNITS).is_some_and(is_taken)
    }

    /// Puts the region that `unit` is in on the map, unless it is closed. The caller loaded `stack`
    /// under a lock and holds it.
    ///
    /// Whoever finds the map open here did so before it was closed, for it is not opened while
    /// anybody holds the old stack. So the region was there before anybody had the new stack, and
    /// those who write through that find it.
    ///
    /// # Errors
    /// Storage that cannot say what it holds.
    pub(super) fn fill(&self, stack: &Stack, unit: DataUnit) -> Result<(), DiskError> {
        let number = unit.get() / REGION_UNITS;
        let group = self.groups[group_of(number)]
            .get_or_init(|| (0..GROUP).map(|_| ArcSwapOption::empty()).collect());
        let region = Arc::new(Region::new(number));
        group[slot_in(number)].store(Some(Arc::clone(&region)));
        // Before the extents are looked at: whoever wrote without finding it has written.
        fence(Ordering::SeqCst);
        if self.is_closed.load(Ordering::SeqCst) {
            // A region that another one has just put there may go, too: it is only not known then.
            group[slot_in(number)].store(None);
            return Ok(());
        }
        region.fill(stack)
    }

    /// `units` units from `first` on were written at `position`, the top.
    pub(super) fn put(&self, first: DataUnit, units: u64, position: usize) {
        self.each(first, units, |at| at.store(position as u8, Ordering::Relaxed));
    }

    /// `units` units from `first` on were written at `position` in a stack `depth` deep; some may
    /// be above, too.
    pub(super) fn raise(&self, first: DataUnit, units: u64, position: usize, depth: usize) {
        self.each(first, units, |at| match at.load(Ordering::Relaxed) {
            // Whoever fills the region must find that it was touched.
            UNKNOWN => at.store(depth as u8, Ordering::Relaxed),
            old if usize::from(old) < position => at.store(position as u8, Ordering::Relaxed),
            _ => {}
        });
    }

    /// `units` units from `first` on were looked for at `position` in vain.
    pub(super) fn lower(&self, first: DataUnit, units: u64, position: usize) {
        self.each(first, units, |at| {
            let (from, to) = (position as u8, position as u8 - 1);
            let _ = at.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
        });
    }

    fn each(&self, first: DataUnit, units: u64, change: impl Fn(&AtomicU8)) {
        // After the write that is told here: see `fill`.
        fence(Ordering::SeqCst);
        let (mut at, end) = (first.get(), first.get() + units);
        while at < end {
            let number = at / REGION_UNITS;
            let until = end.min((number + 1) * REGION_UNITS);
            if let Some(found) = self.find(DataUnit::new(at))
                && let Some(region) = found.as_ref()
            {
                let within =
                    (at % REGION_UNITS) as usize..(at % REGION_UNITS + until - at) as usize;
                region.positions[within].iter().for_each(&change);
            }
            at = until;
        }
    }

    fn slot(&self, number: u64) -> Option<&ArcSwapOption<Region>> {
        Some(&self.groups[group_of(number)].get()?[slot_in(number)])
    }
}

const fn group_of(number: u64) -> usize {
    number as usize % SLOTS / GROUP
}

const fn slot_in(number: u64) -> usize {
    number as usize % GROUP
}

impl Region {
    fn new(number: u64) -> Self {
        REGIONS.fetch_add(1, Ordering::Relaxed);
        Self { number, positions: unknown() }
    }

    /// The run of units that are looked for alike from `first`, which is in the region, at most
    /// `units`.
    pub(super) fn lead(&self, first: DataUnit, units: u64) -> Lead {
        let start = (first.get() % REGION_UNITS) as usize;
        let end = self.positions.len().min(start + units as usize);
        let run = &self.positions[start..end];
        let position = run[0].load(Ordering::Relaxed);
        let alike = run[1..].iter().take_while(|at| at.load(Ordering::Relaxed) == position).count();
        let position = (position != UNKNOWN).then_some(usize::from(position));
        Lead { position, units: 1 + alike as u64 }
    }

    fn fill(&self, stack: &Stack) -> Result<(), DiskError> {
        let start = self.number * REGION_UNITS;
        let mut found = [0; REGION_UNITS as usize];
        for position in 1..=stack.depth() {
            let place = stack.at(position);
            let end = place.units().min(start + REGION_UNITS);
            let mut at = start;
            while at < end {
                let runs = place.extents(DataUnit::new(at), end - at, REGION_UNITS as usize)?;
                for run in &runs {
                    let from = (run.first.get() - start) as usize;
                    let until = from + run.units as usize;
                    if run.is_present {
                        found[from..until].fill(position as u8);
                    }
                }
                at = runs.last().map_or(end, |run| run.first.get() + run.units);
            }
        }
        for (at, position) in self.positions.iter().zip(found) {
            let _ = at.compare_exchange(UNKNOWN, position, Ordering::Relaxed, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn unknown() -> Box<[AtomicU8; REGION_UNITS as usize]> {
    Box::new([const { AtomicU8::new(UNKNOWN) }; REGION_UNITS as usize])
}

impl Drop for Region {
    fn drop(&mut self) {
        REGIONS.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::clock::{SeededEntropy, Timestamp};
    use crate::crypto::xts::Cipher;
    use crate::layer::{self, Layer, LayerSpec};
    use crate::storage::memory::MemoryStorage;
    use crate::units::{ByteCount, DataUnitSize};

    fn stack() -> Stack {
        let spec = LayerSpec {
            layer_id: Uuid::from_u128(1),
            disk_id: "d-modelmodelmodelmodel".to_owned(),
            parent: None,
            size: ByteCount::new(64 << 10),
            unit: DataUnitSize::B4096,
            cipher: Cipher::Null,
            created: Timestamp::from_unix_millis(0),
        };
        let storage = Arc::new(MemoryStorage::default());
        layer::format(&*storage, &spec, None, &SeededEntropy::new(1)).expect("a new layer");
        let header = layer::read_header(&*storage).expect("its header");
        Stack::single(Layer::open(storage, header, None).expect("the layer"))
    }

    /// Who looked whether there is room before the map was closed, and fills it afterwards.
    #[test]
    fn a_closed_map_is_used_and_not_filled() {
        let (map, stack, unit) = (UnitMap::new(), stack(), DataUnit::new(5));
        let other = DataUnit::new(REGION_UNITS);
        map.fill(&stack, unit).expect("filled");
        map.set_open(false);
        assert!(!map.has_room(other));
        map.fill(&stack, other).expect("left as it is");
        assert!(map.find(other).is_none());
        map.put(unit, 1, 2);
        let found = map.find(unit).expect("still there");
        let lead = found.as_ref().expect("a region").lead(unit, 3);
        assert_eq!(lead, Lead { position: Some(2), units: 1 });
        map.set_open(true);
        assert!(map.has_room(other));
        map.fill(&stack, other).expect("filled");
        assert!(map.find(other).is_some());
    }
}
