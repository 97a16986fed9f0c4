//! `qemu-img` as a child process: what a file is, and its way to an export or back.
//!
//! Keys are never among its arguments: it sees an NBD export, decrypted by the daemon.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::client::{Client, Interrupts};
use super::failure::Failure;
use super::leased_disk::LeasedDisk;
use super::output::Output;
use super::progress::Progress;
use super::stack_arguments::FORMATS;
use crate::clock::{Clock, SystemClock};

const PROGRAM: &str = "qemu-img";

/// How `qemu-img check` ends.
const CHECK_SOUND: i32 = 0;
const CHECK_DAMAGED: i32 = 2;
/// Room in the file is lost, no data.
const CHECK_LEAKS: i32 = 3;
/// The format has nothing that could be checked.
const CHECK_UNKNOWN: i32 = 63;

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(200);

/// Longest text of its complaints that is kept, in bytes.
const COMPLAINT_BYTES_MAX: u64 = 64 << 10;

/// Longest progress report, in bytes; they have some 20.
const REPORT_BYTES_MAX: usize = 256;

/// An image file, looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Probed {
    /// Absolute, so that no part of it reads as the name of a protocol.
    pub(super) path: PathBuf,
    /// One of [`FORMATS`].
    pub(super) format: String,
    /// Bytes of the disk in it.
    pub(super) size: u64,
}

/// Looks at an image file. Without a format `qemu-img` finds it out.
///
/// # Errors
/// No `qemu-img`, no image; a format we do not import; a file that refers to other files, unless
/// it may: who made the file would choose which files of this machine end up in the image; a file
/// that is damaged or was cut off: its missing parts would be read as zeros.
pub(super) fn probe(file: &Path, format: Option<&str>, follow: bool) -> Result<Probed, Failure> {
    let named = |what: String| Failure::new(format!("{}: {what}", file.display()));
    let path = file.canonicalize().map_err(|error| named(error.to_string()))?;
    let kind = path.metadata().map_err(|error| named(error.to_string()))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(named("it is neither a file nor a block device".to_owned()));
    }
    let mut arguments = vec![OsString::from("info"), "--output=json".into()];
    if let Some(format) = format {
        arguments.extend(["-f".into(), format.into()]);
    }
    arguments.push(path.clone().into());
    let output = command(&arguments).stdin(Stdio::null()).output().map_err(not_started)?;
    if !output.status.success() {
        return Err(named(complaint(&output.stderr)));
    }
    let info: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| named(format!("what {PROGRAM} says of it cannot be read")))?;
    let format = info["format"].as_str().unwrap_or_default().to_owned();
    if !FORMATS.contains(&format.as_str()) {
        let known = FORMATS.join(", ");
        return Err(named(format!("a {format} file cannot be imported; {known} can")));
    }
    if !follow && let Some(other) = referred(&info, &path) {
        return Err(named(format!("it refers to another file: {other}"))
            .hint("if you trust it, say --follow; or make one file of it with qemu-img convert"));
    }
    let size = info["virtual-size"].as_u64().unwrap_or_default();
    if size == 0 {
        return Err(named("there is nothing in it".to_owned()));
    }
    let probed = Probed { path, format, size };
    check(&probed).map_err(|(what, hint)| Failure { hint, ..named(what) })?;
    Ok(probed)
}

/// Whether the inner tables of an image agree with it; what is wrong, and what to do.
fn check(image: &Probed) -> Result<(), (String, Option<String>)> {
    // A raw file has no tables.
    if image.format == "raw" {
        return Ok(());
    }
    let arguments: [OsString; 4] =
        ["check".into(), "-f".into(), image.format.clone().into(), image.path.clone().into()];
    let output = command(&arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| (not_started(error).message, None))?;
    match output.status.code() {
        Some(CHECK_SOUND | CHECK_LEAKS | CHECK_UNKNOWN) => Ok(()),
        Some(CHECK_DAMAGED) => Err((
            "it is damaged, or was cut off".to_owned(),
            Some(format!("{PROGRAM} check tells more; get a whole copy of it")),
        )),
        _ => Err((complaint(&output.stderr), None)),
    }
}

/// The first other file that an image's own data name.
fn referred(info: &Value, path: &Path) -> Option<String> {
    let details = &info["format-specific"]["data"];
    let extents = details["extents"].as_array().map_or(&[][..], Vec::as_slice);
    let extents = extents.iter().filter_map(|extent| extent["filename"].as_str());
    let others = [info["backing-filename"].as_str(), details["data-file"].as_str()];
    let is_other = |name: &&str| Path::new(name) != path;
    others.into_iter().flatten().chain(extents.filter(is_other)).next().map(str::to_owned)
}

