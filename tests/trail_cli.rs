//! The trail through the real program: checked without a daemon, followed, shut when it is full.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::daemon::{Daemon, binary};
use support::{api, tools};

fn verify(arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(["trail", "verify"]).args(arguments).stdin(Stdio::null());
    command.output().unwrap()
}

fn sound(arguments: &[&str]) -> Value {
    let output = verify(&[arguments, &["-o", "json"]].concat());
    let text = tools::text_of("trail verify", &output);
    serde_json::from_str(&text).unwrap()
}

fn bad(arguments: &[&str]) -> String {
    let output = verify(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn segment(data: &Path) -> PathBuf {
    let files = std::fs::read_dir(data.join("trail")).unwrap().map(|entry| entry.unwrap().path());
    files.into_iter().find(|path| path.extension().is_some_and(|end| end == "jsonl")).unwrap()
}

#[test]
fn flips_deletions_swaps_and_cuts_are_each_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    for _ in 0..6 {
        daemon.ok(&["key", "create"]);
    }
    let at = ["--data-dir", data.to_str().unwrap()];
    let live = sound(&at);
    assert!(live["Events"].as_u64().unwrap() >= 6, "beside the daemon: {live}");
    assert!(daemon.stop().success());
    let whole = sound(&at);
    let last = whole["LastRecord"].as_u64().unwrap();
    assert_eq!(whole["LastCheckpoint"].as_u64(), Some(last), "an orderly stop signs");
    let public = whole["PublicKey"].as_str().unwrap().to_owned();
    assert!(public.starts_with("ed25519:"), "{public}");

    let file = segment(&data);
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let flipped = lines[2].replacen("CreateKey", "CreateKex", 1);
    assert_ne!(flipped, lines[2]);
    let swapped = [&lines[..2], &[lines[3], lines[2]], &lines[4..]].concat();
    let cases: [(&str, String, &str); 5] = [
        ("flip", text.replacen(lines[2], &flipped, 1), "line 3: record 3 does not match its MAC"),
        (
            "delete",
            text.replacen(lines[2], "", 1),
            "line 3: record 3 does not follow the one before",
        ),
        ("swap", swapped.concat(), "line 3: record 3 does not follow"),
        ("cut", lines[..4].concat(), "line 5: record 5 is missing, by the head"),
        ("cut within", text[..text.len() - 30].to_owned(), "is missing, by the head"),
    ];
    let trail = data.join("trail");
    let by_public = ["--trail-dir", trail.to_str().unwrap(), "--public-key", &public];
    for (what, changed, expected) in cases {
        std::fs::write(&file, changed).unwrap();
        let said = bad(&at);
        assert!(said.contains(expected), "{what}: {said}");
        let said = bad(&by_public);
        assert!(said.contains(&format!("{}", file.display())), "{what}: {said}");
        // A daemon does not go on from there either.
        let refused = support::daemon::start_refused(&data);
        assert!(refused.contains(expected), "{what}: {refused}");
    }
    std::fs::write(&file, &text).unwrap();
    assert_eq!(sound(&at), whole);
    assert_eq!(sound(&by_public)["Events"], whole["Events"]);
    let key_file = folder.path().join("public");
    std::fs::write(&key_file, &public).unwrap();
    sound(&[&by_public[..3], &[key_file.to_str().unwrap()]].concat());
    let other =
        bad(&[&by_public[..3], &["ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]].concat());
    assert!(other.contains("is a checkpoint that this key did not sign"), "{other}");

    // A number kept elsewhere finds a trail that was put back as a whole.
    let beyond = (last + 1).to_string();
    let said = bad(&[&at[..], &["--until", &beyond]].concat());
    assert!(said.contains(&format!("the trail ends with record {last}")), "{said}");
    sound(&[&at[..], &["--until", &last.to_string()]].concat());
    std::fs::remove_file(&file).unwrap();
    let said = bad(&at);
    assert!(said.contains("record 1 is missing, by the head"), "{said}");
}

#[test]
fn a_check_needs_the_right_key() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    daemon.ok(&["key", "create"]);
    assert!(daemon.stop().success());
    let at = ["--data-dir", data.to_str().unwrap()];
    let copy = folder.path().join("copy.key");
    std::fs::rename(data.join("root.key"), &copy).unwrap();
    let said = bad(&at);
    assert!(said.contains("root.key is missing") && said.contains("--root-key"), "{said}");
    sound(&[&at[..], &["--root-key", copy.to_str().unwrap()]].concat());
    std::fs::write(&copy, "3a".repeat(32)).unwrap();
    let said = bad(&[&at[..], &["--root-key", copy.to_str().unwrap()]].concat());
    assert!(said.contains("the catalog needs key"), "{said}");
    let said = bad(&["--data-dir", folder.path().to_str().unwrap()]);
    assert!(said.contains("no trail is there"), "{said}");
}

#[test]
fn events_are_listed_by_key_disk_user_and_time_and_followed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    let endpoint = format!("unix:{}", daemon.api_socket().display());
    let mut follower = Command::new(binary())
        .args(["--endpoint", &endpoint, "trail", "follow", "--event", "CreateKey", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut followed = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next =
        || -> Value { serde_json::from_str(&followed.next().unwrap().unwrap()).unwrap() };

    let first = daemon.json(&["key", "create"])["KeyId"].clone();
    assert_eq!(next()["responseElements"]["KeyId"], first);
    let second = daemon.json(&["key", "create"])["KeyId"].clone();
    assert_eq!(next()["responseElements"]["KeyId"], second, "each once");
    follower.kill().unwrap();
    follower.wait().unwrap();

    let disk = daemon.disk("db", "64M");
    daemon.ok(&["alias", "create", "alias/one", first.as_str().unwrap()]);
    let events = |arguments: &[&str]| {
        let all = [&["trail", "list"], arguments].concat();
        daemon.json(&all)["Events"].as_array().unwrap().clone()
    };
    let names = |events: Vec<Value>| -> Vec<String> {
        events.iter().map(|event| event["eventName"].as_str().unwrap().to_owned()).collect()
    };
    assert!(names(events(&["--key", "alias/one"])).contains(&"CreateAlias".to_owned()));
    let about_disk = names(events(&["--disk", "db"]));
    assert!(about_disk.ends_with(&["AttachDisk".into(), "CreateDisk".into()]), "{about_disk:?}");
    assert_eq!(names(events(&["--disk", &disk])), about_disk);
    assert!(!events(&["--user", "root", "--since", "1h"]).is_empty());
    assert!(events(&["--user", "nobody"]).is_empty());
    assert!(events(&["--access-key", "LTAInone"]).is_empty());
    assert!(events(&["--until", "1h"]).is_empty());
    assert!(
        events(&["--since", "2000-01-01T00:00:00Z", "--until", "2001-01-01T00:00:00Z"]).is_empty()
    );
    let one = &events(&["--event", "CreateDisk"])[0];
    assert_eq!(&events(&["--id", one["eventId"].as_str().unwrap()])[0], one);
    let (_, page) = api::call(
        &daemon.api_socket(),
        "2020-07-06",
        "LookupEvents",
        &[
            ("MaxResults", "3"),
            ("Direction", "FORWARD"),
            ("LookupAttribute.1.Key", "EventRW"),
            ("LookupAttribute.1.Value", "Write"),
        ],
    );
    assert_eq!(page["Events"].as_array().unwrap().len(), 3);
    let token = page["NextToken"].as_str().unwrap();
    let (_, more) = api::call(
        &daemon.api_socket(),
        "2020-07-06",
        "LookupEvents",
        &[
            ("MaxResults", "3"),
            ("Direction", "FORWARD"),
            ("NextToken", token),
            ("LookupAttribute.1.Key", "EventRW"),
            ("LookupAttribute.1.Value", "Write"),
        ],
    );
    assert_ne!(more["Events"][0]["eventId"], page["Events"][0]["eventId"]);
}

/// A file system of `size` at `path`, taken away when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(path: &Path, size: &str) -> Option<Self> {
        let mounted = tools::have("mount")
            && Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
                .arg(path)
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("SKIPPED: nothing can be mounted here");
        }
        mounted.then(|| Self(path.to_owned()))
    }

    fn resize(&self, size: &str) {
        let path = self.0.to_str().unwrap();
        tools::run("mount", &["-o", &format!("remount,size={size}"), path]);
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn on_a_full_device_nothing_is_done_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let trail = data.join("trail");
    std::fs::create_dir_all(&trail).unwrap();
    let Some(device) = Small::mount(&trail, "64k") else { return };
    // In production nothing is recorded at a start.
    let daemon = Daemon::start_configured(&data, &[]);
    let call = |action, parameters: &[(&str, &str)]| {
        api::call(&daemon.api_socket(), api::KMS, action, parameters)
    };
    for _ in 0..3 {
        let (status, answer) = call("CreateKey", &[]);
        assert_eq!(status, 503, "{answer}");
        assert_eq!(answer["Code"], "ServiceUnavailableTemporary");
    }
    let refused = daemon.refused(&["disk", "create", "--name", "db", "--size", "64M"]);
    assert!(refused.contains("ServiceUnavailableTemporary"), "{refused}");
    device.resize("64m");
    assert_eq!(daemon.json(&["key", "list"])["TotalCount"], 0, "nothing was done");
    assert_eq!(daemon.json(&["disk", "list"])["TotalCount"], 0);
    assert_eq!(call("CreateKey", &[]).0, 200);
    daemon.disk("db", "64M");
    sound(&["--data-dir", data.to_str().unwrap()]);
    drop(daemon);
}
