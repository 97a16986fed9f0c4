//! Model c: one io_uring for each connection's thread. Socket and file go through it, with
//! registered files and buffers; all that is ready is submitted in one call that also waits.
//!
//! The disk's own route makes system calls, so with the file in the ring this model goes around
//! it: it moves ciphertext and runs the same cipher, without range locks and holes. Requests are
//! whole units of at most 1 MiB; anything else ends the connection.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, cqueue, opcode, squeue};
use sealdisk::crypto::xts::XtsCipher;
use sealdisk::disk::Waiting;
use sealdisk::layer::{DATA_OFFSET, Presence};
use sealdisk::nbd::export::Negotiated;
use sealdisk::nbd::request::Command;

use super::house::{self, House, UNIT, listen};
use super::request_work::{BATCH_BYTES, Intake, Job, header_bytes};
use super::uring_memory::{GROUP, Provided, SLOTS, Slots};

const ENTRIES: u32 = 512;

/// Bytes of one write to the file; the product's bound, for the same reason.
const WRITE_BYTES: usize = 64 << 10;

const FILE: Fixed = Fixed(0);
const SOCKET: Fixed = Fixed(1);

/// Names of operations that are not on a slot.
const RECEIVE: u64 = u64::MAX;
const SEND: u64 = u64::MAX - 1;

/// How the file is read and written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileRoute {
    /// By the disk: `preadv2` and `pwritev2` inline.
    Inline,
    /// By the ring.
    Ring,
}

/// How the socket is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receiving {
    /// One receive after another; large payloads go to their place without a copy.
    Single,
    /// One that stays, into provided buffers.
    Multishot,
}

/// Starts the server at `socket`.
pub(crate) fn start(house: &Arc<House>, socket: &Path, how: (FileRoute, Receiving)) {
    let house = Arc::clone(house);
    listen(socket, move |stream| {
        let Some((negotiated, early)) = house.greet(&stream) else { return };
        let mut connection = Connection::new(&house, &stream, how, &early);
        connection.serve(&negotiated);
        let _ = stream.shutdown(std::net::Shutdown::Both);
        connection.wind_up();
    });
}

/// Replies that leave together.
#[derive(Default)]
struct Outgoing {
    heads: Vec<u8>,
    /// Where a reply's head ends, and its data.
    replies: Vec<(usize, Option<(usize, usize)>)>,
    iovecs: Vec<libc::iovec>,
    bytes: usize,
}

/// A message for the kernel, which must not move while it is used.
struct Message {
    header: libc::msghdr,
    iovecs: [libc::iovec; 2],
    /// Bytes of the first part, which is payload.
    payload: usize,
}

/// A request on a slot.
struct Flight {
    job: Job,
    /// Operations on the file that are not complete.
    parts: usize,
    /// Bytes that complete ones have moved.
    moved: usize,
}

struct Connection<'a> {
    // The ring is dropped first: then nobody uses the memory any more.
    ring: IoUring,
    slots: Slots,
    provided: Provided,
    house: &'a House,
    cipher: XtsCipher,
    file_route: FileRoute,
    receiving: Receiving,
    present: Presence,
    intake: Intake,
    /// Provided buffers not used up: number, start and end.
    arrived: VecDeque<(u16, usize, usize)>,
    /// By slot.
    jobs: Vec<Option<Flight>>,
    /// The write whose payload is arriving, and how much of it is here.
    arriving: Option<(usize, usize)>,
    incoming: Box<Message>,
    outgoing_header: Box<libc::msghdr>,
    gathered: Outgoing,
    leaving: Outgoing,
    is_receiving: bool,
    is_sending: bool,
    in_file: usize,
    /// The next request waits for a slot.
    is_stalled: bool,
}

fn empty_header() -> libc::msghdr {
    // SAFETY: integers and pointers, for all of which zero is a value.
    unsafe { std::mem::zeroed() }
}

