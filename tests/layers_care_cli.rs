//! What becomes of layers when keys are destroyed, rotated or wrapped anew, restores are cut off
//! and the catalog is lost: the command line against a real daemon.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use support::daemon::{Daemon, binary};
use support::dice::Dice;
use support::{luks, tools};

/// A daemon of its own, or none where the judges are missing.
fn daemon(data: &Path) -> Option<Daemon> {
    let judges = ["qemu-io", "cryptsetup", "tar"];
    judges.iter().all(|judge| tools::have(judge)).then(|| Daemon::start(data))
}

/// Has `qemu-io` do one thing to an attached disk.
fn io(daemon: &Daemon, disk: &str, command: &str) {
    let said = tools::run("qemu-io", &["-f", "raw", "-c", command, &daemon.uri(disk)]);
    assert!(!said.contains("verification failed"), "{disk}, {command}: {said}");
}

/// The layers of a disk, bottom first.
fn layers_of(daemon: &Daemon, disk: &str) -> Vec<PathBuf> {
    let shown = daemon.json(&["disk", "show", disk]);
    let files = shown["LayerFiles"].as_array().unwrap().iter();
    files.map(|file| PathBuf::from(file.as_str().unwrap())).collect()
}

fn text<'a>(answer: &'a Value, field: &str) -> &'a str {
    answer[field].as_str().unwrap_or_else(|| panic!("{field} in {answer}"))
}

