//! The limits of a disk: how long a request must wait so that requests and bytes a second stay
//! within them.
//!
//! For each limit there is a moment at which everything admitted so far is paid for. A request
//! starts when that moment has come and moves it on by its own cost, so even one that is larger
//! than a second's worth passes; those behind it wait for its debt. A disk that was idle, or a
//! caller that slept a little too long, catches up by [`BURST`] at most.
//!
//! Pure: the time is handed in, and to wait is the caller's part. Requests start in the order in
//! which they were admitted, whichever connection they came by.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::catalog::DiskLimits;

/// How much that was not used may be used later. In any second this is 2.5% of the limit: within
/// the 5% to which limits hold, and longer than a timer is late.
pub const BURST: Duration = Duration::from_millis(25);

/// Moments and costs are counted in these: a nanosecond would round a small request's share of a
/// fast disk by several percent.
const PICOS_PER_SECOND: u128 = 1_000_000_000_000;

/// Both limits of one disk, shared by all its connections.
#[derive(Debug, Default)]
pub struct Throttle {
    /// Whether there is any limit: all that an unlimited disk pays.
    is_on: AtomicBool,
    meters: Mutex<Meters>,
}

#[derive(Debug, Default)]
struct Meters {
    requests: Meter,
    bytes: Meter,
}

/// One limit.
#[derive(Debug, Default)]
struct Meter {
    /// A second; `None`: unlimited.
    limit: Option<u64>,
    /// When all that was admitted is paid for, in picoseconds of the caller's clock.
    paid: u128,
}

impl Throttle {
    /// Puts new limits in place of the old ones. Old debts are forgotten; requests that were told
    /// to wait do so.
    pub fn set(&self, limits: DiskLimits) {
        let meter = |limit| Meter { limit, paid: 0 };
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        *meters = Meters { requests: meter(limits.iops), bytes: meter(limits.bytes_per_second) };
        self.is_on.store(!limits.is_off(), Ordering::Relaxed);
    }

    /// Whether requests have to be admitted at all.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Admits one request that moves `bytes` bytes at `now`, a moment of a clock that never goes
    /// back: how long it must wait before it starts. Zero: not at all.
    ///
    /// As the cloud counts: a read, write, trim or write-zeroes request is one whatever its length;
    /// bytes are those of reads and writes.
    #[must_use = "the request is paid for, so it has to wait"]
    pub fn admit(&self, now: Duration, bytes: u64) -> Duration {
        if !self.is_on() {
            return Duration::ZERO;
        }
        let now = picos(now);
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        let Meters { requests, bytes: moved } = &mut *meters;
        // What moves no bytes does not wait for those of others.
        let start = now.max(requests.paid).max(if bytes > 0 { moved.paid } else { 0 });
        // Both pay from the same start: a request that one limit holds back is not the other's
        // to make up for.
        requests.pay(start, 1);
        moved.pay(start, bytes);
        drop(meters);
        // Rounded up: a nanosecond early is outside the limit.
        Duration::from_nanos(u64::try_from((start - now).div_ceil(1000)).unwrap_or(u64::MAX))
    }
}

impl Meter {
    fn pay(&mut self, start: u128, amount: u64) {
        if let (Some(limit), 1..) = (self.limit, amount) {
            let base = self.paid.max(start.saturating_sub(picos(BURST)));
            self.paid = base + u128::from(amount) * PICOS_PER_SECOND / u128::from(limit.max(1));
        }
    }
}

