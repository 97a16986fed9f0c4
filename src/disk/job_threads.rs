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

/// How long a job rests that finds its layer taken; twice as long each time it finds it so again,
/// up to [`LOOK_INTERVAL`].
const TAKEN_REST: Duration = Duration::from_millis(50);

/// Shortest wait for a moment that has all but come.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// How long a job waits after something failed that may mend: a full device, a disabled key.
const PATIENCE: Duration = Duration::from_secs(30);

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
    /// Jobs that are worked on, and whether somebody has steered them since.
    active: HashMap<String, bool>,
    /// Jobs that could not go on. None is kept for a job that is not to be worked on any more.
    waits: HashMap<String, Wait>,
    threads: Vec<JoinHandle<()>>,
}

/// A job that could not go on.
#[derive(Debug)]
struct Wait {
    /// It is not looked at before this moment.
    until: Duration,
    /// How long it rests until then, if its layer was taken.
    rest: Duration,
    /// What was in its way, for a person. Its record may say so too, unless the catalog is on the
    /// device that is full.
    reason: Option<String>,
}

/// How work on a job ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// There is no more to do, or it is looked at again at once.
    Well,
    /// Somebody else is at its layer.
    Taken,
    /// Something failed, for this reason.
    InTrouble(String),
}

impl Runner {
    /// There may be something to do.
    pub(super) fn nudge(&self) {
        self.lock().nudges += 1;
        self.changed.notify_all();
    }

    /// Somebody has steered the job: it is looked at again at once, also if it rests.
    pub(super) fn is_steered(&self, job_id: &str) {
        let mut state = self.lock();
        state.waits.remove(job_id);
        if let Some(is_steered) = state.active.get_mut(job_id) {
            *is_steered = true;
        }
        drop(state);
        self.nudge();
    }

    /// What keeps the job from going on, as far as is known.
    pub(super) fn reason(&self, job_id: &str) -> Option<String> {
        self.lock().waits.get(job_id)?.reason.clone()
    }

    /// A stride of the job's work rests; `false`: the daemon stops.
    pub(super) fn rest(&self, span: Duration) -> bool {
        let state = self.lock();
        if span.is_zero() || state.is_stopping {
            return !state.is_stopping;
        }
        let waited = self.changed.wait_timeout_while(state, span, |state| !state.is_stopping);
        !waited.unwrap_or_else(PoisonError::into_inner).0.is_stopping
    }

