//! KMS keys: made, named, used, refused (Alibaba Cloud KMS, version 2016-01-20).
//!
//! Every call takes the same way, through `call.rs`: may the caller (`ram`), may the key in its
//! state (`state.rs`), the operation itself, the record (`trail`), the answer. If it cannot be
//! recorded it is not done: a change is recorded inside its catalog transaction, the result of a
//! use of a key is thrown away.
//!
//! The material of each key version is kept in the catalog, sealed, and is unwrapped for one use at
//! a time and wiped after; or it is in a token, and is used there.

use std::sync::{Arc, Mutex, RwLock};

use crate::catalog::{Catalog, KmsStatus};
use crate::clock::{Clock, Entropy};
use crate::crypto::kdf::hkdf_sha256;
use crate::ram::{Caller, Ram, ServiceActsAs};
use crate::secret::Secret;
use crate::token::Token;
use crate::trail::{Actor, Trail};

use hsm::HsmStore;
use material::{MaterialStore, SoftwareStore};
use under_way::UsesUnderWay;
use wraps::Wraps;

mod account;
mod aliases;
pub mod backup;
pub mod blob;
mod call;
pub mod context;
mod create;
mod data_keys;
mod encryption;
mod error;
mod export;
mod filter;
mod hsm;
mod import;
mod keys;
mod material;
mod pairs;
mod policy;
pub mod remote;
mod resolve;
pub mod root;
mod rotation;
mod schedule;
mod service;
mod spec;
pub mod state;
mod tags;
mod under_way;
mod wraps;

pub use call::Paging;
pub use create::CreateKey;
pub use data_keys::{DataKeys, FoundKey};
pub use encryption::{DataKey, Decrypted, ENCRYPT_BYTES_MAX, Encrypted, Use, data_key_bytes};
pub use error::KmsError;
pub use export::{Exported, Recipient, Source};
pub use filter::KeyFilter;
pub use hsm::{Orphan, TokenReport, hsm_event};
pub use import::{Import, ImportParameters};
pub use keys::DELETION_WINDOW_DAYS;
pub use pairs::{PAIR_BYTES_MAX, Pair, PublicKey, Signed, Verified};
pub use rotation::Rotation;
pub use schedule::Swept;
pub use service::{ECS_CREATOR, ECS_KEY_ALIAS, is_service_key};
pub use spec::is_symmetric;
pub use state::Action;
pub use tags::{DISK_CONSENT_TAG, TagPage, TagQuery, Untag};

/// Whose keys these are, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// 16 digits.
    pub account_id: String,
    /// Such as `cn-hangzhou`.
    pub region: String,
}

impl Account {
    /// `acs:kms:<region>:<account>:key/<id>`.
    pub fn key_arn(&self, key_id: &str) -> String {
        self.arn(&format!("key/{key_id}"))
    }

    /// `acs:kms:<region>:<account>:alias/<name>`; `name` begins with `alias/`.
    pub fn alias_arn(&self, name: &str) -> String {
        self.arn(name)
    }

    /// `caller`, in the trail of this account.
    pub fn actor(&self, caller: &Caller) -> Actor {
        Actor {
            request_id: caller.request_id,
            account_id: self.account_id.clone(),
            region: self.region.clone(),
            source: caller.source.clone(),
            user_agent: caller.user_agent.clone(),
            user_identity: caller.user_identity(&self.account_id, &ServiceActsAs::Itself),
        }
    }

    /// `acs:kms:<region>:<account>:keystore/<id>`. The relative part is not published.
    pub fn instance_arn(&self, id: &str) -> String {
        self.arn(&format!("keystore/{id}"))
    }

    fn arn(&self, relative: &str) -> String {
        format!("acs:kms:{}:{}:{relative}", self.region, self.account_id)
    }
}

/// What a [`Kms`] is made of.
pub struct KmsParts {
    /// Where keys and aliases are kept.
    pub catalog: Arc<dyn Catalog>,
    /// Where every call is recorded.
    pub trail: Arc<Trail>,
    /// Who may do what.
    pub ram: Arc<Ram>,
    /// What the material of keys is sealed under, as [`root::Root`] gives it.
    pub sealing_key: Secret,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Unpredictable bytes for keys and ids.
    pub entropy: Arc<dyn Entropy>,
    /// Whose keys these are.
    pub account: Account,
    /// The configured tokens; the first takes keys of level HSM that name no instance.
    pub tokens: Vec<Arc<Token>>,
}

/// The key management of one account in one region.
pub struct Kms {
    catalog: Arc<dyn Catalog>,
    trail: Arc<Trail>,
    ram: Arc<Ram>,
    /// Where material can be; the first takes that of new keys.
    stores: Vec<Arc<dyn MaterialStore>>,
    /// Those of them that are tokens.
    hsms: Vec<Arc<HsmStore>>,
    wraps: Wraps,
    /// Seals import tokens.
    token_key: Secret,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    account: Account,
    /// Held from reading a key to changing it, so that two changes do not overtake each other.
    changes: Mutex<()>,
    /// As the catalog has it.
    standing: RwLock<KmsStatus>,
    /// What who takes a key away waits for.
    uses: UsesUnderWay,
}

impl Kms {
    /// Opens the keys in `parts.catalog`.
    ///
    /// # Errors
    /// [`KmsError::Catalog`].
    pub fn open(parts: KmsParts) -> Result<Self, KmsError> {
        let KmsParts { catalog, trail, ram, sealing_key, clock, entropy, account, tokens } = parts;
        let material_key = hkdf_sha256(&sealing_key, b"sealdisk/kms/material/v1", 32);
        let token_key = hkdf_sha256(&sealing_key, b"sealdisk/kms/import-token/v1", 32);
        let software = SoftwareStore { material_key, entropy: Arc::clone(&entropy) };
        let hsms: Vec<Arc<HsmStore>> =
            tokens.into_iter().map(|token| Arc::new(HsmStore::new(token))).collect();
        let mut stores: Vec<Arc<dyn MaterialStore>> = vec![Arc::new(software)];
        stores.extend(hsms.iter().map(|store| Arc::clone(store) as Arc<dyn MaterialStore>));
        let standing = RwLock::new(catalog.kms_status()?);
        Ok(Self {
            catalog,
            trail,
            ram,
            stores,
            hsms,
            wraps: Wraps::default(),
            token_key,
            clock,
            entropy,
            account,
            changes: Mutex::new(()),
            standing,
            uses: UsesUnderWay::default(),
        })
    }

    /// Whose keys these are.
    pub const fn account(&self) -> &Account {
        &self.account
    }
}

impl std::fmt::Debug for Kms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kms").field("account", &self.account).finish_non_exhaustive()
    }
}
