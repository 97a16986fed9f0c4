//! Flush, and the memory of a flush that failed.
//!
//! After a failed fsync the kernel marks the pages clean: a second fsync succeeds although the data
//! is lost. So the first failure is final. Every later flush or FUA write fails until the disk is
//! detached and attached again, and the export says why.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

use super::stack::{Member, Stack};
use super::{Disk, DiskError};
use crate::layer::{Layer, Writable};

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
        let outcome = self.flush_written();
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
        let member = {
            let stack = self.stack.load();
            let down = stack.depth() - stack.position(layer_id)?;
            down.checked_sub(1).map(|index| Arc::clone(&stack.below[index]))
        };
        let Some(member) = member else { return self.flush() };
        let outcome = member.flush();
        if outcome.is_err() && !member.mark.is_settled.load(Ordering::Acquire) {
            self.flush_state.lose();
        }
        outcome
    }

    /// Flushes what clients may have written to: the top, and those that were the top until then.
    fn flush_written(&self) -> Result<(), DiskError> {
        // Not through the stack: an exchange would wait for the device.
        let (top, members) = self.stack.load().written();
        top.flush()?;
        members.iter().try_for_each(|member| member.flush())
    }
}

impl Stack {
    /// The layers that clients may have written to since they were flushed last.
    fn written(&self) -> (Layer<Writable>, Vec<Arc<Member>>) {
        let is_open = |member: &&Arc<Member>| !member.mark.is_settled.load(Ordering::Acquire);
        (self.top.clone(), self.below.iter().filter(is_open).cloned().collect())
    }
}

impl Member {
    fn flush(&self) -> Result<(), DiskError> {
        // Looked at first: what a straggler writes later this flush does not cover.
        let is_still = self.mark.is_still.load(Ordering::Acquire);
        let outcome = self.layer.flush();
        if outcome.is_err() {
            self.mark.is_doubtful.store(true, Ordering::Release);
        }
        if self.mark.is_doubtful.load(Ordering::Acquire) {
            return Err(outcome.err().map_or(DiskError::FlushLost, DiskError::from));
        }
        if is_still {
            self.mark.is_settled.store(true, Ordering::Release);
        }
        Ok(())
    }
}
