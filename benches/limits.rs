//! What this machine can do at most, part by part: memory, sockets, page cache, cipher, device,
//! and a server that answers without a disk. Prints Markdown. No server of ours can be faster
//! than its slowest part here.
//!
//! ```text
//! cargo bench --bench limits
//! cargo bench --bench limits -- --parts null --rounds 5
//! ```

#![allow(missing_docs)]
#![allow(dead_code, reason = "the models' files hold more than is used here")]

#[path = "io_models/fio.rs"]
mod fio;
#[path = "io_models/house.rs"]
mod house;
#[path = "io_models/request_work.rs"]
mod request_work;
#[path = "io_models/thread_model.rs"]
mod thread_model;

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use fio::{LOADS, Target, argument, median, short};
use sealdisk::clock::{Clock, SeededEntropy, SystemClock};
use sealdisk::crypto::engine::Engine;
use sealdisk::crypto::xts::{DATA_KEY_BYTES, XtsCipher};
use sealdisk::secret::Secret;
use sealdisk::units::{DataUnit, DataUnitSize};

/// Time of one sample.
const SAMPLE_SECONDS: f64 = 0.1;

/// Samples of which the median counts.
const SAMPLES: usize = 5;

/// Far more than the caches hold.
const UNCACHED_BYTES: usize = 512 << 20;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Seconds that one call of `work` takes: the median over samples of many calls.
fn seconds_of(mut work: impl FnMut()) -> f64 {
    let clock = SystemClock::new();
    work();
    let sample = |work: &mut dyn FnMut()| {
        let (start, mut calls) = (clock.monotonic(), 0_u32);
        loop {
            work();
            calls += 1;
            let took = (clock.monotonic() - start).as_secs_f64();
            if took > SAMPLE_SECONDS {
                return took / f64::from(calls);
            }
        }
    };
    median((0..SAMPLES).map(|_| sample(&mut work)).collect())
}

fn row(what: &str, bytes: usize, seconds: f64) {
    let rate = bytes as f64 / seconds / 1e9;
    println!("| {what} | {} | {} |", short(rate), short(seconds * 1e6));
}

fn name_of(bytes: usize) -> String {
    if bytes >= MIB { format!("{} MiB", bytes / MIB) } else { format!("{} KiB", bytes / KIB) }
}

fn memory() {
    let from = vec![7_u8; UNCACHED_BYTES];
    // Not zeros: those pages would be given only when they are written, while we measure.
    let mut to = vec![1_u8; UNCACHED_BYTES];
    for bytes in [4 * KIB, MIB] {
        let name = name_of(bytes);
        let cached = seconds_of(|| black_box(&mut to)[..bytes].copy_from_slice(&from[..bytes]));
        row(&format!("memcpy {name}, in the cache"), bytes, cached);
        // A stride that no cache line and no prefetched page of the last round serves.
        let (step, mut at) = ((bytes + 68 * KIB).next_multiple_of(4 * KIB), 0);
        let uncached = seconds_of(|| {
            at = if at + step + bytes > UNCACHED_BYTES { 0 } else { at + step };
            black_box(&mut to)[at..at + bytes].copy_from_slice(&from[at..at + bytes]);
        });
        row(&format!("memcpy {name}, out of the cache"), bytes, uncached);
    }
}

/// One thread sends, one receives; each message is written and read whole.
fn sockets() {
    for bytes in [4 * KIB, MIB] {
        let (mut sender, mut receiver) = UnixStream::pair().expect("two sockets");
        for end in [&sender, &receiver] {
            let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(end, 4 * MIB);
        }
        let sink = std::thread::spawn(move || {
            let mut message = vec![0; bytes];
            while receiver.read_exact(&mut message).is_ok() {}
        });
        let message = vec![7; bytes];
        let seconds = seconds_of(|| sender.write_all(&message).expect("the other end reads"));
        row(&format!("unix socket, {} messages, two threads", name_of(bytes)), bytes, seconds);
        drop(sender);
        sink.join().expect("the receiver");
    }
}

