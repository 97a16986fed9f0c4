//! A daemon whose keys are in a token that goes away, changes, or hangs, and comes back.
//!
//! What holds in all of it: an attached disk serves on without one error, what needs the token
//! fails at once and says why, `/health` and the metrics tell, nothing that is recorded of a key is
//! lost, and all is well again by itself.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::daemon::{Daemon, serve};
use support::softhsm::{self, SoftHsm};
use support::tokens::{self, Proxy};
use support::{api, tools};

const LABEL: &str = "live";

/// A token, perhaps behind a proxy, and a daemon that uses it.
struct Place {
    scratch: tempfile::TempDir,
    hsm: SoftHsm,
    proxy: Option<Proxy>,
    daemon: Daemon,
    /// A key in the token.
    key: String,
}

impl Place {
    /// `None` where a program is missing.
    fn new() -> Option<Self> {
        Self::with(|hsm| Some((hsm, None)))
    }

    /// With a proxy before the token.
    fn proxied() -> Option<Self> {
        Self::with(|hsm| {
            let proxy = Proxy::new(hsm.tokens.parent().unwrap(), softhsm::library()?)?;
            Some((hsm, Some(proxy)))
        })
    }

    fn with(arrange: impl FnOnce(SoftHsm) -> Option<(SoftHsm, Option<Proxy>)>) -> Option<Self> {
        if !tools::have("softhsm2-util") {
            return None;
        }
        let scratch = tempfile::tempdir().unwrap();
        let (hsm, proxy) = arrange(SoftHsm::new(scratch.path())?)?;
        hsm.init(LABEL);
        let daemon = start(scratch.path(), &hsm, proxy.as_ref());
        let made = daemon.json(&["key", "create", "--protection-level", "HSM"]);
        let key = made["KeyId"].as_str().unwrap().to_owned();
        Some(Self { scratch, hsm, proxy, daemon, key })
    }

    fn obey(&self, lines: &[&str]) {
        self.proxy.as_ref().expect("there is a proxy").obey(lines);
    }

    fn ask(&self, action: &str, parameters: &[(&str, &str)]) -> (u16, Value) {
        api::call(&self.daemon.api_socket(), api::KMS, action, parameters)
    }

    /// A data key under the key in the token.
    fn data_key(&self) -> (u16, Value) {
        self.ask("GenerateDataKey", &[("KeyId", &self.key)])
    }

    /// The token can be used.
    fn works(&self) -> bool {
        self.data_key().0 == 200
    }

    /// The answer of a use of the token that must fail, at once and with a cause.
    fn fails(&self) -> String {
        let (status, answer) = self.data_key();
        assert!(status >= 500, "{status} {answer}");
        answer["Message"].as_str().unwrap().to_owned()
    }

    fn encrypt(&self) -> String {
        let asked = [("KeyId", &self.key[..]), ("Plaintext", "aGVsbG8=")];
        let (status, answer) = self.ask("Encrypt", &asked);
        assert_eq!(status, 200, "{answer}");
        answer["CiphertextBlob"].as_str().unwrap().to_owned()
    }

    fn decrypts(&self, blob: &str) -> bool {
        let (status, answer) = self.ask("Decrypt", &[("CiphertextBlob", blob)]);
        status == 200 && answer["Plaintext"] == "aGVsbG8="
    }

    /// A disk under the key in the token.
    fn disk(&self, name: &str, is_attached: bool) -> String {
        let mut arguments = vec!["disk", "create", "--name", name, "--size", "16MiB"];
        arguments.extend(["--key-id", &self.key]);
        if is_attached {
            arguments.push("--attach");
        }
        self.daemon.json(&arguments)["DiskId"].as_str().unwrap().to_owned()
    }

    /// What `/health` says of the token.
    fn health(&self) -> Value {
        let (_, body) = api::get(self.daemon.http(), "/health");
        let health: Value = serde_json::from_str(&body).unwrap();
        health["hsm"][0].clone()
    }

    fn is_up(&self) -> f64 {
        self.daemon.metric("sealdisk_hsm_up{hsm=\"hsm\"}")
    }
}

fn start(scratch: &Path, hsm: &SoftHsm, proxy: Option<&Proxy>) -> Daemon {
    let library = proxy.map_or_else(|| softhsm::library().unwrap(), Proxy::library);
    let uri = tokens::uri(LABEL, library, &hsm.pin_file);
    let data = scratch.join("data");
    let mut command = serve(&data, &["--nbd-tcp", "off", "--http", "127.0.0.1:0", "--hsm", &uri]);
    command.env("SOFTHSM2_CONF", &hsm.conf);
    Daemon::launch(command, &data)
}

/// libnbd, writing blocks and reading them back until it is told to stop.
struct Load {
    client: Child,
    input: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
}

