//! The page cache of a file, looked at where it lies: large reads are decrypted from there, which
//! saves the kernel's copy, and a system call for each part of them that lies in a file of its own.
//!
//! A file is mapped in windows, read-only, when a large read first comes there. A view gives out
//! only bytes whose pages are in the page cache (`window.rs`), so that looking at them waits for no
//! device. What is not there, too small, or beyond the bounds is read by `pread` as ever: a mapping
//! is a shortcut that nobody depends on.
//!
//! A touch that fails marks the window as lost (`sigbus.rs`); the view says so afterwards
//! ([`View::is_sound`]), its reader reads again by `pread` and gets the true error, and the window
//! is never used again.
//!
//! Bounds: pages that are known to be there, so could be mapped, take no more than a quarter of the
//! memory. Windows together are no longer than four times the memory, and page tables take 1/512 of
//! that at most. With more to map the oldest window goes, but not before enough was read without.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use super::sigbus::{self, PLACES, WINDOW_BYTES};
use super::window::{self, Window};
use crate::units::{ByteCount, ByteOffset};

/// Requests of less are read by `preadv2`: it costs no more than to look for a window.
const REQUEST_BYTES_MIN: usize = 64 << 10;

/// The longest view; more is read in several anyway.
const VIEW_BYTES_MAX: usize = 1 << 20;

/// Windows over all files, however little memory there is.
const WINDOWS_MIN: usize = 4;

/// Bytes that are read without a window before another one has to go for it.
const EXCHANGE_BYTES: u64 = 32 << 20;

/// All windows by age.
static BY_AGE: Mutex<VecDeque<Aged>> = Mutex::new(VecDeque::new());

/// Bytes read without a window since one last had to go.
static MISSED_BYTES: AtomicU64 = AtomicU64::new(0);

/// The windows of one file, by their number from its start.
type Windows = RwLock<BTreeMap<u64, Arc<Window>>>;

struct Aged {
    list: Weak<Windows>,
    window: Weak<Window>,
}

/// The windows of one file.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    windows: Arc<Windows>,
    is_refused: AtomicBool,
}

/// A range of a file, some of which is in the page cache. What is does not change as long as nobody
/// writes there.
#[derive(Debug)]
pub struct View {
    window: Arc<Window>,
    /// In the window.
    range: Range<usize>,
}

impl Mapping {
    /// What of `range` of `file` can be had at once, now and for a while. It is a part of a request
    /// of `request` bytes.
    pub(super) fn view(
        &self,
        file: &File,
        range: &Range<ByteOffset>,
        request: ByteCount,
    ) -> Option<View> {
        let len = range.end.since(range.start).as_usize();
        let is_small = request.as_usize() < REQUEST_BYTES_MIN;
        if is_small || !(1..=VIEW_BYTES_MAX).contains(&len) || !sigbus::can_map() {
            return None;
        }
        let window_bytes = WINDOW_BYTES as u64;
        let number = range.start.get() / window_bytes;
        if (range.end.get() - 1) / window_bytes != number {
            return None;
        }
        let window = self.find(number).or_else(|| self.map(file, number, len))?;
        if window.is_lost() {
            return None;
        }
        let start = (range.start.get() % window_bytes) as usize;
        let range = start..start + len;
        if window.renew(file, &range) {
            return Some(View { window, range });
        }
        let mut by_age = lock(&BY_AGE);
        let gone = may_exchange(len).then(|| by_age.pop_front()).flatten();
        let gone = gone.and_then(Aged::take_out);
        drop(by_age);
        // Unmapping takes a while: without the lock.
        drop(gone);
        None
    }

    /// What `range` holds has changed otherwise than by a write: pages may be gone.
    pub(super) fn forget(&self, range: &Range<ByteOffset>) {
        let windows = self.windows.read().unwrap_or_else(PoisonError::into_inner);
        let window_bytes = WINDOW_BYTES as u64;
        let numbers = range.start.get() / window_bytes..range.end.get().div_ceil(window_bytes);
        for (number, window) in windows.range(numbers) {
            let inside = |at: ByteOffset| {
                at.get().saturating_sub(number * window_bytes).min(window_bytes) as usize
            };
            window.forget(&(inside(range.start)..inside(range.end)));
        }
    }

    fn find(&self, number: u64) -> Option<Arc<Window>> {
        let windows = self.windows.read().unwrap_or_else(PoisonError::into_inner);
        windows.get(&number).map(Arc::clone)
    }

