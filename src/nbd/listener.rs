//! Accepts connections and gives each a thread.
//!
//! Nothing a client does ends a listener: a failed accept (too many open files, a peer that left at
//! once) is logged and tried again.

use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::connection;
use super::server::Server;
use super::socket::{Socket, Wake, Woken};
use crate::metrics;

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket of either kind.
#[derive(Debug)]
pub enum Listener {
    /// On this host only; file permissions decide who may connect.
    Unix(UnixListener),
    /// Whoever reaches the port may connect.
    Tcp(TcpListener),
}

impl Listener {
    fn accept(&self) -> std::io::Result<(Socket, String)> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                Ok((Socket::new(OwnedFd::from(stream), false), "unix".to_owned()))
            }
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                Ok((Socket::new(OwnedFd::from(stream), true), peer.to_string()))
            }
        }
    }

    /// Has an accept come back rather than wait.
    pub(super) fn prepare(&self) -> std::io::Result<()> {
        match self {
            Self::Unix(listener) => listener.set_nonblocking(true),
            Self::Tcp(listener) => listener.set_nonblocking(true),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// Accepts until the server stops and calls `wake`. Runs on a thread of its own.
///
/// The socket itself is left as it is: it may be another's, who goes on listening after us.
pub(super) fn accept_all(server: &Arc<Server>, listener: &Listener, wake: &Wake) {
    while !server.is_stopping.load(Ordering::Acquire) {
        let accepted = match wake.wait_beside(listener.fd(), None) {
            Ok(Woken::Called) => return,
            Ok(_) => listener.accept(),
            Err(error) => Err(error.into()),
        };
        match accepted {
            Ok((socket, peer)) => admit(server, Arc::new(socket), peer),
            // The client has left again.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::warn!(%error, "accepting an NBD connection failed; trying again");
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn admit(server: &Arc<Server>, socket: Arc<Socket>, peer: String) {
    let Some(place) = server.admit(&socket) else {
        metrics::connections_refused("limit").increment(1);
        tracing::warn!(%peer, "NBD connection refused: connection limit reached");
        return;
    };
    let builder = std::thread::Builder::new().name("nbd-conn".to_owned());
    let server = Arc::clone(server);
    let spawned = builder.stack_size(512 << 10).spawn(move || {
        connection::serve(&server, &socket, (&peer, place.number()));
        drop(place);
    });
    if let Err(error) = spawned {
        metrics::connections_refused("thread").increment(1);
        tracing::warn!(%error, "NBD connection refused: no thread to be had");
    }
}
