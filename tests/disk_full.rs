//! A data directory that is full: clients get `ENOSPC` for what needs room, nothing else breaks,
//! and it goes on when room is made. On a small file system in memory, which takes root to mount.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::path::{Path, PathBuf};

use support::daemon::Daemon;
use support::{api, tools};

/// A file system of 64 MiB, unmounted when dropped.
struct Small(PathBuf);

impl Small {
    /// `None` where nothing can be mounted.
    fn mount(at: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !tools::have("mount") {
            eprintln!("SKIPPED: mounting takes root");
            return None;
        }
        std::fs::create_dir(at).unwrap();
        let at = at.to_str().unwrap();
        let arguments = ["-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs", at];
        let mounted = tools::command("mount").args(arguments).output().unwrap();
        if !mounted.status.success() {
            eprintln!("SKIPPED: {}", String::from_utf8_lossy(&mounted.stderr));
            return None;
        }
        Some(Self(at.into()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = tools::command("umount").arg("-l").arg(&self.0).output();
    }
}

/// Runs a script with libnbd connected to `uri` as `h`; what it prints.
fn libnbd(uri: &str, script: &str) -> String {
    let start = "import errno, nbd, sys\nMiB = 1 << 20\nh = nbd.NBD()\nh.connect_uri(sys.argv[1])";
    let script = format!("{start}\n{script}\nh.shutdown()\n");
    tools::run("/usr/bin/python3", &["-c", &script, uri])
}

/// Writes from the start until there is no room; prints how many MiB there were.
const FILL: &str = "
for n in range(h.get_size() // MiB):
    try:
        h.pwrite(bytes([n % 251 + 1]) * MiB, n * MiB)
    except nbd.Error as error:
        assert error.errnum == errno.ENOSPC, error
        break
else:
    raise AssertionError('never full')
print(n)";

/// What was written before is there and can be written again.
const CHECK: &str = "
for n in range(FULL):
    assert h.pread(MiB, n * MiB) == bytes([n % 251 + 1]) * MiB, n
h.pwrite(b'A' * 4096, 0)
h.pwrite(bytes([1]) * MiB, 0)
h.flush()";

#[test]
fn a_full_data_directory_refuses_what_needs_room_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(&folder.path().join("data")) else { return };
    if !tools::have("nbdsh") {
        return;
    }
    let arguments = ["--nbd-tcp", "off", "--http", "127.0.0.1:0"];
    let daemon = Daemon::start_with(&small.0, &arguments);
    daemon.disk("kept", "256M");
    daemon.disk("greedy", "256M");
    let (kept, greedy) = (daemon.uri("kept"), daemon.uri("greedy"));
    libnbd(&kept, "h.pwrite(b'K' * MiB, 0)\nh.flush()");
    tools::wait_until("space is measured", || {
        daemon.metric("sealdisk_disks_advertised_bytes") >= f64::from(512 << 20)
            && daemon.metric("sealdisk_layers_allocated_bytes") >= f64::from(1 << 20)
    });
    let free = daemon.metric("sealdisk_data_dir_free_bytes");
    assert!((1.0..f64::from(64 << 20)).contains(&free), "{free}");
    assert_eq!(health(&daemon), "enough");

    let full: u64 = libnbd(&greedy, FILL).trim().parse().unwrap();
    assert!((10..60).contains(&full), "{full} MiB");
    libnbd(&greedy, &CHECK.replace("FULL", &full.to_string()));
    // The disk beside it reads, overwrites and flushes, and has no room either.
    libnbd(
        &kept,
        "assert h.pread(MiB, 0) == b'K' * MiB\nh.pwrite(b'L' * MiB, 0)\nh.flush()\n\
         try:\n    h.pwrite(b'M' * MiB, 100 * MiB)\n    raise SystemExit('room')\n\
         except nbd.Error as error:\n    assert error.errnum == errno.ENOSPC, error",
    );
    tools::wait_until("the daemon warns", || daemon.log().contains("little space is left"));
    assert_eq!(health(&daemon), "low");
    assert_eq!(daemon.json(&["disk", "show", "greedy"])["Status"], "In_use");

    // Room is made by a client that trims, and everybody goes on.
    libnbd(&greedy, "h.trim(8 * MiB, 0)\nh.flush()");
    libnbd(&kept, "h.pwrite(b'M' * MiB, 100 * MiB)\nh.flush()");
    libnbd(&greedy, "h.pwrite(b'N' * MiB, 200 * MiB)\nh.flush()");
    tools::wait_until("the daemon calms down", || health(&daemon) == "enough");
    daemon.ok(&["disk", "detach", "greedy"]);
    daemon.ok(&["disk", "attach", "greedy"]);
    libnbd(
        &greedy,
        "assert h.pread(MiB, 200 * MiB) == b'N' * MiB\nassert h.pread(MiB, 0) == bytes(MiB)\n\
         assert h.pread(MiB, 9 * MiB) == bytes([10]) * MiB",
    );
    daemon.ok(&["disk", "detach", "greedy"]);
    daemon.ok(&["disk", "delete", "greedy", "--yes"]);
    libnbd(&kept, "assert h.pread(MiB, 100 * MiB) == b'M' * MiB");
    assert!(daemon.stop().success());
}

#[test]
fn commands_on_a_full_data_directory_are_refused_whole_and_work_again() {
    let folder = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(&folder.path().join("data")) else { return };
    if !tools::have("nbdsh") {
        return;
    }
    let daemon = Daemon::start(&small.0);
    daemon.disk("old", "256M");
    let old = daemon.uri("old");
    libnbd(&old, "h.pwrite(b'K' * MiB, 0)\nh.flush()");
    // The last page of room, too, by a file of somebody else.
    let ballast = small.0.join("ballast");
    let filled = tools::command("dd")
        .args(["if=/dev/zero", "bs=4k", &format!("of={}", ballast.display())])
        .output()
        .unwrap();
    assert!(!filled.status.success(), "dd stops when it is full");
    let mut refusals = 0;
    for number in 0..20 {
        let name = format!("new{number}");
        let output = daemon.cli(&["disk", "create", "--name", &name, "--size", "256M"]);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("full") || said.contains("space"), "{said}");
            refusals += 1;
        }
    }
    assert!(refusals > 0, "twenty disks found room");
    libnbd(&old, "assert h.pread(MiB, 0) == b'K' * MiB\nh.pwrite(b'L' * MiB, 0)\nh.flush()");
    std::fs::remove_file(ballast).unwrap();
    daemon.disk("after", "256M");
    libnbd(&daemon.uri("after"), "h.pwrite(b'N' * MiB, 0)\nh.flush()");
    // Nothing half made is left: the catalog's disks have their layers, and there are no others.
    let disks = daemon.json(&["disk", "list"]);
    let count = disks["Disks"]["Disk"].as_array().or(disks.as_array()).unwrap().len();
    let layers = std::fs::read_dir(small.0.join("layers")).unwrap().count();
    assert_eq!(layers, count, "{disks}");
    daemon.kill();
    let daemon = Daemon::start(&small.0);
    libnbd(&daemon.uri("old"), "assert h.pread(MiB, 0) == b'L' * MiB");
    assert!(daemon.stop().success());
}

