//! Bring your own key: material made elsewhere, wrapped for this key alone.
//!
//! Every GetParametersForImport makes a new RSA pair. Its private half travels in the import token,
//! sealed under a key made of the root key, so that nothing has to be kept for 24 hours and a
//! restart forgets no token:
//!
//! ```text
//! offset  bytes
//!      0      1  format, 1
//!      1      1  wrapping: 1 = PKCS #1 v1.5, 2 = OAEP with SHA-1, 3 = OAEP with SHA-256
//!      2      8  end of its life, milliseconds since 1970, big-endian
//!     10     12  initialisation vector
//!     22      n  PKCS #8 of the private half, AES-256-GCM; of a pair in a token, its CKA_ID
//!   22+n     16  tag
//! ```
//!
//! Associated data: `sealdisk-kms/import-token/v1`, the first 10 bytes, the key id.

use std::time::Duration;

use super::create::EXTERNAL;
use super::hsm::PairReference;
use super::material::MATERIAL_BYTES;
use super::{Action, Kms, KmsError, state};
use crate::catalog::{KeyRecord, KeyState, Operation};
use crate::clock::Timestamp;
use crate::crypto::aead;
use crate::crypto::asymmetric::{self, KeyKind, Padding};
use crate::ram::Caller;
use crate::secret::Secret;

/// How long a token and its public key can be used, as published.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

const LABEL: &[u8] = b"sealdisk-kms/import-token/v1";
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 10;

/// The published names of wrappings, and their numbers in tokens.
const WRAPPINGS: [(&str, u8, Padding); 3] = [
    ("RSAES_PKCS1_V1_5", 1, Padding::Pkcs1),
    ("RSAES_OAEP_SHA_1", 2, Padding::OaepSha1),
    ("RSAES_OAEP_SHA_256", 3, Padding::OaepSha256),
];

/// Last second that has a published form: the end of the year 9999.
const EXPIRY_SECONDS_MAX: i64 = 253_402_300_799;

/// What GetParametersForImport gives.
#[derive(Debug)]
pub struct ImportParameters {
    /// The key.
    pub key_id: String,
    /// To be given back with the material.
    pub token: Vec<u8>,
    /// X.509 SubjectPublicKeyInfo that wraps the material.
    pub public_key: Vec<u8>,
    /// End of both.
    pub expires: Timestamp,
}

/// Wrapped material.
#[derive(Clone, Copy, Debug)]
pub struct Import<'a> {
    /// Under the public key of the token.
    pub wrapped: &'a [u8],
    /// As [`ImportParameters::token`].
    pub token: &'a [u8],
    /// When the material expires, in seconds since 1970; 0 for never.
    pub expires: i64,
}

impl Kms {
    /// GetParametersForImport.
    ///
    /// # Errors
    /// The published refusals.
    pub fn parameters_for_import(
        &self,
        caller: &Caller,
        key_id: &str,
        wrapping: &str,
        wrapping_spec: &str,
    ) -> Result<ImportParameters, KmsError> {
        self.call(caller, Action::GetParametersForImport, |call| {
            call.request("WrappingAlgorithm", wrapping);
            call.request("WrappingKeySpec", wrapping_spec);
            let key = self.resolve(call, key_id)?;
            state::check(call.action, key.state)?;
            check_origin(&key)?;
            let expires = self.clock.now().plus(TOKEN_LIFE);
            let row = WRAPPINGS.iter().find(|(name, ..)| *name == wrapping);
            let (_, number, _) = row.ok_or(KmsError::InvalidParameter("WrappingAlgorithm"))?;
            let version = self.version_of(&key, &key.primary_version)?;
            if let Some(hsm) = self.hsm_of(&version) {
                let pair = hsm.import_pair(&key.key_id, (wrapping, wrapping_spec), expires);
                let pair = pair.map_err(|error| error.of_instance(key.instance.is_some()))?;
                call.response("OaepHash", pair.hash.as_str());
                let id = Secret::from_fn(pair.id.len(), |bytes| bytes.copy_from_slice(&pair.id));
                let token = self.seal_token(&key.key_id, *number, expires, &id);
                let (key_id, public_key) = (key.key_id, pair.public_key);
                return Ok(ImportParameters { key_id, token, public_key, expires });
            }
            if wrapping_spec != "RSA_2048" {
                return Err(KmsError::InvalidParameter("WrappingKeySpec"));
            }
            let failed = |_| KmsError::Entropy;
            let private = asymmetric::generate(KeyKind::Rsa2048).map_err(failed)?;
            let public_key = asymmetric::public_key(KeyKind::Rsa2048, &private).map_err(failed)?;
            let token = self.seal_token(&key.key_id, *number, expires, &private);
            Ok(ImportParameters { key_id: key.key_id, token, public_key, expires })
        })
    }

