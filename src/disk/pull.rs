//! Pulling: what lies below a layer is copied up into it, while the disk is in use.
//!
//! ```text
//! target   | a . . . |      | a b c . |      | a b c . |
//! between  | . b . . |  ->  | . b . . |  ->  | . . . . |  ->  (left out)
//! between  | . x c . |      | . x c . |      | . . . . |
//! floor    | d d d d |      | d d d d |      | d d d d |
//!                   pull_units       punch_below      switch
//! ```
//!
//! What the disk reads is the same after every step, so each can be cut off, done again, and done
//! beside requests. [`Disk::flush_layer`] stands before [`Disk::punch_below`] and before
//! [`Disk::switch`]: what is let go of below must survive power loss above.

use std::fmt;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use super::stack::{Place, Stack};
use super::union::Union;
use super::{Disk, DiskError};
use crate::layer::{LayerError, Presence, UnitExtent};
use crate::units::{ByteCount, DataUnit, SECTOR_BYTES};

/// Most bytes copied under one hold of the locks.
const STEP_BYTES: usize = 256 << 10;

/// Units that are let go of under one hold of the locks: 1 MiB of 4096-byte units, which takes a
/// third of a millisecond where the page cache has them.
const RELEASE_UNITS: u64 = 1 << 8;

const SECTOR: usize = SECTOR_BYTES as usize;

/// How far a pull came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Where to go on: everything before it is done. Past the range asked for if nothing lies
    /// there; the number of units of the disk if nothing is left.
    pub next: DataUnit,
    /// Bytes that were copied.
    pub copied: ByteCount,
}

/// How work in the background is cut up, so that requests come in between.
pub struct Strides<'a> {
    /// Bytes copied at a time; at most 256 KiB are, and no less than a unit.
    pub bytes: usize,
    /// Called after each stride, while no locks are held.
    pub between: &'a mut dyn FnMut(),
}

