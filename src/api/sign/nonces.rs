//! A nonce is good once per access key, for as long as its request's time would be accepted.
//!
//! Kept as 64-bit keyed hashes: two nonces that meet in one refuse an honest request with a chance
//! of one in 10^12 at the bound, and nobody outside can make them meet. What a restart forgets
//! cannot be replayed, for requests signed before it are refused; those dated ahead of our clock
//! are kept in a file (`ledger.rs`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crate::clock::{Entropy, Timestamp};
use crate::crypto::mac::sha256;

/// How far a request's time may be from ours, either way; as published.
pub const CLOCK_WINDOW: Duration = Duration::from_secs(15 * 60);

/// Nonces kept in all, about 16 bytes each. At the bound an access key that has more than its
/// equal share is refused until older ones are past.
pub const NONCES_MAX: usize = 8 << 20;

/// Bytes of the key that nonces are hashed under.
pub(in crate::api) const HASH_KEY_BYTES: usize = 16;

/// Nonces are forgotten a minute at a time.
const MINUTE_MILLIS: i64 = 60_000;

/// Whether a nonce may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It is new, and from now on it is used.
    Fresh,
    /// It was used before.
    Used,
    /// Too many are kept: this one cannot be.
    Full,
}

/// The nonces in use.
pub struct Nonces {
    hash_key: [u8; HASH_KEY_BYTES],
    bound: usize,
    kept: usize,
    by_access_key: HashMap<String, Kept>,
}

/// One access key's, by the minute after which they are of no use.
#[derive(Default)]
struct Kept {
    by_minute: BTreeMap<i64, HashSet<u64>>,
}

impl Nonces {
    /// None yet; at most `bound` of them for one access key alone, `bound` / n with n of them.
    pub fn new(entropy: &dyn Entropy, bound: usize) -> Self {
        let mut hash_key = [0; HASH_KEY_BYTES];
        entropy.fill(&mut hash_key);
        Self::with_key(hash_key, bound)
    }

    /// As [`Nonces::new`], hashed under a key that was drawn before.
    pub fn with_key(hash_key: [u8; HASH_KEY_BYTES], bound: usize) -> Self {
        Self { hash_key, bound, kept: 0, by_access_key: HashMap::new() }
    }

    /// Whether `nonce` of `access_key_id` was used and is still kept.
    pub fn is_used(&self, access_key_id: &str, nonce: &str) -> bool {
        let hash = self.hash(nonce);
        let kept = self.by_access_key.get(access_key_id);
        kept.is_some_and(|kept| kept.by_minute.values().any(|some| some.contains(&hash)))
    }

    /// Uses `nonce` of a verified request of `access_key_id` that was made at `timestamp`, which is
    /// within [`CLOCK_WINDOW`] of `now`.
    pub fn take(
        &mut self,
        access_key_id: &str,
        nonce: &str,
        (timestamp, now): (Timestamp, Timestamp),
    ) -> Freshness {
        let hash = self.hash(nonce);
        let this_minute = now.unix_millis().div_euclid(MINUTE_MILLIS);
        if self.is_past_due(access_key_id, this_minute) {
            self.forget_past(this_minute);
        }
        if self.is_used(access_key_id, nonce) {
            return Freshness::Used;
        }
        let mine = self.by_access_key.get(access_key_id);
        let others = self.by_access_key.len() + usize::from(mine.is_none());
        let share = self.bound / others.max(1);
        if self.kept >= self.bound && mine.map_or(0, Kept::len) >= share {
            return Freshness::Full;
        }
        self.keep(access_key_id, hash, timestamp);
        Freshness::Fresh
    }

    /// Keeps what an earlier run used, as its ledger has it.
    pub(in crate::api) fn keep(&mut self, access_key_id: &str, hash: u64, timestamp: Timestamp) {
        let last = timestamp.plus(CLOCK_WINDOW).unix_millis().div_euclid(MINUTE_MILLIS);
        let kept = self.by_access_key.entry(access_key_id.to_owned()).or_default();
        self.kept += usize::from(kept.by_minute.entry(last).or_default().insert(hash));
    }

