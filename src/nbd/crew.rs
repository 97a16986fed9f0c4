//! The threads of one connection: one reads, the others do what it would be held up by.
//!
//! The reader runs small requests itself. Beside it:
//! - A *large* write goes to the next thread of the crew, which encrypts and stores it while the
//!   reader receives the next payload. A large read is run by two threads at a time. Where other
//!   connections keep the cores busy already, both are run by the reader: nothing is gained by
//!   waking another thread, and what was received stays in the core's cache. So are the writes of a
//!   client that sends one request at a time (`turns`): there is no next payload.
//! - A request that *waits* (FLUSH, FUA, zeroing) is run by the thread that read it, after another
//!   one has taken over the reading: it is not delayed by a wake-up. A flush or FUA write of a
//!   client that sends one request at a time does not come here: the reader runs it.
//!
//! The first thread is the connection's own; others are started when they are first needed and end
//! when nothing was left for them for a while.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::Duration;

use super::execute::{Job, Scratch};
use super::outbound::Batch;
use super::transmission::{Link, Reader};

/// How long a thread waits for something to do before it ends.
const CREW_PATIENCE: Duration = Duration::from_secs(1);

/// Threads of one connection at most: one reads, one works, one waits for a device.
const CREW_MAX: usize = 3;

/// What holds the reader up in a job that comes to the crew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// Many bytes through cipher and caches.
    Large {
        /// Others of its kind that may be ahead of it in the crew's queue.
        ahead_max: usize,
    },
    /// It may wait for a device.
    Waits,
}

/// The threads of one connection.
pub(super) struct Crew<'a> {
    link: &'a Arc<Link>,
    state: Mutex<State<'a>>,
    changed: Condvar,
}

struct State<'a> {
    /// The reading side, between two threads.
    reader: Option<Box<Reader<'a>>>,
    jobs: VecDeque<Job>,
    threads: usize,
    /// Of them, with nothing to do.
    idle: usize,
    /// Of them, running a job that waits.
    held_up: usize,
    is_over: bool,
}

enum Task<'a> {
    Read(Box<Reader<'a>>),
    Run(Job),
}

/// Ends the crew if its thread dies with the reader in its hands.
struct Watch<'a, 'b>(&'b Crew<'a>);

impl Drop for Watch<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end();
        }
    }
}

/// Counts, over the whole server, the connections that have a large request under way, from its
/// header to the end of its reply.
pub(super) struct LargeUnderWay(Arc<Link>);

impl LargeUnderWay {
    pub(super) fn on(link: &Arc<Link>) -> Self {
        if link.large_under_way.fetch_add(1, Ordering::Relaxed) == 0 {
            link.server.large_connections.fetch_add(1, Ordering::Relaxed);
        }
        Self(Arc::clone(link))
    }
}

impl fmt::Debug for LargeUnderWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LargeUnderWay")
    }
}

impl Drop for LargeUnderWay {
    fn drop(&mut self) {
        if self.0.large_under_way.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.server.large_connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Reads and runs requests until the client leaves, disconnects or is hung up on. Requests that
/// went to the workers may still be under way then.
pub(super) fn serve(link: &Arc<Link>, reader: Reader<'_>) {
    let state = State {
        reader: Some(Box::new(reader)),
        jobs: VecDeque::new(),
        threads: 1,
        idle: 0,
        held_up: 0,
        is_over: false,
    };
    let crew = Crew { link, state: Mutex::new(state), changed: Condvar::new() };
    std::thread::scope(|scope| crew.work(scope));
}

impl<'a> Crew<'a> {
    /// What each thread of the crew does.
    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let _watch = Watch(self);
        let (mut scratch, mut batch) = (Scratch::default(), Batch::default());
        while let Some(task) = self.next_task() {
            match task {
                Task::Run(job) => job.run_beside(self.link, &mut scratch, &mut batch),
                Task::Read(reader) => {
                    if let Some(job) = self.read(scope, reader) {
                        job.run_beside(self.link, &mut scratch, &mut batch);
                        self.lock().held_up -= 1;
                    }
                }
            }
        }
    }

    /// Reads until the connection ends or a job waits. That job comes back when another thread has
    /// taken over.
    fn read<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        mut reader: Box<Reader<'a>>,
    ) -> Option<Job> {
        while let Some((job, weight)) = reader.next_job() {
            match weight {
                Weight::Large { ahead_max } => {
                    if let Some(job) = self.give_away(scope, job, ahead_max) {
                        reader.run_large(job);
                    }
                }
                Weight::Waits => match self.hand_over(scope, reader) {
                    None => return Some(job),
                    Some(kept) => {
                        reader = kept;
                        self.link.run_on_worker(job);
                    }
                },
            }
        }
        self.end();
        None
    }

    fn next_task(&self) -> Option<Task<'a>> {
        let mut state = self.lock();
        state.idle += 1;
        let nothing = |state: &mut State<'_>| {
            state.reader.is_none() && state.jobs.is_empty() && !state.is_over
        };
        let wait = self.changed.wait_timeout_while(state, CREW_PATIENCE, nothing);
        let mut state = wait.unwrap_or_else(PoisonError::into_inner).0;
        state.idle -= 1;
        let task = match state.jobs.pop_front() {
            Some(job) => Some(Task::Run(job)),
            None => state.reader.take().map(Task::Read),
        };
        if task.is_none() {
            state.threads -= 1;
        }
        task
    }

    /// Has another thread run the job. It comes back if this one should.
    fn give_away<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        job: Job,
        ahead_max: usize,
    ) -> Option<Job> {
        let server = &self.link.server;
        if server.large_connections.load(Ordering::Relaxed) >= server.cores {
            return Some(job);
        }
        let mut state = self.lock();
        // The caller reads; of the others, those that are held up will not come soon.
        let others = state.threads - 1 - state.held_up;
        let must_start = others == 0;
        if (must_start && state.threads == CREW_MAX) || state.jobs.len() >= ahead_max + state.idle {
            return Some(job);
        }
        state.jobs.push_back(job);
        if !must_start {
            drop(state);
            self.changed.notify_one();
            return None;
        }
        state.threads += 1;
        drop(state);
        if self.start(scope) { None } else { self.lock().jobs.pop_back() }
    }

    /// Gives the reading to a thread that is idle, or to a new one, and counts the caller as held
    /// up. The reader comes back if there is none.
    fn hand_over<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        reader: Box<Reader<'a>>,
    ) -> Option<Box<Reader<'a>>> {
        let mut state = self.lock();
        let must_start = state.idle <= state.jobs.len();
        if must_start && state.threads == CREW_MAX {
            return Some(reader);
        }
        state.held_up += 1;
        state.reader = Some(reader);
        if !must_start {
            drop(state);
            self.changed.notify_one();
            return None;
        }
        state.threads += 1;
        drop(state);
        if self.start(scope) {
            return None;
        }
        let mut state = self.lock();
        let kept = state.reader.take();
        state.held_up -= usize::from(kept.is_some());
        kept
    }

    /// Starts the thread that was counted already.
    fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> bool {
        let builder = std::thread::Builder::new().name("nbd-crew".to_owned());
        let started = builder.stack_size(256 << 10).spawn_scoped(scope, move || self.work(scope));
        if started.is_err() {
            self.lock().threads -= 1;
        }
        started.is_ok()
    }

    fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
