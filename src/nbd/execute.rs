//! A request runs on the disk and its reply is put into a batch.

use std::sync::Arc;
use std::time::Duration;

use super::context::Chosen;
use super::crew::LargeUnderWay;
use super::errno::Errno;
use super::export::Negotiated;
use super::outbound::{Batch, Outbound};
use super::reply::{self, Descriptor, Done, Meaning, ReadChunk, ReplyTo, Run};
use super::request::Command;
use super::transmission::Link;
use crate::disk::align::Span;
use crate::disk::status::DiskExtent;
use crate::disk::zero::Zeroing;
use crate::disk::{Disk, DiskError, Waiting};
use crate::layer::Presence;
use crate::limits;
use crate::storage::Durability;
use crate::storage::buffer::Buffer;
use crate::units::{ByteCount, ByteOffset};

/// Bytes that one CACHE request brings into the page cache at most; it is a hint.
const CACHE_BYTES_MAX: u64 = 256 << 20;

/// Step in which it does.
const CACHE_STEP_BYTES: u64 = 1 << 20;

/// A request with all that came with it.
pub(super) struct Job {
    pub(super) to: ReplyTo,
    pub(super) length: u64,
    pub(super) command: Result<Command, Errno>,
    /// The data units that `buffer` is for; of none for commands without data.
    pub(super) span: Span,
    pub(super) buffer: Option<Buffer>,
    /// When its header was read.
    pub(super) begun: Duration,
    /// Counts it until its reply has left.
    pub(super) large: Option<LargeUnderWay>,
}

/// Memory that is used again from request to request.
#[derive(Default)]
pub(super) struct Scratch {
    present: Presence,
    chunks: Vec<ReadChunk>,
    extents: Vec<Descriptor>,
}

/// What a command brought.
enum Outcome {
    Success,
    Read,
    Status(Vec<Status>),
    Failure(Errno, String),
}

/// The answer of one metadata context.
struct Status {
    context: u32,
    meaning: Meaning,
    runs: Vec<Run>,
}

/// Names of the commands in metrics, in the order of [`Job::number`].
pub(super) const fn command_names() -> [&'static str; 8] {
    ["read", "write", "flush", "trim", "cache", "write_zeroes", "block_status", "invalid"]
}

impl Job {
    /// Runs and puts the reply into `batch`. Comes back if it would have to wait and may not.
    pub(super) fn run(
        mut self,
        link: &Link,
        scratch: &mut Scratch,
        batch: &mut Batch,
        waiting: Waiting,
    ) -> Option<Self> {
        match self.perform(link, &mut scratch.present, waiting) {
            Some(outcome) => {
                self.answer(outcome, link, scratch, batch);
                None
            }
            None => Some(self),
        }
    }

    /// Runs on a thread of the connection and sends the reply, waiting for the client to take it. A
    /// read that must wait for a device goes to the workers.
    pub(super) fn run_beside(self, link: &Arc<Link>, scratch: &mut Scratch, batch: &mut Batch) {
        let ticket = Ticket { outbound: &link.outbound, cost: self.span.covered_bytes() };
        let left = self.run(link, scratch, batch, Waiting::Forbidden);
        std::mem::forget(ticket);
        match left {
            None => link.outbound.send_waiting(batch),
            Some(job) => link.run_on_worker(job),
        }
    }

    /// Runs on a worker, waiting as needed, and sends the reply.
    pub(super) fn run_elsewhere(self, link: &Link) {
        let ticket = Ticket { outbound: &link.outbound, cost: self.span.covered_bytes() };
        let mut batch = Batch::default();
        let left = self.run(link, &mut Scratch::default(), &mut batch, Waiting::Allowed);
        debug_assert!(left.is_none(), "a job that may wait is finished");
        std::mem::forget(ticket);
        link.outbound.send_at_once(batch);
    }

