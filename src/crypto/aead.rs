//! AES-256-GCM (SP 800-38D) for wrapped keys and sealed records.
//!
//! The caller chooses the 96-bit initialisation vector and answers for its uniqueness under a key.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use thiserror::Error;

use super::stack::with_wiped_stack;
use crate::secret::Secret;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Bytes of an initialisation vector.
pub const IV_BYTES: usize = 12;
/// Bytes of the tag that follows the ciphertext.
pub const TAG_BYTES: usize = 16;

/// Why a ciphertext was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AeadError {
    /// It is shorter than a tag: cut off, or not a ciphertext at all.
    #[error("the ciphertext has {have} bytes, less than its tag of {TAG_BYTES}")]
    Truncated {
        /// Bytes that were given.
        have: usize,
    },
    /// The key, the initialisation vector, the associated data or the ciphertext is another one.
    #[error("the ciphertext does not belong to this key and associated data")]
    NotAuthentic,
}

/// Encrypts `plain`: ciphertext, then tag. `aad` is bound but not stored.
///
/// # Panics
/// If `key` has not [`KEY_BYTES`]; callers make or unwrap keys of that length only.
pub fn seal(key: &Secret, iv: [u8; IV_BYTES], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    // Room for the tag from the start: a buffer that grows would leave plaintext behind.
    let mut sealed = Vec::with_capacity(plain.len() + TAG_BYTES);
    sealed.extend_from_slice(plain);
    with_wiped_stack(|| {
        let nonce = Nonce::assume_unique_for_key(iv);
        let done = expand(key).seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed);
        done.expect("AES-GCM refuses only messages above 64 GiB");
    });
    sealed
}

/// Decrypts what [`seal`] made, straight into a [`Secret`].
///
/// # Errors
/// Something else than that ciphertext, under that key, with that associated data.
///
/// # Panics
/// If `key` has not [`KEY_BYTES`], or the plaintext is larger than a [`Secret`] can be.
pub fn open(
    key: &Secret,
    iv: [u8; IV_BYTES],
    aad: &[u8],
    ct_and_tag: &[u8],
) -> Result<Secret, AeadError> {
    let have = ct_and_tag.len();
    let plain_len = have.checked_sub(TAG_BYTES).ok_or(AeadError::Truncated { have })?;
    let (ciphertext, tag) = ct_and_tag.split_at(plain_len);
    let mut plain = Secret::zeroed(plain_len);
    with_wiped_stack(|| {
        let nonce = Nonce::assume_unique_for_key(iv);
        let out = plain.expose_mut();
        expand(key).open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, out)
    })
    .map_err(|_| AeadError::NotAuthentic)?;
    Ok(plain)
}

fn expand(key: &Secret) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, key.expose());
    LessSafeKey::new(key.expect("an AES-256-GCM key has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Secret {
        Secret::from_fn(KEY_BYTES, |bytes| bytes.fill(byte))
    }

    #[test]
    fn opens_what_it_sealed() {
        for len in [0, 1, 16, 64, 5000] {
            let plain: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let sealed = seal(&key(1), [9; 12], b"context", &plain);
            assert_eq!(sealed.len(), len + TAG_BYTES);
            assert_eq!(open(&key(1), [9; 12], b"context", &sealed).unwrap().expose(), plain);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let sealed = seal(&key(1), [9; 12], b"context", b"data key");
        for bit in 0..sealed.len() * 8 {
            let mut forged = sealed.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let refused = open(&key(1), [9; 12], b"context", &forged);
            assert_eq!(refused.err(), Some(AeadError::NotAuthentic));
        }
    }

    #[test]
    fn other_key_vector_or_context_is_noticed() {
        let sealed = seal(&key(1), [9; 12], b"context", b"data key");
        let refused = Some(AeadError::NotAuthentic);
        assert_eq!(open(&key(2), [9; 12], b"context", &sealed).err(), refused);
        assert_eq!(open(&key(1), [8; 12], b"context", &sealed).err(), refused);
        assert_eq!(open(&key(1), [9; 12], b"contexT", &sealed).err(), refused);
        assert_eq!(open(&key(1), [9; 12], b"", &sealed).err(), refused);
        let short = open(&key(1), [9; 12], b"context", &sealed[..15]);
        assert_eq!(short.err(), Some(AeadError::Truncated { have: 15 }));
    }
}
