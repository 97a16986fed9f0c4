//! What somebody with write access to the data directory can do: make a disk refuse to open, by
//! name. Never make it serve anything else than what was written.

mod support;

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::daemon::{Daemon, start_refused};
use support::{luks, tools};

type Tamper = fn(&Path, &Path);

/// What is done to the layer of `db` (the second path is another disk's), and what attaching says.
const CASES: &[(&str, Tamper, &str)] = &[
    ("swapped with another disk's layer", swap, "its disk id differs from the catalog"),
    ("cut off by a sector", |layer, _| cut(layer, 512), "its layer needs"),
    ("cut off within the header", |layer, _| keep(layer, 20_000), "its layer needs"),
    ("empty", |layer, _| keep(layer, 0), "its layer needs"),
    ("missing", |layer, _| std::fs::remove_file(layer).unwrap(), "No such file"),
    ("garbage", garbage, "no LUKS2 header"),
    ("a directory", directory, "directory"),
    ("zeros over both headers", |layer, _| fill(layer, 0, 32 << 10, 0), "no LUKS2 header"),
    ("noise in both headers", noise, "both header copies fail their checksum"),
    ("LUKS1", |layer, _| luks::edit_copies(layer, |copy| copy[7] = 1), "LUKS version 1"),
    (
        "another cipher",
        |layer, _| segment(layer, "encryption", json!("aes-cbc-plain64")),
        "not allowed",
    ),
    (
        "the null cipher",
        |layer, _| segment(layer, "encryption", json!("cipher_null-ecb")),
        "null cipher is refused",
    ),
    ("the null cipher without a wrapped key", plain, "its encryption differs"),
    ("no wrapped key", |layer, _| unseal(layer), "wrapped_key"),
    (
        "another unit",
        |layer, _| segment(layer, "sector_size", json!(512)),
        "does not belong to this header",
    ),
    ("another data offset", |layer, _| segment(layer, "offset", json!("1052672")), "data offset"),
    ("another first tweak", |layer, _| segment(layer, "iv_tweak", json!("8")), "first tweak"),
    ("a smaller size", resize, "its size differs from the catalog"),
    (
        "a size to the end of the file",
        |layer, _| segment(layer, "size", json!("dynamic")),
        "in size",
    ),
    (
        "another disk's id",
        |layer, _| field(layer, "disk_id", json!("d-00000000000000000000")),
        "its disk id differs",
    ),
    (
        "another layer id",
        |layer, _| field(layer, "layer_id", json!("00000000-0000-4000-8000-000000000000")),
        "in UUID",
    ),
    (
        "a parent",
        |layer, _| field(layer, "parent", json!("00000000-0000-4000-8000-000000000000")),
        "in requirements",
    ),
    (
        "another time of creation",
        |layer, _| field(layer, "created", json!("2020-01-01T00:00:00Z")),
        "does not belong to this header",
    ),
    (
        "another KMS key",
        |layer, _| field(layer, "kms_key_id", json!("other")),
        "its KMS key id differs",
    ),
    (
        "another KMS key version",
        |layer, _| field(layer, "kms_key_version", json!("other")),
        "KMS key version",
    ),
    ("another disk's wrapped key", paste, "does not belong to this header"),
    ("a flipped bit in the wrapped key", flip_wrapped, "does not belong to this header"),
    ("a field that we do not know", |layer, _| field(layer, "note", json!("x")), "unknown field"),
    ("another digest", digest, "wrong data key"),
    ("a format from the future", |layer, _| field(layer, "format", json!(2)), "layer format 2"),
    (
        "no token",
        |layer, _| luks::edit(layer, |json| json["tokens"] = json!({})),
        "without a sealdisk token",
    ),
    ("a re-encryption under way", requirement, "unknown mandatory requirement"),
];

