//! The daemon against clients that are slow, rude, gone or many: sockets and time, which the tests
//! of the protocol machines cannot show.

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

use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use negotiation::{MODES, Mode};
use socket::{Client, DISCONNECT, FLUSH, FUA, Place, READ, TRIM, WRITE, WRITE_ZEROES, Wire};
use support::daemon::{Daemon, signal};
use support::dice::Dice;

const MIB: u64 = 1 << 20;

/// Nothing here takes that long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn places(daemon: &Daemon) -> [Place; 2] {
    [Place::Unix(daemon.nbd_socket()), Place::Tcp(daemon.nbd_tcp())]
}

fn daemon_with_disk(data: &Path, nbd: &[&str]) -> Daemon {
    let daemon = Daemon::start_configured(data, nbd);
    daemon.disk("db", "64M");
    daemon
}

/// Waits for what must become true.
fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait_for_connections(daemon: &Daemon, count: f64) {
    eventually(&format!("{count} connections"), || {
        daemon.metric("sealdisk_nbd_connections") == count
    });
}

/// Memory of its own: pages of files that it has mapped belong to the page cache.
fn resident_bytes(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn who_does_not_finish_the_handshake_in_time_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon_with_disk(&folder.path().join("data"), &["handshake_timeout: 1s"]);
    for place in places(&daemon) {
        let begun = Instant::now();
        assert!(place.dial().ends(), "a silent client");
        assert!(begun.elapsed() >= Duration::from_millis(900), "closed before its time");
        let mut dripping = place.dial();
        dripping.write_all(negotiation::FIXED).unwrap();
        let endless = negotiation::option(99, &[7; 4096]);
        let mut reading = dripping.try_clone();
        let watch = std::thread::spawn(move || reading.ends());
        for byte in endless {
            std::thread::sleep(Duration::from_millis(100));
            if dripping.write_all(&[byte]).is_err() {
                break;
            }
        }
        assert!(watch.join().unwrap());
        // A client in transmission may be idle as long as it likes.
        let mut idle = Client::connect(&place, "db", Mode::Simple);
        std::thread::sleep(Duration::from_millis(1500));
        idle.read(0, 4096);
    }
    assert!(daemon.stop().success());
}

#[test]
fn a_handshake_is_not_prolonged_by_reading_its_answers_slowly() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = daemon_with_disk(&data, &["handshake_timeout: 1s"]);
    // Long names, so that the answers are far more than sockets hold.
    for number in 0..60 {
        daemon.disk(&format!("{}{number}", "n".repeat(126)), "1M");
    }
    let mut wire = Place::Unix(daemon.nbd_socket()).dial();
    wire.write_all(negotiation::FIXED).unwrap();
    wire.write_all(&negotiation::option(3, &[]).repeat(1000)).unwrap();
    let begun = Instant::now();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut answer = vec![0; 24 << 10];
            while !is_over.load(Ordering::Relaxed) && matches!(wire.read(&mut answer), Ok(1..)) {
                std::thread::sleep(Duration::from_millis(250));
            }
        });
        wait_for_connections(&daemon, 1.0);
        wait_for_connections(&daemon, 0.0);
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(begun.elapsed() < Duration::from_secs(10), "it was served as long as it read");
}

#[test]
fn beyond_the_connection_limit_clients_are_refused_until_others_leave() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon_with_disk(&folder.path().join("data"), &["max_connections: 4"]);
    for place in places(&daemon) {
        let mut clients: Vec<Client> =
            (0..4).map(|_| Client::connect(&place, "db", Mode::Structured)).collect();
        assert!(place.dial().ends(), "the fifth is closed at once");
        clients.iter_mut().for_each(|client| assert_eq!(client.read(0, 512).len(), 512));
        clients.pop();
        wait_for_connections(&daemon, 3.0);
        clients.push(Client::connect(&place, "db", Mode::Structured));
        clients.iter_mut().for_each(|client| client.write(0, &[1; 512]));
        drop(clients);
        wait_for_connections(&daemon, 0.0);
    }
}