const fn picos(span: Duration) -> u128 {
    span.as_nanos() * 1000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limited(iops: Option<u64>, bytes_per_second: Option<u64>) -> Throttle {
        let throttle = Throttle::default();
        throttle.set(DiskLimits { iops, bytes_per_second });
        throttle
    }

    /// When each of the requests (gap since the one before, bytes) starts, if each is asked for as
    /// soon as the one before has started and its own gap is over.
    fn starts(throttle: &Throttle, requests: &[(Duration, u64)]) -> Vec<Duration> {
        let mut now = Duration::from_secs(1000);
        let one = |(gap, bytes): &(Duration, u64)| {
            now += *gap;
            now += throttle.admit(now, *bytes);
            now
        };
        requests.iter().map(one).collect()
    }

    #[test]
    fn without_limits_nothing_waits() {
        let throttle = Throttle::default();
        assert!((0..1000).all(|_| throttle.admit(Duration::ZERO, 1 << 30).is_zero()));
        throttle.set(DiskLimits { iops: Some(10), bytes_per_second: None });
        assert!((0..100).any(|_| !throttle.admit(Duration::ZERO, 1).is_zero()));
        throttle.set(DiskLimits::default());
        assert!((0..1000).all(|_| throttle.admit(Duration::ZERO, 1 << 30).is_zero()));
    }

    #[test]
    fn a_request_larger_than_a_second_passes_and_the_next_pays() {
        let throttle = limited(None, Some(1 << 20));
        let now = Duration::from_secs(5);
        assert_eq!(throttle.admit(now, 4 << 20), Duration::ZERO);
        assert_eq!(throttle.admit(now, 512), Duration::from_secs(4) - BURST);
        // A trim moves nothing, so it waits for nobody's bytes.
        assert_eq!(throttle.admit(now, 0), Duration::ZERO);
    }

    #[test]
    fn requests_held_back_by_their_bytes_are_not_let_go_at_once() {
        let throttle = limited(Some(10), Some(1 << 20));
        let now = Duration::from_secs(5);
        assert_eq!(throttle.admit(now, 10 << 20), Duration::ZERO);
        let delays: Vec<_> = (0..11).map(|_| throttle.admit(now, 1)).collect();
        let first_second = delays.iter().filter(|d| **d < delays[0] + Duration::from_secs(1));
        assert!(first_second.count() <= 11, "{delays:?}");
        assert!(delays[10] >= delays[0] + Duration::from_millis(900), "{delays:?}");
    }

    #[test]
    fn a_raised_limit_counts_at_once() {
        let throttle = limited(Some(10), None);
        let now = Duration::from_secs(5);
        for _ in 0..100 {
            let _ = throttle.admit(now, 0);
        }
        assert!(throttle.admit(now, 0) > Duration::from_secs(5));
        throttle.set(DiskLimits { iops: Some(1_000_000), bytes_per_second: None });
        assert_eq!(throttle.admit(now, 0), Duration::ZERO);
    }

    proptest! {
        /// Whatever comes, in whichever second one looks: no more than the limit, the burst, and
        /// the one request that was under way. And nobody waits for longer than is owed.
        #[test]
        fn demand_beyond_the_limit_gets_the_limit(
            iops in 100u64..200_000,
            rate in (1u64 << 20)..(4 << 30),
            sizes in prop::collection::vec(1u64..(1 << 20), 20..50),
        ) {
            let throttle = limited(Some(iops), Some(rate));
            // Enough for three seconds of the tighter limit.
            let mean = sizes.iter().sum::<u64>() / sizes.len() as u64;
            let count = (3 * iops.min(rate / mean)).clamp(100, 50_000) as usize;
            let requests: Vec<_> =
                sizes.iter().cycle().take(count).map(|bytes| (Duration::ZERO, *bytes)).collect();
            let starts = starts(&throttle, &requests);
            let took = (starts[count - 1] - starts[0] + BURST).as_secs_f64();
            let bytes: u64 = requests[..count - 1].iter().map(|(_, bytes)| bytes).sum();
            // The tighter of both is used to the full: what was started before the last request
            // costs exactly the time until then.
            let cost = f64::max((count - 1) as f64 / iops as f64, bytes as f64 / rate as f64);
            prop_assert!(took <= cost * 1.05 + BURST.as_secs_f64(), "{took} s for {cost} s");
            prop_assert!(took >= cost * 0.999, "{took} s for {cost} s");
        }

        #[test]
        fn every_second_is_within_the_limit(
            iops in 200u64..2000,
            arrivals in prop::collection::vec((0u64..2_000_000, 0u64..(1 << 20)), 1000..4000),
        ) {
            let throttle = limited(Some(iops), None);
            let requests: Vec<_> =
                arrivals.iter().map(|(gap, bytes)| (Duration::from_nanos(*gap), *bytes)).collect();
            let starts = starts(&throttle, &requests);
            let most = (iops as f64 * 1.05) as usize + 1;
            for (index, start) in starts.iter().enumerate() {
                if let Some(later) = starts.get(index + most) {
                    prop_assert!(*later - *start >= Duration::from_secs(1));
                }
            }
        }

        #[test]
        fn demand_below_the_limits_never_waits(
            iops in 10u64..1_000_000,
            rate in (1u64 << 20)..(4 << 30),
            requests in prop::collection::vec((0u64..1_000_000, 0u64..(32 << 20)), 1..500),
        ) {
            let throttle = limited(Some(iops), Some(rate));
            let mut now = Duration::from_secs(1000);
            for (extra, bytes) in requests {
                prop_assert_eq!(throttle.admit(now, bytes), Duration::ZERO);
                let own = f64::max(1.0 / iops as f64, bytes as f64 / rate as f64);
                now += Duration::from_secs_f64(own) + Duration::from_nanos(extra + 1);
            }
        }
    }
}
