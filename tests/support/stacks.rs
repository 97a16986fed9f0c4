//! Disks of several layers over storage that loses power, beside a plain model of what they hold.
//!
//! The scene stands in for the catalog: it knows which layers make the disk, and writes the
//! headers' parents as whoever rewrites them does.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sealdisk::clock::{SeededEntropy, Timestamp};
use sealdisk::crypto::xts::Cipher;
use sealdisk::disk::zero::Zeroing;
use sealdisk::disk::{Disk, DiskError, Waiting};
use sealdisk::layer::{
    self, DATA_OFFSET, Envelope, Frozen, Layer, LayerHeader, LayerSpec, Presence, State, Writable,
};
use sealdisk::secret::Secret;
use sealdisk::storage::faulty::FaultyStorage;
use sealdisk::storage::memory::MemoryStorage;
use sealdisk::storage::{Capabilities, Durability, Extent, Storage, StorageError};
use sealdisk::units::{ByteCount, ByteOffset, DataUnit, DataUnitSize};
use uuid::Uuid;

pub const SECTOR: usize = 512;

/// Power that goes off at a chosen call to any storage.
#[derive(Debug, Default)]
pub struct Power {
    calls: AtomicU64,
    /// The call at which it goes off; zero: never.
    off_at: AtomicU64,
}

impl Power {
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Off at the `call`-th call from here on.
    pub fn off_at(&self, call: u64) {
        self.calls.store(0, Ordering::SeqCst);
        self.off_at.store(call, Ordering::SeqCst);
    }

    fn draw(&self) -> Result<(), StorageError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        match self.off_at.load(Ordering::SeqCst) {
            1.. if call >= self.off_at.load(Ordering::SeqCst) => {
                Err(StorageError::Io(std::io::Error::from_raw_os_error(libc::EIO)))
            }
            _ => Ok(()),
        }
    }
}

/// A storage that needs power.
#[derive(Debug)]
struct Powered {
    inner: Arc<FaultyStorage>,
    power: Arc<Power>,
}

impl Storage for Powered {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn len(&self) -> Result<ByteCount, StorageError> {
        self.inner.len()
    }

    fn read_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), StorageError> {
        self.power.draw()?;
        self.inner.read_at(at, into)
    }

    fn read_cached_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<bool, StorageError> {
        self.inner.read_cached_at(at, into)
    }

    /// The last write before the darkness may take effect in part, as all that are not flushed.
    fn write_at(
        &self,
        at: ByteOffset,
        from: &[u8],
        durability: Durability,
    ) -> Result<(), StorageError> {
        let drawn = self.power.draw();
        let written = self.inner.write_at(at, from, durability);
        drawn.and(written)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.power.draw()?;
        self.inner.flush()
    }

    fn punch(&self, range: Range<ByteOffset>) -> Result<(), StorageError> {
        let drawn = self.power.draw();
        let punched = self.inner.punch(range);
        drawn.and(punched)
    }

    fn extents(&self, range: Range<ByteOffset>, limit: usize) -> Result<Vec<Extent>, StorageError> {
        self.power.draw()?;
        self.inner.extents(range, limit)
    }

    fn set_len(&self, len: ByteCount) -> Result<(), StorageError> {
        self.power.draw()?;
        self.inner.set_len(len)
    }
}

/// One layer, as the scene's catalog has it.
pub struct Slot {
    pub id: u128,
    size: u64,
    storage: Arc<FaultyStorage>,
    /// What the disk held when this layer was frozen, if that is to be kept.
    pub snapshot: Option<Vec<u8>>,
}

/// A disk of several layers and its model.
pub struct Scene {
    /// The bottom first.
    pub slots: Vec<Slot>,
    pub disk: Disk,
    pub power: Arc<Power>,
    pub model: Model,
    unit: DataUnitSize,
    made: u128,
}

fn key_of(id: u128) -> Secret {
    Secret::random(64, &SeededEntropy::new(id as u64))
}

/// The bytes of an empty layer.
pub fn formatted(id: u128, parent: Option<u128>, size: u64, unit: DataUnitSize) -> Vec<u8> {
    let storage = MemoryStorage::default();
    let envelope = Envelope {
        key_id: "0b9c4c3e-0000-4000-8000-000000000001".to_owned(),
        key_version: "7a1d4c3e-0000-4000-8000-000000000002".to_owned(),
        wrapped: vec![1; 120],
    };
    let spec = LayerSpec {
        layer_id: Uuid::from_u128(id),
        disk_id: "d-modelmodelmodelmodel".to_owned(),
        parent: parent.map(Uuid::from_u128),
        size: ByteCount::new(size),
        unit,
        cipher: Cipher::Aes256XtsPlain64,
        created: Timestamp::from_unix_millis(1_767_582_245_000),
    };
    let key = key_of(id);
    layer::format(&storage, &spec, Some((&envelope, &key)), &SeededEntropy::new(1))
        .expect("a new layer");
    storage.contents()
}