impl<'a> Connection<'a> {
    fn new(
        house: &'a House,
        stream: &UnixStream,
        (file_route, receiving): (FileRoute, Receiving),
        early: &[u8],
    ) -> Self {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(ENTRIES)
            .expect("a ring (Linux 6.1, io_uring not disabled)");
        let file = File::options().read(true).write(true).open(&house.file).expect("the file");
        let (slots, provided) = (Slots::new(), Provided::new());
        let submitter = ring.submitter();
        submitter.register_files(&[file.as_raw_fd(), stream.as_raw_fd()]).expect("two files");
        let (address, count) = provided.registration();
        // SAFETY: both regions outlive the ring.
        unsafe {
            submitter.register_buffers(&[slots.as_iovec()]).expect("20 MiB of locked memory");
            submitter
                .register_buf_ring_with_flags(address, count, GROUP, 0)
                .expect("provided buffers");
        }
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let incoming = Message { header: empty_header(), iovecs: [none; 2], payload: 0 };
        Self {
            ring,
            slots,
            provided,
            house,
            cipher: house::cipher(),
            file_route,
            receiving,
            present: Presence::new(),
            intake: Intake::starting_with(early),
            arrived: VecDeque::new(),
            jobs: (0..SLOTS).map(|_| None).collect(),
            arriving: None,
            incoming: Box::new(incoming),
            outgoing_header: Box::new(empty_header()),
            gathered: Outgoing::default(),
            leaving: Outgoing::default(),
            is_receiving: false,
            is_sending: false,
            in_file: 0,
            is_stalled: false,
        }
    }

    fn serve(&mut self, negotiated: &Negotiated) {
        while self.take_requests(negotiated) {
            self.send();
            self.receive();
            // A small reply leaves at once: no need to come back only to hear of it. Unless
            // something waits for that: replies behind it, or a request that found no slot.
            let is_idle = self.gathered.replies.is_empty() && self.in_file == 0 && !self.is_stalled;
            let has_both = self.is_sending && self.is_receiving;
            let both = has_both && is_idle && self.leaving.bytes <= BATCH_BYTES;
            if self.ring.submit_and_wait(if both { 2 } else { 1 }).is_err() || !self.reap() {
                return;
            }
        }
    }

    /// Waits until the kernel uses none of our memory.
    fn wind_up(&mut self) {
        while self.is_receiving || self.is_sending || self.in_file > 0 {
            self.ring.submit_and_wait(1).expect("a ring that worked until now");
            self.reap();
        }
    }

    /// Starts what has come whole. `false`: the client has disconnected.
    fn take_requests(&mut self, negotiated: &Negotiated) -> bool {
        let header = header_bytes(negotiated.replies);
        loop {
            if let Some((slot, done)) = self.arriving {
                let length = self.length_of(slot);
                let done = done + self.take_payload(slot, done..length);
                if done < length {
                    self.arriving = Some((slot, done));
                    return true;
                }
                self.arriving = None;
                self.start(slot);
            }
            let Some(bytes) = self.intake.peek(header) else {
                if self.refill(header) {
                    continue;
                }
                return true;
            };
            let Some(job) = Job::decode(bytes, negotiated) else { return false };
            if !Slots::fits(job.length) || !job.span.is_aligned() {
                return false;
            }
            let taken = self.slots.take(job.length);
            self.is_stalled = taken.is_none();
            let Some(slot) = taken else { return true };
            self.intake.consume(header);
            let is_write = job.is_write();
            self.jobs[slot] = Some(Flight { job, parts: 0, moved: 0 });
            if is_write {
                self.arriving = Some((slot, 0));
            } else {
                self.start(slot);
            }
        }
    }

    /// Moves payload that is here to its slot; how much that was.
    fn take_payload(&mut self, slot: usize, missing: std::ops::Range<usize>) -> usize {
        let mut into = &mut self.slots.bytes(slot, missing.end)[missing];
        let mut count = self.intake.take(into);
        into = &mut into[count..];
        while let Some((id, start, end)) = self.arrived.front_mut() {
            let part = into.len().min(*end - *start);
            if part == 0 {
                break;
            }
            into[..part].copy_from_slice(&self.provided.bytes(*id, *end)[*start..*start + part]);
            into = &mut into[part..];
            count += part;
            *start += part;
            if *start == *end {
                self.provided.give_back(*id);
                self.arrived.pop_front();
            }
        }
        count
    }

