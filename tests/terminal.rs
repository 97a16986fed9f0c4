//! What a human sees and types on a real terminal: the passphrase at a start, and questions.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::daemon::{Daemon, binary};
use support::tools;

const PASSPHRASE: &str = "correct horse battery staple";
const WRONG: &str = "correct horse battery stable";

/// What came of a command on a terminal.
struct Seen {
    status: i64,
    shown: String,
    told: Value,
}

/// Runs sealdisk on a terminal; waits for each text and types what belongs to it (none: end of
/// file; empty: nothing, but asks it to stop).
fn at_terminal(script: &[(&str, Option<&str>)], arguments: &[&str]) -> Seen {
    let driver = format!("{}/tests/terminal/session.py", env!("CARGO_MANIFEST_DIR"));
    let script: Vec<Value> = script.iter().map(|(text, typed)| json!([text, typed])).collect();
    let output = Command::new("python3")
        .args(["-B", &driver, &json!(script).to_string()])
        .arg(binary())
        .args(arguments)
        .env_remove("SEALDISK_LOG")
        .output()
        .unwrap();
    let text = tools::text_of(&format!("sealdisk {}", arguments.join(" ")), &output);
    let told: Value = serde_json::from_str(&text).unwrap();
    let shown = told["shown"].as_str().unwrap().to_owned();
    for secret in [PASSPHRASE, WRONG, "battery"] {
        assert!(!shown.contains(secret), "typed and shown: {shown}");
    }
    assert_ne!(told["echoes"], false, "the terminal is left silent: {told}");
    Seen { status: told["status"].as_i64().unwrap(), shown, told }
}

impl Seen {
    #[track_caller]
    fn refused(&self, why: &str) {
        assert_eq!(self.status, 1, "{}", self.shown);
        assert!(self.shown.contains(why), "{why}: {}", self.shown);
    }

    /// Every answer was typed while the terminal did not echo.
    #[track_caller]
    fn was_hidden(&self) {
        let hidden = self.told["hidden"].as_array().unwrap();
        assert!(!hidden.is_empty() && hidden.iter().all(|hidden| hidden == true), "{}", self.told);
    }
}

fn configuration(folder: &Path) -> String {
    let at = folder.join("data");
    let at = at.display();
    let text = format!(
        "data_dir: {at}\nroot_key:\n  provider: passphrase\n  passphrase_file: prompt\n\
         nbd:\n  unix: {at}/nbd.sock\n  tcp: off\napi:\n  unix: {at}/api.sock\n  http: off\n"
    );
    let file = folder.join("sealdisk.yaml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_passphrase_is_asked_for_on_the_terminal_and_not_shown() {
    if !tools::have("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = configuration(folder.path());
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let serve = ["serve", "--config", &file];
    let once = "Passphrase of the root key: ";
    let twice = |one, two| [(once, Some(one)), ("The same again, for it is new: ", Some(two))];

    at_terminal(&twice(PASSPHRASE, WRONG), &serve).refused("differ");
    at_terminal(&twice("short", "short"), &serve).refused("at least");
    for left in [None, Some("^C")] {
        at_terminal(&[(once, left)], &serve).refused("no passphrase was given");
    }
    let serving = ("HTTP", Some(""));
    let answers = [&twice(PASSPHRASE, PASSPHRASE)[..], &[serving]].concat();
    let started = at_terminal(&answers, &serve);
    assert_eq!(started.status, 0, "{}", started.shown);
    started.was_hidden();

    let wrong = at_terminal(&[(once, Some(WRONG))], &serve);
    wrong.refused("type its passphrase again");
    wrong.was_hidden();
    for left in [None, Some("^C")] {
        at_terminal(&[(once, left)], &serve).refused("no passphrase was given");
    }
    let again = at_terminal(&[(once, Some(PASSPHRASE)), serving], &serve);
    assert_eq!(again.status, 0, "{}", again.shown);
    again.was_hidden();

    // Commands without a daemon ask in the same way.
    let verify = ["trail", "verify", "--data-dir", data];
    at_terminal(&[(once, Some(WRONG))], &verify).refused("type its passphrase again");
    at_terminal(&[(once, Some("^C"))], &verify).refused("no passphrase was given");
    let verified = at_terminal(&[(once, Some(PASSPHRASE))], &verify);
    assert_eq!(verified.status, 0, "{}", verified.shown);
    verified.was_hidden();
}

#[test]
fn a_question_is_answered_by_yes_or_nothing_is_done() {
    if !tools::have("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&folder.path().join("data"));
    let endpoint = format!("unix:{}", daemon.api_socket().display());
    let rotate = ["--endpoint", &endpoint, "root", "rotate"];
    let id = || daemon.json(&["root", "show"])["RootKeyId"].clone();
    let before = id();
    let question = "Replace the root key? [y/N] ";
    for answer in [Some("n"), Some("no way"), None] {
        at_terminal(&[(question, answer)], &rotate).refused("nothing was done");
        assert_eq!(id(), before);
    }
    let done = at_terminal(&[(question, Some("y"))], &rotate);
    assert_eq!(done.status, 0, "{}", done.shown);
    assert_ne!(id(), before);
}
