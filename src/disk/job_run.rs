//! Jobs at work: a piece at a time, so that a job can be paused, cancelled, killed
//! at any moment and goes on from where it was.
//!
//! A piece copies some units up into the target layer. Now and then comes a checkpoint: the target
//! is flushed; what nobody else needs of the layers between is given back; the catalog learns how
//! far the job is. When all is up, [`Disks::finish`] lets go of what is below.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::catalog::{JobPace, JobRecord, JobState};
use crate::clock::random_uuid;
use crate::ram::Caller;
use crate::units::{ByteCount, DataUnit, DataUnitSize};

use super::job_threads::Ended;
use super::layers::uuid_of;
use super::open_table::{Busy, Claim};
use super::pull::Strides;
use super::registry::Disks;
use super::{ControlError, Disk, DiskError};

/// Longest time between two checkpoints.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(3);

/// Bytes that a gentle job copies at a time while clients are at work: some 15 µs, which a request
/// that finds the processor or the file taken has to wait.
const GENTLE_BYTES: usize = 16 << 10;

/// How much longer than it worked a gentle job rests while clients are at work, after each stride.
const GENTLE_REST: u32 = 3;

/// For how long after a request clients count as at work: whoever sends a few in a second wants
/// each of them undisturbed.
const CLIENTS_LINGER: Duration = Duration::from_millis(250);

/// A job that is being worked on.
struct Run {
    caller: Caller,
    job_id: String,
    /// Opened for the job alone.
    private: Option<Arc<Disk>>,
    cursor: u64,
    /// Copied since the last checkpoint.
    copied: u64,
    /// From where on nothing was given back below yet.
    punched: u64,
    checkpoint: Duration,
    clients: Clients,
    /// Pieces that may still be worked on.
    pieces: u64,
}

/// What came of a piece of work.
enum Step {
    /// Go on after a rest.
    Working(Duration),
    /// Somebody else is at the layer.
    Taken,
    /// The job is no longer to be worked on.
    Ended,
}

/// Why a piece of work failed.
enum Trouble {
    Control(ControlError),
    Disk(DiskError),
}

impl From<ControlError> for Trouble {
    fn from(error: ControlError) -> Self {
        Self::Control(error)
    }
}

impl From<DiskError> for Trouble {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl Trouble {
    /// Whether it may mend by itself.
    const fn may_mend(&self) -> bool {
        match self {
            Self::Control(_) | Self::Disk(DiskError::OutOfSpace) => true,
            Self::Disk(_) => false,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Control(error) => error.message(),
            Self::Disk(error) => error.to_string(),
        }
    }
}

impl Disks {
    /// Works on a job for so many pieces at most; how many are left.
    pub(super) fn work_on(&self, job_id: &str, pieces: u64) -> u64 {
        let mut run = Run {
            caller: Caller::system(random_uuid(&*self.parts.entropy)),
            job_id: job_id.to_owned(),
            private: None,
            cursor: 0,
            copied: 0,
            punched: 0,
            checkpoint: self.parts.clock.monotonic(),
            clients: Clients::default(),
            pieces,
        };
        let ended = self.work(&mut run);
        self.let_go(&mut run);
        self.stack.runner.is_done_with(job_id, ended, self.parts.clock.monotonic());
        run.pieces
    }

    /// Works on a job until it ends, fails or has to wait.
    fn work(&self, run: &mut Run) -> Ended {
        match self.begin(run) {
            Ok(true) => {}
            Ok(false) => return Ended::Well,
            Err(error) => return self.waits(run, &error.into()),
        }
        while run.pieces > 0 {
            run.pieces -= 1;
            let rest = match self.step(run) {
                Ok(Step::Working(rest)) => rest,
                Ok(Step::Ended) => return Ended::Well,
                Ok(Step::Taken) => {
                    self.let_go(run);
                    return Ended::Taken;
                }
                Err(trouble) => return self.waits(run, &trouble),
            };
            if !self.stack.runner.rest_between(&run.job_id, rest) {
                break;
            }
        }
        Ended::Well
    }

    /// Takes the job up where it was.
    fn begin(&self, run: &mut Run) -> Result<bool, ControlError> {
        let job_id = run.job_id.clone();
        self.change_job(&job_id, JobState::Waiting, |job| {
            job.state = JobState::Running;
            job.failure.clear();
        })?;
        let Some(job) = self.parts.catalog.job(&job_id)? else { return Ok(false) };
        run.cursor = job.cursor_units;
        run.punched = job.cursor_units;
        Ok(matches!(job.state, JobState::Running | JobState::Switching))
    }

