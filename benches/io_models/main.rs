//! Ways to move the bytes of an NBD connection, against each other: three small servers over one
//! encrypted disk, and the product. fio is the client; runs are interleaved, so that a busy moment
//! of the machine hits all of them. Prints Markdown.
//!
//! ```text
//! cargo bench --bench io_models -- --loads seq-read,rand-read --rounds 5 --seconds 1
//! ```

#![allow(missing_docs)]

mod check;
mod fio;
mod house;
mod product;
mod request_work;
mod thread_model;
mod tokio_model;
mod uring_memory;
mod uring_model;

use std::path::{Path, PathBuf};

use fio::{LOADS, Load, Sample, Target, median, short};
use house::{DISK_BYTES, House};
use thread_model::Large;
use uring_model::{FileRoute, Receiving};

/// Connections of a run.
const CONNECTIONS: [u32; 2] = [1, 4];

struct Model {
    title: &'static str,
    socket: PathBuf,
    process: u32,
}

fn models(folder: &Path) -> Vec<Model> {
    let house = House::with_disk(folder);
    let socket = |name: &str| folder.join(name);
    tokio_model::start(&house, &socket("a"));
    thread_model::start(&house, &socket("b1"), Large::Here);
    thread_model::start(&house, &socket("b2"), Large::InPool);
    uring_model::start(&house, &socket("c1"), (FileRoute::Inline, Receiving::Single));
    uring_model::start(&house, &socket("c2"), (FileRoute::Ring, Receiving::Single));
    uring_model::start(&house, &socket("c3"), (FileRoute::Inline, Receiving::Multishot));
    let titles = [
        ("a", "a: tokio"),
        ("b1", "b: threads"),
        ("b2", "b: threads and pool"),
        ("c1", "c: ring, file inline"),
        ("c2", "c: ring, file in it"),
        ("c3", "c: ring, multishot, file inline"),
    ];
    let process = std::process::id();
    titles.map(|(name, title)| Model { title, socket: socket(name), process }).into()
}

fn measure(models: &[Model], load: &Load, connections: u32, (rounds, seconds): (u32, u32)) {
    let mut samples: Vec<Vec<Sample>> = models.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (model, samples) in models.iter().zip(&mut samples) {
            let target = Target { socket: &model.socket, process: model.process };
            samples.push(fio::run(&target, load, connections, (seconds, DISK_BYTES)));
        }
    }
    let cells = samples.iter().map(|samples| {
        let speeds: Vec<f64> = samples.iter().map(|sample| sample.speed).collect();
        let costs = samples.iter().map(|sample| sample.cost).collect();
        let ends = speeds
            .iter()
            .copied()
            .fold((f64::MAX, 0.0_f64), |ends, speed| (ends.0.min(speed), ends.1.max(speed)));
        let (speed, cost) = (short(median(speeds)), short(median(costs)));
        format!("{speed} ({}–{}); {cost} µs", short(ends.0), short(ends.1))
    });
    let cells: Vec<String> = cells.collect();
    let several =
        if connections > 1 { format!(", {connections} connections") } else { String::new() };
    println!("| {}{several}, {} | {} |", load.title, load.unit(), cells.join(" | "));
}

fn main() {
    // `cargo test` runs benches without this.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    if !fio::is_there() {
        println!("io_models needs fio (Debian package fio)");
        return;
    }
    let number = |name, default| fio::argument(name).map_or(default, |it| it.parse().expect(name));
    let (rounds, seconds) = (number("--rounds", 3), number("--seconds", 1));
    let wanted = fio::argument("--loads");
    let is_wanted = |load: &&Load| {
        wanted.as_ref().is_none_or(|names| names.split(',').any(|name| name == load.name))
    };
    let folder = tempfile::tempdir().expect("a scratch folder");
    let mut models = models(folder.path());
    check::every_model_reads_what_the_others_wrote(&models);
    let daemon = product::Daemon::start(&folder.path().join("data"), "disk", DISK_BYTES);
    let (socket, process) = (daemon.socket.clone(), daemon.process());
    check::fill(&socket);
    models.push(Model { title: "sealdisk", socket, process });
    let titles: Vec<&str> = models.iter().map(|model| model.title).collect();
    println!("| | {} |\n|---|{}", titles.join(" | "), "---:|".repeat(models.len()));
    for load in LOADS.iter().filter(is_wanted) {
        for connections in CONNECTIONS {
            measure(&models, load, connections, (rounds, seconds));
        }
    }
}