    /// `None`: it would have to wait and may not.
    fn perform(
        &mut self,
        link: &Link,
        present: &mut Presence,
        waiting: Waiting,
    ) -> Option<Outcome> {
        let disk = link.visit.disk();
        let at = ByteOffset::new(self.to.offset);
        let len = ByteCount::new(self.length);
        let result = match (self.command, &mut self.buffer) {
            (Err(errno), _) => return Some(Outcome::Failure(errno, reason(errno))),
            (Ok(Command::Read { .. }), Some(buffer)) => {
                buffer.warm_up();
                match disk.read(&self.span, buffer, present, waiting) {
                    Ok(false) => return None,
                    outcome => outcome.map(|_| Outcome::Read),
                }
            }
            (Ok(Command::Write { fua }), Some(buffer)) => {
                disk.write(&self.span, buffer, durability(fua)).map(|()| Outcome::Success)
            }
            // Of zero bytes.
            (Ok(Command::Read { .. } | Command::Write { .. }), None) => Ok(Outcome::Success),
            (Ok(Command::Flush), _) => disk.flush().map(|()| Outcome::Success),
            (Ok(Command::Trim { fua }), _) => {
                disk.trim(at, len, durability(fua)).map(|()| Outcome::Success)
            }
            (Ok(Command::WriteZeroes { fua, no_hole, fast }), _) => {
                let how = Zeroing {
                    keep_allocated: no_hole,
                    only_if_fast: fast,
                    durability: durability(fua),
                };
                disk.write_zeroes(at, len, how).map(|()| Outcome::Success)
            }
            (Ok(Command::Cache), _) => warm(disk, at, len).map(|()| Outcome::Success),
            (Ok(Command::BlockStatus { req_one, contexts }), _) => {
                let limit = if req_one { 1 } else { limits::EXTENTS_MAX };
                status(disk, &link.negotiated, contexts, (at, len, limit)).map(Outcome::Status)
            }
            // Handled by the reader.
            (Ok(Command::Disconnect | Command::BlockStatusPayload { .. }), _) => {
                Ok(Outcome::Failure(Errno::Inval, reason(Errno::Inval)))
            }
        };
        Some(
            result.unwrap_or_else(|error| Outcome::Failure(Errno::from(&error), error.to_string())),
        )
    }

    fn answer(mut self, outcome: Outcome, link: &Link, scratch: &mut Scratch, batch: &mut Batch) {
        let is_error = matches!(outcome, Outcome::Failure(..));
        let (number, cost) = (self.number(), self.span.covered_bytes());
        let large = self.large.take();
        let took = link.server.clock.monotonic().saturating_sub(self.begun);
        link.metrics.finished(number, took, is_error);
        match outcome {
            Outcome::Success => {
                if let Ok(Command::Write { .. }) = self.command {
                    link.metrics.written(self.length);
                    if let Some(buffer) = self.buffer.take() {
                        buffer.keep_warm();
                    }
                }
                batch.head(|out| reply::success(self.to, out));
            }
            Outcome::Read => {
                link.metrics.read(self.length);
                self.answer_read(scratch, batch);
            }
            Outcome::Status(statuses) => self.answer_block_status(&statuses, scratch, batch),
            Outcome::Failure(errno, text) => {
                batch.head(|out| reply::error(self.to, errno, &text, out));
            }
        }
        batch.reply_ends(cost, large);
    }

    fn answer_read(self, scratch: &mut Scratch, batch: &mut Batch) {
        let Some(buffer) = self.buffer else {
            return batch.head(|out| reply::success(self.to, out));
        };
        let df = matches!(self.command, Ok(Command::Read { df: true }));
        let length = self.length as u32;
        let runs = hole_runs(&scratch.present, &self.span);
        reply::plan_read(self.to, length, df, runs, &mut scratch.chunks);
        let index = batch.adopt(buffer);
        for chunk in &scratch.chunks {
            if chunk.is_hole {
                batch.head(|out| reply::read_hole(self.to, chunk, out));
                continue;
            }
            batch.head(|out| reply::begin_read_data(self.to, chunk, out));
            let start = self.span.lead() + (chunk.offset - self.to.offset) as usize;
            batch.data(index, start..start + chunk.length as usize);
        }
    }

