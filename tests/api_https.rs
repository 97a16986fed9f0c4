//! The API over TLS: curl is the client, openssl makes the certificates.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sealdisk::clock::{Clock, SystemClock};
use serde_json::{Value, json};
use support::api::{KMS, RAM, call, call_signed};
use support::daemon::{Daemon, binary, signal};
use support::signer::{AccessKey, Ask, Request, Scheme, sign};
use support::tools;

struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Option<Self> {
        if !tools::have("openssl") || !tools::have("curl") {
            return None;
        }
        let site = Self { dir: tempfile::tempdir().unwrap() };
        site.certify("one");
        site.install("one");
        Some(site)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A certificate of its own making, which a client can be told to trust.
    fn certify(&self, name: &str) {
        let (key, certificate) =
            (self.path(&format!("{name}.key")), self.path(&format!("{name}.pem")));
        tools::run(
            "openssl",
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
                "-subj",
                &format!("/CN={name}"),
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-keyout",
                key.to_str().unwrap(),
                "-out",
                certificate.to_str().unwrap(),
            ],
        );
    }

    /// Puts it where the daemon looks.
    fn install(&self, name: &str) {
        for ending in ["pem", "key"] {
            let to = self.path(&format!("server.{ending}"));
            std::fs::copy(self.path(&format!("{name}.{ending}")), &to).unwrap();
            std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    fn command(&self) -> Command {
        let at = self.dir.path().join("data");
        let at = at.display();
        let (certificate, key) = (self.path("server.pem"), self.path("server.key"));
        let text = format!(
            "data_dir: {at}\n\
             root_key:\n  path: {at}/root.key\n  create: true\n\
             nbd:\n  unix: off\n  tcp: off\n\
             api:\n  unix: {at}/api.sock\n  http: 127.0.0.1:0\n  https:\n    \
             address: 127.0.0.1:0\n    certificate: {}\n    key: {}\n",
            certificate.display(),
            key.display()
        );
        let file = self.path("sealdisk.yaml");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(binary());
        command.args(["serve", "--config"]).arg(file);
        command
    }

    fn start(&self) -> Daemon {
        Daemon::launch(self.command(), &self.path("data"))
    }

    /// Asks over TLS, trusting one certificate: status and body; `None` if TLS failed.
    fn curl(&self, trusted: &str, url: &str, request: Option<&Request>) -> Option<(u16, String)> {
        let certificate = self.path(&format!("{trusted}.pem"));
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "20", "-w", "\n%{http_code}", "--cacert"]);
        command.arg(certificate);
        match request {
            None => command.arg(url),
            Some(request) => {
                for (name, value) in &request.headers {
                    command.arg("-H").arg(format!("{name}: {value}"));
                }
                command.args(["-X", request.method, "-H", "content-length: 0"]);
                command.arg(format!("{url}?{}", request.query))
            }
        };
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n')?;
        output.status.success().then(|| (status.parse().unwrap(), body.to_owned()))
    }
}

/// A user who may do what `statement` says, and an access key of theirs.
fn user(socket: &Path, name: &str, statement: &Value) -> AccessKey {
    let ok = |action: &str, parameters: &[(&str, &str)]| {
        let (status, told) = call(socket, RAM, action, parameters);
        assert_eq!(status, 200, "{told}");
        told
    };
    ok("CreateUser", &[("UserName", name)]);
    let document = json!({"Version": "1", "Statement": [statement]}).to_string();
    ok("CreatePolicy", &[("PolicyName", name), ("PolicyDocument", &document)]);
    ok("AttachPolicyToUser", &[("UserName", name), ("PolicyName", name), ("PolicyType", "Custom")]);
    let made = ok("CreateAccessKey", &[("UserName", name)]);
    let text = |field: &str| made["AccessKey"][field].as_str().unwrap().to_owned();
    AccessKey { id: text("AccessKeyId"), secret: text("AccessKeySecret") }
}

fn signed(key: &AccessKey, action: &str, nonce: &str) -> Request {
    let timestamp = SystemClock::new().now().to_string();
    let ask = Ask { version: KMS, action, parameters: &[], timestamp: &timestamp, nonce };
    sign(Scheme::Acs3, key, &ask)
}

