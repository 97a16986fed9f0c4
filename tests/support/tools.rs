//! Programs of others: the judges.

use std::process::{Command, Output};
use std::time::Duration;

/// Whether `program` can be run. Where tools are required (`SEALDISK_REQUIRE_TOOLS=1`, as in
/// `tools/test`), a missing one fails the test instead of skipping it.
pub fn have(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .env("PATH", path())
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        assert!(!are_required(), "{program} is required here and not installed");
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

/// Whether a missing tool is a failure, as in `tools/test`.
pub fn are_required() -> bool {
    std::env::var("SEALDISK_REQUIRE_TOOLS").is_ok_and(|value| value == "1")
}

/// `PATH` with the administrators' directories, which ordinary users may lack.
pub fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// A command that finds administrators' programs too.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", path());
    command
}

/// Waits for another process to come that far; fails after 40 seconds.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..8000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("in vain: waiting until {what}");
}

/// Runs `program` and shows everything if it fails.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = command(program).args(arguments).output().expect("the program starts");
    text_of(&format!("{program} {}", arguments.join(" ")), &output)
}

/// The standard output of a success; panics with all output otherwise.
pub fn text_of(what: &str, output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{what}: {}\n{stdout}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}
