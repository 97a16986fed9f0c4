//! One disk, and all of them.
//!
//! Above: `nbd` brings checked requests, `api` brings commands. Below: `layer` holds the bytes,
//! `kms` the keys, `catalog` the records.
//!
//! The routes of I/O, a file each: [`read`], [`write`], [`zero`] (trim and write zeroes),
//! [`status`] (what is allocated, what has changed), [`flush`]. They share [`align`] (bytes to data
//! units) and [`range_lock`] (who may touch which units now). [`throttle`] says when a request may
//! start.
//!
//! Below them: [`stack`] (the layers of the disk), `exchange.rs` (how they are exchanged while it
//! is in use), `unit_map.rs` (which of them a unit is in), `union.rs` (what several hold together),
//! [`pull`] (bring up what lies below, in the background).
//!
//! The life of a disk: [`registry`] (create, describe, delete), [`attach`] (open and close),
//! [`attachment`] (a disk that is served, and who uses it), [`performance`] (cache mode and
//! limits), [`space`] (room that is left), [`recover`] (what a crash left behind), [`break_glass`]
//! (a data key leaves the house), `headers.rs` (headers changed in place), [`rewrap`] (data keys
//! under the newest version of their KMS key), [`key_scope`] (how much a data key has encrypted),
//! [`check`] (the catalog against the layers), [`rebuild`] (the catalog from the layers).
//! `permission.rs` asks whether they may.
//!
//! The life of its layers: [`snapshot`], [`image`], [`create`] (over them), [`copy`], [`renew`] (a
//! fresh key, another key, none below), [`resize`], [`reset`], `layers.rs` (files come and go),
//! `opening.rs`, [`difference`]. What takes long is a [`job`]: `job_run.rs` works on it,
//! `job_finish.rs` ends it, [`job_threads`] and `upkeep.rs` see to it that somebody does.
//! `order.rs` and `open_table.rs` say who may at what time.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use crate::layer::{Layer, LayerError, Writable};
use crate::storage::{Capabilities, StorageError};
use crate::units::{ByteCount, DataUnitSize};

pub mod align;
pub mod attach;
pub mod attachment;
mod audit;
pub mod backup;
pub mod below;
pub mod break_glass;
pub mod check;
pub mod control_error;
pub mod copy;
pub mod create;
pub mod difference;
mod exchange;
pub mod flush;
mod headers;
pub mod image;
pub mod job;
mod job_finish;
mod job_run;
pub mod job_threads;
pub mod key_scope;
mod layers;
pub mod lent;
pub mod modify;
mod open_table;
mod opening;
mod order;
pub mod performance;
mod permission;
pub mod pull;
pub mod range_lock;
pub mod read;
pub mod rebuild;
mod rebuild_plan;
pub mod recover;
pub mod registry;
pub mod renew;
pub mod reset;
pub mod resize;
pub mod rewrap;
pub mod shown;
pub mod snapshot;
pub mod space;
pub mod stack;
pub mod status;
pub mod tags;
pub mod throttle;
mod tiles;
mod union;
mod unit_map;
mod upkeep;
mod words;
pub mod write;
pub mod zero;

pub use break_glass::ExportedKey;
pub use control_error::ControlError;
pub use copy::CopyRequest;
pub use create::{CreateDisk, Source};
pub use difference::Difference;
pub use image::{CreateImage, ImageChange};
pub use job::JobCommand;
pub use job_threads::StackSettings;
pub use modify::DiskChange;
pub use performance::PerformanceChange;
pub use recover::Recovery;
pub use registry::{Disks, DisksParts};
pub use renew::Renewal;
pub use snapshot::{CreateSnapshot, Deletion, SnapshotChange};
pub use stack::StackError;

use flush::FlushState;
use range_lock::RangeLocks;
use stack::Stack;
use throttle::Throttle;