    /// Says in the record what is wrong. A catalog without room for that does not keep it from
    /// being told: see [`Disks::describe_jobs`].
    fn waits(&self, run: &Run, trouble: &Trouble) -> Ended {
        let message = trouble.message();
        let reason = message.clone();
        tracing::warn!(job = %run.job_id, error = %message, "job cannot go on");
        let state = if trouble.may_mend() { JobState::Waiting } else { JobState::Failed };
        let told = self
            .change_job(&run.job_id, JobState::Running, |job| {
                job.state = state;
                job.failure = message.clone();
            })
            .and_then(|_| {
                // There is no way back from here; it is tried again for as long as it takes.
                self.change_job(&run.job_id, JobState::Switching, |job| job.failure = message)
            });
        if let Err(error) = told {
            tracing::error!(job = %run.job_id, %error, "its record cannot be changed");
        }
        Ended::InTrouble(reason)
    }

    fn step(&self, run: &mut Run) -> Result<Step, Trouble> {
        let Some(job) = self.parts.catalog.job(&run.job_id).map_err(ControlError::from)? else {
            return Ok(Step::Ended);
        };
        if !matches!(job.state, JobState::Running | JobState::Switching)
            || self.drop_if_overtaken(&job)?
        {
            return Ok(Step::Ended);
        }
        match self.stack.open.claim(&job.target_layer, &job.job_id) {
            Claim::Taken => Ok(Step::Taken),
            Claim::Open(busy, disk) => {
                // Two at once would not know of each other's writes.
                self.let_go(run);
                let outcome = self.piece(run, &job, &disk, true);
                self.stack.open.release(disk);
                drop(busy);
                outcome
            }
            Claim::Free(busy) if job.state == JobState::Switching => {
                let outcome = self.end(run, &job, None);
                drop(busy);
                outcome
            }
            Claim::Free(busy) => self.piece_alone(run, &job, busy),
        }
    }

    /// Works through a disk of the job's own.
    fn piece_alone(&self, run: &mut Run, job: &JobRecord, busy: Busy<'_>) -> Result<Step, Trouble> {
        let Some(disk) = run.private.clone() else {
            drop(busy);
            let key = (job.job_id.as_str(), job.target_layer.as_str());
            run.private = Some(self.open_for_job(&run.caller, key)?);
            return Ok(Step::Working(Duration::ZERO));
        };
        let outcome = self.piece(run, job, &disk, false);
        self.stack.open.release(disk);
        drop(busy);
        outcome
    }

    fn piece(
        &self,
        run: &mut Run,
        job: &JobRecord,
        disk: &Disk,
        is_shared: bool,
    ) -> Result<Step, Trouble> {
        if job.state == JobState::Switching {
            return self.end(run, job, is_shared.then_some(disk));
        }
        let target = uuid_of(&job.target_layer)?;
        let floor = job.floor_layer.as_deref().map(uuid_of).transpose()?;
        let clock = &self.parts.clock;
        let begun = clock.monotonic();
        let are_busy = is_shared && run.clients.are_busy(disk.requests_seen(), begun);
        let is_gentle = are_busy && job.pace == JobPace::Gentle;
        let mut turn = Turn { disks: self, is_gentle, begun };
        let (from, units) = (DataUnit::new(run.cursor), self.parts.stack.piece_units);
        let pulled = {
            let bytes = if is_gentle { GENTLE_BYTES } else { usize::MAX };
            let strides = &mut Strides { bytes, between: &mut || turn.rest() };
            disk.pull_units_by(strides, (target, floor), from, units)
        };
        let pulled = match pulled {
            // What was copied is given back below: that may be the room that is missing.
            Err(DiskError::OutOfSpace) if run.cursor > run.punched => {
                self.checkpoint(run, job, (disk, target, floor), (&mut turn, false))?;
                run.checkpoint = clock.monotonic();
                return Ok(Step::Working(Duration::ZERO));
            }
            outcome => outcome?,
        };
        let now = clock.monotonic();
        run.cursor = pulled.next.get();
        run.copied += pulled.copied.get();
        let layer = self.layer_record(&job.target_layer)?;
        let is_all = run.cursor >= DataUnitSize::B4096.units_in(layer.size);
        let is_due = now.saturating_sub(run.checkpoint) >= CHECKPOINT_INTERVAL
            || run.copied >= self.parts.stack.checkpoint_bytes.get();
        if is_all || is_due {
            self.checkpoint(run, job, (disk, target, floor), (&mut turn, is_all))?;
            run.checkpoint = now;
        }
        let owed = rate_rest(job, now.saturating_sub(begun), pulled.copied);
        Ok(Step::Working(owed.max(turn.owed())))
    }

