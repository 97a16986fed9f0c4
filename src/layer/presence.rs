//! Which units of a read the layer had something to say about.

use std::ops::Range;

use crate::limits::REQUEST_BYTES_MAX;

const WORD_BITS: usize = u64::BITS as usize;
const UNITS_AT_FIRST: usize = REQUEST_BYTES_MAX as usize / 4096;

/// A present unit of a layer with a parent, some sectors of which were never written there: power
/// loss tore its first write. They are to be read below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Which unit of the read.
    pub index: usize,
    /// One bit for each sector that is not there, the first one lowest; neither none nor all.
    pub absent: u8,
}

/// One bit per unit read since [`Presence::clear`]. Made once per thread and used again: after the
/// first read of the largest request nothing is allocated any more.
#[derive(Debug)]
pub struct Presence {
    words: Vec<u64>,
    units: usize,
    present: usize,
    torn: Vec<Torn>,
}

impl Presence {
    /// Room for the largest request in 4096-byte units.
    pub fn new() -> Self {
        let words = Vec::with_capacity(UNITS_AT_FIRST / WORD_BITS);
        Self { words, units: 0, present: 0, torn: Vec::new() }
    }

    /// How many units were read.
    pub const fn len(&self) -> usize {
        self.units
    }

    /// Whether nothing was read.
    pub const fn is_empty(&self) -> bool {
        self.units == 0
    }

    /// How many units were absent.
    pub const fn absent_count(&self) -> usize {
        self.units - self.present
    }

    /// Whether unit `index` of the read was present; `false` past its end.
    pub fn is_present(&self, index: usize) -> bool {
        let word = self.words.get(index / WORD_BITS).copied().unwrap_or(0);
        word >> (index % WORD_BITS) & 1 == 1
    }

    /// Runs of equal units in order: which indices, and whether they were present.
    pub fn runs(&self) -> impl Iterator<Item = (Range<usize>, bool)> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            if next >= self.units {
                return None;
            }
            let (start, is_present) = (next, self.is_present(next));
            next = self.end_of_run(start, is_present);
            Some((start..next, is_present))
        })
    }

    /// Forgets what was read.
    pub fn clear(&mut self) {
        self.words.clear();
        self.torn.clear();
        (self.units, self.present) = (0, 0);
    }

    /// The units that are there in part, in no order, until they are taken.
    pub fn take_torn(&mut self) -> Vec<Torn> {
        std::mem::take(&mut self.torn)
    }

    /// The end of the run of units like `start`, which was read.
    pub fn run_end(&self, start: usize) -> usize {
        self.end_of_run(start, self.is_present(start))
    }

    /// Forgets all units from index `len` on, the last that were added.
    pub fn truncate(&mut self, len: usize) {
        self.units = self.units.min(len);
        self.words.truncate(self.units.div_ceil(WORD_BITS));
        if let Some(last) = self.words.last_mut()
            && !self.units.is_multiple_of(WORD_BITS)
        {
            *last &= (1 << (self.units % WORD_BITS)) - 1;
        }
        let units = self.units;
        self.torn.retain(|torn| torn.index < units);
        self.present = self.words.iter().map(|word| word.count_ones() as usize).sum();
    }

    /// Adds `units` units, absent until [`Presence::set`]; the index of the first.
    pub fn extend(&mut self, units: usize) -> usize {
        let first = self.units;
        self.units += units;
        self.words.resize(self.units.div_ceil(WORD_BITS), 0);
        first
    }

    /// Adds `units` units that are present.
    pub fn extend_present(&mut self, units: usize) {
        let first = self.extend(units);
        (first..first + units).for_each(|index| self.set(index));
    }

    /// Unit `index`, not set before, is present.
    pub fn set(&mut self, index: usize) {
        self.words[index / WORD_BITS] |= 1 << (index % WORD_BITS);
        self.present += 1;
    }

    /// Unit `index`, which is present, has sectors that are not there.
    pub(super) fn set_torn(&mut self, index: usize, absent: u8) {
        self.torn.push(Torn { index, absent });
    }

    /// Skips a word at a time where a run covers it.
    fn end_of_run(&self, start: usize, is_present: bool) -> usize {
        let mut at = start;
        while at < self.units {
            let word = self.words[at / WORD_BITS] >> (at % WORD_BITS);
            let same = if is_present { word.trailing_ones() } else { word.trailing_zeros() };
            let left = WORD_BITS - at % WORD_BITS;
            let step = (same as usize).min(left);
            at += step;
            if step < left {
                break;
            }
        }
        at.min(self.units)
    }
}

impl Default for Presence {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_say_what_the_bits_say(bits in prop::collection::vec(any::<bool>(), 0..400)) {
            let mut presence = Presence::new();
            presence.extend(9000);
            presence.set(8999);
            presence.clear();
            let cut = bits.len() / 3;
            prop_assert_eq!(presence.extend(cut), 0);
            prop_assert_eq!(presence.extend(bits.len() - cut), cut);
            for (index, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
                presence.set(index);
            }
            let mut seen = Vec::new();
            let mut last = None;
            for (run, is_present) in presence.runs() {
                prop_assert!(!run.is_empty());
                prop_assert_ne!(last, Some(is_present));
                last = Some(is_present);
                seen.resize(run.end, is_present);
            }
            prop_assert_eq!(&seen, &bits);
            prop_assert_eq!(presence.absent_count(), bits.iter().filter(|bit| !**bit).count());
        }
    }

    proptest! {
        #[test]
        fn what_is_forgotten_leaves_what_was_before(
            bits in prop::collection::vec(any::<bool>(), 0..300),
            kept in 0_usize..300,
        ) {
            let set = |presence: &mut Presence, bits: &[bool]| {
                let base = presence.extend(bits.len());
                let set = bits.iter().enumerate().filter(|(_, bit)| **bit);
                set.for_each(|(index, _)| presence.set(base + index));
            };
            let (before, after) = bits.split_at(kept.min(bits.len()));
            let (mut presence, mut expected) = (Presence::new(), Presence::new());
            [before, after].iter().for_each(|part| set(&mut presence, part));
            presence.truncate(before.len());
            [before, after].iter().for_each(|part| set(&mut expected, part));
            set(&mut presence, after);
            prop_assert!(presence.runs().eq(expected.runs()));
            prop_assert_eq!(presence.absent_count(), expected.absent_count());
        }
    }

    #[test]
    fn the_largest_request_fits_from_the_start() {
        let mut presence = Presence::new();
        let before = presence.words.capacity();
        presence.extend(UNITS_AT_FIRST);
        assert_eq!(presence.words.capacity(), before);
        assert!(!presence.is_present(UNITS_AT_FIRST + 1000));
    }
}
