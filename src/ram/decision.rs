//! The decision: explicit denial over permission over silence.

use super::Principal;

/// The disk service, as a principal.
pub const ECS_SERVICE: &str = "ecs.aliyuncs.com";

/// What the role of the disk service grants, and what it needs for its own service key.
const ECS_ACTIONS: [&str; 6] = [
    "kms:Encrypt",
    "kms:Decrypt",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:DescribeKey",
    "kms:CreateServiceKey",
];

/// The outcome of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A statement allows it and none denies it.
    Allow,
    /// No statement speaks of it.
    ImplicitDeny,
    /// A statement denies it.
    ExplicitDeny,
}

impl Decision {
    /// Whether the call may go on.
    pub const fn is_allowed(self) -> bool {
        matches!(self, Self::Allow)
    }

    /// `NoPermissionType` of a published denial; `None` if it was allowed.
    pub const fn no_permission_type(self) -> Option<&'static str> {
        match self {
            Self::Allow => None,
            Self::ImplicitDeny => Some("ImplicitDeny"),
            Self::ExplicitDeny => Some("ExplicitDeny"),
        }
    }
}

/// Whether `principal` may do `action` (`kms:Encrypt`) to `resource`
/// (`acs:kms:<region>:<account>:key/<id>`). Silence is denial.
///
/// What nobody but a service may do with a service key is not a matter of permission: `kms`
/// refuses it even to the account's root.
pub fn decide(principal: &Principal, action: &str, resource: &str) -> Decision {
    let Some(owner) = owner_of(resource) else {
        return Decision::ImplicitDeny;
    };
    let allowed = match principal {
        Principal::Root { account } => account == owner,
        Principal::Service { name } => *name == ECS_SERVICE && ECS_ACTIONS.contains(&action),
        Principal::System => true,
    };
    if allowed { Decision::Allow } else { Decision::ImplicitDeny }
}

/// The account in a resource name; `None` if it is not a resource name.
fn owner_of(resource: &str) -> Option<&str> {
    let mut parts = resource.splitn(5, ':');
    let (scheme, _service, _region) = (parts.next()?, parts.next()?, parts.next()?);
    let (account, relative) = (parts.next()?, parts.next()?);
    (scheme == "acs" && !account.is_empty() && !relative.is_empty()).then_some(account)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "acs:kms:cn-hangzhou:1000000000000001:key/k";

    fn root(account: &str) -> Principal {
        Principal::Root { account: account.into() }
    }

    #[test]
    fn root_has_everything_in_its_own_account_and_nothing_elsewhere() {
        for action in ["kms:CreateKey", "kms:Decrypt", "ecs:CreateDisk", "anything"] {
            assert_eq!(decide(&root("1000000000000001"), action, KEY), Decision::Allow);
            assert_eq!(decide(&root("1000000000000002"), action, KEY), Decision::ImplicitDeny);
        }
    }

    #[test]
    fn the_disk_service_may_use_keys_and_not_manage_them() {
        let ecs = Principal::Service { name: ECS_SERVICE };
        for action in ECS_ACTIONS {
            assert!(decide(&ecs, action, KEY).is_allowed(), "{action}");
        }
        for action in
            ["kms:DisableKey", "kms:ScheduleKeyDeletion", "kms:CreateAlias", "kms:ListKeys"]
        {
            assert_eq!(decide(&ecs, action, KEY), Decision::ImplicitDeny, "{action}");
        }
        let other = Principal::Service { name: "rds.aliyuncs.com" };
        assert_eq!(decide(&other, "kms:Decrypt", KEY), Decision::ImplicitDeny);
    }

    #[test]
    fn what_is_no_resource_is_denied() {
        for resource in ["", "key/k", "acs:kms:r", "acs:kms:r::key/k", "arn:kms:r:1:key/k"] {
            assert_eq!(decide(&root("1"), "kms:Decrypt", resource), Decision::ImplicitDeny);
        }
    }
}
