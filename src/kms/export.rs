//! Data keys that go elsewhere: under another KMS key (ReEncrypt), or under a public key of their
//! user's (ExportDataKey, GenerateAndExportDataKey).

use super::call::Call;
use super::context::Context;
use super::encryption::{Encrypted, Use};
use super::{Action, Kms, KmsError};
use crate::crypto::asymmetric::{self, Padding};
use crate::ram::Caller;
use crate::secret::Secret;

/// Bytes of an RSA-2048 ciphertext.
const WRAPPED_BYTES: usize = 256;

/// For whom a data key is wrapped.
#[derive(Clone, Copy, Debug)]
pub struct Recipient<'a> {
    /// `PublicKeyBlob`: X.509 SubjectPublicKeyInfo of an RSA-2048 key.
    pub public_key: &'a [u8],
    /// `WrappingAlgorithm`.
    pub wrapping: &'a str,
    /// `WrappingKeySpec`.
    pub spec: &'a str,
}

/// A data key under somebody's public key.
#[derive(Debug)]
pub struct Exported {
    /// Under the public key.
    pub wrapped: Vec<u8>,
    /// Under the KMS key: the `CiphertextBlob`; none if it came from one.
    pub blob: Option<Vec<u8>>,
    /// The KMS key.
    pub key_id: String,
    /// Its version.
    pub key_version: String,
}

/// Where the ciphertext of a ReEncrypt comes from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A blob, which names its key.
    Blob {
        /// The `CiphertextBlob`.
        blob: &'a [u8],
        /// `SourceEncryptionContext`.
        context: &'a Context,
    },
    /// A ciphertext under the public half of a key pair.
    Pair {
        /// The ciphertext.
        ciphertext: &'a [u8],
        /// `SourceKeyId`.
        key: &'a str,
        /// `SourceKeyVersionId`.
        version_id: &'a str,
        /// `SourceEncryptionAlgorithm`.
        algorithm: &'a str,
    },
}

