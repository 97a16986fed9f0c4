//! Key versions whose material is in a token: one object each, which never leaves it.
//!
//! The object comes first, then the version's row; so what is left by a crash in between is an
//! object without a row, an *orphan*. Where a row goes, its object goes within the same
//! transaction, just before it is committed: a crash in between leaves a row whose object is gone,
//! and the next try finds that it is.
//!
//! An object that is not found makes its key unavailable. Nothing here ever takes a row away for
//! that.

use std::sync::Arc;

use super::KmsError;
use super::material::{Made, MaterialStore, NewVersion};
use super::spec::KeySpec;
use crate::catalog::KeyVersionRecord;
use crate::crypto::aead;
use crate::crypto::asymmetric::{Padding, Signing};
use crate::secret::Secret;
use crate::token::{Sealed, Token, TokenError, TokenState};

mod change;
mod event;
mod import;
mod orphans;
mod reference;

pub use event::hsm_event;
pub(super) use import::PairReference;
pub use orphans::{Orphan, TokenReport};
pub(super) use reference::Reference;

/// `ProtectionLevel` of keys in a token.
pub(super) const HSM: &str = "HSM";

/// What begins the label of every object of ours.
const PREFIX: &str = "acs/";

/// A configured token, as a store of material.
pub(super) struct HsmStore {
    /// `hsm:` and the token's configured name.
    name: String,
    token: Arc<Token>,
}

impl HsmStore {
    pub(super) fn new(token: Arc<Token>) -> Self {
        Self { name: format!("hsm:{}", token.name()), token }
    }

    pub(super) fn token(&self) -> &Token {
        &self.token
    }

    /// The id of its KMS instance.
    pub(super) fn instance_id(&self) -> String {
        format!("kst-{}", self.token.name())
    }

    /// The object of a version that has one.
    fn object(&self, version: &KeyVersionRecord) -> Result<Reference, KmsError> {
        let reference = Reference::read(&version.wrapped_material);
        let reference = reference.filter(|reference| reference.is_present);
        reference
            .ok_or_else(|| KmsError::DamagedMaterial { version_id: version.version_id.clone() })
    }
}

/// `acs/<key id>/v<number>`.
fn label(key_id: &str, number: u64) -> String {
    format!("{PREFIX}{key_id}/v{number}")
}

impl MaterialStore for HsmStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn level(&self) -> &'static str {
        HSM
    }

    fn is_ready(&self) -> bool {
        matches!(self.token.state(), TokenState::Up { .. })
    }

    fn generate(&self, spec: KeySpec, new: &NewVersion<'_>) -> Result<Made, KmsError> {
        if !spec.is_symmetric() {
            return Err(KmsError::UnsupportedProtectionLevel);
        }
        let object = self.token.generate(&label(new.key_id, new.number))?;
        let wrapped = Reference { object, is_present: true }.written();
        Ok(Made { wrapped, public_key: None })
    }

    fn import(&self, _: &KeyVersionRecord, _: &Secret) -> Result<Vec<u8>, KmsError> {
        // Material comes into a token wrapped, by `Kms::import_into_token`, or not at all.
        Err(KmsError::UnsupportedOperation)
    }

    fn forget(&self, version: &KeyVersionRecord) -> Result<Vec<u8>, KmsError> {
        let Some(reference) = Reference::read(&version.wrapped_material) else {
            return Ok(version.wrapped_material.clone());
        };
        Ok(Reference { is_present: false, ..reference }.written())
    }

    fn destroy(&self, version: &KeyVersionRecord) -> Result<(), KmsError> {
        match Reference::read(&version.wrapped_material) {
            Some(Reference { object, is_present: true }) => Ok(self.token.destroy(object.id)?),
            _ => Ok(()),
        }
    }

    fn discard(&self, version: &KeyVersionRecord) {
        if let Some(reference) = Reference::read(&version.wrapped_material) {
            self.token.doom(reference.object.id);
        }
    }

    fn seal(
        &self,
        version: &KeyVersionRecord,
        data: &[u8],
        plain: &[u8],
    ) -> Result<Sealed, KmsError> {
        Ok(self.token.seal(&self.object(version)?.object, data, plain)?)
    }

    fn open(
        &self,
        version: &KeyVersionRecord,
        iv: [u8; aead::IV_BYTES],
        data: &[u8],
        sealed: &[u8],
    ) -> Result<Option<Secret>, KmsError> {
        Ok(self.token.open_sealed(&self.object(version)?.object, iv, data, sealed)?)
    }

    fn sign(&self, _: &KeyVersionRecord, _: Signing, _: &[u8]) -> Result<Vec<u8>, KmsError> {
        Err(KmsError::UnsupportedAction)
    }

    fn decrypt(
        &self,
        _: &KeyVersionRecord,
        _: Padding,
        _: &[u8],
    ) -> Result<Option<Secret>, KmsError> {
        Err(KmsError::UnsupportedAction)
    }
}

impl From<TokenError> for KmsError {
    fn from(error: TokenError) -> Self {
        Self::Hsm { error, is_of_instance: false }
    }
}
