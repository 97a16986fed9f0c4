//! Which layers are open, through which disk: what decides when a job may touch a layer.
//!
//! A job fills a layer that may be frozen, and others may read that layer through disks of their
//! own, whose range locks know nothing of the job. So a job works through the one disk that has its
//! layer open, or through one of its own if nobody has; while two have it open it waits. Whoever
//! opens a disk waits for the piece of work that is under way on one of its layers. And two jobs do
//! not work through one disk at the same moment: what one takes away below, the other may have
//! looked for above.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use super::Disk;
use crate::catalog::LayerRecord;

/// The open disks of the daemon, by id of the disk, or of the job that opened one for itself.
#[derive(Debug, Default)]
pub(super) struct OpenTable {
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<String, Entry>,
    /// Layers that a job works on at this moment.
    busy: HashSet<String>,
}

#[derive(Debug)]
struct Entry {
    /// As far as is known while it is being opened.
    layers: Vec<String>,
    disk: Weak<Disk>,
    is_opening: bool,
}

impl Entry {
    fn is_dead(&self) -> bool {
        !self.is_opening && self.disk.strong_count() == 0
    }

    fn has(&self, layer_id: &str) -> bool {
        match self.disk.upgrade() {
            Some(disk) => disk.layers().iter().any(|id| id.to_string() == layer_id),
            None => self.layers.iter().any(|id| id == layer_id),
        }
    }
}

/// A place in the table for a disk that is being opened; given up when dropped.
#[derive(Debug)]
pub(super) struct Opening<'a> {
    table: &'a OpenTable,
    key: String,
}

/// Whether a job may work on a layer now.
#[derive(Debug)]
pub(super) enum Claim<'a> {
    /// Nobody else has it open.
    Free(Busy<'a>),
    /// One disk has.
    Open(Busy<'a>, Arc<Disk>),
    /// Several have, or somebody opens it, or another job works on it.
    Taken,
}

/// Keeps disks from being opened over a layer; the disk through which it is worked on, if it is not
/// the job's own, is let go of in time.
#[derive(Debug)]
pub(super) struct Busy<'a> {
    table: &'a OpenTable,
    layer_id: String,
}

impl OpenTable {
    /// Waits until no job works on a layer of `chain`, which is read anew each time, and takes a
    /// place for a disk over it.
    ///
    /// # Errors
    /// Those of `chain`.
    pub(super) fn reserve<E>(
        &self,
        key: &str,
        chain: impl Fn() -> Result<Vec<LayerRecord>, E>,
    ) -> Result<(Vec<LayerRecord>, Opening<'_>), E> {
        let mut table = self.lock();
        loop {
            let layers = chain()?;
            if layers.iter().all(|layer| !table.busy.contains(&layer.layer_id)) {
                let ids = layers.iter().map(|layer| layer.layer_id.clone()).collect();
                let entry = Entry { layers: ids, disk: Weak::new(), is_opening: true };
                table.entries.retain(|_, entry| !entry.is_dead());
                table.entries.insert(key.to_owned(), entry);
                return Ok((layers, Opening { table: self, key: key.to_owned() }));
            }
            table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Begins to work on a layer. `own` is the job, whose own disk does not count.
    pub(super) fn claim(&self, layer_id: &str, own: &str) -> Claim<'_> {
        let mut table = self.lock();
        if table.busy.contains(layer_id) {
            return Claim::Taken;
        }
        // Of its own disk, another job may fill a layer below.
        let is_busy = |entry: &Entry| table.busy.iter().any(|busy| entry.has(busy));
        if table.entries.get(own).is_some_and(is_busy) {
            return Claim::Taken;
        }
        let mut found = None;
        for (key, entry) in &table.entries {
            if key == own || entry.is_dead() || !entry.has(layer_id) {
                continue;
            }
            match (entry.disk.upgrade(), &found) {
                (Some(disk), None) if !entry.is_opening && !is_busy(entry) => found = Some(disk),
                _ => return Claim::Taken,
            }
        }
        table.busy.insert(layer_id.to_owned());
        drop(table);
        let busy = Busy { table: self, layer_id: layer_id.to_owned() };
        match found {
            None => Claim::Free(busy),
            Some(disk) => Claim::Open(busy, disk),
        }
    }

    /// Keeps jobs from a layer that is new to the catalog, until an open disk has taken it over: a
    /// job that found it open nowhere would fill it beside a disk that still writes below.
    pub(super) fn hold(&self, layer_id: &str) -> Busy<'_> {
        self.lock().busy.insert(layer_id.to_owned());
        Busy { table: self, layer_id: layer_id.to_owned() }
    }

    /// Lets go of a disk. Whoever looks for it next finds it open, or its files free.
    pub(super) fn release(&self, disk: Arc<Disk>) {
        let table = self.lock();
        drop(disk);
        drop(table);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opening<'_> {
    /// The disk is open.
    pub(super) fn filled_by(self, disk: &Arc<Disk>) {
        if let Some(entry) = self.table.lock().entries.get_mut(&self.key) {
            entry.disk = Arc::downgrade(disk);
            entry.is_opening = false;
        }
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        if table.entries.get(&self.key).is_some_and(|entry| entry.is_opening) {
            table.entries.remove(&self.key);
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.table.lock().busy.remove(&self.layer_id);
        self.table.changed.notify_all();
    }
}
