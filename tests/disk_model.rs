//! A disk against a plain array of bytes: random reads, writes, zeroes, trims and flushes at every
//! alignment, with reopening and power loss in between.
//!
//! The array knows, for each sector, what it holds now and what it may hold after power loss: the
//! value at the last flush, or any written since.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use sealdisk::clock::SeededEntropy;
use sealdisk::disk::zero::Zeroing;
use sealdisk::disk::{Disk, Waiting};
use sealdisk::layer::Presence;
use sealdisk::storage::direct::DirectStorage;
use sealdisk::storage::faulty::FaultyStorage;
use sealdisk::storage::{Durability, Storage};
use sealdisk::units::{ByteCount, ByteOffset, DataUnitSize};
use support::layers;

const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Step {
    Write { at: u64, len: usize, fill: u8, fua: bool },
    Zero { at: u64, len: u64, keep_allocated: bool, fua: bool },
    Trim { at: u64, len: u64 },
    Read { at: u64, len: usize },
    Extents { at: u64, len: u64 },
    Flush,
    Reopen,
    Crash { seed: u64 },
}

fn steps(size: u64) -> impl Strategy<Value = Vec<Step>> {
    let range = (0..size, 1..40_000u64)
        .prop_map(move |(at, len)| (at, len.min(size - at)))
        .prop_flat_map(|(at, len)| {
            // Half of them on sectors or units, as clients mostly do.
            prop_oneof![
                Just((at, len)),
                Just((at / 512 * 512, len.div_ceil(512) * 512)),
                Just((at / 4096 * 4096, len.div_ceil(4096) * 4096)),
            ]
        })
        .prop_map(move |(at, len)| (at, len.min(size - at).max(1)));
    let step = prop_oneof![
        8 => (range.clone(), 1..=255u8, any::<bool>()).prop_map(|((at, len), fill, fua)| {
            Step::Write { at, len: len as usize, fill, fua }
        }),
        2 => (range.clone(), any::<bool>(), any::<bool>()).prop_map(
            |((at, len), keep_allocated, fua)| Step::Zero { at, len, keep_allocated, fua }
        ),
        2 => range.clone().prop_map(|(at, len)| Step::Trim { at, len }),
        5 => range.clone().prop_map(|(at, len)| Step::Read { at, len: len as usize }),
        1 => range.prop_map(|(at, len)| Step::Extents { at, len }),
        2 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
    ];
    prop::collection::vec(step, 1..60)
}

/// The plain array, and what each sector may come back as.
struct Model {
    now: Vec<u8>,
    possible: Vec<BTreeSet<Vec<u8>>>,
}

impl Model {
    fn new(size: usize) -> Self {
        let zeros: BTreeSet<_> = [vec![0; SECTOR]].into();
        Self { now: vec![0; size], possible: vec![zeros; size.div_ceil(SECTOR)] }
    }

