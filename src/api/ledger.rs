//! Nonces that outlive a restart.
//!
//! A restart forgets which nonces were used, so requests dated before it are refused. What was
//! dated later than that (the client's clock is ahead of ours, or it is the same second still) is
//! written down here before it is answered, and is known to the next run. Others need no line, so
//! clients whose clocks are right cost a write of 50 bytes at most.
//!
//! ```text
//! sealdisk-nonces 1 <key of the hashes, 32 hexadecimal digits>
//! <date, seconds since 1970> <access key id> <hash of the nonce, 16 hexadecimal digits>
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::sign::nonces::{HASH_KEY_BYTES, NONCES_MAX, Nonces};
use crate::clock::{Entropy, Timestamp};

const NAME: &str = "nonces";
const FIRST_WORDS: &str = "sealdisk-nonces 1 ";

/// Length at which lines that are of no more use are taken out, in bytes.
const TIDY_BYTES: u64 = 1 << 20;

/// How far ahead a request may be dated without its line being brought to the medium at once: a
/// process that was killed leaves its lines behind, and no machine loses its power and serves
/// again in less.
const AHEAD_UNSYNCED: Duration = Duration::from_secs(2);

/// The file, and what is needed to go on writing it.
pub(super) struct Ledger {
    path: PathBuf,
    hash_key: [u8; HASH_KEY_BYTES],
    file: Arc<File>,
    bytes: u64,
    /// Length at which it is tidied next: of twice what was left over.
    tidy_at: u64,
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    made: i64,
    access_key_id: &'a str,
    hash: u64,
}

impl Ledger {
    /// Opens the ledger in `data_dir`, or makes one; and the nonces that it keeps at `now`.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn open(
        data_dir: &Path,
        entropy: &dyn Entropy,
        now: Timestamp,
    ) -> io::Result<(Self, Nonces)> {
        let path = data_dir.join(NAME);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            // No line of ours: they are of no use, and guard nothing then.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
            Err(error) => return Err(error),
        };
        let hash_key = key_in(&text).unwrap_or_else(|| {
            let mut fresh = [0; HASH_KEY_BYTES];
            entropy.fill(&mut fresh);
            fresh
        });
        let mut nonces = Nonces::with_key(hash_key, NONCES_MAX);
        if key_in(&text).is_some() {
            for line in text.lines().skip(1).filter_map(Line::parse) {
                nonces.keep(line.access_key_id, line.hash, seconds(line.made));
            }
        }
        let (file, bytes) = write_anew(&path, hash_key, &text, now)?;
        let tidy_at = TIDY_BYTES.max(2 * bytes);
        Ok((Self { path, hash_key, file: Arc::new(file), bytes, tidy_at }, nonces))
    }

    /// Writes down a nonce that was used just now, if a restart would need it. Where it gives back
    /// a file, that must be synced before the answer.
    ///
    /// # Errors
    /// The system's; the request must not be answered then.
    pub(super) fn note(
        &mut self,
        access_key_id: &str,
        hash: u64,
        (made, now): (Timestamp, Timestamp),
    ) -> io::Result<Option<Arc<File>>> {
        if made.unix_seconds() < now.unix_seconds() {
            return Ok(None);
        }
        if self.bytes >= self.tidy_at {
            let text = std::fs::read_to_string(&self.path)?;
            let (file, bytes) = write_anew(&self.path, self.hash_key, &text, now)?;
            self.file = Arc::new(file);
            self.bytes = bytes;
            self.tidy_at = TIDY_BYTES.max(2 * bytes);
        }
        // Ended by the next one, so that what a full disk cuts off spoils none but itself.
        let line = format!("\n{} {access_key_id} {hash:016x}", made.unix_seconds());
        (&*self.file).write_all(line.as_bytes())?;
        self.bytes += line.len() as u64;
        let is_far = made > now.plus(AHEAD_UNSYNCED);
        Ok(is_far.then(|| Arc::clone(&self.file)))
    }
}

