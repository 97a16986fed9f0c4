//! Snapshots, clones, images, jobs and backups as a user meets them: the command line against a
//! real daemon, and the programs of others as judges of what disks hold.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use support::daemon::{Daemon, binary, signal};
use support::tools::{self, run};

const MIB: u64 = 1 << 20;

/// A daemon of its own, or none where the judges are missing.
fn daemon(dir: &Path) -> Option<Daemon> {
    let judges = ["qemu-img", "qemu-io", "nbdinfo", "nbdcopy", "tar"];
    judges.iter().all(|judge| tools::have(judge)).then(|| Daemon::start(&dir.join("data")))
}

/// Writes runs of one byte: `(byte, offset, length)`.
fn fill(daemon: &Daemon, disk: &str, runs: &[(u8, u64, u64)]) {
    let uri = daemon.uri(disk);
    let mut arguments = vec!["-f".to_owned(), "raw".to_owned()];
    for (byte, offset, length) in runs {
        arguments.extend(["-c".to_owned(), format!("write -P {byte} {offset} {length}")]);
    }
    arguments.extend(["-c".to_owned(), "flush".to_owned(), uri]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run("qemu-io", &arguments);
}

/// Everything an attached disk reads as.
fn content(daemon: &Daemon, disk: &str) -> Vec<u8> {
    let output = tools::command("nbdcopy").args([&daemon.uri(disk), "-"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What a disk of `size` bytes reads as after `runs`.
fn expected(size: u64, runs: &[(u8, u64, u64)]) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    for (byte, offset, length) in runs {
        bytes[*offset as usize..(offset + length) as usize].fill(*byte);
    }
    bytes
}

fn id<'a>(answer: &'a Value, field: &str) -> &'a str {
    answer[field].as_str().unwrap_or_else(|| panic!("{field} in {answer}"))
}

/// Files of layers there are.
fn layer_count(daemon: &Daemon) -> usize {
    let entries = std::fs::read_dir(daemon.data_dir().join("layers")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some()).count()
}

#[test]
fn a_snapshot_keeps_what_was_and_clones_go_their_own_ways() {
    let dir = tempfile::tempdir().unwrap();
    let Some(daemon) = daemon(dir.path()) else { return };
    let size = 16 * MIB;
    let db = daemon.disk("db", "16MiB");
    let before = [(1, 0, 2 * MIB), (2, 4 * MIB, MIB)];
    fill(&daemon, &db, &before);
    let tags = ["--tag", "plan=daily", "--retention-days", "7"];
    let made = daemon.json(&[&["snapshot", "create", "db", "--name", "s1"], &tags[..]].concat());
    let snapshot = id(&made, "SnapshotId");
    assert_eq!(made["Status"], "accomplished");
    assert_eq!((&made["SourceDiskId"], &made["RetentionDays"]), (&db.clone().into(), &7.into()));
    assert_eq!(made["Tags"]["Tag"][0]["TagKey"], "plan", "{made}");
    let shown = daemon.ok(&["snapshot", "show", "s1"]);
    assert!(shown.contains("plan=daily") && shown.contains("7 days"), "{shown}");
    let listed = daemon.ok(&["snapshot", "list", "--disk", "db"]);
    assert!(listed.starts_with("SNAPSHOT ID") && listed.contains(snapshot), "{listed}");

    fill(&daemon, &db, &[(3, MIB, MIB)]);
    let clone = |name: &str, options: &[&str]| {
        let create = ["disk", "create", "--name", name, "--snapshot", "s1", "--attach"];
        let made = daemon.json(&[&create[..], options].concat());
        assert_eq!(made["SourceSnapshotId"], snapshot, "{made}");
        id(&made, "DiskId").to_owned()
    };
    let same = clone("same", &[]);
    let larger = clone("larger", &["--size", "32MiB"]);
    fill(&daemon, &larger, &[(4, 24 * MIB, MIB)]);
    let of_before = expected(size, &before);
    assert!(content(&daemon, &same) == of_before, "the clone reads the snapshot");
    let grown = expected(2 * size, &[&before[..], &[(4, 24 * MIB, MIB)]].concat());
    assert!(content(&daemon, &larger) == grown, "a larger one ends in zeros and its own data");
    let after = expected(size, &[&before[..], &[(3, MIB, MIB)]].concat());
    assert!(content(&daemon, &db) == after, "the disk went on");

    let refused = daemon.refused(&[
        "disk",
        "create",
        "--name",
        "small",
        "--snapshot",
        "s1",
        "--size",
        "8MiB",
    ]);
    assert!(refused.contains("InvalidDiskSize.TooSmall"), "{refused}");
    let refused = daemon.refused(&["snapshot", "delete", "s1", "--yes"]);
    assert!(refused.contains("SnapshotCreatedDisk") && refused.contains("--force"), "{refused}");
    daemon.ok(&["snapshot", "delete", "s1", "--yes", "--force"]);
    assert!(content(&daemon, &same) == of_before, "a clone outlives its snapshot");
    let none = daemon.json(&["snapshot", "list"]);
    assert_eq!(none["TotalCount"], 0, "{none}");
}

/// Words of an image that has data, holes and zeros, and is no multiple of a data unit.
fn raw_image(dir: &Path) -> PathBuf {
    let path = dir.join("source.img");
    let text = path.to_str().unwrap();
    run("qemu-img", &["create", "-q", "-f", "raw", text, "9437696"]);
    let writes = ["write -P 17 0 1M", "write -P 18 3M 512k", "write -P 19 9437184 512"];
    let mut arguments = vec!["-f", "raw"];
    writes.iter().for_each(|write| arguments.extend(["-c", write]));
    arguments.push(text);
    run("qemu-io", &arguments);
    path
}

#[test]
fn images_come_from_files_of_every_format_and_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let Some(daemon) = daemon(dir.path()) else { return };
    let source = raw_image(dir.path());
    let source = source.to_str().unwrap();
    for (number, format) in ["raw", "qcow2", "vmdk", "vhdx"].into_iter().enumerate() {
        let file = dir.path().join(format!("in.{format}"));
        let file = file.to_str().unwrap();
        run("qemu-img", &["convert", "-f", "raw", "-O", format, source, file]);
        let mut import = vec!["image", "import", file, "--name", format];
        if format == "raw" {
            import.extend(["--format", "raw"]);
        }
        let image = daemon.json(&import);
        assert_eq!((&image["Status"], &image["Encrypted"]), (&"Available".into(), &true.into()));
        assert_eq!(
            layer_count(&daemon),
            number + 1,
            "an image is one layer, and nothing else stays"
        );
        assert_eq!(daemon.json(&["disk", "list"])["TotalCount"], 0);
        assert_eq!(daemon.json(&["snapshot", "list"])["TotalCount"], 0);

        let out = dir.path().join(format!("out.{format}"));
        let out = out.to_str().unwrap();
        let told = daemon.ok(&["image", "export", format, "--to", out, "--format", format]);
        assert!(told.contains("in clear"), "{told}");
        let same = ["compare", "-f", "raw", "-F", format, source, out];
        assert!(run("qemu-img", &same).contains("identical"), "{format}");
        let refused = daemon.refused(&["image", "export", format, "--to", out]);
        assert!(refused.contains("it is there already"), "{refused}");
    }
    assert_eq!(daemon.json(&["image", "list"])["TotalCount"], 4);
    let clone = ["disk", "create", "--name", "web", "--image", "qcow2", "--attach"];
    daemon.ok(&[&clone[..], &["--size", "32MiB"]].concat());
    let uri = daemon.uri("web");
    assert!(
        run("qemu-img", &["compare", "-f", "raw", "-F", "raw", source, &uri]).contains("identical")
    );
    let refused = daemon.refused(&["image", "delete", "qcow2", "--yes"]);
    assert!(refused.contains("ImageUsedByDisk") && refused.contains("--force"), "{refused}");
    daemon.ok(&["image", "delete", "qcow2", "--yes", "--force"]);
    daemon.ok(&["image", "delete", "raw", "--yes"]);
    assert!(
        run("qemu-img", &["compare", "-f", "raw", "-F", "raw", source, &uri]).contains("identical")
    );
}

