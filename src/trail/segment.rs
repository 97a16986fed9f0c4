//! One segment as a whole: reading it, checking its chain, finding where it soundly ends.

use std::io;

use super::chain::{self, GENESIS, LINE_BYTES_MAX, Mac};
use super::files::{SegmentFile, SegmentFiles, first_seq_of};
use super::{Damage, TrailError, Why};
use crate::secret::Secret;

/// Largest segment, and what is set aside when one is made. A further one follows.
pub(super) const SEGMENT_BYTES_MAX: u64 = 16 << 20;

const _: () = assert!(LINE_BYTES_MAX as u64 <= SEGMENT_BYTES_MAX);

/// What a check of the whole trail found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Sound records.
    pub records: u64,
    /// Number of the first; more than 1 if earlier segments were taken elsewhere. 0: none.
    pub first_seq: u64,
    /// Number of the last. 0: none.
    pub last_seq: u64,
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

/// How far a segment is sound.
pub(super) struct Sound {
    /// The last sound record, or the one before the segment if it has none.
    pub(super) last: Link,
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

/// Checks the segment `name` with content `bytes`, whose first record follows `before`; without
/// `before`, whatever it says it follows.
pub(super) fn check(
    files: &dyn SegmentFiles,
    key: &Secret,
    name: &str,
    bytes: &[u8],
    before: Option<Link>,
) -> Result<Sound, TrailError> {
    let first = first_seq_of(name).filter(|first| *first > 0);
    let first = first.ok_or_else(|| damage(files, name, (1, 0), Why::WrongName))?;
    if before.is_some_and(|before| before.seq + 1 != first) {
        let missing = before.map_or(0, |before| before.seq + 1);
        return Err(damage(files, name, (1, missing), Why::BrokenChain));
    }
    // A first segment that is not the first of all vouches for what it follows by its own MAC.
    let mut expected = before.map(|before| before.mac).or((first == 1).then_some(GENESIS));
    let mut last = Link { seq: first - 1, mac: expected.unwrap_or(GENESIS) };
    let (mut at, mut line_number) = (0, 1);
    while at < bytes.len() {
        let end = bytes[at..].iter().position(|byte| *byte == b'\n').map(|length| at + length);
        let seq = last.seq + 1;
        let verdict = match end {
            Some(end) => follow(key, &bytes[at..end], seq, expected).map(|link| (link, end)),
            None => Err(Why::Unfinished),
        };
        match verdict {
            Ok((link, end)) => {
                expected = Some(link.mac);
                last = link;
                at = end + 1;
                line_number += 1;
            }
            Err(_) if was_never_acknowledged(key, &bytes[at..], end.map(|end| end - at), seq) => {
                break;
            }
            Err(why) => return Err(damage(files, name, (line_number, seq), why)),
        }
    }
    Ok(Sound { last, length: at as u64, unfinished: (bytes.len() - at) as u64 })
}

/// The line as the record `seq` that follows the one with MAC `prev`.
fn follow(key: &Secret, line: &[u8], seq: u64, prev: Option<Mac>) -> Result<Link, Why> {
    let line = chain::unseal(key, line)?;
    if line.seq != seq || prev.is_some_and(|prev| prev != line.prev) {
        return Err(Why::BrokenChain);
    }
    Ok(Link { seq, mac: line.mac })
}

/// Whether the bad end `tail` may be what a crash left of records nobody was told of: a line
/// without its end, or a batch of which a power cut kept some pages and lost others (they read as
/// zero bytes, which no line contains). A later sound line that knew record `seq` to be durable
/// says no.
fn was_never_acknowledged(key: &Secret, tail: &[u8], first_end: Option<usize>, seq: u64) -> bool {
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
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    let expected = first_seq_of(name).unwrap_or(0) + lines.saturating_sub(1);
    let body = bytes.strip_suffix(b"\n");
    let body =
        body.ok_or_else(|| damage(files, name, (lines + 1, expected + 1), Why::Unfinished))?;
    let line = body.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let line =
        chain::unseal(key, line).map_err(|why| damage(files, name, (lines, expected), why))?;
    if line.seq != expected {
        return Err(damage(files, name, (lines, expected), Why::BrokenChain));
    }
    Ok(Link { seq: line.seq, mac: line.mac })
}

/// Checks all segments from the first on.
pub(super) fn verify(files: &dyn SegmentFiles, key: &Secret) -> Result<Verified, TrailError> {
    let names = files.list().map_err(|error| TrailError::io("listing", &files.path(""), error))?;
    let mut before = None;
    let mut first_seq = 0;
    let mut unfinished_bytes = 0;
    for (index, name) in names.iter().enumerate() {
        let bytes = read(files, name)?;
        let sound = check(files, key, name, &bytes, before)?;
        if sound.unfinished > 0 && index + 1 < names.len() {
            let line = bytes[..sound.length as usize].iter().filter(|byte| **byte == b'\n').count();
            let place = (line as u64 + 1, sound.last.seq + 1);
            return Err(damage(files, name, place, Why::Unfinished));
        }
        if index == 0 && sound.length > 0 {
            first_seq = first_seq_of(name).unwrap_or(0);
        }
        unfinished_bytes = sound.unfinished;
        before = Some(sound.last);
    }
    let last_seq = if first_seq == 0 { 0 } else { before.map_or(0, |last| last.seq) };
    let records = if first_seq == 0 { 0 } else { last_seq - first_seq + 1 };
    Ok(Verified { records, first_seq, last_seq, unfinished_bytes })
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
    use super::super::files::{DirectoryFiles, name_of};
    use super::*;

    fn key() -> Secret {
        Secret::from_fn(32, |bytes| bytes.fill(7))
    }

    /// Five records, all written while only the first `durable` were known to be on the medium.
    fn batch(durable: u64) -> Vec<Vec<u8>> {
        let mut prev = GENESIS;
        (1..=5)
            .map(|seq| {
                let event = format!("{{\"pad\":\"{}\"}}", "x".repeat(3000));
                let known = durable.min(seq - 1);
                let (line, mac) = chain::seal(&key(), seq, known, &prev, &event);
                prev = mac;
                line
            })
            .collect()
    }

    fn checked(lines: &[Vec<u8>]) -> Result<(u64, u64), TrailError> {
        let files = DirectoryFiles::read(std::path::Path::new("/nowhere"));
        let bytes = lines.concat();
        let sound = check(&files, &key(), &name_of(1), &bytes, Some(Link::START))?;
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
