//! fio as the client: one load on one server at a time, and what it cost the server.

use std::path::Path;
use std::process::Command;

/// What fio is asked to do.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// On the command line.
    pub(crate) name: &'static str,
    /// In the table.
    pub(crate) title: &'static str,
    pub(crate) pattern: &'static str,
    pub(crate) block: &'static str,
    pub(crate) depth: u32,
}

const fn load(
    (name, title): (&'static str, &'static str),
    pattern: &'static str,
    block: &'static str,
    depth: u32,
) -> Load {
    Load { name, title, pattern, block, depth }
}

/// The loads that models are compared by.
pub(crate) const LOADS: [Load; 5] = [
    load(("seq-read", "seq read 1M qd8"), "read", "1M", 8),
    load(("seq-write", "seq write 1M qd8"), "write", "1M", 8),
    load(("rand-read", "rand read 4k qd32"), "randread", "4k", 32),
    load(("rand-write", "rand write 4k qd32"), "randwrite", "4k", 32),
    load(("read-qd1", "rand read 4k qd1"), "randread", "4k", 1),
];

impl Load {
    /// Whether it is told in MiB/s and not in requests a second.
    pub(crate) fn is_large(&self) -> bool {
        self.block == "1M"
    }

    /// The unit of [`Sample::speed`].
    pub(crate) fn unit(&self) -> &'static str {
        if self.is_large() { "MiB/s" } else { "IOPS" }
    }
}

/// A server to measure.
pub(crate) struct Target<'a> {
    /// Its unix socket.
    pub(crate) socket: &'a Path,
    /// The process it runs in.
    pub(crate) process: u32,
}

/// What one run brought.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    /// In the load's unit.
    pub(crate) speed: f64,
    /// Processor time of the server, in microseconds a request.
    pub(crate) cost: f64,
}

/// Whether fio can be run here.
pub(crate) fn is_there() -> bool {
    Command::new("fio").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Runs `load` over `connections` for `seconds`, on the first `bytes` of the export `disk`.
///
/// # Panics
/// If fio fails or says what it does not say.
pub(crate) fn run(
    target: &Target<'_>,
    load: &Load,
    connections: u32,
    (seconds, bytes): (u32, u64),
) -> Sample {
    // Dirty pages of the last run are not this one's to write.
    rustix::fs::sync();
    let before = cpu_seconds(target.process);
    let output = Command::new("fio")
        .args(["--name=load", "--ioengine=nbd", "--time_based", "--group_reporting"])
        .args(["--norandommap", "--randrepeat=0", "--output-format=json"])
        .arg(format!("--uri=nbd+unix:///disk?socket={}", target.socket.display()))
        .args([format!("--rw={}", load.pattern), format!("--bs={}", load.block)])
        .args([format!("--iodepth={}", load.depth), format!("--numjobs={connections}")])
        .args([format!("--runtime={seconds}"), format!("--size={bytes}")])
        .output()
        .expect("fio runs");
    let cpu = cpu_seconds(target.process) - before;
    let text = String::from_utf8_lossy(&output.stdout);
    let start = text.find('{').expect("an answer in JSON, perhaps behind notes");
    let answer: serde_json::Value = serde_json::from_str(&text[start..]).expect("JSON");
    let job = &answer["jobs"][0];
    assert_eq!(job["error"], 0, "fio: {}", String::from_utf8_lossy(&output.stderr));
    let sum = |field: &str| {
        let side = |side: &str| job[side][field].as_f64().expect("a number");
        side("read") + side("write")
    };
    let speed = if load.is_large() { sum("bw_bytes") / f64::from(1 << 20) } else { sum("iops") };
    Sample { speed, cost: cpu * 1e6 / sum("total_ios") }
}

/// Processor time of a process so far, in steps of 10 ms.
fn cpu_seconds(process: u32) -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<f64>());
    ticks.map(|ticks| ticks.expect("a number")).sum::<f64>() / TICKS_PER_SECOND
}

/// The middle one, or between the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { values[middle - 1].midpoint(values[middle]) }
}

/// As people read it: three digits that count.
pub(crate) fn short(value: f64) -> String {
    match value {
        10_000.0.. => format!("{:.1}k", value / 1000.0),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The value behind `--name` on the command line.
pub(crate) fn argument(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1)
}