#[test]
fn files_that_lead_elsewhere_or_are_none_are_not_imported() {
    let dir = tempfile::tempdir().unwrap();
    let Some(daemon) = daemon(dir.path()) else { return };
    let source = raw_image(dir.path());
    let overlay = dir.path().join("overlay.qcow2");
    let overlay = overlay.to_str().unwrap();
    let backing = source.to_str().unwrap();
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", backing, "-F", "raw", overlay]);
    let refused = daemon.refused(&["image", "import", overlay, "--name", "o"]);
    assert!(
        refused.contains("it refers to another file") && refused.contains("--follow"),
        "{refused}"
    );
    daemon.ok(&["image", "import", overlay, "--name", "o", "--follow"]);
    for (file, why) in [("/no/such/file", "No such file"), (backing, "Image is not in qcow2")] {
        let refused =
            daemon.refused(&["image", "import", file, "--name", "n", "--format", "qcow2"]);
        assert!(refused.contains(why), "{refused}");
    }
    let fifo = dir.path().join("fifo");
    let fifo = fifo.to_str().unwrap();
    run("mkfifo", &[fifo]);
    for (file, name, why) in [
        (fifo, "n", "neither a file nor a block device"),
        (backing, "m-n", "InvalidImageName.Malformed"),
        (backing, "a\nb", "InvalidImageName.Malformed"),
    ] {
        let refused = daemon.refused(&["image", "import", file, "--name", name]);
        assert!(refused.contains(why), "{refused}");
    }
    assert_eq!(daemon.json(&["disk", "list"])["TotalCount"], 0);
    assert_eq!(layer_count(&daemon), 1);
}

