//! Key pairs: sign, verify, encrypt, decrypt, and the public half. A call names the version.

use super::call::Call;
use super::encryption::{Decrypted, Encrypted, Use};
use super::spec::{ENCRYPT, KeySpec, SIGN};
use super::{Action, Kms, KmsError, state};
use crate::catalog::{KeyRecord, KeyVersionRecord};
use crate::crypto::asymmetric::{self, AsymmetricError, DIGEST_BYTES};
use crate::ram::Caller;

/// Longest signature or ciphertext of a key pair of ours, in bytes (RSA_4096).
pub const PAIR_BYTES_MAX: usize = 512;

/// Which version of which key pair, and how.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// `KeyId`.
    pub key: &'a str,
    /// `KeyVersionId`.
    pub version_id: &'a str,
    /// `Algorithm`.
    pub algorithm: &'a str,
}

/// A signature.
#[derive(Debug)]
pub struct Signed {
    /// RSA: as long as the key. ECDSA: DER.
    pub signature: Vec<u8>,
    /// The key that signed.
    pub key_id: String,
    /// The version that signed.
    pub key_version: String,
}

/// Whether a signature is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// It is.
    pub is_valid: bool,
    /// The key that was asked.
    pub key_id: String,
    /// The version that was asked.
    pub key_version: String,
}

/// The public half of a key version.
#[derive(Debug)]
pub struct PublicKey {
    /// X.509 SubjectPublicKeyInfo, DER.
    pub der: Vec<u8>,
    /// The key.
    pub key_id: String,
    /// The version.
    pub key_version: String,
}

