//! One disk, and all of them.
//!
//! Above: `nbd` brings checked requests, `api` brings commands. Below: `layer` holds the bytes,
//! `kms` the keys, `catalog` the records.
//!
//! The routes of I/O, a file each: [`read`], [`write`], [`zero`] (trim and write zeroes),
//! [`status`] (what is allocated), [`flush`]. They share [`align`] (bytes to data units) and
//! [`range_lock`] (who may touch which units now). [`throttle`] says when a request may start.
//!
//! The life of a disk: [`registry`] (create, describe, delete), [`attach`] (open and close),
//! [`attachment`] (a disk that is served, and who uses it), [`performance`] (cache mode and
//! limits), [`space`] (room that is left), [`recover`] (what a crash left behind), [`break_glass`] (a data key leaves the house).
//! `permission.rs` asks whether they may.

use std::fmt;

use crate::layer::{Layer, LayerError, Writable};
use crate::storage::{Capabilities, StorageError};
use crate::units::{ByteCount, DataUnitSize};

pub mod align;
pub mod attach;
pub mod attachment;
mod audit;
pub mod break_glass;
pub mod control_error;
pub mod flush;
pub mod performance;
mod permission;
pub mod range_lock;
pub mod read;
pub mod recover;
pub mod registry;
pub mod space;
pub mod status;
pub mod throttle;
pub mod write;
pub mod zero;

pub use break_glass::ExportedKey;
pub use control_error::ControlError;
pub use performance::PerformanceChange;
pub use recover::Recovery;
pub use registry::{CreateDisk, Disks, DisksParts};

use flush::FlushState;
use range_lock::RangeLocks;
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
        }
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Layer(error) => Some(error),
            _ => None,
        }
    }
}

impl From<LayerError> for DiskError {
    fn from(error: LayerError) -> Self {
        match error {
            LayerError::Storage(StorageError::Fenced) => Self::Fenced,
            LayerError::Storage(storage) if storage.is_out_of_space() => Self::OutOfSpace,
            other => Self::Layer(other),
        }
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

/// An open disk: its writable layer and what orders the requests on it.
///
/// All calls may come from several threads at once. Each data unit is linearisable; a request over
/// several units is not atomic, as on any disk.
#[derive(Debug)]
pub struct Disk {
    top: Layer<Writable>,
    locks: RangeLocks,
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
    /// A disk over its one writable layer, without limits.
    pub fn new(top: Layer<Writable>) -> Self {
        let is_direct = top.capabilities().writes_wait;
        Self {
            pieces: if is_direct { Pieces::DIRECT } else { Pieces::CACHED },
            top,
            locks: RangeLocks::new(),
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
        self.top.size()
    }

    /// The data unit of the writable layer.
    pub fn unit(&self) -> DataUnitSize {
        self.top.header().spec.unit
    }

    /// What the storage below can do.
    pub fn capabilities(&self) -> Capabilities {
        self.top.capabilities()
    }
}
