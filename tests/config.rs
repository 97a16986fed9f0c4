//! The configuration file: what the shipped one means, and how each mistake is refused.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

use std::path::Path;
use std::time::Duration;

use sealdisk::config::{
    Config, ConfigError, Https, LogFormat, LogLevel, PassphraseFrom, RootKey, load, parse,
};
use sealdisk::units::ByteCount;

const SHIPPED: &str = include_str!("../config/sealdisk.yaml");

fn read(text: &str) -> Result<Config, ConfigError> {
    parse(Path::new("sealdisk.yaml"), text)
}

fn refusal(text: &str) -> String {
    read(text).expect_err("this configuration is wrong").to_string()
}

#[test]
fn the_shipped_file_says_the_defaults() {
    assert_eq!(read(SHIPPED).unwrap(), Config::default());
    assert_eq!(read("").unwrap(), Config::default());
    assert_eq!(read("# nothing\n").unwrap(), Config::default());
}

/// The options there are, asked of the parser itself: it lists them when it refuses one.
fn options_of(section: &str) -> Vec<String> {
    let text = match section {
        "" => "no_such_option: 1\n".to_owned(),
        section => format!("{section}:\n  no_such_option: 1\n"),
    };
    let refused = refusal(&text);
    refused.split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect()
}

#[test]
fn the_shipped_file_documents_every_option_with_default_and_danger() {
    let mut options = 0;
    for section in options_of("") {
        let inner = match section.as_str() {
            "root_key" | "kms" | "nbd" | "api" | "limits" | "log" => options_of(&section),
            _ => vec![],
        };
        let body = SHIPPED.split(&format!("\n{section}:")).nth(1).unwrap_or_else(|| {
            panic!("{section} is not in the shipped file");
        });
        if inner.is_empty() {
            assert_documented(SHIPPED, &format!("{section}:"));
            options += 1;
        }
        for option in inner {
            assert_documented(body, &format!("  {option}:"));
            options += 1;
        }
    }
    assert_eq!(options, 25);
}

fn assert_documented(text: &str, start: &str) {
    let lines: Vec<&str> = text.lines().collect();
    let at = lines
        .iter()
        .position(|line| line.starts_with(start))
        .unwrap_or_else(|| panic!("`{start}` is not in the shipped file"));
    let comment: Vec<&str> = lines[..at]
        .iter()
        .rev()
        .map(|line| line.trim())
        .take_while(|l| l.starts_with('#'))
        .collect();
    for word in ["# Default: ", "# Danger: "] {
        assert!(comment.iter().any(|line| line.starts_with(word)), "`{start}` lacks `{word}`");
    }
}

#[test]
fn what_is_written_is_meant() {
    let config = read(
        "data_dir: /srv/disks\n\
         account_id: 1234567890123456\n\
         root_key: {provider: file, path: /srv/root.key, create: true}\n\
         nbd:\n  unix: off\n  tcp: '[::1]:10809'\n  max_connections: 7\n  handshake_timeout: 2m\n\
         api:\n  unix: /srv/api.sock\n  http: off\n  requests_per_second: 5\n\
         \x20 https: {address: '0.0.0.0:443', certificate: /srv/c.pem, key: /srv/k.pem}\n\
         limits: {request_buffers: 1GiB, low_space: 10%}\n\
         log: {format: json, level: warn}\n",
    )
    .unwrap();
    assert_eq!(config.account_id, "1234567890123456");
    assert_eq!(config.root_key, RootKey::File { path: "/srv/root.key".into(), may_create: true });
    assert_eq!((config.nbd.unix, config.nbd.max_connections), (None, 7));
    assert_eq!(config.nbd.tcp, Some("[::1]:10809".parse().unwrap()));
    assert_eq!(config.nbd.handshake_timeout, Duration::from_secs(120));
    assert_eq!((config.api.http, config.api.requests_per_second), (None, 5));
    let https = Https {
        address: "0.0.0.0:443".parse().unwrap(),
        certificate: "/srv/c.pem".into(),
        key: "/srv/k.pem".into(),
    };
    assert_eq!(config.api.https, Some(https));
    assert_eq!(config.limits.request_buffers, ByteCount::new(1 << 30));
    assert_eq!(config.limits.low_space_percent, 10);
    assert_eq!(read("limits: {low_space: off}").unwrap().limits.low_space_percent, 0);
    assert_eq!((config.log.format, config.log.level), (LogFormat::Json, LogLevel::Warn));
}

