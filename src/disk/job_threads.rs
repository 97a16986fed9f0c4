//! Who works on jobs: a few threads, and one that looks after what is due.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::catalog::{JobFilter, JobRecord, JobState, Page};
use crate::units::ByteCount;

use super::ControlError;
use super::registry::Disks;

/// Threads that work on jobs.
const THREADS: usize = 2;

/// How often the threads look for jobs that nobody told them of.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How often [`Disks::look_after`] runs if nobody asks for it.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(60);

/// How jobs work and how deep stacks may get.
#[derive(Clone, Copy, Debug)]
pub struct StackSettings {
    /// Layers beyond which layers are merged in the background.
    pub depth_max: usize,
    /// Units of a piece.
    pub piece_units: u64,
    /// Bytes after which a checkpoint comes, at the latest.
    pub checkpoint_bytes: ByteCount,
}

impl Default for StackSettings {
    fn default() -> Self {
        Self {
            depth_max: crate::limits::CHAIN_DEPTH,
            piece_units: 1024,
            checkpoint_bytes: ByteCount::new(256 << 20),
        }
    }
}

/// Which jobs are at work, and the threads they work on.
#[derive(Debug, Default)]
pub(super) struct Runner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_stopping: bool,
    nudges: u64,
    active: HashSet<String>,
    /// Jobs that are not looked at before this moment.
    patience: HashMap<String, Duration>,
    threads: Vec<JoinHandle<()>>,
}

impl Runner {
    /// There may be something to do.
    pub(super) fn nudge(&self) {
        self.lock().nudges += 1;
        self.changed.notify_all();
    }

    /// The job is looked at again at once.
    pub(super) fn forget_patience(&self, job_id: &str) {
        self.lock().patience.remove(job_id);
    }

    /// Rests; `false`: the daemon stops.
    pub(super) fn rest(&self, span: Duration) -> bool {
        let state = self.lock();
        if span.is_zero() || state.is_stopping {
            return !state.is_stopping;
        }
        let waited = self.changed.wait_timeout_while(state, span, |state| !state.is_stopping);
        !waited.unwrap_or_else(PoisonError::into_inner).0.is_stopping
    }

    /// The caller works on the job; no thread shall.
    pub(super) fn take(&self, job_id: &str) {
        self.lock().active.insert(job_id.to_owned());
    }

    /// Nobody works on the job any more; nobody shall before `until`.
    pub(super) fn is_done_with(&self, job_id: &str, until: Option<Duration>) {
        let mut state = self.lock();
        state.active.remove(job_id);
        state.patience.remove(job_id);
        if let Some(until) = until {
            state.patience.insert(job_id.to_owned(), until);
        }
        drop(state);
        self.nudge();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disks {
    /// Starts the threads that work on jobs and look after what is due.
    ///
    /// # Errors
    /// Threads that the system does not give.
    pub fn start_jobs(self: &Arc<Self>) -> std::io::Result<()> {
        for number in 0..=THREADS {
            let disks = Arc::clone(self);
            let name = if number == THREADS { "upkeep".into() } else { format!("job-{number}") };
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                if number == THREADS { disks.keep_looking() } else { disks.keep_working() }
            })?;
            self.stack.runner.lock().threads.push(thread);
        }
        Ok(())
    }

    /// Ends the threads, each after the piece it works on. The jobs go on at the next start.
    pub fn stop_jobs(&self) {
        let threads = {
            let mut state = self.stack.runner.lock();
            state.is_stopping = true;
            std::mem::take(&mut state.threads)
        };
        self.stack.runner.changed.notify_all();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a job thread ended abnormally");
            }
        }
    }

    fn keep_working(&self) {
        while let Some(job_id) = self.next_job(true) {
            self.work_on(&job_id, u64::MAX);
        }
    }

    fn keep_looking(&self) {
        let runner = &self.stack.runner;
        let mut seen = 0;
        loop {
            self.look_after();
            let patience = self.time_to_next_lease(UPKEEP_INTERVAL);
            let state = runner.lock();
            let is_quiet = |state: &mut State| !state.is_stopping && state.nudges == seen;
            let waited = runner.changed.wait_timeout_while(state, patience, is_quiet);
            let state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.is_stopping {
                return;
            }
            seen = state.nudges;
        }
    }

    /// Works on what can be worked on, on this thread, for so many pieces at most. For a daemon
    /// without job threads. Whether there is nothing left to do.
    pub fn run_jobs(&self, mut pieces: u64) -> bool {
        while pieces > 0 {
            let Some(job_id) = self.next_job(false) else { return true };
            pieces = self.work_on(&job_id, pieces);
        }
        false
    }

    /// The oldest job that can be worked on; `None`: the daemon stops, or there is none and the
    /// caller does not wait.
    fn next_job(&self, is_waiting: bool) -> Option<String> {
        let runner = &self.stack.runner;
        let mut state = runner.lock();
        loop {
            if state.is_stopping {
                return None;
            }
            let now = self.parts.clock.monotonic();
            match self.runnable() {
                Ok(jobs) => {
                    let is_free = |job: &&JobRecord| {
                        !state.active.contains(&job.job_id)
                            && state.patience.get(&job.job_id).is_none_or(|until| *until <= now)
                    };
                    if let Some(job) = jobs.iter().rev().find(is_free) {
                        state.active.insert(job.job_id.clone());
                        return Some(job.job_id.clone());
                    }
                }
                Err(error) => tracing::error!(%error, "jobs cannot be read"),
            }
            if !is_waiting {
                return None;
            }
            let wait = runner.changed.wait_timeout(state, LOOK_INTERVAL);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn runnable(&self) -> Result<Vec<JobRecord>, ControlError> {
        let states = vec![JobState::Waiting, JobState::Running, JobState::Switching];
        let filter = JobFilter { states: Some(states), ..JobFilter::default() };
        Ok(self.parts.catalog.jobs(&filter, Page::ALL)?.items)
    }
}