impl fmt::Debug for Strides<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strides").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Disk {
    /// Copies `units` units from `first` on up into the layer `target`, as far as it has nothing
    /// there and a layer between it and `floor` has. `floor` itself stays out; `None`: down to the
    /// bottom. The target is the top, or a frozen layer that was opened for writing and that this
    /// disk alone uses.
    ///
    /// # Errors
    /// The device's, or a full one's: nothing is lost, it can be done again.
    /// [`DiskError::Stack`] if the layers do not lie in that order.
    pub fn pull_units(
        &self,
        target: Uuid,
        floor: Option<Uuid>,
        first: DataUnit,
        units: u64,
    ) -> Result<Pulled, DiskError> {
        let strides = &mut Strides { bytes: STEP_BYTES, between: &mut || {} };
        self.pull_units_by(strides, (target, floor), first, units)
    }

    /// As [`Disk::pull_units`] into the first layer of a pair down to the second, by strides.
    ///
    /// # Errors
    /// As [`Disk::pull_units`].
    pub fn pull_units_by(
        &self,
        strides: &mut Strides<'_>,
        (target, floor): (Uuid, Option<Uuid>),
        first: DataUnit,
        units: u64,
    ) -> Result<Pulled, DiskError> {
        let between = Between { target, floor };
        // Layers that are still change by pulls alone, so this holds without locks. Those below
        // the target stay so, whatever is pushed meanwhile.
        let stack = self.still_stack();
        let (low, high) = between.positions(&stack)?;
        let all = stack.at(high).units();
        let left = all.saturating_sub(first.get());
        let places = (low + 1..high).rev().map(|position| stack.at(position));
        let mut union = Union::of(places, first, left);
        let end = first.get() + units.min(left);
        let (mut next, mut copied) = (first.get().min(all), 0);
        let mut copy = Copy::new(self.unit().as_usize());
        while next < end
            && let Some(run) = union.next_run()?
        {
            let run_end = run.first.get() + run.units;
            if run.is_present {
                let run = UnitExtent { units: run_end.min(end) - run.first.get(), ..run };
                copied += self.pull_run(between, &run, &mut copy, strides)?;
                next = run_end.min(end);
            } else {
                next = run_end;
            }
        }
        Ok(Pulled { next: DataUnit::new(next), copied: ByteCount::new(copied) })
    }

    fn pull_run(
        &self,
        between: Between,
        run: &UnitExtent,
        copy: &mut Copy,
        strides: &mut Strides<'_>,
    ) -> Result<u64, DiskError> {
        let step_units = (strides.bytes.min(STEP_BYTES) / self.unit().as_usize()).max(1) as u64;
        let (mut done, mut copied) = (0, 0);
        while done < run.units {
            let (first, units) = (run.first.plus(done), step_units.min(run.units - done));
            {
                let stack = self.stack.load_full();
                let (low, high) = between.positions(&stack)?;
                copy.gather((low + 1..high).rev().map(|at| stack.at(at)), first, units)?;
            }
            {
                let _guard = self.locks.write_unseen(first, units);
                let stack = self.stack.load();
                let (_, high) = between.positions(&stack)?;
                copied += copy.store(&stack, high)?;
            }
            done += units;
            (strides.between)();
        }
        Ok(copied)
    }

    /// Gives back the space of `units` units from `first` on in the layers between `target` and
    /// `floor`, for good: it flushes them. The units were pulled and flushed, and nothing but this
    /// disk reads those layers.
    ///
    /// # Errors
    /// As [`Disk::pull_units`].
    pub fn punch_below(
        &self,
        target: Uuid,
        floor: Option<Uuid>,
        first: DataUnit,
        units: u64,
    ) -> Result<(), DiskError> {
        self.punch_below_by(&mut || {}, (target, floor), first, units)
    }

    /// As [`Disk::punch_below`] between the layers of a pair. `pause` is called now and then, while
    /// no locks of units are held.
    ///
    /// # Errors
    /// As [`Disk::pull_units`].
    pub fn punch_below_by(
        &self,
        pause: &mut dyn FnMut(),
        (target, floor): (Uuid, Option<Uuid>),
        first: DataUnit,
        units: u64,
    ) -> Result<(), DiskError> {
        let between = Between { target, floor };
        let _one = self.releases.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < units {
            let (from, step) = (first.plus(done), RELEASE_UNITS.min(units - done));
            {
                let _guard = self.locks.write_unseen(from, step);
                let stack = self.stack.load();
                let (low, high) = between.positions(&stack)?;
                for member in stack.members(low + 1..high) {
                    // Until this is flushed no hole is made above: power loss could bring units of
                    // one layer back and not those of another, and a hole would show them.
                    member.mark.is_releasing.store(true, Ordering::Release);
                    // A disk that grew has smaller layers below: they may end before.
                    let held = member.layer.units().saturating_sub(from.get()).min(step);
                    if held > 0 {
                        member.layer.release_units(from, held)?;
                    }
                }
            }
            done += step;
            pause();
        }
        let stack = self.stack.load_full();
        let (low, high) = between.positions(&stack)?;
        for member in stack.members(low + 1..high) {
            member.layer.settle()?;
            member.mark.is_releasing.store(false, Ordering::Release);
        }
        Ok(())
    }
}

/// The layers between two.
#[derive(Clone, Copy, Debug)]
struct Between {
    target: Uuid,
    floor: Option<Uuid>,
}

impl Between {
    /// Positions of the floor and the target.
    fn positions(self, stack: &Stack) -> Result<(usize, usize), DiskError> {
        let high = stack.position(self.target)?;
        Ok((stack.floor(self.floor, high)?, high))
    }
}

/// Units on their way up, as plaintext, with a bit for each sector that is there.
#[derive(Debug)]
struct Copy {
    unit: usize,
    first: DataUnit,
    data: Vec<u8>,
    sectors: Vec<u8>,
    /// What one layer has of them.
    seen: Vec<u8>,
    seen_sectors: Vec<u8>,
    present: Presence,
}

