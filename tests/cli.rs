//! The program as a user meets it: exit codes, failures, tables and JSON, against a daemon that
//! answers from a script.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use clap::{CommandFactory, Parser};
use sealdisk::cli::arguments::{self, Arguments, DiskCommand};
use sealdisk::cli::endpoint::Endpoint;
use serde_json::{Value, json};

fn sealdisk(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sealdisk"))
        .args(arguments)
        .current_dir(dir)
        .env_remove("SEALDISK_ENDPOINT")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A directory with a daemon in it that answers each action by `answer(action, form)`.
fn daemon(answer: fn(&str, &str) -> (u16, Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("sealdisk-data")).unwrap();
    let listener = UnixListener::bind(dir.path().join("sealdisk-data/api.sock")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer_one(&stream.unwrap(), answer);
        }
    });
    dir
}

fn answer_one(stream: &UnixStream, answer: fn(&str, &str) -> (u16, Value)) {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 {
            return; // the knock before the call
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut form = vec![0; length];
    reader.read_exact(&mut form).unwrap();
    let form = String::from_utf8(form).unwrap();
    let action = form.split('&').find_map(|pair| pair.strip_prefix("Action=")).unwrap();
    let (status, body) = answer(action, &form);
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut stream = stream;
    let _ = stream.write_all((head + &body).as_bytes());
}

const ID: &str = "d-bp1aaaaaaaaaaaaaaaaa";

fn disk(name: &str, status: &str) -> Value {
    json!({
        "DiskId": ID, "DiskName": name, "Description": "", "Size": 10, "SizeBytes": 10_u64 << 30,
        "Status": status, "InstanceId": if status == "In_use" { "i-local" } else { "" },
        "Encrypted": true, "KMSKeyId": "k-1", "ReadOnly": false,
        "CreationTime": "2999-01-05T03:04:05Z", "AttachedTime": "",
    })
}

/// One attached disk `db` under the service key; keys, aliases and one event.
fn one_disk(action: &str, form: &str) -> (u16, Value) {
    let answer = match action {
        "DescribeDisks" if form.contains("DiskName=two") => {
            let other = json!({"DiskId": "d-2"});
            json!({"Disks": {"Disk": [disk("two", "Available"), other]}})
        }
        "DescribeDisks" if form.contains("DiskName=none") => json!({"Disks": {"Disk": []}}),
        "DescribeDisks" => json!({"Disks": {"Disk": [disk("db", "In_use")]}, "TotalCount": 1}),
        "DescribeDiskLayers" => json!({"LayerFiles": ["/d/layers/l"]}),
        "DescribeEndpoints" => json!({"NbdUnix": "/d/nbd.sock", "NbdTcp": "127.0.0.1:10809"}),
        "ListAliases" => {
            let alias = json!({"AliasName": "alias/acs/ecs", "KeyId": "k-1", "AliasArn": "a"});
            json!({"Aliases": {"Alias": [alias]}})
        }
        "ListKeys" => json!({"Keys": {"Key": [{"KeyId": "k-1", "KeyArn": "a"}]}}),
        "DescribeKey" => json!({"KeyMetadata": {
            "KeyId": "k-1", "KeyState": "Enabled", "Creator": "Ecs", "Description": "",
            "KeySpec": "Aliyun_AES_256",
            "CreationDate": "2999-01-05T03:04:05Z",
        }}),
        "CreateDisk" => {
            assert!(form.contains("Size=10&") || form.ends_with("Size=10"), "{form}");
            json!({"DiskId": ID})
        }
        "CreateLocalDisk" if form.contains("DiskName=fast") => {
            for parameter in [
                "SizeBytes=1073741824",
                "Cache=none",
                "IopsLimit=5000",
                "BytesPerSecondLimit=2097152",
            ] {
                assert!(form.contains(parameter), "{parameter} in {form}");
            }
            json!({"DiskId": ID})
        }
        "ModifyDiskPerformance" => {
            assert!(form.contains("IopsLimit=0") && form.contains("Cache=none"), "{form}");
            assert!(!form.contains("BytesPerSecondLimit"), "{form}");
            json!({"DiskId": ID})
        }
        "CreateLocalDisk" => {
            assert!(form.contains("SizeBytes=536870912"), "{form}");
            json!({"DiskId": ID})
        }
        "ExportDiskKey" => {
            json!({"DataKey": "a2V5", "LayerId": "l", "LayerFile": "/d/layers/l", "RequestId": "r"})
        }
        "DeleteDisk" | "AttachDisk" | "DetachDisk" => json!({}),
        other => return (404, json!({"Code": "InvalidAction.NotFound", "Message": other})),
    };
    (200, answer)
}

#[test]
fn the_definition_of_the_command_line_holds_together() {
    Arguments::command().debug_assert();
}

#[test]
fn every_command_has_help_with_an_example() {
    fn visit(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        assert!(command.get_about().is_some(), "{path} has no help");
        if command.get_subcommands().next().is_none() {
            let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(example.starts_with("Example"), "{path} has no example");
            assert!(example.contains("sealdisk "), "{path}: {example}");
        }
        command.get_subcommands().for_each(|inner| visit(inner, &path));
    }
    visit(&Arguments::command(), "");
}

fn parse(line: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(line.split(' '))
}

#[test]
fn command_lines_are_read_as_meant() {
    let line = "sealdisk -o json disk create --name c --size 1GiB --key-id alias/byok";
    let arguments::Command::Disk { command: DiskCommand::Create(create) } =
        parse(line).unwrap().command
    else {
        panic!("this creates a disk")
    };
    assert_eq!(create.size.map(|size| size.get()), Some(1 << 30));
    assert_eq!(create.key_id.as_deref(), Some("alias/byok"));
    assert_eq!((create.attach, create.instance.as_str()), (false, "i-local"));
    let told = parse("sealdisk --endpoint unix:/a disk list").unwrap();
    assert_eq!(told.endpoint, Some(Endpoint::Unix("/a".into())));
}

#[test]
fn contradictory_command_lines_are_refused() {
    for line in [
        "sealdisk serve",
        "sealdisk serve --dev --config c.yaml",
        "sealdisk serve --config c.yaml --http off",
        "sealdisk serve --dev --nbd-tcp localhost",
        "sealdisk disk create --name a",
        "sealdisk disk create --name a --size 10GB",
        "sealdisk disk create --name a --size 1GiB --unencrypted --key-id k",
        "sealdisk disk create --name a --size 1GiB --instance i-1",
        "sealdisk disk set a",
        "sealdisk disk set a --cache writethrough",
        "sealdisk disk set a --iops-limit 0",
        "sealdisk disk set a --throughput-limit 1000",
        "sealdisk key schedule-deletion k --days 3",
        "sealdisk trail list --event A --resource b",
        "sealdisk --endpoint ftp://x disk list",
        "sealdisk -o xml disk list",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
    assert!(parse("sealdisk serve --dev --http off --nbd-tcp 127.0.0.1:0").is_ok());
}

#[test]
fn exit_codes_tell_usage_from_failure() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(sealdisk(dir.path(), &["disk", "lst"]).status.code(), Some(2));
    assert_eq!(sealdisk(dir.path(), &["--version"]).status.code(), Some(0));
    let wrong = sealdisk(dir.path(), &["serve", "--config", "none.yaml"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
    assert!(stderr(&wrong).starts_with("error: none.yaml: No such file"), "{}", stderr(&wrong));
}

#[test]
fn without_a_daemon_the_user_is_told_what_was_tried_and_what_to_run() {
    let dir = tempfile::tempdir().unwrap();
    let failed = sealdisk(dir.path(), &["disk", "list"]);
    assert_eq!(failed.status.code(), Some(1));
    let said = stderr(&failed);
    assert!(said.contains("tried unix:./sealdisk-data/api.sock (not there)"), "{said}");
    assert!(said.contains("unix:/run/sealdisk/api.sock"), "{said}");
    assert!(said.contains("hint: start one with `sealdisk serve --dev`"), "{said}");
}

#[test]
fn disks_are_listed_in_columns() {
    let dir = daemon(one_disk);
    assert_eq!(
        stdout(&sealdisk(dir.path(), &["disk", "list"])),
        "DISK ID                 NAME  SIZE    STATUS  INSTANCE  KEY            CREATED\n\
         d-bp1aaaaaaaaaaaaaaaaa  db    10 GiB  In_use  i-local   alias/acs/ecs  \
         2999-01-05T03:04:05Z\n"
    );
    let keys = stdout(&sealdisk(dir.path(), &["key", "list"]));
    assert_eq!(
        keys,
        "KEY ID  STATE    SPEC            CREATOR  DESCRIPTION  CREATED\n\
         k-1     Enabled  Aliyun_AES_256  Ecs      -            2999-01-05T03:04:05Z\n"
    );
}

#[test]
fn json_has_the_names_of_the_api() {
    let dir = daemon(one_disk);
    let read = |arguments: &[&str]| -> Value {
        serde_json::from_str(&stdout(&sealdisk(dir.path(), arguments))).unwrap()
    };
    let listed = read(&["disk", "list", "-o", "json"]);
    assert_eq!(listed["Disks"]["Disk"][0]["Size"], 10);
    assert_eq!(listed["TotalCount"], 1);
    let shown = read(&["disk", "show", "db", "-o", "json"]);
    assert_eq!((&shown["DiskId"], &shown["Status"]), (&ID.into(), &"In_use".into()));
    assert_eq!(shown["LayerFiles"][0], "/d/layers/l");
    assert_eq!(read(&["key", "list", "-o", "json"])["Keys"]["Key"][0]["KeyState"], "Enabled");
    let aliases = read(&["-o", "json", "alias", "list"]);
    assert_eq!(aliases["Aliases"]["Alias"][0]["AliasName"], "alias/acs/ecs");
    let create = ["disk", "create", "--name", "db", "--size", "10GiB", "--attach", "-o", "json"];
    assert_eq!(read(&create)["DiskId"], ID);
    let uri = read(&["disk", "uri", ID, "-o", "json"]);
    assert_eq!(uri["UnixUri"], format!("nbd+unix:///{ID}?socket=/d/nbd.sock"));
    assert_eq!(uri["TcpUri"], format!("nbd://127.0.0.1:10809/{ID}"));
}

#[test]
fn sizes_that_are_no_whole_gib_go_by_our_own_action() {
    let dir = daemon(one_disk);
    let create = ["disk", "create", "--name", "p", "--size", "512M", "--unencrypted"];
    assert!(stdout(&sealdisk(dir.path(), &create)).starts_with("Disk id      d-bp1"));
}

#[test]
fn cache_mode_and_limits_go_by_our_own_action() {
    let dir = daemon(one_disk);
    let create = "disk create --name fast --size 1GiB --cache none --iops-limit 5000";
    let create: Vec<&str> = create.split(' ').chain(["--throughput-limit", "2M"]).collect();
    assert!(stdout(&sealdisk(dir.path(), &create)).starts_with("Disk id      d-bp1"));
    let set = ["disk", "set", "db", "--iops-limit", "off", "--cache", "none"];
    let said = stdout(&sealdisk(dir.path(), &set));
    assert!(said.contains("Limits       -"), "{said}");
}

#[test]
fn names_must_be_there_and_be_unique() {
    let dir = daemon(one_disk);
    let none = sealdisk(dir.path(), &["disk", "detach", "none"]);
    assert_eq!(none.status.code(), Some(1));
    assert_eq!(
        stderr(&none),
        "error: there is no disk none\n  code: InvalidDiskId.NotFound\n  \
         hint: sealdisk disk list shows the disks there are\n"
    );
    let two = stderr(&sealdisk(dir.path(), &["disk", "show", "two"]));
    assert!(two.contains(&format!("2 disks are called two: {ID}, d-2")), "{two}");
}

#[test]
fn deleting_asks_first() {
    let dir = daemon(one_disk);
    let asked = sealdisk(dir.path(), &["disk", "delete", "db"]);
    assert_eq!(asked.status.code(), Some(1));
    assert!(stderr(&asked).contains("say --yes"), "{}", stderr(&asked));
    let done = sealdisk(dir.path(), &["disk", "delete", "db", "--yes"]);
    assert_eq!(stdout(&done), format!("deleted {ID}\n"));
}

#[test]
fn an_exported_key_goes_to_a_new_private_file_and_nowhere_else() {
    use std::os::unix::fs::PermissionsExt;
    let dir = daemon(one_disk);
    let file = dir.path().join("db.key");
    let export = ["disk", "export-key", "db", "--to", "db.key"];
    assert_eq!(sealdisk(dir.path(), &export).status.code(), Some(1));
    assert!(!file.exists());
    let done = sealdisk(dir.path(), &[&export[..], &["--yes"]].concat());
    let said = stdout(&done);
    assert!(said.contains("--volume-key-file db.key --key-size 512 /d/layers/l"), "{said}");
    assert!(!said.contains("a2V5") && !said.contains("key\""), "{said}");
    assert_eq!(std::fs::read(&file).unwrap(), b"key");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let again = sealdisk(dir.path(), &[&export[..], &["--yes"]].concat());
    assert!(stderr(&again).contains("choose a file that is not there yet"));
    assert_eq!(std::fs::read(&file).unwrap(), b"key");
}

#[test]
fn a_refused_export_leaves_no_file() {
    let dir = daemon(|action, form| match action {
        "ExportDiskKey" => {
            let refusal =
                json!({"Code": "Forbidden.NoPermission", "Message": "no", "Recommend": "ask"});
            (403, refusal)
        }
        _ => one_disk(action, form),
    });
    let refused = sealdisk(dir.path(), &["disk", "export-key", "db", "--to", "k", "--yes"]);
    assert_eq!(stderr(&refused), "error: k: no\n  code: Forbidden.NoPermission\n  hint: ask\n");
    assert!(!dir.path().join("k").exists());
}

#[test]
fn what_is_no_daemon_is_said_to_be_none() {
    let dir = daemon(|_, _| (200, json!("hello")));
    let failed = sealdisk(dir.path(), &["disk", "list"]);
    assert!(stderr(&failed).contains("is no sealdisk daemon"), "{}", stderr(&failed));
}
