//! The writing end: who records waits until a write and a sync have covered the record.
//!
//! Whoever finds nobody writing writes, for all that wait; the others wait for the outcome. While
//! one batch is being synced the next one gathers, so the cost of a sync is shared by as many as
//! come in meanwhile.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::chain::{self, Keys};
use super::checkpoint::{self, CHECKPOINT_LINE_BYTES_MAX, Since};
use super::files::{SegmentFile, SegmentFiles, first_seq_of, name_of};
use super::head::Head;
use super::segment::{self, Before, Link, SEGMENT_BYTES_MAX};
use super::{TrailError, Why};
use crate::clock::Timestamp;

/// Time after which a record is covered by a checkpoint, if further ones or the daemon's timer come
/// by.
pub(super) const CHECKPOINT_AGE_MAX: Duration = Duration::from_secs(60);

/// The journal of one trail.
pub(super) struct Journal {
    files: Arc<dyn SegmentFiles>,
    keys: Keys,
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
    waiting: Vec<Waiting>,
    /// All segments; the last one is being written.
    extents: Vec<Extent>,
    /// The writing end, while nobody writes.
    writer: Option<Writer>,
    poison: Option<TrailError>,
}

/// What only the one who writes touches.
struct Writer {
    /// The last segment's file.
    file: Option<Box<dyn SegmentFile>>,
    head: Head,
    since: Since,
    /// When the first record was made that no checkpoint covers yet.
    uncovered: Option<Timestamp>,
}

struct Waiting {
    entry: Entry,
    now: Timestamp,
    outcome: Outcome,
}

enum Entry {
    /// An event, as JSON.
    Event(String),
    /// A checkpoint, unless there is nothing to cover.
    Checkpoint,
}

type Outcome = Arc<OnceLock<Result<(), TrailError>>>;

/// Lines made of what waits, to be written in one go.
struct Batch {
    bytes: Vec<u8>,
    /// How many of the waiting are in it.
    count: usize,
    last: Link,
    since: Since,
    uncovered: Option<Timestamp>,
}

impl Journal {
    pub(super) fn open(
        files: Arc<dyn SegmentFiles>,
        keys: Keys,
        now: Timestamp,
    ) -> Result<Self, TrailError> {
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
        let (head, last_known) = Head::open(files.as_ref(), &keys.mac, names.is_empty())?;
        let known = last_known
            .ok_or_else(|| TrailError::NoHead { path: files.path(super::files::HEAD_NAME) })?;
        let end = open_end(files.as_ref(), &keys, &names, known)?;
        if let (Some(extent), Some(length)) = (extents.last_mut(), end.length) {
            extent.length = length;
        }
        let uncovered = (end.since.records > 0).then_some(now);
        let writer = Some(Writer { file: end.file, head, since: end.since, uncovered });
        let state = State { durable: end.last, waiting: Vec::new(), extents, writer, poison: None };
        Ok(Self { files, keys, state: Mutex::new(state), written: Condvar::new() })
    }

    /// Adds `event`, made `now`; durable when it returns.
    pub(super) fn append(&self, event: String, now: Timestamp) -> Result<(), TrailError> {
        self.enter(Entry::Event(event), now)
    }

    /// Adds a checkpoint, if there are records that none covers.
    pub(super) fn checkpoint(&self, now: Timestamp) -> Result<(), TrailError> {
        if self.durable_seq() == 0 { Ok(()) } else { self.enter(Entry::Checkpoint, now) }
    }

