//! Versions of keys: seen, not yet made by callers.

use super::{Action, Kms, KmsError, Paging};
use crate::catalog::{KeyVersionRecord, Listed};
use crate::ram::Caller;

impl Kms {
    /// ListKeyVersions: oldest first.
    ///
    /// # Errors
    /// The published refusals.
    pub fn list_key_versions(
        &self,
        caller: &Caller,
        key: &str,
        paging: Paging,
    ) -> Result<Listed<KeyVersionRecord>, KmsError> {
        self.call(caller, Action::ListKeyVersions, |call| {
            let key = self.resolve(call, key)?;
            Ok(self.catalog.key_versions(&key.key_id, paging.page()?)?)
        })
    }

    /// DescribeKeyVersion.
    ///
    /// # Errors
    /// The published refusals.
    pub fn describe_key_version(
        &self,
        caller: &Caller,
        key: &str,
        version_id: &str,
    ) -> Result<KeyVersionRecord, KmsError> {
        self.call(caller, Action::DescribeKeyVersion, |call| {
            call.request("KeyVersionId", version_id);
            let key = self.resolve(call, key)?;
            let version = self.catalog.key_version(version_id)?;
            version
                .filter(|version| version.key_id == key.key_id)
                .ok_or(KmsError::KeyVersionNotFound)
        })
    }
}