    /// A new window, if the bounds allow one for a read of `len` bytes.
    fn map(&self, file: &File, number: u64, len: usize) -> Option<Arc<Window>> {
        if self.is_refused.load(Ordering::Relaxed) {
            return None;
        }
        let mut by_age = lock(&BY_AGE);
        if let Some(window) = self.find(number) {
            return Some(window);
        }
        by_age.retain(|aged| aged.window.strong_count() > 0);
        let oldest = if by_age.len() < windows_max() {
            None
        } else if may_exchange(len) {
            by_age.pop_front()
        } else {
            return None;
        };
        let gone = oldest.and_then(Aged::take_out);
        let window = Window::map(file, number).map(Arc::new);
        if let Some(window) = &window {
            let list = Arc::downgrade(&self.windows);
            by_age.push_back(Aged { list, window: Arc::downgrade(window) });
            let mut windows = self.windows.write().unwrap_or_else(PoisonError::into_inner);
            windows.insert(number, Arc::clone(window));
        } else {
            // Not every file system can; it will not learn to.
            self.is_refused.store(true, Ordering::Relaxed);
        }
        drop(by_age);
        // Unmapping takes a while: without the lock.
        drop(gone);
        window
    }
}

impl Aged {
    /// Takes the window from its file's list; who looks at it keeps it.
    fn take_out(self) -> Option<Arc<Window>> {
        let (list, window) = (self.list.upgrade()?, self.window.upgrade()?);
        let mut windows = list.write().unwrap_or_else(PoisonError::into_inner);
        windows.retain(|_, other| !Arc::ptr_eq(other, &window));
        Some(window)
    }
}

impl View {
    /// The bytes of `part` of the range, if the page cache has them. After the last look at them,
    /// [`View::is_sound`] says whether they were the file's.
    pub fn bytes(&self, part: Range<usize>) -> Option<&[u8]> {
        if part.is_empty() || part.end > self.range.len() {
            return None;
        }
        self.window.bytes(self.range.start + part.start..self.range.start + part.end)
    }

    /// Whether every look at [`View::bytes`] so far saw the file. If not, read another way.
    pub fn is_sound(&self) -> bool {
        // The looks come before: who saw zeros laid over the window sees the mark as well.
        fence(Ordering::SeqCst);
        !self.window.is_lost()
    }
}

/// Whether enough was read without a window, `len` bytes now, for the oldest one to go.
fn may_exchange(len: usize) -> bool {
    let missed = MISSED_BYTES.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
    let may = missed >= EXCHANGE_BYTES;
    if may {
        MISSED_BYTES.store(0, Ordering::Relaxed);
    }
    may
}

