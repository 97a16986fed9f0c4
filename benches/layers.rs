//! What a stack of layers costs: reads at a depth of 1, 4 and 16, the pause of a snapshot under
//! load, a pull beside a plain copy. No sockets: `Disk` over files. Prints Markdown.
//!
//! ```text
//! cargo bench --bench layers
//! cargo bench --bench layers -- pause
//! LAYERS_FOLDER=/dev/shm cargo bench --bench layers -- pause pause-64-tib
//! ```
//!
//! In a folder in memory nobody waits for a file system that writes back: what is left of a pause
//! is ours and the scheduler's. `pause-64-tib` runs only if asked for: not all file systems have
//! files that long.

#![allow(missing_docs)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sealdisk::clock::{Clock, Entropy, SeededEntropy, SystemClock, Timestamp};
use sealdisk::crypto::xts::Cipher;
use sealdisk::disk::{Disk, Waiting};
use sealdisk::layer::{self, Envelope, Frozen, Layer, LayerSpec, Presence, Writable};
use sealdisk::secret::Secret;
use sealdisk::storage::file::FileStorage;
use sealdisk::storage::{Durability, Storage};
use sealdisk::units::{ByteCount, ByteOffset, DataUnit, DataUnitSize};
use uuid::Uuid;

const DISK_BYTES: u64 = 256 << 20;
const DEPTHS: [u128; 3] = [1, 4, 16];

/// How much of the disk in a row lies in one layer, and what is read of it at a time.
const LAYOUTS: [(&str, u64, usize); 7] = [
    ("4 KiB at random, layers change each 1 MiB", 1 << 20, 4096),
    ("4 KiB at random, layers change each 4 KiB", 4096, 4096),
    ("1 MiB in order, layers change each 16 MiB", 16 << 20, 1 << 20),
    ("1 MiB in order, layers change each 1 MiB", 1 << 20, 1 << 20),
    ("1 MiB in order, layers change each 64 KiB", 64 << 10, 1 << 20),
    ("1 MiB in order, layers change each 16 KiB", 16 << 10, 1 << 20),
    ("1 MiB in order, layers change each 4 KiB", 4096, 1 << 20),
];

/// Interleaved rounds, of which the median counts.
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(100);

/// Snapshots that are taken in a round, and rounds, each with a round without snapshots before it.
const SNAPSHOTS: u128 = 25;
const PAUSE_ROUNDS: u128 = 4;

/// Between two snapshots, and how long after the begin of one a request counts as waiting for it.
const WINDOW: Duration = Duration::from_millis(20);

/// Places in which a disk of any size is used, 4 MiB each.
const CLUSTERS: u64 = 64;
const LARGE_BYTES: u64 = 64 << 40;

fn new_layer(folder: &Path, id: u128, parent: Option<u128>) -> Layer<Writable> {
    layer_of(folder, id, parent, DISK_BYTES)
}

fn layer_of(folder: &Path, id: u128, parent: Option<u128>, size: u64) -> Layer<Writable> {
    let path = folder.join(id.to_string());
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::create(&path).expect("a file"));
    let entropy = SeededEntropy::new(id as u64);
    let key = Secret::random(64, &entropy);
    let spec = LayerSpec {
        layer_id: Uuid::from_u128(id),
        disk_id: "d-benchbenchbenchbench".to_owned(),
        parent: parent.map(Uuid::from_u128),
        size: ByteCount::new(size),
        unit: DataUnitSize::B4096,
        cipher: Cipher::Aes256XtsPlain64,
        created: Timestamp::from_unix_millis(0),
    };
    let envelope = Envelope {
        key_id: "00000000-0000-4000-8000-000000000001".to_owned(),
        key_version: "00000000-0000-4000-8000-000000000002".to_owned(),
        wrapped: vec![1; 120],
    };
    layer::format(&*storage, &spec, Some((&envelope, &key)), &entropy).expect("a new layer");
    let header = layer::read_header(&*storage).expect("its header");
    Layer::open(storage, header, Some(key)).expect("the layer")
}