#[test]
fn files_that_were_cut_off_are_not_imported() {
    let dir = tempfile::tempdir().unwrap();
    let Some(daemon) = daemon(dir.path()) else { return };
    let source = raw_image(dir.path());
    for format in ["qcow2", "vmdk", "vhdx"] {
        let whole = dir.path().join(format!("whole.{format}"));
        let (from, to) = (source.to_str().unwrap(), whole.to_str().unwrap());
        run("qemu-img", &["convert", "-f", "raw", "-O", format, from, to]);
        let bytes = std::fs::read(&whole).unwrap();
        let cut = dir.path().join(format!("cut.{format}"));
        std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
        let refused = ["image", "import", cut.to_str().unwrap(), "--name", "n", "--format", format];
        let refused = daemon.refused(&refused);
        assert!(refused.contains(cut.to_str().unwrap()), "{refused}");
    }
    assert_eq!(daemon.json(&["image", "list"])["TotalCount"], 0);
    assert_eq!(layer_count(&daemon), 0);
}

/// An empty variable of a script must never pick the only thing there is.
#[test]
fn an_empty_name_means_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(daemon) = daemon(dir.path()) else { return };
    daemon.disk("db", "16M");
    daemon.ok(&["disk", "detach", "db"]);
    daemon.ok(&["snapshot", "create", "db", "--name", "only"]);
    for command in [
        &["disk", "delete", "", "--yes"][..],
        &["disk", "reset", "", "--snapshot", "only", "--yes"],
        &["disk", "reset", "db", "--snapshot", "", "--yes"],
        &["snapshot", "delete", "", "--yes"],
        &["disk", "rekey", ""],
    ] {
        let output = daemon.cli(command);
        assert_eq!(output.status.code(), Some(2), "{command:?}");
    }
    assert_eq!(daemon.json(&["disk", "list"])["TotalCount"], 1);
    assert_eq!(daemon.json(&["snapshot", "list"])["TotalCount"], 1);
    assert_eq!(daemon.json(&["job", "list"])["TotalCount"], 0);
    daemon.ok(&["disk", "rewrap", "db", "--wait"]);
}

