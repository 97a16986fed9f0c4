//! How much room is left where the layers lie. Disks are thin: together they may promise more than
//! there is, and a write for which there is no room fails with `ENOSPC` until some is freed.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::catalog::{DiskFilter, Page};
use crate::metrics;
use crate::storage::store::Room;
use crate::units::ByteCount;

use super::ControlError;
use super::registry::Disks;

/// What is promised, taken and left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Sizes of all disks together, as their clients see them.
    pub advertised: ByteCount,
    /// What all layers take, as the file system counts it.
    pub allocated: ByteCount,
    /// The file system that they are on.
    pub room: Room,
}

/// A change that somebody should be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watermark {
    /// Less is left than was asked to be.
    Fell,
    /// There is enough again.
    Rose,
}

/// Says when room gets short, once each time.
#[derive(Debug)]
pub struct SpaceWatch {
    /// Percent of the file system; below it room is short. 0: never.
    low_percent: u8,
    is_low: AtomicBool,
}

impl SpaceWatch {
    /// Watches for less than `low_percent` of the file system; 0 watches for nothing.
    pub const fn new(low_percent: u8) -> Self {
        Self { low_percent, is_low: AtomicBool::new(false) }
    }

    /// Whether room was short when it was last measured.
    pub fn is_low(&self) -> bool {
        self.is_low.load(Ordering::Relaxed)
    }

    /// Takes a measurement; what changed by it. It rises only when a tenth more than the mark is
    /// free, so that a disk at the mark does not fill the log.
    pub fn observe(&self, room: Room) -> Option<Watermark> {
        let (free, total) = (u128::from(room.free.get()), u128::from(room.total.get()));
        let mark = total * u128::from(self.low_percent);
        let was_low = self.is_low();
        let is_low = free * 100 < if was_low { mark + mark / 10 } else { mark };
        self.is_low.store(is_low, Ordering::Relaxed);
        match (was_low, is_low) {
            (false, true) => Some(Watermark::Fell),
            (true, false) => Some(Watermark::Rose),
            _ => None,
        }
    }
}

impl Disks {
    /// Measures, and puts the outcome into the metrics.
    ///
    /// # Errors
    /// The catalog's, or the file system's.
    pub fn measure_space(&self) -> Result<Space, ControlError> {
        let disks = self.parts.catalog.disks(&DiskFilter::default(), Page::ALL)?.items;
        let store = &self.parts.store;
        let on_storage = |error| ControlError::Storage { file: store.locate(""), error };
        let layers = store.list().map_err(on_storage)?;
        let sum = |sizes: &mut dyn Iterator<Item = u64>| ByteCount::new(sizes.sum());
        let space = Space {
            advertised: sum(&mut disks.iter().map(|disk| disk.size.get())),
            allocated: sum(&mut layers.iter().map(|layer| layer.allocated.get())),
            room: store.room().map_err(on_storage)?,
        };
        metrics::space(space.advertised.get(), space.allocated.get(), space.room.free.get());
        Ok(space)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(free: u64) -> Room {
        Room { free: ByteCount::new(free), total: ByteCount::new(10_000) }
    }

    #[test]
    fn short_room_is_told_once_and_its_end_too() {
        let watch = SpaceWatch::new(5);
        assert_eq!(watch.observe(room(500)), None);
        assert_eq!(watch.observe(room(499)), Some(Watermark::Fell));
        assert_eq!((watch.observe(room(0)), watch.is_low()), (None, true));
        // At the mark it neither fell nor rose.
        assert_eq!(watch.observe(room(520)), None);
        assert_eq!((watch.observe(room(551)), watch.is_low()), (Some(Watermark::Rose), false));
        assert_eq!(SpaceWatch::new(0).observe(room(0)), None);
    }
}