#[test]
fn hundreds_of_half_open_handshakes_hold_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon_with_disk(&folder.path().join("data"), &["handshake_timeout: 2s"]);
    for place in places(&daemon) {
        let idle: Vec<Wire> = (0..200).map(|_| place.dial()).collect();
        let mut client = Client::connect(&place, "db", Mode::Extended);
        for round in 0..100u8 {
            client.write(0, &[round; 8192]);
            assert_eq!(client.read(0, 8192), [round; 8192]);
        }
        for mut wire in idle {
            assert!(wire.ends());
        }
        wait_for_connections(&daemon, 1.0);
        drop(client);
    }
}

#[test]
fn a_write_whose_client_vanishes_midway_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon_with_disk(&folder.path().join("data"), &[]);
    for place in places(&daemon) {
        let mut witness = Client::connect(&place, "db", Mode::Simple);
        for mode in MODES {
            for sent in [0, 1, 4096, 700_000, MIB as usize - 1] {
                witness.write(0, &vec![0xaa; MIB as usize]);
                let mut client = Client::connect(&place, "db", mode);
                client.send((WRITE, 0), 0, MIB, &vec![0xbb; sent]).unwrap();
                drop(client);
                wait_for_connections(&daemon, 1.0);
                assert!(witness.read(0, MIB) == vec![0xaa; MIB as usize], "{mode:?} {sent}");
            }
        }
        drop(witness);
        wait_for_connections(&daemon, 0.0);
    }
}

/// 64 requests of all kinds in one piece; `false`: none that changes anything.
fn many_requests(client: &mut Client) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..64 {
        let (what, length) = match number % 4 {
            0 => ((WRITE, FUA), 64 << 10),
            1 => ((READ, 0), 64 << 10),
            2 => ((FLUSH, 0), 0),
            _ => ((WRITE_ZEROES, FUA), 64 << 10),
        };
        let at = if length == 0 { 0 } else { number * MIB / 4 };
        let request = client.request(what.0, what.1, at, length);
        let payload = if what.0 == WRITE { vec![number as u8; 64 << 10] } else { vec![] };
        bytes.extend(client.encode(&request, &payload));
    }
    bytes
}

#[test]
fn after_a_disconnect_every_request_before_it_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon_with_disk(&folder.path().join("data"), &[]);
    for place in places(&daemon) {
        for mode in MODES {
            let mut client = Client::connect(&place, "db", mode);
            let mut bytes = many_requests(&mut client);
            let goodbye = client.request(DISCONNECT, 0, 0, 0);
            bytes.extend(client.encode(&goodbye, &[]));
            client.wire.write_all(&bytes).unwrap();
            let mut answered = 0;
            while let Some((_, reply)) = client.next_reply() {
                assert_eq!(reply.error, 0);
                answered += 1;
            }
            assert_eq!(answered, 64, "{place:?} {mode:?}");
        }
    }
}

#[test]
fn requests_that_came_whole_are_answered_when_the_stream_ends_within_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon_with_disk(&folder.path().join("data"), &[]);
    for place in places(&daemon) {
        for mode in MODES {
            let mut client = Client::connect(&place, "db", mode);
            let mut bytes = many_requests(&mut client);
            let last = client.request(WRITE, 0, 32 * MIB, MIB);
            bytes.extend(client.encode(&last, &[0xee; 1000]));
            client.wire.write_all(&bytes).unwrap();
            client.wire.finish_sending();
            let mut answered = 0;
            while let Some((_, reply)) = client.next_reply() {
                assert_eq!(reply.error, 0);
                answered += 1;
            }
            assert_eq!(answered, 64, "{place:?} {mode:?}");
        }
    }
}

