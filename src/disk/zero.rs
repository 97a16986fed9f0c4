//! Trim and write zeroes: whole units become holes, edges are written.
//!
//! A hole uncovers the layers below. So where one of them holds anything, zeros are written
//! instead, and trim, which is a hint, leaves the units as they are: old data never comes back.
//!
//! A request may cover the whole disk. It goes forward in steps so that other requests get their
//! turn between them; a unit is never seen half zeroed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::layer::{LayerError, UnitExtent};
use crate::storage::Durability;
use crate::units::{ByteCount, ByteOffset, DataUnit};

use super::align::{Parts, Span};
use super::stack::{Member, Stack};
use super::union::Union;
use super::{Disk, DiskError};

/// Units that are punched under one hold of the locks: 1 GiB of 4096-byte units.
const PUNCH_UNITS: u64 = 1 << 18;

/// Bytes of encrypted zeros written at a time.
const ZEROES_BYTES: usize = 1 << 20;

/// How zeros are to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zeroing {
    /// Space must stay allocated: write encrypted zeros instead of holes (NO_HOLE).
    pub keep_allocated: bool,
    /// Refuse unless it takes constant time (FAST_ZERO).
    pub only_if_fast: bool,
    /// Durable before the call returns (FUA).
    pub durability: Durability,
}

/// What becomes of units under which another layer holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Covered {
    /// They stay as they are.
    Keep,
    /// Zeros are written.
    Zero,
}

impl Stack {
    /// The first run of `units` units, at least one, that the layers below the top hold or do not
    /// hold. What power loss may bring back they hold.
    fn first_below(&self, first: DataUnit, units: u64) -> Result<UnitExtent, LayerError> {
        if self.below.is_empty() {
            return Ok(UnitExtent { first, units, is_present: false });
        }
        let run = Union::of(self.parents(), first, units).next_run()?;
        let run = run.expect("there is at least one unit");
        let may_come_back = |member: &Arc<Member>| member.mark.is_releasing.load(Ordering::Acquire);
        let is_present = run.is_present || self.below.iter().any(may_come_back);
        Ok(UnitExtent { is_present, ..run })
    }
}

impl Disk {
    /// Gives back the space of all whole units in the range; parts of units stay as they are.
    ///
    /// # Errors
    /// The device's.
    pub fn trim(
        &self,
        at: ByteOffset,
        len: ByteCount,
        durability: Durability,
    ) -> Result<(), DiskError> {
        let (first, units) = Parts::of(self.unit(), at, len).body;
        self.clear(first, units, Covered::Keep)?;
        self.settle(durability)
    }

    /// Makes the range read as zeros.
    ///
    /// # Errors
    /// [`DiskError::NotFaster`] if only a fast way was asked for and there is none: nothing was
    /// changed then. Else the device's.
    pub fn write_zeroes(
        &self,
        at: ByteOffset,
        len: ByteCount,
        how: Zeroing,
    ) -> Result<(), DiskError> {
        if how.only_if_fast && (how.keep_allocated || !self.capabilities().punch_is_fast) {
            return Err(DiskError::NotFaster);
        }
        let parts = Parts::of(self.unit(), at, len);
        if how.only_if_fast && self.covers_any(parts.body)? {
            return Err(DiskError::NotFaster);
        }
        if let Some((head, bytes)) = parts.head {
            self.write_zero_bytes(head, bytes)?;
        }
        let (first, units) = parts.body;
        if how.keep_allocated {
            self.write_zero_units(first, units)?;
        } else {
            self.clear(first, units, Covered::Zero)?;
        }
        if let Some((tail, bytes)) = parts.tail {
            self.write_zero_bytes(tail, bytes)?;
        }
        self.settle(how.durability)
    }

    /// Makes units absent, or does what `covered` says to those that cover something.
    fn clear(&self, first: DataUnit, units: u64, covered: Covered) -> Result<(), DiskError> {
        let mut done = 0;
        while done < units {
            let (at, step) = (first.plus(done), (units - done).min(PUNCH_UNITS));
            // How much to lock. What is below may be another layer until the lock is held.
            let run = self.stack.load_full().first_below(at, step)?;
            let is_written = run.is_present && covered == Covered::Zero;
            let most = if is_written { self.zero_units() } else { step };
            let step = run.units.min(most);
            let _guard = self.locks.write(at, step);
            let stack = self.stack.load();
            let run = stack.first_below(at, step)?;
            match covered {
                _ if !run.is_present => stack.top.punch_units(at, run.units)?,
                Covered::Keep => {}
                Covered::Zero => {
                    let units = run.units.min(self.zero_units());
                    let mut data = vec![0; units as usize * self.unit().as_usize()];
                    stack.write(at, &mut data)?;
                    done += units;
                    continue;
                }
            }
            done += run.units;
        }
        Ok(())
    }

    /// Whether any layer below the top holds something there.
    fn covers_any(&self, (first, units): (DataUnit, u64)) -> Result<bool, DiskError> {
        if units == 0 {
            return Ok(false);
        }
        let run = self.stack.load_full().first_below(first, units)?;
        Ok(run.is_present || run.units < units)
    }

    fn zero_units(&self) -> u64 {
        (ZEROES_BYTES / self.unit().as_usize()) as u64
    }

    fn write_zero_units(&self, first: DataUnit, units: u64) -> Result<(), DiskError> {
        let unit = self.unit();
        let step_units = self.zero_units();
        let mut data = vec![0; ZEROES_BYTES.min(units as usize * unit.as_usize())];
        let mut done = 0;
        while done < units {
            let step = (units - done).min(step_units);
            let bytes = step as usize * unit.as_usize();
            // The last round left ciphertext here.
            data[..bytes].fill(0);
            let span = Span::covering(unit, unit.start_of(first.plus(done)), bytes);
            self.write(&span, &mut data[..bytes], Durability::Volatile)?;
            done += step;
        }
        Ok(())
    }

    fn write_zero_bytes(&self, at: ByteOffset, bytes: usize) -> Result<(), DiskError> {
        let span = self.span(at, bytes);
        let mut data = [0; 4096];
        self.write(&span, &mut data[..span.covered_bytes()], Durability::Volatile)
    }

    fn settle(&self, durability: Durability) -> Result<(), DiskError> {
        match durability {
            Durability::Durable => self.flush(),
            Durability::Volatile => Ok(()),
        }
    }
}
