//! Who may do what, the keys, the disks: over one foundation, for the daemon and for what works on
//! its data directory without it.

use std::fs::File;
use std::sync::Arc;

use super::foundation::Foundation;
use super::tokens::{self, Back, Hsms};
use super::{DaemonError, process};
use crate::clock::{Clock, Entropy};
use crate::config::Config;
use crate::disk::{Disks, DisksParts, StackSettings};
use crate::kms::remote::RemoteKms;
use crate::kms::{DataKeys, Kms, KmsParts};
use crate::ram::{Caller, Ram, RamParts};
use crate::storage::store::FileStore;
use crate::trail::Trail;

/// The services of one account.
pub(super) struct Services {
    pub(super) ram: Arc<Ram>,
    pub(super) kms: Arc<Kms>,
    pub(super) disks: Arc<Disks>,
    /// Told when a token has come back.
    pub(super) back: Back,
}

impl Services {
    /// Over `base`; the directory of layers is made if there is none.
    pub(super) fn build(config: &Config, base: &Foundation) -> Result<Self, DaemonError> {
        let layers = config.data_dir.join("layers");
        process::make_private_dir(&layers)?;
        let Foundation { clock, entropy, catalog, account, root, trail, .. } = base;
        let Hsms { tokens, back } = tokens::open(config, (clock, entropy), (trail, account))?;
        let ram = Arc::new(Ram::new(RamParts {
            catalog: Arc::clone(catalog),
            clock: Arc::clone(clock),
            entropy: Arc::clone(entropy),
            key: root.ram_key(),
            account_id: config.account_id.clone(),
        }));
        let kms = Arc::new(Kms::open(KmsParts {
            catalog: Arc::clone(catalog),
            trail: Arc::clone(trail),
            ram: Arc::clone(&ram),
            sealing_key: root.sealing_key(),
            clock: Arc::clone(clock),
            entropy: Arc::clone(entropy),
            account: account.clone(),
            tokens,
        })?);
        let disks = Arc::new(Disks::new(DisksParts {
            catalog: Arc::clone(catalog),
            trail: Arc::clone(trail),
            kms: data_keys(config, &kms, (clock, entropy))?,
            ram: Arc::clone(&ram),
            store: Arc::new(FileStore::new(&layers)),
            clock: Arc::clone(clock),
            entropy: Arc::clone(entropy),
            account: account.clone(),
            stack: StackSettings::default(),
        }));
        if base.is_new {
            // As if the owner had consented in the console: the role may be deleted and made again.
            ram.grant_ecs_role()?;
        }
        Ok(Self { ram, kms, disks, back })
    }
}

/// The KMS of the disks: the one in the house, or the one on another host.
fn data_keys(
    config: &Config,
    kms: &Arc<Kms>,
    (clock, entropy): (&Arc<dyn Clock>, &Arc<dyn Entropy>),
) -> Result<Arc<dyn DataKeys>, DaemonError> {
    let Some(remote) = &config.remote_kms else { return Ok(Arc::clone(kms) as _) };
    let remote = RemoteKms::new(remote, Arc::clone(clock), Arc::clone(entropy));
    Ok(Arc::new(remote.map_err(DaemonError::RemoteKms)?))
}

/// The disks of a data directory on which no daemon runs, for who works on them directly. Nothing
/// is attached.
pub struct Offline {
    /// The disks.
    pub disks: Arc<Disks>,
    /// Who works on them, for the trail.
    pub caller: Caller,
    trail: Arc<Trail>,
    _lock: File,
}

impl Offline {
    /// Takes the data directory of `config`; catalog and trail are made if there are none.
    ///
    /// # Errors
    /// [`DaemonError::DataDirInUse`] if a daemon runs on it, and whatever would keep one from
    /// starting.
    pub fn open(config: &Config) -> Result<Self, DaemonError> {
        process::harden()?;
        let lock = process::take_data_dir(&config.data_dir)?;
        let base = Foundation::lay(config)?;
        let Services { disks, .. } = Services::build(config, &base)?;
        Ok(Self { disks, caller: base.caller, trail: base.trail, _lock: lock })
    }

    /// Ends the trail in order.
    ///
    /// # Errors
    /// The trail's.
    pub fn finish(self) -> Result<(), DaemonError> {
        Ok(self.trail.checkpoint()?)
    }
}
