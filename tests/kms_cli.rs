//! `sealdisk key` and `sealdisk alias` against a real daemon.

mod support;

use std::os::unix::fs::PermissionsExt;

use support::daemon::Daemon;
use support::kms::text;

struct Shell {
    daemon: Daemon,
    folder: tempfile::TempDir,
}

impl Shell {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { daemon: Daemon::start(&folder.path().join("data")), folder }
    }

    /// A file of these bytes; its path.
    fn file(&self, name: &str, bytes: &[u8], mode: u32) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn key(&self, options: &[&str]) -> String {
        text(&self.daemon.json(&[&["key", "create"], options].concat()), "KeyId")
    }

    /// Standard output as bytes of a command that must succeed.
    fn bytes(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.daemon.cli(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

#[test]
fn own_material_is_brought_by_one_command() {
    let shell = Shell::start();
    let daemon = &shell.daemon;
    let key = shell.key(&["--origin", "EXTERNAL"]);
    daemon.ok(&["alias", "create", "alias/byok", &key]);
    assert!(daemon.ok(&["key", "list", "--state", "PendingImport"]).contains(&key));
    let material = shell.file("byok.bin", &[0x5a; 32], 0o600);
    let import = ["key", "import", "alias/byok", "--material"];
    let quiet = daemon.cli(&[&import[..], &[&material]].concat());
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{quiet:?}");
    let said = String::from_utf8(quiet.stdout).unwrap();
    assert!(said.contains("Enabled") && said.contains("EXTERNAL"), "{said}");

    let open = shell.file("open.bin", &[0x5a; 32], 0o644);
    let warned = daemon.cli(&[&import[..], &[&open]].concat());
    let warning = String::from_utf8(warned.stderr).unwrap();
    assert!(warned.status.success() && warning.contains("mode 0644"), "{warning}");
    let other = shell.file("other.bin", &[1; 32], 0o600);
    let said = daemon.refused(&[&import[..], &[&other]].concat());
    assert!(said.contains("InvalidKeyMaterial"), "{said}");
    for (name, length) in [("short.bin", 31), ("long.bin", 33)] {
        let wrong = shell.file(name, &vec![1; length], 0o600);
        let said = daemon.refused(&[&import[..], &[&wrong]].concat());
        assert!(said.contains("32 bytes"), "{said}");
    }
    let late = [&import[..], &[&material, "--expires", "2999-01-01T00:00:00Z"]].concat();
    assert_eq!(daemon.json(&late)["MaterialExpireTime"], "2999-01-01T00:00:00Z");

    daemon.ok(&["key", "tag", "alias/byok", "acs:ecs:disk-encryption=true"]);
    daemon.ok(&["disk", "create", "--name", "db", "--size", "1M", "--key-id", "alias/byok"]);
    daemon.ok(&["key", "delete-material", "alias/byok"]);
    let said = daemon.refused(&["disk", "attach", "db"]);
    assert!(said.contains("CMKNotEnabled"), "{said}");
    daemon.ok(&[&import[..], &[&material]].concat());
    daemon.ok(&["disk", "attach", "db"]);
}

#[test]
fn keys_are_managed() {
    let shell = Shell::start();
    let daemon = &shell.daemon;
    let key = shell.key(&["--rotate-every", "90d", "--tag", "team=db", "--description", "d"]);
    let shown = daemon.ok(&["key", "show", &key]);
    assert!(shown.contains("Next rotation") && shown.contains("SOFTWARE"), "{shown}");
    daemon.ok(&["alias", "create", "alias/a", &key]);
    assert!(daemon.ok(&["alias", "list", "--key", "alias/a"]).contains(&key));
    assert_eq!(
        daemon.json(&["key", "rotate", "alias/a", "--never"])["AutomaticRotation"],
        "Disabled"
    );
    let rotating = daemon.json(&["key", "rotate", "alias/a", "--every", "7d"]);
    assert_eq!(rotating["RotationInterval"], "604800s");
    assert!(daemon.refused(&["key", "rotate", "alias/a"]).contains("--every"));
    assert_eq!(daemon.json(&["key", "describe", "alias/a", "new"])["Description"], "new");

    let tags = daemon.ok(&["key", "tag", "alias/a", "env=prod", "empty="]);
    assert!(tags.contains("env    prod") && tags.contains("team   db"), "{tags}");
    let tags = daemon.ok(&["key", "untag", "alias/a", "env", "empty"]);
    assert!(!tags.contains("env") && tags.contains("team"), "{tags}");
    assert!(daemon.ok(&["key", "list", "--tag", "team"]).contains(&key));
    assert!(!daemon.ok(&["key", "list", "--tag", "env"]).contains(&key));

    daemon.ok(&["key", "protect", "alias/a", "--why", "in use"]);
    assert!(daemon.ok(&["key", "show", "alias/a"]).contains("in use"));
    assert!(daemon.refused(&["key", "schedule-deletion", "alias/a"]).contains("Unsupported"));
    daemon.ok(&["key", "unprotect", "alias/a"]);
    daemon.ok(&["key", "schedule-deletion", "alias/a"]);
    daemon.ok(&["key", "cancel-deletion", "alias/a"]);
    assert!(daemon.ok(&["key", "versions", "alias/a"]).contains("yes"));
    assert!(daemon.refused(&["key", "policy", "alias/a"]).contains("UnsupportedOperation"));
    let instance = format!("kst-{}", text(&daemon.json(&["key", "show", &key]), "Creator"));
    let inside = shell.key(&["--instance", &instance]);
    assert!(daemon.ok(&["key", "policy", &inside]).contains("kms default key policy"));
}

#[test]
fn keys_are_used() {
    let shell = Shell::start();
    let daemon = &shell.daemon;
    let plain = shell.file("plain", b"\x00\xffa secret\n", 0o600);
    let key = shell.key(&[]);
    let bound = ["--context", "disk=d-1"];
    let sealed = shell.bytes(&[&["key", "encrypt", &key, "--in", &plain], &bound[..]].concat());
    let sealed = shell.file("sealed", &sealed, 0o600);
    let opened = shell.bytes(&[&["key", "decrypt", "--in", &sealed], &bound[..]].concat());
    assert_eq!(opened, b"\x00\xffa secret\n");
    let said = daemon.refused(&["key", "decrypt", "--in", &sealed]);
    assert!(said.contains("CiphertextBlob"), "{said}");
    let newer = shell.key(&[]);
    let moved = ["key", "re-encrypt", "--to", &newer, "--in", &sealed];
    let moved = shell.file("moved", &shell.bytes(&[&moved, &bound[..]].concat()), 0o600);
    let opened = shell.bytes(&[&["key", "decrypt", "--in", &moved], &bound[..]].concat());
    assert_eq!(opened, b"\x00\xffa secret\n");

    let rsa = shell.key(&["--spec", "RSA_2048", "--usage", "ENCRYPT/DECRYPT"]);
    let sealed = shell.bytes(&["key", "encrypt", &rsa, "--in", &plain]);
    let sealed = shell.file("under-rsa", &sealed, 0o600);
    let opened = shell.bytes(&["key", "decrypt", "--key", &rsa, "--in", &sealed]);
    assert_eq!(opened, b"\x00\xffa secret\n");

    for (spec, algorithm) in
        [("EC_P256", None), ("RSA_3072", None), ("RSA_2048", Some("RSA_PKCS1_SHA_256"))]
    {
        let signer = shell.key(&["--spec", spec]);
        let chosen: Vec<&str> =
            algorithm.map(|name| ["--algorithm", name]).into_iter().flatten().collect();
        let signature = shell.bytes(&[&["key", "sign", &signer, &plain], &chosen[..]].concat());
        let signature = shell.file("signature", &signature, 0o600);
        let verify = ["key", "verify", &signer, &plain, "--signature", &signature];
        daemon.ok(&[&verify, &chosen[..]].concat());
        let verify = ["key", "verify", &signer, &sealed, "--signature", &signature];
        assert!(daemon.refused(&[&verify, &chosen[..]].concat()).contains("not a signature"));

        // Anybody can check it, without us.
        let public = shell.file("public.pem", &shell.bytes(&["key", "public-key", &signer]), 0o600);
        let raw = base64_of(&std::fs::read_to_string(&signature).unwrap());
        let raw = shell.file("raw", &raw, 0o600);
        let pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"];
        let options: &[&str] = if spec == "RSA_3072" { &pss } else { &[] };
        let openssl = ["dgst", "-sha256", "-verify", &public, "-signature", &raw];
        support::tools::run("openssl", &[&openssl, options, &[&plain]].concat());
    }
}

/// The bytes of base64.
fn base64_of(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text.trim()).unwrap()
}
