//! The command line as written; clap makes parser and help of it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::account::AccountCommand;
use super::backup::BackupCommand;
use super::endpoint::Endpoint;
use super::hsm::HsmCommand;
use super::hsm::TokenUriParser;
pub use super::key_arguments::{
    AliasAndKey, AliasCommand, CreateKey, Input, KeyCommand, KeyName, Pairs, SignKey,
};
use super::output::Form;
use super::ram::arguments::{PolicyCommand, RoleCommand, UserCommand};
use super::root::RootCommand;
use super::stack_arguments::tag;
pub use super::stack_arguments::{
    ChangeLayers, ImageCommand, JobCommand, ResetDisk, ResizeDisk, SetDiskKey, SnapshotCommand,
};
use super::trail::TrailCommand;
use super::upkeep::{CatalogCommand, Check};
use crate::config::quantity::{QuantityError, parse_size};
use crate::config::{AddressError, TokenUri, parse_listen_address};
use crate::limits::{BYTES_PER_SECOND_LIMITS, IOPS_LIMITS};
use crate::units::ByteCount;

/// Encrypted virtual disks over NBD, with the key management of a cloud built in.
#[derive(Debug, Parser)]
#[command(
    name = "sealdisk",
    version,
    max_term_width = 100,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        sealdisk serve --dev                                     # in one terminal\n  \
        sealdisk disk create --name db --size 10GiB --attach     # in another\n  \
        sealdisk disk uri db\n\n\
        Exit codes: 0 done, 1 refused or failed, 2 wrong command line."
)]
pub struct Arguments {
    /// Where the daemon is: unix:PATH or http://HOST:PORT. Without it ./sealdisk-data/api.sock and
    /// /run/sealdisk/api.sock are tried.
    #[arg(long, global = true, env = "SEALDISK_ENDPOINT", value_parser = Endpoint::parse)]
    pub endpoint: Option<Endpoint>,
    /// How answers are written.
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub output: Form,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the daemon
    Serve(Serve),
    /// Create, attach and look at disks
    Disk {
        /// What to do.
        #[command(subcommand)]
        command: DiskCommand,
    },
    /// Take, keep and bring back the states of disks
    Snapshot {
        /// What to do.
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Manage what disks are made of
    Image {
        /// What to do.
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Look after what goes on in the background
    Job {
        /// What to do.
        #[command(subcommand)]
        command: JobCommand,
    },
    /// Manage the keys that wrap the disks' data keys
    Key {
        /// What to do.
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Give keys names
    Alias {
        /// What to do.
        #[command(subcommand)]
        command: AliasCommand,
    },
    /// Manage users and their access keys
    User {
        /// What to do.
        #[command(subcommand)]
        command: UserCommand,
    },
    /// Manage the roles that services take on
    Role {
        /// What to do.
        #[command(subcommand)]
        command: RoleCommand,
    },
    /// Manage who may do what
    Policy {
        /// What to do.
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Look into layer files, without a daemon
    Layer {
        /// What to do.
        #[command(subcommand)]
        command: LayerCommand,
    },
    /// Read and check the audit trail
    Trail {
        /// What to do.
        #[command(subcommand)]
        command: TrailCommand,
    },
    /// Look at the account, try out what debt does
    Account {
        /// What to do.
        #[command(subcommand)]
        command: AccountCommand,
    },
    /// Look at the root key, replace it
    Root {
        /// What to do.
        #[command(subcommand)]
        command: RootCommand,
    },
    /// Look at the tokens that keep keys, and check them
    Hsm {
        /// What to do.
        #[command(subcommand)]
        command: HsmCommand,
    },
    /// Rebuild the catalog from the layers
    Catalog {
        /// What to do.
        #[command(subcommand)]
        command: CatalogCommand,
    },
    /// Hold the catalog and the layers against each other
    Check(Check),
    /// Back up keys and all else the catalog knows, and restore it
    Backup {
        /// What to do.
        #[command(subcommand)]
        command: BackupCommand,
    },
}

/// Start the daemon, for development or from a configuration file.
#[derive(Args, Debug)]
#[command(
    group = clap::ArgGroup::new("form").required(true).args(["dev", "config"]),
    after_help = "Examples:\n  \
        sealdisk serve --dev\n  \
        sealdisk serve --dev --data-dir /tmp/trial --nbd-tcp off --http 127.0.0.1:0\n  \
        sealdisk serve --config config/sealdisk.yaml"
)]
pub struct Serve {
    /// Need no configuration: keep all state in ./sealdisk-data, make a root key if there is none.
    /// Not for data you care about.
    #[arg(long)]
    pub dev: bool,
    /// Read the configuration from this file (see config/sealdisk.yaml)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Keep all state here instead
    #[arg(long, value_name = "DIR", requires = "dev", conflicts_with = "config")]
    pub data_dir: Option<PathBuf>,
    /// Serve disks at this TCP address instead of 127.0.0.1:10809, or off
    #[arg(long, value_name = "ADDR|off", requires = "dev", conflicts_with = "config",
          value_parser = listen)]
    pub nbd_tcp: Option<Listen>,
    /// Serve the API over HTTP here, signed, instead of at 127.0.0.1:8600, or off
    #[arg(long, value_name = "ADDR|off", requires = "dev", conflicts_with = "config",
          value_parser = listen)]
    pub http: Option<Listen>,
    /// Keep keys of the protection level HSM in this token:
    /// pkcs11:token=LABEL?module-path=/LIBRARY&pin-source=file:/PIN-FILE
    #[arg(long, value_name = "URI", requires = "dev", conflicts_with = "config",
          value_parser = TokenUriParser)]
    pub hsm: Option<TokenUri>,
}

