//! Threads that wait for the token so that nobody else has to.
//!
//! A call of the library cannot be cancelled, and may hang. So calls are made by threads of their
//! own, each with its own session; who asks waits in a bounded queue, and no longer than told. What
//! hangs takes a worker, not its caller, and in time another worker takes its place; when all of
//! them hang, callers are told at once.
//!
//! To hand a call over and back costs two wakes, some 6 µs: nothing beside a device, more than half
//! of a call of a token in software. So while a token is *quick* nobody is woken who need not be:
//!
//! ```text
//! worker    takes all that waits, then looks for more for a moment, then sleeps
//! workers   no more at work than half of the processors: a quick token computes on them itself
//! caller    looks for its answer for a moment while its call runs; at most one for each processor
//!           that is left
//! answered  caller wakes the one whose call runs now, so that no worker has to
//! ```

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::apart::Apart;
use super::failure::TokenError;
use super::link::Link;
use super::module::lock;
use super::ticket::{Call, Outcome, Standing, Ticket};
use super::worker::{Access, Desk, Worker};

/// Calls that may wait; one more is told to come again.
const QUEUE_MAX: usize = 256;

/// How long a worker without a session leaves the work to the others before it asks for one again.
const ASIDE: Duration = Duration::from_secs(1);

/// A call that is no longer than this is a quick one.
const QUICK: Duration = Duration::from_micros(30);

/// Of so many calls a quarter must be quick for the token to count as such: not more, for others
/// may have had the processor meanwhile.
const PACE_CALLS: u32 = 64;

/// How often who looks for something looks for it: some 30 µs.
const LOOKS: u32 = 512;

/// How often it looks before it lets others have the processor.
const LOOKS_A_YIELD: u32 = 16;

/// Calls after which a token that seemed to hang counts as quick again.
const STRAIN_CALLS: u32 = 4096;

/// What a token has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Calls that wait.
    pub waiting: usize,
    /// Workers in a call whose caller has given up.
    pub hung: usize,
    /// Workers that were started in the place of such.
    pub replaced: usize,
}

/// The queue and who serves it.
pub(super) struct Crew {
    queue: Apart<Mutex<Queue>>,
    /// For who waits for work.
    work: Condvar,
    /// For who waits for anything else.
    changed: Condvar,
    workers: usize,
    /// Workers that work at once while the token is quick.
    share: usize,
    /// Callers that may look for their answer at once.
    watchers_max: usize,
    watchers: Apart<AtomicUsize>,
    /// Whether calls wait, for who looks without the lock.
    is_called: Apart<AtomicBool>,
    /// Workers in a call whose caller has given up: `lost`, for who looks without the lock.
    hung: AtomicUsize,
    /// Threads there are.
    alive: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Arc<dyn Call>>,
    /// Calls whose callers wait, by number: theirs to put in and take out. Whoever does the call,
    /// the caller is the last to let go of it, and frees what it has allocated.
    callers: VecDeque<(u64, Arc<dyn Call>)>,
    /// Calls that were put in, ever: the number of the next one.
    numbered: u64,
    /// The call whose caller was woken last.
    roused: Option<u64>,
    is_stopped: bool,
    /// Workers that may work: no more than the token says that it has sessions for.
    allowed: usize,
    /// Workers that have not gone home.
    alive: usize,
    /// Workers that neither sleep nor leave the work to others; those that hang are among them.
    awake: usize,
    /// Of these: who has nothing to do and looks for it.
    looking: usize,
    /// Workers that wait for work.
    idle: usize,
    /// Workers that got no session, and leave the work to those that have one for a while.
    aside: usize,
    /// Calls that were taken up, ever.
    taken: u64,
    /// Calls whose callers have given up and when; they hold a worker each. By address.
    lost: Vec<(usize, Duration)>,
    pace: Pace,
}

/// What a caller is told when its call is in the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outlook {
    /// Of its call.
    pub(super) number: u64,
    /// Its call is the next to be taken up.
    pub(super) is_first: bool,
    pub(super) is_quick: bool,
    /// Calls that were taken up before.
    pub(super) taken: u64,
}

