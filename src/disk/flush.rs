//! Flush, and the memory of a flush that failed.
//!
//! After a failed fsync the kernel marks the pages clean: a second fsync succeeds although the data
//! is lost. So the first failure is final. Every later flush or FUA write fails until the disk is
//! detached and attached again, and the export says why.

use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

use super::stack::{Member, Stack};
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
        let outcome = self.stack.load_full().flush();
        if outcome.is_err() {
            self.flush_state.lose();
        }
        // Another thread's flush may have failed while ours succeeded on pages marked clean.
        self.flush_state.check().and(outcome)
    }

    /// Whether a flush has failed since the disk was attached.
    pub fn has_lost_a_flush(&self) -> bool {
        self.flush_state.check().is_err()
    }

    /// Makes everything that one layer holds survive power loss: what clients wrote to it and what
    /// was pulled into it.
    ///
    /// # Errors
    /// The device's; from then on the layer is never said to be flushed until it is opened again.
    /// [`DiskError::Stack`] if the disk has no such layer.
    pub fn flush_layer(&self, layer_id: Uuid) -> Result<(), DiskError> {
        let stack = self.stack.load_full();
        match stack.depth() - stack.position(layer_id)? {
            0 => self.flush(),
            down => {
                let member = &stack.below[down - 1];
                let outcome = member.flush();
                if outcome.is_err() && !member.is_settled.load(Ordering::Acquire) {
                    self.flush_state.lose();
                }
                outcome
            }
        }
    }
}

impl Stack {
    /// Flushes what clients may have written to: the top, and those that were the top until then.
    fn flush(&self) -> Result<(), DiskError> {
        self.top.flush()?;
        for member in &self.below {
            if !member.is_settled.load(Ordering::Acquire) {
                member.flush()?;
            }
        }
        Ok(())
    }
}

impl Member {
    /// Nothing is written to it while this runs, but what is pulled into it.
    fn flush(&self) -> Result<(), DiskError> {
        let outcome = self.layer.flush();
        if outcome.is_err() {
            self.is_doubtful.store(true, Ordering::Release);
        }
        if self.is_doubtful.load(Ordering::Acquire) {
            return Err(outcome.err().map_or(DiskError::FlushLost, DiskError::from));
        }
        self.is_settled.store(true, Ordering::Release);
        Ok(())
    }
}
