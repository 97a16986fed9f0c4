//! Signatures: what the official clients make is taken, and nothing else is.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use sealdisk::api::Gate;
use sealdisk::api::rpc::Product;
use sealdisk::api::sign::canonical::{acs_request, rpc1_string};
use sealdisk::api::sign::{Message, SignError, Signature};
use sealdisk::catalog::sqlite::SqliteCatalog;
use sealdisk::clock::{Clock, ManualClock, SeededEntropy, Timestamp};
use sealdisk::ram::{Principal, Ram, RamParts};
use sealdisk::secret::Secret;
use support::signer::{AccessKey, Ask, Request, Scheme, sign};

const SCHEMES: [Scheme; 3] = [Scheme::Rpc1, Scheme::Acs3, Scheme::Acs4];
const SECRET: &str = "testSecret0123456789abcdefghij";
type Headers = Vec<(String, String)>;

const DATE: &str = "2026-01-05T03:04:05Z";

fn secret() -> Secret {
    Secret::from_fn(SECRET.len(), |bytes| bytes.copy_from_slice(SECRET.as_bytes()))
}

fn on_message<T>(request: &Request, work: impl FnOnce(&Message<'_>) -> T) -> T {
    let headers: Vec<(&str, &[u8])> =
        request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    work(&Message {
        method: request.method,
        query: &request.query,
        headers: &headers,
        body: request.body.as_bytes(),
    })
}

fn verdict(request: &Request) -> Result<(), SignError> {
    on_message(request, |message| {
        Signature::find(message)?.expect("it is signed").verify(message, &secret())
    })
}

// --- what official clients make ---------------------------------------------------------

/// Signed by the Python SDK's own function (tea-openapi 0.4.6, `get_rpcsignature`).
const V2_RPC1: &str = "KeyId=alias%2Fdisk+%C3%BC%2B%2A~&EncryptionContext=%7B%22disk%22%3A%22d-1%22\
%7D&NumberOfBytes=32&Empty=&Action=GenerateDataKey&Version=2016-01-20&Format=JSON&AccessKeyId=LTAI5\
tTestKey&SignatureMethod=HMAC-SHA1&SignatureVersion=1.0&SignatureNonce=nonce-1&Timestamp=2026-01-05\
T03%3A04%3A05Z&SignatureType=&Signature=ilWtfR4pqiYD5naBAbKL7HcPTb0%3D";

/// Signed by the old Python SDK (core 2.16.1, `get_signed_url`) with `Plaintext` in the form.
const V1_RPC1: &str = "Action=Encrypt&Version=2016-01-20&KeyId=alias%2Fa%20b&RegionId=cn-hangzhou&\
Timestamp=2026-01-05T03%3A04%3A05Z&SignatureMethod=HMAC-SHA1&SignatureType=&SignatureVersion=1.0&\
SignatureNonce=nonce-2&AccessKeyId=LTAI5tTestKey&Format=JSON&Signature=yiXAmYCFbLYRoyHaMXwXueul3CM\
%3D";

/// Signed by tea-openapi 0.4.6 (ACS3) and gateway-pop 0.1.3 (ACS4) over one and the same request.
const ACS_QUERY: &str = "KeyId=alias%2Fdisk+%C3%BC%2B%2A~&EncryptionContext=%7B%22disk%22%3A%22d-1\
%22%7D&NumberOfBytes=32&Empty=";
const ACS3: &str = "ACS3-HMAC-SHA256 Credential=LTAI5tTestKey,SignedHeaders=accept;content-type;\
host;user-agent;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version,\
Signature=c1f755479046d6f52e5ac833ba7035f4e18b5dfb217cbe9b93462e87b4fd7127";
const ACS4: &str = "ACS4-HMAC-SHA256 Credential=LTAI5tTestKey/20260105/cn-hangzhou/Kms/aliyun_v4_\
request,SignedHeaders=content-type;host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-\
signature-nonce;x-acs-version,Signature=97b26f4e53e3c6b3fdeb17583b4e39fc7cde6acf8b849668335c187c301\
29bac";

fn in_query(query: &str, body: &str) -> Request {
    Request { method: "POST", query: query.into(), headers: vec![], body: body.into() }
}

fn of_sdk(authorization: &str) -> Request {
    let headers = [
        ("host", "127.0.0.1:8600"),
        ("x-acs-version", "2016-01-20"),
        ("x-acs-action", "GenerateDataKey"),
        ("user-agent", " test/1 "),
        ("x-acs-date", DATE),
        ("x-acs-signature-nonce", "nonce-1"),
        ("accept", "application/json"),
        ("x-acs-content-sha256", CONTENT_SHA256),
        ("content-type", "application/x-www-form-urlencoded"),
        ("authorization", authorization),
        ("connection", "keep-alive"),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let (query, body) = (ACS_QUERY.into(), "Recipient=a%20b".into());
    Request { method: "POST", query, headers, body }
}

const CONTENT_SHA256: &str = "042347bb3ab6f84dabd7130c50342c3a2fdc8e36360da1ebf6946179d7f34f82";

#[test]
fn signatures_of_the_official_clients_verify() {
    for request in [
        in_query(V2_RPC1, ""),
        in_query("", V2_RPC1),
        in_query(V1_RPC1, "Plaintext=aGVsbG8%3D"),
        of_sdk(ACS3),
        of_sdk(ACS4),
    ] {
        assert_eq!(verdict(&request), Ok(()), "{request:?}");
    }
}

#[test]
fn our_string_to_sign_is_the_clients_own() {
    let request = in_query(V1_RPC1, "Plaintext=aGVsbG8%3D");
    let text = on_message(&request, |message| rpc1_string(message).unwrap());
    let expected = "POST&%2F&AccessKeyId%3DLTAI5tTestKey%26Action%3DEncrypt%26Format%3DJSON%26KeyId\
        %3Dalias%252Fa%2520b%26Plaintext%3DaGVsbG8%253D%26RegionId%3Dcn-hangzhou%26SignatureMethod\
        %3DHMAC-SHA1%26SignatureNonce%3Dnonce-2%26SignatureType%3D%26SignatureVersion%3D1.0%26\
        Timestamp%3D2026-01-05T03%253A04%253A05Z%26Version%3D2016-01-20";
    assert_eq!(text.as_str(), expected);
}

// --- nothing else ------------------------------------------------------------------------

fn example(scheme: Scheme) -> Request {
    let key = AccessKey { id: "LTAI5tTestKey".into(), secret: SECRET.into() };
    let parameters = [("KeyId", "alias/disk"), ("NumberOfBytes", "32")];
    let (version, action) = ("2016-01-20", "GenerateDataKey");
    sign(
        scheme,
        &key,
        &Ask { version, action, parameters: &parameters, timestamp: DATE, nonce: "1" },
    )
}

#[test]
fn what_is_changed_after_signing_is_refused() {
    for scheme in SCHEMES {
        let good = example(scheme);
        assert_eq!(verdict(&good), Ok(()), "{scheme:?}");
        let mut changes: Vec<(&str, Request)> = vec![
            ("method", Request { method: "GET", ..good.clone() }),
            ("parameter added", Request { query: format!("{}&A=1", good.query), ..good.clone() }),
            ("form added", Request { body: format!("{}&A=1", good.body), ..good.clone() }),
        ];
        let other = |text: &str| text.replace("alias%2Fdisk", "alias%2Fother");
        let (query, body) = (other(&good.query), other(&good.body));
        changes.push(("parameter", Request { query, body, ..good.clone() }));
        let names =
            ["x-acs-action", "x-acs-version", "x-acs-date", "x-acs-signature-nonce", "host"];
        for name in names.into_iter().filter(|_| scheme != Scheme::Rpc1) {
            let mut changed = good.clone();
            let header = changed.headers.iter_mut().find(|(known, _)| known == name).unwrap();
            header.1 = if name == "x-acs-date" { "2026-01-05T03:04:06Z" } else { "Other" }.into();
            changes.push((name, changed));
        }
        for (what, changed) in changes {
            let refused = verdict(&changed).expect_err(what);
            assert!(matches!(refused, SignError::Mismatch { .. }), "{scheme:?} {what} {refused:?}");
        }
    }
}

#[test]
fn a_wrong_secret_is_told_what_was_signed_with_one_colon_before_it() {
    let key = AccessKey { id: "LTAI5tTestKey".into(), secret: "another".into() };
    for scheme in SCHEMES {
        let ask = Ask {
            version: "2016-01-20",
            action: "ListKeys",
            parameters: &[],
            timestamp: DATE,
            nonce: "n",
        };
        let error: sealdisk::api::error::ApiError =
            verdict(&sign(scheme, &key, &ask)).unwrap_err().into();
        assert_eq!((error.status, error.code.as_ref()), (400, "SignatureDoesNotMatch"));
        let (before, string) = error.message.split_once(':').unwrap();
        assert!(before.ends_with("server string to sign is") && !string.contains(':'));
    }
}

#[test]
fn half_a_signature_is_none() {
    let acs = |change: &dyn Fn(&mut Headers)| {
        let mut request = example(Scheme::Acs3);
        change(&mut request.headers);
        verdict(&request).unwrap_err()
    };
    let without = |name: &'static str| {
        move |headers: &mut Headers| headers.retain(|(known, _)| known != name)
    };
    let edit = |from: &'static str, to: &'static str| {
        move |headers: &mut Headers| {
            let last = headers.last_mut().unwrap();
            last.1 = last.1.replace(from, to);
        }
    };
    assert_eq!(acs(&without("x-acs-date")), SignError::Missing("x-acs-date"));
    assert_eq!(acs(&without("x-acs-signature-nonce")), SignError::Missing("x-acs-signature-nonce"));
    assert_eq!(acs(&without("x-acs-content-sha256")), SignError::Missing("x-acs-content-sha256"));
    assert!(matches!(acs(&without("x-acs-action")), SignError::Incomplete(_)));
    assert_eq!(acs(&edit("Credential=", "Who=")), SignError::Missing("Credential"));
    assert!(matches!(acs(&edit(";x-acs-version", "")), SignError::Incomplete(_)));
    assert!(matches!(acs(&edit("ACS3-HMAC-SHA256", "ACS3-HMAC-SM3")), SignError::Incomplete(_)));
    assert!(matches!(
        acs(&|headers| headers.push(headers[1].clone())),
        SignError::Incomplete(_) | SignError::Missing(_)
    ));
    let token = |headers: &mut Headers| {
        headers.push(("x-acs-security-token".into(), "t".into()));
    };
    assert!(matches!(acs(&token), SignError::Incomplete(_)));

    let rpc = |from: &str, to: &str| {
        let good = example(Scheme::Rpc1);
        verdict(&Request { body: good.body.replace(from, to), ..good }).unwrap_err()
    };
    assert_eq!(rpc("SignatureNonce=", "N="), SignError::Missing("SignatureNonce"));
    assert_eq!(rpc("&Signature=", "&S="), SignError::Missing("Signature"));
    assert_eq!(rpc("Timestamp=", "T="), SignError::Missing("Timestamp"));
    // Headers are not covered: an action in them alone is none.
    assert_eq!(rpc("Action=", "A="), SignError::Missing("Action"));
    assert_eq!(rpc("HMAC-SHA1", "HMAC-SHA256"), SignError::Invalid("SignatureMethod"));
    assert_eq!(
        rpc("SignatureVersion=1.0", "SignatureVersion=2"),
        SignError::Invalid("SignatureVersion")
    );
    assert_eq!(rpc("Format=JSON", "SecurityToken=t"), SignError::SecurityToken);
}

fn texts() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::btree_map("[A-Za-z.0-9]{1,8}", ".{0,20}", 0..6).prop_map(|pairs| {
        pairs.into_iter().map(|(name, value)| (format!("P{name}"), value)).collect()
    })
}

