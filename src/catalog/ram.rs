//! Users, access keys, roles, policies and what is attached to whom. No secret is in any of them:
//! an access key's secret is wrapped.

use super::CatalogError;
use crate::clock::Timestamp;

/// A RAM user of the account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRecord {
    /// 18 digits; never used again.
    pub user_id: String,
    /// Unique in the account, 1 to 64 characters.
    pub user_name: String,
    /// What people call the user.
    pub display_name: String,
    /// What the owner says of the user.
    pub comments: String,
    /// Kept and shown.
    pub email: String,
    /// Kept and shown.
    pub mobile_phone: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last changed.
    pub updated: Timestamp,
}

/// An access key: its id in clear, its secret wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessKeyRecord {
    /// `LTAI…`, 24 letters and digits.
    pub access_key_id: String,
    /// The user it belongs to; `None`: the account's owner.
    pub user_id: Option<String>,
    /// The secret under a key derived from the root key, the id as associated data.
    pub wrapped_secret: Vec<u8>,
    /// Whether requests may be signed with it.
    pub is_active: bool,
    /// When it was made.
    pub created: Timestamp,
}

/// A role that services or users of the account may take on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRecord {
    /// 18 digits; never used again.
    pub role_id: String,
    /// Unique in the account, 1 to 64 characters.
    pub role_name: String,
    /// What the owner says of it.
    pub description: String,
    /// Who may take it on: a JSON document.
    pub trust_policy: String,
    /// Longest session, in seconds.
    pub session_seconds_max: u32,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last changed.
    pub updated: Timestamp,
}

/// A policy of the owner's. Those of the system are part of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRecord {
    /// Unique in the account, 1 to 128 characters.
    pub policy_name: String,
    /// What the owner says of it.
    pub description: String,
    /// The policy: a JSON document.
    pub document: String,
    /// When it was made.
    pub created: Timestamp,
}

/// Whose policy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// Built in.
    System,
    /// Made by the owner.
    Custom,
}

impl PolicyKind {
    /// The published name (`PolicyType`).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "System",
            Self::Custom => "Custom",
        }
    }

    /// The kind of this published name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::System, Self::Custom].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What a policy can be attached to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// The user with this id.
    User(String),
    /// The role with this id.
    Role(String),
}

/// A policy that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentRecord {
    /// Who holds it.
    pub holder: Holder,
    /// Whose policy it is.
    pub kind: PolicyKind,
    /// Its name.
    pub policy_name: String,
    /// Since when.
    pub attached: Timestamp,
}

/// One step of a change of users, roles or policies.
#[derive(Clone, Debug)]
pub enum RamOperation {
    /// A new user.
    InsertUser(UserRecord),
    /// Removes a user by id. One that still has access keys or policies is refused with
    /// [`CatalogError::Referenced`].
    DeleteUser(String),
    /// A new access key.
    InsertAccessKey(AccessKeyRecord),
    /// Replaces an access key's wrapped secret and whether it is active.
    UpdateAccessKey(AccessKeyRecord),
    /// Removes an access key by id.
    DeleteAccessKey(String),
    /// A new role.
    InsertRole(RoleRecord),
    /// Removes a role by id, unless policies are attached to it ([`CatalogError::Referenced`]).
    DeleteRole(String),
    /// A new policy of the owner's.
    InsertPolicy(PolicyRecord),
    /// Removes a policy by name, unless it is attached ([`CatalogError::Referenced`]).
    DeletePolicy(String),
    /// Attaches a policy; [`CatalogError::Exists`] if it is attached already.
    Attach(AttachmentRecord),
    /// Takes a policy away.
    Detach {
        /// From whom.
        holder: Holder,
        /// Whose policy it is.
        kind: PolicyKind,
        /// Its name.
        policy_name: String,
    },
}

/// The questions about users, roles and policies. Lists are ordered by name (access keys and
/// attachments by age) and go on after the last name seen.
pub trait RamCatalog {
    /// The user of this name.
    fn user(&self, user_name: &str) -> Result<Option<UserRecord>, CatalogError>;

    /// The user with this id.
    fn user_by_id(&self, user_id: &str) -> Result<Option<UserRecord>, CatalogError>;

    /// Up to `limit` users whose names come after `after`.
    fn users(&self, after: &str, limit: u64) -> Result<Vec<UserRecord>, CatalogError>;

    /// The access key with this id.
    fn access_key(&self, access_key_id: &str) -> Result<Option<AccessKeyRecord>, CatalogError>;

    /// The access keys of a user, or those of the owner (`None`).
    fn access_keys(&self, user_id: Option<&str>) -> Result<Vec<AccessKeyRecord>, CatalogError>;

    /// Every access key there is, for those who wrap them anew.
    fn all_access_keys(&self) -> Result<Vec<AccessKeyRecord>, CatalogError>;

    /// The role of this name.
    fn role(&self, role_name: &str) -> Result<Option<RoleRecord>, CatalogError>;

    /// Up to `limit` roles whose names come after `after`.
    fn roles(&self, after: &str, limit: u64) -> Result<Vec<RoleRecord>, CatalogError>;

    /// The owner's policy of this name.
    fn policy(&self, policy_name: &str) -> Result<Option<PolicyRecord>, CatalogError>;

    /// Up to `limit` of the owner's policies whose names come after `after`.
    fn policies(&self, after: &str, limit: u64) -> Result<Vec<PolicyRecord>, CatalogError>;

    /// What is attached to `holder`.
    fn attachments(&self, holder: &Holder) -> Result<Vec<AttachmentRecord>, CatalogError>;

    /// Who holds this policy.
    fn holders(
        &self,
        kind: PolicyKind,
        policy_name: &str,
    ) -> Result<Vec<AttachmentRecord>, CatalogError>;
}
