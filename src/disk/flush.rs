//! Flush, and the memory of a flush that failed.
//!
//! After a failed fsync the kernel marks the pages clean: a second fsync succeeds although the data
//! is lost. So the first failure is final. Every later flush or FUA write fails until the disk is
//! detached and attached again, and the export says why.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Disk, DiskError};

/// Whether data that clients were promised may be lost.
#[derive(Debug, Default)]
pub(super) struct FlushState {
    is_lost: AtomicBool,
}

impl FlushState {
    pub(super) fn check(&self) -> Result<(), DiskError> {
        if self.is_lost.load(Ordering::Acquire) { Err(DiskError::FlushLost) } else { Ok(()) }
    }

    pub(super) fn lose(&self) {
        self.is_lost.store(true, Ordering::Release);
    }
}

impl Disk {
    /// Makes every write that was answered before this call survive power loss, whichever
    /// connection it came by.
    ///
    /// # Errors
    /// The device's; from then on [`DiskError::FlushLost`].
    pub fn flush(&self) -> Result<(), DiskError> {
        self.flush_state.check()?;
        let outcome = self.top.flush();
        if outcome.is_err() {
            self.flush_state.lose();
        }
        // Another thread's flush may have failed while ours succeeded on pages marked clean.
        self.flush_state.check().and(outcome.map_err(DiskError::from))
    }

    /// Whether a flush has failed since the disk was attached.
    pub fn has_lost_a_flush(&self) -> bool {
        self.flush_state.check().is_err()
    }
}