/// An address to listen at; `None` is `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

/// Commands on disks.
#[derive(Debug, Subcommand)]
pub enum DiskCommand {
    /// Create a disk, encrypted unless told otherwise
    #[command(after_help = "Examples:\n  \
        sealdisk disk create --name db --size 10GiB --attach\n  \
        sealdisk disk create --name c --size 1GiB --key-id alias/byok\n  \
        sealdisk disk create --name p --size 512M --unencrypted\n  \
        sealdisk disk create --name web1 --image debian-12 --size 20GiB\n  \
        sealdisk disk create --name look --snapshot before-upgrade --read-only\n  \
        sealdisk disk create --name l --size 1TiB --cache none --throughput-limit 200MiB")]
    Create(CreateDisk),
    /// List all disks
    #[command(after_help = "Examples:\n  sealdisk disk list\n  sealdisk disk list -o json")]
    List,
    /// Show one disk
    #[command(after_help = "Example:\n  sealdisk disk show db")]
    Show(DiskName),
    /// Attach a disk: from now on it is served over NBD
    #[command(after_help = "Examples:\n  sealdisk disk attach db\n  \
        sealdisk disk attach db --instance i-web1")]
    Attach {
        /// Which.
        #[command(flatten)]
        disk: DiskName,
        /// Instance to attach it to
        #[arg(long, default_value = LOCAL_INSTANCE, value_name = "i-…")]
        instance: String,
    },
    /// Change the cache mode and the limits of a disk
    #[command(after_help = "Examples:\n  sealdisk disk set db --iops-limit 5000\n  \
        sealdisk disk set db --throughput-limit 200MiB --iops-limit off\n  \
        sealdisk disk set db --cache none\n\n\
        Limits count at once, the cache mode from the next attach on.")]
    Set(SetDisk),
    /// Make a disk larger, attached or not; clients see it when they connect again
    #[command(after_help = "Example:\n  sealdisk disk resize db 20GiB")]
    Resize(ResizeDisk),
    /// Give a disk a fresh data key, in the background
    #[command(
        after_help = "Examples:\n  sealdisk disk rekey db\n  sealdisk disk rekey db --wait\n\n\
        Snapshots keep the keys they were taken under."
    )]
    Rekey(ChangeLayers),
    /// Put a disk under another KMS key, or encrypt a plain one, in the background
    #[command(after_help = "Examples:\n  sealdisk disk set-key db --key-id alias/byok --wait\n  \
        sealdisk disk set-key plain   # encrypts it under the service key")]
    SetKey(SetDiskKey),
    /// Make a disk independent of the layers below, in the background
    #[command(after_help = "Example:\n  sealdisk disk flatten web1 --wait")]
    Flatten(ChangeLayers),
    /// Bring a detached disk back to one of its snapshots
    #[command(after_help = "Example:\n  sealdisk disk reset db --snapshot before-upgrade")]
    Reset(ResetDisk),
    /// Bring a detached disk back to how it was made: empty, or its snapshot or image
    #[command(after_help = "Example:\n  sealdisk disk reinit db --yes")]
    Reinit {
        /// Which.
        #[command(flatten)]
        disk: DiskName,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Wrap the data keys of a disk under the newest version of its KMS key; touches headers only
    #[command(after_help = "Example:\n  sealdisk disk rewrap db\n\n\
        The disk may be in use. All disks of a key at once: sealdisk key rewrap KEY")]
    Rewrap {
        /// Which.
        #[command(flatten)]
        disk: DiskName,
        /// As with the jobs; headers are written before it answers, so it never has to wait
        #[arg(long)]
        wait: bool,
    },
    /// Detach a disk: its clients are sent away, its key leaves memory
    #[command(after_help = "Example:\n  sealdisk disk detach db")]
    Detach(DiskName),
    /// Delete a disk and its data
    #[command(
        after_help = "Examples:\n  sealdisk disk delete db\n  sealdisk disk delete db --yes\n  \
        sealdisk disk delete db --erase\n\n\
        A deleted file stays on the medium until its place is used again, readable to who finds \
        it and may use the KMS key. --erase overwrites its wrapped data key first: then it is \
        noise to everybody. The trail records that (EraseLayer)."
    )]
    Delete {
        /// Which.
        #[command(flatten)]
        disk: DiskName,
        /// Destroy the wrapped data keys of its layers first
        #[arg(long)]
        erase: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Show how to connect to a disk
    #[command(after_help = "Example:\n  qemu-img info \"$(sealdisk disk uri db | head -1)\"")]
    Uri(DiskName),
    /// Break-glass: write the data key of a disk's layer to a file, for cryptsetup
    #[command(after_help = "Example:\n  sealdisk disk export-key db --to db.key\n\n\
        Whoever has the file reads the disk, for ever. The export is in the audit trail.")]
    ExportKey {
        /// Which.
        #[command(flatten)]
        disk: DiskName,
        /// New file for the key, mode 0600
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Instance that clients of this host attach as.
pub const LOCAL_INSTANCE: &str = "i-local";

/// A disk.
#[derive(Args, Debug)]
pub struct DiskName {
    /// Id (d-…) or unique name
    #[arg(value_name = "DISK")]
    pub disk: String,
}

/// What a new disk shall be.
#[derive(Args, Debug)]
pub struct CreateDisk {
    /// Its name; also its export name
    #[arg(long)]
    pub name: Option<String>,
    /// Its size: 10GiB, 512M, 1TiB; that of the snapshot or image without it
    #[arg(long, value_parser = disk_size, required_unless_present_any = ["snapshot", "image"])]
    pub size: Option<ByteCount>,
    /// Begin with the data of this snapshot: id or unique name
    #[arg(long, conflicts_with = "image")]
    pub snapshot: Option<String>,
    /// Begin with the data of this image: id or unique name
    #[arg(long)]
    pub image: Option<String>,
    /// What it is for
    #[arg(long)]
    pub description: Option<String>,
    /// Key that wraps its data key: id or alias; the service key alias/acs/ecs without it
    #[arg(long, value_name = "KEY")]
    pub key_id: Option<String>,
    /// Store data in clear; sealdisk disk set-key encrypts it later
    #[arg(long, conflicts_with = "key_id")]
    pub unencrypted: bool,
    /// Let clients only read
    #[arg(long)]
    pub read_only: bool,
    /// Let several instances write to it at a time: for file systems of clusters alone
    #[arg(long)]
    pub multi_attach: bool,
    /// A tag; may be said several times
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag)]
    pub tags: Vec<(String, String)>,
    /// Cache mode and limits.
    #[command(flatten)]
    pub performance: Performance,
    /// Attach it at once
    #[arg(long)]
    pub attach: bool,
    /// Instance to attach it to
    #[arg(long, default_value = LOCAL_INSTANCE, requires = "attach", value_name = "i-…")]
    pub instance: String,
}

