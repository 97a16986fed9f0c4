//! Writes of parts of data units: what lies on storage afterwards is, byte for byte, what whole
//! units would have left there; sectors of units that are in the top are written alone.

mod support;

use std::ops::Range;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use sealdisk::clock::{Entropy, SeededEntropy};
use sealdisk::disk::{Disk, Waiting};
use sealdisk::layer::{DATA_OFFSET, Presence};
use sealdisk::storage::memory::MemoryStorage;
use sealdisk::storage::{Capabilities, Durability, Extent, Storage, StorageError};
use sealdisk::units::{ByteCount, ByteOffset, DataUnitSize};
use support::layers;
use support::stacks::Scene;

const SIZE: u64 = 48 * 1024;

/// A storage in memory that remembers where each write began and ended, from the data on.
#[derive(Debug)]
struct Watched {
    inner: MemoryStorage,
    written: Mutex<Vec<(u64, u64)>>,
    has_cache: bool,
}

impl Watched {
    fn new(unit: DataUnitSize, has_cache: bool) -> Arc<Self> {
        let inner = MemoryStorage::holding(layers::formatted(SIZE, unit));
        Arc::new(Self { inner, written: Mutex::default(), has_cache })
    }

    fn take_written(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.written.lock().expect("nobody panicked"))
    }
}

impl Storage for Watched {
    fn capabilities(&self) -> Capabilities {
        Capabilities { writes_wait: !self.has_cache, ..self.inner.capabilities() }
    }

    fn len(&self) -> Result<ByteCount, StorageError> {
        self.inner.len()
    }

    fn read_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), StorageError> {
        self.inner.read_at(at, into)
    }

    fn read_cached_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<bool, StorageError> {
        self.inner.read_cached_at(at, into)
    }

    fn write_at(
        &self,
        at: ByteOffset,
        from: &[u8],
        durability: Durability,
    ) -> Result<(), StorageError> {
        let start = at.since(DATA_OFFSET).get();
        let range = (start, start + from.len() as u64);
        self.written.lock().expect("nobody panicked").push(range);
        self.inner.write_at(at, from, durability)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.inner.flush()
    }

    fn punch(&self, range: Range<ByteOffset>) -> Result<(), StorageError> {
        self.inner.punch(range)
    }

    fn extents(&self, range: Range<ByteOffset>, limit: usize) -> Result<Vec<Extent>, StorageError> {
        self.inner.extents(range, limit)
    }

    fn set_len(&self, len: ByteCount) -> Result<(), StorageError> {
        self.inner.set_len(len)
    }
}

fn read(disk: &Disk, at: u64, len: usize) -> Vec<u8> {
    let span = disk.span(ByteOffset::new(at), len);
    let mut data = vec![0xee; span.covered_bytes()];
    let mut present = Presence::new();
    assert!(disk.read(&span, &mut data, &mut present, Waiting::Allowed).expect("a read"));
    data[span.payload()].to_vec()
}

fn write(disk: &Disk, at: u64, bytes: &[u8]) {
    let span = disk.span(ByteOffset::new(at), bytes.len());
    let mut data = vec![0xee; span.covered_bytes()];
    data[span.payload()].copy_from_slice(bytes);
    disk.write(&span, &mut data, Durability::Volatile).expect("a write");
}

/// The same write, by whole units that the caller has filled up.
fn write_whole_units(disk: &Disk, unit: u64, at: u64, bytes: &[u8]) {
    let first = at / unit * unit;
    let end = (at + bytes.len() as u64).next_multiple_of(unit);
    let mut whole = read(disk, first, (end - first) as usize);
    whole[(at - first) as usize..][..bytes.len()].copy_from_slice(bytes);
    write(disk, first, &whole);
}

fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SeededEntropy::new(seed).fill(&mut bytes);
    bytes
}

/// Ranges that start and end anywhere, at cipher blocks, at sectors.
fn ranges() -> impl Strategy<Value = Vec<(u64, usize, u64)>> {
    let range = (0..SIZE - 1, 1..14_000u64, prop::sample::select(vec![1, 16, 512]));
    let range = range.prop_map(|(at, len, grain)| {
        let at = at / grain * grain;
        let len = len.next_multiple_of(grain).min(SIZE - at);
        (at, len as usize)
    });
    prop::collection::vec(
        (range, any::<u64>()).prop_map(|((at, len), seed)| (at, len, seed)),
        1..12,
    )
}

