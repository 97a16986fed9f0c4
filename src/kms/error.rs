//! Why a call was refused: the published codes, HTTP statuses and messages.

use std::fmt;

use super::remote::RemoteError;
use super::root::RootError;
use crate::catalog::CatalogError;
use crate::ram::RamError;
use crate::trail::TrailError;

/// A refusal or a failure. Says nothing of key material, and of a ciphertext only that it is not
/// valid.
#[derive(Debug)]
pub enum KmsError {
    /// No key of this id.
    KeyNotFound,
    /// No version of this id.
    KeyVersionNotFound,
    /// No alias of this name.
    AliasNotFound,
    /// No thing of this id that could be tagged.
    ResourceNotFound,
    /// The caller may not do this.
    NoPermission,
    /// This parameter is required.
    MissingParameter(&'static str),
    /// This parameter has a value that cannot be.
    InvalidParameter(&'static str),
    /// An alias of this name exists.
    AliasAlreadyExists,
    /// The account has as many as it may.
    LimitExceeded,
    /// This cannot be done to this key by anyone who calls.
    UnsupportedOperation,
    /// An alias stands where a key id is needed.
    UnsupportedAlias,
    /// Keys of this origin cannot be made.
    UnsupportedOrigin,
    /// Keys of this protection level cannot be made.
    UnsupportedProtectionLevel,
    /// The key is disabled.
    Disabled,
    /// The key waits for its deletion.
    PendingDeletion,
    /// The key waits for its material.
    PendingImport,
    /// The key's state does not allow this change of state.
    StateModifiedFailed,
    /// It could not be recorded, so it was not done.
    Unrecorded(TrailError),
    /// The catalog failed.
    Catalog(CatalogError),
    /// The stored material of this key version is not what was stored.
    DamagedMaterial {
        /// The version.
        version_id: String,
    },
    /// The root key does not fit the catalog.
    Root(RootError),
    /// The KMS on another host did not do it.
    Remote(RemoteError),
    /// Whether the caller may cannot be told.
    Ram(RamError),
}

impl KmsError {
    /// The published code.
    pub const fn code(&self) -> &'static str {
        self.published().0
    }

    /// The HTTP status that goes with it.
    pub const fn status(&self) -> u16 {
        self.published().1
    }

    /// The published message.
    pub fn message(&self) -> String {
        match self {
            Self::MissingParameter(name) => {
                format!("The parameter \"{name}\" is needed but not provided.")
            }
            Self::InvalidParameter(name) => {
                format!("The specified parameter \"{name}\" is not valid.")
            }
            Self::Remote(error) => error.to_string(),
            other => other.published().2.to_owned(),
        }
    }

    /// The table: code, status, message.
    const fn published(&self) -> (&'static str, u16, &'static str) {
        match self {
            Self::KeyNotFound => ("Forbidden.KeyNotFound", 404, "The specified Key is not found."),
            Self::KeyVersionNotFound => {
                ("Forbidden.KeyVersionNotFound", 404, "The specified KeyVersion is not found.")
            }
            Self::AliasNotFound => {
                ("Forbidden.AliasNotFound", 404, "The specified Alias is not found.")
            }
            Self::ResourceNotFound => {
                ("Forbidden.ResourceNotFound", 404, "The specified Resource is not found.")
            }
            Self::NoPermission => {
                ("Forbidden.NoPermission", 403, "This operation is forbidden by permission system.")
            }
            Self::MissingParameter(_) => ("MissingParameter", 400, ""),
            Self::InvalidParameter(_) => ("InvalidParameter", 400, ""),
            Self::AliasAlreadyExists => {
                ("AliasAlreadyExists", 400, "The specified Alias already exists.")
            }
            Self::LimitExceeded => ("Rejected.LimitExceeded", 400, "The limit is exceeded."),
            Self::UnsupportedOperation => {
                ("Rejected.UnsupportedOperation", 400, "Unsupported operation.")
            }
            Self::UnsupportedAlias => {
                ("Unsupported.Alias", 400, "An alias is not supported here; give the key id.")
            }
            Self::UnsupportedOrigin => {
                ("Unsupported.Origin", 400, "The specified Origin is not supported.")
            }
            Self::UnsupportedProtectionLevel => (
                "Unsupported.ProtectionLevel",
                400,
                "The specified ProtectionLevel is not supported.",
            ),
            Self::Disabled => (
                "Rejected.Disabled",
                409,
                "The request was rejected because the key state is Disabled.",
            ),
            Self::PendingDeletion => (
                "Rejected.PendingDeletion",
                409,
                "The request was rejected because the key state is PendingDeletion.",
            ),
            Self::PendingImport => (
                "Rejected.PendingImport",
                409,
                "The request was rejected because the key state is PendingImport.",
            ),
            Self::StateModifiedFailed => (
                "Rejected.StateModifiedFailed",
                409,
                "The request was rejected because the key state does not allow this change.",
            ),
            Self::Unrecorded(_) => (
                "ServiceUnavailableTemporary",
                503,
                "Service unavailable temporarily: the operation could not be recorded.",
            ),
            Self::Remote(error) => {
                let (code, status) = error.published();
                (code, status, "")
            }
            Self::Catalog(_) | Self::DamagedMaterial { .. } | Self::Root(_) | Self::Ram(_) => {
                ("InternalFailure", 500, "Internal failure.")
            }
        }
    }
}

/// For the operator's log: names causes that a client is not told.
impl fmt::Display for KmsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.code())?;
        match self {
            Self::Unrecorded(error) => write!(f, "not recorded, so not done: {error}"),
            Self::Catalog(error) => write!(f, "{error}"),
            Self::DamagedMaterial { version_id } => write!(
                f,
                "the stored material of key version {version_id} is damaged; restore the catalog"
            ),
            Self::Root(error) => write!(f, "{error}"),
            Self::Remote(error) => write!(f, "{error}"),
            Self::Ram(error) => write!(f, "{error}"),
            other => f.write_str(&other.message()),
        }
    }
}

impl std::error::Error for KmsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unrecorded(error) => Some(error),
            Self::Catalog(error) => Some(error),
            Self::Root(error) => Some(error),
            Self::Remote(error) => Some(error),
            Self::Ram(error) => Some(error),
            _ => None,
        }
    }
}

impl From<CatalogError> for KmsError {
    fn from(error: CatalogError) -> Self {
        Self::Catalog(error)
    }
}

impl From<RootError> for KmsError {
    fn from(error: RootError) -> Self {
        Self::Root(error)
    }
}

impl From<RemoteError> for KmsError {
    fn from(error: RemoteError) -> Self {
        Self::Remote(error)
    }
}
