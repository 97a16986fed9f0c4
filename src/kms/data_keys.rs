//! What the disk service asks of a KMS: of the one in the house, or of one on another host.

use super::context::Context;
use super::{DataKey, Decrypted, Encrypted, Kms, KmsError, Source, is_symmetric};
use crate::catalog::KeyState;
use crate::ram::Caller;

/// A key, as far as a disk must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundKey {
    /// Its id.
    pub key_id: String,
    /// Whether it may be used now.
    pub state: KeyState,
    /// Whether it can wrap data keys at all.
    pub is_symmetric: bool,
}

/// A KMS that wraps the data keys of disks. Every call may block.
pub trait DataKeys: Send + Sync {
    /// Id of the key of disks that name none.
    ///
    /// # Errors
    /// The KMS's.
    fn default_key(&self, caller: &Caller) -> Result<String, KmsError>;

    /// The key of this id, alias or ARN (DescribeKey).
    ///
    /// # Errors
    /// The KMS's.
    fn find_key(&self, caller: &Caller, key: &str) -> Result<FoundKey, KmsError>;

    /// A fresh data key of so many bytes (GenerateDataKey).
    ///
    /// # Errors
    /// The KMS's.
    fn generate_data_key(
        &self,
        caller: &Caller,
        key_id: &str,
        bytes: usize,
        context: &Context,
    ) -> Result<DataKey, KmsError>;

    /// Unwraps a data key (Decrypt).
    ///
    /// # Errors
    /// The KMS's.
    fn decrypt(
        &self,
        caller: &Caller,
        blob: &[u8],
        context: &Context,
    ) -> Result<Decrypted, KmsError>;

    /// Wraps what a blob holds under the primary version of the key `key_id`, for `context`; the
    /// data key stays within the KMS (ReEncrypt). `source` is the blob and the context that it is
    /// bound to. Key and version in the answer are those that wrap it from here on.
    ///
    /// # Errors
    /// The KMS's, of either key.
    fn re_encrypt(
        &self,
        caller: &Caller,
        source: (&[u8], &Context),
        key_id: &str,
        context: &Context,
    ) -> Result<Encrypted, KmsError>;
}

impl DataKeys for Kms {
    fn default_key(&self, caller: &Caller) -> Result<String, KmsError> {
        Ok(self.service_key(caller)?.key_id)
    }

    fn find_key(&self, caller: &Caller, key: &str) -> Result<FoundKey, KmsError> {
        let key = self.describe_key(caller, key)?;
        let is_symmetric = is_symmetric(&key);
        Ok(FoundKey { key_id: key.key_id, state: key.state, is_symmetric })
    }

    fn generate_data_key(
        &self,
        caller: &Caller,
        key_id: &str,
        bytes: usize,
        context: &Context,
    ) -> Result<DataKey, KmsError> {
        Self::generate_data_key(self, caller, key_id, bytes, context)
    }

    fn decrypt(
        &self,
        caller: &Caller,
        blob: &[u8],
        context: &Context,
    ) -> Result<Decrypted, KmsError> {
        Self::decrypt(self, caller, blob, context)
    }
    fn re_encrypt(
        &self,
        caller: &Caller,
        (blob, bound_to): (&[u8], &Context),
        key_id: &str,
        context: &Context,
    ) -> Result<Encrypted, KmsError> {
        self.rewrap(caller, Source::Blob { blob, context: bound_to }, key_id, context)
    }
}