    /// How many are kept.
    pub const fn len(&self) -> usize {
        self.kept
    }

    /// Whether none is kept.
    pub const fn is_empty(&self) -> bool {
        self.kept == 0
    }

    /// Whether it is time to forget: this access key has some that are past, or there is no room.
    fn is_past_due(&self, access_key_id: &str, this_minute: i64) -> bool {
        let oldest = self.by_access_key.get(access_key_id).and_then(Kept::oldest);
        oldest.is_some_and(|minute| minute < this_minute) || self.kept >= self.bound
    }

    fn forget_past(&mut self, this_minute: i64) {
        self.by_access_key.retain(|_, kept| {
            kept.by_minute = kept.by_minute.split_off(&this_minute);
            !kept.by_minute.is_empty()
        });
        self.kept = self.by_access_key.values().map(Kept::len).sum();
    }

    pub(in crate::api) fn hash(&self, nonce: &str) -> u64 {
        let digest = sha256(&[&self.hash_key, nonce.as_bytes()]);
        let (head, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
        u64::from_le_bytes(*head)
    }
}

impl Kept {
    fn len(&self) -> usize {
        self.by_minute.values().map(HashSet::len).sum()
    }

    fn oldest(&self) -> Option<i64> {
        self.by_minute.keys().next().copied()
    }
}

impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nonces").field("kept", &self.kept).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededEntropy;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_millis(seconds * 1000)
    }

    fn nonces(bound: usize) -> Nonces {
        Nonces::new(&SeededEntropy::new(1), bound)
    }

    #[test]
    fn a_nonce_is_good_once_for_each_access_key() {
        let mut nonces = nonces(100);
        assert_eq!(nonces.take("a", "1", (at(0), at(0))), Freshness::Fresh);
        assert_eq!(nonces.take("a", "1", (at(0), at(0))), Freshness::Used);
        // Another time does not make it another nonce.
        assert_eq!(nonces.take("a", "1", (at(60), at(0))), Freshness::Used);
        assert_eq!(nonces.take("a", "2", (at(0), at(0))), Freshness::Fresh);
        assert_eq!(nonces.take("b", "1", (at(0), at(0))), Freshness::Fresh);
    }

    #[test]
    fn it_is_kept_as_long_as_its_request_would_be_accepted() {
        let window = CLOCK_WINDOW.as_secs() as i64;
        let mut nonces = nonces(100);
        for (nonce, made) in [("late", 0), ("early", window)] {
            assert_eq!(nonces.take("a", nonce, (at(made), at(0))), Freshness::Fresh);
        }
        assert_eq!(nonces.take("a", "late", (at(0), at(window))), Freshness::Used);
        assert_eq!(nonces.take("a", "early", (at(window), at(2 * window))), Freshness::Used);
        assert_eq!(nonces.take("a", "new", (at(2 * window), at(2 * window))), Freshness::Fresh);
        assert_eq!(nonces.len(), 2);
    }

    #[test]
    fn at_the_bound_the_one_with_more_than_its_share_waits() {
        let mut nonces = nonces(10);
        for number in 0..10 {
            assert_eq!(nonces.take("a", &number.to_string(), (at(0), at(0))), Freshness::Fresh);
        }
        assert_eq!(nonces.take("a", "more", (at(0), at(0))), Freshness::Full);
        for number in 0..5 {
            assert_eq!(nonces.take("b", &number.to_string(), (at(0), at(0))), Freshness::Fresh);
        }
        assert_eq!(nonces.take("b", "more", (at(0), at(0))), Freshness::Full);
        assert_eq!(nonces.take("a", "more", (at(0), at(0))), Freshness::Full);
        let later = at(CLOCK_WINDOW.as_secs() as i64 + 60);
        assert_eq!(nonces.take("a", "more", (later, later)), Freshness::Fresh);
        assert_eq!(nonces.len(), 1);
    }
}