#[test]
fn a_root_key_comes_from_where_it_is_said_to() {
    let root_key = |text: &str| read(&format!("root_key: {{{text}}}\n")).unwrap().root_key;
    let passphrase = |from| RootKey::Passphrase { from };
    let file = PassphraseFrom::File("/run/phrase".into());
    assert_eq!(root_key("provider: passphrase"), passphrase(PassphraseFrom::Prompt));
    assert_eq!(root_key("provider: passphrase, passphrase_file: /run/phrase"), passphrase(file));
    assert_eq!(
        root_key("provider: passphrase, credential: phrase"),
        passphrase(PassphraseFrom::Credential("phrase".into()))
    );
    assert_eq!(
        root_key("provider: passphrase, credential: phrase, passphrase_file: prompt"),
        passphrase(PassphraseFrom::Prompt)
    );
    let credential = |name: &str| RootKey::Credential { name: name.into() };
    assert_eq!(root_key("provider: credential"), credential("sealdisk-root-key"));
    assert_eq!(root_key("provider: credential, credential: k.1"), credential("k.1"));
    let moving = read(
        "root_key:\n  provider: credential\n\
         \x20 previous:\n    provider: file\n    path: /a/root.key\n",
    )
    .unwrap();
    assert_eq!(moving.root_key, credential("sealdisk-root-key"));
    let before = RootKey::File { path: "/a/root.key".into(), may_create: false };
    assert_eq!(moving.previous_root_key, Some(before));
    for (text, expected) in [
        ("credential: ../key", "is no credential; allowed: letters"),
        ("credential: .key", "is no credential"),
        ("passphrase_file: phrase", "is no absolute path"),
        ("previous: {path: /a}", "missing field `provider`"),
        ("previous: {provider: file, create: true}", "unknown option `create`"),
    ] {
        let refused = refusal(&format!("root_key: {{{text}}}\n"));
        assert!(refused.contains(expected), "{refused}");
    }
}

