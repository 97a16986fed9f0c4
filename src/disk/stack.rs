//! The layers of a disk: a writable one on top, frozen ones below, swapped as a whole.
//!
//! ```text
//! position 3 = depth   top        writable; may have nothing to say about a unit
//!          2           below[0]   frozen
//!          1           below[1]   frozen, the bottom
//!          0                      zeros
//! ```
//!
//! Positions count from the bottom, so a layer that is pushed changes none. Every piece of a
//! request loads the stack while it holds the locks of its units; `exchange.rs` says what becomes
//! of those that are under way when another stack takes its place.

use std::convert::Infallible;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};

use uuid::Uuid;

use super::unit_map::UnitMap;
use super::{Disk, DiskError};
use crate::layer::{Ciphertext, Frozen, Layer, LayerError, LayerHeader, Presence};
use crate::layer::{Sealed, Shown, UnitExtent, Writable};
use crate::storage::Durability;
use crate::units::{ByteCount, DataUnit};

/// Layers in a stack, at most; more would not have a position in the map.
pub const DEPTH_MAX: usize = 250;

/// Why layers do not make a stack, or a stack cannot be changed as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StackError {
    /// The header of a layer names another parent than the layer that was brought for it.
    WrongParent {
        /// The layer.
        layer_id: Uuid,
        /// The parent it names.
        named: Option<Uuid>,
        /// What was brought.
        found: Option<Uuid>,
    },
    /// Layers with data units of different sizes.
    MixedUnits {
        /// The first that differs from the top.
        layer_id: Uuid,
    },
    /// A layer is smaller than its parent.
    Smaller {
        /// The layer.
        layer_id: Uuid,
    },
    /// More layers than [`DEPTH_MAX`].
    TooDeep {
        /// How many.
        depth: usize,
    },
    /// The disk has no such layer, or it does not lie where it must.
    NotInStack {
        /// The layer asked for.
        layer_id: Uuid,
    },
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |id: &Option<Uuid>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
        match self {
            Self::WrongParent { layer_id, named, found } => write!(
                f,
                "the layer {layer_id} stands on {}, and {} was found in its place: run \
                 `sealdisk check`",
                name(named),
                name(found)
            ),
            Self::MixedUnits { layer_id } => {
                write!(f, "the layer {layer_id} has data units of another size than the top")
            }
            Self::Smaller { layer_id } => {
                write!(f, "the layer {layer_id} is smaller than the layer it stands on")
            }
            Self::TooDeep { depth } => {
                write!(f, "{depth} layers, at most {DEPTH_MAX}: flatten the disk")
            }
            Self::NotInStack { layer_id } => {
                write!(f, "the layer {layer_id} is not where the disk would need it")
            }
        }
    }
}

impl std::error::Error for StackError {}

/// A layer below the top.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) layer: Arc<Layer<Frozen>>,
    pub(super) mark: Arc<Mark>,
}

/// What is known of a layer below the top, whatever its header says and whichever stack it is in.
#[derive(Debug, Default)]
pub(super) struct Mark {
    /// No client's request that began while it was the top is under way any more.
    pub(super) is_still: AtomicBool,
    /// What clients wrote to it while it was the top survives power loss.
    pub(super) is_settled: AtomicBool,
    /// It let go of units, and power loss may bring them back.
    pub(super) is_releasing: AtomicBool,
    /// A flush of it failed: what it should have kept may be lost.
    pub(super) is_doubtful: AtomicBool,
}

impl Member {
    /// One that nobody has written to since it was flushed.
    fn settled(layer: Arc<Layer<Frozen>>) -> Arc<Self> {
        let (is_still, is_settled) = (AtomicBool::new(true), AtomicBool::new(true));
        let mark = Mark { is_still, is_settled, ..Mark::default() };
        Arc::new(Self { layer, mark: Arc::new(mark) })
    }

    /// One that is being written to at this moment.
    pub(super) fn written(layer: Arc<Layer<Frozen>>) -> Arc<Self> {
        Arc::new(Self { layer, mark: Arc::default() })
    }

    /// The same layer with its header rewritten.
    pub(super) fn under(&self, header: LayerHeader) -> Result<Self, LayerError> {
        let layer = Arc::new(self.layer.with_header(header)?);
        Ok(Self { layer, mark: Arc::clone(&self.mark) })
    }
}

