//! Buffers for data on its way: page-aligned, on huge pages, reused, bounded in total.
//!
//! A buffer is taken for a request before its payload is read and goes back when its reply has
//! left. Reused bytes are not cleared: whoever sends from a buffer sends only what it wrote there.
//!
//! Two bounds hold for each share: bytes on loan, and bytes of the memory they pin (`slab.rs`: one
//! small buffer keeps its chunk from all other sizes).

use std::ops::{Deref, DerefMut, RangeInclusive};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::region::{HUGE_PAGE_BYTES, Piece};
use super::slab::{Home, Slab, class_bytes, class_of};

/// Requests up to this length have a share of the bound for themselves, so that clients with huge
/// requests cannot keep small ones waiting.
const SMALL_BYTES_MAX: usize = 256 << 10;

/// Buffers that are kept warm, in bytes: large enough to be worth it, small enough for a cache.
const WARM_BYTES: RangeInclusive<usize> = 128 << 10..=2 << 20;

/// Of what large requests may have, at most this part is kept warm.
const WARM_SHARE: usize = 8;

/// A bounded supply of buffers, shared by all connections.
#[derive(Debug)]
pub struct BufferPool {
    state: Mutex<State>,
    freed: Condvar,
    small_bytes_max: usize,
    large_bytes_max: usize,
    /// For each core, a large buffer that was used there last: its bytes are in the core's cache.
    /// On loan all the while, until somebody needs room.
    warm: Box<[Mutex<Option<Loan>>]>,
}

/// A piece that is not with the slab, and where it goes back to.
#[derive(Debug)]
struct Loan {
    piece: Piece,
    home: Home,
}

#[derive(Debug)]
struct State {
    slab: Slab,
    small: Share,
    large: Share,
    /// Callers that wait for `freed`: mostly none, and then nobody has to be woken.
    waiters: usize,
}

#[derive(Debug, Default)]
struct Share {
    bytes_lent: usize,
    /// Bytes of the chunks and runs that the loans lie in.
    bytes_used: usize,
}

/// Bytes of one request, on loan from the pool.
#[derive(Debug)]
pub struct Buffer {
    /// There until drop.
    loan: Option<Loan>,
    len: usize,
    pool: Arc<BufferPool>,
}

impl BufferPool {
    /// A pool that lends at most `bytes_max` bytes at a time. A quarter is kept for small requests.
    /// It maps no more memory than that and one largest request, from 32 MiB on.
    pub fn new(bytes_max: usize) -> Arc<Self> {
        let small_bytes_max = bytes_max / 4;
        let state = State {
            slab: Slab::new(bytes_max),
            small: Share::default(),
            large: Share::default(),
            waiters: 0,
        };
        let large_bytes_max = bytes_max - small_bytes_max;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let warm = cores.min(large_bytes_max / WARM_SHARE / WARM_BYTES.end());
        Arc::new(Self {
            state: Mutex::new(state),
            freed: Condvar::new(),
            small_bytes_max,
            large_bytes_max,
            warm: (0..warm).map(|_| Mutex::default()).collect(),
        })
    }

    /// A buffer of `len` bytes, waiting for one until `patience` is over (`None`: not a moment).
    ///
    /// # Errors
    /// `None` if there is none in time, the kernel has no memory for it, or `len` is more than the
    /// pool may ever lend.
    pub fn take(self: &Arc<Self>, len: usize, patience: Option<Duration>) -> Option<Buffer> {
        let class = class_of(len)?;
        let mut state = self.lock();
        if !self.has_room(&state, class) {
            drop(state);
            self.let_cool();
            state = self.lock();
        }
        if !self.has_room(&state, class) {
            let patience = patience?;
            state.waiters += 1;
            let wait =
                self.freed.wait_timeout_while(state, patience, |now| !self.has_room(now, class));
            let (now, timeout) = wait.unwrap_or_else(PoisonError::into_inner);
            state = now;
            state.waiters -= 1;
            if timeout.timed_out() {
                return None;
            }
        }
        let fresh_bytes = state.slab.fresh_bytes(class);
        let (piece, home) = state.slab.take(class).ok()?;
        let share = state.share(home.bytes());
        share.bytes_lent += home.bytes();
        share.bytes_used += fresh_bytes;
        drop(state);
        Some(Buffer { loan: Some(Loan { piece, home }), len, pool: Arc::clone(self) })
    }

