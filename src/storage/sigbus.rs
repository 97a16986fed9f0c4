//! SIGBUS inside a window of a mapped file is survived.
//!
//! A file that is cut short behind our back, or a page that the device cannot bring back, shows as
//! SIGBUS at the touch. The handler lays zeros over the whole window and marks it as lost. Whoever
//! looks at a window asks for that mark afterwards.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Bytes of one window. Its page tables take 512 KiB when all of it was read.
pub(super) const WINDOW_BYTES: usize = 256 << 20;

/// Windows that the handler can know of, over all files.
pub(super) const PLACES: usize = 1024;

/// Marks a place that is taken but has no window yet; never an address of one.
const RESERVED: usize = 1;

/// Where a window lies, for the signal handler: it may take no lock.
pub(super) struct Place {
    start: AtomicUsize,
    is_lost: AtomicBool,
}

static TABLE: [Place; PLACES] =
    [const { Place { start: AtomicUsize::new(0), is_lost: AtomicBool::new(false) } }; PLACES];

/// The handler stands, and the kernel can fill page tables ahead.
static CAN_MAP: AtomicBool = AtomicBool::new(false);

/// What was done on SIGBUS before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place(lost: {})", self.is_lost())
    }
}

impl Place {
    /// A place for a window to come, unless all are taken.
    pub(super) fn reserve() -> Option<&'static Self> {
        let place = TABLE.iter().find(|place| {
            let (free, taken) = (Ordering::Acquire, Ordering::Relaxed);
            place.start.compare_exchange(0, RESERVED, free, taken).is_ok()
        })?;
        place.is_lost.store(false, Ordering::Relaxed);
        Some(place)
    }

    /// The window of this place lies at `start`; a fault there is survived from now on.
    pub(super) fn set(&self, start: usize) {
        self.start.store(start, Ordering::Release);
    }

    /// There is no window here any more.
    pub(super) fn release(&self) {
        self.start.store(0, Ordering::Release);
    }

    /// Whether a touch of the window has failed.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::SeqCst)
    }
}

/// Whether files may be mapped.
pub(super) fn can_map() -> bool {
    CAN_MAP.load(Ordering::Acquire)
}

/// No file is mapped from now on.
pub(super) fn forbid_maps() {
    CAN_MAP.store(false, Ordering::Release);
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

#[cfg(test)]
pub(super) mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    use super::*;

    /// In a process of its own, which it ends.
    #[test]
    fn a_fault_elsewhere_ends_the_process_as_before() {
        let Some(status) =
            alone("storage::sigbus::tests::a_fault_elsewhere_ends_the_process_as_before")
        else {
            let file = tempfile::tempfile().expect("a scratch file");
            guard_mappings().expect("a handler");
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
    pub(in super::super) fn alone(name: &str) -> Option<ExitStatus> {
        const CHILD: &str = "SEALDISK_TEST_ALONE";
        if std::env::var_os(CHILD).is_some() {
            return None;
        }
        let mut child = Command::new(std::env::current_exe().expect("this test"));
        let done = child.args(["--exact", name]).env(CHILD, "1").output().expect("it runs");
        println!("{}", String::from_utf8_lossy(&done.stdout));
        Some(done.status)
    }
}