/// The layers of a disk at a moment.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) top: Layer<Writable>,
    /// Nearest first.
    pub(super) below: Vec<Arc<Member>>,
    /// Where each unit is to be looked for; only if there is a choice.
    pub(super) map: Option<Arc<UnitMap>>,
    /// Dropped with the stack, and after all else of it: so whoever exchanged it learns that
    /// nobody goes through it any more.
    pub(super) farewell: OnceLock<Sender<Infallible>>,
}

/// Any layer of a stack, to look at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    Top(&'a Layer<Writable>),
    Below(&'a Layer<Frozen>),
}

impl Stack {
    /// Of layers that fit together.
    pub(super) fn new(
        top: Layer<Writable>,
        below: Vec<Arc<Member>>,
        map: Option<Arc<UnitMap>>,
    ) -> Result<Self, StackError> {
        if below.len() >= DEPTH_MAX {
            return Err(StackError::TooDeep { depth: below.len() + 1 });
        }
        let map = map.or_else(|| (!below.is_empty()).then(|| Arc::new(UnitMap::new())));
        let stack = Self { top, below, map, farewell: OnceLock::new() };
        let unit = stack.top.unit_size();
        for position in (1..=stack.depth()).rev() {
            let header = stack.at(position).header();
            let parent = (position > 1).then(|| stack.at(position - 1).header());
            let layer_id = header.spec.layer_id;
            let found = parent.map(|parent| parent.spec.layer_id);
            if header.spec.parent != found {
                return Err(StackError::WrongParent { layer_id, named: header.spec.parent, found });
            }
            if header.spec.unit != unit {
                return Err(StackError::MixedUnits { layer_id });
            }
            if parent.is_some_and(|parent| parent.spec.size > header.spec.size) {
                return Err(StackError::Smaller { layer_id });
            }
        }
        Ok(stack)
    }

    /// A stack of a layer that stands alone.
    pub(super) fn single(top: Layer<Writable>) -> Self {
        Self { top, below: Vec::new(), map: None, farewell: OnceLock::new() }
    }

    /// The position of the top.
    pub(super) fn depth(&self) -> usize {
        self.below.len() + 1
    }

    /// The layer at a position from 1 to the depth.
    pub(super) fn at(&self, position: usize) -> Place<'_> {
        match self.depth() - position {
            0 => Place::Top(&self.top),
            down => Place::Below(&self.below[down - 1].layer),
        }
    }

    /// The position of a layer.
    pub(super) fn position(&self, layer_id: Uuid) -> Result<usize, StackError> {
        (1..=self.depth())
            .find(|position| self.at(*position).header().spec.layer_id == layer_id)
            .ok_or(StackError::NotInStack { layer_id })
    }

    /// The position of a layer that lies below `above`; zero for none.
    pub(super) fn floor(&self, floor: Option<Uuid>, above: usize) -> Result<usize, StackError> {
        let Some(layer_id) = floor else { return Ok(0) };
        let position = self.position(layer_id)?;
        if position < above { Ok(position) } else { Err(StackError::NotInStack { layer_id }) }
    }

    /// Writes to the top what was encrypted for it. The caller holds the locks of the units.
    pub(super) fn store(&self, sealed: &Ciphertext<'_>) -> Result<(), LayerError> {
        let units = sealed.units(self.top.unit_size());
        let outcome = self.top.store_units(sealed, Durability::Volatile);
        // Also after a failure: part of it may be there.
        if let Some(map) = &self.map {
            map.put(sealed.first(), units, self.depth());
        }
        outcome
    }

    /// Encrypts and writes. The caller holds the locks of the units.
    pub(super) fn write(&self, first: DataUnit, data: &mut [u8]) -> Result<(), LayerError> {
        self.store(&self.top.seal_units(first, data)?)
    }

    /// All layers above a position, from the top down.
    pub(super) fn above(&self, position: usize) -> impl Iterator<Item = Place<'_>> {
        (position + 1..=self.depth()).rev().map(|position| self.at(position))
    }

    /// The layers at `positions`, all of them below the top.
    pub(super) fn members(&self, positions: Range<usize>) -> &[Arc<Member>] {
        &self.below[self.depth() - positions.end..self.depth() - positions.start]
    }

    /// All layers below the top.
    pub(super) fn parents(&self) -> impl Iterator<Item = Place<'_>> {
        self.below.iter().map(|member| Place::Below(&member.layer))
    }
}