const LOAD: &str = "
import nbd, os, select, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
rounds = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    at = rounds * 7 % 4096 * 4096
    block = os.urandom(4096)
    h.pwrite(block, at)
    if rounds % 16 == 0:
        h.flush()
    if h.pread(4096, at) != block:
        sys.exit('other bytes came back')
    rounds += 1
    if rounds % 64 == 0:
        print(rounds, flush=True)
h.shutdown()
print('whole', rounds, flush=True)
";

impl Load {
    fn start(uri: &str) -> Self {
        let mut client = Command::new("/usr/bin/python3")
            .args(["-c", LOAD, uri])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = client.stdin.take();
        let output = BufReader::new(client.stdout.take().unwrap());
        Self { client, input, output }
    }

    /// Waits until it has done 640 rounds more.
    fn goes_on(&mut self) {
        for _ in 0..10 {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the load has ended");
        }
    }

    /// Ends it; every byte was as it was written.
    fn stop(mut self) {
        drop(self.input.take());
        let last = self.output.by_ref().lines().last().unwrap().unwrap();
        assert!(self.client.wait().unwrap().success() && last.starts_with("whole"), "{last}");
    }
}

#[test]
fn a_token_that_is_taken_out_and_put_back_under_load() {
    let Some(place) = Place::new() else { return };
    let (served, other) = (place.disk("served", true), place.disk("other", false));
    let blob = place.encrypt();
    let mut load = Load::start(&place.daemon.uri("served"));
    load.goes_on();

    for _ in 0..2 {
        place.hsm.take_out();
        let why = place.fails();
        assert!(why.contains("HSM cannot do this"), "{why}");
        load.goes_on();
        let refused = place.daemon.refused(&["disk", "attach", &other]);
        assert!(refused.contains("HSM cannot do this"), "{refused}");
        assert!(!place.decrypts(&blob));
        assert_eq!(place.is_up(), 0.0);
        let health = place.health();
        assert_eq!(health["state"], "unavailable", "{health}");
        // Of the keys nothing is lost, and software keys do not mind.
        let shown = place.daemon.json(&["key", "show", &place.key]);
        assert_eq!(shown["KeyState"], "Enabled", "{shown}");
        place.daemon.disk("beside", "1MiB");
        place.daemon.ok(&["disk", "detach", "beside"]);
        place.daemon.ok(&["disk", "delete", "beside", "--yes"]);
        load.goes_on();

        place.hsm.put_back();
        tools::wait_until("the token is in use again", || place.works());
        assert!(place.decrypts(&blob));
        assert_eq!(place.is_up(), 1.0);
        assert_eq!(place.health()["state"], "available");
        place.daemon.ok(&["disk", "attach", &other]);
        place.daemon.ok(&["disk", "detach", &other]);
    }
    load.goes_on();
    load.stop();
    place.daemon.ok(&["disk", "detach", &served]);
    place.daemon.ok(&["disk", "attach", &served]);
}

#[test]
fn what_others_do_to_the_library_is_not_noticed() {
    let Some(place) = Place::proxied() else { return };
    let disk = place.disk("served", true);
    let blob = place.encrypt();
    let mut load = Load::start(&place.daemon.uri("served"));
    for what in ["C_Finalize", "C_CloseAllSessions", "C_Logout"] {
        for function in ["C_EncryptInit", "C_Encrypt", "C_GenerateRandom"] {
            place.obey(&[&format!("{function} 1 first {what}")]);
            let (status, answer) = place.data_key();
            assert_eq!(status, 200, "{function} after {what}: {answer}");
        }
        place.obey(&[&format!("C_DecryptInit 1 first {what}")]);
        assert!(place.decrypts(&blob), "{what}");
        place.obey(&[&format!("C_DecryptInit 1 first {what}")]);
        place.daemon.ok(&["disk", "detach", &place.disk(what, true)]);
    }
    load.goes_on();
    load.stop();
    place.daemon.ok(&["disk", "detach", &disk]);
}

#[test]
fn a_changed_pin_is_tried_once_and_taken_when_it_is_given() {
    let Some(place) = Place::proxied() else { return };
    if !tools::have("pkcs11-tool") {
        return;
    }
    let pins = ["--pin", softhsm::PIN, "--new-pin", "87654321"];
    let mut change = tools::command("pkcs11-tool");
    change.arg("--module").arg(softhsm::library().unwrap());
    change.args(["--login", "--token-label", LABEL, "--change-pin"]).args(pins);
    change.env("SOFTHSM2_CONF", &place.hsm.conf);
    tools::text_of("pkcs11-tool", &change.output().unwrap());

    // SoftHSM remembers the old one until it is initialised anew.
    place.obey(&["C_GenerateRandom 1 first C_Finalize"]);
    let why = place.fails();
    assert!(why.contains("PIN"), "{why}");
    let proxy = place.proxy.as_ref().unwrap();
    let looked = || proxy.count("C_GetTokenInfo CKR_OK");
    let before = looked();
    tools::wait_until("it has looked for the token again", || looked() >= before + 3);
    assert!(place.fails().contains("PIN"));
    assert_eq!(proxy.count("C_Login CKR_PIN_INCORRECT"), 1, "never a second time");
    let health = place.health();
    assert!(health.to_string().contains("PIN"), "{health}");

    std::fs::write(&place.hsm.pin_file, "87654321").unwrap();
    tools::wait_until("the new PIN is taken", || place.works());
    assert_eq!(proxy.count("C_Login CKR_PIN_INCORRECT"), 1);
    assert_eq!(place.health()["state"], "available");
}