impl Kms {
    /// ReEncrypt: decrypts and encrypts under `destination` without showing what. Key and version
    /// in the answer are those that decrypted, as published.
    ///
    /// # Errors
    /// The published refusals, of either key.
    pub fn re_encrypt<'a>(
        &self,
        caller: &Caller,
        source: Source<'_>,
        destination: &str,
        using: impl Into<Use<'a>>,
    ) -> Result<Encrypted, KmsError> {
        let using = using.into();
        self.using(caller, Action::ReEncrypt, using, |call| {
            let asked = ["ReEncryptFrom", "ReEncryptTo"];
            let (from, blob) = self.move_blob(call, asked, source, (destination, using.context))?;
            Ok(Encrypted { blob: blob.blob, ..from })
        })
    }

    /// ReEncrypt for whoever may decrypt under the one key and encrypt under the other, and so
    /// could do both in turn: the disk service, whose published role knows no ReEncrypt. Key and
    /// version in the answer are those that encrypted.
    ///
    /// # Errors
    /// The published refusals, of either key.
    pub(super) fn rewrap(
        &self,
        caller: &Caller,
        source: Source<'_>,
        destination: &str,
        context: &Context,
    ) -> Result<Encrypted, KmsError> {
        self.using(caller, Action::ReEncrypt, context.into(), |call| {
            let asked = ["Decrypt", "Encrypt"];
            Ok(self.move_blob(call, asked, source, (destination, context))?.1)
        })
    }

    /// What decrypted, without a blob, and what was encrypted. `asked` are the permissions that
    /// the caller needs with either key.
    fn move_blob(
        &self,
        call: &mut Call<'_>,
        asked: [&'static str; 2],
        source: Source<'_>,
        (destination, context): (&str, &Context),
    ) -> Result<(Encrypted, Encrypted), KmsError> {
        call.request("DestinationKeyId", destination);
        call.ask_for(asked[0]);
        let opened = match source {
            Source::Blob { blob, context } => self.open_blob(call, blob, context)?,
            Source::Pair { ciphertext, key, version_id, algorithm } => {
                self.open_pair(call, (key, version_id), algorithm, ciphertext)?
            }
        };
        call.ask_for(asked[1]);
        let key = self.find(call, destination)?;
        super::state::check(call.action, key.state)?;
        let sealed = self.seal(call, &key, opened.plaintext.expose(), context);
        let sealed = sealed.map_err(|error| match error {
            KmsError::InvalidParameter("EncryptionContext") => {
                KmsError::InvalidParameter("DestinationEncryptionContext")
            }
            other => other,
        })?;
        let (key_id, key_version) = (opened.key_id, opened.key_version);
        call.response("KeyId", key_id.as_str());
        call.response("KeyVersionId", key_version.as_str());
        Ok((Encrypted { blob: Vec::new(), key_id, key_version }, sealed))
    }

    /// ExportDataKey: what a blob holds, wrapped for `recipient`.
    ///
    /// # Errors
    /// The published refusals.
    pub fn export_data_key<'a>(
        &self,
        caller: &Caller,
        blob: &[u8],
        recipient: Recipient<'_>,
        using: impl Into<Use<'a>>,
    ) -> Result<Exported, KmsError> {
        let using = using.into();
        self.using(caller, Action::ExportDataKey, using, |call| {
            recipient.record(call);
            let opened = self.open_blob(call, blob, using.context)?;
            let wrapped = recipient.wrap(&opened.plaintext, "CiphertextBlob")?;
            let (key_id, key_version) = (opened.key_id, opened.key_version);
            Ok(Exported { wrapped, blob: None, key_id, key_version })
        })
    }

    /// GenerateAndExportDataKey: a new data key, under the KMS key and wrapped for `recipient`.
    ///
    /// # Errors
    /// The published refusals.
    pub fn generate_and_export_data_key<'a>(
        &self,
        caller: &Caller,
        (key, bytes): (&str, usize),
        recipient: Recipient<'_>,
        using: impl Into<Use<'a>>,
    ) -> Result<Exported, KmsError> {
        let using = using.into();
        self.using(caller, Action::GenerateAndExportDataKey, using, |call| {
            recipient.record(call);
            let (plaintext, sealed) = self.new_data_key(call, key, bytes, using.context)?;
            let wrapped = recipient.wrap(&plaintext, "NumberOfBytes")?;
            let Encrypted { blob, key_id, key_version } = sealed;
            Ok(Exported { wrapped, blob: Some(blob), key_id, key_version })
        })
    }
}

impl Recipient<'_> {
    fn record(&self, call: &mut Call<'_>) {
        call.request("WrappingAlgorithm", self.wrapping);
        call.request("WrappingKeySpec", self.spec);
    }

    /// `too_long` is the parameter to blame for a data key that the public key has no room for.
    fn wrap(&self, data_key: &Secret, too_long: &'static str) -> Result<Vec<u8>, KmsError> {
        if self.spec != "RSA_2048" {
            return Err(KmsError::InvalidParameter("WrappingKeySpec"));
        }
        let padding = match self.wrapping {
            "RSAES_OAEP_SHA_256" => Padding::OaepSha256,
            "RSAES_OAEP_SHA_1" => Padding::OaepSha1,
            _ => return Err(KmsError::InvalidParameter("WrappingAlgorithm")),
        };
        let invalid = KmsError::InvalidParameter;
        match asymmetric::encrypt(self.public_key, padding, data_key.expose()) {
            Ok(wrapped) if wrapped.len() == WRAPPED_BYTES => Ok(wrapped),
            Err(asymmetric::AsymmetricError::Input) => Err(invalid(too_long)),
            Ok(_) | Err(asymmetric::AsymmetricError::Key) => Err(invalid("PublicKeyBlob")),
        }
    }
}