#[test]
fn a_job_with_too_little_room_goes_on_by_what_it_gives_back_below() {
    let folder = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(&folder.path().join("data")) else { return };
    if !tools::have("nbdsh") {
        return;
    }
    let daemon = Daemon::start(&small.0);
    daemon.disk("db", "64M");
    let uri = daemon.uri("db");
    libnbd(&uri, "for n in range(36):\n    h.pwrite(bytes([n + 1]) * MiB, n * MiB)\nh.flush()");
    let check = "for n in range(36):\n    assert h.pread(MiB, n * MiB) == bytes([n + 1]) * MiB, n";
    let free = room(&small.0);
    assert!(free < 30 << 20, "{free} bytes free: there is room for all of it");
    let ended = daemon.json(&["disk", "rekey", "db", "--wait"]);
    assert_eq!((&ended["State"], &ended["Failure"]), (&"done".into(), &"".into()), "{ended}");
    libnbd(&uri, check);
    tools::wait_until("the old layer is gone", || {
        std::fs::read_dir(small.0.join("layers")).unwrap().count() == 1
    });
    libnbd(&uri, "h.pwrite(b'Y' * MiB, 50 * MiB)\nh.flush()");
    libnbd(&uri, check);
    assert!(daemon.stop().success());
}

/// Bytes free on a file system.
fn room(at: &Path) -> u64 {
    let found = rustix::fs::statvfs(at).unwrap();
    found.f_bavail * found.f_frsize
}

fn health(daemon: &Daemon) -> String {
    let (status, body) = api::get(daemon.http(), "/health");
    assert_eq!(status, 200);
    let health: serde_json::Value = serde_json::from_str(&body).unwrap();
    health["space"].as_str().unwrap().to_owned()
}