#[test]
fn a_changed_layer_is_refused_by_name_and_served_again_once_restored() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&folder.path().join("data"));
    let (layer, other) = two_disks(&daemon);
    let kept = Kept::of(&layer, &other);
    for (what, tamper, expected) in CASES {
        tamper(&layer, &other);
        let error = daemon.refused(&["disk", "attach", "db"]);
        assert!(error.contains(expected), "{what}: {error}");
        let shown = daemon.json(&["disk", "show", "db"]);
        assert_eq!(shown["Status"], "Available", "{what}");
        assert_unserved(&daemon, what);
        // The key of a layer that is not as it was made is not given away either.
        let key_file = folder.path().join("db.key");
        let arguments = ["disk", "export-key", "db", "--yes", "--to", key_file.to_str().unwrap()];
        let is_exported = daemon.cli(&arguments).status.success();
        let may_export = ["its layer needs", "wrong data key"];
        assert!(!is_exported || may_export.contains(expected), "{what}: the key was exported");
        let _ = std::fs::remove_file(key_file);
        let recorded = &daemon.events("AttachDisk")[0];
        assert!(!recorded["errorCode"].as_str().unwrap().is_empty(), "{what}: {recorded}");
        kept.restore();
    }
    daemon.ok(&["disk", "attach", "db"]);
    assert_served(&daemon);
}

#[test]
fn one_whole_header_copy_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&folder.path().join("data"));
    let (layer, other) = two_disks(&daemon);
    let kept = Kept::of(&layer, &other);
    for at in [0, 5000, 16 << 10, (16 << 10) + 5000] {
        fill(&layer, at, 64, 0xee);
        daemon.ok(&["disk", "attach", "db"]);
        assert_served(&daemon);
        daemon.ok(&["disk", "detach", "db"]);
        kept.restore();
    }
}

#[test]
fn a_layer_that_another_process_writes_is_refused() {
    if !tools::have("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&folder.path().join("data"));
    let (layer, _) = two_disks(&daemon);
    let mut holder = std::process::Command::new("python3")
        .args([
            "-c",
            "import fcntl,sys; f=open(sys.argv[1],'r+b'); fcntl.lockf(f,fcntl.LOCK_EX); \
                print('held', flush=True); sys.stdin.read()",
        ])
        .arg(&layer)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 4];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut line).unwrap();
    let error = daemon.refused(&["disk", "attach", "db"]);
    assert!(error.contains("open in another process"), "{error}");
    assert_unserved(&daemon, "locked");
    holder.kill().unwrap();
    holder.wait().unwrap();
    daemon.ok(&["disk", "attach", "db"]);
    assert_served(&daemon);
}

#[test]
fn a_changed_layer_is_refused_at_restart_and_harms_no_other_disk() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut daemon = Daemon::start(&data);
    let (layer, other) = two_disks(&daemon);
    daemon.ok(&["disk", "attach", "db"]);
    daemon.ok(&["disk", "attach", "other"]);
    let id = daemon.json(&["disk", "show", "db"])["DiskId"].as_str().unwrap().to_owned();
    assert!(daemon.stop().success());
    let kept = Kept::of(&layer, &other);
    let cases = CASES.iter().filter(|(what, _, _)| !what.contains("swapped"));
    for (what, tamper, expected) in cases.step_by(4) {
        tamper(&layer, &other);
        daemon = Daemon::start(&data);
        let log = daemon.log();
        let line = log.lines().rev().find(|line| line.contains("attached disk not opened"));
        let line = line.unwrap_or_else(|| panic!("{what}: {log}"));
        assert!(line.contains(&id) && line.contains(expected), "{what}: {line}");
        assert_eq!(daemon.json(&["disk", "show", "db"])["Status"], "In_use", "{what}");
        assert_unserved(&daemon, what);
        read(&daemon, "other", 8);
        assert!(daemon.stop().success());
        kept.restore();
    }
    daemon = Daemon::start(&data);
    assert_served(&daemon);
    // Without a restart: detach, mend, attach.
    assert!(daemon.stop().success());
    fill(&layer, 0, 32 << 10, 0);
    daemon = Daemon::start(&data);
    daemon.ok(&["disk", "detach", "db"]);
    kept.restore();
    daemon.ok(&["disk", "attach", "db"]);
    assert_served(&daemon);
}

