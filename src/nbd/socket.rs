//! One connected stream socket, Unix or TCP. The only file of `nbd` that makes socket calls.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown};

/// Socket buffer asked for, in bytes; the kernel gives what its limits allow. Large replies then
/// leave in fewer turns between the two processes.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Pieces handed to one send call, below the kernel's 1024.
pub(super) const PIECES_MAX: usize = 256;

/// A connected socket.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
}

/// Whether a send may wait for the client to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendMode {
    Waiting,
    AtOnce,
}

impl Socket {
    /// Takes over a connected socket, sized and set for low latency.
    pub(super) fn new(fd: OwnedFd, is_tcp: bool) -> Self {
        if is_tcp {
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
            let _ = sockopt::set_socket_send_buffer_size(&fd, SOCKET_BUFFER_BYTES);
        }
        Self { fd }
    }

    /// Bounds how long one receive waits; `None`: for ever.
    pub(super) fn set_receive_timeout(&self, timeout: Option<Duration>) -> Result<(), Errno> {
        sockopt::set_socket_timeout(&self.fd, Timeout::Recv, timeout)
    }

    /// Bounds how long one send waits.
    pub(super) fn set_send_timeout(&self, timeout: Duration) -> Result<(), Errno> {
        sockopt::set_socket_timeout(&self.fd, Timeout::Send, Some(timeout))
    }

    /// Receives into `first`, then `second`; waits for at least one byte. Zero: the peer has
    /// closed.
    pub(super) fn receive(&self, first: &mut [u8], second: &mut [u8]) -> Result<usize, Errno> {
        loop {
            let mut pieces = [IoSliceMut::new(first), IoSliceMut::new(second)];
            match rustix::io::readv(&self.fd, &mut pieces) {
                Err(Errno::INTR) => {}
                outcome => return outcome,
            }
        }
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

    /// No byte will be received any more; a receive that waits comes back.
    pub(super) fn stop_receiving(&self) {
        // Not connected any more: then there is nothing to stop.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Read);
    }

    /// Neither side gets anything through any more.
    pub(super) fn cut(&self) {
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
    }

    /// Whether the peer has closed its sending side or is gone.
    pub(super) fn peer_has_closed(&self) -> bool {
        let interest = PollFlags::RDHUP;
        let mut fds = [PollFd::from_borrowed_fd(self.fd.as_fd(), interest)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        rustix::event::poll(&mut fds, Some(&at_once)).is_ok() && fds[0].revents().intersects(gone)
    }
}
