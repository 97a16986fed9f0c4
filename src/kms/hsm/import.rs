//! Bring your own key into a token: unwrapped there, never in clear here.
//!
//! Each GetParametersForImport makes a pair in the token. The import token names its private half;
//! with the import the pair is destroyed, so a token is good for one. What nobody comes back for is
//! destroyed after its expiry, which its label tells.

use super::super::{Kms, KmsError};
use super::{HsmStore, PREFIX, Reference, label};
use crate::catalog::KeyVersionRecord;
use crate::clock::Timestamp;
use crate::crypto::asymmetric::Padding;
use crate::secret::Secret;
use crate::token::{ID_BYTES, ImportPair, OaepHash, PairBits, TokenState};

/// The published name of wrapping keys, and our own beyond it.
const SPECS: [(&str, PairBits); 3] =
    [("RSA_2048", PairBits::B2048), ("RSA_3072", PairBits::B3072), ("RSA_4096", PairBits::B4096)];

/// What an import token says of a pair in a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct PairReference {
    pub(in super::super) id: [u8; ID_BYTES],
    pub(in super::super) hash: OaepHash,
}

impl PairReference {
    /// What an import token holds; `None` if it was made for material that is kept in the catalog.
    pub(in super::super) fn of(held: &Secret, padding: Padding) -> Option<Self> {
        let id = held.expose().try_into().ok()?;
        let hash = [OaepHash::Sha256, OaepHash::Sha1].into_iter();
        let hash = hash.into_iter().find(|hash| hash.padding() == padding)?;
        Some(Self { id, hash })
    }
}

impl HsmStore {
    /// A pair for one import.
    ///
    /// # Errors
    /// [`KmsError::InvalidParameter`] for a wrapping that the token does not do.
    pub(in super::super) fn import_pair(
        &self,
        key_id: &str,
        (wrapping, spec): (&str, &str),
        expires: Timestamp,
    ) -> Result<ImportPair, KmsError> {
        let row = SPECS.iter().find(|(name, _)| *name == spec);
        let (_, bits) = row.ok_or(KmsError::InvalidParameter("WrappingKeySpec"))?;
        let wanted = match wrapping {
            "RSAES_OAEP_SHA_256" => OaepHash::Sha256,
            "RSAES_OAEP_SHA_1" => OaepHash::Sha1,
            _ => return Err(KmsError::InvalidParameter("WrappingAlgorithm")),
        };
        let named = format!("{PREFIX}{key_id}/import/{}", expires.unix_seconds());
        let pair = self.token().import_pair(*bits, &named)?;
        if pair.hash != wanted {
            // SHA-1 only where there is nothing else; and never another than was asked for.
            self.token().doom(pair.id);
            return Err(KmsError::WrappingOfToken { hash: pair.hash });
        }
        Ok(pair)
    }

    /// Unwraps material in the token: the version as it is after that. The pair is destroyed.
    ///
    /// # Errors
    /// [`KmsError::InvalidKeyMaterial`], [`KmsError::InvalidImportToken`] for a pair that was used.
    pub(in super::super) fn import_wrapped(
        &self,
        version: &KeyVersionRecord,
        pair: PairReference,
        wrapped: &[u8],
    ) -> Result<Vec<u8>, KmsError> {
        let known = Reference::read(&version.wrapped_material).map(|known| known.object.check);
        if !self.token().has_private_key(pair.id)? {
            return Err(KmsError::InvalidImportToken);
        }
        let named = label(&version.key_id, 1);
        let made = self.token().import((pair.id, pair.hash), wrapped, &named, known)?;
        let object = made.ok_or(KmsError::InvalidKeyMaterial)?;
        if self.token().destroy(pair.id).is_err() {
            self.token().doom(pair.id);
        }
        Ok(Reference { object, is_present: true }.written())
    }

    /// Destroys pairs whose time is over.
    pub(in super::super) fn sweep_pairs(&self, now: Timestamp) -> Result<usize, KmsError> {
        if !matches!(self.token().state(), TokenState::Up { .. }) {
            return Ok(0);
        }
        let mut swept = 0;
        for (id, label) in self.token().private_keys(PREFIX)? {
            let expires = label.rsplit_once("/import/").and_then(|(_, at)| at.parse::<i64>().ok());
            if expires.is_some_and(|expires| expires <= now.unix_seconds()) {
                self.token().destroy(id)?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

impl Kms {
    /// The token that has, or will have, the material of `version`.
    pub(in super::super) fn hsm_of(&self, version: &KeyVersionRecord) -> Option<&HsmStore> {
        use super::super::material::MaterialStore;
        self.hsms.iter().find(|store| store.name() == version.store).map(AsRef::as_ref)
    }
}