proptest! {
    #[test]
    fn storage_holds_what_whole_units_would_have_left_there(
        ranges in ranges(),
        held in any::<u16>(),
        has_small_units in any::<bool>(),
    ) {
        let unit = if has_small_units { DataUnitSize::B512 } else { DataUnitSize::B4096 };
        let storages = [Watched::new(unit, true), Watched::new(unit, true)];
        let [parts, whole] = storages.clone().map(|storage| layers::open(storage).expect("a disk"));
        for start in (0..SIZE).step_by(4096).filter(|start| held >> (start / 4096) & 1 == 1) {
            [&parts, &whole].into_iter().for_each(|disk| write(disk, start, &random(4096, start)));
        }
        for (at, len, seed) in ranges {
            let bytes = random(len, seed);
            write(&parts, at, &bytes);
            write_whole_units(&whole, unit.bytes(), at, &bytes);
            prop_assert!(
                storages[0].inner.contents() == storages[1].inner.contents(),
                "{len} bytes at {at}"
            );
            prop_assert_eq!(read(&parts, at, len), bytes);
        }
    }
}

#[test]
fn sectors_of_units_that_are_there_are_written_alone() {
    let storage = Watched::new(DataUnitSize::B4096, true);
    let disk = layers::open(storage.clone()).expect("a disk");
    write(&disk, 0, &random(16384, 1));
    storage.take_written();
    let cases = [
        (0, 512, (0, 512)),
        (1024, 512, (1024, 1536)),
        (3584, 512, (3584, 4096)),
        (3584, 9216, (3584, 12800)),
        (4096, 4608, (4096, 8704)),
        // What is not sectors, and what reaches into a unit that is not there, goes by units.
        (100, 512, (0, 4096)),
        (1024, 16, (0, 4096)),
        (15872, 1024, (12288, 20480)),
    ];
    for (at, len, expected) in cases {
        let bytes = random(len, at);
        write(&disk, at, &bytes);
        assert_eq!(storage.take_written(), [expected], "{len} bytes at {at}");
        assert!(read(&disk, at, len) == bytes);
    }
    // And now that unit is there.
    write(&disk, 16896, &[7; 512]);
    assert_eq!(storage.take_written(), [(16896, 17408)]);
    assert_eq!(read(&disk, 17408, 3072), [0; 3072]);
}

#[test]
fn past_the_page_cache_units_stay_whole() {
    let storage = Watched::new(DataUnitSize::B4096, false);
    let disk = layers::open(storage.clone()).expect("a disk");
    write(&disk, 0, &random(4096, 1));
    storage.take_written();
    write(&disk, 512, &[7; 512]);
    assert_eq!(storage.take_written(), [(0, 4096)]);
}

/// The count of a data key grows by what was stored under it.
#[test]
fn what_is_left_out_is_not_counted() {
    let disk = layers::open(Watched::new(DataUnitSize::B4096, true)).expect("a disk");
    write(&disk, 0, &random(4096, 1));
    write(&disk, 1024, &[7; 512]);
    assert_eq!(disk.key_bytes()[0].1, ByteCount::new(4096 + 512));
}

/// A unit that only a lower layer has comes up whole; one that power loss tore keeps what is
/// absent in it absent, wherever the tear is.
#[test]
fn over_other_layers_nothing_is_lost() {
    let mut scene = Scene::new(SIZE, DataUnitSize::B4096);
    scene.write(0, &random(20_000, 1), false).expect("a write");
    scene.push(false).expect("a push");
    scene.write(1024, &[2; 512], false).expect("a write into an absent unit");
    assert_eq!(scene.read(0, 20_000), scene.model.now[..20_000]);
    for (unit, torn) in [(1, 0..3), (2, 2..8), (3, 1..2)] {
        let start = unit * 4096;
        let below = scene.read(start, 4096);
        scene.write(start, &[3; 4096], false).expect("a write");
        scene.slots[1].tear(unit, torn.clone());
        let mut expected = vec![3; 4096];
        let bytes = torn.start as usize * 512..torn.end as usize * 512;
        expected[bytes.clone()].copy_from_slice(&below[bytes]);
        assert!(scene.read(start, 4096) == expected, "torn");
        scene.write(start + 1024, &[4; 512], false).expect("a write of a sector");
        expected[1024..1536].fill(4);
        assert!(scene.read(start, 4096) == expected, "unit {unit}, a sector");
        scene.write(start + 700, &[5; 100], false).expect("a write of a part of one");
        expected[700..800].fill(5);
        assert!(scene.read(start, 4096) == expected, "unit {unit}, a part of a sector");
    }
}
