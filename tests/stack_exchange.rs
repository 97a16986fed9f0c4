//! Layers are exchanged while a write is stopped in the middle of storage: nobody else waits, the
//! command does, nothing is lost. And snapshots of a busy disk are consistent across connections.

mod support;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use sealdisk::clock::SeededEntropy;
use sealdisk::disk::zero::Zeroing;
use sealdisk::disk::{Disk, DiskError, Waiting};
use sealdisk::layer::{Frozen, Layer, LayerHeader, Presence, Writable};
use sealdisk::storage::faulty::FaultyStorage;
use sealdisk::storage::{Capabilities, Durability, Extent, Storage, StorageError};
use sealdisk::units::{ByteCount, ByteOffset, DataUnit, DataUnitSize};
use support::stacks::{formatted, open, read, write};
use uuid::Uuid;

const UNIT: u64 = 4096;
/// Two regions of the map of units, each with units under all kinds of locks.
const SIZE: u64 = 2048 * UNIT;
/// The unit whose write is stopped; it shares its lock with its 16 neighbours.
const STOPPED: u64 = 5 * UNIT;

/// Stops the next change of storage, before it begins or half-way.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum GateState {
    #[default]
    Open,
    Armed(At),
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Start,
    Half,
}

/// A request that is stopped. It goes on when this is dropped, also by a test that fails.
struct Stopped<'s>(&'s Gate, ScopedJoinHandle<'s, ()>);

impl Gate {
    /// Whoever comes to `at` is stopped there.
    fn pass(&self, at: At) {
        let mut state = self.state.lock().expect("sound");
        if *state == GateState::Armed(at) {
            *state = GateState::Stopped;
            self.changed.notify_all();
            drop(self.changed.wait_while(state, |state| *state == GateState::Stopped));
        }
    }

    /// A thread in the middle of `act`.
    fn stop<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        at: At,
        act: impl FnOnce() + Send + 's,
    ) -> Stopped<'s> {
        *self.state.lock().expect("sound") = GateState::Armed(at);
        let stopped = Stopped(self, scope.spawn(act));
        let state = self.state.lock().expect("sound");
        drop(self.changed.wait_while(state, |state| *state != GateState::Stopped));
        stopped
    }
}

impl Stopped<'_> {
    fn is_finished(&self) -> bool {
        self.1.is_finished()
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        *self.0.state.lock().expect("sound") = GateState::Open;
        self.0.changed.notify_all();
    }
}

/// A storage that may lose power, with a gate in its writes.
#[derive(Debug)]
struct Gated {
    inner: Arc<FaultyStorage>,
    gate: Arc<Gate>,
}

impl Storage for Gated {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn len(&self) -> Result<ByteCount, StorageError> {
        self.inner.len()
    }

    fn read_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), StorageError> {
        self.inner.read_at(at, into)
    }

    fn read_cached_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<bool, StorageError> {
        self.inner.read_at(at, into).map(|()| true)
    }

    fn write_at(
        &self,
        at: ByteOffset,
        from: &[u8],
        durability: Durability,
    ) -> Result<(), StorageError> {
        let (head, tail) = from.split_at(from.len() / 2);
        self.gate.pass(At::Start);
        self.inner.write_at(at, head, durability)?;
        self.gate.pass(At::Half);
        self.inner.write_at(at.plus(ByteCount::of(head)), tail, durability)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.inner.flush()
    }

    fn punch(&self, range: Range<ByteOffset>) -> Result<(), StorageError> {
        self.gate.pass(At::Start);
        self.inner.punch(range)
    }

    fn extents(&self, range: Range<ByteOffset>, limit: usize) -> Result<Vec<Extent>, StorageError> {
        self.inner.extents(range, limit)
    }

    fn set_len(&self, len: ByteCount) -> Result<(), StorageError> {
        self.inner.set_len(len)
    }
}

/// The files of a disk's layers, which are named 1, 2, … from the bottom up.
struct Files {
    files: Vec<Arc<FaultyStorage>>,
    gate: Arc<Gate>,
}

fn parent_of(id: u128) -> Option<u128> {
    (id > 1).then(|| id - 1)
}

impl Files {
    fn new() -> Self {
        Self { files: Vec::new(), gate: Arc::default() }
    }

