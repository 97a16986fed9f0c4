//! The client on a real socket, Unix or TCP.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::negotiation::{self as nego, Mode, Reader};
use crate::transmission::{self, Reply, Request};

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISCONNECT: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const WRITE_ZEROES: u16 = 6;
pub(crate) const FUA: u16 = 1;

/// All that may stand in the error field of a reply.
const ERRORS: [u32; 9] = [0, 1, 5, 12, 22, 28, 75, 95, 108];

/// No wait here is for ever: whoever exceeds this has hung.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a daemon listens.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// A connected stream of either kind.
#[derive(Debug)]
pub(crate) enum Wire {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Place {
    pub(crate) fn dial(&self) -> Wire {
        let wire = match self {
            Self::Unix(path) => Wire::Unix(UnixStream::connect(path).expect("the daemon listens")),
            Self::Tcp(address) => {
                Wire::Tcp(TcpStream::connect(address).expect("the daemon listens"))
            }
        };
        wire.limit_waiting(PATIENCE);
        wire
    }
}

impl Wire {
    pub(crate) fn limit_waiting(&self, patience: Duration) {
        match self {
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(patience)).unwrap();
                stream.set_write_timeout(Some(patience)).unwrap();
            }
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(patience)).unwrap();
                stream.set_write_timeout(Some(patience)).unwrap();
            }
        }
    }

    pub(crate) fn try_clone(&self) -> Self {
        match self {
            Self::Unix(stream) => Self::Unix(stream.try_clone().unwrap()),
            Self::Tcp(stream) => Self::Tcp(stream.try_clone().unwrap()),
        }
    }

    /// Says that no more will be sent.
    pub(crate) fn finish_sending(&self) {
        match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write).unwrap(),
        }
    }

    /// As [`Wire::finish_sending`], where the other side may have closed already.
    pub(crate) fn finish_sending_if_open(&self) {
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    /// Whether the other side ends the connection, with whatever it sends before.
    pub(crate) fn ends(&mut self) -> bool {
        let mut rest = [0; 4096];
        loop {
            match self.read(&mut rest) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(into),
            Self::Tcp(stream) => stream.read(into),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(from),
            Self::Tcp(stream) => stream.write(from),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A client in the transmission phase.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) wire: Wire,
    pub(crate) size: u64,
    mode: Mode,
    next_cookie: u64,
    sent: HashMap<u64, Request>,
    partial: HashMap<u64, Vec<u8>>,
}

impl Client {
    /// Connects and chooses `export`.
    pub(crate) fn connect(place: &Place, export: &str, mode: Mode) -> Self {
        Self::negotiate(place.dial(), export, mode).expect("the server lets us in")
    }

    /// Chooses `export` on a fresh connection.
    pub(crate) fn negotiate(mut wire: Wire, export: &str, mode: Mode) -> std::io::Result<Self> {
        let mut greeting = [0; 18];
        wire.read_exact(&mut greeting)?;
        assert_eq!(greeting, nego::GREETING);
        wire.write_all(nego::FIXED)?;
        if let Some(number) = mode.option() {
            wire.write_all(&nego::option(number, &[]))?;
            assert_eq!(read_answer(&mut wire)?.kind, nego::ACK);
        }
        wire.write_all(&nego::option(nego::GO, &nego::info_data(export, &[])))?;
        let mut size = 0;
        loop {
            let answer = read_answer(&mut wire)?;
            if answer.kind == nego::ACK {
                break;
            }
            assert_eq!(answer.kind, nego::REP_INFO, "{answer:?}");
            let mut info = Reader(&answer.data);
            if info.u16() == 0 {
                size = info.u64();
            }
        }
        Ok(Self::negotiated(wire, size, mode))
    }

    /// Whether the daemon says that there is no such export.
    pub(crate) fn is_refused(place: &Place, export: &str) -> bool {
        let mut wire = place.dial();
        wire.read_exact(&mut [0; 18]).unwrap();
        wire.write_all(nego::FIXED).unwrap();
        wire.write_all(&nego::option(nego::GO, &nego::info_data(export, &[]))).unwrap();
        read_answer(&mut wire).unwrap().kind == 0x8000_0006
    }

    /// A client on a connection that has been negotiated by other means.
    pub(crate) fn negotiated(wire: Wire, size: u64, mode: Mode) -> Self {
        let (sent, partial) = (HashMap::new(), HashMap::new());
        Self { wire, size, mode, next_cookie: 1, sent, partial }
    }

    /// A request under a cookie of its own.
    pub(crate) fn request(&mut self, command: u16, flags: u16, at: u64, length: u64) -> Request {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let request = Request { flags, command, cookie, offset: at, length };
        self.sent.insert(cookie, request);
        request
    }

    /// Its bytes.
    pub(crate) fn encode(&self, request: &Request, payload: &[u8]) -> Vec<u8> {
        let mut bytes = request.encode(self.mode);
        if self.mode == Mode::Extended && request.command == WRITE {
            // PAYLOAD_LEN
            bytes[5] |= 1 << 5;
        }
        bytes.extend_from_slice(payload);
        bytes
    }

    /// Sends a request without waiting for the reply; its cookie.
    pub(crate) fn send(
        &mut self,
        (command, flags): (u16, u16),
        at: u64,
        length: u64,
        payload: &[u8],
    ) -> std::io::Result<u64> {
        let request = self.request(command, flags, at, length);
        let bytes = self.encode(&request, payload);
        self.wire.write_all(&bytes)?;
        Ok(request.cookie)
    }

    /// Waits until the first bytes of a reply are here, and leaves them where they are.
    pub(crate) fn has_reply_at_hand(&self) -> bool {
        let fd = match &self.wire {
            Wire::Unix(stream) => stream.as_fd(),
            Wire::Tcp(stream) => stream.as_fd(),
        };
        let peeked = rustix::net::recv(fd, &mut [0; 1], rustix::net::RecvFlags::PEEK);
        peeked.is_ok_and(|(_, bytes)| bytes == 1)
    }

    /// The next reply that is whole, whichever request it answers. `None`: the server has closed,
    /// between two replies.
    pub(crate) fn next_reply(&mut self) -> Option<(u64, Reply)> {
        loop {
            let mut header = vec![0; self.header_bytes()];
            match self.wire.read(&mut header[..1]) {
                Ok(0) => {
                    assert!(self.partial.is_empty(), "closed within a reply");
                    return None;
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    panic!("reset instead of closed")
                }
                outcome => assert_eq!(outcome.expect("a reply in time"), 1),
            }
            self.wire.read_exact(&mut header[1..]).expect("a whole header");
            if let Some(done) = self.finish_chunk(header) {
                return Some(done);
            }
        }
    }

    fn header_bytes(&self) -> usize {
        match self.mode {
            Mode::Simple => 16,
            Mode::Structured => 20,
            Mode::Extended => 32,
        }
    }

    fn finish_chunk(&mut self, header: Vec<u8>) -> Option<(u64, Reply)> {
        let cookie = u64::from_be_bytes(header[8..16].try_into().unwrap());
        let request = *self.sent.get(&cookie).expect("an answer to a request of ours");
        let (payload, is_done) = match self.mode {
            Mode::Simple => {
                let is_data = request.command == READ && header[4..8] == [0; 4];
                (if is_data { request.length } else { 0 }, true)
            }
            Mode::Structured => {
                let length = u32::from_be_bytes(header[16..20].try_into().unwrap());
                (length.into(), header[5] & 1 != 0)
            }
            Mode::Extended => {
                let length = u64::from_be_bytes(header[24..32].try_into().unwrap());
                (length, header[5] & 1 != 0)
            }
        };
        let bytes = self.partial.entry(cookie).or_default();
        bytes.extend_from_slice(&header);
        let start = bytes.len();
        bytes.resize(start + usize::try_from(payload).unwrap(), 0);
        self.wire.read_exact(&mut bytes[start..]).expect("a whole payload");
        if !is_done {
            return None;
        }
        let bytes = self.partial.remove(&cookie).unwrap();
        self.sent.remove(&cookie);
        let reply = transmission::replies(self.mode, &[request], &bytes).remove(&cookie).unwrap();
        assert!(ERRORS.contains(&reply.error), "error {} must not be sent", reply.error);
        Some((cookie, reply))
    }

    /// The reply to each request in flight, by cookie.
    pub(crate) fn all_replies(&mut self) -> HashMap<u64, Reply> {
        let mut replies = HashMap::new();
        while !self.sent.is_empty() {
            let (cookie, reply) = self.next_reply().expect("a reply to each request");
            replies.insert(cookie, reply);
        }
        replies
    }

    /// Sends one request and waits for its reply.
    pub(crate) fn call(&mut self, what: (u16, u16), at: u64, length: u64, payload: &[u8]) -> Reply {
        let cookie = self.send(what, at, length, payload).expect("the server reads");
        let (answered, reply) = self.next_reply().expect("a reply");
        assert_eq!(answered, cookie);
        reply
    }

    /// Reads, without an error.
    pub(crate) fn read(&mut self, at: u64, length: u64) -> Vec<u8> {
        let reply = self.call((READ, 0), at, length, &[]);
        assert_eq!(reply.error, 0, "{}", reply.text);
        reply.data
    }

    /// Writes, without an error.
    pub(crate) fn write(&mut self, at: u64, data: &[u8]) {
        let reply = self.call((WRITE, 0), at, data.len() as u64, data);
        assert_eq!(reply.error, 0, "{}", reply.text);
    }

    /// Flushes, without an error.
    pub(crate) fn flush(&mut self) {
        assert_eq!(self.call((FLUSH, 0), 0, 0, &[]).error, 0);
    }

    /// Whether the server ends the connection at a reply's end. Panics if it cuts one.
    pub(crate) fn ends(&mut self) -> bool {
        while self.next_reply().is_some() {}
        true
    }

    /// Requests sent and not answered yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.sent.len()
    }
}

fn read_answer(wire: &mut Wire) -> std::io::Result<nego::Answer> {
    let mut bytes = vec![0; 20];
    wire.read_exact(&mut bytes)?;
    let length = u32::from_be_bytes(bytes[16..20].try_into().unwrap()) as usize;
    assert!(length <= 64 << 10, "an answer of {length} bytes");
    bytes.resize(20 + length, 0);
    wire.read_exact(&mut bytes[20..])?;
    Ok(nego::take_answer(&mut Reader(&bytes)))
}
