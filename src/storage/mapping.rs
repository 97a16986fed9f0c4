//! The page cache of a file, looked at where it lies: large reads are decrypted from there, which
//! saves the kernel's copy.
//!
//! A file is mapped in windows, read-only, when a large read first comes there. A view is given out
//! only if all its pages are in the page cache, so that looking at it waits for no device. What is
//! not there, too small, or beyond the bounds is read by `pread` as ever: a mapping is a shortcut
//! that nobody depends on.
//!
//! A file that is cut short behind our back, or a page that the device cannot bring back, shows as
//! SIGBUS at the touch. The handler lays zeros over the whole window and marks it as lost; the view
//! says so afterwards ([`View::is_sound`]), its reader reads again by `pread` and gets the true
//! error, and the window is never used again.
//!
//! Bounds: windows together map no more than a quarter of the memory, for mapped pages count as the
//! process's own where the kernel looks for somebody to end. Their page tables take 1/512 of what
//! is mapped. With more to map the oldest window goes, but not before enough was read without.

#![allow(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use crate::units::ByteOffset;

/// Bytes of one window. Its page tables take 512 KiB when all of it was read.
const WINDOW_BYTES: usize = 256 << 20;

/// Bytes that are entered into the page tables together and remembered by one bit.
const PART_BYTES: usize = 128 << 10;

const PARTS: usize = WINDOW_BYTES / PART_BYTES;

/// Below this, `preadv2` costs no more than to ask whether the pages are there.
const VIEW_BYTES_MIN: usize = 64 << 10;

/// The longest view; more is read in several anyway.
const VIEW_BYTES_MAX: usize = 1 << 20;

/// The smallest page, in bytes.
const PAGE_BYTES_MIN: usize = 4096;

/// Windows that the handler can know of, over all files.
const PLACES: usize = 1024;

/// Windows over all files, however little memory there is.
const WINDOWS_MIN: usize = 4;

/// Bytes that are read without a window before another one has to go for it.
const EXCHANGE_BYTES: u64 = 32 << 20;

/// Marks a place that is taken but has no window yet; never an address of one.
const RESERVED: usize = 1;

/// Where a window lies, for the signal handler: it may take no lock.
struct Place {
    start: AtomicUsize,
    is_lost: AtomicBool,
}

static TABLE: [Place; PLACES] =
    [const { Place { start: AtomicUsize::new(0), is_lost: AtomicBool::new(false) } }; PLACES];

/// The handler stands, and the kernel can fill page tables ahead.
static CAN_MAP: AtomicBool = AtomicBool::new(false);

/// What was done on SIGBUS before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

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

/// A part of a file in memory, unmapped on drop.
#[derive(Debug)]
struct Window {
    start: NonNull<u8>,
    place: &'static Place,
    /// One bit for each part whose pages were entered into the page tables.
    entered: [AtomicU64; PARTS / 64],
}

/// Bytes of a file in the page cache. They do not change as long as nobody writes there.
#[derive(Debug)]
pub struct View {
    window: Arc<Window>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a window is read-only memory of the process, bound to no thread; the rest of it is
// atomic.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}
// SAFETY: a view only reads, and keeps its window mapped.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place(lost: {})", self.is_lost.load(Ordering::Relaxed))
    }
}

/// Has a fault inside a window survived, once and for the whole process: before it, files are not
/// mapped. A fault elsewhere goes where it went before.
///
/// # Errors
/// The kernel takes no handler; files stay unmapped.
pub fn guard_mappings() -> std::io::Result<()> {
    static ONCE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = ONCE.lock().unwrap_or_else(PoisonError::into_inner);
    if PREVIOUS.get().is_some() {
        return Ok(());
    }
    // SAFETY: a struct of integers and a pointer-sized handler, for which zero stands for the
    // default.
    let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: reads the present action into a struct of ours.
    if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // Before the handler can run: it looks there.
    let _ = PREVIOUS.set(previous);
    // SAFETY: as above.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_fault;
    action.sa_sigaction = handler as usize;
    // On the stack that the standard library gives each thread for signals.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for and calls only what a signal
    // handler may: atomics, mmap, sigaction.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    CAN_MAP.store(true, Ordering::Release);
    Ok(())
}

