//! Roles.

use super::access_keys::taken;
use super::error::Entity;
use super::key_policy::TrustPolicy;
use super::names::{self, within};
use super::system::{ECS_ROLE_DESCRIPTION, ECS_ROLE_TRUST};
use super::users::Part;
use super::{ECS_ROLE, ECS_ROLE_POLICY, Gated, ROLE_ID_DIGIT, Ram, RamError};
use crate::catalog::ram::{AttachmentRecord, Holder, PolicyKind, RamOperation, RoleRecord};
use crate::catalog::{CatalogError, Gate};

/// Roles of an account; as published.
pub const ROLES_MAX: usize = 1000;

/// Longest session of a role that names none, in seconds; as published.
pub const SESSION_SECONDS_DEFAULT: u32 = 3600;

/// What `MaxSessionDuration` can be, in seconds; as published.
pub const SESSION_SECONDS: std::ops::RangeInclusive<u32> = 3600..=43_200;

/// What a new role shall be.
#[derive(Clone, Debug)]
pub struct CreateRole {
    /// 1 to 64 letters, digits and `.`, `_`, `-`.
    pub role_name: String,
    /// At most 1024 characters.
    pub description: String,
    /// Who may take it on: a JSON document.
    pub trust_policy: String,
    /// Within [`SESSION_SECONDS`].
    pub session_seconds_max: u32,
}

impl Ram {
    /// Makes the role in which the disk service uses its customers' keys, with its policy, as the
    /// cloud's console does when the owner consents; what is there already stays as it is.
    ///
    /// # Errors
    /// The catalog's.
    pub fn grant_ecs_role(&self) -> Result<(), RamError> {
        let _changes = self.lock_changes();
        let role = self.new_role(CreateRole {
            role_name: ECS_ROLE.into(),
            description: ECS_ROLE_DESCRIPTION.into(),
            trust_policy: ECS_ROLE_TRUST.into(),
            session_seconds_max: SESSION_SECONDS_DEFAULT,
        });
        let attachment = AttachmentRecord {
            holder: Holder::Role(role.role_id.clone()),
            kind: PolicyKind::System,
            policy_name: ECS_ROLE_POLICY.into(),
            attached: role.created,
        };
        let made = vec![RamOperation::InsertRole(role), RamOperation::Attach(attachment)];
        match self.apply(made, &mut || Ok(())).map_err(|error| taken(error, Entity::Role)) {
            Err(RamError::Exists(_)) => Ok(()),
            applied => applied,
        }
    }

    /// The role of this name.
    ///
    /// # Errors
    /// `EntityNotExist.Role`, or the catalog's.
    pub fn role(&self, role_name: &str) -> Result<RoleRecord, RamError> {
        self.catalog.role(role_name)?.ok_or(RamError::NotFound(Entity::Role))
    }

    /// Up to `limit` roles whose names come after `after`.
    ///
    /// # Errors
    /// The catalog's.
    pub fn roles(&self, after: &str, limit: usize) -> Result<Part<RoleRecord>, RamError> {
        let found = self.catalog.roles(after, limit as u64 + 1)?;
        Ok(Part::cut(found, limit, |role| &role.role_name))
    }

    /// A new role, which gives nothing yet. `gate` is handed the record and runs just before the
    /// commit.
    ///
    /// # Errors
    /// `InvalidParameter.*`, `MalformedPolicyDocument`, `EntityAlreadyExists.Role`,
    /// `LimitExceeded.Role`; the gate's or the catalog's.
    pub fn create_role(
        &self,
        request: CreateRole,
        gate: &mut dyn FnMut(&RoleRecord) -> Gated,
    ) -> Result<RoleRecord, RamError> {
        names::check_role(&request.role_name)?;
        within(&request.description, 0..=1024, "Description")?;
        if !SESSION_SECONDS.contains(&request.session_seconds_max) {
            return Err(RamError::Value("MaxSessionDuration"));
        }
        TrustPolicy::parse(&request.trust_policy).map_err(RamError::MalformedPolicy)?;
        let _changes = self.lock_changes();
        if self.catalog.roles("", ROLES_MAX as u64)?.len() >= ROLES_MAX {
            return Err(RamError::LimitExceeded(Entity::Role));
        }
        let role = self.new_role(request);
        self.apply(vec![RamOperation::InsertRole(role.clone())], &mut || gate(&role))
            .map_err(|error| taken(error, Entity::Role))?;
        Ok(role)
    }

    fn new_role(&self, request: CreateRole) -> RoleRecord {
        let CreateRole { role_name, description, trust_policy, session_seconds_max } = request;
        let created = self.clock.now();
        RoleRecord {
            role_id: self.new_id(ROLE_ID_DIGIT),
            role_name,
            description,
            trust_policy,
            session_seconds_max,
            created,
            updated: created,
        }
    }

    /// Removes a role that holds no policies.
    ///
    /// # Errors
    /// `EntityNotExist.Role`, `DeleteConflict.Role.Policy`; the gate's or the catalog's.
    pub fn delete_role(&self, role_name: &str, gate: Gate<'_>) -> Result<(), RamError> {
        let _changes = self.lock_changes();
        let role = self.role(role_name)?;
        match self.apply(vec![RamOperation::DeleteRole(role.role_id)], gate) {
            Err(RamError::Catalog(CatalogError::Referenced)) => {
                Err(RamError::HasPolicies(Entity::Role))
            }
            applied => applied.map_err(|error| taken(error, Entity::Role)),
        }
    }
}
