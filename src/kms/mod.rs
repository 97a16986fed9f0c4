//! KMS keys: made, named, used, refused (Alibaba Cloud KMS, version 2016-01-20).
//!
//! Every call takes the same way, through `call.rs`: may the caller (`ram`), may the key in its
//! state (`state.rs`), the operation itself, the record (`trail`), the answer. If it cannot be
//! recorded it is not done: a change is recorded inside its catalog transaction, the result of a
//! use of a key is thrown away.
//!
//! The material of each key version is kept in the catalog, sealed. It is unwrapped for one use at
//! a time and wiped after.

use std::sync::{Arc, Mutex};

use crate::catalog::{Catalog, KeyRecord, KeyVersionRecord};
use crate::clock::{Clock, Entropy};
use crate::crypto::kdf::hkdf_sha256;
use crate::ram::{Caller, Ram, ServiceActsAs};
use crate::secret::Secret;
use crate::trail::{Actor, Trail};

mod aliases;
pub mod backup;
pub mod blob;
mod call;
pub mod context;
mod data_keys;
mod encryption;
mod error;
mod filter;
mod keys;
mod material;
pub mod remote;
mod resolve;
pub mod root;
mod service;
pub mod state;
mod tags;
mod versions;

pub use call::Paging;
pub use data_keys::{DataKeys, FoundKey};
pub use encryption::{DataKey, Decrypted, ENCRYPT_BYTES_MAX, Encrypted, data_key_bytes};
pub use error::KmsError;
pub use filter::KeyFilter;
pub use keys::{CreateKey, DELETION_WINDOW_DAYS};
pub use service::{ECS_CREATOR, ECS_KEY_ALIAS, is_service_key};
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
}

/// The key management of one account in one region.
pub struct Kms {
    catalog: Arc<dyn Catalog>,
    trail: Arc<Trail>,
    ram: Arc<Ram>,
    material_key: Secret,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    account: Account,
    /// Held from reading a key to changing it, so that two changes do not overtake each other.
    changes: Mutex<()>,
}

impl Kms {
    /// Opens the keys in `parts.catalog`.
    ///
    /// # Errors
    /// None so far; a store of material that can fail to open will have some.
    pub fn open(parts: KmsParts) -> Result<Self, KmsError> {
        let KmsParts { catalog, trail, ram, sealing_key, clock, entropy, account } = parts;
        let material_key = hkdf_sha256(&sealing_key, b"sealdisk/kms/material/v1", 32);
        Ok(Self {
            catalog,
            trail,
            ram,
            material_key,
            clock,
            entropy,
            account,
            changes: Mutex::new(()),
        })
    }

    /// Whose keys these are.
    pub const fn account(&self) -> &Account {
        &self.account
    }

    /// A fresh key and its first version.
    fn new_key(&self, creator: &str, description: &str) -> (KeyRecord, KeyVersionRecord) {
        let key_id = crate::clock::random_uuid(self.entropy.as_ref()).to_string();
        let version_id = crate::clock::random_uuid(self.entropy.as_ref()).to_string();
        let created = self.clock.now();
        let fresh = Secret::random(material::MATERIAL_BYTES, self.entropy.as_ref());
        let wrapped_material = self.wrap(&key_id, &version_id, &fresh);
        let version = KeyVersionRecord {
            version_id: version_id.clone(),
            key_id: key_id.clone(),
            created,
            wrapped_material,
        };
        let key = KeyRecord {
            key_id,
            description: description.to_owned(),
            spec: keys::SPEC.into(),
            origin: keys::ORIGIN.into(),
            protection: keys::PROTECTION.into(),
            creator: creator.to_owned(),
            state: crate::catalog::KeyState::Enabled,
            created,
            deletes: None,
            primary_version: version_id,
        };
        (key, version)
    }
}

impl std::fmt::Debug for Kms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kms").field("account", &self.account).finish_non_exhaustive()
    }
}