/// SIGBUS. Returns if the touch can be repeated.
extern "C" fn on_fault(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: with SA_SIGINFO the kernel hands a valid siginfo; the address is set if the kernel
    // itself sent the signal, which a positive code says.
    let address = unsafe { if (*info).si_code > 0 { (*info).si_addr() as usize } else { 0 } };
    let is_hit = |place: &&Place| {
        let start = place.start.load(Ordering::Acquire);
        start > RESERVED && (start..start + WINDOW_BYTES).contains(&address)
    };
    if let Some(place) = TABLE.iter().find(is_hit)
        && lay_zeros_over(place)
    {
        return;
    }
    pass_on(signal, info, context);
}

/// Marks the window as lost, then has it read as zeros.
fn lay_zeros_over(place: &Place) -> bool {
    place.is_lost.store(true, Ordering::SeqCst);
    let start = place.start.load(Ordering::Acquire) as *mut libc::c_void;
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the range is exactly a window of ours, which stays mapped while the thread that
    // faulted holds a view of it; it is only ever read, and zeros are as good as any bytes to
    // whoever looks for `is_lost` afterwards.
    let laid = unsafe { libc::mmap(start, WINDOW_BYTES, libc::PROT_READ, flags, -1, 0) };
    laid != libc::MAP_FAILED
}

/// Does what was done before there was our handler.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.get().filter(|previous| {
        previous.sa_sigaction != libc::SIG_DFL && previous.sa_sigaction != libc::SIG_IGN
    });
    let Some(previous) = previous else {
        // SAFETY: the default action is valid for every signal. The touch is repeated and ends the
        // process; a signal that was sent by hand ends it by the next one.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    };
    if previous.sa_flags & libc::SA_SIGINFO != 0 {
        // SAFETY: with SA_SIGINFO the address is that of a handler with three arguments.
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            unsafe { std::mem::transmute(previous.sa_sigaction) };
        handler(signal, info, context);
    } else {
        // SAFETY: without it, of one with one.
        let handler: extern "C" fn(libc::c_int) =
            unsafe { std::mem::transmute(previous.sa_sigaction) };
        handler(signal);
    }
}