proptest! {
    #[test]
    fn whatever_is_signed_verifies_and_only_with_its_secret(
        pairs in texts(),
        nonce in "[!-~]{1,40}",
    ) {
        let parameters: Vec<(&str, &str)> =
            pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let ask = Ask {
            version: "2016-01-20",
            action: "Encrypt",
            parameters: &parameters,
            timestamp: DATE,
            nonce: &nonce,
        };
        for scheme in SCHEMES {
            let sign_as = |secret: &str| {
                let key = AccessKey { id: "LTAI5tTestKey".into(), secret: secret.into() };
                verdict(&sign(scheme, &key, &ask))
            };
            prop_assert_eq!(sign_as(SECRET), Ok(()));
            prop_assert!(sign_as("another").is_err());
        }
    }

    #[test]
    fn no_bytes_panic(
        query in ".*",
        authorization in
            "(ACS[34]-HMAC-SHA256 )?(Credential=|SignedHeaders=|Signature=|[a-z/;,=])*",
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let headers: [(&str, &[u8]); 2] =
            [("authorization", authorization.as_bytes()), ("x-acs-date", &body)];
        let message = Message { method: "GET", query: &query, headers: &headers, body: &body };
        let _ = (rpc1_string(&message), acs_request(&message, &authorization));
        if let Ok(Some(signature)) = Signature::find(&message) {
            let _ = (signature.timestamp(), signature.verify(&message, &secret()));
        }
    }
}

