//! Replies on their way out: gathered in batches, sent with few system calls, in any order.
//!
//! One thread at a time sends. Others leave their batch in the queue and go on; the sender takes
//! along what it finds there. The connection's own thread may wait for the client to read; a worker
//! never does: what the socket does not take at once is left to a sending thread of the connection.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use rustix::io::Errno;

use super::crew::LargeUnderWay;
use super::socket::{PIECES_MAX, SendMode, Socket};
use crate::limits;
use crate::storage::buffer::Buffer;

/// Replies that leave together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    heads: BytesMut,
    pieces: Vec<Piece>,
    buffers: Vec<Buffer>,
    bytes: usize,
    answered: Load,
    /// Large requests are under way until their replies have left.
    large: Vec<LargeUnderWay>,
}

/// Requests, and the bytes of the buffers they were given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    requests: usize,
    bytes: usize,
}

#[derive(Debug)]
enum Piece {
    Head(Range<usize>),
    Data { buffer: usize, range: Range<usize> },
}

impl Batch {
    /// Whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes to send.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds what `write` appends: reply headers and short payloads.
    pub(super) fn head(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let start = self.heads.len();
        write(&mut self.heads);
        let end = self.heads.len();
        self.bytes += end - start;
        match self.pieces.last_mut() {
            Some(Piece::Head(range)) => range.end = end,
            _ => self.pieces.push(Piece::Head(start..end)),
        }
    }

    /// Takes `buffer` along, so that [`Batch::data`] can name parts of it.
    pub(super) fn adopt(&mut self, buffer: Buffer) -> usize {
        self.buffers.push(buffer);
        self.buffers.len() - 1
    }

    /// Adds a part of an adopted buffer.
    pub(super) fn data(&mut self, buffer: usize, range: Range<usize>) {
        if !range.is_empty() {
            self.bytes += range.len();
            self.pieces.push(Piece::Data { buffer, range });
        }
    }

    /// Counts one finished reply to a request that was begun at `cost` bytes.
    pub(super) fn reply_ends(&mut self, cost: usize, large: Option<LargeUnderWay>) {
        self.answered.requests += 1;
        self.answered.bytes += cost;
        self.large.extend(large);
    }

    fn clear(&mut self) {
        self.heads.clear();
        self.pieces.clear();
        self.buffers.drain(..).for_each(Buffer::keep_warm);
        self.large.clear();
        self.bytes = 0;
        self.answered = Load::default();
    }

    /// The slices from piece `first` on, without `skip` bytes of it.
    fn slices(&self, first: usize, skip: usize) -> ([IoSlice<'_>; PIECES_MAX], usize) {
        let mut slices = [IoSlice::new(&[]); PIECES_MAX];
        let mut count = 0;
        for (slot, piece) in slices.iter_mut().zip(&self.pieces[first..]) {
            let skip = if count == 0 { skip } else { 0 };
            *slot = IoSlice::new(&self.bytes_of(piece)[skip..]);
            count += 1;
        }
        (slices, count)
    }

    fn bytes_of(&self, piece: &Piece) -> &[u8] {
        match piece {
            Piece::Head(range) => &self.heads[range.clone()],
            Piece::Data { buffer, range } => &self.buffers[*buffer][range.clone()],
        }
    }
}

/// How far a batch has been sent.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    piece: usize,
    bytes: usize,
}

/// The sending side of one connection.
#[derive(Debug)]
pub(super) struct Outbound {
    socket: Arc<Socket>,
    state: Mutex<State>,
    settled: Condvar,
    handed_over: Condvar,
    /// Nothing gets through any more.
    is_broken: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<(Batch, Progress)>,
    is_sending: bool,
    /// A part of the queue waits for the sending thread, which is the one that sends now.
    is_handed_over: bool,
    has_sender: bool,
    is_over: bool,
    /// Requests read whose reply has not left yet.
    in_flight: Load,
}

