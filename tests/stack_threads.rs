//! A busy disk whose layers change under it: several threads write and read, while another one
//! pushes, pulls, lets go and leaves out. Each byte is what was written last, always.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sealdisk::clock::{Entropy, SeededEntropy};
use sealdisk::disk::zero::Zeroing;
use sealdisk::disk::{Disk, Waiting};
use sealdisk::layer::{Layer, LayerHeader, Presence, Writable};
use sealdisk::storage::memory::MemoryStorage;
use sealdisk::storage::{Durability, Storage};
use sealdisk::units::{ByteCount, ByteOffset, DataUnit, DataUnitSize};
use support::stacks::{self, formatted, open};
use uuid::Uuid;

const SECTORS: u64 = 1024;
const SIZE: u64 = SECTORS * 512;
const WORKERS: u64 = 4;
const ROUNDS: u64 = 150;

fn storage(id: u128, parent: Option<u128>) -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::holding(formatted(id, parent, SIZE, DataUnitSize::B4096)))
}

/// Sectors of a worker lie between those of others, so that units are shared and locks are met.
struct Worker<'a> {
    disk: &'a Disk,
    number: u64,
    dice: SeededEntropy,
    /// What each of its sectors holds.
    written: Vec<u8>,
}

impl Worker<'_> {
    fn roll(&self, sides: u64) -> u64 {
        let mut bytes = [0; 8];
        self.dice.fill(&mut bytes);
        u64::from_le_bytes(bytes) % sides
    }

    fn place(&self, index: u64) -> u64 {
        (index * WORKERS + self.number) * 512
    }

    fn step(&mut self) {
        let index = self.roll(SECTORS / WORKERS);
        let at = self.place(index);
        match self.roll(8) {
            0..4 => {
                let fill = 1 + self.roll(255) as u8;
                stacks::write(self.disk, at, &[fill; 512], Durability::Volatile).expect("a write");
                self.written[index as usize] = fill;
            }
            4 => {
                let how = Zeroing {
                    keep_allocated: false,
                    only_if_fast: false,
                    durability: Durability::Volatile,
                };
                let (at, len) = (ByteOffset::new(at), ByteCount::new(512));
                self.disk.write_zeroes(at, len, how).expect("zeroes");
                self.written[index as usize] = 0;
            }
            5 => self.disk.flush().expect("a flush"),
            _ => {
                let span = self.disk.span(ByteOffset::new(at), 512);
                let mut data = vec![0xee; span.covered_bytes()];
                let waiting = [Waiting::Allowed, Waiting::Forbidden][self.roll(2) as usize];
                let mut present = Presence::new();
                if self.disk.read(&span, &mut data, &mut present, waiting).expect("a read") {
                    let expected = [self.written[index as usize]; 512];
                    assert!(data[span.payload()] == expected, "sector {index}");
                }
            }
        }
    }
}

/// One thread writes whole units, the whole time the same ones, so that it seals for a top that is
/// pushed down before it gets the lock.
fn write_units(disk: &Disk, is_over: &AtomicBool, written: &AtomicU64) {
    let mut stamp = 0_u64;
    while !is_over.load(Ordering::Relaxed) {
        stamp += 1;
        let fill: Vec<u8> = stamp.to_le_bytes().repeat(16 * 4096 / 8);
        stacks::write(disk, SIZE, &fill, Durability::Volatile).expect("a write");
        let found = stacks::read(disk, SIZE, fill.len());
        assert!(found == fill, "units of stamp {stamp}");
        written.fetch_add(1, Ordering::Relaxed);
    }
}

/// The header of a layer with another parent.
fn with_parent(header: &LayerHeader, parent: Option<Uuid>) -> LayerHeader {
    let mut header = header.clone();
    header.spec.parent = parent;
    header
}