#[test]
fn who_floods_and_never_reads_is_bounded_and_hurts_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon_with_disk(&folder.path().join("data"), &[]);
    for place in places(&daemon) {
        let mut good = Client::connect(&place, "db", Mode::Structured);
        good.write(0, &vec![5; 32 * MIB as usize]);
        let before = resident_bytes(&daemon);
        let mut floods = Vec::new();
        for length in [4096, 128 << 10, 32 * MIB] {
            let mut flood = Client::connect(&place, "db", Mode::Simple);
            flood.wire.limit_waiting(Duration::from_millis(500));
            while flood.in_flight() < 50_000 && flood.send((READ, 0), 0, length, &[]).is_ok() {}
            floods.push(flood);
        }
        for _ in 0..200 {
            good.write(40 * MIB, &[7; 4096]);
            assert_eq!(good.read(0, 4096), [5; 4096]);
        }
        assert!(good.read(0, 8 * MIB) == vec![5; 8 * MIB as usize]);
        // 64 MiB a connection, spare buffers, and what threads and allocator keep.
        let grown = resident_bytes(&daemon).saturating_sub(before);
        assert!(grown < 400 * MIB, "grew by {} MiB", grown / MIB);
        drop(floods);
        wait_for_connections(&daemon, 1.0);
        good.flush();
    }
}

#[test]
fn a_slow_reader_gets_all_its_data_while_others_work() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon_with_disk(&folder.path().join("data"), &[]);
    for place in places(&daemon) {
        let mut other = Client::connect(&place, "db", Mode::Structured);
        let pattern = Dice::new(3).bytes(MIB as usize);
        other.write(0, &pattern);
        let mut slow = Client::connect(&place, "db", Mode::Structured);
        for _ in 0..64 {
            slow.send((READ, 0), 0, MIB, &[]).unwrap();
        }
        for number in 0..500u64 {
            other.write((2 + number % 32) * MIB, &[9; 4096]);
        }
        for (_, reply) in slow.all_replies() {
            assert!(reply.error == 0 && reply.data == pattern);
        }
    }
}

#[test]
fn a_stop_answers_what_was_read_and_ends_connections_between_replies() {
    for (is_tcp, mode) in [(false, Mode::Simple), (true, Mode::Structured), (true, Mode::Extended)]
    {
        let folder = tempfile::tempdir().unwrap();
        let daemon = daemon_with_disk(&folder.path().join("data"), &[]);
        let place = places(&daemon)[usize::from(is_tcp)].clone();
        let mut clients: Vec<Client> = (0..4)
            .map(|_| {
                let mut client = Client::connect(&place, "db", mode);
                let bytes = many_requests(&mut client);
                client.wire.write_all(&bytes).unwrap();
                client
            })
            .collect();
        // Reads it late, when more is on its way than sockets hold.
        let mut slow = Client::connect(&place, "db", mode);
        for _ in 0..200 {
            slow.send((READ, 0), 0, MIB, &[]).unwrap();
        }
        let half_open = place.dial();
        // At least one of each is known to have been read.
        assert!(slow.has_reply_at_hand());
        assert!(clients.iter_mut().all(|client| client.next_reply().is_some()));
        signal(daemon.pid(), "TERM");
        let begun = Instant::now();
        let reading = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(500));
            assert!(slow.next_reply().is_some(), "what was read is answered");
            slow.ends()
        });
        assert!(clients.iter_mut().all(Client::ends));
        assert!(reading.join().unwrap());
        assert!(daemon.stop().success());
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        drop(half_open);
    }
}

