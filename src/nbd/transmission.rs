//! The transmission phase: read requests, have them run, let replies leave in batches.
//!
//! The reader runs at once what is small and needs no waiting: reads from the page cache, writes
//! into it. What is large or waits is shared with the other threads of the connection (`crew`).
//! Reads that must wait for a device go to the workers and are answered whenever they are done.
//! Before the reader waits for the client, all replies it has gathered leave in one call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::crew::{self, LargeUnderWay, Weight};
use super::errno::Errno;
use super::execute::{Job, Scratch, command_names};
use super::export::Negotiated;
use super::intake::{Gone, Intake};
use super::outbound::{Batch, Outbound};
use super::reply::ReplyTo;
use super::request::{self, BLOCK_STATUS_PAYLOAD_BYTES_MAX, Command, Decoded};
use super::server::Server;
use super::socket::Socket;
use super::turns::Turns;
use crate::disk::Waiting;
use crate::disk::align::Span;
use crate::disk::attachment::Visit;
use crate::metrics::ExportMetrics;
use crate::storage::buffer::Buffer;
use crate::units::ByteOffset;

/// Replies gathered before they leave although more requests are at hand, in bytes.
const BATCH_BYTES: usize = 512 << 10;

/// Reads and writes from this length on are large: encryption and copies of one then overlap with
/// those of the next.
const LARGE_BYTES: u64 = 128 << 10;

/// Large reads that may wait for the next thread of the connection before its reader runs one.
const READS_AHEAD_MAX: usize = 1;

/// The same of writes: more, for their payloads arrive faster than they are stored; not many, for
/// they have to be in the cache still when their turn comes.
const WRITES_AHEAD_MAX: usize = 2;

/// How long one wait for the limits of a disk lasts before looking whether the connection was hung
/// up on.
const LIMIT_STEP: Duration = Duration::from_millis(50);

/// How long one wait for a buffer lasts before looking whether the connection was hung up on.
const BUFFER_PATIENCE: Duration = Duration::from_millis(200);

/// What the threads that work for one connection share.
pub(super) struct Link {
    pub(super) server: Arc<Server>,
    pub(super) negotiated: Negotiated,
    pub(super) visit: Visit,
    pub(super) outbound: Arc<Outbound>,
    pub(super) metrics: ExportMetrics,
    /// Large requests under way.
    pub(super) large_under_way: AtomicUsize,
    /// No page cache stands before the device.
    pub(super) is_direct: bool,
}

/// Who runs a job.
enum Place {
    /// The reader: it takes a few microseconds.
    Here,
    /// The reader, although it waits for the device: nothing else is on its way.
    InTurn,
    /// A thread of the connection.
    Crew(Weight),
    /// The workers: everything on its disk waits, so many at a time do.
    Worker,
}

/// The reading side of one connection.
pub(super) struct Reader<'a> {
    link: Arc<Link>,
    socket: &'a Socket,
    intake: Intake,
    batch: Batch,
    scratch: Scratch,
    turns: Turns,
    is_hung_up: &'a AtomicBool,
}

/// Reads and runs requests until the client leaves, disconnects or is hung up on; then waits until
/// every request has been answered.
pub(super) fn run(
    server: &Arc<Server>,
    socket: &Arc<Socket>,
    negotiated: Negotiated,
    (visit, intake): (Visit, Intake),
    is_hung_up: &AtomicBool,
) {
    let metrics = ExportMetrics::register(visit.attachment().disk_id(), &command_names());
    let outbound = Arc::new(Outbound::new(Arc::clone(socket)));
    let is_direct = visit.disk().capabilities().writes_wait;
    let link = Arc::new(Link {
        is_direct,
        server: Arc::clone(server),
        negotiated,
        visit,
        outbound,
        metrics,
        large_under_way: 0.into(),
    });
    let reader = Reader {
        link: Arc::clone(&link),
        socket,
        intake,
        batch: Batch::default(),
        scratch: Scratch::default(),
        turns: Turns::default(),
        is_hung_up,
    };
    crew::serve(&link, reader);
    // Nothing more will be read; what was read is answered before this ends.
    link.outbound.wait_until_idle();
    link.outbound.end();
}

impl Link {
    /// Has a job run on a thread that may wait.
    pub(super) fn run_on_worker(self: &Arc<Self>, job: Job) {
        let link = Arc::clone(self);
        self.server.workers.run(move || job.run_elsewhere(&link));
    }
}

