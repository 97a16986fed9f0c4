//! Deep stacks in real files, as large reads see them in the page cache: layers that change each
//! few units, torn units, a layer cut short under its readers. Beside a plain model.

mod support;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sealdisk::clock::{SeededEntropy, Timestamp};
use sealdisk::crypto::xts::Cipher;
use sealdisk::disk::{Disk, DiskError, Waiting};
use sealdisk::layer::{self, DATA_OFFSET, Envelope, Layer, LayerSpec, Presence, Writable};
use sealdisk::secret::Secret;
use sealdisk::storage::file::FileStorage;
use sealdisk::storage::{
    Capabilities, Durability, Extent, Storage, StorageError, View, guard_mappings,
};
use sealdisk::units::{ByteCount, ByteOffset, DataUnitSize};
use support::dice::Dice;
use uuid::Uuid;

const SIZE: u64 = (3 << 20) + 512;
const SECTOR: usize = 512;
const SECTORS: usize = SIZE as usize / SECTOR;

/// A file that counts what is copied out of it.
#[derive(Debug)]
struct Counted {
    file: FileStorage,
    copies: Arc<AtomicUsize>,
}

impl Storage for Counted {
    fn capabilities(&self) -> Capabilities {
        self.file.capabilities()
    }

    fn len(&self) -> Result<ByteCount, StorageError> {
        self.file.len()
    }

    fn read_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), StorageError> {
        self.copies.fetch_add(1, Ordering::Relaxed);
        self.file.read_at(at, into)
    }

    fn read_cached_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<bool, StorageError> {
        self.copies.fetch_add(1, Ordering::Relaxed);
        self.file.read_cached_at(at, into)
    }

    fn view(&self, range: &Range<ByteOffset>, request: ByteCount) -> Option<View> {
        self.file.view(range, request)
    }

    fn write_at(
        &self,
        at: ByteOffset,
        from: &[u8],
        durability: Durability,
    ) -> Result<(), StorageError> {
        self.file.write_at(at, from, durability)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.file.flush()
    }

    fn punch(&self, range: Range<ByteOffset>) -> Result<(), StorageError> {
        self.file.punch(range)
    }

    fn extents(&self, range: Range<ByteOffset>, limit: usize) -> Result<Vec<Extent>, StorageError> {
        self.file.extents(range, limit)
    }

    fn set_len(&self, len: ByteCount) -> Result<(), StorageError> {
        self.file.set_len(len)
    }
}

/// A disk in files, and what each layer says of each sector: its byte, or nothing.
struct Scene {
    folder: tempfile::TempDir,
    unit: DataUnitSize,
    disk: Disk,
    storages: Vec<Arc<Counted>>,
    copies: Arc<AtomicUsize>,
    said: Vec<Vec<Option<u8>>>,
}

fn open(folder: &Path, id: usize, unit: DataUnitSize, copies: &Arc<AtomicUsize>) -> Arc<Counted> {
    let file = FileStorage::create(&folder.join(id.to_string())).expect("a file");
    let spec = LayerSpec {
        layer_id: Uuid::from_u128(id as u128 + 1),
        disk_id: "d-modelmodelmodelmodel".to_owned(),
        parent: (id > 0).then(|| Uuid::from_u128(id as u128)),
        size: ByteCount::new(SIZE),
        unit,
        cipher: Cipher::Aes256XtsPlain64,
        created: Timestamp::from_unix_millis(0),
    };
    let envelope = Envelope {
        key_id: "0b9c4c3e-0000-4000-8000-000000000001".to_owned(),
        key_version: "7a1d4c3e-0000-4000-8000-000000000002".to_owned(),
        wrapped: vec![1; 120],
    };
    let entropy = SeededEntropy::new(id as u64);
    layer::format(&file, &spec, Some((&envelope, &key(id))), &entropy).expect("a new layer");
    Arc::new(Counted { file, copies: Arc::clone(copies) })
}

fn key(id: usize) -> Secret {
    Secret::random(64, &SeededEntropy::new(1000 + id as u64))
}