#[test]
fn detaching_ends_connections_between_replies_and_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon_with_disk(&folder.path().join("data"), &[]);
    daemon.disk("other", "16M");
    for place in places(&daemon) {
        let mut other = Client::connect(&place, "other", Mode::Structured);
        let mut idle = Client::connect(&place, "db", Mode::Structured);
        let workers: Vec<_> = MODES
            .into_iter()
            .map(|mode| {
                let mut client = Client::connect(&place, "db", mode);
                std::thread::spawn(move || {
                    loop {
                        let bytes = many_requests(&mut client);
                        if client.wire.write_all(&bytes).is_err() {
                            return client.ends();
                        }
                        for _ in 0..64 {
                            if client.next_reply().is_none() {
                                return true;
                            }
                        }
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        daemon.ok(&["disk", "detach", "db"]);
        assert_eq!(daemon.json(&["disk", "show", "db"])["Status"], "Available");
        assert!(workers.into_iter().all(|worker| worker.join().unwrap()));
        assert!(idle.ends());
        other.write(0, &[1; 4096]);
        assert!(Client::is_refused(&place, "db"));
        daemon.ok(&["disk", "attach", "db"]);
        Client::connect(&place, "db", Mode::Extended).flush();
    }
}

#[test]
fn writes_of_a_client_that_is_gone_never_land_after_its_next_connection_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon_with_disk(&folder.path().join("data"), &[]);
    for place in places(&daemon) {
        // Over TCP the end is seen only when all before it fits the receiver's buffer. Until then
        // nobody can tell a client that is gone from one with several connections.
        let block = if matches!(place, Place::Unix(_)) { 64 << 10 } else { 512 };
        for round in 0..20 {
            let mut old = Client::connect(&place, "db", Mode::Simple);
            let flags = if round % 2 == 0 { 0 } else { FUA };
            for _ in 0..60 {
                old.send((WRITE, flags), 0, block, &vec![b'A'; block as usize]).unwrap();
            }
            drop(old);
            let mut new = Client::connect(&place, "db", Mode::Simple);
            let first = new.read(0, block);
            for _ in 0..50 {
                assert!(
                    new.read(0, block) == first,
                    "{place:?} {round}: changed after the first read"
                );
            }
            new.write(0, &vec![b'B'; block as usize]);
            let until = Instant::now() + Duration::from_millis(100);
            while Instant::now() < until {
                assert!(new.read(0, block) == vec![b'B'; block as usize], "{place:?}: A came back");
            }
        }
    }
}

#[test]
fn not_even_a_connection_that_was_never_read_from_writes_late() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon_with_disk(&folder.path().join("data"), &[]);
    let place = Place::Unix(daemon.nbd_socket());
    for _ in 0..150 {
        // The whole handshake and the writes behind it in one piece, then gone.
        let mut bytes = negotiation::FIXED.to_vec();
        bytes.extend(negotiation::option(negotiation::EXPORT_NAME, b"db"));
        let mut old = Client::negotiated(place.dial(), 64 * MIB, Mode::Simple);
        for _ in 0..30 {
            let request = old.request(WRITE, 0, 0, 4096);
            bytes.extend(old.encode(&request, &[b'A'; 4096]));
        }
        old.wire.write_all(&bytes).unwrap();
        drop(old);
        let mut new = Client::connect(&place, "db", Mode::Simple);
        new.write(0, &[b'B'; 4096]);
        for _ in 0..20 {
            assert!(new.read(0, 4096) == [b'B'; 4096], "A came back");
        }
    }
}

#[test]
fn requests_before_the_end_of_the_negotiation_are_no_requests() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon_with_disk(&folder.path().join("data"), &["handshake_timeout: 2s"]);
    for place in places(&daemon) {
        for behind in [&[][..], negotiation::FIXED] {
            let mut client = Client::negotiated(place.dial(), 64 * MIB, Mode::Simple);
            let request = client.request(WRITE, 0, 0, 4096);
            let bytes = [behind, &client.encode(&request, &[b'X'; 4096])].concat();
            client.wire.write_all(&bytes).unwrap();
            assert!(client.wire.ends());
        }
        assert_eq!(Client::connect(&place, "db", Mode::Simple).read(0, 4096), [0; 4096]);
    }
}

#[test]
fn garbage_of_all_sorts_leaves_the_daemon_serving() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon_with_disk(&folder.path().join("data"), &["handshake_timeout: 2s"]);
    let mut dice = Dice::new(0x6a7b);
    for place in places(&daemon) {
        for number in 0..100 {
            let mut wire = match number % 3 {
                0 => place.dial(),
                1 => {
                    let mut wire = place.dial();
                    wire.write_all(negotiation::FIXED).unwrap();
                    let magic = if number % 2 == 0 { &b"IHAVEOPT"[..] } else { b"" };
                    wire.write_all(magic).unwrap();
                    wire
                }
                _ => {
                    let mode = MODES[dice.below(3) as usize];
                    let mut client = Client::connect(&place, "db", mode);
                    let request = client.request(dice.below(10) as u16, 0, dice.next(), 512);
                    let mut header = client.encode(&request, &[]);
                    header.truncate(dice.below(28) as usize);
                    client.wire.write_all(&header).unwrap();
                    client.wire
                }
            };
            // It may hang up before it has all.
            let _ = wire.write_all(&dice.bytes(64 << 10));
            let reading = number % 2 == 0;
            if reading {
                wire.finish_sending_if_open();
                assert!(wire.ends());
            }
        }
        Client::connect(&place, "db", Mode::Extended).write(0, &[1; 4096]);
    }
    wait_for_connections(&daemon, 0.0);
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    assert!(daemon.stop().success());
}

