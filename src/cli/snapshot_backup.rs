//! `sealdisk snapshot export` and `restore`: backup files.
//!
//! A backup is a tar of what the snapshot is: its layers, encrypted as they are, and a manifest. No
//! data key and nothing in clear is in it. With `--since`, the layers of the earlier snapshot are
//! left out. `tar` itself keeps the holes of layers; docs/layers.md describes the format.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Client, Interrupts, OWN, text};
use super::failure::Failure;
use super::find::SNAPSHOT;
use super::image::NewFile;
use super::leased_disk::LeasedDisk;
use super::output::{Output, human_size};
use super::progress::Progress;
use super::stack_arguments::{ExportSnapshot, RestoreSnapshot};
use crate::clock::{Clock, SystemClock};

/// Name of the manifest in the file.
const MANIFEST: &str = "manifest.json";

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(200);

/// Bytes in a block of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

pub(super) fn export(
    export: &ExportSnapshot,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let id = SNAPSHOT.id_of(client, &export.snapshot.snapshot)?;
    let since = export.since.as_deref().map(|name| SNAPSHOT.id_of(client, name)).transpose()?;
    let interrupts = Interrupts::listen(client)?;
    let mut file = NewFile::create(&export.to)?;
    // A disk on the snapshot keeps its layers from being merged while they are read.
    let parameters = [("SnapshotId", id.as_str()), ("ReadOnly", "true")];
    let mut disk = LeasedDisk::create(client, &parameters)?;
    let mut parameters = vec![("SnapshotId", id.as_str())];
    parameters.extend(since.iter().map(|id| ("SinceSnapshotId", id.as_str())));
    let described = client.call(OWN, "DescribeSnapshotLayers", &parameters)?;
    let paths = layer_paths(&described);
    let manifest = Manifest::write(&described)?;
    let arguments = create_arguments(file.part(), &manifest.0, &paths);
    let total = paths.iter().map(|path| allocated(path)).sum();
    let part = file.part().to_owned();
    let watched = Watched { what: "export", total, done: &|| length(&part) };
    let mut tar = Tar { interrupts, client, output };
    tar.run(&arguments, &watched, &mut || disk.renew_in_time())?;
    file.keep()?;
    let bytes = length(&export.to);
    let json = json!({
        "SnapshotId": id,
        "SinceSnapshotId": since,
        "File": export.to.to_string_lossy(),
        "Layers": paths.len(),
        "Bytes": bytes,
    });
    output.answer(&json, || {
        let what = match &since {
            Some(since) => format!("what changed from {since} to {id}"),
            None => id.clone(),
        };
        format!("{} holds {what}, encrypted: {}\n", export.to.display(), human_size(bytes))
    })
}

/// The id of the snapshot that came back.
pub(super) fn restore(
    restore: &RestoreSnapshot,
    client: &Client,
    output: &Output,
) -> Result<String, Failure> {
    let named =
        |error: std::io::Error| Failure::new(format!("{}: {error}", restore.file.display()));
    let path = restore.file.canonicalize().map_err(named)?;
    let interrupts = Interrupts::listen(client)?;
    let begun = client.call(OWN, "BeginSnapshotRestore", &[])?;
    let id = text(&begun, "RestoreId");
    let directory = PathBuf::from(text(&begun, "Directory"));
    let unfinished = Unfinished { client, id };
    // The daemon removes a directory that nobody holds: so does it with ours if we are killed.
    let held = File::open(&directory).and_then(|held| held.lock().map(|()| held));
    let _held = held.map_err(|error| Failure::new(format!("{}: {error}", directory.display())))?;
    let watched = Watched { what: "restore", total: length(&path), done: &|| filled(&directory) };
    let mut tar = Tar { interrupts, client, output };
    tar.run(&extract_arguments(&path, &directory), &watched, &mut || Ok(()))?;
    let mut parameters = vec![("RestoreId", id)];
    parameters.extend(restore.name.iter().map(|name| ("SnapshotName", name.as_str())));
    let restored = client.call(OWN, "FinishSnapshotRestore", &parameters)?;
    std::mem::forget(unfinished);
    Ok(text(&restored, "SnapshotId").to_owned())
}

/// Tells the daemon that nothing comes of it.
struct Unfinished<'a> {
    client: &'a Client,
    id: &'a str,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let _ = self.client.call(OWN, "AbortSnapshotRestore", &[("RestoreId", self.id)]);
    }
}