    /// Makes what was done so far durable, gives back space below, writes down how far the job is.
    fn checkpoint(
        &self,
        run: &mut Run,
        job: &JobRecord,
        (disk, target, floor): (&Disk, Uuid, Option<Uuid>),
        (turn, is_all): (&mut Turn<'_>, bool),
    ) -> Result<(), Trouble> {
        disk.flush_layer(target)?;
        // That was the device's work.
        turn.begun = self.parts.clock.monotonic();
        if run.cursor > run.punched
            && let Some(floor) = self.free_down_to(job, floor)?
        {
            let (first, units) = (DataUnit::new(run.punched), run.cursor - run.punched);
            disk.punch_below_by(&mut || turn.rest(), (target, floor), first, units)?;
        }
        run.punched = run.cursor;
        let (cursor, copied) = (run.cursor, std::mem::take(&mut run.copied));
        self.change_job(&job.job_id, JobState::Running, |job| {
            job.cursor_units = cursor.min(job.total_units);
            job.bytes_done += copied;
            if is_all {
                job.state = JobState::Switching;
            }
        })?;
        Ok(())
    }

    /// Down to which layer nobody but the target needs what lies below it; `None`: not even one.
    fn free_down_to(
        &self,
        job: &JobRecord,
        floor: Option<Uuid>,
    ) -> Result<Option<Option<Uuid>>, ControlError> {
        let catalog = &self.parts.catalog;
        let mut above = self.layer_record(&job.target_layer)?;
        let mut is_any = false;
        while let Some(id) = above.parent.clone() {
            let at = uuid_of(&id)?;
            if Some(at) == floor {
                break;
            }
            let uses = catalog.layer_uses(&id)?;
            if !uses.is_named_by_nobody() || uses.children != [above.layer_id] {
                return Ok(is_any.then_some(Some(at)));
            }
            is_any = true;
            above = self.layer_record(&id)?;
        }
        Ok(is_any.then_some(floor))
    }

    /// Finishes the job.
    fn end(&self, run: &mut Run, job: &JobRecord, disk: Option<&Disk>) -> Result<Step, Trouble> {
        self.finish(&run.caller, job, disk)?;
        Ok(Step::Ended)
    }

    /// Closes the job's own disk. What is in it is flushed, so that an error is not lost with the
    /// descriptor.
    fn let_go(&self, run: &mut Run) {
        if let Some(disk) = run.private.take() {
            if let Err(error) = disk.flush() {
                tracing::error!(job = %run.job_id, %error, "what it copied last may be lost");
                // It is copied again.
                run.cursor = run.punched;
            }
            self.stack.open.release(disk);
        }
    }
}

/// What a job knows of the clients of its disk.
#[derive(Default)]
struct Clients {
    /// As of the last look.
    requests: Option<u64>,
    /// When there were more of them than at the look before.
    last: Option<Duration>,
}

impl Clients {
    /// Whether they are at work, if the disk has seen so many requests by `now`.
    fn are_busy(&mut self, requests: u64, now: Duration) -> bool {
        let Some(seen) = self.requests.replace(requests) else {
            // The next look tells how old they are.
            return requests > 0;
        };
        if requests != seen {
            self.last = Some(now);
        }
        self.last.is_some_and(|last| now.saturating_sub(last) < CLIENTS_LINGER)
    }
}

/// A job between two rests.
struct Turn<'a> {
    disks: &'a Disks,
    is_gentle: bool,
    begun: Duration,
}

impl Turn<'_> {
    /// How long to rest for what was done since the last rest.
    fn owed(&self) -> Duration {
        let worked = self.disks.parts.clock.monotonic().saturating_sub(self.begun);
        if self.is_gentle { worked * GENTLE_REST } else { Duration::ZERO }
    }

    /// Rests, if the pace is gentle. When the daemon stops there is no rest any more.
    fn rest(&mut self) {
        if self.is_gentle {
            self.disks.stack.runner.rest(self.owed());
            self.begun = self.disks.parts.clock.monotonic();
        }
    }
}

/// How long a job that is limited to a rate rests after a piece.
fn rate_rest(job: &JobRecord, worked: Duration, copied: ByteCount) -> Duration {
    let Some(rate) = job.rate.filter(|rate| *rate > 0) else { return Duration::ZERO };
    let whole = Duration::from_secs_f64(copied.get() as f64 / rate as f64);
    whole.saturating_sub(worked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_a_few_requests_a_second_are_at_work_until_they_are_quiet_for_a_while() {
        let (mut clients, at) = (Clients::default(), Duration::from_millis);
        assert!(!clients.are_busy(0, at(1000)), "no request ever");
        let mut late = Clients::default();
        assert!(late.are_busy(9, at(1000)), "perhaps of just now");
        assert!(!late.are_busy(9, at(1001)), "all were before the job");
        for request in 1..5 {
            let begun = at(1000 + request * 200);
            assert!(clients.are_busy(request, begun));
            assert!(clients.are_busy(request, begun + at(199)), "between two requests");
        }
        assert!(!clients.are_busy(4, at(1800) + CLIENTS_LINGER));
        assert!(clients.are_busy(5, at(5000)));
    }
}