    /// ImportKeyMaterial.
    ///
    /// # Errors
    /// The published refusals. Material that is not the key's, or not material at all:
    /// [`KmsError::InvalidKeyMaterial`].
    pub fn import_key_material(
        &self,
        caller: &Caller,
        key_id: &str,
        import: Import<'_>,
    ) -> Result<(), KmsError> {
        let Import { wrapped, token, expires } = import;
        self.call(caller, Action::ImportKeyMaterial, |call| {
            call.request("KeyMaterialExpireUnix", expires);
            let _changes = self.lock_changes();
            let key = self.resolve(call, key_id)?;
            state::check(call.action, key.state)?;
            check_origin(&key)?;
            let material_expires = self.expiry(expires)?;
            let (padding, private) = self.open_token(&key.key_id, token)?;
            let mut version = self.version_of(&key, &key.primary_version)?;
            version.wrapped_material = if let Some(hsm) = self.hsm_of(&version) {
                let pair = PairReference::of(&private, padding);
                let pair = pair.ok_or(KmsError::InvalidImportToken)?;
                let imported = hsm.import_wrapped(&version, pair, wrapped);
                imported.map_err(|error| error.of_instance(key.instance.is_some()))?
            } else {
                let material = asymmetric::decrypt(&private, padding, wrapped);
                let material = material.map_err(|_| KmsError::InvalidKeyMaterial)?;
                if material.len() != MATERIAL_BYTES {
                    return Err(KmsError::InvalidKeyMaterial);
                }
                self.store(&version)?.import(&version, &material)?
            };
            let state = match key.state {
                KeyState::PendingImport => KeyState::Enabled,
                other => other,
            };
            let imported = KeyRecord { state, has_material: true, material_expires, ..key };
            self.commit(
                call,
                &[Operation::UpdateKeyVersion(version), Operation::UpdateKey(imported)],
            )
        })
    }

    /// DeleteKeyMaterial: the key waits for the same material again. When this returns, no use of
    /// the key is under way any more.
    ///
    /// # Errors
    /// The published refusals.
    pub fn delete_key_material(&self, caller: &Caller, key_id: &str) -> Result<(), KmsError> {
        self.call(caller, Action::DeleteKeyMaterial, |call| {
            let _changes = self.lock_changes();
            let key = self.resolve(call, key_id)?;
            state::check(call.action, key.state)?;
            check_origin(&key)?;
            let operations = self.without_material(key)?;
            self.commit(call, &operations)
        })?;
        self.uses.wait_for(key_id);
        Ok(())
    }

    /// The operations that destroy the material of a key. One that waits for its deletion goes on
    /// doing so.
    pub(super) fn without_material(&self, key: KeyRecord) -> Result<Vec<Operation>, KmsError> {
        let mut version = self.version_of(&key, &key.primary_version)?;
        version.wrapped_material = self.store(&version)?.forget(&version)?;
        let state = match key.state {
            KeyState::PendingDeletion => KeyState::PendingDeletion,
            _ => KeyState::PendingImport,
        };
        let empty = KeyRecord { state, has_material: false, material_expires: None, ..key };
        Ok(vec![Operation::UpdateKeyVersion(version), Operation::UpdateKey(empty)])
    }

    fn expiry(&self, seconds: i64) -> Result<Option<Timestamp>, KmsError> {
        const NAME: &str = "KeyMaterialExpireUnix";
        match seconds {
            0 => Ok(None),
            1..=EXPIRY_SECONDS_MAX if seconds >= self.clock.now().unix_seconds() => {
                Ok(Some(Timestamp::from_unix_millis(seconds * 1000)))
            }
            _ => Err(KmsError::InvalidParameter(NAME)),
        }
    }

    fn seal_token(
        &self,
        key_id: &str,
        wrapping: u8,
        expires: Timestamp,
        private: &Secret,
    ) -> Vec<u8> {
        let mut token = vec![FORMAT, wrapping];
        token.extend_from_slice(&expires.unix_millis().to_be_bytes());
        let data = [LABEL, &token, key_id.as_bytes()].concat();
        let iv = self.fresh_iv();
        token.extend_from_slice(&iv);
        token.extend_from_slice(&aead::seal(&self.token_key, iv, &data, private.expose()));
        token
    }

    /// How material was wrapped, and the key that unwraps it.
    fn open_token(&self, key_id: &str, token: &[u8]) -> Result<(Padding, Secret), KmsError> {
        let invalid = || KmsError::InvalidImportToken;
        let (header, rest) = token.split_at_checked(HEADER_BYTES).ok_or_else(invalid)?;
        let (iv, sealed) = rest.split_first_chunk().ok_or_else(invalid)?;
        let data = [LABEL, header, key_id.as_bytes()].concat();
        let private = aead::open(&self.token_key, *iv, &data, sealed).map_err(|_| invalid())?;
        // From here on the token is known to be one of ours, for this key.
        let (expires, _) = header[2..].split_first_chunk().ok_or_else(invalid)?;
        if Timestamp::from_unix_millis(i64::from_be_bytes(*expires)) <= self.clock.now() {
            return Err(KmsError::ExpiredImportToken);
        }
        let row = WRAPPINGS.iter().find(|(_, number, _)| header[..2] == [FORMAT, *number]);
        let (.., padding) = row.ok_or_else(invalid)?;
        Ok((*padding, private))
    }
}

fn check_origin(key: &KeyRecord) -> Result<(), KmsError> {
    if key.origin == EXTERNAL { Ok(()) } else { Err(KmsError::UnsupportedOrigin) }
}
