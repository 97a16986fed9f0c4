//! What differs between two snapshots: read off their layers, without a key.

use std::ops::Range;

use crate::ram::Caller;
use crate::units::ByteOffset;

use super::ControlError;
use super::registry::Disks;

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
        let _ = (caller, since, until, start, limit);
        Err(ControlError::unsupported("DescribeSnapshotDifference"))
    }
}
