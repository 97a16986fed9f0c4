//! Who may ask what, which published code a refusal has, and that the trail knows of it.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;
use support::daemon::Daemon;
use support::{api, tools};

/// A refused call: its code, in the answer and as the newest event of that action in the trail.
fn refused(
    daemon: &Daemon,
    (version, action): (&str, &str),
    parameters: &[(&str, &str)],
    (status, code): (u16, &str),
) {
    let (found, answer) = api::call(&daemon.api_socket(), version, action, parameters);
    assert_eq!(
        (found, &answer["Code"]),
        (status, &Value::from(code)),
        "{action} {parameters:?}: {answer}"
    );
    for field in ["RequestId", "HostId", "Message"] {
        assert!(!answer[field].as_str().unwrap().is_empty(), "{answer}");
    }
    let events = daemon.events(action);
    let event = events.first().unwrap_or_else(|| panic!("{action} is not in the trail"));
    assert_eq!(event["errorCode"], code, "{event}");
    assert_eq!(event["requestId"], answer["RequestId"], "{event}");
    assert!(!event["errorMessage"].as_str().unwrap().is_empty(), "{event}");
}

#[test]
fn refusals_have_the_published_codes_and_are_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&folder.path().join("data"));
    let disk = daemon.disk("db", "1M");
    let free = daemon.json(&["disk", "create", "--name", "free", "--size", "1M"]);
    let free = free["DiskId"].as_str().unwrap().to_owned();
    let key = daemon.json(&["key", "create"])["KeyId"].as_str().unwrap().to_owned();
    daemon.ok(&["alias", "create", "alias/byok", &key]);
    let server = api::call(&daemon.api_socket(), api::OWN, "DescribeServer", &[]).1;
    let region = server["RegionId"].as_str().unwrap();
    let zone = format!("{region}-a");
    let create = |parameters: &[(&str, &str)], expected: (u16, &str)| {
        let place = [("RegionId", region), ("ZoneId", zone.as_str())];
        refused(&daemon, (api::ECS, "CreateDisk"), &[&place, parameters].concat(), expected);
    };
    let (ecs, kms) = (|action| (api::ECS, action), |action| (api::KMS, action));

    let nowhere = [("DiskId", "d-00000000000000000000"), ("InstanceId", "i-1")];
    for action in ["AttachDisk", "DetachDisk"] {
        refused(&daemon, ecs(action), &nowhere, (404, "InvalidDiskId.NotFound"));
    }
    refused(&daemon, ecs("DeleteDisk"), &nowhere[..1], (404, "InvalidDiskId.NotFound"));
    let attached = [("DiskId", disk.as_str()), ("InstanceId", "i-1")];
    refused(&daemon, ecs("AttachDisk"), &attached, (403, "IncorrectDiskStatus"));
    refused(&daemon, ecs("DeleteDisk"), &attached[..1], (403, "DiskStillAttached"));
    let detached = [("DiskId", free.as_str()), ("InstanceId", "i-1")];
    refused(&daemon, ecs("DetachDisk"), &detached, (403, "IncorrectDiskStatus"));
    refused(&daemon, ecs("AttachDisk"), &[], (400, "MissingParameter"));

    create(&[("Size", "1"), ("DiskName", "1db")], (400, "InvalidDiskName.Malformed"));
    for size in ["0", "65537"] {
        create(&[("Size", size)], (400, "InvalidSize.ValueNotSupported"));
    }
    for size in ["-1", "18446744073709551616", "1.5", "x"] {
        create(&[("Size", size)], (400, "InvalidParameter"));
    }
    let missing = "00000000-0000-4000-8000-000000000000";
    let encrypted = [("Size", "1"), ("Encrypted", "true")];
    let under = |key| [encrypted[0], encrypted[1], ("KMSKeyId", key)];
    create(&under(missing), (404, "InvalidParameter.KMSKeyId.NotFound"));
    let illegal = (400, "InvalidParameter.EncryptedIllegal");
    create(&[("Size", "1"), ("KMSKeyId", key.as_str())], illegal);
    daemon.ok(&["key", "disable", "alias/byok"]);
    create(&under(&key), (403, "InvalidParameter.KMSKeyId.CMKNotEnabled"));

    let alias = [("AliasName", "alias/byok"), ("KeyId", key.as_str())];
    refused(&daemon, kms("CreateAlias"), &alias, (400, "AliasAlreadyExists"));
    let use_it = [("KeyId", key.as_str()), ("Plaintext", "aGVsbG8=")];
    refused(&daemon, kms("Encrypt"), &use_it, (409, "Rejected.Disabled"));
    refused(&daemon, kms("Encrypt"), &use_it[..1], (400, "MissingParameter"));
    refused(&daemon, kms("GenerateDataKey"), &[("KeyId", missing)], (404, "Forbidden.KeyNotFound"));

    // Nothing of all this made a disk.
    let listed = daemon.json(&["disk", "list"]);
    assert_eq!(listed["TotalCount"], 2, "{listed}");
}

