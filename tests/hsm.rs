//! Keys in a token through the real daemon, with SoftHSM; an independent client looks into it.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use support::daemon::{Daemon, binary, serve};
use support::kms::text;
use support::softhsm::{PIN, SoftHsm, library};
use support::tokens::{self, Proxy};
use support::tools;

const QUIET: [&str; 4] = ["--nbd-tcp", "off", "--http", "off"];

struct House {
    softhsm: SoftHsm,
    folder: tempfile::TempDir,
}

impl House {
    /// `None` where SoftHSM is missing.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let softhsm = SoftHsm::new(folder.path())?;
        softhsm.init("disks");
        Some(Self { softhsm, folder })
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn start(&self) -> Daemon {
        let uri = self.softhsm.uri("disks");
        let mut command = serve(&self.data(), &[&QUIET[..], &["--hsm", &uri]].concat());
        command.env("SOFTHSM2_CONF", &self.softhsm.conf);
        Daemon::launch(command, &self.data())
    }

    fn away(&self) {
        std::fs::rename(&self.softhsm.tokens, self.folder.path().join("away")).unwrap();
    }

    fn back(&self) {
        std::fs::rename(self.folder.path().join("away"), &self.softhsm.tokens).unwrap();
    }

    fn pkcs11_tool(&self, arguments: &[&str]) -> String {
        let module = library().unwrap().to_str().unwrap();
        let output = Command::new("pkcs11-tool")
            .args(["--module", module, "--token-label", "disks", "--login", "--pin", PIN])
            .args(arguments)
            .env("SOFTHSM2_CONF", &self.softhsm.conf)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn check(&self, uri: &str) -> (bool, String) {
        self.check_with(uri, &[])
    }

    /// Whether all is well, and everything that was said.
    fn check_with(&self, uri: &str, variables: &[(&str, &str)]) -> (bool, String) {
        let output = Command::new(binary())
            .args(["hsm", "check", "--hsm", uri, "-o", "json"])
            .env_remove("CREDENTIALS_DIRECTORY")
            .env("SOFTHSM2_CONF", &self.softhsm.conf)
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}

fn state(daemon: &Daemon) -> String {
    text(&daemon.json(&["hsm", "list"])["Hsms"]["Hsm"][0], "State")
}

#[test]
fn a_disk_under_a_key_in_a_token() {
    let Some(house) = House::new() else { return };
    if !tools::have("qemu-io") {
        return;
    }
    let daemon = house.start();
    let key = text(&daemon.json(&["key", "create", "--protection-level", "HSM"]), "KeyId");
    daemon.ok(&["alias", "create", "alias/hsm", &key]);
    daemon.ok(&[
        "disk",
        "create",
        "--name",
        "db",
        "--size",
        "8MiB",
        "--key-id",
        "alias/hsm",
        "--attach",
    ]);
    let io = |daemon: &Daemon, command: &str| {
        tools::run("qemu-io", &["-f", "raw", "-c", command, &daemon.uri("db")])
    };
    io(&daemon, "write -P 0x5a 4096 65536");
    io(&daemon, "flush");

    // While it is away the attached disk goes on; the key does not.
    house.away();
    let refused = daemon.refused(&[
        "disk",
        "create",
        "--name",
        "two",
        "--size",
        "8MiB",
        "--key-id",
        "alias/hsm",
    ]);
    assert!(refused.contains("HSM") && refused.contains("ServiceUnavailable"), "{refused}");
    assert!(io(&daemon, "read -P 0x5a 4096 65536").contains("read 65536/65536"));
    io(&daemon, "write -P 0x77 131072 4096");
    assert_eq!(state(&daemon), "Unavailable");
    let health = daemon.ok(&["hsm", "list"]);
    assert!(health.contains("Unavailable"), "{health}");
    house.back();
    tools::wait_until("the token is back", || state(&daemon) == "Available");
    daemon.ok(&["disk", "create", "--name", "two", "--size", "8MiB", "--key-id", "alias/hsm"]);
    assert_eq!(daemon.events("HsmUnavailable").len(), 1);
    assert_eq!(daemon.events("HsmAvailable").len(), 2);
    assert!(daemon.stop().success());

    // Started without it: everything but its keys is there, and says why.
    house.away();
    let daemon = house.start();
    assert_eq!(state(&daemon), "Unavailable");
    let shown = daemon.ok(&["hsm", "list"]);
    assert!(shown.contains("the library does not start"), "{shown}");
    let refused = daemon.refused(&["disk", "attach", "two"]);
    assert!(refused.contains("its library does not start"), "{refused}");
    daemon.ok(&["key", "create"]);
    // The disk that was attached is opened by itself once the token is there.
    house.back();
    let read = || {
        let read = ["-f", "raw", "-c", "read -P 0x5a 4096 65536", "-c", "read -P 0x77 131072 4096"];
        Command::new("qemu-io").args(read).arg(daemon.uri("db")).output().unwrap()
    };
    tools::wait_until("the disk is served", || read().status.success());
    let said = String::from_utf8(read().stdout).unwrap();
    assert!(said.contains("read 65536/65536") && !said.contains("failed"), "{said}");
}

#[test]
fn an_independent_client_sees_the_key_and_opens_our_ciphertext() {
    let Some(house) = House::new() else { return };
    let daemon = house.start();
    let key = text(&daemon.json(&["key", "create", "--protection-level", "HSM"]), "KeyId");
    if tools::have("pkcs11-tool") {
        let listed = house.pkcs11_tool(&["--list-objects", "--type", "secrkey"]);
        assert!(listed.contains(&format!("acs/{key}/v1")), "{listed}");
        assert!(listed.contains("never extractable"), "{listed}");
        assert!(listed.contains("AES length 32"), "{listed}");
    }
    let plain = house.folder.path().join("plain");
    std::fs::write(&plain, "from the daemon").unwrap();
    let blob = daemon.ok(&[
        "key",
        "encrypt",
        &key,
        "--context",
        "disk=d-1",
        "--in",
        plain.to_str().unwrap(),
    ]);
    let Some(python) = std::env::var_os("SEALDISK_PYTHON") else {
        assert!(!tools::are_required(), "SEALDISK_PYTHON is not set");
        eprintln!("SKIPPED: the independent client needs SEALDISK_PYTHON");
        return;
    };
    let opened = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/open_in_token.py"))
        .args([library().unwrap().to_str().unwrap(), "disks", PIN, &format!("acs/{key}/v1")])
        .args([blob.trim(), "disk", "d-1"])
        .env("SOFTHSM2_CONF", &house.softhsm.conf)
        .output()
        .unwrap();
    assert!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
    assert_eq!(String::from_utf8(opened.stdout).unwrap().trim(), "from the daemon");
}

#[test]
fn a_check_tells_what_is_wrong() {
    let Some(house) = House::new() else { return };
    let uri = house.softhsm.uri("disks");
    let (is_well, said) = house.check(&uri);
    assert!(is_well, "{said}");
    let steps = ["library", "token", "flags", "sessions", "mechanisms", "PIN tries", "PIN", "key"];
    for step in steps.iter().chain(&["use", "destroy", "import"]) {
        assert!(said.contains(&format!("\"Step\": \"{step}\"")), "{step}: {said}");
    }
    assert!(!house.pkcs11_tool(&["--list-objects"]).contains("acs/check"));
    let (is_well, said) = house.check(&uri.replace("disks", "other"));
    assert!(!is_well && said.contains("token `disks`"), "{said}");
    let (is_well, said) = house.check(&uri.replace("libsofthsm2", "libnone"));
    assert!(!is_well && said.contains("check module-path"), "{said}");
    std::fs::write(&house.softhsm.pin_file, "wrong-one").unwrap();
    let (is_well, said) = house.check(&uri);
    assert!(!is_well && said.contains("the token refused it"), "{said}");
    assert!(!said.contains("wrong-one"), "{said}");
    let (is_well, said) = house.check(&format!("{uri}&pin-value=wrong-one"));
    assert!(!is_well && said.contains("holds the PIN itself"), "{said}");
    assert!(!said.contains("wrong-one"), "{said}");
    std::fs::write(&house.softhsm.pin_file, PIN).unwrap();
    let (is_well, said) = house.check(&uri);
    assert!(is_well && said.contains("a wrong one was tried"), "{said}");
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&house.softhsm.pin_file, mode).unwrap();
    let (is_well, said) = house.check(&uri);
    assert!(!is_well && said.contains("mode 0644") && said.contains("chmod 600"), "{said}");
    house.softhsm.init("disks");
    let (is_well, said) = house.check(&uri);
    let listed = said.matches("token `disks`, serial `").count();
    assert!(!is_well && said.contains("names several tokens") && listed == 2, "{said}");
    house.away();
    let (is_well, said) = house.check(&uri);
    assert!(!is_well && said.contains("C_Initialize: CKR_GENERAL_ERROR"), "{said}");
}

#[test]
fn a_check_of_a_token_that_hangs_ends() {
    let Some(house) = House::new() else { return };
    let Some(proxy) = Proxy::new(house.folder.path(), library().unwrap()) else { return };
    let file = house.folder.path().join("check.yaml");
    let uri = tokens::uri("disks", proxy.library(), &house.softhsm.pin_file);
    std::fs::write(&file, format!("hsm:\n  - uri: {uri}\n    timeout: 1s\n")).unwrap();
    for (function, last) in [("C_Initialize", ""), ("C_Login", "PIN tries"), ("C_Encrypt", "PIN")] {
        proxy.obey(&[&format!("{function} * hang 600s")]);
        let output = Command::new(binary())
            .args(["hsm", "check", "-o", "json", "--config"])
            .arg(&file)
            .env("SOFTHSM2_CONF", &house.softhsm.conf)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(!output.status.success() && said.contains("does not go on"), "{function}: {said}");
        assert!(said.contains(last), "what was found before is told: {said}");
    }
}

#[test]
fn a_pin_comes_from_a_credential_or_the_environment() {
    let Some(house) = House::new() else { return };
    let folder = house.folder.path().join("credentials");
    std::fs::create_dir(&folder).unwrap();
    for (name, pin) in [("sealdisk-hsm-pin", PIN), ("other", PIN), ("wrong", "wrong-one")] {
        std::fs::write(folder.join(name), pin).unwrap();
    }
    let credentials = ("CREDENTIALS_DIRECTORY", folder.to_str().unwrap());
    let uri = house.softhsm.uri("disks");
    let (bare, _) = uri.split_once("&pin-source").unwrap();
    let from = |source: &str, variables: &[(&str, &str)]| {
        house.check_with(&format!("{bare}{source}"), variables)
    };
    for (source, variables) in [
        ("", &[credentials][..]),
        ("", &[("SEALDISK_HSM_PIN", PIN)]),
        // A credential goes before the environment.
        ("", &[credentials, ("SEALDISK_HSM_PIN", "wrong-one")]),
        ("&pin-source=credential:other", &[credentials]),
        ("&pin-source=env:ANY_NAME", &[("ANY_NAME", PIN)]),
    ] {
        let (is_well, said) = from(source, variables);
        assert!(is_well && !said.contains(PIN), "{source}: {said}");
    }
    for (source, word) in [
        ("&pin-source=credential:none", "credential none is not there"),
        ("&pin-source=credential:wrong", "the token refused it"),
        ("&pin-source=env:ANY_NAME", "environment variable ANY_NAME is not there"),
    ] {
        let (is_well, said) = from(source, &[credentials]);
        assert!(!is_well && said.contains(word), "{source}: {said}");
    }
    let (is_well, said) = from("", &[]);
    assert!(!is_well && said.contains("SEALDISK_HSM_PIN is not there"), "{said}");
}

#[test]
fn the_root_key_moves_into_a_token_and_out_again() {
    let Some(house) = House::new() else { return };
    let (data, file) = (house.data(), house.data().with_extension("yaml"));
    std::fs::create_dir_all(&data).unwrap();
    let at = data.display();
    let in_file = format!("provider: file\n  path: {at}/root.key\n  create: true\n");
    let uri = house.softhsm.uri("disks");
    let in_token = format!("provider: pkcs11\n  uri: {uri}\n");
    let previous = |source: &str| format!("  previous:\n    {}", source.replace("\n  ", "\n    "));
    let start = |root: &str| {
        let text = format!(
            "data_dir: {at}\nroot_key:\n  {root}\n\
             nbd:\n  unix: {at}/nbd.sock\n  tcp: off\n\
             api:\n  unix: {at}/api.sock\n  http: off\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(binary());
        command.args(["serve", "--config"]).arg(&file);
        command.env("SOFTHSM2_CONF", &house.softhsm.conf);
        command
    };
    let shown = |daemon: &Daemon| daemon.json(&["root", "show"]);
    let daemon = Daemon::launch(start(&in_file), &data);
    let key = text(&daemon.json(&["key", "create"]), "KeyId");
    let before = text(&shown(&daemon), "RootKeyId");
    assert!(daemon.stop().success());

    let old = previous(&in_file.replace("  create: true\n", ""));
    let daemon = Daemon::launch(start(&format!("{in_token}{old}")), &data);
    assert_eq!(text(&shown(&daemon), "Provider"), "pkcs11");
    assert_eq!(text(&shown(&daemon), "PreviousRootKeyId"), before);
    daemon.ok(&["key", "show", &key]);
    assert!(daemon.stop().success());
    let daemon = Daemon::launch(start(&in_token), &data);
    let in_use = text(&shown(&daemon), "RootKeyId");
    daemon.ok(&["root", "rotate", "--yes"]);
    assert_ne!(text(&shown(&daemon), "RootKeyId"), in_use);
    assert!(daemon.stop().success());
    let daemon = Daemon::launch(start(&in_token), &data);
    daemon.ok(&["key", "show", &key]);
    assert!(daemon.stop().success());

    // Without the token there is no start, and it is said why.
    house.away();
    let refused = start(&in_token).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("it is in a token"), "{said}");
    house.back();
    // A key that is moved to is made by its owner.
    let new = in_file.replace("root.key", "new.key");
    let made = data.join("new.key");
    std::fs::write(&made, "5a".repeat(32)).unwrap();
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o600)).unwrap();
    let daemon = Daemon::launch(start(&format!("{new}{}", previous(&in_token))), &data);
    assert_eq!(text(&shown(&daemon), "Provider"), "file");
    daemon.ok(&["key", "show", &key]);
}

