//! What all models do alike with one request: parse it, run it on the disk, encode its reply.

use std::io::IoSlice;

use sealdisk::disk::align::Span;
use sealdisk::disk::{Disk, Waiting};
use sealdisk::layer::Presence;
use sealdisk::nbd::export::{Negotiated, ReplyMode};
use sealdisk::nbd::reply::{self, Done, ReadChunk, ReplyTo};
use sealdisk::nbd::request::{self, Command};
use sealdisk::storage::Durability;
use sealdisk::storage::buffer::{Buffer, BufferPool};
use sealdisk::units::ByteOffset;
use std::sync::Arc;

use super::house::UNIT;

/// Requests from this length on are given to a pool where a model has one; the product's bound.
pub(crate) const LARGE_BYTES: usize = 128 << 10;

/// Replies gathered before they leave although more requests are at hand, in bytes; the product's.
pub(crate) const BATCH_BYTES: usize = 512 << 10;

/// Bytes received ahead; the product's.
pub(crate) const INTAKE_BYTES: usize = 160 << 10;

/// A request and all that came with it.
pub(crate) struct Job {
    pub(crate) to: ReplyTo,
    pub(crate) command: Command,
    pub(crate) span: Span,
    pub(crate) length: usize,
}

impl Job {
    /// The request that `header` asks for; `None` ends the connection: it is a disconnect, or
    /// nothing that a bench sends.
    pub(crate) fn decode(header: &[u8], negotiated: &Negotiated) -> Option<Self> {
        let decoded = request::decode(header, negotiated).ok()?;
        let command = decoded.verdict.ok()?;
        let length = match command {
            Command::Read { .. } | Command::Write { .. } => usize::try_from(decoded.length).ok()?,
            Command::Flush => 0,
            _ => return None,
        };
        let at = if length == 0 { ByteOffset::ZERO } else { ByteOffset::new(decoded.offset) };
        let to = ReplyTo::new(negotiated.replies, &decoded);
        Some(Self { to, command, span: Span::covering(UNIT, at, length), length })
    }

    pub(crate) const fn is_write(&self) -> bool {
        matches!(self.command, Command::Write { .. })
    }

    pub(crate) const fn is_read(&self) -> bool {
        matches!(self.command, Command::Read { .. })
    }

    pub(crate) const fn is_large(&self) -> bool {
        self.length >= LARGE_BYTES
    }

    /// Runs it; `data` is as long as the span. `false`: it would have to wait and may not.
    pub(crate) fn run(
        &self,
        disk: Option<&Disk>,
        data: &mut [u8],
        present: &mut Presence,
        waiting: Waiting,
    ) -> bool {
        let Some(disk) = disk else { return true };
        match self.command {
            Command::Read { .. } => {
                disk.read(&self.span, data, present, waiting).expect("the disk reads")
            }
            Command::Write { .. } => {
                disk.write(&self.span, data, Durability::Volatile).expect("the disk writes");
                true
            }
            _ if waiting == Waiting::Forbidden => false,
            _ => {
                disk.flush().expect("the disk flushes");
                true
            }
        }
    }

    /// Appends what stands before the data of its reply, or all of a reply without data.
    pub(crate) fn reply_head(&self, out: &mut Vec<u8>) {
        if !self.is_read() || self.length == 0 {
            return reply::success(self.to, out);
        }
        let chunk = ReadChunk {
            offset: self.to.offset,
            length: u32::try_from(self.length).expect("at most REQUEST_BYTES_MAX"),
            is_hole: false,
            done: Done::Yes,
        };
        reply::begin_read_data(self.to, &chunk, out);
    }
}

/// Bytes of a header in `mode`.
pub(crate) const fn header_bytes(mode: ReplyMode) -> usize {
    request::header_bytes(mode)
}

/// A buffer for `job`; clients of a bench keep below the pool's bound.
pub(crate) fn buffer_for(job: &Job, pool: &Arc<BufferPool>) -> Buffer {
    let patience = Some(std::time::Duration::from_secs(60));
    pool.take(job.span.covered_bytes(), patience).expect("a buffer in time")
}

/// What a client has sent and nobody has looked at yet.
pub(crate) struct Intake {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Intake {
    pub(crate) fn starting_with(early: &[u8]) -> Self {
        let mut bytes = vec![0; INTAKE_BYTES].into_boxed_slice();
        bytes[..early.len()].copy_from_slice(early);
        Self { bytes, start: 0, end: early.len() }
    }

    pub(crate) fn peek(&self, len: usize) -> Option<&[u8]> {
        self.bytes[self.start..self.end].get(..len)
    }

    pub(crate) const fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) const fn consume(&mut self, len: usize) {
        self.start += len;
    }

    /// Moves what is here to the start of `into`; how much that was.
    pub(crate) fn take(&mut self, into: &mut [u8]) -> usize {
        let here = into.len().min(self.end - self.start);
        into[..here].copy_from_slice(&self.bytes[self.start..self.start + here]);
        self.start += here;
        here
    }

    /// Room for more; [`Intake::filled`] says how much of it was used.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.bytes[self.end..]
    }

    pub(crate) const fn filled(&mut self, count: usize) {
        self.end += count;
    }
}

/// Data of one reply: a part of a buffer.
type Data = (Buffer, std::ops::Range<usize>);

/// Replies that leave together.
#[derive(Default)]
pub(crate) struct Batch {
    heads: Vec<u8>,
    /// Where the head of each ends, and its data.
    replies: Vec<(usize, Option<Data>)>,
    bytes: usize,
}

impl Batch {
    pub(crate) fn add(&mut self, job: &Job, buffer: Option<Buffer>) {
        let before = self.heads.len();
        job.reply_head(&mut self.heads);
        let data = buffer.filter(|_| job.is_read()).map(|buffer| (buffer, job.span.payload()));
        self.bytes += self.heads.len() - before + data.as_ref().map_or(0, |data| data.1.len());
        self.replies.push((self.heads.len(), data));
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices = Vec::with_capacity(2 * self.replies.len());
        let mut start = 0;
        for (end, data) in &self.replies {
            slices.push(IoSlice::new(&self.heads[start..*end]));
            start = *end;
            if let Some((buffer, range)) = data {
                slices.push(IoSlice::new(&buffer[range.clone()]));
            }
        }
        slices
    }

    pub(crate) fn clear(&mut self) {
        self.heads.clear();
        self.replies.clear();
        self.bytes = 0;
    }
}