fn top(storage: &Arc<Counted>, id: usize) -> Layer<Writable> {
    let storage: Arc<dyn Storage> = Arc::clone(storage) as _;
    let header = layer::read_header(&*storage).expect("a header");
    Layer::open(storage, header, Some(key(id))).expect("a layer")
}

impl Scene {
    fn new(unit: DataUnitSize) -> Self {
        guard_mappings().expect("a handler");
        // Beside the build, for a temporary folder may lie in memory.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch folder");
        let copies = Arc::default();
        let storage = open(folder.path(), 0, unit, &copies);
        let disk = Disk::new(top(&storage, 0));
        let said = vec![vec![None; SECTORS]];
        Self { folder, unit, disk, storages: vec![storage], copies, said }
    }

    fn push(&mut self) {
        let id = self.storages.len();
        let storage = open(self.folder.path(), id, self.unit, &self.copies);
        self.disk.push(top(&storage, id)).expect("a push");
        self.storages.push(storage);
        self.said.push(vec![None; SECTORS]);
    }

    fn held(&self, sector: usize) -> u8 {
        self.said.iter().rev().find_map(|layer| layer[sector]).unwrap_or(0)
    }

    /// Writes whole units, or the end of the disk.
    fn write(&mut self, sectors: Range<usize>, byte: u8) {
        let (at, len) = (ByteOffset::new((sectors.start * SECTOR) as u64), sectors.len() * SECTOR);
        let span = self.disk.span(at, len);
        let mut data = vec![0; span.covered_bytes()];
        data[span.payload()].fill(byte);
        self.disk.write(&span, &mut data, Durability::Volatile).expect("a write");
        self.said.last_mut().expect("a top")[sectors].fill(Some(byte));
    }

    /// Makes sectors of a layer as if power loss had kept them from storage.
    fn tear(&mut self, layer: usize, sectors: Range<usize>) {
        let at = DATA_OFFSET.plus(ByteCount::new((sectors.start * SECTOR) as u64));
        let zeros = vec![0; sectors.len() * SECTOR];
        self.storages[layer].write_at(at, &zeros, Durability::Volatile).expect("a write");
        self.said[layer][sectors].fill(None);
    }

    fn read(&self, sectors: Range<usize>, waiting: Waiting) -> Result<Option<Vec<u8>>, DiskError> {
        let (at, len) = (ByteOffset::new((sectors.start * SECTOR) as u64), sectors.len() * SECTOR);
        let span = self.disk.span(at, len);
        let (mut data, mut present) = (vec![0xee; span.covered_bytes()], Presence::new());
        if !self.disk.read(&span, &mut data, &mut present, waiting)? {
            return Ok(None);
        }
        let unit = self.unit.as_usize() / SECTOR;
        for index in 0..present.len() {
            let first = sectors.start / unit * unit + index * unit;
            let mut within = first..(first + unit).min(SECTORS);
            let is_said = within.any(|at| self.said.iter().any(|layer| layer[at].is_some()));
            assert_eq!(present.is_present(index), is_said, "unit {index} from {first}");
        }
        Ok(Some(data[span.payload()].to_vec()))
    }

    /// Without waiting, and if that cannot be, with it.
    fn read_any(&self, sectors: Range<usize>) -> Result<Vec<u8>, DiskError> {
        match self.read(sectors.clone(), Waiting::Forbidden)? {
            Some(data) => Ok(data),
            None => Ok(self.read(sectors, Waiting::Allowed)?.expect("it may wait")),
        }
    }

    fn check(&self, sectors: Range<usize>) {
        let found = self.read_any(sectors.clone()).expect("a read");
        for (at, sector) in sectors.clone().zip(found.chunks(SECTOR)) {
            let held = self.held(at);
            assert!(sector.iter().all(|byte| *byte == held), "sector {at} of {sectors:?}");
        }
    }

    fn copies_of(&self, read: impl FnOnce()) -> usize {
        let before = self.copies.load(Ordering::Relaxed);
        read();
        self.copies.load(Ordering::Relaxed) - before
    }
}