#[test]
fn whatever_is_asked_only_published_errors_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon_with_disk(&folder.path().join("data"), &[]);
    let place = Place::Unix(daemon.nbd_socket());
    let mut dice = Dice::new(77);
    for mode in MODES {
        let mut client = Client::connect(&place, "db", mode);
        let mut errors = 0;
        for _ in 0..2000 {
            let commands = [READ, WRITE, FLUSH, TRIM, 5, WRITE_ZEROES, 7, 8, 99];
            let command = commands[dice.below(9) as usize];
            let flags = if dice.below(2) == 0 { 0 } else { dice.below(1 << 5) as u16 };
            let at = match dice.below(4) {
                0 => dice.next(),
                1 => u64::MAX - dice.below(9000),
                2 => 64 * MIB - dice.below(9000),
                _ => dice.below(64 * MIB),
            };
            let length = dice.below(16_000);
            let payload = if command == WRITE { vec![1; length as usize] } else { vec![] };
            // The client checks the error number itself.
            errors += u32::from(client.call((command, flags), at, length, &payload).error != 0);
        }
        assert!(errors > 500);
        client.flush();
    }
}

#[test]
fn one_request_zeroes_or_trims_far_more_than_a_payload_holds() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_configured(&folder.path().join("data"), &[]);
    let disk = daemon.disk("big", "64G");
    let gib = 1 << 30;
    for place in places(&daemon) {
        let mut client = Client::connect(&place, "big", Mode::Extended);
        for (what, at, length) in [
            ((WRITE_ZEROES, 0), 1000, 63 * gib),
            ((WRITE_ZEROES, FUA), 0, 64 * gib),
            // FAST_ZERO
            ((WRITE_ZEROES, 1 << 4), 7, 64 * gib - 7),
            ((TRIM, 0), 3, 60 * gib),
            ((TRIM, FUA), 0, 64 * gib),
        ] {
            for place in [0, 20 * gib, 64 * gib - 8192] {
                client.write(place, &[7; 8192]);
            }
            assert_eq!(client.call(what, at, length, &[]).error, 0);
            assert_eq!(client.read(20 * gib, 8192), [0; 8192]);
        }
        assert_eq!(client.read(64 * gib - 8192, 8192), [0; 8192]);
    }
    let layer = std::fs::metadata(daemon.layer_file(&disk)).unwrap();
    assert!(std::os::unix::fs::MetadataExt::blocks(&layer) * 512 < 4 * MIB);
}

#[test]
fn clients_of_all_kinds_come_and_go_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon_with_disk(&folder.path().join("data"), &[]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for number in 0..8u64 {
            let (places, is_over) = (places(&daemon), &is_over);
            workers.push(scope.spawn(move || {
                let mut dice = Dice::new(number);
                let mut rounds = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let place = &places[dice.below(2) as usize];
                    let mode = MODES[dice.below(3) as usize];
                    let mut client = Client::connect(place, "db", mode);
                    let len = 1 + dice.below(100_000) as usize;
                    let data = dice.bytes(len);
                    let at = number * 4 * MIB + dice.below(MIB);
                    client.write(at, &data);
                    assert!(client.read(at, data.len() as u64) == data);
                    if dice.below(2) == 0 {
                        client.send((DISCONNECT, 0), 0, 0, &[]).unwrap();
                    }
                    rounds += 1;
                }
                rounds
            }));
        }
        std::thread::sleep(Duration::from_secs(3));
        is_over.store(true, Ordering::Relaxed);
        assert!(workers.into_iter().all(|worker| worker.join().unwrap() > 3));
    });
    wait_for_connections(&daemon, 0.0);
    assert!(daemon.stop().success());
}