    /// Bytes on loan now, those kept warm included.
    pub fn bytes_lent(&self) -> usize {
        let state = self.lock();
        state.small.bytes_lent + state.large.bytes_lent
    }

    fn has_room(&self, state: &State, class: usize) -> bool {
        let bytes = class_bytes(class);
        let (share, bytes_max) = if bytes <= SMALL_BYTES_MAX {
            (&state.small, self.small_bytes_max)
        } else if state.large.bytes_lent == 0 {
            // One request alone always fits, however small the pool was configured.
            return true;
        } else {
            (&state.large, self.large_bytes_max)
        };
        if share.bytes_lent + bytes > bytes_max {
            return false;
        }
        let fresh_bytes = state.slab.fresh_bytes(class);
        let fits = share.bytes_used + fresh_bytes <= bytes_max.next_multiple_of(HUGE_PAGE_BYTES);
        // The first chunk of a class always fits: buffers of one size, thinly spread over all
        // chunks, cannot keep another size waiting.
        fits || fresh_bytes == 0 || fresh_bytes > bytes && !state.slab.is_used(class)
    }

    /// Takes back all that is kept warm.
    fn let_cool(&self) {
        for slot in &self.warm {
            let kept = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(loan) = kept {
                self.give_back(loan);
            }
        }
    }