#[test]
fn signed_calls_are_served_over_tls_and_policies_know_it() {
    let Some(site) = Site::new() else { return };
    let daemon = site.start();
    let url = daemon.https();
    let statement = json!({
        "Effect": "Allow", "Action": "kms:ListKeys", "Resource": "*",
        "Condition": {"Bool": {"acs:SecureTransport": "true"}},
    });
    let ann = user(&daemon.api_socket(), "ann", &statement);

    let (status, body) = site.curl("one", &url, Some(&signed(&ann, "ListKeys", "1"))).unwrap();
    assert_eq!(status, 200, "{body}");
    let (status, body) = site.curl("one", &url, Some(&signed(&ann, "ListKeys", "1"))).unwrap();
    assert!(status == 400 && body.contains("SignatureNonceUsed"), "{body}");
    let (status, told) = call_signed(daemon.http(), &ann, (KMS, "ListKeys"), &[], "2");
    assert_eq!((status, told["Code"].as_str()), (403, Some("Forbidden.NoPermission")), "{told}");
    // A nonce used on one listener is used on all.
    let (_, told) = call_signed(daemon.http(), &ann, (KMS, "ListKeys"), &[], "1");
    assert_eq!(told["Code"], "SignatureNonceUsed", "{told}");

    let (status, body) = site.curl("one", &format!("{url}health"), None).unwrap();
    assert!(status == 200 && body.contains("\"ok\""), "{body}");
    let unsigned = format!("{url}?Action=ListKeys&Version={KMS}");
    let (status, body) = site.curl("one", &unsigned, None).unwrap();
    assert!(status == 400 && body.contains("IncompleteSignature"), "{body}");
    let plain = url.replace("https", "http");
    assert!(site.curl("one", &plain, None).is_none_or(|(status, _)| status == 0 || status == 400));
}

#[test]
fn the_certificate_is_read_again_on_sighup() {
    let Some(site) = Site::new() else { return };
    let daemon = site.start();
    let health = format!("{}health", daemon.https());
    let is_served_by = |name: &str| site.curl(name, &health, None).is_some();
    site.certify("two");
    assert!(is_served_by("one") && !is_served_by("two"));

    site.install("two");
    assert!(is_served_by("one"), "nothing changes by itself");
    signal(daemon.pid(), "HUP");
    tools::wait_until("the new certificate is served", || is_served_by("two"));
    assert!(!is_served_by("one"));

    std::fs::write(site.path("server.pem"), "no certificate").unwrap();
    signal(daemon.pid(), "HUP");
    tools::wait_until("it is refused", || {
        daemon.log().contains("the old certificate stays in use")
    });
    assert!(is_served_by("two"));
}

#[test]
fn files_that_cannot_be_used_stop_the_start() {
    let Some(site) = Site::new() else { return };
    let refused = || {
        let output = site.command().stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let key = site.path("server.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let told = refused();
    assert!(told.contains("mode 640 lets others read the private key; chmod 600 it"), "{told}");
    site.install("one");
    site.certify("two");
    std::fs::copy(site.path("two.pem"), site.path("server.pem")).unwrap();
    let told = refused();
    assert!(told.contains("server.pem with") && told.contains("server.key"), "{told}");
    site.install("one");
    std::fs::write(&key, "nothing").unwrap();
    assert!(refused().contains("server.key: no private key in PEM form"));
    std::fs::remove_file(&key).unwrap();
    assert!(refused().contains("server.key: No such file"));
}

#[test]
fn a_handshake_that_does_not_come_is_not_waited_for() {
    use std::io::Read;
    let Some(site) = Site::new() else { return };
    let daemon = site.start();
    let address = daemon.https().replace("https://", "").replace('/', "");
    let mut silent = std::net::TcpStream::connect(address).unwrap();
    let patience = sealdisk::limits::API_HEAD_TIMEOUT * 3;
    silent.set_read_timeout(Some(patience)).unwrap();
    // Others are served meanwhile, and the silent one is sent away.
    assert!(site.curl("one", &format!("{}health", daemon.https()), None).is_some());
    let mut nothing = Vec::new();
    let closed = silent.read_to_end(&mut nothing);
    assert!(!matches!(&closed, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock));
}
