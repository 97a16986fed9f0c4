//! Threads that wait for the token so that nobody else has to.
//!
//! A call of the library cannot be cancelled, and may hang. So calls are made by threads of their
//! own, each with its own session; who asks waits in a bounded queue, and no longer than told. What
//! hangs takes a worker, not its caller; when all of them hang, callers are told at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cryptoki::context::Function;
use cryptoki::error::RvError;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;

use super::failure::{Class, Code, TokenError};
use super::link::{Footing, Link};
use super::module::lock;
use super::object::{self, Object};
use super::select;

/// Calls that may wait; one more is told to come again.
const QUEUE_MAX: usize = 256;

/// How long a worker without a session leaves the work to the others before it asks for one again.
const ASIDE: Duration = Duration::from_secs(1);

/// What a call needs of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Uses keys.
    Read,
    /// Makes or destroys objects.
    Write,
}

/// What a call may do with the token.
pub(super) struct Desk<'a> {
    link: &'a Link,
    footing: Footing,
    pub(super) session: &'a Session,
}

impl Desk<'_> {
    pub(super) fn find(&self, object: &Object) -> Result<ObjectHandle, TokenError> {
        self.link.find(self.session, self.footing, object)
    }
}

type Job = Box<dyn FnMut(&mut Worker, Standing) -> Outcome + Send>;

/// Whether others could do it as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    OneOfSeveral,
    Last,
}

enum Outcome {
    Done,
    /// The token had no session for this worker; it is for another.
    NoSession,
}

/// The queue and who serves it.
pub(super) struct Crew {
    queue: Mutex<Queue>,
    /// For who waits for work.
    work: Condvar,
    /// For who waits for anything else.
    changed: Condvar,
    workers: usize,
    /// Workers in a call whose caller has given up.
    hung: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    is_stopped: bool,
    /// Workers that may work: no more than the token says that it has sessions for.
    allowed: usize,
    /// Workers that have not gone home.
    alive: usize,
    /// Workers that wait for work.
    idle: usize,
    /// Workers that got no session, and leave the work to those that have one for a while.
    aside: usize,
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

struct Ticket<T> {
    progress: Mutex<Progress<T>>,
    done: Condvar,
}

/// One thread's own.
pub(super) struct Worker {
    link: Arc<Link>,
    session: Option<(Footing, Access, Session)>,
}

impl Crew {
    /// Starts `workers` threads.
    pub(super) fn start(link: &Arc<Link>, workers: usize) -> std::io::Result<Arc<Self>> {
        let crew = Arc::new(Self {
            queue: Mutex::new(Queue { allowed: workers, alive: workers, ..Queue::default() }),
            work: Condvar::new(),
            changed: Condvar::new(),
            workers,
            hung: AtomicUsize::new(0),
        });
        for number in 0..workers {
            let (crew, link) = (Arc::clone(&crew), Arc::clone(link));
            std::thread::Builder::new()
                .name(format!("hsm-{number}"))
                .spawn(move || crew.serve(number, link))?;
        }
        Ok(crew)
    }

    fn serve(&self, number: usize, link: Arc<Link>) {
        let mut worker = Worker { link, session: None };
        while let Some((mut job, standing)) = self.next(number) {
            if matches!(job(&mut worker, standing), Outcome::NoSession) {
                self.step_aside(job);
            }
        }
        worker.put_away();
        drop(worker);
        lock(&self.queue).alive -= 1;
        self.changed.notify_all();
    }

    /// Gives the job to those that have a session.
    fn step_aside(&self, job: Job) {
        let mut queue = lock(&self.queue);
        queue.jobs.push_front(job);
        queue.aside += 1;
        self.call(queue);
        let queue = lock(&self.queue);
        let waited = self.changed.wait_timeout_while(queue, ASIDE, |queue| !queue.is_stopped);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        queue.aside -= 1;
    }

    /// Lets only so many work.
    pub(super) fn allow(&self, workers: usize) {
        lock(&self.queue).allowed = workers.clamp(1, self.workers);
        self.work.notify_all();
        self.changed.notify_all();
    }

    /// Calls that wait, and workers that hang.
    pub(super) fn load(&self) -> (usize, usize) {
        (lock(&self.queue).jobs.len(), self.hung.load(Ordering::Relaxed))
    }

    /// Whether no worker is left that does not hang.
    pub(super) fn is_hung(&self) -> bool {
        self.hung.load(Ordering::Acquire) >= self.workers
    }

    /// Runs `work` on a worker and waits for it, at most `timeout`.
    ///
    /// # Errors
    /// [`TokenError::Busy`] if it has not begun by then or the queue is full,
    /// [`TokenError::Silent`] if it hangs or all others do, and those of `work`.
    pub(super) fn run<T: Send + 'static>(
        self: &Arc<Self>,
        timeout: Duration,
        access: Access,
        mut work: impl FnMut(&Desk<'_>) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, TokenError> {
        if self.is_hung() {
            return Err(TokenError::Silent);
        }
        let ticket =
            Arc::new(Ticket { progress: Mutex::new(Progress::Waiting), done: Condvar::new() });
        let job: Job = {
            let (ticket, crew) = (Arc::clone(&ticket), Arc::clone(self));
            Box::new(move |worker, standing| {
                if !ticket.begin() {
                    return Outcome::Done;
                }
                let done = worker.perform(access, &mut work);
                let is_for_another = standing == Standing::OneOfSeveral
                    && done.as_ref().is_err_and(TokenError::is_no_session);
                let is_awaited = match is_for_another {
                    true => ticket.give_back(),
                    false => ticket.finish(done),
                };
                if !is_awaited {
                    crew.hung.fetch_sub(1, Ordering::Release);
                    worker.link.ring();
                }
                if is_for_another { Outcome::NoSession } else { Outcome::Done }
            })
        };
        let mut queue = lock(&self.queue);
        if queue.jobs.len() >= QUEUE_MAX || queue.is_stopped {
            return Err(TokenError::Busy);
        }
        queue.jobs.push_back(job);
        self.call(queue);
        ticket.wait(timeout, &self.hung)
    }

