//! One segment as a whole: reading it, checking its chain, finding where it soundly ends.

use std::io;

use super::chain::{self, Body, Checker, GENESIS, LINE_BYTES_MAX, Mac};
use super::checkpoint::Since;
use super::files::{SegmentFile, SegmentFiles, first_seq_of, name_of};
use super::{Damage, TrailError, Why, head};
use crate::secret::Secret;

/// Largest segment, and what is set aside when one is made. A further one follows.
pub(super) const SEGMENT_BYTES_MAX: u64 = 16 << 20;

const _: () = assert!(LINE_BYTES_MAX as u64 <= SEGMENT_BYTES_MAX);

/// What a check of the whole trail found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Sound events.
    pub records: u64,
    /// Sound checkpoints among them.
    pub checkpoints: u64,
    /// Number of the first line; more than 1 if earlier segments were taken elsewhere. 0: none.
    pub first_seq: u64,
    /// Number of the last line. 0: none.
    pub last_seq: u64,
    /// Number of the last checkpoint: its signature vouches for all before. 0: none.
    pub last_checkpoint: u64,
    /// The last record by the head; `None` if there is no head beside the segments, so that an end
    /// that was cut off cannot be seen.
    pub head: Option<u64>,
    /// Bytes at the end that are no whole record: being written, or left by a crash.
    pub unfinished_bytes: u64,
}

/// A place in the chain: the record before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) mac: Mac,
}

impl Link {
    pub(super) const START: Self = Self { seq: 0, mac: GENESIS };
}

/// What comes before a segment.
#[derive(Clone, Debug)]
pub(super) struct Before {
    pub(super) link: Link,
    /// The digest there, where it is known.
    pub(super) since: Option<Since>,
}

/// How far a segment is sound.
pub(super) struct Sound {
    /// The last sound record, or the one before the segment if it has none.
    pub(super) last: Link,
    /// The digest since the last checkpoint; `None` in an empty segment with nothing known before.
    pub(super) since: Option<Since>,
    /// Lines that are checkpoints.
    pub(super) checkpoints: u64,
    /// Number of the last one. 0: none.
    pub(super) last_checkpoint: u64,
    /// Length of the sound part.
    pub(super) length: u64,
    /// Bytes after it that were never acknowledged.
    pub(super) unfinished: u64,
}