    /// Moves what is missing of a header from a provided buffer to the intake; payload is copied
    /// only once, to its slot.
    fn refill(&mut self, header: usize) -> bool {
        let Some((id, start, end)) = self.arrived.front_mut() else { return false };
        let part = (header - self.intake.len()).min(*end - *start);
        let room = self.intake.room();
        room[..part].copy_from_slice(&self.provided.bytes(*id, *end)[*start..*start + part]);
        self.intake.filled(part);
        *start += part;
        if *start == *end {
            self.provided.give_back(*id);
            self.arrived.pop_front();
        }
        part > 0
    }

    fn length_of(&self, slot: usize) -> usize {
        self.jobs[slot].as_ref().map_or(0, |flight| flight.job.length)
    }

    fn start(&mut self, slot: usize) {
        let Flight { job, parts, .. } = self.jobs[slot].as_mut().expect("a job was put there");
        let data = self.slots.bytes(slot, job.length);
        if self.file_route == FileRoute::Inline {
            let disk = self.house.disk.as_ref();
            if !job.run(disk, data, &mut self.present, Waiting::Forbidden) {
                job.run(disk, data, &mut self.present, Waiting::Allowed);
            }
            return self.finish(slot);
        }
        let at = DATA_OFFSET.get() + job.to.offset;
        let mut entries = Vec::with_capacity(1);
        match job.command {
            Command::Read { .. } => {
                let len = u32::try_from(data.len()).expect("at most 1 MiB");
                let read = opcode::ReadFixed::new(FILE, data.as_mut_ptr(), len, 0).offset(at);
                entries.push(read.build());
            }
            Command::Write { .. } => {
                self.cipher.encrypt_in_place(UNIT, job.span.first(), data);
                for (index, piece) in data.chunks(WRITE_BYTES).enumerate() {
                    let position = at + (index * WRITE_BYTES) as u64;
                    let write =
                        opcode::WriteFixed::new(FILE, piece.as_ptr(), piece.len() as u32, 0);
                    entries.push(write.offset(position).build());
                }
            }
            _ => entries.push(opcode::Fsync::new(FILE).flags(FsyncFlags::DATASYNC).build()),
        }
        *parts = entries.len();
        self.in_file += entries.len();
        entries.into_iter().for_each(|entry| self.push(entry, slot as u64));
    }

