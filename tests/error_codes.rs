//! Every error code that the KMS and its gateway publish is the answer to some request over HTTP.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sealdisk::crypto::asymmetric::{Padding, encrypt};
use serde_json::Value;
use support::api::{self, KMS};
use support::clock::MovedClock;
use support::daemon::{Daemon, serve};
use support::kms::text;
use support::signer::AccessKey;
use support::tools;

/// The codes of the published table, and their HTTP statuses.
const PUBLISHED: [(&str, u16); 38] = [
    ("AliasAlreadyExists", 400),
    ("ExpiredImportToken", 400),
    ("Forbidden.AccessKey", 403),
    ("Forbidden.AliasNotFound", 404),
    ("Forbidden.InDebt", 403),
    ("Forbidden.InDebtOverdue", 403),
    ("Forbidden.KeyNotFound", 404),
    ("Forbidden.KeyVersionNotFound", 404),
    ("Forbidden.KmsServiceNotEnabled", 403),
    ("Forbidden.NoPermission", 403),
    ("Forbidden.ResourceNotFound", 404),
    ("IllegalTimestamp", 400),
    ("IncompleteSignature", 400),
    ("InternalFailure", 500),
    ("InvalidAccessKeyId.NotFound", 404),
    ("InvalidImportToken", 400),
    ("InvalidKeyMaterial", 400),
    ("InvalidParameter", 400),
    ("InvalidTimeStamp.Expired", 400),
    ("MissingParameter", 400),
    ("ParseRequestParameterException", 400),
    ("Rejected.Disabled", 409),
    ("Rejected.LimitExceeded", 400),
    ("Rejected.PendingDeletion", 409),
    ("Rejected.PendingImport", 409),
    ("Rejected.StateModifiedFailed", 409),
    ("Rejected.Throttling", 429),
    ("Rejected.UnsupportedOperation", 400),
    ("ServiceUnavailableTemporary", 503),
    ("SignatureDoesNotMatch", 400),
    ("SignatureNonceUsed", 400),
    ("Unsupported.Alias", 400),
    ("Unsupported.Origin", 400),
    ("Unsupported.ProtectionLevel", 400),
    ("UnsupportedHTTPMethod", 403),
    ("UnsupportedOperation", 400),
    // Of the newer documentation.
    ("DryRunOperationError", 400),
    ("Forbidden.DKMSInstanceNotFound", 404),
];

const NOWHERE: &str = "00000000-0000-4000-8000-000000000000";
const PLAIN: (&str, &str) = ("Plaintext", "eA==");

/// Keys of an account.
const KEYS_MAX: usize = 200;

/// An account with a key in each state, and a clock that can be moved.
struct Account {
    daemon: Daemon,
    clock: MovedClock,
    owner: AccessKey,
    user: AccessKey,
    key: String,
    disabled: String,
    doomed: String,
    external: String,
    material: Cell<(String, String)>,
    nonce: Cell<u32>,
    folder: tempfile::TempDir,
}

type Answer = (u16, Value);