fn offline(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn offline_json(arguments: &[&str]) -> Value {
    let output = offline(&[arguments, &["-o", "json"]].concat());
    let text = tools::text_of(&format!("sealdisk {arguments:?}"), &output);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A second name for a layer: it shows what is left on the medium when the first is gone.
struct Left {
    path: PathBuf,
    wrapped: String,
    layer_id: String,
}

impl Left {
    fn of(layer: &Path, folder: &Path) -> Self {
        let name = layer.file_name().unwrap().to_str().unwrap();
        let path = folder.join(name);
        std::fs::hard_link(layer, &path).unwrap();
        let wrapped = luks::token(&mut luks::json(layer))["wrapped_key"].clone();
        let wrapped = wrapped.as_str().unwrap().to_owned();
        let left = Self { path, wrapped, layer_id: name.trim_end_matches(".luks").to_owned() };
        assert_eq!(left.wrapped_keys(), 2, "one in each header copy");
        left
    }

    fn wrapped_keys(&self) -> usize {
        let bytes = std::fs::read(&self.path).unwrap();
        // A part of it is as good as none, but it is looked for.
        let needle = &self.wrapped.as_bytes()[40..80];
        bytes.windows(needle.len()).filter(|window| *window == needle).count()
    }

    fn assert_kept(&self) {
        assert_eq!(self.wrapped_keys(), 2, "{} is still needed", self.layer_id);
    }

    /// Neither header copy is one any more, and the trail says so, once.
    fn assert_erased(&self, daemon: &Daemon) {
        assert_eq!(self.wrapped_keys(), 0);
        let bytes = std::fs::read(&self.path).unwrap();
        for at in [0, luks::COPY_BYTES] {
            assert_ne!(bytes[at..at + 4], *b"LUKS");
            assert_ne!(bytes[at..at + 4], *b"SKUL");
        }
        let judged = tools::command("cryptsetup").arg("isLuks").arg(&self.path).status().unwrap();
        assert!(!judged.success(), "cryptsetup finds a header");
        let events = daemon.events("EraseLayer");
        let of_it = |event: &&Value| event["requestParameters"]["LayerId"] == *self.layer_id;
        assert_eq!(events.iter().filter(of_it).count(), 1, "{events:?}");
    }
}

/// Makes a disk on a snapshot, attached.
fn clone(daemon: &Daemon, snapshot: &str, name: &str) {
    daemon.ok(&["disk", "create", "--name", name, "--snapshot", snapshot, "--attach"]);
}

fn delete_disk(daemon: &Daemon, name: &str) {
    daemon.ok(&["disk", "detach", name]);
    daemon.ok(&["disk", "delete", name, "--yes"]);
}

#[test]
fn an_erased_snapshot_leaves_no_key_once_nobody_needs_its_layer() {
    let folder = tempfile::tempdir().unwrap();
    let Some(daemon) = daemon(&folder.path().join("data")) else { return };
    daemon.disk("db", "16MiB");
    io(&daemon, "db", "write -P 1 0 2M");
    daemon.ok(&["snapshot", "create", "db", "--name", "monday"]);
    io(&daemon, "db", "write -P 2 1M 2M");
    daemon.ok(&["snapshot", "create", "db", "--name", "tuesday"]);
    io(&daemon, "db", "write -P 3 4M 1M");
    clone(&daemon, "monday", "clone");
    let [bottom, middle, _top] = &layers_of(&daemon, "db")[..] else { panic!("three layers") };
    let monday = Left::of(bottom, folder.path());

    // A clone stands on it: refused, and if forced, the layer stays for as long as it is needed.
    let refused = daemon.refused(&["snapshot", "delete", "monday", "--yes", "--erase"]);
    assert!(refused.contains("SnapshotCreatedDisk"), "{refused}");
    daemon.ok(&["snapshot", "delete", "monday", "--yes", "--erase", "--force"]);
    monday.assert_kept();
    io(&daemon, "clone", "read -P 1 0 2M");
    io(&daemon, "clone", "write -P 4 8M 1M");
    delete_disk(&daemon, "clone");
    // What the disk and its other snapshot need of it goes up first.
    tools::wait_until("the layer is gone", || !bottom.exists());
    monday.assert_erased(&daemon);
    // Its header was written anew: it stands on nothing now.
    let tuesday = Left::of(middle, folder.path());
    let intact = |disk: &str| {
        io(&daemon, disk, "read -P 1 0 1M");
        io(&daemon, disk, "read -P 2 1M 2M");
    };
    intact("db");
    clone(&daemon, "tuesday", "look");
    intact("look");
    delete_disk(&daemon, "look");

    tuesday.assert_kept();
    daemon.ok(&["snapshot", "delete", "tuesday", "--yes", "--erase", "--force"]);
    tools::wait_until("the layer is gone", || !middle.exists());
    tuesday.assert_erased(&daemon);
    intact("db");
    io(&daemon, "db", "read -P 3 4M 1M");
    daemon.ok(&["check"]);
    assert!(daemon.stop().success());
}

#[test]
fn an_erased_disk_takes_no_layer_from_a_snapshot_or_a_clone() {
    let folder = tempfile::tempdir().unwrap();
    let Some(daemon) = daemon(&folder.path().join("data")) else { return };
    daemon.disk("db", "16MiB");
    io(&daemon, "db", "write -P 1 0 2M");
    daemon.ok(&["snapshot", "create", "db", "--name", "monday"]);
    io(&daemon, "db", "write -P 2 1M 2M");
    clone(&daemon, "monday", "clone");
    let [bottom, top] = &layers_of(&daemon, "db")[..] else { panic!("two layers") };
    let (below, above) = (Left::of(bottom, folder.path()), Left::of(top, folder.path()));
    let refused = daemon.refused(&["disk", "delete", "db", "--yes", "--erase"]);
    assert!(refused.contains("attached"), "{refused}");
    above.assert_kept();
    daemon.ok(&["disk", "detach", "db"]);
    daemon.ok(&["disk", "delete", "db", "--yes", "--erase"]);
    assert!(!top.exists());
    above.assert_erased(&daemon);
    below.assert_kept();
    io(&daemon, "clone", "read -P 1 0 2M");
    clone(&daemon, "monday", "look");
    io(&daemon, "look", "read -P 1 0 2M");
    daemon.ok(&["check"]);
    assert!(daemon.stop().success());
}

/// Restores a backup with a `tar` that never comes to an end.
fn restore_that_hangs(daemon: &Daemon, folder: &Path, backup: &str) -> Child {
    let fake = folder.join("bin");
    std::fs::create_dir_all(&fake).unwrap();
    let real = tools::run("sh", &["-c", "command -v tar"]);
    // It has written everything, and then sleeps.
    let script = format!("#!/bin/sh\n{} \"$@\"\nexec sleep 1000\n", real.trim());
    std::fs::write(fake.join("tar"), script).unwrap();
    tools::run("chmod", &["+x", fake.join("tar").to_str().unwrap()]);
    let path = format!("{}:{}", fake.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(binary());
    command.arg("--endpoint").arg(format!("unix:{}", daemon.api_socket().display()));
    command.args(["snapshot", "restore", backup]).env("PATH", path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Ends a child and what it started.
fn kill_with_children(mut child: Child) {
    let children = tools::command("pgrep").args(["-P", &child.id().to_string()]).output().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    for id in String::from_utf8(children.stdout).unwrap().split_whitespace() {
        let _ = tools::command("kill").args(["-9", id]).status();
    }
}

fn places(data: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(data.join("layers/.incoming")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Makes the place of a restore as old as one that nobody has just begun.
fn age(place: &Path) {
    let hour = Duration::from_secs(3600);
    std::fs::File::open(place).unwrap().set_modified(SystemTime::now() - hour).unwrap();
}

/// Has upkeep run: it takes an old place away that nobody holds. Twice, for the first run may have
/// begun before whatever it shall find.
fn run_upkeep(daemon: &Daemon) {
    for _ in 0..2 {
        let decoy = daemon.data_dir().join("layers/.incoming/r-00000000000000000000");
        std::fs::create_dir_all(&decoy).unwrap();
        age(&decoy);
        tools::wait_until("upkeep has run", || {
            // Whatever ends a command on a job tells upkeep to look.
            daemon.cli(&["job", "resume", "j-00000000000000000000"]);
            !decoy.exists()
        });
    }
}

/// A snapshot of two layers in a file, gone from the daemon.
fn backup(daemon: &Daemon, folder: &Path) -> String {
    daemon.disk("db", "64MiB");
    io(daemon, "db", "write -P 1 0 24M");
    daemon.ok(&["snapshot", "create", "db", "--name", "s"]);
    io(daemon, "db", "write -P 2 8M 8M");
    daemon.ok(&["snapshot", "create", "db", "--name", "t"]);
    let file = folder.join("t.tar").to_str().unwrap().to_owned();
    daemon.ok(&["snapshot", "export", "t", "--to", &file]);
    for snapshot in ["s", "t"] {
        daemon.ok(&["snapshot", "delete", snapshot, "--yes", "--force"]);
    }
    delete_disk(daemon, "db");
    let is_empty = || std::fs::read_dir(daemon.data_dir().join("layers")).unwrap().count() <= 1;
    tools::wait_until("every layer is gone", is_empty);
    file
}

fn verify_backup(daemon: &Daemon) {
    clone(daemon, "t", "back");
    for command in ["read -P 1 0 8M", "read -P 2 8M 8M", "read -P 1 16M 8M", "read -P 0 24M 8M"] {
        io(daemon, "back", command);
    }
    delete_disk(daemon, "back");
}

#[test]
fn a_restore_that_was_cut_off_leaves_nothing_and_one_under_way_stays() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let Some(daemon) = daemon(&data) else { return };
    let file = backup(&daemon, folder.path());
    let begin = |daemon: &Daemon| {
        let child = restore_that_hangs(daemon, folder.path(), &file);
        let is_unpacked = |place: &PathBuf| std::fs::read_dir(place).unwrap().count() == 3;
        tools::wait_until("it is unpacked", || places(&data).iter().any(is_unpacked));
        let place = places(&data).pop().unwrap();
        age(&place);
        (child, place)
    };
    // Held: it stays, however old it is. Not held: it goes, but not while it is young.
    let (child, place) = begin(&daemon);
    run_upkeep(&daemon);
    assert_eq!(places(&data), std::slice::from_ref(&place), "a restore under way is swept away");
    kill_with_children(child);
    std::fs::File::open(&place).unwrap().set_modified(SystemTime::now()).unwrap();
    run_upkeep(&daemon);
    assert_eq!(
        places(&data),
        std::slice::from_ref(&place),
        "one that may have just begun is swept away"
    );
    age(&place);
    run_upkeep(&daemon);
    assert_eq!(places(&data), Vec::<PathBuf>::new());

    // The daemon dies first, then the command that fills the place.
    let (child, place) = begin(&daemon);
    daemon.kill();
    let daemon = Daemon::start(&data);
    run_upkeep(&daemon);
    assert_eq!(places(&data), [place], "its command is alive");
    kill_with_children(child);
    tools::wait_until("it is swept", || {
        run_upkeep(&daemon);
        places(&data).is_empty()
    });
    assert_eq!(daemon.json(&["snapshot", "list"])["TotalCount"], 0);
    daemon.ok(&["snapshot", "restore", &file]);
    verify_backup(&daemon);
    assert!(daemon.stop().success());
}

#[test]
fn a_daemon_killed_during_a_restore_has_the_snapshot_or_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let Some(mut daemon) = daemon(&data) else { return };
    let file = backup(&daemon, folder.path());
    let mut dice = Dice::new(4);
    let begun = std::time::Instant::now();
    daemon.ok(&["snapshot", "restore", &file]);
    let span = begun.elapsed().as_micros() as u64;
    let mut came_back = 0;
    for round in 0..12 {
        if daemon.json(&["snapshot", "list"])["TotalCount"] == 1 {
            verify_backup(&daemon);
            daemon.ok(&["snapshot", "delete", "t", "--yes", "--force"]);
            came_back += 1;
        }
        tools::wait_until("every layer is gone", || {
            let entries = std::fs::read_dir(data.join("layers")).unwrap();
            entries.filter(|entry| entry.as_ref().unwrap().path().is_file()).count() == 0
        });
        let endpoint = format!("unix:{}", daemon.api_socket().display());
        let mut command = Command::new(binary());
        command.args(["--endpoint", &endpoint, "snapshot", "restore", &file]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // The later half is where files become layers.
        std::thread::sleep(Duration::from_micros(span / 3 + dice.below(span)));
        daemon.kill();
        child.wait().unwrap();
        daemon = Daemon::start(&data);
        let checked = daemon.cli(&["check"]);
        assert!(checked.status.success(), "round {round}: {checked:?}");
        places(&data).iter().for_each(|place| age(place));
        run_upkeep(&daemon);
        assert_eq!(places(&data), Vec::<PathBuf>::new(), "round {round}");
    }
    assert!(came_back > 0, "it never came back whole");
    assert!(daemon.stop().success());
}

#[test]
fn after_a_rotation_one_command_wraps_all_data_keys_of_a_key_anew() {
    let folder = tempfile::tempdir().unwrap();
    let Some(daemon) = daemon(&folder.path().join("data")) else { return };
    let made = daemon.json(&["key", "create"]);
    let key = text(&made, "KeyId");
    daemon.ok(&["key", "tag", key, "acs:ecs:disk-encryption=true"]);
    for name in ["db", "web"] {
        daemon.disk_with(name, "16MiB", &["--key-id", key]);
        io(&daemon, name, "write -P 1 0 1M");
    }
    daemon.disk("other", "16MiB");
    daemon.ok(&["snapshot", "create", "db", "--name", "monday"]);
    io(&daemon, "db", "write -P 2 1M 1M");
    clone(&daemon, "monday", "clone");
    daemon.ok(&["disk", "detach", "web"]);
    let mut files: BTreeSet<PathBuf> = BTreeSet::new();
    ["db", "web", "clone"].iter().for_each(|disk| files.extend(layers_of(&daemon, disk)));
    assert_eq!(files.len(), 4);
    let other = layers_of(&daemon, "other").remove(0);
    let of_other = luks::json(&other);
    // Versions in both copies of all headers.
    let versions = || -> BTreeSet<String> {
        let both = files.iter().flat_map(|file| {
            let bytes = std::fs::read(file).unwrap();
            [0, luks::COPY_BYTES].map(|at| luks::json_in(&bytes[at..at + luks::COPY_BYTES]))
        });
        both.map(|mut json| text(luks::token(&mut json), "kms_key_version").to_owned()).collect()
    };
    let before = versions();
    assert_eq!(before.len(), 1);
    daemon.ok(&["key", "rotate", key, "--now"]);
    assert_eq!(versions(), before, "a rotation touches no header");
    let said = daemon.ok(&["key", "rewrap", key]);
    assert_eq!(said, "4 data keys wrapped anew\n");
    let newest = text(&daemon.json(&["key", "show", key]), "PrimaryKeyVersion").to_owned();
    assert_eq!(versions(), [newest].into(), "in both copies of every header");
    assert_eq!(luks::json(&other), of_other, "nor is a disk under another key touched");
    assert_eq!(
        daemon.ok(&["key", "rewrap", key]),
        "0 data keys wrapped anew, 4 under the newest \
                                                    version already\n"
    );
    for file in &files {
        tools::run("cryptsetup", &["luksDump", file.to_str().unwrap()]);
    }
    daemon.ok(&["disk", "attach", "web"]);
    let data = daemon.data_dir().to_owned();
    daemon.kill();
    // What a start opens, it opens by the new headers.
    let daemon = Daemon::start(&data);
    for disk in ["db", "web", "clone"] {
        io(&daemon, disk, "read -P 1 0 1M");
    }
    io(&daemon, "db", "read -P 2 1M 1M");
    let events = daemon.events("RewrapKey");
    assert_eq!(events.len(), 2);
    daemon.ok(&["check"]);
    assert!(daemon.stop().success());
}

#[test]
fn a_job_whose_key_is_disabled_says_so_and_ends_when_it_is_enabled() {
    let folder = tempfile::tempdir().unwrap();
    let Some(daemon) = daemon(&folder.path().join("data")) else { return };
    let made = daemon.json(&["key", "create"]);
    let key = text(&made, "KeyId");
    daemon.ok(&["key", "tag", key, "acs:ecs:disk-encryption=true"]);
    daemon.disk_with("db", "16MiB", &["--key-id", key]);
    io(&daemon, "db", "write -P 1 0 2M");
    daemon.ok(&["snapshot", "create", "db", "--name", "s"]);
    io(&daemon, "db", "write -P 2 1M 2M");
    daemon.ok(&["key", "disable", key]);
    daemon.ok(&["snapshot", "delete", "s", "--yes"]);
    let job = || daemon.json(&["job", "list", "--disk", "db"])["Jobs"]["Job"][0].clone();
    tools::wait_until("the merge says why", || {
        job()["Failure"].as_str().is_some_and(|why| why.contains("needs to be enabled"))
    });
    let id = text(&job(), "JobId").to_owned();
    let shown = daemon.ok(&["job", "show", &id]);
    assert!(shown.contains("The CMK needs to be enabled"), "{shown}");
    // The disk is served all the same.
    io(&daemon, "db", "read -P 1 0 1M");
    io(&daemon, "db", "read -P 2 1M 2M");
    io(&daemon, "db", "write -P 3 8M 1M");
    daemon.ok(&["key", "enable", key]);
    daemon.ok(&["job", "resume", &id]);
    assert_eq!(daemon.json(&["job", "wait", &id])["State"], "done");
    assert_eq!(layers_of(&daemon, "db").len(), 1);
    for command in ["read -P 1 0 1M", "read -P 2 1M 2M", "read -P 3 8M 1M"] {
        io(&daemon, "db", command);
    }
    assert!(daemon.stop().success());
}

#[test]
fn snapshots_images_and_clones_come_back_from_their_layers() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let Some(daemon) = daemon(&data) else { return };
    let db = daemon.disk("db", "16MiB");
    let keys = folder.path().join("keys.backup");
    daemon.ok(&["backup", "create", keys.to_str().unwrap()]);
    io(&daemon, "db", "write -P 1 0 2M");
    daemon.ok(&["snapshot", "create", "db", "--name", "monday"]);
    io(&daemon, "db", "write -P 2 1M 2M");
    daemon.ok(&["snapshot", "create", "db", "--name", "tuesday"]);
    io(&daemon, "db", "write -P 3 4M 1M");
    clone(&daemon, "monday", "clone");
    io(&daemon, "clone", "write -P 4 8M 1M");
    daemon.ok(&["image", "create", "tuesday", "--name", "golden"]);
    daemon.ok(&["disk", "resize", "db", "24MiB"]);
    let ids = |daemon: &Daemon| {
        let snapshot = |name| daemon.json(&["snapshot", "show", name]);
        let (monday, tuesday) = (snapshot("monday"), snapshot("tuesday"));
        assert_eq!(text(&monday, "SourceDiskId"), db);
        let clone = daemon.json(&["disk", "show", "clone"]);
        [text(&monday, "SnapshotId"), text(&tuesday, "SnapshotId"), text(&clone, "DiskId")]
            .map(str::to_owned)
    };
    let before = ids(&daemon);
    assert!(daemon.stop().success());

    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(data.join(name));
    }
    let dir = data.to_str().unwrap();
    let restored = offline(&["backup", "restore", keys.to_str().unwrap(), "--data-dir", dir]);
    tools::text_of("backup restore", &restored);
    assert_eq!(offline(&["check", "--data-dir", dir]).status.code(), Some(1), "they are unknown");
    let report = offline_json(&["catalog", "rebuild", dir]);
    assert_eq!(report["LeftOut"], Value::Array(vec![]), "{report}");
    // A crash between the copies of one header beside it: check mends it.
    let layers = std::fs::read_dir(data.join("layers")).unwrap();
    let layer = layers.map(|entry| entry.unwrap().path()).find(|path| path.is_file()).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&layer).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4096], luks::COPY_BYTES as u64).unwrap();
    assert_eq!(offline(&["check", "--data-dir", dir]).status.code(), Some(1));
    let mended = offline_json(&["check", "--data-dir", dir, "--repair"]);
    assert_eq!(mended["Faults"], 0, "{mended}");
    let checked = offline_json(&["check", "--data-dir", dir]);
    assert_eq!((&checked["Faults"], &checked["Layers"]), (&0.into(), &4.into()), "{checked}");

    let daemon = Daemon::start(&data);
    assert_eq!(ids(&daemon), before);
    assert_eq!(daemon.json(&["disk", "show", "db"])["SizeBytes"], 24 << 20);
    for disk in ["db", "clone"] {
        daemon.ok(&["disk", "attach", disk]);
    }
    clone(&daemon, "monday", "of-monday");
    clone(&daemon, "tuesday", "of-tuesday");
    daemon.ok(&["disk", "create", "--name", "of-golden", "--image", "golden", "--attach"]);
    for (disk, commands) in [
        ("db", &["read -P 1 0 1M", "read -P 2 1M 2M", "read -P 3 4M 1M", "read -P 0 16M 8M"][..]),
        ("clone", &["read -P 1 0 2M", "read -P 0 2M 6M", "read -P 4 8M 1M"]),
        ("of-monday", &["read -P 1 0 2M", "read -P 0 2M 14M"]),
        ("of-tuesday", &["read -P 1 0 1M", "read -P 2 1M 2M", "read -P 0 3M 13M"]),
        ("of-golden", &["read -P 1 0 1M", "read -P 2 1M 2M", "read -P 0 3M 13M"]),
    ] {
        commands.iter().for_each(|command| io(&daemon, disk, command));
    }
    // They are what they were: snapshots are taken and merged away, disks reset.
    daemon.ok(&["disk", "detach", "db"]);
    daemon.ok(&["disk", "reset", "db", "--snapshot", "monday", "--yes"]);
    daemon.ok(&["disk", "attach", "db"]);
    io(&daemon, "db", "read -P 1 0 2M");
    io(&daemon, "db", "read -P 0 2M 14M");
    daemon.ok(&["check"]);
    assert!(daemon.stop().success());
}
