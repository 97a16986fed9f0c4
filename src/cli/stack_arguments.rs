//! Commands on snapshots, images and jobs, and those that change a disk's layers, as written.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::arguments::{DiskName, disk_size};
use crate::units::ByteCount;

/// Commands on snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Take a snapshot of a disk, attached or not
    #[command(after_help = "Examples:\n  \
        sealdisk snapshot create db --name before-upgrade\n  \
        sealdisk snapshot create db --name daily --retention-days 7 --tag plan=daily\n\n\
        All that was acknowledged before is in it. An attached disk goes on meanwhile.")]
    Create(CreateSnapshot),
    /// List snapshots, newest first
    #[command(after_help = "Examples:\n  sealdisk snapshot list\n  \
        sealdisk snapshot list --disk db -o json")]
    List {
        /// Only those of this disk: id or unique name
        #[arg(long)]
        disk: Option<String>,
    },
    /// Show one snapshot
    #[command(after_help = "Example:\n  sealdisk snapshot show before-upgrade")]
    Show(SnapshotName),
    /// Change name, description or retention of a snapshot
    #[command(after_help = "Examples:\n  sealdisk snapshot set daily --retention-days 30\n  \
        sealdisk snapshot set daily --retention-days keep")]
    Set(SetSnapshot),
    /// Delete a snapshot; disks made from it keep their data
    #[command(after_help = "Examples:\n  sealdisk snapshot delete daily\n  \
        sealdisk snapshot delete daily --yes --force\n  \
        sealdisk snapshot delete daily --erase")]
    Delete(DeleteSnapshot),
    /// Copy a snapshot, under another key if one is named
    #[command(after_help = "Examples:\n  \
        sealdisk snapshot copy daily --name daily-2 --key-id alias/byok --wait\n\n\
        The data is encrypted anew on its way; it is never stored in clear.")]
    Copy(CopySnapshot),
    /// Show what changed between two snapshots of a disk
    #[command(after_help = "Example:\n  sealdisk snapshot diff monday tuesday -o json")]
    Diff {
        /// The earlier snapshot: id or unique name
        #[arg(value_name = "EARLIER")]
        earlier: String,
        /// The later snapshot: id or unique name
        #[arg(value_name = "LATER")]
        later: String,
    },
    /// Write a snapshot to a backup file; with --since only what changed
    #[command(after_help = "Examples:\n  \
        sealdisk snapshot export monday --to monday.tar\n  \
        sealdisk snapshot export tuesday --since monday --to tuesday.tar\n\n\
        The file is a tar of encrypted layers: it can be read with the KMS key alone.")]
    Export(ExportSnapshot),
    /// Bring back a snapshot from a backup file
    #[command(after_help = "Examples:\n  sealdisk snapshot restore monday.tar\n  \
        sealdisk snapshot restore tuesday.tar --name back   # after monday.tar")]
    Restore(RestoreSnapshot),
}

/// A snapshot.
#[derive(Args, Debug)]
pub struct SnapshotName {
    /// Id (s-…) or unique name
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: String,
}

/// What a new snapshot shall be.
#[derive(Args, Debug)]
pub struct CreateSnapshot {
    /// Of which disk.
    #[command(flatten)]
    pub disk: DiskName,
    /// Its name
    #[arg(long)]
    pub name: Option<String>,
    /// What it is for
    #[arg(long)]
    pub description: Option<String>,
    /// Delete it by itself after so many days
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub retention_days: Option<u32>,
    /// A tag; may be said several times
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag)]
    pub tags: Vec<(String, String)>,
}

/// What of a snapshot shall change.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true)
    .args(["name", "description", "retention_days"]))]
pub struct SetSnapshot {
    /// Which.
    #[command(flatten)]
    pub snapshot: SnapshotName,
    /// Its new name
    #[arg(long)]
    pub name: Option<String>,
    /// What it is for
    #[arg(long)]
    pub description: Option<String>,
    /// Delete it by itself so many days after it was taken, or keep
    #[arg(long, value_name = "DAYS|keep", value_parser = retention)]
    pub retention_days: Option<u32>,
}

