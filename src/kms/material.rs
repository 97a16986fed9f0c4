//! Key material: where it is, and what is done with it there.
//!
//! A key version names its store. `hsm/` has those whose material is in a token. The one here,
//! `software`, keeps material in the catalog, sealed, bound to its key and version, and unwraps it
//! for one use at a time:
//!
//! ```text
//! kind, 1 | initialisation vector, 12 | ciphertext | tag, 16
//! ```
//!
//! | kind | ciphertext | label of the associated data |
//! |---|---|---|
//! | 1 | the material: 32 bytes of AES, or PKCS #8 of a key pair | `sealdisk-kms/material/v1` |
//! | 2 | what is left of imported material that was destroyed: its mark | `sealdisk-kms/mark/v1` |
//!
//! Associated data: the label, then key id and version id, each after its length. The *mark* is
//! HMAC-SHA-256 of the key id under the material: it tells the same material when it is imported
//! again, and nothing else. No bytes at all: material that was never imported.

use std::sync::Arc;

use super::spec::KeySpec;
use super::{Kms, KmsError};
use crate::catalog::KeyVersionRecord;
use crate::clock::Entropy;
use crate::crypto::asymmetric::{self, Padding, Signing};
use crate::crypto::{aead, mac};
use crate::secret::Secret;
use crate::token::Sealed;

/// Bytes of an AES-256 key.
pub(super) const MATERIAL_BYTES: usize = 32;

/// [`KeyVersionRecord::store`] of material that is kept in the catalog.
pub(super) const SOFTWARE: &str = "software";

/// `ProtectionLevel` of keys whose material is in the catalog.
pub(super) const SOFTWARE_LEVEL: &str = "SOFTWARE";

const MATERIAL: u8 = 1;
const MARK: u8 = 2;

/// What a store has made for a new key version.
pub(super) struct Made {
    /// For [`KeyVersionRecord::wrapped_material`].
    pub(super) wrapped: Vec<u8>,
    /// X.509 SubjectPublicKeyInfo of a key pair.
    pub(super) public_key: Option<Vec<u8>>,
}

/// A version that is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewVersion<'a> {
    pub(super) key_id: &'a str,
    pub(super) version_id: &'a str,
    /// Among the versions of the key, from 1.
    pub(super) number: u64,
}

/// A place where material is. Whatever the place, the same inputs give the same bytes.
///
/// A version whose material cannot be used is [`KmsError::DamagedMaterial`].
pub(super) trait MaterialStore: Send + Sync {
    /// Its name in [`KeyVersionRecord::store`].
    fn name(&self) -> &str;

    /// `ProtectionLevel` of its keys.
    fn level(&self) -> &'static str;

    /// Whether it can be used now, as far as is known.
    fn is_ready(&self) -> bool {
        true
    }

    /// Fresh material for a new version.
    fn generate(&self, spec: KeySpec, new: &NewVersion<'_>) -> Result<Made, KmsError>;

    /// Takes imported material of an AES key: the new [`KeyVersionRecord::wrapped_material`].
    ///
    /// # Errors
    /// [`KmsError::InvalidKeyMaterial`] if the version ever had other material.
    fn import(&self, version: &KeyVersionRecord, material: &Secret) -> Result<Vec<u8>, KmsError>;

    /// Destroys imported material, and keeps what [`MaterialStore::import`] needs to know it again:
    /// the new [`KeyVersionRecord::wrapped_material`].
    fn forget(&self, version: &KeyVersionRecord) -> Result<Vec<u8>, KmsError>;

    /// Destroys what is kept outside the catalog for a version that will not be there any more.
    /// What is gone already is fine.
    fn destroy(&self, _: &KeyVersionRecord) -> Result<(), KmsError> {
        Ok(())
    }

    /// The version never came to be: destroys what was made for it, sooner or later.
    fn discard(&self, _: &KeyVersionRecord) {}

    /// AES-256-GCM under a fresh vector.
    fn seal(
        &self,
        version: &KeyVersionRecord,
        data: &[u8],
        plain: &[u8],
    ) -> Result<Sealed, KmsError>;

    /// The plaintext of [`MaterialStore::seal`]; `None` if that is not what it is given.
    fn open(
        &self,
        version: &KeyVersionRecord,
        iv: [u8; aead::IV_BYTES],
        data: &[u8],
        sealed: &[u8],
    ) -> Result<Option<Secret>, KmsError>;

    /// A signature of a SHA-256 digest by a key pair.
    fn sign(
        &self,
        version: &KeyVersionRecord,
        signing: Signing,
        digest: &[u8],
    ) -> Result<Vec<u8>, KmsError>;

    /// The plaintext of an RSA ciphertext; `None` if it is not one under this key pair.
    fn decrypt(
        &self,
        version: &KeyVersionRecord,
        padding: Padding,
        ciphertext: &[u8],
    ) -> Result<Option<Secret>, KmsError>;
}

/// Material in the catalog, under a key made of the sealing key.
pub(super) struct SoftwareStore {
    pub(super) material_key: Secret,
    pub(super) entropy: Arc<dyn Entropy>,
}

impl SoftwareStore {
    fn wrap(&self, kind: u8, (key_id, version_id): (&str, &str), bytes: &[u8]) -> Vec<u8> {
        let mut iv = [0; aead::IV_BYTES];
        self.entropy.fill(&mut iv);
        let data = associated_data(kind, key_id, version_id);
        let sealed = aead::seal(&self.material_key, iv, &data, bytes);
        [&[kind][..], &iv, &sealed].concat()
    }