impl<'a> Line<'a> {
    /// `None` for what a crash left of one.
    fn parse(text: &'a str) -> Option<Self> {
        let mut words = text.split(' ');
        let (made, access_key_id, hash) = (words.next()?, words.next()?, words.next()?);
        let is_whole = hash.len() == 16 && words.next().is_none();
        let hash = u64::from_str_radix(hash, 16).ok().filter(|_| is_whole)?;
        Some(Line { made: made.parse().ok()?, access_key_id, hash })
    }
}

fn seconds(made: i64) -> Timestamp {
    Timestamp::from_unix_millis(made.saturating_mul(1000))
}

fn key_in(text: &str) -> Option<[u8; HASH_KEY_BYTES]> {
    let digits = text.lines().next()?.strip_prefix(FIRST_WORDS)?;
    let key = u128::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 32)?;
    Some(key.to_be_bytes())
}

/// Puts a file in the place of `path` that has those lines of `text` which a restart at `now`
/// needs; open for appending, and its length in bytes.
fn write_anew(
    path: &Path,
    hash_key: [u8; HASH_KEY_BYTES],
    text: &str,
    now: Timestamp,
) -> io::Result<(File, u64)> {
    let needed =
        |line: &&str| Line::parse(line).is_some_and(|line| line.made >= now.unix_seconds());
    let mut kept = format!("{FIRST_WORDS}{:032x}", u128::from_be_bytes(hash_key));
    for line in text.lines().skip(1).filter(needed) {
        kept.push('\n');
        kept.push_str(line);
    }
    let unfinished = path.with_extension("new");
    let open = |path: &Path| {
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)
    };
    let mut file = open(&unfinished)?;
    file.write_all(kept.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    // Written on from where it ends: nobody else writes it.
    Ok((file, kept.len() as u64))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]
mod tests {
    use super::*;
    use crate::clock::SeededEntropy;

    fn open(folder: &Path, now: Timestamp) -> (Ledger, Nonces) {
        Ledger::open(folder, &SeededEntropy::new(1), now).unwrap()
    }

    #[test]
    fn what_is_dated_ahead_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (mut ledger, nonces) = open(folder.path(), seconds(100));
        let mut note = |nonce: &str, made, now| {
            let synced = ledger.note("LTAI", nonces.hash(nonce), (seconds(made), seconds(now)));
            synced.unwrap().is_some()
        };
        assert!(!note("past", 99, 100));
        assert!(!note("same second", 100, 100));
        assert!(!note("a little ahead", 102, 100));
        assert!(note("far ahead", 400, 100));
        drop(ledger);
        let (ledger, nonces) = open(folder.path(), seconds(100));
        for (nonce, is_known) in
            [("past", false), ("same second", true), ("a little ahead", true), ("far ahead", true)]
        {
            assert_eq!(nonces.is_used("LTAI", nonce), is_known, "{nonce}");
            assert!(!nonces.is_used("LTAI2", nonce));
        }
        drop(ledger);
        // What is dated before the start is refused for its date: no line is left of it.
        let (_, nonces) = open(folder.path(), seconds(200));
        drop(nonces);
        let text = std::fs::read_to_string(folder.path().join(NAME)).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn a_line_that_a_crash_cut_off_is_none() {
        let whole = "100 LTAI 00000000000000ff";
        assert!(Line::parse(whole).is_some());
        for len in 0..whole.len() {
            assert_eq!(Line::parse(&whole[..len]), None);
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(NAME), [0xff, 0, b'\n']).unwrap();
        let (_, nonces) = open(folder.path(), seconds(100));
        assert!(nonces.is_empty());
    }

    #[test]
    fn the_file_does_not_grow_without_bound() {
        let folder = tempfile::tempdir().unwrap();
        let (mut ledger, _) = open(folder.path(), seconds(0));
        for number in 0..60_000_u32 {
            let now = seconds(i64::from(number / 1000));
            ledger.note("LTAI5tExampleExample", u64::from(number), (now, now)).unwrap();
        }
        let bytes = std::fs::metadata(folder.path().join(NAME)).unwrap().len();
        assert!(bytes <= TIDY_BYTES + 100, "{bytes}");
        assert_eq!(bytes, ledger.bytes);
    }
}