// --- the gate ----------------------------------------------------------------------------

struct Door {
    gate: Gate,
    ram: Arc<Ram>,
    clock: Arc<ManualClock>,
    key: AccessKey,
    _dir: tempfile::TempDir,
}

const ACCOUNT: &str = "1000000000000001";

impl Door {
    fn new(per_second: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::parse(DATE).unwrap()));
        let entropy = Arc::new(SeededEntropy::new(7));
        let catalog = SqliteCatalog::open(&dir.path().join("catalog.db")).unwrap();
        let ram = Arc::new(Ram::new(RamParts {
            catalog: Arc::new(catalog),
            clock: clock.clone(),
            entropy: entropy.clone(),
            key: Secret::random(32, entropy.as_ref()),
            account_id: ACCOUNT.into(),
        }));
        let made = ram.create_access_key(None, &mut |_| Ok(())).unwrap();
        let secret = String::from_utf8(made.secret.expose().to_vec()).unwrap();
        let key = AccessKey { id: made.record.access_key_id, secret };
        let gate = Gate::new(ram.clone(), (clock.clone(), entropy.as_ref()), per_second);
        Self { gate, ram, clock, key, _dir: dir }
    }

    /// The code of the refusal, or `ok`.
    fn knock(&self, scheme: Scheme, (timestamp, nonce): (&str, &str)) -> String {
        let (version, action) = ("2016-01-20", "ListKeys");
        let ask = Ask { version, action, parameters: &[], timestamp, nonce };
        self.present(&sign(scheme, &self.key, &ask), Product::Kms)
    }

    fn present(&self, request: &Request, product: Product) -> String {
        match on_message(request, |message| self.gate.admit(message, product)) {
            Ok(Some(admitted)) => {
                assert_eq!(admitted.principal, Principal::Root { account: ACCOUNT.into() });
                assert_eq!(admitted.access_key_id, self.key.id);
                "ok".into()
            }
            Ok(None) => "unsigned".into(),
            Err(error) => format!("{} {}", error.status, error.code),
        }
    }

    fn now(&self) -> String {
        self.clock.now().to_string()
    }
}