    /// The place for what this core used last.
    fn warm_slot(&self) -> Option<MutexGuard<'_, Option<Loan>>> {
        let slot = self.warm.get(rustix::thread::sched_getcpu() % self.warm.len().max(1))?;
        Some(slot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn give_back(&self, Loan { piece, home }: Loan) {
        let mut state = self.lock();
        let freed = state.slab.put(piece, home);
        if !freed.surplus.is_empty() {
            drop(state);
            drop(freed.surplus);
            state = self.lock();
            state.slab.unmapped(freed.idle_bytes);
        }
        let share = state.share(home.bytes());
        share.bytes_lent -= home.bytes();
        share.bytes_used -= freed.idle_bytes;
        let is_awaited = state.waiters > 0;
        drop(state);
        if is_awaited {
            self.freed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    const fn share(&mut self, bytes: usize) -> &mut Share {
        if bytes <= SMALL_BYTES_MAX { &mut self.small } else { &mut self.large }
    }
}

impl Buffer {
    /// Bytes it was taken for.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Changes it, if it is large, for one that this core used last: writing to memory that lies in
    /// another core's cache costs as much again. What it held is lost.
    pub fn warm_up(&mut self) {
        let Some(loan) = &mut self.loan else { return };
        if WARM_BYTES.contains(&loan.home.bytes())
            && let Some(mut slot) = self.pool.warm_slot()
            && let Some(kept) = slot.as_mut().filter(|kept| kept.home.bytes() == loan.home.bytes())
        {
            std::mem::swap(loan, kept);
        }
    }

    /// Gives it back. If it is large, it waits for [`Buffer::warm_up`] on this core as long as
    /// nobody needs the room.
    pub fn keep_warm(mut self) {
        let Some(loan) = self.loan.take() else { return };
        let is_worth_it = WARM_BYTES.contains(&loan.home.bytes());
        let may_stay = is_worth_it && self.pool.lock().waiters == 0;
        let mut cold = Some(loan);
        if may_stay && let Some(mut slot) = self.pool.warm_slot() {
            std::mem::swap(&mut *slot, &mut cold);
        }
        if let Some(loan) = cold {
            self.pool.give_back(loan);
        }
    }

    /// Whether it was taken for none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.loan.as_ref().expect("there until drop").piece[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.loan.as_mut().expect("there until drop").piece[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(loan) = self.loan.take() {
            self.pool.give_back(loan);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::bool::weighted;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buffers_are_aligned_reused_and_counted() {
        let pool = BufferPool::new(64 << 20);
        let buffer = pool.take(5000, None).expect("room");
        assert_eq!(buffer.len(), 5000);
        assert_eq!(buffer.as_ptr().align_offset(4096), 0);
        assert_eq!(pool.bytes_lent(), 8192);
        let place = buffer.as_ptr();
        drop(buffer);
        assert_eq!(pool.bytes_lent(), 0);
        assert_eq!(pool.take(8192, None).expect("room").as_ptr(), place);
    }

    #[test]
    fn the_bound_holds_and_small_requests_keep_their_share() {
        let pool = BufferPool::new(8 << 20);
        let large: Vec<_> = std::iter::from_fn(|| pool.take(1 << 20, None)).collect();
        assert_eq!(large.len(), 6);
        let small = pool.take(4096, None).expect("small ones have their own share");
        assert!(pool.take(1 << 20, Some(Duration::from_millis(1))).is_none());
        drop((large, small));
        assert_eq!(pool.bytes_lent(), 0);
    }

    #[test]
    fn the_largest_request_fits_with_unaligned_ends_and_nothing_beyond_exists() {
        let pool = BufferPool::new(256 << 20);
        assert!(pool.take((32 << 20) + 8192, None).is_some());
        assert!(pool.take(65 << 20, None).is_none());
    }

    #[test]
    fn a_large_buffer_kept_warm_is_what_the_next_one_is_changed_for() {
        let pool = BufferPool::new(256 << 20);
        let core = || rustix::thread::sched_getcpu();
        // Until it was not moved to another core in between.
        let is_kept = (0..1000).any(|_| {
            pool.let_cool();
            let (begun, first) = (core(), pool.take(1 << 20, None).expect("room"));
            let (place, mut second) = (first.as_ptr(), pool.take(1 << 20, None).expect("room"));
            first.keep_warm();
            assert_eq!(pool.bytes_lent(), 2 << 20, "what is kept warm counts");
            second.warm_up();
            let is_same = second.as_ptr() == place;
            assert_eq!(second.len(), 1 << 20);
            drop(second);
            assert_eq!(pool.bytes_lent(), 1 << 20);
            assert!(is_same || core() != begun);
            is_same
        });
        assert!(is_kept);
        let all: Vec<_> = std::iter::from_fn(|| pool.take(1 << 20, None)).collect();
        assert_eq!(all.len(), 192, "warm ones make room");
        drop(all);
        pool.take(4096, None).expect("room").keep_warm();
        pool.take(32 << 20, None).expect("room").keep_warm();
        assert_eq!(pool.bytes_lent(), 0, "small and huge ones just go back");
    }

    #[test]
    fn memory_of_one_size_serves_another_and_spares_are_bounded() {
        let pool = BufferPool::new(256 << 20);
        drop(pool.take(4096, None));
        assert_eq!(pool.lock().slab.mapped_bytes(), HUGE_PAGE_BYTES);
        let large: Vec<_> = (0..6).map(|_| pool.take(32 << 20, None).expect("room")).collect();
        drop(large);
        assert!(pool.lock().slab.mapped_bytes() <= 64 << 20);
        let mediums: Vec<_> = std::iter::from_fn(|| pool.take(1 << 20, None)).collect();
        assert_eq!(mediums.len(), 192);
        let small: Vec<_> = std::iter::from_fn(|| pool.take(64 << 10, None)).collect();
        assert_eq!(small.len(), 1024);
        assert!(pool.lock().slab.mapped_bytes() <= 256 << 20);
        drop((mediums, small));
        assert!(pool.lock().slab.mapped_bytes() <= 64 << 20);
    }

    #[test]
    fn a_size_is_served_from_spares_of_another_but_leaves_it_the_last() {
        let pool = BufferPool::new(64 << 20);
        let mediums: Vec<_> = (0..4).map(|_| pool.take(1 << 20, None).expect("room")).collect();
        let places: Vec<_> = mediums.iter().map(|medium| medium.as_ptr()).collect();
        drop(mediums);
        let page = pool.take(4096, None).expect("room");
        assert!(places.contains(&page.as_ptr()));
        assert_eq!(pool.lock().slab.mapped_bytes(), 2 * HUGE_PAGE_BYTES);
        let _other = pool.take(8192, None).expect("room");
        assert_eq!(pool.lock().slab.mapped_bytes(), 3 * HUGE_PAGE_BYTES);
    }

    #[test]
    fn scattered_buffers_of_one_size_leave_a_chunk_to_each_other_size() {
        let pool = BufferPool::new(32 << 20);
        let pages: Vec<_> = std::iter::from_fn(|| pool.take(4096, None)).collect();
        let scattered: Vec<_> = pages.into_iter().step_by(512).collect();
        assert_eq!(scattered.len(), 4);
        let others: Vec<_> =
            (1..7).map(|class| pool.take(4096 << class, None).expect("its first chunk")).collect();
        assert_eq!(pool.lock().slab.mapped_bytes(), 10 * HUGE_PAGE_BYTES);
        drop((scattered, others));
        assert_eq!(pool.bytes_lent(), 0);
    }

    #[test]
    fn a_waiter_gets_what_another_gives_back() {
        let pool = BufferPool::new(8 << 20);
        let large: Vec<_> = std::iter::from_fn(|| pool.take(1 << 20, None)).collect();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| pool.take(2 << 20, Some(Duration::from_secs(60))));
            while pool.lock().waiters == 0 {
                std::thread::yield_now();
            }
            drop(large);
            assert!(waiter.join().expect("no panic").is_some());
        });
        assert_eq!(pool.lock().waiters, 0);
    }

