//! Disks whose keys are on another host: two daemons, HTTPS between them.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sealdisk::clock::{SystemClock, SystemEntropy};
use sealdisk::config::{self, KmsEndpoint};
use sealdisk::kms::context::Context;
use sealdisk::kms::remote::{RemoteError, RemoteKms};
use sealdisk::kms::{DataKeys, KmsError};
use sealdisk::ram::Caller;
use support::daemon::{Daemon, binary};
use uuid::Uuid;

/// A daemon that serves its KMS over HTTPS, and who may use it.
struct KeyHost {
    folder: tempfile::TempDir,
    daemon: Daemon,
    port: u16,
    key: String,
}

const POLICY: &str = r#"{"Version": "1", "Statement": [{"Effect": "Allow", "Resource": "*",
    "Action": ["kms:DescribeKey", "kms:GenerateDataKey", "kms:Decrypt",
    "kms:ReEncrypt*"]}]}"#;

impl KeyHost {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issued =
            rcgen::generate_simple_self_signed(vec!["127.0.0.1".into(), "localhost".into()]);
        let issued = issued.unwrap();
        let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
        std::fs::write(&certificate, issued.cert.pem()).unwrap();
        private(&key, &issued.signing_key.serialize_pem());
        // Known beforehand, so that a restart is found again.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let data = folder.path().join("keys");
        let daemon = Self::launch(folder.path(), port);
        daemon.ok(&["user", "create", "disks"]);
        let policy = folder.path().join("policy.json");
        std::fs::write(&policy, POLICY).unwrap();
        let policy = policy.to_str().unwrap();
        daemon.ok(&["policy", "create", "disk-keys", "--document", policy]);
        daemon.ok(&["user", "attach-policy", "disks", "disk-keys"]);
        let access_key = daemon.json(&["user", "create-access-key", "disks"]);
        let access_key = access_key.get("AccessKey").unwrap_or(&access_key).clone();
        private(&folder.path().join("access.json"), &access_key.to_string());
        let key = daemon.json(&["key", "create"])["KeyId"].as_str().unwrap().to_owned();
        daemon.ok(&["alias", "create", "alias/disks", &key]);
        assert!(data.exists());
        Self { folder, daemon, port, key }
    }

    fn launch(folder: &Path, port: u16) -> Daemon {
        let (data, here) = (folder.join("keys"), folder.display());
        let text = format!(
            "https: {{address: '127.0.0.1:{port}', certificate: {here}/c.pem, key: {here}/k.pem}}"
        );
        Daemon::launch(configured(&data, &text, ""), &data)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn remote(&self) -> String {
        format!(
            "    endpoint: https://127.0.0.1:{}\n    access_key_file: {}\n    ca_file: {}\n    \
             timeout: 5s\n",
            self.port,
            self.path("access.json").display(),
            self.path("c.pem").display()
        )
    }

    /// A daemon with disks whose keys are here.
    fn disks(&self, more: &str) -> Daemon {
        let data = self.path("disks");
        let kms = format!("kms:\n  remote:\n{}{more}", self.remote());
        Daemon::launch(configured(&data, "", &kms), &data)
    }
}

fn private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