impl Copy {
    fn new(unit: usize) -> Self {
        Self {
            unit,
            first: DataUnit::new(0),
            data: vec![0; STEP_BYTES],
            sectors: Vec::new(),
            seen: vec![0; STEP_BYTES],
            seen_sectors: Vec::new(),
            present: Presence::new(),
        }
    }

    /// Reads what `places`, the upper first, have of these units.
    fn gather<'a>(
        &mut self,
        places: impl Iterator<Item = Place<'a>>,
        first: DataUnit,
        units: u64,
    ) -> Result<(), LayerError> {
        self.first = first;
        self.sectors.clear();
        self.sectors.resize(units as usize, 0);
        for place in places {
            self.look(place)?;
            for index in 0..self.sectors.len() {
                let gained = self.seen_sectors[index] & !self.sectors[index];
                self.take(index, gained);
                self.sectors[index] |= gained;
            }
        }
        Ok(())
    }

    /// Writes to the layer at `position` what it does not have; how many bytes. The caller holds
    /// the locks.
    fn store(&mut self, stack: &Stack, position: usize) -> Result<u64, DiskError> {
        let place = stack.at(position);
        self.look(place)?;
        let (mut index, mut copied) = (0, 0);
        while index < self.sectors.len() {
            let start = index;
            while index < self.sectors.len() && self.sectors[index] & !self.seen_sectors[index] != 0
            {
                // What is there already is written as it is.
                self.take(index, self.seen_sectors[index]);
                self.sectors[index] |= self.seen_sectors[index];
                index += 1;
            }
            if start == index {
                index += 1;
                continue;
            }
            let (first, units) = (self.first.plus(start as u64), (index - start) as u64);
            let bytes = start * self.unit..index * self.unit;
            let outcome = place.fill(first, &mut self.data[bytes], &self.sectors[start..index]);
            // Also after a failure: part of it may be there.
            if let Some(map) = &stack.map {
                map.raise(first, units, position, stack.depth());
            }
            outcome?;
            copied += units * self.unit as u64;
        }
        Ok(copied)
    }

    /// Reads what one layer has.
    fn look(&mut self, place: Place<'_>) -> Result<(), LayerError> {
        let units = self.sectors.len();
        self.seen_sectors.clear();
        self.seen_sectors.resize(units, 0);
        let held = place.units().saturating_sub(self.first.get()).min(units as u64);
        let mut at = 0;
        while at < held {
            for run in place.extents(self.first.plus(at), held - at, units)? {
                if run.is_present {
                    self.look_at_run(place, at as usize, run.units as usize)?;
                }
                at += run.units;
            }
        }
        Ok(())
    }

    fn look_at_run(
        &mut self,
        place: Place<'_>,
        index: usize,
        units: usize,
    ) -> Result<(), LayerError> {
        let whole = u8::MAX >> (8 - self.unit / SECTOR);
        let bytes = index * self.unit..(index + units) * self.unit;
        self.present.clear();
        place.read(self.first.plus(index as u64), &mut self.seen[bytes], &mut self.present)?;
        (0..units)
            .filter(|offset| self.present.is_present(*offset))
            .for_each(|offset| self.seen_sectors[index + offset] = whole);
        for torn in self.present.take_torn() {
            self.seen_sectors[index + torn.index] &= !torn.absent;
        }
        Ok(())
    }

    /// Takes over `sectors` of a unit from what the layer has.
    fn take(&mut self, index: usize, sectors: u8) {
        for sector in (0..self.unit / SECTOR).filter(|sector| sectors >> sector & 1 == 1) {
            let start = index * self.unit + sector * SECTOR;
            let bytes = start..start + SECTOR;
            self.data[bytes.clone()].copy_from_slice(&self.seen[bytes]);
        }
    }
}
