//! The official SDKs against the real daemon: a case per action and client, its happy path and its
//! published refusals. The cases are scripts in `tests/sdk/`; each prints what it checked.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::process::Command;

use support::clock::MovedClock;
use support::daemon::{Daemon, serve};
use support::tools;

/// The Python clients of the second and first generation, by way of signing.
const PYTHON: [&str; 4] = ["v2-acs3", "v2-acs4", "v2-rpc", "v1"];
/// Those that speak to every product: only the client of KMS knows ACS4.
const PYTHON_ALL: [&str; 3] = ["v2-acs3", "v2-rpc", "v1"];
/// The Node clients.
const NODE: [&str; 2] = ["kms-node", "pop-core"];

/// An interpreter that has the SDKs, as `tools/test` makes one.
fn python() -> Option<String> {
    let Ok(python) = std::env::var("SEALDISK_PYTHON") else {
        assert!(!tools::are_required(), "SEALDISK_PYTHON must name a Python with the SDKs");
        eprintln!("SKIPPED: SEALDISK_PYTHON is not set");
        return None;
    };
    Some(python)
}

fn run(script: &str, clients: &[&str]) {
    run_by(script, clients, None);
}

/// As [`run`]; daemon and clients go by `clock`.
fn run_by(script: &str, clients: &[&str], clock: Option<&MovedClock>) {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut command = serve(&data, &["--nbd-tcp", "off", "--http", "127.0.0.1:0"]);
    if let Some(clock) = clock {
        clock.drive(&mut command);
    }
    let daemon = Daemon::launch(command, &data);
    for client in clients {
        let mut command = scripted(&python, &daemon, script);
        command.arg(client);
        if let Some(clock) = clock {
            clock.drive(&mut command);
        }
        let output = command.output().expect("the script starts");
        print!("{}", tools::text_of(&format!("{script}.py {client}"), &output));
    }
}

/// A script that speaks to `daemon` with its owner's key.
fn scripted(python: &str, daemon: &Daemon, script: &str) -> Command {
    let mut command = Command::new(python);
    command
        .arg("-B")
        .arg(format!("{}/tests/sdk/{script}.py", env!("CARGO_MANIFEST_DIR")))
        .env("SEALDISK_ENDPOINT", daemon.http())
        .env("SEALDISK_ACCESS_KEY", daemon.data_dir().join("access-key.json"));
    command
}

/// Whether the Node clients are here.
fn have_node() -> bool {
    if python().is_none() || !tools::have("node") {
        return false;
    }
    let is_there = std::env::var_os("SEALDISK_NODE_MODULES").is_some();
    if !is_there {
        assert!(!tools::are_required(), "SEALDISK_NODE_MODULES must name the Node packages");
        eprintln!("SKIPPED: SEALDISK_NODE_MODULES is not set");
    }
    is_there
}

#[test]
fn kms_through_the_python_clients() {
    run("kms", &PYTHON);
}

#[test]
fn kms_through_the_node_clients() {
    if have_node() {
        run("kms", &NODE);
    }
}

#[test]
fn refusals_of_the_kms_through_the_python_clients() {
    run("refusals", &PYTHON);
}

#[test]
fn refusals_of_the_kms_through_the_node_clients() {
    if have_node() {
        run("refusals", &NODE);
    }
}

#[test]
fn what_needs_another_day_through_every_client() {
    let folder = tempfile::tempdir().unwrap();
    let Some(clock) = MovedClock::new(folder.path()) else { return };
    run_by("dates", &PYTHON, Some(&clock));
    if have_node() {
        run_by("dates", &NODE, Some(&clock));
    }
}

#[test]
fn how_the_account_stands_through_every_client() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let daemon =
        Daemon::launch(serve(&data, &["--nbd-tcp", "off", "--http", "127.0.0.1:0"]), &data);
    let node = if have_node() { &NODE[..] } else { &[] };
    for standing in ["not-enabled", "in-debt", "suspended", "enabled"] {
        daemon.ok(&["account", "set", "--kms", standing]);
        for client in PYTHON.iter().chain(node) {
            let mut command = scripted(&python, &daemon, "standing");
            let output = command.args([client, standing]).output().expect("the script starts");
            print!("{}", tools::text_of(&format!("standing.py {client} {standing}"), &output));
        }
    }
}

#[test]
fn ram_through_the_python_clients() {
    run("ram", &PYTHON_ALL);
}

#[test]
fn actiontrail_through_the_python_clients() {
    run("actiontrail", &PYTHON_ALL);
}

#[test]
fn disks_through_the_python_clients() {
    run("ecs", &PYTHON_ALL);
}

#[test]
fn snapshots_and_images_through_the_python_clients() {
    run("ecs_layers", &PYTHON_ALL);
}

#[test]
fn signatures_through_the_python_clients() {
    run("signing", &PYTHON);
}
