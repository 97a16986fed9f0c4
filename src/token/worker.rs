//! Threads that wait for the token so that nobody else has to.
//!
//! A call of the library cannot be cancelled, and may hang. So calls are made by threads of their
//! own, each with its own session; who asks waits in a bounded queue, and no longer than told. What
//! hangs takes a worker, not its caller; when all of them hang, callers are told at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use cryptoki::context::Function;
use cryptoki::error::RvError;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;

use super::failure::{Class, Code, TokenError};
use super::link::{Footing, Link};
use super::module::lock;
use super::object::{self, Object};

/// Calls that may wait; one more is told to come again.
const QUEUE_MAX: usize = 256;

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

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// The queue and who serves it.
pub(super) struct Crew {
    queue: Mutex<Queue>,
    changed: Condvar,
    workers: usize,
    /// Workers in a call whose caller has given up.
    hung: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    is_stopped: bool,
    /// Workers that may work: no more than the token has sessions for.
    allowed: usize,
    running: usize,
}

/// Where a call is.
enum Progress<T> {
    Waiting,
    Running,
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
        let queue = Mutex::new(Queue { allowed: workers, ..Queue::default() });
        let hung = AtomicUsize::new(0);
        let crew = Arc::new(Self { queue, changed: Condvar::new(), workers, hung });
        for number in 0..workers {
            let (crew, link) = (Arc::clone(&crew), Arc::clone(link));
            std::thread::Builder::new().name(format!("hsm-{number}")).spawn(move || {
                let mut worker = Worker { link, session: None };
                while let Some(job) = crew.next(number) {
                    job(&mut worker);
                    lock(&crew.queue).running -= 1;
                    crew.changed.notify_all();
                }
                worker.put_away();
            })?;
        }
        Ok(crew)
    }

    /// Lets only so many work.
    pub(super) fn allow(&self, workers: usize) {
        lock(&self.queue).allowed = workers.clamp(1, self.workers);
        self.changed.notify_all();
    }

    /// Calls that wait, and workers that hang.
    pub(super) fn load(&self) -> (usize, usize) {
        (lock(&self.queue).jobs.len(), self.hung.load(Ordering::Relaxed))
    }

    /// Runs `work` on a worker and waits for it, at most `timeout`.
    ///
    /// # Errors
    /// [`TokenError::Busy`] if it has not begun by then or the queue is full, [`TokenError::Silent`]
    /// if it hangs or all others do, and those of `work`.
    pub(super) fn run<T: Send + 'static>(
        self: &Arc<Self>,
        timeout: Duration,
        access: Access,
        mut work: impl FnMut(&Desk<'_>) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, TokenError> {
        if self.hung.load(Ordering::Acquire) >= self.workers {
            return Err(TokenError::Silent);
        }
        let ticket =
            Arc::new(Ticket { progress: Mutex::new(Progress::Waiting), done: Condvar::new() });
        let job: Job = {
            let (ticket, crew) = (Arc::clone(&ticket), Arc::clone(self));
            Box::new(move |worker| {
                if ticket.begin() && !ticket.finish(worker.perform(access, &mut work)) {
                    crew.hung.fetch_sub(1, Ordering::Release);
                }
            })
        };
        {
            let mut queue = lock(&self.queue);
            if queue.jobs.len() >= QUEUE_MAX || queue.is_stopped {
                return Err(TokenError::Busy);
            }
            queue.jobs.push_back(job);
        }
        self.changed.notify_all();
        ticket.wait(timeout, &self.hung)
    }

    fn next(&self, number: usize) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.is_stopped {
                return None;
            }
            if number < queue.allowed
                && let Some(job) = queue.jobs.pop_front()
            {
                queue.running += 1;
                return Some(job);
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sends the workers home; waits for the calls under way, at most `timeout`.
    pub(super) fn stop(&self, timeout: Duration) {
        let mut queue = lock(&self.queue);
        queue.is_stopped = true;
        queue.jobs.clear();
        self.changed.notify_all();
        let _ = self.changed.wait_timeout_while(queue, timeout, |queue| queue.running > 0);
    }
}

impl<T> Ticket<T> {
    fn begin(&self) -> bool {
        let mut progress = lock(&self.progress);
        let is_wanted = matches!(*progress, Progress::Waiting);
        if is_wanted {
            *progress = Progress::Running;
        }
        is_wanted
    }

    /// Whether somebody waits for it still.
    fn finish(&self, result: Result<T, TokenError>) -> bool {
        let mut progress = lock(&self.progress);
        if matches!(*progress, Progress::Abandoned) {
            return false;
        }
        *progress = Progress::Done(result);
        self.done.notify_all();
        true
    }

    fn wait(&self, timeout: Duration, hung: &AtomicUsize) -> Result<T, TokenError> {
        let progress = lock(&self.progress);
        let under_way = |progress: &mut Progress<T>| !matches!(progress, Progress::Done(_));
        let waited = self.done.wait_timeout_while(progress, timeout, under_way);
        let (mut progress, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *progress, Progress::Abandoned) {
            Progress::Done(result) => result,
            Progress::Waiting | Progress::Abandoned => Err(TokenError::Busy),
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
                    Access::Read => library.open_ro_session_no_drop(footing.slot)?,
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