    /// A new layer on top of the others.
    fn grow(&mut self) -> Layer<Writable> {
        let id = self.files.len() as u128 + 1;
        let file = formatted(id, parent_of(id), SIZE, DataUnitSize::B4096);
        self.files.push(Arc::new(FaultyStorage::holding(file)));
        let (inner, gate) = (Arc::clone(&self.files[id as usize - 1]), Arc::clone(&self.gate));
        open(Arc::new(Gated { inner, gate }), id, parent_of(id), SIZE)
    }

    /// A disk of `depth` layers. Each holds a unit of its own, number `16 * id`.
    fn disk(&mut self, depth: u128) -> Disk {
        let disk = Disk::new(self.grow());
        for id in 1..=depth {
            if id > 1 {
                disk.push(self.grow()).expect("a push");
                disk.flush_layer(Uuid::from_u128(id - 1)).expect("a flush");
            }
            put(&disk, id as u64 * 16 * UNIT, id as u8);
        }
        disk.flush().expect("a flush");
        disk
    }

    /// What the disk with `depth` layers holds after power was lost.
    fn after_power_loss(&self, depth: usize, seed: u64) -> Disk {
        let dice = SeededEntropy::new(seed);
        let crashed =
            |file: &Arc<FaultyStorage>| Arc::new(FaultyStorage::holding(file.crash(&dice)));
        over(&self.files[..depth].iter().map(crashed).collect::<Vec<_>>())
    }

    /// A clone of the snapshot that the layer with this id is.
    fn snapshot(&self, id: usize) -> Disk {
        let empty = formatted(id as u128 + 1, Some(id as u128), SIZE, DataUnitSize::B4096);
        let top = Arc::new(FaultyStorage::holding(empty));
        over(&self.files[..id].iter().cloned().chain([top]).collect::<Vec<_>>())
    }
}

fn over(files: &[Arc<FaultyStorage>]) -> Disk {
    fn layer<S: sealdisk::layer::State>(files: &[Arc<FaultyStorage>], index: usize) -> Layer<S> {
        let id = index as u128 + 1;
        open(Arc::clone(&files[index]) as Arc<dyn Storage>, id, parent_of(id), SIZE)
    }
    let below: Vec<Arc<Layer<Frozen>>> =
        (0..files.len() - 1).rev().map(|index| Arc::new(layer(files, index))).collect();
    Disk::over(layer(files, files.len() - 1), below).expect("a disk")
}

fn put(disk: &Disk, at: u64, fill: u8) {
    write(disk, at, &[fill; UNIT as usize], Durability::Volatile).expect("a write");
}

fn holds(disk: &Disk, at: u64, fill: u8) {
    let found = read(disk, at, UNIT as usize);
    let (at, seen) = (at / UNIT, (found[0], found[UNIT as usize - 1]));
    assert!(found == [fill; UNIT as usize], "unit {at} holds {seen:?} and not {fill}");
}

/// Waits for something that comes without further ado; whoever waits for long has found a fault.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{what}: it never was");
}

/// A write of `fill` to the stopped unit.
fn straggler<'s>(
    scope: &'s Scope<'s, '_>,
    disk: &'s Disk,
    (gate, at): (&'s Gate, At),
    fill: u8,
) -> Stopped<'s> {
    gate.stop(scope, at, move || put(disk, STOPPED, fill))
}

/// Requests of every kind, on units that the stopped write does not share a lock with. Those that
/// read look at units of a region of the map that holds the stopped one, too.
fn others_go_on(disk: &Disk, depth: u128) {
    for id in 1..=depth {
        holds(disk, id as u64 * 16 * UNIT, id as u8);
    }
    put(disk, 500 * UNIT, 0x50);
    holds(disk, 500 * UNIT, 0x50);
    write(disk, 501 * UNIT + 700, &[0x51; 900], Durability::Durable).expect("part of a unit, FUA");
    let how =
        Zeroing { keep_allocated: false, only_if_fast: false, durability: Durability::Volatile };
    let unit = ByteCount::new(UNIT);
    disk.write_zeroes(ByteOffset::new(16 * UNIT), unit, how).expect("zeroes");
    disk.trim(ByteOffset::new(600 * UNIT), unit, Durability::Volatile).expect("a trim");
    disk.flush().expect("a flush");
    holds(disk, 16 * UNIT, 0);
    put(disk, 16 * UNIT, 1);
    assert_eq!(read(disk, 501 * UNIT, 4096)[700..1600], [0x51; 900]);
    let at = ByteOffset::new(499 * UNIT);
    let extents = disk.extents(at, ByteCount::new(4 * UNIT), 9).expect("extents");
    assert_eq!(extents.len(), 3, "{extents:?}");
    let span = disk.span(ByteOffset::new(700 * UNIT), 4096);
    let (mut data, mut present) = (vec![0xee; 4096], Presence::new());
    let is_done = disk.read(&span, &mut data, &mut present, Waiting::Forbidden).expect("a read");
    assert!(is_done && data == [0; 4096], "nobody has to wait");
}

