//! `sealdisk root …`

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::Value;
use zeroize::Zeroizing;

use super::client::{Client, OWN, text};
use super::failure::Failure;
use super::output::{Output, render_fields};

/// Longest secret that a file may hold, in bytes.
const SECRET_BYTES_MAX: u64 = 1024;

/// Commands on the root key.
#[derive(Debug, Subcommand)]
pub enum RootCommand {
    /// Show where the root key comes from and how it is called; never the key
    #[command(after_help = "Example:\n  sealdisk root show")]
    Show,
    /// Put another root key in the place of the present one, while serving
    #[command(after_help = "Examples:\n  \
        sealdisk root rotate                           # provider file: makes a fresh one\n  \
        sealdisk root rotate --new-secret-file FILE    # passphrase, credential: the new one\n\n\
        Keys, disks and the trail stay as they are. Backups made before need the root key of their \
        time: keep it as long as them (provider file: it stays as FILE.previous).")]
    Rotate {
        /// File with the new passphrase, or the new key as 64 hexadecimal digits
        #[arg(long, value_name = "FILE")]
        new_secret_file: Option<PathBuf>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub(super) fn run(command: &RootCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        RootCommand::Show => show(&client.call(OWN, "DescribeRootKey", &[])?, output),
        RootCommand::Rotate { new_secret_file, yes } => {
            let secret = new_secret_file.as_deref().map(read_secret).transpose()?;
            if !yes {
                output.confirm("Replace the root key?")?;
            }
            let parameters: Vec<(&str, &str)> =
                secret.iter().map(|secret| ("NewSecret", secret.as_str())).collect();
            client.call(OWN, "RotateRootKey", &parameters)?;
            let rotated = client.call(OWN, "DescribeRootKey", &[])?;
            show(&rotated, output)?;
            output.note(&next_step(&rotated))
        }
    }
}

fn next_step(root: &Value) -> String {
    let place = text(root, "Place");
    match text(root, "Provider") {
        "file" => format!(
            "\nThe new key is {place}: back it up. The one before is {place}.previous: older \
             backups need it; destroy it with them."
        ),
        _ => format!(
            "\nPut the new secret where the next start looks for it ({place}) now. Older backups \
             need the one before."
        ),
    }
}

fn read_secret(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > SECRET_BYTES_MAX {
        let message = format!("{}: longer than {SECRET_BYTES_MAX} bytes", path.display());
        return Err(Failure::new(message));
    }
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(failed)
}

fn show(root: &Value, output: &Output) -> Result<(), Failure> {
    output.answer(root, || {
        let field = |name: &str| text(root, name).to_owned();
        render_fields(&[
            ("Provider", field("Provider")),
            ("Place", field("Place")),
            ("Root key id", field("RootKeyId")),
            ("In use since", field("Since")),
            ("Previous id", field("PreviousRootKeyId")),
        ])
    })
}
