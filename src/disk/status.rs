//! Block status: which parts of a disk hold data, and which have changed.

use uuid::Uuid;

use crate::units::{ByteCount, ByteOffset};

use super::union::Union;
use super::{Disk, DiskError};

/// A run of bytes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskExtent {
    /// How long.
    pub len: ByteCount,
    /// Nothing was ever written there, or it was trimmed: it reads as zeros and takes no space.
    pub is_hole: bool,
}

/// A run of bytes of a disk, against an older state of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangedExtent {
    /// How long.
    pub len: ByteCount,
    /// Something was written there since; it may read as it did. `false`: nothing, for certain.
    pub is_changed: bool,
}

/// Runs found under one hold of the locks: requests wait meanwhile.
const RUNS_MAX: usize = 256;

impl Disk {
    /// The runs from `at`, in order and without gaps, at most `limit`. They may end before the
    /// range does; there is at least one.
    ///
    /// # Errors
    /// The device's.
    pub fn extents(
        &self,
        at: ByteOffset,
        len: ByteCount,
        limit: usize,
    ) -> Result<Vec<DiskExtent>, DiskError> {
        let found = self.runs(at, len, limit, None)?;
        let extent = |(len, is_present): (_, bool)| DiskExtent { len, is_hole: !is_present };
        Ok(found.into_iter().map(extent).collect())
    }

    /// What was written since the layer `since` was frozen: the runs from `at`, as
    /// [`Disk::extents`].
    ///
    /// # Errors
    /// The device's; [`DiskError::Stack`] if the disk does not stand on that layer.
    pub fn changed_since(
        &self,
        since: Uuid,
        at: ByteOffset,
        len: ByteCount,
        limit: usize,
    ) -> Result<Vec<ChangedExtent>, DiskError> {
        let found = self.runs(at, len, limit, Some(since))?;
        let extent = |(len, is_changed): (_, bool)| ChangedExtent { len, is_changed };
        Ok(found.into_iter().map(extent).collect())
    }

    /// Runs of what the layers above `floor` hold together.
    fn runs(
        &self,
        at: ByteOffset,
        len: ByteCount,
        limit: usize,
        floor: Option<Uuid>,
    ) -> Result<Vec<(ByteCount, bool)>, DiskError> {
        let unit = self.unit();
        let end = at.plus(len);
        let first = unit.unit_of(at);
        let units = unit.units_in(end.since(ByteOffset::ZERO)) - first.get();
        // Meanwhile nothing moves from one layer to another.
        let _guard = self.locks.read(first, units);
        let stack = self.stack.load();
        let floor = stack.floor(floor, stack.depth())?;
        let mut union = Union::of(stack.above(floor), first, units);
        let mut runs = Vec::new();
        while runs.len() < limit.clamp(1, RUNS_MAX)
            && let Some(run) = union.next_run()?
        {
            // The first and last run are cut to the request.
            let from = unit.start_of(run.first).max(at);
            let to = unit.start_of(run.first.plus(run.units)).min(end);
            if from < to {
                runs.push((to.since(from), run.is_present));
            }
        }
        Ok(runs)
    }
}