    #[test]
    fn threads_never_share_a_buffer() {
        let pool = BufferPool::new(32 << 20);
        std::thread::scope(|scope| {
            for thread in 0..4_usize {
                let pool = &pool;
                scope.spawn(move || hold_and_check(pool, thread));
            }
        });
        let state = pool.lock();
        assert_eq!((state.small.bytes_lent, state.small.bytes_used), (0, 0));
        assert_eq!((state.large.bytes_lent, state.large.bytes_used), (0, 0));
    }

    /// Takes and drops in an order of its own, each buffer marked at both ends while it is held.
    fn hold_and_check(pool: &Arc<BufferPool>, thread: usize) {
        let mut held = std::collections::VecDeque::new();
        for turn in 0..4000_usize {
            let len = 1 + ((turn * 7919 + thread * 104_729) % (4096 << (turn % 11)));
            if let Some(mut buffer) = pool.take(len, Some(Duration::from_micros(50))) {
                let mark = (thread * 50 + turn % 50) as u8;
                (buffer[0], buffer[len - 1]) = (mark, mark);
                held.push_back((buffer, mark));
            }
            if held.len() > turn % 13 {
                let (buffer, mark) = held.pop_front().expect("more than none");
                assert_eq!((buffer[0], buffer[buffer.len() - 1]), (mark, mark));
            }
        }
    }

    /// What a pool should do, from the addresses of its loans alone.
    #[derive(Default)]
    struct Model {
        loans: Vec<Buffer>,
    }

    impl Model {
        fn lent(&self, is_small: bool) -> usize {
            self.bytes(|bytes| (bytes <= SMALL_BYTES_MAX) == is_small).iter().sum()
        }

        fn bytes(&self, wanted: impl Fn(usize) -> bool) -> Vec<usize> {
            let all = self.loans.iter().map(|loan| loan.len().max(1).div_ceil(4096));
            all.map(|pages| pages.next_power_of_two() * 4096).filter(|b| wanted(*b)).collect()
        }

