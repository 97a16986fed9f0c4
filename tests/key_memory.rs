//! Where key bytes are in the memory of a running daemon, and where they are not.
//!
//! Wiping types leave copies behind, so only a look at every readable page counts. Keys are
//! exported in one life of the daemon and looked for in the next, which never handed them out.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sealdisk::catalog::sqlite::SqliteCatalog;
use sealdisk::catalog::{Catalog, Page};
use sealdisk::clock::{SystemClock, SystemEntropy};
use sealdisk::crypto::{aead, kdf};
use sealdisk::kms::root::{KeyFile, Root, RootParts};
use support::api;
use support::daemon::Daemon;
use support::needles::{MemoryScan, Needles, scan_memory};
use support::tools;

/// A text that is in the memory of every daemon: proof that the scan sees it.
const CONTROL: &str = "control";

/// Whether this process may look into others.
fn may_look() -> bool {
    let may = rustix::process::geteuid().is_root();
    if !may {
        let required = std::env::var("SEALDISK_REQUIRE_TOOLS").is_ok_and(|value| value == "1");
        assert!(!required, "root is required here, to read the memory of the daemon");
        eprintln!("SKIPPED: only root may read the daemon's memory");
    }
    may
}

/// Scans the daemon; the scan must see it at all.
fn scan(daemon: &Daemon, needles: Needles) -> MemoryScan {
    let control = daemon.data_dir().to_str().unwrap().as_bytes().to_vec();
    let scan = scan_memory(daemon.pid(), &needles.with(CONTROL, &control)).unwrap();
    assert!(!scan.of(CONTROL).is_empty(), "the scan does not see the daemon: {scan:?}");
    assert!(scan.bytes > 1 << 20, "{scan:?}");
    scan
}

fn assert_absent(scan: &MemoryScan, name: &str, when: &str) {
    let found = scan.of(name);
    assert!(found.is_empty(), "{when}: {found:#?}");
}

/// While a disk is attached its key may be in one place: the secret arena. Where the kernel has
/// `memfd_secret` that place cannot be read at all.
fn assert_one_place(daemon: &Daemon, scan: &MemoryScan, name: &str, when: &str) {
    let (_, said) = api::call(&daemon.api_socket(), api::OWN, "DescribeServer", &[]);
    let protection = said["Server"]["memory_protection"].as_str().unwrap();
    if protection == "memfd_secret" {
        assert_absent(scan, name, when);
        assert!(
            scan.unreadable.iter().any(|mapping| mapping.contains("secretmem")),
            "the arena is there: {scan:?}"
        );
    } else {
        let mut places: Vec<_> = scan.of(name).iter().map(|(_, mapping, _)| mapping).collect();
        places.dedup();
        assert!(places.len() <= 1, "{when}: {scan:#?}");
    }
    eprintln!(
        "{when}: {} finds in {} MiB, unreadable: {:?}",
        scan.of(name).len(),
        scan.bytes >> 20,
        scan.unreadable
    );
}

fn traffic(daemon: &Daemon, export: &str) {
    if !tools::have("qemu-io") {
        return;
    }
    for command in ["write -P 3 0 8M", "write -f -P 4 5k 512", "read -P 3 1M 2M", "flush"] {
        tools::run("qemu-io", &["-f", "raw", "-c", command, &daemon.uri(export)]);
    }
}

