//! Units that are decrypted from where storage has them in memory, some here and some there.

use super::data::absent_sectors;
use super::{Layer, State};
use crate::storage::{View, prefetch};
use crate::units::{ByteCount, DataUnit};

/// Neighbouring units of a layer, as far as storage has them in memory.
#[derive(Debug)]
pub struct Shown {
    view: View,
    first: DataUnit,
}

/// Whole units where storage has them.
#[derive(Clone, Copy, Debug)]
pub struct Sealed<'a> {
    first: DataUnit,
    bytes: &'a [u8],
}

impl Shown {
    /// Whether all that was decrypted so far was the layer's. If not, read another way.
    pub fn is_sound(&self) -> bool {
        self.view.is_sound()
    }
}

impl Sealed<'_> {
    /// Has the first `lines` cache lines fetched while the caller goes on.
    pub fn prefetch(&self, lines: usize) {
        prefetch(self.bytes, lines);
    }
}

impl<S: State> Layer<S> {
    /// What storage shows of `units` units from `first` on, some of which a request of `request`
    /// bytes wants. The caller holds the locks of those.
    pub fn show(&self, first: DataUnit, units: u64, request: ByteCount) -> Option<Shown> {
        let held = self.units().checked_sub(first.get())?.min(units);
        let bytes = ByteCount::new(held * self.unit_size().bytes());
        let view = self.storage.view(&self.range_of(first, bytes).ok()?, request)?;
        Some(Shown { view, first })
    }

    /// The units from `first` on, `units` of them; `None`: not all are shown.
    pub fn sealed<'a>(
        &self,
        shown: &'a Shown,
        first: DataUnit,
        units: usize,
    ) -> Option<Sealed<'a>> {
        let unit = self.unit_size().as_usize();
        let start = first.get().checked_sub(shown.first.get())? as usize * unit;
        let bytes = shown.view.bytes(start..start + units * unit)?;
        Some(Sealed { first, bytes })
    }

    /// Fills `data`, as long as what is sealed, with its plaintext. `false`: not all sectors of it
    /// are there, and `data` is undefined.
    ///
    /// They are looked at afterwards: before, lines here and there in memory that nobody has read
    /// yet would take longer than to read all of it in order.
    pub fn decrypt_sealed(&self, sealed: &Sealed<'_>, data: &mut [u8]) -> bool {
        self.codec.decrypt_to(sealed.first, sealed.bytes, data);
        let mut units = sealed.bytes.chunks_exact(self.unit_size().as_usize());
        units.all(|unit| absent_sectors(unit) == 0)
    }
}
