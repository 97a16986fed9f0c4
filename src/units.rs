//! Positions and lengths on a disk, each with its unit in its type.
//!
//! A *sector* is always 512 bytes: the step of the plain64 tweak. A *data unit* is what one tweak
//! covers (512 or 4096 bytes). Both stand beside bytes in the same arithmetic, so neither is a
//! bare integer outside this file.

use std::fmt;

/// Bytes in a sector: the step in which plain64 counts, whatever the data unit's size.
pub const SECTOR_BYTES: u64 = 512;

/// A distance from the start of a disk or file, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteOffset(u64);

/// A length in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteCount(u64);

/// The number of a 512-byte sector, counted from the start of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sector(u64);

/// The number of a data unit, counted from the start of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataUnit(u64);

/// How many bytes one data unit has: 512 or 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DataUnitSize(u32);

impl ByteOffset {
    /// The first byte.
    pub const ZERO: Self = Self(0);

    /// The position `bytes` after the start.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes from the start.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position `count` further on, or `None` past 2^64.
    pub const fn checked_add(self, count: ByteCount) -> Option<Self> {
        match self.0.checked_add(count.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The position `count` further on.
    ///
    /// # Panics
    /// Past 2^64; callers hold a range that was checked against a disk's size.
    #[must_use]
    pub const fn plus(self, count: ByteCount) -> Self {
        Self(self.0 + count.0)
    }

    /// Bytes from `earlier` to here.
    ///
    /// # Panics
    /// If `earlier` is later.
    pub const fn since(self, earlier: Self) -> ByteCount {
        ByteCount(self.0 - earlier.0)
    }
}

impl ByteCount {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// That many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The length of a slice.
    pub const fn of(slice: &[u8]) -> Self {
        Self(slice.len() as u64)
    }

    /// Bytes as an integer.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Bytes as a length in memory. Every target we build for has 64-bit addresses.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl Sector {
    /// Sectors from the start of the disk.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl DataUnit {
    /// The data unit with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Data units from the start of the disk.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The data unit `units` further on.
    #[must_use]
    pub const fn plus(self, units: u64) -> Self {
        Self(self.0 + units)
    }
}

impl DataUnitSize {
    /// 512 bytes: readable, not what we create.
    pub const B512: Self = Self(512);
    /// 4096 bytes: what new layers have.
    pub const B4096: Self = Self(4096);

    /// The size if it is one we support.
    pub const fn new(bytes: u32) -> Option<Self> {
        match bytes {
            512 | 4096 => Some(Self(bytes)),
            _ => None,
        }
    }

    /// Bytes in one data unit.
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    /// Bytes in one data unit, as a length in memory.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// The data unit that holds the byte at `offset`.
    pub const fn unit_of(self, offset: ByteOffset) -> DataUnit {
        DataUnit(offset.0 / self.0 as u64)
    }

    /// Where `unit` starts.
    pub const fn start_of(self, unit: DataUnit) -> ByteOffset {
        ByteOffset(unit.0 * self.0 as u64)
    }

    /// The 512-byte sector at which `unit` starts: what plain64 takes as tweak.
    pub const fn sector_of(self, unit: DataUnit) -> Sector {
        Sector(unit.0 * (self.0 as u64 / SECTOR_BYTES))
    }

    /// How many whole units `bytes` holds, rounded up.
    pub const fn units_in(self, bytes: ByteCount) -> u64 {
        bytes.0.div_ceil(self.0 as u64)
    }

    /// Whether `offset` is the first byte of a unit.
    pub const fn is_aligned(self, offset: ByteOffset) -> bool {
        offset.0.is_multiple_of(self.0 as u64)
    }
}

impl fmt::Display for ByteOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}", self.0)
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain64_steps_by_eight_with_4096_byte_units() {
        assert_eq!(DataUnitSize::B4096.sector_of(DataUnit::new(3)).get(), 24);
        assert_eq!(DataUnitSize::B512.sector_of(DataUnit::new(3)).get(), 3);
    }

    #[test]
    fn only_two_unit_sizes_exist() {
        for bytes in [0, 1, 511, 513, 1024, 2048, 8192, u32::MAX] {
            assert!(DataUnitSize::new(bytes).is_none());
        }
    }

    #[test]
    fn sums_past_two_to_the_64_are_refused() {
        let last = ByteOffset::new(u64::MAX);
        assert_eq!(last.checked_add(ByteCount::new(1)), None);
        assert_eq!(last.checked_add(ByteCount::ZERO), Some(last));
    }
}
