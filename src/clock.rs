//! The sole door to time and randomness, so that a test or a seed can drive both.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::{RngCore, TryRngCore, rngs::OsRng};
use time::OffsetDateTime;
use time::macros::format_description;

/// A point in UTC, to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment `millis` milliseconds after 1970-01-01T00:00:00Z.
    pub const fn from_unix_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub const fn unix_millis(self) -> i64 {
        self.0
    }

    /// Seconds since 1970-01-01T00:00:00Z, rounded down.
    pub const fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The moment `span` later.
    #[must_use]
    pub const fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_millis() as i64))
    }

    /// Reads `2026-01-05T03:04:05Z`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
        let moment = time::PrimitiveDateTime::parse(text, format).ok()?.assume_utc();
        Some(Self(moment.unix_timestamp() * 1000))
    }
}

/// `2026-01-05T03:04:05Z`, the form of every Alibaba Cloud API.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
        let text = OffsetDateTime::from_unix_timestamp(self.unix_seconds())
            .ok()
            .and_then(|moment| moment.format(format).ok());
        f.write_str(text.as_deref().unwrap_or("0000-00-00T00:00:00Z"))
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// The time of day, in UTC.
    fn now(&self) -> Timestamp;

    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
}

/// Where unpredictable bytes come from.
pub trait Entropy: Send + Sync {
    /// Fills `bytes` with bytes fit for keys.
    fn fill(&self, bytes: &mut [u8]);
}

/// A random version-4 UUID drawn from `entropy`.
pub fn random_uuid(entropy: &dyn Entropy) -> uuid::Uuid {
    let mut bytes = [0; 16];
    entropy.fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts at zero now.
    #[expect(clippy::new_without_default, reason = "reads the clock: a call should say so")]
    #[expect(clippy::disallowed_methods, reason = "this is the one door")]
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one door")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(since.as_millis() as i64)
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Milliseconds since some fixed moment, by a clock that is some milliseconds behind and takes next
/// to no time to read; they wrap. For guesses about the machine alone: no test drives it.
pub fn coarse_millis() -> u32 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    (time.tv_sec as u32).wrapping_mul(1000).wrapping_add(time.tv_nsec as u32 / 1_000_000)
}

/// The operating system's random generator.
#[derive(Debug)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    /// # Panics
    /// If the kernel gives no random bytes: going on would make guessable keys.
    fn fill(&self, bytes: &mut [u8]) {
        OsRng.try_fill_bytes(bytes).expect("the kernel must give random bytes");
    }
}

/// A clock that a test moves by hand.
#[derive(Debug, Default)]
pub struct ManualClock {
    millis: std::sync::atomic::AtomicI64,
}

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn at(start: Timestamp) -> Self {
        Self { millis: start.0.into() }
    }

    /// Moves the clock on by `span`.
    pub fn advance(&self, span: Duration) {
        self.millis.fetch_add(span.as_millis() as i64, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.millis.load(std::sync::atomic::Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.now().0.max(0) as u64)
    }
}

/// A generator that repeats itself for the same seed. For tests: its output makes no secrets.
#[derive(Debug)]
pub struct SeededEntropy {
    generator: std::sync::Mutex<rand::rngs::StdRng>,
}

impl SeededEntropy {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        let generator = rand::SeedableRng::seed_from_u64(seed);
        Self { generator: std::sync::Mutex::new(generator) }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        let mut generator =
            self.generator.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        generator.fill_bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_back_what_it_prints() {
        let moment = Timestamp::from_unix_millis(1_767_582_245_000);
        assert_eq!(moment.to_string(), "2026-01-05T03:04:05Z");
        assert_eq!(Timestamp::parse(&moment.to_string()), Some(moment));
        assert_eq!(Timestamp::parse("2026-01-05 03:04:05"), None);
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let (mut one, mut two) = ([0; 32], [0; 32]);
        SeededEntropy::new(7).fill(&mut one);
        SeededEntropy::new(7).fill(&mut two);
        assert_eq!(one, two);
        SystemEntropy.fill(&mut two);
        assert_ne!(one, two);
    }
}