impl Kms {
    /// AsymmetricSign: signs a SHA-256 digest.
    ///
    /// # Errors
    /// The published refusals.
    pub fn asymmetric_sign<'a>(
        &self,
        caller: &Caller,
        pair: Pair<'_>,
        digest: &[u8],
        using: impl Into<Use<'a>>,
    ) -> Result<Signed, KmsError> {
        self.using(caller, Action::AsymmetricSign, using.into(), |call| {
            let (key, version, spec) = self.pair(call, (pair.key, pair.version_id), SIGN)?;
            call.request("Algorithm", pair.algorithm);
            let signing = spec.signing(pair.algorithm)?;
            check_digest(digest)?;
            let signature = self.store(&version)?.sign(&version, signing, digest)?;
            Ok(Signed { signature, key_id: key.key_id, key_version: version.version_id })
        })
    }

    /// AsymmetricVerify: whether the signature is one of the digest.
    ///
    /// # Errors
    /// The published refusals.
    pub fn asymmetric_verify<'a>(
        &self,
        caller: &Caller,
        pair: Pair<'_>,
        (digest, signature): (&[u8], &[u8]),
        using: impl Into<Use<'a>>,
    ) -> Result<Verified, KmsError> {
        self.using(caller, Action::AsymmetricVerify, using.into(), |call| {
            let (key, version, spec) = self.pair(call, (pair.key, pair.version_id), SIGN)?;
            call.request("Algorithm", pair.algorithm);
            let signing = spec.signing(pair.algorithm)?;
            check_digest(digest)?;
            let public = public_half(&version)?;
            let verified = asymmetric::verify(public, signing, digest, signature);
            let is_valid = verified.map_err(|_| KmsError::InvalidParameter("Digest"))?;
            Ok(Verified { is_valid, key_id: key.key_id, key_version: version.version_id })
        })
    }

    /// AsymmetricEncrypt: under the public half.
    ///
    /// # Errors
    /// The published refusals.
    pub fn asymmetric_encrypt<'a>(
        &self,
        caller: &Caller,
        pair: Pair<'_>,
        plaintext: &[u8],
        using: impl Into<Use<'a>>,
    ) -> Result<Encrypted, KmsError> {
        self.using(caller, Action::AsymmetricEncrypt, using.into(), |call| {
            let (key, version, spec) = self.pair(call, (pair.key, pair.version_id), ENCRYPT)?;
            call.request("Algorithm", pair.algorithm);
            let padding = spec.padding(pair.algorithm)?;
            let sealed = asymmetric::encrypt(public_half(&version)?, padding, plaintext);
            let blob = sealed.map_err(|error| match error {
                AsymmetricError::Input => KmsError::InvalidParameter("Plaintext"),
                AsymmetricError::Key => damaged(&version),
            })?;
            Ok(Encrypted { blob, key_id: key.key_id, key_version: version.version_id })
        })
    }

    /// AsymmetricDecrypt.
    ///
    /// # Errors
    /// The published refusals.
    pub fn asymmetric_decrypt<'a>(
        &self,
        caller: &Caller,
        pair: Pair<'_>,
        ciphertext: &[u8],
        using: impl Into<Use<'a>>,
    ) -> Result<Decrypted, KmsError> {
        self.using(caller, Action::AsymmetricDecrypt, using.into(), |call| {
            self.open_pair(call, (pair.key, pair.version_id), pair.algorithm, ciphertext)
        })
    }

    /// GetPublicKey.
    ///
    /// # Errors
    /// The published refusals.
    pub fn public_key<'a>(
        &self,
        caller: &Caller,
        (key, version_id): (&str, &str),
        using: impl Into<Use<'a>>,
    ) -> Result<PublicKey, KmsError> {
        self.using(caller, Action::GetPublicKey, using.into(), |call| {
            call.request("KeyVersionId", version_id);
            let key = self.resolve(call, key)?;
            state::check(call.action, key.state)?;
            spec_of_pair(&key)?;
            let version = self.version_of(&key, version_id)?;
            let der = public_half(&version)?.to_vec();
            Ok(PublicKey { der, key_id: key.key_id, key_version: version.version_id })
        })
    }

    /// What the private half makes of a ciphertext.
    pub(super) fn open_pair(
        &self,
        call: &mut Call<'_>,
        named: (&str, &str),
        algorithm: &str,
        ciphertext: &[u8],
    ) -> Result<Decrypted, KmsError> {
        let (key, version, spec) = self.pair(call, named, ENCRYPT)?;
        call.request("Algorithm", algorithm);
        let padding = spec.padding(algorithm)?;
        let plaintext = self.store(&version)?.decrypt(&version, padding, ciphertext)?;
        let plaintext = plaintext.ok_or(KmsError::InvalidParameter("CiphertextBlob"))?;
        Ok(Decrypted { plaintext, key_id: key.key_id, key_version: version.version_id })
    }

    /// The named version of a key pair that may be used so.
    fn pair(
        &self,
        call: &mut Call<'_>,
        (key, version_id): (&str, &str),
        usage: &str,
    ) -> Result<(KeyRecord, KeyVersionRecord, KeySpec), KmsError> {
        call.request("KeyVersionId", version_id);
        let key = self.resolve(call, key)?;
        state::check(call.action, key.state)?;
        let spec = spec_of_pair(&key)?;
        if key.usage != usage {
            return Err(KmsError::UnsupportedAction);
        }
        let version = self.version_of(&key, version_id)?;
        call.response("KeyId", key.key_id.as_str());
        call.response("KeyVersionId", version_id);
        Ok((key, version, spec))
    }
}

fn spec_of_pair(key: &KeyRecord) -> Result<KeySpec, KmsError> {
    let spec = KeySpec::of(&key.spec).filter(|spec| !spec.is_symmetric());
    spec.ok_or(KmsError::UnsupportedAction)
}

fn public_half(version: &KeyVersionRecord) -> Result<&[u8], KmsError> {
    version.public_key.as_deref().ok_or_else(|| damaged(version))
}

fn damaged(version: &KeyVersionRecord) -> KmsError {
    KmsError::DamagedMaterial { version_id: version.version_id.clone() }
}

const fn check_digest(digest: &[u8]) -> Result<(), KmsError> {
    if digest.len() == DIGEST_BYTES { Ok(()) } else { Err(KmsError::InvalidParameter("Digest")) }
}
