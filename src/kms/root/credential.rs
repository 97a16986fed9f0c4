//! A root key, or a passphrase, that the service manager passes: a systemd credential, kept
//! encrypted to the machine (its TPM or host key) and readable for the service alone.

use std::fs::File;
use std::path::PathBuf;

use super::file::read_secret;
use super::key::{SoftwareKey, from_hex};
use super::{KEY_BYTES, Loaded, Provider, RootError};
use crate::catalog::RootRecord;
use crate::clock::Entropy;
use crate::secret::Secret;

/// Names the directory of the credentials (systemd.exec(5)).
const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// The provider `credential`: 64 hexadecimal digits.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Its name in the unit.
    pub name: String,
}

/// Reads the credential `name`, at most `bytes_max` of it.
pub(super) fn read(name: &str, bytes_max: usize) -> Result<(PathBuf, Secret), RootError> {
    let missing = || RootError::NoCredential { name: name.to_owned() };
    let path = std::env::var_os(DIRECTORY).map(PathBuf::from).ok_or_else(missing)?.join(name);
    let file = File::open(&path).map_err(|_| missing())?;
    match read_secret(&file, bytes_max) {
        Ok(text) => Ok((path, text)),
        Err(source) => Err(RootError::Io { path, source }),
    }
}

impl Provider for Credential {
    fn name(&self) -> &'static str {
        "credential"
    }

    fn place(&self) -> String {
        self.name.clone()
    }

    fn load(&self, _: Option<&RootRecord>, _: &dyn Entropy) -> Result<Loaded, RootError> {
        let (path, text) = read(&self.name, KEY_BYTES * 2 + 2)?;
        let key = from_hex(text.expose()).ok_or(RootError::Malformed { path })?;
        Ok(Loaded::new(SoftwareKey::new(key)))
    }

    fn prepare(
        &self,
        _: &RootRecord,
        given: Option<&Secret>,
        _: &dyn Entropy,
    ) -> Result<Loaded, RootError> {
        let given = given.ok_or(RootError::SecretNeeded { provider: self.name() })?;
        let key = from_hex(given.expose()).ok_or(RootError::MalformedSecret)?;
        Ok(Loaded::new(SoftwareKey::new(key)))
    }

    fn promote(&self) -> Result<(), RootError> {
        // Whoever gave the new key puts it into the unit.
        Ok(())
    }
}