/// How long calls take.
#[derive(Debug, Default)]
struct Pace {
    calls: u32,
    quick: u32,
    is_quick: bool,
    /// Calls to come for which it does not count that the token is quick.
    strain: u32,
}

impl Pace {
    fn note(&mut self, took: Duration) {
        self.calls += 1;
        self.quick += u32::from(took <= QUICK);
        if self.calls == PACE_CALLS {
            self.is_quick = self.quick >= PACE_CALLS / 4;
            (self.calls, self.quick) = (0, 0);
        }
        self.strain = self.strain.saturating_sub(1);
    }

    const fn is_quick(&self) -> bool {
        self.is_quick && self.strain == 0
    }
}

impl Queue {
    /// Workers at work that do not hang.
    const fn working(&self) -> usize {
        self.awake.saturating_sub(self.lost.len())
    }

    /// Where the caller of this call is.
    fn place(&self, number: u64) -> Option<usize> {
        self.callers.binary_search_by_key(&number, |(number, _)| *number).ok()
    }

    /// The call that was taken up last, unless it is over or its caller was woken; else the one
    /// that will be.
    fn next_to_rouse(&mut self) -> Option<Arc<dyn Call>> {
        let untaken = u64::try_from(self.jobs.len()).unwrap_or(u64::MAX);
        let latest = self.numbered.checked_sub(untaken + 1);
        let call = latest
            .filter(|_| self.roused != latest)
            .and_then(|number| self.callers.get(self.place(number)?))
            .map(|(_, call)| Arc::clone(call))
            .filter(|call| !call.is_over());
        if call.is_some() {
            self.roused = latest;
        }
        call.or_else(|| self.jobs.front().cloned())
    }
}