#[test]
fn layers_change_under_a_busy_disk() {
    let size = SIZE + 16 * 4096;
    let formatted = |id, parent| formatted(id, parent, size, DataUnitSize::B4096);
    let layer = |id: u128, parent: Option<u128>| -> Layer<Writable> {
        let storage = Arc::new(MemoryStorage::holding(formatted(id, parent)));
        open(storage, id, parent, size)
    };
    let bottom = layer(1, None);
    let mut chain = vec![bottom.header().clone()];
    let disk = Disk::new(bottom);
    let (is_over, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| {
                let (disk, is_over) = (&disk, &is_over);
                scope.spawn(move || {
                    let dice = SeededEntropy::new(number);
                    let written = vec![0; (SECTORS / WORKERS) as usize];
                    let mut worker = Worker { disk, number, dice, written };
                    while !is_over.load(Ordering::Relaxed) {
                        worker.step();
                    }
                    worker.written
                })
            })
            .collect();
        scope.spawn(|| write_units(&disk, &is_over, &written));
        for round in 0..ROUNDS {
            let id = 2 + u128::from(round);
            let below = chain.last().expect("a top").spec.layer_id;
            let top = layer(id, Some(below.as_u128()));
            chain.push(top.header().clone());
            let frozen = disk.push(top).expect("a push");
            disk.flush_layer(frozen.id()).expect("a flush");
            if chain.len() > 3 {
                // In turns into the top and into the one below it.
                let target = chain.len() - 1 - (round % 2) as usize;
                let floor = (round % 3 == 0).then(|| chain[0].spec.layer_id);
                pull(&disk, &chain[target], floor);
                let from = usize::from(floor.is_some());
                chain[target] = with_parent(&chain[target], floor);
                disk.switch(chain[target].clone()).expect("a switch");
                chain.drain(from..target);
            }
        }
        is_over.store(true, Ordering::Relaxed);
        for (number, worker) in workers.into_iter().enumerate() {
            let written = worker.join().expect("no worker found anything else");
            for (index, fill) in written.into_iter().enumerate() {
                let at = (index as u64 * WORKERS + number as u64) * 512;
                assert!(stacks::read(&disk, at, 512) == [fill; 512], "at the end");
            }
        }
    });
    assert_eq!(disk.layers().len(), chain.len());
    assert!(written.load(Ordering::Relaxed) > ROUNDS, "{written:?} writes of units");
}

fn pull(disk: &Disk, target: &LayerHeader, floor: Option<Uuid>) {
    let (target, units) = (target.spec.layer_id, disk.size().get() / 4096);
    let mut next = DataUnit::new(0);
    while next.get() < units {
        let first = next;
        next = disk.pull_units(target, floor, first, 8).expect("a pull").next;
        assert!(next > first);
        let done = next.get() - first.get();
        disk.flush_layer(target).expect("a flush");
        disk.punch_below(target, floor, first, done.min(8)).expect("let go");
    }
}

#[test]
fn layers_that_do_not_stand_on_each_other_are_refused() {
    let top = |id, parent| open::<Writable>(storage(id, parent), id, parent, SIZE);
    let below = |id, parent| Arc::new(top(id, parent).freeze());
    let refused = Disk::over(top(3, Some(2)), vec![below(1, None)]);
    let message = refused.expect_err("a layer is missing").to_string();
    assert!(message.contains("sealdisk check"), "{message}");
    Disk::over(top(3, Some(2)), vec![below(2, Some(1))]).expect_err("no bottom");
    Disk::over(top(3, Some(2)), Vec::new()).expect_err("no parent");
    Disk::over(top(3, None), vec![below(1, None)]).expect_err("one too many");
    let disk = Disk::over(top(3, Some(2)), vec![below(2, Some(1)), below(1, None)]).expect("right");
    disk.push(top(4, Some(2))).expect_err("it stands on another layer");
    disk.flush_layer(Uuid::from_u128(9)).expect_err("not a layer of this disk");
    let (one, three) = (Uuid::from_u128(1), Uuid::from_u128(3));
    disk.pull_units(one, Some(three), DataUnit::new(0), 8).expect_err("upside down");
    disk.changed_since(three, ByteOffset::ZERO, disk.size(), 8).expect_err("the top is no past");
    assert_eq!(disk.layers(), [3, 2, 1].map(Uuid::from_u128));
    disk.push(top(4, Some(3))).expect("a push");
    assert_eq!(disk.layers().len(), 4);
}
