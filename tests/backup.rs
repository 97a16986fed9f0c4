//! Backups: made while serving, checked, restored with their root key and no other.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use support::api;
use support::daemon::{Daemon, binary};
use support::needles::Needles;

fn run(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn refused(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn call(daemon: &Daemon, action: &str, parameters: &[(&str, &str)]) -> Value {
    let (status, answer) = api::call(&daemon.api_socket(), api::KMS, action, parameters);
    assert_eq!(status, 200, "{action}: {answer}");
    answer
}

fn encrypt(daemon: &Daemon, key: &str) -> String {
    let made = call(daemon, "Encrypt", &[("KeyId", key), ("Plaintext", "AAAA")]);
    made["CiphertextBlob"].as_str().unwrap().to_owned()
}

fn opens(daemon: &Daemon, blob: &str) {
    let opened = call(daemon, "Decrypt", &[("CiphertextBlob", blob)]);
    assert_eq!(opened["Plaintext"], "AAAA");
}

struct Made {
    folder: tempfile::TempDir,
    daemon: Daemon,
    backup: PathBuf,
    blob: String,
}

impl Made {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let daemon = Daemon::start(&data);
        let key = daemon.json(&["key", "create", "--description", "kept"])["KeyId"].clone();
        let key = key.as_str().unwrap();
        daemon.ok(&["alias", "create", "alias/kept", key]);
        daemon.ok(&["user", "create", "ann"]);
        daemon.ok(&["user", "create-access-key", "ann"]);
        let blob = encrypt(&daemon, key);
        daemon.disk("db", "64M");
        let backup = folder.path().join("keys.backup");
        let said = daemon.cli(&["backup", "create", backup.to_str().unwrap()]);
        assert!(said.status.success());
        let note = String::from_utf8(said.stderr).unwrap();
        assert!(note.contains("The root key is NOT in it"), "{note}");
        Self { folder, daemon, backup, blob }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn root_key(&self) -> String {
        self.path("data/root.key")
    }

    fn restore(&self, backup: &Path, to: &str) -> Output {
        let backup = backup.to_str().unwrap();
        run(&["backup", "restore", backup, "--data-dir", to, "--root-key", &self.root_key()])
    }
}

#[test]
fn what_is_restored_opens_what_was_sealed() {
    let made = Made::new();
    let mode = std::fs::metadata(&made.backup).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let beside = std::fs::read_dir(made.folder.path()).unwrap().count();
    assert_eq!(beside, 3, "data, log, backup and nothing that is half made");
    let root = std::fs::read_to_string(made.root_key()).unwrap();
    let bytes: Vec<u8> =
        (0..32).map(|i| u8::from_str_radix(&root[2 * i..2 * i + 2], 16).unwrap()).collect();
    let needles = Needles::default().key("root", &bytes).written_key("root", &bytes);
    assert!(needles.count_in_file(&made.backup).is_empty(), "the root key is not in it");

    let shown = run(&["backup", "show", made.backup.to_str().unwrap(), "-o", "json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let root = made.daemon.json(&["root", "show"]);
    assert_eq!(shown["root_key_id"], root["RootKeyId"]);
    assert_eq!(shown["account_id"], "1000000000000001");

    // What came after the backup is not in it.
    made.daemon.ok(&["key", "create", "--description", "later"]);
    let to = made.path("restored");
    let restored = made.restore(&made.backup, &to);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    std::fs::copy(made.root_key(), format!("{to}/root.key")).unwrap();
    let daemon = Daemon::start(Path::new(&to));
    opens(&daemon, &made.blob);
    let key = daemon.json(&["key", "show", "alias/kept"]);
    assert_eq!(key["Description"], "kept");
    assert_eq!(daemon.json(&["key", "list"])["TotalCount"], 2, "it and the service key");
    assert!(daemon.ok(&["user", "access-keys", "ann"]).contains("LTAI"));
    let disk = daemon.json(&["disk", "show", "db"]);
    assert_eq!(disk["Status"], "Available", "nothing serves it yet");
    // With its layer put back it is the disk it was.
    made.daemon.ok(&["disk", "detach", "db"]);
    let layer = made.daemon.layer_file(disk["DiskId"].as_str().unwrap());
    std::fs::copy(&layer, format!("{to}/layers/{}", layer.file_name().unwrap().to_str().unwrap()))
        .unwrap();
    daemon.ok(&["disk", "attach", "db"]);
}

#[test]
fn files_beside_a_new_backup_stay_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&folder.path().join("data"));
    let to = folder.path().join("b");
    let own = ["b.catalog", "b.unfinished", "b.catalog.1"].map(|name| folder.path().join(name));
    for path in &own {
        std::fs::write(path, "somebody's own").unwrap();
    }
    let names = || {
        let names = std::fs::read_dir(folder.path()).unwrap();
        names.map(|entry| entry.unwrap().file_name()).collect::<std::collections::BTreeSet<_>>()
    };
    let before = names();
    daemon.ok(&["backup", "create", to.to_str().unwrap()]);
    run(&["backup", "show", to.to_str().unwrap()]);
    for path in &own {
        assert_eq!(std::fs::read_to_string(path).unwrap(), "somebody's own", "{path:?}");
    }
    let made: Vec<_> = names().difference(&before).cloned().collect();
    assert_eq!(made, ["b"]);
}

#[test]
fn nothing_is_overwritten_and_no_running_daemon_disturbed() {
    let made = Made::new();
    let backup = made.backup.to_str().unwrap();
    let said = made.daemon.refused(&["backup", "create", backup]);
    assert!(said.contains("is there already; nothing is overwritten"), "{said}");
    let running = made.path("data");
    let said = made.restore(&made.backup, &running);
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("another sealdisk daemon"), "{said}");
    let to = made.path("restored");
    assert!(made.restore(&made.backup, &to).status.success());
    let again = made.restore(&made.backup, &to);
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(said.contains("catalog.db is there already"), "{said}");
    let said = made.daemon.refused(&["backup", "create", "/nowhere/b"]);
    assert!(said.contains("/nowhere/b"), "{said}");
}

#[test]
fn another_root_key_and_a_changed_backup_are_refused() {
    let made = Made::new();
    let to = made.path("restored");
    let backup = made.backup.to_str().unwrap();
    let other = made.path("other.key");
    std::fs::write(&other, "3a".repeat(32)).unwrap();
    std::fs::set_permissions(&other, PermissionsExt::from_mode(0o600)).unwrap();
    let said = refused(&["backup", "restore", backup, "--data-dir", &to, "--root-key", &other]);
    assert!(said.contains("the catalog needs key"), "{said}");
    let said = refused(&["backup", "restore", backup, "--data-dir", &to]);
    assert!(said.contains("root.key is missing") && said.contains("--root-key"), "{said}");

    let bytes = std::fs::read(&made.backup).unwrap();
    let text = String::from_utf8_lossy(&bytes[..200]).into_owned();
    assert!(text.starts_with("sealdisk-backup 1\n{\"created\""), "{text}");
    let changed = made.folder.path().join("changed.backup");
    let middle = bytes.len() / 2;
    let mut flipped = bytes.clone();
    flipped[middle] ^= 1;
    let account = "1000000000000001".as_bytes();
    let at = bytes.windows(16).position(|window| window == account).unwrap();
    let mut renamed = bytes.clone();
    renamed[at + 15] = b'2';
    for (what, bytes, expected) in [
        ("flipped", flipped, "is not what was written"),
        ("cut off", bytes[..bytes.len() - 1].to_vec(), "is not what was written"),
        ("longer", [bytes.clone(), vec![0]].concat(), "is not what was written"),
        ("manifest", renamed, "is not what was written"),
        ("head alone", bytes[..100].to_vec(), "is no backup of sealdisk"),
        ("empty", Vec::new(), "is no backup of sealdisk"),
        ("other", b"hello\nworld\n!\n".to_vec(), "is no backup of sealdisk"),
    ] {
        std::fs::write(&changed, bytes).unwrap();
        let restored = made.restore(&changed, &to);
        assert_eq!(restored.status.code(), Some(1), "{what}");
        let said = String::from_utf8(restored.stderr).unwrap();
        assert!(said.contains(expected), "{what}: {said}");
        let left: Vec<_> = std::fs::read_dir(&to)
            .map(|entries| entries.map(|entry| entry.unwrap().file_name()).collect())
            .unwrap_or_default();
        assert!(left.iter().all(|name| name == "daemon.lock"), "{what}: {left:?}");
    }
}

#[test]
fn a_backup_made_before_a_rotation_needs_the_key_of_its_time() {
    let made = Made::new();
    made.daemon.ok(&["root", "rotate", "--yes"]);
    let to = made.path("restored");
    let said = made.restore(&made.backup, &to);
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("the catalog needs key"), "{said}");
    let (backup, previous) = (made.backup.to_str().unwrap(), made.path("data/root.key.previous"));
    let restored = run(&["backup", "restore", backup, "--data-dir", &to, "--root-key", &previous]);
    assert!(restored.status.success());
    std::fs::copy(&previous, format!("{to}/root.key")).unwrap();
    opens(&Daemon::start(Path::new(&to)), &made.blob);
}