#[test]
fn a_signature_is_good_once() {
    let door = Door::new(1000);
    for scheme in SCHEMES {
        let nonce = format!("{scheme:?}");
        assert_eq!(door.knock(scheme, (DATE, &nonce)), "ok");
        assert_eq!(door.knock(scheme, (DATE, &nonce)), "400 SignatureNonceUsed");
    }
    assert_eq!(door.present(&in_query("Action=ListKeys", ""), Product::Kms), "unsigned");
    // Only what was verified uses a nonce up.
    let forged = Door { key: AccessKey { secret: "x".into(), ..door.key.clone() }, ..Door::new(1) };
    let ask = Ask { version: "v", action: "A", parameters: &[], timestamp: DATE, nonce: "mine" };
    let request = sign(Scheme::Acs3, &forged.key, &ask);
    assert_eq!(door.present(&request, Product::Kms), "400 SignatureDoesNotMatch");
    assert_eq!(door.knock(Scheme::Acs3, (DATE, "mine")), "ok");
}

#[test]
fn the_clock_window_is_a_quarter_of_an_hour() {
    let door = Door::new(1000);
    door.clock.advance(Duration::from_secs(3600));
    let at = |seconds: i64| {
        let moment = door.clock.now().unix_millis() + seconds * 1000;
        Timestamp::from_unix_millis(moment).to_string()
    };
    for (seconds, expected) in [
        (-900, "ok"),
        (-901, "400 InvalidTimeStamp.Expired"),
        (900, "ok"),
        (901, "400 InvalidTimeStamp.Expired"),
    ] {
        let nonce = format!("{seconds}");
        assert_eq!(door.knock(Scheme::Rpc1, (&at(seconds), &nonce)), expected, "{seconds}");
    }
    let wrong = door.knock(Scheme::Rpc1, ("2026-01-05 03:04:05", "n"));
    assert_eq!(wrong, "400 IllegalTimestamp");
}

#[test]
fn what_was_signed_before_the_start_is_refused() {
    let door = Door::new(1000);
    assert_eq!(door.knock(Scheme::Acs3, (DATE, "a")), "ok");
    let before = door.knock(Scheme::Acs3, ("2026-01-05T03:04:04Z", "b"));
    assert_eq!(before, "400 InvalidTimeStamp.Expired");
}