    fn enter(&self, entry: Entry, now: Timestamp) -> Result<(), TrailError> {
        let mut state = self.lock();
        if let Some(poison) = &state.poison {
            return Err(poison.clone());
        }
        let outcome = Outcome::default();
        state.waiting.push(Waiting { entry, now, outcome: Arc::clone(&outcome) });
        loop {
            if let Some(outcome) = outcome.get() {
                return outcome.clone();
            }
            state = match state.writer.take() {
                None => self.written.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(writer) => self.write_batch(state, writer),
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

    pub(super) const fn keys(&self) -> &Keys {
        &self.keys
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes and syncs what waits, as much as one segment takes, with the lock open meanwhile.
    fn write_batch<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        mut writer: Writer,
    ) -> MutexGuard<'a, State> {
        let mut waiting = std::mem::take(&mut state.waiting);
        let (durable, extent) = (state.durable, state.extents.last().copied());
        drop(state);
        let result = self.write(&mut writer, &waiting, durable, extent);
        let mut state = self.lock();
        state.writer = Some(writer);
        match result {
            Ok((extent, batch)) => {
                let rest = waiting.split_off(batch.count);
                state.settle(extent, batch.last, waiting);
                let later = std::mem::replace(&mut state.waiting, rest);
                state.waiting.extend(later);
            }
            Err(error) => state.refuse(&error, waiting),
        }
        self.written.notify_all();
        state
    }

    /// Composes, writes and syncs one batch, in a new segment if the last one is full.
    fn write(
        &self,
        writer: &mut Writer,
        waiting: &[Waiting],
        durable: Link,
        extent: Option<Extent>,
    ) -> Result<(Option<Extent>, Batch), TrailError> {
        let mut extent = extent;
        let mut batch = self.compose(writer, waiting, durable, extent);
        if batch.count == 0 {
            if let (Some(full), Some(extent)) = (&writer.file, extent) {
                // Only gives back space; the records are durable already.
                let _ = full.cut(extent.length);
            }
            let first_seq = durable.seq + 1;
            writer.file = Some(self.new_segment(first_seq)?);
            extent = Some(Extent { first_seq, length: 0 });
            batch = self.compose(writer, waiting, durable, extent);
        }
        if let (Some(file), Some(extent)) = (&writer.file, extent.as_mut())
            && !batch.bytes.is_empty()
            && let Err(error) = self.write_out(file.as_ref(), extent, &batch.bytes)
        {
            self.keep_empty(*extent);
            return Err(error);
        }
        writer.since = batch.since.clone();
        writer.uncovered = batch.uncovered;
        writer.head.put(&self.keys.mac, batch.last);
        Ok((extent, batch))
    }

    /// Makes lines of what waits, as far as the segment has room. Nothing fits none.
    fn compose(
        &self,
        writer: &Writer,
        waiting: &[Waiting],
        durable: Link,
        extent: Option<Extent>,
    ) -> Batch {
        let mut batch = Batch {
            bytes: Vec::new(),
            count: 0,
            last: durable,
            since: writer.since.clone(),
            uncovered: writer.uncovered,
        };
        let Some(extent) = extent else { return batch };
        let room = (SEGMENT_BYTES_MAX - extent.length.min(SEGMENT_BYTES_MAX)) as usize;
        let is_first_of_segment = extent.length == 0 && extent.first_seq > 1;
        if let (true, Some(first)) = (is_first_of_segment, waiting.first()) {
            batch.checkpoint(&self.keys, durable.seq, first.now);
        }
        for waiting in waiting {
            let Entry::Event(event) = &waiting.entry else {
                if batch.since.records > 0 {
                    batch.checkpoint(&self.keys, durable.seq, waiting.now);
                }
                batch.count += 1;
                continue;
            };
            let (seq, prev) = (batch.last.seq + 1, batch.last.mac);
            let body = ("event", event.as_str());
            let (line, mac) = chain::seal(&self.keys.mac, seq, durable.seq, &prev, body);
            if batch.bytes.len() + line.len() + CHECKPOINT_LINE_BYTES_MAX > room {
                break;
            }
            batch.since.event(&line);
            batch.bytes.extend_from_slice(&line);
            batch.last = Link { seq, mac };
            batch.count += 1;
            let uncovered = *batch.uncovered.get_or_insert(waiting.now);
            let is_old = uncovered.plus(CHECKPOINT_AGE_MAX) <= waiting.now;
            if is_old || batch.since.records >= checkpoint::RECORDS_MAX {
                batch.checkpoint(&self.keys, durable.seq, waiting.now);
            }
        }
        batch
    }

    fn new_segment(&self, first_seq: u64) -> Result<Box<dyn SegmentFile>, TrailError> {
        let name = name_of(first_seq);
        self.files.create(&name, SEGMENT_BYTES_MAX).map_err(|error| TrailError::NoSegment {
            path: self.files.path(&name),
            source: Arc::new(error),
        })
    }

    /// A new segment whose first batch was refused is one of the segments all the same.
    fn keep_empty(&self, extent: Extent) {
        let mut state = self.lock();
        if state.extents.last().is_none_or(|last| last.first_seq != extent.first_seq) {
            state.extents.push(extent);
        }
    }

    fn write_out(
        &self,
        file: &dyn SegmentFile,
        extent: &mut Extent,
        bytes: &[u8],
    ) -> Result<(), TrailError> {
        let path = || self.files.path(&name_of(extent.first_seq));
        if let Err(error) = write_full(file, bytes, extent.length) {
            // What is left of it must not be found later: it was refused.
            let cut = file.cut(extent.length).and_then(|()| file.sync());
            // Only with the end as it was before is it known what the medium holds.
            return Err(if cut.is_ok() && is_lack_of_room(&error) {
                TrailError::Full { path: path(), source: Arc::new(error) }
            } else {
                TrailError::poisoned("writing", &path(), error)
            });
        }
        if let Err(error) = file.sync() {
            let _ = file.cut(extent.length).and_then(|()| file.sync());
            return Err(TrailError::poisoned("syncing", &path(), error));
        }
        extent.length += bytes.len() as u64;
        Ok(())
    }
}

fn is_lack_of_room(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

impl Batch {
    fn checkpoint(&mut self, keys: &Keys, durable: u64, now: Timestamp) {
        let (seq, prev) = (self.last.seq + 1, self.last.mac);
        let mut last = self.last;
        let line = self.since.close(&keys.signing, seq, now, |body| {
            let (line, mac) = chain::seal(&keys.mac, seq, durable, &prev, ("checkpoint", body));
            last = Link { seq, mac };
            line
        });
        self.last = last;
        self.bytes.extend_from_slice(&line);
        self.uncovered = None;
    }
}

impl State {
    /// A batch is durable.
    fn settle(&mut self, extent: Option<Extent>, last: Link, batch: Vec<Waiting>) {
        match (self.extents.last_mut(), extent) {
            (Some(last), Some(extent)) if last.first_seq == extent.first_seq => *last = extent,
            (_, Some(extent)) => self.extents.push(extent),
            (_, None) => {}
        }
        self.durable = last;
        for waiting in batch {
            let _ = waiting.outcome.set(Ok(()));
        }
    }

    /// Nothing of what waits will be recorded: those numbers were never used.
    fn refuse(&mut self, error: &TrailError, batch: Vec<Waiting>) {
        for waiting in batch.into_iter().chain(self.waiting.drain(..)) {
            let _ = waiting.outcome.set(Err(error.clone()));
        }
        if matches!(error, TrailError::Poisoned { .. }) {
            self.poison = Some(error.clone());
        }
    }
}

/// Where a journal that was written before goes on.
struct End {
    last: Link,
    since: Since,
    /// Length of the last segment.
    length: Option<u64>,
    file: Option<Box<dyn SegmentFile>>,
}

/// Finds the end, mends what a crash left of it, and holds it against the head.
fn open_end(
    files: &dyn SegmentFiles,
    keys: &Keys,
    names: &[String],
    head: Link,
) -> Result<End, TrailError> {
    let cut_off = |name: &str, place| segment::damage(files, name, place, Why::CutOff);
    let [earlier @ .., last] = names else {
        return match head.seq {
            0 => Ok(End { last: Link::START, since: Since::genesis(), length: None, file: None }),
            _ => Err(cut_off(&name_of(1), (1, 1))),
        };
    };
    let link_before = match earlier.last() {
        Some(name) => Some(segment::last_link(files, &keys.mac, name)?),
        None => None,
    };
    let (sound, file) = reopen(files, keys, last, (link_before, head))?;
    if head.seq > sound.last.seq {
        let lines = segment::lines(&segment::read(files, last)?);
        return Err(cut_off(last, (lines + 1, sound.last.seq + 1)));
    }
    let since = match (sound.since, earlier.last()) {
        (Some(since), _) => since,
        // A crash came between the making of the segment and its first line.
        (None, Some(name)) => {
            let bytes = segment::read(files, name)?;
            let full = segment::check(files, keys.checker(), name, &bytes, (None, None))?;
            full.since.ok_or_else(|| segment::damage(files, name, (1, 0), Why::NoCheckpoint))?
        }
        (None, None) => Since::genesis(),
    };
    Ok(End { last: sound.last, since, length: Some(sound.length), file: Some(file) })
}

fn reopen(
    files: &dyn SegmentFiles,
    keys: &Keys,
    name: &str,
    (before, head): (Option<Link>, Link),
) -> Result<(segment::Sound, Box<dyn SegmentFile>), TrailError> {
    let bytes = segment::read(files, name)?;
    let before = before.map(|link| Before { link, since: None });
    let places = (before.as_ref(), Some(head));
    let sound = segment::check(files, keys.checker(), name, &bytes, places)?;
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

pub(super) fn write_full(file: &dyn SegmentFile, bytes: &[u8], at: u64) -> io::Result<()> {
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