impl<'a> Place<'a> {
    pub(super) fn header(self) -> &'a LayerHeader {
        match self {
            Self::Top(layer) => layer.header(),
            Self::Below(layer) => layer.header(),
        }
    }

    pub(super) fn units(self) -> u64 {
        match self {
            Self::Top(layer) => layer.units(),
            Self::Below(layer) => layer.units(),
        }
    }

    pub(super) fn read(
        self,
        first: DataUnit,
        data: &mut [u8],
        present: &mut Presence,
    ) -> Result<(), LayerError> {
        match self {
            Self::Top(layer) => layer.read_units(first, data, present),
            Self::Below(layer) => layer.read_units(first, data, present),
        }
    }

    pub(super) fn read_cached(
        self,
        first: DataUnit,
        data: &mut [u8],
        present: &mut Presence,
    ) -> Result<bool, LayerError> {
        match self {
            Self::Top(layer) => layer.read_units_cached(first, data, present),
            Self::Below(layer) => layer.read_units_cached(first, data, present),
        }
    }

    /// As [`Layer::show`].
    pub(super) fn show(self, first: DataUnit, units: u64, request: ByteCount) -> Option<Shown> {
        match self {
            Self::Top(layer) => layer.show(first, units, request),
            Self::Below(layer) => layer.show(first, units, request),
        }
    }

    /// As [`Layer::sealed`].
    pub(super) fn sealed<'s>(
        self,
        shown: &'s Shown,
        first: DataUnit,
        units: usize,
    ) -> Option<Sealed<'s>> {
        match self {
            Self::Top(layer) => layer.sealed(shown, first, units),
            Self::Below(layer) => layer.sealed(shown, first, units),
        }
    }

    /// As [`Layer::decrypt_sealed`].
    pub(super) fn decrypt_sealed(self, sealed: &Sealed<'_>, data: &mut [u8]) -> bool {
        match self {
            Self::Top(layer) => layer.decrypt_sealed(sealed, data),
            Self::Below(layer) => layer.decrypt_sealed(sealed, data),
        }
    }

    pub(super) fn fill(
        self,
        first: DataUnit,
        data: &mut [u8],
        sectors: &[u8],
    ) -> Result<(), LayerError> {
        match self {
            Self::Top(layer) => layer.fill_units(first, data, sectors),
            Self::Below(layer) => layer.fill_units(first, data, sectors),
        }
    }

    pub(super) fn extents(
        self,
        first: DataUnit,
        units: u64,
        limit: usize,
    ) -> Result<Vec<UnitExtent>, LayerError> {
        match self {
            Self::Top(layer) => layer.extents(first, units, limit),
            Self::Below(layer) => layer.extents(first, units, limit),
        }
    }
}

impl Disk {
    /// A disk over its writable layer and the frozen ones that it stands on, nearest first. Those
    /// are flushed: a process that was killed may have left something in them that power loss
    /// would take back, and a hole above would show that.
    ///
    /// # Errors
    /// [`DiskError::Stack`] if they do not stand on each other as their headers say; the device's.
    pub fn over(top: Layer<Writable>, below: Vec<Arc<Layer<Frozen>>>) -> Result<Self, DiskError> {
        below.iter().try_for_each(|layer| layer.settle())?;
        let below = below.into_iter().map(Member::settled).collect();
        Ok(Self::on(Stack::new(top, below, None)?))
    }

    /// The layers from the top down.
    pub fn layers(&self) -> Vec<Uuid> {
        self.stack.load().above(0).map(|place| place.header().spec.layer_id).collect()
    }

    /// A layer below the top.
    pub(super) fn frozen_layer(&self, layer_id: Uuid) -> Option<Arc<Layer<Frozen>>> {
        let stack = self.stack.load();
        let member = stack.below.iter().find(|member| member.layer.id() == layer_id)?;
        Some(Arc::clone(&member.layer))
    }

    /// Bytes that were encrypted under the data key of each layer, from the top down.
    pub fn key_bytes(&self) -> Vec<(Uuid, ByteCount)> {
        let stack = self.stack.load();
        let places = stack.above(0);
        let count = |place: Place<'_>| match place {
            Place::Top(layer) => (layer.id(), layer.meter().encrypted()),
            Place::Below(layer) => (layer.id(), layer.meter().encrypted()),
        };
        places.map(count).collect()
    }

    /// Has the count of each layer's data key written down as it is, without what was reserved:
    /// for a disk that nobody writes to any more.
    pub(super) fn settle_meters(&self, keep: impl Fn(Uuid, ByteCount) -> bool) {
        for place in self.stack.load().above(0) {
            match place {
                Place::Top(layer) => layer.meter().settle(|count| keep(layer.id(), count)),
                Place::Below(layer) => layer.meter().settle(|count| keep(layer.id(), count)),
            }
        }
    }
}
