//! What differs between two snapshots: read off their layers, without a key.

use std::ops::Range;

use crate::catalog::LayerRecord;
use crate::layer::DATA_OFFSET;
use crate::ram::Caller;
use crate::trail::ResourceType;
use crate::units::{ByteCount, ByteOffset, DataUnitSize};

use super::ControlError;
use super::registry::Disks;

/// Runs asked of a layer at a time.
const BATCH: usize = 256;

/// Runs of bytes that may differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// In order, apart from each other, whole data units; the last may reach past the size.
    pub changed: Vec<Range<ByteOffset>>,
    /// Where to go on; `None`: that was all.
    pub next: Option<ByteOffset>,
}

impl Disks {
    /// At most `limit` runs from `start` on in which the snapshot `until` may differ from `since`,
    /// which it stands on; without `since`, all that is not a hole.
    ///
    /// # Errors
    /// `InvalidSnapshotId.NotFound`, `InvalidSnapshotId.NotReady`; `InvalidParameter.Mismatch` if
    /// `until` does not stand on `since`.
    pub fn difference(
        &self,
        caller: &Caller,
        (since, until): (Option<&str>, &str),
        start: ByteOffset,
        limit: usize,
    ) -> Result<Difference, ControlError> {
        let thing = (ResourceType::Snapshot, until);
        self.recorded(caller, "DescribeSnapshotDifference", thing, || {
            let action = "sealdisk:DescribeSnapshotDifference";
            self.allow_on(caller, action, &format!("snapshot/{until}"))?;
            let layers = self.layers_between(since, until)?;
            let mut runs = Runs { changed: Vec::new(), limit: limit.max(1) };
            let mut at = start.get() / UNIT * UNIT;
            let end = self.ready_snapshot(until)?.size.get().div_ceil(UNIT) * UNIT;
            while at < end {
                let window = end.min(at + WINDOW);
                if let Some(stop) = self.changed_in(&layers, at..window, &mut runs)? {
                    let next = Some(ByteOffset::new(stop));
                    return Ok(Difference { changed: runs.changed, next });
                }
                at = window;
            }
            Ok(Difference { changed: runs.changed, next: None })
        })
    }

    /// The layers of `until` that `since` does not have, bottom first.
    pub(super) fn layers_between(
        &self,
        since: Option<&str>,
        until: &str,
    ) -> Result<Vec<LayerRecord>, ControlError> {
        let until = self.ready_snapshot(until)?;
        let mut chain = self.parts.catalog.chain(&until.layer_id)?;
        let Some(since) = since else { return Ok(chain) };
        let since = self.ready_snapshot(since)?;
        match chain.iter().position(|layer| layer.layer_id == since.layer_id) {
            Some(position) => Ok(chain.split_off(position + 1)),
            None => {
                let message = format!(
                    "The snapshot {} does not stand on {}: what differs is not known.",
                    until.snapshot_id, since.snapshot_id
                );
                Err(ControlError::refused("InvalidParameter.Mismatch", 403, message))
            }
        }
    }

    /// Adds what any of `layers` holds in `window`; where it stopped, if there was no more room.
    fn changed_in(
        &self,
        layers: &[LayerRecord],
        window: Range<u64>,
        runs: &mut Runs,
    ) -> Result<Option<u64>, ControlError> {
        let mut held: Vec<Range<u64>> = Vec::new();
        for layer in layers {
            let name = &layer.file_name;
            let storage = self.parts.store.open_reader(name);
            let storage = storage.map_err(|error| self.on_storage(name, error))?;
            let end = window.end.min(layer.size.get().div_ceil(UNIT) * UNIT);
            let mut at = window.start;
            while at < end {
                let place = |bytes| DATA_OFFSET.plus(ByteCount::new(bytes));
                let extents = storage
                    .extents(place(at)..place(end), BATCH)
                    .map_err(|error| self.on_storage(name, error))?;
                for extent in extents {
                    let from = extent.start.get() - DATA_OFFSET.get();
                    let to = from + extent.len.get();
                    if extent.is_data {
                        held.push(from / UNIT * UNIT..to.div_ceil(UNIT) * UNIT);
                    }
                    at = at.max(to);
                }
            }
        }
        held.sort_by_key(|run| run.start);
        Ok(held.into_iter().find_map(|run| runs.add(run)))
    }
}

const UNIT: u64 = DataUnitSize::B4096.bytes();

/// Bytes looked at together: bounds the memory, whatever the size.
const WINDOW: u64 = 1 << 30;

/// Runs found so far, neighbours joined.
struct Runs {
    changed: Vec<Range<ByteOffset>>,
    limit: usize,
}

impl Runs {
    /// Adds a run that begins no earlier than the last one; where it begins, if there is no room.
    fn add(&mut self, run: Range<u64>) -> Option<u64> {
        let is_full = self.changed.len() >= self.limit;
        match self.changed.last_mut() {
            Some(last) if run.start <= last.end.get() => {
                last.end = ByteOffset::new(last.end.get().max(run.end));
            }
            Some(last) if is_full => return Some(run.start.max(last.end.get())),
            _ => self.changed.push(ByteOffset::new(run.start)..ByteOffset::new(run.end)),
        }
        None
    }
}
