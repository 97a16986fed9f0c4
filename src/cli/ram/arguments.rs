//! The command line of users, roles and policies.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Commands on users and their access keys.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Create a user, who may do nothing until a policy is attached
    #[command(after_help = "Example:\n  sealdisk user create ann --comments 'the backup job'")]
    Create {
        /// Who.
        #[command(flatten)]
        user: UserName,
        /// What people call the user
        #[arg(long, default_value = "", value_name = "TEXT")]
        display_name: String,
        /// What the user is for
        #[arg(long, default_value = "", value_name = "TEXT")]
        comments: String,
    },
    /// List all users
    #[command(after_help = "Example:\n  sealdisk user list")]
    List,
    /// Show one user
    #[command(after_help = "Example:\n  sealdisk user show ann")]
    Show(UserName),
    /// Delete a user who has neither access keys nor policies
    #[command(after_help = "Example:\n  sealdisk user delete ann")]
    Delete(UserName),
    /// Attach a policy to a user
    #[command(after_help = "Example:\n  sealdisk user attach-policy ann AliyunKMSReadOnlyAccess")]
    AttachPolicy {
        /// Who.
        #[command(flatten)]
        user: UserName,
        /// Name of the policy
        policy: String,
    },
    /// Take a policy away from a user
    #[command(after_help = "Example:\n  sealdisk user detach-policy ann AliyunKMSReadOnlyAccess")]
    DetachPolicy {
        /// Who.
        #[command(flatten)]
        user: UserName,
        /// Name of the policy
        policy: String,
    },
    /// List the policies of a user
    #[command(after_help = "Example:\n  sealdisk user policies ann")]
    Policies(UserName),
    /// Make an access key and print its secret, this once
    #[command(after_help = "Examples:\n  sealdisk user create-access-key ann\n  \
        sealdisk user create-access-key --owner -o json > access-key.json")]
    CreateAccessKey(KeyOwner),
    /// List the access keys of a user
    #[command(after_help = "Examples:\n  sealdisk user access-keys ann\n  \
        sealdisk user access-keys --owner")]
    AccessKeys(KeyOwner),
    /// Let requests be signed with an access key again
    #[command(after_help = "Example:\n  sealdisk user enable-access-key ann --id LTAI…")]
    EnableAccessKey(AccessKey),
    /// Refuse requests that are signed with an access key
    #[command(after_help = "Example:\n  sealdisk user disable-access-key ann --id LTAI…")]
    DisableAccessKey(AccessKey),
    /// Delete an access key for good
    #[command(after_help = "Example:\n  sealdisk user delete-access-key ann --id LTAI…")]
    DeleteAccessKey(AccessKey),
}

/// A user.
#[derive(Args, Debug)]
pub struct UserName {
    /// Name of the user
    #[arg(value_name = "USER")]
    pub user: String,
}

/// Whose access keys.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("whose").required(true).args(["user", "owner"]))]
pub struct KeyOwner {
    /// Name of the user
    #[arg(value_name = "USER")]
    pub user: Option<String>,
    /// The account's owner instead, who may do everything
    #[arg(long)]
    pub owner: bool,
}

/// An access key and whose it is.
#[derive(Args, Debug)]
pub struct AccessKey {
    /// Whose.
    #[command(flatten)]
    pub whose: KeyOwner,
    /// Id of the access key
    #[arg(long, value_name = "LTAI…")]
    pub id: String,
}

/// Commands on roles.
#[derive(Debug, Subcommand)]
pub enum RoleCommand {
    /// Create a role that services may take on
    #[command(after_help = "Examples:\n  \
        sealdisk role create AliyunECSDiskEncryptDefaultRole --service ecs.aliyuncs.com\n  \
        sealdisk role create backup --trust trust.json")]
    Create {
        /// Which.
        #[command(flatten)]
        role: RoleName,
        /// Service that may take it on
        #[arg(long, value_name = "NAME", required_unless_present = "trust")]
        service: Option<String>,
        /// File with its trust policy
        #[arg(long, value_name = "FILE", conflicts_with = "service")]
        trust: Option<PathBuf>,
        /// What it is for
        #[arg(long, default_value = "", value_name = "TEXT")]
        description: String,
    },
    /// List all roles
    #[command(after_help = "Example:\n  sealdisk role list")]
    List,
    /// Show one role and its trust policy
    #[command(after_help = "Example:\n  sealdisk role show AliyunECSDiskEncryptDefaultRole")]
    Show(RoleName),
    /// Delete a role that holds no policies
    #[command(after_help = "Example:\n  sealdisk role delete backup")]
    Delete(RoleName),
    /// Attach a policy to a role
    #[command(after_help = "Example:\n  sealdisk role attach-policy \
        AliyunECSDiskEncryptDefaultRole AliyunECSDiskEncryptRolePolicy")]
    AttachPolicy {
        /// Which.
        #[command(flatten)]
        role: RoleName,
        /// Name of the policy
        policy: String,
    },
    /// Take a policy away from a role
    #[command(after_help = "Example:\n  sealdisk role detach-policy \
        AliyunECSDiskEncryptDefaultRole AliyunECSDiskEncryptRolePolicy")]
    DetachPolicy {
        /// Which.
        #[command(flatten)]
        role: RoleName,
        /// Name of the policy
        policy: String,
    },
    /// List the policies of a role
    #[command(after_help = "Example:\n  sealdisk role policies AliyunECSDiskEncryptDefaultRole")]
    Policies(RoleName),
}

/// A role.
#[derive(Args, Debug)]
pub struct RoleName {
    /// Name of the role
    #[arg(value_name = "ROLE")]
    pub role: String,
}

/// Commands on policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Create a policy from a JSON document
    #[command(
        after_help = "Example:\n  sealdisk policy create read-keys --document policy.json\n\n\
        A policy: {\"Version\":\"1\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":\"kms:Describe*\",\
        \"Resource\":\"*\"}]}"
    )]
    Create {
        /// Which.
        #[command(flatten)]
        policy: PolicyName,
        /// File with the policy
        #[arg(long, value_name = "FILE")]
        document: PathBuf,
        /// What it is for
        #[arg(long, default_value = "", value_name = "TEXT")]
        description: String,
    },
    /// List all policies, the system's and your own
    #[command(after_help = "Examples:\n  sealdisk policy list\n  sealdisk policy list --custom")]
    List {
        /// Only your own
        #[arg(long)]
        custom: bool,
    },
    /// Show one policy and its document
    #[command(after_help = "Example:\n  sealdisk policy show AliyunKMSReadOnlyAccess")]
    Show(PolicyName),
    /// Delete a policy that nobody holds
    #[command(after_help = "Example:\n  sealdisk policy delete read-keys")]
    Delete(PolicyName),
}

/// A policy.
#[derive(Args, Debug)]
pub struct PolicyName {
    /// Name of the policy
    #[arg(value_name = "POLICY")]
    pub policy: String,
}
