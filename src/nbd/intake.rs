//! What a client has sent and nobody has looked at yet.
//!
//! Small requests arrive many to a receive call; large payloads go straight into the request's own
//! buffer, and the header that follows them comes along in the same call.

use rustix::io::Errno;

use super::socket::Socket;

/// Bytes received ahead. A batch of 32 writes of 4096 bytes fits.
const INTAKE_BYTES: usize = 160 << 10;

/// Payloads from this length on are received in place: copying them out of the intake costs more
/// than the extra call.
const LARGE_PAYLOAD_BYTES: usize = 32 << 10;

/// Bytes received ahead while payloads are large.
const SHORT_READ_BYTES: usize = 4 << 10;

/// The client is gone, or has been hung up on. What it had not sent whole is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// Bytes received ahead of their turn.
#[derive(Debug)]
pub(super) struct Intake {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    payloads_are_large: bool,
}

impl Intake {
    /// Starts with what came behind the handshake.
    ///
    /// # Panics
    /// If `early` is longer than the intake; the handshake reads no more than that ahead.
    pub(super) fn starting_with(early: &[u8]) -> Self {
        let mut bytes = vec![0; INTAKE_BYTES].into_boxed_slice();
        bytes[..early.len()].copy_from_slice(early);
        Self { bytes, start: 0, end: early.len(), payloads_are_large: false }
    }

    /// The next `len` bytes if they are here; they stay.
    pub(super) fn peek(&self, len: usize) -> Option<&[u8]> {
        self.bytes[self.start..self.end].get(..len)
    }

    /// Drops the next `len` bytes, which are here.
    pub(super) const fn consume(&mut self, len: usize) {
        self.start += len;
    }

    /// Whether the next `len` bytes are here.
    pub(super) const fn holds(&self, len: usize) -> bool {
        self.end - self.start >= len
    }

    /// Waits for more.
    ///
    /// # Errors
    /// [`Gone`] if nothing will come any more.
    pub(super) fn fill(&mut self, socket: &Socket) -> Result<(), Gone> {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let limit = if self.payloads_are_large { SHORT_READ_BYTES } else { INTAKE_BYTES };
        let limit = limit.max(self.end + 1).min(INTAKE_BYTES);
        loop {
            match socket.receive(&mut self.bytes[self.end..limit], &mut []) {
                Ok(0) => return Err(Gone),
                Ok(count) => {
                    self.end += count;
                    return Ok(());
                }
                // Between requests a client may be idle for ever.
                Err(Errno::AGAIN) => {}
                Err(_) => return Err(Gone),
            }
        }
    }

    /// Fills `into` with the payload that comes next, waiting for it.
    ///
    /// # Errors
    /// [`Gone`] if it does not come whole.
    pub(super) fn payload(&mut self, socket: &Socket, into: &mut [u8]) -> Result<(), Gone> {
        self.payloads_are_large = into.len() >= LARGE_PAYLOAD_BYTES;
        let here = into.len().min(self.end - self.start);
        into[..here].copy_from_slice(&self.bytes[self.start..self.start + here]);
        self.start += here;
        let mut done = here;
        while done < into.len() {
            // All that was here is used up, so the whole intake is free for what follows.
            (self.start, self.end) = (0, 0);
            let ahead = if self.payloads_are_large { SHORT_READ_BYTES } else { INTAKE_BYTES };
            let count = receive(socket, &mut into[done..], &mut self.bytes[..ahead])?;
            let taken = count.min(into.len() - done);
            done += taken;
            self.end = count - taken;
        }
        Ok(())
    }

    /// Reads `len` bytes and forgets them.
    ///
    /// # Errors
    /// [`Gone`] if they do not come.
    pub(super) fn discard(&mut self, socket: &Socket, mut len: u64) -> Result<(), Gone> {
        loop {
            let here = len.min((self.end - self.start) as u64);
            self.start += here as usize;
            len -= here;
            if len == 0 {
                return Ok(());
            }
            (self.start, self.end) = (0, 0);
            self.end = receive(socket, &mut self.bytes, &mut [])?;
        }
    }
}

fn receive(socket: &Socket, first: &mut [u8], second: &mut [u8]) -> Result<usize, Gone> {
    match socket.receive(first, second) {
        Ok(0) => Err(Gone),
        Ok(count) => Ok(count),
        // Or it stopped within a request, which holds a buffer all the while.
        Err(_) => Err(Gone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn payloads_and_headers_come_apart_wherever_the_stream_is_cut() {
        let message: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        for step in [1_000, 4_096, 33_333, 300_000] {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
            let socket = Socket::new(OwnedFd::from(ours), false);
            let sent = message.clone();
            let sender = std::thread::spawn(move || {
                for part in sent.chunks(step) {
                    theirs.write_all(part).expect("the other side reads");
                }
            });
            let mut intake = Intake::starting_with(&[]);
            let mut seen = Vec::new();
            let mut sizes = [28usize, 4096, 28, 100_000, 28, 0, 70_000, 28].iter().cycle();
            while seen.len() < message.len() {
                let left = message.len() - seen.len();
                let len = (*sizes.next().expect("a cycle")).min(left);
                if len == 28 {
                    while !intake.holds(len) {
                        intake.fill(&socket).expect("more to come");
                    }
                    seen.extend_from_slice(intake.peek(len).expect("held"));
                    intake.consume(len);
                } else {
                    let mut payload = vec![0; len];
                    intake.payload(&socket, &mut payload).expect("more to come");
                    seen.extend_from_slice(&payload);
                }
            }
            assert!(seen == message, "step {step}");
            sender.join().expect("sent");
            assert_eq!(intake.fill(&socket), Err(Gone));
        }
    }

    #[test]
    fn a_client_may_be_idle_between_requests_but_not_within_one() {
        use std::time::Duration;
        let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        let socket = Socket::new(OwnedFd::from(ours), false);
        socket.set_receive_timeout(Some(Duration::from_millis(5))).expect("a timeout");
        let mut intake = Intake::starting_with(&[]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                theirs.write_all(&[1; 28]).expect("room");
            });
            assert_eq!(intake.fill(&socket), Ok(()));
        });
        intake.consume(28);
        assert_eq!(intake.payload(&socket, &mut [0; 1]), Err(Gone));
        assert_eq!(intake.discard(&socket, 1), Err(Gone));
    }

    #[test]
    fn a_payload_that_does_not_come_whole_is_gone() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        let socket = Socket::new(OwnedFd::from(ours), false);
        theirs.write_all(&[1; 10]).expect("room");
        drop(theirs);
        let mut intake = Intake::starting_with(&[]);
        assert_eq!(intake.payload(&socket, &mut [0; 11]), Err(Gone));
    }
}