/// Bytes of data, holes left out, in an image or export.
pub(super) fn data_bytes(place: &OsStr, format: &str) -> Result<u64, Failure> {
    let arguments =
        [OsStr::new("map"), "--output=json".as_ref(), "-f".as_ref(), format.as_ref(), place];
    let mut child = start(&arguments)?;
    let bytes = child.stdout.take().map_or(Ok(0), sum_of_data);
    let ended = child.wait_with_output().map_err(not_started)?;
    if !ended.status.success() {
        return Err(Failure::new(complaint(&ended.stderr)));
    }
    bytes
}

/// One extent a line, so that memory is bounded however many there are.
fn sum_of_data(map: impl Read) -> Result<u64, Failure> {
    let mut sum = 0_u64;
    let unreadable = || Failure::new(format!("the map of {PROGRAM} cannot be read"));
    for line in BufReader::new(map).lines() {
        let line = line.map_err(|_| unreadable())?;
        let extent = line.trim().trim_start_matches('[').trim_end_matches([',', ']']);
        if extent.is_empty() {
            continue;
        }
        let extent: Value = serde_json::from_str(extent).map_err(|_| unreadable())?;
        if extent["data"] == true && extent["zero"] != true {
            sum = sum.saturating_add(extent["length"].as_u64().unwrap_or_default());
        }
    }
    Ok(sum)
}

/// Arguments that bring a file into an export that holds nothing yet.
pub(super) fn import_arguments(from: &Probed, uri: &str) -> Vec<OsString> {
    let fixed = ["convert", "-p", "-W", "-m", "16", "-n", "--target-is-zero", "-f"];
    let mut arguments: Vec<OsString> = fixed.map(OsString::from).to_vec();
    arguments.extend([from.format.clone().into(), "-O".into(), "raw".into()]);
    arguments.extend([from.path.clone().into(), uri.into()]);
    arguments
}

/// Arguments that bring an export into a file.
pub(super) fn export_arguments(uri: &str, format: &str, to: &Path) -> Vec<OsString> {
    let fixed = ["convert", "-p", "-W", "-m", "16", "-f", "raw", "-O", format, uri];
    let mut arguments: Vec<OsString> = fixed.map(OsString::from).to_vec();
    arguments.push(to.into());
    arguments
}

/// A conversion under way.
pub(super) struct Conversion<'a> {
    /// What people see it called.
    pub(super) what: &'static str,
    /// Bytes it moves.
    pub(super) total: u64,
    pub(super) client: &'a Client,
    pub(super) output: &'a Output,
}

impl Conversion<'_> {
    /// Runs it to its end, and keeps the disk's lease meanwhile.
    ///
    /// # Errors
    /// What `qemu-img` says; the lease is lost; somebody interrupts. The child is gone then.
    pub(super) fn run(
        &self,
        arguments: &[OsString],
        disk: &mut LeasedDisk<'_>,
        interrupts: &mut Interrupts,
    ) -> Result<(), Failure> {
        let mut child = start(arguments)?;
        let outcome = self.watch(&mut child, interrupts, disk);
        if outcome.is_err() {
            let _ = child.kill();
        }
        let _ = self.output.end_progress();
        let ended = child.wait_with_output().map_err(not_started)?;
        outcome?;
        if ended.status.success() { Ok(()) } else { Err(Failure::new(complaint(&ended.stderr))) }
    }

    fn watch(
        &self,
        child: &mut Child,
        interrupts: &mut Interrupts,
        disk: &mut LeasedDisk<'_>,
    ) -> Result<(), Failure> {
        let clock = SystemClock::new();
        let begun = clock.monotonic();
        let reported = child.stdout.take().map(follow_reports).unwrap_or_default();
        loop {
            if interrupts.came_within(self.client, TICK) {
                return Err(Failure::new("interrupted"));
            }
            disk.renew_in_time()?;
            let parts = reported.load(Ordering::Relaxed);
            let done = (u128::from(self.total) * u128::from(parts) / 10_000) as u64;
            let elapsed = clock.monotonic().saturating_sub(begun);
            let progress = Progress { done, total: self.total, elapsed, begun_at: 0 };
            self.output.progress(&progress.line(self.what))?;
            if child.try_wait().map_err(not_started)?.is_some() {
                return Ok(());
            }
        }
    }
}

/// Reads progress reports as they come; the last one, in ten-thousandths.
fn follow_reports(mut stdout: ChildStdout) -> Arc<AtomicU64> {
    let last = Arc::new(AtomicU64::new(0));
    let reported = Arc::clone(&last);
    std::thread::spawn(move || {
        let (mut chunk, mut report) = ([0; 4096], Vec::new());
        while let Ok(len @ 1..) = stdout.read(&mut chunk) {
            for byte in &chunk[..len] {
                if !matches!(byte, b'\r' | b'\n') && report.len() < REPORT_BYTES_MAX {
                    report.push(*byte);
                    continue;
                }
                if let Some(parts) = parts_done(&report) {
                    reported.store(parts, Ordering::Relaxed);
                }
                report.clear();
            }
        }
    });
    last
}

