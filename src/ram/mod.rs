//! Who asks, and whether they may (Alibaba Cloud RAM, version 2015-05-01).
//!
//! ```text
//! wildcard.rs condition.rs document.rs policy.rs   the policy language: text -> decision, pure
//! key_policy.rs                                    policies that name their principals
//! system.rs                                        what is built in
//! grants.rs cache.rs                               who holds what: the decision
//! access_keys.rs users.rs roles.rs policies.rs     changes and lists
//! ```
//!
//! The account's root has everything in its own account, a user what the attached policies give,
//! the disk service what its role is given. Changes take a *gate* that runs within the catalog's
//! transaction: `api` records the event there, for this module does not know the trail.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::catalog::ram::RamOperation;
use crate::catalog::{Catalog, Gate, Operation};
use crate::clock::{Clock, Entropy};
use crate::secret::Secret;

mod access_keys;
mod cache;
mod caller;
mod condition;
mod decision;
mod denial;
mod document;
mod error;
mod grants;
mod key_policy;
mod names;
mod policies;
mod policy;
mod roles;
mod system;
mod users;
pub mod wildcard;

pub use access_keys::{ACCESS_KEYS_MAX, Credential, NewAccessKey, rewrap_secrets};
pub use caller::{Caller, Principal, Route, ServiceActsAs};
pub use condition::{Circumstances, Conditions};
pub use decision::Decision;
pub use denial::Denial;
pub use error::{Entity, RamError};
pub use key_policy::{KEY_POLICY_BYTES_MAX, KeyPolicy, TRUST_POLICY_BYTES_MAX, TrustPolicy};
pub use policies::{ATTACHED_MAX, HolderName, POLICIES_MAX, PolicyView};
pub use policy::{NAME_BYTES_MAX, POLICY_BYTES_MAX, Policy, PolicyError};
pub use roles::{CreateRole, ROLES_MAX, SESSION_SECONDS, SESSION_SECONDS_DEFAULT};
pub use system::{
    ECS_ROLE, ECS_ROLE_POLICY, ECS_SERVICE, SYSTEM_OWNER, SYSTEM_POLICIES, SystemPolicy,
    system_policy,
};
pub use users::{CreateUser, Part, USERS_MAX};

/// What the ids of users begin with.
const USER_ID_DIGIT: char = '2';

/// What the ids of roles begin with.
const ROLE_ID_DIGIT: char = '3';

/// What a gate says: go on, or the reason why not.
pub type Gated = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// What a [`Ram`] is made of.
pub struct RamParts {
    /// Where users, roles and policies are kept.
    pub catalog: Arc<dyn Catalog>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Unpredictable bytes for ids and secrets.
    pub entropy: Arc<dyn Entropy>,
    /// 32 bytes derived from the root key: wraps the secrets of access keys.
    pub key: Secret,
    /// Whose users these are, 16 digits.
    pub account_id: String,
}

/// The users, roles and policies of one account.
pub struct Ram {
    catalog: Arc<dyn Catalog>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    key: Secret,
    account_id: String,
    cache: cache::Cache,
    /// Held from reading to changing, so that two changes do not overtake each other.
    changes: Mutex<()>,
}

impl Ram {
    /// The users, roles and policies in `parts.catalog`.
    pub fn new(parts: RamParts) -> Self {
        let RamParts { catalog, clock, entropy, key, account_id } = parts;
        let (cache, changes) = (cache::Cache::default(), Mutex::new(()));
        Self { catalog, clock, entropy, key, account_id, cache, changes }
    }

    /// Whose users these are.
    pub fn account_id(&self) -> &str {
        &self.account_id
    }

    /// 18 digits, the first of which tells a user's from a role's.
    fn new_id(&self, first: char) -> String {
        let mut bytes = [0; 8];
        self.entropy.fill(&mut bytes);
        format!("{first}{:017}", u64::from_be_bytes(bytes) % 10_u64.pow(17))
    }

    fn lock_changes(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, operations: Vec<RamOperation>, gate: Gate<'_>) -> Result<(), RamError> {
        let operations: Vec<Operation> = operations.into_iter().map(Operation::Ram).collect();
        let applied = self.catalog.apply(&operations, gate);
        // Also after a failure: a commit that failed may have been made.
        self.cache.forget();
        Ok(applied?)
    }
}

impl fmt::Debug for Ram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ram").field("account_id", &self.account_id).finish_non_exhaustive()
    }
}
