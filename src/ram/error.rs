//! Why RAM refused: the published codes, HTTP statuses and messages (RAM 2015-05-01).

use std::fmt;

use super::policy::PolicyError;
use crate::catalog::CatalogError;

/// What a refusal is about, as its code names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entity {
    /// A user.
    User,
    /// An access key.
    AccessKey,
    /// A role.
    Role,
    /// A policy.
    Policy,
    /// A policy attached to a user.
    UserPolicy,
    /// A policy attached to a role.
    RolePolicy,
}

/// A refusal or a failure of RAM.
#[derive(Debug)]
pub enum RamError {
    /// There is none.
    NotFound(Entity),
    /// There is one already.
    Exists(Entity),
    /// The account, user, role or policy has as many as it may.
    LimitExceeded(Entity),
    /// A user that still has access keys cannot be removed.
    UserHasAccessKeys,
    /// A user or role that policies are attached to cannot be removed; says which.
    HasPolicies(Entity),
    /// A policy that is attached cannot be removed; says to what (user or role).
    IsAttached(Entity),
    /// A parameter has characters it cannot have.
    InvalidChars(&'static str),
    /// A parameter is empty or too long.
    Length(&'static str),
    /// A parameter has a form it cannot have.
    Format(&'static str),
    /// A parameter has a value it cannot have.
    Value(&'static str),
    /// A policy document that is none.
    MalformedPolicy(PolicyError),
    /// A policy in the catalog cannot be read: nobody is given anything by it.
    DamagedPolicy {
        /// Its name.
        policy_name: String,
        /// Why not.
        error: PolicyError,
    },
    /// The stored secret of this access key is not what was stored.
    DamagedSecret {
        /// Its id.
        access_key_id: String,
    },
    /// The catalog failed, or the trail could not record (`CatalogError::Gate`): nothing was done.
    Catalog(CatalogError),
}

impl RamError {
    /// The published code.
    pub fn code(&self) -> String {
        match self {
            Self::NotFound(entity) => format!("EntityNotExist.{}", entity.as_str()),
            Self::Exists(entity) => format!("EntityAlreadyExists.{}", entity.as_str()),
            Self::LimitExceeded(entity) => format!("LimitExceeded.{}", entity.as_str()),
            Self::UserHasAccessKeys => "DeleteConflict.User.AccessKey".into(),
            Self::HasPolicies(entity) => format!("DeleteConflict.{}.Policy", entity.as_str()),
            Self::IsAttached(entity) => format!("DeleteConflict.Policy.{}", entity.as_str()),
            Self::InvalidChars(name) => format!("InvalidParameter.{name}.InvalidChars"),
            Self::Length(name) => format!("InvalidParameter.{name}.Length"),
            Self::Format(name) => format!("InvalidParameter.{name}.Format"),
            Self::Value(name) => format!("InvalidParameter.{name}"),
            Self::MalformedPolicy(_) => "MalformedPolicyDocument".into(),
            Self::Catalog(CatalogError::Gate(_)) => "ServiceUnavailableTemporary".into(),
            Self::DamagedPolicy { .. } | Self::DamagedSecret { .. } | Self::Catalog(_) => {
                "InternalFailure".into()
            }
        }
    }

    /// The HTTP status that goes with it.
    pub const fn status(&self) -> u16 {
        match self {
            Self::NotFound(_) => 404,
            Self::Exists(_)
            | Self::LimitExceeded(_)
            | Self::UserHasAccessKeys
            | Self::HasPolicies(_)
            | Self::IsAttached(_) => 409,
            Self::InvalidChars(_)
            | Self::Length(_)
            | Self::Format(_)
            | Self::Value(_)
            | Self::MalformedPolicy(_) => 400,
            Self::Catalog(CatalogError::Gate(_)) => 503,
            Self::DamagedPolicy { .. } | Self::DamagedSecret { .. } | Self::Catalog(_) => 500,
        }
    }

    /// The message that goes with it.
    pub fn message(&self) -> String {
        self.to_string()
    }
}

impl Entity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::AccessKey => "User.AccessKey",
            Self::Role => "Role",
            Self::Policy => "Policy",
            Self::UserPolicy => "User.Policy",
            Self::RolePolicy => "Role.Policy",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::AccessKey => "user access key",
            Self::Role => "role",
            Self::Policy => "policy",
            Self::UserPolicy => "policy attached to the user",
            Self::RolePolicy => "policy attached to the role",
        }
    }
}

impl fmt::Display for RamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(entity) => write!(f, "The {} does not exist.", entity.words()),
            Self::Exists(entity) => write!(f, "The {} does already exist.", entity.words()),
            Self::LimitExceeded(entity) => {
                write!(f, "The count of each {} is beyond the current limits.", entity.words())
            }
            Self::UserHasAccessKeys => {
                f.write_str("The user cannot have any access key while it is deleted.")
            }
            Self::HasPolicies(entity) => write!(
                f,
                "The {} cannot have any attached policy while it is deleted.",
                entity.words()
            ),
            Self::IsAttached(entity) => write!(
                f,
                "The policy cannot be attached to any {} while it is deleted.",
                entity.words()
            ),
            Self::InvalidChars(name) => {
                write!(f, "The parameter - \"{name}\" contains invalid chars.")
            }
            Self::Length(name) => write!(f, "The parameter - \"{name}\" beyond the length limit."),
            Self::Format(name) => {
                write!(f, "The format of the parameter - \"{name}\" is incorrect.")
            }
            Self::Value(name) => write!(f, "The parameter - \"{name}\" is incorrect."),
            Self::MalformedPolicy(error) => write!(f, "{error}"),
            Self::DamagedPolicy { policy_name, error } => write!(
                f,
                "ram: the stored policy {policy_name} cannot be read ({error}); detach and \
                 replace it"
            ),
            Self::DamagedSecret { access_key_id } => write!(
                f,
                "ram: the stored secret of access key {access_key_id} is damaged; delete the key \
                 and create another, or restore the catalog"
            ),
            Self::Catalog(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for RamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Catalog(error) => Some(error),
            Self::MalformedPolicy(error) | Self::DamagedPolicy { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<CatalogError> for RamError {
    fn from(error: CatalogError) -> Self {
        Self::Catalog(error)
    }
}