/// Which snapshot shall go, and how.
#[derive(Args, Debug)]
pub struct DeleteSnapshot {
    /// Which.
    #[command(flatten)]
    pub snapshot: SnapshotName,
    /// Even if disks were made from it
    #[arg(long)]
    pub force: bool,
    /// Destroy the wrapped data keys of what goes with it, on record in the trail
    #[arg(long)]
    pub erase: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// What the copy of a snapshot or image shall be.
#[derive(Args, Debug)]
pub struct CopySnapshot {
    /// Of which.
    #[command(flatten)]
    pub snapshot: SnapshotName,
    /// Name of the copy
    #[arg(long)]
    pub name: String,
    /// Key that wraps its data key: id or alias; that of the original without it
    #[arg(long, value_name = "KEY")]
    pub key_id: Option<String>,
    /// Wait until it is done
    #[arg(long)]
    pub wait: bool,
}

/// What shall go to which file.
#[derive(Args, Debug)]
pub struct ExportSnapshot {
    /// Which.
    #[command(flatten)]
    pub snapshot: SnapshotName,
    /// Only what changed since this earlier snapshot: id or unique name
    #[arg(long, value_name = "SNAPSHOT")]
    pub since: Option<String>,
    /// New file for the backup
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
}

/// Which backup shall come back.
#[derive(Args, Debug)]
pub struct RestoreSnapshot {
    /// The backup file
    pub file: PathBuf,
    /// Name of the snapshot; that of the original without it
    #[arg(long)]
    pub name: Option<String>,
}

/// Commands on images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Make an image of a snapshot
    #[command(after_help = "Example:\n  sealdisk image create golden-snapshot --name debian-12")]
    Create {
        /// Of which.
        #[command(flatten)]
        snapshot: SnapshotName,
        /// Its name
        #[arg(long)]
        name: String,
        /// What it is for
        #[arg(long)]
        description: Option<String>,
    },
    /// Make an image of a raw, qcow2, vmdk or vhdx file
    #[command(after_help = "Examples:\n  \
        sealdisk image import debian-12.qcow2 --name debian-12\n  \
        sealdisk image import disk.img --format raw --name old --key-id alias/byok\n\n\
        Needs qemu-img. Whatever ends it early, nothing of it stays.")]
    Import(ImportImage),
    /// List images, newest first
    #[command(after_help = "Examples:\n  sealdisk image list\n  sealdisk image list -o json")]
    List,
    /// Show one image
    #[command(after_help = "Example:\n  sealdisk image show debian-12")]
    Show(ImageName),
    /// Write an image to a file, in clear
    #[command(after_help = "Examples:\n  sealdisk image export debian-12 --to debian-12.qcow2\n  \
        sealdisk image export debian-12 --to disk.img --format raw\n\n\
        Needs qemu-img. Whoever has the file reads the image.")]
    Export(ExportImage),
    /// Copy an image, under another key if one is named
    #[command(after_help = "Example:\n  \
        sealdisk image copy debian-12 --name debian-12-b --key-id alias/byok --wait")]
    Copy {
        /// Of which.
        #[command(flatten)]
        image: ImageName,
        /// Name of the copy
        #[arg(long)]
        name: String,
        /// Key that wraps its data key: id or alias; that of the original without it
        #[arg(long, value_name = "KEY")]
        key_id: Option<String>,
        /// Wait until it is done
        #[arg(long)]
        wait: bool,
    },
    /// Delete an image; disks made from it keep their data
    #[command(after_help = "Examples:\n  sealdisk image delete debian-12\n  \
        sealdisk image delete debian-12 --yes --force")]
    Delete {
        /// Which.
        #[command(flatten)]
        image: ImageName,
        /// Even if disks were made from it
        #[arg(long)]
        force: bool,
        /// Destroy the wrapped data keys of what goes with it, on record in the trail
        #[arg(long)]
        erase: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// An image.
#[derive(Args, Debug)]
pub struct ImageName {
    /// Id (m-…) or unique name
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// What image a file shall become.
#[derive(Args, Debug)]
pub struct ImportImage {
    /// The file
    pub file: PathBuf,
    /// Name of the image
    #[arg(long)]
    pub name: String,
    /// What it is for
    #[arg(long)]
    pub description: Option<String>,
    /// Format of the file; found out by qemu-img without it
    #[arg(long, value_name = "FORMAT", value_parser = FORMATS)]
    pub format: Option<String>,
    /// Key that wraps its data key: id or alias; the service key alias/acs/ecs without it
    #[arg(long, value_name = "KEY")]
    pub key_id: Option<String>,
    /// Store data in clear: disks made from it can be encrypted all the same
    #[arg(long, conflicts_with = "key_id")]
    pub unencrypted: bool,
    /// Follow references of the file to other files (backing files, extents)
    #[arg(long)]
    pub follow: bool,
}

/// Which image shall go to which file.
#[derive(Args, Debug)]
pub struct ExportImage {
    /// Which.
    #[command(flatten)]
    pub image: ImageName,
    /// New file
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Its format; told by the ending of its name without it
    #[arg(long, value_name = "FORMAT", value_parser = FORMATS)]
    pub format: Option<String>,
}

/// Formats of files that images come from and go to.
pub(super) const FORMATS: [&str; 4] = ["raw", "qcow2", "vmdk", "vhdx"];

/// Commands on jobs.
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// List jobs, newest first
    #[command(after_help = "Examples:\n  sealdisk job list\n  sealdisk job list --disk db")]
    List {
        /// Only those of this disk: id or unique name
        #[arg(long)]
        disk: Option<String>,
    },
    /// Show one job
    #[command(after_help = "Example:\n  sealdisk job show JOB -o json")]
    Show(JobName),
    /// Wait until a job is done
    #[command(after_help = "Example:\n  sealdisk job wait JOB")]
    Wait(JobName),
    /// Stop a job for now
    #[command(after_help = "Example:\n  sealdisk job pause JOB")]
    Pause(JobName),
    /// Let a paused job go on
    #[command(after_help = "Example:\n  sealdisk job resume JOB")]
    Resume(JobName),
    /// Give a job up; what it did so far does no harm
    #[command(after_help = "Example:\n  sealdisk job cancel JOB")]
    Cancel(JobName),
}

/// A job.
#[derive(Args, Debug)]
pub struct JobName {
    /// Id (j-…)
    #[arg(value_name = "JOB")]
    pub job: String,
}

/// What of a disk's layers shall change, in the background.
#[derive(Args, Debug)]
pub struct ChangeLayers {
    /// Which.
    #[command(flatten)]
    pub disk: DiskName,
    /// Wait until it is done
    #[arg(long)]
    pub wait: bool,
}

/// Under which key a disk shall be.
#[derive(Args, Debug)]
pub struct SetDiskKey {
    /// Which, and whether to wait.
    #[command(flatten)]
    pub change: ChangeLayers,
    /// Key that shall wrap its data key: id or alias; the service key alias/acs/ecs without it
    #[arg(long, value_name = "KEY")]
    pub key_id: Option<String>,
}

/// How large a disk shall be.
#[derive(Args, Debug)]
pub struct ResizeDisk {
    /// Which.
    #[command(flatten)]
    pub disk: DiskName,
    /// Its new size: 20GiB, 1TiB; larger than before
    #[arg(value_parser = disk_size)]
    pub size: ByteCount,
}

/// To which snapshot a disk shall go back.
#[derive(Args, Debug)]
pub struct ResetDisk {
    /// Which.
    #[command(flatten)]
    pub disk: DiskName,
    /// A snapshot of this disk: id or unique name
    #[arg(long, value_name = "SNAPSHOT")]
    pub snapshot: String,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// `key=value`; the value may be empty.
pub(super) fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}

/// `keep` is 0, as in the API.
fn retention(text: &str) -> Result<u32, String> {
    match text {
        "keep" => Ok(0),
        _ => {
            let days = text.parse().ok().filter(|days| (1..=65_535).contains(days));
            days.ok_or_else(|| "must be from 1 to 65535 days, or keep".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_retention_are_read_as_meant() {
        assert_eq!(tag("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(tag("a="), Ok(("a".to_owned(), String::new())));
        assert!(tag("a").is_err() && tag("=b").is_err());
        assert_eq!((retention("keep"), retention("7")), (Ok(0), Ok(7)));
        for wrong in ["0", "65536", "-1", "x"] {
            assert!(retention(wrong).is_err(), "{wrong}");
        }
    }
}