/// What of a disk shall change.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true)
    .args(["cache", "iops_limit", "throughput_limit"]))]
pub struct SetDisk {
    /// Which.
    #[command(flatten)]
    pub disk: DiskName,
    /// Cache mode and limits.
    #[command(flatten)]
    pub performance: Performance,
}

/// Cache mode and limits of a disk.
#[derive(Args, Debug)]
pub struct Performance {
    /// writeback: through the host's page cache; none: past it, each read and write waits for the
    /// device
    #[arg(long, value_name = "MODE", value_parser = ["writeback", "none"])]
    pub cache: Option<String>,
    /// Requests a second at most, or off
    #[arg(long, value_name = "N|off", value_parser = iops_limit)]
    pub iops_limit: Option<u64>,
    /// Bytes a second at most, reads and writes together: 200MiB, or off
    #[arg(long, value_name = "SIZE|off", value_parser = throughput_limit)]
    pub throughput_limit: Option<u64>,
}

/// Commands on layer files.
#[derive(Debug, Subcommand)]
pub enum LayerCommand {
    /// Show the envelope of a layer: everything but secrets; needs no key and no daemon
    #[command(after_help = "Example:\n  sealdisk layer inspect FILE   # disk show lists the files")]
    Inspect {
        /// The layer
        file: PathBuf,
    },
}

/// `off` is 0, as in the API.
fn iops_limit(text: &str) -> Result<u64, String> {
    match text {
        "off" => Ok(0),
        _ => text.parse().ok().filter(|n| IOPS_LIMITS.contains(n)).ok_or_else(|| {
            format!("must be from {} to {}, or off", IOPS_LIMITS.start(), IOPS_LIMITS.end())
        }),
    }
}

/// `off` is 0, as in the API.
fn throughput_limit(text: &str) -> Result<u64, String> {
    if text == "off" {
        return Ok(0);
    }
    let bytes = parse_size(text).map_err(|error| error.to_string())?.get();
    let out_of_range = || "must be from 1MiB to 1TiB a second, or off".to_owned();
    BYTES_PER_SECOND_LIMITS.contains(&bytes).then_some(bytes).ok_or_else(out_of_range)
}

fn listen(text: &str) -> Result<Listen, AddressError> {
    parse_listen_address(text).map(Listen)
}

pub(super) fn disk_size(text: &str) -> Result<ByteCount, QuantityError> {
    parse_size(text)
}
