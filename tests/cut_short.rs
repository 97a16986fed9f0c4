//! A layer file that is cut short while its disk is served, in the middle of large reads: the
//! client is told, and nobody else notices.

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

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use negotiation::Mode;
use socket::{Client, Place, READ};
use support::daemon::Daemon;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;

/// Of the disk, what is left in the file.
const LEFT: u64 = 32 * MIB;

const EIO: u32 = 5;

/// Beside the build, for a temporary folder may lie in memory.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn filled(place: &Place, disk: &str, byte: u8) -> Client {
    let mut client = Client::connect(place, disk, Mode::Structured);
    (0..SIZE / MIB).for_each(|number| client.write(number * MIB, &[byte; MIB as usize]));
    client
}

fn set_len(layer: &Path, len: u64) {
    OpenOptions::new().write(true).open(layer).unwrap().set_len(len).unwrap();
}

/// Reads the whole disk, several requests at a time, until it has met an error or `is_over`.
fn read_until_error(place: &Place, is_over: &AtomicBool) -> u64 {
    let mut client = Client::connect(place, "db", Mode::Structured);
    let mut errors = 0;
    while errors == 0 && !is_over.load(Ordering::Relaxed) {
        for start in (0..SIZE).step_by(8 * MIB as usize) {
            let places: Vec<u64> = (start..start + 8 * MIB).step_by(MIB as usize).collect();
            let sent: Vec<(u64, u64)> = places
                .iter()
                .map(|at| (client.send((READ, 0), *at, MIB, &[]).unwrap(), *at))
                .collect();
            let replies = client.all_replies();
            for (cookie, at) in sent {
                let reply = &replies[&cookie];
                if reply.error == 0 {
                    assert!(reply.data == [7; MIB as usize], "other bytes at {at}");
                    continue;
                }
                assert_eq!(reply.error, EIO, "{}", reply.text);
                assert!(at >= LEFT, "what is left can be read: {at}");
                errors += 1;
            }
        }
    }
    errors
}

#[test]
fn large_reads_of_a_layer_cut_short_are_errors_and_others_go_on() {
    let folder = scratch();
    let daemon = Daemon::start(&folder.path().join("data"));
    let layer = daemon.layer_file(&daemon.disk("db", "64M"));
    daemon.disk("other", "64M");
    let place = Place::Unix(daemon.nbd_socket());
    let mut other = filled(&place, "other", 9);
    let whole = std::fs::metadata(&layer).unwrap().len();
    for _ in 0..4 {
        drop(filled(&place, "db", 7));
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers: Vec<_> =
                (0..2).map(|_| scope.spawn(|| read_until_error(&place, &is_over))).collect();
            let beside = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let at = 40 * MIB;
                    assert!(other.read(at, MIB) == [9; MIB as usize]);
                }
            });
            std::thread::sleep(std::time::Duration::from_millis(100));
            // The header stands before the disk's bytes.
            set_len(&layer, whole - SIZE + LEFT);
            for reader in readers {
                assert!(reader.join().unwrap() > 0, "it is told of what is gone");
            }
            is_over.store(true, Ordering::Relaxed);
            beside.join().unwrap();
        });
        set_len(&layer, whole);
        daemon.ok(&["disk", "detach", "db"]);
        daemon.ok(&["disk", "attach", "db"]);
    }
    let mut client = filled(&place, "db", 8);
    assert!(client.read(40 * MIB, MIB) == [8; MIB as usize], "written anew, read again");
    assert!(daemon.stop().success());
}
