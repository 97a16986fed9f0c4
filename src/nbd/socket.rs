//! One connected stream socket, Unix or TCP. The only file of `nbd` that makes socket calls.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

/// Socket buffer asked for, in bytes; the kernel gives what its limits allow. Large replies then
/// leave in fewer turns between the two processes.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Pieces handed to one send call, below the kernel's 1024.
pub(super) const PIECES_MAX: usize = 256;

/// A connected socket.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    /// Ends a receive that waits, on TCP. Shutting the receiving side down would do so too, but
    /// then the kernel answers whatever the client still sends with a reset, which takes the
    /// replies on their way with it.
    wake: Option<Wake>,
    /// Nanoseconds a receive waits at most; 0: for ever.
    patience: AtomicU64,
}

/// What makes a waiting thread look up, for good.
#[derive(Debug)]
pub(super) struct Wake(OwnedFd);

/// Whether a send may wait for the client to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendMode {
    Waiting,
    AtOnce,
}

impl Socket {
    /// Takes over a connected socket, sized and set for low latency.
    pub(super) fn new(fd: OwnedFd, is_tcp: bool) -> Self {
        let mut wake = None;
        if is_tcp {
            // Short of descriptors: then `stop_receiving` is less gentle.
            wake = Wake::new().ok();
            // Failing to tune is no reason to refuse a client.
            let _ = sockopt::set_tcp_nodelay(&fd, true);
            let _ = sockopt::set_socket_keepalive(&fd, true);
            let _ = sockopt::set_tcp_keepidle(&fd, Duration::from_secs(60));
            let _ = sockopt::set_tcp_keepintvl(&fd, Duration::from_secs(10));
            let _ = sockopt::set_tcp_keepcnt(&fd, 6);
        } else {
            // TCP tunes its own buffers; a fixed size would switch that off.
            if sockopt::set_socket_recv_buffer_size_force(&fd, SOCKET_BUFFER_BYTES).is_err() {
                let _ = sockopt::set_socket_recv_buffer_size(&fd, SOCKET_BUFFER_BYTES);
            }
            if sockopt::set_socket_send_buffer_size_force(&fd, SOCKET_BUFFER_BYTES).is_err() {
                let _ = sockopt::set_socket_send_buffer_size(&fd, SOCKET_BUFFER_BYTES);
            }
        }
        Self { fd, wake, patience: AtomicU64::new(0) }
    }

    /// Bounds how long one receive waits; `None`: for ever.
    pub(super) fn set_receive_timeout(&self, timeout: Option<Duration>) -> Result<(), Errno> {
        let nanos = timeout.map_or(0, |timeout| timeout.as_nanos().max(1) as u64);
        self.patience.store(nanos, Ordering::Relaxed);
        match self.wake {
            Some(_) => Ok(()),
            None => sockopt::set_socket_timeout(&self.fd, Timeout::Recv, timeout),
        }
    }

    /// Bounds how long one send waits.
    pub(super) fn set_send_timeout(&self, timeout: Duration) -> Result<(), Errno> {
        sockopt::set_socket_timeout(&self.fd, Timeout::Send, Some(timeout))
    }

    /// Receives into `first`, then `second`; waits for at least one byte. Zero: the peer has
    /// closed, or [`Socket::stop_receiving`] was called. `AGAIN`: nothing came in time.
    pub(super) fn receive(&self, first: &mut [u8], second: &mut [u8]) -> Result<usize, Errno> {
        loop {
            let mut pieces = [IoSliceMut::new(first), IoSliceMut::new(second)];
            let outcome = match self.wake {
                Some(_) => self.receive_at_once(&mut pieces),
                None => rustix::io::readv(&self.fd, &mut pieces),
            };
            match (outcome, &self.wake) {
                (Err(Errno::INTR), _) => {}
                (Err(Errno::AGAIN), Some(wake)) => {
                    let patience = match self.patience.load(Ordering::Relaxed) {
                        0 => None,
                        nanos => Some(Duration::from_nanos(nanos)),
                    };
                    match wake.wait_beside(self.fd.as_fd(), patience)? {
                        Woken::Ready => {}
                        Woken::Called => return Ok(0),
                        Woken::TooLate => return Err(Errno::AGAIN),
                    }
                }
                (outcome, _) => return outcome,
            }
        }
    }

