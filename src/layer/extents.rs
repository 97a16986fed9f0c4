//! Which units a layer may hold, without reading them.

use super::{Layer, LayerError, State};
use crate::storage::Extent;
use crate::units::{ByteCount, ByteOffset, DataUnit};

/// A run of units of which storage knows something, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitExtent {
    /// The first unit.
    pub first: DataUnit,
    /// How many; never zero.
    pub units: u64,
    /// `false`: absent for certain. `true`: storage holds something there; a read tells whether it
    /// is more than zeros.
    pub is_present: bool,
}

impl<S: State> Layer<S> {
    /// What lies in `units` units from `first` on, in order and without gaps, neighbours different,
    /// at most `limit` runs (at least one). The answer may end early, never before its first unit.
    ///
    /// # Errors
    /// A range outside the layer, or storage that fails.
    pub fn extents(
        &self,
        first: DataUnit,
        units: u64,
        limit: usize,
    ) -> Result<Vec<UnitExtent>, LayerError> {
        let beyond = LayerError::OutOfRange { first, bytes: ByteCount::new(u64::MAX) };
        let bytes = units.checked_mul(self.unit_size().bytes()).ok_or(beyond)?;
        let range = self.range_of(first, ByteCount::new(bytes))?;
        if units == 0 {
            return Ok(Vec::new());
        }
        let found = self.storage.extents(range.clone(), limit.max(1))?;
        Ok(in_units(&found, range.start, self.unit_size().bytes(), Run { first, units }, limit))
    }
}

/// Units asked for.
#[derive(Clone, Copy)]
struct Run {
    first: DataUnit,
    units: u64,
}

/// Rounds runs of bytes from `start` on to units: only a unit that lies in one hole is absent. The
/// answer of storage may have been cut off in the middle of a unit.
fn in_units(
    found: &[Extent],
    start: ByteOffset,
    unit: u64,
    asked: Run,
    limit: usize,
) -> Vec<UnitExtent> {
    let mut runs = Vec::new();
    // Units before `done` are in `runs`.
    let mut done = 0;
    for extent in found {
        let from = extent.start.since(start).get();
        let to = from + extent.len.get();
        let (begin, end) = match extent.is_data {
            true => (from / unit, to.div_ceil(unit)),
            false => (from.div_ceil(unit), to / unit),
        };
        let (begin, end) = (begin.max(done), end.min(asked.units));
        if begin < end {
            // Between two holes that meet inside a unit.
            push(&mut runs, asked.first.plus(done), begin - done, true);
            push(&mut runs, asked.first.plus(begin), end - begin, extent.is_data);
            done = end;
        }
    }
    if done == 0 {
        // Not even one unit is known whole, so it may hold something.
        push(&mut runs, asked.first, 1, true);
    }
    runs.truncate(limit.max(1));
    runs
}

fn push(runs: &mut Vec<UnitExtent>, first: DataUnit, units: u64, is_present: bool) {
    match runs.last_mut() {
        _ if units == 0 => {}
        Some(last) if last.is_present == is_present => last.units += units,
        _ => runs.push(UnitExtent { first, units, is_present }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNIT: u64 = 8;
    const ASKED: u64 = 16;

    /// Bytes that are data or not, as runs cut at random places, perhaps cut off at the end.
    fn runs_of(bytes: &[bool], cuts: &[bool]) -> Vec<Extent> {
        let mut runs: Vec<Extent> = Vec::new();
        for (at, is_data) in bytes.iter().copied().enumerate() {
            match runs.last_mut() {
                Some(last) if last.is_data == is_data && !cuts[at] => {
                    last.len = ByteCount::new(last.len.get() + 1);
                }
                _ => runs.push(Extent {
                    start: ByteOffset::new(1000 + at as u64),
                    len: ByteCount::new(1),
                    is_data,
                }),
            }
        }
        runs
    }

    proptest! {
        #[test]
        fn a_unit_called_absent_is_in_a_hole(
            flips in prop::collection::vec(prop::bool::weighted(0.1), 1..=(ASKED * UNIT) as usize),
            cuts in prop::collection::vec(prop::bool::weighted(0.05), (ASKED * UNIT) as usize),
            limit in 1_usize..6,
        ) {
            let mut is_data = false;
            let bytes: Vec<bool> = flips.iter().map(|flip| { is_data ^= flip; is_data }).collect();
            let found = runs_of(&bytes, &cuts);
            let asked = Run { first: DataUnit::new(70), units: ASKED };
            let runs = in_units(&found, ByteOffset::new(1000), UNIT, asked, limit);
            prop_assert!(!runs.is_empty() && runs.len() <= limit);
            let mut next = 70;
            let mut last = None;
            for run in runs {
                prop_assert!(run.units > 0 && run.first.get() == next);
                prop_assert_ne!(last, Some(run.is_present));
                last = Some(run.is_present);
                next += run.units;
                prop_assert!(next <= 70 + ASKED);
                for unit in run.first.get() - 70..next - 70 {
                    let whole = (unit * UNIT) as usize..((unit + 1) * UNIT) as usize;
                    let within = bytes.get(whole);
                    let is_hole = within.is_some_and(|unit| unit.iter().all(|data| !data));
                    prop_assert!(run.is_present || is_hole);
                }
            }
        }
    }
}
