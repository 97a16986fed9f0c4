//! The daemon is killed at any moment, again and again: nothing acknowledged is lost, nothing half
//! done stays.

#[path = "nbd_client/negotiation.rs"]
#[allow(dead_code)]
mod negotiation;
#[path = "nbd_client/socket.rs"]
#[allow(dead_code)]
mod socket;
mod support;
#[path = "nbd_client/transmission.rs"]
#[allow(dead_code)]
mod transmission;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use negotiation::Mode;
use serde_json::Value;
use socket::{Client, FLUSH, FUA, Place, TRIM, WRITE, WRITE_ZEROES};
use support::api;
use support::daemon::{Daemon, binary};
use support::dice::Dice;

const ROUNDS: u64 = 20;

/// How often the daemon is killed while stacks of layers change: `SEALDISK_KILLS`, or as often as
/// elsewhere here.
fn kills() -> u64 {
    let asked = std::env::var("SEALDISK_KILLS").ok();
    asked.map_or(ROUNDS, |text| text.parse().expect("SEALDISK_KILLS is a number"))
}

const BLOCK: u64 = 4096;
/// Blocks of each client.
const BLOCKS: u64 = 1024;
const CLIENTS: u64 = 4;

/// What a part of the disk must hold: each block is its mark over and over, 0 for zeros.
#[derive(Clone, Debug)]
struct Region {
    first: u64,
    /// By the last request that was acknowledged. A kill takes nothing from the page cache, so it
    /// need not have been flushed.
    acknowledged: Vec<u64>,
    /// By the request under way when the daemon died.
    in_flight: Option<(u64, u64, u64)>,
    /// Whether a trim leaves zeros: over a snapshot it leaves what was there.
    is_trim_zero: bool,
}

impl Region {
    fn new(number: u64) -> Self {
        let acknowledged = vec![0; BLOCKS as usize];
        Self { first: number * BLOCKS, acknowledged, in_flight: None, is_trim_zero: true }
    }

    /// Works until the daemon dies; how many requests it answered.
    fn work(&mut self, place: &Place, dice: &mut Dice) -> u64 {
        let mut client = Client::connect(place, "db", Mode::Simple);
        for answered in 0.. {
            let start = dice.below(BLOCKS);
            let count = 1 + dice.below(64).min(BLOCKS - start - 1);
            let flags = if dice.below(4) == 0 { FUA } else { 0 };
            let (command, mark) = match dice.below(10) {
                0 => (FLUSH, None),
                1 if self.is_trim_zero => (TRIM, Some(0)),
                1 | 2 => (WRITE_ZEROES, Some(0)),
                _ => (WRITE, Some(dice.next() | 1)),
            };
            let (at, length, flags) = match mark {
                None => (0, 0, 0),
                Some(mark) => {
                    self.in_flight = Some((start, count, mark));
                    ((self.first + start) * BLOCK, count * BLOCK, flags)
                }
            };
            let payload = match (command, mark) {
                (WRITE, Some(mark)) => mark.to_le_bytes().repeat((length / 8) as usize),
                _ => vec![],
            };
            if client.send((command, flags), at, length, &payload).is_err() {
                return answered;
            }
            let mut reply = [0; 16];
            if client.wire.read_exact(&mut reply).is_err() {
                return answered;
            }
            assert_eq!(reply[4..8], [0; 4], "an error for {command}");
            if let Some((start, count, mark)) = self.in_flight.take() {
                self.acknowledged[start as usize..(start + count) as usize].fill(mark);
            }
        }
        unreachable!("the daemon dies before")
    }

    /// Compares with the disk and takes over which of old and new it is.
    fn verify(&mut self, client: &mut Client, round: u64) {
        let data = client.read(self.first * BLOCK, BLOCKS * BLOCK);
        for (number, block) in data.chunks(BLOCK as usize).enumerate() {
            let mark = u64::from_le_bytes(block[..8].try_into().unwrap());
            let is_whole = block.chunks(8).all(|part| part == mark.to_le_bytes());
            assert!(is_whole, "round {round}: block {number} is torn");
            let old = self.acknowledged[number];
            let new = self
                .in_flight
                .filter(|(start, count, _)| (*start..start + count).contains(&(number as u64)));
            let is_allowed = mark == old || new.is_some_and(|(_, _, new)| mark == new);
            assert!(
                is_allowed,
                "round {round}: block {number}: {mark:x}, not {old:x} nor {new:x?}"
            );
            self.acknowledged[number] = mark;
        }
        self.in_flight = None;
    }
}

