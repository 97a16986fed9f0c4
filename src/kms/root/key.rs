//! A root key at hand: its name, and what it seals.

use super::RootError;
use crate::clock::Entropy;
use crate::crypto::kdf::hkdf_sha256;
use crate::crypto::{aead, mac};
use crate::secret::Secret;

/// Bytes of a root key, and of the sealing key.
pub(super) const KEY_BYTES: usize = 32;

const ID_LABEL: &[u8] = b"sealdisk/root-key-id/v1";
const SEAL_LABEL: &[u8] = b"sealdisk/root-seal/v1";

/// A root key. It seals one secret, the sealing key, and nothing else: so a token that never gives
/// its key away can stand here too, and is asked once a start.
pub trait RootKey: Send + Sync {
    /// Names the key without telling it.
    fn id(&self) -> &str;

    /// Seals `sealing_key`.
    ///
    /// # Errors
    /// A token's; a key in memory has none.
    fn seal(&self, sealing_key: &Secret, entropy: &dyn Entropy) -> Result<Vec<u8>, RootError>;

    /// Opens what [`RootKey::seal`] made.
    ///
    /// # Errors
    /// [`RootError::Corrupt`] if it was not made by this key, or was changed.
    fn open(&self, sealed: &[u8]) -> Result<Secret, RootError>;
}

/// A root key in the daemon's own memory.
pub struct SoftwareKey {
    key: Secret,
    id: String,
}

impl SoftwareKey {
    /// The root key with these bytes.
    pub fn new(key: Secret) -> Self {
        let hash = mac::hmac_sha256(&key, &[ID_LABEL]);
        let id = hash[..16].iter().flat_map(|byte| [byte >> 4, byte & 15]).map(digit).collect();
        Self { key, id }
    }
}

impl RootKey for SoftwareKey {
    fn id(&self) -> &str {
        &self.id
    }

    fn seal(&self, sealing_key: &Secret, entropy: &dyn Entropy) -> Result<Vec<u8>, RootError> {
        let mut iv = [0; aead::IV_BYTES];
        entropy.fill(&mut iv);
        let key = hkdf_sha256(&self.key, SEAL_LABEL, 32);
        let sealed = aead::seal(&key, iv, SEAL_LABEL, sealing_key.expose());
        Ok([&iv[..], &sealed].concat())
    }

    fn open(&self, sealed: &[u8]) -> Result<Secret, RootError> {
        let (iv, sealed) = sealed.split_first_chunk().ok_or(RootError::Corrupt)?;
        let key = hkdf_sha256(&self.key, SEAL_LABEL, 32);
        let opened = aead::open(&key, *iv, SEAL_LABEL, sealed).map_err(|_| RootError::Corrupt)?;
        if opened.len() == KEY_BYTES { Ok(opened) } else { Err(RootError::Corrupt) }
    }
}

/// A key as 64 hexadecimal digits and a line end, in secret memory.
pub(super) fn to_hex(key: &Secret) -> Secret {
    Secret::from_fn(KEY_BYTES * 2 + 1, |text| {
        for (pair, byte) in text.chunks_exact_mut(2).zip(key.expose()) {
            pair[0] = digit(byte >> 4) as u8;
            pair[1] = digit(byte & 15) as u8;
        }
        text[KEY_BYTES * 2] = b'\n';
    })
}

/// The key that [`to_hex`] wrote; the line end may be missing.
pub(super) fn from_hex(text: &[u8]) -> Option<Secret> {
    let digits = text.strip_suffix(b"\n").unwrap_or(text);
    if digits.len() != KEY_BYTES * 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    Some(Secret::from_fn(KEY_BYTES, |key| {
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
        }
    }))
}

fn digit(value: u8) -> char {
    char::from(match value {
        0..=9 => b'0' + value,
        _ => b'a' + value - 10,
    })
}

const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]
mod tests {
    use super::*;
    use crate::clock::SeededEntropy;

    #[test]
    fn another_key_or_another_byte_opens_nothing() {
        let entropy = SeededEntropy::new(1);
        let (one, other) = (Secret::random(32, &entropy), Secret::random(32, &entropy));
        let (one, other) = (SoftwareKey::new(one), SoftwareKey::new(other));
        assert_ne!(one.id(), other.id());
        let sealing = Secret::random(32, &entropy);
        let sealed = one.seal(&sealing, &entropy).unwrap();
        assert!(one.open(&sealed).unwrap() == sealing);
        assert!(other.open(&sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(one.open(&changed).is_err(), "byte {at}");
            assert!(one.open(&sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_key_reads_back_from_its_digits() {
        let key = Secret::random(32, &SeededEntropy::new(2));
        let text = to_hex(&key);
        assert!(from_hex(text.expose()).unwrap() == key);
        assert!(from_hex(&text.expose()[..64]).unwrap() == key);
        assert!(from_hex(&text.expose().to_ascii_uppercase()).unwrap() == key);
        assert!(from_hex(&text.expose()[..63]).is_none());
    }
}