#[test]
fn a_disabled_key_stops_the_next_attach_and_not_the_attached_disk() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    let key = daemon.json(&["key", "create"])["KeyId"].as_str().unwrap().to_owned();
    daemon.disk_with("db", "1M", &["--key-id", &key]);
    write(&daemon, "db", 5);
    daemon.ok(&["key", "disable", &key]);
    read(&daemon, "db", 5);
    write(&daemon, "db", 6);
    // Not after a restart either: the data key would have to be unwrapped.
    assert!(daemon.stop().success());
    let daemon = Daemon::start(&data);
    assert!(daemon.log().contains("the key state is Disabled"), "{}", daemon.log());
    assert_eq!(daemon.json(&["disk", "show", "db"])["Status"], "In_use");
    daemon.ok(&["disk", "detach", "db"]);
    let error = daemon.refused(&["disk", "attach", "db"]);
    let published = "InvalidParameter.KMSKeyId.CMKNotEnabled";
    assert!(error.contains(published), "{error}");
    assert_eq!(daemon.events("AttachDisk")[0]["errorCode"], published);
    assert_eq!(daemon.events("Decrypt")[0]["errorCode"], "Rejected.Disabled");
    daemon.ok(&["key", "enable", &key]);
    daemon.ok(&["disk", "attach", "db"]);
    read(&daemon, "db", 6);
    daemon.ok(&["key", "schedule-deletion", &key, "--days", "7"]);
    read(&daemon, "db", 6);
    daemon.ok(&["disk", "detach", "db"]);
    assert!(daemon.refused(&["disk", "attach", "db"]).contains("the key state is PendingDeletion"));
    daemon.ok(&["key", "cancel-deletion", &key]);
    daemon.cli(&["key", "enable", &key]);
    daemon.ok(&["disk", "attach", "db"]);
    read(&daemon, "db", 6);
}

#[test]
fn the_service_key_cannot_be_managed() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&folder.path().join("data"));
    let disk = daemon.disk("db", "1M");
    let shown = daemon.json(&["disk", "show", &disk]);
    let key = shown["KMSKeyId"].as_str().unwrap();
    for name in [key, "alias/acs/ecs"] {
        for arguments in [
            &["key", "disable", name][..],
            &["key", "schedule-deletion", name],
            &["alias", "create", "alias/mine", name],
        ] {
            let error = daemon.refused(arguments);
            assert!(error.contains("code: "), "{arguments:?}: {error}");
        }
    }
    for arguments in
        [&["alias", "delete", "alias/acs/ecs"][..], &["alias", "create", "alias/acs/mine", key]]
    {
        assert!(daemon.refused(arguments).contains("code: "), "{arguments:?}");
    }
    // Nor used by anybody but the service: the wrapped key in a header cannot be opened by hand.
    let layer = daemon.layer_file(&disk);
    let wrapped = support::luks::token(&mut support::luks::json(&layer))["wrapped_key"].clone();
    let blob = [("CiphertextBlob", wrapped.as_str().unwrap())];
    let (status, answer) = api::call(&daemon.api_socket(), api::KMS, "Decrypt", &blob);
    assert!(status >= 400 && answer["Plaintext"].is_null(), "{answer}");
    for action in ["DisableKey", "ScheduleKeyDeletion", "CreateAlias", "DeleteAlias", "Decrypt"] {
        let event = &daemon.events(action)[0];
        assert!(!event["errorCode"].as_str().unwrap().is_empty(), "{event}");
    }
    daemon.ok(&["disk", "detach", "db"]);
    daemon.ok(&["disk", "attach", "db"]);
}

#[test]
fn a_name_that_two_disks_have_is_refused_with_both_ids() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&folder.path().join("data"));
    let ids = [daemon.disk("db", "1M"), daemon.disk("db", "1M")];
    for arguments in
        [&["disk", "show", "db"][..], &["disk", "detach", "db"], &["disk", "delete", "db", "--yes"]]
    {
        let error = daemon.refused(arguments);
        assert!(ids.iter().all(|id| error.contains(id)), "{error}");
    }
    // Over NBD such a name is nobody's; the ids are.
    if tools::have("nbdinfo") {
        let size = |export: &str| {
            tools::command("nbdinfo").args(["--size", &daemon.uri(export)]).output().unwrap()
        };
        assert!(!size("db").status.success());
        assert!(ids.iter().all(|id| size(id).status.success()));
    }
    daemon.ok(&["disk", "detach", &ids[0]]);
    assert_eq!(daemon.json(&["disk", "show", &ids[1]])["Status"], "In_use");
}