/// How many windows there may be, over all files.
fn windows_max() -> usize {
    static MAX: OnceLock<usize> = OnceLock::new();
    *MAX.get_or_init(|| {
        let bytes = window::memory_pages().saturating_mul(rustix::param::page_size());
        // A few places are left to windows that have gone but are still looked at.
        (bytes.saturating_mul(4) / WINDOW_BYTES).clamp(WINDOWS_MIN, PLACES - 64)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::super::sigbus::tests::alone;
    use super::*;

    const MIB: u64 = 1 << 20;

    fn scratch(len: u64) -> File {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).expect("a scratch file");
        file.set_len(len).expect("a length");
        sigbus::guard_mappings().expect("a handler");
        file
    }

    fn filled(byte: u8) -> File {
        let file = scratch(2 * MIB);
        file.write_all_at(&vec![byte; 2 << 20], 0).expect("a write");
        file
    }

    /// A view of a range that is wanted whole.
    fn whole(mapping: &Mapping, file: &File, start: u64, len: u64) -> Option<View> {
        let view = mapping.view(file, &range(start, len), ByteCount::new(len))?;
        view.bytes(0..len as usize)?;
        Some(view)
    }

    fn all(view: &View) -> &[u8] {
        view.bytes(0..view.range.len()).expect("it is in the page cache")
    }

    fn range(start: u64, len: u64) -> Range<ByteOffset> {
        ByteOffset::new(start)..ByteOffset::new(start + len)
    }

    #[test]
    fn a_view_shows_what_is_written_also_later_and_at_any_place() {
        let (file, mapping) = (filled(7), Mapping::default());
        for (start, len) in [(0, MIB), (MIB, MIB), (512, 64 << 10), (4096, 100_000), (1, MIB)] {
            let view = whole(&mapping, &file, start, len).expect("it is in the page cache");
            assert_eq!(all(&view).len() as u64, len);
            assert!(all(&view).iter().all(|byte| *byte == 7), "{start} {len}");
            assert!(view.is_sound());
        }
        file.write_all_at(b"later", 5000).expect("a write");
        let view = whole(&mapping, &file, 4096, MIB).expect("a view");
        assert_eq!(&all(&view)[904..909], b"later");
        drop(mapping);
        assert_eq!(&all(&view)[904..909], b"later", "a view outlives its file");
    }

    #[test]
    fn what_is_small_long_absent_or_across_two_windows_is_not_shown() {
        let (file, mapping) = (scratch(1 << 40), Mapping::default());
        let edge = WINDOW_BYTES as u64;
        for start in [0, edge - MIB] {
            file.write_all_at(&vec![7; 2 << 20], start).expect("a write");
        }
        assert!(whole(&mapping, &file, 0, 4096).is_none());
        assert!(whole(&mapping, &file, 0, MIB + 4096).is_none());
        assert!(whole(&mapping, &file, edge - 65536, 131_072).is_none());
        assert!(whole(&mapping, &file, 2 * MIB - 4096, MIB).is_none(), "half of it");
        assert!(whole(&mapping, &file, (1 << 40) - MIB, MIB).is_none(), "a hole");
        assert!(whole(&mapping, &file, 1 << 40, MIB).is_none(), "past the end");
        assert!(whole(&mapping, &file, edge, MIB).is_some());
    }

    /// A file as a layer of a deep stack: a page here and there. No look at it brings a page in.
    #[test]
    fn of_a_range_with_holes_the_rest_is_shown_and_the_holes_stay() {
        let (file, mapping) = (scratch(3 * MIB), Mapping::default());
        let pages = |start: u64| (start..3 * MIB).step_by(16 * 4096);
        pages(8192).for_each(|at| file.write_all_at(&[7; 4096], at).expect("a write"));
        let shown = |mapping: &Mapping, from: u64| {
            let view = mapping.view(&file, &range(from, MIB), ByteCount::new(MIB)).expect("a view");
            for at in (from..from + MIB).step_by(4096) {
                let start = (at - from) as usize;
                let found = view.bytes(start..start + 4096);
                let expected = (at % (16 * 4096) == 8192).then_some(&[7; 4096][..]);
                assert_eq!(found, expected, "{at} of a view from {from}");
            }
            assert!(view.bytes(0..12288).is_none() && view.bytes(8192..12289).is_none());
            assert!(view.bytes(MIB as usize - 1..MIB as usize + 1).is_none(), "past its end");
            assert!(view.is_sound());
        };
        // The middle one lies in two blocks.
        [0, MIB / 2, 2 * MIB].into_iter().for_each(|from| shown(&mapping, from));
        let filled = |at| {
            let from = rustix::fs::SeekFrom::Data(at);
            rustix::fs::seek(&file, from).expect("data") == at
        };
        assert!(filled(8192) && !filled(12288));
        let view = mapping.view(&file, &range(0, MIB), ByteCount::new(MIB)).expect("a view");
        file.write_all_at(&[9; 4096], 4096).expect("a write");
        assert!(view.bytes(4096..8192).is_none(), "not known yet");
        let view = mapping.view(&file, &range(0, MIB), ByteCount::new(MIB)).expect("a view");
        assert_eq!(view.bytes(4096..8192), Some(&[9; 4096][..]), "asked again");
        // Given back to the file system, and not brought in by the look.
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, flags, 4096, 4096).expect("a hole");
        mapping.forget(&range(4096, 4096));
        let view = mapping.view(&file, &range(0, MIB), ByteCount::new(MIB)).expect("a view");
        assert_eq!(view.bytes(4096..8192), None);
        assert_eq!(view.bytes(8192..12288), Some(&[7; 4096][..]));
    }

    #[test]
    fn a_small_part_of_a_large_request_is_shown_and_a_small_request_is_not() {
        let (file, mapping) = (filled(7), Mapping::default());
        let small = range(8192, 4096);
        assert!(mapping.view(&file, &small, ByteCount::new(4096)).is_none());
        let view = mapping.view(&file, &small, ByteCount::new(MIB)).expect("a view");
        assert_eq!(view.bytes(0..4096), Some(&[7; 4096][..]));
        assert!(view.bytes(0..4097).is_none() && view.bytes(4096..4096).is_none());
    }

    /// In a process of its own, for it takes all memory that may be mapped.
    #[test]
    fn no_more_pages_are_known_than_may_be_mapped_and_the_oldest_window_goes_in_the_end() {
        if let Some(status) = alone(
            "storage::mapping::tests::no_more_pages_are_known_than_may_be_mapped_and_the_oldest_window_goes_in_the_end",
        ) {
            return assert!(status.success());
        }
        let (old, file) = ((filled(9), Mapping::default()), filled(7));
        window::leave_room(600);
        assert!(
            whole(&old.1, &old.0, 0, MIB).is_some() && whole(&old.1, &old.0, MIB, MIB).is_some()
        );
        let mapping = Mapping::default();
        assert!(whole(&mapping, &file, 0, MIB).is_none(), "256 pages beside 512");
        let tries = 2 * EXCHANGE_BYTES / MIB;
        assert!((0..tries).any(|_| whole(&mapping, &file, 0, MIB).is_some()));
        assert!(old.1.find(0).is_none(), "the other one went for it");
        assert!(whole(&mapping, &file, MIB, MIB).is_some(), "its pages count no longer");
    }

    #[test]
    fn what_the_page_cache_loses_and_gets_again_is_not_shown_and_shown_again() {
        let (file, mapping) = (filled(7), Mapping::default());
        whole(&mapping, &file, 0, MIB).expect("a view");
        file.sync_all().expect("a sync");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
        // Mapped pages stay: they are dropped when the window is.
        drop(mapping);
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
        let mapping = Mapping::default();
        assert!(whole(&mapping, &file, 0, MIB).is_none());
        file.read_exact_at(&mut vec![0; 1 << 20], 0).expect("a read");
        let view = whole(&mapping, &file, 0, MIB).expect("a view");
        assert!(all(&view).iter().all(|byte| *byte == 7));
    }

    #[test]
    fn a_file_cut_short_under_a_view_is_noticed_and_harms_no_other() {
        let (file, mapping) = (filled(7), Mapping::default());
        let (other_file, other) = (filled(9), Mapping::default());
        let view = whole(&mapping, &file, 0, MIB).expect("a view");
        let beside = whole(&other, &other_file, 0, MIB).expect("a view");
        file.set_len(4096).expect("a cut");
        assert!(all(&view).iter().all(|byte| *byte == 0 || *byte == 7));
        assert!(!view.is_sound());
        assert!(all(&beside).iter().all(|byte| *byte == 9) && beside.is_sound());
        file.write_all_at(&vec![7; 2 << 20], 0).expect("a write");
        assert!(whole(&mapping, &file, 0, MIB).is_none(), "never again");
        drop((view, mapping));
        let view = whole(&Mapping::default(), &file, 0, MIB).expect("opened again");
        assert!(all(&view).iter().all(|byte| *byte == 7) && view.is_sound());
    }

    /// In a process of its own, for it takes all windows there are.
    #[test]
    fn there_are_never_more_windows_than_the_bound_and_the_oldest_goes_in_the_end() {
        if let Some(status) = alone(
            "storage::mapping::tests::there_are_never_more_windows_than_the_bound_and_the_oldest_goes_in_the_end",
        ) {
            return assert!(status.success());
        }
        let windows = windows_max() as u64 + 1;
        let (file, mapping) = (scratch(windows * WINDOW_BYTES as u64), Mapping::default());
        let start = |number| number * WINDOW_BYTES as u64;
        for number in 0..windows {
            file.write_all_at(&[number as u8; 64 << 10], start(number)).expect("a write");
        }
        let shown = |number| {
            let view = whole(&mapping, &file, start(number), 64 << 10)?;
            assert!(all(&view).iter().all(|byte| *byte == number as u8), "window {number}");
            Some(())
        };
        assert!((0..windows - 1).all(|number| shown(number).is_some()));
        let tries = 2 * EXCHANGE_BYTES / (64 << 10);
        let needed = (0..tries).take_while(|_| shown(windows - 1).is_none()).count() as u64;
        assert!(needed > tries / 4 && needed < tries, "enough was read without it: {needed}");
        assert!(mapping.find(0).is_none() && mapping.find(1).is_some(), "the oldest went");
        assert_eq!(lock(&BY_AGE).len(), windows_max());
    }
}