#[test]
fn a_snapshot_waits_for_writes_under_way_and_no_request_for_the_snapshot() {
    for (depth, at) in [(1, At::Start), (1, At::Half), (2, At::Start), (4, At::Half)] {
        let mut files = Files::new();
        let disk = files.disk(depth);
        let top = files.grow();
        put(&disk, 1000 * UNIT, 0xaa);
        std::thread::scope(|scope| {
            let (disk, gate) = (&disk, &*files.gate);
            let before = straggler(scope, disk, (gate, at), 0x77);
            let push = scope.spawn(|| disk.push(top).expect("a push"));
            wait_until("the swap", || disk.layers().len() == depth as usize + 1);
            others_go_on(disk, depth);
            put(disk, 1000 * UNIT, 0xbb);
            // On the stopped unit a write and a read come after it.
            let after =
                scope.spawn(|| write(disk, STOPPED + 100, &[0x88; 50], Durability::Volatile));
            let reader = scope.spawn(|| read(disk, STOPPED + 1000, 3096));
            disk.flush().expect("a flush");
            assert!(!before.is_finished() && !after.is_finished() && !reader.is_finished());
            assert!(!push.is_finished(), "the snapshot is not yet still");
            drop(before);
            after.join().expect("no panic").expect("written");
            assert!(reader.join().expect("no panic") == [0x77; 3096]);
            // What the stopped write was told is in a layer that was flushed before it ended.
            disk.flush().expect("a flush");
            assert_eq!(push.join().expect("no panic").id(), Uuid::from_u128(depth));
        });
        check_content(&disk, depth);
        for seed in 0..8 {
            check_content(&files.after_power_loss(depth as usize + 1, seed), depth);
        }
        let snapshot = files.snapshot(depth as usize);
        holds(&snapshot, STOPPED, 0x77);
        holds(&snapshot, 1000 * UNIT, 0xaa);
        holds(&snapshot, 500 * UNIT, 0);
        (1..=depth as u64).for_each(|id| holds(&snapshot, id * 16 * UNIT, id as u8));
        disk.flush_layer(Uuid::from_u128(depth)).expect("a flush");
        check_content(&disk, depth);
    }
}

fn check_content(disk: &Disk, depth: u128) {
    let mut stopped = vec![0x77; 4096];
    stopped[100..150].fill(0x88);
    assert!(read(disk, STOPPED, 4096) == stopped, "depth {depth}");
    holds(disk, 1000 * UNIT, 0xbb);
    holds(disk, 500 * UNIT, 0x50);
    (1..=depth as u64).for_each(|id| holds(disk, id * 16 * UNIT, id as u8));
}

/// A FLUSH that comes while the old top is still written to must not be the last that covers it.
#[test]
fn a_flush_in_the_grace_period_does_not_settle_the_old_top() {
    let mut files = Files::new();
    let disk = files.disk(2);
    let top = files.grow();
    std::thread::scope(|scope| {
        let (disk, gate) = (&disk, &*files.gate);
        let before = straggler(scope, disk, (gate, At::Half), 0x77);
        let push = scope.spawn(|| disk.push(top).expect("a push"));
        wait_until("the swap", || disk.layers().len() == 3);
        disk.flush().expect("a flush");
        disk.flush_layer(Uuid::from_u128(2)).expect("a flush of the old top");
        drop(before);
        push.join().expect("pushed");
    });
    disk.flush().expect("a flush");
    for seed in 0..8 {
        holds(&files.after_power_loss(3, seed), STOPPED, 0x77);
    }
}

