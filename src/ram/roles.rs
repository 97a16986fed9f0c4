//! Roles.

use super::access_keys::taken;
use super::error::Entity;
use super::system::{ECS_ROLE_DESCRIPTION, ECS_ROLE_TRUST};
use super::{ECS_ROLE, ECS_ROLE_POLICY, Ram, RamError};
use crate::catalog::ram::{AttachmentRecord, Holder, PolicyKind, RamOperation, RoleRecord};

/// Longest session of a role that names none, in seconds; as published.
pub(super) const SESSION_SECONDS_DEFAULT: u32 = 3600;

impl Ram {
    /// Makes the role in which the disk service uses its customers' keys, with its policy, as the
    /// cloud's console does when the owner consents; what is there already stays as it is.
    ///
    /// # Errors
    /// The catalog's.
    pub fn grant_ecs_role(&self) -> Result<(), RamError> {
        let _changes = self.lock_changes();
        let now = self.clock.now();
        let role = RoleRecord {
            role_id: self.new_id(super::ROLE_ID_DIGIT),
            role_name: ECS_ROLE.into(),
            description: ECS_ROLE_DESCRIPTION.into(),
            trust_policy: ECS_ROLE_TRUST.into(),
            session_seconds_max: SESSION_SECONDS_DEFAULT,
            created: now,
            updated: now,
        };
        let attachment = AttachmentRecord {
            holder: Holder::Role(role.role_id.clone()),
            kind: PolicyKind::System,
            policy_name: ECS_ROLE_POLICY.into(),
            attached: now,
        };
        let made = vec![RamOperation::InsertRole(role), RamOperation::Attach(attachment)];
        match self.apply(made, &mut || Ok(())).map_err(|error| taken(error, Entity::Role)) {
            Err(RamError::Exists(_)) => Ok(()),
            applied => applied,
        }
    }
}