/// The command line with a `qemu-img` that never comes to an end of a conversion.
fn import_that_hangs(daemon: &Daemon, dir: &Path, file: &Path) -> std::process::Child {
    let real = run("sh", &["-c", "command -v qemu-img"]);
    let fake = dir.join("bin");
    std::fs::create_dir_all(&fake).unwrap();
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = convert ] && exec sleep 1000\nexec {} \"$@\"\n",
        real.trim()
    );
    std::fs::write(fake.join("qemu-img"), script).unwrap();
    run("chmod", &["+x", fake.join("qemu-img").to_str().unwrap()]);
    let path = format!("{}:{}", fake.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(binary());
    command.arg("--endpoint").arg(format!("unix:{}", daemon.api_socket().display()));
    command.args(["image", "import", "--name", "never", "--format", "raw"]).arg(file);
    command.env("PATH", path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn an_import_that_is_interrupted_or_killed_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(daemon) = daemon(dir.path()) else { return };
    let file = raw_image(dir.path());
    let disks = || daemon.json(&["disk", "list"])["TotalCount"].as_u64().unwrap();

    let child = import_that_hangs(&daemon, dir.path(), &file);
    tools::wait_until("the import has its disk", || disks() == 1);
    signal(child.id(), "INT");
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("interrupted"));
    assert_eq!(disks(), 0, "it tidied up after itself");

    let mut child = import_that_hangs(&daemon, dir.path(), &file);
    tools::wait_until("the import has its disk", || disks() == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    let left = daemon.json(&["disk", "list"]);
    let left = &left["Disks"]["Disk"][0];
    assert!(!id(left, "LeaseEndTime").is_empty(), "the daemon will: {left}");
    // The lease of the command line is longer than a test should take: it is cut short.
    let parameters = format!("DiskId={}&LeaseSeconds=1", id(left, "DiskId"));
    call(&daemon, "RenewDiskLease", &parameters);
    tools::wait_until("the daemon took it away", || disks() == 0);
    tools::wait_until("its layer is gone", || layer_count(&daemon) == 0);
    assert_eq!(daemon.json(&["image", "list"])["TotalCount"], 0);
}

/// One of our own actions, as a form over the unix socket.
fn call(daemon: &Daemon, action: &str, parameters: &str) -> Value {
    let socket = daemon.api_socket();
    let form = format!("Action={action}&Version=2026-11-01&{parameters}");
    let arguments =
        ["-sS", "--unix-socket", socket.to_str().unwrap(), "-d", &form, "http://localhost/"];
    serde_json::from_str(&run("curl", &arguments)).unwrap()
}

/// `(offset, length, type)` of `nbdinfo --map`.
fn map(context: &str, uri: &str) -> Vec<(u64, u64, u64)> {
    let text = run("nbdinfo", &["--json", &format!("--map={context}"), uri]);
    let map: Value = serde_json::from_str(&text).unwrap();
    let number = |extent: &Value, field: &str| extent[field].as_u64().unwrap();
    let extents = map.as_array().unwrap().iter();
    extents.map(|it| (number(it, "offset"), number(it, "length"), number(it, "type"))).collect()
}

#[test]
fn clients_see_holes_and_changes_through_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let Some(daemon) = daemon(dir.path()) else { return };
    let size = 8 * MIB;
    let db = daemon.disk("db", "8MiB");
    fill(&daemon, &db, &[(1, 0, MIB)]);
    let first = daemon.json(&["snapshot", "create", "db", "--name", "first"]);
    fill(&daemon, &db, &[(2, 2 * MIB, MIB)]);
    let second = daemon.json(&["snapshot", "create", "db", "--name", "second"]);
    fill(&daemon, &db, &[(3, 4 * MIB, MIB)]);

    let uri = daemon.uri("db");
    let holes = [
        (0, MIB, 0),
        (MIB, MIB, 3),
        (2 * MIB, MIB, 0),
        (3 * MIB, MIB, 3),
        (4 * MIB, MIB, 0),
        (5 * MIB, 3 * MIB, 3),
    ];
    assert_eq!(map("base:allocation", &uri), holes);
    let seen = run("qemu-img", &["map", "-f", "raw", "--output=json", &uri]);
    let seen: Value = serde_json::from_str(&seen).unwrap();
    let data = seen.as_array().unwrap().iter().filter(|extent| extent["data"] == true);
    assert_eq!(data.map(|extent| extent["length"].as_u64().unwrap()).sum::<u64>(), 3 * MIB);

    let since = |snapshot: &Value| format!("sealdisk:changed-since={}", id(snapshot, "SnapshotId"));
    let listed = run(
        "nbdinfo",
        &["--list", &format!("nbd+unix:///?socket={}", daemon.nbd_socket().display())],
    );
    assert!(listed.contains(&since(&first)) && listed.contains(&since(&second)), "{listed}");
    let of_first = [
        (0, 2 * MIB, 0),
        (2 * MIB, MIB, 1),
        (3 * MIB, MIB, 0),
        (4 * MIB, MIB, 1),
        (5 * MIB, 3 * MIB, 0),
    ];
    assert_eq!(map(&since(&first), &uri), of_first);
    let of_second = [(0, 4 * MIB, 0), (4 * MIB, MIB, 1), (5 * MIB, 3 * MIB, 0)];
    assert_eq!(map(&since(&second), &uri), of_second);

    let diff = daemon.json(&["snapshot", "diff", "first", "second"]);
    assert_eq!(diff["Changes"], serde_json::json!([{"Offset": 2 * MIB, "Length": MIB}]));
    assert_eq!(diff["ChangedBytes"], MIB);
    let table = daemon.ok(&["snapshot", "diff", "first", "second"]);
    assert!(table.starts_with("OFFSET") && table.contains("1 MiB"), "{table}");
    let refused = daemon.refused(&["snapshot", "diff", "second", "first"]);
    assert!(refused.contains("InvalidParameter.Mismatch"), "{refused}");

    let copy = dir.path().join("copy.img");
    run("nbdcopy", &[&uri, copy.to_str().unwrap()]);
    let runs = [(1, 0, MIB), (2, 2 * MIB, MIB), (3, 4 * MIB, MIB)];
    assert!(std::fs::read(&copy).unwrap() == expected(size, &runs));
    let blocks = std::os::unix::fs::MetadataExt::blocks(&copy.metadata().unwrap());
    assert!(blocks * 512 <= 4 * MIB, "the copy is sparse: {blocks} blocks");
}

