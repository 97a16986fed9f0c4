//! What users and roles are given: the policies attached to them, read once and kept.

use std::sync::Arc;

use super::condition::{Circumstances, Conditions};
use super::decision::owner_of;
use super::key_policy::{KeyPolicy, TrustPolicy};
use super::policy::Policy;
use super::system::{ECS_ROLE, ECS_SERVICE, SERVICE_KEY_ACTIONS, SYSTEM_OWNER, system_policy};
use super::{Decision, Principal, Ram, RamError, ServiceActsAs};
use crate::catalog::ram::{Holder, PolicyKind};

/// The policies of one user or role.
#[derive(Debug)]
pub(super) struct Grants(Vec<Policy>);

/// A role, who may take it on, and what it is given.
#[derive(Debug)]
pub(super) struct GrantedRole {
    pub(super) role_id: String,
    pub(super) role_name: String,
    trust: TrustPolicy,
    grants: Arc<Grants>,
}

impl Grants {
    fn decide(&self, action: &str, resource: &str, at: &Circumstances<'_>) -> Decision {
        let each = self.0.iter().map(|policy| policy.decide(action, resource, at));
        each.fold(Decision::ImplicitDeny, Decision::or)
    }
}

impl Ram {
    /// Whether `principal` may do `action` (`kms:Encrypt`) to `resource`
    /// (`acs:kms:<region>:<account>:key/<id>`). Silence is denial.
    ///
    /// What nobody but a service may do with a service key is not a matter of permission: `kms`
    /// refuses it even to the account's root.
    ///
    /// # Errors
    /// The catalog's, or [`RamError::DamagedPolicy`]; neither is a permission.
    pub fn decide(
        &self,
        principal: &Principal,
        action: &str,
        resource: &str,
        conditions: &Conditions,
    ) -> Result<Decision, RamError> {
        self.decide_on_key(principal, (action, resource), conditions, None)
    }

    /// As [`Ram::decide`] for a key with a policy of its own: any denial wins, then any permission,
    /// whichever of the two it is in.
    ///
    /// # Errors
    /// As [`Ram::decide`].
    pub fn decide_on_key(
        &self,
        principal: &Principal,
        (action, resource): (&str, &str),
        conditions: &Conditions,
        key_policy: Option<&KeyPolicy>,
    ) -> Result<Decision, RamError> {
        let Some(owner) = owner_of(resource) else { return Ok(Decision::ImplicitDeny) };
        // The policies of the system are there for every account.
        let is_shared = owner == SYSTEM_OWNER && resource.starts_with("acs:ram:");
        let at = Circumstances { now: self.clock.now(), conditions };
        let (granted, who) = match principal {
            // The daemon, and whoever owns the account, have everything in it.
            Principal::System => return Ok(Decision::Allow),
            Principal::Root { account } if account == owner || is_shared => {
                return Ok(Decision::Allow);
            }
            Principal::Root { .. } => return Ok(Decision::ImplicitDeny),
            Principal::User { account, .. } if account != owner && !is_shared => {
                return Ok(Decision::ImplicitDeny);
            }
            Principal::User { account, user_id, user_name } => {
                let grants = self.grants(&Holder::User(user_id.clone()))?;
                let who = format!("acs:ram::{account}:user/{user_name}");
                (grants.decide(action, resource, &at), who)
            }
            Principal::Service { name } if conditions.is_service_key => {
                let is_its_own = *name == ECS_SERVICE && SERVICE_KEY_ACTIONS.contains(&action);
                let decision = if is_its_own { Decision::Allow } else { Decision::ImplicitDeny };
                return Ok(decision);
            }
            Principal::Service { name } => {
                let Some(role) = self.service_role(name)? else {
                    return Ok(Decision::ImplicitDeny);
                };
                let who = format!("acs:ram::{owner}:role/{}", role.role_name);
                (role.grants.decide(action, resource, &at), who)
            }
        };
        let by_key = key_policy.map(|policy| policy.decide(&who, action, resource, &at));
        Ok(granted.or(by_key.unwrap_or(Decision::ImplicitDeny)))
    }

    /// In whose name a service acts on a customer's key now: the role's, if there is one that
    /// trusts it.
    ///
    /// # Errors
    /// As [`Ram::decide`].
    pub fn acting(&self, principal: &Principal) -> Result<ServiceActsAs, RamError> {
        let Principal::Service { name } = principal else { return Ok(ServiceActsAs::Itself) };
        Ok(match self.service_role(name)? {
            None => ServiceActsAs::Itself,
            Some(role) => ServiceActsAs::CustomersRole {
                role_id: role.role_id.clone(),
                role_name: role.role_name.clone(),
            },
        })
    }

    /// The role in which the service of this name uses its customers' keys, if it may.
    fn service_role(&self, service: &str) -> Result<Option<Arc<GrantedRole>>, RamError> {
        if service != ECS_SERVICE {
            return Ok(None);
        }
        let role = self.granted_role(ECS_ROLE)?;
        Ok(role.filter(|role| role.trust.trusts_service(service, self.clock.now())))
    }

    fn granted_role(&self, name: &str) -> Result<Option<Arc<GrantedRole>>, RamError> {
        if let Some(known) = self.cache.role(name) {
            return Ok(known);
        }
        let generation = self.cache.generation();
        let role = match self.catalog.role(name)? {
            None => None,
            Some(record) => Some(Arc::new(GrantedRole {
                trust: TrustPolicy::parse(&record.trust_policy).map_err(|error| {
                    RamError::DamagedPolicy { policy_name: record.role_name.clone(), error }
                })?,
                grants: self.grants(&Holder::Role(record.role_id.clone()))?,
                role_id: record.role_id,
                role_name: record.role_name,
            })),
        };
        self.cache.keep_role(generation, name, role.as_ref());
        Ok(role)
    }

    fn grants(&self, holder: &Holder) -> Result<Arc<Grants>, RamError> {
        if let Some(known) = self.cache.grants(holder) {
            return Ok(known);
        }
        let generation = self.cache.generation();
        let mut policies = Vec::new();
        for attachment in self.catalog.attachments(holder)? {
            let policy_name = attachment.policy_name;
            let document = match attachment.kind {
                // One that a later release took away gives nothing.
                PolicyKind::System => match system_policy(&policy_name) {
                    Some(policy) => policy.document.to_owned(),
                    None => continue,
                },
                PolicyKind::Custom => match self.catalog.policy(&policy_name)? {
                    Some(policy) => policy.document,
                    None => continue,
                },
            };
            let policy = Policy::parse(&document)
                .map_err(|error| RamError::DamagedPolicy { policy_name, error })?;
            policies.push(policy);
        }
        let grants = Arc::new(Grants(policies));
        self.cache.keep_grants(generation, holder, &grants);
        Ok(grants)
    }
}
