//! What all NBD connections of the daemon share, and how they end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::listener::{self, Listener};
use super::socket::{Socket, Wake};
use super::workers::Workers;
use crate::clock::Clock;
use crate::disk::Disks;
use crate::metrics;
use crate::storage::buffer::BufferPool;

/// Bounds that an operator may set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Connections at a time.
    pub connections_max: usize,
    /// Time for a whole handshake.
    pub handshake_timeout: Duration,
    /// Bytes of request data in flight on all connections together.
    pub buffer_bytes_max: usize,
    /// Threads for requests that wait for a device.
    pub worker_threads: usize,
}

/// The NBD side of the daemon.
pub struct Server {
    pub(super) disks: Arc<Disks>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) pool: Arc<BufferPool>,
    pub(super) workers: Workers,
    pub(super) settings: Settings,
    pub(super) is_stopping: AtomicBool,
    /// Cores this process may use: with more than one, large requests leave their connection's
    /// thread.
    pub(super) cores: usize,
    /// Connections that have a large request under way.
    pub(super) large_connections: AtomicUsize,
    open: Mutex<Open>,
    closed: Condvar,
    listeners: Mutex<Vec<(Arc<Wake>, JoinHandle<()>)>>,
}

#[derive(Default)]
struct Open {
    sockets: HashMap<u64, Arc<Socket>>,
    next: u64,
}

/// A connection's place among the open ones; freed when dropped.
pub(super) struct Place {
    server: Arc<Server>,
    number: u64,
}

impl Server {
    /// A server without listeners.
    ///
    /// # Errors
    /// If the operating system gives no threads.
    pub fn start(
        disks: Arc<Disks>,
        clock: Arc<dyn Clock>,
        settings: Settings,
    ) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            disks,
            clock,
            pool: BufferPool::new(settings.buffer_bytes_max),
            workers: Workers::start(settings.worker_threads)?,
            settings,
            is_stopping: AtomicBool::new(false),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            large_connections: AtomicUsize::new(0),
            open: Mutex::default(),
            closed: Condvar::new(),
            listeners: Mutex::default(),
        }))
    }

    /// Serves whoever connects to `listener`.
    ///
    /// # Errors
    /// If the operating system gives no thread or file descriptor.
    pub fn listen(self: &Arc<Self>, listener: Listener) -> std::io::Result<()> {
        listener.prepare()?;
        let wake = Arc::new(Wake::new()?);
        let (server, woken) = (Arc::clone(self), Arc::clone(&wake));
        let builder = std::thread::Builder::new().name("nbd-accept".to_owned());
        let thread = builder.spawn(move || listener::accept_all(&server, &listener, &woken))?;
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.push((wake, thread));
        Ok(())
    }

    /// Connections now.
    pub fn connection_count(&self) -> usize {
        self.lock().sockets.len()
    }

    /// Accepts nobody any more, lets every connection finish the requests it has read, and after
    /// `grace` cuts those that have not. Returns whether all finished.
    pub fn stop(&self, grace: Duration) -> bool {
        self.is_stopping.store(true, Ordering::Release);
        let listeners =
            std::mem::take(&mut *self.listeners.lock().unwrap_or_else(PoisonError::into_inner));
        for (wake, thread) in listeners {
            wake.call();
            // A panic there was reported by the panic hook.
            let _ = thread.join();
        }
        let open = self.lock();
        open.sockets.values().for_each(|socket| socket.stop_receiving());
        let in_time = self.wait_until_empty(open, grace);
        if !in_time {
            let open = self.lock();
            open.sockets.values().for_each(|socket| socket.cut());
            self.wait_until_empty(open, grace);
        }
        self.workers.stop();
        in_time
    }

    fn wait_until_empty(&self, open: MutexGuard<'_, Open>, patience: Duration) -> bool {
        let wait = self.closed.wait_timeout_while(open, patience, |open| !open.sockets.is_empty());
        !wait.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// A place for one more connection, if there is one.
    pub(super) fn admit(self: &Arc<Self>, socket: &Arc<Socket>) -> Option<Place> {
        let mut open = self.lock();
        if open.sockets.len() >= self.settings.connections_max {
            return None;
        }
        let number = open.next;
        open.next += 1;
        open.sockets.insert(number, Arc::clone(socket));
        metrics::connections().set(open.sockets.len() as f64);
        drop(open);
        Some(Place { server: Arc::clone(self), number })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Counts connections in the order in which they were accepted.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({} connections)", self.connection_count())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.server.lock();
        open.sockets.remove(&self.number);
        metrics::connections().set(open.sockets.len() as f64);
        drop(open);
        self.server.closed.notify_all();
    }
}
