//! Every action there is leaves its record, refused or done, and no secret.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use support::api;
use support::daemon::Daemon;
use support::needles::Needles;

const RAM: &str = "2015-05-01";

/// Read often, by machines, and about nothing that is somebody's.
const NOT_RECORDED: [&str; 3] = ["DescribeRegions", "DescribeEndpoints", "DescribeServer"];

/// Version and name of every action that a table of the API names.
fn actions() -> Vec<(&'static str, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api");
    let mut found = Vec::new();
    for path in support::needles::files_below(&folder) {
        let file = path.file_name().unwrap().to_str().unwrap();
        let version = match file {
            _ if file.starts_with("kms") => api::KMS,
            _ if file.starts_with("ram") => RAM,
            _ if file.starts_with("ecs") => api::ECS,
            "actiontrail.rs" => "2020-07-06",
            "own.rs" | "own_layers.rs" | "hsm.rs" => api::OWN,
            _ => continue,
        };
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let Some((name, handler)) = line.trim().split_once("\" => ") else { continue };
            let name = name.trim_start_matches('"');
            if handler.contains(&snake(name)) && !name.contains(['"', ' ']) {
                found.push((version, name.to_owned()));
            }
        }
    }
    assert!(found.len() >= 58, "the tables are not where they were: {found:?}");
    found
}

/// `CreateKey` as `create_key`.
fn snake(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

fn recorded(daemon: &Daemon) -> Vec<Value> {
    let answer = daemon.json(&["trail", "list", "--limit", "10000"]);
    answer["Events"].as_array().unwrap().clone()
}

#[test]
fn every_action_is_recorded_under_its_name_and_the_id_of_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&folder.path().join("data"));
    let mut asked = Vec::new();
    for (version, action) in actions() {
        let (status, answer) = api::call(&daemon.api_socket(), version, &action, &[]);
        assert_ne!(answer["Code"], "InvalidAction.NotFound", "{action}");
        asked.push((action, answer["RequestId"].as_str().unwrap().to_owned(), status));
    }
    let events = recorded(&daemon);
    for (action, request_id, status) in asked {
        // CreateUser without a name and the like are refused by name, not by accident.
        assert!(status == 200 || status == 400 || status == 404, "{action}: {status}");
        let of_request = |event: &&Value| event["requestId"] == request_id.as_str();
        let found: Vec<&Value> = events.iter().filter(of_request).collect();
        if NOT_RECORDED.contains(&action.as_str()) {
            assert!(found.is_empty(), "{action}");
            continue;
        }
        let event = found.iter().find(|event| event["eventName"] == action.as_str());
        let event = event.unwrap_or_else(|| panic!("{action} left no record ({status})"));
        let is_refused = event["errorCode"].as_str().is_some_and(|code| !code.is_empty());
        assert_eq!(is_refused, status != 200, "{action}: {event}");
        assert_eq!(event["userIdentity"]["type"], "root-account", "{action}");
    }
}

/// Does things that succeed; every event, and what must not be in any.
struct Session<'a> {
    daemon: &'a Daemon,
    secrets: Needles,
}

impl Session<'_> {
    fn call(&self, version: &str, action: &str, parameters: &[(&str, &str)]) -> Value {
        let (status, answer) = api::call(&self.daemon.api_socket(), version, action, parameters);
        assert_eq!(status, 200, "{action}: {answer}");
        answer
    }

    fn hide(&mut self, name: &str, base64: &str) {
        let bytes = STANDARD.decode(base64).unwrap();
        let secrets = std::mem::take(&mut self.secrets);
        self.secrets = secrets.key(name, &bytes).written_key(name, &bytes);
    }
}

#[test]
fn what_succeeds_is_recorded_and_no_secret_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    let mut session = Session { daemon: &daemon, secrets: Needles::default() };
    let given = STANDARD.encode(b"a plaintext that nobody else has");
    session.hide("plaintext", &given);
    let key = session.call(api::KMS, "CreateKey", &[])["KeyMetadata"]["KeyId"].clone();
    let key = key.as_str().unwrap();
    let encrypt = [("KeyId", key), ("Plaintext", given.as_str())];
    let blob = session.call(api::KMS, "Encrypt", &encrypt)["CiphertextBlob"].clone();
    let opened = session.call(api::KMS, "Decrypt", &[("CiphertextBlob", blob.as_str().unwrap())]);
    assert_eq!(opened["Plaintext"], given.as_str());
    let made = session.call(api::KMS, "GenerateDataKey", &[("KeyId", key)]);
    session.hide("data key", made["Plaintext"].as_str().unwrap());
    session.call(api::KMS, "CreateAlias", &[("KeyId", key), ("AliasName", "alias/a")]);
    session.call(RAM, "CreateUser", &[("UserName", "ann")]);
    let access_key = session.call(RAM, "CreateAccessKey", &[("UserName", "ann")]);
    let secret = access_key["AccessKey"]["AccessKeySecret"].as_str().unwrap().to_owned();
    session.secrets = std::mem::take(&mut session.secrets).with("access key", secret.as_bytes());
    let disk = daemon.disk("db", "64M");
    let exported = session.call(api::OWN, "ExportDiskKey", &[("DiskId", &disk)]);
    session.hide("disk key", exported["DataKey"].as_str().unwrap());
    daemon.ok(&["disk", "detach", "db"]);
    daemon.ok(&["disk", "delete", "db", "--yes"]);
    daemon.ok(&["root", "rotate", "--yes"]);
    let backup = folder.path().join("b.backup");
    daemon.ok(&["backup", "create", backup.to_str().unwrap()]);

    let done: BTreeSet<String> = recorded(&daemon)
        .iter()
        .filter(|event| event["errorCode"].as_str().is_none_or(str::is_empty))
        .map(|event| event["eventName"].as_str().unwrap().to_owned())
        .collect();
    for name in [
        "CreateKey",
        "Encrypt",
        "Decrypt",
        "GenerateDataKey",
        "CreateAlias",
        "CreateUser",
        "CreateAccessKey",
        "CreateDisk",
        "AttachDisk",
        "ExportDiskKey",
        "DetachDisk",
        "DeleteDisk",
        "RotateRootKey",
        "CreateBackup",
    ] {
        assert!(done.contains(name), "{name}: {done:?}");
    }
    let files = data.join("trail");
    assert!(Needles::text("event", b"\"eventName\"").count_below(&files).len() == 1);
    let found = session.secrets.count_below(&files);
    assert!(found.is_empty(), "{found:?}");
    // Nor in the backup, the catalog or the log.
    let found = session.secrets.count_in_file(&backup);
    assert!(found.is_empty(), "{found:?}");
    assert!(session.secrets.count(daemon.log().as_bytes()).is_empty());
}