    fn answer_block_status(self, statuses: &[Status], scratch: &mut Scratch, batch: &mut Batch) {
        let req_one = matches!(self.command, Ok(Command::BlockStatus { req_one: true, .. }));
        for (number, status) in statuses.iter().enumerate() {
            let done = if number + 1 == statuses.len() { Done::Yes } else { Done::No };
            let (form, runs) = ((self.to.mode, status.meaning), status.runs.iter().copied());
            reply::plan_block_status(form, self.length, req_one, runs, &mut scratch.extents);
            let extents = &scratch.extents;
            batch.head(|out| reply::block_status(self.to, status.context, extents, done, out));
        }
    }

    const fn number(&self) -> usize {
        match self.command {
            Ok(Command::Read { .. }) => 0,
            Ok(Command::Write { .. }) => 1,
            Ok(Command::Flush) => 2,
            Ok(Command::Trim { .. }) => 3,
            Ok(Command::Cache) => 4,
            Ok(Command::WriteZeroes { .. }) => 5,
            Ok(Command::BlockStatus { .. } | Command::BlockStatusPayload { .. }) => 6,
            Ok(Command::Disconnect) | Err(_) => 7,
        }
    }
}

/// What each of the chosen contexts says of a range; `request` sees to it that there is one.
fn status(
    disk: &Disk,
    negotiated: &Negotiated,
    contexts: Chosen,
    (at, len, limit): (ByteOffset, ByteCount, usize),
) -> Result<Vec<Status>, DiskError> {
    let mut statuses = Vec::new();
    if let Some(context) = negotiated.base_allocation.filter(|_| contexts.has_allocation()) {
        let run = |extent: &DiskExtent| Run { length: extent.len.get(), is_hole: extent.is_hole };
        let runs = disk.extents(at, len, limit)?.iter().map(run).collect();
        statuses.push(Status { context, meaning: Meaning::Allocation, runs });
    }
    for change in contexts.changes(&negotiated.changes) {
        let runs = match disk.changed_since(change.layer_id, at, len, limit) {
            Ok(extents) => extents
                .iter()
                .map(|extent| Run { length: extent.len.get(), is_hole: !extent.is_changed })
                .collect(),
            // The snapshot went since: what cannot be told apart any more may have changed.
            Err(DiskError::Stack(_)) => Vec::new(),
            Err(error) => return Err(error),
        };
        statuses.push(Status { context: change.id, meaning: Meaning::Changes, runs });
    }
    Ok(statuses)
}

/// Gives a request up if its task dies before it is answered.
struct Ticket<'a> {
    outbound: &'a Arc<Outbound>,
    cost: usize,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.outbound.abandon(self.cost);
    }
}

/// Where holes are, from the request's first byte on; none if there are none.
fn hole_runs<'a>(present: &'a Presence, span: &Span) -> impl Iterator<Item = Run> + 'a {
    let unit = span.unit_bytes() as u64;
    let mut skip = span.lead() as u64;
    let has_holes = present.absent_count() > 0;
    present.runs().take_while(move |_| has_holes).map(move |(units, is_present)| {
        let length = units.len() as u64 * unit - skip;
        skip = 0;
        Run { length, is_hole: !is_present }
    })
}

fn durability(fua: bool) -> Durability {
    if fua { Durability::Durable } else { Durability::Volatile }
}

/// Reads a range so that it is in the page cache.
fn warm(disk: &Disk, at: ByteOffset, len: ByteCount) -> Result<(), DiskError> {
    if disk.capabilities().writes_wait {
        // Nothing would keep what was read.
        return Ok(());
    }
    let mut bytes = vec![0; CACHE_STEP_BYTES as usize + 2 * 4096];
    let mut present = Presence::default();
    let end = at.plus(ByteCount::new(len.get().min(CACHE_BYTES_MAX)));
    let mut position = at;
    while position < end {
        let step = end.since(position).get().min(CACHE_STEP_BYTES);
        let span = disk.span(position, step as usize);
        disk.read(&span, &mut bytes[..span.covered_bytes()], &mut present, Waiting::Allowed)?;
        position = position.plus(ByteCount::new(step));
    }
    Ok(())
}

fn reason(errno: Errno) -> String {
    match errno {
        Errno::Perm => "the export is read-only",
        Errno::NoSpc => "the request reaches past the end of the export",
        Errno::Overflow => "the read is longer than the advertised maximum",
        _ => "the request is not valid for this export: check its range, flags and length",
    }
    .to_owned()
}