    /// The job has got on, so nothing is in its way. It rests until somebody steers it, `span` at
    /// most; `false`: the daemon stops.
    pub(super) fn rest_between(&self, job_id: &str, span: Duration) -> bool {
        let mut state = self.lock();
        state.waits.remove(job_id);
        if !span.is_zero() {
            let is_left_alone = |state: &mut State| {
                !state.is_stopping && !state.active.get(job_id).is_some_and(|steered| *steered)
            };
            let waited = self.changed.wait_timeout_while(state, span, is_left_alone);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if let Some(is_steered) = state.active.get_mut(job_id) {
            *is_steered = false;
        }
        !state.is_stopping
    }

    /// The caller works on the job; no thread shall.
    pub(super) fn take(&self, job_id: &str) {
        self.lock().active.insert(job_id.to_owned(), false);
    }

    /// Nobody works on the job any more.
    pub(super) fn is_done_with(&self, job_id: &str, ended: Ended, now: Duration) {
        let mut state = self.lock();
        let is_steered = state.active.remove(job_id).unwrap_or(false);
        let before = state.waits.remove(job_id);
        let (rest, patience, reason) = match ended {
            Ended::Well => (Duration::ZERO, Duration::ZERO, None),
            Ended::Taken => {
                let rest = before.map_or(Duration::ZERO, |wait| wait.rest * 2);
                let rest = rest.clamp(TAKEN_REST, LOOK_INTERVAL);
                (rest, rest, None)
            }
            Ended::InTrouble(reason) => (Duration::ZERO, PATIENCE, Some(reason)),
        };
        if patience.is_zero() {
            // What it was about may be due for more.
            state.nudges += 1;
        } else {
            let until = if is_steered { now } else { now + patience };
            state.waits.insert(job_id.to_owned(), Wait { until, rest, reason });
        }
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The oldest of `jobs`, newest first, that can be worked on at `now`; else how long to wait
    /// until one may be.
    fn choose<'a>(&mut self, jobs: &'a [JobRecord], now: Duration) -> Result<&'a str, Duration> {
        if !self.waits.is_empty() {
            let ids: HashSet<&str> = jobs.iter().map(|job| job.job_id.as_str()).collect();
            self.waits.retain(|id, _| ids.contains(id.as_str()));
        }
        let mut soonest = LOOK_INTERVAL;
        for job in jobs.iter().rev() {
            if self.active.contains_key(&job.job_id) {
                continue;
            }
            match self.waits.get(&job.job_id) {
                Some(wait) if wait.until > now => soonest = soonest.min(wait.until - now),
                _ => {
                    self.active.insert(job.job_id.clone(), false);
                    return Ok(&job.job_id);
                }
            }
        }
        Err(soonest.max(WAIT_MIN))
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
            let wait = match self.runnable() {
                Ok(jobs) => match state.choose(&jobs, self.parts.clock.monotonic()) {
                    Ok(job_id) => return Some(job_id.to_owned()),
                    Err(wait) => wait,
                },
                Err(error) => {
                    tracing::error!(%error, "jobs cannot be read");
                    LOOK_INTERVAL
                }
            };
            if !is_waiting {
                return None;
            }
            let waited = runner.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn runnable(&self) -> Result<Vec<JobRecord>, ControlError> {
        let states = vec![JobState::Waiting, JobState::Running, JobState::Switching];
        let filter = JobFilter { states: Some(states), ..JobFilter::default() };
        Ok(self.parts.catalog.jobs(&filter, Page::ALL)?.items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{JobKind, JobPace};
    use crate::clock::Timestamp;

    fn job(id: &str) -> JobRecord {
        let now = Timestamp::from_unix_millis(0);
        JobRecord {
            job_id: id.into(),
            kind: JobKind::Flatten,
            disk_id: None,
            subject: None,
            target_layer: String::new(),
            floor_layer: None,
            state: JobState::Waiting,
            failure: String::new(),
            cursor_units: 0,
            total_units: 1,
            bytes_done: 0,
            created: now,
            changed: now,
            pace: JobPace::Full,
            rate: None,
        }
    }

    fn choose(runner: &Runner, jobs: &[JobRecord], now: Duration) -> Result<String, Duration> {
        runner.lock().choose(jobs, now).map(str::to_owned)
    }

    #[test]
    fn a_thread_waits_no_longer_than_the_next_job_does() {
        let (runner, jobs) = (Runner::default(), [job("newer"), job("older")]);
        let mut now = Duration::from_secs(1);
        assert_eq!(choose(&runner, &[], now), Err(LOOK_INTERVAL));
        assert_eq!(choose(&runner, &jobs, now), Ok("older".into()));
        assert_eq!(choose(&runner, &jobs, now), Ok("newer".into()));
        assert_eq!(choose(&runner, &jobs, now), Err(LOOK_INTERVAL), "both are worked on");
        runner.is_done_with("older", Ended::InTrouble("why".into()), now);
        let mut rests = Vec::new();
        while rests.last() != Some(&LOOK_INTERVAL) {
            runner.is_done_with("newer", Ended::Taken, now);
            let rest = choose(&runner, &jobs, now).unwrap_err();
            now += rest;
            rests.push(rest);
            assert_eq!(choose(&runner, &jobs, now), Ok("newer".into()), "{rests:?}");
        }
        assert_eq!(rests[..3], [TAKEN_REST, TAKEN_REST * 2, TAKEN_REST * 4]);
        assert!(runner.rest_between("newer", Duration::ZERO), "it has got on");
        runner.is_done_with("newer", Ended::Taken, now);
        assert_eq!(choose(&runner, &jobs, now), Err(TAKEN_REST));
        let almost = now + TAKEN_REST - Duration::from_nanos(1);
        assert_eq!(choose(&runner, &jobs, almost), Err(WAIT_MIN), "no spinning");
        let later = Duration::from_secs(1) + PATIENCE;
        assert_eq!(choose(&runner, &jobs, later), Ok("older".into()));
        assert_eq!(runner.reason("older"), Some("why".into()), "until it gets on");
    }

    #[test]
    fn who_is_steered_does_not_wait_also_if_it_fails_at_that_moment() {
        let (runner, jobs) = (Runner::default(), [job("j")]);
        let now = Duration::from_secs(1);
        assert_eq!(choose(&runner, &jobs, now), Ok("j".into()));
        runner.is_done_with("j", Ended::InTrouble("why".into()), now);
        assert_eq!(choose(&runner, &jobs, now), Err(LOOK_INTERVAL));
        runner.is_steered("j");
        assert_eq!(runner.reason("j"), None);
        assert_eq!(choose(&runner, &jobs, now), Ok("j".into()));
        runner.is_steered("j");
        runner.is_done_with("j", Ended::InTrouble("why".into()), now);
        assert_eq!(choose(&runner, &jobs, now), Ok("j".into()));
        runner.is_done_with("j", Ended::InTrouble("why".into()), now);
        assert_eq!(choose(&runner, &jobs, now), Err(LOOK_INTERVAL), "it was told once");
    }

    #[test]
    fn nothing_is_kept_of_jobs_that_are_gone() {
        let (runner, jobs) = (Runner::default(), [job("j")]);
        let now = Duration::from_secs(1);
        for number in 0..100 {
            runner.is_done_with(&format!("j{number}"), Ended::InTrouble("why".into()), now);
        }
        runner.is_done_with("j", Ended::InTrouble("why".into()), now);
        assert_eq!(choose(&runner, &jobs, now), Err(LOOK_INTERVAL));
        assert_eq!(runner.lock().waits.keys().collect::<Vec<_>>(), ["j"]);
    }
}