#[test]
fn a_backup_is_of_one_moment_while_serving_goes_on() {
    let made = Made::new();
    let (daemon, stop) = (&made.daemon, AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let id = call(daemon, "CreateKey", &[])["KeyMetadata"]["KeyId"].clone();
                encrypt(daemon, id.as_str().unwrap());
            }
        });
        for number in 0..5 {
            let (name, to) = (format!("live-{number}"), made.path(&format!("to-{number}")));
            daemon.ok(&["backup", "create", &made.path(&name)]);
            assert!(made.restore(&made.folder.path().join(&name), &to).status.success());
        }
        stop.store(true, Ordering::SeqCst);
    });
    let to = made.path("to-4");
    std::fs::copy(made.root_key(), format!("{to}/root.key")).unwrap();
    let restored = Daemon::start(Path::new(&to));
    let keys = call(&restored, "ListKeys", &[("PageSize", "100")]);
    for key in keys["Keys"]["Key"].as_array().unwrap() {
        let id = key["KeyId"].as_str().unwrap();
        let described = call(&restored, "DescribeKey", &[("KeyId", id)]);
        if described["KeyMetadata"]["Creator"] != "Ecs" {
            opens(&restored, &encrypt(&restored, id));
        }
    }
}

#[test]
fn what_an_unfinished_restore_left_behind_does_not_get_in() {
    let made = Made::new();
    let (earlier, to) = (made.path("earlier"), made.path("restored"));
    assert!(made.restore(&made.backup, &earlier).status.success());
    // The write-ahead log of a restore that a crash ended.
    let unfinished = rusqlite::Connection::open(format!("{earlier}/catalog.db")).unwrap();
    unfinished.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    let changed = unfinished.execute("UPDATE kms_key SET description = 'of another time'", []);
    assert_eq!(changed, Ok(2));
    std::fs::create_dir(&to).unwrap();
    let left = format!("{to}/catalog.db.restoring-wal");
    std::fs::copy(format!("{earlier}/catalog.db-wal"), left).unwrap();
    drop(unfinished);

    let restored = made.restore(&made.backup, &to);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    std::fs::copy(made.root_key(), format!("{to}/root.key")).unwrap();
    let daemon = Daemon::start(Path::new(&to));
    assert_eq!(daemon.json(&["key", "show", "alias/kept"])["Description"], "kept");
}
