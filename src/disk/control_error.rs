//! Why a disk command was refused, with the codes that ECS publishes.

use std::fmt;

use crate::catalog::CatalogError;
use crate::kms::KmsError;
use crate::layer::LayerError;
use crate::ram::Denial;
use crate::storage::StorageError;
use crate::trail::TrailError;

/// A refused or failed disk command.
#[derive(Debug)]
pub enum ControlError {
    /// The caller's fault, or the disk's state: refused with a published code.
    Refused {
        /// Published code.
        code: &'static str,
        /// HTTP status published with it.
        status: u16,
        /// What is wrong and what to do.
        message: String,
    },
    /// The caller's policies do not let it.
    Denied {
        /// Why not.
        denial: Box<Denial>,
        /// On what.
        resource: String,
    },
    /// The KMS refused or failed; its own code goes on.
    Kms(KmsError),
    /// The catalog failed.
    Catalog(CatalogError),
    /// The trail cannot record: nothing was done.
    Trail(TrailError),
    /// The layer is damaged, changed or not ours.
    Layer {
        /// Where it lies.
        file: std::path::PathBuf,
        /// What is wrong with it.
        error: LayerError,
    },
    /// The layer directory failed.
    Storage {
        /// Where.
        file: std::path::PathBuf,
        /// How.
        error: StorageError,
    },
}

impl ControlError {
    /// A refusal with a published code.
    pub fn refused(code: &'static str, status: u16, message: impl Into<String>) -> Self {
        Self::Refused { code, status, message: message.into() }
    }

    /// An action that is not there yet.
    pub fn unsupported(action: &str) -> Self {
        Self::refused("UnsupportedOperation", 400, format!("{action} is not supported."))
    }

    /// No disk of this id or name.
    pub fn no_such_disk(disk: &str) -> Self {
        let message = format!("The specified disk does not exist: {disk}");
        Self::refused("InvalidDiskId.NotFound", 404, message)
    }

    /// The disk's state does not allow it.
    pub fn wrong_status(disk: &str, status: impl fmt::Display) -> Self {
        let message =
            format!("The current disk status does not support this operation: {disk} is {status}.");
        Self::refused("IncorrectDiskStatus", 403, message)
    }

    /// The published code.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            Self::Denied { .. } => "Forbidden.RAM",
            Self::Kms(error) => error.code(),
            Self::Trail(_) => "ServiceUnavailableTemporary",
            Self::Layer { error: LayerError::Storage(StorageError::Locked), .. }
            | Self::Storage { error: StorageError::Locked, .. } => "InvalidDisk.InUse",
            Self::Layer { .. } | Self::Storage { error: StorageError::NoDirectIo, .. } => {
                "DiskError"
            }
            Self::Catalog(CatalogError::Changed) => "IncorrectDiskStatus",
            Self::Catalog(_) | Self::Storage { .. } => "InternalError",
        }
    }

    /// The HTTP status that belongs to the code.
    pub fn status(&self) -> u16 {
        match self {
            Self::Refused { status, .. } => *status,
            Self::Denied { .. } => 403,
            Self::Kms(error) => error.status(),
            Self::Trail(_) => 503,
            Self::Layer { .. } | Self::Catalog(CatalogError::Changed) => 403,
            Self::Storage { error: StorageError::Locked | StorageError::NoDirectIo, .. } => 403,
            Self::Catalog(_) | Self::Storage { .. } => 500,
        }
    }

    /// What is wrong and what to do, for a person.
    pub fn message(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { message, .. } => f.write_str(message),
            Self::Denied { denial, resource } => write!(
                f,
                "User not authorized to operate on the specified resource: {} on {resource} needs \
                 a policy that allows it.",
                denial.action
            ),
            Self::Kms(error) => write!(f, "{}", error.message()),
            Self::Catalog(error) => write!(f, "{error}"),
            Self::Trail(error) => write!(f, "nothing was done: {error}"),
            Self::Layer { file, error } => write!(f, "{}: {error}", file.display()),
            Self::Storage { file, error } => write!(f, "{}: {error}", file.display()),
        }
    }
}

impl std::error::Error for ControlError {}

impl From<KmsError> for ControlError {
    fn from(error: KmsError) -> Self {
        Self::Kms(error)
    }
}

impl From<CatalogError> for ControlError {
    /// A gate that refused is the trail's doing: its own error comes out again.
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Gate(cause) => match cause.downcast::<TrailError>() {
                Ok(trail) => Self::Trail(*trail),
                Err(other) => Self::Catalog(CatalogError::Gate(other)),
            },
            other => Self::Catalog(other),
        }
    }
}

impl From<TrailError> for ControlError {
    fn from(error: TrailError) -> Self {
        Self::Trail(error)
    }
}