/// `    (12.34/100%)` as ten-thousandths.
fn parts_done(report: &[u8]) -> Option<u64> {
    let report = std::str::from_utf8(report).ok()?.trim();
    let percent = report.strip_prefix('(')?.strip_suffix("/100%)")?;
    let (whole, hundredths) = percent.split_once('.')?;
    let (whole, hundredths): (u64, u64) = (whole.parse().ok()?, hundredths.parse().ok()?);
    Some(whole.checked_mul(100)?.checked_add(hundredths)?.min(10_000))
}

fn command(arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(PROGRAM);
    // Its messages are shown to people, its numbers are read by us.
    command.args(arguments).env("LC_ALL", "C");
    command
}

fn start(arguments: &[impl AsRef<OsStr>]) -> Result<Child, Failure> {
    command(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(not_started)
}

fn not_started(error: std::io::Error) -> Failure {
    let failure = Failure::new(format!("{PROGRAM}: {error}"));
    match error.kind() {
        std::io::ErrorKind::NotFound => failure.hint("install qemu-utils, or what brings qemu-img"),
        _ => failure,
    }
}

/// What the child said went wrong.
fn complaint(stderr: &[u8]) -> String {
    let kept = &stderr[..stderr.len().min(COMPLAINT_BYTES_MAX as usize)];
    let text = String::from_utf8_lossy(kept);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.last() {
        Some(last) => (*last).to_owned(),
        None => format!("{PROGRAM} failed and did not say why"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reports_are_read_and_nonsense_is_not() {
        assert_eq!(parts_done(b"    (0.00/100%)"), Some(0));
        assert_eq!(parts_done(b"    (12.34/100%)"), Some(1234));
        assert_eq!(parts_done(b"(100.00/100%)"), Some(10_000));
        for nonsense in [&b""[..], b"(1/100%)", b"(x.y/100%)", b"\xff", b"(9999999999999999999.0/"]
        {
            assert_eq!(parts_done(nonsense), None);
        }
    }

    #[test]
    fn a_map_is_summed_up_line_by_line() {
        let map = "[{ \"start\": 0, \"length\": 4096, \"zero\": false, \"data\": true},\n\
                   { \"start\": 4096, \"length\": 8192, \"zero\": true, \"data\": false},\n\
                   { \"start\": 12288, \"length\": 512, \"zero\": false, \"data\": true}]\n";
        assert_eq!(sum_of_data(map.as_bytes()), Ok(4608));
        assert_eq!(sum_of_data(&b"[]\n"[..]), Ok(0));
        assert!(sum_of_data(&b"{\n"[..]).is_err());
    }

    #[test]
    fn references_to_other_files_are_found() {
        let path = Path::new("/d/a.vmdk");
        let whole = json!({"format-specific": {"data": {"extents": [{"filename": "/d/a.vmdk"}]}}});
        assert_eq!(referred(&whole, path), None);
        assert_eq!(referred(&json!({}), path), None);
        for (info, other) in [
            (json!({"backing-filename": "/etc/shadow"}), "/etc/shadow"),
            (json!({"format-specific": {"data": {"data-file": "/x"}}}), "/x"),
            (json!({"format-specific": {"data": {"extents": [{"filename": "/y"}]}}}), "/y"),
        ] {
            assert_eq!(referred(&info, path).as_deref(), Some(other));
        }
    }

    #[test]
    fn arguments_keep_the_target_sparse_and_the_source_read_as_told() {
        let from = Probed { path: "/d/a.img".into(), format: "raw".to_owned(), size: 1 };
        let line = |arguments: &[OsString]| {
            let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
            words.join(" ")
        };
        assert_eq!(
            line(&import_arguments(&from, "nbd://h/d-1")),
            "convert -p -W -m 16 -n --target-is-zero -f raw -O raw /d/a.img nbd://h/d-1"
        );
        assert_eq!(
            line(&export_arguments("nbd://h/d-1", "qcow2", Path::new("/d/b"))),
            "convert -p -W -m 16 -f raw -O qcow2 nbd://h/d-1 /d/b"
        );
    }

    #[test]
    fn the_last_line_of_a_complaint_is_told() {
        assert_eq!(complaint(b"warning\nqemu-img: no\n\n"), "qemu-img: no");
        assert_eq!(complaint(b""), "qemu-img failed and did not say why");
    }
}