#[test]
fn a_backup_comes_back_and_one_that_was_changed_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let Some(daemon) = daemon(dir.path()) else { return };
    let size = 8 * MIB;
    let db = daemon.disk("db", "8MiB");
    let monday = [(1, 0, 2 * MIB), (2, 4 * MIB, MIB)];
    fill(&daemon, &db, &monday);
    daemon.ok(&["snapshot", "create", "db", "--name", "monday"]);
    let tuesday = [&monday[..], &[(3, MIB, MIB), (4, 7 * MIB, 4096)]].concat();
    fill(&daemon, &db, &tuesday[2..]);
    daemon.ok(&["snapshot", "create", "db", "--name", "tuesday"]);
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (full, more) = (file("monday.tar"), file("tuesday.tar"));
    let first = daemon.json(&["snapshot", "export", "monday", "--to", &full]);
    assert_eq!(first["Layers"], 1, "{first}");
    let second =
        daemon.json(&["snapshot", "export", "tuesday", "--since", "monday", "--to", &more]);
    let bytes = |answer: &Value| answer["Bytes"].as_u64().unwrap();
    assert!(bytes(&second) < bytes(&first), "only what changed: {first} {second}");
    assert_eq!(daemon.json(&["disk", "list"])["TotalCount"], 1, "the disk that held it is gone");
    let refused =
        daemon.refused(&["snapshot", "export", "monday", "--since", "tuesday", "--to", &file("x")]);
    assert!(refused.contains("InvalidParameter.Mismatch"), "{refused}");
    for tar in [&full, &more] {
        let packed = std::fs::read(tar).unwrap();
        let clear = packed.windows(64).any(|bytes| bytes == [1; 64] || bytes == [3; 64]);
        assert!(!clear, "nothing in a backup is in clear");
    }

    daemon.ok(&["disk", "detach", "db"]);
    daemon.ok(&["snapshot", "delete", "monday", "--yes", "--force"]);
    daemon.ok(&["snapshot", "delete", "tuesday", "--yes", "--force"]);
    daemon.ok(&["disk", "delete", "db", "--yes"]);
    tools::wait_until("every layer is gone", || layer_count(&daemon) == 0);

    let refused = daemon.refused(&["snapshot", "restore", &more]);
    assert!(refused.contains("InvalidBackup") && refused.contains("first"), "{refused}");
    let changed = file("changed.tar");
    let mut packed = std::fs::read(&full).unwrap();
    // In the token of the first header copy and in that of the second.
    for at in find_all(&packed, db.as_bytes()) {
        packed[at + 3] ^= 1;
    }
    std::fs::write(&changed, packed).unwrap();
    daemon.refused(&["snapshot", "restore", &changed]);
    assert_eq!(layer_count(&daemon), 0, "nothing stays of what was refused");
    let incoming = daemon.data_dir().join("layers/.incoming");
    assert_eq!(incoming.read_dir().unwrap().count(), 0);

    let back = daemon.json(&["snapshot", "restore", &full]);
    assert_eq!((&back["SnapshotName"], &back["SourceDiskId"]), (&"monday".into(), &db.into()));
    daemon.ok(&["snapshot", "restore", &more, "--name", "back"]);
    for (snapshot, runs) in [("monday", &monday[..]), ("back", &tuesday)] {
        let name = format!("of-{snapshot}");
        daemon.ok(&["disk", "create", "--name", &name, "--snapshot", snapshot, "--attach"]);
        assert!(content(&daemon, &name) == expected(size, runs), "{snapshot}");
    }
    let again = daemon.json(&["snapshot", "restore", &full, "--name", "twice"]);
    assert_ne!(again["SnapshotId"], back["SnapshotId"], "layers that are here are shared");
}

