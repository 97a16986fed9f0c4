//! Key material in the catalog: sealed, bound to its key and version.
//!
//! ```text
//! format, 1 | initialisation vector, 12 | ciphertext, 32 | tag, 16
//! ```
//!
//! Associated data: `sealdisk-kms/material/v1`, then key id and version id, each after its length.

use super::{Kms, KmsError};
use crate::catalog::KeyVersionRecord;
use crate::crypto::aead;
use crate::secret::Secret;

/// Bytes of an AES-256 key.
pub(super) const MATERIAL_BYTES: usize = 32;

const LABEL: &[u8] = b"sealdisk-kms/material/v1";
const FORMAT: u8 = 1;

impl Kms {
    pub(super) fn wrap(&self, key_id: &str, version_id: &str, material: &Secret) -> Vec<u8> {
        let iv = self.fresh_iv();
        let data = associated_data(key_id, version_id);
        let sealed = aead::seal(&self.material_key, iv, &data, material.expose());
        [&[FORMAT][..], &iv, &sealed].concat()
    }

    pub(super) fn unwrap(&self, version: &KeyVersionRecord) -> Result<Secret, KmsError> {
        let damaged = || KmsError::DamagedMaterial { version_id: version.version_id.clone() };
        let stored = version.wrapped_material.strip_prefix(&[FORMAT]).ok_or_else(damaged)?;
        let (iv, sealed) = stored.split_first_chunk::<12>().ok_or_else(damaged)?;
        let data = associated_data(&version.key_id, &version.version_id);
        let material = aead::open(&self.material_key, *iv, &data, sealed).map_err(|_| damaged())?;
        if material.len() == MATERIAL_BYTES { Ok(material) } else { Err(damaged()) }
    }

    pub(super) fn fresh_iv(&self) -> [u8; 12] {
        let mut iv = [0; 12];
        self.entropy.fill(&mut iv);
        iv
    }
}

fn associated_data(key_id: &str, version_id: &str) -> Vec<u8> {
    let mut data = LABEL.to_vec();
    for id in [key_id, version_id] {
        data.extend_from_slice(&(id.len() as u64).to_be_bytes());
        data.extend_from_slice(id.as_bytes());
    }
    data
}