/// Opens a layer; `size` and `parent` are those of its rewritten header.
pub fn open<S: State>(
    storage: Arc<dyn Storage>,
    id: u128,
    parent: Option<u128>,
    size: u64,
) -> Layer<S> {
    let header = rewritten(&*storage, parent, size);
    Layer::open(storage, header, Some(key_of(id))).expect("a layer")
}

fn rewritten(storage: &dyn Storage, parent: Option<u128>, size: u64) -> LayerHeader {
    let mut header = layer::read_header(storage).expect("a header");
    header.spec.parent = parent.map(Uuid::from_u128);
    header.spec.size = ByteCount::new(size);
    header
}

impl Slot {
    fn new(id: u128, parent: Option<u128>, size: u64, unit: DataUnitSize) -> Self {
        let storage = Arc::new(FaultyStorage::holding(formatted(id, parent, size, unit)));
        Self { id, size, storage, snapshot: None }
    }

    fn open<S: State>(&self, parent: Option<u128>, power: &Arc<Power>) -> Layer<S> {
        let (inner, power) = (Arc::clone(&self.storage), Arc::clone(power));
        let header = rewritten(&*inner, parent, self.size);
        let storage = Arc::new(Powered { inner, power });
        Layer::open(storage, header, Some(key_of(self.id))).expect("a layer")
    }

    /// All that is on storage.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.storage.len().expect("a length").as_usize()];
        self.storage.read_at(ByteOffset::ZERO, &mut bytes).expect("a read");
        bytes
    }

    /// Makes sectors of a unit as if power loss had kept them from storage.
    pub fn tear(&self, unit: u64, sectors: Range<u64>) {
        let start = DATA_OFFSET.get() + unit * 4096 + sectors.start * SECTOR as u64;
        let zeros = vec![0; (sectors.end - sectors.start) as usize * SECTOR];
        let at = ByteOffset::new(start);
        self.storage.write_at(at, &zeros, Durability::Volatile).expect("a write");
    }
}

impl Scene {
    pub fn new(size: u64, unit: DataUnitSize) -> Self {
        let slots = vec![Slot::new(1, None, size, unit)];
        let power = Arc::default();
        let disk = assemble(&slots, &power);
        Self { slots, disk, power, model: Model::new(size as usize), unit, made: 1 }
    }

    pub fn size(&self) -> u64 {
        self.slots.last().expect("a top").size
    }

    pub fn units(&self) -> u64 {
        self.size().div_ceil(self.unit.bytes())
    }

    /// The name of the layer at `index`, the bottom first.
    pub fn id(&self, index: usize) -> Uuid {
        Uuid::from_u128(self.slots[index].id)
    }

    fn parent_of(&self, index: usize) -> Option<u128> {
        index.checked_sub(1).map(|below| self.slots[below].id)
    }

    /// Pushes a layer. The old top is flushed, and if `keep`, what it holds is to stay.
    pub fn push(&mut self, keep: bool) -> Result<(), DiskError> {
        self.made += 1;
        let (parent, size) = (self.slots.last().map(|top| top.id), self.size());
        let slot = Slot::new(self.made, parent, size, self.unit);
        let top = slot.open(parent, &self.power);
        // The catalog knows the new top before a write can reach it.
        self.slots.push(slot);
        let frozen = self.disk.push(top)?.id();
        self.disk.flush_layer(frozen)?;
        self.model.flushed();
        if keep {
            let index = self.slots.len() - 2;
            self.slots[index].snapshot = Some(self.model.now.clone());
        }
        Ok(())
    }

    /// The layer with the most below it that it could take in: its index, and that of the floor,
    /// if any. Kept snapshots stay.
    pub fn pullable(&self, choice: usize) -> Option<(usize, Option<usize>)> {
        let target = 1 + choice % self.slots.len().max(2).saturating_sub(1);
        let is_free = |index: &usize| self.slots[*index].snapshot.is_none();
        let free = (0..target).rev().take_while(is_free).count();
        if target >= self.slots.len() || free == 0 {
            return None;
        }
        let lowest = target - free.min(1 + choice / 7);
        Some((target, lowest.checked_sub(1)))
    }