fn page_cache(folder: &Path) {
    const FILE_BYTES: usize = 256 * MIB;
    let file = File::options().create_new(true).read(true).write(true).open(folder.join("pages"));
    let file = file.expect("a file");
    let mut data = vec![7; MIB];
    // In pieces of 64 KiB, as the product writes: later small writes are slower in larger folios.
    (0..FILE_BYTES).step_by(64 * KIB).for_each(|at| {
        file.write_all_at(&data[..64 * KIB], at as u64).expect("room");
    });
    let mut random = 1_u64;
    let mut place = |bytes: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((random >> 33) as usize % (FILE_BYTES / bytes) * bytes) as u64
    };
    for bytes in [4 * KIB, 64 * KIB, MIB] {
        let read = seconds_of(|| {
            file.read_exact_at(&mut data[..bytes], place(bytes)).expect("the file");
        });
        row(&format!("pread {}, page cache, random", name_of(bytes)), bytes, read);
    }
    for bytes in [4 * KIB, 64 * KIB, MIB] {
        let write =
            seconds_of(|| file.write_all_at(&data[..bytes], place(bytes)).expect("the file"));
        row(&format!("pwrite {}, page cache, random", name_of(bytes)), bytes, write);
    }
    file.sync_all().expect("the device");
    let sync = seconds_of(|| {
        file.write_all_at(&data[..4 * KIB], place(4 * KIB)).expect("the file");
        file.sync_data().expect("the device");
    });
    row("pwrite 4 KiB and fdatasync", 4 * KIB, sync);
}

fn cipher() {
    let key = Secret::random(DATA_KEY_BYTES, &SeededEntropy::new(1));
    for engine in Engine::available() {
        let cipher = XtsCipher::new(engine, &key).expect("a good key");
        for unit in [DataUnitSize::B512, DataUnitSize::B4096] {
            for bytes in [4 * KIB, MIB] {
                let (mut data, first) = (vec![7; bytes], DataUnit::new(1 << 20));
                let what = format!("{engine}, units of {} bytes, {}", unit.bytes(), name_of(bytes));
                let seconds = seconds_of(|| cipher.encrypt_in_place(unit, first, &mut data));
                row(&format!("encrypt, {what}"), bytes, seconds);
                let seconds = seconds_of(|| cipher.decrypt_in_place(unit, first, &mut data));
                row(&format!("decrypt, {what}"), bytes, seconds);
            }
        }
    }
}

/// The product's handshake, parser and encoder on a thread for each connection; reads are answered
/// from whatever the buffer holds, writes are received and dropped.
fn null_server(folder: &Path) {
    if !fio::is_there() {
        println!("\nThe null server needs fio (Debian package fio).");
        return;
    }
    let socket = folder.join("null");
    thread_model::start(&house::House::without_disk(), &socket, thread_model::Large::Here);
    let target = Target { socket: &socket, process: std::process::id() };
    let rounds = argument("--rounds").map_or(3, |rounds| rounds.parse().expect("a number"));
    println!("\n| null server | 1 connection | 4 connections |\n|---|---:|---:|");
    for load in LOADS {
        let speed = |connections| {
            let run = |_| fio::run(&target, &load, connections, (1, house::DISK_BYTES)).speed;
            short(median((0..rounds).map(run).collect()))
        };
        println!("| {}, {} | {} | {} |", load.title, load.unit(), speed(1), speed(4));
    }
}

fn main() {
    // `cargo test` runs benches without this.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let folder = tempfile::tempdir().expect("a scratch folder");
    let parts = argument("--parts");
    let is_wanted = |part| parts.as_ref().is_none_or(|parts| parts.split(',').any(|it| it == part));
    println!("| one thread | GB/s | µs each |\n|---|---:|---:|");
    if is_wanted("memory") {
        memory();
    }
    if is_wanted("sockets") {
        sockets();
    }
    if is_wanted("files") {
        page_cache(folder.path());
    }
    if is_wanted("cipher") {
        cipher();
    }
    if is_wanted("null") {
        null_server(folder.path());
    }
}