#[test]
fn an_erased_token_loses_no_record_and_is_good_again_when_restored() {
    let Some(place) = Place::new() else { return };
    let disk = place.disk("served", true);
    let other = place.disk("other", false);
    let blob = place.encrypt();
    let mut load = Load::start(&place.daemon.uri("served"));
    let copy = place.scratch.path().join("copy");
    tools::run("cp", &["-a", place.hsm.tokens.to_str().unwrap(), copy.to_str().unwrap()]);
    place.hsm.erase(LABEL);
    tools::wait_until("the key is missed", || place.fails().contains("is not in the token"));
    let refused = place.daemon.refused(&["disk", "attach", &other]);
    assert!(refused.contains("is not in the token"), "{refused}");
    let shown = place.daemon.json(&["key", "show", &place.key]);
    assert_eq!(shown["KeyState"], "Enabled", "{shown}");
    load.goes_on();

    std::fs::remove_dir_all(&place.hsm.tokens).unwrap();
    std::fs::rename(&copy, &place.hsm.tokens).unwrap();
    tools::wait_until("the key is there again", || place.works());
    assert!(place.decrypts(&blob));
    place.daemon.ok(&["disk", "attach", &other]);
    load.goes_on();
    load.stop();
    place.daemon.ok(&["disk", "detach", &disk]);
}

#[test]
fn with_fewer_sessions_than_it_wants_the_daemon_goes_on() {
    let Some(place) = Place::proxied() else { return };
    place.obey(&["sessions 2", "C_GenerateRandom 1 first C_Finalize"]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let (status, answer) = place.data_key();
                    assert_eq!(status, 200, "{answer}");
                }
            });
        }
    });
    // The login takes the only one.
    place.obey(&["sessions 1", "C_GenerateRandom 1 first C_Finalize"]);
    let why = place.fails();
    assert!(why.contains("CKR_SESSION_COUNT") || why.contains("more to do than it can"), "{why}");
    place.obey(&[]);
    tools::wait_until("there are sessions again", || place.works());
}

#[test]
fn calls_that_hang_hold_up_nothing_else() {
    let Some(place) = Place::proxied() else { return };
    place.disk("served", true);
    let other = place.disk("other", false);
    let mut load = Load::start(&place.daemon.uri("served"));
    load.goes_on();
    place.obey(&["C_Encrypt * hang 600s", "C_Decrypt * hang 600s"]);
    let attach = std::thread::scope(|scope| {
        // More than there are workers.
        let waiting: Vec<_> = (0..6).map(|_| scope.spawn(|| place.data_key().0)).collect();
        let attach = scope.spawn(|| place.daemon.refused(&["disk", "attach", &other]));
        load.goes_on();
        place.daemon.disk("beside", "1MiB");
        assert!(waiting.into_iter().all(|one| one.join().unwrap() >= 500));
        attach.join().unwrap()
    });
    assert!(attach.contains("does not answer") || attach.contains("more to do"), "{attach}");
    tools::wait_until("it is said that the token hangs", || {
        place.health()["state"] == "unavailable"
    });
    load.goes_on();

    place.obey(&[]);
    tools::wait_until("the token answers again", || place.works());
    place.daemon.ok(&["disk", "attach", &other]);
    load.goes_on();
    load.stop();
}

/// Five seconds, or as many as `SEALDISK_HSM_SECONDS` says.
#[test]
fn eight_at_a_time_wrap_and_unwrap_without_one_error() {
    let Some(place) = Place::new() else { return };
    let seconds = std::env::var("SEALDISK_HSM_SECONDS").ok();
    let span = Duration::from_secs(seconds.map_or(5, |text| text.parse().unwrap()));
    let begun = Instant::now();
    let rounds: usize = std::thread::scope(|scope| {
        let loops: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut rounds = 0;
                    while begun.elapsed() < span {
                        let (status, made) = place.data_key();
                        assert_eq!(status, 200, "{made}");
                        let blob = made["CiphertextBlob"].as_str().unwrap();
                        let (status, opened) = place.ask("Decrypt", &[("CiphertextBlob", blob)]);
                        assert_eq!(status, 200, "{opened}");
                        assert_eq!(opened["Plaintext"], made["Plaintext"]);
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        loops.into_iter().map(|one| one.join().unwrap()).sum()
    });
    eprintln!("{rounds} data keys made and opened in {} s", span.as_secs());
    assert!(rounds > 8 && place.health()["state"] == "available");
}
