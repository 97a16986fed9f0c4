//! Rewrap, check and rebuild from the command line, against a real daemon; cryptsetup judges every
//! header that was rewritten.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::daemon::{Daemon, binary};
use support::{luks, tools};

fn offline(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn offline_json(arguments: &[&str]) -> Value {
    let output = offline(&[arguments, &["-o", "json"]].concat());
    let text = tools::text_of(&format!("sealdisk {arguments:?}"), &output);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn layers(data: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data.join("layers")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Stock cryptsetup reads the header; what it says.
fn dumped(layer: &Path) -> String {
    let dump = tools::run("cryptsetup", &["luksDump", layer.to_str().unwrap()]);
    assert!(dump.contains("sealdisk"), "{dump}");
    dump
}

fn pattern(daemon: &Daemon, disk: &str, command: &str) {
    let uri = daemon.uri(disk);
    let said = tools::run("qemu-io", &["-f", "raw", "-c", command, &uri]);
    assert!(!said.contains("verification failed"), "{disk}: {said}");
}

#[test]
fn a_data_directory_without_its_catalog_is_served_again() {
    if !tools::have("qemu-io") || !tools::have("cryptsetup") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    let key = daemon.json(&["key", "create"])["KeyId"].as_str().unwrap().to_owned();
    daemon.ok(&["alias", "create", "alias/own", &key]);
    daemon.ok(&["key", "tag", &key, "acs:ecs:disk-encryption=true"]);
    // The service key is made with the first disk.
    daemon.disk("first", "16M");
    let backup = folder.path().join("keys.backup");
    daemon.ok(&["backup", "create", backup.to_str().unwrap()]);
    let disks = [
        ("db", daemon.disk("db", "64M")),
        ("own", daemon.disk_with("own", "32M", &["--key-id", "alias/own"])),
        ("plain", daemon.disk_with("plain", "16M", &["--unencrypted"])),
    ];
    for (number, (name, _)) in disks.iter().enumerate() {
        pattern(&daemon, name, &format!("write -P {} 1M 3M", number + 1));
    }
    assert!(daemon.stop().success());

    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(data.join(name));
    }
    let dir = data.to_str().unwrap();
    for command in [
        &["check", "--data-dir", dir][..],
        &["catalog", "rebuild", dir, "--dry-run"],
        &["catalog", "rebuild", dir],
    ] {
        let refused = offline(command);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{command:?}: {said}");
        assert!(said.contains("sealdisk backup restore"), "{command:?}: {said}");
        assert!(!data.join("catalog.db").exists(), "{command:?} made a catalog");
    }
    let restored = offline(&["backup", "restore", backup.to_str().unwrap(), "--data-dir", dir]);
    tools::text_of("backup restore", &restored);
    let before = offline(&["check", "--data-dir", dir]);
    assert_eq!(before.status.code(), Some(1), "the catalog lacks disks");
    let dry = offline_json(&["catalog", "rebuild", dir, "--dry-run"]);
    let report = offline_json(&["catalog", "rebuild", dir]);
    assert_eq!(dry, report);
    assert_eq!((&report["Layers"], &report["Known"]), (&3.into(), &1.into()), "{report}");
    assert_eq!(report["LeftOut"], Value::Array(vec![]));
    let checked = offline_json(&["check", "--data-dir", dir]);
    assert_eq!((&checked["Faults"], &checked["Layers"]), (&0.into(), &4.into()), "{checked}");

    let daemon = Daemon::start(&data);
    for (number, (name, id)) in disks.iter().enumerate() {
        let shown = daemon.json(&["disk", "show", name]);
        assert_eq!(shown["DiskId"], id.as_str());
        daemon.ok(&["disk", "attach", name]);
        pattern(&daemon, name, &format!("read -P {} 1M 3M", number + 1));
        pattern(&daemon, name, "read -P 0 5M 1M");
    }
    assert_eq!(daemon.json(&["disk", "show", "own"])["KMSKeyId"], key.as_str());
    assert_eq!(daemon.events("RebuildCatalog").len(), 1);
    for layer in layers(&data) {
        dumped(&layer);
    }
    let busy = offline(&["check", "--data-dir", dir]);
    let said = String::from_utf8_lossy(&busy.stderr).into_owned();
    assert!(!busy.status.success() && said.contains("another sealdisk daemon"), "{said}");
    assert!(daemon.stop().success());
}

#[test]
fn headers_are_rewrapped_checked_and_mended_while_a_disk_is_served() {
    if !tools::have("qemu-io") || !tools::have("cryptsetup") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    daemon.disk("db", "64M");
    pattern(&daemon, "db", "write -P 7 0 4M");
    let layer = layers(&data).pop().unwrap();
    let before = dumped(&layer);
    let said = daemon.ok(&["disk", "rewrap", "db"]);
    assert!(said.starts_with("0 data keys wrapped anew, 1 under the newest"), "{said}");
    assert_eq!(dumped(&layer), before, "nothing newer, nothing written");
    // As if the key were rotated: the version that the header names is an older one.
    let shown = daemon.json(&["disk", "show", "db"]);
    assert_eq!(shown["Layers"][0]["RekeyAdvised"], false);
    assert!(shown["Layers"][0]["KeyBytes"].as_u64().unwrap() >= 4 << 20, "{shown}");
    let names = luks::json(&layer)["tokens"].to_string();
    assert!(names.contains("sealdisk-names") && names.contains("\"db\""), "{names}");

    // A crash between the copies leaves the secondary one behind.
    let file = std::fs::OpenOptions::new().write(true).open(&layer).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4096], luks::COPY_BYTES as u64).unwrap();
    let refused = daemon.cli(&["check"]);
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("the secondary header copy cannot be used"), "{said}");
    let hint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(hint.contains("--repair"), "{hint}");
    let said = daemon.ok(&["check", "--repair"]);
    assert!(said.contains("repaired"), "{said}");
    let said = daemon.ok(&["check"]);
    assert_eq!(said, "1 layer, 1 file, 1 disk checked: they agree\n");
    assert!(dumped(&layer).contains("Epoch:         \t2"));
    pattern(&daemon, "db", "read -P 7 0 4M");
    let said = daemon.ok(&["key", "rewrap", "alias/acs/ecs"]);
    assert!(said.starts_with("0 data keys wrapped anew, 1 under"), "{said}");
    let refused = daemon.refused(&["key", "rewrap", "alias/none"]);
    assert!(refused.contains("does not exist"), "{refused}");
    daemon.kill();
    let daemon = Daemon::start(&data);
    pattern(&daemon, "db", "read -P 7 0 4M");
    daemon.ok(&["disk", "detach", "db"]);
    let left = folder.path().join("left");
    std::fs::hard_link(&layer, &left).unwrap();
    assert!(daemon.ok(&["disk", "delete", "db", "--yes", "--erase"]).starts_with("erased d-"));
    assert!(!layer.exists());
    let known = tools::command("cryptsetup").args(["isLuks", left.to_str().unwrap()]).status();
    assert!(!known.unwrap().success(), "cryptsetup finds no header any more");
    assert_eq!(daemon.events("EraseLayer").len(), 1);
    assert!(daemon.stop().success());
}
