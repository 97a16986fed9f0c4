//! `sealdisk check` and `sealdisk catalog rebuild`: the catalog and the layers held together.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, OWN, text};
use super::failure::Failure;
use super::layer;
use super::output::{Output, Table, human_size};
use super::root_source::RootSource;
use crate::config::{self, Config, PassphraseFrom, RootKey};
use crate::daemon::Offline;
use crate::disk::check::CheckReport;
use crate::disk::rebuild::RebuildReport;

/// Hold the catalog and the layers against each other: orphans, missing parents, sizes, headers.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    sealdisk check                              # asks the daemon; disks are served meanwhile\n  \
    sealdisk check --repair\n  \
    sealdisk check --data-dir /var/lib/sealdisk # without a daemon\n\n\
    Only what loses nothing is repaired: a header copy is written again from the other one, a \
    layer that was never finished is removed. Exit code 1 if something is left to be seen to.")]
pub struct Check {
    /// Repair what can be repaired
    #[arg(long)]
    pub repair: bool,
    /// Check this data directory, on which no daemon may run
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where its root key is.
    #[command(flatten)]
    pub root: RootSource,
}

/// Commands on the catalog.
#[derive(Debug, Subcommand)]
pub enum CatalogCommand {
    /// Bring back what the catalog does not know from the layers themselves, without a daemon
    #[command(after_help = "Examples:\n  \
        sealdisk catalog rebuild /var/lib/sealdisk --dry-run\n  \
        sealdisk catalog rebuild /var/lib/sealdisk --config sealdisk.yaml\n\n\
        DIR is the data directory; its layers are in DIR/layers. A layer is taken in if the KMS \
        unwraps its data key: where the keys are gone with the catalog, restore them first \
        (sealdisk backup restore). Nothing is taken away. Names are brought back as far as the \
        layers tell; limits, tags and descriptions are not in them.")]
    Rebuild {
        /// The data directory
        dir: PathBuf,
        /// Only tell what would be done
        #[arg(long)]
        dry_run: bool,
        /// Where its root key is.
        #[command(flatten)]
        root: RootSource,
    },
}

pub(super) fn check(
    check: &Check,
    client: impl Fn() -> Result<Client, Failure>,
    output: &Output,
) -> Result<(), Failure> {
    let answer = match &check.data_dir {
        None => {
            let repair = check.repair.to_string();
            client()?.call(OWN, "CheckLayers", &[("Repair", &repair)])?
        }
        Some(dir) => {
            let offline = open(dir, &check.root)?;
            let report = offline.disks.check(&offline.caller, check.repair);
            let report = report.map_err(|error| Failure::new(error.message()))?;
            finish(offline)?;
            as_json(&report)
        }
    };
    let findings = answer["Findings"].as_array().map_or(&[][..], Vec::as_slice);
    output.answer(&answer, || checked(&answer, findings))?;
    let faults = answer["Faults"].as_u64().unwrap_or_default();
    if faults == 0 {
        return Ok(());
    }
    let failure = Failure::new(format!("{faults} found that somebody has to see to"));
    let is_repairable = |finding: &Value| finding["Repairable"] == true;
    Err(match !check.repair && findings.iter().any(is_repairable) {
        true => failure.hint("--repair mends what can be mended"),
        false => failure,
    })
}

/// The report of a check, in the form of the API.
fn as_json(report: &CheckReport) -> Value {
    json!({
        "Layers": report.layers,
        "Files": report.files,
        "Disks": report.disks,
        "Faults": report.faults(),
        "Findings": report.findings.iter().map(crate::api::finding_shown).collect::<Vec<_>>(),
    })
}

fn checked(answer: &Value, findings: &[Value]) -> String {
    let count = |name: &str| answer[name].as_u64().unwrap_or_default();
    let mut said = format!(
        "{}, {}, {} checked: ",
        counted(count("Layers"), "layer"),
        counted(count("Files"), "file"),
        counted(count("Disks"), "disk")
    );
    if findings.is_empty() {
        return said + "they agree\n";
    }
    said.push_str(&format!("{} found\n\n", findings.len()));
    for finding in findings {
        let state = match (finding["Repaired"] == true, finding["Note"] == true) {
            (true, _) => "repaired",
            (false, true) => "note",
            (false, false) => "FAULT",
        };
        let (subject, message) = (text(finding, "Subject"), text(finding, "Message"));
        said.push_str(&format!("{state:<9} {subject}\n          {message}\n"));
    }
    said
}

pub(super) fn catalog(command: &CatalogCommand, output: &Output) -> Result<(), Failure> {
    let CatalogCommand::Rebuild { dir, dry_run, root } = command;
    let offline = open(dir, root)?;
    let report = offline.disks.rebuild(&offline.caller, *dry_run);
    let report = report.map_err(|error| Failure::new(error.message()))?;
    finish(offline)?;
    output.answer(&rebuilt_json(&report), || rebuilt(&report, *dry_run))?;
    match report.left_out.len() {
        0 => Ok(()),
        left => Err(Failure::new(format!("{} left out", counted(left as u64, "file")))
            .hint("mend what is said of each, then call it again: it goes on where it was")),
    }
}

