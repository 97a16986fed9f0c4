//! What orders the changes of disks and of their layers.
//!
//! From the outside in: the turn of a disk (its commands come one after another), the changes of an
//! open disk (its layers are exchanged one time after another, and each time its requests under way
//! are waited for), the structure (who refers to which layer; held while one change is decided on,
//! recorded, and taken over by an open disk), the open table. None of them is ever held by I/O. A
//! request that hangs holds up the first two, which are one disk's, and never the others.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::job_threads::Runner;
use super::open_table::OpenTable;
use super::registry::Disks;
use crate::layer::LayerRegistry;

/// What the layers of all disks have in common.
#[derive(Debug, Default)]
pub(super) struct StackControl {
    pub(super) turns: Turns,
    pub(super) open: OpenTable,
    /// Open frozen layers, each once.
    pub(super) registry: LayerRegistry,
    pub(super) runner: Runner,
    structure: Mutex<()>,
    sweeps: Mutex<()>,
    jobs: Mutex<()>,
}

impl Disks {
    /// Nobody else changes who refers to which layer.
    pub(super) fn lock_structure(&self) -> MutexGuard<'_, ()> {
        lock(&self.stack.structure)
    }

    /// Nobody else removes layers.
    pub(super) fn lock_sweeps(&self) -> MutexGuard<'_, ()> {
        lock(&self.stack.sweeps)
    }

    /// Nobody else changes records of jobs.
    pub(super) fn lock_jobs(&self) -> MutexGuard<'_, ()> {
        lock(&self.stack.jobs)
    }
}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One at a time for each name: changes of one disk wait for each other, those of two do not.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Mutex<HashSet<String>>,
    free: Condvar,
}

/// A turn; ends when dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    name: String,
}

impl Turns {
    /// Waits for the turn of `name`.
    pub(super) fn take(&self, name: &str) -> Turn<'_> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while !taken.insert(name.to_owned()) {
            taken = self.free.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { turns: self, name: name.to_owned() }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        self.turns.free.notify_all();
    }
}