        /// Chunks by number: the size of their pieces, and how many are lent.
        fn chunks(&self) -> BTreeMap<usize, (usize, usize)> {
            let mut chunks = BTreeMap::new();
            for (loan, bytes) in self.loans.iter().zip(self.bytes(|_| true)) {
                if bytes < HUGE_PAGE_BYTES {
                    let number = loan.as_ptr() as usize / HUGE_PAGE_BYTES;
                    let chunk = chunks.entry(number).or_insert((bytes, 0));
                    assert_eq!(chunk.0, bytes, "a chunk serves one size at a time");
                    chunk.1 += 1;
                }
            }
            chunks
        }

        fn has_room(&self, bytes: usize, bytes_max: usize) -> bool {
            let is_small = bytes <= SMALL_BYTES_MAX;
            let lent = self.lent(is_small);
            if !is_small && lent == 0 {
                return true;
            }
            let share = if is_small { bytes_max / 4 } else { bytes_max - bytes_max / 4 };
            if lent + bytes > share {
                return false;
            }
            let chunks = self.chunks();
            let of_share = chunks.values().filter(|c| (c.0 <= SMALL_BYTES_MAX) == is_small);
            let runs = self.bytes(|b| b >= HUGE_PAGE_BYTES && !is_small).iter().sum::<usize>();
            let used = of_share.count() * HUGE_PAGE_BYTES + runs;
            let mut own = chunks.values().filter(|chunk| chunk.0 == bytes).peekable();
            let is_first = bytes < HUGE_PAGE_BYTES && own.peek().is_none();
            is_first
                || own.any(|chunk| chunk.1 < HUGE_PAGE_BYTES / bytes)
                || used + bytes.max(HUGE_PAGE_BYTES) <= share
        }

        fn check(&self, pool: &BufferPool, bytes_max: usize) {
            assert_eq!(pool.bytes_lent(), self.lent(true) + self.lent(false));
            let mapped = pool.lock().slab.mapped_bytes();
            assert!(mapped <= bytes_max + (64 << 20), "{mapped} bytes are mapped");
            let sizes = self.bytes(|_| true);
            let starts = self.loans.iter().map(|loan| loan.as_ptr() as usize);
            let mut places: Vec<_> = starts.zip(sizes).collect();
            places.sort_unstable();
            assert!(places.iter().all(|place| place.0.is_multiple_of(4096)));
            assert!(places.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
        }
    }

    fn steps() -> impl Strategy<Value = Vec<(bool, usize, usize)>> {
        let class = prop_oneof![8 => 0..4_usize, 8 => 4..9_usize, 1 => 9..15_usize];
        let len = class.prop_flat_map(|class| 0..=4096_usize << class);
        // One turn in three gives back, in bursts: `count` buffers from a place of its own.
        vec((weighted(0.67), len, 1..40_usize), 1..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn takes_and_drops_in_any_order_do_what_the_model_says(
            steps in steps(),
            bytes_max in prop_oneof![Just(32_usize << 20), Just(64 << 20), Just(160 << 20)],
        ) {
            let pool = BufferPool::new(bytes_max);
            let mut model = Model::default();
            for (is_take, len, count) in steps {
                for turn in 0..count {
                    if is_take {
                        let bytes = len.div_ceil(4096).max(1).next_power_of_two() * 4096;
                        let loan = pool.take(len, None);
                        prop_assert_eq!(loan.is_some(), model.has_room(bytes, bytes_max));
                        model.loans.extend(loan);
                    } else if !model.loans.is_empty() {
                        let at = (len + turn * count) % model.loans.len();
                        drop(model.loans.swap_remove(at));
                    }
                }
                model.check(&pool, bytes_max);
            }
            drop(model);
            prop_assert_eq!(pool.bytes_lent(), 0);
            prop_assert!(pool.lock().slab.mapped_bytes() <= 64 << 20);
        }
    }
}
