//! A disk that is served, and the guests who use it.
//!
//! A guest is one client connection; this file does not know of which kind. It sees to two things:
//! - *Nobody is cut off.* Closing hangs up on every guest and waits until each has finished the
//!   requests it had read.
//! - *Nobody comes late.* A client that reconnects is let in only when its old connection, whose
//!   peer is gone, has finished: no write of the old one may land after the new one is served. A
//!   peer that is gone without a sign (a cut cable) is merely silent: to move a disk to another
//!   host, detach it and attach it again, which ends every visit.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Disk, DiskError};

/// How long a new guest waits for departed ones to finish. Longer means a device that hangs; the
/// new one is refused then, for the old writes may still land.
const DEPARTURE_PATIENCE: Duration = Duration::from_secs(30);

/// How often a waiting newcomer looks whether further peers have gone, beside being woken.
const DEPARTURE_INTERVAL: Duration = Duration::from_millis(50);

/// One client, as the disk sees it.
pub trait Guest: Send + Sync {
    /// Ends the visit soon: no further request is read, those read are finished.
    fn hang_up(&self);

    /// Ends the visit now: what was read is finished, but nobody is told.
    fn cut(&self);

    /// The peer has closed its end; what it sent before may still be under way.
    fn has_departed(&self) -> bool;

    /// Its number in the order in which guests came to the door.
    fn arrival(&self) -> u64;
}

/// A disk in status `In_use`.
pub struct Attachment {
    disk: Arc<Disk>,
    disk_id: String,
    name: String,
    description: String,
    read_only: bool,
    guests: Mutex<Guests>,
    left: Condvar,
}

#[derive(Default)]
struct Guests {
    present: BTreeMap<u64, Arc<dyn Guest>>,
    next: u64,
    /// Of those let in so far.
    latest_arrival: u64,
    is_closing: bool,
}

/// The right to use an attached disk; ends when dropped.
pub struct Visit {
    attachment: Arc<Attachment>,
    number: u64,
}

/// How an attached disk is called and shown.
#[derive(Clone, Debug)]
pub struct Label {
    /// `d-…`.
    pub disk_id: String,
    /// May be empty.
    pub name: String,
    /// May be empty.
    pub description: String,
    /// Clients may only read.
    pub read_only: bool,
}

impl Attachment {
    /// Serves `disk` under `label`.
    pub fn new(disk: impl Into<Arc<Disk>>, label: Label) -> Arc<Self> {
        let Label { disk_id, name, description, read_only } = label;
        Arc::new(Self {
            disk: disk.into(),
            disk_id,
            name,
            description,
            read_only,
            guests: Mutex::default(),
            left: Condvar::new(),
        })
    }

    /// The disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// `d-…`.
    pub fn disk_id(&self) -> &str {
        &self.disk_id
    }

    /// The owner's name for it; may be empty.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the owner says of it; may be empty.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Whether clients may only read.
    pub const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Guests now.
    pub fn guest_count(&self) -> usize {
        self.lock().present.len()
    }

    /// Lets `guest` in once every departed guest has finished.
    ///
    /// # Errors
    /// [`DiskError::Closing`] if the disk is being detached, or a departed guest does not finish;
    /// [`DiskError::Fenced`] if `guest` departed and one that came later is in already, perhaps its
    /// own next connection.
    pub fn enter(self: &Arc<Self>, guest: Arc<dyn Guest>) -> Result<Visit, DiskError> {
        let mut guests = self.lock();
        let mut patience = DEPARTURE_PATIENCE;
        loop {
            if guests.is_closing {
                return Err(DiskError::Closing);
            }
            if guest.arrival() < guests.latest_arrival && guest.has_departed() {
                return Err(DiskError::Fenced);
            }
            if !guests.present.values().any(|other| other.has_departed()) {
                break;
            }
            if patience.is_zero() {
                return Err(DiskError::Closing);
            }
            patience = patience.saturating_sub(DEPARTURE_INTERVAL);
            let wait = self.left.wait_timeout(guests, DEPARTURE_INTERVAL);
            guests = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        let number = guests.next;
        guests.next += 1;
        guests.latest_arrival = guests.latest_arrival.max(guest.arrival());
        guests.present.insert(number, guest);
        drop(guests);
        Ok(Visit { attachment: Arc::clone(self), number })
    }

    /// Lets nobody in any more, hangs up on all guests and waits until they have left.
    ///
    /// Returns whether all left within `patience`.
    pub fn close(&self, patience: Duration) -> bool {
        let mut guests = self.lock();
        guests.is_closing = true;
        for guest in guests.present.values() {
            guest.hang_up();
        }
        let wait =
            self.left.wait_timeout_while(guests, patience, |guests| !guests.present.is_empty());
        !wait.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Cuts every guest off who has not left.
    pub fn cut(&self) {
        self.lock().present.values().for_each(|guest| guest.cut());
    }

    fn lock(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Attachment({}, {} guests)", self.disk_id, self.guest_count())
    }
}

impl Visit {
    /// The disk that is visited.
    pub fn disk(&self) -> &Disk {
        &self.attachment.disk
    }

    /// What is visited.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.attachment.lock().present.remove(&self.number);
        self.attachment.left.notify_all();
    }
}
