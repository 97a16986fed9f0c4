//! Break-glass: with an exported data key stock cryptsetup reads what clients wrote.

mod support;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Output;

use support::daemon::Daemon;
use support::tools;

const MIB: u64 = 1 << 20;

#[test]
fn an_export_is_deliberate_private_and_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&folder.path().join("data"));
    let disk = daemon.disk("db", "1M");
    let to = folder.path().join("db.key");
    let path = to.to_str().unwrap();
    let error = daemon.refused(&["disk", "export-key", "db", "--to", path]);
    assert!(error.contains("--yes"), "{error}");
    assert!(!to.exists() && daemon.events("ExportDiskKey").is_empty());

    let answer = daemon.json(&["disk", "export-key", "db", "--to", path, "--yes"]);
    assert_eq!(answer["DiskId"], disk.as_str());
    let metadata = std::fs::metadata(&to).unwrap();
    assert_eq!((metadata.len(), metadata.mode() & 0o7777), (64, 0o600));
    let key = std::fs::read(&to).unwrap();
    let error = daemon.refused(&["disk", "export-key", "db", "--to", path, "--yes"]);
    assert!(error.contains("exists"), "{error}");
    assert_eq!(std::fs::read(&to).unwrap(), key, "the first file is not touched");

    let events = daemon.events("ExportDiskKey");
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["resourceName"], disk.as_str());
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(events[0]["sourceIpAddress"], format!("unix:uid={uid}"));
    assert!(events[0].get("errorCode").is_none_or(|code| code == ""), "{}", events[0]);
    // The KMS recorded the use of its key first.
    assert!(daemon.events("Decrypt")[0]["eventTime"].as_str() <= events[0]["eventTime"].as_str());

    daemon.disk_with("clear", "1M", &["--unencrypted"]);
    let other = folder.path().join("clear.key");
    let arguments = ["disk", "export-key", "clear", "--yes", "--to", other.to_str().unwrap()];
    assert!(daemon.refused(&arguments).contains("InvalidParameter.EncryptedIllegal"));
    assert!(!other.exists());
    assert_eq!(daemon.events("ExportDiskKey")[0]["errorCode"], "InvalidParameter.EncryptedIllegal");
}

#[test]
fn cryptsetup_accepts_the_key_and_no_other() {
    if !tools::have("cryptsetup") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&folder.path().join("data"));
    let disk = daemon.disk("db", "4M");
    let layer = daemon.layer_file(&disk);
    let key_file = folder.path().join("db.key");
    let key = daemon.export_key("db", &key_file);
    let mut wrong = key;
    wrong[63] ^= 1;
    let wrong_file = folder.path().join("wrong.key");
    std::fs::write(&wrong_file, wrong).unwrap();
    // Attached: we hold an OFD lock, cryptsetup takes flock; they do not meet.
    for state in ["attached", "detached"] {
        let dump = tools::run("cryptsetup", &["luksDump", layer.to_str().unwrap()]);
        for part in ["Version:       \t2", "sealdisk", "aes-xts-plain64", "sector: 4096"] {
            assert!(dump.contains(part), "{state}: no {part:?} in {dump}");
        }
        assert_eq!(test_key(&layer, &key_file).status.code(), Some(0), "{state}");
        assert_eq!(test_key(&layer, &wrong_file).status.code(), Some(2), "{state}");
        if state == "attached" {
            daemon.ok(&["disk", "detach", "db"]);
        }
    }
    daemon.ok(&["disk", "attach", "db"]);
}

#[test]
fn cryptsetup_decrypts_what_a_client_wrote() {
    if !tools::have("cryptsetup") || !tools::have("nbdcopy") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&folder.path().join("data"));
    let disk = daemon.disk("db", "8M");
    let written: Vec<u8> = (0..8 * MIB).map(|i| (i * i / 7 + i / 4096) as u8 | 1).collect();
    let source = folder.path().join("written");
    std::fs::write(&source, &written).unwrap();
    tools::run("nbdcopy", &["--flush", source.to_str().unwrap(), &daemon.uri("db")]);
    let key_file = folder.path().join("db.key");
    daemon.export_key("db", &key_file);
    daemon.ok(&["disk", "detach", "db"]);
    let decrypted = decrypt_copy(&daemon.layer_file(&disk), &key_file, folder.path());
    assert!(decrypted == written, "cryptsetup reads other bytes than the client wrote");
    // The original is as it was.
    daemon.ok(&["disk", "attach", "db"]);
    let back = folder.path().join("back");
    tools::run("nbdcopy", &[&daemon.uri("db"), back.to_str().unwrap()]);
    assert!(std::fs::read(back).unwrap() == written);
}

/// Decrypts a copy of a layer in place with stock cryptsetup, without device mapper.
fn decrypt_copy(layer: &Path, key_file: &Path, folder: &Path) -> Vec<u8> {
    let (copy, header) = (folder.join("copy.luks"), folder.join("header"));
    let passphrase = folder.join("passphrase");
    std::fs::copy(layer, &copy).unwrap();
    std::fs::write(&passphrase, "a passphrase for the keyslot").unwrap();
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let (copy_text, header_text) = (text(&copy), text(&header));
    let (key, phrase) = (text(&key_file.to_owned()), text(&passphrase));
    let quick = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let add = ["luksAddKey", "-q", "--volume-key-file", &key, "--key-size", "512"];
    tools::run("cryptsetup", &[&add[..], &quick, &[&copy_text, &phrase]].concat());
    let decrypt = ["reencrypt", "-q", "--decrypt", "--force-offline-reencrypt"];
    let with = ["--key-file", &phrase, "--header", &header_text, &copy_text];
    tools::run("cryptsetup", &[&decrypt[..], &with].concat());
    // The data was moved to the front, over the header.
    let mut data = vec![0; 8 * MIB as usize];
    std::fs::File::open(&copy).unwrap().read_exact_at(&mut data, 0).unwrap();
    data
}

fn test_key(layer: &Path, key: &Path) -> Output {
    tools::command("cryptsetup")
        .args(["open", "--test-passphrase", "--key-size", "512", "--volume-key-file"])
        .args([key, layer])
        .output()
        .unwrap()
}