#[test]
fn killed_at_any_moment_no_acknowledged_write_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut daemon = Daemon::start(&data);
    let size = CLIENTS * BLOCKS * BLOCK;
    daemon.disk("db", &format!("{}M", size >> 20));
    let place = Place::Unix(daemon.nbd_socket());
    let mut regions: Vec<Region> = (0..CLIENTS).map(Region::new).collect();
    let mut dice = Dice::new(20);
    let mut answered = 0;
    for round in 0..ROUNDS {
        let patience = Duration::from_millis(20 + dice.below(300));
        std::thread::scope(|scope| {
            let workers: Vec<_> = regions
                .iter_mut()
                .map(|region| {
                    let (place, mut dice) = (&place, Dice::new(dice.next()));
                    scope.spawn(move || region.work(place, &mut dice))
                })
                .collect();
            // The moment is what varies; each worker is connected or will find nobody.
            std::thread::sleep(Duration::from_millis(50) + patience);
            daemon.kill();
            answered += workers.into_iter().map(|worker| worker.join().unwrap()).sum::<u64>();
        });
        daemon = Daemon::start(&data);
        let mut client = Client::connect(&place, "db", Mode::Simple);
        regions.iter_mut().for_each(|region| region.verify(&mut client, round));
    }
    assert!(answered > ROUNDS * CLIENTS, "only {answered} requests in all");
    assert!(daemon.stop().success());
}

#[test]
fn killed_while_disks_come_and_go_no_half_disk_stays() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut daemon = Daemon::start(&data);
    let endpoint = format!("unix:{}", data.join("api.sock").display());
    let mut dice = Dice::new(21);
    for round in 0..ROUNDS {
        let (endpoint, name) = (endpoint.clone(), format!("round{round}"));
        let worker = std::thread::spawn(move || {
            let run = |arguments: &[&str]| {
                let mut command = std::process::Command::new(binary());
                command.args(["--endpoint", &endpoint]).args(arguments);
                command.output().unwrap().status.success()
            };
            let mut commands = 0;
            for number in 0.. {
                let name = format!("{name}-{number}");
                let create = ["disk", "create", "--name", &name, "--size", "8M", "--attach"];
                let steps: [&[&str]; 3] = [
                    if number % 3 == 0 { &create } else { &create[..6] },
                    if number % 3 == 0 { &["disk", "detach", &name] } else { &[] },
                    if number % 5 == 4 { &[] } else { &["disk", "delete", &name, "--yes"] },
                ];
                for step in steps.into_iter().filter(|step| !step.is_empty()) {
                    if !run(step) {
                        return commands;
                    }
                    commands += 1;
                }
            }
            commands
        });
        std::thread::sleep(Duration::from_millis(100 + dice.below(600)));
        daemon.kill();
        worker.join().unwrap();
        daemon = Daemon::start(&data);
        assert_whole(&daemon, round);
    }
    assert!(daemon.stop().success());
}