#[test]
fn the_use_of_a_key_is_recorded_before_the_attach_it_was_for() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&folder.path().join("data"));
    let disk = daemon.disk("db", "1M");
    let listed = daemon.json(&["trail", "list", "--limit", "100"]);
    let events = listed["Events"].as_array().unwrap();
    let place = |name: &str| {
        let found = events.iter().position(|event| event["eventName"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {listed}"))
    };
    // Newest first.
    let order = ["AttachDisk", "Decrypt", "CreateDisk", "GenerateDataKey"].map(place);
    assert!(order.is_sorted(), "{order:?}");
    let (attach, decrypt) = (&events[order[0]], &events[order[1]]);
    assert_eq!(attach["requestId"], decrypt["requestId"], "one request");
    assert_eq!(attach["resourceName"], disk.as_str());
    let context = decrypt["requestParameters"].to_string();
    assert!(context.contains(&disk), "the key's use names the disk: {decrypt}");
}

#[test]
fn other_users_are_refused_by_the_file_system_and_by_the_daemon() {
    if !rustix::process::geteuid().is_root() || !tools::have("setpriv") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    daemon.disk("db", "1M");
    open_to_all(folder.path());
    let program = folder.path().join("sealdisk");
    std::fs::copy(support::daemon::binary(), &program).unwrap();
    let endpoint = format!("unix:{}", daemon.api_socket().display());
    let as_nobody = |arguments: &[&str]| {
        let output = tools::command("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args(["--endpoint", &endpoint])
            .args(arguments)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let commands = [&["disk", "list"][..], &["disk", "detach", "db"], &["key", "list"]];
    for arguments in commands {
        assert!(!as_nobody(arguments).contains("Forbidden"), "it does not come as far");
    }
    open_to_all(&data);
    for arguments in commands {
        assert!(!as_nobody(arguments).contains("Forbidden"), "it does not come as far");
    }
    open_to_all(&daemon.api_socket());
    for arguments in commands {
        let error = as_nobody(arguments);
        assert!(error.contains("Forbidden.NoPermission"), "{error}");
    }
    assert_eq!(daemon.json(&["disk", "show", "db"])["Status"], "In_use");
}

#[test]
fn over_tcp_only_health_and_metrics_need_no_signature() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_with(
        &folder.path().join("data"),
        &["--nbd-tcp", "off", "--http", "127.0.0.1:0"],
    );
    let disk = daemon.disk("db", "1M");
    let (_, endpoints) = api::call(&daemon.api_socket(), api::OWN, "DescribeEndpoints", &[]);
    let address = endpoints["Http"].as_str().unwrap();
    let (status, health) = api::get(address, "/health");
    let health: Value = serde_json::from_str(&health).unwrap();
    assert_eq!((status, &health["status"]), (200, &Value::from("ok")));
    let form = "Action=DescribeDisks&Version=2014-05-26&RegionId=cn-local";
    let post = format!(
        "POST / HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}",
        form.len()
    );
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let (status, body) = api::exchange(&mut stream, &post);
    assert!(status == 400 && body.contains("IncompleteSignature"), "{status} {body}");
    assert!(!body.contains(&disk));
    let query = format!("/?{form}");
    for path in ["/", query.as_str(), "/etc/passwd", "/../catalog.db"] {
        let (status, body) = api::get(address, path);
        assert!(status == 400 || status == 404, "{path}: {status}");
        assert!(!body.contains(&disk), "{path}: {body}");
    }
    write(&daemon, "db", 9);
    read(&daemon, "db", 9);
    let (status, metrics) = api::get(address, "/metrics");
    assert_eq!(status, 200);
    if tools::have("qemu-io") {
        for command in ["read", "write"] {
            let start = "sealdisk_nbd_requests_total{";
            let line = metrics.lines().find(|line| {
                line.starts_with(start)
                    && line.contains(&disk)
                    && line.contains(&format!("command=\"{command}\""))
            });
            let line = line.unwrap_or_else(|| panic!("no {command} of {disk} in {metrics}"));
            assert!(!line.ends_with(" 0"), "{line}");
        }
    }
}

#[test]
fn without_a_trail_nothing_is_done_and_attached_disks_go_on() {
    if !rustix::process::geteuid().is_root() || !tools::have("strace") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    let disk = daemon.disk("db", "1M");
    let free = daemon.json(&["disk", "create", "--name", "free", "--size", "1M"]);
    let free = free["DiskId"].as_str().unwrap().to_owned();
    let key = daemon.json(&["key", "create"])["KeyId"].as_str().unwrap().to_owned();
    write(&daemon, "db", 3);
    let segment = std::fs::read_dir(data.join("trail"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .unwrap();
    let faults = Faults::inject(&daemon, &segment);
    for arguments in [
        &["key", "create"][..],
        &["key", "disable", &key],
        &["disk", "attach", &free],
        &["disk", "detach", &disk],
        &["disk", "delete", &free, "--yes"],
        &["disk", "create", "--name", "late", "--size", "1M"],
        &["disk", "list"],
    ] {
        let error = daemon.refused(arguments);
        assert!(error.contains("ServiceUnavailableTemporary"), "{arguments:?}: {error}");
    }
    let ask = |action: &str, parameters: &[(&str, &str)]| {
        api::call(&daemon.api_socket(), api::KMS, action, parameters)
    };
    let (status, answer) = ask("GenerateDataKey", &[("KeyId", &key)]);
    assert_eq!((status, &answer["Plaintext"]), (503, &Value::Null), "{answer}");
    let to = folder.path().join("key");
    let export = ["disk", "export-key", &disk, "--yes", "--to", to.to_str().unwrap()];
    assert!(!daemon.cli(&export).status.success() && !to.exists());
    read(&daemon, &disk, 3);
    write(&daemon, &disk, 4);
    faults.end();
    read(&daemon, &disk, 4);
    // Shut until a restart, which finds everything as it was.
    assert!(daemon.refused(&["disk", "list"]).contains("ServiceUnavailableTemporary"));
    assert!(daemon.stop().success());
    let daemon = Daemon::start(&data);
    assert_eq!(daemon.json(&["disk", "show", &disk])["Status"], "In_use");
    assert_eq!(daemon.json(&["disk", "show", &free])["Status"], "Available");
    assert_eq!(daemon.json(&["disk", "list"])["TotalCount"], 2);
    assert_eq!(daemon.json(&["key", "show", &key])["KeyState"], "Enabled");
    assert_eq!(daemon.json(&["key", "list"])["TotalCount"], 2);
    read(&daemon, &disk, 4);
}

#[test]
fn a_limit_of_file_sizes_makes_writes_fail_and_does_not_end_the_daemon() {
    if !rustix::process::geteuid().is_root() || !tools::have("prlimit") || !tools::have("qemu-io") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    let disk = daemon.disk("db", "1M");
    write(&daemon, &disk, 3);
    let limit = |soft: &str| {
        let pid = daemon.pid().to_string();
        tools::run("prlimit", &["--pid", &pid, &format!("--fsize={soft}:")]);
    };
    limit("4096");
    assert!(!daemon.cli(&["disk", "list"]).status.success());
    assert!(!daemon.cli(&["key", "create"]).status.success());
    read(&daemon, &disk, 3);
    let said = tools::command("qemu-io")
        .args(["-f", "raw", "-c", "write -f -P 4 0 1M", &daemon.uri(&disk)])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(said.contains("write failed"), "{said}");
    read(&daemon, &disk, 3);
    limit("unlimited");
    write(&daemon, &disk, 4);
    read(&daemon, &disk, 4);
    assert!(daemon.stop().success());
    let daemon = Daemon::start(&data);
    read(&daemon, &disk, 4);
    assert_eq!(daemon.json(&["disk", "list"])["TotalCount"], 1);
}

/// Writes to one file of a daemon fail.
struct Faults(Child);

impl Faults {
    fn inject(daemon: &Daemon, file: &Path) -> Self {
        let tracer = tools::command("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64,fdatasync"])
            .args(["-e", "inject=pwrite64,fdatasync:error=EIO", "-P"])
            .arg(file)
            .args(["-p", &daemon.pid().to_string()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let traced = format!("TracerPid:\t{}", tracer.id());
        let tasks = format!("/proc/{}/task", daemon.pid());
        tools::wait_until("strace has every thread", || {
            std::fs::read_dir(&tasks).unwrap().all(|task| {
                let status = std::fs::read_to_string(task.unwrap().path().join("status"));
                status.is_ok_and(|status| status.contains(&traced))
            })
        });
        Self(tracer)
    }

    fn end(mut self) {
        support::daemon::signal(self.0.id(), "INT");
        self.0.wait().unwrap();
    }
}

fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
}

fn write(daemon: &Daemon, export: &str, pattern: u8) {
    if tools::have("qemu-io") {
        let command = format!("write -f -P {pattern} 0 1M");
        tools::run("qemu-io", &["-f", "raw", "-c", &command, &daemon.uri(export)]);
    }
}

fn read(daemon: &Daemon, export: &str, pattern: u8) {
    if tools::have("qemu-io") {
        let command = format!("read -P {pattern} 0 1M");
        let said = tools::run("qemu-io", &["-f", "raw", "-c", &command, &daemon.uri(export)]);
        assert!(!said.contains("failed"), "{said}");
    }
}
