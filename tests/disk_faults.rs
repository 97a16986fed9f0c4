//! The n-th storage call fails, for every n, in each way: nothing panics, nothing that failed is
//! acknowledged, and what was flushed before is there afterwards.

mod support;

use std::sync::Arc;

use sealdisk::clock::SeededEntropy;
use sealdisk::disk::zero::Zeroing;
use sealdisk::disk::{Disk, DiskError, Waiting};
use sealdisk::layer::Presence;
use sealdisk::storage::Durability;
use sealdisk::storage::faulty::{Fault, FaultPlan, FaultyStorage};
use sealdisk::units::{ByteCount, ByteOffset, DataUnitSize};
use support::layers;

const SIZE: u64 = 64 * 1024;
const FAULTS: [Fault; 4] = [Fault::Eio, Fault::NoSpace, Fault::Short, Fault::Interrupted];

type Operation = (&'static str, fn(&Disk) -> Result<(), DiskError>);

/// Every kind of request, aligned and not.
const OPERATIONS: [Operation; 10] = [
    ("aligned write", |disk| write(disk, 4096, 8192, Durability::Volatile)),
    ("unaligned write", |disk| write(disk, 5000, 9000, Durability::Volatile)),
    ("write of sectors of a unit that is there", |disk| {
        write(disk, 8192, 4096, Durability::Volatile)?;
        write(disk, 9216, 512, Durability::Volatile)
    }),
    ("durable write", |disk| write(disk, 100, 50, Durability::Durable)),
    ("read", |disk| read(disk, 3000, 9000)),
    ("flush", Disk::flush),
    ("trim", |disk| disk.trim(at(0), ByteCount::new(20_000), Durability::Durable)),
    ("write zeroes", |disk| disk.write_zeroes(at(100), ByteCount::new(20_000), zeroing(false))),
    ("zeroes kept allocated", |disk| {
        disk.write_zeroes(at(100), ByteCount::new(20_000), zeroing(true))
    }),
    ("block status", |disk| disk.extents(at(0), ByteCount::new(SIZE), 100).map(drop)),
];

fn at(bytes: u64) -> ByteOffset {
    ByteOffset::new(bytes)
}

fn zeroing(keep_allocated: bool) -> Zeroing {
    Zeroing { keep_allocated, only_if_fast: false, durability: Durability::Durable }
}

fn write(disk: &Disk, start: u64, len: usize, durability: Durability) -> Result<(), DiskError> {
    let span = disk.span(at(start), len);
    let mut data = vec![0; span.covered_bytes()];
    data[span.payload()].fill(0xab);
    disk.write(&span, &mut data, durability)
}

fn read(disk: &Disk, start: u64, len: usize) -> Result<(), DiskError> {
    let span = disk.span(at(start), len);
    let mut data = vec![0; span.covered_bytes()];
    let done = disk.read(&span, &mut data, &mut Presence::new(), Waiting::Allowed)?;
    assert!(done, "waiting was allowed");
    Ok(())
}

fn content(disk: &Disk, start: u64, len: usize) -> Vec<u8> {
    let span = disk.span(at(start), len);
    let mut data = vec![0; span.covered_bytes()];
    disk.read(&span, &mut data, &mut Presence::new(), Waiting::Allowed).expect("a read");
    data[span.payload()].to_vec()
}

/// A disk with something durable in its upper half, which no operation touches.
fn prepared() -> (Arc<FaultyStorage>, Disk) {
    let storage = Arc::new(FaultyStorage::holding(layers::formatted(SIZE, DataUnitSize::B4096)));
    let disk = layers::open(storage.clone()).expect("a disk");
    write(&disk, 32 * 1024, 32 * 1024, Durability::Volatile).expect("a write");
    disk.flush().expect("a flush");
    (storage, disk)
}

#[test]
fn every_failing_call_of_every_operation_is_reported_and_nothing_flushed_is_lost() {
    let mut cases = 0;
    for (name, operation) in OPERATIONS {
        let (storage, disk) = prepared();
        storage.set_plan(None);
        operation(&disk).expect("without faults");
        let calls = storage.calls();
        assert!(calls > 0, "{name} reaches the storage");
        for call in 1..=calls {
            for (fault, for_good) in FAULTS.into_iter().flat_map(|f| [(f, false), (f, true)]) {
                let (storage, disk) = prepared();
                storage.set_plan(Some(FaultPlan { call, fault, for_good }));
                let outcome = operation(&disk);
                assert!(outcome.is_err(), "{name}: call {call} met {fault:?} and was acknowledged");
                let image = storage.crash(&SeededEntropy::new(call));
                let again = Arc::new(FaultyStorage::holding(image));
                let disk = layers::open(again).expect("the layer is whole");
                let kept = content(&disk, 32 * 1024, 32 * 1024);
                assert!(kept.iter().all(|byte| *byte == 0xab), "{name}: flushed data lost");
                cases += 1;
            }
        }
    }
    assert!(cases > 100, "{cases} cases");
}

#[test]
fn after_a_failed_flush_every_later_one_fails_until_the_disk_is_opened_again() {
    let (storage, disk) = prepared();
    write(&disk, 0, 4096, Durability::Volatile).expect("a write");
    storage.set_plan(Some(FaultPlan { call: 1, fault: Fault::Eio, for_good: false }));
    assert!(disk.flush().is_err());
    storage.set_plan(None);
    for _ in 0..3 {
        let error = disk.flush().expect_err("the device works again, but the data is gone");
        assert!(matches!(error, DiskError::FlushLost), "{error}");
        assert!(error.to_string().contains("attach it again"), "the error says what to do");
    }
    assert!(matches!(write(&disk, 0, 512, Durability::Durable), Err(DiskError::FlushLost)));
    assert!(disk.has_lost_a_flush());
    read(&disk, 0, 4096).expect("reads go on");
    write(&disk, 0, 4096, Durability::Volatile).expect("volatile writes go on");
    drop(disk);
    layers::open(storage).expect("the disk").flush().expect("a fresh start");
}

#[test]
fn a_full_device_fails_the_write_alone() {
    let (storage, disk) = prepared();
    storage.set_plan(Some(FaultPlan { call: 1, fault: Fault::NoSpace, for_good: false }));
    let error = write(&disk, 0, 4096, Durability::Volatile).expect_err("full");
    assert!(matches!(error, DiskError::OutOfSpace));
    write(&disk, 0, 4096, Durability::Volatile).expect("space was freed");
    disk.flush().expect("nothing else broke");
}