/// The manifest in a directory of its own, removed with this.
struct Manifest(PathBuf);

impl Manifest {
    fn write(described: &Value) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::new(format!("temporary file: {error}"));
        let directory = format!("sealdisk-{}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        std::fs::create_dir(&directory).map_err(failed)?;
        let manifest = Self(directory);
        let text = format!("{:#}\n", described["Manifest"]);
        std::fs::write(manifest.0.join(MANIFEST), text).map_err(failed)?;
        Ok(manifest)
    }
}

impl Drop for Manifest {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn layer_paths(described: &Value) -> Vec<PathBuf> {
    let files = described["LayerFiles"].as_array().map_or(&[][..], Vec::as_slice);
    files.iter().filter_map(Value::as_str).map(PathBuf::from).collect()
}

/// The manifest comes first, so that a reader knows at once what follows.
fn create_arguments(to: &Path, manifest: &Path, layers: &[PathBuf]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        ["--create", "--format=posix", "--sparse", "--mode=0600", "--file"].map(Into::into).into();
    arguments.extend([to.into(), "-C".into(), manifest.into(), MANIFEST.into()]);
    for layer in layers {
        let (directory, name) = (layer.parent(), layer.file_name());
        if let (Some(directory), Some(name)) = (directory, name) {
            arguments.extend(["-C".into(), directory.into(), name.to_owned()]);
        }
    }
    arguments
}

fn extract_arguments(from: &Path, directory: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        ["--extract", "--no-same-owner", "--no-same-permissions", "--keep-old-files", "--file"]
            .map(Into::into)
            .into();
    arguments.extend([from.into(), "-C".into(), directory.into()]);
    arguments
}

/// How far a child is, seen from outside.
struct Watched<'a> {
    what: &'static str,
    total: u64,
    done: &'a dyn Fn() -> u64,
}

/// `tar` as a child process, for as long as nobody interrupts.
struct Tar<'a> {
    interrupts: Interrupts,
    client: &'a Client,
    output: &'a Output,
}

impl Tar<'_> {
    fn run(
        &mut self,
        arguments: &[OsString],
        watched: &Watched<'_>,
        each_tick: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let not_started = |error: std::io::Error| Failure::new(format!("tar: {error}"));
        let clock = SystemClock::new();
        let begun = clock.monotonic();
        let mut command = Command::new("tar");
        command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().map_err(not_started)?;
        let outcome = loop {
            match child.try_wait() {
                Ok(Some(_)) => break Ok(()),
                Ok(None) => {}
                Err(error) => break Err(not_started(error)),
            }
            if self.interrupts.came_within(self.client, TICK) {
                break Err(Failure::new("interrupted"));
            }
            let elapsed = clock.monotonic().saturating_sub(begun);
            let done = (watched.done)();
            let progress = Progress { done, total: watched.total, elapsed, begun_at: 0 };
            if let Err(failure) =
                each_tick().and_then(|()| self.output.progress(&progress.line(watched.what)))
            {
                break Err(failure);
            }
        };
        if outcome.is_err() {
            let _ = child.kill();
        }
        let _ = self.output.end_progress();
        let ended = child.wait_with_output().map_err(not_started)?;
        outcome?;
        if ended.status.success() {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&ended.stderr);
        Err(Failure::new(complaint.lines().next().unwrap_or("tar failed").to_owned()))
    }
}

fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |found| found.len())
}

fn allocated(path: &Path) -> u64 {
    path.metadata().map_or(0, |found| found.blocks() * BLOCK_BYTES)
}

/// Bytes in the files of a directory.
fn filled(directory: &Path) -> u64 {
    let Ok(entries) = directory.read_dir() else { return 0 };
    entries.filter_map(Result::ok).map(|entry| allocated(&entry.path())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_leads_and_layers_keep_their_names() {
        let layers = ["/d/layers/a.luks".into(), "/d/layers/b.luks".into()];
        let arguments = create_arguments(Path::new("x.part"), Path::new("/tmp/m"), &layers);
        let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
        assert_eq!(
            words[4..].join(" "),
            "--file x.part -C /tmp/m manifest.json -C /d/layers a.luks -C /d/layers b.luks"
        );
    }
}
