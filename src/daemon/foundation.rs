//! What everything else stands on: catalog, root key, trail, opened in this order.

use std::sync::Arc;

use super::DaemonError;
use crate::catalog::Catalog;
use crate::catalog::sqlite::SqliteCatalog;
use crate::clock::{Clock, Entropy, SystemClock, SystemEntropy, random_uuid};
use crate::config::{Config, RootKey};
use crate::kms::Account;
use crate::kms::root::{self, Root, RootParts};
use crate::ram::Caller;
use crate::trail::{Actor, Trail};

/// Opened catalog, root key and trail.
pub(super) struct Foundation {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) catalog: Arc<dyn Catalog>,
    pub(super) account: Account,
    pub(super) root: Root,
    pub(super) root_key_created: bool,
    /// The catalog has had no root key so far: nobody has used it.
    pub(super) is_new: bool,
    pub(super) trail: Arc<Trail>,
    /// The daemon itself, during this start.
    pub(super) caller: Caller,
}

impl Foundation {
    pub(super) fn lay(config: &Config) -> Result<Self, DaemonError> {
        let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) =
            (Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
        let catalog: Arc<dyn Catalog> =
            Arc::new(SqliteCatalog::open(&config.data_dir.join("catalog.db"))?);
        let (account_id, region) = (config.account_id.clone(), config.region.clone());
        let account = Account { account_id, region };
        let is_new = catalog.root()?.is_none();
        let root_key_created = is_new && makes_root_key(&config.root_key);
        // Before the trail: what was sealed under another key looks damaged, and is not.
        let root = Root::unlock(RootParts {
            catalog: Arc::clone(&catalog),
            provider: root::provider(&config.root_key),
            previous: config.previous_root_key.as_ref().map(root::provider),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
        })?;
        let (dir, key) = (config.data_dir.join("trail"), root.trail_key());
        let trail = Arc::new(Trail::open(&dir, key, Arc::clone(&clock), Arc::clone(&entropy))?);
        let caller = Caller::system(random_uuid(&*entropy));
        move_root(&root, &trail, account.actor(&caller))?;
        Ok(Self { clock, entropy, catalog, account, root, root_key_created, is_new, trail, caller })
    }
}

/// Whether a start on a new catalog makes the file of the root key.
fn makes_root_key(root_key: &RootKey) -> bool {
    matches!(root_key, RootKey::File { path, may_create: true } if !path.exists())
}

/// Puts the configured root key in the place of the previous one, if that is still to be done.
fn move_root(root: &Root, trail: &Trail, actor: Actor) -> Result<(), DaemonError> {
    let moved =
        root.finish_move(&mut |record| trail.record(&root::rotated(actor.clone(), record)))?;
    if let Some(record) = moved {
        tracing::info!(
            provider = record.provider,
            root_key = record.root_key_id,
            "the configured root key has taken the place of the previous one, whose entry can go"
        );
    }
    Ok(())
}
