//! What is on the medium, and in the logs: no plaintext, no key, nothing for other users.

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use support::daemon::{Daemon, serve};
use support::needles::{Needles, files_below};
use support::{api, tools};

const MARKER: &[u8] = b"<plaintext that a client wrote and nobody else may see>";
const SIZE: usize = 64 << 20;

/// Text, noise, zeros and runs; the marker at every place of a block it can be at.
fn mixture() -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    for (index, block) in bytes.chunks_exact_mut(4096).enumerate() {
        match index % 4 {
            0 => {}
            1 => block.fill(0xa5),
            2 => {
                for word in block.chunks_exact_mut(8) {
                    noise ^= noise << 13;
                    noise ^= noise >> 7;
                    noise ^= noise << 17;
                    word.copy_from_slice(&noise.to_le_bytes());
                }
            }
            _ => {
                for text in block.chunks_exact_mut(MARKER.len()) {
                    text.copy_from_slice(MARKER);
                }
            }
        }
        let at = index * 7 % (4096 - MARKER.len());
        block[at..at + MARKER.len()].copy_from_slice(MARKER);
    }
    bytes
}

/// Writes the mixture as a client.
fn write(daemon: &Daemon, export: &str, folder: &Path) {
    let file = folder.join("mixture");
    if !file.exists() {
        std::fs::write(&file, mixture()).unwrap();
    }
    tools::run("nbdcopy", &["--flush", file.to_str().unwrap(), &daemon.uri(export)]);
    let back = folder.join("back");
    tools::run("nbdcopy", &[&daemon.uri(export), back.to_str().unwrap()]);
    assert!(std::fs::read(&back).unwrap() == std::fs::read(&file).unwrap(), "it reads back");
    std::fs::remove_file(back).unwrap();
}

#[test]
fn no_file_holds_what_clients_wrote() {
    if !tools::have("nbdcopy") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&folder.path().join("data"));
    daemon.disk("secret", "64M");
    write(&daemon, "secret", folder.path());
    // Neither the marker nor the run of 0xa5 nor what ECB would repeat.
    let needles = || Needles::text("marker", MARKER).with("run", &[0xa5; 32]);
    assert_eq!(needles().count_below(daemon.data_dir()), BTreeMap::new());

    // The same look finds it where it was asked to be in clear.
    daemon.disk_with("clear", "64M", &["--unencrypted"]);
    write(&daemon, "clear", folder.path());
    let found = needles().count_below(daemon.data_dir());
    let layer = daemon.json(&["disk", "show", "clear"])["DiskId"].as_str().unwrap().to_owned();
    let layer = daemon.layer_file(&layer).display().to_string();
    assert_eq!(found.keys().collect::<Vec<_>>(), [&layer]);
    assert!(found[&layer]["marker"] >= SIZE / 4096, "{found:?}");
    let log = PathBuf::from(daemon.data_dir()).with_extension("log");
    assert_eq!(needles().count_in_file(&log), BTreeMap::new());
}

