//! Policies, and who holds them.

use super::access_keys::taken;
use super::error::Entity;
use super::names::{self, within};
use super::policy::POLICY_BYTES_MAX;
use super::system::{SYSTEM_POLICIES, system_policy};
use super::users::Part;
use super::{Gated, Policy, Ram, RamError};
use crate::catalog::ram::{AttachmentRecord, Holder, PolicyKind, PolicyRecord, RamOperation};
use crate::catalog::{CatalogError, Gate};
use crate::clock::Timestamp;

/// Custom policies of an account; as published.
pub const POLICIES_MAX: usize = 1500;

/// Policies of one kind attached to one user or role; as published for system policies.
pub const ATTACHED_MAX: usize = 20;

/// When the system's policies came to be: always.
const ALWAYS: Timestamp = Timestamp::from_unix_millis(0);

/// Who a policy is attached to, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderName<'a> {
    /// The user of this name.
    User(&'a str),
    /// The role of this name.
    Role(&'a str),
}

/// A policy of either kind, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyView {
    /// Whose it is.
    pub kind: PolicyKind,
    /// Its name.
    pub policy_name: String,
    /// What is said of it.
    pub description: String,
    /// Its JSON document.
    pub document: String,
    /// When it was made.
    pub created: Timestamp,
    /// How many users and roles hold it.
    pub attachments: usize,
}

impl Ram {
    /// A policy by kind and name.
    ///
    /// # Errors
    /// `EntityNotExist.Policy`, or the catalog's.
    pub fn policy(&self, kind: PolicyKind, policy_name: &str) -> Result<PolicyView, RamError> {
        match kind {
            PolicyKind::System => {
                let policy = system_policy(policy_name);
                let policy = policy.ok_or(RamError::NotFound(Entity::Policy))?;
                self.view(
                    PolicyKind::System,
                    (policy.name, policy.description),
                    policy.document,
                    ALWAYS,
                )
            }
            PolicyKind::Custom => {
                let policy = self.catalog.policy(policy_name)?;
                self.custom_view(&policy.ok_or(RamError::NotFound(Entity::Policy))?)
            }
        }
    }

    /// Up to `limit` policies whose names come after `after`: the system's, the owner's, or both.
    ///
    /// # Errors
    /// The catalog's.
    pub fn policies(
        &self,
        kind: Option<PolicyKind>,
        after: &str,
        limit: usize,
    ) -> Result<Part<PolicyView>, RamError> {
        let mut found = Vec::new();
        if kind != Some(PolicyKind::Custom) {
            let later = SYSTEM_POLICIES.iter().filter(|policy| policy.name > after);
            for policy in later.take(limit + 1) {
                found.push(self.policy(PolicyKind::System, policy.name)?);
            }
        }
        if kind != Some(PolicyKind::System) {
            for policy in self.catalog.policies(after, limit as u64 + 1)? {
                found.push(self.custom_view(&policy)?);
            }
        }
        found.sort_by(|one, other| one.policy_name.cmp(&other.policy_name));
        Ok(Part::cut(found, limit, |policy| &policy.policy_name))
    }

    fn custom_view(&self, policy: &PolicyRecord) -> Result<PolicyView, RamError> {
        let texts = (policy.policy_name.as_str(), policy.description.as_str());
        self.view(PolicyKind::Custom, texts, &policy.document, policy.created)
    }

    fn view(
        &self,
        kind: PolicyKind,
        (name, description): (&str, &str),
        document: &str,
        created: Timestamp,
    ) -> Result<PolicyView, RamError> {
        Ok(PolicyView {
            kind,
            policy_name: name.to_owned(),
            description: description.to_owned(),
            document: document.to_owned(),
            created,
            attachments: self.catalog.holders(kind, name)?.len(),
        })
    }

    /// A new policy of the owner's. `gate` is handed the record and runs just before the commit.
    ///
    /// # Errors
    /// `InvalidParameter.*`, `MalformedPolicyDocument`, `EntityAlreadyExists.Policy` (also for the
    /// name of a system policy), `LimitExceeded.Policy`; the gate's or the catalog's.
    pub fn create_policy(
        &self,
        policy_name: &str,
        description: &str,
        document: &str,
        gate: &mut dyn FnMut(&PolicyRecord) -> Gated,
    ) -> Result<PolicyRecord, RamError> {
        names::check_policy(policy_name)?;
        within(description, 0..=1024, "Description")?;
        if document.is_empty() || document.len() > POLICY_BYTES_MAX {
            return Err(RamError::Length("PolicyDocument"));
        }
        Policy::parse(document).map_err(RamError::MalformedPolicy)?;
        let _changes = self.lock_changes();
        if system_policy(policy_name).is_some() {
            return Err(RamError::Exists(Entity::Policy));
        }
        if self.catalog.policies("", POLICIES_MAX as u64)?.len() >= POLICIES_MAX {
            return Err(RamError::LimitExceeded(Entity::Policy));
        }
        let policy = PolicyRecord {
            policy_name: policy_name.to_owned(),
            description: description.to_owned(),
            document: document.to_owned(),
            created: self.clock.now(),
        };
        self.apply(vec![RamOperation::InsertPolicy(policy.clone())], &mut || gate(&policy))
            .map_err(|error| taken(error, Entity::Policy))?;
        Ok(policy)
    }

