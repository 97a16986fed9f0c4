//! What happened: every use of a key, every change and every refusal, before the caller's answer.
//!
//! An append-only journal of JSON lines in segments of bounded size. Each line carries the MAC of
//! the line before and its own, under a key that is not on the disk in clear: who can write the
//! files cannot change, drop, add or swap a line unseen. Lines cut off at the very end are missed
//! by the *head* beside the segments, which names the last one. (Who puts back an older copy of all
//! files is found only by a number kept elsewhere: compare [`Verified::last_seq`].) *Checkpoints*
//! among the lines, signed with Ed25519, let people check the trail who must not be able to write
//! it.
//!
//! [`Trail::record`] returns when the record is on the medium. Threads that record at the same time
//! share one `fdatasync`. After the first error of a write or a sync nobody knows what the medium
//! holds, so the trail refuses every record until a restart has read it again. A full device alone
//! is waited out: nothing is recorded, so nothing is done, until there is room.
//!
//! Encryption contexts are recorded as given: they tie the use of a key to a disk. They are not
//! the place for secrets.

use std::path::Path;
use std::sync::Arc;

use crate::clock::{Clock, Entropy};
use crate::crypto::ed25519::PublicKey;
use crate::secret::Secret;

mod chain;
mod checkpoint;
mod error;
mod event;
pub mod files;
mod head;
mod journal;
mod lookup;
mod segment;

pub use error::{Damage, TrailError, Why};
pub use event::{Actor, Event, EventKind, ResourceType, Service};
pub use lookup::{
    Attribute, Direction, LOOKUP_RESULTS_DEFAULT, LOOKUP_RESULTS_MAX, Query, TrailPage,
};
pub use segment::Verified;

use chain::{Checker, Keys};
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
        let journal = Journal::open(files, Keys::new(key), clock.now())?;
        Ok(Self { journal, clock, entropy })
    }

    /// Records `event`: it is durable when this returns.
    ///
    /// # Errors
    /// [`TrailError::NoSegment`] and [`TrailError::Full`] if there is no room: nothing was
    /// recorded, a later call may succeed. [`TrailError::Poisoned`] after any other error, from
    /// then on.
    pub fn record(&self, event: &Event) -> Result<(), TrailError> {
        let id = crate::clock::random_uuid(self.entropy.as_ref());
        let now = self.clock.now();
        self.journal.append(event.render(id, now), now)
    }

    /// Signs a checkpoint if there are records that none covers: by a timer, and before a stop.
    ///
    /// # Errors
    /// As [`Trail::record`].
    pub fn checkpoint(&self) -> Result<(), TrailError> {
        self.journal.checkpoint(self.clock.now())
    }

    /// What checks the checkpoints of this trail.
    pub fn public_key(&self) -> PublicKey {
        self.journal.keys().signing.public()
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
/// [`TrailError::Damaged`] names the first bad record; [`TrailError::NoHead`] if the head is
/// damaged.
pub fn verify(dir: &Path, key: &Secret) -> Result<Verified, TrailError> {
    verify_from(dir, key, 0)
}

/// As [`verify`], from the segment on that holds record `from`.
///
/// # Errors
/// As [`verify`].
pub fn verify_from(dir: &Path, key: &Secret, from: u64) -> Result<Verified, TrailError> {
    let keys = Keys::new(key.duplicate());
    segment::verify(&DirectoryFiles::read(dir), keys.checker(), from)
}

/// As [`verify_from`], by checkpoints alone: a record that was changed is found at the checkpoint
/// after it. What follows the last one is only known to be in order.
///
/// # Errors
/// As [`verify`].
pub fn verify_public(dir: &Path, public: PublicKey, from: u64) -> Result<Verified, TrailError> {
    segment::verify(&DirectoryFiles::read(dir), Checker { mac: None, public }, from)
}

/// What checks the checkpoints of the trail with this key.
pub fn public_key(key: &Secret) -> PublicKey {
    Keys::new(key.duplicate()).signing.public()
}