impl Account {
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let clock = MovedClock::new(folder.path())?;
        let data = folder.path().join("data");
        let mut command = serve(&data, &["--nbd-tcp", "off", "--http", "127.0.0.1:0"]);
        clock.drive(&mut command);
        let daemon = Daemon::launch(command, &data);
        let made = std::fs::read_to_string(data.join("access-key.json")).unwrap();
        let owner = access_key(&serde_json::from_str(&made).unwrap());
        daemon.ok(&["user", "create", "ann"]);
        let made = daemon.json(&["user", "create-access-key", "ann"]);
        let user = access_key(made.get("AccessKey").unwrap_or(&made));
        let none = String::new();
        let mut account = Self {
            daemon,
            clock,
            owner,
            user,
            key: none.clone(),
            disabled: none.clone(),
            doomed: none.clone(),
            external: none,
            material: Cell::default(),
            nonce: Cell::new(0),
            folder,
        };
        account.key = account.new_key(&[]);
        account.disabled = account.new_key(&[]);
        account.ok("DisableKey", &[("KeyId", &account.disabled)]);
        account.doomed = account.new_key(&[]);
        let doom = [("KeyId", account.doomed.as_str()), ("PendingWindowInDays", "7")];
        account.ok("ScheduleKeyDeletion", &doom);
        account.external = account.new_key(&[("Origin", "EXTERNAL")]);
        account.ok("CreateAlias", &[("AliasName", "alias/a"), ("KeyId", &account.key)]);
        Some(account)
    }

    fn by(&self, who: &AccessKey, action: &str, parameters: &[(&str, &str)]) -> Answer {
        self.nonce.set(self.nonce.get() + 1);
        let nonce = self.nonce.get().to_string();
        self.dated(who, (action, parameters), (&self.clock.now().to_string(), &nonce))
    }

    fn dated(
        &self,
        who: &AccessKey,
        (action, parameters): (&str, &[(&str, &str)]),
        (timestamp, nonce): (&str, &str),
    ) -> Answer {
        let what = (KMS, action);
        api::call_signed_at(self.daemon.http(), who, what, parameters, (timestamp, nonce))
    }

    fn ask(&self, action: &str, parameters: &[(&str, &str)]) -> Answer {
        self.by(&self.owner, action, parameters)
    }

    fn ok(&self, action: &str, parameters: &[(&str, &str)]) -> Value {
        let (status, answer) = self.ask(action, parameters);
        assert_eq!(status, 200, "{action} {parameters:?}: {answer}");
        answer
    }

    fn new_key(&self, parameters: &[(&str, &str)]) -> String {
        text(&self.ok("CreateKey", parameters)["KeyMetadata"], "KeyId")
    }

    /// Brings material of so many bytes, under a token that is kept for the next time.
    fn bring(&self, bytes: usize, token: Option<&str>) -> Answer {
        let (mut public, mut given) = self.material.take();
        if given.is_empty() {
            let how = [
                ("KeyId", self.external.as_str()),
                ("WrappingAlgorithm", "RSAES_OAEP_SHA_256"),
                ("WrappingKeySpec", "RSA_2048"),
            ];
            let told = self.ok("GetParametersForImport", &how);
            (public, given) = (text(&told, "PublicKey"), text(&told, "ImportToken"));
        }
        let key = STANDARD.decode(&public).unwrap();
        let wrapped = encrypt(&key, Padding::OaepSha256, &vec![7; bytes]).unwrap();
        let wrapped = STANDARD.encode(wrapped);
        let answer = self.ask(
            "ImportKeyMaterial",
            &[
                ("KeyId", &self.external),
                ("EncryptedKeyMaterial", &wrapped),
                ("ImportToken", token.unwrap_or(&given)),
                ("KeyMaterialExpireUnix", "0"),
            ],
        );
        self.material.set((public, given));
        answer
    }

    /// What the account is answered while it stands so.
    fn standing(&self, status: &str) -> Answer {
        self.daemon.ok(&["account", "set", "--kms", status]);
        let answer = self.ask("ListKeys", &[]);
        self.daemon.ok(&["account", "set", "--kms", "enabled"]);
        answer
    }

    /// Bytes as they are; the answer.
    fn raw(&self, line: &str) -> Answer {
        let mut stream = TcpStream::connect(self.daemon.http()).unwrap();
        let request = format!("{line} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        let (status, body) = api::exchange(&mut stream, &request);
        (status, serde_json::from_str(&body).unwrap())
    }
}

fn access_key(told: &Value) -> AccessKey {
    AccessKey { id: text(told, "AccessKeyId"), secret: text(told, "AccessKeySecret") }
}