impl Crew {
    /// Starts `workers` threads.
    pub(super) fn start(link: &Arc<Link>, workers: usize) -> std::io::Result<Arc<Self>> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let share = (processors / 2).max(1);
        let crew = Arc::new(Self {
            queue: Apart(Mutex::new(Queue { allowed: workers, ..Queue::default() })),
            work: Condvar::new(),
            changed: Condvar::new(),
            workers,
            share,
            watchers_max: processors - share,
            watchers: Apart::default(),
            is_called: Apart::default(),
            hung: AtomicUsize::new(0),
            alive: AtomicUsize::new(0),
        });
        for number in 0..workers {
            crew.hire(link, format!("hsm-{number}"))?;
        }
        Ok(crew)
    }

    fn hire(self: &Arc<Self>, link: &Arc<Link>, name: String) -> std::io::Result<()> {
        {
            let mut queue = lock(&self.queue);
            self.count(&mut queue, |alive| alive + 1);
            queue.awake += 1;
        }
        let (crew, link) = (Arc::clone(self), Arc::clone(link));
        let thread = std::thread::Builder::new().name(name);
        let started = thread.spawn(move || crew.serve(link)).map(drop);
        started.inspect_err(|_| {
            let mut queue = lock(&self.queue);
            self.count(&mut queue, |alive| alive - 1);
            queue.awake -= 1;
        })
    }

    fn count(&self, queue: &mut Queue, change: impl FnOnce(usize) -> usize) {
        queue.alive = change(queue.alive);
        self.alive.store(queue.alive, Ordering::Release);
    }

    fn serve(&self, link: Arc<Link>) {
        let mut worker = Worker::new(link);
        let mut took = None;
        while let Some((job, standing)) = self.next(took.take()) {
            match job.run(&mut worker, standing) {
                Outcome::Done(time) => took = time,
                Outcome::NoSession => self.step_aside(job),
                Outcome::Unawaited => {
                    let is_replaced = self.find(&job);
                    worker.link.ring();
                    if is_replaced {
                        break;
                    }
                }
            }
        }
        worker.put_away();
        drop(worker);
        let mut queue = lock(&self.queue);
        self.count(&mut queue, |alive| alive - 1);
        queue.awake -= 1;
        drop(queue);
        self.changed.notify_all();
    }

    /// A call that was lost has ended. Whether another worker has the place of this one.
    fn find(&self, job: &Arc<dyn Call>) -> bool {
        let address = Arc::as_ptr(job).addr();
        let mut queue = lock(&self.queue);
        queue.lost.retain(|(lost, _)| *lost != address);
        self.hung.store(queue.lost.len(), Ordering::Release);
        queue.alive > self.workers
    }

    /// The call at this address has not ended in time; its worker is lost with it.
    pub(super) fn lose(&self, address: usize, now: Duration) {
        let mut queue = lock(&self.queue);
        queue.lost.push((address, now));
        self.hung.store(queue.lost.len(), Ordering::Release);
        // One less is at work.
        self.call(queue);
    }

    /// Starts another worker for each that has been lost for `patience`, but never more than there
    /// are workers: what is lost may hold a session of the token, and ends when its call does.
    pub(super) fn relieve(self: &Arc<Self>, link: &Arc<Link>, patience: Duration) {
        let now = link.clock.monotonic();
        let wanted = {
            let queue = lock(&self.queue);
            let is_long = |(_, since): &&(usize, Duration)| now.saturating_sub(*since) >= patience;
            let lost = queue.lost.iter().filter(is_long).count().min(self.workers);
            if queue.is_stopped { 0 } else { (self.workers + lost).saturating_sub(queue.alive) }
        };
        for _ in 0..wanted {
            match self.hire(link, "hsm-relief".into()) {
                Ok(()) => tracing::warn!(
                    hsm = link.name,
                    "a call of the token has not ended for long; its worker is replaced"
                ),
                Err(error) => {
                    tracing::error!(hsm = link.name, %error, "no worker for one that hangs");
                    return;
                }
            }
        }
    }

    /// Gives the job to those that have a session.
    fn step_aside(&self, job: Arc<dyn Call>) {
        let mut queue = lock(&self.queue);
        queue.jobs.push_front(job);
        self.is_called.store(true, Ordering::Release);
        queue.awake -= 1;
        queue.aside += 1;
        self.call(queue);
        let queue = lock(&self.queue);
        let waited = self.changed.wait_timeout_while(queue, ASIDE, |queue| !queue.is_stopped);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        queue.aside -= 1;
        queue.awake += 1;
    }

    /// Lets only so many work.
    pub(super) fn allow(&self, workers: usize) {
        lock(&self.queue).allowed = workers.clamp(1, self.workers);
        self.work.notify_all();
        self.changed.notify_all();
    }

    /// How much it has to do, and who does not.
    pub(super) fn load(&self) -> Load {
        let queue = lock(&self.queue);
        Load {
            waiting: queue.jobs.len(),
            hung: queue.lost.len(),
            replaced: queue.alive.saturating_sub(self.workers),
        }
    }

    /// Whether no worker is left that does not hang.
    pub(super) fn is_hung(&self) -> bool {
        self.hung.load(Ordering::Acquire) >= self.alive.load(Ordering::Acquire)
    }

    /// Runs `work` on a worker and waits for it, at most the configured time.
    ///
    /// # Errors
    /// [`TokenError::Busy`] if it has not begun by then or the queue is full,
    /// [`TokenError::Silent`] if it hangs or all others do, and those of `work`.
    pub(super) fn run<T: Send + 'static>(
        &self,
        link: &Link,
        access: Access,
        work: impl FnMut(&Desk<'_>) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, TokenError> {
        if self.is_hung() {
            return Err(TokenError::Silent);
        }
        let ticket = Arc::new(Ticket::new(access, work));
        let outlook = self.enqueue(Arc::clone(&ticket) as Arc<dyn Call>)?;
        ticket.wait(self, outlook, link)
    }

    fn enqueue(&self, job: Arc<dyn Call>) -> Result<Outlook, TokenError> {
        let waiting = Arc::clone(&job);
        let mut queue = lock(&self.queue);
        if queue.jobs.len() >= QUEUE_MAX || queue.is_stopped {
            return Err(TokenError::Busy);
        }
        let number = queue.numbered;
        queue.numbered += 1;
        queue.callers.push_back((number, waiting));
        let is_quick = queue.pace.is_quick();
        let is_first = is_quick && queue.jobs.is_empty() && queue.working() <= queue.looking;
        let outlook = Outlook { number, is_first, is_quick, taken: queue.taken };
        queue.jobs.push_back(job);
        self.is_called.store(true, Ordering::Release);
        self.call(queue);
        Ok(outlook)
    }

    /// Wakes a worker for the new job, if one sleeps that may work: waking costs as much as a call.
    fn call(&self, queue: MutexGuard<'_, Queue>) {
        let is_to_wake =
            queue.idle > 0 && !queue.jobs.is_empty() && queue.working() < self.limit(&queue);
        drop(queue);
        if is_to_wake {
            self.work.notify_one();
        }
    }

    /// Workers that may be at work now.
    fn limit(&self, queue: &Queue) -> usize {
        if queue.pace.is_quick() { queue.allowed.min(self.share) } else { queue.allowed }
    }

    fn next(&self, took: Option<Duration>) -> Option<(Arc<dyn Call>, Standing)> {
        let mut queue = lock(&self.queue);
        if let Some(took) = took {
            queue.pace.note(took);
        }
        let mut has_looked = false;
        loop {
            if queue.is_stopped {
                return None;
            }
            let is_one_too_many = queue.working() > self.limit(&queue);
            if !is_one_too_many && let Some(job) = queue.jobs.pop_front() {
                self.is_called.store(!queue.jobs.is_empty(), Ordering::Release);
                queue.taken += 1;
                // Those that hang may be for ever.
                let others = queue.allowed.min(queue.alive.saturating_sub(queue.lost.len()));
                let is_last = others <= queue.aside + 1;
                let standing = if is_last { Standing::Last } else { Standing::OneOfSeveral };
                return Some((job, standing));
            }
            if !is_one_too_many && !has_looked && queue.pace.is_quick() {
                has_looked = true;
                queue = self.look(queue);
                continue;
            }
            has_looked = false;
            queue.awake -= 1;
            queue.idle += 1;
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
            queue.awake += 1;
        }
    }

    /// Looks for work for a moment; where there is but one processor, nobody could bring it.
    fn look<'a>(&'a self, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        queue.looking += 1;
        drop(queue);
        if self.watchers_max > 0 {
            watch_for(&self.is_called);
        }
        let mut queue = lock(&self.queue);
        queue.looking -= 1;
        queue
    }

    /// Looks for a moment whether a call is over, unless too many do.
    pub(super) fn watch(&self, is_over: &AtomicBool) {
        if self.watchers.fetch_add(1, Ordering::Relaxed) < self.watchers_max {
            watch_for(is_over);
        }
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }

    /// A caller has its answer, or has given up. While the token is quick it wakes the one whose
    /// call runs now, or will next.
    pub(super) fn leave(&self, outlook: Outlook) {
        let mut queue = lock(&self.queue);
        let own = queue.place(outlook.number).and_then(|place| queue.callers.remove(place));
        let next = if outlook.is_quick { queue.next_to_rouse() } else { None };
        drop(queue);
        drop(own);
        if let Some(call) = next {
            call.rouse();
        }
    }

    /// Calls one more worker if no call has been taken up since `taken`, though the token is quick:
    /// how many have been now.
    pub(super) fn urge(&self, taken: u64) -> u64 {
        let mut queue = lock(&self.queue);
        let now = queue.taken;
        if now == taken {
            queue.pace.strain = STRAIN_CALLS;
            self.call(queue);
        }
        now
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

/// Looks at `flag` until it is set, [`LOOKS`] times at most. Who is to set it may wait for this
/// very processor: it is left to others now and then.
fn watch_for(flag: &AtomicBool) {
    for look in 1..=LOOKS {
        if flag.load(Ordering::Acquire) {
            return;
        }
        match look % LOOKS_A_YIELD {
            0 => std::thread::yield_now(),
            _ => std::hint::spin_loop(),
        }
    }
}
