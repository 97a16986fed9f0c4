//! Which root key a command without daemon shall use.

use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::Failure;
use crate::catalog::RootRecord;
use crate::config;
use crate::kms::root::{self, KeyFile, Passphrase, Provider, Source};

/// The root key of a data directory. Without an option: what the catalog says it comes from, a file
/// being root.key in the data directory.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("root").args(["root_key", "passphrase_file", "config"]))]
pub struct RootSource {
    /// The root key is in this file
    #[arg(long, value_name = "FILE")]
    pub root_key: Option<PathBuf>,
    /// The root key is made of the passphrase in this file
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// The root key is where this configuration says
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl RootSource {
    /// Where to load the root key from that the name `provider` of a root record stands for.
    pub(super) fn provider(
        &self,
        provider: &str,
        data_dir: &Path,
    ) -> Result<Box<dyn Provider>, Failure> {
        if let Some(path) = &self.root_key {
            return Ok(key_file(path));
        }
        if let Some(path) = &self.passphrase_file {
            return Ok(Box::new(Passphrase { source: Source::File(path.clone()) }));
        }
        if let Some(file) = &self.config {
            let config = config::load(file).map_err(|error| Failure::usage(error.to_string()))?;
            return Ok(match config.root_key {
                config::RootKey::File { path, .. } => key_file(&path),
                other => root::provider(&other),
            });
        }
        match provider {
            "passphrase" => Ok(Box::new(Passphrase { source: Source::Prompt })),
            "file" => Ok(key_file(&data_dir.join("root.key"))),
            other => {
                let message = format!("the root key comes from the provider {other}");
                Err(Failure::new(message).hint("say --config FILE, or --root-key FILE"))
            }
        }
    }
}

/// Never makes one: what is asked for is there already.
fn key_file(path: &Path) -> Box<dyn Provider> {
    Box::new(KeyFile { path: path.to_owned(), may_create: false })
}

/// The root record of the catalog in `data_dir`.
pub(super) fn record_of(data_dir: &Path) -> Result<RootRecord, Failure> {
    let none = || {
        let message = format!("{} holds no catalog with a root key", data_dir.display());
        Failure::new(message).hint("name the data directory with --data-dir DIR")
    };
    let catalog = data_dir.join("catalog.db");
    if !catalog.exists() {
        return Err(none());
    }
    let record = crate::catalog::sqlite::read_root(&catalog);
    record.map_err(|error| Failure::new(error.to_string()))?.ok_or_else(none)
}