/// A disk of `depth` layers that hold `stripe` bytes each in turns.
fn striped(folder: &Path, depth: u128, stripe: u64) -> Disk {
    std::fs::create_dir(folder).expect("a folder");
    let mut below: Vec<Arc<Layer<Frozen>>> = Vec::new();
    for id in 1..=depth {
        let top = new_layer(folder, id, (id > 1).then(|| id - 1));
        let disk = Disk::over(top.clone(), below.clone()).expect("a disk");
        for at in (0..DISK_BYTES).step_by(stripe as usize) {
            if u128::from(at / stripe) % depth == id - 1 {
                write(&disk, at, &mut vec![id as u8; stripe as usize]);
            }
        }
        if id == depth {
            disk.flush().expect("a flush");
            return disk;
        }
        below.insert(0, Arc::new(top.freeze()));
    }
    unreachable!("there is at least one layer")
}

fn write(disk: &Disk, at: u64, data: &mut [u8]) {
    let span = disk.span(ByteOffset::new(at), data.len());
    disk.write(&span, data, Durability::Volatile).expect("a write");
}

struct Reader<'a> {
    disk: &'a Disk,
    data: Vec<u8>,
    present: Presence,
    next: u64,
    is_random: bool,
}

impl<'a> Reader<'a> {
    fn new(disk: &'a Disk, bytes: usize) -> Self {
        let is_random = bytes == 4096;
        Self { disk, data: vec![0; bytes], present: Presence::new(), next: 0, is_random }
    }

    /// Where the next read begins.
    fn step(&mut self) -> u64 {
        let slots = DISK_BYTES / self.data.len() as u64;
        let slot = if self.is_random {
            self.next = self.next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            self.next >> 33
        } else {
            self.next += 1;
            self.next
        };
        slot % slots * self.data.len() as u64
    }

    fn read(&mut self) {
        let at = self.step();
        self.read_at(at);
    }

    fn read_at(&mut self, at: u64) {
        let span = self.disk.span(ByteOffset::new(at), self.data.len());
        let waiting = Waiting::Forbidden;
        if !self.disk.read(&span, &mut self.data, &mut self.present, waiting).expect("a read") {
            let waiting = Waiting::Allowed;
            self.disk.read(&span, &mut self.data, &mut self.present, waiting).expect("a read");
        }
    }

    /// What the kernel alone takes for it: the same bytes out of the layers' files.
    fn read_raw(&mut self, files: &[File], stripe: u64) {
        let (mut at, mut done) = (self.step(), 0);
        while done < self.data.len() {
            let count = (self.data.len() - done).min((stripe - at % stripe) as usize);
            let file = &files[(at / stripe) as usize % files.len()];
            let from = layer::DATA_OFFSET.get() + at;
            file.read_exact_at(&mut self.data[done..done + count], from).expect("a read");
            (at, done) = (at + count as u64, done + count);
        }
    }