impl Reader<'_> {
    /// Reads and runs requests up to one that is large or waits, which comes back. `None`: the
    /// client disconnected, is gone, broke the protocol or is not wanted any more; all replies
    /// gathered have left.
    pub(super) fn next_job(&mut self) -> Option<(Job, Weight)> {
        let job = self.read_requests();
        if !matches!(job, Ok(Some(_))) {
            self.send();
        }
        job.ok().flatten()
    }

    /// Runs the job here; one that must wait goes to the workers.
    fn run(&mut self, job: Job) {
        let left = job.run(&self.link, &mut self.scratch, &mut self.batch, Waiting::Forbidden);
        if let Some(job) = left {
            self.link.run_on_worker(job);
        }
    }

    /// As [`Reader::run`], but nobody's reply waits meanwhile.
    pub(super) fn run_large(&mut self, job: Job) {
        self.send();
        self.run(job);
    }

    /// Runs a job that waits for the device while nobody reads: for clients that send nothing
    /// meanwhile. Whatever one sends all the same waits until the device has answered this once,
    /// and no other request does until the client has earned it anew.
    fn run_in_turn(&mut self, job: Job) {
        self.run(job);
        if self.socket.has_arrivals() {
            self.turns.overtaken();
        }
    }

    /// `Ok(None)`: the client disconnected; `Err`: it is gone, broke the protocol or is not wanted.
    fn read_requests(&mut self) -> Result<Option<(Job, Weight)>, Gone> {
        let header_bytes = request::header_bytes(self.link.negotiated.replies);
        loop {
            if self.must_end() {
                return Err(Gone);
            }
            let Some(header) = self.intake.peek(header_bytes) else {
                self.send();
                self.intake.fill(self.socket)?;
                continue;
            };
            let decoded = request::decode(header, &self.link.negotiated).map_err(|error| {
                tracing::warn!(%error, "NBD client broke the protocol");
                Gone
            })?;
            self.intake.consume(header_bytes);
            if decoded.verdict == Ok(Command::Disconnect) {
                return Ok(None);
            }
            if self.batch.bytes() > BATCH_BYTES {
                self.send();
            }
            let job = self.take(decoded)?;
            // The job itself is in flight.
            self.turns.came(!self.intake.holds(1) && self.link.outbound.in_flight() == 1);
            match self.place_of(&job) {
                Place::Here => self.run(job),
                Place::InTurn => self.run_in_turn(job),
                Place::Worker => self.link.run_on_worker(job),
                Place::Crew(weight) => return Ok(Some((job, weight))),
            }
        }
    }

    fn must_end(&self) -> bool {
        // Nobody is told any more what becomes of requests on a broken connection.
        self.is_hung_up.load(Ordering::Acquire)
            || self.link.outbound.is_broken()
            || self.link.server.is_stopping.load(Ordering::Acquire)
    }

    fn send(&mut self) {
        self.link.outbound.send_waiting(&mut self.batch);
    }

    /// Reads the rest of a request.
    fn take(&mut self, decoded: Decoded) -> Result<Job, Gone> {
        let begun = self.link.server.clock.monotonic();
        let mut decoded = decoded;
        let command = match decoded.verdict {
            Ok(Command::BlockStatusPayload { .. }) => {
                let mut payload = [0; BLOCK_STATUS_PAYLOAD_BYTES_MAX];
                let payload = &mut payload[..decoded.payload as usize];
                self.read_payload(payload)?;
                decoded = decoded.with_block_status_payload(payload, &self.link.negotiated);
                decoded.verdict
            }
            Err(errno) => {
                self.flush_before_waiting(decoded.payload as usize);
                self.intake.discard(self.socket, decoded.payload)?;
                Err(errno)
            }
            verdict => verdict,
        };
        self.keep_to_limits(&decoded, command)?;
        let span = self.span_of(&decoded, command);
        let cost = span.covered_bytes();
        if !self.link.outbound.try_begin(cost) {
            self.send();
            self.link.outbound.begin(cost);
        }
        let to = ReplyTo::new(self.link.negotiated.replies, &decoded);
        let large =
            (decoded.length >= LARGE_BYTES && cost > 0).then(|| LargeUnderWay::on(&self.link));
        let mut job = Job { to, length: decoded.length, command, span, buffer: None, begun, large };
        if cost > 0 {
            let taken = self.take_buffer(cost);
            if taken.is_err() {
                self.link.outbound.withdraw(cost);
            }
            job.buffer = Some(taken?);
        }
        if let (Ok(Command::Write { .. }), Some(buffer)) = (command, &mut job.buffer) {
            buffer.warm_up();
            let received = {
                let payload = &mut buffer[span.payload()];
                read_payload(&self.link, &mut self.intake, (self.socket, &mut self.batch), payload)
            };
            if received.is_err() {
                // A write that did not come whole is dropped whole.
                self.link.outbound.withdraw(cost);
            }
            received?;
        }
        Ok(job)
    }

    /// The data units whose content the request moves through a buffer.
    fn span_of(&self, decoded: &Decoded, command: Result<Command, Errno>) -> Span {
        let len = match command {
            // `block_max` bounds it, so it fits.
            Ok(Command::Read { .. } | Command::Write { .. }) => decoded.length as usize,
            _ => 0,
        };
        let at = if len == 0 { ByteOffset::ZERO } else { ByteOffset::new(decoded.offset) };
        self.link.visit.disk().span(at, len)
    }

    fn take_buffer(&mut self, len: usize) -> Result<Buffer, Gone> {
        if let Some(buffer) = self.link.server.pool.take(len, None) {
            return Ok(buffer);
        }
        self.send();
        loop {
            if self.must_end() {
                return Err(Gone);
            }
            if let Some(buffer) = self.link.server.pool.take(len, Some(BUFFER_PATIENCE)) {
                return Ok(buffer);
            }
        }
    }

    fn read_payload(&mut self, into: &mut [u8]) -> Result<(), Gone> {
        read_payload(&self.link, &mut self.intake, (self.socket, &mut self.batch), into)
    }

    fn flush_before_waiting(&mut self, len: usize) {
        if !self.intake.holds(len) {
            self.send();
        }
    }

    fn place_of(&self, job: &Job) -> Place {
        let is_large = job.length >= LARGE_BYTES;
        match job.command {
            Err(_) => Place::Here,
            Ok(Command::Read { .. } | Command::Write { .. }) if self.link.is_direct => {
                Place::Worker
            }
            Ok(Command::Read { .. }) if is_large => {
                Place::Crew(Weight::Large { ahead_max: READS_AHEAD_MAX })
            }
            Ok(Command::Write { fua: false }) if is_large && !self.turns.are_kept() => {
                Place::Crew(Weight::Large { ahead_max: WRITES_AHEAD_MAX })
            }
            Ok(Command::Read { .. } | Command::Write { fua: false }) => Place::Here,
            Ok(Command::Write { fua: true } | Command::Flush) if self.turns.are_kept() => {
                Place::InTurn
            }
            Ok(Command::Flush) => Place::Crew(Weight::Waits),
            _ if job.length == 0 => Place::Here,
            _ => Place::Crew(Weight::Waits),
        }
    }

    /// Waits as long as the limits of the disk want. Nothing of the request is in memory yet.
    fn keep_to_limits(
        &mut self,
        decoded: &Decoded,
        command: Result<Command, Errno>,
    ) -> Result<(), Gone> {
        let throttle = self.link.visit.disk().throttle();
        if !throttle.is_on() {
            return Ok(());
        }
        let bytes = match command {
            Ok(Command::Read { .. } | Command::Write { .. }) => decoded.length,
            Ok(Command::Trim { .. } | Command::WriteZeroes { .. }) => 0,
            _ => return Ok(()),
        };
        let mut left = throttle.admit(self.link.server.clock.monotonic(), bytes);
        if left.is_zero() {
            return Ok(());
        }
        self.send();
        while !left.is_zero() {
            if self.must_end() {
                return Err(Gone);
            }
            let step = left.min(LIMIT_STEP);
            std::thread::sleep(step);
            left -= step;
        }
        Ok(())
    }
}

/// Fills `into` from the client. Replies at hand leave first if it means waiting.
fn read_payload(
    link: &Link,
    intake: &mut Intake,
    (socket, batch): (&Socket, &mut Batch),
    into: &mut [u8],
) -> Result<(), Gone> {
    if !intake.holds(into.len()) {
        link.outbound.send_waiting(batch);
    }
    intake.payload(socket, into)
}