#[test]
fn a_second_snapshot_and_a_pull_wait_for_the_first() {
    for depth in [1, 3] {
        let mut files = Files::new();
        let disk = files.disk(depth);
        let (one, two) = (files.grow(), files.grow());
        let target = one.id();
        put(&disk, STOPPED, 0x66);
        std::thread::scope(|scope| {
            let (disk, gate) = (&disk, &*files.gate);
            let before = straggler(scope, disk, (gate, At::Half), 0x77);
            let first = scope.spawn(|| disk.push(one).expect("a push"));
            wait_until("the swap", || disk.layers().len() == depth as usize + 1);
            let pull = scope.spawn(|| {
                let all = disk.size().get() / UNIT;
                disk.pull_units(target, None, DataUnit::new(0), all).expect("a pull")
            });
            let second = scope.spawn(|| {
                put(disk, 900 * UNIT, 0x99);
                disk.push(two).expect("a push")
            });
            wait_until("the write", || read(disk, 900 * UNIT, 1) == [0x99]);
            // Were they not to wait, they would have had the time.
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(disk.layers().len(), depth as usize + 1, "one at a time");
            assert!(!pull.is_finished() && !first.is_finished() && !second.is_finished());
            drop(before);
            first.join().expect("pushed");
            pull.join().expect("pulled");
            second.join().expect("pushed");
        });
        holds(&disk, STOPPED, 0x77);
        holds(&files.snapshot(depth as usize), 900 * UNIT, 0);
        holds(&files.snapshot(depth as usize + 1), 900 * UNIT, 0x99);
        holds(&files.snapshot(depth as usize + 1), STOPPED, 0x77);
    }
}

/// The stopped request makes a hole in the old top.
#[test]
fn a_trim_under_way_is_in_the_snapshot() {
    let mut files = Files::new();
    let disk = files.disk(1);
    let top = files.grow();
    put(&disk, STOPPED, 0x66);
    std::thread::scope(|scope| {
        let (disk, gate) = (&disk, &*files.gate);
        let trim = gate.stop(scope, At::Start, || {
            let (at, len) = (ByteOffset::new(STOPPED), ByteCount::new(UNIT));
            disk.trim(at, len, Durability::Volatile).expect("a trim");
        });
        let push = scope.spawn(|| disk.push(top).expect("a push"));
        wait_until("the swap", || disk.layers().len() == 2);
        put(disk, 500 * UNIT, 0x50);
        assert!(!push.is_finished() && !trim.is_finished());
        drop(trim);
        push.join().expect("pushed");
    });
    holds(&disk, STOPPED, 0);
    holds(&files.snapshot(1), STOPPED, 0);
    holds(&files.snapshot(1), 500 * UNIT, 0);
}

fn rewritten(disk: &Disk, files: &Files, change: impl Fn(&mut LayerHeader)) -> LayerHeader {
    let top = disk.layers()[0].as_u128() as usize - 1;
    let mut header = sealdisk::layer::read_header(&*files.files[top]).expect("a header");
    change(&mut header);
    header
}

/// The other exchanges: layers are left out, the disk grows.
#[test]
fn a_switch_and_a_resize_wait_for_writes_under_way_and_no_request_for_them() {
    const LARGER: u64 = SIZE + 3 * UNIT;
    type Act = fn(&Disk, LayerHeader) -> Result<(), DiskError>;
    let acts: [(&str, Act); 2] = [("switch", Disk::switch), ("resize", Disk::resize)];
    for (name, act) in acts {
        let mut files = Files::new();
        let disk = files.disk(3);
        let header = rewritten(&disk, &files, |header| match name {
            "switch" => header.spec.parent = None,
            _ => header.spec.size = ByteCount::new(LARGER),
        });
        let all = disk.size().get() / UNIT;
        let top = disk.layers()[0];
        if name == "switch" {
            disk.pull_units(top, None, DataUnit::new(0), all).expect("a pull");
            disk.flush_layer(top).expect("a flush");
        } else {
            let len = files.files[2].len().expect("a length").get() + 3 * UNIT;
            files.files[2].set_len(ByteCount::new(len)).expect("a longer file");
        }
        let is_swapped =
            || if name == "switch" { disk.layers().len() == 1 } else { disk.size().get() > SIZE };
        std::thread::scope(|scope| {
            let (disk, gate) = (&disk, &*files.gate);
            let before = straggler(scope, disk, (gate, At::Half), 0x77);
            let acted = scope.spawn(move || act(disk, header).expect(name));
            wait_until(name, is_swapped);
            others_go_on(disk, 3);
            if name == "resize" {
                put(disk, LARGER - UNIT, 0x44);
                holds(disk, LARGER - UNIT, 0x44);
                holds(disk, LARGER - 2 * UNIT, 0);
            }
            assert!(!before.is_finished() && !acted.is_finished(), "{name}");
            drop(before);
            acted.join().expect(name);
        });
        holds(&disk, STOPPED, 0x77);
        holds(&disk, 500 * UNIT, 0x50);
        (1..=3).for_each(|id| holds(&disk, id * 16 * UNIT, id as u8));
        if name == "resize" {
            holds(&disk, LARGER - UNIT, 0x44);
        }
    }
}