/// A code and the request that it answers. What spoils the account for others comes last.
type Row = (&'static str, fn(&Account) -> Answer);

const ROWS: [Row; 38] = [
    ("Forbidden.KeyNotFound", |a| a.ask("DescribeKey", &[("KeyId", NOWHERE)])),
    ("Forbidden.KeyVersionNotFound", |a| {
        a.ask("DescribeKeyVersion", &[("KeyId", &a.key), ("KeyVersionId", NOWHERE)])
    }),
    ("Forbidden.AliasNotFound", |a| a.ask("DeleteAlias", &[("AliasName", "alias/none")])),
    ("Forbidden.ResourceNotFound", |a| {
        a.ask("TagResource", &[("SecretName", "s"), ("Tags", r#"[{"TagKey":"a"}]"#)])
    }),
    ("Forbidden.DKMSInstanceNotFound", |a| a.ask("CreateKey", &[("DKMSInstanceId", "kst-none")])),
    ("Forbidden.NoPermission", |a| a.by(&a.user, "DescribeKey", &[("KeyId", &a.key)])),
    ("Forbidden.AccessKey", |a| {
        a.daemon.ok(&["user", "disable-access-key", "ann", "--id", &a.user.id]);
        let answer = a.by(&a.user, "ListKeys", &[]);
        a.daemon.ok(&["user", "enable-access-key", "ann", "--id", &a.user.id]);
        answer
    }),
    ("Forbidden.KmsServiceNotEnabled", |a| a.standing("not-enabled")),
    ("Forbidden.InDebt", |a| a.standing("in-debt")),
    ("Forbidden.InDebtOverdue", |a| a.standing("suspended")),
    ("UnsupportedHTTPMethod", |a| a.raw("PUT /?Action=ListKeys&Version=2016-01-20")),
    ("MissingParameter", |a| a.ask("DescribeKey", &[])),
    ("InvalidParameter", |a| a.ask("CreateKey", &[("KeySpec", "DES")])),
    ("ParseRequestParameterException", |a| a.raw("GET /?Action=%zz&Version=2016-01-20")),
    ("IncompleteSignature", |a| a.raw("GET /?Action=ListKeys&Version=2016-01-20")),
    ("InvalidAccessKeyId.NotFound", |a| {
        let unknown = AccessKey { id: "LTAI5tNobody".into(), ..a.owner.clone() };
        a.by(&unknown, "ListKeys", &[])
    }),
    ("SignatureDoesNotMatch", |a| {
        let forged = AccessKey { secret: "forged".into(), ..a.owner.clone() };
        a.by(&forged, "ListKeys", &[])
    }),
    ("IllegalTimestamp", |a| a.dated(&a.owner, ("ListKeys", &[]), ("yesterday", "no date"))),
    ("InvalidTimeStamp.Expired", |a| {
        a.dated(&a.owner, ("ListKeys", &[]), ("2020-01-05T03:04:05Z", "long ago"))
    }),
    ("SignatureNonceUsed", |a| {
        let now = a.clock.now().to_string();
        let again = || a.dated(&a.owner, ("ListKeys", &[]), (&now, "again"));
        assert_eq!(again().0, 200);
        again()
    }),
    ("AliasAlreadyExists", |a| {
        a.ask("CreateAlias", &[("AliasName", "alias/a"), ("KeyId", &a.key)])
    }),
    ("InvalidKeyMaterial", |a| a.bring(31, None)),
    ("InvalidImportToken", |a| a.bring(32, Some("eA=="))),
    ("Unsupported.Origin", |a| a.ask("DeleteKeyMaterial", &[("KeyId", &a.key)])),
    ("Unsupported.Alias", |a| a.ask("DisableKey", &[("KeyId", "alias/a")])),
    ("Unsupported.ProtectionLevel", |a| a.ask("CreateKey", &[("ProtectionLevel", "HSM")])),
    ("Rejected.UnsupportedOperation", |a| a.ask("CreateKeyVersion", &[("KeyId", &a.key)])),
    ("UnsupportedOperation", |a| a.ask("GetKeyPolicy", &[("KeyId", &a.key)])),
    ("Rejected.Disabled", |a| a.ask("Encrypt", &[("KeyId", &a.disabled), PLAIN])),
    ("Rejected.PendingDeletion", |a| a.ask("Encrypt", &[("KeyId", &a.doomed), PLAIN])),
    ("Rejected.PendingImport", |a| a.ask("Encrypt", &[("KeyId", &a.external), PLAIN])),
    ("Rejected.StateModifiedFailed", |a| a.ask("EnableKey", &[("KeyId", &a.doomed)])),
    ("DryRunOperationError", |a| a.ask("Encrypt", &[("KeyId", &a.key), PLAIN, ("DryRun", "true")])),
    ("ExpiredImportToken", |a| {
        a.clock.advance(Duration::from_secs(24 * 3600 + 1));
        a.bring(32, None)
    }),
    ("Rejected.LimitExceeded", |a| {
        let mut last = a.ask("CreateKey", &[]);
        for _ in 0..KEYS_MAX {
            if last.0 != 200 {
                break;
            }
            last = a.ask("CreateKey", &[]);
        }
        last
    }),
    ("Rejected.Throttling", |a| {
        // Another daemon, whose clients may call but twice in a second.
        let data = a.folder.path().join("slow");
        let slow = Daemon::start_configured_with(&data, &[], &["requests_per_second: 2"]);
        slow.ok(&["user", "create", "ann"]);
        let made = slow.json(&["user", "create-access-key", "ann"]);
        let owner = access_key(made.get("AccessKey").unwrap_or(&made));
        let ask =
            |n: u32| api::call_signed(slow.http(), &owner, (KMS, "ListKeys"), &[], &n.to_string());
        let answers: Vec<Answer> = (0..20).map(ask).collect();
        answers.into_iter().find(|(status, _)| *status != 403).unwrap()
    }),
    ("InternalFailure", |a| {
        damage(&a.daemon.data_dir().join("catalog.db"), &a.key);
        a.ask("Encrypt", &[("KeyId", &a.key), PLAIN])
    }),
    ("ServiceUnavailableTemporary", |a| {
        // No file may grow any more, the trail's neither.
        tools::run("prlimit", &["--pid", &a.daemon.pid().to_string(), "--fsize=1:"]);
        a.ask("ListKeys", &[])
    }),
];

/// Turns every bit of a key's sealed material, while the daemon serves.
fn damage(catalog: &Path, key: &str) {
    let catalog = rusqlite::Connection::open(catalog).unwrap();
    let text = "SELECT wrapped_material FROM key_version WHERE key_id = ?1";
    let mut material: Vec<u8> = catalog.query_row(text, [key], |row| row.get(0)).unwrap();
    material.iter_mut().for_each(|byte| *byte = !*byte);
    let text = "UPDATE key_version SET wrapped_material = ?2 WHERE key_id = ?1";
    assert_eq!(catalog.execute(text, rusqlite::params![key, material]).unwrap(), 1);
}

#[test]
fn every_published_code_is_the_answer_to_some_request() {
    let produced: BTreeSet<&str> = ROWS.iter().map(|(code, _)| *code).collect();
    let published: BTreeSet<&str> = PUBLISHED.iter().map(|(code, _)| *code).collect();
    assert_eq!(produced, published);
    let Some(account) = Account::start() else { return };
    for (code, request) in ROWS {
        let (status, answer) = request(&account);
        let expected = PUBLISHED.iter().find(|(known, _)| *known == code).unwrap();
        assert_eq!((text(&answer, "Code").as_str(), status), *expected, "{answer}");
        assert!(!text(&answer, "Message").is_empty(), "{answer}");
        assert_eq!(text(&answer, "RequestId").len(), 36, "{answer}");
    }
}

#[test]
fn an_account_that_is_not_open_does_nothing_until_it_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    let ask = |daemon: &Daemon, action: &str, parameters: &[(&str, &str)]| {
        let (_, answer) = api::call(&daemon.api_socket(), KMS, action, parameters);
        let code = answer["Code"].as_str().or(answer["AccountStatus"].as_str());
        code.unwrap_or("ok").to_owned()
    };
    daemon.disk("db", "64M");
    daemon.ok(&["disk", "detach", "db"]);
    let key =
        daemon.json(&["key", "create", "--tag", "acs:ecs:disk-encryption=true"])["KeyId"].clone();
    let key = key.as_str().unwrap().to_owned();
    assert_eq!(daemon.json(&["account", "show"])["KmsStatus"], "Enabled");
    daemon.ok(&["account", "set", "--kms", "not-enabled"]);
    for action in ["CreateKey", "ListKeys", "DescribeKey", "Encrypt"] {
        let code = ask(&daemon, action, &[("KeyId", &key), PLAIN]);
        assert_eq!(code, "Forbidden.KmsServiceNotEnabled", "{action}");
        assert_eq!(daemon.events(action)[0]["errorCode"], code.as_str());
    }
    assert_eq!(ask(&daemon, "DescribeAccountKmsStatus", &[]), "NotEnabled");
    // In the words of the disk service.
    for named in [&[][..], &[("KMSKeyId", key.as_str())]] {
        let size = [("SizeBytes", "67108864")];
        let parameters = [&size, named].concat();
        let (status, answer) =
            api::call(&daemon.api_socket(), api::OWN, "CreateLocalDisk", &parameters);
        let found = (status, answer["Code"].as_str().unwrap_or_default());
        assert_eq!(found, (400, "InvalidParameter.KmsNotEnabled"), "{answer}");
    }
    let refused = daemon.refused(&["disk", "attach", "db"]);
    assert!(refused.contains("InvalidOperation.KMSServiceNotOpen"), "{refused}");
    // It is so after a restart too.
    daemon.stop();
    let daemon = Daemon::start(&data);
    assert_eq!(ask(&daemon, "ListKeys", &[]), "Forbidden.KmsServiceNotEnabled");
    assert_eq!(ask(&daemon, "OpenKmsService", &[]), "Enabled");
    assert_eq!(ask(&daemon, "ListKeys", &[]), "ok");
    daemon.ok(&["disk", "attach", "db"]);
    // Debt is not settled by opening; what is attached goes on, and one can always detach.
    daemon.ok(&["account", "set", "--kms", "in-debt"]);
    assert_eq!(ask(&daemon, "OpenKmsService", &[]), "Forbidden.InDebt");
    assert_eq!(ask(&daemon, "DescribeAccountKmsStatus", &[]), "InDebt");
    assert_eq!(daemon.json(&["disk", "show", "db"])["Status"], "In_use");
    daemon.ok(&["disk", "detach", "db"]);
    daemon.ok(&["disk", "delete", "db", "--yes"]);
    daemon.ok(&["account", "set", "--kms", "enabled"]);
    assert_eq!(ask(&daemon, "ListKeys", &[]), "ok");
    let set = daemon.events("SetAccountStatus");
    let asked: Vec<&str> =
        set.iter().map(|event| event["requestParameters"]["KmsStatus"].as_str().unwrap()).collect();
    assert_eq!(asked, ["Enabled", "InDebt", "NotEnabled"]);
}