/// Why a disk could not do what a client asked. Ranges, flags and sizes are checked before.
#[derive(Debug)]
pub enum DiskError {
    /// The storage below is full; nothing else is wrong.
    OutOfSpace,
    /// The device failed, or the layer is damaged.
    Layer(LayerError),
    /// An earlier flush failed: what it should have kept may be lost. Every later flush fails until
    /// the disk is detached and attached again.
    FlushLost,
    /// Another host or a newer attach owns the disk now.
    Fenced,
    /// Zeroing would not be faster than writing, and the client asked to be told.
    NotFaster,
    /// The disk is being detached or the daemon stops.
    Closing,
    /// The data key of the top layer has encrypted as much as one key may: no more writes.
    KeyExhausted,
    /// The layers cannot be changed as asked.
    Stack(StackError),
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfSpace => f.write_str("no space left under the data directory"),
            Self::Layer(error) => write!(f, "{error}"),
            Self::FlushLost => f.write_str(
                "an earlier flush failed: detach the disk, check the device, attach it again",
            ),
            Self::Fenced => f.write_str("the disk was taken over by a newer attach"),
            Self::NotFaster => f.write_str("zeroing here is no faster than writing"),
            Self::Closing => f.write_str("the disk is being detached"),
            Self::KeyExhausted => write!(f, "{}", LayerError::KeyExhausted),
            Self::Stack(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Layer(error) => Some(error),
            Self::Stack(error) => Some(error),
            _ => None,
        }
    }
}

impl From<LayerError> for DiskError {
    fn from(error: LayerError) -> Self {
        match error {
            LayerError::Storage(StorageError::Fenced) => Self::Fenced,
            LayerError::KeyExhausted => Self::KeyExhausted,
            LayerError::Storage(storage) if storage.is_out_of_space() => Self::OutOfSpace,
            other => Self::Layer(other),
        }
    }
}

impl From<StackError> for DiskError {
    fn from(error: StackError) -> Self {
        Self::Stack(error)
    }
}

/// Whether a call may wait for a device or another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It may.
    Allowed,
    /// It must come back at once, done or not.
    Forbidden,
}

/// An open disk: its layers and what orders the requests on it.
///
/// All calls may come from several threads at once. Each data unit is linearisable; a request over
/// several units is not atomic, as on any disk.
#[derive(Debug)]
pub struct Disk {
    stack: ArcSwap<Stack>,
    unit: DataUnitSize,
    locks: RangeLocks,
    /// Held by whoever exchanges the stack.
    changes: Mutex<()>,
    /// Held by whoever gives space of lower layers back.
    releases: Mutex<()>,
    flush_state: FlushState,
    throttle: Throttle,
    pieces: Pieces,
}

/// How many bytes a request moves between cipher and storage at a time, under one hold of locks.
#[derive(Clone, Copy, Debug)]
struct Pieces {
    read: usize,
    write: usize,
}

impl Pieces {
    /// Through a page cache: small enough to be still in the core's own cache at the second touch.
    const CACHED: Self = Self { read: 128 << 10, write: 64 << 10 };
    /// To a device: large enough to keep it busy.
    const DIRECT: Self = Self { read: 1 << 20, write: 1 << 20 };
}

impl Disk {
    /// A disk over one writable layer that stands alone, without limits. [`Disk::over`] is for
    /// those that have a parent.
    pub fn new(top: Layer<Writable>) -> Self {
        debug_assert!(top.header().spec.parent.is_none(), "its absent units are below");
        Self::on(Stack::single(top))
    }

    fn on(stack: Stack) -> Self {
        let is_direct = stack.top.capabilities().writes_wait;
        Self {
            pieces: if is_direct { Pieces::DIRECT } else { Pieces::CACHED },
            unit: stack.top.unit_size(),
            stack: ArcSwap::from_pointee(stack),
            locks: RangeLocks::new(),
            changes: Mutex::new(()),
            releases: Mutex::new(()),
            flush_state: FlushState::default(),
            throttle: Throttle::default(),
        }
    }

    /// The limits of the disk. Whoever takes a request in asks there when it may start.
    pub const fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    /// Advertised size.
    pub fn size(&self) -> ByteCount {
        self.stack.load().top.size()
    }

    /// The data unit of all layers.
    pub const fn unit(&self) -> DataUnitSize {
        self.unit
    }

    /// What the storage below can do.
    pub fn capabilities(&self) -> Capabilities {
        self.stack.load().top.capabilities()
    }

    /// About how many pieces of clients' requests have touched the disk. It only grows; work in
    /// the background looks whether it does.
    pub fn requests_seen(&self) -> u64 {
        self.locks.seen()
    }

    fn lock_changes(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
