//! A call under way, between who asks and who does it.
//!
//! Who asks sleeps until it is done, at most as long as told; where the token is so quick that to
//! fall asleep and be woken costs as much as the call, it looks for the answer for a moment first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::apart::Padded;
use super::crew::{Crew, Outlook};
use super::failure::TokenError;
use super::link::Link;
use super::module::lock;
use super::worker::{Access, Desk, Worker};

/// After so long without any call having been taken up, another worker is called though the token
/// is quick: the one at work may hang.
const PATIENCE: Duration = Duration::from_millis(2);

/// Whether others could do it as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    OneOfSeveral,
    Last,
}

/// What became of a call in a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is over; how long it took, if the token did it.
    Done(Option<Duration>),
    /// The token had no session for this worker; it is for another.
    NoSession,
    /// It is over, and its caller had given up.
    Unawaited,
}

/// A call as the crew sees it.
pub(super) trait Call: Send + Sync {
    /// Does it.
    fn run(&self, worker: &mut Worker, standing: Standing) -> Outcome;

    /// Wakes its caller, if it sleeps: the answer will be there in a moment.
    ///
    /// Who has its own answer does this for who is next, so that no worker has to wake anybody.
    fn rouse(&self);

    /// Whether the answer is there.
    fn is_over(&self) -> bool;
}

/// In this order, so that a worker finds what it needs on few cache lines.
#[repr(C)]
pub(super) struct Ticket<T, W> {
    slip: Mutex<Slip<T>>,
    access: Access,
    work: Mutex<W>,
    sleeper: Condvar,
    /// Its caller looks here all the time, while a worker writes elsewhere.
    is_over: Padded<AtomicBool>,
}

struct Slip<T> {
    progress: Progress<T>,
    /// Its caller must be woken.
    is_asleep: bool,
    /// Its caller was woken before the time.
    is_roused: bool,
}

/// Where a call is.
enum Progress<T> {
    Waiting,
    Running,
    /// Taken up once, and for another worker now.
    ToDo,
    Done(Result<T, TokenError>),
    Abandoned,
}

impl<T> Progress<T> {
    const fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }

    const fn is_to_begin(&self) -> bool {
        matches!(self, Self::Waiting | Self::ToDo)
    }
}

impl<T, W> Ticket<T, W> {
    pub(super) const fn new(access: Access, work: W) -> Self {
        let slip = Slip { progress: Progress::Waiting, is_asleep: false, is_roused: false };
        Self {
            slip: Mutex::new(slip),
            access,
            work: Mutex::new(work),
            sleeper: Condvar::new(),
            is_over: Padded::new(AtomicBool::new(false)),
        }
    }

    fn begin(&self) -> bool {
        let mut slip = lock(&self.slip);
        let is_wanted = slip.progress.is_to_begin();
        if is_wanted {
            slip.progress = Progress::Running;
        }
        is_wanted
    }

    /// Notes how far it came. Whether somebody waits for it still.
    fn note(&self, progress: Progress<T>) -> bool {
        let mut slip = lock(&self.slip);
        if matches!(slip.progress, Progress::Abandoned) {
            return false;
        }
        let is_done = progress.is_done();
        slip.progress = progress;
        let is_to_wake = is_done && slip.is_asleep;
        // Not while it is locked: who wakes would wait once more.
        drop(slip);
        self.is_over.store(is_done, Ordering::Release);
        if is_to_wake {
            self.sleeper.notify_one();
        }
        true
    }

    /// Waits for it, at most the configured time.
    ///
    /// # Errors
    /// [`TokenError::Busy`] if it has not begun by then, [`TokenError::Silent`] if it has not
    /// ended, and its own.
    pub(super) fn wait(
        &self,
        crew: &Crew,
        mut outlook: Outlook,
        link: &Link,
    ) -> Result<T, TokenError> {
        if outlook.is_first {
            crew.watch(&self.is_over);
        }
        let mut left = link.timeout;
        let mut slip = lock(&self.slip);
        while !slip.progress.is_done() && !left.is_zero() {
            let is_patient = !outlook.is_quick || !slip.progress.is_to_begin();
            let span = if is_patient { left } else { left.min(PATIENCE) };
            slip.is_asleep = true;
            let waiting = |slip: &mut Slip<T>| !slip.progress.is_done() && !slip.is_roused;
            let waited = self.sleeper.wait_timeout_while(slip, span, waiting);
            let (woken, waited) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
            slip = woken;
            slip.is_asleep = false;
            if std::mem::take(&mut slip.is_roused) && !slip.progress.is_done() {
                drop(slip);
                crew.watch(&self.is_over);
                slip = lock(&self.slip);
            } else if waited.timed_out() {
                left = left.saturating_sub(span);
                if !is_patient && slip.progress.is_to_begin() {
                    drop(slip);
                    outlook.taken = crew.urge(outlook.taken);
                    slip = lock(&self.slip);
                }
            }
        }
        match std::mem::replace(&mut slip.progress, Progress::Abandoned) {
            Progress::Done(result) => {
                drop(slip);
                crew.leave(outlook);
                result
            }
            Progress::Waiting | Progress::ToDo | Progress::Abandoned => {
                drop(slip);
                crew.leave(outlook);
                Err(TokenError::Busy)
            }
            Progress::Running => {
                // While it is locked: the worker cannot come back before it is known as lost.
                crew.lose(std::ptr::from_ref(self).addr(), link.clock.monotonic());
                drop(slip);
                crew.leave(outlook);
                Err(TokenError::Silent)
            }
        }
    }
}

impl<T, W> Call for Ticket<T, W>
where
    T: Send,
    W: FnMut(&Desk<'_>) -> Result<T, TokenError> + Send,
{
    fn run(&self, worker: &mut Worker, standing: Standing) -> Outcome {
        if !self.begin() {
            return Outcome::Done(None);
        }
        let begun = worker.link.clock.monotonic();
        let done = worker.perform(self.access, &mut *lock(&self.work));
        let took = done.is_ok().then(|| worker.link.clock.monotonic().saturating_sub(begun));
        let is_no_session = standing == Standing::OneOfSeveral
            && done.as_ref().is_err_and(TokenError::is_no_session);
        let is_awaited = match is_no_session {
            true => self.note(Progress::ToDo),
            false => self.note(Progress::Done(done)),
        };
        match (is_awaited, is_no_session) {
            (false, _) => Outcome::Unawaited,
            (true, true) => Outcome::NoSession,
            (true, false) => Outcome::Done(took),
        }
    }

    fn rouse(&self) {
        let mut slip = lock(&self.slip);
        let is_to_wake = std::mem::take(&mut slip.is_asleep) && !slip.progress.is_done();
        slip.is_roused |= is_to_wake;
        drop(slip);
        if is_to_wake {
            self.sleeper.notify_one();
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}
