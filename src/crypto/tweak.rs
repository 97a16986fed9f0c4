//! plain64: how the number of a data unit becomes the tweak of its cipher.

use crate::units::{DataUnit, DataUnitSize, Sector};

/// The 16 bytes that make equal plaintext differ from place to place.
pub type Tweak = [u8; 16];

/// The tweak of `sector` (dm-crypt `plain64`): its number, little-endian, in 16 bytes.
pub fn plain64(sector: Sector) -> Tweak {
    let mut tweak = [0; 16];
    tweak[..8].copy_from_slice(&sector.get().to_le_bytes());
    tweak
}

/// The tweak of `unit`. plain64 counts 512-byte sectors whatever the unit's size, so with 4096-byte
/// units it steps by eight.
pub fn of_unit(size: DataUnitSize, unit: DataUnit) -> Tweak {
    plain64(size.sector_of(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_sectors_little_endian() {
        let mut expected = [0; 16];
        expected[..2].copy_from_slice(&[0x08, 0x20]);
        assert_eq!(of_unit(DataUnitSize::B4096, DataUnit::new(0x401)), expected);
        assert_eq!(of_unit(DataUnitSize::B512, DataUnit::new(0x2008)), expected);
    }
}