    /// Reads a second.
    fn rate(&mut self, clock: &SystemClock, read: impl Fn(&mut Self)) -> f64 {
        let (start, mut count) = (clock.monotonic(), 0_u32);
        loop {
            (0..16).for_each(|_| read(self));
            count += 16;
            let took = clock.monotonic() - start;
            if took > ROUND {
                return f64::from(count) / took.as_secs_f64();
            }
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn depths(folder: &Path) {
    let clock = SystemClock::new();
    println!("Raw: preadv of as many bytes from 1 file and from 16, and nothing else.\n");
    println!("| reads a second, warm | depth 1 | depth 4 | depth 16 | 4 to 1 | 16 to 1 | raw |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for (index, (name, stripe, bytes)) in LAYOUTS.into_iter().enumerate() {
        let place = |depth: u128| folder.join(format!("{index}-{depth}"));
        let disks = DEPTHS.map(|depth| striped(&place(depth), depth, stripe));
        let files = DEPTHS.map(|depth| {
            let open = |id: u128| File::open(place(depth).join(id.to_string())).expect("a file");
            (1..=depth).map(open).collect::<Vec<_>>()
        });
        let mut readers = disks.each_ref().map(|disk| Reader::new(disk, bytes));
        let mut rates = DEPTHS.map(|_| (Vec::new(), Vec::new()));
        for round in 0..=ROUNDS {
            for ((reader, files), rates) in readers.iter_mut().zip(&files).zip(&mut rates) {
                let ours = reader.rate(&clock, Reader::read);
                let raw = reader.rate(&clock, |reader| reader.read_raw(files, stripe));
                // The first warms up.
                if round > 0 {
                    rates.0.push(ours);
                    rates.1.push(raw);
                }
            }
        }
        // Each round's own ratio: what slows a while of the machine down is in both of it.
        let ratio =
            |of: &[f64], to: &[f64]| median(of.iter().zip(to).map(|(a, b)| a / b).collect());
        let [one, four, sixteen] = &rates;
        println!(
            "| {name} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} | {:.2} |",
            median(one.0.clone()),
            median(four.0.clone()),
            median(sixteen.0.clone()),
            ratio(&four.0, &one.0),
            ratio(&sixteen.0, &one.0),
            ratio(&sixteen.1, &one.1)
        );
        DEPTHS.iter().for_each(|depth| {
            std::fs::remove_dir_all(place(*depth)).expect("removed");
        });
    }
}

/// A request that took long: when it began, and how long.
type Wait = (Duration, Duration);

/// Requests that are not written down: nobody would call them a pause.
const SHORT: Duration = Duration::from_micros(200);

/// Reads and writes of `bytes` bytes in turns until `is_over`; those that took long.
fn waits(
    (disk, clock): (&Disk, &SystemClock),
    bytes: usize,
    is_over: &AtomicBool,
    seed: u64,
) -> Vec<Wait> {
    let dice = SeededEntropy::new(seed);
    let mut reader = Reader::new(disk, bytes);
    let (mut data, mut waits) = (vec![seed as u8; bytes], Vec::new());
    while !is_over.load(Ordering::Relaxed) {
        let mut number = [0; 8];
        dice.fill(&mut number);
        let at = place(u64::from_le_bytes(number), bytes as u64, disk.size().get());
        let start = clock.monotonic();
        if number[7] & 1 == 1 {
            write(disk, at, &mut data);
        } else {
            reader.read_at(at);
        }
        let took = clock.monotonic() - start;
        if took > SHORT {
            waits.push((start, took));
        }
    }
    waits
}

/// Where the request with this number goes on a disk of `size` bytes.
fn place(number: u64, bytes: u64, size: u64) -> u64 {
    let of_cluster = DISK_BYTES / CLUSTERS / bytes;
    let slot = number % (CLUSTERS * of_cluster);
    slot / of_cluster * (size / CLUSTERS) + slot % of_cluster * bytes
}

/// What four threads wait for, in windows that begin with `act`. How long each act took, and the
/// longest request of each window, in milliseconds.
fn under_load(disk: &Disk, bytes: usize, acts: Vec<Box<dyn FnOnce() + '_>>) -> [Vec<f64>; 2] {
    let (clock, is_over) = (SystemClock::new(), AtomicBool::new(false));
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    std::thread::scope(|scope| {
        let (clock, is_over) = (&clock, &is_over);
        let work = |seed| scope.spawn(move || waits((disk, clock), bytes, is_over, seed));
        let threads: Vec<_> = (0..4).map(work).collect();
        let (mut took, mut begins) = (Vec::new(), Vec::new());
        for act in acts {
            std::thread::sleep(WINDOW);
            let start = clock.monotonic();
            act();
            took.push(millis(clock.monotonic() - start));
            begins.push(start);
        }
        std::thread::sleep(WINDOW);
        is_over.store(true, Ordering::Relaxed);
        let waits: Vec<Wait> =
            threads.into_iter().flat_map(|thread| thread.join().expect("it ends")).collect();
        let longest_of = |begin: &Duration| {
            let is_in = |(at, took): &&Wait| *at < *begin + WINDOW && *at + *took > *begin;
            let longest = waits.iter().filter(is_in).map(|(_, took)| *took).max();
            millis(longest.unwrap_or(SHORT))
        };
        let longest = begins.iter().map(longest_of).collect();
        [took, longest]
    })
}

fn shares(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |share: usize| values[(values.len() - 1) * share / 100];
    format!("{:.2} / {:.1} / {:.1}", at(50), at(95), at(100))
}

fn pause(folder: &Path) {
    pauses(folder, DISK_BYTES);
}

fn pause_large(folder: &Path) {
    pauses(folder, LARGE_BYTES);
}

fn pauses(folder: &Path, size: u64) {
    println!("\nA disk of {} MiB. Median, 95 % and longest, in ms, of the command,", size >> 20);
    println!("and of the longest request of each {WINDOW:?} from its begin on.\n");
    println!("| load of 4 threads | push | request with pushes | without |");
    println!("|---|---:|---:|---:|");
    for (round, bytes) in [4096, 64 << 10, 1 << 20].into_iter().enumerate() {
        let folder = folder.join(format!("pause-{size}-{round}"));
        std::fs::create_dir(&folder).expect("a folder");
        let disk = Disk::new(layer_of(&folder, 1, None, size));
        for number in 0..DISK_BYTES / bytes as u64 {
            write(&disk, place(number, bytes as u64, size), &mut vec![1; bytes]);
        }
        let [mut took, mut with, mut without] = [const { Vec::new() }; 3];
        for round in 0..PAUSE_ROUNDS {
            let nothing = || Box::new(|| {}) as Box<dyn FnOnce()>;
            let [_, longest] =
                under_load(&disk, bytes, (0..SNAPSHOTS).map(|_| nothing()).collect());
            without.extend(longest);
            let first = 2 + round * SNAPSHOTS;
            let tops =
                (first..first + SNAPSHOTS).map(|id| layer_of(&folder, id, Some(id - 1), size));
            let disk = &disk;
            let push = |top: Layer<Writable>| {
                Box::new(move || drop(disk.push(top).expect("a push"))) as Box<dyn FnOnce() + '_>
            };
            let [pushes, longest] = under_load(disk, bytes, tops.map(push).collect());
            took.extend(pushes);
            with.extend(longest);
        }
        let [took, with, without] = [took, with, without].map(shares);
        println!("| {} KiB | {took} | {with} | {without} |", bytes >> 10);
        drop(disk);
        std::fs::remove_dir_all(folder).expect("removed");
    }
}

/// Seconds to copy a file, 1 MiB at a time, and flush the copy.
fn copy(from: &Path, to: &Path, clock: &SystemClock) -> f64 {
    let start = clock.monotonic();
    let (mut from, mut to) = (File::open(from).expect("a file"), File::create(to).expect("a file"));
    let mut data = vec![0; 1 << 20];
    loop {
        let count = from.read(&mut data).expect("a read");
        if count == 0 {
            break;
        }
        to.write_all(&data[..count]).expect("a write");
    }
    to.sync_data().expect("a flush");
    (clock.monotonic() - start).as_secs_f64()
}

/// Seconds to pull a whole disk up into an empty layer, as a change of its key does.
fn pull(disk: &Disk, top: Layer<Writable>, clock: &SystemClock) -> f64 {
    let id = top.id();
    disk.push(top).expect("a push");
    let start = clock.monotonic();
    let (mut next, end) = (DataUnit::new(0), DISK_BYTES / 4096);
    while next.get() < end {
        next = disk.pull_units(id, None, next, 1024).expect("a pull").next;
    }
    disk.flush_layer(id).expect("a flush");
    (clock.monotonic() - start).as_secs_f64()
}

fn pulls(folder: &Path) {
    let clock = SystemClock::new();
    let (mut copies, mut pulls) = (Vec::new(), Vec::new());
    for round in 0..5 {
        let folder = folder.join(format!("pull-{round}"));
        let disk = striped(&folder, 1, 1 << 20);
        let mib = (DISK_BYTES >> 20) as f64;
        copies.push(mib / copy(&folder.join("1"), &folder.join("copy"), &clock));
        pulls.push(mib / pull(&disk, new_layer(&folder, 2, Some(1)), &clock));
        drop(disk);
        std::fs::remove_dir_all(folder).expect("removed");
    }
    let (copy, pull) = (median(copies), median(pulls));
    println!("\n| to the device, warm source | MiB/s | to a copy |\n|---|---:|---:|");
    println!("| a copy of the file | {copy:.0} | 1.00 |");
    println!("| a pull under a new key | {pull:.0} | {:.2} |", pull / copy);
}

type Part = (&'static str, fn(&Path));

fn main() {
    // As the daemon does: large reads look into the page cache.
    sealdisk::storage::guard_mappings().expect("a handler");
    let place = std::env::var("LAYERS_FOLDER");
    let place = place.unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    let folder = tempfile::tempdir_in(place).expect("a scratch folder");
    let asked: Vec<String> = std::env::args().skip(1).filter(|part| part != "--bench").collect();
    let large = "pause-64-tib";
    let parts: [Part; 4] =
        [("depth", depths), ("pause", pause), ("pull", pulls), (large, pause_large)];
    let is_named = |name: &str| asked.iter().any(|part| part == name);
    let is_asked = |name: &str| is_named(name) || asked.is_empty() && name != large;
    parts.iter().filter(|(name, _)| is_asked(name)).for_each(|(_, part)| part(folder.path()));
}