fn configured(data: &Path, api: &str, more: &str) -> Command {
    let at = data.display();
    let text = format!(
        "data_dir: {at}\nroot_key:\n  path: {at}/root.key\n  create: true\nnbd:\n  unix: \
         {at}/nbd.sock\napi:\n  unix: {at}/api.sock\n  http: off\n  {api}\n{more}"
    );
    std::fs::create_dir_all(data).unwrap();
    let file = data.with_extension("yaml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(binary());
    command.args(["serve", "--config"]).arg(file);
    command
}

#[test]
fn disks_live_on_keys_of_another_host() {
    let keys = KeyHost::start();
    let disks = keys.disks("    default_key: alias/disks\n");
    let named = disks.disk_with("named", "64M", &["--key-id", "alias/disks"]);
    let unnamed = disks.disk("unnamed", "64M");
    for disk in [&named, &unnamed] {
        assert_eq!(disks.json(&["disk", "show", disk])["KMSKeyId"], keys.key.as_str());
    }
    // Who used the key is in the trail of its own host.
    let made = keys.daemon.events("GenerateDataKey");
    assert_eq!(made.len(), 2);
    assert_eq!(made[0]["userIdentity"]["type"], "ram-user");
    assert_eq!(made[0]["userIdentity"]["userName"], "disks");
    assert_eq!(made[0]["sourceIpAddress"], "127.0.0.1");
    // All of ours come with one access key: for whom, and under which request of ours, stands
    // there.
    let created = disks.events("CreateDisk");
    for (theirs, ours) in made.iter().zip(&created) {
        let request = ours["requestId"].as_str().unwrap();
        let agent = format!("(for root; request {request})");
        assert!(theirs["userAgent"].as_str().unwrap().ends_with(&agent), "{theirs}");
    }
    assert_eq!(keys.daemon.events("Decrypt").len(), 2);
    assert!(disks.events("GenerateDataKey").is_empty());

    // Without the key host no disk is opened; those that are open go on.
    disks.ok(&["disk", "detach", "named"]);
    let KeyHost { folder, daemon, port, key } = keys;
    assert!(daemon.stop().success());
    let refused = disks.refused(&["disk", "attach", "named"]);
    assert!(refused.contains(&format!("https://127.0.0.1:{port} cannot be reached")), "{refused}");
    assert!(refused.contains("ServiceUnavailableTemporary"), "{refused}");
    assert_eq!(disks.json(&["disk", "show", "unnamed"])["Status"], "In_use");
    let daemon = KeyHost::launch(folder.path(), port);
    disks.ok(&["disk", "attach", "named"]);

    // A restart of the disk host opens them again.
    assert!(disks.stop().success());
    let keys = KeyHost { folder, daemon, port, key };
    let disks = keys.disks("    default_key: alias/disks\n");
    assert_eq!(disks.json(&["disk", "show", "named"])["Status"], "In_use");

    disks.ok(&["disk", "detach", "named"]);
    keys.daemon.ok(&["key", "disable", &keys.key]);
    let refused = disks.refused(&["disk", "attach", "named"]);
    assert!(refused.contains("InvalidParameter.KMSKeyId.CMKNotEnabled"), "{refused}");
    let refused = disks.refused(&["disk", "create", "--name", "x", "--size", "64M"]);
    assert!(refused.contains("is Disabled"), "{refused}");
    keys.daemon.ok(&["key", "enable", &keys.key]);
    keys.daemon.ok(&["user", "detach-policy", "disks", "disk-keys"]);
    let refused = disks.refused(&["disk", "attach", "named"]);
    assert!(refused.contains("Forbidden.NoPermission"), "{refused}");
    assert!(refused.contains("kms:GenerateDataKey and kms:Decrypt"), "{refused}");
    let refused = disks.refused(&[
        "disk",
        "create",
        "--name",
        "x",
        "--size",
        "64M",
        "--key-id",
        "alias/none",
    ]);
    assert!(refused.contains("Forbidden") || refused.contains("NotFound"), "{refused}");
}

#[test]
fn without_a_default_key_a_disk_must_name_one() {
    let keys = KeyHost::start();
    let disks = keys.disks("");
    let refused = disks.refused(&["disk", "create", "--name", "x", "--size", "64M"]);
    assert!(refused.contains("set kms.remote.default_key"), "{refused}");
    disks.disk_with("x", "64M", &["--key-id", &keys.key]);
    let text = std::fs::read_to_string(keys.path("access.json")).unwrap();
    let secret: serde_json::Value = serde_json::from_str(&text).unwrap();
    let secret = secret["AccessKeySecret"].as_str().unwrap();
    assert!(!disks.log().contains(secret));
}

fn client(keys: &KeyHost, access_key: &str, ca: Option<&Path>) -> Result<RemoteKms, RemoteError> {
    let wanted = config::RemoteKms {
        endpoint: KmsEndpoint::parse(&format!("https://127.0.0.1:{}", keys.port)).unwrap(),
        access_key_file: keys.path(access_key),
        ca_file: ca.map(Path::to_owned),
        default_key: None,
        timeout: Duration::from_secs(5),
    };
    RemoteKms::new(&wanted, Arc::new(SystemClock::new()), Arc::new(SystemEntropy))
}

#[test]
fn a_data_key_is_wrapped_anew_where_the_keys_are() {
    let keys = KeyHost::start();
    let kms = client(&keys, "access.json", Some(&keys.path("c.pem"))).unwrap();
    let ecs = Caller::ecs(Uuid::nil());
    let bound = |size: &str| Context::from([("size".to_owned(), size.to_owned())]);
    let made = kms.generate_data_key(&ecs, &keys.key, 64, &bound("1")).unwrap();
    let other = keys.daemon.json(&["key", "create"])["KeyId"].as_str().unwrap().to_owned();
    let moved = kms.re_encrypt(&ecs, (&made.blob, &bound("1")), &other, &bound("2")).unwrap();
    assert_eq!(moved.key_id, other);
    let opened = kms.decrypt(&ecs, &moved.blob, &bound("2")).unwrap();
    assert_eq!((opened.key_id, opened.key_version), (moved.key_id, moved.key_version));
    assert!(opened.plaintext.expose() == made.plaintext.expose());
    assert!(kms.decrypt(&ecs, &moved.blob, &bound("1")).is_err());
    let wrong = kms.re_encrypt(&ecs, (&made.blob, &bound("2")), &other, &bound("3")).unwrap_err();
    assert!(matches!(wrong, KmsError::InvalidParameter("CiphertextBlob")), "{wrong:?}");
    assert_eq!(keys.daemon.events("ReEncrypt").len(), 2);
}

fn refusal(kms: &RemoteKms, key: &str) -> String {
    let error = kms.find_key(&Caller::ecs(Uuid::nil()), key).unwrap_err();
    assert!(matches!(error, KmsError::Remote(_)), "{error:?}");
    error.message()
}

#[test]
fn what_is_wrong_is_named() {
    let keys = KeyHost::start();
    let ca = keys.path("c.pem");
    let good = client(&keys, "access.json", Some(&ca)).unwrap();
    good.find_key(&Caller::ecs(Uuid::nil()), &keys.key).unwrap();
    let missing = good.find_key(&Caller::ecs(Uuid::nil()), &Uuid::nil().to_string()).unwrap_err();
    assert!(matches!(missing, KmsError::KeyNotFound), "{missing:?}");

    let text = std::fs::read_to_string(keys.path("access.json")).unwrap();
    let mut access_key: serde_json::Value = serde_json::from_str(&text).unwrap();
    access_key["AccessKeySecret"] = "another".into();
    private(&keys.path("wrong.json"), &access_key.to_string());
    let wrong = client(&keys, "wrong.json", Some(&ca)).unwrap();
    let said = refusal(&wrong, &keys.key);
    assert!(said.contains("SignatureDoesNotMatch") && said.contains("access key file"), "{said}");
    access_key["AccessKeyId"] = "LTAInobody".into();
    private(&keys.path("nobody.json"), &access_key.to_string());
    let nobody = client(&keys, "nobody.json", Some(&ca)).unwrap();
    let said = refusal(&nobody, &keys.key);
    assert!(said.contains("InvalidAccessKeyId.NotFound"), "{said}");

    // A certificate that nobody vouches for.
    let untrusted = client(&keys, "access.json", None).unwrap();
    let said = refusal(&untrusted, &keys.key);
    assert!(said.contains("cannot be reached") && said.contains("ca_file"), "{said}");

    let unread = client(&keys, "none.json", Some(&ca)).unwrap_err().to_string();
    assert!(unread.contains("none.json") && unread.contains("AccessKeyId"), "{unread}");
    let no_ca = client(&keys, "access.json", Some(&keys.path("access.json"))).unwrap_err();
    assert!(no_ca.to_string().contains("certificates in PEM form"), "{no_ca}");
}

/// A listener that answers each connection with the next of `answers`, the last one for ever; how
/// often it was asked.
fn answering(answers: Vec<&'static str>) -> (KmsEndpoint, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let number = count.fetch_add(1, Ordering::SeqCst);
            let mut head = [0; 8192];
            let read = stream.read(&mut head).unwrap_or(0);
            assert!(read > 0);
            let answer = answers[number.min(answers.len() - 1)];
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (KmsEndpoint::parse(&endpoint).unwrap(), asked)
}

fn http(status: &str, body: &str) -> &'static str {
    let length = body.len();
    let text =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    Box::leak(text.into_boxed_str())
}

