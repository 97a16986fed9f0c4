//! Threads for requests that wait: reads from a device, flushes, zeroing.
//!
//! What can be answered from the page cache never comes here; it is done on the connection's own
//! thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

type Task = Box<dyn FnOnce() + Send>;

/// A fixed set of threads and the queue before them. The queue is bounded by the requests that
/// connections may have in flight.
pub(super) struct Workers {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    is_stopping: bool,
}

impl Workers {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// If the operating system gives no threads.
    pub(super) fn start(count: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut threads = Vec::with_capacity(count);
        for number in 0..count {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("nbd-io-{number}"));
            threads.push(builder.stack_size(256 << 10).spawn(move || shared.work())?);
        }
        Ok(Self { shared, threads: Mutex::new(threads) })
    }

    /// Has `task` run on one of the threads, in its turn.
    pub(super) fn run(&self, task: impl FnOnce() + Send + 'static) {
        self.shared.lock().tasks.push_back(Box::new(task));
        self.shared.changed.notify_one();
    }

    /// Runs what is queued, then ends the threads.
    pub(super) fn stop(&self) {
        self.shared.lock().is_stopping = true;
        self.shared.changed.notify_all();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A task that panicked was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let mut queue = self.lock();
            let task = loop {
                if let Some(task) = queue.tasks.pop_front() {
                    break task;
                }
                if queue.is_stopping {
                    return;
                }
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            };
            drop(queue);
            // One request's defect must not take a thread from all the others.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(task));
        }
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Workers({} queued)", self.shared.lock().tasks.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn every_task_runs_even_after_one_that_panics() {
        let workers = Workers::start(2).expect("threads");
        let done = Arc::new(AtomicU32::new(0));
        workers.run(|| panic!("a defect in one request"));
        for _ in 0..50 {
            let done = Arc::clone(&done);
            workers.run(move || {
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        workers.stop();
        assert_eq!(done.load(Ordering::SeqCst), 50);
    }
}
