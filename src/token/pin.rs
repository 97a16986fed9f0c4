//! The PIN: read anew for each login, from where only we can read it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cryptoki::types::RawAuthPin;

use crate::config::{PIN_CREDENTIAL_DEFAULT, PIN_VARIABLE_DEFAULT, PinSource};
use crate::secret::Secret;

/// Longest PIN, in bytes.
const PIN_BYTES_MAX: usize = 256;

/// Permissions that others must not have.
const OTHERS: u32 = 0o077;

/// Names the directory of the credentials (systemd.exec(5)).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Why there is no PIN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinError {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's word.
        kind: io::ErrorKind,
    },
    /// Others than its owner may read or write the file.
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// What is there is empty, or too long to be a PIN.
    Malformed {
        /// Where it is, for people.
        place: String,
    },
    /// There is none.
    Absent {
        /// Where it should be, for people.
        place: String,
    },
}

/// Reads the PIN.
pub(super) fn read(source: &PinSource) -> Result<Secret, PinError> {
    match source {
        PinSource::File(path) => {
            let text = read_file(path, true)?;
            trimmed(&text).ok_or_else(|| malformed(source))
        }
        PinSource::Credential(name) => {
            let absent = || PinError::Absent { place: source.to_string() };
            credential(name)?.ok_or_else(absent)
        }
        PinSource::Environment(name) => {
            let absent = || PinError::Absent { place: source.to_string() };
            variable(name)?.ok_or_else(absent)
        }
        PinSource::Usual => match credential(PIN_CREDENTIAL_DEFAULT)? {
            Some(pin) => Ok(pin),
            None => variable(PIN_VARIABLE_DEFAULT)?
                .ok_or_else(|| PinError::Absent { place: source.to_string() }),
        },
    }
}

/// In the form that the library takes; wiped when it is dropped.
pub(super) fn for_library(pin: &Secret) -> RawAuthPin {
    RawAuthPin::new(Box::new(pin.expose().to_vec()))
}

fn credential(name: &str) -> Result<Option<Secret>, PinError> {
    let Some(directory) = std::env::var_os(CREDENTIALS) else { return Ok(None) };
    let path = PathBuf::from(directory).join(name);
    // The service manager gives each service its own; the mode is its business.
    match read_file(&path, false) {
        Err(PinError::Unreadable { kind: io::ErrorKind::NotFound, .. }) => Ok(None),
        Err(error) => Err(error),
        Ok(text) => trimmed(&text)
            .map(Some)
            .ok_or(PinError::Malformed { place: path.display().to_string() }),
    }
}

fn variable(name: &str) -> Result<Option<Secret>, PinError> {
    use std::os::unix::ffi::OsStringExt;
    let Some(value) = std::env::var_os(name) else { return Ok(None) };
    let text = Secret::take(&mut value.into_vec());
    let malformed = || PinError::Malformed { place: format!("environment variable {name}") };
    trimmed(&text).filter(|pin| pin.len() <= PIN_BYTES_MAX).map(Some).ok_or_else(malformed)
}

fn read_file(path: &Path, is_ours: bool) -> Result<Secret, PinError> {
    let failed =
        |error: io::Error| PinError::Unreadable { path: path.to_owned(), kind: error.kind() };
    let mut file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if is_ours && mode & OTHERS != 0 {
        return Err(PinError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = Secret::zeroed(PIN_BYTES_MAX + 2);
    let mut length = 0;
    while length < text.len() {
        match file.read(&mut text.expose_mut()[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if length == text.len() {
        return Err(PinError::Malformed { place: path.display().to_string() });
    }
    Ok(Secret::from_fn(length, |exact| exact.copy_from_slice(&text.expose()[..length])))
}

/// Without its line end; `None` if nothing is left.
fn trimmed(text: &Secret) -> Option<Secret> {
    let bytes = text.expose();
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    (!bytes.is_empty()).then(|| Secret::from_fn(bytes.len(), |pin| pin.copy_from_slice(bytes)))
}

fn malformed(source: &PinSource) -> PinError {
    PinError::Malformed { place: source.to_string() }
}

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PIN: ")?;
        match self {
            Self::Unreadable { path, kind } => write!(f, "{}: {kind}", path.display()),
            Self::Exposed { path, mode } => write!(
                f,
                "{} is open to others than its owner (mode {mode:04o}); chmod 600 it, and change \
                 the PIN if they cannot be trusted",
                path.display()
            ),
            Self::Malformed { place } => {
                write!(f, "{place} does not hold one line of 1 to {PIN_BYTES_MAX} bytes")
            }
            Self::Absent { place } => write!(f, "{place} is not there"),
        }
    }
}

impl std::error::Error for PinError {}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_private_and_holds_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        let source = PinSource::File(path.clone());
        let absent = read(&source).unwrap_err();
        assert!(matches!(absent, PinError::Unreadable { kind: io::ErrorKind::NotFound, .. }));
        let mode = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        std::fs::write(&path, "1234\n").unwrap();
        mode(0o640);
        assert!(matches!(read(&source), Err(PinError::Exposed { mode: 0o640, .. })));
        mode(0o600);
        assert_eq!(read(&source).unwrap().expose(), b"1234");
        for bad in [String::new(), "\n".into(), "1".repeat(PIN_BYTES_MAX + 2)] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(read(&source), Err(PinError::Malformed { .. })));
        }
    }
}