#[test]
fn a_damaged_catalog_is_named_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    two_disks(&daemon);
    assert!(daemon.stop().success());
    assert!(!data.join("catalog.db-wal").exists(), "an orderly stop leaves one file");
    let catalog = data.join("catalog.db");
    let sound = std::fs::read(&catalog).unwrap();
    let damages: [(&str, Vec<u8>); 3] = [
        ("noise", vec![0x5a; sound.len()]),
        ("half of it", sound[..sound.len() / 2].to_vec()),
        ("noise in the middle", {
            let mut bytes = sound.clone();
            bytes[4096..24 << 10].fill(0x5a);
            bytes
        }),
    ];
    for (what, bytes) in damages {
        std::fs::write(&catalog, bytes).unwrap();
        let error = start_refused(&data);
        assert!(error.contains("catalog.db"), "{what}: {error}");
        assert!(!error.contains("panicked"), "{what}: {error}");
    }
    std::fs::write(&catalog, sound).unwrap();
    let daemon = Daemon::start(&data);
    daemon.ok(&["disk", "attach", "db"]);
    assert_served(&daemon);
}

#[test]
fn a_root_key_that_is_not_the_right_one_is_named_at_start_and_nothing_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    two_disks(&daemon);
    daemon.ok(&["disk", "attach", "db"]);
    assert!(daemon.stop().success());
    let key = data.join("root.key");
    let right = std::fs::read(&key).unwrap();
    let before = contents(&data);
    let wrong = "3a".repeat(32) + "\n";
    let short = right[..30].to_vec();
    let mut noisy = right.clone();
    noisy[10] = b'x';
    let cases: [(&str, Option<Vec<u8>>, u32, &str); 7] = [
        ("missing", None, 0o600, "is missing"),
        ("wrong", Some(wrong.into_bytes()), 0o600, "the catalog needs key"),
        ("cut off", Some(short), 0o600, "does not hold 64 hexadecimal digits"),
        ("empty", Some(Vec::new()), 0o600, "does not hold 64 hexadecimal digits"),
        ("noisy", Some(noisy), 0o600, "does not hold 64 hexadecimal digits"),
        ("too long", Some(right.repeat(2)), 0o600, "does not hold 64 hexadecimal digits"),
        ("exposed", Some(right.clone()), 0o644, "mode 0644"),
    ];
    for (what, bytes, mode, expected) in cases {
        std::fs::remove_file(&key).unwrap();
        if let Some(bytes) = &bytes {
            std::fs::write(&key, bytes).unwrap();
            std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
        }
        let error = start_refused(&data);
        assert!(error.contains("root key") && error.contains(expected), "{what}: {error}");
        assert!(!error.contains(std::str::from_utf8(&right).unwrap().trim()), "{what}");
        match &bytes {
            None => assert!(!key.exists(), "a lost root key is never replaced"),
            Some(bytes) => assert_eq!(&std::fs::read(&key).unwrap(), bytes, "{what}"),
        }
        std::fs::write(&key, &right).unwrap();
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(contents(&data), before, "{what}: nothing else was changed");
    }
    let daemon = Daemon::start(&data);
    assert_served(&daemon);
}

/// Files and what is in them; the lock names the last process, and SQLite's side files come and go.
fn contents(data: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = support::needles::files_below(data);
    let passing = ["daemon.lock", "catalog.db-shm", "catalog.db-wal"];
    files.retain(|path| !passing.iter().any(|name| path.ends_with(name)));
    files.sort();
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes)
    };
    files.into_iter().map(read).collect()
}

/// Detached disks `db`, which holds a pattern, and `other`; their layers.
fn two_disks(daemon: &Daemon) -> (PathBuf, PathBuf) {
    let db = daemon.disk("db", "2M");
    let other = daemon.disk("other", "2M");
    if tools::have("qemu-io") {
        let write = |name: &str, pattern: &str| {
            let command = format!("write -f -P {pattern} 0 2M");
            tools::run("qemu-io", &["-f", "raw", "-c", &command, &daemon.uri(name)]);
        };
        write("db", "7");
        write("other", "8");
    }
    daemon.ok(&["disk", "detach", "db"]);
    daemon.ok(&["disk", "detach", "other"]);
    (daemon.layer_file(&db), daemon.layer_file(&other))
}

fn read(daemon: &Daemon, name: &str, pattern: u8) {
    if tools::have("qemu-io") {
        let command = format!("read -P {pattern} 0 2M");
        let said = tools::run("qemu-io", &["-f", "raw", "-c", &command, &daemon.uri(name)]);
        assert!(!said.contains("failed"), "{said}");
    }
}