#[test]
fn a_remote_kms_is_where_it_is_said_to_be() {
    let remote = |text: &str| read(&format!("kms:\n  remote: {{{text}}}\n"));
    let found = remote("endpoint: 'https://kms.example.com:8643', access_key_file: /k.json");
    let found = found.unwrap().remote_kms.unwrap();
    assert_eq!(found.endpoint.to_string(), "https://kms.example.com:8643");
    assert_eq!((found.ca_file, found.default_key), (None, None));
    assert_eq!(found.timeout, Duration::from_secs(10));
    let found = remote(
        "endpoint: 'https://h', access_key_file: /k, ca_file: /ca, default_key: alias/d, \
         timeout: 2s",
    );
    let found = found.unwrap().remote_kms.unwrap();
    assert_eq!(found.default_key.as_deref(), Some("alias/d"));
    assert_eq!(found.timeout, Duration::from_secs(2));
    for (text, expected) in [
        ("endpoint: 'https://h'", "missing field `access_key_file`"),
        ("endpoint: 'http://10.0.0.1', access_key_file: /k", "would send data keys in clear"),
        ("endpoint: kms, access_key_file: /k", "`kms` is no endpoint; allowed: https://HOST"),
        ("endpoint: 'https://h', access_key_file: k", "is no absolute path"),
        ("endpoint: 'https://h', access_key_file: /k, timeout: 1h", "is out of range"),
    ] {
        let refused = remote(text).unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
}

#[test]
fn an_unknown_option_is_refused_with_its_line_and_the_allowed_ones() {
    assert_eq!(
        refusal("data_dir: /a\nnbd:\n  unix: off\n  max_conections: 4\n"),
        "sealdisk.yaml:4:3: nbd: unknown option `max_conections`, allowed: `unix`, `tcp`, \
         `max_connections`, `handshake_timeout`"
    );
}

#[test]
fn each_wrong_value_is_refused_with_its_line_and_what_is_allowed() {
    let cases = [
        ("data_dir: here\n", "1:11: data_dir: `here` is no absolute path"),
        ("\naccount_id: 12\n", "2:13: account_id: `12` is no account id; allowed: 16 digits"),
        ("region: CN\n", "1:9: region: `CN` is no region; allowed: 2 to 32"),
        (
            "root_key:\n  provider: tpm\n",
            "2:13: root_key.provider: `tpm` is not known; allowed: file, passphrase, credential",
        ),
        ("root_key:\n  create: yes\n", "2:11: root_key.create: invalid type: string \"yes\""),
        ("nbd:\n  tcp: localhost\n", "2:8: nbd.tcp: `localhost` is no address; allowed: IP:PORT"),
        ("nbd:\n  max_connections: 0\n", "2:20: nbd.max_connections: `0` is out of range"),
        ("nbd:\n  handshake_timeout: 10\n", "2:22: nbd.handshake_timeout: `10` has no known unit"),
        ("nbd:\n  handshake_timeout: 1h\n", "2:22: nbd.handshake_timeout: `1h` is out of range"),
        ("api:\n  http: [8600]\n", "2:9: api.http: invalid type: sequence"),
        ("api:\n  https: on\n", "2:10: api.https: `on` is not known; allowed: off, or a section"),
        (
            "api:\n  https: {address: '0.0.0.0:1', key: /k}\n",
            "api.https: missing field `certificate`",
        ),
        ("api:\n  requests_per_second: 0\n", "2:24: api.requests_per_second: `0` is out of range"),
        ("limits:\n  request_buffers: 1GB\n", "2:20: limits.request_buffers: `1GB` has an unknown"),
        ("limits:\n  low_space: 100%\n", "2:14: limits.low_space: `100%` is no share"),
        ("limits:\n  request_buffers: 1M\n", "2:20: limits.request_buffers: `1M` is out of range"),
        ("log:\n  format: xml\n", "2:11: log.format: `xml` is not known; allowed: text, json"),
        ("log:\n  level: loud\n", "allowed: error, warn, info, debug, trace"),
    ];
    for (text, expected) in cases {
        let refused = refusal(text);
        assert!(refused.contains(expected), "{refused}\n  should contain {expected}");
    }
}

#[test]
fn plain_http_is_for_the_local_host_unless_it_is_allowed() {
    for local in ["127.0.0.1:1", "127.8.8.8:1", "'[::1]:1'"] {
        assert!(read(&format!("api:\n  http: {local}\n")).is_ok(), "{local}");
    }
    for remote in ["0.0.0.0:1", "192.0.2.1:1", "'[::]:1'"] {
        let text = format!("api:\n  http: {remote}\n");
        let refused = refusal(&text);
        assert!(refused.contains("use api.https, or say api.allow_remote_http: true"), "{refused}");
        assert!(read(&format!("{text}  allow_remote_http: true\n")).is_ok(), "{remote}");
    }
}

#[test]
fn a_socket_path_longer_than_the_kernel_takes_is_refused() {
    let refused = refusal(&format!("api:\n  unix: /{}\n", "x".repeat(120)));
    assert!(refused.contains(":2:9:") && refused.contains("allowed: 107 bytes"), "{refused}");
}

#[test]
fn broken_yaml_and_repeated_options_are_refused_with_a_line() {
    for text in
        ["nbd: {unix: off\n", "nbd:\n\tunix: off\n", "region: a1\nregion: b2\n", "- a\n", "7\n"]
    {
        let refused = refusal(text);
        assert!(refused.starts_with("sealdisk.yaml:"), "{refused}");
    }
}

#[test]
fn a_missing_or_huge_file_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.yaml");
    assert!(load(&missing).unwrap_err().to_string().contains("none.yaml: No such file"));
    let huge = dir.path().join("huge.yaml");
    std::fs::write(&huge, vec![b'#'; 2 << 20]).unwrap();
    assert!(load(&huge).unwrap_err().to_string().contains("larger than 1 MiB"));
}

const TOKEN: &str = "pkcs11:token=disks?module-path=/usr/lib/softhsm/libsofthsm2.so";

#[test]
fn tokens_are_told_apart_by_name() {
    let config = read(&format!(
        "hsm:\n  - uri: {TOKEN}\n  - name: spare\n    uri: {TOKEN}&pin-source=env:PIN\n    \
         workers: 8\n    timeout: 2s\n"
    ));
    let hsm = config.unwrap().hsm;
    assert_eq!((hsm[0].name.as_str(), hsm[0].workers), ("hsm", 4));
    assert_eq!((hsm[1].name.as_str(), hsm[1].workers), ("spare", 8));
    assert_eq!(hsm[1].timeout, Duration::from_secs(2));
    for (text, word) in [
        (format!("hsm:\n  - uri: {TOKEN}\n  - uri: {TOKEN}\n"), "two tokens have the name `hsm`"),
        (format!("hsm:\n  - name: 1000000000000001\n    uri: {TOKEN}\n"), "is no name"),
        (format!("hsm:\n  - uri: {TOKEN}\n    workers: 0\n"), "1 to 64"),
        ("hsm:\n  - uri: pkcs11:slot-id=1?module-path=/a\n".into(), "names a slot"),
        (format!("hsm:\n  - uri: {TOKEN}&pin-value=1234\n"), "holds the PIN itself"),
        ("root_key:\n  provider: pkcs11\n".into(), "needs uri"),
    ] {
        let said = refusal(&text);
        assert!(said.contains(word), "{said}");
        assert!(!said.contains("1234"), "a PIN is not repeated: {said}");
        assert!(!said.contains("=1234"), "{said}");
    }
}