    /// Removes a policy of the owner's that nobody holds.
    ///
    /// # Errors
    /// `EntityNotExist.Policy`, `DeleteConflict.Policy.User`, `DeleteConflict.Policy.Role`; the
    /// gate's or the catalog's.
    pub fn delete_policy(&self, policy_name: &str, gate: Gate<'_>) -> Result<(), RamError> {
        let _changes = self.lock_changes();
        if let Some(held) = self.catalog.holders(PolicyKind::Custom, policy_name)?.first() {
            return Err(RamError::IsAttached(match held.holder {
                Holder::User(_) => Entity::User,
                Holder::Role(_) => Entity::Role,
            }));
        }
        match self.apply(vec![RamOperation::DeletePolicy(policy_name.to_owned())], gate) {
            // Another host attached it meanwhile.
            Err(RamError::Catalog(CatalogError::Referenced)) => {
                Err(RamError::IsAttached(Entity::User))
            }
            applied => applied.map_err(|error| taken(error, Entity::Policy)),
        }
    }

    /// Attaches a policy to a user or role.
    ///
    /// # Errors
    /// `EntityNotExist.User`, `….Role`, `….Policy`; `EntityAlreadyExists.User.Policy`,
    /// `LimitExceeded.User.Policy` and those of roles; the gate's or the catalog's.
    pub fn attach_policy(
        &self,
        holder: HolderName<'_>,
        kind: PolicyKind,
        policy_name: &str,
        gate: Gate<'_>,
    ) -> Result<(), RamError> {
        let _changes = self.lock_changes();
        let (holder, entity) = self.holder(holder)?;
        self.policy(kind, policy_name)?;
        let attached = self.catalog.attachments(&holder)?;
        let is_this = |held: &&AttachmentRecord| held.policy_name == policy_name;
        let same_kind = attached.iter().filter(|held| held.kind == kind);
        if same_kind.clone().any(|held| is_this(&held)) {
            return Err(RamError::Exists(entity));
        }
        if same_kind.count() >= ATTACHED_MAX {
            return Err(RamError::LimitExceeded(entity));
        }
        let attached = self.clock.now();
        let policy_name = policy_name.to_owned();
        let record = AttachmentRecord { holder, kind, policy_name, attached };
        self.apply(vec![RamOperation::Attach(record)], gate).map_err(|error| taken(error, entity))
    }

    /// Takes a policy away from a user or role.
    ///
    /// # Errors
    /// `EntityNotExist.User`, `….Role`; `….User.Policy` or `….Role.Policy` if it is not attached;
    /// the gate's or the catalog's.
    pub fn detach_policy(
        &self,
        holder: HolderName<'_>,
        kind: PolicyKind,
        policy_name: &str,
        gate: Gate<'_>,
    ) -> Result<(), RamError> {
        let _changes = self.lock_changes();
        let (holder, entity) = self.holder(holder)?;
        let policy_name = policy_name.to_owned();
        self.apply(vec![RamOperation::Detach { holder, kind, policy_name }], gate)
            .map_err(|error| taken(error, entity))
    }

    /// The policies that a user or role holds, and since when.
    ///
    /// # Errors
    /// `EntityNotExist.User`, `….Role`; the catalog's.
    pub fn policies_of(
        &self,
        holder: HolderName<'_>,
    ) -> Result<Vec<(PolicyView, Timestamp)>, RamError> {
        let (holder, _) = self.holder(holder)?;
        let mut found = Vec::new();
        for attachment in self.catalog.attachments(&holder)? {
            match self.policy(attachment.kind, &attachment.policy_name) {
                Ok(policy) => found.push((policy, attachment.attached)),
                // A later release took it away: it gives nothing and is not shown.
                Err(RamError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn holder(&self, name: HolderName<'_>) -> Result<(Holder, Entity), RamError> {
        Ok(match name {
            HolderName::User(name) => (Holder::User(self.user(name)?.user_id), Entity::UserPolicy),
            HolderName::Role(name) => (Holder::Role(self.role(name)?.role_id), Entity::RolePolicy),
        })
    }
}
