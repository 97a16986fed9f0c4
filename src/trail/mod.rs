//! What happened: every use of a key, every change and every refusal, before the caller's answer.
//!
//! An append-only journal of JSON lines in segments of bounded size. Each line carries the MAC of
//! the line before and its own, under a key that is not on the disk in clear: who can write the
//! files cannot change, drop, add or swap a line unseen. (Lines cut off at the very end leave no
//! mark in what remains; compare [`Verified::last_seq`] with a number kept elsewhere.)
//!
//! [`Trail::record`] returns when the record is on the medium. Threads that record at the same time
//! share one `fdatasync`. After the first error of a write or a sync nobody knows what the medium
//! holds, so the trail refuses every record until a restart has read it again.
//!
//! Encryption contexts are recorded as given: they tie the use of a key to a disk. They are not
//! the place for secrets.

use std::path::Path;
use std::sync::Arc;

use crate::clock::{Clock, Entropy};
use crate::secret::Secret;

mod chain;
mod error;
mod event;
pub mod files;
mod journal;
mod lookup;
mod segment;

pub use error::{Damage, TrailError, Why};
pub use event::{Actor, Event, EventKind, ResourceType, Service};
pub use lookup::{
    Attribute, Direction, LOOKUP_RESULTS_DEFAULT, LOOKUP_RESULTS_MAX, Query, TrailPage,
};
pub use segment::Verified;

use files::{DirectoryFiles, SegmentFiles};
use journal::Journal;

/// The trail of one daemon.
pub struct Trail {
    journal: Journal,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Trail {
    /// Opens the journal in the directory `dir`, made (mode 0700) if it is not there, with the
    /// chain key `key`. Checks the chain of the last segment and cuts off a record that a crash
    /// left unfinished, which nobody was told of.
    ///
    /// # Errors
    /// [`TrailError::InUse`] if another process has it open, [`TrailError::Damaged`] if anything
    /// but an unfinished end is wrong, [`TrailError::Io`] if it cannot be read.
    pub fn open(
        dir: &Path,
        key: Secret,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, TrailError> {
        Self::open_on(Arc::new(DirectoryFiles::lock(dir)?), key, clock, entropy)
    }

    /// As [`Trail::open`], on any kind of files: tests let the n-th write fail.
    ///
    /// # Errors
    /// As [`Trail::open`].
    pub fn open_on(
        files: Arc<dyn SegmentFiles>,
        key: Secret,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, TrailError> {
        Ok(Self { journal: Journal::open(files, key)?, clock, entropy })
    }

    /// Records `event`: it is durable when this returns.
    ///
    /// # Errors
    /// [`TrailError::NoSegment`] if there is no room for a further segment: nothing was recorded, a
    /// later call may succeed. [`TrailError::Poisoned`] after any other error, from then on.
    pub fn record(&self, event: &Event) -> Result<(), TrailError> {
        let id = crate::clock::random_uuid(self.entropy.as_ref());
        self.journal.append(&event.render(id, self.clock.now()))
    }

    /// Events that meet `query`, a page of bounded work at a time. A page may be empty and still
    /// name a next one.
    ///
    /// # Errors
    /// [`TrailError::InvalidToken`] for a token that is not ours, [`TrailError::Damaged`] for a
    /// record that does not carry its MAC.
    pub fn lookup(&self, query: &Query) -> Result<TrailPage, TrailError> {
        lookup::lookup(&self.journal, query, self.clock.now())
    }

    /// The number of the last durable record; zero if there is none.
    pub fn last_seq(&self) -> u64 {
        self.journal.durable_seq()
    }
}

impl std::fmt::Debug for Trail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trail").field("last_seq", &self.last_seq()).finish_non_exhaustive()
    }
}

/// Checks every record in `dir`, whether or not a daemon is recording there.
///
/// # Errors
/// [`TrailError::Damaged`] names the first bad record.
pub fn verify(dir: &Path, key: &Secret) -> Result<Verified, TrailError> {
    segment::verify(&DirectoryFiles::read(dir), key)
}