#[test]
fn the_scanner_finds_a_planted_key() {
    if !may_look() {
        return;
    }
    let key: Vec<u8> = (0..64).map(|i| (i * 37 + 11) as u8).collect();
    let mut child = Command::new("python3")
        .args([
            "-c",
            "import sys; k = sys.stdin.buffer.read(64); print('ready', flush=True); \
                sys.stdin.buffer.read(); print(k)",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(&key).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let scan = scan_memory(child.id(), &Needles::default().key("key", &key)).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    for part in ["whole", "half 0", "half 1", "quarter 0", "quarter 1", "quarter 2", "quarter 3"] {
        assert!(!scan.of(&format!("key, {part}")).is_empty(), "{part}: {scan:?}");
    }
}

#[test]
fn a_data_key_is_in_one_place_while_attached_and_nowhere_after() {
    if !may_look() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    let disk = daemon.disk("db", "64M");
    let key = daemon.export_key(&disk, &folder.path().join("db.key"));
    assert_eq!(key.len(), 64);
    daemon.kill();

    let needles = || Needles::default().key("key", &key).written_key("key", &key);
    let daemon = Daemon::start(&data);
    assert_one_place(&daemon, &scan(&daemon, needles()), "key", "reopened at start");
    traffic(&daemon, "db");
    assert_one_place(&daemon, &scan(&daemon, needles()), "key", "after traffic");
    daemon.ok(&["disk", "detach", "db"]);
    assert_absent(&scan(&daemon, needles()), "key", "detached");
    daemon.ok(&["disk", "attach", "db"]);
    traffic(&daemon, "db");
    assert_one_place(&daemon, &scan(&daemon, needles()), "key", "attached again");
    daemon.ok(&["disk", "detach", "db"]);
    assert_absent(&scan(&daemon, needles()), "key", "detached again");
}

#[test]
fn a_data_key_made_in_this_life_leaves_no_copy() {
    if !may_look() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    let disk = daemon.disk("db", "64M");
    traffic(&daemon, "db");
    // The key is known only after a later life told it: look at a copy of memory.
    let Some(dump) = dump(&daemon, folder.path()) else { return };
    daemon.kill();
    let daemon = Daemon::start(&data);
    let key = daemon.export_key(&disk, &folder.path().join("db.key"));
    let found = Needles::default().key("key", &key).written_key("key", &key).count_in_file(&dump);
    assert!(found.is_empty(), "creating and attaching left copies: {found:?}");
}

#[test]
fn handing_keys_out_leaves_no_copy() {
    if !may_look() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&folder.path().join("data"));
    let disk = daemon.disk("db", "64M");
    let mut keys = Vec::new();
    for round in 0..5 {
        keys.push(daemon.export_key(&disk, &folder.path().join(format!("{round}.key"))));
    }
    let kms_key = daemon.json(&["key", "create"])["KeyId"].as_str().unwrap().to_owned();
    let ask = |action: &str, parameters: &[(&str, &str)]| {
        let (status, answer) = api::call(&daemon.api_socket(), api::KMS, action, parameters);
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let mut made = Vec::new();
    for _ in 0..5 {
        let answer = ask("GenerateDataKey", &[("KeyId", &kms_key), ("NumberOfBytes", "64")]);
        let key = STANDARD.decode(answer["Plaintext"].as_str().unwrap()).unwrap();
        let blob = answer["CiphertextBlob"].as_str().unwrap();
        let opened = ask("Decrypt", &[("CiphertextBlob", blob)]);
        assert_eq!(opened["Plaintext"], answer["Plaintext"]);
        made.push(key);
    }
    let given: Vec<u8> = (0..64).map(|i| (i * 73 + 29) as u8).collect();
    ask("Encrypt", &[("KeyId", &kms_key), ("Plaintext", &STANDARD.encode(&given))]);
    let mut needles = Needles::default()
        .key("exported", &keys[0])
        .written_key("exported", &keys[0])
        .key("given", &given)
        .written_key("given", &given);
    for (index, key) in made.iter().enumerate() {
        let name = format!("made {index}");
        needles = needles.key(&name, key).written_key(&name, key);
    }
    let scan = scan(&daemon, needles);
    assert_one_place(&daemon, &scan, "exported", "after ExportDiskKey");
    assert_absent(&scan, "made", "after GenerateDataKey and Decrypt");
    // A client's own plaintext comes in through the HTTP library, whose read buffer is freed and
    // not wiped. Nothing that was decoded from it stays.
    for part in ["given, whole", "given, half", "given, quarter", "given, hex"] {
        assert_absent(&scan, part, "after Encrypt");
    }
    eprintln!("after Encrypt: {} pieces in freed read buffers", scan.of("given").len());
}

#[test]
fn kms_and_root_keys_are_nowhere_readable() {
    if !may_look() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    daemon.ok(&["key", "create"]);
    daemon.disk("db", "64M");
    assert!(daemon.stop().success());
    let needles = || kms_keys(&data);

    let daemon = Daemon::start(&data);
    traffic(&daemon, "db");
    daemon.ok(&["disk", "detach", "db"]);
    daemon.ok(&["disk", "attach", "db"]);
    daemon.ok(&["key", "list"]);
    let found = scan(&daemon, needles());
    for name in ["root", "sealing", "material", "trail", "kms"] {
        assert_one_place(&daemon, &found, name, name);
    }
}

#[test]
fn dumps_hold_no_key() {
    if !may_look() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    let disk = daemon.disk("db", "64M");
    let key = daemon.export_key(&disk, &folder.path().join("db.key"));
    assert!(daemon.stop().success());
    let needles = || kms_keys(&data).key("data", &key).written_key("data", &key);

    let daemon = Daemon::start(&data);
    traffic(&daemon, "db");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    let Some(dump) = dump(&daemon, folder.path()) else { return };
    let control = Needles::text(CONTROL, data.to_str().unwrap().as_bytes());
    assert!(!control.count_in_file(&dump).is_empty(), "the dump is one of the daemon");
    let found = needles().count_in_file(&dump);
    assert!(found.is_empty(), "in a core dump: {found:?}");
}

#[test]
fn without_secret_memory_a_key_is_in_one_locked_place_that_no_dump_has() {
    if !may_look() || !tools::have("strace") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    let disk = daemon.disk("db", "64M");
    let key = daemon.export_key(&disk, &folder.path().join("db.key"));
    assert!(daemon.stop().success());
    let needles = || kms_keys(&data).key("data", &key).written_key("data", &key);

    let daemon = without_secret_memory(&data);
    assert!(daemon.log().contains("memory=Locked"), "{}", daemon.log());
    assert!(daemon.log().contains("memfd_secret is not to be had"), "a warning says so");
    traffic(&daemon, "db");
    let found = scan(&daemon, needles());
    assert!(!found.of("data").is_empty(), "the key is there");
    let place = &found.of("data")[0].1;
    // The root key is only needed at start; what is derived from it is in the same place.
    for (label, mapping, _) in found.hits.iter().filter(|(label, _, _)| label != CONTROL) {
        assert_eq!(mapping, place, "{label}");
    }
    eprintln!("{} finds, all in {place}", found.hits.len());
    if let Some(dump) = dump(&daemon, folder.path()) {
        let in_dump = needles().count_in_file(&dump);
        assert!(in_dump.is_empty(), "in a core dump: {in_dump:?}");
    }
    daemon.ok(&["disk", "detach", "db"]);
    assert_absent(&scan(&daemon, needles()), "data", "detached");
}

/// A daemon on a kernel without `memfd_secret`.
fn without_secret_memory(data: &Path) -> Daemon {
    let mut command = tools::command("strace");
    command
        .args(["-I1", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=memfd_secret"])
        .args(["-e", "inject=memfd_secret:error=ENOSYS"])
        .arg(support::daemon::binary())
        .args(["serve", "--dev", "--nbd-tcp", "off", "--http", "off", "--data-dir"])
        .arg(data);
    let daemon = Daemon::launch(command, data);
    // The tracer leaves, so that a debugger may come.
    let tracer = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:\t"));
        line.unwrap().parse::<u32>().unwrap()
    };
    let pid = tracer();
    assert_ne!(pid, 0);
    support::daemon::signal(pid, "INT");
    tools::wait_until("the tracer leaves", || tracer() == 0);
    daemon
}

#[test]
fn an_ordinary_users_daemon_is_closed_to_that_user() {
    if !may_look() || !tools::have("setpriv") {
        return;
    }
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    const NOBODY: u32 = 65534;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let program = folder.path().join("sealdisk");
    std::fs::copy(support::daemon::binary(), &program).unwrap();
    let data = folder.path().join("data");
    let mut command = tools::command("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["serve", "--dev", "--nbd-tcp", "off", "--http", "off", "--data-dir"])
        .arg(&data);
    let daemon = Daemon::launch(command, &data);
    daemon.disk("db", "1M");
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    assert!(status.contains(&format!("Uid:\t{NOBODY}\t{NOBODY}")), "{status}");
    // The files of a process that may not be dumped belong to root: its own user may not trace it.
    let memory = std::fs::metadata(format!("/proc/{}/mem", daemon.pid())).unwrap();
    assert_eq!(memory.uid(), 0);
    let peek = tools::command("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"])
        .arg(format!("/proc/{}/maps", daemon.pid()))
        .output()
        .unwrap();
    assert!(!peek.status.success(), "the same user reads its maps");
}

/// A core file of the daemon, made from outside by a debugger.
fn dump(daemon: &Daemon, folder: &Path) -> Option<std::path::PathBuf> {
    if !tools::have("gcore") {
        return None;
    }
    let prefix = folder.join("core");
    tools::run("gcore", &["-o", prefix.to_str().unwrap(), &daemon.pid().to_string()]);
    Some(folder.join(format!("core.{}", daemon.pid())))
}

/// The root key, what is derived from it, and the material of every KMS key.
fn kms_keys(data: &Path) -> Needles {
    let text = std::fs::read_to_string(data.join("root.key")).unwrap();
    let root: Vec<u8> =
        (0..32).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect();
    // A copy, for the daemon may be using the catalog itself.
    let copy = tempfile::tempdir().unwrap();
    for name in ["catalog.db", "catalog.db-wal"] {
        if data.join(name).exists() {
            std::fs::copy(data.join(name), copy.path().join(name)).unwrap();
        }
    }
    let catalog = Arc::new(SqliteCatalog::open(&copy.path().join("catalog.db")).unwrap());
    let provider = KeyFile { path: data.join("root.key"), may_create: false };
    let unlocked = Root::unlock(RootParts {
        catalog: catalog.clone(),
        provider: Box::new(provider),
        previous: None,
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(SystemEntropy),
    });
    let unlocked = unlocked.unwrap();
    let sealing_key = unlocked.sealing_key();
    let material_key = kdf::hkdf_sha256(&sealing_key, b"sealdisk/kms/material/v1", 32);
    let mut needles = Needles::default()
        .key("root", &root)
        .written_key("root", &root)
        .key("sealing", sealing_key.expose())
        .key("kms", material_key.expose())
        .key("trail", unlocked.trail_key().expose());
    let mut count = 0;
    for key in catalog.keys(Page::ALL).unwrap().items {
        for version in catalog.key_versions(&key.key_id, Page::ALL).unwrap().items {
            let mut bound = b"sealdisk-kms/material/v1".to_vec();
            for id in [&version.key_id, &version.version_id] {
                bound.extend_from_slice(&(id.len() as u64).to_be_bytes());
                bound.extend_from_slice(id.as_bytes());
            }
            let (iv, sealed) = version.wrapped_material[1..].split_first_chunk().unwrap();
            let material = aead::open(&material_key, *iv, &bound, sealed).unwrap();
            needles = needles.key(&format!("material {count}"), material.expose());
            count += 1;
        }
    }
    assert!(count > 0);
    needles
}
