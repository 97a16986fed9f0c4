//! Cache mode and limits of a disk, from the command line to the open file.

mod support;

use std::os::fd::RawFd;
use std::path::Path;

use support::daemon::Daemon;
use support::{api, tools};

/// Whether the daemon has `file` open past the page cache.
fn is_direct(daemon: &Daemon, file: &Path) -> bool {
    let process = Path::new("/proc").join(daemon.pid().to_string());
    let descriptors = std::fs::read_dir(process.join("fd")).unwrap();
    let names = descriptors.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let open: Vec<RawFd> = names
        .filter(|name| std::fs::read_link(process.join("fd").join(name)).is_ok_and(|to| to == file))
        .map(|name| name.parse().unwrap())
        .collect();
    assert_eq!(open.len(), 1, "{} is open once", file.display());
    let info = std::fs::read_to_string(process.join(format!("fdinfo/{}", open[0]))).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    i32::from_str_radix(flags.trim(), 8).unwrap() & libc::O_DIRECT != 0
}

/// Beside the build, for a temporary folder may lie in memory, without direct I/O.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn the_cache_mode_counts_from_the_next_attach_and_the_data_stays() {
    let folder = scratch();
    let daemon = Daemon::start(&folder.path().join("d"));
    let disk = daemon.disk_with("db", "64M", &["--cache", "none"]);
    let layer = daemon.layer_file(&disk);
    assert_eq!(daemon.json(&["disk", "show", "db"])["Cache"], "none");
    assert!(is_direct(&daemon, &layer));
    let io = |commands: &[&str]| {
        if tools::have("qemu-io") {
            let uri = daemon.uri("db");
            let mut all = vec!["-f", "raw"];
            all.extend(commands.iter().flat_map(|command| ["-c", command]));
            all.push(&uri);
            tools::run("qemu-io", &all);
        }
    };
    io(&["write -P 7 1M 3M", "write -P 8 4000 513", "write -z 2M 4k", "flush"]);
    io(&["read -P 7 1M 1M", "read -P 8 4000 513", "read -P 0 4513 511", "read -P 0 2M 4k"]);

    let set_cache = |mode| {
        let done = daemon.cli(&["disk", "set", "db", "--cache", mode]);
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stderr).unwrap()
    };
    let told = set_cache("writeback");
    assert!(told.contains("next attached"), "{told}");
    assert!(is_direct(&daemon, &layer), "not before it is attached again");
    daemon.ok(&["disk", "detach", "db"]);
    daemon.ok(&["disk", "attach", "db"]);
    assert!(!is_direct(&daemon, &layer));
    io(&["read -P 7 3M 1M", "read -P 8 4000 513", "write -P 9 3M 1M"]);

    daemon.ok(&["disk", "detach", "db"]);
    let told = set_cache("none");
    assert!(!told.contains("next attached"), "{told}");
    daemon.ok(&["disk", "attach", "db"]);
    io(&["read -P 9 3M 1M", "read -P 7 2052k 1020k"]);
    daemon.kill();
    let daemon = Daemon::start(&folder.path().join("d"));
    assert!(is_direct(&daemon, &layer), "the mode outlives the process");
}

#[test]
fn limits_are_kept_shown_recorded_and_refused_out_of_range() {
    let folder = scratch();
    let daemon = Daemon::start(&folder.path().join("d"));
    let disk = daemon.disk_with("db", "1G", &["--iops-limit", "5000"]);
    let limits = |daemon: &Daemon| {
        let shown = daemon.json(&["disk", "show", "db"]);
        (shown["IopsLimit"].as_u64(), shown["BytesPerSecondLimit"].as_u64())
    };
    assert_eq!(limits(&daemon), (Some(5000), None));
    daemon.ok(&["disk", "set", "db", "--throughput-limit", "200MiB"]);
    assert_eq!(limits(&daemon), (Some(5000), Some(200 << 20)));
    let shown = daemon.ok(&["disk", "show", "db"]);
    assert!(shown.contains("5000 requests/s, 200 MiB/s"), "{shown}");
    daemon.ok(&["disk", "set", "db", "--iops-limit", "off"]);
    assert_eq!(limits(&daemon), (None, Some(200 << 20)));
    let event = &daemon.events("ModifyDiskPerformance")[0];
    assert!(event["errorCode"].is_null(), "{event}");
    assert_eq!(event["requestParameters"]["BytesPerSecondLimit"], 200 << 20, "{event}");

    let id = [("DiskId", disk.as_str())];
    let modify = |parameters: &[(&str, &str)]| {
        let all = [&id, parameters].concat();
        let action = "ModifyDiskPerformance";
        let (status, answer) = api::call(&daemon.api_socket(), api::OWN, action, &all);
        (status, answer["Code"].as_str().unwrap_or_default().to_owned())
    };
    for bad in [("IopsLimit", "9"), ("IopsLimit", "-1"), ("BytesPerSecondLimit", "1048575")] {
        assert_eq!(modify(&[bad]), (400, "InvalidParameter".to_owned()), "{bad:?}");
    }
    assert_eq!(modify(&[("Cache", "writethrough")]), (400, "InvalidParameter".to_owned()));
    assert_eq!(modify(&[("IopsLimit", "10")]).0, 200);
    assert_eq!(limits(&daemon), (Some(10), Some(200 << 20)));
    let (status, answer) = api::call(
        &daemon.api_socket(),
        api::OWN,
        "ModifyDiskPerformance",
        &[("DiskId", "d-00000000000000000000"), ("Cache", "none")],
    );
    assert_eq!((status, &answer["Code"]), (404, &"InvalidDiskId.NotFound".into()), "{answer}");
}

#[test]
fn requests_wait_for_the_limits_and_a_detach_ends_the_wait() {
    if !tools::have("qemu-io") {
        return;
    }
    let folder = scratch();
    let daemon = Daemon::start(&folder.path().join("d"));
    daemon.disk_with("db", "1G", &["--iops-limit", "50"]);
    let uri = daemon.uri("db");
    let reads = ["-c", "read 0 4k"].repeat(40);
    let all: Vec<&str> = ["-f", "raw"].into_iter().chain(reads).chain([uri.as_str()]).collect();
    let begun = std::time::Instant::now();
    tools::run("qemu-io", &all);
    // 39 waits of 20 ms, of which the burst gives 25 ms away.
    assert!(begun.elapsed().as_secs_f64() > 0.75, "{:?}", begun.elapsed());

    daemon.ok(&["disk", "set", "db", "--iops-limit", "off", "--throughput-limit", "1MiB"]);
    let writes = ["-c", "aio_write 0 16M"].repeat(8);
    let all: Vec<&str> = ["-f", "raw"].into_iter().chain(writes).chain([uri.as_str()]).collect();
    let mut client = tools::command("qemu-io").args(&all).spawn().unwrap();
    let here = || daemon.log().matches("NBD client attached").count() == 2;
    tools::wait_until("the second client to be there", here);
    daemon.ok(&["disk", "detach", "db"]);
    client.kill().unwrap();
    client.wait().unwrap();
}
