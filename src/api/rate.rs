//! How often an access key may call: a bucket of tokens for each, a second's worth deep.

use std::collections::HashMap;
use std::time::Duration;

/// Access keys that are kept count of; at the bound those with a full bucket are forgotten first,
/// then all: to forget one is to grant it a second's worth of calls.
const BUCKETS_MAX: usize = 4096;

/// Calls per second of each access key.
#[derive(Debug)]
pub(super) struct Rates {
    per_second: f64,
    buckets: HashMap<String, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled: Duration,
}

impl Rates {
    /// Each access key may call `per_second` times in a second.
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second: per_second.into(), buckets: HashMap::new() }
    }

    /// Counts one call at `now` (monotonic); `false` if it is one too many.
    pub(super) fn take(&mut self, access_key_id: &str, now: Duration) -> bool {
        let full = Bucket { tokens: self.per_second, filled: now };
        let known = self.buckets.get_mut(access_key_id);
        let bucket = match known {
            Some(bucket) => bucket,
            None => {
                self.make_room(now);
                self.buckets.entry(access_key_id.to_owned()).or_insert(full)
            }
        };
        *bucket = bucket.at(now, self.per_second);
        let is_allowed = bucket.tokens >= 1.0;
        if is_allowed {
            bucket.tokens -= 1.0;
        }
        is_allowed
    }

    fn make_room(&mut self, now: Duration) {
        if self.buckets.len() < BUCKETS_MAX {
            return;
        }
        let full = self.per_second;
        self.buckets.retain(|_, bucket| bucket.at(now, full).tokens < full);
        if self.buckets.len() >= BUCKETS_MAX {
            self.buckets.clear();
        }
    }
}

impl Bucket {
    /// As it is at `now`, filled up at `per_second` and no further.
    fn at(self, now: Duration, per_second: f64) -> Self {
        let since = now.saturating_sub(self.filled).as_secs_f64();
        Self { tokens: per_second.min(self.tokens + since * per_second), filled: now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_grants_as_many_calls_as_the_rate_says() {
        let mut rates = Rates::new(3);
        let calls = |rates: &mut Rates, id: &str, millis| {
            let now = Duration::from_millis(millis);
            (0..10).filter(|_| rates.take(id, now)).count()
        };
        assert_eq!(calls(&mut rates, "a", 0), 3);
        assert_eq!(calls(&mut rates, "a", 0), 0);
        assert_eq!(calls(&mut rates, "b", 0), 3);
        assert_eq!(calls(&mut rates, "a", 700), 2);
        assert_eq!(calls(&mut rates, "a", 60_000), 3);
    }

    #[test]
    fn access_keys_kept_count_of_are_bounded() {
        let mut rates = Rates::new(1);
        for number in 0..2 * BUCKETS_MAX {
            assert!(rates.take(&number.to_string(), Duration::ZERO));
        }
        assert!(rates.buckets.len() <= BUCKETS_MAX);
    }
}
