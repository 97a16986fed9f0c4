//! What can be wrong with a KMS on another host. Each names it, and what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::kms::KmsError;

/// Why a KMS on another host did not do what was asked.
#[derive(Debug)]
pub enum RemoteError {
    /// A file that the configuration names cannot be used.
    File {
        /// The file.
        path: PathBuf,
        /// What must be in it.
        wanted: &'static str,
        /// The system's word; `None` if its content is at fault.
        source: Option<io::Error>,
    },
    /// Others than its owner may read the access key.
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// TLS cannot be set up at all.
    Tls(Box<dyn std::error::Error + Send + Sync>),
    /// Nobody answers there, or not the one whose certificate is trusted.
    Unreachable {
        /// Where.
        endpoint: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    Timeout {
        /// Where.
        endpoint: String,
        /// The time that each try was given.
        after: Duration,
    },
    /// It refused.
    Refused {
        /// Where.
        endpoint: String,
        /// HTTP status.
        status: u16,
        /// Its code.
        code: String,
        /// Its message.
        message: String,
        /// Names the call in its trail.
        request_id: String,
    },
    /// What answers there does not speak the API.
    NotAKms {
        /// Where.
        endpoint: String,
    },
    /// A disk names no key, and no default is configured.
    NoDefaultKey {
        /// Where.
        endpoint: String,
    },
}

impl RemoteError {
    /// As the KMS in the house would say it, where a disk makes a difference of it.
    pub(super) fn translated(self) -> KmsError {
        let Self::Refused { code, message, .. } = &self else { return self.into() };
        match code.as_str() {
            "Forbidden.KeyNotFound" | "Forbidden.AliasNotFound" => KmsError::KeyNotFound,
            "Forbidden.KmsServiceNotEnabled" => KmsError::ServiceNotEnabled,
            "Forbidden.InDebt" => KmsError::InDebt,
            "Forbidden.InDebtOverdue" => KmsError::InDebtOverdue,
            "Rejected.Disabled" => KmsError::Disabled,
            "Rejected.PendingDeletion" => KmsError::PendingDeletion,
            "Rejected.PendingImport" => KmsError::PendingImport,
            "InvalidParameter" if message.contains("CiphertextBlob") => {
                KmsError::InvalidParameter("CiphertextBlob")
            }
            _ => self.into(),
        }
    }

    /// Code and status for the client of the disk service.
    pub(in crate::kms) const fn published(&self) -> (&'static str, u16) {
        match self {
            Self::NoDefaultKey { .. } => ("MissingParameter", 400),
            Self::Refused { status: 403 | 401, .. } => ("Forbidden.NoPermission", 403),
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Refused { .. } => {
                ("ServiceUnavailableTemporary", 503)
            }
            Self::File { .. } | Self::Exposed { .. } | Self::Tls(_) | Self::NotAKms { .. } => {
                ("InternalFailure", 500)
            }
        }
    }
}

/// What to do about a refusal, where its words do not say it.
fn advice(code: &str) -> &'static str {
    match code {
        "SignatureDoesNotMatch" | "IncompleteSignature" => {
            "; is the secret in the access key file the one of this access key?"
        }
        "InvalidAccessKeyId.NotFound" | "InvalidAccessKeyId.Inactive" => {
            "; make an access key there and put it into the access key file"
        }
        "InvalidTimeStamp.Expired" | "InvalidTimeStamp.Format" => {
            "; the clocks of the two hosts differ: set them"
        }
        "Forbidden.NoPermission" | "Forbidden.RAM" => {
            "; allow its user kms:DescribeKey, kms:GenerateDataKey and kms:Decrypt on the key, and \
             kms:ReEncrypt* to wrap data keys anew"
        }
        _ => "",
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("remote KMS: ")?;
        match self {
            Self::File { path, wanted, source: Some(source) } => {
                write!(f, "{}, which should hold {wanted}: {source}", path.display())
            }
            Self::File { path, wanted, source: None } => {
                write!(f, "{} does not hold {wanted}", path.display())
            }
            Self::Exposed { path, mode } => write!(
                f,
                "{} is open to others than its owner (mode {mode:04o}); make a new access key, \
                 and chmod 600 its file",
                path.display()
            ),
            Self::Tls(source) => write!(f, "TLS cannot be set up: {source}"),
            Self::Unreachable { endpoint, source } => write!(
                f,
                "{endpoint} cannot be reached: {source}; is it running, and is its certificate \
                 signed by what ca_file names?"
            ),
            Self::Timeout { endpoint, after } => {
                write!(
                    f,
                    "{endpoint} did not answer in {after:?}; look at its load and the network"
                )
            }
            Self::Refused { endpoint, status, code, message, request_id } => write!(
                f,
                "{endpoint} refused ({status} {code}): {message} (request {request_id}){}",
                advice(code)
            ),
            Self::NotAKms { endpoint } => {
                write!(f, "what answers at {endpoint} is no KMS; check kms.remote.endpoint")
            }
            Self::NoDefaultKey { endpoint } => write!(
                f,
                "the disk names no key, and service keys of {endpoint} are not ours to use; give \
                 KMSKeyId, or set kms.remote.default_key"
            ),
        }
    }
}

impl std::error::Error for RemoteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source: Some(source), .. } => Some(source),
            Self::Tls(source) | Self::Unreachable { source, .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}
