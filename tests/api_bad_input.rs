//! What no client should send: each has its published refusal, and costs the daemon nothing.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use sealdisk::catalog::sqlite::SqliteCatalog;
use sealdisk::catalog::{Catalog, KeyRecord, KeyVersionRecord, Operation, Page};
use sealdisk::limits;
use serde_json::Value;
use support::api::{KMS, call, call_signed};
use support::daemon::Daemon;
use support::signer::AccessKey;

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

/// Sends bytes as they are; status and code of the answer. A server that refuses early may close
/// before it has read all.
fn raw(socket: &Path, head: &str, body: &[u8]) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let len = body.len();
    let head = format!("{head}Host: test\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).map_or(0, |word| word.parse().unwrap());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let told: Value = serde_json::from_str(body).unwrap_or_default();
    (status, told["Code"].as_str().unwrap_or_default().to_owned())
}

fn form(socket: &Path, body: &[u8]) -> (u16, String) {
    raw(socket, &format!("POST / HTTP/1.1\r\n{FORM}"), body)
}

fn refusal(socket: &Path, action: &str, parameters: &[(&str, &str)]) -> (u16, String) {
    let (status, told) = call(socket, KMS, action, parameters);
    (status, told["Code"].as_str().unwrap_or("none").to_owned())
}

/// Most memory the process ever had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn start() -> (tempfile::TempDir, Daemon) {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["--nbd-tcp", "off", "--http", "127.0.0.1:0"];
    let daemon = Daemon::start_with(&dir.path().join("data"), &arguments);
    (dir, daemon)
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn requests_that_cannot_be_read_are_refused() {
    let (_dir, daemon) = start();
    let socket = &daemon.api_socket();
    let fixed = b"Action=ListKeys&Version=2016-01-20&";
    let with = |rest: &[u8]| form(socket, &[fixed, rest].concat());
    let unreadable = is(400, "ParseRequestParameterException");
    for bad in
        [&b"KeyId=%"[..], b"KeyId=%4", b"KeyId=%zz", b"KeyId=%ff%fe", b"KeyId=\xff", b"%c3=1"]
    {
        assert_eq!(with(bad), unreadable, "{bad:?}");
    }
    let many: String = (0..=limits::API_PARAMETERS_MAX).map(|n| format!("p{n}=1&")).collect();
    assert_eq!(with(many.as_bytes()), unreadable);
    for twice in ["KeyId=1&KeyId=2", "Version=2016-01-20", "Action=ListKeys"] {
        assert_eq!(with(twice.as_bytes()), is(400, "InvalidParameter"), "{twice}");
    }
    assert_eq!(with(b"Format=YAML"), is(400, "InvalidParameter"));
    assert_eq!(raw(socket, "POST / HTTP/1.1\r\n", b"{}"), unreadable);
    let large = vec![b'x'; limits::API_BODY_BYTES_MAX + 1];
    assert_eq!(form(socket, &large), is(413, "RequestEntityTooLarge"));
    let (status, _) = raw(socket, &format!("GET /?{} HTTP/1.1\r\n", "x".repeat(70_000)), b"");
    assert!([414, 431].contains(&status), "{status}");
    let (status, _) = raw(socket, &format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(70)), b"");
    assert_eq!(status, 431);
    assert_eq!(raw(socket, "PUT / HTTP/1.1\r\n", b""), is(403, "UnsupportedHTTPMethod"));
    assert_eq!(raw(socket, "GET /other HTTP/1.1\r\n", b""), is(404, "InvalidAction.NotFound"));
}

#[test]
fn what_does_not_exist_is_not_found() {
    let (_dir, daemon) = start();
    let socket = &daemon.api_socket();
    let ask = |text: &str| form(socket, text.as_bytes());
    assert_eq!(ask("Action=Dance&Version=2016-01-20"), is(404, "InvalidAction.NotFound"));
    assert_eq!(ask("Action=listkeys&Version=2016-01-20"), is(404, "InvalidAction.NotFound"));
    // An action of another product is none of this one.
    assert_eq!(ask("Action=ListKeys&Version=2014-05-26"), is(404, "InvalidAction.NotFound"));
    assert_eq!(ask("Action=ListKeys&Version=1999-01-01"), is(400, "InvalidVersion"));
    assert_eq!(ask("Action=ListKeys"), is(400, "MissingParameter"));
    assert_eq!(ask("Version=2016-01-20"), is(400, "MissingParameter"));
    assert_eq!(ask(""), is(400, "MissingParameter"));
}

