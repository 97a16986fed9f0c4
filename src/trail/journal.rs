//! The writing end: who records waits until a write and a sync have covered the record.
//!
//! Whoever finds nobody writing writes, for all that wait; the others wait for the outcome. While
//! one batch is being synced the next one gathers, so the cost of a sync is shared by as many as
//! come in meanwhile.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::chain;
use super::files::{SegmentFile, SegmentFiles, first_seq_of, name_of};
use super::segment::{self, Link, SEGMENT_BYTES_MAX};
use super::{TrailError, Why};
use crate::secret::Secret;

/// The journal of one trail.
pub(super) struct Journal {
    files: Arc<dyn SegmentFiles>,
    key: Secret,
    state: Mutex<State>,
    written: Condvar,
}

/// A segment and how much of it is durable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) first_seq: u64,
    pub(super) length: u64,
}

struct State {
    /// The last record that is durable.
    durable: Link,
    /// The last record that got its number.
    last: Link,
    waiting: VecDeque<Waiting>,
    /// All segments; the last one is being written.
    extents: Vec<Extent>,
    /// The last segment's file, while nobody writes.
    file: Option<Box<dyn SegmentFile>>,
    is_writing: bool,
    poison: Option<TrailError>,
}

struct Waiting {
    line: Vec<u8>,
    link: Link,
    outcome: Outcome,
}

type Outcome = Arc<OnceLock<Result<(), TrailError>>>;

impl Journal {
    pub(super) fn open(files: Arc<dyn SegmentFiles>, key: Secret) -> Result<Self, TrailError> {
        let names =
            files.list().map_err(|error| TrailError::io("listing", &files.path(""), error))?;
        let mut extents = Vec::with_capacity(names.len());
        for name in &names {
            let first_seq = first_seq_of(name);
            let first_seq = first_seq
                .ok_or_else(|| segment::damage(files.as_ref(), name, (1, 0), Why::WrongName))?;
            let length = files.open(name).and_then(|file| file.length());
            let length =
                length.map_err(|error| TrailError::io("reading", &files.path(name), error))?;
            extents.push(Extent { first_seq, length });
        }
        let (durable, file) = match names.as_slice() {
            [] => (Link::START, None),
            [.., last] => {
                let before = match names.as_slice() {
                    [.., before, _] => Some(segment::last_link(files.as_ref(), &key, before)?),
                    _ => None,
                };
                let (sound, file) = reopen(files.as_ref(), &key, last, before)?;
                if let Some(extent) = extents.last_mut() {
                    extent.length = sound.length;
                }
                (sound.last, Some(file))
            }
        };
        let state = State {
            durable,
            last: durable,
            waiting: VecDeque::new(),
            extents,
            file,
            is_writing: false,
            poison: None,
        };
        Ok(Self { files, key, state: Mutex::new(state), written: Condvar::new() })
    }

    /// Adds `event`; durable when it returns.
    pub(super) fn append(&self, event: &str) -> Result<(), TrailError> {
        let mut state = self.lock();
        if let Some(poison) = &state.poison {
            return Err(poison.clone());
        }
        let outcome = state.enqueue(&self.key, event);
        loop {
            if let Some(outcome) = outcome.get() {
                return outcome.clone();
            }
            state = if state.is_writing {
                self.written.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.write_batch(state)
            };
        }
    }

    pub(super) fn durable_seq(&self) -> u64 {
        self.lock().durable.seq
    }

    /// The segments as far as they are durable.
    pub(super) fn extents(&self) -> Vec<Extent> {
        self.lock().extents.clone()
    }

    pub(super) fn files(&self) -> &dyn SegmentFiles {
        self.files.as_ref()
    }

    pub(super) const fn key(&self) -> &Secret {
        &self.key
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes and syncs what waits, as much as one segment takes, with the lock open meanwhile.
    fn write_batch<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.is_writing = true;
        let mut batch = state.take_batch();
        let mut file = state.file.take();
        let mut extent = state.extents.last().copied();
        let first_waiting = state.waiting.front().map(|waiting| waiting.link.seq);
        drop(state);

        let result = match (&file, first_waiting) {
            (_, Some(first_seq)) if batch.is_empty() => {
                // The last segment is full, or there is none yet.
                if let (Some(full), Some(extent)) = (&file, extent) {
                    // Only gives back space; the records are durable already.
                    let _ = full.cut(extent.length);
                }
                self.new_segment(first_seq).map(|new| {
                    file = Some(new);
                    extent = Some(Extent { first_seq, length: 0 });
                })
            }
            (Some(file), _) => self.write_out(file.as_ref(), extent.as_mut(), &batch),
            (None, _) => Ok(()),
        };

        let mut state = self.lock();
        state.is_writing = false;
        state.file = file;
        match result {
            Ok(()) => state.settle(extent, &mut batch),
            Err(error) => state.refuse(&error, batch),
        }
        self.written.notify_all();
        state
    }