    /// What is stored, and its kind.
    fn unwrap(&self, version: &KeyVersionRecord) -> Result<(u8, Secret), KmsError> {
        let stored = version.wrapped_material.split_first();
        let (kind, rest) = stored.ok_or_else(|| damaged(version))?;
        let (iv, sealed) = rest.split_first_chunk().ok_or_else(|| damaged(version))?;
        let data = associated_data(*kind, &version.key_id, &version.version_id);
        let bytes = aead::open(&self.material_key, *iv, &data, sealed);
        Ok((*kind, bytes.map_err(|_| damaged(version))?))
    }

    fn material(&self, version: &KeyVersionRecord) -> Result<Secret, KmsError> {
        match self.unwrap(version)? {
            (MATERIAL, material) => Ok(material),
            _ => Err(damaged(version)),
        }
    }

    fn aes_key(&self, version: &KeyVersionRecord) -> Result<Secret, KmsError> {
        let material = self.material(version)?;
        if material.len() == MATERIAL_BYTES { Ok(material) } else { Err(damaged(version)) }
    }
}

impl MaterialStore for SoftwareStore {
    fn name(&self) -> &str {
        SOFTWARE
    }

    fn level(&self) -> &'static str {
        SOFTWARE_LEVEL
    }

    fn generate(&self, spec: KeySpec, new: &NewVersion<'_>) -> Result<Made, KmsError> {
        let NewVersion { key_id, version_id, .. } = *new;
        let unmade = |_| KmsError::DamagedMaterial { version_id: version_id.to_owned() };
        let (material, public_key) = match spec {
            KeySpec::Aes256 => (Secret::random(MATERIAL_BYTES, self.entropy.as_ref()), None),
            KeySpec::Pair(kind) => {
                let private = asymmetric::generate(kind).map_err(unmade)?;
                let public = asymmetric::public_key(kind, &private).map_err(unmade)?;
                (private, Some(public))
            }
        };
        let wrapped = self.wrap(MATERIAL, (key_id, version_id), material.expose());
        Ok(Made { wrapped, public_key })
    }

    fn import(&self, version: &KeyVersionRecord, material: &Secret) -> Result<Vec<u8>, KmsError> {
        let is_known = match version.wrapped_material.is_empty() {
            true => true,
            false => match self.unwrap(version)? {
                (MATERIAL, known) => known == *material,
                (_, known) => known == mark(version, material),
            },
        };
        if !is_known {
            return Err(KmsError::InvalidKeyMaterial);
        }
        Ok(self.wrap(MATERIAL, (&version.key_id, &version.version_id), material.expose()))
    }

    fn forget(&self, version: &KeyVersionRecord) -> Result<Vec<u8>, KmsError> {
        if version.wrapped_material.first() != Some(&MATERIAL) {
            return Ok(version.wrapped_material.clone());
        }
        let mark = mark(version, &self.material(version)?);
        Ok(self.wrap(MARK, (&version.key_id, &version.version_id), mark.expose()))
    }