#[test]
fn keys_are_brought_and_rotated_by_the_command_line() {
    let Some(house) = House::new() else { return };
    let daemon = house.start();
    let create = ["key", "create", "--protection-level", "HSM"];
    let key = text(&daemon.json(&[&create[..], &["--origin", "EXTERNAL"]].concat()), "KeyId");
    let material = house.folder.path().join("byok.bin");
    std::fs::write(&material, [0x5a; 32]).unwrap();
    std::fs::set_permissions(&material, std::fs::Permissions::from_mode(0o600)).unwrap();
    let imported = daemon.ok(&["key", "import", &key, "--material", material.to_str().unwrap()]);
    assert!(imported.contains("Enabled"), "{imported}");
    // Under which hash it came is in the trail.
    let events = daemon.events("GetParametersForImport");
    let hash = events[0]["responseElements"]["OaepHash"].as_str().unwrap_or_default().to_owned();
    assert!(hash.starts_with("SHA_"), "{events:?}");
    let key = text(&daemon.json(&create), "KeyId");
    let first = text(&daemon.json(&["key", "show", &key]), "PrimaryKeyVersion");
    let rotated = daemon.json(&["key", "rotate", &key, "--now"]);
    assert_ne!(text(&rotated, "PrimaryKeyVersion"), first);
    assert_eq!(daemon.events("RotateKey").len(), 1);
    let none = daemon.cli(&["hsm", "orphans", "hsm"]);
    assert!(none.status.success());
}