fn find_all(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    let windows = bytes.windows(needle.len()).enumerate();
    windows.filter(|(_, window)| *window == needle).map(|(at, _)| at).collect()
}

#[test]
fn a_disk_gets_other_keys_and_sizes_while_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let Some(daemon) = daemon(dir.path()) else { return };
    let runs = [(1, 0, 2 * MIB), (2, 4 * MIB, MIB)];
    let db = daemon.disk("db", "8MiB");
    fill(&daemon, &db, &runs);
    let holds = |size: u64| assert!(content(&daemon, &db) == expected(size, &runs));
    let layers = || {
        let shown = daemon.json(&["disk", "show", "db"]);
        let files: Vec<String> = shown["LayerFiles"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| file.as_str().unwrap().to_owned())
            .collect();
        files
    };
    let before = layers();
    let job = daemon.json(&["disk", "rekey", "db", "--wait"]);
    assert_eq!((&job["State"], &job["Kind"]), (&"done".into(), &"rekey".into()), "{job}");
    tools::wait_until("the old layer is gone", || layer_count(&daemon) == 1);
    let after = layers();
    assert!(after.len() == 1 && after != before, "{after:?}");
    holds(8 * MIB);

    let key = daemon.json(&["key", "create"]);
    let key = id(&key, "KeyId");
    let job = daemon.json(&["disk", "set-key", "db", "--key-id", key, "--wait"]);
    assert_eq!(job["State"], "done");
    assert_eq!(daemon.json(&["disk", "show", "db"])["KMSKeyId"], key);
    holds(8 * MIB);

    daemon.ok(&["disk", "resize", "db", "16MiB"]);
    assert_eq!(run("nbdinfo", &["--size", &daemon.uri("db")]).trim(), (16 * MIB).to_string());
    holds(16 * MIB);
    let refused = daemon.refused(&["disk", "resize", "db", "8MiB"]);
    assert!(refused.contains("InvalidDiskSize.TooSmall"), "{refused}");

    daemon.ok(&["snapshot", "create", "db", "--name", "s"]);
    fill(&daemon, &db, &[(9, 0, MIB)]);
    let refused = daemon.refused(&["disk", "reset", "db", "--snapshot", "s", "--yes"]);
    assert!(refused.contains("IncorrectDiskStatus"), "{refused}");
    daemon.ok(&["disk", "detach", "db"]);
    daemon.ok(&["disk", "reset", "db", "--snapshot", "s", "--yes"]);
    daemon.ok(&["disk", "attach", "db"]);
    holds(16 * MIB);
    daemon.ok(&["disk", "flatten", "db", "--wait"]);
    daemon.ok(&["snapshot", "delete", "s", "--yes"]);
    tools::wait_until("the disk is one layer", || layer_count(&daemon) == 1);
    holds(16 * MIB);
    let listed = daemon.ok(&["job", "list"]);
    assert!(listed.starts_with("JOB ID") && listed.contains("100%"), "{listed}");
    daemon.ok(&["disk", "detach", "db"]);
    daemon.ok(&["disk", "reinit", "db", "--yes"]);
    daemon.ok(&["disk", "attach", "db"]);
    assert!(content(&daemon, &db) == expected(16 * MIB, &[]));
}

