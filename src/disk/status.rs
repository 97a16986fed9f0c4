//! Block status: which parts of a disk hold data.

use crate::units::{ByteCount, ByteOffset};

use super::{Disk, DiskError};

/// A run of bytes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskExtent {
    /// How long.
    pub len: ByteCount,
    /// Nothing was ever written there, or it was trimmed: it reads as zeros and takes no space.
    pub is_hole: bool,
}

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
        let unit = self.unit();
        let end = at.plus(len);
        let first = unit.unit_of(at);
        let units = unit.units_in(end.since(ByteOffset::ZERO)) - first.get();
        let mut extents = Vec::new();
        for run in self.top.extents(first, units, limit)? {
            // The first and last run are cut to the request.
            let from = unit.start_of(run.first).max(at);
            let to = unit.start_of(run.first.plus(run.units)).min(end);
            if from < to {
                extents.push(DiskExtent { len: to.since(from), is_hole: !run.is_present });
            }
        }
        Ok(extents)
    }
}