impl Outbound {
    /// The sending side of `socket`.
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self {
            socket,
            state: Mutex::default(),
            settled: Condvar::new(),
            handed_over: Condvar::new(),
            is_broken: AtomicBool::new(false),
        }
    }

    /// Counts a request that will be answered, if the bounds of one connection leave room for it.
    /// A request alone always has room.
    pub(super) fn try_begin(&self, cost: usize) -> bool {
        let mut state = self.lock();
        let has_room = state.in_flight.has_room(cost);
        if has_room {
            state.in_flight.requests += 1;
            state.in_flight.bytes += cost;
        }
        has_room
    }

    /// As [`Outbound::try_begin`], waiting for room. The caller has sent its own batch before.
    pub(super) fn begin(&self, cost: usize) {
        let state = self.lock();
        let wait = self.settled.wait_while(state, |state| !state.in_flight.has_room(cost));
        let mut state = wait.unwrap_or_else(PoisonError::into_inner);
        state.in_flight.requests += 1;
        state.in_flight.bytes += cost;
    }

    /// Requests begun whose reply has not left yet.
    pub(super) fn in_flight(&self) -> usize {
        self.lock().in_flight.requests
    }

    /// Waits until every request begun has been answered or given up.
    pub(super) fn wait_until_idle(&self) {
        let state = self.lock();
        let wait = self.settled.wait_while(state, |state| state.in_flight.requests > 0);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether nothing gets through to the client any more.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Acquire)
    }

    /// Gives up a request begun at `cost` bytes that never came whole: there is nothing to answer.
    pub(super) fn withdraw(&self, cost: usize) {
        self.settle(self.lock(), Load { requests: 1, bytes: cost });
    }

    /// Gives up a request begun at `cost` bytes: its task died. The client waits for a reply that
    /// will not come, so the connection ends.
    pub(super) fn abandon(&self, cost: usize) {
        self.socket.cut();
        self.withdraw(cost);
    }

    /// Sends `batch` and all that is queued, waiting for the client as long as the socket allows.
    /// `batch` comes back empty, its memory kept for the next.
    pub(super) fn send_waiting(&self, batch: &mut Batch) {
        if batch.is_empty() {
            return;
        }
        let mut state = self.lock();
        if self.is_broken() {
            self.settle(state, batch.answered);
            batch.clear();
            return;
        }
        if state.is_sending || !state.queue.is_empty() {
            state.queue.push_back((std::mem::take(batch), Progress::default()));
            if !state.is_sending {
                state.is_sending = true;
                self.drain(state, SendMode::Waiting);
            }
            return;
        }
        state.is_sending = true;
        drop(state);
        let outcome = self.send(batch, Progress::default(), SendMode::Waiting);
        let mut state = self.lock();
        if outcome.is_err() {
            self.is_broken.store(true, Ordering::Release);
        }
        state.in_flight.subtract(batch.answered);
        batch.clear();
        self.drain(state, SendMode::Waiting);
    }

    /// Sends `batch` as far as the client takes it at once. The rest is sent by a thread that the
    /// connection gets when it first needs it.
    pub(super) fn send_at_once(self: &Arc<Self>, batch: Batch) {
        let mut state = self.lock();
        state.queue.push_back((batch, Progress::default()));
        if state.is_sending {
            return;
        }
        state.is_sending = true;
        if self.drain(state, SendMode::AtOnce) {
            return;
        }
        // `is_sending` stays set: it passes to the thread.
        let mut state = self.lock();
        state.is_handed_over = true;
        if state.has_sender {
            drop(state);
            self.handed_over.notify_one();
            return;
        }
        state.has_sender = true;
        drop(state);
        let rest = Arc::clone(self);
        let builder = std::thread::Builder::new().name("nbd-send".to_owned());
        if builder.stack_size(256 << 10).spawn(move || rest.send_rests()).is_err() {
            // No thread to be had: wait here rather than lose the client.
            let mut state = self.lock();
            (state.has_sender, state.is_handed_over) = (false, false);
            self.drain(state, SendMode::Waiting);
        }
    }

    /// Sends what others have begun, whenever it is handed over, until the connection ends.
    fn send_rests(&self) {
        loop {
            let waiting = |state: &mut State| !state.is_handed_over && !state.is_over;
            let wait = self.handed_over.wait_while(self.lock(), waiting);
            let mut state = wait.unwrap_or_else(PoisonError::into_inner);
            if !state.is_handed_over {
                return;
            }
            state.is_handed_over = false;
            self.drain(state, SendMode::Waiting);
        }
    }

    /// Nothing will be sent any more: every request has been answered.
    pub(super) fn end(&self) {
        self.lock().is_over = true;
        self.handed_over.notify_all();
    }

    /// Sends the queue until it is empty; the caller has set `is_sending`. `false`: the socket is
    /// full, something is left and `is_sending` is still set.
    fn drain<'a>(&'a self, mut state: MutexGuard<'a, State>, mode: SendMode) -> bool {
        loop {
            let Some((batch, progress)) = state.queue.pop_front() else {
                state.is_sending = false;
                self.settle(state, Load::default());
                return true;
            };
            if self.is_broken() {
                state.in_flight.subtract(batch.answered);
                continue;
            }
            drop(state);
            match self.send(&batch, progress, mode) {
                Ok(None) => {
                    state = self.lock();
                }
                Ok(Some(progress)) => {
                    self.lock().queue.push_front((batch, progress));
                    return false;
                }
                Err(_) => {
                    state = self.lock();
                    self.is_broken.store(true, Ordering::Release);
                }
            }
            state.in_flight.subtract(batch.answered);
            self.settled.notify_all();
        }
    }

    /// Sends `batch` from `progress` on. `Some`: the socket takes no more at once.
    fn send(
        &self,
        batch: &Batch,
        mut progress: Progress,
        mode: SendMode,
    ) -> Result<Option<Progress>, Errno> {
        while progress.piece < batch.pieces.len() {
            let (slices, count) = batch.slices(progress.piece, progress.bytes);
            match self.socket.send(&slices[..count], mode) {
                Ok(sent) => progress.advance(batch, sent),
                Err(Errno::AGAIN) if mode == SendMode::AtOnce => return Ok(Some(progress)),
                // Waiting ran into the send timeout, or the client is gone: nothing gets through
                // any more, and a part of a reply must never be followed by another.
                Err(error) => {
                    self.socket.cut();
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    fn settle(&self, mut state: MutexGuard<'_, State>, answered: Load) {
        state.in_flight.subtract(answered);
        drop(state);
        self.settled.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    const fn has_room(&self, cost: usize) -> bool {
        self.requests == 0
            || (self.requests < limits::REQUESTS_IN_FLIGHT_MAX
                && self.bytes + cost <= limits::CONNECTION_BUFFER_BYTES_MAX)
    }

    const fn subtract(&mut self, answered: Self) {
        self.requests -= answered.requests;
        self.bytes -= answered.bytes;
    }
}

impl Progress {
    fn advance(&mut self, batch: &Batch, mut sent: usize) {
        while sent > 0 {
            let left = batch.bytes_of(&batch.pieces[self.piece]).len() - self.bytes;
            if sent < left {
                self.bytes += sent;
                return;
            }
            sent -= left;
            self.piece += 1;
            self.bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::buffer::BufferPool;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    fn outbound() -> (Arc<Outbound>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let socket = Arc::new(Socket::new(OwnedFd::from(ours), false));
        (Arc::new(Outbound::new(socket)), theirs)
    }

    fn batch_of(pool: &Arc<BufferPool>, fill: u8, len: usize) -> Batch {
        let mut batch = Batch::default();
        let mut buffer = pool.take(len, None).expect("room");
        buffer.fill(fill);
        batch.head(|out| out.extend_from_slice(&[fill; 16]));
        let index = batch.adopt(buffer);
        batch.data(index, 0..len);
        batch.reply_ends(len, None);
        batch
    }

    #[test]
    fn a_slow_client_holds_nobody_up_and_gets_every_byte_in_order() {
        let (outbound, mut client) = outbound();
        let pool = BufferPool::new(64 << 20);
        let len = 9 << 20;
        for fill in 1..=3 {
            outbound.begin(len);
            outbound.send_at_once(batch_of(&pool, fill, len));
        }
        assert!(outbound.lock().in_flight.requests > 0, "nobody has read yet");
        for fill in 1..=3 {
            let mut reply = vec![0; 16 + len];
            client.read_exact(&mut reply).expect("the whole reply");
            assert!(reply.iter().all(|byte| *byte == fill));
        }
        outbound.wait_until_idle();
        assert_eq!(pool.bytes_lent(), 0);
    }

    #[test]
    fn when_the_client_is_gone_every_request_is_settled_and_every_buffer_comes_back() {
        let (outbound, client) = outbound();
        let pool = BufferPool::new(64 << 20);
        drop(client);
        for fill in 1..=3 {
            assert!(outbound.try_begin(4096));
            outbound.send_at_once(batch_of(&pool, fill, 4096));
        }
        let mut batch = batch_of(&pool, 4, 4096);
        assert!(outbound.try_begin(4096));
        outbound.send_waiting(&mut batch);
        outbound.wait_until_idle();
        assert_eq!(pool.bytes_lent(), 0);
    }
}
