//! What several layers hold together, without reading them.

use crate::layer::{LayerError, UnitExtent};
use crate::units::DataUnit;

use super::stack::Place;

/// Runs asked of a layer at a time.
const BATCH: usize = 64;

/// Walks over the units of several layers: absent are those that are absent in all.
#[derive(Debug)]
pub(super) struct Union<'a> {
    cursors: Vec<Cursor<'a>>,
    at: u64,
    end: u64,
}

#[derive(Debug)]
struct Cursor<'a> {
    place: Place<'a>,
    /// The last first.
    runs: Vec<UnitExtent>,
}

impl<'a> Union<'a> {
    /// Of `units` units from `first` on.
    pub(super) fn of(places: impl Iterator<Item = Place<'a>>, first: DataUnit, units: u64) -> Self {
        let cursors = places.map(|place| Cursor { place, runs: Vec::new() }).collect();
        Self { cursors, at: first.get(), end: first.get() + units }
    }

    /// The next run of units, neighbours different, until there are none left.
    ///
    /// # Errors
    /// Storage that cannot say what it holds.
    pub(super) fn next_run(&mut self) -> Result<Option<UnitExtent>, LayerError> {
        let first = self.at;
        let mut is_present = None;
        while self.at < self.end {
            let (end, kind) = self.step()?;
            if *is_present.get_or_insert(kind) != kind {
                break;
            }
            self.at = end;
        }
        let run = |is_present| {
            let units = self.at - first;
            UnitExtent { first: DataUnit::new(first), units, is_present }
        };
        Ok(is_present.map(run))
    }

    /// Up to where what holds at the current unit holds for certain, and what.
    fn step(&mut self) -> Result<(u64, bool), LayerError> {
        let (mut hole, mut data) = (self.end, None);
        for cursor in &mut self.cursors {
            let (end, is_present) = cursor.run_at(self.at, self.end)?;
            if is_present {
                data = data.max(Some(end));
            } else {
                hole = hole.min(end);
            }
        }
        Ok(data.map_or((hole, false), |end| (end, true)))
    }
}

impl Cursor<'_> {
    /// The end of the run that the unit `at` is in, and whether it may be there.
    fn run_at(&mut self, at: u64, end: u64) -> Result<(u64, bool), LayerError> {
        loop {
            while let Some(run) = self.runs.last() {
                let run_end = run.first.get() + run.units;
                if run_end > at {
                    return Ok((run_end, run.is_present));
                }
                self.runs.pop();
            }
            let held = end.min(self.place.units());
            if at >= held {
                return Ok((end, false));
            }
            self.runs = self.place.extents(DataUnit::new(at), held - at, BATCH)?;
            self.runs.reverse();
        }
    }
}