impl Mapping {
    /// The bytes of `range` of `file`, always the same, if they can be had at once.
    pub(super) fn view(&self, file: &File, range: &Range<ByteOffset>) -> Option<View> {
        let len = range.end.since(range.start).as_usize();
        if !(VIEW_BYTES_MIN..=VIEW_BYTES_MAX).contains(&len) || !CAN_MAP.load(Ordering::Acquire) {
            return None;
        }
        let window_bytes = WINDOW_BYTES as u64;
        let number = range.start.get() / window_bytes;
        if (range.end.get() - 1) / window_bytes != number {
            return None;
        }
        let window = self.find(number).or_else(|| self.map(file, number, len))?;
        window.view((range.start.get() % window_bytes) as usize, len)
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
        let missed = MISSED_BYTES.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
        let mut by_age = lock(&BY_AGE);
        if let Some(window) = self.find(number) {
            return Some(window);
        }
        by_age.retain(|aged| aged.window.strong_count() > 0);
        let oldest = if by_age.len() < windows_max() {
            None
        } else if missed >= EXCHANGE_BYTES {
            MISSED_BYTES.store(0, Ordering::Relaxed);
            by_age.pop_front()
        } else {
            return None;
        };
        let gone = oldest.and_then(|oldest| oldest.take_out());
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

impl Window {
    /// `None`: the file cannot be mapped, or too many windows are.
    fn map(file: &File, number: u64) -> Option<Self> {
        let offset = i64::try_from(number.checked_mul(WINDOW_BYTES as u64)?).ok()?;
        let place = TABLE.iter().find(|place| {
            let (free, taken) = (Ordering::Acquire, Ordering::Relaxed);
            place.start.compare_exchange(0, RESERVED, free, taken).is_ok()
        })?;
        place.is_lost.store(false, Ordering::Relaxed);
        let (access, flags) = (libc::PROT_READ, libc::MAP_SHARED | libc::MAP_NORESERVE);
        // SAFETY: a new mapping at an address of the kernel's choice. It is only read, and a touch
        // behind the end of the file is survived (`on_fault`).
        let mapped = unsafe {
            libc::mmap(std::ptr::null_mut(), WINDOW_BYTES, access, flags, file.as_raw_fd(), offset)
        };
        if mapped == libc::MAP_FAILED {
            place.start.store(0, Ordering::Release);
            return None;
        }
        place.start.store(mapped as usize, Ordering::Release);
        let start = NonNull::new(mapped.cast()).expect("a mapping is never at zero");
        Some(Self { start, place, entered: [const { AtomicU64::new(0) }; PARTS / 64] })
    }

    /// `len` bytes from `offset` of the window, which lie in it, if the page cache has them.
    fn view(self: Arc<Self>, offset: usize, len: usize) -> Option<View> {
        if self.place.is_lost.load(Ordering::Acquire) {
            return None;
        }
        let page = rustix::param::page_size();
        let pages = offset / page * page..(offset + len).next_multiple_of(page).min(WINDOW_BYTES);
        let mut parts = pages.start / PART_BYTES..pages.end.div_ceil(PART_BYTES);
        if !self.is_resident(&pages) {
            // What the kernel has dropped is no longer in the page tables either.
            parts.for_each(|part| self.forget(part));
            return None;
        }
        if !parts.all(|part| self.is_entered(part)) {
            self.enter(&pages)?;
            let whole = pages.start.div_ceil(PART_BYTES)..pages.end / PART_BYTES;
            whole.for_each(|part| self.remember(part));
        }
        // SAFETY: `offset` is less than the window is long.
        let start = unsafe { self.start.add(offset) };
        Some(View { window: self, start, len })
    }

    /// Whether the page cache has all of `pages`. If it drops one before it is looked at, that look
    /// waits for the device: slow, not wrong.
    fn is_resident(&self, pages: &Range<usize>) -> bool {
        let mut states = [0_u8; VIEW_BYTES_MAX / PAGE_BYTES_MIN + 1];
        let count = pages.len() / rustix::param::page_size();
        // SAFETY: the range lies in the window, starts at a page, and `states` has a byte for each
        // of its pages: a view is bounded, and at most one page longer when rounded out.
        let outcome = unsafe {
            let from = self.start.as_ptr().add(pages.start);
            libc::mincore(from.cast(), pages.len(), states.as_mut_ptr())
        };
        outcome == 0 && states[..count].iter().all(|state| state & 1 == 1)
    }

    /// Enters `pages` into the page tables: all at once costs a fifth of a fault for every few.
    fn enter(&self, pages: &Range<usize>) -> Option<()> {
        // SAFETY: the range lies in the window. The advice changes nothing that can be seen; where
        // a page cannot be had it fails in place of a signal.
        let outcome = unsafe {
            let from = self.start.as_ptr().add(pages.start);
            libc::madvise(from.cast(), pages.len(), libc::MADV_POPULATE_READ)
        };
        if outcome == 0 {
            return Some(());
        }
        if std::io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
            // Before Linux 5.14: faults for every few pages would cost more than they save.
            CAN_MAP.store(false, Ordering::Release);
        }
        None
    }

    fn is_entered(&self, part: usize) -> bool {
        self.entered[part / 64].load(Ordering::Relaxed) >> (part % 64) & 1 == 1
    }

    fn remember(&self, part: usize) {
        self.entered[part / 64].fetch_or(1 << (part % 64), Ordering::Relaxed);
    }

    fn forget(&self, part: usize) {
        self.entered[part / 64].fetch_and(!(1 << (part % 64)), Ordering::Relaxed);
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // Before the addresses are free for another window, which has a place of its own.
        self.place.start.store(0, Ordering::Release);
        // SAFETY: exactly the mapping of `map`, or the zeros laid over it; no view is left, for
        // each keeps the window alive. It fails only for a range that is none.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), WINDOW_BYTES) };
    }
}

impl View {
    /// The bytes. After the last look at them, [`View::is_sound`] says whether they were the
    /// file's.
    pub const fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` lie in the window, which stays mapped and readable as
        // long as `self` lives; any byte is valid. Nobody in this process writes to the memory; the
        // lock on the file and the caller's on the range keep writers of the file away. One that
        // minds neither garbles what is read, as it would by any other way of reading, and no more:
        // no length or index comes from these bytes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Whether every look at [`View::bytes`] so far saw the file. If not, read another way.
    pub fn is_sound(&self) -> bool {
        // The looks come before: who saw zeros laid over the window sees the mark as well.
        fence(Ordering::SeqCst);
        !self.window.place.is_lost.load(Ordering::SeqCst)
    }
}

/// How many windows there may be, over all files.
fn windows_max() -> usize {
    static MAX: OnceLock<usize> = OnceLock::new();
    *MAX.get_or_init(|| {
        // SAFETY: asks for a number.
        let pages = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) };
        let bytes = usize::try_from(pages).unwrap_or(0).saturating_mul(rustix::param::page_size());
        // A few places are left to windows that have gone but are still looked at.
        (bytes / 4 / WINDOW_BYTES).clamp(WINDOWS_MIN, PLACES - 64)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn scratch(len: u64) -> File {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).expect("a scratch file");
        file.set_len(len).expect("a length");
        guard_mappings().expect("a handler");
        file
    }

    fn filled(byte: u8) -> File {
        let file = scratch(2 * MIB);
        file.write_all_at(&vec![byte; 2 << 20], 0).expect("a write");
        file
    }

    fn range(start: u64, len: u64) -> Range<ByteOffset> {
        ByteOffset::new(start)..ByteOffset::new(start + len)
    }

    #[test]
    fn a_view_shows_what_is_written_also_later_and_at_any_place() {
        let (file, mapping) = (filled(7), Mapping::default());
        for (start, len) in [(0, MIB), (MIB, MIB), (512, 64 << 10), (4096, 100_000), (1, MIB)] {
            let view = mapping.view(&file, &range(start, len)).expect("it is in the page cache");
            assert_eq!(view.bytes().len() as u64, len);
            assert!(view.bytes().iter().all(|byte| *byte == 7), "{start} {len}");
            assert!(view.is_sound());
        }
        file.write_all_at(b"later", 5000).expect("a write");
        let view = mapping.view(&file, &range(4096, MIB)).expect("a view");
        assert_eq!(&view.bytes()[904..909], b"later");
        drop(mapping);
        assert_eq!(&view.bytes()[904..909], b"later", "a view outlives its file");
    }

    #[test]
    fn what_is_small_long_absent_or_across_two_windows_is_not_shown() {
        let (file, mapping) = (scratch(1 << 40), Mapping::default());
        let edge = WINDOW_BYTES as u64;
        for start in [0, edge - MIB] {
            file.write_all_at(&vec![7; 2 << 20], start).expect("a write");
        }
        assert!(mapping.view(&file, &range(0, 4096)).is_none());
        assert!(mapping.view(&file, &range(0, MIB + 4096)).is_none());
        assert!(mapping.view(&file, &range(edge - 65536, 131_072)).is_none());
        assert!(mapping.view(&file, &range(2 * MIB - 4096, MIB)).is_none(), "half of it");
        assert!(mapping.view(&file, &range((1 << 40) - MIB, MIB)).is_none(), "a hole");
        assert!(mapping.view(&file, &range(1 << 40, MIB)).is_none(), "past the end");
        assert!(mapping.view(&file, &range(edge, MIB)).is_some());
    }

    #[test]
    fn what_the_page_cache_loses_and_gets_again_is_not_shown_and_shown_again() {
        let (file, mapping) = (filled(7), Mapping::default());
        mapping.view(&file, &range(0, MIB)).expect("a view");
        file.sync_all().expect("a sync");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
        // Mapped pages stay: they are dropped when the window is.
        drop(mapping);
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
        let mapping = Mapping::default();
        assert!(mapping.view(&file, &range(0, MIB)).is_none());
        file.read_exact_at(&mut vec![0; 1 << 20], 0).expect("a read");
        let view = mapping.view(&file, &range(0, MIB)).expect("a view");
        assert!(view.bytes().iter().all(|byte| *byte == 7));
    }

    #[test]
    fn a_file_cut_short_under_a_view_is_noticed_and_harms_no_other() {
        let (file, mapping) = (filled(7), Mapping::default());
        let (other_file, other) = (filled(9), Mapping::default());
        let view = mapping.view(&file, &range(0, MIB)).expect("a view");
        let beside = other.view(&other_file, &range(0, MIB)).expect("a view");
        file.set_len(4096).expect("a cut");
        assert!(view.bytes().iter().all(|byte| *byte == 0 || *byte == 7));
        assert!(!view.is_sound());
        assert!(beside.bytes().iter().all(|byte| *byte == 9) && beside.is_sound());
        file.write_all_at(&vec![7; 2 << 20], 0).expect("a write");
        assert!(mapping.view(&file, &range(0, MIB)).is_none(), "never again");
        drop((view, mapping));
        let view = Mapping::default().view(&file, &range(0, MIB)).expect("opened again");
        assert!(view.bytes().iter().all(|byte| *byte == 7) && view.is_sound());
    }

    /// In a process of its own, for it takes all windows there are.
    #[test]
    fn there_are_never_more_windows_than_the_bound_and_the_oldest_goes_in_the_end() {
        if let Some(status) =
            alone("there_are_never_more_windows_than_the_bound_and_the_oldest_goes_in_the_end")
        {
            return assert!(status.success());
        }
        let windows = windows_max() as u64 + 3;
        let (file, mapping) = (scratch(windows * WINDOW_BYTES as u64), Mapping::default());
        let start = |number| number * WINDOW_BYTES as u64;
        for number in 0..windows {
            file.write_all_at(&[number as u8; 64 << 10], start(number)).expect("a write");
        }
        let shown = |number| {
            let view = mapping.view(&file, &range(start(number), 64 << 10))?;
            assert!(view.bytes().iter().all(|byte| *byte == number as u8), "window {number}");
            Some(())
        };
        let mut tries = (0..windows).cycle().take(windows as usize * 600);
        let has_gone = tries.any(|number| {
            let _ = shown(number);
            assert!(lock(&BY_AGE).len() <= windows_max());
            shown(0).is_some() && number > 0 && mapping.find(1).is_none()
        });
        assert!(has_gone, "enough was read without it");
    }

    /// In a process of its own, which it ends.
    #[test]
    fn a_fault_elsewhere_ends_the_process_as_before() {
        let Some(status) = alone("a_fault_elsewhere_ends_the_process_as_before") else {
            let file = scratch(0);
            let (access, flags) = (libc::PROT_READ, libc::MAP_SHARED);
            let (null, fd) = (std::ptr::null_mut(), file.as_raw_fd());
            // SAFETY: a new mapping, behind the end of its file: the touch is the test.
            unsafe {
                let mapped = libc::mmap(null, 4096, access, flags, fd, 0);
                mapped.cast::<u8>().read_volatile();
            }
            return;
        };
        assert_eq!(status.signal(), Some(libc::SIGBUS));
    }

    /// How the test of this name ends in a process of its own; `None`: this is it.
    fn alone(name: &str) -> Option<ExitStatus> {
        const CHILD: &str = "SEALDISK_TEST_ALONE";
        if std::env::var_os(CHILD).is_some() {
            return None;
        }
        let name = format!("storage::mapping::tests::{name}");
        let mut child = Command::new(std::env::current_exe().expect("this test"));
        let done = child.args(["--exact", &name]).env(CHILD, "1").output().expect("it runs");
        println!("{}", String::from_utf8_lossy(&done.stdout));
        Some(done.status)
    }
}
