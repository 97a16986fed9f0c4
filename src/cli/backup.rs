//! `sealdisk backup …`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use serde_json::json;

use super::client::{Client, OWN, text};
use super::failure::Failure;
use super::output::{Output, human_size, render_fields};
use super::root_source::RootSource;
use crate::clock::{SystemClock, SystemEntropy};
use crate::kms::backup::{self, BackupError, Manifest};

/// Commands on backups.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Write keys, aliases, users, policies and records of disks to a new file, while serving
    #[command(after_help = "Example:\n  sealdisk backup create keys.backup\n\n\
        The root key is not in it, and without the root key nothing in it can be used: keep a copy \
        of it elsewhere. The data of the disks (the directory layers) and the trail are not in it \
        either.")]
    Create {
        /// The new file
        file: PathBuf,
    },
    /// Show what a backup says of itself, without a daemon
    #[command(after_help = "Example:\n  sealdisk backup show keys.backup")]
    Show {
        /// The backup
        file: PathBuf,
    },
    /// Put a backup into a data directory that has no catalog, without a daemon
    #[command(after_help = "Examples:\n  \
        sealdisk backup restore keys.backup --data-dir DIR --root-key root.key\n  \
        sealdisk backup restore keys.backup --data-dir /var/lib/sealdisk --config sealdisk.yaml\n\n\
        It is checked with its root key first. Disks are detached in it; put their layers back \
        yourself.")]
    Restore {
        /// The backup
        file: PathBuf,
        /// Where to; made if it is not there
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Where the root key is.
        #[command(flatten)]
        root: RootSource,
    },
}

pub(super) fn run(
    command: &BackupCommand,
    client: impl Fn() -> Result<Client, Failure>,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        BackupCommand::Create { file } => create(file, &client()?, output),
        BackupCommand::Show { file } => {
            let manifest = backup::show(file).map_err(failure)?;
            show(file, &manifest, output)
        }
        BackupCommand::Restore { file, data_dir, root } => restore(file, data_dir, root, output),
    }
}

fn create(file: &Path, client: &Client, output: &Output) -> Result<(), Failure> {
    let path = std::path::absolute(file)
        .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    let made = client.call(OWN, "CreateBackup", &[("Path", &path.to_string_lossy())])?;
    output.answer(&made, || {
        render_fields(&[
            ("File", text(&made, "Path").to_owned()),
            ("Size", human_size(made["Bytes"].as_u64().unwrap_or_default())),
            ("Root key id", text(&made, "RootKeyId").to_owned()),
            ("Created", text(&made, "CreationTime").to_owned()),
        ])
    })?;
    output.note(&format!(
        "\nThe root key is NOT in it (provider {}), nor are the disks' data and the trail. Without \
         the root key nobody can use it, you included: keep a copy of it in another place.",
        text(&made, "Provider")
    ))
}

fn show(file: &Path, manifest: &Manifest, output: &Output) -> Result<(), Failure> {
    output.answer(&json!(manifest), || {
        render_fields(&[
            ("File", file.display().to_string()),
            ("Checked", "whole; who made it, only its root key tells (at restore)".into()),
            ("Created", manifest.created.clone()),
            ("By", format!("sealdisk {}", manifest.version)),
            ("Account", format!("{}, {}", manifest.account_id, manifest.region)),
            (
                "Root key",
                format!("{}, from the provider {}", manifest.root_key_id, manifest.provider),
            ),
            ("Trail", format!("had records up to {}", manifest.trail_last_seq)),
            ("Size", human_size(manifest.bytes)),
        ])
    })
}

fn restore(
    file: &Path,
    data_dir: &Path,
    root: &RootSource,
    output: &Output,
) -> Result<(), Failure> {
    let manifest = backup::show(file).map_err(failure)?;
    let provider = root.provider(&manifest.provider, data_dir)?;
    let _lock =
        crate::daemon::take_data_dir(data_dir).map_err(|error| Failure::new(error.to_string()))?;
    let world = (Arc::new(SystemClock::new()) as _, Arc::new(SystemEntropy) as _);
    let restored = backup::restore(file, data_dir, provider, world).map_err(failure)?;
    show(file, &restored, output)?;
    output.note(&format!(
        "\nRestored into {}. Put the root key where the daemon looks for it, the layers into {}, \
         and start the daemon. Disks are detached.",
        data_dir.display(),
        data_dir.join("layers").display()
    ))
}

fn failure(error: BackupError) -> Failure {
    let message = error.to_string();
    match error {
        BackupError::Kms(_) => Failure::new(message).hint("say --root-key FILE, or --config FILE"),
        _ => Failure::new(message),
    }
}