    /// Wakes a worker for the new job, if one sleeps: waking costs as much as a call.
    fn call(&self, queue: MutexGuard<'_, Queue>) {
        let is_asleep = queue.idle > 0;
        drop(queue);
        if is_asleep {
            self.work.notify_one();
        }
    }

    fn next(&self, number: usize) -> Option<(Job, Standing)> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.is_stopped {
                return None;
            }
            if number >= queue.allowed {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if let Some(job) = queue.jobs.pop_front() {
                let others = queue.allowed.saturating_sub(queue.aside + 1);
                let is_last = others == 0;
                let standing = if is_last { Standing::Last } else { Standing::OneOfSeveral };
                return Some((job, standing));
            }
            queue.idle += 1;
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }

    /// Sends the workers home; waits until the last one has gone, at most `timeout`.
    pub(super) fn stop(&self, timeout: Duration) {
        let mut queue = lock(&self.queue);
        queue.is_stopped = true;
        queue.jobs.clear();
        self.work.notify_all();
        self.changed.notify_all();
        let _ = self.changed.wait_timeout_while(queue, timeout, |queue| queue.alive > 0);
    }
}

impl<T> Ticket<T> {
    fn begin(&self) -> bool {
        let mut progress = lock(&self.progress);
        let is_wanted = matches!(*progress, Progress::Waiting | Progress::ToDo);
        if is_wanted {
            *progress = Progress::Running;
        }
        is_wanted
    }

    /// It was not done after all. Whether somebody waits for it still.
    fn give_back(&self) -> bool {
        let mut progress = lock(&self.progress);
        let is_awaited = !matches!(*progress, Progress::Abandoned);
        if is_awaited {
            *progress = Progress::ToDo;
        }
        is_awaited
    }

    /// Whether somebody waits for it still.
    fn finish(&self, result: Result<T, TokenError>) -> bool {
        let mut progress = lock(&self.progress);
        if matches!(*progress, Progress::Abandoned) {
            return false;
        }
        *progress = Progress::Done(result);
        // Not while it is locked: who wakes would wait once more.
        drop(progress);
        self.done.notify_one();
        true
    }

    fn wait(&self, timeout: Duration, hung: &AtomicUsize) -> Result<T, TokenError> {
        let progress = lock(&self.progress);
        let under_way = |progress: &mut Progress<T>| !matches!(progress, Progress::Done(_));
        let waited = self.done.wait_timeout_while(progress, timeout, under_way);
        let (mut progress, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *progress, Progress::Abandoned) {
            Progress::Done(result) => result,
            Progress::Waiting | Progress::ToDo | Progress::Abandoned => Err(TokenError::Busy),
            Progress::Running => {
                hung.fetch_add(1, Ordering::Release);
                Err(TokenError::Silent)
            }
        }
    }
}

impl Worker {
    /// Does `work`, once more if what failed was the way to the token and could be mended.
    fn perform<T>(
        &mut self,
        access: Access,
        work: &mut impl FnMut(&Desk<'_>) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let footing = self.link.footing()?;
        let error = match self.attempt(footing, access, work) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let class = error.class();
        let footing = match class {
            Class::Busy | Class::Lasting => return Err(error),
            Class::Reconnect => self.link.mend(footing)?,
            Class::Ambiguous => {
                let probed =
                    self.attempt(footing, Access::Read, &mut |desk| object::probe(desk.session));
                match probed {
                    Ok(()) => footing,
                    Err(TokenError::Busy | TokenError::Silent) => return Err(error),
                    Err(_) => self.link.mend(footing)?,
                }
            }
        };
        match self.attempt(footing, access, work) {
            Err(error) if class == Class::Ambiguous && error.class() == Class::Ambiguous => {
                // Twice the same, and a probe between them that passed.
                Err(error.settled())
            }
            done => done,
        }
    }

    fn attempt<T>(
        &mut self,
        footing: Footing,
        access: Access,
        work: &mut impl FnMut(&Desk<'_>) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let link = Arc::clone(&self.link);
        let module = link.module()?;
        let call = module.enter(link.timeout)?;
        let library = module.library(&call);
        let kept = self.session.take();
        if footing.generation != call.generation {
            // Another token's mender has initialised the library anew; nothing of ours is left.
            let (code, function) = (RvError::CryptokiNotInitialized, Function::OpenSession);
            return Err(TokenError::Code(Code { code, function }));
        }
        let session = match kept {
            Some((on, with, session)) if (on, with) == (footing, access) => session,
            other => {
                if let Some((on, _, session)) = other
                    && on.generation == call.generation
                {
                    let _ = session.close();
                }
                match access {
                    Access::Read => select::open_to_read_no_drop(library, footing.slot)?,
                    Access::Write => library.open_rw_session_no_drop(footing.slot)?,
                }
            }
        };
        let done = work(&Desk { link: &link, footing, session: &session });
        // A session that has seen an error may have an operation left open; another one is cheap.
        if done.is_ok() && access == Access::Read {
            self.session = Some((footing, access, session));
        } else {
            let _ = session.close();
        }
        done
    }

    fn put_away(&mut self) {
        let Some((on, _, session)) = self.session.take() else { return };
        if let Ok(module) = self.link.module()
            && let Ok(call) = module.enter(self.link.timeout)
            && on.generation == call.generation
        {
            let _ = session.close();
        }
    }
}