#[test]
fn values_that_cannot_be_are_refused_by_name() {
    let (_dir, daemon) = start();
    let socket = &daemon.api_socket();
    let (_, made) = call(socket, KMS, "CreateKey", &[]);
    let key = made["KeyMetadata"]["KeyId"].as_str().unwrap();
    let invalid = is(400, "InvalidParameter");
    let seal = |name: &str, value: &str| {
        let mut parameters = vec![("KeyId", key), ("Plaintext", "aGVsbG8=")];
        parameters.retain(|(known, _)| *known != name);
        parameters.push((name, value));
        refusal(socket, "Encrypt", &parameters)
    };
    let long = "A".repeat(9000);
    for bad in ["no base64!", "aGVsbG8", "aGVsbG8=\n", "aGVs=bG8=", "====", &long] {
        assert_eq!(seal("Plaintext", bad), invalid, "{bad}");
    }
    let deep = ["{\"a\":".repeat(5000), "[".repeat(5000), "{\"a\":[".repeat(3000)];
    let huge = format!("{{\"a\":\"{}\"}}", "x".repeat(9000));
    let shallow = ["{", "[]", "1", "null", "{\"a\":1}", "{\"a\":{}}", "{\"a\":\"1\"}x"];
    let twice = "{\"a\":\"1\",\"a\":\"2\"}";
    for bad in deep.iter().map(String::as_str).chain(shallow).chain([huge.as_str(), twice]) {
        let shown: String = bad.chars().take(20).collect();
        assert_eq!(seal("EncryptionContext", bad), invalid, "{shown}");
    }
    for bad in ["[[[[", "{}", "[{\"TagKey\":1}]", "[1]"] {
        let tagged = refusal(socket, "TagResource", &[("KeyId", key), ("Tags", bad)]);
        assert_eq!(tagged, invalid, "{bad}");
    }
    for bad in ["101", "0", "-1", "99999999999999999999", "ten", "1e2", "0x10"] {
        assert_eq!(refusal(socket, "ListKeys", &[("PageSize", bad)]), invalid, "{bad}");
    }
    for bad in ["0", "-1", "99999999999999999999"] {
        assert_eq!(refusal(socket, "ListKeys", &[("PageNumber", bad)]), invalid, "{bad}");
    }
    // A page far past the end is an empty one.
    let (status, told) = call(socket, KMS, "ListKeys", &[("PageNumber", "2147483648")]);
    assert_eq!((status, told["Keys"]["Key"].as_array().map(Vec::len)), (200, Some(0)), "{told}");
    for odd in ["\0", "../../etc", "alias/\u{202e}", "key\r\nX: y", "' OR 1=1 --"] {
        let (status, code) = refusal(socket, "DescribeKey", &[("KeyId", odd)]);
        assert!(status == 404 || status == 400, "{odd:?}: {status} {code}");
    }
}