    pub fn pull(
        &self,
        (target, floor): (usize, Option<usize>),
        first: u64,
        units: u64,
    ) -> Result<u64, DiskError> {
        let floor = floor.map(|index| self.id(index));
        let pulled = self.disk.pull_units(self.id(target), floor, DataUnit::new(first), units)?;
        Ok(pulled.next.get())
    }

    pub fn punch_below(
        &self,
        (target, floor): (usize, Option<usize>),
        first: u64,
        units: u64,
    ) -> Result<(), DiskError> {
        let floor = floor.map(|index| self.id(index));
        self.disk.punch_below(self.id(target), floor, DataUnit::new(first), units)
    }

    /// Pulls what is left, flushes, and leaves the layers between out.
    pub fn finish(&mut self, (target, floor): (usize, Option<usize>)) -> Result<(), DiskError> {
        let units = self.slots[target].size.div_ceil(self.unit.bytes());
        let mut next = 0;
        while next < units {
            next = self.pull((target, floor), next, units)?;
        }
        self.disk.flush_layer(self.id(target))?;
        let parent = floor.map(|index| self.slots[index].id);
        let slot = &self.slots[target];
        let header = rewritten(&*slot.storage, parent, slot.size);
        // The catalog and the header know before the memory does.
        self.slots.drain(floor.map_or(0, |floor| floor + 1)..target);
        self.disk.switch(header)?;
        Ok(())
    }

    pub fn grow(&mut self, bytes: u64) -> Result<(), DiskError> {
        let index = self.slots.len() - 1;
        let parent = self.parent_of(index);
        let top = &mut self.slots[index];
        top.size += bytes;
        let need = DATA_OFFSET.get() + top.size.div_ceil(self.unit.bytes()) * self.unit.bytes();
        top.storage.set_len(ByteCount::new(need)).expect("a longer file");
        top.storage.flush().expect("a flush");
        let header = rewritten(&*top.storage, parent, top.size);
        self.disk.resize(header)?;
        self.model.grow(self.size() as usize);
        Ok(())
    }

    /// Power goes off and comes back: what is on storage is what may be there.
    pub fn crash(&mut self, seed: u64) -> Result<(), String> {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let entropy = SeededEntropy::new(seed ^ index as u64);
            let mut image = slot.storage.crash(&entropy);
            let need = DATA_OFFSET.get() + slot.size.div_ceil(4096) * 4096;
            // The length of a file is flushed before its header tells of it.
            image.resize(image.len().max(need as usize), 0);
            slot.storage = Arc::new(FaultyStorage::holding(image));
        }
        self.reopen();
        self.adopt()
    }

    /// Takes over what the disk holds, if it is what it may hold.
    pub fn adopt(&mut self) -> Result<(), String> {
        let found = self.read(0, self.size() as usize);
        self.model.survived(&found)?;
        self.check_snapshots()
    }

    pub fn reopen(&mut self) {
        self.power = Arc::default();
        self.disk = assemble(&self.slots, &self.power);
    }

    /// What each kept snapshot holds, read through a disk of its own.
    pub fn check_snapshots(&self) -> Result<(), String> {
        for index in 0..self.slots.len() {
            let Some(expected) = &self.slots[index].snapshot else { continue };
            let size = self.slots[index].size;
            let slot = Slot::new(u128::MAX, Some(self.slots[index].id), size, self.unit);
            let top = slot.open(Some(self.slots[index].id), &self.power);
            let below = frozen(&self.slots[..=index], &self.power);
            let disk = Disk::over(top, below).expect("a clone of the snapshot");
            if read(&disk, 0, size as usize) != *expected {
                return Err(format!("snapshot {} changed", self.slots[index].id));
            }
        }
        Ok(())
    }

    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        read(&self.disk, at, len)
    }

    pub fn write(&mut self, at: u64, bytes: &[u8], fua: bool) -> Result<(), DiskError> {
        self.model.may_put(at as usize, bytes);
        write(&self.disk, at, bytes, durability(fua))?;
        self.model.put(at as usize, bytes);
        if fua {
            self.model.flushed();
        }
        Ok(())
    }

    pub fn zero(&mut self, at: u64, len: u64, keep: bool, fua: bool) -> Result<(), DiskError> {
        let zeros = vec![0; len as usize];
        self.model.may_put(at as usize, &zeros);
        let how =
            Zeroing { keep_allocated: keep, only_if_fast: false, durability: durability(fua) };
        self.disk.write_zeroes(ByteOffset::new(at), ByteCount::new(len), how)?;
        self.model.put(at as usize, &zeros);
        if fua {
            self.model.flushed();
        }
        Ok(())
    }

    /// Each whole unit is as it was afterwards, or zeros.
    pub fn trim(&mut self, at: u64, len: u64) -> Result<(), DiskError> {
        let unit = self.unit.bytes();
        let whole = at.div_ceil(unit) * unit..(at + len) / unit * unit;
        for start in whole.clone().step_by(unit as usize) {
            self.model.may_put(start as usize, &vec![0; unit as usize]);
        }
        let (start, count) = (ByteOffset::new(at), ByteCount::new(len));
        self.disk.trim(start, count, Durability::Volatile)?;
        for start in whole.step_by(unit as usize) {
            let found = try_read(&self.disk, start, unit as usize)?;
            if found.iter().all(|byte| *byte == 0) {
                self.model.put(start as usize, &found);
            }
        }
        Ok(())
    }

    pub fn flush(&mut self) -> Result<(), DiskError> {
        self.disk.flush()?;
        self.model.flushed();
        Ok(())
    }
}