fn assert_whole(daemon: &Daemon, round: u64) {
    let listed = daemon.json(&["disk", "list"]);
    let disks = listed["Disks"]["Disk"].as_array().or(listed.as_array());
    let disks = disks.unwrap_or_else(|| panic!("{listed}"));
    for disk in disks {
        let status = disk["Status"].as_str().unwrap();
        assert!(["Available", "In_use"].contains(&status), "round {round}: {disk}");
        let id = disk["DiskId"].as_str().unwrap();
        // Panics if there is none.
        daemon.layer_file(id);
        match status {
            "In_use" => {
                let place = Place::Unix(daemon.nbd_socket());
                assert_eq!(Client::connect(&place, id, Mode::Simple).read(0, BLOCK), [0; 4096]);
            }
            _ => drop(daemon.ok(&["disk", "attach", id])),
        }
        daemon.ok(&["disk", "detach", id]);
    }
    let files: Vec<_> = std::fs::read_dir(daemon.data_dir().join("layers"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(files.len(), disks.len(), "round {round}: {files:?} for {listed}");
}

/// Calls an action; nothing if the daemon dies before it has answered.
fn ask(socket: &Path, version: &str, action: &str, parameters: &[(&str, &str)]) -> Option<Value> {
    let fixed = [("Action", action), ("Version", version)];
    let pairs = fixed.iter().chain(parameters).map(|(name, value)| format!("{name}={value}"));
    let form = pairs.collect::<Vec<String>>().join("&");
    let request = format!(
        "POST / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}",
        form.len()
    );
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

/// Changes the layers of the disk `db` in every way until the daemon dies. `size` is the disk's, in
/// bytes, as far as that was answered. Returns how many changes were made.
fn change_layers(socket: &Path, disk: &str, size: &AtomicU64, dice: &mut Dice) -> u64 {
    let mut changes = 0;
    loop {
        let grown = (size.load(Ordering::Relaxed) + 65536).to_string();
        let on_disk = ("DiskId", disk);
        let made = match dice.below(8) {
            0 | 1 => ask(socket, api::ECS, "CreateSnapshot", &[on_disk]),
            2..=4 => {
                let Some(listed) = ask(socket, api::ECS, "DescribeSnapshots", &[on_disk]) else {
                    return changes;
                };
                let found = listed["Snapshots"]["Snapshot"].as_array().cloned();
                let found = found.unwrap_or_default();
                // A few are left to be compared.
                if found.len() < 4 {
                    continue;
                }
                let one = &found[dice.below(found.len() as u64) as usize]["SnapshotId"];
                let one = [("SnapshotId", one.as_str().unwrap()), ("Force", "true")];
                ask(socket, api::ECS, "DeleteSnapshot", &one)
            }
            5 => ask(socket, api::OWN, "RekeyDisk", &[on_disk, ("Pace", "full")]),
            6 => ask(socket, api::OWN, "FlattenDisk", &[on_disk, ("Pace", "full")]),
            _ => ask(socket, api::OWN, "ResizeLocalDisk", &[on_disk, ("SizeBytes", &grown)]),
        };
        let Some(made) = made else { return changes };
        match made["Code"].as_str() {
            None => changes += 1,
            // Another job is at work.
            Some("OperationConflict") => {}
            // The answer to the resize before was lost.
            Some("InvalidDiskSize.TooSmall") => {}
            Some(_) => panic!("{made}"),
        }
        if made["Code"] == "InvalidDiskSize.TooSmall" || made["SizeBytes"].is_u64() {
            size.fetch_add(65536, Ordering::Relaxed);
        }
    }
}

/// What a snapshot holds, read through a disk made of it.
fn content_of(daemon: &Daemon, snapshot: &str) -> Vec<u8> {
    let name = ["--name", "look", "--attach"];
    daemon.ok(&[&["disk", "create", "--snapshot", snapshot][..], &name].concat());
    let mut client = Client::connect(&Place::Unix(daemon.nbd_socket()), "look", Mode::Simple);
    let held = client.read(0, CLIENTS * BLOCKS * BLOCK);
    drop(client);
    daemon.ok(&["disk", "detach", "look"]);
    daemon.ok(&["disk", "delete", "look", "--yes"]);
    held
}

#[test]
fn killed_while_layers_change_no_write_is_lost_and_no_snapshot_changes() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut daemon = Daemon::start(&data);
    let bytes = CLIENTS * BLOCKS * BLOCK;
    let disk = daemon.disk("db", &format!("{}M", bytes >> 20));
    let place = Place::Unix(daemon.nbd_socket());
    let socket = daemon.api_socket();
    let region = |number| Region { is_trim_zero: false, ..Region::new(number) };
    let mut regions: Vec<Region> = (0..CLIENTS).map(region).collect();
    let mut snapshots: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut dice = Dice::new(22);
    let (mut answered, mut changes) = (0, 0);
    let size = AtomicU64::new(bytes);
    for round in 0..kills() {
        let patience = Duration::from_millis(50 + dice.below(400));
        std::thread::scope(|scope| {
            let workers: Vec<_> = regions
                .iter_mut()
                .map(|region| {
                    let (place, mut dice) = (&place, Dice::new(dice.next()));
                    scope.spawn(move || region.work(place, &mut dice))
                })
                .collect();
            let mut dice = Dice::new(dice.next());
            let (socket, disk, size) = (&socket, &disk, &size);
            let changer = scope.spawn(move || change_layers(socket, disk, size, &mut dice));
            std::thread::sleep(Duration::from_millis(50) + patience);
            daemon.kill();
            answered += workers.into_iter().map(|worker| worker.join().unwrap()).sum::<u64>();
            changes += changer.join().unwrap();
        });
        daemon = Daemon::start(&data);
        let shown = daemon.json(&["disk", "show", "db"]);
        assert_eq!(shown["Status"], "In_use", "round {round}: {shown}");
        let log = daemon.log();
        let unopened = log.lines().find(|line| line.contains("not opened"));
        assert_eq!(unopened, None, "round {round}");
        size.store(shown["SizeBytes"].as_u64().unwrap(), Ordering::Relaxed);
        let mut client = Client::connect(&place, "db", Mode::Simple);
        regions.iter_mut().for_each(|region| region.verify(&mut client, round));
        drop(client);
        snapshots = compare_snapshots(&daemon, &snapshots, round);
    }
    assert!(answered > kills() * CLIENTS, "only {answered} requests in all");
    assert!(changes > kills(), "only {changes} changes of layers in all");
    assert!(daemon.stop().success());
}

/// Every snapshot there is holds what it held before; what they hold, for the next time.
fn compare_snapshots(
    daemon: &Daemon,
    before: &BTreeMap<String, Vec<u8>>,
    round: u64,
) -> BTreeMap<String, Vec<u8>> {
    let listed = ask(&daemon.api_socket(), api::ECS, "DescribeSnapshots", &[]).unwrap();
    let listed = listed["Snapshots"]["Snapshot"].as_array().unwrap().clone();
    let mut after = BTreeMap::new();
    for snapshot in listed {
        assert_eq!(snapshot["Status"], "accomplished", "round {round}: {snapshot}");
        let id = snapshot["SnapshotId"].as_str().unwrap().to_owned();
        let held = content_of(daemon, &id);
        assert!(before.get(&id).is_none_or(|seen| *seen == held), "round {round}: {id} changed");
        after.insert(id, held);
    }
    after
}