    fn sector(&self, index: usize) -> Vec<u8> {
        let end = (index * SECTOR + SECTOR).min(self.now.len());
        let mut sector = self.now[index * SECTOR..end].to_vec();
        sector.resize(SECTOR, 0);
        sector
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.now[at..at + bytes.len()].copy_from_slice(bytes);
        for index in at / SECTOR..(at + bytes.len()).div_ceil(SECTOR) {
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
    fn survived(&mut self, found: &[u8]) -> Result<(), TestCaseError> {
        for index in 0..self.possible.len() {
            let start = index * SECTOR;
            let end = (start + SECTOR).min(found.len());
            let mut sector = found[start..end].to_vec();
            sector.resize(SECTOR, 0);
            prop_assert!(
                self.possible[index].contains(&sector),
                "sector {index} is neither old nor new"
            );
        }
        self.now.copy_from_slice(found);
        self.flushed();
        Ok(())
    }
}

fn read(disk: &Disk, at: u64, len: usize) -> Vec<u8> {
    let span = disk.span(ByteOffset::new(at), len);
    // What was in a buffer before must never show.
    let mut data = vec![0xee; span.covered_bytes()];
    let mut present = Presence::new();
    assert!(disk.read(&span, &mut data, &mut present, Waiting::Allowed).expect("a read"));
    data[span.payload()].to_vec()
}

fn write(disk: &Disk, at: u64, bytes: &[u8], durability: Durability) {
    let span = disk.span(ByteOffset::new(at), bytes.len());
    let mut data = vec![0xee; span.covered_bytes()];
    data[span.payload()].copy_from_slice(bytes);
    disk.write(&span, &mut data, durability).expect("a write");
}

fn durability(fua: bool) -> Durability {
    if fua { Durability::Durable } else { Durability::Volatile }
}

fn check_extents(disk: &Disk, model: &Model, at: u64, len: u64) -> Result<(), TestCaseError> {
    let (start, count) = (ByteOffset::new(at), ByteCount::new(len));
    let extents = disk.extents(start, count, 1000).expect("extents");
    let mut position = at as usize;
    for extent in &extents {
        let end = position + extent.len.get() as usize;
        prop_assert!(extent.len.get() > 0);
        if extent.is_hole {
            prop_assert!(
                model.now[position..end].iter().all(|byte| *byte == 0),
                "a hole with data"
            );
        }
        position = end;
    }
    prop_assert_eq!(position, (at + len) as usize, "extents cover the range");
    Ok(())
}

/// What the disk stands on.
#[derive(Clone)]
enum Ground {
    /// Power may be lost.
    Faulty(Arc<FaultyStorage>),
    /// The device of the machine; its power is not ours to cut.
    Direct(Arc<DirectStorage>),
}

impl Ground {
    fn open(&self) -> Disk {
        let storage: Arc<dyn Storage> = match self {
            Self::Faulty(storage) => storage.clone(),
            Self::Direct(storage) => storage.clone(),
        };
        layers::open(storage).expect("a disk")
    }
}

fn run(
    mut ground: Ground,
    size: u64,
    unit: DataUnitSize,
    steps: &[Step],
) -> Result<(), TestCaseError> {
    let mut disk = ground.open();
    let mut model = Model::new(size as usize);
    for step in steps {
        match *step {
            Step::Write { at, len, fill, fua } => {
                let bytes: Vec<u8> = (0..len).map(|i| fill.wrapping_add((i / 7) as u8)).collect();
                write(&disk, at, &bytes, durability(fua));
                model.put(at as usize, &bytes);
                if fua {
                    model.flushed();
                }
            }
            Step::Zero { at, len, keep_allocated, fua } => {
                let how =
                    Zeroing { keep_allocated, only_if_fast: false, durability: durability(fua) };
                disk.write_zeroes(ByteOffset::new(at), ByteCount::new(len), how).expect("zeroes");
                model.put(at as usize, &vec![0; len as usize]);
                if fua {
                    model.flushed();
                }
            }
            Step::Trim { at, len } => {
                let (start, count) = (ByteOffset::new(at), ByteCount::new(len));
                disk.trim(start, count, Durability::Volatile).expect("a trim");
                let unit = unit.bytes();
                let first = at.div_ceil(unit) * unit;
                let end = (at + len) / unit * unit;
                if first < end {
                    model.put(first as usize, &vec![0; (end - first) as usize]);
                }
            }
            Step::Read { at, len } => {
                let expected = &model.now[at as usize..at as usize + len];
                prop_assert!(read(&disk, at, len) == expected, "read of {} at {}", len, at);
            }
            Step::Extents { at, len } => check_extents(&disk, &model, at, len)?,
            Step::Flush => {
                disk.flush().expect("a flush");
                model.flushed();
            }
            Step::Reopen => {
                drop(disk);
                disk = ground.open();
            }
            Step::Crash { seed } => {
                let Ground::Faulty(storage) = &ground else { continue };
                drop(disk);
                let image = storage.crash(&SeededEntropy::new(seed));
                ground = Ground::Faulty(Arc::new(FaultyStorage::holding(image)));
                disk = ground.open();
                let found = read(&disk, 0, size as usize);
                model.survived(&found)?;
            }
        }
    }
    prop_assert!(read(&disk, 0, size as usize) == model.now, "content at the end");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn units_of_4096_bytes(steps in steps(96 * 1024 + 512)) {
        run_faulty(96 * 1024 + 512, DataUnitSize::B4096, &steps)?;
    }

    #[test]
    fn units_of_512_bytes(steps in steps(48 * 1024 + 512)) {
        run_faulty(48 * 1024 + 512, DataUnitSize::B512, &steps)?;
    }
}

proptest! {
    // A device is slower than memory.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn past_the_page_cache_units_of_4096_bytes(steps in steps(96 * 1024 + 512)) {
        run_direct(96 * 1024 + 512, DataUnitSize::B4096, &steps)?;
    }

    #[test]
    fn past_the_page_cache_units_of_512_bytes(steps in steps(48 * 1024 + 512)) {
        run_direct(48 * 1024 + 512, DataUnitSize::B512, &steps)?;
    }
}

fn run_faulty(size: u64, unit: DataUnitSize, steps: &[Step]) -> Result<(), TestCaseError> {
    let storage = Arc::new(FaultyStorage::holding(layers::formatted(size, unit)));
    run(Ground::Faulty(storage), size, unit, steps)
}

fn run_direct(size: u64, unit: DataUnitSize, steps: &[Step]) -> Result<(), TestCaseError> {
    // Beside the build, for a temporary folder may lie in memory, without direct I/O.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch folder");
    let path = folder.path().join("layer");
    std::fs::write(&path, layers::formatted(size, unit)).expect("a layer");
    let storage = Arc::new(DirectStorage::open_writer(&path).expect("direct I/O"));
    run(Ground::Direct(storage), size, unit, steps)
}

/// The model itself must be able to find a lost write.
#[test]
fn a_write_that_is_lost_after_its_flush_is_found() {
    let mut model = Model::new(4096);
    model.put(0, &[1; 4096]);
    model.flushed();
    assert!(model.survived(&[0; 4096]).is_err());
    model.put(512, &[2; 1024]);
    let mut torn = vec![1; 4096];
    torn[1024..1536].fill(2);
    assert!(model.survived(&torn).is_ok());
}