fn frozen(slots: &[Slot], power: &Arc<Power>) -> Vec<Arc<Layer<Frozen>>> {
    let parent = |index: usize| index.checked_sub(1).map(|below: usize| slots[below].id);
    (0..slots.len()).rev().map(|at| Arc::new(slots[at].open(parent(at), power))).collect()
}

fn assemble(slots: &[Slot], power: &Arc<Power>) -> Disk {
    let (top, below) = slots.split_last().expect("a top");
    let top: Layer<Writable> = top.open(below.last().map(|slot| slot.id), power);
    Disk::over(top, frozen(below, power)).expect("a disk")
}

pub fn read(disk: &Disk, at: u64, len: usize) -> Vec<u8> {
    try_read(disk, at, len).expect("a read")
}

fn try_read(disk: &Disk, at: u64, len: usize) -> Result<Vec<u8>, DiskError> {
    let span = disk.span(ByteOffset::new(at), len);
    // What was in a buffer before must never show.
    let mut data = vec![0xee; span.covered_bytes()];
    let mut present = Presence::new();
    assert!(disk.read(&span, &mut data, &mut present, Waiting::Allowed)?, "waiting is allowed");
    Ok(data[span.payload()].to_vec())
}

pub fn write(disk: &Disk, at: u64, bytes: &[u8], durability: Durability) -> Result<(), DiskError> {
    let span = disk.span(ByteOffset::new(at), bytes.len());
    let mut data = vec![0xee; span.covered_bytes()];
    data[span.payload()].copy_from_slice(bytes);
    disk.write(&span, &mut data, durability)
}

fn durability(fua: bool) -> Durability {
    if fua { Durability::Durable } else { Durability::Volatile }
}

/// The plain array, and what each sector may come back as after power loss.
pub struct Model {
    pub now: Vec<u8>,
    possible: Vec<BTreeSet<Vec<u8>>>,
}

impl Model {
    fn new(size: usize) -> Self {
        let zeros: BTreeSet<_> = [vec![0; SECTOR]].into();
        Self { now: vec![0; size], possible: vec![zeros; size / SECTOR] }
    }

    fn grow(&mut self, size: usize) {
        self.now.resize(size, 0);
        self.possible.resize(size / SECTOR, [vec![0; SECTOR]].into());
    }

    fn sector(&self, index: usize) -> Vec<u8> {
        self.now[index * SECTOR..(index + 1) * SECTOR].to_vec()
    }

    /// `bytes` are about to be written: they may be there whatever comes.
    fn may_put(&mut self, at: usize, bytes: &[u8]) {
        let before = self.now.clone();
        self.put(at, bytes);
        self.now = before;
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        let end = (at + bytes.len()).min(self.now.len());
        self.now[at..end].copy_from_slice(&bytes[..end - at]);
        for index in at / SECTOR..end.div_ceil(SECTOR) {
            let sector = self.sector(index);
            self.possible[index].insert(sector);
        }
    }

    fn flushed(&mut self) {
        for index in 0..self.possible.len() {
            self.possible[index] = [self.sector(index)].into();
        }
    }

    /// Takes over what is on the disk after a crash, if each sector is one it may be.
    fn survived(&mut self, found: &[u8]) -> Result<(), String> {
        for (index, sector) in found.chunks(SECTOR).enumerate() {
            if !self.possible[index].contains(sector) {
                return Err(format!("sector {index} is neither old nor new: {:?}", &sector[..8]));
            }
        }
        self.now.copy_from_slice(found);
        self.flushed();
        Ok(())
    }
}
