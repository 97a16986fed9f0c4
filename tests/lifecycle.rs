//! The daemon and its command line, from the first start to the last.

mod support;

use support::daemon::{Daemon, binary};
use support::tools;

#[test]
fn a_disk_is_made_attached_used_detached_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&folder.path().join("data"));
    let disk = daemon.disk("db", "64M");
    assert!(disk.starts_with("d-") && disk.len() == 22, "{disk}");
    let shown = daemon.json(&["disk", "show", "db"]);
    assert_eq!(shown["DiskId"], disk.as_str());
    assert_eq!(shown["Status"], "In_use");
    assert_eq!(shown["InstanceId"], "i-local");
    assert_eq!(shown["Encrypted"], true);
    assert_eq!(shown["SizeBytes"], 64 << 20);
    assert!(daemon.refused(&["disk", "delete", "db", "--yes"]).contains("DiskStillAttached"));
    daemon.ok(&["disk", "detach", "db"]);
    assert_eq!(daemon.json(&["disk", "show", "db"])["Status"], "Available");
    assert!(daemon.refused(&["disk", "detach", "db"]).contains("IncorrectDiskStatus"));
    let layer = daemon.layer_file(&disk);
    daemon.ok(&["disk", "delete", "db", "--yes"]);
    assert!(!layer.exists(), "the layer is gone");
    assert!(daemon.refused(&["disk", "show", "db"]).contains("InvalidDiskId.NotFound"));
    assert!(daemon.stop().success());
}

#[test]
fn a_second_daemon_on_the_same_data_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    let second = std::process::Command::new(binary())
        .args(["serve", "--dev", "--nbd-tcp", "off", "--http", "off", "--data-dir"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(!second.status.success());
    let error = String::from_utf8_lossy(&second.stderr);
    assert!(error.contains("another sealdisk daemon"), "{error}");
    assert!(error.contains(&daemon.pid().to_string()), "it names the other: {error}");
    assert!(daemon.stop().success());
}

#[test]
fn attached_disks_are_served_again_after_a_stop_and_after_a_kill() {
    if !tools::have("qemu-io") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    daemon.disk("db", "64M");
    let io = |daemon: &Daemon, command: &str| {
        tools::run("qemu-io", &["-f", "raw", "-c", command, &daemon.uri("db")]);
    };
    tools::run(
        "qemu-io",
        &["-f", "raw", "-c", "write -P 7 1M 1M", "-c", "flush", &daemon.uri("db")],
    );
    assert!(daemon.stop().success());
    let daemon = Daemon::start(&data);
    io(&daemon, "read -P 7 1M 1M");
    tools::run("qemu-io", &["-f", "raw", "-c", "write -f -P 9 3M 64k", &daemon.uri("db")]);
    daemon.kill();
    let daemon = Daemon::start(&data);
    io(&daemon, "read -P 7 1M 1M");
    io(&daemon, "read -P 9 3M 64k");
    assert_eq!(daemon.json(&["disk", "show", "db"])["Status"], "In_use");
}

#[test]
fn more_disks_are_attached_than_the_soft_limit_of_open_files_allows() {
    const SOFT: usize = 64;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &format!("ulimit -S -n {SOFT} && exec \"$@\""), "sh"]);
    command.arg(binary()).args(["serve", "--dev", "--data-dir"]).arg(&data);
    command.args(["--nbd-tcp", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    let daemon = Daemon::launch(command, &data);
    for number in 0..SOFT {
        daemon.disk(&format!("d{number}"), "1M");
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    assert!(open > SOFT, "{open} open files");
    assert!(daemon.stop().success());
}