#[test]
fn strangers_are_refused_before_anything_is_looked_at() {
    let (_dir, daemon) = start();
    let text = std::fs::read_to_string(daemon.data_dir().join("access-key.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    let text = |name: &str| file[name].as_str().unwrap().to_owned();
    let key = AccessKey { id: text("AccessKeyId"), secret: text("AccessKeySecret") };
    let forged = AccessKey { secret: "forged".into(), ..key.clone() };
    let nobody = AccessKey { id: "LTAI5tNobody".into(), ..key.clone() };
    let ask = |key: &AccessKey, action: &str, nonce: &str| {
        let (status, told) = call_signed(daemon.http(), key, (KMS, action), &[], nonce);
        (status, told["Code"].as_str().unwrap_or("none").to_owned())
    };
    assert_eq!(ask(&key, "ListKeys", "1"), is(200, "none"));
    assert_eq!(ask(&key, "ListKeys", "1"), is(400, "SignatureNonceUsed"));
    assert_eq!(ask(&key, "Dance", "2"), is(404, "InvalidAction.NotFound"));
    // Neither learns which actions there are.
    assert_eq!(ask(&forged, "Dance", "3"), is(400, "SignatureDoesNotMatch"));
    assert_eq!(ask(&nobody, "Dance", "4"), is(404, "InvalidAccessKeyId.NotFound"));
    let mut stream = std::net::TcpStream::connect(daemon.http()).unwrap();
    let request = "GET /?Action=ListKeys&Version=2016-01-20 HTTP/1.1\r\nHost: t\r\n\
                   Connection: close\r\n\r\n";
    let (status, body) = support::api::exchange(&mut stream, request);
    assert!(status == 400 && body.contains("IncompleteSignature"), "{body}");
}

#[test]
fn memory_stays_what_it_is_under_bad_input() {
    let (_dir, daemon) = start();
    let socket = &daemon.api_socket();
    let large = vec![b'x'; limits::API_BODY_BYTES_MAX];
    let deep = format!("Action=Encrypt&Version={KMS}&EncryptionContext={}", "[".repeat(500_000));
    let round = || {
        for _ in 0..10 {
            form(socket, &large);
            form(socket, deep.as_bytes());
            raw(socket, &format!("GET /?{} HTTP/1.1\r\n", "x".repeat(60_000)), b"");
        }
    };
    round();
    let before = peak_kib(daemon.pid());
    for _ in 0..10 {
        round();
    }
    let grown = peak_kib(daemon.pid()) - before;
    assert!(grown < 16 << 10, "{grown} KiB more after 300 bad requests");
}

/// Adds copies of the only key, as the catalog has it, until there are `count`.
fn add_keys(data_dir: &Path, count: u32) {
    let catalog = SqliteCatalog::open(&data_dir.join("catalog.db")).unwrap();
    let key = catalog.keys(Page { offset: 0, limit: 1 }).unwrap().items.remove(0);
    let version = catalog.key_version(&key.primary_version).unwrap().unwrap();
    let copy = |number: u32| {
        let key_id = format!("{number:08x}-0000-4000-8000-000000000000");
        let version_id = format!("{number:08x}-1111-4000-8000-000000000000");
        let version = KeyVersionRecord {
            key_id: key_id.clone(),
            version_id: version_id.clone(),
            ..version.clone()
        };
        Operation::InsertKey(
            KeyRecord { key_id, primary_version: version_id, ..key.clone() },
            version,
        )
    };
    let operations: Vec<Operation> = (1..count).map(copy).collect();
    catalog.apply(&operations, &mut || Ok(())).unwrap();
}

#[test]
fn ten_thousand_keys_are_listed_by_pages() {
    const KEYS: u32 = 10_000;
    let (_dir, daemon) = start();
    call(&daemon.api_socket(), KMS, "CreateKey", &[]);
    let data_dir = daemon.data_dir().to_owned();
    daemon.stop();
    add_keys(&data_dir, KEYS);
    let daemon = Daemon::start(&data_dir);
    let socket = &daemon.api_socket();
    call(socket, KMS, "ListKeys", &[("PageSize", "100")]);
    let before = peak_kib(daemon.pid());
    let mut seen = HashSet::new();
    for page in 1..=KEYS / 100 {
        let page = page.to_string();
        let (_, told) =
            call(socket, KMS, "ListKeys", &[("PageNumber", &page), ("PageSize", "100")]);
        assert_eq!(told["TotalCount"], KEYS);
        let keys = told["Keys"]["Key"].as_array().unwrap();
        seen.extend(keys.iter().map(|key| key["KeyId"].as_str().unwrap().to_owned()));
    }
    assert_eq!(seen.len(), KEYS as usize);
    let grown = peak_kib(daemon.pid()) - before;
    assert!(grown < 32 << 10, "{grown} KiB more to list them");
    // One more is over the quota.
    assert_eq!(refusal(socket, "CreateKey", &[]), is(400, "Rejected.LimitExceeded"));
}

#[test]
fn an_xml_answer_is_well_formed_whatever_it_holds() {
    let (dir, daemon) = start();
    let socket = &daemon.api_socket();
    let odd = "<a href=\"x\">&amp;\u{1}\u{7f}]]>";
    let (_, made) = call(socket, KMS, "CreateKey", &[("Description", odd)]);
    let key = made["KeyMetadata"]["KeyId"].as_str().unwrap();
    let ask = |action: &str, key: &str| {
        let text = format!("Action={action}&Version={KMS}&Format=XML&KeyId={key}");
        let head = format!("POST / HTTP/1.1\r\n{FORM}Host: t\r\nConnection: close\r\n");
        let request = format!("{head}Content-Length: {}\r\n\r\n{text}", text.len());
        let mut stream = UnixStream::connect(socket).unwrap();
        support::api::exchange(&mut stream, &request)
    };
    for (action, key, root, status) in [
        ("DescribeKey", key, "DescribeKeyResponse", 200),
        ("GenerateDataKey", key, "GenerateDataKeyResponse", 200),
        ("ListKeys", key, "ListKeysResponse", 200),
        ("DescribeKey", "nowhere", "Error", 404),
    ] {
        let (answered, body) = ask(action, key);
        assert_eq!(answered, status, "{body}");
        let file = dir.path().join("answer.xml");
        std::fs::write(&file, &body).unwrap();
        // Python's parser is not ours.
        let script = "import sys, xml.etree.ElementTree as x\n\
                      e = x.parse(sys.argv[1]).getroot()\n\
                      print(e.tag, len(e.find('RequestId').text))";
        let output = Command::new("python3").args(["-c", script]).arg(&file).output().unwrap();
        let said = support::tools::text_of("python3", &output);
        assert_eq!(said.trim(), format!("{root} 36"), "{body}");
    }
}