    fn seal(
        &self,
        version: &KeyVersionRecord,
        data: &[u8],
        plain: &[u8],
    ) -> Result<Sealed, KmsError> {
        let mut iv = [0; aead::IV_BYTES];
        self.entropy.fill(&mut iv);
        Ok(Sealed { iv, bytes: aead::seal(&self.aes_key(version)?, iv, data, plain) })
    }

    fn open(
        &self,
        version: &KeyVersionRecord,
        iv: [u8; aead::IV_BYTES],
        data: &[u8],
        sealed: &[u8],
    ) -> Result<Option<Secret>, KmsError> {
        Ok(aead::open(&self.aes_key(version)?, iv, data, sealed).ok())
    }

    fn sign(
        &self,
        version: &KeyVersionRecord,
        signing: Signing,
        digest: &[u8],
    ) -> Result<Vec<u8>, KmsError> {
        let private = self.material(version)?;
        asymmetric::sign(&private, signing, digest).map_err(|_| damaged(version))
    }

    fn decrypt(
        &self,
        version: &KeyVersionRecord,
        padding: Padding,
        ciphertext: &[u8],
    ) -> Result<Option<Secret>, KmsError> {
        match asymmetric::decrypt(&self.material(version)?, padding, ciphertext) {
            Ok(plain) => Ok(Some(plain)),
            Err(asymmetric::AsymmetricError::Input) => Ok(None),
            Err(asymmetric::AsymmetricError::Key) => Err(damaged(version)),
        }
    }
}

impl Kms {
    /// The store that has the material of `version`.
    ///
    /// # Errors
    /// [`KmsError::StoreMissing`] if this daemon was started without it.
    pub(super) fn store(&self, version: &KeyVersionRecord) -> Result<&dyn MaterialStore, KmsError> {
        let store = self.stores.iter().find(|store| store.name() == version.store);
        let missing = || KmsError::StoreMissing { store: version.store.clone() };
        store.map(AsRef::as_ref).ok_or_else(missing)
    }

    /// The store of new keys that ask for nothing else.
    pub(super) fn default_store(&self) -> &dyn MaterialStore {
        self.stores[0].as_ref()
    }

    /// The store of new keys in this instance, or else of this level.
    ///
    /// # Errors
    /// [`KmsError::InstanceNotFound`], [`KmsError::UnsupportedProtectionLevel`] without a token.
    pub(super) fn store_of_new(
        &self,
        level: Option<&str>,
        instance: Option<&str>,
    ) -> Result<&dyn MaterialStore, KmsError> {
        if let Some(id) = instance {
            // As published, an instance has a level of its own.
            let hsm = self.hsms.iter().find(|store| store.instance_id() == id);
            return match hsm {
                Some(store) => Ok(store.as_ref()),
                None if id == self.instance_id() => Ok(self.default_store()),
                None => Err(KmsError::InstanceNotFound),
            };
        }
        match level {
            None | Some(SOFTWARE_LEVEL) => Ok(self.default_store()),
            Some(super::hsm::HSM) => match self.hsms.first() {
                Some(store) => Ok(store.as_ref()),
                None => Err(KmsError::UnsupportedProtectionLevel),
            },
            Some(_) => Err(KmsError::InvalidParameter("ProtectionLevel")),
        }
    }

    pub(super) fn fresh_iv(&self) -> [u8; aead::IV_BYTES] {
        let mut iv = [0; aead::IV_BYTES];
        self.entropy.fill(&mut iv);
        iv
    }
}

fn damaged(version: &KeyVersionRecord) -> KmsError {
    KmsError::DamagedMaterial { version_id: version.version_id.clone() }
}

fn mark(version: &KeyVersionRecord, material: &Secret) -> Secret {
    let parts = [b"sealdisk-kms/mark/v1", version.key_id.as_bytes()];
    Secret::take(&mut mac::hmac_sha256(material, &parts))
}

fn associated_data(kind: u8, key_id: &str, version_id: &str) -> Vec<u8> {
    let label: &[u8] = match kind {
        MATERIAL => b"sealdisk-kms/material/v1",
        _ => b"sealdisk-kms/mark/v1",
    };
    let mut data = label.to_vec();
    for id in [key_id, version_id] {
        data.extend_from_slice(&(id.len() as u64).to_be_bytes());
        data.extend_from_slice(id.as_bytes());
    }
    data
}