fn assert_served(daemon: &Daemon) {
    read(daemon, "db", 7);
}

fn assert_unserved(daemon: &Daemon, what: &str) {
    if tools::have("nbdinfo") {
        let info = tools::command("nbdinfo").args(["--size", &daemon.uri("db")]).output().unwrap();
        assert!(!info.status.success(), "{what}: it is served");
    }
}

/// Both layers as they were.
struct Kept([(PathBuf, Vec<u8>); 2]);

impl Kept {
    fn of(layer: &Path, other: &Path) -> Self {
        let keep = |path: &Path| (path.to_owned(), std::fs::read(path).unwrap());
        Self([keep(layer), keep(other)])
    }

    fn restore(&self) {
        for (path, bytes) in &self.0 {
            if path.is_dir() {
                std::fs::remove_dir(path).unwrap();
            }
            std::fs::write(path, bytes).unwrap();
        }
    }
}

fn write_at(path: &Path, bytes: &[u8], at: u64) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

fn fill(path: &Path, at: u64, count: usize, byte: u8) {
    write_at(path, &vec![byte; count], at);
}

fn keep(path: &Path, length: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

fn cut(path: &Path, bytes: u64) {
    keep(path, std::fs::metadata(path).unwrap().len() - bytes);
}

fn swap(layer: &Path, other: &Path) {
    let aside = layer.with_extension("aside");
    std::fs::rename(layer, &aside).unwrap();
    std::fs::rename(other, layer).unwrap();
    std::fs::rename(aside, other).unwrap();
}

fn garbage(layer: &Path, _: &Path) {
    let length = std::fs::metadata(layer).unwrap().len() as usize;
    let bytes: Vec<u8> = (0..length).map(|i| (i * 131 % 251) as u8).collect();
    std::fs::write(layer, bytes).unwrap();
}

fn directory(layer: &Path, _: &Path) {
    std::fs::remove_file(layer).unwrap();
    std::fs::create_dir(layer).unwrap();
}

fn noise(layer: &Path, _: &Path) {
    for copy in [0, luks::COPY_BYTES as u64] {
        fill(layer, copy + 4200, 16, 0x21);
    }
}

fn segment(layer: &Path, name: &str, value: Value) {
    luks::edit(layer, |json| json["segments"]["0"][name] = value.clone());
}

fn field(layer: &Path, name: &str, value: Value) {
    luks::edit(layer, |json| luks::token(json)[name] = value.clone());
}

fn unseal(layer: &Path) {
    luks::edit(layer, |json| {
        let token = luks::token(json).as_object_mut().unwrap();
        for name in ["kms_key_id", "kms_key_version", "wrapped_key"] {
            token.remove(name);
        }
    });
}

fn plain(layer: &Path, _: &Path) {
    segment(layer, "encryption", json!("cipher_null-ecb"));
    unseal(layer);
}

fn resize(layer: &Path, _: &Path) {
    segment(layer, "size", json!("1048576"));
    field(layer, "size", json!("1048576"));
}

fn paste(layer: &Path, other: &Path) {
    let wrapped = luks::token(&mut luks::json(other))["wrapped_key"].clone();
    field(layer, "wrapped_key", wrapped);
}

fn flip_wrapped(layer: &Path, _: &Path) {
    let wrapped = luks::token(&mut luks::json(layer))["wrapped_key"].as_str().unwrap().to_owned();
    let at = wrapped.len() - 12;
    let flipped = if wrapped.as_bytes()[at] == b'A' { "B" } else { "A" };
    let wrapped = format!("{}{flipped}{}", &wrapped[..at], &wrapped[at + 1..]);
    field(layer, "wrapped_key", json!(wrapped));
}

fn digest(layer: &Path, _: &Path) {
    luks::edit(layer, |json| {
        let digest = &mut json["digests"]["0"]["digest"];
        let text = digest.as_str().unwrap().to_owned();
        let first = if text.starts_with('A') { "B" } else { "A" };
        *digest = json!(format!("{first}{}", &text[1..]));
    });
}

fn requirement(layer: &Path, _: &Path) {
    luks::edit(layer, |json| {
        json["config"]["requirements"] = json!({"mandatory": ["online-reencrypt-v2"]});
    });
}