#[test]
fn access_keys_are_known_and_active() {
    let mut door = Door::new(1000);
    let mut none = || Ok(());
    door.ram.set_access_key_active(None, &door.key.id, false, &mut none).unwrap();
    assert_eq!(door.knock(Scheme::Acs3, (&door.now(), "1")), "403 Forbidden.AccessKey");
    let request = sign(
        Scheme::Rpc1,
        &door.key,
        &Ask {
            version: "2014-05-26",
            action: "DescribeDisks",
            parameters: &[],
            timestamp: DATE,
            nonce: "2",
        },
    );
    assert_eq!(door.present(&request, Product::Ecs), "400 InvalidAccessKeyId.Inactive");
    door.ram.set_access_key_active(None, &door.key.id, true, &mut none).unwrap();
    assert_eq!(door.knock(Scheme::Acs3, (&door.now(), "3")), "ok");
    door.ram.delete_access_key(None, &door.key.id, &mut none).unwrap();
    assert_eq!(door.knock(Scheme::Acs3, (&door.now(), "4")), "404 InvalidAccessKeyId.NotFound");
    door.key.id = "nobody".into();
    assert_eq!(door.knock(Scheme::Rpc1, (&door.now(), "5")), "404 InvalidAccessKeyId.NotFound");
}

#[test]
fn a_replay_costs_whom_it_copies_nothing() {
    let door = Door::new(2);
    assert_eq!(door.knock(Scheme::Acs3, (DATE, "1")), "ok");
    for _ in 0..10 {
        assert_eq!(door.knock(Scheme::Acs3, (DATE, "1")), "400 SignatureNonceUsed");
    }
    assert_eq!(door.knock(Scheme::Acs3, (DATE, "2")), "ok");
    assert_eq!(door.knock(Scheme::Acs3, (DATE, "3")), "429 Rejected.Throttling");
    // One that was throttled was not let in, and may come again.
    door.clock.advance(Duration::from_secs(1));
    assert_eq!(door.knock(Scheme::Acs3, (DATE, "3")), "ok");
}

#[test]
fn what_is_dated_ahead_cannot_be_replayed_after_a_restart() {
    let mut door = Door::new(1000);
    let folder = tempfile::tempdir().unwrap();
    let open = |door: &Door| {
        let entropy = SeededEntropy::new(8);
        let gate = Gate::new(door.ram.clone(), (door.clock.clone(), &entropy), 1000);
        gate.remembering(folder.path(), &entropy).unwrap()
    };
    let at = |door: &Door, ahead: i64| {
        let moment = door.clock.now().unix_millis() + ahead * 1000;
        Timestamp::from_unix_millis(moment).to_string()
    };
    door.gate = open(&door);
    let dates = [0, 1, 2, 3, 600].map(|ahead| at(&door, ahead));
    for date in &dates {
        assert_eq!(door.knock(Scheme::Acs3, (date, date)), "ok");
    }
    for pause in [0, 2, 300] {
        door.clock.advance(Duration::from_secs(pause));
        door.gate = open(&door);
        for date in &dates {
            let found = door.knock(Scheme::Acs3, (date, date));
            let expected = match Timestamp::parse(date).unwrap() < door.clock.now() {
                true => "400 InvalidTimeStamp.Expired",
                false => "400 SignatureNonceUsed",
            };
            assert_eq!(found, expected, "{date}, {pause} s");
        }
        // Whose clock is right, or ahead, is let in as ever.
        for ahead in [0, 600] {
            let (date, nonce) = (at(&door, ahead), format!("{pause} {ahead}"));
            assert_eq!(door.knock(Scheme::Acs3, (&date, &nonce)), "ok");
        }
    }
}

#[test]
fn one_call_too_many_is_throttled() {
    let door = Door::new(2);
    let codes: Vec<String> =
        (0..3).map(|n| door.knock(Scheme::Acs3, (DATE, &n.to_string()))).collect();
    assert_eq!(codes, ["ok", "ok", "429 Rejected.Throttling"]);
    door.clock.advance(Duration::from_secs(1));
    assert_eq!(door.knock(Scheme::Acs3, (DATE, "2")), "ok");
}

#[test]
fn a_credential_for_one_product_is_good_for_no_other() {
    let door = Door::new(1000);
    let ask = |version, action, nonce| {
        let ask = Ask { version, action, parameters: &[], timestamp: DATE, nonce };
        sign(Scheme::Acs4, &door.key, &ask)
    };
    let disks = ask("2014-05-26", "DescribeDisks", "1");
    assert_eq!(door.present(&disks, Product::Ecs), "400 IncompleteSignature");
    let users = ask("2015-05-01", "CreateUser", "2");
    assert_eq!(door.present(&users, Product::Ram), "400 IncompleteSignature");
    let keys = ask("2016-01-20", "ListKeys", "3");
    assert_eq!(door.present(&keys, Product::Kms), "ok");
}