#[test]
fn no_file_and_no_log_line_holds_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut command = serve(&data, &["--nbd-tcp", "off", "--http", "127.0.0.1:0"]);
    command.env("SEALDISK_LOG", "trace").env("RUST_BACKTRACE", "1");
    let daemon = Daemon::launch(command, &data);
    let disk = daemon.disk("db", "64M");
    if tools::have("qemu-io") {
        tools::run("qemu-io", &["-f", "raw", "-c", "write -P 5 0 1M", &daemon.uri("db")]);
    }
    let kms_key = daemon.json(&["key", "create", "--description", "byok"]);
    let kms_key = kms_key["KeyId"].as_str().unwrap().to_owned();
    let ask = |action: &str, parameters: &[(&str, &str)]| {
        api::call(&daemon.api_socket(), api::KMS, action, parameters)
    };
    let (_, made) = ask("GenerateDataKey", &[("KeyId", &kms_key), ("NumberOfBytes", "64")]);
    let made_key = STANDARD.decode(made["Plaintext"].as_str().unwrap()).unwrap();
    let given: Vec<u8> = (0..64).map(|i| (i * 91 + 7) as u8).collect();
    let given_text = STANDARD.encode(&given);
    let (status, sealed) = ask("Encrypt", &[("KeyId", &kms_key), ("Plaintext", &given_text)]);
    assert_eq!(status, 200, "{sealed}");
    ask("Decrypt", &[("CiphertextBlob", sealed["CiphertextBlob"].as_str().unwrap())]);
    // Refusals talk more than successes: wrong context, wrong parameter, missing disk.
    let context = r#"{"a":"b"}"#;
    let blob = sealed["CiphertextBlob"].as_str().unwrap();
    ask("Decrypt", &[("CiphertextBlob", blob), ("EncryptionContext", context)]);
    ask("Encrypt", &[("KeyId", "no-such-key"), ("Plaintext", &given_text)]);
    ask("Encrypt", &[("KeyId", &kms_key), ("Plaintext", &format!("{given_text}!"))]);
    daemon.refused(&["disk", "attach", "db"]);

    let key = daemon.export_key(&disk, &folder.path().join("db.key"));
    let root = std::fs::read_to_string(data.join("root.key")).unwrap();
    let root: Vec<u8> =
        (0..32).map(|i| u8::from_str_radix(&root[2 * i..2 * i + 2], 16).unwrap()).collect();
    let mut needles = Needles::default();
    for (name, key) in [("data", &key), ("made", &made_key), ("given", &given), ("root", &root)] {
        needles = needles.key(name, key).written_key(name, key);
    }
    let log = daemon.log();
    assert!(log.contains("disks open"), "there is a log: {log}");
    assert!(!log.contains('\x1b'), "no colours in a file: {log}");
    assert_eq!(needles.count(log.as_bytes()), BTreeMap::new(), "in the log");
    assert!(daemon.stop().success());
    let mut found = needles.count_below(&data);
    // The one place of the root key.
    let root_file = found.remove(data.join("root.key").to_str().unwrap()).unwrap();
    assert!(root_file.keys().all(|label| label.starts_with("root, hex")), "{root_file:?}");
    assert_eq!(found, BTreeMap::new());
    assert!(!needles.count_in_file(&folder.path().join("db.key")).is_empty(), "the look works");
}

#[test]
fn everything_is_private_whatever_the_umask() {
    for umask in ["000", "022", "277"] {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"])
            .arg(support::daemon::binary())
            .args(["serve", "--dev", "--nbd-tcp", "off", "--http", "off", "--data-dir"])
            .arg(&data);
        let daemon = Daemon::launch(command, &data);
        let disk = daemon.disk("db", "1M");
        daemon.disk_with("plain", "1M", &["--unencrypted"]);
        let key_file = folder.path().join("db.key");
        let exported = tools::command("sh")
            .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"])
            .arg(support::daemon::binary())
            .args(["--endpoint", &format!("unix:{}", daemon.api_socket().display())])
            .args(["disk", "export-key", &disk, "--yes", "--to", key_file.to_str().unwrap()])
            .status()
            .unwrap();
        assert!(exported.success());
        let mode = std::fs::metadata(&key_file).unwrap().mode() & 0o7777;
        assert_eq!(mode & 0o077, 0, "umask {umask}: {mode:o}");
        let mut entries = vec![data.clone()];
        let mut count = 0;
        while let Some(path) = entries.pop() {
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            let (kind, mode) = (metadata.file_type(), metadata.mode() & 0o7777);
            let at = format!("umask {umask}: {} {mode:o}", path.display());
            count += 1;
            if kind.is_dir() {
                assert_eq!(mode, 0o700, "{at}");
                entries
                    .extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if kind.is_socket() {
                assert!(mode & 0o077 == 0 && mode & 0o600 == 0o600, "{at}");
            } else {
                assert_eq!(mode, 0o600, "{at}");
            }
        }
        assert!(count > 8, "{count} entries");
        assert!(files_below(&data).len() >= 5);
        assert!(daemon.stop().success());
    }
}