    fn new_segment(&self, first_seq: u64) -> Result<Box<dyn SegmentFile>, TrailError> {
        let name = name_of(first_seq);
        self.files.create(&name, SEGMENT_BYTES_MAX).map_err(|error| TrailError::NoSegment {
            path: self.files.path(&name),
            source: Arc::new(error),
        })
    }

    fn write_out(
        &self,
        file: &dyn SegmentFile,
        extent: Option<&mut Extent>,
        batch: &[Waiting],
    ) -> Result<(), TrailError> {
        let Some(extent) = extent else { return Ok(()) };
        let bytes: Vec<u8> = batch.iter().flat_map(|waiting| &waiting.line).copied().collect();
        let path = || self.files.path(&name_of(extent.first_seq));
        let written = write_full(file, &bytes, extent.length)
            .map_err(|error| TrailError::poisoned("writing", &path(), error))
            .and_then(|()| {
                file.sync().map_err(|error| TrailError::poisoned("syncing", &path(), error))
            });
        match written {
            Ok(()) => extent.length += bytes.len() as u64,
            Err(_) => {
                // Best effort: the next start should not find records of what was then refused.
                let _ = file.cut(extent.length).and_then(|()| file.sync());
            }
        }
        written
    }
}

impl State {
    fn enqueue(&mut self, key: &Secret, event: &str) -> Outcome {
        let seq = self.last.seq + 1;
        let (line, mac) = chain::seal(key, seq, self.durable.seq, &self.last.mac, event);
        let outcome = Outcome::default();
        self.last = Link { seq, mac };
        self.waiting.push_back(Waiting { line, link: self.last, outcome: outcome.clone() });
        outcome
    }

    /// What of the waiting records fits the last segment.
    fn take_batch(&mut self) -> Vec<Waiting> {
        let Some(extent) = self.extents.last() else { return Vec::new() };
        let mut length = extent.length;
        let count = self
            .waiting
            .iter()
            .take_while(|waiting| {
                length += waiting.line.len() as u64;
                length <= SEGMENT_BYTES_MAX
            })
            .count();
        self.waiting.drain(..count).collect()
    }

    /// A batch is durable, or a new segment is there.
    fn settle(&mut self, extent: Option<Extent>, batch: &mut Vec<Waiting>) {
        match (self.extents.last_mut(), extent) {
            (Some(last), Some(extent)) if last.first_seq == extent.first_seq => *last = extent,
            (_, Some(extent)) => self.extents.push(extent),
            (_, None) => {}
        }
        for waiting in batch.drain(..) {
            self.durable = waiting.link;
            let _ = waiting.outcome.set(Ok(()));
        }
    }

    /// Nothing of what waits will be recorded: those numbers were never used.
    fn refuse(&mut self, error: &TrailError, batch: Vec<Waiting>) {
        for waiting in batch.into_iter().chain(self.waiting.drain(..)) {
            let _ = waiting.outcome.set(Err(error.clone()));
        }
        self.last = self.durable;
        if matches!(error, TrailError::Poisoned { .. }) {
            self.poison = Some(error.clone());
        }
    }
}

fn reopen(
    files: &dyn SegmentFiles,
    key: &Secret,
    name: &str,
    before: Option<Link>,
) -> Result<(segment::Sound, Box<dyn SegmentFile>), TrailError> {
    let bytes = segment::read(files, name)?;
    let sound = segment::check(files, key, name, &bytes, before)?;
    let failed = |error| TrailError::io("mending the end of", &files.path(name), error);
    let file = files.open(name).map_err(failed)?;
    if sound.unfinished > 0 {
        tracing::warn!(
            segment = %files.path(name).display(),
            bytes = sound.unfinished,
            "the trail ends in a record that a crash cut short and nobody was told of; removed"
        );
        file.cut(sound.length).and_then(|()| file.sync()).map_err(failed)?;
    }
    Ok((sound, file))
}

fn write_full(file: &dyn SegmentFile, bytes: &[u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.write_at(&bytes[done..], at + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