    fn push(&mut self, entry: squeue::Entry, name: u64) {
        let entry = entry.user_data(name);
        // SAFETY: what the entry points to lives in this connection, at one place, and is not
        // touched before the completion of that name; the ring is dropped first.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.ring.submit().expect("a ring that worked until now");
        }
    }

    /// Adds the reply of a job that is done.
    fn finish(&mut self, slot: usize) {
        let Flight { job, .. } = self.jobs[slot].take().expect("a job that was started");
        job.reply_head(&mut self.gathered.heads);
        let data = job.is_read().then_some((slot, job.length));
        if data.is_none() {
            self.slots.give_back(slot);
        }
        self.gathered.bytes += job.length;
        self.gathered.replies.push((self.gathered.heads.len(), data));
    }

    /// Sends what was gathered, unless the last is still on its way.
    fn send(&mut self) {
        if self.is_sending || self.gathered.replies.is_empty() {
            return;
        }
        std::mem::swap(&mut self.gathered, &mut self.leaving);
        let Outgoing { heads, replies, iovecs, .. } = &mut self.leaving;
        let mut start = 0;
        for (index, (end, data)) in replies.iter().enumerate() {
            // Heads without data between them leave as one.
            if data.is_none() && index + 1 < replies.len() {
                continue;
            }
            let head = &mut heads[start..*end];
            start = *end;
            iovecs.push(libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: head.len() });
            if let Some((slot, len)) = *data {
                let iov_base = self.slots.start_of(slot).cast();
                iovecs.push(libc::iovec { iov_base, iov_len: len });
            }
        }
        self.outgoing_header.msg_iov = iovecs.as_mut_ptr();
        self.outgoing_header.msg_iovlen = iovecs.len();
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
        let message = opcode::SendMsg::new(SOCKET, &raw const *self.outgoing_header).flags(flags);
        self.is_sending = true;
        self.push(message.build(), SEND);
    }

    /// Receives, unless a receive is waiting already.
    fn receive(&mut self) {
        if self.is_receiving {
            return;
        }
        if self.receiving == Receiving::Multishot {
            // All buffers are full of what was not looked at yet: later.
            if self.arrived.len() < usize::from(self.provided.registration().1) {
                self.is_receiving = true;
                self.push(opcode::RecvMulti::new(SOCKET, GROUP).build(), RECEIVE);
            }
            return;
        }
        let arriving = self.arriving.map(|(slot, done)| (slot, done, self.length_of(slot)));
        let Message { header, iovecs, payload } = &mut *self.incoming;
        let room = self.intake.room();
        let mut ahead = room.len();
        *payload = 0;
        if let Some((slot, done, length)) = arriving {
            let rest = &mut self.slots.bytes(slot, length)[done..];
            *payload = rest.len();
            iovecs[0].iov_base = rest.as_mut_ptr().cast();
            ahead = if length >= 32 << 10 { 4 << 10 } else { ahead };
        }
        if *payload + ahead == 0 {
            return;
        }
        iovecs[0].iov_len = *payload;
        iovecs[1] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: ahead };
        header.msg_iov = iovecs.as_mut_ptr();
        header.msg_iovlen = 2;
        let message = opcode::RecvMsg::new(SOCKET, &raw mut *header);
        self.is_receiving = true;
        self.push(message.build(), RECEIVE);
    }

    /// Handles what is complete. `false`: the client is gone.
    fn reap(&mut self) -> bool {
        let mut is_open = true;
        loop {
            let Some(entry) = self.ring.completion().next() else { return is_open };
            is_open &= match entry.user_data() {
                RECEIVE => self.received(&entry),
                SEND => self.sent(entry.result()),
                slot => self.moved(slot as usize, entry.result()),
            };
        }
    }

    fn received(&mut self, entry: &cqueue::Entry) -> bool {
        self.is_receiving = cqueue::more(entry.flags());
        if entry.result() == -libc::ENOBUFS {
            return true;
        }
        let Ok(count @ 1..) = usize::try_from(entry.result()) else { return false };
        if let Some(id) = cqueue::buffer_select(entry.flags()) {
            self.arrived.push_back((id, 0, count));
            return true;
        }
        let payload = count.min(self.incoming.payload);
        if let Some((_, done)) = &mut self.arriving {
            *done += payload;
        }
        self.intake.filled(count - payload);
        true
    }

    fn sent(&mut self, result: i32) -> bool {
        self.is_sending = false;
        let wanted: usize = self.leaving.iovecs.iter().map(|iovec| iovec.iov_len).sum();
        for (_, data) in self.leaving.replies.drain(..) {
            if let Some((slot, _)) = data {
                self.slots.give_back(slot);
            }
        }
        self.leaving.heads.clear();
        self.leaving.iovecs.clear();
        self.leaving.bytes = 0;
        usize::try_from(result) == Ok(wanted)
    }

    fn moved(&mut self, slot: usize, result: i32) -> bool {
        self.in_file -= 1;
        let flight = self.jobs[slot].as_mut().expect("a job in flight");
        flight.parts -= 1;
        flight.moved += usize::try_from(result).expect("the file can be read and written");
        let job = &flight.job;
        if flight.parts == 0 {
            assert_eq!(flight.moved, job.length, "no short reads and writes");
            if job.is_read() {
                let data = self.slots.bytes(slot, job.length);
                self.cipher.decrypt_in_place(UNIT, job.span.first(), data);
            }
            self.finish(slot);
        }
        true
    }
}