fn rebuilt_json(report: &RebuildReport) -> Value {
    let disks = report.disks.iter().map(|disk| {
        json!({"DiskId": disk.disk_id, "DiskName": disk.name, "SizeBytes": disk.size.get(),
            "KMSKeyId": disk.kms_key_id})
    });
    let snapshots = report.snapshots.iter().map(|snapshot| {
        json!({"SnapshotId": snapshot.snapshot_id, "SnapshotName": snapshot.name,
            "SourceDiskId": snapshot.disk_id, "SizeBytes": snapshot.size.get()})
    });
    let images = report.images.iter().map(|image| {
        json!({"ImageId": image.image_id, "ImageName": image.name,
            "SizeBytes": image.size.get()})
    });
    let left = report.left_out.iter().map(|(file, why)| json!({"File": file, "Reason": why}));
    json!({
        "Layers": report.layers,
        "Refreshed": report.refreshed,
        "Known": report.known,
        "Disks": disks.collect::<Vec<_>>(),
        "MovedDisks": report.moved,
        "Snapshots": snapshots.collect::<Vec<_>>(),
        "Images": images.collect::<Vec<_>>(),
        "LeftOut": left.collect::<Vec<_>>(),
    })
}

fn rebuilt(report: &RebuildReport, is_dry_run: bool) -> String {
    let would = if is_dry_run { "would be " } else { "" };
    let mut said = format!(
        "{} {would}taken in, {} {would}brought up to date, {} known\n",
        counted(report.layers as u64, "layer"),
        report.refreshed,
        report.known
    );
    let mut table = Table::new(&["KIND", "ID", "NAME", "SIZE"]);
    let mut row = |kind: &str, id: &str, name: &str, size: u64| {
        table.row([kind.into(), id.into(), name.into(), human_size(size).into()]);
    };
    for disk in &report.disks {
        row("disk", &disk.disk_id, &disk.name, disk.size.get());
    }
    for snapshot in &report.snapshots {
        row("snapshot", &snapshot.snapshot_id, &snapshot.name, snapshot.size.get());
    }
    for image in &report.images {
        row("image", &image.image_id, &image.name, image.size.get());
    }
    if !report.disks.is_empty() || !report.snapshots.is_empty() || !report.images.is_empty() {
        said.push_str(&format!("\n{}", table.render(false)));
    }
    for disk in &report.moved {
        said.push_str(&format!("disk {disk} {would}given the state of its youngest layer\n"));
    }
    for (file, why) in &report.left_out {
        said.push_str(&format!("left out  {file}\n          {why}\n"));
    }
    said
}

fn counted(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn open(dir: &Path, root: &RootSource) -> Result<Offline, Failure> {
    let dir = std::path::absolute(dir)
        .map_err(|error| Failure::new(format!("{}: {error}", dir.display())))?;
    if !dir.join("layers").is_dir() {
        let message = format!("{}: no directory of layers is in it", dir.display());
        return Err(Failure::new(message).hint("name the data directory, not that of the layers"));
    }
    let config = configuration(dir, root)?;
    need_no_lost_catalog(&config)?;
    Offline::open(&config).map_err(|error| Failure::new(error.to_string()))
}

/// Without a catalog its keys are gone too, unless the KMS is elsewhere, and nobody can read the
/// trail. An empty one made here would only stand in the way of a backup.
fn need_no_lost_catalog(config: &Config) -> Result<(), Failure> {
    let dir = &config.data_dir;
    if dir.join("catalog.db").exists() {
        return Ok(());
    }
    let has_trail = dir.join("trail").join("head").exists();
    if !has_trail && (config.remote_kms.is_some() || !has_encrypted_layer(dir)) {
        return Ok(());
    }
    Err(Failure::new(format!("{}: no catalog is in it, which had the keys", dir.display())).hint(
        format!(
            "sealdisk backup restore BACKUP --data-dir {} brings back what a backup has; then \
             sealdisk catalog rebuild takes in the layers that are younger",
            dir.display()
        ),
    ))
}

fn has_encrypted_layer(dir: &Path) -> bool {
    let files = dir.join("layers").read_dir().into_iter().flatten().flatten();
    let mut headers = files.filter_map(|file| layer::read(&file.path()).ok());
    headers.any(|header| header.envelope.is_some())
}

/// What a daemon would be told that runs on `data_dir`.
fn configuration(data_dir: PathBuf, root: &RootSource) -> Result<Config, Failure> {
    let usage = |error: config::ConfigError| Failure::usage(error.to_string());
    if let Some(file) = &root.config {
        return Ok(Config { data_dir, ..config::load(file).map_err(usage)? });
    }
    let is_new = !data_dir.join("catalog.db").exists();
    let file = data_dir.join("root.key");
    let root_key = if let Some(path) = &root.root_key {
        RootKey::File { path: path.clone(), may_create: false }
    } else if let Some(path) = &root.passphrase_file {
        RootKey::Passphrase { from: PassphraseFrom::File(path.clone()) }
    } else {
        let provider = match is_new {
            true => "file".to_owned(),
            false => super::root_source::record_of(&data_dir)?.provider,
        };
        match provider.as_str() {
            "file" => RootKey::File { path: file, may_create: is_new },
            "passphrase" => RootKey::Passphrase { from: PassphraseFrom::Prompt },
            other => {
                let message = format!("the root key comes from the provider {other}");
                return Err(Failure::new(message).hint("say --config FILE, or --root-key FILE"));
            }
        }
    };
    Ok(Config { data_dir, root_key, ..Config::default() })
}

fn finish(offline: Offline) -> Result<(), Failure> {
    offline.finish().map_err(|error| Failure::new(error.to_string()))
}