/// The whole segment `name`.
pub(super) fn read(files: &dyn SegmentFiles, name: &str) -> Result<Vec<u8>, TrailError> {
    let failed = |error| TrailError::io("reading", &files.path(name), error);
    let file = files.open(name).map_err(failed)?;
    let length = file.length().map_err(failed)?;
    if length > SEGMENT_BYTES_MAX {
        let seq = first_seq_of(name).unwrap_or(0);
        return Err(damage(files, name, (1, seq), Why::TooLong));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    let read = read_full(file.as_ref(), &mut bytes, 0).map_err(failed)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Reads until `bytes` is full or the file ends; how much it was.
pub(super) fn read_full(file: &dyn SegmentFile, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], at + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Checks the segment `name` with content `bytes`, which follows `before`; without `before`,
/// whatever it says it follows. `head` is the last record that must be there, if it is in here.
pub(super) fn check(
    files: &dyn SegmentFiles,
    checker: Checker<'_>,
    name: &str,
    bytes: &[u8],
    (before, head): (Option<&Before>, Option<Link>),
) -> Result<Sound, TrailError> {
    let first = first_seq_of(name).filter(|first| *first > 0);
    let first = first.ok_or_else(|| damage(files, name, (1, 0), Why::WrongName))?;
    let genesis = Before { link: Link::START, since: Some(Since::genesis()) };
    let before = before.or((first == 1).then_some(&genesis));
    if before.is_some_and(|before| before.link.seq + 1 != first) {
        let missing = before.map_or(0, |before| before.link.seq + 1);
        return Err(damage(files, name, (1, missing), Why::BrokenChain));
    }
    // A first segment that is not the first of all vouches for what it follows by its own MAC.
    let mut walk = Sound {
        last: Link { seq: first - 1, mac: before.map_or(GENESIS, |before| before.link.mac) },
        since: before.and_then(|before| before.since.clone()),
        checkpoints: 0,
        last_checkpoint: 0,
        length: 0,
        unfinished: 0,
    };
    let mut line_number = 1;
    while walk.length < bytes.len() as u64 {
        let rest = &bytes[walk.length as usize..];
        let end = rest.iter().position(|byte| *byte == b'\n');
        let seq = walk.last.seq + 1;
        let prev = (seq > first || before.is_some()).then_some(walk.last.mac);
        let verdict = match end {
            Some(end) => walk.follow(checker, &rest[..=end], (seq, prev), head),
            None => Err(Why::Unfinished),
        };
        match verdict {
            Ok(()) => line_number += 1,
            Err(_) if was_never_acknowledged(checker.mac, rest, end, seq) => break,
            Err(why) => return Err(damage(files, name, (line_number, seq), why)),
        }
    }
    walk.unfinished = bytes.len() as u64 - walk.length;
    Ok(walk)
}

impl Sound {
    /// Takes `line`, with its newline, as the record `seq` that follows the one with MAC `prev`.
    fn follow(
        &mut self,
        checker: Checker<'_>,
        line: &[u8],
        (seq, prev): (u64, Option<Mac>),
        head: Option<Link>,
    ) -> Result<(), Why> {
        let read = chain::unseal(checker.mac, &line[..line.len() - 1])?;
        if read.seq != seq || prev.is_some_and(|prev| prev != read.prev) {
            return Err(Why::BrokenChain);
        }
        if head.is_some_and(|head| head.seq == seq && head.mac != read.mac) {
            return Err(Why::NotTheHead);
        }
        match (&read.body, &mut self.since) {
            (Body::Event(_), Some(since)) => since.event(line),
            // Every segment but the first begins with a checkpoint.
            (Body::Event(_), None) => return Err(Why::NoCheckpoint),
            (Body::Checkpoint(checkpoint), since) => {
                let here = (seq, line);
                *since = Some(Since::pass(since.as_ref(), checkpoint, here, checker.public)?);
                self.checkpoints += 1;
                self.last_checkpoint = seq;
            }
        }
        self.last = Link { seq, mac: read.mac };
        self.length += line.len() as u64;
        Ok(())
    }
}

/// Whether the bad end `tail` may be what a crash left of records nobody was told of: a line
/// without its end, or a batch of which a power cut kept some pages and lost others (they read as
/// zero bytes, which no line contains). A later sound line that knew record `seq` to be durable
/// says no.
fn was_never_acknowledged(
    key: Option<&Secret>,
    tail: &[u8],
    first_end: Option<usize>,
    seq: u64,
) -> bool {
    let Some(first_end) = first_end else {
        return true;
    };
    if !tail[..first_end].contains(&0) {
        return false;
    }
    !tail.split(|byte| matches!(byte, b'\n' | 0)).any(|line| {
        !line.is_empty() && chain::unseal(key, line).is_ok_and(|line| line.durable >= seq)
    })
}

/// The last record of the segment `name`, which must be sound by itself.
pub(super) fn last_link(
    files: &dyn SegmentFiles,
    key: &Secret,
    name: &str,
) -> Result<Link, TrailError> {
    let bytes = read(files, name)?;
    let lines = lines(&bytes);
    let expected = first_seq_of(name).unwrap_or(0) + lines.saturating_sub(1);
    let body = bytes.strip_suffix(b"\n");
    let body =
        body.ok_or_else(|| damage(files, name, (lines + 1, expected + 1), Why::Unfinished))?;
    let line = body.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = chain::unseal(Some(key), line);
    let line = line.map_err(|why| damage(files, name, (lines, expected), why))?;
    if line.seq != expected {
        return Err(damage(files, name, (lines, expected), Why::BrokenChain));
    }
    Ok(Link { seq: line.seq, mac: line.mac })
}

/// Checks all segments from the one with record `from` on, and that the last record is there.
pub(super) fn verify(
    files: &dyn SegmentFiles,
    checker: Checker<'_>,
    from: u64,
) -> Result<Verified, TrailError> {
    // Read first: what is recorded meanwhile comes on top of it.
    let head = head::read(files, checker.mac)?;
    let names = files.list().map_err(|error| TrailError::io("listing", &files.path(""), error))?;
    let is_before = |name: &&String| first_seq_of(name).is_some_and(|first| first <= from);
    let skipped = names.iter().take_while(is_before).count().saturating_sub(1);
    let names = &names[skipped..];
    let mut found = Verified {
        records: 0,
        checkpoints: 0,
        first_seq: 0,
        last_seq: 0,
        last_checkpoint: 0,
        head: head.map(|head| head.seq),
        unfinished_bytes: 0,
    };
    let mut before: Option<Before> = None;
    let mut lines_of_last = 0;
    for (index, name) in names.iter().enumerate() {
        let bytes = read(files, name)?;
        let sound = check(files, checker, name, &bytes, (before.as_ref(), head))?;
        lines_of_last = lines(&bytes[..sound.length as usize]);
        if sound.unfinished > 0 && index + 1 < names.len() {
            let place = (lines_of_last + 1, sound.last.seq + 1);
            return Err(damage(files, name, place, Why::Unfinished));
        }
        if index == 0 && sound.length > 0 {
            found.first_seq = first_seq_of(name).unwrap_or(0);
        }
        found.records += lines_of_last - sound.checkpoints;
        found.checkpoints += sound.checkpoints;
        found.last_checkpoint = found.last_checkpoint.max(sound.last_checkpoint);
        found.unfinished_bytes = sound.unfinished;
        if found.first_seq > 0 {
            found.last_seq = sound.last.seq;
        }
        before = Some(Before { link: sound.last, since: sound.since });
    }
    let last_seq = before.map_or(0, |before| before.link.seq);
    if head.is_some_and(|head| head.seq > last_seq) {
        let name = names.last().cloned().unwrap_or_else(|| name_of(1));
        return Err(damage(files, &name, (lines_of_last + 1, last_seq + 1), Why::CutOff));
    }
    Ok(found)
}

pub(super) fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

pub(super) fn damage(
    files: &dyn SegmentFiles,
    name: &str,
    (line, seq): (u64, u64),
    why: Why,
) -> TrailError {
    TrailError::Damaged(Damage { file: files.path(name), line, seq, why })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]
mod tests {
    use super::super::chain::Keys;
    use super::super::files::DirectoryFiles;
    use super::*;

    fn keys() -> Keys {
        Keys::new(Secret::from_fn(32, |bytes| bytes.fill(7)))
    }

    /// Five records, all written while only the first `durable` were known to be on the medium.
    fn batch(durable: u64) -> Vec<Vec<u8>> {
        let mut prev = GENESIS;
        (1..=5)
            .map(|seq| {
                let event = format!("{{\"pad\":\"{}\"}}", "x".repeat(3000));
                let known = durable.min(seq - 1);
                let (line, mac) = chain::seal(&keys().mac, seq, known, &prev, ("event", &event));
                prev = mac;
                line
            })
            .collect()
    }

    fn checked(lines: &[Vec<u8>]) -> Result<(u64, u64), TrailError> {
        let files = DirectoryFiles::read(std::path::Path::new("/nowhere"));
        let bytes = lines.concat();
        let sound = check(&files, keys().checker(), &name_of(1), &bytes, (None, None))?;
        assert_eq!(sound.length + sound.unfinished, bytes.len() as u64);
        Ok((sound.last.seq, sound.unfinished))
    }

    #[test]
    fn a_sound_segment_is_sound() {
        assert_eq!(checked(&batch(4)).unwrap(), (5, 0));
        assert_eq!(checked(&[]).unwrap(), (0, 0));
    }

    #[test]
    fn a_page_that_a_power_cut_lost_ends_the_unacknowledged_batch() {
        let mut lines = batch(1);
        lines[2][100..2000].fill(0);
        assert_eq!(checked(&lines).unwrap().0, 2);
        lines[0][100..2000].fill(0);
        assert!(checked(&lines).is_err(), "record 1 was known to be durable");
    }

    #[test]
    fn a_lost_page_among_acknowledged_records_is_damage() {
        let mut lines = batch(4);
        lines[2][100..2000].fill(0);
        match checked(&lines) {
            Err(TrailError::Damaged(damage)) => assert_eq!((damage.line, damage.seq), (3, 3)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_line_without_end_is_cut_and_one_with_an_end_is_not() {
        let mut lines = batch(4);
        lines[4].truncate(1000);
        assert_eq!(checked(&lines).unwrap(), (4, 1000));
        lines[4].push(b'\n');
        assert!(checked(&lines).is_err());
    }
}