#[test]
fn what_may_pass_is_tried_again_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let access_key = folder.path().join("access.json");
    private(&access_key, r#"{"AccessKeyId": "a", "AccessKeySecret": "b"}"#);
    let found = http(
        "200 OK",
        r#"{"KeyMetadata": {"KeyId": "k", "KeyState": "Enabled", "KeySpec": "Aliyun_AES_256"}}"#,
    );
    let refused =
        |code: &str| format!(r#"{{"Code": "{code}", "Message": "no", "RequestId": "r"}}"#);
    let busy = http("429 Too Many", &refused("Rejected.Throttling"));
    let down = http("503 Down", &refused("ServiceUnavailableTemporary"));
    let gateway = http("502 Bad Gateway", "<html>");
    let forbidden = http("403 No", &refused("Forbidden.NoPermission"));
    let missing = http("404 No", &refused("Forbidden.KeyNotFound"));
    let nonsense = http("200 OK", "hello");
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{";
    for (answers, asks, outcome) in [
        (vec![found], 1, Ok(())),
        (vec![busy, found], 2, Ok(())),
        (vec![down, gateway, cut, found], 4, Ok(())),
        (vec![down], 4, Err("503 ServiceUnavailableTemporary")),
        (vec![gateway], 4, Err("HTTP status 502")),
        (vec![forbidden], 1, Err("403 Forbidden.NoPermission")),
        (vec![missing], 1, Err("The specified Key is not found.")),
        (vec![nonsense], 1, Err("is no KMS")),
    ] {
        let (endpoint, asked) = answering(answers);
        let wanted = config::RemoteKms {
            endpoint,
            access_key_file: access_key.clone(),
            ca_file: None,
            default_key: None,
            timeout: Duration::from_secs(5),
        };
        let kms = RemoteKms::new(&wanted, Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
        let got = kms.unwrap().find_key(&Caller::ecs(Uuid::nil()), "k");
        match (got, outcome) {
            (Ok(key), Ok(())) => assert_eq!(key.key_id, "k"),
            (Err(error), Err(expected)) => {
                assert!(error.message().contains(expected), "{}: {expected}", error.message());
            }
            (got, expected) => panic!("{got:?}, {expected:?}"),
        }
        assert_eq!(asked.load(Ordering::SeqCst), asks);
    }
}

#[test]
fn who_does_not_answer_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let access_key_file = folder.path().join("access.json");
    private(&access_key_file, r#"{"AccessKeyId": "a", "AccessKeySecret": "b"}"#);
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let wanted = config::RemoteKms {
        endpoint: KmsEndpoint::parse(&endpoint).unwrap(),
        access_key_file,
        ca_file: None,
        default_key: None,
        timeout: Duration::from_millis(100),
    };
    let kms = RemoteKms::new(&wanted, Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
    let said = refusal(&kms.unwrap(), "k");
    assert!(said.contains("did not answer in 100ms"), "{said}");
}