/// `depth` layers that hold `stripe` units each in turns.
fn striped(unit: DataUnitSize, depth: usize, stripe: usize) -> Scene {
    let mut scene = Scene::new(unit);
    scene.write(0..SECTORS, 1);
    let step = stripe * unit.as_usize() / SECTOR;
    for layer in 1..depth {
        scene.push();
        for start in (0..SECTORS).step_by(step * depth).map(|start| start + step * layer) {
            if start < SECTORS {
                scene.write(start..SECTORS.min(start + step), layer as u8 + 1);
            }
        }
    }
    scene
}

/// Not one of the many stripes is copied once all of them are known.
#[test]
fn a_large_read_of_small_stripes_copies_nothing() {
    for (unit, depth, stripe) in [
        (DataUnitSize::B4096, 4, 1),
        (DataUnitSize::B4096, 16, 1),
        (DataUnitSize::B4096, 16, 4),
        (DataUnitSize::B4096, 40, 1),
        (DataUnitSize::B512, 5, 3),
    ] {
        let scene = striped(unit, depth, stripe);
        scene.check(0..SECTORS);
        let copies = scene.copies_of(|| scene.check(0..2048));
        assert_eq!(copies, 0, "{unit:?}, {depth} layers, {stripe} units");
        let copies = scene.copies_of(|| scene.check(2048..2048 + 8));
        assert!(copies > 0, "a small one is");
    }
}

/// Layers with anything anywhere, some of it torn, read at any place and length.
#[test]
fn deep_stacks_in_files_hold_what_a_plain_model_holds() {
    for (seed, unit) in
        (0..24).map(|seed| (seed, [DataUnitSize::B4096, DataUnitSize::B512][seed as usize / 18]))
    {
        let (mut dice, mut scene) = (Dice::new(seed), Scene::new(unit));
        let depth = 2 + dice.below(17) as usize;
        let per_unit = unit.as_usize() / SECTOR;
        for layer in 0..depth {
            if layer > 0 {
                scene.push();
            }
            let count = dice.below(60) + 1;
            for _ in 0..count {
                let start = dice.below(SECTORS as u64) as usize / per_unit * per_unit;
                let units = 1 << dice.below(6);
                let end = SECTORS.min(start + units * per_unit);
                scene.write(start..end, dice.next() as u8);
                if dice.below(4) == 0 && per_unit > 1 {
                    let from = start + dice.below(per_unit as u64) as usize;
                    scene.tear(layer, from.min(end - 1)..end.min(start + per_unit));
                }
            }
            let start = dice.below(SECTORS as u64 - 1) as usize;
            let len = 1 + dice.below(SECTORS as u64 - start as u64) as usize;
            scene.check(start..start + len);
        }
        for _ in 0..6 {
            let start = dice.below(SECTORS as u64 - 1) as usize;
            let len = (128 + dice.below(2200) as usize).min(SECTORS - start);
            scene.check(start..start + len);
        }
        scene.check(0..SECTORS);
    }
}

/// The layer in the middle is cut short behind our back: its stripes are errors, not zeros and not
/// what lies below them, and what is in no need of it goes on.
#[test]
fn a_layer_cut_short_under_its_readers_is_an_error_and_others_go_on() {
    let scene = striped(DataUnitSize::B4096, 3, 1);
    scene.check(0..SECTORS);
    assert_eq!(scene.copies_of(|| scene.check(0..2048)), 0);
    let left = DATA_OFFSET.get() + (1 << 20);
    scene.storages[1].set_len(ByteCount::new(left)).expect("a cut");
    for _ in 0..3 {
        assert!(scene.read_any(2048..4096).is_err());
        scene.check(0..2048);
        // Two units of the others.
        scene.check(4096..4096 + 8);
    }
    scene.storages[1].set_len(ByteCount::new(DATA_OFFSET.get() + SIZE)).expect("a length");
    // What was there is a hole now; nothing that was seen meanwhile made it otherwise.
    let found = scene.read_any(2048..4096).expect("a read");
    for (at, sector) in (2048..4096).zip(found.chunks(SECTOR)) {
        let byte = if at / 8 % 3 == 2 { 3 } else { 1 };
        assert!(sector.iter().all(|found| *found == byte), "sector {at}");
    }
}