#[test]
fn a_plain_disk_becomes_an_encrypted_one_and_copies_get_other_keys() {
    let dir = tempfile::tempdir().unwrap();
    let Some(daemon) = daemon(dir.path()) else { return };
    let runs = [(0x5a, 0, MIB), (0x33, 3 * MIB, MIB)];
    let db = daemon.disk_with("db", "4MiB", &["--unencrypted"]);
    fill(&daemon, &db, &runs);
    let clear = |daemon: &Daemon| {
        let layers = std::fs::read_dir(daemon.data_dir().join("layers")).unwrap();
        let mut files = layers.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        let holds = |path: PathBuf| {
            let bytes = std::fs::read(path).unwrap();
            bytes.windows(4096).step_by(4096).any(|unit| unit == [0x5a; 4096])
        };
        files.any(holds)
    };
    assert!(clear(&daemon), "it is plain so far");
    let job = daemon.json(&["disk", "set-key", "db", "--wait"]);
    assert_eq!((&job["State"], &job["Kind"]), (&"done".into(), &"encrypt".into()));
    tools::wait_until("the plain layer is gone", || !clear(&daemon));
    assert_eq!(daemon.json(&["disk", "show", "db"])["Encrypted"], true);
    assert!(content(&daemon, &db) == expected(4 * MIB, &runs));

    let key = daemon.json(&["key", "create"]);
    let key = id(&key, "KeyId");
    daemon.ok(&["snapshot", "create", "db", "--name", "s"]);
    let copy = ["snapshot", "copy", "s", "--name", "c", "--key-id", key, "--wait"];
    let copy = daemon.json(&copy);
    assert_eq!((&copy["Status"], &copy["KMSKeyId"]), (&"accomplished".into(), &key.into()));
    daemon.ok(&["image", "create", "c", "--name", "golden"]);
    let image = daemon.json(&["image", "copy", "golden", "--name", "g2", "--wait"]);
    assert_eq!((&image["Status"], &image["KMSKeyId"]), (&"Available".into(), &key.into()));
    for (name, of) in [("a", ["--snapshot", "c"]), ("b", ["--image", "g2"])] {
        daemon.ok(&[&["disk", "create", "--name", name, "--attach"], &of[..]].concat());
        assert!(content(&daemon, name) == expected(4 * MIB, &runs), "{name}");
    }
}

#[test]
fn a_job_is_paused_resumed_and_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let Some(daemon) = daemon(dir.path()) else { return };
    let runs = [(7, 0, 48 * MIB)];
    let db = daemon.disk("db", "64MiB");
    fill(&daemon, &db, &runs);
    let begun = daemon.json(&["disk", "rekey", "db"]);
    let job = id(&begun, "JobId").to_owned();
    // As slow as it can be, so that it is caught under way.
    call(&daemon, "ModifyJobPace", &format!("JobId={job}&Pace=gentle&BytesPerSecondLimit=1048576"));
    let paused = daemon.json(&["job", "pause", &job]);
    assert_eq!(paused["State"], "paused", "{paused}");
    let refused = daemon.refused(&["job", "wait", &job]);
    assert!(refused.contains("sealdisk job resume"), "{refused}");
    assert!(content(&daemon, &db) == expected(64 * MIB, &runs), "half of it is as good as all");
    let refused = daemon.refused(&["disk", "flatten", "db"]);
    assert!(refused.contains("OperationConflict"), "{refused}");
    call(&daemon, "ModifyJobPace", &format!("JobId={job}&Pace=full&BytesPerSecondLimit=0"));
    daemon.ok(&["job", "resume", &job]);
    assert_eq!(daemon.json(&["job", "wait", &job])["State"], "done");
    let begun = daemon.json(&["disk", "rekey", "db"]);
    let job = id(&begun, "JobId").to_owned();
    call(&daemon, "ModifyJobPace", &format!("JobId={job}&Pace=gentle&BytesPerSecondLimit=1048576"));
    assert_eq!(daemon.json(&["job", "cancel", &job])["State"], "cancelled");
    assert!(content(&daemon, &db) == expected(64 * MIB, &runs));
    let refused = daemon.refused(&["job", "resume", &job]);
    assert!(refused.contains("IncorrectJobStatus"), "{refused}");
    let refused = daemon.refused(&["job", "show", "j-00000000000000000000"]);
    assert!(refused.contains("there is no job"), "{refused}");
}
