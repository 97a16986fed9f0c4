//! Ed25519 signatures (RFC 8032): what is signed here can be checked by who has no secret of ours.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::stack::with_wiped_stack;
use crate::secret::Secret;

/// Bytes of the seed that a key pair comes from.
pub const SEED_BYTES: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// What a public key is written with in front, so that nobody takes it for another kind.
const PREFIX: &str = "ed25519:";

/// Checks signatures. No secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// A text is no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no public key; one reads ed25519: and 44 characters of base64")]
pub struct PublicKeyError;

/// Makes signatures. Only the seed is kept, in secret memory; the pair is made for each use.
pub struct SigningKey {
    seed: Secret,
    public: PublicKey,
}

impl SigningKey {
    /// The key pair of this seed.
    ///
    /// # Panics
    /// If `seed` has not [`SEED_BYTES`]; callers derive seeds of that length only.
    pub fn new(seed: Secret) -> Self {
        let public = with_wiped_stack(|| {
            let pair = pair_of(&seed);
            PublicKey(pair.public_key().as_ref().try_into().expect("32 bytes by RFC 8032"))
        });
        Self { seed, public }
    }

    /// What checks the signatures of this key.
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        with_wiped_stack(|| {
            let signature = pair_of(&self.seed).sign(message);
            signature.as_ref().try_into().expect("64 bytes by RFC 8032")
        })
    }
}

fn pair_of(seed: &Secret) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(seed.expose()).expect("a seed is any 32 bytes")
}

impl PublicKey {
    /// Whether `signature` was made over `message` by the key pair of this key.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

/// `ed25519:` and the key in base64.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", STANDARD.encode(self.0))
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(PublicKeyError)?;
        let bytes = STANDARD.decode(digits).map_err(|_| PublicKeyError)?;
        bytes.try_into().map(Self).map_err(|_| PublicKeyError)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]
mod tests {
    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn signature_of_rfc_8032_test_2() {
        let seed = unhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
        let key = SigningKey::new(Secret::from_fn(32, |bytes| bytes.copy_from_slice(&seed)));
        let public = unhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        assert_eq!(key.public().0.as_slice(), public);
        let signature = key.sign(&[0x72]);
        assert_eq!(
            signature.as_slice(),
            unhex(
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
                 085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
            )
        );
        assert!(key.public().verifies(&[0x72], &signature));
        assert!(!key.public().verifies(&[0x73], &signature));
        assert!(!key.public().verifies(&[0x72], &signature[1..]));
    }

    #[test]
    fn a_public_key_reads_back_what_it_prints() {
        let public = SigningKey::new(Secret::zeroed(32)).public();
        assert_eq!(format!("{public}\n").parse(), Ok(public));
        for text in ["", "ed25519:", "ed25519:AAAA", &public.to_string()[8..]] {
            assert_eq!(text.parse::<PublicKey>(), Err(PublicKeyError), "{text}");
        }
    }
}
