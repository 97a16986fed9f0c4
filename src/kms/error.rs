//! Why a call was refused: the published codes, HTTP statuses and messages.

use std::fmt;

use super::remote::RemoteError;
use super::root::RootError;
use crate::catalog::CatalogError;
use crate::ram::RamError;
use crate::token::{OaepHash, TokenError};
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
    /// This action is not for keys of this kind.
    UnsupportedAction,
    /// Keys of this origin cannot be made, or do not take part in this.
    UnsupportedOrigin,
    /// Keys of this protection level cannot be made.
    UnsupportedProtectionLevel,
    /// This is not the key's material, or not material at all.
    InvalidKeyMaterial,
    /// The import token is not one of this key.
    InvalidImportToken,
    /// The import token is older than 24 hours.
    ExpiredImportToken,
    /// No KMS instance of this id.
    InstanceNotFound,
    /// The account has not opened the service.
    ServiceNotEnabled,
    /// The account owes money.
    InDebt,
    /// The account has owed money for too long.
    InDebtOverdue,
    /// A dry run: it would have been done.
    DryRunOperation,
    /// A dry run: it would have been refused to this caller.
    DryRunAccessDenied,
    /// A dry run: it would have been refused to everybody.
    DryRunInvalid,
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
    /// The material of this key is in a store that the daemon was started without.
    StoreMissing {
        /// The store.
        store: String,
    },
    /// The token that has the material does not do its part.
    Hsm {
        /// Why.
        error: TokenError,
        /// The key is one of a KMS instance.
        is_of_instance: bool,
    },
    /// The token unwraps imported material under this hash alone.
    WrappingOfToken {
        /// Which.
        hash: OaepHash,
    },
    /// The key version has encrypted as often as it may.
    WornOut,
    /// The cryptographic library could not make a key pair.
    Entropy,
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
            Self::Hsm { error, .. } => format!("{}: {}.", self.text(), error.brief()),
            Self::WrappingOfToken { hash } => format!(
                "The specified parameter \"WrappingAlgorithm\" is not valid: this HSM takes \
                 RSAES_OAEP_{}.",
                hash.as_str()
            ),
            other => other.text().to_owned(),
        }
    }

    /// What a dry run answers where the real one would have been refused so. Our own failures stay
    /// what they are.
    pub(super) fn in_dry_run(self) -> Self {
        match self {
            Self::NoPermission => Self::DryRunAccessDenied,
            refusal if refusal.status() < 500 => Self::DryRunInvalid,
            failure => failure,
        }
    }

    /// With a token's failure as keys of an instance show it.
    pub(super) fn of_instance(self, is_of_instance: bool) -> Self {
        match self {
            Self::Hsm { error, .. } => Self::Hsm { error, is_of_instance },
            other => other,
        }
    }

    /// The table: code and status.
    const fn published(&self) -> (&'static str, u16) {
        match self {
            Self::KeyNotFound => ("Forbidden.KeyNotFound", 404),
            Self::KeyVersionNotFound => ("Forbidden.KeyVersionNotFound", 404),
            Self::AliasNotFound => ("Forbidden.AliasNotFound", 404),
            Self::ResourceNotFound => ("Forbidden.ResourceNotFound", 404),
            Self::NoPermission => ("Forbidden.NoPermission", 403),
            Self::MissingParameter(_) => ("MissingParameter", 400),
            Self::InvalidParameter(_) => ("InvalidParameter", 400),
            Self::AliasAlreadyExists => ("AliasAlreadyExists", 400),
            Self::LimitExceeded => ("Rejected.LimitExceeded", 400),
            Self::UnsupportedOperation => ("Rejected.UnsupportedOperation", 400),
            Self::UnsupportedAction => ("UnsupportedOperation", 400),
            Self::InvalidKeyMaterial => ("InvalidKeyMaterial", 400),
            Self::InvalidImportToken => ("InvalidImportToken", 400),
            Self::ExpiredImportToken => ("ExpiredImportToken", 400),
            Self::InstanceNotFound => ("Forbidden.DKMSInstanceNotFound", 404),
            Self::ServiceNotEnabled => ("Forbidden.KmsServiceNotEnabled", 403),
            Self::InDebt => ("Forbidden.InDebt", 403),
            Self::InDebtOverdue => ("Forbidden.InDebtOverdue", 403),
            Self::DryRunOperation => ("DryRunOperationError", 400),
            Self::DryRunAccessDenied => ("AccessDeniedError", 403),
            Self::DryRunInvalid => ("ValidationError", 400),
            Self::UnsupportedAlias => ("Unsupported.Alias", 400),
            Self::UnsupportedOrigin => ("Unsupported.Origin", 400),
            Self::UnsupportedProtectionLevel => ("Unsupported.ProtectionLevel", 400),
            Self::Disabled => ("Rejected.Disabled", 409),
            Self::PendingDeletion => ("Rejected.PendingDeletion", 409),
            Self::PendingImport => ("Rejected.PendingImport", 409),
            Self::StateModifiedFailed => ("Rejected.StateModifiedFailed", 409),
            Self::Unrecorded(_) => ("ServiceUnavailableTemporary", 503),
            Self::StoreMissing { .. } => ("ServiceUnavailableTemporary", 503),
            // Later it will do; clients try again.
            Self::Hsm { error, .. } if error.is_busy() => ("ServiceUnavailableTemporary", 503),
            Self::Hsm { is_of_instance: true, .. } => ("Forbidden.DKMSInstanceStateInvalid", 409),
            Self::Hsm { is_of_instance: false, .. } => ("ServiceUnavailableTemporary", 503),
            Self::WrappingOfToken { .. } => ("InvalidParameter", 400),
            Self::WornOut => ("Rejected.LimitExceeded", 400),
            Self::Remote(error) => error.published(),
            Self::Catalog(_)
            | Self::DamagedMaterial { .. }
            | Self::Entropy
            | Self::Root(_)
            | Self::Ram(_) => ("InternalFailure", 500),
        }
    }

    /// The table's messages; those of parameters come from [`KmsError::message`].
    const fn text(&self) -> &'static str {
        match self {
            Self::MissingParameter(_)
            | Self::InvalidParameter(_)
            | Self::Remote(_)
            | Self::WrappingOfToken { .. } => "",
            Self::Hsm { is_of_instance: true, .. } => {
                "The specified DKMSInstance is not in a state to do this"
            }
            Self::Hsm { is_of_instance: false, .. } => {
                "Service unavailable temporarily: the key's HSM cannot do this"
            }
            Self::WornOut => {
                "The key version has encrypted as often as is safe (2^32); rotate the key."
            }
            Self::KeyNotFound => "The specified Key is not found.",
            Self::KeyVersionNotFound => "The specified KeyVersion is not found.",
            Self::AliasNotFound => "The specified Alias is not found.",
            Self::ResourceNotFound => "The specified Resource is not found.",
            Self::NoPermission => "This operation is forbidden by permission system.",
            Self::AliasAlreadyExists => "The specified Alias already exists.",
            Self::LimitExceeded => "The limit is exceeded.",
            Self::UnsupportedOperation => "Unsupported operation.",
            Self::UnsupportedAction => "This action is not supported.",
            Self::InvalidKeyMaterial => "The specified key material is not valid.",
            Self::InvalidImportToken => "The specified import token is not valid.",
            Self::ExpiredImportToken => "The specified import token has expired.",
            Self::InstanceNotFound => "The specified DKMSInstance is not found.",
            Self::ServiceNotEnabled => "The KMS service is not enabled for the current user.",
            Self::InDebt => "The current user is indebted.",
            Self::InDebtOverdue => "The current user is indebted, and overdue.",
            Self::DryRunOperation => "The request would have succeeded, but DryRun is true.",
            Self::DryRunAccessDenied => "The request would have been forbidden; DryRun is true.",
            Self::DryRunInvalid => "The request would have been refused; DryRun is true.",
            Self::UnsupportedAlias => "An alias is not supported here; give the key id.",
            Self::UnsupportedOrigin => "The specified Origin is not supported.",
            Self::UnsupportedProtectionLevel => "The specified ProtectionLevel is not supported.",
            Self::Disabled => "The request was rejected because the key state is Disabled.",
            Self::PendingDeletion => {
                "The request was rejected because the key state is PendingDeletion."
            }
            Self::PendingImport => {
                "The request was rejected because the key state is PendingImport."
            }
            Self::StateModifiedFailed => {
                "The request was rejected because the key state does not allow this change."
            }
            Self::Unrecorded(_) => {
                "Service unavailable temporarily: the operation could not be recorded."
            }
            Self::StoreMissing { .. } => {
                "Service unavailable temporarily: the key's material cannot be reached."
            }
            Self::Catalog(_)
            | Self::DamagedMaterial { .. }
            | Self::Entropy
            | Self::Root(_)
            | Self::Ram(_) => "Internal failure.",
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
            Self::StoreMissing { store } => {
                write!(f, "the material is in store {store}, which is not configured; configure it")
            }
            Self::Hsm { error, .. } => write!(f, "{error}"),
            Self::Entropy => f.write_str("the library made no key pair"),
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
            Self::Hsm { error, .. } => Some(error),
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
