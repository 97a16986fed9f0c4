//! Why the daemon did not start.

use std::fmt;
use std::path::PathBuf;

use crate::api::TlsError;
use crate::catalog::CatalogError;
use crate::disk::ControlError;
use crate::kms::KmsError;
use crate::kms::remote::RemoteError;
use crate::kms::root::RootError;
use crate::ram::RamError;
use crate::trail::TrailError;

/// What kept the daemon from starting.
#[derive(Debug)]
pub enum DaemonError {
    /// Another daemon has this data directory.
    DataDirInUse {
        /// The directory.
        path: PathBuf,
        /// The other's process id, as it wrote it.
        holder: String,
    },
    /// The data directory cannot be used.
    DataDir {
        /// The directory or file.
        path: PathBuf,
        /// The system's word.
        error: std::io::Error,
    },
    /// A socket could not be bound.
    Listen {
        /// Path or address.
        place: String,
        /// The system's word.
        error: std::io::Error,
    },
    /// Certificate and key cannot be used.
    Tls(TlsError),
    /// The operating system gave no thread, timer or limit.
    Start(std::io::Error),
    /// The metrics recorder could not be set up.
    Metrics(Box<dyn std::error::Error + Send + Sync>),
    /// The catalog cannot be opened.
    Catalog(CatalogError),
    /// The root key cannot be loaded.
    Root(RootError),
    /// The trail cannot be opened.
    Trail(TrailError),
    /// The KMS cannot be opened.
    Kms(KmsError),
    /// The KMS on another host cannot be set up.
    RemoteKms(RemoteError),
    /// The first role or access key cannot be made.
    Ram(RamError),
    /// What the last run left behind could not be finished.
    Recovery(ControlError),
}

impl fmt::Display for DaemonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DataDirInUse { path, holder } => write!(
                f,
                "another sealdisk daemon (process {holder}) has the data directory {}: stop it, or \
                 choose another with --data-dir",
                path.display()
            ),
            Self::DataDir { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Listen { place, error } if error.kind() == std::io::ErrorKind::AddrInUse => {
                write!(f, "cannot listen on {place}: something else does; choose another or `off`")
            }
            Self::Listen { place, error } => write!(f, "cannot listen on {place}: {error}"),
            Self::Tls(error) => write!(f, "api.https: {error}"),
            Self::Start(error) => write!(f, "cannot start: {error}"),
            Self::Metrics(error) => write!(f, "cannot set up metrics: {error}"),
            Self::Catalog(error) => write!(f, "{error}"),
            Self::Root(error) => write!(f, "{error}"),
            Self::Trail(error) => write!(f, "{error}"),
            Self::Kms(error) => write!(f, "{error}"),
            Self::RemoteKms(error) => write!(f, "{error}"),
            Self::Ram(error) => write!(f, "{error}"),
            Self::Recovery(error) => write!(f, "recovery at start: {error}"),
        }
    }
}

impl std::error::Error for DaemonError {}

impl From<CatalogError> for DaemonError {
    fn from(error: CatalogError) -> Self {
        Self::Catalog(error)
    }
}

impl From<TlsError> for DaemonError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl From<RootError> for DaemonError {
    fn from(error: RootError) -> Self {
        Self::Root(error)
    }
}

impl From<TrailError> for DaemonError {
    fn from(error: TrailError) -> Self {
        Self::Trail(error)
    }
}

impl From<KmsError> for DaemonError {
    fn from(error: KmsError) -> Self {
        match error {
            KmsError::Root(error) => Self::Root(error),
            error => Self::Kms(error),
        }
    }
}

impl From<RamError> for DaemonError {
    fn from(error: RamError) -> Self {
        Self::Ram(error)
    }
}

impl From<ControlError> for DaemonError {
    fn from(error: ControlError) -> Self {
        Self::Recovery(error)
    }
}
