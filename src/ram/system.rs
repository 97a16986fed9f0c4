//! What is built in: the system's policies, and the role in which the disk service uses its
//! customers' keys.

use super::PolicyError;
use super::policy::Policy;

/// The disk service, as a principal.
pub const ECS_SERVICE: &str = "ecs.aliyuncs.com";

/// Role in which the disk service uses its customers' keys.
pub const ECS_ROLE: &str = "AliyunECSDiskEncryptDefaultRole";

/// The policy that this role holds unless its owner changed that.
pub const ECS_ROLE_POLICY: &str = "AliyunECSDiskEncryptRolePolicy";

/// What the owner of a new account says of the role.
pub(super) const ECS_ROLE_DESCRIPTION: &str =
    "ECS will use this role to access your resources in other services.";

/// Who may take the role on.
pub(super) const ECS_ROLE_TRUST: &str = r#"{"Version":"1","Statement":[{"Action":"sts:AssumeRole","Effect":"Allow","Principal":{"Service":["ecs.aliyuncs.com"]}}]}"#;

/// What a service does with a service key of its own, under no role and no policy.
pub(super) const SERVICE_KEY_ACTIONS: [&str; 6] = [
    "kms:Encrypt",
    "kms:Decrypt",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:DescribeKey",
    "kms:CreateServiceKey",
];

/// The account in the resource names of the system's policies.
pub const SYSTEM_OWNER: &str = "system";

/// A policy that comes with the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemPolicy {
    /// Its published name.
    pub name: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// Its document.
    pub document: &'static str,
}

impl SystemPolicy {
    /// The policy that its document holds.
    ///
    /// # Errors
    /// None for those of [`SYSTEM_POLICIES`]: a test reads them all.
    pub fn policy(&self) -> Result<Policy, PolicyError> {
        Policy::parse(self.document)
    }
}

/// The system policy of this name.
pub fn system_policy(name: &str) -> Option<&'static SystemPolicy> {
    SYSTEM_POLICIES.iter().find(|policy| policy.name == name)
}

/// The system's policies, by name.
pub const SYSTEM_POLICIES: [SystemPolicy; 13] = [
    SystemPolicy {
        name: "AdministratorAccess",
        description: "Everything in the account.",
        document: r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#,
    },
    SystemPolicy {
        name: "AliyunActionTrailFullAccess",
        description: "Everything with ActionTrail.",
        document: r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"actiontrail:*","Resource":"*"}]}"#,
    },
    SystemPolicy {
        name: "AliyunActionTrailReadOnlyAccess",
        description: "Reading ActionTrail.",
        document: r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":["actiontrail:Lookup*","actiontrail:Describe*","actiontrail:Get*"],"Resource":"*"}]}"#,
    },
    SystemPolicy {
        name: ECS_ROLE_POLICY,
        description: "What the disk service does with keys that carry its tag.",
        document: r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":["kms:List*","kms:DescribeKey","kms:TagResource","kms:UntagResource"],"Resource":"acs:kms:*:*:*"},{"Effect":"Allow","Action":["kms:Encrypt","kms:Decrypt","kms:GenerateDataKey"],"Resource":"acs:kms:*:*:*/*","Condition":{"StringEqualsIgnoreCase":{"kms:tag/acs:ecs:disk-encryption":"true"}}}]}"#,
    },
    SystemPolicy {
        name: "AliyunECSFullAccess",
        description: "Everything with disks.",
        document: r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":["ecs:*","sealdisk:*"],"Resource":"*"}]}"#,
    },
    SystemPolicy {
        name: "AliyunECSReadOnlyAccess",
        description: "Looking at disks.",
        document: r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":["ecs:Describe*","ecs:List*","sealdisk:Describe*"],"Resource":"*"}]}"#,
    },
    SystemPolicy {
        name: "AliyunKMSCryptoAdminAccess",
        description: "Managing and using keys and aliases.",
        document: r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":["acs:kms:*:*:key","acs:kms:*:*:key/*","acs:kms:*:*:alias","acs:kms:*:*:alias/*"]}]}"#,
    },
    SystemPolicy {
        name: "AliyunKMSCryptoUserAccess",
        description: "Using keys.",
        document: r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":["kms:Encrypt","kms:Decrypt","kms:GenerateDataKey","kms:GenerateDataKeyWithoutPlaintext","kms:ReEncrypt*","kms:Asymmetric*","kms:GetPublicKey","kms:List*","kms:Describe*"],"Resource":["acs:kms:*:*:key","acs:kms:*:*:key/*","acs:kms:*:*:alias","acs:kms:*:*:alias/*"]}]}"#,
    },
    SystemPolicy {
        name: "AliyunKMSFullAccess",
        description: "Everything with keys.",
        document: r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}"#,
    },
    SystemPolicy {
        name: "AliyunKMSReadOnlyAccess",
        description: "Looking at keys.",
        document: r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":["kms:List*","kms:Describe*","kms:GetKeyPolicy","kms:GetPublicKey"],"Resource":"*"}]}"#,
    },
    SystemPolicy {
        name: "AliyunRAMFullAccess",
        description: "Everything with users, roles and policies.",
        document: r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"ram:*","Resource":"*"}]}"#,
    },
    SystemPolicy {
        name: "AliyunRAMReadOnlyAccess",
        description: "Looking at users, roles and policies.",
        document: r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":["ram:Get*","ram:List*"],"Resource":"*"}]}"#,
    },
    SystemPolicy {
        name: "ReadOnlyAccess",
        description: "Looking at everything in the account.",
        document: r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":["*:Describe*","*:List*","*:Get*","*:Lookup*"],"Resource":"*"}]}"#,
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::key_policy::TrustPolicy;

    #[test]
    fn what_is_built_in_can_be_read() {
        for policy in SYSTEM_POLICIES {
            policy.policy().unwrap_or_else(|error| panic!("{}: {error}", policy.name));
        }
        assert!(SYSTEM_POLICIES.is_sorted_by_key(|policy| policy.name));
        let trust = TrustPolicy::parse(ECS_ROLE_TRUST).unwrap();
        assert!(trust.trusts_service(ECS_SERVICE, crate::clock::Timestamp::default()));
    }
}