    /// Receives what comes within `patience`, whether [`Socket::stop_receiving`] was called or not.
    pub(super) fn receive_last(
        &self,
        bytes: &mut [u8],
        patience: Duration,
    ) -> Result<usize, Errno> {
        let mut fds = [PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timespec(patience))) {
            Ok(0) => Err(Errno::AGAIN),
            Ok(_) | Err(Errno::INTR) => self.receive_at_once(&mut [IoSliceMut::new(bytes)]),
            Err(error) => Err(error),
        }
    }

    fn receive_at_once(&self, pieces: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
        let mut ancillary = RecvAncillaryBuffer::default();
        let received = rustix::net::recvmsg(&self.fd, pieces, &mut ancillary, RecvFlags::DONTWAIT)?;
        Ok(received.bytes)
    }

    /// Sends the start of `pieces`; how many bytes left. Never raises SIGPIPE.
    pub(super) fn send(&self, pieces: &[IoSlice<'_>], mode: SendMode) -> Result<usize, Errno> {
        let flags = match mode {
            SendMode::Waiting => SendFlags::NOSIGNAL,
            SendMode::AtOnce => SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        };
        loop {
            let mut ancillary = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(&self.fd, pieces, &mut ancillary, flags) {
                Err(Errno::INTR) => {}
                outcome => return outcome,
            }
        }
    }

    /// A receive that waits comes back; what has come may still be received.
    pub(super) fn stop_receiving(&self) {
        match &self.wake {
            Some(wake) => wake.call(),
            // Not connected any more: then there is nothing to stop.
            None => drop(rustix::net::shutdown(&self.fd, Shutdown::Read)),
        }
    }

    /// Nothing more will be sent: the client sees the end behind what was.
    pub(super) fn finish_sending(&self) {
        // Not connected any more: then nobody is to be told.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Write);
    }

    /// Neither side gets anything through any more.
    pub(super) fn cut(&self) {
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
    }

    /// Whether the peer has closed its sending side or is gone.
    pub(super) fn peer_has_closed(&self) -> bool {
        self.is_now(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
    }

    /// Whether a receive would come back at once.
    pub(super) fn has_arrivals(&self) -> bool {
        self.is_now(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
    }

    fn is_now(&self, states: PollFlags) -> bool {
        // The kernel tells of HUP and ERR whether asked or not.
        let mut fds = [PollFd::from_borrowed_fd(self.fd.as_fd(), states)];
        let at_once = timespec(Duration::ZERO);
        rustix::event::poll(&mut fds, Some(&at_once)).is_ok() && fds[0].revents().intersects(states)
    }
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    Ready,
    Called,
    TooLate,
}

impl Wake {
    /// One that nobody has called.
    ///
    /// # Errors
    /// If there are no more file descriptors.
    pub(super) fn new() -> Result<Self, Errno> {
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Self)
    }

    /// Ends every wait beside it, those to come too.
    pub(super) fn call(&self) {
        // Called so often that the counter is full: called all the same.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Waits until `fd` has something to receive or accept.
    pub(super) fn wait_beside(
        &self,
        fd: BorrowedFd<'_>,
        patience: Option<Duration>,
    ) -> Result<Woken, Errno> {
        let mut fds = [
            PollFd::from_borrowed_fd(fd, PollFlags::IN),
            PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN),
        ];
        let patience = patience.map(timespec);
        match rustix::event::poll(&mut fds, patience.as_ref()) {
            Ok(0) => Ok(Woken::TooLate),
            Ok(_) if !fds[1].revents().is_empty() => Ok(Woken::Called),
            Ok(_) | Err(Errno::INTR) => Ok(Woken::Ready),
            Err(error) => Err(error),
        }
    }
}

/// As the kernel takes it; far longer than any wait here if it does not fit.
fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}