const CHAINS: u64 = 3;
const PLACES: u64 = 40;
const SNAPSHOTS: usize = 40;

/// Writes that follow each other, on any connection: number `n` is sent when `n - 1` was answered.
struct Chain {
    number: u64,
    turn: Mutex<u64>,
    sent: AtomicU64,
    answered: AtomicU64,
}

impl Chain {
    /// Far from each other, so that writes lie under all kinds of locks.
    fn place(&self, n: u64) -> u64 {
        (n % PLACES * 47 + self.number * 11) * UNIT
    }

    fn step(&self, disk: &Disk) {
        let mut turn = self.turn.lock().expect("sound");
        *turn += 1;
        self.sent.store(*turn, Ordering::SeqCst);
        let data = turn.to_le_bytes().repeat(UNIT as usize / 8);
        write(disk, self.place(*turn), &data, Durability::Volatile).expect("a write");
        self.answered.store(*turn, Ordering::SeqCst);
    }

    /// The last write in a snapshot, if all before it are in it and none after it.
    fn last_in(&self, snapshot: &Disk) -> u64 {
        let at = |n: u64| {
            let found = read(snapshot, self.place(n), UNIT as usize);
            assert!(found.chunks(8).all(|part| part == &found[..8]), "a torn unit");
            u64::from_le_bytes(found[..8].try_into().expect("8 bytes"))
        };
        let last = (0..PLACES).map(at).max().expect("some");
        for n in (last + 1).saturating_sub(PLACES)..=last {
            assert_eq!(at(n), n, "chain {}, {last} is in, {n} is not", self.number);
        }
        last
    }
}

#[test]
fn every_snapshot_is_a_consistent_cut_across_connections() {
    let mut files = Files::new();
    let disk = Disk::new(files.grow());
    let tops: Vec<_> = (0..SNAPSHOTS).map(|_| files.grow()).collect();
    let chain = |number| Chain {
        number,
        turn: Mutex::new(0),
        sent: AtomicU64::new(0),
        answered: AtomicU64::new(0),
    };
    let chains: Vec<Chain> = (0..CHAINS).map(chain).collect();
    let count = |of: fn(&Chain) -> &AtomicU64| -> Vec<u64> {
        chains.iter().map(|chain| of(chain).load(Ordering::SeqCst)).collect()
    };
    let is_over = AtomicU64::new(0);
    let mut bounds = Vec::new();
    std::thread::scope(|scope| {
        for chain in chains.iter().flat_map(|chain| [chain, chain]) {
            let (disk, is_over) = (&disk, &is_over);
            scope.spawn(move || {
                while is_over.load(Ordering::Relaxed) == 0 {
                    chain.step(disk);
                }
            });
        }
        for top in tops {
            let seen = count(|chain| &chain.answered);
            wait_until("progress", || {
                count(|chain| &chain.answered).iter().zip(&seen).all(|(now, then)| now > then)
            });
            let answered = count(|chain| &chain.answered);
            disk.push(top).expect("a push");
            bounds.push((answered, count(|chain| &chain.sent)));
        }
        is_over.store(1, Ordering::Relaxed);
    });
    for (index, (answered, sent)) in bounds.into_iter().enumerate() {
        let snapshot = files.snapshot(index + 1);
        for (chain, (answered, sent)) in chains.iter().zip(answered.into_iter().zip(sent)) {
            let last = chain.last_in(&snapshot);
            assert!(answered <= last, "{answered} was answered before, up to {last} is in it");
            assert!(last <= sent, "{last} was sent after {sent}, when it was taken");
        }
    }
}
