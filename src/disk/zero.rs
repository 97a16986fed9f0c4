//! Trim and write zeroes: whole units become holes, edges are written.
//!
//! A request may cover the whole disk. It goes forward in steps so that other requests get their
//! turn between them; a unit is never seen half zeroed.

use crate::storage::Durability;
use crate::units::{ByteCount, ByteOffset, DataUnit};

use super::align::{Parts, Span};
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
        self.punch(first, units)?;
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
        if let Some((head, bytes)) = parts.head {
            self.write_zero_bytes(head, bytes)?;
        }
        let (first, units) = parts.body;
        if how.keep_allocated {
            self.write_zero_units(first, units)?;
        } else {
            self.punch(first, units)?;
        }
        if let Some((tail, bytes)) = parts.tail {
            self.write_zero_bytes(tail, bytes)?;
        }
        self.settle(how.durability)
    }

    fn punch(&self, first: DataUnit, units: u64) -> Result<(), DiskError> {
        let mut done = 0;
        while done < units {
            let step = (units - done).min(PUNCH_UNITS);
            let _guard = self.locks.write(first.plus(done), step);
            self.top.punch_units(first.plus(done), step)?;
            done += step;
        }
        Ok(())
    }

    fn write_zero_units(&self, first: DataUnit, units: u64) -> Result<(), DiskError> {
        let unit = self.unit();
        let step_units = (ZEROES_BYTES / unit.as_usize()) as u64;
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
